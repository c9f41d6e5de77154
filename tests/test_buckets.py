"""gs:// and s3://: what is read and written there, what is kept of it, and how failures end."""

import json
import os
import pathlib
import threading

import jax
import numpy as np
import pytest
from bucket_folders import mounted
from PIL import Image
from support import small

from flowjax import buckets, data, folders, foreign, opening, ownership, training, typing
from flowjax.autoencoders import files, kl, kl_names
from flowjax.data import couplings, image_files, pipeline
from flowjax.evals import features, protocols
from flowjax.evaluation import generation, image_scores, image_streams
from flowjax.preparation import images as preparation_images, latents
from flowjax.training import checkpoint, loading, workdir

SCHEMES = ("gs", "s3")
EXPECTED = "the file of a test"


@pytest.fixture
def storage(tmp_path, monkeypatch):
    with mounted(tmp_path, monkeypatch) as kind:
        yield kind


def test_paths_of_this_machine_are_pathlibs():
    for where in ("runs/a", "/tmp/a", pathlib.Path("runs/a"), "s3", "gs:a"):
        assert buckets.path(where) == pathlib.Path(where) and type(buckets.path(where)) is type(pathlib.Path())
        assert buckets.local(where) is where and not buckets.is_remote(where)


def test_addresses_are_told_apart(storage):
    for where in ("gs://bucket/run", "gs:/bucket/run", "gcs://bucket/run", pathlib.Path("gs://bucket/run")):
        assert str(buckets.path(where)) == "gs://bucket/run"
    assert str(buckets.path("s3a://bucket/run") / "a.npz") == "s3://bucket/run/a.npz"
    with pytest.raises(typing.InputError, match=r"^--workdir=gs:// names no bucket; expected gs://BUCKET/FOLDER"):
        buckets.path("gs://", "--workdir")
    with pytest.raises(typing.InputError, match=r"^az://bucket/run is no folder or file of this machine, nor in a bucket"):
        buckets.path("az://bucket/run")


def test_a_missing_package_is_named(monkeypatch):
    def missing(scheme):
        raise ImportError("Install s3fs")

    monkeypatch.setattr(buckets, "_filesystem", missing)
    with pytest.raises(
        typing.InputError, match=r"^--output=s3://b/a needs the package s3fs .*pip install 'flowjax-flowmaps\[buckets\]'"
    ):
        folders.check_path("s3://b/a", "--output")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_files_are_written_whole_and_read(scheme, storage):
    place = buckets.path(f"{scheme}://bucket/some/folder")
    assert not place.exists() and not place.is_dir() and not list(place.glob("*"))
    folders.claim(place, {"count": 3}, flag="--output", contents="numbers")
    with pytest.raises(typing.InputError, match=r"folder holds other numbers \(count: 3 there, 4 now\)"):
        folders.claim(place, {"count": 4}, flag="--output", contents="numbers")
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    folders.write_npz(place / "a.npz", x=x)
    foreign.write(place / "w.safetensors", {"x": x})
    with folders.replacing(place / "a.npy") as part:
        with open(part, "wb") as file:
            np.save(file, x)
        assert not (place / "a.npy").exists()
    assert np.array_equal(opening.npz(place / "a.npz", EXPECTED)["x"], x)
    assert np.array_equal(opening.npy(place / "a.npy", EXPECTED), x)
    for name in ("a.npz", "w.safetensors"):
        assert np.array_equal(foreign.read(str(place / name))["x"], x)
    assert sorted(entry.name for entry in place.iterdir()) == ["a.npy", "a.npz", "about.json", "w.safetensors"]
    assert place.is_dir() and (place / "a.npy").is_file() and [entry.name for entry in place.glob("*.npz")] == ["a.npz"]
    with pytest.raises(typing.InputError, match="is not empty and holds no config.json"):
        folders.check_free(place, "config.json", "--workdir")
    place.rename(buckets.path(f"{scheme}://bucket/moved"))
    assert len(buckets.path(f"{scheme}://bucket/moved").files()) == 4


def test_a_copy_is_kept_as_long_as_the_object_is_the_same(storage, tmp_path):
    place = buckets.path("gs://bucket/a.npz")
    folders.write_npz(place, x=np.zeros(3))
    first = buckets.local(place)
    assert buckets.local(place) == first and pathlib.Path(first).parents[1] == tmp_path / "cache"
    folders.write_npz(place, x=np.zeros(4))
    assert buckets.local(place) != first and opening.npz(place, EXPECTED)["x"].shape == (4,)
    assert not [entry for entry in (tmp_path / "cache").iterdir() if entry.name.startswith(".")]


@pytest.mark.parametrize("name", ["../../outside", "/outside", "a/../../outside"])
def test_names_of_objects_do_not_lead_out_of_the_copies(storage, monkeypatch, tmp_path, name):
    buckets.path("gs://bucket/folder/a.png").write_bytes(b"1")
    monkeypatch.setattr(buckets.BucketPath, "files", lambda self: {"a.png": {"size": 1}, name: {"size": 1}})
    with pytest.raises(typing.InputError, match="leads elsewhere as one of a file"):
        data.load("folder:gs://bucket/folder")
    assert not (tmp_path / "cache").exists()


def test_addresses_do_not_lead_out_of_the_copies(storage, tmp_path):
    buckets.path("gs://bucket/x/a.npz").write_bytes(b"1")
    with pytest.raises(OSError, match="leads elsewhere|No such object"):
        buckets.local("gs://bucket/x/..")
    assert not (tmp_path / "cache").exists()
    with pytest.raises(typing.InputError, match="names no bucket"):
        buckets.path("gs:///x")


def test_failures_are_one_sentence_with_what_to_type(storage):
    def read():
        return opening.json_object("gs://bucket/a.json", EXPECTED)

    with pytest.raises(typing.InputError, match="^gs://bucket/a.json does not exist; expected the file of a test"):
        read()
    with pytest.raises(OSError, match="the bucket other does not exist: aws s3 mb s3://other"):
        folders.write_text(buckets.path("s3://other/a"), "")
    with pytest.raises(
        typing.InputError, match="^--workdir=gs://other/run cannot be written: the bucket other does not exist: gcloud"
    ):
        ownership.owned("gs://other/run").__enter__()
    for failure, sentence in (
        (
            PermissionError("403"),
            r"the storage denies access to the bucket bucket \(403\): gcloud auth application-default login",
        ),
        (RuntimeError("no credentials"), r"the storage does not answer \(no credentials\): gcloud auth"),
        (ConnectionError("no route"), r"the storage does not answer \(no route\): check the network"),
    ):
        storage.failing = failure
        with pytest.raises(typing.InputError, match=f"a.json cannot be read \\({sentence}"):
            read()
        with pytest.raises(typing.InputError, match=f"^--workdir=gs://bucket/run: {sentence}"):
            folders.check_path("gs://bucket/run", "--workdir")
        with pytest.raises(OSError, match=sentence):  # and not: there is nothing
            buckets.exists("gs://bucket/run")


def test_a_folder_in_a_bucket_has_one_owner(storage, monkeypatch):
    monkeypatch.setattr(ownership, "_SETTLED", 0.0)
    monkeypatch.setattr(ownership, "BUCKET_BEAT", 0.05)
    where = "gs://bucket/run"
    with ownership.owned(where) as owner:
        for ask in (lambda: ownership.owned(where).__enter__(), lambda: ownership.check_free(where)):
            with pytest.raises(
                typing.InputError, match=rf"belongs to process {os.getpid()} on .*, which still runs; wait for it"
            ):
                ask()
        owner.check()
    assert not buckets.exists(f"{where}/{ownership.FILE}")
    ownership.check_free(where)


def test_an_owner_elsewhere_is_watched_until_it_is_silent(storage, monkeypatch, capsys):
    monkeypatch.setattr(ownership, "_SETTLED", 0.0)
    monkeypatch.setattr(ownership, "BUCKET_BEAT", 0.05)
    monkeypatch.setattr(ownership, "BUCKET_STALE", 0.6)
    file = buckets.path("gs://bucket/run") / ownership.FILE
    about = {"host": "far", "pid": 7, "machine": "another", "token": "x", "started": "2026-01-01", "command": "train"}
    file.write_bytes(json.dumps({**about, "beats": 1}).encode())
    beat = threading.Timer(0.2, lambda: file.write_bytes(json.dumps({**about, "beats": 2}).encode()))
    beat.start()
    with pytest.raises(typing.InputError, match="belongs to process 7 on far, .* which still runs"):
        ownership.owned("gs://bucket/run").__enter__()
    beat.join()
    with ownership.owned("gs://bucket/run") as owner:
        assert "waiting to see whether it lives" in capsys.readouterr().err
        file.write_bytes(json.dumps(about).encode())
        with pytest.raises(typing.InputError, match="was taken over by process 7 on far"):
            owner.check()
    assert json.loads(file.read_bytes()) == about  # it is another's


def test_a_spool_sends_what_has_changed_and_keeps_it_while_the_bucket_does_not_answer(storage):
    place = buckets.path("gs://bucket/run")
    folders.write_text(place / "lines", "1\n")
    spool = buckets.Spool(place, fetch=("lines", "none"))
    with open(spool.folder / "lines", "a") as file:
        file.write("2\n")
    storage.failing = ConnectionError("no route")
    assert "no route" in spool.send()
    storage.failing = None
    assert not spool.send() and (place / "lines").read_text() == "1\n2\n"
    (place / "lines").unlink()
    assert not spool.send() and not (place / "lines").exists()  # nothing new
    spool.close()
    assert not spool.folder.exists()


def test_data_are_read_from_a_bucket(storage):
    place = buckets.path("s3://bucket/data")
    x = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)
    folders.write_npz(place / "images.npz", x=x)
    for number, image in enumerate(x):
        with folders.replacing(place / "folder" / f"{number % 2}" / f"{number:02d}.png") as part:
            Image.fromarray(image).save(part, "PNG")
    of_file, of_folder = data.load("npz:s3://bucket/data/images.npz"), data.load("folder:s3://bucket/data/folder")
    assert (of_file.size, of_folder.size, of_folder.num_classes) == (18, 18, 2)
    assert of_folder.name == "folder:s3://bucket/data/folder"
    assert {row.tobytes() for row in of_folder.rows(np.arange(18))["x"]} <= {row.tobytes() for row in x}
    assert len(image_files.every("s3://bucket/data/folder,size=4")[0]) == 20
    with pytest.raises(typing.InputError, match="^s3://bucket/nothing does not exist; expected a folder"):
        data.load("folder:s3://bucket/nothing")


@pytest.mark.slow
def test_samples_are_written_into_a_bucket_and_read(storage, flow_run):
    options = {"num": 20, "shard": 8, "sampler": "euler", "steps": 1}
    written = generation.write(flow_run, "s3://bucket/samples", **options)
    x, label = generation.read("s3://bucket/samples")
    assert len(x) == 20 and len(written) == 3
    written[1].unlink()
    with pytest.raises(typing.InputError, match="lacks shard_00001.npz"):
        generation.read("s3://bucket/samples")
    generation.write(flow_run, "s3://bucket/samples", **options)
    assert np.array_equal(generation.read("s3://bucket/samples")[0], x)


@pytest.mark.slow
def test_scores_and_references_are_kept_in_a_bucket(storage):
    x = np.random.default_rng(0).integers(0, 256, (40, 3, 2, 3), np.uint8)
    folders.write_npz(buckets.path("gs://bucket/x.npz"), arr_0=x)
    pixels, images = features.of_protocol("pixels"), image_streams.of_files("gs://bucket/x.npz")
    path = image_scores.write_reference(images, pixels, "gs://bucket/reference", batch=8)
    known = protocols.read("gs://bucket/reference/reference.safetensors", "pixels")
    assert str(path) == "gs://bucket/reference/reference.safetensors"
    options = {"measures": ("fid", "precision"), "reference": known, "reference_images": images, "batch": 8}
    found = image_scores.score(images, pixels, "s3://bucket/scores", **options)
    assert abs(found[0].value) < 1e-6 and found[1].value == 1
    assert json.loads(buckets.path("s3://bucket/scores/scores.json").read_text())["scores"][0]["value"] == found[0].value


@pytest.mark.slow
def test_latents_are_written_into_a_bucket_and_trained_on(storage):
    sizes, rng = kl.KLSizes(widths=(4, 8), blocks=1, latent=2, groups=2), np.random.default_rng(0)
    arrays = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, (_, shape) in kl_names.expected(sizes).items()}
    turned = {name: array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T for name, array in arrays.items()}
    files.write("s3://bucket/autoencoder", kl_names.weights(turned, sizes), sizes)
    loaded = files.read("s3://bucket/autoencoder")
    for number in range(11):
        with folders.replacing(buckets.path(f"gs://bucket/images/{number % 2}/{number:02d}.png")) as part:
            Image.fromarray(rng.integers(0, 256, (8, 9, 3), np.uint8)).save(part, "PNG")
    pictures = preparation_images.open_images("folder:gs://bucket/images")
    latents.write(pictures, "gs://bucket/latents", loaded, size=8, shard=4, batch=2)
    source = data.load("latents:gs://bucket/latents")
    assert (source.size, source.num_classes, source.shape) == (11, 2, (4, 4, 2))
    assert np.isfinite(source.rows(np.arange(11))["x"]).all()


def test_trajectories_are_read_from_a_bucket_and_written_to_disks(storage, tmp_path):
    about = {"count": 4, "times": [1.0, 0.0], "shape": [2], "num_classes": 0}
    parts = lambda start: (np.ones((4, 2, 2), np.float32), np.zeros(4, np.int32))
    with pytest.raises(typing.InputError, match="trajectories are written row by row"):
        list(couplings.write("gs://bucket/pairs", about, parts))
    list(couplings.write(tmp_path / "pairs", about, parts))
    for file in (tmp_path / "pairs").iterdir():
        buckets.path("gs://bucket/pairs").joinpath(file.name).upload(file)
    paired = couplings.trajectories("gs://bucket/pairs", pipeline.Source("points", 4, (2,), 0, None))
    assert paired.size == 4 and paired.coupled


def test_checkpoints_are_not_written_to_s3(storage):
    with pytest.raises(typing.InputError, match=r"^--workdir=s3://bucket/run: checkpoints are written to disks and to gs://"):
        training.train(small(), "s3://bucket/run")
    assert not buckets.exists("s3://bucket/run")


@pytest.mark.slow
def test_a_training_in_a_bucket_is_the_training_on_a_disk(storage, tmp_path, monkeypatch, capsys):
    """Also after a save that was killed, and after a checkpoint that cannot be read."""
    monkeypatch.setattr(ownership, "_SETTLED", 0.0)
    config = small(steps=6, save_every=2, log_every=1)
    where = buckets.path("gs://bucket/run")
    training.train(config, tmp_path / "disk", devices=jax.devices()[:1])
    training.train(config, where, devices=jax.devices()[:1])
    kept = checkpoint.Checkpoints(where, read_only=True).steps()
    assert kept == [4, 6] and not (where / ownership.FILE).exists()
    (where / "checkpoints" / "6" / checkpoint.COMMITTED).unlink()  # as a kill during the save leaves it
    assert checkpoint.Checkpoints(where, read_only=True).steps() == [4]
    training.train(config, where, devices=jax.devices()[:1])
    for file in buckets.path(where / "checkpoints" / "6" / "params.V").files():
        (where / "checkpoints" / "6" / "params.V" / file).write_bytes(b"")
    training.train(config, where, devices=jax.devices()[:1])
    assert "checkpoint gs://bucket/run/checkpoints/6 cannot be read" in capsys.readouterr().out
    here = loading.load(tmp_path / "disk")
    for address in ("gs://bucket/run", "s3://bucket/run"):  # the same folder, as if the run was copied
        there = loading.load(address)
        assert here.step == there.step == 6
        jax.tree.map(np.testing.assert_array_equal, here.params, there.params)
    raw = lambda run: [
        {k: v for k, v in line.items() if k.startswith(("step", "raw/")) and k != "step_ms"}
        for line in workdir.read_metrics(run)
    ]
    assert raw(tmp_path / "disk") == raw(where)
    assert sum("tfevents" in entry.name for entry in where.iterdir()) == 3
