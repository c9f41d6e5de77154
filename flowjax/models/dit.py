"""The diffusion transformer with two times."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from flowjax import checks, conditioning, typing
from flowjax.models import attention, embeddings
from flowjax.typing import Array, Time

# TPUs with room for what the backward pass needs, v5p: guided, the compiler estimates less time where it is kept (docs/pods.md).
AMPLE = ("TPU v5", "TPU v5p")
# What jax.checkpoint_policies let a block keep for the backward pass: nothing (one more forward pass), its matmuls, or those of weights.
REMAT = ("nothing_saveable", "dots_saveable", "dots_with_no_batch_dims_saveable")

DIT_SIZES = {
    "tiny": {"width": 64, "depth": 3, "heads": 4},
    "small": {"width": 128, "depth": 4, "heads": 4},
    "S": {"width": 384, "depth": 12, "heads": 6},
    "B": {"width": 768, "depth": 12, "heads": 12},
    "M": {"width": 1024, "depth": 16, "heads": 16},
    "L": {"width": 1024, "depth": 24, "heads": 16},
    "XL": {"width": 1152, "depth": 28, "heads": 16},
}


def dense(features: int, dtype, name: str | None = None, init=None) -> nn.Dense:
    """A linear layer with bias; its weights start xavier uniform, or as `init` draws them."""
    return nn.Dense(features, kernel_init=init or nn.initializers.xavier_uniform(), dtype=dtype, name=name)


def from_zero(features: int, dtype, name: str) -> nn.Dense:
    """The linear layer of an input that changes nothing at first: no bias, and its weights start at zero."""
    return nn.Dense(features, use_bias=False, kernel_init=nn.initializers.zeros, dtype=dtype, name=name)


def keep_matmuls(method):
    """Between the matmuls of a method, the backward pass recomputes rather than reads: half the memory and less time.

    Weights in slices are gathered again, too, if they are read within: so blocks read all of theirs in such methods.
    """
    return nn.remat(method, policy=jax.checkpoint_policies.dots_saveable, prevent_cse=False)


def rematerialised(block, policy, **options):
    """A class of blocks that are recomputed in the backward pass, but for what a policy of REMAT keeps; "": the class itself.

    "auto" is "nothing_saveable" on TPUs but for AMPLE, and else "".

    Raises:
      InputError: for an unknown policy.
    """
    checks.member("remat", policy, ("auto", "", *REMAT))
    if policy == "auto":
        recomputes = attention.device_platform() == "tpu" and attention.device_kind() not in AMPLE
        policy = "nothing_saveable" if recomputes else ""
    return nn.remat(block, policy=getattr(jax.checkpoint_policies, policy), **options) if policy else block


def stack(block, depth, *, remat, unroll):
    """`depth` blocks in a scan, a class: blocks are called `(h, *the same for all) -> (h, None)`; `remat`: see rematerialised."""
    return nn.scan(
        rematerialised(block, remat, prevent_cse=False),
        variable_axes={"params": 0, "intermediates": 0},  # the second where somebody looks into the blocks
        split_rngs={"params": True},
        in_axes=nn.broadcast,
        length=depth,
        unroll=unroll,
    )


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
        kind = type(self)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = keep_matmuls(kind._modulation)(self, c)
        # The attention stays outside of what is recomputed, because it chooses itself what to keep.
        q, k, v = keep_matmuls(kind._queries_keys_values)(self, h, shift_a, scale_a)
        y = attention.attention(q, k, v, implementation=self.attention).reshape(h.shape)
        return keep_matmuls(kind._mixed)(self, h, y, gate_a, shift_m, scale_m, gate_m), None

    def _modulation(self, c):
        """Conditioning [B, width] -> shift, scale and gate of the attention, then of the MLP, [B, 1, width] each."""
        modulation = dense(6 * self.width, self.dtype, "modulation", nn.initializers.zeros)(nn.silu(c))
        return jnp.split(modulation[:, None], 6, axis=-1)

    def _linear(self, features, name):
        """A layer of the attention or of the MLP."""
        return dense(features, self.dtype, name)

    def _norm(self, h):
        """What precedes a modulation, without parameters."""
        return layer_norm(h, self.dtype)

    def _queries_keys_values(self, h, shift, scale):
        """Tokens [B, N, width] -> three of [B, N, heads, head_dim]."""
        qkv = self._linear(3 * self.width, "qkv")(self._norm(h) * (1 + scale) + shift)
        return tuple(z.reshape(*z.shape[:2], self.heads, -1) for z in jnp.split(qkv, 3, axis=-1))

    def _mixed(self, h, y, gate_a, shift, scale, gate_m):
        """Tokens and what their attention gave, [B, N, width] -> tokens."""
        h = h + gate_a * self._linear(self.width, "attention_out")(y)
        y = nn.gelu(self._linear(int(self.mlp_ratio * self.width), "mlp_in")(self._norm(h) * (1 + scale) + shift))
        return h + gate_m * self._linear(self.width, "mlp_out")(y)


def layer_norm(h: Array, dtype) -> Array:
    """Tokens of mean 0 and variance 1, without parameters."""
    return nn.LayerNorm(use_bias=False, use_scale=False, epsilon=1e-6, dtype=dtype)(h)


class DiT(nn.Module):
    """A diffusion transformer conditioned on the source time `s` of a jump and on its length `s - t`.

    Both are embedded and summed, with the label and further inputs. Times are not multiplied by 1000.

    Attributes:
      num_classes: labels, 0 for none.
      width: of the tokens.
      depth: number of blocks.
      heads: of the attention; divides the width.
      patch: side of a patch in pixels; divides height and width.
      mlp_ratio: width of the MLP over the width of the tokens.
      time_scale: times are multiplied by it before the embedding.
      inputs: further inputs, keys of flowjax.conditioning.INPUTS; all start at zero.
      remat: what a block stores for the backward pass, which computes the rest again: "nothing_saveable" (one more forward pass), or
        another of REMAT; "": its matmuls and what the attention stores; "auto": the first on TPUs, else the last.
      unroll: blocks unrolled in one iteration of the scan over blocks.
      dtype: "float32" or "bfloat16", of the computation; parameters are float32.
      attention: "auto", "chunked", "xla" or "pallas", see flowjax.models.attention.

    Reference: Peebles and Xie 2022 (arXiv 2212.09748); with two times as in Geng et al. 2025 (arXiv 2505.13447).
    """

    num_classes: int = 0
    width: int = 64
    depth: int = 3
    heads: int = 4
    patch: int = 2
    mlp_ratio: float = 4.0
    time_scale: float = 1.0
    inputs: tuple[str, ...] = ()
    remat: str = "auto"
    unroll: int = 1
    dtype: str = "float32"
    attention: str = "auto"

    # Not annotated, so no fields.
    _block = Block
    _features = {}  # of inputs, where they are not the table's

    @nn.compact
    def __call__(self, x: Array, s: Time, t: Time, cond=None) -> Array:
        """Images [B, H, W, C], times scalar or [B, 1, 1, 1] in [0, 1], cond a dict of [B, ...] arrays -> V like x."""
        h = self._tokens(x, cond)
        c = self._conditioning(x, s, t, cond)
        return self._image(self._blocks(self.depth, "blocks")(h, c)[0], c, x)

    def _tokens(self, x, cond):
        """Images -> tokens [B, N, width], with their positions added."""
        p, dtype = self.patch, jnp.dtype(self.dtype)
        h = embeddings.patches(x, p, type(self).__name__)
        if self.width % self.heads or self.width % 4:
            raise typing.InputError(
                f"{type(self).__name__}: width {self.width} must be a multiple of 4 and of {self.heads} heads."
            )
        positions = self._positions(x.shape[1] // p, x.shape[2] // p)
        h = self._patch_in(dtype)(h.astype(dtype)) + jnp.asarray(positions, dtype)[None]
        first = lambda name: lambda image: from_zero(self.width, dtype, name)(embeddings.patches(image, p).astype(dtype))
        return embeddings.beside(h, self.inputs, cond, x, first)

    def _positions(self, height, width):
        """What is added to the tokens of a grid, [height * width, width of the network]."""
        return embeddings.grid_positions(height, width, self.width)

    def _patch_in(self, dtype):
        """The layer of the patches."""
        return dense(self.width, dtype, "patch_in")

    def _conditioning(self, x, s, t, cond):
        """Times, label and further inputs -> [B, width]."""
        s, t = embeddings.flatten_times(s, x), embeddings.flatten_times(t, x)
        c = self._embed("source")(s) + self._embed("gap")(s - t)
        return sum(self._embed_cond(x, cond), c)

    def _embed(self, name, **more):
        """An embedder of a time."""
        return embeddings.TimeEmbedding(self.width, scale=self.time_scale, dtype=jnp.dtype(self.dtype), name=name, **more)

    def _embed_cond(self, x, cond):
        """Label and further inputs, a list of [B, width]."""
        dtype, parts = jnp.dtype(self.dtype), []
        if self.num_classes:
            label = embeddings.LabelEmbedding(self.num_classes, self.width, dtype=dtype, name="label")
            parts.append(label(conditioning.value("label", cond, x)))
        vector = lambda name: from_zero(self.width, dtype, name)
        return parts + embeddings.inputs(self.inputs, cond, x, self._embed_input, vector, self._features)

    def _embed_input(self, name, times):
        """The embeddings of an input's numbers, {name of the embedding: [B]} -> a list of [B, width]."""
        return [self._embed(embedding, zero=True)(time) for embedding, time in times.items()]

    def _blocks(self, depth, name):
        """Blocks in a scan, called `(h, c)`."""
        blocks = stack(self._block, depth, remat=self.remat, unroll=self.unroll)
        return blocks(self.width, self.heads, self.mlp_ratio, jnp.dtype(self.dtype), self.attention, name=name)

    def _image(self, h, c, x):
        """Tokens -> V in the shape and dtype of x."""
        dtype = jnp.dtype(self.dtype)
        shift, scale = self._modulation(c)
        h = self._norm(h) * (1 + scale) + shift
        h = dense(self.patch**2 * x.shape[-1], dtype, "patch_out", nn.initializers.zeros)(h)
        return embeddings.image(h, x, self.patch)

    def _modulation(self, c):
        """Conditioning [B, width] -> shift and scale before the last layer, [B, 1, width] each."""
        modulation = dense(2 * self.width, jnp.dtype(self.dtype), "modulation", nn.initializers.zeros)(nn.silu(c))
        return jnp.split(modulation[:, None], 2, axis=-1)

    def _norm(self, h):
        """What precedes the last modulation, without parameters."""
        return layer_norm(h, jnp.dtype(self.dtype))
