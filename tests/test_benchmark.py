"""What the benchmarks are made of: compiled programs, times in turns, the operations they measure and the answer they give."""

import csv
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import benchmark_jvp
from flowjax import benchmark, flops, models

DOCS = pathlib.Path(__file__).parents[1] / "docs"


def chain(x, w):
    return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=5)[0]


def test_a_program_says_what_it_costs():
    x, w = jnp.ones((8, 16)), jnp.eye(16)
    program = benchmark.compiled(chain, x, w)
    np.testing.assert_allclose(program.call(), chain(x, w), rtol=1e-6)
    assert program.flops == 5 * 2 * 8 * 16 * 16
    assert program.compile_s > 0 and program.temp_bytes > 0
    assert benchmark.compiled(jax.jit(chain), x, w, counted=7).flops == 7


def test_on_an_accelerator_the_matmuls_are_counted_in_the_program_for_the_host(monkeypatch):
    x, w = jnp.ones((8, 16)), jnp.eye(16)
    executable = jax.jit(chain).lower(x, w).compile()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(flops, "count", lambda text, count=flops.count: count(text))
    assert benchmark._flops(executable, jax.jit(chain), (x, w)) == 5 * 2 * 8 * 16 * 16


def test_programs_take_turns_and_each_is_once_the_first():
    calls, ticks = [], []
    programs = {name: benchmark.Program(lambda name=name: calls.append(name), 0, 0, 0.0) for name in "abc"}
    seconds = benchmark.in_turns(programs, 3, lambda: ticks.append(None))
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab"
    assert len(ticks) == len(calls) and {name: times.shape for name, times in seconds.items()} == dict.fromkeys("abc", (3,))


def test_ratios_are_taken_round_by_round():
    base = np.array([1.0, 10.0, 100.0, 1.0, 10.0])
    assert benchmark.ratio(np.array([1, 2, 3, 4, 5]) * base, base) == benchmark.Quartiles(2.0, 3.0, 4.0)


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


@pytest.mark.parametrize("name", FLOORS)
def test_an_operation_needs_the_matmuls_of_its_floor(name):
    net = models.make("dit", width=64, depth=2, heads=2, patch=1)
    x, column = jax.ShapeDtypeStruct((8, 4, 4, 4), jnp.float32), jax.ShapeDtypeStruct((8, 1, 1, 1), jnp.float32)
    params = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 4, 4, 4)), 1.0, 0.0)["params"])
    operations = benchmark_jvp.operations(net)
    assert list(operations) == list(FLOORS)
    count = lambda operation: flops.matmul(operations[operation], params, x, column, column, x)
    # Each call also runs the conditioning, one token's worth, and the first layer needs no gradient of its input.
    assert count(name) / count("forward") == pytest.approx(FLOORS[name], rel=0.03)


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
    ("saving", "verdict"), [(-0.1, "Exact: "), (0.05, "Exact: "), (0.4, "Exact, unless the time decides: ")]
)
def test_the_answer_follows_from_the_numbers(saving, verdict):
    text = benchmark_jvp.answer(cost_rows(saving), ERRORS)
    last = text.splitlines()[-1]
    assert last.startswith(f"Exact or finite differences? {verdict}")
    assert f"at most {max(saving, 0):.0%} of the time" in last and "200 times the exact one's in float32" in last
    assert "one-sided differences by 1.0e-03 at their best step, 1e-03, central ones by 2.0e-04 at 1e-02" in text
    assert "3.00 times as fast as with plain for the jvp" in text and "3.0 times less memory" in text


# What the documentation claims


def test_the_committed_answer_is_of_the_committed_numbers():
    found = json.loads((DOCS / "jvp.json").read_text())
    assert found["answer"] == benchmark_jvp.answer(found["costs"], found["accuracy"])
    table = list(csv.DictReader((DOCS / "jvp_cost.csv").read_text().splitlines()))
    assert len(table) == len(found["costs"]) == 3 * 2 * len(FLOORS)


def test_chunked_attention_was_the_faster_at_every_size_measured():
    """What the docstring of flowjax.models.attention says of a CPU."""
    found = json.loads((DOCS / "jvp.json").read_text())["costs"]
    ms = {(row["tokens"], row["attention"], row["operation"]): row["ms"] for row in found}
    for tokens in (64, 256, 1024):
        for operation in ("jvp", "MeanFlow gradient", "gradient through the jvp"):
            assert ms[tokens, "chunked", operation] < 1.1 * ms[tokens, "xla", operation], (tokens, operation)
    for operation in ("jvp", "gradient through the jvp"):
        assert 1.5 * ms[1024, "chunked", operation] < ms[1024, "xla", operation]


def test_the_exact_derivative_is_the_more_accurate():
    found = json.loads((DOCS / "jvp.json").read_text())["accuracy"]
    for dtype, factor in (("float32", 50), ("bfloat16", 3)):
        errors = {name: min(r["relative error"] for r in found if (r["dtype"], r["derivative"]) == (dtype, name))
                  for name in ("exact", "backward", "central")}  # fmt: skip
        assert factor * errors["exact"] < min(errors["backward"], errors["central"])
