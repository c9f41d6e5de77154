"""Networks: one call signature, times at their own door, labels, forward-mode derivatives, dtypes, sizes."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import models, typing
from flowjax.models import dit, embeddings
from flowjax.profiling import flops

NETS = {
    "mlp": (models.make("mlp", num_classes=3, width=16), (2,)),
    "dit": (models.make("dit", num_classes=3, width=16, depth=2, heads=2, patch=2), (4, 4, 1)),
}
every = pytest.mark.parametrize("name", NETS)
# Programs this small take longer to compile than to run.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def randomised(net, shape):
    """Parameters away from their zero initialisation, so that every path carries signal."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, *shape)), 1.0, 0.0)
    spread = lambda leaf: rng.standard_normal(leaf.shape) / np.sqrt(leaf.shape[-2] if leaf.ndim > 1 else 4)
    return jax.tree.map(lambda leaf: jnp.asarray(spread(leaf), leaf.dtype), shapes)


@functools.cache
def case(name):
    """The network, parameters, rows and the compiled `(params, x, s, t, label) -> V`."""
    net, shape = NETS[name]
    ask = jit(lambda params, x, s, t, label: net.apply(params, x, s, t, {"label": label}))
    return net, randomised(net, shape), jax.random.normal(jax.random.key(2), (5, *shape)), ask


@functools.cache
def output(name):
    _, params, x, ask = case(name)
    return np.asarray(ask(params, x, 0.8, 0.3, jnp.full(5, -1)))


@every
def test_times_may_be_scalars_or_columns(name):
    _, params, x, ask = case(name)
    column = lambda t: jnp.full((5,) + (1,) * (x.ndim - 1), t)
    by_column = ask(params, x, column(0.8), column(0.3), jnp.full(5, -1))
    chex.assert_shape(by_column, x.shape)
    np.testing.assert_allclose(by_column, output(name), atol=1e-6)


@every
def test_absent_label_is_the_null_label(name):
    net, params, x, ask = case(name)
    null = ask(params, x, 0.8, 0.3, jnp.full(5, -1))
    np.testing.assert_allclose(jit(net.apply)(params, x, 0.8, 0.3), null, atol=1e-6)
    assert not np.allclose(ask(params, x, 0.8, 0.3, jnp.zeros(5, int)), null)


@every
def test_output_depends_on_both_times(name):
    _, params, x, ask = case(name)
    assert not np.allclose(output(name), ask(params, x, 0.7, 0.3, jnp.full(5, -1)))
    assert not np.allclose(output(name), ask(params, x, 0.8, 0.2, jnp.full(5, -1)))


@every
def test_jvp_agrees_with_finite_differences(name):
    net, params, x, _ = case(name)
    with jax.enable_x64(True):
        params, x = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (params, x))
        wide = net.clone(dtype=jnp.float64)
        f = jit(lambda x, s: wide.apply(params, x, s, 0.3))
        v, h = jax.random.normal(jax.random.key(3), x.shape, jnp.float64), 3e-3
        _, exact = jit(lambda x, s: jax.jvp(lambda x, s: wide.apply(params, x, s, 0.3), (x, s), (v, jnp.ones_like(s))))(
            x, jnp.float64(0.8)
        )
        central = (f(x + h * v, 0.8 + h) - f(x - h * v, 0.8 - h)) / (2 * h)
        half = (f(x + h / 2 * v, 0.8 + h / 2) - f(x - h / 2 * v, 0.8 - h / 2)) / h
        # The tolerance is that of jax's attention, whose softmax is float32 whatever comes in.
        np.testing.assert_allclose(exact, (4 * half - central) / 3, rtol=1e-3, atol=1e-3)


@every
def test_bfloat16_keeps_float32_parameters_and_outputs(name):
    net, params, x, _ = case(name)
    low = net.clone(dtype=jnp.bfloat16)
    chex.assert_trees_all_equal_dtypes(params, jax.eval_shape(low.init, jax.random.key(0), x, 1.0, 0.0))
    out, tangent = jit(lambda s: jax.jvp(lambda s: low.apply(params, x, s, 0.3), (s,), (jnp.ones_like(s),)))(jnp.float32(0.8))
    assert out.dtype == x.dtype and np.isfinite(tangent).all()
    assert 0 < np.abs(out - output(name)).max() < 0.1 * np.abs(output(name)).max()


@pytest.mark.slow
@pytest.mark.parametrize("policy", dit.REMAT)
def test_remat_and_unroll_change_nothing(policy):
    net, params, x, _ = case("dit")
    gradient = lambda net: jit(jax.grad(lambda p: jnp.sum(net.apply(p, x, 0.8, 0.3) ** 2)))(params)
    reference = gradient(net)
    for other in (net.clone(remat=policy), net.clone(unroll=2)):
        chex.assert_trees_all_close(gradient(other), reference, rtol=2e-4, atol=2e-4)
    with pytest.raises(typing.InputError, match="unknown remat 'everything'"):
        gradient(net.clone(remat="everything"))


def test_what_is_recomputed_depends_on_the_platform(monkeypatch):
    assert dit.rematerialised(dit.Block, "auto") is dit.Block and models.defaults("dit")["remat"] == "auto"
    monkeypatch.setattr(dit.attention, "device_platform", lambda: "tpu")
    assert dit.rematerialised(dit.Block, "auto") is not dit.Block
    net = models.make("mit", parameterisation="denoised_field")
    assert models.without_remat(net).net.remat == "" and models.without_remat(models.make("mlp")) == models.make("mlp")


def test_between_matmuls_a_block_recomputes(monkeypatch):
    """Half the memory of a gradient for the same matmuls."""
    net = models.make("dit", width=64, depth=3, heads=4, patch=1)
    x = jax.ShapeDtypeStruct((8, 8, 8, 3), jnp.float32)
    params = jax.eval_shape(net.init, jax.random.key(0), x, 1.0, 0.0)

    def program():
        gradient = jax.grad(lambda params, x: jnp.sum(net.apply(params, x, 0.8, 0.3) ** 2))
        return jax.jit(gradient).lower(params, x).compile({"xla_backend_optimization_level": 0})

    ours = program()
    monkeypatch.setattr(jax.checkpoint_policies, "dots_saveable", jax.checkpoint_policies.everything_saveable)
    stored = program()
    assert ours.memory_analysis().temp_size_in_bytes < 0.55 * stored.memory_analysis().temp_size_in_bytes
    assert flops.count(ours.as_text()) == flops.count(stored.as_text())


def test_patches_go_back_where_they_came_from():
    net = models.make("dit", width=16, depth=1, heads=2, patch=2)
    x = jax.random.normal(jax.random.key(0), (1, 4, 6, 2))
    params = randomised(net, (4, 6, 2))
    ask = jit(lambda params, x: net.apply(params, x, 0.8, 0.3))
    out = lambda x: ask(params, x)
    # With the attention cut off, a patch of the output depends on the same patch of the input alone.
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.zeros_like(leaf) if "attention_out" in str(path) else leaf, params
    )
    moved = np.abs(out(x.at[0, 2:4, 0:2].add(1.0)) - out(x)).max(axis=(0, 3)) > 1e-6
    expected = np.zeros((4, 6), bool)
    expected[2:4, 0:2] = True
    np.testing.assert_array_equal(moved, expected)


@pytest.mark.slow
def test_guidance_scale_is_an_input_when_asked():
    net = models.make("dit", width=16, depth=1, heads=2, inputs=("guidance",))
    x = jnp.ones((2, 4, 4, 1))
    cond = {"guidance": jnp.array([1.0, 2.0])}
    params = net.init(jax.random.key(0), x, 1.0, 0.0, cond)
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    out = net.apply(params, x, 1.0, 0.0, cond)
    assert not np.allclose(out[0], out[1])
    np.testing.assert_array_equal(net.apply(params, x, 1.0, 0.0)[1], out[0])  # absent: the scale 1
    with pytest.raises(typing.InputError, match=r"cond\['guidance'\] has shape \(\), .*expected \(2,\)"):
        net.apply(params, x, 1.0, 0.0, {"guidance": 2.0})


def test_positions_are_distinct():
    positions = embeddings.grid_positions(4, 4, 16)
    assert len(np.unique(positions.round(6), axis=0)) == 16


@pytest.mark.parametrize(
    "name,fields,said",
    [
        ("dlt", {}, "did you mean dit"),
        ("dit", {"size": "XXL"}, "XL"),
        ("dit", {"widht": 3}, "did you mean width"),
    ],
)
def test_bad_names(name, fields, said):
    with pytest.raises(typing.InputError, match=said):
        models.make(name, **fields)


def test_bad_patch():
    with pytest.raises(typing.InputError, match="tile"):
        models.make("dit", patch=3).init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), 1.0, 0.0)
