"""The transformers of later papers: derivatives, precision, heads, conditions, sizes, and what they start from."""

import functools
import types

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import models, typing
from flowjax.models import decoupled_dit, embeddings, mit, parameterised, semi_lipschitz_dit, smooth_dit
from flowjax.training import initial_weights, settings

BOTH = ("guidance", "interval")
FIELDS = {"num_classes": 3, "width": 16, "depth": 3, "heads": 2, "patch": 2}
NETS = {
    "mit": mit.MiT(**FIELDS, inputs=BOTH, head_depth=1),
    "pixel": mit.MiT(**{**FIELDS, "depth": 2}, inputs=BOTH, head_depth=1, bottleneck=4, positions="grid"),
    "decoupled": decoupled_dit.DecoupledDiT(**FIELDS, inputs=("guidance",)),
    "smooth": smooth_dit.SmoothDiT(**{**FIELDS, "depth": 2}, inputs=("guidance",), features=4),
    "semi_lipschitz": semi_lipschitz_dit.SemiLipschitzDiT(**{**FIELDS, "depth": 2}, inputs=("guidance",)),
}
SHAPE = (3, 4, 4, 2)
COND = {
    "label": jnp.array([0, 2, 1]),
    "guidance": jnp.array([1.0, 2.0, 4.0]),
    "interval": jnp.array([[0.0, 1.0], [0.2, 0.8], [0.1, 0.9]]),
}
S, T = (jnp.asarray(times).reshape(3, 1, 1, 1) for times in ([0.9, 0.7, 0.5], [0.2, 0.3, 0.5]))


# Programs this small take longer to compile than to run.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def shapes(net, method=None):
    init = lambda: net.init(jax.random.key(0), jnp.zeros(SHAPE), 1.0, 0.0, COND, method=method)
    return jax.eval_shape(init)["params"]


@functools.cache
def case(name):
    """Parameters away from their zero initialisation, so that every path carries signal, and images."""
    net, rng = NETS[name], np.random.default_rng(0)
    draw = lambda leaf: jnp.asarray(
        rng.standard_normal(leaf.shape) / np.sqrt(leaf.shape[-2] if leaf.ndim > 1 else 4), leaf.dtype
    )
    params = {"params": jax.tree.map(draw, shapes(net, "both" if hasattr(net, "both") else None))}
    return net, params, draw(jax.ShapeDtypeStruct(SHAPE, jnp.float32))


@functools.cache
def compiled(net):
    """The network, `(params, x, s, t, cond) -> V`; compiled once for the shapes above."""
    return jit(net.apply)


def asked(name):
    net, params, _ = case(name)
    return functools.partial(compiled(net), params)


@functools.cache
def gradient(net):
    """A gradient through a jvp, as terminal velocity matching takes it, with the tangent: a function of (params, x, along)."""

    def loss(params, x, along):
        V = lambda x, s, t: net.apply(params, x, s, t, COND)
        V, dV = jax.jvp(V, (x, S, T), along)
        return jnp.mean((V + (T - S) * dV - x) ** 2), dV

    return jit(jax.grad(loss, has_aux=True))


@functools.cache
def outputs(name):
    return np.asarray(asked(name)(case(name)[2], S, T, COND))


every = pytest.mark.parametrize("name", NETS)
# The two classes of blocks; the others share them, and are slow tests.
blocks = pytest.mark.parametrize("name", [n if n == "mit" else pytest.param(n, marks=pytest.mark.slow) for n in NETS])


@every
def test_the_average_velocity_is_like_x_and_of_its_row(name):
    x, V = case(name)[2], outputs(name)
    assert V.shape == x.shape and V.dtype == x.dtype and np.abs(V).max() > 0.01
    assert np.abs(asked(name)(x, S, T - 0.1, COND) - V).max() > 1e-4
    tripled = jax.tree.map(lambda leaf: jnp.repeat(leaf[1:2], 3, axis=0), (x, S, T, COND))
    np.testing.assert_allclose(asked(name)(*tripled), np.repeat(V[1:2], 3, axis=0), rtol=1e-4, atol=1e-5)


@every
def test_each_condition_counts_and_no_label_is_the_null_label(name):
    net, params, x = case(name)
    changed = {"label": jnp.array([1, 1, 2]), "guidance": 2 * COND["guidance"], "interval": COND["interval"] / 2}
    for key, other in changed.items():
        changes = np.abs(asked(name)(x, S, T, {**COND, key: other}) - outputs(name)).max() > 1e-5
        assert changes == (key != "interval" or name in ("mit", "pixel")), key
    null = asked(name)(x, S, T, {**COND, "label": jnp.full(3, -1)})
    if name == "mit":  # one program more; the embedding is the same for all
        found = jit(net.apply)(params, x, S, T, {key: value for key, value in COND.items() if key != "label"})
        np.testing.assert_allclose(null, found, rtol=1e-5, atol=1e-6)
    assert np.abs(null - outputs(name)).max() > 1e-4


def directions(x):
    return jnp.cos(jnp.arange(x.size)).reshape(x.shape), jnp.ones_like(S), -0.5 * jnp.ones_like(T)


@pytest.mark.slow
@blocks
def test_jvp_and_gradients_through_it(name):
    net, params, x = case(name)
    along = directions(x)
    found, exact = gradient(net)(params, x, along)
    move = lambda h: asked(name)(*(z + h * dz for z, dz in zip((x, S, T), along)), COND)
    central = lambda h: (move(h) - move(-h)) / (2 * h)
    scale = np.abs(exact).max()
    np.testing.assert_allclose(exact, (4 * central(0.01) - central(0.02)) / 3, atol=2e-3 * scale)
    chex.assert_tree_all_finite(found)
    unused = {path[1].key for path, leaf in jax.tree_util.tree_leaves_with_path(found) if not np.any(leaf)}
    assert unused == ({"velocity", "velocity_norm", "velocity_out"} if hasattr(net, "both") else set())
    if name in ("mit", "semi_lipschitz"):
        again, _ = gradient(net.clone(remat="nothing_saveable", unroll=2))(params, x, along)
        chex.assert_trees_all_close(
            again, found, rtol=1e-3, atol=1e-4 * max(np.abs(leaf).max() for leaf in jax.tree.leaves(found))
        )


@pytest.mark.slow
@blocks
def test_bfloat16_in_and_out(name):
    net, params, x = case(name)
    low = net.clone(dtype="bfloat16")
    chex.assert_trees_all_equal_dtypes(shapes(low), shapes(net))
    tangent = lambda x: jax.jvp(lambda s: low.apply(params, x, s, T, COND), (S,), (jnp.ones_like(S),))
    V, dV = jit(tangent)(x.astype(jnp.bfloat16))
    assert V.dtype == dV.dtype == jnp.bfloat16 and np.isfinite(dV.astype(np.float32)).all()
    error = np.abs(V.astype(np.float32) - outputs(name)).max()
    assert 0 < error < 0.1 * np.abs(outputs(name)).max()


@every
def test_under_vmap_and_without_silent_float64(name):
    net, params, x = case(name)
    one = lambda x, s, t, cond: net.apply(params, x[None], s, t, jax.tree.map(lambda c: c[None], cond))[0]
    assert jax.eval_shape(jax.vmap(one), x, S.ravel(), T.ravel(), COND).shape == x.shape
    with jax.enable_x64(True):
        ask = lambda dtype: lambda params, x: net.clone(dtype=dtype).apply(params, x, S, T, COND)
        assert jax.eval_shape(ask("float32"), params, x).dtype == jnp.float32
        assert "f64[3," not in str(jax.make_jaxpr(ask("float32"))(params, x))
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes(net)))


def test_scalar_times():
    net, params, x = case("mit")
    found = jit(net.apply)(params, x, 0.7, 0.3, COND)
    np.testing.assert_allclose(found[1], outputs("mit")[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mit", "pixel"])
def test_two_heads_in_one_pass(name):
    net, params, x = case(name)
    V, velocity = jit(functools.partial(net.apply, method="both"))(params, x, S, T, COND)
    np.testing.assert_allclose(V, outputs(name), rtol=1e-4, atol=1e-5)
    assert velocity.shape == x.shape and not np.allclose(V, velocity, atol=1e-2)
    named = jax.eval_shape(functools.partial(net.apply, method="named_heads"), params, x, S, T, COND)
    assert tuple(named) == models.heads(net) == ("V", "velocity")
    whole, alone = shapes(net, "both"), shapes(net)
    assert {part for part in whole if part not in alone} == {"velocity", "velocity_norm", "velocity_out"}
    chex.assert_trees_all_equal_shapes({part: whole[part] for part in alone}, alone)


def test_two_heads_of_denoised_fields():
    """Both by the parameterisation, from one pass."""
    D = lambda x, s, t, cond: (2 * x, 3 * x + s)

    class Raw(nn.Module):
        named_heads = lambda self, *args: dict(zip(("V", "velocity"), D(*args)))
        __call__ = lambda self, *args: D(*args)[0]

    net, x, s = models.Parameterised(Raw(), "denoised_field"), case("mit")[2], S.at[2].set(0.02)
    V, velocity = net.apply({}, x, s, 0 * T, COND, method="both")
    np.testing.assert_allclose(V, net.apply({}, x, s, 0 * T, COND), rtol=1e-6)
    np.testing.assert_allclose(velocity, (x - D(x, s, T, COND)[1]) / np.maximum(s, 0.05), rtol=1e-5)
    wrapped = models.Parameterised(NETS["pixel"], "denoised_field")
    chex.assert_trees_all_equal_shapes(shapes(wrapped, "both")["net"], shapes(NETS["pixel"], "both"))
    once = jax.make_jaxpr(lambda params: wrapped.apply(params, x, S, T, COND, method="both"))(
        {"params": {"net": case("pixel")[1]["params"]}}
    )
    assert str(once).count("scan[") == 3  # the shared blocks once, and those of each head


def test_what_has_two_heads():
    two = {"velocity": True, "denoised_field": True, "edm": False, "destination": False}
    for name, expected in two.items():
        wrapped = models.Parameterised(NETS["mit"], name)
        assert parameterised.two_headed(wrapped) is expected
        assert models.heads(wrapped) == (("V", "velocity") if expected else ("V",))
    assert parameterised.two_headed(NETS["mit"]) and not parameterised.two_headed(NETS["decoupled"])
    with pytest.raises(typing.InputError, match="cannot be parameterised as 'edm'.*'velocity' or 'denoised_field'"):
        shapes(models.Parameterised(NETS["mit"], "edm"), "both")
    with pytest.raises(typing.InputError, match="DecoupledDiT has one head"):
        shapes(models.Parameterised(NETS["decoupled"], "velocity"), "both")


def test_a_gap_is_all_that_mit_knows_of_times():
    found = asked("mit")(case("mit")[2], S - 0.1, T - 0.1, COND)
    np.testing.assert_allclose(found, outputs("mit"), rtol=1e-4, atol=1e-4)


def test_a_mit_without_conditions():
    net = mit.MiT(width=16, depth=2, heads=2, head_depth=2)
    x = jnp.zeros((2, 4, 6, 1))
    V, params = jax.eval_shape(lambda: net.init_with_output(jax.random.key(0), x, 1.0, 0.0))
    assert {name for name in params["params"] if "tokens" in name} == {"gap_tokens"} and "shared" not in params["params"]
    assert V.shape == x.shape


def test_rotary_angles_see_differences_alone():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 9, 1, 8))
    angles = embeddings.rotary_angles(np.arange(9), 8)
    turned = jit(embeddings.rotated)
    score = lambda i, j: float(np.vdot(turned(q[:, :1], angles[i : i + 1]), turned(k[:, :1], angles[j : j + 1])))
    assert score(5, 3) == pytest.approx(score(8, 6), abs=1e-5) and score(5, 3) != pytest.approx(score(3, 5), abs=1e-2)
    np.testing.assert_allclose(np.linalg.norm(turned(q, angles)), np.linalg.norm(q), rtol=1e-5)


def test_a_plain_dit_becomes_a_decoupled_one():
    plain, rng = models.DiT(**FIELDS, inputs=("guidance",)), np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), leaf.dtype), shapes(plain))
    x = case("decoupled")[2]
    expected = jit(plain.apply)({"params": params}, x, S, S, COND)
    for depth, sizes in {0: (2, 1), 1: (1, 2), 3: (3, 0)}.items():
        net = decoupled_dit.DecoupledDiT(**FIELDS, inputs=("guidance",), source_depth=depth)
        new = decoupled_dit.from_plain(params, depth)
        chex.assert_trees_all_equal_shapes(new, shapes(net))
        lengths = [len(new[f"{part}_blocks"]["qkv"]["bias"]) if f"{part}_blocks" in new else 0 for part in ("source", "target")]
        assert tuple(lengths) == sizes
        if depth == 3:
            continue  # one program less
        apply = jit(net.apply)
        np.testing.assert_allclose(apply({"params": new}, x, S, S, COND), expected, rtol=1e-5, atol=1e-5)
        assert not np.allclose(apply({"params": new}, x, S, T, COND), expected, atol=1e-3)
    with pytest.raises(typing.InputError, match="lacks 'source', 'gap', 'blocks'.*the weights of a plain DiT"):
        decoupled_dit.from_plain({"params": params})
    with pytest.raises(typing.InputError, match="source_depth is 4 and depth 3"):
        decoupled_dit.from_plain(params, 4)


def test_the_published_share_of_source_blocks():
    net = models.make("decoupled_dit", size="XL")
    found = [shapes(net)[f"{part}_blocks"]["qkv"]["bias"].shape[0] for part in ("source", "target")]
    assert found == [20, 8]


@pytest.mark.slow
def test_a_plain_dit_is_cut_where_the_size_says(monkeypatch):
    monkeypatch.setitem(decoupled_dit.DECOUPLED_DIT_SIZES, "cut", {"width": 16, "depth": 3, "heads": 4, "source_depth": 1})
    plain = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes(models.DiT(**FIELDS)))
    fields = {**models.defaults("decoupled_dit"), "size": "cut"}
    run = types.SimpleNamespace(settings=types.SimpleNamespace(model=settings.Model("dit", "velocity", (), {})), params=plain)
    started = initial_weights.weights("runs/dit", run, settings.Model("decoupled_dit", "velocity", (), fields), None)
    assert started["source_blocks"]["qkv"]["bias"].shape[0] == 1 and started["target_blocks"]["qkv"]["bias"].shape[0] == 2


@pytest.mark.slow
def test_layers_start_with_spectral_norm_one():
    net, x = NETS["semi_lipschitz"], case("semi_lipschitz")[2]
    params = jit(net.init)(jax.random.key(0), x, S, T, COND)["params"]
    for name in ("qkv", "attention_out", "mlp_in", "mlp_out"):
        np.testing.assert_allclose(np.linalg.norm(params["blocks"][name]["kernel"], 2, axis=(1, 2)), 1, rtol=1e-5)
    for name in ("source", "gap", "guidance_scale"):
        for layer in ("Dense_0", "Dense_1"):
            assert np.linalg.norm(params[name][layer]["kernel"], 2) == pytest.approx(1, abs=1e-5)
    for leaf in (*jax.tree.leaves(params["blocks"]["modulation"]), *jax.tree.leaves(params["patch_out"])):
        assert not leaf.any()
    # RMS norms of the modulations, which are zero now, have a gradient.
    assert not compiled(net)({"params": params}, x, S, T, COND).any()
    gradients, _ = gradient(net)({"params": params}, x, directions(x))
    chex.assert_tree_all_finite(gradients)
    assert gradients["params"]["patch_out"]["kernel"].any()


def test_embedders_may_start_normal_and_patches_always_do():
    """TVM's runs at w = 1.75 (256 pixels) and 2.5 (512); a spectral norm of 1 would be far from these spreads."""
    net = NETS["semi_lipschitz"].clone(embedder_init="normal")
    params = jit(net.init)(jax.random.key(0), case("semi_lipschitz")[2], S, T, COND)["params"]
    for name in ("source", "gap", "guidance_scale"):
        for layer in ("Dense_0", "Dense_1"):
            assert np.std(params[name][layer]["kernel"]) == pytest.approx(0.02, rel=0.15)
    kernel = params["patch_in"]["kernel"]
    assert np.std(kernel) == pytest.approx((2 / sum(kernel.shape)) ** 0.5, rel=0.2)
    assert np.abs(kernel).max() > (6 / sum(kernel.shape)) ** 0.5  # beyond the bound of xavier uniform
    with pytest.raises(
        typing.InputError, match="unknown embedder_init of a SemiLipschitzDiT 'spectrum'; did you mean spectral"
    ):
        jax.eval_shape(net.clone(embedder_init="spectrum").init, jax.random.key(0), case("semi_lipschitz")[2], S, T, COND)


def test_what_a_mit_starts_from():
    params = jit(functools.partial(NETS["mit"].init, method="both"))(jax.random.key(0), case("mit")[2], S, T, COND)["params"]
    spread = lambda leaf, fan_in: float(np.std(leaf) * np.sqrt(fan_in))
    assert spread(params["shared"]["q"]["kernel"], 16) == pytest.approx(0.32, rel=0.15)
    assert spread(params["velocity"]["mlp_out"]["kernel"], 42) == pytest.approx(0.32, rel=0.15)
    assert spread(params["gap"]["Dense_0"]["kernel"], 256) == pytest.approx(1, rel=0.1)
    assert spread(params["class_tokens"], 16) == pytest.approx(1, rel=0.3)
    for name in ("shared", "average", "velocity"):
        assert not params[name]["attention_scale"].any() and not params[name]["mlp_scale"].any()
    for name in ("average_out", "velocity_out"):
        assert not params[name]["kernel"].any()


def test_the_last_convolutions_of_a_smooth_dit_reach_over_the_edges_of_patches():
    """Two pixels beyond a patch, and no further: blocks carry nothing at first."""
    net = smooth_dit.SmoothDiT(width=16, depth=1, heads=2, patch=2, features=4)
    x = jnp.zeros((1, 8, 8, 1))
    params = net.init(jax.random.key(0), x, 1.0, 0.0)["params"]
    assert not net.apply({"params": params}, x + 1, 1.0, 0.0).any()  # V starts at zero
    params["last"]["kernel"] += 1.0
    V = lambda x: net.apply({"params": params}, x, 1.0, 0.0)[0, :, :, 0]
    reached = np.abs(V(x.at[0, 1, 3].set(1.0)) - V(x)) > 1e-6
    assert reached[:4, :6].all() and reached.sum() == 4 * 6


def test_the_output_grows_with_the_guidance_scale():
    net, params, x = case("semi_lipschitz")
    plain = jit(net.clone(scale_output=False).apply)(params, x, S, T, COND)
    np.testing.assert_allclose(outputs("semi_lipschitz"), plain * COND["guidance"].reshape(3, 1, 1, 1), rtol=1e-4, atol=1e-5)


def test_positions_tell_the_column_first():
    positions = embeddings.grid_positions(2, 3, 8).reshape(2, 3, 8)
    np.testing.assert_allclose(positions[1, 2, :4], [np.sin(2), np.sin(0.02), np.cos(2), np.cos(0.02)], rtol=1e-5)
    np.testing.assert_allclose(positions[1, 2, 4:], [np.sin(1), np.sin(0.01), np.cos(1), np.cos(0.01)], rtol=1e-5)


@pytest.mark.parametrize(
    "net,cond,said",
    [
        (NETS["mit"], {**COND, "interval": jnp.ones(3)}, r"cond.'interval'. has shape \(3,\), .*expected \(3, 2\)"),
        (NETS["semi_lipschitz"], {"guidance": jnp.ones((3, 1))}, r"cond.'guidance'. has shape \(3, 1\), .*expected \(3,\)"),
        (NETS["mit"].clone(patch=3), COND, "MiT: patches of 3 must tile"),
        (NETS["decoupled"].clone(patch=3), COND, "DecoupledDiT: patches of 3 must tile"),
        (NETS["semi_lipschitz"].clone(heads=3), COND, "SemiLipschitzDiT: width 16 must be a multiple of 4 and of 3 heads"),
        (NETS["mit"].clone(heads=16), COND, "width 16 must be a multiple of 2 times 16 heads"),
        (NETS["pixel"].clone(heads=8), COND, "width 16 must be a multiple of 4 times 8 heads"),
        (NETS["mit"].clone(head_depth=4), COND, "head_depth is 4 and depth 3"),
        (NETS["mit"].clone(positions="gird"), COND, "unknown positions of a MiT 'gird'; did you mean grid"),
        (NETS["decoupled"].clone(source_depth=4), COND, "source_depth is 4 and depth 3"),
    ],
)
def test_what_cannot_work_is_said(net, cond, said):
    with pytest.raises(typing.InputError, match=said):
        jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros(SHAPE), 1.0, 0.0, cond))
