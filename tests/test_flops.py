"""The FLOP counter, and what a training step of each method costs in forward passes: deterministic, so pinned."""

import csv
import itertools
import pathlib

import jax
import jax.numpy as jnp
import optax
import pytest

from flowjax import methods, models
from flowjax.profiling import flops
from flowjax.training import step_cost

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


def test_a_trace_is_counted_as_the_program_is():
    """What no result needs is left out, a scan, a branch and all devices of a mesh count, and so do convolutions."""
    x, w = jnp.ones((8, 16)), jnp.ones((16, 16))
    once, thrice = lambda x: x @ w, lambda x: x @ w @ (w + x.sum()) @ w
    looped = lambda x: jax.lax.scan(lambda x, _: (jnp.tanh(jax.checkpoint(once)(x)), None), x, None, length=7)[0]
    for function in (
        looped,
        lambda x: jax.grad(lambda x: looped(x).sum())(x),
        lambda x: (looped(x), x + 1)[1],
        lambda x: jax.lax.cond(x.sum() > 0, once, thrice, x),
        lambda x: jax.jvp(once, (x,), (jnp.sin(x),))[1],
    ):
        assert flops.traced(function, x) == flops.matmul(function, x)
    mesh = jax.sharding.AbstractMesh((64,), ("data",))
    rows = jax.sharding.PartitionSpec("data")
    mapped = jax.shard_map(once, mesh=mesh, in_specs=rows, out_specs=rows)
    assert flops.traced(mapped, jax.ShapeDtypeStruct((128, 16), jnp.float32)) == 2 * 128 * 16 * 16
    convolved = lambda image, kernel: jax.lax.conv_general_dilated(image, kernel, (1, 1), "SAME")
    assert flops.traced(convolved, jnp.ones((2, 3, 8, 8)), jnp.ones((5, 3, 3, 3))) == 2 * (2 * 5 * 8 * 8) * (3 * 3 * 3)
    with pytest.raises(ValueError, match="does not tell how often"):
        flops.traced(lambda x: jax.lax.while_loop(lambda x: x.sum() < 1e6, lambda x: x @ w, x), x)


LANDSCAPE = [name for name, info in methods.METHODS.items() if info.source_fpe is not None]
SPLIT = [name for name in LANDSCAPE if methods.constants(name).get("diagonal", "both") != "both" or name == "freeflow"]


def recorded(rows="every row", remat="no"):
    """{method: its row of docs/method_costs.csv}."""
    table = csv.DictReader(COSTS.read_text().splitlines())
    return {row["method"]: row for row in table if (row["rows"], row["remat"]) == (rows, remat)}


def derived(name):
    """The derived column: forward-pass equivalents from the graph, and attention's terms in rho."""
    return methods.info(name).derived_fpe + methods.info(name).rho * step_cost.rho()


# The others are counted by the slow test.
KINDS = ("meanflow",)


@pytest.mark.parametrize("name", [n if n in KINDS else pytest.param(n, marks=pytest.mark.slow) for n in LANDSCAPE])
def test_a_step_with_every_term_on_every_row_costs_as_much_as_its_graph(name):
    counted = step_cost.forward_passes(name, every_row=True)
    assert counted == pytest.approx(derived(name), rel=0.05)
    assert counted == pytest.approx(float(recorded()[name]["FPE"]), abs=0.006)


def test_a_step_as_split_costs_what_is_recorded(name="meanflow"):
    assert step_cost.forward_passes(name) == pytest.approx(float(recorded("as split")[name]["FPE"]), abs=0.006)


def test_the_recorded_costs_are_of_all_methods_and_the_split_saves():
    for rows, remat in itertools.product(("every row", "as split"), ("no", "yes")):
        assert list(recorded(rows, remat)) == list(methods.with_categories())
        for name, row in recorded(rows, remat).items():
            plain = float(recorded(rows)[name]["FPE"])
            # Recomputing costs one forward pass for each that has a backward pass of two.
            assert plain <= float(row["FPE"]) <= 4 / 3 * plain + 0.03, (name, rows)
            assert float(row["derived"]) == pytest.approx(derived(name), abs=0.006)
    for name, row in recorded().items():
        assert float(row["FPE"]) == pytest.approx(derived(name), rel=0.05), name
        assert name not in SPLIT or float(recorded("as split")[name]["FPE"]) < 0.85 * float(row["FPE"]), name


def test_the_recorded_memory_falls_with_remat():
    for rows in ("every row", "as split"):
        for name, row in recorded(rows, "yes").items():
            assert float(row["temp MiB"]) < 0.8 * float(recorded(rows)[name]["temp MiB"]), name


RHO = step_cost.rho()
BOUNDS = [
    ("meanflow", {"every_row": True}, 4 + RHO + 0.02),
    ("meanflow", {}, 3.3),
    ("imf", {"every_row": True}, 5 + RHO),
    ("tvm", {"every_row": True}, 10 + 3 * RHO),
    ("lsd", {"every_row": True}, 10 + 3 * RHO),
    # With remat, one forward pass more for each pass that is differentiated: TVM's has a jvp in it.
    ("flow_matching", {"remat": True}, 4),
    ("meanflow", {"every_row": True, "remat": True}, 5 + RHO + 0.02),
    ("imf", {"every_row": True, "remat": True}, 6 + RHO + 0.02),
    ("tvm", {"every_row": True, "remat": True}, 13.3),
    ("lsd", {"every_row": True, "remat": True}, 13.3),
]


@pytest.mark.parametrize(("name", "how", "bound"), BOUNDS)
def test_the_recorded_costs_keep_their_bounds(name, how, bound):
    rows = "every row" if how.get("every_row") else "as split"
    assert float(recorded(rows, "yes" if how.get("remat") else "no")[name]["FPE"]) <= bound + 0.005  # two decimals are recorded


def uncounted():
    """(method, rows, remat) of what is not counted above. Rows that are recorded with one cost are one program and counted once; with
    remat, of one method of each kind of derivative.
    """
    for name in methods.with_categories():
        split = recorded("as split")[name]["FPE"] != recorded()[name]["FPE"]
        if name not in LANDSCAPE:
            yield name, "every row", False
        if split and name != "meanflow":
            yield name, "as split", False
    for name in ("meanflow", "imf", "tvm", "esd", "freeflow", "psd", "cd"):
        yield name, "every row", True


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rows", "remat"), list(uncounted()))
def test_all_recorded_costs(name, rows, remat):
    counted = step_cost.forward_passes(name, every_row=rows == "every row", remat=remat)
    assert counted == pytest.approx(float(recorded(rows, "yes" if remat else "no")[name]["FPE"]), abs=0.006)


EXTENDED_COSTS = {
    row["method"]: float(row["counted"])
    for row in csv.DictReader(COSTS.with_name("extended_costs.csv").read_text().splitlines())
}


def test_the_recorded_costs_of_posteriors_and_likelihoods_are_those_of_their_graphs():
    """A share of the rows has the anchor, 3 forward passes, the others have the rule, as derived."""
    assert list(EXTENDED_COSTS) == list(methods.EXTENDED)
    graph = {
        "meta_flow_map": 3 / 4 * 3 + 1 / 4 * derived("meta_flow_map"),
        "diamond_map": 3 / 4 * 3 + 1 / 4 * (derived("diamond_map") - 3),
        "strong_flow_map": 3 / 4 * 3 + 1 / 4 * (derived("strong_flow_map") - 3),
        "f2d2": derived("f2d2") / 2,  # half of the rows have both anchors, half both rules
        "falcon": derived("falcon"),
        "reward_tuning": derived("reward_tuning"),
    }
    for name, cost in graph.items():
        assert EXTENDED_COSTS[name] == pytest.approx(cost, rel=0.05), name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["meta_flow_map", "strong_flow_map", "reward_tuning"])
def test_the_recorded_costs_of_posteriors_are_counted(name):
    assert step_cost.forward_passes(name) == pytest.approx(EXTENDED_COSTS[name], abs=0.006)


# Guidance inside the training target


@pytest.mark.slow
def test_a_guided_meanflow_step_costs_what_its_formula_needs():
    """Diagonal rows: forward, backward and the null label, 4. The others: both labels, jvp, backward, 6 + rho. A quarter of these."""
    method = methods.guided("meanflow", methods.make("meanflow"), "meanflow", scale=(2.0, 2.0), k=0.5)
    program, init = step_cost.program(method, step_cost.network(), batch=16, optimizer=optax.sgd(1e-3))
    forward, init_forward = step_cost.forward_pass(16)
    counted = flops.matmul(program, *jax.eval_shape(init)) / flops.matmul(forward, *jax.eval_shape(init_forward))
    assert counted <= 4.6
    assert counted == pytest.approx(3 / 4 * 4 + 1 / 4 * (6 + step_cost.rho()), abs=0.03)


@pytest.mark.slow
def test_a_guided_two_headed_improved_meanflow_step_costs_what_its_formula_needs():
    """In two-headed forward passes; a velocity alone is `own` of one, and so is the jvp of V alone."""
    net = models.make(
        "mit", num_classes=10, width=128, depth=4, head_depth=2, heads=4, patch=1, inputs=("guidance", "interval")
    )
    method = methods.guided("imf", methods.make("imf", heads=2), "imf", scale=(1.0, 8.0))
    program, init = step_cost.program(method, net, batch=16, optimizer=optax.sgd(1e-3))
    state, rows, _ = jax.eval_shape(init)
    cond = {"label": rows["label"], "guidance": jnp.ones(16), "interval": jnp.tile(jnp.array([0.0, 1.0]), (16, 1))}
    asked = lambda method: lambda params, x, cond: net.apply({"params": params}, x, 1.0, 0.0, cond, method=method)
    heads, one = (flops.matmul(asked(method), state.params["V"], rows["x"], cond) for method in ("both", "__call__"))
    counted, own = flops.matmul(program, state, rows, ()) / heads, one / heads
    assert counted <= 5.4
    # Diagonal: both heads forward and backward, the null label. Off it: also the label and the jvp of V, attention twice.
    assert counted == pytest.approx((3 + own) / 2 + (3 + 3 * own) / 2, rel=0.05)
