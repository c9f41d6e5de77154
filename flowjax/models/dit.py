"""The diffusion transformer with two times."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from flowjax import typing
from flowjax.models import attention, embeddings

DIT_SIZES = {
    "tiny": {"width": 64, "depth": 3, "heads": 4},
    "small": {"width": 128, "depth": 4, "heads": 4},
    "S": {"width": 384, "depth": 12, "heads": 6},
    "B": {"width": 768, "depth": 12, "heads": 12},
    "M": {"width": 1024, "depth": 16, "heads": 16},
    "L": {"width": 1024, "depth": 24, "heads": 16},
    "XL": {"width": 1152, "depth": 28, "heads": 16},
}


def _dense(features, dtype, name=None, init=None):
    return nn.Dense(features, kernel_init=init or nn.initializers.xavier_uniform(), dtype=dtype, name=name)


class Block(nn.Module):
    """Attention and MLP, each modulated by the conditioning and gated from zero (adaLN-zero)."""

    width: int
    heads: int
    mlp_ratio: float
    dtype: jnp.dtype
    attention: str

    @nn.compact
    def __call__(self, h, c):
        """Tokens [B, N, width] and conditioning [B, width] -> (tokens, None), the form that nn.scan wants."""
        modulation = _dense(6 * self.width, self.dtype, "modulation", nn.initializers.zeros)(nn.silu(c))
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = jnp.split(modulation[:, None], 6, axis=-1)
        # Between matmuls, the backward pass recomputes rather than reads: half the memory and less time for the same matmuls.
        # The attention stays outside, because it chooses itself what to keep.
        keep_matmuls = functools.partial(nn.remat, policy=jax.checkpoint_policies.dots_saveable, prevent_cse=False)
        q, k, v = keep_matmuls(Block._queries_keys_values)(self, h, shift_a, scale_a)
        y = attention.attention(q, k, v, implementation=self.attention).reshape(h.shape)
        return keep_matmuls(Block._mixed)(self, h, y, gate_a, shift_m, scale_m, gate_m), None

    def _queries_keys_values(self, h, shift, scale):
        qkv = _dense(3 * self.width, self.dtype, "qkv")(self._modulated(h, shift, scale))
        return tuple(z.reshape(*z.shape[:2], self.heads, -1) for z in jnp.split(qkv, 3, axis=-1))

    def _mixed(self, h, y, gate_a, shift, scale, gate_m):
        h = h + gate_a * _dense(self.width, self.dtype, "attention_out")(y)
        y = nn.gelu(_dense(int(self.mlp_ratio * self.width), self.dtype, "mlp_in")(self._modulated(h, shift, scale)))
        return h + gate_m * _dense(self.width, self.dtype, "mlp_out")(y)

    def _modulated(self, h, shift, scale):
        return nn.LayerNorm(use_bias=False, use_scale=False, epsilon=1e-6, dtype=self.dtype)(h) * (1 + scale) + shift


class DiT(nn.Module):
    """A diffusion transformer that knows where a jump starts and how far it goes.

    `s` and `s - t` are embedded and summed, with the label and, when asked, the guidance scale. Times are not multiplied by 1000.

    Attributes:
      num_classes: labels, 0 for none.
      width: of the tokens.
      depth: number of blocks.
      heads: of the attention; divides the width.
      patch: side of a patch in pixels; divides height and width.
      mlp_ratio: width of the MLP over the width of the tokens.
      time_scale: times are multiplied by it before the embedding.
      guidance: whether cond["guidance"] [B], scales of at least 1, is embedded as 1 - 1 / w; from zero, so that it changes nothing at first.
      remat: recompute whole blocks in the backward pass, one more forward pass; otherwise matmuls are kept and what lies between them recomputed.
      unroll: blocks unrolled in one iteration of the scan over blocks.
      dtype: "float32" or "bfloat16", of the computation; parameters are float32.
      attention: "auto", "chunked" or "xla", see flowjax.models.attention.

    Reference: Peebles and Xie 2022 (arXiv 2212.09748); with two times as in Geng et al. 2025 (arXiv 2505.13447).
    """

    num_classes: int = 0
    width: int = 64
    depth: int = 3
    heads: int = 4
    patch: int = 2
    mlp_ratio: float = 4.0
    time_scale: float = 1.0
    guidance: bool = False
    remat: bool = False
    unroll: int = 1
    dtype: str = "float32"
    attention: str = "auto"

    @nn.compact
    def __call__(self, x, s, t, cond=None):
        """Images [B, H, W, C], times scalar or [B, 1, 1, 1] in [0, 1], cond a dict of [B] arrays -> V in the shape and dtype of x."""
        B, H, W, C = x.shape
        p, dtype = self.patch, jnp.dtype(self.dtype)
        if H % p or W % p or self.width % self.heads or self.width % 4:
            raise typing.InputError(
                f"DiT: patches of {p} must tile the image {H} x {W}, and width {self.width} be a multiple of 4 and of"
                f" {self.heads} heads."
            )
        tokens = x.reshape(B, H // p, p, W // p, p, C).transpose(0, 1, 3, 2, 4, 5).reshape(B, -1, p * p * C)
        h = _dense(self.width, dtype, "patch_in")(tokens.astype(dtype))
        h = h + jnp.asarray(embeddings.grid_positions(H // p, W // p, self.width), dtype)[None]
        c = self._conditioning(x, s, t, cond or {}, dtype)

        block = nn.remat(Block, prevent_cse=False) if self.remat else Block
        blocks = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.depth,
            unroll=self.unroll,
        )
        h, _ = blocks(self.width, self.heads, self.mlp_ratio, dtype, self.attention, name="blocks")(h, c)

        shift, scale = jnp.split(
            _dense(2 * self.width, dtype, "modulation", nn.initializers.zeros)(nn.silu(c))[:, None], 2, axis=-1
        )
        h = nn.LayerNorm(use_bias=False, use_scale=False, epsilon=1e-6, dtype=dtype)(h) * (1 + scale) + shift
        h = _dense(p * p * C, dtype, "patch_out", nn.initializers.zeros)(h)
        h = h.reshape(B, H // p, W // p, p, p, C).transpose(0, 1, 3, 2, 4, 5).reshape(x.shape)
        return h.astype(x.dtype)

    def _conditioning(self, x, s, t, cond, dtype):
        s, t = embeddings.flatten_times(s, x), embeddings.flatten_times(t, x)
        embed = lambda name, **more: embeddings.TimeEmbedding(self.width, scale=self.time_scale, dtype=dtype, name=name, **more)
        c = embed("source")(s) + embed("gap")(s - t)
        if self.num_classes:
            label = embeddings.LabelEmbedding(self.num_classes, self.width, dtype=dtype, name="label")
            c = c + label(cond.get("label"), x.shape[0])
        if self.guidance:
            c = c + embed("guidance_scale", zero=True)(embeddings.guidance_scale(cond, x))
        return c
