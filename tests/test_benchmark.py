"""What the benchmarks are made of: compiled programs, times in turns, the operations they measure and the answer they give."""

import csv
import json
import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import benchmark_jvp
from flowjax import models, typing
from flowjax.profiling import flops, timing

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"


def chain(x, w):
    return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=5)[0]


def test_costs_of_a_program():
    x, w = jnp.ones((8, 16)), jnp.eye(16)
    program = timing.compiled(chain, x, w)
    np.testing.assert_allclose(program.call(), chain(x, w), rtol=1e-6)
    assert program.flops == 5 * 2 * 8 * 16 * 16
    assert program.compile_s > 0 and program.temp_bytes > 0
    assert timing.compiled(jax.jit(chain), x, w, counted=7).flops == 7


def test_on_an_accelerator_the_matmuls_are_counted_in_the_program_for_the_host(monkeypatch):
    x, w = jnp.ones((8, 16)), jnp.eye(16)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert timing._flops(None, jax.jit(chain), (x, w)) == 5 * 2 * 8 * 16 * 16


def test_without_a_host_device_nothing_can_be_counted(monkeypatch):
    def devices(platform):
        raise RuntimeError("Unknown backend cpu")

    monkeypatch.setattr(jax, "devices", devices)
    with pytest.raises(typing.InputError, match="JAX_PLATFORMS=cuda,cpu"):
        flops.host()


def test_programs_take_turns_and_each_is_once_the_first():
    calls, ticks = [], []
    programs = {name: timing.Program(lambda name=name: calls.append(name), 0, 0, 0.0) for name in "abc"}
    seconds = timing.in_turns(programs, 3, lambda: ticks.append(None))
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab"
    assert len(ticks) == len(calls) and {name: times.shape for name, times in seconds.items()} == dict.fromkeys("abc", (3,))


def test_ratios_are_taken_round_by_round():
    base = np.array([1.0, 10.0, 100.0, 1.0, 10.0])
    assert timing.ratio(np.array([1, 2, 3, 4, 5]) * base, base) == timing.Quartiles(2.0, 3.0, 4.0)


RHO = 16 / (6 * 64 + 16)
FLOORS = {
    "forward": 1,
    "jvp": 2 + RHO,
    "finite difference, one-sided": 2,
    "finite difference, central": 3,
    "flow matching gradient": 3,
    "MeanFlow gradient": 4 + RHO,
    "MeanFlow gradient, finite difference": 4,
    "MeanFlow gradient, jvp on 1/4 of the rows": 3 + (1 + RHO) / 4,
    "gradient through the jvp": 6 + 3 * RHO,
}


# The others are made of the same parts: slow tests.
KINDS = ("jvp", "gradient through the jvp")


@pytest.mark.parametrize("name", [n if n in KINDS else pytest.param(n, marks=pytest.mark.slow) for n in FLOORS])
def test_an_operation_needs_the_matmuls_of_its_floor(name):
    net = models.make("dit", width=64, depth=2, heads=2, patch=1)
    x, column = jax.ShapeDtypeStruct((8, 4, 4, 4), jnp.float32), jax.ShapeDtypeStruct((8, 1, 1, 1), jnp.float32)
    params = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 4, 4, 4)), 1.0, 0.0)["params"])
    operations = benchmark_jvp.operations(net)
    assert list(operations) == list(FLOORS)
    count = lambda operation: flops.matmul(operations[operation], params, x, column, column, x)
    # Each call also runs the conditioning, one token's worth, and the first layer needs no gradient of its input.
    assert count(name) / count("forward") == pytest.approx(FLOORS[name], rel=0.03)


def test_a_benchmark_of_no_size_is_refused(monkeypatch):
    for flag, values in (("ATTENTION", ["xla"]), ("TOKENS", [])):
        monkeypatch.setattr(benchmark_jvp, flag, types.SimpleNamespace(value=values))
    with pytest.raises(
        typing.InputError, match="--tokens=: expected whole numbers of at least 1 and at most 1,048,576, e.g. --tokens=1,2,4"
    ):
        benchmark_jvp.grid_of_flags()


# The answer


def cost_rows(saving):
    """Synthetic costs in which finite differences save a share of the time."""
    wall = dict.fromkeys(FLOORS, 2.0) | {"MeanFlow gradient": 4.0, "MeanFlow gradient, finite difference": 4.0 * (1 - saving)}
    return [
        {"tokens": 64, "attention": name, "operation": operation, benchmark_jvp.MATMULS: floor, benchmark_jvp.WALL: wall[operation],
         "ms": wall[operation] * speed, "temp MiB": 10.0 * speed}
        for name, speed in (("xla", 3.0), ("chunked", 1.0)) for operation, floor in FLOORS.items()
    ]  # fmt: skip


ERRORS = [
    {"dtype": dtype, "derivative": derivative, "h": h, "relative error": error}
    for dtype in ("float32", "bfloat16")
    for derivative, h, error in [
        ("exact", "", 1e-6), ("backward", 1e-2, 1e-2), ("backward", 1e-3, 1e-3), ("central", 1e-2, 2e-4), ("central", 1e-1, 1e-1),
    ]
]  # fmt: skip


@pytest.mark.parametrize(
    ("saving", "factor", "verdict"),
    [(-0.1, 1, "exact."), (0.05, 1, "exact."), (0.4, 1, "exact, unless more than 15%"), (0.05, 1e-4, "not settled here")],
)
def test_the_answer_follows_from_the_numbers(saving, factor, verdict):
    errors = [
        row | {"relative error": row["relative error"] * (1 if row["derivative"] == "exact" else factor)} for row in ERRORS
    ]
    text = benchmark_jvp.answer(cost_rows(saving), errors)
    last = text.splitlines()[-1]
    assert f"The verdict: {verdict}" in last and f"at most {max(saving, 0):.0%} of the time" in last
    if factor == 1:
        assert "200.0 times the exact one's in float32" in last
        assert "one-sided differences by 1.0e-03 at their best step, 1e-03, central ones by 2.0e-04 at 1e-02" in text
    assert "3.00 times as fast as with plain for the jvp" in text and "3.0 times less memory" in text


def test_the_answer_includes_the_trainings():
    result = [{"derivative": name, "h": h, benchmark_jvp.DISTANCE: distance}
             for name, h, distance in (("exact", "", 0.05), ("central", 0.1, 0.2), ("backward", 1e-3, 0.06))]  # fmt: skip
    text = benchmark_jvp.answer(cost_rows(0.1), ERRORS, result)
    assert "0.050 with the exact jvp" in text
    assert "at the best 0.060 (backward, h = 1e-03), at the worst 0.200 (central, h = 1e-01)" in text


# What the documentation claims


def test_the_committed_answer_is_of_the_committed_numbers():
    result = json.loads((DOCS / "jvp.json").read_text())
    assert result["answer"] == benchmark_jvp.answer(result["costs"], result["accuracy"], result["training"])
    for part, rows in (("jvp_cost", "costs"), ("attention_cost", "attention"), ("jvp_training", "training")):
        table = list(csv.DictReader((DOCS / f"{part}.csv").read_text().splitlines()))
        assert [list(row.values()) for row in table] == [[str(value) for value in row.values()] for row in result[rows]]
    for line in result["answer"].splitlines()[-5:]:  # what chunks gain at 1,024 tokens, two errors, training, the verdict
        assert line in (DOCS / "derivatives.md").read_text()


def test_chunked_attention_was_the_faster_at_every_size_measured():
    """What the docstring of flowjax.models.attention says of a CPU."""
    result = json.loads((DOCS / "jvp.json").read_text())["attention"]
    ms = {(row["tokens"], row["attention"], row["operation"]): row["ms"] for row in result}
    gains = {(n, name): ms[n, "xla", name] / ms[n, "chunked", name] for n, _, name in ms}
    assert {tokens for tokens, _ in gains} == {64, 256, 1024} and min(gains.values()) > 1, gains
    assert min(gain for (tokens, _), gain in gains.items() if tokens == 1024) >= 2, gains


def test_the_exact_derivative_was_the_more_accurate():
    result = json.loads((DOCS / "jvp.json").read_text())["accuracy"]
    for dtype, factor in (("float32", 50), ("bfloat16", 3)):
        errors = {name: min(r["relative error"] for r in result if (r["dtype"], r["derivative"]) == (dtype, name))
                  for name in ("exact", "backward", "central")}  # fmt: skip
        assert factor * errors["exact"] < min(errors["backward"], errors["central"])
