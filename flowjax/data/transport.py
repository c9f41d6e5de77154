"""Minibatch optimal transport: which noise belongs to which row of a small group (arXiv 2302.00482, 2304.14772)."""

import numpy as np
import scipy

GROUP = 256  # the assignment takes milliseconds; its time grows with the cube


def noise(x: np.ndarray, label: np.ndarray | None, seed: int, batch: int, first: int) -> np.ndarray:
    """Noise for consecutive rows of a batch, assigned to them in groups; a pure function of its arguments.

    Args:
      x: rows [n, ...], whole groups (the last may be short).
      label: their labels [n], or None.
      seed: of the stream.
      batch: number of the global batch.
      first: place of the first row in it, a multiple of GROUP.

    Returns:
      Standard normal noise, float32, the shape of `x`.
    """
    parts = []
    for start in range(0, len(x), GROUP):
        rows = slice(start, start + GROUP)
        eps = np.random.default_rng((seed, batch, first + start, GROUP)).standard_normal(x[rows].shape, np.float32)
        parts.append(assigned(x[rows], eps, None if label is None else label[rows]))
    return np.concatenate(parts)


def assigned(x: np.ndarray, eps: np.ndarray, label: np.ndarray | None = None) -> np.ndarray:
    """`eps` in the order with the least sum of squared distances to `x`; rows exchange it with rows of their label only.

    Args:
      x: data [n, ...].
      eps: noise, the shape of `x`.
      label: [n]; None: all rows are alike. So the noise of each label stays standard normal.

    Example:
      >>> assigned(np.array([[0.0], [5.0]]), np.array([[4.0], [1.0]])).ravel().tolist()
      [1.0, 4.0]
    """
    ordered = np.empty_like(eps)
    for one in [None] if label is None else np.unique(label):
        rows = np.arange(len(x)) if one is None else np.flatnonzero(label == one)
        a, b = x[rows].reshape(len(rows), -1), eps[rows].reshape(len(rows), -1)
        # |a - b|^2 less the terms that are the same for every assignment.
        ordered[rows] = eps[rows][scipy.optimize.linear_sum_assignment(-(a @ b.T))[1]]
    return ordered
