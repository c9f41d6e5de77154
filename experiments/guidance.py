"""Agreement and quality of one-step digits against the guidance scale: python -m experiments.guidance --workdir=runs/guidance

Trains the guided preset of each of --methods, each in a folder below the workdir, unless it is trained already; measures
one-step samples at each of --scales, all from the same noise; and writes guidance_digits.csv, .md, .png and _samples.png. The
same command continues a killed run. On two CPU cores the four methods took an hour.
"""

import datetime

import jax
import numpy as np
import tqdm
from absl import flags

from configs import common, method as configs_of
from experiments import command_line, tables
from flowjax import buckets, checks, methods, plots, typing

WORKDIR = flags.DEFINE_string("workdir", "runs/guidance", "folder of the runs and of the tables")
METHODS = flags.DEFINE_list("methods", ["meanflow", "imf", "tvm", "soflow"], "which methods")
SCALES = flags.DEFINE_list(
    "scales", ["1", "1.1", "1.25", "1.5", "2", "3", "4"], "scales to sample with, 1 to 4; 1 is no guidance"
)
STEPS = flags.DEFINE_integer("steps", 0, "steps of training; 0: the preset's", lower_bound=0, upper_bound=command_line.MOST)
RESAMPLES = flags.DEFINE_integer(
    "resamples", 16, "half samples for each error bar; 0: no error bars", lower_bound=0, upper_bound=10_000
)
MEASURES = ("agreement", "frechet_features", "frechet_pixels", "recall", "precision")
DRAWN = ("agreement", "frechet_features", "recall", "precision")


def main():
    scales = checked()
    path = buckets.path(WORKDIR.value)
    for name in METHODS.value:
        if not train(name, path):
            return
    rows, real = [], None
    for name in tqdm.tqdm(METHODS.value, desc="measures"):
        samples, real = measured(name, path / name, scales)
        rows += samples
    about = (
        f"`{command_line.typed('guidance')}`, {datetime.date.today()}, {jax.device_count()} {jax.devices()[0].device_kind}"
        f" device(s): one-step digits, {rows[0]['rows']} samples a row; w = 1 is the same network without guidance."
    )
    print(tables.write(path / "guidance_digits", [*rows, real], about))
    draw(path, rows, real)
    draw_samples(path, scales)
    print("\n".join(str(path / f"guidance_digits{end}") for end in (".csv", ".md", ".png", "_samples.png")))


def checked():
    """The scales of --scales; raises InputError for unknown methods, or scales that the presets do not learn."""
    for name in METHODS.value:
        checks.member("method", name, methods.METHODS)
    low, high = common.GUIDED_SCALES
    scales = command_line.numbers("scales", SCALES.value)
    if not scales or not METHODS.value or min(scales) < low or max(scales) > high:
        raise typing.InputError(
            f"--scales={','.join(SCALES.value)} --methods={','.join(METHODS.value)}: expected at least one method, and scales"
            f" from {low} to {high}, which the presets learn."
        )
    return scales


# -------------------------------------------------------------------------------------------------------------- train


def train(name, path):
    """Trains one method to its end; returns whether it got there, False if a signal stopped it."""
    from flowjax import training

    config = configs_of.get_config(f"{name},guided")
    config.eval_every = 0
    config.steps = STEPS.value or config.steps
    config.optim.warmup_steps = min(config.optim.warmup_steps, config.steps // 10)
    return int(training.train(config, path / name).step) == config.steps


# ------------------------------------------------------------------------------------------------------------ measure


def measured(name, folder, scales):
    """(a row for each scale, the row of held-out digits)."""
    from flowjax.evaluation import scores

    table, _ = scores.evaluate(folder, (1,), guidances=scales, measures=MEASURES, resamples=RESAMPLES.value)
    kept = ("rows", *MEASURES)
    row = lambda method, scale, values: {"method": method, "guidance": scale, **{key: values[key] for key in kept}}
    samples = [row(name, values["guidance"], values) for values in table if values["guidance"] != ""]
    return samples, row("real, held out", "", next(values for values in table if values["what"] == scores.FLOOR))


# --------------------------------------------------------------------------------------------------------------- draw


def draw(path, rows, real):
    """A panel for each measure, a line for each method."""
    panels = {}
    for measure in DRAWN:
        panels[measure] = {}
        for row in rows:
            panels[measure].setdefault(row["method"], []).append((row["guidance"], *row[measure]))
    references = {measure: {real["method"]: real[measure][0]} for measure in DRAWN}
    title = "One step against the scale of the guidance that was trained in"
    plots.measure_curves(path / "guidance_digits.png", panels, references=references, xlabel="guidance scale w", title=title)


def draw_samples(path, scales):
    """One-step digits of each method at the first and the last scale, from the same noise."""
    from flowjax import training

    chosen = sorted({scales[0], scales[-1]})
    blocks = {}
    for name in METHODS.value:
        trained = training.load(path / name)
        labels = np.tile(np.arange(trained.num_classes), 4)
        for scale in chosen:
            x = trained.sample(len(labels), 1, labels, guidance=scale)
            blocks[f"{name}, w = {scale:g}"] = x.reshape(4, trained.num_classes, *x.shape[1:]).swapaxes(0, 1)
    plots.image_grid(path / "guidance_digits_samples.png", blocks, row_names=[str(label) for label in range(len(x) // 4)])


if __name__ == "__main__":
    command_line.run(main)
