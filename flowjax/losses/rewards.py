"""Fine-tuning a map by the reward of its samples, which it differentiates through itself, and held to the map before it."""

from collections.abc import Callable

import jax

from flowjax import flowmap
from flowjax.typing import Array, AverageVelocity, Pair, Reward

Start = Callable[..., Array]  # V of the map before, called like V


def reward_tuning(
    V: AverageVelocity, V_teacher: Start, reward: Reward, x: Array, *, temperature: float = 1.0
) -> tuple[Array, Pair]:
    """One step from noise is moved towards a higher reward, and held where it was before.

        -r(F(x, 1, 0))  and  F(x, 1, 0) / (2 temperature)^(1/2)  vs  sg[F_teacher(x, 1, 0)] / (2 temperature)^(1/2)

    The squared distance is the KL divergence of two Gaussians of variance `temperature` about the two outputs, given the noise:

        |F - F_teacher|^2 / (2 temperature) = KL(N(F, temperature I) | N(F_teacher, temperature I))

    Its mean over the noise is therefore at least the KL divergence of the samples with such noise added from those before with the
    same, because a mixture of pairs is no further apart than the pairs (convexity). It is that of the samples themselves, without
    noise, where a Gaussian of covariance temperature I is shifted. So for such data and a linear reward r(x0) = a . x0 the least sum, at
    F = F_teacher + temperature a, gives samples of p(x0) e^r(x0); for other data and rewards it does not, and
    `reward_tuning_by_density` has the divergence itself.

    Args:
      V_teacher: average velocity of the map before, held.
      reward: r, x0 [B, ...] -> [B], differentiable.
      x: noise from which samples are made, [B, ...].
      temperature: how far samples may go, in squared units of the data for one unit of reward.

    Returns:
      (errors [B], Pair): minus the reward, and the pair, scored by the sum of squares.

    Example:
      >>> errors, held = reward_tuning(flow.V, flow.V, lambda x0: x0, x)
      >>> assert jnp.allclose(*held) and jnp.allclose(errors, -flow.F(x, 1.0, 0.0))

    Reference: ours; of the kind of Clark et al. 2023, DRaFT (arXiv 2309.17400), through one jump instead of the last of many steps.
    """
    scale = (2 * temperature) ** -0.5
    F, F_teacher = flowmap.jump(V, x, 1.0, 0.0), jax.lax.stop_gradient(flowmap.jump(V_teacher, x, 1.0, 0.0))
    return -reward(F), Pair(scale * F, scale * F_teacher)


def reward_tuning_by_density(
    draw: Callable[[Array], tuple[Array, Array]], log_p: Callable[[Array], Array], reward: Reward, x: Array
) -> Array:
    """Samples of a map are moved towards p(x0) e^r(x0), p the density before: their KL divergence from it, and minus the reward.

        log q(x0) - log p(x0) - r(x0),     (x0, log q(x0)) = draw(x)

    The mean is KL(q | p e^r / Z) - log Z. It is least where q is the tilted density, and there every row has the same error, -log Z.
    Gradients flow through the samples into all three terms, and into the determinants of the jumps.

    Args:
      draw: samples of the map from noise, and the log-density of the sampler at them, [B]: flowjax.density.sample_with_density.
      log_p: log-density before, x0 -> [B], differentiable: flowjax.density.log_density of the velocity of the start.
      reward: r, x0 -> [B], differentiable.
      x: noise of shape [B, ...].

    Returns:
      errors [B].

    Example:
      >>> draw = lambda z: (2 * z, -0.5 * z**2 - jnp.log(2.0))  # N(0, 4), and the constant is left out
      >>> reward_tuning_by_density(draw, lambda x0: -0.5 * x0**2 / 4 - jnp.log(2.0), lambda x0: x0, x).tolist() == (-2 * x).tolist()
      True

    Reference: ours; the objective is that of variational inference with flows, Rezende and Mohamed 2015 (arXiv 1505.05770), eq. 15.
    """
    x0, log_q = draw(x)
    return log_q - log_p(x0) - reward(x0)
