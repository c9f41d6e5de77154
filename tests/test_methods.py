"""One contract for every recipe of METHODS: shapes, points, errors and metrics as an independent reading has them.

A new method needs one row of method_table.ROWS. One program draws for all methods, another has all errors.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_table import (
    COLUMNS,
    COUPLED,
    FINITE,
    PARAMS,
    ROWS,
    B,
    batch_of,
    drawn_at,
    drawn_by,
    make,
    nets,
    quick_jit,
    with_trajectories,
)

from flowjax import data, guidance, methods, samplers

# For what compiles slowly: one of each form.
FORMS = ("meanflow", "imf", "soflow", "tvm", "lsd", "psd", "cd", "ctm", "freeflow", "fmm", "scm", "cmt")


def test_the_table_of_rows_is_complete():
    assert set(ROWS) == set(methods.METHODS)


def test_what_methods_learn_to_jump():
    for name, row in ROWS.items():
        points = [point for term, point in drawn_by(name).items() if term != "anchor"]
        if row.noise:
            expected = "from noise"
        elif not points:
            expected = "none"
        elif all(point.t is None or (point.t == 0).all() for point in points):
            expected = "to data"
        else:
            few = len(np.unique(points[0].t)) < 10 and len(np.unique(points[0].s - points[0].t)) == 1
            expected = "grid" if few else "any"
        assert methods.METHODS[name].jumps == expected, name


def test_what_methods_read_and_which_sampler_they_have():
    """The fields that configs and guidance read, against what the recipes and the datasets do."""
    for name, info in methods.METHODS.items():
        assert bool(info.trajectory_points) == (name in COUPLED) == bool(info.trajectory_data)
        assert info.copies_jumps == (name == "cmt") and info.one_grid == (name == "pd")
        assert info.learns_jumps == (name != "flow_matching")
        here = name in ("flow_matching", "lmd", "emd") or info.recipe.__module__ == "flowjax.methods.riemannian"
        assert info.any_space == here
        assert {info.sampler, info.few_steps or info.sampler} <= set(samplers.SAMPLERS)
        assert not info.trajectory_points or info.trajectory_data in data.DATASETS
    # Methods with an anchor whose other term takes the velocity of the data, which guidance changes.
    guided = set()
    for name in [name for name, columns in COLUMNS.items() if "anchor" in columns]:
        method = make(name)
        drawn = jax.eval_shape(method.draw, jax.random.key(0), batch_of(name, 24), 0)
        record = lambda nets, point, V_ss=None: guided.add(name) or guidance.Guided(point.v, V_ss)  # noqa: B023
        rule = {term: point for term, point in drawn.items() if term != "anchor"}
        jax.eval_shape(lambda rule: methods.raw_errors(method, nets().replace(guide=record), rule), rule)  # noqa: B023
    assert guided == {name for name in ROWS if methods.METHODS[name].guided_rule}


def test_terms_and_needs():
    for name, row in ROWS.items():
        method = make(name)
        assert {term.name: term.columns for term in method.terms} == COLUMNS[name]
        assert dict(method.needs) == row.needs
        assert tuple(method.needs) == methods.METHODS[name].needs
        assert methods.rows_multiple(method) == np.lcm.reduce([n for _, _, n in COLUMNS[name].values()])


def test_draws_are_functions_of_the_key():
    one, other = drawn_at(), drawn_at(seed=1)
    drawn_at.cache_clear()
    chex.assert_trees_all_equal(one, drawn_at())
    for name, columns in COLUMNS.items():
        for term in columns:
            differs = lambda field: (getattr(one[name][term], field) != getattr(other[name][term], field)).mean()  # noqa: B023
            assert name in COUPLED or (differs("x") > 0.99 and differs("eps") > 0.99)
            times = [field for field in "st" if getattr(one[name][term], field) is not None]
            assert (name, term) == ("boot", "anchor") or max(map(differs, times)) > 0.5  # coarse grids draw some times twice


def test_shapes_of_points():
    for name, row in ROWS.items():
        for shape in ((3,), (2, 2, 3)):
            drawn = jax.eval_shape(make(name).draw, jax.random.key(0), batch_of(name, 24, shape), 0)
            assert set(drawn) == set(COLUMNS[name])
            for term, (lo, hi, n) in COLUMNS[name].items():
                point, rows = drawn[term], 24 * (hi - lo) // n
                times = [time for time in (point.s, point.t, point.a) if time is not None]
                assert len(times) == (1 if term == "anchor" else row.times)
                chex.assert_tree_shape_prefix(point, (rows,))
                data = [point.x, point.eps] + ([] if row.noise else [point.v, point.x0])
                chex.assert_shape(data, (rows, *shape))
                chex.assert_shape(times, (rows,) + (1,) * len(shape))
                chex.assert_shape(point.cond["label"], (rows,))


def test_points_are_on_the_path():
    for name, row in ROWS.items():
        for point in drawn_by(name).values():
            chex.assert_type(jax.tree.leaves(point._replace(cond=None)), jnp.float32)
            for time in (point.s, point.t, point.a):
                assert time is None or (time.min() >= 0 and time.max() <= 1)
            if row.noise:  # the points are noise, at s = 1, and nothing of the data is there
                assert point.x0 is None and point.v is None and abs(point.x.std() - 1) < 0.05
                assert abs(np.corrcoef(point.x.ravel(), point.eps.ravel())[0, 1]) < 0.02
                continue
            np.testing.assert_allclose(point.x, (1 - point.s) * point.x0 + point.s * point.eps, atol=1e-6, err_msg=name)
            np.testing.assert_allclose(point.v, point.eps - point.x0, atol=1e-5, err_msg=name)


def test_rows_are_split_as_columns_says_and_keep_the_noise_of_the_batch():
    rows = jnp.arange(24, dtype=jnp.float32)[:, None]
    given = {"x": rows, "label": jnp.arange(24), "eps": -rows}
    made = {name: make(name) for name in FORMS}
    draw = lambda key: {
        name: method.draw(key, with_trajectories(given) if name == "cmt" else given, 0) for name, method in made.items()
    }
    for name, drawn in quick_jit(draw)(jax.random.key(0)).items():
        for term, (lo, hi, n) in COLUMNS[name].items():
            expected = np.arange(24).reshape(-1, n)[:, lo:hi].reshape(-1)
            if ROWS[name].noise:
                np.testing.assert_array_equal(drawn[term].x[:, 0], -expected)
            else:
                np.testing.assert_array_equal(drawn[term].x0[:, 0], expected)
                np.testing.assert_array_equal(drawn[term].eps[:, 0], -expected)
            label = drawn[term].cond["label"]
            np.testing.assert_array_equal(label, np.where(label == -1, -1, expected))


def test_errors_and_metrics_are_those_of_an_independent_reading():
    made = {name: make(name) for name in ROWS}

    @quick_jit
    def computed(drawn):
        return {name: method.loss(nets(), drawn[name]) for name, method in made.items()}

    @quick_jit
    def read(drawn):
        score = lambda name, term: ROWS[name].terms[term][1](nets(), drawn[name][term])
        return {name: {term: score(name, term) for term in row.terms} for name, row in ROWS.items()}

    readings = read(drawn_at())
    for name, (errors, metrics) in computed(drawn_at()).items():
        expected = np.zeros(B)
        chex.assert_shape(errors, (B,))
        chex.assert_tree_all_finite((errors, metrics))
        assert set(metrics) == set(COLUMNS[name])
        for term, (pair, scored) in readings[name].items():
            lo, hi, n = COLUMNS[name][term]
            raw = jnp.mean(scored) if pair is None else jnp.mean((pair.prediction - pair.target) ** 2)
            np.testing.assert_allclose(metrics[term], raw, rtol=FINITE.get(name, 1e-4), err_msg=f"{name}: {term}")
            np.add.at(expected, np.arange(B).reshape(-1, n)[:, lo:hi].reshape(-1), np.asarray(scored))
        np.testing.assert_allclose(errors, expected, rtol=FINITE.get(name, 1e-4), atol=FINITE.get(name, 1e-5), err_msg=name)


def test_one_trace_over_the_steps():
    made, batches = {name: make(name) for name in FORMS}, {name: batch_of(name, 24) for name in FORMS}
    chex.clear_trace_counter()

    @quick_jit
    @chex.assert_max_traces(n=1)
    def step(params, key, batches, step):
        def run(method, batch):
            def loss(params):
                errors, metrics = method.loss(nets(params), method.draw(jax.random.fold_in(key, step), batch, step))
                return jnp.mean(errors), (errors, metrics)

            (value, (errors, metrics)), grads = jax.value_and_grad(loss, has_aux=True)(params)
            return value, jnp.mean(errors), metrics, grads

        return {name: run(method, batches[name]) for name, method in made.items()}

    params = jax.tree.map(jnp.asarray, PARAMS)
    for i in range(3):
        for name, (value, mean, metrics, grads) in step(params, jax.random.key(0), batches, jnp.int32(i)).items():
            chex.assert_tree_all_finite((value, metrics, grads))
            chex.assert_trees_all_equal_shapes_and_dtypes(grads, params)
            np.testing.assert_allclose(value, mean, err_msg=name)
            assert all(abs(g) > 0 for g in jax.tree.leaves(grads)), name


@pytest.mark.slow
def test_an_absent_label_and_bfloat16_data():
    batches = {name: batch_of(name, 24, labels=False) for name in FORMS}
    given = jax.tree.map(lambda x: x.astype(jnp.bfloat16), batches)
    for wide in (False, True):
        with jax.enable_x64(wide):
            made = {name: make(name) for name in FORMS}

            def run(key):
                drawn = {name: method.draw(key, given[name], jnp.int32(0)) for name, method in made.items()}  # noqa: B023
                return {name: (points, made[name].loss(nets(), points)) for name, points in drawn.items()}  # noqa: B023

            results = jax.eval_shape(run, jax.random.key(0)) if wide else quick_jit(run)(jax.random.key(0))
        for name, (drawn, scores) in results.items():
            if not wide:
                chex.assert_tree_all_finite(scores)
            assert all("label" not in point.cond for point in drawn.values())
            assert {leaf.dtype for leaf in jax.tree.leaves(scores)} == {jnp.dtype("float32")}, name
            for point in drawn.values():
                data = [leaf for leaf in (point.x, point.v, point.eps) if leaf is not None]
                assert {leaf.dtype for leaf in data} == {jnp.dtype("bfloat16")}, name
                assert {time.dtype for time in (point.s, point.t, point.a) if time is not None} == {jnp.dtype("float32")}, name


def test_what_a_method_does_not_need_may_be_absent():
    for name, info in methods.METHODS.items():
        absent = {"ema", "frozen", "teacher", "teacher_map", "velocity", "log_variance"} - {*info.needs}
        only = nets().replace(**dict.fromkeys(absent))
        jax.eval_shape(lambda drawn, name=name, only=only: make(name).loss(only, drawn), drawn_by(name))
