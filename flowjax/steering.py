"""Samples of p(x0) e^r(x0) from a trained map and a reward r, `x0 [B, ...] -> [B]`, without training.

A flow map looks ahead to the end of a trajectory in one call, and F(x, t, 0) stays the same along the flow. So the densities
p_t(x) e^(beta(t) r(F(x, t, 0))) lead from the noise, beta(1) = 0, to the tilted data, beta(0) = 1, and a particle that the map carries
changes its weight by the reward alone. All functions are for the linear path on R^n, with noise N(0, I).
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable

import jax
import jax.numpy as jnp

from flowjax import flowmap, options, samplers, typing
from flowjax.typing import Array, AverageVelocity, Reward, Time, Velocity

Schedule = Callable[[Time], Time]  # t -> beta(t), 0 at t = 1 and 1 at t = 0


def axis(x0: Array, *, number: float = 0.0, scale: float = 1.0) -> Array:
    """A coordinate of points [B, D], times `scale`: a reward."""
    if x0.ndim != 2 or not 0 <= number < x0.shape[1] or number != int(number):
        raise typing.InputError(
            f"reward axis: rows of shape {x0.shape[1:]} have no coordinate {number:g}; expected points, from 0."
        )
    return scale * x0[:, int(number)]


def brightness(x0: Array, *, scale: float = 20.0) -> Array:
    """The mean of all numbers of a row, [B, ...], times `scale`: a reward."""
    return scale * jnp.mean(x0, axis=tuple(range(1, x0.ndim)))


# What a config or a flag may name; another reward is any function x0 [B, ...] -> [B].
REWARDS: dict[str, Callable[..., Array]] = {"axis": axis, "brightness": brightness}
_OPTIONS = {name: options.numbers(reward) for name, reward in REWARDS.items()}


def reward_from_name(spec: str | Reward) -> Reward:
    """A reward from its name and options, "axis:number=0,scale=1.5", from MODULE.FUNCTION, which is imported, or the reward itself.

    Raises:
      InputError: for an unknown name or option, or what cannot be imported.

    Example:
      >>> reward_from_name("axis:number=1,scale=2")(jnp.array([[1.0, 3.0]])).tolist()
      [6.0]
    """
    if not isinstance(spec, str):
        return spec
    module, dot, function = spec.rpartition(".")
    if dot and ":" not in module:
        try:
            return getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError, ValueError) as error:
            raise typing.InputError(
                f"reward {spec!r}: {error}; expected MODULE.FUNCTION that can be imported here, or {' or '.join(REWARDS)}."
            ) from error
    name, given = options.parse("reward", spec, _OPTIONS)
    return functools.partial(REWARDS[name], **given)


def rising(t: Time) -> Time:
    """beta(t) = 1 - t."""
    return 1 - t


def score(v: Velocity, x: Array, t: Time) -> Array:
    """The gradient of log p_t on the linear path, from the velocity: -(x + (1 - t) v(x, t)) / t, for t > 0.

    Example:
      >>> score(lambda x, t: x, jnp.ones((1, 2)), 1.0).tolist()
      [[-1.0, -1.0]]
    """
    return -(x + (1 - t) * v(x, t)) / t


def effective_share(log_weights: Array) -> Array:
    """The effective sample size over the number of particles, from log-weights [B] with any constant."""
    weights = jax.nn.softmax(log_weights)
    return 1 / (len(weights) * jnp.sum(weights**2))


def resampled(log_weights: Array, key: Array) -> Array:
    """Indices [B] of particles drawn in proportion to their weights by systematic resampling: one uniform number for all.

    Example:
      >>> sorted(resampled(jnp.log(jnp.array([0.5, 0.5, 1e-30, 1e-30])), jax.random.key(0)).tolist())
      [0, 0, 1, 1]

    Reference: Douc and Cappe 2005, Comparison of resampling schemes (arXiv cs/0507025), section 2.4.
    """
    n = len(log_weights)
    at = (jnp.arange(n) + jax.random.uniform(key, (), log_weights.dtype)) / n
    return jnp.clip(jnp.searchsorted(jnp.cumsum(jax.nn.softmax(log_weights)), at), 0, n - 1)


def _evened(log_w: Array, key: Array, t: Time, threshold: float) -> tuple[Array, Array]:
    """(indices of the particles that stay, their log-weights): resampled before t = 0 where the effective share is below `threshold`."""
    few = (effective_share(log_w) < threshold) & (t > 0)
    return jnp.where(few, resampled(log_w, key), jnp.arange(len(log_w))), jnp.where(few, 0.0, log_w)


def tilted(
    V: AverageVelocity,
    x: Array,
    times: Array,
    key: Array,
    reward: Reward,
    *,
    noise: float = 0.0,
    schedule: Schedule = rising,
    threshold: float = 0.5,
) -> tuple[Array, Array]:
    """Flow Map Trajectory Tilting: weighted samples of the tilted density, by jumps, weights, Langevin steps and resampling.

        x <- F(x, s, t)
        log w <- log w + (beta(t) - beta(s)) r(F(x, t, 0))
        x <- x + h (score(x, t) + beta(t) grad r(F(x, t, 0))) + (2 h)^(1/2) z,      h = noise t (s - t), not at t = 0

    The weights are exact for an exact map; Langevin steps err by order h, in which the gradient of r moves a row no further than z does.
    The published form is the limit of many intervals.

    Args:
      V: average velocity, called with (s, t), (t, 0), and with noise (t, t).
      x: noise [B, ...], B particles of one density.
      times: [n + 1] times that fall from 1 to 0.
      key: of the noise and the resampling.
      reward: r, differentiable if there is noise.
      noise: strength of the Langevin steps, at least 0; without it particles that were copied stay together.
      schedule: beta.
      threshold: resample where the effective share of the particles falls below it; 0: never.

    Returns:
      (x0 [B, ...], log-weights [B] up to a constant).

    Raises:
      InputError: for negative noise or a threshold that is not from 0 to 1.

    Example:
      >>> eps = jax.random.normal(jax.random.key(0), (4096, 1))
      >>> x, log_w = tilted(flow.V, eps, jnp.array([1.0, 0.0]), jax.random.key(1), lambda x0: 0.1 * x0[:, 0], threshold=0)
      >>> bool(abs((jax.nn.softmax(log_w) @ x)[0] - 0.9) < 0.1)  # N(0.5, 4) tilted by 0.1 x0: the mean is 0.5 + 4 * 0.1
      True

    Reference: Sabour et al. 2025 (arXiv 2511.22688), proposition 2.2.
    """
    if not (noise >= 0 and 0 <= threshold <= 1):
        raise typing.InputError(f"tilted: noise {noise}, threshold {threshold}; expected at least 0, and a share from 0 to 1.")
    ahead = lambda x, t: reward(flowmap.jump(V, x, t, jnp.zeros_like(t)))

    def step(state: tuple[Array, Array], number: Array, s: Array, t: Array) -> tuple[Array, Array]:
        x, log_w = state
        move_key, pick_key = jax.random.split(jax.random.fold_in(key, number))
        x = flowmap.jump(V, x, s, t)
        log_w += (schedule(t) - schedule(s)) * ahead(x, t)
        kept, log_w = _evened(log_w, pick_key, t, threshold)
        x = x[kept]
        walk = lambda: _langevin(V, lambda x: schedule(t) * ahead(x, t), x, t, noise * t * (s - t), move_key)
        return jax.lax.cond(t > 0, walk, lambda: x) if noise else x, log_w

    return samplers.fold(step, (x, jnp.zeros(len(x), x.dtype)), times)


def _langevin(V: AverageVelocity, log_tilt: Reward, x: Array, t: Array, h: Array, key: Array) -> Array:
    """One step of length h that keeps p_t(x) e^log_tilt(x) up to order h, for t > 0.

    The gradient of log_tilt moves a row no further than the noise does (ours). Between two modes of the data the end that a map sees
    jumps, its gradient has no bound, and single rows would go so far that all weight falls on them.
    """
    slope = jax.grad(lambda x: jnp.sum(log_tilt(x)))(x)
    length = jnp.sqrt(jnp.sum(slope**2, axis=tuple(range(1, x.ndim)), keepdims=True))
    furthest = jnp.sqrt(2 * h * x[0].size)
    slope *= jnp.minimum(1.0, furthest / jnp.maximum(h * length, 1e-30))
    drift = score(lambda x, t: V(x, t, t), x, jnp.maximum(t, 1e-6)) + slope
    z = jax.random.normal(key, x.shape, x.dtype)
    return (x + h * drift + jnp.sqrt(2 * h) * z).astype(x.dtype)


def tilted_transitions(
    move: Callable[[Array, Time, Time, Array], Array],
    value: Callable[[Array, Time, Array], Array],
    x: Array,
    levels: Array,
    key: Array,
    reward: Reward,
    *,
    threshold: float = 0.5,
) -> tuple[Array, Array]:
    """Weighted samples of the tilted density by a stochastic map: random transitions, weighed by how the value grows, and resampling.

        x_t ~ p(x_t | x_c),   log w <- log w + value(x_t, t) - value(x_c, c),   the value of noise 0, and of data r

    The sum is r(x0) whatever the values are, so that the weights are exact if the transitions keep the marginals; values near
    log E[e^r(x0) | x_t] even them out. Copies of a particle come apart at the next transition, and no gradient is taken.

    Args:
      move: random transitions `(x_c, c, t, key) -> x_t`: of a run of `diamond_map` or `transition_matching` `Trained.transition()` with
        normal noise, of `meta_flow_map` posterior draws that are noised again.
      value: estimates of the value `(x_t, t, key) -> [B]`, as of flowjax.posterior.value.
      x: noise [B, ...], B particles of one density.
      levels: [n + 1] levels that fall from 1 to 0.
      key: of all noise.
      reward: r.
      threshold: resample where the effective share of the particles falls below it; 0: never.

    Returns:
      (x0 [B, ...], log-weights [B] up to a constant).

    Raises:
      InputError: for a threshold that is not from 0 to 1.

    Reference: Potaptchik et al. 2026, Meta Flow Maps (arXiv 2601.14430), and its code, for these weights; twisted sequential Monte Carlo.
    """
    if not 0 <= threshold <= 1:
        raise typing.InputError(f"tilted_transitions: threshold is {threshold}; expected a share from 0 to 1.")

    def step(state: tuple[Array, Array, Array], number: Array, c: Array, t: Array) -> tuple[Array, Array, Array]:
        x, before, log_w = state
        move_key, value_key, pick_key = jax.random.split(jax.random.fold_in(key, number), 3)
        x = move(x, c, t, move_key).astype(x.dtype)
        after = jax.lax.cond(t > 0, lambda: value(x, jnp.maximum(t, 1e-3), value_key), lambda: reward(x)).astype(x.dtype)
        log_w += after - before
        kept, log_w = _evened(log_w, pick_key, t, threshold)
        return x[kept], after[kept], log_w

    nothing = jnp.zeros(len(x), x.dtype)
    x0, _, log_w = samplers.fold(step, (x, nothing, nothing), levels)
    return x0, log_w


def guided(V: AverageVelocity, x: Array, times: Array, reward: Reward, *, scale: float | Schedule = 1.0) -> Array:
    """Plain guidance: each jump is bent by the gradient of the reward at the end that the map sees; no weights.

        x <- F(x, s, t) + (s - t) s scale grad_x r(F(x, s, 0))

    The velocity of the tilted density has s / (1 - s) times the gradient of log E[e^r(x0) | x_s] there. The reward at one end is not
    that mean: near the noise it varies with x where the mean hardly does, which is why the factor 1 / (1 - s) is left out (ours). So
    the samples are biased. Two calls and a gradient an interval.

    Args:
      V, x, times: as of `flowjax.samplers.flow_map`.
      reward: r, differentiable.
      scale: of the gradient, a number or a function of the time s.

    Returns:
      Samples, the shape of `x`.

    Reference: Chung et al. 2023, DPS (arXiv 2209.14687), with the flow map's end for the posterior mean.
    """

    def step(x: Array, number: Array, s: Array, t: Array) -> Array:
        slope = jax.grad(lambda x: jnp.sum(reward(flowmap.jump(V, x, s, jnp.zeros_like(s)))))(x)
        bent = flowmap.jump(V, x, s, t) + (s - t) * s * (scale(s) if callable(scale) else scale) * slope
        return bent.astype(x.dtype)

    return samplers.fold(step, x, times)


def best_of(x0: Array, reward: Reward, count: int) -> Array:
    """The row of highest reward among each `count` neighbouring rows of x0 [B, ...]: [B / count, ...].

    Raises:
      InputError: if `count` does not divide B.

    Example:
      >>> best_of(jnp.array([[1.0], [3.0], [2.0], [0.0]]), lambda x0: x0[:, 0], 2).tolist()
      [[3.0], [2.0]]
    """
    if count < 1 or len(x0) % count:
        raise typing.InputError(f"best_of: {len(x0)} rows in groups of {count}; expected a count that divides the rows.")
    best = jnp.argmax(reward(x0).reshape(-1, count), axis=1)
    return x0[jnp.arange(len(best)) * count + best]


def search(
    V: AverageVelocity, x: Array, times: Array, key: Array, reward: Reward, *, count: int = 4, spread: float = 0.5
) -> Array:
    """Search along the path: at every time each row tries `count` noisier versions of itself, and keeps the one with the best end.

        x' = (1 - a) x + (s'^2 - (1 - a)^2 s^2)^(1/2) z,   s' = s + a (1 - s),   a = spread
        x <- F(x', s', t)  of the x' with the largest r(F(x', s', 0)), x itself at s among them

    x' has the marginal of time s'. x itself is a candidate, so that for an exact map the reward of the end never falls.

    Args:
      V, x, times: as of `flowjax.samplers.flow_map`.
      key: of the candidates.
      reward: r; no gradient is taken.
      count: candidates of a row, each one call of V at every time, at least 1.
      spread: how far back to the noise candidates go, from 0 to 1.

    Returns:
      Samples, the shape of `x`. They are no samples of the tilted density: they have higher rewards than these.

    Raises:
      InputError: for no candidates, or a spread that is not from 0 to 1.

    Reference: Sabour et al. 2025 (arXiv 2511.22688) has a search variant; its proposals are not verified, these are ours.
    """
    if count < 1 or not 0 <= spread <= 1:
        raise typing.InputError(f"search: count and spread are {count} and {spread}; expected at least 1, and 0 to 1.")
    rows = jnp.arange(len(x))

    def step(x: Array, number: Array, s: Array, t: Array) -> Array:
        back = s + spread * (1 - s)
        z = jax.random.normal(jax.random.fold_in(key, number), (count - 1, *x.shape), x.dtype)
        noisier = (1 - spread) * x[None] + jnp.sqrt(back**2 - ((1 - spread) * s) ** 2) * z
        tried = jnp.concatenate([x[None], noisier.astype(x.dtype)])
        since = jnp.where(jnp.arange(count) == 0, s, back)
        ends = jax.lax.map(lambda one: reward(flowmap.jump(V, one[0], one[1], jnp.zeros_like(s))), (tried, since))
        best = jnp.argmax(ends, axis=0)
        return flowmap.jump(V, tried[best, rows], since[best].reshape((-1,) + (1,) * (x.ndim - 1)), t)

    return samplers.fold(step, x, times)
