"""The representation autoencoder: DINOv2 with registers as encoder, a ViT as decoder (RAE, arXiv 2510.11690).

Read in bytetriper/RAE a4d18c4 (stage1/rae.py, encoders/dinov2.py, decoders/decoder.py) and in transformers' model of DINOv2 with registers
for facts. Latents are the encoder's last tokens, 16 x 16 x 768 of an image of 256 pixels, and are not drawn: their deviation is 0. Their
published normalisation has a mean and a variance for each place and channel: `normalisation`.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from flowjax import foreign, typing
from flowjax.autoencoders import Autoencoder, Normalisation, vision_transformer as vit
from flowjax.typing import Array

EPSILON = 1e-6  # of the encoder's norms
DECODER_EPSILON = 1e-12  # of the decoder's
VARIANCE_FLOOR = 1e-5  # added to the published variance of latents
# ImageNet's mean and deviation, of pixels in [0, 1].
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class RAESizes(NamedTuple):
    """Sizes of a representation autoencoder.

    Attributes:
      width, depth, heads: of the encoder; the width is the channels of a latent.
      registers: tokens beside the class token, which are dropped.
      patch: pixels of a side of the encoder's patches.
      grid: patches of a side for which the encoder's positions were trained.
      pixels: of a side of the images that the encoder is given; others are brought there.
      decoder_width, decoder_depth, decoder_heads, decoder_hidden: of the decoder.
      decoder_patch: pixels of a side that the decoder makes of a latent.
    """

    width: int = 768
    depth: int = 12
    heads: int = 12
    registers: int = 4
    patch: int = 14
    grid: int = 37
    pixels: int = 224
    decoder_width: int = 1152
    decoder_depth: int = 28
    decoder_heads: int = 16
    decoder_hidden: int = 4096
    decoder_patch: int = 16

    @property
    def side(self) -> int:
        """Latents of a side."""
        return self.pixels // self.patch


# DINOv2-B with the decoder ViT-XL, for images of 256 and of 512 pixels.
SIZES = {"rae": RAESizes(), "rae512": RAESizes(pixels=448)}


@functools.lru_cache(maxsize=8)
def make(sizes: RAESizes, name: str = "rae") -> Autoencoder:
    """The autoencoder of these sizes; its weights: `weights`.

    Raises:
      InputError: the sizes do not fit together.
    """
    if sizes.pixels % sizes.patch or sizes.width % sizes.heads or sizes.decoder_width % sizes.decoder_heads:
        raise typing.InputError(f"{sizes}: expected pixels in whole patches, and widths that are multiples of their heads.")
    shown = sizes.side * sizes.decoder_patch
    resize = vit.cubic(shown, sizes.pixels, sizes.pixels / shown).astype(np.float32)

    def encode(params, images):
        if images.shape[1:] != (shown, shown, 3):
            raise typing.InputError(f"{name} encodes images [B, {shown}, {shown}, 3], not {images.shape}.")
        unit = (images + 1) / 2
        x = vit.resized(resize, unit) if sizes.pixels != shown else unit
        z = encoded(
            _part(params, "encoder", name), (x - vit.along(np.float32(MEAN), x)) / vit.along(np.float32(DEVIATION), x), sizes
        )
        z = z.reshape(len(z), sizes.side, sizes.side, sizes.width)
        return jnp.concatenate([z, jnp.zeros_like(z)], axis=-1)

    def decode(params, z):
        if z.shape[1:] != (sizes.side, sizes.side, sizes.width):
            raise typing.InputError(f"{name} decodes latents [B, {sizes.side}, {sizes.side}, {sizes.width}], not {z.shape}.")
        x = vit.image(decoded(_part(params, "decoder", name), z.reshape(len(z), -1, sizes.width), sizes), sizes.decoder_patch)
        return (x * vit.along(np.float32(DEVIATION), x) + vit.along(np.float32(MEAN), x)) * 2 - 1

    return Autoencoder(name, sizes.decoder_patch, sizes.width, encode, decode, functools.partial(_init, sizes))


def encoded(params: Mapping[str, Any], x: Array, sizes: RAESizes) -> Array:
    """The encoder: images [B, pixels, pixels, 3], normalised by MEAN and DEVIATION -> tokens [B, side^2, width]."""
    x = vit.linear(params["patches"], vit.patches(x, sizes.patch)) + params["places"][None]
    first = jnp.broadcast_to(params["first"][None], (len(x), *params["first"].shape))
    x = vit.blocks(params["blocks"], jnp.concatenate([first, x], axis=1), sizes.heads, EPSILON)
    return vit.norm(None, x[:, len(params["first"]) :], EPSILON)


def decoded(params: Mapping[str, Any], z: Array, sizes: RAESizes) -> Array:
    """The decoder: tokens [B, side^2, width] -> normalised pixels of patches [B, side^2, decoder_patch^2 3]."""
    x = vit.linear(params["embed"], z)
    first = jnp.broadcast_to(params["first"][None], (len(x), *params["first"].shape))
    x = jnp.concatenate([first, x], axis=1) + params["places"][None]
    x = vit.blocks(params["blocks"], x, sizes.decoder_heads, DECODER_EPSILON)
    return vit.linear(params["pixels"], vit.norm(params["norm"], x, DECODER_EPSILON)[:, 1:])


def weights(arrays: Mapping[str, np.ndarray], sizes: RAESizes) -> dict[str, Any]:
    """Published weights as params of `make`.

    Args:
      arrays: {published name: array} of the decoder (model.pt of nyu-visionx/RAE-collections), of the encoder (transformers' DINOv2 with
        registers), of both, or of a whole RAE, whose names begin with decoder. and encoder.encoder.
      sizes: of the autoencoder.

    Returns:
      {"encoder": ..., "decoder": ...}, float32; what is not in the arrays is left out.

    Raises:
      InputError: names are missing or unknown, or a shape does not fit; the sentence names the first ones.
    """
    named = {re.sub(r"^(module|_orig_mod)\.", "", name): array for name, array in arrays.items()}
    named = {re.sub(r"^(decoder|encoder\.encoder|dinov2_with_registers)\.", "", name): array for name, array in named.items()}
    parts = {"decoder": {}, "encoder": {}}
    for name, array in named.items():
        if not name.startswith(_BESIDE):
            parts["decoder" if name.startswith(("decoder_", "trainable_cls_token")) else "encoder"][name] = array
    make_tree = {"encoder": _encoder, "decoder": _decoder}
    found = {part: make_tree[part](_checked(some, part, sizes), sizes) for part, some in parts.items() if some}
    if not found:
        raise typing.InputError("weights of a representation autoencoder: there are none in the file.")
    return found


def shapes(part: str, sizes: RAESizes) -> dict[str, tuple[int, ...]]:
    """{published name: shape} of "encoder" or "decoder"."""
    encoder = part == "encoder"
    D, hidden = (sizes.width, 4 * sizes.width) if encoder else (sizes.decoder_width, sizes.decoder_hidden)
    named: dict[str, tuple[int, ...]] = {}

    def layer(name, *shape):
        named[f"{name}.weight"], named[f"{name}.bias"] = shape, shape[:1]

    if encoder:
        named |= {
            "embeddings.cls_token": (1, 1, D), "embeddings.register_tokens": (1, sizes.registers, D),
            "embeddings.position_embeddings": (1, 1 + sizes.grid**2, D),
        }  # fmt: skip
        layer("embeddings.patch_embeddings.projection", D, 3, sizes.patch, sizes.patch)
    else:
        named |= {"trainable_cls_token": (1, 1, D), "decoder_pos_embed": (1, 1 + sizes.side**2, D)}
        layer("decoder_embed", D, sizes.width)
        layer("decoder_norm", D)
        layer("decoder_pred", 3 * sizes.decoder_patch**2, D)
    for i in range(sizes.depth if encoder else sizes.decoder_depth):
        names = _ENCODER_BLOCK if encoder else _DECODER_BLOCK
        block = f"encoder.layer.{i}" if encoder else f"decoder_layers.{i}"
        for z in ("query", "key", "value"):
            layer(f"{block}.attention.attention.{z}", D, D)
        for ours, shape in {"proj": (D, D), "norm1": (D,), "norm2": (D,), "fc1": (hidden, D), "fc2": (D, hidden)}.items():
            layer(f"{block}.{names[ours]}", *shape)
        if encoder:
            named |= {f"{block}.layer_scale{j}.lambda1": (D,) for j in (1, 2)}
    return named


def normalisation(arrays: Mapping[str, np.ndarray]) -> Normalisation:
    """The published normalisation of latents, stat.pt: "mean" and "var" of each place and channel.

    Args:
      arrays: [C, h, w] each, as flowjax.foreign.read gives them.

    Raises:
      InputError: one is missing, has another shape, or is not finite.
    """
    foreign.check_names(arrays, ("mean", "var"), "a normalisation", "; expected the file stat.pt of RAE.")
    mean, variance = (np.asarray(arrays[name], np.float32) for name in ("mean", "var"))
    if mean.ndim != 3 or mean.shape != variance.shape or not np.isfinite(mean).all() or not (variance >= 0).all():
        raise typing.InputError(
            f"a normalisation with a mean of shape {mean.shape} and a variance of shape {variance.shape}; expected finite numbers of one"
            " shape [C, h, w], and no variance below 0."
        )
    return Normalisation(mean.transpose(1, 2, 0), np.sqrt(variance.transpose(1, 2, 0) + VARIANCE_FLOOR))


_BESIDE = ("layernorm.", "embeddings.mask_token", "pooler.", "mask_token", "latent_")  # of files, and of no use here
_ENCODER_BLOCK = {"proj": "attention.output.dense", "norm1": "norm1", "norm2": "norm2", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
_DECODER_BLOCK = {
    "proj": "attention.output.dense", "norm1": "layernorm_before", "norm2": "layernorm_after", "fc1": "intermediate.dense",
    "fc2": "output.dense",
}  # fmt: skip


def _part(params: Mapping[str, Any], part: str, name: str) -> Any:
    if part not in params:
        raise typing.InputError(
            f"the weights of {name} hold no {part}; name both files: --autoencoder=DECODER,encoder=ENCODER, see docs/images.md."
        )
    return params[part]


def _checked(arrays: Mapping[str, np.ndarray], part: str, sizes: RAESizes) -> dict[str, np.ndarray]:
    """The arrays of a part, float32."""
    expected, what = shapes(part, sizes), f"the {part} of a representation autoencoder"
    foreign.check_names(arrays, expected, what, f"; expected those of {sizes}.")
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            raise typing.InputError(f"weights of {what}: {name} has shape {arrays[name].shape}, and {sizes} takes {shape}.")
    return {name: np.asarray(arrays[name], np.float32) for name in expected}


def _linear(named: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {"kernel": np.ascontiguousarray(named[f"{name}.weight"].T), "bias": named[f"{name}.bias"]}


def _norm(named: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {"scale": named[f"{name}.weight"], "bias": named[f"{name}.bias"]}


def _blocks(named: Mapping[str, np.ndarray], count: int, prefix: str, names: Mapping[str, str]) -> dict[str, Any]:
    """The weights of all blocks, stacked."""

    def block(i):
        at = f"{prefix}.{i}"
        qkv = [_linear(named, f"{at}.attention.attention.{z}") for z in ("query", "key", "value")]
        found = {"qkv": {leaf: np.concatenate([part[leaf] for part in qkv], axis=-1) for leaf in ("kernel", "bias")}}
        found |= {ours: _linear(named, f"{at}.{names[ours]}") for ours in ("proj", "fc1", "fc2")}
        found |= {ours: _norm(named, f"{at}.{names[ours]}") for ours in ("norm1", "norm2")}
        scales = {f"ls{j}": f"{at}.layer_scale{j}.lambda1" for j in (1, 2)}
        return found | {ours: named[name] for ours, name in scales.items() if name in named}

    return _stacked([block(i) for i in range(count)])


def _stacked(trees: list[dict[str, Any]]) -> dict[str, Any]:
    first = trees[0]
    return {
        name: _stacked([tree[name] for tree in trees])
        if isinstance(first[name], dict)
        else np.stack([tree[name] for tree in trees])
        for name in first
    }


def _encoder(named: Mapping[str, np.ndarray], sizes: RAESizes) -> dict[str, Any]:
    places = named["embeddings.position_embeddings"][0]
    grid = places[1:].reshape(sizes.grid, sizes.grid, -1)
    if sizes.side != sizes.grid:
        matrix = vit.antialiased_cubic(sizes.grid, sizes.side)
        grid = np.einsum("ai,bj,ijc->abc", matrix, matrix, grid).astype(np.float32)
    kernel = named["embeddings.patch_embeddings.projection.weight"].transpose(2, 3, 1, 0).reshape(-1, sizes.width)
    first = np.concatenate([named["embeddings.cls_token"][0] + places[:1], named["embeddings.register_tokens"][0]])
    return {
        "patches": {"kernel": np.ascontiguousarray(kernel), "bias": named["embeddings.patch_embeddings.projection.bias"]},
        "first": first, "places": grid.reshape(-1, sizes.width),
        "blocks": _blocks(named, sizes.depth, "encoder.layer", _ENCODER_BLOCK),
    }  # fmt: skip


def _decoder(named: Mapping[str, np.ndarray], sizes: RAESizes) -> dict[str, Any]:
    return {
        "embed": _linear(named, "decoder_embed"), "first": named["trainable_cls_token"][0], "places": named["decoder_pos_embed"][0],
        "blocks": _blocks(named, sizes.decoder_depth, "decoder_layers", _DECODER_BLOCK),
        "norm": _norm(named, "decoder_norm"), "pixels": _linear(named, "decoder_pred"),
    }  # fmt: skip


def _init(sizes: RAESizes, key: Array) -> dict[str, Any]:
    """Weights drawn with a deviation of 0.02; norms and scales begin at 1."""
    import jax

    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    arrays = {}
    for part in ("encoder", "decoder"):
        for name, shape in shapes(part, sizes).items():
            one = len(shape) == 1 and not name.endswith("bias")
            arrays[name] = np.ones(shape, np.float32) if one else 0.02 * rng.standard_normal(shape).astype(np.float32)
    return weights(arrays, sizes)
