"""Networks, all called `net(x, s, t, cond)`; `make` builds one from what a config holds."""

import inspect

from flowjax import checks
from flowjax.models.dit import DIT_SIZES, DiT
from flowjax.models.mlp import MLP

__all__ = ["DIT_SIZES", "DiT", "MLP", "MODELS", "make"]

MODELS = {"mlp": MLP, "dit": DiT}


def make(name, *, num_classes=0, **fields):
    """A network by name.

    Args:
      name: a key of MODELS.
      num_classes: labels of the data, 0 for none.
      **fields: the fields of the linen module; a DiT also takes `size`, a key of DIT_SIZES, whose entries the others override.

    Returns:
      A linen module with `apply(variables, x, s, t, cond)`.

    Raises:
      InputError: for an unknown network, size or field.
    """
    checks.member("network", name, MODELS)
    if name == "dit" and (size := fields.pop("size", None)) is not None:
        checks.member("size of a DiT", size, DIT_SIZES)
        fields = {**DIT_SIZES[size], **fields}
    known = [field for field in inspect.signature(MODELS[name]).parameters if field not in ("parent", "name")]
    for field in fields:
        checks.member(f"field of network {name!r}", field, known)
    return MODELS[name](num_classes=num_classes, **fields)
