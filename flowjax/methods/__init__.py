"""The published recipes: which pairs, on which rows, with what times, distance and constants.

`make(name, **constants)` returns a `Method`; every constant is a keyword whose default is the published one. A recipe is a few
`Term`s, each with its pair, distance, times and columns of the rows. All randomness is in `Method.draw`; `Method.loss` is a pure
function of networks and points. One file a rule, as in flowjax.losses (`consistency` has the Eulerian ones with the target at the
data, `riemannian` those on other spaces than R^n, `distributional` those that match distributions); `recipe`, `draws` and `pairs` have what recipes are made of, `landscape` the tables
of all methods.

Constants that recipes share, and what they mean where a recipe does not say more:

  total_steps: length of the training; taken only by recipes in which something changes over the training.
  times: sampler of the times of the rule, as `flowjax.times.sampler_from_name` takes it: of (s, t), or of one time.
  anchor_times: sampler of the anchor's time.
  diagonal: share of the rows with the anchor, t = s, as a string ("3/4"), or "both": every term on every row.
  path: name of a path, or a flowjax.paths.Path.
  label_drop: share of labels replaced by the null label, an independent draw.
  jvp: the derivative: "exact", a scheme of finite differences ("central", "forward:1e-3"), or a function like jax.jvp.
  distance: "l2", "huber", "cosine", or a function; LPIPS: functools.partial(distances.features, phi=...).
  ema: decay of the target network's weights, a step.
  log_variance_bound: bound on the size of a learned log-variance; None, no bound, as published.
  learned_weight: whether errors are weighed by a learned log-variance of the times, and not equally.
  solver: one step of the teacher, "heun" or "euler".
  sigma_min, sigma_max, rho: of a Karras grid of noise levels, from 0.002 to 80 with spacing 7 as published.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from flowjax import checks, flowmap, guidance, typing
from flowjax.losses.distributional import GAMES
from flowjax.methods import method_info, recipe as recipes
from flowjax.methods.distributional.adversaries import with_adversary
from flowjax.methods.landscape import (
    CATEGORICAL,
    DISTRIBUTIONAL,
    EXTENDED,
    JUMPS,
    METHODS,
    MethodInfo,
    every,
    info,
    takes_total_steps,
    with_categories,
    with_costs,
)
from flowjax.methods.recipe import raw_errors, rows_multiple, with_dropout
from flowjax.typing import Method

__all__ = [
    "CATEGORICAL",
    "DISTRIBUTIONAL",
    "EXTENDED",
    "GAMES",
    "JUMPS",
    "METHODS",
    "MethodInfo",
    "constants",
    "every",
    "guided",
    "info",
    "make",
    "outline",
    "raw_errors",
    "register",
    "rows_multiple",
    "with_adversary",
    "with_categories",
    "with_costs",
    "with_dropout",
]


def make(name: str, *, total_steps: int | None = None, **hyper: Any) -> Method:
    """A Method by its registry name.

    Args:
      name: a key of METHODS, CATEGORICAL, EXTENDED or DISTRIBUTIONAL.
      total_steps: length of the training, for recipes with schedules; the others do not get it.
      **hyper: constants of the recipe; the defaults are the published ones.

    Returns:
      A flowjax.typing.Method.

    Raises:
      InputError: for an unknown method or constant, or when a scheduled recipe gets no total_steps.

    Example:
      >>> from flowjax import typing
      >>> method = make("meanflow", diagonal="1/2")
      >>> drawn = method.draw(jax.random.key(0), {"x": jnp.ones((4, 2))}, 0)
      >>> errors, metrics = method.loss(typing.Nets(V=lambda x, s, t: -x), drawn)
      >>> errors.shape, sorted(metrics)
      ((4,), ['anchor', 'eulerian'])
    """
    recipe = _recipe(name, hyper)
    return recipe(total_steps=total_steps, **hyper) if takes_total_steps(recipe) else recipe(**hyper)


def outline(name: str, *, total_steps: int | None = None, **hyper: Any) -> Method:
    """A Method to be read, not called, made without touching a device; arguments and errors as of `make`."""
    return method_info.outline(_recipe(name, hyper), total_steps=total_steps, **hyper)


def _recipe(name: str, hyper: Mapping[str, Any]) -> Callable[..., Method]:
    """The recipe of a method; raises InputError for an unknown one, or for constants that it does not have."""
    known = constants(name)
    for key in hyper:
        checks.member(f"constant of method {name!r}", key, known)
    return info(name).recipe


def register(
    name: str, recipe: Callable[..., Method], *, parameterisation: str = "velocity", jumps: str = "any", any_space: bool = False
) -> None:
    """Adds a recipe to METHODS, so that `make`, configs and the trainer know it by its name in this process.

    A module that calls this and is named in config.modules is imported wherever a run of it is trained, sampled or measured. Which
    networks are supplied and trained along, is what the Method `needs`: any names, see flowjax.typing.Network.

    Args:
      name: a key that no published method has. One registered before is replaced, so that a notebook cell may run again.
      recipe: a function of keyword arguments with defaults that returns a Method; it gets the length of the training if one of
        them is `total_steps`.
      parameterisation: a key of flowjax.flowmap.PARAMETERISATIONS.
      jumps: which it learns, a key of JUMPS.
      any_space: whether its losses hold on other spaces than R^n, so that it may train on data of those.

    Raises:
      InputError: if a published method has the name, an argument of the recipe has no default, or what it predicts or learns is not
        known.

    Example:
      >>> from flowjax import typing
      >>> register("plain", lambda *, diagonal="1/2": make("meanflow", diagonal=diagonal))
      >>> make("plain", diagonal="3/4").terms[0].columns
      (0, 3, 4)
      >>> del METHODS["plain"]
    """
    if name in every() and every()[name].paper:
        raise typing.InputError(f"register: {name!r} is {every()[name].paper}, a published method; expected another name.")
    checks.member("parameterisation", parameterisation, flowmap.PARAMETERISATIONS)
    checks.member("kind of jumps", jumps, JUMPS)
    for key, parameter in inspect.signature(recipe).parameters.items():
        if parameter.default is inspect.Parameter.empty or parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            raise typing.InputError(
                f"register: the argument {key!r} of the recipe of {name!r} is no keyword with a default; type"
                f" def {name}(*, {key}=...)."
            )
    METHODS[name] = MethodInfo(recipe, parameterisation=parameterisation, jumps=jumps, any_space=any_space)


def guided(name: str, method: Method, kind: str, *, scale: tuple[float, float], **constants: Any) -> Method:
    """A method with a guidance inside its training target: the map that it learns is guided, at no cost in sampling.

    Wherever the recipe uses the conditional velocity of the data, the guided one stands; a teacher's velocity is guided by its answer
    to the null label, at the scale that the kind reaches at each time. Rows draw their scale, which is in the cond of all
    networks, with the interval of times for "imf".

    Args:
      name: the method's key of METHODS.
      method: the Method.
      kind: a key of flowjax.guidance.TARGETS.
      scale: (low, high) of the scales, at least 1; equal for a fixed one.
      **constants: of the guidance, such as k or interval; what the kind has no use for is left out.

    Returns:
      A Method with the same terms, whose batches need labels.

    Raises:
      InputError: for an unknown kind, a method that learns no velocity V(x, s, s) and has no teacher that does, or one whose
        loss is not the sum of its terms.

    Example:
      >>> from flowjax import typing
      >>> method = guided("meanflow", make("meanflow", diagonal="1/2"), "meanflow", scale=(2.0, 2.0), k=0.5)
      >>> drawn = method.draw(jax.random.key(0), {"x": jnp.ones((4, 2)), "label": jnp.arange(4)}, 0)
      >>> sorted(drawn["eulerian"].cond)
      ['guidance', 'label']
    """
    checks.member("guidance inside the target", kind, guidance.TARGETS)
    about = info(name)
    if "teacher_map" in method.needs or about.copies_jumps:
        raise typing.InputError(
            f"guidance {kind!r} acts on a velocity, and {name!r} learns from the jumps of a teacher; guide what makes the jumps: train"
            " the teacher with config.guidance."
        )
    if "teacher" not in method.needs and "logits" in method.needs and guidance.TARGETS[kind].logits is None:
        fit = " or ".join(known for known, target in guidance.TARGETS.items() if target.logits is not None)
        raise typing.InputError(
            f"guidance {kind!r} changes the velocity of the data, and {name!r} learns categories from the data itself; expected"
            f" --config.guidance.kind={fit}, or --config.guidance.kind= for none."
        )
    if "teacher" not in method.needs and not about.learns_velocity:
        raise typing.InputError(
            f"guidance {kind!r} needs the velocity without a label, and {name!r} learns {about.learns} and no velocity;"
            " expected a method that learns one (meanflow, psd, ...), or one that distils it from a teacher's (cd, facm, ...)."
        )
    if getattr(method.loss, "func", None) is not recipes.loss:
        raise typing.InputError(
            f"guidance {kind!r} changes the terms of a method, and the loss of {name!r} is a function of your own; make the method with"
            " flowjax.methods.recipe.method, or guide the velocity in that function."
        )
    return recipes.guided(method, kind, scale, about.guided_rule, constants)


def constants(name: str) -> dict[str, Any]:
    """The constants of a method with their published values, {keyword: value}; `total_steps` is not one of them."""
    parameters = inspect.signature(info(name).recipe).parameters
    return {key: parameter.default for key, parameter in parameters.items() if key != "total_steps"}
