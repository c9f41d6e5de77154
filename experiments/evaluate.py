"""Measures a run: python -m experiments.evaluate --workdir=runs/demo --steps=1,2,4

Needs the workdir alone. Prints a table of samples at each number of steps, held-out real data and noise against real data, and
writes it as evaluation.csv and evaluation.md into the workdir. Lower is better for distances, higher for agreement, recall and
precision.
"""

import pathlib

from absl import flags

from experiments import command_line, tables

WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run")
STEPS = flags.DEFINE_list("steps", ["1", "2", "4"], "numbers of steps")
NUM = flags.DEFINE_integer("num", 0, "number of samples; 0: as many as there are real rows, 10,000 at most", lower_bound=0)
SEED = flags.DEFINE_integer("seed", 0, "seed of the noise", lower_bound=0, upper_bound=2**32 - 1)
EMA = flags.DEFINE_string(
    "ema", "", "decay of the averaged weights, or none for the raw ones; default: the run's first average"
)
SAMPLER = flags.DEFINE_string("sampler", "", "flow_map, consistency, euler or heun; default: the run's own")
GUIDANCE = flags.DEFINE_float("guidance", None, "of a student of a guided teacher: the scale; default: the middle")
flags.mark_flag_as_required("workdir")


def main():
    from flowjax.training import evaluation

    steps = command_line.whole_numbers("steps", STEPS.value, low=1)
    rows, about = evaluation.evaluate(
        WORKDIR.value,
        steps,
        num=NUM.value,
        seed=SEED.value,
        average=EMA.value,
        sampler=SAMPLER.value,
        guidance=GUIDANCE.value,
    )
    path = pathlib.Path(WORKDIR.value) / "evaluation"
    print(tables.write(path, rows, about))
    print(f"{path}.csv\n{path}.md")


if __name__ == "__main__":
    command_line.run(main)
