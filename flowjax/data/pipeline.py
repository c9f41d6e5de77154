"""One endless, seeded order of the rows of a source, from which any host reads its part at any step.

Position `i` of the stream is row `order_e[i % size]` in epoch `e = i // size`, with `order_e` a permutation seeded by
`(seed, e)`. Global batch `k` is the positions `k B .. (k + 1) B`, and host `p` of `P` reads rows `[p B / P, (p + 1) B / P)` of
it. So the step alone is the state of the data, and any number of hosts continues the same order.
"""

import functools
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from flowjax import typing
from flowjax.data import augmentation, transport
from flowjax.data.scaling import Scaling
from flowjax.data.transport import GROUP

DRAWN = 16  # rows of latents whose noise one generator draws
MOST_THREADS = 8  # that make batches ahead
_FOREVER = 2**48
CHUNK = 4_096  # rows that are read at once for their labels


class Source(NamedTuple):
    """A finite dataset, read by row id.

    Attributes:
      name: its name.
      size: number of rows.
      shape: of one row: (2,), (H, W, C), or (L, K) of one-hot tokens.
      num_classes: 0 if unlabelled.
      rows: row ids [n] -> {"x": float32 [n, *shape] or uint8 [n, H, W, C] in 0..255, "label": int32 [n]}; "label" is absent
        when unlabelled. With `moments`, "x" is the mean of the data and "deviation", like it, their deviation, of any floating dtype.
      coupled: whether `rows` also has "eps", the noise that belongs to each "x".
      coupling: "ot" if batches are to bring noise assigned by minibatch optimal transport, see flowjax.data.transport.
      features: key of flowjax.evals.EXTRACTORS, the network whose features compare samples with data; "": none.
      decode: key of flowjax.evals.DECODERS, what turns rows into images before they are measured; "": rows are measured as they
        are.
      reference: the split whose rows samples are compared with.
      reference_rows: at most this many of them; None: all.
      space: key of flowjax.spaces.SPACES, where the rows are.
      scaling: what batches bring of `x`, see flowjax.data.scaling; the rows themselves are as they are.
      augment: the transforms of flowjax.data.augmentation that images go through before the scaling; None: none.
      mirrored: as `rows`, of the mirrored images, where these are no mirrored rows; None: mirrored rows will do.
      moments: whether rows are drawn anew from their mean and deviation each time they are read (latents).
      levels: of a channel of images, evenly from 0 to 255; 0 for rows that are on no grid.
      normalisation: (its name, the scaling) of latents that were prepared for one; batches with another are refused.
    """

    name: str
    size: int
    shape: tuple[int, ...]
    num_classes: int
    rows: Callable[[np.ndarray], dict[str, np.ndarray]]
    coupled: bool = False
    coupling: str = ""
    features: str = ""
    decode: str = ""
    reference: str = "test"
    reference_rows: int | None = 10_000
    space: str = "euclidean"
    scaling: Scaling = Scaling()
    augment: augmentation.Augmentation | None = None
    mirrored: Callable[[np.ndarray], dict[str, np.ndarray]] | None = None
    moments: bool = False
    levels: int = 0
    normalisation: tuple[str, Scaling] | None = None


def every_tenth(count: int, split: str) -> np.ndarray:
    """Row ids of one split where none is given: of "test" the ids 9, 19, 29, ..., of any other the rest."""
    held_out = np.arange(count) % 10 == 9
    return np.flatnonzero(held_out if split == "test" else ~held_out)


def even(source: Source) -> Source:
    """The rows such that each class is read as often: those of rarer classes come several times an epoch.

    All rows are read once, to know their labels.

    Raises:
      InputError: the source has no labels, or rows that are in no class.
    """
    if not source.num_classes:
        raise typing.InputError(f"config.data.even is True, and {source.name} has no classes; leave it False.")
    label = np.concatenate(
        [source.rows(np.arange(i, min(i + CHUNK, source.size)))["label"] for i in range(0, source.size, CHUNK)]
    )
    if label.min() < 0:
        raise typing.InputError(f"config.data.even is True, and {source.name} has rows without a class; leave it False.")
    classes = [np.flatnonzero(label == number) for number in np.unique(label)]
    most = max(map(len, classes))
    ids = np.stack([np.resize(members, most) for members in classes]).reshape(-1)
    read = lambda rows: rows and (lambda chosen: rows(ids[chosen]))
    return source._replace(size=len(ids), rows=read(source.rows), mirrored=read(source.mirrored))


def arrays(source: Source, limit: int | None = None) -> dict[str, np.ndarray]:
    """The first `limit` rows of a source (None: all), in the order of its row ids.

    Args:
      source: where the rows come from.
      limit: at most this many rows.

    Returns:
      {"x": float32 [n, *source.shape], pixels in [-1, 1], "label": int32 [n] if labelled}, and what a coupled source has
      besides.
    """
    count = source.size if limit is None else min(limit, source.size)
    batch = _drawn(_labelled(source, source.rows(np.arange(count))), 0, 0)
    return {**batch, "x": _floats(batch["x"])}


def batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    start: int = 0,
    process: int = 0,
    processes: int = 1,
    flip: bool = False,
    prefetch: int | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """This host's part of the global batches `start`, `start + 1`, ... without end.

    Args:
      source: where the rows come from.
      batch_size: rows of a global batch, a multiple of `processes`; may exceed the size of the source.
      seed: of the order, non-negative.
      start: the first global batch: the step to resume from.
      process: this host, in 0..processes - 1.
      processes: number of hosts.
      flip: mirrors each image left to right with probability 1/2, drawn a position of the stream.
      prefetch: batches made ahead, each by a thread; 0: made on demand. None: half as many as this process has cores, from 2 to
        MOST_THREADS.

    Returns:
      An iterator of {"x": float32 [B / P, *source.shape], pixels in [-1, 1], then scaled, "label": int32 [B / P] if labelled,
      "eps": like x if the source has a coupling, "trajectory" and "times" if it holds trajectories, "augmentation": float32 [B / P,
      9] if the source is augmented}.

    Raises:
      InputError: the arguments do not fit together.

    Example:
      >>> source = Source("line", 4, (1,), 0, lambda ids: {"x": ids[:, None].astype(np.float32)})
      >>> sorted(next(batches(source, batch_size=4, seed=0))["x"][:, 0].tolist())
      [0.0, 1.0, 2.0, 3.0]
    """
    check(source, batch_size=batch_size, seed=seed, start=start, process=process, processes=processes, flip=flip)
    import grain  # takes seconds to import

    local = batch_size // processes
    first, last = process * local, (process + 1) * local
    # Whole groups of the transport, so that it does not depend on the number of hosts.
    lo, hi = (first // GROUP * GROUP, min(-(-last // GROUP) * GROUP, batch_size)) if source.coupling else (first, last)
    order = _order(source.size, seed)

    # An element is a whole host batch: a grain element a row is a hundred times slower.
    def host_batch(k: int) -> dict[str, np.ndarray]:
        ids, mirrored = order(k * batch_size + lo, hi - lo)
        first_position = k * batch_size + lo
        batch = _labelled(source, _flipped(source, ids, mirrored) if flip else source.rows(ids))
        batch = _drawn(batch, seed, first_position)
        batch = _seen(source, {**batch, "x": _floats(batch["x"])}, seed, first_position)
        if source.coupling:
            batch["eps"] = transport.noise(batch["x"], batch.get("label"), seed, k, lo)
        return {name: value[first - lo : last - lo] for name, value in batch.items()}

    ahead = min(max(2, _cores() // 2), MOST_THREADS) if prefetch is None else prefetch
    options = grain.ReadOptions(num_threads=ahead, prefetch_buffer_size=ahead)
    return iter(grain.MapDataset.range(_FOREVER).map(host_batch)[start:].to_iter_dataset(options))


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # Linux alone tells


def _labelled(source: Source, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The batch; raises InputError for a label that is no class: an embedding would take another class's row for it."""
    label = batch.get("label")
    if label is not None and source.num_classes and len(label) and not -1 <= label.min() <= label.max() < source.num_classes:
        raise typing.InputError(
            f"{source.name} has the classes 0 to {source.num_classes - 1}, and a row with the label"
            f" {label.max() if label.max() >= source.num_classes else label.min()}; correct its labels (-1: without a class)."
        )
    return batch


def _flipped(source: Source, ids: np.ndarray, mirrored: np.ndarray) -> dict[str, np.ndarray]:
    """Rows of a source, some of them mirrored left to right."""
    batch = source.rows(ids)
    if source.mirrored is None:
        x = batch["x"].copy()
        x[mirrored] = x[mirrored][:, :, ::-1]
        return {**batch, "x": x}
    for name, value in source.mirrored(ids[mirrored]).items():
        batch[name][mirrored] = value
    return batch


def _drawn(batch: dict[str, np.ndarray], seed: int, first: int) -> dict[str, np.ndarray]:
    """A batch with "x", float32, drawn from its mean and "deviation", if it has one.

    The noise of position i of the stream depends on `seed` and i alone: it is drawn for DRAWN positions together, from the first
    multiple of it on.
    """
    if "deviation" not in batch:
        return batch
    mean, before = batch["x"], first % DRAWN
    groups = -(-(before + len(mean)) // DRAWN)
    noise = np.empty((groups, DRAWN, *mean.shape[1:]), np.float32)
    for number, group in enumerate(noise):
        np.random.default_rng((seed, first // DRAWN + number, DRAWN)).standard_normal(dtype=np.float32, out=group)
    x = noise.reshape(-1, *mean.shape[1:])[before : before + len(mean)]
    x *= batch["deviation"]
    x += mean
    return {name: value for name, value in batch.items() if name != "deviation"} | {"x": x}


def _seen(source: Source, batch: dict[str, np.ndarray], seed: int, first: int) -> dict[str, np.ndarray]:
    """The rows from position `first` of the stream on, augmented and scaled."""
    if source.augment is not None:
        drawn = augmentation.uniforms(seed, first, len(batch["x"]))
        images, labels = source.augment(batch["x"], drawn)
        batch = {**batch, "x": images, "augmentation": labels}
    return {**batch, "x": source.scaling.apply(batch["x"])}


def _order(size: int, seed: int) -> Callable[[int, int], tuple[np.ndarray, np.ndarray]]:
    """The stream: (first position, n) -> (row ids [n], whether each is mirrored [n])."""

    # lru_cache is thread-safe; at the edge of an epoch two threads may both draw it, and draw the same.
    @functools.lru_cache(maxsize=3)
    def epoch(e: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng((seed, e))
        return rng.permutation(size), rng.random(size, np.float32) < 0.5

    def positions(first: int, n: int) -> tuple[np.ndarray, np.ndarray]:
        touched = range(first // size, (first + n - 1) // size + 1)
        parts = [[column[max(first - e * size, 0) : first + n - e * size] for column in epoch(e)] for e in touched]
        ids, mirrored = zip(*parts, strict=True)
        return np.concatenate(ids), np.concatenate(mirrored)

    return positions


def _floats(x: np.ndarray) -> np.ndarray:
    """uint8 pixels -> float32 in [-1, 1]; anything else as it is."""
    if x.dtype != np.uint8:
        return x
    y = x.astype(np.float32)
    y /= 127.5
    y -= 1
    return y


def check(
    source: Source, *, batch_size: int, seed: int, start: int = 0, process: int = 0, processes: int = 1, flip: bool = False
) -> None:
    """Raises InputError if `batches` cannot work with these arguments."""
    if batch_size < 1 or processes < 1 or batch_size % processes:
        raise typing.InputError(
            f"A global batch of {batch_size} rows does not divide among {processes} processes: "
            f"make batch_size a positive multiple of {processes}."
        )
    if not 0 <= process < processes:
        raise typing.InputError(f"process is {process}; with {processes} processes it is in 0..{processes - 1}.")
    if seed < 0 or start < 0:
        raise typing.InputError(f"seed is {seed} and start is {start}; neither may be negative.")
    if flip and len(source.shape) != 3:
        raise typing.InputError(f"{source.name} has rows of shape {source.shape}: only images can be flipped, set flip=False.")
    if flip and source.moments and source.mirrored is None:
        raise typing.InputError(
            f"config.data.flip is True, and {source.name} has no latents of mirrored images, which are not mirrored latents; put"
            " train_mirrored_moments_00000.npy, ... beside the others, or --config.data.flip=False."
        )
    if flip and source.coupled:
        raise typing.InputError(f"{source.name} pairs each row with its noise: a flipped row has another, set flip=False.")
    if source.augment is not None and (len(source.shape) != 3 or source.coupled):
        why = "pairs each row with its noise" if source.coupled else f"has rows of shape {source.shape}"
        raise typing.InputError(
            f"{source.name} {why}: only independent images are augmented, --config.data.augment= clears it."
        )
    _check_scaling(source)


def _check_scaling(source: Source) -> None:
    """Raises InputError if the scaling does not fit the rows."""
    if source.normalisation is not None and not source.scaling.close(source.normalisation[1], source.shape[-1]):
        name, wanted = source.normalisation
        typed = f"--config.data.mean={wanted.mean} --config.data.deviation={wanted.deviation}".replace(", ", ",")
        raise typing.InputError(
            f"{source.name:.200} was prepared for the normalisation {name!r}, and config.data has the mean {source.scaling.mean} and the"
            f" deviation {source.scaling.deviation}; expected "
            + (f"{typed}." if name == "measured" else f"--config.data.normalisation={name}.")
        )
    if source.scaling == Scaling():
        return
    channels = (1, source.shape[-1])
    for name, numbers in source.scaling._asdict().items():
        if len(numbers) not in channels:
            raise typing.InputError(
                f"config.data.{name} has {len(numbers)} numbers, and rows of {source.name} have shape {source.shape}; expected one, or"
                f" {source.shape[-1]}."
            )
    if source.coupled or source.space != "euclidean":
        why = "pairs each row with its noise" if source.coupled else f"is in the space {source.space!r}"
        raise typing.InputError(
            f"{source.name} {why}, so that its rows cannot be scaled: --config.data.mean=0.0 --config.data.deviation=1.0."
        )
