"""Strong Stochastic Flow Maps: jumps along the paths of a noisy process, whose noise is an input.

The process runs from noise, time 1, to data, time 0, by

    dX = -b(X, t) dtau + (2 noise t)^(1/2) dW,     b(x, t) = (1 + noise (1 - t)) v(x, t) + noise x,     tau = 1 - t,

and has the marginals of the flow of v for any strength `noise`; 0 is the flow. A jump is F(x, s, t | w) = x + (t - s) V(x, s, t, w) + w_0,
w [3, B, ...] the coefficients of its noise (flowjax.brownian): V is the mean drift along the path. Arguments are those of flowjax.losses,
V is called `V(x, s, t, w)`, and s >= t.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from flowjax import brownian, checks, flowmap
from flowjax.typing import Array, Jvp, Pair, Time

sg = jax.lax.stop_gradient
Drift = Callable[[Array, Time, Time, Array], Array]  # V(x, s, t, w) -> mean drift, like x


def drift(v: Array, x: Array, s: Time, noise: float) -> Array:
    """b = (1 + noise (1 - s)) v + noise x; linear in the velocity, so that a conditional one gives the right mean.

    Example:
      >>> drift(jnp.ones((1, 2)), jnp.ones((1, 2)), 0.5, 2.0).tolist()
      [[4.0, 4.0]]
    """
    return (1 + noise * (1 - s)) * v + noise * x


def strong_anchor(V: Drift, x: Array, s: Time, t: Time, v: Array, w: Array, *, noise: float = 1.0) -> Pair:
    """Over a short time the mean drift is the drift, whatever the noise: Euler and Maruyama's step.

        V(x, s, t, w)  vs  sg[b(x, s)],     b = (1 + noise (1 - s)) v + noise x

    Args:
      t: a little below s; at t = s this is exact.
      v: velocity at (x, s), conditional or marginal.
      w: coefficients of the noise between s and t, [3, B, ...].
      noise: strength of the noise.

    Example:
      >>> V = lambda x, s, t, w: drift(flow.v(x, s), x, s, 1.0)
      >>> assert jnp.allclose(*strong_anchor(V, x, s, s, flow.v(x, s), jnp.zeros((3, *x.shape))), atol=1e-5)

    Reference: McCallum et al. 2026 (arXiv 2606.01086), its code, whose errors of F over s - t are (s - t) times the squares here.
    """
    s, t = checks.times("strong_anchor", x, s=s, t=t)
    v = checks.like("strong_anchor", x, v)
    return Pair(V(x, s, t, w), sg(drift(v, x, s, noise)))


def strong_composition(V: Drift, V_target: Drift, x: Array, s: Time, t: Time, a: Time, left: Array, right: Array) -> Pair:
    """Two jumps along a path are one, with the noise of both.

        V(x, s, t, w)  vs  sg[a V_target(x, s, m, left) + (1 - a) V_target(F_target(x, s, m, left), m, t, right)],     m = s + a (t - s)

    w are the coefficients of both parts, flowjax.brownian.joined. Without noise this is the pair of
    `progressive_self_distillation`. With three coefficients w does not determine the path, and the least error is the mean over the
    paths that have them.

    Args:
      V_target: a map with averaged weights, 0.999 as published.
      left: coefficients of the noise between s and m, [3, B, ...].
      right: those between m and t.

    Example:
      >>> V = lambda x, s, t, w: flow.V(x, s, t)
      >>> assert jnp.allclose(*strong_composition(V, V, x, s, t, 0.5, jnp.zeros((3, *x.shape)), jnp.zeros((3, *x.shape))), atol=1e-5)

    Reference: McCallum et al. 2026, Strong Stochastic Flow Maps (arXiv 2606.01086), its code.
    """
    s, t, a = checks.times("strong_composition", x, s=s, t=t, a=a)
    m = s + a * (t - s)
    w = brownian.joined(left, right, (s**2 - m**2) / (s**2 - t**2))
    first = V_target(x, s, m, left)
    x_m = (flowmap.move(x, s, m, first) + left[0]).astype(x.dtype)
    return Pair(V(x, s, t, w), sg(a * first + (1 - a) * V_target(x_m, m, t, right)))


def strong_lagrangian(V: Drift, x: Array, s: Time, t: Time, w: Array, *, jvp: Jvp = jax.jvp) -> Pair:
    """Lagrangian self-distillation along a path: as its end moves, the map follows the drift where it lands, and the noise.

        V(x, s, t, w) + (t - s) d_t V(x, s, t, w)  vs  sg[V(F(x, s, t | w), t, t, 0)]

    d_t moves the end along the polynomial path that has the coefficients w, which move with it (flowjax.brownian.extended); the noise
    itself, dw_0, is on both sides. Without noise this is `lagrangian_self_distillation`.

    The exact answer is the solution along that polynomial (the limit of Wong and Zakai), where that of `strong_composition` is the mean
    of the solutions along all paths that have w. They agree for a linear drift, and come together as jumps get short.

    Args:
      w: coefficients of the noise between s and t, [3, B, ...].

    Example:
      >>> V = lambda x, s, t, w: flow.V(x, s, t)
      >>> assert jnp.allclose(*strong_lagrangian(V, x, s, t, jnp.zeros((3, *x.shape))), atol=1e-5)

    Reference: ours. McCallum et al. 2026 (arXiv 2606.01086) converge along such polynomials; their code has the composition alone.
    """
    s, t = jnp.broadcast_arrays(*checks.times("strong_lagrangian", x, s=s, t=t))
    V_st, dV_dt = jvp(lambda t, w: V(x, s, t, w), (t, w), (t - s, brownian.extended(w, s, t)))  # (t - s) d_t V
    F = (flowmap.move(x, s, t, V_st) + w[0]).astype(x.dtype)
    return Pair(V_st + dV_dt, sg(V(sg(F), t, t, jnp.zeros_like(w))))
