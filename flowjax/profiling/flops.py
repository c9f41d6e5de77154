"""Matmul FLOPs of a compiled program: the deterministic half of what a step costs.

`Compiled.cost_analysis()` counts the body of a scan once; here dots are counted in the text of the compiled program and
multiplied by the trip counts of the loops that hold them. Of the branches of a conditional, the one with the most FLOPs counts.
"""

import math
import re

import jax
from jax.interpreters import partial_eval

from flowjax import typing
from flowjax.profiling import hlo

_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = \(?(\w+)\[([\d,]*)\]\S* ([\w\-]+)\(")


def matmul(function, *args, **kwargs):
    """Matmul FLOPs (two a multiply-add) of `jax.jit(function)(*args, **kwargs)` as compiled for the default backend.

    Args:
      function: a function of arrays, jitted or not.
      *args: arrays or jax.ShapeDtypeStructs.
      **kwargs: likewise.

    Returns:
      An int; convolutions are not counted.

    Raises:
      ValueError: if the compiled program holds a loop whose trip count XLA does not know, or a dot it cannot read.

    Example:
      >>> matmul(lambda a, b: a @ b, jnp.ones((8, 16)), jnp.ones((16, 4)))
      1024
    """
    jitted = function if hasattr(function, "lower") else jax.jit(function)
    # Fewer optimisations of the machine code, which does not run; the optimised graph is the same.
    return count(jitted.lower(*args, **kwargs).compile({"xla_backend_optimization_level": 0}).as_text())


def host():
    """The CPU device, for which programs are compiled to be counted: an accelerator's programs hide matmuls in library calls.

    Raises:
      InputError: if this process has none.
    """
    try:
        return jax.devices("cpu")[0]
    except RuntimeError as error:
        raise typing.InputError(
            "matmuls are counted in programs compiled for a CPU, and this process has none: set JAX_PLATFORMS=cuda,cpu"
            " (tpu,cpu)."
        ) from error


def count(text):
    """Matmul FLOPs of a program from its optimised HLO text, loops multiplied by their trip counts."""
    program = hlo.Program(text)
    shapes = {name: dict(map(_shape, filter(_INSTRUCTION.match, lines))) for name, lines in program.computations.items()}
    return program.total(lambda line, name: _flops(line, shapes[name]))


def _shape(line):
    """(name, shape) of what an instruction gives."""
    instruction = _INSTRUCTION.match(line)
    return instruction[1], [int(d) for d in instruction[3].split(",") if d]


def _flops(line, shapes):
    instruction = _INSTRUCTION.match(line)
    if not instruction or instruction[4] != "dot":
        if "custom-call" in line and re.search(r"custom_call_target=\"[^\"]*(matmul|gemm)", line):
            raise ValueError(f"a matmul that was lowered to a library call cannot be counted: {line.strip()[:200]}")
        return 0
    left = re.search(r"dot\((?:\w+\[([\d,]*)\]\S* )?%?([\w.\-]+)", line)
    dims = [int(d) for d in left[1].split(",") if d] if left[1] is not None else shapes[left[2]]
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line)[1]
    return 2 * math.prod(shapes[instruction[1]]) * math.prod(dims[int(d)] for d in contracted.split(",") if d)


def traced(function, *args):
    """FLOPs of matmuls and convolutions (two a multiply-add) of a function, from its trace: nothing is compiled, no array made.

    Unlike `matmul` it counts convolutions, counts twice what XLA would merge, and knows no loop of unknown length. What no result
    needs does not count. Of a function that is mapped over a mesh, all devices count, and they need not exist.

    Args:
      function: a function of arrays.
      *args: arrays or jax.ShapeDtypeStructs.

    Raises:
      ValueError: for a loop with matmuls whose length the trace does not tell, or a kernel of a device.

    Example:
      >>> traced(lambda a, b: jax.lax.map(lambda row: row @ b, a), jnp.ones((8, 16)), jnp.ones((16, 4)))
      1024
    """
    closed = jax.make_jaxpr(function)(*args)
    return _of_jaxpr(partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))[0])


def _of_jaxpr(jaxpr):
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation):
    name, params = equation.primitive.name, equation.params
    out = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        return 2 * out * math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel, spec = equation.invars[1].aval.shape, params["dimension_numbers"].rhs_spec
        return 2 * out * math.prod(kernel[axis] for axis in spec[1:]) // params["batch_group_count"]
    if name == "pallas_call":
        raise ValueError("a kernel of a device cannot be counted from its trace; trace with attention 'xla'.")
    if name == "cond":
        return max(_of_jaxpr(branch.jaxpr) for branch in params["branches"])
    inner = sum(_of_jaxpr(getattr(value, "jaxpr", value)) for value in params.values() if _is_jaxpr(value))
    if name == "while" and inner:
        raise ValueError("a loop with matmuls, and its trace does not tell how often it runs.")
    return inner * (params["length"] if name == "scan" else params["mesh"].size if name == "shard_map" else 1)


def _is_jaxpr(value):
    return hasattr(value, "eqns") or hasattr(getattr(value, "jaxpr", None), "eqns")
