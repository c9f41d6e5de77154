"""The diffusion transformer with two times, for sequences of tokens."""

import functools
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from flowjax import typing
from flowjax.models import embeddings
from flowjax.models.dit import DiT, dense, from_zero
from flowjax.typing import Array, Time


class SequenceDiT(DiT):
    """A `DiT` whose rows are sequences of noisy one-hot tokens; every position attends to all.

    Its output has the shape of its input and starts at zero: logits of even categories under the parameterisation "categorical".

    Attributes:
      columns: tokens stand in rows of so many, such as the pixels of an image; 0: in one row.
    """

    columns: int = 0
    patch: ClassVar[int] = 1  # no field here

    @nn.compact
    def __call__(self, x: Array, s: Time, t: Time, cond=None) -> Array:
        """Tokens [B, L, K], times scalar or [B, 1, 1] in [0, 1], cond a dict of [B, ...] arrays -> like x."""
        h = self._tokens(x, cond)
        c = self._conditioning(x, s, t, cond)
        h = self._blocks(self.depth, "blocks")(h, c)[0]
        shift, scale = self._modulation(c)
        out = dense(x.shape[-1], jnp.dtype(self.dtype), "logits_out", nn.initializers.zeros)
        return out(self._norm(h) * (1 + scale) + shift).astype(x.dtype)

    def _tokens(self, x, cond):
        """Tokens [B, L, K] -> [B, L, width], with their positions added."""
        dtype, columns = jnp.dtype(self.dtype), self.columns or x.shape[1]
        if x.ndim != 3 or x.shape[1] % columns:
            raise typing.InputError(
                f"SequenceDiT: x has shape {x.shape}; expected [B, L, K], with L a multiple of {columns} columns."
            )
        if self.width % self.heads or self.width % 4:
            raise typing.InputError(f"SequenceDiT: width {self.width} must be a multiple of 4 and of {self.heads} heads.")
        positions = embeddings.grid_positions(x.shape[1] // columns, columns, self.width)
        h = dense(self.width, dtype, "token_in")(x.astype(dtype)) + jnp.asarray(positions, dtype)[None]
        first = lambda name: functools.partial(_cast, from_zero(self.width, dtype, name), dtype)
        return embeddings.beside(h, self.inputs, cond, x, first)


def _cast(layer, dtype, x):
    return layer(x.astype(dtype))
