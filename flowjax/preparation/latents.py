"""Latents of many images, written shard by shard, as flowjax.data.latents reads them: any number of processes, resumable.

A folder holds about.json, the manifest, and for each shard moments_00000.npy [n, h, w, 2 C], the mean and deviation of the latents in
float16, label_00000.npy [n], if there are classes, and mirrored_moments_00000.npy on demand. Shard k has the images k S to (k + 1) S;
process p of P writes the shards p, p + P, ... A file appears whole or not at all, and its bytes depend on the manifest alone.
"""

import concurrent.futures
import functools
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import PIL
import tqdm

from flowjax import autoencoders, buckets, checks, folders, typing
from flowjax.autoencoders import files
from flowjax.data import image_files, latents
from flowjax.preparation.images import Images
from flowjax.training import hosts, sharding

DECODERS = 8  # threads that read images
MEASURED = "measured"  # the normalisation by the latents' own mean and deviation


def write(
    images: Images, folder: str | pathlib.Path, loaded: files.Loaded, *, split: str = "train", size: int = 256, shard: int = 4_096,
    batch: int = 32, mirrored: bool = False, normalisation: str = MEASURED,
) -> dict[str, Any]:  # fmt: skip
    """Encodes images and writes their moments; the same call continues after a kill, and the files are the same.

    Args:
      images: what is encoded, see flowjax.preparation.images.
      folder: where to; the split is a folder in it.
      loaded: the autoencoder.
      split: "train" or "test".
      size: pixels of a side to which images are brought, by ADM's crop.
      shard: images in a file.
      batch: images that each device encodes at once.
      mirrored: also encode the mirrored images.
      normalisation: key of flowjax.autoencoders.NORMALISATIONS, or "measured": what a network of these latents is to see.

    Returns:
      The manifest.

    Raises:
      InputError: numbers that do not fit, an image that cannot be read, a folder of other latents.
    """
    about = manifest(images, loaded, size=size, shard=shard, batch=batch, mirrored=mirrored, normalisation=normalisation)
    checks.member("split", split, latents.SPLITS)
    path = buckets.path(folder) / split
    alike = lambda: latents.check_alike(about, folder, split)
    with hosts.claimed(path, about, contents="latents", free=("source",), check=alike):
        write_shards(images, path, loaded, about, process=jax.process_index(), processes=jax.process_count())
        hosts.barrier("all latents are written")
        if hosts.is_main():
            folders.write_json(path / latents.STATISTICS, measured(path, about))
        hosts.barrier("the latents are measured")
    return about


def manifest(
    images: Images, loaded: files.Loaded, *, size: int, shard: int, batch: int, mirrored: bool, normalisation: str
) -> dict[str, Any]:
    """What the files of latents depend on, of JSON types; raises InputError for what does not fit."""
    factor = loaded.autoencoder.factor
    checks.member("normalisation", normalisation, [*autoencoders.NORMALISATIONS, MEASURED])
    if size % factor or size < factor:
        raise typing.InputError(
            f"--size={size}: the autoencoder makes one latent of {factor} pixels; expected a multiple of {factor}."
        )
    chosen = autoencoders.NORMALISATIONS.get(normalisation, autoencoders.Normalisation())
    shape = [size // factor, size // factor, loaded.autoencoder.channels]
    chosen.normalise(np.zeros(shape, np.float32))  # refused if it is of another autoencoder
    return {
        "contents": latents.CONTENTS, "rows": images.size, "shard": shard, "shape": shape, "num_classes": len(images.classes),
        "classes": list(images.classes), "mirrored": mirrored, "source": images.name, "listing": images.listing,
        "size": size, "crop": "adm", "pillow": PIL.__version__, "autoencoder": loaded.fingerprint, "batch": batch,
        "zero_to_one": chosen.zero_to_one, "normalisation": normalisation,
        "mean": list(chosen.mean), "deviation": list(chosen.deviation),
    }  # fmt: skip


def write_shards(
    images: Images, path: pathlib.Path, loaded: files.Loaded, about: dict[str, Any], *, process: int, processes: int
) -> None:
    """Writes the missing files of a process."""
    encode = _encoder(loaded, about)
    starts = range(process * about["shard"], about["rows"], processes * about["shard"])
    total = sum(min(about["shard"], about["rows"] - start) for start in starts)
    with tqdm.tqdm(total=total, desc="latents", unit=" images", disable=process > 0) as bar:
        for start in starts:
            ids = range(start, min(start + about["shard"], about["rows"]))
            files_of = {kind: path / f"{kind}_{start // about['shard']:05d}.npy" for kind in latents.kinds(about)}
            if "label" in files_of and not files_of["label"].exists():
                _save(files_of["label"], images.labels[ids.start : ids.stop])
            for kind, mirror in (("mirrored_moments", True), ("moments", False)):
                if kind in files_of and not files_of[kind].exists():
                    _save(files_of[kind], _moments(images, ids, encode, about, mirror))
            bar.update(len(ids))


def measured(path: pathlib.Path, about: dict[str, Any]) -> dict[str, list[float]]:
    """Mean and deviation of each channel of the latents of a folder, as they are drawn, to six digits.

    The latents are mean + deviation eps, so that their variance is that of the means plus the mean of the squared deviations.
    """
    count, sums, squares = 0, 0.0, 0.0
    for number in range(-(-about["rows"] // about["shard"])):
        mean, deviation = np.split(np.load(buckets.local(path / f"moments_{number:05d}.npy")).astype(np.float64), 2, axis=-1)
        count += mean[..., 0].size
        sums += mean.sum((0, 1, 2))
        squares += (mean**2 + deviation**2).sum((0, 1, 2))
    mean = sums / count
    digits = lambda numbers: [float(f"{number:.6g}") for number in numbers]
    return {"mean": digits(mean), "deviation": digits(np.sqrt(np.maximum(squares / count - mean**2, 1e-12)))}


def training_flags(folder: str | pathlib.Path, split: str, about: dict[str, Any]) -> list[str]:
    """The fields of config.data of a training on latents: ["name=latents:FOLDER", ...]."""
    if about["normalisation"] != MEASURED:
        return [f"name=latents:{folder}", f"normalisation={about['normalisation']}"]
    numbers = json.loads((buckets.path(folder) / split / latents.STATISTICS).read_text())
    return [f"name=latents:{folder}", *(f"{name}=({','.join(map(str, values))},)" for name, values in numbers.items())]


def _encoder(loaded: files.Loaded, about: dict[str, Any]) -> Callable[[np.ndarray], np.ndarray]:
    """uint8 [batch of all devices, H, W, 3] -> moments, float16; the program of a device is the same however many there are."""
    mesh = sharding.make_mesh(devices=jax.local_devices())
    params, encode = (
        jax.device_put(loaded.params, sharding.whole(mesh)),
        _program(loaded.autoencoder.encode, about["zero_to_one"]),
    )
    return lambda pixels: np.asarray(encode(params, jax.device_put(pixels, sharding.rows(mesh))))


@functools.lru_cache(maxsize=4)
def _program(encode: Callable, zero_to_one: bool) -> Callable:
    """(params, uint8 images) -> moments, float16, compiled once."""
    fed = autoencoders.Normalisation(zero_to_one=zero_to_one).images_in
    return jax.jit(lambda params, pixels: encode(params, fed(pixels.astype(np.float32) / 127.5 - 1)).astype(np.float16))


def _moments(images: Images, ids: range, encode: Callable, about: dict[str, Any], mirror: bool) -> np.ndarray:
    """The moments of some images, [n, h, w, 2 C]."""
    parts = []
    for first, pixels in _batches(images, ids, about):
        kept = min(len(pixels), ids.stop - first)
        moments = encode(pixels[:, :, ::-1] if mirror else pixels)[:kept]
        if not np.isfinite(moments).all():
            raise typing.InputError(
                f"{images.name}: a latent of the images {first} to {first + kept - 1} is no finite number of 16 bits; is the autoencoder whole?"
            )
        parts.append(moments)
    return np.concatenate(parts)


def _batches(images: Images, ids: range, about: dict[str, Any]) -> Iterator[tuple[int, np.ndarray]]:
    """(first id, uint8 [batch of all devices, H, W, 3]); the last is filled up with its last image. One is read ahead."""
    size, batch = about["size"], about["batch"] * jax.local_device_count()

    def read(i: int) -> np.ndarray:
        image = images.read(i)
        return np.asarray(image if image.size == (size, size) else image_files.centre_crop(image, size))

    with concurrent.futures.ThreadPoolExecutor(DECODERS) as threads:
        starts = range(ids.start, ids.stop, batch)
        submit = lambda start: [threads.submit(read, min(start + i, ids.stop - 1)) for i in range(batch)]
        ahead = submit(ids.start)
        for start in starts:
            now, ahead = ahead, submit(start + batch) if start + batch < ids.stop else []
            yield start, np.stack([row.result() for row in now])


def _save(file: pathlib.Path, array: np.ndarray) -> None:
    with folders.replacing(file) as part, open(part, "wb") as opened:
        np.save(opened, array)
