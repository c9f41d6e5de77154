"""Merges the factors of a run with an adapter: python -m experiments.merge --workdir=runs/factors --output=runs/merged

The output is the folder of a run whose weights are whole: the other scripts sample and measure it, and --config.start=runs/merged
trains on. With --onto=runs/other the factors are added, times --weight, to the weights of another run of the same network, as
LCM-LoRA turns any fine-tuned network into one that samples in few steps (arXiv 2311.05556). Prints how many numbers the factors have.
"""

import functools

import ml_collections
from absl import flags

from experiments import command_line
from flowjax import adapters, folders, typing

WORKDIR = flags.DEFINE_string("workdir", None, "folder of a run with config.adapter")
ONTO = flags.DEFINE_string(
    "onto", "", "folder of the run whose weights they are added to; default: those they were trained beside"
)
WEIGHT = flags.DEFINE_float("weight", 1.0, "factor of what is added", lower_bound=0.0, upper_bound=100.0)
OUTPUT = flags.DEFINE_string("output", None, "folder of the merged run, which must not exist or be empty")
EMA = flags.DEFINE_string(
    "ema", "", "average of the factors, an entry of config.ema, or none; default: the run's first average"
)
CHECKPOINT = flags.DEFINE_string("checkpoint", "", command_line.CHECKPOINT_HELP)
command_line.define_modules()
flags.mark_flags_as_required(["workdir", "output"])


def main():
    import jax.numpy as jnp

    from flowjax import training
    from flowjax.training import checkpoint, settings, state, workdir

    folders.check_free(OUTPUT.value, "run yet", "--output")
    load = functools.partial(training.load, WORKDIR.value, EMA.value, step=CHECKPOINT.value)
    if ONTO.value:
        other, apart, weight = training.load(ONTO.value, flag="--onto"), load(factors=True), WEIGHT.value
        check_alike(apart, other)
    else:  # weights with which the factors are merged already
        apart, other, weight = load(factors=True), load(), WEIGHT.value - 1
    merged = adapters.merged(other.params, apart.params, weight * apart.settings.adapter.scale)

    content = settings.completed(workdir.load_config(WORKDIR.value).to_dict())
    content |= {"adapter": settings.Adapter()._asdict(), "start": "", "ema": (), "best": ""}
    content |= {"data": other.settings.data._asdict()}
    workdir.claim(command_line.output_folder(OUTPUT), ml_collections.ConfigDict(content), other)
    with checkpoint.Checkpoints(OUTPUT.value) as checkpoints:
        numbers = {"step": jnp.asarray(apart.step, jnp.int32), "skipped": jnp.zeros((), jnp.int32)}
        checkpoints.save(apart.step, state.State(**numbers, params={"V": merged}, opt_state={}, target=None, averages={}))
    factors, weights = adapters.count(apart.params), adapters.count(merged)
    print(
        f"{factors:,} numbers in factors, {factors / weights:.2%} of {weights:,} weights, merged in {OUTPUT.value}:"
        f" python -m experiments.sample --workdir={OUTPUT.value}"
    )


def check_alike(run, other):
    """Raises InputError unless another run learned rows of the same shape and classes on the same path."""
    facts = lambda one: {"rows": one.shape, "classes": one.num_classes, "path": one.settings.method.path}
    if differ := folders.differences(facts(other), facts(run), ["rows", "classes", "path"]):
        raise typing.InputError(
            f"--onto={ONTO.value} learned something else ({differ}); expected a run of the same kind of data."
        )


if __name__ == "__main__":
    command_line.run(main)
