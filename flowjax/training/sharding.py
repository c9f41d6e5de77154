"""The device mesh and what lies where on it: rows of a batch over all devices, weights whole or in slices.

Two axes. Along "data" weights are repeated, along "fsdp" every device holds a slice of parameters, averages and optimizer
state. The rows of a batch are divided over both. One device is the mesh of ones.
"""

import collections
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from flowjax import models, typing

AXES = ("data", "fsdp")
MOST_WHOLE = 0.1  # of the weights' bytes, on a mesh that slices them
ROWS, WHOLE = PartitionSpec(AXES), PartitionSpec()


def make_mesh(sizes=None, devices=None):
    """A mesh with the axes "data" and "fsdp".

    Devices keep their order, in which those of a process are neighbours, so that process p of P holds rows [p B / P, (p + 1) B
    / P) of a batch whatever the sizes, and slices lie within a host if they fit there.

    Args:
      sizes: {"data": devices, "fsdp": devices}, -1 for as many as there are left; None: all along "data". With "fsdp" 0 it is 1
        here, and flowjax.training.room.fitting_mesh may slice more.
      devices: to use; None: all of all processes.

    Raises:
      InputError: for other axes, sizes that are not whole numbers, or that do not multiply to the number of devices.
    """
    devices = np.asarray(jax.devices() if devices is None else devices)
    return jax.sharding.Mesh(devices.reshape(_filled(sizes, len(devices))), AXES, axis_types=(AxisType.Auto,) * 2)


def abstract_mesh(sizes=None, devices=1):
    """The same of so many devices that need not exist: programs for it can be traced, not run. Arguments and errors as of `make_mesh`."""
    return jax.sharding.AbstractMesh(_filled(sizes, devices), AXES, axis_types=(AxisType.Auto,) * 2)


def _filled(sizes, devices):
    """The sizes of both axes for a number of devices."""
    sizes = {"data": -1, "fsdp": 1} if sizes is None else dict(sizes)
    numbers = [1 if name == "fsdp" and sizes.get(name) == 0 else sizes.get(name) for name in AXES]
    whole = all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) and (n == -1 or n > 0) for n in numbers)
    filled = [n if n != -1 else devices // math.prod(m for m in numbers if m != -1) for n in numbers] if whole else []
    if set(sizes) != set(AXES) or not whole or numbers.count(-1) > 1 or math.prod(filled) != devices:
        raise typing.InputError(
            f"config.mesh is {sizes}; expected sizes of {' and '.join(AXES)} whose product is the number of"
            f" devices, here {devices} (-1: as many as are left):"
            f" --config.mesh.data=-1 --config.mesh.fsdp={math.gcd(devices, 8)}."
        )
    return tuple(filled)


def rows(mesh, seeds=1):
    """Sharding of arrays whose first axis is the global batch; the second, if the first counts several seeds."""
    return NamedSharding(mesh, ROWS if seeds == 1 else PartitionSpec(None, AXES))


def whole(mesh):
    """Sharding of what every device holds whole."""
    return NamedSharding(mesh, WHOLE)


def specs(tree, rules, mesh, leading=0):
    """The PartitionSpec of every leaf of a State, or a part of it.

    Args:
      tree: arrays or ShapeDtypeStructs.
      rules: pairs (regular expression, axes); the first counts whose expression occurs in the path of a leaf, "V/blocks/qkv/kernel",
        and whose axes divide their dimensions; without one the leaf stays whole. Axes are those of the last dimensions, so that one
        rule fits a layer and a stack of layers; () keeps a leaf whole.
      mesh: the mesh.
      leading: number of first dimensions that no rule counts, 1 for several seeds.

    Returns:
      A tree of PartitionSpecs.
    """

    def of(path, leaf):
        shape, name = leaf.shape[min(leading, len(leaf.shape)) :], _name(path)
        if name.startswith("memory/"):  # what a method remembers is whole on every device
            return WHOLE
        fitting = (_spec(axes, shape, mesh) for pattern, axes in rules if re.search(pattern, name))
        spec = next((spec for spec in fitting if spec is not None), WHOLE)
        if name.startswith(("opt_state/", "averages/")):
            spec = _over_data(spec, shape, mesh)
        return PartitionSpec(*[None] * leading, *spec) if any(spec) else WHOLE

    return jax.tree_util.tree_map_with_path(of, tree)


def _spec(axes, shape, mesh):
    """A rule's PartitionSpec, or None if its axes do not divide their dimensions."""
    if len(axes) > len(shape):
        return None
    axes = (None,) * (len(shape) - len(axes)) + tuple(axes)
    if any(size % mesh.shape[axis] for axis, size in zip(axes, shape) if axis):
        return None
    return PartitionSpec(*(axis if axis and mesh.shape[axis] > 1 else None for axis in axes))


def updated(tree, partition, mesh):
    """The specs of gradients, and of what the optimizers and averages hold, from those of the weights: in slices along "data", too.

    So no device updates what another one does.
    """
    return jax.tree.map(lambda leaf, spec: _over_data(spec, leaf.shape, mesh), tree, partition)


def _over_data(spec, shape, mesh):
    """The spec with rows, columns or another dimension in slices along "data" as well; the same where it divides none."""
    size, last = mesh.shape["data"], len(shape) - 1
    axes = [*spec, *[None] * (len(shape) - len(spec))]
    for dimension in sorted(range(len(shape)), key=lambda dimension: (dimension != last - 1, -dimension)):
        there = shape[dimension] // (mesh.shape["fsdp"] if axes[dimension] else 1)
        if size > 1 and there and there % size == 0:
            axes[dimension] = ("fsdp", "data") if axes[dimension] else "data"
            return PartitionSpec(*axes)
    return spec


def _dimension(spec, axis):
    """The dimension that is sliced along an axis, or None."""
    return next((number for number, axes in enumerate(spec) if axes == axis or isinstance(axes, tuple) and axis in axes), None)


def placed(tree, rules, mesh, leading=0):
    """The shapes and dtypes of `tree` with the shardings of `specs`."""
    place = lambda leaf, spec: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))
    return jax.tree.map(place, tree, specs(tree, rules, mesh, leading))


def places(tree):
    """The sharding of every leaf."""
    return jax.tree.map(lambda leaf: leaf.sharding, tree)


def gathered(tree, partition, by_block=True, sent=""):
    """Inside of shard_map: whole leaves from the slices of each device, by one all-gather along "fsdp" for sliced leaves.

    With `by_block` the weights of blocks stay flowjax.models.slices.Slice, and the blocks gather them. `sent` is the dtype in which
    slices are sent, "" for theirs.
    """

    def gather(path, leaf, spec):
        if (dimension := _dimension(spec, "fsdp")) is None:
            return leaf
        sliced = models.slices.Slice(leaf, dimension - leaf.ndim, sent)
        return sliced if by_block and models.slices.IN_BLOCKS.search(_name(path)) else sliced.unbox()

    return jax.tree_util.tree_map_with_path(gather, tree, partition)


def _name(path):
    return jax.tree_util.keystr(path, simple=True, separator="/")


def mean(gradient, metrics, partition, mesh, sent=""):
    """Inside of shard_map: means over all devices of gradients with respect to what `gathered` gives, in slices, and of metrics.

    A reduce-scatter for each axis along which a leaf is sliced (those of blocks have been through that along "fsdp" in the backward
    pass), and one all-reduce along the axes that are left.

    Args:
      gradient: tree of gradients.
      metrics: tree of numbers.
      partition: specs of the gradients, see `updated`.
      mesh: the mesh.
      sent: dtype in which gradients are summed over devices, "" for theirs.

    Returns:
      (gradient, metrics), in their dtypes.
    """
    leaves, tree = jax.tree.flatten(gradient, is_leaf=lambda leaf: isinstance(leaf, models.slices.Slice))
    left = collections.defaultdict(dict, {AXES: {-1: metrics}})  # {axes: what is still to be averaged along them}
    dtypes = []
    for number, (leaf, spec) in enumerate(zip(leaves, tree.flatten_up_to(partition))):
        dimensions = {axis: _dimension(spec, axis) for axis in ("fsdp", "data")}
        reduced = isinstance(leaf, models.slices.Slice)
        leaf = leaf.values / mesh.shape["fsdp"] if reduced else leaf
        dtypes.append(leaf.dtype)
        leaf = leaf.astype(sent or leaf.dtype)
        for axis, dimension in dimensions.items():
            if dimension is not None and not (reduced and axis == "fsdp"):
                # Divided before: where the compiler makes it an all-reduce, a division after it is one more pass over the whole array.
                leaf = jax.lax.psum_scatter(leaf / mesh.shape[axis], axis, scatter_dimension=dimension, tiled=True)
        left[tuple(axis for axis in AXES if dimensions[axis] is None and mesh.shape[axis] > 1)][number] = leaf
    means = {}
    for axes, some in left.items():
        means |= jax.lax.pmean(some, axes) if axes else some
    metrics = means.pop(-1)
    return tree.unflatten([means[number].astype(dtype) for number, dtype in enumerate(dtypes)]), metrics


def in_slices(weights, rules, mesh):
    """Weights under jit as their optimizers update them, each device its slices; on a mesh without "data" as they are."""
    if mesh.shape["data"] == 1:
        return weights
    return _constrained(weights, updated(weights, specs(weights, rules, mesh), mesh), mesh)


def as_weights(updates, rules, mesh):
    """Updates of weights under jit, gathered along "data": in slices as `specs` places the weights."""
    return _constrained(updates, specs(updates, rules, mesh), mesh)


def _constrained(tree, partition, mesh):
    """A tree under jit whose leaves lie as their PartitionSpecs say."""
    return jax.tree.map(lambda leaf, spec: jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, spec)), tree, partition)


def whole_share(tree):
    """Share of the bytes of ShapeDtypeStructs with shardings that are in leaves which every device holds whole."""
    sizes = {True: 0, False: 0}
    for leaf in jax.tree.leaves(tree):
        sizes[leaf.sharding.is_fully_replicated] += math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize
    return sizes[True] / max(sum(sizes.values()), 1)


def check_sliced(weights, rules, mesh, leading=0):
    """Raises InputError if the axis "fsdp" does not divide weights with more than a tenth of the bytes.

    Args:
      weights: arrays or ShapeDtypeStructs.
      rules, mesh, leading: as of `specs`.
    """

    def share(fsdp):
        return whole_share(placed(weights, rules, abstract_mesh({"data": -1, "fsdp": fsdp}, mesh.size), leading))

    fsdp = mesh.shape["fsdp"]
    if fsdp == 1 or share(fsdp) <= MOST_WHOLE:
        return
    fitting = next((size for size in range(fsdp - 1, 1, -1) if mesh.size % size == 0 and share(size) <= MOST_WHOLE), 1)
    raise typing.InputError(
        f"config.mesh.fsdp is {fsdp}, and {share(fsdp):.0%} of the weights' bytes have dimensions that it does not divide, so that"
        f" every device would hold them whole; expected at most {MOST_WHOLE:.0%}: --config.mesh.data=-1 --config.mesh.fsdp={fitting}."
    )


def global_batch(mesh, local, seeds=1):
    """The global batch from this host's rows of it, a dict of numpy arrays; those of several seeds are stacked."""
    at = rows(mesh, seeds)
    return {name: jax.make_array_from_process_local_data(at, value) for name, value in local.items()}


def arranged(mesh, weights, rules):
    """Weights as `specs` places them, whole on every device where "fsdp" is 1; all processes must call it, since it runs a program."""
    return weights if mesh.devices.size == 1 else _arrange(mesh, rules)(weights)


@functools.cache
def _arrange(mesh, rules):
    return jax.jit(lambda weights: _constrained(weights, specs(weights, rules, mesh), mesh))


def device_bytes(tree):
    """Bytes that one device holds of ShapeDtypeStructs (or arrays) with shardings."""
    size = lambda leaf: math.prod(leaf.sharding.shard_shape(leaf.shape)) * jnp.dtype(leaf.dtype).itemsize
    return sum(size(leaf) for leaf in jax.tree.leaves(tree))
