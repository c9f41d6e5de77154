"""How far a map is from a flow map: residuals in units of velocity, zero for every true flow map.

On R^n each is a pair of flowjax.losses, prediction - target, with the map in place of every network, so that all three and the true
error are on one scale: data per unit of time. On another space the same three derivatives are taken along the space, and a residual is
tangent where the map lands.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from flowjax import flowmap, losses, paths, samplers, spaces, times
from flowjax.typing import Array, AverageVelocity, Time, Velocity

Rule = Callable[[AverageVelocity, Array, Time, Time], Array]  # (V, x, s, t) -> residual, the shape of x


def lagrangian(V: AverageVelocity, x: Array, s: Time, t: Time) -> Array:
    """The target time moves: `d_t F(x, s, t) - V(F, t, t)`."""
    pair = losses.lagrangian_self_distillation(V, x, s, t)
    return pair.prediction - pair.target


def eulerian(V: AverageVelocity, x: Array, s: Time, t: Time) -> Array:
    """The source time moves: `d_s F(x, s, t) + dF/dx V(x, s, s)`."""
    pair = losses.eulerian_self_distillation(V, x, s, t)
    return pair.prediction - pair.target


def compositional(V: AverageVelocity, x: Array, s: Time, t: Time) -> Array:
    """Two jumps are one: `(F(x, s, t) - F(F(x, s, m), m, t)) / (t - s)`, m halfway."""
    pair = losses.progressive_self_distillation(V, x, s, t, jnp.full_like(s, 0.5))
    return pair.prediction - pair.target


RULES: dict[str, Rule] = {"lagrangian": lagrangian, "eulerian": eulerian, "compositional": compositional}


def _lagrangian_on(space, V, x, s, t):
    F, dF_dt = jax.jvp(lambda t: flowmap.jump(V, x, s, t, move=space.move), (t,), (jnp.ones_like(t),))
    return dF_dt - space.project(F, V(F, t, t))


def _eulerian_on(space, V, x, s, t):
    jump = lambda x, s: flowmap.jump(V, x, s, t, move=space.move)
    return jax.jvp(jump, (x, s), (space.project(x, V(x, s, s)), jnp.ones_like(s)))[1]


def _compositional_on(space, V, x, s, t):
    jump = functools.partial(flowmap.jump, V, move=space.move)
    m = (s + t) / 2
    gap = space.log(jump(jump(x, s, m), m, t), jump(x, s, t))
    return jnp.where(t == s, 0.0, gap / jnp.where(t == s, 1.0, t - s))


def rules(space: spaces.Space = spaces.euclidean) -> dict[str, Rule]:
    """The three residuals on a space by name; on R^n RULES."""
    if space is spaces.euclidean:
        return RULES
    curved = {"lagrangian": _lagrangian_on, "eulerian": _eulerian_on, "compositional": _compositional_on}
    return {name: functools.partial(rule, space) for name, rule in curved.items()}


def true_error(exact: AverageVelocity) -> Rule:
    """The residual against a flow map that is known: `V(x, s, t) - V*(x, s, t)`.

    Args:
      exact: its average velocity V*, `exact(x, s, t)`.
    """
    return lambda V, x, s, t: V(x, s, t) - exact(x, s, t)


def error_map(
    rule: Rule, V: AverageVelocity, x0: Array, eps: Array, grid: Sequence[float], path: paths.Path = paths.linear
) -> Array:
    """Root mean square of a residual over (s, t), the points on the path between data and noise at s.

    Args:
      rule: `(V, x, s, t) -> residual`, of `rules(path.space)` or `true_error`.
      V: average velocity, `V(x, s, t)`, of a batch of len(x0) rows.
      x0: data, [B, ...].
      eps: noise, the shape of x0.
      grid: times [n] in [0, 1], ascending.
      path: a flowjax.paths.Path.

    Returns:
      [n, n], target time t by source time s, over rows and coordinates; nan where t > s, which few methods learn.
    """
    time = jnp.asarray(grid, jnp.float32)
    source, target = jnp.tril_indices(len(time))

    def error(pair):
        s, t = (times.expand(jnp.full(len(x0), time), x0) for time in pair)
        return jnp.sqrt(jnp.mean(rule(V, path.between(x0, eps, s), s, t) ** 2))

    errors = jax.lax.map(error, (time[source], time[target]))
    return jnp.full((len(time), len(time)), jnp.nan).at[target, source].set(errors)


def error_maps(
    V: AverageVelocity,
    x0: Array,
    path: paths.Path,
    grid: Sequence[float],
    exact: AverageVelocity | None = None,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """`error_map` of each rule, and of the true error if the exact average velocity is known: {rule: numpy [n, n]}.

    Args:
      V: average velocity of a batch of len(x0) rows.
      x0: data, [B, ...].
      path: a flowjax.paths.Path.
      grid: times [n] in [0, 1], ascending.
      exact: the exact average velocity, or None.
      seed: of the noise.
    """
    eps = path.draw(jax.random.key(seed), jnp.shape(x0))
    measured = rules(path.space) | ({} if exact is None else {"true error": true_error(exact)})
    errors = lambda rule: jax.jit(lambda x0, eps: error_map(rule, V, x0, eps, grid, path))
    return {name: np.asarray(errors(rule)(x0, eps)) for name, rule in measured.items()}


def root_mean_square(values: np.ndarray) -> float:
    """Of an error map, without its nan entries."""
    return float(np.sqrt(np.nanmean(np.square(values))))


def along(v: Velocity, steps: int = 64, space: spaces.Space = spaces.euclidean) -> AverageVelocity:
    """The average velocity V(x, s, t) of the flow of a velocity `v(x, t)`: the mean along its solution, by Heun's method from s to t.

    On the diagonal it is v.

    Args:
      v: velocity, `v(x, t)`.
      steps: of Heun's method.
      space: where the data is.

    Returns:
      `V(x, s, t)`; times are columns, [B, 1, ...], different from row to row if need be, or scalars.
    """

    def V(x, s, t):
        # In the share of the interval [s, t], because the interval may differ from row to row.
        scaled = lambda x, share: (t - s) * v(x, s + share * (t - s))
        moved = space.log(x, samplers.heun(scaled, x, jnp.linspace(0.0, 1.0, steps + 1), space=space))
        near = jnp.abs(t - s) < 1e-4
        return jnp.where(near, v(x, s), moved / jnp.where(near, 1.0, t - s))

    return V
