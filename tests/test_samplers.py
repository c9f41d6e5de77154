"""Sampling: exact flow maps on any grid, the orders of the solvers, the number of evaluations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import exact, samplers, typing

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
@pytest.mark.parametrize(("solver", "order"), [(samplers.euler, 1), (samplers.heun, 2)])
@pytest.mark.parametrize(("start", "end"), [(1.0, 0.0), (0.0, 1.0)])
def test_order_of_the_solvers(solver, order, start, end):
    limit, steps, errors = flow().F(data(), start, end), np.array([64, 128, 256]), []
    run = jax.jit(functools.partial(solver, flow().v))
    for n in steps:
        errors.append(np.abs(run(data(), jnp.linspace(start, end, n + 1)) - limit).max())
    assert np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(-order, abs=0.1)


@pytest.mark.parametrize(("solver", "evaluations"), [(samplers.flow_map, 1), (samplers.euler, 1), (samplers.heun, 2)])
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
@pytest.mark.parametrize("solver", [samplers.flow_map, samplers.euler, samplers.heun])
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


@pytest.mark.parametrize("solver", [samplers.flow_map, samplers.euler, samplers.heun])
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


@pytest.mark.usefixtures("x64")  # compiled in float32, the exact map is wrong on XLA's CPU (jax 0.10.2)
@pytest.mark.parametrize("times", [[1.0, 0.0], [1.0, 0.5, 0.0], [1.0, 0.9, 0.4, 0.1, 0.0]])
def test_consistency_sampling_of_an_exact_flow_keeps_the_law_of_the_data(times):
    n, mean, covariance = 40_000, np.array([0.5, -1.0]), np.array([[1.0, 0.6], [0.6, 0.5]])
    keys = jax.random.split(jax.random.key(0), n)
    noise = jax.random.normal(jax.random.key(1), (n, 2))
    run = jax.jit(lambda x, times: samplers.consistency(flow().V, x, times, keys))
    found = np.asarray(run(noise, jnp.array(times)))
    # Five standard errors: of a mean sqrt(C_ii / n), of a covariance sqrt((C_ij^2 + C_ii C_jj) / n).
    variances = np.diag(covariance)
    assert (np.abs(found.mean(0) - mean) < 5 * np.sqrt(variances / n)).all()
    error = np.sqrt((covariance**2 + np.outer(variances, variances)) / n)
    assert (np.abs(np.cov(found.T) - covariance) < 5 * error).all()
    if len(times) == 2:
        np.testing.assert_allclose(found[:500], flow().F(noise[:500], 1.0, 0.0), rtol=1e-9, atol=1e-9)
    else:  # the noise is fresh: little is left of the first
        assert np.abs(found[:500] - flow().F(noise[:500], 1.0, 0.0)).mean() > 0.1


@pytest.mark.usefixtures("x64")
def test_a_row_of_consistency_sampling_depends_on_its_own_key_and_noise():
    keys, times = jax.random.split(jax.random.key(0), 6), samplers.grid(4)
    noise = data()
    ask = lambda rows: samplers.consistency(flow().V, noise[rows], times, keys[rows])
    np.testing.assert_allclose(ask(np.array([4, 1])), ask(np.arange(6))[np.array([4, 1])], rtol=1e-5, atol=1e-6)
    swapped = samplers.consistency(flow().V, noise, times, keys[::-1])
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
