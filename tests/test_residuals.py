"""Residuals: zero on exact flows, known where a map is known not to be a flow map, on R^n and on the sphere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import exact, paths, residuals, spaces
from flowjax.data import points

pytestmark = pytest.mark.usefixtures("x64")
GRID = np.linspace(0.05, 0.95, 4)
LAW = np.array([0.5, -1.0]), np.array([[1.0, 0.6], [0.6, 0.5]])


def cloud(n=32):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(n, 2))), jnp.asarray(rng.normal(size=(n, 2)))


@pytest.mark.parametrize("path", [paths.linear, paths.trigonometric], ids=["linear", "trigonometric"])
def test_an_exact_flow_map_has_no_residual(path):
    flow = exact.gaussian(*LAW, path)
    maps = jax.jit(
        lambda x0, eps: {
            name: residuals.error_map(rule, flow.V, x0, eps, GRID, path) for name, rule in residuals.rules(path.space).items()
        }
    )(*cloud())
    below = np.tril_indices(4)
    for values in map(np.asarray, maps.values()):
        assert np.isnan(values[below[0], below[1]][below[0] != below[1]]).all()  # target t above source s
        assert np.nanmax(values) < 1e-9 and np.isfinite(values[below[1], below[0]]).all()


def test_a_straight_map_has_the_residuals_that_one_can_write_down():
    """V = x: F = (1 + t - s) x, on x = eps of one coordinate, so that each residual is a known multiple of x."""
    V = lambda x, s, t: x
    x, s, t = jnp.ones((3, 1)), jnp.full((3, 1), 0.8), jnp.full((3, 1), 0.3)
    gap = -0.5
    np.testing.assert_allclose(residuals.lagrangian(V, x, s, t), 1 - (1 + gap), rtol=1e-12)
    np.testing.assert_allclose(residuals.eulerian(V, x, s, t), -1 + (1 + gap), rtol=1e-12)
    np.testing.assert_allclose(residuals.compositional(V, x, s, t), 1 - ((1 + gap / 2) ** 2 - 1) / gap, rtol=1e-12)
    np.testing.assert_allclose(residuals.true_error(lambda x, s, t: 3 * x)(V, x, s, t), -2, rtol=1e-12)


def test_residuals_on_a_flat_space_are_those_of_r_n():
    """The torus is R^n for short jumps: its residuals, written with move and log, are the pairs of the losses."""
    V = lambda x, s, t: 0.3 * jnp.sin(x) + s * t
    x, s, t = 0.3 * cloud(5)[0], jnp.full((5, 1), 0.8), jnp.linspace(0.1, 0.8, 5)[:, None]
    values = jax.jit(
        lambda x, s, t: {n: (r(V, x, s, t), residuals.RULES[n](V, x, s, t)) for n, r in residuals.rules(spaces.torus).items()}
    )
    for result, expected in values(x, s, t).values():
        np.testing.assert_allclose(result, expected, atol=1e-12)
        assert np.abs(result).max() > 1e-3


@pytest.mark.slow
def test_residuals_on_the_sphere_are_zero_for_a_rotation_alone():
    killing = lambda x, t: jnp.stack([-x[:, 1], x[:, 0], 0 * x[:, 2]], 1)

    def rotation(x, s, t):
        gap = jnp.where(t == s, 1.0, t - s)
        turned = jnp.cos(gap) * x + jnp.sin(gap) * killing(x, s) + (1 - jnp.cos(gap)) * x * jnp.array([[0.0, 0.0, 1.0]])
        return jnp.where(t == s, killing(x, s), spaces.sphere.log(x, turned) / gap)

    x = spaces.sphere.noise(jax.random.key(0), (5, 3))
    s, t = jnp.full((5, 1), 0.9), jnp.linspace(0.1, 0.9, 5)[:, None]
    rules = residuals.rules(spaces.sphere)
    wrong = lambda x, s, t: killing(x, s)  # the velocity at the source, which is no mean of the way
    both = jax.jit(lambda x, s, t: {name: (rule(rotation, x, s, t), rule(wrong, x, s, t)) for name, rule in rules.items()})
    for right, other in both(x, s, t).values():
        np.testing.assert_allclose(right, 0.0, atol=1e-9)
        assert np.abs(other).max() > 0.05
    result = jax.jit(residuals.along(killing, 256, spaces.sphere))(x, s, t)
    np.testing.assert_allclose(result, rotation(x, s, t), atol=1e-4)


def test_a_map_of_errors_has_the_target_down_and_the_source_across():
    result = residuals.error_map(
        lambda V, x, s, t: V(x, s, t), lambda x, s, t: jnp.broadcast_to(s + 10 * t, x.shape), *cloud(), GRID
    )
    for row, t in enumerate(GRID):
        for column, s in enumerate(GRID):
            assert np.isnan(result[row, column]) if t > s else result[row, column] == pytest.approx(s + 10 * t, rel=1e-6)


def test_the_points_are_on_the_path_and_the_mean_is_quadratic():
    x0, eps = cloud()
    result = residuals.error_map(lambda V, x, s, t: x, None, x0, eps, GRID, paths.trigonometric)
    s = GRID[2]
    x = np.cos(np.pi / 2 * s) * x0 + np.sin(np.pi / 2 * s) * eps
    assert result[1, 2] == pytest.approx(np.sqrt(np.mean(x**2)), rel=1e-6)


def test_the_flow_of_a_velocity_is_its_exact_map():
    """The reference of the pictures, by Heun's method, against a closed form, with other times in every row."""
    flow = exact.gaussian(*LAW)
    x, _ = cloud(4)
    s, t = jnp.array([1.0, 0.9, 0.5, 0.4])[:, None], jnp.array([0.0, 0.2, 0.5, 0.39])[:, None]
    values = jax.jit(lambda x, s, t: [flow.V(x, s, t), *(residuals.along(flow.v, n)(x, s, t) for n in (32, 64))])
    known, coarse, fine = values(x, s, t)
    np.testing.assert_allclose(fine, known, atol=2e-4)
    assert np.abs(fine - known).max() < 0.3 * np.abs(coarse - known).max()


@pytest.mark.slow
def test_the_exact_flow_of_points_has_the_residuals_of_its_solver_alone():
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


def test_error_maps_work_on_images_with_labels():
    net = lambda x, s, t: x * jnp.arange(5)[:, None, None, None]
    maps = residuals.error_maps(net, jnp.ones((5, 2, 2, 1)), paths.linear, GRID[:2])
    assert set(maps) == set(residuals.RULES)
    assert all(values.shape == (2, 2) for values in maps.values()) and np.nanmax(maps["lagrangian"]) > 0
