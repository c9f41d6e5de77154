"""Measures of samples against the rows of one dataset, each with its error bar."""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from flowjax import data, typing
from flowjax.evals import bootstrap, classifier, features as networks, measures, neighbours


def judge(
    source: data.Source,
    reference: np.ndarray,
    *,
    data_dir: str = "",
    training: np.ndarray | None = None,
    held_out: np.ndarray | None = None,
    scale: np.ndarray | None = None,
) -> "Judge":
    """A Judge with the features and the decoder that a dataset names; the other arguments are those of Judge.

    Args:
      source: of any split.
      reference: rows to compare with, [n, ...].
      data_dir: of the dataset, see flowjax.data.load.
      training: rows that were learned from.
      held_out: rows that were not.
      scale: rows from which bandwidths are taken.
    """
    decode = networks.decoder(source, data_dir)
    rows = {"training": training, "held_out": held_out, "scale": scale}
    return Judge(
        decode(reference),
        space=source.space,
        features=networks.extractor(source, data_dir),
        decode=decode,
        **{name: None if array is None else decode(array) for name, array in rows.items()},
    )


def _decided(rows: np.ndarray) -> np.ndarray:
    """Sequences [n, L, K] as tokens [n, L]; other rows as they are."""
    return data.tokens.decided(rows) if rows.ndim == 3 else rows


class Judge:
    """Measures of samples against real rows.

    Args:
      reference: rows to compare with, points [n, D] or images [n, H, W, C] in [-1, 1].
      features: a Classifier, or None: then measures in features are not available.
      decode: what turns samples into such rows; None: nothing.
      training: the rows that were learned from, for the measures of copying; None: these are not available.
      held_out: real rows that were not learned from, likewise.
      scale: rows from which bandwidths are taken; None: the reference.
      space: the name of the flowjax.spaces.Space of the rows.
    """

    def __init__(
        self,
        reference: np.ndarray,
        *,
        features: classifier.Classifier | None = None,
        decode: Callable[[np.ndarray], np.ndarray] | None = None,
        training: np.ndarray | None = None,
        held_out: np.ndarray | None = None,
        scale: np.ndarray | None = None,
        space: str = "euclidean",
    ):
        self.reference, self._scale = reference, reference if scale is None else scale
        self._features, self._decode = features, decode or (lambda rows: rows)
        self._training, self._held_out, self._views, self._space = training, held_out, {}, space

    def of(self, reference: np.ndarray) -> "Judge":
        """This Judge with other reference rows; networks, training rows and bandwidths stay."""
        return Judge(
            self._decode(reference),
            features=self._features,
            decode=self._decode,
            training=self._training,
            held_out=self._held_out,
            scale=self._scale,
            space=self._space,
        )

    def names(self, chosen: Sequence[str] = (), *, during_training: bool = False) -> tuple[str, ...]:
        """The chosen measures, or all that suit the data.

        Args:
          chosen: names, see flowjax.evals.MEASURES; (): all that suit the data.
          during_training: those that evaluations during training have.

        Raises:
          InputError: for a name that is no measure, or one that needs features where the dataset names none.
        """
        measures.check_names(chosen)
        for name in chosen:
            if lacking := self._lacking(name):
                raise typing.InputError(f"--measures={name}: {lacking}; leave it out.")
        views = measures.views(self.reference.shape[1:], self._features is not None, self._space)
        return tuple(chosen) or tuple(name for name in measures.suited(views, during_training) if not self._lacking(name))

    def _lacking(self, name: str) -> str:
        """What a measure needs that is not there, "" if nothing."""
        against = measures.MEASURES[measures.base_name(name)].against
        if self._features is None and measures.in_features(name):
            return "its features are those of a network, and the dataset names none"
        if against == "labels" and self._features.logits is None:
            return "it needs a classifier, and the network of the dataset has features alone"
        if against.startswith("training") and (self._training is None or self._held_out is None and "tokens" in against):
            return "it needs the training rows"
        return ""

    def check(self, count: int, names: Sequence[str], resamples: int) -> None:
        """Raises InputError if so few samples cannot be measured."""
        least = 12 if resamples else 8  # halves of six, whose points have five neighbours
        if count < least:
            raise typing.InputError(f"--num={count}: the measures need at least {least} samples.")
        for name in names:
            width = self._view(name, self.reference[:1]).size
            if measures.base_name(name) == "frechet" and count <= width:
                raise typing.InputError(
                    f"{count} samples are too few for a Frechet distance in {width} dimensions: --num={width + 1} or more, or"
                    f" leave {name} out of --measures."
                )

    def __call__(
        self,
        samples: np.ndarray,
        labels: np.ndarray | None,
        names: Sequence[str],
        resamples: int = 0,
        report: Callable[[], object] = lambda: None,
    ) -> dict[str, tuple[float, float]]:
        """{name: (value, error)}: each measure with the standard error from that many half samples, nan for 0 of them.

        Args:
          samples: [n, ...], as the network makes them.
          labels: the classes that were sampled, [n], for the agreement; None: unlabelled.
          names: of `names`.
          resamples: halves drawn for the error bar, see flowjax.evals.error_bar.
          report: called after each measure.
        """
        samples, values = self._decode(samples), {}
        for name in names:
            function, *arrays = self._bound(name, samples, labels)
            error = bootstrap.error_bar(function, *arrays, resamples=resamples) if resamples else float("nan")
            values[name] = (function(*arrays), error)
            report()
        return values

    def values(self, samples: np.ndarray, labels: np.ndarray | None, names: Sequence[str]) -> dict[str, float]:
        """The measures without errors, {name: value}."""
        return {name: value for name, (value, _) in self(samples, labels, names).items()}

    def _bound(self, name: str, samples: np.ndarray, labels: np.ndarray | None) -> tuple:
        """(function, array, ...) of a measure by name; the arrays are what an error bar halves."""
        measure = measures.MEASURES[measures.base_name(name)]
        if measure.against == "labels":
            return lambda i: measure.of(self._features, samples[i], labels[i]), np.arange(len(samples))
        if measure.against in ("nothing", "no decision"):
            return measure.of, _decided(samples) if measure.against == "nothing" else samples
        if measure.against == "training tokens":
            counted = measure.of(*map(_decided, (samples, self._training, self._held_out)))  # looked up once for all halves
            return lambda kept: float(np.mean(kept)), counted
        if measure.against != "reference":
            distances = neighbours.nearest(samples[: measure.limit], self._training)
            return (measure.of, distances, *([self._held_out_distances] if measure.against == "training and held out" else []))
        limit = min(len(samples), len(self.reference), measure.limit) if measure.paired else measure.limit
        constants = (
            measure.scale(self._kept_view(name, self._scale)[: measure.limit].astype(np.float64)) if measure.scale else {}
        )
        constants |= {"space": self._space} if measure.geodesic else {}
        rows = self._view(name, samples[:limit]), self._kept_view(name, self.reference)[:limit]
        return functools.partial(measure.of, **constants), *rows

    def _kept_view(self, name: str, rows: np.ndarray) -> np.ndarray:
        """`_view` of an array of this Judge, made once."""
        key = id(rows), measures.in_features(name)
        if key not in self._views:
            self._views[key] = self._view(name, rows)
        return self._views[key]

    @functools.cached_property
    def _held_out_distances(self) -> np.ndarray:
        return neighbours.nearest(self._held_out[: measures.PAIRWISE_ROWS], self._training)

    def _view(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Rows as a measure sees them, [n, D]."""
        seen = self._features.features(rows) if measures.in_features(name) else _decided(rows)
        return np.asarray(seen).reshape(len(rows), -1)
