"""Grids of times from noise to data, and the walk along them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from flowjax import paths, times, typing
from flowjax.typing import Array


def grid(steps: int) -> Array:
    """Times from noise to data, uniform: [steps + 1] from 1 to 0. Raises InputError unless steps is at least 1."""
    if int(steps) != steps or steps < 1:
        raise typing.InputError(f"steps is {steps!r}; expected a whole number of at least 1, e.g. --steps=1,2,4.")
    return jnp.linspace(1.0, 0.0, int(steps) + 1)


def shifted(steps: int, *, shift: float = 3.0) -> Array:
    """Times from noise to data that stay longer near the noise, for shift > 1: t = shift u / (1 + (shift - 1) u), u uniform.

    Args:
      steps: number of intervals.
      shift: above 0; 1 is uniform, 3 as published.

    Raises:
      InputError: unless steps is at least 1 and shift above 0.

    Example:
      >>> shifted(2).tolist()
      [1.0, 0.75, 0.0]

    Reference: Esser et al. 2024 (arXiv 2403.03206), eq. 23.
    """
    if shift <= 0:
        raise typing.InputError(f"shifted: shift is {shift}; expected a number above 0, e.g. shifted:shift=3.")
    u = grid(steps)
    return shift * u / (1 + (shift - 1) * u)


def bent(steps: int, *, middle: float = 0.5) -> Array:
    """Times from noise to data, uniform down to a middle time in the first half of the steps, and from there to the data.

    Two steps are 1, middle, 0; one step is 1, 0.

    Args:
      steps: number of intervals.
      middle: between 0 and 1; 1/2 is uniform, consistency models choose it by the FID of two steps.

    Raises:
      InputError: unless steps is at least 1 and middle between 0 and 1.

    Example:
      >>> bent(2, middle=0.25).tolist()
      [1.0, 0.25, 0.0]
    """
    if not 0 < middle < 1:
        raise typing.InputError(f"bent: middle is {middle}; expected a time between 0 and 1, e.g. bent:middle=0.55.")
    u = grid(steps)
    return jnp.where(u > 0.5, middle + (2 * u - 1) * (1 - middle), 2 * u * middle)


def karras(steps: int, *, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Array:
    """Times of the noise levels of Karras et al. on the linear path, then 0. The highest level counts as pure noise: the grid begins at 1.

        sigma_i = (sigma_max^(1/rho) + i / (n - 1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho,   t = sigma / (1 + sigma)

    Args:
      steps: n, number of intervals.
      sigma_min: lowest level above 0.
      sigma_max: highest level.
      rho: spacing; 7 as published.

    Raises:
      InputError: unless steps is at least 1, 0 < sigma_min < sigma_max and rho > 0.

    Reference: Karras et al. 2022 (arXiv 2206.00364), eq. 5, in our time.
    """
    ends = grid(steps)[jnp.array([0, -1])]
    if not (0 < sigma_min < sigma_max and rho > 0):
        raise typing.InputError(
            f"karras: sigma_min, sigma_max, rho are {sigma_min}, {sigma_max}, {rho}; expected 0 < sigma_min < sigma_max, rho > 0."
        )
    inner = times.karras_sigma(jnp.arange(int(steps) - 2, -1, -1), max(int(steps), 2), sigma_min, sigma_max, rho)
    return jnp.concatenate([ends[:1], times.from_sigma(inner), ends[1:]])


def decoding(steps: int, *, categories: int = 27) -> Array:
    """Times from noise to data at which the share of one-hot tokens that can be read off rises evenly, see flowjax.times.decoding_warp.

    Args:
      steps: number of intervals.
      categories: K, at least 2; 27 letters.

    Raises:
      InputError: unless steps is at least 1 and categories at least 2.

    Reference: Flow Map Language Models (arXiv 2602.16813), its code.
    """
    if int(categories) != categories or categories < 2:
        raise typing.InputError(
            f"decoding: categories is {categories}; expected a whole number of at least 2, e.g. decoding:categories=17."
        )
    return times.decoding_warp(int(categories))(grid(steps))


def from_noise_to_data(grid: ArrayLike, name: str) -> np.ndarray:
    """The times as numpy; raises InputError, with the `name` of the grid, unless they fall from 1 to 0."""
    times = np.asarray(grid)
    if times.ndim != 1 or len(times) < 2 or times[0] != 1 or times[-1] != 0 or not (np.diff(times) < 0).all():
        raise typing.InputError(
            f"the grid {name} has the times {np.round(times, 4).tolist()}; expected times that fall from 1 (noise) to 0 (data),"
            " e.g. --grid=1,0.8,0.3,0."
        )
    return times


def walk(
    step: Callable[..., Array], x: Array, times: Array, keys: Array | None = None, path: paths.Path = paths.linear
) -> Array:
    """Folds `step(x, s, t)` over neighbours in times; with keys, `step(x, s, t, noise)`, new noise of the path in every interval."""

    def noise(number: Array) -> Callable[[], Array]:
        return lambda: jax.vmap(lambda key: path.draw(jax.random.fold_in(key, number), x.shape[1:], x.dtype))(keys)

    return fold(lambda x, number, s, t: step(x, s, t, *([] if keys is None else [noise(number)])), x, times)


def fold(step: Callable[..., Any], state: Any, times: Array) -> Any:
    """Folds `step(state, number, s, t)` over neighbours in times, numbered from 0; the state is an array or a tree of them."""
    times = checked(times)
    one = lambda state, interval: (step(state, *interval), None)
    return jax.lax.scan(one, state, (jnp.arange(len(times) - 1), times[:-1], times[1:]))[0]


def checked(times: Array) -> Array:
    """The times, floating and not narrower than float32; raises InputError unless they are a 1-D array of at least two."""
    times = jnp.asarray(times)
    times = times.astype(jnp.promote_types(times.dtype, jnp.float32))
    if times.ndim != 1 or times.shape[0] < 2:
        raise typing.InputError(
            f"times has shape {times.shape}; expected a 1-D grid of at least two times from the time of x to the time wanted:"
            " flowjax.samplers.grid(steps)."
        )
    return times
