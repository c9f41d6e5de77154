"""Runs with guidance trained in, from end to end: sampled, measured, written, walked, on one device and on eight."""

import chex
import jax
import numpy as np
import pytest
from support import with_sgd

from configs import common, imf
from flowjax import data, typing
from flowjax.evaluation import generation, scores, trajectories
from flowjax.training import loading, runs, sampling, sharding, teachers


@pytest.fixture(scope="module")
def guided(tmp_path_factory, saved_run):
    """The folder of an improved MeanFlow that is told scales and intervals."""
    config = imf.get_config("guided")
    config.model = common.network("dit", width=16, depth=1, heads=2, patch=4)
    return saved_run(config, tmp_path_factory.mktemp("guided") / "run")


@pytest.mark.slow
def test_scale_and_interval_reach_samples_and_tables(guided, tmp_path):
    run = loading.load(guided)
    # Embeddings of the guidance start from zero, and the run was not trained: the random weights of saved_run tell them apart.
    draw = lambda *told: sampling.make_sampler(run.net, run.shape, conditioning=run.conditioning(*told))(
        run.params, 0, np.arange(8), 1
    )
    samples = [draw(1.0), draw(3.0), draw(3.0, (0.2, 0.7))]
    assert len({x.tobytes() for x in samples}) == 3
    rows, about = scores.evaluate(
        guided, (1,), guidances=(1.0, 3.0), interval=(0.2, 0.7), num=64, measures=("agreement",), resamples=0
    )
    assert [row["guidance"] for row in rows[:2]] == [1.0, 3.0] and about.endswith("Guided at times from 0.2 to 0.7.")
    generation.write(guided, tmp_path / "out", num=8, guidance=3.0, interval=(0.2, 0.7), shard=8, labels=range(8))
    np.testing.assert_allclose(generation.read(tmp_path / "out")[0], samples[2], rtol=1e-5, atol=1e-5)
    assert generation.about(tmp_path / "out")["interval"] == [0.2, 0.7]
    with pytest.raises(typing.InputError, match=r"interval: \[0.2, 0.7\] there, \[\] now|interval"):
        generation.write(guided, tmp_path / "out", num=8, guidance=3.0, shard=8, labels=range(8))


@pytest.mark.slow
def test_a_guided_run_walks_at_the_median_of_its_scales(guided, tmp_path):
    trajectories.write(guided, tmp_path / "pairs", num=8, steps=2, solver="euler")
    source = data.couple(data.load("digits"), str(tmp_path / "pairs"))
    rows, run = data.arrays(source), loading.load(guided)
    expected = sampling.make_sampler(run.net, run.shape, "euler", run.conditioning(2.0))(
        run.params, 0, rows["label"], 2, x=rows["eps"]
    )
    np.testing.assert_allclose(rows["x"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_guided_run_is_no_teacher_and_may_be_continued(guided):
    config = imf.get_config("guided")
    config.model = common.network("dit", width=16, depth=1, heads=2, patch=4)
    config.start = str(guided)
    chex.assert_trees_all_equal(
        jax.device_get(runs.setup(config, devices=jax.devices()[:1]).init().params["V"]), loading.load(guided).params
    )
    config.guidance.update({"kind": "meanflow"})  # knows no interval
    with pytest.raises(typing.InputError, match="has the inputs guidance and interval besides .* this one guidance. None"):
        runs.setup(config, devices=jax.devices()[:1])


@pytest.mark.slow
def test_eight_devices_and_two_seeds_train_a_guided_run_as_one_device_does():
    config = imf.get_config("guided")
    config.model = common.network("dit", width=16, depth=1, heads=2, patch=4)
    config.update({"batch_size": 64, "seeds": 2, "steps": 200, "eval_every": 0})
    with_sgd(config)
    x, label = np.random.default_rng(0).standard_normal((2, 64, 8, 8, 1)).astype(np.float32), np.arange(128).reshape(2, 64) % 10
    result = []
    for devices in (jax.devices()[:1], jax.devices()[:8]):
        run = runs.setup(config, devices=devices)
        batch = sharding.global_batch(run.mesh, {"x": x, "label": label.astype(np.int32)}, seeds=2)
        state, metrics = jax.jit(run.step)(run.init(), batch, run.fixed)
        result.append(jax.device_get((state.params, metrics)))
    chex.assert_trees_all_close(result[0], result[1], atol=1e-6, rtol=1e-4)


def test_a_student_keeps_its_dropout_keys_from_its_teacher():
    class Net:
        def apply(self, variables, x, s, t, cond):
            assert "dropout" not in cond
            return x

    trained = loading.Trained(None, (2,), 0, Net(), None, 1)
    cond = {"label": np.zeros(3), "dropout": jax.random.split(jax.random.key(0), 3)}
    teachers.velocity_of(trained)(None, np.ones((3, 2)), 0.5, cond)
    teachers.map_of(trained)(None, np.ones((3, 2)), 0.5, 0.1, cond)
