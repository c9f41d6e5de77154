"""Terminal Velocity Matching (arXiv 2511.19797).

TODO
"""

from configs import common


def get_config(preset="digits"):
    """The config of a preset: "checkerboard", "digits" or "test"."""
    config = common.base(preset, method="tvm")
    if preset != "digits":  # the published constants are for images; on points they gain nothing over flow matching
        config.method.times = ("uniform_triangle",)
        config.method.anchor_times = ("uniform",)
    return config
