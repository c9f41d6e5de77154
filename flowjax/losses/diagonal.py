"""The anchor: on the diagonal the average velocity is the instantaneous one, V(x, s, s) = v(x, s)."""

from flowjax import checks, typing


def flow_matching(V, x, s, v):
    """Flow matching: the network on the diagonal regresses on a velocity.

        V(x, s, s)  vs  v

    Paper -> here: x_t -> x, t -> s (time runs the other way in the paper: t = 1 is data there), u_t(x | x_1) -> v.

    Args:
      V: average velocity, `V(x, s, t)`.
      x: data on the path at time `s`, [B, ...].
      s: time in [0, 1], a scalar or with `x.ndim` axes.
      v: velocity at (x, s), conditional, a teacher's or guided; the shape of `x`.

    Returns:
      Pair, both of the shape of `x`.

    Raises:
      InputError: if `s` or `v` does not fit `x`.

    Example:
      >>> pair = flow_matching(lambda x, s, t: 2 * x, jnp.ones((4, 2)), 0.5, jnp.ones((4, 2)))
      >>> float((pair.prediction - pair.target).mean())
      1.0

    Reference: Lipman et al. 2022, Flow Matching for Generative Modeling (arXiv 2210.02747), eq. 9 (conditional flow matching).
    """
    (s,) = checks.times("flow_matching", x, s=s)
    v = checks.like("flow_matching", x, v)
    return typing.Pair(V(x, s, s), v)
