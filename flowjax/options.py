"""Names with constants, as a config or a command line writes them.

A name alone, "heun"; a name with options, "gamma:gamma=0.3" or "restart:low=0.2,repeats=3"; or, where constants may themselves have
a name, a tuple: ("sorted_pair", ("logit_normal", -0.4, 1.0)).
"""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from flowjax import checks, typing


def entry(what: str, name: str, known: Mapping[str, Any]) -> Any:
    """The entry of `known` with a name; raises InputError, with the names that are near it and all that are known, if there is none."""
    checks.member(what, name, known)
    return known[name]


def numbers(function: Callable) -> dict[str, float]:
    """The options of a function with their defaults: its keyword-only arguments whose default is a number."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and isinstance(p.default, (int, float))}


def parse(what: str, text: str, known: Mapping[str, Mapping[str, float]]) -> tuple[str, dict[str, float]]:
    """Splits "NAME" or "NAME:option=number,option=number" into the name and its options.

    The first number may stand without its option: "central:1e-3" is "central:step=1e-3".

    Args:
      what: what is named, for the error.
      text: as a person typed it.
      known: of each name, its options with an example of their value.

    Returns:
      (name, {option: number}), with the options that were typed.

    Raises:
      InputError: for an unknown name or option, or a value that is not a number.

    Example:
      >>> parse("grid", "karras:rho=5", {"karras": {"rho": 7.0}})
      ('karras', {'rho': 5.0})
    """
    name, _, rest = text.partition(":")
    checks.member(what, name, known)
    options: dict[str, float] = {}
    first = next(iter(known[name]), None)
    for part in rest.split(",") if rest else []:
        option, equals, value = part.partition("=")
        if not (equals or options) and first and _is_number(part):
            option, value = first, part
        if option not in known[name]:
            raise typing.InputError(
                f"{what} {text!r}: {name} has no option {option!r}; expected "
                + (f"{' or '.join(known[name])}, e.g. {name}:{first}={known[name][first]}." if first else f"none: {name}.")
            )
        if not _is_number(value):
            raise typing.InputError(f"{what} {text!r}: {option} is {value!r}; expected a finite number.")
        options[option] = float(value)
    return name, options


def call(what: str, value: Any, known: Mapping[str, Callable]) -> Any:
    """Calls what a tuple `(name, *arguments)` names; arguments are numbers, or tuples of the same form.

    Args:
      what: what the functions make, for the error.
      value: the tuple (a list does as well), or what the function would make.
      known: the functions by name.

    Raises:
      InputError: if the tuple is malformed, the name is unknown or the arguments do not fit it.

    Example:
      >>> call("number", ("sum", 1, ("sum", 2, 3)), {"sum": lambda a, b: a + b})
      6
    """
    if callable(value):
        return value
    named = isinstance(value, (tuple, list)) and bool(value) and isinstance(value[0], str)
    if not named or value[0] not in known:
        raise typing.InputError(f"a {what} is a tuple (name, *numbers or {what}s), here {value!r}; names: {', '.join(known)}.")
    name, *arguments = value
    try:
        return known[name](*(call(what, a, known) if isinstance(a, (tuple, list)) else a for a in arguments))
    except TypeError as error:
        raise typing.InputError(f"{what} {tuple(value)!r}: {error}.") from None


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
