"""Where data lives: R^n, the sphere, the flat torus.

A point is the last axis of an array; the axes before it are rows and, beyond the first, factors of a product of spaces. Velocities are
tangent vectors in the coordinates of the points. A flow map on a space is `F(x, s, t) = exp_x((t - s) V(x, s, t))`, which on R^n is
`x + (t - s) V(x, s, t)`. A space belongs to a path (`flowjax.paths.Path.space`); R^n is the default everywhere.

Arithmetic is in float32 or wider, results have the dtype of the first argument. All functions are finite with their first and second
derivatives everywhere, also where two points coincide. Between opposite points there are many shortest geodesics: `log` takes one of them,
and its derivatives are those of this one.

Reference: Chen and Lipman 2023, Riemannian flow matching (arXiv 2302.03660); Riemannian MeanFlow (arXiv 2602.07744).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flowjax import flowmap
from flowjax.typing import Array, Time


class Space(NamedTuple):
    """A space with its geodesics.

    Attributes:
      name: its key in SPACES.
      move: `(x, s, t, v) -> point`: from x along the geodesic with velocity v for the time t - s, exp_x((t - s) v). Only the part of v
        that is tangent at x counts, so that the output of any network moves a point within the space.
      log: `(x, y) -> v`: the velocity at x that reaches y in one unit of time along a shortest geodesic, the inverse of the exponential.
      project: `(x, v) -> v`: the part of v that is tangent at x.
      nearest: `y -> x`: the point of the space that is nearest to y.
      noise: `(key, shape, dtype=float) -> x`: standard normal on R^n, uniform on a compact space.
    """

    name: str
    move: Callable[[Array, Time, Time, Array], Array]
    log: Callable[[Array, Array], Array]
    project: Callable[[Array, Array], Array]
    nearest: Callable[[Array], Array]
    noise: Callable[..., Array]

    def exp(self, x: Array, v: Array) -> Array:
        """Where the geodesic from x with velocity v is after one unit of time; on R^n x + v."""
        return self.move(x, 0.0, 1.0, v)

    def geodesic(self, x: Array, y: Array, share: Time) -> Array:
        """The point at a share of the shortest geodesic from x to y: 0 is x, 1 is y."""
        return self.move(x, 0.0, share, self.log(x, y))

    def distance(self, x: Array, y: Array) -> Array:
        """The length of the shortest geodesic, without the last axis; where x = y its gradient is 0."""
        square = jnp.sum(self.log(x, y) ** 2, axis=-1)
        return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def _dot(x, y):
    return jnp.sum(x * y, axis=-1, keepdims=True)


def _wide(*arrays):
    dtype = jnp.promote_types(jnp.result_type(*arrays), jnp.float32)
    return [jnp.asarray(array, dtype) for array in arrays]


# R^n

euclidean = Space(
    "euclidean",
    flowmap.move,
    lambda x, y: y - x,
    lambda x, v: v,
    lambda y: y,
    lambda key, shape, dtype=float: jax.random.normal(key, shape, dtype),
)


# The sphere

# Series in angle^2 below 0.1 and in 1 - cos(angle) below 0.02: no division, so that all derivatives exist at angle 0. What the terms
# leave out is below the rounding of float64.
_COS = [(-1) ** k / math.factorial(2 * k) for k in range(8)]
_SINC = [(-1) ** k / math.factorial(2 * k + 1) for k in range(8)]
_ANGLE_OVER_SINE = [2**k * math.factorial(k) ** 2 / math.factorial(2 * k + 1) for k in range(10)]


def _series(coefficients, z):
    total = jnp.zeros_like(z)
    for coefficient in reversed(coefficients):
        total = total * z + coefficient
    return total


def _sphere_project(x, v):
    x, v = _wide(x, v)
    return v - _dot(x, v) * x


def _sphere_move(x, s, t, v):
    dtype = jnp.result_type(x)
    step = (t - s) * _sphere_project(x, v)
    square = _dot(step, step)
    near = square < 0.1
    angle = jnp.sqrt(jnp.where(near, 1.0, square))
    cos = jnp.where(near, _series(_COS, square), jnp.cos(angle))
    sinc = jnp.where(near, _series(_SINC, square), jnp.sin(angle) / angle)
    return (cos * x + sinc * step).astype(dtype)


def _sphere_log(x, y):
    dtype = jnp.result_type(x)
    x, y = _wide(x, y)
    cos, gap = _dot(x, y), _dot(y - x, y - x) / 2  # gap = 1 - cos, without cancellation
    across = y - cos * x
    near = gap < 0.02
    opposite = ~near & (_dot(across, across) < (8 * jnp.finfo(x.dtype).eps) ** 2)
    # To the opposite point every direction is as short: take the one towards the axis of the smallest coordinate.
    axis = jax.nn.one_hot(jnp.argmin(jnp.abs(x), axis=-1), x.shape[-1], dtype=x.dtype)
    across = jnp.where(opposite, _sphere_project(x, axis), across)
    sine = jnp.sqrt(jnp.where(near, 1.0, _dot(across, across)))
    angle = jnp.where(opposite, jnp.pi, jnp.arctan2(sine, cos))
    return (jnp.where(near, _series(_ANGLE_OVER_SINE, gap), angle / sine) * across).astype(dtype)


def _sphere_nearest(y):
    (wide,) = _wide(y)
    square = _dot(wide, wide)
    return (wide / jnp.sqrt(jnp.where(square > 0, square, 1.0))).astype(jnp.result_type(y))


# The unit vectors of the last axis. A vector p of probabilities stands on it as sqrt(p), where distances are Fisher and Rao's.
sphere = Space(
    "sphere",
    _sphere_move,
    _sphere_log,
    lambda x, v: _sphere_project(x, v).astype(jnp.result_type(v)),
    _sphere_nearest,
    lambda key, shape, dtype=float: _sphere_nearest(jax.random.normal(key, shape, dtype)),
)


# The flat torus


def _wrapped(x):
    return x - 2 * jnp.pi * jnp.round(x / (2 * jnp.pi))


# Every coordinate is an angle, in [-pi, pi].
torus = Space(
    "torus",
    lambda x, s, t, v: _wrapped(flowmap.move(x, s, t, v)),
    lambda x, y: _wrapped(y - x),
    lambda x, v: v,
    _wrapped,
    lambda key, shape, dtype=float: jax.random.uniform(key, shape, dtype, -jnp.pi, jnp.pi),
)

SPACES = {space.name: space for space in (euclidean, sphere, torus)}
