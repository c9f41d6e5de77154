"""Checks of arguments: times and arrays that cannot broadcast by mistake, names that exist."""

import difflib
from collections.abc import Collection

import jax.numpy as jnp

from flowjax import typing


def times(caller: str, x: typing.Array, **named: typing.Time) -> tuple[typing.Array, ...]:
    """Makes times floating, never narrower than float32, and checks that they cannot broadcast `x`.

    Args:
      caller: name of the function that was called, for the error.
      x: data, any shape, a floating dtype.
      **named: times (or fractions) by name: Python scalars, 0-d arrays, or arrays with `x.ndim` axes.

    Returns:
      A tuple of arrays in the order given, each in the widest of its dtype, that of `x` and float32.

    Raises:
      InputError: if `x` is not floating, or if a time has another rank or does not broadcast to the shape of `x`.
    """
    shape, dtype = jnp.shape(x), jnp.result_type(x)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise typing.InputError(f"{caller}: x has dtype {dtype}, expected a floating dtype: x.astype(jnp.float32).")
    return tuple(_time(caller, shape, dtype, name, value) for name, value in named.items())


def like(caller: str, x: typing.Array, value: typing.Array, name: str = "v") -> typing.Array:
    """Returns `value`, a velocity, noise or other points, in the dtype of `x`.

    Args:
      caller: name of the function that was called, for the error.
      x: data, any shape.
      value: an array of the shape of `x`.
      name: what the caller calls the value.

    Raises:
      InputError: if the value has another shape than `x`.
    """
    if jnp.shape(value) != jnp.shape(x):
        raise typing.InputError(
            f"{caller}: {name} has shape {jnp.shape(value)} but x has shape {jnp.shape(x)}; expected the shape of x:"
            f" jnp.broadcast_to({name}, x.shape) if one {name} is meant for all."
        )
    return jnp.asarray(value, jnp.result_type(x))


def member(what: str, name: object, known: Collection[str], listed: bool = True) -> None:
    """Raises InputError, with the nearest names and all of them if `listed`, unless `name` is among `known`."""
    if name in known:
        return
    near = difflib.get_close_matches(str(name), [str(k) for k in known], n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else "."
    raise typing.InputError(f"unknown {what} {name!r}{hint}" + (f" Known: {', '.join(known)}." if listed else ""))


def _time(caller: str, shape: tuple[int, ...], dtype: jnp.dtype, name: str, value: typing.Time) -> typing.Array:
    wide = jnp.promote_types(dtype, jnp.float32)
    if isinstance(value, (int, float)):
        return jnp.asarray(value, wide)
    value = jnp.asarray(value)
    fits = value.ndim == len(shape) and all(have in (1, want) for have, want in zip(value.shape, shape))
    if value.ndim and not fits:
        column = shape[:1] + (1,) * (len(shape) - 1)
        raise typing.InputError(
            f"{caller}: {name} has shape {value.shape} but x has shape {shape}; times are scalars or carry one singleton"
            f" axis per data axis, here {column}: flowjax.times.expand({name}, x)."
        )
    return value.astype(jnp.promote_types(wide, value.dtype) if jnp.issubdtype(value.dtype, jnp.floating) else wide)
