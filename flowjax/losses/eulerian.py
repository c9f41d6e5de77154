"""The Eulerian rule: moving the source along its own trajectory does not change where it lands.

d_s F(x, s, t) = 0   <=>   V = v + (t - s) d_s V,     d_s the total derivative along (v, 1, 0)
"""

import jax
import jax.numpy as jnp

from flowjax import checks, flowmap, typing

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
    v = checks.like("meanflow", x, v)
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
    v = checks.like("improved_meanflow", x, v)
    v_tangent = checks.like("improved_meanflow", x, V(x, s, s) if v_tangent is None else v_tangent, name="v_tangent")
    V_st, dV_ds = jvp(lambda x, s: V(x, s, t), (x, s), (sg(v_tangent), jnp.ones_like(s)))
    return typing.Pair(V_st - (t - s) * sg(dV_ds), v)


def improved_meanflow_two_heads(both, x, s, t, v, *, v_tangent=None, jvp=jax.jvp):
    """Improved MeanFlow of a network with a second head for the velocity: both regress on v, from one pass of the trunk.

        V(x, s, t) - (t - s) sg[d_s V(x, s, t)]  vs  v   and   u(x, s, t)  vs  v,     (V, u) = both(x, s, t)

    d_s V is taken along (v_tangent, 1, 0), v_tangent = u(x, s, s). The second head is not needed for sampling.

    Paper -> here: z_t -> x, t -> s, r -> t, u_theta -> V, v_theta -> u.

    Args:
      both: network of two heads, `both(x, s, t) -> (V, u)`.
      x: data on the path at time `s`, [B, ...].
      s: source time in [0, 1], a scalar or with `x.ndim` axes.
      t: target time in [0, 1], likewise.
      v: velocity at (x, s), conditional or guided; the shape of `x`.
      v_tangent: velocity along which the source moves, the shape of `x`; None: `both(x, s, s)[1]`. No gradient passes through it.
      jvp: the derivative, `jax.jvp` or `flowjax.derivatives.finite_difference(...)`.

    Returns:
      (Pair, Pair): the average velocity's, where the gradient reaches V(x, s, t) alone, and the head's.

    Raises:
      InputError: if `s`, `t`, `v` or `v_tangent` does not fit `x`.

    Example:
      >>> heads = lambda x, s, t: (s * x, 2 * x)
      >>> average, head = improved_meanflow_two_heads(heads, jnp.ones((4, 2)), 1.0, 0.0, jnp.zeros((4, 2)))
      >>> average.prediction[0].tolist(), head.prediction[0].tolist()
      ([4.0, 4.0], [2.0, 2.0])

    Reference: Geng et al. 2025, Improved Mean Flows (arXiv 2512.02012), Algorithm 1 with the auxiliary velocity head.
    """
    s, t = checks.times("improved_meanflow_two_heads", x, s=s, t=t)
    v = checks.like("improved_meanflow_two_heads", x, v)
    own = both(x, s, s)[1] if v_tangent is None else v_tangent
    v_tangent = checks.like("improved_meanflow_two_heads", x, own, name="v_tangent")
    V_st, dV_ds, u = jvp(lambda x, s: both(x, s, t), (x, s), (sg(v_tangent), jnp.ones_like(s)), has_aux=True)
    return typing.Pair(V_st - (t - s) * sg(dV_ds), v), typing.Pair(u, v)


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
    v = checks.like("soflow", x, v)
    m = s + a * (t - s)
    x_m = flowmap.move(x, s, m, v)
    return typing.Pair(V(x, s, t), sg(a * v + (1 - a) * V(x_m, m, t)))


def alphaflow(V, x, s, t, v, a):
    """AlphaFlow: between trajectory flow matching (a = 1) and MeanFlow (a -> 0).

        V(x, s, t)  vs  sg[a v + (1 - a) V(x_m, m, t)],     m = s + a (t - s),  x_m = x + (m - s) v

    The two legs of SoFlow; what differs is the recipe, which lets `a` fall from 1 and goes over to MeanFlow's derivative at 0.
    Divided by `a` the residual tends to MeanFlow's as a -> 0; with s = t it is `a` times flow matching's.

    Paper -> here: z_t -> x, t -> s, r -> t, s -> m, u -> V, alpha -> a, v-tilde -> v.

    Args:
      V: average velocity, `V(x, s, t)`.
      x: data on the path at time `s`, [B, ...].
      s: source time in [0, 1], a scalar or with `x.ndim` axes.
      t: target time in [0, 1], likewise.
      v: velocity at (x, s), conditional or guided; the shape of `x`.
      a: fraction of the way from `s` to `t` covered by the straight leg, in (0, 1], likewise.

    Returns:
      Pair, both of the shape of `x`; no gradient reaches the target.

    Raises:
      InputError: if `s`, `t`, `v` or `a` does not fit `x`.

    Example:
      >>> pair = alphaflow(lambda x, s, t: s * x, jnp.ones((4, 2)), 1.0, 0.0, jnp.zeros((4, 2)), 1.0)
      >>> pair.prediction[0].tolist(), pair.target[0].tolist()
      ([1.0, 1.0], [0.0, 0.0])

    Reference: Zhang et al. 2025, AlphaFlow (arXiv 2510.20771), the alpha-flow objective.
    """
    s, t, a = checks.times("alphaflow", x, s=s, t=t, a=a)
    v = checks.like("alphaflow", x, v)
    m = s + a * (t - s)
    x_m = flowmap.move(x, s, m, v)
    return typing.Pair(V(x, s, t), sg(a * v + (1 - a) * V(x_m, m, t)))


def consistency_training(V, x, s, t, v, a):
    """Consistency training: neighbours on the line between one data point and one noise are sent to the same place.

        F(x, s, t)  vs  sg[F(x_m, m, t)],     m = s + a (t - s),  x_m = x + (m - s) v,  t = 0 in the papers

    With the conditional `v` = eps - x0, x_m is the same (x0, eps) at time m. The bias that this makes falls with `a`. The target has
    the current weights: with the averaged ones the limit a -> 0 does not train (iCT).

    Paper -> here: x + t_{n+1} z -> x in the EDM family's units, t_{n+1} -> s, t_n -> m, f_theta(x, t) -> F(x, s, 0).

    Args:
      V: average velocity, `V(x, s, t)`.
      x: data on the path at time `s`, [B, ...].
      s: source time in [0, 1], a scalar or with `x.ndim` axes.
      t: target time in [0, 1], likewise.
      v: velocity at (x, s), conditional; the shape of `x`.
      a: fraction of the way from `s` to `t` between the neighbours, in (0, 1], likewise.

    Returns:
      Pair, both of the shape of `x`, in the space of F; no gradient reaches the target.

    Raises:
      InputError: if `s`, `t`, `v` or `a` does not fit `x`.

    Example:
      >>> pair = consistency_training(lambda x, s, t: s * x, jnp.ones((4, 2)), 1.0, 0.0, jnp.zeros((4, 2)), 0.5)
      >>> pair.prediction[0].tolist(), pair.target[0].tolist()
      ([0.0, 0.0], [0.75, 0.75])

    Reference: Song et al. 2023, Consistency Models (arXiv 2303.01469), eq. 10; Song and Dhariwal 2023, iCT (arXiv 2310.14189).
    """
    s, t, a = checks.times("consistency_training", x, s=s, t=t, a=a)
    v = checks.like("consistency_training", x, v)
    m = s + a * (t - s)
    x_m = flowmap.move(x, s, m, v)
    return typing.Pair(flowmap.jump(V, x, s, t), sg(flowmap.jump(V, x_m, m, t)))


def consistency_distillation(V, V_target, x, s, t, v, a):
    """Consistency distillation: neighbours on the teacher's trajectory are sent to the same place.

        F(x, s, t)  vs  sg[F_target(x_m, m, t)],     m = s + a (t - s),  x_m = x + (m - s) v,  t = 0 in the paper

    `v` is the teacher's velocity for an Euler step from `x`; for a Heun step, the mean of its velocities at both ends.

    Paper -> here: x_{t_{n+1}} -> x, t_{n+1} -> s, t_n -> m, x-hat -> x_m, f_theta(x, t) -> F(x, s, 0), theta^- -> V_target.

    Args:
      V: average velocity, `V(x, s, t)`.
      V_target: the target's average velocity, EMA weights in the paper; never differentiated.
      x: data on the path at time `s`, [B, ...].
      s: source time in [0, 1], a scalar or with `x.ndim` axes.
      t: target time in [0, 1], likewise.
      v: the teacher's velocity from (x, s), the shape of `x`.
      a: fraction of the way from `s` to `t` between the neighbours, in (0, 1], likewise.

    Returns:
      Pair, both of the shape of `x`, in the space of F; no gradient reaches the target.

    Raises:
      InputError: if `s`, `t`, `v` or `a` does not fit `x`.

    Example:
      >>> V = lambda x, s, t: s * x
      >>> pair = consistency_distillation(V, V, jnp.ones((4, 2)), 1.0, 0.0, jnp.ones((4, 2)), 0.5)
      >>> pair.prediction[0].tolist(), pair.target[0].tolist()
      ([0.0, 0.0], [0.375, 0.375])

    Reference: Song et al. 2023, Consistency Models (arXiv 2303.01469), eq. 7.
    """
    s, t, a = checks.times("consistency_distillation", x, s=s, t=t, a=a)
    v = checks.like("consistency_distillation", x, v)
    m = s + a * (t - s)
    x_m = flowmap.move(x, s, m, v)
    return typing.Pair(flowmap.jump(V, x, s, t), sg(flowmap.jump(V_target, x_m, m, t)))


def consistency_trajectory(V, V_frozen, x, s, t, x_m, m):
    """Consistency Trajectory Models: neighbours on the teacher's trajectory jump to `t`, and are compared at the data.

        F_frozen(F(x, s, t), t, 0)  vs  sg[F_frozen(F(x_m, m, t), t, 0)]

    The last jump puts both in the space of data, where distances mean something; its weights get no gradient, its input does.

    Paper -> here: x_t -> x, t -> s, s -> t, u -> m, Solver(x_t, t, u) -> x_m, G_theta(x, t, s) -> F(x, s, t), sg(theta) -> V_frozen.

    Args:
      V: average velocity, `V(x, s, t)`.
      V_frozen: the same with weights that are not trained (EMA in the paper); gradient passes to its input.
      x: data on the path at time `s`, [B, ...].
      s: source time in [0, 1], a scalar or with `x.ndim` axes.
      t: target time in [0, 1], likewise.
      x_m: where a solver of the teacher's equation brings `x` at time `m`, the shape of `x`.
      m: time between `t` and `s`, likewise.

    Returns:
      Pair, both of the shape of `x`, in the space of data; no gradient reaches the target.

    Raises:
      InputError: if `s`, `t`, `m` or `x_m` does not fit `x`.

    Example:
      >>> V = lambda x, s, t: s * x
      >>> pair = consistency_trajectory(V, V, jnp.ones((4, 2)), 1.0, 0.5, jnp.ones((4, 2)), 0.75)
      >>> pair.prediction[0].tolist(), pair.target[0].tolist()
      ([0.375, 0.375], [0.609375, 0.609375])

    Reference: Kim et al. 2023, Consistency Trajectory Models (arXiv 2310.02279), eq. 9 (soft consistency).
    """
    s, t, m = checks.times("consistency_trajectory", x, s=s, t=t, m=m)
    x_m = checks.like("consistency_trajectory", x, x_m, name="x_m")
    at_data = lambda x_t: flowmap.jump(V_frozen, x_t, t, 0.0)
    return typing.Pair(at_data(flowmap.jump(V, x, s, t)), sg(at_data(flowmap.jump(V, x_m, m, t))))


def continuous_consistency(V, x, s, v, *, warmup=1.0, jvp=jax.jvp):
    """Continuous-time consistency (sCM), in our time and path: MeanFlow's rule with the target held at the data.

        V(x, s, 0)  vs  sg[v - warmup s d_s V(x, s, 0)],     d_s V along (v, 1, 0)

    With R the residual and r = sqrt(s^2 + (1 - s)^2), the paper's tangent in trigonometric time is g = -(1 - s) r R; the recipe
    weighs and normalises it so.

    Paper -> here: x_t -> x, t -> s by s = sin(t) / (cos(t) + sin(t)), dx_t/dt -> v, the network F_theta -> V by flowmap.trigflow,
    r (the warm-up of the tangent) -> warmup.

    Args:
      V: average velocity, `V(x, s, t)`; called with t = 0.
      x: data on the path at time `s`, [B, ...].
      s: source time in [0, 1], a scalar or with `x.ndim` axes.
      v: velocity at (x, s), conditional (training) or a teacher's (distillation); the shape of `x`.
      warmup: factor in [0, 1] of the derivative, a scalar or with `x.ndim` axes; grows from 0 to 1 over the first steps.
      jvp: the derivative, `jax.jvp` or `flowjax.derivatives.finite_difference(...)`.

    Returns:
      Pair, both of the shape of `x`; no gradient reaches the target.

    Raises:
      InputError: if `s`, `v` or `warmup` does not fit `x`.

    Example:
      >>> pair = continuous_consistency(lambda x, s, t: s * x, jnp.ones((4, 2)), 0.5, jnp.zeros((4, 2)))
      >>> pair.prediction[0].tolist(), pair.target[0].tolist()
      ([0.5, 0.5], [-0.5, -0.5])

    Reference: Lu and Song 2024, sCM (arXiv 2410.11081), eq. 6 and section 4.
    """
    s, warmup = checks.times("continuous_consistency", x, s=s, warmup=warmup)
    v = checks.like("continuous_consistency", x, v)
    V_s0, dV_ds = jvp(lambda x, s: V(x, s, jnp.zeros_like(s)), (x, s), (v, jnp.ones_like(s)))
    return typing.Pair(V_s0, sg(v - warmup * s * dV_ds))


def eulerian_distillation(V, x, s, t, v, *, jvp=jax.jvp):
    """Eulerian Map Distillation: along the teacher's trajectory the destination stands still; nothing is stopped.

        d_s F(x, s, t) = v - V(x, s, t) + (t - s) d_s V(x, s, t)  vs  0,     d_s V along (v, 1, 0)

    The gradient flows through the derivative, that of V in x included, which makes it the heavier and less stable of the forms;
    with the target of `align_your_flow_emd` the zero is the same. `v` must be the marginal velocity: the loss is not linear in it.

    Paper -> here: X_{s,t}(x) -> F(x, s, t), b_s -> v; the paper's time is 1 minus ours, which turns the sign.

    Args:
      V: average velocity, `V(x, s, t)`.
      x: data on the path at time `s`, [B, ...].
      s: source time in [0, 1], a scalar or with `x.ndim` axes.
      t: target time in [0, 1], likewise.
      v: the teacher's velocity at (x, s), the shape of `x`.
      jvp: the derivative, `jax.jvp` or `flowjax.derivatives.finite_difference(...)`.

    Returns:
      Pair, both of the shape of `x`; the target is 0.

    Raises:
      InputError: if `s`, `t` or `v` does not fit `x`.

    Example:
      >>> pair = eulerian_distillation(lambda x, s, t: s * x, jnp.ones((4, 2)), 1.0, 0.0, jnp.zeros((4, 2)))
      >>> pair.prediction[0].tolist(), pair.target[0].tolist()
      ([-2.0, -2.0], [0.0, 0.0])

    Reference: Boffi et al. 2024, Flow Map Matching (arXiv 2406.07507), Eulerian map distillation.
    """
    s, t = checks.times("eulerian_distillation", x, s=s, t=t)
    v = checks.like("eulerian_distillation", x, v)
    V_st, dV_ds = jvp(lambda x, s: V(x, s, t), (x, s), (v, jnp.ones_like(s)))
    dF_ds = v - V_st + (t - s) * dV_ds
    return typing.Pair(dF_ds, jnp.zeros_like(dF_ds))


def eulerian_self_distillation(V, x, s, t, *, jvp=jax.jvp):
    """Eulerian Self-Distillation: the teacher is the network's own diagonal, and the spatial part is stopped.

        d/ds F(x, s, t) + sg[grad_x F(x, s, t) . V(x, s, s)]  vs  0,     both derivatives partial, in terms of V
        d/ds F = (t - s) d/ds V - V,     grad_x F . u = u + (t - s) grad_x V . u,     u = V(x, s, s)

    The gradient flows through the derivative in time alone. On the diagonal F is x for any V, and the residual is 0: a recipe adds
    the anchor. The spatial derivative stands inside the one in time so that both share a forward pass; what is unused is not run.

    Paper -> here: X_{s,t}(x) -> F(x, s, t), v_{s,s} -> V(., s, s); the paper's time is 1 minus ours, which turns the sign.

    Args:
      V: average velocity, `V(x, s, t)`.
      x: data on the path at time `s`, [B, ...].
      s: source time in [0, 1], a scalar or with `x.ndim` axes.
      t: target time in [0, 1], likewise.
      jvp: the derivative, `jax.jvp` or `flowjax.derivatives.finite_difference(...)`.

    Returns:
      Pair, both of the shape of `x`; the target is 0.

    Raises:
      InputError: if `s` or `t` does not fit `x`.

    Example:
      >>> pair = eulerian_self_distillation(lambda x, s, t: s * x, jnp.ones((4, 2)), 1.0, 0.0)
      >>> pair.prediction[0].tolist(), pair.target[0].tolist()
      ([-2.0, -2.0], [0.0, 0.0])

    Reference: Boffi et al. 2025, How to build a consistency model (arXiv 2505.18825), the ESD loss.
    """
    s, t = checks.times("eulerian_self_distillation", x, s=s, t=t)
    u = sg(checks.like("eulerian_self_distillation", x, V(x, s, s), name="V(x, s, s)"))
    along_x = lambda s: jvp(lambda x: V(x, s, t), (x,), (u,))
    (V_st, dV_dx), (dV_ds, _) = jvp(along_x, (s,), (jnp.ones_like(s),))
    residual = (t - s) * dV_ds - V_st + sg(u + (t - s) * dV_dx)
    return typing.Pair(residual, jnp.zeros_like(residual))


def align_your_flow_emd(V, x, s, t, v, *, warmup=1.0, jvp=jax.jvp):
    """Align Your Flow, the Eulerian form: MeanFlow's equation along the teacher's velocity, its derivative warmed up.

        V(x, s, t)  vs  sg[v + warmup (t - s) d_s V(x, s, t)],     d_s V along (v, 1, 0)

    No gradient of a derivative is taken. With warmup below 1 the map is drawn towards straight lines: a small regularisation, which
    the paper keeps to the end (0.99).

    Paper -> here: x_t -> x, t -> s, s -> t, F_theta -> V, dx_t/dt -> v, r -> warmup.

    Args:
      V: average velocity, `V(x, s, t)`.
      x: data on the path at time `s`, [B, ...].
      s: source time in [0, 1], a scalar or with `x.ndim` axes.
      t: target time in [0, 1], likewise.
      v: the teacher's velocity at (x, s), the shape of `x`.
      warmup: factor in [0, 1] of the derivative, a scalar or with `x.ndim` axes.
      jvp: the derivative, `jax.jvp` or `flowjax.derivatives.finite_difference(...)`.

    Returns:
      Pair, both of the shape of `x`; no gradient reaches the target.

    Raises:
      InputError: if `s`, `t`, `v` or `warmup` does not fit `x`.

    Example:
      >>> pair = align_your_flow_emd(lambda x, s, t: s * x, jnp.ones((4, 2)), 1.0, 0.0, jnp.zeros((4, 2)), warmup=0.5)
      >>> pair.prediction[0].tolist(), pair.target[0].tolist()
      ([1.0, 1.0], [-0.5, -0.5])

    Reference: Sabour, Fidler and Kreis 2025, Align Your Flow (arXiv 2506.14603), the AYF-EMD objective.
    """
    s, t, warmup = checks.times("align_your_flow_emd", x, s=s, t=t, warmup=warmup)
    v = checks.like("align_your_flow_emd", x, v)
    V_st, dV_ds = jvp(lambda x, s: V(x, s, t), (x, s), (v, jnp.ones_like(s)))
    return typing.Pair(V_st, sg(v + warmup * (t - s) * dV_ds))


def flow_anchored(V, x, s, v, *, jvp=jax.jvp):
    """Flow-Anchored Consistency Models, the consistency part: a clipped and relaxed step towards the Eulerian rule at t = 0.

        V  vs  sg[V - (1 - sqrt(1 - s)) clip(R, -1, 1)],     R = V - (v - s d_s V),  V = V(x, s, 0),  d_s V along (v, 1, 0)

    Close to the data the step vanishes. The anchor is a task of its own: `flow_matching(flowmap.extended_source(V), x, s, v)`.

    Paper -> here: x_t -> x, t -> 1 - s (data at t = 1), F_theta -> -V, g -> R up to its sign, alpha(t) = 1 - t^0.5 with t = 1 - s.

    Args:
      V: average velocity, `V(x, s, t)`; called with t = 0.
      x: data on the path at time `s`, [B, ...].
      s: source time in [0, 1], a scalar or with `x.ndim` axes.
      v: velocity at (x, s), the teacher's; the shape of `x`.
      jvp: the derivative, `jax.jvp` or `flowjax.derivatives.finite_difference(...)`.

    Returns:
      Pair, both of the shape of `x`; no gradient reaches the target.

    Raises:
      InputError: if `s` or `v` does not fit `x`.

    Example:
      >>> pair = flow_anchored(lambda x, s, t: s * x, jnp.ones((4, 2)), 1.0, jnp.zeros((4, 2)))
      >>> pair.prediction[0].tolist(), pair.target[0].tolist()
      ([1.0, 1.0], [0.0, 0.0])

    Reference: Peng et al. 2025, Flow-Anchored Consistency Models (arXiv 2507.03738), Algorithm 1.
    """
    (s,) = checks.times("flow_anchored", x, s=s)
    v = checks.like("flow_anchored", x, v)
    V_s0, dV_ds = jvp(lambda x, s: V(x, s, jnp.zeros_like(s)), (x, s), (v, jnp.ones_like(s)))
    R = V_s0 - (v - s * dV_ds)
    return typing.Pair(V_s0, sg(V_s0 - (1 - jnp.sqrt(1 - s)) * jnp.clip(R, -1, 1)))
