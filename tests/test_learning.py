"""The learned thing: a few hundred steps on points lower a real distance to the data at one step."""

import importlib

import jax
import pytest

from flowjax import data, evals
from flowjax.training import evaluation, experiment, sharding


def one_step_distance(run, params, held_out):
    sample = evaluation.make_sampler(run.net, run.source.shape, "flow_map")
    labels = evaluation.labels_like(None, 0, len(held_out))
    return evals.sliced_wasserstein(sample(params, 0, labels, 1), held_out)


@pytest.mark.parametrize("name", ["meanflow", "imf", "tvm", "soflow"])
def test_three_hundred_steps_halve_the_one_step_distance(name):
    config = importlib.import_module(f"configs.{name}").get_config("checkerboard")
    config.steps, config.batch_size, config.data.name = 300, 256, "eight_gaussians"
    config.model.width = 64
    run = experiment.setup(config, devices=jax.devices()[:1])
    held_out = data.arrays(data.load("eight_gaussians", split="test"), limit=2_000)["x"]
    state, step = run.init(), jax.jit(run.step, donate_argnums=0)
    before = one_step_distance(run, state.params, held_out)
    batches = data.batches(run.source, batch_size=config.batch_size, seed=0)
    for _ in range(config.steps):
        state, _ = step(state, sharding.global_batch(run.mesh, next(batches)))
    after = one_step_distance(run, state.averages["0.999"], held_out)
    assert after < 0.5 * before, (before, after)
