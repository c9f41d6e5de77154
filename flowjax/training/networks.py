"""The networks of a run: the modules that are trained, the teacher, and the Nets that a recipe sees."""

import functools
import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from flowjax import adapters, checks, models, typing
from flowjax.training import teachers

BOTH = ("V", "velocity")  # the heads of `Nets.both`


class Networks(NamedTuple):
    """Modules and weights besides the State.

    Attributes:
      trained: linen modules by name: "V" first, then those that the method declares.
      declared: {name: flowjax.typing.Network} of all of them but V.
      teacher: a flowjax.training.teachers.Teacher.
      heads: the linen method of V's network that gives all trained heads in one pass, "both" for V and a velocity, "named_heads"
        for a dict of them; None: one head is trained.
      logits: whether terms call V's network for its logits, too.
      scale: of the factors of config.adapter.
    """

    trained: Mapping[str, Any]
    declared: Mapping[str, typing.Network] = {}
    teacher: teachers.Teacher = teachers.Teacher()
    heads: str | None = None
    logits: bool = False
    scale: float = 1.0

    def call(self, name):
        """How terms call a trained network, a key of flowjax.typing.CALLS."""
        return self.declared[name].call if name in self.declared else "map"

    def shape(self, name, shape):
        """The shape of a row that a trained network sees, where one of the data has the given shape."""
        if name not in self.declared or not self.declared[name].of_features:
            return shape
        if self.teacher.features is None:
            raise typing.InputError(
                f"the network {name!r} sees features of the teacher, which must be a trained run: --config.teacher=runs/NAME."
            )
        row = jax.ShapeDtypeStruct((1, *shape), np.float32)
        return jax.eval_shape(lambda weights, x: self.teacher.features(weights, x, 0.5, {}), self.fixed, row).shape[1:]

    def like_V(self, name):
        """Whether a trained network has the module of V."""
        return like_V(self.declared, name)

    def merged(self, name, weights, base):
        """The weights with which a trained network is called: with a `base`, those of networks like V are its factors."""
        return weights if base is None or not self.like_V(name) else adapters.merged(base, weights, self.scale)

    @property
    def fixed(self):
        """Weights that are not trained: an argument of the step, never donated."""
        return self.teacher.weights


def like_V(declared, name):
    """Whether a network has the module of V: V itself, and those that a method declares without another."""
    return name not in declared or not declared[name].module


def make(method, net, shape, teacher=None, scale=1.0):
    """The networks of a method.

    Args:
      method: a flowjax.typing.Method.
      net: the linen network of V.
      shape: of one row of data.
      teacher: a flowjax.training.teachers.Teacher; None: none.
      scale: of the factors of config.adapter.

    Raises:
      InputError: if a declared network cannot be made.
    """
    modules = {"V": net, **{name: module_of(name, network, net, shape) for name, network in method.networks.items()}}
    logits = "logits" in method.needs and predicts_logits(net)
    return Networks(modules, method.networks, teacher or teachers.Teacher(), heads(method, net), logits, scale)


def without_remat(networks):
    """The same Networks, whose blocks recompute nothing in the backward pass."""
    return networks._replace(trained={name: models.without_remat(module) for name, module in networks.trained.items()})


def predicts_logits(net):
    """Whether a network makes V from logits of categories."""
    return getattr(net, "parameterisation", "") == "categorical"


def heads(method, net):
    """The linen method of V's network that gives the heads which a method needs; None for one head, or a network without them."""
    if "heads" in method.needs and len(models.heads(net)) > 1:
        return "named_heads"
    return "both" if "both" in method.needs and models.two_headed(net) else None


def module_of(name, network, net, shape):
    """The module of a declared network."""
    checks.member(f"call of the network {name!r}", network.call, typing.CALLS)
    if isinstance(network.module, nn.Module):
        return network.module
    if callable(network.module):
        return network.module(net, shape)
    if not network.module:
        return net
    module = getattr(models, network.module, None)
    if module is None:
        raise typing.InputError(
            f"the network {name!r} has the module {network.module!r}, which flowjax.models has not; expected a name such as"
            " 'LogVariance', a linen module, or a function (net, shape) -> linen module."
        )
    known = getattr(net, "net", net)  # of a parameterised network, the one in it
    if "net" in module.__dataclass_fields__:
        return module(known)
    return module(num_classes=known.num_classes) if "num_classes" in module.__dataclass_fields__ else module()


def nets(networks, params, target, fixed, mean=None, memory=None, base=None):
    """The Nets of a recipe.

    Args:
      networks: a Networks.
      params: {name: weights} of the trained networks, or their factors beside `base`.
      target: weights of the target network, or None; no gradient reaches them.
      fixed: weights of the teacher; no gradient reaches them.
      mean: `[rows, ...] -> [...]`, the mean over the rows of the whole batch; None: over the rows that are there.
      memory: what the method remembers, or None.
      base: frozen weights, State.base, or None.
    """
    sg = jax.lax.stop_gradient
    params = {name: networks.merged(name, weights, base) for name, weights in params.items()}
    stopped = _live(networks, sg(params))
    supplied = _live(networks, params) | {"frozen": stopped["V"]}
    if target is not None:
        supplied["ema"] = _called(networks.trained["V"], "map", sg(networks.merged("V", target, base)))
    teacher = networks.teacher
    if teacher.velocity is not None:
        supplied["teacher"] = lambda x, t, cond=None: teacher.velocity(sg(fixed), x, t, cond)
    if teacher.features is not None:
        supplied["features"] = lambda x, t, cond=None: teacher.features(sg(fixed), x, t, cond)
    if teacher.map is not None:
        supplied["teacher_map"] = lambda x, s, t, cond=None: teacher.map(sg(fixed), x, s, t, cond)
    return typing.Nets(**supplied, stopped=stopped, mean=mean, memory=memory)


def _live(networks, params):
    """{name: network as terms call it}, and the heads of V's network."""
    called = {name: _called(networks.trained[name], networks.call(name), weights) for name, weights in params.items()}
    if networks.heads is not None:
        one_pass = functools.partial(teachers.apply, networks.trained["V"], params["V"], method=networks.heads)
        by_name = one_pass if networks.heads == "named_heads" else lambda *inputs: dict(zip(BOTH, one_pass(*inputs)))
        called["heads"] = lambda x, s, t, cond=None: by_name(x, s, t, cond)
        called["both"] = lambda x, s, t, cond=None: operator.itemgetter(*BOTH)(by_name(x, s, t, cond))
    if networks.logits:
        raw = functools.partial(teachers.apply, networks.trained["V"], params["V"], method="raw")
        called["logits"] = lambda x, s, t, cond=None: raw(x, s, t, cond)
    return called


def _called(module, call, weights):
    """A module with its weights, called as flowjax.typing.CALLS says."""
    at = functools.partial(teachers.apply, module, weights)
    return {
        "map": lambda x, s, t, cond=None: at(x, s, t, cond),
        "velocity": lambda x, t, cond=None: at(x, t, t, cond),
        "scalar": lambda x, t, cond=None: _mean_of_rows(at(x, t, t, cond)),
        "scalar_map": lambda x, s, t, cond=None: _mean_of_rows(at(x, s, t, cond)),
        "times": lambda s, t: module.apply({"params": weights}, s, t),
    }[call]


def _mean_of_rows(output):
    """[rows, ...] -> [rows]."""
    return output.reshape(output.shape[0], -1).mean(axis=1)
