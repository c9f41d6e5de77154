"""Measures a run: python -m experiments.evaluate --workdir=runs/demo --steps=1,2,4

Needs only the workdir. Prints a table that compares samples at each number of steps, other real rows, and noise with real rows,
each number with its error, and writes it as evaluation.csv, evaluation.md and evaluation.png into the workdir. Several
averages, samplers and scales of guidance are combined:

    python -m experiments.evaluate --workdir=runs/demo --steps=1,2,4,8 --ema=0.999,none \\
      --sampler=flow_map --sampler=gamma:gamma=0.3

Lower is better for distances, higher for agreement, precision, recall, density and coverage; copying is 1/2 where samples are
no nearer to the training rows than held-out rows are, and 1 where they are copies.
"""

from absl import flags

from experiments import command_line, tables
from flowjax import buckets, plots

WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run")
STEPS = flags.DEFINE_list("steps", [], "numbers of steps; default: those of the run's config")
NUM = flags.DEFINE_integer(
    "num",
    0,
    "number of samples; 0: as many as there are real rows, 10,000 at most",
    lower_bound=0,
    upper_bound=command_line.MOST,
)
SEED = flags.DEFINE_integer("seed", 0, "seed of the noise", lower_bound=0, upper_bound=2**32 - 1)
EMA = flags.DEFINE_list(
    "ema", [""], "names of averages in config.ema, none for the raw weights; default: the run's first average"
)
CHECKPOINT = flags.DEFINE_string("checkpoint", "", command_line.CHECKPOINT_HELP)
SAMPLER = flags.DEFINE_multi_string("sampler", [""], "may be given several times: " + command_line.SAMPLER_HELP)
GRID = flags.DEFINE_string("grid", "", command_line.GRID_HELP)
GUIDANCE = flags.DEFINE_list("guidance", [], "several are combined: " + command_line.GUIDANCE_HELP)
INTERVAL = flags.DEFINE_list("guidance_interval", [], command_line.INTERVAL_HELP)
SAMPLES = flags.DEFINE_string("samples", "", "folder of experiments.generate to measure instead, however it was drawn")
MEASURES = flags.DEFINE_list("measures", [], "names, also in features: mmd_features; default: those that suit the data")
RESAMPLES = flags.DEFINE_integer(
    "resamples", 16, "half samples for each error bar; 0: no error bars", lower_bound=0, upper_bound=10_000
)
command_line.define_modules()
flags.mark_flag_as_required("workdir")


def main():
    from flowjax.evaluation import scores

    rows, about = scores.evaluate(
        WORKDIR.value,
        command_line.whole_numbers("steps", STEPS.value, low=1),
        num=NUM.value,
        seed=SEED.value,
        averages=command_line.with_options(EMA.value) or [""],
        checkpoint=CHECKPOINT.value,
        sampler_names=SAMPLER.value,
        guidances=command_line.numbers("guidance", GUIDANCE.value) or [None],
        interval=command_line.numbers("guidance_interval", INTERVAL.value, count=2),
        grid=GRID.value,
        samples=SAMPLES.value,
        measures=MEASURES.value,
        resamples=RESAMPLES.value,
    )
    path = buckets.path(WORKDIR.value) / "evaluation"
    print(tables.write(path, rows, about, shown=scores.shown(rows)))
    panels, references = scores.curves(rows)
    plots.measure_curves(f"{path}.png", panels, references=references, xlabel="steps", title=about.partition(";")[0])
    print(f"{path}.csv\n{path}.md\n{path}.png")


if __name__ == "__main__":
    command_line.run(main)
