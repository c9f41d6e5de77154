"""What the kernels of every platform share: tiles, padding, the statistics of rows, and the same mathematics in plain JAX."""

import jax
import jax.numpy as jnp

MASKED = -0.7 * float(jnp.finfo(jnp.float32).max)  # added to the scores of masked keys; finite, because inf - inf is no number
LANES = 128
LARGEST = 512  # tokens along one side of a tile: 512 x 512 float32 scores are 1 MiB, and a kernel holds about six such arrays
PRECISE = jax.lax.Precision.HIGHEST  # of float32 matmuls, which a TPU otherwise rounds to bfloat16


def tile(tokens):
    """Tokens along one side of a tile: a multiple of 128 that pads least; of those that pad equally, the largest.

    Example:
      >>> [tile(n) for n in (16, 256, 300, 1_024, 1_100, 16_384)]
      [128, 256, 384, 512, 384, 512]
    """
    sizes = range(LANES, LARGEST + 1, LANES)
    return min(sizes, key=lambda size: (-(-tokens // size) * size, -size))


def padded(z, size):
    """[n, N, head_dim] with zeros after the last token, so that `size` divides the tokens."""
    return jnp.pad(z, ((0, 0), (0, -z.shape[1] % size), (0, 0)))


def row_sums(a, b):
    """Sums of a * b over the head, in float32: [n, N, head_dim] twice -> [n, 1, N], as the kernels read statistics of rows."""
    return jnp.sum(a.astype(jnp.float32) * b.astype(jnp.float32), axis=-1)[:, None]


def like(z, shape, dtype):
    """The type of an array that varies over the same axes of a mesh as z, which shard_map requires."""
    kind = jax.typeof(z)
    varying = "manual_axis_type" if hasattr(kind, "manual_axis_type") else "vma"
    return jax.ShapeDtypeStruct(shape, dtype, **{varying: getattr(kind, varying)})


def plain(q, k, v, *bias, keys, rows=64):
    """Attention in plain JAX on what the primitives take, a few queries at a time: what their higher derivatives are made of.

    Args:
      q: queries [n, N, head_dim].
      k: keys [n, M, head_dim].
      v: values like k.
      *bias: none, or one array [m, 1, M], added to the scores; m divides n, and each of its rows serves n / m rows.
      keys: how many of the M keys are no padding.
      rows: queries at a time.

    Returns:
      The output [n, N, head_dim], and the logarithms of the sums of exponentials [n, 1, N], whose tangent is the mean of the
      tangents of the scores.
    """
    n, N, head_dim = q.shape
    real = jnp.arange(k.shape[1]) < keys

    @jax.checkpoint
    def some(q):
        scores = jnp.einsum("nqd,nkd->nqk", q, k, preferred_element_type=jnp.float32, precision=precision(q)) * head_dim**-0.5
        if bias:
            scores = scores + jnp.repeat(bias[0], n // bias[0].shape[0], axis=0)
        scores = jnp.where(real, scores, -jnp.inf)
        weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
        return jnp.einsum("nqk,nkd->nqd", weights, v, precision=precision(q)), jax.nn.logsumexp(scores, axis=-1)

    size = min(rows, N)
    chunks = padded(q, size).reshape(n, -1, size, head_dim).swapaxes(0, 1)
    o, lse = (z.swapaxes(0, 1) for z in jax.lax.map(some, chunks))
    return o.reshape(n, -1, head_dim)[:, :N], lse.reshape(n, 1, -1)[:, :, :N]


def precision(z):
    """Of matmuls whose operands have the dtype of z."""
    return PRECISE if z.dtype == jnp.float32 else None


# The primitives in plain JAX: `attend(q, k, v)` gives the output and the statistic; "six" are q, k, v and tangents of them


def forward(attend, q, k, v):
    """The output, and the logarithm of the sum of exponentials of a row."""
    return list(attend(q, k, v))


def dual(attend, *six):
    """The same, then the tangents of both."""
    (o, lse), (do, mu) = jax.jvp(attend, six[:3], six[3:])
    return [o, lse, do, mu]


def tangent(attend, dq, dk, dv, q, k, v):
    """The tangents alone."""
    return list(jax.jvp(attend, (q, k, v), (dq, dk, dv))[1])


def backward(attend, h, q, k, v):
    """Cotangents of q, k and v for the cotangent h of the output."""
    return list(jax.vjp(lambda *three: attend(*three)[0], q, k, v)[1](h))


def _output_and_tangent(attend):
    return lambda *six: jax.jvp(lambda *three: attend(*three)[0], six[:3], six[3:])


def second_tangent(attend, *linear_and_six):
    """Tangents of the output and of its tangent."""
    return list(jax.jvp(_output_and_tangent(attend), linear_and_six[6:], linear_and_six[:6])[1])


def second_backward(attend, g, h, *six):
    """Cotangents of the six for cotangents g of the output and h of its tangent."""
    return list(jax.vjp(_output_and_tangent(attend), *six)[1]((g, h)))


def second_backward_of_tangent(attend, h, *six):
    """The same without a cotangent of the output."""
    return list(jax.vjp(lambda *six: _output_and_tangent(attend)(*six)[1], *six)[1](h))


def tangent_of_backward(attend, h1, q1, k1, v1, h, q, k, v):
    """Tangents of the cotangents of q, k and v."""
    cotangents = lambda h, q, k, v: tuple(backward(attend, h, q, k, v))
    return list(jax.jvp(cotangents, (h, q, k, v), (h1, q1, k1, v1))[1])
