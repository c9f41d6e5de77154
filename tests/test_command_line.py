"""The scripts as a person runs them: kills, signals, bad input, and what is written."""

import csv
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pictures
import pytest

from configs import meanflow, method
from flowjax import plots
from flowjax.training import checkpoint, runs

ROOT = pathlib.Path(__file__).parents[1]
SMALL = [
    "--config=configs/meanflow.py:test",
    "--config.eval_every=0",
    "--config.save_every=10",
    "--config.log_every=5",
    "--config.steps=200",
    "--config.batch_size=32",
]

LONG = 1_200  # steps


def start(module, *flags):
    return subprocess.Popen(
        [sys.executable, "-m", f"experiments.{module}", *flags],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(module, *flags):
    process = start(module, *flags)
    return process.communicate(timeout=900)[0], process.returncode


def parameters(folder, steps=200):
    config = meanflow.get_config("test")
    config.update({"eval_every": 0, "save_every": 5, "log_every": 5, "steps": steps, "batch_size": 32})
    run = runs.setup(config, devices=jax.devices()[:1])
    state, step = checkpoint.Checkpoints(folder, read_only=True).restore(run.like)
    assert step == steps
    return jax.device_get(state)


def wait_until(process, condition, seconds=120):
    """Polls fast, so that a save can be met half way; fails if the process ends before."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def half_saved(folder):
    """Checkpoints that are being written, or were when the process died."""
    return {name for name in os.listdir(folder) if "orbax-checkpoint-tmp" in name} if folder.is_dir() else set()


def saved(folder):
    """The newest step that is saved, -1 if there is none."""
    names = os.listdir(folder / "checkpoints") if (folder / "checkpoints").is_dir() else []
    return max((int(name) for name in names if name.isdigit()), default=-1)


def logged(folder):
    path = folder / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.mark.slow
def test_seven_kills_change_nothing(tmp_path):
    """kill -9, SIGTERM and SIGINT at random, in and out of saves; minutes."""
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    flags = [*SMALL, f"--config.steps={LONG}", "--config.log_every=20", "--config.save_every=20"]
    output, code = finish("train", *flags, f"--config.save_every={LONG}", f"--workdir={undisturbed}")
    assert code == 0, output
    rng, how, hits, clean = random.Random(134), {}, 0, 0
    for _ in range(7):
        process = start("train", *flags, f"--workdir={killed}")
        done, old = saved(killed), half_saved(killed / "checkpoints")
        if rng.random() < 0.2:  # while it starts or reads its checkpoint
            time.sleep(10 * rng.random())
            process.kill()
            process.communicate()
            continue
        wait_until(process, lambda done=done: saved(killed) > done)
        number = rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        if rng.random() < 0.5:
            time.sleep(rng.random())
        else:
            wait_until(process, lambda old=old: half_saved(killed / "checkpoints") - old)
        process.send_signal(number)
        output = process.communicate(timeout=300)[0]
        hits += bool(half_saved(killed / "checkpoints") - old)
        clean += "saved. The same command goes on" in output
        how[number] = how.get(number, 0) + 1
        assert saved(killed) < LONG and "Traceback" not in output, output  # it was ended before its end
    assert len(how) == 3 and min(how.values()) > 1 and hits > 0 and clean == how[signal.SIGTERM] + how[signal.SIGINT]
    output, code = finish("train", *flags, f"--workdir={killed}")
    assert code == 0, output
    jax.tree.map(np.testing.assert_array_equal, parameters(undisturbed, LONG), parameters(killed, LONG))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends_cleanly(tmp_path, number):
    process = start("train", *SMALL, "--config.save_every=100000", "--config.steps=100000", f"--workdir={tmp_path / 'run'}")
    wait_until(process, lambda: logged(tmp_path / "run") >= 2)
    process.send_signal(number)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0 and "Traceback" not in output
    assert f"stopped by {number.name} after step" in output
    (step,) = (int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.isdigit())
    assert f"after step {step};" in output


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    flags = ["--config=configs/flow_matching.py:digits", "--config.steps=4", "--config.save_every=2", "--config.eval_every=4"]
    output, code = finish("train", *flags, "--config.batch_size=16", "--config.optim.warmup_steps=1", f"--workdir={folder}")
    assert code == 0, output
    assert json.loads((folder / "config.json").read_text())["method"]["name"] == "flow_matching"
    return folder


@pytest.mark.slow
def test_sampling_needs_the_workdir_alone(digits_run, tmp_path):
    trained = shutil.copytree(digits_run, tmp_path / "run")
    output, code = finish("sample", f"--workdir={trained}", "--steps=1,2", "--labels=0,3,7", "--seed=1", "--num=9", "--nearest")
    assert code == 0, output
    with np.load(trained / "sample.npz", allow_pickle=False) as file:
        assert file["samples_1"].shape == file["samples_2"].shape == (9, 8, 8, 1)
        assert file["labels"].tolist() == [0, 3, 7] * 3
        assert not np.array_equal(file["samples_1"], file["samples_2"])
    assert (trained / "sample_nearest.png").exists() and "to the nearest training row: samples median" in output, output
    with np.load(trained / "sample.npz", allow_pickle=False) as file:
        rows = np.searchsorted([0, 3, 7], file["labels"])
        columns = [(file["samples_1"], rows), (file["samples_2"], rows)]
    pictures.assert_classes(trained / "sample.png", columns, 3, per_class=3)


@pytest.mark.slow
def test_evaluation_needs_the_workdir_alone(trained):
    flags = ["--steps=1", "--ema=none,0.999", "--sampler=flow_map", "--sampler=euler", "--num=100", "--resamples=2"]
    output, code = finish("evaluate", f"--workdir={trained}", *flags, "--measures=frechet,agreement")
    assert code == 0, output
    rows = list(csv.DictReader((trained / "evaluation.csv").read_text().splitlines()))
    assert [row["what"] for row in rows] == ["1 step"] * 4 + ["real, held out", "noise"]
    assert float(rows[0]["frechet error"]) > 0 and 0 <= float(rows[0]["agreement"]) <= 1
    assert "| 1 step | flow_map | none | 100 |" in output and "| 1 step |" in (trained / "evaluation.md").read_text()
    pictures.assert_colours(trained / "evaluation.png", *plots.curves.COLOURS[:4], plots.canvas.RED)


@pytest.mark.slow
def test_generation_writes_shards_that_evaluate_reads(trained, tmp_path):
    out = tmp_path / "samples"
    output, code = finish("generate", f"--workdir={trained}", f"--output={out}", "--num=40", "--shard=16", "--labels=3,7")
    assert code == 0 and "40 samples" in output, output
    assert {path.name for path in out.iterdir()} == {"about.json", *(f"shard_0000{k}.npz" for k in range(3))}
    output, code = finish("evaluate", f"--workdir={trained}", f"--samples={out}", "--measures=agreement", "--resamples=0")
    assert code == 0 and "| 1 step | 40 |" in output, output


@pytest.mark.slow
def test_inversion_goes_to_noise_and_back(trained):
    output, code = finish("sample", f"--workdir={trained}", "--invert", "--sampler=heun", "--steps=8", "--num=20")
    assert code == 0 and "root mean square error of the round trip" in output, output
    with np.load(trained / "inversion.npz", allow_pickle=False) as file:
        assert file["x"].shape == file["noise"].shape == file["back"].shape == (20, 8, 8, 1)
        np.testing.assert_allclose(file["back"], file["x"], atol=0.05)


@pytest.fixture(scope="module")
def trained_points(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "points"
    output, code = finish(
        "train", CONFIG, "--config.data.name=eight_gaussians", "--config.eval_every=10", f"--workdir={folder}"
    )
    assert code == 0, output
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("run", ["trained", "trained_points"])
def test_inspection_draws_everything_and_a_page_that_shows_it(run, request):
    folder = request.getfixturevalue(run)
    output, code = finish("inspect", f"--workdir={folder}", "--rows=4", "--cells=3", "--steps=1,2")
    assert code == 0, output
    out = folder / "inspect"
    names = {"samples.png", "trajectories.png", "velocity.png", "bins.png", "training.png"}
    if run == "trained_points":  # flow matching learns no jumps: it has no rules to break
        names.add("rules.png")
    assert {path.name for path in out.glob("*.png")} == names
    page = (out / "index.html").read_text()
    assert set(re.findall(r'<img src="([^"]+)"', page)) == names
    if run == "trained_points":
        rows = {row["rule"]: row for row in csv.DictReader((out / "rules.csv").read_text().splitlines())}
        assert set(rows) == {"lagrangian", "eulerian", "compositional", "true error"}
        for rule, row in rows.items():  # the page says what the table says
            assert f"{rule} {float(row['trained']):.2g}" in page and float(row["exact flow"]) < float(row["trained"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes", "missing"),
    [
        ("ct", {}, {"trajectories.png", "velocity.png"}),  # jumps to the data alone
        ("pid", {"teacher": "exact"}, {"velocity.png"}),  # jumps from noise alone
        ("pd", {"teacher": "exact"}, {"velocity.png"}),  # neighbours of one grid
        ("meanflow", {"sampler": "gamma:gamma=0.5"}, set()),
        ("meanflow", {"seeds": 2}, set()),
    ],
)
def test_every_kind_of_run_is_inspected(name, changes, missing, tmp_path, saved_run):
    config = method.get_config(f"{name},test")
    config.update(changes)
    folder = saved_run(config, tmp_path / "run") if changes.get("seeds", 1) == 1 else tmp_path / "run"
    if not folder.exists():
        output, code = finish("train", CONFIG, "--config.seeds=2", "--config.eval_every=10", f"--workdir={folder}")
        assert code == 0, output
    output, code = finish("inspect", f"--workdir={folder}", "--rows=4", "--cells=3")
    assert code == 0, output
    names = {"samples.png", "trajectories.png", "velocity.png", "rules.png", "training.png"} - missing
    assert {path.name for path in (folder / "inspect").glob("*.png")} - {"bins.png"} == names
    learned = (
        "jumps to data"
        if name == "ct"
        else "jumps from noise"
        if name == "pid"
        else "jumps between neighbours of a grid"
        if name == "pd"
        else ""
    )
    assert learned in (folder / "inspect" / "index.html").read_text()


CONFIG = "--config=configs/meanflow.py:test"
BAD = {
    "unknown field": ("train", [CONFIG, "--config.optim.learning_rat=1"], "learning_rate"),
    "unknown field without a near one": ("train", [CONFIG, "--config.foo=1"], "no field foo"),
    "unknown constant": ("train", [CONFIG, "--config.method.zzz=1"], "no field zzz"),
    "points do not flip": ("train", [CONFIG, "--config.data.flip=True"], "only images can be flipped"),
    "optimizer that wants more": ("train", [CONFIG, "--config.optim.name=lbfgs", "--config.optim.kwargs={}"], "lbfgs"),
    "wrong type": ("train", [CONFIG, "--config.steps=many"], "steps"),
    "unknown preset": ("train", ["--config=configs/meanflow.py:digit"], "did you mean digits"),
    "no such config": ("train", ["--config=configs/meanflov.py:test"], "meanflov"),
    "unknown method": ("train", [CONFIG, "--config.method.name=meanflo"], "did you mean meanflow"),
    "bad share": ("train", [CONFIG, "--config.method.diagonal=3/2"], "share"),
    "no workdir": ("train", [CONFIG], "--workdir"),
    "no workdir to evaluate": ("evaluate", ["--steps=1"], "does not exist"),
    "not a number": ("evaluate", ["--steps=one"], "--steps=one"),
}


# Each is a process; two of the ways in which an error reaches the command line every time, the others in the slow tests.
@pytest.mark.parametrize("case", [c if i % 8 == 0 else pytest.param(c, marks=pytest.mark.slow) for i, c in enumerate(BAD)])
def test_bad_input_ends_in_one_sentence(case, tmp_path):
    module, flags, message = BAD[case]
    folder = tmp_path / "run"
    output, code = finish(module, *flags, *([] if case == "no workdir" else [f"--workdir={folder}"]))
    assert code != 0 and "Traceback" not in output, output
    assert message in output and not folder.exists(), output
    if output.startswith("error: "):
        assert len(output.strip().splitlines()) == 1, output


@pytest.mark.parametrize(
    "module,flags,message",
    [
        ("sample", ["--labels=10"], "classes 0 to 9"),
        pytest.param("sample", ["--ema=0.5"], "no average '0.5'", marks=pytest.mark.slow),
        pytest.param("sample", ["--sampler=eular"], "did you mean euler", marks=pytest.mark.slow),
        ("train", ["--config=configs/tvm.py:test"], "another config"),
    ],
)
def test_bad_input_leaves_a_workdir_untouched(module, flags, message, digits_run):
    trained = digits_run
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    output, code = finish(module, *flags, f"--workdir={trained}")
    assert code != 0 and "Traceback" not in output and message in output, output
    assert before == {path: path.stat().st_mtime_ns for path in trained.rglob("*")}


@pytest.mark.slow
def test_an_unknown_platform_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "nonsense")
    output, code = finish("train", CONFIG, f"--workdir={tmp_path / 'run'}")
    assert code == 2 and output.startswith("error: JAX finds no such device") and len(output.splitlines()) == 1, output
    assert "JAX_PLATFORMS is 'nonsense', expected cpu, cuda or tpu" in output and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_log_that_cannot_be_written_stops_no_training(tmp_path):
    command = [sys.executable, "-m", "experiments.train", *SMALL, "--config.steps=20", f"--workdir={tmp_path}"]
    with open("/dev/full", "w") as full:
        assert subprocess.run(command, cwd=ROOT, stdout=full, stderr=full).returncode == 0
    assert saved(tmp_path) == 20
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert "Traceback" not in (printed := process.stderr.read()) and "Exception" not in printed, printed


@pytest.mark.slow
def test_a_truncated_newest_checkpoint_costs_one_sentence(tmp_path):
    flags = ["--config=configs/meanflow.py:test", "--config.eval_every=0", "--config.save_every=10", f"--workdir={tmp_path}"]
    assert finish("train", *flags)[1] == 0
    for path in (tmp_path / "checkpoints" / "20").rglob("*"):
        if path.is_file() and path.stat().st_size > 1_000:
            path.write_bytes(path.read_bytes()[:500])
    output, code = finish("train", *flags)
    assert code == 0 and output.count("cannot be read") == 1 and "Traceback" not in output, output
    assert "20 of 20 steps done" in output


@pytest.mark.slow
def test_an_empty_workdir_is_named(tmp_path):
    output, code = finish("evaluate", f"--workdir={tmp_path}")
    assert code != 0 and "holds no config.json" in output and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_demo_ends_by_naming_what_it_wrote(tmp_path):
    output, code = finish("demo", "--preset=test", f"--workdir={tmp_path / 'demo'}")
    assert code == 0, output
    named = [pathlib.Path(line.split(":")[0].strip()) for line in output.split("Wrote:")[1].splitlines() if ":" in line]
    assert [path.name for path in named] == ["samples.png", "training.png", "metrics.jsonl", "20", "summary.md"]
    assert all(path.exists() for path in named)


SMALLEST = ["--depth=1", "--width=16", "--heads=2", "--tokens=6", "--attention=auto", "--batch=4", "--rounds=1"]


def results(folder):
    """What jvp.json holds, after a look at the files beside it."""
    names = {f"jvp_{part}.{ending}" for part in ("cost", "accuracy", "training") for ending in ("csv", "md", "png")}
    assert {path.name for path in folder.iterdir() if path.is_file()} == {
        "jvp.json",
        "attention_cost.csv",
        "attention_cost.md",
    } | names
    for path in folder.glob("*.png"):
        pictures.assert_colours(path, plots.canvas.BLUE)
    return json.loads((folder / "jvp.json").read_text())


@pytest.mark.slow
def test_the_benchmark_of_derivatives_answers_its_questions(tmp_path):
    output, code = finish("benchmark_jvp", *SMALLEST, "--train", "--train_steps=2", "--train_h=0.1", f"--output={tmp_path}")
    assert code == 0, output
    result = results(tmp_path)
    assert [len(result[part]) for part in ("costs", "attention")] == [9, 2] and result["settings"]["width"] == 16
    assert result["answer"] in output and "Exact or finite differences?" in result["answer"]
    assert [row["derivative"] for row in result["training"]] == ["exact", "backward", "central"]
    assert "MeanFlow trained on checkerboard" in result["answer"]


@pytest.mark.slow
def test_the_benchmark_of_methods_goes_on_where_it_was(tmp_path):
    flags = ["--rounds=1", f"--output={tmp_path}"]
    output, code = finish("benchmark_methods", "--methods=flow_matching", *flags)
    assert code == 0 and "| flow_matching | every row | yes |" in output, output
    before = (tmp_path / "method_costs.csv").read_text()
    (tmp_path / "method_costs.png").unlink()
    output, code = finish("benchmark_methods", "--methods=imf", "--batch=32", *flags)
    assert code == 2 and "a table holds one setting" in output and (tmp_path / "method_costs.csv").read_text() == before
    output, code = finish("benchmark_methods", "--methods=flow_matching", "--resume", *flags)
    assert code == 0 and (tmp_path / "method_costs.csv").read_text() == before, output
    pictures.assert_colours(tmp_path / "method_costs.png", plots.canvas.BLUE)


@pytest.mark.slow
def test_the_benchmark_of_methods_tells_the_steps_of_a_cycle_apart(tmp_path):
    flags = ["--modules=experiments.three_players", "--methods=three_players", "--rounds=1", f"--output={tmp_path}"]
    output, code = finish("benchmark_methods", *flags)
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in output.splitlines() if line.startswith("| three_players")
    ]
    split = {row[3]: float(row[6]) for row in rows if row[1:3] == ["as split", "no"]}
    rests, moves = (
        "4 of 5: fake, discriminator (follow, tell_apart)",
        "1 of 5: V, fake, discriminator (push, fool, follow, tell_apart)",
    )
    assert code == 0 and list(split) == ["mean of 5", rests, moves], output
    assert split["mean of 5"] == pytest.approx((4 * split[rests] + split[moves]) / 5, abs=0.01)
    assert split[rests] < split[moves]  # what rests is not computed


@pytest.mark.slow
def test_the_benchmark_of_training_rehearses_on_a_cpu(tmp_path):
    flags = ["--sizes=tiny/4", "--latent=4", "--batch=16", "--steps=2", "--methods=flow_matching", f"--output={tmp_path}"]
    output, code = finish("benchmark_training", *flags)
    assert code == 0 and "| DiT-tiny/4 | flow_matching |" in output, output
    pictures.assert_colours(tmp_path / "training_speed.png", plots.canvas.BLUE)


@pytest.mark.slow
def test_guidance_trains_measures_and_draws(tmp_path):
    output, status = finish(
        "guidance", "--methods=meanflow", "--steps=20", "--scales=1,2", "--resamples=0", f"--workdir={tmp_path}"
    )
    assert status == 0, output
    assert len(list(csv.DictReader((tmp_path / "guidance_digits.csv").read_text().splitlines()))) == 3
    assert "| meanflow | 2 |" in (tmp_path / "guidance_digits.md").read_text()
    pictures.assert_colours(tmp_path / "guidance_digits.png", plots.canvas.BLUE, plots.canvas.INK)
    assert pictures.inked(tmp_path / "guidance_digits_samples.png") > 0.3
    output, status = finish("guidance", "--scales=0.5", f"--workdir={tmp_path}")
    assert status == 2 and "expected at least one method, and scales from 1.0 to 4.0" in output
