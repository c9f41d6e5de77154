"""Pictures of samples show the rows that they name; a blank picture fails."""

import numpy as np
import pictures
import pytest

from flowjax import plots
from flowjax.training import progress

RNG = np.random.default_rng(0)


def toy(counts, labels):
    return RNG.uniform(-1, 1, (counts, 4, 4, 1)), np.array(labels)


def test_samples_stand_in_the_row_of_their_class_and_the_column_of_their_steps(tmp_path):
    (real, of), (one, labels), (four, _) = toy(7, [1, 1, 0, 1, 0, 0, 1]), toy(6, [1, 0, 1, 1, 0, 0]), toy(6, [0] * 6)
    path = tmp_path / "samples.png"
    progress.draw_samples(path, {1: one, 4: four}, labels, 2, real={"x": real, "label": of}, per_class=2)
    columns = [(real, of), (one, labels), (four, labels)]
    pictures.assert_classes(path, columns, 2, per_class=2)
    with pytest.raises(AssertionError):
        pictures.assert_classes(path, [columns[0], columns[2], columns[1]], 2, per_class=2)


def test_images_without_classes_stand_in_their_order(tmp_path):
    images, labels = toy(17, [-1] * 17)
    progress.draw_samples(tmp_path / "samples.png", {1: images}, labels, 0, per_class=2)
    at = [pictures.places(pictures.pixels(tmp_path / "samples.png"), image) for image in images]
    assert [len(corners) for corners in at] == [1] * 16 + [0]
    assert at == sorted(at, key=lambda corners: corners or [(np.inf, 0)])


def test_points_are_bright_where_they_are(tmp_path):
    left, right = RNG.normal((-1.0, 0.0), 0.1, (2_000, 2)), RNG.normal((1.0, 0.0), 0.1, (2_000, 2))
    real = {"x": np.concatenate([left, right])}
    progress.draw_samples(tmp_path / "points.png", {1: left}, np.full(2_000, -1), 0, real=real)
    picture = pictures.pixels(tmp_path / "points.png")
    yellow = (picture[..., 0] > 0.8) & (picture[..., 2] < 0.9) & (np.ptp(picture, axis=-1) > 0.2)  # the bright end of magma
    both, one = np.array_split(yellow, 2, axis=1)
    halves = lambda panel: [part.any() for part in np.array_split(panel, 2, axis=1)]
    assert halves(both) == [True, True] and halves(one) == [True, False]


def test_a_blank_picture_fails(tmp_path):
    plots.canvas.write(plots.canvas.Picture((4, 3)), tmp_path / "blank.png")
    with pytest.raises(AssertionError, match=plots.canvas.BLUE):
        pictures.assert_colours(tmp_path / "blank.png", plots.canvas.BLUE)
    assert pictures.inked(tmp_path / "blank.png") == 0
    image = toy(1, [0])
    with pytest.raises(AssertionError, match="class 0, image 0 stands at"):
        pictures.assert_classes(tmp_path / "blank.png", [image], 1, per_class=1)
