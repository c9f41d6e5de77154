"""The device mesh: one axis, "data"; one device is the same code."""

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from flowjax import methods, typing

ROWS, WHOLE = PartitionSpec("data"), PartitionSpec()


def data_mesh(devices=None):
    """A mesh of all devices (or those given) along the axis "data"."""
    devices = jax.devices() if devices is None else devices
    return jax.sharding.Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))


def rows(mesh, seeds=1):
    """Sharding of arrays whose first axis is the global batch; the second, if the first counts several seeds."""
    return NamedSharding(mesh, ROWS if seeds == 1 else PartitionSpec(None, "data"))


def whole(mesh):
    """Sharding of what every device holds: parameters, optimizer state, averages."""
    return NamedSharding(mesh, WHOLE)


def check_batch(mesh, batch_size, method):
    """Raises InputError unless every device gets whole columns of every term of the method."""
    multiple = methods.rows_multiple(method)
    devices = mesh.devices.size
    if batch_size < 1 or batch_size % (devices * multiple):
        raise typing.InputError(
            f"batch_size is {batch_size}; {devices} device(s) and a method that splits its rows in {multiple} need a positive"
            f" multiple of {devices * multiple}: --config.batch_size={max(1, round(batch_size / (devices * multiple))) * devices * multiple}."
        )


def global_batch(mesh, local, seeds=1):
    """The global batch from this host's rows of it, a dict of numpy arrays; those of several seeds are stacked."""
    placed = rows(mesh, seeds)
    return {name: jax.make_array_from_process_local_data(placed, value) for name, value in local.items()}
