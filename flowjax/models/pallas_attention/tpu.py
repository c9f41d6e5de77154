"""The kernels for TPUs. Tiles are transposed, [keys, queries], so that every statistic of a row is a vector along the lanes."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from flowjax.models.pallas_attention import tiling

VMEM = 32 << 20  # bytes for tiles and for blocks that arrive and leave; what is summed over a whole sweep comes on top
TRANSPOSED = ((1,), (1,))  # contracts both last dimensions: a b'
FIRST = ((0,), (0,))  # contracts both first dimensions: a' b
PLAIN = ((1,), (0,))


def _dot(a, b, contract):
    """A matmul with float32 sums; `a` is rounded to the dtype of `b` first."""
    return jax.lax.dot_general(
        a.astype(b.dtype), b, (contract, ((), ())), precision=tiling.precision(b), preferred_element_type=jnp.float32
    )


def _scores(q, k, bias, tile_of_keys, keys, padded_keys):
    """Scores [keys, queries] of one tile, -inf at keys that are padding."""
    scores = _dot(k, q, TRANSPOSED) * q.shape[1] ** -0.5
    if bias:
        scores += jnp.broadcast_to(bias[0][...], (tiling.LANES, k.shape[0])).T[:, :1]
    if keys < padded_keys:
        number = jax.lax.broadcasted_iota(jnp.int32, (k.shape[0], 1), 0) + tile_of_keys * k.shape[0]
        scores = jnp.where(number < keys, scores, -jnp.inf)
    return scores


def _score_tangents(q, k, dq, dk):
    return (_dot(k, dq, TRANSPOSED) + _dot(dk, q, TRANSPOSED)) * q.shape[1] ** -0.5


# Forward, and forward with the tangent in one online pass: 2 and 6 matmuls a tile


def _forward_kernel(q, k, v, *rest, scores, last):
    *bias, o, lse, top, total, acc = rest

    @pl.when(pl.program_id(2) == 0)
    def _():
        top[...] = jnp.full_like(top, -jnp.inf)
        total[...] = jnp.zeros_like(total)
        acc[...] = jnp.zeros_like(acc)

    s = scores(q[...], k[...], bias, pl.program_id(2))
    new_top = jnp.maximum(top[...], s.max(axis=0, keepdims=True))
    old, p = jnp.exp(top[...] - new_top), jnp.exp(s - new_top)
    top[...] = new_top
    total[...] = old * total[...] + p.sum(axis=0, keepdims=True)
    acc[...] = old * acc[...] + _dot(v[...], p.astype(v.dtype), FIRST)

    @pl.when(pl.program_id(2) == last)
    def _():
        o[...] = (acc[...] / total[...]).T.astype(o.dtype)
        lse[...] = top[...] + jnp.log(total[...])


def _dual_kernel(q, k, v, dq, dk, dv, *rest, scores, last):
    """The tangents of the scores are taken relative to their running mean, so that nothing large cancels at the end."""
    *bias, o, lse, do, mu, top, total, mean, acc, dacc = rest

    @pl.when(pl.program_id(2) == 0)
    def _():
        top[...] = jnp.full_like(top, -jnp.inf)
        for ref in (total, mean, acc, dacc):
            ref[...] = jnp.zeros_like(ref)

    s = scores(q[...], k[...], bias, pl.program_id(2))
    ds = _score_tangents(q[...], k[...], dq[...], dk[...])
    new_top = jnp.maximum(top[...], s.max(axis=0, keepdims=True))
    old, p = jnp.exp(top[...] - new_top), jnp.exp(s - new_top)
    before = old * total[...]
    now = before + p.sum(axis=0, keepdims=True)
    new_mean = (before * mean[...] + (p * ds).sum(axis=0, keepdims=True)) / now
    moved = dacc[...] - (new_mean - mean[...]) * acc[...]
    dp = p * (ds - new_mean)
    dacc[...] = old * moved + _dot(v[...], dp.astype(v.dtype), FIRST) + _dot(dv[...], p.astype(v.dtype), FIRST)
    acc[...] = old * acc[...] + _dot(v[...], p.astype(v.dtype), FIRST)
    top[...], total[...], mean[...] = new_top, now, new_mean

    @pl.when(pl.program_id(2) == last)
    def _():
        o[...] = (acc[...] / total[...]).T.astype(o.dtype)
        lse[...] = top[...] + jnp.log(total[...])
        do[...] = (dacc[...] / total[...]).T.astype(do.dtype)
        mu[...] = mean[...]


# The tangent, where the output is known: 5 matmuls a tile


def _tangent_kernel(q, k, v, dq, dk, dv, lse, o, *rest, scores, last):
    """Score tangents are relative to their mean over the first tile: exact if there is one tile, else most of what cancels."""
    *bias, do, mu, start, total, acc = rest
    s = scores(q[...], k[...], bias, pl.program_id(2))
    ds = _score_tangents(q[...], k[...], dq[...], dk[...])
    p = jnp.exp(s - lse[...])

    @pl.when(pl.program_id(2) == 0)
    def _():
        start[...] = (p * ds).sum(axis=0, keepdims=True) / jnp.maximum(p.sum(axis=0, keepdims=True), 1e-30)
        total[...] = jnp.zeros_like(total)
        acc[...] = jnp.zeros_like(acc)

    dp = p * (ds - start[...])
    total[...] += dp.sum(axis=0, keepdims=True)
    acc[...] += _dot(v[...], dp.astype(v.dtype), FIRST) + _dot(dv[...], p.astype(v.dtype), FIRST)

    @pl.when(pl.program_id(2) == last)
    def _():
        do[...] = (acc[...].T - total[...].T * o[...].astype(jnp.float32)).astype(do.dtype)
        mu[...] = start[...] + total[...]


# Backward: 5 matmuls a tile, and 15 with the tangent (13 without a cotangent of the output). One sweep: the sums for the keys
# of a tile, and those for all queries, both stay on the chip.


def _accumulate(first, ref, value):
    @pl.when(first)
    def _():
        ref[...] = value

    @pl.when(jnp.logical_not(first))
    def _():
        ref[...] += value


def _backward_kernel(q, k, v, h, lse, D_h, *rest, scores, last):
    *bias, q_bar, k_bar, v_bar, q_sum, k_sum, v_sum = rest
    key_tile, query_tile = pl.program_id(1), pl.program_id(2)
    scale = q.shape[1] ** -0.5
    p = jnp.exp(scores(q[...], k[...], bias, key_tile) - lse[...])
    s_bar = (p * (_dot(v[...], h[...], TRANSPOSED) - D_h[...])).astype(q.dtype)
    _accumulate(query_tile == 0, v_sum, _dot(p, h[...], PLAIN))
    _accumulate(query_tile == 0, k_sum, _dot(s_bar, q[...], PLAIN))
    _accumulate(key_tile == 0, q_sum.at[query_tile], _dot(k[...], s_bar, FIRST))

    @pl.when(query_tile == last[1])
    def _():
        k_bar[...] = (scale * k_sum[...]).astype(k_bar.dtype)
        v_bar[...] = v_sum[...].astype(v_bar.dtype)

    @pl.when(key_tile == last[0])
    def _():
        q_bar[...] = (scale * q_sum[query_tile]).T.astype(q_bar.dtype)


def _second_backward_kernel(q, k, v, dq, dk, dv, h, lse, mu, D_h, D_g, *rest, scores, last, has_g):
    g, rest = (rest[:1], rest[1:]) if has_g else ((), rest)
    *bias, q_bar, k_bar, v_bar, dq_bar, dk_bar, dv_bar, q_sum, k_sum, v_sum, dq_sum, dk_sum, dv_sum = rest
    key_tile, query_tile = pl.program_id(1), pl.program_id(2)
    scale = q.shape[1] ** -0.5
    p = jnp.exp(scores(q[...], k[...], bias, key_tile) - lse[...])
    ds = _score_tangents(q[...], k[...], dq[...], dk[...]) - mu[...]
    A = _dot(v[...], h[...], TRANSPOSED) - D_h[...]
    inner = _dot(dv[...], h[...], TRANSPOSED) + A * ds - D_g[...]
    ds_bar = (p * A).astype(q.dtype)
    v_new = _dot(p * ds, h[...], PLAIN)
    if has_g:
        inner += _dot(v[...], g[0][...], TRANSPOSED)
        v_new += _dot(p, g[0][...], PLAIN)
    s_bar = (p * inner).astype(q.dtype)
    first = query_tile == 0
    _accumulate(first, v_sum, v_new)
    _accumulate(first, dv_sum, _dot(p, h[...], PLAIN))
    _accumulate(first, k_sum, _dot(s_bar, q[...], PLAIN) + _dot(ds_bar, dq[...], PLAIN))
    _accumulate(first, dk_sum, _dot(ds_bar, q[...], PLAIN))
    first = key_tile == 0
    _accumulate(first, q_sum.at[query_tile], _dot(k[...], s_bar, FIRST) + _dot(dk[...], ds_bar, FIRST))
    _accumulate(first, dq_sum.at[query_tile], _dot(k[...], ds_bar, FIRST))

    @pl.when(query_tile == last[1])
    def _():
        for ref, total, factor in ((k_bar, k_sum, scale), (v_bar, v_sum, 1), (dk_bar, dk_sum, scale), (dv_bar, dv_sum, 1)):
            ref[...] = (factor * total[...]).astype(ref.dtype)

    @pl.when(key_tile == last[0])
    def _():
        for ref, total in ((q_bar, q_sum), (dq_bar, dq_sum)):
            ref[...] = (scale * total[query_tile]).T.astype(ref.dtype)


# The calls


class _Call:
    """A kernel on a grid over rows [n], then queries and keys (or keys and queries), as blocks of the arrays that it takes."""

    def __init__(self, q, k, bias, *, keys, tile, interpret, keys_first=False):
        self.q, self.k, self.bias, self.interpret, self.keys_first = q, k, bias, interpret, keys_first
        self.n, self.head_dim = q.shape[0], q.shape[2]
        self.rows, self.columns = tile
        self.tiles = q.shape[1] // self.rows, k.shape[1] // self.columns
        self.scores = functools.partial(_scores, keys=keys, padded_keys=k.shape[1])
        order = lambda index: (lambda i, a, b: index(i, b, a)) if keys_first else index
        shared = self.n // bias[0].shape[0] if bias else 1
        block = lambda shape, index: pl.BlockSpec((None, *shape), order(index))
        self.queries = block((self.rows, self.head_dim), lambda i, a, b: (i, a, 0))
        self.keys = block((self.columns, self.head_dim), lambda i, a, b: (i, b, 0))
        self.row = block((1, self.rows), lambda i, a, b: (i, 0, a))
        self.mask = block((1, self.columns), lambda i, a, b: (jax.lax.div(i, np.int32(shared)), 0, b))
        # Of what is summed over the keys, a block leaves the chip during the last sweep only.
        final = self.tiles[1] - 1
        self.summed_queries = block((self.rows, self.head_dim), lambda i, a, b: (i, jnp.where(b == final, a, 0), 0))

    def __call__(self, kernel, inputs, outputs, scratch, matmuls, **static):
        """`inputs`: (array, block) each; `outputs`: (like, block) each; `scratch`: shapes in float32."""
        inputs = inputs + [(b, self.mask) for b in self.bias]
        grid = (self.n, *(self.tiles[::-1] if self.keys_first else self.tiles))
        last = (grid[1] - 1, grid[2] - 1) if self.keys_first else grid[2] - 1
        pairs = self.n * self.q.shape[1] * self.k.shape[1]
        size = lambda z: math.prod(z.shape) * z.dtype.itemsize
        again = (self.queries, self.row) if self.keys_first else (self.keys, self.mask)  # what the inner sweep reads every time
        moved = sum(size(z) for z, _ in outputs)
        moved += sum(size(z) * (grid[1] if any(spec is inner for inner in again) else 1) for z, spec in inputs)
        return pl.pallas_call(
            functools.partial(kernel, scores=self.scores, last=last, **static),
            grid=grid,
            in_specs=[spec for _, spec in inputs],
            out_specs=[spec for _, spec in outputs],
            out_shape=[tiling.like(self.q, z.shape, z.dtype) for z, _ in outputs],
            scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch],
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "arbitrary" if self.keys_first else "parallel", "arbitrary"),
                vmem_limit_bytes=VMEM + sum(4 * math.prod(shape) for shape in scratch),
            ),
            cost_estimate=pl.CostEstimate(
                flops=2 * matmuls * pairs * self.head_dim, transcendentals=pairs, bytes_accessed=moved
            ),
            interpret=self.interpret,
            name=kernel.__name__.strip("_"),
        )(*(z for z, _ in inputs))

    def statistic(self):
        """What a statistic of every row looks like."""
        return jax.ShapeDtypeStruct((self.n, 1, self.q.shape[1]), jnp.float32)


def forward(q, k, v, *bias, **static):
    """(o, log of the sum of exponentials of a row)."""
    call = _Call(q, k, bias, **static)
    row, acc = (1, call.rows), (call.head_dim, call.rows)
    inputs = [(q, call.queries), (k, call.keys), (v, call.keys)]
    return call(_forward_kernel, inputs, [(q, call.queries), (call.statistic(), call.row)], [row, row, acc], 2)


def dual(q, k, v, dq, dk, dv, *bias, **static):
    """(o, log of the sum of exponentials, do, mean of the score tangents of a row) in one online pass."""
    call = _Call(q, k, bias, **static)
    row, acc, statistic = (1, call.rows), (call.head_dim, call.rows), (call.statistic(), call.row)
    inputs = [(q, call.queries), (k, call.keys), (v, call.keys), (dq, call.queries), (dk, call.keys), (dv, call.keys)]
    outputs = [(q, call.queries), statistic, (q, call.queries), statistic]
    return call(_dual_kernel, inputs, outputs, [row, row, row, acc, acc], 6)


def tangent(dq, dk, dv, q, k, v, o, lse, *bias, **static):
    """(do, mean of the score tangents of a row), given the output."""
    call = _Call(q, k, bias, **static)
    row, acc = (1, call.rows), (call.head_dim, call.rows)
    inputs = [(q, call.queries), (k, call.keys), (v, call.keys), (dq, call.queries), (dk, call.keys), (dv, call.keys)]
    inputs += [(lse, call.row), (o, call.queries)]
    return call(_tangent_kernel, inputs, [(q, call.queries), (call.statistic(), call.row)], [row, row, acc], 5)


def backward(h, q, k, v, o, lse, *bias, **static):
    """Cotangents of q, k and v for the cotangent h of the output."""
    call = _Call(q, k, bias, keys_first=True, **static)
    inputs = [(q, call.queries), (k, call.keys), (v, call.keys), (h, call.queries)]
    inputs += [(z, call.row) for z in (lse, tiling.row_sums(h, o))]
    of_keys, of_queries = (call.columns, call.head_dim), (call.tiles[0], call.head_dim, call.rows)
    outputs = [(q, call.summed_queries), (k, call.keys), (v, call.keys)]
    return call(_backward_kernel, inputs, outputs, [of_queries, of_keys, of_keys], 5)


def second_backward(g, h, q, k, v, dq, dk, dv, o, lse, do, mu, *bias, **static):
    """Cotangents of q, k, v, dq, dk and dv for cotangents g of the output (or None) and h of its tangent."""
    call = _Call(q, k, bias, keys_first=True, **static)
    D_h, D_g = tiling.row_sums(h, o), tiling.row_sums(h, do)
    if g is not None:
        D_g += tiling.row_sums(g, o)
    inputs = [(q, call.queries), (k, call.keys), (v, call.keys), (dq, call.queries), (dk, call.keys), (dv, call.keys)]
    inputs += [(h, call.queries)] + [(z, call.row) for z in (lse, mu, D_h, D_g)]
    inputs += [] if g is None else [(g, call.queries)]
    of_keys, of_queries = (call.columns, call.head_dim), (call.tiles[0], call.head_dim, call.rows)
    outputs = [(q, call.summed_queries), (k, call.keys), (v, call.keys)] * 2
    scratch = [of_queries, of_keys, of_keys] * 2
    has_g = g is not None
    return call(_second_backward_kernel, inputs, outputs, scratch, 15 if has_g else 13, has_g=has_g)
