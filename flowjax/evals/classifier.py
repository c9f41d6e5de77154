"""A small classifier of small images: features for `frechet` and `recall`, and the agreement of samples with their labels."""

import functools
import os
import pathlib
import warnings
import zlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

from flowjax import buckets, folders, opening, typing

_STEPS, _BATCH, _RATE = 400, 128, 3e-3
_WIDTHS, _FEATURES = (16, 32), 64
_OPTIMIZER = optax.adamw(optax.cosine_decay_schedule(_RATE, _STEPS), weight_decay=1e-3)

Params = dict[str, typing.Array]


class Classifier(NamedTuple):
    """A fitted classifier, or another network whose features are compared; both callables are jitted.

    Attributes:
      features: images [n, H, W, C] in [-1, 1] -> features [n, D]; of a classifier the inputs of its last linear layer.
      logits: images [n, H, W, C] in [-1, 1] -> logits [n, classes]; None of a network that does not know the classes of the
        data.
      params: its weights, {name: array}; None if they are not kept.
    """

    features: Callable[[Any], typing.Array]
    logits: Callable[[Any], typing.Array] | None = None
    params: Params | None = None


def fit(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    num_classes: int,
    seed: int = 0,
    progress: Callable[[range], Iterable[int]] = iter,
) -> Params:
    """Trains the network: two smooth convolutions, a layer of 64 features and a linear layer.

    Args:
      images: [n, H, W, C] in [-1, 1].
      labels: [n] integers in [0, num_classes).
      num_classes: number of classes.
      seed: of the weights and of the order of the images; the result is deterministic in it.
      progress: wraps the range of steps, as `tqdm.tqdm` does.

    Returns:
      The weights, a flat dict of arrays.

    Raises:
      InputError: the images are not [n, H, W, C], or the labels do not fit them or `num_classes`.
    """
    images, labels = _checked(images, labels, num_classes)
    params = _init(jax.random.key(seed), images.shape[1:], num_classes)
    opt_state = _OPTIMIZER.init(params)
    order = np.random.default_rng(seed)
    for _ in progress(range(_STEPS)):
        chosen = order.choice(len(images), size=min(_BATCH, len(images)), replace=False)
        params, opt_state = _update(params, opt_state, images[chosen], labels[chosen])
    return params


def load_or_fit(
    path: str | os.PathLike, images: np.ndarray, labels: np.ndarray, *, num_classes: int, seed: int = 0
) -> Classifier:
    """The classifier cached at `path`, or one fitted now, with a progress bar, and cached there.

    Args:
      path: an .npz file, which may not exist yet. A file that cannot be read, or that was fitted to other arguments, is
        replaced with a warning.
      images: [n, H, W, C] in [-1, 1].
      labels: [n] integers in [0, num_classes).
      num_classes: number of classes.
      seed: see `fit`.

    Returns:
      The classifier.
    """
    path = buckets.path(path)
    images, labels = _checked(images, labels, num_classes)
    origin = _origin(images, labels, num_classes, seed)
    params = None
    if path.exists():
        try:
            params = _load(path, origin)
        except (OSError, ValueError) as error:
            warnings.warn(f"classifier: cannot use the cache {path} ({error}); fitting again.", stacklevel=2)
    if params is None:
        bar = functools.partial(tqdm.tqdm, desc="fitting the classifier", unit="step", leave=False)
        params = fit(images, labels, num_classes=num_classes, seed=seed, progress=bar)
        _save(path, params, origin)
    return from_params(params)


def from_params(params: Params) -> Classifier:
    """Binds weights from `fit`."""
    # The weights are arguments of the jitted functions: as constants, XLA would fold them anew for every batch size.
    features, logits = jax.jit(_features), jax.jit(_logits)
    return Classifier(lambda x: features(params, x), lambda x: logits(params, x), params)


def agreement(classifier: Classifier, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of samples whose predicted class is the label they were sampled with.

    Args:
      classifier: a fitted classifier.
      images: samples [n, H, W, C] in [-1, 1].
      labels: the classes that were sampled [n].

    Returns:
      A share in [0, 1]; a sample that is not finite agrees with nothing.
    """
    if len(images) != len(labels) or not len(images):
        raise typing.InputError(f"agreement: got {len(images)} images and {len(labels)} labels; expected as many, at least 1.")
    logits = np.asarray(classifier.logits(images))
    # argmax of nan is 0: without the check, broken samples would agree with label 0.
    return float(np.mean((logits.argmax(axis=-1) == np.asarray(labels)) & np.isfinite(logits).all(axis=-1)))


def _init(key: typing.Array, shape: tuple[int, int, int], num_classes: int) -> Params:
    height, width, channels = shape
    flat = ((height + 1) // 2) * ((width + 1) // 2) * _WIDTHS[1]
    shapes = {
        "conv1": (3, 3, channels, _WIDTHS[0]),
        "conv2": (3, 3, _WIDTHS[0], _WIDTHS[1]),
        "dense": (flat, _FEATURES),
        "head": (_FEATURES, num_classes),
    }
    he = jax.nn.initializers.he_normal()
    weights = {
        name: he(k, shapes[name], jnp.float32) for name, k in zip(shapes, jax.random.split(key, len(shapes)), strict=True)
    }
    return weights | {
        f"{name}_bias": jnp.zeros((1,) * (len(shape) - 1) + shape[-1:], jnp.float32) for name, shape in shapes.items()
    }


def _features(params: Params, x: typing.Array) -> typing.Array:
    x = jnp.asarray(x, jnp.float32)
    for name, stride in (("conv1", 1), ("conv2", 2)):
        x = jax.lax.conv_general_dilated(x, params[name], (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = jax.nn.gelu(x + params[f"{name}_bias"])
    return jax.nn.gelu(x.reshape(len(x), -1) @ params["dense"] + params["dense_bias"])


def _logits(params: Params, x: typing.Array) -> typing.Array:
    return _features(params, x) @ params["head"] + params["head_bias"]


@jax.jit
def _update(params: Params, opt_state: Any, x: typing.Array, label: typing.Array) -> tuple[Params, Any]:
    def loss(params: Params) -> typing.Array:
        return optax.softmax_cross_entropy_with_integer_labels(_logits(params, x), label).mean()

    updates, opt_state = _OPTIMIZER.update(jax.grad(loss)(params), opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def _checked(images: np.ndarray, labels: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    images, labels = np.asarray(images, np.float32), np.asarray(labels)
    if images.ndim != 4 or not len(images) or labels.shape != images.shape[:1]:
        raise typing.InputError(f"classifier: images {images.shape}, labels {labels.shape}; expected [n, H, W, C] and [n].")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise typing.InputError(f"classifier: labels from {labels.min()} to {labels.max()}; num_classes is {num_classes}.")
    return images, labels.astype(np.int32)


def _origin(images: np.ndarray, labels: np.ndarray, num_classes: int, seed: int) -> str:
    """The arguments and constants of a fit, as text: a cache of another text is not used."""
    data = zlib.crc32(labels.tobytes(), zlib.crc32(images.tobytes()))
    return repr((images.shape, data, num_classes, seed, _STEPS, _BATCH, _RATE, _WIDTHS, _FEATURES))


def _load(path: pathlib.Path, origin: str) -> Params:
    arrays = opening.npz(path, "the weights of a classifier")
    if str(arrays.pop("origin", "")) != origin:
        raise ValueError("it was fitted to other data, classes or seed")
    return {name: jnp.asarray(array) for name, array in arrays.items()}


def _save(path: pathlib.Path, params: Params, origin: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    folders.write_npz(path, origin=np.array(origin), **{name: np.asarray(value) for name, value in params.items()})
