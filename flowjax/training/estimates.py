"""What a training will need, from the shapes of its step alone: parameters, memory of the state, FLOPs, hours of a device."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flowjax import checks, typing
from flowjax.profiling import flops
from flowjax.training import compilation, dealing, log, runs, sharding

CHIP, UTILISATION = "TPU v5p", 0.4  # of hours, where nothing else is said


class Estimate(NamedTuple):
    """What a step needs.

    Attributes:
      parameters: of the network that is sampled; a head that only training needs is left out.
      trained: of all networks that are trained, with all their heads.
      flops: of matmuls and convolutions in a step of the whole batch, traced, without what `remat` recomputes. The mean over the steps
        of a cycle.
      state: {part of the state: bytes of each device}.
      longest: FLOPs of the device with most over their mean: above 1 where devices share the terms of a method.
    """

    parameters: int
    trained: int
    flops: float
    state: dict[str, int]
    longest: float = 1.0


def of_run(run):
    """The Estimate of a Run, which may be a sketch; nothing is compiled.

    Raises:
      InputError: if the step cannot be traced, or not be counted from its trace, see flowjax.profiling.flops.traced.
    """
    row, args = jnp.zeros((1, *run.source.shape)), tuple(map(compilation.unplaced, (run.like, run.batch_like, run.fixed)))

    def counted(mesh):
        step = run.step_on(mesh, remat=False)
        return run.cycle.mean(
            {phase: flops.traced(functools.partial(step, phase=phase), *args) for phase in run.cycle.distinct()}
        )

    with runs.mistakes(run.settings):
        sampled = jax.eval_shape(lambda key: run.net.init(key, row, 1.0, 0.0, {}), jax.random.key(0))
        alone = counted(sharding.abstract_mesh())
        dealt = dealing.of_batch(run.mesh, run.settings.batch_size, run.method)
        longest = counted(run.mesh) / alone if dealt and alone else 1.0
    return Estimate(_size(sampled), _size(run.like.params), alone, held(run), longest)


def held(run):
    """{part of the state: bytes of each device} of a Run; nothing is traced."""
    return {name: sharding.device_bytes(tree) for name, tree in run.like._asdict().items() if jax.tree.leaves(tree)}


def device_hours(step_flops, steps, *, chip=CHIP, utilisation=UTILISATION):
    """Hours of one device for so many steps.

    Args:
      step_flops: of a step of the whole batch.
      steps: of the training.
      chip: a key of flowjax.training.log.PEAK_TFLOPS.
      utilisation: share of its peak, above 0 and up to 1.

    Raises:
      InputError: for an unknown chip, or another share.
    """
    checks.member("chip", chip, log.PEAK_TFLOPS)
    if not 0 < utilisation <= 1:
        raise typing.InputError(f"--utilisation={utilisation}: expected a share of the peak above 0 and up to 1, such as 0.4.")
    return step_flops * steps / (3600 * 1e12 * log.PEAK_TFLOPS[chip] * utilisation)


def report(run, *, chip=CHIP, utilisation=UTILISATION, estimate=None):
    """What `--dry_run` prints of a run before anything is compiled; `estimate` is `of_run(run)`, if it is there already."""
    settings, devices = run.settings, run.mesh.size
    estimate = estimate or of_run(run)
    hours = device_hours(estimate.flops, settings.steps, chip=chip, utilisation=utilisation)
    gib = lambda size: f"{size / 2**30:.2f} GiB"
    parts = ", ".join(f"{name} {gib(size)}" for name, size in estimate.state.items() if size > 2**10)
    sizes = ", ".join(f"{name} {size}" for name, size in run.mesh.shape.items())
    return "\n".join(
        [
            f"{settings.method.name} on {settings.data.name}, rows of shape {tuple(run.source.shape)}: {settings.steps:,} steps of"
            f" {settings.batch_size:,} rows; mesh: {sizes}",
            f"parameters: {estimate.parameters / 1e6:.1f} million of V, {estimate.trained / 1e6:.1f} million trained",
            f"state on each device: {gib(sum(estimate.state.values()))} ({parts})",
            f"a step: {estimate.flops / 1e12:,.1f} TFLOP (matmuls and convolutions, traced)",
            f"the training: {hours:,.0f} device-hours of {chip} at {utilisation:.0%} of its {log.PEAK_TFLOPS[chip]:g} TFLOP/s"
            f" (--chip, --utilisation), {hours * estimate.longest / devices:,.1f} hours on {devices} device(s)"
            + (f", of which some get rows that cost {estimate.longest:.2f} times the mean" if estimate.longest > 1 else "")
            + "; an estimate",
        ]
    )


def _size(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(compilation.unplaced(tree)))
