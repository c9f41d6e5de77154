"""Frechet distance between Gaussians fitted to two sets of features: FID, with features of your choice."""

import numpy as np

from flowjax import typing
from flowjax.evals import transport


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """Squared Frechet (Wasserstein-2) distance between the Gaussians fitted to two sets of features.

    `|mu - mu'|^2 + tr(C + C' - 2 (C C')^(1/2))`

    The last trace is the sum of the singular values of `C^(1/2) C'^(1/2)`, with the symmetric roots from an eigen-decomposition
    in float64: nothing is inverted, so covariances may be singular (fewer samples than features, constant features).

    Args:
      x: features [n, ...], n >= 2.
      y: features [m, ...], m >= 2.

    Returns:
      The squared distance, >= 0, in squared units of the features; nan if a feature is not finite. Biased upwards at small n,
      strongly so below the number of features: compare only values from equal sample sizes.

    Raises:
      InputError: a set has fewer than two samples.

    Source: arXiv 1706.08500, equation 6. Covariances are the unbiased ones, as usual for FID.
    """
    x, y = transport.rows(x, y)
    if min(len(x), len(y)) < 2:
        raise typing.InputError(
            f"frechet: got {len(x)} and {len(y)} samples, too few for a Frechet distance; a covariance takes at least 2 of"
            f" each, and a reliable one more than the {x.shape[1]} features: draw more samples."
        )
    if not transport.finite(x, y):
        return float("nan")
    (mean_x, cov_x), (mean_y, cov_y) = _moments(x), _moments(y)
    shift = mean_x - mean_y
    overlap = np.linalg.svd(_root(cov_x) @ _root(cov_y), compute_uv=False).sum()
    return float(np.maximum(shift @ shift + np.trace(cov_x) + np.trace(cov_y) - 2 * overlap, 0.0))


def _moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] and unbiased covariance [D, D] of the rows."""
    # A product, because numpy's mean of many short rows takes most of the time of the whole distance.
    mean = np.full(len(x), 1 / len(x)) @ x
    x = x - mean
    return mean, x.T @ x / (len(x) - 1)


def _root(covariance: np.ndarray) -> np.ndarray:
    """Symmetric square root [D, D]; eigenvalues that rounding made negative count as 0."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
