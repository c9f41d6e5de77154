"""A trained run: one tree of its checkpoint is read, V and samples in one call, runs of another format."""

import json
import shutil

import jax
import numpy as np
import pytest

from configs import common, meanflow
from flowjax import typing
from flowjax.training import loading, workdir


@pytest.fixture(scope="module")
def guided(saved_run, tmp_path_factory):
    """The folder of a run on digits that learned scales from 1 to 4."""
    config = meanflow.get_config("guided")
    config.update({"eval_every": 0, "batch_size": 32, "ema": (0.999, 0.9)})
    config.model = common.network("dit", width=16, depth=1, heads=2, patch=4)
    return saved_run(config, tmp_path_factory.mktemp("loading") / "run")


@pytest.mark.slow
def test_V_is_the_network_with_its_conditioning(guided):
    run = loading.load(guided)
    x = np.random.default_rng(0).standard_normal((4, 8, 8, 1)).astype(np.float32)
    cond = {"label": np.array([0, 3, 3, -1]), "guidance": np.full(4, 2.0, np.float32)}  # the median of density ~ 1/w on [1, 4]
    expected = run.net.apply({"params": run.params}, x, 0.9, 0.1, cond)
    np.testing.assert_array_equal(run.V(cond["label"])(x, 0.9, 0.1), expected)
    np.testing.assert_array_equal(run.V(3)(x, 0.9, 0.1)[1:3], expected[1:3])
    np.testing.assert_allclose(run.V()(x[3:], 0.9, 0.1), expected[3:], atol=1e-6)
    assert np.abs(run.V(3, guidance=4.0)(x, 0.9, 0.1) - run.V(3)(x, 0.9, 0.1)).max() > 1e-4
    with pytest.raises(typing.InputError, match="--guidance=5.0: the run learned scales from 1.0 to 4.0"):
        run.V(3, guidance=5.0)


@pytest.mark.slow
def test_samples_in_one_call(guided):
    run = loading.load(guided)
    x = run.sample(12, labels=(7, 2), seed=1)
    noise = np.stack([jax.random.normal(jax.random.fold_in(jax.random.key(1), i), run.shape) for i in range(12)])
    np.testing.assert_allclose(x, noise - run.V(np.resize([7, 2], 12))(noise, 1.0, 0.0), atol=1e-5)
    np.testing.assert_array_equal(run.sample(5, labels=(7, 2), seed=1), x[:5])
    np.testing.assert_allclose(run.sample(12, labels=(7, 2), x=noise), x, atol=1e-5)
    assert np.abs(run.sample(12, steps=2, labels=(7, 2), seed=1) - x).max() > 1e-3
    with pytest.raises(typing.InputError, match="the classes 0 to 9"):
        run.sample(2, labels=10)
    with pytest.raises(typing.InputError, match="the classes 0 to 9"):
        run.V(labels=30)


def test_one_tree_is_read(guided, tmp_path):
    """Sampling with an average does without the optimizer, the raw weights and the other average."""
    folder = shutil.copytree(guided, tmp_path / "run")
    items = folder / "checkpoints" / "1"
    names = {path.name for path in items.iterdir() if path.is_dir()}
    assert {"params.V", "averages.0.999", "averages.0.9", "opt_state", "rest"} <= names
    whole = loading.load(folder)
    for name in names - {"averages.0.999", "meta"}:
        shutil.rmtree(items / name)
    jax.tree.map(np.testing.assert_array_equal, loading.load(folder).params, whole.params)
    with pytest.raises(typing.InputError, match="none of the checkpoints 1 in .* can be read"):
        loading.load(folder, average="none")
    with pytest.raises(typing.InputError, match="no average '0.5'; the run has 0.999, 0.9, none"):
        loading.load(folder, average="0.5")


@pytest.mark.parametrize("number", [None, 3])
def test_a_run_of_another_format_is_refused(guided, tmp_path, number):
    folder = shutil.copytree(guided, tmp_path / "run")
    facts = json.loads((folder / "data.json").read_text())
    assert facts.pop("format") == 4
    (folder / "data.json").write_text(json.dumps(facts if number is None else {**facts, "format": number}))
    message = f"--workdir=.* is a run of format {number or 2}, and this flowjax reads format 4"
    with pytest.raises(typing.InputError, match=message):
        loading.load(folder)
    config = meanflow.get_config("guided")
    with pytest.raises(typing.InputError, match=message):
        workdir.check(folder, config)
