"""Posteriors of a noisy observation x_c = (1 - c) x0 + c n of level c in (0, 1], and what they are for.

A stochastic map jumps from new noise to a sample of p(x0 | x_c) in one call: F(eps, 1, 0 | x_c, c), the flow map of an inner path
I_s = (1 - s) x0 + s eps. At c = 1 the observation says nothing, and the map is the ordinary one. In this module

    draw(x_c, c, eps) -> x0          one sample a row, with fresh noise eps of the shape of x_c

stands for such a map, trained (methods `meta_*`) or exact. Everything is for the linear path on R^n, with noise N(0, I).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flowjax import checks, samplers
from flowjax.typing import Array, Reward, Time, Velocity

Draw = Callable[[Array, Time, Array], Array]  # (x_c, c, eps) -> x0
Transition = Callable[[Array, Time, Time, Array], Array]  # (x_c, c, t, eps) -> x_t


def denoised(v: Velocity, x: Array, s: Time, x_c: Array, c: Time) -> Array:
    """E[x0 | x, x_c] of two observations with independent noise, x at level s and x_c at level c, from the ordinary velocity.

    Together they are one observation of level t:

        m = ((1 - s) / s^2 x + (1 - c) / c^2 x_c) / l,   l = ((1 - s) / s)^2 + ((1 - c) / c)^2,   t = 1 / (1 + l^(1/2))
        E[x0 | x, x_c] = D((1 - t) m, t),    D(y, t) = y - t v(y, t)

    Arguments as of `glass`; times are arrays that fit `x`.
    """
    length = ((1 - s) / s) ** 2 + ((1 - c) / c) ** 2
    known = length > 0  # neither observation says anything at s = c = 1
    safe = jnp.where(known, length, 1.0)
    root = jnp.where(known, jnp.sqrt(safe), 0.0)
    # (1 - t) m = root / (1 + root) times the weighted sum over length; one division by root, none by zero.
    seen = ((1 - s) / s**2 * x + (1 - c) / c**2 * x_c) / (jnp.sqrt(safe) * (1 + root))
    y, t = jnp.where(known, seen, x), 1 / (1 + root)
    return y - t * v(y, t)


def glass(v: Velocity, x: Array, s: Time, x_c: Array, c: Time) -> Array:
    """The velocity of the inner path given x_c, in closed form from the ordinary velocity: a teacher of stochastic maps.

        v(x, s | x_c, c) = (x - E[x0 | x, x_c]) / s

    Args:
      v: the ordinary velocity, `v(x, t)`.
      x: point of the inner path, [B, ...].
      s: its time in (0, 1].
      x_c: the observation, the shape of `x`.
      c: its level in (0, 1].

    Returns:
      The shape of `x`. At c = 1 it is v(x, s), up to rounding.

    Raises:
      InputError: if a time has neither no axis nor `x.ndim` axes, or the shapes differ.

    Example:
      >>> bool(jnp.allclose(glass(flow.v, x, 0.5, 0 * x, 1.0), flow.v(x, 0.5), atol=1e-5))
      True

    Reference: Holderrieth et al. 2025, GLASS Flows (arXiv 2509.25170), derived anew from the two independent observations.
    """
    s, c = checks.times("glass", x, s=s, c=c)
    x_c = checks.like("glass", x, x_c, name="x_c")
    return ((x - denoised(v, x, s, x_c, c)) / s).astype(x.dtype)


class Inner(NamedTuple):
    """The inner path of a random transition given x_c = (1 - c) x0 + c n: from noise e to kept x_c + share x0 + spread e.

        z_s = (1 - s) (kept x_c + share x0 + spread e) + s e

    Each field is a number, or fits the rows. Where it leads for other kept, share and spread: see `to_data`, `to_velocity`, `to_level`.
    """

    kept: Time
    share: Time
    spread: Time

    def end(self, x0: Array, x_c: Array, e: Array) -> Array:
        """Where the path of a row leads, z_0."""
        return self.kept * x_c + self.share * x0 + self.spread * e

    def velocity(self, v: Velocity, z: Array, s: Time, x_c: Array, c: Time) -> Array:
        """The velocity of the path given x_c, in closed form from the ordinary velocity: `glass` is that of `to_data`.

        z and x_c are two independent observations of x0, from which E[x0] and E[e] follow. Arguments as of `glass`.
        """
        s, c = checks.times("the velocity of an inner path", z, s=s, c=c)
        rest = z - (1 - s) * self.kept * x_c  # (1 - s) share x0 + noise e
        noise, size = s + (1 - s) * self.spread, (1 - s) * jnp.abs(self.share)
        x, level = jnp.sign(self.share) * rest / (noise + size), noise / (noise + size)
        x0 = denoised(v, x, level, x_c, c)
        e = (rest - (1 - s) * self.share * x0) / noise
        return (e - self.end(x0, x_c, e)).astype(z.dtype)


def to_data() -> Inner:
    """Samples of p(x0 | x_c)."""
    return Inner(0.0, 1.0, 0.0)


def to_velocity(c: Time) -> Inner:
    """Samples of the velocity n - x0 = (x_c - x0) / c of the observation: the transitions of transition matching, c > 0.

    Reference: Nie et al. 2026, Transition Matching Distillation (arXiv 2601.09881).
    """
    return Inner(1 / c, -1 / c, 0.0)


def to_level(c: Time, t: Time) -> Inner:
    """Samples of p(x_t | x_c), t < c, less the part gamma x_c of them that is known: the general transitions of Diamond Maps.

        x_t - gamma x_c = ((1 - t) - gamma (1 - c)) x0 + t (1 - rho^2)^(1/2) e,    rho = (1 - c) t / ((1 - t) c),   gamma = rho t / c

    Of all transitions with the right marginals these are the ones of the Markov chain that adds noise (DDPM). At t = 0: `to_data`.

    Args:
      c: level of the observation in (0, 1].
      t: level of the result in [0, c).

    Reference: Holderrieth et al. 2026, Diamond Maps (arXiv 2602.05993), and its code, in our time.
    """
    rho = (1 - c) * t / ((1 - t) * c)
    return Inner(0.0, (1 - t) - carried(c, t) * (1 - c), t * jnp.sqrt(1 - rho**2))


def carried(c: Time, t: Time) -> Time:
    """gamma of `to_level`, (1 - c) t^2 / ((1 - t) c^2): the part of x_c that stays in x_t."""
    return (1 - c) * t**2 / ((1 - t) * c**2)


def observed(x0: Array, c: Time, key: Array) -> Array:
    """A noisy observation (1 - c) x0 + c n, n ~ N(0, I)."""
    return (1 - c) * x0 + c * jax.random.normal(key, x0.shape, x0.dtype)


def value(draw: Draw, reward: Reward, x_c: Array, c: Time, eps: Array) -> Array:
    """log E[e^r(x0) | x_c] by K posterior draws: logsumexp_k r(draw(x_c, c, eps_k)) - log K.

    Args:
      draw: posterior draws.
      reward: r.
      x_c: [B, ...], at level c.
      c: level in (0, 1].
      eps: noise of the draws, [K, B, ...].

    Returns:
      [B]. Its expectation is at most the value (Jensen), and nears it as 1 / K.

    Reference: Holderrieth et al. 2026, Diamond Maps (arXiv 2602.05993), which estimates the value by posterior draws.
    """
    rewards = jax.vmap(lambda eps: reward(draw(x_c, c, eps)))(eps)
    return jax.nn.logsumexp(rewards, axis=0) - jnp.log(len(eps))


def tilted_velocity(v: Velocity, draw: Draw, reward: Reward, x: Array, t: Time, eps: Array) -> Array:
    """The velocity of p(x0) e^r(x0), by the gradient of the value: v(x, t) - t / (1 - t) grad_x log E[e^r(x0) | x], for t < 1.

    Consistent as the number of draws grows, if they are of the posterior. Arguments as of `value`, and v the ordinary velocity.
    """
    slope = jax.grad(lambda x: jnp.sum(value(draw, reward, x, t, eps)))(x)
    return v(x, t) - t / (1 - t) * slope


def tilted_velocity_without_gradient(v: Velocity, draw: Draw, reward: Reward, x: Array, t: Time, eps: Array) -> Array:
    """The velocity of p(x0) e^r(x0), from weighted draws: v(x, t) - (E_w[x0] - E[x0]) / t, weights softmax over draws of r.

    For rewards without a gradient, and for t up to 1. Arguments as of `tilted_velocity`.
    """
    ends = jax.vmap(lambda eps: draw(x, t, eps))(eps)
    weights = jax.nn.softmax(jax.vmap(reward)(ends), axis=0)
    tilted = jnp.sum(weights.reshape(weights.shape + (1,) * (x.ndim - 1)) * ends, axis=0)
    return v(x, t) - (tilted - jnp.mean(ends, axis=0)) / t


def chain(draw: Draw, x: Array, levels: Array, key: Array) -> Array:
    """Draws and re-noising in turn: x0 <- draw(x, c, eps), x <- (1 - c') x0 + c' n, along levels c. The last draw is returned.

    Each round leaves the marginals as they are if the draws are of the posterior: with levels that stay the same this is a Markov
    chain whose law is p_c.

    Args:
      draw: posterior draws.
      x: at `levels[0]`, [B, ...].
      levels: [n + 1], each in (0, 1] but the last, which is 0 where data is wanted, else the level of the result.
      key: of all noise.

    Returns:
      [B, ...] at `levels[-1]`.
    """

    move = renoised(draw)
    return samplers.fold(lambda x, number, c, t: move(x, c, t, jax.random.fold_in(key, number)), x, levels)


def renoised(draw: Draw) -> Callable[[Array, Time, Time, Array], Array]:
    """The random transition of `chain`, `(x_c, c, t, key) -> (1 - t) draw(x_c, c, eps) + t n`, for flowjax.steering.tilted_transitions."""

    def move(x: Array, c: Time, t: Time, key: Array) -> Array:
        draw_key, noise_key = jax.random.split(key)
        x0 = draw(x, c, jax.random.normal(draw_key, x.shape, x.dtype))
        return observed(x0, t, noise_key).astype(x.dtype)

    return move


def value_by_draws(draw: Draw, reward: Reward, count: int) -> Callable[[Array, Time, Array], Array]:
    """`value` of so many draws with new noise, `(x_t, t, key) -> [B]`, for flowjax.steering.tilted_transitions."""
    return lambda x, t, key: value(draw, reward, x, t, jax.random.normal(key, (count, *x.shape), x.dtype))


def descent(transition: Transition, x: Array, levels: Array, key: Array) -> Array:
    """Random transitions along falling levels, each with new noise: x <- transition(x, c, t, eps).

    Args:
      transition: samples of p(x_t | x_c), of a run of `diamond_map` `Trained.transition()`.
      x: at `levels[0]`, [B, ...].
      levels: [n + 1], falling from at most 1 to at least 0.
      key: of all noise.

    Returns:
      [B, ...] at `levels[-1]`.
    """

    def step(x: Array, number: Array, c: Array, t: Array) -> Array:
        eps = jax.random.normal(jax.random.fold_in(key, number), x.shape, x.dtype)
        return transition(x, c, t, eps).astype(x.dtype)

    return samplers.fold(step, x, levels)
