"""What torch says of small networks with random weights: python tests/network_fixtures.py, in an environment with

    pip install torch torchvision torch-fidelity==0.4.0 pytorch-fid==0.3.0 timm==1.0.31 lpips==0.1.4 transformers==4.57.1

It writes tests/network_fixtures.npz (some kB). Weights and images are drawn here from fixed seeds, by the tests again; only what torch
makes of them is kept. With --full it compares the whole Inception-v3 with torch-fidelity and pytorch-fid, and writes nothing.
"""

import pathlib
import sys

import numpy as np

from flowjax.autoencoders import rae

FILE = pathlib.Path(__file__).with_suffix(".npz")
RAE_SIZES = rae.RAESizes(
    width=16,
    depth=2,
    heads=2,
    registers=2,
    grid=5,
    pixels=42,
    decoder_width=24,
    decoder_depth=2,
    decoder_heads=2,
    decoder_hidden=40,
)
NARROW, SIDE = 16, 107  # of the small Inception: widths divided by, pixels of a side


def random_weights(shapes, seed=0):
    """Arrays under published names; activations keep their size from layer to layer."""
    rng, found = np.random.default_rng(seed), {}
    for name, shape in shapes.items():
        array = rng.standard_normal(shape) / np.sqrt(max(np.prod(shape[1:]), 1))
        if len(shape) == 1:
            array = 1 + 0.3 * array if name.endswith(("weight", "running_var", "gamma")) else 0.3 * array
        found[name] = np.abs(array).astype(np.float32) if name.endswith("running_var") else array.astype(np.float32)
    return found


def random_images(count, height, width, seed=1):
    """uint8 [count, height, width, 3]: smooth blobs with noise."""
    rng = np.random.default_rng(seed)
    waves = (
        rng.standard_normal((count, 1, 1, 3))
        + np.sin(np.arange(width) / 5)[:, None] * np.cos(np.arange(height) / 7)[:, None, None]
    )
    return np.clip(128 + 50 * waves + 30 * rng.standard_normal((count, height, width, 3)), 0, 255).astype(np.uint8)


def random_features(seed, shift=0.0):
    """float64 [200, 16], correlated."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((200, 16)) @ rng.standard_normal((16, 16)) + shift


def main():
    import torch

    torch.set_grad_enabled(False)
    if "--full" in sys.argv:
        return full()
    kept = {**inception(NARROW, SIDE), **dino(), **perceptual(), **resized(), **representation()}
    from pytorch_fid import fid_score

    moments = [(x.mean(0), np.cov(x, rowvar=False)) for x in (random_features(0), random_features(1, 0.5))]
    kept["pytorch_fid"] = fid_score.calculate_frechet_distance(*moments[0], *moments[1])
    np.savez_compressed(FILE, **kept)
    print({name: np.shape(array) for name, array in kept.items()}, FILE.stat().st_size, "bytes")


def inception(narrow, side, images=None):
    """Features of torch-fidelity's network, made narrower."""
    import torch
    from torch_fidelity import feature_extractor_inceptionv3 as module

    from flowjax.evals.networks import inception as ours

    class Small(module.FeatureExtractorInceptionV3):
        INPUT_IMAGE_SIZE = side

        def load_state_dict(self, state):
            for block in [part for part in self.modules() if isinstance(part, module.BasicConv2d)]:
                old = block.conv
                before = 3 if old.in_channels == 3 else old.in_channels // narrow
                sizes = {"kernel_size": old.kernel_size, "stride": old.stride, "padding": old.padding}
                block.conv = torch.nn.Conv2d(before, old.out_channels // narrow, bias=False, **sizes)
                block.bn = torch.nn.BatchNorm2d(old.out_channels // narrow, eps=0.001)
            self.fc = torch.nn.Linear(2048 // narrow, 1008)
            return super().load_state_dict(state, strict=False)

    state = {name: torch.tensor(array) for name, array in random_weights(ours.shapes(narrow)).items()}
    load, torch.load = torch.load, lambda *_, **__: state
    network = Small("inception", ["2048", "logits_unbiased", "logits"], "given", "float64")
    torch.load = load
    spatial = []
    network.Mixed_6d.branch1x1.register_forward_hook(
        lambda _, __, out: spatial.append(out[:, :7].permute(0, 2, 3, 1).flatten(1))
    )
    images = random_images(2, side, side) if images is None else images
    pool, unbiased, logits = network(torch.tensor(images).permute(0, 3, 1, 2))
    found = {"pool": pool, "spatial": spatial[0], "unbiased": unbiased, "logits": logits}
    return {f"inception_{name}": array.numpy().astype(np.float32) for name, array in found.items()}


def dino():
    """Class tokens of timm's DINOv2, with the position embedding interpolated as Meta's code does it."""
    import timm
    import torch

    from flowjax.evals.networks import dinov2

    sizes = dinov2.Sizes(width=16, depth=2, heads=2, grid=5, pixels=42)
    weights = {name: torch.tensor(array) for name, array in random_weights(dinov2.shapes(sizes)).items()}
    network = timm.models.vision_transformer.VisionTransformer(
        img_size=42, patch_size=14, embed_dim=16, depth=2, num_heads=2, init_values=1.0, num_classes=0, global_pool="token"
    )
    grid = weights["pos_embed"][:, 1:].reshape(1, 5, 5, 16).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, scale_factor=((3 + 0.1) / 5,) * 2, mode="bicubic")
    weights["pos_embed"] = torch.cat([weights["pos_embed"][:, :1], grid.permute(0, 2, 3, 1).reshape(1, 9, 16)], 1)
    print(network.load_state_dict(weights), network.norm.eps)
    images = torch.tensor(random_images(2, 42, 42)).permute(0, 3, 1, 2).double() / 128 - 1
    return {"dinov2": network.double().eval()(images).numpy().astype(np.float32)}


def perceptual():
    """Features of torchvision's VGG16 and distances of the package lpips, both made narrower."""
    import lpips
    import torch

    from flowjax.evals.networks import vgg

    model = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    weights = random_weights(vgg.shapes(NARROW, linear=True))
    parts = [
        part
        for slice in (model.net.slice1, model.net.slice2, model.net.slice3, model.net.slice4, model.net.slice5)
        for part in slice
    ]
    for i, conv in enumerate([part for part in parts if isinstance(part, torch.nn.Conv2d)]):
        conv.weight = torch.nn.Parameter(torch.tensor(weights[f"conv_{i}/kernel"].transpose(3, 2, 0, 1)))
        conv.bias = torch.nn.Parameter(torch.tensor(weights[f"conv_{i}/bias"]))
    for i, layer in enumerate(model.lins):
        layer.model[1].weight = torch.nn.Parameter(torch.tensor(weights[f"linear_{i}"].transpose(3, 2, 0, 1)))
    model.chns = [channels // NARROW for channels, _ in vgg.LEVELS]
    x, y = (torch.tensor(random_images(2, 37, 32, seed)).permute(0, 3, 1, 2).double() / 127.5 - 1 for seed in (1, 2))
    model = model.double().eval()
    pool = model.net(model.scaling_layer(x)).relu5_3.mean((2, 3))
    return {"vgg": pool.numpy().astype(np.float32), "lpips": model(x, y).flatten().numpy().astype(np.float32)}


def resized():
    """Images of 9 x 13 pixels at 21, and of 32 x 32 at 12, by torch-fidelity and torch."""
    import torch
    from torch_fidelity import interpolate_compat_tensorflow as tensorflow1

    found = {}
    for name, side, size in (("larger", (9, 13), 21), ("smaller", (32, 32), 12)):
        x = torch.tensor(random_images(1, *side)).permute(0, 3, 1, 2).float()
        scaled = torch.nn.functional.interpolate
        made = {
            "tensorflow1": tensorflow1.interpolate_bilinear_2d_like_tensorflow1x(x, (size, size), align_corners=False),
            "half_pixel": scaled(x, (size, size), mode="bilinear", align_corners=False),
            "bicubic": scaled(x, (size, size), mode="bicubic", antialias=True),
        }
        found |= {f"{key}_{name}": array.permute(0, 2, 3, 1).numpy() for key, array in made.items()}
    return found


def representation():
    """Latents and images of a representation autoencoder made of transformers' DINOv2 with registers and ViT-MAE's layers.

    The order of the decoder's operations is that of bytetriper/RAE's decoder.py.
    """
    import torch
    import transformers
    from transformers.models.vit_mae import modeling_vit_mae

    sizes, interpolate = RAE_SIZES, torch.nn.functional.interpolate
    state = lambda part, seed: {n: torch.tensor(a) for n, a in random_weights(rae.shapes(part, sizes), seed).items()}
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=70, patch_size=14, num_register_tokens=2
    )
    encoder = transformers.Dinov2WithRegistersModel(config)
    print(encoder.load_state_dict(state("encoder", 0), strict=False), config.layer_norm_eps)
    encoder.layernorm = torch.nn.LayerNorm(16, eps=config.layer_norm_eps, elementwise_affine=False)
    mean, deviation = (torch.tensor(numbers).view(1, 3, 1, 1).double() for numbers in (rae.MEAN, rae.DEVIATION))
    x = torch.tensor(random_images(2, 48, 48)).permute(0, 3, 1, 2).double() / 255
    x = (interpolate(x, size=(42, 42), mode="bicubic", align_corners=False) - mean) / deviation
    z = encoder.double().eval()(x).last_hidden_state[:, 3:]

    config = transformers.ViTMAEConfig(
        hidden_size=24, num_attention_heads=2, intermediate_size=40, hidden_act="gelu", layer_norm_eps=1e-12,
        attn_implementation="eager",
    )  # fmt: skip
    w = {name: array.double() for name, array in state("decoder", 1).items()}
    linear = lambda name, x: x @ w[f"{name}.weight"].T + w[f"{name}.bias"]
    h = torch.cat([w["trainable_cls_token"].expand(2, -1, -1), linear("decoder_embed", z)], 1) + w["decoder_pos_embed"]
    for i in range(2):
        layer = modeling_vit_mae.ViTMAELayer(config).double().eval()
        prefix = f"decoder_layers.{i}."
        layer.load_state_dict({name[len(prefix) :]: array for name, array in w.items() if name.startswith(prefix)})
        h = layer(h)
        h = h[0] if isinstance(h, tuple) else h
    h = torch.nn.functional.layer_norm(h, (24,), w["decoder_norm.weight"], w["decoder_norm.bias"], 1e-12)
    patches = linear("decoder_pred", h)[:, 1:].reshape(2, 3, 3, 16, 16, 3)
    images = torch.einsum("nhwpqc->nchpwq", patches).reshape(2, 3, 48, 48) * deviation + mean
    return {
        "rae_latents": z.reshape(2, 3, 3, 16).numpy().astype(np.float32),
        "rae_images": (images[:, :, ::8, ::8] * 2 - 1).permute(0, 2, 3, 1).numpy().astype(np.float32),
    }


def full():
    """The whole Inception-v3 with random weights against both ports, at 299 pixels."""
    import jax
    import torch
    from torch_fidelity import interpolate_compat_tensorflow as tensorflow1

    from flowjax.evals.networks import inception as ours, resizes

    arrays, images = random_weights(ours.shapes()), random_images(2, 64, 64)
    params, x = ours.weights(arrays), torch.tensor(images).permute(0, 3, 1, 2).float()
    apply = jax.jit(ours.apply)

    resized = jax.jit(lambda x: resizes.tensorflow1(x, 299))(images.astype(np.float32))
    theirs = tensorflow1.interpolate_bilinear_2d_like_tensorflow1x(x, (299, 299), align_corners=False)
    print("resize equal:", np.array_equal(resized, theirs.permute(0, 2, 3, 1).numpy()))
    found, expected = apply(params, (resized - 128) / 128), inception(1, 299, images)
    pairs = {
        "pool": found.pool,
        "spatial": found.spatial,
        "unbiased": found.logits,
        "logits": ours.biased(params, found.logits),
    }
    print("torch-fidelity:", {name: error(array, expected[f"inception_{name}"]) for name, array in pairs.items()})

    resized = jax.jit(lambda x: resizes.half_pixel(x, 299))(images.astype(np.float32))
    expected = pytorch_fid(arrays)(x / 255)[0].flatten(1).numpy()
    print("pytorch-fid:", error(apply(params, resized / 127.5 - 1).pool, expected))


def pytorch_fid(arrays):
    """The network of pytorch-fid with these weights."""
    import torch
    from pytorch_fid import inception as theirs

    state = {name: torch.tensor(array) for name, array in arrays.items()}
    state |= {f"{name[:-11]}num_batches_tracked": torch.tensor(0) for name in arrays if name.endswith("running_var")}
    theirs.load_state_dict_from_url = lambda *_, **__: state
    return theirs.InceptionV3([3]).eval()


def error(found, expected):
    """Largest relative to the size of what is expected."""
    return float(np.abs(np.asarray(found) - expected).max() / np.abs(expected).max())


if __name__ == "__main__":
    main()
