"""From a config to everything that training needs, with every check that can be made before anything is written."""

import contextlib
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from flowjax import conditioning, data, models, typing
from flowjax.models import attention
from flowjax.training import (
    checkpoint,
    config_checks,
    dealing,
    hosts,
    initial_weights,
    loading,
    networks,
    parts,
    phases,
    room,
    run_checks,
    settings,
    sharding,
    state,
    step,
    teachers,
)


class Run(NamedTuple):
    """What a config stands for.

    Attributes:
      settings: flowjax.training.settings.Settings.
      source: training rows.
      held_out: rows for the evaluations during training; None if there are none.
      method: a flowjax.typing.Method.
      networks: the modules of the method, and the weights that are not trained, on the mesh.
      mesh: the devices.
      init: `() -> State`, jitted, placed on the mesh.
      like: the state as ShapeDtypeStructs with shardings, for restoring and compiling.
      batch_like: a global batch likewise.
      step_on: mesh -> the pure training step, `(state, batch, fixed)`; of all seeds together if there are several. With
        `remat=False` blocks recompute nothing, as the FLOPs of a model are counted.
      traced: {phase: the step on the mesh, traced and ready to be lowered}, for each distinct phase of the cycle; {} of a sketch.
      attention: which attention the traced steps take where the config leaves it open ("auto"), and why.
      binned: raw errors by time bin of the first seed, jitted, see flowjax.training.step.make_binned.
      cycle: which terms are computed and which networks move in each step, a flowjax.training.phases.Cycle.
      schedule: steps done -> learning rate of V.
    """

    settings: settings.Settings
    source: data.Source
    held_out: data.Source | None
    method: typing.Method
    networks: networks.Networks
    mesh: jax.sharding.Mesh
    init: Callable
    like: state.State
    batch_like: dict
    step_on: Callable
    traced: dict
    attention: tuple[str, ...]
    binned: Callable
    cycle: phases.Cycle
    schedule: Callable

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


class Facts:
    """What must be made or loaded before settings can be judged; each when it is first read, then kept.

    Args:
      settings: flowjax.training.settings.Settings.
      devices: of the mesh; None: all.
    """

    traces_step = True  # before anything is written; whoever looks at a sketch traces its step anyway

    def __init__(self, settings, devices=None):
        self._settings, self._devices = settings, devices

    @functools.cached_property
    def mesh(self):
        """The devices."""
        return sharding.make_mesh(self._settings.mesh, self._devices)

    @functools.cached_property
    def method(self):
        """The flowjax.typing.Method."""
        dropout = self._settings.model.fields.get("dropout", 0.0)
        return parts.method(self._settings.method, self._settings.guidance, dropout, self._settings.adversary)

    @functools.cached_property
    def sources(self):
        """(training rows, held-out rows or None); process 0 prepares the dataset first."""
        section, evaluated = self._settings.data, self._settings.evaluation.every
        with hosts.main_first("the dataset is prepared"):
            training = data.prepared(data.of_section(section, "train"), **section.preparation)
            training = data.even(training) if section.even else training
            return training, data.of_section(section, "test") if evaluated else None

    @property
    def source(self):
        """Training rows."""
        return self.sources[0]

    @functools.cached_property
    def net(self):
        """The linen network of V."""
        return parts.network(self._settings.model, self._settings.guidance, self.source.num_classes)

    @functools.cached_property
    def teacher(self):
        """The Trained of config.teacher; None for the closed-form velocity, or no teacher."""
        folder = self._settings.teacher
        return None if folder in ("", teachers.EXACT) else loading.load(folder, flag="--config.teacher")

    @functools.cached_property
    def weak(self):
        """The Trained of config.guidance.weak, or None."""
        folder = self._settings.guidance.weak
        return loading.load(folder, flag="--config.guidance.weak") if folder else None

    @functools.cached_property
    def start(self):
        """The Trained of config.start; None if it is no run."""
        folder = self._settings.start
        if folder == "teacher":
            return self.teacher
        return None if not folder or initial_weights.is_published(folder) else loading.load(folder, flag="--config.start")

    def placed(self, weights, rules, mesh):
        """Weights of a teacher, in slices; by way of the host: they were read onto one device of this process."""
        return jax.device_put(jax.device_get(weights), sharding.places(sharding.placed(weights, rules, mesh)))


class Unread(Facts):
    """The same without data, and without weights on the devices, which may be compiled for without being there."""

    @functools.cached_property
    def sources(self):
        """The declared shapes of the data, see flowjax.data.declared; no held-out rows."""
        section = self._settings.data
        source = data.declared(section.name)
        return data.prepared(source if section.labels else data.unlabelled(source), **section.preparation), None

    def placed(self, weights, rules, mesh):
        """Shapes of weights, in slices."""
        return sharding.placed(weights, rules, mesh)


class Sketch(Unread):
    """The same without data, other runs or devices: for shapes alone.

    The mesh has so many devices that do not exist, and a teacher is taken to be a network like the student's.
    """

    traces_step = False

    def _like_the_student(self):
        """A trained run of shapes alone, as config.teacher could name it."""
        chosen, none = self._settings, type(self._settings.guidance)()
        learns = "psd" if "teacher_map" in self.method.needs else "flow_matching"
        method = chosen.method._replace(name=learns, constants={"path": chosen.method.path, "label_drop": 0.1})
        net = parts.network(chosen.model, none, self.source.num_classes)
        params = jax.eval_shape(net.init, jax.random.key(0), np.zeros((1, *self.source.shape), np.float32), 1.0, 0.0, {})[
            "params"
        ]
        chosen = chosen._replace(method=method, guidance=none)
        return loading.Trained(chosen, self.source.shape, self.source.num_classes, net, params, 0)

    @functools.cached_property
    def teacher(self):
        """In the place of config.teacher."""
        return self._like_the_student() if self._settings.teacher not in ("", teachers.EXACT) else None

    @functools.cached_property
    def weak(self):
        """In the place of config.guidance.weak."""
        return self._like_the_student() if self._settings.guidance.weak else None

    @functools.cached_property
    def mesh(self):
        """Devices that do not exist."""
        return sharding.abstract_mesh(self._settings.mesh, self._devices)


def setup(config, devices=None, *, read_data=True):
    """Builds a Run.

    Args:
      config: an ml_collections config with the fields of configs/common.py.
      devices: of the mesh; None: all.
      read_data: False for a step that is compiled and not run: the shapes of the data are then those that it declares.

    Raises:
      InputError: for whatever in the config cannot work, before anything is compiled or written.
    """
    chosen = settings.read(config)
    parts.import_modules(chosen.modules)
    return _made(chosen, (Facts if read_data else Unread)(chosen, devices))


def sketch(config, devices=1):
    """A Run by shapes alone: its step can be traced, and neither data, nor a teacher, nor so many devices need exist.

    Args:
      config: as of `setup`.
      devices: how many.

    Raises:
      InputError: as `setup` does, but for what it does not look at: data, config.start and the runs of teachers.
    """
    chosen = settings.read(config)
    parts.import_modules(chosen.modules)
    chosen = chosen._replace(start="", evaluation=chosen.evaluation._replace(best=""))
    return _made(chosen, Sketch(chosen, devices))


def _made(chosen, facts):
    """The Run of settings."""
    config_checks.check(chosen, facts)
    method, source, seeds = facts.method, facts.source, chosen.seeds
    (key, draw_key), rules = parts.keys(chosen.seed, seeds), models.slicing(chosen.model.name)

    taught = bool(run_checks.teacher_needs(method))
    teacher = teachers.make(facts.teacher, facts.weak, chosen.guidance, chosen.data.name) if taught else None
    modules = networks.make(method, facts.net, source.shape, teacher, chosen.adapter.scale)
    cycle = parts.cycle(method, chosen.optim, chosen.auxiliary)
    optimizers = parts.optimizers(cycle, chosen.optim, chosen.auxiliary, chosen.steps)
    start = initial_weights.weights(chosen.start, facts.start, chosen.model, modules.heads)
    init = lambda key, start: state.init(
        key,
        modules,
        source.shape,
        optimizers,
        has_target="ema" in method.needs,
        decays=[str(decay) for decay in chosen.evaluation.averages],
        start=start,
        memory=method.memory,
        adapter=chosen.adapter if chosen.adapter.rank else None,
    )
    if seeds > 1:
        init = jax.vmap(init, in_axes=(0, None), out_axes=state.SEEDS)

    def step_on(mesh, remat=True):
        counted = modules if remat else networks.without_remat(modules)
        how = {"rules": rules, "accumulate": chosen.accumulate, "communication": chosen.communication}
        return step.make_step(method, counted, optimizers, mesh, draw_key, **how)

    with mistakes(chosen):
        shapes = jax.eval_shape(init, key, start)
    mesh, like = _placed(shapes, rules, chosen, facts)
    batch_like = _batch_like(source, mesh, chosen.batch_size, seeds)
    modules = modules._replace(teacher=modules.teacher._replace(weights=facts.placed(modules.fixed, rules, mesh)))
    traced = {}
    attention.TAKEN.clear()
    if facts.traces_step:
        with mistakes(chosen):
            traced = _traced(step_on(mesh), mesh, cycle, like, batch_like, modules.fixed)
            jax.eval_shape(checkpoint.fingerprint, like)
    binned = step.make_binned(method, modules, draw_key, seeds)
    return Run(
        settings=chosen,
        source=source,
        held_out=facts.sources[1],
        method=method,
        networks=modules,
        mesh=mesh,
        init=_sliced(init, key, start, like, rules, mesh),
        like=like,
        batch_like=batch_like,
        step_on=step_on,
        traced=traced,
        attention=tuple(attention.TAKEN),
        binned=jax.jit(binned, out_shardings=sharding.whole(mesh)),
        cycle=cycle,
        schedule=lambda steps: optimizers["V"].schedule(cycle.updates("V", steps)),
    )


def _placed(shapes, rules, chosen, facts):
    """(mesh, State of shapes with shardings): on the mesh of the config, or of the same devices if it leaves that to their memory."""
    several, mesh = int(chosen.seeds > 1), facts.mesh
    if room.chooses(chosen.mesh):
        mesh = room.fitting_mesh(shapes, rules, mesh, several)
        dealing.check(mesh, chosen.batch_size, facts.method, chosen.accumulate)
    like = sharding.placed(shapes, rules, mesh, several)
    sharding.check_sliced((like.params, like.base), rules, mesh, several)
    return mesh, like


def _traced(step, mesh, cycle, like, batch_like, fixed):
    """{phase: the step traced}: checked before anything is written and compiled later, so that no step is traced twice.

    The first argument, the state, is donated.
    """
    out = (sharding.places(like), sharding.whole(mesh))
    jitted = jax.jit(step, static_argnames="phase", donate_argnums=0, out_shardings=out)
    return {phase: jitted.trace(like, batch_like, fixed, phase=phase) for phase in cycle.distinct()}


def _batch_like(source, mesh, batch_size, seeds):
    """Shapes, dtypes and shardings of a global batch; of several seeds, with their axis first."""
    row = data.arrays(source, limit=1) | ({"eps": np.zeros((1, *source.shape), np.float32)} if source.coupling else {})
    if source.augment is not None:
        row["augmentation"] = np.zeros((1, *conditioning.INPUTS["augmentation"].shape), np.float32)
    leading, rows = (batch_size,) if seeds == 1 else (seeds, batch_size), sharding.rows(mesh, seeds)
    like = lambda value: jax.ShapeDtypeStruct((*leading, *value.shape[1:]), value.dtype, sharding=rows)
    return {name: like(value) for name, value in row.items()}


def _sliced(init, key, start, like, rules, mesh):
    """`() -> State` on the mesh, in slices from the beginning: no device ever holds the whole state."""
    begin = jax.jit(lambda start: init(key, start), out_shardings=sharding.places(like))
    slices = sharding.places(sharding.placed(start, rules, mesh))
    start = jax.device_get(start)
    return lambda: begin(jax.device_put(start, slices))


@contextlib.contextmanager
def mistakes(chosen):
    """What cannot be traced within is a mistake in the settings, an InputError."""
    try:
        yield
    except (TypeError, ValueError, ZeroDivisionError, AttributeError) as error:
        if isinstance(error, typing.InputError):
            raise
        why = str(error).splitlines()[0] if str(error) else ""
        raise typing.InputError(
            f"config.model {chosen.model.name} {chosen.model.fields} and config.optim {chosen.optim.name}, on {chosen.data.name}, do"
            f" not make a training step: {type(error).__name__}: {why.rstrip('.')}."
        ) from error
