"""Samples of a network and what they are worth: noise, labels, steps in, measures out."""

import functools
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from flowjax import checks, data, evals, samplers, typing

SAMPLERS = ("flow_map", "euler", "heun")
CHUNK = 512


def make_sampler(net, shape, sampler="flow_map"):
    """A function `(params, seed, labels, steps) -> samples [n, *shape]`, one compilation for each number of steps.

    Sample i starts from noise that depends on `seed` and i alone, so other steps, labels and chunks see the same noise.

    Args:
      net: a network, `net.apply(variables, x, s, t, cond)`.
      shape: of one row of data.
      sampler: "flow_map" (one evaluation a step), "euler" or "heun" (of the velocity V(x, t, t)).

    Raises:
      InputError: for an unknown sampler; when called, for a number of steps below 1.
    """
    checks.member("sampler", sampler, SAMPLERS)

    @functools.partial(jax.jit, static_argnames="steps")
    def chunk(params, key, index, labels, steps):
        noise = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), shape))(index)
        V = lambda x, s, t: net.apply({"params": params}, x, s, t, {"label": labels})
        if sampler == "flow_map":
            return samplers.flow_map(V, noise, samplers.grid(steps))
        return getattr(samplers, sampler)(lambda x, t: V(x, t, t), noise, samplers.grid(steps))

    def sample(params, seed, labels, steps, progress=False):
        samplers.grid(steps)
        labels, key = np.asarray(labels, np.int32), jax.random.key(seed)
        size = min(CHUNK, len(labels))
        parts = []
        for start in tqdm.trange(0, len(labels), size, desc=f"{steps}-step samples", delay=3, leave=False, disable=not progress):
            index = np.arange(start, start + size)
            padded = np.pad(labels[start : start + size], (0, start + size - min(start + size, len(labels))), constant_values=-1)
            parts.append(np.asarray(chunk(params, key, jnp.asarray(index), jnp.asarray(padded), steps)))
        return np.concatenate(parts)[: len(labels)]

    return sample


def measures(source_name, reference, classifier=None):
    """The measures that suit a dataset: a function `(samples, labels) -> {name: float}`.

    Points: sliced Wasserstein and energy distance. Images: Frechet distance in pixels; with a classifier also in its features,
    and its agreement with the asked-for labels.

    Args:
      source_name: for the error.
      reference: real rows [n, ...] to compare with.
      classifier: a flowjax.evals.Classifier or None.
    """
    if reference.ndim == 2:
        return lambda samples, labels: {
            "sliced_wasserstein": evals.sliced_wasserstein(samples, reference),
            "energy_distance": evals.energy_distance(samples[:4096], reference[:4096]),
        }
    if reference.ndim != 4:
        raise typing.InputError(f"no measure for {source_name}: rows of shape {reference.shape[1:]} are neither points nor images.")
    features = None if classifier is None else np.asarray(classifier.features(reference))

    def measure(samples, labels):
        found = {"frechet_pixels": evals.frechet(samples, reference)}
        if classifier is not None:
            found["frechet_features"] = evals.frechet(np.asarray(classifier.features(samples)), features)
            found["agreement"] = evals.agreement(classifier, samples, labels)
        return found

    return measure


def digit_classifier(data_dir=None):
    """The small classifier of the digits, fitted once and cached beside the dataset."""
    rows = data.arrays(data.load("digits", data_dir=data_dir))
    folder = pathlib.Path(data_dir or os.environ.get("TFDS_DATA_DIR") or pathlib.Path.home() / "tensorflow_datasets")
    return evals.classifier.load_or_fit(folder.expanduser() / "flowjax_digits_classifier.npz", rows["x"], rows["label"], num_classes=10)


def class_grid(samples, labels, classes, per_class):
    """The first `per_class` samples of each class as [classes, per_class, H, W, C]."""
    return np.stack([samples[np.flatnonzero(labels == c)[:per_class]] for c in classes])


def labels_like(labels, num_classes, count):
    """Labels to sample: those of the data in their order, repeated up to `count`; -1 if there are none."""
    return np.resize(labels, count).astype(np.int32) if num_classes else np.full(count, -1, np.int32)
