"""Every method on one budget and one network: python -m experiments.landscape --preset=checkerboard --workdir=runs/landscape

Trains each method's preset in its own folder below the workdir (a killed run goes on where it was), then writes landscape.md and
landscape.csv (distances to held-out data at 1, 2 and 4 steps), landscape.png (one-step samples beside the data) and
one_step_distance.png. Flow matching, which learns no jumps, is sampled with Euler's method. A method that distils gets the
closed-form velocity of the points.

`--table` prints what each method is and costs instead, from flowjax.methods and docs/method_costs.csv, which
experiments.benchmark_methods writes.
"""

import csv
import datetime
import pathlib
import platform

import jax
import numpy as np
import tqdm
from absl import flags

from configs import method as configs_of
from experiments import command_line, tables
from flowjax import checks, data, methods, plots, typing
from flowjax.data import points

WORKDIR = flags.DEFINE_string("workdir", "runs/landscape", "folder of the runs and of the tables")
PRESET = flags.DEFINE_string("preset", "checkerboard", "preset of points: checkerboard, or test for a rehearsal")
# Those that need no flow map as a teacher.
RUNNABLE = [name for name, info in methods.METHODS.items() if "teacher_map" not in info.needs]
METHODS = flags.DEFINE_list("methods", RUNNABLE, "which methods")
TABLE = flags.DEFINE_bool("table", False, "print the table of all methods and stop")
TRAINING_STEPS = flags.DEFINE_integer("training_steps", 0, "steps of training; 0: the preset's", lower_bound=0)
STEPS = (1, 2, 4)
COSTS = pathlib.Path(__file__).parents[1] / "docs" / "method_costs.csv"


def method_table():
    """The table of all methods, as Markdown."""
    measured = csv.DictReader(COSTS.read_text().splitlines())
    counts = {(row["method"], row["rows"]): row["FPE"] for row in measured if row["remat"] == "no"}
    rows = []
    for name, info in methods.METHODS.items():
        if (name, "as split") not in counts:
            raise typing.InputError(
                f"{COSTS} has no cost of {name}: python -m experiments.benchmark_methods --output=docs --resume"
            )
        derived = f"{info.derived_fpe}" + {0: "", 1: " + ρ"}.get(info.rho, f" + {info.rho}ρ")
        rows.append(
            {
                "method": f"`{name}`",
                "pair in `flowjax.losses`": ", ".join(f"`{pair.__name__}`" for pair in info.pairs),
                "rule": info.rule,
                "setting": info.setting,
                "derivative and stop-gradient": info.derivative,
                "needs": ", ".join(info.needs),
                "predicts": info.parametrisation,
                "source": "" if info.source_fpe is None else str(info.source_fpe),
                "derived": derived,
                "counted": counts[name, "every row"],
                "as split": counts[name, "as split"],
                "paper": f"[{info.paper}](https://arxiv.org/abs/{info.arxiv})",
            }
        )
    return tables.markdown(rows)


def main():
    if TABLE.value:
        print(method_table())
        return
    from flowjax import training
    from flowjax.training import evaluation, workdir as folders

    # ------------------------------------------------------------------------------------------------------ configs
    path, configs = pathlib.Path(WORKDIR.value), {}
    for name in METHODS.value:
        checks.member("method", name, methods.METHODS)
        config = configs_of.get_config(f"{name},{PRESET.value}")
        config.eval_every = 0
        config.steps = TRAINING_STEPS.value or config.steps
        folders.check(path / name, config)
        configs[name] = config
    first = next(iter(configs.values()), None)
    if first is None or first.data.name not in points.DENSITIES:
        raise typing.InputError(
            f"--methods={','.join(METHODS.value)} --preset={PRESET.value}: expected at least one method and a preset of points."
        )

    # ------------------------------------------------------------------------------------------------------ train
    for name, config in configs.items():
        state = training.train(config, path / name)
        if int(state.step) < config.steps:
            return

    # ----------------------------------------------------------------------------------------------------- measure
    load = lambda split: data.arrays(data.load(first.data.name, split=split, data_dir=first.data.dir or None), limit=16_384)
    held_out, other = load("test")["x"], load("train")["x"]
    measure = evaluation.measures(held_out)
    labels = evaluation.labels_like(None, 0, len(held_out))
    rows, pictures = [], {"data": held_out}
    for name, config in tqdm.tqdm(configs.items(), desc="measuring", unit="method"):
        trained = training.load(path / name)
        sample = evaluation.make_sampler(trained.net, trained.shape, config.sampler)
        samples = {n: sample(trained.params, 0, labels, n) for n in STEPS}
        distances = {n: measure(x, labels) for n, x in samples.items()}
        rows.append(
            {"method": name, "sampler": config.sampler}
            | {f"sliced W2, {n} step{'s' if n > 1 else ''}": distances[n]["sliced_wasserstein"] for n in STEPS}
            | {"energy distance, 1 step": distances[1]["energy_distance"]}
        )
        pictures[f"{name}, 1 step\nsliced W2 {distances[1]['sliced_wasserstein']:.3f}"] = samples[1]

    # ------------------------------------------------------------------------------------------------------- write
    baseline = [row["sliced W2, 1 step"] for row in rows if row["method"] == "flow_matching"]
    for row in rows if baseline else []:
        row["1 step over flow matching's"] = row["sliced W2, 1 step"] / baseline[0]
    floor = measure(other, labels)["sliced_wasserstein"]
    noise = measure(np.random.default_rng(0).standard_normal(held_out.shape, np.float32), labels)["sliced_wasserstein"]
    about = (
        f"{first.data.name}, {first.steps} steps of training at batch {first.batch_size}, {len(held_out)} samples against as many"
        f" held-out points; other real points: sliced W2 {floor:.4f}, noise {noise:.4f}. {datetime.date.today()}, {jax.device_count()}"
        f" {jax.default_backend()} device(s), {platform.machine()}, jax {jax.__version__}:"
        f" `python -m experiments.landscape --preset={PRESET.value} --methods={','.join(METHODS.value)}`."
    )
    print("\n" + tables.write(path / "landscape", rows, about))
    plots.point_grid(path / "landscape.png", pictures, title=f"One-step samples after {first.steps} steps of training")
    plots.bars(
        path / "one_step_distance.png",
        [row["method"] for row in rows],
        [row["sliced W2, 1 step"] for row in rows],
        reference=("other real points", floor),
        ylabel="sliced Wasserstein distance to held-out data, one step",
        title=f"{first.data.name}, {first.steps} steps at batch {first.batch_size}",
    )
    print("\n".join(f"{path / name}" for name in ("landscape.md", "landscape.csv", "landscape.png", "one_step_distance.png")))


if __name__ == "__main__":
    command_line.run(main)
