"""Attention with a tangent: every transform of JAX works on it, and its memory is linear in the tokens but for `xla`."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp

from flowjax import checks, typing
from flowjax.models import pallas_attention

IMPLEMENTATIONS = ("auto", "chunked", "xla", "pallas")
WHOLE = 256  # up to so many tokens, the scores are smaller than what else a block keeps, and nothing is recomputed
# Written by `python -m experiments.benchmark_attention --write_choice`.
CHOICE = pathlib.Path(__file__).with_name("attention_choice.json")


def attention(q, k, v, mask=None, *, implementation="auto", chunk=64):
    """Softmax attention of every head, with all of jvp, grad, both nestings, vmap, remat, scan and shard_map.

        o = softmax(q k' / sqrt(head_dim)) v,    do = H v + P dv - (sum of H over keys) o,    P = softmax(S), H = P dS

    `xla` is `jax.nn.dot_product_attention`, which keeps all tokens x tokens scores and their tangents. `chunked` goes through
    the queries a chunk at a time and recomputes a chunk's scores in its backward pass, so that the memory grows linearly with
    the tokens; its matmuls (in tokens^2 head_dim: forward 2, with jvp 6, MeanFlow's gradient 11, TVM's 21) are those of a fused
    kernel. Up to 256 keys it takes all queries at once and recomputes nothing: 10 and 18. `pallas` runs fused kernels on TPUs
    and NVIDIA GPUs, which keep a tile of scores on the chip (docs/fused_attention.md); a CPU interprets them, slowly, for tests.
    `auto` takes what the table attention_choice.json says for the platform and the number of keys, and `chunked` where it has
    no line for the platform or the kernels cannot run; `chosen` tells which and why.

    Args:
      q: queries [B, N, heads, head_dim], float32, bfloat16 or float64; scores, softmax and sums are float32 at least.
      k: keys [B, M, heads, head_dim], the dtype of q.
      v: values like k.
      mask: True where a key takes part, [B, M], at least one in a row; None: all do.
      implementation: "auto", "chunked", "xla" or "pallas".
      chunk: queries in a chunk of `chunked`; the memory of its scores is proportional to it.

    Returns:
      [B, N, heads, head_dim], the dtype of q.

    Raises:
      InputError: for other shapes or dtypes, an unknown implementation, a chunk below 1, or "pallas" where its kernels cannot
        run (float64, heads above 256, too many queries).

    Example:
      >>> q, k, v = jax.random.normal(jax.random.key(0), (3, 1, 300, 2, 16))
      >>> float(jnp.abs(attention(q, k, v, implementation="chunked") - attention(q, k, v, implementation="xla")).max()) < 1e-5
      True

    Reference: chunks as in Rabe and Staats 2021 (arXiv 2112.05682); the tangent as in Lu and Song 2024 (arXiv 2410.11081),
    appendix.
    """
    _check(q, k, v, mask, implementation, chunk)
    if implementation == "auto":
        implementation, reason = chosen(k.shape[1], q.shape[3], q.dtype, queries=q.shape[1])
        TAKEN[f"{implementation} ({reason})"] = None
    if implementation == "xla":
        mask = None if mask is None else mask[:, None, None]
        return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="xla")  # named: a fused one has no jvp
    if implementation == "pallas":
        return pallas_attention.attention(q, k, v, mask)
    return _chunked(q, k, v, mask, chunk)


# What `auto` took in the programs that were traced, in words, as an ordered set. A run empties it, compiles, and logs it.
TAKEN: dict[str, None] = {}


def chosen(keys, head_dim, dtype=jnp.float32, *, queries=None, platform=None):
    """What `auto` takes, and why, for the log of a run.

    Args:
      keys: tokens that are attended to.
      head_dim: size of a head.
      dtype: of the queries.
      queries: tokens that attend; None: as many as keys.
      platform: "cpu", "tpu" or "gpu"; None: of the mesh, where one is set or inside of shard_map, else the default backend.

    Returns:
      `(implementation, reason)`, both strings.

    Example:
      >>> chosen(1_024, 64, platform="cpu")[0]
      'chunked'
    """
    platform = platform or device_platform()
    entry = _table().get(platform, {"basis": "not in the table", "choice": [[None, "chunked"]]})
    implementation = next(name for up_to, name in entry["choice"] if up_to is None or keys <= up_to)
    reason = f"{platform}, {keys:,} keys: {entry['basis']}"
    refusal = pallas_attention.refusal(queries or keys, head_dim, dtype) if implementation == "pallas" else ""
    return ("chunked", f"{platform}, {keys:,} keys; no fused kernel: {refusal}") if refusal else (implementation, reason)


@functools.cache
def _table():
    return json.loads(CHOICE.read_text())


def device_platform():
    """A program may be compiled for devices that this machine does not have; then a mesh knows them."""
    return getattr(_meshed(), "platform", None) or jax.default_backend()


def device_kind():
    """The kind of the devices, as of `device_platform`: "TPU v5 lite"."""
    return getattr(_meshed(), "device_kind", None) or jax.devices()[0].device_kind


def _meshed():
    return getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)


def _chunked(q, k, v, mask, chunk):
    B, N, heads, head_dim = q.shape
    count = 1 if k.shape[1] <= WHOLE else -(-N // chunk)
    size = -(-N // count)
    # One batch axis in front, as a batched matmul wants it.
    queries, keys, values = (z.transpose(0, 2, 1, 3).reshape(B * heads, z.shape[1], head_dim) for z in (q, k, v))
    queries = jnp.pad(queries, ((0, 0), (0, count * size - N), (0, 0))).reshape(B * heads, count, size, head_dim)
    mask = None if mask is None else jnp.repeat(mask, heads, axis=0)[:, None]
    rows = lambda some: _rows(some, keys, values, mask)
    if count == 1:
        o = rows(queries[:, 0])
    else:
        o = jax.lax.map(jax.checkpoint(rows), queries.swapaxes(0, 1)).swapaxes(0, 1)
    return o.reshape(B, heads, count * size, head_dim)[:, :, :N].transpose(0, 2, 1, 3)


def _rows(q, k, v, mask):
    """Attention of some queries [n, size, head_dim] over all keys [n, M, head_dim], or those of a mask [n, 1, M]."""
    wide = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum("nqd,nkd->nqk", q, k, preferred_element_type=wide) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(mask, scores, pallas_attention.MASKED)
    # The result keeps the narrow dtype, so that the backward matmuls are narrow too; their sums are wide on every backend.
    return jnp.einsum("nqk,nkd->nqd", jax.nn.softmax(scores, axis=-1).astype(v.dtype), v)


def _check(q, k, v, mask, implementation, chunk):
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
    if mask is not None and (mask.shape != k.shape[:2] or mask.dtype != bool):
        raise typing.InputError(
            f"attention: mask is {mask.dtype} {mask.shape}; expected bool {k.shape[:2]}, True for keys that take part."
        )
    refusal = pallas_attention.refusal(q.shape[1], q.shape[3], q.dtype) if implementation == "pallas" else ""
    if refusal:
        raise typing.InputError(f"attention: no fused kernel: {refusal}. Type implementation='chunked'.")
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise typing.InputError(f"attention: chunk is {chunk!r}; expected a whole number of queries of at least 1.")
