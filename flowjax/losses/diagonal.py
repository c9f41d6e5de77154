"""The anchor: on the diagonal the average velocity is the instantaneous one, V(x, s, s) = v(x, s)."""

from __future__ import annotations

from flowjax import checks
from flowjax.typing import Array, AverageVelocity, Pair, Time


def flow_matching(V: AverageVelocity, x: Array, s: Time, v: Array) -> Pair:
    """Flow matching: the network on the diagonal regresses on a velocity.

        V(x, s, s)  vs  v

    Paper -> here: x_t -> x, t -> s (time runs the other way in the paper: t = 1 is data there), u_t(x | x_1) -> v.

    Args:
      v: velocity at (x, s), [B, ...]: conditional, guided or a teacher's.

    Example:
      >>> assert jnp.allclose(*flow_matching(flow.V, x, s, flow.v(x, s)), atol=1e-5)

    Reference: Lipman et al. 2022, Flow Matching for Generative Modeling (arXiv 2210.02747), eq. 9 (conditional flow matching).
    """
    (s,) = checks.times("flow_matching", x, s=s)
    v = checks.like("flow_matching", x, v)
    return Pair(V(x, s, s), v)
