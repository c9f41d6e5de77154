"""Every measure against a closed form or an independent reference on the same arrays."""

import itertools
import math
import shutil

import numpy as np
import pytest
from scipy import linalg, stats
from sklearn import datasets, neighbors
from sklearn.metrics import pairwise

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


def test_energy_distance_in_one_dimension_does_not_mind_ties_and_order():
    x, y = np.array([[2.0], [0.0], [0.0], [1.0]]), np.array([[1.0], [0.0]])
    assert evals.energy_distance(x, y) == pytest.approx(stats.energy_distance(x[:, 0], y[:, 0]), rel=1e-12)
    assert evals.energy_distance(x, x[::-1]) == 0.0


def test_a_cloud_in_another_order_is_the_same_cloud(clouds):
    assert evals.energy_distance(clouds[0], clouds[0][::-1]) == 0.0


# Frechet distance


def test_frechet_by_sqrtm(clouds):
    x, y = clouds
    c, d = np.cov(x.T), np.cov(y.T)
    shift = x.mean(axis=0) - y.mean(axis=0)
    expected = shift @ shift + np.trace(c + d - 2 * linalg.sqrtm(c @ d).real)
    assert evals.frechet(x, y) == pytest.approx(expected, rel=1e-10)


def test_frechet_of_a_translation(clouds):
    assert evals.frechet(clouds[0], clouds[0] + np.array([1.0, 2.0, -2.0])) == pytest.approx(9.0, rel=1e-12)


def test_frechet_of_fewer_samples_than_features():
    x, y = (
        np.random.default_rng(n).normal(size=(n, 40)) @ np.random.default_rng(0).normal(size=(40, 40)) + 5 for n in (12, 30)
    )
    slow = evals.moments.frechet_distance(evals.moments.of(x).gaussian(), evals.moments.of(y).gaussian())
    assert evals.frechet(x, y) == pytest.approx(slow, rel=1e-6) and evals.frechet(x, x) == pytest.approx(0, abs=1e-6 * slow)


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


# Density and coverage


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("width", [3, 20])
def test_density_and_coverage_by_brute_force(k, width, monkeypatch):
    rng = np.random.default_rng(6)
    real, fake = rng.normal(size=(60, width)), 0.9 * rng.normal(size=(45, width)) + 1.5 / width**0.5
    radii = np.sort(distances(real, real), axis=1)[:, k]
    inside = distances(fake, real) < radii
    monkeypatch.setattr("flowjax.evals.transport._BLOCK", 500)
    assert evals.density(real, fake, k) == pytest.approx(inside.sum() / (k * len(fake)), rel=1e-12)
    assert 0 < evals.coverage(real, fake, k) == inside.any(axis=0).mean() < 1


def test_density_and_coverage_of_equal_distributions():
    real, fake = np.random.default_rng(7).normal(size=(2, 2000, 2))
    assert evals.density(real, fake) == pytest.approx(1.0, abs=0.05)
    assert evals.coverage(real, fake) == pytest.approx(1 - 2**-5, abs=0.02)


# Copies


@pytest.mark.parametrize("width", [3, 20])
def test_nearest_distance_is_that_of_scikit_learn(width):
    samples, training = (np.random.default_rng(n).normal(size=(n, width)) + 1e3 for n in (70, 90))
    result = neighbors.NearestNeighbors(n_neighbors=1, algorithm="brute").fit(training - 1e3).kneighbors(samples - 1e3)[0]
    assert evals.nearest_distance(samples, training) == pytest.approx(result.mean(), rel=1e-7)
    assert evals.nearest_distance(training[::-1], training) == 0.0
    ids, distances = evals.neighbours.nearest_rows(samples, training)
    np.testing.assert_allclose(distances, result[:, 0], rtol=1e-7)
    np.testing.assert_allclose(np.linalg.norm(training[ids] - samples, axis=1), distances)


@pytest.mark.parametrize("width", [3, 20])
def test_copying_is_the_mann_whitney_statistic(width):
    samples, training, held_out = (np.random.default_rng(n).normal(size=(n, width)) for n in (30, 90, 41))
    samples[:8] = held_out[:8]  # ties
    own, held_out_rows = (distances(z, training).min(axis=1) for z in (samples, held_out))
    expected = stats.mannwhitneyu(held_out_rows, own).statistic / (len(own) * len(held_out_rows))
    assert evals.copying(samples, training, held_out) == pytest.approx(expected, rel=1e-12)


def test_copying_separates_copies_from_held_out_data(clouds):
    training, held_out, held_out_rows = np.random.default_rng(9).normal(size=(3, 1000, 2))
    assert evals.copying(training[:100], training, held_out) == 1.0
    assert evals.copying(training + 100, training, held_out) == 0.0
    assert evals.copying(held_out, training, held_out) == pytest.approx(0.5, abs=1e-12)
    assert evals.copying(held_out_rows, training, held_out) == pytest.approx(0.5, abs=4 / math.sqrt(12 * 500))
    for broken in itertools.permutations([np.full((9, 2), np.nan), training, held_out]):
        assert math.isnan(evals.copying(*broken))
    with pytest.raises(typing.InputError, match="must agree"):
        evals.copying(training, training, clouds[0])


# Kernel discrepancy


@pytest.mark.parametrize("width", [3, 20])
@pytest.mark.parametrize(("kernel", "options"), [("gaussian", {"bandwidth": 1.7}), ("polynomial", {})])
def test_mmd_is_the_sums_of_scikit_learn(kernel, options, width, monkeypatch):
    rng = np.random.default_rng(10)
    x, y = rng.normal(size=(60, width)), 1.2 * rng.normal(size=(45, width)) + 0.5
    if kernel == "gaussian":
        k = lambda u, v: pairwise.rbf_kernel(u, v, gamma=0.5 / 1.7**2)
    else:
        k = lambda u, v: pairwise.polynomial_kernel(u, v, degree=3, gamma=1 / width, coef0=1)
    within = lambda z: (k(z, z).sum() - np.trace(k(z, z))) / (len(z) * (len(z) - 1))
    expected = within(x) + within(y) - 2 * k(x, y).mean()
    assert evals.mmd(x, y, kernel=kernel, **options) == pytest.approx(expected, rel=1e-9)
    monkeypatch.setattr("flowjax.evals.transport._BLOCK", 500)
    assert evals.mmd(x, y, kernel=kernel, **options) == pytest.approx(expected, rel=1e-9)


def test_mmd_of_gaussians_is_unbiased():
    # E exp(-|u - v|^2 / (2 h^2)) for u - v normal with mean c and variance w in each of D coordinates.
    h, shift, scale, width = 1.5, 0.5, 2.0, 2
    mean = lambda c, w: (h**2 / (h**2 + w)) ** (width / 2) * math.exp(-width * c**2 / (2 * (h**2 + w)))
    truth = mean(0, 2) + mean(0, 2 * scale**2) - 2 * mean(shift, 1 + scale**2)
    rng = np.random.default_rng(11)
    values = [
        evals.mmd(rng.normal(size=(20, width)), scale * rng.normal(size=(30, width)) + shift, bandwidth=h) for _ in range(400)
    ]
    # A mean of 400 is off by more than 4 standard errors once in 15,000 seeds.
    assert abs(np.mean(values) - truth) < 4 * np.std(values) / 20


def test_mmd_takes_the_median_distance(clouds):
    x, y = clouds
    median = np.median(distances(y, y)[np.triu_indices(len(y), 1)])
    assert evals.mmd(x, y) == pytest.approx(evals.mmd(x, y, bandwidth=median), rel=1e-9)


# Wide rows


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_distances_of_wide_rows(offset):
    from flowjax.evals import transport

    rng = np.random.default_rng(12)
    x, y = rng.normal(size=(40, 64)) + offset, rng.normal(size=(30, 64)) + offset
    y[:5] = x[:5]  # copies
    y[5:10] = x[5:10] + 1e-7  # near copies
    y[10] = 1e6  # an outlier
    result, expected = np.concatenate(list(transport.distance_blocks(x, y))), distances(x, y)
    assert not result[range(5), range(5)].any()
    np.testing.assert_allclose(result, expected, rtol=1e-8, atol=1e-10)
    y[11], y[12, 0] = np.nan, np.inf
    broken = np.concatenate(list(transport.distance_blocks(x, y)))
    assert not np.isfinite(broken[:, 11:13]).any()
    np.testing.assert_allclose(
        np.delete(broken, [11, 12], axis=1), np.delete(expected, [11, 12], axis=1), rtol=1e-8, atol=1e-10
    )


@pytest.mark.parametrize(
    "measure", [evals.energy_distance, evals.recall, evals.density, evals.coverage, evals.nearest_distance]
)
def test_wide_rows_that_coincide_are_seen_to(measure):
    x = np.random.default_rng(13).normal(size=(50, 64)) + 100
    perfect = 0.0 if measure in (evals.energy_distance, evals.nearest_distance) else 1.0
    assert measure(x, x[::-1]) == pytest.approx(perfect, abs=1e-12)


# All measures


def wasserstein(x, y):
    """Of equally many samples, the last ones."""
    size = min(len(x), len(y))
    return evals.wasserstein(x[len(x) - size :], y[len(y) - size :])


def kid(x, y):
    return evals.mmd(x, y, kernel="polynomial")


SHARES = [evals.recall, evals.precision, evals.density, evals.coverage]
MEASURES = [
    evals.sliced_wasserstein,
    evals.energy_distance,
    wasserstein,
    evals.sinkhorn,
    evals.mmd,
    kid,
    evals.frechet,
    evals.nearest_distance,
    *SHARES,
]


@pytest.mark.parametrize("measure", MEASURES, ids=lambda m: m.__name__)
def test_identical_sets_are_perfect_and_images_are_flattened(measure, clouds):
    x, y = clouds
    if measure in (evals.mmd, kid):  # unbiased: identical sets look nearer than two draws of one distribution
        assert measure(x, x) < 0
    else:
        assert measure(x, x) == pytest.approx(1.0 if measure in SHARES else 0.0, abs=1e-12)
    images = measure(x.reshape(-1, 3, 1, 1).astype(np.float32), y.reshape(-1, 3, 1, 1).astype(np.float32))
    assert type(images) is float
    assert images == measure(x.astype(np.float32), y.astype(np.float32))
    assert images == pytest.approx(measure(x, y), rel=1e-4)


@pytest.mark.parametrize(("measure", "bad"), list(itertools.product(MEASURES, [np.nan, np.inf])))
def test_broken_samples_never_look_good(measure, bad, clouds):
    real, fake = clouds
    all_broken = measure(real, np.full_like(fake, bad))
    some = measure(real, np.concatenate([fake, np.full((1, 3), bad)]))
    if measure in SHARES:
        assert all_broken == 0.0
        assert some <= measure(real, fake)
    else:
        assert not math.isfinite(all_broken) and not math.isfinite(some)


@pytest.mark.parametrize("measure", MEASURES, ids=lambda m: m.__name__)
def test_errors_for_wrong_arguments(measure, clouds):
    with pytest.raises(typing.InputError, match="must agree"):
        measure(clouds[0], clouds[1][:, :2])
    with pytest.raises(typing.InputError, match="n >= 1"):
        measure(clouds[0][:0], clouds[1])


def test_errors_for_sizes(clouds):
    for measure in (evals.recall, evals.density, evals.coverage):
        clouds_of_five = (clouds[0], clouds[1][:5]) if measure is evals.recall else (clouds[1][:5], clouds[0])
        with pytest.raises(typing.InputError, match="neighbours"):
            measure(*clouds_of_five, k=5)
    for measure in (evals.frechet, evals.mmd):
        with pytest.raises(typing.InputError, match="at least 2"):
            measure(clouds[0], clouds[1][:1])
    with pytest.raises(typing.InputError, match="at least 1"):
        evals.sliced_wasserstein(*clouds, directions=0)
    with pytest.raises(typing.InputError, match="60 and 45 samples; expected as many"):
        evals.wasserstein(*clouds)
    with pytest.raises(typing.InputError, match="at most 4096"):
        evals.wasserstein(*np.zeros((2, 4097, 2)))


def test_errors_for_options(clouds):
    for options, message in [
        ({"kernel": "rbf"}, "gaussian, polynomial"),
        ({"bandwidth": 0.0}, "bandwidth is 0.0"),
        ({"kernel": "polynomial", "bandwidth": 1.0}, "leave it out"),
    ]:
        with pytest.raises(typing.InputError, match=message):
            evals.mmd(*clouds, **options)
    for options, message in [({"epsilon": -1.0}, "epsilon is -1.0"), ({"iterations": 0}, "iterations is 0")]:
        with pytest.raises(typing.InputError, match=message):
            evals.sinkhorn(*clouds, **options)
    for measure in (evals.mmd, evals.sinkhorn):  # neither has a scale to go by
        with pytest.raises(typing.InputError, match="positive number"):
            measure(clouds[0], np.ones((4, 3)))


# The classifier


@pytest.mark.slow
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


def test_errors_of_the_classifier(digits):
    images, labels = digits[:2]
    with pytest.raises(typing.InputError, match="num_classes is 9"):
        evals.classifier.fit(images, labels, num_classes=9)
    with pytest.raises(typing.InputError, match="expected"):
        evals.classifier.fit(images[..., 0], labels, num_classes=10)
