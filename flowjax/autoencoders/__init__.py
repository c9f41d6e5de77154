"""Autoencoders of images as pure functions, and how their latents are normalised.

Images are float [B, H, W, 3] in [-1, 1]; latents [B, H / factor, W / factor, C]; moments [..., 2 C], mean and deviation of a latent, as the
data sets of latents keep them (flowjax.data.stored). Latents are raw, as the encoder emits them: a Normalisation is a step of its own,
because published networks were trained on the latents of one autoencoder under different ones.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from flowjax import typing
from flowjax.typing import Array


class Autoencoder(NamedTuple):
    """An autoencoder.

    Attributes:
      name: of its kind.
      factor: pixels of a side to one of a latent.
      channels: C, of a latent.
      encode: (params, images [B, H, W, 3]) -> moments [B, H / factor, W / factor, 2 C].
      decode: (params, latents [B, h, w, C], raw) -> images [B, h factor, w factor, 3], not clipped.
      init: (key) -> params, drawn at random.
    """

    name: str
    factor: int
    channels: int
    encode: Callable[[Any, Array], Array]
    decode: Callable[[Any, Array], Array]
    init: Callable[[Array], Any]


def sample(moments: Array, eps: Array) -> Array:
    """A latent from moments [..., 2 C] and normal noise [..., C]: mean + deviation eps."""
    mean, deviation = jnp.split(moments, 2, axis=-1)
    if eps.shape != mean.shape:
        raise typing.InputError(f"moments of shape {moments.shape} take noise of shape {mean.shape}, and it has {eps.shape}.")
    return mean + deviation * eps


class Normalisation(NamedTuple):
    """What a network of latents sees of a raw latent: (z - mean) / deviation.

    Attributes:
      mean, deviation: one number, one a channel, or an array [h, w, C], one for each place and channel.
      zero_to_one: whether the autoencoder was fed images in [0, 1] instead of [-1, 1].
    """

    mean: tuple[float, ...] | np.ndarray = (0.0,)
    deviation: tuple[float, ...] | np.ndarray = (1.0,)
    zero_to_one: bool = False

    def normalise(self, z: Array) -> Array:
        """Raw latents [..., C] -> what the network sees."""
        mean, deviation = self._numbers(z)
        return (z - mean) / deviation

    def denormalise(self, z: Array) -> Array:
        """What the network sees [..., C] -> raw latents."""
        mean, deviation = self._numbers(z)
        return z * deviation + mean

    def images_in(self, images: Array) -> Array:
        """Images in [-1, 1] -> what the encoder is fed."""
        return (images + 1) / 2 if self.zero_to_one else images

    def images_out(self, images: Array) -> Array:
        """What the decoder emits -> images in [-1, 1]."""
        return jnp.clip(images, 0, 1) * 2 - 1 if self.zero_to_one else images

    def _numbers(self, z: Array) -> tuple[Array, Array]:
        """Mean and deviation with the axes of z."""
        numbers = np.asarray(self.mean), np.asarray(self.deviation)
        if {array.shape for array in numbers} - {(1,), z.shape[-1:], z.shape[-3:]}:
            raise typing.InputError(
                f"a normalisation with {numbers[0].size} means and {numbers[1].size} deviations does not fit latents with"
                f" {z.shape[-1]} channels: it belongs to another autoencoder."
            )
        mean, deviation = (jnp.asarray(array, z.dtype) for array in numbers)
        return tuple(array.reshape((1,) * (z.ndim - array.ndim) + array.shape) for array in (mean, deviation))


# Of Stable Diffusion's first autoencoder (4 channels) but for the last three. A wrong one trains, and generates nothing of use.
NORMALISATIONS: Mapping[str, Normalisation] = {
    "raw": Normalisation(),
    # MeanFlow, SoFlow, REPA, SiT, DMF, Shortcut, drifting: z times 0.18215
    "sd": Normalisation(deviation=(1 / 0.18215,)),
    # improved MeanFlow and TVM, ImageNet at 256 pixels, from imeanflow's vae_util
    "imf256": Normalisation((0.86488, -0.27787343, 0.21616915, 0.3738409), (4.85503674, 5.31922414, 3.93725398, 3.9870003)),
    # the same at 512 pixels, as TVM's configs round them
    "imf512": Normalisation((1.56, -0.695, 0.483, 0.729), (5.27, 5.91, 4.21, 4.31)),
    # EDM2: deviation 0.5 after it, and images in [0, 1], from edm2's training/encoders.py
    "edm2": Normalisation((5.81, 3.25, 0.12, -2.15), tuple(2 * s for s in (4.17, 4.62, 3.71, 3.28)), zero_to_one=True),
    # (z - shift) scale of diffusers' configs of SDXL, SD3 and FLUX.1
    "sdxl": Normalisation(deviation=(1 / 0.13025,)),
    "sd3": Normalisation((0.0609,), (1 / 1.5305,)),
    "flux": Normalisation((0.1159,), (1 / 0.3611,)),
}


def parameters(params: Any) -> int:
    """The number of numbers in a tree of weights."""
    import jax

    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
