"""The networks of a run: the modules that are trained, the teachers that are not, and the Nets that a recipe sees."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from flowjax import models, typing
from flowjax.training.teachers import apply

AUXILIARY = ("velocity", "log_variance")


class Networks(NamedTuple):
    """Modules and weights besides the State.

    Attributes:
      trained: linen modules by name: "V" always, "velocity" (an auxiliary network like V) and "log_variance" if needed.
      teacher: `(weights, x, t, cond) -> velocity`, or None.
      teacher_map: `(weights, x, s, t, cond) -> average velocity`, or None.
      fixed: the weights of the teacher and of its weaker guide, () without a teacher that has any; an argument of the step,
        never trained and never donated.
      heads: 2 if V's network has a velocity head that is trained.
    """

    trained: Mapping[str, Any]
    teacher: Any = None
    teacher_map: Any = None
    fixed: Any = ()
    heads: int = 1


def heads(method):
    """How many heads of V's network a method trains: 2 if it needs the velocity head."""
    return 2 if "both" in method.needs else 1


def trained(method, net):
    """The modules that a method trains, by name: "V" first, then those of AUXILIARY that it needs."""
    needed = [name for name in AUXILIARY if name in method.needs]
    return {"V": net, **{name: net if name == "velocity" else models.LogVariance() for name in needed}}


def nets(networks, params, target, fixed):
    """The Nets of a recipe, from the trained weights, the target's and the teacher's; the last two get no gradient."""
    V = lambda weights: lambda x, s, t, cond=None: apply(networks.trained["V"], weights, x, s, t, cond)
    fixed = jax.lax.stop_gradient(fixed)
    supplied = {"V": V(params["V"]), "frozen": V(jax.lax.stop_gradient(params["V"]))}
    if networks.heads == 2:
        apply_both = functools.partial(apply, networks.trained["V"], params["V"], method="both")
        supplied["both"] = lambda x, s, t, cond=None: apply_both(x, s, t, cond)
    if target is not None:
        supplied["ema"] = V(jax.lax.stop_gradient(target))
    if "velocity" in params:
        auxiliary = functools.partial(apply, networks.trained["velocity"], params["velocity"])
        supplied["velocity"] = lambda x, t, cond=None: auxiliary(x, t, t, cond)
    if "log_variance" in params:
        log_variance = networks.trained["log_variance"].apply
        supplied["log_variance"] = lambda s, t: log_variance({"params": params["log_variance"]}, s, t)
    if networks.teacher is not None:
        supplied["teacher"] = lambda x, t, cond=None: networks.teacher(fixed, x, t, cond)
    if networks.teacher_map is not None:
        supplied["teacher_map"] = lambda x, s, t, cond=None: networks.teacher_map(fixed, x, s, t, cond)
    return typing.Nets(**supplied)
