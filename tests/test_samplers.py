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
