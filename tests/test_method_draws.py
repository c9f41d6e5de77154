"""What recipes draw: independent labels, times, noise and terms; and of each method the times and levels that its paper has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_table import (
    COLUMNS,
    PUBLISHED,
    ROWS,
    STEP,
    STEPS,
    B,
    batch,
    batch_of,
    drawn_by,
    karras,
    make,
    mse,
    nets,
    point_of,
    quick_jit,
)
from scipy import special, stats

from flowjax import losses, methods, paths, typing
from flowjax.methods import pairs

# Independence of the draws


def test_labels_drop_at_their_rate_and_independently_of_split_and_times():
    for name in ROWS:
        drawn, rate = drawn_by(name), PUBLISHED[name].get("label_drop", 0.1)
        dropped = {term: np.asarray(point.cond["label"]) == -1 for term, point in drawn.items()}
        if rate == 0:
            assert not any(rows.any() for rows in dropped.values())
            continue
        if name == "shortcut":  # its jumps keep their labels
            assert not dropped.pop("compositional").any()
        split = len(set(COLUMNS[name][term] for term in dropped)) > 1
        counts = np.array([[d.sum(), (~d).sum()] for d in dropped.values()])
        rows = counts.sum() if split else counts[0].sum()
        gone = counts[:, 0].sum() if split else counts[0, 0]
        assert stats.binomtest(int(gone), int(rows), rate).pvalue > 0.01, name
        if split:
            assert stats.chi2_contingency(counts).pvalue > 0.01, name
        else:
            assert all((d == next(iter(dropped.values()))).all() for d in dropped.values()), name
        for term, point in [(term, drawn[term]) for term in dropped]:
            for time in (point.s, point.t):
                if time is not None and np.ptp(time):
                    assert stats.spearmanr(dropped[term], time[:, 0]).pvalue > 0.003, name


def test_times_noise_and_terms_are_independent():
    for name in ROWS:
        for point in drawn_by(name).values():
            for time in (point.s, point.t, point.a):
                if time is not None and np.ptp(time) > 1e-6:
                    assert stats.spearmanr(time[:, 0], point.eps[:, 0]).pvalue > 0.003, name
    tvm = drawn_by("tvm")
    assert stats.spearmanr(tvm["anchor"].s[:, 0], tvm["lagrangian"].s[:, 0]).pvalue > 0.01
    np.testing.assert_array_equal(tvm["anchor"].eps, tvm["lagrangian"].eps)


def test_diagonal_rows_keep_the_source_time_of_their_pair():
    for name in ("meanflow", "imf"):
        drawn = drawn_by(name)
        assert stats.ks_2samp(drawn["anchor"].s[:, 0], drawn["eulerian"].s[:, 0]).pvalue > 0.01


def test_terms_of_decoupled_meanflow_share_labels_but_no_noise():
    drawn = drawn_by("dmf")
    anchor, eulerian = drawn["anchor"], drawn["eulerian"]
    np.testing.assert_array_equal(anchor.x0, eulerian.x0)
    np.testing.assert_array_equal(anchor.cond["label"], eulerian.cond["label"])
    assert stats.spearmanr(anchor.eps[:, 0], eulerian.eps[:, 0]).pvalue > 0.01
    given = batch(8, eps=True)  # a coupling is kept by both
    for point in make("dmf").draw(jax.random.key(0), given, 0).values():
        np.testing.assert_array_equal(point.eps, given["eps"])


def test_label_drop_at_its_ends():
    for rate in (0.0, 1.0):
        drawn = make("flow_matching", label_drop=rate).draw(jax.random.key(0), batch(24), 0)
        assert np.mean(drawn["anchor"].cond["label"] == -1) == rate


# One property of each method


def test_ct_has_the_published_number_of_levels():
    # ceil(sqrt(k / K (151^2 - 4) + 4) - 1) + 1, and the data below the lowest level
    for step, levels in ((0, 3), (STEPS // 2, 108), (STEPS, 152)):
        assert len(np.unique(np.asarray(point_of("ct", step).s))) in range(levels - 2, levels + 1)


def test_neighbours_are_levels_of_the_karras_grid():
    of_ct = int(np.ceil(np.sqrt(STEP / STEPS * (151**2 - 4) + 4) - 1)) + 1
    for name, levels in (("ct", of_ct), ("cd", 40), ("ict", 41)):
        point, grid = point_of(name), karras(levels)
        s, m = (np.asarray(t, np.float64).ravel() for t in (point.s, point.s * (1 - point.a)))
        assert (point.t == 0).all() and (m < s).all()
        index = np.abs(s[:, None] - grid).argmin(1)
        np.testing.assert_allclose(s, grid[index], rtol=1e-4)
        np.testing.assert_allclose(m, grid[index - 1], rtol=2e-3, atol=1e-6)


def test_ict_draws_levels_by_the_mass_of_the_log_normal():
    point, levels = point_of("ict"), 41
    sigma = (0.002 ** (1 / 7) + np.arange(levels) / (levels - 1) * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7
    mass = np.diff(stats.norm.cdf((np.log(sigma) + 1.1) / 2))
    index = np.abs(np.asarray(point.s, np.float64) - sigma / (1 + sigma)).argmin(1)
    counts = np.bincount(index, minlength=levels)[1:]
    many = mass * B / mass.sum() > 5
    expected = mass[many] / mass[many].sum() * counts[many].sum()
    assert stats.chisquare(counts[many], expected).pvalue > 0.01


def test_ect_brings_neighbours_together_in_stages():
    for step in (0, STEP, STEPS, 5 * STEPS):
        point, stage = point_of("ect", step), min(step * 8 // STEPS, 7)
        s, m = (np.asarray(t, np.float64) for t in (point.s, point.s * (1 - point.a)))
        sigma, sigma_m = s / (1 - s), m / (1 - m)
        ratio = np.maximum(0, 1 - 2.0 ** -(stage + 1) * (1 + 8 * special.expit(-sigma)))
        np.testing.assert_allclose(sigma_m / sigma, ratio, atol=2e-3)
        assert step or (m == 0).any()


def test_ctm_has_a_grid_for_all_of_its_steps():
    point = point_of("ctm")
    assert np.abs(np.asarray(point.t) - karras(18)[1:]).min(1).max() < 1e-6  # the data itself is no target
    for steps in (0, 18):
        with pytest.raises(typing.InputError, match=f"teacher_steps is {steps} on a grid of 18 levels; expected 1 to 17"):
            make("ctm", teacher_steps=steps)


def test_alphaflow_goes_from_trajectory_flow_matching_to_meanflow():
    method = make("alphaflow", diagonal="0", clip=1e6)
    for step, a in ((0, 1.0), (STEPS // 2, 0.5), (STEPS, 0.0)):
        (point,) = method.draw(jax.random.key(0), batch(24), step).values()
        np.testing.assert_allclose(point.a, a, atol=1e-6)
        if a == 0.5:
            continue
        straight = typing.Pair(pairs.bind(nets().V, point)(point.x, point.s, point.t), point.v)
        e = mse(straight if a else pairs.call(losses.meanflow, nets(), point))
        np.testing.assert_allclose(method.loss(nets(), {"eulerian": point})[0], e / (e + 1e-3), rtol=1e-5)


def test_warm_up_of_the_tangent():
    for name, end in (("ayf_emd", 0.99), ("scm", 1.0)):
        method = make(name, warmup_steps=50)
        for step, factor in ((0, 0.0), (25, end / 2), (50, end), (500, end)):
            (point,) = method.draw(jax.random.key(0), batch(24), step).values()
            np.testing.assert_allclose(point.a, factor, atol=1e-6)
        with pytest.raises(typing.InputError, match="warmup_steps is -1"):
            make(name, warmup_steps=-1)


def test_the_interval_of_fmm_grows_in_both_directions():
    for step, limit in ((0, 0.05), (STEPS // 2, 0.525), (STEPS, 1.0)):
        point = point_of("fmm", step)
        gap = np.asarray(point.t - point.s)
        assert gap.max() == pytest.approx(limit, rel=0.05) and gap.min() == pytest.approx(-limit, rel=0.05)


def test_shortcut_jumps_are_dyadic():
    point = drawn_by("shortcut")["compositional"]
    gap = np.asarray(point.s - point.t, np.float64).ravel()
    np.testing.assert_array_equal(np.unique(gap), 2.0 ** np.arange(-6, 1))
    np.testing.assert_allclose(np.asarray(point.t, np.float64).ravel() / gap % 1, 0, atol=1e-9)


def test_boot_steps_have_their_length():
    point = drawn_by("boot")["lagrangian"]
    m = 1 - point.a * (1 - point.t)
    np.testing.assert_allclose(m - point.t, 0.04, atol=1e-5)
    assert (drawn_by("boot")["anchor"].s == 1).all()


def test_freeflow_and_pid_read_no_data():
    """A batch of NaN trains them all the same: only its shape is used."""
    given = {"x": jnp.full((24, 3), jnp.nan)}
    for name in [name for name, row in ROWS.items() if row.noise]:
        drawn = make(name).draw(jax.random.key(0), given, 0)
        errors, metrics = quick_jit(lambda drawn, name=name: make(name).loss(nets(), drawn))(drawn)
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((drawn, errors, metrics)))


def test_schedule_of_soflow():
    for step, a in ((0, 0.1), (STEPS // 2, (0.1 * 0.002) ** 0.5), (STEPS, 0.002), (5 * STEPS, 0.002)):
        point = drawn_by("soflow", step)["eulerian"]
        gap = np.asarray(point.s - point.t)  # the step is at least 1e-4, the whole gap where that is the least one
        np.testing.assert_allclose(point.a, np.maximum(a, np.minimum(1, 1e-4 / gap)), rtol=1e-3)
        assert abs((gap < 1.01e-4).mean() - 0.145) < 0.02
    constant = methods.make("soflow", a_start=0.05, a_end=0.05, least_step=0.0, diagonal="0")  # needs no length of the training
    np.testing.assert_allclose(constant.draw(jax.random.key(0), batch(24), 7)["eulerian"].a, 0.05)


def test_another_path():
    for path in ("trigonometric", paths.Path(lambda t: (1 - t) ** 2, lambda t: t)):
        point = make("flow_matching", path=path).draw(jax.random.key(0), batch(24), 0)["anchor"]
        path = paths.path_from_name(path)
        np.testing.assert_allclose(point.x, path.alpha(point.s) * point.x0 + path.sigma(point.s) * point.eps, atol=1e-5)


def test_all_or_no_rows_on_the_diagonal():
    for name in [name for name in PUBLISHED if "diagonal" in PUBLISHED[name]]:
        spellings = (("1", 0), ("0", 1)) + ((("4/4", 0), (0, 1), (1.0, 0)) if name == "meanflow" else ())
        for diagonal, index in spellings:
            method, term = make(name, diagonal=diagonal), list(COLUMNS[name])[index]
            drawn = jax.eval_shape(method.draw, jax.random.key(0), batch_of(name, 5), 0)
            assert list(drawn) == [term] == [t.name for t in method.terms]
            errors, metrics = jax.eval_shape(lambda drawn, method=method: method.loss(nets(), drawn), drawn)
            assert errors.shape == (5,) and list(metrics) == [term]
            assert methods.rows_multiple(method) == 1


def test_both_terms_on_every_row():
    for name, info in methods.METHODS.items():
        if "both" in info.every_row.values():
            method, split = make(name, **info.every_row), make(name)
            drawn = jax.eval_shape(method.draw, jax.random.key(0), batch(5), 0)
            assert list(drawn) == [term.name for term in split.terms]
            assert {point.x.shape for point in drawn.values()} == {(5, 3)}


def test_batches_that_do_not_split():
    for name, columns in COLUMNS.items():
        if set(columns.values()) != {(0, 1, 1)}:
            with pytest.raises(typing.InputError, match="a batch of 7 rows .* use a multiple of"):
                jax.eval_shape(make(name).draw, jax.random.key(0), batch_of(name, 7), 0)


def test_the_split_gives_the_weighted_sum_of_both_terms():
    keys, given = jax.random.split(jax.random.key(0), 64), batch(512, labels=False)
    params = {"w": np.float32(0.7), "b": np.float32(0.3), "scale": np.float32(1.2)}
    splits = {"meanflow": ("3/4", 3 / 4), "imf": ("1/2", 1 / 2)}

    def gradient(params, key, name, diagonal):
        # p = 0.5: the published p = 1 scores every row about 1, which hides a wrong share.
        method = make(name, p=0.5, diagonal=diagonal)
        return jax.grad(lambda params: jnp.mean(method.loss(nets(params), method.draw(key, given, 0))[0]))(params)

    @quick_jit
    def gradients(params, keys):
        each = lambda name, diagonal: jax.vmap(lambda key: gradient(params, key, name, diagonal))(keys)
        return {name: [each(name, diagonal) for diagonal in (split, "1", "0")] for name, (split, _) in splits.items()}

    for name, trees in gradients(params, keys).items():
        share = splits[name][1]
        split, anchor, rest = (np.stack([np.asarray(tree[key], np.float64) for key in sorted(params)], -1) for tree in trees)
        difference = split - (share * anchor + (1 - share) * rest)
        spread = difference.std(0, ddof=1) / len(keys) ** 0.5
        assert (np.abs(difference.mean(0)) < 4 * spread).all(), name
        # The test can tell: the two terms differ by far more than the noise.
        assert (np.abs((anchor - rest).mean(0)) > 8 * spread).any(), name
