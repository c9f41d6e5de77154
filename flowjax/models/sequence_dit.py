"""The diffusion transformer with two times, for sequences of tokens."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from flowjax import typing
from flowjax.models import embeddings
from flowjax.models.dit import DiT, dense, from_zero
from flowjax.typing import Array, Time


class SequenceDiT(DiT):
    """A `DiT` whose rows are sequences of noisy one-hot tokens; every position attends to all.

    Its output has the shape of its input: logits under the parameterisation "categorical". With `evidence` they start as what each noisy
    token says by itself, and the network sees the probabilities that follow beside the tokens; without, they start even.

    Attributes:
      columns: tokens stand in rows of so many, such as the pixels of an image; 0: in one row.
      patch: neighbouring tokens that share a position: squares of this side if there are columns, else so many in a row.
      evidence: whether logits start from the likelihood of each noisy token, `evidence(x, s)`.
    """

    columns: int = 0
    patch: int = 1
    evidence: bool = True

    @nn.compact
    def __call__(self, x: Array, s: Time, t: Time, cond=None) -> Array:
        """Tokens [B, L, K], times scalar or [B, 1, 1] in [0, 1], cond a dict of [B, ...] arrays -> like x."""
        known = evidence(x, s) if self.evidence else None
        h = self._tokens(x, cond, known)
        c = self._conditioning(x, s, t, cond)
        h = self._blocks(self.depth, "blocks")(h, c)[0]
        shift, scale = self._modulation(c)
        features = self._gathered(x).shape[-1]
        out = dense(features, jnp.dtype(self.dtype), "logits_out", nn.initializers.zeros)
        logits = self._spread(out(self._norm(h) * (1 + scale) + shift), x)
        return (logits if known is None else logits + known).astype(x.dtype)

    def _tokens(self, x, cond, known=None):
        """Tokens [B, L, K] -> [B, positions, width], with the positions added."""
        dtype, columns = jnp.dtype(self.dtype), self.columns or x.shape[1]
        squares = self.patch if self.columns else 1
        if x.ndim != 3 or x.shape[1] % (columns * squares) or columns % self.patch:
            raise typing.InputError(
                f"SequenceDiT: x has shape {x.shape}; expected [B, L, K], with L a multiple of {columns} columns"
                + (f", in patches of {self.patch}." if self.patch > 1 else ".")
            )
        if self.width % self.heads or self.width % 4:
            raise typing.InputError(f"SequenceDiT: width {self.width} must be a multiple of 4 and of {self.heads} heads.")
        positions = embeddings.grid_positions(x.shape[1] // (columns * squares), columns // self.patch, self.width)
        h = dense(self.width, dtype, "token_in")(self._gathered(x).astype(dtype)) + jnp.asarray(positions, dtype)[None]
        if known is not None:
            # Spread so that a sure token is as large as its position.
            likely = nn.Dense(
                self.width, use_bias=False, kernel_init=nn.initializers.normal(0.5), dtype=dtype, name="likely_in"
            )
            h = h + likely(self._gathered(jax.nn.softmax(known)).astype(dtype))
        first = lambda name: functools.partial(self._cast, from_zero(self.width, dtype, name), dtype)
        return embeddings.beside(h, self.inputs, cond, x, first)

    def _cast(self, layer, dtype, x):
        return layer(self._gathered(x).astype(dtype))

    def _gathered(self, x):
        """Tokens [B, L, K] -> those of each position side by side, [B, positions, tokens of a position * K]."""
        if not self.columns:
            return x.reshape(x.shape[0], -1, self.patch * x.shape[-1])
        return embeddings.patches(self._image_of(x), self.patch, "SequenceDiT")

    def _spread(self, h, x):
        """The inverse of `_gathered`, to the shape of x."""
        if not self.columns:
            return h.reshape(x.shape)
        return embeddings.image(h, self._image_of(x), self.patch).reshape(x.shape)

    def _image_of(self, x):
        return x.reshape(x.shape[0], -1, self.columns, x.shape[-1])


def evidence(x: Array, s: Time) -> Array:
    """The log-likelihood of each category, up to a constant, from one noisy token (1 - s) x0 + s eps with normal noise of deviation 1.

        (1 - s) x / (s^2 + 0.01)

    The exact one has s^2 alone; tokens are certain long before 0.1.

    Args:
      x: [B, L, K].
      s: times, scalar or [B, 1, 1].

    Returns:
      Like x.
    """
    return (1 - s) / (s**2 + 0.01) * x
