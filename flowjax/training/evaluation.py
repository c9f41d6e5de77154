"""Samples of a network and what they are worth: noise, labels, steps in, measures out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jax.experimental import multihost_utils

from flowjax import data, evals, paths, samplers, typing
from flowjax.training import sharding

CHUNK = 512
# What is measured during training: of points, of images, and of images with a classifier besides.
POINTS, IMAGES, CLASSIFIED = (
    ("sliced_wasserstein", "energy_distance"),
    ("frechet_pixels", "recall", "precision"),
    ("frechet_features", "agreement"),
)
HIGHER_IS_BETTER = ("recall", "precision", "agreement")


def condition(labels, told):
    """The cond of a network: labels [n] and, for every row, what it is told of the guidance, see flowjax.training.parts.conditioning."""
    rows = lambda value: jnp.broadcast_to(jnp.asarray(value, jnp.float32), (len(labels), *np.shape(value)))
    return {"label": jnp.asarray(labels), **{name: rows(value) for name, value in told.items()}}


def make_sampler(net, shape, sampler="flow_map", told=None, *, grid="uniform", path="linear", mesh=None):
    """A function `(params, seed, labels, steps) -> samples [n, *shape]`, one compilation for each number of steps.

    Sample i starts from noise that depends on `seed` and i alone, so other steps, labels and chunks see the same noise. With
    `first=k` the samples are those from number k on; with `x` [n, *shape] they start there and not from fresh noise, and with
    `inverted=True` the times are turned round: `x` is data and the result the noise that it comes from.

    Args:
      net: a network, `net.apply(variables, x, s, t, cond)`.
      shape: of one row of data.
      sampler: name and options, see flowjax.samplers.sampler_from_name.
      told: what the network is told of the guidance, see flowjax.training.parts.conditioning; None: nothing.
      grid: name and options, or times, see flowjax.samplers.grid_from_name.
      path: that the network was trained on.
      mesh: whose devices share the rows; None: the default device alone.

    Raises:
      InputError: for an unknown sampler, grid or option; when called, for a number of steps below 1, or noisy samplers inverted.
    """
    space = paths.path_from_name(path).space
    chosen, times_of = samplers.sampler_from_name(sampler, path), samplers.grid_from_name(grid)
    rows, whole = (None, None) if mesh is None else (sharding.rows(mesh), sharding.whole(mesh))
    least = 1 if mesh is None else mesh.devices.size

    @functools.partial(jax.jit, static_argnames="times", out_shardings=rows)
    def chunk(params, key, index, labels, times, x):
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
        cond = condition(labels, told or {})
        V = lambda x, s, t: net.apply({"params": params}, x, s, t, cond)
        x = jax.vmap(lambda key: space.noise(key, shape))(keys) if x is None else x
        return chosen.run(V, x, np.array(times), keys)

    def sample(params, seed, labels, steps, progress=False, *, first=0, x=None, inverted=False):
        samplers.check_sampler(sampler, steps, grid, path)
        times = tuple(times_of(steps).tolist())[:: -1 if inverted else 1]
        if inverted and chosen.noisy:
            raise typing.InputError(f"sampler {sampler!r} draws new noise and cannot be inverted; expected e.g. heun.")
        params, key, n = jax.device_put(params, whole), jax.random.key(seed), len(labels)
        size = -(-min(CHUNK, n) // least) * least
        starts = range(0, n, size)
        padded = np.resize(np.asarray(labels, np.int32), len(starts) * size)
        x = None if x is None else np.resize(np.asarray(x, np.float32), (len(padded), *shape))
        parts = []
        for start in tqdm.tqdm(starts, desc=f"{steps}-step samples", delay=3, leave=False, disable=not progress):
            part = slice(start, start + size)
            index, label, begun = jax.device_put(
                (first + np.arange(len(padded))[part], padded[part], None if x is None else x[part]), rows
            )
            parts.append(_on_host(chunk(params, key, index, label, times, begun)))
        return np.concatenate(parts)[:n]

    return sample


def _on_host(x):
    """An array whole, in every process that holds a part of it."""
    return np.asarray(x) if x.is_fully_addressable else multihost_utils.process_allgather(x, tiled=True)


def measures(reference, classifier=None):
    """The measures that suit a dataset: a function `(samples, labels) -> {name: float}`.

    Points: sliced Wasserstein and energy distance. Images: Frechet distance, recall and precision in pixels; with a classifier also
    the Frechet distance in its features, and its agreement with the asked-for labels.

    Args:
      reference: real rows to compare with, [n, D] or [n, H, W, C] in [-1, 1].
      classifier: a flowjax.evals.Classifier or None.
    """
    if reference.ndim == 2:
        return lambda samples, labels: {
            "sliced_wasserstein": evals.sliced_wasserstein(samples, reference),
            "energy_distance": evals.energy_distance(samples[:4096], reference[:4096]),
        }
    features = None if classifier is None else np.asarray(classifier.features(reference))

    def measure(samples, labels):
        found = {
            "frechet_pixels": evals.frechet(samples, reference),
            "recall": evals.recall(reference, samples),
            "precision": evals.precision(reference, samples),
        }
        if classifier is not None:
            found["frechet_features"] = evals.frechet(np.asarray(classifier.features(samples)), features)
            found["agreement"] = evals.agreement(classifier, samples, labels)
        return found

    return measure


def lower_is_better(best, measured):
    """The measure named `best` of an evaluation, turned round where more is better; nan if there is none."""
    value = measured.get(best, float("nan"))
    return -value if best.rpartition("/")[2] in HIGHER_IS_BETTER else value


def judge(section, reference):
    """`measures` for the dataset of a config.data, with the classifier where the project has one: for the digits."""
    return measures(reference, digit_classifier(section.dir or None) if section.name == "digits" else None)


def digit_classifier(data_dir=None):
    """The small classifier of the digits, fitted once and cached beside the dataset."""
    from flowjax.data import digits  # tensorflow_datasets takes seconds to import

    rows = data.arrays(data.load("digits", data_dir=data_dir))
    return evals.classifier.load_or_fit(digits.folder(data_dir) / "classifier.npz", rows["x"], rows["label"], num_classes=10)


def asked_labels(trained, labels=()):
    """Classes to sample in turn, int32: those given or all of a run's; [-1] if its data has no labels.

    Raises:
      InputError: for a class that the data does not have.
    """
    if not trained.num_classes and not len(labels):
        return np.array([-1], np.int32)
    given = f"--labels={','.join(map(str, labels))}: {trained.settings.data.name} has"
    if not trained.num_classes:
        raise typing.InputError(f"{given} no labels; leave the flag out.")
    if not all(0 <= label < trained.num_classes for label in labels):
        raise typing.InputError(f"{given} the classes 0 to {trained.num_classes - 1}.")
    return np.asarray(labels if len(labels) else range(trained.num_classes), np.int32)


def labels_like(labels, num_classes, count):
    """Labels to sample: those of the data in their order, repeated up to `count`; -1 if there are none."""
    return np.resize(labels, count).astype(np.int32) if num_classes else np.full(count, -1, np.int32)


def draw_samples(path, samples, labels, num_classes, *, real=None, title=None, per_class=6):
    """Samples from the same noise at each number of steps, beside real rows; images one row a class.

    Args:
      path: the PNG file; None: none, the picture is only returned.
      samples: number of steps -> samples [n, ...].
      labels: asked-for labels [n], -1 for none.
      num_classes: labels of the data, 0 for none.
      real: {"x": real rows, "label": theirs}, or None.
      title: the headline.
      per_class: at most this many images of a class and column.
    """
    from flowjax import plots  # matplotlib takes a second to import

    columns = {f"{steps} step{'s' if steps > 1 else ''}": (x, labels) for steps, x in samples.items()}
    if real is not None:
        columns = {"data" if real["x"].ndim == 2 else "real": (real["x"], real.get("label"))} | columns
    if next(iter(samples.values())).ndim == 2:
        return plots.point_grid(path, {name: x for name, (x, _) in columns.items()}, title=title)
    classes = [c for c in range(num_classes) if all((of == c).any() for _, of in columns.values())][:20]
    if classes:
        per_class = min(per_class, *(int((of == c).sum()) for _, of in columns.values() for c in classes))
        blocks = {n: np.stack([x[of == c][:per_class] for c in classes]) for n, (x, of) in columns.items()}
    else:
        per_class = min(8 * per_class, *(len(x) for x, _ in columns.values())) // 8 * 8 or 1
        blocks = {n: x[:per_class].reshape(min(8, per_class), -1, *x.shape[1:]) for n, (x, _) in columns.items()}
    return plots.image_grid(path, blocks, row_names=[str(c) for c in classes] or None, title=title)
