"""Attention with a tangent: every transform of JAX works on it, and its memory is linear in the tokens when asked."""

import jax
import jax.numpy as jnp

from flowjax import checks, typing

IMPLEMENTATIONS = ("auto", "chunked", "xla")
WHOLE = 256  # up to so many tokens, the scores are smaller than what else a block keeps, and nothing is recomputed


def attention(q, k, v, *, implementation="auto", chunk=64):
    """Softmax attention of every head, with all of jvp, grad, both nestings, vmap, remat, scan and shard_map.

        o = softmax(q k' / sqrt(head_dim)) v,    do = H v + P dv - (sum of H over keys) o,    P = softmax(S), H = P dS

    `xla` is `jax.nn.dot_product_attention`, which keeps all tokens x tokens scores and their tangents. `chunked` goes through
    the queries a chunk at a time and recomputes a chunk's scores in its backward pass, so that the memory grows linearly with
    the tokens; its matmuls (in tokens^2 head_dim: forward 2, with jvp 6, MeanFlow's gradient 11, TVM's 21) are those of a fused
    kernel. Up to 256 keys it takes all queries at once and recomputes nothing: 10 and 18. `auto` is `chunked` on a CPU, where it was
    the faster at every size measured, attention alone by 1.1 to 2.5 times (docs/attention_cost.csv, by
    `python -m experiments.benchmark_jvp`); on a GPU or TPU it is `xla` up to 1,024 keys and `chunked` above, where memory decides:
    not measured there.

    Fused kernels are no choice here: those that are a `custom_vjp` (cuDNN, Pallas, splash) have no jvp.

    Args:
      q: queries [B, N, heads, head_dim], float32, bfloat16 or float64; scores, softmax and sums are float32 at least.
      k: keys [B, M, heads, head_dim], the dtype of q.
      v: values like k.
      implementation: "auto", "chunked" or "xla".
      chunk: queries in a chunk; the memory of the scores is proportional to it.

    Returns:
      [B, N, heads, head_dim], the dtype of q.

    Raises:
      InputError: for other shapes or dtypes, an unknown implementation, or a chunk below 1.

    Example:
      >>> q, k, v = jax.random.normal(jax.random.key(0), (3, 1, 300, 2, 16))
      >>> float(jnp.abs(attention(q, k, v, implementation="chunked") - attention(q, k, v, implementation="xla")).max()) < 1e-5
      True

    Reference: chunks as in Rabe and Staats 2021 (arXiv 2112.05682); the tangent as in Lu and Song 2024 (arXiv 2410.11081), appendix.
    """
    _check(q, k, v, implementation, chunk)
    if implementation == "auto":
        implementation = "chunked" if jax.default_backend() == "cpu" or k.shape[1] > 1_024 else "xla"
    if implementation == "xla":
        return jax.nn.dot_product_attention(q, k, v, implementation="xla")  # named: a fused one has no jvp
    return _chunked(q, k, v, chunk)


def _chunked(q, k, v, chunk):
    B, N, heads, head_dim = q.shape
    count = 1 if k.shape[1] <= WHOLE else -(-N // chunk)
    size = -(-N // count)
    # One batch axis in front, as a batched matmul wants it.
    queries, keys, values = (z.transpose(0, 2, 1, 3).reshape(B * heads, z.shape[1], head_dim) for z in (q, k, v))
    queries = jnp.pad(queries, ((0, 0), (0, count * size - N), (0, 0))).reshape(B * heads, count, size, head_dim)
    rows = lambda own: _rows(own, keys, values)
    if count == 1:
        o = rows(queries[:, 0])
    else:
        o = jax.lax.map(jax.checkpoint(rows), queries.swapaxes(0, 1)).swapaxes(0, 1)
    return o.reshape(B, heads, count * size, head_dim)[:, :, :N].transpose(0, 2, 1, 3)


def _rows(q, k, v):
    """Attention of some queries [n, size, head_dim] over all keys [n, M, head_dim]."""
    wide = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum("nqd,nkd->nqk", q, k, preferred_element_type=wide) * q.shape[-1] ** -0.5
    # The result keeps the narrow dtype, so that the backward matmuls are narrow too; their sums are wide on every backend.
    return jnp.einsum("nqk,nkd->nqd", jax.nn.softmax(scores, axis=-1).astype(v.dtype), v)


def _check(q, k, v, implementation, chunk):
    checks.member("attention", implementation, IMPLEMENTATIONS)
    if q.ndim != 4 or k.shape != v.shape or k.ndim != 4 or (q.shape[0], *q.shape[2:]) != (k.shape[0], *k.shape[2:]):
        raise typing.InputError(
            f"attention: q has shape {q.shape}, k {k.shape}, v {v.shape}; expected q [B, N, heads, head_dim] and k and v"
            " [B, M, heads, head_dim]."
        )
    if not q.dtype == k.dtype == v.dtype or not jnp.issubdtype(q.dtype, jnp.floating):
        raise typing.InputError(
            f"attention: q, k and v have dtypes {q.dtype}, {k.dtype}, {v.dtype}; expected one floating dtype for all."
        )
    if not q.shape[1] or not k.shape[1]:
        raise typing.InputError(f"attention: {q.shape[1]} queries and {k.shape[1]} keys; expected at least one of each.")
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise typing.InputError(f"attention: chunk is {chunk!r}; expected a whole number of queries of at least 1.")
