"""The Eulerian rule: moving the source along its own trajectory does not change where it lands.

d_s F(x, s, t) = 0   <=>   V = v + (t - s) d_s V,     d_s the total derivative along (v, 1, 0)
"""

import jax
import jax.numpy as jnp

from flowjax import checks, typing

sg = jax.lax.stop_gradient


def meanflow(V, x, s, t, v, *, jvp=jax.jvp):
    """MeanFlow: the network regresses on the right-hand side of the Eulerian rule, all of it under a stop-gradient.

        V(x, s, t)  vs  sg[v + (t - s) d_s V(x, s, t)],     d_s V the jvp of V at (x, s, t) along (v, 1, 0)

    The stop-gradient is what makes a conditional `v` allowed: the update is linear in `v`, so its mean over the data is the
    update with the marginal velocity. On the diagonal this is flow matching.

    Paper -> here: z_t -> x, t -> s, r -> t, u -> V, u_tgt -> target.

    Args:
      V: average velocity, `V(x, s, t)`.
      x: data on the path at time `s`, [B, ...].
      s: source time in [0, 1], a scalar or with `x.ndim` axes.
      t: target time in [0, 1], likewise.
      v: velocity at (x, s), conditional or guided; the shape of `x`.
      jvp: the derivative, `jax.jvp` or `flowjax.derivatives.finite_difference(...)`.

    Returns:
      Pair, both of the shape of `x`; no gradient reaches the target.

    Raises:
      InputError: if `s`, `t` or `v` does not fit `x`.

    Example:
      >>> pair = meanflow(lambda x, s, t: s * x, jnp.ones((4, 2)), 1.0, 0.0, jnp.zeros((4, 2)))
      >>> pair.prediction[0].tolist(), pair.target[0].tolist()
      ([1.0, 1.0], [-1.0, -1.0])

    Reference: Geng et al. 2025, Mean Flows for One-step Generative Modeling (arXiv 2505.13447), eq. 9-11.
    """
    s, t = checks.times("meanflow", x, s=s, t=t)
    v = checks.velocity("meanflow", x, v)
    V_st, dV_ds = jvp(lambda x, s: V(x, s, t), (x, s), (v, jnp.ones_like(s)))
    return typing.Pair(V_st, sg(v + (t - s) * dV_ds))


def improved_meanflow(V, x, s, t, v, *, v_tangent=None, jvp=jax.jvp):
    """Improved MeanFlow: a regression on the velocity itself, with the network's own velocity as the tangent.

        V(x, s, t) - (t - s) sg[d_s V(x, s, t)]  vs  v,     d_s V along (v_tangent, 1, 0), v_tangent = V(x, s, s)

    The target no longer depends on the network, and the noisy conditional `v` no longer enters the derivative. On the diagonal
    this is flow matching.

    Paper -> here: z_t -> x, t -> s, r -> t, u -> V, the compound prediction V -> prediction, e - x -> v.

    Args:
      V: average velocity, `V(x, s, t)`.
      x: data on the path at time `s`, [B, ...].
      s: source time in [0, 1], a scalar or with `x.ndim` axes.
      t: target time in [0, 1], likewise.
      v: velocity at (x, s), conditional or guided; the shape of `x`.
      v_tangent: marginal velocity along which the source moves, the shape of `x`; None: `V(x, s, s)`. An auxiliary velocity
        head's output goes here. No gradient passes through it.
      jvp: the derivative, `jax.jvp` or `flowjax.derivatives.finite_difference(...)`.

    Returns:
      Pair, both of the shape of `x`; the gradient reaches the prediction through V(x, s, t) alone.

    Raises:
      InputError: if `s`, `t`, `v` or `v_tangent` does not fit `x`.

    Example:
      >>> pair = improved_meanflow(lambda x, s, t: s * x, jnp.ones((4, 2)), 1.0, 0.0, jnp.zeros((4, 2)))
      >>> pair.prediction[0].tolist(), pair.target[0].tolist()
      ([3.0, 3.0], [0.0, 0.0])

    Reference: Geng et al. 2025, Improved Mean Flows (arXiv 2512.02012), the reformulated v-loss and Algorithm 1.
    """
    s, t = checks.times("improved_meanflow", x, s=s, t=t)
    v = checks.velocity("improved_meanflow", x, v)
    v_tangent = checks.velocity("improved_meanflow", x, V(x, s, s) if v_tangent is None else v_tangent, name="v_tangent")
    V_st, dV_ds = jvp(lambda x, s: V(x, s, t), (x, s), (sg(v_tangent), jnp.ones_like(s)))
    return typing.Pair(V_st - (t - s) * sg(dV_ds), v)


def soflow(V, x, s, t, v, a):
    """SoFlow: the Eulerian rule over a finite step, without a derivative.

        V(x, s, t)  vs  sg[a v + (1 - a) V(x_m, m, t)],     m = s + a (t - s),  x_m = x + (m - s) v

    Both sides times (t - s) are F(x, s, t) and F(x_m, m, t). The residual is not divided by `a`: the distance carries that
    weight. Divided by `a` it tends to MeanFlow's residual as a -> 0; with s = t it is `a` times flow matching's.

    Paper -> here: t -> s, s -> t, l -> m, f_theta(x_t, t, s) -> F(x, s, t).

    Args:
      V: average velocity, `V(x, s, t)`.
      x: data on the path at time `s`, [B, ...].
      s: source time in [0, 1], a scalar or with `x.ndim` axes.
      t: target time in [0, 1], likewise.
      v: velocity at (x, s), conditional or guided; the shape of `x`.
      a: fraction of the way from `s` to `t` covered by the finite step, in (0, 1], likewise.

    Returns:
      Pair, both of the shape of `x`; no gradient reaches the target.

    Raises:
      InputError: if `s`, `t`, `v` or `a` does not fit `x`.

    Example:
      >>> pair = soflow(lambda x, s, t: s * x, jnp.ones((4, 2)), 1.0, 0.0, jnp.zeros((4, 2)), 0.5)
      >>> pair.prediction[0].tolist(), pair.target[0].tolist()
      ([1.0, 1.0], [0.25, 0.25])

    Reference: Luo, Yuan and Liu 2025, SoFlow (arXiv 2512.15657), the solution consistency loss.
    """
    s, t, a = checks.times("soflow", x, s=s, t=t, a=a)
    v = checks.velocity("soflow", x, v)
    m = s + a * (t - s)
    x_m = (x + (m - s) * v).astype(jnp.result_type(x))
    return typing.Pair(V(x, s, t), sg(a * v + (1 - a) * V(x_m, m, t)))
