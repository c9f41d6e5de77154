"""Kernel maximum mean discrepancy, unbiased: with the polynomial kernel on features it is KID, on other spaces than R^n geodesic."""

from collections.abc import Callable

import numpy as np

from flowjax import typing
from flowjax.evals import transport

_KERNELS = ("gaussian", "polynomial")
# The median distance is that between this many rows at most.
_SUBSAMPLE = 512


def mmd(x: np.ndarray, y: np.ndarray, *, kernel: str = "gaussian", bandwidth: float | None = None) -> float:
    """Squared maximum mean discrepancy, as U-statistics: no sample is paired with itself, and the estimate is unbiased.

    `E k(x, x') + E k(y, y') - 2 E k(x, y)`

    Gaussian: `k(u, v) = exp(-|u - v|^2 / (2 bandwidth^2))`. Polynomial: `k(u, v) = (u.v / D + 1)^3`, which makes it KID.

    Args:
      x: samples or features [n, ...], n >= 2.
      y: samples or features [m, ...], m >= 2, the reference.
      kernel: "gaussian" or "polynomial".
      bandwidth: of the Gaussian kernel, in the units of the data; None for the median distance between rows of `y`, at most
        512 of them, evenly spaced. Compare only values of one bandwidth.

    Returns:
      The squared discrepancy, 0 on average if the distributions are equal, hence negative about half the time then; nan if a
      sample is not finite.

    Raises:
      InputError: a set has fewer than two samples, the kernel is unknown, the bandwidth is not positive or does not apply.

    Source: Gretton et al. 2012, A kernel two-sample test, equation 3; KID: arXiv 1801.01401, section 4.
    """
    x, y = transport.rows(x, y)
    if min(len(x), len(y)) < 2:
        raise typing.InputError(f"mmd: got {len(x)} and {len(y)} samples; pairs take at least 2 of each: draw more.")
    if kernel not in _KERNELS:
        raise typing.InputError(f"mmd: kernel is {kernel!r}; expected one of {', '.join(_KERNELS)}.")
    if kernel == "polynomial" and bandwidth is not None:
        raise typing.InputError(f"mmd: bandwidth is {bandwidth}, but the polynomial kernel has none: leave it out.")
    if not transport.finite(x, y):
        return float("nan")
    if kernel == "polynomial":
        function = _polynomial
    else:
        x, y = transport.centred(x, y)
        function = _gaussian(median_distance(y) if bandwidth is None else bandwidth)
    within = transport.mean_within(function, x) + transport.mean_within(function, y)
    return float(within - 2 * transport.mean_between(function, x, y))


def _polynomial(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    values = u @ v.T
    values /= u.shape[1]
    values += 1
    cubes = values * values
    cubes *= values
    return cubes


def _gaussian(bandwidth: float):
    if not 0 < bandwidth < np.inf:
        raise typing.InputError(
            f"mmd: bandwidth is {bandwidth}; expected a positive number, which you can pass: bandwidth=1.0."
        )

    def function(u, v):
        values = transport.squared_distances(u, v)
        values *= -0.5 / bandwidth**2
        return np.exp(values, out=values)

    return function


def geodesic_mmd(x: np.ndarray, y: np.ndarray, *, space: str, bandwidth: float = 0.5**0.5) -> float:
    """Squared maximum mean discrepancy of points of a space, `mmd` with the distance along geodesics.

    `k(u, v) = exp(-d(u, v)^2 / (2 bandwidth^2))`

    On curved spaces this kernel is positive definite for small bandwidths only in practice, so that the value is a comparison, not a
    metric; published evaluations take it all the same.

    Args:
      x: samples [n, D], n >= 2.
      y: samples [m, D], m >= 2, the reference.
      space: the name of a flowjax.spaces.Space.
      bandwidth: in the units of the distance; the default is exp(-d^2), as in the code of Riemannian MeanFlow (arXiv 2602.07744),
        which takes the root of the biased estimate.

    Returns:
      The squared discrepancy, 0 on average if the distributions are equal; nan if a sample is not finite.

    Raises:
      InputError: a set has fewer than two samples, or the bandwidth is not positive.
    """
    x, y = transport.rows(x, y)
    if min(len(x), len(y)) < 2:
        raise typing.InputError(f"geodesic_mmd: got {len(x)} and {len(y)} samples; pairs take at least 2 of each: draw more.")
    if not 0 < bandwidth < np.inf:
        raise typing.InputError(f"geodesic_mmd: bandwidth is {bandwidth}; expected a positive number: bandwidth=1.0.")
    if not transport.finite(x, y):
        return float("nan")
    squares = geodesic_squares(space)
    kernel = lambda u, v: np.exp(-0.5 / bandwidth**2 * squares(u, v))
    within = transport.mean_within(kernel, x) + transport.mean_within(kernel, y)
    return float(within - 2 * transport.mean_between(kernel, x, y))


def geodesic_squares(space: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """`(u [n, D], v [m, D]) -> [n, m]`: squared distances along the geodesics of a space, by its name; a second reading of flowjax.spaces."""
    kind, _, factors = space.partition(":")
    if kind == "product":
        sizes = [(name, int(size)) for name, size in (part.split("=") for part in factors.split(","))]
        cuts = np.cumsum([size for _, size in sizes])[:-1]
        of = [geodesic_squares(name) for name, _ in sizes]
        split = lambda z: np.split(z, cuts, axis=1)
        return lambda u, v: sum(square(a, b) for square, a, b in zip(of, split(u), split(v), strict=True))
    # Twice the arcsine of half the chord; of rotations the chord is 2 sqrt(2) sin(angle / 2), and the length sqrt(2) times the angle.
    arc = lambda u, v, radius: (2 * radius * np.arcsin(np.minimum(transport.distances(u, v) / (2 * radius), 1))) ** 2
    return {
        "euclidean": transport.squared_distances,
        "sphere": lambda u, v: arc(u, v, 1.0),
        "so3": lambda u, v: arc(u, v, 2**0.5),
        "torus": lambda u, v: sum(_wrapped(u[:, None, k] - v[None, :, k]) ** 2 for k in range(u.shape[1])),
        "hyperbolic": lambda u, v: np.arccosh(np.maximum(u[:, :1] * v[:, 0] - u[:, 1:] @ v[:, 1:].T, 1)) ** 2,
    }[kind]


def _wrapped(angle):
    return angle - 2 * np.pi * np.round(angle / (2 * np.pi))


def median_distance(y: np.ndarray) -> float:
    """The median distance between rows of `y` [n, D], at most 512 of them: the usual bandwidth of a Gaussian kernel."""
    some = y[np.linspace(0, len(y) - 1, min(len(y), _SUBSAMPLE)).astype(int)]
    return float(np.median(transport.distances(some, some)[np.triu_indices(len(some), 1)]))
