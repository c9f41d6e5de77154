"""The landscape run: its table, its costs, a method that fails, kills."""

import csv
import os
import pathlib
import random
import subprocess
import sys
import time

import numpy as np
import pictures
import pytest
from absl import flags

from experiments import landscape
from flowjax import methods, plots, training, typing

ROOT = pathlib.Path(__file__).parents[1]


def run(folder, methods, **changes):
    """The script in this process; returns the rows of its table by method."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["landscape"])
    chosen = {"data": "test", "seeds": 2, "steps": 4, "methods": methods, "workdir": str(folder), **changes}
    before = {name: flags.FLAGS[name].value for name in chosen}
    try:  # absl's flagsaver would forget the flags that grain defines meanwhile, pytest's monkeypatch these
        for name, value in chosen.items():
            flags.FLAGS[name].value = value
        landscape.main()
    finally:
        for name, value in before.items():
            flags.FLAGS[name].value = value
    return rows(folder)


def rows(folder):
    return {row["method"]: row for row in csv.DictReader((folder / "landscape.csv").read_text().splitlines())}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small run in which soflow's loss is not finite."""
    folder, train = tmp_path_factory.mktemp("landscape"), training.train

    def failing(config, workdir):
        if config.method.name == "soflow":
            raise training.NonFiniteError("the term eulerian is not finite at step 3; training stopped.")
        return train(config, workdir)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train", failing)
        run(folder, ["soflow", "freeflow", "ct"])
    return folder


@pytest.mark.slow
def test_every_method_has_a_row_with_the_reason_if_it_failed(finished):
    result = rows(finished)
    assert list(result) == ["flow_matching", "freeflow", "ct", "soflow"]  # the teacher is trained though it was not asked for
    failed = result.pop("soflow")
    assert failed["failed"] == "the term eulerian is not finite at step 3; training stopped."
    assert not any(value for name, value in failed.items() if "step" in name or "FPE" in name)
    for name, row in result.items():
        assert not row["failed"]
        shown = [n for n in (1, 2, 4, 8, 64) if row[f"{n} step{'s' if n > 1 else ''}"]]
        assert shown == {"flow_matching": [1, 2, 4, 8, 64], "freeflow": [1]}.get(name, [1, 2, 4, 8])
        assert 0 < float(row["1 step, deviation"]) < float(row["1 step"])
    text = (finished / "landscape.md").read_text()
    assert (
        "soflow" in text
        and "not finite at step 3" in text
        and "the floor" in text
        and "python -m experiments.landscape" in text
    )
    assert pictures.inked(finished / "landscape.png") > 0.3
    pictures.assert_colours(finished / "distance_against_cost.png", plots.canvas.BLUE, plots.canvas.RED)
    times = list(csv.DictReader((finished / "wall_time.csv").read_text().splitlines()))
    assert [row["method"] for row in times] == ["flow_matching", "freeflow", "ct"]
    assert all(float(row["ms a step, all seeds"]) > 0 for row in times)


@pytest.mark.slow
def test_the_cost_of_a_training_has_the_teachers_in_it(finished):
    result = rows(finished)
    number = lambda method, column: float(result[method][column])
    own, whole = "training, thousand FPE", "with its teacher"
    for name in ("flow_matching", "freeflow", "ct"):
        np.testing.assert_allclose(number(name, own), number(name, "FPE a step") * 4 / 1e3)
    # On an MLP the first layer has no gradient of its input: a little less than forward and twice that.
    assert 2.7 < number("flow_matching", "FPE a step") < 3 < number("ct", "FPE a step") < 4 < number("freeflow", "FPE a step")
    assert number("ct", whole) == number("ct", own)
    np.testing.assert_allclose(number("freeflow", whole) - number("freeflow", own), number("flow_matching", own))
    # Trajectories: Heun's method evaluates twice in each of 64 steps; 65,536 are 64 batches of 1,024. A map's teacher is psd.
    plan = {name: landscape.config_of(name, finished) for name in ("flow_matching", "psd", "cmt", "pfmm")}
    walked = landscape.costs({name: {"FPE": 4.0} for name in plan}, plan)[1]
    assert walked == {"flow_matching": 12e3, "psd": 12e3, "cmt": 24e3 + 2 * 64 * 64, "pfmm": 24e3}


@pytest.mark.slow
def test_a_second_call_trains_and_measures_nothing_anew(finished, monkeypatch):
    before, measured = (finished / "landscape.csv").read_bytes(), finished / "freeflow" / "measured.json"
    stamp = measured.stat().st_mtime_ns
    run(finished, ["freeflow", "ct"])
    assert measured.stat().st_mtime_ns == stamp
    assert [line for line in before.splitlines() if b"soflow" not in line] == (
        finished / "landscape.csv"
    ).read_bytes().splitlines()


@pytest.mark.slow
def test_a_teacher_that_cannot_be_measured_stops_no_student(finished, monkeypatch):
    whole = landscape.measured

    def failing(name, *args):
        if name == "flow_matching":
            raise KeyError("lost")
        return whole(name, *args)

    monkeypatch.setattr(landscape, "measured", failing)
    result = run(finished, ["freeflow", "ct"])
    assert (
        result["flow_matching"]["failed"] == "KeyError: 'lost'"
        and "KeyError" in (finished / "flow_matching.failure.txt").read_text()
    )
    assert result["freeflow"]["1 step"] and not result["freeflow"]["with its teacher"] and result["ct"]["with its teacher"]


@pytest.mark.parametrize(
    ("methods", "changes", "message"),
    [
        ([], {}, "--methods= is empty"),
        (["meanflw"], {}, "unknown method 'meanflw'; did you mean meanflow"),
        (["meanflow"], {"data": "checkerbord"}, "checkerbord"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_trained(tmp_path, methods, changes, message):
    with pytest.raises(typing.InputError, match=message):
        run(tmp_path, methods, **changes)
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_other_steps_in_a_folder_that_is_begun(finished):
    with pytest.raises(typing.InputError, match="ct belongs to a run with another config .*; steps: 4 there, 5 now"):
        run(finished, ["ct"], steps=5)


def command(folder):
    chosen = ["--data=test", "--seeds=2", "--steps=300", "--methods=flow_matching,meanflow", f"--workdir={folder}"]
    return [sys.executable, "-m", "experiments.landscape", *chosen]


@pytest.mark.slow
def test_killed_twice_at_random_it_ends_with_the_same_table(tmp_path):
    subprocess.run(command(tmp_path / "undisturbed"), cwd=ROOT, check=True, capture_output=True)
    draw = random.Random(os.urandom(8))
    for method in ("flow_matching", "meanflow"):  # killed soon after this one began, so that there is work left
        process = subprocess.Popen(command(tmp_path / "killed"), cwd=ROOT, stderr=subprocess.DEVNULL)
        while not (tmp_path / "killed" / method).exists():
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.05)
        time.sleep(draw.uniform(0, 2))
        assert process.poll() is None, "it ended before it was killed"
        process.kill()
        process.wait()
    subprocess.run(command(tmp_path / "killed"), cwd=ROOT, check=True, capture_output=True)
    undisturbed, killed = ((tmp_path / name / "landscape.csv").read_bytes() for name in ("undisturbed", "killed"))
    assert undisturbed == killed and b"meanflow" in killed


# The results in docs

DOCS = ROOT / "docs"
DIGITS = ["flow_matching", "meanflow", "imf", "tvm", "soflow", "shortcut", "lsd", "ayf_emd", "cd", "freeflow"]


def committed(name):
    return {row["method"]: row for row in csv.DictReader((DOCS / f"landscape_{name}.csv").read_text().splitlines())}


def test_the_committed_landscape_is_whole_and_its_claims_hold():
    board, page = committed("checkerboard"), " ".join((DOCS / "methods" / "index.md").read_text().split())
    flat = {name for name, info in methods.METHODS.items() if info.recipe.__module__ != "flowjax.methods.riemannian"}
    assert set(board) == flat and not any(row["failed"] for row in board.values())
    ratio = {name: float(row["1 step over flow matching's"]) for name, row in board.items() if row["1 step"]}
    table = [name for name, info in methods.METHODS.items() if info.source_fpe is not None and name != "flow_matching"]
    assert len(table) == 21
    half = sum(ratio[name] <= 0.5 for name in table)
    worst = max(table, key=ratio.get)
    assert half >= 17
    assert f"{half} of the 21 rows of the survey's table" in page
    assert f"`{worst}`, at {ratio[worst]:.2f}" in page
    assert all(float(row["1 step, deviation"]) > 0 for row in board.values() if row["1 step"])
    euler = [float(board["flow_matching"][f"{n} step{'s' if n > 1 else ''}"]) for n in (1, 2, 4, 8, 64)]
    assert euler == sorted(euler, reverse=True)
    for name in ("checkerboard", "digits"):
        about = (DOCS / f"landscape_{name}.md").read_text().splitlines()[0]
        assert (
            f"python -m experiments.landscape --data={name}" in about
            and "2026-" in about
            and "jax 0." in about
            and "cores" in about
        )
        assert all((DOCS / f"landscape_{name}{end}").exists() for end in (".png", "_cost.png", "_wall_time.csv"))
    assert set(committed("digits")) == set(DIGITS)
