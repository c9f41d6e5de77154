"""LightningDiT: a DiT with RMS norms, normed queries and keys, rotary positions and gated MLPs; as FACM and drifting publish it."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from flowjax import typing
from flowjax.models import attention, dit, embeddings

# Published: FACM's XL with patches of 1, drifting's B and L with patches of 2 on latents and 16 on pixels.
LIGHTNING_SIZES = dit.DIT_SIZES
GUIDANCE_WEIGHT = 0.02  # of drifting's embedding of the guidance scale
DIGITS = 2.0**12  # drifting's codes are digits of the noise behind this one: as good as independent of it


class Block(nn.Module):
    """Attention and gated MLP, modulated and gated from zero."""

    width: int
    heads: int
    hidden: int
    dtype: jnp.dtype
    attention: str

    @nn.compact
    def __call__(self, h, c, angles):
        """Tokens [B, N, width], conditioning [B, width] and rotary angles [N, head_dim / 2] -> (tokens, None), as nn.scan wants it."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = dit.keep_matmuls(Block._modulation)(self, c)
        q, k, v = dit.keep_matmuls(Block._queries_keys_values)(self, h, shift_a, scale_a, angles)
        y = attention.attention(q, k, v, implementation=self.attention).reshape(h.shape)
        return dit.keep_matmuls(Block._mixed)(self, h, y, gate_a, shift_m, scale_m, gate_m), None

    def _modulation(self, c):
        modulation = dit.dense(6 * self.width, self.dtype, "modulation", nn.initializers.zeros)(nn.silu(c))
        return jnp.split(modulation[:, None], 6, axis=-1)

    def _queries_keys_values(self, h, shift, scale, angles):
        qkv = dit.dense(3 * self.width, self.dtype, "qkv")(rms_norm("attention_norm", self.dtype)(h) * (1 + scale) + shift)
        q, k, v = (z.reshape(*z.shape[:2], self.heads, -1) for z in jnp.split(qkv, 3, axis=-1))
        q, k = rms_norm("q_norm", angles.dtype)(q), rms_norm("k_norm", angles.dtype)(k)
        return *(embeddings.rotated(z, angles).astype(v.dtype) for z in (q, k)), v

    def _mixed(self, h, y, gate_a, shift, scale, gate_m):
        h = h + gate_a * dit.dense(self.width, self.dtype, "attention_out")(y)
        y = rms_norm("mlp_norm", self.dtype)(h) * (1 + scale) + shift
        y = nn.silu(dit.dense(self.hidden, self.dtype, "mlp_gate")(y)) * dit.dense(self.hidden, self.dtype, "mlp_in")(y)
        return h + gate_m * dit.dense(self.width, self.dtype, "mlp_out")(y)


def rms_norm(name: str, dtype) -> nn.RMSNorm:
    """A norm with a learned scale."""
    return nn.RMSNorm(epsilon=1e-6, dtype=dtype, name=name)


class LightningDiT(dit.DiT):
    """A DiT with RMS norms, rotary positions on the grid and SwiGLU, of one embedded time: 1 - s + 2 t.

    FACM's published networks embed u = 1 - s for the jump V(x, s, 0) and 2 - u = 1 + s for the velocity V(x, s, s), their "expanded
    interval"; 1 - s + 2 t is both, and linear. Between t = 0 and t = s nothing was published.

    Attributes:
      hidden_multiple: to a multiple of it the hidden width of the MLP, two thirds of mlp_ratio times the width, is rounded up.

    The other attributes are those of DiT.

    Reference: Yao et al. 2025 (arXiv 2501.01423); Peng et al. 2025, FACM (arXiv 2507.03738).
    """

    hidden_multiple: int = 1

    @nn.compact
    def __call__(self, x: typing.Array, s: typing.Time, t: typing.Time, cond=None) -> typing.Array:
        """Images [B, H, W, C], times scalar or [B, 1, 1, 1] in [0, 1], cond a dict of [B, ...] arrays -> V like x."""
        if self.width % (4 * self.heads):
            raise typing.InputError(
                f"{type(self).__name__}: width {self.width} must be a multiple of 4 times {self.heads} heads, for rotary positions."
            )
        c = self._conditioning(x, s, t, cond)
        h, prefix = self._prefixed(self._tokens(x, cond), c)
        angles = jnp.asarray(self._angles(x, prefix), jnp.promote_types(jnp.dtype(self.dtype), jnp.float32))
        blocks = dit.stack(Block, self.depth, remat=self.remat, unroll=self.unroll)
        hidden = int(2 / 3 * int(self.mlp_ratio * self.width))
        hidden = -(-hidden // self.hidden_multiple) * self.hidden_multiple
        dtype = jnp.dtype(self.dtype)
        h = blocks(self.width, self.heads, hidden, dtype, self.attention, name="blocks")(h, c, angles)[0]
        return self._image(h[:, prefix:], c, x)

    def _conditioning(self, x, s, t, cond):
        s, t = embeddings.flatten_times(s, x), embeddings.flatten_times(t, x)
        return sum(self._embed_cond(x, cond), self._embed("time")(1 - s + 2 * t))

    def _prefixed(self, h, c):
        """(tokens with those that come before the patches, how many those are)."""
        return h, 0

    def _angles(self, x, prefix):
        """Rotary angles of all tokens: of rows in the first half of a head's pairs, of columns in the second."""
        grid = np.meshgrid(*(np.arange(side // self.patch) for side in x.shape[1:3]), indexing="ij")
        return np.concatenate([embeddings.rotary_angles(axis.ravel(), self.width // self.heads // 2) for axis in grid], axis=1)

    def _norm(self, h):
        return rms_norm("out_norm", jnp.dtype(self.dtype))(h)


class DriftingDiT(LightningDiT):
    """Drifting's generator of one step: no time, tokens of the conditioning before the patches, and codes drawn with the noise.

    It predicts data from noise, so that its parameterisation is "denoised_field". Each sample also draws `codes` whole numbers below
    `code_values`, each of which picks a vector that is added to the conditioning. Here they are digits of the noise itself, far behind
    those that the network can tell apart, so that a sample depends on its noise alone, as everywhere in this library.

    Attributes:
      class_tokens: tokens before the patches.
      codes, code_values: of the codes.

    The other attributes are those of LightningDiT. The guidance scale is embedded as it is.

    Reference: the authors' code, lambertae/drifting accd0cf.
    """

    hidden_multiple: int = 32
    class_tokens: int = 16
    codes: int = 32
    code_values: int = 64

    _features = {"guidance": lambda w: w}
    NOT_FROM_ZERO = ("guidance",)

    def _conditioning(self, x, s, t, cond):
        dtype = jnp.dtype(self.dtype)
        tables = self.param("codes", nn.initializers.normal(0.02), (self.codes, self.code_values, self.width), jnp.float32)
        drawn = codes(x, self.codes, self.code_values)
        c = sum(jnp.take(tables[i], drawn[:, i], axis=0) for i in range(self.codes)).astype(dtype)
        return sum(self._embed_cond(x, cond), c)

    def _embed_input(self, name, times):
        if name != "guidance":
            return dit.DiT._embed_input(self, name, times)
        ((embedding, scale),) = times.items()
        return [GUIDANCE_WEIGHT * rms_norm("guidance_norm", jnp.dtype(self.dtype))(self._embed(embedding)(scale))]

    def _prefixed(self, h, c):
        dtype, spread = jnp.dtype(self.dtype), nn.initializers.normal(0.02)
        tokens = self.param("class_tokens", spread, (self.class_tokens, self.width), jnp.float32).astype(dtype)
        tokens = dit.dense(self.width, dtype, "class_in")(c)[:, None] + tokens[None]
        return jnp.concatenate([tokens, h], axis=1), self.class_tokens

    def _positions(self, height, width):
        fixed = lambda key: jnp.asarray(embeddings.grid_positions(height, width, self.width))
        return self.param("position_embedding", fixed)

    def _angles(self, x, prefix):
        count = prefix + (x.shape[1] // self.patch) * (x.shape[2] // self.patch)
        return embeddings.rotary_angles(np.arange(count), self.width // self.heads)


def codes(x: typing.Array, count: int, values: int) -> typing.Array:
    """Whole numbers [B, count] below `values`, from digits of the first numbers of each row of x [B, ...], float32 normal noise."""
    flat = x.reshape(len(x), -1)[:, np.arange(count) % x[0].size].astype(jnp.float32)
    scaled = jnp.abs(flat) * DIGITS
    return jnp.floor((scaled - jnp.floor(scaled)) * values).astype(jnp.int32)
