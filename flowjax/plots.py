"""Pictures of samples and of training runs, written as PNG files.

The only module that imports matplotlib. Figures are objects of their own on the Agg canvas, without pyplot's global state, so
these functions may run in threads and need no display. A file appears whole or not at all.
"""

import math
import os
import pathlib
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import axes, figure
from matplotlib.backends import backend_agg

from flowjax import typing

_DPI = 100
_INK, _BLUE, _RED = "#222222", "#3b6ea8", "#c0392b"
_SERIES = (_BLUE, "#d98c3f", "#4f8a5b", "#8a5a9e")


def image_grid(
    path: str | os.PathLike,
    columns: Mapping[str, np.ndarray],
    row_names: Sequence[str] | None = None,
    title: str | None = None,
) -> None:
    """Blocks of images side by side, enlarged pixel by pixel: `{"real": ..., "1 step": ..., "2 steps": ...}`.

    Args:
      path: the PNG file.
      columns: heading -> images [rows, per_column, H, W, C] in [-1, 1], C = 1 or 3; all with as many rows, of one size.
        Values outside are clipped; pixels that are not finite are magenta.
      row_names: one name a row, say its class.
      title: the line above everything.

    Raises:
      InputError: a block has another shape.
    """
    blocks = {name: np.asarray(block, np.float64) for name, block in columns.items()}
    _check_blocks(blocks, row_names)
    height, width = next(iter(blocks.values())).shape[2:4]
    scale = max(1, round(48 / max(height, width)))
    pictures = [_mosaic(block, scale) for block in blocks.values()]
    # Everything is placed in pixels, so that an image's pixel is a whole number of the screen's.
    widths = [max(picture.shape[1], 8 * _longest(name)) for name, picture in zip(blocks, pictures, strict=True)]
    left = 24 + 9 * max((len(str(name)) for name in row_names or []), default=0)
    head = 16 + 18 * max(name.count("\n") + 1 for name in blocks) + (20 * title.count("\n") + 32 if title else 0)
    full_width = max(left + sum(widths) + 24 * len(widths), 48 + 9 * _longest(title or ""))
    left += (full_width - left - sum(widths) - 24 * len(widths)) // 2
    full_height = head + pictures[0].shape[0] + 20
    fig = figure.Figure((full_width / _DPI, full_height / _DPI), dpi=_DPI)
    for name, picture, block_width in zip(blocks, pictures, widths, strict=True):
        h, w = picture.shape[:2]
        box = (left + (block_width - w) // 2, 20, w, h)
        ax = fig.add_axes([box[0] / full_width, box[1] / full_height, box[2] / full_width, box[3] / full_height])
        ax.imshow(picture, interpolation="nearest", aspect="auto")
        ax.set_title(name, fontsize=11, color=_INK)
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        if row_names is not None and ax is fig.axes[0]:
            count = len(row_names)
            ax.set_yticks((np.arange(count) + 0.5) * h / count, [str(row) for row in row_names], fontsize=11, color=_INK)
            ax.tick_params(length=0)
        left += block_width + 24
    if title:
        fig.text(0.5, 1 - 10 / full_height, title, ha="center", va="top", fontsize=13, color=_INK)
    _write(fig, path)


def point_grid(
    path: str | os.PathLike, panels: Mapping[str, np.ndarray], title: str | None = None, reference: np.ndarray | None = None
) -> None:
    """Densities of 2-D points side by side, on the same axes, bins and colours; at most six panels a row.

    Args:
      path: the PNG file.
      panels: heading, which may hold newlines -> points [n, 2].
      title: the line above everything.
      reference: points [n, 2] that fix the axes and the colours; without it the panel "data", without that all panels.

    Points beyond the axes or not finite are not drawn; a panel that loses over 1% of its points says how many.
    """
    panels = {name: np.asarray(points, np.float64) for name, points in panels.items()}
    if reference is None:
        reference = panels["data"] if "data" in panels else np.concatenate(list(panels.values()))
    reference = np.asarray(reference, np.float64)
    for name, points in {**panels, "reference": reference}.items():
        if points.ndim != 2 or points.shape[1] != 2:
            raise typing.InputError(f"point_grid: {name!r} has shape {points.shape}; expected [n, 2].")
    edges, brightest = _density_frame(reference)
    across = min(len(panels), 6)
    down = math.ceil(len(panels) / across)
    lines = max(name.count("\n") + 1 for name in panels)
    fig = figure.Figure((2.7 * across, (2.6 + 0.2 * lines) * down + (0.35 if title else 0)), dpi=_DPI, layout="constrained")
    for index, (name, points) in enumerate(panels.items()):
        ax = fig.add_subplot(down, across, index + 1)
        density, shown = _density(points, edges)
        extent = (edges[0][0], edges[0][-1], edges[1][0], edges[1][-1])
        ax.imshow(density.T, origin="lower", extent=extent, cmap="magma", vmin=0, vmax=brightest, interpolation="nearest")
        ax.set_title(name, fontsize=10, color=_INK)
        ax.set(xticks=[], yticks=[])
        if shown < 0.99:
            note = f"{100 * (1 - shown):.0f}% not shown"
            ax.text(0.97, 0.03, note, transform=ax.transAxes, ha="right", va="bottom", color="white", fontsize=8)
    if title:
        fig.suptitle(title, fontsize=12, color=_INK)
    fig.get_layout_engine().set(h_pad=0.08, w_pad=0.06)
    _write(fig, path)


def training_curves(
    path: str | os.PathLike,
    records: Sequence[Mapping[str, Any]],
    *,
    raw: Sequence[str],
    distances: Sequence[str],
    title: str | None = None,
) -> None:
    """Three panels against the step: raw errors and one-step distances (log scales), time of a step.

    Args:
      path: the PNG file.
      records: the lines of a metrics.jsonl, each with "step"; any other key may be missing from any line.
      raw: keys of the raw errors. Zeros and numbers that are not finite are left out.
      distances: keys of the distances.
      title: the line above everything.
    """
    fig = figure.Figure((12, 3.4), dpi=_DPI, layout="constrained")
    errors, quality, speed = fig.subplots(1, 3)
    drawn = _draw_curves(errors, records, raw, positive=True)
    if len(drawn):
        errors.set_yscale("log")
    errors.set_title("raw error", fontsize=11)
    if len(_draw_curves(quality, records, distances, positive=True)):
        quality.set_yscale("log")
    quality.set_title("distance to the data, one step", fontsize=11)
    times = _draw_curves(speed, records, ["step_ms"])
    speed.set_title("time of a step (ms)", fontsize=11)
    if len(times):
        # The first records hold the compilation, which would flatten all the others.
        median = float(np.median(times))
        speed.set_ylim(0, min(1.1 * float(times.max()), 3 * median) or 1.0)
        speed.set_title(f"time of a step (ms), median {median:.3g}", fontsize=11)
    for ax in (errors, quality, speed):
        ax.set_xlabel("step")
        _plain(ax)
    if title:
        fig.suptitle(title, fontsize=12, color=_INK)
    _write(fig, path)


def bars(
    path: str | os.PathLike,
    names: Sequence[str],
    values: Sequence[float],
    *,
    errors: Sequence[float] | None = None,
    reference: tuple[str, float] | None = None,
    ylabel: str,
    title: str,
) -> None:
    """Horizontal bars, the first on top, each with its value.

    Args:
      path: the PNG file.
      names: one name a bar.
      values: lengths of the bars; one that is not finite has no bar, and says so.
      errors: half-lengths of the error bars.
      reference: name and value of a dashed vertical line to compare with.
      ylabel: what the values are, with the unit; it stands along the axis of the values.
      title: the line above everything.
    """
    values = np.asarray(values, np.float64)
    spread = np.zeros(len(values)) if errors is None else np.nan_to_num(np.asarray(errors, np.float64))
    if not len(names) == len(values) == len(spread) or not len(names):
        raise typing.InputError(f"bars: got {len(names)} names, {len(values)} values, {len(spread)} errors; expected as many.")
    lengths = np.where(np.isfinite(values), values, 0.0)
    fig = figure.Figure((8, 1.5 + 0.34 * len(names)), dpi=_DPI, layout="constrained")
    ax = fig.add_subplot()
    places = np.arange(len(names))
    xerr = None if errors is None else spread
    ax.barh(places, lengths, xerr=xerr, height=0.68, color=_BLUE, error_kw={"ecolor": _INK, "capsize": 2})
    for place, length, value, error in zip(places, lengths, values, spread, strict=True):
        text = f"{value:.3g}" if errors is None or not error else f"{value:.3g} ± {error:.1g}"
        side, shift = ("left", 4) if length >= 0 else ("right", -4)
        end = (length + math.copysign(error, length), place)
        # White behind the number, so that the reference line does not cross it out.
        box = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}
        style = {"ha": side, "va": "center", "fontsize": 9, "color": _INK, "bbox": box}
        ax.annotate(text, end, (shift, 0), textcoords="offset points", **style)
    if reference is not None:
        ax.axvline(reference[1], color=_RED, linestyle="--", linewidth=1.2, label=f"{reference[0]}: {reference[1]:.3g}")
        fig.legend(loc="outside lower right", frameon=False, fontsize=9)
    ax.set_yticks(places, names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    low, high = min(0.0, (lengths - spread).min()), max(0.0, (lengths + spread).max())
    # Room for the numbers beside the longest bars.
    room = (0.12 if errors is None else 0.2) * ((high - low) or 1.0)
    ax.set_xlim(low - room if low < 0 else 0.0, high + room if high > 0 or low == 0 else 0.0)
    if reference is not None:
        ax.set_xlim(min(ax.get_xlim()[0], 1.05 * reference[1]), max(ax.get_xlim()[1], 1.05 * reference[1]))
    ax.set_xlabel(ylabel)
    ax.set_title(title, fontsize=12, color=_INK)
    _plain(ax, grid="x")
    ax.tick_params(axis="y", length=0)
    _write(fig, path)


class Bar(NamedTuple):
    """A bar of `grouped_bars`: quartiles of its length, a mark beside it (None: no mark), and words at its end."""

    low: float
    median: float
    high: float
    mark: float | None = None
    note: str = ""


def grouped_bars(
    path: str | os.PathLike,
    panels: Mapping[str, Mapping[str, Mapping[str, Bar]]],
    *,
    xlabel: str,
    mark: str = "",
    title: str | None = None,
) -> None:
    """Panels of horizontal bars, one group a name and one colour a series, the first on top.

    Args:
      path: the PNG file.
      panels: heading -> series -> name -> Bar; the same series and names in every panel.
      xlabel: what the lengths are, with the unit.
      mark: what the marks are, for the legend.
      title: the line above everything.

    Raises:
      InputError: if there is nothing to draw, or panels differ in their series or names.
    """
    layouts = {tuple((series, *bars) for series, bars in groups.items()) for groups in panels.values()}
    if len(layouts) != 1 or min((len(series) for series in next(iter(layouts))), default=0) < 2:
        raise typing.InputError("grouped_bars: expected panels with the same series and names, at least one of each.")
    first = next(iter(panels.values()))
    names = list(next(iter(first.values())))
    tall, thick = len(first) * len(names), 0.8 / len(first)
    fig = figure.Figure((3.4 + 4.2 * len(panels), 1.9 + 0.24 * tall + 0.1 * len(names)), dpi=_DPI, layout="constrained")
    for ax, (heading, groups) in zip(fig.subplots(1, len(panels), squeeze=False, sharey=True)[0], panels.items(), strict=True):
        for order, (series, bars) in enumerate(groups.items()):
            places = np.arange(len(names)) + (order - (len(groups) - 1) / 2) * thick
            _draw_bars(ax, places, [bars[name] for name in names], thick, _SERIES[order % len(_SERIES)], series, mark)
        ax.set_yticks(np.arange(len(names)), names)
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.set_xlim(0, 1.35 * max(bar.high for bars in groups.values() for bar in bars.values()))
        ax.set_xlabel(xlabel)
        ax.set_title(heading, fontsize=11, color=_INK)
        _plain(ax, grid="x")
        ax.tick_params(axis="y", length=0)
    handles = dict(zip(*reversed(fig.axes[0].get_legend_handles_labels()), strict=True))
    fig.legend(handles.values(), handles, loc="outside lower right", ncols=len(handles), frameon=False, fontsize=9)
    if title:
        fig.suptitle(title, fontsize=12, color=_INK)
    _write(fig, path)


def _draw_bars(ax, places, bars, thick, colour, series, mark):
    lengths = np.array([bar.median for bar in bars])
    spread = np.array([[bar.median - bar.low for bar in bars], [bar.high - bar.median for bar in bars]])
    ax.barh(places, lengths, xerr=spread, height=0.9 * thick, color=colour, label=series,
            error_kw={"ecolor": _INK, "capsize": 2, "elinewidth": 1})  # fmt: skip
    marked = [(bar.mark, place) for bar, place in zip(bars, places, strict=True) if bar.mark is not None]
    if marked:
        ax.scatter(
            *np.array(marked).T, marker="D", s=14, color="white", edgecolor=_INK, linewidth=1, zorder=3, label=mark or None
        )
    for bar, place in zip(bars, places, strict=True):
        end = max(bar.high, bar.mark or 0.0)
        ax.annotate(bar.note, (end, place), (5, 0), textcoords="offset points", va="center", fontsize=7.5, color=_INK)


def log_curves(
    path: str | os.PathLike,
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]] | float]],
    *,
    xlabel: str,
    ylabel: str,
    title: str | None = None,
) -> None:
    """Curves on two logarithmic axes, each with its lowest point ringed and in the legend, and horizontal lines to compare with.

    Args:
      path: the PNG file.
      panels: heading -> name -> points (x, y), a curve, or one y, a dashed line. What is not positive and finite is left out.
      xlabel: what x is.
      ylabel: what y is.
      title: the line above everything.

    Raises:
      InputError: if there is no panel.
    """
    if not panels:
        raise typing.InputError("log_curves: expected at least one panel.")
    fig = figure.Figure((1.2 + 4.8 * len(panels), 4.2), dpi=_DPI, layout="constrained")
    for ax, (heading, curves) in zip(fig.subplots(1, len(panels), squeeze=False, sharey=True)[0], panels.items(), strict=True):
        for order, (name, points) in enumerate(curves.items()):
            colour = _SERIES[order % len(_SERIES)]
            if isinstance(points, int | float):
                if not (math.isfinite(points) and points > 0):
                    continue
                ax.axhline(points, color=colour, linestyle="--", linewidth=1.2, label=f"{name}: {points:.1e}")
                continue
            points = np.asarray(points, np.float64).reshape(-1, 2)
            x, y = points[(np.isfinite(points) & (points > 0)).all(axis=1)].T
            best = f"{name}, at best {y.min():.1e}" if len(y) else name
            ax.plot(x, y, color=colour, linewidth=1.4, marker="o", markersize=3.5, label=best)
            if len(y):
                ax.plot(x[y.argmin()], y.min(), marker="o", markersize=9, color=colour, fillstyle="none")
        ax.set(xscale="log", yscale="log", xlabel=xlabel)
        ax.margins(y=0.12)
        ax.set_title(heading, fontsize=11, color=_INK)
        ax.legend(frameon=False, fontsize=8)
        _plain(ax, grid="both")
    fig.axes[0].set_ylabel(ylabel)
    if title:
        fig.suptitle(title, fontsize=12, color=_INK)
    _write(fig, path)


class Labelled(NamedTuple):
    """A point of `labelled_points`: its place, the values whose mean and range are drawn, and its group, which has one colour."""

    x: float
    values: Sequence[float]
    group: str


def labelled_points(
    path: str | os.PathLike,
    points: Mapping[str, Labelled],
    *,
    reference: tuple[str, float] | None = None,
    xlabel: str,
    ylabel: str,
    title: str,
) -> None:
    """Named points on two logarithmic axes; the names stand in a column at the right, in the order of the values, with lines to them.

    Args:
      path: the PNG file.
      points: name -> Labelled, values above 0.
      reference: name and value of a dashed horizontal line to compare with.
      xlabel: what x is, with the unit.
      ylabel: what the values are, with the unit.
      title: the line above everything.
    """
    numbers = [np.array([point.x, *point.values]) for point in points.values()]
    if not numbers or not all(len(own) > 1 and (np.isfinite(own) & (own > 0)).all() for own in numbers):
        raise typing.InputError("labelled_points: expected at least one point, all of them finite and above 0.")
    mean = {name: float(np.mean(point.values)) for name, point in points.items()}
    groups = list(dict.fromkeys(point.group for point in points.values()))
    colours = dict(zip(groups, (*_SERIES, _RED, _INK) * len(groups)))
    fig = figure.Figure((10, max(5, 0.22 * len(points))), dpi=_DPI, layout="constrained")
    ax = fig.add_subplot()
    for group in groups:
        own = {name: point for name, point in points.items() if point.group == group}
        low = [mean[name] - min(point.values) for name, point in own.items()]
        high = [max(point.values) - mean[name] for name, point in own.items()]
        place = ([point.x for point in own.values()], [mean[name] for name in own])
        ax.errorbar(*place, yerr=[low, high], fmt="o", markersize=5, capsize=2, color=colours[group], label=group)
    if reference is not None:
        ax.axhline(reference[1], color=_RED, linestyle="--", linewidth=1.2, label=f"{reference[0]}: {reference[1]:.3g}")
    ax.set(xscale="log", yscale="log")
    order = sorted(points, key=mean.get)
    for rank, name in enumerate(order):
        ax.annotate(
            f"{name}  {mean[name]:.3g}",
            (points[name].x, mean[name]),
            (1.04, (rank + 0.5) / len(order)),
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            color=colours[points[name].group],
            arrowprops={
                "arrowstyle": "-",
                "color": colours[points[name].group],
                "linewidth": 0.4,
                "alpha": 0.6,
                "relpos": (0, 0.5),  # to the start of the name: a line to its middle runs through other names
            },
        )
    _plain(ax, grid="both")
    ax.set_xlabel(xlabel, color=_INK)
    ax.set_ylabel(ylabel, color=_INK)
    ax.set_title(title, color=_INK)
    fig.legend(fontsize=8, loc="outside lower left", ncols=5, frameon=False)  # inside it would hide points
    _write(fig, path)


def _check_blocks(blocks: Mapping[str, np.ndarray], row_names: Sequence[str] | None) -> None:
    shapes = {name: block.shape for name, block in blocks.items()}
    first = next(iter(shapes.values()), ())
    alike = all(len(shape) == 5 and shape[4] in (1, 3) and shape[0] == first[0] and shape[2:4] == first[2:4]
                for shape in shapes.values())  # fmt: skip
    if not shapes or not alike or not all(block.size for block in blocks.values()):
        raise typing.InputError(
            f"image_grid: the blocks have shapes {shapes}; expected [rows, per_column, H, W, C], C = 1 or 3, "
            "with the same rows, H and W."
        )
    if row_names is not None and len(row_names) != first[0]:
        raise typing.InputError(f"image_grid: {len(row_names)} row names for {first[0]} rows.")


def _mosaic(block: np.ndarray, scale: int, gap: int = 8) -> np.ndarray:
    """Images [rows, per_column, H, W, C] in [-1, 1] as one white-spaced RGB picture in [0, 1], pixels enlarged by `scale`."""
    bright = np.broadcast_to(np.clip((block + 1) / 2, 0, 1), (*block.shape[:4], 3))
    bright = np.where(np.isfinite(block).all(axis=-1, keepdims=True), bright, (1.0, 0.0, 1.0))
    tiles = bright.repeat(scale, axis=2).repeat(scale, axis=3)
    tiles = np.pad(tiles, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)), constant_values=1.0)
    rows, per_column, height, width, _ = tiles.shape
    return tiles.transpose(0, 2, 1, 3, 4).reshape(rows * height, per_column * width, 3)[:-gap, :-gap]


def _longest(text: str) -> int:
    return max(len(line) for line in text.split("\n"))


def _density_frame(reference: np.ndarray) -> tuple[list[np.ndarray], float]:
    """Bin edges of a square around the reference points [n, 2], and the density that gets the brightest colour."""
    finite = reference[np.isfinite(reference).all(axis=1)]
    low, high = np.quantile(finite, [0.001, 0.999], axis=0) if len(finite) else (-np.ones(2), np.ones(2))
    middle, half = (low + high) / 2, 0.56 * max(float((high - low).max()), 1e-6)
    # About ten points in an occupied bin: finer bins would show noise.
    bins = int(np.clip(math.sqrt(len(finite) / 4), 24, 120))
    edges = [np.linspace(center - half, center + half, bins + 1) for center in middle]
    occupied = _density(finite, edges)[0]
    occupied = occupied[occupied > 0]
    return edges, float(np.quantile(occupied, 0.98)) if len(occupied) else 1.0


def _density(points: np.ndarray, edges: list[np.ndarray]) -> tuple[np.ndarray, float]:
    """Share of the points [n, 2] in each bin, and their sum: the share that is drawn."""
    finite = points[np.isfinite(points).all(axis=1)]
    density = np.histogram2d(*finite.T, bins=edges)[0] / max(len(points), 1)
    return density, float(density.sum())


def _draw_curves(
    ax: axes.Axes, records: Sequence[Mapping[str, Any]], keys: Sequence[str], positive: bool = False
) -> np.ndarray:
    """Draws each key that has numbers; returns all numbers drawn."""
    drawn = []
    for key in keys:
        kept = [(r["step"], r[key]) for r in records if "step" in r and isinstance(r.get(key), int | float)]
        kept = [(step, value) for step, value in kept if math.isfinite(value) and (value > 0 or not positive)]
        if kept:
            steps, values = np.asarray(kept, np.float64).T
            ax.plot(steps, values, label=key, linewidth=1.3, marker="o" if len(kept) <= 25 else None, markersize=3)
            drawn.append(values)
    if not drawn:
        ax.text(0.5, 0.5, "nothing recorded", transform=ax.transAxes, ha="center", va="center", color="#888888")
    elif len(keys) > 1 or keys[0] != "step_ms":
        ax.legend(frameon=False, fontsize=8)
    return np.concatenate(drawn) if drawn else np.empty(0)


def _plain(ax: axes.Axes, grid: str = "y") -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis=grid, color="#dddddd", linewidth=0.7)
    ax.set_axisbelow(True)


def _write(fig: figure.Figure, path: str | os.PathLike) -> None:
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        backend_agg.FigureCanvasAgg(fig).print_png(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
