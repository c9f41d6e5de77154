"""Trajectories of a trained velocity, written to a folder: couplings for ReFlow, and the data of consistency mid-training."""

import jax
import numpy as np
import tqdm

from flowjax import checks, data, methods, samplers, typing
from flowjax.data import couplings
from flowjax.training import evaluation, loading

SOLVERS = {"euler": samplers.euler, "heun": samplers.heun}


def write(workdir, folder, *, num=65_536, steps=64, points=2, solver="heun", seed=0, part=1_024):
    """Carries noise to data along the velocity V(x, t, t) of a run, and writes the trajectories.

    Row i depends on `seed` and i alone. Labels are those of the training data, in their order, repeated.

    Args:
      workdir: the folder of the run.
      folder: where to; if it was begun by the same call, it goes on.
      num: number of trajectories.
      steps: of the solver, uniform in time.
      points: of a trajectory that are kept, evenly: 2 (the ends) up to steps + 1; one less divides `steps`.
      solver: "euler" or "heun".
      seed: of the noise.
      part: trajectories at a time.

    Raises:
      InputError: for numbers that do not fit together, a folder of something else, a run that cannot be read.
    """
    checks.member("solver", solver, SOLVERS)
    for name, value in (("num", num), ("steps", steps), ("part", part)):
        if value < 1:
            raise typing.InputError(f"--{name}={value}: expected at least 1.")
    if not 2 <= points <= steps + 1 or steps % (points - 1):
        raise typing.InputError(
            f"--points={points}: expected 2 (both ends of a trajectory) or more, one less dividing --steps={steps}."
        )
    run = loading.load(workdir)
    info = methods.METHODS[run.settings.method.name]
    if not info.learns_velocity:
        raise typing.InputError(
            f"--workdir={workdir} is a run of {run.settings.method.name!r}, which learns {info.learns} and no velocity V(x, t, t); give a"
            " run of flow_matching, for example."
        )
    labels = _labels(run, num)
    times = np.linspace(1.0, 0.0, points)
    about = {
        "count": num, "shape": list(run.shape), "num_classes": run.num_classes, "times": times.tolist(), "data": run.settings.data.name,
        "teacher": str(workdir), "teacher_step": run.step, "solver": solver, "steps": steps, "seed": seed,
    }  # fmt: skip
    carry = _carry(run, SOLVERS[solver], steps, points)

    def trajectory(start):
        index = np.arange(start, start + min(part, num))  # one shape, one compilation; the surplus of the last is dropped
        found = carry(run.params, jax.random.key(seed), index, np.resize(labels[start : start + part], len(index)))
        kept = min(len(index), num - start)
        return np.asarray(found)[:kept], labels[start : start + kept]

    with tqdm.tqdm(total=num, desc="trajectories", unit="row") as bar:
        for done in couplings.write(folder, about, trajectory):
            bar.update(done - bar.n)


def _labels(run, num):
    if not run.num_classes:
        return np.full(num, -1, np.int32)
    section = run.settings.data
    return np.resize(data.arrays(data.load(section.name, data_dir=section.dir or None), limit=num)["label"], num).astype(
        np.int32
    )


def _carry(run, solver, steps, points):
    """`(params, key, index, labels) -> trajectories [n, points, ...]`, jitted."""

    @jax.jit
    def carry(params, key, index, labels):
        noise = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), run.shape))(index)
        cond = evaluation.condition(labels, run.conditioning())  # of a guided run, the median of its scales
        v = lambda x, t: run.net.apply({"params": params}, x, t, t, cond)
        return samplers.trajectory(solver, v, noise, samplers.grid(steps), points)

    return carry
