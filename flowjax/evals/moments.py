"""Mean and covariance of features that never lie in memory at once: `of` a part, `merged` in any order, `sums` over a mesh."""

import functools
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax import typing
from flowjax.evals import transport


class Gaussian(NamedTuple):
    """What a Frechet distance knows of a set of features.

    Attributes:
      mean: float64 [D].
      covariance: float64 [D, D], unbiased.
    """

    mean: np.ndarray
    covariance: np.ndarray


class Moments(NamedTuple):
    """Moments of a set of features, of which those of a union follow.

    Attributes:
      count: of features, n.
      mean: float64 [D].
      second: float64 [D, D], the sum of (f - mean) (f - mean)^T.
    """

    count: int
    mean: np.ndarray
    second: np.ndarray

    def gaussian(self) -> Gaussian:
        """Mean and unbiased covariance.

        Raises:
          InputError: there are fewer than 2 features.
        """
        if self.count < 2:
            raise typing.InputError(f"a covariance takes at least 2 samples, and there are {self.count}: draw more.")
        return Gaussian(self.mean, self.second / (self.count - 1))


def of(features: np.ndarray) -> Moments:
    """Moments of features [n, ...] in float64, n >= 1."""
    (x,) = transport.rows(features)
    # A product, because numpy's mean of many short rows takes most of the time of the whole distance.
    mean = np.full(len(x), 1 / len(x)) @ x
    x = x - mean
    return Moments(len(x), mean, x.T @ x)


def merged(parts: Iterable[Moments]) -> Moments:
    """Moments of the union of sets of features.

        mean = mean_a + d n_b / n,   second = second_a + second_b + d d^T n_a n_b / n,   d = mean_b - mean_a,   n = n_a + n_b

    Raises:
      InputError: there are no parts, or their features differ in width.

    Source: Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample variances".
    """
    parts = list(parts)
    if len({part.mean.shape for part in parts}) != 1:
        raise typing.InputError(
            f"moments of {len(parts)} parts with features of several widths cannot be merged; expected one width."
        )
    return functools.reduce(_union, parts)


def _union(a: Moments, b: Moments) -> Moments:
    n = a.count + b.count
    if not a.count or not b.count:
        return a if a.count else b
    d = b.mean - a.mean
    return Moments(n, a.mean + d * (b.count / n), a.second + b.second + np.outer(d, d) * (a.count * b.count / n))


class Sums(NamedTuple):
    """What a device adds up.

    Attributes:
      count: of features, [].
      total: the sum of f - shift, [D].
      gram: the sum of (f - shift) (f - shift)^T, [D, D].
    """

    count: jax.Array
    total: jax.Array
    gram: jax.Array


def sums(features: jax.Array, shift: jax.Array, real: jax.Array, axis: str | None = None) -> Sums:
    """Sums of features on a device, and over a mesh.

    The products are taken in the type of the features, with full precision; in float32 the covariance is off by some 1e-7 of its
    largest entries, in float64 by 1e-15.

    Args:
      features: [n, D].
      shift: [D], near the mean, such as the mean of the reference: large means would drown the deviations.
      real: [n], whether a row counts; rows that fill up a batch do not.
      axis: of the mesh, inside of shard_map: the sums are those of all its devices. None: of this device alone.
    """
    x = (features - shift[None]) * real[:, None].astype(features.dtype)
    gram = jnp.matmul(x.T, x, precision=jax.lax.Precision.HIGHEST)
    found = Sums(real.sum(dtype=jnp.int32), x.sum(axis=0), gram)
    return found if axis is None else jax.lax.psum(found, axis)


def of_sums(found: Sums, shift: np.ndarray) -> Moments:
    """Moments of what devices have added up, for `merged` with those of other batches."""
    count = int(found.count)
    total, gram, shift = (np.asarray(array, np.float64) for array in (found.total, found.gram, shift))
    offset = total / max(count, 1)
    return Moments(count, shift + offset, gram - np.outer(offset, offset) * count)


def frechet_distance(x: Gaussian, y: Gaussian, root_y: np.ndarray | None = None) -> float:
    """The squared Frechet distance between two Gaussians, see flowjax.evals.frechet.

    Args:
      x, y: means and covariances of one width.
      root_y: the root of the covariance of `y`, from `root`, if it is known: it takes half of the time.

    Returns:
      The squared distance, >= 0; nan if a number is not finite.

    Raises:
      InputError: the widths differ.
    """
    if x.mean.shape != y.mean.shape:
        raise typing.InputError(
            f"a Frechet distance takes features of one width, and there are {len(x.mean)} and {len(y.mean)}: the networks differ."
        )
    if not transport.finite(*x, *y):
        return float("nan")
    shift = x.mean - y.mean
    overlap = np.linalg.svd(root(x.covariance) @ (root(y.covariance) if root_y is None else root_y), compute_uv=False).sum()
    return float(np.maximum(shift @ shift + np.trace(x.covariance) + np.trace(y.covariance) - 2 * overlap, 0.0))


def root(covariance: np.ndarray) -> np.ndarray:
    """Symmetric square root [D, D]; eigenvalues that rounding made negative count as 0."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
