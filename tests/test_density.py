"""Log-densities: of Gaussians and mixtures in closed form, estimates without bias, maps with their determinants."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from flowjax import density, exact, paths, samplers, typing

COVARIANCE = np.array([[1.0, 0.6], [0.6, 0.5]])
MEAN = np.array([0.5, -1.0])


@functools.cache
def flow():
    return exact.gaussian(MEAN, COVARIANCE)


def rows(count=6):
    return jnp.asarray(np.random.default_rng(0).normal(size=(count, 2)))


def keys(count):
    return jax.random.split(jax.random.key(3), count)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_the_density_of_the_flow_is_that_of_the_data():
    times = samplers.grid(1000)[::-1]
    expected = stats.multivariate_normal(MEAN, COVARIANCE).logpdf(rows())
    fixed = jax.jit(lambda x: density.log_density(flow().v, x, times))(rows())
    np.testing.assert_allclose(fixed, expected, atol=2e-4)
    solver = functools.partial(samplers.adaptive, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(density.log_density(flow().v, rows(), times, solver=solver), expected, atol=1e-6)
    mixture = exact.mixture([0.3, 0.7], [-1.5, 1.0], [0.6, 0.5])
    x = jnp.linspace(-2, 2, 9)[:, None]
    two = np.log(0.3 * stats.norm(-1.5, 0.6).pdf(x) + 0.7 * stats.norm(1.0, 0.5).pdf(x))[:, 0]
    np.testing.assert_allclose(density.log_density(mixture.v, x, times, solver=solver), two, atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_noise_of_another_deviation_counts():
    path = paths.path_from_name("linear:noise=2")
    v = exact.gaussian(MEAN, COVARIANCE, path).v
    result = density.log_density(v, rows(), samplers.grid(400)[::-1], path=path)
    np.testing.assert_allclose(result, stats.multivariate_normal(MEAN, COVARIANCE).logpdf(rows()), atol=1e-3)


@pytest.mark.usefixtures("x64")
def test_estimates_of_the_divergence():
    A = jnp.asarray(np.random.default_rng(1).normal(size=(6, 6)))
    low = jnp.outer(A[0], A[1]) + jnp.outer(A[2], A[3])  # of rank two
    x = jnp.zeros((4000, 6))
    linear = lambda matrix: lambda x, t: x @ matrix.T
    trace = float(jnp.trace(A))
    for kind, probes in (("rademacher", 2), ("gaussian", 2), ("hutch++", 3)):
        estimate = jax.jit(functools.partial(density.hutchinson, linear(A), kind=kind, probes=probes))
        values = estimate(x, 0.5, keys(4000))[1]
        assert abs(float(values.mean()) - trace) < 4 * float(values.std()) / 4000**0.5, kind
        assert float(values.std()) > 0.1, kind
    np.testing.assert_allclose(density.exact_divergence(linear(A), x[:2], 0.5)[1], trace, rtol=1e-12)
    # Two directions hold all of a matrix of rank two; signs are exact for a diagonal one.
    deflated = density.hutchinson(linear(low), x[:5], 0.5, keys(5), kind="hutch++", probes=6)[1]
    np.testing.assert_allclose(deflated, jnp.trace(low), rtol=1e-10)
    signs = density.hutchinson(linear(jnp.diag(A[0])), x[:5], 0.5, keys(5))[1]
    np.testing.assert_allclose(signs, A[0].sum(), rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_estimated_log_densities_have_the_right_mean():
    x = jnp.broadcast_to(rows(1), (2000, 2))
    estimate = functools.partial(density.hutchinson, kind="gaussian")
    values = density.log_density(flow().v, x, samplers.grid(50)[::-1], divergence=estimate, keys=keys(2000))
    expected = stats.multivariate_normal(MEAN, COVARIANCE).logpdf(rows(1))
    assert abs(float(values.mean()) - expected) < 4 * float(values.std()) / 2000**0.5 + 3e-3


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("steps", [1, 3])
def test_samples_of_an_exact_map_have_constant_importance_weights(steps):
    eps = jax.random.normal(jax.random.key(0), (64, 2))
    x, log_q = jax.jit(lambda eps: density.sample_with_density(flow().V, eps, samplers.grid(steps)))(eps)
    target = stats.multivariate_normal(MEAN, COVARIANCE).logpdf(x)
    np.testing.assert_allclose(log_q, target, atol=1e-10)
    weights, share = density.importance_weights(jnp.asarray(target) + 7.0, log_q)
    np.testing.assert_allclose(weights, 1 / 64, rtol=1e-8)
    np.testing.assert_allclose(share, 1.0, rtol=1e-8)


@pytest.mark.usefixtures("x64")
def test_weights_correct_a_map_that_is_wrong():
    wrong = exact.gaussian(MEAN + 0.3, 1.5 * COVARIANCE)
    eps = jax.random.normal(jax.random.key(1), (20_000, 2))
    x, log_q = density.sample_with_density(wrong.V, eps, samplers.grid(1))
    weights, share = density.importance_weights(jnp.asarray(stats.multivariate_normal(MEAN, COVARIANCE).logpdf(x)), log_q)
    np.testing.assert_allclose(weights @ x, MEAN, atol=0.03)
    assert 0.3 < share < 0.95


def test_bits_of_a_grid_in_which_each_cell_is_as_likely():
    width = 2 / 255
    x = density.dequantised(jnp.zeros((3, 4)), width, jax.random.key(0))
    assert float(jnp.abs(x).max()) <= width / 2
    log_p = jnp.full(3, 4 * -np.log(256 * width))  # uniform over 256 cells
    np.testing.assert_allclose(density.bits_per_dimension(log_p, 4, width), 8.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: density.log_density(flow().v, rows(), samplers.grid(4)), "run from 1 to 0"),
        (lambda: density.hutchinson(flow().v, rows(), 0.5, keys(6), kind="sobol"), "'sobol'"),
        (lambda: density.hutchinson(flow().v, rows(), 0.5, None), "no keys"),
        (lambda: density.hutchinson(flow().v, rows(), 0.5, keys(6), kind="hutch++"), "1 probes"),
        (lambda: density.log_noise(rows(), paths.sphere), "'sphere'"),
    ],
)
def test_bad_input_is_refused(call, said):
    with pytest.raises(typing.InputError, match=said):
        call()
