"""Terminal Velocity Matching.

    python -m experiments.train --config=configs/tvm.py:digits --workdir=runs/tvm_digits

digits (default), 4,500 steps, 13 minutes: one step: Frechet distance in pixels 0.36, agreement with the requested label 0.982,
recall 0.88; four steps: 0.21, 0.982, 0.93.
checkerboard, 3,000 steps at batch 1,024, about three minutes: sliced W2 to held-out points 0.030 at one step, 0.028 at two,
0.030 at four; flow matching at one Euler step 1.135, other real points 0.024.
guided: digits at scales 1 to 4, 24 minutes beside other work: one step at w = 1.1: Frechet distance in pixels 0.54, agreement
0.981, recall 0.84.
earth: colour patches of 32 x 32 pixels (extra earth), 5,000 steps; not run.
test: 20 steps, seconds.

Hardware: two CPU cores that also did other work, so the durations are upper bounds. We ran all of these presets but earth, with one seed
each. Published constants: arXiv 2511.19797. Ours: the times on points; the plain DiT instead of the semi-Lipschitz one.
"""

from configs import common


def get_config(preset="digits"):
    """The config of a preset, one of common.PRESETS."""
    config = common.base(preset, method="tvm")
    if preset not in common.IMAGES:  # the published constants are for images; on points they gain nothing over flow matching
        config.method.times = ("uniform_triangle",)
        config.method.anchor_times = ("uniform",)
    return config
