"""Trains and measures every method with one budget and one network:

    python -m experiments.landscape --data=checkerboard --seeds=3 --workdir=runs/landscape

Trains flow matching first, the teacher of the methods that distil (psd is the teacher of pfmm, which needs a flow map). Then
trains every method with its preset, in a folder below the workdir, with the seeds side by side. Measures each against held-out
data at 1, 2, 4 and 8 steps. Writes landscape.csv, landscape.md, landscape.png (one-step samples of all methods) and
distance_against_cost.png. A method that fails is reported in its row. The same command continues a killed run. Wall times,
which differ from run to run, are in wall_time.csv.

Flow matching learns no jumps and is sampled with Euler's method. Methods that only learn jumps to the data are sampled with
jumps and new noise. Cells of jumps that a method does not learn are empty. On two CPU cores checkerboard with three seeds, all
methods and 3,000 steps took two hours beside other work.

`--table` prints a table of the methods and their costs instead, from flowjax.methods and docs/method_costs.csv, which
experiments.benchmark_methods writes.
"""

import csv
import datetime
import json
import os
import pathlib
import platform
import traceback
from typing import NamedTuple

import jax
import numpy as np
import tqdm
from absl import flags

from configs import common, method as configs_of
from experiments import command_line, tables
from flowjax import buckets, checks, data, evals, folders, losses, methods, opening, ownership, plots, typing
from flowjax.data import points
from flowjax.profiling import flops

WORKDIR = flags.DEFINE_string("workdir", "runs/landscape", "folder of the runs and of the tables")
DATA = flags.DEFINE_string("data", "checkerboard", "points (checkerboard, ...), digits, a TFDS dataset, or test to rehearse")
METHODS = flags.DEFINE_list("methods", list(methods.METHODS), "which methods")
STEPS = flags.DEFINE_integer("steps", 0, "steps of training; 0: the preset's", lower_bound=0, upper_bound=command_line.MOST)
SEEDS = flags.DEFINE_integer("seeds", 1, "seeds, trained side by side", lower_bound=1, upper_bound=2**16)
TABLE = flags.DEFINE_bool("table", False, "print the table of all methods and stop")
SAMPLING_STEPS = (1, 2, 4, 8)
EULER_STEPS = (1, 2, 4, 8, 64)
SOLVER_STEPS = 64  # Heun steps of a trajectory
COSTS = pathlib.Path(__file__).parents[1] / "docs" / "method_costs.csv"


# The methods that the README shows; the documentation shows all.
EXTRACT = (
    "flow_matching", "meanflow", "imf", "soflow", "alphaflow", "tvm", "lsd", "psd", "shortcut", "ayf_emd", "lmd", "rmf",
)  # fmt: skip


def extract():
    """The table of the README, as Markdown: some methods, five columns."""
    settings = {"D": "a teacher", "S": "itself", "M": "data"}
    counts, rows = counted(), []
    for name in EXTRACT:
        info = methods.METHODS[name]
        rows.append(
            {
                "method": f"`{name}`",
                "rule": info.rule,
                "learns from": settings[info.setting],
                "cost": counts[name, "as split"],
                "paper": f"[{info.arxiv}](https://arxiv.org/abs/{info.arxiv})",
            }
        )
    return tables.markdown(rows)


def counted():
    """{(method, rows): forward passes of the mean step, as counted in the compiled program}."""
    measured = csv.DictReader(COSTS.read_text().splitlines())
    mean = [row for row in measured if row["remat"] == "no" and row["step"].startswith(("each", "mean"))]
    return {(row["method"], row["rows"]): row["FPE"] for row in mean}


def distributional_table():
    """The table of the methods that match distributions, as Markdown; the costs of two kinds of steps stand apart."""
    measured = {
        row["method"]: row for row in csv.DictReader(COSTS.with_name("distributional_costs.csv").read_text().splitlines())
    }
    rows = []
    for name, info in methods.DISTRIBUTIONAL.items():
        cost = measured.get(name, {})
        rows.append(
            {
                "method": f"`{name}`",
                "losses": ", ".join(f"`{pair.__name__}`" for pair in info.pairs),
                "setting": info.setting,
                "needs": ", ".join(info.needs),
                "jumps": info.jumps,
                "derived": f"{info.derived_fpe:g}",
                "counted": cost.get("mean", ""),
                "the student's step": cost.get("student", ""),
                "the others'": cost.get("others", ""),
                "paper": f"[{info.paper}](https://arxiv.org/abs/{info.arxiv})",
            }
        )
    return tables.markdown(rows)


def pair_name(pair):
    """Where a loss is in flowjax.losses, of what is not offered there with its module: `discrete.csd`."""
    module = "" if pair.__name__ in losses.__all__ else pair.__module__.removeprefix("flowjax.losses.") + "."
    return module + pair.__name__


def method_table():
    """The table of all methods that learn along the paths, those for categories among them, as Markdown."""
    counts, rows = counted(), []
    for name, info in methods.with_categories().items():
        if (name, "as split") not in counts:
            raise typing.InputError(
                f"{COSTS} has no cost of {name}: python -m experiments.benchmark_methods --output=docs --resume"
            )
        derived = f"{info.derived_fpe}" + {0: "", 1: " + ρ"}.get(info.rho, f" + {info.rho}ρ")
        rows.append(
            {
                "method": f"`{name}`",
                "pair in `flowjax.losses`": ", ".join(f"`{pair_name(pair)}`" for pair in info.pairs),
                "rule": info.rule,
                "setting": info.setting,
                "derivative and stop-gradient": info.derivative,
                "needs": ", ".join(info.needs),
                "predicts": info.parameterisation,
                "jumps": info.jumps,
                "source": "" if info.source_fpe is None else str(info.source_fpe),
                "derived": derived,
                "counted": counts[name, "every row"],
                "as split": counts[name, "as split"],
                "paper": f"[{info.paper}](https://arxiv.org/abs/{info.arxiv})",
            }
        )
    return tables.markdown(rows)


# ------------------------------------------------------------------------------------------------------------ configs


def planned(path):
    """The configs of all runs, {name: config}, those that others need first."""
    for name in METHODS.value:
        checks.member("method", name, methods.METHODS)
    if not METHODS.value:
        raise typing.InputError("--methods= is empty; expected names such as flow_matching,meanflow.")
    wanted = list(METHODS.value)
    if any("teacher_map" in methods.METHODS[name].needs for name in wanted):
        wanted = ["psd", *wanted]
    if any("teacher" in methods.METHODS[name].needs or methods.METHODS[name].trajectory_points for name in wanted):
        wanted = ["flow_matching", *wanted]
    return {name: config_of(name, path) for name in dict.fromkeys(wanted)}


def config_of(name, path):
    """A method's preset on the data of this landscape, with its steps, seeds and teacher."""
    preset = DATA.value if DATA.value in common.PRESETS else "checkerboard" if DATA.value in points.DENSITIES else "digits"
    config = configs_of.get_config(f"{name},{preset}")
    config.data.name = "checkerboard" if DATA.value == "test" else DATA.value
    config.eval_every, config.seeds = 0, SEEDS.value
    config.steps = STEPS.value or config.steps
    config.optim.warmup_steps = min(config.optim.warmup_steps, config.steps // 10)
    info = methods.METHODS[name]
    if "teacher_map" in info.needs:
        config.teacher = str(path / "psd")
    elif "teacher" in info.needs:
        config.teacher = str(path / "flow_matching")
    if info.trajectory_points:
        config.data.coupling = str(path / f"trajectories_{info.trajectory_points}")
    return config


def trajectory_count(config):
    """How many trajectories of the teacher are solved for a method that learns from them."""
    return 2**10 if DATA.value == "test" else 2**16 if config.data.name in points.DENSITIES else 2**13


# -------------------------------------------------------------------------------------------------------------- train


def train(name, config, path):
    """Trains one method to its end; returns whether it got there, False if a signal stopped it."""
    from flowjax import training
    from flowjax.evaluation import trajectories

    points_of_each = methods.METHODS[name].trajectory_points
    if points_of_each:
        number = trajectory_count(config)
        trajectories.write(
            str(path / "flow_matching"), config.data.coupling, num=number, steps=SOLVER_STEPS, points=points_of_each
        )
    return int(training.train(config, path / name).step) == config.steps


# ------------------------------------------------------------------------------------------------------------ measure


def measured(name, config, path, real):
    """What a trained method is worth and costs: {"distance": {steps: [per seed]}, "second": [...], "FPE": ..., "ms": ...}."""
    from flowjax import training

    known = path / name / "measured.json"
    if known.exists():
        fields = {"distance": lambda value: isinstance(value, dict), "second": lambda value: isinstance(value, list)}
        return opening.json_object(
            known, "what a method of the landscape was measured to be; delete it to measure again", fields
        )
    info = methods.METHODS[name]
    steps = info.eval_steps(config.method) or (SAMPLING_STEPS if info.learns_jumps else EULER_STEPS)
    worth = {"distance": {str(n): [] for n in steps}, "second": []}
    for seed in range(config.seeds):
        trained = training.load(path / name, seed=seed)
        for n in steps:
            samples = trained.sample(len(real.labels), n, real.labels, seed=seed)
            values = real.judge.values(samples, real.labels, real.names if n == 1 else real.names[:1])
            worth["distance"][str(n)].append(values[real.distance])
            if n == 1:
                worth["second"].append(values[real.second])
                if seed == 0:
                    folders.write_npz(path / name / "one_step.npz", x=samples[:8192], labels=real.labels[:8192])
    worth |= {"FPE": forward_passes(config), "ms": wall_time(path / name)}
    folders.write_text(known, json.dumps(worth) + "\n")
    return worth


def forward_passes(config):
    """FPE of the training step on one device: its matmuls over those of a forward pass of V with as many rows."""
    from flowjax import training
    from flowjax.training import compilation

    one = config.copy_and_resolve_references()
    one.seeds = 1
    run = training.setup(one, devices=[flops.host()])
    x = run.batch_like["x"]
    apply = lambda params, x: run.net.apply({"params": params}, x, 1.0, 0.0, {})
    forward = flops.matmul(apply, run.like.params["V"], x)
    return compilation.step_flops(run) / forward


def wall_time(folder):
    """Milliseconds a step of all seeds together: the fastest tenth of the logged means, the least disturbed by other work."""
    from flowjax.training import workdir

    return float(np.quantile([row["step_ms"] for row in workdir.read_metrics(folder) if "step_ms" in row], 0.1))


class RealRows(NamedTuple):
    """What samples are compared with.

    Attributes:
      rows: real rows, {"x", "label"}.
      labels: to sample with.
      judge: measures of samples against the rows.
      names: the two measures that are shown, the distance and the second.
      floor: the distance of other real rows.
      noise: that of noise.
    """

    rows: dict
    labels: np.ndarray
    judge: evals.Judge
    names: tuple[str, str]
    floor: float
    noise: float

    @property
    def distance(self):
        return self.names[0]

    @property
    def second(self):
        return self.names[1]


def real_rows(config):
    """The reference rows of a dataset (of points, all 16,384 held-out ones), and other real rows for the floor."""
    from flowjax.training import sampling

    load = lambda split: data.load(config.data.name, split=split, data_dir=config.data.dir)
    test = load("test")
    rows = data.arrays(load(test.reference), limit=None if len(test.shape) == 1 else test.reference_rows)
    other = data.arrays(load("train") if test.reference == "test" else test, limit=len(rows["x"]))
    labels = sampling.labels_like(rows.get("label"), test.num_classes, len(rows["x"]))
    judge = evals.judge(test, rows["x"], data_dir=config.data.dir)
    distance, *_, second = judge.names(during_training=True)
    noise = np.random.default_rng(0).standard_normal(rows["x"].shape, np.float32)
    value = lambda x, labels: judge.values(x, labels, (distance,))[distance]
    return RealRows(rows, labels, judge, (distance, second), value(other["x"], other.get("label")), value(noise, labels))


# ------------------------------------------------------------------------------------------------------------- report


def costs(results, configs):
    """({method: cost}, {method: cost with its teacher's}): forward passes of a batch in a whole training."""
    alone = {name: row["FPE"] * configs[name].steps for name, row in results.items()}
    whole = dict(alone)
    for name in results:
        info = methods.METHODS[name]
        if "teacher" in info.needs or info.trajectory_points:
            whole[name] += alone.get("flow_matching", np.nan)  # it may have failed after it was trained
        if "teacher_map" in info.needs:
            whole[name] += alone.get("psd", np.nan)
        if info.trajectory_points:  # Heun's method evaluates twice a step
            whole[name] += 2 * SOLVER_STEPS * trajectory_count(configs[name]) / configs[name].batch_size
    return alone, whole


def table(results, failed, configs):
    """(rows for landscape.csv, rows to read) of all methods, in the order of the landscape."""
    alone, whole = costs(results, configs)
    baseline = np.mean(results["flow_matching"]["distance"]["1"]) if "flow_matching" in results else np.nan
    exact, read = [], []
    for name in [name for name in methods.METHODS if name in configs]:
        info, row = methods.METHODS[name], results.get(name)
        about = {"rule": info.rule, "setting": info.setting, "sampler": configs[name].sampler}
        exact.append({"method": name, **about})
        read.append({"method": f"`{name}`", **about})
        for n in sorted({*SAMPLING_STEPS, *EULER_STEPS}):
            values, head = row["distance"].get(str(n), []) if row else [], f"{n} step{'s' if n > 1 else ''}"
            exact[-1] |= {head: mean(values), f"{head}, deviation": deviation(values)}
            read[-1][head] = spread(values)
        ratio = np.mean(row["distance"]["1"]) / baseline if row and "1" in row["distance"] and np.isfinite(baseline) else ""
        numbers = {
            "1 step over flow matching's": ratio,
            "FPE a step": row["FPE"] if row else "",
            "training, thousand FPE": alone[name] / 1e3 if row else "",
            "with its teacher": whole[name] / 1e3 if row and np.isfinite(whole[name]) else "",
        }
        exact[-1] |= {"second measure, 1 step": mean(row["second"]) if row else "", **numbers, "failed": failed.get(name, "")}
        read[-1] |= {head: f"{value:.4g}" if value != "" else "" for head, value in numbers.items()}
        read[-1] |= {"ms a step": f"{row['ms']:.3g}" if row else "", "failed": failed.get(name, "")}
    if not failed:
        read = [{head: cell for head, cell in row.items() if head != "failed"} for row in read]
    return exact, read


def mean(values):
    return float(np.mean(values)) if values else ""


def deviation(values):
    return float(np.std(values, ddof=1)) if len(values) > 1 else ""


def spread(values):
    """A mean and a standard deviation, to read."""
    if not values:
        return ""
    return f"{np.mean(values):.3g}" + (f" ± {np.std(values, ddof=1):.1g}" if len(values) > 1 else "")


def report(path, configs, results, failed, real):
    """Writes the tables and the pictures and returns the table to read."""
    first = next(iter(configs.values()))
    exact, read = table(results, failed, configs)
    seeds = f"{first.seeds} seeds side by side, mean ± standard deviation" if first.seeds > 1 else "one seed"
    size = len(real.rows["x"])
    about = (
        f"{first.data.name}, {first.steps} steps of training at batch {first.batch_size}, {seeds}: {real.distance} of"
        f" {size} samples to as many real rows; other real rows (the floor) {real.floor:.4f}, noise {real.noise:.4g}. FPE:"
        f" forward passes of a batch, counted in the compiled step; {first.steps} of them and, for a method that distils, the"
        " teacher's training (and trajectories) are its training cost. All seeds of a student share one teacher, the first seed"
        " of flow_matching (psd for pfmm), so that its deviation leaves the teacher's out. Empty: jumps that a method does not"
        f" learn. ms a step: of all seeds together, the fastest tenth. {datetime.date.today()}, {jax.device_count()}"
        f" {jax.default_backend()} device(s), {platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}, Python"
        f" {platform.python_version()}: `{command_line.typed('landscape')}`."
    )
    text = tables.write(path / "landscape", exact, about, shown=read)
    times = [{"method": name, "ms a step, all seeds": row["ms"]} for name, row in results.items()]
    tables.write_csv(path / "wall_time.csv", times or [{"method": "", "ms a step, all seeds": ""}])
    draw(path, first, results, costs(results, configs)[1], real)
    return text


def draw(path, first, results, cost, real):
    """The one-step samples of every method that has any beside the data, and distance against training cost."""
    one_step = {name: row for name, row in results.items() if "1" in row["distance"]}
    title = f"{first.data.name}: one-step samples after {first.steps} steps of training"
    head = lambda name: f"{name}\n{np.mean(one_step[name]['distance']['1']):.3g}"
    load = lambda name: opening.npz(
        path / name / "one_step.npz",
        f"one-step samples; delete {path / name / 'measured.json'} to draw them again",
        ("x", "labels"),
    )
    if real.rows["x"].ndim == 2:
        panels = {"data": real.rows["x"]} | {head(name): load(name)["x"] for name in one_step}
        plots.point_grid(path / "landscape.png", panels, title=f"{title}, {real.distance}")
    else:
        columns = {"real": (real.rows["x"], real.labels)} | {head(name): tuple(load(name).values()) for name in one_step}
        classes = real.labels.max() + 1
        plots.class_grid(path / "landscape.png", columns, classes, title=f"{title}, {real.distance}", per_class=4)
    priced = {name: row for name, row in one_step.items() if np.isfinite(cost[name])}
    if priced:
        plots.labelled_points(
            path / "distance_against_cost.png",
            {
                name: plots.Labelled(cost[name] / 1e3, row["distance"]["1"], methods.METHODS[name].rule)
                for name, row in priced.items()
            },
            reference=("other real rows", real.floor),
            xlabel="cost of training, its teacher's included, in thousand forward passes of a batch",
            ylabel=f"{real.distance} at one step",
            title=f"{first.data.name}: {first.steps} steps of training",
        )


def main():
    if TABLE.value:
        print(method_table())
        return
    from flowjax.training import NonFiniteError, workdir

    path = buckets.path(WORKDIR.value)
    configs, results, failed = planned(path), {}, {}
    for name, config in configs.items():
        workdir.check(path / name, config)
    ownership.check_free(path)
    real = real_rows(next(iter(configs.values())))
    with ownership.owned(path), tqdm.tqdm(configs.items(), desc="landscape", unit="method") as bar:
        for name, config in bar:
            bar.set_postfix_str(name)
            try:
                if not train(name, config, path):
                    return
                results[name] = measured(name, config, path, real)
                (path / f"{name}.failure.txt").unlink(missing_ok=True)  # of an earlier call
            except Exception as error:  # of any kind: it stands in the row, and the other methods are trained
                known = isinstance(error, (NonFiniteError, typing.InputError))
                failed[name] = " ".join(f"{'' if known else f'{type(error).__name__}: '}{error}".split())[:300]
                folders.write_text(path / f"{name}.failure.txt", "".join(traceback.format_exception(error)))
                bar.write(f"{name} failed: {failed[name]}")
    print("\n" + report(path, configs, results, failed, real))
    names = ("landscape.md", "landscape.csv", "wall_time.csv", "landscape.png", "distance_against_cost.png")
    print("\n".join(str(path / name) for name in names if (path / name).exists()))


if __name__ == "__main__":
    command_line.run(main)
