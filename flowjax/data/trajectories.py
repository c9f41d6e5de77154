"""Trajectories of exact flows: noise and the points that it moves to, as couplings (Rectified Flow, arXiv 2209.03003)."""

import functools

import jax
import numpy as np

from flowjax import samplers, typing
from flowjax.data import couplings, pipeline, points

TRAJECTORIES, SOLVER_STEPS, TIMES = 2**16, 64, 17


def source(name: str, kept: int = TIMES, *, split: str = "train", data_dir: str | None = None) -> pipeline.Source:
    """Trajectories of a density whose velocity is known in closed form; held-out rows are points of the density.

    Args:
      name: a key of `points.VELOCITIES`.
      kept: points of each trajectory: 2, the noise and its end in the data, or all 17.
      split: `"train"`: 2**16 trajectories by 64 Heun steps, made in seconds; or `"test"`: real points, without noise.
      data_dir: unused; every dataset takes it.

    Returns:
      An unlabelled source of float32 [2]; its training rows also have "eps", and "trajectory" with "times" if more than two
      points are kept.
    """
    if split != "train":
        return points.source(name, split=split, data_dir=data_dir)
    rows, times = _solved(points.VELOCITIES[name], TRAJECTORIES), np.linspace(1.0, 0.0, TIMES)
    if kept == 2:
        return couplings.recorded(f"{name}_pairs", rows[:, [0, -1]], None, times[[0, -1]])
    return couplings.recorded(f"{name}_trajectories", rows, None, times)


@functools.lru_cache(maxsize=2)
def _solved(velocity: typing.Velocity, count: int) -> np.ndarray:
    """Trajectories of `count` draws of noise along a velocity, [count, TIMES, 2]."""
    eps = np.random.default_rng(2).standard_normal((count, 2)).astype(np.float32)
    carry = jax.jit(lambda eps: samplers.trajectory(samplers.heun, velocity, eps, samplers.grid(SOLVER_STEPS), TIMES))
    return np.concatenate([np.asarray(carry(part)) for part in np.split(eps, 4)])
