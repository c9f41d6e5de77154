"""Collectives of a compiled program: what its devices say to each other, by kind and bytes, from its HLO text."""

import math
import re
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_COLLECTIVE = re.compile(rf" = (.*?) ({'|'.join(KINDS)})(?:-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_GROUPS = re.compile(r"replica_groups=(?:\{\{([\d,]*)\}|\[\d+,(\d+)\])")
_BITS = {"pred": 8, "bf16": 16}


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

    Example:
      >>> listed("  %all-reduce.1 = f32[4,2]{1,0} all-reduce(%x), replica_groups={{0,1}}")
      [Collective(kind='all-reduce', bytes=32, group=2)]
    """
    found = []
    for line in hlo.splitlines():
        if match := _COLLECTIVE.search(line):
            shapes, kind = match.groups()
            groups = _GROUPS.search(line)
            group = 0 if groups is None else len(groups[1].split(",")) if groups[1] is not None else int(groups[2])
            arrays = _ARRAY.findall(shapes)
            if f"{kind}-start(" in line and kind != "all-reduce":  # operands, then results
                arrays = arrays[len(arrays) // 2 :]
            size = sum(_bits(dtype) // 8 * math.prod(int(d) for d in dims.split(",") if d) for dtype, dims in arrays)
            found.append(Collective(kind, size * (group if kind == "reduce-scatter" else 1), group))
    return found


def _bits(dtype):
    return _BITS.get(dtype) or int(re.search(r"\d+", dtype)[0])
