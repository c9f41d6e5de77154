"""Parameterisations: from the papers' formulas, in their variables, an exact flow comes back."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import exact, flowmap, typing

FLOW = exact.gaussian(np.array([0.3, -0.5]), np.array([[1.2, 0.4], [0.4, 0.7]]))


@pytest.fixture
def points(x64):
    """x, s, t in float64, with both time directions and away from the diagonal, where a destination says nothing."""
    rng = np.random.default_rng(0)
    x, s, t = rng.normal(size=(16, 2)), rng.uniform(0.1, 0.97, (16, 1)), rng.uniform(0.0, 1.0, (16, 1))
    t = np.where(np.abs(t - s) < 0.05, 0.0, t)
    assert (t > s).any() and (t < s).any() and (t == 0).any()
    return jnp.asarray(x), jnp.asarray(s), jnp.asarray(t)


def raw_denoised_field(x, s, t):
    """CTM's jump, F = (t / s) x + (1 - t / s) D, solved for the network."""
    return (FLOW.F(x, s, t) - t / s * x) / (1 - t / s)


def raw_edm(x_in, s, t, sigma_data=0.5):
    """The network of EDM from c_in x_ve as it gets it: D = c_skip x_ve + c_out N, D = F where the jump goes to the data."""
    sigma = s / (1 - s)
    c_skip, c_out = sigma_data**2 / (sigma**2 + sigma_data**2), sigma * sigma_data / jnp.sqrt(sigma**2 + sigma_data**2)
    x_ve = x_in * jnp.sqrt(sigma**2 + sigma_data**2)
    D = raw_denoised_field(x_ve / (1 + sigma), s, t)
    return (D - c_skip * x_ve) / c_out


def raw_trigflow(x_a, a, b):
    """The network of TrigFlow: x_b = cos(a - b) x_a - sin(a - b) N(x_a, a, b), in angles over pi / 2."""
    a, b = a * jnp.pi / 2, b * jnp.pi / 2
    time = lambda angle: jnp.sin(angle) / (jnp.cos(angle) + jnp.sin(angle))
    scale = lambda angle: jnp.cos(angle) + jnp.sin(angle)
    x_b = FLOW.F(x_a / scale(a), time(a), time(b)) * scale(b)
    return (jnp.cos(a - b) * x_a - x_b) / jnp.sin(a - b)


def raw_second_order(x, s, t):
    """The curvature that is left of F = x + (t - s) v + (t - s)^2 / 2 N."""
    return (FLOW.F(x, s, t) - x - (t - s) * FLOW.v(x, s)) * 2 / (t - s) ** 2


# parameterisation, raw network
FROM_THE_FLOW = {
    "velocity": (flowmap.velocity, FLOW.V),
    "denoised_field": (flowmap.denoised_field, raw_denoised_field),
    "destination": (flowmap.destination, FLOW.F),
    "second_order": (functools.partial(flowmap.second_order, FLOW.v), raw_second_order),
    "trigflow": (flowmap.trigflow, raw_trigflow),
    "edm": (flowmap.edm, raw_edm),
    "edm of wide data": (functools.partial(flowmap.edm, sigma_data=1.3), functools.partial(raw_edm, sigma_data=1.3)),
    "dyadic": (flowmap.dyadic, lambda x, s, u: FLOW.V(x, s, s - jnp.where(s < u, -1, 1) * 2.0 ** -jnp.abs(s - u))),
    "extended_source": (flowmap.extended_source, lambda x, s, t: FLOW.V(x, -s, t)),
}


def test_every_parameterisation_is_here():
    assert set(flowmap.PARAMETERISATIONS) <= {*FROM_THE_FLOW, "categorical"}  # whose flow is another: test_discrete.py
    named = {name: FROM_THE_FLOW[name][0] for name in flowmap.PARAMETERISATIONS if name != "categorical"}
    assert all(flowmap.PARAMETERISATIONS[name] is wrap for name, wrap in named.items())


def test_the_exact_flow_comes_back_with_its_derivatives(points):
    @jax.jit
    def derivatives(x, s, t):
        along = (FLOW.v(x, s), jnp.ones_like(s), 0.3 * jnp.ones_like(t))
        return {name: jax.jvp(V, (x, s, t), along) for name, V in maps.items()}

    maps = {"exact": FLOW.V} | {name: wrap(raw) for name, (wrap, raw) in FROM_THE_FLOW.items()}
    pairs = derivatives(*points)
    for name, (value, tangent) in pairs.items():
        np.testing.assert_allclose(value, pairs["exact"][0], rtol=1e-9, atol=1e-10, err_msg=name)
        np.testing.assert_allclose(tangent, pairs["exact"][1], rtol=1e-7, atol=1e-8, err_msg=name)


@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
def test_edm_on_the_diagonal_is_the_denoiser_of_diffusion_models(sigma_data, points):
    x, s, _ = points
    sigma, denoised = s / (1 - s), x - s * FLOW.v(x, s)  # E[x0 | x]
    norm = jnp.sqrt(sigma**2 + sigma_data**2)

    def N(x_in, s, t):
        np.testing.assert_allclose(x_in, x * (1 + sigma) / norm, rtol=1e-12)  # c_in x_ve
        return (denoised - sigma_data**2 / norm**2 * x * (1 + sigma)) / (sigma * sigma_data / norm)

    V = flowmap.edm(N, sigma_data=sigma_data)(x, s, s)
    np.testing.assert_allclose(V, FLOW.v(x, s), rtol=1e-9, atol=1e-10)


def test_the_anchor_holds_by_construction(points):
    x, s, _ = points
    V = flowmap.second_order(FLOW.v, lambda x, s, t: 1e3 * x)
    np.testing.assert_allclose(V(x, s, s), FLOW.v(x, s), rtol=1e-12)


def test_divisors_have_floors(points):
    x = points[0]
    D = lambda x, s, t: 3 * x
    np.testing.assert_allclose(flowmap.denoised_field(D)(x, 0.01, 0.0), -2 * x / 0.05, rtol=1e-12)
    np.testing.assert_allclose(flowmap.denoised_field(D, floor=1e-3)(x, 0.01, 0.0), -2 * x / 0.01, rtol=1e-12)
    for t, gap in ((0.5 + 1e-5, 1e-3), (0.5 - 1e-5, -1e-3), (0.6, 0.1), (0.4, -0.1)):
        np.testing.assert_allclose(flowmap.destination(D)(x, 0.5, t), 2 * x / gap, rtol=1e-12)


def test_a_jump_is_the_flow_map_in_the_dtype_of_the_data(points):
    x, s, t = points
    np.testing.assert_allclose(flowmap.jump(FLOW.V, x, s, t), FLOW.F(x, s, t), rtol=1e-12)
    np.testing.assert_array_equal(flowmap.jump(FLOW.V, x, s, s), x)
    # In float32 and rounded once: bfloat16 times would make 0.4990 of this gap.
    landed = flowmap.jump(lambda x, s, t: jnp.ones_like(x), jnp.zeros((1, 1), jnp.bfloat16), 0.9985, jnp.float32(0.4985))
    assert landed.dtype == jnp.bfloat16 and float(landed[0, 0]) == -0.5


# Contracts

CALLED = {name: wrap for name, (wrap, _) in FROM_THE_FLOW.items()}
CALLED["second_order"] = functools.partial(flowmap.second_order, lambda x, t, cond: x * cond["scale"])


def network(x, s, t, cond):
    return jnp.tanh(x) * cond["scale"] + jnp.asarray(s - t).astype(x.dtype)


@pytest.mark.parametrize("name", CALLED)
def test_what_follows_the_times_is_passed_on(name):
    V, x = CALLED[name](network), jnp.full((3, 2), 0.5)
    one, other = (V(x, 0.8, 0.2, {"scale": scale}) for scale in (2.0, 3.0))
    assert (jnp.abs(one - other) > 0.01).all()
    with pytest.raises(TypeError):
        V(x, 0.8, 0.2)


def test_extended_source_marks_the_second_task_by_its_time():
    seen = []
    V = flowmap.extended_source(lambda x, s, t, cond: seen.append((float(s), float(t), cond)) or x)
    V(jnp.ones((1, 2)), 0.25, 0.5, "cond")
    assert seen == [(-0.25, 0.5, "cond")]


@pytest.mark.parametrize("time", [0.7, np.full((3, 1), 0.7, np.float32)])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_dtypes_are_those_of_the_data(dtype, time):
    with jax.enable_x64(True):
        for name, wrap in CALLED.items():
            calls = []
            V = wrap(lambda *args, calls=calls: calls.append(args) or network(*args))
            value = jax.eval_shape(lambda x, V=V: V(x, time, 0.2, {"scale": 2.0}), jax.ShapeDtypeStruct((3, 2), dtype))
            (x, *times, _) = calls[0]
            assert value.dtype == x.dtype == dtype and value.shape == (3, 2), name
            # Times are float32 (or Python's) whatever the data; a float64 would win over float32 here.
            assert all(jnp.result_type(each, jnp.float32) == jnp.float32 for each in times)
            assert all(jnp.result_type(each) != jnp.bfloat16 for each in times)


def test_derivatives_are_finite_at_the_ends_and_on_the_diagonal():
    @jax.jit
    def derivatives(x, s, t):
        along = (x, jnp.float32(1), jnp.float32(1))
        call = lambda V: lambda x, s, t: V(x, s, t, {"scale": 2.0})
        return {name: jax.jvp(call(wrap(network)), (x, s, t), along) for name, wrap in CALLED.items()}

    for s, t in ((1.0, 0.0), (1.0, 1.0), (0.0, 0.0), (0.5, 0.5), (0.0, 1.0)):
        for name, pair in derivatives(jnp.full((3, 2), 0.5), jnp.float32(s), jnp.float32(t)).items():
            assert np.isfinite(pair).all(), (name, s, t)


@pytest.mark.parametrize("field", ["s", "t"])
def test_times_of_the_wrong_rank(field):
    times = {"s": 0.8, "t": 0.2} | {field: jnp.zeros(4)}
    for name in CALLED.keys() - {"velocity", "extended_source"}:
        with pytest.raises(typing.InputError, match=rf"{name.split()[0]}: {field} has shape.*flowjax\.times\.expand"):
            CALLED[name](network)(jnp.zeros((4, 2)), times["s"], times["t"], {"scale": 2.0})
