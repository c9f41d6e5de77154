"""Improved MeanFlow with one head (arXiv 2512.02012).

TODO
"""

from configs import common


def get_config(preset="digits"):
    """The config of a preset: "checkerboard", "digits" or "test"."""
    config = common.base(preset, method="imf")
    if preset != "digits":  # the published constants are for images; on points they gain nothing over flow matching
        config.method.times = ("sorted_pair", ("uniform",))
        config.method.p = 0.5
    return config
