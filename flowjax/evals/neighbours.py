"""Measures by nearest neighbours: precision, recall, density and coverage of samples, and whether they are copies."""

import numpy as np
import scipy

from flowjax import typing
from flowjax.evals import transport

# Up to this width a k-d tree finds neighbours faster than all distances do.
_TREE = 8


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


def density(real: np.ndarray, fake: np.ndarray, k: int = 5) -> float:
    """Quality: in how many real points' balls a fake point lies on average, over k. One outlier among the reals counts little.

    `1/(k m) sum_j sum_i 1[|fake_j - real_i| < distance of real_i to its k-th neighbour]`

    Args:
      real: points or features [n, ...], n > k. Neighbours are taken among the reals, the point itself excluded.
      fake: points or features [m, ...].
      k: the neighbour whose distance is the radius of a real point's ball.

    Returns:
      A number >= 0, 1 on average for fakes that are distributed like the reals; above 1 for fakes that crowd where reals do.

    Raises:
      InputError: `k` is below 1 or not below the number of real points.

    Source: arXiv 2002.09797, equation 3.
    """
    real, fake = transport.rows(real, fake)
    # A ball is open, as in the authors' code, and rounding does not close it: the k-th neighbour itself does not count, and the
    # real points have density 1.
    radii = _radii(real, k) * (1 - 1e-8)
    return float(sum((block < radii).sum() for block in transport.distance_blocks(fake, real)) / (k * len(fake)))


def coverage(real: np.ndarray, fake: np.ndarray, k: int = 5) -> float:
    """Coverage: the share of real points whose k-th-nearest-neighbour ball holds a fake point.

    `1/n sum_i 1[min_j |fake_j - real_i| < distance of real_i to its k-th neighbour]`

    Args:
      real: points or features [n, ...], n > k. Neighbours are taken among the reals, the point itself excluded.
      fake: points or features [m, ...].
      k: the neighbour whose distance is the radius of a real point's ball.

    Returns:
      A share in [0, 1]; about 1 - 2^(-k) for as many fakes that are distributed like the reals.

    Raises:
      InputError: `k` is below 1 or not below the number of real points.

    Source: arXiv 2002.09797, equation 4.
    """
    real, fake = transport.rows(real, fake)
    return float(np.mean(_nearest(real, fake) < _radii(real, k)))


def nearest_distance(samples: np.ndarray, training: np.ndarray) -> float:
    """Mean distance of a sample to the nearest training row: 0 for copies.

    What is small depends on the data; `copying` compares with rows that were held out.

    Args:
      samples: points or features [n, ...].
      training: points or features [m, ...].

    Returns:
      The distance, >= 0, in the units of the data; nan if a number is not finite.
    """
    return float(nearest(samples, training).mean())


def copying(samples: np.ndarray, training: np.ndarray, held_out: np.ndarray) -> float:
    """Probability that a sample lies nearer to the training rows than a held-out row does.

    `P(d(sample) < d(held-out)) + P(d(sample) = d(held-out)) / 2,  d = distance to the nearest training row`

    The Mann-Whitney statistic over its number of pairs. Outliers count as far away: read it beside a measure of quality.

    Args:
      samples: points or features [n, ...].
      training: points or features [m, ...].
      held_out: points or features [l, ...] that were not trained on.

    Returns:
      A probability: 1/2 for samples like held-out data, 1 for copies, near 0 for samples far from the data; nan if a number is
        not
      finite.

    Source: Meehan et al. 2020, arXiv 2004.05675, section 3: their statistic is the z-score of this one.
    """
    transport.rows(samples, training, held_out)
    return smaller(nearest(samples, training), nearest(held_out, training))


def nearest(samples: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Distance [n] of each sample to the nearest training row; nan for all of them if a number is not finite."""
    samples, training = transport.rows(samples, training)
    return _nearest(samples, training) if transport.finite(samples, training) else np.full(len(samples), np.nan)


def nearest_rows(samples: np.ndarray, training: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest training row of each sample.

    Args:
      samples: points or features [n, ...], finite.
      training: points or features [m, ...], finite.

    Returns:
      (its number [n], its distance [n]).
    """
    samples, training = transport.rows(samples, training)
    ids = _nearest_row(samples, training)
    return ids, np.sqrt(((samples - training[ids]) ** 2).sum(axis=1))


def smaller(values: np.ndarray, others: np.ndarray) -> float:
    """Probability that one of `values` [n] is smaller than one of `others` [m], ties half; nan if a number is not finite."""
    if not transport.finite(values, others):
        return float("nan")
    others = np.sort(others)
    not_above = np.searchsorted(others, values, side="right") + np.searchsorted(others, values, side="left")
    return float(1 - not_above.mean() / (2 * len(others)))


def _covered(points: np.ndarray, support: np.ndarray, k: int) -> float:
    """Share of `points` [n, ...] within the balls of radius "distance to the k-th neighbour" around `support` [m, ...]."""
    points, support = transport.rows(points, support)
    radii = _radii(support, k)
    inside = [(block <= radii).any(axis=1) for block in transport.distance_blocks(points, support)]
    return float(np.concatenate(inside).mean())


def _radii(support: np.ndarray, k: int) -> np.ndarray:
    """Distance of each row of `support` [m, D] to its k-th neighbour, -1 (an empty ball) if that is not finite."""
    if not 1 <= k < len(support):
        raise typing.InputError(f"evals: k is {k}; with {len(support)} points a point has {len(support) - 1} neighbours.")
    radii, whole = np.full(len(support), -1.0), np.isfinite(support).all(axis=1)
    support = support[whole]
    if k >= len(support):
        return radii
    # The point itself is the 0-th of its row, so that index k is the k-th other point.
    if support.shape[1] <= _TREE:
        radii[whole] = scipy.spatial.cKDTree(support).query(support, k=[k + 1])[0][:, 0]
    else:
        # The copy lets the block go, of which a column is a view.
        blocks = transport.distance_blocks(support, support)
        radii[whole] = np.concatenate([np.partition(block, k, axis=1)[:, k].copy() for block in blocks])
    return radii


def _nearest(points: np.ndarray, support: np.ndarray) -> np.ndarray:
    """Distance [n] of each row of `points` to the nearest finite row of `support`; infinite if there is none."""
    lengths, whole = np.full(len(points), np.inf), np.isfinite(points).all(axis=1)
    points, support = points[whole], support[np.isfinite(support).all(axis=1)]
    if not len(points) or not len(support):
        return lengths
    if points.shape[1] <= _TREE:
        lengths[whole] = scipy.spatial.cKDTree(support).query(points)[0]
    else:
        lengths[whole] = np.sqrt(((points - support[_nearest_row(points, support)]) ** 2).sum(axis=1))
    return lengths


def _nearest_row(points: np.ndarray, support: np.ndarray) -> np.ndarray:
    """Index [n] of the nearest row of `support`, by matrix products; the caller subtracts, so that nothing cancels."""
    centre = support.mean(axis=0)
    points, support = points - centre, support - centre
    # One more column takes the norms into the product: its largest entry is at the nearest row.
    half_norms = np.einsum("ij,ij->i", support, support)[:, None] / 2
    points, support = np.hstack([points, -np.ones((len(points), 1))]), np.hstack([support, half_norms])
    return np.concatenate([np.argmax(block, axis=1) for block in transport.product_blocks(points, support)])
