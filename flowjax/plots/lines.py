"""One-dimensional data over time: the lines of a flow, and jumps from one point of them to another."""

import math
import os
from collections.abc import Mapping

import numpy as np

from flowjax import typing
from flowjax.plots import canvas


def flow_lines(
    path: str | os.PathLike | None,
    panels: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]],
    flow: tuple[np.ndarray, np.ndarray],
    title: str | None = None,
) -> canvas.Picture:
    """Jumps over the lines of a flow, at most three panels a row; time from 0 = data to 1 = noise, points upwards.

    A jump is a straight line, whose slope is the average velocity; a ring stands where it starts, a dot where it lands.

    Args:
      path: the PNG file; None: none, the picture is only returned.
      panels: heading, which may hold newlines -> label -> (times, points), both [n, K + 1] or broadcast to it: n trajectories
        of K jumps.
      flow: (times [T], points [n, T]), the same lines in every panel.
      title: the line above everything.

    Raises:
      InputError: if there is no panel, or times and points do not belong together.
    """
    panels = {heading: {of: _arrays(of, *jumps) for of, jumps in panel.items()} for heading, panel in panels.items()}
    if not panels:
        raise typing.InputError("flow_lines: expected at least one panel.")
    times, lines = _arrays("flow", *flow)
    across = min(len(panels), 3)
    down, head = math.ceil(len(panels) / across), max(heading.count("\n") for heading in panels)
    size = (max(4 * across, 6, canvas.room(title)), (3 + 0.2 * head) * down + canvas.head(title))
    fig = canvas.Picture(size, dpi=canvas.DPI, layout="constrained")
    boxes = fig.subplots(down, across, squeeze=False, sharex=True, sharey=True).ravel()
    for ax, (heading, panel) in zip(boxes, panels.items()):
        ax.plot(times.T, lines.T, color="#bbbbbb", linewidth=0.6)
        for order, (of, (s, x)) in enumerate(panel.items()):
            style = {"color": canvas.SERIES[order % len(canvas.SERIES)], "zorder": 3}
            ax.plot(s.T, x.T, linewidth=1.2, alpha=0.8, **style)
            ax.plot(s[:, 0], x[:, 0], linestyle="none", marker="o", markersize=6, fillstyle="none", **style)
            ax.plot(s[:, 1:].ravel(), x[:, 1:].ravel(), linestyle="none", marker="o", markersize=4, label=of, **style)
        ax.set_title(heading, fontsize=11, color=canvas.INK)
        canvas.plain(ax)
        if len(panel) > 1:
            ax.legend(frameon=False, fontsize=8)
    for ax in boxes[len(panels) :]:
        ax.remove()
    fig.supxlabel("time, 0 = data, 1 = noise", fontsize=10)
    fig.supylabel("x", fontsize=10)
    if title:
        fig.suptitle(title, fontsize=12, color=canvas.INK)
    return canvas.write(fig, path)


def _arrays(name: str, times: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Times and points as [n, K + 1] each."""
    times, points = np.asarray(times, np.float64), np.asarray(points, np.float64)
    try:
        times, points = np.broadcast_arrays(np.atleast_2d(times), np.atleast_2d(points))
    except ValueError:
        times = np.empty(0)
    if times.ndim != 2 or times.shape[1] < 2:
        raise typing.InputError(
            f"flow_lines: the points of {name!r} have shape {points.shape}; expected [n, jumps + 1], and times that broadcast"
            " to it."
        )
    return times, points
