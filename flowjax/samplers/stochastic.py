"""Samplers that draw new noise at each step, and so cannot be inverted."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from flowjax import brownian, conditioning, flowmap, paths, spaces, typing
from flowjax.samplers import grids
from flowjax.times import flatten
from flowjax.typing import Array, AverageVelocity

Informed = Callable[..., Array]  # V(x, s, t, inputs) with further inputs of the network by name, {"x_c": ..., "c": ...}
MOST_REPEATS = 1_000  # of a restart: each is as long a program


def consistency(V: AverageVelocity, x: Array, times: Array, keys: Array, *, path: paths.Path = paths.linear) -> Array:
    """Multistep consistency sampling: jump to the data, add noise up to the next time, jump again.

        x0 = F(x, s, 0),   x <- alpha(t) x0 + sigma(t) z,   z noise of the path, N(0, I) unless it says otherwise

    For networks that learn jumps to the data alone. On another space than R^n, x is the point of the path between x0 and z, and z is
    noise of the space.

    Args:
      V: average velocity, `V(x, s, t)`, called with t = 0.
      x: data at `times[0]`, [B, ...].
      times: [n + 1] times in [0, 1], falling to 0.
      keys: a typed key a row, [B], of the noise.
      path: the flowjax.paths.Path that V was trained on.

    Returns:
      The data at `times[-1]`, with the shape and dtype of `x`.

    Raises:
      InputError: if `times` is not a 1-D array of at least two times.

    Example:
      >>> keys = jax.random.split(jax.random.key(0), 1)
      >>> consistency(lambda x, s, t: x, jnp.ones((1, 2)), jnp.array([0.5, 0.0]), keys).tolist()
      [[0.5, 0.5]]

    Reference: Song et al. 2023, Consistency Models (arXiv 2303.01469), algorithm 1, in our time.
    """

    def step(x: Array, s: Array, t: Array, noise: Callable[[], Array]) -> Array:
        x0 = flowmap.jump(V, x, s, jnp.zeros_like(s), move=path.space.move)
        return path.between(x0, noise(), t).astype(x.dtype)

    return grids.walk(step, x, times, keys, path)


def gamma(
    V: AverageVelocity, x: Array, times: Array, keys: Array, *, gamma: float = 0.5, path: paths.Path = paths.linear
) -> Array:
    """Gamma sampling of consistency trajectory models: jump further than the next time, and come back to it with new noise.

        x_m = F(x, s, m)  with  sigma(m) / alpha(m) = sqrt(1 - gamma^2) sigma(t) / alpha(t)
        x <- alpha(t) / alpha(m) x_m + gamma sigma(t) z,   z ~ N(0, I)

    gamma = 0 is `flow_map`, gamma = 1 is `consistency`. Arguments as in `consistency`, and

      V: called with any target between 0 and s.
      times: [n + 1] times in [0, 1], falling.
      gamma: share of the noise that is new, from 0 to 1.

    Raises:
      InputError: if `times` is not a grid, gamma is not between 0 and 1, or the path is not on R^n.

    Reference: Kim et al. 2024 (arXiv 2310.02279), algorithm 3, in our time.
    """
    if not 0 <= gamma <= 1:
        raise typing.InputError(f"gamma: gamma is {gamma}; expected a number from 0 (no new noise) to 1, e.g. gamma:gamma=0.5.")
    _check_scales("gamma", path)

    def step(x: Array, s: Array, t: Array, noise: Callable[[], Array]) -> Array:
        m = _quieter(path, t, np.sqrt(1 - gamma**2))
        x_m = flowmap.jump(V, x, s, m)
        return (path.alpha(t) / path.alpha(m) * x_m + gamma * path.sigma(t) * noise()).astype(x.dtype)

    return grids.walk(step, x, times, keys, path)


def restarts(times: ArrayLike, *, low: float = 0.2, high: float = 0.6, repeats: int = 2) -> np.ndarray:
    """A grid that goes back up: from `low` it returns to `high` and falls again, `repeats` times.

    Args:
      times: [n + 1] times that fall, known when this is traced.
      low: lower end of the interval that is repeated, added to the grid.
      high: upper end, likewise.
      repeats: how often, at least 1.

    Returns:
      numpy array of times, for `restart`.

    Raises:
      InputError: unless 0 <= low < high < 1, within the grid, and repeats is at least 1.

    Example:
      >>> restarts([1.0, 0.5, 0.0], low=0.25, high=0.75, repeats=1).tolist()
      [1.0, 0.5, 0.25, 0.75, 0.5, 0.25, 0.0]
    """
    falling = np.asarray(times, np.float64)
    if not (falling[-1] <= low < high < 1 and high <= falling[0] and 1 <= repeats <= MOST_REPEATS and int(repeats) == repeats):
        raise typing.InputError(
            f"restart: low, high, repeats are {low}, {high}, {repeats} on a grid from {falling[0]:g} to {falling[-1]:g}; expected"
            " 0 <= low < high < 1 within it and from one repeat to 1,000, e.g. restart:low=0.2,high=0.6,repeats=2."
        )
    rounding = 1e-6  # float32 grids hold 0.19999999 for 0.2
    before, after = falling[falling > low + rounding], falling[falling < low - rounding]
    repeated = np.concatenate([[high], before[before < high - rounding], [low]])
    return np.concatenate([before, [low], *[repeated] * int(repeats), after])


def restart(V: AverageVelocity, x: Array, times: Array, keys: Array, *, path: paths.Path = paths.linear) -> Array:
    """Jumps where the times fall, new noise where they rise: restart sampling along the times of `restarts`.

        t < s:  x <- F(x, s, t)
        t > s:  x <- alpha(t) / alpha(s) x + (sigma(t)^2 - (alpha(t) sigma(s) / alpha(s))^2)^(1/2) z,   z ~ N(0, I)

    Arguments as in `consistency`, with any times; one evaluation of `V` where they fall, none where they rise.

    Raises:
      InputError: if `times` is not a grid, or the path is not on R^n.

    Reference: Xu et al. 2023, Restart Sampling (arXiv 2306.14878), eq. 5, on any path, with jumps for the steps of the solver.
    """
    _check_scales("restart", path)

    def rise(x: Array, s: Array, t: Array, noise: Callable[[], Array]) -> Array:
        kept = path.alpha(t) / path.alpha(s)
        return (kept * x + jnp.sqrt(path.sigma(t) ** 2 - (kept * path.sigma(s)) ** 2) * noise()).astype(x.dtype)

    def step(x: Array, s: Array, t: Array, noise: Callable[[], Array]) -> Array:
        return jax.lax.cond(t > s, lambda: rise(x, s, t, noise), lambda: flowmap.jump(V, x, s, t))

    return grids.walk(step, x, times, keys, path)


def _check_scales(name: str, path: paths.Path) -> None:
    if path.space is not spaces.euclidean:
        raise typing.InputError(
            f"{name}: the path is on the space {path.space.name!r}, and this sampler scales its points, as only R^n allows; expected"
            " consistency or a sampler without new noise, e.g. flow_map."
        )


def _quieter(path: paths.Path, t: Array, share: float) -> Array:
    """The time m <= t with sigma(m) / alpha(m) = share sigma(t) / alpha(t), by bisection; no division, so that alpha may be 0."""

    def halve(_: Array, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = (low + high) / 2
        above = path.sigma(middle) * path.alpha(t) > share * path.sigma(t) * path.alpha(middle)
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    if share == 1:  # no new noise, and not a rounding error less
        return t
    return jax.lax.fori_loop(0, 40, halve, (jnp.zeros_like(t), t))[0]


def strong(V: Informed, x: Array, times: Array, keys: Array, *, noise: float = 1.0) -> Array:
    """Jumps of a strong stochastic map, each with the noise that is drawn for it as inputs of V.

        x <- x + (t - s) V(x, s, t, w) + w_0,   w the coefficients of new noise between s and t, flowjax.brownian

    Arguments as in `consistency`, and

      V: mean drift, `V(x, s, t, inputs)`; `inputs` are those of flowjax.conditioning.PATH.
      times: [n + 1] times in [0, 1], falling.
      noise: strength of the process of which V was trained; 0 is `flow_map`.

    Raises:
      InputError: if `times` is not a grid, or noise is below 0.

    Reference: McCallum et al. 2026, Strong Stochastic Flow Maps (arXiv 2606.01086).
    """
    if not noise >= 0:
        raise typing.InputError(f"strong: noise is {noise}; expected a number of at least 0, e.g. strong:noise=1.")

    def step(x: Array, number: Array, s: Array, t: Array) -> Array:
        normal = jax.vmap(
            lambda key: jax.random.normal(jax.random.fold_in(key, number), (brownian.COUNT, *x.shape[1:]), x.dtype)
        )
        w = brownian.scaled(normal(keys).swapaxes(0, 1), s, t, noise)
        return (flowmap.move(x, s, t, V(x, s, t, conditioning.of_path(w))) + w[0]).astype(x.dtype)

    return grids.fold(step, x, times)


def transition(V: Informed, x: Array, times: Array, keys: Array, *, inner: int = 1) -> Array:
    """Random transitions to lower noise levels: a velocity is drawn by an inner map from new noise, and followed.

        y <- G(y, 1, 0 | x, s) from y ~ N(0, I) in `inner` jumps of the inner map G,   x <- x + (t - s) y

    Arguments as in `consistency`, and

      V: average velocity of the inner map, `V(y, s, t, inputs)`; `inputs` are those of flowjax.conditioning.OBSERVATION.
      times: [n + 1] times in [0, 1], falling.
      inner: jumps of the inner map in each interval.

    Raises:
      InputError: if `times` is not a grid, or inner is no whole number of at least 1.

    Reference: Nie et al. 2026, Transition Matching Distillation (arXiv 2601.09881).
    """
    if inner < 1 or inner != int(inner):
        raise typing.InputError(
            f"transition: inner is {inner}; expected a whole number of at least 1, e.g. transition:inner=2."
        )

    step = lambda x, s, t, noise: flowmap.move(x, s, t, drawn_velocity(V, x, s, noise(), int(inner)))
    return grids.walk(step, x, times, keys)


def drawn_velocity(V: Informed, x: Array, s: Array, y: Array, inner: int = 1) -> Array:
    """A velocity eps - x0 that fits x at time s, by jumps of the inner map from noise y, see `transition`.

    If V has an attribute `held`, `held(y, inputs) -> V(y, s, t)`, what all jumps share is computed there once.
    """
    inputs = {"x_c": x, "c": flatten(s, x)}
    held = getattr(V, "held", None)
    G = (lambda y, s, t: V(y, s, t, inputs)) if held is None else held(y, inputs)
    for number in range(inner):
        y = flowmap.jump(G, y, 1 - number / inner, 1 - (number + 1) / inner)
    return y
