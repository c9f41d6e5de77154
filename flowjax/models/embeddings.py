"""Layers before the first block of a network: of images, times, further inputs, labels and positions."""

import types
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from flowjax import conditioning, times, typing
from flowjax.typing import Array

flatten_times = times.flatten


def inputs(
    names: tuple[str, ...],
    cond: Mapping[str, Array] | None,
    x: Array,
    embed: Callable[[str, dict[str, Array]], list[Array]],
    vector: Callable[[str], Callable[[Array], Array]],
    features: Mapping[str, Callable] = types.MappingProxyType({}),
) -> list[Array]:
    """What the inputs of a network add to its conditioning, in the order of `names`; those like x are not among it, see `beside`.

    Args:
      names: keys of flowjax.conditioning.INPUTS.
      cond: a condition, or None.
      x: [B, ...], the data.
      embed: `(name, {name of the embedding: [B]}) -> a list of [B, width]`, of an input of numbers.
      vector: `name -> layer`, of an input of vectors, a function [B, n] -> [B, width].
      features: what is embedded of an input of numbers, by its name, where it is not the table's feature.

    Returns:
      A list of [B, width].
    """
    parts = []
    for name in names:
        kind = conditioning.INPUTS[name].kind
        if kind == "times":
            parts += embed(name, conditioning.numbers(name, cond, x, features.get(name)))
        if kind == "vector":
            parts.append(vector(name)(conditioning.value(name, cond, x)))
    return parts


def beside(
    h: Array,
    names: tuple[str, ...],
    cond: Mapping[str, Array] | None,
    x: Array,
    first: Callable[[str], Callable[[Array], Array]],
) -> Array:
    """The first layer's result `h` with that of each input like x added; `first`: `name -> layer`, a function of an array like x."""
    for name in names:
        if conditioning.INPUTS[name].kind == "data":
            h = h + first(name)(conditioning.value(name, cond, x).astype(x.dtype))
    return h


def patches(x: Array, p: int, network: str = "DiT") -> Array:
    """Images [B, H, W, C] as tokens [B, H W / p^2, p p C], row by row; raises InputError unless squares of side p tile them."""
    if x.ndim != 4 or x.shape[1] % p or x.shape[2] % p:
        raise typing.InputError(f"{network}: patches of {p} must tile images [B, H, W, C]; x has shape {x.shape}.")
    B, H, W, C = x.shape
    return x.reshape(B, H // p, p, W // p, p, C).transpose(0, 1, 3, 2, 4, 5).reshape(B, -1, p * p * C)


def image(tokens: Array, x: Array, p: int) -> Array:
    """Tokens [B, H W / p^2, p p C] as images in the shape and dtype of x: the inverse of `patches`."""
    B, H, W, C = x.shape
    h = tokens.reshape(B, H // p, W // p, p, p, C).transpose(0, 1, 3, 2, 4, 5)
    return h.reshape(x.shape).astype(x.dtype)


def fourier(t: Array, features: int, max_period: float) -> Array:
    """Sines and cosines of times: [B] in [-1, 1] -> [B, features].

    Angular frequencies fall geometrically from 1 to 1 / max_period when times are not scaled, as in the MeanFlow papers; a
    network that has to resolve short times takes a `scale` in its TimeEmbedding.
    """
    frequencies = np.exp(-np.log(max_period) * np.arange(features // 2) / (features // 2))
    angles = t[:, None] * frequencies.astype(t.dtype)[None]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def harmonics(t: Array, count: int) -> Array:
    """A time as itself and as sines and cosines of pi t, 2 pi t, ...: [B] -> [B, 1 + 2 count]."""
    angles = jnp.pi * t[:, None] * jnp.arange(1, count + 1, dtype=t.dtype)[None]
    return jnp.concatenate([t[:, None], jnp.sin(angles), jnp.cos(angles)], axis=-1)


class TimeEmbedding(nn.Module):
    """A time, or another number of that range, [B] -> [B, width] by sines, cosines and a two-layer MLP.

    Attributes:
      width: of the result.
      scale: times are multiplied by it; 1 as published for flow maps (not 1000: a jvp along time is multiplied too).
      max_period: ratio of the fastest to the slowest frequency.
      features: number of sines and cosines.
      zero: whether the last layer starts at zero.
      init: of the weights of both layers.
    """

    width: int
    scale: float = 1.0
    max_period: float = 10_000.0
    features: int = 256
    dtype: jnp.dtype = jnp.float32
    zero: bool = False
    init: Callable = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(self, t: Array) -> Array:
        last = nn.initializers.zeros if self.zero else self.init
        h = fourier(self.scale * t, self.features, self.max_period).astype(self.dtype)
        h = nn.silu(nn.Dense(self.width, kernel_init=self.init, dtype=self.dtype)(h))
        return nn.Dense(self.width, kernel_init=last, dtype=self.dtype)(h)


class LabelEmbedding(nn.Module):
    """Labels [B] in -1..num_classes-1 -> [B, width]; -1 is the null label: the extra last row."""

    num_classes: int
    width: int
    dtype: jnp.dtype = jnp.float32
    init: Callable = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(self, label: Array) -> Array:
        rows = jnp.where(label < 0, self.num_classes, label)
        return nn.Embed(self.num_classes + 1, self.width, embedding_init=self.init, dtype=self.dtype)(rows)


def grid_positions(height: int, width: int, features: int) -> np.ndarray:
    """Fixed sine-cosine positions of a grid of tokens, [height * width, features], row by row.

    The first half of the features encodes the column and the second half the row, each as [sines, cosines], as in the published code.
    """
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    frequencies = 10_000.0 ** -(np.arange(features // 4) / (features // 4))
    angles = [axis.reshape(-1, 1) * frequencies for axis in (columns, rows)]
    return np.concatenate([f(angle) for angle in angles for f in (np.sin, np.cos)], axis=1).astype(np.float32)


def rotary_angles(positions: np.ndarray, features: int, theta: float = 10_000.0) -> np.ndarray:
    """Angles by which pairs of features turn at whole-number positions [N], [N, features // 2]; frequencies fall from 1 to 1 / theta."""
    return np.asarray(positions)[:, None] * theta ** -(np.arange(0, features, 2) / features)


def rotated(z: Array, angles: Array) -> Array:
    """Turns the pairs of features (2 i, 2 i + 1) of z [B, N, heads, head_dim] by angles [N, head_dim / 2], in the dtype of z."""
    angles = jnp.asarray(angles, z.dtype)[None, :, None]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    pairs = z.reshape(*z.shape[:-1], -1, 2)
    a, b = pairs[..., 0], pairs[..., 1]
    return jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(z.shape)
