"""The step as a compiled program: made by shapes alone, and what can be read from it before anything runs."""

import functools
import math

import jax

from flowjax import typing
from flowjax.profiling import ahead_of_time, collectives, flops, traffic
from flowjax.training import hosts, log, room, sharding


def compiled(run):
    """{phase: compiled step} of a Run, one for each distinct phase of its cycle; the first argument is donated.

    All are compiled ahead, so that no step has to compile one.
    """
    return {phase: traced.lower().compile() for phase, traced in run.traced.items()}


def device_bytes(programs):
    """Bytes of a device that the largest of the compiled steps needs: arguments, results that do not take their place, and scratch."""

    def of_program(program):
        use = program.memory_analysis()
        return use.argument_size_in_bytes + use.output_size_in_bytes - use.alias_size_in_bytes + use.temp_size_in_bytes

    return max(map(of_program, programs.values()))


def step_flops(run):
    """Matmul FLOPs of a step of the global batch on one device, counted in programs for a CPU; the mean over the cycle.

    Those of the model: what `remat` recomputes in the backward pass is left out.

    Raises:
      InputError: if this process has no CPU device.
      ValueError: for a program that cannot be read.
    """
    host = flops.host()
    with jax.default_device(host):
        alone = run.step_on(sharding.make_mesh(devices=[host]), remat=False)
        args = tuple(map(unplaced, (run.like, run.batch_like, run.fixed)))
        counts = {phase: flops.matmul(functools.partial(alone, phase=phase), *args) for phase in run.cycle.distinct()}
    return run.cycle.mean(counts)


def utilisation_flops(run):
    """`step_flops` in process 0; None where the devices' peak is not known, or the program cannot be counted.

    With an accelerator the process needs a CPU device beside it: JAX_PLATFORMS=cuda,cpu or tpu,cpu, or not set.
    """
    if not hosts.is_main() or log.peak_flops(run.mesh.devices.flat[0]) is None:
        return None
    try:
        return step_flops(run)
    except (typing.InputError, ValueError):
        return None


def unplaced(tree):
    """Shapes and dtypes without shardings."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def described(run):
    """Lines on the mesh of a Run, on what of the weights it does not slice, and on the attention where the config leaves it open."""
    sizes = ", ".join(f"{name} {size}" for name, size in run.mesh.shape.items())
    kind = run.mesh.devices.flat[0].device_kind
    lines = [f"mesh: {sizes}; {run.mesh.devices.size} {kind} device(s) of {jax.process_count()} process(es)"]
    there = room.memory_gib(run.mesh)
    if there is not None and room.chooses(run.settings.mesh):
        lines[0] += f"; fsdp by memory: state and gradients take {room.held(run.like) / 2**30:.3g} of {there} GiB"
    if run.mesh.shape["fsdp"] > 1:
        share = sharding.whole_share((run.like.params, run.like.base))
        lines.append(f"weights: {share:.2%} of the bytes are not sliced, every device holds them whole")
    return [*lines, *(f"attention: {taken}" for taken in run.attention)]


def report(run, step_flops=None):
    """What `--dry_run` prints: every leaf of the state with its slices, bytes of a device, and the collectives.

    Args:
      run: a Run.
      step_flops: of a step of the whole batch, for the utilisation that the compiler of TPUs implies; None: leaves it out.
    """
    lines = [*described(run), ""]
    leaves = jax.tree_util.tree_flatten_with_path(run.like.params)[0]
    rows = [("parameter", "shape", "of a device", "bytes of a device")]
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        rows.append(
            (name, _shape(leaf.shape), _shape(leaf.sharding.shard_shape(leaf.shape)), f"{sharding.device_bytes(leaf):,}")
        )
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    lines.append("")
    for name, tree in run.like._asdict().items():
        if jax.tree.leaves(tree):
            held, all_of_it = sharding.device_bytes(tree), _bytes(tree)
            lines.append(f"{name}: {held:,} of {all_of_it:,} bytes on each device")
    programs = compiled(run)
    lines.append(f"the whole step: {device_bytes(programs):,} bytes of each device, rows of the batch and activations included")
    for phase, program in programs.items():
        lines += ["", f"temporaries: {program.memory_analysis().temp_size_in_bytes:,} bytes of each device"]
        if len(programs) > 1:
            lines.append(f"{run.cycle.distinct()[phase]} of {len(run.cycle.phases)} steps train {phase.described()}:")
        lines += _communication(program)
        if run.mesh.devices.flat[0].platform == "tpu":
            lines += _estimated(program.as_text(), run.mesh, step_flops)
    return "\n".join(lines + _cost(run, programs))


def _estimated(text, mesh, step_flops):
    """Lines on what the compiler of TPUs estimates of a program; they compare two programs, and no step was timed."""
    chip, cycles, kernels = log.chip(mesh.devices.flat[0]), ahead_of_time.cycles(text), traffic.kernels(text)
    peak, clock = 1e12 * log.PEAK_TFLOPS.get(chip, math.nan), 1e9 * ahead_of_time.CLOCK_GHZ.get(chip, math.nan)
    seconds, attention = cycles / clock, kernels / peak
    lines = [f"estimated by the compiler: {cycles:,} cycles, by which to compare two programs; it is no time"]
    if math.isfinite(seconds):
        lines[0] += f" (at {clock / 1e9:.3g} GHz {1e3 * seconds:,.1f} ms)"
    if kernels:
        lines.append(
            f"not in it: the fused attention, {kernels / 1e12:,.3g} TFLOP a device, {1e3 * attention:,.1f} ms at the peak"
        )
    if step_flops and math.isfinite(seconds + attention):
        share = step_flops / (mesh.size * peak * (seconds + attention))
        lines.append(f"utilisation, if a step took both together and nothing else: {share:.0%}")
    return [*lines, f"read from and written to the memory of each device: {traffic.total(text):,} bytes"]


def _cost(run, programs):
    """Lines on the cost of the steps in forward passes of V with as many rows; none where the programs cannot be read."""
    x = run.batch_like["x"]
    if run.mesh.devices.flat[0].platform != "cpu" or len(x.shape) != 1 + len(run.source.shape):  # of several seeds, not
        return []
    rows = jax.ShapeDtypeStruct((x.shape[0] // run.mesh.devices.size, *x.shape[1:]), x.dtype)
    try:
        weights = jax.eval_shape(
            functools.partial(run.networks.merged, "V"), *map(unplaced, (run.like.params["V"], run.like.base))
        )
        forward = flops.matmul(lambda params, x: run.net.apply({"params": params}, x, 1.0, 0.0, {}), weights, rows)
        costs = {phase: flops.count(program.as_text()) / forward for phase, program in programs.items()}
    except (ValueError, ZeroDivisionError):
        return []
    lines = ["", "cost of a step in forward passes of V (matmuls):"]
    for phase, steps in run.cycle.distinct().items():
        lines.append(f"{costs[phase]:.2f} in {steps} of {len(run.cycle.phases)} steps, which train {phase.described()}")
    return [*lines, f"{run.cycle.mean(costs):.2f} on average"]


def _communication(program):
    """Lines on the collectives of a program, by kind."""
    totals = collectives.totals(program.as_text())
    if not totals:
        return ["communication of a step: none"]
    beside = collectives.beside(program.as_text())
    with_others = lambda kind: f", {beside[kind]:,} of them beside other work" if kind in beside else ""
    lines = [f"{kind}: {times:,} in a step, {size:,} bytes{with_others(kind)}" for kind, (times, size) in totals.items()]
    return ["communication of a step, as compiled here:", *lines]


def _shape(shape):
    return " x ".join(map(str, shape)) or "scalar"


def _bytes(tree):
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
