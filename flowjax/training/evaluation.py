"""Samples of a network and what they are worth: noise, labels, steps in, measures out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from flowjax import checks, data, evals, plots, samplers, typing
from flowjax.training import experiment

CHUNK = 512


def make_sampler(net, shape, sampler="flow_map", guidance=None):
    """A function `(params, seed, labels, steps) -> samples [n, *shape]`, one compilation for each number of steps.

    Sample i starts from noise that depends on `seed` and i alone, so other steps, labels and chunks see the same noise.

    Args:
      net: a network, `net.apply(variables, x, s, t, cond)`.
      shape: of one row of data.
      sampler: a key of flowjax.samplers.SAMPLERS.
      guidance: the scale that a student of a guided teacher is told; None for other networks.

    Raises:
      InputError: for an unknown sampler; when called, for a number of steps below 1.
    """
    checks.member("sampler", sampler, samplers.SAMPLERS)

    @functools.partial(jax.jit, static_argnames="steps")
    def chunk(params, key, index, labels, steps):
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
        noise = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
        cond = {"label": labels} | ({} if guidance is None else {"guidance": jnp.full(labels.shape, guidance)})
        V = lambda x, s, t: net.apply({"params": params}, x, s, t, cond)
        return samplers.SAMPLERS[sampler](V, noise, samplers.grid(steps), keys)

    def sample(params, seed, labels, steps, progress=False):
        samplers.grid(steps)
        labels, key = np.asarray(labels, np.int32), jax.random.key(seed)
        size = min(CHUNK, len(labels))
        starts = range(0, len(labels), size)
        padded = np.pad(labels, (0, len(starts) * size - len(labels)), constant_values=-1)
        parts = []
        for start in tqdm.tqdm(starts, desc=f"{steps}-step samples", delay=3, leave=False, disable=not progress):
            part = slice(start, start + size)
            parts.append(np.asarray(chunk(params, key, np.arange(len(padded))[part], padded[part], steps)))
        return np.concatenate(parts)[: len(labels)]

    return sample


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


def judge(config, reference):
    """`measures` for the dataset of a config, with the classifier where the project has one: for the digits."""
    return measures(reference, digit_classifier(config.data.dir or None) if config.data.name == "digits" else None)


def digit_classifier(data_dir=None):
    """The small classifier of the digits, fitted once and cached beside the dataset."""
    from flowjax.data import digits  # tensorflow_datasets takes seconds to import

    rows = data.arrays(data.load("digits", data_dir=data_dir))
    return evals.classifier.load_or_fit(digits.folder(data_dir) / "classifier.npz", rows["x"], rows["label"], num_classes=10)


def labels_like(labels, num_classes, count):
    """Labels to sample: those of the data in their order, repeated up to `count`; -1 if there are none."""
    return np.resize(labels, count).astype(np.int32) if num_classes else np.full(count, -1, np.int32)


def draw_samples(path, samples, labels, num_classes, *, real=None, title=None, per_class=6):
    """Samples from the same noise at each number of steps, beside real rows; images one row a class.

    Args:
      path: the PNG file.
      samples: number of steps -> samples [n, ...].
      labels: asked-for labels [n], -1 for none.
      num_classes: labels of the data, 0 for none.
      real: {"x": real rows, "label": theirs}, or None.
      title: the headline.
      per_class: at most this many images of a class and column.
    """
    columns = {f"{steps} step{'s' if steps > 1 else ''}": (x, labels) for steps, x in samples.items()}
    if real is not None:
        columns = {"data" if real["x"].ndim == 2 else "real": (real["x"], real.get("label"))} | columns
    if next(iter(samples.values())).ndim == 2:
        plots.point_grid(path, {name: x for name, (x, _) in columns.items()}, title=title)
        return
    classes = [c for c in range(num_classes) if all((of == c).any() for _, of in columns.values())][:20]
    if classes:
        per_class = min(per_class, *(int((of == c).sum()) for _, of in columns.values() for c in classes))
        blocks = {n: np.stack([x[of == c][:per_class] for c in classes]) for n, (x, of) in columns.items()}
    else:
        per_class = min(8 * per_class, *(len(x) for x, _ in columns.values())) // 8 * 8 or 1
        blocks = {n: x[:per_class].reshape(min(8, per_class), -1, *x.shape[1:]) for n, (x, _) in columns.items()}
    plots.image_grid(path, blocks, row_names=[str(c) for c in classes] or None, title=title)


def evaluate(workdir, steps, *, num=0, seed=0, average="", sampler="", guidance=None):
    """A table of what a run is worth: samples at each number of steps, other real data, and noise, against real data.

    Args:
      workdir: the folder of a run.
      steps: numbers of steps, each at least 1.
      num: number of samples; 0: as many as there are real rows.
      seed: of the noise.
      average: decay of the averaged weights, "none" for the raw ones, "" for the run's first average.
      sampler: a key of flowjax.samplers.SAMPLERS; "" for the run's own.
      guidance: scale, of a student of a guided teacher; None for the middle of those it learned.

    Returns:
      (rows, about): rows `{"what": ..., measure: float, ...}`, and a sentence that says what was compared with what. The digits
      are compared with all 1,797, everything else with up to 10,000 held-out rows.
    """
    if num and num < 8:
        raise typing.InputError(f"--num={num}: the measures need at least 8 samples.")
    trained = experiment.load(workdir, average)
    config, name = trained.config, trained.config.data.name
    sample = make_sampler(trained.net, trained.shape, sampler or config.sampler, trained.scale(guidance))
    rows_of = lambda split: data.arrays(data.load(name, split=split, data_dir=config.data.dir or None), limit=10_000)
    held_out = rows_of("test")
    real, other, what = (
        (rows_of("train+test"), held_out, "real, held out")
        if name == "digits"
        else (held_out, rows_of("train"), "real, training")
    )
    count = num or len(real["x"])
    labels = labels_like(real.get("label"), trained.num_classes, count)
    measure = judge(config, real["x"])

    rows = []
    for n in steps:
        samples = sample(trained.params, seed, labels, n, progress=True)
        rows.append({"what": f"{n} step{'s' if n > 1 else ''}", "rows": len(samples), **measure(samples, labels)})
    rows.append({"what": what, "rows": len(other["x"]), **measure(other["x"], other.get("label"))})
    noise = np.random.default_rng(seed).standard_normal((count, *trained.shape), np.float32)
    rows.append({"what": "noise", "rows": count, **measure(noise, labels)})
    about = f"{config.method.name}, {trained.step} steps of training: {count} samples against {len(real['x'])} rows of {name}."
    return rows, about
