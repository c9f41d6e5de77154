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
      The squared distance, >= 0, in squared units of the features; nan if a feature is not finite. Biased upwards at small n:
      compare only values from equal sample sizes.

    Raises:
      InputError: a set has fewer than two samples.

    Source: arXiv 1706.08500, equation 6. Covariances are the unbiased ones, as usual for FID.
    """
    x, y = transport.rows(x, y)
    if min(len(x), len(y)) < 2:
        raise typing.InputError(f"frechet: got {len(x)} and {len(y)} samples; a covariance takes at least 2 of each.")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return float("nan")
    cov_x, cov_y = (np.atleast_2d(np.cov(z, rowvar=False)) for z in (x, y))
    shift = x.mean(axis=0) - y.mean(axis=0)
    overlap = np.linalg.svd(_root(cov_x) @ _root(cov_y), compute_uv=False).sum()
    return float(np.maximum(shift @ shift + np.trace(cov_x) + np.trace(cov_y) - 2 * overlap, 0.0))


def _root(covariance: np.ndarray) -> np.ndarray:
    """Symmetric square root [D, D]; eigenvalues that rounding made negative count as 0."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
