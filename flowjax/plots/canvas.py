"""What all pictures share: colours, plain axes, and a file that appears whole or not at all."""

import io
import os

from matplotlib import axes, figure
from matplotlib.backends import backend_agg

from flowjax import buckets, folders

DPI = 100
INK, BLUE, RED = "#222222", "#3b6ea8", "#c0392b"
SERIES = (BLUE, "#d98c3f", "#4f8a5b", "#8a5a9e")


def room(text: str | None, size: float = 12) -> float:
    """Inches that the longest line of a text takes, with a margin."""
    return 0.3 + 0.0075 * size * max(map(len, (text or "").split("\n")))


def head(title: str | None) -> float:
    """Inches that the line, or lines, above everything take."""
    return 0.35 + 0.2 * title.count("\n") if title else 0.0


def plain(ax: axes.Axes, grid: str = "y") -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis=grid, color="#dddddd", linewidth=0.7)
    ax.set_axisbelow(True)


class Picture(figure.Figure):
    """A figure that a notebook shows as it is written, whatever the notebook does with matplotlib's figures."""

    def _repr_png_(self) -> bytes:
        png = io.BytesIO()
        backend_agg.FigureCanvasAgg(self).print_png(png)
        return png.getvalue()


def write(fig: Picture, path: str | os.PathLike | None) -> Picture:
    """Writes the picture, unless there is no path, and returns it."""
    if path is None:
        return fig
    path = buckets.path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with folders.replacing(path) as part:
        backend_agg.FigureCanvasAgg(fig).print_png(part)
    return fig
