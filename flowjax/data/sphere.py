"""Points on the unit sphere, see flowjax.spaces.sphere."""

import numpy as np

from flowjax import typing
from flowjax.data import pipeline, points

# The corners of a tetrahedron.
CENTRES = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)


def caps(rng: np.random.Generator, n: int) -> np.ndarray:
    """Four caps, Gaussians of deviation 0.25 about the corners of a tetrahedron, put back on the sphere; float32 [n, 3]."""
    x = CENTRES[rng.integers(0, 4, n)] + 0.25 * rng.standard_normal((n, 3))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def source(*, split: str = "train", data_dir: str | None = None) -> pipeline.Source:
    """A fixed draw of `caps`: 2**18 points for `train`, 2**14 others for `test`; nothing is read or written.

    Args:
      split: `"train"` or `"test"`.
      data_dir: unused; every dataset takes it.

    Returns:
      An unlabelled source of float32 [3] in the space "sphere".
    """
    del data_dir
    if split not in points.SPLITS:
        raise typing.InputError(f"sphere_caps has no split {split!r}; its splits are {' and '.join(points.SPLITS)}.")
    x = caps(np.random.default_rng(list(points.SPLITS).index(split)), points.SPLITS[split])
    rows = lambda ids: {"x": x[ids]}
    return pipeline.Source("sphere_caps", len(x), (3,), 0, rows, reference_rows=points.REFERENCE_ROWS, space="sphere")
