"""Spaces: exponential and logarithm, geodesics, derivatives where they could fail, flow maps and samplers on them."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import support

from flowjax import data, flowmap, methods, paths, samplers, spaces, training, typing
from flowjax.training import config_checks, runs, sampling, settings

pytestmark = pytest.mark.usefixtures("x64")
# The product has what is new in it: a logarithm of each space, and the joints.
PRODUCT = spaces.product(hyperbolic=3, so3=9)
CURVED = {"sphere": spaces.sphere, "torus": spaces.torus, PRODUCT.name: PRODUCT}


def points(space, n=6, seed=0):
    return space.noise(jax.random.key(seed), (n, max(3, space.size)), jnp.float64)


def tangents(space, x, seed=1, length=1.0):
    v = space.project(x, jax.random.normal(jax.random.key(seed), x.shape))
    return length * v / jnp.sqrt(space.inner(v, v))


@pytest.mark.parametrize("space", [spaces.euclidean, *CURVED.values()], ids=lambda space: space.name)
def test_move_and_log_are_inverse_and_stay_in_the_space(space):
    # On both sides of the borders between series and closed form.
    lengths = (1e-9, 1e-3, 0.199, 0.202, 0.315, 0.317, 3.0)

    @jax.jit
    def pairs(x, y):
        equal = [
            (space.nearest(x), x),
            (space.project(x, space.log(x, y)), space.log(x, y)),  # a tangent
            (space.exp(x, space.log(x, y)), y),
            (space.distance(x, y), space.distance(y, x)),
            (space.distance(x, x), jnp.zeros(6)),
            # Only the tangent part of a velocity moves a point.
            (space.move(x, 0.0, 0.5, space.project(x, y)), space.move(x, 0.0, 0.5, y)),
        ]

        def at(length):
            v = length * tangents(space, x)
            there = space.move(x, 0.2, 0.7, 2 * v)
            known = [(space.nearest(there), there), (space.log(x, there), v), (space.distance(x, there), jnp.full(6, length))]
            return [*known, (space.move(x, 0.7, 0.2, -2 * v), there)]  # forward and backward in time

        return equal + jax.vmap(at)(jnp.array(lengths))

    # Coordinates of hyperbolic space grow like the exponential of the distance.
    for result, expected in pairs(points(space), points(space, seed=2)):
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-12 * max(1, np.abs(expected).max()))


def test_the_sphere_is_the_unit_sphere():
    x, v = jnp.array([[1.0, 0.0, 0.0]]), jnp.array([[0.0, 2.0, 0.0]])
    for time in (0.3, 1.0):
        np.testing.assert_allclose(spaces.sphere.move(x, 0.0, time, v), [[np.cos(2 * time), np.sin(2 * time), 0.0]], atol=1e-15)
    x, y = points(spaces.sphere, 20), points(spaces.sphere, 20, seed=3)
    np.testing.assert_allclose(spaces.sphere.distance(x, y), np.arccos((x * y).sum(-1)), rtol=1e-9)
    np.testing.assert_allclose(spaces.sphere.project(x, y), y - (x * y).sum(-1, keepdims=True) * x, atol=1e-15)
    np.testing.assert_allclose(spaces.sphere.nearest(3 * x), x, atol=1e-15)


def test_spheres_and_hyperbolic_spaces_of_other_dimensions():
    """A circle has angles, and a great sphere within a larger one is the smaller one."""
    angles = jnp.linspace(0.1, 3.0, 6)
    circle = lambda angle: jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    np.testing.assert_allclose(spaces.sphere.distance(circle(0 * angles), circle(angles)), angles, rtol=1e-12)
    there = spaces.sphere.geodesic(circle(angles), circle(angles + 1.2), 0.25)
    np.testing.assert_allclose(there, circle(angles + 0.3), atol=1e-14)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
    embeddings = {
        spaces.sphere: lambda x: x @ turn[:3],
        spaces.hyperbolic: lambda x: jnp.concatenate([x[:, :1], x[:, 1:] @ turn[:2]], axis=1),
    }
    for space, within in embeddings.items():
        x, y = points(space), points(space, seed=3)
        v = space.project(x, y)
        np.testing.assert_allclose(space.log(within(x), within(y)), within(space.log(x, y)), atol=1e-13)
        moved = space.move(within(x), 0.8, 0.2, within(v))
        np.testing.assert_allclose(moved, within(space.move(x, 0.8, 0.2, v)), atol=1e-12)
        np.testing.assert_allclose(space.nearest(moved), moved, atol=1e-12)


def test_the_torus_is_r_n_for_short_distances_and_wraps_the_others():
    x, v = jnp.array([[0.1, -3.0]]), jnp.array([[0.5, -0.4]])
    np.testing.assert_array_equal(spaces.torus.move(x, 0.0, 0.2, v), flowmap.move(x, 0.0, 0.2, v))
    np.testing.assert_allclose(spaces.torus.move(x, 0.0, 1.0, v), [[0.6, 2 * np.pi - 3.4]], rtol=1e-12)
    np.testing.assert_allclose(spaces.torus.log(jnp.array([3.0]), jnp.array([-3.0])), [2 * np.pi - 6.0], rtol=1e-12)


@pytest.mark.parametrize("space", [spaces.sphere, spaces.torus, spaces.so3], ids=lambda space: space.name)
def test_noise_is_uniform(space):
    x = np.asarray(points(space, 20_000))
    second = {"sphere": 1 / 3, "torus": np.pi**2 / 3, "so3": 1 / 3}[space.name]
    np.testing.assert_allclose(x.mean(0), 0.0, atol=5 * np.sqrt(second / 20_000))
    np.testing.assert_allclose(x.T @ x / 20_000, second * np.eye(x.shape[1]), atol=5 * second / np.sqrt(20_000))
    assert space.noise(jax.random.key(0), (2, x.shape[1]), jnp.bfloat16).dtype == jnp.bfloat16


def test_rotations_are_matrices_and_lengths_the_square_root_of_two_times_the_angle():
    x, y = points(spaces.so3, 20), points(spaces.so3, 20, seed=3)
    one, other = x.reshape(-1, 3, 3), y.reshape(-1, 3, 3)
    np.testing.assert_allclose(jnp.einsum("nij,nik->njk", one, one), np.broadcast_to(np.eye(3), one.shape), atol=1e-14)
    np.testing.assert_allclose(np.linalg.det(one), 1.0, rtol=1e-14)
    angle = np.arccos((np.einsum("nij,nij->n", one, other) - 1) / 2)
    np.testing.assert_allclose(spaces.so3.distance(x, y), np.sqrt(2) * angle, rtol=1e-9)
    # A quarter turn about the last axis; the nearest rotation of what is no rotation, and of a reflection.
    turn = jnp.array([[0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    quarter = spaces.so3.move(jnp.eye(3).reshape(1, 9), 0.0, np.pi / 2, turn)
    np.testing.assert_allclose(quarter, [[0, -1, 0, 1, 0, 0, 0, 0, 1]], atol=1e-15)
    np.testing.assert_allclose(spaces.so3.nearest(2 * quarter + spaces.so3.project(x, y)[:1] * 0), quarter, atol=1e-14)
    reflected = jnp.diag(jnp.array([1.0, 1.0, -0.5])).reshape(9)
    np.testing.assert_allclose(spaces.so3.nearest(reflected), np.eye(3).reshape(9), atol=1e-14)


def test_hyperbolic_space_is_the_hyperboloid():
    x, y = points(spaces.hyperbolic, 20), points(spaces.hyperbolic, 20, seed=3)
    form = lambda v, w: (v[:, 1:] * w[:, 1:]).sum(-1) - v[:, 0] * w[:, 0]
    np.testing.assert_allclose(form(x, x), -1.0, atol=1e-12)
    np.testing.assert_allclose(spaces.hyperbolic.distance(x, y), np.arccosh(-form(x, y)), rtol=1e-9)
    v = tangents(spaces.hyperbolic, x)
    np.testing.assert_allclose(form(x, v), 0.0, atol=1e-12)
    np.testing.assert_allclose(form(v, v), 1.0, atol=1e-12)
    # Noise is a normal step from the first axis.
    away = spaces.hyperbolic.log(jnp.array([[1.0, 0.0, 0.0]]), points(spaces.hyperbolic, 20_000))
    np.testing.assert_allclose(np.cov(away[:, 1:].T), np.eye(2), atol=0.05)


def test_a_product_is_its_factors_side_by_side():
    space, x, y = spaces.space_from_name("product:sphere=3,torus=2"), *(jnp.ones((2, 4, 5)) for _ in range(2))
    assert space is spaces.space_from_name("product:sphere=3,torus=2") and space.name == "product:sphere=3,torus=2"
    x, y = (space.noise(jax.random.key(seed), (2, 4, 5), jnp.float64) for seed in range(2))
    for name, part in (("sphere", np.s_[..., :3]), ("torus", np.s_[..., 3:])):
        alone = spaces.SPACES[name]
        np.testing.assert_array_equal(space.log(x, y)[part], alone.log(x[part], y[part]))
        np.testing.assert_array_equal(space.move(x, 0.0, 0.3, y)[part], alone.move(x[part], 0.0, 0.3, y[part]))
    squares = [
        spaces.SPACES[name].distance(x[part], y[part]) ** 2
        for name, part in (("sphere", np.s_[..., :3]), ("torus", np.s_[..., 3:]))
    ]
    np.testing.assert_allclose(space.distance(x, y) ** 2, sum(squares), rtol=1e-12)
    assert paths.path_from_name("product:sphere=3,torus=2").space is space


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("product:sphere=3,klein=2", "no option 'klein'; expected euclidean or sphere"),
        ("product:so3=3", "'so3' has 3.* coordinates in a product; expected 9"),
        ("product:sphere=2.5", "'sphere' has 2.5 coordinates"),
        ("product", "no spaces; expected"),
        ("klein", "unknown space 'klein'"),
    ],
)
def test_spaces_that_do_not_exist_are_refused(name, message):
    with pytest.raises(typing.InputError, match=message):
        spaces.space_from_name(name)


@pytest.mark.parametrize("space", [spaces.so3, spaces.hyperbolic, PRODUCT], ids=lambda space: space.name)
def test_points_of_another_size_are_refused(space):
    with pytest.raises(typing.InputError, match=f"'{space.name}'.*coordinates"):
        space.noise(jax.random.key(0), (4, 1))


def test_derivatives_of_rotations_are_finite_where_they_coincide_or_are_a_half_turn_apart():
    x, space = points(spaces.so3), spaces.so3
    half = jnp.repeat(jnp.array([[-1.0, -1.0, 1.0], [-1.0, 1.0, -1.0]]), 3, axis=0)
    far, direction = (x.reshape(-1, 3, 3) * half[:, None]).reshape(-1, 9), tangents(space, x)

    def scalar(x, y):
        log = space.log(x, y)
        return (
            jnp.sum(jnp.sin(log) + jnp.sin(space.move(x, 0.0, 0.5, log)) + jnp.sin(space.move(x, 0.0, 1.0, y)))
            + space.distance(x, y).sum()
        )

    derivatives = jax.jit(lambda at: jax.jvp(jax.grad(scalar, (0, 1)), (x, at), (direction, direction)))
    for at in (jnp.zeros_like(x), x, far, far + 1e-13 * direction):
        for result in jax.tree.leaves(derivatives(at)):
            assert np.isfinite(result).all()
    np.testing.assert_allclose(space.distance(x, far), np.sqrt(2) * np.pi, rtol=1e-12)
    np.testing.assert_allclose(space.exp(x, space.log(x, far)), far, atol=1e-12)


def test_derivatives_of_hyperbolic_space_are_finite_where_points_coincide():
    x, space = points(spaces.hyperbolic), spaces.hyperbolic
    scalar = lambda x, y: (
        jnp.sum(jnp.sin(space.log(x, y))) + jnp.sum(jnp.sin(space.move(x, 0.0, 1.0, y - x))) + space.distance(x, y).sum()
    )
    u = tangents(space, x)
    for result in jax.tree.leaves(jax.jit(lambda at: jax.jvp(jax.grad(scalar, (0, 1)), (x, at), (u, u)))(x)):
        assert np.isfinite(result).all()


@pytest.mark.parametrize("name", ["torus", pytest.param("product:sphere=3,torus=2", marks=pytest.mark.slow)])
def test_derivatives_of_flat_and_joint_spaces_are_finite_where_points_coincide_or_are_opposite(name):
    space, x = spaces.space_from_name(name), points(spaces.space_from_name(name))
    u = tangents(space, x)
    opposite = {"torus": lambda x: spaces.torus.nearest(x + np.pi)}.get(
        name, lambda x: jnp.concatenate([-x[:, :3], spaces.torus.nearest(x[:, 3:] + np.pi)], axis=1)
    )

    def scalar(x, y):
        log = space.log(x, y)
        return jnp.sum(jnp.sin(log)) + jnp.sum(jnp.sin(space.move(x, 0.0, 0.5, log))) + space.distance(x, y).sum()

    derivatives = jax.jit(lambda at: jax.jvp(jax.grad(scalar, (0, 1)), (x, at), (u, u)))
    for at in (x, opposite(x), opposite(x) + 1e-13 * u):
        for result in jax.tree.leaves(derivatives(at)):
            assert np.isfinite(result).all()


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
        for name, result in derivatives(at).items():
            assert np.isfinite(result).all(), name
    # At the opposite point the logarithm has length pi and leads there.
    away = spaces.sphere.log(x, -x)
    np.testing.assert_allclose(jnp.linalg.norm(away, axis=-1), np.pi, rtol=1e-12)
    np.testing.assert_allclose(spaces.sphere.move(x, 0.0, 1.0, away), -x, atol=1e-12)
    # Where points coincide, the squared distance is that of R^n: gradient 0, second derivative 2 along a tangent.
    gradient, along = derivatives(x)["squared distance"]
    np.testing.assert_allclose(gradient, 0.0, atol=1e-12)
    np.testing.assert_allclose(spaces.sphere.project(x, along), 2 * direction, atol=1e-9)


def test_derivatives_of_the_logarithm_are_known_along_curves():
    """To second order, along curves on the sphere, on both sides of the border between series and closed form."""
    x = points(spaces.sphere, 1)
    u, w = tangents(spaces.sphere, x), jnp.cross(x, tangents(spaces.sphere, x))
    known = lambda angle, r: (angle + r) * (jnp.cos(r) * u + jnp.sin(r) * w)
    log = lambda angle, r: spaces.sphere.log(x, spaces.sphere.exp(x, known(angle, r)))
    three = lambda f: lambda angle: (f(angle, 0.0), jax.jacfwd(f, 1)(angle, 0.0), jax.jacfwd(jax.jacfwd(f, 1), 1)(angle, 0.0))
    values = jax.jit(jax.vmap(lambda angle: (three(log)(angle), three(known)(angle))))
    for result, expected in zip(*values(jnp.array([1e-6, 0.1, 0.199, 0.202, 1.5, 3.0]))):
        np.testing.assert_allclose(result, expected, atol=1e-8)


@pytest.mark.parametrize("name", ["sphere", "torus", pytest.param(PRODUCT.name, marks=pytest.mark.slow)])
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
    assert paths.independent(jax.random.key(0), x0, path).shape == x0.shape


# Flow maps and samplers


def killing(x, t):
    """The velocity of a rotation about the last axis, a Killing field."""
    return jnp.stack([-x[:, 1], x[:, 0], 0 * x[:, 2]], axis=1)


def rotated(x, angle):
    return jnp.cos(angle) * x + jnp.sin(angle) * killing(x, 0) + (1 - jnp.cos(angle)) * x * jnp.array([[0.0, 0.0, 1.0]])


def rotation(x, s, t):
    """The average velocity of the rotation."""
    gap = jnp.where(t == s, 1.0, t - s)
    return jnp.where(t == s, killing(x, s), spaces.sphere.log(x, rotated(x, gap)) / gap)


def test_jumps_of_an_exact_rotation_rotate_exactly():
    jump = functools.partial(flowmap.jump, rotation, s=0.9, t=0.2)
    sample = lambda x: samplers.flow_map(rotation, x, jnp.array([1.0, 0.35, 0.6, 0.0]), space=spaces.sphere)
    x = points(spaces.sphere)
    end, turned, straight = jax.jit(lambda x: (sample(x), jump(x, move=spaces.sphere.move), jump(x)))(x)
    np.testing.assert_allclose(end, rotated(x, -1.0), atol=1e-12)
    np.testing.assert_allclose(turned, rotated(x, -0.7), atol=1e-12)
    assert np.abs(straight - turned).max() > 0.01  # on R^n the same velocity leaves the sphere


def test_solvers_keep_their_order_on_the_sphere():
    v = lambda x, t: (1 + t) * killing(x, t) + t * spaces.sphere.project(x, jnp.ones_like(x))
    orders, steps, x = {samplers.euler: 1, samplers.heun: 2, samplers.midpoint: 2}, np.array([8, 16, 32]), points(spaces.sphere)
    sample = lambda solver, n: lambda x: solver(v, x, samplers.grid(n), space=spaces.sphere)
    ends, limit = jax.jit(
        lambda x: ([[sample(solver, n)(x) for n in steps] for solver in orders], sample(samplers.heun, 1024)(x))
    )(x)
    for (solver, order), points_of in zip(orders.items(), ends):
        errors = [np.abs(end - limit).max() for end in points_of]
        assert np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(-order, abs=0.2), solver.__name__
        assert np.abs(jnp.linalg.norm(points_of[0], axis=-1) - 1).max() < 1e-12


@pytest.mark.parametrize("name", ["sphere", "torus", pytest.param(PRODUCT.name, marks=pytest.mark.slow)])
def test_every_map_of_one_point_arrives_with_every_sampler(name):
    """All data at one point x0: V = -log_x(x0) / s, whatever the target time."""
    path, space = paths.path_from_name(name), CURVED[name]
    x, x0, keys = points(space), points(space, 1, seed=5), jax.random.split(jax.random.key(0), 6)
    V = lambda x, s, t: -space.log(x, jnp.broadcast_to(x0, x.shape)) / jnp.maximum(s, 1e-9)
    times, run = np.array([1.0, 0.7, 0.2, 0.0]), lambda spec: samplers.sampler_from_name(spec, name).run
    consistency = lambda x: samplers.consistency(V, x, jnp.array([1.0, 0.4]), keys, path=path)
    sample = jax.jit(
        lambda x: ([run(spec)(V, x, times, keys) for spec in ("flow_map", "euler", "consistency")], consistency(x))
    )
    ends, between = sample(x)
    for end in ends:
        np.testing.assert_allclose(end, jnp.broadcast_to(x0, x.shape), atol=1e-12)
    # After the first jump of consistency sampling: between x0 and new noise, at 0.4 of the way.
    noise = jax.vmap(lambda key: space.noise(jax.random.fold_in(key, 0), x.shape[1:], jnp.float64))(keys)
    np.testing.assert_allclose(
        space.distance(between, jnp.broadcast_to(x0, x.shape)), 0.4 * space.distance(x0, noise), atol=1e-12
    )
    np.testing.assert_allclose(space.distance(between, noise), 0.6 * space.distance(x0, noise), atol=1e-12)


@pytest.mark.parametrize("spec", ["gamma", "restart", "adaptive"])
def test_samplers_that_only_r_n_allows_are_refused(spec):
    with pytest.raises(typing.InputError, match="R\\^n.*(flow_map|heun)"):
        samplers.check_sampler(spec, 2, path="sphere")
    samplers.check_sampler("heun", 2, path="sphere")


def test_dtypes_are_those_of_the_data():
    t = jax.ShapeDtypeStruct((6, 1), jnp.float32)
    for space in (*spaces.SPACES.values(), PRODUCT):
        functions = [
            lambda x, t, space=space: space.move(x, 1.0, t, x),
            lambda x, t, space=space: space.log(x, x),
            lambda x, t, space=space: space.project(x, x),
            lambda x, t, space=space: space.nearest(x),
            lambda x, t, space=space: space.geodesic(x, x, t),
        ]
        for dtype in (jnp.bfloat16, jnp.float32):
            x = jax.ShapeDtypeStruct((6, max(3, space.size)), dtype)
            assert all((made := jax.eval_shape(f, x, t)).dtype == dtype and made.shape == x.shape for f in functions)


def test_r_n_is_what_stands_in_the_equations_and_costs_nothing():
    """Bit for bit in float32, with as many operations in the compiled program."""
    v, V, path = lambda x, t: jnp.sin(x) + t, lambda x, s, t: jnp.sin(x) + s * t, paths.trigonometric
    times = np.array([1.0, 0.7, 0.2, 0.0], np.float32)

    steps = {
        samplers.flow_map: lambda x, s, t: x + (t - s) * V(x, s, t),
        samplers.euler: lambda x, s, t: x + (t - s) * v(x, s),
        samplers.heun: lambda x, s, t: x + (t - s) * (v(x, s) + v(x + (t - s) * v(x, s), t)) / 2,
        samplers.midpoint: lambda x, s, t: x + (t - s) * v(x + ((s + t) / 2 - s) * v(x, s), (s + t) / 2),
    }

    def written(x):
        ends = [samplers.grids.walk(step, x, times) for step in steps.values()]
        return ends, path.alpha(times[1]) * x + path.sigma(times[1]) * x[::-1]

    def ours(x):
        ends = [sampler(V if sampler is samplers.flow_map else v, x, times) for sampler in steps]
        return ends, paths.interpolate(path, x, x[::-1], times[1])[0]

    with jax.enable_x64(False):
        x = jax.random.normal(jax.random.key(0), (4, 3))
        programs = [jax.jit(f).lower(x).compile() for f in (written, ours)]
        for one, other in zip(*(jax.tree.leaves(program(x)) for program in programs)):
            np.testing.assert_array_equal(one, other)
        assert programs[1].cost_analysis()["flops"] <= programs[0].cost_analysis()["flops"]


# From the data to samples


def test_data_on_the_sphere_are_its_points():
    source = data.load("sphere_caps")
    x = data.arrays(source, limit=2_000)["x"]
    assert source.space == "sphere" and x.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1.0, rtol=1e-6)
    assert not np.isin(data.arrays(data.load("sphere_caps", split="test"), limit=100)["x"], x).all(axis=1).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.name": "sphere_caps"}, "path is 'linear'.*--config.method.path=sphere"),
        ({"method.path": "torus"}, "path is 'torus'.*expected a path of it.*linear or trigonometric"),
        ({"data.name": "sphere_caps", "method.path": "sphere", "data.coupling": "ot"}, "pairs rows with normal noise"),
        (
            {"method.path": "linear:noise=2", "data.coupling": "ot"},
            "'ot' brings noise of deviation 1: --config.method.path=linear",
        ),
    ],
)
def test_a_path_in_another_space_than_the_data_is_an_error(changes, message):
    config = support.small("flow_matching")
    config.update_from_flattened_dict(changes)
    with jax.enable_x64(False), pytest.raises(typing.InputError, match=message):
        runs.setup(config, jax.devices()[:1])


def test_losses_for_r_n_are_refused_on_the_sphere():
    config = support.small("meanflow")
    config.update_from_flattened_dict({"data.name": "sphere_caps", "method.path": "sphere"})
    with jax.enable_x64(False), pytest.raises(typing.InputError, match="losses of 'meanflow' are written for R\\^n"):
        runs.setup(config, jax.devices()[:1])


def test_a_registered_method_trains_on_the_sphere_if_it_says_that_its_losses_hold_there():
    facts = types.SimpleNamespace(source=types.SimpleNamespace(space="sphere"))
    try:
        for any_space in (False, True):
            methods.register("mine", lambda *, path="sphere": methods.make("flow_matching", path=path), any_space=any_space)
            config = support.small("flow_matching")
            config.data.name, config.method = "sphere_caps", {"name": "mine", "path": "sphere"}
            if any_space:
                config_checks.space(settings.read(config), facts)
            else:
                with pytest.raises(
                    typing.InputError,
                    match="holds? there: flow_matching or lmd or .*, or one that is registered with any_space",
                ):
                    config_checks.space(settings.read(config), facts)
    finally:
        methods.METHODS.pop("mine", None)


@pytest.mark.slow  # test_riemannian.py trains another method there
def test_a_run_on_the_sphere_trains_and_samples_points_of_the_sphere(tmp_path):
    config = support.small("flow_matching", steps=2, save_every=2, log_every=1)
    config.update_from_flattened_dict({"data.name": "sphere_caps", "method.path": "sphere"})
    with jax.enable_x64(False):
        run = runs.setup(config, jax.devices()[:1])
        x = data.arrays(run.source, limit=32)
        point = run.method.draw(jax.random.key(0), x, 0)["anchor"]
        np.testing.assert_allclose(np.linalg.norm(point.x, axis=1), 1.0, rtol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(point.eps, axis=1), 1.0, rtol=1e-5)
        np.testing.assert_allclose((point.x * point.v).sum(axis=1), 0.0, atol=1e-5)
        state = training.train(config, tmp_path / "run", devices=jax.devices()[:1])
        assert int(state.step) == 2
        sample = sampling.make_sampler(run.net, (3,), "heun", path="sphere")
        samples = sample(state.params["V"], 0, np.full(8, -1), 3)
        np.testing.assert_allclose(np.linalg.norm(samples, axis=1), 1.0, rtol=1e-5)
        assert np.abs(samples[1:] - samples[0]).max() > 0.1
