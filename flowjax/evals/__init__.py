"""Measures between samples and data: pure functions of numpy arrays that return a Python float.

Every measure is deterministic; rows are flattened, so images will do. Memory is linear in the number of samples, but for
`wasserstein`, which takes at most 4,096 of them.
Samples that are not finite never flatter a model: distances become nan, and such samples cover and match nothing.

`MEASURES` lists them by name, with the data that they suit; a `Judge` applies them to the samples of one dataset, in the
features of the network that the dataset names.
"""

from flowjax.evals import classifier, features, measures, moments, protocols
from flowjax.evals.assignment import wasserstein
from flowjax.evals.bootstrap import error_bar
from flowjax.evals.classifier import Classifier, agreement
from flowjax.evals.entropic import sinkhorn
from flowjax.evals.features import DECODERS, EXTRACTORS
from flowjax.evals.frechet import frechet
from flowjax.evals.inception_scores import inception_score
from flowjax.evals.judge import Judge, judge
from flowjax.evals.kernels import geodesic_mmd, median_distance, mmd
from flowjax.evals.likelihood import likelihood_bound
from flowjax.evals.measures import MEASURES, Measure
from flowjax.evals.neighbours import copying, coverage, density, nearest, nearest_distance, precision, recall, smaller
from flowjax.evals.tokens import certainty, distinct, existing, ngram_distance, unseen
from flowjax.evals.transport import energy_distance, sliced_wasserstein

__all__ = [
    "Classifier",
    "DECODERS",
    "EXTRACTORS",
    "Judge",
    "MEASURES",
    "Measure",
    "agreement",
    "certainty",
    "classifier",
    "copying",
    "coverage",
    "density",
    "distinct",
    "energy_distance",
    "error_bar",
    "existing",
    "features",
    "frechet",
    "geodesic_mmd",
    "inception_score",
    "judge",
    "likelihood_bound",
    "measures",
    "median_distance",
    "mmd",
    "moments",
    "nearest",
    "nearest_distance",
    "ngram_distance",
    "precision",
    "protocols",
    "recall",
    "sinkhorn",
    "sliced_wasserstein",
    "smaller",
    "unseen",
    "wasserstein",
]
