"""The U-Net of DDPM++ with two times."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flowjax import conditioning, typing
from flowjax.models import attention, dit, embeddings
from flowjax.typing import Array, Time

XAVIER = nn.initializers.xavier_uniform()
MAX_PERIOD = 10_000.0


def _scaled(factor):
    """Xavier's uniform initialisation times a factor, which is what EDM calls `init_weight`."""
    return nn.initializers.variance_scaling(factor**2, "fan_avg", "uniform")


def _dense(features, dtype, name, init=XAVIER, bias=True):
    return nn.Dense(features, kernel_init=init, use_bias=bias, dtype=dtype, name=name)


def _conv(features, dtype, name, init=XAVIER, bias=True):
    return nn.Conv(features, (3, 3), kernel_init=init, use_bias=bias, dtype=dtype, name=name)


def _norm(channels, dtype, name):
    """Group norm of four channels or more a group and 32 groups at most; its statistics are float32 at least, whatever `dtype`."""
    groups = max(g for g in range(1, min(32, channels // 4) + 1) if channels % g == 0)
    return nn.GroupNorm(groups, epsilon=1e-6, dtype=dtype, name=name)


def halved(h: Array, taps: tuple[int, ...] = (1, 1)) -> Array:
    """Every second pixel of the filtered image, [B, H, W, C] -> [B, H / 2, W / 2, C]; taps (1, 1): means of 2 x 2 pixels.

    The filter is `taps / sum(taps)` along rows and along columns; beyond the edge there are zeros, as in EDM.
    """
    B, H, W, C = h.shape
    if tuple(taps) == (1, 1):
        return h.reshape(B, H // 2, 2, W // 2, 2, C).mean((2, 4))
    pad = (len(taps) - 1) // 2
    return _filtered(h, taps, 1.0, window_strides=(2, 2), padding=[(pad, pad)] * 2)


def doubled(h: Array, taps: tuple[int, ...] = (1, 1)) -> Array:
    """Zeros between the pixels, then the filter times 2 in each direction, [B, H, W, C] -> [B, 2 H, 2 W, C]; see `halved`.

    Taps (1, 1): every pixel four times.
    """
    B, H, W, C = h.shape
    if tuple(taps) == (1, 1):
        return jnp.broadcast_to(h[:, :, None, :, None], (B, H, 2, W, 2, C)).reshape(B, 2 * H, 2 * W, C)
    pad = len(taps) - 1 - (len(taps) - 1) // 2
    return _filtered(h, taps[::-1], 2.0, window_strides=(1, 1), padding=[(pad, pad)] * 2, lhs_dilation=(2, 2))


def _filtered(h, taps, gain, **how):
    """Each channel by itself through the outer product of the taps with themselves."""
    line = gain * np.asarray(taps, np.float64) / np.sum(taps)
    kernel = jnp.asarray(np.outer(line, line), h.dtype)[:, :, None, None]
    return jax.lax.conv_general_dilated(
        h,
        jnp.broadcast_to(kernel, (*kernel.shape[:3], h.shape[-1])),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=h.shape[-1],
        **how,
    )


RESAMPLINGS = {"": lambda h, taps: h, "down": halved, "up": doubled}


def dropped(h: Array, keys: Array, layer: int, rate: float) -> Array:
    """Dropout whose mask belongs to the row and the layer, so that every call on a row, and its tangent, have the same one.

    Args:
      h: [B, ...].
      keys: one typed key a row, [B].
      layer: number that no other layer of the network has.
      rate: share of the entries that become 0, in [0, 1); the others are divided by 1 - rate.

    Returns:
      The shape and dtype of `h`.
    """
    mask = lambda key: jax.random.bernoulli(jax.random.fold_in(key, layer), 1 - rate, h.shape[1:])
    return jnp.where(jax.vmap(mask)(keys), h / (1 - rate), jnp.zeros_like(h))


class Block(nn.Module):
    """Two convolutions beside a skip, and attention if `attend`; each sum is multiplied by sqrt(1/2).

    Attributes:
      width: channels of the result.
      layer: number of the block, which chooses its dropout masks.
      dropout: rate, before the second convolution.
      resample: "", "down" or "up", by a factor of 2, before the first convolution and on the skip.
      taps: of the filter that resamples.
      attend: whether attention over all pixels follows, in one head of all channels.
      dtype: of the computation.
      attention: "auto", "chunked", "xla" or "pallas", see flowjax.models.attention.
    """

    width: int
    layer: int
    dropout: float
    resample: str
    taps: tuple[int, ...]
    attend: bool
    dtype: jnp.dtype
    attention: str

    @nn.compact
    def __call__(self, h, c, keys):
        """Features [B, H, W, channels], conditioning [B, any], keys [B] or None -> [B, H', W', width]."""
        resampled = lambda h: RESAMPLINGS[self.resample](h, self.taps)
        y = nn.silu(_norm(h.shape[-1], self.dtype, "norm_in")(h))
        y = _conv(self.width, self.dtype, "conv_in")(resampled(y))
        # In the dtype of the conditioning, float32 at least: it costs nothing, and close times stay apart.
        y = y + _dense(self.width, c.dtype, "shift")(c)[:, None, None].astype(self.dtype)
        y = nn.silu(_norm(self.width, self.dtype, "norm_out")(y))
        if keys is not None:
            y = dropped(y, keys, self.layer, self.dropout)
        y = _conv(self.width, self.dtype, "conv_out", _scaled(1e-5))(y)
        if self.resample or h.shape[-1] != self.width:
            h = _dense(self.width, self.dtype, "skip")(resampled(h))
        h = 0.5**0.5 * (h + y)
        return self._attended(h) if self.attend else h

    def _attended(self, h):
        tokens = _norm(self.width, self.dtype, "norm_attention")(h).reshape(h.shape[0], -1, 1, self.width)
        qkv = _dense(3 * self.width, self.dtype, "qkv", _scaled(0.2**0.5))(tokens)
        y = attention.attention(*jnp.split(qkv, 3, axis=-1), implementation=self.attention).reshape(h.shape)
        return 0.5**0.5 * (h + _dense(self.width, self.dtype, "attention_out", _scaled(1e-5))(y))


class UNet(nn.Module):
    """The U-Net of DDPM++, as EDM has it for CIFAR-10, conditioned on the source time of a jump and on its length.

    The sines and cosines of `s` and of `s - t` are concatenated and go through one MLP of two layers, as in MeanFlow's CIFAR-10
    network; the embedding of a label is added before the MLP, and so are the labels of an augmentation (the input `augmentation`)
    by a linear layer without bias; further inputs enter its first layer. The defaults are EDM's for CIFAR-10, 55.7 million
    parameters, but for the dropout and the last layer. The middle always attends. MeanFlow's network for CIFAR-10, which SoFlow
    has, too: frequencies 2, resample (1, 3, 3, 1), last_scale 1e-5, dropout 0.2 (SoFlow 0.3), inputs ("augmentation",).

    Attributes:
      num_classes: labels, 0 for none.
      channels: of the first convolution; even and at least 4.
      frequencies: sines and cosines of a time over `channels`; EDM's "channel_mult_noise".
      multipliers: channels of each resolution over `channels`, from the finest; each further one halves height and width.
      blocks: blocks of a resolution in the encoder; the decoder has one more.
      attention_at: heights in pixels at which the blocks of the encoder and the last one of the decoder attend; those that do not
        occur count for nothing.
      embedding: width of the MLP over `channels`.
      resample: taps of the filter by which images are halved and doubled, an even number of them: (1, 1) is that of DDPM++.
      last_scale: the last layer starts xavier uniform times this number, 1e-5 in EDM; 0: at zero (ours).
      dropout: rate in [0, 1) for rows that come with a key, cond["dropout"]; EDM has 0.13, MeanFlow 0.2.
      time_scale: times are multiplied by it before the embedding.
      inputs: further inputs, keys of flowjax.conditioning.INPUTS; all but `augmentation` start at zero.
      remat: what a block stores for the backward pass, which computes the rest again: "nothing_saveable" (one more forward pass), or
        another of dit.REMAT (which store matmuls, not convolutions); "": everything.
      dtype: "float32" or "bfloat16", of the computation; parameters, statistics of norms and the embedding are float32.
      attention: "auto", "chunked", "xla" or "pallas", see flowjax.models.attention.

    Reference: Song et al. 2021 (arXiv 2011.13456), "DDPM++"; its constants from Karras et al. 2022 (arXiv 2206.00364), appendix F;
    with two times as in Geng et al. 2025 (arXiv 2505.13447).
    """

    num_classes: int = 0
    channels: int = 128
    frequencies: int = 1
    multipliers: tuple[int, ...] = (2, 2, 2)
    blocks: int = 4
    attention_at: tuple[int, ...] = (16,)
    embedding: int = 4
    resample: tuple[int, ...] = (1, 1)
    last_scale: float = 0.0
    dropout: float = 0.0
    time_scale: float = 1.0
    inputs: tuple[str, ...] = ()
    remat: str = ""
    dtype: str = "float32"
    attention: str = "auto"

    NOT_FROM_ZERO = ("augmentation",)

    @nn.compact
    def __call__(self, x: Array, s: Time, t: Time, cond=None) -> Array:
        """Images to velocities.

        Args:
          x: [B, H, W, C], a floating dtype; H and W are multiples of 2 ** (len(multipliers) - 1).
          s: source time in [0, 1], scalar or [B, 1, 1, 1].
          t: target time, likewise.
          cond: a condition, see flowjax.conditioning, possibly with "dropout", typed keys [B]; or None.

        Returns:
          V in the shape and dtype of x, zero at initialisation, or small with `last_scale`.

        Raises:
          InputError: for fields or sides that make no U-Net, and for conditioning of another shape.
        """
        cond, dtype = cond or {}, jnp.dtype(self.dtype)
        self._check(x)
        c, keys = self._conditioning(x, s, t, cond), self._keys(cond, x)
        kind, numbers = dit.rematerialised(Block, self.remat), itertools.count()

        def block(h, name, width, resample="", attend=False):
            taps = tuple(self.resample)
            made = kind(width, next(numbers), self.dropout, resample, taps, attend, dtype, self.attention, name=name)
            return made(h, c, keys)

        h, skips = self._encoded(x, cond, block)
        h = block(h, "middle_0", h.shape[-1], attend=True)
        h = block(h, "middle_1", h.shape[-1])
        h = nn.silu(_norm(self.channels * self.multipliers[0], dtype, "norm")(self._decoded(h, skips, block)))
        last = _scaled(self.last_scale) if self.last_scale else nn.initializers.zeros
        return _conv(x.shape[-1], dtype, "last", last)(h).astype(x.dtype)

    def _encoded(self, x, cond, block):
        dtype = jnp.dtype(self.dtype)
        h = _conv(self.channels, dtype, "first")(x.astype(dtype))
        first = lambda name: _conv(self.channels, dtype, name, nn.initializers.zeros, bias=False)
        h = embeddings.beside(h, self.inputs, cond, x, first)
        skips = [h]
        for level, multiplier in enumerate(self.multipliers):
            if level:
                h = block(h, f"down_{level}", h.shape[-1], resample="down")
                skips.append(h)
            for i in range(self.blocks):
                h = block(h, f"encoder_{level}_{i}", self.channels * multiplier, attend=h.shape[1] in self.attention_at)
                skips.append(h)
        return h, skips

    def _decoded(self, h, skips, block):
        for level, multiplier in reversed(list(enumerate(self.multipliers))):
            if level < len(self.multipliers) - 1:
                h = block(h, f"up_{level}", h.shape[-1], resample="up")
            for i in range(self.blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                attend = i == self.blocks and h.shape[1] in self.attention_at
                h = block(h, f"decoder_{level}_{i}", self.channels * multiplier, attend=attend)
        return h

    def _conditioning(self, x, s, t, cond):
        """[B, embedding * channels], float32 at least."""
        s, t = embeddings.flatten_times(s, x), embeddings.flatten_times(t, x)
        width, dtype = self.embedding * self.channels, jnp.promote_types(self.dtype, jnp.float32)
        h = self._features(dtype, s, s - t)
        if self.num_classes:
            # The rows of EDM's labels: Xavier's deviation times sqrt(num_classes), by which it multiplies one-hot labels.
            init = nn.initializers.normal((2 * self.num_classes / (self.num_classes + h.shape[-1])) ** 0.5)
            label = embeddings.LabelEmbedding(self.num_classes, h.shape[-1], dtype=dtype, init=init, name="label")
            h = h + label(conditioning.value("label", cond, x))
        if "augmentation" in self.inputs:  # as in EDM, where it starts xavier uniform
            applied = conditioning.value("augmentation", cond, x)
            h = h + _dense(h.shape[-1], dtype, "augmentation", bias=False)(applied)
        h = _dense(width, dtype, "embedding_in")(h)
        from_zero = lambda name: _dense(width, dtype, name, nn.initializers.zeros, bias=False)
        together = lambda name, times: [
            from_zero(conditioning.INPUTS[name].joint or name)(self._features(dtype, *times.values()))
        ]
        others = tuple(name for name in self.inputs if name != "augmentation")
        h = sum(embeddings.inputs(others, cond, x, together, from_zero), h)
        return nn.silu(_dense(width, dtype, "embedding_out")(nn.silu(h)))

    def _features(self, dtype, *times):
        """Sines and cosines of times [B], [B, frequencies * channels * len(times)]."""
        features = self.frequencies * self.channels
        half = features // 2
        # The frequencies of DDPM++ include 1 / MAX_PERIOD; those of `fourier` stop one step before it.
        period = MAX_PERIOD ** (half / (half - 1))
        return jnp.concatenate(
            [embeddings.fourier(self.time_scale * time, features, period).astype(dtype) for time in times], axis=-1
        )

    def _keys(self, cond, x):
        """Keys of the rows [B], or None where nothing is dropped."""
        keys = cond.get("dropout")
        if not self.dropout or keys is None:
            return None
        typed = hasattr(keys, "dtype") and jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
        if not typed or keys.shape != x.shape[:1]:
            raise typing.InputError(
                f'UNet: cond["dropout"] has shape {jnp.shape(keys)} and dtype {getattr(keys, "dtype", type(keys).__name__)};'
                f" expected one typed key a row, as by jax.random.split(jax.random.key(0), {x.shape[0]})."
            )
        return keys

    def _check(self, x):
        if jnp.ndim(x) != 4:
            raise typing.InputError(f"UNet: x has shape {jnp.shape(x)}; expected images [B, H, W, C].")
        if self.channels < 4 or self.channels % 2:
            raise typing.InputError(f"UNet: channels is {self.channels}; expected an even number of at least 4, such as 128.")
        if not self.multipliers or min(self.multipliers) < 1 or self.blocks < 1:
            raise typing.InputError(
                f"UNet: multipliers are {tuple(self.multipliers)} and blocks {self.blocks}; expected at least one multiplier and"
                " whole numbers of at least 1, such as (2, 2, 2) and 4."
            )
        if self.frequencies < 1 or len(self.resample) % 2 or min(self.resample, default=0) < 1:
            raise typing.InputError(
                f"UNet: frequencies is {self.frequencies} and resample {tuple(self.resample)}; expected a whole number of at least 1,"
                " and an even number of taps of at least 1, such as 2 and (1, 3, 3, 1)."
            )
        if not 0 <= self.dropout < 1:
            raise typing.InputError(f"UNet: dropout is {self.dropout}; expected a rate of at least 0 and below 1, such as 0.2.")
        halvings = len(self.multipliers) - 1
        if x.shape[1] % 2**halvings or x.shape[2] % 2**halvings:
            raise typing.InputError(
                f"UNet: an image of {x.shape[1]} x {x.shape[2]} cannot be halved {halvings} times, as {halvings + 1} multipliers"
                f" require; expected sides that are multiples of {2**halvings}, or fewer multipliers."
            )
