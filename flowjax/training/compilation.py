"""The step as a compiled program: made by shapes alone, and what can be read from it before anything runs."""

import collections
import math

import jax

from flowjax import typing
from flowjax.profiling import collectives, flops
from flowjax.training import hosts, log, sharding


def compiled(run):
    """The step of a Run, compiled ahead, so that nothing can compile it twice; its first argument is donated."""
    jitted = jax.jit(run.step, donate_argnums=0, out_shardings=(sharding.places(run.like), sharding.whole(run.mesh)))
    return jitted.lower(run.like, run.batch_like, run.fixed).compile()


def device_bytes(program):
    """Bytes of a device that a compiled step needs while it runs: arguments, results that do not take their place, and scratch."""
    use = program.memory_analysis()
    return use.argument_size_in_bytes + use.output_size_in_bytes - use.alias_size_in_bytes + use.temp_size_in_bytes


def utilisation_flops(run):
    """Matmul FLOPs of a step of the global batch, of the program for one CPU device; None where the devices' peak is not known.

    The lead process alone compiles it, and only with a CPU beside the accelerator (JAX_PLATFORMS=cuda,cpu or tpu,cpu, or not set).
    """
    if not hosts.is_main() or log.peak_flops(run.mesh.devices.flat[0]) is None:
        return None
    unplaced = lambda tree: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
    try:
        host = flops.host()
        with jax.default_device(host):
            alone = run.step_on(sharding.make_mesh(devices=[host]))
            return flops.matmul(alone, *map(unplaced, (run.like, run.batch_like, run.fixed)))
    except (typing.InputError, ValueError):  # no CPU, or a program that cannot be read
        return None


def mesh_line(mesh):
    """The mesh in words."""
    sizes = ", ".join(f"{name} {size}" for name, size in mesh.shape.items())
    return (
        f"mesh: {sizes}; {mesh.devices.size} {mesh.devices.flat[0].device_kind} device(s) of {jax.process_count()} process(es)"
    )


def report(run):
    """What `--dry_run` prints: every leaf of the state with its slices, bytes of a device, and what the devices say to each other."""
    lines = [mesh_line(run.mesh), ""]
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
    program = compiled(run)
    lines.append(f"the whole step: {device_bytes(program):,} bytes of each device, rows of the batch and activations included")
    return "\n".join(lines + ["", *_spoken(program)])


def _spoken(program):
    """Lines on the collectives of a program, by kind."""
    found = collections.defaultdict(list)
    for collective in collectives.listed(program.as_text()):
        found[collective.kind].append(collective.bytes)
    if not found:
        return ["communication of a step: none"]
    lines = [f"{kind}: {len(sizes)} instruction(s), {sum(sizes):,} bytes" for kind, sizes in found.items()]
    return ["communication of a step, as compiled here:", *lines]


def _shape(shape):
    return " x ".join(map(str, shape)) or "scalar"


def _bytes(tree):
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
