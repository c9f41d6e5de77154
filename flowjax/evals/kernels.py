"""Kernel maximum mean discrepancy, unbiased: with the polynomial kernel on features it is KID."""

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


def median_distance(y: np.ndarray) -> float:
    """The median distance between rows of `y` [n, D], at most 512 of them: the usual bandwidth of a Gaussian kernel."""
    some = y[np.linspace(0, len(y) - 1, min(len(y), _SUBSAMPLE)).astype(int)]
    return float(np.median(transport.distances(some, some)[np.triu_indices(len(some), 1)]))
