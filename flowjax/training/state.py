"""What training carries from step to step, and the optimizer that moves it."""

import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from flowjax import checks, typing


class State(NamedTuple):
    """All that a checkpoint holds.

    Attributes:
      step: steps done, int32.
      params: of the trained networks, {"V": ..., "velocity": ..., "log_variance": ...} as far as the method has them.
      opt_state: of the optimizer.
      target: average of V's weights with the method's own decay; None if the method needs none.
      averages: {decay: averaged weights of V} for evaluation.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    target: Any
    averages: dict[str, Any]


def init(key, trained, shape, optimizer, *, has_target, decays):
    """The state at step 0, a pure function of the key; all averages start at the initial weights.

    Args:
      key: of the initial weights.
      trained: the trained modules by name, as flowjax.training.networks.Networks has them.
      shape: of one row of data.
      optimizer: an optax transformation.
      has_target: whether the method needs a target network.
      decays: names of the evaluation averages.
    """
    params = {}
    for name, module in trained.items():
        inputs = (1.0, 0.0) if name == "log_variance" else (jnp.zeros((1, *shape)), 1.0, 0.0, {})
        # V has the key itself, so that its weights do not depend on what else is trained.
        own_key = key if name == "V" else jax.random.fold_in(key, list(trained).index(name))
        params[name] = module.init(own_key, *inputs)["params"]
    copy = lambda: jax.tree.map(jnp.copy, params["V"])
    return State(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        target=copy() if has_target else None,
        averages={decay: copy() for decay in decays},
    )


def make_optimizer(config, steps):
    """An optax optimizer from `config.optim`: clipping, then the optimizer by name with its own keyword arguments.

    Args:
      config: `name` (of optax or optax.contrib), `learning_rate`, `schedule` ("constant", "cosine" or "linear"),
        `warmup_steps`, `clip_norm` (0: none), `kwargs`.
      steps: length of the training, over which a falling schedule falls to 0.

    Returns:
      (optimizer, schedule): an optax transformation, and `step -> learning rate`.

    Raises:
      InputError: for an unknown optimizer, schedule or keyword.
    """
    schedule = _schedule(config, steps)
    factories = {name: f for module in (optax.contrib, optax) for name, f in vars(module).items() if _is_optimizer(name, f)}
    checks.member("optimizer (any of optax or optax.contrib works)", config.name, factories, listed=False)
    factory, kwargs = factories[config.name], dict(config.kwargs)
    known = [name for name in inspect.signature(factory).parameters if name != "learning_rate"]
    for name in kwargs:
        checks.member(f"argument of optimizer {config.name!r} (--config.optim.kwargs={{}} clears them)", name, known)
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    try:
        return optax.chain(clip, factory(learning_rate=schedule, **kwargs)), schedule
    except (TypeError, ValueError) as error:
        raise typing.InputError(f"optimizer {config.name!r} cannot be made with {kwargs}: {error}.") from error


def _is_optimizer(name, factory):
    return not name.startswith("_") and inspect.isfunction(factory) and "learning_rate" in inspect.signature(factory).parameters


def _schedule(config, steps):
    peak, warmup = config.learning_rate, config.warmup_steps
    if not peak > 0 or not 0 <= warmup < max(steps, 1):
        raise typing.InputError(
            f"optim.learning_rate is {peak} and optim.warmup_steps {warmup}; the rate must be above 0, the warm-up shorter than"
            f" the {steps} steps."
        )
    falls = {
        "constant": lambda: optax.constant_schedule(peak),
        "cosine": lambda: optax.cosine_decay_schedule(peak, steps - warmup),
        "linear": lambda: optax.linear_schedule(peak, 0.0, steps - warmup),
    }
    checks.member("optim.schedule", config.schedule, falls)
    if not warmup:
        return falls[config.schedule]()
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), falls[config.schedule]()], [warmup])
