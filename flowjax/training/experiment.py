"""From a config to everything that training needs, with every check that can be made before anything is written."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax import checks, data, methods, models, samplers, typing
from flowjax.training import checkpoint, sharding, state, step, workdir as folders


class Experiment(NamedTuple):
    """What a config stands for.

    Attributes:
      config: an ml_collections config.
      source: training rows.
      method: a flowjax.typing.Method.
      net: a linen network.
      mesh: the devices.
      init: `() -> State`, jitted, placed on the mesh.
      like: the state as ShapeDtypeStructs with shardings, for restoring and compiling.
      batch_like: a global batch likewise.
      step: the pure training step.
      schedule: step -> learning rate.
    """

    config: Any
    source: data.Source
    method: typing.Method
    net: Any
    mesh: jax.sharding.Mesh
    init: Any
    like: state.State
    batch_like: dict
    step: Any
    schedule: Any


def setup(config, devices=None):
    """Builds an Experiment.

    Args:
      config: with the fields of configs/common.py.
      devices: of the mesh; None: all.

    Raises:
      InputError: for whatever in the config cannot work, before anything is compiled or written.
    """
    _check_numbers(config)
    method = methods.make(**_plain(config.method))
    mesh = sharding.data_mesh(devices)
    sharding.check_batch(mesh, config.batch_size, method)
    checks.member("sampler", config.sampler, samplers.SAMPLERS)
    optimizer, schedule = state.make_optimizer(config.optim, config.steps)
    source = data.load(config.data.name, data_dir=config.data.dir or None)
    net = make_net(config, source)
    init_key, draw_key = jax.random.split(jax.random.key(config.seed))

    def init():
        return state.init(
            init_key, net, source.shape, optimizer, has_target="ema" in method.needs, decays=[str(d) for d in config.ema]
        )

    pure_step = step.make_step(method, net, optimizer, mesh, draw_key)
    like = _like(_checked_shapes(init, config), sharding.whole(mesh))
    batch = {"x": jax.ShapeDtypeStruct((config.batch_size, *source.shape), jnp.float32)}
    if source.num_classes:
        batch["label"] = jax.ShapeDtypeStruct((config.batch_size,), jnp.int32)
    batch = _like(batch, sharding.rows(mesh))
    jax.eval_shape(pure_step, like, batch)
    placed = jax.jit(init, out_shardings=sharding.whole(mesh))
    return Experiment(config, source, method, net, mesh, placed, like, batch, pure_step, schedule)


def make_net(config, source):
    """The network of a config for the rows of a source."""
    return models.make(num_classes=source.num_classes, **_plain(config.model))


def weights(state_, average):
    """The weights to sample with: an evaluation average by its decay, or "none" for the raw ones; raises InputError."""
    if average in (None, "", "none"):
        return state_.params
    if str(average) not in state_.averages:
        raise typing.InputError(f"no average with decay {average}; the run has {', '.join(state_.averages)} and none.")
    return state_.averages[str(average)]


def default_average(config):
    """The average that is evaluated: the first of config.ema, or "none"."""
    return str(config.ema[0]) if config.ema else "none"


class Trained(NamedTuple):
    """A trained network, as sampling and evaluation need it: config, training rows, network, weights, steps done."""

    config: Any
    source: data.Source
    net: Any
    params: Any
    step: int


def load(workdir, average=""):
    """The newest readable checkpoint of a run.

    Args:
      workdir: the folder of a run.
      average: decay of the average to sample with, "none" for the raw weights, "" for the run's first average.

    Raises:
      InputError: if the folder holds no run, no readable checkpoint or no such average.
    """
    config = folders.load_config(workdir)
    run = setup(config, devices=jax.devices()[:1])
    found = checkpoint.Checkpoints(workdir, read_only=True).restore(run.like)
    if found is None:
        raise typing.InputError(f"--workdir={workdir} holds no checkpoint yet; train until the first is saved.")
    return Trained(config, run.source, run.net, weights(found[0], average or default_average(config)), found[1])


def _like(shapes, placement):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placement), shapes)


def _checked_shapes(init, config):
    try:
        return jax.eval_shape(init)
    except (TypeError, ValueError) as error:
        if isinstance(error, typing.InputError):
            raise
        raise typing.InputError(f"config.model {_plain(config.model)} does not fit {config.data.name}: {error}") from error


def _check_numbers(config):
    least = {"steps": 1, "batch_size": 1, "log_every": 1, "eval_every": 0, "save_every": 1, "keep": 1, "eval_samples": 2}
    for name, low in least.items():
        value = config[name]
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < low:
            raise typing.InputError(f"config.{name} is {value!r}; expected a whole number of at least {low}.")
    for decay in config.ema:
        if not 0 <= float(decay) < 1:
            raise typing.InputError(f"config.ema holds {decay!r}; expected decays of at least 0 and below 1, e.g. (0.999,).")
    if not config.eval_steps or any(not isinstance(steps, int) or steps < 1 for steps in config.eval_steps):
        raise typing.InputError(
            f"config.eval_steps is {config.eval_steps!r}; expected numbers of steps of at least 1: (1, 2, 4)."
        )


def _plain(config):
    return dict(config.to_dict()) if hasattr(config, "to_dict") else dict(config)
