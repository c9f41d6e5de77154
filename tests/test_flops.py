"""The FLOP counter, and what a training step of each method costs in forward passes: deterministic, so pinned."""

import importlib

import jax
import jax.numpy as jnp
import pytest

from flowjax import flops, methods
from flowjax.training import experiment


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


@pytest.fixture(scope="module")
def forward():
    """FLOPs of a forward pass of the network of `step_of`, on its batch."""
    run = step_of("flow_matching")
    evaluate = lambda p, batch: run.net.apply({"params": p}, batch["x"], 1.0, 0.0, {"label": batch["label"]})
    return flops.matmul(evaluate, run.like.params, run.batch_like)


def step_of(name):
    """A method's training step on a DiT with 64 tokens, with the published constants, no guidance and no remat."""
    config = importlib.import_module(f"configs.{name}").get_config("digits")
    config.update({"batch_size": 16, "eval_every": 0})
    config.model.update({"width": 128, "depth": 4, "heads": 4, "patch": 1, "unroll": 1})
    config.method.update(methods.constants(name))
    return experiment.setup(config, devices=jax.devices()[:1])


# The published split of the rows; TVM has both terms on every row.
@pytest.mark.parametrize("name,most", [("flow_matching", 3.1), ("meanflow", 3.4), ("soflow", 3.4), ("imf", 4.2), ("tvm", 10.4)])
def test_forward_pass_equivalents_of_a_training_step(name, most, forward):
    run = step_of(name)
    cost = flops.matmul(run.step, run.like, run.batch_like) / forward
    assert 0.95 * (most - 0.4) <= cost <= most
