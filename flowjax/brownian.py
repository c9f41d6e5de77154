"""Brownian paths as inputs of a network: Legendre coefficients of the noise between two times.

The noise of the process of flowjax.losses.strong between s and t is a Brownian motion N in the clock noise (s^2 - t^2). Its
coefficients over that span, u from 0 to 1 along the clock, are

    w_n = integral of P_n(2 u - 1) dN(u),     n = 0, 1, 2,

independent normals of variance noise (s^2 - t^2) / (2 n + 1); w_0 is the increment. With more of them the polynomial of degree n + 1
that they determine nears the path.
"""

import jax
import jax.numpy as jnp

from flowjax import checks
from flowjax.typing import Array, Time

COUNT = 3  # coefficients, as in the published code for images (space-time-time Levy area)


def clock(s: Time, t: Time, noise: float) -> Time:
    """Variance of the noise between s and t <= s: noise (s^2 - t^2)."""
    return noise * (s**2 - t**2)


def coefficients(key: Array, x: Array, s: Time, t: Time, noise: float) -> Array:
    """Coefficients of the noise of rows like x between s and t, [3, B, ...]."""
    return scaled(jax.random.normal(key, (COUNT, *x.shape), x.dtype), s, t, noise)


def scaled(normal: Array, s: Time, t: Time, noise: float) -> Array:
    """Coefficients of the noise between s and t from normal numbers [3, B, ...] of variance 1."""
    over = jnp.sqrt(2.0 * jnp.arange(COUNT) + 1).reshape(-1, *[1] * (normal.ndim - 1))
    spread = jnp.sqrt(jnp.maximum(jnp.asarray(clock(s, t, noise)), 0.0))
    return (normal * (spread[None] if spread.ndim else spread) / over).astype(normal.dtype)


def extended(w: Array, s: Time, t: Time) -> Array:
    """How the coefficients between s and t change as the end t moves along one path, that of least degree: (t - s) dw/dt.

    Along the polynomial path that has the coefficients w, with L = noise (s^2 - t^2),

        L dw_0/dL = w_0 + 3 w_1 + 5 w_2,   L dw_1/dL = 2 w_1 + 5 w_2,   L dw_2/dL = 3 w_2,   (t - s) / L dL/dt = 2 t / (s + t)

    so that neither the strength of the noise nor a division by t - s is left.

    Args:
      w: [3, B, ...].
      s, t: times that fit a row, not both 0.

    Returns:
      [3, B, ...].

    Example:
      >>> line = jnp.array([[2.0], [0.0], [0.0]])  # a straight path: its increment is in proportion to s^2 - t^2
      >>> extended(line, 0.5, 0.5).ravel().tolist()
      [2.0, 0.0, 0.0]
    """
    share = jnp.asarray(2 * t / (s + t))
    change = jnp.stack([w[0] + 3 * w[1] + 5 * w[2], 2 * w[1] + 5 * w[2], 3 * w[2]])
    return ((share[None] if share.ndim else share) * change).astype(w.dtype)


def joined(left: Array, right: Array, share: Time) -> Array:
    """Coefficients of a span from those of its two parts.

    Args:
      left: of the part that comes first, [3, B, ...].
      right: of the other.
      share: of the first part in the clock, a scalar or with the axes of a row, in (0, 1).

    Returns:
      [3, B, ...].

    Raises:
      InputError: if the shapes differ.

    Example:
      >>> one = jnp.array([[1.0], [0.0], [0.0]])  # a straight line, and twice as long a one
      >>> joined(one, 2 * one, 1 / 3).round(6).ravel().tolist()
      [3.0, 0.0, 0.0]

    Reference: Chen's relation for two parts; the published code of Strong Stochastic Flow Maps (arXiv 2606.01086) has equal ones.
    """
    right = checks.like("joined", left, right, name="right")
    a, b = share, 1 - share
    first = left[0] + right[0]
    second = a * left[1] - b * left[0] + b * right[1] + a * right[0]
    third = (
        a**2 * left[2] - 3 * a * b * left[1] + b * (1 - 2 * a) * left[0]
        + b**2 * right[2] + 3 * a * b * right[1] + a * (2 * a - 1) * right[0]
    )  # fmt: skip
    return jnp.stack([first, second, third]).astype(left.dtype)
