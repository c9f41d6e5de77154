"""Images of your own as data sets: `folder:PATH`, a folder of PNG and JPEG files, and `npz:PATH`, arrays in one file.

A folder holds images, or one folder a class with images at any depth in it; classes are numbered in the order of their names. Files are
ordered by their path, and names that begin with a dot are left out. `folder:PATH,size=64` has all images brought to 64 x 64 pixels
(`centre_crop`); without a size all must have that of the first.

Of a folder with the folders `train` and `test` in it, these are the splits, and their classes are those of `train`. Of others, and of
arrays without a split, the rows 9, 19, 29, ... are held out: every tenth, in the fixed order.
"""

import functools
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import tqdm
from PIL import Image

from flowjax import buckets, checks, opening, typing
from flowjax.data import pipeline

SPLITS = ("train", "test")
ENDINGS = (".png", ".jpg", ".jpeg")
IN_MEMORY = 512 * 2**20  # bytes of decoded images; above it, rows are read on demand
LARGEST = 4096  # pixels of a side
_FOLDER = "a folder of PNG or JPEG files"
_IMAGE = "an image, PNG or JPEG; replace or delete it"
_ARRAYS = (
    'an .npz file with the images "x" [n, H, W, C], uint8 or floating, or "train" and "test", and their labels "label", if any'
)


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """The middle of an image, `size` x `size` pixels, as ADM's code crops ImageNet.

    While the shorter side is at least twice as long as wanted, both are halved by averaging; then the shorter side becomes `size` by
    bicubic interpolation, and the longer one is cut on both sides.

    Source: guided_diffusion/image_datasets.py of Dhariwal and Nichol (arXiv 2105.05233).
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def folder(where: str, *, split: str = "train", data_dir: str | None = None) -> pipeline.Source:
    """The images of a folder, see the docstring of the module.

    Args:
      where: PATH, or PATH,size=N.
      split: "train" or "test".
      data_dir: unused; every dataset takes it.

    Returns:
      A source of uint8 [H, W, 3], labelled if the images lie in folders of their classes.

    Raises:
      InputError: there is no such folder, it has no images or too few, or one of them cannot be read. Images that do not fit into 512 MB
        are read when they are needed, and fail then.
    """
    del data_dir
    path, size = _sized(where)
    name = f"folder:{where}"
    checks.member(f"split of {name:.100}", split, SPLITS)
    files, classes, labels = _listed(path, split)
    read = functools.partial(_read, size=size)
    shape = read(files[0]).shape
    rows = functools.partial(_rows, files, labels, functools.partial(_checked, read, shape, files[0]))
    if len(files) * np.prod(shape, dtype=np.int64) <= IN_MEMORY:
        bar = tqdm.tqdm(range(len(files)), desc=f"reading {path}", unit=" images", delay=3, leave=False)
        x = np.concatenate([rows([i])["x"] for i in bar])
        rows = functools.partial(_of_arrays, x, labels)
    return pipeline.Source(name, len(files), shape, len(classes), rows, levels=256)


def every(where: str) -> tuple[list[pathlib.Path], Callable[[pathlib.Path], np.ndarray]]:
    """(all images of a folder in the order of their paths, how one is read), whatever their split; `where` and errors as of `folder`."""
    path, size = _sized(where)
    with opening.reading(path, _FOLDER):
        files = [path.joinpath(*parts) for parts in paths_below(path)]
        if not files:
            raise ValueError(f"there is no image, {', '.join(ENDINGS)}, in it")
    return files, functools.partial(_checked, functools.partial(_read, size=size), _read(files[0], size).shape, files[0])


def arrays(where: str, *, split: str = "train", data_dir: str | None = None) -> pipeline.Source:
    """Images of an .npz file: "x" [n, H, W, C], or "train" and "test"; with "label", or "train_label" and "test_label", [n].

    Args:
      where: the file.
      split: "train" or "test".
      data_dir: unused; every dataset takes it.

    Returns:
      A source of uint8 [H, W, C], or of float32, which leave as they are: scale pixels to [-1, 1].

    Raises:
      InputError: there is no such file, or it holds something else.
    """
    del data_dir
    name = f"npz:{where}"
    checks.member(f"split of {name:.100}", split, SPLITS)
    content = _content(buckets.absolute(where))
    if "x" in content:
        ids = _of_split(len(content["x"]), split, name)
        x, label = content["x"][ids], content["label"][ids] if "label" in content else None
    else:
        x, label = content[split], content.get(f"{split}_label")
    numbers = [content[key].max() for key in ("label", "train_label", "test_label") if key in content]
    whole = x.dtype == np.uint8
    x = x if whole else x.astype(np.float32)
    classes = 0 if label is None else 1 + int(max(numbers))
    return pipeline.Source(
        name, len(x), x.shape[1:], classes, functools.partial(_of_arrays, x, label), levels=256 if whole else 0
    )


def _sized(where: str) -> tuple[pathlib.Path, int | None]:
    path, comma, option = where.rpartition(",")
    if not comma or not option.startswith("size="):
        return opening.here(where, _FOLDER), None
    number = option.removeprefix("size=")
    if not number.isdecimal() or not 1 <= int(number) <= LARGEST:
        raise typing.InputError(
            f"config.data.name is 'folder:{where:.200}': the size is a whole number of pixels from 1 to {LARGEST}, folder:PATH,size=64."
        )
    return opening.here(path, _FOLDER), int(number)


def _listed(path: pathlib.Path, split: str) -> tuple[list[pathlib.Path], list[str], np.ndarray | None]:
    """(files of the split, names of the classes, labels) of a folder."""
    expected = "a folder of PNG or JPEG files, or of one folder a class: config.data.name=folder:PATH"
    with opening.reading(path, expected):
        if not path.is_dir():
            raise NotADirectoryError(0, "it is no folder") if path.exists() else FileNotFoundError
        own = all((path / name).is_dir() for name in SPLITS)
        images = paths_below(path / split if own else path)
        classes = sorted({parts[0] for parts in (paths_below(path / "train") if own else images) if len(parts) > 1})
        if not images:
            raise ValueError(f"there is no image, {', '.join(ENDINGS)}, in {path / split if own else path}")
        if classes and (loose := [parts[0] for parts in images if len(parts) == 1]):
            raise ValueError(f"{loose[0]} lies beside the folders of the classes")
        if unknown := sorted({parts[0] for parts in images if len(parts) > 1} - set(classes)):
            raise ValueError(f"{unknown[0]!r} is no folder of {path / 'train'}")
    if not own:
        ids = _of_split(len(images), split, f"folder:{path}")
        images = [images[i] for i in ids]
    number = {name: i for i, name in enumerate(classes)}
    labels = np.array([number[parts[0]] for parts in images], np.int32) if classes else None
    root = path / split if own else path
    return [root.joinpath(*parts) for parts in images], classes, labels


def paths_below(root: pathlib.Path) -> list[tuple[str, ...]]:
    """Paths of the images below a folder, as parts, in order."""
    found = []
    for place, folders, names in os.walk(root, onerror=_raised):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = pathlib.Path(place).relative_to(root).parts
        found += [(*inside, name) for name in names if name.lower().endswith(ENDINGS) and not name.startswith(".")]
    return sorted(found)


def _raised(error: OSError) -> None:
    raise error


def _of_split(count: int, split: str, name: str) -> np.ndarray:
    if count < 10:
        raise typing.InputError(
            f"{name:.200} has {count} images, and every tenth is held out; expected 10 or more, or splits of its own, train and test."
        )
    return pipeline.every_tenth(count, split)


def _read(path: pathlib.Path, size: int | None) -> np.ndarray:
    """uint8 [H, W, 3]. Only two formats are tried, because others of the library start programs."""
    with opening.reading(path, _IMAGE), Image.open(path, formats=("PNG", "JPEG")) as image:
        colours = image.convert("RGB")
        return np.asarray(colours if size is None else centre_crop(colours, size))


def _checked(read, shape: tuple[int, ...], first: pathlib.Path, path: pathlib.Path) -> np.ndarray:
    image = read(path)
    if image.shape != shape:
        raise typing.InputError(
            f"{path} has {image.shape[1]} x {image.shape[0]} pixels, and {first} has {shape[1]} x {shape[0]}; have all brought to one size:"
            " --config.data.name=folder:PATH,size=64."
        )
    return image


def _rows(files: Sequence[pathlib.Path], labels: np.ndarray | None, read, ids) -> dict[str, np.ndarray]:
    batch = {"x": np.stack([read(files[i]) for i in ids])}
    return batch if labels is None else {**batch, "label": labels[ids]}


def _of_arrays(x: np.ndarray, labels: np.ndarray | None, ids) -> dict[str, np.ndarray]:
    return {"x": x[ids]} if labels is None else {"x": x[ids], "label": labels[ids].astype(np.int32)}


@functools.lru_cache(maxsize=2)
def _content(path: str) -> dict[str, np.ndarray]:
    with opening.reading(path, _ARRAYS):
        content = opening.npz(path, _ARRAYS)
        names = {"x": "label"} if "x" in content else {"train": "train_label", "test": "test_label"}
        for name, labels in names.items():
            if name not in content:
                raise ValueError(f"it has no array {name!r}")
            x, label = content[name], content.get(labels)
            if x.ndim != 4 or not x.size or not (x.dtype == np.uint8 or x.dtype.kind == "f"):
                raise ValueError(f"its {name!r} has shape {x.shape} and type {x.dtype}")
            if x.dtype.kind == "f" and not np.isfinite(x).all():
                raise ValueError(f"its {name!r} holds values that are not finite numbers")
            if label is not None and (label.shape != x.shape[:1] or label.dtype.kind not in "iu" or label.min() < 0):
                raise ValueError(f"its {labels!r} has shape {label.shape} and type {label.dtype}, or numbers below 0")
        if len({(content[name].shape[1:], content[name].dtype) for name in names}) > 1:
            raise ValueError("its images of training and test have two shapes or types")
        if len({names[name] in content for name in names}) > 1:
            raise ValueError("one of its splits has labels, the other has none")
    return content
