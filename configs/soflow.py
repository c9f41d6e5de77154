"""SoFlow.

    python -m experiments.train --config=configs/soflow.py:digits --workdir=runs/soflow_digits

digits (default), 4,500 steps, 8 minutes: one step: Frechet distance in pixels 0.50, agreement with the requested label 0.982,
recall 0.84; four steps: 0.33, 0.991, 0.90.
checkerboard, 3,000 steps at batch 1,024, about a minute: sliced W2 to held-out points 0.060 at one step, 0.047 at two, 0.062 at
four; flow matching at one Euler step 1.135, other real points 0.024.
guided: digits at scales 1 to 4, 8 minutes: one step at w = 1.1: Frechet distance in pixels 0.54, agreement 0.989, recall 0.83.
earth: colour patches of 32 x 32 pixels (extra earth), 5,000 steps; not run.
test: 20 steps, seconds.

Hardware: two CPU cores that also did other work, so the durations are upper bounds. We ran all of these presets but earth, with one seed
each. Published constants: arXiv 2512.15657. Ours: the times and the power p on points.
"""

from configs import common


def get_config(preset="digits"):
    """The config of a preset, one of common.PRESETS."""
    config = common.base(preset, method="soflow")
    if preset not in common.IMAGES:  # the published constants are for images; on points they gain nothing over flow matching
        config.method.times = ("uniform_triangle",)
        config.method.anchor_times = ("uniform",)
        config.method.p = 0.5
    return config
