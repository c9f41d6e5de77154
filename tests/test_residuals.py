"""The rules of flow maps as measures: zero on exact flows, known where a map is known to break them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import exact, paths, residuals
from flowjax.data import points

GRID = np.linspace(0.05, 0.95, 4)


def cloud(n=32):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(n, 2))), jnp.asarray(rng.normal(size=(n, 2)))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("path", ["linear", "trigonometric"])
@pytest.mark.parametrize("rule", residuals.RULES)
def test_an_exact_flow_map_breaks_no_rule(rule, path):
    flow = exact.gaussian(np.array([0.5, -1.0]), np.array([[1.0, 0.6], [0.6, 0.5]]), paths.PATHS[path])
    found = residuals.error_map(residuals.RULES[rule], flow.V, *cloud(), GRID, paths.PATHS[path])
    below = np.tril_indices(4)
    assert np.isnan(np.asarray(found)[below[0], below[1]][below[0] != below[1]]).all()  # target t above source s
    assert np.nanmax(found) < 1e-9 and np.isfinite(np.asarray(found)[below[1], below[0]]).all()


@pytest.mark.usefixtures("x64")
def test_a_straight_map_breaks_each_rule_by_what_one_can_write_down():
    """V = x: F = (1 + t - s) x, on x = eps of one coordinate, so that each residual is a known multiple of x."""
    V = lambda x, s, t: x
    x, s, t = jnp.ones((3, 1)), jnp.full((3, 1), 0.8), jnp.full((3, 1), 0.3)
    gap = -0.5
    np.testing.assert_allclose(residuals.lagrangian(V, x, s, t), 1 - (1 + gap), rtol=1e-12)
    np.testing.assert_allclose(residuals.eulerian(V, x, s, t), -1 + (1 + gap), rtol=1e-12)
    np.testing.assert_allclose(residuals.compositional(V, x, s, t), 1 - ((1 + gap / 2) ** 2 - 1) / gap, rtol=1e-12)
    np.testing.assert_allclose(residuals.true_error(lambda x, s, t: 3 * x)(V, x, s, t), -2, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_a_map_of_errors_has_the_target_down_and_the_source_across():
    found = residuals.error_map(
        lambda V, x, s, t: V(x, s, t), lambda x, s, t: jnp.broadcast_to(s + 10 * t, x.shape), *cloud(), GRID
    )
    for row, t in enumerate(GRID):
        for column, s in enumerate(GRID):
            assert np.isnan(found[row, column]) if t > s else found[row, column] == pytest.approx(s + 10 * t, rel=1e-6)


@pytest.mark.usefixtures("x64")
def test_the_points_are_on_the_path_and_the_mean_is_quadratic():
    x0, eps = cloud()
    found = residuals.error_map(lambda V, x, s, t: x, None, x0, eps, GRID, paths.trigonometric)
    s = GRID[2]
    x = np.cos(np.pi / 2 * s) * x0 + np.sin(np.pi / 2 * s) * eps
    assert found[1, 2] == pytest.approx(np.sqrt(np.mean(x**2)), rel=1e-6)


@pytest.mark.usefixtures("x64")
def test_the_flow_of_a_velocity_is_its_exact_map():
    """The reference of the pictures, by Heun's method, against a closed form, with times of its own in every row."""
    flow = exact.gaussian(np.array([0.5, -1.0]), np.array([[1.0, 0.6], [0.6, 0.5]]))
    x, _ = cloud(4)
    s, t = jnp.array([1.0, 0.9, 0.5, 0.4])[:, None], jnp.array([0.0, 0.2, 0.5, 0.39])[:, None]
    np.testing.assert_allclose(residuals.along(flow.v)(x, s, t), flow.V(x, s, t), atol=2e-4)
    halves = [np.abs(residuals.along(flow.v, n)(x, s, t) - flow.V(x, s, t)).max() for n in (32, 64)]
    assert halves[1] < 0.3 * halves[0]


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_the_exact_flow_of_points_breaks_its_rules_by_the_error_of_the_solver_alone():
    v = points.VELOCITIES["eight_gaussians"]
    x0 = jnp.asarray(points.eight_gaussians(np.random.default_rng(0), 64), jnp.float64)
    maps = residuals.error_maps(residuals.along(v), x0, paths.linear, [0.03, 0.5, 0.97], residuals.along(v, 256))
    assert set(maps) == {*residuals.RULES, "true error"}
    for values in maps.values():
        assert 0 < residuals.root_mean_square(values) < 0.05
    wrong = residuals.error_maps(
        lambda x, s, t: 1.2 * residuals.along(v)(x, s, t), x0, paths.linear, [0.03, 0.5, 0.97], residuals.along(v)
    )
    assert residuals.root_mean_square(wrong["true error"]) > 0.1


@pytest.mark.usefixtures("x64")
def test_error_maps_work_on_images_with_labels():
    net = functools.partial(lambda label, x, s, t: x * label[:, None, None, None], jnp.arange(5))
    x0 = jnp.ones((5, 2, 2, 1))
    found = jax.jit(lambda x0: residuals.error_map(residuals.lagrangian, net, x0, 2 * x0, GRID))(x0)
    assert found.shape == (4, 4) and np.nanmax(found) > 0
