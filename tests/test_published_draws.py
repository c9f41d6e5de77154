"""Draws, weights and paths against readings of the authors' code that share nothing with the recipes; docs/deviations.md names them.

The readings keep the authors' own time and names where that is shorter, and are written in numpy where no derivative is taken.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from configs import method as method_config
from flowjax import exact, flowmap, losses, methods, models, paths, samplers, typing
from flowjax.training import sampling

B, D = 256, 3


def batch(rows=B, seed=0):
    x = np.random.default_rng(seed).normal(size=(rows, D)).astype(np.float32)
    return {"x": jnp.asarray(x), "label": jnp.arange(rows, dtype=jnp.int32)}


def mean_square(a, b):
    return np.mean((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2, axis=1)


# 8: several steps


def test_methods_whose_authors_sample_several_steps_with_new_noise():
    assert {name for name, info in methods.METHODS.items() if info.few_steps} == {"soflow", "alphaflow"}
    assert methods.METHODS["facm"].sampler == "consistency"  # its jumps lead to the data alone
    for name in ("alphaflow", "facm"):
        assert method_config.get_config(f"{name},digits").sampler == "consistency"
    assert method_config.get_config("alphaflow,checkerboard").sampler == "flow_map"


# 10: learned log-variances


def sines(t, features=128):
    """Positional embedding of the authors: half cosines, half sines, frequencies from 1 down to 1/10,000."""
    angles = np.asarray(t, np.float64)[:, None] * np.exp(-np.log(10_000) * np.arange(features // 2) / (features // 2))
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)


def test_the_learned_weight_of_flow_maps_is_bounded_by_construction():
    s, t = (np.random.default_rng(i).uniform(size=64).astype(np.float32) for i in (1, 2))
    net = models.LogVariance()
    params = net.init(jax.random.key(0), s, t)
    (w,) = (np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(params))
    assert w.shape == (128,)
    # A layer of 128 inputs whose weights are brought to mean square 1 and divided by sqrt(128); both embeddings times sqrt(2), and their
    # sum in the way that keeps magnitudes.
    normalised = w / (1e-4 + np.sqrt(np.mean(w**2))) / np.sqrt(128)
    expected = (np.sqrt(2) * sines(s) + np.sqrt(2) * sines(t)) / 2 / np.sqrt(0.5) @ normalised
    np.testing.assert_allclose(net.apply(params, s[:, None], t[:, None]), expected, atol=2e-3)
    # The largest value that any weights of any length give is on the diagonal.
    largest = net.apply(
        jax.tree.map(lambda leaf: 1e3 * jnp.asarray(sines(np.zeros(1))[0], leaf.dtype), params), s[:1] * 0, t[:1] * 0
    )
    np.testing.assert_allclose(largest, 16.0, rtol=1e-3)


def test_the_learned_weight_of_decoupled_meanflow_is_one_linear_layer_that_starts_at_zero():
    s, t = (np.random.default_rng(i).uniform(size=8).astype(np.float32) for i in (1, 2))
    net = models.LinearLogVariance()
    params = net.init(jax.random.key(0), s, t)
    assert {leaf.shape for leaf in jax.tree.leaves(params)} == {(256, 1), (1,)}
    assert not any(leaf.any() for leaf in jax.tree.leaves(params))
    kernel = np.random.default_rng(3).normal(size=(256, 1))
    params = jax.tree.map(lambda leaf: jnp.asarray(kernel if leaf.ndim > 1 else [0.3], jnp.float32), params)
    expected = np.concatenate([sines(s), sines(t)], axis=1) @ kernel[:, 0] + 0.3
    np.testing.assert_allclose(net.apply(params, s[:, None], t[:, None]), expected, atol=1e-4)
    assert methods.make("dmf").networks["log_variance"].module == "LinearLogVariance"


def test_errors_of_flow_maps_are_sums_over_the_data():
    V = lambda x, s, t, cond=None: jnp.sin(x + s - t)
    nets = typing.Nets(V=V, log_variance=lambda s, t: (2 * s - t).reshape(-1))
    plain = typing.Nets(V=V)
    for name in ("lsd", "psd", "esd"):
        weighted, unweighted = (methods.make(name, diagonal="1", learned_weight=learned) for learned in (True, False))
        drawn = jax.jit(weighted.draw)(jax.random.key(0), batch(8), 0)
        point = drawn["anchor"]
        e = D * mean_square(V(point.x, point.s, point.s), point.v)
        lv = np.asarray(point.s, np.float64)[:, 0]
        np.testing.assert_allclose(weighted.loss(nets, drawn)[0], np.exp(-lv) * e + lv, rtol=1e-5)
        np.testing.assert_allclose(unweighted.loss(plain, drawn)[0], e, rtol=1e-5)
        assert not unweighted.needs


# 17: Shortcut models


def author_net(scale, x, tau, level, label):
    """A network of the authors' arguments: their time runs from noise to data, and a step size is a whole number log2(1 / d)."""
    column = lambda values: np.asarray(values, np.float64).reshape(-1, 1)
    return scale * np.sin(np.asarray(x, np.float64) + column(tau) - 0.3 * column(level) + 0.1 * column(label))


def shortcut_nets():
    def raw(scale):
        def N(x, s, u, cond):
            label = cond["label"].astype(jnp.float32)[:, None]
            return -scale * jnp.sin(x + (1 - s) - 0.3 * (s - u) + 0.1 * label)

        return flowmap.dyadic(N)

    return typing.Nets(V=raw(2.0), ema=raw(6.0))  # large enough for the clip


@functools.cache
def shortcut_drawn():
    method = methods.make("shortcut", cfg=1.5, label_drop=0.25)
    return method, jax.jit(method.draw)(jax.random.key(0), batch(), 0)


def test_shares_grids_and_labels_of_shortcut_models():
    method, drawn = shortcut_drawn()
    jumps, anchor = drawn["compositional"], drawn["anchor"]
    d = np.asarray(jumps.s - jumps.t, np.float64)[:, 0]
    # 32 bootstrap rows: 32 // 7 of each length, the shortest first, and the remainder with d = 1.
    np.testing.assert_array_equal(np.log2(1 / d), [*np.repeat(6 - np.arange(7), 4), 0, 0, 0, 0])
    for point, steps in ((jumps, 1 / d), (anchor, np.full(224, 128.0))):
        index = np.asarray(point.s, np.float64)[:, 0] * steps
        np.testing.assert_array_equal(index, np.round(index))
        assert (index >= 1).all() and (index <= steps).all()
    assert len(np.unique(np.asarray(anchor.s))) > 100
    labels = np.arange(B).reshape(-1, 8)
    np.testing.assert_array_equal(jumps.cond["label"], labels[:, 7:].reshape(-1))
    dropped = np.asarray(anchor.cond["label"]) == -1
    assert 0.15 < dropped.mean() < 0.35
    np.testing.assert_array_equal(np.asarray(anchor.cond["label"])[~dropped], labels[:, :7].reshape(-1)[~dropped])


def test_targets_of_shortcut_models():
    method, drawn = shortcut_drawn()
    errors = np.asarray(jax.jit(lambda drawn: method.loss(shortcut_nets(), drawn)[0])(drawn)).reshape(-1, 8)
    p = drawn["compositional"]
    x, label, tau = np.asarray(p.x, np.float64), np.asarray(p.cond["label"]), 1 - np.asarray(p.s, np.float64)[:, 0]
    d = np.asarray(p.s - p.t, np.float64)[:, 0]
    level = np.log2(1 / d)

    def half(x, tau):
        v = author_net(6.0, x, tau, level + 1, label)
        v_null = author_net(6.0, x, tau, level + 1, np.full(32, -1))
        v[:4] = (v_null + 1.5 * (v - v_null))[:4]  # the rows of the shortest jump
        return v

    v1 = half(x, tau)
    x2 = np.clip(x + d[:, None] / 2 * v1, -4, 4)
    target = np.clip((v1 + half(x2, tau + d / 2)) / 2, -4, 4)
    assert (np.abs(target) == 4).any() and (np.abs(x2) == 4).any()
    np.testing.assert_allclose(errors[:, 7], mean_square(author_net(2.0, x, tau, level, label), target), rtol=2e-4)
    # Rows of the anchor carry the step size 1/128, level 7.
    p = drawn["anchor"]
    prediction = author_net(2.0, p.x, 1 - np.asarray(p.s)[:, 0], np.full(224, 7), p.cond["label"])
    expected = mean_square(prediction, np.asarray(p.x0) - np.asarray(p.eps))
    np.testing.assert_allclose(errors[:, :7].reshape(-1), expected, rtol=2e-4)


# 19: sCM


def test_the_tangent_of_scm_warms_up_in_trigonometric_time():
    method = methods.make("scm", warmup_steps=100)
    point = jax.jit(method.draw)(jax.random.key(0), batch(16), 30)["eulerian"]  # warm-up 0.3
    N = lambda x, a, b, cond=None: jnp.sin(2 * x + a) * jnp.cos(a)  # of angles over pi / 2
    scored = jax.jit(lambda point: method.terms[0].pair(typing.Nets(V=flowmap.trigflow(N)), point))(point)
    angle = jnp.arctan2(point.s, 1 - point.s)

    def along(a):
        return jnp.cos(a) * point.x0 + jnp.sin(a) * point.eps

    x, dx = jax.jvp(along, (angle,), (jnp.ones_like(angle),))
    F, dF = jax.jvp(lambda a: N(along(a), a / (jnp.pi / 2), 0.0), (angle,), (jnp.ones_like(angle),))
    g = -(jnp.cos(angle) ** 2) * (F - dx) - 0.3 * jnp.cos(angle) * jnp.sin(angle) * (x + dF)
    norm = jnp.sqrt(jnp.mean(g**2, axis=1, keepdims=True))
    np.testing.assert_allclose(scored.target - scored.prediction, g / (norm + 0.1), atol=1e-4)


# 20: PID


def test_physics_informed_distillation_takes_a_quotient_over_its_grid():
    sigma = (80 ** (1 / 7) + np.arange(250) / 249 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7  # the authors count from the top
    method = methods.make("pid")
    point = jax.jit(method.draw)(jax.random.key(0), batch(4_096), 0)["lagrangian"]
    level = np.abs(np.log(np.asarray(point.t / (1 - point.t), np.float64)) - np.log(sigma)).argmin(axis=1)
    assert set(level) == set(range(250))

    D_student = lambda z, t: jnp.sin(z + 3 * t)  # of the denoised field
    D_teacher = lambda x, t: jnp.cos(x) * (1 - 0.2 * t)
    nets = typing.Nets(
        V=flowmap.denoised_field(lambda x, s, t, cond: D_student(x, t)),
        teacher=lambda x, t, cond=None: (x - D_teacher(x, t)) / t,
    )
    errors = np.asarray(jax.jit(lambda point: method.loss(nets, {"lagrangian": point})[0])(point))
    z, time = np.asarray(point.x, np.float64), sigma / (1 + sigma)
    y = lambda i: sigma[i][:, None] * z + np.asarray(D_student(z, time[i][:, None]))
    below = np.where(level == 249, 248, level + 1)
    slope = (y(level) - y(below)) / (sigma[level] - sigma[below])[:, None]
    t = time[level][:, None]
    teacher = np.asarray(D_teacher(y(level) * (1 - t), t))
    expected = mean_square(y(level) - sigma[level][:, None] * slope, teacher)
    np.testing.assert_allclose(errors, expected, rtol=5e-2, atol=2e-2)
    np.testing.assert_allclose(np.median(errors / expected), 1.0, atol=1e-4)


# 21: CTM


def test_draws_of_consistency_trajectory_models():
    (term,) = methods.make("ctm").terms
    drawn = jax.jit(jax.vmap(lambda key: term.times(key, 8, 0)))(jax.random.split(jax.random.key(0), 4_000))
    sigma = (0.002 ** (1 / 7) + np.arange(18) / 17 * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7
    s, t, a = (np.asarray(drawn[name], np.float64) for name in "sta")
    at = lambda time: np.abs(np.log(time / (1 - time))[..., None] - np.log(sigma)).argmin(-1)
    source, target, landing = at(s), at(t), at(s + a * (t - s))
    steps = source - landing
    assert (steps == steps[:, :1]).all()  # one draw a batch
    weight = np.arange(1, 18)
    counts = np.bincount(steps[:, 0], minlength=18)[1:]
    assert stats.chisquare(counts, len(steps) * weight / weight.sum()).pvalue > 0.01
    assert (source[steps == 17] == 17).all()
    for k in (5, 12):
        of_k = steps == k
        assert stats.chisquare(np.bincount(source[of_k], minlength=18)[k:]).pvalue > 0.005
    share = (target / np.maximum(landing, 1))[landing == 6]
    assert (target <= landing).all() and (target >= 0).all()
    assert stats.chisquare(np.bincount(np.round(6 * share).astype(int), minlength=7)).pvalue > 0.005


# 29: the noise of flow-maps has deviation 1/2


def test_noise_of_deviation_one_half_is_data_of_twice_the_size():
    x0, z = (jnp.asarray(np.random.default_rng(i).normal(size=(6, D)), jnp.float32) for i in (0, 1))
    s, t = jnp.full((6, 1), 0.8), jnp.full((6, 1), 0.3)
    x, v = paths.interpolate(paths.path_from_name("linear:noise=0.5"), x0, 0.5 * z, s)
    x_twice, v_twice = paths.interpolate(paths.linear, 2 * x0, z, s)
    np.testing.assert_allclose(2 * x, x_twice, atol=1e-6)
    np.testing.assert_allclose(2 * v, v_twice, atol=1e-6)
    phi = lambda x, s, t: jnp.sin(x + s * t)
    V = lambda x, s, t: 0.5 * phi(x / 0.5, s, t)  # the published network divides its input by 0.5 and multiplies its output
    for loss in (losses.lagrangian_self_distillation, losses.eulerian_self_distillation):
        ours, theirs = loss(phi, x_twice, s, t), loss(V, x, s, t)
        residual = lambda pair: pair.prediction - pair.target
        np.testing.assert_allclose(residual(ours), 2 * residual(theirs), atol=1e-5)


# Paths with wider noise


def test_everything_sees_the_noise_of_a_path():
    wide, keys = paths.path_from_name("linear:noise=2"), jax.random.split(jax.random.key(0), 4_000)
    assert paths.path_from_name("linear") is paths.linear and wide.noise == 2
    point = jax.jit(methods.make("flow_matching", path="linear:noise=2").draw)(jax.random.key(0), batch(4_000), 0)["anchor"]
    initial = sampling.noise(wide, keys, (D,))
    for noise in (point.eps, initial, paths.independent(jax.random.key(1), initial, wide)):
        assert stats.kstest(np.asarray(noise).ravel() / 2, "norm").pvalue > 0.01
    np.testing.assert_allclose(point.x, (1 - point.s) * point.x0 + point.s * point.eps, atol=1e-6)
    np.testing.assert_allclose(point.v, point.eps - point.x0, atol=1e-6)
    # Consistency sampling noises its jumps to the data again with it: here every jump ends at 3.
    ends_at_3 = lambda x, s, t: (x - 3) / s
    halfway = samplers.sampler_from_name("consistency", wide).run(ends_at_3, initial, np.array([1.0, 0.5]), keys)
    assert stats.kstest(np.asarray(halfway).ravel() - 1.5, "norm").pvalue > 0.01
    run = sampling.make_sampler(_Net(), (D,), "flow_map", path="linear:noise=2")
    assert 1.9 < run({}, 0, [-1] * 512, 1).std() < 2.1


class _Net:
    """A network that does not move its data."""

    def apply(self, variables, x, s, t, cond):
        return 0 * x


def test_exact_flows_of_wider_noise():
    wide = paths.path_from_name("linear:noise=2")
    x = jnp.linspace(-3.0, 3.0, 12)[:, None]
    for flow in (exact.gaussian(jnp.ones(1), 0.25 * jnp.eye(1), wide), exact.mixture([1.0], [1.0], [0.5], wide)):
        F, v = jax.jit(lambda x: (flow.F(x, 1.0, 0.0), flow.v(x, 0.5)))(x)  # noqa: B023
        # N(0, 4) at noise to N(1, 1/4) at data.
        np.testing.assert_allclose(F, 1 + x / 4, atol=1e-5)
        # E[eps - x0 | x] of jointly normal eps and x0, at t = 1/2.
        slope = (0.5 * 4 - 0.5 * 0.25) / (0.25 * 4 + 0.25 * 0.25)
        np.testing.assert_allclose(v, -1 + slope * (x - 0.5), atol=1e-5)


def test_wrong_noise_of_a_path():
    for name, message in (
        ("linear:noise=0", "deviation of the noise is 0.0; expected a number above 0"),
        ("linear:width=2", "linear has no option 'width'; expected noise"),
        ("sphere:noise=2", "sphere has no option 'noise'; expected none"),
        ("liner", "unknown path 'liner'"),
        (2, "unknown path 2"),
    ):
        with pytest.raises(typing.InputError, match=message):
            paths.path_from_name(name)
