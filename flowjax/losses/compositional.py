"""The compositional rule: two jumps in a row are one jump.

F(F(x, s, m), m, t) = F(x, s, t)   <=>   V(x, s, t) = a V(x, s, m) + (1 - a) V(F(x, s, m), m, t),     m = s + a (t - s)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flowjax import checks, flowmap
from flowjax.typing import Array, AverageVelocity, Jvp, Pair, Time, Velocity

sg = jax.lax.stop_gradient


def shortcut(V: AverageVelocity, V_target: AverageVelocity, x: Array, s: Time, t: Time, *, clip: float = float("inf")) -> Pair:
    """Shortcut models: one jump is two jumps of half its length.

        V(x, s, t)  vs  sg[(V_target(x, s, m) + V_target(F(x, s, m), m, t)) / 2],     m = (s + t) / 2, F with V_target

    Paper -> here: x_t -> x, t -> s (time runs the other way in the paper), 2 d -> s - t, s_theta(x_t, t, d) -> -V(x, s, s - d).

    Args:
      V_target: the target's average velocity, of EMA weights in the paper.
      clip: the middle point F and the target are kept within [-clip, clip]; 4 in the published code.

    Example:
      >>> assert jnp.allclose(*shortcut(flow.V, flow.V, x, s, t), atol=1e-5)

    Reference: Frans et al. 2024, One Step Diffusion via Shortcut Models (arXiv 2410.12557), eq. 4.
    """
    s, t = checks.times("shortcut", x, s=s, t=t)
    m = (s + t) / 2
    V_sm = V_target(x, s, m)
    x_m = jnp.clip(flowmap.move(x, s, m, V_sm), -clip, clip)
    return Pair(V(x, s, t), sg(jnp.clip((V_sm + V_target(x_m, m, t)) / 2, -clip, clip)))


def split_meanflow(V: AverageVelocity, x: Array, s: Time, t: Time, a: Time) -> Pair:
    """SplitMeanFlow: one jump is two jumps, split anywhere; a recipe anchors the diagonal on a teacher.

        V(x, s, t)  vs  sg[a V(x, s, m) + (1 - a) V(F(x, s, m), m, t)],     m = s + a (t - s)

    As a -> 1 the residual over (1 - a) is the one of Lagrangian self-distillation. On the diagonal both sides are the same number.

    Paper -> here: z_t -> x, t -> s, r -> t, s -> m, u -> V, lambda -> 1 - a.

    Args:
      a: fraction of the way at which the jump is split, in [0, 1].

    Example:
      >>> assert jnp.allclose(*split_meanflow(flow.V, x, s, t, 0.25), atol=1e-5)

    Reference: Guo et al. 2025, SplitMeanFlow (arXiv 2507.16884), the interval splitting consistency.
    """
    s, t, a = checks.times("split_meanflow", x, s=s, t=t, a=a)
    m = s + a * (t - s)
    V_sm = V(x, s, m)
    x_m = flowmap.move(x, s, m, V_sm)
    return Pair(V(x, s, t), sg(a * V_sm + (1 - a) * V(x_m, m, t)))


def progressive_self_distillation(V: AverageVelocity, x: Array, s: Time, t: Time, a: Time) -> Pair:
    """Progressive Self-Distillation: the pair of `split_meanflow`. The recipe differs: it anchors the diagonal on the data.

    Paper -> here: X_{s,t}(x) -> F(x, s, t), v_{s,t} -> V(., s, t), u = (1 - gamma) s + gamma t -> m, gamma -> a; the paper's time is 1
    minus ours.

    Reference: Boffi et al. 2025, How to build a consistency model (arXiv 2505.18825), the PSD loss.
    """
    s, t, a = checks.times("progressive_self_distillation", x, s=s, t=t, a=a)
    m = s + a * (t - s)
    V_sm = V(x, s, m)
    x_m = flowmap.move(x, s, m, V_sm)
    return Pair(V(x, s, t), sg(a * V_sm + (1 - a) * V(x_m, m, t)))


def flow_map_matching(V: AverageVelocity, x: Array, s: Time, t: Time, v: Array, *, jvp: Jvp = jax.jvp) -> tuple[Pair, Pair]:
    """Flow Map Matching: a jump to t and back returns to x, and moves with the velocity of the data; nothing is stopped.

        d/ds F(y, t, s)  vs  v   and   F(y, t, s)  vs  x,     y = F(x, s, t),  the derivative with y held

    The derivative is V(y, t, s) + (s - t) d_s V(y, t, s), along the target slot of V. With the conditional `v` the mean of the
    squared error still has its least value at the marginal flow. Gradient flows through y, and through the derivative.

    Paper -> here: X_{s,t}(X_{t,s}(I_t)) -> F(F(x, s, t), t, s), I_t -> x, dI_t -> v; the paper's time is 1 minus ours.

    Args:
      V: called in both time directions.
      v: conditional.

    Returns:
      (Pair, Pair): the velocity pair and the round-trip pair.

    Example:
      >>> velocity, round_trip = flow_map_matching(flow.V, x, s, t, flow.v(x, s))
      >>> assert jnp.allclose(*velocity, atol=1e-5) and jnp.allclose(*round_trip, atol=1e-5)

    Reference: Boffi et al. 2024, Flow Map Matching (arXiv 2406.07507), the FMM loss.
    """
    s, t = checks.times("flow_map_matching", x, s=s, t=t)
    v = checks.like("flow_map_matching", x, v)
    y = flowmap.jump(V, x, s, t)
    V_ts, dV_ds = jvp(lambda s: V(y, t, s), (s,), (jnp.ones_like(s),))
    return Pair(V_ts + (s - t) * dV_ds, v), Pair(flowmap.move(y, t, s, V_ts), x)


def progressive_flow_map_matching(V: AverageVelocity, V_teacher: AverageVelocity, x: Array, s: Time, t: Time, a: Time) -> Pair:
    """Progressive Flow Map Matching: one jump of the student is two jumps of a map that is good over short intervals.

        F(x, s, t)  vs  sg[F_teacher(F_teacher(x, s, m), m, t)],     m = s + a (t - s)

    Paper -> here: X_{s,t} -> F(., s, t), the pretrained short map -> F_teacher, with two legs; the paper's time is 1 minus ours.

    Args:
      V_teacher: average velocity of the teacher's map, `V_teacher(x, s, t)`.
      a: fraction of the way covered by the first leg, in [0, 1].

    Example:
      >>> assert jnp.allclose(*progressive_flow_map_matching(flow.V, flow.V, x, s, t, 0.25), atol=1e-5)

    Reference: Boffi et al. 2024, Flow Map Matching (arXiv 2406.07507), progressive flow map matching.
    """
    s, t, a = checks.times("progressive_flow_map_matching", x, s=s, t=t, a=a)
    m = s + a * (t - s)
    x_m = flowmap.jump(V_teacher, x, s, m)
    return Pair(flowmap.jump(V, x, s, t), sg(flowmap.jump(V_teacher, x_m, m, t)))


def progressive_distillation(V: AverageVelocity, teacher: Velocity, x: Array, s: Time, t: Time) -> Pair:
    """Progressive Distillation: one step of the student is two DDIM half steps of a velocity.

        V(x, s, t)  vs  sg[(teacher(x, s) + teacher(x_m, m)) / 2],     m = (s + t) / 2,  x_m = x + (m - s) teacher(x, s)

    On the linear path a DDIM step is an Euler step. On an exact flow the residual falls with t - s: the half steps are no jumps.

    Paper -> here: z_t -> x, t -> s, t'' = t - 1/N -> t, t' -> m, the DDIM target x-tilde ~ x - s target, eta -> teacher.

    Args:
      teacher: a diffusion model's velocity, or the previous stage's student, `teacher(x, s) = V(x, s, s - step)` with its step.

    Example: a student of the stage before, whose steps of 0.2 are exact.
      >>> before = lambda x, s: flow.V(x, s, s - 0.2)
      >>> assert jnp.allclose(*progressive_distillation(flow.V, before, x, s, t), atol=1e-5)

    Reference: Salimans and Ho 2022, Progressive Distillation (arXiv 2202.00512), Algorithm 2.
    """
    s, t = checks.times("progressive_distillation", x, s=s, t=t)
    m = (s + t) / 2
    v_s = teacher(x, s)
    x_m = flowmap.move(x, s, m, v_s)
    return Pair(V(x, s, t), sg((v_s + teacher(x_m, m)) / 2))
