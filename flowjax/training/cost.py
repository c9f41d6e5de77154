"""What a training step of a method costs, in forward passes of its network: counted in the compiled program."""

import functools

import jax
import jax.numpy as jnp
import optax

from flowjax import flops, methods, models
from flowjax.training import networks, sharding, state, step

SHAPE, CLASSES = (8, 8, 1), 10
NETWORK = {"width": 128, "depth": 4, "heads": 4, "patch": 1}


def rho(tokens=64, width=NETWORK["width"]):
    """Attention's share of a transformer's forward matmuls: N / (6 d + N)."""
    return tokens / (6 * width + tokens)


@functools.cache
def _forward(batch):
    """Matmul FLOPs of one forward pass of the network, the unit of all counts."""
    net = models.make("dit", num_classes=CLASSES, **NETWORK)
    x, label = jax.ShapeDtypeStruct((batch, *SHAPE), jnp.float32), jax.ShapeDtypeStruct((batch,), jnp.int32)
    params = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, *SHAPE)), 1.0, 0.0, {})["params"])
    return flops.matmul(lambda p, x, label: net.apply({"params": p}, x, 1.0, 0.0, {"label": label}), params, x, label)


def forward_passes(name, *, every_row=False, batch=16):
    """Forward-pass equivalents (FPE) of one training step of a method on a small DiT with 64 tokens, without remat.

    The blocks run in a scan, where XLA does not merge two calls of the network that happen to be alike. Teachers, auxiliary and target
    networks are of the same size.

    Args:
      name: a key of flowjax.methods.METHODS.
      every_row: whether every term is on every row (`MethodInfo.every_row`); else as the recipe splits them.
      batch: rows, a multiple of what the recipe splits them in.

    Returns:
      Matmul FLOPs of the step over those of a forward pass.
    """
    method = methods.make(name, total_steps=1_000, **(methods.METHODS[name].every_row if every_row else {}))
    net, mesh = models.make("dit", num_classes=CLASSES, **NETWORK), sharding.data_mesh(jax.devices()[:1])
    ask = lambda weights, x, s, t, cond: net.apply({"params": weights}, x, s, t, cond)
    modules = networks.Networks(networks.trained(method, net), lambda w, x, t, cond: ask(w, x, t, t, cond), ask)
    optimizer, key = optax.sgd(1.0), jax.random.key(0)

    init = lambda: state.init(key, modules.trained, SHAPE, optimizer, has_target="ema" in method.needs, decays=())
    like = jax.eval_shape(init)
    x = jax.ShapeDtypeStruct((batch, *SHAPE), jnp.float32)
    rows = {"x": x, "eps": x, "label": jax.ShapeDtypeStruct((batch,), jnp.int32)}
    training = step.make_step(method, modules, optimizer, mesh, key)
    return flops.matmul(training, like, rows, like.params["V"]) / _forward(batch)
