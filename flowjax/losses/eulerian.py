"""The Eulerian rule: moving the source along its trajectory does not change where it lands.

d_s F(x, s, t) = 0   <=>   V = v + (t - s) d_s V,     d_s the total derivative along (v, 1, 0)
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from flowjax import checks, flowmap
from flowjax.typing import Array, AverageVelocity, Jvp, Pair, Time

sg = jax.lax.stop_gradient


def meanflow(V: AverageVelocity, x: Array, s: Time, t: Time, v: Array, *, jvp: Jvp = jax.jvp) -> Pair:
    """MeanFlow: the network regresses on the right-hand side of the Eulerian rule, all of it under a stop-gradient.

        V(x, s, t)  vs  sg[v + (t - s) d_s V(x, s, t)]

    The stop-gradient is what makes a conditional `v` allowed: the update is linear in `v`, so its mean over the data is the
    update with the marginal velocity. On the diagonal this is flow matching.

    Paper -> here: z_t -> x, t -> s, r -> t, u -> V, u_tgt -> target.

    Args:
      v: conditional or guided velocity at (x, s), [B, ...] like `x`.

    Example:
      >>> assert jnp.allclose(*meanflow(flow.V, x, s, t, flow.v(x, s)), atol=1e-5)

    Reference: Geng et al. 2025, Mean Flows for One-step Generative Modeling (arXiv 2505.13447), eq. 9-11.
    """
    s, t = checks.times("meanflow", x, s=s, t=t)
    v = checks.like("meanflow", x, v)
    V_st, dV_ds = jvp(lambda x, s: V(x, s, t), (x, s), (v, jnp.ones_like(s)))
    return Pair(V_st, sg(v + (t - s) * dV_ds))


def improved_meanflow(
    V: AverageVelocity, x: Array, s: Time, t: Time, v: Array, *, v_tangent: Array | None = None, jvp: Jvp = jax.jvp
) -> Pair:
    """Improved MeanFlow: a regression on the velocity itself; the tangent is the network's velocity, not the data's.

        V(x, s, t) - (t - s) sg[d_s V(x, s, t)]  vs  v,     d_s V along (v_tangent, 1, 0), v_tangent = sg[V(x, s, s)]

    The target no longer depends on the network, and the noisy conditional `v` no longer enters the derivative. On the diagonal
    this is flow matching.

    Paper -> here: z_t -> x, t -> s, r -> t, u -> V, the compound prediction V -> prediction, e - x -> v.

    Args:
      v: conditional or guided, [B, ...]; the target as it is.
      v_tangent: marginal velocity along which the source moves, the shape of `x`: an auxiliary head's output, for example. None:
        `V(x, s, s)`.

    Example:
      >>> assert jnp.allclose(*improved_meanflow(flow.V, x, s, t, flow.v(x, s)), atol=1e-5)

    Reference: Geng et al. 2025, Improved Mean Flows (arXiv 2512.02012), the reformulated v-loss and Algorithm 1.
    """
    s, t = checks.times("improved_meanflow", x, s=s, t=t)
    v = checks.like("improved_meanflow", x, v)
    v_tangent = checks.like("improved_meanflow", x, V(x, s, s) if v_tangent is None else v_tangent, name="v_tangent")
    V_st, dV_ds = jvp(lambda x, s: V(x, s, t), (x, s), (sg(v_tangent), jnp.ones_like(s)))
    return Pair(V_st - (t - s) * sg(dV_ds), v)


def improved_meanflow_two_heads(
    both: Callable[[Array, Time, Time], tuple[Array, Array]],
    x: Array,
    s: Time,
    t: Time,
    v: Array,
    *,
    v_tangent: Array | None = None,
    jvp: Jvp = jax.jvp,
) -> tuple[Pair, Pair]:
    """Improved MeanFlow of a network with a second head for the velocity: both regress on v, from one pass of the trunk.

        V(x, s, t) - (t - s) sg[d_s V(x, s, t)]  vs  v   and   u(x, s, t)  vs  v,     (V, u) = both(x, s, t)

    d_s V is taken along (v_tangent, 1, 0), v_tangent = sg[u(x, s, s)]. Sampling does not need the second head.

    Paper -> here: z_t -> x, t -> s, r -> t, u_theta -> V, v_theta -> u.

    Args:
      both: network of two heads, `both(x, s, t) -> (V, u)`.
      v_tangent: velocity along which the source moves, the shape of `x`. None: `both(x, s, s)[1]`.

    Returns:
      (Pair, Pair): the average velocity's and the second head's.

    Example:
      >>> both = lambda x, s, t: (flow.V(x, s, t), flow.v(x, s))
      >>> for pair in improved_meanflow_two_heads(both, x, s, t, flow.v(x, s)):
      ...     assert jnp.allclose(*pair, atol=1e-5)

    Reference: Geng et al. 2025, Improved Mean Flows (arXiv 2512.02012), Algorithm 1 with the auxiliary velocity head.
    """
    s, t = checks.times("improved_meanflow_two_heads", x, s=s, t=t)
    v = checks.like("improved_meanflow_two_heads", x, v)
    v_tangent = both(x, s, s)[1] if v_tangent is None else v_tangent
    v_tangent = checks.like("improved_meanflow_two_heads", x, v_tangent, name="v_tangent")
    V_st, dV_ds, u = jvp(lambda x, s: both(x, s, t), (x, s), (sg(v_tangent), jnp.ones_like(s)), has_aux=True)
    return Pair(V_st - (t - s) * sg(dV_ds), v), Pair(u, v)


def soflow(V: AverageVelocity, x: Array, s: Time, t: Time, v: Array, a: Time) -> Pair:
    """SoFlow: the Eulerian rule over a finite step, without a derivative.

        V(x, s, t)  vs  sg[a v + (1 - a) V(x_m, m, t)],     m = s + a (t - s),  x_m = x + (m - s) v

    Both sides times (t - s), plus x, are F(x, s, t) and F(x_m, m, t). The residual is not divided by `a`, which is the recipe's matter.
    Divided by `a` it tends to MeanFlow's residual as a -> 0; with s = t it is `a` times flow matching's.

    Paper -> here: t -> s, s -> t, l -> m, f_theta(x_t, t, s) -> F(x, s, t).

    Args:
      v: conditional or guided velocity, [B, ...], along which the source takes its finite step.

    Example: on a curved trajectory the step along v misses by the order of a^2; along the chord to m there is no error.
      >>> chord = flow.V(x, s, 0.6)
      >>> assert jnp.allclose(*soflow(flow.V, x, s, t, chord, 0.5), atol=1e-5)

    Reference: Luo, Yuan and Liu 2025, SoFlow (arXiv 2512.15657), the solution consistency loss.
    """
    s, t, a = checks.times("soflow", x, s=s, t=t, a=a)
    v = checks.like("soflow", x, v)
    m = s + a * (t - s)
    x_m = flowmap.move(x, s, m, v)
    return Pair(V(x, s, t), sg(a * v + (1 - a) * V(x_m, m, t)))


def alphaflow(V: AverageVelocity, x: Array, s: Time, t: Time, v: Array, a: Time) -> Pair:
    """AlphaFlow: the pair of `soflow`. The recipe differs: `a` falls from 1 (trajectory flow matching) to 0 (MeanFlow).

    Paper -> here: z_t -> x, t -> s, r -> t, s -> m, u -> V, alpha -> a, v-tilde -> v.

    Reference: Zhang et al. 2025, AlphaFlow (arXiv 2510.20771), the alpha-flow objective.
    """
    s, t, a = checks.times("alphaflow", x, s=s, t=t, a=a)
    v = checks.like("alphaflow", x, v)
    m = s + a * (t - s)
    x_m = flowmap.move(x, s, m, v)
    return Pair(V(x, s, t), sg(a * v + (1 - a) * V(x_m, m, t)))


def consistency_training(V: AverageVelocity, x: Array, s: Time, t: Time, v: Array, a: Time) -> Pair:
    """Consistency training: neighbours on the line between one data point and one noise are sent to the same place.

        F(x, s, t)  vs  sg[F(x_m, m, t)],     m = s + a (t - s),  x_m = x + (m - s) v,  t = 0 in the papers

    With the conditional `v` = eps - x0, x_m is the same (x0, eps) at time m. The bias that this makes falls with `a`. The target has
    the current weights: with the averaged ones the limit a -> 0 does not train (iCT).

    Paper -> here: x + t_{n+1} z -> x in the EDM family's units, t_{n+1} -> s, t_n -> m, f_theta(x, t) -> F(x, s, 0).

    Example, along the chord as for `soflow`:
      >>> assert jnp.allclose(*consistency_training(flow.V, x, s, t, flow.V(x, s, 0.6), 0.5), atol=1e-5)

    Reference: Song et al. 2023, Consistency Models (arXiv 2303.01469), eq. 10; Song and Dhariwal 2023, iCT (arXiv 2310.14189).
    """
    s, t, a = checks.times("consistency_training", x, s=s, t=t, a=a)
    v = checks.like("consistency_training", x, v)
    m = s + a * (t - s)
    x_m = flowmap.move(x, s, m, v)
    return Pair(flowmap.jump(V, x, s, t), sg(flowmap.jump(V, x_m, m, t)))


def consistency_distillation(
    V: AverageVelocity, V_target: AverageVelocity, x: Array, s: Time, t: Time, v: Array, a: Time
) -> Pair:
    """Consistency distillation: neighbours on the teacher's trajectory are sent to the same place.

        F(x, s, t)  vs  sg[F_target(x_m, m, t)],     m = s + a (t - s),  x_m = x + (m - s) v,  t = 0 in the paper

    Paper -> here: x_{t_{n+1}} -> x, t_{n+1} -> s, t_n -> m, x-hat -> x_m, f_theta(x, t) -> F(x, s, 0), theta^- -> V_target.

    Args:
      V_target: the target's average velocity, of EMA weights in the paper.
      v: the teacher's velocity for an Euler step from `x`; for a Heun step, the mean of its velocities at both ends.

    Example, along the chord as for `soflow`:
      >>> assert jnp.allclose(*consistency_distillation(flow.V, flow.V, x, s, t, flow.V(x, s, 0.6), 0.5), atol=1e-5)

    Reference: Song et al. 2023, Consistency Models (arXiv 2303.01469), eq. 7.
    """
    s, t, a = checks.times("consistency_distillation", x, s=s, t=t, a=a)
    v = checks.like("consistency_distillation", x, v)
    m = s + a * (t - s)
    x_m = flowmap.move(x, s, m, v)
    return Pair(flowmap.jump(V, x, s, t), sg(flowmap.jump(V_target, x_m, m, t)))


def consistency_trajectory(
    V: AverageVelocity, V_frozen: AverageVelocity, x: Array, s: Time, t: Time, x_m: Array, m: Time
) -> Pair:
    """Consistency Trajectory Models: neighbours on the teacher's trajectory jump to `t`, and are compared at the data.

        F_frozen(F(x, s, t), t, 0)  vs  sg[F_frozen(F(x_m, m, t), t, 0)]

    The last jump puts both in the space of data, where distances mean something; its weights get no gradient, its input does.

    Paper -> here: x_t -> x, t -> s, s -> t, u -> m, Solver(x_t, t, u) -> x_m, G_theta(x, t, s) -> F(x, s, t), sg(theta) -> V_frozen.

    Args:
      V_frozen: average velocity of weights that are not trained (EMA in the paper); gradient passes to its input.
      x_m: where a solver of the teacher's equation carries `x` until time `m`, the shape of `x`.
      m: time between `t` and `s`, shaped like them.

    Example:
      >>> assert jnp.allclose(*consistency_trajectory(flow.V, flow.V, x, s, t, flow.F(x, s, 0.6), 0.6), atol=1e-5)

    Reference: Kim et al. 2023, Consistency Trajectory Models (arXiv 2310.02279), eq. 9 (soft consistency).
    """
    s, t, m = checks.times("consistency_trajectory", x, s=s, t=t, m=m)
    x_m = checks.like("consistency_trajectory", x, x_m, name="x_m")
    at_data = lambda x_t: flowmap.jump(V_frozen, x_t, t, 0.0)
    return Pair(at_data(flowmap.jump(V, x, s, t)), sg(at_data(flowmap.jump(V, x_m, m, t))))


def continuous_consistency(V: AverageVelocity, x: Array, s: Time, v: Array, *, warmup: Time = 1.0, jvp: Jvp = jax.jvp) -> Pair:
    """Continuous-time consistency (sCM), in our time and path: MeanFlow's rule with the target held at the data.

        V(x, s, 0)  vs  sg[v - warmup s d_s V(x, s, 0)]

    With R the residual and r = sqrt(s^2 + (1 - s)^2), the paper's tangent in trigonometric time is g = -(1 - s) r R; the recipe
    weighs and normalises it so.

    Paper -> here: x_t -> x, t -> s by s = sin(t) / (cos(t) + sin(t)), dx_t/dt -> v, the network F_theta -> V by flowmap.trigflow,
    r (the warm-up of the tangent) -> warmup.

    Args:
      v: conditional (training) or a teacher's (distillation).
      warmup: factor in [0, 1] of the derivative, shaped like a time; a recipe lets it grow from 0 to 1 over the first steps.

    Example:
      >>> assert jnp.allclose(*continuous_consistency(flow.V, x, s, flow.v(x, s)), atol=1e-5)

    Reference: Lu and Song 2024, sCM (arXiv 2410.11081), eq. 6 and section 4.
    """
    s, warmup = checks.times("continuous_consistency", x, s=s, warmup=warmup)
    v = checks.like("continuous_consistency", x, v)
    V_s0, dV_ds = jvp(lambda x, s: V(x, s, jnp.zeros_like(s)), (x, s), (v, jnp.ones_like(s)))
    return Pair(V_s0, sg(v - warmup * s * dV_ds))


def eulerian_distillation(V: AverageVelocity, x: Array, s: Time, t: Time, v: Array, *, jvp: Jvp = jax.jvp) -> Pair:
    """Eulerian Map Distillation: along the teacher's trajectory the destination stands still; nothing is stopped.

        d_s F(x, s, t) = v - V(x, s, t) + (t - s) d_s V(x, s, t)  vs  0

    The gradient flows through the derivative, that of V in x included, which makes it the heavier and less stable of the forms:
    `align_your_flow_emd` has the same minimiser without differentiating the derivative.

    Paper -> here: X_{s,t}(x) -> F(x, s, t), b_s -> v; the paper's time is 1 minus ours, which turns the sign.

    Args:
      v: the teacher's: it must be the marginal velocity, because the loss is not linear in it.

    Example:
      >>> assert jnp.allclose(*eulerian_distillation(flow.V, x, s, t, flow.v(x, s)), atol=1e-5)

    Reference: Boffi et al. 2024, Flow Map Matching (arXiv 2406.07507), Eulerian map distillation.
    """
    s, t = checks.times("eulerian_distillation", x, s=s, t=t)
    v = checks.like("eulerian_distillation", x, v)
    V_st, dV_ds = jvp(lambda x, s: V(x, s, t), (x, s), (v, jnp.ones_like(s)))
    dF_ds = v + ((t - s) * dV_ds - V_st)
    return Pair(dF_ds, jnp.zeros_like(dF_ds))


def eulerian_self_distillation(V: AverageVelocity, x: Array, s: Time, t: Time, *, jvp: Jvp = jax.jvp) -> Pair:
    """Eulerian Self-Distillation: the network's diagonal is the teacher, and the spatial part is stopped.

        d/ds F(x, s, t) + sg[grad_x F(x, s, t) . V(x, s, s)]  vs  0,     both derivatives partial, in terms of V
        d/ds F = (t - s) d/ds V - V,     grad_x F . u = u + (t - s) grad_x V . u,     u = V(x, s, s)

    The gradient flows through the derivative in time alone. On the diagonal F is x for any V, and the residual is 0: a recipe adds
    the anchor. The spatial derivative stands inside the one in time so that both share a forward pass; what is unused is not run.

    Paper -> here: X_{s,t}(x) -> F(x, s, t), v_{s,s} -> V(., s, s); the paper's time is 1 minus ours, which turns the sign.

    Example:
      >>> assert jnp.allclose(*eulerian_self_distillation(flow.V, x, s, t), atol=1e-5)

    Reference: Boffi et al. 2025, How to build a consistency model (arXiv 2505.18825), the ESD loss.
    """
    s, t = checks.times("eulerian_self_distillation", x, s=s, t=t)
    u = sg(checks.like("eulerian_self_distillation", x, V(x, s, s), name="V(x, s, s)"))
    along_x = lambda s: jvp(lambda x: V(x, s, t), (x,), (u,))
    (V_st, dV_dx), (dV_ds, _) = jvp(along_x, (s,), (jnp.ones_like(s),))
    residual = (t - s) * dV_ds - V_st + sg(u + (t - s) * dV_dx)
    return Pair(residual, jnp.zeros_like(residual))


def align_your_flow_emd(
    V: AverageVelocity, x: Array, s: Time, t: Time, v: Array, *, warmup: Time = 1.0, jvp: Jvp = jax.jvp
) -> Pair:
    """Align Your Flow, the Eulerian form: MeanFlow's equation along the teacher's velocity, its derivative warmed up.

        V(x, s, t)  vs  sg[v + warmup (t - s) d_s V(x, s, t)]

    No gradient of a derivative is taken.

    Paper -> here: x_t -> x, t -> s, s -> t, F_theta -> V, dx_t/dt -> v, r -> warmup.

    Args:
      v: the teacher's.
      warmup: factor in [0, 1] of the derivative, shaped like a time. Below 1 it draws the map towards straight lines, a small
        regularisation which the paper keeps to the end (0.99).

    Example:
      >>> assert jnp.allclose(*align_your_flow_emd(flow.V, x, s, t, flow.v(x, s)), atol=1e-5)

    Reference: Sabour, Fidler and Kreis 2025, Align Your Flow (arXiv 2506.14603), the AYF-EMD objective.
    """
    s, t, warmup = checks.times("align_your_flow_emd", x, s=s, t=t, warmup=warmup)
    v = checks.like("align_your_flow_emd", x, v)
    V_st, dV_ds = jvp(lambda x, s: V(x, s, t), (x, s), (v, jnp.ones_like(s)))
    return Pair(V_st, sg(v + warmup * (t - s) * dV_ds))


def flow_anchored(V: AverageVelocity, x: Array, s: Time, v: Array, *, jvp: Jvp = jax.jvp) -> Pair:
    """Flow-Anchored Consistency Models, the consistency part: a clipped and relaxed step towards the Eulerian rule at t = 0.

        V  vs  sg[V - (1 - sqrt(1 - s)) clip(R, -1, 1)],     R = V - (v - s d_s V),  V = V(x, s, 0)

    Close to the data the step vanishes. The anchor is `flow_matching(V, x, s, v)`, that is V(x, s, s); of a network that does not see
    t, `flow_matching(flowmap.extended_source(V), x, s, v)`.

    Paper -> here: x_t -> x, t -> 1 - s (data at t = 1), F_theta -> -V, g -> R up to its sign, alpha(t) = 1 - t^0.5 with t = 1 - s.

    Args:
      v: the teacher's.

    Example:
      >>> assert jnp.allclose(*flow_anchored(flow.V, x, s, flow.v(x, s)), atol=1e-5)

    Reference: Peng et al. 2025, Flow-Anchored Consistency Models (arXiv 2507.03738), Algorithm 1.
    """
    (s,) = checks.times("flow_anchored", x, s=s)
    v = checks.like("flow_anchored", x, v)
    V_s0, dV_ds = jvp(lambda x, s: V(x, s, jnp.zeros_like(s)), (x, s), (v, jnp.ones_like(s)))
    R = V_s0 - (v - s * dV_ds)
    return Pair(V_s0, sg(V_s0 - (1 - jnp.sqrt(1 - s)) * jnp.clip(R, -1, 1)))
