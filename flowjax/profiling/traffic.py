"""Bytes that a compiled program reads from a device's memory and writes to it, read from its HLO text."""

import math
import re

from flowjax.profiling import hlo

_INSTRUCTION = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([a-z][a-z\-]*)\((.*?)\)(?:, |$)")
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z\d]*)\[([\d,]*)\](?:\{([^}]*)\})?")
_OPERAND = re.compile(r"%([\w.\-]+)")
_KERNEL = re.compile(r'"cost_estimate":\{"flops":"(\d+)","transcendentals":"\d+","bytes_accessed":"(\d+)"')
# Move nothing themselves: names for what is there, and what runs other computations, whose instructions count.
_FREE = {
    "parameter", "constant", "bitcast", "get-tuple-element", "tuple", "while", "conditional", "call", "after-all", "iota",
    "opt-barrier", "partition-id", "replica-id", "copy-done", "async-done", "all-gather-done", "all-reduce-done",
    "collective-permute-done", "send-done", "recv-done",
}  # fmt: skip


def total(text):
    """Bytes that a call of a program moves between a device's large memory and its cores.

    Each instruction outside of fusions counts the arrays that it reads and writes there; loops count as often as they run. Of an array of
    which a fusion reads or changes a slice, the slice counts. What lies in a core's memory (TPUs: `S(1)` in the layout) does not
    count. Kernels of Pallas count what they declare. Padding in memory is left out.

    Args:
      text: optimised HLO text, `jitted.lower(...).compile().as_text()`.

    Raises:
      ValueError: for a loop of unknown length.
    """
    program = hlo.Program(text)
    read = {name: [one for line in lines if (one := _parsed(line))] for name, lines in program.computations.items()}
    shapes = {name: {one["name"]: one["shape"] for one in body} for name, body in read.items()}
    by_line, fused = {name: {one["line"]: one for one in body} for name, body in read.items()}, _fused(program)

    def of_line(line, computation):
        one = None if computation in fused else by_line[computation].get(line)
        return 0 if one is None or one["kind"] in _FREE else _moved(one, shapes[computation], read)

    return int(program.total(of_line))


def kernels(text):
    """FLOPs that the kernels of Pallas in a program for TPUs declare, of which the compiler estimates no cycles."""
    return int(hlo.Program(text).total(lambda line, computation: int(declared[1]) if (declared := _KERNEL.search(line)) else 0))


def _parsed(line):
    match = _INSTRUCTION.match(line)
    if match is None:
        return None
    root, name, shape, kind, operands = match.groups()
    called = re.search(r"calls=%?([\w.\-]+)", line) if kind == "fusion" else None
    return {
        "name": name, "shape": shape, "kind": kind, "operands": _OPERAND.findall(operands), "root": bool(root), "line": line,
        "called": called and called[1],
    }  # fmt: skip


def _fused(program):
    """Names of the computations that run inside of one instruction: of fusions, and of reductions and sorts."""
    lines = (line for lines in program.computations.values() for line in lines)
    return {name for line in lines if " while(" not in line for name in re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", line)}


def _moved(one, shapes, read):
    """Bytes of one instruction."""
    if declared := _KERNEL.search(one["line"]):
        return int(declared[2])
    if one["kind"] == "custom-call" and "AllocateBuffer" in one["line"]:
        return 0
    outside = [shapes.get(operand, "") for operand in one["operands"]]
    if one["kind"].endswith("-start"):  # a tuple of operands and results
        return _bytes(one["shape"])
    if one["kind"] in ("dynamic-slice", "slice", "gather"):
        return 2 * _bytes(one["shape"]) if outside and _bytes(outside[0]) else _bytes(one["shape"])
    if one["kind"] in ("dynamic-update-slice", "scatter"):
        return 2 * _bytes(outside[-1 if one["kind"] == "scatter" else 1])
    if one["kind"] != "fusion":
        return _bytes(one["shape"]) + sum(map(_bytes, outside))
    return _of_fusion(one, outside, read)


def _of_fusion(one, outside, read):
    """Bytes of a fusion: of arrays of which its body takes or changes a slice, the slice."""
    called, results = one["called"], [_bytes(array) for array in _arrays(one["shape"])]
    root = next(inner for inner in read[called] if inner["root"])
    parts = root["operands"] if root["kind"] == "tuple" else [root["name"]]
    written = [_changed(called, name, read) for name in parts] if len(parts) == len(results) else results
    total = sum(min(whole, part) for whole, part in zip(results, written))
    return total + sum(
        min(whole, _taken(called, number, read)) for number, array in enumerate(outside) if (whole := _bytes(array))
    )


def _changed(computation, name, read):
    """Bytes that are written of an array which a fusion returns: of one that it changes, those of the change."""
    by_name = {inner["name"]: inner for inner in read[computation]}
    while name in by_name and by_name[name]["kind"] in ("bitcast", "copy"):
        name = by_name[name]["operands"][0]
    maker = by_name.get(name)
    if maker is None:
        return math.inf
    if maker["kind"] == "dynamic-update-slice":
        return _size(by_name[maker["operands"][1]]["shape"]) if maker["operands"][1] in by_name else math.inf
    if maker["kind"] == "fusion":
        root = next(inner for inner in read[maker["called"]] if inner["root"])
        return _changed(maker["called"], root["name"], read)
    return math.inf


def _taken(computation, number, read):
    """Bytes that a fusion's computation takes of a parameter: of slices if nothing else reads it, none if it only changes a slice."""
    body = read[computation]
    mine = re.compile(rf" parameter\({number}\)")
    names = {inner["name"] for inner in body if inner["kind"] == "parameter" and mine.search(inner["line"])}
    taken = 0
    for inner in body:
        for place, operand in enumerate(inner["operands"]):
            if operand not in names:
                continue
            if inner["kind"] == "bitcast":
                names.add(inner["name"])  # bodies name what they use before they use it
            elif inner["kind"] in ("dynamic-slice", "slice", "gather") and place == 0:
                taken += _size(inner["shape"])
            elif inner["kind"] == "fusion":
                taken += _taken(inner["called"], place, read)
            elif inner["kind"] != "dynamic-update-slice" or place:
                return math.inf
    return taken


def _bytes(shape):
    """Bytes of the arrays of a shape that lie in the device's large memory."""
    return sum(hlo.array_bytes(*array) or 0 for *array, layout in _ARRAY.findall(shape) if "S(" not in layout)


def _size(shape):
    """Bytes of the arrays of a shape, wherever they lie."""
    return sum(hlo.array_bytes(*array) or 0 for *array, _ in _ARRAY.findall(shape))


def _arrays(shape):
    """The arrays of a shape, as texts."""
    return [match[0] for match in _ARRAY.finditer(shape)]
