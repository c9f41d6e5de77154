"""A trained run as sampling needs it: its settings, its network and one tree of weights."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax import adapters, checks, conditioning, data, flowmap, methods, models, paths, posterior, times, typing
from flowjax.training import (
    checkpoint,
    config_checks,
    networks,
    parts,
    ranges,
    room,
    sampling,
    settings,
    sharding,
    workdir as folders,
)  # fmt: skip


class Trained(NamedTuple):
    """A trained network.

    Attributes:
      settings: flowjax.training.settings.Settings of the run.
      shape: of a row of its data.
      num_classes: labels of its data, 0 for none.
      net: the linen network of V.
      params: its weights.
      step: steps of training that they took.
      mesh: of the devices that hold the weights; None: one device alone.
    """

    settings: Any
    shape: tuple[int, ...]
    num_classes: int
    net: Any
    params: Any
    step: int
    mesh: Any = None

    def source(self, split="train"):
        """The rows of one split of its dataset, see flowjax.data.load."""
        return data.of_section(self.settings.data, split)

    def conditioning(self, guidance=None, interval=(), inputs=None):
        """The inputs of V besides the label, for one row: see flowjax.training.parts.sampling_inputs, and those of config.model.inputs."""
        for name in inputs or {}:
            checks.member("input in config.model.inputs of the run", name, self.settings.model.inputs)
        about = "" if self.num_classes else f", and {self.settings.data.name} has no labels"
        chosen = self.settings
        return parts.sampling_inputs(chosen.guidance, chosen.evaluation, guidance, interval, about=about) | dict(inputs or {})

    def labels(self, n, classes=None):
        """The labels of n samples, int32 [n].

        Args:
          n: how many.
          classes: in turn, [k] or one of them, -1 for a sample without a class; None: all classes, or -1 of data without labels.

        Raises:
          InputError: for a class that the data does not have.
        """
        if classes is None:
            return np.resize(sampling.classes_to_sample(self.num_classes), n)
        classes = np.atleast_1d(np.asarray(classes, np.int32))
        sampling.classes_to_sample(self.num_classes, classes[classes != -1], self.settings.data.name)
        return np.resize(classes, n)

    @property
    def path(self):
        """The flowjax.paths.Path on which it was trained; its `space` is that of the data."""
        return paths.path_from_name(self.settings.method.path)

    def V(self, labels=None, guidance=None, interval=(), inputs=None):
        """The average velocity with its conditioning bound, a callable V(x, s, t), of data as the network sees them.

        That is (data - mean) / deviation of config.data: `settings.data.scaling` has `apply` and `undo`.

        Args:
          labels: classes [rows] of the rows of x, or one for all of them; -1 or None: without a class.
          guidance: scale, of a run that learned several; None: config.eval_guidance, or the median of them.
          interval: times (low, high) between which to guide, of a run that learned several; (): config.eval_interval, or the widest.
          inputs: values of one row for further inputs of the network, config.model.inputs: {"level": 0.3}; null values where absent.

        Raises:
          InputError: for a class that the data does not have, or a scale, an interval or an input that the run did not learn.

        Example:
          run = training.load("runs/digits")
          V = run.V(labels=3)
          x = eps - V(eps, 1.0, 0.0)          # one jump from noise to data
        """
        values = self.conditioning(guidance, interval, inputs)
        if labels is None:
            labels = -1
        elif not isinstance(labels, jax.core.Tracer):
            self.labels(1, labels)

        def V(x, s, t):
            rows = jnp.broadcast_to(jnp.asarray(labels, jnp.int32), x.shape[:1])
            return self.net.apply({"params": self.params}, x, s, t, conditioning.rows(rows, values))

        return V

    def draw(self, labels=None, guidance=None):
        """One-step posterior draws, `draw(x_c, c, eps) -> x0`, of data as the network sees them; see flowjax.posterior.

        Args:
          labels, guidance: as of `V`.

        Raises:
          InputError: for a run whose network has no observation among its inputs, and as `V`.

        Example:
          run = training.load("runs/meta_flow_map")
          x0 = run.draw(labels=3)(x_c, 0.6, eps)     # x_c = 0.4 data + 0.6 noise
        """
        if self._draws_velocities:
            transition = self.transition(labels, guidance)
            return lambda x_c, c, eps: transition(x_c, c, 0.0, eps)
        jump = self._jump_given(labels, guidance, conditioning.OBSERVATION)
        return lambda x_c, c, eps: jump(eps, x_c=x_c, c=c)

    def transition(self, labels=None, guidance=None):
        """One-step samples at lower noise levels, `transition(x_c, c, t, eps) -> x_t`, see flowjax.posterior.descent.

        Args:
          labels, guidance: as of `V`.

        Raises:
          InputError: for a run of another method than diamond_map or transition_matching, and as `V`.
        """
        if self._draws_velocities:
            jump = self._jump_given(labels, guidance, conditioning.OBSERVATION)
            return lambda x_c, c, t, eps: flowmap.move(x_c, jnp.asarray(c), t, jump(eps, x_c=x_c, c=c))
        jump = self._jump_given(labels, guidance, conditioning.TRANSITION)
        return lambda x_c, c, t, eps: posterior.carried(c, t) * x_c + jump(eps, x_c=x_c, c=c, c_to=t)

    @property
    def _draws_velocities(self):
        """Whether the stochastic map of the run leads to velocities of its observation."""
        return methods.info(self.settings.method.name).jumps == "transitions"

    def _jump_given(self, labels, guidance, inputs):
        """One jump from noise, `(eps, x_c=..., c=...)`, of a network with these inputs; a level may be one number for all rows."""
        missing = [name for name in inputs if name not in self.settings.model.inputs]
        if missing:
            raise typing.InputError(
                f"{self.settings.method.name} has no stochastic map: its network lacks the inputs {' and '.join(missing)}; expected a run of"
                f" {'meta_flow_map' if inputs == conditioning.OBSERVATION else 'diamond_map'}."
            )
        values, labels = self.conditioning(guidance), -1 if labels is None else labels

        def jump(eps, x_c, **levels):
            rows = jnp.broadcast_to(jnp.asarray(labels, jnp.int32), eps.shape[:1])
            given = {name: times.flatten(level, eps) for name, level in levels.items()}
            if not self._draws_velocities:  # at c = 1 an observation says nothing, and the network was shown zeros
                x_c = jnp.where(times.expand(given["c"] < 1, eps), x_c, 0.0).astype(eps.dtype)
            given["x_c"] = x_c
            cond = {**conditioning.rows(rows, values), **given}
            return flowmap.jump(lambda x, s, t: self.net.apply({"params": self.params}, x, s, t, cond), eps, 1.0, 0.0)

        return jump

    def sampler(self, name, grid, inputs):
        """The function of flowjax.training.sampling.make_sampler of the network, whose rows the devices of `mesh` share.

        Args:
          name, grid: of the sampler and its times, with options.
          inputs: what `conditioning` gives.
        """
        rules, scaling = models.slicing(self.settings.model.name), self.settings.data.scaling
        options = {"grid": grid, "path": self.settings.method.path, "scaling": scaling, "mesh": self.mesh, "rules": rules}
        return sampling.make_sampler(self.net, self.shape, name, inputs, **options)

    def sample(
        self, n, steps=1, labels=None, *, sampler="", grid="", seed=0, guidance=None, interval=(), inputs=None, **options
    ):  # fmt: skip
        """Samples, [n, *shape], in the range of the data; sample i depends on `seed`, its label and i alone.

        Args:
          n: how many.
          steps: of the sampler.
          labels: as of `labels`.
          sampler: name and options, see flowjax.samplers.sampler_from_name; "": that of the run's config.
          grid: name and options, or times, see flowjax.samplers.grid_from_name; "": that of the run's config.
          seed: of the noise.
          guidance, interval, inputs: as of `V`.
          **options: of the function of flowjax.training.sampling.make_sampler: first, x, inverted, progress; and `mesh`.

        Raises:
          InputError: for a class, sampler, grid, scale, interval or input that cannot work.
        """
        room.check_host(f"{n:,} samples in memory", 4 * n * math.prod(self.shape))
        labels, values = self.labels(n, labels), tuple(self.conditioning(guidance, interval, inputs).items())
        sampler, path = sampler or self.settings.evaluation.sampler, self.settings.method.path
        grid = grid or self.settings.evaluation.grid
        make = _sampler.__wrapped__ if inputs else _sampler  # arrays are no keys of a cache
        draw = make(self.net, self.shape, sampler, values, grid, path, self.settings.data.scaling, options.pop("mesh", None))
        return draw(self.params, seed, labels, steps, **options)


@functools.lru_cache(maxsize=16)
def _sampler(net, shape, sampler, inputs, grid, path, scaling, mesh):
    """The sampler of these arguments: made once, so that a second call with as many samples compiles nothing."""
    return sampling.make_sampler(net, shape, sampler, dict(inputs), grid=grid, path=path, scaling=scaling, mesh=mesh)


def weights(state, average, seeds, scale=1.0):
    """The weights of V that are evaluated: an average, or "none" for the raw ones; of several seeds, the first's.

    Factors are merged with the weights beside them, times `scale` of config.adapter.
    """
    trees = [state.params["V"] if average == "none" else state.averages[average], state.base]
    tree, base = trees if seeds == 1 else jax.tree.map(lambda leaf: leaf[0], trees)
    return tree if base is None else adapters.merged(base, tree, scale)


def load(workdir, average="", flag="--workdir", seed=0, step="", network="V", factors=False, devices=None):
    """The network of a checkpoint of a run; needs neither the data nor the devices of the training.

    Args:
      workdir: the folder of a run.
      average: name of the average to sample with, an entry of config.ema; "none" for the raw weights, "" for the run's first average.
      flag: what the folder was given as, for the errors.
      seed: which of the seeds that were trained side by side, from 0.
      step: of the checkpoint, or "best", by config.best; "": the newest that is readable.
      network: "V", or the name of a network that was trained along, which then is the V of what is returned, with its raw weights: the
        one average that it has is "".
      factors: of a run with config.adapter: `params` are the factors, apart from the weights beside which they were trained, for
        flowjax.adapters.merged; False: both merged.
      devices: of this process, among which to divide the weights where they fill more than half of one, see
        flowjax.training.room.sampling_mesh; None: the first.

    Raises:
      InputError: if there is no such network, if factors are wanted of a run that has none, the folder holds no run, no readable
        checkpoint, no such checkpoint or no such average, or if it is a run of modules that were not imported.
    """
    chosen = settings.read(folders.load_config(workdir, flag))
    ranges.check("modules", chosen.modules)
    parts.check_imported(chosen.modules, workdir, flag)
    config_checks.fields(chosen, None)
    shape, num_classes = folders.load_data_facts(workdir)
    net = parts.network(chosen.model, chosen.guidance, num_classes)
    item = _item(average or chosen.evaluation.average, chosen.evaluation.averages)
    along = {}
    if network != "V":
        along = methods.outline(chosen.method.name, **chosen.method.constants).networks
        checks.member("network of the run", network, ["V", *along])
        net, item = networks.module_of(network, along[network], net, shape), f"params.{network}"
    beside = ["base"] if chosen.adapter.rank and networks.like_V(along, network) else []
    if not 0 <= seed < chosen.seeds:
        raise typing.InputError(f"the run has {chosen.seeds} seed(s), counted from 0; there is no {seed}.")
    place = None if devices is None else _Place(models.slicing(chosen.model.name), devices, int(chosen.seeds > 1))
    with checkpoint.Checkpoints(workdir, read_only=True) as checkpoints:
        number = _step(checkpoints, step, chosen.evaluation.best, f"{flag}={workdir}")
        restored = checkpoints.restore_trees([*beside, item], number, place)
    if restored is None:
        raise typing.InputError(f"{flag}={workdir} holds no checkpoint yet; train until the first is saved.")
    if factors and not beside:
        raise typing.InputError(f"{flag}={workdir} has no factors: config.adapter.rank is 0 there; give a run with an adapter.")
    trees, number = restored
    if chosen.seeds > 1:
        trees = jax.tree.map(lambda leaf: leaf[seed], trees)
    params = adapters.merged(*trees, chosen.adapter.scale) if beside else trees[0]
    channels = {len(chosen.data.scaling.mean), len(chosen.data.scaling.deviation)}
    fits = channels <= {1, *shape[-1:]} and _expected(net, shape).items() <= _shapes(params).items()
    if not fits:  # there may be more weights, of further heads
        raise typing.InputError(
            f"{flag}={workdir}: the weights of checkpoint {number}, its config.json and its data.json do not fit together; restore what was changed."
        )
    return Trained(chosen, shape, num_classes, net, trees[-1] if factors else params, number, place and place.mesh)


class _Place:
    """From shapes and dtypes of weights to the same with shardings on one `mesh` for all of them, chosen for the first."""

    def __init__(self, rules, devices, leading):
        self._rules, self._devices, self._leading, self.mesh = rules, devices, leading, None

    def __call__(self, tree):
        self.mesh = self.mesh or room.sampling_mesh(tree, self._rules, self._devices, self._leading)
        return sharding.placed(tree, self._rules, self.mesh, self._leading)


@functools.lru_cache(maxsize=64)
def _expected(net, shape):
    """{name: shape} of the weights that a network has for rows of this shape; {} if it cannot be made without more inputs."""
    row = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    try:
        return _shapes(jax.eval_shape(lambda key, x: net.init(key, x, 1.0, 0.0, {}), jax.random.key(0), row)["params"])
    except typing.InputError:
        raise
    except Exception:
        if type(net).__module__.startswith("flowjax."):
            return {"rows of this shape": None}  # which no checkpoint has
        return {}  # a network of one's own raises what it likes, without its further inputs


def _shapes(tree):
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _item(average, averages):
    """The item of a checkpoint that holds the weights of V with an average, "none" for the raw ones."""
    known = [str(entry) for entry in averages]
    if average == "none":
        return "params.V"
    if str(average) not in known:
        raise typing.InputError(f"no average {average!r}; the run has {', '.join(known + ['none'])}.")
    return f"averages.{average}"


def _step(checkpoints, step, best, where):
    """The step of --checkpoint, None for the newest; raises InputError if there is none."""
    steps = checkpoints.steps()
    if not step or not steps:
        return None
    if step == "best" and checkpoints.best() is not None:
        return checkpoints.best()
    if step in map(str, steps):
        return int(step)
    why = f"config.best is {best!r}, and nothing was measured by it" if step == "best" else "it is not there"
    raise typing.InputError(
        f"--checkpoint={step}: {where} has the checkpoints {', '.join(map(str, steps))}; {why}. Leave the flag out for the newest."
    )
