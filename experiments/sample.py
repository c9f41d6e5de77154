"""Samples a run: python -m experiments.sample --workdir=runs/demo --steps=1,2,4 --labels=0,3,7 --seed=0 --num=64

Needs only the workdir. Writes sample.png and sample.npz there, or to --out: an array of samples for each number of steps, all
from the same noise, and the labels. Samples of a run on tokens are probabilities; beside them are the likeliest tokens. With --nearest
also sample_nearest.png: the samples of the fewest steps beside the training rows that are nearest to them, by the distance of pixels,
so that a copy would be seen. With --invert it carries held-out data to their noise and back, by 32 Heun steps in each
direction unless --sampler and --steps are given (few networks learn jumps from data to noise).
"""

import numpy as np
from absl import flags

from experiments import command_line
from flowjax import buckets, data, folders, plots, typing

WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run")
STEPS = flags.DEFINE_list("steps", [], "numbers of steps; default: those of the run's config, 32 to invert")
LABELS = flags.DEFINE_list("labels", [], "classes of the samples, in turn; default: all classes")
SEED = flags.DEFINE_integer("seed", 0, "seed of the noise", lower_bound=0, upper_bound=2**32 - 1)
NUM = flags.DEFINE_integer("num", 64, "number of samples", lower_bound=1, upper_bound=command_line.MOST)
EMA = flags.DEFINE_string("ema", "", command_line.EMA_HELP)
CHECKPOINT = flags.DEFINE_string("checkpoint", "", command_line.CHECKPOINT_HELP)
SAMPLER = flags.DEFINE_string("sampler", "", command_line.SAMPLER_HELP)
GRID = flags.DEFINE_string("grid", "", command_line.GRID_HELP)
GUIDANCE = flags.DEFINE_float("guidance", None, command_line.GUIDANCE_HELP)
INTERVAL = flags.DEFINE_list("guidance_interval", [], command_line.INTERVAL_HELP)
INVERT = flags.DEFINE_bool("invert", False, "carry held-out data to noise and back instead; takes the largest of --steps")
NEAREST = flags.DEFINE_bool("nearest", False, "also draw the samples beside the training rows that are nearest to them")
OUT = flags.DEFINE_string("out", "", "path of the files without ending; default: WORKDIR/sample, or WORKDIR/inversion")
command_line.define_modules()
flags.mark_flag_as_required("workdir")


def main():
    from flowjax import training
    from flowjax.training import progress

    steps = command_line.whole_numbers("steps", STEPS.value, low=1)
    classes = command_line.whole_numbers("labels", LABELS.value, low=0) or None
    interval = command_line.numbers("guidance_interval", INTERVAL.value, count=2)
    folders.check_path(f"{OUT.value}.npz", "--out")
    run = training.load(WORKDIR.value, EMA.value, step=CHECKPOINT.value)
    if NEAREST.value and (INVERT.value or len(run.shape) != 3):
        raise typing.InputError(
            f"--nearest=true: it draws samples of images beside others; {'leave --invert out' if INVERT.value else f'rows of {run.settings.data.name} have shape {tuple(run.shape)}'}."
        )
    options = {"grid": GRID.value, "seed": SEED.value, "guidance": GUIDANCE.value, "interval": interval}
    if INVERT.value:
        return invert(run, max(steps or (32,)), {**options, "sampler": SAMPLER.value or "heun"})
    labels = run.labels(NUM.value, classes)
    options |= {"sampler": SAMPLER.value, "progress": True}
    samples = {n: run.sample(NUM.value, n, labels, **options) for n in steps or run.settings.evaluation.steps}

    out = buckets.path(OUT.value or buckets.path(WORKDIR.value) / "sample")
    out.parent.mkdir(parents=True, exist_ok=True)
    npz, png = out.with_name(out.name + ".npz"), out.with_name(out.name + ".png")
    arrays = {f"samples_{n}": x for n, x in samples.items()}
    if len(run.shape) == 2:
        arrays |= {f"tokens_{n}": data.tokens.decided(x) for n, x in samples.items()}
    folders.write_npz(npz, labels=labels, seed=SEED.value, **arrays)
    title = f"{run.settings.method.name}, {run.step} steps of training"
    progress.draw_samples(
        png, samples, labels, run.num_classes, title=title, per_class=16, space=run.path.space.name,
        data_name=run.settings.data.name,
    )  # fmt: skip
    print(f"{png}\n{npz}: {', '.join(f'{name} {x.shape}' for name, x in arrays.items())}, labels, seed")
    if NEAREST.value:
        draw_nearest(run, out.with_name(out.name + "_nearest.png"), min(samples), samples[min(samples)], labels)


def draw_nearest(run, png, steps, samples, labels):
    """Draws samples beside the training rows nearest to them, and says how far those are, beside held-out rows."""
    from flowjax.evaluation import nearest

    found, real = nearest.training_rows(run, samples), nearest.held_out_distances(run)
    of = f"all {found.size:,}" if found.searched == found.size else f"{found.searched:,} of {found.size:,}"
    columns = {f"{steps} step{'s' if steps > 1 else ''}": (samples, labels), "nearest training rows": (found.rows, labels)}
    shown = {name: (data.seen(run.settings.data.name, x), classes) for name, (x, classes) in columns.items()}
    plots.class_grid(png, shown, run.num_classes, title=f"samples beside the nearest of {of} training rows", per_class=8)
    far = lambda distances: f"median {np.median(distances):.3f}, least {distances.min():.3f}"
    print(
        f"{png}\nroot mean square difference to the nearest training row: samples {far(found.distances)}; {len(real)} held-out rows {far(real)}"
    )


def invert(run, steps, options):
    """Writes held-out data, their noise, and the samples from that noise; prints the error of the round trip."""
    from flowjax.training import progress

    if len(run.shape) == 2:
        raise typing.InputError(
            f"--invert: rows of the dataset {run.settings.data.name} are tokens, and all noise of a region ends at the same ones, so that none of"
            " it is theirs; expected a run of points or images, or no --invert."
        )
    rows = data.arrays(run.source("test"), limit=NUM.value)
    labels = run.labels(len(rows["x"]), rows.get("label"))
    noise = run.sample(len(rows["x"]), steps, labels, x=rows["x"], inverted=True, **options)
    back = run.sample(len(rows["x"]), steps, labels, x=noise, **options)
    error = float(np.sqrt(np.mean((back - rows["x"]) ** 2)))
    out = buckets.path(OUT.value or buckets.path(WORKDIR.value) / "inversion")
    out.parent.mkdir(parents=True, exist_ok=True)
    npz, png = out.with_name(out.name + ".npz"), out.with_name(out.name + ".png")
    folders.write_npz(npz, x=rows["x"], noise=noise, back=back, labels=labels)
    title = f"{run.settings.method.name}: data, its noise, and back in {steps} steps each way; error {error:.2g}"
    shown = {"data": rows["x"], "noise": noise, "back": back}
    if noise.ndim == 2 and run.path.space.name != "euclidean":
        plots.space_grid(png, shown, run.path.space.name, title)
    elif noise.ndim == 2:
        plots.point_grid(png, shown, title=title)
    else:
        progress.draw_rows(png, {name: x[:64] for name, x in shown.items()}, title=title, across=min(8, len(noise)))
    print(f"{png}\n{npz}: x, noise, back, labels; root mean square error of the round trip {error:.3g}")


if __name__ == "__main__":
    command_line.run(main)
