"""What training carries from step to step, and the optimizer that moves it."""

import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from flowjax import checks, conditioning, typing


class State(NamedTuple):
    """All that a checkpoint holds. With seeds side by side every leaf but `step` has a leading axis of seeds.

    Attributes:
      step: steps done, int32.
      skipped: of them, those that changed nothing because loss, gradient or new weights were not finite, int32.
      params: of the trained networks, {"V": ..., "velocity": ..., "log_variance": ...} as far as the method has them.
      opt_state: of the optimizers, by the same names.
      target: average of V's weights with the method's own decay; None if the method needs none.
      averages: {decay: averaged weights of V} for evaluation.
    """

    step: jax.Array
    skipped: jax.Array
    params: Any
    opt_state: Any
    target: Any
    averages: dict[str, Any]


SEEDS = State(step=None, skipped=0, params=0, opt_state=0, target=0, averages=0)  # the axis of the seeds, for jax.vmap


class Optimizer(NamedTuple):
    """How one network is trained.

    Attributes:
      transform: an optax transformation.
      schedule: number of its updates -> learning rate.
      every: steps of the training from one update to the next; in between the network rests.
    """

    transform: optax.GradientTransformation
    schedule: Any
    every: int = 1


def init(key, trained, shape, optimizers, *, has_target, decays, start=None, heads=1):
    """The state at step 0, a pure function of the key; all averages start at the initial weights.

    Args:
      key: of the initial weights.
      trained: the trained modules by name, as flowjax.training.networks.Networks has them.
      shape: of one row of data.
      optimizers: an Optimizer for each of them.
      has_target: whether the method needs a target network.
      decays: names of the evaluation averages.
      start: weights from which V and an auxiliary velocity start, of the same network but for what it does not have; None: fresh.
      heads: 2 if the velocity head of V is trained too.

    Raises:
      InputError: if `start` belongs to another network.
    """
    params = {}
    for name, module in trained.items():
        cond = {"guidance": jnp.ones(1), "interval": jnp.array([[0.0, 1.0]])}
        inputs = (1.0, 0.0) if name == "log_variance" else (jnp.zeros((1, *shape)), 1.0, 0.0, cond)
        # V has the key itself, so that its weights do not depend on what else is trained.
        own_key = key if name == "V" else jax.random.fold_in(key, list(trained).index(name))
        params[name] = module.init(own_key, *inputs, method="both" if name == "V" and heads == 2 else None)["params"]
        if start is not None and name != "log_variance":
            params[name] = _started(params[name], start)
    copy = lambda: jax.tree.map(jnp.copy, params["V"])
    return State(
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        params=params,
        opt_state={name: optimizer.transform.init(params[name]) for name, optimizer in optimizers.items()},
        target=copy() if has_target else None,
        averages={decay: copy() for decay in decays},
    )


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


def make_optimizer(optim, steps, part="optim"):
    """An optax optimizer from config.optim: clipping, then the optimizer by name with its own keyword arguments.

    Args:
      optim: a flowjax.training.settings.Optim: `name` (of optax or optax.contrib), `learning_rate`, `schedule` ("constant", "cosine"
        or "linear"), `warmup_steps` (updates), `clip_norm` (0: none), `every` (steps from one update to the next), `kwargs`.
      steps: length of the training, over which a falling schedule falls to 0.
      part: which part of the config it is, for the errors.

    Returns:
      An Optimizer.

    Raises:
      InputError: for an unknown optimizer, schedule or keyword, or a period below 1.
    """
    if not isinstance(optim.every, int) or optim.every < 1:
        raise typing.InputError(
            f"config.{part}.every is {optim.every!r}; expected a whole number of at least 1: 1 updates at each step."
        )
    schedule = _schedule(optim, -(-steps // optim.every), part)
    factories = {name: f for module in (optax.contrib, optax) for name, f in vars(module).items() if _is_optimizer(name, f)}
    checks.member("optimizer (any of optax or optax.contrib works)", optim.name, factories, listed=False)
    factory, kwargs = factories[optim.name], dict(optim.kwargs)
    known = [name for name in inspect.signature(factory).parameters if name != "learning_rate"]
    for name in kwargs:
        checks.member(f"argument of optimizer {optim.name!r} (config.{part}.kwargs = {{}} clears them)", name, known)
    clip = optax.clip_by_global_norm(optim.clip_norm) if optim.clip_norm else optax.identity()
    try:
        return Optimizer(optax.chain(clip, factory(learning_rate=schedule, **kwargs)), schedule, optim.every)
    except (TypeError, ValueError) as error:
        raise typing.InputError(f"optimizer {optim.name!r} cannot be made with {kwargs}: {error}.") from error


def _is_optimizer(name, factory):
    return not name.startswith("_") and inspect.isfunction(factory) and "learning_rate" in inspect.signature(factory).parameters


def _schedule(optim, steps, part):
    peak, warmup = optim.learning_rate, optim.warmup_steps
    if not peak > 0 or not 0 <= warmup < max(steps, 1):
        raise typing.InputError(
            f"config.{part}: learning_rate is {peak} and warmup_steps {warmup}; the rate must be above 0, the warm-up shorter than"
            f" the {steps} updates."
        )
    falls = {
        "constant": lambda: optax.constant_schedule(peak),
        "cosine": lambda: optax.cosine_decay_schedule(peak, steps - warmup),
        "linear": lambda: optax.linear_schedule(peak, 0.0, steps - warmup),
    }
    checks.member(f"config.{part}.schedule", optim.schedule, falls)
    if not warmup:
        return falls[optim.schedule]()
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), falls[optim.schedule]()], [warmup])
