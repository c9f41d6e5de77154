"""The learned thing: a few hundred steps on points far from the noise lower the one-step distance to them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import method as method_config
from flowjax import data, evals, exact, methods, samplers
from flowjax.data import points
from flowjax.training import config_checks, runs, sampling, sharding, teachers


def far(points):
    """Off-centre and stretched, so that noise itself is far away."""
    return 2 * points + 3


# The velocity of eight_gaussians after `far`: the exact teacher of those that distil.
ANGLES = np.arange(8) * np.pi / 4
FAR_VELOCITY = exact.blobs(2.8 * np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1) + 3, 0.2)
# Steps of sampling at which a method is judged: a few where its paper claims no less, or where 300 steps of training teach no less.
FEW_STEPS = {"flow_matching": 4, "fmm": 4, "pd": 4, "cd": 8}


# This one every time; the others in the slow tests.
KINDS = ("meanflow",)


@pytest.mark.parametrize("name", [n if n in KINDS else pytest.param(n, marks=pytest.mark.slow) for n in methods.METHODS])
def test_three_hundred_steps_lower_the_distance(name, monkeypatch):
    config = method_config.get_config(f"{name},checkerboard")
    config.update({"steps": 300, "batch_size": 256, "eval_every": 0})
    config.data.name = config.data.name.replace("checkerboard", "eight_gaussians")
    config.model.width, config.optim.learning_rate = 64, 3e-3
    monkeypatch.setitem(points.VELOCITIES, "eight_gaussians", FAR_VELOCITY)
    if name == "pfmm":  # its teacher is a flow map: the exact one, in 32 steps for each leg
        monkeypatch.setattr(config_checks, "CHECKS", ())
        monkeypatch.setattr(teachers, "make", exact_map)
    run = runs.setup(config, devices=jax.devices()[:1])
    held_out = far(data.arrays(data.load("eight_gaussians", split="test"), limit=2_000)["x"])
    sample = sampling.make_sampler(run.net, run.source.shape, config.sampler)
    labels = sampling.labels_like(None, 0, len(held_out))
    distance = lambda params: evals.sliced_wasserstein(sample(params, 0, labels, FEW_STEPS.get(name, 1)), held_out)

    state, step = run.init(), jax.jit(run.step, donate_argnums=0)
    before = distance(state.params["V"])
    batches = data.batches(run.source, batch_size=config.batch_size, seed=0)
    for _ in range(config.steps):
        batch = next(batches)
        if not run.source.coupled:  # pairs of the far velocity are far already
            batch["x"] = far(batch["x"])
        state, _ = step(state, sharding.global_batch(run.mesh, batch), run.fixed)
    after = distance(state.averages["0.999"])
    assert after < 0.5 * before, (before, after)


def exact_map(run, weak, guidance, data_name):
    """The exact flow map as a teacher, by Heun's method."""

    def V(weights, x, s, t, cond):
        legs = jnp.linspace(0, 1, 17)
        at = lambda share: s + share * (t - s)
        v = lambda x, share: (t - s) * FAR_VELOCITY(x, at(share))
        moved = samplers.heun(v, x, legs) - x
        return moved / jnp.where(jnp.abs(t - s) < 1e-4, -1e-4, t - s)

    return teachers.Teacher(map=V)


def trained_distance(name, **changes):
    """One-step distance to held-out data after a tenth of the checkerboard preset of a method, with the sampler of its config."""
    config = method_config.get_config(f"{name},checkerboard")
    config.update({"steps": config.steps // 10, "eval_every": 0, **changes})
    run = runs.setup(config, devices=jax.devices()[:1])
    held_out = data.arrays(data.load("checkerboard", split="test"))["x"]
    state, step = run.init(), jax.jit(run.step, donate_argnums=0)
    batches = data.batches(run.source, batch_size=config.batch_size, seed=config.seed)
    for _ in range(config.steps):
        state, _ = step(state, sharding.global_batch(run.mesh, next(batches)), run.fixed)
    sample = sampling.make_sampler(run.net, run.source.shape, config.sampler)
    labels = sampling.labels_like(None, 0, len(held_out))
    return evals.sliced_wasserstein(sample(state.averages["0.999"], 0, labels, 1), held_out)


@pytest.mark.slow
def test_a_tenth_of_each_checkerboard_preset_beats_one_euler_step_by_three():
    baseline = trained_distance("flow_matching")
    for name in ("meanflow", "imf", "tvm", "soflow"):
        assert trained_distance(name) < baseline / 3, name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mmd", "sid"])
def test_a_tenth_of_matching_distributions_halves_the_distance_of_noise(name):
    """By samples, and by scores of the exact teacher and a fake; noise is at 0.255."""
    assert trained_distance(name, batch_size=256) < 0.255 / 2
