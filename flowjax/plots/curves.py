"""Curves, and points with names."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import axes

from flowjax import typing
from flowjax.plots import canvas

COLOURS = (*canvas.SERIES, "#17889b", "#b5577a", "#7d7d2b", "#6b6b6b")


def training_curves(
    path: str | os.PathLike | None,
    records: Sequence[Mapping[str, Any]],
    *,
    raw: Sequence[str],
    distances: Sequence[str],
    title: str | None = None,
) -> canvas.Picture:
    """Three panels against the step: raw errors and one-step distances (log scales), time of a step.

    Args:
      path: the PNG file; None: none, the picture is only returned.
      records: the lines of a metrics.jsonl, each with "step"; any other key may be missing from any line.
      raw: keys of the raw errors. Zeros and numbers that are not finite are left out.
      distances: keys of the distances.
      title: the line above everything.
    """
    fig = canvas.Picture((12, 3.4), dpi=canvas.DPI, layout="constrained")
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
        canvas.plain(ax)
    if title:
        fig.suptitle(title, fontsize=12, color=canvas.INK)
    return canvas.write(fig, path)


def log_curves(
    path: str | os.PathLike | None,
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]] | float]],
    *,
    xlabel: str,
    ylabel: str,
    title: str | None = None,
) -> canvas.Picture:
    """Curves on two logarithmic axes, with their lowest points ringed and in the legend, and horizontal lines to compare with.

    Args:
      path: the PNG file; None: none, the picture is only returned.
      panels: heading -> name -> points (x, y), a curve, or one y, a dashed line. What is not positive and finite is left out.
      xlabel: what x is.
      ylabel: what y is.
      title: the line above everything.

    Raises:
      InputError: if there is no panel.
    """
    if not panels:
        raise typing.InputError("log_curves: expected at least one panel.")
    fig = canvas.Picture((1.2 + 4.8 * len(panels), 4.2), dpi=canvas.DPI, layout="constrained")
    for ax, (heading, curves) in zip(fig.subplots(1, len(panels), squeeze=False, sharey=True)[0], panels.items(), strict=True):
        for order, (name, points) in enumerate(curves.items()):
            colour = canvas.SERIES[order % len(canvas.SERIES)]
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
        ax.set_title(heading, fontsize=11, color=canvas.INK)
        ax.legend(frameon=False, fontsize=8)
        canvas.plain(ax, grid="both")
    fig.axes[0].set_ylabel(ylabel)
    if title:
        fig.suptitle(title, fontsize=12, color=canvas.INK)
    return canvas.write(fig, path)


class Labelled(NamedTuple):
    """A point of `labelled_points`: its x, the values whose mean and range are drawn, and its group, which sets the colour."""

    x: float
    values: Sequence[float]
    group: str


def labelled_points(
    path: str | os.PathLike | None,
    points: Mapping[str, Labelled],
    *,
    reference: tuple[str, float] | None = None,
    xlabel: str,
    ylabel: str,
    title: str,
) -> canvas.Picture:
    """Named points on two logarithmic axes. Lines lead to the names, a column at the right in the order of the values.

    Args:
      path: the PNG file; None: none, the picture is only returned.
      points: name -> Labelled, values above 0.
      reference: name and value of a dashed horizontal line to compare with.
      xlabel: what x is, with the unit.
      ylabel: what the values are, with the unit.
      title: the line above everything.
    """
    numbers = [np.array([point.x, *point.values]) for point in points.values()]
    if not numbers or not all(len(row) > 1 and (np.isfinite(row) & (row > 0)).all() for row in numbers):
        raise typing.InputError("labelled_points: expected at least one point, all of them finite and above 0.")
    mean = {name: float(np.mean(point.values)) for name, point in points.items()}
    groups = list(dict.fromkeys(point.group for point in points.values()))
    colours = dict(zip(groups, (*canvas.SERIES, canvas.RED, canvas.INK) * len(groups)))
    fig = canvas.Picture((10, max(5, 0.22 * len(points))), dpi=canvas.DPI, layout="constrained")
    ax = fig.add_subplot()
    for group in groups:
        members = {name: point for name, point in points.items() if point.group == group}
        low = [mean[name] - min(point.values) for name, point in members.items()]
        high = [max(point.values) - mean[name] for name, point in members.items()]
        place = ([point.x for point in members.values()], [mean[name] for name in members])
        ax.errorbar(*place, yerr=[low, high], fmt="o", markersize=5, capsize=2, color=colours[group], label=group)
    if reference is not None:
        ax.axhline(reference[1], color=canvas.RED, linestyle="--", linewidth=1.2, label=f"{reference[0]}: {reference[1]:.3g}")
    ax.set(xscale="log", yscale="log")
    _write_names(ax, points, mean, colours)
    canvas.plain(ax, grid="both")
    ax.set_xlabel(xlabel, color=canvas.INK)
    ax.set_ylabel(ylabel, color=canvas.INK)
    ax.set_title(title, color=canvas.INK)
    fig.legend(fontsize=8, loc="outside lower left", ncols=5, frameon=False)  # inside it would hide points
    return canvas.write(fig, path)


def _write_names(ax: axes.Axes, points: Mapping[str, Labelled], mean: Mapping[str, float], colours: Mapping[str, str]) -> None:
    """A name and a mean beside the axes for every point, in the order of the means, each with a line to its point."""
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


def measure_curves(
    path: str | os.PathLike | None,
    panels: Mapping[str, Mapping[str, Sequence[tuple[int, float, float]]]],
    *,
    references: Mapping[str, Mapping[str, float]] | None = None,
    xlabel: str,
    title: str | None = None,
) -> canvas.Picture:
    """Measures against the number of sampling steps, or a scale of at least 1: a panel for each measure, at most four a row.

    Args:
      path: the PNG file; None: none, the picture is only returned.
      panels: measure -> series -> points (steps, value, half-length of the error bar). A value that is not finite is left out,
        an error that is not finite has no bar.
      references: measure -> name -> value of a dashed horizontal line to compare with: other real rows, noise.
      xlabel: what the steps are.
      title: the line above everything.

    The axis of a measure is logarithmic if all its numbers are above 0 and span more than one and a half decades.

    Raises:
      InputError: if there is no panel, or a point is not a triple with at least one step.
    """
    panels = {name: {of: np.asarray(points, np.float64) for of, points in series.items()} for name, series in panels.items()}
    drawn = [points for series in panels.values() for points in series.values() if points.size]
    if not panels or not all(points.ndim == 2 and points.shape[1] == 3 and (points[:, 0] >= 1).all() for points in drawn):
        raise typing.InputError("measure_curves: expected at least one panel, points (steps, value, error), steps at least 1.")
    references = {name: (references or {}).get(name, {}) for name in panels}
    order = list(dict.fromkeys(of for series in panels.values() for of in series))
    lines = list(dict.fromkeys(of for numbers in references.values() for of in numbers))
    steps = np.unique(np.concatenate([[], *(points[:, 0] for points in drawn)]))
    gap = min(np.diff(np.log2(steps)), default=1.0)
    across = min(len(panels), 4)
    down = math.ceil(len(panels) / across)
    width, entry = max(3.3 * across, canvas.room(title)), 0.6 + max((canvas.room(of, 9) for of in (*order, *lines)), default=0)
    beside = max(1, min(len(order) + len(lines), int(width / entry)))
    size = (width, 2.9 * down + 0.2 * math.ceil((len(order) + len(lines)) / beside) + canvas.head(title))
    fig = canvas.Picture(size, dpi=canvas.DPI, layout="constrained")
    for index, (name, series) in enumerate(panels.items()):
        ax = fig.add_subplot(down, across, index + 1)
        _draw_measure(ax, {of: series[of] for of in order if of in series}, order, references[name], lines, gap)
        _number_steps(ax, steps)
        ax.set_title(name, fontsize=11, color=canvas.INK)
        if index + across >= len(panels):
            ax.set_xlabel(xlabel)
    handles = {label: handle for ax in fig.axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    handles = {label: handles[label] for label in (*order, *lines) if label in handles}
    if handles:
        fig.legend(handles.values(), handles, loc="outside lower center", ncols=beside, frameon=False, fontsize=9)
    if title:
        fig.suptitle(title, fontsize=12, color=canvas.INK)
    return canvas.write(fig, path)


def _draw_measure(ax, series, order, references, lines, gap):
    """Series with error bars, and lines to compare with, in the colours of their places in `order` and in `lines`.

    `gap` is the smallest distance of two numbers of steps, in powers of two.
    """
    numbers, ends = [number for number in references.values() if math.isfinite(number)], []
    # Series stand side by side at one number of steps, so that their error bars do not cover each other.
    apart = min(0.06, 0.3 / len(order), 0.5 * gap / len(order))
    shift = lambda of: 2 ** (apart * (order.index(of) - (len(order) - 1) / 2))
    for of, points in series.items():
        points = points.reshape(-1, 3)[np.argsort(points.reshape(-1, 3)[:, 0], kind="stable")]
        x, y, error = points[np.isfinite(points[:, 1])].T
        error = np.where(np.isfinite(error), error, 0.0)
        style = {"color": COLOURS[order.index(of) % len(COLOURS)], "marker": "osD^"[order.index(of) // len(COLOURS) % 4]}
        ax.errorbar(x * shift(of), y, yerr=error, linewidth=1.4, markersize=4, capsize=2, label=of, **style)
        numbers.extend(y)
        ends.extend([*(y + error), *np.maximum(y - error, y / 3)])
    for of, number in references.items():
        if math.isfinite(number):
            colour = (canvas.INK, canvas.RED, "#888888")[lines.index(of) % 3]
            ax.axhline(number, color=colour, linestyle="--", linewidth=1.2, label=of)
    if not numbers:
        ax.text(0.5, 0.5, "no numbers", transform=ax.transAxes, ha="center", va="center", color="#888888")
        ax.set_yticks([])
    elif min(numbers) > 0 and max(numbers) / min(numbers) > 10**1.5:
        ax.set_yscale("log")
        # An error bar may reach 0, the axis cannot.
        ax.set_ylim(min(numbers + ends) / 1.3, max(numbers + ends) * 1.3)
    canvas.plain(ax)


def _number_steps(ax: axes.Axes, steps: np.ndarray) -> None:
    """A logarithmic axis with these numbers of steps on it, as far as there is room."""
    low, high = (steps[0], steps[-1]) if len(steps) else (1.0, 1.0)
    room = max(0.25, 0.08 * math.log2(high / low)) if high > low else 1.0
    ax.set_xscale("log", base=2)
    ax.set_xlim(low / 2**room, high * 2**room)
    kept = []
    for step in sorted(steps, key=lambda step: (not math.log2(step).is_integer(), step)):  # powers of two first
        if all(abs(math.log2(step / other)) > 0.08 * math.log2(high / low) for other in kept):
            kept.append(step)
    ax.set_xticks(kept, [f"{step:g}" for step in kept])
    ax.set_xticks([], minor=True)


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
