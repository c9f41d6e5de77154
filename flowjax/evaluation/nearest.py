"""The training rows that are nearest to samples, to see whether a sample is a copy."""

from typing import NamedTuple

import numpy as np

from flowjax import data, evals
from flowjax.training import loading

SEARCHED = 10**8  # most numbers of training rows and their mirror images, in memory three times as float64
HELD_OUT = 1_000  # held-out rows whose distances stand beside those of samples


class Nearest(NamedTuple):
    """Of each sample.

    Attributes:
      rows: the nearest training rows, like the samples; one that is nearer mirrored is mirrored, if the training mirrored rows.
      distances: root mean square differences to them, [n].
      searched: training rows among which they were searched.
      size: all training rows.
    """

    rows: np.ndarray
    distances: np.ndarray
    searched: int
    size: int


def training_rows(run: loading.Trained, samples: np.ndarray) -> Nearest:
    """The nearest training row of each sample.

    Args:
      run: the run of the samples.
      samples: [n, H, W, C], in the range of the data.
    """
    source = run.source("train")
    mirrored = run.settings.data.flip and source.mirrored is None
    rows = _rows(run, "train", max(SEARCHED // (samples[0].size * (1 + mirrored)), 1))
    seen = np.concatenate([rows, rows[:, :, ::-1]]) if mirrored else rows
    ids, distances = evals.neighbours.nearest_rows(samples, seen)
    return Nearest(seen[ids], distances / np.sqrt(samples[0].size), len(rows), source.size)


def held_out_distances(run: loading.Trained) -> np.ndarray:
    """The distances of held-out rows to their nearest training rows, as those of `training_rows`."""
    return training_rows(run, _rows(run, "test", HELD_OUT)).distances


def _rows(run: loading.Trained, split: str, limit: int) -> np.ndarray:
    """Rows of a split, evenly from all of it."""
    source = run.source(split)
    count = min(source.size, limit)
    chosen = source._replace(size=count, rows=lambda ids: source.rows(ids * source.size // count))
    return data.arrays(chosen)["x"]
