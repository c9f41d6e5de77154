"""The networks of a run: which modules are trained, which are only asked, and the Nets that a recipe sees."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from flowjax import derivatives, guidance, methods, models, typing
from flowjax.data import points

EXACT = "exact"
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


def make(config, method, net, load):
    """The networks that a method needs.

    Args:
      config: with the fields `auxiliary`, `teacher` ("exact" for the closed-form velocity of points, the folder of a run, or ""
        for none), `guidance` and `data.name`.
      method: a flowjax.typing.Method.
      net: the linen network of V.
      load: `(folder, flag) -> Trained` for a teacher that is a run, see flowjax.training.runs.load.

    Raises:
      InputError: if the method needs a teacher and there is none that can be asked what it needs, or needs none and there is one;
        if config.auxiliary lacks a network that it trains; if a guided teacher cannot be guided.
    """
    modules = trained(method, net)
    _check_auxiliary(config, modules)
    if heads(method) == 2 and not models.two_headed(net):
        raise typing.InputError(
            f"config.method.heads is 2, and a {config.model.name} that predicts {config.model.parameterisation!r} has one head; expected a mit"
            " that predicts 'velocity' or 'denoised_field', as in --config=configs/network.py:imf,mit, or --config.method.heads=1."
        )
    asked = [need for need in ("teacher", "teacher_map") if need in method.needs]
    on_teacher = config.guidance.kind if config.guidance.kind in guidance.TEACHERS else ""
    if not asked:
        for field, value in (("teacher", config.teacher), ("guidance.kind", on_teacher)):
            if value:
                raise typing.InputError(
                    f"config.{field} is {value!r}, and the method asks no teacher: --config.{field}= clears it."
                )
        return Networks(modules, heads=heads(method))
    if not config.teacher:
        closed = asked == ["teacher"] and config.data.name in points.VELOCITIES
        raise typing.InputError(
            f"the method distils a teacher's {'velocity' if asked == ['teacher'] else 'flow map'}, and config.teacher is empty; give"
            " the folder of a trained run, --config.teacher=runs/NAME"
            + (f", or --config.teacher={EXACT} for the closed-form velocity of {config.data.name}." if closed else ".")
        )
    if config.teacher == EXACT:
        if path_of(config) != "linear":
            raise typing.InputError(
                f"config.teacher is {EXACT!r}, the velocity on the linear path, and config.method.path is {path_of(config)!r};"
                " --config.method.path=linear."
            )
        velocity, run, weights = _closed_form(config.data.name, asked), None, ()
    else:
        run = load(config.teacher, "--config.teacher")
        _check_knows(run, config, "--config.teacher", asked[0])
        weights, velocity = run.params, _velocity(run)
    if config.guidance.kind in guidance.TARGETS and asked == ["teacher"]:
        _check_unconditional(run, config)
    if on_teacher:
        velocity, weights = _guided(config, asked, run, velocity, weights, load)
        ask = None
    else:
        ask = None if run is None else _map(run)
    return Networks(modules, velocity, ask, weights, heads=heads(method))


def heads(method):
    """How many heads of V's network a method trains: 2 if it needs the velocity head."""
    return 2 if "both" in method.needs else 1


def path_of(config):
    """The path of a config's method; those without the constant are on the linear one."""
    return config.method.get("path", "linear")


def _check_knows(run, config, flag, asked):
    """Raises InputError unless a run learned what it is asked for, a velocity or a map, on the path of the student."""
    name = run.config.method.name
    jumps = methods.METHODS[name].jumps
    grid = ("grid",) if config.method.name == "pd" else ()
    if jumps not in (("any", "none") if asked == "teacher" else ("any", *grid)):
        what = "a velocity V(x, t, t)" if asked == "teacher" else "a flow map"
        raise typing.InputError(
            f"{flag} is a run of {name!r}, which learns {'no jumps' if jumps == 'none' else f'jumps {jumps}'} and so does not know"
            f" {what}; give a run of {'flow_matching' if asked == 'teacher' else 'psd or meanflow'}, for example."
        )
    if path_of(run.config) != path_of(config):
        raise typing.InputError(
            f"{flag} is a run on the path {path_of(run.config)!r}, and config.method.path is {path_of(config)!r}; a teacher must be on"
            " the student's path."
        )


def trained(method, net):
    """The modules that a method trains, by name: "V" first, then those of AUXILIARY that it needs."""
    needed = [name for name in AUXILIARY if name in method.needs]
    return {"V": net, **{name: net if name == "velocity" else models.LogVariance() for name in needed}}


def _check_auxiliary(config, modules):
    """Raises InputError where config.auxiliary lacks a network that is trained, or has another."""
    needed = [name for name in modules if name != "V"]
    for name in needed:
        if name not in config.auxiliary:
            raise typing.InputError(
                f"method {config.method.name!r} trains an auxiliary network {name!r} along, and config.auxiliary has"
                f" {', '.join(config.auxiliary) or 'none'}; add config.auxiliary.{name} = common.auxiliary(config)."
            )
    for name in config.auxiliary:
        if name not in needed:
            raise typing.InputError(
                f"config.auxiliary has {name!r}, and method {config.method.name!r} trains {', '.join(needed) or 'none'} along;"
                " delete it from the config."
            )


def _map(run):
    def ask(weights, x, s, t, cond):
        asked = {name: value for name, value in (cond or {}).items() if name != "dropout"}  # which is the student's
        return _apply(run.net, weights, x, s, t, asked)

    return ask


def _velocity(run):
    ask = _map(run)
    return lambda weights, x, t, cond: ask(weights, x, t, t, cond)


def _check_unconditional(run, config):
    """Raises InputError unless a teacher knows the velocity without a label."""
    if run is None or not run.num_classes or not run.config.method.get("label_drop", 0.0):
        raise typing.InputError(
            f"config.guidance.kind is {config.guidance.kind!r}, and the teacher {config.teacher} has no unconditional velocity: it must be"
            " a run on labelled data with method.label_drop above 0, e.g. 0.1."
        )


def _guided(config, asked, run, velocity, weights, load):
    """(velocity, weights) of the teacher under config.guidance."""
    kind, scale = config.guidance.kind, functools.partial(guidance.within, interval=config.guidance.interval)
    if "teacher_map" in asked:
        raise typing.InputError(
            f"config.guidance.kind is {kind!r}, and the method asks its teacher for a flow map; only velocities are guided:"
            " --config.guidance.kind= clears it."
        )
    if kind == "autoguidance":
        if not config.guidance.weak:
            raise typing.InputError(
                "config.guidance.kind is 'autoguidance', and config.guidance.weak is empty; give the folder of a weaker run:"
                " --config.guidance.weak=runs/NAME."
            )
        weak = load(config.guidance.weak, "--config.guidance.weak")
        _check_knows(weak, config, "--config.guidance.weak", "teacher")
        ask_weak = _velocity(weak)

        def autoguided(both, x, t, cond):
            own, other = functools.partial(velocity, both["teacher"]), functools.partial(ask_weak, both["weak"])
            return guidance.autoguidance(own, other, scale)(x, t, cond)

        return autoguided, {"teacher": weights, "weak": weak.params}
    if config.guidance.weak:
        raise typing.InputError(
            f"config.guidance.weak is {config.guidance.weak!r}, and config.guidance.kind {kind!r} asks no weaker run:"
            " --config.guidance.weak= clears it."
        )
    _check_unconditional(run, config)

    def guided(weights, x, t, cond):
        return guidance.classifier_free(functools.partial(velocity, weights), scale)(x, t, cond)

    return guided, weights


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


def _apply(net, weights, *inputs, **options):
    """What a network answers, in float32 where flowjax.derivatives.float32 asks for a tangent."""
    net = models.in_float32(net) if derivatives.in_float32() else net
    return net.apply({"params": weights}, *inputs, **options)


def nets(networks, params, target, fixed):
    """The Nets of a recipe, from the trained weights, the target's and the teacher's; the last two get no gradient."""
    V = lambda weights: lambda x, s, t, cond=None: _apply(networks.trained["V"], weights, x, s, t, cond)
    fixed = jax.lax.stop_gradient(fixed)
    supplied = {"V": V(params["V"]), "frozen": V(jax.lax.stop_gradient(params["V"]))}
    if networks.heads == 2:
        apply_both = functools.partial(_apply, networks.trained["V"], params["V"], method="both")
        supplied["both"] = lambda x, s, t, cond=None: apply_both(x, s, t, cond)
    if target is not None:
        supplied["ema"] = V(jax.lax.stop_gradient(target))
    if "velocity" in params:
        auxiliary = functools.partial(_apply, networks.trained["velocity"], params["velocity"])
        supplied["velocity"] = lambda x, t, cond=None: auxiliary(x, t, t, cond)
    if "log_variance" in params:
        apply = networks.trained["log_variance"].apply
        supplied["log_variance"] = lambda s, t: apply({"params": params["log_variance"]}, s, t)
    if networks.teacher is not None:
        supplied["teacher"] = lambda x, t, cond=None: networks.teacher(fixed, x, t, cond)
    if networks.teacher_map is not None:
        supplied["teacher_map"] = lambda x, s, t, cond=None: networks.teacher_map(fixed, x, s, t, cond)
    return typing.Nets(**supplied)
