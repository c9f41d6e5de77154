"""Pictures of samples, of maps and of training runs, written as PNG files.

The only package that imports matplotlib. Figures are separate objects on the Agg canvas, without pyplot's global state, so
these functions may run in threads and need no display. A file appears whole or not at all. Each returns its picture, which a
notebook shows; with None instead of a path that is all it does.
"""

from flowjax.plots.charts import Bar, bars, dots, grouped_bars
from flowjax.plots.curves import Labelled, labelled_points, log_curves, measure_curves, training_curves
from flowjax.plots.images import class_grid, image_grid
from flowjax.plots.lines import flow_lines
from flowjax.plots.manifolds import globes, space_grid, torus_grid
from flowjax.plots.maps import heat_maps, time_bins
from flowjax.plots.points import point_grid, trajectories, velocity_field
from flowjax.plots.words import word_grid

__all__ = [
    "Bar",
    "Labelled",
    "bars",
    "class_grid",
    "dots",
    "flow_lines",
    "globes",
    "grouped_bars",
    "heat_maps",
    "image_grid",
    "labelled_points",
    "log_curves",
    "measure_curves",
    "point_grid",
    "space_grid",
    "time_bins",
    "torus_grid",
    "training_curves",
    "trajectories",
    "velocity_field",
    "word_grid",
]
