"""Low-rank factors: the formula, training in them as in whole weights, their merging with the weights of this and another run."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import rows, small, with_sgd

from configs import method as method_config
from flowjax import adapters, models, training, typing
from flowjax.training import checkpoint, loading, loop, networks, runs, sharding

ROOT = pathlib.Path(__file__).parents[1]
ONE = jax.devices()[:1]
BASE = {
    "blocks": {"qkv": {"kernel": jnp.ones((2, 20, 30)), "bias": jnp.ones((2, 30))}},  # two layers in a scan
    "conv": {"kernel": jnp.ones((3, 3, 20, 30))},
    "out": {"kernel": jnp.ones((20, 3))},
}


def drawn(factors, seed=0):
    """Factors off their zeros."""
    generator = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(generator.standard_normal(leaf.shape), leaf.dtype), factors)


def test_factors_start_at_nothing_and_add_their_product():
    factors = adapters.init(jax.random.key(0), BASE, 4, whole=lambda path: path.endswith("bias"))
    shapes = jax.tree.map(jnp.shape, factors)
    assert shapes["blocks"]["qkv"] == {"kernel": {"a": (2, 20, 4), "b": (2, 4, 30)}, "bias": {"delta": (2, 30)}}
    assert shapes["conv"]["kernel"] == {"a": (180, 4), "b": (4, 30)}
    assert shapes["out"]["kernel"] == {"delta": (20, 3)}  # which has fewer numbers than its factors would have
    chex.assert_trees_all_equal(adapters.merged(BASE, factors, 2.0), BASE)
    assert np.std(factors["conv"]["kernel"]["a"]) * 180**0.5 == pytest.approx(1, abs=0.1)
    moved = drawn(factors)
    kernel, a, b = BASE["blocks"]["qkv"]["kernel"], *moved["blocks"]["qkv"]["kernel"].values()
    x = jax.random.normal(jax.random.key(1), (5, 20))
    result = x @ adapters.merged(BASE, moved, 0.5)["blocks"]["qkv"]["kernel"][1]
    np.testing.assert_allclose(result, x @ kernel[1] + 0.5 * (x @ a[1]) @ b[1], rtol=1e-4, atol=1e-4)
    assert adapters.count(factors) == 2 * (4 * 50 + 30) + 4 * 210 + 60


def test_no_gradient_reaches_the_frozen_weights():
    factors = drawn(adapters.init(jax.random.key(0), BASE, 1, at="out"))
    total = lambda base, factors: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(adapters.merged(base, factors)))
    base, moved = jax.grad(total, argnums=(0, 1))(BASE, factors)
    assert not any(jnp.any(leaf) for leaf in jax.tree.leaves(base)) and all(jnp.all(leaf) for leaf in jax.tree.leaves(moved))


MISTAKES = {
    "rank 0": (
        lambda: adapters.init(jax.random.key(0), BASE, 0),
        "adapter: the rank is 0; expected a whole number of at least 1",
    ),
    "no kernel": (
        lambda: adapters.init(jax.random.key(0), BASE, 1, at="attention"),
        "adapter: no kernel has a path with 'attention'; the network has blocks/qkv/bias, blocks/qkv/kernel, conv/kernel",
    ),
    "no expression": (
        lambda: adapters.init(jax.random.key(0), BASE, 1, at="("),
        r"config.adapter.at is '\(', which is no regular",
    ),
    "other names": (
        lambda: adapters.merged({"out": BASE["out"]}, adapters.init(jax.random.key(0), BASE, 1)),
        "of another network: it has factors for blocks, which these weights lack",
    ),
    "other sizes": (
        lambda: adapters.merged({"kernel": jnp.ones((20, 30))}, {"kernel": {"a": jnp.ones((10, 1)), "b": jnp.ones((1, 30))}}),
        r"of another network: its change of kernel has the shape \(10, 30\), and the weights have \(20, 30\)",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_factors_that_cannot_be_are_refused(mistake):
    call, message = MISTAKES[mistake]
    with pytest.raises(typing.InputError, match=message):
        call()


@pytest.fixture(scope="session")
def start(flow_run):
    """The folder of a run to start from."""
    return str(flow_run)


def adapted(start, name="meanflow", rank=2, **changes):
    config = small(name, start=start, **changes)
    config.adapter.rank, config.model.parameterisation = rank, "velocity"  # that of the start
    return config


@pytest.mark.slow
def test_a_run_trains_its_factors_alone_and_goes_on_to_the_same_bits(start, tmp_path):
    config = adapted(start)
    config.adapter.whole = "Dense_1/bias"
    run, before = runs.setup(config, devices=ONE), loading.load(start)
    first = run.init()
    chex.assert_trees_all_equal(run.networks.merged("V", first.params["V"], first.base), before.params)
    assert set(first.params["V"]["Dense_1"]) == {"kernel", "bias"} and set(first.params["V"]["Dense_2"]) == {"kernel"}
    held = adapters.count(first.params), adapters.count(first.opt_state), adapters.count(first.averages)
    assert max(held) <= 2 * held[0] + 2  # Adam's two moments of the factors, and its counters

    state = loop.train(config, tmp_path / "whole", devices=ONE)
    chex.assert_trees_all_equal(state.base, first.base)
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    shutil.rmtree(tmp_path / "part" / "checkpoints" / "8")
    again = loop.train(config, tmp_path / "part", devices=ONE)
    assert int(checkpoint.fingerprint(state)) == int(checkpoint.fingerprint(again))

    apart, loaded = loading.load(tmp_path / "whole", factors=True), loading.load(tmp_path / "whole")
    chex.assert_trees_all_equal(apart.params, state.averages["0.999"])
    chex.assert_trees_all_equal(loaded.params, adapters.merged(state.base, apart.params))
    chex.assert_trees_all_equal(loaded.params, loading.weights(state, "0.999", 1))
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), loaded.params, before.params)
    assert moved["Dense_1"] == {"kernel": True, "bias": True} and moved["Dense_2"] == {"kernel": True, "bias": False}
    with pytest.raises(typing.InputError, match=f"--workdir={start} has no factors: config.adapter.rank is 0 there"):
        loading.load(start, factors=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shortcut", "freeflow", "dmd2", "ayf_lmd"])
def test_every_network_of_a_method_sees_merged_weights(name, start):
    """Targets, frozen copies and networks like V: one step on a mesh of eight devices is that of one device."""

    def after(mesh):
        needs = {"teacher": start} if name in ("dmd2", "ayf_lmd", "freeflow") else {}
        config = with_sgd(adapted(start, name, batch_size=64, mesh={"data": mesh[0], "fsdp": mesh[1]}, **needs))
        run = runs.setup(config, devices=jax.devices()[: mesh[0] * mesh[1]])
        if name == "dmd2":  # the fake score is a network like V, beside the same weights
            assert set(run.like.params["fake"]["Dense_0"]["kernel"]) == {"a", "b"}
        state = run.init()
        state = state._replace(params=jax.tree.map(lambda leaf: leaf + 0.1, state.params))
        step = jax.jit(run.step, static_argnames="phase")
        state, metrics = step(state, sharding.global_batch(run.mesh, rows(64)), run.fixed, phase=run.cycle.at(0))
        return jax.device_get((state, metrics))

    (one, metrics), (eight, of_eight) = after((1, 1)), after((2, 4))
    chex.assert_trees_all_close(one.params, eight.params, atol=1e-5)
    chex.assert_trees_all_equal(one.base, eight.base)
    chex.assert_trees_all_close(metrics, of_eight, rtol=1e-3)


@pytest.mark.slow
def test_nets_are_merged_wherever_they_come_from(start):
    run = runs.setup(adapted(start, "shortcut"), devices=ONE)
    state = run.init()
    params, target = drawn(state.params, 1), drawn(state.params["V"], 2)
    nets = networks.nets(run.networks, params, target, run.fixed, base=state.base)
    x, time = jnp.ones((4, 2)), jnp.full((4, 1), 0.5)
    for network, factors in ((nets.V, params["V"]), (nets.frozen, params["V"]), (nets.ema, target)):
        weights = adapters.merged(state.base, factors)
        np.testing.assert_array_equal(network(x, time, time), run.net.apply({"params": weights}, x, time, time, None))


@pytest.mark.slow
def test_seeds_have_factors_of_their_own(start, tmp_path):
    state = loop.train(adapted(start, seeds=2), tmp_path / "run", devices=ONE)
    first, second = (loading.load(tmp_path / "run", seed=number).params for number in range(2))
    assert jnp.any(first["Dense_1"]["kernel"] != second["Dense_1"]["kernel"])
    chex.assert_trees_all_equal(loading.weights(state, "0.999", 2), first)


def test_what_the_start_lacks_is_trained_whole(start):
    """A further input begins at zero; low-rank factors beside zeros would leave its bias and its last layer out."""
    config = adapted(start, "meta_flow_map")
    factors = runs.setup(config, devices=ONE).like.params["V"]
    added = {path for path, _ in adapters.leaves(factors)} - {path for path, _ in adapters.leaves(adapted_tree(start))}
    assert added and all(path.endswith("delta") for path in added)


def adapted_tree(start):
    return adapters.init(jax.random.key(0), loading.load(start).params, 2)


def test_configs_of_adapters_that_cannot_work(start, tmp_path):
    def refused(message, start=start, **fields):
        config = small("meanflow", start=start)
        config.adapter.update(fields)
        with pytest.raises(typing.InputError, match=message):
            runs.setup(config, devices=ONE)

    refused("config.adapter.scale is 2.0, and config.adapter.rank is 0; expected a rank: --config.adapter.rank=8", scale=2.0)
    refused("config.adapter.rank is 4, and config.start is empty, so that there are no weights", start="", rank=4)
    refused("adapter: no kernel has a path with 'attention'; the network has", rank=4, at="attention")
    refused(r"config.adapter.whole is '\[', which is no regular expression", rank=4, whole="[")
    refused("config.adapter.rank is -1; expected a whole number of at least 0", rank=-1)
    assert training.sketch(adapted("runs/nowhere")).like.base is not None  # which needs no other run


def test_a_low_rank_run_of_the_digits_has_few_numbers():
    """The shares that docs/adapters.md gives."""
    model = method_config.get_config("meanflow,digits").model.to_dict()
    fields = {name: value for name, value in model.items() if name not in ("name", "inputs", "parameterisation")}
    net = models.make("dit", num_classes=10, **fields)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)), 1.0, 0.0, {})["params"]
    count = lambda rank: adapters.count(jax.eval_shape(lambda base: adapters.init(jax.random.key(0), base, rank), shapes))
    shares = {rank: round(100 * count(rank) / adapters.count(shapes), 1) for rank in (1, 2, 4, 8)}
    assert shares == {1: 2.1, 2: 4.1, 4: 8.2, 8: 16.2}
    # The wide network, of which less than 5% are trained.
    wide = models.make("dit", num_classes=10, **fields | {"width": 256, "heads": 4, "patch": 4})
    shapes = jax.eval_shape(wide.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)), 1.0, 0.0, {})["params"]
    whole = re.compile("bias$|label/").search
    factors = jax.eval_shape(
        lambda base: adapters.init(jax.random.key(0), base, 8, whole=lambda path: bool(whole(path))), shapes
    )
    assert round(100 * adapters.count(factors) / adapters.count(shapes), 1) == 4.7


@pytest.mark.slow
def test_the_factors_of_a_run_are_merged_or_added_to_another(start, saved_run, tmp_path):
    config = adapted(start)
    config.adapter.scale = 0.5
    factors, other = saved_run(config, tmp_path / "factors"), saved_run(small("flow_matching", seed=1), tmp_path / "other")

    def merge(*arguments):
        command = [sys.executable, "-m", "experiments.merge", f"--workdir={factors}", *arguments]
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=ROOT, capture_output=True, text=True)
        return done.stdout + done.stderr

    printed = merge(f"--output={tmp_path / 'merged'}")
    assert "numbers in factors" in printed and "python -m experiments.sample" in printed
    apart, whole, merged = loading.load(factors, factors=True), loading.load(factors), loading.load(tmp_path / "merged")
    chex.assert_trees_all_equal(merged.params, whole.params)
    np.testing.assert_allclose(merged.sample(16), whole.sample(16), atol=1e-5)
    merge(f"--output={tmp_path / 'both'}", f"--onto={other}", "--weight=0.7")
    both, expected = loading.load(tmp_path / "both"), adapters.merged(loading.load(other).params, apart.params, 0.5 * 0.7)
    chex.assert_trees_all_close(both.params, expected, atol=1e-6)
    assert both.settings.method.name == "meanflow" and not both.settings.adapter.rank
    chex.assert_trees_all_equal(runs.setup(small(start=str(tmp_path / "both")), devices=ONE).init().params["V"], both.params)
