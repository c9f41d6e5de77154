"""The diffusion transformer of Terminal Velocity Matching, whose derivatives in its times are bounded."""

import flax.linen as nn
import jax.numpy as jnp

from flowjax import checks, conditioning
from flowjax.models import dit
from flowjax.typing import Array, Time

SEMI_LIPSCHITZ_SIZES = {**dit.DIT_SIZES, "XL": {**dit.DIT_SIZES["XL"], "heads": 18}}


def spectral(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """Initial weights [inputs, outputs], xavier normal over their largest singular value: no input grows."""
    weights = nn.initializers.xavier_normal()(key, shape, dtype)
    return weights / jnp.linalg.norm(weights, ord=2)


EMBEDDER_INITS = {"spectral": spectral, "normal": nn.initializers.normal(0.02)}


def rms_norm(h: Array, dtype) -> Array:
    """Features of mean square 1, without parameters; smooth at 0, where a modulation starts."""
    return nn.RMSNorm(use_scale=False, epsilon=1e-6, dtype=dtype)(h)


class Block(dit.Block):
    """A block of the DiT with RMS norms: before the modulation, of queries and keys, and of each part of the modulation."""

    def _modulation(self, c):
        return [rms_norm(part, self.dtype) for part in dit.Block._modulation(self, c)]

    def _linear(self, features, name):
        return dit.dense(features, self.dtype, name, spectral)

    def _norm(self, h):
        return rms_norm(h, self.dtype)

    def _queries_keys_values(self, h, shift, scale):
        q, k, v = dit.Block._queries_keys_values(self, h, shift, scale)
        norm = lambda name: nn.RMSNorm(epsilon=1e-6, dtype=self.dtype, name=name)
        return norm("q_norm")(q), norm("k_norm")(k), v


class SemiLipschitzDiT(dit.DiT):
    """A DiT whose layers are Lipschitz but for the attention: a loss that differentiates it in `t` needs that.

    RMS norms without parameters stand for layer norms, queries and keys are normed, and so is each part of a modulation; linear
    layers of blocks start with spectral norm 1. The guidance scale w is embedded as 1 / w.

    Attributes:
      scale_output: whether, with guidance, V is multiplied by w; published: yes, but for the scale 2.5 at 512 pixels.
      embedder_init: how the embedders of times and of the guidance scale start, "spectral" (norm 1; published for the scales 2 at
        256 pixels and 2.25 at 512) or "normal" (deviation 0.02; published for 1.75 at 256 and 2.5 at 512).

    The other attributes are those of DiT; its sizes are SEMI_LIPSCHITZ_SIZES.

    Reference: Zhou et al. 2025, Terminal Velocity Matching (arXiv 2511.19797).
    """

    scale_output: bool = True
    embedder_init: str = "spectral"

    _block = Block
    _features = {"guidance": lambda w: 1 / w}
    NOT_FROM_ZERO = ("guidance",)

    @nn.compact
    def __call__(self, x: Array, s: Time, t: Time, cond=None) -> Array:
        """Images [B, H, W, C], times scalar or [B, 1, 1, 1] in [0, 1], cond a dict of [B, ...] arrays -> V like x."""
        h = self._tokens(x, cond)
        c = self._conditioning(x, s, t, cond)
        V = self._image(self._blocks(self.depth, "blocks")(h, c)[0], c, x)
        if not ("guidance" in self.inputs and self.scale_output):
            return V
        return (V * conditioning.value("guidance", cond, x)[:, None, None, None]).astype(x.dtype)

    def _embed(self, name, **more):
        checks.member("embedder_init of a SemiLipschitzDiT", self.embedder_init, EMBEDDER_INITS)
        return dit.DiT._embed(self, name, init=EMBEDDER_INITS[self.embedder_init], **more)

    def _patch_in(self, dtype):
        # The authors divide by the spectral norm, too, but of a copy: what is trained starts xavier normal.
        return dit.dense(self.width, dtype, "patch_in", nn.initializers.xavier_normal())

    def _embed_input(self, name, times):
        return [self._embed(embedding, zero=name not in self.NOT_FROM_ZERO)(time) for embedding, time in times.items()]

    def _modulation(self, c):
        return [rms_norm(part, jnp.dtype(self.dtype)) for part in dit.DiT._modulation(self, c)]

    def _norm(self, h):
        return rms_norm(h, jnp.dtype(self.dtype))
