"""The KL autoencoder against a forward pass in numpy that consumes the published names, and the four spellings of its weights."""

import re

import jax
import numpy as np
import pytest

from flowjax import autoencoders, foreign, typing
from flowjax.autoencoders import files, kl, kl_names, rae
from tests import network_fixtures

TINY = kl.KLSizes(widths=(4, 8), blocks=1, latent=2, groups=2, attention=(1,))


def torch_weights(seed=0):
    """Random arrays with the names and the layout of diffusers."""
    rng, found = np.random.default_rng(seed), {}
    for name, (_, shape) in kl_names.expected(TINY).items():
        array = rng.standard_normal(shape) * 0.3 + (len(shape) == 1 and name.endswith("weight"))
        found[name] = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
    return found


def conv(x, w, name, stride=1, pad=1):
    """A convolution of [H, W, C] in float64, a pixel of the kernel at a time."""
    kernel = w[f"{name}.weight"]
    k = kernel.shape[-1]
    x = np.pad(x, ((0, 1), (0, 1), (0, 0)) if stride == 2 else ((pad, pad), (pad, pad), (0, 0)))
    rows, columns = ((side - k) // stride + 1 for side in x.shape[:2])
    parts = [
        x[i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (columns - 1) + 1 : stride] @ kernel[:, :, i, j].T
        for i in range(k)
        for j in range(k)
    ]
    return sum(parts) + w[f"{name}.bias"]


def norm(x, w, name):
    groups = x.reshape(-1, TINY.groups, x.shape[-1] // TINY.groups)
    y = (groups - groups.mean((0, 2), keepdims=True)) / np.sqrt(groups.var((0, 2), keepdims=True) + 1e-6)
    return y.reshape(x.shape) * w[f"{name}.weight"] + w[f"{name}.bias"]


def silu(x):
    return x / (1 + np.exp(-x))


def residual(x, w, name):
    h = conv(silu(norm(x, w, f"{name}.norm1")), w, f"{name}.conv1")
    h = conv(silu(norm(h, w, f"{name}.norm2")), w, f"{name}.conv2")
    return h + (conv(x, w, f"{name}.conv_shortcut", pad=0) if f"{name}.conv_shortcut.weight" in w else x)


def attention(x, w, name):
    h = norm(x, w, f"{name}.group_norm").reshape(-1, x.shape[-1])
    q, k, v = (h @ w[f"{name}.to_{z}.weight"].T + w[f"{name}.to_{z}.bias"] for z in "qkv")
    scores = np.exp(q @ k.T / np.sqrt(x.shape[-1]))
    h = scores / scores.sum(-1, keepdims=True) @ v
    return x + (h @ w[f"{name}.to_out.0.weight"].T + w[f"{name}.to_out.0.bias"]).reshape(x.shape)


def middle(h, w, part):
    h = residual(h, w, f"{part}.mid_block.resnets.0")
    return residual(attention(h, w, f"{part}.mid_block.attentions.0"), w, f"{part}.mid_block.resnets.1")


def end(h, w, part):
    return conv(silu(norm(h, w, f"{part}.conv_norm_out")), w, f"{part}.conv_out")


def encoded(x, w):
    h = residual(conv(x, w, "encoder.conv_in"), w, "encoder.down_blocks.0.resnets.0")
    h = conv(h, w, "encoder.down_blocks.0.downsamplers.0.conv", stride=2)
    h = residual(h, w, "encoder.down_blocks.1.resnets.0")
    h = attention(h, w, "encoder.down_blocks.1.attentions.0")
    mean, log_variance = np.split(conv(end(middle(h, w, "encoder"), w, "encoder"), w, "quant_conv", pad=0), 2, -1)
    return np.concatenate([mean, np.exp(np.clip(log_variance, -30, 20) / 2)], -1)


def decoded(z, w):
    h = middle(conv(conv(z, w, "post_quant_conv", pad=0), w, "decoder.conv_in"), w, "decoder")
    for i in (0, 1):
        h = residual(h, w, f"decoder.up_blocks.0.resnets.{i}")
        h = attention(h, w, f"decoder.up_blocks.0.attentions.{i}")
    h = conv(h.repeat(2, 0).repeat(2, 1), w, "decoder.up_blocks.0.upsamplers.0.conv")
    for i in (0, 1):
        h = residual(h, w, f"decoder.up_blocks.1.resnets.{i}")
    return end(h, w, "decoder")


def test_both_ways_agree_with_numpy():
    arrays, model = torch_weights(), kl.make(TINY)
    params, rng = kl_names.weights(arrays, TINY), np.random.default_rng(1)
    x, z = rng.uniform(-1, 1, (2, 8, 6, 3)), rng.standard_normal((2, 4, 3, 2))
    moments, images = jax.jit(model.encode)(params, x), jax.jit(model.decode)(params, z)
    assert (model.factor, moments.shape, images.shape) == (2, (2, 4, 3, 4), (2, 8, 6, 3))
    np.testing.assert_allclose(moments, [encoded(one, arrays) for one in x], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(images, [decoded(one, arrays) for one in z], rtol=1e-4, atol=1e-4)
    for call in (lambda: model.encode(params, x[:, :7]), lambda: model.decode(params, z[..., :1])):
        with pytest.raises(typing.InputError, match="kl (en|de)codes"):
            call()


def compvis(name):
    """diffusers' name -> CompVis'."""
    for ours, theirs in {
        r"resnets\.(\d)": r"block.\1", r"mid_block\.block\.0": "mid.block_1", r"mid_block\.block\.1": "mid.block_2",
        r"mid_block\.attentions\.0": "mid.attn_1", r"attentions\.(\d)": r"attn.\1", "down_blocks": "down", r"group_norm": "norm",
        r"to_out\.0": "proj_out", r"to_([qkv])": r"\1", "conv_shortcut": "nin_shortcut", "conv_norm_out": "norm_out",
        r"(down|up)samplers\.0": r"\1sample",
    }.items():  # fmt: skip
        name = re.sub(ours, theirs, name)
    return "first_stage_model." + re.sub(r"up_blocks\.(\d)", lambda found: f"up.{1 - int(found[1])}", name)


def test_four_spellings_are_the_same_weights():
    arrays = torch_weights()
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    before = lambda name: re.sub("|".join(map(re.escape, old)), lambda found: old[found[0]], name)
    in_convolutions = lambda name, a: a[:, :, None, None] if "attentions" in name and a.ndim == 2 else a

    def flax(name):
        name = re.sub(r"\.(\d+)(?=\.)", r"_\1", before(name)).replace(".", "/")
        return re.sub("/weight$", "/scale" if "norm" in name else "/kernel", name)

    kernel = lambda a: a.transpose(2, 3, 1, 0) if a.ndim == 4 else a.T
    spellings = [
        {before(name): array for name, array in arrays.items()},
        {compvis(name): in_convolutions(name, array) for name, array in arrays.items()} | {"loss.logvar": np.zeros(())},
        {flax(name): kernel(array) for name, array in arrays.items()},
    ]
    assert "first_stage_model.decoder.up.1.attn.0.proj_out.weight" in spellings[1]
    assert "encoder/mid_block/attentions_0/proj_attn/kernel" in spellings[2]
    expected = kl_names.weights(arrays, TINY)
    for spelled in spellings:
        jax.tree.map(np.testing.assert_array_equal, kl_names.weights(spelled, TINY), expected)


def test_weights_that_do_not_fit_are_one_sentence():
    arrays = torch_weights()
    first = next(iter(arrays))
    for changed, message in (
        ({name: array for name, array in arrays.items() if name != first}, f"missing are 1 .{re.escape(first)}"),
        ({**arrays, "decoder.more": np.ones(2)}, r"none is missing, not known are 1 \(decoder.more\)"),
        ({**arrays, first: arrays[first][:, :2]}, f"{re.escape(first)} has shape"),
    ):
        with pytest.raises(typing.InputError, match=message):
            kl_names.weights(changed, TINY)


@pytest.mark.parametrize(("name", "arrays", "numbers"), [("sd", 248, 83_653_863), ("flux", 244, 83_819_683)])
def test_sizes_of_the_published_networks(name, arrays, numbers):
    model, names = kl.make(kl.SIZES[name]), kl_names.expected(kl.SIZES[name])
    params = jax.eval_shape(model.init, jax.random.key(0))
    shapes = {tuple(part.key for part in path): leaf.shape for path, leaf in jax.tree.leaves_with_path(params)}
    assert (len(shapes), autoencoders.parameters(params)) == (arrays, numbers)
    assert shapes == dict(names.values())


def test_latents_are_drawn_and_normalised():
    moments = np.concatenate([np.full((2, 3, 3, 4), 2.0), np.full((2, 3, 3, 4), 0.5)], -1)
    eps = np.random.default_rng(0).standard_normal((2, 3, 3, 4))
    z = autoencoders.sample(moments, eps)
    np.testing.assert_allclose(z, 2 + 0.5 * eps, rtol=1e-6)
    for name, normalisation in autoencoders.NORMALISATIONS.items():
        np.testing.assert_allclose(normalisation.denormalise(normalisation.normalise(z)), z, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(autoencoders.NORMALISATIONS["sd"].normalise(z), z * 0.18215, rtol=1e-6)
    edm2 = autoencoders.NORMALISATIONS["edm2"]
    np.testing.assert_allclose(edm2.images_out(edm2.images_in(np.array([-1.0, 0.5]))), [-1, 0.5])
    with pytest.raises(typing.InputError, match="another autoencoder"):
        edm2.normalise(z[..., :2])
    with pytest.raises(typing.InputError, match="take noise of shape"):
        autoencoders.sample(moments, eps[..., :2])


def representation_weights():
    """{published name: array} of the encoder and of the decoder."""
    draw = lambda part, seed: network_fixtures.random_weights(rae.shapes(part, network_fixtures.RAE_SIZES), seed)
    return draw("encoder", 0), draw("decoder", 1)


def test_the_representation_autoencoder_agrees_with_torch():
    sizes, theirs = network_fixtures.RAE_SIZES, dict(np.load(network_fixtures.FILE))
    encoder, decoder = representation_weights()
    params = rae.weights(encoder | decoder, sizes)
    chosen = rae.make(sizes)
    images = network_fixtures.random_images(2, 48, 48).astype(np.float32) / 127.5 - 1
    moments = jax.jit(chosen.encode)(params, images)
    assert moments.shape == (2, 3, 3, 32) and not np.asarray(moments[..., 16:]).any()
    assert network_fixtures.error(moments[..., :16], theirs["rae_latents"]) < 1e-5
    decoded = jax.jit(chosen.decode)(params, theirs["rae_latents"])
    assert decoded.shape == (2, 48, 48, 3)
    assert network_fixtures.error(decoded[:, ::8, ::8], theirs["rae_images"]) < 1e-5


def test_representation_autoencoders_in_files(tmp_path, monkeypatch):
    sizes = network_fixtures.RAE_SIZES
    encoder, decoder = representation_weights()
    monkeypatch.setitem(rae.SIZES, "tiny", sizes)
    foreign.write(tmp_path / "decoder.safetensors", decoder)
    foreign.write(tmp_path / "encoder.safetensors", {**encoder, "layernorm.weight": np.ones(16, np.float32)})
    whole = {f"encoder.encoder.{name}": array for name, array in encoder.items()}
    foreign.write(tmp_path / "whole.safetensors", whole | {f"decoder.{name}": array for name, array in decoder.items()})
    both = files.read(f"{tmp_path}/decoder.safetensors,encoder={tmp_path}/encoder.safetensors", "tiny")
    assert both.fingerprint == files.read(tmp_path / "whole.safetensors", "tiny").fingerprint
    alone = files.read(tmp_path / "decoder.safetensors", "tiny")
    with pytest.raises(typing.InputError, match="weights of tiny hold no encoder; name both files"):
        alone.autoencoder.encode(alone.params, np.zeros((1, 48, 48, 3), np.float32))
    with pytest.raises(typing.InputError, match=r"tiny encodes images \[B, 48, 48, 3\], not \(1, 32, 32, 3\)"):
        both.autoencoder.encode(both.params, np.zeros((1, 32, 32, 3), np.float32))
    with pytest.raises(typing.InputError, match=r"tiny decodes latents \[B, 3, 3, 16\]"):
        both.autoencoder.decode(both.params, np.zeros((1, 3, 3, 8), np.float32))
    with pytest.raises(
        typing.InputError, match="the decoder of a representation autoencoder: missing are 1 .decoder_pred.bias"
    ):
        rae.weights({name: array for name, array in decoder.items() if name != "decoder_pred.bias"}, sizes)
    with pytest.raises(typing.InputError, match=r"decoder_norm.bias has shape \(3,\)"):
        rae.weights({**decoder, "decoder_norm.bias": np.zeros(3)}, sizes)
    with pytest.raises(typing.InputError, match="there are none in the file"):
        rae.weights({}, sizes)
    drawn = both.autoencoder.init(jax.random.key(0))
    assert jax.tree.map(np.shape, drawn) == jax.tree.map(np.shape, both.params)


def test_the_published_normalisation_of_representations_is_one_of_places():
    rng = np.random.default_rng(0)
    mean, variance = rng.normal(size=(4, 3, 3)), rng.uniform(0, 2, (4, 3, 3))
    chosen = rae.normalisation({"mean": mean, "var": variance})
    z = rng.normal(size=(2, 3, 3, 4)).astype(np.float32)
    expected = (z.transpose(0, 3, 1, 2) - mean) / np.sqrt(variance + 1e-5)
    np.testing.assert_allclose(chosen.normalise(z), expected.transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(chosen.denormalise(chosen.normalise(z)), z, atol=1e-5)
    with pytest.raises(typing.InputError, match="36 means and 36 deviations does not fit latents with 4 channels"):
        chosen.normalise(z[:, :2])
    with pytest.raises(typing.InputError, match="weights of a normalisation: missing are 1 .var"):
        rae.normalisation({"mean": mean})
    with pytest.raises(typing.InputError, match="no variance below 0"):
        rae.normalisation({"mean": mean, "var": -variance})


def test_sizes_of_the_published_representation_autoencoder():
    count = lambda part: sum(np.prod(shape, dtype=int) for shape in rae.shapes(part, rae.SIZES["rae"]).values())
    assert (count("encoder"), rae.SIZES["rae"].side, rae.SIZES["rae512"].side) == (86_581_248, 16, 32)
    assert rae.make(rae.SIZES["rae"]).factor * 16 == 256
