"""What samples are worth: the measures that suit a dataset, by name, each with its error bar."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tqdm

from flowjax import checks, data, evals, samplers, typing
from flowjax.training import evaluation, experiment, generation, networks

FLOOR, NOISE = "real, held out", "noise"  # rows of the table beside the samples

PAIRS, PLAN = 4_096, 2_048  # rows that enter a measure of all pairs, or one that looks for a transport plan


class Measure(NamedTuple):
    """A measure of samples against a reference.

    Attributes:
      of: `(samples, reference) -> float`.
      limit: how many rows of each it takes, None for all.
    """

    of: Callable
    limit: int | None = PAIRS


MEASURES = {
    "sliced_wasserstein": Measure(evals.sliced_wasserstein, None),
    "wasserstein": Measure(evals.wasserstein, PLAN),
    "sinkhorn": Measure(evals.sinkhorn, PLAN),
    "energy_distance": Measure(evals.energy_distance),
    "mmd": Measure(evals.mmd),
    "kid": Measure(lambda x, y: evals.mmd(x, y, kernel="polynomial")),
    "frechet": Measure(evals.frechet, None),
    "precision": Measure(lambda x, y: evals.precision(y, x)),
    "recall": Measure(lambda x, y: evals.recall(y, x)),
    "density": Measure(lambda x, y: evals.density(y, x)),
    "coverage": Measure(lambda x, y: evals.coverage(y, x)),
}
COPYING = ("nearest_distance", "copying")  # against the training rows
FEATURES = "_features"  # of a measure in the features of a classifier; _pixels, or nothing, is the data as it is
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
HEADLINES = {"digits": ("frechet_pixels", "frechet_features", "agreement", "precision", "recall", "copying")}
HIGHER = ("precision", "recall", "density", "coverage", "agreement")  # is better; of the others lower, but for copying: 1/2


class Judge:
    """Measures of samples against real rows.

    Args:
      reference: rows to compare with, [n, ...].
      training: the rows that were learned from, for the measures of copying.
      held_out: real rows that were not.
      classifier: a flowjax.evals.Classifier, or None.
    """

    def __init__(self, reference, training, held_out, classifier=None):
        self._reference, self._training, self._held_out, self._classifier = reference, training, held_out, classifier

    @property
    def count(self):
        """How many rows the samples are compared with."""
        return len(self._reference)

    def names(self, asked=()):
        """The measures that were asked for, or all that suit the data; raises InputError for one that there is not."""
        suited = POINTS + COPYING if self._reference.ndim == 2 else IMAGES + (CLASSIFIED if self._classifier else ())
        for name in asked:
            if name.endswith(FEATURES) or name == "agreement":
                if self._classifier is None:
                    raise typing.InputError(f"--measures={name}: there is a classifier for the digits alone; leave it out.")
            checks.member("measure", _base(name), (*MEASURES, *COPYING, "agreement"))
        return tuple(asked) or suited

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
            agrees = np.asarray(self._classifier.logits(samples)).argmax(axis=1) == labels
            agrees &= np.isfinite(np.asarray(samples)).reshape(len(samples), -1).all(axis=1)
            return lambda hits: float(hits.mean()), agrees
        if name == "copying":
            return lambda x, y: evals.copying(x, self._training, y), samples[:PAIRS], self._held_out[:PAIRS]
        if name == "nearest_distance":
            return lambda x: evals.nearest_distance(x, self._training), samples[:PAIRS]
        measure = MEASURES[_base(name)]
        rows = [array[: measure.limit] for array in (samples, self._reference)]
        if measure.of is evals.wasserstein:  # pairs row with row
            rows = [array[: min(map(len, rows))] for array in rows]
        if name.endswith(FEATURES):
            rows = [np.asarray(self._classifier.features(array)) for array in rows]
        return measure.of, *rows


def _base(name):
    return name.removesuffix(FEATURES).removesuffix("_pixels")


def evaluate(
    workdir, steps, *, num=0, seed=0, averages=("",), chosen=("",), guidances=(None,), grid="uniform", samples="", measures=(),
    resamples=16,
):  # fmt: skip
    """A table of what a run is worth: steps x averages x samplers x guidance, other real data, and noise, against real data.

    Args:
      workdir: the folder of a run.
      steps: numbers of steps, each at least 1.
      num: number of samples; 0: as many as there are real rows.
      seed: of the noise.
      averages: decays of averaged weights, "none" for the raw ones, "" for the run's first average.
      chosen: samplers, name and options; "" for the run's own.
      guidances: scales, of a student of a guided teacher; None for the middle of those it learned.
      grid: of times, name and options, or times.
      samples: a folder that flowjax.training.generation wrote, which is measured instead.
      measures: names, see MEASURES; (): those that suit the data.
      resamples: half samples for the error bars; 0: no error bars.

    Returns:
      (rows, about): rows `{"what", "steps", "sampler", "ema", "guidance", "evaluations", "rows", measure: (value, error), ...}`,
      and a sentence that says what was compared with what. The digits are compared with all 1,797, everything else with up to
      10,000 held-out rows; the real rows with others of their kind, which are not among them.
    """
    if num and num < 8:
        raise typing.InputError(f"--num={num}: the measures need at least 8 samples.")
    runs = {average: experiment.load(workdir, average) for average in averages}
    trained = runs[averages[0]]
    for asked in chosen:
        for n in steps:
            samplers.check(asked or trained.config.sampler, n, grid)
    judges, real, other = _judges(trained.config)
    names = judges["samples"].names(measures)
    drawn = _read(samples, num) if samples else _draw(runs, steps, num or len(real["x"]), seed, chosen, guidances, grid, real)
    total = (2 + (1 if samples else len(steps) * len(averages) * len(chosen) * len(guidances))) * len(names)

    rows, empty = [], dict.fromkeys(("what", "steps", "sampler", "ema", "guidance", "evaluations"), "")
    with tqdm.tqdm(total=total, desc="measures", delay=3, leave=False) as bar:
        for about, x, labels in drawn:
            scored = judges["samples"](x, labels, names, resamples, bar.update)
            rows.append({**empty, **about, "rows": len(x), **scored})
        scored = judges["floor"](other["x"], other.get("label"), names, resamples, bar.update)
        rows.append({**empty, "what": FLOOR, "rows": len(other["x"]), **scored})
        count = rows[0]["rows"]
        noise = np.random.default_rng(seed).standard_normal((count, *trained.shape), np.float32)
        scored = judges["samples"](
            noise, evaluation.labels_like(real.get("label"), trained.num_classes, count), names, resamples, bar.update
        )
        rows.append({**empty, "what": NOISE, "rows": count, **scored})
    name = trained.config.data.name
    about = (
        f"{trained.config.method.name}, {trained.step} steps of training: {count} samples against {len(real['x'])} rows of {name};"
        f" real rows: {len(other['x'])} against {judges['floor'].count} others."
    )
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


def _judges(config):
    """(judges of samples and of the floor, reference rows, real rows for the floor)."""
    limit = None if config.data.name == "digits" else 10_000
    rows_of = lambda split: data.arrays(data.load(config.data.name, split=split, data_dir=config.data.dir or None), limit=limit)
    held_out, training, classifier = rows_of("test"), rows_of("train"), None
    if config.data.name == "digits":
        real, other, against, classifier = (
            rows_of("train+test"),
            held_out,
            training,
            evaluation.digit_classifier(config.data.dir or None),
        )
    else:
        real, other, against = held_out, training, held_out
    own = (training["x"], held_out["x"], classifier)
    return {"samples": Judge(real["x"], *own), "floor": Judge(against["x"], *own)}, real, other


def _draw(runs, steps, count, seed, chosen, guidances, grid, real):
    """Yields (what it is, samples, labels) of every combination; the noise is the same in all."""
    for (average, run), name, guidance in itertools.product(runs.items(), chosen, guidances):
        name, scale, path = name or run.config.sampler, run.scale(guidance), networks.path_of(run.config)
        labels = evaluation.labels_like(real.get("label"), run.num_classes, count)
        sample = evaluation.make_sampler(run.net, run.shape, name, scale, grid=grid, path=path)
        for n in steps:
            evaluations = samplers.named(name).evaluations
            about = {
                "what": f"{n} step{'s' if n > 1 else ''}", "steps": n, "sampler": name,
                "ema": average or experiment.default_average(run.config), "guidance": "" if scale is None else scale,
                "evaluations": evaluations(samplers.named_grid(grid)(n)) if evaluations else "",
            }  # fmt: skip
            yield about, sample(run.params, seed, labels, n, progress=True), labels


def _read(folder, num):
    about = generation.about(folder)
    what = f"{about['steps']} step{'s' if about['steps'] > 1 else ''}"
    known = {"what": what, "ema": about["average"], "guidance": "" if about["guidance"] is None else about["guidance"]}
    yield {**known, "steps": about["steps"], "sampler": about["sampler"]}, *generation.read(folder, num or None)
