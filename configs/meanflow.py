"""MeanFlow."""

from configs import common


def get_config(preset="digits"):
    config = common.base(preset, method="meanflow")
    return config
