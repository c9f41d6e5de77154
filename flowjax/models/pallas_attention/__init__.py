"""Attention in fused kernels that carry a tangent and can be differentiated through it, for TPUs and NVIDIA GPUs."""

import jax.numpy as jnp

from flowjax.models.pallas_attention import tiling

MASKED = tiling.MASKED
LARGEST_HEAD = 256
MOST = 2 << 20  # queries times their size: float32 sums for two gradients are then 16 MiB of a TPU's VMEM, 64 MiB on v5p


def attention(q, k, v, mask=None, *, tile=None, kernels=""):
    """Softmax attention of every head by fused kernels, see docs/fused_attention.md; arguments as in flowjax.models.attention.

    Args:
      q: queries [B, N, heads, head_dim], float32 or bfloat16.
      k: keys [B, M, heads, head_dim].
      v: values like k.
      mask: True where a key takes part, [B, M]; None: all do. A row of the mask without any key gives an arbitrary mean of v.
      tile: tokens along the sides of a tile, (queries, keys); None: chosen by tiling.tile.
      kernels: "tpu" or "nvidia", interpreted on any other platform; "": those of the platform, on a CPU the TPU's, interpreted.

    Returns:
      [B, N, heads, head_dim], the dtype of q.
    """
    from flowjax.models.pallas_attention import primitives  # Pallas takes half a second to import

    B, N, heads, head_dim = q.shape
    rows, columns = tile or (tiling.tile(N), tiling.tile(k.shape[1]))
    q, k, v = (z.transpose(0, 2, 1, 3).reshape(B * heads, z.shape[1], head_dim) for z in (q, k, v))
    arrays = [tiling.padded(q, rows), tiling.padded(k, columns), tiling.padded(v, columns)]
    if mask is not None:
        bias = jnp.where(mask, 0.0, tiling.MASKED).astype(jnp.float32)[:, None]  # also where 64 bits are the default
        arrays.append(jnp.pad(bias, ((0, 0), (0, 0), (0, -bias.shape[2] % columns))))
    o, _ = primitives.forward.bind(*arrays, keys=k.shape[1], tile=(rows, columns), kernels=kernels)
    return o[:, :N].reshape(B, heads, N, head_dim).transpose(0, 2, 1, 3)


def refusal(queries, head_dim, dtype):
    """Why no kernel takes so many queries, heads of that size and that dtype; "": one does.

    Example:
      >>> refusal(4_096, 64, "bfloat16"), refusal(4_096, 64, "float64")
      ('', 'the dtype is float64; expected float32 or bfloat16')
    """
    if jnp.dtype(dtype) not in (jnp.float32, jnp.bfloat16):
        return f"the dtype is {jnp.dtype(dtype)}; expected float32 or bfloat16"
    if head_dim > LARGEST_HEAD:
        return f"heads have size {head_dim}; expected at most {LARGEST_HEAD}"
    if queries * head_dim > MOST:
        return f"{queries:,} queries of size {head_dim}; expected at most {MOST // head_dim:,}, whose gradients fit on the chip"
    return ""
