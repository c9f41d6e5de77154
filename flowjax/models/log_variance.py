"""A learned log-variance of the times of a jump."""

import flax.linen as nn
import jax.numpy as jnp

from flowjax.models import embeddings
from flowjax.typing import Array, Time


class LogVariance(nn.Module):
    """`(s, t) -> [rows]`, zero at the start: the weight that a loss gives to each pair of times, learned with it.

    Attributes:
      width: of the hidden layer.
      harmonics: each time enters as itself and as this many sines and cosines of pi, 2 pi, ...
    """

    width: int = 64
    harmonics: int = 4

    @nn.compact
    def __call__(self, s: Time, t: Time) -> Array:
        """Times [rows, 1, ..., 1] (or broadcasting to them) in [0, 1] -> log-variances [rows]."""
        s, t = (time.reshape(-1) for time in jnp.broadcast_arrays(jnp.asarray(s), jnp.asarray(t)))
        h = jnp.concatenate([embeddings.harmonics(time, self.harmonics) for time in (s, t)], axis=-1)
        h = nn.gelu(nn.Dense(self.width)(h))
        return nn.Dense(1, kernel_init=nn.initializers.zeros)(h)[:, 0]
