"""The scripts that use a trained run: steer, invert, likelihood; what they write, on runs that were not trained."""

import csv
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from support import small

ROOT = pathlib.Path(__file__).parents[1]


def run(script, folder, *arguments, fails=0):
    command = [sys.executable, "-m", f"experiments.{script}", f"--workdir={folder}", *arguments]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == fails, done.stderr[-2000:]
    return done.stderr if fails else done.stdout


def table(path):
    with open(path) as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.parametrize("data", ["points", "digits"])
def test_steer_writes_a_row_and_a_panel_for_each_way(data, request):
    folder = request.getfixturevalue("flow_run" if data == "points" else "digits_run")
    reward = "axis:number=1,scale=0.5" if data == "points" else "brightness:scale=5"
    printed = run("steer", folder, f"--reward={reward}", "--num=64", "--steps=2", "--count=3")
    rows = {row["way"]: row for row in table(folder / "steering.csv")}
    assert list(rows) == ["plain", "weighted", "best_of", "tilted", "guided", "search", "training rows"]
    assert float(rows["best_of"]["mean reward"]) > float(rows["plain"]["mean reward"])
    assert float(rows["weighted"]["mean reward"]) > float(rows["plain"]["mean reward"])
    with np.load(folder / "steering.npz") as file:
        assert file["tilted_x"].shape[0] == 64 and np.isfinite(file["weighted_log_w"]).all()
    assert (folder / "steering.png").stat().st_size > 5_000 and "steering.md" in printed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "measure"), [("points", "project:count=1"), ("digits", "mask"), ("digits", "downsample:factor=4")]
)
def test_invert_compares_the_draws_with_what_was_measured(data, measure, request):
    folder = request.getfixturevalue("flow_run" if data == "points" else "digits_run")
    run("invert", folder, f"--measure={measure}", "--num=3", "--draws=8", "--steps=3", "--sigma=0.3")
    ways = ["nearest", "neighbours", "guided", "tilted", *(["edited"] if measure == "mask" else [])]
    rows = table(folder / "inverse.csv")
    assert [row["way"] for row in rows] == ways and float(rows[0]["spread"]) < 1e-6 < float(rows[1]["spread"])
    assert ("agreement" in rows[0]) == (data == "digits") and 0 <= float(rows[0].get("agreement", 0)) <= 1
    with np.load(folder / "inverse.npz") as file:
        assert file["guided"].shape == (3, 8, *file["x0"].shape[1:])
        if measure == "mask":  # what is known was put in
            np.testing.assert_allclose(
                file["edited"][:, :, :4], np.broadcast_to(file["y"][:, None, :4], (3, 8, 4, 8, 1)), atol=1e-5
            )


@pytest.mark.slow
def test_runs_of_stochastic_maps_have_the_ways_of_their_draws(saved_run, tmp_path):
    folder = saved_run(small("meta_flow_map"), tmp_path / "run")
    run("steer", folder, "--reward=axis:number=0,scale=0.5", "--num=64", "--steps=2", "--count=3")
    rows = {row["way"]: row for row in table(folder / "steering.csv")}
    assert list(rows)[6:] == ["transitions", "value", "training rows"]
    assert [rows[way]["calls a sample"] for way in ("transitions", "value")] == ["5", "12"]
    run("invert", folder, "--num=2", "--draws=8", "--steps=3", "--count=3")
    rows = {row["way"]: row for row in table(folder / "inverse.csv")}
    assert list(rows)[2:] == ["guided", "tilted", "value", "transitions", "edited", "inpainted"]
    assert float(rows["edited"]["misfit"]) < 1e-5  # what is seen was put in, and nothing else is measured


@pytest.mark.slow
def test_runs_without_all_jumps_have_fewer_ways_and_adapters_theirs(saved_run, tmp_path):
    consistency = saved_run(small("ect"), tmp_path / "consistency")
    run("invert", consistency, "--num=2", "--draws=4", "--steps=3")
    assert [row["way"] for row in table(consistency / "inverse.csv")] == ["nearest", "neighbours", "edited"]
    said = run("invert", consistency, "--measure=project:count=1", "--num=2", "--draws=4", fails=2)
    assert "ect learns jumps to data; expected a run that learned all jumps" in said
    adapted = saved_run(small("variational_flow_map"), tmp_path / "adapted")
    run("invert", adapted, "--num=2", "--draws=4", "--steps=3")
    assert [row["way"] for row in table(adapted / "inverse.csv")][2:] == ["guided", "tilted", "adapted", "edited"]


@pytest.mark.slow
def test_invert_interpolates_and_edits(digits_run):
    run("invert", digits_run, "--interpolate", "--num=3", "--steps=4")
    with np.load(digits_run / "interpolation.npz") as file:
        assert file["from_left_to_right"].shape == (3, 9, 8, 8, 1)
    run("invert", digits_run, "--edit=3", "--num=3", "--steps=4")
    with np.load(digits_run / "editing.npz") as file:
        assert file["as_class_3"].shape == file["before"].shape == (3, 1, 8, 8, 1)


@pytest.mark.slow
def test_likelihood_of_points_and_images(flow_run, digits_run):
    run("likelihood", flow_run, "--num=64", "--samples=32", "--steps=8")
    rows = table(flow_run / "likelihood.csv")
    assert [row["rows"] for row in rows] == [
        "held-out data",
        "samples in 1, under their sampler",
        "samples in 4, under their sampler",
    ]
    assert abs(float(rows[0]["true log p"]) + np.log(8)) < 1e-6
    run("likelihood", digits_run, "--num=16", "--steps=4", "--divergence=hutch++", "--solver=adaptive:rtol=1e-2")
    assert 0 < float(table(digits_run / "likelihood.csv")[0]["bits per dimension"]) < 20
