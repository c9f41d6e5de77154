"""How likely data is: log p of a velocity's flow and of the samples of a map, in nats.

Along dx/dt = v(x, t) the logarithm of the density falls by the divergence of v. So log p(x0) is that of the noise at which x0 ends,
plus the integral of the divergence; a jump F changes it by log|det dF/dx|. Rows do not see each other in a network of ours, so that
one jvp along the same coordinate of every row gives that coordinate's part of all divergences.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from flowjax import flowmap, paths, samplers, spaces, steering, typing
from flowjax.typing import Array, AverageVelocity, Time, Velocity


class Divergence(Protocol):
    """`divergence(v, x, t, keys) -> (v(x, t), its divergence [B])`; exact ones do not read the keys [B]."""

    def __call__(self, v: Velocity, x: Array, t: Time, keys: Array | None, /) -> tuple[Array, Array]: ...


def exact_divergence(v: Velocity, x: Array, t: Time, keys: Array | None = None) -> tuple[Array, Array]:
    """The velocity and its divergence, sum_i dv_i/dx_i, by one jvp for each of the D elements of a row, one after the other.

    Args:
      v: velocity, `v(x, t)`, which treats rows independently.
      x: [B, ...].
      t: time in [0, 1].
      keys: not read.

    Returns:
      (v(x, t), [B]).

    Example:
      >>> exact_divergence(lambda x, t: t * x, jnp.ones((1, 3)), 0.5)[1].tolist()
      [1.5]
    """
    v_x, pushed = jax.linearize(lambda x: v(x, t), x)
    count = math.prod(x.shape[1:])

    def add(total: Array, number: Array) -> tuple[Array, None]:
        unit = jax.nn.one_hot(number, count, dtype=x.dtype)
        along = jnp.broadcast_to(unit.reshape(1, *x.shape[1:]), x.shape)
        return total + pushed(along).reshape(len(x), -1)[:, number], None

    return v_x, jax.lax.scan(add, jnp.zeros(len(x), v_x.dtype), jnp.arange(count))[0]


def hutchinson(
    v: Velocity, x: Array, t: Time, keys: Array | None, *, probes: int = 1, kind: str = "rademacher"
) -> tuple[Array, Array]:
    """The velocity and an unbiased estimate of its divergence: the mean of z . (dv/dx z) over random probes z.

    Args:
      v: velocity, `v(x, t)`, which treats rows independently.
      x: [B, ...].
      t: time in [0, 1].
      keys: a typed key a row, [B]: the same keys give the same probes at every time, so that the field is smooth along a trajectory.
      probes: how many; the variance falls with one over it.
      kind: "rademacher", signs, which is exact where dv/dx is diagonal; "gaussian"; or "hutch++", exact on the range of probes / 3
        directions of dv/dx, with signs for the rest.

    Returns:
      (v(x, t), [B]).

    Raises:
      InputError: for another kind, too few probes, or no keys.

    Example:
      >>> keys = jax.random.split(jax.random.key(0), 1)
      >>> hutchinson(lambda x, t: t * x, jnp.ones((1, 3)), 0.5, keys)[1].tolist()
      [1.5]

    Reference: Grathwohl et al. 2018, FFJORD (arXiv 1810.01367), eq. 7; Meyer et al. 2020, Hutch++ (arXiv 2010.09649), algorithm 1.
    """
    least = 3 if kind == "hutch++" else 1
    if kind not in ("rademacher", "gaussian", "hutch++") or probes < least or keys is None:
        raise typing.InputError(
            f"hutchinson: kind {kind!r}, {probes} probes, {'no ' if keys is None else ''}keys; expected rademacher, gaussian or hutch++, at"
            f" least {least} probes, and a typed key a row: jax.random.split(jax.random.key(0), len(x))."
        )
    draw = jax.random.normal if kind == "gaussian" else jax.random.rademacher
    z = jax.vmap(lambda key: draw(key, (probes, *x.shape[1:]), x.dtype))(keys)
    v_x, pushed = jax.linearize(lambda x: v(x, t), x)
    push = jax.vmap(pushed, in_axes=1, out_axes=1)  # [B, probes, ...] -> the same
    if kind == "hutch++":
        return v_x, _deflated(push, z)
    return v_x, jnp.mean(jnp.sum((z * push(z)).reshape(*z.shape[:2], -1), axis=-1), axis=1)


def _deflated(push: Callable[[Array], Array], z: Array) -> Array:
    """Hutch++: the trace on the range of the first third of the probes, and by the second third on what is orthogonal to it."""
    third, shape = z.shape[1] // 3, z.shape[2:]
    third = min(third, math.prod(shape))
    flat = lambda a: jnp.moveaxis(a.reshape(*a.shape[:2], -1), 1, 2)  # [B, D, probes]
    wide = lambda a: jnp.moveaxis(a, 2, 1).reshape(a.shape[0], -1, *shape)
    Q = jnp.linalg.qr(flat(push(z[:, :third])))[0]
    rest = flat(z[:, third : 2 * third])
    rest = rest - Q @ (jnp.swapaxes(Q, 1, 2) @ rest)
    known = jnp.sum(Q * flat(push(wide(Q))), axis=(1, 2))
    return known + jnp.sum(rest * flat(push(wide(rest))), axis=(1, 2)) / third


def log_noise(eps: Array, path: paths.Path = paths.linear) -> Array:
    """Log-density [B] of the path's normal noise at eps [B, ...]; raises InputError for a path whose noise is not normal about 0."""
    if path.centres or path.space is not spaces.euclidean:
        raise typing.InputError(
            f"the noise of this path, on the space {path.space.name!r}, is not normal about 0; expected R^n."
        )
    scaled = (eps / path.noise).reshape(len(eps), -1)
    constant = scaled.shape[1] * (0.5 * math.log(2 * math.pi) + math.log(path.noise))
    return -0.5 * jnp.sum(scaled**2, axis=1) - constant


def log_density(
    v: Velocity,
    x0: Array,
    times: Array,
    *,
    divergence: Divergence = exact_divergence,
    keys: Array | None = None,
    solver: Callable[..., Array] = samplers.heun,
    path: paths.Path = paths.linear,
) -> Array:
    """log p(x0) of the flow of a velocity, by the instantaneous change of variables.

        log p(x0) = log N(x(1)) + integral from 0 to 1 of div v(x(t), t) dt,     dx/dt = v, x(0) = x0

    Args:
      v: velocity, `v(x, t)`; of a flow map `lambda x, t: V(x, t, t)`.
      x0: data, [B, ...].
      times: [n + 1] times that rise from 0 to 1: `samplers.grid(n)[::-1]`.
      divergence: `exact_divergence`, or `functools.partial(hutchinson, probes=...)`.
      keys: typed keys [B], for an estimate.
      solver: of flowjax.samplers, for velocities: heun, midpoint, euler, adaptive or `functools.partial(adaptive, rtol=...)`.
      path: on R^n, whose noise is at time 1.

    Returns:
      [B], in nats.

    Raises:
      InputError: for a grid that does not rise from 0 to 1, or noise that is not normal about 0.

    Example:
      >>> v = exact.gaussian(0.0, 4.0).v  # N(0, 4)
      >>> round(float(log_density(v, jnp.zeros((1, 1)), samplers.grid(64)[::-1])[0]), 2)  # -log(2 sqrt(2 pi))
      -1.61

    Reference: Chen et al. 2018 (arXiv 1806.07366), theorem 1; Song et al. 2021 (arXiv 2011.13456), section 4.3.
    """
    first, last = (0, 1) if isinstance(times, jax.core.Tracer) else np.asarray(times)[[0, -1]]
    if (first, last) != (0, 1):
        raise typing.InputError(
            f"log_density: times run from {first:g} to {last:g}; expected 0 (data) to 1 (noise): samplers.grid(n)[::-1]."
        )
    count = math.prod(x0.shape[1:])
    split = lambda y: (y[:, :count].reshape(x0.shape), y[:, count:])

    def rates(y: Array, t: Array) -> Array:
        x, _ = split(y)
        v_x, div = divergence(v, x, t, keys)
        return jnp.concatenate([v_x.reshape(len(x), -1), div[:, None].astype(y.dtype)], axis=1)

    start = jnp.concatenate([x0.reshape(len(x0), -1), jnp.zeros((len(x0), 1), x0.dtype)], axis=1)
    eps, gained = split(solver(rates, start, times))
    return log_noise(eps, path) + gained[:, 0]


def log_determinant(F: Callable[[Array], Array], x: Array) -> tuple[Array, Array]:
    """(F(x), log|det dF/dx| [B]) of a map of rows [B, ...], by D jvps and a determinant of D x D a row."""
    y, pushed = jax.linearize(F, x)
    count = math.prod(x.shape[1:])
    units = jnp.eye(count, dtype=x.dtype).reshape(count, 1, *x.shape[1:])
    columns = jax.vmap(lambda unit: pushed(jnp.broadcast_to(unit, x.shape)).reshape(len(x), -1))(units)  # [D, B, D]
    return y, jnp.linalg.slogdet(jnp.moveaxis(columns, 0, -1))[1]


def sample_with_density(
    V: AverageVelocity, eps: Array, times: Array, *, path: paths.Path = paths.linear
) -> tuple[Array, Array]:
    """Samples of a map and the exact log-density of the sampler at them, if each of its jumps is one to one.

        x <- F(x, s, t),   log q <- log q - log|det dF/dx|

    Args:
      V: average velocity, `V(x, s, t)`, which treats rows independently.
      eps: noise of the path, [B, ...], rows of at most a few hundred elements.
      times: [n + 1] times that fall from 1 to 0.
      path: on R^n.

    Returns:
      (x0 [B, ...], log q(x0) [B]).

    Example:
      >>> x, log_q = sample_with_density(flow.V, jnp.zeros((1, 1)), jnp.array([1.0, 0.0]))
      >>> x.tolist(), round(float(log_q[0]), 3)  # the mean of N(0.5, 4)
      ([[0.5]], -1.612)

    Reference: Rehman et al. 2025, FALCON (arXiv 2512.09914).
    """

    def step(state: tuple[Array, Array], number: Array, s: Array, t: Array) -> tuple[Array, Array]:
        x, log_det = log_determinant(lambda x: flowmap.jump(V, x, s, t), state[0])
        return x, state[1] - log_det

    return samplers.fold(step, (eps, log_noise(eps, path)), times)


def importance_weights(log_target: Array, log_q: Array) -> tuple[Array, Array]:
    """(self-normalised weights [B] that sum to 1, effective sample size as a share of B) of samples of q for an unnormalised target."""
    return jax.nn.softmax(log_target - log_q), steering.effective_share(log_target - log_q)


def bits_per_dimension(log_p: Array, dimensions: int, width: float) -> Array:
    """Bits per dimension of data on a grid, from log-densities of data to which uniform noise of one cell was added.

        bits = -(log p / dimensions + log width) / log 2,   an upper bound of the discrete data's on the mean

    Args:
      log_p: [B], in nats, of dequantised rows as the model sees them.
      dimensions: elements of a row.
      width: of a cell in these units: 2 / 255 of images in [-1, 1] with 256 levels.

    Example:
      >>> bits_per_dimension(jnp.zeros(1), 4, 2.0**-3).tolist()
      [3.0]

    Reference: Theis et al. 2016 (arXiv 1511.01844), section 3.1.
    """
    return -(log_p / dimensions + math.log(width)) / math.log(2)


def dequantised(x: Array, width: float, key: Array) -> Array:
    """Data on a grid with uniform noise of one cell, [x - width / 2, x + width / 2]."""
    return x + width * (jax.random.uniform(key, x.shape, x.dtype) - 0.5)


DIVERGENCES: dict[str, Divergence] = {
    "exact": exact_divergence,
    "rademacher": hutchinson,
    "gaussian": functools.partial(hutchinson, kind="gaussian"),
    "hutch++": functools.partial(hutchinson, kind="hutch++", probes=3),
}
