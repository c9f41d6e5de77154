"""Couplings of noise and data: optimal transport within each batch, or the trajectories of a teacher, read from a folder.

A folder of trajectories holds trajectory.npy [n, K + 1, ...], from noise to generated rows, label.npy [n], and about.json with
the times and the number of rows written so far. Two points (K = 1) are the pairs of ReFlow (arXiv 2209.03003).
"""

import os
import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from flowjax import buckets, folders, opening, ownership, typing
from flowjax.data import pipeline

TRAJECTORY, LABEL = "trajectory.npy", "label.npy"
ABOUT_FIELDS = {
    "done": opening.count(),
    "count": opening.count(1),
    "num_classes": opening.count(0, 10**7),
    "shape": opening.shape,
    "times": lambda value: isinstance(value, list) and len(value) > 1 and _fall(value),
}


def _fall(times: list) -> bool:
    """Whether times fall from 1 to 0, as those of a trajectory do."""
    return (
        all(isinstance(time, float) for time in times)
        and [1.0, 0.0] == [times[0], times[-1]]
        and sorted(set(times))[::-1] == times
    )


def couple(source: pipeline.Source, coupling: str) -> pipeline.Source:
    """A source whose rows have their noise.

    Args:
      source: training rows.
      coupling: "" (independent noise: the source as it is), "ot", or a folder of trajectories, whose rows then are the
        source's.

    Raises:
      InputError: if the folder holds no whole set of trajectories, or of other data.
    """
    if not coupling:
        return source
    if source.coupled:
        raise typing.InputError(
            f"config.data.coupling is {coupling!r}, and {source.name} already pairs its rows with noise:"
            " --config.data.coupling=."
        )
    return source._replace(coupling="ot") if coupling == "ot" else trajectories(coupling, source)


def trajectories(folder: str, like: pipeline.Source) -> pipeline.Source:
    """The trajectories of a folder as a source: x and eps are the ends; with more than two points, all points and times too."""
    path = buckets.path(folder)
    hint = "write one with python -m experiments.reflow --workdir=runs/TEACHER"
    folders.check_path(path / folders.ABOUT, "config.data.coupling")
    if not buckets.exists(path / folders.ABOUT):
        raise typing.InputError(
            f"config.data.coupling is {folder!r}: no folder of trajectories; expected '', 'ot', or such a folder: {hint}."
        )
    about = folders.read_about(path, f"the description of trajectories; {hint}", ABOUT_FIELDS)
    if about["done"] < about["count"]:
        raise typing.InputError(
            f"config.data.coupling={folder} holds {about['done']} of {about['count']} rows; the command that began it"
            f" continues: {hint}."
        )
    if tuple(about["shape"]) != tuple(like.shape) or about["num_classes"] != like.num_classes:
        raise typing.InputError(
            f"config.data.coupling={folder} has rows of shape {tuple(about['shape'])} with {about['num_classes']} classes;"
            f" {like.name} has {tuple(like.shape)} with {like.num_classes}."
        )
    written = pipeline.Scaling.of(about.get("mean", 0.0), about.get("deviation", 1.0))
    if written != like.scaling:
        raise typing.InputError(
            f"config.data.coupling={folder} was written by a run with the mean {written.mean} and the deviation {written.deviation} of"
            f" config.data, and here they are {like.scaling.mean} and {like.scaling.deviation}; expected the same."
        )
    points, label = _stored(path, about, hint)
    source = recorded(f"{like.name} from {folder}", points, label if like.num_classes else None, np.asarray(about["times"]))
    # Its rows are as the network sees them already.
    return like._replace(name=source.name, size=source.size, rows=source.rows, coupled=True, scaling=pipeline.Scaling())


def _stored(path: pathlib.Path, about: dict, hint: str) -> tuple[np.ndarray, np.ndarray]:
    """(points [n, K + 1, ...], label [n]) of a folder, as large as its description says, and unchanged since they were written."""
    expected = f"trajectories of experiments.reflow; {hint}"
    arrays = []
    for name, (shape, dtype) in _arrays(about).items():
        array = opening.npy(path / name, expected)
        with opening.reading(path / name, expected):
            if array.shape != (about["count"], *shape) or array.dtype != dtype:
                raise ValueError(
                    f"it has the shape {array.shape} and type {array.dtype}, not {(about['count'], *shape)} of {dtype}"
                )
            if "checksums" in about and opening.checksum(path / name, expected) != about["checksums"].get(name):
                raise ValueError("its content is not what was written")
        arrays.append(array)
    return arrays[0], np.asarray(arrays[1])


def _arrays(about: dict) -> dict[str, tuple[tuple[int, ...], type]]:
    """{file: (shape of a row, dtype)} of a folder of trajectories."""
    return {TRAJECTORY: ((len(about["times"]), *about["shape"]), np.float32), LABEL: ((), np.int32)}


def recorded(name: str, points: np.ndarray, label: np.ndarray | None, times: np.ndarray) -> pipeline.Source:
    """A source of trajectories: `points` [n, K + 1, ...] from noise to data, `label` [n] or None, falling `times` [K + 1]."""
    times = times.astype(np.float32)

    def rows(ids: np.ndarray) -> dict[str, np.ndarray]:
        trajectory = np.asarray(points[ids])
        batch = {"x": trajectory[:, -1], "eps": trajectory[:, 0]} | ({} if label is None else {"label": label[ids]})
        if len(times) > 2:
            batch |= {"trajectory": trajectory, "times": np.broadcast_to(times, (len(ids), len(times)))}
        return batch

    return pipeline.Source(name, len(points), points.shape[2:], 0, rows, coupled=True)


def check(folder: str, about: dict, flag: str = "--output") -> None:
    """Raises InputError if `write` with these arguments would refuse the folder; writes nothing."""
    if buckets.is_remote(folder):
        raise typing.InputError(
            f"{flag}={folder}: trajectories are written row by row into two files, and objects of a bucket only whole; write them to a disk"
            " and copy the folder: it is read from there."
        )
    ownership.check_free(folder, flag)
    folders.check_claim(folder, {**about, "done": 0}, flag=flag, contents="trajectories", free=("done", "checksums"))


def _reserve(path: pathlib.Path) -> None:
    """Takes the room of a file on the disk: a full disk refuses here, and would kill who writes into a memory map of the file."""
    try:
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def write(
    folder: str, about: dict, parts: Callable[[int], tuple[np.ndarray, np.ndarray]], flag: str = "--output"
) -> Iterator[int]:
    """Writes trajectories part by part in bounded memory; the parts that an earlier, killed call wrote are kept.

    Args:
      folder: to be made, or begun by a call with the same `about`.
      about: "count", "times" [K + 1], "shape", "num_classes", and everything else that the trajectories depend on.
      parts: `start -> (trajectory [m, K + 1, ...], label [m])` of the rows from `start` on; it chooses m.
      flag: what the folder was given as, for the errors.

    Yields:
      The number of rows that are on disk, after each part.

    Raises:
      InputError: if the folder holds something else.
    """
    path = buckets.path(folder)
    check(folder, about, flag)
    with ownership.owned(path, flag):
        claimed = folders.claim(path, {**about, "done": 0}, flag=flag, contents="trajectories", free=("done", "checksums"))
        done, expected = claimed.get("done", 0), f"trajectories that an earlier call began; delete {path} to begin anew"
        if done == about["count"]:
            _stored(path, claimed, expected)
            return
        if not done:
            for name, (shape, dtype) in _arrays(about).items():
                np.lib.format.open_memmap(path / name, "w+", dtype, (about["count"], *shape)).flush()
                _reserve(path / name)
        for name in _arrays(about):
            opening.npy(path / name, expected)
        opened = [np.lib.format.open_memmap(path / name, "r+") for name in _arrays(about)]
        while done < about["count"]:
            part = parts(done)
            for array, rows in zip(opened, part):
                array[done : done + len(rows)] = rows
                array.flush()
            done += len(part[1])
            if done == about["count"]:
                about = {**about, "checksums": {name: opening.checksum(path / name, expected) for name in _arrays(about)}}
            folders.write_about(path, {**about, "done": done})
            yield done
