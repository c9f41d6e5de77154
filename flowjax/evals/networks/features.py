"""What a network says of images, and how the arrays of a published file become its weights."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from flowjax import typing
from flowjax.typing import Array


class Features(NamedTuple):
    """What scores are made of.

    Attributes:
      pool: one vector an image, [B, D].
      spatial: features that know their place, [B, E], for sFID; None of a network without them.
      logits: of classes, without the bias of the last layer, [B, classes], for the Inception score; None without them.
    """

    pool: Array
    spatial: Array | None = None
    logits: Array | None = None


def along(vector: Array, x: Array) -> Array:
    """A vector of the last axis with as many axes as x."""
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))


def checked(
    arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], what: str, besides: tuple[str, ...] = ()
) -> dict[str, np.ndarray]:
    """The arrays of a file under the names that a network has, in float64 (a fold of two layers must not round).

    Args:
      arrays: {name: array}, as flowjax.foreign.read gives them.
      shapes: {name: shape}, all of which must be there.
      what: the network, for the sentence.
      besides: ends of names that may be there too, and are not taken.

    Raises:
      InputError: names are missing or unknown, a shape does not fit, or an array holds no finite numbers; the first are named.
    """
    found = {name: array for name, array in arrays.items() if not name.endswith(besides or ("\0",))}
    missing, unknown = sorted(set(shapes) - set(found)), sorted(set(found) - set(shapes))
    if missing or unknown:
        shown = lambda names: f"{len(names)} ({', '.join(names[:3])}{', ...' if names[3:] else ''})"
        raise typing.InputError(
            f"weights of {what}: {f'missing are {shown(missing)}' if missing else 'none is missing'},"
            f" {f'not known are {shown(unknown)}' if unknown else 'all are known'}: this is the file of another network."
        )
    for name, shape in shapes.items():
        if found[name].shape != shape:
            raise typing.InputError(f"weights of {what}: {name} has shape {found[name].shape}, and {what} takes {shape}.")
        if not np.isfinite(found[name]).all():
            raise typing.InputError(f"weights of {what}: {name} holds values that are not finite numbers: the file is damaged.")
    return {name: np.asarray(found[name], np.float64) for name in shapes}
