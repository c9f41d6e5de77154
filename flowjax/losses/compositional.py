"""The compositional rule: two jumps in a row are one jump.

F(F(x, s, m), m, t) = F(x, s, t)   <=>   V(x, s, t) = a V(x, s, m) + (1 - a) V(F(x, s, m), m, t),     m = s + a (t - s)
"""

import jax
import jax.numpy as jnp

from flowjax import checks, flowmap, typing

sg = jax.lax.stop_gradient


def shortcut(V, V_target, x, s, t):
    """Shortcut models: one jump is two jumps of half its length.

        V(x, s, t)  vs  sg[(V_target(x, s, m) + V_target(F(x, s, m), m, t)) / 2],     m = (s + t) / 2, F with V_target

    Paper -> here: x_t -> x, t -> s (time runs the other way in the paper), 2 d -> s - t, s_theta(x_t, t, d) -> -V(x, s, s - d).

    Args:
      V: average velocity, `V(x, s, t)`.
      V_target: the target's average velocity, EMA weights in the paper; never differentiated.
      x: data on the path at time `s`, [B, ...].
      s: source time in [0, 1], a scalar or with `x.ndim` axes.
      t: target time in [0, 1], likewise.

    Returns:
      Pair, both of the shape of `x`; no gradient reaches the target.

    Raises:
      InputError: if `s` or `t` does not fit `x`.

    Example:
      >>> V = lambda x, s, t: s * x
      >>> pair = shortcut(V, V, jnp.ones((4, 2)), 1.0, 0.0)
      >>> pair.prediction[0].tolist(), pair.target[0].tolist()
      ([1.0, 1.0], [0.625, 0.625])

    Reference: Frans et al. 2024, One Step Diffusion via Shortcut Models (arXiv 2410.12557), eq. 4.
    """
    s, t = checks.times("shortcut", x, s=s, t=t)
    m = (s + t) / 2
    V_sm = V_target(x, s, m)
    x_m = flowmap.move(x, s, m, V_sm)
    return typing.Pair(V(x, s, t), sg((V_sm + V_target(x_m, m, t)) / 2))


def split_meanflow(V, x, s, t, a):
    """SplitMeanFlow: one jump is two jumps, split anywhere; a recipe anchors the diagonal on a teacher.

        V(x, s, t)  vs  sg[a V(x, s, m) + (1 - a) V(F(x, s, m), m, t)],     m = s + a (t - s)

    Paper -> here: z_t -> x, t -> s, r -> t, s -> m, u -> V, lambda -> 1 - a.

    Args:
      V: average velocity, `V(x, s, t)`.
      x: data on the path at time `s`, [B, ...].
      s: source time in [0, 1], a scalar or with `x.ndim` axes.
      t: target time in [0, 1], likewise.
      a: fraction of the way from `s` to `t` at which the jump is split, in [0, 1], likewise.

    Returns:
      Pair, both of the shape of `x`; no gradient reaches the target.

    Raises:
      InputError: if `s`, `t` or `a` does not fit `x`.

    Example:
      >>> pair = split_meanflow(lambda x, s, t: s * x, jnp.ones((4, 2)), 1.0, 0.0, 0.25)
      >>> pair.prediction[0].tolist(), pair.target[0].tolist()
      ([1.0, 1.0], [0.671875, 0.671875])

    Reference: Guo et al. 2025, SplitMeanFlow (arXiv 2507.16884), the interval splitting consistency.
    """
    s, t, a = checks.times("split_meanflow", x, s=s, t=t, a=a)
    m = s + a * (t - s)
    V_sm = V(x, s, m)
    x_m = flowmap.move(x, s, m, V_sm)
    return typing.Pair(V(x, s, t), sg(a * V_sm + (1 - a) * V(x_m, m, t)))


def progressive_self_distillation(V, x, s, t, a):
    """Progressive Self-Distillation: one jump is two jumps, split anywhere; a recipe anchors the diagonal on the data.

        V(x, s, t)  vs  sg[a V(x, s, m) + (1 - a) V(F(x, s, m), m, t)],     m = s + a (t - s)

    As a -> 1 the residual over (1 - a) is the one of Lagrangian self-distillation. On the diagonal both sides are the same number.

    Paper -> here: X_{s,t}(x) -> F(x, s, t), v_{s,t} -> V(., s, t), u = (1 - gamma) s + gamma t -> m, gamma -> a; the paper's time is 1
    minus ours.

    Args:
      V: average velocity, `V(x, s, t)`.
      x: data on the path at time `s`, [B, ...].
      s: source time in [0, 1], a scalar or with `x.ndim` axes.
      t: target time in [0, 1], likewise.
      a: fraction of the way from `s` to `t` at which the jump is split, in [0, 1], likewise.

    Returns:
      Pair, both of the shape of `x`; no gradient reaches the target.

    Raises:
      InputError: if `s`, `t` or `a` does not fit `x`.

    Example:
      >>> pair = progressive_self_distillation(lambda x, s, t: s * x, jnp.ones((4, 2)), 1.0, 0.0, 0.25)
      >>> pair.prediction[0].tolist(), pair.target[0].tolist()
      ([1.0, 1.0], [0.671875, 0.671875])

    Reference: Boffi et al. 2025, How to build a consistency model (arXiv 2505.18825), the PSD loss.
    """
    s, t, a = checks.times("progressive_self_distillation", x, s=s, t=t, a=a)
    m = s + a * (t - s)
    V_sm = V(x, s, m)
    x_m = flowmap.move(x, s, m, V_sm)
    return typing.Pair(V(x, s, t), sg(a * V_sm + (1 - a) * V(x_m, m, t)))


def flow_map_matching(V, x, s, t, v, *, jvp=jax.jvp):
    """Flow Map Matching: there and back again is where it started, and moves as the data does; nothing is stopped.

        d/ds F(y, t, s)  vs  v   and   F(y, t, s)  vs  x,     y = F(x, s, t),  the derivative with y held

    The derivative is V(y, t, s) + (s - t) d_s V(y, t, s), along the target slot of V. With the conditional `v` the mean of the
    squared error still has its least value at the marginal flow. Gradient flows through y, and through the derivative.

    Paper -> here: X_{s,t}(X_{t,s}(I_t)) -> F(F(x, s, t), t, s), I_t -> x, dI_t -> v; the paper's time is 1 minus ours.

    Args:
      V: average velocity, `V(x, s, t)`, called in both time directions.
      x: data on the path at time `s`, [B, ...].
      s: source time in [0, 1], a scalar or with `x.ndim` axes.
      t: target time in [0, 1], likewise.
      v: velocity at (x, s), conditional; the shape of `x`.
      jvp: the derivative, `jax.jvp` or `flowjax.derivatives.finite_difference(...)`.

    Returns:
      Two Pairs, all of the shape of `x`: the velocity pair and the round-trip pair.

    Raises:
      InputError: if `s`, `t` or `v` does not fit `x`.

    Example:
      >>> velocity, round_trip = flow_map_matching(lambda x, s, t: t * x, jnp.ones((4, 2)), 1.0, 0.5, jnp.zeros((4, 2)))
      >>> velocity.prediction[0].tolist(), round_trip.prediction[0].tolist()
      ([1.125, 1.125], [1.125, 1.125])

    Reference: Boffi et al. 2024, Flow Map Matching (arXiv 2406.07507), the FMM loss.
    """
    s, t = checks.times("flow_map_matching", x, s=s, t=t)
    v = checks.like("flow_map_matching", x, v)
    y = flowmap.jump(V, x, s, t)
    V_ts, dV_ds = jvp(lambda s: V(y, t, s), (s,), (jnp.ones_like(s),))
    return typing.Pair(V_ts + (s - t) * dV_ds, v), typing.Pair(flowmap.move(y, t, s, V_ts), x)


def progressive_flow_map_matching(V, V_teacher, x, s, t, a):
    """Progressive Flow Map Matching: one jump of the student is two jumps of a map that is good over short intervals.

        F(x, s, t)  vs  sg[F_teacher(F_teacher(x, s, m), m, t)],     m = s + a (t - s)

    Paper -> here: X_{s,t} -> F(., s, t), the pretrained short map -> F_teacher, with two legs; the paper's time is 1 minus ours.

    Args:
      V: average velocity, `V(x, s, t)`.
      V_teacher: average velocity of the teacher's map, `V(x, s, t)`; never differentiated.
      x: data on the path at time `s`, [B, ...].
      s: source time in [0, 1], a scalar or with `x.ndim` axes.
      t: target time in [0, 1], likewise.
      a: fraction of the way from `s` to `t` covered by the first leg, in [0, 1], likewise.

    Returns:
      Pair, both of the shape of `x`; no gradient reaches the target.

    Raises:
      InputError: if `s`, `t` or `a` does not fit `x`.

    Example:
      >>> V = lambda x, s, t: s * x
      >>> pair = progressive_flow_map_matching(V, V, jnp.ones((4, 2)), 1.0, 0.0, 0.5)
      >>> pair.prediction[0].tolist(), pair.target[0].tolist()
      ([0.0, 0.0], [0.375, 0.375])

    Reference: Boffi et al. 2024, Flow Map Matching (arXiv 2406.07507), progressive flow map matching.
    """
    s, t, a = checks.times("progressive_flow_map_matching", x, s=s, t=t, a=a)
    m = s + a * (t - s)
    x_m = flowmap.jump(V_teacher, x, s, m)
    return typing.Pair(flowmap.jump(V, x, s, t), sg(flowmap.jump(V_teacher, x_m, m, t)))


def progressive_distillation(V, teacher, x, s, t):
    """Progressive Distillation: one step of ours is two DDIM half steps of a velocity.

        V(x, s, t)  vs  sg[(teacher(x, s) + teacher(x_m, m)) / 2],     m = (s + t) / 2,  x_m = x + (m - s) teacher(x, s)

    On the linear path a DDIM step is an Euler step. On an exact flow the residual falls with t - s: the half steps are no jumps.

    Paper -> here: z_t -> x, t -> s, t'' = t - 1/N -> t, t' -> m, the DDIM target x-tilde ~ x - s target, eta -> teacher.

    Args:
      V: average velocity, `V(x, s, t)`.
      teacher: instantaneous velocity, `teacher(x, t)`: a diffusion model, or the student of the stage before with its own step.
      x: data on the path at time `s`, [B, ...].
      s: source time in [0, 1], a scalar or with `x.ndim` axes.
      t: target time in [0, 1], likewise.

    Returns:
      Pair, both of the shape of `x`; no gradient reaches the target.

    Raises:
      InputError: if `s` or `t` does not fit `x`.

    Example:
      >>> pair = progressive_distillation(lambda x, s, t: 0 * x, lambda x, t: x, jnp.ones((4, 2)), 1.0, 0.0)
      >>> pair.prediction[0].tolist(), pair.target[0].tolist()
      ([0.0, 0.0], [0.75, 0.75])

    Reference: Salimans and Ho 2022, Progressive Distillation (arXiv 2202.00512), Algorithm 2.
    """
    s, t = checks.times("progressive_distillation", x, s=s, t=t)
    m = (s + t) / 2
    v_s = teacher(x, s)
    x_m = flowmap.move(x, s, m, v_s)
    return typing.Pair(V(x, s, t), sg((v_s + teacher(x_m, m)) / 2))
