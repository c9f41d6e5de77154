"""What training carries from step to step."""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flowjax import adapters, conditioning, typing


class State(NamedTuple):
    """All that a checkpoint holds. With seeds side by side every leaf but `step` has a leading axis of seeds.

    Attributes:
      step: steps done, int32.
      skipped: steps that changed nothing because loss, gradient or new weights were not finite, int32.
      params: weights of the trained networks, {"V": ..., "fake": ...}; with config.adapter the factors of V, and of networks like it.
      opt_state: states of their optimizers, by the same names.
      target: average of V's weights with the decay of the method; None if the method needs none.
      averages: {name: averaged weights of V} for evaluation, see flowjax.training.averages.
      memory: what the method remembers of the steps before, whole on every device; None if it has no memory.
      base: the frozen weights beside which the factors of config.adapter are trained; None without it.
    """

    step: jax.Array
    skipped: jax.Array
    params: Any
    opt_state: Any
    target: Any
    averages: dict[str, Any]
    memory: Any = None
    base: Any = None


SEEDS = State(
    step=None, skipped=0, params=0, opt_state=0, target=0, averages=0, memory=0, base=0
)  # the axis of the seeds, for jax.vmap


def init(key, networks, shape, optimizers, *, has_target, decays, start=None, memory=None, adapter=None):
    """The state at step 0, a pure function of the key; all averages start at the initial weights.

    Args:
      key: of the initial weights.
      networks: a flowjax.training.networks.Networks.
      shape: of one row of data.
      optimizers: {name: flowjax.training.optimizers.Optimizer}, one for each trained network.
      has_target: whether the method needs a target network.
      decays: names of the evaluation averages, entries of config.ema as strings.
      start: initial weights of V, and of the networks that the method declares as another network like V's. May lack the
        embeddings of further inputs (flowjax.conditioning), which then start at zero. None: random weights.
      memory: `shape of a row -> tree`, the `memory` of the method, or None.
      adapter: flowjax.training.settings.Adapter of the factors that V, and networks like it, are trained in; None: whole weights.

    Raises:
      InputError: if `start` belongs to another network, or for an adapter without a kernel.
    """
    params, base = {}, None
    for number, (name, module) in enumerate(networks.trained.items()):
        # V takes the key itself, so that its weights do not depend on which other networks are trained.
        of_network = key if name == "V" else jax.random.fold_in(key, number)
        params[name] = module.init(
            of_network,
            *_inputs(networks.call(name), networks.shape(name, shape)),
            method=networks.heads if name == "V" else None,
        )["params"]
        if not networks.like_V(name):
            continue
        fresh = params[name]
        if start is not None:
            params[name] = _started(fresh, start)
        if adapter is not None:
            base = params["V"] if name == "V" else base
            params[name] = _factors(jax.random.fold_in(of_network, 0), params[name], fresh, start, adapter)
    copy = lambda: jax.tree.map(jnp.copy, params["V"])
    return State(
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        params=params,
        opt_state={name: optimizer.transform.init(params[name]) for name, optimizer in optimizers.items()},
        target=copy() if has_target else None,
        averages={decay: copy() for decay in decays},
        memory=None if memory is None else memory(shape),
        base=base,
    )


def _factors(key, weights, fresh, start, adapter):
    """The factors of a network; the embeddings of further inputs, which `start` lacks, are trained whole."""
    learned = {path for path, _ in adapters.leaves(fresh if start is None else start)}
    whole = lambda path: path not in learned or bool(adapter.whole and re.search(adapter.whole, path))
    return adapters.init(key, weights, adapter.rank, adapter.at, whole)


def _inputs(call, shape):
    """One row of inputs by which a module is initialised."""
    if call == "times":
        return 1.0, 0.0
    return jnp.zeros((1, *shape)), 1.0, 0.0, {}


def _started(fresh, start, path=""):
    """`start` in the place of `fresh`, which may have embeddings of further inputs besides: they keep their initial weights."""
    if not isinstance(fresh, dict):
        return jnp.asarray(start, fresh.dtype)
    further = conditioning.layers()
    shapes = lambda tree: {name: getattr(leaf, "shape", "") for name, leaf in tree.items() if name not in further}
    if shapes(fresh) != shapes(start):
        raise typing.InputError(
            f"the weights to start from are of another network: {path or 'it'} has {shapes(start)}, config.model"
            f" makes {shapes(fresh)}; make config.model as in the run they come from, or --config.start= for fresh weights."
        )
    return {
        name: _started(sub, start[name], f"{path}/{name}".strip("/")) if name in start else sub for name, sub in fresh.items()
    }
