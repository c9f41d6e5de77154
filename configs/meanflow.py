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
    return config
