"""Programs compiled for TPUs on a machine without one: the compiler reports their memory and refuses what does not fit."""

import importlib.util
import os

import jax
from jax.experimental import topologies

from flowjax import typing

TOPOLOGIES = {"v5e": "v5e:2x4", "v5p": "v5p:2x2x2", "v6e": "v6e:2x4"}  # eight devices each


def missing():
    """A description of what is missing to compile for TPUs; "": nothing."""
    return "" if importlib.util.find_spec("libtpu") else "the compiler, pip install libtpu, which needs no TPU"


def devices(chip):
    """Eight TPUs that do not exist, to compile for.

    Args:
      chip: "v5e", "v5p" or "v6e".

    Raises:
      InputError: for another chip, or without the package libtpu.
    """
    if chip not in TOPOLOGIES:
        raise typing.InputError(f"unknown chip {chip!r}; expected one of {', '.join(TOPOLOGIES)}.")
    if missing():
        raise typing.InputError(f"compiling for {chip}: what is missing is {missing()}.")
    # Without these the library queries a metadata server for a TPU, and only one process at a time may load it.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    return list(topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[chip]).devices)


def compiled(function, device, *like):
    """A function as compiled for one device of `devices`; a persistent compilation cache needs a TPU to read it back.

    Args:
      function: a function of arrays.
      device: one of `devices`.
      *like: pytrees of jax.ShapeDtypeStruct.

    Returns:
      The executable, which cannot run but has memory_analysis, cost_analysis and as_text.
    """
    there = jax.sharding.SingleDeviceSharding(device)
    like = jax.tree.map(lambda z: jax.ShapeDtypeStruct(z.shape, z.dtype, sharding=there), like)
    return jax.jit(function).lower(*like).compile()
