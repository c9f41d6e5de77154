"""A method's digits on the network of a paper: --config=configs/network.py:METHOD,NETWORK

    python -m experiments.train --config=configs/network.py:imf,mit --workdir=runs/imf_mit
    python -m experiments.train --config=configs/network.py:dmf,decoupled_dit --config.start=runs/teacher --workdir=runs/dmf

METHOD is a row of `python -m experiments.landscape --table`. NETWORK is dit, mit, decoupled_dit, semi_lipschitz_dit or unet,
small enough for two CPU cores. Everything else is the method's preset guided, which some methods refuse (configs/method.py).
Without guidance: `--config.guidance.kind= --config.guidance.scale="(1.0, 1.0)"`. Improved MeanFlow and pixel MeanFlow train
both heads of a mit. Published sizes: `--config.model.size=B`.
"""

from configs import common, method as method_config
from flowjax import checks, typing

SMALL = {
    "dit": {"width": 64, "depth": 3, "heads": 2, "patch": 2, "unroll": 3},
    "mit": {"width": 64, "depth": 4, "heads": 2, "patch": 2, "head_depth": 2, "unroll": 2},
    "decoupled_dit": {"width": 64, "depth": 3, "heads": 2, "patch": 2, "unroll": 2},
    "semi_lipschitz_dit": {"width": 64, "depth": 3, "heads": 2, "patch": 2, "unroll": 3},
    "unet": {"channels": 32, "multipliers": (1, 2), "blocks": 1, "attention_at": (4,)},
}


def get_config(choice="imf,mit"):
    """The config of a choice "METHOD,NETWORK"."""
    name, comma, network = choice.partition(",")
    if not comma:
        raise typing.InputError(f"--config=configs/network.py:{choice} names no network; expected METHOD,NETWORK: imf,mit.")
    checks.member("network for images", network, SMALL)
    config = method_config.get_config(f"{name},guided")
    config.model = common.network(network, **SMALL[network], parameterisation=config.model.parameterisation)
    if network == "mit" and "heads" in config.method:
        config.method.heads = 2
    return config
