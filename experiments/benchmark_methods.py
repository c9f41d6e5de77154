"""What a training step of every method costs: python -m experiments.benchmark_methods

On one small DiT, for every method, with every term on every row and with the rows split as the recipe does, each with and without
recomputing the blocks (remat): matmul FLOPs in forward passes (FPE), beside the estimates; temporary memory, seconds to
compile, and wall time over that of a forward pass, measured in turns. Writes method_costs.csv, .md and .png below
--output after each method, so that a killed run loses one; `--resume` goes on. NN minutes on two CPU cores. docs/method_costs.csv is this script's and
is shown in the README:

    python -m experiments.benchmark_methods --output=docs
    python -m experiments.benchmark_methods --output=docs/gpu      # on a GPU
"""

import csv
import datetime
import pathlib
import platform

import jax
import tqdm
from absl import flags

from experiments import command_line, tables
from flowjax import benchmark, checks, methods, plots, typing
from flowjax.training import cost

OUTPUT = flags.DEFINE_string("output", "runs/benchmark_methods", "folder of the results")
METHODS = flags.DEFINE_list("methods", list(methods.METHODS), "which methods")
RESUME = flags.DEFINE_bool("resume", False, "keep the rows that --output already has, and measure the others")
ROUNDS = flags.DEFINE_integer("rounds", 8, "how often each program is timed", lower_bound=1)
BATCH = flags.DEFINE_integer("batch", 16, "rows, a multiple of 16, which every recipe can split", lower_bound=16)
VARIANTS = [(every_row, remat) for every_row in (True, False) for remat in (False, True)]


def measure(name, bar):
    """Four rows: every term on every row or split, without and with remat."""
    function, init = cost.forward_pass(BATCH.value)
    programs = {"forward": benchmark.compiled(function, *jax.jit(init)())}
    for variant in VARIANTS:
        every_row, remat = variant
        if every_row and not methods.METHODS[name].every_row:
            continue
        bar.set_postfix_str(f"{name}, {'every row' if every_row else 'as split'}{', remat' if remat else ''}")
        step, init = cost.training_step(name, every_row=every_row, remat=remat, batch=BATCH.value)
        counted = None
        if jax.default_backend() != "cpu":
            counted = cost.forward_passes(name, every_row=every_row, remat=remat, batch=BATCH.value) * programs["forward"].flops
        programs[variant] = benchmark.compiled(step, *jax.jit(init)(), counted=counted)
    seconds = benchmark.in_turns(programs, ROUNDS.value)
    # A recipe that splits no rows is one program both ways.
    return [
        _row(name, variant, variant if variant in programs else (False, variant[1]), programs, seconds) for variant in VARIANTS
    ]


def _row(name, variant, measured, programs, seconds):
    info, (every_row, remat), program = methods.METHODS[name], variant, programs[measured]
    wall = benchmark.ratio(seconds[measured], seconds["forward"])
    return {
        "method": name,
        "rows": "every row" if every_row else "as split",
        "remat": "yes" if remat else "no",
        "source": "" if info.source_fpe is None else str(info.source_fpe),
        "derived": f"{info.derived_fpe + info.rho * cost.rho():.2f}",
        "FPE": f"{program.flops / programs['forward'].flops:.2f}",
        "temp MiB": f"{program.temp_bytes / 2**20:.1f}",
        "compile s": f"{program.compile_s:.1f}",
        "wall over forward": f"{wall.median:.2f}",
        "lower quartile": f"{wall.low:.2f}",
        "upper quartile": f"{wall.high:.2f}",
    }


def draw(path, rows):
    panels = {}
    for row in rows:
        panel = panels.setdefault(
            f"every term on {row['rows']}" if row["rows"] == "every row" else "rows split as the recipe does", {}
        )
        note = f"{row['wall over forward']}, {float(row['temp MiB']):.0f} MiB"
        lengths = (float(row[key]) for key in ("lower quartile", "wall over forward", "upper quartile"))
        series = "remat" if row["remat"] == "yes" else "no remat"
        panel.setdefault(series, {})[row["method"]] = plots.Bar(*lengths, float(row["FPE"]), note)
    title = "What a training step costs: time in forward passes, quartiles, and temporary memory"
    plots.grouped_bars(path, panels, xlabel="forward passes", mark="matmul FLOPs", title=title)


def main():
    path = pathlib.Path(OUTPUT.value)
    for name in METHODS.value:
        checks.member("method", name, methods.METHODS)
    if not METHODS.value or BATCH.value % 16:
        raise typing.InputError(
            f"--methods={','.join(METHODS.value)} --batch={BATCH.value}: expected a method and a multiple of 16."
        )
    kept = {}
    if RESUME.value and (path / "method_costs.csv").exists():
        for row in csv.DictReader((path / "method_costs.csv").read_text().splitlines()):
            kept.setdefault(row["method"], []).append(row)
    about = (
        f"One training step over one forward pass of a DiT of depth {cost.NETWORK['depth']} and width {cost.NETWORK['width']}, 64 tokens,"
        f" batch {BATCH.value}, float32. {datetime.date.today()}, {jax.devices()[0].device_kind} ({jax.default_backend()},"
        f" {platform.machine()}), jax {jax.__version__}: `python -m experiments.benchmark_methods`."
    )
    bar = tqdm.tqdm(METHODS.value, unit="method")
    for name in bar:
        if name not in kept:
            kept[name] = measure(name, bar)
        rows = [row for known in methods.METHODS for row in kept.get(known, [])]
        tables.write(path / "method_costs", rows, about)
    draw(path / "method_costs.png", rows)
    print("\n" + (path / "method_costs.md").read_text())
    print("\n".join(str(path / f"method_costs.{ending}") for ending in ("csv", "md", "png")))


if __name__ == "__main__":
    command_line.run(main)
