"""Sources hold what they say, and the stream of batches depends on the seed alone: not on hosts, threads or restarts."""

import io
import itertools
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds
from PIL import Image
from sklearn import datasets as sklearn_datasets

from configs import cifar10
from flowjax import data, evals, typing
from flowjax.data import digits, points, tfds_images, trajectories
from flowjax.training import settings

ROOT = pathlib.Path(__file__).resolve().parents[1]
COUNT = data.Source("count", 10, (1,), 0, lambda ids: {"x": ids[:, None].astype(np.float32)})
POSITIONS = np.arange(7 * 12, dtype=np.uint8)[:, None, None, None] + np.array([0, 100], np.uint8)[None, None, :, None]
IMAGES = data.Source("images", 84, (1, 2, 1), 0, lambda ids: {"x": POSITIONS[ids]})


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("tfds"))


def first(source, count, **settings):
    return list(itertools.islice(data.batches(source, **{"seed": 0, **settings}), count))


def stream(source, count, **settings):
    return np.concatenate([batch["x"] for batch in first(source, count, **settings)])


def sentence(*args, **kwargs):
    with pytest.raises(typing.InputError) as caught:
        data.load(*args, **kwargs)
    return str(caught.value)


@pytest.mark.parametrize("name", points.DENSITIES)
def test_points_have_about_zero_mean_and_unit_deviation(name):
    train, test = data.load(name), data.load(name, split="test")
    assert (train.size, test.size, train.shape, train.num_classes) == (2**18, 2**14, (2,), 0)
    x = data.arrays(train)["x"]
    assert x.shape == (2**18, 2) and x.dtype == np.float32
    np.testing.assert_allclose(x.mean(0), 0, atol=0.02)
    np.testing.assert_allclose(x.std(0), 1.154 if name == "checkerboard" else 1, atol=0.03)
    np.testing.assert_array_equal(x[:100], data.arrays(data.load(name), limit=100)["x"])
    assert not set(map(tuple, x[:1000])) & set(map(tuple, data.arrays(test)["x"]))


def test_checkerboard_lies_on_its_eight_squares():
    x = data.arrays(data.load("checkerboard"))["x"]
    corners, counts = np.unique(np.floor(x).astype(int), axis=0, return_counts=True)
    assert len(corners) == 8 and not np.any(corners.sum(1) % 2) and corners.min() == -2 and corners.max() == 1
    np.testing.assert_allclose(counts / len(x), 1 / 8, atol=0.005)


def test_digits_are_those_of_sklearn(tfds_dir):
    train, test, both = (data.load("digits", split=split, data_dir=tfds_dir) for split in ("train", "test", "train+test"))
    assert (train.size, test.size, both.size) == (1500, 297, 1797)
    assert train.shape == (8, 8, 1) and train.num_classes == 10
    images, labels = sklearn_datasets.load_digits(return_X_y=True)
    expected = sorted((*np.rint(image * 255 / 16), label) for image, label in zip(images, labels, strict=True))
    rows = [source.rows(np.arange(source.size)) for source in (train, test, both)]
    result = [[(*map(float, x.ravel()), label) for x, label in zip(part["x"], part["label"], strict=True)] for part in rows]
    assert sorted(result[0] + result[1]) == sorted(result[2]) == expected
    assert rows[0]["x"].dtype == np.uint8 and rows[0]["label"].dtype == np.int32
    shares = [np.bincount(part["label"]) / len(part["label"]) for part in rows[:2]]
    np.testing.assert_allclose(*shares, atol=0.004)
    x = data.arrays(both)["x"]
    assert x.dtype == np.float32 and x.min() == -1 and x.max() == 1


def test_second_load_does_not_rebuild(tfds_dir, monkeypatch):
    data.load("digits", data_dir=tfds_dir)
    monkeypatch.setattr(digits.Digits, "download_and_prepare", lambda self: pytest.fail("rebuilt"))
    assert data.load("digits", data_dir=tfds_dir).size == 1500


def test_rows_read_by_id_equal_rows_in_memory(tfds_dir, monkeypatch):
    memory = data.load("digits", data_dir=tfds_dir)
    monkeypatch.setattr(tfds_images, "IN_MEMORY", 0)
    disk = data.load("digits", data_dir=tfds_dir)
    for one, other in zip(first(memory, 3, batch_size=64), first(disk, 3, batch_size=64, prefetch=4), strict=True):
        np.testing.assert_array_equal(one["x"], other["x"])
        np.testing.assert_array_equal(one["label"], other["label"])


PREPARE = """
import sys
from flowjax import data
assert "tensorflow_datasets" not in sys.modules and "grain" not in sys.modules and "sklearn" not in sys.modules
print(data.load("digits", data_dir=sys.argv[1]).size)
assert "tensorflow" not in sys.modules
"""
KILLED = """
import os, sys
from flowjax.data import digits
digits.Digits._generate_examples = lambda self, images, labels, ids: os._exit(9)
digits.source(data_dir=sys.argv[1])
"""


@pytest.mark.slow
def test_concurrent_and_killed_preparations(tmp_path):
    def start(script):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-c", script, str(tmp_path)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    killed, *others = [start(script) for script in (KILLED, PREPARE, PREPARE)]
    # Nothing but the number: whoever types the command sees no chatter of TFDS.
    assert [process.communicate(timeout=120) for process in others] == [("1500\n", "")] * 2
    killed.communicate(timeout=120)
    assert killed.returncode in (0, 9)  # 0: it came so late that there was nothing left to write
    assert data.load("digits", data_dir=str(tmp_path)).size == 1500


def test_killed_preparation_is_begun_anew(tmp_path):
    (tmp_path / "digits" / "incomplete.ABCDEF_1.0.0").mkdir(parents=True)
    assert data.load("digits", data_dir=str(tmp_path)).size == 1500


def test_lost_race_is_no_error(tmp_path, monkeypatch):
    prepare = digits.Digits.download_and_prepare

    def overtaken(self):
        prepare(digits.Digits(data_dir=str(tmp_path), file_format="array_record"))
        raise OSError("Directory not empty")

    monkeypatch.setattr(digits.Digits, "download_and_prepare", overtaken)
    assert data.load("digits", data_dir=str(tmp_path)).size == 1500


def test_broken_directory_is_named(tmp_path):
    data.load("digits", data_dir=str(tmp_path))
    version = tmp_path / "digits" / "1.0.0"
    (version / "digits-train.array_record-00000-of-00001").unlink()
    assert f"delete {version}" in sentence("digits", data_dir=str(tmp_path))
    (version / "dataset_info.json").unlink()
    assert f"delete {version}" in sentence("digits", data_dir=str(tmp_path))


@pytest.mark.parametrize("processes", [2, 4])
def test_any_number_of_hosts_reads_the_same_order(processes):
    whole = first(COUNT, 6, batch_size=8)
    parts = [first(COUNT, 6, batch_size=8, process=p, processes=processes) for p in range(processes)]
    for batch, *shares in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(batch["x"], np.concatenate([share["x"] for share in shares]))


@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_start_is_a_skip(prefetch):
    whole = stream(COUNT, 12, batch_size=7)
    np.testing.assert_array_equal(whole[5 * 7 :], stream(COUNT, 7, batch_size=7, start=5, prefetch=prefetch))
    far = first(COUNT, 1, batch_size=10, start=10**9)[0]["x"]
    assert sorted(far.ravel()) == list(range(10))


@pytest.mark.parametrize("batch_size", [4, 10, 35])
def test_every_epoch_is_another_permutation(batch_size):
    epochs = stream(COUNT, -(-120 // batch_size), batch_size=batch_size)[:120].reshape(12, 10)
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(10), (12, 1)))
    assert len(set(map(tuple, epochs))) == 12
    assert not np.array_equal(epochs, stream(COUNT, 12, batch_size=10, seed=1).reshape(12, 10))


def test_flip_depends_on_the_position_alone():
    plain, whole = (stream(IMAGES, 9, batch_size=12, flip=flip)[:, 0, :, 0] for flip in (False, True))
    mirrored = whole[:, 0] > whole[:, 1]
    np.testing.assert_array_equal(np.where(mirrored[:, None], plain[:, ::-1], plain), whole)
    assert 0.3 < mirrored.mean() < 0.7
    resumed = [first(IMAGES, 4, batch_size=12, flip=True, start=5, process=p, processes=3) for p in range(3)]
    shares = np.concatenate([np.concatenate([share["x"] for share in step]) for step in zip(*resumed, strict=True)])
    np.testing.assert_array_equal(shares[:, 0, :, 0], whole[5 * 12 :])
    # The same image is mirrored in some epochs and not in others.
    order = np.argsort(plain[:84, 0])
    assert np.any(mirrored[order][:24] != mirrored[84 : 84 + 24])


def test_even_classes():
    """Each class is as often in an epoch, each of its rows at least once, and mirrored rows are those of the same ids."""
    label = np.array([0, 1, 1, 1, 2, 2, 1], np.int32)
    rows = lambda ids: {"x": ids[:, None].astype(np.float32), "label": label[ids]}
    even = data.even(data.Source("uneven", 7, (1,), 3, rows, mirrored=lambda ids: {"x": -ids}))
    read = even.rows(np.arange(even.size))
    assert even.size == 12 and np.bincount(read["label"]).tolist() == [4, 4, 4]
    assert set(read["x"][:, 0]) == set(range(7)) and np.bincount(read["x"][:, 0].astype(int)).max() == 4
    assert even.mirrored(np.arange(12))["x"].tolist() == (-read["x"][:, 0]).tolist()
    with pytest.raises(typing.InputError, match="config.data.even is True, and line has no classes"):
        data.even(data.Source("line", 7, (1,), 0, rows))
    with pytest.raises(typing.InputError, match="rows without a class"):
        data.even(data.Source("some", 7, (1,), 3, lambda ids: {"label": label[ids] - 1}))
    section = settings.Data("digits", "", False, "", even=True)
    assert section.even and not settings.Data("digits", "", False, "").even


def test_pixels_are_mapped_to_plus_minus_one():
    ramp = data.Source("ramp", 256, (1, 1, 1), 0, lambda ids: {"x": ids.astype(np.uint8).reshape(-1, 1, 1, 1)})
    x = np.sort(stream(ramp, 1, batch_size=256).ravel())
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, np.arange(256) / 127.5 - 1, atol=1e-7)


@pytest.mark.parametrize(
    "wrong, part",
    [
        ({"batch_size": 6, "processes": 4}, "multiple of 4"),
        ({"batch_size": 0}, "multiple of 1"),
        ({"batch_size": 8, "processes": 2, "process": 2}, "0..1"),
        ({"batch_size": 8, "seed": -1}, "negative"),
        ({"batch_size": 8, "start": -1}, "negative"),
        ({"batch_size": 8, "flip": True}, "flip=False"),
    ],
)
def test_arguments_that_do_not_fit(wrong, part):
    with pytest.raises(typing.InputError, match=part):
        data.batches(COUNT, **{"seed": 0, **wrong})


def test_mocked_mnist_goes_down_the_same_path():
    with tfds.testing.mock_data(num_examples=20, policy=tfds.testing.MockPolicy.USE_CODE):
        source = data.load("mnist")
        batch = first(source, 1, batch_size=6)[0]
    assert source.shape == (28, 28, 1) and source.num_classes == 10 and source.size == 20
    assert batch["x"].shape == (6, 28, 28, 1) and batch["x"].dtype == np.float32
    assert batch["x"].min() >= -1 and batch["x"].max() <= 1 and batch["label"].dtype == np.int32


class PngSquares(tfds.core.GeneratorBasedBuilder):
    """Unlabelled PNG files: what most TFDS image datasets keep on the disk."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(4, 4, 3))})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(5):
            file = io.BytesIO()
            Image.fromarray(np.full((4, 4, 3), 50 * i, np.uint8)).save(file, "png")
            file.seek(0)
            yield i, {"image": file}


def test_presets_of_cifar10_read_it_through_tfds():
    with tfds.testing.mock_data(num_examples=20, policy=tfds.testing.MockPolicy.USE_CODE):
        for choice, inputs in (("meanflow", {"x", "augmentation"}), ("sct", {"x"})):
            section = settings.read(cifar10.get_config(choice)).data
            source = data.prepared(data.of_section(section), **section.preparation)
            batch = next(data.batches(source, batch_size=4, seed=0, flip=section.flip))
            assert set(batch) == inputs and batch["x"].shape == (4, 32, 32, 3)
            assert (source.levels, source.num_classes, data.declared("cifar10").shape) == (256, 0, source.shape)


def test_png_images_are_decoded(tmp_path):
    source = tfds_images.source("png_squares", data_dir=str(tmp_path))
    batch = source.rows(np.arange(5))
    assert source.num_classes == 0 and set(batch) == {"x"} and batch["x"].dtype == np.uint8
    assert sorted(batch["x"][:, 3, 3, 2]) == [0, 50, 100, 150, 200]


def test_missing_network_is_one_sentence(tmp_path, monkeypatch):
    def unreachable(self, url, **kwargs):
        raise requests.exceptions.ConnectionError(f"HTTPSConnectionPool(host='nowhere.org', port=443): {url}")

    monkeypatch.setattr(requests.Session, "get", unreachable)
    message = sentence("mnist", data_dir=str(tmp_path))
    assert f"copy tfds/mnist/3.0.1 to {tmp_path}/mnist/3.0.1" in message and "no connection to nowhere.org" in message
    assert "data.load('mnist', data_dir='tfds')" in message and "\n" not in message


def test_errors_for_unknown_names_list_what_exists(tfds_dir):
    assert "near it: checkerboard" in sentence("checkerbord")
    message = sentence("mnnist", data_dir=tfds_dir)
    assert "mnist" in message and "any TFDS image dataset" in message and "eight_gaussians" in message
    assert "BuilderConfig foo not found" in sentence("cifar10/foo", data_dir=tfds_dir)
    assert "train and test" in sentence("two_moons", split="validation")
    assert "test and train" in sentence("digits", split="validation", data_dir=tfds_dir)
    assert "no rows" in sentence("digits", split="train[:0]", data_dir=tfds_dir)


def test_datasets_without_images_of_one_size(tfds_dir):
    assert "no feature `image`" in sentence("imdb_reviews", data_dir=tfds_dir)
    assert "of one size" in sentence("imagenette", data_dir=tfds_dir)


def test_tensorflow_is_never_imported():
    next(data.batches(COUNT, batch_size=2, seed=0))
    assert "tensorflow" not in sys.modules


@pytest.mark.slow
def test_reflow_pairs_noise_with_what_the_exact_flow_makes_of_it(monkeypatch):
    monkeypatch.setattr(trajectories, "TRAJECTORIES", 2**12)  # all of them take seconds
    source = data.load("checkerboard_pairs")
    batch = next(data.batches(source, batch_size=256, seed=0))
    assert source.coupled and set(batch) == {"x", "eps"} and batch["eps"].dtype == np.float32
    rows = data.arrays(source, limit=4_096)
    assert abs(rows["eps"].mean()) < 0.05 and abs(rows["eps"].std() - 1) < 0.05
    # The flow keeps the order along each axis of a product density roughly: noise and point are close to each other.
    assert np.corrcoef(rows["x"].ravel(), rows["eps"].ravel())[0, 1] > 0.9
    real = data.arrays(data.load("checkerboard", split="test"))["x"]
    assert evals.sliced_wasserstein(rows["x"], real[:4_096]) < 0.1
    held_out = data.load("checkerboard_pairs", split="test")
    assert not held_out.coupled
    np.testing.assert_array_equal(data.arrays(held_out, limit=100)["x"], real[:100])
