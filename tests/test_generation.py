"""Many samples in shards: the same on any number of devices and after any kill, whole files, clear errors."""

import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from configs import flow_matching
from flowjax import training, typing
from flowjax.evaluation import generation
from flowjax.training import loading, room, sampling, sharding

ROOT = pathlib.Path(__file__).parents[1]


def contents(folder):
    return {file.name: file.read_bytes() for file in pathlib.Path(folder).iterdir()}


def test_shards_hold_the_samples_in_order(flow_run, tmp_path):
    files = generation.write(flow_run, tmp_path / "out", num=1_100, shard=400, steps=2, seed=3)
    assert [file.name for file in files] == ["shard_00000.npz", "shard_00001.npz", "shard_00002.npz"]
    result, labels = generation.read(tmp_path / "out")
    run = training.load(flow_run)
    expected = sampling.make_sampler(run.net, run.shape, "euler")(run.params, 3, np.full(1_100, -1), 2)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    assert result.shape == (1_100, 2) and result.dtype == np.float32 and (labels == -1).all() and labels.dtype == np.int32
    few, _ = generation.read(tmp_path / "out", limit=500)
    np.testing.assert_array_equal(few, result[:500])


def test_what_is_there_is_kept_and_what_is_missing_is_drawn_again(flow_run, tmp_path, monkeypatch):
    write = lambda: generation.write(flow_run, tmp_path / "out", num=1_100, shard=400, sampler="gamma:gamma=0.4", steps=3)
    write()
    whole = contents(tmp_path / "out")
    (tmp_path / "out" / "shard_00001.npz").unlink()
    (tmp_path / "out" / ".shard_00001.npz.1.2.part").write_bytes(b"half a file")
    drawn, save = [], generation._save
    monkeypatch.setattr(generation, "_save", lambda file, *rest: drawn.append(file.name) or save(file, *rest))
    write()
    assert drawn == ["shard_00001.npz"] and contents(tmp_path / "out") == whole


@pytest.mark.slow
def test_labels_go_on_from_shard_to_shard(digits_run, tmp_path):
    generation.write(digits_run, tmp_path / "out", num=50, shard=16, labels=(3, 1, 4))
    images, labels = generation.read(tmp_path / "out")
    assert labels.tolist() == [3, 1, 4] * 16 + [3, 1] and images.shape == (50, 8, 8, 1)
    run = training.load(digits_run)
    np.testing.assert_allclose(sampling.make_sampler(run.net, run.shape, "euler")(run.params, 0, labels, 1), images, atol=1e-5)


@pytest.mark.slow
def test_images_may_be_whole_numbers(digits_run, tmp_path):
    for dtype in ("float32", "uint8"):
        generation.write(digits_run, tmp_path / dtype, num=20, dtype=dtype)
    exact, _ = generation.read(tmp_path / "float32")
    rounded, _ = generation.read(tmp_path / "uint8")
    np.testing.assert_allclose(rounded, np.clip(exact, -1, 1), atol=0.51 / 127.5)
    assert np.load(tmp_path / "uint8" / "shard_00000.npz")["x"].dtype == np.uint8


def test_eight_devices_draw_what_one_draws(flow_run):
    run, labels = training.load(flow_run), np.full(1_001, -1)
    mesh = sharding.make_mesh()
    assert mesh.devices.size == 8
    one = sampling.make_sampler(run.net, run.shape, "restart")(run.params, 0, labels, 3, first=7)
    eight = sampling.make_sampler(run.net, run.shape, "restart", mesh=mesh)(run.params, 0, labels, 3, first=7)
    np.testing.assert_allclose(eight, one, rtol=1e-4, atol=1e-5)
    later = sampling.make_sampler(run.net, run.shape, "restart")(run.params, 0, labels[:5], 3, first=10)
    np.testing.assert_allclose(later, one[3:8], rtol=1e-4, atol=1e-5)  # sample i depends on its number alone


def test_samples_start_from_what_they_are_given(flow_run):
    run, labels = training.load(flow_run), np.full(9, -1)
    sample = sampling.make_sampler(run.net, run.shape, "heun", grid="karras")
    x = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)
    noise = sample(run.params, 0, labels, 64, x=x, inverted=True)
    np.testing.assert_allclose(sample(run.params, 0, labels, 64, x=noise), x, atol=2e-2)
    assert np.abs(noise - x).max() > 0.1
    with pytest.raises(typing.InputError, match="new noise and cannot be inverted"):
        sampling.make_sampler(run.net, run.shape, "consistency")(run.params, 0, labels, 4, x=x, inverted=True)


BAD = {
    "no samples": ({"num": 0}, "--num=0"),
    "empty shards": ({"shard": -1}, "--shard=-1"),
    "points are no images": ({"dtype": "uint8"}, "uint8 for images"),
    "unknown dtype": ({"dtype": "float16"}, "expected float32, or uint8"),
    "unknown sampler": ({"sampler": "euler2"}, "did you mean euler"),
    "option out of range": ({"sampler": "restart:low=0.9"}, "low < high"),
    "grid of other steps": ({"grid": "1,0.5,0"}, "--steps=2"),
    "labels of points": ({"labels": (1,)}, "no labels"),
    "no such average": ({"average": "0.5"}, "no average '0.5'"),
    "guidance that was not learned": ({"guidance": 2.0}, "without guidance"),
}


def test_mistakes_have_a_sentence_and_write_nothing(flow_run, tmp_path):
    for changes, sentence in BAD.values():
        with pytest.raises(typing.InputError, match=sentence):
            generation.write(flow_run, tmp_path / "out", **changes)
        assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_kept(flow_run, tmp_path):
    generation.write(flow_run, tmp_path / "out", num=10)
    with pytest.raises(typing.InputError, match="other samples .count: 10 there, 11 now.; give another folder"):
        generation.write(flow_run, tmp_path / "out", num=11)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(typing.InputError, match="not empty"):
        generation.write(flow_run, tmp_path / "mine", num=10)
    with pytest.raises(typing.InputError, match="holds no about.json"):
        generation.read(tmp_path / "mine")
    (tmp_path / "out" / "shard_00000.npz").unlink()
    with pytest.raises(typing.InputError, match="lacks shard_00000.npz; the command that began it continues"):
        generation.read(tmp_path / "out")


def killed(command, folder, moments):
    """Runs a command to its end, killing it whenever one more of so many shards has appeared; returns its output."""
    for shards in (*moments, None):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        while shards is not None and len(list(folder.glob("shard_*.npz"))) < shards:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.001)
        if shards is not None:
            process.send_signal(signal.SIGKILL)
        output = process.communicate(timeout=500)[0]
    assert process.returncode == 0, output
    return output


@pytest.mark.slow
def test_killed_the_files_are_the_same(flow_run, tmp_path):
    command = [
        sys.executable,
        "-m",
        "experiments.generate",
        f"--workdir={flow_run}",
        "--num=20000",
        "--shard=1024",
        "--steps=8",
    ]
    output = killed([*command, f"--output={tmp_path / 'killed'}"], tmp_path / "killed", (5,))
    assert "20000 samples" in output
    killed([*command, f"--output={tmp_path / 'undisturbed'}"], tmp_path / "undisturbed", ())
    result, expected = contents(tmp_path / "killed"), contents(tmp_path / "undisturbed")
    assert {name: data for name, data in result.items() if not name.startswith(".")} == expected


def test_other_weights_are_other_samples(flow_run, tmp_path, monkeypatch):
    generation.write(flow_run, tmp_path / "out", num=10)
    load = generation.loading.load
    monkeypatch.setattr(
        generation.loading,
        "load",
        lambda *a, **k: (run := load(*a, **k))._replace(params=jax.tree.map(lambda w: w + 1, run.params)),
    )
    with pytest.raises(typing.InputError, match="weights: .* there, .* now"):
        generation.write(flow_run, tmp_path / "out", num=10)


@pytest.mark.slow
def test_forty_thousand_digits_killed_and_continued(tmp_path, saved_run):
    """A network of the demo's size, killed twice: equal files."""
    run = saved_run(flow_matching.get_config("digits"), tmp_path / "run")
    command = [sys.executable, "-m", "experiments.generate", f"--workdir={run}", "--num=40000"]
    killed([*command, f"--output={tmp_path / 'killed'}"], tmp_path / "killed", (1, 3))
    killed([*command, f"--output={tmp_path / 'undisturbed'}"], tmp_path / "undisturbed", ())
    result = {name: data for name, data in contents(tmp_path / "killed").items() if not name.startswith(".")}
    assert len(result) == 6 and result == contents(tmp_path / "undisturbed")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_samples(digits_run, tmp_path):
    peaks = []
    for num in (20_000, 80_000):
        code = (
            "import resource; from flowjax.evaluation import generation;"
            f" generation.write({str(digits_run)!r}, {str(tmp_path / str(num))!r}, num={num}, shard=2048);"
            " print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        peaks.append(int(output.stdout.split()[-1]))
    assert peaks[1] < 1.1 * peaks[0]


@pytest.mark.parametrize("sampler", ["flow_map", "gamma:gamma=0.4", pytest.param("adaptive", marks=pytest.mark.slow)])
def test_weights_in_slices_sample_as_whole_ones(digits_run, sampler, monkeypatch):
    """Where they fill more than half of a device, each of eight holds an eighth of the blocks, and no program holds all of them."""
    whole = loading.load(digits_run, devices=jax.devices()[:1])
    monkeypatch.setattr(room, "memory_gib", lambda mesh: 2 * 2**-30)  # a byte
    sliced = loading.load(digits_run, devices=jax.devices())
    assert sliced.mesh.shape == {"data": 1, "fsdp": 8}
    largest = max(jax.tree.leaves(sliced.params["blocks"]), key=lambda leaf: leaf.size)
    assert largest.addressable_shards[0].data.size == largest.size / 8
    draws = [run.sampler(sampler, "uniform", {})(run.params, 3, np.arange(16) % 10, 2) for run in (whole, sliced)]
    np.testing.assert_allclose(*draws, atol=2e-5)


def test_every_process_has_a_file_to_write(flow_run, tmp_path):
    assert [generation.samples_in_a_file(50_000, processes) for processes in (1, 5, 7, 64)] == [7_143, 5_000, 7_143, 782]
    first = generation.write(flow_run, tmp_path / "out", num=1_001, shard=251)  # as four processes would
    assert generation.write(flow_run, tmp_path / "out", num=1_001) == first and len(first) == 4
