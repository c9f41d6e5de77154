"""Flow matching: the anchor alone, sampled with Euler's method.

TODO
"""

from configs import common


def get_config(preset="digits"):
    """The config of a preset: "checkerboard", "digits" or "test"."""
    config = common.base(preset, method="flow_matching")
    config.sampler = "euler"
    return config
