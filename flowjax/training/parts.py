"""The parts of a run that sections of its settings name. Whether they fit together is judged by flowjax.training.config_checks."""

import importlib
import sys

import jax
import numpy as np

from flowjax import conditioning as conditionings, guidance as guidances, methods, models, origins, typing
from flowjax.training import phases
from flowjax.training.optimizers import make as make_optimizer


def import_modules(names, given="config.modules"):
    """Imports modules that register methods, networks or data: names that the person who runs this typed, and no others.

    Args:
      names: dotted names.
      given: what they were given as, for the errors.

    Raises:
      InputError: for what is no name of a module, one that is not found, or one that fails.
    """
    for name in names:
        if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
            raise typing.InputError(
                f"{given} names {name!r}; expected names of modules, such as my_method or folder.my_method."
            )
        try:
            if getattr(importlib.import_module(name), "__file__", "") is None:
                raise typing.InputError(f"{given} names {name!r}, which is a folder without code; expected a module.")
        except ModuleNotFoundError as error:
            raise typing.InputError(
                f"{given} names {name!r}, and {error.name!r} is not found; put the folder that holds it on PYTHONPATH."
            ) from error
        except typing.InputError:
            raise
        except Exception as error:  # it is the person's code
            where = origins.where(error, f"the module {name}")
            raise typing.InputError(f"{given} names {name!r}, which cannot be imported: {where}.") from error


def check_imported(names, folder, flag):
    """Raises InputError unless this process has imported the modules that a run names: a folder must not choose what code runs."""
    missing = [name for name in names if name not in sys.modules]
    if missing:
        shown = ",".join(map(str, missing))
        typed = f"--config.modules={tuple(missing)!r}" if flag.startswith("--config") else f"--modules={shown}"
        raise typing.InputError(
            f"{flag}={folder} is a run of the modules {shown}, whose code would run here; if you trust them, type"
            f" {typed}, or import them before."
        )


def method(section, guidance, dropout=0.0, adversary=None):
    """The flowjax.typing.Method of config.method under config.guidance; `dropout` is the network's rate, `adversary` config.adversary."""
    made = methods.make(section.name, **section.constants)
    if adversary is not None and adversary.game:
        made = methods.with_adversary(made, **adversary.constants)
    if dropout:
        made = methods.with_dropout(made)
    if not guidance.kind:
        return made
    if guidance.kind in guidances.TEACHERS:
        return guidances.drawing(made, guidance.kind, guidance.scale)
    constants = {name: getattr(guidance, name) for name in guidances.TARGETS[guidance.kind].constants}
    return methods.guided(section.name, made, guidance.kind, scale=guidance.scale, **constants)


def network_inputs(model, guidance):
    """Names of the inputs of V's network besides the label: those of config.model, and what follows from config.guidance."""
    return conditionings.check((*guidance_inputs(guidance), *model.inputs))


def guidance_inputs(guidance):
    """Names of the inputs that say how a row is guided, under config.guidance."""
    low, high = guidance.scale
    target = guidances.TARGETS.get(guidance.kind)
    if target is not None and target.draws_interval:
        return conditionings.GUIDANCE  # outside its interval such a network must know w = 1
    return ("guidance",) if low < high else ()


def network(model, guidance, num_classes):
    """The linen network of V of config.model, for data with so many classes (0: no labels)."""
    inputs = network_inputs(model, guidance)
    return models.make(
        model.name, num_classes=num_classes, parameterisation=model.parameterisation, inputs=inputs, **model.fields
    )


def sampling_inputs(guidance, evaluation, scale=None, interval=(), *, about=""):
    """`conditioning`, by default at the scale and in the interval that the config of the run names for evaluations."""
    scale = (evaluation.guidance or None) if scale is None else scale
    return conditioning(guidance, scale, interval or evaluation.interval, most=evaluation.guidance, about=about)


def conditioning(guidance, scale=None, interval=(), *, most=0.0, about=""):
    """The inputs of a guided network when it is sampled, besides the label; {} of a run without guidance.

    Args:
      guidance: flowjax.training.settings.Guidance of the run.
      scale: at which to sample; None: the median of the scales in training.
      interval: times (low, high) between which to guide; (): those of training, or the widest of them.
      most: highest scale besides those of training; papers evaluate beyond them.
      about: what the error says of a run without guidance besides.

    Returns:
      {"guidance": scale} and, of a network with an interval as input, {"interval": (low, high)}.

    Raises:
      InputError: for a scale or an interval that the network was not trained with; the sentence names those that it was.
    """
    if not guidance.kind:
        for flag, given in (("--guidance", scale), ("--guidance_interval", interval)):
            if given not in (None, ()):
                raise typing.InputError(
                    f"{flag}={_shown(given)}: the run learned without guidance, which is the scale 1{about}; leave the flag out."
                )
        return {}
    low, high = guidance.scale
    if scale is not None and not low <= scale <= max(high, most):
        learned = f"scales from {low} to {high}" if low < high else f"the scale {low} alone"
        raise typing.InputError(f"--guidance={scale}: the run learned {learned}.")
    if scale is None:
        constants = guidances.TARGETS[guidance.kind].constants if guidance.kind in guidances.TARGETS else ()
        scale = guidances.quantile(guidance.kind, 0.5, low, high, guidance.power if "power" in constants else None)
    inputs = {"guidance": scale}
    if "interval" not in guidance_inputs(guidance):
        if interval and tuple(interval) != tuple(guidance.interval):
            raise typing.InputError(
                f"--guidance_interval={_shown(interval)}: the run is guided at the times from {guidance.interval[0]} to"
                f" {guidance.interval[1]} alone; leave the flag out."
            )
        return inputs
    low, high = interval or (0.0, 1.0)
    if not 0 <= low <= 0.5 <= high <= 1 or low == high:
        raise typing.InputError(
            f"--guidance_interval={_shown(interval)}: the run learned intervals that begin between 0 and 0.5 and end between 0.5 and 1,"
            " e.g. 0.1,0.8."
        )
    return {**inputs, "interval": (low, high)}


def _shown(given):
    return ",".join(map(str, given)) if isinstance(given, tuple) else given


def keys(seed, seeds):
    """(key of the initial weights, key of all draws); arrays of [seeds] keys if there are several."""
    if seeds == 1:
        return jax.random.split(jax.random.key(seed))
    return jax.vmap(lambda seed: jax.random.split(jax.random.key(seed)), out_axes=1)(seed + np.arange(seeds))


def cycle(method, optim, auxiliary):
    """The flowjax.training.phases.Cycle of a method whose networks have the periods of config.optim and config.auxiliary."""
    return phases.cycle(method, {"V": optim.every, **{name: auxiliary[name].every for name in method.networks}})


def optimizers(cycle, optim, auxiliary, steps):
    """{name: flowjax.training.optimizers.Optimizer} for V, from config.optim, and for each network that is trained along."""
    made = {"V": make_optimizer(optim, cycle.updates("V", steps))}
    for name, section in auxiliary.items():
        made[name] = make_optimizer(section, cycle.updates(name, steps), f"auxiliary.{name}")
    return made
