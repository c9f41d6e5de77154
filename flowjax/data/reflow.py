"""Couplings by reflow: noise and the points that the exact flow carries it to (Rectified Flow, arXiv 2209.03003)."""

import jax
import jax.numpy as jnp
import numpy as np

from flowjax import samplers
from flowjax.data import pipeline, points

PAIRS, STEPS = 2**16, 64


def source(name: str, *, split: str = "train", data_dir: str | None = None) -> pipeline.Source:
    """Pairs of noise and points of a density whose velocity is known in closed form; held-out rows are the density's own.

    Args:
      name: a key of `points.VELOCITIES`.
      split: `"train"`: 2**16 pairs by 64 Heun steps, made in seconds; or `"test"`: real points, without noise.
      data_dir: unused; every dataset takes it.

    Returns:
      An unlabelled source of float32 [2]; its training rows also have "eps".
    """
    if split != "train":
        return points.source(name, split=split, data_dir=data_dir)
    eps = np.random.default_rng(2).standard_normal((PAIRS, 2)).astype(np.float32)
    carry = jax.jit(lambda eps: samplers.heun(points.VELOCITIES[name], eps, jnp.linspace(1.0, 0.0, STEPS + 1)))
    x = np.concatenate([np.asarray(carry(part)) for part in np.split(eps, 4)])
    return pipeline.Source(f"{name}_reflow", PAIRS, (2,), 0, lambda ids: {"x": x[ids], "eps": eps[ids]}, coupled=True)
