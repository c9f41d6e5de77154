"""Pickles without what makes them dangerous: a list of the names that are known, and objects without behaviour for all others.

A pickle is a program: it names functions of any module and calls them. Here a name is looked up in `KNOWN` alone, whose functions
describe tensors and arrays. A class of a library that is not known (a config, a network, an optimizer) becomes a
flowjax.foreign.trees.Object, which keeps what the file says and does nothing. A name of Python itself that is neither known nor a
harmless class (os.system, builtins.eval) ends the reading.
"""

import pickle
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

from flowjax.foreign import trees

# Classes of Python's library that files of weights hold beside the weights.
_HARMLESS = {
    *(f"pathlib.{name}" for name in ("Path", "PosixPath", "PurePath", "PurePosixPath", "WindowsPath", "PureWindowsPath")),
    *(
        f"{module}.{name}"
        for module in ("builtins", "__builtin__")
        for name in "bool dict float int list object str tuple".split()
    ),
    *("pathlib._local.PosixPath", "argparse.Namespace", "types.SimpleNamespace", "functools.partial"),
    *("collections.Counter", "collections.deque", "datetime.datetime", "datetime.timedelta"),
}


class Known:
    """A function or a value that a file may name. It has no attribute that a pickle could change."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        object.__setattr__(self, "value", value)

    def __call__(self, *arguments: Any) -> Any:
        return self.value(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise ValueError("it changes a function")

    def __setstate__(self, state: Any) -> None:
        raise ValueError("it changes a function")


class Dict(dict):
    """A dict that forgets the attributes that a file gives it: those of torch's are versions of its modules."""

    def __setstate__(self, state: Any) -> None:
        pass


class _Type:
    """numpy.dtype as a pickle makes it: a name, then a state that holds the order of the bytes."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.name = name.value if isinstance(name, Known) else name
        self.order = "="

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            self.order = state[1]

    def dtype(self) -> Any:
        return trees.numbers(self.name).newbyteorder(self.order)


class _Array:
    """numpy.ndarray as a pickle makes it: empty, then its state (version, shape, type, order, bytes)."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self) -> Any:
        if not isinstance(self.state, tuple) or len(self.state) != 5 or not isinstance(self.state[2], _Type):
            raise ValueError("an array lacks its state")
        _, shape, dtype, fortran, data = self.state
        # Python 2 wrote the bytes as a text.
        return trees.Buffer(
            dtype.dtype(), shape, data.encode("latin1") if isinstance(data, str) else data, bool(fortran)
        ).array()


def _scalar(dtype: Any, data: Any) -> Any:
    return trees.Buffer(dtype.dtype(), (), data.encode("latin1") if isinstance(data, str) else data)


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> Any:
    return trees.Buffer(dtype.dtype(), shape, data, order == "F")


def _encoded(text: Any, encoding: Any) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"it encodes a text as {encoding!r:.40}")
    return text.encode("latin1")


_NUMPY = {
    "multiarray._reconstruct": Known(_Array),
    "multiarray.scalar": Known(_scalar),
    "numeric._frombuffer": Known(_from_buffer),
}
KNOWN: dict[str, Known] = {
    "collections.OrderedDict": Known(lambda pairs=(): Dict(pairs)),
    "collections.defaultdict": Known(lambda *_: Dict()),
    "copyreg._reconstructor": Known(lambda kind, *_: _object(kind)),
    "copy_reg._reconstructor": Known(lambda kind, *_: _object(kind)),
    "_codecs.encode": Known(_encoded),
    **{f"{module}.{name}": Known(list) for module in ("builtins", "__builtin__") for name in ("set", "frozenset")},
    **{f"numpy.{core}.{name}": known for core in ("core", "_core") for name, known in _NUMPY.items()},
    "numpy.ndarray": Known(None),
    "numpy.dtype": Known(_Type),
    "ml_dtypes.bfloat16": Known("bfloat16"),
}


# The Python version of the reader, because the other takes the memory for a table as long as the file claims.
class Reader(pickle._Unpickler):
    """Reads one pickle; see the docstring of the module.

    Args:
      file: where it begins.
      known: further names, {"module.name": what stands for it}.
      storages: (persistent id) -> what stands for it.
    """

    def __init__(self, file: BinaryIO, known: dict[str, Known], storages: Callable[[Any], Any] | None = None) -> None:
        super().__init__(file, fix_imports=False, encoding="latin1")
        self._known, self._storages = known, storages

    def find_class(self, module: Any, name: Any) -> Any:
        full = f"{module}.{name}"
        if full in KNOWN or full in self._known:
            return KNOWN.get(full) or self._known[full]
        first = str(module).split(".")[0]
        if full not in _HARMLESS and (
            first in sys.stdlib_module_names or first in ("__builtin__", "copy_reg", "posix", "nt", "commands")
        ):
            raise ValueError(f"it asks for {full!r:.80}, which weights have no use for; nothing of it was run")
        if first == "torch" and str(name).startswith("_rebuild"):
            raise ValueError(f"it holds tensors of a kind that is not read, {full!r:.80}")
        return type("Object", (trees.Object,), {})

    def persistent_load(self, pid: Any) -> Any:
        if self._storages is None:
            raise ValueError("it refers to data that are not in it")
        return self._storages(pid)


def _object(kind: Any) -> trees.Object:
    if not (isinstance(kind, type) and issubclass(kind, trees.Object)):
        raise ValueError("it makes an object of something that is no class")
    return kind()
