"""The KL autoencoder of Stable Diffusion: `KLSizes` also covers those of SDXL, SD3, FLUX.1 and VA-VAE.

Read from diffusers' autoencoder_kl.py and vae.py and CompVis' model.py for facts. Everything is float32, and norms take the variance about
the mean: the difference of two means of squares is off by 0.1 where the mean is 300 deviations, as it is inside this network.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from flowjax import typing
from flowjax.autoencoders import Autoencoder
from flowjax.typing import Array

CLIP = (-30.0, 20.0)  # of the logarithm of the variance
PRECISION = "highest"  # accelerators multiply float32 with fewer digits by default, which moves an FID


class KLSizes(NamedTuple):
    """Sizes of a KL autoencoder.

    Attributes:
      widths: channels of each level, from the pixels down; between two levels sides are halved.
      blocks: residual blocks of a level of the encoder; the decoder has one more.
      latent: C, channels of a latent.
      quant: whether 1 x 1 convolutions stand behind the encoder and before the decoder.
      attention: levels with attention behind each block; the middle always has it.
      groups: of the norms.
    """

    widths: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2
    latent: int = 4
    quant: bool = True
    attention: tuple[int, ...] = ()
    groups: int = 32


SIZES = {
    "sd": KLSizes(),
    "sdxl": KLSizes(),
    "sd3": KLSizes(latent=16, quant=False),
    "flux": KLSizes(latent=16, quant=False),
    "va_vae": KLSizes(widths=(128, 128, 256, 256, 512), latent=32, attention=(4,)),
}


@functools.lru_cache(maxsize=16)
def make(sizes: KLSizes, name: str = "kl") -> Autoencoder:
    """The autoencoder of these sizes; its weights: flowjax.autoencoders.kl_names.

    Raises:
      InputError: the sizes do not fit together.
    """
    if not sizes.widths or any(width % sizes.groups for width in sizes.widths) or sizes.latent < 1 or sizes.blocks < 1:
        raise typing.InputError(
            f"{sizes}: expected widths that are multiples of its groups, with at least one block and channel."
        )
    module, factor = KL(sizes), 2 ** (len(sizes.widths) - 1)
    image = jnp.zeros((1, 2 * factor, 2 * factor, 3))

    def encode(params, images):
        if images.ndim != 4 or images.shape[-1] != 3 or images.shape[1] % factor or images.shape[2] % factor:
            raise typing.InputError(
                f"{name} encodes images [B, H, W, 3] with sides that are multiples of {factor}, not {images.shape}."
            )
        return module.apply({"params": params}, images, method=KL.encode)

    def decode(params, z):
        if z.ndim != 4 or z.shape[-1] != sizes.latent:
            raise typing.InputError(f"{name} decodes latents [B, h, w, {sizes.latent}], not {z.shape}.")
        return module.apply({"params": params}, z, method=KL.decode)

    init = jax.jit(lambda key: module.init(key, image)["params"])
    return Autoencoder(name, factor, sizes.latent, encode, decode, init)


class KL(nn.Module):
    """Encoder and decoder.

    Attributes:
      sizes: of its levels.
    """

    sizes: KLSizes

    def setup(self):
        self.encoder, self.decoder = Encoder(self.sizes), Decoder(self.sizes)
        if self.sizes.quant:
            self.quant_conv = nn.Conv(2 * self.sizes.latent, (1, 1), precision=PRECISION)
            self.post_quant_conv = nn.Conv(self.sizes.latent, (1, 1), precision=PRECISION)

    def encode(self, images: Array) -> Array:
        """Images [B, H, W, 3] -> mean and deviation of latents, [B, h, w, 2 C]."""
        h = self.encoder(images)
        mean, log_variance = jnp.split(self.quant_conv(h) if self.sizes.quant else h, 2, axis=-1)
        return jnp.concatenate([mean, jnp.exp(jnp.clip(log_variance, *CLIP) / 2)], axis=-1)

    def decode(self, z: Array) -> Array:
        """Raw latents [B, h, w, C] -> images [B, H, W, 3]."""
        return self.decoder(self.post_quant_conv(z) if self.sizes.quant else z)

    def __call__(self, images: Array) -> Array:
        return self.decode(jnp.split(self.encode(images), 2, axis=-1)[0])


class Encoder(nn.Module):
    """Images [B, H, W, 3] -> [B, h, w, 2 C]."""

    sizes: KLSizes

    @nn.compact
    def __call__(self, x: Array) -> Array:
        sizes = self.sizes
        h = _conv(sizes.widths[0], "conv_in")(x)
        for level, width in enumerate(sizes.widths):
            for i in range(sizes.blocks):
                h = Residual(width, sizes.groups, name=f"down_{level}_block_{i}")(h)
                if level in sizes.attention:
                    h = Attention(sizes.groups, name=f"down_{level}_attention_{i}")(h)
            if level + 1 < len(sizes.widths):
                h = jnp.pad(h, ((0, 0), (0, 1), (0, 1), (0, 0)))  # below and on the right alone
                h = nn.Conv(width, (3, 3), strides=2, padding="VALID", precision=PRECISION, name=f"down_{level}_half")(h)
        h = _middle(h, sizes)
        return _conv(2 * sizes.latent, "conv_out")(nn.silu(_norm(sizes.groups, "norm_out")(h)))


class Decoder(nn.Module):
    """Raw latents [B, h, w, C] -> images [B, H, W, 3]. Level 0 of the decoder is the deepest."""

    sizes: KLSizes

    @nn.compact
    def __call__(self, z: Array) -> Array:
        sizes = self.sizes
        h = _middle(_conv(sizes.widths[-1], "conv_in")(z), sizes)
        for level, width in enumerate(reversed(sizes.widths)):
            for i in range(sizes.blocks + 1):
                h = Residual(width, sizes.groups, name=f"up_{level}_block_{i}")(h)
                if len(sizes.widths) - 1 - level in sizes.attention:
                    h = Attention(sizes.groups, name=f"up_{level}_attention_{i}")(h)
            if level + 1 < len(sizes.widths):
                h = jnp.repeat(jnp.repeat(h, 2, axis=1), 2, axis=2)
                h = _conv(width, f"up_{level}_double")(h)
        return _conv(3, "conv_out")(nn.silu(_norm(sizes.groups, "norm_out")(h)))


class Residual(nn.Module):
    """Two convolutions beside a sum, [B, H, W, C] -> [B, H, W, width]."""

    width: int
    groups: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = _conv(self.width, "conv1")(nn.silu(_norm(self.groups, "norm1")(x)))
        h = _conv(self.width, "conv2")(nn.silu(_norm(self.groups, "norm2")(h)))
        return h + (x if x.shape[-1] == self.width else nn.Conv(self.width, (1, 1), precision=PRECISION, name="shortcut")(x))


class Attention(nn.Module):
    """One head over all pixels, beside a sum, [B, H, W, C] -> [B, H, W, C]."""

    groups: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        B, H, W, C = x.shape
        h = _norm(self.groups, "norm")(x).reshape(B, H * W, C)
        q, k, v = (nn.Dense(C, precision=PRECISION, name=name)(h) for name in "qkv")
        scores = jnp.matmul(q, k.swapaxes(1, 2), precision=PRECISION) * C**-0.5
        h = jnp.matmul(jax.nn.softmax(scores, axis=-1), v, precision=PRECISION)
        return x + nn.Dense(C, precision=PRECISION, name="out")(h).reshape(B, H, W, C)


def _middle(h: Array, sizes: KLSizes) -> Array:
    h = Residual(h.shape[-1], sizes.groups, name="mid_block_0")(h)
    h = Attention(sizes.groups, name="mid_attention")(h)
    return Residual(h.shape[-1], sizes.groups, name="mid_block_1")(h)


_conv = lambda width, name: nn.Conv(width, (3, 3), padding=1, precision=PRECISION, name=name)
_norm = lambda groups, name: nn.GroupNorm(groups, epsilon=1e-6, use_fast_variance=False, name=name)
