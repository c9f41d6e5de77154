"""Samples of a network: its conditioning, its noise, and chunks of rows carried to the data."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import tqdm
from jax.experimental import multihost_utils

from flowjax import conditioning as conditionings, data, models, paths, samplers, typing
from flowjax.training import sharding

CHUNK, LEAST = 512, 64  # rows that go through the network together, on how few devices ever; and of each of many devices


def row_keys(key: typing.Array, index: typing.Array) -> typing.Array:
    """One key [n] for each row number [n]: the noise of a row depends on the key and its number alone."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)


def noise(path: paths.Path, keys: typing.Array, shape: tuple[int, ...]) -> typing.Array:
    """Noise of a path, [n, *shape], float32: a row for each of `row_keys` [n]."""
    return jax.vmap(lambda key: path.draw(key, shape))(keys)


def make_sampler(
    net: Any,
    shape: tuple[int, ...],
    sampler: str = "flow_map",
    conditioning: Mapping[str, Any] | None = None,
    *,
    grid: str = "uniform",
    path: str | paths.Path = "linear",
    scaling: data.Scaling | None = None,
    mesh: jax.sharding.Mesh | None = None,
    rules: tuple[tuple[str, tuple], ...] = (),
) -> Callable[..., np.ndarray]:
    """A function `(params, seed, labels, steps) -> samples [n, *shape]`, which compiles once for each number of steps.

    Sample i starts from noise that depends on `seed` and i alone, so other steps, labels and chunks see the same noise. With
    `first=k` the samples are those from number k on. With `x` [n, *shape] they start there instead of fresh noise, and with
    `inverted=True` the times are reversed: `x` is data, and the result is the noise that it comes from.

    Args:
      net: a network, `net.apply(variables, x, s, t, cond)`.
      shape: of one row of data.
      sampler: name and options, see flowjax.samplers.sampler_from_name.
      conditioning: values of one row for the inputs of the network besides the label, the same for every row; None: none.
      grid: name and options, or times, see flowjax.samplers.grid_from_name.
      path: the interpolant that the network was trained on.
      scaling: of the data that the network was trained on, by which samples are brought back; data to invert are scaled. None: none.
      mesh: its devices share the rows; None: the default device alone.
      rules: how its axis "fsdp" slices the weights, see flowjax.training.sharding.specs; (): every device holds them whole.

    Raises:
      InputError: for an unknown sampler, grid or option; when called, below 1 step, or inverted with a sampler that draws noise.
    """
    path = paths.path_from_name(path)
    chosen, times_of = samplers.sampler_from_name(sampler, path), samplers.grid_from_name(grid)
    rows = mesh and sharding.rows(mesh)
    there = lambda params: sharding.places(sharding.placed(params, rules, mesh)) if mesh else None

    @functools.partial(_compiled, mesh=mesh, rules=rules if chosen.evaluations is not None else ())
    def chunk(times, params, key, index, labels, x):
        keys = row_keys(key, index)
        V = models.bound(net, params, conditionings.rows(labels, conditioning or {}))
        return chosen.run(V, noise(path, keys, shape) if x is None else x, np.array(times), keys)

    def sample(params, seed, labels, steps, progress=False, *, first=0, x=None, inverted=False):
        samplers.check_sampler(sampler, steps, grid, path)
        times = tuple(times_of(steps).tolist())[:: -1 if inverted else 1]
        if inverted and chosen.noisy:
            raise typing.InputError(f"sampler {sampler!r} draws new noise and cannot be inverted; expected e.g. heun.")
        params, key, n = jax.device_put(params, there(params)), jax.random.key(seed), len(labels)
        size = _chunk_size(n, 1 if mesh is None else mesh.devices.size)
        padded = np.resize(np.asarray(labels, np.int32), -(-n // size) * size)
        x = None if x is None else np.resize(np.asarray(x, np.float32), (len(padded), *shape))
        parts = []
        for start in tqdm.tqdm(range(0, n, size), desc=f"{steps}-step samples", delay=3, leave=False, disable=not progress):
            part = slice(start, start + size)
            given = first + np.arange(len(padded))[part], padded[part], None if x is None else x[part]
            parts.append(_on_host(chunk(times, params, key, *jax.device_put(given, rows))))
        return np.concatenate(parts)[:n]

    return sample if scaling is None else _of_data(sample, scaling)


def _compiled(of_rows: Callable[..., typing.Array], mesh: Any, rules: tuple) -> Callable[..., typing.Array]:
    """`of_rows(times, params, key, index, labels, x)` for the rows of all devices of a mesh.

    Where `rules` slice the weights, each device takes its rows through the network by itself, and blocks gather their weights. Without
    them the compiler gathers: samplers that choose their steps by the data choose them by all rows, on all devices the same.
    """
    rows = sharding.ROWS

    @functools.partial(jax.jit, static_argnums=0, out_shardings=mesh and sharding.rows(mesh))
    def run(times, params, *given):
        if not (rules and mesh and mesh.shape["fsdp"] > 1):
            return of_rows(
                times, params if mesh is None else jax.lax.with_sharding_constraint(params, sharding.whole(mesh)), *given
            )
        partition = sharding.specs(params, rules, mesh)
        of_device = lambda params, *given: of_rows(times, sharding.gathered(params, partition), *given)
        specs = (partition, sharding.WHOLE, rows, rows, rows)
        return jax.shard_map(of_device, mesh=mesh, in_specs=specs, out_specs=rows, check_vma=False)(params, *given)

    return run


def _of_data(sample: Callable[..., np.ndarray], scaling: data.Scaling) -> Callable[..., np.ndarray]:
    """A sampler of scaled data as one of data: samples are brought back, and data to invert are scaled."""

    def brought_back(*args, x=None, inverted=False, **options):
        if inverted:
            return sample(*args, x=None if x is None else scaling.apply(x), inverted=True, **options)
        return scaling.undo(sample(*args, x=x, **options))

    return brought_back


def _chunk_size(n: int, devices: int) -> int:
    """Rows that go through the network together: n, CHUNK or LEAST for each device, and a multiple of the devices."""
    return -(-min(max(CHUNK, LEAST * devices), n) // devices) * devices


def _on_host(x: typing.Array) -> np.ndarray:
    """The whole array, in every process that holds a part of it."""
    return np.asarray(x) if x.is_fully_addressable else multihost_utils.process_allgather(x, tiled=True)


def classes_to_sample(num_classes: int, chosen: Sequence[int] = (), data_name: str = "the dataset") -> np.ndarray:
    """Classes to sample in turn, int32: the chosen ones, or all; [-1] if the data has no labels.

    Args:
      num_classes: of the data, 0 for unlabelled.
      chosen: classes; (): all.
      data_name: for the errors.

    Raises:
      InputError: for a class that the data does not have.
    """
    if not num_classes and not len(chosen):
        return np.array([-1], np.int32)
    given = f"--labels={','.join(map(str, chosen))}: {data_name} has"
    if not num_classes:
        raise typing.InputError(f"{given} no labels; leave the flag out.")
    if not all(0 <= label < num_classes for label in chosen):
        raise typing.InputError(f"{given} the classes 0 to {num_classes - 1}.")
    return np.asarray(chosen if len(chosen) else range(num_classes), np.int32)


def labels_like(labels: np.ndarray | None, num_classes: int, count: int) -> np.ndarray:
    """Labels to sample: those of the data in their order, repeated up to `count`; -1 if the data has none.

    Fewer are taken evenly from all of the data, whose first rows may be alike: patches of a map begin in the north.
    """
    if not num_classes:
        return np.full(count, -1, np.int32)
    chosen = labels[np.arange(count) * len(labels) // count] if count < len(labels) else np.resize(labels, count)
    return chosen.astype(np.int32)
