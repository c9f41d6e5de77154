"""Variational Flow Maps: noise that is drawn where a measurement says, so that one jump from it is a sample of the posterior.

A noise adapter answers the measurement y = A x0 + sigma n with the mean and the log-deviation of q(z | y) = N(mean(y), deviation(y)^2),
a normal of independent numbers. The map is trained on pairs of data and such noise, so that a simple q is enough.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from flowjax import checks, flowmap
from flowjax.typing import Array, AverageVelocity, Time

sg = jax.lax.stop_gradient
Adapter = Callable[[Array], Array]  # what was seen, like x [B, ...] -> mean and log-deviation of the noise [B, ..., 2]


def adapted_noise(adapter: Adapter, seen: Array, eps: Array) -> Array:
    """Noise where a measurement says, mean + deviation eps, with live gradients.

    Args:
      adapter: the noise adapter.
      seen: the measurement as rows like the data, [B, ...]: flowjax.inverse.seen.
      eps: normal noise, [B, ...].

    Returns:
      The shape of `eps`.

    Example:
      >>> adapter = lambda seen: jnp.stack([seen, jnp.zeros_like(seen)], axis=-1)
      >>> adapted_noise(adapter, jnp.full((1, 2), 3.0), jnp.ones((1, 2))).tolist()
      [[4.0, 4.0]]

    Reference: Mammadov et al. 2026 (arXiv 2603.07276).
    """
    mean, log_deviation = jnp.moveaxis(adapter(seen), -1, 0)
    return mean + jnp.exp(log_deviation) * checks.like("adapted_noise", mean, eps, name="eps")


def noise_divergence(adapter: Adapter, seen: Array) -> Array:
    """KL(q(z | y) | N(0, I)) of each row, [B]: the sum of (mean^2 + deviation^2 - 1) / 2 - log deviation.

    Example:
      >>> noise_divergence(lambda seen: jnp.stack([seen, jnp.zeros_like(seen)], axis=-1), jnp.full((1, 2), 3.0)).tolist()
      [9.0]
    """
    mean, log_deviation = jnp.moveaxis(adapter(seen), -1, 0)
    each = (mean**2 + jnp.exp(2 * log_deviation) - 1) / 2 - log_deviation
    return jnp.sum(each.reshape(len(each), -1), axis=1)


def variational_flow_map(
    V: AverageVelocity, adapter: Adapter, A: Callable[[Array], Array], y: Array, seen: Array, eps: Array, *, sigma: float = 0.1
) -> Array:
    """What the noise adapter learns beside the map: noise that leads to what was measured, and no further from normal than that needs.

        |y - A(F(z, 1, 0))|^2 / (2 sigma^2) + KL(q(z | y) | N(0, I)),     z = mean(y) + deviation(y) eps

    The map has stopped weights here. For a map that stays it is the negative evidence bound of y up to a constant. The map itself
    learns by the loss of any rule, at points between the data and z, times 1 / (2 tau^2).

    Paper -> here: f_theta -> F(x, 1, 0), q_phi -> the adapter, theta^- -> V.

    Args:
      V: average velocity, whose weights the caller has stopped.
      adapter: noise adapter.
      A: the measurement, rows -> rows.
      y: what was measured, [B, ...] of the shape of A's answer.
      seen: it as rows like the data, [B, ...].
      eps: normal noise, like `seen`.
      sigma: deviation of the measurement's noise.

    Returns:
      errors [B].

    Example: noise that is normal costs nothing, and what is left is the misfit of the map.
      >>> adapter = lambda seen: jnp.zeros((*seen.shape, 2))
      >>> y = flow.F(x, 1.0, 0.0)[:, None]
      >>> variational_flow_map(flow.V, adapter, lambda x0: x0, y, y, x[:, None]).tolist()
      [0.0, 0.0, 0.0]

    Reference: Mammadov et al. 2026, Variational Flow Maps (arXiv 2603.07276), the joint objective, and its code.
    """
    z = adapted_noise(adapter, seen, eps)
    misfit = (y - A(flowmap.jump(V, z, 1.0, 0.0))).reshape(len(z), -1)
    return jnp.sum(misfit**2, axis=1) / (2 * sigma**2) + noise_divergence(adapter, seen)


def adapted_point(adapter: Adapter, x0: Array, seen: Array, eps: Array, s: Time) -> tuple[Array, Array, Array]:
    """(x, v, z): the point between the data and adapted noise, and its velocity, with which a rule trains the map along.

        x = (1 - s) x0 + s z,     v = sg[z - x0],     z = mean(y) + deviation(y) eps

    The gradient reaches the adapter by the point alone, as in the published code.
    """
    (s,) = checks.times("adapted_point", x0, s=s)
    z = adapted_noise(adapter, seen, eps).astype(x0.dtype)
    return ((1 - s) * x0 + s * z).astype(x0.dtype), sg(z - x0), z
