"""Where a map breaks the rules of a flow map: residuals in units of velocity, zero for every true flow map.

Each is a pair of flowjax.losses with the map in all its places, as prediction - target, so that all three and the true error are
on one scale: data per unit of time.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from flowjax import losses, paths, samplers, times


def lagrangian(V, x, s, t):
    """The target moves: `d_t F(x, s, t) - V(F, t, t)`. Arguments as in flowjax.losses; residual [B, ...]."""
    pair = losses.lagrangian_self_distillation(V, x, s, t)
    return pair.prediction - pair.target


def eulerian(V, x, s, t):
    """The source moves: `d_s F(x, s, t) + dF/dx V(x, s, s)`."""
    pair = losses.eulerian_self_distillation(V, x, s, t)
    return pair.prediction - pair.target


def compositional(V, x, s, t):
    """Two jumps are one: `(F(x, s, t) - F(F(x, s, m), m, t)) / (t - s)`, m halfway."""
    pair = losses.progressive_self_distillation(V, x, s, t, jnp.full_like(s, 0.5))
    return pair.prediction - pair.target


RULES = {"lagrangian": lagrangian, "eulerian": eulerian, "compositional": compositional}


def true_error(exact):
    """The residual against a flow map that is known, as a rule: `V(x, s, t) - V*(x, s, t)`.

    Args:
      exact: its average velocity V*, `exact(x, s, t)`.
    """
    return lambda V, x, s, t: V(x, s, t) - exact(x, s, t)


def error_map(rule: Callable, V, x0, eps, grid, path=paths.linear):
    """Root mean square of a residual over (s, t), the points on the path between data and noise at s.

    Args:
      rule: `(V, x, s, t) -> residual`, of RULES or `true_error`.
      V: average velocity, `V(x, s, t)`, of a batch of len(x0) rows.
      x0: data, [B, ...].
      eps: noise, like x0.
      grid: times [n] in [0, 1], ascending.
      path: a flowjax.paths.Path.

    Returns:
      [n, n], target time t by source time s, over rows and coordinates; nan where t > s, which few methods learn.
    """
    grid = jnp.asarray(grid, jnp.float32)
    source, target = jnp.tril_indices(len(grid))

    def error(pair):
        s, t = (times.expand(jnp.full(len(x0), time), x0) for time in pair)
        x = path.alpha(s) * x0 + path.sigma(s) * eps
        return jnp.sqrt(jnp.mean(rule(V, x, s, t) ** 2))

    found = jax.lax.map(error, (grid[source], grid[target]))
    return jnp.full((len(grid), len(grid)), jnp.nan).at[target, source].set(found)


def error_maps(V, x0, path, grid, exact=None, seed=0):
    """`error_map` of each rule, and of the true error if the exact average velocity is known: {rule: numpy [n, n]}.

    Args:
      V: average velocity of a batch of len(x0) rows.
      x0: data, [B, ...].
      path: a flowjax.paths.Path.
      grid: times [n] in [0, 1], ascending.
      exact: the exact average velocity, or None.
      seed: of the noise.
    """
    eps = jax.random.normal(jax.random.key(seed), jnp.shape(x0))
    known = RULES | ({} if exact is None else {"true error": true_error(exact)})
    ask = lambda rule: jax.jit(lambda x0, eps: error_map(rule, V, x0, eps, grid, path))
    return {name: np.asarray(ask(rule)(x0, eps)) for name, rule in known.items()}


def root_mean_square(values):
    """Of an error map, nan left out."""
    return float(np.sqrt(np.nanmean(np.square(values))))


def along(v, steps=64):
    """The average velocity V(x, s, t) of the flow of a velocity `v(x, t)`: the mean along its solution, by Heun's method from s to t.

    On the diagonal it is v. Times are columns, [B, 1, ...], or scalars; every row may have its own.
    """

    def V(x, s, t):
        # In the share of the way, so that every row may have times of its own.
        way = lambda x, share: (t - s) * v(x, s + share * (t - s))
        moved = samplers.heun(way, x, jnp.linspace(0.0, 1.0, steps + 1)) - x
        gap = jnp.abs(t - s) < 1e-4
        return jnp.where(gap, v(x, s), moved / jnp.where(gap, 1.0, t - s))

    return V
