"""Folders of checkpoints of Flax and Orbax, without either: the newest checkpoint in them.

Flax writes checkpoint_N, a file in msgpack or a folder of Orbax. A folder of Orbax holds its arrays in one store (manifest.ocdbt), or each in
a folder of its own (NAME/.zarray), or, of early versions, all in a file in msgpack named checkpoint. Orbax's manager puts them into N/default.
Read from flax/training/checkpoints.py of Flax 0.12 and written by Orbax 0.12; folders of earlier versions were not tested.
"""

import pathlib
import re
from typing import Any

import numpy as np
import tensorstore

from flowjax import opening
from flowjax.foreign import packed, trees

_MANIFEST, _ARRAY, _FILE = "manifest.ocdbt", ".zarray", "checkpoint"
_ITEMS = ("default", "state", "params")  # folders in which Orbax' managers put a tree
_DEEPEST = 4  # folders above the arrays


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """{name: array} of the newest checkpoint of a folder, names joined by "/"; raises ValueError, or what tensorstore raises, if there is none."""
    place = _checkpoint(path.resolve(), _DEEPEST)
    if place is None:
        raise ValueError("it is a folder without a checkpoint of Flax or Orbax")
    for inside in place.rglob("*") if place.is_dir() else ():
        opening.check_kind(inside)
    if place.is_file():
        return trees.flat(packed.read(place.read_bytes()))
    if not (place / _MANIFEST).is_file() and not any(place.glob(f"*/{_ARRAY}")):
        return trees.flat(packed.read((place / _FILE).read_bytes()))
    return {name.replace(".", "/"): store.read().result() for name, store in sorted(_stores(place).items())}


def _checkpoint(path: pathlib.Path, depth: int) -> pathlib.Path | None:
    """The file or folder that holds the arrays: the path itself, or what is newest in it."""
    if path.is_file():
        return path
    if (path / _MANIFEST).is_file() or (path / _FILE).is_file() or any(path.glob(f"*/{_ARRAY}")):
        return path
    if not depth:
        return None
    numbered = {int(name[1]): entry for entry in path.iterdir() if (name := re.fullmatch(r"(?:\w+_)?(\d{1,18})", entry.name))}
    below = [numbered[max(numbered)]] if numbered else [path / name for name in _ITEMS if (path / name).is_dir()]
    return next((inner for one in below if (inner := _checkpoint(one, depth - 1)) is not None), None)


def _stores(folder: pathlib.Path) -> dict[str, Any]:
    """{name: tensorstore} of the arrays of a folder of Orbax."""
    base: dict[str, Any] = {"driver": "file", "path": f"{folder}/"}
    names = [entry.parent.name for entry in folder.glob(f"*/{_ARRAY}")]
    if (folder / _MANIFEST).is_file():
        base = {"driver": "ocdbt", "base": f"file://{folder}/"}
        keys = [key.decode().rpartition("/") for key in tensorstore.KvStore.open(base).result().list().result()]
        names = [name for name, _, file in keys if file == _ARRAY]
    place = (
        (lambda name: {**base, "path": name})
        if base["driver"] == "ocdbt"
        else lambda name: {**base, "path": f"{folder}/{name}/"}
    )
    spec = {"driver": "zarr", "fill_missing_data_reads": False}
    opened = {name: tensorstore.open({**spec, "kvstore": place(name)}) for name in names}
    return {name: store.result() for name, store in opened.items()}
