"""Frechet distance between Gaussians fitted to two sets of features: FID, with features of your choice."""

import numpy as np

from flowjax import typing
from flowjax.evals import moments, transport


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """Squared Frechet (Wasserstein-2) distance between the Gaussians fitted to two sets of features.

    `|mu - mu'|^2 + tr(C + C' - 2 (C C')^(1/2))`

    The last trace is the sum of the singular values of `C^(1/2) C'^(1/2)`, with the symmetric roots from an eigen-decomposition
    in float64: nothing is inverted, so covariances may be singular (fewer samples than features, constant features). With few samples
    for the features they are those of `X X'^T / ((n - 1) (m - 1))^(1/2)`, of the centred features, which is smaller.

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
    few, many = sorted((len(x), len(y)))
    if few**2 * many >= x.shape[1] ** 3:
        return moments.frechet_distance(moments.of(x).gaussian(), moments.of(y).gaussian())
    shift = x.mean(axis=0) - y.mean(axis=0)
    x, y = ((z - z.mean(axis=0)) / np.sqrt(len(z) - 1) for z in (x, y))
    overlap = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return max(float(shift @ shift + (x * x).sum() + (y * y).sum() - 2 * overlap), 0.0)
