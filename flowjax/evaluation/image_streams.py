"""Images to be scored, a batch at a time and never all at once: of a run, of files, of a data set.

All come as whole pixels, uint8 [n, H, W, C] with C = 1 or 3; those in [-1, 1] are rounded by flowjax.evals.features.rounded, and one that is
not finite ends the reading, because rounding would hide it.
"""

import functools
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from flowjax import buckets, data, evals, folders, opening, samplers, typing
from flowjax.data import image_files, stored
from flowjax.evaluation import decoded, generation
from flowjax.training import loading, sampling

LABELS = ("balanced", "random", "data")
_NPZ = 'an .npz file with images [n, H, W, C] as "arr_0" or "x", uint8, or floating in [-1, 1]'


class Images(NamedTuple):
    """Images that are read in parts.

    Attributes:
      count: how many there are.
      shape: (H, W, C) of each.
      read: (start, stop) -> uint8 [stop - start, H, W, C].
      about: what they depend on, of JSON types.
    """

    count: int
    shape: tuple[int, ...]
    read: Callable[[int, int], np.ndarray]
    about: dict[str, Any]

    def first(self, count: int) -> "Images":
        """The first `count` of them, all for 0.

        Raises:
          InputError: there are fewer.
        """
        if count > self.count:
            raise typing.InputError(f"--num={count:,}: there are {self.count:,} images; give fewer, or draw more.")
        return self._replace(count=count or self.count)


def of_run(
    workdir: str | os.PathLike, *, num: int, batch: int, steps: int = 1, seed: int = 0, labels: str | Sequence[int] = "balanced",
    average: str = "", checkpoint: str = "", sampler: str = "", grid: str = "", guidance: float | None = None,
    interval: tuple[float, ...] = (), decoder: decoded.Decoder | None = None,
) -> Images:  # fmt: skip
    """Samples of a run, drawn when they are read; sample i depends on `seed`, its label and i alone.

    Args:
      workdir: the folder of the run.
      num: how many samples.
      batch: most of them that are read at once.
      labels: "balanced": all classes in turn; "random": drawn evenly by `seed`; "data": as often as the training data have each; or
        classes in turn.
      steps, seed, average, checkpoint, sampler, grid, guidance, interval: as of flowjax.evaluation.generation.write.
      decoder: of a run on latents; None: of what the data set names, if anything.

    Raises:
      InputError: for numbers that do not fit, or a run that cannot be read, or that makes no images.
    """
    run = loading.load(workdir, average, step=checkpoint, devices=jax.local_devices())
    sampler, grid = sampler or run.settings.evaluation.sampler, grid or run.settings.evaluation.grid
    samplers.check_sampler(sampler, steps, grid, run.settings.method.path)
    classes = sampling.classes_to_sample(run.num_classes, () if labels in LABELS else labels, run.settings.data.name)
    conditioning = run.conditioning(guidance, interval)
    decode = _as_it_is if decoder else _decoder(run.settings.data.name, run.settings.data.dir)
    drawn = np.resize(classes, num)
    if labels == "random" and run.num_classes:
        drawn = np.random.default_rng([seed, 1]).integers(run.num_classes, size=num)
    if labels == "data" and run.num_classes:
        drawn = sampling.labels_like(data.arrays(run.source())["label"], run.num_classes, num)
    sample = run.sampler(sampler, grid, conditioning)

    def read(start, stop):
        padded = np.resize(drawn[start:stop], batch).astype(np.int32)  # one size, one program
        x = sample(run.params, seed, padded, steps, first=start)[: stop - start]
        if decoder is None:
            return pixels(decode(x), start)
        check_finite(x, start)
        return decoder.images(x)

    about = {
        "source": "run", "run": str(workdir), **generation.facts_of(run), "average": average or run.settings.evaluation.average,
        "steps": steps, "sampler": sampler, "grid": grid, "seed": seed,
        "labels": labels if labels in LABELS else [int(label) for label in classes],
        "guidance": None, "interval": [], "autoencoder": decoder.about if decoder else None,
        **{name: list(value) if isinstance(value, tuple) else value for name, value in conditioning.items()},
    }  # fmt: skip
    shape = decoder.shape(run.shape) if decoder else run.shape
    if decode is not _as_it_is:
        shape = decode(np.zeros((1, *run.shape), np.float32)).shape[1:]
    return Images(num, _image_shape(shape, run.settings.data.name), read, about)


def of_files(where: str) -> Images:
    """Images of a folder of experiments.generate, of an .npz file, or of a folder of PNG and JPEG files.

    Args:
      where: the path. A folder of images takes ",size=N" behind it, see flowjax.data.image_files; their order is that of the paths. An
        .npz file holds "arr_0", as guided-diffusion writes its samples, or "x".

    Raises:
      InputError: there is no such path, or it holds something else.
    """
    folders.check_path(where, "--samples")
    path = buckets.path(where)
    if buckets.exists(path / folders.ABOUT):
        return _generated(path)
    if path.suffix == ".npz" and not path.is_dir():
        return _of_array(path)
    files, read_one = image_files.every(where)
    listed = [("/".join(file.parts[-2:]), file.stat().st_size) for file in files]
    about = {"source": "folder", "path": where, "content": opening.text_checksum(str(listed))}
    read = lambda start, stop: np.stack([read_one(file) for file in files[start:stop]])
    return Images(len(files), read_one(files[0]).shape, read, about)


def of_dataset(name: str, split: str = "train", data_dir: str = "", *, num: int = 0) -> Images:
    """The rows of a data set, which are images, or latents with a decoder.

    Args:
      name, split, data_dir: as of flowjax.data.load, as are the errors.
      num: how many, taken evenly from all of them; 0: all.
    """
    source = data.load(name, split=split, data_dir=data_dir)
    if num > source.size:
        raise typing.InputError(f"--num={num:,}: {name} has {source.size:,} rows in its split {split}; give fewer.")
    count = num or source.size
    decode = evals.features.decoder(source, data_dir)

    def read(start, stop):
        x = source.rows(np.arange(start, stop) * source.size // count)["x"]
        return x if x.dtype == np.uint8 else pixels(decode(x), start)

    return Images(count, _image_shape(read(0, 1).shape[1:], name), read, {"source": "data", "data": name, "split": split})


def pixels(images: np.ndarray, first: int = 0) -> np.ndarray:
    """Images in [-1, 1] as whole pixels; `first` and the error are as of `check_finite`."""
    check_finite(images, first)
    return evals.features.rounded(images)


def check_finite(images: np.ndarray, first: int) -> None:
    """Raises InputError if a sample holds a number that is not finite; `first` is the number of the first sample."""
    bad = ~np.isfinite(images).all(axis=tuple(range(1, images.ndim)))
    if bad.any():
        raise typing.InputError(
            f"sample {first + int(np.argmax(bad))} holds numbers that are not finite, so that there is no score; the network has diverged."
        )


def _as_it_is(rows: np.ndarray) -> np.ndarray:
    return rows


def _decoder(name: str, data_dir: str) -> Callable[[np.ndarray], np.ndarray]:
    """What turns samples of a run on this data set into images."""
    source = data.declared(name) if name in stored.DECLARED else data.load(name, data_dir=data_dir)
    return evals.features.decoder(source, data_dir) if source.decode else _as_it_is


def _image_shape(shape: tuple[int, ...], name: str) -> tuple[int, ...]:
    if len(shape) != 3 or shape[-1] not in (1, 3):
        raise typing.InputError(
            f"rows of {name} have shape {tuple(shape)}, and scores of images take [H, W, 3] or [H, W, 1]; of latents, give their"
            " autoencoder: --autoencoder=FILE --sizes=sd."
        )
    return tuple(shape)


def _generated(path: pathlib.Path) -> Images:
    facts = generation.about(path)
    decode = _decoder(facts["data"], "") if facts["data"] in stored.DECLARED else _as_it_is
    shape = _image_shape(decode(np.zeros((1, *facts["shape"]), np.float32)).shape[1:], str(path))
    file = lambda number: path / f"shard_{number:05d}.npz"
    if missing := [file(i).name for i in range(-(-facts["count"] // facts["shard"])) if not file(i).exists()]:
        raise typing.InputError(
            f"--samples={path} lacks {missing[0]}; the command that began it continues:"
            f" python -m experiments.generate --workdir={facts['run']} --output={path}."
        )
    shard = functools.lru_cache(maxsize=1)(lambda number: generation.shard(path, facts, number)["x"])

    def read(start, stop):
        parts = []
        while start < stop:
            number, offset = divmod(start, facts["shard"])
            part = shard(number)[offset : offset + stop - start]
            parts.append(part if part.dtype == np.uint8 else pixels(decode(part), start))
            start += len(part)
        return np.concatenate(parts)

    return Images(facts["count"], shape, read, {"source": "generated", **facts, "path": str(path)})


def _of_array(path: pathlib.Path) -> Images:
    with opening.reading(path, _NPZ):
        arrays = opening.npz(path, _NPZ)
        name = next((name for name in ("arr_0", "x") if name in arrays), "")
        if not name:
            raise ValueError(f"it has the arrays {', '.join(arrays)}"[:160])
        x = arrays[name]
        if x.ndim != 4 or not len(x) or x.shape[-1] not in (1, 3) or not (x.dtype == np.uint8 or x.dtype.kind == "f"):
            raise ValueError(f"its {name!r} has shape {x.shape} and type {x.dtype}")
        if x.dtype != np.uint8 and np.abs(x[:64]).max() > 4:
            raise ValueError(f"its {name!r} is floating and not in [-1, 1]")
    read = lambda start, stop: x[start:stop] if x.dtype == np.uint8 else pixels(x[start:stop], start)
    return Images(len(x), x.shape[1:], read, {"source": "npz", "path": str(path), "content": opening.checksum(path, _NPZ)})
