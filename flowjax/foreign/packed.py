"""The msgpack of Flax: maps whose leaves are arrays, as flax.serialization writes them.

An array is an extension of type 1 (3: a number of numpy), itself a msgpack of (shape, name of the type, bytes). An array of more than a
gigabyte is a map with its flat pieces. Read from flax/serialization.py of Flax 0.12.
"""

from typing import Any

import msgpack
import numpy as np

from flowjax.foreign import trees

ARRAY, COMPLEX, SCALAR = 1, 2, 3
_CHUNKED = "__msgpack_chunked_array__"


def read(data: bytes) -> Any:
    """The tree of a file; raises ValueError, or what msgpack raises, for one that is none."""
    return _joined(msgpack.unpackb(data, ext_hook=_extension, raw=False, strict_map_key=False))


def _extension(code: int, data: bytes) -> Any:
    if code in (ARRAY, SCALAR):
        content = msgpack.unpackb(data, raw=True)
        if not isinstance(content, list) or len(content) != 3 or not isinstance(content[1], bytes):
            raise ValueError("an array lacks its shape, its type or its bytes")
        shape, dtype, content = content
        return trees.Buffer(dtype.decode(), shape, content).array()
    if code == COMPLEX:
        return complex(*msgpack.unpackb(data))
    raise ValueError(f"it has an entry of the type {code}, which Flax does not write")


def _joined(tree: Any) -> Any:
    """The tree with the pieces of large arrays put together. msgpack itself refuses what is nested too deep."""
    if not isinstance(tree, dict):
        return tree
    if _CHUNKED not in tree:
        return {name: _joined(value) for name, value in tree.items()}
    shape, pieces = (tree.get(part) for part in ("shape", "chunks"))
    if not isinstance(shape, dict) or not isinstance(pieces, dict) or not pieces:
        raise ValueError("a large array lacks its shape or its pieces")
    flat = np.concatenate([pieces[str(i)] for i in range(len(pieces))])
    return flat.reshape(trees.sizes([shape[str(i)] for i in range(len(shape))]))
