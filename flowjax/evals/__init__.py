"""Measures between samples and data: pure functions of numpy arrays that return a Python float.

Every measure is deterministic; rows are flattened, so images will do. Memory is linear in the number of samples, but for
`wasserstein`, which takes at most 4,096 of them.
Samples that are not finite never flatter a model: distances become nan, and such samples cover and match nothing.
"""

from flowjax.evals import classifier
from flowjax.evals.assignment import wasserstein
from flowjax.evals.bootstrap import error_bar
from flowjax.evals.classifier import Classifier, agreement
from flowjax.evals.entropic import sinkhorn
from flowjax.evals.frechet import frechet
from flowjax.evals.kernels import median_distance, mmd
from flowjax.evals.neighbours import copying, coverage, density, nearest, nearest_distance, precision, recall, smaller
from flowjax.evals.transport import energy_distance, sliced_wasserstein

__all__ = [
    "Classifier",
    "agreement",
    "classifier",
    "copying",
    "coverage",
    "density",
    "energy_distance",
    "error_bar",
    "frechet",
    "median_distance",
    "mmd",
    "nearest",
    "nearest_distance",
    "precision",
    "recall",
    "sinkhorn",
    "sliced_wasserstein",
    "smaller",
    "wasserstein",
]
