"""Trains any method: python -m experiments.train --config=configs/meanflow.py:digits --workdir=runs/digits

Any field can be overridden: --config.optim.learning_rate=3e-4, --config.mesh.fsdp=8. The same command on the same workdir
continues a training that was stopped or killed, on any number of devices and hosts. Writes config.json, metrics.jsonl,
TensorBoard events, samples/*.png and checkpoints/ into the workdir. --dry_run compiles the step, prints its memory and
collectives, and exits. --profile=100:110 writes a trace of these steps into WORKDIR/profile. Several processes: docs/pods.md.
"""

from absl import flags
from ml_collections import config_flags

from experiments import command_line

CONFIG = config_flags.DEFINE_config_file("config", None, "config file and preset, FILE.py:PRESET")
WORKDIR = flags.DEFINE_string("workdir", "", "folder of the run")
DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "compile the step without data, print per-device memory and the collectives of one step, and exit"
)
PROFILE = flags.DEFINE_string("profile", "", "START:STOP, the steps of which a trace is written")
PROCESSES = command_line.define_processes()
flags.mark_flags_as_required(["config"])


def main():
    command_line.join(PROCESSES)
    from flowjax import training, typing
    from flowjax.training import hosts

    if DRY_RUN.value:
        hosts.print_once(training.report(training.setup(CONFIG.value)))
        return
    if not WORKDIR.value:
        raise typing.InputError("--workdir is missing; give the folder of the run, which need not exist: --workdir=runs/NAME.")
    state = training.train(CONFIG.value, WORKDIR.value, profile=profiled())
    done = int(state.step)
    goes_on = "" if done == CONFIG.value.steps else " The same command goes on from there."
    hosts.print_once(f"{done} of {CONFIG.value.steps} steps done; everything is in {WORKDIR.value}.{goes_on}")


def profiled():
    """(START, STOP) of --profile, or ()."""
    from flowjax import typing

    start, colon, stop = PROFILE.value.partition(":")
    if not PROFILE.value:
        return ()
    if not (colon and start.isdigit() and stop.isdigit() and int(start) < int(stop)):
        raise typing.InputError(f"--profile={PROFILE.value}: expected START:STOP, two steps in this order: --profile=100:110.")
    return int(start), int(stop)


if __name__ == "__main__":
    command_line.run(main)
