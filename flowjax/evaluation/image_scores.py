"""Scores of images that may stand beside published ones: FID, sFID, Inception score, precision and recall, by protocol.

Images go through the network batch by batch, on all devices of this process, and are forgotten; what stays are moments. They are saved
after every few thousand images in the folder of the scores, so that the same command goes on where it was killed, and ends with the same
numbers. Process p of P takes the parts p, p + P, ...
"""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import tqdm

from flowjax import buckets, checks, folders, opening, typing
from flowjax.evals import features, inception_scores, moments, neighbours, protocols
from flowjax.evaluation.image_streams import Images
from flowjax.training import hosts, sharding

MEASURES = ("fid", "sfid", "is", "precision", "recall")
NEIGHBOURS = 3  # k of precision and recall, as guided-diffusion's evaluator has it; flowjax.evals' own default is 5
REFERENCE_IMAGES = 10_000  # that precision and recall take
PART = 8_192  # images after which the sums are saved
_CONTENTS, _STATE = "sums of images", "the sums of experiments.fid; delete the folder, and begin again"


class Tally(NamedTuple):
    """What is known of the images so far.

    Attributes:
      parts: that this process has seen.
      pool, spatial: moments of the features; None before the first image, and where they are not wanted.
      certainty: totals of the Inception score, likewise.
    """

    parts: int = 0
    pool: moments.Moments | None = None
    spatial: moments.Moments | None = None
    certainty: inception_scores.Totals | None = None


def check(
    images: Images, chosen: features.Extractor, measures: Sequence[str], reference: protocols.Reference | None, reference_images: Images | None
) -> None:  # fmt: skip
    """Raises InputError unless these measures can be taken of these images; compiles nothing."""
    for name in measures:
        checks.member("measure", name, MEASURES)
    made = _made(chosen, images)
    lacking = {
        "fid": reference is None and "a reference, --reference=FILE",
        "sfid": (made.spatial is None or reference is None) and "the protocol adm and its reference, --reference=FILE",
        "is": made.logits is None and "a network with classes",
        "precision": reference_images is None and "real images, --reference_images=FILE",
        "recall": reference_images is None and "real images, --reference_images=FILE",
    }
    for name in measures:
        if lacking[name]:
            raise typing.InputError(f"--measures={name}: it needs {lacking[name]}; give it, or leave {name} out.")
    least = 10 if "is" in measures else NEIGHBOURS + 2 if {"precision", "recall"} & set(measures) else 2
    if images.count < least:
        raise typing.InputError(f"--num={images.count}: expected at least {least} images.")
    if reference is not None:
        protocols.check_fits(chosen.protocol, reference, chosen.weights_hash)
        if len(reference.features.mean) != made.pool.shape[1]:
            raise typing.InputError(
                f"features of {chosen.protocol} of these images have {made.pool.shape[1]} numbers, those of {reference.name}"
                f" {len(reference.features.mean)}: its images have another size."
            )
    if "sfid" in measures:
        reference.of_places()
    if reference_images is not None:
        _made(chosen, reference_images)


def score(
    images: Images, chosen: features.Extractor, folder: str | os.PathLike, *, measures: Sequence[str] = ("fid",),
    reference: protocols.Reference | None = None, reference_images: Images | None = None, batch: int = 128, shuffled: int | None = None,
) -> list[protocols.Score]:  # fmt: skip
    """Scores of images; the same call continues after a kill.

    Args:
      images: to be scored.
      chosen: the protocol and its network.
      folder: for the sums, and scores.json at the end.
      measures: of MEASURES.
      reference: for fid and sfid.
      reference_images: real images for precision and recall, of which the first 10,000 are taken.
      batch: images that go through the network together; is filled up to a multiple of the devices.
      shuffled: of the Inception score: None leaves the images in their order (ADM), 2020 shuffles them as torch-fidelity does.

    Returns:
      The scores in the order of `measures`; in every process.

    Raises:
      InputError: for what cannot be measured, a folder of something else, or an image that is not finite.
    """
    check(images, chosen, measures, reference, reference_images)
    keep = bool({"precision", "recall"} & set(measures))
    wanted = {"spatial": "sfid" in measures, "certainty": "is" in measures, "keep": keep}
    facts = _facts(images, chosen, wanted, batch, shuffled)
    with hosts.claimed(folder, facts, contents=_CONTENTS):
        tally = _tallied(images, chosen, buckets.path(folder), wanted, batch, shuffled)
        values = {}
        if "fid" in measures:
            values["fid"] = protocols.frechet_score(tally.pool, chosen.protocol, reference, weights_hash=chosen.weights_hash)
        if "sfid" in measures:
            values["sfid"] = protocols.frechet_score(
                tally.spatial, chosen.protocol, reference.of_places(), measure="sFID", weights_hash=chosen.weights_hash
            )
        about = protocols.PROTOCOLS[chosen.protocol]
        plain = lambda name, value, *of: protocols.Score(
            name, value, images.count, chosen.protocol, about.fingerprint, *(of or ("", "")), chosen.weights_hash
        )
        if "is" in measures:
            values["is"] = plain("Inception score", inception_scores.of_totals(tally.certainty)[0])
        if keep:
            real, fake = _real(reference_images, chosen, batch), _kept(buckets.path(folder), images.count)
            of = (
                str(reference_images.about.get("path", reference_images.about.get("data"))),
                protocols.fingerprint_of({"": real}),
            )
            values["precision"] = plain("precision", neighbours.precision(real, fake, NEIGHBOURS), *of)
            values["recall"] = plain("recall", neighbours.recall(real, fake, NEIGHBOURS), *of)
        scores = [values[name] for name in measures]
        if hosts.is_main():
            written = {"scores": [one._asdict() for one in scores], "images": facts}
            folders.write_json(buckets.path(folder) / "scores.json", written)
    return scores


def write_reference(
    images: Images, chosen: features.Extractor, folder: str | os.PathLike, *, name: str = "", batch: int = 128
) -> pathlib.Path:
    """Moments of real images as a reference, reference.safetensors in `folder`; the same call continues after a kill.

    Args:
      images: all of a data set.
      chosen: the protocol and its network.
      folder: for the sums and the reference.
      name: of the reference; "": that of the data.
      batch: images that go through the network together.

    Returns:
      The path of the reference. It has the spatial features if the network has some.
    """
    check(images, chosen, (), None, None)
    wanted = {"spatial": _made(chosen, images).spatial is not None, "certainty": False, "keep": False}
    path = buckets.path(folder) / "reference.safetensors"
    with hosts.claimed(folder, _facts(images, chosen, wanted, batch, None), contents=_CONTENTS):
        tally = _tallied(images, chosen, buckets.path(folder), wanted, batch, None)
        name = name or str(images.about.get("data", images.about.get("path", "")))
        if hosts.is_main():
            protocols.write_reference(
                path, protocols.reference(name, chosen.protocol, tally.pool, tally.spatial, chosen.weights_hash)
            )
    return path


def _made(chosen: features.Extractor, images: Images) -> Any:
    """Shapes of the features of two images; raises InputError for images that the network does not take."""
    pair = jax.ShapeDtypeStruct((2, *images.shape), np.uint8)
    try:
        return jax.eval_shape(chosen.apply, chosen.params, pair)
    except (TypeError, ValueError) as error:
        raise typing.InputError(
            f"the protocol {chosen.protocol} does not take images of {images.shape[0]} x {images.shape[1]} pixels with"
            f" {images.shape[2]} channel(s) ({str(error).splitlines()[0][:120]}); choose another."
        ) from error


def _facts(
    images: Images, chosen: features.Extractor, wanted: dict[str, bool], batch: int, shuffled: int | None
) -> dict[str, Any]:
    """What the sums depend on, for about.json."""
    about = protocols.PROTOCOLS[chosen.protocol]
    return {
        "count": images.count, "shape": list(images.shape), "protocol": chosen.protocol, "protocol_hash": about.fingerprint,
        "network_weights": chosen.weights_hash, "rounding": "nearest", **wanted, "shuffled": shuffled, "batch": _size(batch),
        "part": _part(batch), "processes": jax.process_count(), "images": images.about,
    }  # fmt: skip


def _size(batch: int) -> int:
    """Images that go through the network together: a multiple of the devices."""
    devices = jax.local_device_count()
    return -(-batch // devices) * devices


def _part(batch: int) -> int:
    return max(PART // _size(batch), 1) * _size(batch)


def _tallied(
    images: Images, chosen: features.Extractor, folder: pathlib.Path, wanted: dict[str, bool], batch: int, shuffled: int | None
) -> Tally:  # fmt: skip
    """The tally of all images, in every process."""
    index, processes = jax.process_index(), jax.process_count()
    state = lambda process: folder / f"sums_{process:03d}.npz"
    size, part = _size(batch), _part(batch)
    starts = range(index * part, images.count, processes * part)
    tally = _read(state(index)) if state(index).exists() else Tally()
    split = inception_scores.parts(images.count, seed=shuffled)
    sums = _summing(chosen, wanted) if tally.parts < len(starts) else None
    with tqdm.tqdm(total=images.count, desc="images", unit="image", disable=not hosts.is_main()) as bar:
        bar.update(min(tally.parts * part * processes, images.count))
        for start in starts[tally.parts :]:
            kept = []
            for first in range(start, min(start + part, images.count), size):
                last = min(first + size, start + part, images.count)
                new_sums, pool = sums(images.read(first, last), size, split[first:last])
                tally = Tally(tally.parts, *(_added(old, new) for old, new in zip(tally[1:], new_sums)))
                kept.append(pool)
                bar.update(min(processes * (last - first), images.count - bar.n))
            if wanted["keep"]:
                folders.write_npz(folder / f"features_{start // part:05d}.npz", pool=np.concatenate(kept))
            tally = tally._replace(parts=tally.parts + 1)
            folders.write_npz(state(index), **_arrays(tally))
    hosts.barrier("all images are seen")
    whole = [_read(state(process)) for process in range(processes) if state(process).exists()]
    merged = lambda parts: _total([one for one in parts if one is not None])
    tally = Tally(0, *(merged(parts) for parts in list(zip(*whole))[1:]))
    if tally.pool is None or tally.pool.count != images.count:
        raise typing.InputError(
            f"--output={folder} holds sums of {tally.pool.count if tally.pool else 0:,} images, and there are {images.count:,}; all processes"
            " must see one folder."
        )
    return tally


def _summing(chosen: features.Extractor, wanted: dict[str, bool]) -> Callable[..., tuple[list[Any], np.ndarray]]:
    """(images uint8 [n, H, W, C], rows of a batch, parts of the Inception score [n]) -> (what they add to a Tally, pool [n, D])."""
    mesh = sharding.make_mesh(devices=jax.local_devices())
    rows, whole = sharding.rows(mesh), sharding.whole(mesh)

    def centred(x, real):
        mean = (x * real[:, None]).sum(axis=0) / real.sum()  # of this batch: large means would drown the deviations
        return mean, moments.sums(x, mean, real)

    @jax.jit
    def device_sums(params, x, real):
        made = chosen.apply(params, x)
        spatial = centred(made.spatial, real) if wanted["spatial"] else None
        logits = made.logits if wanted["certainty"] else None
        return centred(made.pool, real), spatial, logits, made.pool if wanted["keep"] else None

    params = jax.device_put(chosen.params, whole)

    def sums(x, size, part):
        n = len(x)
        real = (np.arange(size) < n).astype(np.float32)
        full = jax.device_put((np.resize(x, (size, *x.shape[1:])), real), rows)
        pool, spatial, logits, kept = jax.device_get(device_sums(params, *full))
        of = lambda made: None if made is None else moments.of_sums(made[1], made[0])
        certainty = None if logits is None else inception_scores.totals(logits[:n], part)
        return [of(pool), of(spatial), certainty], np.zeros((n, 0), np.float32) if kept is None else kept[:n]

    return sums


def _added(old: Any, new: Any) -> Any:
    return new if old is None else _total([old, new])


def _total(parts: list[Any]) -> Any:
    """Moments, or totals of the Inception score, of several sets of images; None for none."""
    if not parts or isinstance(parts[0], moments.Moments):
        return moments.merged(parts) if parts else None
    return inception_scores.Totals(*(np.sum(arrays, axis=0) for arrays in zip(*parts)))


def _arrays(tally: Tally) -> dict[str, np.ndarray]:
    arrays = {"parts": np.array(tally.parts)}
    for name, value in tally._asdict().items():
        if isinstance(value, tuple):
            arrays |= {f"{name}.{key}": np.asarray(array) for key, array in value._asdict().items()}
    return arrays


def _read(file: pathlib.Path) -> Tally:
    """What `_arrays` wrote."""
    arrays = opening.npz(file, _STATE)
    with opening.reading(file, _STATE):
        kinds = {"pool": moments.Moments, "spatial": moments.Moments, "certainty": inception_scores.Totals}
        values = {
            name: kind(*(arrays[f"{name}.{key}"] for key in kind._fields))
            for name, kind in kinds.items()
            if f"{name}.{kind._fields[0]}" in arrays
        }
        values |= {name: value._replace(count=int(value.count)) for name, value in values.items() if name != "certainty"}
        return Tally(int(arrays["parts"]), **values)


def _kept(folder: pathlib.Path, count: int) -> np.ndarray:
    """The pooled features of all images."""
    parts = [opening.npz(file, _STATE, ("pool",))["pool"] for file in sorted(folder.glob("features_*.npz"))]
    return np.concatenate(parts)[:count]


def _real(images: Images, chosen: features.Extractor, batch: int) -> np.ndarray:
    """The pooled features of real images."""
    sums = _summing(chosen, {"spatial": False, "certainty": False, "keep": True})
    count, size = min(images.count, REFERENCE_IMAGES), _size(batch)
    starts = tqdm.tqdm(range(0, count, size), desc="real images", unit="batch", disable=not hosts.is_main())
    parts = [sums(images.read(start, min(start + size, count)), size, None)[1] for start in starts]
    return np.concatenate(parts)
