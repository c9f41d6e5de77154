"""A multi-layer perceptron for points."""

import flax.linen as nn
import jax.numpy as jnp

from flowjax.models import embeddings


class MLP(nn.Module):
    """Average velocity of points: (x, s, s - t, label) -> V, with smooth activations.

    Attributes:
      num_classes: labels, 0 for none.
      width: of the hidden layers.
      depth: number of hidden layers.
      harmonics: each time enters as itself and as this many sines and cosines of pi, 2 pi, ...
      guidance: whether cond["guidance"] [B], scales of at least 1, enters as 1 - 1 / w; from zero, so that it changes nothing at first.
      interval: whether cond["interval"] [B, 2], the times between which the map is guided, enters; from zero likewise.
      dtype: "float32" or "bfloat16", of the computation; parameters are float32.
    """

    num_classes: int = 0
    width: int = 256
    depth: int = 3
    harmonics: int = 4
    guidance: bool = False
    interval: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x, s, t, cond=None):
        """x [B, D], times scalar or [B, 1] in [0, 1], cond {"label": [B]} or None -> V [B, D] in the dtype of x."""
        s, t = embeddings.flatten_times(s, x), embeddings.flatten_times(t, x)
        times = [embeddings.harmonics(time, self.harmonics).astype(self.dtype) for time in (s, s - t)]
        h = jnp.concatenate([x.astype(self.dtype), *times], axis=-1)
        h = nn.Dense(self.width, dtype=self.dtype)(h)
        if self.num_classes:
            label = (cond or {}).get("label")
            h = h + embeddings.LabelEmbedding(self.num_classes, self.width, dtype=self.dtype)(label, x.shape[0])
        told = [embeddings.guidance_scale(cond, x)] if self.guidance else []
        told += embeddings.interval(cond, x) if self.interval else ()
        for name, number in zip(["guidance"] * self.guidance + ["interval_low", "interval_high"], told):
            number = embeddings.harmonics(number, self.harmonics).astype(self.dtype)
            from_zero = nn.Dense(self.width, use_bias=False, kernel_init=nn.initializers.zeros, dtype=self.dtype, name=name)
            h = h + from_zero(number)
        for _ in range(self.depth - 1):
            h = nn.Dense(self.width, dtype=self.dtype)(nn.gelu(h))
        return nn.Dense(x.shape[-1], kernel_init=nn.initializers.zeros, dtype=self.dtype)(nn.gelu(h)).astype(x.dtype)
