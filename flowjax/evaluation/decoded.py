"""Latents as images while they are scored: an autoencoder's decoder on all devices of this process."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax import autoencoders, checks, typing
from flowjax.autoencoders import files
from flowjax.training import sharding

TOGETHER = 16  # latents that a device decodes at once: a level of 256 x 256 pixels takes 34 MB a latent


class Decoder(NamedTuple):
    """What turns raw latents into images.

    Attributes:
      channels: of a latent.
      factor: pixels of a side to one of a latent.
      images: raw latents [n, h, w, channels] -> whole pixels, uint8 [n, h factor, w factor, 3].
      about: what it is, of JSON types.
    """

    channels: int
    factor: int
    images: Callable[[np.ndarray], np.ndarray]
    about: dict[str, Any]

    def shape(self, latent: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the image of a latent of this shape.

        Raises:
          InputError: this autoencoder has no such latents.
        """
        if len(latent) != 3 or latent[-1] != self.channels:
            raise typing.InputError(
                f"samples have shape {tuple(latent)}, and this autoencoder decodes [h, w, {self.channels}]; give that of the latents."
            )
        return latent[0] * self.factor, latent[1] * self.factor, 3


def read(path: str, sizes: str = "", *, normalisation: str = "raw") -> Decoder:
    """The decoder of a file of published weights, or of a folder of experiments.train_autoencoder.

    Args:
      path, sizes: see flowjax.autoencoders.files.read.
      normalisation: key of flowjax.autoencoders.NORMALISATIONS: "edm2" for images in [0, 1]; others do not matter, because samples are raw
        latents.

    Raises:
      InputError: there is no such file, or it is of another autoencoder.
    """
    checks.member("normalisation", normalisation, autoencoders.NORMALISATIONS)
    return of(files.read(path, sizes), normalisation=normalisation)


def of(loaded: files.Loaded, *, normalisation: str = "raw", batch: int = TOGETHER) -> Decoder:
    """The decoder of an autoencoder.

    Args:
      loaded: the autoencoder.
      normalisation: as of `read`.
      batch: latents that each device decodes at once.
    """
    chosen = loaded.autoencoder
    shown, size = autoencoders.NORMALISATIONS[normalisation].images_out, batch * jax.local_device_count()
    mesh = sharding.make_mesh(devices=jax.local_devices())
    params = jax.device_put(loaded.params, sharding.whole(mesh))

    @jax.jit
    def decode(params, z):
        return jnp.clip(jnp.round((shown(chosen.decode(params, z)) + 1) * 127.5), 0, 255).astype(jnp.uint8)

    def images(z):
        starts = range(0, len(z), size)
        padded = np.resize(z, (len(starts) * size, *z.shape[1:]))  # one shape, one program
        parts = [np.asarray(decode(params, jax.device_put(padded[i : i + size], sharding.rows(mesh)))) for i in starts]
        return np.concatenate(parts)[: len(z)]

    about = {"sizes": chosen.name, "weights": loaded.fingerprint, "zero_to_one": normalisation == "edm2"}
    return Decoder(chosen.channels, chosen.factor, images, about)
