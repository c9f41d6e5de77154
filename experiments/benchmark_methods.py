"""What a training step of every method costs: python -m experiments.benchmark_methods

Each method trains one small DiT, those for categories one for sequences of tokens, those of transitions one whose last block is
the head, in four ways: with every term on every row (if the recipe has constants for that) and with the rows split as in the
recipe, each with and without recomputing the blocks (remat). Measured are matmul FLOPs in forward passes (FPE), beside the
estimates, temporary memory, seconds to compile, and wall time over that of a forward pass, in turns. A method whose steps differ, because networks or terms rest in some of them, has a row for the mean step and one for
each kind of step. Writes method_costs.csv and .md below --output after each method, and .png at the end. Rows of other methods
in these files stay, and `--resume` continues a killed run. Half an hour on two CPU cores. docs/method_costs.csv, a table of
the documentation, was written by the first command; the last measures a method of one's own:

    python -m experiments.benchmark_methods --output=docs
    python -m experiments.benchmark_methods --output=docs --apart  # forward passes of methods that match distributions, posteriors, ...
    python -m experiments.benchmark_methods --output=docs/gpu      # on a GPU
    python -m experiments.benchmark_methods --modules=experiments.three_players --methods=three_players
"""

import csv
import datetime
import functools
import math
import platform

import jax
import tqdm
from absl import flags

from experiments import command_line, tables
from flowjax import checks, methods, plots, typing
from flowjax.profiling import flops, timing
from flowjax.training import parts, step_cost

OUTPUT = flags.DEFINE_string("output", "runs/benchmark_methods", "folder of the results")
METHODS = flags.DEFINE_list("methods", list(methods.with_categories()), "which methods")
MODULES = flags.DEFINE_list("modules", [], "modules that register methods of one's own, imported first")
RESUME = flags.DEFINE_bool("resume", False, "measure only the methods without rows in --output")
ROUNDS = flags.DEFINE_integer("rounds", 8, "how often each program is timed", lower_bound=1, upper_bound=10_000)
BATCH = flags.DEFINE_integer("batch", 16, "rows, a multiple of 16, which every recipe can split", 16, 2**20)
APART = flags.DEFINE_bool(
    "apart",
    False,
    "count the passes of methods that match distributions, the student's step and the others', and of those in EXTENDED; stop",
)
VARIANTS = [(every_row, remat) for every_row in (True, False) for remat in (False, True)]


def measure(name, bar):
    """The rows of a method: every term on every row or split, without and with remat."""
    programs = {"forward": forward_pass(step_cost.of_tokens(name))}
    for every_row, remat in VARIANTS:
        if every_row and not methods.info(name).every_row:
            continue
        bar.set_postfix_str(f"{name}, {'every row' if every_row else 'as split'}{', remat' if remat else ''}")
        how = {"every_row": every_row, "remat": remat, "batch": BATCH.value}
        step, init = step_cost.training_step(name, **how)
        args = jax.jit(init)()
        for phase in step_cost.cycle(name, every_row).distinct():
            counted = None
            if jax.default_backend() != "cpu":  # matmuls are counted on a CPU, and this step is bound to the accelerator's mesh
                counted = step_cost.costs(name, **how).phases[phase] * programs["forward"].flops
            program = timing.compiled(functools.partial(step, phase=phase), *args, counted=counted)
            programs[every_row, remat, phase] = program
    seconds = timing.in_turns(programs, ROUNDS.value)
    # A recipe that splits no rows has the same program for both.
    return [
        row
        for every_row, remat in VARIANTS
        if not every_row or methods.info(name).every_row or whole(name)
        for row in _rows(name, every_row, remat, every_row and bool(methods.info(name).every_row), programs, seconds)
    ]


def whole(name):
    """Whether a recipe has every term on every row."""
    terms = methods.outline(name, total_steps=1_000).terms
    return all(hi - lo == n for lo, hi, n in (term.columns for term in terms))


def _rows(name, every_row, remat, measured, programs, seconds):
    """The row of the mean step of a variant, and one for each phase if there are several."""
    cycle = step_cost.cycle(name, measured)
    steps, length = cycle.distinct(), len(cycle.phases)
    of = {phase: (programs[measured, remat, phase], seconds[measured, remat, phase]) for phase in steps}
    mean = _row(
        name,
        every_row,
        remat,
        "each" if len(steps) == 1 else f"mean of {length}",
        timing.Program(
            call=None,
            flops=cycle.mean({phase: program.flops for phase, (program, _) in of.items()}),
            temp_bytes=max(program.temp_bytes for program, _ in of.values()),
            compile_s=sum(program.compile_s for program, _ in of.values()),
        ),
        programs["forward"],
        cycle.mean({phase: wall for phase, (_, wall) in of.items()}) / seconds["forward"],
    )
    if len(steps) == 1:
        return [mean]
    label = lambda phase: f"{steps[phase]} of {length}: {phase.described()}"
    return [mean] + [
        _row(name, every_row, remat, label(phase), program, programs["forward"], wall / seconds["forward"])
        for phase, (program, wall) in of.items()
    ]


@functools.cache
def forward_pass(tokens):
    function, init = step_cost.forward_pass(BATCH.value, tokens=tokens)
    return timing.compiled(function, *jax.jit(init)())


def _row(name, every_row, remat, step, program, forward, ratios):
    """One row: `step` says which steps it is about, `ratios` [rounds] are their wall times over that of a forward pass."""
    info, wall = methods.info(name), timing.ratio(ratios, 1.0)
    derived = info.derived_fpe + info.rho * step_cost.rho()
    return {
        "method": name,
        "rows": "every row" if every_row else "as split",
        "remat": "yes" if remat else "no",
        "step": step,
        "source": "" if info.source_fpe is None else str(info.source_fpe),
        "derived": "" if math.isnan(derived) else f"{derived:.2f}",
        "FPE": f"{program.flops / forward.flops:.2f}",
        "temp MiB": f"{program.temp_bytes / 2**20:.1f}",
        "compile s": f"{program.compile_s:.1f}",
        "wall over forward": f"{wall.median:.2f}",
        "lower quartile": f"{wall.low:.2f}",
        "upper quartile": f"{wall.high:.2f}",
        **setting(),
    }


def setting():
    """The columns that are equal in all rows of a table."""
    return {"batch": str(BATCH.value), "device": jax.devices()[0].device_kind, "jax": jax.__version__}


def known_rows(path):
    """{method: rows} of the table at `path`; raises InputError if it was measured with other settings."""
    if not path.exists():
        return {}
    known, expected = {}, setting()
    for row in csv.DictReader(path.read_text().splitlines()):
        written = {key: row.get(key) for key in expected}
        if written != expected:
            raise typing.InputError(
                f"{path} was measured with {written} and this run has {expected}; a table holds one setting: give"
                " another --output, or remove the file."
            )
        known.setdefault(row["method"], []).append(row)
    return known


def count_apart(path):
    """Writes distributional_costs.csv and extended_costs.csv: forward passes, as counted in the compiled programs; nothing is timed."""
    rows = []
    for name, info in methods.DISTRIBUTIONAL.items():
        student, others, mean = (f"{cost:.2f}" for cost in step_cost.apart(name, batch=BATCH.value))
        rows.append(
            {
                "method": name,
                "derived": f"{info.derived_fpe:g}",
                "mean": mean,
                "student": student,
                "others": others,
                **setting(),
            }
        )
    tables.write_csv(path / "distributional_costs.csv", rows)
    print(tables.markdown(rows))
    counts = {name: step_cost.forward_passes(name, batch=BATCH.value) for name in methods.EXTENDED}
    rows = [{"method": name, "counted": f"{count:.2f}", **setting()} for name, count in counts.items()]
    tables.write_csv(path / "extended_costs.csv", rows)
    print(tables.markdown(rows))


def draw(path, rows):
    panels = {}
    for row in rows:
        if not row["step"].startswith(("each", "mean")):  # the steps of a cycle one by one are in the table
            continue
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
    parts.import_modules(MODULES.value, "--modules")
    for name in METHODS.value:
        checks.member("method (--modules=my_method registers one)", name, methods.with_costs())
    if not METHODS.value:
        raise typing.InputError("--methods= names no method; leave it out for all.")
    if BATCH.value % 16:
        raise typing.InputError(f"--batch={BATCH.value}: expected a multiple of 16, which every recipe can split.")
    path = command_line.output_folder(OUTPUT)
    flops.host()
    if APART.value:
        return count_apart(path)
    costs = known_rows(path / "method_costs.csv")
    about = (
        f"One training step over one forward pass of a DiT of depth {step_cost.NETWORK['depth']} and width"
        f" {step_cost.NETWORK['width']}, 64 tokens, float32; of methods for categories, of a SequenceDiT of that size, rows"
        f" {step_cost.TOKENS}. {datetime.date.today()}, {jax.default_backend()} ({platform.machine()}):"
        f" `{command_line.typed('benchmark_methods')}`."
    )
    bar = tqdm.tqdm([name for name in METHODS.value if not (RESUME.value and name in costs)], unit="method")
    for name in bar:
        costs[name] = measure(name, bar)
        tables.write(path / "method_costs", in_order(costs), about)
    draw(path / "method_costs.png", in_order(costs))
    print("\n" + tables.markdown(in_order(costs)))
    print("\n".join(str(path / f"method_costs.{ending}") for ending in ("csv", "md", "png")))


def in_order(costs):
    return [row for name in methods.with_costs() for row in costs.get(name, [])]


if __name__ == "__main__":
    command_line.run(main)
