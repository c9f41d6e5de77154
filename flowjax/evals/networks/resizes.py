"""Images brought to the size of a network, as the codebases of the protocols do it: [B, H, W, C] float32 -> [B, size, size, C].

The three differ by more than papers do: on noise, features of the first two differ by one per cent.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.typing import Array


def tensorflow1(x: Array, size: int) -> Array:
    """Bilinear as TensorFlow 1 has it without align_corners: output pixel i lies at i S / size of the S input pixels.

    Bit for bit what torch-fidelity's interpolate_bilinear_2d_like_tensorflow1x returns on a CPU.
    """
    return _bilinear(x, *(np.arange(size, dtype=np.float32) * np.float32(side / size) for side in x.shape[1:3]))


def half_pixel(x: Array, size: int) -> Array:
    """Bilinear between the centres of pixels: output pixel i lies at (i + 1/2) S / size - 1/2, and at 0 where that is below.

    torch's interpolate(mode="bilinear", align_corners=False); nothing is averaged when an image shrinks.
    """
    places = [(np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(side / size) for side in x.shape[1:3]]
    return _bilinear(x, *(np.maximum(place - np.float32(0.5), 0) for place in places))


def bicubic(x: Array, size: int) -> Array:
    """Bicubic with a = -1/2 and antialiasing, not rounded: torch's interpolate(mode="bicubic", antialias=True)."""
    return jax.image.resize(x, (len(x), size, size, x.shape[-1]), "cubic", antialias=True)


def kept(x: Array, size: int) -> Array:
    """Images as they are."""
    del size
    return x


_LARGEST = float(np.finfo(np.float32).max)
RESIZES: dict[str, Callable[[Array, int], Array]] = {
    "tensorflow1": tensorflow1,
    "half_pixel": half_pixel,
    "bicubic": bicubic,
    "none": kept,
}


def _bilinear(x: Array, down: np.ndarray, across: np.ndarray) -> Array:
    """The image between its pixels, at these rows and columns, which are at least 0 and below the sides."""
    (top, bottom, dy), (left, right, dx) = (_neighbours(place, side) for place, side in zip((down, across), x.shape[1:3]))
    across, along = dx[None, None, :, None], dy[None, :, None, None]
    upper, lower = (_between(rows[:, :, left], rows[:, :, right], across) for rows in (x[:, top], x[:, bottom]))
    return _between(upper, lower, along)


def _between(a: Array, b: Array, share: Array) -> Array:
    """a + (b - a) share. The product is rounded before it is added, as the others round it.

    XLA makes one fused multiplication and addition of both, whose last bit differs; a bound that is never reached keeps them apart.
    """
    return a + jnp.clip((b - a) * share, -_LARGEST, _LARGEST)


def _neighbours(place: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray, Array]:
    before = place.astype(np.int32)
    return before, np.minimum(before + 1, side - 1), jnp.asarray(place - before.astype(np.float32))
