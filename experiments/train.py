"""Trains any method: python -m experiments.train --config=configs/meanflow.py:digits --workdir=runs/digits

Any field can be overridden: --config.optim.learning_rate=3e-4, --config.mesh.fsdp=8. The same command on the same workdir
continues a training that was stopped or killed, on any number of devices and hosts. Writes config.json, metrics.jsonl,
TensorBoard events, samples/*.png and checkpoints/ into the workdir. --dry_run reads no data: it prints parameters, memory and
FLOPs of a step and the device-hours of the training, then compiles the step, prints its memory and collectives, and exits;
--dry_run --devices=64 does the first for 64 devices that need not exist, and compiles nothing; --dry_run --topology=v5e:16x16
compiles for TPUs that need not exist. --profile=100:110 writes a trace of these steps into WORKDIR/profile. Several processes:
docs/pods.md.
"""

import re

from absl import flags
from ml_collections import config_flags

from experiments import command_line

CONFIG = config_flags.DEFINE_config_file("config", None, "config file and preset, FILE.py:PRESET")
WORKDIR = flags.DEFINE_string("workdir", "", "folder of the run")
DRY_RUN = flags.DEFINE_bool(
    "dry_run",
    False,
    "without data, print what the training needs, compile the step, print its memory and collectives, and exit",
)
DEVICES = flags.DEFINE_integer(
    "devices", 0, "with --dry_run: trace for so many devices, which need not exist, and compile nothing", 0, 2**20
)
TOPOLOGY = flags.DEFINE_string(
    "topology", "", "with --dry_run: compile for these TPUs, which need not exist: v5e:16x16, v5p:4x4x8"
)
CHIP = flags.DEFINE_string(
    "chip",
    "",
    "with --dry_run: for device-hours, such as 'TPU v5p' or 'NVIDIA H200'; default: that of --topology, else TPU v5p",
)
UTILISATION = flags.DEFINE_float("utilisation", 0.4, "with --dry_run: share of the chip's peak, for device-hours", 0.0, 1.0)
PROGRAMS = flags.DEFINE_string("programs", "", "folder of compiled programs, or none; default: WORKDIR/programs")
DEADLINE = flags.DEFINE_float(
    "deadline_s",
    0.0,
    "seconds from a signal until this machine is gone, 25 for a spot TPU; 0: a save may take any time",
    0.0,
    1e6,
)
PROFILE = flags.DEFINE_string("profile", "", "START:STOP, the steps of which a trace is written")
PROCESSES = command_line.define_processes()
flags.mark_flags_as_required(["config"])


def main():
    command_line.join(PROCESSES)
    from flowjax import folders, training, typing
    from flowjax.training import hosts

    if DRY_RUN.value:
        dry_run()
        return
    for flag in (DEVICES, TOPOLOGY, CHIP, UTILISATION):
        if flag.value != flag.default:
            raise typing.InputError(
                f"--{flag.name} is for --dry_run; a training runs on the devices that there are: leave the flag out."
            )
    if not WORKDIR.value:
        raise typing.InputError("--workdir is missing; give the folder of the run, which need not exist: --workdir=runs/NAME.")
    if PROGRAMS.value:
        folders.check_path(PROGRAMS.value, "--programs")
    programs = None if PROGRAMS.value == "none" else PROGRAMS.value
    state = training.train(CONFIG.value, WORKDIR.value, profile=profiled(), programs=programs, deadline_s=DEADLINE.value)
    done = int(state.step)
    goes_on = "" if done == CONFIG.value.steps else " The same command goes on from there."
    hosts.print_once(f"{done} of {CONFIG.value.steps} steps done; everything is in {WORKDIR.value}.{goes_on}")


def dry_run():
    """Prints what a training needs."""
    import jax

    from flowjax import training, typing
    from flowjax.profiling import ahead_of_time
    from flowjax.training import estimates, hosts, log

    if TOPOLOGY.value and DEVICES.value:
        raise typing.InputError(
            f"--topology={TOPOLOGY.value} --devices={DEVICES.value}: expected one of them; a topology says how many devices there are."
        )
    devices = ahead_of_time.devices(TOPOLOGY.value) if TOPOLOGY.value else jax.devices()
    chip = CHIP.value or TOPOLOGY.value and log.chip(devices[0]) or estimates.CHIP
    sketch = training.sketch(CONFIG.value, DEVICES.value or len(devices))
    estimate = estimates.of_run(sketch)
    hosts.print_once(estimates.report(sketch, chip=chip, utilisation=UTILISATION.value, estimate=estimate))
    if not DEVICES.value:
        hosts.print_once("\n" + training.report(training.setup(CONFIG.value, devices, read_data=False), estimate.flops))


def profiled():
    """(START, STOP) of --profile, or ()."""
    from flowjax import typing

    if not PROFILE.value:
        return ()
    steps = re.fullmatch(r"([0-9]{1,18}):([0-9]{1,18})", PROFILE.value)
    start, stop = map(int, steps.groups()) if steps else (0, 0)
    if not start < stop:
        raise typing.InputError(f"--profile={PROFILE.value}: expected START:STOP, two steps in this order: --profile=100:110.")
    return start, stop


if __name__ == "__main__":
    command_line.run(main)
