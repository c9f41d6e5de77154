"""Averages of V's weights for evaluation: what an entry of config.ema means.

An entry is a number, the decay of an average that is warmed up, or one of KINDS with options: "constant:decay=0.9999,every=16" or
"half_life:images=500_000,ramp=0.05". The name of the average, in checkpoints and on command lines, is the entry as a string.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from flowjax import options, typing

# Kinds with their options; `images` of half_life must be given.
KINDS = {
    "constant": {"decay": 0.9999, "every": 1},
    "half_life": {"images": 500_000, "ramp": 0.0},
}
EXPECTED = "decays of at least 0 and below 1, constant:decay=0.9999,every=16 or half_life:images=500_000,ramp=0.05"


def warmed(decay: float) -> Callable[[Any, int], Any]:
    """min(decay, (1 + k) / (10 + k)) after k updates, so that early evaluations do not see the initial weights (ours)."""
    return lambda updates, batch_size: jnp.minimum(decay, (1.0 + updates) / (10.0 + updates))


def constant(decay: float, every: int = 1) -> Callable[[Any, int], Any]:
    """No warm-up; with `every`, decay ** every at each update with a number that it divides, and 1 at the others.

    So the average has the same length whatever `every` is. The authors' code of MeanFlow for CIFAR-10 has every = 16.
    """
    return lambda updates, batch_size: jnp.where((updates + 1) % every == 0, decay**every, 1.0)


def half_life(images: float, ramp: float = 0.0) -> Callable[[Any, int], Any]:
    """A weight counts half after so many images, or after `ramp` times the images seen before this update, if these are fewer.

        0.5 ** (batch size / min(images, ramp * batch size * k)),    k updates before this one; ramp 0: images alone

    Karras et al. 2022 (arXiv 2206.00364), the authors' code, with 500,000 images and ramp 0.05 for CIFAR-10. With a ramp the
    first update replaces the average by the weights.
    """

    def decay(updates, batch_size):
        seen = jnp.minimum(images, ramp * batch_size * updates) if ramp else images
        return 0.5 ** (batch_size / jnp.maximum(seen, 1e-8))

    return decay


def decay(entry: float | str) -> Callable[[Any, int], Any]:
    """The decay of an average, `(updates of V before this one, rows of a global batch) -> decay in [0, 1]`.

    The average then is decay * average + (1 - decay) * weights, with the weights after the update.

    Args:
      entry: of config.ema, a number or a string, also a number as a string.

    Raises:
      InputError: for anything else, and for options out of their ranges.
    """
    number = _number(entry)
    if number is not None:
        if not 0 <= number < 1:
            raise typing.InputError(f"config.ema holds {entry!r}; expected {EXPECTED}.")
        return warmed(number)
    if not isinstance(entry, str) or entry.partition(":")[0] not in KINDS:
        raise typing.InputError(f"config.ema holds {entry!r}; expected {EXPECTED}.")
    kind, given = options.parse("entry of config.ema", entry, KINDS)
    values = {**KINDS[kind], **given}
    if kind == "constant":
        if not 0 <= values["decay"] < 1 or values["every"] < 1 or values["every"] % 1:
            raise typing.InputError(
                f"config.ema holds {entry!r}; expected a decay of at least 0 and below 1, and a whole number `every` of at least 1."
            )
        return constant(values["decay"], int(values["every"]))
    if not values["images"] > 0 or not values["ramp"] >= 0:
        raise typing.InputError(f"config.ema holds {entry!r}; expected images above 0 and a ramp of at least 0.")
    return half_life(values["images"], values["ramp"])


def _number(entry):
    """A decay as a number, None if the entry names a kind."""
    if isinstance(entry, bool) or not isinstance(entry, (int, float, str)):
        return None
    try:
        return float(entry)
    except ValueError:
        return None
