"""Networks, all called `net(x, s, t, cond)`; `make` builds one from what a config holds."""

import inspect

from flowjax import checks
from flowjax.models.dit import DIT_SIZES, DiT
from flowjax.models.mlp import MLP

__all__ = ["DIT_SIZES", "DiT", "MLP", "MODELS", "defaults", "make"]

MODELS = {"mlp": MLP, "dit": DiT}


def make(name, *, num_classes=0, **fields):
    """A network by name.

    Args:
      name: a key of MODELS.
      num_classes: labels of the data, 0 for none.
      **fields: the fields of the linen module; a DiT also takes `size`, a key of DIT_SIZES, whose width, depth and heads then count.

    Returns:
      A linen module with `apply(variables, x, s, t, cond)`.

    Raises:
      InputError: for an unknown network, size or field.
    """
    checks.member("network", name, MODELS)
    if name == "dit" and (size := fields.pop("size", "")):
        checks.member("size of a DiT", size, DIT_SIZES)
        fields = {**fields, **DIT_SIZES[size]}
    for field in fields:
        checks.member(f"field of network {name!r}", field, defaults(name))
    return MODELS[name](num_classes=num_classes, **fields)


def defaults(name):
    """The fields of a network with their defaults, {field: value}; the labels come from the data."""
    checks.member("network", name, MODELS)
    parameters = inspect.signature(MODELS[name]).parameters
    fields = {field: p.default for field, p in parameters.items() if field not in ("parent", "name", "num_classes")}
    return {"size": "", **fields} if name == "dit" else fields
