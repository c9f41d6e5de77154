"""Every measure against a closed form or an independent reference on the same arrays."""

import itertools
import math
import shutil

import numpy as np
import pytest
from scipy import linalg, stats
from sklearn import datasets

from flowjax import evals, typing


@pytest.fixture(scope="module")
def clouds():
    rng = np.random.default_rng(0)
    return rng.normal(size=(60, 3)), 1.5 * rng.normal(size=(45, 3)) + 0.5


@pytest.fixture(scope="module")
def digits():
    pixels, labels = datasets.load_digits(return_X_y=True)
    images = (pixels / 8 - 1).reshape(-1, 8, 8, 1)
    order = np.random.default_rng(0).permutation(len(images))
    train, held_out = order[:1500], order[1500:]
    return images[train], labels[train], images[held_out], labels[held_out]


@pytest.fixture(scope="module")
def cache(digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("classifier") / "new_folder" / "digits.npz"
    return path, evals.classifier.load_or_fit(path, *digits[:2], num_classes=10)


def distances(x, y):
    return np.array([[math.dist(a, b) for b in y] for a in x])


# Sliced Wasserstein


@pytest.mark.parametrize(("n", "m"), [(12, 12), (12, 8), (7, 5), (1, 6), (300, 299)])
def test_sliced_wasserstein_of_unequal_sizes_is_exact(n, m):
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(n, 1)), 2 * rng.normal(size=(m, 1)) + 1
    # Repeating every sample until the sizes agree changes neither distribution, and equal sizes couple by sorting.
    common = math.lcm(n, m)
    gap = np.sort(x[:, 0].repeat(common // n)) - np.sort(y[:, 0].repeat(common // m))
    assert evals.sliced_wasserstein(x, y) == pytest.approx(math.sqrt(np.mean(gap**2)), rel=1e-12)


@pytest.mark.parametrize("dimension", [2, 5])
def test_sliced_wasserstein_of_a_translation(dimension):
    rng = np.random.default_rng(1)
    x, shift = rng.normal(size=(200, dimension)), np.arange(1.0, dimension + 1)
    # Each direction sees the shift u.c, whose mean square is |c|^2 / D: exactly for even angles, on average for random ones.
    expected = np.linalg.norm(shift) / math.sqrt(dimension)
    value = evals.sliced_wasserstein(x, x + shift, directions=2000)
    assert value == pytest.approx(expected, rel=1e-9 if dimension == 2 else 0.05)


def test_sliced_wasserstein_of_scaled_gaussians():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(20000, 4)), 3 * rng.normal(size=(15000, 4))
    assert evals.sliced_wasserstein(x, y, directions=32) == pytest.approx(2.0, rel=0.02)


def test_sliced_wasserstein_is_deterministic_in_the_seed(clouds):
    assert evals.sliced_wasserstein(*clouds, seed=3) == evals.sliced_wasserstein(*clouds, seed=3)
    assert evals.sliced_wasserstein(*clouds, seed=3) != evals.sliced_wasserstein(*clouds, seed=4)


# Energy distance


def test_energy_distance_by_brute_force(clouds, monkeypatch):
    x, y = clouds
    expected = math.sqrt(2 * distances(x, y).mean() - distances(x, x).mean() - distances(y, y).mean())
    assert evals.energy_distance(x, y) == pytest.approx(expected, rel=1e-12)
    monkeypatch.setattr("flowjax.evals.transport._BLOCK", 100)  # many small blocks, the last one short
    assert evals.energy_distance(x, y) == pytest.approx(expected, rel=1e-12)


def test_energy_distance_in_one_dimension_is_that_of_scipy(clouds):
    x, y = clouds[0][:, :1], clouds[1][:, :1]
    assert evals.energy_distance(x, y) == pytest.approx(stats.energy_distance(x[:, 0], y[:, 0]), rel=1e-9)


# Frechet distance


def test_frechet_by_sqrtm(clouds):
    x, y = clouds
    c, d = np.cov(x.T), np.cov(y.T)
    shift = x.mean(axis=0) - y.mean(axis=0)
    expected = shift @ shift + np.trace(c + d - 2 * linalg.sqrtm(c @ d).real)
    assert evals.frechet(x, y) == pytest.approx(expected, rel=1e-10)


def test_frechet_of_a_translation(clouds):
    assert evals.frechet(clouds[0], clouds[0] + np.array([1.0, 2.0, -2.0])) == pytest.approx(9.0, rel=1e-12)


def test_frechet_of_singular_covariances():
    # Both covariances have rank 1 and commute: the distance is that of the one coordinate that varies.
    line, axis = np.random.default_rng(3).normal(size=(50, 1)), np.eye(6)[:1]
    assert evals.frechet(line @ axis, 3 * line @ axis) == pytest.approx(4 * line.var(ddof=1) + 4 * line.mean() ** 2, rel=1e-9)
    # Orthogonal lines do not overlap: the traces add.
    value = evals.frechet((line - line.mean()) @ axis, (line - line.mean()) @ np.eye(6)[1:2])
    assert value == pytest.approx(2 * line.var(ddof=1), rel=1e-6)


# Precision and recall


@pytest.mark.parametrize("k", [1, 5])
def test_recall_and_precision_by_brute_force(clouds, k, monkeypatch):
    real, fake = clouds[0], clouds[1] + 2  # far enough apart that no share is 0 or 1

    def covered(points, support):
        radii = np.sort(distances(support, support), axis=1)[:, k]
        return np.mean([any(math.dist(p, q) <= r for q, r in zip(support, radii, strict=True)) for p in points])

    monkeypatch.setattr("flowjax.evals.transport._BLOCK", 500)
    assert 0 < evals.recall(real, fake, k) == covered(real, fake) < 1
    assert 0 < evals.precision(real, fake, k) == covered(fake, real) < 1


def test_recall_sees_collapse_and_precision_sees_noise():
    rng = np.random.default_rng(4)
    real, fake = rng.normal(size=(400, 2)), rng.normal(size=(400, 2))
    assert evals.recall(real, fake) > 0.9 and evals.precision(real, fake) > 0.9
    collapsed = 0.05 * fake
    assert evals.recall(real, collapsed) < 0.1 and evals.precision(real, collapsed) > 0.9
    noisy = 20 * fake
    assert evals.precision(real, noisy) < 0.1


# All measures


MEASURES = [evals.sliced_wasserstein, evals.energy_distance, evals.frechet, evals.recall, evals.precision]


@pytest.mark.parametrize("measure", MEASURES, ids=lambda m: m.__name__)
def test_identical_sets_are_perfect_and_images_are_flattened(measure, clouds):
    x, y = clouds
    assert measure(x, x) == pytest.approx(1.0 if measure in (evals.recall, evals.precision) else 0.0, abs=1e-12)
    images = measure(x.reshape(-1, 3, 1, 1).astype(np.float32), y.reshape(-1, 3, 1, 1).astype(np.float32))
    assert type(images) is float
    assert images == measure(x.astype(np.float32), y.astype(np.float32))
    assert images == pytest.approx(measure(x, y), rel=1e-4)


@pytest.mark.parametrize(("measure", "bad"), list(itertools.product(MEASURES, [np.nan, np.inf])))
def test_broken_samples_never_look_good(measure, bad, clouds):
    real, fake = clouds
    all_broken = measure(real, np.full_like(fake, bad))
    some = measure(real, np.concatenate([fake, np.full((1, 3), bad)]))
    if measure in (evals.recall, evals.precision):
        assert all_broken == 0.0
        assert some <= measure(real, fake)
    else:
        assert not math.isfinite(all_broken) and not math.isfinite(some)


@pytest.mark.parametrize("measure", MEASURES, ids=lambda m: m.__name__)
def test_mistakes_are_told(measure, clouds):
    with pytest.raises(typing.InputError, match="must agree"):
        measure(clouds[0], clouds[1][:, :2])
    with pytest.raises(typing.InputError, match="n >= 1"):
        measure(clouds[0][:0], clouds[1])


def test_mistakes_of_size_are_told(clouds):
    with pytest.raises(typing.InputError, match="neighbours"):
        evals.recall(clouds[0], clouds[1][:5], k=5)
    with pytest.raises(typing.InputError, match="at least 2"):
        evals.frechet(clouds[0], clouds[1][:1])
    with pytest.raises(typing.InputError, match="at least 1"):
        evals.sliced_wasserstein(*clouds, directions=0)


# The classifier


def test_classifier_reads_digits(cache, digits):
    _, classifier = cache
    images, labels = digits[2:]
    assert evals.agreement(classifier, images, labels) >= 0.975
    assert classifier.features(images).shape == (297, 64)
    assert classifier.logits(images).shape == (297, 10)


def test_classifier_features_measure_quality(cache, digits):
    _, classifier = cache
    train, images = digits[0], digits[2]
    noisy = images + np.random.default_rng(5).normal(size=images.shape)
    good, bad = (evals.frechet(classifier.features(train), classifier.features(x)) for x in (images, noisy))
    assert bad > 5 * good
    assert evals.recall(classifier.features(images), classifier.features(train)) > 0.8


def test_agreement_counts(cache, digits):
    _, classifier = cache
    images, labels = digits[2:]
    predicted = np.asarray(classifier.logits(images)).argmax(axis=1)
    assert evals.agreement(classifier, images, (predicted + 1) % 10) == 0.0
    assert evals.agreement(classifier, np.full((4, 8, 8, 1), np.nan), np.zeros(4, int)) == 0.0
    with pytest.raises(typing.InputError, match="as many"):
        evals.agreement(classifier, images, labels[:-1])


def test_cache_round_trip(cache, digits, monkeypatch, recwarn):
    path, classifier = cache
    monkeypatch.setattr(evals.classifier, "fit", lambda *args, **kwargs: pytest.fail("fitted although cached"))
    again = evals.classifier.load_or_fit(path, *digits[:2], num_classes=10)
    np.testing.assert_array_equal(again.logits(digits[2]), classifier.logits(digits[2]))
    assert [file.name for file in path.parent.iterdir()] == ["digits.npz"]
    assert not recwarn.list


def truncated(path):
    path.write_bytes(path.read_bytes()[:1000])


def overwritten(path):
    path.write_bytes(b"no archive")


def emptied(path):
    path.write_bytes(b"")


def one_array(path):
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))


def pickled(path):
    np.savez(path, origin=np.array([object()], dtype=object))


@pytest.fixture
def fits(cache, monkeypatch):
    """Replaces `fit` by the weights it found before, for speed; the list holds the seed of every call."""
    with np.load(cache[0]) as file:
        params = {name: file[name] for name in file.files if name != "origin"}
    calls = []
    monkeypatch.setattr(evals.classifier, "fit", lambda *_, seed, **kwargs: calls.append(seed) or params)
    return calls


@pytest.mark.parametrize("spoil", [truncated, overwritten, emptied, one_array, pickled])
def test_a_spoilt_cache_is_fitted_again(spoil, cache, tmp_path, digits, fits):
    path = tmp_path / "digits.npz"
    shutil.copy(cache[0], path)
    spoil(path)
    with pytest.warns(UserWarning, match="cannot use the cache"):
        evals.classifier.load_or_fit(path, *digits[:2], num_classes=10)
    again = evals.classifier.load_or_fit(path, *digits[:2], num_classes=10)
    assert fits == [0]
    np.testing.assert_array_equal(again.logits(digits[2]), cache[1].logits(digits[2]))


def test_a_cache_of_other_data_is_not_used(cache, tmp_path, digits, fits):
    path = tmp_path / "digits.npz"
    shutil.copy(cache[0], path)
    with pytest.warns(UserWarning, match="other data"):
        evals.classifier.load_or_fit(path, *digits[:2], num_classes=10, seed=1)
    assert fits == [1]


def test_fit_is_deterministic_in_the_seed(digits, monkeypatch):
    monkeypatch.setattr(evals.classifier, "_STEPS", 2)
    one, same, other = (evals.classifier.fit(*digits[:2], num_classes=10, seed=seed) for seed in (0, 0, 1))
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.array_equal(one["head"], other["head"])


def test_classifier_mistakes_are_told(digits):
    images, labels = digits[:2]
    with pytest.raises(typing.InputError, match="num_classes is 9"):
        evals.classifier.fit(images, labels, num_classes=9)
    with pytest.raises(typing.InputError, match="expected"):
        evals.classifier.fit(images[..., 0], labels, num_classes=10)
