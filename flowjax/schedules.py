"""Schedules over training: functions of the training step, a Python or a traced integer, to a float32 scalar."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from flowjax import typing
from flowjax.typing import Array

Schedule = Callable[[ArrayLike], Array]


def constant(value: float) -> Schedule:
    """The schedule that stays at `value`."""
    return lambda step: jnp.float32(value)


def exponential(start: float, end: float, total_steps: int) -> Schedule:
    """From `start` at step 0 to `end` at `total_steps` by a constant factor a step, then `end` (SoFlow's `a`).

    Example:
      >>> round(float(exponential(0.1, 0.001, 100)(50)), 6)
      0.01
    """
    return lambda step: jnp.float32(start) * (end / start) ** _progress(step, total_steps)


def linear(start: float, end: float, total_steps: int) -> Schedule:
    """From `start` at step 0 to `end` at `total_steps` by a constant difference a step, then `end`."""
    return lambda step: start + (end - start) * _progress(step, total_steps)


def sigmoid(start: float, end: float, steepness: float = 25.0, snap: float = 0.005) -> Schedule:
    """From 1 before the step `start` to 0 after the step `end` along 1 - sigmoid.

    Args:
      start: first step of the fall.
      end: last step of the fall.
      steepness: slope of the sigmoid over the interval.
      snap: values nearer than this to 0 or 1 become 0 or 1.

    Example:
      >>> [round(float(sigmoid(0, 100)(step)), 4) for step in (0, 50, 60, 100)]
      [1.0, 0.5, 0.0759, 0.0]

    Raises:
      InputError: unless `end` comes after `start`.

    Reference: Zhang et al. 2025, AlphaFlow (arXiv 2510.20771), the curriculum.
    """
    if not end > start:
        raise typing.InputError(f"the sigmoid schedule starts at {start} and ends at {end}; the end must come after the start.")

    def schedule(step):
        value = 1 - jax.nn.sigmoid(steepness * (jnp.asarray(step, jnp.float32) - (start + end) / 2) / (end - start))
        return jnp.where(value < snap, 0.0, jnp.where(value > 1 - snap, 1.0, value))

    return schedule


def _progress(step, total_steps):
    return jnp.clip(jnp.asarray(step, jnp.float32) / total_steps, 0.0, 1.0)
