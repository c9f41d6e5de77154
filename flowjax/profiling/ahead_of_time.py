"""Programs compiled for TPUs on a machine without one: the compiler reports their memory and refuses what does not fit."""

import importlib.metadata
import importlib.util
import os
import re

import jax
from jax.experimental import layout, topologies

from flowjax import typing
from flowjax.profiling import hlo

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
# Clocks that the published peaks imply: of v5e and v5p 4 and 8 matrix units of 128 x 128, of v6e 4 of 256 x 256, two FLOPs each.
CLOCK_GHZ = {"TPU v5 lite": 1.5, "TPU v5": 1.75, "TPU v5p": 1.75, "TPU v6": 1.75}
TOPOLOGIES = {"v5e": "v5e:2x4", "v5p": "v5p:2x2x2", "v6e": "v6e:2x4"}  # eight devices each


def missing():
    """A description of what is missing to compile for TPUs; "": nothing."""
    return "" if importlib.util.find_spec("libtpu") else 'the compiler: pip install -e ".[tpu]", which needs no TPU'


def version():
    """Of the compiler, to add to a line on a machine; "": there is none."""
    return "" if missing() else f", libtpu {importlib.metadata.version('libtpu')}"


def devices(topology):
    """TPUs that do not exist, to compile for.

    Args:
      topology: "v5e", "v5p" or "v6e" for eight of them, or a chip and how it is laid out: "v5e:16x16", "v5p:4x4x8".

    Raises:
      InputError: for a topology that the compiler does not know, or without the compiler.
    """
    if topology not in TOPOLOGIES and not re.fullmatch(r"[a-z0-9]+(:\d{1,3}x\d{1,3}(x\d{1,3})?)", topology):
        raise typing.InputError(
            f"unknown topology {topology!r}; expected one of {', '.join(TOPOLOGIES)}, or a chip and how it is laid out, such as v5e:16x16"
            " or v5p:4x4x8."
        )
    if missing():
        raise typing.InputError(f"compiling for {topology}: what is missing is {missing()}.")
    # Without these the library queries a metadata server for a TPU, and only one process at a time may load it.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES.get(topology, topology)).devices)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        why = str(error).splitlines()[0][:200]
        raise typing.InputError(f"the compiler of TPUs does not know the topology {topology!r}: {why.rstrip('.')}.") from error


def cycles(text):
    """The compiler's own estimate of the cycles of a program for a TPU, by which to compare two programs; it is no time.

    Args:
      text: of the program, `compiled.as_text()`.
    """
    estimated = lambda line: int(found[1]) if (found := _CYCLES.search(line)) else 0
    return hlo.Program(text).total(lambda line, computation: estimated(line))


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
