"""Image data sets that are read from arrays in a folder: ImageNet's pixels, and latents of autoencoders.

The folder config.data.dir holds, for each split ("train", "test"), files of the same numbers in the same order:

    train_label_00000.npy     [n], whole numbers
    train_image_00000.npy     [n, H, W, 3], uint8: pixels
    train_moments_00000.npy   [n, H, W, 2 C]: mean and deviation of each latent, any floating dtype

A data set of latents may hold train_mirrored_moments_00000.npy besides, of the mirrored images: a mirrored latent is not the latent
of the mirrored image. Rows are read from memory maps as they are asked for; latents leave as means and deviations, and the pipeline
draws each of them anew, in float32.
"""

import functools
from typing import NamedTuple

import numpy as np

from flowjax import buckets, checks, opening, typing
from flowjax.data import pipeline

SPLITS = ("train", "test")


class Declared(NamedTuple):
    """What is known of a data set before its rows are there.

    Attributes:
      shape: of one row.
      num_classes: of its labels.
      size: rows of the training split.
      contents: "image" or "moments", what its files hold; "": it is not read from arrays.
      made_of: what the rows are, for the errors.
    """

    shape: tuple[int, ...]
    num_classes: int
    size: int
    contents: str = ""
    made_of: str = ""


_IMAGENET = 1_281_167
DECLARED = {
    "imagenet256": Declared((256, 256, 3), 1000, _IMAGENET, "image", "ImageNet, center crops of 256 x 256 pixels"),
    "imagenet256_latents": Declared(
        (32, 32, 4), 1000, _IMAGENET, "moments", "latents of ImageNet at 256 pixels by an autoencoder of Stable Diffusion"
    ),
    "imagenet512_latents": Declared(
        (64, 64, 4), 1000, _IMAGENET, "moments", "latents of ImageNet at 512 pixels by an autoencoder of Stable Diffusion"
    ),
    "imagenet256_vavae_latents": Declared(
        (16, 16, 32), 1000, _IMAGENET, "moments", "latents of ImageNet at 256 pixels by VA-VAE (f16d32)"
    ),
    "cifar10": Declared((32, 32, 3), 10, 50_000),  # read through TFDS
}
STORED = tuple(name for name, declared in DECLARED.items() if declared.contents)


def declared(name: str) -> pipeline.Source:
    """A data set of DECLARED as a source without rows: shapes and classes alone, every number is 0."""
    about = DECLARED[name]
    dtype = np.uint8 if len(about.shape) == 3 and about.shape[-1] == 3 else np.float32

    def rows(ids):
        return {"x": np.zeros((len(ids), *about.shape), dtype), "label": np.zeros(len(ids), np.int32)}

    return pipeline.Source(name, about.size, about.shape, about.num_classes, rows)


def source(name: str, *, split: str = "train", data_dir: str | None = None) -> pipeline.Source:
    """One split of a data set of STORED.

    Args:
      name: one of STORED.
      split: "train" or "test".
      data_dir: the folder, config.data.dir.

    Raises:
      InputError: if there is no such folder or split, or its arrays are not those of the data set.
    """
    about, folder = DECLARED[name], buckets.path(data_dir or "", "config.data.dir")
    checks.member(f"split of {name}", split, SPLITS)
    files = sorted(folder.glob(f"{split}_{about.contents}_*.npy")) if data_dir else []
    if not files:
        where = f"{folder} holds no {split}_{about.contents}_00000.npy" if data_dir else "config.data.dir is empty"
        raise typing.InputError(
            f"{name} ({about.made_of}) is read from arrays in a folder, and {where}; give the folder that holds them:"
            f" --config.data.dir=FOLDER (its files: flowjax/data/stored.py)."
        )
    images, labels = Shards(name, files), Shards(name, [_beside(name, file, about.contents, "label") for file in files])
    mirrored = sorted(folder.glob(f"{split}_mirrored_{about.contents}_*.npy"))
    expected = about.shape if about.contents == "image" else (*about.shape[:-1], 2 * about.shape[-1])
    fits = images.dtype == np.uint8 if about.contents == "image" else np.issubdtype(images.dtype, np.floating)
    labelled = np.array_equal(labels.ends, images.ends) and not labels.shape and np.issubdtype(labels.dtype, np.integer)
    if images.shape != expected or not fits or not labelled:
        raise typing.InputError(
            f"{files[0]} and its neighbours hold {images.size} rows of shape {images.shape} and dtype {images.dtype} with"
            f" {labels.size} labels of shape {labels.shape} and dtype {labels.dtype}; {name} has rows of shape"
            f" {expected}, {'uint8' if about.contents == 'image' else 'floating'},"
            " with one whole number as label each, as many in a file as rows in the one beside."
        )
    reflected = Shards(name, mirrored) if mirrored else None
    if reflected and (reflected.size, reflected.shape, reflected.dtype) != (images.size, images.shape, images.dtype):
        raise typing.InputError(
            f"{mirrored[0]} and its neighbours hold {reflected.size} rows of shape {reflected.shape} and dtype {reflected.dtype}, and the"
            f" rows that they mirror are {images.size} of shape {images.shape} and dtype {images.dtype}; expected the same."
        )
    return pipeline.Source(
        name,
        images.size,
        about.shape,
        about.num_classes,
        functools.partial(rows, about.contents, images, labels),
        mirrored=functools.partial(rows, about.contents, reflected, labels) if reflected else None,
        moments=about.contents == "moments",
    )


def rows(contents, images, labels, ids):
    """Rows of Shards: uint8 images, or means and deviations of latents; with their labels, None for none."""
    x, label = images(ids), {} if labels is None else {"label": labels(ids).astype(np.int32)}
    if contents == "image":
        return {"x": x, **label}
    mean, deviation = np.split(x, 2, axis=-1)
    return {"x": mean, "deviation": deviation, **label}


def _beside(name, file, contents, other):
    path = file.with_name(file.name.replace(f"_{contents}_", f"_{other}_"))
    if not path.exists():
        raise typing.InputError(f"{name}: {path} is missing, the labels of {file.name}; copy it beside.")
    return path


class Shards:
    """Rows of several .npy files, as of one array: called with row ids [n]. `ends` is the number of rows up to the end of each file."""

    def __init__(self, name, files):
        self._parts = [opening.npy(file, f"an array of {name} (flowjax/data/stored.py)") for file in files]
        for file, part in zip(files, self._parts):
            if part.ndim < 1 or (part.shape[1:], part.dtype) != (self._parts[0].shape[1:], self._parts[0].dtype):
                raise typing.InputError(
                    f"{file} has rows of another shape or type than {files[0].name}; expected the same in all."
                )
        self.ends = np.cumsum([len(part) for part in self._parts])
        self.size, self.shape, self.dtype = int(self.ends[-1]), self._parts[0].shape[1:], self._parts[0].dtype

    def __call__(self, ids):
        ids = np.asarray(ids)
        which = np.searchsorted(self.ends, ids, side="right")
        rows_read = np.empty((len(ids), *self.shape), self.dtype)
        for number in np.unique(which):
            rows = which == number
            part = self._parts[number]
            rows_read[rows] = part[ids[rows] - (self.ends[number] - len(part))]
        return rows_read
