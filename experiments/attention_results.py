"""The table of experiments.benchmark_attention, and the choice of `auto` that follows from it."""

import json
import math
import re

from experiments import tables
from flowjax import folders, typing

COMPILED = "TPU compiler, nothing ran"


def row(device, how, arrays, tokens, kind, name, *, ms="", temp="", error="", moved="", operations=""):
    """One row of the table; "" is unknown. The first six columns tell it from others."""
    return {
        "device": device, "how": how, "arrays": arrays, "tokens": tokens, "attention": kind, "operation": name, "ms": ms,
        "temp MiB": temp, "error against float64": error, "GB moved": moved, "GFLOP": operations,
    }  # fmt: skip


def out_of_memory(error):
    """What the compiler says of a program that needs more HBM than the chip has; any other error is raised."""
    used = re.search(r"([\d.]+)G(?:\) exceeds available HBM \(| of )([\d.]+)G", str(error))
    if "memory space vmem" in str(error) or "memory" not in str(error).lower():
        raise error
    return f"out of memory: {used[1]} of {used[2]} GiB" if used else "out of memory"


def check_sizes(tokens, head_dims, width):
    """Refuses what no transformer on the patches of a square image has: tokens that are no square, heads that miss the width."""
    for count in tokens:
        if math.isqrt(count) ** 2 != count:
            raise typing.InputError(f"--tokens: {count}; with --step expected a square number of patches, as 4096.")
    for head_dim in head_dims:
        if width % head_dim:
            raise typing.InputError(f"--head_dims: {head_dim}; with --step expected a divisor of the width, {width}, as 64.")


def choice(rows):
    """Platform -> entry of the table of `auto`; see the docstring of experiments.benchmark_attention."""
    both = [r for r in rows if r["operation"] in ("jvp", "gradient of the jvp")]
    made = {}
    fits = [r for r in both if r["how"] == COMPILED and not isinstance(r["temp MiB"], str)]
    if fits:
        basis = "the least temporary memory of jvp and gradient of the jvp, by the compiler for {}; never timed"
        made["tpu"] = entry(fits, "temp MiB", basis)
    timed = {}
    for r in both:
        if r["ms"] != "":
            timed.setdefault(platform_of(r["device"]), []).append(r)
    for name, times in timed.items():
        made[name] = entry(times, "ms", "the fastest jvp and gradient of the jvp, measured on {}")
    return made


def platform_of(device):
    """Of a device's kind, as JAX names platforms."""
    return next((name for name in ("cpu", "tpu") if device.lower().startswith(name)), "gpu")


def entry(rows, what, basis):
    """Of the table of `auto`: on what it rests, and the thresholds."""
    rows = most_compared(rows)
    return {"basis": f"{basis.format(rows[0]['device'])} ({rows[0]['arrays']})", "choice": thresholds(rows, what)}


def most_compared(rows):
    """The rows of the device and arrays with the most implementations; of equals, the first."""
    groups = {}
    for r in rows:
        groups.setdefault((r["device"], r["arrays"]), []).append(r)
    return max(groups.values(), key=lambda group: len({r["attention"] for r in group}))


def thresholds(rows, what):
    """[(keys up to, implementation)], the last without a limit: the least sum of `what` of both operations at a token count.

    Below the fewest tokens of the rows it is `chunked`.
    """
    best = {}
    for tokens in sorted({r["tokens"] for r in rows}):
        values = {}
        for r in rows:
            if r["tokens"] == tokens:
                values.setdefault(r["attention"], []).append(r[what])
        order = ("xla", "chunked", "pallas")  # of those that are equal
        best[tokens] = min((sum(z), order.index(kind), kind) for kind, z in values.items() if len(z) == 2)[2]
    table = [[min(best) - 1, "chunked"], *([tokens, kind] for tokens, kind in best.items())]
    merged = [line for line, after in zip(table, [*table[1:], [None, ""]]) if line[1] != after[1]]
    return [*merged[:-1], [None, merged[-1][1]]]


class Results:
    """The table in files, written after each size, so that a run that is stopped leaves some; with `add`, old rows stay."""

    def __init__(self, path, about, key, add=False):
        self.path, self.key = path, key
        old = json.loads(path.with_suffix(".json").read_text()) if add and path.with_suffix(".json").exists() else {}
        self.about, self.rows = list(dict.fromkeys([*old.get("about", []), about])), old.get("rows", [])

    def add(self, rows):
        """Adds rows, or puts them in the place of those with the same first columns, up to and with `key`."""
        names = list(rows[0])
        names = names[: names.index(self.key) + 1]
        table = {tuple(r[n] for n in names): r for r in [*self.rows, *rows]}
        self.rows = list(table.values())
        tables.write(self.path, self.rows, "\n\n".join(self.about))
        folders.write_text(
            self.path.with_suffix(".json"), json.dumps({"about": self.about, "rows": self.rows}, indent=1) + "\n"
        )
