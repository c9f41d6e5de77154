"""Couplings by reflow: noise and the points that the exact flow carries it to (Rectified Flow, arXiv 2209.03003)."""

import jax
import jax.numpy as jnp
import numpy as np

from flowjax import samplers
from flowjax.data import couplings, pipeline, points

PAIRS, STEPS = 2**16, 64


def source(name: str, kept: int = 2, *, split: str = "train", data_dir: str | None = None) -> pipeline.Source:
    """Trajectories of a density whose velocity is known in closed form; held-out rows are the density's own.

    Args:
      name: a key of `points.VELOCITIES`.
      kept: points of each trajectory: 2, noise and what becomes of it, or more, one less dividing 64.
      split: `"train"`: 2**16 trajectories by 64 Heun steps, made in seconds; or `"test"`: real points, without noise.
      data_dir: unused; every dataset takes it.

    Returns:
      An unlabelled source of float32 [2]; its training rows also have "eps", and "trajectory" with "times" if more than two points
      are kept.
    """
    if split != "train":
        return points.source(name, split=split, data_dir=data_dir)
    eps = np.random.default_rng(2).standard_normal((PAIRS, 2)).astype(np.float32)
    carry = jax.jit(lambda eps: samplers.trajectory(samplers.heun, points.VELOCITIES[name], eps, samplers.grid(STEPS), kept))
    found = np.concatenate([np.asarray(carry(part)) for part in np.split(eps, 4)])
    title = f"{name}_{'reflow' if kept == 2 else 'trajectories'}"
    return couplings.recorded(title, found, None, np.asarray(jnp.linspace(1.0, 0.0, kept)))
