"""Measures between samples and data: pure functions of numpy arrays that return a Python float.

Every measure is deterministic and takes memory linear in the number of samples; rows are flattened, so images will do.
Samples that are not finite never flatter a model: distances become nan, and such samples cover and match nothing.
"""

from flowjax.evals import classifier
from flowjax.evals.assignment import wasserstein
from flowjax.evals.bootstrap import error_bar
from flowjax.evals.classifier import Classifier, agreement
from flowjax.evals.entropic import sinkhorn
from flowjax.evals.frechet import frechet
from flowjax.evals.kernels import mmd
from flowjax.evals.neighbours import copying, coverage, density, nearest_distance, precision, recall
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
    "mmd",
    "nearest_distance",
    "precision",
    "recall",
    "sinkhorn",
    "sliced_wasserstein",
    "wasserstein",
]
