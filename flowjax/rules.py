"""Where a map breaks the rules of a flow map: residuals in units of velocity, zero for every true flow map.

Each is a pair of flowjax.losses with the map in all its places, as prediction - target, so that all three and the true error are
on one scale: data per unit of time.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from flowjax import losses, paths, times


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
