"""Makes a run of published weights: python -m experiments.import_weights --config=configs/imagenet256.py:soflow,B/2 \\
    --weights=soflow:1200000.pt,part=ema_model --workdir=runs/soflow

The folder is that of a run that was trained elsewhere: experiments.sample, generate, evaluate and fid take it as --workdir, and
--config.start=runs/soflow trains on. KIND:FILE, or KIND:FILE,part=NAME for the part of a file that holds the network; kinds, and where each
is published: docs/images.md. Refused in one sentence if a name or a shape does not fit the network of the config.
"""

from absl import flags
from ml_collections import config_flags

from experiments import command_line
from flowjax import folders
from flowjax.models import published

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "config file and preset, FILE.py:PRESET, whose network the weights are of"
)
WEIGHTS = flags.DEFINE_string("weights", None, f"KIND:FILE or KIND:FILE,part=NAME, with a kind of {', '.join(published.KINDS)}")
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run, which must not exist or be empty")
flags.mark_flags_as_required(["config", "weights", "workdir"])


def main():
    from flowjax.training import published_runs

    folders.check_path(WORKDIR.value, "--workdir")
    count = published_runs.write(CONFIG.value, WEIGHTS.value, WORKDIR.value)
    print(f"{count:,} weights in {WORKDIR.value}: python -m experiments.sample --workdir={WORKDIR.value}")


if __name__ == "__main__":
    command_line.run(main)
