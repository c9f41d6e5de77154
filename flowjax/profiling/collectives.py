"""Collectives of a compiled program: what its devices exchange, by kind and bytes, read from its HLO text."""

import re
from typing import NamedTuple

import numpy as np

from flowjax.profiling import hlo

KINDS = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute", "collective-broadcast"
)  # fmt: skip
_COLLECTIVE = re.compile(rf" = (.*?) ({'|'.join(KINDS)})(-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z\d]*)\[([\d,]*)\]")
_GROUPS = re.compile(r"replica_groups=(?:\{\{([\d,]*)\}|\[\d+,(\d+)\])")
_PART = re.compile(r'chain_id="(\d+)"')
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


def listed(text):
    """The collectives of a program in the order of its text, once each, also those in loops.

    Args:
      text: optimised HLO text of a compiled program, `jitted.lower(...).compile().as_text()`.

    Raises:
      ValueError: for an array of a dtype that it cannot read.

    Example:
      >>> listed("  %all-reduce.1 = f32[4,2]{1,0} all-reduce(%x), replica_groups={{0,1}}")
      [Collective(kind='all-reduce', bytes=32, group=2)]
    """
    read = _reader(text)
    return [collective for line in text.splitlines() if (collective := read(line))]


def totals(text):
    """{kind: (how many run in a call of the program, bytes of all of them)}; those in loops as often as these run.

    The bytes are those of `Collective`. Arguments and errors as of `listed`, and ValueError for a loop of unknown length.
    """
    read = _reader(text)

    def of_line(line, computation):
        one = read(line)
        return 0 if one is None else np.outer([kind == one.kind for kind in KINDS], [1, one.bytes])

    sums = hlo.Program(text).total(of_line) + np.zeros((len(KINDS), 2), int)
    return {kind: (int(times), int(size)) for kind, (times, size) in zip(KINDS, sums) if times}


def beside(text):
    """{kind: how many of a program's collectives run beside other work}: they start in one instruction and end in another, or in parts.

    Arguments and errors as of `totals`.
    """
    read = _reader(text)

    def of_line(line, computation):
        one = read(line)
        apart = one is not None and (f"{one.kind}-start(" in line or _PART.search(line) is not None)
        return np.array([apart and kind == one.kind for kind in KINDS], int) if apart else 0

    sums = hlo.Program(text).total(of_line) + np.zeros(len(KINDS), int)
    return {kind: int(times) for kind, times in zip(KINDS, sums) if times}


def _reader(text):
    """`line -> Collective or None`, None for the later parts of one that a TPU runs in parts beside other work."""
    match, seen = _DEVICES.search(text), set()
    devices = int(match[1]) if match else 1

    def read(line):
        match = _COLLECTIVE.search(line)
        if match is None:
            return None
        if part := _PART.search(line):
            if part[1] in seen:
                return None
            seen.add(part[1])
        groups = _GROUPS.search(line)
        if groups is None:  # replica_groups={} means all
            group = devices
        else:
            group = len(groups[1].split(",")) if groups[1] is not None else int(groups[2])
        return _collective(*match.groups(), group)

    return read


def _collective(shapes, kind, starts, group):
    arrays = [_bytes(*array) for array in _ARRAY.findall(shapes)]
    if starts and kind == "collective-permute":  # operand, result and two counters
        arrays = arrays[1:2]
    elif starts and kind != "all-reduce":  # operands, then results
        arrays = arrays[len(arrays) // 2 :]
    return Collective(kind, sum(arrays) * (group if kind == "reduce-scatter" else 1), group)


def _bytes(dtype, dimensions):
    size = hlo.array_bytes(dtype, dimensions)
    if size is None:
        raise ValueError(f"a collective of arrays of dtype {dtype!r} cannot be read")
    return size
