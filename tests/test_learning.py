"""The learned thing: a few hundred steps on points far from the noise lower the one-step distance to them."""

import importlib

import jax
import pytest

from flowjax import data, evals, methods
from flowjax.training import evaluation, experiment, sharding


def far(points):
    """Off-centre and stretched, so that noise itself is far away."""
    return 2 * points + 3


@pytest.mark.parametrize("name", [name for name in methods.METHODS if name != "flow_matching"])
def test_three_hundred_steps_lower_the_one_step_distance(name):
    config = importlib.import_module(f"configs.{name}").get_config("checkerboard")
    config.update({"steps": 300, "batch_size": 256, "eval_every": 0})
    config.data.name, config.model.width, config.optim.learning_rate = "eight_gaussians", 64, 3e-3
    run = experiment.setup(config, devices=jax.devices()[:1])
    held_out = far(data.arrays(data.load("eight_gaussians", split="test"), limit=2_000)["x"])
    sample = evaluation.make_sampler(run.net, run.source.shape)
    labels = evaluation.labels_like(None, 0, len(held_out))
    distance = lambda params: evals.sliced_wasserstein(sample(params, 0, labels, 1), held_out)

    state, step = run.init(), jax.jit(run.step, donate_argnums=0)
    before = distance(state.params)
    batches = data.batches(run.source, batch_size=config.batch_size, seed=0)
    for _ in range(config.steps):
        state, _ = step(state, sharding.global_batch(run.mesh, {"x": far(next(batches)["x"])}))
    after = distance(state.averages["0.999"])
    assert after < 0.4 * before, (before, after)


def trained_distance(name):
    """One-step distance to held-out data after the checkerboard preset of a method, with the sampler of its config."""
    config = importlib.import_module(f"configs.{name}").get_config("checkerboard")
    config.eval_every = 0
    run = experiment.setup(config, devices=jax.devices()[:1])
    held_out = data.arrays(data.load("checkerboard", split="test"))["x"]
    state, step = run.init(), jax.jit(run.step, donate_argnums=0)
    batches = data.batches(run.source, batch_size=config.batch_size, seed=config.seed)
    for _ in range(config.steps):
        state, _ = step(state, sharding.global_batch(run.mesh, next(batches)))
    sample = evaluation.make_sampler(run.net, run.source.shape, config.sampler)
    labels = evaluation.labels_like(None, 0, len(held_out))
    return evals.sliced_wasserstein(sample(state.averages["0.999"], 0, labels, 1), held_out)


@pytest.mark.slow
def test_checkerboard_presets_beat_one_euler_step_by_three():
    baseline = trained_distance("flow_matching")
    for name in ("meanflow", "imf", "tvm", "soflow"):
        assert trained_distance(name) < baseline / 3, name
