"""The networks of a run: which modules are trained, which are only asked, and the Nets that a recipe sees."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from flowjax import models, typing
from flowjax.data import points

EXACT = "exact"


class Networks(NamedTuple):
    """Modules and weights besides the State.

    Attributes:
      trained: linen modules by name: "V" always, "velocity" (an auxiliary network like V) and "log_variance" if needed.
      teacher: `(weights, x, t, cond) -> velocity`, or None.
      teacher_map: `(weights, x, s, t, cond) -> average velocity`, or None.
      fixed: the teacher's weights, () if it has none; an argument of the step, never trained and never donated.
    """

    trained: Mapping[str, Any]
    teacher: Any = None
    teacher_map: Any = None
    fixed: Any = ()


def make(method, net, teacher="", data_name="", load=None):
    """The networks that a method needs.

    Args:
      method: a flowjax.typing.Method.
      net: the linen network of V.
      teacher: what config.teacher says: "exact" for the closed-form velocity of points, or the folder of a run; "" for none.
      data_name: name of the dataset, for the closed-form velocity.
      load: `folder -> Trained` for a teacher that is a run, see flowjax.training.experiment.load.

    Raises:
      InputError: if the method needs a teacher and there is none that can be asked what it needs, or needs none and there is one.
    """
    asked = [need for need in ("teacher", "teacher_map") if need in method.needs]
    if not asked:
        if teacher:
            raise typing.InputError(
                f"config.teacher is {teacher!r}, and the method asks no teacher: --config.teacher= clears it."
            )
        return Networks(trained(method, net))
    if not teacher:
        closed = asked == ["teacher"] and data_name in points.VELOCITIES
        raise typing.InputError(
            f"the method distils a teacher's {'velocity' if asked == ['teacher'] else 'flow map'}, and config.teacher is empty; give"
            " the folder of a trained run, --config.teacher=runs/NAME"
            + (f", or --config.teacher={EXACT} for the closed-form velocity of {data_name}." if closed else ".")
        )
    if teacher == EXACT:
        return Networks(trained(method, net), teacher=_closed_form(data_name, asked))
    run = load(teacher)
    ask = lambda weights, x, s, t, cond: run.net.apply({"params": weights}, x, s, t, cond)
    return Networks(trained(method, net), lambda weights, x, t, cond: ask(weights, x, t, t, cond), ask, run.params)


def trained(method, net):
    """The modules that a method trains, by name."""
    found = {"V": net}
    if "velocity" in method.needs:
        found["velocity"] = net
    if "log_variance" in method.needs:
        found["log_variance"] = models.LogVariance()
    return found


def _closed_form(data_name, asked):
    if "teacher_map" in asked:
        raise typing.InputError(
            f"config.teacher is {EXACT!r}, a velocity, and the method needs a teacher's flow map; give the folder of a trained run."
        )
    if data_name not in points.VELOCITIES:
        raise typing.InputError(
            f"config.teacher is {EXACT!r}, and the velocity of {data_name!r} is not known in closed form; it is for"
            f" {', '.join(points.VELOCITIES)}. Give the folder of a trained run instead."
        )
    velocity = points.VELOCITIES[data_name]
    return lambda weights, x, t, cond: velocity(x, t)


def nets(networks, params, target, fixed):
    """The Nets of a recipe, from the trained weights, the target's and the teacher's; the last two get no gradient."""
    V = lambda weights: lambda x, s, t, cond=None: networks.trained["V"].apply({"params": weights}, x, s, t, cond)
    fixed = jax.lax.stop_gradient(fixed)
    supplied = {"V": V(params["V"]), "frozen": V(jax.lax.stop_gradient(params["V"]))}
    if target is not None:
        supplied["ema"] = V(jax.lax.stop_gradient(target))
    if "velocity" in params:
        auxiliary = V(params["velocity"])
        supplied["velocity"] = lambda x, t, cond=None: auxiliary(x, t, t, cond)
    if "log_variance" in params:
        apply = networks.trained["log_variance"].apply
        supplied["log_variance"] = lambda s, t: apply({"params": params["log_variance"]}, s, t)
    if networks.teacher is not None:
        supplied["teacher"] = lambda x, t, cond=None: networks.teacher(fixed, x, t, cond)
    if networks.teacher_map is not None:
        supplied["teacher_map"] = lambda x, s, t, cond=None: networks.teacher_map(fixed, x, s, t, cond)
    return typing.Nets(**supplied)
