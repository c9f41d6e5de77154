"""Fine-tuning a map by the reward of its samples, which it differentiates through itself."""

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

    Where the reward is linear, r(x0) = a . x0, the least sum is at F = F_teacher + temperature a, and for data of covariance
    temperature I these are the samples of p(x0) e^r(x0). Otherwise the squared distance stands for the KL divergence from the samples
    before, which it bounds for noise of variance `temperature` on both.

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
