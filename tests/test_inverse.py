"""Inverse problems of normal data: guidance by value is exact, the bias of the other ways is the predicted one, and inversion edits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from flowjax import exact, flowmap, inverse, samplers, steering, typing

MEAN, COVARIANCE = np.array([0.5, -1.0]), np.array([[1.0, 0.6], [0.6, 0.5]])
SIGMA, Y = 0.5, 1.2  # the first coordinate is measured


@functools.cache
def flow():
    return exact.gaussian(MEAN, COVARIANCE)


def known():
    """Mean and covariance of p(x0 | y)."""
    gain = COVARIANCE[:, 0] / (COVARIANCE[0, 0] + SIGMA**2)
    return MEAN + gain * (Y - MEAN[0]), COVARIANCE - np.outer(gain, COVARIANCE[0])


def reward(x0):
    return inverse.log_likelihood(lambda x0: x0[:, :1], jnp.array([[Y]]), SIGMA)(x0)


def draw(x_c, c, eps):
    """Samples of p(x0 | x_c): normal, of precision COVARIANCE^-1 + ((1 - c) / c)^2."""
    inverse_covariance = np.linalg.inv(COVARIANCE)
    variance, basis = jnp.linalg.eigh(jnp.asarray(inverse_covariance))
    precision = variance + ((1 - c) / c) ** 2
    mean = ((inverse_covariance @ MEAN)[None] + (1 - c) / c**2 * x_c) @ basis / precision[None]
    return (mean + eps / jnp.sqrt(precision)[None]) @ basis.T


@pytest.mark.slow
@pytest.mark.parametrize("gradient", [False, True])
def test_guidance_by_value_samples_the_posterior(gradient):
    run = jax.jit(
        lambda x: inverse.by_value(
            flow().V, draw, reward, x, samplers.grid(24), jax.random.key(1), count=128, gradient=gradient
        )
    )
    x = run(jax.random.normal(jax.random.key(0), (4000, 2)))
    mean, covariance = known()
    np.testing.assert_allclose(x.mean(0), mean, atol=0.05)
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=0.06)


def affine(step):
    """(A, b) of an affine map of points."""
    b = np.asarray(step(jnp.zeros((1, 2))))[0]
    return np.asarray(step(jnp.eye(2))).T - b[:, None], b


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_the_bias_of_guidance_by_one_end_is_the_predicted_one():
    """Its intervals are affine maps for normal data, so that the law of its samples is known: a normal, and not the posterior."""
    times = np.linspace(1, 0, 17)
    A, b, V = np.eye(2), np.zeros(2), flow().V
    for s, t in zip(times, times[1:]):
        end = lambda x, s=s: flowmap.jump(V, x, s, 0.0)
        end_A, end_b = affine(end)
        jump_A, jump_b = affine(lambda x, s=s, t=t: flowmap.jump(V, x, s, t))
        # grad_x of -(Y - end_1)^2 / (2 SIGMA^2) is end_A[0] (Y - end_1) / SIGMA^2.
        bend = (s - t) * s / SIGMA**2 * np.outer(end_A[0], end_A[0])
        step_A = jump_A - bend
        step_b = jump_b + (s - t) * s / SIGMA**2 * end_A[0] * (Y - end_b[0])
        A, b = step_A @ A, step_A @ b + step_b
    x = steering.guided(V, jax.random.normal(jax.random.key(0), (40_000, 2)), jnp.asarray(times), reward)
    np.testing.assert_allclose(x.mean(0), b, atol=0.02)
    np.testing.assert_allclose(np.cov(x.T), A @ A.T, atol=0.02)
    mean, covariance = known()
    assert np.abs(b - mean).max() > 0.1 or np.abs(A @ A.T - covariance).max() > 0.1


@pytest.mark.usefixtures("x64")
def test_the_bias_of_zero_shot_editing_is_the_predicted_one():
    times, A, b, noise = np.linspace(1, 0, 5), np.eye(2), np.zeros(2), np.zeros((2, 2))
    keep = np.diag([0.0, 1.0])
    for s, t in zip(times, times[1:]):
        end_A, end_b = affine(lambda x, s=s: flowmap.jump(flow().V, x, s, 0.0))
        step_A = (1 - t) * keep @ end_A
        A, b = step_A @ A, step_A @ b + (1 - t) * (keep @ end_b + np.array([Y, 0.0]))
        noise = step_A @ noise @ step_A.T + t**2 * np.eye(2)
    replace = lambda x0: x0.at[:, 0].set(Y)
    eps = jax.random.normal(jax.random.key(0), (40_000, 2))
    x = inverse.edited(flow().V, eps, jnp.asarray(times), jax.random.key(1), replace)
    np.testing.assert_allclose(x.mean(0), b, atol=0.02)
    np.testing.assert_allclose(np.cov(x.T), A @ A.T + noise, atol=0.02)
    exact_mean = MEAN[1] + COVARIANCE[0, 1] / COVARIANCE[0, 0] * (Y - MEAN[0])  # without noise of the measurement
    assert abs(b[1] - exact_mean) > 0.05


def test_a_differentiable_operator_need_not_be_linear():
    """y = x0^2 of one number: two posterior modes, and the draws have both."""
    squares = lambda x0: x0**2
    one = exact.gaussian(0.0, 1.0)
    posterior = lambda x_c, c, eps: (1 - c) / c**2 * x_c / (1 + ((1 - c) / c) ** 2) + eps / jnp.sqrt(1 + ((1 - c) / c) ** 2)
    measured = inverse.log_likelihood(squares, jnp.array([[1.0]]), 0.5)
    x = inverse.by_value(
        one.V,
        posterior,
        measured,
        jax.random.normal(jax.random.key(0), (2000, 1)),
        samplers.grid(24),
        jax.random.key(1),
        count=64,
    )
    grid = np.linspace(-4, 4, 4001)
    weights = stats.norm.pdf(grid) * np.exp(-((1 - grid**2) ** 2) / 0.5)
    weights /= weights.sum()
    np.testing.assert_allclose([np.mean(x**2), np.mean(x > 0)], [weights @ grid**2, 0.5], atol=0.08)


@pytest.mark.usefixtures("x64")
def test_interpolation_and_editing_by_inversion():
    x = jax.random.normal(jax.random.key(0), (6, 2)) + jnp.asarray(MEAN)[None]
    shares = jnp.linspace(0, 1, 3)
    path = inverse.interpolated(flow().V, x[:3], x[3:], shares, samplers.grid(64))
    np.testing.assert_allclose(path[0], x[:3], atol=1e-2)
    np.testing.assert_allclose(path[2], x[3:], atol=1e-2)
    assert path.shape == (3, 3, 2)
    other = exact.gaussian(MEAN + 2, COVARIANCE)
    np.testing.assert_allclose(inverse.edited_by_inversion(flow().V, flow().V, x, samplers.grid(64)), x, atol=1e-2)
    edited = inverse.edited_by_inversion(flow().V, other.V, x, samplers.grid(64))
    np.testing.assert_allclose(edited, x + 2, atol=2e-2)  # the same place in the other class


def test_bad_input_is_refused():
    with pytest.raises(typing.InputError, match="at least two draws"):
        inverse.by_value(flow().V, draw, reward, jnp.zeros((2, 2)), samplers.grid(2), jax.random.key(0), count=1)
