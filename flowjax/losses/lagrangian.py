"""The Lagrangian rule: moving the target, the map follows the velocity where it lands.

d_t F(x, s, t) = V + (t - s) d_t V = v(F(x, s, t), t),     d_t the partial derivative, x and s held
"""

import jax
import jax.numpy as jnp

from flowjax import checks, derivatives, flowmap, typing

sg = jax.lax.stop_gradient


def lagrangian_distillation(V, teacher, x, s, t, *, jvp=jax.jvp):
    """Lagrangian Map Distillation: the map moves with the teacher's velocity where it lands; nothing is stopped.

        V(x, s, t) + (t - s) d_t V(x, s, t)  vs  teacher(F(x, s, t), t),     d_t V along (0, 0, 1)

    The left side is d_t F. The gradient flows through the derivative, and through the teacher into F; the teacher's weights stay.

    Paper -> here: X_{s,t}(x) -> F(x, s, t), b_t -> teacher; the paper's time is 1 minus ours, which turns the sign of both sides.

    Args:
      V: average velocity, `V(x, s, t)`.
      teacher: instantaneous velocity, `teacher(x, t)`.
      x: data on the path at time `s`, [B, ...].
      s: source time in [0, 1], a scalar or with `x.ndim` axes.
      t: target time in [0, 1], likewise.
      jvp: the derivative, `jax.jvp` or `flowjax.derivatives.finite_difference(...)`.

    Returns:
      Pair, both of the shape of `x`; both carry gradient.

    Raises:
      InputError: if `s` or `t` does not fit `x`.

    Example:
      >>> pair = lagrangian_distillation(lambda x, s, t: t * x, lambda x, t: -x, jnp.ones((4, 2)), 1.0, 0.5)
      >>> pair.prediction[0].tolist(), pair.target[0].tolist()
      ([0.0, 0.0], [-0.75, -0.75])

    Reference: Boffi et al. 2024, Flow Map Matching (arXiv 2406.07507), Lagrangian map distillation.
    """
    s, t = checks.times("lagrangian_distillation", x, s=s, t=t)
    V_st, dV_dt = jvp(lambda t: V(x, s, t), (t,), (jnp.ones_like(t),))
    F = flowmap.move(x, s, t, V_st)
    return typing.Pair(V_st + (t - s) * dV_dt, teacher(F, t))


def lagrangian_self_distillation(V, x, s, t, *, jvp=jax.jvp):
    """Lagrangian Self-Distillation: the teacher is the network's own diagonal, where the map lands.

        V(x, s, t) + (t - s) d_t V(x, s, t)  vs  sg[V(sg F(x, s, t), t, t)],     d_t V along (0, 0, 1)

    The gradient flows through the derivative. On the diagonal both sides are the same number, so a recipe adds the anchor.

    Paper -> here: X_{s,t}(x) -> F(x, s, t), v_{s,t} -> V(., s, t); the paper's time is 1 minus ours.

    Args:
      V: average velocity, `V(x, s, t)`.
      x: data on the path at time `s`, [B, ...].
      s: source time in [0, 1], a scalar or with `x.ndim` axes.
      t: target time in [0, 1], likewise.
      jvp: the derivative, `jax.jvp` or `flowjax.derivatives.finite_difference(...)`.

    Returns:
      Pair, both of the shape of `x`; no gradient reaches the target.

    Raises:
      InputError: if `s` or `t` does not fit `x`.

    Example:
      >>> pair = lagrangian_self_distillation(lambda x, s, t: t * x, jnp.ones((4, 2)), 1.0, 0.5)
      >>> pair.prediction[0].tolist(), pair.target[0].tolist()
      ([0.0, 0.0], [0.375, 0.375])

    Reference: Boffi et al. 2025, How to build a consistency model (arXiv 2505.18825), the LSD loss.
    """
    s, t = checks.times("lagrangian_self_distillation", x, s=s, t=t)
    V_st, dV_dt = jvp(lambda t: V(x, s, t), (t,), (jnp.ones_like(t),))
    F = flowmap.move(x, s, t, V_st)
    return typing.Pair(V_st + (t - s) * dV_dt, sg(V(sg(F), t, t)))


def align_your_flow_lmd(V, teacher, x, s, t, *, jvp=jax.jvp):
    """Align Your Flow, the Lagrangian form: Lagrangian distillation with all of the target under a stop-gradient.

        V(x, s, t)  vs  sg[teacher(F(x, s, t), t) - (t - s) d_t V(x, s, t)],     d_t V along (0, 0, 1)

    No gradient of a derivative is taken: half the cost of `lagrangian_distillation`, the same zero.

    Paper -> here: x_t -> x, t -> s, s -> t, f_theta(x_t, t, s) -> F(x, s, t), v_phi -> teacher, F_theta -> V.

    Args:
      V: average velocity, `V(x, s, t)`.
      teacher: instantaneous velocity, `teacher(x, t)`.
      x: data on the path at time `s`, [B, ...].
      s: source time in [0, 1], a scalar or with `x.ndim` axes.
      t: target time in [0, 1], likewise.
      jvp: the derivative, `jax.jvp` or `flowjax.derivatives.finite_difference(...)`.

    Returns:
      Pair, both of the shape of `x`; no gradient reaches the target.

    Raises:
      InputError: if `s` or `t` does not fit `x`.

    Example:
      >>> pair = align_your_flow_lmd(lambda x, s, t: t * x, lambda x, t: -x, jnp.ones((4, 2)), 1.0, 0.5)
      >>> pair.prediction[0].tolist(), pair.target[0].tolist()
      ([0.5, 0.5], [-0.25, -0.25])

    Reference: Sabour, Fidler and Kreis 2025, Align Your Flow (arXiv 2506.14603), the AYF-LMD objective.
    """
    s, t = checks.times("align_your_flow_lmd", x, s=s, t=t)
    V_st, dV_dt = jvp(lambda t: V(x, s, t), (t,), (jnp.ones_like(t),))
    F = flowmap.move(x, s, t, V_st)
    return typing.Pair(V_st, sg(teacher(F, t) - (t - s) * dV_dt))


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
    F = flowmap.move(x, s, t, V_st)
    return typing.Pair(V_st + (t - s) * dV_dt, sg(V_target(sg(F), t, t)))


def freeflow_prediction(V, teacher, x, t, *, jvp=derivatives.finite_difference()):
    """FreeFlow's prediction loss: Align Your Flow's Lagrangian form from pure noise, s = 1; no data is read.

        V(x, 1, t)  vs  sg[teacher(F(x, 1, t), t) + (1 - t) d_t V(x, 1, t)],     x the noise, d_t V along (0, 0, 1)

    Paper -> here: z -> x, delta = 1 - t the length of the jump, F_theta(z, delta) -> V(x, 1, t) up to its sign, u -> teacher.

    Args:
      V: average velocity, `V(x, s, t)`.
      teacher: instantaneous velocity, `teacher(x, t)`.
      x: noise, [B, ...].
      t: target time in [0, 1], a scalar or with `x.ndim` axes.
      jvp: the derivative; the paper takes a finite difference.

    Returns:
      Pair, both of the shape of `x`; no gradient reaches the target.

    Raises:
      InputError: if `t` does not fit `x`.

    Example:
      >>> pair = freeflow_prediction(lambda x, s, t: t * x, lambda x, t: -x, jnp.ones((4, 2)), 0.5, jvp=jax.jvp)
      >>> pair.prediction[0].tolist(), pair.target[0].tolist()
      ([0.5, 0.5], [-0.25, -0.25])

    Reference: Tong et al. 2025, Flow Map Distillation Without Data (arXiv 2511.19428), the prediction objective.
    """
    (t,) = checks.times("freeflow_prediction", x, t=t)
    one = jnp.ones_like(t)
    V_1t, dV_dt = jvp(lambda t: V(x, one, t), (t,), (one,))
    F = flowmap.move(x, one, t, V_1t)
    return typing.Pair(V_1t, sg(teacher(F, t) + (1 - t) * dV_dt))


def freeflow_correction(V, velocity, teacher, x, r, eps):
    """FreeFlow's correction: samples are pushed to where the teacher and the samples' own velocity agree.

        F(x, 1, 0)  vs  sg[F(x, 1, 0) + velocity(x_r, r) - teacher(x_r, r)],     x_r = (1 - r) F(x, 1, 0) + r eps

    `velocity` is an auxiliary network that learns, by flow matching, the velocity of the student's samples. Since
    v = (x - E[x0 | x]) / r, the difference points from what the student makes of x_r to what the teacher makes of it.

    Paper -> here: z -> x, f_theta(z, 1) -> F(x, 1, 0), n -> eps, the noising velocity G_psi -> velocity, u -> teacher.

    Args:
      V: average velocity, `V(x, s, t)`.
      velocity: velocity of the student's samples, `velocity(x, t)`, of an auxiliary network.
      teacher: instantaneous velocity, `teacher(x, t)`.
      x: noise that is made into samples, [B, ...].
      r: time up to which they are noised again, in (0, 1], a scalar or with `x.ndim` axes.
      eps: the noise of that, independent of `x`, the shape of `x`.

    Returns:
      Pair, both of the shape of `x`; gradient reaches the prediction alone, and neither `velocity` nor `teacher`.

    Raises:
      InputError: if `r` or `eps` does not fit `x`.

    Example:
      >>> pair = freeflow_correction(lambda x, s, t: 0 * x, lambda x, t: x, lambda x, t: 3 * x, jnp.ones((4, 2)), 0.5, jnp.ones((4, 2)))
      >>> pair.prediction[0].tolist(), pair.target[0].tolist()
      ([1.0, 1.0], [-1.0, -1.0])

    Reference: Tong et al. 2025, Flow Map Distillation Without Data (arXiv 2511.19428), the correction objective.
    """
    (r,) = checks.times("freeflow_correction", x, r=r)
    eps = checks.like("freeflow_correction", x, eps, name="eps")
    F = flowmap.jump(V, x, 1.0, 0.0)
    x_r = sg((1 - r) * F + r * eps).astype(jnp.result_type(x))
    return typing.Pair(F, sg(F + velocity(x_r, r) - teacher(x_r, r)))


def physics_informed(V, teacher, x, t, *, jvp=derivatives.finite_difference()):
    """Physics Informed Distillation: the trajectory from noise solves the teacher's equation; no data is read.

        V(x, 1, t) + (t - 1) d_t V(x, 1, t)  vs  sg[teacher(F(x, 1, t), t)],     x the noise, d_t V along (0, 0, 1)

    The left side is d_t F(x, 1, t), and gradient flows through the derivative, but not through the teacher: a student that could
    would learn to exploit it. The published code scores F - t d_t F against sg[F - t teacher(F, t)] instead.

    Paper -> here: x_theta(z, t) -> F(x, 1, t), z -> x; the paper's noise level is sigma = t / (1 - t).

    Args:
      V: average velocity, `V(x, s, t)`.
      teacher: instantaneous velocity, `teacher(x, t)`.
      x: noise, [B, ...].
      t: target time in [0, 1], a scalar or with `x.ndim` axes.
      jvp: the derivative; the paper takes a one-sided finite difference.

    Returns:
      Pair, both of the shape of `x`; no gradient reaches the target.

    Raises:
      InputError: if `t` does not fit `x`.

    Example:
      >>> pair = physics_informed(lambda x, s, t: t * x, lambda x, t: -x, jnp.ones((4, 2)), 0.5, jvp=jax.jvp)
      >>> pair.prediction[0].tolist(), pair.target[0].tolist()
      ([0.0, 0.0], [-0.75, -0.75])

    Reference: Tee et al. 2024, Physics Informed Distillation for Diffusion Models (arXiv 2411.08378).
    """
    (t,) = checks.times("physics_informed", x, t=t)
    one = jnp.ones_like(t)
    V_1t, dV_dt = jvp(lambda t: V(x, one, t), (t,), (one,))
    F = flowmap.move(x, one, t, V_1t)
    return typing.Pair(V_1t + (t - 1) * dV_dt, sg(teacher(F, t)))


def boot(V, teacher, x, t, m):
    """BOOT: the map from pure noise grows by one Euler step of the teacher where it stands; no data is read.

        V(x, 1, t)  vs  sg[V(x, 1, m) + (m - t) / (1 - t) (teacher(F(x, 1, m), m) - V(x, 1, m))],     t < m

    Both sides times (t - 1), plus x: F(x, 1, t) is F(x, 1, m) moved to t along the teacher. A recipe adds the boundary, the anchor
    at s = 1 on the teacher. With m -> t this is Lagrangian distillation from noise, over (m - t).

    Paper -> here: eps -> x, t -> m, s = t - delta -> t, y_theta(eps, t) the paper's signal ~ x - V(x, 1, t), f_phi -> teacher.

    Args:
      V: average velocity, `V(x, s, t)`.
      teacher: instantaneous velocity, `teacher(x, t)`.
      x: noise, [B, ...].
      t: target time in [0, 1), a scalar or with `x.ndim` axes.
      m: time from which the target starts its step, in (t, 1], likewise.

    Returns:
      Pair, both of the shape of `x`; no gradient reaches the target.

    Raises:
      InputError: if `t` or `m` does not fit `x`.

    Example:
      >>> pair = boot(lambda x, s, t: t * x, lambda x, t: 0 * x, jnp.ones((4, 2)), 0.0, 0.5)
      >>> pair.prediction[0].tolist(), pair.target[0].tolist()
      ([0.0, 0.0], [0.25, 0.25])

    Reference: Gu et al. 2023, BOOT (arXiv 2306.05544), the bootstrapping objective.
    """
    t, m = checks.times("boot", x, t=t, m=m)
    one = jnp.ones_like(t)
    V_1m = V(x, one, m)
    F = flowmap.move(x, one, m, V_1m)
    return typing.Pair(V(x, one, t), sg(V_1m + (m - t) / (1 - t) * (teacher(F, m) - V_1m)))


def consistency_mid_training(V, x, s, t, x_t):
    """Consistency mid-training: plain regression on a trajectory that a teacher's solver has walked; nothing is stopped.

        V(x, s, t)  vs  (x - x_t) / (s - t)

    Paper -> here: x_i, t_i -> x, s, x_j, t_j -> x_t, t. The paper does this before another method learns from data.

    Args:
      V: average velocity, `V(x, s, t)`.
      x: a point of the trajectory, [B, ...].
      s: its time in [0, 1], a scalar or with `x.ndim` axes.
      t: time of another point of the same trajectory, not `s`, likewise.
      x_t: that point, the shape of `x`.

    Returns:
      Pair, both of the shape of `x`.

    Raises:
      InputError: if `s`, `t` or `x_t` does not fit `x`.

    Example:
      >>> pair = consistency_mid_training(lambda x, s, t: x, jnp.ones((4, 2)), 1.0, 0.5, jnp.zeros((4, 2)))
      >>> pair.target[0].tolist()
      [2.0, 2.0]

    Reference: Hu et al. 2025, CMT (arXiv 2509.24526), the mid-training objective.
    """
    s, t = checks.times("consistency_mid_training", x, s=s, t=t)
    x_t = checks.like("consistency_mid_training", x, x_t, name="x_t")
    return typing.Pair(V(x, s, t), (x - x_t) / (s - t))
