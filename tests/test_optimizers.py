"""Schedules of the learning rate against their formulas, and what is no schedule."""

import math

import jax
import numpy as np
import pytest

from flowjax import typing
from flowjax.training import optimizers, settings


def schedule(text, warmup=0, updates=200_000):
    section = settings.Optim("adam", 1e-2, text, warmup, 0.0, 1, {})
    return optimizers.make(section, updates).schedule


@pytest.mark.parametrize("text,steps", [("sqrt", 35_000), ("sqrt:steps=70_000", 70_000), ("sqrt:35_000", 35_000)])
def test_the_inverse_square_root(text, steps):
    """sCM on ImageNet, flow map self-distillation: the rate over sqrt(max(step / steps, 1))."""
    rate = schedule(text)
    for step in (0, 1, 34_999, 35_000, 35_001, 70_000, 140_000, 199_999):
        assert float(rate(step)) == pytest.approx(1e-2 / math.sqrt(max(step / steps, 1)), rel=1e-6)


def test_the_inverse_square_root_counts_the_warm_up():
    """EDM2: a factor min(step / warm-up, 1) on the rate."""
    rate = schedule("sqrt:steps=100", warmup=400)
    for step in (0, 50, 100, 399, 400, 1_600):
        assert float(rate(step)) == pytest.approx(1e-2 * min(step / 400, 1) / math.sqrt(max(step / 100, 1)), rel=1e-6)


@pytest.mark.parametrize(
    "text,said",
    [
        ("sqtr", "unknown config.optim.schedule 'sqtr'; did you mean sqrt"),
        ("sqrt:steps=0", "expected steps above 0: sqrt:steps=35_000"),
        ("sqrt:decay=1", "sqrt has no option 'decay'; expected steps"),
        ("cosine:steps=3", "cosine has no option 'steps'; expected none: cosine"),
    ],
)
def test_what_is_no_schedule(text, said):
    with pytest.raises(typing.InputError, match=said):
        schedule(text)


def test_muon_orthogonalises_the_matrices_of_blocks():
    """Blocks run in a scan, so that their matrices have three axes and their vectors two; elsewhere a matrix has two."""
    shapes = {
        "blocks": {"mlp": {"kernel": (3, 8, 4), "bias": (3, 4)}},
        "out": {"kernel": (8, 4), "bias": (4,)},
        "conv": (3, 3, 8, 4),
    }
    shapes["group"] = (3, 8, 4)  # of no block
    weights = jax.tree.map(
        lambda shape: jax.random.normal(jax.random.key(0), shape), shapes, is_leaf=lambda leaf: type(leaf) is tuple
    )
    transform = optimizers.make(settings.Optim("muon", 1.0, "constant", 0, 0.0, 1, {}), 10).transform
    updates, _ = transform.update(weights, transform.init(weights), weights)
    flat = lambda matrix: np.linalg.svd(np.asarray(matrix), compute_uv=False)
    for matrix in (updates["out"]["kernel"], *updates["blocks"]["mlp"]["kernel"]):
        assert 0.6 < flat(matrix).min() and flat(matrix).max() < 1.3
    for adam in (updates["out"]["bias"], updates["blocks"]["mlp"]["bias"], updates["conv"], updates["group"]):
        np.testing.assert_allclose(np.abs(adam), np.abs(adam).max(), rtol=1e-2)  # the first step of Adam has one size
