"""Samplers without new noise: on a grid turned round they carry data to the noise that it comes from."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from flowjax import flowmap, spaces, typing
from flowjax.samplers import grids
from flowjax.typing import Array, AverageVelocity, Velocity


def flow_map(V: AverageVelocity, x: Array, times: Array, *, space: spaces.Space = spaces.euclidean) -> Array:
    """Jumps along a grid of times, one evaluation of `V` an interval.

        x <- F(x, s, t) = x + (t - s) V(x, s, t)     for every (s, t) of neighbours in times
        on another space than R^n: exp_x((t - s) V(x, s, t))

    Args:
      V: average velocity, `V(x, s, t)`, called with 0-d times.
      x: data at `times[0]`, [B, ...].
      times: [n + 1] times in [0, 1], any order; n = 1 is one-step sampling.
      space: where the data is; velocities count as far as they are tangent to it.

    Returns:
      The data at `times[-1]`, with the shape and dtype of `x`.

    Raises:
      InputError: if `times` is not a 1-D array of at least two times.

    Example:
      >>> flow_map(lambda x, s, t: x, jnp.ones((1, 2)), jnp.array([1.0, 0.5, 0.0])).tolist()
      [[0.25, 0.25]]

    Reference: Boffi et al. 2024 (arXiv 2406.07507), multistep sampling; Geng et al. 2025 (arXiv 2505.13447), section 4.
    """
    return grids.walk(lambda x, s, t: flowmap.jump(V, x, s, t, move=space.move), x, times)


def euler(v: Velocity, x: Array, times: Array, *, space: spaces.Space = spaces.euclidean) -> Array:
    """Euler's method, order 1, for `dx/dt = v(x, t)`: x <- x + (t - s) v(x, s). Arguments as in `flow_map`, with `v(x, t)`.

    For a flow map the velocity is `lambda x, t: V(x, t, t)`.
    """
    return grids.walk(lambda x, s, t: space.move(x, s, t, v(x, s)), x, times)


def heun(v: Velocity, x: Array, times: Array, *, space: spaces.Space = spaces.euclidean) -> Array:
    """Heun's method, order 2: x <- x + (t - s) (v(x, s) + v(y, t)) / 2 with y Euler's step. Two evaluations an interval.

    Arguments as in `flow_map`, with `v(x, t)`. On another space than R^n the second velocity is projected on the tangents at x.
    """

    def step(x: Array, s: Array, t: Array) -> Array:
        v_s = v(x, s)
        y = space.move(x, s, t, v_s)
        return space.exp(x, (t - s) * (v_s + space.project(x, v(y, t))) / 2)

    return grids.walk(step, x, times)


def midpoint(v: Velocity, x: Array, times: Array, *, space: spaces.Space = spaces.euclidean) -> Array:
    """The midpoint method, order 2: x <- x + (t - s) v(y, m) with m halfway and y Euler's step there. Two evaluations an interval.

    Arguments as in `heun`.
    """

    def step(x: Array, s: Array, t: Array) -> Array:
        m = (s + t) / 2
        y = space.move(x, s, m, v(x, s))
        return space.move(x, s, t, space.project(x, v(y, m)))

    return grids.walk(step, x, times)


def adaptive(v: Velocity, x: Array, times: Array, *, rtol: float = 1e-5, atol: float = 1e-5) -> Array:
    """The solution of `dx/dt = v(x, t)` on R^n to a tolerance: Tsitouras' method of order 5, as many steps as the hardest row needs.

    The reference for other solvers, from diffrax. All rows take the same steps, so a row depends on the others at the level of the
    tolerance.

    Args:
      v: velocity, `v(x, t)`, called with 0-d times.
      x: data at `times[0]`, [B, ...].
      times: [n + 1] times in [0, 1], of which the first and the last count.
      rtol: relative tolerance of a step, as the root mean square of a row; not below 1e-6 in float32.
      atol: absolute tolerance, in units of the data.

    Returns:
      The data at `times[-1]`, with the shape and dtype of `x`.

    Raises:
      InputError: if `times` is not a 1-D array of at least two times, or a tolerance is not above 0.
      RuntimeError: if 4,096 steps do not suffice: v is not smooth at this tolerance.

    Reference: Kidger 2021, On Neural Differential Equations (arXiv 2202.02435), section 5.
    """
    import diffrax  # takes seconds

    if not (rtol > 0 and atol > 0):
        raise typing.InputError(f"adaptive: rtol and atol are {rtol} and {atol}; expected above 0, e.g. adaptive:rtol=1e-5.")
    times = grids.checked(times)
    rows = tuple(range(1, x.ndim))
    hardest = lambda error: jnp.max(jnp.sqrt(jnp.mean(error**2, axis=rows)))
    return diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, _: v(y.astype(x.dtype), t).astype(y.dtype)),
        diffrax.Tsit5(),
        t0=times[0],
        t1=times[-1],
        dt0=None,
        y0=x.astype(jnp.promote_types(x.dtype, jnp.float32)),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol, norm=hardest),
    ).ys[0].astype(x.dtype)  # fmt: skip


def trajectory(solver: Callable[..., Array], v: Velocity, x: Array, times: Array, kept: int) -> Array:
    """The points of a solver from `times[0]` to `times[-1]`, at evenly spaced times of the grid.

    Args:
      solver: `euler`, `heun`, `midpoint`, or `flow_map` with V instead of v.
      v: velocity, `v(x, t)`.
      x: data at `times[0]`, [B, ...].
      times: [n + 1] times.
      kept: how many points to keep, both ends among them; kept - 1 must divide n.

    Returns:
      [B, kept, ...].
    """
    steps = (len(times) - 1) // (kept - 1)
    legs = times[steps * jnp.arange(kept - 1)[:, None] + jnp.arange(steps + 1)[None]]

    def leg(x: Array, times: Array) -> tuple[Array, Array]:
        x = solver(v, x, times)
        return x, x

    return jnp.concatenate([x[:, None], jnp.moveaxis(jax.lax.scan(leg, x, legs)[1], 0, 1)], axis=1)
