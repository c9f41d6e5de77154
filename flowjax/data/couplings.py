"""Which noise belongs to which row: optimal transport in each batch, or the trajectories of a teacher, read from a folder.

A folder of trajectories holds trajectory.npy [n, K + 1, ...], from noise to what was generated, label.npy [n] and about.json, which
says at what times and how many rows are there. Two points (K = 1) are the pairs of ReFlow (arXiv 2209.03003).
"""

import json
import os
import pathlib

import numpy as np

from flowjax import typing
from flowjax.data import pipeline

ABOUT, TRAJECTORY, LABEL = "about.json", "trajectory.npy", "label.npy"


def couple(source: pipeline.Source, coupling: str) -> pipeline.Source:
    """A source whose rows have their noise.

    Args:
      source: training rows.
      coupling: "" (independent noise: the source as it is), "ot", or a folder of trajectories, whose rows then are the source's.

    Raises:
      InputError: if the folder holds no whole set of trajectories, or of other data.
    """
    if not coupling:
        return source
    if source.coupled:
        raise typing.InputError(
            f"config.data.coupling is {coupling!r}, and {source.name} already pairs its rows with noise: --config.data.coupling=."
        )
    return source._replace(coupling="ot") if coupling == "ot" else trajectories(coupling, source)


def trajectories(folder: str, like: pipeline.Source) -> pipeline.Source:
    """The trajectories of a folder as a source: x and eps are their ends; with more than two points also all of them, and their times."""
    path = pathlib.Path(folder)
    hint = "write one with python -m experiments.reflow --workdir=runs/TEACHER"
    if not (path / ABOUT).exists():
        raise typing.InputError(
            f"config.data.coupling is {folder!r}: no folder of trajectories; expected '', 'ot', or such a folder: {hint}."
        )
    about = json.loads((path / ABOUT).read_text())
    if about["done"] < about["count"]:
        raise typing.InputError(
            f"config.data.coupling={folder} holds {about['done']} of {about['count']} rows; the command that began it goes on: {hint}."
        )
    if tuple(about["shape"]) != tuple(like.shape) or about["num_classes"] != like.num_classes:
        raise typing.InputError(
            f"config.data.coupling={folder} has rows of shape {tuple(about['shape'])} with {about['num_classes']} classes;"
            f" {like.name} has {tuple(like.shape)} with {like.num_classes}."
        )
    points = np.load(path / TRAJECTORY, mmap_mode="r", allow_pickle=False)
    label = np.load(path / LABEL, allow_pickle=False)
    source = recorded(f"{like.name} from {folder}", points, label if like.num_classes else None, np.asarray(about["times"]))
    return source._replace(num_classes=like.num_classes)


def recorded(name, points, label, times):
    """A source of trajectories: `points` [n, K + 1, ...] from noise to data, `label` [n] or None, `times` [K + 1] from 1 to 0."""
    times = times.astype(np.float32)

    def rows(ids):
        own = np.asarray(points[ids])
        found = {"x": own[:, -1], "eps": own[:, 0]} | ({} if label is None else {"label": label[ids]})
        if len(times) > 2:
            found |= {"trajectory": own, "times": np.broadcast_to(times, (len(own), len(times)))}
        return found

    return pipeline.Source(name, len(points), points.shape[2:], 0, rows, coupled=True)


def write(folder: str, about: dict, parts, flag: str = "--output"):
    """Writes trajectories part by part in bounded memory; what an earlier, killed call wrote is kept.

    Args:
      folder: to be made, or begun by a call with the same `about`.
      about: "count", "times" [K + 1], "shape", "num_classes", and whatever tells these trajectories from others.
      parts: `start -> (trajectory [m, K + 1, ...], label [m])` of the rows from `start` on; m is its choice.
      flag: what the folder was given as, for the errors.

    Yields:
      The number of rows that are on disk, after each part.

    Raises:
      InputError: if the folder holds something else.
    """
    path = pathlib.Path(folder)
    arrays = {TRAJECTORY: ((len(about["times"]), *about["shape"]), np.float32), LABEL: ((), np.int32)}
    if (path / ABOUT).exists():
        old = json.loads((path / ABOUT).read_text())
        done = old.pop("done")
        differ = [name for name in about if json.loads(json.dumps(about[name])) != old.get(name)]
        if differ:
            said = "; ".join(f"{name}: {old.get(name)} there, {about[name]} now" for name in differ)
            raise typing.InputError(f"{flag}={path} holds other trajectories ({said}); give another folder.")
    else:
        # Hidden files are what a kill leaves of a file that was being written.
        if path.exists() and (not path.is_dir() or any(not entry.name.startswith(".") for entry in path.iterdir())):
            raise typing.InputError(f"{flag}={path} is not empty and holds no {ABOUT}; give a new or empty folder.")
        path.mkdir(parents=True, exist_ok=True)
        done = 0
        _note(path, about, done)  # first, so that a call that is killed here is recognised
    if not done:
        for name, (shape, dtype) in arrays.items():
            np.lib.format.open_memmap(path / name, "w+", dtype, (about["count"], *shape)).flush()
    opened = [np.lib.format.open_memmap(path / name, "r+") for name in arrays]
    while done < about["count"]:
        for array, part in zip(opened, found := parts(done)):
            array[done : done + len(part)] = part
            array.flush()
        done += len(found[1])
        _note(path, about, done)
        yield done


def _note(path, about, done):
    aside = path / f".{ABOUT}"
    aside.write_text(json.dumps({**about, "done": done}, indent=2) + "\n")
    os.replace(aside, path / ABOUT)
