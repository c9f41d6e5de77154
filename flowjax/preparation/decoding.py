"""Samples of latents as images: a folder of experiments.generate, decoded shard by shard into one like it."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from flowjax import autoencoders, checks, folders, ownership, typing
from flowjax.autoencoders import files
from flowjax.evaluation import generation
from flowjax.training import hosts, sharding


def write(
    samples: str | pathlib.Path,
    folder: str | pathlib.Path,
    loaded: files.Loaded,
    *,
    batch: int = 32,
    normalisation: str = "raw",
) -> int:
    """Decodes the samples of a folder; the same call continues after a kill.

    Args:
      samples: the folder, of experiments.generate of a run on latents: its samples are raw latents, as the encoder emits them.
      folder: where to.
      loaded: the autoencoder.
      batch: latents that each device decodes at once.
      normalisation: key of flowjax.autoencoders.NORMALISATIONS; whether the decoder makes images in [0, 1] is taken from it.

    Returns:
      The number of images.

    Raises:
      InputError: the samples are no latents of this autoencoder, or the folder is one of something else.
    """
    checks.member("normalisation", normalisation, autoencoders.NORMALISATIONS)
    shown, about = autoencoders.NORMALISATIONS[normalisation].images_out, generation.about(samples)
    factor, channels = loaded.autoencoder.factor, loaded.autoencoder.channels
    if len(about["shape"]) != 3 or about["shape"][-1] != channels or about["dtype"] != "float32":
        raise typing.InputError(
            f"--samples={samples} holds rows of shape {tuple(about['shape'])} and type {about['dtype']}; this autoencoder decodes"
            f" [h, w, {channels}], float32."
        )
    height, width, _ = about["shape"]
    facts = {**about, "shape": [height * factor, width * factor, 3], "dtype": "uint8"}
    facts |= {"latents": str(samples), "autoencoder": loaded.fingerprint, "zero_to_one": normalisation == "edm2"}
    claim = {"flag": "--output", "contents": "images", "free": ("run", "latents")}
    ownership.check_free(folder, "--output")
    folders.check_claim(folder, facts, **claim)
    hosts.barrier("all processes have checked the folder of the images")
    with ownership.owned(folder, "--output", main=hosts.is_main()):
        if hosts.is_main():
            folders.claim(folder, facts, **claim)
        hosts.barrier("the folder of the images is claimed")
        numbers = range(jax.process_index(), -(-about["count"] // about["shard"]), jax.process_count())
        _write_shards(pathlib.Path(samples), pathlib.Path(folder), about, numbers, _decoder(loaded, shown, batch))
        hosts.barrier("all images are written")
    return about["count"]


def _write_shards(samples, folder, about, numbers, decode) -> None:
    for number in tqdm.tqdm(numbers, desc="images", unit=" files", disable=not hosts.is_main()):
        file = folder / f"shard_{number:05d}.npz"
        if not file.exists():
            arrays = generation.shard(samples, about, number)
            with folders.replacing(file) as part, open(part, "wb") as opened:
                np.savez(opened, x=decode(arrays["x"]), label=arrays["label"])


def _decoder(loaded, shown, batch):
    """Latents [n, h, w, C] -> images, uint8 [n, H, W, 3], rounded."""
    batch *= jax.local_device_count()
    mesh = sharding.make_mesh(devices=jax.local_devices())
    params = jax.device_put(loaded.params, sharding.whole(mesh))

    @jax.jit
    def decode(params, z):
        images = shown(loaded.autoencoder.decode(params, z))
        return jnp.clip(jnp.round((images + 1) * 127.5), 0, 255).astype(jnp.uint8)

    def decode_all(z):
        padded = np.concatenate([z, np.zeros((-len(z) % batch, *z.shape[1:]), z.dtype)])
        parts = [padded[i : i + batch] for i in range(0, len(padded), batch)]
        return np.concatenate([np.asarray(decode(params, jax.device_put(part, sharding.rows(mesh)))) for part in parts])[
            : len(z)
        ]

    return decode_all
