"""Images of your own: folders and arrays, ADM's crop, the split, and what cannot be read."""

import numpy as np
import pytest
from PIL import Image

from flowjax import data, typing
from flowjax.data import image_files


def picture(path, value=0, size=(6, 4), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode in ("L", "P") else (value,) * len(mode)).save(path, **options)


@pytest.fixture
def classes(tmp_path):
    """20 images in two classes, the number of each in its pixels; some are grey, JPEG, in deeper folders, or hidden."""
    for i in range(20):
        name = ("b", "a")[i % 2]
        place = tmp_path / name / ("deeper" if i == 4 else "") / f"{i:02}.{('png', 'JPEG')[i == 7]}"
        picture(place, i, mode="L" if i == 3 else "RGB")
    picture(tmp_path / "a" / "._00.png", 200)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    return tmp_path


def numbers(source):
    return source.rows(np.arange(source.size))["x"][:, 0, 0, 0].tolist()


def test_classes_order_and_split_of_a_folder(classes):
    train, test = (data.load(f"folder:{classes}", split=split) for split in ("train", "test"))
    assert (train.size, test.size, train.shape, train.num_classes, train.levels) == (18, 2, (4, 6, 3), 2, 256)
    # a: the odd ones in order. b: the even ones, of which 04 lies in "deeper", behind the digits.
    order = [*range(1, 20, 2), *[i for i in range(0, 20, 2) if i != 4], 4]
    assert numbers(train) == order[:9] + order[10:19] and numbers(test) == [order[9], order[19]]
    assert train.rows(np.array([0, 9]))["label"].tolist() == [0, 1]
    batch = next(data.batches(train, batch_size=8, seed=0, flip=True))
    assert batch["x"].shape == (8, 4, 6, 3) and batch["x"].min() >= -1 and set(batch) == {"x", "label"}


def test_a_folder_without_classes_with_splits_read_on_demand(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "IN_MEMORY", 0)
    for split, count in (("train", 3), ("test", 2)):
        for i in range(count):
            picture(tmp_path / split / f"{i}.png", i + 10 * (split == "test"))
    train, test = (data.load(f"folder:{tmp_path}", split=split) for split in ("train", "test"))
    assert (numbers(train), numbers(test), train.num_classes) == ([0, 1, 2], [10, 11], 0)
    assert set(train.rows(np.arange(2))) == {"x"}
    picture(tmp_path / "train" / "1.png", size=(5, 4))
    with pytest.raises(typing.InputError, match="1.png has 5 x 4 pixels, and .*0.png has 6 x 4; .*folder:PATH,size=64"):
        numbers(train)
    assert data.load(f"folder:{tmp_path},size=3").shape == (3, 3, 3)


def test_the_crop_is_that_of_adm():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (37, 50, 3), np.uint8)
    cropped = np.asarray(image_files.centre_crop(Image.fromarray(pixels), 8), np.float64)
    # By hand: halved twice by the means of 2 x 2 pixels, 25 x 18 and 12 x 9; the shorter side to 8, the longer to round(12 * 8 / 9) = 11.
    half = Image.fromarray(pixels).resize((25, 18), Image.Resampling.BOX).resize((12, 9), Image.Resampling.BOX)
    whole = np.asarray(half.resize((11, 8), Image.Resampling.BICUBIC), np.float64)
    np.testing.assert_array_equal(cropped, whole[:, 1:9])
    even = rng.integers(0, 256, (8, 16, 3), np.uint8)  # only halved and cut
    means = even.reshape(4, 2, 8, 2, 3).mean((1, 3))[:, 2:6]
    assert np.abs(np.asarray(image_files.centre_crop(Image.fromarray(even), 4)) - means).max() <= 1.01  # each axis is rounded
    assert image_files.centre_crop(Image.new("RGB", (3, 5)), 8).size == (8, 8)  # small ones grow


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_arrays_of_a_file(tmp_path, dtype):
    x = np.arange(20).reshape(20, 1, 1, 1) + np.zeros((20, 2, 3, 1))
    np.savez(tmp_path / "a.npz", x=x.astype(dtype), label=np.arange(20) % 4)
    train, test = (data.load(f"npz:{tmp_path}/a.npz", split=split) for split in ("train", "test"))
    assert (train.size, test.size, train.shape, train.num_classes) == (18, 2, (2, 3, 1), 4)
    assert numbers(test) == [9, 19] and test.rows(np.arange(2))["label"].tolist() == [1, 3]
    assert train.rows(np.arange(2))["x"].dtype == (np.uint8 if dtype == np.uint8 else np.float32)
    np.savez(tmp_path / "b.npz", train=x[:3].astype(dtype), test=x[3:5].astype(dtype))
    assert numbers(data.load(f"npz:{tmp_path}/b.npz", split="test")) == [3, 4]
    assert data.load(f"npz:{tmp_path}/b.npz").num_classes == 0


def broken(folder):
    """{name of a data set: part of the sentence that refuses it}"""
    for i in range(10):
        picture(folder / "cut" / f"{i}.png", size=(40, 40))
        picture(folder / "few" / f"{i}.png") if i else None
        picture(folder / "loose" / "a" / f"{i}.png")
        picture(folder / "liar" / f"{i}.png", format="GIF" if i == 2 else "PNG")
    cut = (folder / "cut" / "3.png").read_bytes()
    (folder / "cut" / "3.png").write_bytes(cut[: len(cut) // 2])
    picture(folder / "loose" / "x.png")
    (folder / "empty").mkdir()
    picture(folder / "other" / "train" / "a" / "0.png"), picture(folder / "other" / "test" / "b" / "0.png")
    images = np.zeros((10, 2, 2, 1))
    np.savez(folder / "flat.npz", x=images[..., 0, 0])
    np.savez(folder / "nan.npz", x=images + np.nan)
    np.savez(folder / "label.npz", x=images, label=np.zeros(9, int))
    np.savez(folder / "half.npz", train=images)
    np.savez(folder / "object.npz", x=np.array([None]))
    np.savez(folder / "short.npz", x=images[:9])
    return {
        "folder:missing": "missing does not exist",
        "folder:empty": "there is no image, .png",
        "folder:cut": "3.png .*truncated",
        "folder:few": "has 9 images, and every tenth is held out",
        "folder:loose": "x.png lies beside the folders of the classes",
        "folder:liar": "2.png .*cannot identify image",
        "folder:flat.npz": "it is no folder",
        "folder:few,size=0": "a whole number of pixels from 1 to 4096",
        "folder:few,size=x": "a whole number of pixels from 1 to 4096",
        "npz:missing": "missing does not exist",
        "npz:flat.npz": r"its 'x' has shape \(10, 2\)",
        "npz:nan.npz": "not finite",
        "npz:label.npz": r"its 'label' has shape \(9,\)",
        "npz:half.npz": "no array 'test'",
        "npz:object.npz": "Python objects",
        "npz:short.npz": "has 9 images",
        "npz:cut/0.png": "is damaged or something else",
    }


def test_what_cannot_be_read_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, message in broken(tmp_path).items():
        with pytest.raises(typing.InputError, match=message) as caught:
            data.load(name)
        assert "\n" not in str(caught.value), name
    with pytest.raises(typing.InputError, match="'b' is no folder of"):
        data.load("folder:other", split="test")
    with pytest.raises(typing.InputError, match="unknown split"):
        data.load("folder:other", split="all")
