"""Parameterisations: from the papers' own formulas in their own variables, an exact flow comes back."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import exact, flowmap, typing

FLOW = exact.gaussian(np.array([0.3, -0.5]), np.array([[1.2, 0.4], [0.4, 0.7]]))
rng = np.random.default_rng(0)
X, S, T = rng.normal(size=(16, 2)), rng.uniform(0.5, 1.0, (16, 1)), rng.uniform(0.0, 0.45, (16, 1))


def denoiser(x, s):
    """E[x0 | x] of the exact flow: what a diffusion model predicts."""
    return x - s * FLOW.v(x, s)


def raw_edm(x_in, s, t, sigma_data=0.5):
    """The network of EDM for the consistency function F(x, s, 0), from c_in x_ve as it gets it."""
    sigma = s / (1 - s)
    c_skip, c_out = sigma_data**2 / (sigma**2 + sigma_data**2), sigma * sigma_data / jnp.sqrt(sigma**2 + sigma_data**2)
    x_ve = x_in * jnp.sqrt(sigma**2 + sigma_data**2)
    destination = FLOW.F(x_ve / (1 + sigma), s, t)
    # F = D at t = 0; elsewhere the field D = x - s V takes its place.
    x = x_ve / (1 + sigma)
    field = x - s * (destination - x) / (t - s)
    return (field - c_skip * x_ve) / c_out


def raw_trigflow(x_a, a, b):
    """The network of TrigFlow: x_b = cos(a - b) x_a - sin(a - b) N(x_a, a, b), in angles over pi / 2."""
    a, b = a * jnp.pi / 2, b * jnp.pi / 2
    time = lambda angle: jnp.sin(angle) / (jnp.cos(angle) + jnp.sin(angle))
    scale = lambda angle: jnp.cos(angle) + jnp.sin(angle)
    x_b = FLOW.F(x_a / scale(a), time(a), time(b)) * scale(b)
    return (jnp.cos(a - b) * x_a - x_b) / jnp.sin(a - b)


RAW = {
    "velocity": FLOW.V,
    "denoised_field": lambda x, s, t: x - s * FLOW.V(x, s, t),
    "destination": FLOW.F,
    "trigflow": raw_trigflow,
    "edm": raw_edm,
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", flowmap.PARAMETERISATIONS)
def test_the_exact_flow_comes_back(name):
    s = jnp.asarray(np.minimum(S, 0.97))
    V = flowmap.PARAMETERISATIONS[name](RAW[name])
    np.testing.assert_allclose(V(jnp.asarray(X), s, jnp.asarray(T)), FLOW.V(jnp.asarray(X), s, T), rtol=1e-9, atol=1e-10)


@pytest.mark.usefixtures("x64")
def test_edm_at_the_data_is_the_denoiser():
    """With t = 0 replaced by t = s (the diagonal) the field is the denoiser D(x, sigma) of diffusion models."""
    x, s = jnp.asarray(X), jnp.asarray(np.minimum(S, 0.97))
    sigma, d = s / (1 - s), 0.5
    N = lambda x_in, s, t: (
        (denoiser(x, s) - d**2 / (sigma**2 + d**2) * x * (1 + sigma)) / (sigma * d / jnp.sqrt(sigma**2 + d**2))
    )
    np.testing.assert_allclose(flowmap.edm(N, sigma_data=d)(x, s, s), FLOW.v(x, s), rtol=1e-9, atol=1e-10)


@pytest.mark.usefixtures("x64")
def test_ctm_writes_its_jump_with_the_denoised_field():
    x, s, t = (jnp.asarray(z) for z in (X, S, T))
    D = lambda x, s, t: jnp.sin(x) + s - t
    F = flowmap.jump(flowmap.denoised_field(D), x, s, t)
    np.testing.assert_allclose(F, t / s * x + (1 - t / s) * D(x, s, t), rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_second_order_is_the_velocity_and_half_the_curvature():
    x, s, t = (jnp.asarray(z) for z in (X, S, T))
    N = lambda x, s, t: 2 * (FLOW.V(x, s, t) - FLOW.v(x, s)) / (t - s)
    np.testing.assert_allclose(flowmap.second_order(FLOW.v, N)(x, s, t), FLOW.V(x, s, t), rtol=1e-9, atol=1e-10)
    on_diagonal = flowmap.second_order(FLOW.v, lambda x, s, t: 1e3 * x)(x, s, s)
    np.testing.assert_allclose(on_diagonal, FLOW.v(x, s), rtol=1e-12)


def test_extended_source_tells_the_second_task_by_its_time():
    seen = []
    V = flowmap.extended_source(lambda x, s, t, cond: seen.append((float(s), float(t), cond)) or x)
    V(jnp.ones((1, 2)), 0.25, 0.5, "cond")
    assert seen == [(1.75, 0.5, "cond")]


ALL = {**flowmap.PARAMETERISATIONS, "second_order": functools.partial(flowmap.second_order, lambda x, t, cond: x)}


@pytest.mark.parametrize("name", ALL)
def test_conditioning_dtype_and_ends_of_the_path(name):
    N = lambda x, s, t, cond: jnp.tanh(x) * cond["scale"] + jnp.asarray(s - t).astype(x.dtype)
    V = ALL[name](N)
    cond = {"scale": 2.0}
    x = jnp.full((3, 2), 0.5, jnp.bfloat16)
    assert V(x, 0.8, 0.2, cond).dtype == jnp.bfloat16
    other = V(x, 0.8, 0.2, {"scale": 3.0})
    assert (other != V(x, 0.8, 0.2, cond)).all()
    x = x.astype(jnp.float32)
    for s, t in ((1.0, 0.0), (1.0, 1.0), (0.0, 0.0), (0.5, 0.5), (0.0, 1.0)):
        call = lambda x, s, t: V(x, s, t, cond)
        value, tangent = jax.jvp(call, (x, jnp.float32(s), jnp.float32(t)), (x, jnp.float32(1), jnp.float32(1)))
        assert np.isfinite(value).all() and np.isfinite(tangent).all(), (s, t)


@pytest.mark.parametrize("name", [name for name in flowmap.PARAMETERISATIONS if name != "velocity"])
def test_times_of_the_wrong_rank(name):
    with pytest.raises(typing.InputError, match=r"flowjax\.times\.expand"):
        flowmap.PARAMETERISATIONS[name](lambda x, s, t: x)(jnp.zeros((4, 2)), jnp.zeros(4), 0.0)
