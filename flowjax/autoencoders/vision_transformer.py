"""What DINOv2 and the decoder of representation autoencoders are made of, as functions of weights; products in full float32 precision."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.typing import Array


def along(vector: Array, x: Array) -> Array:
    """A vector of the last axis with as many axes as x."""
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))


def patches(x: Array, side: int) -> Array:
    """Images [B, H, W, C] as rows of pixels, [B, H W / side^2, side side C]."""
    B, H, W, C = x.shape
    x = x.reshape(B, H // side, side, W // side, side, C).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(B, -1, side * side * C)


def image(tokens: Array, side: int) -> Array:
    """The inverse of `patches`, of square images."""
    B, N, width = tokens.shape
    count, C = round(N**0.5), width // side**2
    x = tokens.reshape(B, count, count, side, side, C).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(B, count * side, count * side, C)


def linear(weights: Mapping[str, Array], x: Array) -> Array:
    """x [..., n] -> [..., m]."""
    y = jnp.matmul(x, weights["kernel"], precision="highest")
    return y + along(weights["bias"], y)


def norm(weights: Mapping[str, Array] | None, x: Array, epsilon: float) -> Array:
    """Tokens of mean 0 and variance 1; None: without scale and bias."""
    x = x - x.mean(axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt((x * x).mean(axis=-1, keepdims=True) + epsilon)
    return x if weights is None else x * along(weights["scale"], x) + along(weights["bias"], x)


def attention(weights: Mapping[str, Any], x: Array, heads: int) -> Array:
    """Attention between all tokens [B, N, D], with the weights "qkv" and "proj"."""
    B, N, D = x.shape
    q, k, v = linear(weights["qkv"], x).reshape(B, N, 3, heads, D // heads).transpose(2, 0, 3, 1, 4)
    scores = jnp.matmul(q, k.swapaxes(2, 3), precision="highest") * (D // heads) ** -0.5
    x = jnp.matmul(jax.nn.softmax(scores, axis=-1), v, precision="highest")
    return linear(weights["proj"], x.transpose(0, 2, 1, 3).reshape(B, N, D))


def blocks(weights: Mapping[str, Any], x: Array, heads: int, epsilon: float) -> Array:
    """Blocks of attention and MLP, one after another: tokens [B, N, D] -> [B, N, D].

    Args:
      weights: those of all blocks, stacked: norm1, qkv, proj, norm2, fc1, fc2, and ls1 and ls2, [D], by which what a block adds is
        multiplied, if they are there.
      x: the tokens.
      heads: of the attention.
      epsilon: of the norms.
    """

    def block(x, weights):
        scaled = lambda name, y: along(weights[name], y) * y if name in weights else y
        x = x + scaled("ls1", attention(weights, norm(weights["norm1"], x, epsilon), heads))
        h = jax.nn.gelu(linear(weights["fc1"], norm(weights["norm2"], x, epsilon)), approximate=False)
        return x + scaled("ls2", linear(weights["fc2"], h)), None

    return jax.lax.scan(block, x, weights)[0]


def cubic(before: int, after: int, scale: float) -> np.ndarray:
    """The matrix [after, before] of torch's bicubic interpolation: a = -3/4, no antialiasing, values beyond the edge are those at it."""
    matrix = np.zeros((after, before))
    for i in range(after):
        place = (i + 0.5) / scale - 0.5
        first = int(np.floor(place))
        for j in range(first - 1, first + 3):
            matrix[i, min(max(j, 0), before - 1)] += _kernel(abs(place - j), -0.75)
    return matrix


def antialiased_cubic(before: int, after: int) -> np.ndarray:
    """The matrix [after, before] of torch's bicubic interpolation with antialiasing: a = -1/2, weights beyond the edge are left out."""
    scale = max(before / after, 1.0)
    centres = (np.arange(after) + 0.5) * before / after
    distances = np.abs(np.arange(before) + 0.5 - centres[:, None]) / scale
    matrix = np.vectorize(lambda d: _kernel(d, -0.5))(distances)
    return matrix / matrix.sum(axis=1, keepdims=True)


def resized(matrix: np.ndarray, grid: Array) -> Array:
    """A square grid [..., n, n, C] by a matrix [m, n] of both sides: [..., m, m, C]."""
    return jnp.einsum("ai,bj,...ijc->...abc", matrix, matrix, grid, precision="highest")


def _kernel(d: float, a: float) -> float:
    """Keys' cubic kernel at a distance of 0 or more."""
    if d <= 1:
        return ((a + 2) * d - (a + 3)) * d * d + 1
    return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a if d < 2 else 0.0
