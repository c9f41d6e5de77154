"""Evaluations during training: measures and pictures of samples, raw errors by time, the measure of the best checkpoint."""

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from flowjax import data, evals, models
from flowjax.training import hosts, loading, parts, sampling, sharding

BINNED_DRAWS = 8  # draws of times and noise on one batch, for the raw errors by time


def evaluator(run: Any, folder: pathlib.Path) -> Callable[[Any, int], dict[str, float]]:
    """`(state, step) -> {"1step/recall": ...}` of the first seed at each number of steps; draws the samples into the folder too.

    Args:
      run: a flowjax.training.Run.
      folder: its workdir.

    All processes sample; process 0 measures and draws, and the others return {}.
    """
    settings, evaluated = run.settings, run.settings.evaluation
    held_out = data.arrays(run.held_out, limit=run.held_out.reference_rows)
    labels = sampling.labels_like(held_out.get("label"), run.source.num_classes, evaluated.samples)
    judge = evals.judge(run.held_out, held_out["x"], data_dir=settings.data.dir) if hosts.is_main() else None
    inputs, path = parts.sampling_inputs(settings.guidance, evaluated), settings.method.path
    rules = models.slicing(settings.model.name)
    sample = sampling.make_sampler(
        run.net, run.source.shape, evaluated.sampler, inputs,
        grid=evaluated.grid, path=path, scaling=settings.data.scaling, mesh=run.mesh, rules=rules,
    )  # fmt: skip

    def evaluate(state: Any, step: int) -> dict[str, float]:
        weights = loading.weights(state, evaluated.average, settings.seeds, settings.adapter.scale)
        params = sharding.arranged(run.mesh, weights, rules)
        samples = {steps: sample(params, settings.seed, labels, steps) for steps in evaluated.steps}
        if judge is None:
            return {}
        picture, title = folder / "samples" / f"step_{step:07d}.png", f"{settings.method.name}, step {step}"
        try:
            draw_samples(
                picture, samples, labels, run.source.num_classes, real=held_out, title=title, space=run.source.space,
                data_name=settings.data.name,
            )  # fmt: skip
        except OSError as error:
            hosts.print_once(f"{picture} could not be written ({error.strerror or error}); training continues.")
        measure = lambda x: judge.values(x, labels, judge.names(during_training=True))
        return {f"{steps}step/{name}": value for steps, x in samples.items() for name, value in measure(x).items()}

    return evaluate


def binned(run: Any, state: Any, batch: Mapping[str, Any]) -> dict[str, float]:
    """Raw errors by time bin, over some draws: bins/TERM/0 near the data up to bins/TERM/9 near the noise; nan: no row.

    Args:
      run: a flowjax.training.Run.
      state: its State.
      batch: a global batch.
    """
    draws = [jax.device_get(run.binned(state, batch, run.fixed, number)) for number in range(BINNED_DRAWS)]
    metrics = {}
    for name, (total, count) in jax.tree.map(lambda *sums: np.sum(sums, axis=0), *draws).items():
        means = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
        metrics |= {f"bins/{name}/{number}": float(mean) for number, mean in enumerate(means)}
    return metrics


def lower_is_better(best: str, measured: Mapping[str, float]) -> float:
    """The measure named `best` of an evaluation, negated where higher is better; nan if it was not measured."""
    value = measured.get(best, float("nan"))
    return -value if evals.measures.higher_is_better(best.rpartition("/")[2]) else value


def draw_samples(
    path: str | os.PathLike | None,
    samples: Mapping[int, np.ndarray],
    labels: np.ndarray,
    num_classes: int,
    *,
    real: Mapping[str, np.ndarray] | None = None,
    title: str | None = None,
    per_class: int = 6,
    space: str = "euclidean",
    data_name: str = "",
) -> Any:
    """A picture of samples from the same noise at each number of steps, beside real rows; images have one row of it a class.

    Args:
      path: the PNG file; None: none, the picture is only returned.
      samples: number of steps -> samples [n, ...].
      labels: the classes that were sampled [n], -1 for none.
      num_classes: of the data, 0 for unlabelled.
      real: {"x": real rows, "label": their classes}, or None.
      title: the headline.
      per_class: at most this many images of a class and column.
      space: the name of the flowjax.spaces.Space of the samples; points of others than R^n have a picture of their own.
      data_name: of the dataset, which says how its tokens are looked at, see flowjax.data.seen.
    """
    from flowjax import plots  # matplotlib takes a second to import

    columns = {f"{steps} step{'s' if steps > 1 else ''}": (x, labels) for steps, x in samples.items()}
    if real is not None:
        columns = {"data" if real["x"].ndim == 2 else "real": (real["x"], real.get("label"))} | columns
    if space != "euclidean":
        return plots.space_grid(path, {name: x for name, (x, _) in columns.items()}, space, title)
    if next(iter(samples.values())).ndim == 2:
        return plots.point_grid(path, {name: x[:, :2] for name, (x, _) in columns.items()}, title=title)
    columns = {name: (data.seen(data_name, x), classes) for name, (x, classes) in columns.items()}
    if all(isinstance(x, list) for x, _ in columns.values()):
        return plots.word_grid(path, {name: x[: 8 * per_class] for name, (x, _) in columns.items()}, title=title)
    return plots.class_grid(path, columns, num_classes, title=title, per_class=per_class)


def draw_rows(
    path: str | os.PathLike | None,
    columns: Mapping[str, np.ndarray],
    *,
    data_name: str = "",
    title: str | None = None,
    across: int = 1,
) -> Any:
    """A picture of images or tokens in columns that belong together row by row: `{"data": ..., "noise": ..., "back": ...}`.

    Args:
      path: the PNG file; None: none, the picture is only returned.
      columns: heading -> rows [n, H, W, C] or [n, L, K], as many in each.
      data_name: of the dataset, see flowjax.data.seen.
      title: the headline.
      across: images of a column that stand side by side.
    """
    from flowjax import plots

    seen = {name: data.seen(data_name, x) for name, x in columns.items()}
    if all(isinstance(x, list) for x in seen.values()):
        return plots.word_grid(path, seen, title=title)
    blocks = {name: x[: len(x) // across * across].reshape(-1, across, *x.shape[1:]) for name, x in seen.items()}
    return plots.image_grid(path, blocks, title=title)
