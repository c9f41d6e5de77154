"""Published weights of KL autoencoders as ours, from the four spellings in which they are found.

encoder.down_blocks.0.resnets.1.conv1.weight         diffusers
encoder.mid_block.attentions.0.query.weight          diffusers before 0.18, attention alone
encoder.down.0.block.1.conv1.weight                  CompVis, possibly below first_stage_model
encoder/down_blocks_0/resnets_1/conv1/kernel         diffusers' Flax
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from flowjax import foreign, typing
from flowjax.autoencoders.kl import KLSizes

_OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_COMPVIS_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def weights(arrays: Mapping[str, np.ndarray], sizes: KLSizes) -> dict[str, Any]:
    """Weights of a published autoencoder as those of flowjax.autoencoders.kl.make(sizes).

    Args:
      arrays: {published name: array}, as flowjax.foreign.read gives them; see flowjax.foreign.below for a part of a file.
      sizes: of its levels.

    Returns:
      Nested dicts of float32 arrays.

    Raises:
      InputError: names are missing or unknown, or a shape does not fit; the sentence names the first ones.
    """
    theirs = {_name(name, len(sizes.widths)): _layout(name, array) for name, array in arrays.items() if not _besides(name)}
    ours = expected(sizes)
    foreign.check_names(theirs, ours, "a KL autoencoder", f"; expected those of {sizes}.")
    tree: dict[str, Any] = {}
    for name, (path, shape) in ours.items():
        array = np.asarray(theirs[name], np.float32)
        if len(shape) == 2 and array.ndim == 4 and array.shape[2:] == (1, 1):  # CompVis' attention is made of convolutions
            array = array[:, :, 0, 0]
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
        if array.shape != shape:
            raise typing.InputError(f"weights of a KL autoencoder: {name} has shape {array.shape}, and {sizes} takes {shape}.")
        node = tree
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = array
    return tree


def published(params: Mapping[str, Any], sizes: KLSizes) -> dict[str, np.ndarray]:
    """Our weights with the names and shapes of diffusers: the opposite of `weights`."""
    arrays = {}
    for name, (path, _) in expected(sizes).items():
        node: Any = params
        for part in path:
            node = node[part]
        array = np.asarray(node, np.float32)
        arrays[name] = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
    return arrays


def expected(sizes: KLSizes) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    """{diffusers' name: (path in our tree, shape in it)} of all arrays."""
    found: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {}

    def layer(theirs: str, ours: str, *shape: int) -> None:
        """A norm has the shape (C,), a linear layer (in, out), a convolution (k, k, in, out)."""
        path = tuple(ours.split("/"))
        found[f"{theirs}.weight"] = ((*path, "scale" if len(shape) == 1 else "kernel"), shape)
        found[f"{theirs}.bias"] = ((*path, "bias"), shape[-1:])

    def residual(theirs: str, ours: str, before: int, width: int) -> None:
        layer(f"{theirs}.norm1", f"{ours}/norm1", before)
        layer(f"{theirs}.conv1", f"{ours}/conv1", 3, 3, before, width)
        layer(f"{theirs}.norm2", f"{ours}/norm2", width)
        layer(f"{theirs}.conv2", f"{ours}/conv2", 3, 3, width, width)
        if before != width:
            layer(f"{theirs}.conv_shortcut", f"{ours}/shortcut", 1, 1, before, width)

    def attention(theirs: str, ours: str, width: int) -> None:
        layer(f"{theirs}.group_norm", f"{ours}/norm", width)
        for name, own in {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "out"}.items():
            layer(f"{theirs}.{name}", f"{ours}/{own}", width, width)

    widths, last, latent = sizes.widths, len(sizes.widths) - 1, sizes.latent
    for part, way, order, first, ends in (
        ("encoder", "down", widths, 3, (widths[0], 2 * latent)),
        ("decoder", "up", widths[::-1], latent, (widths[-1], 3)),
    ):
        layer(f"{part}.conv_in", f"{part}/conv_in", 3, 3, first, order[0])
        before = order[0]
        for i, width in enumerate(order):
            for j in range(sizes.blocks + (way == "up")):
                residual(f"{part}.{way}_blocks.{i}.resnets.{j}", f"{part}/{way}_{i}_block_{j}", before, width)
                before = width
                if (i if way == "down" else last - i) in sizes.attention:
                    attention(f"{part}.{way}_blocks.{i}.attentions.{j}", f"{part}/{way}_{i}_attention_{j}", width)
            if i < last:
                scaled = ("downsamplers", "half") if way == "down" else ("upsamplers", "double")
                layer(f"{part}.{way}_blocks.{i}.{scaled[0]}.0.conv", f"{part}/{way}_{i}_{scaled[1]}", 3, 3, width, width)
        for j in (0, 1):
            residual(f"{part}.mid_block.resnets.{j}", f"{part}/mid_block_{j}", widths[-1], widths[-1])
        attention(f"{part}.mid_block.attentions.0", f"{part}/mid_attention", widths[-1])
        layer(f"{part}.conv_norm_out", f"{part}/norm_out", order[-1])
        layer(f"{part}.conv_out", f"{part}/conv_out", 3, 3, order[-1], ends[1])
    if sizes.quant:
        layer("quant_conv", "quant_conv", 1, 1, 2 * latent, 2 * latent)
        layer("post_quant_conv", "post_quant_conv", 1, 1, latent, latent)
    return found


def _besides(name: str) -> bool:
    """Whether an array of a checkpoint belongs to the training of an autoencoder, or to another network beside it."""
    return name.startswith(("loss.", "model.", "cond_stage_model.", "model_ema.", "discriminator."))


def _name(name: str, levels: int) -> str:
    """Any spelling -> that of diffusers."""
    name = re.sub(r"^(first_stage_model|vae|module)\.", "", name)
    if "/" in name:  # diffusers' Flax
        name = re.sub(r"_(\d+)(?=/)", r".\1", name).replace("/", ".")
        name = re.sub(r"\.(kernel|scale)$", ".weight", name)
    name = re.sub(r"(\.attentions\.\d+)\.(query|key|value|proj_attn)\.", lambda found: f"{found[1]}.{_OLD[found[2]]}.", name)
    name = re.sub(r"\.mid\.block_([12])\.", lambda found: f".mid_block.resnets.{int(found[1]) - 1}.", name)
    name = name.replace(".mid.attn_1.", ".mid_block.attentions.0.")
    name = re.sub(r"\.down\.(\d+)\.", r".down_blocks.\1.", name)
    name = re.sub(r"\.up\.(\d+)\.", lambda found: f".up_blocks.{levels - 1 - int(found[1])}.", name)
    name = re.sub(r"(_blocks\.-?\d+)\.block\.", r"\1.resnets.", name)
    name = re.sub(r"(_blocks\.-?\d+)\.attn\.", r"\1.attentions.", name)
    name = re.sub(r"\.(down|up)sample\.conv\.", r".\1samplers.0.conv.", name)
    attention = r"(\.attentions\.\d+)\.(norm|q|k|v|proj_out)\."
    name = re.sub(attention, lambda found: f"{found[1]}.{_COMPVIS_ATTENTION[found[2]]}.", name)
    return re.sub(r"^((?:en|de)coder)\.norm_out\.", r"\1.conv_norm_out.", name.replace(".nin_shortcut.", ".conv_shortcut."))


def _layout(name: str, array: np.ndarray) -> np.ndarray:
    """Flax' kernels as torch has them: convolutions [out, in, k, k], linear layers [out, in]."""
    if not name.endswith("/kernel"):
        return array
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
