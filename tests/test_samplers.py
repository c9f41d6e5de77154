"""Sampling: exact flow maps on any grid, the orders of the solvers, the number of evaluations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from flowjax import exact, options, paths, samplers, typing

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
def test_exact_flow_maps_are_exact_on_any_grid():
    along = lambda x, times: (samplers.flow_map(flow().V, x, times), flow().F(x, times[0], times[-1]))
    ends = jax.jit(lambda x: {name: along(x, jnp.asarray(times)) for name, times in GRIDS.items()})(data())
    for name, (end, expected) in ends.items():
        np.testing.assert_allclose(end, expected, rtol=1e-10, atol=1e-10, err_msg=name)


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
def test_order_of_the_solvers():
    mixture = exact.mixture(np.array([0.3, 0.7]), np.array([-1.5, 1.0]), np.array([0.6, 0.5]))  # a Gaussian flatters midpoint
    orders, steps = {samplers.euler: 1, samplers.heun: 2, samplers.midpoint: 2}, np.array([64, 128, 256])

    @jax.jit
    def errors(x, start, end):
        limit, grids = mixture.F(x, start, end), [start + (end - start) * jnp.linspace(0.0, 1.0, n + 1) for n in steps]
        return [[jnp.abs(solver(mixture.v, x, times) - limit).max() for times in grids] for solver in orders]

    for start, end in ((1.0, 0.0), (0.0, 1.0)):
        for (solver, order), fall in zip(orders.items(), errors(data()[:, :1], start, end)):
            assert np.polyfit(np.log(steps), np.log(fall), 1)[0] == pytest.approx(-order, abs=0.1), solver.__name__


SOLVERS = [samplers.flow_map, samplers.euler, samplers.heun, samplers.midpoint, samplers.adaptive]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_shape_and_dtype_are_kept(dtype):
    for solver in SOLVERS:
        shapes = []

        def velocity(x, *times, shapes=shapes):
            shapes.extend((t.shape, t.dtype) for t in times)
            return -x * times[0]

        run = lambda x, solver=solver, velocity=velocity: solver(velocity, x, samplers.grid(3))
        end = jax.eval_shape(run, jax.ShapeDtypeStruct((2, 4, 4, 3), dtype))
        assert end.shape == (2, 4, 4, 3) and end.dtype == dtype
        assert set(shapes) == {((), jnp.dtype("float32"))}


@pytest.mark.parametrize("steps", [1, 2, 7, 4.0])
def test_grid(steps):
    np.testing.assert_allclose(samplers.grid(steps), np.linspace(1, 0, int(steps) + 1), atol=1e-7)


@pytest.mark.parametrize("steps", [0, -1, 1.5])
def test_grid_of_no_steps_is_an_error(steps):
    with pytest.raises(typing.InputError, match="whole number of at least 1"):
        samplers.grid(steps)


@pytest.mark.parametrize("times", [1.0, [1.0], [[1.0, 0.0]], []])
def test_times_must_be_a_grid(times):
    for solver in SOLVERS:
        with pytest.raises(typing.InputError, match=r"1-D grid.*samplers\.grid"):
            solver(lambda x, *times: x, jnp.ones((2, 3)), jnp.asarray(times))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("solver", [samplers.euler, samplers.heun])
def test_a_trajectory_passes_through_the_end_of_each_part_of_the_grid(solver):
    times = samplers.grid(12)
    parts = lambda x: [solver(flow().v, x, times[: step + 1]) for step in (3, 6, 9, 12)]
    points, ends = jax.jit(lambda x: (samplers.trajectory(solver, flow().v, x, times, 5), parts(x)))(data())
    assert points.shape == (6, 5, 2)
    np.testing.assert_array_equal(points[:, 0], data())
    np.testing.assert_allclose(points[:, 1:], np.stack(ends, 1), rtol=1e-12, atol=1e-12)
    assert np.abs(np.diff(points, axis=1)).max(axis=(0, 2)).min() > 0.05


@pytest.mark.parametrize(("kept", "steps"), [(2, 6), (7, 6), (2, 1)])
def test_a_trajectory_of_both_ends_or_of_every_step(kept, steps):
    images = jnp.ones((3, 2, 2, 1))
    points = samplers.trajectory(samplers.euler, lambda x, t: -x * t, images, samplers.grid(steps), kept)
    assert points.shape == (3, kept, 2, 2, 1) and points.dtype == images.dtype
    values = np.cumprod([1.0, *(1 + np.arange(steps, 0, -1) / steps**2)])
    np.testing.assert_allclose(points[0, :, 1, 1, 0], values[:: steps // (kept - 1)], rtol=1e-6)


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
    result = noisy(spec, flow, noise, times, path)
    # Standard errors: of a mean sqrt(C_ii / n), of a covariance sqrt((C_ij^2 + C_ii C_jj) / n).
    variances = np.diag(covariance)
    assert (np.abs(result.mean(0) - mean) < 5 * np.sqrt(variances / n)).all()
    error = np.sqrt((covariance**2 + np.outer(variances, variances)) / n)
    assert (np.abs(np.cov(result.T) - covariance) < 5 * error).all()
    alone = flow.F(noise[:500], 1.0, 0.0)
    if case == "consistency, one step":
        np.testing.assert_allclose(result[:500], alone, rtol=1e-9, atol=1e-9)
    else:  # noise was added: the samples are others
        assert np.abs(result[:500] - alone).mean() > 0.1


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(  # the law above stands for the slow ones
    "spec",
    ["consistency", *(pytest.param(spec, marks=pytest.mark.slow) for spec in ("gamma:gamma=0.6", "restart:low=0.1,high=0.7"))],
)
def test_new_noise_leaves_the_modes_of_a_mixture_their_weights(spec):
    """A Kolmogorov-Smirnov test that a right sampler fails in one of a million runs; starting from a wrong law, it fails."""
    weights, means, deviations = np.array([0.3, 0.7]), np.array([-1.5, 1.0]), np.array([0.2, 0.5])
    flow = exact.mixture(weights, means, deviations)
    law = lambda x: (weights * stats.norm.cdf(x[:, None], means, deviations)).sum(axis=1)
    noise = jax.random.normal(jax.random.key(1), (2_000, 1))
    result = noisy(spec, flow, noise, [1.0, 0.6, 0.3, 0.0])[:, 0]
    assert stats.kstest(result, law).pvalue > 1e-6
    assert stats.kstest(result + 0.3, law).pvalue < 1e-6


@pytest.mark.usefixtures("x64")
def test_gamma_lies_between_the_flow_map_and_consistency_sampling():
    V, keys, times = (lambda x, s, t: jnp.sin(x) + s * t), jax.random.split(jax.random.key(0), 6), samplers.grid(4)
    ends = lambda x: [samplers.gamma(V, x, times, keys, gamma=gamma) for gamma in (0, 0.5, 1)]
    others = lambda x: (samplers.flow_map(V, x, times), samplers.consistency(V, x, times, keys))
    (none, half, all_new), (jumps, consistency) = jax.jit(lambda x: (ends(x), others(x)))(data())
    np.testing.assert_allclose(none, jumps, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(all_new, consistency, rtol=1e-9, atol=1e-9)
    assert min(np.abs(half - none).max(), np.abs(half - all_new).max()) > 0.1


def test_gamma_jumps_to_the_share_of_the_noise_that_stays():
    calls = []

    def V(x, s, t):
        jax.debug.callback(lambda s, t: calls.append((float(s), float(t))), s, t)
        return x * 0

    x, keys = jnp.zeros((3, 2)), jax.random.split(jax.random.key(0), 3)
    result = samplers.gamma(V, x, jnp.array([1.0, 0.5, 0.0]), keys, gamma=0.6)
    jax.effects_barrier()
    # sigma / alpha is 1 at t = 0.5, of which sqrt(1 - 0.36) = 0.8 stay: m / (1 - m) = 0.8.
    np.testing.assert_allclose(sorted(calls), [(0.5, 0.0), (1.0, 0.8 / 1.8)], atol=1e-6)
    assert 0 < np.abs(result).max() < 2


@pytest.mark.parametrize("steps", [5, 10])
def test_restart_adds_no_time_that_the_grid_has(steps):
    """0.2 and 0.6 are on these grids but for a rounding error, which is no interval."""
    times = samplers.restarts(samplers.grid(steps))
    assert np.abs(np.diff(times)).min() > 0.05 and len(times) == steps + 1 + 2 * (1 + 2 * steps // 5)


def test_restart_by_name_has_the_options_of_its_times():
    assert options.numbers(samplers.SAMPLERS["restart"].run) == options.numbers(samplers.restarts)


def test_restart_evaluates_where_times_fall_and_draws_where_they_rise():
    calls = []

    def V(x, s, t):
        jax.debug.callback(lambda s, t: calls.append((round(float(s), 4), round(float(t), 4))), s, t)
        return x * 0

    x, keys = jnp.zeros((3, 2)), jax.random.split(jax.random.key(0), 3)
    chosen = samplers.sampler_from_name("restart:low=0.25,high=0.75,repeats=2")
    end = chosen.run(V, x, np.array([1.0, 0.5, 0.0]), keys)
    jax.effects_barrier()
    once = [(0.75, 0.5), (0.5, 0.25)]
    assert sorted(calls) == sorted([(1.0, 0.5), (0.5, 0.25), *once, *once, (0.25, 0.0)])
    assert chosen.evaluations(np.array([1.0, 0.5, 0.0])) == len(calls)
    # V is 0 and x began at 0: what is left is the noise of both rises, the first scaled down by the second.
    z = lambda rise: jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, rise), (2,)))(keys)
    kept, new = (1 - 0.75) / (1 - 0.25), np.sqrt(0.75**2 - (0.25 * 0.25 / 0.75) ** 2)
    np.testing.assert_allclose(end, kept * new * z(2) + new * z(5), rtol=1e-4)


@pytest.mark.parametrize(
    "spec", ["restart:low=0.6,high=0.2", "restart:high=1", "restart:repeats=0", "restart:low=-0.1", "gamma:gamma=2"]
)
def test_options_out_of_range_are_an_error(spec):
    with pytest.raises(typing.InputError, match=r"expected .*e\.g\. (restart|gamma):"):
        samplers.check_sampler(spec, 2)


@pytest.mark.usefixtures("x64")
def test_a_row_of_consistency_sampling_depends_on_its_key_and_noise_alone():
    keys, times = jax.random.split(jax.random.key(0), 6), samplers.grid(4)
    noise = data()
    sample = jax.jit(lambda x, keys: samplers.consistency(flow().V, x, times, keys))
    order = np.array([4, 1, 0, 5, 3, 2])
    straight = sample(noise, keys)
    np.testing.assert_allclose(sample(noise[order], keys[order]), straight[order], rtol=1e-5, atol=1e-6)
    assert (np.abs(sample(noise, keys[::-1]) - straight).max(axis=1) > 1e-3).all()


def test_consistency_sampling_jumps_to_the_data_and_adds_the_noise_of_the_next_time():
    """Written out with a velocity that is no flow's: every step of it shows, and its noise is new at each time."""
    calls, x, keys = [], jnp.asarray(data(), jnp.float32), jax.random.split(jax.random.key(3), 6)

    def V(x, s, t):
        jax.debug.callback(lambda s, t: calls.append((float(s), float(t))), s, t)
        return x * 0.5 + s

    grid = jnp.array([1.0, 0.6, 0.3, 0.0])
    last = samplers.consistency(V, x, grid, keys)
    jax.effects_barrier()
    np.testing.assert_allclose(sorted(calls), [(0.3, 0), (0.6, 0), (1, 0)], atol=1e-6)
    jump = lambda x, s: x - s * (x * 0.5 + s)
    ends = [x]  # after one, two and three steps of the same noise
    for n in (2, 3):
        ends.append(samplers.consistency(V, x, grid[:n], keys))
    first = (ends[1] - 0.4 * jump(x, 1.0)) / 0.6
    second = (ends[2] - 0.7 * jump(ends[1], 0.6)) / 0.3
    np.testing.assert_allclose(last, jump(ends[2], 0.3), rtol=1e-5, atol=1e-6)
    for z in (first, second):
        assert 0.3 < z.std() < 2.0
    assert np.abs(first - second).mean() > 0.3


def test_the_exact_map_of_many_rows_in_float32_is_right_inside_the_scan():
    flow = exact.gaussian(np.array([0.5, -1.0]), np.array([[1.0, 0.6], [0.6, 0.5]]))
    x = jax.random.normal(jax.random.key(1), (4_000, 2))
    result = jax.jit(lambda x, times: samplers.flow_map(flow.V, x, times))(x, jnp.array([1.0, 0.5, 0.0]))
    np.testing.assert_allclose(result, flow.F(x, 1.0, 0.0), atol=1e-5)


# Grids, names and options, inversion


@pytest.mark.parametrize(
    "grid",
    [
        "uniform",
        "bent:middle=0.3",
        "decoding",
        "decoding:categories=5",
        "shifted",
        "shifted:shift=0.5",
        "karras",
        "karras:rho=3,sigma_max=20",
    ],
)
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


def test_a_bent_grid_passes_through_its_middle():
    for middle in (0.3, 0.55):
        np.testing.assert_allclose(samplers.grid_from_name(f"bent:middle={middle}")(2), [1, middle, 0], rtol=1e-6)
        np.testing.assert_allclose(samplers.bent(4, middle=middle), [1, (1 + middle) / 2, middle, middle / 2, 0], rtol=1e-6)
    np.testing.assert_allclose(samplers.bent(5), samplers.grid(5), rtol=1e-6)
    with pytest.raises(typing.InputError, match="bent: middle is 1.5; expected a time between 0 and 1"):
        samplers.bent(2, middle=1.5)
    with pytest.raises(typing.InputError, match="decoding: categories is 1; expected a whole number of at least 2"):
        samplers.decoding(2, categories=1)


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
    "option that is no number": ("shifted:shift=far", 3, "expected a finite number"),
    "option out of range": ("shifted:shift=-1", 3, "above 0"),
    "levels out of order": ("karras:sigma_min=90", 3, "sigma_min < sigma_max"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_grids_are_an_error(case):
    grid, steps, message = BAD[case]
    with pytest.raises(typing.InputError, match=message):
        samplers.check_sampler("flow_map", steps, grid)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("hoin", "unknown sampler 'hoin'.*Known: flow_map"),
        ("heun:rtol=1", "heun has no option 'rtol'; expected none: heun"),
        ("gamma:gama=1", "no option 'gama'; expected gamma, e.g. gamma:gamma=0.5"),
        ("adaptive:rtol=0", "above 0"),
        ("adaptive:rtol=small", "expected a finite number"),
    ],
)
def test_bad_samplers_are_an_error(spec, message):
    with pytest.raises(typing.InputError, match=message):
        samplers.check_sampler(spec, 2)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_inversion_then_sampling_returns_the_data():
    """To the accuracy of the solver: rounding for the flow map, the tolerance for the adaptive one, n^-order for the others."""
    close = {
        "flow_map": 1e-9,
        "euler": 0.2,
        "heun": 4e-3,
        "midpoint": 4e-3,
        "adaptive": 1e-3,
        "adaptive:rtol=1e-8,atol=1e-8": 1e-6,
    }
    assert {name for name, entry in samplers.SAMPLERS.items() if not entry.noisy} <= set(close)
    times = np.linspace(1, 0, 65)

    @jax.jit
    def both(x):
        run = {spec: samplers.sampler_from_name(spec).run for spec in close}
        noise = {spec: run[spec](flow().V, x, times[::-1], None) for spec in close}
        return {spec: (noise[spec], run[spec](flow().V, noise[spec], times, None)) for spec in close}, flow().F(x, 0.0, 1.0)

    ends, expected = both(data())
    for spec, (noise, back) in ends.items():
        np.testing.assert_allclose(back, data(), atol=close[spec], err_msg=spec)
        np.testing.assert_allclose(noise, expected, atol=close[spec], err_msg=spec)
        assert np.abs(noise - data()).max() > 0.3


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_the_adaptive_solver_meets_its_tolerance_with_more_evaluations_for_a_tighter_one():
    counts, errors = [], []
    for tolerance in (1e-3, 1e-6, 1e-9):
        calls = []

        def v(x, t, calls=calls):
            jax.debug.callback(lambda: calls.append(1))
            return flow().v(x, t)

        result = jax.jit(lambda x, v=v, tol=tolerance: samplers.adaptive(v, x, samplers.grid(1), rtol=tol, atol=tol))(data())
        jax.effects_barrier()
        errors.append(np.abs(result - flow().F(data(), 1.0, 0.0)).max())
        counts.append(len(calls))
    assert (np.array(errors) < [1e-2, 1e-5, 1e-8]).all()
    assert counts[0] < counts[1] < counts[2]


@pytest.mark.slow
def test_evaluations_are_those_of_a_run():
    """`Sampler.evaluations` is the number of calls of V; that of the adaptive solver depends on the data, see above."""
    keys, x = jax.random.split(jax.random.key(0), 2), jnp.ones((2, 3))
    for name, entry in samplers.SAMPLERS.items():
        assert (entry.evaluations is None) == (name == "adaptive")
        for steps in (1, 4) if entry.evaluations else ():
            calls, times = [], np.asarray(samplers.grid(steps))

            def V(x, s, t, inputs=None, calls=calls):
                jax.debug.callback(lambda: calls.append(1))
                return -x

            samplers.sampler_from_name(name).run(V, x, times, keys)
            jax.effects_barrier()
            assert calls and entry.evaluations(times) == len(calls), name
