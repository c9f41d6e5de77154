"""Two-dimensional densities to look at: about zero mean, roughly unit standard deviation on each axis.

Each is `f(rng, n) -> float32 [n, 2]`. A source draws a finite array of them once, so that points go down the same path as
images: epochs, permutations, restarts.
"""

import numpy as np
import scipy

from flowjax import exact, typing
from flowjax.data import pipeline

SPLITS = {"train": 2**18, "test": 2**14}
REFERENCE_ROWS = 10_000


def checkerboard(rng: np.random.Generator, n: int) -> np.ndarray:
    """Uniform on the 8 unit squares of a 4x4 board on [-2, 2]^2 with `floor(x) + floor(y)` even; deviation 1.15, unscaled."""
    column = rng.integers(-2, 2, n)
    row = 2 * rng.integers(-1, 1, n) + column % 2
    # float32 rounds 0.99999999 up to 1, into an empty square: the corner is added to an offset that float32 holds exactly.
    offset = rng.integers(0, 2**20, (n, 2)) / 2**20
    return (np.stack([column, row], axis=1) + offset).astype(np.float32)


def eight_gaussians(rng: np.random.Generator, n: int) -> np.ndarray:
    """Eight Gaussians of deviation 0.1, their means evenly on the circle of radius 1.4; deviation 1.0."""
    return _on_circle(rng, rng.integers(0, 8, n))


def uneven_gaussians(rng: np.random.Generator, n: int) -> np.ndarray:
    """The Gaussians of `eight_gaussians`, which weigh 1, 7, 3, 5, 4, 6, 2, 8 parts of 36, counterclockwise from (1.4, 0); deviation 1.0."""
    return _on_circle(rng, rng.choice(8, n, p=np.array([1, 7, 3, 5, 4, 6, 2, 8]) / 36))


def _on_circle(rng: np.random.Generator, number: np.ndarray) -> np.ndarray:
    """A point of the Gaussian of each number, 0 to 7."""
    angle = number * (np.pi / 4)
    means = 1.4 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return (means + 0.1 * rng.standard_normal((len(number), 2))).astype(np.float32)


def two_moons(rng: np.random.Generator, n: int) -> np.ndarray:
    """Two interleaved half circles, centred, stretched by (1.15, 2), plus noise of deviation 0.08; deviation 1.0."""
    angle = rng.uniform(0, np.pi, n)
    upper = np.stack([np.cos(angle) - 0.5, np.sin(angle) - 0.25], axis=1)
    moons = np.where(rng.integers(0, 2, (n, 1)) == 0, upper, -upper) * (1.15, 2.0)
    return (moons + 0.08 * rng.standard_normal((n, 2))).astype(np.float32)


def spirals(rng: np.random.Generator, n: int) -> np.ndarray:
    """Two arms of one and a half turns out to radius 2, plus noise of deviation 0.05; deviation 1.0."""
    root = np.sqrt(rng.uniform(0, 1, n))
    angle = 3 * np.pi * root + np.pi * rng.integers(0, 2, n)
    arms = 2 * root[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return (arms + 0.05 * rng.standard_normal((n, 2))).astype(np.float32)


def pinwheel(rng: np.random.Generator, n: int) -> np.ndarray:
    """Five blades: Gaussians of deviations (0.3, 0.1) at radius 1, twisted by exp(radius) / 4, times 1.35; deviation 1.0."""
    blade = rng.standard_normal((n, 2)) * (0.3, 0.1) + (1.0, 0.0)
    angle = rng.integers(0, 5, n) * (2 * np.pi / 5) + 0.25 * np.exp(blade[:, 0])
    x = blade[:, 0] * np.cos(angle) - blade[:, 1] * np.sin(angle)
    y = blade[:, 0] * np.sin(angle) + blade[:, 1] * np.cos(angle)
    return (1.35 * np.stack([x, y], axis=1)).astype(np.float32)


_EIGHT = np.arange(8) * (np.pi / 4)
_MEANS = 1.4 * np.stack([np.cos(_EIGHT), np.sin(_EIGHT)], axis=1)  # of eight_gaussians
_SQUARES = [(column, row) for column in range(-2, 2) for row in range(-2, 2) if (column + row) % 2 == 0]

# The marginal velocities `v(x, t)` that are known in closed form: exact teachers. Below t = 0.02 that of the checkerboard keeps
# its value at 0.02: closer to the data it is unbounded outside the squares, where a student lands at first.
VELOCITIES = {
    "checkerboard": exact.boxes(_SQUARES, floor=0.02),
    "eight_gaussians": exact.blobs(_MEANS, 0.1),
}

# log p(x) [n] of points [n, 2], where it is known; -inf outside the squares.
LOG_DENSITIES = {
    "checkerboard": lambda x: np.where(
        (np.abs(x) <= 2).all(-1) & (np.floor(x).sum(-1) % 2 == 0), -np.log(len(_SQUARES)), -np.inf
    ),
    "eight_gaussians": lambda x: scipy.special.logsumexp(
        -np.sum((x[:, None] - _MEANS) ** 2, -1) / (2 * 0.1**2), axis=1
    ) - np.log(8 * 2 * np.pi * 0.1**2),
}  # fmt: skip

DENSITIES = {f.__name__: f for f in (checkerboard, eight_gaussians, uneven_gaussians, two_moons, spirals, pinwheel)}


def check_split(name: str, split: str) -> None:
    """Raises InputError for a split of a data set that is none of SPLITS."""
    if split not in SPLITS:
        raise typing.InputError(f"{name} has no split {split!r}; its splits are {' and '.join(SPLITS)}.")


def source(name: str, *, split: str = "train", data_dir: str | None = None) -> pipeline.Source:
    """A fixed draw of a density: 2**18 points for `train`, 2**14 others for `test`; nothing is read or written.

    Args:
      name: a key of `DENSITIES`.
      split: `"train"` or `"test"`.
      data_dir: unused; every dataset takes it.

    Returns:
      An unlabelled source of float32 [2].
    """
    del data_dir
    check_split(name, split)
    rng = np.random.default_rng(list(SPLITS).index(split))
    x = DENSITIES[name](rng, SPLITS[split])
    return pipeline.Source(name, len(x), (2,), 0, lambda ids: {"x": x[ids]}, reference_rows=REFERENCE_ROWS)
