"""Matching by moments: the Frechet distance between a population of samples, of which a batch is the newest part, and data."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flowjax.typing import Array, Time

sg = jax.lax.stop_gradient


class Moments(NamedTuple):
    """Mean [d] and second moment [d, d] of features; so defined, moments of two sets have the mean of both as those of their union."""

    mean: Array
    second: Array

    @property
    def covariance(self) -> Array:
        """[d, d]."""
        return self.second - jnp.outer(self.mean, self.mean)


def moments(features: Array, mean: Callable[[Array], Array] | None = None) -> Moments:
    """The Moments of features [B, d]; `mean` takes the mean over rows, that over all devices for a batch on a mesh."""
    mean = (lambda rows: jnp.mean(rows, axis=0)) if mean is None else mean
    return Moments(mean(features), mean(features[:, :, None] * features[:, None, :]))


def frechet(found: Moments, reference: Moments) -> Array:
    """The squared Frechet distance of two Gaussians by their moments.

        |mu - mu_R|^2 + tr S + tr S_R - 2 sum_i sqrt(lambda_i),     lambda the eigenvalues of S_R^1/2 S S_R^1/2, none below 0

    Its gradient is finite, also where a covariance has no full rank.

    Example:
      >>> one = lambda mean, std: Moments(jnp.array([mean]), jnp.array([[mean**2 + std**2]]))
      >>> round(float(frechet(one(1.0, 2.0), one(4.0, 1.0))), 3)
      10.0
    """
    S, S_R = found.covariance, reference.covariance
    values, vectors = jnp.linalg.eigh(S_R)
    root = (vectors * jnp.sqrt(jnp.maximum(values, 0))[None]) @ vectors.T
    eigenvalues = jnp.linalg.eigvalsh(root @ S @ root)
    least = jnp.finfo(S.dtype).eps * jnp.maximum(jnp.trace(S_R), 1e-30) ** 2
    roots = jnp.where(eigenvalues > least, jnp.sqrt(jnp.where(eigenvalues > least, eigenvalues, 1.0)), 0.0)
    return jnp.sum((found.mean - reference.mean) ** 2) + jnp.trace(S) + jnp.trace(S_R) - 2 * jnp.sum(roots)


def fd_loss(population: Moments, batch: Moments, reference: Moments, decay: Time, *, floor: float = 0.01) -> Array:
    """FD-loss: the Frechet distance of a population whose newest part is the batch, the only part that has a gradient.

        FD / (sg FD + floor),     moments  b sg population + (1 - b) batch

    The value is near 1 whatever FD is, so that losses of several features weigh alike; FD itself is what to watch. The gradient has the
    factor 1 - b, which Adam takes away and plain descent does not.

    Args:
      population: Moments of the features of samples so far.
      batch: Moments of the features of this batch of samples.
      reference: Moments of the features of data.
      decay: b.
      floor: as published.

    Returns:
      The loss, one number.

    Reference: Yang et al. 2026, Representation Frechet Loss (arXiv 2604.28190); decay and floor from its released code.
    """
    FD = frechet(mixed(population, batch, decay), reference)
    return FD / (sg(FD) + floor)


def mixed(population: Moments, batch: Moments, decay: Time) -> Moments:
    """Moments of the population with the batch in it; no gradient reaches the old ones."""
    return jax.tree.map(lambda old, new: decay * sg(old) + (1 - decay) * new, population, batch)
