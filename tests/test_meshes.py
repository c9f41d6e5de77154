"""Meshes: every division of eight devices trains as one device does, slices are small, and communication is what the docs say."""

import collections
import re

import chex
import jax
import numpy as np
import pytest

from configs import method as method_config, network as network_config
from flowjax import collectives, models, typing
from flowjax.training import experiment, program, sharding

MESHES = [(8, 1), (1, 8), (2, 4), (4, 2)]


def config_of(name, mesh=(1, 1), **changes):
    config = method_config.get_config(f"{name},test")
    config.update({"eval_every": 0, "batch_size": 64, "mesh": {"data": mesh[0], "fsdp": mesh[1]}, **changes})
    config.model.width = 64
    return config


def with_sgd(config, rate=0.1):
    config.optim.update({"name": "sgd", "learning_rate": rate})
    config.optim.kwargs = {}
    return config


def trained(config, count):
    """The state after some steps on the same rows, and the metrics of each."""
    run = experiment.setup(config, devices=jax.devices()[: np.prod(list(config.mesh.values()))])
    step, state, found = program.compiled(run), run.init(), []
    rng = np.random.default_rng(0)
    for _ in range(count):
        x = rng.standard_normal((config.batch_size, 2)).astype(np.float32)
        state, metrics = jax.block_until_ready(step(state, sharding.global_batch(run.mesh, {"x": x}), run.fixed))
        found.append(jax.device_get(metrics))
    return jax.device_get(state), found


@pytest.fixture(scope="module")
def alone():
    """`name -> (state, metrics)` of one device after 20 steps of SGD, each trained once."""
    kept = {}
    return lambda name: kept.setdefault(name, None) or kept.update({name: trained(with_sgd(config_of(name)), 20)}) or kept[name]


FAST = [("meanflow", (2, 4)), ("tvm", (1, 8))]


@pytest.mark.parametrize(
    ("name", "mesh"),
    [
        (name, mesh) if (name, mesh) in FAST else pytest.param(name, mesh, marks=pytest.mark.slow)
        for name in ("meanflow", "imf", "tvm", "soflow")
        for mesh in MESHES
    ],
)
def test_every_mesh_trains_as_one_device_does(name, mesh, alone):
    state, metrics = alone(name)
    other, metrics_other = trained(with_sgd(config_of(name, mesh)), 20)
    chex.assert_trees_all_close(state.params, other.params, atol=1e-6, rtol=0)
    chex.assert_trees_all_close((state.averages, state.target), (other.averages, other.target), atol=1e-6, rtol=0)
    chex.assert_trees_all_close(metrics, metrics_other, rtol=1e-4)
    assert int(other.step) == 20 and int(other.skipped) == 0
