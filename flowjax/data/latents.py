"""`latents:PATH`, the moments of images that experiments.prepare_latents wrote: PATH/train and PATH/test.

Each row is drawn anew from its mean and deviation whenever it is read, by its position in the stream: see flowjax.data.pipeline. The
manifest, about.json, says what the rows are: of which autoencoder, under which crop, and for which normalisation. A run with another
normalisation, and splits of two autoencoders, are refused.
"""

import functools
import os
import pathlib
from typing import Any

import numpy as np

from flowjax import buckets, checks, folders, opening, typing
from flowjax.data import pipeline, stored
from flowjax.data.scaling import Scaling

SPLITS = ("train", "test")
CONTENTS, STATISTICS = "latents", "statistics.json"
_ALIKE = ("autoencoder", "size", "crop", "zero_to_one", "shape", "classes", "normalisation")  # of two splits
_EXPECTED = "the manifest of latents; write them again with experiments.prepare_latents"
_MEASURED = "the mean and deviation of latents; the command that wrote them writes it again: experiments.prepare_latents"
_numbers = lambda value: isinstance(value, list) and bool(value) and all(isinstance(number, float) for number in value)
_FIELDS = {
    "contents": (CONTENTS,).__contains__, "rows": opening.count(1), "shard": opening.count(1), "shape": opening.shape,
    "num_classes": opening.count(), "classes": lambda value: isinstance(value, list), "mirrored": lambda value: isinstance(value, bool),
    "autoencoder": opening.text, "size": opening.count(1), "crop": opening.text, "normalisation": opening.text,
    "zero_to_one": lambda value: isinstance(value, bool), "mean": _numbers, "deviation": _numbers,
}  # fmt: skip


def source(where: str, *, split: str = "train", data_dir: str | None = None) -> pipeline.Source:
    """One split of latents.

    Args:
      where: the folder, PATH.
      split: "train" or "test".
      data_dir: unused; every dataset takes it.

    Raises:
      InputError: there are no such latents, or not all of them, or their manifest does not fit.
    """
    del data_dir
    name = f"latents:{where}"
    checks.member(f"split of {name:.100}", split, SPLITS)
    path, about = buckets.path(where) / split, manifest(where, split)
    check_alike(about, where, split)
    numbers = range(-(-about["rows"] // about["shard"]))
    shards = {kind: [path / f"{kind}_{number:05d}.npy" for number in numbers] for kind in kinds(about)}
    if missing := [file for some in shards.values() for file in some if not file.exists()]:
        raise typing.InputError(
            f"{name:.200} lacks {len(missing)} of its files, {missing[0].name} first; the command that began them continues:"
            " python -m experiments.prepare_latents."
        )
    read = {kind: stored.Shards(name, some) for kind, some in shards.items()}
    expected = (*about["shape"][:-1], 2 * about["shape"][-1])
    for kind, some in read.items():
        shape, dtype = ((), np.int32) if kind == "label" else (expected, np.float16)
        if (some.size, some.shape, some.dtype) != (about["rows"], shape, dtype):
            raise typing.InputError(
                f"{name:.200}: its files of {kind} hold {some.size} rows of shape {some.shape} and type {some.dtype}; the manifest says"
                f" {about['rows']} of {shape}, {np.dtype(dtype)}."
            )
    rows = lambda kind: functools.partial(stored.rows, "moments", read[kind], read.get("label"))
    return pipeline.Source(
        name,
        about["rows"],
        tuple(about["shape"]),
        about["num_classes"],
        rows("moments"),
        mirrored=rows("mirrored_moments") if about["mirrored"] else None,
        moments=True,
        normalisation=_normalisation(path, about),
    )


def manifest(where: str | os.PathLike, split: str) -> dict[str, Any]:
    """about.json of a split; raises InputError if there is none."""
    path = buckets.path(where) / split
    folders.check_path(path, "config.data.name=latents:PATH")
    if not buckets.exists(path / folders.ABOUT):
        raise typing.InputError(
            f"{path} holds no {folders.ABOUT}, so that latents:{str(where):.200} has no split {split!r}; write it with python -m"
            f" experiments.prepare_latents --output={str(where):.200} --split={split}"
            + (", or train without evaluations: --config.eval_every=0." if split == "test" else ".")
        )
    return folders.read_about(path, _EXPECTED, _FIELDS)


def kinds(about: dict[str, Any]) -> tuple[str, ...]:
    """The arrays of a shard."""
    return (*(["label"] if about["num_classes"] else []), *(["mirrored_moments"] if about["mirrored"] else []), "moments")


def check_alike(about: dict[str, Any], where: str | os.PathLike, split: str) -> None:
    """Raises InputError unless the other split, if it is there, was made as this one."""
    other = SPLITS[1 - SPLITS.index(split)]
    if not buckets.exists(buckets.path(where) / other / folders.ABOUT):
        return
    if differ := folders.differences(manifest(where, other), about, _ALIKE):
        raise typing.InputError(
            f"the latents of {split} do not fit those of {other} in {where} ({differ}); write both in the same way, or give another folder."
        )


def _normalisation(path: pathlib.Path, about: dict[str, Any]) -> tuple[str, Scaling]:
    """(name, numbers) of what a network of these latents is to see."""
    if about["normalisation"] != "measured":
        return about["normalisation"], Scaling(tuple(about["mean"]), tuple(about["deviation"]))
    train = path.parent / SPLITS[0] / STATISTICS  # the one that is trained on
    file = train if train.exists() else path / STATISTICS
    numbers = opening.json_object(file, _MEASURED, {"mean": _numbers, "deviation": _numbers})
    return "measured", Scaling(tuple(numbers["mean"]), tuple(numbers["deviation"]))
