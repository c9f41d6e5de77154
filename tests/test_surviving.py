"""What a training survives, and how it ends when it does not: full disks, broken numbers, recompilation; and what it reports."""

import contextlib
import math
import pathlib
import re
import shutil
import subprocess
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import small

from flowjax import data, evals, ownership, typing
from flowjax.evaluation import generation, trajectories
from flowjax.profiling import flops
from flowjax.training import (
    checkpoint,
    compilation,
    estimates,
    loading,
    log,
    loop,
    progress,
    quiet,
    room,
    runs,
    sharding,
    workdir,
)

ONE = jax.devices()[:1]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 3 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


def disturbed(monkeypatch, before):
    """Calls `before(step)` ahead of each save."""
    save = checkpoint.Checkpoints.save

    def disturbed_save(self, step, *given):
        self.wait()
        before(step)
        save(self, step, *given)

    monkeypatch.setattr(checkpoint.Checkpoints, "save", disturbed_save)


def fill(folder):
    with open(folder / "filler", "wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(4096))
            except OSError:
                return


# What orbax's own threads meet, they print.
ORBAX = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.mark.slow
@pytest.mark.parametrize("noticed", ["before", pytest.param("while writing", marks=ORBAX)])
def test_a_full_disk_costs_checkpoints_and_nothing_else(small_disk, tmp_path, monkeypatch, capsys, noticed):
    config = small(steps=20, keep=1)
    folder = small_disk / "run"
    if noticed == "while writing":
        config.update({"eval_every": 4, "eval_samples": 16, "eval_steps": (1,)})
        monkeypatch.setattr(checkpoint.Checkpoints, "_check_room", lambda self, state: None)
    change = {8: lambda: fill(small_disk), 16: (small_disk / "filler").unlink}
    disturbed(monkeypatch, lambda step: change.get(step, int)())
    state = loop.train(config, folder, devices=ONE)
    printed = capsys.readouterr().out
    for step in (8, 12):
        assert f"the checkpoint of step {step} could not be saved" in printed
    assert printed.count("the last good one is that of step 4") == 2 and printed.count("could not be saved") == 2
    if noticed == "while writing":
        assert "lines follow later" in printed and "step_0000012.png could not be written" in printed
    assert checkpoint.Checkpoints(folder, read_only=True).steps() == [20]
    assert not list((folder / "checkpoints").glob("*tmp*"))
    assert [line["step"] for line in workdir.read_metrics(folder) if "loss" in line] == list(range(2, 21, 2))  # none is lost
    monkeypatch.undo()
    chex.assert_trees_all_equal(jax.device_get(state), jax.device_get(loop.train(config, tmp_path / "other", devices=ONE)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "file"),
    [
        (lambda run, out: generation.write(run, out, num=500_000, shard=100_000), "shard_0000[12].npz"),
        (lambda run, out: trajectories.write(run, out, num=250_000, steps=1, solver="euler", part=250_000), "trajectory.npy"),
    ],
)
def test_samples_and_trajectories_go_on_when_there_is_room_again(small_disk, flow_run, write, file):
    with pytest.raises(OSError) as caught:
        write(flow_run, small_disk / "out")
    assert re.search(rf"out/{file}$", caught.value.filename) and caught.value.strerror == "No space left on device"
    subprocess.run(["mount", "-o", "remount,size=16m", small_disk], check=True)
    write(flow_run, small_disk / "out")
    assert not [path for path in (small_disk / "out").iterdir() if path.name.startswith(".")]


def test_a_disk_that_can_only_be_read_ends_in_one_sentence(small_disk, monkeypatch, capsys):
    folder = small_disk / "run"
    remount = lambda how: subprocess.run(["mount", "-o", f"remount,{how}", small_disk], check=True)
    monkeypatch.setattr(workdir, "metrics", lambda folder, step: workdir.Metrics(small_disk.parent, step))
    monkeypatch.setattr(ownership, "owned", lambda *_, **__: contextlib.nullcontext())  # no file may be open when it changes
    disturbed(monkeypatch, lambda step: remount("ro") if step == 8 else None)
    with pytest.raises(checkpoint.SaveError, match=r"step 8, the last, could not be saved in .*; make room there"):
        loop.train(small(), folder, devices=ONE)
    printed = capsys.readouterr().out
    assert printed.count("could not be saved") == 1 and "the last good one is that of step 4" in printed
    remount("rw")
    monkeypatch.undo()
    assert int(loop.train(small(), folder, devices=ONE).step) == 8  # goes on from 4
    assert checkpoint.Checkpoints(folder, read_only=True).steps() == [4, 8]


def test_a_save_that_was_given_up_prints_no_traceback():
    printed = []
    hook = quiet._without_writers(printed.append, lambda caught: None)
    for error in (RuntimeError("Event loop is closed"), RuntimeError("of somebody else")):
        hook(types.SimpleNamespace(exc_value=error))
    assert [str(caught.exc_value) for caught in printed] == ["of somebody else"]


def test_a_log_on_a_full_disk_stops_nobody():
    with contextlib.suppress(OSError), open("/dev/full", "w") as full:
        stream = quiet.Lasting(full)
        for _ in range(3):
            print("x" * 10_000, file=stream, flush=True)
        assert not stream.isatty()
    nowhere = quiet.Lasting(None)
    print("lost", file=nowhere, flush=True)
    nowhere.close()


# Steps that are not finite


def broken_source(source, steps, batch_size=32):
    """A source in which some of its batches hold a NaN; the order of seed 0 is not shuffled."""
    order = data.pipeline._order(source.size, 0)
    bad = np.concatenate([order(step * batch_size, 1)[0] for step in steps])
    rows = lambda ids: {"x": np.where(np.isin(ids, bad)[:, None], np.nan, source.rows(ids)["x"]).astype(np.float32)}
    return source._replace(rows=rows)


@pytest.mark.slow
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(tmp_path, monkeypatch):
    load = data.load
    monkeypatch.setattr(data, "load", lambda name, **how: broken_source(load(name, **how), [2, 5]))
    config = small(max_nonfinite_steps=2)
    run = runs.setup(config, devices=ONE)
    step, state = jax.jit(run.step), run.init()
    batches = loop._batches(run, 0)
    for number in range(4):
        before = state
        state, result = step(state, sharding.global_batch(run.mesh, next(batches)))
        same = jax.tree.map(lambda a, b: bool((a == b).all()), before.params, state.params)
        assert all(jax.tree.leaves(same)) == (number == 2)
    assert int(state.step) == 4 and int(state.skipped) == int(result["nonfinite_steps"]) == 1
    final = loop.train(config, tmp_path, devices=ONE)
    assert int(final.skipped) == 2 and int(final.step) == 8
    chex.assert_tree_all_finite(final.params)
    records = workdir.read_metrics(tmp_path)
    assert [record["nonfinite_steps"] for record in records] == [0, 1, 2, 2]
    assert all(record["loss"] is not None for record in records)  # means over the steps that were taken


@pytest.mark.slow
def test_one_more_step_that_is_not_finite_ends_the_training(tmp_path, monkeypatch):
    load = data.load
    monkeypatch.setattr(data, "load", lambda name, **how: broken_source(load(name, **how), [1, 5]))
    with pytest.raises(
        log.NonFiniteError,
        match=r"term (anchor|eulerian) is not finite at step 6, after 1 skipped .*max_nonfinite_steps=2 goes past it.*/4\.$",
    ):
        loop.train(small(max_nonfinite_steps=1), tmp_path, devices=ONE)
    assert checkpoint.Checkpoints(tmp_path, read_only=True).steps() == [4]
    with pytest.raises(log.NonFiniteError):  # no way around by starting again
        loop.train(small(max_nonfinite_steps=1), tmp_path, devices=ONE)
    with pytest.raises(typing.InputError, match="has skipped 1 steps .*: --config.max_nonfinite_steps=1 goes on"):
        loop.train(small(), tmp_path, devices=ONE)
    assert int(loop.train(small(max_nonfinite_steps=2), tmp_path, devices=ONE).step) == 8  # but by allowing more


# The best checkpoint


@pytest.mark.slow
def test_the_best_checkpoint_stays_and_can_be_chosen(tmp_path, monkeypatch):
    worth = iter([0.5, 0.1, 0.9, 0.8])
    monkeypatch.setattr(evals.Judge, "values", lambda *_: {"sliced_wasserstein": next(worth)})
    config = small(
        steps=16, eval_every=4, save_every=100, keep=1, eval_steps=(2,), eval_samples=8, best="2step/sliced_wasserstein"
    )
    loop.train(config, tmp_path, devices=ONE)
    kept = checkpoint.Checkpoints(tmp_path, read_only=True)
    assert kept.steps() == [8, 16] and kept.best() == 8
    assert loading.load(tmp_path).step == 16
    assert loading.load(tmp_path, step="best").step == loading.load(tmp_path, step="8").step == 8
    with pytest.raises(typing.InputError, match="--checkpoint=9: .* has the checkpoints 8, 16; it is not there"):
        loading.load(tmp_path, step="9")


def test_the_measures_of_a_training_have_their_names():
    points, images = np.random.default_rng(0).random((8, 2)), np.random.default_rng(0).random((8, 4, 4, 1))
    for rows, names in (
        (points, ("sliced_wasserstein", "energy_distance")),
        (images, ("frechet_pixels", "precision", "recall")),
    ):
        judge = evals.Judge(rows)
        assert tuple(judge.values(rows, None, judge.names(during_training=True))) == names


def test_more_is_better_for_some_measures():
    assert progress.lower_is_better("1step/recall", {"1step/recall": 0.7}) == -0.7
    assert progress.lower_is_better("4step/frechet_pixels", {"4step/frechet_pixels": 0.7}) == 0.7
    assert math.isnan(progress.lower_is_better("", {"1step/recall": 0.7}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"best": "1step/frechet", "eval_every": 4}, "one of 1step/sliced_wasserstein, 1step/energy_distance"),
        ({"best": "1step/sliced_wasserstein"}, "eval_every is 0"),
        ({"max_nonfinite_steps": -1}, "config.max_nonfinite_steps is -1"),
        ({"accumulate": 0}, "config.accumulate is 0"),
    ],
)
def test_fields_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(typing.InputError, match=message):
        runs.setup(small(**changes), devices=ONE)


def test_asking_for_the_best_of_a_run_without_a_measure(tmp_path):
    loop.train(small(), tmp_path, devices=ONE)
    with pytest.raises(typing.InputError, match="config.best is '', and nothing was measured by it"):
        loading.load(tmp_path, step="best")


# What it knows of itself


@pytest.mark.slow
def test_the_log_splits_the_time_of_a_step(tmp_path, monkeypatch):
    monkeypatch.setattr(log, "PEAK_TFLOPS", {"cpu": 0.1})
    loop.train(small(), tmp_path, devices=ONE)
    records = workdir.read_metrics(tmp_path)
    run = runs.setup(small(), devices=ONE)
    counted = flops.matmul(run.step, run.like, run.batch_like)
    for record in records:
        assert record["step_ms"] == pytest.approx(record["data_ms"] + record["compute_ms"] + record["host_ms"])
        assert min(record[f"{what}_ms"] for what in ("data", "compute", "host")) >= 0
        assert (record["paused_s"] > 0) == (record["step"] == 6)  # the save of step 4
        assert record["examples_per_s"] == pytest.approx(32 / (1e-3 * record["step_ms"]))
        assert record["utilisation"] == pytest.approx(counted / (1e-3 * record["step_ms"] * 1e11))
    assert records[0]["compile_s"] > 0 and "compile_s" not in records[1]
    assert records[0]["program_gib"] == compilation.device_bytes(compilation.compiled(run)) / 2**30
    assert "memory_gib" not in records[0]  # a CPU does not say


def test_memory_is_that_of_the_fullest_device(monkeypatch):
    class Device:
        def __init__(self, **stats):
            self.memory_stats = lambda: stats

    monkeypatch.setattr(
        jax, "local_devices", lambda: [Device(peak_bytes_in_use=2**30), Device(peak_bytes_in_use=2**31), Device()]
    )
    assert log.memory_gib() == 2.0


def test_peaks_are_those_of_the_longest_name():
    kind = lambda name: type("Device", (), {"device_kind": name})()
    assert log.peak_flops(kind("TPU v5 lite")) == 197e12 and log.peak_flops(kind("TPU v5p")) == 459e12
    assert log.peak_flops(kind("NVIDIA H100 80GB HBM3")) == 989e12 and log.peak_flops(kind("cpu")) is None


def test_a_program_that_compiles_anew_is_an_error(tmp_path, monkeypatch):
    place = sharding.global_batch
    again = lambda *given: jax.tree.map(jax.jit(lambda x: x + 0), place(*given))
    monkeypatch.setattr(sharding, "global_batch", again)
    with pytest.raises(log.RecompilationError, match="step 3 compiled 1 program"):
        loop.train(small(), tmp_path, devices=ONE)


def test_nothing_is_sent_to_the_device_in_a_step(tmp_path, monkeypatch):
    monkeypatch.setattr(sharding, "global_batch", lambda mesh, local, seeds=1: local)  # rows that are still on the host
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        loop.train(small(), tmp_path, devices=ONE)


def test_the_step_compiles_once(tmp_path):
    with log.Compilations() as seen:
        run = runs.setup(small(), devices=ONE)
        state, before = run.init(), seen.count
        (step,) = compilation.compiled(run).values()
        assert seen.count == before + 1 and seen.seconds > 0
        for _ in range(3):
            batch = sharding.global_batch(run.mesh, {"x": np.zeros((32, 2), np.float32)})
            with jax.transfer_guard("disallow"):
                state, _ = step(state, batch, run.fixed)
        assert seen.count == before + 1


@pytest.mark.slow
def test_a_profile_is_written(tmp_path, capsys):
    loop.train(small(), tmp_path, devices=ONE, profile=(3, 5))
    traces = list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert traces and "trace written to" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "checkpoints" / "8")
    loop.train(small(), tmp_path, devices=ONE, profile=(3, 5))  # goes on from step 4
    assert "no trace was written: step 3 was not among those of this call" in capsys.readouterr().out


def test_a_dry_run_reports_what_each_device_holds(tmp_path):
    config = small(mesh={"data": 2, "fsdp": 4})
    run = runs.setup(config, devices=jax.devices()[:8])
    report = compilation.report(run)
    assert "mesh: data 2, fsdp 4; 8 cpu device(s) of 1 process(es)" in report
    assert "V/Dense_1/kernel  32 x 32" in report and "8 x 32" in report
    held = sharding.device_bytes(run.like.opt_state)
    assert f"opt_state: {held:,} of " in report
    for kind in ("all-gather", "reduce-scatter", "all-reduce"):
        assert f"{kind}: " in report


def test_the_mesh_slices_no_more_than_the_memory_asks_for(monkeypatch):
    """By the state and the gradients of eight devices, of which half of the memory may be taken."""
    config, devices = small(mesh={"data": -1, "fsdp": 0}), jax.devices()[:8]
    assert runs.setup(config, devices).mesh.shape == {"data": 8, "fsdp": 1}  # CPUs share their memory
    monkeypatch.setitem(log.PEAK_TFLOPS, "cpu", 1.0)
    sizes = {}
    for fsdp in (1, 2, 4, 8):
        sizes[fsdp] = room.held(runs.setup(small(mesh={"data": -1, "fsdp": fsdp}), devices).like)
    assert sizes[1] > sizes[2] > sizes[4] > sizes[8]
    for fsdp, size in sizes.items():
        monkeypatch.setitem(room.MEMORY_GIB, "cpu", 2 * size / 2**30)
        run = runs.setup(config, devices)
        assert run.mesh.shape == {"data": 8 // fsdp, "fsdp": fsdp}
        assert "; fsdp by memory: state and gradients take " in compilation.described(run)[0]
    monkeypatch.setitem(room.MEMORY_GIB, "cpu", sizes[8] / 2**30)  # no mesh leaves half
    assert runs.setup(config, devices).mesh.shape["fsdp"] == 8
    assert runs.setup(small(mesh={"data": 8, "fsdp": 0}), devices).mesh.shape["fsdp"] == 1
    assert "fsdp by memory" not in compilation.described(runs.setup(small(mesh={"data": -1, "fsdp": 2}), devices))[0]


def test_a_sketch_is_the_run_by_shapes_alone():
    """State, batch and FLOPs of a run on eight devices, and of one on 64 that do not exist; a teacher is taken to be there."""
    config = small(mesh={"data": 2, "fsdp": 4})
    run, sketch = runs.setup(config, devices=jax.devices()[:8]), runs.sketch(config, 8)
    shapes = lambda run: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding.spec), (run.like, run.batch_like))
    assert shapes(run) == shapes(sketch) and estimates.held(run) == estimates.held(sketch)
    assert estimates.of_run(run).flops == pytest.approx(compilation.step_flops(run), rel=0.02)
    text = estimates.report(runs.sketch(small("lsd", batch_size=256, teacher=""), 64), chip="NVIDIA H200", utilisation=0.5)
    assert "mesh: data 64, fsdp 1" in text and "50% of its 989 TFLOP/s" in text
    taught = small("cd", teacher="runs/that_is_not_there")
    assert estimates.of_run(runs.sketch(taught, 2)).parameters > 0
    with pytest.raises(typing.InputError, match="unknown chip 'H200'; did you mean NVIDIA H200"):
        estimates.device_hours(1.0, 1, chip="H200")
    with pytest.raises(typing.InputError, match="--utilisation=40: expected a share"):
        estimates.device_hours(1.0, 1, utilisation=40)
    with pytest.raises(typing.InputError, match="whose product is the number of devices, here 6"):
        runs.sketch(config, 6)
    config.model.width = -1
    with pytest.raises(typing.InputError, match="config.model.width is -1; expected a whole number"):
        runs.sketch(config, 8)


@pytest.mark.slow
def test_a_run_goes_on_with_another_mesh_but_not_with_another_rate(tmp_path):
    loop.train(small(), tmp_path, devices=ONE)
    shutil.rmtree(tmp_path / "checkpoints" / "8")
    state = loop.train(small(mesh={"data": 1, "fsdp": 8}, max_nonfinite_steps=3), tmp_path, devices=jax.devices()[:8])
    assert int(state.step) == 8
    changed = small()
    changed.optim.learning_rate = 2e-3
    with pytest.raises(typing.InputError, match="optim.learning_rate"):
        loop.train(changed, tmp_path, devices=ONE)
    assert pathlib.Path(tmp_path / "config.json").exists() and jnp.isfinite(jax.tree.leaves(state.params)[0]).all()
