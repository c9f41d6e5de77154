"""Data: sources of rows, and one seeded stream of batches over any of them.

A source is a name, a number of rows and a function from row ids to rows. `DATASETS` names the sources that work without a
network, those of ImageNet from arrays in the folder config.data.dir; `folder:PATH` and `npz:PATH` are images of your own, and
`latents:PATH` what experiments.prepare_latents made of them (`FILES`); every other name is taken for a TFDS image dataset. TFDS and grain are imported when they are first needed.

Example:
  >>> from flowjax import data
  >>> next(data.batches(data.load("checkerboard"), batch_size=8, seed=0))["x"].shape
  (8, 2)
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from flowjax.data import augmentation, cities, earth, image_files, latents, manifolds, points, stored, tokens
from flowjax.data.couplings import couple
from flowjax.data.pipeline import Source, arrays, batches, check, even
from flowjax.data.scaling import Scaling

__all__ = [
    "DATASETS",
    "FILES",
    "Scaling",
    "Source",
    "arrays",
    "batches",
    "check",
    "couple",
    "declared",
    "even",
    "load",
    "of_section",
    "prepared",
    "seen",
    "unlabelled",
]


def _digits(**where) -> Source:
    from flowjax.data import digits  # tensorflow_datasets takes seconds to import

    return digits.source(**where)


def _exact_trajectories(name, kept, **where) -> Source:
    from flowjax.data import trajectories

    return trajectories.source(name, kept, **where)


DATASETS: dict[str, Callable[..., Source]] = {
    **{name: functools.partial(points.source, name) for name in points.DENSITIES},
    **{f"{name}_pairs": functools.partial(_exact_trajectories, name, 2) for name in points.VELOCITIES},
    **{f"{name}_trajectories": functools.partial(_exact_trajectories, name, 17) for name in points.VELOCITIES},
    **{name: functools.partial(manifolds.source, name) for name in manifolds.LAWS},
    "cities": cities.source,
    **{f"earth{pixels}": functools.partial(earth.source, pixels) for pixels in earth.SIDES},
    **{name: functools.partial(stored.source, name) for name in stored.STORED},
    "digits": _digits,
    "digits_tokens": tokens.digits,
    "words": tokens.words,
    "tokens": tokens.arrays,
}
# What stands before the colon of a name -> (what stands behind it, split, data_dir) -> rows.
FILES: dict[str, Callable[..., Source]] = {"folder": image_files.folder, "npz": image_files.arrays, "latents": latents.source}


def prepared(source: Source, *, mean=0.0, deviation=1.0, augment: str = "", coupling: str = "") -> Source:
    """Training rows as config.data has them: scaled, augmented and coupled in the batches; see flowjax.data.batches.

    Args:
      source: the rows of a split.
      mean, deviation: a number or one a channel; the network sees (x - mean) / deviation.
      augment: "" or "edm:probability=0.12", see flowjax.data.augmentation.
      coupling: "", "ot" or a folder, see flowjax.data.couple.

    Raises:
      InputError: for values that are no scaling, augmentation or coupling.
    """
    source = source._replace(scaling=Scaling.of(mean, deviation), augment=augmentation.parse(augment))
    return couple(source, coupling)


def load(name: str, *, split: str = "train", data_dir: str = "") -> Source:
    """The rows of one split of a dataset.

    Args:
      name: a key of `DATASETS`; `folder:PATH`, `npz:PATH` or `latents:PATH`, rows of your own; or any TFDS image dataset as `name` or `name/config`
        (`cifar10`, `mnist`).
      split: `"train"` or `"test"`; TFDS datasets and `digits` also take `"train+test"` and slices like `"train[:10%]"`.
      data_dir: where TFDS keeps its datasets; "": its default, which honours TFDS_DATA_DIR. The folder of the arrays of ImageNet.
        The .npz file of the dataset tokens.

    Returns:
      A `Source`. Images are uint8 [H, W, C], points float32 [2], tokens float32 [L, K], one-hot.

    Raises:
      InputError: the name or the split does not exist, the dataset cannot be prepared here, or it holds no images of one shape.
    """
    if name in DATASETS:
        return DATASETS[name](split=split, data_dir=data_dir or None)
    kind, _, where = name.partition(":")
    if kind in FILES:
        return FILES[kind](where, split=split, data_dir=data_dir or None)
    from flowjax.data import tfds_images

    return tfds_images.source(name, split=split, data_dir=data_dir or None, others=tuple(DATASETS))


def of_section(section: Any, split: str = "train") -> Source:
    """One split of the dataset of config.data: its fields `name`, `dir`, `features`, and `labels`, without which the rows have none."""
    source = load(section.name, split=split, data_dir=section.dir)
    source = source._replace(features=section.features or source.features)
    return source if section.labels else unlabelled(source)


def declared(name: str) -> Source:
    """A dataset without its rows, for programs that need shapes alone; one that flowjax.data.stored does not declare is loaded."""
    return stored.declared(name) if name in stored.DECLARED else load(name)


# How rows of one-hot tokens [n, L, K] of a dataset are looked at: as n strings or as images; of others as lines of grey pixels.
SEEN: dict[str, Callable[[np.ndarray], Any]] = {"digits_tokens": tokens.digit_images, "words": tokens.text}


def seen(name: str, rows: np.ndarray) -> Any:
    """Rows or samples of a dataset to look at: images [n, H, W, C] as they are, tokens [n, L, K] as SEEN has it, strings or images.

    Of latents, whose C is neither 1 nor 3, the first three channels, or the first, squeezed into [-1, 1].
    """
    if rows.ndim == 4 and rows.shape[-1] not in (1, 3):
        kept = rows[..., : 3 if rows.shape[-1] > 3 else 1]
        return np.tanh(kept / max(float(np.std(kept)), 1e-6))
    return SEEN.get(name, tokens.lines)(rows) if rows.ndim == 3 else rows


def unlabelled(source: Source) -> Source:
    """The same rows without their labels."""
    without = lambda read: lambda ids: {name: value for name, value in read(ids).items() if name != "label"}
    mirrored = source.mirrored and without(source.mirrored)
    return source._replace(num_classes=0, rows=without(source.rows), mirrored=mirrored)
