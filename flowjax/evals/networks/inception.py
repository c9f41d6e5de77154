"""Inception-v3 as the FID needs it: the network that TensorFlow's graph of 2015-12-05 holds, by the names of its torch ports.

It is torchvision's but for four things: averages over 3 x 3 pixels leave the padding out, the last block takes a maximum there, norms add
0.001, and there are 1,008 classes. Facts from pytorch-fid's inception.py and torch-fidelity's feature_extractor_inceptionv3.py.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.autoencoders.vision_transformer import along
from flowjax.evals.networks.features import Features, checked
from flowjax.typing import Array

SPATIAL = 7  # channels of the spatial features, 17 x 17 x 7 = 2,023 numbers (guided-diffusion's evaluator)
CLASSES = 1_008
EPSILON = 1e-3  # of the norms
NAME = "Inception-v3 of the FID"


class Conv(NamedTuple):
    """A convolution with its norm and relu; one with stride 2 has no padding.

    Attributes:
      name: in the published file, below the name of its block.
      width: channels that leave it.
      kernel: height and width.
      stride: 1 or 2.
      padded: whether the size stays, at stride 1.
    """

    name: str
    width: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padded: bool = True


def _maximum(x: Array, stride: int) -> Array:
    padding = "VALID" if stride == 2 else "SAME"
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, stride, stride, 1), padding)


def _halved(x: Array) -> Array:
    """The maximum over 3 x 3 pixels at every second one."""
    return _maximum(x, 2)


def _average(x: Array) -> Array:
    """The average over 3 x 3 pixels; beyond the edge there are none."""
    total = lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
    return total(x) / total(jnp.ones((1, *x.shape[1:3], 1), x.dtype))


# A branch: convolutions and pools one after another; a list of convolutions beside each other is joined.
Branch = tuple[Any, ...]


def _a(pooled: int) -> tuple[Branch, ...]:
    return (
        (Conv("branch1x1", 64),),
        (Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5))),
        (Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, (3, 3)), Conv("branch3x3dbl_3", 96, (3, 3))),
        (_average, Conv("branch_pool", pooled)),
    )


def _c(width: int) -> tuple[Branch, ...]:
    across, down = (1, 7), (7, 1)
    return (
        (Conv("branch1x1", 192),),
        (Conv("branch7x7_1", width), Conv("branch7x7_2", width, across), Conv("branch7x7_3", 192, down)),
        (
            Conv("branch7x7dbl_1", width), Conv("branch7x7dbl_2", width, down), Conv("branch7x7dbl_3", width, across),
            Conv("branch7x7dbl_4", width, down), Conv("branch7x7dbl_5", 192, across),
        ),
        (_average, Conv("branch_pool", 192)),
    )  # fmt: skip


def _e(pool: Callable[[Array], Array]) -> tuple[Branch, ...]:
    beside = lambda name: [Conv(f"{name}a", 384, (1, 3)), Conv(f"{name}b", 384, (3, 1))]
    return (
        (Conv("branch1x1", 320),),
        (Conv("branch3x3_1", 384), beside("branch3x3_2")),
        (Conv("branch3x3dbl_1", 448), Conv("branch3x3dbl_2", 384, (3, 3)), beside("branch3x3dbl_3")),
        (pool, Conv("branch_pool", 192)),
    )


_B = (
    (Conv("branch3x3", 384, (3, 3), 2),),
    (Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, (3, 3)), Conv("branch3x3dbl_3", 96, (3, 3), 2)),
    (_halved,),
)
_D = (
    (Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, (3, 3), 2)),
    (
        Conv("branch7x7x3_1", 192), Conv("branch7x7x3_2", 192, (1, 7)), Conv("branch7x7x3_3", 192, (7, 1)),
        Conv("branch7x7x3_4", 192, (3, 3), 2),
    ),
    (_halved,),
)  # fmt: skip
_STEM: Branch = (
    Conv("Conv2d_1a_3x3", 32, (3, 3), 2), Conv("Conv2d_2a_3x3", 32, (3, 3), padded=False), Conv("Conv2d_2b_3x3", 64, (3, 3)),
    _halved, Conv("Conv2d_3b_1x1", 80), Conv("Conv2d_4a_3x3", 192, (3, 3), padded=False), _halved,
)  # fmt: skip
BLOCKS: dict[str, tuple[Branch, ...]] = {
    "Mixed_5b": _a(32), "Mixed_5c": _a(64), "Mixed_5d": _a(64), "Mixed_6a": _B, "Mixed_6b": _c(128), "Mixed_6c": _c(160),
    "Mixed_6d": _c(160), "Mixed_6e": _c(192), "Mixed_7a": _D, "Mixed_7b": _e(_average), "Mixed_7c": _e(lambda x: _maximum(x, 1)),
}  # fmt: skip


def apply(params: Mapping[str, Any], images: Array) -> Features:
    """Features of images.

    Args:
      params: of `weights`.
      images: [B, H, W, 3] float32, 299 pixels a side in all protocols, scaled as the protocol says; at least 75 pixels a side.

    Returns:
      pool [B, 2048], spatial [B, 17 * 17 * 7] in the order of TensorFlow (rows, columns, channels), logits [B, 1008].
    """
    x = _branch(params, "", _STEM, images)
    for block, branches in BLOCKS.items():
        x = jnp.concatenate([_branch(params, f"{block}.", branch, x) for branch in branches], axis=-1)
        if block == "Mixed_6d":
            spatial = x[..., :SPATIAL].reshape(len(x), -1)  # the first channels are those of branch1x1
    pool = x.mean(axis=(1, 2))
    return Features(pool, spatial, jnp.matmul(pool, params["fc"]["kernel"], precision="highest"))


def biased(params: Mapping[str, Any], logits: Array) -> Array:
    """Logits with the bias of the last layer, which the Inception score leaves out."""
    return logits + along(params["fc"]["bias"], logits)


def weights(arrays: Mapping[str, np.ndarray], narrow: int = 1) -> dict[str, Any]:
    """Published weights as params, each norm folded into its convolution in float64.

    Args:
      arrays: {published name: array}, 472 of them.
      narrow: by which all channels but the colours and the classes are divided, for tests.

    Returns:
      {name: {"kernel": [h, w, in, out], "bias": [out]}} in float32.

    Raises:
      InputError: the arrays are those of another network.
    """
    layers = dict(_convolutions(narrow))
    named = checked(arrays, shapes(narrow), NAME, (".num_batches_tracked",))
    params = {}
    for name in layers:
        norm = {part: named[f"{name}.bn.{part}"] for part in ("weight", "bias", "running_mean", "running_var")}
        factor = norm["weight"] / np.sqrt(norm["running_var"] + EPSILON)
        kernel = named[f"{name}.conv.weight"].transpose(2, 3, 1, 0) * factor
        params[name] = {"kernel": kernel, "bias": norm["bias"] - norm["running_mean"] * factor}
    params["fc"] = {"kernel": named["fc.weight"].T, "bias": named["fc.bias"]}
    return jax.tree.map(lambda array: array.astype(np.float32), params)


def shapes(narrow: int = 1) -> dict[str, tuple[int, ...]]:
    """{published name: shape} of all arrays."""
    named: dict[str, tuple[int, ...]] = {}
    for name, shape in _convolutions(narrow):
        named[f"{name}.conv.weight"] = shape
        named |= {f"{name}.bn.{part}": shape[:1] for part in ("weight", "bias", "running_mean", "running_var")}
    width = 2_048 // narrow
    return {**named, "fc.weight": (CLASSES, width), "fc.bias": (CLASSES,)}


def _convolutions(narrow: int) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
    """(name, shape of the kernel as torch has it) of all convolutions, in their order."""

    def along(prefix, branch, channels):
        for layer in branch:
            beside = layer if isinstance(layer, list) else [layer] if isinstance(layer, Conv) else []
            yield from ((prefix + conv.name, (conv.width // narrow, channels, *conv.kernel)) for conv in beside)
            channels = sum(conv.width for conv in beside) // narrow or channels
        return channels

    channels = yield from along("", _STEM, 3)
    for block, branches in BLOCKS.items():
        widths = []
        for branch in branches:
            widths.append((yield from along(f"{block}.", branch, channels)))
        channels = sum(widths)


def _branch(params: Mapping[str, Any], prefix: str, branch: Branch, x: Array) -> Array:
    for layer in branch:
        if isinstance(layer, list):
            x = jnp.concatenate([_conv(params[prefix + conv.name], conv, x) for conv in layer], axis=-1)
        else:
            x = _conv(params[prefix + layer.name], layer, x) if isinstance(layer, Conv) else layer(x)
    return x


def _conv(weights: Mapping[str, Array], conv: Conv, x: Array) -> Array:
    padding = "SAME" if conv.padded and conv.stride == 1 else "VALID"
    y = jax.lax.conv_general_dilated(
        x, weights["kernel"], (conv.stride,) * 2, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
    )
    return jax.nn.relu(y + along(weights["bias"], y))
