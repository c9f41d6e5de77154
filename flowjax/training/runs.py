"""From a config to everything that training needs, with every check that can be made before anything is written."""

import importlib
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from flowjax import data, guidance, methods, models, samplers, typing
from flowjax.training import checkpoint, evaluation, hosts, initial_weights, networks, sharding, state, step, workdir as folders


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
      step_on: mesh -> the pure training step, `(state, batch, fixed)`; of all seeds together if there are several.
      binned: raw errors by time bin of the first seed, jitted, see flowjax.training.step.make_binned.
      schedule: step -> learning rate of V.
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
    step_on: Any
    binned: Any
    schedule: Any

    @property
    def step(self):
        """The pure training step on the mesh."""
        return self.step_on(self.mesh)

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
    _import_modules(config)
    _check_numbers(config)
    method, mesh = _method(config), sharding.make_mesh(config.mesh, devices)
    sharding.check_batch(mesh, config.batch_size, method, config.accumulate)
    for steps in config.eval_steps:
        samplers.check_sampler(config.sampler, steps)
    load_split = lambda split: data.load(config.data.name, split=split, data_dir=config.data.dir or None)
    with hosts.lead_first("the dataset is prepared"):
        source = data.couple(load_split("train"), config.data.coupling)
        held_out = load_split("test") if config.eval_every else None
    _check_labels(config, source.num_classes)
    data.check(source, batch_size=config.batch_size, seed=config.seed, flip=config.data.flip, processes=jax.process_count())
    evaluation.check_best(config, source.shape)
    _check_method(config)
    net = _network(config, source.num_classes)
    load_run = lambda folder, flag: _other_run(folder, flag, config.data.name, source.shape, source.num_classes)
    modules = networks.make(config, method, net, load_run)
    start = initial_weights.weights(config, load_run, _inputs)
    optimizers, init = _optimized(config, method, modules.trained, source.shape)

    rules, lead = models.SHARDING[config.model.name], int(config.seeds > 1)
    options = {"key": _keys(config)[1], "rules": rules, "accumulate": config.accumulate}
    step_on = lambda mesh: step.make_step(method, modules, optimizers, mesh, **options)
    binned = step.make_binned(method, modules, _keys(config)[1], config.seeds)
    whole, rows = sharding.whole(mesh), sharding.rows(mesh, config.seeds)
    row = data.arrays(source, limit=1) | ({"eps": np.zeros((1, *source.shape), np.float32)} if source.coupling else {})
    leading = (config.seeds, config.batch_size)[config.seeds == 1 :]
    batch = {
        name: jax.ShapeDtypeStruct((*leading, *value.shape[1:]), value.dtype, sharding=rows) for name, value in row.items()
    }
    like = sharding.placed(_traced(config, init, start), rules, mesh, lead)
    _traced(config, step_on(mesh), like, batch, modules.fixed)
    _traced(config, checkpoint.fingerprint, like)
    # Slices from the start: no device ever holds the whole state.
    begin = jax.jit(init, out_shardings=sharding.places(like))
    slices = sharding.places(sharding.placed(start, rules, mesh))
    start = jax.device_get(start)
    # By way of the host: they were read onto one device of this process.
    modules = modules._replace(fixed=jax.device_put(jax.device_get(modules.fixed), whole))
    return Experiment(
        config,
        source,
        held_out,
        method,
        modules,
        mesh,
        lambda: begin(jax.device_put(start, slices)),
        like,
        batch,
        step_on,
        jax.jit(binned, out_shardings=whole),
        optimizers["V"].schedule,
    )


def _import_modules(config):
    """Imports what registers methods of one's own; raises InputError for a module that is not found."""
    for name in config.get("modules", ()):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise typing.InputError(
                f"config.modules names {name!r}, and {error.name!r} is not found; put the folder that holds it on PYTHONPATH."
            ) from error


def _check_method(config):
    """Raises InputError for a coupling that a method does not read."""
    if config.data.coupling and methods.METHODS[config.method.name].jumps == "from noise":
        raise typing.InputError(
            f"config.data.coupling is {config.data.coupling!r}, and {config.method.name!r} learns from noise alone:"
            " --config.data.coupling= clears it."
        )


def _method(config):
    method = methods.make(**_plain(config.method))
    if config.model.get("dropout", 0.0):
        method = methods.with_dropout(method)
    if not config.guidance.kind:
        for name, idle in guidance.FIELDS.items():
            if config.guidance.get(name, idle) != idle:
                raise typing.InputError(
                    f"config.guidance.{name} is {config.guidance[name]!r}, and config.guidance.kind is ''; expected a kind:"
                    f" --config.guidance.kind={' or '.join(guidance.KINDS)}."
                )
        return method
    guidance.check(config.guidance)
    kind, scale = config.guidance.kind, config.guidance.scale
    if kind in guidance.TEACHERS:
        return guidance.drawing(method, kind, scale)
    constants = {name: config.guidance[name] for name in guidance.TARGETS[kind].constants}
    return methods.guided(config.method.name, method, kind, scale=scale, **constants)


def _check_labels(config, num_classes):
    """Raises InputError where guidance asks for the velocity without a label, and the network does not learn it."""
    kind = config.guidance.kind
    if kind not in guidance.TARGETS:
        return
    if not num_classes:
        raise typing.InputError(
            f"config.guidance.kind is {kind!r}, and {config.data.name} has no labels, so that there is nothing to guide towards:"
            " --config.guidance.kind= clears it."
        )
    if not config.method.get("label_drop", 0.0):
        raise typing.InputError(
            f"config.guidance.kind is {kind!r}, and config.method.label_drop is 0: the network would not learn the velocity without a"
            " label, away from which it is guided; --config.method.label_drop=0.1."
        )


def _inputs(config):
    """Which parts of cond the network takes besides the label, as fields of its module."""
    low, high = config.guidance.scale
    target = guidance.TARGETS.get(config.guidance.kind)
    interval = target is not None and target.told_interval
    return {"guidance": low < high or interval, "interval": interval}  # outside its interval such a network must know w = 1


def _network(config, num_classes):
    return models.make(num_classes=num_classes, **(_plain(config.model) | _inputs(config)))


def _keys(config):
    """Keys of the initial weights and of all draws; [seeds] of each if there are several."""
    if config.seeds == 1:
        return jax.random.split(jax.random.key(config.seed))
    return jax.vmap(lambda seed: jax.random.split(jax.random.key(seed)), out_axes=1)(config.seed + np.arange(config.seeds))


def _optimized(config, method, trained, shape):
    """(optimizers, init): what the shape of the state depends on; `init` takes the weights to start from."""
    decays, optimizers = [str(decay) for decay in config.ema], {}
    for name in trained:
        own = {} if name == "V" else _plain(config.auxiliary[name])
        optimizers[name] = state.make_optimizer(
            ml_collections.ConfigDict({**_plain(config.optim), **own}),
            config.steps,
            part="optim" if name == "V" else f"auxiliary.{name}",
        )

    def one(key, start):
        return state.init(
            key,
            trained,
            shape,
            optimizers,
            has_target="ema" in method.needs,
            decays=decays,
            start=start,
            heads=networks.heads(method),
        )

    side_by_side = one if config.seeds == 1 else jax.vmap(one, in_axes=(0, None), out_axes=state.SEEDS)
    return optimizers, lambda start=None: side_by_side(_keys(config)[0], start)


def _other_run(folder, flag, data_name, shape, num_classes):
    """The trained run in a folder; raises InputError if it learned other data than the run that asks for it."""
    run = load(folder, flag=flag)
    if run.shape != tuple(shape) or run.num_classes != num_classes:
        raise typing.InputError(
            f"{flag}={folder} was trained on rows of shape {run.shape} with {run.num_classes} classes; {data_name} has"
            f" {tuple(shape)} with {num_classes}. It must know the student's data."
        )
    if flag != "--config.start" and any(_inputs(run.config).values()):
        raise typing.InputError(
            f"{flag}={folder} is itself guided and must be told {' and '.join(name for name, told in _inputs(run.config).items() if told)};"
            " give a run without config.guidance, or with a fixed scale and not of the kind imf."
        )
    return run


def weights(config, state_, average, seed=0):
    """The weights to sample with: an evaluation average by its decay, or "none" for the raw ones; raises InputError.

    Args:
      config: of the run.
      state_: its State.
      average: the decay.
      seed: which of the seeds that were trained side by side, from 0.
    """
    if not 0 <= seed < config.seeds:
        raise typing.InputError(f"the run has {config.seeds} seed(s), counted from 0; there is no {seed}.")
    if average in (None, "", "none"):
        found = state_.params["V"]
    elif str(average) in state_.averages:
        found = state_.averages[str(average)]
    else:
        raise typing.InputError(f"no average with decay {average}; the run has {', '.join(state_.averages)} and none.")
    return found if config.seeds == 1 else jax.tree.map(lambda leaf: leaf[seed], found)


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

    def told(self, scale=None, interval=()):
        """What the network is told of the guidance when it is sampled, see `told`."""
        return told(self.config, scale, interval, self.num_classes)


def told(config, scale=None, interval=(), num_classes=1):
    """What the network of a run is told of the guidance when it is sampled; {} of a run without guidance.

    Args:
      config: of the run.
      scale: that is asked for; None: the median of the scales that it learned.
      interval: times (low, high) between which to guide; (): those that it learned, or the widest of them.
      num_classes: labels of its data, for the errors.

    Returns:
      {"guidance": scale} and, of a network that is told an interval, {"interval": (low, high)} besides.

    Raises:
      InputError: if it was asked for a scale or an interval that it did not learn; the sentence says which it knows.
    """
    known = config.guidance
    if not known.kind:
        why = "the run learned without guidance, which is the scale 1"
        why += "" if num_classes else f", and {config.data.name} has no labels"
        for flag, asked in (("--guidance", scale), ("--guidance_interval", interval)):
            if asked not in (None, ()):
                raise typing.InputError(f"{flag}={_shown(asked)}: {why}; leave the flag out.")
        return {}
    low, high = known.scale
    if scale is not None and not low <= scale <= high:
        learned = f"scales from {low} to {high}" if low < high else f"the scale {low} alone"
        raise typing.InputError(f"--guidance={scale}: the run learned {learned}.")
    found = {"guidance": guidance.quantile(known.kind, 0.5, low, high) if scale is None else scale}
    if not _inputs(config)["interval"]:
        if interval and tuple(interval) != tuple(known.interval):
            raise typing.InputError(
                f"--guidance_interval={_shown(interval)}: the run is guided at the times from {known.interval[0]} to {known.interval[1]}"
                " alone; leave the flag out."
            )
        return found
    low, high = interval or (0.0, 1.0)
    if not 0 <= low <= 0.5 <= high <= 1 or low == high:
        raise typing.InputError(
            f"--guidance_interval={_shown(interval)}: the run learned intervals that begin between 0 and 0.5 and end between 0.5 and 1,"
            " e.g. 0.1,0.8."
        )
    return {**found, "interval": (low, high)}


def _shown(asked):
    return ",".join(map(str, asked)) if isinstance(asked, tuple) else asked


def load(workdir, average="", flag="--workdir", seed=0, step=""):
    """The network of a checkpoint of a run; needs neither the data nor the devices of the training.

    Args:
      workdir: the folder of a run.
      average: decay of the average to sample with, "none" for the raw weights, "" for the run's first average.
      flag: what the folder was given as, for the errors.
      seed: which of the seeds that were trained side by side, from 0.
      step: of the checkpoint, or "best", by config.best; "": the newest that is readable.

    Raises:
      InputError: if the folder holds no run, no readable checkpoint, no such checkpoint or no such average.
    """
    config = folders.load_config(workdir, flag)
    for field, has in (("guidance.k", "k" in config.get("guidance", {})), ("mesh", "mesh" in config)):
        if not has:  # before the first, a DiT's positions were in another order; before the second, the state held less
            raise typing.InputError(
                f"{flag}={workdir} is a run of an earlier flowjax, whose config lacks {field!r}; train it again."
            )
    _import_modules(config)
    shape, num_classes = folders.load_data_facts(workdir)
    method, net = _method(config), _network(config, num_classes)
    _, init = _optimized(config, method, networks.trained(method, net), shape)
    mesh = sharding.make_mesh({"data": 1, "fsdp": -1})  # a run that was trained in slices may not fit one device
    like = sharding.placed(jax.eval_shape(init), models.SHARDING[config.model.name], mesh, int(config.seeds > 1))
    with checkpoint.Checkpoints(workdir, read_only=True) as checkpoints:
        found = checkpoints.restore(like, _asked(checkpoints, step, config, f"{flag}={workdir}"))
    if found is None:
        raise typing.InputError(f"{flag}={workdir} holds no checkpoint yet; train until the first is saved.")
    params = sharding.replicated(mesh, weights(config, found[0], average or default_average(config), seed))
    params = jax.device_put(jax.device_get(params), jax.local_devices()[0])
    return Trained(config, shape, num_classes, net, params, found[1])


def _asked(checkpoints, step, config, where):
    """The step that was asked for, None for the newest; raises InputError if it is not there."""
    steps = checkpoints.steps()
    if not step or not steps:
        return None
    if step == "best" and checkpoints.best() is not None:
        return checkpoints.best()
    if step.isdigit() and int(step) in steps:
        return int(step)
    why = f"config.best is {config.best!r}, and nothing was measured by it" if step == "best" else "it is not there"
    raise typing.InputError(
        f"--checkpoint={step}: {where} has the checkpoints {', '.join(map(str, steps))}; {why}. Leave the flag out for the newest."
    )


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
        "accumulate": 1,
        "max_nonfinite_steps": 0,
        "eval_samples": 8,
        "seed": 0,
        "seeds": 1,
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
