"""DINOv2 without registers: the class token behind the last norm, by the names of Meta's files.

Facts from dinov2's vision_transformer.py (arXiv 2304.07193); edm2 takes ViT-L/14 at 224 pixels.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.autoencoders import vision_transformer as vit
from flowjax.evals.networks.features import Features, checked
from flowjax.typing import Array

EPSILON = 1e-6  # of the norms
OFFSET = 0.1  # pixels of the grid by which dinov2 stretches the position embedding, so that rounding never loses one


class Sizes(NamedTuple):
    """Sizes of a DINOv2.

    Attributes:
      width, depth, heads: of the transformer.
      patch: pixels of a side of a patch.
      grid: patches of a side for which the position embedding was trained.
      pixels: of a side of the images that it is given.
    """

    width: int = 1024
    depth: int = 24
    heads: int = 16
    patch: int = 14
    grid: int = 37
    pixels: int = 224


LARGE = Sizes()


def apply(params: Mapping[str, Any], images: Array, sizes: Sizes = LARGE) -> Features:
    """Class tokens of images [B, pixels, pixels, 3], which are normalised by ImageNet's mean and deviation: pool [B, width]."""
    x = vit.linear(params["patches"], vit.patches(images, sizes.patch)) + params["places"][None]
    x = jnp.concatenate([jnp.broadcast_to(params["class"][None], (len(images), 1, sizes.width)), x], axis=1)
    return Features(vit.norm(params["norm"], vit.blocks(params["blocks"], x, sizes.heads, EPSILON)[:, 0], EPSILON))


def weights(arrays: Mapping[str, np.ndarray], sizes: Sizes = LARGE) -> dict[str, Any]:
    """Published weights as params, with the position embedding brought to the grid of the images.

    Raises:
      InputError: the arrays are those of another network, such as one with registers.
    """
    named = checked(arrays, shapes(sizes), f"DINOv2 of width {sizes.width} and depth {sizes.depth}", ("mask_token",))
    linear = lambda name: {"kernel": named[f"{name}.weight"].T, "bias": named[f"{name}.bias"]}
    norm = lambda name: {"scale": named[f"{name}.weight"], "bias": named[f"{name}.bias"]}

    def block(name):
        return {
            "norm1": norm(f"{name}.norm1"), "qkv": linear(f"{name}.attn.qkv"), "proj": linear(f"{name}.attn.proj"),
            "ls1": named[f"{name}.ls1.gamma"], "norm2": norm(f"{name}.norm2"), "fc1": linear(f"{name}.mlp.fc1"),
            "fc2": linear(f"{name}.mlp.fc2"), "ls2": named[f"{name}.ls2.gamma"],
        }  # fmt: skip

    blocks = [block(f"blocks.{i}") for i in range(sizes.depth)]
    places = named["pos_embed"][0]
    kernel = named["patch_embed.proj.weight"].transpose(2, 3, 1, 0).reshape(-1, sizes.width)
    params = {
        "patches": {"kernel": kernel, "bias": named["patch_embed.proj.bias"]},
        "class": named["cls_token"][0] + places[:1],
        "places": _places(places[1:], sizes),
        "blocks": jax.tree.map(lambda *leaves: np.stack(leaves), *blocks),
        "norm": norm("norm"),
    }
    return jax.tree.map(lambda array: array.astype(np.float32), params)


def shapes(sizes: Sizes = LARGE) -> dict[str, tuple[int, ...]]:
    """{published name: shape} of all arrays."""
    D = sizes.width
    named: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, D), "pos_embed": (1, 1 + sizes.grid**2, D), "patch_embed.proj.weight": (D, 3, sizes.patch, sizes.patch),
        "patch_embed.proj.bias": (D,), "norm.weight": (D,), "norm.bias": (D,),
    }  # fmt: skip
    for i in range(sizes.depth):
        rows = {"attn.qkv": (3 * D, D), "attn.proj": (D, D), "mlp.fc1": (4 * D, D), "mlp.fc2": (D, 4 * D)}
        for name, shape in {**rows, "norm1": (D,), "norm2": (D,)}.items():
            named[f"blocks.{i}.{name}.weight"], named[f"blocks.{i}.{name}.bias"] = shape, shape[:1]
        named[f"blocks.{i}.ls1.gamma"] = named[f"blocks.{i}.ls2.gamma"] = (D,)
    return named


def unchunked(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Names of a file whose blocks lie in chunks, blocks.0.3.norm1 for blocks.3.norm1, as in a file without chunks."""
    return {re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", name): array for name, array in arrays.items()}


def _places(places: np.ndarray, sizes: Sizes) -> np.ndarray:
    """The position embedding [grid^2, D] at the patches of the images, [side^2, D]."""
    side = sizes.pixels // sizes.patch
    if side == sizes.grid:
        return places
    matrix = vit.cubic(sizes.grid, side, (side + OFFSET) / sizes.grid)
    grid = places.reshape(sizes.grid, sizes.grid, -1)
    return np.einsum("ai,bj,ijd->abd", matrix, matrix, grid).reshape(side * side, -1)
