"""Samples of latents as images: a folder of experiments.generate, decoded shard by shard into one like it."""

import pathlib

import jax
import tqdm

from flowjax import autoencoders, buckets, checks, folders, typing
from flowjax.autoencoders import files
from flowjax.evaluation import decoded, generation
from flowjax.training import hosts


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
    about = generation.about(samples)
    factor, channels = loaded.autoencoder.factor, loaded.autoencoder.channels
    if len(about["shape"]) != 3 or about["shape"][-1] != channels or about["dtype"] != "float32":
        raise typing.InputError(
            f"--samples={samples} holds rows of shape {tuple(about['shape'])} and type {about['dtype']}; this autoencoder decodes"
            f" [h, w, {channels}], float32."
        )
    height, width, _ = about["shape"]
    facts = {**about, "shape": [height * factor, width * factor, 3], "dtype": "uint8"}
    facts |= {"latents": str(samples), "autoencoder": loaded.fingerprint, "zero_to_one": normalisation == "edm2"}
    with hosts.claimed(folder, facts, contents="images", free=("run", "latents")):
        numbers = range(jax.process_index(), -(-about["count"] // about["shard"]), jax.process_count())
        decode = decoded.of(loaded, normalisation=normalisation, batch=batch).images
        _write_shards(buckets.path(samples), buckets.path(folder), about, numbers, decode)
        hosts.barrier("all images are written")
    return about["count"]


def _write_shards(samples, folder, about, numbers, decode) -> None:
    for number in tqdm.tqdm(numbers, desc="images", unit=" files", disable=not hosts.is_main()):
        file = folder / f"shard_{number:05d}.npz"
        if not file.exists():
            arrays = generation.shard(samples, about, number)
            folders.write_npz(file, x=decode(arrays["x"]), label=arrays["label"])
