"""Points of the plane: their density, their trajectories under a map, the velocity that moves them."""

import math
import os
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import axes, colors, quiver

from flowjax import typing
from flowjax.plots import canvas


def point_grid(
    path: str | os.PathLike | None,
    panels: Mapping[str, np.ndarray],
    title: str | None = None,
    reference: np.ndarray | None = None,
) -> canvas.Picture:
    """Densities of 2-D points side by side, on the same axes, bins and colours; at most six panels a row.

    Args:
      path: the PNG file; None: none, the picture is only returned.
      panels: heading, which may hold newlines -> points [n, 2].
      title: the line above everything.
      reference: points [n, 2] that fix the axes and the colours; without it the panel "data", without that all panels.

    Points beyond the axes or not finite are not drawn; a panel that loses over 1% of its points states the share.
    """
    panels = {name: checked("point_grid", name, points) for name, points in panels.items()}
    if reference is None:
        reference = panels["data"] if "data" in panels else np.concatenate(list(panels.values()))
    edges, brightest = _density_frame(checked("point_grid", "reference", reference))
    fig, boxes = _squares(list(panels), title)
    for ax, points in zip(boxes, panels.values(), strict=True):
        _draw_density(ax, points, edges, "magma", brightest)
        _note_lost(ax, points, edges, "not shown", "white")
    return canvas.write(fig, path)


def trajectories(
    path: str | os.PathLike | None, panels: Mapping[str, np.ndarray], reference: np.ndarray, title: str | None = None
) -> canvas.Picture:
    """Trajectories of points from noise to data, over the density of the data; on the same axes, at most six panels a row.

    Args:
      path: the PNG file; None: none, the picture is only returned.
      panels: heading -> points [n, K + 1, 2]: n starts and where each of K steps led. Up to K = 8 every step has a mark.
      reference: points [m, 2] of the data. The axes hold them and all starts.
      title: the line above everything.

    What lies beyond the axes or is not finite is not drawn; a panel that loses over 1% of its ends states the share.

    Raises:
      InputError: if there are no panels, or an array has another shape.
    """
    panels = {name: np.asarray(rows, np.float64) for name, rows in panels.items()}
    if not panels or not all(
        rows.ndim == 3 and len(rows) and rows.shape[1] > 1 and rows.shape[2] == 2 for rows in panels.values()
    ):
        shapes = {name: rows.shape for name, rows in panels.items()}
        raise typing.InputError(f"trajectories: the panels have shapes {shapes}; expected at least one, [n, steps + 1, 2].")
    reference = checked("trajectories", "reference", reference)
    edges, brightest = _density_frame(reference, np.concatenate([rows[:, 0] for rows in panels.values()]))
    fig, boxes = _squares(list(panels), title, side=3.2, below=0.3, least=4.2)
    marks = {"linestyle": "none", "marker": "o", "markeredgewidth": 0}
    for ax, rows in zip(boxes, panels.values(), strict=True):
        _draw_density(ax, reference, edges, "Greys", brightest / 0.4)
        ax.plot(*rows.transpose(2, 1, 0), color=canvas.INK, linewidth=0.6, alpha=0.5)
        ax.plot(*rows[:, 0].T, color=canvas.BLUE, markersize=3.6, label="start, noise", **marks)
        if rows.shape[1] <= 9:
            ax.plot(*rows[:, 1:-1].reshape(-1, 2).T, color=canvas.INK, markersize=2.2, label="step between", **marks)
        ax.plot(*rows[:, -1].T, color=canvas.RED, markersize=3.6, label="end", **marks)
        _note_lost(ax, rows[:, -1], edges, "of the ends not shown", canvas.INK)
    handles = {label: handle for ax in boxes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    fig.legend(handles.values(), handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9, markerscale=1.6)
    return canvas.write(fig, path)


def velocity_field(
    path: str | os.PathLike | None,
    fields: Mapping[str, tuple[np.ndarray, np.ndarray]],
    reference: np.ndarray,
    title: str | None = None,
) -> canvas.Picture:
    """Arrows along velocities, coloured by speed, over the density of the data; on the same axes, at most six panels a row.

    Args:
      path: the PNG file; None: none, the picture is only returned.
      fields: heading -> (points [g, 2], velocities [g, 2]), best on a grid. What is not finite has no arrow.
      reference: points [m, 2] of the data. The axes hold them and all points.
      title: the line above everything.

    Lengths and colours are the same in all panels and follow the square root of the speed; the fastest 2% look alike.

    Raises:
      InputError: if there is no field, or an array has another shape.
    """
    kept = {}
    for name, pair in fields.items():
        points, velocities = (checked("velocity_field", name, array) for array in pair)
        if points.shape != velocities.shape:
            raise typing.InputError(f"velocity_field: {name!r} has {len(points)} points and {len(velocities)} velocities.")
        finite = np.isfinite(points).all(axis=1) & np.isfinite(velocities).all(axis=1)
        kept[name] = points[finite], velocities[finite]
    if not kept:
        raise typing.InputError("velocity_field: expected at least one field.")
    reference = checked("velocity_field", "reference", reference)
    everywhere = np.concatenate([points for points, _ in kept.values()])
    edges, brightest = _density_frame(reference, everywhere)
    # The side of the square that a point has for itself: longer arrows of neighbours would cross.
    widest = float(np.ptp(everywhere, axis=0).max()) if len(everywhere) else 0.0
    longest = 0.95 * widest / math.sqrt(max(1, *(len(points) for points, _ in kept.values()))) or 1.0
    speeds = np.concatenate([np.linalg.norm(velocities, axis=1) for _, velocities in kept.values()])
    fastest = (float(np.quantile(speeds, 0.98)) or float(speeds.max()) or 1.0) if len(speeds) else 1.0
    fig, boxes = _squares(list(kept), title, side=3.2, beside=0.8)
    for ax, (points, velocities) in zip(boxes, kept.values(), strict=True):
        _draw_density(ax, reference, edges, "Greys", brightest / 0.4)
        arrows = _draw_arrows(ax, points, velocities, fastest, longest)
    fig.colorbar(arrows, ax=boxes, label="speed", extend="max" if (speeds > fastest).any() else "neither", aspect=25)
    return canvas.write(fig, path)


def checked(function: str, name: str, points: np.ndarray, width: int = 2) -> np.ndarray:
    """Points [n, width] of a picture as float64; raises InputError, naming function and panel, for another shape."""
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != width:
        raise typing.InputError(f"{function}: {name!r} has shape {points.shape}; expected [n, {width}].")
    return points


def _squares(
    headings: Sequence[str], title: str | None, side: float = 2.7, below: float = 0.0, beside: float = 0.0, least: float = 0.0
) -> tuple[canvas.Picture, list[axes.Axes]]:
    """A figure of square panels, at most six a row, at least `least` inches wide, with room for what is below and beside."""
    across = min(len(headings), 6)
    down = math.ceil(len(headings) / across)
    lines = max(heading.count("\n") + 1 for heading in headings)
    width = max(side * across + beside, least, canvas.room(title))
    size = (width, (side - 0.1 + 0.2 * lines) * down + canvas.head(title) + below)
    fig = canvas.Picture(size, dpi=canvas.DPI, layout="constrained")
    boxes = [fig.add_subplot(down, across, index + 1) for index in range(len(headings))]
    for ax, heading in zip(boxes, headings, strict=True):
        ax.set_title(heading, fontsize=10, color=canvas.INK)
        ax.set(xticks=[], yticks=[])
    if title:
        fig.suptitle(title, fontsize=12, color=canvas.INK)
    fig.get_layout_engine().set(h_pad=0.08, w_pad=0.06)
    return fig, boxes


def _density_frame(reference: np.ndarray, others: np.ndarray | None = None) -> tuple[list[np.ndarray], float]:
    """Bin edges of a square around the points [n, 2], and the density of the reference that gets the brightest colour."""
    finite = reference[np.isfinite(reference).all(axis=1)]
    low, high = np.quantile(finite, [0.001, 0.999], axis=0) if len(finite) else (-np.ones(2), np.ones(2))
    # About ten points in an occupied bin: finer bins would show noise.
    bins, extent = np.clip(math.sqrt(len(finite) / 4), 24, 120), float((high - low).max())
    if others is not None and np.isfinite(others).all(axis=1).any():
        others = others[np.isfinite(others).all(axis=1)]
        low, high = np.minimum(low, others.min(axis=0)), np.maximum(high, others.max(axis=0))
        bins = min(bins * float((high - low).max()) / max(extent, 1e-6), 240)
    middle, half = (low + high) / 2, 0.56 * max(float((high - low).max()), 1e-6)
    edges = [np.linspace(center - half, center + half, int(bins) + 1) for center in middle]
    occupied = _density(finite, edges)
    occupied = occupied[occupied > 0]
    return edges, float(np.quantile(occupied, 0.98)) if len(occupied) else 1.0


def _density(points: np.ndarray, edges: list[np.ndarray]) -> np.ndarray:
    """Share of the points [n, 2] in each bin."""
    finite = points[np.isfinite(points).all(axis=1)]
    return np.histogram2d(*finite.T, bins=edges)[0] / max(len(points), 1)


def _draw_density(ax: axes.Axes, points: np.ndarray, edges: list[np.ndarray], cmap: str, brightest: float) -> None:
    extent = (edges[0][0], edges[0][-1], edges[1][0], edges[1][-1])
    density = _density(points, edges).T
    ax.imshow(density, origin="lower", extent=extent, cmap=cmap, vmin=0, vmax=brightest, interpolation="nearest")
    ax.set(xlim=extent[:2], ylim=extent[2:], autoscale_on=False)


def _draw_arrows(ax: axes.Axes, points: np.ndarray, velocities: np.ndarray, fastest: float, longest: float) -> quiver.Quiver:
    speed = np.linalg.norm(velocities, axis=1)
    lengths = longest * np.sqrt(np.minimum(speed / fastest, 1))
    arrows = velocities * (lengths / np.where(speed > 0, speed, 1))[:, None]
    place = {"pivot": "mid", "angles": "xy", "scale_units": "xy", "scale": 1}
    form = {"width": 0.005, "headwidth": 4, "headlength": 4, "headaxislength": 3.5, "minshaft": 1.5, "minlength": 0.3}
    return ax.quiver(*points.T, *arrows.T, speed, cmap="viridis", norm=colors.PowerNorm(0.5, 0, fastest), **place, **form)


def _note_lost(ax: axes.Axes, points: np.ndarray, edges: list[np.ndarray], what: str, colour: str) -> None:
    shown = _density(points, edges).sum()
    if shown < 0.99:
        note = f"{100 * (1 - shown):.0f}% {what}"
        ax.text(0.97, 0.03, note, transform=ax.transAxes, ha="right", va="bottom", color=colour, fontsize=8)
