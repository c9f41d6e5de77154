"""The flow map F from the average velocity V, and V from whatever else a network may predict.

A parameterisation takes a raw network `N(x, s, t, *cond)` and returns `V(x, s, t, *cond)`; whatever follows the times is passed
on. All are exact rewritings on the linear path x_t = (1 - t) x0 + t eps: they change what the network must learn, not the map.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from flowjax import checks
from flowjax.typing import Array, AverageVelocity, Time

Network = Callable[..., Array]  # N(x, s, t, *cond) and V likewise; v(x, t, *cond)


def move(x: Array, s: Time, t: Time, v: Array) -> Array:
    """A straight line: x + (t - s) v, in the dtype of `x` (times are never narrower than float32)."""
    return (x + (t - s) * v).astype(jnp.result_type(x))


def jump(V: AverageVelocity, x: Array, s: Time, t: Time, *, move: Callable[..., Array] = move) -> Array:
    """The flow map: carries `x` from time `s` to time `t` with one evaluation of `V`.

        F(x, s, t) = x + (t - s) V(x, s, t);   on another space than R^n  exp_x((t - s) V(x, s, t))

    Args:
      V: average velocity, `V(x, s, t)`.
      x: data at time `s`, any shape.
      s: source time in [0, 1], a scalar or with `x.ndim` axes.
      t: target time in [0, 1], likewise.
      move: `(x, s, t, v) -> data at time t`, the move of a flowjax.spaces.Space.

    Returns:
      The data at time `t`, with the shape and dtype of `x`.

    Raises:
      InputError: if a time has neither no axis nor `x.ndim` axes.

    Example:
      >>> jump(lambda x, s, t: -x, jnp.ones((2, 3)), 1.0, 0.5)[0]
      Array([1.5, 1.5, 1.5], dtype=float32)

    Reference: Boffi et al. 2024 (arXiv 2406.07507), definition 2.1; Geng et al. 2025 (arXiv 2505.13447), eq. 3.
    """
    s, t = checks.times("jump", x, s=s, t=t)
    return move(x, s, t, V(x, s, t))


def velocity(N: Network) -> Network:
    """The network predicts the average velocity itself: V = N."""
    return N


def denoised_field(N: Network, *, floor: float = 0.05) -> Network:
    """The network predicts the denoised image field D = x - s V, which looks like data at every noise level.

        V(x, s, t) = (x - D(x, s, t)) / max(s, floor),     F(x, s, t) = (t / s) x + (1 - t / s) D(x, s, t)

    The second form is also how Consistency Trajectory Models write their jump.

    Args:
      N: raw network, `N(x, s, t, *cond)`; its output is D.
      floor: least divisor; for s below it V is too small, so that the map bends at that time (0.05 as published). The average
        velocity there is not a rewriting any more; sampling from s = 1 in a few steps never comes near.

    Returns:
      `V(x, s, t, *cond)`.

    Example:
      >>> denoised_field(lambda x, s, t: 0 * x)(jnp.ones((1, 2)), 0.5, 0.0)[0]
      Array([2., 2.], dtype=float32)

    Reference: Lu et al. 2026, Pixel Mean Flows (arXiv 2601.22158); Kim et al. 2023, CTM (arXiv 2310.02279), eq. 5.
    """

    def V(x: Array, s: Time, t: Time, *cond: Any) -> Array:
        s, t = checks.times("denoised_field", x, s=s, t=t)
        return ((x - N(x, s, t, *cond)) / jnp.maximum(s, floor)).astype(jnp.result_type(x))

    return V


def categorical(N: Network, *, floor: float = 1e-3) -> Network:
    """The network predicts logits of the categories on the last axis, and the denoised field is their probabilities.

        V(x, s, t) = (x - softmax(N(x, s, t))) / max(s, floor),     F(x, s, t) = (t / s) x + (1 - t / s) softmax(N)

    So every jump stays between x and the simplex, and one that ends at t = 0 is on it.

    Args:
      N: raw network, `N(x, s, t, *cond)`, whose output is logits.
      floor: least divisor, of times at which tokens are certain (ours).

    Returns:
      `V(x, s, t, *cond)`.

    Example:
      >>> categorical(lambda x, s, t: 0 * x)(jnp.ones((1, 2)), 0.5, 0.0)[0]
      Array([1., 1.], dtype=float32)

    Reference: Categorical Flow Maps (arXiv 2602.12233); Discrete Flow Maps (arXiv 2604.09784).
    """
    return denoised_field(lambda x, s, t, *cond: jax.nn.softmax(N(x, s, t, *cond)), floor=floor)


def destination(N: Network, *, floor: float = 1e-3) -> Network:
    """The network predicts where the jump lands, F(x, s, t) = N(x, s, t).

        V(x, s, t) = (N(x, s, t) - x) / (t - s)

    The identity F(x, s, s) = x is not built in, and V has no value on the diagonal: methods with an anchor cannot use it.

    Args:
      N: raw network, `N(x, s, t, *cond)`.
      floor: least |t - s| in the divisor.

    Returns:
      `V(x, s, t, *cond)`.

    Example:
      >>> destination(lambda x, s, t: 0 * x)(jnp.ones((1, 2)), 1.0, 0.5)[0]
      Array([2., 2.], dtype=float32)

    Reference: the two-time form of Song et al. 2023, Consistency Models (arXiv 2303.01469), section 3.
    """

    def V(x: Array, s: Time, t: Time, *cond: Any) -> Array:
        s, t = checks.times("destination", x, s=s, t=t)
        gap = jnp.where(t > s, 1.0, -1.0) * jnp.maximum(jnp.abs(t - s), floor)
        return ((N(x, s, t, *cond) - x) / gap).astype(jnp.result_type(x))

    return V


def second_order(v: Network, N: Network) -> Network:
    """A known velocity plus a learned curvature: the anchor holds by construction.

        V(x, s, t) = v(x, s) + (t - s) / 2 N(x, s, t)

    Args:
      v: instantaneous velocity, `v(x, t, *cond)`: a teacher's, or a velocity head's.
      N: raw network, `N(x, s, t, *cond)`.

    Returns:
      `V(x, s, t, *cond)`.

    Example:
      >>> second_order(lambda x, t: x, lambda x, s, t: 2 * x)(jnp.ones((1, 2)), 1.0, 0.5)[0]
      Array([0.5, 0.5], dtype=float32)

    Reference: Boffi et al. 2024, Flow Map Matching (arXiv 2406.07507); the Taylor expansion of F in t about t = s.
    """

    def V(x: Array, s: Time, t: Time, *cond: Any) -> Array:
        s, t = checks.times("second_order", x, s=s, t=t)
        return (v(x, s, *cond) + (t - s) / 2 * N(x, s, t, *cond)).astype(jnp.result_type(x))

    return V


def trigflow(N: Network) -> Network:
    """TrigFlow: the network predicts the velocity of x_a = cos(a) x0 + sin(a) eps on inputs of unit variance.

        x_b = cos(a - b) x_a - sin(a - b) N(x_a, a, b)     in angles a > b; in our time and path
        V(x, s, t) = N(x / r, a, b) / r + (2 s - 1) / r^2 x,     r = sqrt(s^2 + (1 - s)^2),  a = arctan(s / (1 - s))

    The network gets the angles divided by pi / 2, so that they run from 0 to 1. Data is taken to have unit variance.

    Args:
      N: raw network, `N(x, a, b, *cond)`, a and b in [0, 1].

    Returns:
      `V(x, s, t, *cond)`.

    Example:
      >>> trigflow(lambda x, a, b: 0 * x)(jnp.ones((1, 2)), 1.0, 0.0)[0]
      Array([1., 1.], dtype=float32)

    Reference: Lu and Song 2024, sCM (arXiv 2410.11081), section 3.
    """
    angle = lambda t: jnp.arctan2(t, 1 - t) / (jnp.pi / 2)

    def V(x: Array, s: Time, t: Time, *cond: Any) -> Array:
        s, t = checks.times("trigflow", x, s=s, t=t)
        r = jnp.sqrt(s**2 + (1 - s) ** 2)
        N_ab = N((x / r).astype(jnp.result_type(x)), angle(s), angle(t), *cond)
        return (N_ab / r + (2 * s - 1) / r**2 * x).astype(jnp.result_type(x))

    return V


def edm(N: Network, *, sigma_data: float = 0.5) -> Network:
    """EDM preconditioning: inputs and targets of the network have unit variance at every noise level.

        D = c_skip x_ve + c_out N(c_in x_ve, s, t),  x_ve = x / (1 - s),  sigma = s / (1 - s),  V = (x - D) / s; together
        V(x, s, t) = (s - d^2 (1 - s)) / q x - d / sqrt(q) N(x / sqrt(q), s, t),     q = s^2 + d^2 (1 - s)^2,  d = sigma_data

    The division by s has cancelled, so that V is defined from data to noise and F(x, s, s) = x needs no smallest sigma.

    Args:
      N: raw network, `N(x, s, t, *cond)`.
      sigma_data: standard deviation of the data; 0.5 as published, 1 for points and latents.

    Returns:
      `V(x, s, t, *cond)`.

    Example:
      >>> edm(lambda x, s, t: 0 * x)(jnp.ones((1, 2)), 1.0, 0.0)[0]
      Array([1., 1.], dtype=float32)

    Reference: Karras et al. 2022, EDM (arXiv 2206.00364), Table 1, as used by consistency models (arXiv 2303.01469, appendix C).
    """

    def V(x: Array, s: Time, t: Time, *cond: Any) -> Array:
        s, t = checks.times("edm", x, s=s, t=t)
        q = s**2 + sigma_data**2 * (1 - s) ** 2
        N_st = N((x / jnp.sqrt(q)).astype(jnp.result_type(x)), s, t, *cond)
        return ((s - sigma_data**2 * (1 - s)) / q * x - sigma_data / jnp.sqrt(q) * N_st).astype(jnp.result_type(x))

    return V


def dyadic(N: Network, *, sections: int = 128) -> Network:
    """The network is told the length of a jump by its level, the whole numbers 0 .. log2(sections) for the lengths 1, 1/2, 1/4, ...

        V(x, s, t) = N(x, s, s - k),     k = log2(1 / max(|s - t|, 1 / sections))

    Networks embed s and the difference of their two times, here k (-k for a jump towards noise). Shorter jumps are told as the shortest,
    so that V(x, s, s) is the velocity that jumps of length 1 / sections learn.

    Args:
      N: raw network, `N(x, s, t, *cond)`, a function of s and s - t.
      sections: one over the shortest jump, 128 as published.

    Returns:
      `V(x, s, t, *cond)`.

    Example:
      >>> dyadic(lambda x, s, t: (s - t) * x)(jnp.ones((1, 2)), 0.75, 0.5).tolist()
      [[2.0, 2.0]]

    Reference: Frans et al. 2024, Shortcut Models (arXiv 2410.12557), the embedding of the step size in its code.
    """

    def V(x: Array, s: Time, t: Time, *cond: Any) -> Array:
        s, t = checks.times("dyadic", x, s=s, t=t)
        level = -jnp.log2(jnp.maximum(jnp.abs(s - t), 1 / sections))
        return N(x, s, s - jnp.where(t > s, -level, level), *cond)

    return V


def extended_source(N: Network) -> Network:
    """The second task of a network that sees its source time alone: the source times -1..0 mean "velocity, not average velocity".

        V(x, s, t) = N(x, -s, t)

    FACM anchors a consistency model N(x, s) by `losses.flow_matching(extended_source(V), x, s, v)`. At the data, s = 0, both tasks
    have one answer, and there their labels meet. A network that sees both times needs none of this: the velocity is V(x, s, s), the
    jump V(x, s, 0).

    Args:
      N: raw network, `N(x, s, t, *cond)`, that accepts source times from -1.

    Returns:
      `V(x, s, t, *cond)`.

    Example:
      >>> extended_source(lambda x, s, t: s * x)(jnp.ones((1, 2)), 0.25, 0.25)[0]
      Array([-0.25, -0.25], dtype=float32)

    Reference: Peng et al. 2025, FACM (arXiv 2507.03738), the expanded time interval: 2 - t for a time t that is 1 at the data.
    """
    return lambda x, s, t, *cond: N(x, -s, t, *cond)


# What a config may name: those made from one network.
PARAMETERISATIONS = {
    "velocity": velocity,
    "denoised_field": denoised_field,
    "categorical": categorical,
    "destination": destination,
    "trigflow": trigflow,
    "edm": edm,
    "dyadic": dyadic,
}
