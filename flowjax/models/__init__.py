"""Networks, all called `net(x, s, t, cond)`; `make` builds one by name. What `cond` holds: flowjax.conditioning."""

import inspect
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from flowjax import checks, conditioning, flowmap
from flowjax.models import slices
from flowjax.models.decoupled_dit import DECOUPLED_DIT_SIZES, DecoupledDiT
from flowjax.models.discriminator import Discriminator, features
from flowjax.models.dit import DIT_SIZES, DiT
from flowjax.models.lightning_dit import LIGHTNING_SIZES, DriftingDiT, LightningDiT
from flowjax.models.log_variance import LinearLogVariance, LogVariance
from flowjax.models.mit import MIT_SIZES, MiT
from flowjax.models.mlp import MLP
from flowjax.models.noise_adapter import NoiseAdapter
from flowjax.models.parameterised import Parameterised, heads, two_headed
from flowjax.models.semi_lipschitz_dit import SEMI_LIPSCHITZ_SIZES, SemiLipschitzDiT
from flowjax.models.sequence_dit import SequenceDiT
from flowjax.models.smooth_dit import SmoothDiT
from flowjax.models.transition import TransitionDiT, TransitionMLP, bound
from flowjax.models.unet import UNet

__all__ = [
    "DECOUPLED_DIT_SIZES",
    "DIT_SIZES",
    "DecoupledDiT",
    "DiT",
    "Discriminator",
    "DriftingDiT",
    "LIGHTNING_SIZES",
    "LightningDiT",
    "LinearLogVariance",
    "LogVariance",
    "MIT_SIZES",
    "MLP",
    "MODELS",
    "MiT",
    "NoiseAdapter",
    "Parameterised",
    "SEMI_LIPSCHITZ_SIZES",
    "SEQUENCES",
    "SHARDING",
    "SIZES",
    "SemiLipschitzDiT",
    "SequenceDiT",
    "SmoothDiT",
    "TransitionDiT",
    "TransitionMLP",
    "UNet",
    "bound",
    "defaults",
    "features",
    "from_zero",
    "heads",
    "in_float32",
    "make",
    "sized",
    "slices",
    "slicing",
    "two_headed",
    "without_remat",
]

MODELS = {
    "mlp": MLP,
    "dit": DiT,
    "mit": MiT,
    "decoupled_dit": DecoupledDiT,
    "semi_lipschitz_dit": SemiLipschitzDiT,
    "lightning_dit": LightningDiT,
    "drifting_dit": DriftingDiT,
    "smooth_dit": SmoothDiT,
    "unet": UNet,
    "sequence_dit": SequenceDiT,
    "transition_mlp": TransitionMLP,
    "transition_dit": TransitionDiT,
}
SEQUENCES = ("sequence_dit",)  # networks for rows [L, K] of one-hot tokens, and for no others
SIZES = {
    "dit": DIT_SIZES,
    "mit": MIT_SIZES,
    "decoupled_dit": DECOUPLED_DIT_SIZES,
    "semi_lipschitz_dit": SEMI_LIPSCHITZ_SIZES,
    "lightning_dit": LIGHTNING_SIZES,
    "drifting_dit": LIGHTNING_SIZES,
    "smooth_dit": DIT_SIZES,
    "sequence_dit": DIT_SIZES,
}
# Which dimensions of a weight are sliced along "fsdp", see flowjax.training.sharding.specs: pairs (regular expression on its path,
# axes of its last dimensions); a network without an entry has slices.RULES.
SHARDING = dict.fromkeys(MODELS, slices.RULES)


def slicing(name: str) -> tuple[tuple[str, tuple], ...]:
    """The entry of SHARDING of a network, or what stands for it."""
    return SHARDING.get(name, slices.RULES)


def make(
    name: str, *, num_classes: int = 0, parameterisation: str = "velocity", inputs: tuple[str, ...] = (), **fields
) -> nn.Module:
    """A network by name.

    Args:
      name: a key of MODELS.
      num_classes: labels of the data, 0 for none.
      parameterisation: what the network predicts, a key of flowjax.flowmap.PARAMETERISATIONS; the result is V whatever it is.
      inputs: names of further inputs, keys of flowjax.conditioning.INPUTS: ("guidance", "interval").
      **fields: the fields of the linen module; transformers also take `size`, a key of SIZES[name], whose fields then count.

    Returns:
      A linen module with `apply(variables, x, s, t, cond)`.

    Raises:
      InputError: for an unknown network, size, field, input or parameterisation.
    """
    checks.member("network", name, MODELS)
    checks.member("parameterisation", parameterisation, flowmap.PARAMETERISATIONS)
    fields = sized(name, fields)
    if inputs := conditioning.check(inputs):
        fields = {**fields, "inputs": inputs}
    for field in fields:
        checks.member(f"field of network {name!r}", field, defaults(name))
    net = MODELS[name](num_classes=num_classes, **fields)
    return net if parameterisation == "velocity" else Parameterised(net, parameterisation)


def sized(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a network with those of its `size` in their places, and without `size`.

    Raises:
      InputError: for an unknown size.
    """
    fields = dict(fields)
    if name not in SIZES or not (size := fields.pop("size", "")):
        return fields
    checks.member(f"size of network {name!r}", size, SIZES[name])
    return {**fields, **SIZES[name][size]}


def in_float32(net: nn.Module) -> nn.Module:
    """The same network, computing in float32."""
    return net.clone(net=in_float32(net.net)) if isinstance(net, (Parameterised, NoiseAdapter)) else net.clone(dtype="float32")


def without_remat(net: nn.Module) -> nn.Module:
    """The same network, recomputing nothing in the backward pass of its blocks; another kind of module as it is."""
    if isinstance(net, (Parameterised, NoiseAdapter)):
        return net.clone(net=without_remat(net.net))
    return net.clone(remat="") if "remat" in net.__dataclass_fields__ else net


def from_zero(name: str, entry: str) -> bool:
    """Whether the input `entry` of the network `name` starts at zero, so that with it the network is at first the same function."""
    return entry not in getattr(MODELS[name], "NOT_FROM_ZERO", ())


def defaults(name: str) -> dict:
    """The fields of a network with their defaults, {field: value}; the labels come from the data."""
    checks.member("network", name, MODELS)
    parameters = inspect.signature(MODELS[name]).parameters
    fields = {field: p.default for field, p in parameters.items() if field not in ("parent", "name", "num_classes")}
    fields["parameterisation"] = "velocity"
    return {"size": "", **fields} if name in SIZES else fields
