"""Published runs, what they need, and what was run here: python -m experiments.results

Writes docs/results.md from the tables of configs/imagenet256.py and configs/cifar10.py and from docs/results.csv, which has the counts.
--recount=all counts parameters and FLOPs of a step anew, from shapes alone (some ten seconds a run), and writes them into docs/results.csv
first; --recount=imf counts the runs with these letters in their name. --chip and --utilisation change the estimate of the hours: print them
for your machine with --page= (nothing is written then). Beside docs/results.md it writes docs/pods_hours.csv, the hours on MACHINES.
"""

import csv
import math
import pathlib

from absl import flags

from configs import cifar10, imagenet256, published
from experiments import command_line, tables
from flowjax import folders, methods, typing

ROOT = pathlib.Path(__file__).parents[1]
COUNT = flags.DEFINE_string("recount", "", "runs to count anew, for docs/results.csv: all, or letters of FILE:RUN, such as imf")
CHIP = flags.DEFINE_string("chip", "", "of the device-hours, such as 'NVIDIA H200'; default: TPU v5p")
UTILISATION = flags.DEFINE_float("utilisation", 0.4, "share of the chip's peak, for device-hours", 0.0, 1.0)
PAGE = flags.DEFINE_string("page", "docs/results.md", "the page; empty: it is printed")
HOURS = "docs/pods_hours.csv"
FILES = {"imagenet256": imagenet256, "cifar10": cifar10}
# Of the table of hours: {name: (chip, how many)}.
MACHINES = {
    "256 v5e": ("TPU v5e", 256), "128 v5p": ("TPU v5p", 128), "256 v6e": ("TPU v6", 256), "8 H200": ("NVIDIA H200", 8),
}  # fmt: skip
PODS = (128, 256)  # numbers of devices with fewer rows than some methods have parts
# FIDs of runs that were made here, {(file, choice): {number of steps: FID}}.
OURS: dict[tuple[str, str], dict[int, float]] = {}


def runs():
    """(file, choice) of every published run."""
    return [
        *(("imagenet256", f"{method},{size}") for method in imagenet256.RUNS for size in imagenet256.sizes(method)),
        *(("cifar10", name) for name in cifar10.RUNS),
    ]


def counted(file, choice):
    """A row of docs/results.csv: parameters, FLOPs of a step, and of the busiest of PODS devices in means, traced."""
    from flowjax import training
    from flowjax.training import estimates

    config = FILES[file].get_config(choice)
    estimate = estimates.of_run(training.sketch(config))
    row = {"file": file, "run": choice, "parameters": estimate.parameters, "flops": f"{estimate.flops:.4g}"}
    for devices in PODS:
        shared = config.batch_size % devices == 0 and _whole(config) % devices
        row[f"longest_{devices}"] = f"{estimates.of_run(training.sketch(config, devices)).longest:.4g}" if shared else "1"
    return row


def _whole(config):
    """On how many devices at most each has all terms."""
    return config.batch_size // methods.rows_multiple(methods.outline(**config.method.to_dict()))


def count(which):
    """Counts the runs whose FILE:RUN contains `which`, "all" for all of them, and writes each into docs/results.csv."""
    path = ROOT / "docs" / "results.csv"
    rows = {(row["file"], row["run"]): row for row in (read() if path.exists() else ())}
    for file, choice in runs():
        if which == "all" or which in f"{file}:{choice}":
            rows[file, choice] = counted(file, choice)
            print(", ".join(str(value) for value in rows[file, choice].values()), flush=True)
            with open(path, "w", newline="") as opened:
                fields = ("file", "run", "parameters", "flops", *(f"longest_{devices}" for devices in PODS))
                writer = csv.DictWriter(opened, fields, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows[run] for run in runs() if run in rows)


def page(rows, chip="", utilisation=0.4):
    """The text of docs/results.md from the rows of docs/results.csv."""
    from flowjax.training import estimates, log

    chip = chip or estimates.CHIP
    counts = {(row["file"], row["run"]): row for row in rows}
    header = (
        "| run | published at 1, 2, more steps | ours | protocol | parameters, M (paper) | batch | steps | TFLOP a step | device-hours |"
        " source | remarks |"
    )
    lines = [
        "# Published runs",
        "",
        "Written by `python -m experiments.results` from the configs; counts from `docs/results.csv`. Device-hours are an estimate: traced"
        f" FLOPs of a step at {utilisation:.0%} of the {log.PEAK_TFLOPS[chip]:g} TFLOP/s of a {chip}"
        " (`--chip`, `--utilisation`), without teachers, evaluations and what a run starts from. FIDs of different protocols do not"
        " compare to the second digit. Differences from the authors' code that remain: `docs/deviations.md`.",
        "",
        header,
        "|" + " --- |" * (header.count("|") - 1),
    ]
    for file, choice in runs():
        lines.append(_row(file, choice, counts.get((file, choice)), chip, utilisation))
    used = {published.RESULTS[file][choice].protocol for file, choice in runs()}
    lines += ["", "Protocols:", ""]
    lines += [f"* {name or 'none'}: {words}." for name, words in published.PROTOCOLS.items() if name in used]
    return "\n".join(lines) + "\n"


def _row(file, choice, counts, chip, utilisation):
    from flowjax.training import estimates

    config, known = FILES[file].get_config(choice), published.RESULTS[file][choice]
    shown = lambda fids: ", ".join(f"{value:.2f} ({steps})" for steps, value in sorted(fids.items()))
    parameters, flops, hours = "not counted", "not counted", "not counted"
    if counts is not None:
        parameters, flops = f"{int(counts['parameters']) / 1e6:.1f}", f"{float(counts['flops']) / 1e12:,.0f}"
        estimate = estimates.device_hours(float(counts["flops"]), config.steps, chip=chip, utilisation=utilisation)
        hours = f"{estimate:,.0f}"
    parameters += f" ({known.parameters:g})" if known.parameters else ""
    arxiv = methods.info(config.method.name).arxiv
    cells = [
        f"`{file}.py:{choice}`", shown(known.fid) or "not seen", shown(OURS.get((file, choice), {})) or "not run here",
        known.protocol or "none", parameters, f"{config.batch_size:,}", f"{config.steps:,}", flops, hours,
        f"[{arxiv}](https://arxiv.org/abs/{arxiv}); {known.source}", known.note,
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def pods(rows, utilisation=0.4):
    """Rows of docs/pods_hours.csv: device-hours of each run on MACHINES, and the hours on as many of their devices as the batch has rows.

    Where devices share the terms, a step lasts as long as the costliest rows.
    """
    from flowjax.training import estimates

    table = []
    for row in rows:
        config, flops = FILES[row["file"]].get_config(row["run"]), float(row["flops"])
        shown = {
            "run": f"`{row['file']}.py:{row['run']}`",
            "batch": f"{config.batch_size:,}",
            "TFLOP a step": f"{flops / 1e12:,.0f}",
        }
        for machine, (chip, count) in MACHINES.items():
            used = math.gcd(count, config.batch_size)
            longest = float(row[f"longest_{used}"]) if used in PODS else 1.0
            hours = estimates.device_hours(flops, config.steps, chip=chip, utilisation=utilisation)
            shown[machine] = f"{hours:,.0f}: {hours * longest / used:,.1f} h" + (f" on {used}" if used < count else "")
        table.append(shown)
    return table


def read():
    """The rows of docs/results.csv."""
    return list(csv.DictReader((ROOT / "docs" / "results.csv").read_text().splitlines()))


def main():
    from flowjax.training import estimates

    # Refuses a chip or a share that the page cannot take.
    estimates.device_hours(1.0, 1, chip=CHIP.value or estimates.CHIP, utilisation=UTILISATION.value)
    if COUNT.value not in ("", "all") and not any(COUNT.value in f"{file}:{choice}" for file, choice in runs()):
        raise typing.InputError(
            f"--recount={COUNT.value}: no published run has it in its name; expected all, or letters such as imf."
        )
    folders.check_path(ROOT / PAGE.value, "--page")
    if COUNT.value:
        count(COUNT.value)
    text = page(read(), CHIP.value, UTILISATION.value)
    if not PAGE.value:
        print(text)
        return
    folders.write_text(ROOT / PAGE.value, text)
    print(PAGE.value)
    if PAGE.value == PAGE.default:
        tables.write_csv(ROOT / HOURS, pods(read(), UTILISATION.value))
        print(HOURS)


if __name__ == "__main__":
    command_line.run(main)
