"""The three rules on a space with geodesics, where F(x, s, t) = exp_x((t - s) V(x, s, t)): both sides of a pair are tangent vectors.

eulerian       (t - s) V(x, s, t) = log_x(y) along the trajectory, y = F held   <=>   V = (t - s) P_x d_s V - P_x d_v log_x(y)
lagrangian     d_t F(x, s, t) = v(F, t)
compositional  F(F(x, s, m), m, t) = F(x, s, t)

P_x is the tangent part at x. On a space of flowjax.spaces the covariant derivative of a tangent field is the tangent part of its
derivative; of a network only the tangent part counts. In R^n a loss is the one of the same name without `riemannian_`, and that of
points is the one of `progressive_flow_map_matching`. The further argument of all:

Args:
  space: where the points are, a flowjax.spaces.Space; prediction and target are compared by its inner product.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flowjax import checks, spaces
from flowjax.spaces import Space
from flowjax.typing import Array, AverageVelocity, Jvp, Pair, Time, Velocity

sg = jax.lax.stop_gradient


def riemannian_flow_matching(V: AverageVelocity, x: Array, s: Time, v: Array, *, space: Space = spaces.euclidean) -> Pair:
    """Flow matching on a space: the tangent part of the diagonal regresses on the velocity of the geodesic.

        P_x V(x, s, s)  vs  v

    Paper -> here: x_t -> x, t -> s (time runs the other way in the paper), v_t -> V on the diagonal, the velocity of x_t -> v.

    Args:
      v: [B, ...], of which the tangent part counts: that of `flowjax.paths.interpolate`, or a teacher's.

    Example:
      >>> assert jnp.allclose(*riemannian_flow_matching(flow.V, x, s, flow.v(x, s)), atol=1e-5)

    Reference: Chen and Lipman 2023, Flow Matching on General Geometries (arXiv 2302.03660), the conditional loss.
    """
    (s,) = checks.times("riemannian_flow_matching", x, s=s)
    v = space.project(x, checks.like("riemannian_flow_matching", x, v))
    return Pair(space.project(x, V(x, s, s)), v)


def riemannian_meanflow(
    V: AverageVelocity,
    x: Array,
    s: Time,
    t: Time,
    v: Array,
    *,
    clip: float = float("inf"),
    space: Space = spaces.euclidean,
    jvp: Jvp = jax.jvp,
) -> Pair:
    """Riemannian MeanFlow: the source moves along v, and the logarithm of where the jump lands turns with it.

        V(x, s, t)  vs  sg[(t - s) P_x d_s V(x, s, t) - P_x d_v log_x(y)],     y = F(x, s, t) held

    d_v log_x(y) is the derivative of the logarithm in x along v, in R^n -v, which makes this MeanFlow. It is linear in v, so that a
    conditional v is allowed: the mean of the update is the one with the marginal velocity.

    Paper -> here: x_t -> x, t -> s, s -> t (time runs the other way in the paper), u_t -> V, x_s -> y, u_tgt -> target.

    Args:
      v: conditional or guided velocity at (x, s), of which the tangent part counts.
      clip: where d_s V is longer than this, over the last axis, it is shortened to it, before P_x.

    Example:
      >>> assert jnp.allclose(*riemannian_meanflow(flow.V, x, s, t, flow.v(x, s)), atol=1e-5)

    Reference: Riemannian MeanFlow (arXiv 2602.07744), its code: the Eulerian loss.
    """
    s, t = checks.times("riemannian_meanflow", x, s=s, t=t)
    v = space.project(x, checks.like("riemannian_meanflow", x, v))
    V_st, dV_ds = jvp(lambda x, s: space.project(x, V(x, s, t)), (x, s), (v, jnp.ones_like(s)))
    y = sg(space.move(x, s, t, V_st))
    _, dlog_dx = jax.jvp(lambda x: space.log(x, y), (x,), (v,))
    dV_ds = dV_ds if clip == float("inf") else _shortened(dV_ds, clip)
    return Pair(V_st, sg((t - s) * space.project(x, dV_ds) - space.project(x, dlog_dx)))


def _shortened(v: Array, length: float) -> Array:
    """v, not longer than `length` over its last axis."""
    square = jnp.sum(v**2, axis=-1, keepdims=True)
    longer = square > length**2
    return (v * jnp.where(longer, length / jnp.sqrt(jnp.where(longer, square, 1.0)), 1.0)).astype(v.dtype)


def riemannian_eulerian_distillation(
    V: AverageVelocity, x: Array, s: Time, t: Time, v: Array, *, space: Space = spaces.euclidean, jvp: Jvp = jax.jvp
) -> Pair:
    """Eulerian distillation on a space: along the teacher's trajectory the destination stands still; nothing is stopped.

        d_s F(x, s, t) + dF_x[v]  vs  0,     tangent at F

    Args:
      v: the teacher's velocity at (x, s), of which the tangent part counts: the marginal one, because the loss is not linear in it.

    Example:
      >>> assert jnp.allclose(*riemannian_eulerian_distillation(flow.V, x, s, t, flow.v(x, s)), atol=1e-5)

    Reference: Davis et al. 2025, Generalised Flow Maps (arXiv 2510.21608), whose self-distillation has the network as this teacher.
    """
    s, t = checks.times("riemannian_eulerian_distillation", x, s=s, t=t)
    v = space.project(x, checks.like("riemannian_eulerian_distillation", x, v))
    _, dF_ds = jvp(lambda x, s: space.move(x, s, t, V(x, s, t)), (x, s), (v, jnp.ones_like(s)))
    return Pair(dF_ds, jnp.zeros_like(dF_ds))


def riemannian_eulerian_self_distillation(
    V: AverageVelocity, x: Array, s: Time, t: Time, *, space: Space = spaces.euclidean, jvp: Jvp = jax.jvp
) -> Pair:
    """Generalised Flow Maps, Eulerian: the network's diagonal is the teacher, and the spatial part is stopped.

        d/ds F(x, s, t) + sg[P_F dF_x[P_x V(x, s, s)]]  vs  0,     both derivatives partial, tangent at F

    The tangent part is taken where the map lands, at F, as the authors of Riemannian MeanFlow do in their code: the paper prints it at x,
    where the residual of an exact map is not 0.

    Paper -> here: X_{s,t}(x) -> F(x, s, t), v_{s,s} -> V(., s, s); the paper's time is 1 minus ours.

    Example:
      >>> assert jnp.allclose(*riemannian_eulerian_self_distillation(flow.V, x, s, t), atol=1e-5)

    Reference: Davis et al. 2025, Generalised Flow Maps (arXiv 2510.21608), the G-ESD loss.
    """
    s, t = checks.times("riemannian_eulerian_self_distillation", x, s=s, t=t)
    u = sg(space.project(x, checks.like("riemannian_eulerian_self_distillation", x, V(x, s, s), name="V(x, s, s)")))
    along_x = lambda s: jvp(lambda x: space.move(x, s, t, V(x, s, t)), (x,), (u,))
    (F, dF_dx), (dF_ds, _) = jvp(along_x, (s,), (jnp.ones_like(s),))
    residual = dF_ds + sg(space.project(F, dF_dx))
    return Pair(residual, jnp.zeros_like(residual))


def riemannian_lagrangian_distillation(
    V: AverageVelocity, teacher: Velocity, x: Array, s: Time, t: Time, *, space: Space = spaces.euclidean, jvp: Jvp = jax.jvp
) -> Pair:
    """Lagrangian distillation on a space: the map moves with the teacher's velocity where it lands; nothing is stopped.

        d_t F(x, s, t)  vs  P_F teacher(F(x, s, t), t)

    The derivative of exp_x((t - s) V) in t, that of the exponential included, is one jvp. Gradient flows through the teacher into F.

    Example:
      >>> assert jnp.allclose(*riemannian_lagrangian_distillation(flow.V, flow.v, x, s, t), atol=1e-5)

    Reference: Davis et al. 2025, Generalised Flow Maps (arXiv 2510.21608), whose self-distillation has the network as this teacher.
    """
    s, t = checks.times("riemannian_lagrangian_distillation", x, s=s, t=t)
    F, dF_dt = jvp(lambda t: space.move(x, s, t, V(x, s, t)), (t,), (jnp.ones_like(t),))
    return Pair(dF_dt, space.project(F, teacher(F, t)))


def riemannian_lagrangian_self_distillation(
    V: AverageVelocity, x: Array, s: Time, t: Time, *, space: Space = spaces.euclidean, jvp: Jvp = jax.jvp
) -> Pair:
    """Generalised Flow Maps, Lagrangian: the network's diagonal is the teacher where the map lands.

        d_t F(x, s, t)  vs  sg[P_F V(F(x, s, t), t, t)]

    The gradient flows through the derivative, that of the exponential included. A recipe adds the anchor.

    Paper -> here: X_{s,t}(x) -> F(x, s, t), v_{t,t} -> V(., t, t); the time of the paper is 1 minus ours.

    Example:
      >>> assert jnp.allclose(*riemannian_lagrangian_self_distillation(flow.V, x, s, t), atol=1e-5)

    Reference: Davis et al. 2025, Generalised Flow Maps (arXiv 2510.21608), the G-LSD loss.
    """
    s, t = checks.times("riemannian_lagrangian_self_distillation", x, s=s, t=t)
    F, dF_dt = jvp(lambda t: space.move(x, s, t, V(x, s, t)), (t,), (jnp.ones_like(t),))
    return Pair(dF_dt, sg(space.project(F, V(sg(F), t, t))))


def riemannian_lagrangian_meanflow(
    V: AverageVelocity, x: Array, s: Time, t: Time, v: Array, *, space: Space = spaces.euclidean, jvp: Jvp = jax.jvp
) -> Pair:
    """Riemannian MeanFlow, the Lagrangian form: back from where a jump landed, the map moves with the velocity of the data.

        P_x d_s F(y, t, s)  vs  P_x v,     y = sg[F(x, s, t)],   d_s V(y, t, s) in sg

    F(y, t, s) is x where the map is exact, so that a conditional v is allowed. The gradient passes through V and the derivative of the
    exponential, not through that of V. In R^n the left side is the first of `flow_map_matching`, with other gradients. The tangent
    part at x is ours.

    Paper -> here: x_t -> x at the time s, y -> F(x, s, t); the time of the paper is 1 minus ours.

    Args:
      V: called in both time directions.
      v: conditional or guided velocity at (x, s), of which the tangent part counts.

    Example:
      >>> assert jnp.allclose(*riemannian_lagrangian_meanflow(flow.V, x, s, t, flow.v(x, s)), atol=1e-5)

    Reference: Riemannian MeanFlow (arXiv 2602.07744), its code: the Lagrangian loss.
    """
    s, t = checks.times("riemannian_lagrangian_meanflow", x, s=s, t=t)
    v = space.project(x, checks.like("riemannian_lagrangian_meanflow", x, v))
    y = sg(space.move(x, s, t, V(x, s, t)))
    V_ts, dV_ds = jvp(lambda s: V(y, t, s), (s,), (jnp.ones_like(s),))
    _, dF_ds = jax.jvp(lambda s, V: space.move(y, t, s, V), (s, V_ts), (jnp.ones_like(s), sg(dV_ds)))
    return Pair(space.project(x, dF_ds), v)


def riemannian_progressive_self_distillation(
    V: AverageVelocity, x: Array, s: Time, t: Time, a: Time, *, space: Space = spaces.euclidean
) -> Pair:
    """Generalised Flow Maps, compositional: one jump lands where two jumps do.

        F(x, s, t)  vs  sg[F(F(x, s, m), m, t)],     m = s + a (t - s)

    Both are points, whose squared geodesic distance is the error: `flowjax.distances.geodesic`. In R^n it is (t - s)^2 times that of
    `progressive_self_distillation`.

    Paper -> here: X_{s,t}(x) -> F(x, s, t), u -> m; the paper's time is 1 minus ours.

    Example:
      >>> assert jnp.allclose(*riemannian_progressive_self_distillation(flow.V, x, s, t, 0.25), atol=1e-5)

    Reference: Davis et al. 2025, Generalised Flow Maps (arXiv 2510.21608), the G-PSD loss.
    """
    s, t, a = checks.times("riemannian_progressive_self_distillation", x, s=s, t=t, a=a)
    m = s + a * (t - s)
    x_m = space.move(x, s, m, V(x, s, m))
    return Pair(space.move(x, s, t, V(x, s, t)), sg(space.move(x_m, m, t, V(x_m, m, t))))


def riemannian_split_meanflow(
    V: AverageVelocity, x: Array, s: Time, t: Time, a: Time, *, space: Space = spaces.euclidean
) -> Pair:
    """The compositional rule as a regression on the velocity that reaches where two jumps land.

        P_x V(x, s, t)  vs  sg[log_x(F(F(x, s, m), m, t)) / (t - s)],     m = s + a (t - s)

    The difference of two points over a short time loses digits: float32 leaves about 1e-7 / |t - s|. On the diagonal the target is the
    network's own velocity.

    Args:
      a: fraction of the way at which the jump is split.

    Example:
      >>> assert jnp.allclose(*riemannian_split_meanflow(flow.V, x, s, t, 0.25), atol=1e-5)

    Reference: Riemannian MeanFlow (arXiv 2602.07744), its code: the semigroup loss of velocities.
    """
    s, t, a = checks.times("riemannian_split_meanflow", x, s=s, t=t, a=a)
    m, same = s + a * (t - s), s == t
    V_st = space.project(x, V(x, s, t))
    x_m = space.move(x, s, m, V(x, s, m))
    y = space.move(x_m, m, t, V(x_m, m, t))
    reached = (space.log(x, y) / jnp.where(same, 1.0, t - s)).astype(V_st.dtype)
    return Pair(V_st, sg(jnp.where(same, V_st, reached)))
