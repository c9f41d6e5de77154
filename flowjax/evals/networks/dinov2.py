"""DINOv2 without registers: the class token behind the last norm, by the names of Meta's files.

Facts from dinov2's vision_transformer.py (arXiv 2304.07193); edm2 takes ViT-L/14 at 224 pixels.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.evals.networks.features import Features, along, checked
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
    B, side, p = len(images), sizes.pixels // sizes.patch, sizes.patch
    x = images.reshape(B, side, p, side, p, 3).transpose(0, 1, 3, 2, 4, 5).reshape(B, side * side, p * p * 3)
    x = _linear(params["patches"], x)
    x = jnp.concatenate([jnp.broadcast_to(params["class"][None], (B, 1, sizes.width)), x + params["places"][None]], axis=1)

    def block(x, weights):
        x = x + along(weights["ls1"], x) * _attention(weights, _norm(weights["norm1"], x), sizes.heads)
        h = jax.nn.gelu(_linear(weights["fc1"], _norm(weights["norm2"], x)), approximate=False)
        return x + along(weights["ls2"], x) * _linear(weights["fc2"], h), None

    x, _ = jax.lax.scan(block, x, params["blocks"])
    return Features(_norm(params["norm"], x[:, 0]))


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
    matrix = _cubic(sizes.grid, side, (side + OFFSET) / sizes.grid)
    grid = places.reshape(sizes.grid, sizes.grid, -1)
    return np.einsum("ai,bj,ijd->abd", matrix, matrix, grid).reshape(side * side, -1)


def _cubic(before: int, after: int, scale: float) -> np.ndarray:
    """The matrix [after, before] of torch's bicubic interpolation: a = -3/4, no antialiasing, values beyond the edge are those at it."""
    a = -0.75
    near = lambda d: ((a + 2) * d - (a + 3)) * d * d + 1
    far = lambda d: ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    matrix = np.zeros((after, before))
    for i in range(after):
        place = (i + 0.5) / scale - 0.5
        first = int(np.floor(place))
        for j in range(first - 1, first + 3):
            d = abs(place - j)
            matrix[i, min(max(j, 0), before - 1)] += near(d) if d <= 1 else far(d)
    return matrix


def _linear(weights: Mapping[str, Array], x: Array) -> Array:
    y = jnp.matmul(x, weights["kernel"], precision="highest")
    return y + along(weights["bias"], y)


def _norm(weights: Mapping[str, Array], x: Array) -> Array:
    x = x - x.mean(axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt((x * x).mean(axis=-1, keepdims=True) + EPSILON)
    return x * along(weights["scale"], x) + along(weights["bias"], x)


def _attention(weights: Mapping[str, Any], x: Array, heads: int) -> Array:
    B, N, D = x.shape
    q, k, v = _linear(weights["qkv"], x).reshape(B, N, 3, heads, D // heads).transpose(2, 0, 3, 1, 4)
    scores = jnp.matmul(q, k.swapaxes(2, 3), precision="highest") * (D // heads) ** -0.5
    x = jnp.matmul(jax.nn.softmax(scores, axis=-1), v, precision="highest")
    return _linear(weights["proj"], x.transpose(0, 2, 1, 3).reshape(B, N, D))
