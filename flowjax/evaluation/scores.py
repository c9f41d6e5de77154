"""What samples are worth: the measures that suit a dataset, by name, each with its error bar."""

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tqdm

from flowjax import checks, data, evals, samplers, typing
from flowjax.evaluation import generation
from flowjax.training import evaluation, loading

FLOOR, NOISE = "real, held out", "noise"  # rows of the table beside the samples
PAIRS, PLAN = 4_096, 2_048  # rows that enter a measure of all pairs, or one that looks for a transport plan
ROWS, TRAINING = (
    10_000,
    100_000,
)  # real rows to compare with, but for the digits; training rows among which copies are looked for


class Measure(NamedTuple):
    """A measure of samples against a reference.

    Attributes:
      of: `(samples, reference, **scale) -> float`.
      limit: how many rows of each it takes, None for all.
      scale: `reference -> {keyword: number}`, what it is measured with; one for the whole table, so that its rows compare.
    """

    of: Callable
    limit: int | None = PAIRS
    scale: Callable = lambda reference: {}


MEASURES = {
    "sliced_wasserstein": Measure(evals.sliced_wasserstein, None),
    "wasserstein": Measure(evals.wasserstein, PLAN),
    "sinkhorn": Measure(evals.sinkhorn, PLAN, lambda y: {"epsilon": 0.05 * float(y.var(axis=0).sum())}),
    "energy_distance": Measure(evals.energy_distance),
    "mmd": Measure(evals.mmd, PAIRS, lambda y: {"bandwidth": evals.median_distance(y)}),
    "kid": Measure(lambda x, y: evals.mmd(x, y, kernel="polynomial")),
    "frechet": Measure(evals.frechet, None),
    "precision": Measure(lambda x, y: evals.precision(y, x)),
    "recall": Measure(lambda x, y: evals.recall(y, x)),
    "density": Measure(lambda x, y: evals.density(y, x)),
    "coverage": Measure(lambda x, y: evals.coverage(y, x)),
}
COPYING = ("nearest_distance", "copying")  # against the training rows
FEATURES = "_features"  # of a measure in the features of a classifier
PIXELS = "_pixels"  # of the data as it is, as a measure without an ending
POINTS = (
    "sliced_wasserstein",
    "wasserstein",
    "sinkhorn",
    "energy_distance",
    "mmd",
    "precision",
    "recall",
    "density",
    "coverage",
)
IMAGES = ("frechet_pixels", "recall", "precision", "density", "coverage", *COPYING)
CLASSIFIED = ("frechet_features", "mmd_features", "agreement")
HEADLINES = ("frechet_pixels", "frechet_features", "agreement", "precision", "recall", "copying")  # of the digits
SAID = (
    f"Pairwise measures take the first {PAIRS:,} rows of each, those that look for a plan {PLAN:,}; after ± the standard error from"
    " random halves."
)


class Judge:
    """Measures of samples against real rows.

    Args:
      reference: rows to compare with, [n, ...].
      training: the rows that were learned from, for the measures of copying.
      held_out: real rows that were not.
      classifier: a flowjax.evals.Classifier, or None.
      scale: rows from which bandwidths are taken; None: the reference.
    """

    def __init__(self, reference, training, held_out, classifier=None, scale=None):
        self.reference, self._training, self._classifier = reference, training, classifier
        self._scale = reference if scale is None else scale
        self._unseen = lambda: evals.nearest(held_out[:PAIRS], training)

    def names(self, asked=()):
        """The measures that were asked for, or all that suit the data; raises InputError for one that there is not."""
        suited = POINTS + COPYING if self.reference.ndim == 2 else IMAGES + (CLASSIFIED if self._classifier else ())
        known = (*MEASURES, *(f"{name}{end}" for name in MEASURES for end in (PIXELS, FEATURES)), *COPYING, "agreement")
        for name in asked:
            if name not in known:
                checks.member("measure", name, (*MEASURES, *COPYING, "agreement"))
            if (name.endswith(FEATURES) or name == "agreement") and self._classifier is None:
                raise typing.InputError(f"--measures={name}: there is a classifier for the digits alone; leave it out.")
        return tuple(asked) or suited

    def check(self, count, names, resamples):
        """Raises InputError if so few samples cannot be measured."""
        least = 12 if resamples else 8  # halves of six, whose points have five neighbours
        if count < least:
            raise typing.InputError(f"--num={count}: the measures need at least {least} samples.")
        for name in names:
            width = self._view(name, self.reference[:1]).size
            if _base(name) == "frechet" and count <= width:
                raise typing.InputError(
                    f"{count} samples are too few for a Frechet distance in {width} dimensions: --num={width + 1} or more, or leave"
                    f" {name} out of --measures."
                )

    def __call__(self, samples, labels, names, resamples=0, report=lambda: None):
        """{name: (value, error)}: each measure with the standard error from that many half samples, nan for 0 of them.

        Args:
          samples: [n, ...].
          labels: that were asked for, [n]; for the agreement.
          names: of `names`.
          resamples: halves drawn for the error bar, see flowjax.evals.error_bar.
          report: called after each measure.
        """
        found = {}
        for name in names:
            of, *arrays = self._measure(name, samples, labels)
            error = evals.error_bar(of, *arrays, resamples=resamples) if resamples else float("nan")
            found[name] = (of(*arrays), error)
            report()
        return found

    def _measure(self, name, samples, labels):
        """(function, array, ...) of a measure by name."""
        if name == "agreement":
            return lambda i: evals.agreement(self._classifier, samples[i], labels[i]), np.arange(len(samples))
        if name in COPYING:
            distances = evals.nearest(samples[:PAIRS], self._training)
            mean = lambda own: float(own.mean())
            return (evals.smaller, distances, self._unseen()) if name == "copying" else (mean, distances)
        measure = MEASURES[_base(name)]
        rows = [array[: measure.limit] for array in (samples, self.reference)]
        if measure.of is evals.wasserstein:  # pairs row with row
            rows = [array[: min(map(len, rows))] for array in rows]
        scale = measure.scale(self._view(name, self._scale[: measure.limit]).astype(np.float64))
        return functools.partial(measure.of, **scale), *(self._view(name, array) for array in rows)

    def _view(self, name, rows):
        """Rows as a measure sees them, [n, D]."""
        return np.asarray(self._classifier.features(rows) if name.endswith(FEATURES) else rows).reshape(len(rows), -1)


def _base(name):
    return name.removesuffix(FEATURES).removesuffix(PIXELS)


def evaluate(
    workdir, steps=(), *, num=0, seed=0, averages=("",), checkpoint="", chosen=("",), guidances=(None,), interval=(), grid="uniform",
    samples="", measures=(), resamples=16,
):  # fmt: skip
    """A table of what a run is worth: steps x averages x samplers x guidance, other real data, and noise, against real data.

    Args:
      workdir: the folder of a run.
      steps: numbers of steps, each at least 1; (): those of its config.
      num: number of samples; 0: as many as there are real rows.
      seed: of the noise.
      averages: decays of averaged weights, "none" for the raw ones, "" for the run's first average.
      checkpoint: its step, or "best", by the run's config.best; "": the newest.
      chosen: samplers, name and options; "" for the run's own.
      guidances: scales, of a run that learned several; None for the median of them.
      interval: times (low, high) between which to guide, of a run that learned several; (): the widest.
      grid: of times, name and options, or times.
      samples: a folder that flowjax.evaluation.generation wrote, which is measured instead, however it was drawn.
      measures: names, see MEASURES; (): those that suit the data.
      resamples: half samples for the error bars; 0: no error bars.

    Returns:
      (rows, about): rows `{"what", "steps", "sampler", "ema", "guidance", "evaluations", "rows", measure: (value, error), ...}`,
      and a sentence that says what was compared with what. The digits are compared with all 1,797, everything else with up to
      10,000 held-out rows; held-out rows with training rows.

    Raises:
      InputError: for whatever cannot be drawn or measured, before anything is drawn.
    """
    runs = {average: loading.load(workdir, average, step=checkpoint) for average in averages}
    trained = runs[averages[0]]
    steps = steps or trained.settings.evaluation.steps
    for asked, n in itertools.product(chosen, steps):
        samplers.check_sampler(asked or trained.settings.evaluation.sampler, n, grid)
    judge, floor, real, held_out = _judges(trained.settings.data)
    names = judge.names(measures)
    facts = generation.about(samples) if samples else {"count": num or len(real["x"])}
    count = min(num or facts["count"], facts["count"])
    judge.check(count, names, resamples)
    if samples:
        drawn, ways = _read(samples, facts, count, trained.settings.data.name), 1
    else:
        ways_told = [trained.conditioning(guidance, interval) for guidance in guidances]
        drawn = _draw(runs, steps, count, seed, chosen, ways_told, grid, real)
        ways = len(steps) * len(averages) * len(chosen) * len(guidances)

    rows, empty = [], dict.fromkeys(("what", "steps", "sampler", "ema", "guidance", "evaluations"), "")
    with tqdm.tqdm(total=(2 + ways) * len(names), desc="measures", delay=3, leave=False) as bar:
        for about, x, labels in drawn:
            rows.append({**empty, **about, "rows": count, **judge(x, labels, names, resamples, bar.update)})
        scored = floor(held_out["x"], held_out.get("label"), names, resamples, bar.update)
        rows.append({**empty, "what": FLOOR, "rows": len(held_out["x"]), **scored})
        noise = np.random.default_rng(seed).standard_normal((count, *trained.shape), np.float32)
        scored = judge(
            noise, evaluation.labels_like(real.get("label"), trained.num_classes, count), names, resamples, bar.update
        )
        rows.append({**empty, "what": NOISE, "rows": count, **scored})
    method, done = facts.get("method", trained.settings.method.name), facts.get("run_step", trained.step)
    about = (
        f"{method}, {done} steps of training: {count} samples against {len(real['x'])} rows of {trained.settings.data.name};"
        f" real rows: {len(held_out['x'])} held-out ones against {len(floor.reference)} of training. {SAID}"
    )
    if asked := facts.get("interval") or interval:
        about += f" Guided at times from {asked[0]} to {asked[1]}."
    return rows, about


def shown(rows):
    """The rows to read: without the columns that say the same of all samples, or nothing."""
    idle = {"steps"}  # which "what" says
    for name in ("sampler", "ema", "guidance"):
        if len({row[name] for row in rows} - {""}) < 2:
            idle.add(name)
    if all(row["evaluations"] in ("", row["steps"]) for row in rows):
        idle.add("evaluations")
    return [{name: value for name, value in row.items() if name not in idle} for row in rows]


def curves(rows):
    """(panels, references) of flowjax.plots.measure_curves: each measure against the steps, a series for each way of sampling."""
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


def _judges(section):
    """(judge of samples, judge of held-out rows, reference rows, held-out rows)."""
    digits = section.name == "digits"
    rows_of = lambda split, limit: data.arrays(
        data.load(section.name, split=split, data_dir=section.dir or None), limit=None if digits else limit
    )
    held_out, training = rows_of("test", ROWS), rows_of("train", TRAINING)["x"]
    classifier = evaluation.digit_classifier(section.dir or None) if digits else None
    real = rows_of("train+test", ROWS) if digits else held_out
    judge = Judge(real["x"], training, held_out["x"], classifier)
    floor = Judge(training if digits else training[:ROWS], training, held_out["x"], classifier, scale=real["x"])
    return judge, floor, real, held_out


def _draw(runs, steps, count, seed, chosen, ways_told, grid, real):
    """Yields (what it is, samples, labels) of every combination; the noise is the same in all."""
    run = next(iter(runs.values()))
    labels = evaluation.labels_like(real.get("label"), run.num_classes, count)
    for name, told in itertools.product(chosen, ways_told):
        name, path = name or run.settings.evaluation.sampler, run.settings.method.path
        evaluations = samplers.sampler_from_name(name).evaluations
        sample = evaluation.make_sampler(run.net, run.shape, name, told, grid=grid, path=path)
        for (average, own), n in itertools.product(runs.items(), steps):
            about = {
                **_way(n, name, average or run.settings.evaluation.average, told.get("guidance")),
                "evaluations": evaluations(samplers.grid_from_name(grid)(n)) if evaluations else "",
            }
            yield about, sample(own.params, seed, labels, n, progress=True), labels


def _read(folder, facts, count, name):
    if facts["data"] != name:
        raise typing.InputError(f"--samples={folder} are of {facts['data']}, and the run is of {name}.")
    yield _way(facts["steps"], facts["sampler"], facts["average"], facts["guidance"]), *generation.read(folder, count)


def _way(steps, sampler, average, scale):
    """What a row of samples is."""
    what = f"{steps} step{'s' if steps > 1 else ''}"
    return {"what": what, "steps": steps, "sampler": sampler, "ema": average, "guidance": "" if scale is None else scale}
