"""The Lagrangian rule: moving the target, the map follows the velocity where it lands.

d_t F(x, s, t) = V + (t - s) d_t V = v(F(x, s, t), t),     d_t the partial derivative, x and s held
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flowjax import checks, derivatives, flowmap
from flowjax.typing import Array, AverageVelocity, Jvp, Pair, Time, Velocity

sg = jax.lax.stop_gradient


def lagrangian_distillation(V: AverageVelocity, teacher: Velocity, x: Array, s: Time, t: Time, *, jvp: Jvp = jax.jvp) -> Pair:
    """Lagrangian Map Distillation: the map moves with the teacher's velocity where it lands; nothing is stopped.

        V(x, s, t) + (t - s) d_t V(x, s, t)  vs  teacher(F(x, s, t), t)

    The left side is d_t F. The gradient flows through the derivative, and through the teacher into F; the teacher's weights stay.

    Paper -> here: X_{s,t}(x) -> F(x, s, t), b_t -> teacher; the paper's time is 1 minus ours, which turns the sign of both sides.

    Example:
      >>> assert jnp.allclose(*lagrangian_distillation(flow.V, flow.v, x, s, t), atol=1e-5)

    Reference: Boffi et al. 2024, Flow Map Matching (arXiv 2406.07507), Lagrangian map distillation.
    """
    s, t = checks.times("lagrangian_distillation", x, s=s, t=t)
    V_st, dV_dt = jvp(lambda t: V(x, s, t), (t,), (jnp.ones_like(t),))
    F = flowmap.move(x, s, t, V_st)
    return Pair(V_st + (t - s) * dV_dt, teacher(F, t))


def lagrangian_self_distillation(V: AverageVelocity, x: Array, s: Time, t: Time, *, jvp: Jvp = jax.jvp) -> Pair:
    """Lagrangian Self-Distillation: the network's diagonal is the teacher where the map lands.

        V(x, s, t) + (t - s) d_t V(x, s, t)  vs  sg[V(F(x, s, t), t, t)]

    The gradient flows through the derivative. On the diagonal both sides are the same number, so a recipe adds the anchor.

    Paper -> here: X_{s,t}(x) -> F(x, s, t), v_{s,t} -> V(., s, t); the paper's time is 1 minus ours.

    Example:
      >>> assert jnp.allclose(*lagrangian_self_distillation(flow.V, x, s, t), atol=1e-5)

    Reference: Boffi et al. 2025, How to build a consistency model (arXiv 2505.18825), the LSD loss.
    """
    s, t = checks.times("lagrangian_self_distillation", x, s=s, t=t)
    V_st, dV_dt = jvp(lambda t: V(x, s, t), (t,), (jnp.ones_like(t),))
    F = flowmap.move(x, s, t, V_st)
    return Pair(V_st + (t - s) * dV_dt, sg(V(sg(F), t, t)))


def align_your_flow_lmd(V: AverageVelocity, teacher: Velocity, x: Array, s: Time, t: Time, *, jvp: Jvp = jax.jvp) -> Pair:
    """Align Your Flow, the Lagrangian form: Lagrangian distillation with all of the target under a stop-gradient.

        V(x, s, t)  vs  sg[teacher(F(x, s, t), t) - (t - s) d_t V(x, s, t)]

    No gradient of a derivative is taken: half the cost of `lagrangian_distillation`, the same zero.

    Paper -> here: x_t -> x, t -> s, s -> t, f_theta(x_t, t, s) -> F(x, s, t), v_phi -> teacher, F_theta -> V.

    Example:
      >>> assert jnp.allclose(*align_your_flow_lmd(flow.V, flow.v, x, s, t), atol=1e-5)

    Reference: Sabour, Fidler and Kreis 2025, Align Your Flow (arXiv 2506.14603), the AYF-LMD objective.
    """
    s, t = checks.times("align_your_flow_lmd", x, s=s, t=t)
    V_st, dV_dt = jvp(lambda t: V(x, s, t), (t,), (jnp.ones_like(t),))
    F = flowmap.move(x, s, t, V_st)
    return Pair(V_st, sg(teacher(F, t) - (t - s) * dV_dt))


def terminal_velocity(V: AverageVelocity, V_target: AverageVelocity, x: Array, s: Time, t: Time, *, jvp: Jvp = jax.jvp) -> Pair:
    """Terminal Velocity Matching: the velocity at which the map lands is the target network's velocity there.

        V(x, s, t) + (t - s) d_t V(x, s, t)  vs  sg[V_target(F(x, s, t), t, t)]

    The gradient flows through the derivative. On the diagonal the network is compared with the target network, so a recipe adds
    the flow-matching anchor.

    Paper -> here: x_t -> x, t -> s, s -> t, F_theta -> V, f_theta -> F - x, F_theta*(., s, s) -> V_target(., t, t).

    Args:
      V_target: the target's average velocity, of EMA weights in the paper; called on the diagonal.

    Example:
      >>> assert jnp.allclose(*terminal_velocity(flow.V, flow.V, x, s, t), atol=1e-5)

    Reference: Zhou et al. 2025, Terminal Velocity Matching (arXiv 2511.19797), the terminal velocity loss.
    """
    s, t = checks.times("terminal_velocity", x, s=s, t=t)
    V_st, dV_dt = jvp(lambda t: V(x, s, t), (t,), (jnp.ones_like(t),))
    F = flowmap.move(x, s, t, V_st)
    return Pair(V_st + (t - s) * dV_dt, sg(V_target(sg(F), t, t)))


def freeflow_prediction(
    V: AverageVelocity, teacher: Velocity, x: Array, t: Time, *, jvp: Jvp = derivatives.finite_difference()
) -> Pair:
    """FreeFlow's prediction loss: Align Your Flow's Lagrangian form from pure noise, s = 1; no data is read.

        V(x, 1, t)  vs  sg[teacher(F(x, 1, t), t) + (1 - t) d_t V(x, 1, t)]

    Paper -> here: z -> x, delta = 1 - t the length of the jump, F_theta(z, delta) -> V(x, 1, t) up to its sign, u -> teacher.

    Args:
      x: noise, [B, ...].
      jvp: the paper takes a finite difference.

    Example:
      >>> assert jnp.allclose(*freeflow_prediction(flow.V, flow.v, x, t), atol=1e-3)

    Reference: Tong et al. 2025, Flow Map Distillation Without Data (arXiv 2511.19428), the prediction objective.
    """
    (t,) = checks.times("freeflow_prediction", x, t=t)
    one = jnp.ones_like(t)
    V_1t, dV_dt = jvp(lambda t: V(x, one, t), (t,), (one,))
    F = flowmap.move(x, one, t, V_1t)
    return Pair(V_1t, sg(teacher(F, t) + (1 - t) * dV_dt))


def physics_informed(
    V: AverageVelocity, teacher: Velocity, x: Array, t: Time, *, jvp: Jvp = derivatives.finite_difference()
) -> Pair:
    """Physics Informed Distillation: the trajectory from noise solves the teacher's equation; no data is read.

        V(x, 1, t) + (t - 1) d_t V(x, 1, t)  vs  sg[teacher(F(x, 1, t), t)]

    The left side is d_t F(x, 1, t), and gradient flows through the derivative, but not through the teacher: a student that could
    would learn to exploit it. The published code scores F - t d_t F against sg[F - t teacher(F, t)] instead, as the recipe does.

    Paper -> here: x_theta(z, t) -> F(x, 1, t), z -> x; the paper's noise level is sigma = t / (1 - t).

    Args:
      x: noise, [B, ...].
      jvp: the paper takes a one-sided finite difference.

    Example:
      >>> assert jnp.allclose(*physics_informed(flow.V, flow.v, x, t), atol=1e-3)

    Reference: Tee et al. 2024, Physics Informed Distillation for Diffusion Models (arXiv 2411.08378).
    """
    (t,) = checks.times("physics_informed", x, t=t)
    one = jnp.ones_like(t)
    V_1t, dV_dt = jvp(lambda t: V(x, one, t), (t,), (one,))
    F = flowmap.move(x, one, t, V_1t)
    return Pair(V_1t + (t - 1) * dV_dt, sg(teacher(F, t)))


def boot(V: AverageVelocity, teacher: Velocity, x: Array, t: Time, m: Time) -> Pair:
    """BOOT: the map from pure noise grows by one Euler step of the teacher where it stands; no data is read.

        V(x, 1, t)  vs  sg[V(x, 1, m) + (m - t) / (1 - t) (teacher(F(x, 1, m), m) - V(x, 1, m))],     t < m

    Both sides times (t - 1), plus x: F(x, 1, t) is F(x, 1, m) moved to t along the teacher. A recipe adds the boundary, the anchor
    at s = 1 on the teacher. With m -> t this is Lagrangian distillation from noise, over (m - t).

    Paper -> here: eps -> x, t -> m, s = t - delta -> t, y_theta(eps, t) the paper's signal ~ x - V(x, 1, t), f_phi -> teacher.

    Args:
      x: noise, the source at s = 1, [B, ...].
      t: target time in [0, 1).
      m: time from which the target starts its step, in (t, 1], shaped like `t`.

    Example: with a teacher that knows the chord from m to t, the Euler step is exact.
      >>> chord = lambda x, m: flow.V(x, m, t)
      >>> assert jnp.allclose(*boot(flow.V, chord, x, t, m=0.6), atol=1e-5)

    Reference: Gu et al. 2023, BOOT (arXiv 2306.05544), the bootstrapping objective.
    """
    t, m = checks.times("boot", x, t=t, m=m)
    one = jnp.ones_like(t)
    V_1m = V(x, one, m)
    F = flowmap.move(x, one, m, V_1m)
    return Pair(V(x, one, t), sg(V_1m + (m - t) / (1 - t) * (teacher(F, m) - V_1m)))


def consistency_mid_training(V: AverageVelocity, x: Array, s: Time, t: Time, x_t: Array) -> Pair:
    """Consistency mid-training: plain regression on a trajectory that a teacher's solver has walked; nothing is stopped.

        V(x, s, t)  vs  (x - x_t) / (s - t)

    Paper -> here: x_i, t_i -> x, s, x_j, t_j -> x_t, t. The paper does this before another method learns from data.

    Args:
      x: a point of the trajectory at time `s`, [B, ...].
      t: time of another point of the same trajectory, not `s`.
      x_t: that point, the shape of `x`.

    Example:
      >>> assert jnp.allclose(*consistency_mid_training(flow.V, x, s, t, flow.F(x, s, t)), atol=1e-5)

    Reference: Hu et al. 2025, CMT (arXiv 2509.24526), the mid-training objective.
    """
    s, t = checks.times("consistency_mid_training", x, s=s, t=t)
    x_t = checks.like("consistency_mid_training", x, x_t, name="x_t")
    return Pair(V(x, s, t), (x - x_t) / (s - t))
