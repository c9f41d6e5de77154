"""Pictures judged by their pixels: which colours a file holds, and where in it an image stands."""

import numpy as np
from matplotlib import image


def pixels(path):
    """RGB [height, width, 3] in [0, 1] of a PNG file."""
    return image.imread(path)[..., :3]


def picture(path):
    """`pixels` of the only kind of file in its folder: no temporary file is left."""
    assert all(file.suffix == ".png" and not file.name.startswith(".") for file in path.parent.iterdir())
    return pixels(path)


def near(picture, colour):
    """Which pixels have a colour, "#rrggbb", bool [height, width]."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.abs(picture - wanted).max(axis=-1) < 0.02


def assert_panels(picture, count):
    """None of `count` equal vertical stripes of a picture is blank in its middle."""
    height = len(picture)
    for stripe in np.array_split(picture[height // 4 : 3 * height // 4], count, axis=1):
        margin = stripe.shape[1] // 5
        assert stripe[:, margin:-margin].var() > 1e-4


def inked(path):
    """Share of the pixels of a file that are not white; text alone covers a few hundredths."""
    return float((pixels(path) < 0.98).any(axis=-1).mean())


def colour_pixels(path, colour):
    """How many pixels of a file have a colour, "#rrggbb", or up to half of it on white: thin lines have edges alone."""
    wanted, result = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255 - 1, pixels(path) - 1
    share = result @ wanted / (wanted @ wanted)
    return int(((share > 0.5) & (np.abs(result - share[..., None] * wanted).max(axis=-1) < 0.03)).sum())


def assert_colours(path, *colours):
    """A line or a row of marks in each colour: 20 pixels of it."""
    few = {colour: count for colour in colours if (count := colour_pixels(path, colour)) < 20}
    assert not few, f"{path}: {few}"


def places(picture, wanted):
    """Top left corners [(y, x)] at which a grey image [H, W, 1] in [-1, 1] stands, exactly enlarged, in the pixels of an image_grid."""
    scale, grey = max(1, round(48 / max(wanted.shape[:2]))), (np.clip(wanted[..., 0], -1, 1) + 1) / 2
    height, width = picture.shape[0] - scale * grey.shape[0] + 1, picture.shape[1] - scale * grey.shape[1] + 1
    y, x = (axis.ravel() for axis in np.mgrid[:height, :width])
    for (i, j), value in np.ndenumerate(
        grey
    ):  # pixel by pixel, at the middle and the corner of each, among the places that are left
        for offset in (0, scale - 1):
            fits = np.abs(picture[y + scale * i + offset, x + scale * j + offset, 0] - value) < 0.01
            y, x = y[fits], x[fits]
    return list(zip(y.tolist(), x.tolist()))


def assert_classes(path, columns, num_classes, per_class):
    """An image_grid shows the first `per_class` images of each class: classes from the top, columns from the left.

    Args:
      path: of the picture.
      columns: [(images [n, H, W, 1], their classes [n]), ...].
      num_classes: how many.
      per_class: images of a class and column that are shown.
    """
    picture, row = pixels(path), -1
    for c in range(num_classes):
        top, right = None, -1  # of the images of this class so far
        for column, (images, labels) in enumerate(columns):
            for number, wanted in enumerate(images[labels == c]):
                # Images may be alike, of a network that has hardly moved: each is looked for to the right of the one before.
                at = [(y, x) for y, x in places(picture, wanted) if (y > row if top is None else y == top) and x > right]
                assert bool(at) == (number < per_class), f"{path}: column {column}, class {c}, image {number} stands at {at}"
                if at:
                    top, right = min(at)
        row = top
