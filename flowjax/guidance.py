"""Guided velocities, and the scale of the guidance as something that a network is told.

    v_w = v_weak + w (v - v_weak),   w = 1: no guidance

Classifier-free guidance takes the unconditional velocity of the same network for `v_weak`, autoguidance that of a weaker network.
The scale of a row stands in `cond["guidance"]`, [B].
"""

import math

import jax
import jax.numpy as jnp

from flowjax import times, typing

KINDS = ("classifier_free", "autoguidance")


def guided(v, v_weak, w):
    """The velocity extrapolated away from a weaker one: v_weak + w (v - v_weak).

    Args:
      v: velocity, [B, ...].
      v_weak: the velocity to move away from, the shape of `v`.
      w: scale, at least 1, broadcasting against `v`; 1 gives `v`.

    Example:
      >>> guided(jnp.array([2.0]), jnp.array([1.0]), 3.0).tolist()
      [4.0]

    Reference: Ho and Salimans 2022 (arXiv 2207.12598), equation 6, whose scale is w - 1; Karras et al. 2024 (arXiv 2406.02507).
    """
    return v_weak + w * (v - v_weak)


def classifier_free(velocity, interval=(0.0, 1.0)):
    """`velocity` guided away from its own answer to the null label.

    Args:
      velocity: `(x, t, cond) -> velocity`, which knows the null label -1.
      interval: times (low, high) in [0, 1] outside which the scale is 1.

    Returns:
      `(x, t, cond) -> velocity`, at the scale cond["guidance"], [B].
    """

    def ask(x, t, cond):
        null = {"label": jnp.full(x.shape[:1], -1)}
        return guided(velocity(x, t, {"label": cond["label"]}), velocity(x, t, null), _scale(cond, x, t, interval))

    return ask


def autoguidance(velocity, weak, interval=(0.0, 1.0)):
    """`velocity` guided away from that of a weaker network, as `classifier_free`; labels are not needed."""

    def ask(x, t, cond):
        own = {name: value for name, value in cond.items() if name != "guidance"}
        return guided(velocity(x, t, own), weak(x, t, own), _scale(cond, x, t, interval))

    return ask


def _scale(cond, x, t, interval):
    low, high = interval
    return jnp.where((low <= t) & (t <= high), times.expand(cond["guidance"].astype(jnp.float32), x), 1.0)


def told(method, low, high):
    """`method` with a scale for every row, uniform between `low` and `high`, in the cond of all its terms.

    Args:
      method: a flowjax.typing.Method.
      low: lowest scale, at least 1.
      high: highest; equal to `low` for a fixed scale.
    """

    def draw(key, batch, step):
        scale_key, own_key = jax.random.split(key)
        scale = jax.random.uniform(scale_key, batch["x"].shape[:1], minval=low, maxval=high)
        return method.draw(own_key, {**batch, "guidance": scale}, step)

    return method._replace(draw=draw)


def check(kind, scale, interval):
    """Raises InputError unless kind, (low, high) scale and (low, high) interval make sense."""
    _ordered(
        "config.guidance.scale", scale, 1.0, float("inf"), "scales (low, high) of at least 1, equal for a fixed one: (1.5, 1.5)"
    )
    _ordered("config.guidance.interval", interval, 0.0, 1.0, "times (low, high) between 0 and 1: (0.0, 1.0)")
    if kind not in KINDS:
        raise typing.InputError(f"config.guidance.kind is {kind!r}; expected {' or '.join(KINDS)}, or '' for no guidance.")


def _ordered(name, pair, least, most, expected):
    numbers = isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(value, (int, float)) for value in pair)
    if not numbers or not least <= pair[0] <= pair[1] <= most or math.isinf(pair[1]):
        raise typing.InputError(f"{name} is {pair!r}; expected {expected}.")
