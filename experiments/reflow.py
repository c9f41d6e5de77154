"""Writes trajectories of a teacher, from noise to data:

    python -m experiments.reflow --workdir=runs/flow_matching --output=runs/pairs

Any method trains on this coupling with --config.data.coupling=runs/pairs. rectified_meanflow is MeanFlow on it:

    python -m experiments.train --config=configs/method.py:rectified_meanflow,digits --config.data.coupling=runs/pairs \\
      --workdir=runs/rectified

With --points=17 the folder holds 17 points of each trajectory, from which consistency mid-training (cmt) learns. The same
command continues a killed run. On two CPU cores 65,536 pairs of points take seconds, 8,192 digits by 64 Heun steps about two
minutes.
"""

from absl import flags

from experiments import command_line

WORKDIR = flags.DEFINE_string("workdir", None, "folder of the teacher's run")
OUTPUT = flags.DEFINE_string("output", None, "folder of the trajectories")
NUM = flags.DEFINE_integer("num", 65_536, "number of trajectories", lower_bound=1, upper_bound=command_line.MOST)
STEPS = flags.DEFINE_integer("steps", 64, "steps of the solver", lower_bound=1, upper_bound=10_000)
POINTS = flags.DEFINE_integer(
    "points", 2, "stored points of each trajectory, both ends included", lower_bound=2, upper_bound=10_001
)
SOLVER = flags.DEFINE_string("solver", "heun", "euler or heun")
SEED = flags.DEFINE_integer("seed", 0, "seed of the noise", lower_bound=0, upper_bound=2**32 - 1)
command_line.define_modules()
flags.mark_flags_as_required(["workdir", "output"])


def main():
    from flowjax.evaluation import trajectories

    trajectories.write(
        WORKDIR.value,
        OUTPUT.value,
        num=NUM.value,
        steps=STEPS.value,
        points=POINTS.value,
        solver=SOLVER.value,
        seed=SEED.value,
    )
    print(f"{NUM.value} trajectories in {OUTPUT.value}: --config.data.coupling={OUTPUT.value}")


if __name__ == "__main__":
    command_line.run(main)
