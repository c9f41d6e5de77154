"""The FLOP counter, and what a training step of each method costs in forward passes: deterministic, so pinned."""

import csv
import pathlib

import jax
import jax.numpy as jnp
import pytest

from flowjax import flops, methods
from flowjax.training import cost

COSTS = pathlib.Path(__file__).parents[1] / "docs" / "method_costs.csv"


def test_counts_a_scan_by_its_trips():
    w = jnp.ones((16, 16))
    looped = lambda x: jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=7)[0]
    assert flops.matmul(looped, jnp.ones((8, 16))) == 7 * 2 * 8 * 16 * 16


def test_counts_nested_scans_batches_and_contractions():
    def inner(x, _):
        return jnp.einsum("bij,bkj->bik", x, x), None

    def outer(x, _):
        return jax.lax.scan(inner, x, None, length=3)[0], None

    count = flops.matmul(lambda x: jax.lax.scan(outer, x, None, length=2)[0], jnp.ones((4, 8, 8)))
    assert count == 6 * 2 * 4 * 8 * 8 * 8


def test_an_unknown_trip_count_is_an_error():
    w = jnp.ones((16, 16))
    looped = lambda x: jax.lax.while_loop(lambda x: x.sum() < 1e6, lambda x: x @ w, x)
    with pytest.raises(ValueError, match="trip count"):
        flops.matmul(looped, jnp.ones((8, 16)))


def test_of_a_conditional_the_dearest_branch_counts():
    w = jnp.ones((16, 16))
    once, thrice = lambda x: x @ w, lambda x: x @ w @ (w + x.sum()) @ w
    chosen = lambda x: jax.lax.cond(x.sum() > 0, once, thrice, x)
    assert flops.matmul(chosen, jnp.ones((8, 16))) == 3 * 2 * 8 * 16 * 16
    switched = lambda x: jax.lax.switch(x.sum().astype(int), [once, thrice, once], x)
    assert flops.matmul(switched, jnp.ones((8, 16))) == 3 * 2 * 8 * 16 * 16


LANDSCAPE = [name for name, info in methods.METHODS.items() if info.source_fpe is not None]
SPLIT = [name for name in LANDSCAPE if "diagonal" in methods.constants(name) or name == "freeflow"]


def recorded():
    return {row["method"]: row for row in csv.DictReader(COSTS.read_text().splitlines())}


def derived(name):
    """The derived column: forward-pass equivalents from the graph, and attention's terms in rho."""
    return methods.METHODS[name].derived_fpe + methods.METHODS[name].rho * cost.rho()


# One of each kind; the others are counted by the slow test.
KINDS = ("lmd", "lsd", "tvm", "freeflow", "ctm", "esd", "facm", "meanflow", "imf", "soflow", "fmm")


@pytest.mark.parametrize("name", [n if n in KINDS else pytest.param(n, marks=pytest.mark.slow) for n in LANDSCAPE])
def test_a_step_with_every_term_on_every_row_costs_what_the_graph_says(name):
    counted = cost.forward_passes(name, every_row=True)
    assert counted == pytest.approx(derived(name), rel=0.05)
    assert counted == pytest.approx(float(recorded()[name]["every_row"]), rel=0.01)


@pytest.mark.parametrize("name", ["meanflow", "imf", "shortcut"])
def test_a_step_as_split_costs_what_is_recorded(name):
    assert cost.forward_passes(name) == pytest.approx(float(recorded()[name]["recipe"]), rel=0.01)


def test_the_recorded_costs_are_of_all_methods_and_the_split_saves():
    assert list(recorded()) == list(methods.METHODS)
    for name, row in recorded().items():
        assert float(row["every_row"]) == pytest.approx(derived(name), rel=0.05), name
        assert name not in SPLIT or float(row["recipe"]) < 0.85 * float(row["every_row"]), name


@pytest.mark.slow
@pytest.mark.parametrize("name", methods.METHODS)
def test_all_recorded_costs(name):
    row = recorded()[name]
    assert cost.forward_passes(name, every_row=True) == pytest.approx(float(row["every_row"]), rel=0.01)
    assert cost.forward_passes(name) == pytest.approx(float(row["recipe"]), rel=0.01)
