"""EDM's augmentation: its probabilities and maps against a reading of the paper's table, and what must stay exactly."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from flowjax import data, typing
from flowjax.data import augmentation

PUBLISHED = "edm:probability=0.12"
MEANFLOW = "edm:probability=0.12,y_flip=0,rotation=0"
ROWS = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3)).astype(np.uint8)
IMAGES = data.Source("images", 24, (8, 8, 3), 0, lambda ids: {"x": ROWS[ids]})
TAPS = augmentation.FILTER


def augmented(source=IMAGES, text=MEANFLOW, **fields):
    return data.prepared(source, augment=text, **fields)


def first(source, count, **settings):
    return list(itertools.islice(data.batches(source, **{"seed": 0, "batch_size": 8, **settings}), count))


def smooth(size=16):
    """Waves of a long period, which any good filter carries over."""
    y, x = np.mgrid[:size, :size] / size
    return np.stack([np.sin(2 * x + 1) + y, np.cos(3 * y - 1) * x], -1).astype(np.float32)


def turned(angle):
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def test_the_filter_is_orthogonal_to_itself_moved_by_two():
    assert TAPS.sum() == pytest.approx(math.sqrt(2))
    products = [float(TAPS[2 * m :] @ TAPS[: len(TAPS) - 2 * m]) for m in range(6)]
    np.testing.assert_allclose(products, [1, 0, 0, 0, 0, 0], atol=1e-12)
    moments = [float(np.sum((-1.0) ** np.arange(12) * np.arange(12.0) ** n * TAPS)) for n in range(4)]
    np.testing.assert_allclose(moments, 0, atol=1e-8)


def reading(u, p, chosen, width, height):
    """Appendix F.2: (flips, map of a point of the image to its place in the result, labels) of one row."""
    normal, angle = stats.norm.ppf, lambda value: math.pi * (2 * value - 1)
    x_flip = u[0] < 1 / 2 and p > 0
    y_flip = "y_flip" in chosen and u[1] < 1 / 2 and u[2] < p
    scale = normal(u[3]) if "scale" in chosen and u[4] < p else 0
    rotation = angle(u[5]) if "rotation" in chosen and u[6] < p else 0
    stretch = normal(u[7]) if "anisotropy" in chosen and u[9] < p else 0
    axis = angle(u[8]) if u[10] < 1 / 2 else 0
    shift = normal(u[11:13]) if "translation" in chosen and u[13] < p else np.zeros(2)
    # From the data to the result: a translation, a stretch along an axis, a rotation, a scaling.
    stretched = turned(-axis) @ np.diag([2 ** (0.2 * stretch), 2 ** (-0.2 * stretch)]) @ turned(axis)
    plane = 2 ** (0.2 * scale) * np.eye(2)
    forward = lambda point: (stretched @ turned(-rotation) @ plane @ point) + shift * [0.125 * width, 0.125 * height]
    labels = [
        x_flip, y_flip, scale, math.cos(rotation) - 1, math.sin(rotation), stretch * math.cos(axis), stretch * math.sin(axis), *shift,
    ]  # fmt: skip
    return (x_flip, y_flip), forward, labels


@pytest.mark.parametrize("text,chosen", [
    (PUBLISHED, {"y_flip", "scale", "rotation", "anisotropy", "translation"}), (MEANFLOW, {"scale", "anisotropy", "translation"}),
])  # fmt: skip
def test_draws_maps_and_labels_are_those_of_the_paper(text, chosen):
    u = np.random.default_rng(1).random((400, augmentation.DRAWS))
    flips, inverses, labels = augmentation.parse(text)._drawn(u, 6, 10)
    corner = np.array([4.5, -2.5])
    for row in range(len(u)):
        (x_flip, y_flip), forward, expected = reading(u[row], 0.12, chosen, 10, 6)
        assert flips[:, row].tolist() == [x_flip, y_flip]
        np.testing.assert_allclose(labels[row], expected, atol=1e-6)
        inverse = inverses[row]
        np.testing.assert_allclose(inverse @ [*forward(inverse @ [*corner, 1]), 1], inverse @ [*corner, 1], atol=1e-9)
    moves = np.abs(labels[:, 2:]) > 0
    columns = [0, 1, 3, 5] if "rotation" in chosen else [0, 3, 5]
    np.testing.assert_allclose(moves[:, columns].mean(0), 0.12, atol=0.05)
    assert abs(labels[:, 0].mean() - 0.5) < 0.08 and labels[:, 1].mean() == pytest.approx(0.06 * ("y_flip" in chosen), abs=0.04)


def by_definition(image, inverse):
    """Sums over taps, a pixel at a time: reflect, double, read bilinearly, halve."""
    side, far = len(image), len(image) - 1
    reflected = lambda i: (i % (2 * far)) if (i % (2 * far)) <= far else 2 * far - i % (2 * far)
    fine = {}

    def sample(j, i):
        """Of the doubled image, at (j / 2, i / 2) in pixels."""
        if (j, i) not in fine:
            fine[j, i] = sum(
                TAPS[5 + j - 2 * y] * TAPS[5 + i - 2 * x] * image[reflected(y), reflected(x)]
                for y in range((j - 6) // 2, j // 2 + 4)
                for x in range((i - 6) // 2, i // 2 + 4)
                if 0 <= 5 + j - 2 * y < 12 and 0 <= 5 + i - 2 * x < 12
            )
        return fine[j, i]

    def read(j, i):
        """At a place of the result's fine grid, bilinear in the doubled image."""
        x, y = 2 * (inverse @ [i / 2 - far / 2, j / 2 - far / 2, 1] + far / 2)
        left, top = math.floor(x), math.floor(y)
        return sum(
            (1 - abs(x - column)) * (1 - abs(y - row)) * sample(row, column)
            for row in (top, top + 1)
            for column in (left, left + 1)
        )

    m, n = side // 2, 1  # one pixel is enough
    return (m, n), sum(
        TAPS[k] * TAPS[q] * read(2 * m + k - 5, 2 * n + q - 5) for k in range(12) for q in range(12)
    )  # fmt: skip


def test_a_moved_image_by_definition():
    image = np.random.default_rng(2).standard_normal((9, 9, 2)).astype(np.float32)
    plane = 0.9 * turned(0.4) @ np.diag([1.1, 0.8])
    inverse = np.concatenate([plane, [[0.7], [-1.2]]], axis=1)
    (m, n), expected = by_definition(image, inverse)
    np.testing.assert_allclose(augmentation.moved(image, inverse)[m, n], expected, atol=1e-5)


def test_what_stays_exactly():
    x = np.random.default_rng(3).standard_normal((7, 9, 3)).astype(np.float32)
    identity = np.eye(2, 3)
    np.testing.assert_allclose(augmentation.moved(x, identity), x, atol=5e-6)
    by_two = np.array([[1.0, 0, 2], [0, 1, -1]])
    np.testing.assert_allclose(augmentation.moved(x, by_two)[1:, :-2], x[:-1, 2:], atol=5e-6)
    u = augmentation.uniforms(0, 0, 50)
    images = np.random.default_rng(4).standard_normal((50, 6, 6, 3)).astype(np.float32)
    still, labels = augmentation.parse("edm:probability=0")(images, u)
    np.testing.assert_array_equal(still, images)
    assert labels.shape == (50, len(augmentation.LABELS)) and labels.dtype == np.float32 and not labels.any()
    only_flips = "edm:probability=1,scale=0,rotation=0,anisotropy=0,translation=0"
    flipped, labels = augmentation.parse(only_flips)(images, u)
    for row, label, image in zip(flipped, labels, images, strict=True):
        np.testing.assert_array_equal(row, image[:: -1 if label[1] else 1, :: -1 if label[0] else 1])
    assert 0.3 < labels[:, 0].mean() < 0.7 and 0.3 < labels[:, 1].mean() < 0.7 and not labels[:, 2:].any()


def test_right_angles_and_the_direction_of_a_turn():
    """EDM draws no right angles by themselves; its filter, almost symmetric, turns a smooth image by them."""
    image = smooth()
    for quarter in (1, 2, 3):
        inverse = np.concatenate([turned(quarter * math.pi / 2), np.zeros((2, 1))], axis=1)
        np.testing.assert_allclose(augmentation.moved(image, inverse), np.rot90(image, quarter), atol=0.08)


def test_the_label_says_where_the_image_went():
    """A positive translation in x moves to the right, a scale above 0 enlarges: a bright spot tells."""
    image = np.zeros((16, 16, 1), np.float32)
    image[7:9, 7:9] = 1
    u = np.full((1, augmentation.DRAWS), 0.999)
    u[0, [11, 12, 13]] = stats.norm.cdf(2.0), stats.norm.cdf(-1.0), 0.0  # x by 2, y by -1 deviations of 1/8 of the width
    moved, labels = augmentation.parse("edm:probability=0.1")(image[None], u)
    np.testing.assert_allclose(labels[0], [0, 0, 0, 0, 0, 0, 0, 2, -1], atol=1e-6)
    np.testing.assert_allclose(moved[0, 5:7, 11:13], 1, atol=1e-5)
    u[0, [3, 4, 13]] = stats.norm.cdf(5.0), 0.0, 0.999  # twice as large
    large, labels = augmentation.parse("edm:probability=0.1")(image[None], u)
    assert labels[0, 2] == pytest.approx(5) and 3 < large.sum() / image.sum() < 5


def test_batches_do_not_depend_on_where_they_are_cut():
    source = augmented()
    whole = first(source, 4)
    assert {batch["augmentation"].shape for batch in whole} == {(8, 9)}
    resumed = first(source, 2, start=2)
    halves = [first(source, 4, process=p, processes=2) for p in (0, 1)]
    larger = first(source, 2, batch_size=16)
    for name in ("x", "augmentation"):
        np.testing.assert_array_equal(resumed[0][name], whole[2][name])
        np.testing.assert_array_equal(np.concatenate([half[1][name] for half in halves]), whole[1][name])
        np.testing.assert_array_equal(larger[1][name], np.concatenate([whole[2][name], whole[3][name]]))
    others = first(source, 1, seed=1)
    assert np.any(others[0]["augmentation"] != whole[0]["augmentation"])
    plain = first(IMAGES, 4)
    for batch, bare in zip(whole, plain, strict=True):
        untouched = ~batch["augmentation"].any(axis=1)
        np.testing.assert_array_equal(batch["x"][untouched], bare["x"][untouched])
        assert not np.allclose(batch["x"], bare["x"])


@pytest.mark.parametrize(
    "text,said",
    [
        ("edn:probability=0.1", "unknown config.data.augment 'edn'; did you mean edm"),
        ("edm:probability=1.5", "expected a probability from 0 to 1"),
        ("edm:y_flip=0.5", "0 or 1 for each of x_flip, y_flip, scale"),
        ("edm:flip=1", "edm has no option 'flip'"),
    ],
)
def test_what_is_no_augmentation(text, said):
    with pytest.raises(typing.InputError, match=said):
        augmentation.parse(text)


def test_only_independent_images_are_augmented():
    for source, said in [
        (data.load("checkerboard"), r"checkerboard has rows of shape \(2,\): only"),
        (IMAGES._replace(coupled=True), "images pairs each row with its noise: only"),
    ]:
        with pytest.raises(typing.InputError, match=said):
            first(augmented(source), 1)
