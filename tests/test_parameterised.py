"""Networks of every parameterisation, and derivatives in float32 of networks in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import rows, small

from flowjax import derivatives, flowmap, models, typing
from flowjax.training import networks, runs, sharding

ONE = jax.devices()[:1]


@pytest.mark.parametrize("parameterisation", flowmap.PARAMETERISATIONS)
@pytest.mark.parametrize("name", ["mlp", pytest.param("dit", marks=pytest.mark.slow)])
def test_networks_of_any_parameterisation(name, parameterisation):
    shape, x = ((8, 8, 1), jnp.ones((3, 8, 8, 1))) if name == "dit" else ((2,), jnp.ones((3, 2)))
    net = models.make(name, num_classes=4, parameterisation=parameterisation, width=16, depth=1)
    raw = models.make(name, num_classes=4, width=16, depth=1)
    cond = {"label": jnp.arange(3)}
    params = jax.tree.map(lambda p: p + 0.05, net.init(jax.random.key(0), x, 0.8, 0.2, cond)["params"])
    raw_params = params if parameterisation == "velocity" else params["net"]
    N = lambda x, s, t, cond: raw.apply({"params": raw_params}, x, s, t, cond)
    expected = flowmap.PARAMETERISATIONS[parameterisation](N)(x, 0.8, 0.2, cond)
    np.testing.assert_allclose(net.apply({"params": params}, x, 0.8, 0.2, cond), expected, rtol=1e-6)
    assert expected.shape == (3, *shape)


def test_an_unknown_parameterisation():
    with pytest.raises(typing.InputError, match="unknown parameterisation 'edn'; did you mean edm"):
        models.make("mlp", parameterisation="edn")


@pytest.mark.slow
@pytest.mark.parametrize("parameterisation", ["velocity", "denoised_field"])
def test_a_tangent_in_float32_of_a_network_in_bfloat16(parameterisation):
    """`jvp=float32`: what is differentiated along the path computes in float32, what is scored in bfloat16."""
    fields = {"width": 32, "depth": 2, "harmonics": 1}
    half, full = (models.make("mlp", parameterisation=parameterisation, dtype=d, **fields) for d in ("bfloat16", "float32"))
    x, u = jax.random.normal(jax.random.key(0), (2, 8, 2))
    s = jnp.full((8, 1), 0.7)
    params = full.init(jax.random.key(1), x, s, 0.2)["params"]
    params = jax.tree.map(
        lambda w: w + 0.2 * jax.random.normal(jax.random.key(2), w.shape), params
    )  # the last layer starts at zero
    of = lambda net: networks.nets(networks.Networks({"V": net}), {"V": params}, None, ()).V
    along = lambda V, jvp: jvp(lambda x, s: V(x, s, 0.2), (x, s), (u, jnp.ones_like(s)))
    primal, tangent = along(of(half), derivatives.jvp_from_name("float32"))
    np.testing.assert_array_equal(primal, of(half)(x, s, 0.2))
    np.testing.assert_allclose(tangent, along(of(full), jax.jvp)[1], atol=1e-5)
    assert np.abs(along(of(half), jax.jvp)[1] - tangent).max() > 1e-3  # which the plain derivative is not
    assert not derivatives.in_float32()


@pytest.mark.slow
def test_a_run_with_a_tangent_in_float32():
    config = small("meanflow")
    config.method.jvp = "float32"
    config.model.dtype = "bfloat16"
    run = runs.setup(config, devices=ONE)
    state, metrics = jax.jit(run.step)(run.init(), sharding.global_batch(run.mesh, rows()), run.fixed)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    assert np.isfinite(metrics["loss"])
