"""Scripts that look at runs on tokens and on other spaces than R^n: samples, inspection, inversion."""

import csv
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from configs import manifold, tokens as token_configs
from flowjax import training
from flowjax.training import progress

ROOT = pathlib.Path(__file__).parents[1]


def finish(module, *flags):
    command = [sys.executable, "-m", f"experiments.{module}", *flags]
    result = subprocess.run(command, cwd=ROOT, timeout=900, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return result.stdout, result.returncode


def trained(config, folder):
    config.update({"steps": 2, "batch_size": 16, "eval_every": 2, "eval_samples": 64, "save_every": 2, "log_every": 1})
    config.optim.warmup_steps = 0
    config.model.width = 16
    training.train(config, folder, devices=jax.devices()[:1])
    return folder


@pytest.mark.slow
def test_tokens_are_inspected_sampled_and_bounded_and_not_inverted(tmp_path):
    np.savez(tmp_path / "rows.npz", tokens=np.random.default_rng(0).integers(0, 3, (120, 6)))
    config = token_configs.get_config("csd,test")
    config.data.update({"name": "tokens", "dir": str(tmp_path / "rows.npz")})
    config.model.columns = 0
    folder = trained(config, tmp_path / "run")
    output, code = finish("inspect", f"--workdir={folder}", "--rows=4", "--cells=3", "--steps=1,2")
    assert code == 0, output
    names = {"samples.png", "trajectories.png", "velocity.png", "rules.png", "bins.png", "training.png"}
    assert {path.name for path in (folder / "inspect").glob("*.png")} == names
    output, code = finish("sample", f"--workdir={folder}", "--steps=1,2", "--num=5")
    assert code == 0, output
    with np.load(folder / "sample.npz") as file:  # with and without the last decision
        for n in (1, 2):
            np.testing.assert_allclose(file[f"samples_{n}"].sum(-1), 1, atol=1e-4)
            np.testing.assert_array_equal(file[f"tokens_{n}"], file[f"samples_{n}"].argmax(-1))
    output, code = finish("likelihood", f"--workdir={folder}", "--num=8")
    assert code == 0, output
    rows = list(csv.DictReader((folder / "likelihood.csv").read_text().splitlines()))
    assert [row["rows"] for row in rows] == ["held-out data", "learned from"]
    assert all(6 * np.log(3) / 2 < float(row["-log p at most, nats"]) < 6 * np.log(3) * 2 for row in rows)
    output, code = finish("sample", f"--workdir={folder}", "--invert")
    assert code == 2 and "--invert: rows of the dataset tokens are tokens" in output, output


@pytest.mark.slow
@pytest.mark.parametrize("chosen", ["sphere", "so3"])
def test_points_of_a_space_are_inspected_and_inverted(chosen, tmp_path):
    folder = trained(manifold.get_config(f"rmf,{chosen}"), tmp_path / "run")
    output, code = finish("inspect", f"--workdir={folder}", "--rows=4", "--cells=3", "--steps=1,2")
    assert code == 0, output
    expected = {"samples.png", "rules.png", "bins.png", "training.png"}
    assert expected <= {path.name for path in (folder / "inspect").glob("*.png")}
    output, code = finish("sample", f"--workdir={folder}", "--invert", "--num=20", "--steps=64")
    assert code == 0, output
    arrays = np.load(folder / "inversion.npz")
    space = training.load(folder).path.space
    np.testing.assert_allclose(space.nearest(arrays["noise"]), arrays["noise"], atol=1e-4)
    assert np.asarray(space.distance(arrays["back"], arrays["x"])).max() < 0.1
    assert (folder / "inversion.png").stat().st_size > 5_000


def test_rows_are_drawn_as_their_dataset_says():
    words = np.eye(27, dtype=np.float32)[np.random.default_rng(0).integers(0, 27, (3, 10))]
    assert "a word" in {
        text.get_text() for text in progress.draw_rows(None, {"a word": words}, data_name="words").axes[0].texts
    }
    assert not progress.draw_rows(None, {"data": words}, data_name="words").axes[0].images  # text alone
    assert progress.draw_rows(None, {"data": words}).axes  # of an unknown dataset: lines of pixels
