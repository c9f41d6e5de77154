"""Pictures of maps: trajectories, velocities, errors over times; upright, on one scale, and nothing that breaks is hidden."""

import numpy as np
import pytest
from pictures import assert_panels, near, picture

from flowjax import plots, typing

RNG = np.random.default_rng(0)
JUMPS = RNG.normal(size=(30, 1, 2)) * np.linspace(1, 0.3, 5)[:, None]


def test_trajectories_hold_the_noise_and_mark_starts_and_ends(tmp_path, figures):
    path = tmp_path / "trajectories.png"
    panels = {"1 step": JUMPS[:, [0, -1]], "4 steps": JUMPS, "64 steps": JUMPS.repeat(13, axis=1)}
    plots.trajectories(path, panels, 0.1 * RNG.normal(size=(2000, 2)), "Jumps")
    pixels = picture(path)
    assert_panels(pixels, 3)
    for stripe in np.array_split(pixels[:-60], 3, axis=1):  # without the legend
        assert near(stripe, plots.canvas.BLUE).sum() > 200 and near(stripe, plots.canvas.RED).sum() > 200
    boxes = figures[0].axes
    for ax in boxes:
        limits = np.array([ax.get_xlim(), ax.get_ylim()]).T
        assert (limits[0] < JUMPS.min(axis=(0, 1))).all() and (JUMPS.max(axis=(0, 1)) < limits[1]).all()
        assert len(ax.texts) == 0
    between = [sum(line.get_label() == "step between" for line in ax.lines) for ax in boxes]
    assert between == [1, 1, 0]
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["start, noise", "step between", "end"]


def test_broken_trajectories_are_noted_or_refused(tmp_path, figures):
    broken = JUMPS.copy()
    broken[:3, 2:] = np.nan
    broken[3:6, -1] = 1e6
    plots.trajectories(tmp_path / "trajectories.png", {"4 steps": broken}, JUMPS[:, -1])
    assert [text.get_text() for text in figures[0].axes[0].texts] == ["20% of the ends not shown"]
    assert np.abs(figures[0].axes[0].get_xlim()).max() < 10
    # The legend is as wide as the one panel allows: nothing touches the sides.
    assert (picture(tmp_path / "trajectories.png")[:, [0, -1]] == 1).all()
    plots.trajectories(tmp_path / "none.png", {"4 steps": np.nan * JUMPS}, np.nan * JUMPS[:, 0])


GRID = np.stack(np.meshgrid(np.linspace(-2, 2, 9), np.linspace(-2, 2, 9)), axis=-1).reshape(-1, 2)


def test_velocity_fields_share_one_scale(tmp_path, figures):
    path = tmp_path / "field.png"
    slow, fast = GRID / 10, GRID.copy()
    fast[:9] = np.nan
    plots.velocity_field(path, {"t = 0.9": (GRID, slow), "t = 0.1": (GRID, fast)}, RNG.normal(size=(2000, 2)), "Field")
    assert_panels(picture(path)[:, :640], 2)
    first, second, bar = figures[0].axes
    assert bar.get_ylabel() == "speed"
    quivers = [ax.collections[0] for ax in (first, second)]
    assert len({(quiver.norm.vmin, quiver.norm.vmax) for quiver in quivers}) == 1
    assert [quiver.N for quiver in quivers] == [81, 72]
    arrows = [np.stack([quiver.U, quiver.V], axis=1) for quiver in quivers]
    # Along the velocities, a tenth of the speed in sqrt(1/10) of the length, none longer than the grid is wide.
    np.testing.assert_allclose(arrows[0][9] / arrows[1][0], np.sqrt(0.1), rtol=1e-6)
    np.testing.assert_allclose(np.linalg.det(np.stack([arrows[0], slow], axis=1)), 0, atol=1e-12)
    assert np.linalg.norm(arrows[1], axis=1).max() < 0.5


@pytest.mark.parametrize("velocities", [np.zeros_like(GRID), np.full_like(GRID, np.nan)])
def test_velocity_fields_without_arrows(velocities, tmp_path):
    plots.velocity_field(tmp_path / "field.png", {"t = 0": (GRID, velocities)}, GRID)
    assert_panels(picture(tmp_path / "field.png"), 1)


START, LANDING = np.meshgrid(np.arange(1, 9) / 8, np.arange(8) / 8)
ERRORS = np.where(LANDING < START, START - LANDING, np.nan)
LABELS = {"xlabel": "start s", "ylabel": "landing t", "label": "error"}
GREY = "#dddddd"


def boxes_of(fig):
    """The panels of a figure, without its colour bars."""
    return [ax for ax in fig.axes if ax.get_label() != "<colorbar>"]


def test_heat_maps_are_upright_with_their_mean_in_the_heading(tmp_path, figures):
    path = tmp_path / "maps.png"
    plots.heat_maps(path, {"rule": ERRORS, "half": ERRORS / 2, "other grid": ERRORS[::2, ::2]}, title="Maps", **LABELS)
    pixels = picture(path)
    boxes = boxes_of(figures[0])
    mean = np.sqrt(np.nanmean(ERRORS**2))
    assert [ax.get_title() for ax in boxes[:2]] == [
        f"rule\nroot mean square {mean:.2g}",
        f"half\nroot mean square {mean / 2:.2g}",
    ]
    assert len({ax.images[0].norm for ax in boxes}) == 1 and len(figures[0].axes) == 4  # one scale, one bar
    box = boxes[0].get_window_extent()
    colour = lambda s, t: pixels[round(len(pixels) - box.y0 - t * box.height), round(box.x0 + s * box.width)]
    grey, highest = colour(0.2, 0.9), colour(0.97, 0.03)
    assert near(grey, GREY) and near(highest, "#fde725")  # not defined above the diagonal, the longest jump at the lower right
    assert (pixels[:, -3:] == 1).all()


def test_heat_maps_in_named_rows(tmp_path, figures):
    rows = {"trained": {"eulerian": ERRORS, "true": ERRORS}, "exact": {"eulerian": 1e-9 * ERRORS, "semigroup": 0 * ERRORS}}
    plots.heat_maps(tmp_path / "maps.png", rows, **LABELS)
    boxes = boxes_of(figures[0])
    places = [(ax.get_subplotspec().rowspan.start, ax.get_subplotspec().colspan.start) for ax in boxes]
    assert places == [(0, 0), (0, 1), (1, 0), (1, 2)]
    assert [ax.get_ylabel() for ax in boxes] == ["trained\nlanding t", "", "exact\nlanding t", ""]
    assert [ax.get_xlabel() for ax in boxes] == ["", "start s", "start s", "start s"]
    # More than four decades below the highest: the lowest colour, and the bar says so.
    norm = boxes[0].images[0].norm
    assert np.isclose(norm.vmax / norm.vmin, 8) or np.isclose(norm.vmax / norm.vmin, 1e4)
    assert np.nanmax(boxes[2].images[0].get_array()) == norm.vmin


def test_heat_maps_of_odd_values(tmp_path, figures):
    infinite = ERRORS.copy()
    infinite[0, -1] = np.inf
    panels = {"infinite": infinite, "none": np.nan * ERRORS, "zero": 0 * ERRORS, "one": np.ones((1, 1)), "five": ERRORS}
    plots.heat_maps(tmp_path / "maps.png", panels, **LABELS)
    assert near(picture(tmp_path / "maps.png"), "#ff00ff").sum() > 100
    assert [ax.get_title().split("\n")[1] for ax in boxes_of(figures[0])][:3] == [
        "root mean square inf",
        "not defined",
        "root mean square 0",
    ]
    for name, values in (("signed", START - LANDING - 0.5), ("none", np.full((2, 2), np.nan)), ("constant", np.ones((2, 2)))):
        plots.heat_maps(tmp_path / f"{name}.png", {name: values}, log=False, extent=(0, 2, 0, 1), **LABELS)
        assert boxes_of(figures[-1])[0].images[0].get_extent() == [0, 2, 0, 1]
    assert near(picture(tmp_path / "none.png"), GREY).mean() > 0.2


def test_time_bins(tmp_path, figures):
    path = tmp_path / "bins.png"
    steps, edges = [10, 20, 100], [0, 0.25, 0.5, 1]
    errors = np.array([[4.0, 2, 1], [2, 1, np.nan], [1, 0, np.inf]])
    terms = {"flow": errors, "meanflow": 100 * errors, "none": np.nan * errors}
    plots.time_bins(path, steps, terms, edges, "Errors")
    pixels = picture(path)
    assert near(pixels, GREY).sum() > 1000 and near(pixels, "#ff00ff").sum() > 1000
    boxes = boxes_of(figures[0])
    assert [ax.get_title() for ax in boxes] == ["flow, raw error", "meanflow, raw error", "none, raw error"]
    assert boxes[0].get_xlim() == (5, 140) and boxes[0].get_ylim() == (0, 1)
    assert [ax.collections[0].norm.vmax for ax in boxes[:2]] == [4, 400]  # scales of their own
    assert len(figures[0].axes) == 5 and boxes[2].texts[0].get_text() == "nothing recorded"
    plots.time_bins(tmp_path / "one.png", [7], {"flow": errors[:1]}, edges)
    assert boxes_of(figures[1])[0].get_xticks().tolist() == [7]


MISTAKES = [
    (lambda path: plots.trajectories(path, {}, GRID), "expected at least one"),
    (lambda path: plots.trajectories(path, {"1 step": JUMPS[:, :1]}, GRID), r"\[n, steps \+ 1, 2\]"),
    (lambda path: plots.trajectories(path, {"1 step": JUMPS[:0]}, GRID), r"\[n, steps \+ 1, 2\]"),
    (lambda path: plots.trajectories(path, {"4 steps": JUMPS}, JUMPS), "'reference' has shape"),
    (lambda path: plots.velocity_field(path, {}, GRID), "at least one field"),
    (lambda path: plots.velocity_field(path, {"t = 0": (GRID, GRID[:3])}, GRID), "81 points and 3 velocities"),
    (lambda path: plots.velocity_field(path, {"t = 0": (GRID, GRID[:, :1])}, GRID), r"expected \[n, 2\]"),
    (lambda path: plots.heat_maps(path, {}, **LABELS), "at least one panel"),
    (lambda path: plots.heat_maps(path, {"trained": {}}, **LABELS), "at least one panel"),
    (lambda path: plots.heat_maps(path, {"rule": np.ones(3)}, **LABELS), r"\[rows, columns\]"),
    (lambda path: plots.heat_maps(path, {"rule": -ERRORS}, **LABELS), "type log=False"),
    (lambda path: plots.time_bins(path, [1], {}, [0, 1]), "at least one"),
    (lambda path: plots.time_bins(path, [], {"flow": np.ones((0, 1))}, [0, 1]), "at least one"),
    (lambda path: plots.time_bins(path, [1, 2], {"flow": np.ones((2, 2))}, [0, 1]), r"\[steps, bins\] = \(2, 1\)"),
    (lambda path: plots.time_bins(path, [2, 2], {"flow": np.ones((2, 1))}, [0, 1]), "must rise"),
    (lambda path: plots.time_bins(path, [1, 2], {"flow": np.ones((2, 1))}, [1, 0]), "must rise"),
    (lambda path: plots.time_bins(path, [1], {"flow": -np.ones((1, 1))}, [0, 1]), "negative"),
]


def test_what_cannot_be_drawn_is_refused_and_leaves_no_file(tmp_path):
    for draw, message in MISTAKES:
        with pytest.raises(typing.InputError, match=message):
            draw(tmp_path / "picture.png")
        assert not list(tmp_path.iterdir())
