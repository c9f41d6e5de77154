"""Real processes on loopback: two train as one, stop together, outlive each other's death, and go on from each other's checkpoints."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import chex
import jax
import numpy as np
import pytest
from support import with_sgd

from configs import meanflow
from flowjax import typing
from flowjax.evaluation import generation
from flowjax.training import checkpoint, hosts, loop, runs, sharding, workdir

ROOT = pathlib.Path(__file__).parents[1]
STEPS = 60
FLAGS = [
    "--config.eval_every=0", "--config.save_every=10", "--config.log_every=5",
    "--config.batch_size=32", "--config.optim.name=sgd", "--config.optim.kwargs={}", "--config.optim.learning_rate=0.1",
]  # fmt: skip


def environment(devices):
    flags = f"--xla_force_host_platform_device_count={devices} {os.environ['XLA_FLAGS']}"
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}


def start(command, log, devices):
    """A process that writes into a file."""
    with log.open("w") as out:
        return subprocess.Popen(command, cwd=ROOT, env=environment(devices), stdout=out, stderr=subprocess.STDOUT)


def config(**changes):
    config = meanflow.get_config("test")
    config.update({"eval_every": 0, "save_every": 10, "log_every": 5, "batch_size": 32, "steps": STEPS, **changes})
    with_sgd(config)
    return config


class Pair:
    """Two processes of one training, with four devices each, as a context that leaves none behind."""

    def __init__(self, folder, *flags, of_each=((), ()), config="configs/meanflow.py:test", script="train"):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            where = [f"--coordinator=127.0.0.1:{free.getsockname()[1]}", "--processes=2"]
        self.logs = [folder.with_name(f"{folder.name}_{number}.log") for number in (0, 1)]
        command = [
            sys.executable,
            "-m",
            f"experiments.{script}",
            f"--config={config}",
            *FLAGS,
            *flags,
            *where,
            f"--workdir={folder}",
        ]
        own = [[*command, *flags, f"--process={number}"] for number, flags in enumerate(of_each)]
        self.processes = [start(words, log, 4) for words, log in zip(own, self.logs)]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for process in self.processes:
            process.kill()
            process.wait()

    def finish(self, seconds=600):
        """Exit statuses and outputs of both."""
        statuses = [process.wait(timeout=seconds) for process in self.processes]
        return statuses, [log.read_text().replace("\r", "\n") for log in self.logs]

    def until(self, folder, lines):
        """Waits until so many lines are logged."""
        path, deadline = folder / "metrics.jsonl", time.monotonic() + 600
        while not path.exists() or len(path.read_text().splitlines()) < lines:
            assert time.monotonic() < deadline and all(p.poll() is None for p in self.processes), self.logs[0].read_text()
            time.sleep(0.02)


def last(folder, steps=STEPS):
    run = runs.setup(config(), devices=jax.devices()[:1])
    state, step = checkpoint.Checkpoints(folder, read_only=True).restore(run.like)
    assert step == steps
    return jax.device_get(state)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of a run of two processes, and what they print."""
    folder = tmp_path_factory.mktemp("hosts") / "undisturbed"
    with Pair(folder, f"--config.steps={STEPS}", "--config.mesh.data=4", "--config.mesh.fsdp=2") as pair:
        statuses, outputs = pair.finish()
    assert statuses == [0, 0], outputs
    return folder, outputs


@pytest.mark.slow
def test_two_processes_train_as_one(undisturbed, tmp_path):
    folder, outputs = undisturbed
    one = jax.device_get(loop.train(config(), tmp_path / "one", devices=jax.devices()[:8]))
    chex.assert_trees_all_close(one, last(folder), atol=1e-6, rtol=0)
    assert f"{STEPS} of {STEPS} steps done" in outputs[0]
    assert "steps done" not in outputs[1] and "step/s" not in outputs[1]  # process 0 alone speaks
    records = workdir.read_metrics(folder)
    assert [record["step"] for record in records] == list(range(5, STEPS + 1, 5))


@pytest.mark.slow
def test_a_signal_to_one_stops_all(undisturbed, tmp_path):
    """SIGTERM to the process that does not speak; without it they would take 10,000 steps."""
    folder = tmp_path / "stopped"
    with Pair(folder, "--config.steps=10000") as pair:
        pair.until(folder, 3)
        pair.processes[1].send_signal(signal.SIGTERM)
        statuses, outputs = pair.finish()
    assert statuses == [0, 0], outputs
    (stopped,) = {int(step) for output in outputs for step in re.findall(r"after step (\d+); saved", output)}
    assert "stopped by a signal to another process" in outputs[0] and "stopped" not in outputs[1]
    assert max(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit()) == stopped


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_death_ends_the_other_and_both_go_on(undisturbed, tmp_path, victim):
    folder = tmp_path / "killed"
    flags = [f"--config.steps={STEPS}", "--config.mesh.data=4", "--config.mesh.fsdp=2"]
    with Pair(folder, *flags) as pair:
        pair.until(folder, 5)
        pair.processes[victim].kill()
        killed = time.monotonic()
        status = pair.processes[1 - victim].wait(timeout=60)
        assert status != 0 and time.monotonic() - killed < 60
    assert max(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit()) < STEPS
    with Pair(folder, *flags) as pair:
        statuses, outputs = pair.finish()
    assert statuses == [0, 0], outputs
    chex.assert_trees_all_equal(last(folder), last(undisturbed[0]))


@pytest.mark.slow
def test_one_process_goes_on_where_two_were_and_the_other_way_round(undisturbed, tmp_path):
    """The same examples and draws in the same order, or the parameters would differ."""
    folder = tmp_path / "moved"
    with Pair(folder, f"--config.steps={STEPS}") as pair:
        pair.until(folder, 4)
        pair.processes[0].send_signal(signal.SIGINT)
        pair.finish()
    loop.train(config(), folder, devices=jax.devices()[:4])
    chex.assert_trees_all_close(last(folder), last(undisturbed[0]), atol=1e-6, rtol=0)

    other = tmp_path / "other"
    begun = loop.train(config(save_every=20), other, devices=jax.devices()[:2])
    assert int(begun.step) == STEPS
    for path in (other / "checkpoints").iterdir():
        if path.name != "40":
            path.rename(path.with_name(f"{path.name}.gone"))
    with Pair(other, f"--config.steps={STEPS}", "--config.save_every=20") as pair:
        statuses, outputs = pair.finish()
    assert statuses == [0, 0], outputs
    chex.assert_trees_all_close(last(other), last(undisturbed[0]), atol=1e-6, rtol=0)


@pytest.mark.slow
def test_two_processes_measure_keep_the_best_and_generate(tmp_path):
    folder, more = tmp_path / "run", tmp_path / "more"
    best = "1step/sliced_wasserstein"
    flags = ["--config.eval_every=20", f"--config.best={best}", "--config.keep=1", "--config.eval_samples=64"]
    with Pair(folder, *flags, "--config.steps=60", "--config.mesh.fsdp=4") as pair:
        statuses, outputs = pair.finish()
    assert statuses == [0, 0], outputs
    measured = {record["step"]: record[best] for record in workdir.read_metrics(folder) if best in record}
    assert set(measured) == {20, 40, 60}
    kept = checkpoint.Checkpoints(folder, read_only=True)
    assert kept.best() == min(measured, key=measured.get) and set(kept.steps()) == {60, kept.best()}
    # A student that starts from it and asks it, in two processes.
    student = [f"--config.teacher={folder}", "--config.start=teacher", "--config.steps=5"]
    with Pair(more, *student, config="configs/method.py:emd,test") as pair:
        statuses, outputs = pair.finish()
    assert statuses == [0, 0], outputs
    for number, out in ((1, tmp_path / "alone"), (2, tmp_path / "together")):
        launch = ["-m", "experiments.launch", f"--processes={number}", "--", "generate"]
        command = [sys.executable, *launch, f"--workdir={folder}", "--num=50", "--shard=16", f"--output={out}"]
        assert start(command, tmp_path / "log", 1).wait(timeout=600) == 0, (tmp_path / "log").read_text()
    for one, other in zip(generation.read(tmp_path / "alone"), generation.read(tmp_path / "together"), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.slow
def test_a_mistake_in_one_process_ends_all(tmp_path):
    """One sentence and status 2 from the one that made it; the launcher names it."""
    with Pair(tmp_path / "run", "--config.steps=20", of_each=(["--config.batch_size=32"], ["--config.batch_size=33"])) as pair:
        assert pair.processes[1].wait(timeout=60) == 2
        assert pair.processes[0].wait(timeout=60) != 0
    assert pair.logs[1].read_text().strip().splitlines()[-1].startswith("error: batch_size is 33")
    assert not (tmp_path / "run").exists()


def test_an_agreement_of_several_comes_later(monkeypatch):
    """As if there were two processes: what one was told is known to all LAG calls later, at the same call."""
    agreed = hosts.Agreement(sharding.make_mesh(), block=True)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    flags = [False, True, False, False, False, False]
    answers = [agreed(flag) for flag in flags]
    assert answers == [False] * hosts.LAG + flags[: len(flags) - hosts.LAG]


@pytest.mark.slow
def test_the_launcher_names_the_process_that_died(tmp_path):
    folder, log = tmp_path / "run", tmp_path / "log"
    command = [sys.executable, "-m", "experiments.launch", "--processes=2", "--", "train", "--config=configs/meanflow.py:test"]
    launcher = start([*command, *FLAGS, "--config.steps=10000", f"--workdir={folder}"], log, 1)
    try:
        metrics, deadline = folder / "metrics.jsonl", time.monotonic() + 600
        while not metrics.exists() or not metrics.read_text():
            assert time.monotonic() < deadline and launcher.poll() is None, log.read_text()
            time.sleep(0.05)
        children = pathlib.Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
        os.kill(int(children[1]), signal.SIGKILL)
        assert launcher.wait(timeout=30) == 128 + signal.SIGKILL
    finally:
        launcher.kill()
    message = log.read_text().strip().splitlines()[-1]
    assert message.startswith("error: process 1 of 2 was killed by SIGKILL; the others cannot go on without it")
    assert all(not pathlib.Path(f"/proc/{child}").exists() for child in children)


@pytest.mark.parametrize(
    "given", [("10.0.0.1", 2, 0), ("10.0.0.1:8476", 2, 2), ("10.0.0.1:8476", 0, -1), ("10.0.0.1:port", 2, 0), ("", 2, 0)]
)
def test_processes_that_do_not_fit_together(given):
    with pytest.raises(typing.InputError, match="--coordinator=10.0.0.1:8476 --processes=2 --process=0"):
        hosts.initialize(*given)


def test_the_environment_gives_the_number_of_processes(monkeypatch):
    asked = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **given: asked.append(given))
    monkeypatch.setattr(jax.config, "update", lambda *setting: None)
    hosts.initialize()
    assert not asked  # a laptop
    timeouts = {"heartbeat_timeout_seconds": hosts.HEARTBEAT, "shutdown_timeout_seconds": hosts.HEARTBEAT}
    several = {
        "SLURM_STEP_NUM_TASKS": "4",
        "OMPI_COMM_WORLD_SIZE": "2",
        "TPU_WORKER_HOSTNAMES": "a,b",
        "MEGASCALE_NUM_SLICES": "2",
    }
    for name, value in several.items():
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            hosts.initialize()
        assert asked.pop() == timeouts  # JAX finds the rest
        with monkeypatch.context() as patch:
            patch.setenv(name, "1" if value.isdigit() else "a")
            hosts.initialize()
        assert not asked
    with monkeypatch.context() as patch:
        for name, value in zip(hosts.VARIABLES, ("10.0.0.1:8476", "4", "3")):
            patch.setenv(name, value)
        hosts.initialize()
    assert asked.pop() == {"coordinator_address": "10.0.0.1:8476", "num_processes": 4, "process_id": 3, **timeouts}
    hosts.initialize(distributed=True)
    assert asked.pop() == timeouts
    assert np.isclose(hosts.broadcast(0.25), 0.25) and hosts.is_main()  # alone, one agrees with oneself


def test_reading_a_config_touches_no_device():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = f"""
import jax
from configs import method, network
from experiments import three_players
from flowjax import methods
for name in methods.METHODS:
    method.get_config(name + ",test")
network.get_config("imf,mit"), three_players.get_config("test")
jax.distributed.initialize("127.0.0.1:{port}", 1, 0)  # refuses to work after a computation
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(1), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
