"""Data that the network sees scaled: batches, samples, measures, other runs, runs from before; and augmented runs."""

import json
import shutil

import chex
import jax
import numpy as np
import pytest
from support import small

from flowjax import data, evals, typing
from flowjax.evaluation import trajectories
from flowjax.training import loading, loop, runs, sampling, workdir

MEAN, DEVIATION = (0.5, -0.2), (2.0, 0.25)
ROWS = np.random.default_rng(0).integers(0, 256, (16, 4, 4, 1)).astype(np.uint8)


def scaled(name="meanflow", **changes):
    config = small(name, **changes)
    config.data = {**config.data.to_dict(), "mean": MEAN, "deviation": DEVIATION}
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "scaled"
    loop.train(scaled(eval_every=8, eval_samples=256, eval_steps=(2,)), folder, devices=jax.devices()[:1])
    return folder


def test_batches_are_scaled_and_rows_are_not():
    x = data.arrays(data.load("checkerboard"), limit=2**18)["x"]
    source = data.prepared(data.load("checkerboard"), mean=MEAN, deviation=list(DEVIATION))
    batch = next(data.batches(source, batch_size=64, seed=3))["x"]
    plain = next(data.batches(data.load("checkerboard"), batch_size=64, seed=3))["x"]
    np.testing.assert_allclose(batch, (plain - np.float32(MEAN)) / np.float32(DEVIATION), rtol=1e-6)
    np.testing.assert_allclose(source.scaling.undo(batch), plain, atol=1e-6)
    np.testing.assert_array_equal(data.arrays(source, limit=10)["x"], x[:10])
    # One number for all channels; Stable Diffusion's factor; the deviation of sCM's data.
    np.testing.assert_allclose(data.Scaling.of(0.0, 1 / 0.18215).apply(x[:5]), x[:5] * 0.18215, rtol=1e-5)
    assert data.Scaling().apply(x) is x and data.Scaling().undo(x) is x and batch.dtype == np.float32


@pytest.mark.slow
def test_samples_and_measures_are_in_the_range_of_the_data(trained):
    run = loading.load(trained)
    samples = run.sample(256, 2)
    inside = sampling.make_sampler(run.net, run.shape)(run.params, 0, np.full(256, -1), 2)
    np.testing.assert_allclose(samples, inside * np.float32(DEVIATION) + np.float32(MEAN), rtol=1e-6)
    test = run.source("test")
    held_out = data.arrays(test, limit=test.reference_rows)
    judge = evals.judge(test, held_out["x"])
    logged = [record for record in workdir.read_metrics(trained) if "2step/energy_distance" in record][-1]
    measured = judge.values(samples, None, ("energy_distance",))["energy_distance"]
    assert logged["2step/energy_distance"] == pytest.approx(measured, rel=1e-4)
    # There and back: data that are inverted are scaled first, and the noise that they come from is not brought back.
    noise = run.sample(8, 4, sampler="heun", x=samples[:8], inverted=True)
    velocity = sampling.make_sampler(run.net, run.shape, "heun")
    np.testing.assert_allclose(
        noise,
        velocity(run.params, 0, np.full(8, -1), 4, x=run.settings.data.scaling.apply(samples[:8]), inverted=True),
        atol=1e-5,
    )


def test_other_runs_saw_the_data_alike(trained):
    config = small("lsd", start=str(trained), model=scaled().model.to_dict())
    with pytest.raises(
        typing.InputError,
        match=r"saw data with the mean \(0.5, -0.2\) and the deviation .*config.data has \(0.0,\) and \(1.0,\)",
    ):
        runs.setup(config)
    config = scaled("freeflow", teacher="exact")
    with pytest.raises(typing.InputError, match="velocity of data that are not scaled: --config.data.mean=0.0"):
        runs.setup(config)


def test_trajectories_of_a_run_are_scaled_already(trained, tmp_path):
    trajectories.write(trained, tmp_path / "pairs", num=64, steps=2, part=64)
    points = data.load("checkerboard")
    source = data.prepared(points, mean=MEAN, deviation=DEVIATION, coupling=str(tmp_path / "pairs"))
    batch, rows = next(data.batches(source, batch_size=64, seed=0)), source.rows(np.arange(64))
    for name in ("x", "eps"):
        np.testing.assert_array_equal(np.sort(batch[name], axis=0), np.sort(rows[name], axis=0))
    with pytest.raises(
        typing.InputError, match=r"written by a run with the mean \(0.5, -0.2\) .* here they are \(0.0,\) and \(1.0,\)"
    ):
        data.prepared(points, coupling=str(tmp_path / "pairs"))


@pytest.mark.slow
def test_a_run_from_before_is_read_and_goes_on(tmp_path):
    """Its config lacks what came later: all of it is at values that change nothing."""
    whole = loop.train(small(), tmp_path / "whole", devices=jax.devices()[:1])
    loop.train(small(), tmp_path / "old", devices=jax.devices()[:1])
    path = tmp_path / "old" / workdir.CONFIG
    config = json.loads(path.read_text())
    for name in ("augment", "mean", "deviation"):
        del config["data"][name]
    del config["model"]["inputs"]
    path.write_text(json.dumps(config))
    about = tmp_path / "old" / workdir.DATA
    about.write_text(json.dumps({name: fact for name, fact in json.loads(about.read_text()).items() if name != "checksum"}))
    assert loading.load(tmp_path / "old").settings.data.scaling == data.Scaling()
    chex.assert_trees_all_equal(loop.train(small(), tmp_path / "old", devices=jax.devices()[:1]), whole)
    with pytest.raises(typing.InputError, match=r"another config \(data.deviation: 1.0 there, 2.0 now\)"):
        config = small()
        config.data.deviation = 2.0
        loop.train(config, tmp_path / "old", devices=jax.devices()[:1])


@pytest.mark.slow
def test_an_augmented_run_resumes_to_the_same_bits(tmp_path, monkeypatch):
    rows = lambda ids: {"x": ROWS[ids]}
    monkeypatch.setitem(data.DATASETS, "tiny", lambda **_: data.Source("tiny", 16, (4, 4, 1), 0, rows))
    model = {"name": "dit", "width": 8, "depth": 1, "heads": 2, "patch": 4, "inputs": ("augmentation",)}
    config = small("flow_matching", model=model, steps=4, save_every=2, batch_size=16)
    config.data = {**config.data.to_dict(), "name": "tiny", "augment": "edm:probability=0.5", "mean": 0.1, "deviation": 0.5}
    whole = loop.train(config, tmp_path / "run", devices=jax.devices()[:1])
    assert np.abs(whole.params["V"]["augmentation"]["kernel"]).max() > 0  # its labels reach the network
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    chex.assert_trees_all_equal(loop.train(config, tmp_path / "run", devices=jax.devices()[:1]), whole)
    assert loading.load(tmp_path / "run").sample(3, 1, sampler="euler").shape == (3, 4, 4, 1)  # without labels: zeros
    config.model.inputs = ()
    with pytest.raises(
        typing.InputError, match="config.model.inputs lacks 'augmentation'.*--config.model.inputs=augmentation, or"
    ):
        runs.setup(config)


@pytest.mark.parametrize(
    "field,value,said",
    [
        ("mean", float("nan"), "config.data.mean is nan; expected a number, or a number a channel"),
        ("deviation", 0.0, "config.data.deviation is 0.0; expected a number above 0"),
        ("deviation", (1.0, "a"), "config.data.deviation is .*expected a number above 0"),
        (
            "mean",
            (0.0, 0.0, 0.0),
            r"config.data.mean has 3 numbers, and rows of checkerboard have shape \(2,\); expected one, or 2",
        ),
        ("augment", "edm", r"checkerboard has rows of shape \(2,\): only independent images are augmented"),
    ],
)
def test_what_cannot_be_scaled_or_augmented(field, value, said):
    config = small()
    config.data = {**config.data.to_dict(), field: value}
    if field == "augment":
        config.model.inputs = ("augmentation",)
    with pytest.raises(typing.InputError, match=said):
        runs.setup(config)


def test_pairs_of_data_and_noise_are_not_scaled(monkeypatch):
    monkeypatch.setattr("flowjax.data.trajectories.TRAJECTORIES", 2**8)  # all of them take seconds
    config = small()
    config.data = {**config.data.to_dict(), "name": "checkerboard_pairs", "deviation": 0.5}
    with pytest.raises(typing.InputError, match="pairs each row with its noise, so that its rows cannot be scaled"):
        runs.setup(config)
