"""Programs compiled for TPUs on a machine without one: the compiler reports their memory and refuses what does not fit."""

import importlib.metadata
import importlib.util
import os

import jax
from jax.experimental import layout, topologies

from flowjax import typing

TOPOLOGIES = {"v5e": "v5e:2x4", "v5p": "v5p:2x2x2", "v6e": "v6e:2x4"}  # eight devices each


def missing():
    """A description of what is missing to compile for TPUs; "": nothing."""
    return "" if importlib.util.find_spec("libtpu") else 'the compiler: pip install -e ".[tpu]", which needs no TPU'


def version():
    """Of the compiler, to add to a line on a machine; "": there is none."""
    return "" if missing() else f", libtpu {importlib.metadata.version('libtpu')}"


def devices(chip):
    """Eight TPUs that do not exist, to compile for.

    Args:
      chip: "v5e", "v5p" or "v6e".

    Raises:
      InputError: for another chip, or without the compiler.
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

    The compiler chooses how arguments and results lie in memory, as it does for arrays within a larger program.

    Args:
      function: a function of arrays.
      device: one of `devices`.
      *like: pytrees of jax.ShapeDtypeStruct.

    Returns:
      The executable, which cannot run but has memory_analysis, cost_analysis and as_text.
    """
    there = layout.Format(layout.Layout.AUTO, jax.sharding.SingleDeviceSharding(device))
    return jax.jit(function, in_shardings=there, out_shardings=there).lower(*like).compile()
