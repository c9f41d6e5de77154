"""The text of a compiled program: its computations, and how often each of their instructions runs."""

import math
import re

import numpy as np

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+ = ")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


class Program:
    """A program by its optimised HLO text, `jitted.lower(...).compile().as_text()`.

    Attributes:
      computations: {name: lines of its instructions}.
      entry: name of the computation that runs.
    """

    def __init__(self, text):
        self.computations, self.entry, lines = {}, None, None
        for line in text.splitlines():
            header = _COMPUTATION.match(line)
            if header and not line.startswith(" "):
                lines = self.computations.setdefault(header[1], [])
                self.entry = header[1] if line.startswith("ENTRY") else self.entry
            elif lines is not None and _INSTRUCTION.match(line):
                lines.append(line)

    def total(self, of_line):
        """The sum of `of_line(line, name of the computation)`, numbers or arrays, over all instructions as often as they run.

        Of the branches of a conditional, the one with the most counts.

        Raises:
          ValueError: for a loop with something that counts and an unknown number of trips.
        """
        totals = {}

        def total(name):
            if name not in totals:
                totals[name] = sum(of_line(line, name) + self._called(line, total) for line in self.computations[name])
            return totals[name]

        return total(self.entry)

    def _called(self, line, total):
        """What the computations count that an instruction runs."""
        if " while(" not in line:
            return _of_branches(line, total)
        trips, counted = self._trips(line), total(re.search(r"body=%?([\w.\-]+)", line)[1])
        if np.any(counted) and trips is None:
            raise ValueError(f"a loop that counts, with an unknown trip count: {line.strip()[:200]}")
        return counted * trips if trips else 0

    def _trips(self, line):
        """How often a loop runs; programs for TPUs tell it by the condition `number < constant` alone. None: not known."""
        if known := _TRIPS.search(line):
            return int(known[1])
        condition = "\n".join(self.computations[re.search(r"condition=%?([\w.\-]+)", line)[1]])
        bounds = re.findall(r" [su]32\[\]\S* constant\((\d+)\)", condition)
        return int(bounds[0]) if len(bounds) == 1 and re.search(r"ROOT .* compare\(.*direction=LT", condition) else None


def _of_branches(line, total):
    """What the computations count that an instruction other than a loop runs."""
    called = re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", line)
    branches = re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", line)
    for several in re.findall(r"branch_computations=\{([^}]*)\}", line):
        branches += [name.strip().lstrip("%") for name in several.split(",")]
    return sum(total(name) for name in called) + max((total(name) for name in branches), key=np.sum, default=0)


def array_bytes(dtype, dimensions):
    """Bytes of an array, without padding, from the two parts of its type in a text, "f32" and "4,2"; None for a dtype without a size."""
    bits = re.match(r"[a-z]+(\d+)", {"pred": "u8"}.get(dtype, dtype))
    return None if bits is None else -(-int(bits[1]) * math.prod(int(size) for size in dimensions.split(",") if size) // 8)
