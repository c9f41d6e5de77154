"""Interpolants, samplers of times against their definitions, schedules, and distances against closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from flowjax import distances, paths, schedules, times, typing

N = 20_000
normal_cdf = stats.norm.cdf


# Paths

VELOCITIES = {
    "linear": lambda t: (1 - t, t, -np.ones_like(t), np.ones_like(t)),
    "trigonometric": lambda t: (
        np.cos(np.pi * t / 2),
        np.sin(np.pi * t / 2),
        -np.pi / 2 * np.sin(np.pi * t / 2),
        np.pi / 2 * np.cos(np.pi * t / 2),
    ),
}


def vp(t):
    # beta(t) = 0.1 + 19.9 t; d log alpha = -beta / 2, and alpha^2 + sigma^2 = 1 gives sigma' = -alpha alpha' / sigma.
    alpha = np.exp(-0.5 * (0.1 * t + 19.9 * t**2 / 2))
    sigma, dalpha = np.sqrt(1 - alpha**2), -0.5 * (0.1 + 19.9 * t) * alpha
    return alpha, sigma, dalpha, -alpha * dalpha / sigma


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["linear", "trigonometric", "variance_preserving"])
def test_interpolation_and_its_velocity(name):
    rng = np.random.default_rng(0)
    x0, eps = rng.normal(size=(2, 5, 3))
    t = np.array([0.02, 0.2, 0.5, 0.8, 1.0])[:, None]
    alpha, sigma, dalpha, dsigma = (VELOCITIES | {"variance_preserving": vp})[name](t)
    x, v = paths.interpolate(paths.path_from_name(name), jnp.asarray(x0), jnp.asarray(eps), jnp.asarray(t))
    np.testing.assert_allclose(x, alpha * x0 + sigma * eps, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(v, dalpha * x0 + dsigma * eps, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("name", "alpha_1"), [("linear", 0.0), ("trigonometric", 0.0), ("variance_preserving", 0.00657)])
def test_ends_of_a_path(name, alpha_1):
    path = paths.PATHS[name]
    ends = [float(f(jnp.float64(t))) for f in (path.alpha, path.sigma) for t in (0.0, 1.0)]
    np.testing.assert_allclose(ends, [1.0, alpha_1, 0.0, np.sqrt(1 - alpha_1**2)], atol=1e-5)


def test_a_path_of_the_user():
    path = paths.Path(lambda t: (1 - t) ** 2, lambda t: t)
    assert paths.path_from_name(path) is path
    x, v = paths.interpolate(path, jnp.full((1, 2), 3.0), jnp.ones((1, 2)), 0.5)
    np.testing.assert_allclose(x, 3 * 0.25 + 0.5)
    np.testing.assert_allclose(v, 3 * -1.0 + 1.0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("t", [0.3, np.full((4, 1, 1), 0.3, np.float32)])
def test_interpolation_keeps_the_dtype_of_the_data(dtype, t):
    x0 = jnp.ones((4, 2, 3), dtype)
    x, v = paths.interpolate(paths.linear, x0, x0, t)
    assert x.dtype == v.dtype == x0.dtype and x.shape == v.shape == x0.shape


def test_errors_of_paths():
    x0 = jnp.ones((4, 3))
    with pytest.raises(typing.InputError, match="linear, trigonometric"):
        paths.path_from_name("liner")
    with pytest.raises(typing.InputError, match="eps has shape"):
        paths.interpolate(paths.linear, x0, x0[:1], 0.5)
    with pytest.raises(typing.InputError, match=r"flowjax\.times\.expand"):
        paths.interpolate(paths.linear, x0, x0, jnp.zeros(4))


def test_independent_coupling():
    noise = paths.independent(jax.random.key(0), jnp.full((N, 1), 7.0, jnp.float32))
    assert noise.shape == (N, 1) and noise.dtype == jnp.float32
    assert stats.kstest(noise[:, 0], normal_cdf).pvalue > 0.01
    np.testing.assert_array_equal(noise, paths.independent(jax.random.key(0), jnp.zeros((N, 1))))


# Times


def logit_normal_cdf(mean, std):
    return lambda t: normal_cdf((special.logit(np.clip(t, 0.0, 1.0)) - mean) / std)


def both_below(cdf):
    return lambda t: cdf(t) ** 2


def one_below(cdf):
    return lambda t: 1 - (1 - cdf(t)) ** 2


def uniform_cdf(low, high):
    return lambda t: np.clip((t - low) / (high - low), 0, 1)


A, B, GAP = logit_normal_cdf(0.2, 0.8), logit_normal_cdf(-1.0, 0.8), 0.02
# spec, distribution function of the source, of the target: t = min(t', s - gap) is above x if both t' and s - gap are.
PAIRS = {
    "uniform_triangle": (("uniform_triangle",), both_below(uniform_cdf(0, 1)), one_below(uniform_cdf(0, 1))),
    "sorted_pair": (
        ("sorted_pair", ("logit_normal", -0.4, 1.0)),
        both_below(logit_normal_cdf(-0.4, 1.0)),
        one_below(logit_normal_cdf(-0.4, 1.0)),
    ),
    "two_sided": (
        ("two_sided", ("logit_normal", 0.2, 0.8), ("logit_normal", -1.0, 0.8), GAP),
        A,
        lambda t: 1 - (1 - B(t)) * (1 - A(t + GAP)),
    ),
    "gap_first": (("gap_first",), None, None),
}


@functools.cache
def drawn(spec, seed=0):
    return np.asarray(times.sampler_from_name(spec)(jax.random.key(seed), N), np.float64)


@pytest.mark.parametrize(
    ("spec", "cdf"),
    [
        (("uniform",), uniform_cdf(0, 1)),
        (("uniform", 0.2, 0.6), uniform_cdf(0.2, 0.6)),
        (("logit_normal", -0.4, 1.0), logit_normal_cdf(-0.4, 1.0)),
        (("logit_normal", 0.2, 0.8), logit_normal_cdf(0.2, 0.8)),
    ],
)
def test_distribution_of_single_times(spec, cdf):
    t = drawn(spec)
    assert t.shape == (N,) and (t >= 0).all() and (t <= 1).all()
    assert stats.kstest(t, cdf).pvalue > 0.01


@pytest.mark.parametrize("name", [name for name in PAIRS if PAIRS[name][1]])
def test_distribution_of_pairs(name):
    spec, source, target = PAIRS[name]
    s, t = drawn(spec)
    assert stats.kstest(s, source).pvalue > 0.01
    assert stats.kstest(t, target).pvalue > 0.01


@pytest.mark.parametrize("name", PAIRS)
def test_range_order_and_key_of_pairs(name):
    spec = PAIRS[name][0]
    sampler = times.sampler_from_name(spec)
    s, t = sampler(jax.random.key(0), N)
    assert s.shape == t.shape == (N,) and s.dtype == t.dtype == jnp.float32
    assert (0 <= t).all() and (t <= s).all() and (s <= 1).all()
    np.testing.assert_allclose(np.stack([s, t]), drawn(spec), rtol=1e-6)
    assert not np.isin(drawn(spec, seed=1)[0], drawn(spec)[0]).all()
    jitted = jax.jit(sampler, static_argnums=1)(jax.random.key(0), N)
    np.testing.assert_allclose(np.stack(jitted), drawn(spec), rtol=1e-4, atol=1e-6)


def test_the_triangle_is_uniform_on_it():
    s, t = drawn(("uniform_triangle",))
    assert stats.kstest(t / s, uniform_cdf(0, 1)).pvalue > 0.01
    assert stats.spearmanr(t / s, s).pvalue > 0.01


def test_two_sided_keeps_its_gap():
    s, t = drawn(PAIRS["two_sided"][0])
    assert (s - t >= GAP - 1e-6).all()
    pushed = np.isclose(s - t, GAP, atol=1e-6).mean()
    x = stats.norm.ppf((np.arange(4000) + 0.5) / 4000)
    expected = np.mean(1 - B(special.expit(0.2 + 0.8 * x) - GAP))
    assert abs(pushed - expected) < 4 * np.sqrt(expected / N)
    low = times.two_sided(lambda key, n: jnp.full(n, 1e-5), times.uniform(), 1e-4)(jax.random.key(0), 3)
    np.testing.assert_allclose(np.stack(low), [[1e-5] * 3, [0.0] * 3])


@pytest.mark.parametrize("constants", [(-0.8, 1.0, -0.4, 1.0), (0.5, 0.7, 0.3, 1.5)])
def test_gap_first_is_a_gap_and_a_truncated_target(constants):
    gap_mean, gap_std, mean, std = constants
    s, t = drawn(("gap_first", *constants))
    gap = s - t
    assert stats.kstest((special.logit(gap) - gap_mean) / gap_std, normal_cdf).pvalue > 0.01
    # The distribution function of the truncated target, given the gap, is uniform and independent of the gap.
    cdf = logit_normal_cdf(mean, std)
    rank = cdf(t) / cdf(1 - gap)
    assert rank.max() < 1 + 1e-4
    assert stats.kstest(rank, uniform_cdf(0, 1)).pvalue > 0.01
    assert stats.spearmanr(rank, gap).pvalue > 0.01
    for part in (gap < np.quantile(gap, 0.1), gap > np.quantile(gap, 0.9)):
        assert stats.kstest(rank[part], uniform_cdf(0, 1)).pvalue > 0.01


@pytest.mark.parametrize("gap_mean", [-30.0, 30.0])
def test_gap_first_at_its_extremes_is_finite(gap_mean):
    s, t = drawn(("gap_first", gap_mean, 1.0))
    assert np.isfinite(s).all() and np.isfinite(t).all()
    assert (0 <= t).all() and (t <= s).all() and (s <= 1).all()


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (schedules.constant(0.3), [0.3] * 5),
        (schedules.linear(1.0, 0.2, 100), [1.0, 0.8, 0.6, 0.2, 0.2]),
        (schedules.exponential(0.1, 0.001, 100), [0.1, 0.1 * 10**-0.5, 0.01, 0.001, 0.001]),
    ],
)
def test_schedules(schedule, values):
    steps = (0, 25, 50, 100, 250)
    np.testing.assert_allclose([schedule(step) for step in steps], values, rtol=1e-5)
    np.testing.assert_allclose([jax.jit(schedule)(jnp.int32(step)) for step in steps], values, rtol=1e-5)


def test_expand():
    assert times.expand(jnp.zeros(4), jnp.zeros((4, 2, 2, 3))).shape == (4, 1, 1, 1)
    assert times.expand(jnp.zeros(4), jnp.zeros((4,))).shape == (4,)
    assert times.expand(0.5, jnp.zeros((4, 3))).shape == ()
    for shape in ((3,), (4, 1), (1,)):
        with pytest.raises(typing.InputError, match=r"expected a scalar or \(4,\)"):
            times.expand(jnp.zeros(shape), jnp.zeros((4, 2)))


def test_specs_of_samplers():
    own = lambda key, n: jnp.zeros(n)
    assert times.sampler_from_name(own) is own
    as_list = times.sampler_from_name(["sorted_pair", ["uniform", 0.2, 0.6]])(jax.random.key(0), 10)
    as_tuple = times.sampler_from_name(("sorted_pair", ("uniform", 0.2, 0.6)))(jax.random.key(0), 10)
    np.testing.assert_array_equal(np.stack(as_list), np.stack(as_tuple))
    wider = {"sorted_sides", "gap_uniform", "dyadic", "uniform_square", "karras", "fixed"}  # tested below
    assert set(times.SAMPLERS) == {"uniform", "logit_normal", *PAIRS, *wider}


@pytest.mark.parametrize(
    "spec", ["uniform", (), ("unifrom",), None, 0.5, ("sorted_pair", ("nope",)), ("sorted_pair", ("uniform", 1, 2, 3))]
)
def test_wrong_specs_of_samplers(spec):
    with pytest.raises(typing.InputError):
        times.sampler_from_name(spec)


@pytest.mark.parametrize("spec", [("logit_normal",), ("logit_normal", 0.0), ("uniform_triangle", 1.0), ("sorted_pair",)])
def test_specs_with_wrong_arguments_name_the_sampler(spec):
    with pytest.raises(typing.InputError, match=spec[0]):
        times.sampler_from_name(spec)


# Distances


def sides(shape=(5, 2, 2, 3), seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(2, *shape)), jnp.float32)


def e(shape, reduce):
    prediction, target = np.asarray(sides(shape), np.float64)
    return getattr(np, reduce)((prediction - target) ** 2, axis=tuple(range(1, len(shape))))


SHAPES = [(5, 3), (5, 2, 2, 3)]
CLOSED = {
    "l2 mean": (distances.l2, lambda total, mean, size: mean),
    "l2 sum": (functools.partial(distances.l2, reduce="sum"), lambda total, mean, size: total),
    "adaptive sum": (
        functools.partial(distances.adaptive, reduce="sum", p=0.75, c=0.3),
        lambda total, mean, size: total / (total + 0.3) ** 0.75,
    ),
    "adaptive mean": (functools.partial(distances.adaptive, reduce="mean"), lambda total, mean, size: mean / (mean + 0.01)),
    "adaptive p=0": (functools.partial(distances.adaptive, reduce="sum", p=0.0), lambda total, mean, size: total),
    "huber": (functools.partial(distances.huber, c=0.7), lambda total, mean, size: np.sqrt(total + 0.49) - 0.7),
    "huber published": (
        distances.huber,
        lambda total, mean, size: np.sqrt(total + 0.00054**2 * size) - 0.00054 * np.sqrt(size),
    ),
    "cauchy": (distances.cauchy, lambda total, mean, size: np.log(mean + 0.01)),
    "cauchy learned": (
        functools.partial(distances.cauchy, log_variance=np.linspace(-1, 1, 5, dtype=np.float32), c=0.1),
        lambda total, mean, size: np.log(np.exp(-np.linspace(-1, 1, 5)) * mean + 0.1) + np.linspace(-1, 1, 5),
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", CLOSED)
def test_values_of_distances(name, shape):
    distance, closed = CLOSED[name]
    errors = distance(*sides(shape))
    assert errors.shape == (5,) and errors.dtype == jnp.float32
    np.testing.assert_allclose(errors, closed(e(shape, "sum"), e(shape, "mean"), int(np.prod(shape[1:]))), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_value_of_the_cosine(shape):
    prediction, target = np.asarray(sides(shape), np.float64)
    norm = functools.partial(np.linalg.norm, axis=-1)
    expected = 1 - ((prediction * target).sum(-1) / (norm(prediction) * norm(target))).reshape(5, -1).mean(1)
    np.testing.assert_allclose(distances.cosine(*sides(shape)), expected, rtol=1e-5, atol=1e-6)
    x = sides(shape)[0]
    np.testing.assert_allclose([distances.cosine(x, 3 * x)[0], distances.cosine(x, -x)[0]], [0.0, 2.0], atol=1e-5)
    zero = jnp.zeros_like(x)
    np.testing.assert_allclose(distances.cosine(zero, x), 1.0)
    assert jnp.isfinite(jax.grad(lambda y: distances.cosine(y, x).sum())(zero)).all()


def test_no_gradient_through_the_adaptive_weight():
    prediction, target = sides()
    grad = jax.grad(lambda p: distances.adaptive(p, target, reduce="sum", p=0.75, c=0.3).sum())(prediction)
    weight = (e(prediction.shape, "sum") + 0.3) ** -0.75
    np.testing.assert_allclose(grad, 2 * (prediction - target) * weight[:, None, None, None], rtol=1e-4)


@pytest.mark.parametrize("distance", [distances.l2, distances.huber, functools.partial(distances.adaptive, reduce="mean")])
def test_gradient_at_zero_error_is_finite(distance):
    x = sides()[0]
    np.testing.assert_array_equal(jax.grad(lambda y: distance(y, x).sum())(x), 0.0)


def test_reduce_must_be_said():
    with pytest.raises(TypeError, match="reduce"):
        distances.adaptive(*sides())
    with pytest.raises(typing.InputError, match='"sum" or "mean"'):
        distances.adaptive(*sides(), reduce="max")
    by = {reduce: distances.adaptive(*sides(), reduce=reduce, p=0.5) for reduce in ("sum", "mean")}
    assert np.abs(by["sum"] - by["mean"]).min() > 0.1


ALL = {name: getattr(distances, name) for name in ("l2", "huber", "cauchy", "likelihood", "cosine")} | {
    "adaptive": functools.partial(distances.adaptive, reduce="sum"),
    "normalised": functools.partial(distances.normalised, reduce="mean"),
    "features": functools.partial(distances.features, phi=lambda x: x),
}


@pytest.mark.parametrize("name", ALL)
def test_shapes_that_differ_are_an_error(name):
    with pytest.raises(typing.InputError, match=r"\(5, 3\).*\(1, 3\)"):
        ALL[name](jnp.ones((5, 3)), jnp.ones((1, 3)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("name", ALL)
def test_errors_are_float32_or_wider(name, dtype):
    with jax.enable_x64(True):
        prediction, target = sides().astype(dtype)
        assert ALL[name](prediction, target).dtype == jnp.float32
        if name != "cosine":
            assert ALL[name](prediction, target.astype("float64")).dtype == jnp.float64


# The samplers, schedules and distances of the wider landscape

KEY = jax.random.key(7)


def test_sorted_sides_are_max_and_min_of_two_laws():
    one, other = times.logit_normal(0.4, 1.0), times.logit_normal(-1.2, 1.0)
    s, t = times.sorted_sides(one, other)(KEY, N)
    assert (s >= t).all()
    first, second = (lambda z, m=m: normal_cdf(special.logit(z) - m) for m in (0.4, -1.2))
    assert stats.kstest(np.asarray(s), lambda z: first(z) * second(z)).pvalue > 0.01
    assert stats.kstest(np.asarray(t), lambda z: 1 - (1 - first(z)) * (1 - second(z))).pvalue > 0.01


def test_gap_uniform_draws_the_gap_first():
    s, t = (np.asarray(z, np.float64) for z in times.gap_uniform(times.logit_normal(-0.8, 1.0))(KEY, N))
    gap = s - t
    assert t.min() >= 0 and s.max() <= 1
    assert stats.kstest(special.logit(gap), lambda z: normal_cdf(z + 0.8)).pvalue > 0.01
    assert stats.kstest(t / (1 - gap), "uniform").pvalue > 0.01
    assert stats.spearmanr(t / (1 - gap), gap).pvalue > 0.01
    s, t = times.gap_uniform(times.fixed(1.0))(KEY, 3)
    np.testing.assert_array_equal(np.stack([s, t]), [[1.0] * 3, [0.0] * 3])


def test_dyadic_jumps():
    s, t = (np.asarray(z, np.float64) for z in times.dyadic(8)(KEY, N))
    gap = s - t
    assert sorted(set(gap)) == [0.25, 0.5, 1.0] and (s / gap % 1 == 0).all() and t.min() == 0 and s.max() == 1
    assert stats.chisquare(np.unique(gap, return_counts=True)[1]).pvalue > 0.01
    assert stats.chisquare(np.unique(s[gap == 0.25], return_counts=True)[1]).pvalue > 0.01
    s, t = times.dyadic()(KEY, N)
    assert (s - t).min() == 1 / 64  # half of it is the smallest step, 1 / 128
    for wrong in (0, 1, 100):
        with pytest.raises(typing.InputError, match=f"sections is {wrong}"):
            times.dyadic(wrong)


def test_karras_levels():
    s = np.asarray(times.karras(10, 0.01, 50.0, rho=5.0)(KEY, N), np.float64)
    sigma = (0.01**0.2 + np.arange(10) / 9 * (50**0.2 - 0.01**0.2)) ** 5
    values, counts = np.unique(s, return_counts=True)
    np.testing.assert_allclose(values, (sigma / (1 + sigma))[1:], rtol=1e-5)
    assert stats.chisquare(counts).pvalue > 0.01
    np.testing.assert_allclose(times.to_sigma(times.from_sigma(sigma)), sigma, rtol=1e-12)
    # A schedule of the number of levels is traced.
    traced = jax.jit(times.karras_sigma)(np.arange(10), 10, 0.01, 50.0, 5.0)
    np.testing.assert_allclose(traced, sigma, rtol=1e-4)
    np.testing.assert_allclose([times.karras_sigma(0, 40), times.karras_sigma(39, 40)], [0.002, 80.0], rtol=1e-5)


def test_square_and_fixed_times():
    s, t = times.uniform_square()(KEY, N)
    assert stats.kstest(np.asarray(s), "uniform").pvalue > 0.01 and stats.kstest(np.asarray(t), "uniform").pvalue > 0.01
    assert stats.spearmanr(s, t).pvalue > 0.01 and 0.48 < (s > t).mean() < 0.52
    np.testing.assert_array_equal(times.sampler_from_name(("fixed", 0.5), draws=1)(KEY, 5), np.full(5, 0.5, np.float32))


@pytest.mark.parametrize(
    "spec",
    [
        ("sorted_sides", ("uniform",), ("logit_normal", 0.0, 1.0)),
        ("gap_uniform", ("uniform",)),
        ("dyadic", 16),
        ("uniform_square",),
        ("karras", 10),
        ("fixed", 1.0),
    ],
)
@pytest.mark.parametrize("wide", [False, True])
def test_samplers_by_name_are_float32_and_drawn_by_the_key(spec, wide):
    count = 1 if spec[0] in ("karras", "fixed") else 2
    with jax.enable_x64(wide):
        draw = jax.jit(times.sampler_from_name(spec, draws=count), static_argnums=1)
        one, again, other = (jnp.reshape(jnp.stack(draw(jax.random.key(k), 64)), (count, 64)) for k in (0, 0, 1))
    for first, same, second in zip(one, again, other):
        assert first.dtype == jnp.float32 and 0 <= first.min() and first.max() <= 1
        np.testing.assert_array_equal(first, same)
        assert spec[0] == "fixed" or (first != second).any()
    if count == 2 and spec[0] != "uniform_square":
        assert (one[1] <= one[0]).all()
    with pytest.raises(typing.InputError, match=rf"{spec[0]}.*draws {count} time"):
        times.sampler_from_name(spec, draws=3 - count)


def test_sigmoid_schedule():
    schedule = schedules.sigmoid(100, 300, steepness=25.0, snap=0.005)
    step = np.array([0, 120, 180, 200, 220, 280, 400])
    plain = 1 - special.expit(25 * (step - 200) / 200)
    expected = np.where(plain < 0.005, 0, np.where(plain > 0.995, 1, plain))
    np.testing.assert_allclose(jax.vmap(schedule)(step), expected, rtol=1e-5)
    assert expected[0] == expected[1] == 1 and expected[-1] == expected[-2] == 0 and 0 < expected[3] < 1
    with pytest.raises(typing.InputError, match="starts at 5 and ends at 5"):
        schedules.sigmoid(5, 5)
    found = schedules.sigmoid(0, 100, steepness=5.0, snap=0.1)(jnp.arange(101))
    assert ((found == 0) | ((0.1 <= found) & (found <= 0.9)) | (found == 1)).all() and (jnp.diff(found) <= 0).all()
    assert found.dtype == jnp.float32


PAIR = (jnp.asarray(np.random.default_rng(0).normal(size=(6, 4, 3)), jnp.float32), jnp.zeros((6, 4, 3)))


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_normalised_has_a_gradient_of_bounded_length(reduce):
    size = 12 if reduce == "mean" else 1
    r = np.asarray(PAIR[0], np.float64)
    norm = np.sqrt((r**2).sum((1, 2)) / size)
    np.testing.assert_allclose(distances.normalised(*PAIR, reduce=reduce, c=0.1), norm**2 / (norm + 0.1), rtol=1e-5)
    gradient = jax.grad(lambda p: distances.normalised(p, PAIR[1], reduce=reduce, c=0.1).sum())(PAIR[0])
    np.testing.assert_allclose(gradient, 2 * r / size / (norm + 0.1)[:, None, None], rtol=1e-5, atol=1e-7)
    at_zero = jax.grad(lambda p: distances.normalised(p, PAIR[1], reduce=reduce).sum())(PAIR[1])
    np.testing.assert_array_equal(at_zero, 0.0)
    with pytest.raises(typing.InputError, match="reduce is None"):
        distances.normalised(*PAIR, reduce=None)
    with pytest.raises(TypeError, match="reduce"):
        distances.normalised(*PAIR)


def test_likelihood_is_least_where_the_variance_is_the_error():
    e = np.asarray(distances.l2(*PAIR))
    lv = jnp.log(e)
    value, slope = jax.jvp(lambda lv: distances.likelihood(*PAIR, log_variance=lv), (lv,), (jnp.ones(6),))
    np.testing.assert_allclose(value, 1 + np.log(e), rtol=1e-5)
    np.testing.assert_allclose(slope, 0.0, atol=1e-5)
    np.testing.assert_allclose(
        distances.likelihood(*PAIR, log_variance=0.5, reduce="sum"), np.exp(-0.5) * 12 * e + 0.5, rtol=1e-5
    )
    gradient = jax.grad(lambda p: distances.likelihood(p, PAIR[1], log_variance=lv).sum())(PAIR[0])
    np.testing.assert_allclose(gradient, 2 * PAIR[0] / 12 / e[:, None, None], rtol=1e-5)


def test_features_compare_what_the_network_sees():
    phi = lambda x: jnp.stack([x.sum((1, 2)), (x**2).sum((1, 2))], axis=1)
    found = distances.features(*PAIR, phi=phi, distance=functools.partial(distances.huber, c=0.1))
    np.testing.assert_allclose(found, distances.huber(phi(PAIR[0]), phi(PAIR[1]), c=0.1), rtol=1e-6)
    assert not np.allclose(found, distances.huber(*PAIR, c=0.1))
    np.testing.assert_allclose(distances.features(*PAIR, phi=phi), distances.l2(phi(PAIR[0]), phi(PAIR[1])), rtol=1e-6)
    gradient = jax.grad(lambda p: distances.features(p, PAIR[1], phi=phi).sum())(PAIR[0])
    first, second = (z[:, None, None] for z in phi(PAIR[0]).T)
    np.testing.assert_allclose(gradient, first + 2 * PAIR[0] * second, rtol=1e-4, atol=1e-5)


def test_distances_by_name():
    assert (
        distances.distance_from_name("l2") is distances.l2
        and distances.distance_from_name(distances.cauchy) is distances.cauchy
    )
    assert all(distances.distance_from_name(name)(*PAIR).shape == (6,) for name in distances.DISTANCES)
    with pytest.raises(typing.InputError, match=r"unknown distance 'hubber'; did you mean huber\?.* Known: l2, huber, cosine"):
        distances.distance_from_name("hubber")
