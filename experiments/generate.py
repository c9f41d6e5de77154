"""Writes many samples of a run: python -m experiments.generate --workdir=runs/demo --output=runs/demo/samples_50k --num=50000

Writes shards of --shard samples into --output: shard_00000.npz with the arrays x and label, and so on. Uses bounded memory and
all devices of this machine, or of all processes (docs/pods.md); weights that fill more than half of a device are divided among those
of a process. The same command continues a killed run and writes the same
files. Measure them with python -m experiments.evaluate --workdir=runs/demo --samples=runs/demo/samples_50k. On two CPU cores
100,000 one-step digits take about a minute.
"""

from absl import flags

from experiments import command_line

WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run")
OUTPUT = flags.DEFINE_string("output", None, "folder of the samples")
NUM = flags.DEFINE_integer("num", 50_000, "number of samples", lower_bound=1, upper_bound=command_line.MOST)
STEPS = flags.DEFINE_integer("steps", 1, "steps of the sampler", lower_bound=1, upper_bound=10_000)
LABELS = flags.DEFINE_list("labels", [], "classes of the samples, in turn; default: all classes")
SEED = flags.DEFINE_integer("seed", 0, "seed of the noise", lower_bound=0, upper_bound=2**32 - 1)
EMA = flags.DEFINE_string("ema", "", command_line.EMA_HELP)
CHECKPOINT = flags.DEFINE_string("checkpoint", "", command_line.CHECKPOINT_HELP)
SAMPLER = flags.DEFINE_string("sampler", "", command_line.SAMPLER_HELP)
GRID = flags.DEFINE_string("grid", "", command_line.GRID_HELP)
GUIDANCE = flags.DEFINE_float("guidance", None, command_line.GUIDANCE_HELP)
INTERVAL = flags.DEFINE_list("guidance_interval", [], command_line.INTERVAL_HELP)
SHARD = flags.DEFINE_integer(
    "shard",
    0,
    "samples in a file; 0: at most 8,192, and as many files for every process",
    lower_bound=0,
    upper_bound=command_line.MOST,
)
DTYPE = flags.DEFINE_string("dtype", "float32", "float32, or uint8 (0 to 255) for images")
PROCESSES = command_line.define_processes()
command_line.define_modules()
flags.mark_flags_as_required(["workdir", "output"])


def main():
    command_line.join(PROCESSES)
    from flowjax.evaluation import generation
    from flowjax.training import hosts

    generation.write(
        WORKDIR.value,
        OUTPUT.value,
        num=NUM.value,
        steps=STEPS.value,
        seed=SEED.value,
        labels=command_line.whole_numbers("labels", LABELS.value, low=0),
        average=EMA.value,
        checkpoint=CHECKPOINT.value,
        sampler=SAMPLER.value,
        grid=GRID.value,
        guidance=GUIDANCE.value,
        interval=command_line.numbers("guidance_interval", INTERVAL.value, count=2),
        shard=SHARD.value,
        dtype=DTYPE.value,
    )
    shard = generation.about(OUTPUT.value)["shard"]
    hosts.print_once(f"{NUM.value} samples in {OUTPUT.value}, {-(-NUM.value // shard)} file(s)")


if __name__ == "__main__":
    command_line.run(main)
