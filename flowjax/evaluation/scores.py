"""The table of a run's measures: samples by steps, sampler, average and guidance, other real rows and noise, against real rows."""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import tqdm

from flowjax import data, evals, samplers, spaces, typing
from flowjax.evals.measures import PAIRWISE_ROWS, PLAN_ROWS, check_names
from flowjax.evaluation import generation
from flowjax.training import loading, sampling

FLOOR, NOISE = "real, held out", "noise"  # rows of the table beside the samples
TRAINING_ROWS = 100_000  # most training rows among which copies are searched
FOOTNOTE = (
    f"Pairwise measures take the first {PAIRWISE_ROWS:,} rows of each, those that look for a plan {PLAN_ROWS:,}; after ± the"
    " standard error from random halves."
)

Row = dict[str, Any]


def evaluate(
    workdir: str | os.PathLike, steps: Sequence[int] = (), *, num: int = 0, seed: int = 0, averages: Sequence[str] = ("",),
    checkpoint: str = "", sampler_names: Sequence[str] = ("",), guidances: Sequence[float | None] = (None,),
    interval: tuple[float, ...] = (), grid: str = "", samples: str = "", measures: Sequence[str] = (),
    resamples: int = 16,
) -> tuple[list[Row], str]:  # fmt: skip
    """A table of what a run is worth: steps x averages x samplers x guidance, other real data, and noise, against real data.

    Args:
      workdir: the folder of a run.
      steps: numbers of steps, each at least 1; (): those of its config.
      num: number of samples; 0: as many as there are real rows.
      seed: of the noise.
      averages: names of averaged weights, "none" for the raw ones, "" for the run's first average.
      checkpoint: its step, or "best", by the run's config.best; "": the newest.
      sampler_names: samplers, name and options; "" for that of the run.
      guidances: scales, of a run that learned several; None for the median of them.
      interval: times (low, high) between which to guide, of a run that learned several; (): the widest.
      grid: of times, name and options, or times.
      samples: a folder that flowjax.evaluation.generation wrote, which is measured instead, however it was drawn.
      measures: names, see flowjax.evals.MEASURES; (): those that suit the data.
      resamples: half samples for the error bars; 0: no error bars.

    Returns:
      (rows, about): rows `{"what", "steps", "sampler", "ema", "guidance", "evaluations", "rows", measure: (value, error),
      ...}`, and a sentence on what was compared with what. Samples are compared with the rows that the dataset names for it
      (`reference` and `reference_rows` of flowjax.data.Source), held-out rows with training rows.

    Raises:
      InputError: for what cannot be drawn or measured, before anything is drawn.
    """
    check_names(measures)
    trained = {average: loading.load(workdir, average, step=checkpoint) for average in averages}
    run = trained[averages[0]]
    steps, grid = steps or run.settings.evaluation.steps, grid or run.settings.evaluation.grid
    for sampler, n in itertools.product(sampler_names, steps):
        samplers.check_sampler(sampler or run.settings.evaluation.sampler, n, grid, run.settings.method.path)
    conditionings = [] if samples else [run.conditioning(guidance, interval) for guidance in guidances]
    facts = generation.about(samples) if samples else {}
    real = _real_rows(run)
    names = real.judge.names(measures)
    facts = facts or {"count": num or len(real.reference["x"])}
    count = min(num or facts["count"], facts["count"])
    real.judge.check(count, names, resamples)
    if samples:
        drawn, number = _read(samples, facts, count, run.settings.data.name), 1
    else:
        labels = sampling.labels_like(real.reference.get("label"), run.num_classes, count)
        drawn = _draw(trained, steps, labels, seed, sampler_names, conditionings, grid)
        number = len(steps) * len(averages) * len(sampler_names) * len(guidances)

    rows = []
    with tqdm.tqdm(total=(2 + number) * len(names), desc="measures", delay=3, leave=False) as bar:
        for description, x, labels in drawn:
            rows.append(_row(description, count, real.judge(x, labels, names, resamples, bar.update)))
        rows += _references(real, run, count, seed, names, resamples, bar.update)
    return rows, _about(run, real, count, {"interval": interval, **facts})


def shown(rows: Sequence[Row]) -> list[Row]:
    """The rows to read: without the columns that are the same for all samples, or empty."""
    idle = {"steps"}  # "what" has them
    for name in ("sampler", "ema", "guidance"):
        if len({row[name] for row in rows} - {""}) < 2:
            idle.add(name)
    if all(row["evaluations"] in ("", row["steps"]) for row in rows):
        idle.add("evaluations")
    return [{name: value for name, value in row.items() if name not in idle} for row in rows]


def curves(rows: Sequence[Row]) -> tuple[dict[str, dict[str, list]], dict[str, dict[str, float]]]:
    """(panels, references) of flowjax.plots.measure_curves: measures against steps; a series a sampler, average and scale."""
    samples = [row for row in rows if row["steps"] != ""]
    differ = [name for name in ("sampler", "ema", "guidance") if len({row[name] for row in samples}) > 1]
    panels, references = {}, {}
    for measure in [name for name, value in rows[0].items() if isinstance(value, tuple)]:
        panels[measure] = {}
        for row in samples:
            series = ", ".join(f"{name} {row[name]}" if name != "sampler" else row[name] for name in differ) or "samples"
            panels[measure].setdefault(series, []).append((row["steps"], *row[measure]))
        references[measure] = {row["what"]: row[measure][0] for row in rows if row["what"] in (FLOOR, NOISE)}
    return panels, references


class _RealRows(NamedTuple):
    """Reference and held-out rows, {"x", "label"}; the judge of samples, and that of held-out rows."""

    reference: dict[str, np.ndarray]
    held_out: dict[str, np.ndarray]
    judge: evals.Judge
    floor: evals.Judge


def _real_rows(run: loading.Trained) -> _RealRows:
    test = run.source("test")
    held_out = data.arrays(test, limit=test.reference_rows)
    # Tokens are looked up, whatever their number; and what exists must not be cut.
    training = data.arrays(run.source("train"), limit=None if len(run.shape) == 2 else TRAINING_ROWS)["x"]
    reference = held_out if test.reference == "test" else data.arrays(run.source(test.reference), limit=test.reference_rows)
    data_dir = run.settings.data.dir
    judge = evals.judge(test, reference["x"], data_dir=data_dir, training=training, held_out=held_out["x"])
    return _RealRows(reference, held_out, judge, judge.of(training[: test.reference_rows]))


def _about(run: loading.Trained, real: _RealRows, count: int, facts: Mapping[str, Any]) -> str:
    """A sentence on what was compared with what; `facts` are those of a folder of samples, if they are not the run's."""
    about = (
        f"{facts.get('method', run.settings.method.name)}, {facts.get('run_step', run.step)} steps of training: {count} samples"
        f" against {len(real.reference['x'])} rows of {run.settings.data.name}; real rows: {len(real.held_out['x'])} held-out"
        f" ones against {len(real.floor.reference)} of training. {FOOTNOTE}"
    )
    times = facts["interval"]
    return about + (f" Guided at times from {times[0]} to {times[1]}." if times else "")


def _row(description: Row, count: int, measured: Mapping[str, tuple[float, float]]) -> Row:
    return {
        **dict.fromkeys(("what", "steps", "sampler", "ema", "guidance", "evaluations"), ""),
        **description,
        "rows": count,
        **measured,
    }


def _references(real: _RealRows, run: loading.Trained, count: int, seed: int, names, resamples: int, report) -> list[Row]:
    """The rows of held-out data, which is the floor, and of noise."""
    held_out = real.floor(real.held_out["x"], real.held_out.get("label"), names, resamples, report)
    if run.path.space is spaces.euclidean:
        noise = np.random.default_rng(seed).standard_normal((count, *run.shape), np.float32)
    else:
        noise = np.asarray(run.path.draw(jax.random.key(seed), (count, *run.shape)))
    noise = run.settings.data.scaling.undo(noise)
    labels = sampling.labels_like(real.reference.get("label"), run.num_classes, count)
    return [
        _row({"what": FLOOR}, len(real.held_out["x"]), held_out),
        _row({"what": NOISE}, count, real.judge(noise, labels, names, resamples, report)),
    ]


def _draw(
    trained: Mapping[str, loading.Trained], steps: Sequence[int], labels: np.ndarray, seed: int, sampler_names: Sequence[str],
    conditionings: Sequence[Mapping[str, Any]], grid: str,
) -> Iterator[tuple[Row, np.ndarray, np.ndarray]]:  # fmt: skip
    """Yields (description, samples, labels) of every combination; the noise is the same in all."""
    first = next(iter(trained.values()))
    for name, conditioning in itertools.product(sampler_names, conditionings):
        name, path = name or first.settings.evaluation.sampler, first.settings.method.path
        evaluations = samplers.sampler_from_name(name).evaluations
        sample = sampling.make_sampler(
            first.net, first.shape, name, conditioning, grid=grid, path=path, scaling=first.settings.data.scaling
        )
        for (average, run), n in itertools.product(trained.items(), steps):
            description = {
                **_description(n, name, average or run.settings.evaluation.average, conditioning.get("guidance")),
                "evaluations": evaluations(samplers.grid_from_name(grid)(n)) if evaluations else "",
            }
            yield description, sample(run.params, seed, labels, n, progress=True), labels


def _read(folder: str, facts: Mapping[str, Any], count: int, data_name: str) -> Iterator[tuple[Row, np.ndarray, np.ndarray]]:
    if facts["data"] != data_name:
        raise typing.InputError(f"--samples={folder} are of {facts['data']}, and the run is of {data_name}.")
    description = _description(facts["steps"], facts["sampler"], facts["average"], facts["guidance"])
    yield description, *generation.read(folder, count)


def _description(steps: int, sampler: str, average: str, scale: float | None) -> Row:
    """The first columns of a row of samples."""
    what = f"{steps} step{'s' if steps > 1 else ''}"
    return {"what": what, "steps": steps, "sampler": sampler, "ema": average, "guidance": "" if scale is None else scale}
