"""Every measure of samples once, by name, and the data that it suits.

A measure sees rows in one of four views: points as they are (POINTS_VIEW), images as they are (PIXELS_VIEW), sequences by their
likeliest tokens (TOKENS_VIEW), and images or sequences by the features of the network that their dataset names (FEATURES_VIEW). An entry of `MEASURES` names the views for which the table of
`experiments.evaluate` has the measure, and those for which the evaluations during training have it. A new measure is a new
entry. Points of another space than R^n are a view of their own (SPACE_VIEW).
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from flowjax import checks
from flowjax.evals import assignment, classifier, entropic, frechet, kernels, neighbours, tokens, transport

POINTS_VIEW, PIXELS_VIEW, TOKENS_VIEW, FEATURES_VIEW = "points", "pixels", "tokens", "features"
SPACE_VIEW = "space"
PAIRWISE_ROWS, PLAN_ROWS = 4_096, 2_048  # most rows for a measure of all pairs, and for one that solves for a transport plan


class Measure(NamedTuple):
    """A measure of samples.

    Attributes:
      of: the function. Its arguments follow from `against`: `(samples, reference, **scale)`; of distances to the nearest
        training row, `(of samples [n])` or `(of samples [n], of held-out rows [m])`; `(classifier, samples, labels)`; of tokens
        `(samples, training rows, held-out rows) -> bool [n]`, whose mean it is, or `(samples)`.
      against: "reference", "training", "training and held out", "labels", "training tokens", "nothing" (tokens of samples), or "no
        decision" (samples as they are).
      limit: most rows of each that are taken, None for all.
      paired: whether it takes as many samples as reference rows.
      geodesic: whether it takes the name of the data's space, as the keyword `space`.
      scale: `reference [n, D] -> {keyword: number}`, constants of the measure; taken once for a table, so that its rows
        compare.
      table: views for which `experiments.evaluate` has it by default.
      during_training: views for which the evaluations during training have it.
      higher_is_better: else lower is.
    """

    of: Callable[..., float]
    against: str = "reference"
    limit: int | None = PAIRWISE_ROWS
    paired: bool = False
    geodesic: bool = False
    scale: Callable[[np.ndarray], dict[str, float]] | None = None
    table: tuple[str, ...] = ()
    during_training: tuple[str, ...] = ()
    higher_is_better: bool = False


IMAGE_VIEWS = (PIXELS_VIEW, FEATURES_VIEW)
_RAW = (POINTS_VIEW, PIXELS_VIEW)

MEASURES: dict[str, Measure] = {
    "sliced_wasserstein": Measure(
        transport.sliced_wasserstein, limit=None, table=(POINTS_VIEW,), during_training=(POINTS_VIEW,)
    ),
    "wasserstein": Measure(assignment.wasserstein, limit=PLAN_ROWS, paired=True, table=(POINTS_VIEW,)),
    "sinkhorn": Measure(
        entropic.sinkhorn, limit=PLAN_ROWS, table=(POINTS_VIEW,), scale=lambda y: {"epsilon": 0.05 * float(y.var(axis=0).sum())}
    ),
    "energy_distance": Measure(transport.energy_distance, table=(POINTS_VIEW,), during_training=(POINTS_VIEW,)),
    "mmd": Measure(kernels.mmd, table=(POINTS_VIEW, FEATURES_VIEW), scale=lambda y: {"bandwidth": kernels.median_distance(y)}),
    "geodesic_mmd": Measure(kernels.geodesic_mmd, geodesic=True, table=(SPACE_VIEW,), during_training=(SPACE_VIEW,)),
    "kid": Measure(lambda x, y: kernels.mmd(x, y, kernel="polynomial")),
    "frechet": Measure(frechet.frechet, limit=None, table=IMAGE_VIEWS, during_training=IMAGE_VIEWS),
    "precision": Measure(
        lambda x, y: neighbours.precision(y, x), table=_RAW, during_training=(PIXELS_VIEW,), higher_is_better=True
    ),
    "recall": Measure(lambda x, y: neighbours.recall(y, x), table=_RAW, during_training=(PIXELS_VIEW,), higher_is_better=True),
    "density": Measure(lambda x, y: neighbours.density(y, x), table=_RAW, higher_is_better=True),
    "coverage": Measure(lambda x, y: neighbours.coverage(y, x), table=_RAW, higher_is_better=True),
    "nearest_distance": Measure(lambda distances: float(distances.mean()), "training", table=_RAW),
    "copying": Measure(neighbours.smaller, "training and held out", table=_RAW),
    "agreement": Measure(
        classifier.agreement, "labels", None, table=(FEATURES_VIEW,), during_training=(FEATURES_VIEW,), higher_is_better=True
    ),
    **{
        name: Measure(
            functools.partial(tokens.ngram_distance, n=n), limit=None, table=(TOKENS_VIEW,), during_training=(TOKENS_VIEW,)
        )
        for n, name in enumerate(("unigrams", "bigrams", "trigrams"), 1)
    },
    "existing": Measure(tokens.exist, "training tokens", None, table=(TOKENS_VIEW,), higher_is_better=True),
    "unseen": Measure(tokens.are_unseen, "training tokens", None, table=(TOKENS_VIEW,), higher_is_better=True),
    "distinct": Measure(
        tokens.distinct, "nothing", None, table=(TOKENS_VIEW,), during_training=(TOKENS_VIEW,), higher_is_better=True
    ),
    "certainty": Measure(
        tokens.certainty, "no decision", None, table=(TOKENS_VIEW,), during_training=(TOKENS_VIEW,), higher_is_better=True
    ),
}


def base_name(name: str) -> str:
    """The key in MEASURES of a name, which may end in a view: frechet of "frechet_features"."""
    return name.removesuffix(f"_{FEATURES_VIEW}").removesuffix(f"_{PIXELS_VIEW}")


def in_features(name: str) -> bool:
    """Whether a measure needs the network that the dataset names."""
    return name.endswith(f"_{FEATURES_VIEW}") or MEASURES[base_name(name)].against == "labels"


def higher_is_better(name: str) -> bool:
    """Whether samples are better where a measure is higher; False for a name that is no measure."""
    return base_name(name) in MEASURES and MEASURES[base_name(name)].higher_is_better


def views(shape: tuple[int, ...], features: bool, space: str = "euclidean") -> tuple[str, ...]:
    """The views of rows of a shape, with a network for features or without one; `space` is the name of a flowjax.spaces.Space."""
    if space != "euclidean":
        return (SPACE_VIEW,)
    rows = {1: POINTS_VIEW, 2: TOKENS_VIEW}.get(len(shape), PIXELS_VIEW)
    return (rows, FEATURES_VIEW) if features and len(shape) > 1 else (rows,)


def suited(views: Sequence[str], during_training: bool = False) -> tuple[str, ...]:
    """Names of the measures in the table for data with these views, or in the evaluations during training."""
    of = lambda measure: measure.during_training if during_training else measure.table
    return tuple(_name(name, view) for view in views for name, measure in MEASURES.items() if view in of(measure))


def _name(name: str, view: str) -> str:
    """The name of a measure in a view: with the view where the measure has both views of images by default."""
    measure = MEASURES[name]
    if view == FEATURES_VIEW and measure.against == "reference":
        return f"{name}_{FEATURES_VIEW}"
    return f"{name}_{PIXELS_VIEW}" if view == PIXELS_VIEW and FEATURES_VIEW in measure.table else name


def check_names(names: Sequence[str]) -> None:
    """Raises InputError for a name that is no measure, or a view that a measure does not have."""
    views = [f"{name}_{view}" for name, measure in MEASURES.items() if measure.against == "reference" for view in IMAGE_VIEWS]
    for name in names:
        if name not in views:
            checks.member("measure", name, MEASURES)
