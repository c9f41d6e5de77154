"""Autoencoders in files: published weights whose sizes the caller names, and folders of experiments.train_autoencoder."""

import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from flowjax import buckets, checks, folders, foreign, opening, typing
from flowjax.autoencoders import Autoencoder, kl, kl_names, rae

ABOUT, WEIGHTS = "autoencoder.json", "weights.safetensors"
SIZES: Mapping[str, kl.KLSizes | rae.RAESizes] = {**kl.SIZES, **rae.SIZES}  # of published weights
_EXPECTED = "the sizes of an autoencoder, as experiments.train_autoencoder writes them"


class Loaded(NamedTuple):
    """An autoencoder with its weights.

    Attributes:
      autoencoder: its functions.
      params: its weights.
      sizes: of its levels.
      fingerprint: of the weights, a text of 16 digits; those of two files are equal if the weights are.
    """

    autoencoder: Autoencoder
    params: Any
    sizes: kl.KLSizes | rae.RAESizes
    fingerprint: str


def read(path: str | pathlib.Path, sizes: str = "", *, part: str = "") -> Loaded:
    """An autoencoder.

    Args:
      path: a folder of experiments.train_autoencoder, or a file of published weights, see flowjax.foreign. A representation autoencoder
        has two, "DECODER,encoder=ENCODER"; one of them will do for what needs no other.
      sizes: key of SIZES, of a file; "" for a folder.
      part: of a file, what lies below this name alone.

    Raises:
      InputError: there is no such file, or its weights are of another autoencoder.
    """
    if sizes in rae.SIZES:
        return _representation(str(path), sizes, part)
    path = buckets.path(path)
    if path.is_dir():
        if sizes or part:
            raise typing.InputError(
                f"{path} is a folder, which says its sizes itself and holds nothing else, and {sizes or part!r} is given; leave it out."
            )
        chosen, name = _sizes(path / ABOUT), "trained"
        arrays = foreign.read(path / WEIGHTS)
    elif not sizes:
        raise typing.InputError(
            f"{path} is no folder of an autoencoder; of a file of weights name its sizes, one of {', '.join(SIZES)}."
        )
    else:
        checks.member("sizes of an autoencoder", sizes, SIZES)
        chosen, name = kl.SIZES[sizes], sizes
        arrays = foreign.below(foreign.read(path), part)
    params = kl_names.weights(arrays, chosen)
    return Loaded(kl.make(chosen, name), params, chosen, fingerprint(params))


def _representation(paths: str, name: str, part: str) -> Loaded:
    """A representation autoencoder of one file or two."""
    first, comma, second = paths.partition(",encoder=")
    arrays: dict[str, np.ndarray] = {}
    for path in [first, second] if comma else [first]:
        arrays |= foreign.below(foreign.read(path), part if path == first else "")
    sizes = rae.SIZES[name]
    params = rae.weights(arrays, sizes)
    return Loaded(rae.make(sizes, name), params, sizes, fingerprint(params))


def write(folder: str | pathlib.Path, params: Any, sizes: kl.KLSizes) -> None:
    """Writes weights with the names of diffusers, and the sizes beside them: what `read` reads."""
    folder = buckets.path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    foreign.write(folder / WEIGHTS, kl_names.published(params, sizes))
    folders.write_json(folder / ABOUT, sizes._asdict())


def fingerprint(params: Any) -> str:
    """Of weights: the beginning of a SHA-256 of their names, shapes and values."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        leaf = np.ascontiguousarray(leaf, "<f4")
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.shape}".encode())
        digest.update(leaf.tobytes())
    return digest.hexdigest()[:16]


def _sizes(path: pathlib.Path) -> kl.KLSizes:
    whole, listed = opening.count(1, 2**16), lambda value: isinstance(value, list) and all(map(opening.count(0, 2**16), value))
    fields: Mapping[str, Any] = {
        "widths": lambda value: listed(value) and bool(value), "blocks": whole, "latent": whole, "quant": lambda value: isinstance(value, bool),
        "attention": listed, "groups": whole,
    }  # fmt: skip
    about = opening.json_object(path, _EXPECTED, fields)
    given = {name: tuple(about[name]) if isinstance(about[name], list) else about[name] for name in fields}
    return kl.KLSizes(**given)
