"""Points of other spaces than R^n: densities on the globe, on the torus, of orientations."""

import math
import os
from collections.abc import Callable, Mapping

import numpy as np
from matplotlib import colors

from flowjax import typing
from flowjax.plots import canvas, points


def space_grid(
    path: str | os.PathLike | None, panels: Mapping[str, np.ndarray], space: str, title: str | None = None
) -> canvas.Picture:
    """Densities of points of a space side by side, in the picture that suits it; the panel "data", or all, fixes the colours.

    Args:
      path: the PNG file; None: none, the picture is only returned.
      panels: heading -> points [n, D].
      space: the name of a flowjax.spaces.Space. Points of the sphere in three dimensions are on globes, angles on squares (the first
        two), rotations on globes by where they turn the first axis to; of others the first two coordinates are shown.
      title: the line above everything.
    """
    widths = {x.shape[1] for x in panels.values()}
    if space == "sphere" and widths == {3}:
        return globes(path, panels, title)
    if space == "so3":
        return globes(path, {name: x.reshape(-1, 3, 3)[:, :, 0] for name, x in panels.items()}, title)
    if space == "torus" and min(widths) >= 2:
        return torus_grid(path, {name: x[:, :2] for name, x in panels.items()}, title)
    return points.point_grid(path, {name: x[:, :2] for name, x in panels.items()}, title=title)


def globes(
    path: str | os.PathLike | None,
    panels: Mapping[str, np.ndarray],
    title: str | None = None,
    reference: np.ndarray | None = None,
) -> canvas.Picture:
    """Densities of points of the unit sphere as maps of the globe side by side, in Mollweide's projection, at most three a row.

    The projection keeps areas, and so do the bins: what is twice as dense is as much brighter everywhere. Colours follow the root of
    the density. North, the last axis, is above; the first axis is in the middle, longitude 0.

    Args:
      path: the PNG file; None: none, the picture is only returned.
      panels: heading, which may hold newlines -> points [n, 3], of length 1.
      title: the line above everything.
      reference: points that fix the colours; without it the panel "data", without that all panels.

    Raises:
      InputError: if there are no panels, or an array has another shape.
    """
    across = lambda x: (np.arctan2(x[:, 1], x[:, 0]), np.clip(x[:, 2], -1, 1))
    return _maps("globes", path, panels, title, reference, 3, across, "mollweide")


def torus_grid(
    path: str | os.PathLike | None,
    panels: Mapping[str, np.ndarray],
    title: str | None = None,
    reference: np.ndarray | None = None,
) -> canvas.Picture:
    """Densities of pairs of angles side by side, on squares whose opposite sides are one, in degrees; arguments as in `globes`.

    Args:
      panels: heading -> angles [n, 2] in radians.
    """
    wrapped = lambda angle: (angle + np.pi) % (2 * np.pi) - np.pi
    return _maps("torus_grid", path, panels, title, reference, 2, lambda x: (wrapped(x[:, 0]), wrapped(x[:, 1])), None)


def _maps(
    function: str,
    path: str | os.PathLike | None,
    panels: Mapping[str, np.ndarray],
    title: str | None,
    reference: np.ndarray | None,
    width: int,
    coordinates: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    projection: str | None,
) -> canvas.Picture:
    """One map a panel; globes have the sine of the latitude as second coordinate, in which equal bins have equal areas."""
    panels = {name: points.checked(function, name, x, width) for name, x in panels.items()}
    if not panels:
        raise typing.InputError(f"{function}: expected at least one panel of points [n, {width}].")
    if reference is None:
        reference = panels.get("data", np.concatenate(list(panels.values())))
    reference = points.checked(function, "reference", reference, width)
    count = int(np.clip(math.sqrt(len(reference) / 4), 16, 90))
    globe = projection is not None
    edges = (np.linspace(-np.pi, np.pi, 2 * count + 1), np.linspace(-1, 1, count + 1) * (1 if globe else np.pi))
    if not globe:
        edges = (edges[1], edges[1])

    def density(x):
        return np.histogram2d(*coordinates(x[np.isfinite(x).all(axis=1)]), bins=edges)[0] / max(len(x), 1)

    occupied = density(reference)
    occupied = occupied[occupied > 0]
    norm = colors.PowerNorm(0.5, 0, float(np.quantile(occupied, 0.98)) if len(occupied) else 1.0)
    across = min(len(panels), 3 if globe else 6)
    down = math.ceil(len(panels) / across)
    lines = max(name.count("\n") + 1 for name in panels)
    side = (4.2, 2.1) if globe else (2.8, 2.8)
    size = (max(side[0] * across, canvas.room(title)), (side[1] + 0.2 * lines) * down + canvas.head(title))
    fig = canvas.Picture(size, dpi=canvas.DPI, layout="constrained")
    for index, (name, x) in enumerate(panels.items()):
        ax = fig.add_subplot(down, across, index + 1, projection=projection)
        ax.set_title(name, fontsize=10, color=canvas.INK)
        shown = (edges[0], np.arcsin(edges[1])) if globe else tuple(map(np.rad2deg, edges))
        ax.pcolormesh(*shown, density(x).T, cmap="magma", norm=norm, rasterized=True)
        ax.set(xticks=[] if globe else [-180, 0, 180], yticks=[] if globe else [-180, 0, 180])
        if not globe:
            ax.set_aspect("equal")
    if title:
        fig.suptitle(title, fontsize=12, color=canvas.INK)
    return canvas.write(fig, path)
