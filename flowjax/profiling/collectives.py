"""Collectives of a compiled program: what its devices exchange, by kind and bytes, read from its HLO text."""

import math
import re
from typing import NamedTuple

KINDS = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute", "collective-broadcast"
)  # fmt: skip
_COLLECTIVE = re.compile(rf" = (.*?) ({'|'.join(KINDS)})(-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z\d]*)\[([\d,]*)\]")
_GROUPS = re.compile(r"replica_groups=(?:\{\{([\d,]*)\}|\[\d+,(\d+)\])")
_DEVICES = re.compile(r"num_partitions=(\d+)")


class Collective(NamedTuple):
    """One instruction.

    Attributes:
      kind: one of KINDS.
      bytes: of the whole array (or arrays) that is gathered or reduced, as one device sees it.
      group: how many devices take part.
    """

    kind: str
    bytes: int
    group: int


def listed(hlo):
    """The collectives of a program in the order of its text, once each, also those in loops.

    Args:
      hlo: optimised HLO text of a compiled program, `jitted.lower(...).compile().as_text()`.

    Raises:
      ValueError: for an array of a dtype that it cannot read.

    Example:
      >>> listed("  %all-reduce.1 = f32[4,2]{1,0} all-reduce(%x), replica_groups={{0,1}}")
      [Collective(kind='all-reduce', bytes=32, group=2)]
    """
    devices = _DEVICES.search(hlo)
    collectives = []
    for line in hlo.splitlines():
        if match := _COLLECTIVE.search(line):
            shapes, kind, starts = match.groups()
            groups = _GROUPS.search(line)
            if groups is None:  # replica_groups={} means all
                group = int(devices[1]) if devices else 1
            else:
                group = len(groups[1].split(",")) if groups[1] is not None else int(groups[2])
            arrays = [_bytes(*array) for array in _ARRAY.findall(shapes)]
            if starts and kind == "collective-permute":  # operand, result and two counters
                arrays = arrays[1:2]
            elif starts and kind != "all-reduce":  # operands, then results
                arrays = arrays[len(arrays) // 2 :]
            collectives.append(Collective(kind, sum(arrays) * (group if kind == "reduce-scatter" else 1), group))
    return collectives


def _bytes(dtype, dimensions):
    bits = re.match(r"[a-z]+(\d+)", {"pred": "u8"}.get(dtype, dtype))
    if bits is None:
        raise ValueError(f"a collective of arrays of dtype {dtype!r} cannot be read")
    return -(-int(bits[1]) * math.prod(int(d) for d in dimensions.split(",") if d) // 8)
