"""Bars."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from flowjax import typing
from flowjax.plots import canvas


def bars(
    path: str | os.PathLike | None,
    names: Sequence[str],
    values: Sequence[float],
    *,
    errors: Sequence[float] | None = None,
    reference: tuple[str, float] | None = None,
    ylabel: str,
    title: str,
) -> canvas.Picture:
    """Horizontal bars, the first on top, each with its value.

    Args:
      path: the PNG file; None: none, the picture is only returned.
      names: one name a bar.
      values: lengths of the bars; one that is not finite has no bar, but a note.
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
    fig = canvas.Picture((8, 1.5 + 0.34 * len(names)), dpi=canvas.DPI, layout="constrained")
    ax = fig.add_subplot()
    places = np.arange(len(names))
    xerr = None if errors is None else spread
    ax.barh(places, lengths, xerr=xerr, height=0.68, color=canvas.BLUE, error_kw={"ecolor": canvas.INK, "capsize": 2})
    for place, length, value, error in zip(places, lengths, values, spread, strict=True):
        text = f"{value:.3g}" if errors is None or not error else f"{value:.3g} ± {error:.1g}"
        side, shift = ("left", 4) if length >= 0 else ("right", -4)
        end = (length + math.copysign(error, length), place)
        # White behind the number, so that the reference line does not cross it out.
        box = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}
        style = {"ha": side, "va": "center", "fontsize": 9, "color": canvas.INK, "bbox": box}
        ax.annotate(text, end, (shift, 0), textcoords="offset points", **style)
    if reference is not None:
        ax.axvline(reference[1], color=canvas.RED, linestyle="--", linewidth=1.2, label=f"{reference[0]}: {reference[1]:.3g}")
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
    ax.set_title(title, fontsize=12, color=canvas.INK)
    canvas.plain(ax, grid="x")
    ax.tick_params(axis="y", length=0)
    return canvas.write(fig, path)


def dots(
    path: str | os.PathLike | None,
    panels: Mapping[str, Mapping[str, Mapping[str, float]]],
    *,
    xlabel: str,
    log: bool = False,
    title: str | None = None,
) -> canvas.Picture:
    """A row for each name, the first on top, with a mark for each series: a ring for the first, smaller dots for the others.

    Args:
      path: the PNG file; None: none, the picture is only returned.
      panels: heading -> series -> name -> value; the same names everywhere. All panels share both axes.
      xlabel: what the values are, with the unit.
      log: a logarithmic axis, on which values that are not above 0 have no mark.
      title: the line above everything.

    Raises:
      InputError: if there is nothing to draw, or series differ in their names.
    """
    orders = {tuple(values) for series in panels.values() for values in series.values()}
    if len(orders) != 1 or not next(iter(orders)):
        raise typing.InputError("dots: expected at least one panel, and in every series the same names, at least one.")
    names = next(iter(orders))
    fig = canvas.Picture((3 + 4 * len(panels), 1.4 + 0.24 * len(names)), dpi=canvas.DPI, layout="constrained")
    for ax, (heading, series) in zip(fig.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)[0], panels.items()):
        for order, (label, values) in enumerate(series.items()):
            looks = {"fillstyle": "none", "markersize": 8} if order == 0 else {"markersize": 4.5}
            kept = [
                (value, place) for place, value in enumerate(values.values()) if math.isfinite(value) and (value > 0 or not log)
            ]
            ax.plot(*zip(*kept), linestyle="none", marker="o", color=canvas.SERIES[order % 4], label=label, **looks)
        ax.set(xscale="log" if log else "linear", xlabel=xlabel, ylim=(len(names) - 0.5, -0.5))
        ax.set_yticks(range(len(names)), names)
        ax.set_title(heading, fontsize=11, color=canvas.INK)
        canvas.plain(ax, grid="both")
    fig.legend(*fig.axes[0].get_legend_handles_labels(), loc="outside lower right", ncols=4, frameon=False, fontsize=9)
    if title:
        fig.suptitle(title, fontsize=12, color=canvas.INK)
    return canvas.write(fig, path)


class Bar(NamedTuple):
    """A bar of `grouped_bars`: quartiles of its length, a mark beside it (None: no mark), and words at its end."""

    low: float
    median: float
    high: float
    mark: float | None = None
    note: str = ""


def grouped_bars(
    path: str | os.PathLike | None,
    panels: Mapping[str, Mapping[str, Mapping[str, Bar]]],
    *,
    xlabel: str,
    mark: str = "",
    title: str | None = None,
) -> canvas.Picture:
    """Panels of horizontal bars, one group a name and one colour a series, the first on top.

    Args:
      path: the PNG file; None: none, the picture is only returned.
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
    fig = canvas.Picture((3.4 + 4.2 * len(panels), 1.9 + 0.24 * tall + 0.1 * len(names)), dpi=canvas.DPI, layout="constrained")
    for ax, (heading, groups) in zip(fig.subplots(1, len(panels), squeeze=False, sharey=True)[0], panels.items(), strict=True):
        for order, (series, bars) in enumerate(groups.items()):
            places = np.arange(len(names)) + (order - (len(groups) - 1) / 2) * thick
            _draw_bars(
                ax, places, [bars[name] for name in names], thick, canvas.SERIES[order % len(canvas.SERIES)], series, mark
            )
        ax.set_yticks(np.arange(len(names)), names)
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.set_xlim(0, 1.35 * max(bar.high for bars in groups.values() for bar in bars.values()))
        ax.set_xlabel(xlabel)
        ax.set_title(heading, fontsize=11, color=canvas.INK)
        canvas.plain(ax, grid="x")
        ax.tick_params(axis="y", length=0)
    handles = dict(zip(*reversed(fig.axes[0].get_legend_handles_labels()), strict=True))
    fig.legend(handles.values(), handles, loc="outside lower right", ncols=len(handles), frameon=False, fontsize=9)
    if title:
        fig.suptitle(title, fontsize=12, color=canvas.INK)
    return canvas.write(fig, path)


def _draw_bars(ax, places, bars, thick, colour, series, mark):
    lengths = np.array([bar.median for bar in bars])
    spread = np.array([[bar.median - bar.low for bar in bars], [bar.high - bar.median for bar in bars]])
    ax.barh(places, lengths, xerr=spread, height=0.9 * thick, color=colour, label=series,
            error_kw={"ecolor": canvas.INK, "capsize": 2, "elinewidth": 1})  # fmt: skip
    marked = [(bar.mark, place) for bar, place in zip(bars, places, strict=True) if bar.mark is not None]
    if marked:
        ax.scatter(
            *np.array(marked).T,
            marker="D",
            s=14,
            color="white",
            edgecolor=canvas.INK,
            linewidth=1,
            zorder=3,
            label=mark or None,
        )
    for bar, place in zip(bars, places, strict=True):
        end = max(bar.high, bar.mark or 0.0)
        ax.annotate(bar.note, (end, place), (5, 0), textcoords="offset points", va="center", fontsize=7.5, color=canvas.INK)
