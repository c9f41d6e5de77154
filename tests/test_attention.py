"""Attention: chunked against plain and against full Jacobians, every transform, what it costs, what it refuses."""

import functools
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from configs import common, flow_matching
from flowjax import models, training, typing
from flowjax.models import attention
from flowjax.profiling import flops
from flowjax.training import compilation

quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
CHUNKED = functools.partial(attention.attention, implementation="chunked", chunk=8)
PLAIN = functools.partial(attention.attention, implementation="xla")


def arguments(tokens, heads=2, head_dim=16, *, batch=1, keys=None, dtype=jnp.float32):
    """(q, k, v), and tangents of them."""
    drawn = jax.random.split(jax.random.key(tokens), 6)
    counts = (tokens, keys or tokens, keys or tokens) * 2
    made = [jax.random.normal(key, (batch, n, heads, head_dim), dtype) for key, n in zip(drawn, counts)]
    return tuple(made[:3]), tuple(made[3:])


def value(f):
    return lambda primals, tangents: f(*primals)


def tangent(f):
    return lambda primals, tangents: jax.jvp(f, primals, tangents)[1]


def gradient(f):
    return jax.grad(lambda primals, tangents: jnp.sum(jnp.sin(f(*primals))))


def meanflow_like(f):
    """The tangent under a stop-gradient."""

    def loss(primals, tangents):
        o, do = jax.jvp(f, primals, tangents)
        return jnp.sum((o - jax.lax.stop_gradient(do)) ** 2)

    return jax.grad(loss)


def gradient_of_jvp(f):
    """As in TVM, with cotangents of output and tangent that differ."""

    def loss(primals, tangents):
        o, do = jax.jvp(f, primals, tangents)
        return jnp.sum(jnp.sin(o)) + jnp.sum(do**2)

    return jax.grad(loss)


def jvp_of_gradient(f):
    return lambda primals, tangents: jax.jvp(lambda p: gradient(f)(p, None), (primals,), (tangents,))[1]


OPERATIONS = [value, tangent, gradient, meanflow_like, gradient_of_jvp, jvp_of_gradient]


@pytest.fixture
def always_in_chunks(monkeypatch):
    monkeypatch.setattr(attention, "WHOLE", 0)


@pytest.mark.parametrize(("tokens", "head_dim"), [(1, 16), (8, 128), (37, 16)])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_chunked_is_plain(operation, tokens, head_dim, always_in_chunks):
    args = arguments(tokens, head_dim=head_dim)
    ours, plain = (quick_jit(operation(f))(*args) for f in (CHUNKED, PLAIN))
    for own, expected in zip(jax.tree.leaves(ours), jax.tree.leaves(plain)):
        assert own.dtype == jnp.float32
        np.testing.assert_allclose(own, expected, rtol=0, atol=1e-5 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("operation", [tangent, gradient_of_jvp])
@pytest.mark.parametrize("tokens", [256, 301])  # taken whole; an odd number in chunks of 64
def test_chunked_equals_plain_at_the_sizes_of_the_chunks(operation, tokens):
    args = arguments(tokens)
    ours = functools.partial(attention.attention, implementation="chunked")
    for own, expected in zip(*(jax.tree.leaves(quick_jit(operation(f))(*args)) for f in (ours, PLAIN))):
        np.testing.assert_allclose(own, expected, rtol=0, atol=1e-5 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("f", [CHUNKED, PLAIN])
def test_value_and_tangent_are_the_formulas_of_the_docstring(f, always_in_chunks):
    (q, k, v), (dq, dk, dv) = arguments(13, keys=7)
    o, do = jax.jvp(f, (q, k, v), (dq, dk, dv))
    heads_first = lambda z: np.asarray(z[0], np.float64).transpose(1, 0, 2)
    q, k, v, dq, dk, dv = map(heads_first, (q, k, v, dq, dk, dv))
    S, dS = ((a @ b.transpose(0, 2, 1) + c @ d.transpose(0, 2, 1)) / 4 for a, b, c, d in ((q, k, 0 * q, k), (dq, k, q, dk)))
    P = np.exp(S) / np.exp(S).sum(-1, keepdims=True)
    H = P * dS
    np.testing.assert_allclose(heads_first(o), P @ v, atol=1e-5)
    np.testing.assert_allclose(heads_first(do), H @ v + P @ dv - H.sum(-1, keepdims=True) * (P @ v), atol=1e-5)


def transforms():
    """What must compose: name -> function of an attention that maps (primals, tangents) to arrays."""
    linearized = lambda f: lambda p, t: jax.linearize(f, *p)[1](*t)
    rematerialised = lambda f: gradient_of_jvp(jax.checkpoint(f))
    in_scan = lambda f: gradient_of_jvp(lambda q, k, v: jax.lax.scan(lambda h, _: (f(h, k, v), None), q, length=2)[0])
    mapped = lambda f: lambda p, t: jax.vmap(gradient_of_jvp(f), (0, None))(jax.tree.map(lambda z: jnp.stack([z, 2 * z]), p), t)
    transposed = lambda f: lambda p, t: jax.linear_transpose(jax.linearize(f, *p)[1], *p)(t[0])

    def zero_tangent(f):
        return lambda p, t: jax.jvp(lambda q: f(q, *p[1:]), p[:1], (jnp.zeros_like(p[0]),))[1]

    def sharded(f):
        rows, mesh = PartitionSpec("data"), jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        return lambda p, t: jax.shard_map(tangent(f), mesh=mesh, in_specs=(rows, rows), out_specs=rows)(p, t)

    def sharded_gradient(f):
        rows, mesh = PartitionSpec("data"), jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        return lambda p, t: jax.shard_map(gradient_of_jvp(f), mesh=mesh, in_specs=(rows, rows), out_specs=rows)(p, t)

    return {f.__name__: f for f in (zero_tangent, sharded, sharded_gradient)} | {
        "linearize": linearized, "remat": rematerialised, "scan": in_scan, "vmap": mapped, "transpose": transposed,
    }  # fmt: skip


@pytest.mark.parametrize("name", transforms())
def test_every_transform(name, always_in_chunks):
    args = arguments(11, batch=8)
    ours, plain = (quick_jit(transforms()[name](f))(*args) for f in (CHUNKED, PLAIN))
    chex.assert_trees_all_close(ours, plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("keys", [40, 300, 4_000])
def test_bfloat16_accumulates_in_float32(keys):
    """Rounded once a matmul, not once a key: the error does not grow with the keys."""
    primals, tangents = arguments(8, head_dim=64, keys=keys, dtype=jnp.bfloat16)
    f = functools.partial(attention.attention, implementation="chunked")
    wide = lambda args: tuple(z.astype(jnp.float32) for z in args)
    all_of = quick_jit(lambda p, t: (*jax.jvp(f, p, t), *gradient_of_jvp(f)(p, t)))
    for ours, reference in zip(all_of(primals, tangents), all_of(wide(primals), wide(tangents))):
        assert ours.dtype == jnp.bfloat16
        assert np.linalg.norm(ours.astype(jnp.float32) - reference) < 2**-5.5 * np.linalg.norm(reference)


def test_float64_stays_float64(x64):
    primals, tangents = arguments(9, dtype=jnp.float64)
    f = functools.partial(attention.attention, implementation="chunked")
    h = 1e-6
    moved = lambda sign: f(*(p + sign * h * t for p, t in zip(primals, tangents)))
    o, do = jax.jvp(f, primals, tangents)
    assert o.dtype == jnp.float64
    np.testing.assert_allclose(do, (moved(1) - moved(-1)) / (2 * h), atol=1e-8)


# What it costs


def program(operation, f, tokens, heads=2, head_dim=32):
    like = jax.ShapeDtypeStruct((1, tokens, heads, head_dim), jnp.float32)
    return jax.jit(operation(f)).lower((like,) * 3, (like,) * 3).compile({"xla_backend_optimization_level": 0})


def temp_bytes(operation, f, tokens):
    return program(operation, f, tokens).memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("operation", [meanflow_like, gradient_of_jvp])
def test_memory_is_linear_in_tokens_and_a_thirtieth_of_plain(operation):
    chunked = functools.partial(attention.attention, implementation="chunked")
    ours = {tokens: temp_bytes(operation, chunked, tokens) for tokens in (512, 1024, 2048, 4096)}
    for tokens in (512, 1024, 2048):
        assert ours[2 * tokens] < 2.1 * ours[tokens], ours
    assert 30 * ours[4096] < temp_bytes(operation, PLAIN, 4096), ours


@pytest.mark.parametrize(
    ("operation", "floor", "whole"),
    [(value, 2, 2), (tangent, 6, 6), (gradient, 7, 6), (meanflow_like, 11, 10), (gradient_of_jvp, 21, 18)],
)
def test_matmuls_are_those_of_a_fused_kernel(operation, floor, whole):
    """In tokens^2 head_dim a head; what is taken whole recomputes nothing and needs fewer."""
    chunked = functools.partial(attention.attention, implementation="chunked")
    matmuls = lambda tokens: flops.count(program(operation, chunked, tokens).as_text()) / (2 * 2 * tokens**2 * 32)
    assert matmuls(512) <= floor
    assert matmuls(256) <= whole


# The choice, and mistakes


@pytest.mark.parametrize(
    ("backend", "tokens", "chosen"),
    [("cpu", 16, "chunked"), ("gpu", 16, "chunked"), ("gpu", 1_025, "chunked"), ("tpu", 16, "xla"), ("tpu", 1_024, "chunked")],
)
def test_auto_goes_by_device_and_tokens(backend, tokens, chosen, monkeypatch):
    """A platform without a line in the table, which nobody measured, gets `chunked`."""
    table = {name: {"basis": "a test", "choice": [[64, "xla"], [None, "chunked"]]} for name in ("tpu", "unused")}
    monkeypatch.setattr(attention, "_table", lambda: table)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    (q, k, v), _ = arguments(4, keys=tokens)
    jaxprs = {name: str(jax.make_jaxpr(functools.partial(attention.attention, implementation=name))(q, k, v))
              for name in ("auto", "chunked", "xla")}  # fmt: skip
    assert jaxprs["auto"] == jaxprs[chosen] and jaxprs["chunked"] != jaxprs["xla"]


@pytest.mark.slow
@pytest.mark.parametrize("remat", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_transformer_uses_it(remat, always_in_chunks):
    """In a scan over blocks, in chunks of 64 of its 81 tokens."""
    net = models.make("dit", width=16, depth=2, heads=2, patch=1, attention="xla", remat="nothing_saveable" if remat else "")
    x, v = jax.random.normal(jax.random.key(0), (2, 2, 9, 9, 3))
    params = quick_jit(net.init)(jax.random.key(1), x, 0.5, 0.2)
    params = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), params)

    @functools.partial(quick_jit, static_argnums=0)
    def loss_and_gradient(net, params):
        V = lambda x, s: net.apply(params, x, s, 0.2)
        loss = lambda params: jnp.sum(jax.jvp(lambda x: net.apply(params, x, 0.5, 0.2), (x,), (v,))[1] ** 2)
        return jax.jvp(V, (x, 0.5), (v, 1.0)), jax.grad(loss)(params)

    by = {name: loss_and_gradient(net.clone(attention=name), params) for name in ("xla", "chunked")}
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(by["xla"]))
    chex.assert_trees_all_close(by["chunked"], by["xla"], atol=1e-5 * scale)
    with pytest.raises(typing.InputError, match="unknown attention 'flash'"):
        net.clone(attention="flash").apply(params, x, 0.5, 0.2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q, k, v: (q[0], k[0], v[0]), r"q has shape \(4, 2, 16\).*expected q \[B, N, heads, head_dim\]"),
        (lambda q, k, v: (q, k[:, :3], v), r"k \(1, 3, 2, 16\), v \(1, 4, 2, 16\)"),
        (lambda q, k, v: (q[..., :8], k, v), "expected q"),
        (lambda q, k, v: (q, k, v.astype(jnp.bfloat16)), "float32, float32, bfloat16; expected one floating dtype"),
        (lambda q, k, v: (q.astype(int), k.astype(int), v.astype(int)), "floating dtype"),
        (lambda q, k, v: (q, k[:, :0], v[:, :0]), "4 queries and 0 keys; expected at least one"),
    ],
)
def test_errors_for_wrong_arguments(change, message):
    (q, k, v), _ = arguments(4)
    with pytest.raises(typing.InputError, match=message):
        attention.attention(*change(q, k, v))


@pytest.mark.parametrize("chunk", [0, -1, 2.0, True])
def test_a_chunk_is_a_whole_number(chunk):
    (q, k, v), _ = arguments(4)
    with pytest.raises(typing.InputError, match="chunk is .*expected a whole number"):
        attention.attention(q, k, v, chunk=chunk)


def test_the_log_of_a_run_names_the_attention_that_auto_took():
    attention.TAKEN.clear()
    z = jax.ShapeDtypeStruct((1, 300, 2, 16), jnp.float32)
    for implementation in ("auto", "auto", "xla"):
        jax.eval_shape(functools.partial(attention.attention, implementation=implementation), z, z, z)
    (line,) = attention.TAKEN
    assert line == "{} ({})".format(*attention.chosen(300, 16))


@pytest.mark.slow
def test_a_training_prints_that_no_kernel_runs_and_what_auto_took(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(attention, "_table", lambda: {"cpu": {"basis": "a test", "choice": [[None, "pallas"]]}})
    monkeypatch.setattr(attention.pallas_attention, "refusal", lambda *_: "a reason")
    config = flow_matching.get_config("digits")
    config.update({"steps": 1, "eval_every": 0, "batch_size": 8})
    config.optim.warmup_steps = 0
    config.model = common.network("dit", width=16, depth=1, heads=2, patch=4)
    training.train(config, tmp_path / "run")
    line = "attention: chunked (cpu, 4 keys; no fused kernel: a reason)"
    assert line in capsys.readouterr().out.splitlines()
    assert line in compilation.report(training.setup(config)).splitlines()  # of --dry_run


def test_the_page_shows_the_line_of_the_log_on_a_tpu():
    line = "    attention: {} ({})".format(*attention.chosen(1_024, 64, platform="tpu"))
    assert line in (pathlib.Path("docs") / "fused_attention.md").read_text().splitlines()
