"""Data sets that are read from arrays in a folder: every row once, latents drawn anew, one sentence for what is missing."""

import itertools

import numpy as np
import pytest

from flowjax import data, typing
from flowjax.data import stored

LATENTS = stored.Declared((2, 2, 1), 5, 7, "moments", "tiny latents")
MEAN = np.arange(7, dtype=np.float16)[:, None, None, None] + np.zeros((7, 2, 2, 1), np.float16)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two shards of latents whose mean is the number of the row, and whose deviation is 0.5; mirrored ones are 100 more."""
    monkeypatch.setitem(stored.DECLARED, "tiny", LATENTS)
    monkeypatch.setitem(stored.DECLARED, "pixels", stored.Declared((2, 2, 3), 5, 7, "image", "tiny images"))
    for number, (start, end) in enumerate([(0, 3), (3, 7)]):
        part = MEAN[start:end]
        np.save(tmp_path / f"train_label_{number:05d}.npy", np.arange(start, end) % 5)
        np.save(tmp_path / f"train_moments_{number:05d}.npy", np.concatenate([part, 0 * part + 0.5], axis=-1))
        np.save(tmp_path / f"train_mirrored_moments_{number:05d}.npy", np.concatenate([part + 100, 0 * part + 0.5], axis=-1))
        np.save(tmp_path / f"train_image_{number:05d}.npy", np.full((end - start, 2, 2, 3), 10 * number, np.uint8))
    return tmp_path


def drawn(source, count, **settings):
    return list(itertools.islice(data.batches(source, **{"seed": 0, "batch_size": 7, **settings}), count))


def test_rows_of_all_shards_with_their_labels(folder):
    source = stored.source("tiny", data_dir=str(folder))
    assert (source.size, source.shape, source.num_classes, source.moments) == (7, (2, 2, 1), 5, True)
    ids = np.array([6, 0, 3, 2, 3])
    rows = source.rows(ids)
    np.testing.assert_array_equal(rows["x"][:, 0, 0, 0], ids)
    np.testing.assert_array_equal(rows["label"], ids % 5)
    assert rows["label"].dtype == np.int32 and (rows["deviation"] == 0.5).all()
    pixels = stored.source("pixels", data_dir=str(folder))
    assert pixels.rows(ids)["x"].dtype == np.uint8 and not pixels.moments
    np.testing.assert_array_equal(pixels.rows(ids)["x"][:, 0, 0, 0], [10, 0, 10, 0, 10])


def test_latents_are_drawn_anew_and_depend_on_their_position_alone(folder):
    source = stored.source("tiny", data_dir=str(folder))
    batches = drawn(source, 200)
    assert set(batches[0]) == {"x", "label"} and batches[0]["x"].dtype == np.float32
    rest = np.concatenate([batch["x"] - np.rint(batch["x"].mean((1, 2, 3), keepdims=True)) for batch in batches])
    assert np.std(rest) == pytest.approx(0.5, rel=0.06)
    assert not np.array_equal(np.sort(batches[0]["x"], axis=0), np.sort(batches[1]["x"], axis=0))
    shares = [drawn(source, 2, batch_size=6, start=4, process=p, processes=3) for p in range(3)]
    for whole, *parts in zip(drawn(source, 6, batch_size=6)[4:], *shares, strict=True):
        np.testing.assert_array_equal(whole["x"], np.concatenate([part["x"] for part in parts]))
    np.testing.assert_array_equal(data.arrays(source, limit=3)["x"], data.arrays(source)["x"][:3])


def test_mirrored_latents_are_those_of_the_mirrored_images(folder):
    source = stored.source("tiny", data_dir=str(folder))
    x = np.concatenate([batch["x"].mean((1, 2, 3)) for batch in drawn(source, 20, flip=True)])
    assert 0.3 < (x > 50).mean() < 0.7
    for file in folder.glob("*mirrored*"):
        file.unlink()
    with pytest.raises(typing.InputError, match="mirrored latents; put train_mirrored_moments_00000.npy"):
        drawn(stored.source("tiny", data_dir=str(folder)), 1, flip=True)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (
            lambda folder: [file.unlink() for file in folder.glob("*moments*")],
            "holds no train_moments_00000.npy; give the folder",
        ),
        (lambda folder: (folder / "train_label_00001.npy").unlink(), "train_label_00001.npy is missing"),
        (lambda folder: np.save(folder / "train_label_00001.npy", np.arange(3)), "7 rows .* with 6 labels"),
        (
            lambda folder: [np.save(folder / f"train_label_0000{i}.npy", np.zeros(4 - i)) for i in (0, 1)],
            "labels of .* float64",
        ),
        (
            lambda folder: np.save(folder / "train_mirrored_moments_00001.npy", np.zeros((2, 2, 2, 2), np.float16)),
            "5 rows .* mirror",
        ),
        (lambda folder: (folder / "train_moments_00001.npy").write_bytes(b"broken"), "is damaged or something else"),
        (lambda folder: np.save(folder / "train_moments_00000.npy", np.zeros((3, 2, 2, 1))), "rows of another shape or type"),
    ],
)
def test_what_is_wrong_in_a_folder_is_one_sentence(folder, break_it, message):
    break_it(folder)
    with pytest.raises(typing.InputError, match=message) as caught:
        stored.source("tiny", data_dir=str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("label", [5, -2, 1000])
def test_a_label_that_is_no_class_is_not_learned_from(folder, label):
    np.save(folder / "train_label_00001.npy", np.array([0, 1, label, 2]))
    source = stored.source("tiny", data_dir=str(folder))
    for read in (lambda: drawn(source, 1), lambda: data.arrays(source)):
        with pytest.raises(typing.InputError, match=f"^tiny has the classes 0 to 4, and a row with the label {label}; correct"):
            read()


def test_a_missing_folder_says_what_to_type():
    with pytest.raises(typing.InputError, match=r"config\.data\.dir is empty; give .*--config\.data\.dir=FOLDER"):
        data.load("imagenet256_latents")
    with pytest.raises(typing.InputError, match="runs/nothing holds no train_image_00000.npy"):
        data.load("imagenet256", data_dir="runs/nothing")
    with pytest.raises(typing.InputError, match="unknown split of imagenet256 'validation'"):
        data.load("imagenet256", split="validation", data_dir="runs/nothing")


def test_declared_data_have_shapes_and_no_rows():
    source = data.declared("imagenet256_latents")
    assert (source.shape, source.num_classes, source.size) == ((32, 32, 4), 1000, 1_281_167)
    assert data.arrays(source, limit=2)["x"].shape == (2, 32, 32, 4)
    assert data.declared("checkerboard").shape == (2,)  # what declares nothing is loaded


def test_unlabelled_data_have_no_classes(folder):
    source = data.unlabelled(stored.source("tiny", data_dir=str(folder)))
    assert source.num_classes == 0 and set(source.rows(np.arange(2))) == {"x", "deviation"}
    assert set(source.mirrored(np.arange(2))) == {"x", "deviation"}
    assert set(drawn(source, 1, flip=True)[0]) == {"x"}
