"""The scale w of a guidance: what it is at a point's time, and how it is drawn for a row."""

from typing import Any

import jax.numpy as jnp

from flowjax import times
from flowjax.typing import Array, Point, Time

# The scale that holds at a point's time, from the scale of its row


def everywhere(point: Point) -> Array:
    """w at all times."""
    return column(point.cond["guidance"], point.x)


def within(point: Point, *, interval: tuple[Time, Time] = (0.0, 1.0)) -> Array:
    """w within an interval of times, 1 outside."""
    return between(point.s, interval, everywhere(point), 1.0)


def within_drawn(point: Point) -> Array:
    """w within the interval of the row, 1 outside."""
    low, high = (column(end, point.x) for end in jnp.moveaxis(point.cond["interval"], -1, 0))
    return within(point, interval=(low, high))


def fading(point: Point, *, decay: float = 0.8, rate: float = 0.025) -> Array:
    """w up to the time `decay`, from there falling smoothly to 1 at noise; `rate` is how fast, 1/40 as in SoFlow's code."""
    if decay >= 1:
        return everywhere(point)
    r = jnp.clip((1 - point.s) / (1 - decay), 0.0, 1 - 1e-6)  # r / (1 - r) stays finite
    d = jnp.where(point.s <= decay, 1.0, -jnp.expm1(-rate * r / (1 - r)))
    return 1 + d * (everywhere(point) - 1)


def between(t: Any, interval: tuple[Time, Time], inside: Time, outside: Time) -> Array:
    """`inside` at the times of an interval, `outside` at the others."""
    low, high = interval
    return jnp.where((low <= t) & (t <= high), inside, outside)


def column(values: Array, x: Array) -> Array:
    """[B] as a column that broadcasts against x; scales and times are never narrower than float32."""
    wide = jnp.promote_types(values.dtype, jnp.float32) if jnp.issubdtype(values.dtype, jnp.floating) else values.dtype
    return times.expand(values.astype(wide), x)


# The distribution of the scale over rows


def power_law(u: Any, low: float, high: float, power: float) -> Any:
    """Quantile u of scales with density ~ w^-power between low and high: uniform in w for 0, in log w for 1, in 1/w for 2."""
    if power == 1:
        return low * (high / low) ** u
    return (low ** (1 - power) + u * (high ** (1 - power) - low ** (1 - power))) ** (1 / (1 - power))
