"""Samplers of times against their distribution functions, and schedules."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from flowjax import schedules, times, typing

N = 20_000
KEY = jax.random.key(7)
normal_cdf = stats.norm.cdf


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


def test_range_order_and_key_of_pairs():
    samplers = {name: times.sampler_from_name(PAIRS[name][0]) for name in PAIRS}
    jitted = jax.jit(lambda key: {name: sampler(key, N) for name, sampler in samplers.items()})
    one, other = jitted(jax.random.key(0)), jitted(jax.random.key(1))
    for name, (s, t) in one.items():
        assert s.shape == t.shape == (N,) and s.dtype == t.dtype == jnp.float32
        assert (0 <= t).all() and (t <= s).all() and (s <= 1).all()
        assert not np.isin(other[name][0], s).all()
        np.testing.assert_allclose(np.stack([s, t]), drawn(PAIRS[name][0]), rtol=1e-4, atol=1e-6)


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
    np.testing.assert_allclose(np.stack(low), [[1e-4] * 3, [0.0] * 3])


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


def test_expand():
    assert times.expand(jnp.zeros(4), jnp.zeros((4, 2, 2, 3))).shape == (4, 1, 1, 1)
    assert times.expand(jnp.zeros(4), jnp.zeros((4,))).shape == (4,)
    assert times.expand(0.5, jnp.zeros((4, 3))).shape == ()
    for shape in ((3,), (4, 1), (1,)):
        with pytest.raises(typing.InputError, match=r"expected a scalar or \(4,\)"):
            times.expand(jnp.zeros(shape), jnp.zeros((4, 2)))


def test_specs_of_samplers():
    zeros = lambda key, n: jnp.zeros(n)
    assert times.sampler_from_name(zeros) is zeros
    as_list = times.sampler_from_name(["sorted_pair", ["uniform", 0.2, 0.6]])(jax.random.key(0), 10)
    as_tuple = times.sampler_from_name(("sorted_pair", ("uniform", 0.2, 0.6)))(jax.random.key(0), 10)
    np.testing.assert_array_equal(np.stack(as_list), np.stack(as_tuple))
    wider = {spec[0] for spec in WIDER}  # tested below
    inner = {"uniform", "logit_normal", "u_shaped", "arctan_log_normal"}  # the last two with the recipes that draw them
    assert set(times.SAMPLERS) == {*inner, *PAIRS, *wider}


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
    assert np.ptp(np.unique(gap, return_counts=True)[1]) < 3
    assert stats.chisquare(np.unique(s[gap == 0.25], return_counts=True)[1]).pvalue > 0.01
    s, t = times.dyadic()(KEY, N)
    assert (s - t).min() == 1 / 64  # half of it is the smallest step, 1 / 128
    for wrong in (0, 1, 100):
        with pytest.raises(typing.InputError, match=f"sections is {wrong}"):
            times.dyadic(wrong)


def test_an_even_grid():
    s = np.asarray(times.even_grid(8)(KEY, N), np.float64)
    values, counts = np.unique(s, return_counts=True)
    np.testing.assert_array_equal(values, np.arange(1, 9) / 8)
    assert stats.chisquare(counts).pvalue > 0.01


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


WIDER = [
    ("sorted_sides", ("uniform",), ("logit_normal", 0.0, 1.0)),
    ("gap_uniform", ("uniform",)),
    ("gap_below", ("u_shaped", 4.0), ("logit_normal", 0.0, 1.0)),
    ("mixed", 0.5, ("uniform_triangle",), ("sorted_pair", ("arctan_log_normal", 0.0, 1.0))),
    ("dyadic", 16),
    ("even_grid", 16),
    ("uniform_square",),
    ("karras", 10),
    ("fixed", 1.0),
    ("target_first", ("uniform",)),
    ("even_decoding", 3),
    ("even_decoding", 3, ("gap_uniform", ("uniform",))),
]


@pytest.mark.parametrize("wide", [False, True])
def test_samplers_by_name_are_float32_and_drawn_by_the_key(wide):
    one = ("karras", "fixed", "even_grid")
    counts = {spec: 1 if spec[0] in one or spec == ("even_decoding", 3) else 2 for spec in WIDER}
    samplers = {spec: times.sampler_from_name(spec, draws=count) for spec, count in counts.items()}
    with jax.enable_x64(wide):
        drawn = jax.jit(lambda key: [jnp.reshape(jnp.stack(draw(key, 64)), (-1, 64)) for draw in samplers.values()])
        trials = [drawn(jax.random.key(seed)) for seed in (0, 0, 1)]
    for (spec, count), one, again, other in zip(counts.items(), *trials):
        assert one.shape == (count, 64) and one.dtype == jnp.float32 and 0 <= one.min() and one.max() <= 1
        np.testing.assert_array_equal(one, again)
        assert spec[0] == "fixed" or (one != other).any(axis=1).all()
        assert count == 1 or spec[0] == "uniform_square" or (one[1] <= one[0]).all()
        with pytest.raises(typing.InputError, match=rf"{spec[0]}.*draws {count} time"):
            times.sampler_from_name(spec, draws=3 - count)


# Schedules


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


def test_sigmoid_schedule():
    schedule = schedules.sigmoid(100, 300, steepness=25.0, snap=0.005)
    step = np.array([0, 120, 180, 200, 220, 280, 400])
    plain = 1 - special.expit(25 * (step - 200) / 200)
    expected = np.where(plain < 0.005, 0, np.where(plain > 0.995, 1, plain))
    np.testing.assert_allclose(jax.vmap(schedule)(step), expected, rtol=1e-5)
    assert expected[0] == expected[1] == 1 and expected[-1] == expected[-2] == 0 and 0 < expected[3] < 1
    with pytest.raises(typing.InputError, match="starts at 5 and ends at 5"):
        schedules.sigmoid(5, 5)
    values = schedules.sigmoid(0, 100, steepness=5.0, snap=0.1)(jnp.arange(101))
    assert ((values == 0) | ((0.1 <= values) & (values <= 0.9)) | (values == 1)).all() and (jnp.diff(values) <= 0).all()
    assert values.dtype == jnp.float32
