"""The published recipes: which pairs, on which rows, with what times, distance and constants.

`make(name, **constants)` returns a `Method`; every constant is a keyword whose default is the published one. A recipe is a few
`Term`s and what to draw for each. All randomness is in `Method.draw`; `Method.loss` is a pure function of networks and points.
One file a rule, as in flowjax.losses; `landscape` has the table of all methods, `recipe` what they share.
"""

import inspect

from flowjax import checks
from flowjax.methods.landscape import METHODS, MethodInfo
from flowjax.methods.recipe import raw_errors, rows_multiple

__all__ = ["METHODS", "MethodInfo", "constants", "make", "raw_errors", "rows_multiple"]


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


def constants(name):
    """The constants of a method with their published values, {keyword: value}; `total_steps` is not one of them."""
    checks.member("method", name, METHODS)
    parameters = inspect.signature(METHODS[name].recipe).parameters
    return {key: parameter.default for key, parameter in parameters.items() if key != "total_steps"}
