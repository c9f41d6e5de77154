"""A batch of fewer rows a device than a method has parts: neighbouring devices share whole columns of its terms.

Of a method with diagonal 3/4 and one row a device, three of four neighbours along "data" get a row of the anchor each, the fourth
one of the jumps. Each device then runs the branch of its rows alone. Devices along "fsdp" gather weights together within a branch,
so they get the same one.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax import methods, typing
from flowjax.methods import recipe


class Deal(NamedTuple):
    """Which rows of each term a device gets.

    Attributes:
      mesh: the mesh.
      rows: of the batch on each device.
      shares: for each of the neighbours along "data" that share whole columns, {term: (first, last + 1)} of the rows that the term has
        in these columns.
      terms: {term: `(nets, {term: point}) -> (errors, {term: raw})`}.
    """

    mesh: jax.sharding.Mesh
    rows: int
    shares: tuple
    terms: dict

    def dealt(self, drawn):
        """Points of the terms, [rows of the term, ...], in the order of the devices; each gets as many as the one with most."""

        def deal(leaf, name):
            data, fsdp, places = *self.mesh.shape.values(), len(self.shares)
            most = max(last - first for first, last in (share[name] for share in self.shares))
            each = leaf.reshape(data // places, fsdp, -1, *leaf.shape[1:])
            at = np.array([[min(share[name][0] + i, each.shape[2] - 1) for i in range(most)] for share in self.shares])
            return each[:, :, at].swapaxes(1, 2).reshape(-1, *leaf.shape[1:])

        return {name: jax.tree.map(functools.partial(deal, name=name), point) for name, point in drawn.items()}

    def switched(self, function, names, *args):
        """Inside of shard_map: `function(loss, *args)` with the loss of this device's rows of the terms `names`.

        A loss is `(nets, points as dealt) -> (value, {term: raw})`; their means over all devices are those of the batch.
        """
        counts = [tuple((name, share[name][1] - share[name][0]) for name in names) for share in self.shares]
        kinds = [*dict.fromkeys(counts)]
        kind = jnp.array([kinds.index(count) for count in counts])[jax.lax.axis_index("data") % len(counts)]
        branches = [functools.partial(function, functools.partial(self._loss, dict(count))) for count in kinds]
        return jax.lax.switch(kind, branches, *args)

    def _loss(self, counts, nets, drawn):
        value, raws = jnp.float32(0), {}
        for name, count in counts.items():
            raws[name] = jnp.float32(0)
            if count:
                point = jax.tree.map(lambda leaf, count=count: leaf[:count], drawn[name])
                errors, raw = self.terms[name](nets, {name: point})
                value += jnp.sum(errors) / self.rows
                whole = max(share[name][1] for share in self.shares)
                raws[name] = raw[name] * (count * len(self.shares) / whole)
        return value, raws


def of_batch(mesh, batch_size, method):
    """The Deal of a batch that fits, see `check`; None where each device gets whole columns."""
    rows, parts = batch_size // mesh.size, methods.rows_multiple(method)
    places = parts // math.gcd(rows, parts)
    if places == 1:
        return None
    shares = [
        {term.name: (_before(place * rows, term), _before((place + 1) * rows, term)) for term in method.terms}
        for place in range(places)
    ]
    return Deal(mesh, rows, tuple(shares), recipe.of_terms(method))


def _before(row, term):
    """How many of the first rows of a batch are in the columns of a term."""
    lo, hi, n = term.columns
    return row // n * (hi - lo) + min(max(row % n - lo, 0), hi - lo)


def check(mesh, batch_size, method, accumulate=1):
    """Raises InputError unless every device gets as many rows in each part of the batch, and devices can share their terms."""
    parts, devices = methods.rows_multiple(method), mesh.size
    if batch_size > 0 and batch_size % (devices * parts * accumulate) == 0:
        return
    alone = recipe.of_terms(method) is None or method.memory is not None or any(term.group > 1 for term in method.terms)
    multiple = devices * parts * accumulate if accumulate > 1 or alone else math.lcm(devices, parts)
    why = f"a method that splits its rows in {parts}"
    why += f", {accumulate} parts of the batch one after the other," if accumulate > 1 else ""
    if batch_size < 1 or batch_size % multiple:
        raise typing.InputError(
            f"batch_size is {batch_size}; {devices} device(s) and {why} need a positive multiple of {multiple}:"
            f" --config.batch_size={max(1, round(batch_size / multiple)) * multiple}."
        )
    places = parts // math.gcd(batch_size // devices, parts)
    if mesh.shape["data"] % places:
        raise typing.InputError(
            f"batch_size is {batch_size}, {batch_size // devices} row(s) for each of {devices} devices, of which {places} would share the"
            f" terms of a method that splits its rows in {parts}; config.mesh.data is {mesh.shape['data']}, expected a multiple of"
            f" {places}: --config.mesh.data=-1 --config.mesh.fsdp={math.gcd(mesh.shape['fsdp'], devices // places)}, or"
            f" --config.batch_size={devices * parts}."
        )
