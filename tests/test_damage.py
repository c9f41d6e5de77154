"""Runs with damaged files: one sentence, an older checkpoint, or the same content; never a traceback and never other weights."""

import json
import os
import random
import re
import shutil
import time
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import typing
from flowjax.training import checkpoint, loading, runs, workdir
from tests.support import small

ONE = jax.devices()[:1]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(folder of a run with three checkpoints, its config, its Run, {step: State})."""
    folder, config = tmp_path_factory.mktemp("saved") / "run", small("shortcut")
    run = runs.setup(config, devices=ONE)
    workdir.claim(folder, config, run.source)
    first, states = run.init(), {}
    with checkpoint.Checkpoints(folder, keep=3) as checkpoints:
        for step in (1, 2, 3):
            states[step] = jax.tree.map(lambda leaf, step=step: leaf + jnp.asarray(step, leaf.dtype), first)
            checkpoints.save(step, states[step])
    return folder, config, run, jax.device_get(states)


def same(tree, other):
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True))


def damage(folder, rng):
    """Damages one file or folder below `folder`, most often of the newest checkpoint; returns what was done."""
    entries = sorted(path for path in folder.rglob("*") if path != folder / "checkpoints")
    newest = [path for path in entries if "3" in path.parts]
    path = rng.choice(newest if rng.random() < 0.8 else entries)
    how = rng.choice(["cut", "flip", "burst", "longer", "swapped", "missing", "a folder", "a dangling link", "a file"])
    if path.is_dir() or how in ("missing", "a folder", "a dangling link", "a file"):
        (shutil.rmtree if path.is_dir() else os.unlink)(path)
        {
            "a folder": path.mkdir,
            "a dangling link": lambda: path.symlink_to("/nowhere"),
            "a file": lambda: path.write_text("x"),
        }.get(how, int)()
        return how, path
    content = bytearray(path.read_bytes())
    place = rng.randrange(len(content))
    if how == "cut":
        del content[place:]
    elif how == "flip":
        content[place] ^= 1 << rng.randrange(8)
    elif how == "burst":
        content[place : place + 50] = rng.randbytes(50)
    elif how == "longer":
        content += rng.randbytes(20)
    else:
        other = rng.choice([entry for entry in entries if entry.is_file()])
        content, there = other.read_bytes(), content
        other.write_bytes(there)
    path.write_bytes(content)
    return how, path


def opened(folder, config, run, states):
    """Loads, resumes and saves; asserts that what was read is what was saved. Returns what happened in words."""
    told = []
    try:
        trained = loading.load(folder)
        assert same(trained.params, states[trained.step].averages["0.999"])
        told.append(f"loaded {trained.step}")
    except typing.InputError as error:
        assert "\n" not in str(error)
        told.append("refused")
    try:
        workdir.check(folder, config)
        with checkpoint.Checkpoints(folder, keep=3) as checkpoints:
            found = checkpoints.restore(run.like)
            assert found is None or same(found[0], states[found[1]])
            told.append(f"resumed {found and found[1]}")
            checkpoints.save(3, run.init())
            checkpoints.wait()
            assert checkpoints.unsaved is None and 3 in checkpoints.steps()
    except typing.InputError as error:
        assert "\n" not in str(error)
        told.append("refused")
    return told


@pytest.mark.parametrize("trials", [8, pytest.param(75, marks=pytest.mark.slow)])
def test_damaged_runs(saved, tmp_path, capfd, trials):
    folder, *about = saved
    rng = random.Random(trials)
    for _ in range(trials):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        what = damage(copy, rng)
        if rng.random() < 0.3 and not (copy / "checkpoints" / "3.unreadable").exists():
            (copy / "checkpoints" / "3.unreadable").write_text("of an accident before")
        told = opened(copy, *about)
        printed = "".join(capfd.readouterr())
        assert "Traceback" not in printed and len(printed.splitlines()) <= 8, (what, told, printed)


def test_a_changed_config_is_found_and_a_person_may_change_it(saved, tmp_path):
    folder = shutil.copytree(saved[0], tmp_path / "run")
    text = (folder / "config.json").read_text()
    for name in ("config.json", "data.json"):
        whole = (folder / name).read_text()
        (folder / name).write_text(re.sub(r"\b2\b", "3", whole))
        with pytest.raises(
            typing.InputError, match=r"is not as it was when the run began; restore both, or delete the entry 'checksum'"
        ):
            loading.load(folder)
        (folder / name).write_text(whole)
    facts = json.loads((folder / "data.json").read_text())
    del facts["checksum"]
    (folder / "data.json").write_text(json.dumps(facts))
    (folder / "config.json").write_text(text.replace('"sampler": "flow_map"', '"sampler": "euler"'))
    assert loading.load(folder).settings.evaluation.sampler == "euler"
    for content in ("[]", "{}", "3", '{"model": 3}', "{"):
        (folder / "config.json").write_text(content)
        with pytest.raises(typing.InputError):
            loading.load(folder)


def test_checkpoints_beyond_those_that_are_kept_go_at_the_next_start(saved, tmp_path):
    folder = shutil.copytree(saved[0], tmp_path / "run")
    left = folder / "checkpoints" / "2.orbax-checkpoint-tmp-deleted"
    left.mkdir()
    with checkpoint.Checkpoints(folder, keep=1) as checkpoints:
        assert checkpoints.steps() == [1, 2, 3]  # before the newest was read none is deleted
        checkpoints.restore(saved[2].like)
        assert checkpoints.steps() == [3]
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"3"}


def lines(*steps):
    return "".join(json.dumps({"step": step, "loss": 0.5}) + "\n" for step in steps)


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (lines(1, 2, 3, 4), lines(1, 2)),
        (lines(1, 2) + '{"step": 3, "lo', lines(1, 2)),
        (lines(1, 2) + '{"step": 2}', lines(1, 2)),  # without the end of its line it is not whole
        (lines(1) + "garbage\n[]\n" + lines(2, 5) + "\x00\n", lines(1) + "garbage\n[]\n" + lines(2)),
        (lines(7, 8), ""),
        ("", ""),
        ("x" * 200_000, ""),
    ],
)
def test_lines_after_the_step_are_cut_from_the_end(content, kept, tmp_path):
    (tmp_path / workdir.METRICS).write_text(content)
    with workdir.Metrics(tmp_path, 2) as metrics:
        assert (tmp_path / workdir.METRICS).read_text() == kept
        metrics.write(3, {"loss": 0.25})
    assert workdir.read_metrics(tmp_path)[-1] == {"step": 3, "loss": 0.25}


def test_a_long_file_of_metrics_is_not_read_whole(tmp_path, monkeypatch):
    (tmp_path / workdir.METRICS).write_text(lines(*range(20_000)))
    read = []
    monkeypatch.setattr(workdir, "_record", lambda line, record=workdir._record: read.append(line) or record(line))
    with workdir.Metrics(tmp_path, 19_990):
        assert len(read) == 1  # the lines after the step are known by their beginning
    assert len(workdir.read_metrics(tmp_path)) == 19_991


def test_a_million_lines_of_metrics_do_not_delay_a_resume(tmp_path):
    path = tmp_path / workdir.METRICS
    path.write_bytes(b"".join(b'{"step": %d, "loss": 0.5, "gradient_norm": 1.25}\n' % step for step in range(1_000_000)))
    tracemalloc.start()
    began = time.process_time()
    with workdir.Metrics(tmp_path, 900_000):
        spent, (_, most) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert spent < 5 and most < 2**21, (spent, most)
    with open(path, "rb") as file:
        file.seek(-100, os.SEEK_END)
        assert file.read().endswith(b'{"step": 900000, "loss": 0.5, "gradient_norm": 1.25}\n')


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.symlink_to("/nowhere/at/all")])
def test_no_file_in_the_place_of_metrics(make, tmp_path):
    make(tmp_path / workdir.METRICS)
    with pytest.raises(typing.InputError, match=r"cannot be written|cannot be read|does not exist"):
        workdir.Metrics(tmp_path, 0)
