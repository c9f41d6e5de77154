"""Couplings by reflow: noise and the points that the exact flow carries it to (Rectified Flow, arXiv 2209.03003)."""

import functools

import jax
import numpy as np

from flowjax import samplers
from flowjax.data import couplings, pipeline, points

PAIRS, STEPS, POINTS = 2**16, 64, 17


def source(name: str, kept: int = POINTS, *, split: str = "train", data_dir: str | None = None) -> pipeline.Source:
    """Trajectories of a density whose velocity is known in closed form; held-out rows are the density's own.

    Args:
      name: a key of `points.VELOCITIES`.
      kept: points of each trajectory: 2, noise and what becomes of it, or all 17.
      split: `"train"`: 2**16 trajectories by 64 Heun steps, made in seconds; or `"test"`: real points, without noise.
      data_dir: unused; every dataset takes it.

    Returns:
      An unlabelled source of float32 [2]; its training rows also have "eps", and "trajectory" with "times" if more than two points
      are kept.
    """
    if split != "train":
        return points.source(name, split=split, data_dir=data_dir)
    walked, times = _walked(points.VELOCITIES[name], PAIRS), np.linspace(1.0, 0.0, POINTS)
    if kept == 2:
        return couplings.recorded(f"{name}_reflow", walked[:, [0, -1]], None, times[[0, -1]])
    return couplings.recorded(f"{name}_trajectories", walked, None, times)


@functools.lru_cache(maxsize=2)
def _walked(velocity, count):
    """Trajectories of `count` draws of noise along a velocity, [count, POINTS, 2]."""
    eps = np.random.default_rng(2).standard_normal((count, 2)).astype(np.float32)
    carry = jax.jit(lambda eps: samplers.trajectory(samplers.heun, velocity, eps, samplers.grid(STEPS), POINTS))
    return np.concatenate([np.asarray(carry(part)) for part in np.split(eps, 4)])
