"""Files from elsewhere: every failure to read one ends in one sentence that names the file, what is wrong and what it should be.

Readers of other modules go through `reading`, whatever their format; the formats that several modules read are here. Nothing is
unpickled, and no size that a file claims is believed before the file is known to hold as much.
"""

import contextlib
import json
import math
import os
import pathlib
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from flowjax import buckets, typing

# Types of a safetensors header.
DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": jnp.bfloat16, "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip
_CHUNK = 2**24  # bytes that are read at once for a checksum

Path = str | os.PathLike


@contextlib.contextmanager
def reading(path: Path, expected: str) -> Iterator[None]:
    """A context in which a file is read: whatever goes wrong becomes one InputError.

    Args:
      path: the file, for the sentence.
      expected: what it should be, with what to do: "the samples of experiments.generate; write them again".
    """
    path = buckets.path(path) if buckets.is_remote(path) else path
    try:
        with contextlib.suppress(FileNotFoundError):
            check_kind(path)
        yield
    except typing.InputError:
        raise
    except FileNotFoundError:
        raise typing.InputError(f"{path} does not exist; expected {expected}.") from None
    except OSError as error:
        raise typing.InputError(f"{path} cannot be read ({error.strerror or error}); expected {expected}.") from error
    except Exception as error:  # decoders raise every type there is
        why = " ".join(str(error).split())[:160].rstrip(". ") or type(error).__name__
        raise typing.InputError(f"{path} is damaged or something else ({why}); expected {expected}.") from error


def here(path: Path, expected: str) -> pathlib.Path:
    """A path of this machine as it is, whether there is something or not; of an address, the copy of the object or folder."""
    if not buckets.is_remote(path):
        return pathlib.Path(path)
    with reading(path, expected):
        return pathlib.Path(buckets.local(path))


def check_kind(path: Path) -> None:
    """Raises ValueError for a pipe or a device, of which reading may never end."""
    if buckets.is_remote(path):
        return
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ValueError("it is neither a file nor a folder")


def json_object(path: Path, expected: str, fields: Mapping[str, Callable[[Any], bool]] | None = None) -> dict[str, Any]:
    """The object of a JSON file.

    Args:
      path: the file.
      expected: see `reading`.
      fields: names that it must have, each with whether a value will do.
    """
    with reading(path, expected):
        content = json.loads(buckets.path(path).read_bytes(), object_pairs_hook=_unique, parse_constant=_refused)
        if not isinstance(content, dict):
            raise ValueError(f"it holds {_kind(content)}, no object")
        for name, fits in (fields or {}).items():
            if name not in content:
                raise ValueError(f"it has no {name!r}")
            if not fits(content[name]):
                raise ValueError(f"its {name!r} is {json.dumps(content[name])[:80]}")
    return content


def npz(path: Path, expected: str, names: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, read whole, each against its checksum; of `names` alone, if there are any."""
    arrays = {}
    # Opened here, because numpy leaves the file open when the archive is broken.
    with reading(path, expected), open(buckets.local(path), "rb") as stream, zipfile.ZipFile(stream) as archive:
        entries = archive.infolist()
        if len({entry.filename for entry in entries}) < len(entries):
            raise ValueError("two of its arrays have one name")
        for entry in entries:
            name = entry.filename.removesuffix(".npy")
            if not names or name in names:
                with archive.open(entry) as member:
                    arrays[name] = _array(member, entry.file_size)
        if missing := [name for name in names if name not in arrays]:
            raise ValueError(f"it has no array {missing[0]!r}")
    return arrays


def npy(path: Path, expected: str) -> np.ndarray:
    """The array of an .npy file, mapped into memory; its values are read when they are used."""
    with reading(path, expected):
        copy = buckets.local(path)
        with open(copy, "rb") as file:
            shape, _, dtype = _header(file)
            _check_size(shape, dtype, os.fstat(file.fileno()).st_size - file.tell())
        return np.load(copy, mmap_mode="r", allow_pickle=False)


def safetensors(path: Path, expected: str) -> dict[str, np.ndarray]:
    """The arrays of a .safetensors file: a length (8 bytes), a header in JSON, and the arrays one after another."""
    with reading(path, expected):
        with open(buckets.local(path), "rb") as file:
            data = file.read()
        start = 8 + int.from_bytes(data[:8], "little")
        if len(data) < 8 or start > len(data):
            raise ValueError("it ends within its header")
        header = json.loads(data[8:start], object_pairs_hook=_unique)
        if not isinstance(header, dict):
            raise ValueError(f"its header is {_kind(header)}, no object")
        arrays = {name: about for name, about in header.items() if name != "__metadata__"}
        _check_tensors(arrays, len(data) - start)
        return {name: _tensor(data[start:], about) for name, about in arrays.items()}


def checksum(path: Path, expected: str) -> int:
    """The CRC-32 of a file."""
    value = 0
    with reading(path, expected), open(buckets.local(path), "rb") as file:
        while part := file.read(_CHUNK):
            value = zlib.crc32(part, value)
    return value


def text_checksum(text: str) -> int:
    """The CRC-32 of a text."""
    return zlib.crc32(text.encode())


def count(low: int = 0, high: int = 2**40) -> Callable[[Any], bool]:
    """Whether a value is a whole number from `low` to `high`, for the fields of `json_object`."""
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def shape(value: Any) -> bool:
    """Whether a value is the shape of a row: a list of whole numbers above 0."""
    return isinstance(value, list) and bool(value) and all(count(1)(size) for size in value)


def text(value: Any) -> bool:
    """Whether a value is a text."""
    return isinstance(value, str)


def _check_tensors(header: dict[str, Any], size: int) -> None:
    """Raises ValueError unless every entry is well formed and the arrays fill the data, one after another."""
    for name, about in header.items():
        if not isinstance(about, dict) or not {"dtype", "shape", "data_offsets"} <= set(about):
            raise ValueError(f"its header says {json.dumps(about)[:80]} of {name!r}")
        if about["dtype"] not in DTYPES:
            raise ValueError(f"{name!r} has the type {about['dtype']!r}, and these are known: {', '.join(DTYPES)}")
        sizes, offsets = about["shape"], about["data_offsets"]
        if not isinstance(sizes, list) or not all(count()(size) for size in sizes):
            raise ValueError(f"{name!r} has the shape {sizes!r}")
        if not isinstance(offsets, list) or len(offsets) != 2 or not all(count()(offset) for offset in offsets):
            raise ValueError(f"{name!r} lies at {offsets!r}")
    end = 0
    for name, about in sorted(header.items(), key=lambda entry: entry[1]["data_offsets"]):
        begin, stop = about["data_offsets"]
        needed = math.prod(about["shape"]) * np.dtype(DTYPES[about["dtype"]]).itemsize
        if begin != end or stop - begin != needed:
            raise ValueError(f"{name!r} lies at bytes {begin} to {stop}, and takes {needed} bytes from {end} on")
        end = stop
    if end != size:
        raise ValueError(f"its arrays take {end} bytes, and {size} are there")


def _tensor(data: bytes, about: dict[str, Any]) -> np.ndarray:
    begin, end = about["data_offsets"]
    return np.frombuffer(data[begin:end], DTYPES[about["dtype"]]).reshape(about["shape"])


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"it is an array of version {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not read")
    return shape, fortran, dtype


def _check_size(shape: tuple[int, ...], dtype: np.dtype, there: int) -> None:
    needed = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or needed != there:
        raise ValueError(f"an array of shape {shape} and type {dtype} takes {needed} bytes, and {there} are there")


def _array(file: Any, size: int) -> np.ndarray:
    shape, fortran, dtype = _header(file)
    _check_size(shape, dtype, size - file.tell())
    data = np.frombuffer(file.read(), dtype)  # to the end, where the archive checks its sum
    return data.reshape(shape[::-1]).T if fortran else data.reshape(shape)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("two of its entries have one name")
    return found


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no number of JSON")


def _kind(value: Any) -> str:
    names = {type(None): "null", bool: "a truth value", int: "a number", float: "a number", str: "a text", list: "a list"}
    return names.get(type(value), "something else")
