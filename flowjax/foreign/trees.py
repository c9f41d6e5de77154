"""Nested dicts, lists and objects of a file as {name: array}."""

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

DEEPEST, MOST = 100, 1_000_000  # levels and entries; no published file has as many
_OTHER_FLOATS = {
    name: np.dtype(getattr(ml_dtypes, name))
    for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
}


class Object:
    """An object of a class that is not known: what the file says of it, and no behaviour.

    Attributes:
      arguments: with which its class or function was to be called.
      state: of the object.
      entries: that were put into it, as into a dict or a list.
    """

    def __new__(cls, *arguments: Any, **named: Any) -> "Object":
        self = super().__new__(cls)
        self.arguments, self.state, self.entries = (*arguments, *named.values()), None, {}
        return self

    def __init__(self, *arguments: Any, **named: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, name: Any, value: Any) -> None:
        self.entries[name] = value

    def append(self, value: Any) -> None:
        self.entries[len(self.entries)] = value

    def extend(self, values: Any) -> None:
        for value in values:
            self.append(value)

    def content(self) -> dict[Any, Any]:
        """All of it as one dict. What an argument holds counts as held by the object."""
        parts = [argument for argument in self.arguments if isinstance(argument, dict | Object)]
        parts += [part for part in (self.state if isinstance(self.state, tuple) else (self.state,)) if isinstance(part, dict)]
        parts.append(self.entries)
        found: dict[Any, Any] = {}
        for part in parts:
            found |= part.content() if isinstance(part, Object) else part
        # A network of EDM's kind: its source code stays unread beside its state.
        return found["state"] if "module_src" in found and isinstance(found.get("state"), dict) else found


class Buffer(NamedTuple):
    """An array that is checked before it is made.

    Attributes:
      dtype, shape: as the file has them.
      data: its bytes.
      fortran: whether the first axis is the fastest.
    """

    dtype: Any
    shape: Any
    data: Any
    fortran: bool = False

    def array(self) -> np.ndarray:
        dtype, shape = numbers(self.dtype), sizes(self.shape)
        if not isinstance(self.data, bytes | bytearray):
            raise ValueError("an array has no bytes")
        needed = dtype.itemsize * product(shape)
        if len(self.data) != needed:
            raise ValueError(f"an array of shape {shape} and type {dtype} takes {needed} bytes, and {len(self.data)} are there")
        flat = np.frombuffer(bytes(self.data), dtype)
        return flat.reshape(shape[::-1]).T if self.fortran else flat.reshape(shape)


def numbers(name: Any) -> np.dtype:
    """A type of numbers by its name or as numpy has it; raises ValueError for any other."""
    if isinstance(name, str) and name in _OTHER_FLOATS:
        return _OTHER_FLOATS[name]
    dtype = np.dtype(name) if isinstance(name, str | np.dtype) else None
    if dtype is None or (dtype.kind not in "biufc" and dtype not in _OTHER_FLOATS.values()):
        raise ValueError(f"an array has the type {name!r:.60}, which is none of numbers")
    return dtype


def sizes(shape: Any) -> tuple[int, ...]:
    """A shape, or strides; raises ValueError for numbers below 0 and for what is none."""
    if not isinstance(shape, tuple | list) or any(type(size) is not int or size < 0 for size in shape):
        raise ValueError(f"an array has the shape {shape!r:.60}")
    return tuple(shape)


def product(shape: tuple[int, ...]) -> int:
    """The number of elements."""
    count = 1
    for size in shape:
        count *= size
    return count


def flat(tree: Any) -> dict[str, np.ndarray]:
    """Dicts, lists and objects -> {name: array}, see flowjax.foreign.read.

    What an object holds of those that hold it is left out: a part of a network may refer to the whole.

    Raises:
      ValueError: two arrays have one name, or there are too many.
    """
    found: dict[str, np.ndarray] = {}
    visited = 0

    def walk(node: Any, name: str, around: tuple[int, ...]) -> None:
        nonlocal visited
        visited += 1
        if len(around) > DEEPEST or visited > MOST:
            raise ValueError(f"it is nested more than {DEEPEST} deep, or has more than {MOST:,} entries")
        if id(node) in around:
            return
        around = (*around, id(node))
        if isinstance(node, Object):
            node = node.content()
        if isinstance(node, dict) and {"_parameters", "_buffers", "_modules"} <= set(node):
            node = {
                f"{kind}.{key}": value for kind in ("_parameters", "_buffers", "_modules") for key, value in _items(node[kind])
            }
            for key, value in node.items():
                kind, _, key = key.partition(".")
                walk(value, f"{name}{key}{'.' if kind == '_modules' else ''}", around)
        elif isinstance(node, dict | list | tuple) and not isinstance(node, Buffer):
            for key, value in _items(node):
                leaf = _array(value)
                full = f"{name}{key}"
                walk(value, f"{full}/", around) if leaf is None else _put(found, full, leaf)
        elif (leaf := _array(node)) is not None:
            _put(found, name.rstrip("/") or "array", leaf)

    walk(tree, "", ())
    return found


def _items(node: Any) -> Any:
    node = node.content() if isinstance(node, Object) else node
    if not isinstance(node, dict):
        return enumerate(node if isinstance(node, list | tuple) else ())
    if any(not isinstance(key, str | int) for key in node):
        raise ValueError("a name in it is neither a text nor a number")
    return node.items()


def _array(value: Any) -> np.ndarray | None:
    """A leaf as an array; None for what is none."""
    if hasattr(value, "array"):  # a Buffer, or a tensor of torch
        return value.array()
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, bool | float | complex) or (isinstance(value, int) and -(2**63) <= value < 2**63):
        return np.array(value)
    return None


def _put(found: dict[str, np.ndarray], name: str, value: np.ndarray) -> None:
    if name in found:
        raise ValueError(f"two of its arrays have the name {name!r:.100}")
    found[name] = value
