"""A recipe that fine-tunes a map by a reward of its samples."""

import functools
import math
from collections.abc import Mapping
from typing import Any

from flowjax import checks, density, distances, samplers, steering
from flowjax.losses import rewards
from flowjax.methods import draws, pairs, recipe
from flowjax.typing import Array, InputError, Method, Nets, Point, Reward, Term

HOLDS = ("distance", "density")
LARGEST = 256  # numbers of a row whose Jacobian is taken whole


def reward_tuning(
    *,
    reward: str | Reward = "axis:number=0,scale=1",
    held_by: str = "distance",
    temperature: float = 1.0,
    steps: int = 16,
    label_drop: float = 0.0,
) -> Method:
    """Fine-tuning by a reward: one jump from noise, its gradient through the reward, and what holds it to the map before.

    The map before is a run, --config.teacher=runs/NAME; --config.start=teacher starts from it. Rewards are of data as the network sees
    them.

    Args:
      reward: as of flowjax.steering.reward_from_name.
      held_by: distance, the squared distance to the samples of the map before, which bounds a KL divergence; or density, the KL divergence
        itself from the density p that the velocity before has, so that the optimum is p e^(temperature reward). The second is for rows
        of at most 256 numbers: it takes the Jacobian of the jump, and follows the flow of the velocity before.
      temperature: how far samples may go, what holds them is divided by it; ours.
      steps: of Heun's method for the density before; ours.
      label_drop: 0, because rewards need no map without a label.

    Raises:
      InputError: for an unknown reward or hold, or a temperature or steps that are not above 0.

    Reference: ours; see flowjax.losses.rewards.
    """
    checks.member("hold of reward_tuning", held_by, HOLDS)
    if not (isinstance(temperature, (int, float)) and temperature > 0 and isinstance(steps, int) and steps > 0):
        raise InputError(
            f"reward_tuning: temperature and steps are {temperature!r} and {steps!r}; expected a number and a whole number above 0."
        )
    called = steering.reward_from_name(reward)
    if held_by == "density":
        term = Term("reward", functools.partial(_tuned_by_density, called, temperature, steps), None)
    else:
        term = Term("reward", functools.partial(_tuned, called, temperature), functools.partial(distances.l2, reduce="sum"))
    needs: dict[str, dict] = {"teacher": {}} if held_by == "density" else {"teacher_map": {}}
    return recipe.method([term], points=draws.from_noise, label_drop=label_drop, needs=needs)


def _tuned(reward: Reward, temperature: float, nets: Nets, point: Point) -> Mapping[str, Any]:
    V, before = pairs.bind(nets.V, point), pairs.bind(nets.teacher_map, point)
    errors, held = rewards.reward_tuning(V, before, reward, point.x, temperature=temperature)
    return {"held": held, "reward": errors}


def _tuned_by_density(reward: Reward, temperature: float, steps: int, nets: Nets, point: Point) -> Array:
    if (count := math.prod(point.x.shape[1:])) > LARGEST:
        raise InputError(
            f"reward_tuning: rows have {count} numbers, and held_by is 'density', which takes whole Jacobians; expected at most"
            f" {LARGEST}, or --config.method.held_by=distance."
        )
    V, before = pairs.bind(nets.V, point), pairs.bind(nets.teacher, point)
    draw = lambda x: density.sample_with_density(V, x, samplers.grid(1))
    log_p = lambda x0: density.log_density(before, x0, samplers.grid(steps)[::-1])
    return rewards.reward_tuning_by_density(draw, log_p, lambda x0: temperature * reward(x0), point.x)
