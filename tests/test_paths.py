"""Interpolants and their velocities, and the independent coupling; paths on other spaces are in test_spaces.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from flowjax import paths, typing

VELOCITIES = {
    "linear": lambda t: (1 - t, t, -np.ones_like(t), np.ones_like(t)),
    "trigonometric": lambda t: (
        np.cos(np.pi * t / 2),
        np.sin(np.pi * t / 2),
        -np.pi / 2 * np.sin(np.pi * t / 2),
        np.pi / 2 * np.cos(np.pi * t / 2),
    ),
}


def vp(t):
    # beta(t) = 0.1 + 19.9 t; d log alpha = -beta / 2, and alpha^2 + sigma^2 = 1 gives sigma' = -alpha alpha' / sigma.
    alpha = np.exp(-0.5 * (0.1 * t + 19.9 * t**2 / 2))
    sigma, dalpha = np.sqrt(1 - alpha**2), -0.5 * (0.1 + 19.9 * t) * alpha
    return alpha, sigma, dalpha, -alpha * dalpha / sigma


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["linear", "trigonometric", "variance_preserving"])
def test_interpolation_and_its_velocity(name):
    rng = np.random.default_rng(0)
    x0, eps = rng.normal(size=(2, 5, 3))
    t = np.array([0.02, 0.2, 0.5, 0.8, 1.0])[:, None]
    alpha, sigma, dalpha, dsigma = (VELOCITIES | {"variance_preserving": vp})[name](t)
    x, v = paths.interpolate(paths.path_from_name(name), jnp.asarray(x0), jnp.asarray(eps), jnp.asarray(t))
    np.testing.assert_allclose(x, alpha * x0 + sigma * eps, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(v, dalpha * x0 + dsigma * eps, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("name", "alpha_1"), [("linear", 0.0), ("trigonometric", 0.0), ("variance_preserving", 0.00657)])
def test_ends_of_a_path(name, alpha_1):
    path = paths.PATHS[name]
    ends = [float(f(jnp.float64(t))) for f in (path.alpha, path.sigma) for t in (0.0, 1.0)]
    np.testing.assert_allclose(ends, [1.0, alpha_1, 0.0, np.sqrt(1 - alpha_1**2)], atol=1e-5)


def test_a_path_of_the_user():
    path = paths.Path(lambda t: (1 - t) ** 2, lambda t: t)
    assert paths.path_from_name(path) is path
    x, v = paths.interpolate(path, jnp.full((1, 2), 3.0), jnp.ones((1, 2)), 0.5)
    np.testing.assert_allclose(x, 3 * 0.25 + 0.5)
    np.testing.assert_allclose(v, 3 * -1.0 + 1.0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("t", [0.3, np.full((4, 1, 1), 0.3, np.float32)])
def test_interpolation_keeps_the_dtype_of_the_data(dtype, t):
    x0 = jnp.ones((4, 2, 3), dtype)
    x, v = paths.interpolate(paths.linear, x0, x0, t)
    assert x.dtype == v.dtype == x0.dtype and x.shape == v.shape == x0.shape


def test_errors_of_paths():
    x0 = jnp.ones((4, 3))
    with pytest.raises(typing.InputError, match="linear, trigonometric"):
        paths.path_from_name("liner")
    with pytest.raises(typing.InputError, match="eps has shape"):
        paths.interpolate(paths.linear, x0, x0[:1], 0.5)
    with pytest.raises(typing.InputError, match=r"flowjax\.times\.expand"):
        paths.interpolate(paths.linear, x0, x0, jnp.zeros(4))


def test_independent_coupling():
    noise = paths.independent(jax.random.key(0), jnp.full((20_000, 1), 7.0, jnp.float32))
    assert noise.shape == (20_000, 1) and noise.dtype == jnp.float32
    assert stats.kstest(noise[:, 0], stats.norm.cdf).pvalue > 0.01
    np.testing.assert_array_equal(noise, paths.independent(jax.random.key(0), jnp.zeros((20_000, 1))))
