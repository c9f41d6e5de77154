"""Frechet distance between Gaussians fitted to two sets of features: FID, with features of your choice."""

import numpy as np

from flowjax import typing
from flowjax.evals import moments, transport


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
    return moments.frechet_distance(moments.of(x).gaussian(), moments.of(y).gaussian())
