"""A multi-layer perceptron for points."""

import flax.linen as nn
import jax.numpy as jnp

from flowjax import conditioning
from flowjax.models import embeddings
from flowjax.typing import Array, Time


class MLP(nn.Module):
    """Average velocity of points: (x, s, s - t, inputs) -> V, with smooth activations.

    Attributes:
      num_classes: labels, 0 for none.
      width: of the hidden layers.
      depth: number of hidden layers.
      harmonics: each time enters as itself and as this many sines and cosines of pi, 2 pi, ...
      inputs: further inputs, keys of flowjax.conditioning.INPUTS; all start at zero.
      periodic: whether coordinates are angles, which enter as their cosines and sines, so that -180 and 180 degrees are one.
      dtype: "float32" or "bfloat16", of the computation; parameters are float32.
    """

    num_classes: int = 0
    width: int = 256
    depth: int = 3
    harmonics: int = 4
    inputs: tuple[str, ...] = ()
    periodic: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, s: Time, t: Time, cond=None) -> Array:
        """x [B, D], times scalar or [B, 1] in [0, 1], cond a dict of [B, ...] arrays or None -> V [B, D] in the dtype of x."""
        s, t = embeddings.flatten_times(s, x), embeddings.flatten_times(t, x)
        seen = jnp.concatenate([jnp.cos(x), jnp.sin(x)], axis=-1) if self.periodic else x
        h = jnp.concatenate([seen.astype(self.dtype), self._features(s), self._features(s - t)], axis=-1)
        h = self._conditioned(nn.Dense(self.width, dtype=self.dtype)(h), x, cond)
        return self._answer(self._hidden(h), x)

    def _conditioned(self, h: Array, x: Array, cond) -> Array:
        """The first hidden layer with label and further inputs added."""
        h = embeddings.beside(h, self.inputs, cond, x, self._from_zero)
        if self.num_classes:
            label = embeddings.LabelEmbedding(self.num_classes, self.width, dtype=self.dtype)
            h = h + label(conditioning.value("label", cond, x))
        return sum(embeddings.inputs(self.inputs, cond, x, self._embed, self._from_zero), h)

    def _hidden(self, h: Array) -> Array:
        """The hidden layers after the first."""
        for _ in range(self.depth - 1):
            h = nn.Dense(self.width, dtype=self.dtype)(nn.gelu(h))
        return h

    def _answer(self, h: Array, x: Array) -> Array:
        """The last layer, zero at first; like x."""
        return nn.Dense(x.shape[-1], kernel_init=nn.initializers.zeros, dtype=self.dtype)(nn.gelu(h)).astype(x.dtype)

    def _features(self, time: Array) -> Array:
        return embeddings.harmonics(time, self.harmonics).astype(self.dtype)

    def _embed(self, name: str, times: dict[str, Array]) -> list[Array]:
        """Of an input of one number, by the name of the input."""
        return [
            self._from_zero(name if len(times) == 1 else embedding)(self._features(time)) for embedding, time in times.items()
        ]

    def _from_zero(self, name: str) -> nn.Module:
        return nn.Dense(self.width, use_bias=False, kernel_init=nn.initializers.zeros, dtype=self.dtype, name=name)
