"""Spaces: exponential and logarithm, geodesics, derivatives where they could fail, flow maps and samplers on the sphere and the torus."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import flowmap, paths, samplers, spaces, typing

pytestmark = pytest.mark.usefixtures("x64")
CURVED = {"sphere": spaces.sphere, "torus": spaces.torus}


def points(space, n=6, d=3, seed=0):
    return space.noise(jax.random.key(seed), (n, d), jnp.float64)


def tangents(space, x, seed=1, length=1.0):
    v = space.project(x, jax.random.normal(jax.random.key(seed), x.shape))
    return length * v / jnp.linalg.norm(v, axis=-1, keepdims=True)


@pytest.mark.parametrize("space", spaces.SPACES.values(), ids=spaces.SPACES)
def test_move_and_log_are_inverse_and_stay_in_the_space(space):
    x, y = points(space), points(space, seed=2)
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-12)
    close(space.nearest(x), x)
    close(space.project(x, space.log(x, y)), space.log(x, y))  # a tangent
    close(space.move(x, 0.0, 1.0, space.log(x, y)), y)
    close(space.distance(x, y), space.distance(y, x))
    close(space.distance(x, x), 0.0)
    # On both sides of the border between series and closed form, forward and backward in time.
    for length in (1e-9, 1e-3, 0.199, 0.202, 0.315, 0.317, 3.0):
        v = tangents(space, x, length=length)
        there = space.move(x, 0.2, 0.7, 2 * v)
        close(space.nearest(there), there)
        close(space.log(x, there), v)
        close(space.distance(x, there), length)
        close(space.move(x, 0.7, 0.2, -2 * v), there)
    # Only the tangent part of a velocity moves a point.
    close(space.move(x, 0.0, 0.5, space.project(x, y)), space.move(x, 0.0, 0.5, y))


def test_the_sphere_is_the_unit_sphere():
    x, v = jnp.array([[1.0, 0.0, 0.0]]), jnp.array([[0.0, 2.0, 0.0]])
    for time in (0.3, 1.0):
        np.testing.assert_allclose(spaces.sphere.move(x, 0.0, time, v), [[np.cos(2 * time), np.sin(2 * time), 0.0]], atol=1e-15)
    x, y = points(spaces.sphere, 20), points(spaces.sphere, 20, seed=3)
    np.testing.assert_allclose(spaces.sphere.distance(x, y), np.arccos((x * y).sum(-1)), rtol=1e-9)
    np.testing.assert_allclose(spaces.sphere.project(x, y), y - (x * y).sum(-1, keepdims=True) * x, atol=1e-15)
    np.testing.assert_allclose(spaces.sphere.nearest(3 * x), x, atol=1e-15)


def test_the_torus_is_r_n_for_short_ways_and_wraps_the_others():
    x, v = jnp.array([[0.1, -3.0]]), jnp.array([[0.5, -0.4]])
    np.testing.assert_array_equal(spaces.torus.move(x, 0.0, 0.2, v), flowmap.move(x, 0.0, 0.2, v))
    np.testing.assert_allclose(spaces.torus.move(x, 0.0, 1.0, v), [[0.6, 2 * np.pi - 3.4]], rtol=1e-12)
    np.testing.assert_allclose(spaces.torus.log(jnp.array([3.0]), jnp.array([-3.0])), [2 * np.pi - 6.0], rtol=1e-12)


@pytest.mark.parametrize("space", CURVED.values(), ids=CURVED)
def test_noise_is_uniform(space):
    x = np.asarray(space.noise(jax.random.key(0), (20_000, 3), jnp.float64))
    second = {"sphere": 1 / 3, "torus": np.pi**2 / 3}[space.name]
    np.testing.assert_allclose(x.mean(0), 0.0, atol=5 * np.sqrt(second / 20_000))
    np.testing.assert_allclose(x.T @ x / 20_000, second * np.eye(3), atol=5 * second / np.sqrt(20_000))
    assert space.noise(jax.random.key(0), (2, 3), jnp.bfloat16).dtype == jnp.bfloat16


def test_derivatives_to_second_order_are_finite_where_points_coincide_or_are_opposite():
    x, direction = points(spaces.sphere), tangents(spaces.sphere, points(spaces.sphere))
    scalars = {
        "move": lambda v: jnp.sum(jnp.sin(spaces.sphere.move(x, 0.0, 1.0, v))),
        "log of y": lambda y: jnp.sum(jnp.sin(spaces.sphere.log(x, y))),
        "log of x": lambda y: jnp.sum(jnp.sin(spaces.sphere.log(y, x))),
        "squared distance": lambda y: jnp.sum(spaces.sphere.log(x, y) ** 2),
        "distance": lambda y: jnp.sum(spaces.sphere.distance(x, y)),
        "halfway": lambda y: jnp.sum(jnp.sin(spaces.sphere.geodesic(x, y, 0.5))),
    }

    @jax.jit
    def derivatives(at):
        second = lambda f: jax.jvp(jax.grad(f), (at,), (direction,))
        return {name: second(f) for name, f in scalars.items()}

    for at in (jnp.zeros_like(x), x, -x, -x + 1e-13 * direction):
        for name, found in derivatives(at).items():
            assert np.isfinite(found).all(), name
    # At the opposite point the logarithm has length pi and leads there.
    away = spaces.sphere.log(x, -x)
    np.testing.assert_allclose(jnp.linalg.norm(away, axis=-1), np.pi, rtol=1e-12)
    np.testing.assert_allclose(spaces.sphere.move(x, 0.0, 1.0, away), -x, atol=1e-12)
    # Where points coincide, the squared distance is that of R^n: gradient 0, second derivative 2 along a tangent.
    gradient, along = derivatives(x)["squared distance"]
    np.testing.assert_allclose(gradient, 0.0, atol=1e-12)
    np.testing.assert_allclose(spaces.sphere.project(x, along), 2 * direction, atol=1e-9)


@pytest.mark.parametrize("angle", [1e-6, 0.1, 0.199, 0.202, 1.5, 3.0])
def test_derivatives_of_the_logarithm_agree_with_differences(angle):
    """Along curves on the sphere, to second order: on both sides of the border between series and closed form."""
    x = points(spaces.sphere, 1)
    u, w = tangents(spaces.sphere, x), jnp.cross(x, tangents(spaces.sphere, x))
    curve = lambda r: spaces.sphere.move(x, 0.0, 1.0, (angle + r) * (jnp.cos(r) * u + jnp.sin(r) * w))
    log = lambda r: spaces.sphere.log(x, curve(r))
    known = lambda r: (angle + r) * (jnp.cos(r) * u + jnp.sin(r) * w)
    for f, g in (
        (log, known),
        (jax.jacfwd(log), jax.jacfwd(known)),
        (jax.jacfwd(jax.jacfwd(log)), jax.jacfwd(jax.jacfwd(known))),
    ):
        np.testing.assert_allclose(f(0.0), g(0.0), atol=1e-8)


@pytest.mark.parametrize("name", CURVED)
def test_a_path_on_a_space_is_a_geodesic_with_its_velocity(name):
    path, space = paths.path_from_name(name), CURVED[name]
    x0, eps, t = points(space), points(space, seed=4), jnp.linspace(0.1, 0.9, 6)[:, None]
    x, v = jax.jit(functools.partial(paths.interpolate, path))(x0, eps, t)
    np.testing.assert_allclose(space.nearest(x), x, atol=1e-12)
    np.testing.assert_allclose(space.project(x, v), v, atol=1e-12)
    np.testing.assert_allclose(v, -space.log(x, x0) / t, atol=1e-9)
    np.testing.assert_allclose(v, space.log(x, eps) / (1 - t), atol=1e-9)
    np.testing.assert_allclose(space.distance(x0, x), t[:, 0] * space.distance(x0, eps), atol=1e-12)
    for end, point in ((0.0, x0), (1.0, eps)):
        np.testing.assert_allclose(paths.interpolate(path, x0, eps, end)[0], point, atol=1e-12)
    # Data that coincides with its noise, or is opposite to it.
    for other in (x0, space.nearest(-x0)):
        assert np.isfinite(paths.interpolate(path, x0, other, t)).all()
    assert paths.independent(jax.random.key(0), x0, space).shape == x0.shape


# Flow maps and samplers

AXIS = np.array([[0.0, -0.6, 0.0], [0.6, 0.0, -1.1], [0.0, 1.1, 0.0]])  # skew: v(x) = AXIS x is a rotation, a Killing field


def killing(x, t):
    return x @ jnp.asarray(AXIS).T


def rotated(x, gap):
    return x @ jax.scipy.linalg.expm(gap * jnp.asarray(AXIS)).T


def rotation(x, s, t):
    """The average velocity of the rotation."""
    gap = jnp.where(t == s, 1.0, t - s)
    return jnp.where(t == s, killing(x, s), spaces.sphere.log(x, rotated(x, gap)) / gap)


def test_jumps_of_an_exact_rotation_rotate_exactly():
    x, times = points(spaces.sphere), jnp.array([1.0, 0.35, 0.6, 0.0])
    found = jax.jit(functools.partial(samplers.flow_map, rotation, space=spaces.sphere))(x, times)
    np.testing.assert_allclose(found, rotated(x, -1.0), atol=1e-12)
    jump = flowmap.jump(rotation, x, 0.9, 0.2, move=spaces.sphere.move)
    np.testing.assert_allclose(jump, rotated(x, -0.7), atol=1e-12)
    assert np.abs(flowmap.jump(rotation, x, 0.9, 0.2) - jump).max() > 0.01  # the same velocity, straight on


@pytest.mark.parametrize(("solver", "order"), [(samplers.euler, 1), (samplers.heun, 2), (samplers.midpoint, 2)])
def test_solvers_keep_their_order_on_the_sphere(solver, order):
    v = lambda x, t: (1 + t) * killing(x, t)
    x, steps = points(spaces.sphere), np.array([16, 32, 64])
    run = jax.jit(functools.partial(solver, v, space=spaces.sphere))
    found = [run(x, samplers.grid(n)) for n in steps]
    errors = [np.abs(y - rotated(x, -1.5)).max() for y in found]
    assert np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(-order, abs=0.15)
    assert np.abs(jnp.linalg.norm(found[0], axis=-1) - 1).max() < 1e-12


@pytest.mark.parametrize("name", CURVED)
def test_every_map_of_one_point_arrives_with_every_sampler(name):
    """All data at one point x0: V = -log_x(x0) / s, whatever the target time."""
    path, space = paths.path_from_name(name), CURVED[name]
    x, x0, keys = points(space), points(space, 1, seed=5), jax.random.split(jax.random.key(0), 6)
    V = lambda x, s, t: -space.log(x, jnp.broadcast_to(x0, x.shape)) / jnp.maximum(s, 1e-9)
    for sampler in ("flow_map", "euler", "consistency"):
        chosen = samplers.sampler_from_name(sampler, name)
        found = jax.jit(lambda x, run=chosen.run: run(V, x, np.array([1.0, 0.7, 0.2, 0.0]), keys))(x)
        np.testing.assert_allclose(found, jnp.broadcast_to(x0, x.shape), atol=1e-12)
    halfway = jax.jit(lambda x: samplers.consistency(V, x, jnp.array([1.0, 0.4]), keys, path=path))(x)
    np.testing.assert_allclose(space.nearest(halfway), halfway, atol=1e-12)
    assert (space.distance(halfway, jnp.broadcast_to(x0, x.shape)) <= 0.4 * np.pi * np.sqrt(3)).all()


@pytest.mark.parametrize("spec", ["gamma", "restart", "adaptive"])
def test_samplers_that_only_r_n_allows_are_refused(spec):
    with pytest.raises(typing.InputError, match="R\\^n.*(flow_map|heun)"):
        samplers.check_sampler(spec, 2, path="sphere")
    samplers.check_sampler("heun", 2, path="sphere")


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_dtypes_are_those_of_the_data(dtype):
    for space in spaces.SPACES.values():
        x, y = (point.astype(dtype) for point in (points(space), points(space, seed=1)))
        t = jnp.full((6, 1), 0.5, jnp.float32)
        for found in (
            space.move(x, 1.0, t, y),
            space.log(x, y),
            space.project(x, y),
            space.nearest(x),
            space.geodesic(x, y, t),
        ):
            assert found.dtype == dtype and found.shape == x.shape
