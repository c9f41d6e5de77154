"""A recipe that fine-tunes a map by a reward of its samples."""

import functools
from collections.abc import Mapping
from typing import Any

from flowjax import distances, steering
from flowjax.losses import rewards
from flowjax.methods import draws, pairs, recipe
from flowjax.typing import InputError, Method, Nets, Point, Reward, Term


def reward_tuning(
    *, reward: str | Reward = "axis:number=0,scale=1", temperature: float = 1.0, label_drop: float = 0.0
) -> Method:
    """Fine-tuning by a reward: one jump from noise, its gradient through the reward, and a squared distance to the map before.

    The map before is a run, --config.teacher=runs/NAME; --config.start=teacher starts from it. Rewards are of data as the network sees
    them.

    Args:
      reward: as of flowjax.steering.reward_from_name.
      temperature: how far samples may go; ours.
      label_drop: 0, because rewards need no map without a label.

    Raises:
      InputError: for an unknown reward, or a temperature that is not above 0.

    Reference: ours; see flowjax.losses.rewards.
    """
    if not (isinstance(temperature, (int, float)) and temperature > 0):
        raise InputError(f"reward_tuning: temperature is {temperature!r}; expected a number above 0.")
    tuned = functools.partial(_tuned, steering.reward_from_name(reward), temperature)
    term = Term("reward", tuned, functools.partial(distances.l2, reduce="sum"))
    return recipe.method([term], points=draws.from_noise, label_drop=label_drop, needs={"teacher_map": {}})


def _tuned(reward: Reward, temperature: float, nets: Nets, point: Point) -> Mapping[str, Any]:
    V, before = pairs.bind(nets.V, point), pairs.bind(nets.teacher_map, point)
    errors, held = rewards.reward_tuning(V, before, reward, point.x, temperature=temperature)
    return {"held": held, "reward": errors}
