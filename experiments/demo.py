"""The main job, end to end: MeanFlow on real handwritten digits, then samples, curves and a summary.

`make demo` runs it: python -m experiments.demo --workdir=runs/demo
"""

from absl import flags

from configs import meanflow
from experiments import command_line, tables
from flowjax import buckets, data, plots

WORKDIR = flags.DEFINE_string("workdir", "runs/demo", "folder of the run")
PRESET = flags.DEFINE_string("preset", "digits", "preset of configs/meanflow.py")

POINT_MEASURES = ("sliced_wasserstein", "energy_distance")
IMAGE_MEASURES = ("frechet_pixels", "frechet_features", "agreement", "precision", "recall", "copying")


def main():
    from flowjax import training
    from flowjax.evaluation import scores
    from flowjax.training import progress, workdir as folders

    # ------------------------------------------------------------------------------------------------------ train
    config, path = meanflow.get_config(PRESET.value), buckets.path(WORKDIR.value)
    print(
        f"Training MeanFlow on {config.data.name} for {config.steps} steps. Ctrl-C stops; the same command goes on from there."
    )
    state = training.train(config, path)
    if int(state.step) < config.steps:
        return

    # ----------------------------------------------------------------------------------------------------- samples
    trained = training.load(path)
    real = data.arrays(trained.source("test"))
    labels = trained.labels(100)
    samples = {n: trained.sample(100, n, labels) for n in config.eval_steps}
    title = f"MeanFlow, {config.steps} steps of training; one, two and four steps start from the same noise"
    progress.draw_samples(path / "samples.png", samples, labels, trained.num_classes, real=real, title=title, per_class=8)

    # ------------------------------------------------------------------------------------------------------ curves
    rows, about = scores.evaluate(path, config.eval_steps, measures=IMAGE_MEASURES if real["x"].ndim == 4 else POINT_MEASURES)
    records = folders.read_metrics(path)
    distances = [f"{config.eval_steps[0]}step/{name}" for name in (*POINT_MEASURES, *IMAGE_MEASURES[:2]) if name in rows[0]]
    raw = sorted({name for record in records for name in record if name.startswith("raw/")})
    plots.training_curves(
        path / "training.png", records, raw=raw, distances=distances, title=f"MeanFlow on {trained.settings.data.name}"
    )

    # ----------------------------------------------------------------------------------------------------- summary
    print("\n" + tables.write(path / "summary", rows, about, shown=scores.shown(rows)))
    print("Wrote:")
    for name, what in {
        "samples.png": "real rows beside 1-, 2- and 4-step samples",
        "training.png": "raw errors, one-step distance and step time",
        "metrics.jsonl": "the same as numbers, and as TensorBoard events beside it",
        f"checkpoints/{trained.step}": "the trained network, for experiments.sample and experiments.evaluate",
        "summary.md": "the table above, also as summary.csv",
    }.items():
        print(f"  {path / name}: {what}")


if __name__ == "__main__":
    command_line.run(main)
