"""The U-Net: published size, both times, labels, dropout by rows, derivatives, dtypes, errors."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import typing
from flowjax.models import unet
from flowjax.models.unet import UNet

SMALL = UNet(channels=4, multipliers=(1,), blocks=1, attention_at=(), num_classes=3)
NET = SMALL.clone(multipliers=(1, 2), attention_at=(4,))
SHAPE = (4, 4, 4, 1)
jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)  # compiling is all that takes time here


@functools.cache
def moved(net):
    """Parameters away from their zero initialisation, so that every path carries signal."""
    cond = {"guidance": jnp.ones(1), "interval": jnp.zeros((1, 2))}
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)), 1.0, 0.0, cond)
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(tree, [jnp.asarray(0.3 * rng.standard_normal(leaf.shape), leaf.dtype) for leaf in leaves])


@functools.cache
def applied(net):
    return jit(net.apply)


@functools.cache
def along_source(net):
    """`(params, x, s, cond) -> (V, dV_ds)`."""

    def both(params, x, s, cond):
        return jax.jvp(lambda s: net.apply(params, x, s, 0.3, cond), (s,), (jnp.ones_like(s),))

    return jit(both)


def images(*shape):
    return jnp.asarray(np.random.default_rng(1).standard_normal(shape or SHAPE), jnp.result_type(float))


@functools.cache
def paths(net, shape):
    """{path: shape of a parameter}."""
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros(shape), 1.0, 0.0)
    return {"/".join(key.key for key in path[1:]): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)}


def test_initialisation():
    net = SMALL.clone(inputs=("guidance", "interval"))
    cond = {"guidance": jnp.ones(1), "interval": jnp.zeros((1, 2))}
    params = jit(net.init)(jax.random.key(0), images()[:1], 1.0, 0.0, cond)["params"]
    largest = lambda block, name: np.abs(params[block][name]["kernel"]).max()
    assert largest("middle_0", "conv_in") == pytest.approx((6 / (2 * 9 * 4)) ** 0.5, rel=0.05)
    for name, fan in (("conv_out", 2 * 9 * 4), ("attention_out", 2 * 4)):
        assert largest("middle_0", name) == pytest.approx(1e-5 * (6 / fan) ** 0.5, rel=0.2)
    for name in ("guidance_scale", "guidance_interval", "last"):
        np.testing.assert_array_equal(params[name]["kernel"], 0)
    np.testing.assert_array_equal(params["last"]["bias"], 0)  # and V with it


def test_times_and_labels():
    params, x = moved(SMALL), images()
    base = applied(SMALL)(params, x, 0.8, 0.3)
    column = lambda t: jnp.full((4, 1, 1, 1), t)
    V = lambda s, t, *label: applied(SMALL)(params, x, column(s), column(t), {"label": jnp.array(label)})
    chex.assert_shape(base, x.shape)
    np.testing.assert_allclose(V(0.8, 0.3, -1, -1, -1, -1), base, atol=1e-5)
    apart = np.abs(V(0.8, 0.3, -1, 0, 1, 2) - base).max(axis=(1, 2, 3))
    assert apart[0] < 1e-5 and apart[1:].min() > 1e-2
    for times in ((0.7, 0.3), (0.8, 0.2)):
        assert np.abs(V(*times, -1, -1, -1, -1) - base).max() > 1e-3


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_jvp_agrees_with_finite_differences():
    net = NET.clone(dtype="float64")
    params, x = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (moved(NET), images(2, 8, 8, 1)))
    v, h = jnp.asarray(np.random.default_rng(3).standard_normal(x.shape)), 1e-4

    @jit
    def f(point, tangents):
        return jax.jvp(lambda x, s, t: net.apply(params, x, s, t), point, tangents)

    at = lambda step, dx, ds, dt: (x + step * dx, jnp.float64(0.8 + step * ds), jnp.float64(0.3 + step * dt))
    for direction in ((v, 1.0, 0.0), (0 * v, 0.0, 1.0)):
        tangents = (direction[0], jnp.float64(direction[1]), jnp.float64(direction[2]))
        exact = f(at(0, *direction), tangents)[1]
        central = (f(at(h, *direction), tangents)[0] - f(at(-h, *direction), tangents)[0]) / (2 * h)
        assert np.abs(exact).max() > 1e-2
        np.testing.assert_allclose(exact, central, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_gradient_through_a_jvp_with_dropout_and_remat():
    net, x = SMALL.clone(dropout=0.3), images()
    params, cond = moved(net), {"dropout": jax.random.split(jax.random.key(5), 4)}

    def loss(both, params):
        value, tangent = both(params, x, jnp.float32(0.8), cond)
        return jnp.mean((value + 0.5 * tangent) ** 2)

    recomputing = along_source(net.clone(remat="nothing_saveable")).__wrapped__
    gradient = jit(jax.grad(functools.partial(loss, recomputing)))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert all(np.abs(layer["kernel"]).max() > 0 for layer in gradient["params"]["middle_0"].values() if "kernel" in layer)
    # Along its own direction, the gradient of the recomputing network is the slope of the loss without recomputation.
    norm = sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradient)) ** 0.5
    at = lambda h: loss(along_source(net), jax.tree.map(lambda leaf, g: leaf + h / norm * g, params, gradient))
    assert (at(1e-2) - at(-1e-2)) / 2e-2 == pytest.approx(norm, rel=0.02)


def test_dropout_masks_belong_to_rows():
    net = SMALL.clone(dropout=0.3)
    params, x, keys = moved(net), images(), jax.random.split(jax.random.key(5), 4)
    both = lambda x, keys, s=0.8: along_source(net)(params, x, jnp.float32(s), {"dropout": keys})
    once, tangent = both(x, keys)
    np.testing.assert_array_equal(both(x, keys)[0], once)
    apart = np.abs(both(x, keys.at[0].set(jax.random.key(9)))[0] - once).max(axis=(1, 2, 3))
    assert apart[0] > 1e-2 and apart[1:].max() < 1e-5
    np.testing.assert_allclose(both(x[::-1], keys[::-1])[0][::-1], once, rtol=1e-4, atol=1e-4)
    # The same mask at every time: the tangent is what two calls at other times say.
    difference = (both(x, keys, 0.82)[0] - both(x, keys, 0.78)[0]) / 0.04
    assert np.linalg.norm(tangent - difference) < 0.02 * np.linalg.norm(tangent)
    # Row by row under vmap, as in the batch.
    row = lambda x, key: net.apply(params, x[None], 0.8, 0.3, {"dropout": key[None]})[0]
    np.testing.assert_allclose(jit(jax.vmap(row))(x, keys), once, rtol=1e-4, atol=1e-4)
    without = applied(net)(params, x, 0.8, 0.3)
    np.testing.assert_array_equal(without, applied(SMALL)(params, x, 0.8, 0.3))
    assert np.abs(once - without).max(axis=(1, 2, 3)).min() > 1e-2


def test_a_dropout_mask_has_its_rate_and_differs_from_layer_to_layer():
    h, keys = jnp.ones((2, 64, 64)), jax.random.split(jax.random.key(0), 2)
    first, second = jit(lambda h, keys: [unet.dropped(h, keys, layer, 0.2) for layer in (0, 1)])(h, keys)
    np.testing.assert_allclose(np.unique(first), [0, 1.25], rtol=1e-6)
    assert abs(np.mean(first) - 1) < 0.02
    for other in (second[0], first[1]):
        assert abs(np.mean((first[0] > 0) == (other > 0)) - 0.68) < 0.03


def test_bfloat16_keeps_float32_parameters_and_outputs():
    low, params, x = SMALL.clone(dtype="bfloat16"), moved(SMALL), images()
    chex.assert_trees_all_equal_dtypes(params, jax.eval_shape(low.init, jax.random.key(0), x, 1.0, 0.0))
    out, tangent = along_source(low)(params, x, jnp.float32(0.8), {})
    reference = applied(SMALL)(params, x, 0.8, 0.3)
    assert out.dtype == x.dtype and np.isfinite(tangent).all()
    assert 0 < np.linalg.norm(out - reference) < 0.1 * np.linalg.norm(reference)


def test_statistics_of_norms_are_float32_in_bfloat16():
    """Features far from zero: their variance would be lost in bfloat16."""
    x = (100 + np.random.default_rng(0).standard_normal((2, 8, 8, 8))).astype(jnp.bfloat16)
    out, _ = jit(unet._norm(8, jnp.bfloat16, None).init_with_output)(jax.random.key(0), jnp.asarray(x))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.std(out.astype(np.float32), axis=(1, 2, 3)), 1, atol=0.02)


def test_guidance_and_interval_are_inputs_if_chosen():
    net = SMALL.clone(inputs=("guidance", "interval"))
    cond = {"guidance": jnp.array([1.0, 2.0, 1.0, 1.0]), "interval": jnp.array([[0, 1], [0, 1], [0.2, 1], [0, 0.7]])}
    params, x = moved(net), jnp.broadcast_to(images()[:1], SHAPE)
    out = applied(net)(params, x, 0.8, 0.3, cond)
    assert np.abs(out - out[:1])[1:].max(axis=(1, 2, 3)).min() > 1e-3
    zeros = {name: jax.tree.map(jnp.zeros_like, params["params"][name]) for name in ("guidance_scale", "guidance_interval")}
    out = applied(net)({"params": {**params["params"], **zeros}}, x, 0.8, 0.3, cond)
    np.testing.assert_allclose(out, jnp.broadcast_to(out[:1], SHAPE), atol=1e-5)
    # Absent: no guidance, at all times.
    with jax.disable_jit():  # two programs may round otherwise, the same operations do not
        np.testing.assert_array_equal(net.apply(params, x, 0.8, 0.3, {})[0], net.apply(params, x, 0.8, 0.3, cond)[0])


def test_published_size():
    """EDM's DDPM++ for CIFAR-10 has 55.7 M parameters: one time, no labels.

    Ours has in addition 128 rows of the MLP's first kernel, for the sines and cosines of the second time. EDM's figure includes
    a kernel 9 x 128 for augmentations, which ours has not; the round number is the same with and without it.
    """
    net = UNet()
    count = sum(np.prod(leaf.shape) for leaf in paths(net, (1, 32, 32, 3)).values())
    one_time = count - 128 * 512
    assert round(one_time / 1e6, 1) == round((one_time + 9 * 128) / 1e6, 1) == 55.7, one_time


def test_the_published_network_of_meanflow_on_cifar10():
    """Against the fields of the defaults: 2 x 128 more rows of the MLP's first kernel, and a layer of the labels."""
    ours = paths(UNet(frequencies=2, resample=(1, 3, 3, 1), last_scale=1e-5, inputs=("augmentation",)), (1, 32, 32, 3))
    assert ours["embedding_in/kernel"].shape == (512, 512) and ours["augmentation/kernel"].shape == (9, 512)
    count = sum(np.prod(leaf.shape) for leaf in ours.values())
    plain = sum(np.prod(leaf.shape) for leaf in paths(UNet(), (1, 32, 32, 3)).values())
    assert count - plain == 256 * 512 + 9 * 512 and round(count / 1e6, 1) == 55.9


def test_a_time_is_as_many_sines_and_cosines_as_wanted():
    """DDPM++ with "channel_mult_noise" 2: frequencies from 1 to 1 / 10,000, both ends, in twice as many numbers."""
    times = np.array([0.3, 0.8], np.float32)
    angles = times[:, None] * (1 / 10_000) ** (np.arange(4) / 3)
    np.testing.assert_allclose(
        SMALL.clone(frequencies=2)._features(jnp.float32, times), np.concatenate([np.cos(angles), np.sin(angles)], 1), rtol=1e-5
    )


def resampled(h, taps, up):
    """Down: every second of the filtered pixels. Up: zeros between pixels, then the filter, whose sum is 2. Zeros outside."""
    taps = np.array(taps) / np.sum(taps)
    pad = (len(taps) - 1) // 2
    for axis in (1, 2):
        h = np.moveaxis(h, axis, 0)
        n = len(h)
        if up:  # a transposed convolution: pixel i lands on 2 i + tap - pad
            out = np.zeros((2 * n, *h.shape[1:]))
            for i in range(n):
                for k, tap in enumerate(2 * taps):
                    if 0 <= 2 * i + k - pad < 2 * n:
                        out[2 * i + k - pad] += tap * h[i]
        else:
            at = lambda i, h=h, n=n: h[i] if 0 <= i < n else 0 * h[0]
            out = np.stack([sum(tap * at(2 * m + k - pad) for k, tap in enumerate(taps)) for m in range(n // 2)])
        h = np.moveaxis(out, 0, axis)
    return h


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1), (1, 2, 3, 4)])
def test_images_are_halved_and_doubled_by_the_filter(taps):
    h = np.random.default_rng(0).standard_normal((2, 6, 4, 3)).astype(np.float32)
    np.testing.assert_allclose(jax.jit(unet.halved, static_argnums=1)(h, taps), resampled(h, taps, up=False), atol=1e-5)
    np.testing.assert_allclose(jax.jit(unet.doubled, static_argnums=1)(h, taps), resampled(h, taps, up=True), atol=1e-5)


@pytest.mark.slow
def test_the_filter_is_that_of_every_block_that_resamples():
    net = NET.clone(resample=(1, 3, 3, 1))
    params, x = moved(NET), images(4, 8, 8, 1)
    seen = jit(net.apply)(params, x, 0.8, 0.3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(unet.RESAMPLINGS, "down", lambda h, taps: unet.halved(h, (1, 3, 3, 1)))
        patch.setitem(unet.RESAMPLINGS, "up", lambda h, taps: unet.doubled(h, (1, 3, 3, 1)))
        np.testing.assert_allclose(seen, jit(NET.apply)(params, x, 0.8, 0.3), atol=1e-5)
    assert np.abs(seen - applied(NET)(params, x, 0.8, 0.3)).max() > 1e-2


def test_labels_of_an_augmentation_are_added_to_the_embedding():
    """EDM: sines, cosines and a linear layer of the labels, without bias, summed before the MLP; zeros are no augmentation."""
    net = SMALL.clone(inputs=("augmentation",), last_scale=1e-5)
    params = jit(net.init)(jax.random.key(0), images()[:1], 1.0, 0.0)["params"]
    kernel = params["augmentation"]["kernel"]
    assert kernel.shape == (9, 8) and set(params["augmentation"]) == {"kernel"}
    assert np.abs(kernel).max() == pytest.approx((6 / (9 + 8)) ** 0.5, rel=0.1)
    assert np.abs(params["last"]["kernel"]).max() == pytest.approx(1e-5 * (6 / (9 * 4 + 9 * 1)) ** 0.5, rel=0.1)
    labels = np.random.default_rng(2).standard_normal((4, 9)).astype(np.float32)
    params = {**moved(SMALL)["params"], "augmentation": {"kernel": kernel}}
    out = jit(net.apply)({"params": params}, images(), 0.8, 0.3, {"augmentation": labels})
    # By the MLP's first layer they are a shift of its bias, another in each row.
    shift = labels @ kernel @ params["embedding_in"]["kernel"]
    for row in range(4):
        bias = params["embedding_in"]["bias"] + shift[row]
        shifted = {"params": {**params, "embedding_in": {**params["embedding_in"], "bias": bias}}}
        np.testing.assert_allclose(applied(SMALL)(shifted, images(), 0.8, 0.3)[row], out[row], rtol=1e-4, atol=1e-4)
    without = jit(net.apply)({"params": params}, images(), 0.8, 0.3)
    np.testing.assert_allclose(without, applied(SMALL)(moved(SMALL), images(), 0.8, 0.3), atol=1e-5)


def test_attention_stands_where_it_is_named():
    attends = lambda net, side: {name.split("/")[0] for name in paths(net, (1, side, side, 1)) if "/qkv/kernel" in name}
    assert attends(SMALL.clone(multipliers=(1, 2)), 8) == {"middle_0"}
    assert attends(NET, 8) == {"middle_0", "encoder_1_0", "decoder_1_1"}
    assert attends(NET.clone(attention_at=(8,), blocks=2), 8) == {"middle_0", "encoder_0_0", "encoder_0_1", "decoder_0_2"}
    cifar = attends(UNet(), 32)
    assert cifar == {"middle_0", *(f"encoder_1_{i}" for i in range(4)), "decoder_1_4"}


@pytest.mark.parametrize(
    "fields,shape,cond,message",
    [
        ({}, (2, 7, 8, 1), None, "multiples of 2"),
        ({"multipliers": (1, 1, 1)}, (2, 8, 6, 1), None, "halved 2 times"),
        ({}, (2, 8), None, "images"),
        ({"channels": 7}, (2, 8, 8, 1), None, "even"),
        ({"multipliers": ()}, (2, 8, 8, 1), None, "at least one multiplier"),
        ({"dropout": 1.0}, (2, 8, 8, 1), None, "below 1"),
        ({"frequencies": 0}, (2, 8, 8, 1), None, "frequencies is 0"),
        ({"resample": (1, 2, 1)}, (2, 8, 8, 1), None, r"resample \(1, 2, 1\); expected .* an even number of taps"),
        ({"inputs": ("augmentation",)}, (2, 8, 8, 1), {"augmentation": jnp.zeros((2, 6))}, r"expected \(2, 9\)"),
        ({"dropout": 0.1}, (2, 8, 8, 1), {"dropout": jax.random.key(0)}, "a row"),
        ({"dropout": 0.1}, (2, 8, 8, 1), {"dropout": jnp.zeros((2, 2), jnp.uint32)}, "typed key"),
        ({"inputs": ("interval",)}, (2, 8, 8, 1), {"interval": jnp.zeros(2)}, "interval"),
    ],
)
def test_bad_inputs(fields, shape, cond, message):
    with pytest.raises(typing.InputError, match=message):
        jax.eval_shape(lambda x: NET.clone(**fields).init(jax.random.key(0), x, 1.0, 0.0, cond), jnp.zeros(shape))
