"""Batches of fewer rows a device than a method has parts: every row is on one device, and the numbers are those of one device."""

import chex
import jax
import numpy as np
import pytest
from support import small, with_sgd

from configs import network as network_config
from flowjax import methods, typing
from flowjax.methods import recipe
from flowjax.profiling import collectives
from flowjax.training import compilation, dealing, estimates, runs, sharding


def trained(config, mesh, steps, row):
    """The state after some steps of plain gradient descent on the same rows, the metrics, and {kind: (number, bytes)} of a step."""
    config = with_sgd(config, 0.05)
    config.update({"eval_every": 0, "mesh": {"data": mesh[0], "fsdp": mesh[1]}})
    run, rng = runs.setup(config, devices=jax.devices()[: np.prod(mesh)]), np.random.default_rng(0)
    (step,), state, found = compilation.compiled(run).values(), run.init(), []
    for _ in range(steps):
        batch = sharding.global_batch(run.mesh, row(rng, config.batch_size))
        state, metrics = jax.block_until_ready(step(state, batch, run.fixed))
        found.append(jax.device_get(metrics))
    return jax.device_get(state), found, collectives.totals(step.as_text())


def points(rng, count):
    return {"x": rng.standard_normal((count, 2)).astype(np.float32)}


def digits(rng, count):
    return {"x": rng.standard_normal((count, 8, 8, 1)).astype(np.float32), "label": np.arange(count, dtype=np.int32) % 10}


def of_blocks():
    config = network_config.get_config("soflow,dit")
    config.guidance.update({"kind": "", "scale": (1.0, 1.0)})
    config.model.update({"width": 16, "depth": 2, "heads": 2, "patch": 4, "unroll": 1})
    config.update({"batch_size": 8, "ema": (0.9,)})
    return config


CASES = [
    ("meanflow", 8, (8, 1)),
    pytest.param("meanflow", 16, (4, 2), marks=pytest.mark.slow),
    pytest.param("imf", 8, (4, 2), marks=pytest.mark.slow),
    pytest.param("tvm", 8, (4, 2), marks=pytest.mark.slow),  # its terms are on all rows
    pytest.param("shortcut", 8, (8, 1), marks=pytest.mark.slow),
    pytest.param("blocks", 8, (4, 2), marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "rows", "mesh"), CASES)
def test_rows_that_do_not_hold_all_terms_train_as_on_one_device(name, rows, mesh):
    """Also where blocks gather their weights within a branch; the rows of the batch are the only ones that are sent."""
    config = lambda rows: of_blocks() if name == "blocks" else small(name, batch_size=rows)
    row = digits if name == "blocks" else points
    alone, metrics, _ = trained(config(rows), (1, 1), 5, row)
    state, metrics_of_eight, sent = trained(config(rows), mesh, 5, row)
    chex.assert_trees_all_close(alone, state, atol=1e-6, rtol=0)
    chex.assert_trees_all_close(metrics, metrics_of_eight, rtol=1e-4)
    if name == "blocks":
        return
    *_, whole = trained(config(64), mesh, 0, row)
    batch = (0, 0) if name == "tvm" else (1, rows * 2 * 4)
    assert sent.pop("all-gather") == tuple(np.add(whole.pop("all-gather"), batch))
    assert sent.pop("reduce-scatter") == whole.pop("reduce-scatter")
    assert sent == whole


@pytest.mark.parametrize(("mesh", "rows"), [((8, 1), 1), ((8, 1), 2), ((4, 2), 3), ((4, 2), 6), ((8, 1), 3)])
def test_every_row_is_on_one_device(mesh, rows):
    method = methods.make("imf", diagonal="3/4")
    mesh = sharding.abstract_mesh({"data": mesh[0], "fsdp": mesh[1]}, 8)
    deal = dealing.of_batch(mesh, 8 * rows, method)
    for term in method.terms:
        lo, hi, n = term.columns
        count = 8 * rows * (hi - lo) // n
        dealt = deal.dealt({term.name: np.arange(1, count + 1)})[term.name].reshape(*mesh.shape.values(), -1)
        found = []
        for place, device in enumerate(dealt):
            first, last = deal.shares[place % len(deal.shares)][term.name]
            found += [device[:, : last - first].ravel()]
        assert sorted(np.concatenate(found)) == list(range(1, count + 1))
    assert dealing.of_batch(mesh, 32, method) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"batch_size": 12},
            r"batch_size is 12; 8 device\(s\) .* in 4 need a positive multiple of 8: --config.batch_size=16\.",
        ),
        ({"batch_size": 8, "accumulate": 2}, "2 parts of the batch one after the other, need a positive multiple of 64"),
        (
            {"batch_size": 8, "mesh": {"data": 2, "fsdp": 4}},
            r"config.mesh.data is 2, expected a multiple of 4: --config.mesh.data=-1 --config.mesh.fsdp=2, or --config.batch_size=32\.",
        ),
    ],
)
def test_rows_that_devices_cannot_share_are_refused(changes, said):
    with pytest.raises(typing.InputError, match=said):
        runs.setup(small(**{"mesh": {"data": 8, "fsdp": 1}, **changes}), jax.devices()[:8])


def test_terms_whose_rows_belong_together_are_not_shared():
    mesh = sharding.abstract_mesh(devices=8)
    for method in (methods.make("imm"), methods.make("meanflow")._replace(loss=lambda nets, drawn: 0.0)):
        assert methods.rows_multiple(method) > 1
        with pytest.raises(typing.InputError, match=f"need a positive multiple of {8 * methods.rows_multiple(method)}"):
            dealing.check(mesh, 8, method)
    assert recipe.of_terms(methods.make("meanflow")).keys() == {"anchor", "eulerian"}


def test_the_flops_of_a_step_do_not_depend_on_the_devices():
    config = small(batch_size=8)
    one, eight = (estimates.of_run(runs.sketch(config, devices)) for devices in (1, 8))
    assert one.flops == eight.flops and one.longest == 1 < eight.longest < 4
    assert f"some get rows that cost {eight.longest:.2f} times the mean" in estimates.report(runs.sketch(config, 8))
