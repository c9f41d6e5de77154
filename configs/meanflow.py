"""MeanFlow.

    python -m experiments.train --config=configs/meanflow.py:digits --workdir=runs/meanflow_digits

digits (default, and what `make demo` runs), 4,500 steps, 4 to 7 minutes: one step: Frechet distance in pixels 0.40, agreement
with the requested label 0.979, recall 0.84; four steps: 0.34, 0.990, 0.87.
checkerboard, 3,000 steps at batch 1,024, about a minute: sliced W2 to held-out points 0.055 at one step, 0.057 at two, 0.068 at
four; flow matching at one Euler step 1.135, other real points 0.024.
guided: digits at scales 1 to 4, 8 minutes: one step at w = 1.1: Frechet distance in pixels 0.57, agreement 0.988, recall 0.74.
earth: colour patches of 32 x 32 pixels (extra earth), 5,000 steps, 19 minutes on one core: picture and scores of one step in
docs/images.md.
test: 20 steps, seconds.

Hardware: two CPU cores. We ran all of these presets, with one seed each. Published constants: arXiv 2505.13447, the
ImageNet-256 configuration; the preset guided takes the share k = 0.5 of its model of size B. Ours: the times and the power p on
points, the share of rows on the diagonal on images, the range of the guidance scales.
"""

from configs import common


def get_config(preset="digits"):
    """The config of a preset, one of common.PRESETS."""
    config = common.base(preset, method="meanflow")
    if preset not in common.IMAGES:  # the published constants are for images; on points they gain nothing over flow matching
        config.method.times = ("sorted_pair", ("uniform",))
        config.method.p = 0.5
    else:
        config.method.diagonal = "1/2"  # published: 3/4; on 1,500 digits more rows off the diagonal widen the recall
    return config
