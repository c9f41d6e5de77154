"""From noise to data: pure functions of a callable, one compilation a batch shape."""

import jax
import jax.numpy as jnp

from flowjax import flowmap, typing


def grid(steps):
    """Times from noise to data, uniform: [steps + 1] from 1 to 0. Raises InputError unless steps is at least 1."""
    if int(steps) != steps or steps < 1:
        raise typing.InputError(f"steps is {steps!r}; expected a whole number of at least 1, e.g. --steps=1,2,4.")
    return jnp.linspace(1.0, 0.0, int(steps) + 1)


def flow_map(V, x, times):
    """Jumps along a grid of times, one evaluation of `V` an interval.

        x <- F(x, s, t) = x + (t - s) V(x, s, t)     for every (s, t) of neighbours in times

    Args:
      V: average velocity, `V(x, s, t)`, called with 0-d times.
      x: data at `times[0]`, [B, ...].
      times: [n + 1] times in [0, 1], any order; n = 1 is one-step sampling.

    Returns:
      The data at `times[-1]`, with the shape and dtype of `x`.

    Raises:
      InputError: if `times` is not a 1-D array of at least two times.

    Example:
      >>> flow_map(lambda x, s, t: x, jnp.ones((1, 2)), jnp.array([1.0, 0.5, 0.0])).tolist()
      [[0.25, 0.25]]

    Reference: Boffi et al. 2024 (arXiv 2406.07507), multistep sampling; Geng et al. 2025 (arXiv 2505.13447), section 4.
    """
    return _scan(lambda x, s, t: flowmap.jump(V, x, s, t), x, times)


def euler(v, x, times):
    """Euler's method, order 1, for `dx/dt = v(x, t)`: x <- x + (t - s) v(x, s). Arguments as in `flow_map`, with `v(x, t)`.

    For a flow map the velocity is `lambda x, t: V(x, t, t)`.
    """
    return _scan(lambda x, s, t: (x + (t - s) * v(x, s)).astype(x.dtype), x, times)


def heun(v, x, times):
    """Heun's method, order 2: x <- x + (t - s) (v(x, s) + v(y, t)) / 2 with y Euler's step. Two evaluations an interval.

    Arguments as in `flow_map`, with `v(x, t)`.
    """

    def step(x, s, t):
        v_s = v(x, s)
        y = (x + (t - s) * v_s).astype(x.dtype)
        return (x + (t - s) * (v_s + v(y, t)) / 2).astype(x.dtype)

    return _scan(step, x, times)


def trajectory(solver, v, x, times, kept):
    """The way of a solver from `times[0]` to `times[-1]`, at evenly spaced times of the grid.

    Args:
      solver: `euler` or `heun`.
      v: velocity, `v(x, t)`.
      x: data at `times[0]`, [B, ...].
      times: [n + 1] times.
      kept: how many points to keep, both ends among them; kept - 1 divides n.

    Returns:
      [B, kept, ...].
    """
    own = (len(times) - 1) // (kept - 1)
    legs = times[own * jnp.arange(kept - 1)[:, None] + jnp.arange(own + 1)[None]]

    def leg(x, times):
        x = solver(v, x, times)
        return x, x

    return jnp.concatenate([x[:, None], jnp.moveaxis(jax.lax.scan(leg, x, legs)[1], 0, 1)], axis=1)


def consistency(V, x, times, keys):
    """Multistep consistency sampling on the linear path: jump to the data, add noise up to the next time, jump again.

        x0 = F(x, s, 0),   x <- (1 - t) x0 + t z,   z ~ N(0, I)

    For networks that learn jumps to the data alone.

    Args:
      V: average velocity, `V(x, s, t)`, called with t = 0.
      x: data at `times[0]`, [B, ...].
      times: [n + 1] times in [0, 1], falling to 0.
      keys: a typed key a row, [B], of the noise.

    Returns:
      The data at `times[-1]`, with the shape and dtype of `x`.

    Raises:
      InputError: if `times` is not a 1-D array of at least two times.

    Example:
      >>> keys = jax.random.split(jax.random.key(0), 1)
      >>> consistency(lambda x, s, t: x, jnp.ones((1, 2)), jnp.array([0.5, 0.0]), keys).tolist()
      [[0.5, 0.5]]

    Reference: Song et al. 2023, Consistency Models (arXiv 2303.01469), algorithm 1, in our time and path.
    """
    noise = lambda t: jax.vmap(lambda key: jax.random.normal(_folded(key, t), x.shape[1:], x.dtype))(keys)

    def step(x, s, t):
        x0 = flowmap.jump(V, x, s, jnp.zeros_like(s))
        return ((1 - t) * x0 + t * noise(t)).astype(x.dtype)

    return _scan(step, x, times)


def _folded(key, t):
    """A key that depends on a time in [0, 1]."""
    return jax.random.fold_in(key, jnp.round(t * 2**24).astype(jnp.uint32))


# By name, all called `(V, x, times, keys)` with an average velocity: the solvers follow its diagonal, the instantaneous V(x, t, t).
SAMPLERS = {
    "flow_map": lambda V, x, times, keys=None: flow_map(V, x, times),
    "consistency": consistency,
    "euler": lambda V, x, times, keys=None: euler(lambda x, t: V(x, t, t), x, times),
    "heun": lambda V, x, times, keys=None: heun(lambda x, t: V(x, t, t), x, times),
}


def _scan(step, x, times):
    times = jnp.asarray(times)
    times = times.astype(jnp.promote_types(times.dtype, jnp.float32))
    if times.ndim != 1 or times.shape[0] < 2:
        raise typing.InputError(
            f"times has shape {times.shape}; expected a 1-D grid of at least two times from the time of x to the time wanted:"
            " flowjax.samplers.grid(steps)."
        )
    return jax.lax.scan(lambda x, interval: (step(x, *interval), None), x, (times[:-1], times[1:]))[0]
