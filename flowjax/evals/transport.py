"""Distances between two clouds of points that need no features: sliced Wasserstein and energy distance."""

from collections.abc import Iterator

import numpy as np
from scipy.spatial import distance

from flowjax import typing

# A block of pairwise distances holds about this many numbers, 32 MiB in float64, however many samples there are.
_BLOCK = 2**22


def rows(*clouds: np.ndarray) -> list[np.ndarray]:
    """The clouds [n, ...] as float64 matrices [n, D] of one width.

    Raises:
      InputError: a cloud is empty, has no axis of samples, or differs from the first in its sample shape.
    """
    arrays = [np.asarray(cloud, dtype=np.float64) for cloud in clouds]
    for array in arrays:
        if array.ndim == 0 or array.size == 0:
            raise typing.InputError(f"evals: a cloud has shape {array.shape}; expected [n, ...] with n >= 1 samples.")
        if array.shape[1:] != arrays[0].shape[1:]:
            raise typing.InputError(
                f"evals: the clouds have shapes {arrays[0].shape} and {array.shape}; all axes but the first must agree."
            )
    return [array.reshape(len(array), -1) for array in arrays]


def distance_blocks(x: np.ndarray, y: np.ndarray) -> Iterator[np.ndarray]:
    """Euclidean distances between the rows of `x` [n, D] and all of `y` [m, D], in blocks [<= n, m] that follow `x`."""
    # cdist subtracts before it squares: coincident points are at distance 0 exactly, which the Gram-matrix trick would lose.
    step = max(1, _BLOCK // len(y))
    for start in range(0, len(x), step):
        yield distance.cdist(x[start : start + step], y)


def sliced_wasserstein(x: np.ndarray, y: np.ndarray, *, directions: int = 128, seed: int = 0) -> float:
    """Sliced Wasserstein-2 distance: the root of the mean squared 1-D W_2 over directions.

    `SW_2 = (mean over u of int_0^1 (Q_{u.x}(p) - Q_{u.y}(p))^2 dp)^(1/2)`

    `Q` are the step-shaped quantile functions of the projected samples, so the coupling is exact for unequal sizes as well.
    Same definition as `ot.sliced_wasserstein_distance` of POT.

    Args:
      x: samples [n, ...].
      y: samples [m, ...].
      directions: number of directions. In 2-D they are evenly spaced over the half circle.
      seed: seed of the random unit vectors that are used in any other dimension.

    Returns:
      The distance, >= 0, in the units of the data; nan if a sample is not finite.

    Example:
      >>> sliced_wasserstein(np.zeros((4, 1)), np.ones((3, 1)))
      1.0

    Source: Bonneel et al. 2015, Sliced and Radon Wasserstein Barycenters of Measures.
    """
    x, y = rows(x, y)
    n, m = len(x), len(y)
    # Quantiles jump at multiples of 1/n and of 1/m; counted in units of 1/(n m) these are integers, and nothing is rounded.
    jumps = np.union1d(np.arange(n + 1) * m, np.arange(m + 1) * n)
    weights, left = np.diff(jumps) / (n * m), jumps[:-1]
    squares = []
    with np.errstate(invalid="ignore"):
        for u in _unit_vectors(x.shape[1], directions, seed):
            gap = np.sort(x @ u)[left // m] - np.sort(y @ u)[left // n]
            squares.append(weights @ gap**2)
    return float(np.sqrt(np.mean(squares)))


def energy_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Energy distance, as V-statistics: every mean runs over all pairs, a sample with itself included.

    `(2 E|x - y| - E|x - x'| - E|y - y'|)^(1/2)`

    The V-statistic is never negative and vanishes if and only if the two clouds are equal; it is biased upwards by O(1/n + 1/m)
    under the root. In 1-D it agrees with `scipy.stats.energy_distance`.

    Args:
      x: samples [n, ...].
      y: samples [m, ...].

    Returns:
      The distance, >= 0, in root units of the data; nan if a sample is not finite.

    Source: Szekely and Rizzo 2013, Energy statistics: a class of statistics based on distances.
    """
    x, y = rows(x, y)
    # np.maximum passes a nan on, where max(0.0, nan) is 0.0: a perfect score for a model that diverged.
    return float(np.sqrt(np.maximum(2 * _mean_distance(x, y) - _mean_distance(x, x) - _mean_distance(y, y), 0.0)))


def _mean_distance(x: np.ndarray, y: np.ndarray) -> float:
    return sum(block.sum() for block in distance_blocks(x, y)) / (len(x) * len(y))


def _unit_vectors(dimension: int, count: int, seed: int) -> np.ndarray:
    """Unit vectors [count, dimension]."""
    if count < 1:
        raise typing.InputError(f"sliced_wasserstein: directions is {count}; expected at least 1.")
    if dimension == 2:
        angles = np.pi * np.arange(count) / count
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)
    normal = np.random.default_rng(seed).normal(size=(count, dimension))
    return normal / np.linalg.norm(normal, axis=1, keepdims=True)
