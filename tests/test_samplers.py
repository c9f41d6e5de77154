"""Sampling: exact flow maps on any grid, the orders of the solvers, the number of evaluations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from flowjax import exact, paths, samplers, typing

GRIDS = {
    "one step": [1.0, 0.0],
    "four steps": [1.0, 0.75, 0.5, 0.25, 0.0],
    "uneven": [0.9, 0.85, 0.2, 0.05],
    "backward": [0.0, 0.3, 1.0],
    "there and back": [0.5, 1.0, 0.1, 0.5],
    "repeated": [1.0, 1.0, 0.4, 0.4],
}


@functools.cache
def flow():
    return exact.gaussian(np.array([0.5, -1.0]), np.array([[1.0, 0.6], [0.6, 0.5]]))


def data():
    return jnp.asarray(np.random.default_rng(0).normal(size=(6, 2)))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("grid", GRIDS)
def test_exact_flow_maps_are_exact_on_any_grid(grid):
    times = jnp.asarray(GRIDS[grid])
    found = jax.jit(functools.partial(samplers.flow_map, flow().V))(data(), times)
    np.testing.assert_allclose(found, flow().F(data(), times[0], times[-1]), rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("x64")
def test_two_steps_differ_from_one_for_an_inexact_map():
    V = lambda x, s, t: jnp.sin(x) + s * t
    one = samplers.flow_map(V, data(), samplers.grid(1))
    two = samplers.flow_map(V, data(), samplers.grid(2))
    np.testing.assert_allclose(one, data() - V(data(), 1.0, 0.0), rtol=1e-12)
    middle = data() - 0.5 * V(data(), 1.0, 0.5)
    np.testing.assert_allclose(two, middle - 0.5 * V(middle, 0.5, 0.0), rtol=1e-12)
    assert np.abs(one - two).max() > 0.1


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("solver", "order"), [(samplers.euler, 1), (samplers.heun, 2), (samplers.midpoint, 2)])
@pytest.mark.parametrize(("start", "end"), [(1.0, 0.0), (0.0, 1.0)])
def test_order_of_the_solvers(solver, order, start, end):
    mixture = exact.mixture(np.array([0.3, 0.7]), np.array([-1.5, 1.0]), np.array([0.6, 0.5]))  # a Gaussian flatters midpoint
    x = data()[:, :1]
    limit, steps, errors = mixture.F(x, start, end), np.array([64, 128, 256]), []
    run = jax.jit(functools.partial(solver, mixture.v))
    for n in steps:
        errors.append(np.abs(run(x, jnp.linspace(start, end, n + 1)) - limit).max())
    assert np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(-order, abs=0.1)


@pytest.mark.parametrize(
    ("solver", "evaluations"), [(samplers.flow_map, 1), (samplers.euler, 1), (samplers.heun, 2), (samplers.midpoint, 2)]
)
@pytest.mark.parametrize("steps", [1, 5])
def test_evaluations_an_interval(solver, evaluations, steps):
    seen = []

    def velocity(x, *times):
        jax.debug.callback(lambda *times: seen.append(times), *times)
        return -x

    jax.jit(functools.partial(solver, velocity))(jnp.ones((2, 3)), samplers.grid(steps)).block_until_ready()
    jax.effects_barrier()
    assert len(seen) == evaluations * steps


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("solver", [samplers.flow_map, samplers.euler, samplers.heun, samplers.midpoint, samplers.adaptive])
def test_shape_and_dtype_are_kept(solver, dtype):
    x = jnp.ones((2, 4, 4, 3), dtype)
    shapes = []

    def velocity(x, *times):
        shapes.extend((t.shape, t.dtype) for t in times)
        return -x * times[0]

    found = solver(velocity, x, samplers.grid(3))
    assert found.shape == x.shape and found.dtype == x.dtype
    assert set(shapes) == {((), jnp.dtype("float32"))}


@pytest.mark.parametrize("steps", [1, 2, 7, 4.0])
def test_grid(steps):
    np.testing.assert_allclose(samplers.grid(steps), np.linspace(1, 0, int(steps) + 1), atol=1e-7)


@pytest.mark.parametrize("steps", [0, -1, 1.5])
def test_grid_of_no_steps_is_an_error(steps):
    with pytest.raises(typing.InputError, match="whole number of at least 1"):
        samplers.grid(steps)


@pytest.mark.parametrize("solver", [samplers.flow_map, samplers.euler, samplers.heun, samplers.midpoint, samplers.adaptive])
@pytest.mark.parametrize("times", [1.0, [1.0], [[1.0, 0.0]], []])
def test_times_must_be_a_grid(solver, times):
    with pytest.raises(typing.InputError, match=r"1-D grid.*samplers\.grid"):
        solver(lambda x, *times: x, jnp.ones((2, 3)), jnp.asarray(times))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("solver", [samplers.euler, samplers.heun])
def test_a_trajectory_passes_through_what_the_solver_gives_to_each_time(solver):
    times = samplers.grid(12)
    found = jax.jit(lambda x: samplers.trajectory(solver, flow().v, x, times, 5))(data())
    assert found.shape == (6, 5, 2)
    np.testing.assert_array_equal(found[:, 0], data())
    for point, step in enumerate((3, 6, 9, 12), start=1):
        np.testing.assert_allclose(found[:, point], solver(flow().v, data(), times[: step + 1]), rtol=1e-12, atol=1e-12)
    assert np.abs(np.diff(found, axis=1)).max(axis=(0, 2)).min() > 0.05


@pytest.mark.parametrize(("kept", "steps"), [(2, 6), (7, 6), (2, 1)])
def test_a_trajectory_of_both_ends_or_of_every_step(kept, steps):
    images = jnp.ones((3, 2, 2, 1))
    found = samplers.trajectory(samplers.euler, lambda x, t: -x * t, images, samplers.grid(steps), kept)
    assert found.shape == (3, kept, 2, 2, 1) and found.dtype == images.dtype
    way = [1.0]
    for s in np.arange(steps, 0, -1) / steps:
        way.append(way[-1] * (1 + s / steps))
    np.testing.assert_allclose(found[0, :, 1, 1, 0], np.array(way)[:: steps // (kept - 1)], rtol=1e-6)


# Samplers with new noise


LAW = np.array([0.5, -1.0]), np.array([[1.0, 0.6], [0.6, 0.5]])
NOISY = {
    "consistency, one step": ("consistency", [1.0, 0.0]),
    "consistency": ("consistency", [1.0, 0.9, 0.4, 0.1, 0.0]),
    "gamma 0.3": ("gamma:gamma=0.3", [1.0, 0.5, 0.0]),
    "gamma 0.9": ("gamma:gamma=0.9", [1.0, 0.9, 0.4, 0.1, 0.0]),
    "restart": ("restart", [1.0, 0.5, 0.0]),
    "restart from the data": ("restart:low=0,high=0.9,repeats=3", [1.0, 0.5, 0.0]),
}


def noisy(spec, flow, x, times, path="linear"):
    """Samples of a sampler with new noise from an exact flow, [n, ...], from n points at times[0]."""
    keys = jax.random.split(jax.random.key(0), len(x))
    run = lambda x: samplers.sampler_from_name(spec, path).run(flow.V, x, np.array(times), keys)
    quick = {"xla_backend_optimization_level": 0}  # the graphs take XLA seconds and run once
    return np.asarray(jax.jit(run, compiler_options=quick)(x))


@pytest.mark.usefixtures("x64")  # compiled in float32, the exact map is wrong on XLA's CPU (jax 0.10.2)
@pytest.mark.parametrize(
    ("case", "path"), [(c, "linear") for c in NOISY] + [(c, "trigonometric") for c in ("gamma 0.9", "restart")]
)
def test_new_noise_leaves_the_exact_law_unchanged(case, path):
    """Means and covariances within five standard errors, which a right sampler misses in three of a million runs."""
    (spec, times), n, (mean, covariance) = NOISY[case], 20_000, LAW
    flow = exact.gaussian(mean, covariance, paths.PATHS[path])
    noise = jax.random.normal(jax.random.key(1), (n, 2))
    found = noisy(spec, flow, noise, times, path)
    # Standard errors: of a mean sqrt(C_ii / n), of a covariance sqrt((C_ij^2 + C_ii C_jj) / n).
    variances = np.diag(covariance)
    assert (np.abs(found.mean(0) - mean) < 5 * np.sqrt(variances / n)).all()
    error = np.sqrt((covariance**2 + np.outer(variances, variances)) / n)
    assert (np.abs(np.cov(found.T) - covariance) < 5 * error).all()
    alone = flow.F(noise[:500], 1.0, 0.0)
    if case == "consistency, one step":
        np.testing.assert_allclose(found[:500], alone, rtol=1e-9, atol=1e-9)
    else:  # noise was added: the samples are others
        assert np.abs(found[:500] - alone).mean() > 0.1


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("spec", ["consistency", "gamma:gamma=0.6", "restart:low=0.1,high=0.7,repeats=2"])
def test_new_noise_leaves_the_modes_of_a_mixture_their_weights(spec):
    """A Kolmogorov-Smirnov test that a right sampler fails in one of a million runs; starting from a wrong law, it fails."""
    weights, means, deviations = np.array([0.3, 0.7]), np.array([-1.5, 1.0]), np.array([0.2, 0.5])
    flow = exact.mixture(weights, means, deviations)
    law = lambda x: (weights * stats.norm.cdf(x[:, None], means, deviations)).sum(axis=1)
    noise = jax.random.normal(jax.random.key(1), (2_000, 1))
    found = noisy(spec, flow, noise, [1.0, 0.6, 0.3, 0.0])[:, 0]
    assert stats.kstest(found, law).pvalue > 1e-6
    assert stats.kstest(found + 0.3, law).pvalue < 1e-6


@pytest.mark.usefixtures("x64")
def test_gamma_lies_between_the_flow_map_and_consistency_sampling():
    V, keys, times = (lambda x, s, t: jnp.sin(x) + s * t), jax.random.split(jax.random.key(0), 6), samplers.grid(4)
    ask = lambda gamma: jax.jit(lambda x: samplers.gamma(V, x, times, keys, gamma=gamma))(data())
    np.testing.assert_allclose(ask(0), samplers.flow_map(V, data(), times), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(ask(1), samplers.consistency(V, data(), times, keys), rtol=1e-9, atol=1e-9)
    assert min(np.abs(ask(0.5) - ask(0)).max(), np.abs(ask(0.5) - ask(1)).max()) > 0.1


def test_gamma_jumps_to_the_share_of_the_noise_that_stays():
    asked = []

    def V(x, s, t):
        jax.debug.callback(lambda s, t: asked.append((float(s), float(t))), s, t)
        return x * 0

    x, keys = jnp.zeros((3, 2)), jax.random.split(jax.random.key(0), 3)
    found = samplers.gamma(V, x, jnp.array([1.0, 0.5, 0.0]), keys, gamma=0.6)
    jax.effects_barrier()
    # sigma / alpha is 1 at t = 0.5, of which sqrt(1 - 0.36) = 0.8 stay: m / (1 - m) = 0.8.
    np.testing.assert_allclose(sorted(asked), [(0.5, 0.0), (1.0, 0.8 / 1.8)], atol=1e-6)
    assert 0 < np.abs(found).max() < 2


@pytest.mark.parametrize("steps", [5, 10])
def test_restart_takes_a_time_of_the_grid_for_its_own(steps):
    """0.2 and 0.6 are on these grids but for a rounding error, which is no interval."""
    times = samplers.restarts(samplers.grid(steps))
    assert np.abs(np.diff(times)).min() > 0.05 and len(times) == steps + 1 + 2 * (1 + 2 * steps // 5)


def test_restart_asks_where_times_fall_and_draws_where_they_rise():
    asked = []

    def V(x, s, t):
        jax.debug.callback(lambda s, t: asked.append((round(float(s), 4), round(float(t), 4))), s, t)
        return x * 0

    x, keys = jnp.zeros((3, 2)), jax.random.split(jax.random.key(0), 3)
    chosen = samplers.sampler_from_name("restart:low=0.25,high=0.75,repeats=2")
    ways = [chosen.run(V, x, np.array([1.0, 0.5, 0.0]), keys)]
    jax.effects_barrier()
    once = [(0.75, 0.5), (0.5, 0.25)]
    assert sorted(asked) == sorted([(1.0, 0.5), (0.5, 0.25), *once, *once, (0.25, 0.0)])
    assert chosen.evaluations(np.array([1.0, 0.5, 0.0])) == len(asked)
    # V is 0 and x began at 0: what is left is the noise of both rises, the first scaled down by the second.
    z = lambda rise: jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, rise), (2,)))(keys)
    kept, new = (1 - 0.75) / (1 - 0.25), np.sqrt(0.75**2 - (0.25 * 0.25 / 0.75) ** 2)
    np.testing.assert_allclose(ways[0], kept * new * z(2) + new * z(5), rtol=1e-4)


@pytest.mark.parametrize(
    "spec", ["restart:low=0.6,high=0.2", "restart:high=1", "restart:repeats=0", "restart:low=-0.1", "gamma:gamma=2"]
)
def test_options_out_of_range_are_told(spec):
    with pytest.raises(typing.InputError, match=r"expected .*e\.g\. (restart|gamma):"):
        samplers.check_sampler(spec, 2)


@pytest.mark.usefixtures("x64")
def test_a_row_of_consistency_sampling_depends_on_its_own_key_and_noise():
    keys, times = jax.random.split(jax.random.key(0), 6), samplers.grid(4)
    noise = data()
    ask = jax.jit(lambda rows: samplers.consistency(flow().V, noise[rows], times, keys[rows]))
    np.testing.assert_allclose(ask(np.array([4, 1])), ask(np.arange(6))[np.array([4, 1])], rtol=1e-5, atol=1e-6)
    swapped = jax.jit(lambda keys: samplers.consistency(flow().V, noise, times, keys))(keys[::-1])
    assert (np.abs(swapped - ask(np.arange(6))).max(axis=1) > 1e-3).all()


def test_consistency_sampling_jumps_to_the_data_and_adds_the_noise_of_the_next_time():
    """Written out with a velocity that is no flow's: every step of it shows, and its noise is new at each time."""
    asked, x, keys = [], jnp.asarray(data(), jnp.float32), jax.random.split(jax.random.key(3), 6)

    def V(x, s, t):
        jax.debug.callback(lambda s, t: asked.append((float(s), float(t))), s, t)
        return x * 0.5 + s

    last = samplers.consistency(V, x, jnp.array([1.0, 0.6, 0.3, 0.0]), keys)
    jax.effects_barrier()
    np.testing.assert_allclose(sorted(asked), [(0.3, 0), (0.6, 0), (1, 0)], atol=1e-6)
    jump = lambda x, s: x - s * (x * 0.5 + s)
    ends = [x]  # after one, two and three steps of the same noise
    for n in (2, 3):
        ends.append(samplers.consistency(V, x, jnp.array([1.0, 0.6, 0.3, 0.0])[:n], keys))
    first = (ends[1] - 0.4 * jump(x, 1.0)) / 0.6
    second = (ends[2] - 0.7 * jump(ends[1], 0.6)) / 0.3
    np.testing.assert_allclose(last, jump(ends[2], 0.3), rtol=1e-5, atol=1e-6)
    for z in (first, second):
        assert 0.3 < z.std() < 2.0
    assert np.abs(first - second).mean() > 0.3


def test_the_exact_map_of_many_rows_in_float32_is_right_inside_the_scan():
    flow = exact.gaussian(np.array([0.5, -1.0]), np.array([[1.0, 0.6], [0.6, 0.5]]))
    x = jax.random.normal(jax.random.key(1), (4_000, 2))
    found = jax.jit(lambda x, times: samplers.flow_map(flow.V, x, times))(x, jnp.array([1.0, 0.5, 0.0]))
    np.testing.assert_allclose(found, flow.F(x, 1.0, 0.0), atol=1e-5)


# Grids, names and options, inversion


@pytest.mark.parametrize("grid", ["uniform", "shifted", "shifted:shift=0.5", "karras", "karras:rho=3,sigma_max=20"])
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_grids_fall_from_noise_to_data(grid, steps):
    times = samplers.grid_from_name(grid)(steps)
    assert len(times) == steps + 1 and times[0] == 1 and times[-1] == 0 and (np.diff(times) < 0).all()


def test_shifted_and_karras_grids_are_those_of_the_papers():
    u = np.linspace(1, 0, 6)
    np.testing.assert_allclose(samplers.shifted(5, shift=2.0), 2 * u / (1 + u), rtol=1e-6)
    np.testing.assert_allclose(samplers.shifted(5, shift=1.0), u, atol=1e-7)
    sigma = (80 ** (1 / 7) + np.arange(5) / 4 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(samplers.karras(5)[1:-1], sigma[1:] / (1 + sigma[1:]), rtol=1e-5)


def test_a_grid_may_be_given():
    np.testing.assert_allclose(samplers.grid_from_name("1,0.8,0.3,0")(3), [1, 0.8, 0.3, 0])


BAD = {
    "not from noise": ("0.9,0.5,0", 2, "fall from 1"),
    "not to data": ("1,0.5,0.1", 2, "to 0"),
    "not falling": ("1,0.2,0.6,0", 3, "fall"),
    "no number": ("1,half,0", 2, "expected a name or times"),
    "other number of steps": ("1,0.5,0", 3, "has 2 step"),
    "unknown grid": ("karas", 3, "did you mean karras"),
    "unknown option": ("karras:shift=3", 3, "no option 'shift'.*sigma_min"),
    "option that is no number": ("shifted:shift=far", 3, "expected a number"),
    "option out of range": ("shifted:shift=-1", 3, "above 0"),
    "levels out of order": ("karras:sigma_min=90", 3, "sigma_min < sigma_max"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_grids_are_told(case):
    grid, steps, said = BAD[case]
    with pytest.raises(typing.InputError, match=said):
        samplers.check_sampler("flow_map", steps, grid)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("hoin", "unknown sampler 'hoin'.*Known: flow_map"),
        ("heun:rtol=1", "heun has no option 'rtol'; expected none: heun"),
        ("gamma:gama=1", "no option 'gama'; expected gamma, e.g. gamma:gamma=0.5"),
        ("adaptive:rtol=0", "above 0"),
        ("adaptive:rtol=small", "expected a number"),
    ],
)
def test_bad_samplers_are_told(spec, said):
    with pytest.raises(typing.InputError, match=said):
        samplers.check_sampler(spec, 2)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "spec", [name for name, entry in samplers.SAMPLERS.items() if not entry.noisy] + ["adaptive:rtol=1e-8,atol=1e-8"]
)
def test_inversion_then_sampling_returns_the_data(spec):
    """To the accuracy of the solver: rounding for the flow map, the tolerance for the adaptive one, n^-order for the others."""
    times, chosen = np.linspace(1, 0, 65), samplers.sampler_from_name(spec)
    run = jax.jit(lambda x, times: chosen.run(flow().V, x, times, None))
    noise = run(data(), times[::-1])
    back = run(noise, times)
    close = {"flow_map": 1e-9, "euler": 0.2, "heun": 4e-3, "midpoint": 4e-3, "adaptive": 1e-3}
    tolerance = 1e-6 if "1e-8" in spec else close[spec]
    np.testing.assert_allclose(back, data(), atol=tolerance)
    np.testing.assert_allclose(noise, flow().F(data(), 0.0, 1.0), atol=tolerance)
    assert np.abs(noise - data()).max() > 0.3


@pytest.mark.usefixtures("x64")
def test_the_adaptive_solver_meets_its_tolerance_and_asks_more_for_a_tighter_one():
    counts, errors = [], []
    for tolerance in (1e-3, 1e-6, 1e-9):
        asked = []

        def v(x, t, asked=asked):
            jax.debug.callback(lambda: asked.append(1))
            return flow().v(x, t)

        found = jax.jit(lambda x, v=v, tol=tolerance: samplers.adaptive(v, x, samplers.grid(1), rtol=tol, atol=tol))(data())
        jax.effects_barrier()
        errors.append(np.abs(found - flow().F(data(), 1.0, 0.0)).max())
        counts.append(len(asked))
    assert (np.array(errors) < [1e-2, 1e-5, 1e-8]).all()
    assert counts[0] < counts[1] < counts[2]


def test_each_sampler_says_how_often_it_evaluates():
    """What `Sampler.evaluations` says is what a run asks of V."""
    for name, entry in samplers.SAMPLERS.items():
        asked = []

        def V(x, s, t, asked=asked):
            jax.debug.callback(lambda: asked.append(1))
            return -x

        times = np.asarray(samplers.grid(3))
        samplers.sampler_from_name(name).run(V, jnp.ones((2, 3)), times, jax.random.split(jax.random.key(0), 2))
        jax.effects_barrier()
        assert asked and (entry.evaluations is None or entry.evaluations(times) == len(asked)), name
