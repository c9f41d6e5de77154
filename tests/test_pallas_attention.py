"""Fused kernels, interpreted: against plain attention under every transform, their matmuls, what compiles for TPUs and GPUs."""

import contextlib
import functools
import importlib.util
import itertools
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import unittest.mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_attention as plain
from jax.sharding import PartitionSpec

from configs import common, meanflow, tvm
from experiments import attention_results
from flowjax import data, typing
from flowjax.models import attention, pallas_attention
from flowjax.models.pallas_attention import primitives, tiling
from flowjax.training import runs, sharding

quick_jit = plain.quick_jit
SMALL = (16, 24)  # queries and keys of a tile, so that few tokens fill several


def fused(q, k, v, mask=None, *, kernels="tpu"):
    return pallas_attention.attention(q, k, v, mask, tile=SMALL, kernels=kernels)


def close(ours, expected, tolerance=2e-6):
    """To the tolerance of the largest number of each array."""
    for some, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(some, other, rtol=0, atol=tolerance * max(1.0, np.abs(other).max()))


def all_operations(f, names):
    """One program: compiling many takes longer than running them."""
    return lambda p, t: {name: operation(f)(p, t) for name, operation in names.items()}


OPERATIONS = {operation.__name__: operation for operation in plain.OPERATIONS}


def masks(tokens):
    return jnp.arange(tokens)[None] % 5 != jnp.arange(2)[:, None]


@pytest.mark.parametrize(
    ("kernels", "tokens", "masked", "names"),
    [
        ("tpu", 37, True, ("tangent", "gradient_of_jvp", "jvp_of_gradient")),
        ("nvidia", 37, True, ("meanflow_like", "gradient_of_jvp")),
        pytest.param("tpu", 48, False, tuple(OPERATIONS), marks=pytest.mark.slow),  # divides the tile
        pytest.param("tpu", 37, False, tuple(OPERATIONS), marks=pytest.mark.slow),  # does not
        pytest.param("nvidia", 48, False, tuple(OPERATIONS), marks=pytest.mark.slow),
    ],
)
def test_operations_are_plain(kernels, tokens, masked, names):
    args = plain.arguments(tokens, batch=2)
    mask = masks(tokens) if masked else None
    program = lambda f: quick_jit(all_operations(functools.partial(f, mask=mask), {name: OPERATIONS[name] for name in names}))
    close(program(functools.partial(fused, kernels=kernels))(*args), program(plain.PLAIN)(*args))


def all_at_once(f):
    """The gradient of a jvp of a vmap in a scan under remat, in shard_map."""
    rows, mesh = PartitionSpec("data"), jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    block = jax.checkpoint(lambda h, kv: (jax.vmap(f, (0, None, None))(jnp.stack([h, -h]), *kv).sum(0), None))
    in_scan = lambda q, k, v: jax.lax.scan(lambda h, _: block(h, (k, v)), q, length=2)[0]
    return lambda p, t: jax.shard_map(plain.gradient_of_jvp(in_scan), mesh=mesh, in_specs=(rows, rows), out_specs=rows)(p, t)


def only_times_move(f):
    """The gradient through the tangent along a time alone, of a network whose times scale what enters the attention."""
    network = lambda q, k, v, s: f(s * q, (1 + s) * k, v)
    loss = lambda p, s: sum(jnp.sum(jnp.sin(z)) for z in jax.jvp(functools.partial(network, *p), (s,), (1.0,)))
    return lambda p, t: jax.grad(loss)(p, 0.7)


def masks_of_their_own(f):
    """Every copy of a vmap has its masks, and every row of it another one."""
    copies, rows = jnp.arange(2)[:, None, None], jnp.arange(8)[None, :, None]
    of_one = lambda mask, p, t: plain.gradient_of_jvp(functools.partial(f, mask=mask))(p, t)
    mask = lambda keys: jnp.arange(keys)[None, None] % 5 != (copies + rows) % 5
    return lambda p, t: jax.vmap(of_one, (0, None, None))(mask(p[1].shape[1]), p, t)


def extra_transforms():
    """Besides those of test_attention: second and third derivatives, and what decides which kernel runs."""
    scanned = lambda f: lambda q, k, v: jax.lax.scan(jax.checkpoint(lambda h, _: (f(h, k, v), None)), q, length=2)[0]
    saved = lambda f: jax.checkpoint(f, policy=jax.checkpoint_policies.everything_saveable)
    total = lambda f: lambda p, t: sum(jnp.sum(jnp.sin(z)) for z in f(p, t))
    return {
        "jvp_of_jvp": lambda f: lambda p, t: jax.jvp(lambda *p: plain.tangent(f)(p, t), p, t[::-1])[1],
        "gradient_of_gradient": lambda f: jax.grad(total(plain.gradient(f))),
        "jvp_of_gradient_of_jvp": lambda f: lambda p, t: jax.jvp(lambda p: plain.gradient_of_jvp(f)(p, t), (p,), (t,))[1],
        "scan_and_remat": lambda f: plain.gradient_of_jvp(scanned(f)),
        "meanflow_in_scan_and_remat": lambda f: plain.meanflow_like(scanned(f)),
        "remat_that_saves": lambda f: plain.gradient_of_jvp(saved(f)),
        "all_at_once": all_at_once,
        "only_values_move": lambda f: lambda p, t: jax.jvp(lambda v: f(*p[:2], v), p[2:], t[2:])[1],
        "only_times_move": only_times_move,
        "vmap_of_masks": masks_of_their_own,
    }


TRANSFORMS = plain.transforms() | extra_transforms()
QUICK = ("all_at_once",)


@pytest.mark.parametrize("tokens", [48, pytest.param(37, marks=pytest.mark.slow)])  # divides the tile; does not
@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in TRANSFORMS])
def test_every_transform_is_plain(name, tokens):
    if name == "vmap":  # single numbers of plain attention itself are up to 2.5e-6 of the largest from float64
        with jax.enable_x64(True):
            assert errors(TRANSFORMS[name], tokens, jnp.float32, fused)[0] < 2e-6
        return
    args = plain.arguments(tokens, batch=8)
    ours, expected = (quick_jit(TRANSFORMS[name](f))(*args) for f in (fused, plain.PLAIN))
    close(ours, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_transform_is_plain_without_the_tables_of_partial_evaluation(name, monkeypatch):
    monkeypatch.setattr(primitives, "FUSED", False)
    test_every_transform_is_plain(name, 48)


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["tpu", "nvidia"])
@pytest.mark.parametrize("head_dim", [32, 64, 72, 128])
def test_every_size_of_heads_is_plain(head_dim, kernels):
    """In the tiles that an accelerator gets: 300 tokens are padded to 384."""
    args = plain.arguments(300, heads=1, head_dim=head_dim)
    names = {name: OPERATIONS[name] for name in ("value", "tangent", "gradient", "gradient_of_jvp")}
    ours = quick_jit(all_operations(functools.partial(pallas_attention.attention, kernels=kernels), names))(*args)
    close(ours, quick_jit(all_operations(plain.PLAIN, names))(*args))


@pytest.mark.parametrize("tokens", [48, pytest.param(37, marks=pytest.mark.slow)])
def test_bfloat16_is_no_worse_than_plain(tokens, x64):
    primals, tangents = plain.arguments(tokens, batch=2, dtype=jnp.bfloat16)
    wide = lambda args: tuple(z.astype(jnp.float64) for z in args)
    operations = lambda f: all_operations(f, {"jvp": plain.tangent, "gradient": plain.gradient_of_jvp})
    exact = quick_jit(operations(plain.CHUNKED))(wide(primals), wide(tangents))
    ours, others = (quick_jit(operations(f))(primals, tangents) for f in (fused, plain.PLAIN))
    error = lambda found: [
        np.linalg.norm(z.astype(jnp.float64) - e) / np.linalg.norm(e) for z, e in zip(*map(jax.tree.leaves, (found, exact)))
    ]
    assert all(z.dtype == jnp.bfloat16 for z in jax.tree.leaves(ours))
    assert max(error(ours)) <= max(error(others))
    np.testing.assert_array_less(error(ours), 1.1 * np.asarray(error(others)))


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [48, 37])  # divides the tile; does not
@pytest.mark.parametrize("name", OPERATIONS | TRANSFORMS)
def test_everything_in_bfloat16_is_as_exact_as_plain(name, tokens, x64):
    """Up to what a CPU alone does: it multiplies the cotangents of plain attention's scores without rounding them to bfloat16."""
    ours, others = errors((OPERATIONS | TRANSFORMS)[name], tokens, jnp.bfloat16, fused, plain.PLAIN)
    assert ours <= 1.15 * others


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [48, 37])
def test_the_gradient_in_bfloat16_is_no_worse_than_that_of_plain_matmuls_of_bfloat16(tokens, x64):
    """As TPUs and GPUs multiply, which round what enters a matmul."""

    @jax.custom_vjp
    def rounds_its_cotangent(z):
        return z

    rounds_its_cotangent.defvjp(lambda z: (z, None), lambda _, c: (c.astype(jnp.bfloat16).astype(c.dtype),))

    def rounded(q, k, v):
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32) * q.shape[3] ** -0.5
        return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(rounds_its_cotangent(scores)).astype(q.dtype), v)

    ours, others = errors(plain.gradient, tokens, jnp.bfloat16, fused, rounded)
    assert ours <= others


def errors(operation, tokens, dtype, *attentions):
    """The `worst` error of an operation of each attention, in a dtype, against float64."""
    primals, tangents = plain.arguments(tokens, batch=8, dtype=dtype)
    wide = lambda args: tuple(z.astype(jnp.float64) for z in args)
    exact = quick_jit(operation(plain.CHUNKED))(wide(primals), wide(tangents))
    return [worst(quick_jit(operation(f))(primals, tangents), exact) for f in attentions]


def worst(found, exact):
    """The largest relative error of any array, in the Euclidean norm; absolute where the array is zero."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True)
    return max(np.linalg.norm(z.astype(jnp.float64) - e) / (np.linalg.norm(e) or 1.0) for z, e in pairs)


# Matmuls a tile


def matmuls(jaxpr):
    """Of all kernels of a program, in tokens^2 head_dim, where every kernel goes through every tile once."""
    count = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name.startswith("attention_"):
            static, name = equation.params, equation.primitive.name.removeprefix("attention_")
            run = lambda *arrays, name=name, static=static: primitives._run(name, None, *arrays, **static)  # noqa: SLF001
            shapes = [jax.ShapeDtypeStruct(z.aval.shape, z.aval.dtype) for z in equation.invars]
            count += dots(jax.make_jaxpr(run)(*shapes).jaxpr)
        else:
            count += sum(matmuls(inner) for inner in inner_jaxprs(equation))
    return count


def dots(jaxpr):
    return sum((e.primitive.name == "dot_general") + sum(map(dots, inner_jaxprs(e))) for e in jaxpr.eqns)


def inner_jaxprs(equation):
    leaves = jax.tree.leaves(list(equation.params.values()), is_leaf=lambda z: hasattr(z, "eqns") or hasattr(z, "jaxpr"))
    return [getattr(leaf, "jaxpr", leaf) for leaf in leaves if hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr")]


@pytest.mark.parametrize("kernels", ["tpu", "nvidia"])
@pytest.mark.parametrize(
    ("operation", "floor", "separate"),
    [("value", 2, 2), ("tangent", 6, 7), ("gradient", 7, 7), ("meanflow_like", 11, 12), ("gradient_of_jvp", 21, 25)],
)
def test_matmuls_are_the_floor(operation, floor, separate, kernels, monkeypatch):
    args = plain.arguments(48)
    for is_fused, expected in ((True, floor), (False, separate)):
        monkeypatch.setattr(primitives, "FUSED", is_fused)
        traced = quick_jit(OPERATIONS[operation](functools.partial(fused, kernels=kernels))).trace(*args)
        assert matmuls(traced.jaxpr.jaxpr) == expected


# What compiles


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")  # jax 0.12
@pytest.mark.parametrize(("head_dim", "dtype"), [(64, jnp.bfloat16), (72, jnp.float32)])
@pytest.mark.parametrize(("platform", "name"), [("tpu", "tpu_custom_call"), ("cuda", "triton")])
def test_kernels_lower_for_accelerators(platform, name, head_dim, dtype):
    """Without the compilers: layouts and instructions are found by JAX, registers and memory by a compiler, for TPUs below."""
    like = (jax.ShapeDtypeStruct((2, 300, 2, head_dim), dtype),) * 3
    f = plain.gradient_of_jvp(lambda q, k, v: pallas_attention.attention(q, k, v, masks(300)))
    gpu = jax.sharding.AbstractDevice(device_kind="NVIDIA H100", num_cores=None, platform="gpu")  # jax 0.11 asks which one
    mesh = jax.sharding.AbstractMesh((1,), ("data",), abstract_device=gpu)
    with jax.sharding.use_abstract_mesh(mesh) if platform == "cuda" else contextlib.nullcontext():
        text = jax.jit(f).trace(like, like).lower(lowering_platforms=(platform,)).as_text()
    assert len(re.findall(rf"custom_call @\S*{name}", text)) == 2


AHEAD_OF_TIME = """
import functools
import sys
import jax
import jax.numpy as jnp
import test_attention as plain
from flowjax.models import pallas_attention
from flowjax.profiling import ahead_of_time

def temp(chip, operation, f, *shape, dtype):
    like = (jax.ShapeDtypeStruct(shape, dtype),) * 3
    compiled = ahead_of_time.compiled(operation(f), ahead_of_time.devices(chip)[0], like, like)
    assert f is plain.PLAIN or "custom-call" in compiled.as_text()
    print("temp", chip, *shape, operation.__name__, f is plain.PLAIN, compiled.memory_analysis().temp_size_in_bytes)

fused = functools.partial(pallas_attention.attention, tile=(128, 128))  # compiles in a tenth of the time of the usual tiles
for chip, head_dim, dtype, masked in eval(sys.argv[1]):
    mask = jnp.arange(300)[None] < 290 if masked else None
    for operation in (plain.gradient, plain.gradient_of_jvp, plain.jvp_of_gradient):  # every kernel at least once
        temp(chip, operation, functools.partial(fused, mask=mask), 1, 300, 2, head_dim, dtype=dtype)
for tokens in (4_096, 8_192):
    temp("v5p", plain.gradient_of_jvp, fused, 1, tokens, 64, 64, dtype=jnp.bfloat16)
temp("v5p", plain.gradient_of_jvp, plain.PLAIN, 1, 4_096, 64, 64, dtype=jnp.bfloat16)
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason='needs the compiler of TPUs: pip install -e ".[tpu]"')
def test_kernels_compile_for_tpus():
    """In a process of its own: the compiler of TPUs and the cache of compiled programs do not go together.

    The memory of 64 heads is measured, because the compiler keeps arrays of few heads on the chip and does not count them.
    """
    heads = {"v5e": (64, "bfloat16", True), "v5p": (128, "float32", False), "v6e": (72, "bfloat16", False)}
    cases = [(chip, *case) for chip, case in heads.items()] + [("v6e", 32, "float32", True)]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(["tests", ".", *sys.path]),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
    }
    ran = subprocess.run([sys.executable, "-c", AHEAD_OF_TIME, repr(cases)], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2_000:]
    lines = [line.split() for line in ran.stdout.splitlines() if line.startswith("temp")]
    assert len(lines) == 3 * len(cases) + 3
    temp = {(int(line[3]), line[7] == "True"): int(line[8]) for line in lines if line[4] == "64" and line[1] == "v5p"}
    assert temp[8_192, False] < 2.1 * temp[4_096, False], temp
    assert 30 * temp[4_096, False] < temp[4_096, True], temp


# A network trains with it


@pytest.mark.slow
@pytest.mark.parametrize("module", [meanflow, tvm])
def test_a_transformer_trains_as_with_chunked(module):
    """The same losses on two devices, in shard_map, scan and remat."""
    batches = data.batches(data.load("digits"), batch_size=8, seed=0)
    batches = [next(batches) for _ in range(6)]
    curves = {}
    for kind in ("chunked", "pallas"):
        config = module.get_config("digits")
        config.batch_size = 8
        config.model = common.network("dit", width=16, depth=2, heads=2, patch=2, attention=kind, remat="nothing_saveable")
        run = runs.setup(config, devices=jax.devices()[:2])
        step, state, losses = quick_jit(run.step), run.init(), []
        for batch in batches:
            state, metrics = step(state, sharding.global_batch(run.mesh, batch))
            losses.append(float(metrics["loss"]))
        curves[kind] = losses
    np.testing.assert_allclose(curves["pallas"], curves["chunked"], rtol=2e-5)
    assert len(set(curves["pallas"])) == 6


# The choice, and mistakes


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"head_dim": 64, "dtype": jnp.float32}, "pallas"),
        ({"head_dim": 64, "dtype": jnp.float64}, "chunked"),
        ({"head_dim": 512, "dtype": jnp.float32}, "chunked"),
        ({"head_dim": 64, "dtype": jnp.float32, "queries": 1 << 17}, "chunked"),
    ],
)
def test_auto_takes_chunked_where_no_kernel_runs(settings, expected, monkeypatch):
    monkeypatch.setattr(attention, "_table", lambda: {"tpu": {"basis": "a test", "choice": [[256, "xla"], [None, "pallas"]]}})
    taken, reason = attention.chosen(1_024, platform="tpu", **settings)
    assert taken == expected and reason.startswith("tpu, 1,024 keys")
    assert attention.chosen(256, 64, platform="tpu")[0] == "xla"


def test_the_table_of_auto_is_that_of_the_committed_numbers():
    assert attention._table() == attention_results.choice(committed("attention_kernels"))
    for platform, entry in attention._table().items():
        assert entry["choice"][-1][0] is None
        for limit, name in entry["choice"]:
            assert attention.chosen(limit or 1 << 15, head_dim=64, platform=platform)[0] == name


def committed(table):
    """Rows of a table of the documentation."""
    return json.loads((pathlib.Path("docs") / f"{table}.json").read_text())["rows"]


def test_the_kernels_were_compiled_for_every_chip_length_and_size_of_heads():
    rows = [r for r in committed("attention_kernels") if r["attention"] == "pallas" and r["how"] == attention_results.COMPILED]
    done = {(r["device"], r["arrays"], r["tokens"], r["operation"]) for r in rows if not isinstance(r["temp MiB"], str)}
    arrays = [f"1 x 4 heads of {size}, bfloat16" for size in (64, 128)]
    operations = ("forward", "jvp", "gradient", "gradient of the jvp")
    assert done >= set(itertools.product(("v5e", "v5p", "v6e"), arrays, (256, 1_024, 4_096, 16_384), operations))


def test_the_committed_memory_is_linear_in_tokens_and_a_thirtieth_of_plain():
    rows = [r for r in committed("attention_kernels") if r["arrays"] == "4 x 16 heads of 64, bfloat16"]
    temp = {(r["operation"], r["attention"], r["tokens"]): r["temp MiB"] for r in rows}
    for operation in ("forward", "jvp", "gradient", "gradient of the jvp"):
        assert temp[operation, "pallas", 8_192] < 2.1 * temp[operation, "pallas", 4_096]
        assert 30 * temp[operation, "pallas", 4_096] < temp[operation, "xla", 4_096]


def test_training_steps_were_compiled_for_every_chip_length_and_size_of_heads():
    rows = [r for r in committed("attention_step") if r["network"] == "DiT-S/2" and r["attention"] == "pallas"]
    used = {(r["device"], r["method"], r["heads"], r["tokens"]): r["GiB a device"] for r in rows}
    chips, methods, heads = [f"8 x {chip}" for chip in ("v5e", "v5p", "v6e")], ("meanflow", "tvm"), ("6 of 64", "3 of 128")
    assert set(used) == set(itertools.product(chips, methods, heads, (256, 1_024, 4_096, 16_384)))
    for key in itertools.product(chips, methods, heads):
        assert used[*key, 16_384] < 4.3 * used[*key, 4_096]


def test_the_committed_step_of_a_large_transformer_fits_where_that_of_plain_attention_does_not():
    used = {
        (r["network"], r["attention"], r["batch"], r["device"]): r["GiB a device"]
        for r in committed("attention_step")
        if r["method"] == "meanflow" and r["tokens"] == 4_096
    }
    assert used["DiT-L/2", "pallas", 128, "8 x v5e"] < 15.75
    assert used["DiT-L/2", "xla", 128, "8 x v5e"] == "out of memory: 20.46 of 15.75 GiB"
    assert {device for _, attention, _, device in used if attention == "pallas"} == {"8 x v5e", "8 x v5p", "8 x v6e"}


@pytest.mark.parametrize(
    ("temp", "expected"),
    [
        ({256: {"xla": 2, "chunked": 3, "pallas": 4}}, [[255, "chunked"], [None, "xla"]]),
        ({256: {"xla": 2, "chunked": 1, "pallas": 1}}, [[None, "chunked"]]),  # of equals, the one without a kernel
        ({256: {"xla": 1, "chunked": 2}, 512: {"xla": 1, "pallas": 2}, 1_024: {"xla": "out of memory", "pallas": 3}},
         [[255, "chunked"], [512, "xla"], [None, "pallas"]]),
    ],
)  # fmt: skip
def test_the_choice_is_the_least_sum_of_both_operations(temp, expected):
    put = functools.partial(attention_results.row, "v5e", attention_results.COMPILED, "some")
    operations = ("forward", "jvp", "gradient of the jvp")
    rows = [put(tokens, kind, name, temp=size) for tokens in temp for kind, size in temp[tokens].items() for name in operations]
    assert attention_results.choice(rows) == {"tpu": {"basis": unittest.mock.ANY, "choice": expected}}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Ran out of memory on HBM, the total memory required for HLO temporaries (16.32G) exceeds available HBM (15.75G).",
         "out of memory: 16.32 of 15.75 GiB"),
        ("Ran out of memory in memory space hbm. Used 25.00G of 15.75G hbm.", "out of memory: 25.00 of 15.75 GiB"),
        ("Ran out of memory in memory space vmem. Used 80.00M of 64.00M vmem.", None),  # a kernel that does not compile
        ("Mosaic failed to compile", None),
    ],
)  # fmt: skip
def test_only_a_lack_of_hbm_is_a_result(message, expected):
    error = jax.errors.JaxRuntimeError(message)
    if expected is None:
        with pytest.raises(jax.errors.JaxRuntimeError):
            attention_results.out_of_memory(error)
    else:
        assert attention_results.out_of_memory(error) == expected


def test_the_sizes_of_a_step_are_those_of_a_transformer():
    attention_results.check_sizes([256, 4_096], [64, 128], width=1_024)
    with pytest.raises(typing.InputError, match="--tokens: 300; with --step expected a square number"):
        attention_results.check_sizes([300], [64], width=1_024)
    with pytest.raises(typing.InputError, match="--head_dims: 72; with --step expected a divisor of the width, 1024"):
        attention_results.check_sizes([256], [72], width=1_024)


def test_results_of_several_commands_are_one_table(tmp_path):
    for command, found in {"a": {256: 1.0, 512: 2.0}, "b": {512: 3.0, 1_024: "out of memory"}}.items():
        results = attention_results.Results(tmp_path / "table", command, key="operation", add=True)
        for tokens, temp in found.items():
            results.add([attention_results.row("v5e", "compiled", "some", tokens, "xla", "jvp", temp=temp)])
    read = json.loads((tmp_path / "table.json").read_text())
    assert read["about"] == ["a", "b"] and (tmp_path / "table.md").read_text().startswith("a\n\nb\n\n| device |")
    assert [(r["tokens"], r["temp MiB"]) for r in read["rows"]] == [(256, 1.0), (512, 3.0), (1_024, "out of memory")]


def test_mistakes_say_what_to_type(x64):
    (q, k, v), _ = plain.arguments(4, dtype=jnp.float64)
    with pytest.raises(typing.InputError, match="float64; expected float32 or bfloat16. Type implementation='chunked'"):
        attention.attention(q, k, v, implementation="pallas")
    with pytest.raises(typing.InputError, match=r"mask is float64 \(1, 4\); expected bool \(1, 4\)"):
        attention.attention(q, k, v, jnp.ones((1, 4)))


def test_a_tile_pads_least():
    for tokens in (1, 128, 129, 640, 1_100, 4_160):
        size = tiling.tile(tokens)
        assert size % 128 == 0 and math.ceil(tokens / size) * size < tokens + 128
