"""Images side by side."""

import os
from collections.abc import Mapping, Sequence

import numpy as np

from flowjax import typing
from flowjax.plots import canvas


def image_grid(
    path: str | os.PathLike | None,
    columns: Mapping[str, np.ndarray],
    row_names: Sequence[str] | None = None,
    title: str | None = None,
) -> canvas.Picture:
    """Blocks of images side by side, enlarged pixel by pixel: `{"real": ..., "1 step": ..., "2 steps": ...}`.

    Args:
      path: the PNG file; None: none, the picture is only returned.
      columns: heading -> images [rows, per_column, H, W, C] in [-1, 1], C = 1 or 3; all with as many rows, of one size.
        Values outside are clipped; pixels that are not finite are magenta.
      row_names: a name for each row, such as its class.
      title: the line above everything.

    Raises:
      InputError: a block has another shape.
    """
    blocks = {name: np.asarray(block, np.float64) for name, block in columns.items()}
    _check_blocks(blocks, row_names)
    height, width = next(iter(blocks.values())).shape[2:4]
    scale = max(1, round(48 / max(height, width)))
    pictures = [_mosaic(block, scale) for block in blocks.values()]
    # Everything is placed in pixels, so that a pixel of an image covers a whole number of pixels of the picture.
    widths = [max(picture.shape[1], 8 * _longest(name)) for name, picture in zip(blocks, pictures, strict=True)]
    left = 24 + 9 * max((len(str(name)) for name in row_names or []), default=0)
    head = 16 + 18 * max(name.count("\n") + 1 for name in blocks) + (20 * title.count("\n") + 32 if title else 0)
    full_width = max(left + sum(widths) + 24 * len(widths), 48 + 9 * _longest(title or ""))
    left += (full_width - left - sum(widths) - 24 * len(widths)) // 2
    full_height = head + pictures[0].shape[0] + 20
    fig = canvas.Picture((full_width / canvas.DPI, full_height / canvas.DPI), dpi=canvas.DPI)
    for name, picture, block_width in zip(blocks, pictures, widths, strict=True):
        h, w = picture.shape[:2]
        box = (left + (block_width - w) // 2, 20, w, h)
        ax = fig.add_axes([box[0] / full_width, box[1] / full_height, box[2] / full_width, box[3] / full_height])
        ax.imshow(picture, interpolation="nearest", aspect="auto")
        ax.set_title(name, fontsize=11, color=canvas.INK)
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        if row_names is not None and ax is fig.axes[0]:
            count = len(row_names)
            ax.set_yticks((np.arange(count) + 0.5) * h / count, [str(row) for row in row_names], fontsize=11, color=canvas.INK)
            ax.tick_params(length=0)
        left += block_width + 24
    if title:
        fig.text(0.5, 1 - 10 / full_height, title, ha="center", va="top", fontsize=13, color=canvas.INK)
    return canvas.write(fig, path)


def class_grid(
    path: str | os.PathLike | None,
    columns: Mapping[str, tuple[np.ndarray, np.ndarray | None]],
    num_classes: int,
    title: str | None = None,
    per_class: int = 6,
) -> canvas.Picture:
    """`image_grid` of labelled images, one row of the picture a class; of unlabelled ones, the first in eight rows.

    Args:
      path: the PNG file; None: none, the picture is only returned.
      columns: heading -> (images [n, H, W, C] in [-1, 1], their classes [n] or None).
      num_classes: 0 for unlabelled. The first 20 classes that every column has are shown.
      title: the line above everything.
      per_class: at most this many images of a class and column.
    """
    classes = [c for c in range(num_classes) if all((labels == c).any() for _, labels in columns.values())][:20]
    if classes:
        shown = min(per_class, *(int((labels == c).sum()) for _, labels in columns.values() for c in classes))
        blocks = {name: np.stack([x[labels == c][:shown] for c in classes]) for name, (x, labels) in columns.items()}
    else:
        shown = min(8 * per_class, *(len(x) for x, _ in columns.values())) // 8 * 8 or 1
        blocks = {name: x[:shown].reshape(min(8, shown), -1, *x.shape[1:]) for name, (x, _) in columns.items()}
    return image_grid(path, blocks, row_names=[str(c) for c in classes] or None, title=title)


def _check_blocks(blocks: Mapping[str, np.ndarray], row_names: Sequence[str] | None) -> None:
    shapes = {name: block.shape for name, block in blocks.items()}
    first = next(iter(shapes.values()), ())
    alike = all(len(shape) == 5 and shape[4] in (1, 3) and shape[0] == first[0] and shape[2:4] == first[2:4]
                for shape in shapes.values())  # fmt: skip
    if not shapes or not alike or not all(block.size for block in blocks.values()):
        raise typing.InputError(
            f"image_grid: the blocks have shapes {shapes}; expected [rows, per_column, H, W, C], C = 1 or 3, "
            "with the same rows, H and W."
        )
    if row_names is not None and len(row_names) != first[0]:
        raise typing.InputError(f"image_grid: {len(row_names)} row names for {first[0]} rows.")


def _mosaic(block: np.ndarray, scale: int, gap: int = 8) -> np.ndarray:
    """Images [rows, per_column, H, W, C] in [-1, 1] as one white-spaced RGB picture in [0, 1], pixels enlarged by `scale`."""
    bright = np.broadcast_to(np.clip((block + 1) / 2, 0, 1), (*block.shape[:4], 3))
    bright = np.where(np.isfinite(block).all(axis=-1, keepdims=True), bright, (1.0, 0.0, 1.0))
    tiles = bright.repeat(scale, axis=2).repeat(scale, axis=3)
    tiles = np.pad(tiles, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)), constant_values=1.0)
    rows, per_column, height, width, _ = tiles.shape
    return tiles.transpose(0, 2, 1, 3, 4).reshape(rows * height, per_column * width, 3)[:-gap, :-gap]


def _longest(text: str) -> int:
    return max(len(line) for line in text.split("\n"))
