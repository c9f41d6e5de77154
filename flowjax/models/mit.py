"""The improved MeanFlow transformer: conditioning by tokens in the sequence, and a second head for the velocity."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from flowjax import checks, conditioning, typing
from flowjax.models import attention, dit, embeddings
from flowjax.typing import Array, Time

MIT_SIZES = {
    "tiny": {"width": 64, "depth": 4, "heads": 4, "head_depth": 2},
    "B": {"width": 768, "depth": 12, "heads": 12, "head_depth": 8},
    "M": {"width": 768, "depth": 24, "heads": 12, "head_depth": 8},
    "L": {"width": 1024, "depth": 32, "heads": 16, "head_depth": 8},
    "XL": {"width": 1024, "depth": 48, "heads": 16, "head_depth": 8},
    # Pixel MeanFlow: with patches of 16 at 256 pixels and of 32 at 512.
    "pixel-B": {"width": 768, "depth": 16, "heads": 12, "head_depth": 8, "bottleneck": 128, "positions": "grid"},
    "pixel-L": {"width": 1024, "depth": 32, "heads": 16, "head_depth": 8, "bottleneck": 128, "positions": "grid"},
    "pixel-H": {"width": 1280, "depth": 48, "heads": 16, "head_depth": 8, "bottleneck": 256, "positions": "grid"},
}
POSITIONS = ("sequence", "grid")
TOKENS = {"class": 8, "guidance": 4, "low": 2, "high": 2, "gap": 4}  # as published
# The tokens of an input's embeddings; further inputs have none and are added to those of the gap.
GROUPS = {"guidance_scale": "guidance", "interval_low": "low", "interval_high": "high"}


def _scaled(constant):
    """Normal with standard deviation constant / sqrt(fan in)."""
    return nn.initializers.variance_scaling(constant**2, "fan_in", "normal")


class Block(nn.Module):
    """Attention with rotary positions and a gated MLP, both scaled by learned vectors that start at zero."""

    width: int
    heads: int
    hidden: int
    dtype: jnp.dtype
    attention: str

    @nn.compact
    def __call__(self, h, angles):
        """Tokens [B, N, width] and rotary angles [N, head_dim / 2] -> (tokens, None), the form that nn.scan wants."""
        q, k, v = dit.keep_matmuls(Block._queries_keys_values)(self, h, angles)
        y = attention.attention(q, k, v, implementation=self.attention).reshape(h.shape)
        return dit.keep_matmuls(Block._mixed)(self, h, y), None

    def _queries_keys_values(self, h, angles):
        h = self._norm("attention_norm", self.dtype)(h)
        q, k, v = (self._linear(self.width, name)(h).reshape(*h.shape[:2], self.heads, -1) for name in "qkv")
        q, k = self._norm("q_norm", angles.dtype)(q), self._norm("k_norm", angles.dtype)(k)
        return *(embeddings.rotated(z, angles).astype(v.dtype) for z in (q, k)), v

    def _mixed(self, h, y):
        h = h + self._linear(self.width, "attention_out")(y) * self._gate("attention_scale")
        y = self._norm("mlp_norm", self.dtype)(h)
        y = nn.silu(self._linear(self.hidden, "mlp_gate")(y)) * self._linear(self.hidden, "mlp_in")(y)
        return h + self._linear(self.width, "mlp_out")(y) * self._gate("mlp_scale")

    def _linear(self, features, name):
        return nn.Dense(features, use_bias=False, kernel_init=_scaled(0.32), dtype=self.dtype, name=name)

    def _norm(self, name, dtype):
        return nn.RMSNorm(epsilon=1e-6, dtype=dtype, name=name)

    def _gate(self, name):
        return self.param(name, nn.initializers.zeros, (self.width,), jnp.float32).astype(self.dtype)[None, None]


class MiT(nn.Module):
    """A transformer whose sequence is [label, guidance scale, interval's low and high time, s - t, patches].

    Each quantity is embedded once and added to learned tokens; `s` itself is not embedded. All blocks but the last
    `head_depth` are shared by two heads: the average velocity V, and the velocity at `s`, which `named_heads` returns
    besides and which sampling does not need. With a bottleneck and positions on the grid it is the network of pixel MeanFlow, there with
    the parameterisation "denoised_field".

    Attributes:
      num_classes: labels, 0 for none (no class tokens then).
      width: of the tokens.
      depth: number of blocks from input to output.
      heads: of the attention; divides the width.
      patch: side of a patch in pixels; divides height and width.
      head_depth: blocks that only one head has, counted in `depth`; 8 as published.
      mlp_ratio: hidden width of the MLP over the width of the tokens.
      inputs: further inputs, keys of flowjax.conditioning.INPUTS. Guidance and interval have tokens as published, which do not
        start at zero; what else stands here is added, from zero, to the embedding of s - t or, if it is like x, to the patches.
      bottleneck: channels between the two linear maps of a patch; 0 for one map. Published: 128, above width 1024 256.
      positions: "sequence" (rotary positions in the whole sequence) or "grid" (rotary rows and columns of the patches alone, a
        learned embedding of all positions, and above width 1024 the MLP's hidden width rounded up to a multiple of 8).
      remat: what a block stores for the backward pass, which computes the rest again: "nothing_saveable" (one more forward pass), or
        another of dit.REMAT; "": its matmuls and what the attention stores; "auto": the first on TPUs, else the last.
      unroll: blocks unrolled in one iteration of the scan over blocks.
      dtype: "float32" or "bfloat16", of the computation; parameters are float32.
      attention: "auto", "chunked", "xla" or "pallas", see flowjax.models.attention.

    Reference: Geng et al. 2025, improved MeanFlow (arXiv 2512.02012); pixels: Lu et al. 2026 (arXiv 2601.22158).
    """

    num_classes: int = 0
    width: int = 64
    depth: int = 4
    heads: int = 4
    patch: int = 2
    head_depth: int = 2
    mlp_ratio: float = 8 / 3
    inputs: tuple[str, ...] = ()
    bottleneck: int = 0
    positions: str = "sequence"
    remat: str = "auto"
    unroll: int = 1
    dtype: str = "float32"
    attention: str = "auto"

    NOT_FROM_ZERO = conditioning.GUIDANCE
    HEADS = ("V", "velocity")

    def __call__(self, x: Array, s: Time, t: Time, cond=None) -> Array:
        """Images [B, H, W, C], times scalar or [B, 1, 1, 1] in [0, 1], cond a dict of [B, ...] arrays -> V like x."""
        return self._evaluate(x, s, t, cond, ("average",))[0]

    def named_heads(self, x: Array, s: Time, t: Time, cond=None) -> dict[str, Array]:
        """{"V": average velocity, "velocity": velocity at s}, like x both, from one pass.

        Initialising through it makes the parameters of both heads.
        """
        return dict(zip(self.HEADS, self._evaluate(x, s, t, cond, ("average", "velocity"))))

    def both(self, x: Array, s: Time, t: Time, cond=None) -> tuple[Array, Array]:
        """(V, velocity at s), see `named_heads`."""
        return self._evaluate(x, s, t, cond, ("average", "velocity"))

    @nn.compact
    def _evaluate(self, x, s, t, cond, heads):
        self._check()
        tokens, groups = self._patches(x, cond), self._conditioning(x, s, t, cond)
        prefix = sum(group.shape[1] for group in groups)
        angles = self._angles(x, prefix)
        h = jnp.concatenate([*groups, tokens], axis=1)
        if self.positions == "grid":
            positions = self.param("position_embedding", nn.initializers.normal(0.02), h.shape[1:], jnp.float32)
            h = h + positions.astype(h.dtype)[None]
        h = self._transformed(h, angles, self.depth - self.head_depth, "shared")
        return tuple(self._head(h, angles, x, prefix, name) for name in heads)

    def _patches(self, x, cond):
        dtype = jnp.dtype(self.dtype)
        h = embeddings.patches(x, self.patch, "MiT").astype(dtype)
        if self.bottleneck:
            h = dit.dense(self.bottleneck, dtype, "patch_bottleneck")(h)
        h = dit.dense(self.width, dtype, "patch_in")(h)
        first = lambda name: lambda image: self._from_zero(name)(embeddings.patches(image, self.patch, "MiT").astype(dtype))
        return embeddings.beside(h, self.inputs, cond, x, first)

    def _conditioning(self, x, s, t, cond):
        """The tokens before the patches, a list of [B, n, width]."""
        dtype, groups = jnp.dtype(self.dtype), []
        embed = lambda name, **more: embeddings.TimeEmbedding(self.width, dtype=dtype, init=_scaled(1.0), name=name, **more)
        spread = nn.initializers.normal(self.width**-0.5)

        def add(group, embedding):
            tokens = self.param(f"{group}_tokens", spread, (TOKENS[group], self.width), jnp.float32)
            groups.append(tokens.astype(dtype)[None] + embedding[:, None])

        def embed_input(name, times):
            if name not in self.NOT_FROM_ZERO:
                return [embed(embedding, zero=True)(time) for embedding, time in times.items()]
            for embedding, time in times.items():
                add(GROUPS[embedding], embed(embedding)(time))
            return []

        if self.num_classes:
            label = embeddings.LabelEmbedding(self.num_classes, self.width, dtype=dtype, init=spread, name="label")
            add("class", label(conditioning.value("label", cond, x)))
        further = embeddings.inputs(self.inputs, cond, x, embed_input, self._from_zero)
        gap = embed("gap")(embeddings.flatten_times(s, x) - embeddings.flatten_times(t, x))
        add("gap", sum(further, gap))
        return groups

    def _from_zero(self, name):
        return dit.from_zero(self.width, jnp.dtype(self.dtype), name)

    def _angles(self, x, prefix):
        """Rotary angles of every token, [N, head_dim / 2], never narrower than float32."""
        rows, columns = (side // self.patch for side in x.shape[1:3])
        head_dim = self.width // self.heads
        if self.positions == "sequence":
            angles = embeddings.rotary_angles(np.arange(prefix + rows * columns), head_dim)
        else:
            grid = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
            angles = np.concatenate([embeddings.rotary_angles(axis.ravel(), head_dim // 2) for axis in grid], axis=1)
            angles = np.pad(angles, ((prefix, 0), (0, 0)))  # an angle of 0 leaves the tokens before the patches as they are
        return jnp.asarray(angles, jnp.promote_types(jnp.dtype(self.dtype), jnp.float32))

    def _transformed(self, h, angles, depth, name):
        if not depth:
            return h
        hidden = int(self.width * self.mlp_ratio)
        if self.positions == "grid" and self.width > 1024:  # as the authors have it for H: 3416 from 3413, and 2730 stays for L
            hidden = -(-hidden // 8) * 8
        blocks = dit.stack(Block, depth, remat=self.remat, unroll=self.unroll)
        return blocks(self.width, self.heads, hidden, jnp.dtype(self.dtype), self.attention, name=name)(h, angles)[0]

    def _head(self, h, angles, x, prefix, name):
        h = self._transformed(h, angles, self.head_depth, name)[:, prefix:]
        h = nn.RMSNorm(epsilon=1e-6, dtype=jnp.dtype(self.dtype), name=f"{name}_norm")(h)
        h = dit.dense(self.patch**2 * x.shape[-1], jnp.dtype(self.dtype), f"{name}_out", nn.initializers.zeros)(h)
        return embeddings.image(h, x, self.patch)

    def _check(self):
        checks.member("positions of a MiT", self.positions, POSITIONS)
        pairs = 4 if self.positions == "grid" else 2  # features that turn together, of each head
        if self.width % (pairs * self.heads):
            raise typing.InputError(
                f"MiT: width {self.width} must be a multiple of {pairs} times {self.heads} heads, for rotary positions."
            )
        if not 0 <= self.head_depth <= self.depth:
            raise typing.InputError(
                f"MiT: head_depth is {self.head_depth} and depth {self.depth}; the blocks of a head count among the depth, so"
                f" expected 0 to {self.depth}."
            )
