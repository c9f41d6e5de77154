"""Learned log-variances of the times of a jump: the weight that a loss gives to each pair of times, learned with it."""

import flax.linen as nn
import jax.numpy as jnp

from flowjax.models import embeddings
from flowjax.typing import Array, Time

PERIOD = 10_000.0  # the ratio of the fastest to the slowest frequency, as published for both


class LogVariance(nn.Module):
    """`(s, t) -> [rows]`: a linear layer of unit norm and without bias on sines and cosines of both times, so that it is bounded.

        lv(s, t) = w / |w| . (e(s) + e(t)),     e(t) = (cos(f_k t), sin(f_k t)),   f_k from 1 to 1/10,000,   |lv| <= sqrt(2 features)

    The bound, 16 for 128 features, is reached at most where s = t. The published code turns its weights back to one length after each
    update besides; here their length grows, which only slows the later updates. Its time is 1 minus ours: the same functions.

    Attributes:
      features: number of sines and cosines of a time, 128 as published.

    Reference: Boffi et al. 2025 (arXiv 2505.18825), the learned weight of its code; Karras et al. 2023, EDM2 (arXiv 2312.02696), eq. 22.
    """

    features: int = 128

    @nn.compact
    def __call__(self, s: Time, t: Time) -> Array:
        """Times [rows, 1, ..., 1] (or broadcasting to them) in [0, 1] -> log-variances [rows]."""
        s, t = _flat(s, t)
        weights = self.param("weights", nn.initializers.normal(1.0), (self.features,))
        direction = weights / (jnp.linalg.norm(weights) + 1e-4 * self.features**0.5)
        return sum(embeddings.fourier(time, self.features, PERIOD) for time in (s, t)) @ direction


class LinearLogVariance(nn.Module):
    """`(s, t) -> [rows]`, zero at the start and without a bound: a linear layer on sines and cosines of both times.

    Attributes:
      features: number of sines and cosines of a time, 128 as published.

    Reference: Lee, Yu and Shin 2025, Decoupled MeanFlow (arXiv 2510.24474), the log-variance of its code.
    """

    features: int = 128

    @nn.compact
    def __call__(self, s: Time, t: Time) -> Array:
        """Times [rows, 1, ..., 1] (or broadcasting to them) in [0, 1] -> log-variances [rows]."""
        h = jnp.concatenate([embeddings.fourier(time, self.features, PERIOD) for time in _flat(s, t)], axis=-1)
        return nn.Dense(1, kernel_init=nn.initializers.zeros)(h)[:, 0]


def _flat(s, t):
    return tuple(time.reshape(-1) for time in jnp.broadcast_arrays(jnp.asarray(s), jnp.asarray(t)))
