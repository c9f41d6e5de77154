"""Data: sources of rows, and one seeded stream of batches over any of them.

A source is a name, a number of rows and a function from row ids to rows. `DATASETS` names the sources that work without a
network; every other name is taken for a TFDS image dataset. TFDS and grain are imported when they are first needed.

Example:
  >>> from flowjax import data
  >>> next(data.batches(data.load("checkerboard"), batch_size=8, seed=0))["x"].shape
  (8, 2)
"""

import functools
from collections.abc import Callable

from flowjax.data import augmentation, points, sphere
from flowjax.data.couplings import couple
from flowjax.data.pipeline import Source, arrays, batches, check
from flowjax.data.scaling import Scaling

__all__ = ["DATASETS", "Scaling", "Source", "arrays", "batches", "check", "couple", "load", "prepared"]


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
    "sphere_caps": sphere.source,
    "digits": _digits,
}


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
      name: a key of `DATASETS`, or any TFDS image dataset as `name` or `name/config` (`cifar10`, `mnist`).
      split: `"train"` or `"test"`; TFDS datasets and `digits` also take `"train+test"` and slices like `"train[:10%]"`.
      data_dir: where TFDS keeps its datasets; "": its default, which honours TFDS_DATA_DIR.

    Returns:
      A `Source`. Images are uint8 [H, W, C], points float32 [2].

    Raises:
      InputError: the name or the split does not exist, the dataset cannot be prepared here, or it holds no images of one shape.
    """
    if name in DATASETS:
        return DATASETS[name](split=split, data_dir=data_dir or None)
    from flowjax.data import tfds_images

    return tfds_images.source(name, split=split, data_dir=data_dir or None, others=tuple(DATASETS))
