"""Distances between two clouds of points that need no features: sliced Wasserstein and energy distance."""

from collections.abc import Callable, Iterator

import numpy as np
import scipy

from flowjax import typing

# A block of pairwise distances holds about this many numbers, 32 MiB in float64, however many samples there are.
_BLOCK = 2**22
# From this width on, distances come from a matrix product, which is several times faster there.
_WIDE = 16
# Squared distances below this share of the squared norms are taken again by subtraction: a product has lost their digits.
_NEAR = 1e-6


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


def finite(*clouds: np.ndarray) -> bool:
    """Whether all numbers are."""
    return all(np.isfinite(cloud).all() for cloud in clouds)


def centred(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both clouds less the mean of the finite rows of `y`, so that little cancels in `squared_distances` of wide rows."""
    if x.shape[1] < _WIDE:
        return x, y
    whole = np.isfinite(y).all(axis=1)
    centre = y[whole].mean(axis=0) if whole.any() else np.zeros(y.shape[1])
    return x - centre, y - centre


def distance_blocks(x: np.ndarray, y: np.ndarray) -> Iterator[np.ndarray]:
    """Euclidean distances between the rows of `x` [n, D] and all of `y` [m, D], in blocks [<= n, m] that follow `x`.

    Coincident rows are at distance 0 exactly. A row that is not finite has no finite distance, and spoils no other.
    """
    x, y = centred(x, y)
    for start, stop in _blocks(len(x), len(y)):
        yield distances(x[start:stop], y)


def product_blocks(x: np.ndarray, y: np.ndarray) -> Iterator[np.ndarray]:
    """Inner products of the rows of `x` [n, D] with all of `y` [m, D], in blocks [<= n, m] that follow `x`."""
    for start, stop in _blocks(len(x), len(y)):
        yield x[start:stop] @ y.T


def distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """All distances [n, m]: the roots of `squared_distances`."""
    squares = squared_distances(x, y)
    return np.sqrt(squares, out=squares)


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """All squared distances [n, m], to a relative 1e-8 or better if `centred`; coincident rows are at 0 exactly."""
    if x.shape[1] < _WIDE:
        return scipy.spatial.distance.cdist(x, y, "sqeuclidean")
    with np.errstate(invalid="ignore", over="ignore"):
        norms_x, norms_y = (np.einsum("ij,ij->i", z, z) for z in (x, y))
        squares = (-2 * x) @ y.T
        squares += norms_x[:, None]
        squares += norms_y
        largest = np.max(norms_y, initial=0.0, where=np.isfinite(norms_y))
        # np.nonzero is far faster along one axis than along two.
        i, j = np.divmod(np.flatnonzero(squares < (_NEAR * (norms_x + largest))[:, None]), len(y))
    if len(i) * x.shape[1] > _BLOCK:
        return scipy.spatial.distance.cdist(x, y, "sqeuclidean")
    squares[i, j] = ((x[i] - y[j]) ** 2).sum(axis=1)
    return squares


def mean_between(function: Callable, x: np.ndarray, y: np.ndarray) -> float:
    """Mean of `function(rows of x, y)`, [b, m] numbers, over all pairs of a row of `x` [n, D] and one of `y` [m, D]."""
    return sum(function(x[start:stop], y).sum() for start, stop in _blocks(len(x), len(y))) / (len(x) * len(y))


def mean_within(function: Callable, x: np.ndarray) -> float:
    """Mean of a symmetric `function` over the pairs of two different rows of `x` [n, D], n >= 2, each taken once."""
    total = 0.0
    for start, stop in _blocks(len(x), len(x), at_least=4):
        block = function(x[start:stop], x[start:])
        within, rest = block[:, : stop - start], block[:, stop - start :]
        total += within.sum() - np.trace(within) + 2 * rest.sum()
    return total / (len(x) * (len(x) - 1))


def _blocks(n: int, m: int, at_least: int = 1) -> Iterator[tuple[int, int]]:
    """Ranges of rows whose distances to `m` others fill a block, at least so many ranges."""
    step = max(1, min(_BLOCK // m, -(-n // at_least)))
    for start in range(0, n, step):
        yield start, min(start + step, n)


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
    vectors = unit_vectors(x.shape[1], directions, seed)
    if not finite(x, y):
        return float("nan")
    # Quantiles jump at multiples of 1/n and of 1/m; counted in units of 1/(n m) these are integers, and nothing is rounded.
    jumps = np.union1d(np.arange(n + 1) * m, np.arange(m + 1) * n)
    weights, left = np.diff(jumps) / (n * m), jumps[:-1]
    squares = []
    # A block of directions is one matrix product, over ten times as fast as one by one where rows are wide.
    for start, stop in _blocks(directions, n + m):
        a, b = (np.sort(vectors[start:stop] @ z.T, axis=1) for z in (x, y))
        gaps = a - b if n == m else a[:, left // m] - b[:, left // n]
        gaps **= 2
        squares.append(gaps.mean(axis=1) if n == m else gaps @ weights)
    return float(np.sqrt(np.mean(np.concatenate(squares))))


def energy_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Energy distance, as V-statistics: every mean runs over all pairs, a sample with itself included.

    `(2 E|x - y| - E|x - x'| - E|y - y'|)^(1/2)`

    The V-statistic is never negative and vanishes if and only if the two clouds are equal; it is biased upwards by O(1/n + 1/m)
    under the root. In 1-D it is that of `scipy.stats.energy_distance`, by sorting.

    Args:
      x: samples [n, ...].
      y: samples [m, ...].

    Returns:
      The distance, >= 0, in root units of the data; nan if a sample is not finite.

    Source: Szekely and Rizzo 2013, Energy statistics: a class of statistics based on distances.
    """
    x, y = rows(x, y)
    if not finite(x, y):
        return float("nan")
    if x.shape[1] == 1:
        return float(np.sqrt(2 * _cramer(x[:, 0], y[:, 0])))
    x, y = centred(x, y)
    cross = 2 * mean_between(distances, x, y)
    square = cross - sum(mean_within(distances, z) * (1 - 1 / len(z)) for z in (x, y) if len(z) > 1)
    # Equal clouds in another order differ by the rounding of the sums, which the root would blow up.
    return float(np.sqrt(square)) if square > 1e-14 * cross else 0.0


def _cramer(x: np.ndarray, y: np.ndarray) -> float:
    """Integral of the squared difference of the distribution functions of `x` [n] and `y` [m]: half the squared distance."""
    both = np.concatenate([x, y])
    order = np.argsort(both)
    # Steps of m and of -n in units of 1/(n m) are integers: after the last sample their sum is 0 exactly.
    steps = np.cumsum(np.where(order < len(x), len(y), -len(x)))[:-1] / (len(x) * len(y))
    return np.diff(both[order]) @ steps**2


def unit_vectors(dimension: int, count: int, seed: int) -> np.ndarray:
    """Unit vectors [count, dimension]."""
    if count < 1:
        raise typing.InputError(f"sliced_wasserstein: directions is {count}; expected at least 1.")
    if dimension == 2:
        angles = np.pi * np.arange(count) / count
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)
    normal = np.random.default_rng(seed).normal(size=(count, dimension))
    return normal / np.linalg.norm(normal, axis=1, keepdims=True)
