"""Files of torch.save, without torch.

Since 1.6 a file is a zip archive: NAME/data.pkl, a pickle in which a storage is a persistent id ("storage", type, key, location, number of
elements), and NAME/data/KEY, its bytes. Before, it is a row of pickles (a magic number, 1001, the system, the object, a list of keys),
and then for each key the number of its elements, 8 bytes, and its bytes. Read from torch/serialization.py and torch/_utils.py.
"""

import io
import zipfile
from typing import Any, BinaryIO

import numpy as np

from flowjax.foreign import pickles, trees

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
_TYPES = {
    "Double": "<f8", "Float": "<f4", "Half": "<f2", "BFloat16": "bfloat16", "Long": "<i8", "Int": "<i4", "Short": "<i2",
    "Char": "i1", "Byte": "u1", "Bool": "?", "ComplexFloat": "<c8", "ComplexDouble": "<c16",
}  # fmt: skip
_NAMES = {
    "float64": "<f8", "double": "<f8", "float32": "<f4", "float": "<f4", "float16": "<f2", "half": "<f2", "bfloat16": "bfloat16",
    "int64": "<i8", "int32": "<i4", "int16": "<i2", "int8": "i1", "uint8": "u1", "bool": "?", "uint16": "<u2", "uint32": "<u4",
    "uint64": "<u8", "complex64": "<c8", "complex128": "<c16",
    **{name: name for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")},
}  # fmt: skip


class Storage:
    """A row of numbers of one type; its bytes are filled in when they have been found.

    Attributes:
      dtype: of its elements; bytes for a storage without a type.
      count: of elements.
      data: its bytes.
      start: the first element that counts, of a view.
    """

    __slots__ = ("count", "data", "dtype", "start")

    def __init__(self, dtype: np.dtype, count: Any) -> None:
        (self.count,) = trees.sizes((count,))
        self.dtype, self.start, self.data = dtype, 0, b""

    def __setstate__(self, state: Any) -> None:
        raise ValueError("it changes a storage")

    def fill(self, data: Any) -> None:
        if len(data) != self.count * self.dtype.itemsize:
            needed = self.count * self.dtype.itemsize
            raise ValueError(
                f"a storage of {self.count} numbers of type {self.dtype} takes {needed} bytes, and {len(data)} are there"
            )
        self.data = data


class Tensor:
    """A tensor: where it lies in its storage."""

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any, dtype: np.dtype | None = None) -> None:
        if not isinstance(storage, Storage):
            raise ValueError("a tensor has no storage")
        self._storage, self._dtype = storage, dtype or storage.dtype
        (self._offset,) = trees.sizes((offset,))
        self._shape, self._strides = trees.sizes(shape), trees.sizes(strides)

    def __setstate__(self, state: Any) -> None:
        pass

    def array(self) -> np.ndarray:
        flat = np.frombuffer(self._storage.data, self._dtype)
        first = self._storage.start + self._offset
        last = first + sum((size - 1) * stride for size, stride in zip(self._shape, self._strides))
        if len(self._shape) != len(self._strides) or (trees.product(self._shape) and last >= len(flat)):
            raise ValueError(f"a tensor of shape {self._shape} lies beyond the end of its storage of {len(flat)} numbers")
        if trees.product(self._shape) > len(flat):
            raise ValueError(f"a tensor of shape {self._shape} repeats its storage of {len(flat)} numbers")
        bytes_ = [stride * flat.dtype.itemsize for stride in self._strides]
        if not trees.product(self._shape):
            return np.zeros(self._shape, self._dtype)
        return np.ascontiguousarray(
            np.lib.stride_tricks.as_strided(flat[first:], self._shape, bytes_, writeable=False)
        ).reshape(self._shape)


def from_zip(file: BinaryIO) -> Any:
    """The object of an archive of torch.save; None for an archive of something else.

    Raises:
      ValueError, or what zipfile raises: it is damaged.
    """
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        roots = [name.removesuffix("data.pkl") for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if not roots:
            return None
        if len(roots) > 1 or len(entries) < len(archive.infolist()):
            raise ValueError("two of its entries have one name")
        (root,), found = roots, {}

        def member(name: str) -> bytes:
            if root + name not in entries:
                raise ValueError(f"it lacks {root + name!r:.80}")
            if entries[root + name].compress_type != zipfile.ZIP_STORED:  # a small file could claim any size
                raise ValueError(f"{root + name!r:.80} is compressed, which torch does not do")
            return archive.read(entries[root + name])

        def storage(pid: Any) -> Storage:
            about, key = _storage(pid, 5)
            if key not in found:
                found[key] = about
                about.fill(member(f"data/{key}"))
            return _same(found[key], about)

        if root + "byteorder" in entries and member("byteorder") != b"little":
            raise ValueError("its bytes are in the order of another machine")
        return pickles.Reader(io.BytesIO(member("data.pkl")), KNOWN, storage).load()


def from_pickles(file: Any) -> Any:
    """The object of a file in torch's older format, or of any other pickle; the file is in memory, or mapped into it.

    Raises:
      ValueError, or what pickle raises: it is damaged.
    """
    first = pickles.Reader(file, KNOWN).load()
    if first != MAGIC:
        return first
    if pickles.Reader(file, KNOWN).load() != VERSION:
        raise ValueError("it is a file of torch of an unknown version")
    system = pickles.Reader(file, KNOWN).load()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("its bytes are in the order of another machine")
    found: dict[str, Storage] = {}
    views: list[tuple[Storage, str]] = []

    def storage(pid: Any) -> Any:
        if isinstance(pid, tuple) and len(pid) == 4 and pid[0] == "module":  # (class, file, source code); the code stays a text
            return pid[1]
        about, key = _storage(pid, 6)
        whole = _same(found.setdefault(key, about), about)
        if pid[5] is None:
            return whole
        _, start, count = pid[5]
        view = Storage(whole.dtype, count)
        (view.start,) = trees.sizes((start,))
        views.append((view, key))
        return view

    content = pickles.Reader(file, KNOWN, storage).load()
    keys = pickles.Reader(file, KNOWN).load()
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(found):
        raise ValueError("its list of storages is not that of its tensors")
    for key in keys:
        size = file.read(8)
        if len(size) < 8 or int.from_bytes(size, "little") != found[str(key)].count:
            raise ValueError("it ends too early, or a storage has another size than its tensors say")
        found[str(key)].fill(file.read(found[str(key)].count * found[str(key)].dtype.itemsize))
    for view, key in views:
        view.data = found[key].data
    return content


def _storage(pid: Any, length: int) -> tuple[Storage, str]:
    """(storage, key) of a persistent id."""
    fits = isinstance(pid, tuple) and len(pid) == length and pid[0] == "storage" and isinstance(pid[1], pickles.Known)
    if not fits or not isinstance(pid[1].value, np.dtype) or not isinstance(pid[2], str | int):
        raise ValueError("a storage is described in another way than torch does")
    return Storage(pid[1].value, pid[4]), str(pid[2])


def _same(storage: Storage, again: Storage) -> Storage:
    if (storage.dtype, storage.count) != (again.dtype, again.count):
        raise ValueError("a storage has two sizes")
    return storage


def _rebuilt(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    return Tensor(storage, offset, shape, strides)


def _rebuilt_typed(storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, dtype: Any, *_: Any) -> Tensor:
    if not isinstance(dtype, pickles.Known) or not isinstance(dtype.value, np.dtype):
        raise ValueError("a tensor has an unknown type")
    return Tensor(storage, offset, shape, strides, dtype.value)


KNOWN: dict[str, pickles.Known] = {
    "torch._utils._rebuild_tensor": pickles.Known(_rebuilt),
    "torch._utils._rebuild_tensor_v2": pickles.Known(_rebuilt),
    "torch._utils._rebuild_tensor_v3": pickles.Known(_rebuilt_typed),
    "torch._utils._rebuild_parameter": pickles.Known(lambda data, *_: data),
    "torch._utils._rebuild_parameter_with_state": pickles.Known(lambda data, *_: data),
    "torch._tensor._rebuild_from_type_v2": pickles.Known(lambda function, kind, arguments, state: function(*arguments)),
    "torch.Size": pickles.Known(tuple),
    "torch.storage.UntypedStorage": pickles.Known(np.dtype("u1")),
    "torch.UntypedStorage": pickles.Known(np.dtype("u1")),
    **{f"torch.{name}Storage": pickles.Known(trees.numbers(dtype)) for name, dtype in _TYPES.items()},
    **{f"torch.cuda.{name}Storage": pickles.Known(trees.numbers(dtype)) for name, dtype in _TYPES.items()},
    **{f"torch.{name}": pickles.Known(trees.numbers(dtype)) for name, dtype in _NAMES.items()},
}
