"""Trajectories of a trained velocity, written to a folder: couplings for ReFlow, and the data of consistency mid-training."""

import functools
import os
from collections.abc import Callable

import jax
import numpy as np
import tqdm

from flowjax import checks, conditioning, data, methods, paths, samplers, typing
from flowjax.data import couplings
from flowjax.training import loading, sampling

SOLVERS = {"euler": samplers.euler, "heun": samplers.heun}


def write(
    workdir: str | os.PathLike,
    folder: str | os.PathLike,
    *,
    num: int = 65_536,
    steps: int = 64,
    points: int = 2,
    solver: str = "heun",
    seed: int = 0,
    part: int = 1_024,
) -> None:
    """Solves from noise to data along the velocity V(x, t, t) of a run, and writes the trajectories.

    Row i depends on `seed` and i alone. Labels are those of the training data, in their order, repeated.

    Args:
      workdir: the folder of the run.
      folder: of the trajectories. A call with the same arguments continues a killed one.
      num: number of trajectories.
      steps: of the solver, uniform in time.
      points: stored points of each trajectory, evenly spaced: 2 (the ends) up to steps + 1; one less divides `steps`.
      solver: "euler" or "heun".
      seed: of the noise.
      part: trajectories that are solved at once.

    Raises:
      InputError: for numbers that do not fit together, a folder of something else, a run that cannot be read.
    """
    _check(num, steps, points, solver, part)
    run = loading.load(workdir)
    info = methods.info(run.settings.method.name)
    if not info.learns_velocity:
        raise typing.InputError(
            f"--workdir={workdir} is a run of {run.settings.method.name!r}, which learns {info.learns} and no velocity"
            " V(x, t, t); give a run of flow_matching, for example."
        )
    times = np.linspace(1.0, 0.0, points)
    about = {
        "count": num, "shape": list(run.shape), "num_classes": run.num_classes, "times": times.tolist(),
        "data": run.settings.data.name, "teacher": str(workdir), "teacher_step": run.step, "solver": solver,
        "steps": steps, "seed": seed,
    }  # fmt: skip
    if run.settings.data.scaling != data.Scaling():  # rows are written as the network sees them
        about |= {name: list(value) for name, value in run.settings.data.scaling._asdict().items()}
    couplings.check(str(folder), about)
    labels, carry = _labels(run, num), _carry(run, SOLVERS[solver], steps, points)

    def trajectory(start):
        # Every part has one shape, so one compilation; surplus rows are dropped.
        index = np.arange(start, start + min(part, num))
        label = labels[index % len(labels)]
        rows = carry(run.params, jax.random.key(seed), index, label)
        kept = min(len(index), num - start)
        return np.asarray(rows)[:kept], label[:kept]

    with tqdm.tqdm(total=num, desc="trajectories", unit="row", delay=1) as bar:
        for done in couplings.write(folder, about, trajectory):
            bar.update(done - bar.n)


def _check(num: int, steps: int, points: int, solver: str, part: int) -> None:
    """Raises InputError for arguments of `write` that do not fit together."""
    checks.member("solver", solver, SOLVERS)
    for name, value in (("num", num), ("steps", steps), ("part", part)):
        if value < 1:
            raise typing.InputError(f"--{name}={value}: expected at least 1.")
    if not 2 <= points <= steps + 1 or steps % (points - 1):
        raise typing.InputError(
            f"--points={points}: expected 2 (both ends of a trajectory) or more, one less dividing --steps={steps}."
        )


def _labels(run: loading.Trained, num: int) -> np.ndarray:
    """Labels of the training data in their order, `num` at most, to be repeated; -1 if it has none."""
    return data.arrays(run.source(), limit=num)["label"].astype(np.int32) if run.num_classes else np.array([-1], np.int32)


def _carry(run: loading.Trained, solver: Callable, steps: int, points: int) -> Callable:
    """`(params, key, index, labels) -> trajectories [n, points, ...]`, jitted."""
    path = paths.path_from_name(run.settings.method.path)

    @jax.jit
    def carry(params, key, index, labels):
        noise = sampling.noise(path, sampling.row_keys(key, index), run.shape)
        cond = conditioning.rows(labels, run.conditioning())  # of a guided run, the median of its scales
        v = lambda x, t: run.net.apply({"params": params}, x, t, t, cond)
        return samplers.trajectory(functools.partial(solver, space=path.space), v, noise, samplers.grid(steps), points)

    return carry
