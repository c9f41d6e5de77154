"""The Lagrangian rule: moving the target, the map follows the velocity where it lands.

d_t F(x, s, t) = V + (t - s) d_t V = v(F(x, s, t), t),     d_t the partial derivative, x and s held
"""

import jax
import jax.numpy as jnp

from flowjax import checks, typing

sg = jax.lax.stop_gradient


def terminal_velocity(V, V_target, x, s, t, *, jvp=jax.jvp):
    """Terminal Velocity Matching: the velocity at which the map lands is the target network's velocity there.

        V(x, s, t) + (t - s) d_t V(x, s, t)  vs  sg[V_target(F(x, s, t), t, t)],     d_t V along (0, 0, 1)

    The gradient flows through the derivative. On the diagonal the network is compared with the target network, so a recipe adds
    the flow-matching anchor.

    Paper -> here: x_t -> x, t -> s, s -> t, F_theta -> V, f_theta -> F - x, F_theta*(., s, s) -> V_target(., t, t).

    Args:
      V: average velocity, `V(x, s, t)`.
      V_target: the target's average velocity, EMA weights in the paper; called on the diagonal, never differentiated.
      x: data on the path at time `s`, [B, ...].
      s: source time in [0, 1], a scalar or with `x.ndim` axes.
      t: target time in [0, 1], likewise.
      jvp: the derivative, `jax.jvp` or `flowjax.derivatives.finite_difference(...)`.

    Returns:
      Pair, both of the shape of `x`; no gradient reaches the target.

    Raises:
      InputError: if `s` or `t` does not fit `x`.

    Example:
      >>> V = lambda x, s, t: t * x
      >>> pair = terminal_velocity(V, V, jnp.ones((4, 2)), 1.0, 0.0)
      >>> pair.prediction[0].tolist(), pair.target[0].tolist()
      ([-1.0, -1.0], [0.0, 0.0])

    Reference: Zhou et al. 2025, Terminal Velocity Matching (arXiv 2511.19797), the terminal velocity loss.
    """
    s, t = checks.times("terminal_velocity", x, s=s, t=t)
    V_st, dV_dt = jvp(lambda t: V(x, s, t), (t,), (jnp.ones_like(t),))
    F = (x + (t - s) * V_st).astype(jnp.result_type(x))
    return typing.Pair(V_st + (t - s) * dV_dt, sg(V_target(sg(F), t, t)))
