"""Trains any method: python -m experiments.train --config=configs/meanflow.py:digits --workdir=runs/digits

Any field can be overridden: --config.optim.learning_rate=3e-4. The same command on the same workdir goes on where it was
stopped or killed. Writes config.json, metrics.jsonl, TensorBoard events, samples/*.png and checkpoints/ into the workdir.
"""

from absl import flags
from ml_collections import config_flags

from experiments import command_line

CONFIG = config_flags.DEFINE_config_file("config", None, "config file and preset, FILE.py:PRESET")
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run")
flags.mark_flags_as_required(["config", "workdir"])


def main():
    from flowjax import training

    state = training.train(CONFIG.value, WORKDIR.value)
    done = int(state.step)
    goes_on = "" if done == CONFIG.value.steps else " The same command goes on from there."
    print(f"{done} of {CONFIG.value.steps} steps done; everything is in {WORKDIR.value}.{goes_on}")


if __name__ == "__main__":
    command_line.run(main)
