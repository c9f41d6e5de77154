"""Losses of maps that carry the density along: the mean divergence of a jump, beside its mean velocity.

    divergence(x, s, t) = 1 / (t - s) integral from s to t of div v(x_u, u) du,    x_u the trajectory through x
    log p_t(F(x, s, t)) = log p_s(x) - (t - s) divergence(x, s, t)

The three rules of average velocities hold for it, with div v in the place of v. Arguments are those of flowjax.losses, and

  divergence: the mean divergence of a jump, `divergence(x, s, t) -> [B]`, which is trained.
  div: the divergence of the flow's velocity, [B] at (x, s) or a callable `div(x, t) -> [B]`, exact or an unbiased estimate with the
    same probes (flowjax.density): the losses that stop its gradient keep its mean.

Returns are Pairs of [B].
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from flowjax import checks, flowmap
from flowjax.typing import Array, AverageVelocity, Jvp, Pair, Time

sg = jax.lax.stop_gradient
MeanDivergence = Callable[[Array, Time, Time], Array]  # (x, s, t) -> [B]


def rows(time: Time) -> Array:
    """A time that fits `x`, [B, 1, ..., 1] or 0-d, as [B] or [1]."""
    return jnp.reshape(time, (-1,))


def divergence_anchor(divergence: MeanDivergence, x: Array, s: Time, div: Array) -> Pair:
    """On the diagonal the mean divergence is the divergence.

        divergence(x, s, s)  vs  sg[div v(x, s)]

    Example:
      >>> mean_divergence = lambda x, s, t: flow.divergence(x, s)
      >>> assert jnp.allclose(*divergence_anchor(mean_divergence, x, s, flow.divergence(x, s)))

    Reference: Ai et al. 2025, F2D2 (arXiv 2512.02636).
    """
    (s,) = checks.times("divergence_anchor", x, s=s)
    return Pair(divergence(x, s, s), sg(div))


def divergence_lagrangian(
    V: AverageVelocity, divergence: MeanDivergence, x: Array, s: Time, t: Time, div: Callable, *, jvp: Jvp = jax.jvp
) -> Pair:
    """The target moves: the derivative of the integral is the divergence where the jump lands.

        divergence(x, s, t)  vs  sg[div v(F(x, s, t), t) - (t - s) d_t divergence(x, s, t)]

    Reference: Ai et al. 2025, F2D2 (arXiv 2512.02636), the Lagrangian form, and its code, which stops the derivative.
    """
    s, t = checks.times("divergence_lagrangian", x, s=s, t=t)
    mean, slope = jvp(lambda t: divergence(x, s, t), (t,), (jnp.ones_like(t),))
    return Pair(mean, sg(div(flowmap.jump(V, x, s, t), t) - rows(t - s) * slope))


def divergence_eulerian(
    divergence: MeanDivergence, x: Array, s: Time, t: Time, v: Array, div: Array, *, jvp: Jvp = jax.jvp
) -> Pair:
    """The source moves along the velocity: MeanFlow's target, with div v in the place of v.

        divergence(x, s, t)  vs  sg[div v(x, s) + (t - s) D_s divergence(x, s, t)]

    D_s is the jvp along (v, 1, 0), with the marginal v: of a teacher or of the network itself.

    Reference: Ai et al. 2025, F2D2 (arXiv 2512.02636), the Eulerian form.
    """
    s, t = checks.times("divergence_eulerian", x, s=s, t=t)
    v = checks.like("divergence_eulerian", x, v)
    mean, slope = jvp(lambda x, s: divergence(x, s, t), (x, s), (v, jnp.ones_like(s)))
    return Pair(mean, sg(div + rows(t - s) * slope))


def divergence_compositional(V: AverageVelocity, divergence: MeanDivergence, x: Array, s: Time, t: Time, a: Time) -> Pair:
    """Two jumps are one: integrals add.

        divergence(x, s, t)  vs  sg[a divergence(x, s, m) + (1 - a) divergence(F(x, s, m), m, t)],     m = s + a (t - s)

    Halfway, a = 1/2, this is the shortcut form.

    Reference: Ai et al. 2025, F2D2 (arXiv 2512.02636), the semigroup and shortcut forms.
    """
    s, t, a = checks.times("divergence_compositional", x, s=s, t=t, a=a)
    m = s + a * (t - s)
    first, second = divergence(x, s, m), divergence(flowmap.jump(V, x, s, m), m, t)
    return Pair(divergence(x, s, t), sg(rows(a) * first + rows(1 - a) * second))


def round_trip(V: AverageVelocity, x: Array, s: Time, t: Time) -> Pair:
    """A jump and the jump back return to where they began; gradient flows through both.

        F(F(x, s, t), t, s)  vs  x

    What it adds to another loss makes each jump nearly one to one, so that the density of a sampler of few jumps is that of its determinants
    (flowjax.density.sample_with_density).

    Example:
      >>> assert jnp.allclose(*round_trip(flow.V, x, s, t), atol=1e-5)

    Reference: Rehman et al. 2025, FALCON (arXiv 2512.09914); its weight there is 10.
    """
    s, t = checks.times("round_trip", x, s=s, t=t)
    return Pair(flowmap.jump(V, flowmap.jump(V, x, s, t), t, s), x)
