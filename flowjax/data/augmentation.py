"""EDM's augmentation of images and the labels that tell the network what was done.

Karras et al. 2022 (arXiv 2206.00364), appendix F.2: each transform is drawn for itself; the geometric ones are composed and done at
once on an image of twice the resolution, whose filters are orthogonal, so that an image that is not moved stays as it is. It runs on
the host, in about a millisecond of one core for an image of 32 x 32 pixels that is moved.
"""

import functools
from typing import NamedTuple

import numpy as np
import scipy

from flowjax import options, typing

# What a row of labels holds, 0 where a transform was not applied: whether the image is flipped; the exponent of its scale; cos - 1 and
# sin of its angle; the exponent of its stretch times cos and sin of the axis; its translation. The last two in deviations.
LABELS = (
    "x_flip", "y_flip", "scale", "rotation_cos", "rotation_sin", "anisotropy_cos", "anisotropy_sin", "translation_x",
    "translation_y",
)  # fmt: skip
DRAWS = 16  # uniform numbers a row, whatever is chosen: four blocks of four of the generator
SCALE, ANISOTROPY, TRANSLATION = 0.2, 0.2, 0.125  # deviations: of log2 of the factors, and in widths of the image
TURNED = 0.5  # probability that a stretch is along a random axis, and not along x
# The low-pass filter of the symlet with six vanishing moments, orthogonal to itself moved by an even number.
FILTER = np.array([
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466, 0.787641141030194,
    0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036,
    -0.007800708325034148,
])  # fmt: skip
CENTRE = 5  # the tap of FILTER that stands on the pixel
EDGE = len(FILTER) // 4  # pixels beside the image that its filter reaches
KINDS = {
    "edm": {
        "probability": 0.12, "x_flip": 1, "y_flip": 1, "scale": 1, "rotation": 1, "anisotropy": 1, "translation": 1,
    }
}  # fmt: skip


class Augmentation(NamedTuple):
    """Which transforms there are, 1 or 0 each, and the probability of each but the flip left to right.

    With `x_flip` and a probability above 0 every second image is flipped left to right. Of the images that may be flipped upside
    down, every second one is. py-meanflow (CIFAR-10): probability 0.12, y_flip 0, rotation 0.
    """

    probability: float
    x_flip: float
    y_flip: float
    scale: float
    rotation: float
    anisotropy: float
    translation: float

    def __call__(self, x: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Augments images, each by its own numbers alone.

        Args:
          x: [n, H, W, C], float32.
          u: uniform numbers in [0, 1), [n, DRAWS], see `uniforms`.

        Returns:
          (images like x, labels [n, len(LABELS)] float32).
        """
        flips, matrices, labels = self._drawn(u, x.shape[1], x.shape[2])
        x = np.where(flips[0][:, None, None, None], x[:, :, ::-1], x)
        x = np.where(flips[1][:, None, None, None], x[:, ::-1], x)
        for row in np.flatnonzero(np.any(labels[:, 2:], axis=1)):  # others would stay as they are
            x[row] = moved(x[row], matrices[row])
        return x, labels

    def _drawn(self, u: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(flipped left to right and upside down [2, n], inverse maps of the plane [n, 2, 3], labels [n, len(LABELS)])."""
        normal = lambda column: scipy.special.ndtri(np.maximum(u[:, column], 2.0**-54))
        angle = lambda column: np.pi * (2 * u[:, column] - 1)
        applied = lambda column, chosen: (u[:, column] < self.probability) & bool(chosen)
        x_flip = (u[:, 0] < 0.5) & bool(self.x_flip and self.probability)
        y_flip = (u[:, 1] < 0.5) & applied(2, self.y_flip)
        scale = np.where(applied(4, self.scale), normal(3), 0.0)
        rotation = np.where(applied(6, self.rotation), angle(5), 0.0)
        stretch, axis = np.where(applied(9, self.anisotropy), normal(7), 0.0), np.where(u[:, 10] < TURNED, angle(8), 0.0)
        shift = [np.where(applied(13, self.translation), normal(column), 0.0) for column in (11, 12)]
        labels = [
            x_flip, y_flip, scale, np.cos(rotation) - 1, np.sin(rotation), stretch * np.cos(axis), stretch * np.sin(axis), *shift
        ]  # fmt: skip
        plane = _scaled(2.0 ** (-SCALE * scale), 2.0 ** (-SCALE * scale)) @ _turned(rotation)
        plane = plane @ _turned(-axis) @ _scaled(2.0 ** (-ANISOTROPY * stretch), 2.0 ** (ANISOTROPY * stretch)) @ _turned(axis)
        moved_by = np.stack([TRANSLATION * width * shift[0], TRANSLATION * height * shift[1]], axis=1)[:, :, None]
        return (
            np.stack([x_flip, y_flip]),
            np.concatenate([plane, -plane @ moved_by], axis=2),
            np.stack(labels, 1, dtype=np.float32),
        )


def parse(text: str) -> Augmentation | None:
    """config.data.augment: "" for none, or "edm:probability=0.12,y_flip=0,rotation=0"; what is not named is as in KINDS.

    Raises:
      InputError: for another name or option, a probability outside of [0, 1], and a choice that is not 0 or 1.
    """
    if not text:
        return None
    kind, given = options.parse("config.data.augment", text, KINDS)
    made = Augmentation(**{**KINDS[kind], **given})
    if not 0 <= made.probability <= 1 or not {*made[1:]} <= {0, 1}:
        raise typing.InputError(
            f"config.data.augment is {text!r}; expected a probability from 0 to 1, and 0 or 1 for each of"
            f" {', '.join(Augmentation._fields[1:])}: edm:probability=0.12,y_flip=0."
        )
    return made


def uniforms(seed: int, first: int, count: int) -> np.ndarray:
    """Numbers for the positions `first`, `first + 1`, ... of the stream of a seed, [count, DRAWS] in [0, 1).

    A position has the same numbers whatever the others are, so that batches, hosts and restarts may be cut anywhere.
    """
    bits = np.random.Philox(key=[seed, 0xA06])  # a stream of its own beside the order of the rows
    bits.advance(first * DRAWS // 4)  # in blocks of four numbers
    return np.random.Generator(bits).random((count, DRAWS))


def moved(image: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """An image under a map of the plane: reflected at its edges, doubled, read bilinearly at the images of the pixels, and halved.

    Args:
      image: [H, W, C].
      inverse: [2, 3], from a pixel (x, y, 1) of the result to (x, y) in `image`; x to the right, y down, 0 in the middle.

    Returns:
      [H, W, C], the dtype of `image`.
    """
    height, width, _ = image.shape
    middle = np.array([width - 1, height - 1]) / 2
    corners = inverse @ np.array([[-1, 1, 1, -1], [-1, -1, 1, 1], [1, 1, 1, 1]] * np.append(middle, 1)[:, None])
    reach = np.stack([(-corners).max(1), corners.max(1)]) + 2 * EDGE - middle
    (left, top), (right, bottom) = np.ceil(np.clip(reach, 0, 2 * middle)).astype(int)
    fine = _doubling(height, top, bottom) @ image.transpose(2, 0, 1) @ _doubling(width, left, right).T
    # Sample j of the fine image stands at j / 2 of the padded one; the result has EDGE pixels more on each side.
    x, y = (np.arange(2 * (side + 2 * EDGE)) / 2 - EDGE - half for side, half in zip((width, height), middle, strict=True))
    grid = inverse[:, 0, None, None] * x + inverse[:, 1, None, None] * y[:, None] + inverse[:, 2, None, None]
    values = _bilinear(fine, *(2 * (grid + (middle + [left, top])[:, None, None])))
    return (_halving(height) @ values @ _halving(width).T).transpose(1, 2, 0).astype(image.dtype)


@functools.lru_cache(maxsize=4_096)
def _doubling(side: int, before: int, after: int) -> np.ndarray:
    """From `side` pixels, reflected by so many at both ends, to twice as many samples: [2 (before + side + after), side]."""
    sources = np.arange(-before, side + after)
    sources = np.abs((sources + side - 1) % max(2 * side - 2, 1) - (side - 1))  # reflected without the edge itself
    matrix = np.zeros((2 * len(sources), side), np.float32)
    for i, source in enumerate(sources):
        for tap, weight in enumerate(FILTER):
            if 0 <= (j := 2 * i + tap - CENTRE) < len(matrix):
                matrix[j, source] += weight
    return matrix


@functools.lru_cache(maxsize=64)
def _halving(side: int) -> np.ndarray:
    """From the samples of `side` pixels and EDGE more at both ends to the pixels, [side, 2 (side + 2 EDGE)]."""
    matrix = np.zeros((side, 2 * (side + 2 * EDGE)), np.float32)
    for m in range(side):
        matrix[m, 2 * (m + EDGE) - CENTRE : 2 * (m + EDGE) - CENTRE + len(FILTER)] = FILTER
    return matrix


def _bilinear(fine: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Values [C, h, w] of an image [C, H, W] at fractional places [h, w]; zero outside."""
    channels, height, width = fine.shape
    padded = np.zeros((channels, height + 2, width + 2), fine.dtype)
    padded[:, 1:-1, 1:-1] = fine
    x, y = np.clip(x, -1, width) + 1, np.clip(y, -1, height) + 1
    left, top = np.minimum(x.astype(int), width), np.minimum(y.astype(int), height)
    x, y = (x - left).astype(fine.dtype), (y - top).astype(fine.dtype)
    corner = top * (width + 2) + left
    at = lambda offset: padded.reshape(channels, -1).take(corner + offset, axis=1)
    above = at(0) * (1 - x) + at(1) * x
    below = at(width + 2) * (1 - x) + at(width + 3) * x
    return above * (1 - y) + below * y


def _turned(angle: np.ndarray) -> np.ndarray:
    """Rotations [n, 2, 2]."""
    c, s = np.cos(angle), np.sin(angle)
    return np.moveaxis(np.array([[c, -s], [s, c]]), -1, 0)


def _scaled(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Diagonal matrices [n, 2, 2]."""
    zero = np.zeros_like(x)
    return np.moveaxis(np.array([[x, zero], [zero, y]]), -1, 0)
