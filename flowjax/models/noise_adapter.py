"""The noise adapter of Variational Flow Maps."""

import flax.linen as nn
import jax.numpy as jnp

from flowjax.typing import Array, Time

LEAST, MOST = -6.0, 3.0  # of a log-deviation, as in the published code for points


class NoiseAdapter(nn.Module):
    """`(seen, s, t, cond) -> [B, ..., 2]`, mean and log-deviation of noise, by two networks like V's; times are passed on.

    Networks whose last layer starts at zero answer at first with normal noise, whatever was seen.

    Attributes:
      net: a network of flowjax.models, of which each of the two has weights of its own, without its further inputs.
    """

    net: nn.Module

    @nn.compact
    def __call__(self, seen: Array, s: Time, t: Time, cond=None) -> Array:
        plain = {"inputs": ()} if getattr(self.net, "inputs", ()) else {}
        mean, log_deviation = (self.net.copy(name=name, **plain)(seen, s, t, cond) for name in ("mean", "log_deviation"))
        return jnp.stack([mean, jnp.clip(log_deviation, LEAST, MOST)], axis=-1)
