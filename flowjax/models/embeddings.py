"""What a network makes of times, labels and positions before its first block."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from flowjax import typing


def flatten_times(t, x):
    """Times as a network wants them, [B], never narrower than float32, from a scalar or [B, 1, ..., 1]."""
    t = jnp.asarray(t)
    t = t.astype(jnp.promote_types(t.dtype, jnp.float32))
    return jnp.broadcast_to(t.reshape(-1), (x.shape[0],))


def guidance_scale(cond, x):
    """The scale of the guidance as a time, 1 - 1 / w in [0, 1): [B], from cond["guidance"] [B]; raises InputError without it."""
    if "guidance" not in (cond or {}):
        raise typing.InputError(
            'this network was built with guidance=True: pass cond["guidance"], one scale of at least 1 a row.'
        )
    return 1 - 1 / flatten_times(cond["guidance"], x)


def fourier(t, features, max_period):
    """Sines and cosines of times: [B] in [-1, 1] -> [B, features].

    Angular frequencies fall geometrically from 1 to 1 / max_period when times are not scaled, as in the MeanFlow papers; a
    network that has to resolve short times takes a `scale` in its TimeEmbedding.
    """
    frequencies = np.exp(-np.log(max_period) * np.arange(features // 2) / (features // 2))
    angles = t[:, None] * frequencies.astype(t.dtype)[None]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def harmonics(t, count):
    """A time as itself and as sines and cosines of pi t, 2 pi t, ...: [B] -> [B, 1 + 2 count]."""
    angles = jnp.pi * t[:, None] * jnp.arange(1, count + 1, dtype=t.dtype)[None]
    return jnp.concatenate([t[:, None], jnp.sin(angles), jnp.cos(angles)], axis=-1)


class TimeEmbedding(nn.Module):
    """A time (or a guidance scale) [B] -> [B, width] by sines, cosines and a two-layer MLP.

    Attributes:
      width: of the result.
      scale: times are multiplied by it; 1 as published for flow maps (not 1000: a jvp along time is multiplied too).
      max_period: ratio of the fastest to the slowest frequency.
      features: number of sines and cosines.
      zero: whether the last layer starts at zero.
    """

    width: int
    scale: float = 1.0
    max_period: float = 10_000.0
    features: int = 256
    dtype: jnp.dtype = jnp.float32
    zero: bool = False

    @nn.compact
    def __call__(self, t):
        normal = nn.initializers.normal(0.02)
        last = nn.initializers.zeros if self.zero else normal
        h = fourier(self.scale * t, self.features, self.max_period).astype(self.dtype)
        h = nn.silu(nn.Dense(self.width, kernel_init=normal, dtype=self.dtype)(h))
        return nn.Dense(self.width, kernel_init=last, dtype=self.dtype)(h)


class LabelEmbedding(nn.Module):
    """Labels [B] in -1..num_classes-1 -> [B, width]; -1, or no label at all, is the null label: the extra last row."""

    num_classes: int
    width: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, label, batch):
        label = jnp.full((batch,), -1) if label is None else label
        rows = jnp.where(label < 0, self.num_classes, label)
        return nn.Embed(self.num_classes + 1, self.width, embedding_init=nn.initializers.normal(0.02), dtype=self.dtype)(rows)


def grid_positions(height, width, features):
    """Fixed sine-cosine positions of a grid of tokens, [height * width, features]; half of the features for each axis."""
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    frequencies = 10_000.0 ** -(np.arange(features // 4) / (features // 4))
    angles = [axis.reshape(-1, 1) * frequencies for axis in (rows, columns)]
    return np.concatenate([f(angle) for angle in angles for f in (np.sin, np.cos)], axis=1).astype(np.float32)
