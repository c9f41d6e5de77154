"""MeanFlow (arXiv 2505.13447).

TODO
"""

from configs import common


def get_config(preset="digits"):
    """The config of a preset: "checkerboard", "digits" or "test"."""
    config = common.base(preset, method="meanflow")
    if preset != "digits":  # the published constants are for images; on points they gain nothing over flow matching
        config.method.times = ("sorted_pair", ("uniform",))
        config.method.p = 0.5
    if preset == "digits":
        config.method.diagonal = "1/2"  # published: 3/4; on 1,500 digits more rows off the diagonal widen the recall
    return config
