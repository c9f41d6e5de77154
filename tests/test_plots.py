"""The pictures exist, have the size their content asks for, and no panel is blank."""

import ast
import concurrent.futures
import os
import pathlib

import numpy as np
import pytest
from pictures import assert_panels, near, picture

import flowjax
from flowjax import plots, typing

RNG = np.random.default_rng(0)
RECORDS = [
    {"step": 10 * i, "flow": np.exp(-i / 20), "meanflow": 2 * np.exp(-i / 30), "step_ms": 9.0 + i % 3} for i in range(60)
]
RECORDS[0]["step_ms"] = 2000.0
for record in RECORDS[::20]:
    record["sw_1"] = 1 / (1 + record["step"])


def test_image_grid_enlarges_exactly(tmp_path):
    path = tmp_path / "grid.png"
    images = np.round(RNG.uniform(size=(3, 2, 8, 8, 1))) * 2 - 1
    plots.image_grid(path, {"real": images, "1 step": images[:, :1], "4 steps": images}, ["zero", "one", "two"], "Digits")
    pixels = picture(path)
    assert_panels(pixels, 3)
    # Each image appears enlarged six times, unsmoothed: look for the first one, pixel by pixel.
    wanted = ((images[0, 0, :, :, 0] + 1) / 2).repeat(6, 0).repeat(6, 1)
    windows = np.lib.stride_tricks.sliding_window_view(pixels[..., 0], wanted.shape)[:, :, 3::6, 3::6]
    assert np.isclose(windows, wanted[3::6, 3::6], atol=0.01).all(axis=(2, 3)).any()


def test_image_grid_in_colour_and_without_names(tmp_path):
    path = tmp_path / "grid.png"
    images = np.zeros((1, 1, 32, 32, 3))
    images[0, 0, :16, :, 0] = 1.0
    images[0, 0, 16:] = np.nan
    plots.image_grid(path, {"1 step": images})
    colours = {tuple(colour) for colour in np.round(picture(path), 1).reshape(-1, 3).tolist()}
    assert {(1.0, 0.5, 0.5), (1.0, 0.0, 1.0)} <= colours


def test_point_grid(tmp_path):
    path = tmp_path / "points.png"
    data = RNG.normal(size=(4000, 2))
    plots.point_grid(path, {"data": data, "1 step\nSW 0.12": 1.5 * data, "2 steps": data[:50]}, title="Gaussian")
    pixels = picture(path)
    assert pixels.shape[1] > 2 * pixels.shape[0]
    assert_panels(pixels, 3)


def test_point_grid_takes_the_axes_of_the_reference(tmp_path):
    data = RNG.normal(size=(2000, 2))
    plots.point_grid(tmp_path / "near.png", {"a": data}, reference=data)
    plots.point_grid(tmp_path / "far.png", {"a": data}, reference=30 * data)
    bright = [(picture(tmp_path / name)[60:-20, 20:-20] > 0.2).any(axis=-1).mean() for name in ("near.png", "far.png")]
    assert bright[0] > 10 * bright[1]


def test_point_grid_survives_broken_points_and_wraps(tmp_path):
    path = tmp_path / "points.png"
    panels = {f"panel {i}": RNG.normal(size=(200, 2)) for i in range(8)}
    plots.point_grid(path, panels | {"broken": np.full((10, 2), np.nan)}, reference=panels["panel 0"])
    assert_panels(picture(path)[:300], 6)


def test_training_curves(tmp_path):
    path = tmp_path / "curves.png"
    plots.training_curves(path, RECORDS, raw=["flow", "meanflow"], distances=["sw_1"], title="MeanFlow on digits")
    pixels = picture(path)
    assert pixels.shape == (340, 1200, 3)
    assert_panels(pixels, 3)


@pytest.mark.parametrize(
    "records",
    [
        [],
        [{"step": 1, "flow": 0.0}],
        [{"step": 1, "flow": 1.0, "sw_1": float("nan"), "step_ms": 0.0}],
        [{"step": 1, "flow": None}, {"flow": 1.0}, {"step": 2, "flow": 1e-9, "sw_1": 0.0}, {"step": 3, "flow": float("inf")}],
    ],
)
def test_training_curves_of_few_or_odd_records(tmp_path, records, recwarn):
    path = tmp_path / "curves.png"
    plots.training_curves(path, records, raw=["flow", "absent"], distances=["sw_1"])
    assert_panels(picture(path), 3)
    assert not recwarn.list


def test_bars(tmp_path):
    path = tmp_path / "bars.png"
    names, values = ["meanflow", "shortcut", "alphaflow"], [0.2, 0.31, float("nan")]
    plots.bars(path, names, values, errors=[0.01, 0.02, 0.0], reference=("teacher", 0.4), ylabel="SW", title="One step")
    pixels = picture(path)
    assert pixels.shape == (252, 800, 3)
    red, _, blue = np.moveaxis(pixels, -1, 0)
    assert (blue - red > 0.3).sum() > 5000  # the bars
    assert (red - blue > 0.3).sum() > 50  # the reference line
    plots.bars(path, ["a", "b"], [-1.0, 2.0], ylabel="nats", title="Signs")
    assert_panels(picture(path), 2)


def test_errors_for_wrong_arguments(tmp_path):
    with pytest.raises(typing.InputError, match="expected \\[rows"):
        plots.image_grid(tmp_path / "a.png", {"real": np.zeros((2, 3, 8, 8, 1)), "fake": np.zeros((3, 3, 8, 8, 1))})
    with pytest.raises(typing.InputError, match="row names"):
        plots.image_grid(tmp_path / "a.png", {"real": np.zeros((2, 3, 8, 8, 1))}, ["only one"])
    with pytest.raises(typing.InputError, match=r"expected \[n, 2\]"):
        plots.point_grid(tmp_path / "a.png", {"data": np.zeros((5, 3))})
    with pytest.raises(typing.InputError, match="2 names, 1 values"):
        plots.bars(tmp_path / "a.png", ["a", "b"], [1.0], ylabel="", title="")


def test_a_failed_write_leaves_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "bars.png"
    plots.bars(path, ["a"], [1.0], ylabel="y", title="t")
    before = path.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        plots.bars(path, ["a", "b"], [1.0, 2.0], ylabel="y", title="t")
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["bars.png"]


def test_threads_draw_the_same_pictures(tmp_path):
    def draw(index):
        plots.bars(tmp_path / f"{index}.png", ["a", "b"], [1.0, 2.0], ylabel="y", title="t")
        return (tmp_path / f"{index}.png").read_bytes()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(draw, range(4)))) == 1


def test_no_other_module_imports_matplotlib():
    package = pathlib.Path(flowjax.__file__).parent
    users = set()
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or ""]
            if any(name.split(".")[0] == "matplotlib" for name in names):
                users.add(file.relative_to(package).parts[0])
    assert users == {"plots"}


BARS = {
    heading: {series: {name: plots.Bar(0.9 * length, length, 1.1 * length, mark, "note") for name in ("jvp", "gradient")}
              for series, mark in (("plain", 2.0), ("chunked", None))}
    for heading, length in (("64 tokens", 3.0), ("256 tokens", 5.0))
}  # fmt: skip


def test_grouped_bars(tmp_path):
    plots.grouped_bars(tmp_path / "bars.png", BARS, xlabel="forward passes", mark="matmul FLOPs", title="Costs")
    pixels = picture(tmp_path / "bars.png")
    assert_panels(pixels, 2)
    for colour in (plots.canvas.SERIES[0], plots.canvas.SERIES[1]):  # both series are there
        assert near(pixels, colour).sum() > 500
    more = {heading: {"plain": groups["plain"]} for heading, groups in BARS.items()}
    plots.grouped_bars(tmp_path / "fewer.png", more, xlabel="forward passes")
    assert len(picture(tmp_path / "fewer.png")) < len(pixels)


def test_grouped_bars_want_the_same_in_every_panel(tmp_path):
    for panels in ({}, {"64": {}}, {"64": {"plain": {}}}, {"64": BARS["64 tokens"], "256": {"plain": {}}}):
        with pytest.raises(typing.InputError, match="the same series and names"):
            plots.grouped_bars(tmp_path / "bars.png", panels, xlabel="x")
    assert not list(tmp_path.iterdir())


def test_log_curves(tmp_path):
    h = np.logspace(-6, 0, 13)
    curves = {"exact": 1e-7, "central": list(zip(h, 1e-7 / h + h**2)), "broken": [(1.0, np.nan), (2.0, 0.0)]}
    plots.log_curves(
        tmp_path / "curves.png", {"float32": curves, "bfloat16": curves}, xlabel="h", ylabel="error", title="Error"
    )
    assert_panels(picture(tmp_path / "curves.png"), 2)
    with pytest.raises(typing.InputError, match="at least one panel"):
        plots.log_curves(tmp_path / "none.png", {}, xlabel="h", ylabel="error")


GROUPS = ("eulerian", "lagrangian", "semigroup", "moments")
NAMED = {
    f"method_{i}": plots.Labelled(1.0 + i / 4, tuple(np.exp(-i / 10) * np.array([0.9, 1.0, 1.1])), GROUPS[i % 4])
    for i in range(30)
}


def test_labelled_points_have_a_colour_a_group_and_a_column_of_names(tmp_path):
    path = tmp_path / "points.png"
    plots.labelled_points(path, NAMED, reference=("teacher", 0.5), xlabel="cost [1]", ylabel="distance [1]", title="Thirty")
    pixels = picture(path)
    assert pixels.shape == (660, 1000, 3)  # 22 pixels a name
    assert_panels(pixels, 1)
    assert all(near(pixels, colour).sum() > 500 for colour in plots.canvas.SERIES)
    red = lambda pixels: ((pixels[..., 0] - pixels[..., 2] > 0.3) & (pixels[..., 1] < 0.45)).sum()
    assert red(pixels) > 300  # the line to compare with
    # Thirty lines of text, and white between them: no line to a point runs through a name.
    names = (pixels[25:580, 886:920] < 0.97).any(axis=(1, 2)).astype(int)
    assert (np.diff(names) == 1).sum() == 30
    plots.labelled_points(tmp_path / "none.png", NAMED, xlabel="cost", ylabel="distance", title="Thirty")
    assert red(picture(tmp_path / "none.png")) == 0


def test_the_highest_point_is_named_first(tmp_path):
    points = {"low": plots.Labelled(1.0, [0.1], "one"), "high": plots.Labelled(2.0, [1.0], "two")}
    plots.labelled_points(tmp_path / "points.png", points, xlabel="x", ylabel="y", title="Two")
    right = picture(tmp_path / "points.png")[:, 900:]
    rows = [np.flatnonzero(near(right, colour).any(axis=1)).mean() for colour in plots.canvas.SERIES[:2]]
    assert rows[1] < rows[0] - 50


def test_labelled_points_must_fit_on_logarithmic_axes(tmp_path):
    for points in (
        {},
        {"a": plots.Labelled(1.0, [], "g")},
        {"a": plots.Labelled(0.0, [1.0], "g")},
        {"a": plots.Labelled(np.nan, [1.0], "g")},
        {"a": plots.Labelled(1.0, [1.0], "g"), "b": plots.Labelled(1.0, [1.0, np.inf], "g")},
        {"a": plots.Labelled(1.0, [3.0, -1.0], "g")},
    ):
        with pytest.raises(typing.InputError, match="finite and above 0"):
            plots.labelled_points(tmp_path / "points.png", points, xlabel="x", ylabel="y", title="t")
    assert not list(tmp_path.iterdir())


SERIES = {"raw": [(n, 1 / n, 0.1 / n) for n in (1, 2, 64, 4)], "average": [(n, 0.5 / n, 0.0) for n in (1, 2, 4)]}


def test_measure_curves(tmp_path, figures):
    path = tmp_path / "measures.png"
    panels = {"distance": SERIES, "recall": {"raw": [(1, 0.5, 0.1), (2, 0.6, np.nan), (4, np.nan, 0.1)]}}
    references = {"distance": {"real, held out": 0.01, "noise": 3.0}, "recall": {"noise": np.nan}}
    plots.measure_curves(path, panels, references=references, xlabel="sampling steps", title="Measures\nin two lines")
    pixels = picture(path)
    assert_panels(pixels, 2)
    assert all(near(pixels, colour).sum() > 50 for colour in plots.canvas.SERIES[:2])
    distance, recall = figures[0].axes
    assert [ax.get_yscale() for ax in (distance, recall)] == ["log", "linear"]
    for ax in (distance, recall):
        assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "2", "4", "64"]
    dashed = {line.get_label(): line for line in distance.lines if line.get_linestyle() == "--"}
    assert {name: line.get_ydata()[0] for name, line in dashed.items()} == references["distance"]
    assert distance.get_ylim()[0] < 0.01 and distance.get_ylim()[1] > 3
    assert not [line for line in recall.lines if line.get_linestyle() == "--"]  # a reference that is not finite
    (legend,) = figures[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["raw", "average", "real, held out", "noise"]
    assert (np.diff(distance.lines[0].get_xdata()) > 0).all()  # in the order of the steps, whatever came first
    assert len(recall.lines[0].get_xdata()) == 2  # the value that is not finite is left out
    for side in (pixels[:, :2], pixels[:, -2:], pixels[-2:]):  # nothing is cut off
        assert (side == 1).all()


def test_measure_curves_of_one_number_of_steps(tmp_path, figures):
    panels = {f"measure {i}": {name: points[:1] for name, points in SERIES.items()} for i in range(5)}
    plots.measure_curves(tmp_path / "measures.png", panels, references={}, xlabel="sampling steps")
    first, fifth = figures[0].axes[0], figures[0].axes[4]
    assert first.get_subplotspec().rowspan.start == 0 and fifth.get_subplotspec().rowspan.start == 1  # four a row
    assert [tick.get_text() for tick in first.get_xticklabels()] == ["1"]
    x = [line.get_xdata()[0] for line in first.lines if line.get_label().startswith("_")]
    assert first.get_xlim() == (0.5, 2) and all(0.9 < place < 1.1 for place in x)


def test_measure_curves_of_many_series_and_steps_or_none(tmp_path, figures):
    many = {f"sampler {i}": [(n, 1 / n + i, np.inf) for n in range(1, 129)] for i in range(20)}
    plots.measure_curves(tmp_path / "many.png", {"distance": many, "nothing": {"sampler 0": []}}, xlabel="steps")
    ticks = [tick.get_text() for tick in figures[0].axes[0].get_xticklabels()]
    assert len(ticks) < 13 and {"1", "2", "4", "8", "16", "32", "64", "128"} <= set(ticks)
    looks = {(line.get_color(), line.get_marker()) for line in figures[0].axes[0].lines if len(line.get_xdata()) == 128}
    assert len({look for look in looks if look[1] in "osD^"}) == 20
    assert figures[0].axes[1].texts[0].get_text() == "no numbers"
    assert (picture(tmp_path / "many.png")[:, [0, -1]] == 1).all()


FLOW = np.linspace(0, 1, 11), RNG.normal(size=(5, 1)) * np.ones(11)


def test_flow_lines_show_every_jump(tmp_path, figures):
    path = tmp_path / "lines.png"
    jumps = {"two": ([1.0, 0.5, 0.0], [[0.0, 1.0, 2.0], [1.0, 1.0, 1.0]]), "one": ([[1.0, 0.0], [0.5, 0.0]], [[0.0, -1.0]])}
    panels = {"1 to\n0": jumps, **{str(number): {} for number in range(3)}}
    plots.flow_lines(path, panels, FLOW, "Jumps")
    assert_panels(picture(path)[: picture(path).shape[0] // 2], 3)
    first, *others = figures[0].axes
    assert len(others) == 3 and all(len(ax.lines) == 5 for ax in others)  # the flow alone, and no axes where there is no panel
    assert [text.get_text() for text in first.get_legend().get_texts()] == ["two", "one"]
    starts = [line.get_xydata().tolist() for line in first.lines if line.get_fillstyle() == "none"]
    assert starts == [[[1, 0], [1, 1]], [[1, 0], [0.5, 0]]]
    landed = [line.get_xydata().tolist() for line in first.lines if line.get_marker() == "o" and line.get_fillstyle() == "full"]
    assert landed == [[[0.5, 1], [0, 2], [0.5, 1], [0, 1]], [[0, -1], [0, -1]]]


def test_a_picture_is_returned_and_shows_itself(tmp_path):
    draw = lambda path: plots.bars(path, ["a", "b"], [1.0, 2.0], ylabel="length", title="Two bars")
    shown, written = draw(None), draw(tmp_path / "bars.png")
    assert (tmp_path / "bars.png").read_bytes() == shown._repr_png_() == written._repr_png_()
    assert [file.name for file in tmp_path.iterdir()] == ["bars.png"]


def test_dots_stand_in_their_rings(figures):
    values = {"a": 1e-3, "b": 0.0, "c": np.nan}
    panels = {"one": {"moves": values, "seen": {"a": 2.0, "b": 1.0, "c": 0.5}}, "two": {"moves": values}}
    plots.dots(None, panels, xlabel="size", log=True)
    one, two = figures[0].axes
    assert [line.get_xydata().tolist() for line in one.lines] == [[[1e-3, 0]], [[2, 0], [1, 1], [0.5, 2]]]
    assert [line.get_fillstyle() for line in one.lines] == ["none", "full"] and one.get_xlim() == two.get_xlim()
    assert [tick.get_text() for tick in one.get_yticklabels()] == ["a", "b", "c"] and one.get_ylim() == (2.5, -0.5)
    plots.dots(None, panels, xlabel="size")
    assert figures[1].axes[0].lines[0].get_xydata().tolist() == [[1e-3, 0], [0, 1]]


MISTAKES = [
    (lambda path: plots.dots(path, {"one": {"a": {}}}, xlabel="size"), "at least one panel"),
    (lambda path: plots.dots(path, {"one": {"a": {"x": 1}, "b": {"y": 1}}}, xlabel="size"), "the same names"),
    (lambda path: plots.flow_lines(path, {}, FLOW), "at least one panel"),
    (
        lambda path: plots.flow_lines(path, {"a": {"V": ([1, 0, 1], [[1, 0]])}}, FLOW),
        r"'V' have shape \(1, 2\); expected \[n, jumps",
    ),
    (lambda path: plots.flow_lines(path, {"a": {}}, ([1.0], [[1.0]])), "'flow' have shape"),
    (lambda path: plots.measure_curves(path, {}, xlabel="steps"), "at least one panel"),
    (lambda path: plots.measure_curves(path, {"d": {"raw": [(0, 1, 1)]}}, xlabel="steps"), "steps at least 1"),
    (lambda path: plots.measure_curves(path, {"d": {"raw": [(1, 1)]}}, xlabel="steps"), r"\(steps, value, error\)"),
]


def test_what_cannot_be_drawn_is_refused_and_leaves_no_file(tmp_path):
    for draw, message in MISTAKES:
        with pytest.raises(typing.InputError, match=message):
            draw(tmp_path / "picture.png")
        assert not list(tmp_path.iterdir())
