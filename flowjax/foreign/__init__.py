"""Weights in files of other libraries: `read` gives {name: array}, and `write` keeps them as .safetensors.

What is read: .npz; .safetensors; what torch.save writes, in both of its formats; pickles of numpy arrays; the msgpack of Flax; folders of
checkpoints of Flax and Orbax. The format is found in the content of a file, not in its name. Neither torch nor TensorFlow is needed, and nothing in a file is executed:
flowjax.foreign.pickles.
"""

import json
import mmap
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

import numpy as np

from flowjax import buckets, folders, opening, typing
from flowjax.foreign import packed, tensors, trees

EXPECTED = "weights as .npz, .safetensors, a file of torch.save, a pickle of numpy arrays, the msgpack of Flax, or a folder of Flax or Orbax"


def read(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a file.

    Args:
      path: the file, or the folder of checkpoints, of which the newest is read.

    Returns:
      {name: array}, read only. Names of nested dicts and lists are joined by "/", "ema/blocks.0.attn.qkv.weight"; the names of a torch
      module by ".", as those of its state_dict. Numbers are arrays without axes. Texts, and objects of classes that are not known and
      hold no arrays, are left out.

    Raises:
      InputError: there is no such file; it is damaged, or none of these formats; or it asks for a call that is not on the list of
        flowjax.foreign.pickles.
    """
    with opening.reading(path, EXPECTED):
        if buckets.path(path).is_dir():
            from flowjax.foreign import checkpoint_folders  # tensorstore takes a second to import

            arrays = checkpoint_folders.read(pathlib.Path(buckets.local(path)))
        else:
            with open(buckets.local(path), "rb") as file:
                arrays = _by_content(path, file)
        if not arrays:
            raise ValueError("it holds no array")
        return arrays


def below(arrays: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """The arrays whose names begin with `name` and "/", without it; all for "".

    Raises:
      InputError: there are none.
    """
    chosen = {key.removeprefix(f"{name}/"): array for key, array in arrays.items() if not name or key.startswith(f"{name}/")}
    if not chosen:
        first = sorted({key.split("/")[0] for key in arrays})
        shown = ", ".join(first[:8]) + (", ..." if first[8:] else "")
        raise typing.InputError(f"there is no array below {name!r:.100}; the first parts of the names are {shown:.400}.")
    return chosen


def check_names(given: Iterable[str], expected: Iterable[str], what: str, then: str) -> None:
    """Raises InputError unless the arrays of a file have the names that a network has; the first that differ are named.

    Args:
      given, expected: the names.
      what: the network, for the sentence.
      then: the end of the sentence.
    """
    missing, unknown = sorted(set(expected) - set(given)), sorted(set(given) - set(expected))
    if missing or unknown:
        shown = lambda names: f"{len(names)} ({', '.join(names[:3])}{', ...' if names[3:] else ''})"
        raise typing.InputError(
            f"weights of {what}: {f'missing are {shown(missing)}' if missing else 'none is missing'},"
            f" {f'not known are {shown(unknown)}' if unknown else 'all are known'}{then}"
        )


def write(path: str | pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a .safetensors file, whole or not at all.

    Args:
      path: the file.
      arrays: {name: array}.

    Raises:
      InputError: an array has a type that the format does not have (complex numbers).
    """
    types = {np.dtype(dtype): name for name, dtype in opening.DTYPES.items()}
    # Wide types first, so that each array begins at a multiple of its own width, as readers that map files into memory need.
    names = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    header, end = {}, 0
    for name in names:
        array = arrays[name]
        dtype = array.dtype.newbyteorder("=")
        if dtype not in types:
            raise typing.InputError(f"{name} has the type {array.dtype}; .safetensors has {', '.join(types.values())}.")
        header[name] = {"dtype": types[dtype], "shape": list(array.shape), "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with folders.replacing(path) as part, open(part, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            array = arrays[name]
            file.write(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())


def _by_content(path: str | pathlib.Path, file: BinaryIO) -> dict[str, np.ndarray]:
    head = file.read(16)
    file.seek(0)
    if head.startswith(b"PK"):
        whole = tensors.from_zip(file)
        return opening.npz(path, EXPECTED) if whole is None else trees.flat(whole)
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):  # the protocols of pickle
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return trees.flat(tensors.from_pickles(mapped))
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= os.fstat(file.fileno()).st_size:
        return opening.safetensors(path, EXPECTED)
    if head[:1] and (0x80 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF)):  # a map in msgpack
        return trees.flat(packed.read(file.read()))
    raise ValueError(f"it begins with {_shown(head)}, as none of these formats does")


def _shown(head: bytes) -> Any:
    return head[:8] or "nothing"
