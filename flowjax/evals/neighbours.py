"""Precision and recall of samples by nearest neighbours: quality and coverage, told apart."""

import numpy as np

from flowjax import typing
from flowjax.evals import transport


def recall(real: np.ndarray, fake: np.ndarray, k: int = 5) -> float:
    """Coverage: the share of real points that lie within the k-th-nearest-neighbour radius of some fake point.

    Args:
      real: points or features [n, ...].
      fake: points or features [m, ...], m > k. Neighbours are taken among the fakes, the point itself excluded.
      k: the neighbour whose distance is the radius of a fake point's ball.

    Returns:
      A share in [0, 1]. It grows with the radii, hence with k and with a smaller m: compare equal sizes only.

    Raises:
      InputError: `k` is below 1 or not below the number of fake points.

    Source: arXiv 1904.06991, equation 2.
    """
    return _covered(real, fake, k)


def precision(real: np.ndarray, fake: np.ndarray, k: int = 5) -> float:
    """Quality: the share of fake points that lie within the k-th-nearest-neighbour radius of some real point.

    The mirror image of `recall`, with the same arguments; here `k` must be below the number of real points.

    Source: arXiv 1904.06991, equation 2.
    """
    return _covered(fake, real, k)


def _covered(points: np.ndarray, support: np.ndarray, k: int) -> float:
    """Share of `points` [n, ...] within the balls of radius "distance to the k-th neighbour" around `support` [m, ...]."""
    points, support = transport.rows(points, support)
    if not 1 <= k < len(support):
        raise typing.InputError(f"evals: k is {k}; with {len(support)} points a point has {len(support) - 1} neighbours.")
    # The point itself is the 0-th of its own row, so that index k is the k-th other point.
    radii = np.concatenate([np.partition(block, k, axis=1)[:, k] for block in transport.distance_blocks(support, support)])
    radii[~np.isfinite(radii)] = -1.0  # a point at infinity would have an infinite ball, and cover everything
    inside = [(block <= radii).any(axis=1) for block in transport.distance_blocks(points, support)]
    return float(np.concatenate(inside).mean())
