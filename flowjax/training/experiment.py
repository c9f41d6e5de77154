"""From a config to everything that training needs, with every check that can be made before anything is written."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax import checks, data, methods, models, samplers, typing
from flowjax.training import checkpoint, networks, sharding, state, step, workdir as folders


class Experiment(NamedTuple):
    """What a config stands for.

    Attributes:
      config: an ml_collections config.
      source: training rows.
      held_out: rows for the evaluations during training; None if there are none.
      method: a flowjax.typing.Method.
      networks: the modules of the method, and the weights that are not trained, on the mesh.
      mesh: the devices.
      init: `() -> State`, jitted, placed on the mesh.
      like: the state as ShapeDtypeStructs with shardings, for restoring and compiling.
      batch_like: a global batch likewise.
      step: the pure training step, `(state, batch, fixed)`.
      schedule: step -> learning rate.
    """

    config: Any
    source: data.Source
    held_out: data.Source | None
    method: typing.Method
    networks: networks.Networks
    mesh: jax.sharding.Mesh
    init: Any
    like: state.State
    batch_like: dict
    step: Any
    schedule: Any

    @property
    def net(self):
        """The linen network of the average velocity."""
        return self.networks.trained["V"]

    @property
    def fixed(self):
        """The teacher's weights on the mesh, for the step; () if there are none."""
        return self.networks.fixed


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
    load_split = lambda split: data.load(config.data.name, split=split, data_dir=config.data.dir or None)
    source = load_split("train")
    held_out = load_split("test") if config.eval_every else None
    data.check(source, batch_size=config.batch_size, seed=config.seed, flip=config.data.flip)
    net = _network(config, source.num_classes)
    load_teacher = lambda folder: _teacher(folder, config.data.name, source.shape, source.num_classes)
    modules = networks.make(method, net, config.teacher, config.data.name, load_teacher)
    optimizer, schedule, init = _optimized(config, method, modules, source.shape)

    pure_step = step.make_step(method, modules, optimizer, mesh, jax.random.split(jax.random.key(config.seed))[1])
    batch = {"x": jax.ShapeDtypeStruct((config.batch_size, *source.shape), jnp.float32)}
    if source.coupled:
        batch["eps"] = batch["x"]
    if source.num_classes:
        batch["label"] = jax.ShapeDtypeStruct((config.batch_size,), jnp.int32)
    batch = _like(batch, sharding.rows(mesh))
    like = _like(_traced(config, init), sharding.whole(mesh))
    _traced(config, pure_step, like, batch, modules.fixed)
    _traced(config, checkpoint.fingerprint, like)
    placed = jax.jit(init, out_shardings=sharding.whole(mesh))
    modules = modules._replace(fixed=jax.device_put(modules.fixed, sharding.whole(mesh)))
    return Experiment(config, source, held_out, method, modules, mesh, placed, like, batch, pure_step, schedule)


def _network(config, num_classes):
    return models.make(num_classes=num_classes, **_plain(config.model))


def _optimized(config, method, modules, shape):
    """(optimizer, schedule, init): what the shape of the state depends on."""
    optimizer, schedule = state.make_optimizer(config.optim, config.steps)
    key, decays = jax.random.split(jax.random.key(config.seed))[0], [str(decay) for decay in config.ema]

    def init():
        return state.init(key, modules.trained, shape, optimizer, has_target="ema" in method.needs, decays=decays)

    return optimizer, schedule, init


def _teacher(folder, data_name, shape, num_classes):
    """The trained run in a folder, as a teacher of other data facts; raises InputError if it learned other data."""
    run = load(folder, flag="--config.teacher")
    if run.shape != tuple(shape) or run.num_classes != num_classes:
        raise typing.InputError(
            f"--config.teacher={folder} was trained on rows of shape {run.shape} with {run.num_classes} classes; {data_name} has"
            f" {tuple(shape)} with {num_classes}. A teacher must know the student's data."
        )
    return run


def weights(state_, average):
    """The weights to sample with: an evaluation average by its decay, or "none" for the raw ones; raises InputError."""
    if average in (None, "", "none"):
        return state_.params["V"]
    if str(average) not in state_.averages:
        raise typing.InputError(f"no average with decay {average}; the run has {', '.join(state_.averages)} and none.")
    return state_.averages[str(average)]


def default_average(config):
    """The average that is evaluated: the first of config.ema, or "none"."""
    return str(config.ema[0]) if config.ema else "none"


class Trained(NamedTuple):
    """A trained network, as sampling needs it: config, shape of a row and number of classes, network, weights, steps done."""

    config: Any
    shape: tuple[int, ...]
    num_classes: int
    net: Any
    params: Any
    step: int


def load(workdir, average="", flag="--workdir"):
    """The network of the newest readable checkpoint of a run; needs neither the data nor the devices of the training.

    Args:
      workdir: the folder of a run.
      average: decay of the average to sample with, "none" for the raw weights, "" for the run's first average.
      flag: what the folder was given as, for the errors.

    Raises:
      InputError: if the folder holds no run, no readable checkpoint or no such average.
    """
    config = folders.load_config(workdir, flag)
    shape, num_classes = folders.load_data_facts(workdir)
    method, net = methods.make(**_plain(config.method)), _network(config, num_classes)
    _, _, init = _optimized(config, method, networks.Networks(networks.trained(method, net)), shape)
    like = _like(jax.eval_shape(init), sharding.whole(sharding.data_mesh(jax.devices()[:1])))
    with checkpoint.Checkpoints(workdir, read_only=True) as checkpoints:
        found = checkpoints.restore(like)
    if found is None:
        raise typing.InputError(f"{flag}={workdir} holds no checkpoint yet; train until the first is saved.")
    return Trained(config, shape, num_classes, net, weights(found[0], average or default_average(config)), found[1])


def _like(shapes, placement):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placement), shapes)


def _traced(config, function, *args):
    """Shapes of the results of a function; what cannot be traced is a mistake in the config."""
    try:
        return jax.eval_shape(function, *args)
    except (TypeError, ValueError, ZeroDivisionError, AttributeError) as error:
        if isinstance(error, typing.InputError):
            raise
        raise typing.InputError(
            f"config.model {_plain(config.model)} and config.optim.name {config.optim.name!r} do not make a training step on"
            f" {config.data.name}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        ) from error


def _check_numbers(config):
    least = {
        "steps": 1,
        "batch_size": 1,
        "log_every": 1,
        "eval_every": 0,
        "save_every": 1,
        "keep": 1,
        "eval_samples": 8,
        "seed": 0,
    }
    for name, low in least.items():
        value = config[name]
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < low:
            raise typing.InputError(f"config.{name} is {value!r}; expected a whole number of at least {low}.")
    for decay in config.ema:
        if not isinstance(decay, float) or not 0 <= decay < 1:
            raise typing.InputError(f"config.ema holds {decay!r}; expected decays of at least 0 and below 1, e.g. (0.999,).")
    if not config.eval_steps or any(not isinstance(steps, int) or steps < 1 for steps in config.eval_steps):
        raise typing.InputError(
            f"config.eval_steps is {config.eval_steps!r}; expected numbers of steps of at least 1: (1, 2, 4)."
        )


def _plain(config):
    return dict(config.to_dict()) if hasattr(config, "to_dict") else dict(config)
