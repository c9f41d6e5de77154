"""The kernels for NVIDIA GPUs, in Triton. Tiles are [queries, keys]; a program has one side of them and loops over the other.

The mathematics and the order of arguments are those of the kernels for TPUs. Sums for the queries, in a backward pass whose
programs have the keys, are atomic additions in float32, as in FlashAttention 2: their order, and so the last bits, may differ
from run to run.

Interpreted only: never run on a GPU so far.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from flowjax.models.pallas_attention import tiling


def _dot(a, b, **transposed):
    """A matmul with float32 sums; `a` is rounded to the dtype of `b` first."""
    return triton.dot(a.astype(b.dtype), b, precision=tiling.precision(b), **transposed)


class _Tile:
    """The scores of one tile and their tangents, from what a program has read."""

    def __init__(self, q, k, dq=None, dk=None, *, bias, start, keys, scale):
        self.scores = _dot(q, k, trans_b=True) * scale
        if bias:
            self.scores += bias[0][pl.ds(start, k.shape[0])][None]
        if keys is not None:
            number = start + jax.lax.broadcasted_iota(jnp.int32, (1, k.shape[0]), 1)
            self.scores = jnp.where(number < keys, self.scores, -jnp.inf)
        if dq is not None:
            self.tangents = (_dot(dq, k, trans_b=True) + _dot(q, dk, trans_b=True)) * scale


def _online(tile, top, total):
    """(new maximum, factor of the old sums, exponentials, new total) of a row."""
    new = jnp.maximum(top, tile.scores.max(axis=1))
    old, p = jnp.exp(top - new), jnp.exp(tile.scores - new[:, None])
    return new, old, p, old * total + p.sum(axis=1)


def _forward_kernel(q, k, v, *rest, block, tile):
    *bias, o, lse = rest
    q = q[...]

    def step(j, carry):
        top, total, acc = carry
        here = pl.ds(j * block, block)
        top, old, p, total = _online(tile(q, k[here], bias=bias, start=j * block), top, total)
        return top, total, old[:, None] * acc + _dot(p, v[here])

    rows = q.shape[0]
    start = jnp.full((rows,), -jnp.inf), jnp.zeros((rows,)), jnp.zeros(q.shape)
    top, total, acc = jax.lax.fori_loop(0, k.shape[0] // block, step, _float32(start))
    o[...] = (acc / total[:, None]).astype(o.dtype)
    lse[...] = top + jnp.log(total)


def _dual_kernel(q, k, v, dq, dk, dv, *rest, block, tile):
    *bias, o, lse, do, mu = rest
    q, dq = q[...], dq[...]

    def step(j, carry):
        top, total, mean, acc, dacc = carry
        here = pl.ds(j * block, block)
        this = tile(q, k[here], dq, dk[here], bias=bias, start=j * block)
        top, old, p, now = _online(this, top, total)
        new_mean = (old * total * mean + (p * this.tangents).sum(axis=1)) / now
        moved = dacc - (new_mean - mean)[:, None] * acc
        dp = p * (this.tangents - new_mean[:, None])
        dacc = old[:, None] * moved + _dot(dp, v[here]) + _dot(p, dv[here])
        return top, now, new_mean, old[:, None] * acc + _dot(p, v[here]), dacc

    row, acc = jnp.zeros((q.shape[0],)), jnp.zeros(q.shape)
    start = jnp.full_like(row, -jnp.inf), row, row, acc, acc
    top, total, mean, acc, dacc = jax.lax.fori_loop(0, k.shape[0] // block, step, _float32(start))
    o[...] = (acc / total[:, None]).astype(o.dtype)
    do[...] = (dacc / total[:, None]).astype(do.dtype)
    lse[...] = top + jnp.log(total)
    mu[...] = mean


def _tangent_kernel(q, k, v, dq, dk, dv, lse, o, *rest, block, tile):
    *bias, do, mu = rest
    q, dq, lse = q[...], dq[...], lse[...]

    def step(j, carry):
        start, total, acc = carry
        here = pl.ds(j * block, block)
        this = tile(q, k[here], dq, dk[here], bias=bias, start=j * block)
        p = jnp.exp(this.scores - lse[:, None])
        first = (p * this.tangents).sum(axis=1) / jnp.maximum(p.sum(axis=1), 1e-30)
        start = jnp.where(j == 0, first, start)
        dp = p * (this.tangents - start[:, None])
        return start, total + dp.sum(axis=1), acc + _dot(dp, v[here]) + _dot(p, dv[here])

    row = jnp.zeros((q.shape[0],))
    start, total, acc = jax.lax.fori_loop(0, k.shape[0] // block, step, _float32((row, row, jnp.zeros(q.shape))))
    do[...] = (acc - total[:, None] * o[...].astype(jnp.float32)).astype(do.dtype)
    mu[...] = start + total


def _float32(arrays):
    """Also where jax has float64 on."""
    return tuple(z.astype(jnp.float32) for z in arrays)


def _backward_kernel(q, k, v, h, lse, D_h, *rest, block, tile, scale):
    *bias, _, q_sum, k_bar, v_bar = rest
    k, v = k[...], v[...]
    start = pl.program_id(1) * k.shape[0]

    def step(i, carry):
        k_sum, v_sum = carry
        here = pl.ds(i * block, block)
        p = jnp.exp(tile(q[here], k, bias=bias, start=start).scores - lse[here][:, None])
        s_bar = (p * (_dot(h[here], v, trans_b=True) - D_h[here][:, None])).astype(k.dtype)
        triton.atomic_add(q_sum, (here, slice(None)), scale * _dot(s_bar, k))
        return k_sum + _dot(s_bar, q[here], trans_a=True), v_sum + _dot(p, h[here], trans_a=True)

    acc = jnp.zeros(k.shape)
    k_sum, v_sum = jax.lax.fori_loop(0, q.shape[0] // block, step, _float32((acc, acc)))
    k_bar[...] = (scale * k_sum).astype(k_bar.dtype)
    v_bar[...] = v_sum.astype(v_bar.dtype)


def _second_backward_kernel(q, k, v, dq, dk, dv, h, lse, mu, D_h, D_g, *rest, block, tile, scale, has_g):
    g, rest = (rest[:1], rest[1:]) if has_g else ((), rest)
    *bias, _, _, q_sum, dq_sum, k_bar, v_bar, dk_bar, dv_bar = rest
    k, v, dk, dv = k[...], v[...], dk[...], dv[...]
    start = pl.program_id(1) * k.shape[0]

    def step(i, carry):
        k_sum, v_sum, dk_sum, dv_sum = carry
        here = pl.ds(i * block, block)
        this = tile(q[here], k, dq[here], dk, bias=bias, start=start)
        p = jnp.exp(this.scores - lse[here][:, None])
        ds = this.tangents - mu[here][:, None]
        A = _dot(h[here], v, trans_b=True) - D_h[here][:, None]
        inner = _dot(h[here], dv, trans_b=True) + A * ds - D_g[here][:, None]
        v_sum += _dot(p * ds, h[here], trans_a=True)
        if has_g:
            inner += _dot(g[0][here], v, trans_b=True)
            v_sum += _dot(p, g[0][here], trans_a=True)
        ds_bar, s_bar = (p * A).astype(k.dtype), (p * inner).astype(k.dtype)
        triton.atomic_add(q_sum, (here, slice(None)), scale * (_dot(s_bar, k) + _dot(ds_bar, dk)))
        triton.atomic_add(dq_sum, (here, slice(None)), scale * _dot(ds_bar, k))
        k_sum += _dot(s_bar, q[here], trans_a=True) + _dot(ds_bar, dq[here], trans_a=True)
        dk_sum += _dot(ds_bar, q[here], trans_a=True)
        return k_sum, v_sum, dk_sum, dv_sum + _dot(p, h[here], trans_a=True)

    acc = jnp.zeros(k.shape)
    sums = jax.lax.fori_loop(0, q.shape[0] // block, step, _float32((acc,) * 4))
    for ref, total, factor in zip((k_bar, v_bar, dk_bar, dv_bar), sums, (scale, 1, scale, 1)):
        ref[...] = (factor * total).astype(ref.dtype)


# The calls


def _block(side, largest):
    """Tokens that a program reads at a time: the largest power of two that divides the side of a tile, up to `largest`."""
    return min(side & -side, largest)


class _Call:
    """A kernel on a grid over rows [n] and blocks of queries, or of keys; of the other side it gets everything."""

    def __init__(self, q, k, bias, *, keys, tile, interpret, of_keys=False, largest=64):
        self.bias, self.interpret, self.of_keys, self.like = [b[:, 0] for b in bias], interpret, of_keys, q
        self.n, self.head_dim = q.shape[0], q.shape[2]
        self.width = max(16, 1 << (self.head_dim - 1).bit_length())  # heads are padded to a power of two
        self.blocks = tuple(_block(side, largest if self.width <= 64 else largest // 2) for side in tile)
        self.scale = self.head_dim**-0.5
        self.tokens = q.shape[1], k.shape[1]
        keys = keys if keys < k.shape[1] else None
        self.tile = functools.partial(_Tile, keys=keys, scale=self.scale)

    def queries(self, z):
        return self._wide(z), self._spec(0, (self.width,))

    def keys(self, z):
        return self._wide(z), self._spec(1, (self.width,))

    def row(self, z):
        return z[:, 0], self._spec(0, ())

    def _wide(self, z):
        return jnp.pad(z, ((0, 0), (0, 0), (0, self.width - self.head_dim)))

    def _spec(self, side, rest):
        zeros = (0,) * len(rest)
        if side == int(self.of_keys):
            return pl.BlockSpec((None, self.blocks[side], *rest), lambda i, a: (i, a, *zeros))
        return pl.BlockSpec((None, self.tokens[side], *rest), lambda i, a: (i, 0, *zeros))

    def __call__(self, kernel, inputs, outputs, sums=0, **static):
        """Inputs: (array, block) each; outputs: letters q, k or s; of the first `sums`, which are added to, zeros come last."""
        shapes = {
            "q": (self.n, self.tokens[0], self.width),
            "k": (self.n, self.tokens[1], self.width),
            "s": (self.n, self.tokens[0]),
        }
        specs = {"q": self._spec(0, (self.width,)), "k": self._spec(1, (self.width,)), "s": self._spec(0, ())}
        dtypes = [jnp.float32 if letter == "s" or i < sums else self.like.dtype for i, letter in enumerate(outputs)]
        shared = self.n // self.bias[0].shape[0] if self.bias else 1
        mask = pl.BlockSpec((None, self.tokens[1]), lambda i, a: (jax.lax.div(i, np.int32(shared)), 0))
        inputs = inputs + [(b, mask) for b in self.bias]
        zeros = [(jnp.zeros(shapes[letter], jnp.float32), specs[letter]) for letter in outputs[:sums]]
        side = int(self.of_keys)
        results = pl.pallas_call(
            functools.partial(kernel, block=self.blocks[1 - side], tile=self.tile, **static),
            grid=(self.n, self.tokens[side] // self.blocks[side]),
            in_specs=[spec for _, spec in inputs + zeros],
            out_specs=[specs[letter] for letter in outputs],
            out_shape=[tiling.like(self.like, shapes[letter], dtype) for letter, dtype in zip(outputs, dtypes)],
            input_output_aliases={len(inputs) + i: i for i in range(sums)},
            compiler_params=triton.CompilerParams(num_warps=4 if self.width <= 64 else 8, num_stages=2),
            interpret=self.interpret,
            name=kernel.__name__.strip("_"),
        )(*(z for z, _ in inputs + zeros))
        narrow = lambda z: z[:, None] if z.ndim == 2 else z[..., : self.head_dim].astype(self.like.dtype)
        return [narrow(z) for z in results]


def forward(q, k, v, *bias, **static):
    call = _Call(q, k, bias, **static)
    return call(_forward_kernel, [call.queries(q), call.keys(k), call.keys(v)], "qs")


def dual(q, k, v, dq, dk, dv, *bias, **static):
    call = _Call(q, k, bias, **static)
    inputs = [call.queries(q), call.keys(k), call.keys(v), call.queries(dq), call.keys(dk), call.keys(dv)]
    return call(_dual_kernel, inputs, "qsqs")


def tangent(dq, dk, dv, q, k, v, o, lse, *bias, **static):
    call = _Call(q, k, bias, **static)
    inputs = [call.queries(q), call.keys(k), call.keys(v), call.queries(dq), call.keys(dk), call.keys(dv)]
    return call(_tangent_kernel, [*inputs, call.row(lse), call.queries(o)], "qs")


def backward(h, q, k, v, o, lse, *bias, **static):
    call = _Call(q, k, bias, of_keys=True, **static)
    inputs = [call.queries(q), call.keys(k), call.keys(v), call.queries(h), call.row(lse), call.row(tiling.row_sums(h, o))]
    return call(_backward_kernel, inputs, "qkk", 1, scale=call.scale)


def second_backward(g, h, q, k, v, dq, dk, dv, o, lse, do, mu, *bias, **static):
    call = _Call(q, k, bias, of_keys=True, largest=32, **static)
    D_h, D_g = tiling.row_sums(h, o), tiling.row_sums(h, do)
    if g is not None:
        D_g += tiling.row_sums(g, o)
    inputs = [call.queries(q), call.keys(k), call.keys(v), call.queries(dq), call.keys(dk), call.keys(dv), call.queries(h)]
    inputs += [call.row(z) for z in (lse, mu, D_h, D_g)] + ([] if g is None else [call.queries(g)])
    results = call(_second_backward_kernel, inputs, "qqkkkk", 2, scale=call.scale, has_g=g is not None)
    q_bar, dq_bar, k_bar, v_bar, dk_bar, dv_bar = results
    return [q_bar, k_bar, v_bar, dq_bar, dk_bar, dv_bar]
