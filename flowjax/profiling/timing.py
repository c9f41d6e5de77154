"""What programs cost, side by side: matmul FLOPs, memory, time to compile, and wall time measured in turns."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from flowjax.profiling import flops


class Program(NamedTuple):
    """A compiled program and what it costs.

    Attributes:
      call: runs the program once on the arguments of `compiled` and waits for the result.
      flops: matmul FLOPs, counted in the program as compiled for a CPU.
      temp_bytes: memory besides arguments and results, on the device that runs it; 0 where the compiler does not report it.
      compile_s: seconds to trace and compile.
    """

    call: Callable[[], Any]
    flops: float
    temp_bytes: int
    compile_s: float


class Quartiles(NamedTuple):
    """Lower quartile, median and upper quartile of repeated measurements."""

    low: float
    median: float
    high: float


def compiled(function, *args, counted: float | None = None) -> Program:
    """Compiles a function for arguments that it will be called with again and again: nothing is donated.

    Args:
      function: a function of arrays, jitted or not.
      *args: arrays.
      counted: its matmul FLOPs, for a function that is bound to an accelerator's mesh; else they are counted.

    Raises:
      InputError: on an accelerator, if the process has no CPU device to count for.
    """
    jitted = function if hasattr(function, "lower") else jax.jit(function)
    start = time.perf_counter()
    executable = jitted.lower(*args).compile()
    seconds = time.perf_counter() - start
    memory = executable.memory_analysis()
    return Program(
        call=lambda: jax.block_until_ready(executable(*args)),
        flops=_flops(executable, jitted, args) if counted is None else counted,
        temp_bytes=0 if memory is None else int(memory.temp_size_in_bytes),
        compile_s=seconds,
    )


def _flops(executable, jitted, args):
    if jax.default_backend() == "cpu":
        return flops.count(executable.as_text())
    with jax.default_device(flops.host()):
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype), args)
        return flops.matmul(jitted, *like)


def in_turns(programs: Mapping[str, Program], rounds: int, tick=lambda: None) -> dict[str, np.ndarray]:
    """Wall times of programs that take turns, so that other work on the machine slows all of them alike.

    Every program runs once to warm up; each round starts one program later than the round before.

    Args:
      programs: by name.
      rounds: how often each is timed, at least 1.
      tick: called after every run, for a progress bar; `(rounds + 1) * len(programs)` times in all.

    Returns:
      name -> seconds [rounds].
    """
    names, seconds = list(programs), {name: [] for name in programs}
    for program in programs.values():
        program.call()
        tick()
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            programs[name].call()
            seconds[name].append(time.perf_counter() - start)
            tick()
    return {name: np.asarray(values) for name, values in seconds.items()}


def ratio(seconds, base) -> Quartiles:
    """Quartiles of the ratios of two programs' times, round by round: both [rounds]."""
    return Quartiles(*np.quantile(np.asarray(seconds) / np.asarray(base), [0.25, 0.5, 0.75]).tolist())
