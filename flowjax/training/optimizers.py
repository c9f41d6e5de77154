"""Optimizers by name: any of optax, with a schedule, clipping and a period."""

import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from flowjax import checks, models, options, typing

# Schedules of the learning rate, with the options that each takes.
SCHEDULES = {"constant": {}, "cosine": {}, "linear": {}, "sqrt": {"steps": 35_000}}


class Optimizer(NamedTuple):
    """How one network is trained.

    Attributes:
      transform: an optax transformation.
      schedule: number of updates before this one -> learning rate.
      every: steps from one update to the next; in between the network rests.
      whole: whether it looks at whole matrices, those of `matrices`.
    """

    transform: optax.GradientTransformation
    schedule: Any
    every: int = 1
    whole: bool = False

    def update(self, gradient, state, weights, mesh):
        """(updates, new state) under jit; for one that looks at whole matrices each device of the mesh gets those of some blocks.

        Left to the compiler, every device gathers all matrices in each product of Muon's iteration.
        """
        if not self.whole or mesh.size == 1:
            return self.transform.update(gradient, state, weights)
        by_block = (_by_block(tree, mesh) for tree in (gradient, state, weights))
        updates, new = self.transform.update(*by_block)
        return _by_row(updates, gradient, mesh), _by_row(new, state, mesh)


def make(section, updates, part="optim"):
    """An optimizer: clipping, then the optimizer by name with its keyword arguments.

    Args:
      section: a flowjax.training.settings.Optim: `name` (of optax or optax.contrib), `learning_rate`, `schedule` ("constant",
        "cosine", "linear" or "sqrt:steps=35_000", see `inverse_square_root`), `warmup_steps` (updates), `clip_norm` (0: none),
        `every` and `kwargs`.
      updates: number of updates in the whole training, over which a falling schedule falls to 0.
      part: which part of the config the section is, for the errors.

    Returns:
      An Optimizer.

    Raises:
      InputError: for an unknown optimizer, schedule or keyword.
    """
    schedule = _schedule(section, max(updates, 1), part)
    factories = {name: f for module in (optax.contrib, optax) for name, f in vars(module).items() if _is_optimizer(name, f)}
    checks.member("optimizer (any of optax or optax.contrib works)", section.name, factories, listed=False)
    factory, kwargs = factories[section.name], dict(section.kwargs)
    if section.name == "muon":
        kwargs.setdefault("muon_weight_dimension_numbers", matrices)
    known = [name for name in inspect.signature(factory).parameters if name != "learning_rate"]
    for name in kwargs:
        checks.member(f"argument of optimizer {section.name!r} (config.{part}.kwargs = {{}} clears them)", name, known)
    clip = optax.clip_by_global_norm(section.clip_norm) if section.clip_norm else optax.identity()
    try:
        transform = optax.chain(clip, factory(learning_rate=schedule, **kwargs))
        return Optimizer(transform, schedule, section.every, section.name == "muon")
    except (TypeError, ValueError) as error:
        raise typing.InputError(f"optimizer {section.name!r} cannot be made with {kwargs}: {error}.") from error


def matrices(weights):
    """Which weights Muon orthogonalises, a tree of optax.contrib.MuonDimensionNumbers or None: matrices, and each of a stack of blocks.

    Blocks run in a scan, so that their matrices lie in arrays of three axes and their vectors in matrices, [depth, width].
    """

    dims = lambda leaf: optax.contrib.MuonDimensionNumbers(leaf.ndim - 2, leaf.ndim - 1)
    return jax.tree_util.tree_map_with_path(lambda path, leaf: dims(leaf) if _is_matrix(path, leaf) else None, weights)


def _is_matrix(path, leaf):
    return leaf.ndim == (3 if _in_blocks(path) else 2)


def _in_blocks(path):
    return models.slices.IN_BLOCKS.search(jax.tree_util.keystr(path, simple=True, separator="/"))


def _by_block(tree, mesh):
    """The stacks of matrices, [depth, rows, columns], divided over all devices by their first axis, after zeros that make it divide."""

    def of(path, leaf):
        if leaf.ndim != 3 or not _in_blocks(path):
            return leaf
        padded = jnp.pad(leaf, ((0, -len(leaf) % mesh.size), (0, 0), (0, 0)))
        return _placed(padded, mesh, 0)

    return jax.tree_util.tree_map_with_path(of, tree)


def _by_row(tree, like, mesh):
    """The stacks with the depth of those in `like`, divided by rows, or columns, where these divide."""

    def of(path, leaf, old):
        if leaf.ndim != 3 or not _in_blocks(path):
            return leaf
        leaf = _placed(leaf, mesh, 0)
        fitting = [axis for axis in (1, 2) if leaf.shape[axis] % mesh.size == 0]
        return (_placed(leaf, mesh, fitting[0]) if fitting else leaf)[: len(old)]

    return jax.tree_util.tree_map_with_path(of, tree, like)


def _placed(leaf, mesh, axis):
    """An array that all devices divide along an axis, in the order of slices."""
    spec = PartitionSpec(*[None] * axis, ("fsdp", "data"))
    return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, spec))


def inverse_square_root(peak, steps):
    """`updates before this one -> rate`: peak up to so many updates, then peak sqrt(steps / updates).

    Karras et al. 2024 (arXiv 2312.02696); sCM has it with 35,000 or 70,000 steps (arXiv 2410.11081, appendix), flow map
    self-distillation with 35,000 (arXiv 2505.18825, the authors' code).
    """
    return lambda updates: peak / jnp.sqrt(jnp.maximum(updates / steps, 1.0))


def _is_optimizer(name, factory):
    return not name.startswith("_") and inspect.isfunction(factory) and "learning_rate" in inspect.signature(factory).parameters


def _schedule(section, updates, part):
    peak, warmup = section.learning_rate, section.warmup_steps
    if not peak > 0 or not 0 <= warmup < updates:
        raise typing.InputError(
            f"config.{part}: learning_rate is {peak} and warmup_steps {warmup}; the rate must be above 0, the warm-up shorter than"
            f" the {updates} updates."
        )
    name, given = options.parse(f"config.{part}.schedule", section.schedule, SCHEDULES)
    steps = {**SCHEDULES[name], **given}.get("steps", 1)
    if not steps > 0:
        raise typing.InputError(f"config.{part}.schedule is {section.schedule!r}; expected steps above 0: sqrt:steps=35_000.")
    falls = {
        "constant": lambda: optax.constant_schedule(peak),
        "cosine": lambda: optax.cosine_decay_schedule(peak, updates - warmup),
        "linear": lambda: optax.linear_schedule(peak, 0.0, updates - warmup),
        "sqrt": lambda: inverse_square_root(peak, steps),
    }
    fall = falls[name]()
    if not warmup:
        return fall
    if name == "sqrt":  # it counts the updates of the warm-up, too, as in EDM2
        return lambda updates: fall(updates) * jnp.minimum(updates / warmup, 1.0)
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), fall], [warmup])
