"""What a training step of a method costs, in forward passes of its network: the programs, and their matmuls counted."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from flowjax import methods, models
from flowjax.profiling import flops
from flowjax.training import networks, optimizers, phases, sharding, state, step, teachers

SHAPE, CLASSES = (8, 8, 1), 10
NETWORK = {"width": 128, "depth": 4, "heads": 4, "patch": 1}
TOKENS = (64, 17)  # the shape of a row, of methods for categories
# Constants where the defaults are for points: a divergence by one probe, as published for images, and a reward of images.
OF_IMAGES = {"f2d2": {"estimate": "rademacher"}, "reward_tuning": {"reward": "brightness"}}


def rho(tokens=64, width=NETWORK["width"]):
    """Attention's share of a transformer's forward matmuls: N / (6 d + N)."""
    return tokens / (6 * width + tokens)


def network(remat=False, *, tokens=False, inputs=(), transitions=False):
    """The network whose forward pass is the unit: a DiT, or one of that size for sequences of `tokens`.

    Beside it one with further inputs, or one of `transitions`, whose last block is the head.
    """
    policy = "nothing_saveable" if remat else ""
    if transitions:
        size = NETWORK | {"depth": NETWORK["depth"] - 1}
        return models.make(
            "transition_dit", num_classes=CLASSES, remat=policy, parameterisation="denoised_field", inputs=inputs, **size
        )
    if not tokens:
        return models.make("dit", num_classes=CLASSES, remat=policy, inputs=inputs, **NETWORK)
    size = {field: value for field, value in NETWORK.items() if field != "patch"}
    return models.make("sequence_dit", num_classes=CLASSES, remat=policy, parameterisation="categorical", **size)


def program(method, net, *, shape=SHAPE, num_classes=CLASSES, batch, optimizer, decays=(), devices=None):
    """The trainer's step of a method on random rows, and how to make what it takes.

    A teacher is of the same size as the network; networks that are trained along are as the method declares them.

    Args:
      method: a flowjax.typing.Method.
      net: a linen network.
      shape: of a row.
      num_classes: labels are drawn below it.
      batch: rows, a multiple of what the recipe splits them in.
      optimizer: an optax transformation, for each network.
      decays: of the averages that the step keeps, as strings.
      devices: of the mesh; None: the first.

    Returns:
      `(step, init)`: the pure step of (state, batch, weights of a teacher, phase=None), and `init()`, which makes the first three.
    """
    mesh, key = sharding.make_mesh(devices=devices or jax.devices()[:1]), jax.random.key(0)
    average_velocity = lambda weights, x, s, t, cond: net.apply({"params": weights}, x, s, t, cond)
    features = lambda weights, x, t, cond: models.features(net, weights, x, t, cond)
    teacher = teachers.Teacher(lambda weights, x, t, cond: average_velocity(weights, x, t, t, cond), average_velocity, features)
    modules = networks.make(method, net, shape, teacher)
    made = {name: optimizers.Optimizer(optimizer, None, every) for name, every in phases.periods(method).items()}

    def init():
        initial = state.init(key, modules, shape, made, has_target="ema" in method.needs, decays=decays, memory=method.memory)
        x, eps = jax.random.normal(key, (2, batch, *shape))
        if "logits" in method.needs:
            x = jax.nn.one_hot(jnp.argmax(x, axis=-1), shape[-1])
        rows = {"x": x, "eps": eps, "label": jax.random.randint(key, (batch,), 0, num_classes)}
        rows |= {"trajectory": jnp.stack([eps, x], 1), "times": jnp.tile(jnp.array([1.0, 0.0]), (batch, 1))}  # for cmt
        needs_teacher = {"teacher", "teacher_map"} & set(method.needs)
        return initial, rows, initial.params["V"] if needs_teacher else ()

    return step.make_step(method, modules, made, mesh, key), init


def training_step(name, *, every_row=False, remat=False, batch=16, devices=None):
    """`program` of a method on its small network, with plain gradient descent.

    The blocks run in a scan, where XLA does not merge two calls of the network that happen to be alike.

    Args:
      name: of a method.
      every_row: whether every term is on every row (`MethodInfo.every_row`); else as the recipe splits them.
      remat: recompute the blocks in the backward pass.
      batch: rows, a multiple of what the recipe splits them in.
      devices: of the mesh; None: the first.
    """
    tokens, info = of_tokens(name), methods.info(name)
    shape, net = (
        TOKENS if tokens else SHAPE,
        network(remat, tokens=tokens, inputs=info.inputs, transitions=info.jumps == "transitions"),
    )
    return program(_method(name, every_row), net, shape=shape, batch=batch, optimizer=optax.sgd(1e-3), devices=devices)


def of_tokens(name):
    """Whether the rows of a method are sequences of tokens."""
    return name in methods.CATEGORICAL


def _method(name, every_row):
    constants = OF_IMAGES.get(name, {}) | dict(methods.info(name).every_row if every_row else {})
    return methods.make(name, total_steps=1_000, **constants)


def forward_pass(batch, *, tokens=False):
    """`(function, init)` of one forward pass of the network with as many rows, the unit of all costs."""
    net, shape = network(tokens=tokens), TOKENS if tokens else SHAPE

    def init():
        x = jax.random.normal(jax.random.key(0), (batch, *shape))
        return net.init(jax.random.key(1), x, 1.0, 0.0, {})["params"], x, jnp.zeros((batch,), jnp.int32)

    return lambda params, x, label: net.apply({"params": params}, x, 1.0, 0.0, {"label": label}), init


@functools.cache
def _counted_forward_pass(batch, tokens):
    function, init = forward_pass(batch, tokens=tokens)
    return flops.matmul(function, *jax.eval_shape(init))


class Costs(NamedTuple):
    """Forward-pass equivalents (FPE) of the steps of a method.

    Attributes:
      phases: {flowjax.training.phases.Phase: FPE of a step}, one for each distinct phase of the cycle.
      networks: {name of a trained network: FPE of a step in which it alone moves, by all of its terms}.
      mean: FPE of a step, the mean over the cycle.
    """

    phases: dict
    networks: dict
    mean: float


def forward_passes(name, *, every_row=False, remat=False, batch=16):
    """Forward-pass equivalents (FPE) of one training step: its matmul FLOPs over those of a forward pass, as compiled for a CPU.

    The mean over the cycle of the method; the arguments are those of `training_step`.
    """
    steps = cycle(name, every_row)
    return steps.mean(_counted(name, steps.distinct(), every_row=every_row, remat=remat, batch=batch))


def costs(name, *, every_row=False, remat=False, batch=16):
    """The Costs of a method, phase by phase and network by network; the arguments are those of `training_step`."""
    steps, options = cycle(name, every_row), {"every_row": every_row, "remat": remat, "batch": batch}
    method = _method(name, every_row)
    alone = {
        network: phases.Phase(
            tuple(term.name for term in method.terms if network in (term.trains or phases.periods(method))), (network,)
        )
        for network in phases.periods(method)
    }
    counted = _counted(name, {**steps.distinct(), **dict.fromkeys(alone.values())}, **options)
    by_phase = {phase: counted[phase] for phase in steps.distinct()}
    return Costs(by_phase, {network: counted[phase] for network, phase in alone.items()}, steps.mean(by_phase))


def apart(name, *, batch=16):
    """(FPE of a step in which V alone moves, FPE of one in which all other networks move, mean over the cycle); 0 for none."""
    method, steps = _method(name, True), cycle(name, True)
    every = phases.periods(method)

    def of(moving):
        return phases.Phase(tuple(term.name for term in method.terms if set(moving) & set(term.trains or every)), moving)

    student, others = of(("V",)), of(tuple(network for network in every if network != "V"))
    chosen = {**steps.distinct(), student: 1} | ({others: 1} if others.networks else {})
    counted = _counted(name, chosen, every_row=True, remat=False, batch=batch)
    return counted[student], counted.get(others, 0.0), steps.mean(counted)


def cycle(name, every_row=False):
    """The flowjax.training.phases.Cycle of a method, every optimizer as the method declares it."""
    method = _method(name, every_row)
    return phases.cycle(method, phases.periods(method))


def _counted(name, chosen, *, every_row, remat, batch):
    """{phase: FPE of its step}."""
    host = flops.host()
    with jax.default_device(host):
        training, init = training_step(name, every_row=every_row, remat=remat, batch=batch, devices=[host])
        args, forward = jax.eval_shape(init), _counted_forward_pass(batch, of_tokens(name))
        return {phase: flops.matmul(functools.partial(training, phase=phase), *args) / forward for phase in chosen}
