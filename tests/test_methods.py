"""One contract for every recipe of METHODS, and what each published recipe promises on top."""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from flowjax import distances, losses, methods, paths, typing

# One batch for nearly all: large enough for the statistics, so that every draw is compiled once.
B = 24_000
# These programs run once or twice: half the compilation is worth a slower program.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
every_method = pytest.mark.parametrize("name", methods.METHODS)
# The columns of each term: (lo, hi, n).
COLUMNS = {
    "flow_matching": {"anchor": (0, 1, 1)},
    "meanflow": {"anchor": (0, 3, 4), "eulerian": (3, 4, 4)},
    "imf": {"anchor": (0, 1, 2), "eulerian": (1, 2, 2)},
    "tvm": {"anchor": (0, 1, 1), "lagrangian": (0, 1, 1)},
    "soflow": {"anchor": (0, 3, 4), "eulerian": (3, 4, 4)},
}
NEEDS = {"tvm": {"ema": 0.99}}
# The published constants, the papers "Recipes"; "sum" and "mean" are over the data axes.
PUBLISHED = {
    "flow_matching": {"times": ("uniform",)},
    "meanflow": {
        "times": ("sorted_pair", ("logit_normal", -0.4, 1.0)),
        "diagonal": "3/4",
        "p": 1.0,
        "c": 0.01,
        "label_drop": 0.1,
        "jvp": "exact",
    },
    "imf": {"times": ("sorted_pair", ("logit_normal", -0.4, 1.0)), "diagonal": "1/2", "p": 1.0, "c": 0.01, "jvp": "exact"},
    "tvm": {
        "times": ("gap_first", -0.8, 1.0, -0.4, 1.0),
        "anchor_times": ("logit_normal", -0.4, 1.0),
        "ema": 0.99,
        "jvp": "exact",
    },
    "soflow": {
        "times": ("two_sided", ("logit_normal", 0.2, 0.8), ("logit_normal", -1.0, 0.8)),
        "anchor_times": ("logit_normal", -0.2, 1.0),
        "diagonal": "3/4",
        "a_start": 0.1,
        "a_end": 0.002,
        "p": 1.0,
        "c": 0.01,
    },
}
REDUCE = {"meanflow": "sum", "imf": "sum", "soflow": "mean"}


def make(name, **hyper):
    return methods.make(name, total_steps=100, **hyper)


def network(params, x, s, t, cond=None):
    h = jnp.tanh(params["w"] * x + s * params["b"] - t)
    if cond and "label" in cond:
        h = h + jnp.sin(cond["label"] * 1.0).reshape((-1,) + (1,) * (x.ndim - 1))
    return h * params["scale"]


PARAMS = {"w": np.float32(0.7), "b": np.float32(0.3), "scale": np.float32(1.2)}


def nets(params=PARAMS):
    ema = {name: 0.9 * value for name, value in PARAMS.items()}
    return typing.Nets(V=functools.partial(network, params), ema=functools.partial(network, ema))


def batch(rows=B, shape=(3,), labels=True, eps=False):
    rng = np.random.default_rng(0)
    made = {"x": jnp.asarray(rng.normal(size=(rows, *shape)), jnp.float32)}
    if labels:
        made["label"] = jnp.arange(rows, dtype=jnp.int32)
    if eps:
        made["eps"] = jnp.asarray(rng.normal(size=(rows, *shape)), jnp.float32)
    return made


@functools.cache
def drawer(name, **hyper):
    return quick_jit(make(name, **hyper).draw)


@functools.cache
def drawn_by(name):
    return drawer(name)(jax.random.key(0), batch(), 0)


def own_pair(term, name, V, W, point):
    """The pair of a term as its recipe wants it scored, from the losses themselves."""
    x, s, t, v, a = point.x, point.s, point.t, point.v, point.a
    if term == "anchor":
        return losses.flow_matching(V, x, s, v)
    if name == "soflow":
        return jax.tree.map(lambda side: side / a, losses.soflow(V, x, s, t, v, a))
    if name == "tvm":
        return losses.terminal_velocity(V, W, x, s, t)
    return {"meanflow": losses.meanflow, "imf": losses.improved_meanflow}[name](V, x, s, t, v)


# The contract


def test_the_tables_of_this_file_are_complete():
    assert set(COLUMNS) == set(PUBLISHED) == set(methods.METHODS)


@every_method
def test_terms_and_needs(name):
    method = make(name)
    assert {term.name: term.columns for term in method.terms} == COLUMNS[name]
    assert dict(method.needs) == NEEDS.get(name, {})
    assert tuple(method.needs) == methods.METHODS[name].needs
    assert methods.rows_multiple(method) == np.lcm.reduce([n for _, _, n in COLUMNS[name].values()])


@every_method
def test_draw_is_a_function_of_the_key(name):
    draw = drawer(name)
    one, again, other = (draw(jax.random.key(seed), batch(), 0) for seed in (0, 0, 1))
    chex.assert_trees_all_equal(one, again)
    for term in COLUMNS[name]:
        for field in ("x", "s", "eps"):
            assert (getattr(one[term], field) != getattr(other[term], field)).mean() > 0.99


@every_method
@pytest.mark.parametrize("shape", [(3,), (2, 2, 3)])
def test_shapes_of_points(name, shape):
    drawn = jax.eval_shape(drawer(name), jax.random.key(0), batch(24, shape), 0)
    assert set(drawn) == set(COLUMNS[name])
    for term, (lo, hi, n) in COLUMNS[name].items():
        point, rows = drawn[term], 24 * (hi - lo) // n
        times = [time for time in (point.s, point.t, point.a) if time is not None]
        assert len(times) == (1 if term == "anchor" else 3 if name == "soflow" else 2)
        chex.assert_tree_shape_prefix(point, (rows,))
        chex.assert_shape([point.x, point.v, point.x0, point.eps], (rows, *shape))
        chex.assert_shape(times, (rows,) + (1,) * len(shape))
        chex.assert_shape(point.cond["label"], (rows,))


@every_method
def test_points_are_on_the_path(name):
    for point in drawn_by(name).values():
        chex.assert_type(jax.tree.leaves(point._replace(cond=None)), jnp.float32)
        np.testing.assert_allclose(point.x, (1 - point.s) * point.x0 + point.s * point.eps, atol=1e-6)
        np.testing.assert_allclose(point.v, point.eps - point.x0, atol=1e-6)


@every_method
def test_rows_are_split_as_columns_says_and_keep_the_noise_of_the_batch(name):
    rows = jnp.arange(24, dtype=jnp.float32)[:, None]
    drawn = drawer(name)(jax.random.key(0), {"x": rows, "label": jnp.arange(24), "eps": -rows}, 0)
    for term, (lo, hi, n) in COLUMNS[name].items():
        expected = np.arange(24).reshape(-1, n)[:, lo:hi].reshape(-1)
        np.testing.assert_array_equal(drawn[term].x0[:, 0], expected)
        np.testing.assert_array_equal(drawn[term].eps[:, 0], -expected)
        label = drawn[term].cond["label"]
        np.testing.assert_array_equal(label, np.where(label == -1, -1, expected))


@every_method
def test_loss_errors_and_metrics(name):
    method, drawn = make(name), drawn_by(name)
    errors, metrics = quick_jit(lambda drawn: method.loss(nets(), drawn))(drawn)
    chex.assert_shape(errors, (B,))
    chex.assert_tree_all_finite((errors, metrics))
    assert set(metrics) == set(COLUMNS[name])
    expected = np.zeros(B)
    for term, (lo, hi, n) in COLUMNS[name].items():
        point = drawn[term]
        V, W = (functools.partial(net, cond=point.cond) for net in (nets().V, nets().ema))
        prediction, target = quick_jit(lambda point: own_pair(term, name, V, W, point))(point)  # noqa: B023
        np.testing.assert_allclose(metrics[term], jnp.mean((prediction - target) ** 2), rtol=1e-5)
        constants = {key: PUBLISHED[name][key] for key in "pc"} if name in REDUCE else {"p": 0.0, "c": 0.0}
        scored = distances.adaptive(prediction, target, reduce=REDUCE.get(name, "mean"), **constants)
        scored = scored * point.a.reshape(-1) if name == "soflow" and term == "eulerian" else scored
        np.add.at(expected, np.arange(B).reshape(-1, n)[:, lo:hi].reshape(-1), np.asarray(scored))
    np.testing.assert_allclose(errors, expected, rtol=1e-5)


@every_method
def test_one_trace_over_the_steps(name):
    method = make(name)
    chex.clear_trace_counter()

    @quick_jit
    @chex.assert_max_traces(n=1)
    def step(params, key, batch, step):
        def loss(params):
            errors, metrics = method.loss(nets(params), method.draw(jax.random.fold_in(key, step), batch, step))
            return jnp.mean(errors), (errors, metrics)

        (value, (errors, metrics)), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return value, jnp.mean(errors), metrics, grads

    params = jax.tree.map(jnp.asarray, PARAMS)
    for i in range(3):
        value, mean, metrics, grads = step(params, jax.random.key(0), batch(24), jnp.int32(i))
        chex.assert_tree_all_finite((value, metrics, grads))
        chex.assert_trees_all_equal_shapes_and_dtypes(grads, params)
        np.testing.assert_allclose(value, mean)
        assert all(abs(g) > 0 for g in jax.tree.leaves(grads))


@every_method
@pytest.mark.parametrize("wide", [False, True])
def test_an_absent_label_and_bfloat16_data(name, wide):
    with jax.enable_x64(wide):
        method, given = make(name), {"x": batch(24)["x"].astype(jnp.bfloat16)}

        def run(key):
            drawn = method.draw(key, given, jnp.int32(0))
            return drawn, method.loss(nets(), drawn)

        if wide:
            drawn, (errors, metrics) = jax.eval_shape(run, jax.random.key(0))
        else:
            drawn, (errors, metrics) = quick_jit(run)(jax.random.key(0))
            chex.assert_tree_all_finite((errors, metrics))
        assert all("label" not in point.cond for point in drawn.values())
        assert {leaf.dtype for leaf in jax.tree.leaves((errors, metrics))} == {jnp.dtype("float32")}
        for point in drawn.values():
            assert {leaf.dtype for leaf in (point.x, point.v, point.eps)} == {jnp.dtype("bfloat16")}
            assert {leaf.dtype for leaf in (point.s, point.t, point.a) if leaf is not None} == {jnp.dtype("float32")}


# Independence of the draws


@every_method
def test_labels_drop_at_their_rate_and_independently_of_split_and_times(name):
    drawn = drawn_by(name)
    dropped = {term: np.asarray(point.cond["label"]) == -1 for term, point in drawn.items()}
    own_rows = len({columns for columns in COLUMNS[name].values()}) > 1
    counts = np.array([[d.sum(), (~d).sum()] for d in dropped.values()])
    rows = counts.sum() if own_rows else counts[0].sum()
    total = counts[:, 0].sum() if own_rows else counts[0, 0]
    assert stats.binomtest(int(total), int(rows), 0.1).pvalue > 0.01
    if own_rows:
        assert stats.chi2_contingency(counts).pvalue > 0.01
    else:
        assert all((d == dropped["anchor"]).all() for d in dropped.values())
    for term, point in drawn.items():
        for time in (point.s, point.t):
            if time is not None:
                quarter = np.digitize(time[:, 0], np.quantile(time[:, 0], [0.25, 0.5, 0.75]))
                assert stats.chi2_contingency(stats.contingency.crosstab(dropped[term], quarter).count).pvalue > 0.01


@every_method
def test_times_noise_and_terms_are_independent(name):
    drawn = drawn_by(name)
    for point in drawn.values():
        assert stats.spearmanr(point.s[:, 0], point.eps[:, 0]).pvalue > 0.01
    if name == "tvm":
        assert stats.spearmanr(drawn["anchor"].s[:, 0], drawn["lagrangian"].s[:, 0]).pvalue > 0.01
        np.testing.assert_array_equal(drawn["anchor"].eps, drawn["lagrangian"].eps)


@pytest.mark.parametrize("name", ["meanflow", "imf"])
def test_diagonal_rows_keep_the_source_time_of_their_pair(name):
    drawn = drawn_by(name)
    assert stats.ks_2samp(drawn["anchor"].s[:, 0], drawn["eulerian"].s[:, 0]).pvalue > 0.01


@pytest.mark.parametrize(("label_drop", "rate"), [(0.0, 0.0), (1.0, 1.0)])
def test_label_drop_at_its_ends(label_drop, rate):
    drawn = drawer("flow_matching", label_drop=label_drop)(jax.random.key(0), batch(24), 0)
    assert np.mean(drawn["anchor"].cond["label"] == -1) == rate


# The recipes


@every_method
def test_default_constants_are_the_published_ones(name):
    parameters = inspect.signature(methods.METHODS[name].recipe).parameters
    assert {key: parameters[key].default for key in PUBLISHED[name]} == PUBLISHED[name]
    assert parameters["path"].default == "linear" and parameters["label_drop"].default == 0.1
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters.values())


def test_needs_are_asked_for():
    with pytest.raises(typing.InputError, match=r"nets\.ema is None"):
        make("tvm").loss(nets()._replace(ema=None), drawn_by("tvm"))
    assert methods.make("tvm", ema=0.5).needs == {"ema": 0.5}


@pytest.mark.parametrize(("step", "a"), [(0, 0.1), (50, (0.1 * 0.002) ** 0.5), (100, 0.002), (500, 0.002)])
def test_schedule_of_soflow(step, a):
    point = drawer("soflow")(jax.random.key(0), batch(), step)["eulerian"]
    np.testing.assert_allclose(point.a, np.full((B // 4, 1), a), rtol=1e-5)


def test_soflow_needs_the_length_of_the_training():
    with pytest.raises(typing.InputError, match=r"total_steps=.*config\.get_ref"):
        methods.make("soflow")
    constant = methods.make("soflow", a_start=0.05, a_end=0.05, diagonal="0")
    np.testing.assert_allclose(quick_jit(constant.draw)(jax.random.key(0), batch(24), 7)["eulerian"].a, 0.05)


@pytest.mark.parametrize("p", [1.0, 0.5])
@pytest.mark.parametrize("step", [0, 70])
def test_error_of_soflow_is_the_published_one(p, step):
    c = 0.03
    method = make("soflow", p=p, c=c, diagonal="0")
    drawn = drawer("soflow", diagonal="0")(jax.random.key(0), batch(24), step)
    point = drawn["eulerian"]
    V = functools.partial(nets().V, cond=point.cond)
    prediction, target = losses.soflow(V, point.x, point.s, point.t, point.v, point.a)
    e, a = np.asarray(jnp.mean((prediction - target) ** 2, axis=1), np.float64), np.asarray(point.a[:, 0], np.float64)
    np.testing.assert_allclose(method.loss(nets(), drawn)[0], a ** (2 * p - 1) * e / (e + c * a**2) ** p, rtol=2e-3)


def _gradients(name, keys, **hyper):
    """Gradients [keys, 3] of the loss in the weights."""
    # p = 0.5: the published p = 1 scores every row about 1, which hides a wrong share.
    method, given = make(name, p=0.5, **hyper), batch(512, labels=False)

    def loss(params, key):
        return jnp.mean(method.loss(nets(params), method.draw(key, given, 0))[0])

    grads = quick_jit(jax.vmap(jax.grad(loss), in_axes=(None, 0)))(PARAMS, keys)
    return np.stack([np.asarray(grads[key], np.float64) for key in sorted(PARAMS)], axis=-1)


@pytest.mark.parametrize(("name", "share"), [("meanflow", 3 / 4), ("imf", 1 / 2)])
def test_the_split_gives_the_weighted_sum_of_both_terms(name, share):
    keys = jax.random.split(jax.random.key(0), 64)
    split, anchor, rest = (_gradients(name, keys, diagonal=diagonal) for diagonal in (PUBLISHED[name]["diagonal"], "1", "0"))
    difference = split - (share * anchor + (1 - share) * rest)
    spread = difference.std(0, ddof=1) / len(keys) ** 0.5
    assert (np.abs(difference.mean(0)) < 4 * spread).all()
    # The test can tell: the two terms differ by far more than the noise.
    assert (np.abs((anchor - rest).mean(0)) > 8 * spread).any()


@pytest.mark.parametrize("name", [name for name in PUBLISHED if "diagonal" in PUBLISHED[name]])
@pytest.mark.parametrize(
    ("diagonal", "term"), [("1", "anchor"), ("0", "eulerian"), ("4/4", "anchor"), (0, "eulerian"), (1.0, "anchor")]
)
def test_all_or_no_rows_on_the_diagonal(name, diagonal, term):
    method = make(name, diagonal=diagonal)
    drawn = jax.eval_shape(method.draw, jax.random.key(0), batch(5), 0)
    assert list(drawn) == [term] == [t.name for t in method.terms]
    errors, metrics = jax.eval_shape(lambda drawn: method.loss(nets(), drawn), drawn)
    chex.assert_shape(errors, (5,))
    assert list(metrics) == [term]
    assert methods.rows_multiple(method) == 1


@pytest.mark.parametrize("name", [name for name in PUBLISHED if "jvp" in PUBLISHED[name]])
def test_derivative_by_name(name):
    drawn = drawn_by(name)
    run = lambda jvp: quick_jit(lambda drawn: make(name, jvp=jvp).loss(nets(), drawn)[1])(drawn)
    exact, forward = run("exact"), run("forward")
    chex.assert_trees_all_equal(exact, run(jax.jvp))
    chex.assert_trees_all_close(exact, run("central"), rtol=1e-3)
    chex.assert_trees_all_close(exact, forward, rtol=1e-2)
    assert any(forward[term] != exact[term] for term in COLUMNS[name])
    with pytest.raises(typing.InputError, match="unknown derivative 'eaxct'"):
        make(name, jvp="eaxct")


@pytest.mark.parametrize("path", ["trigonometric", paths.Path(lambda t: (1 - t) ** 2, lambda t: t)])
def test_another_path(path):
    point = drawer("flow_matching", path=path)(jax.random.key(0), batch(24), 0)["anchor"]
    own = paths.named(path)
    np.testing.assert_allclose(point.x, own.alpha(point.s) * point.x0 + own.sigma(point.s) * point.eps, atol=1e-5)


# Errors


@pytest.mark.parametrize(("wrong", "near"), [("meanflw", "meanflow"), ("Soflow", "soflow"), ("flow-matching", "flow_matching")])
def test_unknown_method_names_the_near_one(wrong, near):
    with pytest.raises(typing.InputError, match=f"'{wrong}'.*did you mean .*{near}") as error:
        methods.make(wrong)
    assert all(name in str(error.value) for name in methods.METHODS)


def test_unknown_method_without_a_near_name():
    with pytest.raises(typing.InputError, match="unknown method 'zzzz'") as error:
        methods.make("zzzz")
    assert "mean" not in str(error.value).replace("meanflow", "")


@every_method
def test_unknown_constant(name):
    with pytest.raises(typing.InputError, match=f"'{name}'.*'lable_drop'.*label_drop"):
        make(name, lable_drop=0.1)


@pytest.mark.parametrize(
    ("name", "hyper", "message"),
    [
        ("meanflow", {"diagonal": "3/2"}, "diagonal is '3/2'"),
        ("meanflow", {"diagonal": "-1/4"}, "diagonal is '-1/4'"),
        ("imf", {"diagonal": "half"}, "diagonal is 'half'"),
        ("soflow", {"diagonal": "1/0"}, "diagonal is '1/0'"),
        ("soflow", {"diagonal": None}, "diagonal is None"),
        ("meanflow", {"path": "liner"}, "unknown path 'liner'"),
        ("tvm", {"label_drop": 1.5}, "label_drop is 1.5"),
        ("tvm", {"times": ("gap_frist",)}, "gap_first"),
        ("flow_matching", {"times": "uniform"}, "a time sampler is a tuple"),
    ],
)
def test_wrong_constants(name, hyper, message):
    with pytest.raises(typing.InputError, match=message):
        make(name, **hyper)


@pytest.mark.parametrize("name", ["meanflow", "imf", "soflow"])
def test_a_batch_that_does_not_split(name):
    with pytest.raises(typing.InputError, match="a batch of 7 rows .* use a multiple of"):
        jax.eval_shape(make(name).draw, jax.random.key(0), batch(7), 0)


@pytest.mark.parametrize(
    ("name", "hyper"),
    [
        ("meanflow", {"times": ("uniform",), "diagonal": "1"}),
        ("meanflow", {"times": ("logit_normal", 0.0, 1.0), "diagonal": "0"}),
        ("flow_matching", {"times": ("uniform_triangle",)}),
    ],
)
def test_a_sampler_of_the_wrong_number_of_times(name, hyper):
    """A sampler of one time where a pair is wanted, or the other way, would draw one time for all rows."""
    with pytest.raises(typing.InputError):
        jax.eval_shape(make(name, **hyper).draw, jax.random.key(0), batch(24), 0)
