"""Samples a run: python -m experiments.sample --workdir=runs/demo --steps=1,2,4 --labels=0,3,7 --seed=0 --num=64

Needs the workdir alone. Writes sample.png and sample.npz there (or to --out): one array of samples for each number of steps, all
from the same noise, and the labels.
"""

import pathlib

import numpy as np
from absl import flags

from experiments import command_line

WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run")
STEPS = flags.DEFINE_list("steps", ["1", "2", "4"], "numbers of steps")
LABELS = flags.DEFINE_list("labels", [], "classes to sample, in turn; none: all of them")
SEED = flags.DEFINE_integer("seed", 0, "seed of the noise", lower_bound=0, upper_bound=2**32 - 1)
NUM = flags.DEFINE_integer("num", 64, "number of samples", lower_bound=1)
EMA = flags.DEFINE_string(
    "ema", "", "decay of the averaged weights, or none for the raw ones; default: the run's first average"
)
SAMPLER = flags.DEFINE_string("sampler", "", command_line.SAMPLER_HELP)
GRID = flags.DEFINE_string("grid", "uniform", command_line.GRID_HELP)
GUIDANCE = flags.DEFINE_float("guidance", None, "of a student of a guided teacher: the scale; default: the middle")
OUT = flags.DEFINE_string("out", "", "path of the files without ending; default: WORKDIR/sample")
flags.mark_flag_as_required("workdir")


def main():
    from flowjax import training
    from flowjax.training import evaluation, networks

    steps = command_line.whole_numbers("steps", STEPS.value, low=1)
    trained = training.load(WORKDIR.value, EMA.value)
    asked = command_line.whole_numbers("labels", LABELS.value, low=0) if LABELS.value else ()
    labels = np.resize(evaluation.asked_labels(trained, asked), NUM.value)
    sample = evaluation.make_sampler(
        trained.net,
        trained.shape,
        SAMPLER.value or trained.config.sampler,
        trained.scale(GUIDANCE.value),
        grid=GRID.value,
        path=networks.path_of(trained.config),
    )
    samples = {n: sample(trained.params, SEED.value, labels, n, progress=True) for n in steps}

    out = pathlib.Path(OUT.value or pathlib.Path(WORKDIR.value) / "sample")
    out.parent.mkdir(parents=True, exist_ok=True)
    npz, png = out.with_name(out.name + ".npz"), out.with_name(out.name + ".png")
    np.savez(npz, labels=labels, seed=SEED.value, **{f"samples_{n}": x for n, x in samples.items()})
    title = f"{trained.config.method.name}, {trained.step} steps of training"
    evaluation.draw_samples(png, samples, labels, trained.num_classes, title=title, per_class=16)
    print(f"{png}\n{npz}: {', '.join(f'samples_{n} {x.shape}' for n, x in samples.items())}, labels, seed")


if __name__ == "__main__":
    command_line.run(main)
