"""What a network says of images, and how the arrays of a published file become its weights."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from flowjax import foreign, typing
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
    taken = {name: array for name, array in arrays.items() if not name.endswith(besides or ("\0",))}
    foreign.check_names(taken, shapes, what, ": this is the file of another network.")
    for name, shape in shapes.items():
        if taken[name].shape != shape:
            raise typing.InputError(f"weights of {what}: {name} has shape {taken[name].shape}, and {what} takes {shape}.")
        if not np.isfinite(taken[name]).all():
            raise typing.InputError(f"weights of {what}: {name} holds values that are not finite numbers: the file is damaged.")
    return {name: np.asarray(taken[name], np.float64) for name in shapes}
