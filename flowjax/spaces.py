"""Where data lives: R^n, the sphere, the flat torus, rotations, hyperbolic space, and products of these.

A point is the last axis of an array; the axes before it are rows and, beyond the first, factors of a product of equal spaces; `product`
joins different ones. Velocities are tangent vectors in the coordinates of the points, and the covariant derivative of a tangent field is
the tangent part of its derivative. A flow map on a space is `F(x, s, t) = exp_x((t - s) V(x, s, t))`, which on R^n is
`x + (t - s) V(x, s, t)`. A space belongs to a path (`flowjax.paths.Path.space`); R^n is the default everywhere.

Arithmetic is in float32 or wider, results have the dtype of the first argument. All functions but `nearest` of rotations are finite with
their first and second derivatives everywhere, also where two points coincide. Between opposite points there are many shortest geodesics:
`log` takes one of them, and its derivatives are those of this one.

Reference: Chen and Lipman 2023, Riemannian flow matching (arXiv 2302.03660); Riemannian MeanFlow (arXiv 2602.07744).
"""

import functools
import itertools
import math
import operator
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flowjax import checks, flowmap, options
from flowjax.typing import Array, InputError, Time


def _dot(x, y):
    return jnp.sum(x * y, axis=-1, keepdims=True)


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
      inner: `(v, w) -> [..., 1]`: the inner product of two tangent vectors at one point.
      size: least length of the last axis.
    """

    name: str
    move: Callable[[Array, Time, Time, Array], Array]
    log: Callable[[Array, Array], Array]
    project: Callable[[Array, Array], Array]
    nearest: Callable[[Array], Array]
    noise: Callable[..., Array]
    inner: Callable[[Array, Array], Array] = _dot
    size: int = 1

    def exp(self, x: Array, v: Array) -> Array:
        """Where the geodesic from x with velocity v is after one unit of time; on R^n x + v."""
        return self.move(x, 0.0, 1.0, v)

    def geodesic(self, x: Array, y: Array, share: Time) -> Array:
        """The point at a share of the shortest geodesic from x to y: 0 is x, 1 is y."""
        return self.move(x, 0.0, share, self.log(x, y))

    def distance(self, x: Array, y: Array) -> Array:
        """The length of the shortest geodesic, without the last axis; where x = y its gradient is 0."""
        square = self.square(self.log(x, y))
        return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)

    def square(self, v: Array) -> Array:
        """The squared length of a tangent vector, without the last axis."""
        return self.inner(v, v)[..., 0]


def _at_least_float32(dtype):
    return jnp.promote_types(jax.dtypes.canonicalize_dtype(dtype), jnp.float32)


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
# leave out is below the rounding of float64. At -angle^2 they are the hyperbolic functions.
_COS = [(-1) ** k / math.factorial(2 * k) for k in range(8)]
_SINC = [(-1) ** k / math.factorial(2 * k + 1) for k in range(8)]
_VERSINE = [(-1) ** k / math.factorial(2 * k + 2) for k in range(8)]  # (1 - cos(angle)) / angle^2
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
    size=2,
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


# Rotations of three-dimensional space

# Points are 3 x 3 matrices row by row, not unit quaternions: q and -q are one rotation, so that a network of quaternions would have to
# be odd, and a choice of sign tears the space. In these nine coordinates every smooth function is a function of rotations. Lengths are
# those of R^9: the square root of 2 times the angle.


def _matrix(x):
    return x.reshape(*x.shape[:-1], 3, 3)


def _flat(matrix):
    return matrix.reshape(*matrix.shape[:-2], 9)


def _times(one, other):
    return jnp.einsum("...ij,...jk->...ik", one, other, precision="highest")


def _transposed_times(one, other):
    return jnp.einsum("...ji,...jk->...ik", one, other, precision="highest")


def _hat(w):
    """The skew-symmetric matrix of a vector: hat(w) u = w x u."""
    a, b, c = w[..., 0], w[..., 1], w[..., 2]
    zero = jnp.zeros_like(a)
    return jnp.stack([zero, -c, b, c, zero, -a, -b, a, zero], axis=-1).reshape(*w.shape[:-1], 3, 3)


def _vee(matrix):
    """The vector of the skew-symmetric part of a matrix."""
    entry = lambda i, j: (matrix[..., i, j] - matrix[..., j, i]) / 2
    return jnp.stack([entry(2, 1), entry(0, 2), entry(1, 0)], axis=-1)


def _rotation_project(x, v):
    dtype = jnp.result_type(v)
    x, v = map(_matrix, _wide(x, v))
    return _flat(_times(x, _hat(_vee(_transposed_times(x, v))))).astype(dtype)


def _rotation_move(x, s, t, v):
    dtype = jnp.result_type(x)
    x, v = map(_matrix, _wide(x, v))
    step = (t - s) * _vee(_transposed_times(x, v))
    square = _dot(step, step)
    near = square < 0.1
    angle = jnp.sqrt(jnp.where(near, 1.0, square))
    sinc = jnp.where(near, _series(_SINC, square), jnp.sin(angle) / angle)
    versine = jnp.where(near, _series(_VERSINE, square), (1 - jnp.cos(angle)) / angle**2)
    turn = _hat(step)
    return _flat(x + sinc[..., None] * _times(x, turn) + versine[..., None] * _times(_times(x, turn), turn)).astype(dtype)


def _quaternion(matrix):
    """The unit quaternion of a rotation whose real part is not negative.

    Each row of 4 q q^T is linear in the matrix; the one of the largest entry of q, at least 1/2, is never near zero.
    """
    r = lambda i, j: matrix[..., i, j]
    real = [1 + r(0, 0) + r(1, 1) + r(2, 2), r(2, 1) - r(1, 2), r(0, 2) - r(2, 0), r(1, 0) - r(0, 1)]
    i = [real[1], 1 + r(0, 0) - r(1, 1) - r(2, 2), r(0, 1) + r(1, 0), r(0, 2) + r(2, 0)]
    j = [real[2], i[2], 1 - r(0, 0) + r(1, 1) - r(2, 2), r(1, 2) + r(2, 1)]
    k = [real[3], i[3], j[3], 1 - r(0, 0) - r(1, 1) + r(2, 2)]
    rows = jnp.stack([jnp.stack(row, axis=-1) for row in (real, i, j, k)], axis=-2)
    largest = jnp.argmax(jnp.diagonal(rows, axis1=-2, axis2=-1), axis=-1)
    row = jnp.take_along_axis(rows, largest[..., None, None], axis=-2)[..., 0, :]
    q = row / jnp.sqrt(_dot(row, row))
    return q * jnp.where(q[..., :1] < 0, -1.0, 1.0)


# The angle over the sine of its half, in the square of that sine.
_ANGLE_OVER_HALF_SINE = [2 * math.factorial(2 * k) / (4**k * math.factorial(k) ** 2 * (2 * k + 1)) for k in range(10)]


def _rotation_log(x, y):
    dtype = jnp.result_type(x)
    x, y = map(_matrix, _wide(x, y))
    q = _quaternion(_transposed_times(x, y))
    real, along = q[..., :1], q[..., 1:]
    square = _dot(along, along)
    near = square < 0.02
    sine = jnp.sqrt(jnp.where(near, 1.0, square))
    scale = jnp.where(near, _series(_ANGLE_OVER_HALF_SINE, square), 2 * jnp.arctan2(sine, real) / sine)
    return _flat(_times(x, _hat(scale * along))).astype(dtype)


def _rotation_nearest(y):
    (wide,) = _wide(y)
    left, _, right = jnp.linalg.svd(_matrix(wide))
    # A reflection is turned into a rotation by its least singular value.
    sign = jnp.sign(jnp.linalg.det(_times(left, right)))[..., None]
    left = jnp.concatenate([left[..., :2], left[..., 2:] * sign[..., None]], axis=-1)
    return _flat(_times(left, right)).astype(jnp.result_type(y))


def _rotation_noise(key, shape, dtype=float):
    _check_size("so3", shape, 9)
    q = _sphere_nearest(jax.random.normal(key, (*shape[:-1], 4), _at_least_float32(dtype)))
    w, a, b, c = (q[..., i] for i in range(4))
    rows = [
        [1 - 2 * (b * b + c * c), 2 * (a * b - w * c), 2 * (a * c + w * b)],
        [2 * (a * b + w * c), 1 - 2 * (a * a + c * c), 2 * (b * c - w * a)],
        [2 * (a * c - w * b), 2 * (b * c + w * a), 1 - 2 * (a * a + b * b)],
    ]
    return jnp.stack(sum(rows, []), axis=-1).astype(dtype)


def _check_size(name, shape, size):
    if not shape or shape[-1] != size:
        raise InputError(f"space {name!r}: points have {size} coordinates, the last axis, and the shape is {tuple(shape)}.")


so3 = Space("so3", _rotation_move, _rotation_log, _rotation_project, _rotation_nearest, _rotation_noise, size=9)


# Hyperbolic space

# The upper sheet of the hyperboloid -x_0^2 + x_1^2 + ... = -1, x_0 > 0; the same form is the inner product of tangent vectors.


def _lorentz(v, w):
    return _dot(v, w) - 2 * v[..., :1] * w[..., :1]


def _hyperbolic_nearest(y):
    (wide,) = _wide(y)
    rest = wide[..., 1:]
    return jnp.concatenate([jnp.sqrt(1 + _dot(rest, rest)), rest], axis=-1).astype(jnp.result_type(y))


def _hyperbolic_project(x, v):
    x, v = _wide(x, v)
    return v + _lorentz(x, v) * x


def _hyperbolic_move(x, s, t, v):
    dtype = jnp.result_type(x)
    step = (t - s) * _hyperbolic_project(x, v)
    square = _lorentz(step, step)
    near = square < 0.1
    length = jnp.sqrt(jnp.where(near, 1.0, square))
    cosh = jnp.where(near, _series(_COS, -square), jnp.cosh(length))
    sinhc = jnp.where(near, _series(_SINC, -square), jnp.sinh(length) / length)
    return _hyperbolic_nearest(cosh * x + sinhc * step).astype(dtype)


def _hyperbolic_log(x, y):
    dtype = jnp.result_type(x)
    x, y = _wide(x, y)
    gap = _lorentz(y - x, y - x) / 2  # cosh(distance) - 1, without cancellation
    near = gap < 0.02
    far = jnp.where(near, 1.0, gap)
    sinh = jnp.sqrt(far * (far + 2))
    scale = jnp.where(near, _series(_ANGLE_OVER_SINE, -gap), jnp.arcsinh(sinh) / sinh)
    return (scale * (y - x - gap * x)).astype(dtype)


def _hyperbolic_noise(key, shape, dtype=float):
    if not shape or shape[-1] < 2:
        raise InputError(
            f"space 'hyperbolic': points of H^n have n + 1 coordinates, at least 2, and the shape is {tuple(shape)}."
        )
    tangent = jax.random.normal(key, shape, _at_least_float32(dtype)).at[..., 0].set(0.0)
    origin = jnp.zeros_like(tangent).at[..., 0].set(1.0)
    return _hyperbolic_move(origin, 0.0, 1.0, tangent).astype(dtype)


# Noise is a normal step from (1, 0, ..., 0); the nearest point is the one with the coordinates of y but the first.
hyperbolic = Space(
    "hyperbolic",
    _hyperbolic_move,
    _hyperbolic_log,
    lambda x, v: _hyperbolic_project(x, v).astype(jnp.result_type(v)),
    _hyperbolic_nearest,
    _hyperbolic_noise,
    _lorentz,
    size=2,
)

SPACES = {space.name: space for space in (euclidean, sphere, torus, so3, hyperbolic)}


# Products


def product(**sizes: float) -> Space:
    """The product of different spaces, their coordinates side by side: `product(sphere=3, torus=2)` has points of 5 coordinates.

    Distances are those of Pythagoras. Of several points of one space use an axis before the last, [B, 4, 3] for four on a sphere; the
    last axis holds each space at most once.

    Args:
      **sizes: number of coordinates in each space, by its key in SPACES.

    Returns:
      A Space named "product:sphere=3,torus=2".

    Raises:
      InputError: for an unknown space, or a number of coordinates that it cannot have.

    Example:
      >>> product(sphere=3, torus=2).noise(jax.random.key(0), (4, 5)).shape
      (4, 5)
    """
    if not sizes:
        raise InputError(
            "a product of no spaces; expected one or more with their numbers of coordinates: product:sphere=3,torus=2."
        )
    for name, size in sizes.items():
        checks.member("space", name, SPACES)
        if size != int(size) or size < SPACES[name].size or (name == "so3" and size != 9):
            raise InputError(
                f"space {name!r} has {size} coordinates in a product; expected {SPACES[name].size}{'' if name == 'so3' else ' or more'}."
            )
    name = "product:" + ",".join(f"{name}={int(size)}" for name, size in sizes.items())
    factors = [SPACES[name] for name in sizes]
    total, cuts = int(sum(sizes.values())), [int(cut) for cut in itertools.accumulate(sizes.values())][:-1]
    parts = lambda x: jnp.split(x, cuts, axis=-1)
    join = lambda pieces: jnp.concatenate(list(pieces), axis=-1)

    def noise(key, shape, dtype=float):
        _check_size(name, shape, total)
        keys = jax.random.split(key, len(factors))
        sized = zip(factors, keys, sizes.values())
        return join(factor.noise(key, (*shape[:-1], int(size)), dtype) for factor, key, size in sized)

    return Space(
        name,
        lambda x, s, t, v: join(f.move(x, s, t, v) for f, x, v in zip(factors, parts(x), parts(v))),
        lambda x, y: join(f.log(x, y) for f, x, y in zip(factors, parts(x), parts(y))),
        lambda x, v: join(f.project(x, v) for f, x, v in zip(factors, parts(x), parts(v))),
        lambda y: join(f.nearest(y) for f, y in zip(factors, parts(y))),
        noise,
        lambda v, w: functools.reduce(operator.add, (f.inner(v, w) for f, v, w in zip(factors, parts(v), parts(w)))),
        size=total,
    )


@functools.cache
def space_from_name(name: str) -> Space:
    """A Space from a key of SPACES, or a product of them, "product:sphere=3,torus=2"; the same one for the same name."""
    if name.startswith("product"):
        sizes = dict.fromkeys(SPACES, 3.0)
        return product(**options.parse("space", name, {"product": sizes})[1])
    return options.entry("space", name, SPACES)
