"""Many samples of a run, written to a folder shard by shard: bounded memory, any number of devices, resumable.

A folder holds about.json and shard_00000.npz, shard_00001.npz, ...: arrays "x" [n, ...] and "label" [n] (-1 for none), in the
order of the samples. A shard appears whole or not at all, so that a later call draws only the missing ones.
"""

import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import tqdm

from flowjax import buckets, evals, folders, opening, samplers, typing
from flowjax.training import checkpoint as checkpoints, hosts, loading, room, sampling

DTYPES = ("float32", "uint8")
SHARD = 8_192  # most samples in a file
_FIELDS = {
    "count": opening.count(1), "shard": opening.count(1), "shape": opening.shape, "dtype": DTYPES.__contains__,
    "run": opening.text, "data": opening.text, "steps": opening.count(1), "sampler": opening.text, "average": opening.text,
    "guidance": lambda value: value is None or isinstance(value, (int, float)),
    "interval": lambda value: isinstance(value, list) and len(value) in (0, 2),
}  # fmt: skip


def write(
    workdir: str | os.PathLike, folder: str | os.PathLike, *, num: int = 50_000, steps: int = 1, seed: int = 0,
    labels: Sequence[int] = (), average: str = "", checkpoint: str = "", sampler: str = "", grid: str = "",
    guidance: float | None = None, interval: tuple[float, ...] = (), shard: int = 0, dtype: str = "float32",
) -> list[pathlib.Path]:  # fmt: skip
    """Draws samples of a run and writes them; the same call continues after a kill, and the files are the same.

    Sample i depends on `seed` and i alone. The devices of this process share the rows; process p of P writes the shards p, p +
    P, ...

    Args:
      workdir: the folder of the run.
      folder: where to; if the same call began it, the missing shards are written.
      num: number of samples.
      steps: of the sampler.
      seed: of the noise.
      labels: classes in turn; (): all of them in turn.
      average: name of the averaged weights, "none" for the raw ones, "" for the run's first average.
      checkpoint: its step, or "best", by the run's config.best; "": the newest.
      sampler: name and options, "" for that of the run.
      grid: name and options, or times; "" for that of the run.
      guidance: scale, of a run that learned several; None for the median of them.
      interval: times (low, high) between which to guide, of a run that learned several; (): the widest.
      shard: samples in a file; 0: as many as the call that began the folder took, else at most SHARD, and as many files
        for every process.
      dtype: "float32", or "uint8" for images, 0 to 255.

    Returns:
      The paths of this process's shards, in order.

    Raises:
      InputError: for numbers that do not fit, a folder of something else, a run that cannot be read.
    """
    for name, value, least in (("num", num, 1), ("shard", shard, 0)):
        if value < least:
            raise typing.InputError(f"--{name}={value}: expected at least {least}.")
    folders.check_path(folder, "--output")
    begun = buckets.exists(buckets.path(folder) / folders.ABOUT)
    if not begun:
        folders.check_free(folder, folders.ABOUT, "--output")
    shard = shard or (about(folder)["shard"] if begun else samples_in_a_file(num, jax.process_count()))
    run = loading.load(workdir, average, step=checkpoint, devices=jax.local_devices())
    room.check_host(f"--shard={shard:,}: the samples of a file", 4 * shard * math.prod(run.shape))
    _check_dtype(dtype, run)
    sampler, grid = sampler or run.settings.evaluation.sampler, grid or run.settings.evaluation.grid
    samplers.check_sampler(sampler, steps, grid, run.settings.method.path)
    classes = sampling.classes_to_sample(run.num_classes, labels, run.settings.data.name)
    facts = {
        "count": num, "shape": list(run.shape), "shard": shard, "dtype": dtype, "run": str(workdir), **facts_of(run),
        "average": average or run.settings.evaluation.average, "sampler": sampler,
        "grid": grid, "steps": steps, "guidance": None, "interval": [], "labels": classes.tolist(), "seed": seed,
    }  # fmt: skip
    conditioning = run.conditioning(guidance, interval)
    facts |= {name: list(value) if isinstance(value, tuple) else value for name, value in conditioning.items()}
    with hosts.claimed(folder, facts, contents="samples", free=("run",)):  # a folder of a run has many names
        return _write_shards(run, buckets.path(folder), facts, conditioning)


def samples_in_a_file(num: int, processes: int) -> int:
    """At most SHARD, and so many that all processes write the same number of files where there are samples for all."""
    rounds = -(-num // (processes * SHARD))
    return -(-num // (processes * rounds))


def _check_dtype(dtype: str, run: loading.Trained) -> None:
    if dtype not in DTYPES or (dtype == "uint8" and len(run.shape) != 3):
        raise typing.InputError(
            f"--dtype={dtype}: expected float32, or uint8 for images; rows of {run.settings.data.name} have shape {run.shape}."
        )


def facts_of(run: loading.Trained) -> dict[str, Any]:
    """The run and its weights, for about.json."""
    return {
        "run_step": run.step, "method": run.settings.method.name, "data": run.settings.data.name,
        "weights": int(jax.jit(checkpoints.fingerprint)(run.params)),
    }  # fmt: skip


def _write_shards(
    run: loading.Trained, path: pathlib.Path, facts: dict[str, Any], conditioning: dict[str, Any]
) -> list[pathlib.Path]:
    """Draws and writes the missing shards of this process; returns all its shards."""
    num, shard, classes = facts["count"], facts["shard"], facts["labels"]
    sample = run.sampler(facts["sampler"], facts["grid"], conditioning)
    starts = range(jax.process_index() * shard, num, jax.process_count() * shard)
    files = [path / f"shard_{start // shard:05d}.npz" for start in starts]
    total = sum(min(shard, num - start) for start in starts)
    with tqdm.tqdm(total=total, desc="samples", unit="row", disable=not hosts.is_main()) as bar:
        for start, file in zip(starts, files):
            rows = min(shard, num - start)
            if not file.exists():
                labels = np.resize(np.roll(classes, -(start % len(classes))), rows).astype(np.int32)
                _save(file, sample(run.params, facts["seed"], labels, facts["steps"], first=start), labels, facts["dtype"])
            bar.update(rows)
    hosts.barrier("all samples are written")
    return files


def read(folder: str | os.PathLike, limit: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The samples of a folder and their labels, ([n, ...] float32 in the range of the data, [n] int32), up to `limit`.

    Raises:
      InputError: if the folder holds no samples, or not all of the first `limit`.
    """
    path, facts = buckets.path(folder), about(folder)
    wanted = min(facts["count"], limit or facts["count"])
    file = lambda number: path / f"shard_{number:05d}.npz"
    numbers = range(-(-wanted // facts["shard"]))
    missing = next((file(number).name for number in numbers if not file(number).exists()), "")
    if missing:
        raise typing.InputError(
            f"--samples={path} lacks {missing}; the command that began it continues:"
            f" python -m experiments.generate --workdir={facts['run']} --output={path}."
        )
    parts = [shard(path, facts, number) for number in numbers]
    x, label = (np.concatenate([part[name] for part in parts])[:wanted] for name in ("x", "label"))
    return (x / np.float32(127.5) - 1 if x.dtype == np.uint8 else x), label


def about(folder: str | os.PathLike) -> dict[str, Any]:
    """The description of a folder of samples; raises InputError if it is none."""
    path = buckets.path(folder)
    folders.check_path(path / folders.ABOUT, "--samples")
    if not buckets.exists(path / folders.ABOUT):
        raise typing.InputError(
            f"--samples={path} holds no {folders.ABOUT}; write samples with python -m experiments.generate --workdir=runs/NAME"
            f" --output={path}."
        )
    return folders.read_about(path, "the description of samples of experiments.generate; write them again", _FIELDS)


def shard(path: str | os.PathLike, facts: dict[str, Any], number: int) -> dict[str, np.ndarray]:
    """The arrays of one shard of a folder, as large as its description says, see `about`."""
    file = buckets.path(path) / f"shard_{number:05d}.npz"
    expected = "samples of experiments.generate; delete it, and the command that wrote it writes it again"
    arrays = opening.npz(file, expected, ("x", "label"))
    rows = min(facts["shard"], facts["count"] - number * facts["shard"])
    with opening.reading(file, expected):
        if arrays["x"].shape != (rows, *facts["shape"]) or arrays["label"].shape != (rows,):
            raise ValueError(
                f"it has rows {arrays['x'].shape} and labels {arrays['label'].shape}, not {(rows, *facts['shape'])}"
            )
        if arrays["x"].dtype != facts["dtype"] or arrays["label"].dtype != np.int32:
            raise ValueError(f"it has the types {arrays['x'].dtype} and {arrays['label'].dtype}")
    return arrays


def _save(file: pathlib.Path, x: np.ndarray, label: np.ndarray, dtype: str) -> None:
    folders.write_npz(file, x=evals.features.rounded(x) if dtype == "uint8" else x, label=label)
