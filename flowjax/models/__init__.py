"""Networks, all called `net(x, s, t, cond)`; `make` builds one from what a config holds."""

import inspect

from flowjax import checks, flowmap
from flowjax.models.dit import DIT_SIZES, DiT
from flowjax.models.log_variance import LogVariance
from flowjax.models.mlp import MLP
from flowjax.models.parameterised import Parameterised

__all__ = ["DIT_SIZES", "DiT", "LogVariance", "MLP", "MODELS", "Parameterised", "defaults", "make"]

MODELS = {"mlp": MLP, "dit": DiT}


def make(name, *, num_classes=0, parameterisation="velocity", **fields):
    """A network by name.

    Args:
      name: a key of MODELS.
      num_classes: labels of the data, 0 for none.
      parameterisation: what the network predicts, a key of flowjax.flowmap.PARAMETERISATIONS; the result is V whatever it is.
      **fields: the fields of the linen module; a DiT also takes `size`, a key of DIT_SIZES, whose width, depth and heads then count.

    Returns:
      A linen module with `apply(variables, x, s, t, cond)`.

    Raises:
      InputError: for an unknown network, size, field or parameterisation.
    """
    checks.member("network", name, MODELS)
    checks.member("parameterisation", parameterisation, flowmap.PARAMETERISATIONS)
    if name == "dit" and (size := fields.pop("size", "")):
        checks.member("size of a DiT", size, DIT_SIZES)
        fields = {**fields, **DIT_SIZES[size]}
    for field in fields:
        checks.member(f"field of network {name!r}", field, defaults(name))
    net = MODELS[name](num_classes=num_classes, **fields)
    return net if parameterisation == "velocity" else Parameterised(net, parameterisation)


def defaults(name):
    """The fields of a network with their defaults, {field: value}; the labels come from the data."""
    checks.member("network", name, MODELS)
    parameters = inspect.signature(MODELS[name]).parameters
    fields = {field: p.default for field, p in parameters.items() if field not in ("parent", "name", "num_classes")}
    fields["parameterisation"] = "velocity"
    return {"size": "", **fields} if name == "dit" else fields
