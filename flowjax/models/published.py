"""Published weights as weights of our networks: `weights` of a file and a kind, a key of `KINDS`."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from flowjax import checks, foreign, opening, typing
from flowjax.models import decoupled_dit, published_torch

_LABELS = "y_embedder/embedding_table/_flax_embedding/embedding"
_PIXEL_LABELS = "y_embedder/embedding_table/embedding"  # of the pixel MeanFlow, with a leading axis of 1
EXPECTED = f"{foreign.EXPECTED}, with the names of its authors"


def meanflow_dit(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Weights of the published MeanFlow DiT as those of our DiT.

    Args:
      tree: nested dicts of arrays with the published names, possibly below "net".

    Returns:
      The tree of `DiT(num_classes, width, depth, heads, patch)`, float32 numpy arrays.

    Raises:
      InputError: for missing or unexpected leaves.

    Reference: Geng et al. 2025 (arXiv 2505.13447).
    """
    leaves = _leaves(tree)
    names = {
        **_linear("patch_in", "x_embedder/proj"),
        **_embedder("source", "t_embedder"),
        **_embedder("gap", "h_embedder"),
        "label/Embed_0/embedding": _LABELS,
        **_linear("modulation", "final_layer/adaLN_modulation/layers_1/_flax_linear"),
        **_linear("patch_out", "final_layer/linear/_flax_linear"),
    }
    layers = {
        "modulation": "adaLN_modulation/layers_1",
        "qkv": "attn/qkv",
        "attention_out": "attn/proj",
        "mlp_in": "mlp/fc1",
        "mlp_out": "mlp/fc2",
    }
    for ours, published in layers.items():
        names |= _stacked(leaves, "blocks", "blocks/layers_", _linear(ours, f"{published}/_flax_linear"))
    return _renamed("meanflow_dit", leaves, names)


def mit(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Weights of a published improved or pixel MeanFlow transformer as those of our MiT.

    Args:
      tree: nested dicts of arrays with the published names, possibly below "net"; with or without the head of the velocity. The
        table of labels has the name that it has in the improved MeanFlow's checkpoints, [rows, width], or the pixel one's, [1,
        rows, width].

    Returns:
      The tree of `MiT(num_classes, width, depth, heads, patch, head_depth, ...)`, float32 numpy arrays; without the velocity
      head it serves `__call__` alone.

    Raises:
      InputError: for missing or unexpected leaves.

    Reference: Geng et al. 2025 (arXiv 2512.02012); Lu et al. 2026 (arXiv 2601.22158).
    """
    leaves = _leaves(tree)
    names = {
        "label/Embed_0/embedding": _PIXEL_LABELS if _PIXEL_LABELS in leaves else _LABELS,
        **_embedder("gap", "h_embedder"),
        **_embedder("guidance_scale", "omega_embedder"),
        **_embedder("interval_low", "cfg_t_start_embedder"),
        **_embedder("interval_high", "cfg_t_end_embedder"),
        "class_tokens": "class_tokens",
        "guidance_tokens": "omega_tokens",
        "low_tokens": "t_min_tokens",
        "high_tokens": "t_max_tokens",
        "gap_tokens": "time_tokens",
    }
    if "pos_embed" in leaves:
        names |= {"position_embedding": "pos_embed"}
    if "x_embedder/proj1/kernel" in leaves:
        names |= _linear("patch_bottleneck", "x_embedder/proj1") | _linear("patch_in", "x_embedder/proj2")
    else:
        names |= _linear("patch_in", "x_embedder/proj")
    names |= _stacked(leaves, "shared", "shared_blocks_", _MIT_BLOCK)
    for ours, published in {"average": "u", "velocity": "v"}.items():
        if ours == "average" or any(name.startswith(("v_heads_", "v_final_layer/")) for name in leaves):
            names |= _stacked(leaves, ours, f"{published}_heads_", _MIT_BLOCK)
            names |= {f"{ours}_norm/scale": f"{published}_final_layer/norm/kernel"}
            names |= _linear(f"{ours}_out", f"{published}_final_layer/linear/_flax_linear")
    return _renamed("mit", leaves, names)


def drifting(tree: Mapping[str, Any], heads: int) -> dict[str, Any]:
    """Weights of drifting's generator as those of our DriftingDiT.

    Its rotary positions turn the features j and j + n / 2 of a head of n, ours 2 j and 2 j + 1: queries and keys are reordered.

    Args:
      tree: nested dicts of arrays with the published names, ema_params.msgpack.
      heads: of the attention.

    Returns:
      The tree of `DriftingDiT(num_classes, width, depth, heads, patch, inputs=("guidance",))`, float32 numpy arrays.

    Raises:
      InputError: for missing or unexpected leaves, or heads that do not divide the width.
    """
    leaves = _leaves(tree)
    count = sum(name.startswith("noise_embeds_") for name in leaves)
    dense = lambda ours, place: {f"{ours}/{leaf}": f"{place}/Dense_0/{leaf}" for leaf in ("kernel", "bias")}
    net, out = "LightningDiT_0", "LightningDiT_0/FinalLayer_0"
    names = {
        "label/Embed_0/embedding": "Embed_0/embedding",
        "codes": [f"noise_embeds_{i}/embedding" for i in range(count)],
        **dense("guidance_scale/Dense_0", "TimestepEmbedder_0/TorchLinear_0"),
        **dense("guidance_scale/Dense_1", "TimestepEmbedder_0/TorchLinear_1"),
        "guidance_norm/scale": "RMSNorm_0/weight",
        "position_embedding": f"{net}/pos_embed",
        "class_tokens": f"{net}/cls_embed",
        **dense("patch_in", f"{net}/TorchLinear_0"),
        **dense("class_in", f"{net}/TorchLinear_1"),
        "out_norm/scale": f"{out}/RMSNorm_0/weight",
        **dense("modulation", f"{out}/TorchLinear_0"),
        **dense("patch_out", f"{out}/TorchLinear_1"),
    }
    names |= _stacked(leaves, "blocks", f"{net}/blocks_", _DRIFTING_BLOCK)
    found = _renamed("drifting", leaves, names)
    width = found["class_in"]["bias"].shape[0]
    if width % heads or width // heads % 2:
        raise typing.InputError(f"drifting: {heads} heads do not share the width {width} in whole pairs of features.")
    n = width // heads
    order = np.stack([np.arange(n // 2), np.arange(n // 2) + n // 2], axis=1).ravel()  # of ours in theirs
    every = np.concatenate([np.arange(heads)[:, None] * n + order, np.arange(heads)[:, None] * n + order + width]).ravel()
    columns = np.concatenate([every, np.arange(2 * width, 3 * width)])
    blocks = found["blocks"]
    blocks["qkv"] = {leaf: array[..., columns] for leaf, array in blocks["qkv"].items()}
    for name in ("q_norm", "k_norm"):
        blocks[name] = {"scale": blocks[name]["scale"][..., order]}
    return found


class Kind(NamedTuple):
    """Weights that were published.

    Attributes:
      network: key of flowjax.models.MODELS.
      weights: (nested dicts of arrays with the published names, fields of the network) -> its tree.
      parameterisation: what it predicts, key of flowjax.flowmap.PARAMETERISATIONS.
    """

    network: str
    weights: Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]
    parameterisation: str = "velocity"


KINDS: dict[str, Kind] = {
    "meanflow": Kind("dit", lambda tree, fields: meanflow_dit(tree)),
    "imf": Kind("mit", lambda tree, fields: mit(tree)),
    "pmf": Kind("mit", lambda tree, fields: mit(tree), "denoised_field"),
    "soflow": Kind("dit", lambda tree, fields: published_torch.soflow(tree)),
    "sit": Kind("dit", lambda tree, fields: published_torch.sit(tree)),
    "repa": Kind("dit", lambda tree, fields: published_torch.sit(tree, data_at_one=False)),
    "dmf": Kind("decoupled_dit", lambda tree, fields: published_torch.dmf(tree, fields["source_depth"])),
    "tvm": Kind("semi_lipschitz_dit", lambda tree, fields: published_torch.tvm(tree)),
    "alphaflow": Kind("dit", lambda tree, fields: published_torch.alphaflow(tree)),
    "facm": Kind("lightning_dit", lambda tree, fields: published_torch.facm(tree)),
    "drifting": Kind("drifting_dit", lambda tree, fields: drifting(tree, fields["heads"]), "denoised_field"),
}


def weights(kind: str, path: str | pathlib.Path, network: str, fields: Mapping[str, Any], part: str = "") -> dict[str, Any]:
    """Weights of a file as those of a network of ours.

    Args:
      kind: key of KINDS.
      path: the file, see flowjax.foreign.
      network: the network that they are for, key of flowjax.models.MODELS.
      fields: its fields.
      part: what lies below this name alone, such as "ema".

    Returns:
      The tree of the network; a plain DiT's also serves a decoupled_dit.

    Raises:
      InputError: there is no such kind or file, its network is another one, or its names do not fit. Shapes are compared by the caller.
    """
    checks.member("kind of published weights", kind, KINDS)
    decoupled = (KINDS[kind].network, network) == ("dit", "decoupled_dit")
    if network != KINDS[kind].network and not decoupled:
        raise typing.InputError(f"weights of {kind!r} are of the network {KINDS[kind].network!r}, and this one is {network!r}.")
    tree = read(path, part)
    with opening.reading(path, f"the published weights of {kind}"):
        params = KINDS[kind].weights(tree, fields)
        return decoupled_dit.from_plain(params, fields["source_depth"]) if decoupled else params


def read(path: str | pathlib.Path, part: str = "") -> dict[str, Any]:
    """A file of named arrays as nested dicts.

    Args:
      path: any file that flowjax.foreign reads; names joined by "/" are nested, those of torch's modules, joined by ".", are not.
      part: what lies below this name alone, such as "ema" or "ema_params/net".

    Returns:
      Nested dicts of numpy arrays.

    Raises:
      InputError: if there is no such file, or it holds something else.
    """
    arrays = foreign.below(foreign.read(path), part)
    with opening.reading(path, EXPECTED):
        for name, array in arrays.items():
            if not np.isfinite(np.asarray(array, np.float32)).all():
                raise ValueError(f"{name!r} holds values that are not finite numbers")
        return _nested(arrays)


_MIT_BLOCK = {
    "attention_norm/scale": "norm1/kernel",
    "mlp_norm/scale": "norm2/kernel",
    **{f"{z}/kernel": f"attn/{z}_proj/_flax_linear/kernel" for z in "qkv"},
    "attention_out/kernel": "attn/out_proj/_flax_linear/kernel",
    "q_norm/scale": "attn/q_norm/kernel",
    "k_norm/scale": "attn/k_norm/kernel",
    "mlp_gate/kernel": "mlp/w1/_flax_linear/kernel",
    "mlp_in/kernel": "mlp/w3/_flax_linear/kernel",
    "mlp_out/kernel": "mlp/w2/_flax_linear/kernel",
    "attention_scale": "attn_scale",
    "mlp_scale": "mlp_scale",
}


_DRIFTING_BLOCK = {
    "attention_norm/scale": "RMSNorm_0/weight",
    "mlp_norm/scale": "RMSNorm_1/weight",
    "q_norm/scale": "Attention_0/q_norm/weight",
    "k_norm/scale": "Attention_0/k_norm/weight",
    **{
        f"{ours}/{leaf}": f"{theirs}/Dense_0/{leaf}"
        for ours, theirs in {
            "modulation": "TorchLinear_0", "qkv": "Attention_0/TorchLinear_0", "attention_out": "Attention_0/TorchLinear_1",
            "mlp_gate": "SwiGLUFFN_0/TorchLinear_0", "mlp_in": "SwiGLUFFN_0/TorchLinear_1", "mlp_out": "SwiGLUFFN_0/TorchLinear_2",
        }.items()
        for leaf in ("kernel", "bias")
    },
}  # fmt: skip


def _linear(ours, published):
    return {f"{ours}/{leaf}": f"{published}/{leaf}" for leaf in ("kernel", "bias")}


def _embedder(ours, published):
    first, last = (_linear(f"{ours}/Dense_{i}", f"{published}/mlp/layers_{2 * i}/_flax_linear") for i in (0, 1))
    return first | last


def _stacked(leaves, ours, published, names):
    """Our leaf of a scan over blocks has one published leaf a block."""
    numbers = [name.removeprefix(published).split("/")[0] for name in leaves if name.startswith(published)]
    last = max((int(number) for number in numbers if number.isdecimal()), default=-1)
    blocks = range(min(last, len(leaves)) + 1)
    return {f"{ours}/{leaf}": [f"{published}{i}/{theirs}" for i in blocks] for leaf, theirs in names.items() if blocks}


def _renamed(caller, leaves, names):
    """{our name: published name, or names to be stacked} -> our tree."""
    wanted = [one for name in names.values() for one in ([name] if isinstance(name, str) else name)]
    missing, unexpected = [name for name in wanted if name not in leaves], sorted(set(leaves) - set(wanted))
    if missing or unexpected:
        differences = [
            f"{what} {len(some)} ({', '.join(some[:4])}{', ...' if some[4:] else ''})"
            for what, some in (("lacks", missing), ("has unexpected", unexpected))
            if some
        ]
        raise typing.InputError(
            f"{caller}: of the published leaves the tree {' and '.join(differences)}; expected nested dicts of arrays with the"
            " names of the authors' flax checkpoint, the weights of one network alone."
        )
    arrays = {
        ours: _array(leaves[name]) if isinstance(name, str) else np.stack([_array(leaves[one]) for one in name])
        for ours, name in names.items()
    }
    return _nested(arrays)


def _array(leaf):
    """Kernels of patches [p, p, C, D], tokens and tables [1, n, D] are flattened to two axes, as ours are; float32."""
    leaf = np.asarray(leaf, np.float32)
    return leaf.reshape(-1, leaf.shape[-1]) if leaf.ndim > 2 else leaf


def _leaves(tree, path=""):
    """Nested dicts -> {"a/b": leaf}, without a leading "net"."""
    if not path and set(tree) == {"net"}:
        tree = tree["net"]
    leaves = {}
    for name, value in tree.items():
        full = f"{path}/{name}" if path else name
        leaves |= _leaves(value, full) if hasattr(value, "items") else {full: value}
    return leaves


def _nested(arrays):
    """{"a/b": leaf} -> nested dicts; raises ValueError for a name that is both an array and a folder of arrays."""
    tree = {}
    for name, array in arrays.items():
        *folders, last = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
            if not isinstance(node, dict):
                raise ValueError(f"the names {name!r} and {folder!r} clash")
        if last in node:
            raise ValueError(f"the name {name!r} clashes with another")
        node[last] = array
    return tree
