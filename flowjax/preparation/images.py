"""Images to be prepared, read one by one: a folder, a tar archive, the files of a TFDS dataset, or a data set of images of one size.

An archive is read where it lies: nothing is unpacked, and names in it are only looked at. One with a name that leads out of it (`../`) or
with links is refused. Archives of archives, one a class, as ImageNet is published, are read too.
"""

import functools
import io
import os
import pathlib
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from flowjax import data, opening, typing
from flowjax.data import image_files

_TAR = "a tar archive, not compressed, of PNG or JPEG files in folders of their classes"
_IMAGE = "an image, PNG or JPEG; replace or delete it"


class Images(NamedTuple):
    """Images in a fixed order.

    Attributes:
      name: where they are from.
      size: how many.
      classes: names of the classes; () if there are none.
      labels: int32 [size], or what is sliced like it and reads labels then; None without classes.
      listing: a checksum of what is to be read: names, sizes and order.
      read: number of an image -> the image, RGB, of any size.
    """

    name: str
    size: int
    classes: tuple[str, ...]
    labels: Any
    listing: int
    read: Callable[[int], Image.Image]


def open_images(name: str, *, split: str = "train", data_dir: str = "") -> Images:
    """The images of a source.

    Args:
      name: `folder:PATH`, all images in a folder, one folder a class or none; `tar:FILE`, likewise of an archive; `tfds:NAME`, images
        of any size of a TFDS dataset that was prepared, as `tfds:imagenet2012`; or a data set of flowjax.data of RGB images, as `cifar10`.
      split: of a data set.
      data_dir: of a data set.

    Raises:
      InputError: there is no such source, it has no images, or something that it must not have.
    """
    kind, colon, where = name.partition(":")
    if colon and kind in ("folder", "tar"):
        return {"folder": _folder, "tar": _tar}[kind](name, opening.here(where, "images: folder:PATH or tar:FILE"))
    if colon and kind == "tfds":
        return _tfds(name, where, split, data_dir)
    source = data.load(name, split=split, data_dir=data_dir)
    if len(source.shape) != 3 or source.shape[-1] != 3 or not source.levels:
        raise typing.InputError(f"{name} has rows of shape {source.shape}; expected images of three colours, uint8.")
    ids, labels = np.arange(source.size), None
    if source.num_classes:
        labels = np.concatenate([source.rows(some)["label"] for some in np.array_split(ids, 1 + source.size // 1024)])
    read = lambda i: Image.fromarray(source.rows(np.array([i]))["x"][0])
    ends = zlib.crc32(source.rows(np.array([0, source.size - 1]))["x"].tobytes())
    listing = opening.text_checksum(f"{name} {split} {source.size} {ends}")
    classes = tuple(str(number) for number in range(source.num_classes))
    return Images(name, source.size, classes, labels, listing, read)


def decoded(path: str, content: BinaryIO | pathlib.Path) -> Image.Image:
    """An image, RGB. Only two formats are tried, because others of the library start programs."""
    with opening.reading(path, _IMAGE):
        try:
            with Image.open(content, formats=("PNG", "JPEG")) as image:
                return image.convert("RGB")
        except UnidentifiedImageError:
            raise ValueError("it is neither") from None


class _Labels:
    """Labels of a TFDS dataset, read when they are sliced: its records must be read for them."""

    def __init__(self, files: Any) -> None:
        self._files = files

    def __getitem__(self, ids: slice) -> np.ndarray:
        chosen = range(self._files.size)[ids]
        parts = [self._files.read(chosen[start : start + 256]) for start in range(0, len(chosen), 256)]
        return np.array([record["label"] for part in parts for record in part], np.int32)


def _tfds(name: str, where: str, split: str, data_dir: str) -> Images:
    from flowjax.data import tfds_images  # tensorflow_datasets takes seconds to import

    files = tfds_images.files(where, split=split, data_dir=data_dir or None)
    read = lambda i: decoded(f"{name}, image {i}", io.BytesIO(files.read([i])[0]["image"]))
    ends = [zlib.crc32(record["image"]) for record in files.read([0, files.size - 1])]
    labels = _Labels(files) if files.classes else None
    return Images(name, files.size, files.classes, labels, opening.text_checksum(f"{files.about} {files.size} {ends}"), read)


def _folder(name: str, path: pathlib.Path) -> Images:
    with opening.reading(path, "a folder of PNG or JPEG files, or of one folder a class: --source=folder:PATH"):
        if not path.is_dir():
            raise NotADirectoryError(0, "it is no folder") if path.exists() else FileNotFoundError
        paths = image_files.paths_below(path)
        sizes = [os.stat(path.joinpath(*parts)).st_size for parts in paths]
        classes, labels = _classes([parts[0] if len(parts) > 1 else "" for parts in paths])
    listing = _listing(["/".join(parts) for parts in paths], sizes)
    files = [str(pathlib.Path(*parts)) for parts in paths]
    return Images(name, len(files), classes, labels, listing, lambda i: decoded(str(path / files[i]), path / files[i]))


def _tar(name: str, path: pathlib.Path) -> Images:
    with opening.reading(path, _TAR):
        if path.is_dir():
            raise ValueError("it is a folder")
        with open(path, "rb") as file:
            members = sorted(_members(file, 0, os.fstat(file.fileno()).st_size, ()))
        for above, below in zip(members, members[1:]):
            if above[0] == below[0]:
                raise ValueError(f"two of its images have the name {'/'.join(below[0]):.100}")
        classes, labels = _classes([parts[-2] if len(parts) > 1 else "" for parts, _, _ in members])
    names = ["/".join(parts) for parts, _, _ in members]
    places = np.array([(start, size) for _, start, size in members], np.int64)
    opened = functools.cache(lambda: os.open(path, os.O_RDONLY))

    def read(i: int) -> Image.Image:
        start, size = map(int, places[i])
        return decoded(f"{path}: {names[i]}", io.BytesIO(os.pread(opened(), size, start)))

    return Images(name, len(members), classes, labels, _listing(names, [size for _, _, size in members]), read)


def _members(file: BinaryIO, start: int, end: int, above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int, int]]:
    """(parts of the name, first byte, bytes) of the images of an archive that lies between two bytes of a file."""
    file.seek(start)
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            archive.members = []  # of a million names none is needed again
            if member.offset >= end:
                break
            parts = tuple(part for part in member.name.split("/") if part not in ("", "."))
            if ".." in parts or member.name.startswith("/"):
                raise ValueError(f"its entry {member.name!r:.100} leads out of it")
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                raise ValueError(f"its entry {member.name!r:.100} is no plain file")
            if member.offset_data + member.size > end:
                raise ValueError(f"it ends within {member.name!r:.100}")
            ending = pathlib.PurePosixPath(member.name).suffix.lower()
            if ending == ".tar" and not above:
                inside = (*parts[:-1], parts[-1][: -len(ending)])
                yield from _members(_Part(file), member.offset_data, member.offset_data + member.size, inside)
            elif ending in image_files.ENDINGS and not parts[-1].startswith("."):
                yield (*above, *parts), member.offset_data, member.size


class _Part(io.RawIOBase):
    """The same file with a position of its own."""

    def __init__(self, file: BinaryIO) -> None:
        self._descriptor, self._at = file.fileno(), 0

    def read(self, size: int = -1) -> bytes:
        content = os.pread(self._descriptor, size, self._at)
        self._at += len(content)
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (self._at if whence == 1 else 0)
        return self._at

    def tell(self) -> int:
        return self._at

    def fileno(self) -> int:
        return self._descriptor


def _classes(names: list[str]) -> tuple[tuple[str, ...], np.ndarray | None]:
    """(classes in order, label of each image), from the name of the class of each, "" for none."""
    if not names:
        raise ValueError(f"there is no image, {', '.join(image_files.ENDINGS)}, in it")
    classes = sorted(set(names))
    if classes == [""]:
        return (), None
    if classes[0] == "":
        raise ValueError("some of its images lie in folders of classes, and some beside these folders")
    number = {name: i for i, name in enumerate(classes)}
    return tuple(classes), np.array([number[name] for name in names], np.int32)


def _listing(names: list[str], sizes: list[int]) -> int:
    checksum = 0
    for name, size in zip(names, sizes):
        checksum = zlib.crc32(f"{name} {size}\n".encode(), checksum)
    return checksum
