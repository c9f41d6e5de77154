"""Numbers over two variables as colours."""

import os
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import axes, cm, colorbar, colormaps, colors, figure, ticker

from flowjax import typing
from flowjax.plots import canvas

_DECADES = 4


def heat_maps(
    path: str | os.PathLike | None,
    panels: Mapping[str, np.ndarray] | Mapping[str, Mapping[str, np.ndarray]],
    *,
    xlabel: str,
    ylabel: str,
    label: str,
    extent: tuple[float, float, float, float] = (0, 1, 0, 1),
    log: bool = True,
    title: str | None = None,
) -> canvas.Picture:
    """Heat maps on one scale of colours, each with its root mean square in the heading.

    Args:
      path: the PNG file; None: none, the picture is only returned.
      panels: heading -> values [rows, columns], four panels a row; or name of a row of panels -> heading -> values. Row 0 of
        the values is at the bottom. nan, not defined, is grey and left out of the root mean square; inf is magenta.
      xlabel: what changes from column to column.
      ylabel: what changes from row to row.
      label: what the values are, with the unit.
      extent: left, right, lower and upper edge of the values.
      log: logarithmic colours, for values of at least 0; the lowest colour is for all below a ten-thousandth of the highest.
      title: the line above everything.

    Raises:
      InputError: if there is no panel, values have another shape, or colours are logarithmic and values negative.
    """
    places = _places(panels)
    values = [panel for _, _, panel in places.values()]
    if not values or not all(panel.ndim == 2 and panel.size for panel in values):
        shapes = [panel.shape for panel in values]
        raise typing.InputError(f"heat_maps: the values have shapes {shapes}; expected at least one panel, [rows, columns].")
    if log and any((panel < 0).any() for panel in values):
        raise typing.InputError("heat_maps: logarithmic colours need values of at least 0; for others type log=False.")
    scale, extend = _colours(np.concatenate([panel.ravel() for panel in values]), log)
    down, across = (1 + max(place) for place in zip(*places, strict=True))
    lines = 2 + max(heading.count("\n") for _, heading, _ in places.values())
    width, height = max(2.5 * across + 1.8, canvas.room(title)), (2.3 + 0.2 * lines) * down + 0.3
    size = (width, max(height, canvas.room(label, 10)) + canvas.head(title))
    fig = canvas.Picture(size, dpi=canvas.DPI, layout="constrained")
    for (row, column), (name, heading, panel) in places.items():
        ax = fig.add_subplot(down, across, row * across + column + 1)
        style = {"norm": scale.norm, "cmap": scale.cmap, "origin": "lower", "extent": extent, "interpolation": "nearest"}
        ax.imshow(_kept(panel, scale), aspect="auto", **style)
        ax.set_box_aspect(1)
        known = panel[~np.isnan(panel)]
        mean = f"root mean square {np.sqrt(np.mean(known**2)):.2g}" if len(known) else "not defined"
        ax.set_title(f"{heading}\n{mean}", fontsize=10, color=canvas.INK)
        if (row + 1, column) not in places:
            ax.set_xlabel(xlabel)
        if not column:
            ax.set_ylabel(f"{name}\n{ylabel}" if name else ylabel)
        ax.locator_params(nbins=5)
    _bar(fig, fig.axes, scale, extend).set_label(label)
    if title:
        fig.suptitle(title, fontsize=12, color=canvas.INK)
    return canvas.write(fig, path)


def time_bins(
    path: str | os.PathLike | None,
    steps: Sequence[int],
    errors: Mapping[str, np.ndarray],
    edges: Sequence[float],
    title: str | None = None,
) -> canvas.Picture:
    """Raw errors by training step and time bin: one heat map a term, each with its logarithmic colours.

    Args:
      path: the PNG file; None: none, the picture is only returned.
      steps: training steps, rising, not necessarily evenly. A column of colours reaches half way to its neighbours.
      errors: name of a term -> raw errors [len(steps), bins]. nan, no row in the bin, is grey; inf is magenta.
      edges: of the bins, rising, [bins + 1].
      title: the line above everything.

    Raises:
      InputError: if there is no term, shapes disagree, steps or edges do not rise, or an error is negative.
    """
    steps, edges = np.asarray(steps, np.float64), np.asarray(edges, np.float64)
    errors = {name: np.asarray(panel, np.float64) for name, panel in errors.items()}
    wanted = (steps.size, max(edges.size - 1, 1))
    if not steps.size or not errors or not all(panel.shape == wanted for panel in errors.values()):
        shapes = {name: panel.shape for name, panel in errors.items()}
        raise typing.InputError(f"time_bins: the errors have shapes {shapes}; expected at least one, [steps, bins] = {wanted}.")
    if not (np.diff(steps) > 0).all() or not (np.diff(edges) > 0).all():
        raise typing.InputError("time_bins: the steps and the edges of the bins must rise.")
    if any((panel < 0).any() for panel in errors.values()):
        raise typing.InputError("time_bins: the errors must not be negative.")
    sides = _sides(steps)
    size = (max(0.4 + 4.4 * len(errors), canvas.room(title)), 3.2 + canvas.head(title))
    fig = canvas.Picture(size, dpi=canvas.DPI, layout="constrained")
    for ax, (name, panel) in zip(fig.subplots(1, len(errors), squeeze=False)[0], errors.items(), strict=True):
        scale, extend = _colours(panel, log=True)
        ax.pcolormesh(sides, edges, _kept(panel, scale).T, norm=scale.norm, cmap=scale.cmap)
        ax.set_title(f"{name}, raw error", fontsize=11, color=canvas.INK)
        ax.set(xlabel="training step", ylabel="time, 0 = data, 1 = noise")
        ax.xaxis.set_major_locator(ticker.MaxNLocator(6, integer=True) if len(steps) > 1 else ticker.FixedLocator(steps))
        if np.isfinite(panel).any():
            _bar(fig, [ax], scale, extend)
        else:
            ax.text(0.5, 0.5, "nothing recorded", transform=ax.transAxes, ha="center", va="center", color="#888888")
    if title:
        fig.suptitle(title, fontsize=12, color=canvas.INK)
    return canvas.write(fig, path)


def _places(panels):
    """(row, column) of the figure -> (name of the row or "", heading, values)."""
    if any(isinstance(row, Mapping) for row in panels.values()):
        headings = list(dict.fromkeys(heading for row in panels.values() for heading in row))
        named = [(name, heading, values) for name, row in panels.items() for heading, values in row.items()]
        keys = [(list(panels).index(name), headings.index(heading)) for name, heading, _ in named]
    else:
        named = [("", heading, values) for heading, values in panels.items()]
        keys = [divmod(index, 4) for index in range(len(named))]
    return {key: (*names, np.asarray(values, np.float64)) for key, (*names, values) in zip(keys, named, strict=True)}


def _colours(values: np.ndarray, log: bool) -> tuple[cm.ScalarMappable, str]:
    """The colours of the values, and at which end of the bar some have the colour of others."""
    finite = values[np.isfinite(values) & ((values > 0) | (not log))]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.1, 1.0)
    if log:
        low = max(low, high / 10**_DECADES)
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
    norm = (colors.LogNorm if log else colors.Normalize)(low, high)
    cmap = colormaps["viridis"].with_extremes(bad="#dddddd", over="#ff00ff")
    return cm.ScalarMappable(norm, cmap), "min" if (values < low).any() else "neither"


def _bar(fig: figure.Figure, boxes: Sequence[axes.Axes], scale: cm.ScalarMappable, extend: str) -> colorbar.Colorbar:
    if isinstance(scale.norm, colors.LogNorm) and scale.norm.vmax < 100 * scale.norm.vmin:
        # Powers of ten alone would be too few.
        bar = fig.colorbar(scale, ax=boxes, extend=extend, aspect=25, ticks=ticker.LogLocator(subs=(1, 2, 5)), format="%g")
        bar.minorticks_off()
        return bar
    return fig.colorbar(scale, ax=boxes, extend=extend, aspect=25)


def _kept(values: np.ndarray, scale: cm.ScalarMappable) -> np.ndarray:
    """The values within the scale: those below at its end, those that are infinite above it, where the colour is another."""
    inside = np.clip(values, scale.norm.vmin, scale.norm.vmax)
    return np.where(np.isinf(values), 2 * abs(scale.norm.vmax) + 1, inside)


def _sides(steps: np.ndarray) -> np.ndarray:
    """Edges half way between the steps, [len(steps) + 1]."""
    middle = (steps[1:] + steps[:-1]) / 2
    if not len(middle):
        return np.array([steps[0] - 0.5, steps[0] + 0.5])
    first = 2 * steps[0] - middle[0]
    return np.concatenate([[max(first, 0) if steps[0] > 0 else first], middle, [2 * steps[-1] - middle[-1]]])
