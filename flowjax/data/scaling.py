"""What the network sees of data: (x - mean) / deviation, of all channels or of each; samples are brought back."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from flowjax import typing


class Scaling(NamedTuple):
    """An affine map of data, with one number for all channels, or one a channel (the last axis).

    Attributes:
      mean: what is taken off.
      deviation: what the rest is divided by, above 0.
    """

    mean: tuple[float, ...] = (0.0,)
    deviation: tuple[float, ...] = (1.0,)

    def apply(self, x: np.ndarray) -> np.ndarray:
        """Data [..., C] as the network sees them, float32."""
        return x if self == Scaling() else (x - np.asarray(self.mean, np.float32)) / np.asarray(self.deviation, np.float32)

    def undo(self, x: np.ndarray) -> np.ndarray:
        """What the network makes, [..., C], as data, float32."""
        return x if self == Scaling() else x * np.asarray(self.deviation, np.float32) + np.asarray(self.mean, np.float32)

    def close(self, other: "Scaling", channels: int) -> bool:
        """Whether two scalings of so many channels are the same to five digits, as numbers are typed."""
        if {len(numbers) for numbers in (*self, *other)} - {1, channels}:
            return False
        wide = lambda numbers: np.broadcast_to(np.asarray(numbers), channels)
        return all(np.allclose(wide(mine), wide(theirs), rtol=1e-5, atol=1e-6) for mine, theirs in zip(self, other))

    @classmethod
    def of(cls, mean: float | Sequence[float], deviation: float | Sequence[float]) -> "Scaling":
        """The Scaling of config.data.mean and config.data.deviation, a number or one a channel.

        Raises:
          InputError: for what is no number, and a deviation that is not above 0.

        Example:
          >>> Scaling.of(0.0, 1 / 0.18215).apply(np.ones(1)).round(5).tolist()  # Stable Diffusion's factor
          [0.18215]
        """
        return cls(_numbers("mean", mean, -np.inf), _numbers("deviation", deviation, 0.0))


def _numbers(name, value, low):
    numbers = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    fits = lambda number: isinstance(number, (int, float)) and not isinstance(number, bool) and low < number < np.inf
    if not numbers or not all(map(fits, numbers)):
        raise typing.InputError(
            f"config.data.{name} is {value!r}; expected a number{'' if low else ' above 0'}, or one for each channel, such as"
            " (0.5, 0.5, 0.5)."
        )
    return tuple(float(number) for number in numbers)
