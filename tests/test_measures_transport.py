"""Exact and entropic Wasserstein distances against POT, closed forms and their limits."""

import itertools
import math
import tracemalloc

import jax
import numpy as np
import ot
import pytest
from scipy import optimize, special

from flowjax import evals
from flowjax.evals import assignment, entropic


@pytest.fixture(scope="module")
def clouds():
    rng = np.random.default_rng(0)
    return rng.normal(size=(60, 3)), 1.5 * rng.normal(size=(45, 3)) + 0.5


# Exact


@pytest.mark.parametrize("width", [1, 2, 20])
@pytest.mark.parametrize("large", [10, 1000], ids=["reduced", "plain"])
def test_wasserstein_is_that_of_pot(width, large, monkeypatch):
    rng = np.random.default_rng(width)
    x, y = rng.normal(size=(80, width)) ** 2, rng.normal(size=(80, width))
    monkeypatch.setattr(assignment, "_LARGE", large)
    assert evals.wasserstein(x, y) == pytest.approx(math.sqrt(ot.emd2([], [], ot.dist(x, y))), rel=1e-10)


def test_wasserstein_by_all_permutations():
    x, y = np.random.default_rng(1).normal(size=(2, 6, 2))
    best = min(sum(math.dist(a, b) ** 2 for a, b in zip(x, order)) for order in itertools.permutations(y))
    assert evals.wasserstein(x, y) == pytest.approx(math.sqrt(best / 6), rel=1e-12)


@pytest.mark.parametrize("width", [1, 3])
def test_wasserstein_of_a_translation_and_of_a_stretch(width):
    x = np.random.default_rng(2).normal(size=(100, width))
    assert evals.wasserstein(x, x + 3.0) == pytest.approx(3 * math.sqrt(width), rel=1e-12)
    assert evals.wasserstein(x[::-1], 3 * x) == pytest.approx(2 * math.sqrt((x**2).sum(axis=1).mean()), rel=1e-12)


def test_wasserstein_of_many_numbers_sorts():
    x = np.random.default_rng(3).normal(size=(assignment.LIMIT + 1, 1))
    assert evals.wasserstein(x, x[::-1] + 1) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("cloud", [np.ones((40, 2)), np.repeat(np.eye(2), 20, axis=0)], ids=["one point", "two points"])
def test_wasserstein_of_clouds_that_coincide(cloud, monkeypatch):
    monkeypatch.setattr(assignment, "_LARGE", 10)
    assert evals.wasserstein(cloud, cloud[::-1] + 1) == pytest.approx(math.sqrt(2), rel=1e-12)


# Entropic


def pot_divergence(x, y, epsilon):
    """From POT's plans: their costs and their entropies relative to the uniform weights."""

    def value(u, v):
        costs, a, b = ot.dist(u, v), np.full(len(u), 1 / len(u)), np.full(len(v), 1 / len(v))
        plan = ot.sinkhorn(a, b, costs, epsilon, method="sinkhorn_log", stopThr=1e-9, numItermax=20_000)
        return (plan * costs).sum() + epsilon * (plan * np.log(np.maximum(plan, 1e-300) * plan.size)).sum()

    return value(x, y) - (value(x, x) + value(y, y)) / 2


@pytest.mark.parametrize("epsilon", [30.0, 100.0])
def test_sinkhorn_is_that_of_pot(clouds, epsilon, monkeypatch):
    expected = pot_divergence(*clouds, epsilon)
    assert evals.sinkhorn(*clouds, epsilon=epsilon) == pytest.approx(expected, rel=1e-6)
    monkeypatch.setattr(entropic, "_BLOCK", 500)  # many small blocks, the last one short
    assert evals.sinkhorn(*clouds, epsilon=epsilon) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("epsilon", [0.3, 3.0])  # where POT takes long
def test_sinkhorn_is_the_best_dual_value(clouds, epsilon):
    x, y = clouds

    def value(u, v):
        costs = ot.dist(u, v)

        def semidual(f):
            scores = (f[:, None] - costs) / epsilon
            plan = special.softmax(scores, axis=0) / len(v)
            g = -epsilon * (special.logsumexp(scores, axis=0) - math.log(len(u)))
            return -f.mean() - g.mean(), plan.sum(axis=1) - 1 / len(u)

        return -optimize.minimize(semidual, np.zeros(len(u)), jac=True, options={"maxiter": 5000, "gtol": 1e-10}).fun

    assert evals.sinkhorn(x, y, epsilon=epsilon) == pytest.approx(value(x, y) - (value(x, x) + value(y, y)) / 2, rel=1e-6)


def test_sinkhorn_takes_memory_linear_in_the_rows():
    def temporary(rows):
        cloud = jax.ShapeDtypeStruct((rows, 2), np.float32)
        block = max(1, entropic._BLOCK // rows)
        compiled = entropic._jitted_softmin.lower(cloud, cloud, jax.ShapeDtypeStruct((rows,), np.float32), 1.0, block).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(20_000) < 2.2 * temporary(10_000)
    assert temporary(10_000) < 16 * 2**20


@pytest.mark.slow
def test_blocks_take_memory_linear_in_the_rows():
    def peak(measure, rows):
        x, y = np.random.default_rng(4).normal(size=(2, rows, 16))
        tracemalloc.start()
        measure(x, y)
        largest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return largest

    for measure in (evals.energy_distance, evals.mmd, evals.recall, evals.density, evals.coverage, evals.nearest_distance):
        assert peak(measure, 4_096) < 2.2 * peak(measure, 2_048)


def test_sinkhorn_of_a_translation_is_its_square(clouds):
    x, shift = clouds[0], np.array([1.0, 2.0, -2.0])
    assert evals.sinkhorn(x, x + shift) == pytest.approx(9.0, rel=1e-12)
    inside = evals.sinkhorn(x, clouds[1] + (x.mean(axis=0) - clouds[1].mean(axis=0)))
    moved = evals.sinkhorn(x + 1e3, clouds[1] + (x.mean(axis=0) - clouds[1].mean(axis=0)) + 1e3 + shift)
    assert moved == pytest.approx(inside + 9.0, rel=1e-9)


def test_sinkhorn_tends_to_wasserstein_and_to_the_means(clouds):
    x, y = clouds[0][:45], clouds[1]
    exact = evals.wasserstein(x, y) ** 2
    errors = [abs(evals.sinkhorn(x, y, epsilon=epsilon, iterations=2000) - exact) for epsilon in (1.0, 0.1, 0.01)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-3 * exact
    gap = x.mean(axis=0) - y.mean(axis=0)
    assert evals.sinkhorn(x, y, epsilon=1e6) == pytest.approx(gap @ gap, rel=1e-4)


def test_sinkhorn_of_equal_clouds_is_zero(clouds):
    x = clouds[0]
    assert evals.sinkhorn(x, x) == 0.0
    assert evals.sinkhorn(x, x[::-1]) == pytest.approx(0.0, abs=1e-12)
    assert evals.sinkhorn(x, np.repeat(x, 2, axis=0)) == pytest.approx(0.0, abs=1e-6)


def test_sinkhorn_scales_with_the_data(clouds):
    x, y = clouds
    assert evals.sinkhorn(1e-3 * x, 1e-3 * y) == pytest.approx(1e-6 * evals.sinkhorn(x, y), rel=1e-6)


def test_sinkhorn_warns_if_it_has_not_converged(clouds):
    full = evals.sinkhorn(*clouds)
    with pytest.warns(UserWarning, match="out of place") as result:
        assert evals.sinkhorn(*clouds, iterations=1) < full
    assert len(result) == 1
