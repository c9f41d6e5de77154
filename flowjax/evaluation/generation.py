"""Many samples of a run, written to a folder shard by shard: bounded memory, any number of devices, resumable.

A folder holds about.json and shard_00000.npz, shard_00001.npz, ...: arrays "x" [n, ...] and "label" [n] (-1 for none), in the order
of the samples. A shard appears whole or not at all, so that what is there need not be drawn again.
"""

import json
import os
import pathlib

import jax
import numpy as np
import tqdm

from flowjax import samplers, typing
from flowjax.training import checkpoint as checkpoints, evaluation, hosts, loading, sharding, workdir as folders

ABOUT = "about.json"
DTYPES = ("float32", "uint8")


def write(
    workdir, folder, *, num=50_000, steps=1, seed=0, labels=(), average="", checkpoint="", sampler="", grid="uniform",
    guidance=None, interval=(), shard=8_192, dtype="float32",
):  # fmt: skip
    """Draws samples of a run and writes them; a call that was killed goes on, and the files are the same.

    Sample i depends on `seed` and i alone. The devices of this process share the rows; of several processes, each writes every
    so many shards.

    Args:
      workdir: the folder of the run.
      folder: where to; if it was begun by the same call, it goes on.
      num: number of samples.
      steps: of the sampler.
      seed: of the noise.
      labels: classes in turn; (): all of them in turn.
      average: decay of the averaged weights, "none" for the raw ones, "" for the run's first average.
      checkpoint: its step, or "best", by the run's config.best; "": the newest.
      sampler: name and options, "" for the run's own.
      grid: name and options, or times.
      guidance: scale, of a run that learned several; None for the median of them.
      interval: times (low, high) between which to guide, of a run that learned several; (): the widest.
      shard: samples in a file.
      dtype: "float32", or "uint8" for images, 0 to 255.

    Returns:
      The paths of this process's shards, in order.

    Raises:
      InputError: for numbers that do not fit, a folder of something else, a run that cannot be read.
    """
    for name, value in (("num", num), ("shard", shard)):
        if value < 1:
            raise typing.InputError(f"--{name}={value}: expected at least 1.")
    run = loading.load(workdir, average, step=checkpoint)
    if dtype not in DTYPES or (dtype == "uint8" and len(run.shape) != 3):
        raise typing.InputError(
            f"--dtype={dtype}: expected float32, or uint8 for images; rows of {run.settings.data.name} have shape {run.shape}."
        )
    sampler, told = sampler or run.settings.evaluation.sampler, run.conditioning(guidance, interval)
    mesh = sharding.make_mesh(devices=jax.local_devices())
    sample = evaluation.make_sampler(run.net, run.shape, sampler, told, grid=grid, path=run.settings.method.path, mesh=mesh)
    asked = evaluation.asked_labels(run, labels)
    facts = {
        "count": num, "shape": list(run.shape), "shard": shard, "dtype": dtype, "run": str(workdir), "run_step": run.step,
        "method": run.settings.method.name, "data": run.settings.data.name, "weights": int(jax.jit(checkpoints.fingerprint)(run.params)),
        "average": average or run.settings.evaluation.average, "sampler": sampler, "grid": grid, "steps": steps,
        "guidance": told.get("guidance"), "interval": list(told.get("interval", ())), "labels": asked.tolist(), "seed": seed,
    }  # fmt: skip
    samplers.check_sampler(sampler, steps, grid)
    path = pathlib.Path(folder)
    if hosts.is_main():
        _claim(path, facts)
    hosts.barrier("the folder of the samples is claimed")
    params = jax.device_get(run.params)  # of several processes, they lie on the devices of all

    starts = range(jax.process_index() * shard, num, jax.process_count() * shard)
    files = [path / f"shard_{start // shard:05d}.npz" for start in starts]
    with tqdm.tqdm(
        total=sum(min(shard, num - start) for start in starts), desc="samples", unit="row", disable=not hosts.is_main()
    ) as bar:
        for start, file in zip(starts, files):
            rows = min(shard, num - start)
            if not file.exists():
                own = np.resize(np.roll(asked, -(start % len(asked))), rows)
                _save(file, sample(params, seed, own, steps, first=start), own, dtype)
            bar.update(rows)
    hosts.barrier("all samples are written")
    return files


def read(folder, limit=None):
    """The samples of a folder and their labels, ([n, ...] float32 in the range of the data, [n] int32), up to `limit`.

    Raises:
      InputError: if the folder holds no samples, or not all of those that were asked for.
    """
    path, facts = pathlib.Path(folder), about(folder)
    wanted = min(facts["count"], limit or facts["count"])
    files = [path / f"shard_{number:05d}.npz" for number in range(-(-wanted // facts["shard"]))]
    missing = [file.name for file in files if not file.exists()]
    if missing:
        raise typing.InputError(
            f"--samples={path} lacks {missing[0]}{' and others' if missing[1:] else ''}; the command that began it goes on:"
            f" python -m experiments.generate --workdir={facts['run']} --output={path}."
        )
    parts = [np.load(file, allow_pickle=False) for file in files]
    x, label = (np.concatenate([part[name] for part in parts])[:wanted] for name in ("x", "label"))
    return (x / np.float32(127.5) - 1 if x.dtype == np.uint8 else x), label


def about(folder):
    """What a folder of samples holds, a dict; raises InputError if it is none."""
    path = pathlib.Path(folder)
    if not (path / ABOUT).exists():
        raise typing.InputError(
            f"--samples={path} holds no {ABOUT}; write samples with python -m experiments.generate --workdir=runs/NAME --output={path}."
        )
    return json.loads((path / ABOUT).read_text())


def _claim(path, facts):
    """Makes the folder and says in it what it holds; raises InputError if it holds something else."""
    if (path / ABOUT).exists():
        old = json.loads((path / ABOUT).read_text())
        differ = [name for name in facts if name != "run" and old.get(name) != facts[name]]  # a folder has many names
        if differ:
            said = "; ".join(f"{name}: {old.get(name)} there, {facts[name]} now" for name in differ)
            raise typing.InputError(f"--output={path} holds other samples ({said}); give another folder.")
        return
    # Hidden files are what a kill leaves of a file that was being written.
    if path.exists() and (not path.is_dir() or any(not entry.name.startswith(".") for entry in path.iterdir())):
        raise typing.InputError(f"--output={path} is not empty and holds no {ABOUT}; give a new or empty folder.")
    path.mkdir(parents=True, exist_ok=True)
    folders.write_text(path / ABOUT, json.dumps(facts, indent=2) + "\n")


def _save(file, x, label, dtype):
    if dtype == "uint8":
        x = np.clip(np.round((x + 1) * 127.5), 0, 255).astype(np.uint8)
    aside = file.with_name(f".{file.name}")
    with open(aside, "wb") as opened:
        np.savez(opened, x=x, label=label)
    os.replace(aside, file)
