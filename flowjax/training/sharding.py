"""The device mesh and what lies where on it: rows of a batch over all devices, weights whole or in slices.

Two axes. Along "data" weights are repeated, along "fsdp" every device holds a slice of parameters, averages and optimizer
state. The rows of a batch are divided over both. One device is the mesh of ones.
"""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from flowjax import methods, typing

AXES = ("data", "fsdp")
ROWS, WHOLE = PartitionSpec(AXES), PartitionSpec()


def make_mesh(sizes=None, devices=None):
    """A mesh with the axes "data" and "fsdp".

    Devices keep their order, in which those of a process are neighbours, so that process p of P holds rows [p B / P, (p + 1) B
    / P) of a batch whatever the sizes, and slices lie within a host if they fit there.

    Args:
      sizes: {"data": devices, "fsdp": devices}, -1 for as many as there are left; None: all along "data".
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
    numbers = [sizes.get(name) for name in AXES]
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
      rules: pairs (regular expression, axes); the first whose expression occurs in the path of a leaf, "V/blocks/qkv/kernel",
        counts. Axes are those of the last dimensions, so that one rule fits a layer and a stack of layers. A dimension that its
        axis does not divide stays whole, as does a leaf that has fewer dimensions than its rule.
      mesh: the mesh.
      leading: number of first dimensions that no rule counts, 1 for several seeds.

    Returns:
      A tree of PartitionSpecs.
    """

    def of(path, leaf):
        shape = leaf.shape[min(leading, len(leaf.shape)) :]
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        whole = name.startswith("memory/")  # what a method remembers is whole on every device
        axes = () if whole else next((axes for pattern, axes in rules if re.search(pattern, name)), ())
        if len(axes) > len(shape):
            return WHOLE
        axes = (None,) * (len(shape) - len(axes)) + tuple(axes)
        divides = lambda axis, size: axis and mesh.shape[axis] > 1 and size % mesh.shape[axis] == 0
        kept = [axis if divides(axis, size) else None for axis, size in zip(axes, shape)]
        return PartitionSpec(*[None] * leading, *kept) if any(kept) else WHOLE

    return jax.tree_util.tree_map_with_path(of, tree)


def placed(tree, rules, mesh, leading=0):
    """The shapes and dtypes of `tree` with the shardings of `specs`."""
    place = lambda leaf, spec: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))
    return jax.tree.map(place, tree, specs(tree, rules, mesh, leading))


def places(tree):
    """The sharding of every leaf."""
    return jax.tree.map(lambda leaf: leaf.sharding, tree)


def gathered(tree, partition):
    """Inside of shard_map: whole leaves from the slices of each device, by one all-gather along "fsdp" for sliced leaves."""

    def gather(leaf, spec):
        return jax.lax.all_gather(leaf, "fsdp", axis=tuple(spec).index("fsdp"), tiled=True) if "fsdp" in spec else leaf

    return jax.tree.map(gather, tree, partition)


def mean(gradient, metrics, partition, mesh):
    """Inside of shard_map: means over all devices of whole gradients, in slices, and of metrics.

    A reduce-scatter along "fsdp" for the leaves that are sliced, then one all-reduce along "data" for them, and one along both
    axes for everything else.

    Returns:
      (gradient, metrics).
    """
    leaves, tree = jax.tree.flatten(gradient)
    partition = tree.flatten_up_to(partition)
    slices, rest = {}, {}
    for number, (leaf, spec) in enumerate(zip(leaves, partition)):
        if "fsdp" in spec:
            dimension = tuple(spec).index("fsdp")
            slices[number] = jax.lax.psum_scatter(leaf, "fsdp", scatter_dimension=dimension, tiled=True) / mesh.shape["fsdp"]
        else:
            rest[number] = leaf
    if mesh.shape["data"] > 1:
        slices = jax.lax.pmean(slices, "data")
    rest, metrics = jax.lax.pmean((rest, metrics), AXES)
    means = slices | rest
    return tree.unflatten([means[number] for number in range(len(leaves))]), metrics


def check_batch(mesh, batch_size, method, accumulate=1):
    """Raises InputError unless every device gets whole columns of every term of the method in each part of the batch."""
    multiple = methods.rows_multiple(method) * accumulate
    devices = mesh.size
    if batch_size < 1 or batch_size % (devices * multiple):
        raise typing.InputError(
            f"batch_size is {batch_size}; {devices} device(s) and a method that splits its rows in"
            f" {methods.rows_multiple(method)}"
            + (f", {accumulate} parts of the batch one after the other," if accumulate > 1 else "")
            + f" need a positive multiple of {devices * multiple}:"
            f" --config.batch_size={max(1, round(batch_size / (devices * multiple))) * devices * multiple}."
        )


def global_batch(mesh, local, seeds=1):
    """The global batch from this host's rows of it, a dict of numpy arrays; those of several seeds are stacked."""
    at = rows(mesh, seeds)
    return {name: jax.make_array_from_process_local_data(at, value) for name, value in local.items()}


def replicated(mesh, tree):
    """`tree` whole on every device; all processes must call it, since it runs a program."""
    return tree if mesh.devices.size == 1 else _replicate(mesh)(tree)


@functools.cache
def _replicate(mesh):
    return jax.jit(lambda tree: tree, out_shardings=whole(mesh))


def device_bytes(tree):
    """Bytes that one device holds of ShapeDtypeStructs (or arrays) with shardings."""
    size = lambda leaf: math.prod(leaf.sharding.shard_shape(leaf.shape)) * jnp.dtype(leaf.dtype).itemsize
    return sum(size(leaf) for leaf in jax.tree.leaves(tree))
