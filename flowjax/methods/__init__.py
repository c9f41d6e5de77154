"""The published recipes: which pairs, on which rows, with what times, distance and constants.

`make(name, **constants)` returns a `Method`; every constant is a keyword whose default is the published one. A recipe is a few
`Term`s and what to draw for each. All randomness is in `Method.draw`; `Method.loss` is a pure function of networks and points.
One file a rule, as in flowjax.losses; `landscape` has the table of all methods, `recipe` what they share.
"""

import inspect

from flowjax import checks, flowmap, guidance, typing
from flowjax.methods import recipe
from flowjax.methods.landscape import METHODS, MethodInfo
from flowjax.methods.recipe import raw_errors, rows_multiple, with_dropout

__all__ = ["METHODS", "MethodInfo", "constants", "guided", "make", "raw_errors", "register", "rows_multiple", "with_dropout"]


JUMPS = ("any", "to data", "from noise", "grid", "none")


def make(name, *, total_steps=None, **hyper):
    """A Method by its registry name.

    Args:
      name: a key of METHODS.
      total_steps: length of the training, for recipes with schedules; all accept it.
      **hyper: constants of the recipe; the defaults are the published ones.

    Returns:
      A flowjax.typing.Method.

    Raises:
      InputError: for an unknown method or constant, or when a scheduled recipe gets no total_steps.

    Example:
      >>> from flowjax import typing
      >>> method = make("meanflow", diagonal="1/2")
      >>> drawn = method.draw(jax.random.key(0), {"x": jnp.ones((4, 2))}, 0)
      >>> errors, metrics = method.loss(typing.Nets(V=lambda x, s, t, cond=None: -x), drawn)
      >>> errors.shape, sorted(metrics)
      ((4,), ['anchor', 'eulerian'])
    """
    checks.member("method", name, METHODS)
    for key in hyper:
        checks.member(f"constant of method {name!r}", key, constants(name))
    return METHODS[name].recipe(total_steps=total_steps, **hyper)


def register(name, recipe, *, needs=(), parametrisation="velocity", jumps="any"):
    """Adds a recipe of one's own to METHODS, so that `make`, configs and the trainer know it by its name in this process.

    A module that calls this and is named in config.modules is imported wherever a run of it is trained, sampled or measured.

    Args:
      name: a key that no published method has. One registered before is replaced, so that a notebook cell may run again.
      recipe: a function of keyword arguments, `total_steps` among them, that returns a Method.
      needs: fields of Nets that the trainer must supply, such as ("ema",) or ("teacher",).
      parametrisation: a key of flowjax.flowmap.PARAMETERISATIONS.
      jumps: which it learns, one of JUMPS.

    Raises:
      InputError: if a published method has the name, the recipe takes no total_steps, or what it needs or predicts is not known.

    Example:
      >>> from flowjax import typing
      >>> register("plain", lambda *, total_steps=None, diagonal="1/2": make("meanflow", diagonal=diagonal))
      >>> make("plain", diagonal="3/4").terms[0].columns
      (0, 3, 4)
      >>> del METHODS["plain"]
    """
    if name in METHODS and METHODS[name].paper:
        raise typing.InputError(f"register: {name!r} is {METHODS[name].paper}, a published method; expected another name.")
    checks.member("parametrisation", parametrisation, flowmap.PARAMETERISATIONS)
    checks.member("kind of jumps", jumps, JUMPS)
    if isinstance(needs, str):
        raise typing.InputError(f"register: needs is {needs!r}; expected fields in a tuple: ({needs!r},).")
    if "total_steps" not in inspect.signature(recipe).parameters:
        raise typing.InputError(
            f"register: the recipe of {name!r} takes no total_steps; type def {name}(*, total_steps=None, ...)."
        )
    METHODS[name] = MethodInfo(
        recipe, (), "own", "", "", tuple(needs), parametrisation, jumps, None, float("nan"), 0, {}, paper="", arxiv=""
    )  # fmt: skip


# Methods that use the velocity of the data off the diagonal: there an interval is learned, and their anchor is told all times.
OFF_DIAGONAL = ("meanflow", "imf", "pmf", "dmf", "alphaflow", "soflow", "rectified_meanflow")


def guided(name, method, kind, *, scale, **constants):
    """A method with a guidance inside its training target: the map that it learns is guided, at no cost in sampling.

    Wherever the recipe uses the conditional velocity of the data, the guided one stands; a teacher's velocity is guided by the
    teacher's own answers, at the scale that the kind reaches at each time. Rows draw their scale, which is in the cond of all
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
      InputError: for an unknown kind, or a method that learns no velocity V(x, s, s) and has no teacher that does.

    Example:
      >>> from flowjax import typing
      >>> method = guided("meanflow", make("meanflow", diagonal="1/2"), "meanflow", scale=(2.0, 2.0), k=0.5)
      >>> drawn = method.draw(jax.random.key(0), {"x": jnp.ones((4, 2)), "label": jnp.arange(4)}, 0)
      >>> sorted(drawn["eulerian"].cond)
      ['guidance', 'label']
    """
    checks.member("guidance inside the target", kind, guidance.TARGETS)
    if "teacher_map" in method.needs or name == "cmt":
        raise typing.InputError(
            f"guidance {kind!r} acts on a velocity, and {name!r} learns from the jumps of a teacher; guide what makes the jumps: train"
            " the teacher with config.guidance."
        )
    if "teacher" not in method.needs and METHODS[name].jumps not in ("any", "none"):
        raise typing.InputError(
            f"guidance {kind!r} needs the velocity without a label, and {name!r} learns jumps {METHODS[name].jumps} and no velocity; expected"
            " a method that learns one (meanflow, psd, ...), or one that distils it from a teacher's (cd, facm, ...)."
        )
    return recipe.guided(method, kind, scale, name in OFF_DIAGONAL, constants)


def constants(name):
    """The constants of a method with their published values, {keyword: value}; `total_steps` is not one of them."""
    checks.member("method", name, METHODS)
    parameters = inspect.signature(METHODS[name].recipe).parameters
    return {key: parameter.default for key, parameter in parameters.items() if key != "total_steps"}
