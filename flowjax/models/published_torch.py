"""Published weights of torch as weights of our networks: names and layouts of the authors' modules, read in their code.

    soflow       zlab-princeton/SoFlow 3b60d60, dit.py, models.py    -> DiT
    sit          willisma/SiT 947f95b, models.py                     -> DiT, a velocity
    repa         kyungmnlee/dmf a6db0f6, models/sit.py (SiT + REPA)  -> DiT, a velocity
    dmf          kyungmnlee/dmf a6db0f6, models/dmft.py              -> DecoupledDiT
    tvm          lumalabs/tvm 82e8e5d, training/dit.py, wrapper.py   -> SemiLipschitzDiT with the input "guidance"
    alphaflow    snap-research/alphaflow b0fef77, src/training/dit.py; the wrapper, networks.py, in the copy yuanpengtu/TEMF cbec1f0 -> DiT
    facm         ali-vilab/FACM 9be03f7, ldit/lightningdit.py        -> LightningDiT

All have the names of Peebles and Xie's DiT (arXiv 2212.09748). A linear layer of torch is [out, in], a convolution [out, in, k, k].
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from flowjax import typing
from flowjax.models import embeddings

_BLOCK = {
    "modulation": "adaLN_modulation.1",
    "qkv": "attn.qkv",
    "attention_out": "attn.proj",
    "mlp_in": "mlp.fc1",
    "mlp_out": "mlp.fc2",
}
_FREQUENCIES = 256  # sines and cosines of a time
# What is beside the network in a file, and not of it.
_BESIDE = ("projectors.", "logvar_linear.", "feat_rope.")
_BESIDE_ALPHAFLOW = ("autoencoder", "are_ldm_stats_inited", "logvar_net.")  # its autoencoder and the statistics of latents
_AVERAGE = "ema_models.1.ema_model."  # of the two averages in a file of FACM the one that its authors sample


def soflow(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Weights of SoFlow's DiT as those of our DiT; V is its network, since F(x, s, t) = x + (t - s) V there, too.

    Args:
      arrays: {name: array} of the published state, "network.blocks.0.attn.qkv.weight"; "network." may be left out.

    Returns:
      The tree of `DiT(num_classes, width, depth, heads, patch)`, float32 numpy arrays.

    Raises:
      InputError: names are missing or unknown, or shapes do not fit.
    """
    names = _Names("soflow", arrays, ("network.", "module."))
    tree = _dit(names) | _embedder(names, "source", "t_embedder") | _embedder(names, "gap", "s_embedder")
    return names.whole(tree)


def sit(arrays: Mapping[str, np.ndarray], *, data_at_one: bool = True) -> dict[str, Any]:
    """Weights of a SiT as those of our DiT: a velocity V(x, s, s), whatever the target time.

    SiT's time u is 1 at the data, ours is 0: V(x, s, s) = -v(x, 1 - s). The embedding of 1 - s is linear in that of s, because
    cos(w - a) = cos w cos a + sin w sin a and sin(w - a) = sin w cos a - cos w sin a, so the first layer takes it up. Of a network that
    also learned a variance the first half of the outputs is kept.

    Args:
      arrays: {name: array} of the published state.
      data_at_one: whether the time is 1 at the data; not so with REPA.

    Returns:
      The tree of `DiT(num_classes, width, depth, heads, patch)`, whose embedding of the gap is zero.

    Raises:
      InputError: names are missing or unknown, or shapes do not fit.
    """
    names = _Names("sit" if data_at_one else "repa", arrays, ("module.",))
    tree = _dit(names) | _embedder(names, "source", "t_embedder")
    if data_at_one:
        half = _FREQUENCIES // 2
        kernel, (cos, sin) = tree["source/Dense_0/kernel"], _angles(half)
        tree["source/Dense_0/kernel"] = np.concatenate(
            [
                cos[:, None] * kernel[:half] + sin[:, None] * kernel[half:],
                sin[:, None] * kernel[:half] - cos[:, None] * kernel[half:],
            ]
        )
        tree |= {f"patch_out/{leaf}": -tree[f"patch_out/{leaf}"] for leaf in ("kernel", "bias")}
    tree |= {name.replace("source/", "gap/"): np.zeros_like(leaf) for name, leaf in tree.items() if name.startswith("source/")}
    return names.whole(tree)


def dmf(arrays: Mapping[str, np.ndarray], source_depth: int) -> dict[str, Any]:
    """Weights of a Decoupled MeanFlow as those of our DecoupledDiT; its learned log-variance is left out.

    Args:
      arrays: {name: array} of the published state.
      source_depth: blocks that see the source time; published for XL/2: 20.

    Returns:
      The tree of `DecoupledDiT(num_classes, width, depth, heads, patch, source_depth)`.

    Raises:
      InputError: names are missing or unknown, shapes do not fit, or there are not more blocks than source_depth.
    """
    names = _Names("dmf", arrays, ("module.",))
    tree = _dit(names) | _embedder(names, "time", "t_embedder")
    blocks = {name.removeprefix("blocks/"): tree.pop(name) for name in list(tree) if name.startswith("blocks/")}
    depth = len(next(iter(blocks.values())))
    if not 0 < source_depth < depth:
        raise typing.InputError(
            f"dmf: the weights have {depth} blocks, and source_depth is {source_depth}; expected fewer, at least 1."
        )
    tree |= {f"source_blocks/{name}": leaf[:source_depth] for name, leaf in blocks.items()}
    tree |= {f"target_blocks/{name}": leaf[source_depth:] for name, leaf in blocks.items()}
    return names.whole(tree)


def tvm(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Weights of Terminal Velocity Matching as those of our SemiLipschitzDiT with the input "guidance", which embeds 1 / w as theirs.

    Args:
      arrays: {name: array} of the published state, "model.blocks.0.attn.qkv.weight"; "model." may be left out.

    Returns:
      The tree of `SemiLipschitzDiT(num_classes, width, depth, heads, patch, inputs=("guidance",))`.

    Raises:
      InputError: names are missing or unknown, or shapes do not fit.
    """
    names = _Names("tvm", arrays, ("module.", "model."))
    tree = _dit(names)
    for ours, theirs in {"source": "t_embedder", "gap": "s_embedder", "guidance_scale": "guidance_embedder"}.items():
        tree |= _embedder(names, ours, theirs)
    for ours in ("q_norm", "k_norm"):
        tree[f"blocks/{ours}/scale"] = names.stacked(f"attn.{ours}.weight")
    return names.whole(tree)


def alphaflow(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Weights of AlphaFlow's DiT as those of our DiT, whose V is its network.

    Its second embedder is called that of the next noise level, and is given the difference of both, as ours is.

    Args:
      arrays: {name: array} of the published state, "model.blocks.0.attn.qkv.weight"; "model." may be left out.

    Returns:
      The tree of `DiT(num_classes, width, depth, heads, patch)`. Of networks that were trained without dropping labels the table of labels
      has one row less than ours.

    Raises:
      InputError: names are missing or unknown, or shapes do not fit.
    """
    kept = {name: array for name, array in arrays.items() if not name.startswith(_BESIDE_ALPHAFLOW)}
    names = _Names("alphaflow", kept, ("module.", "model."))
    times = {"source": "noise_labels_embedder", "gap": "noise_labels_next_embedder"}
    tree = _dit(names)
    for ours, theirs in times.items():
        tree |= _embedder(names, ours, theirs)
    return names.whole(tree)


def facm(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Weights of FACM's LightningDiT as those of ours, with V = -network: its time is 1 at the data.

    Args:
      arrays: {name: array} of the published state, "blocks.0.attn.qkv.weight", or of a file with averages, of which the second is taken.

    Returns:
      The tree of `LightningDiT(num_classes, width, depth, heads, patch)`.

    Raises:
      InputError: names are missing or unknown, as with a second embedding of time, or shapes do not fit.
    """
    average = {name.removeprefix(_AVERAGE): array for name, array in arrays.items() if name.startswith(_AVERAGE)}
    names = _Names("facm", average or arrays, ("module.",))
    tree = _dit(names, {ours: theirs for ours, theirs in _BLOCK.items() if not ours.startswith("mlp")})
    tree |= _embedder(names, "time", "t_embedder") | {"out_norm/scale": names.take("final_layer.norm_final.weight")}
    norms = {"attention_norm": "norm1", "mlp_norm": "norm2", "q_norm": "attn.q_norm", "k_norm": "attn.k_norm"}
    tree |= {f"blocks/{ours}/scale": names.stacked(f"{theirs}.weight") for ours, theirs in norms.items()}
    for leaf, name in (("kernel", "weight"), ("bias", "bias")):
        both, last = names.stacked(f"mlp.w12.{name}"), names.stacked(f"mlp.w3.{name}")
        tree |= {
            f"blocks/{ours}/{leaf}": _turned(half) for ours, half in zip(("mlp_gate", "mlp_in"), np.split(both, 2, axis=1))
        }
        tree[f"blocks/mlp_out/{leaf}"] = _turned(last)
    tree |= {f"patch_out/{leaf}": -tree[f"patch_out/{leaf}"] for leaf in ("kernel", "bias")}
    return names.whole(tree)


def _turned(stack: np.ndarray) -> np.ndarray:
    """A stack of torch's matrices or vectors as ours."""
    return stack.swapaxes(1, 2) if stack.ndim == 3 else stack


class _Names:
    """The arrays of a file, each of which must be used once."""

    def __init__(self, caller: str, arrays: Mapping[str, np.ndarray], prefixes: tuple[str, ...]) -> None:
        for prefix in prefixes:
            if arrays and all(name.startswith(prefix) for name in arrays):
                arrays = {name.removeprefix(prefix): array for name, array in arrays.items()}
        self.caller, self._left = caller, {name: array for name, array in arrays.items() if not name.startswith(_BESIDE)}
        numbers = [name.split(".")[1] for name in self._left if name.startswith("blocks.")]
        self.depth = 1 + max((int(number) for number in numbers if number.isdecimal()), default=-1)
        self._missing: list[str] = []
        if not 0 < self.depth <= len(self._left):
            self._refuse("has no blocks.0")

    def take(self, name: str) -> np.ndarray:
        if name not in self._left:
            self._missing.append(name)
            return np.zeros((1, 1), np.float32)
        return np.asarray(self._left.pop(name), np.float32)

    def linear(self, ours: str, theirs: str) -> dict[str, np.ndarray]:
        return {f"{ours}/kernel": self.take(f"{theirs}.weight").T, f"{ours}/bias": self.take(f"{theirs}.bias")}

    def stacked(self, theirs: str) -> np.ndarray:
        parts = [self.take(f"blocks.{i}.{theirs}") for i in range(self.depth)]
        self.fail_if_missing()
        if len({part.shape for part in parts}) > 1:
            self._refuse(f"has two shapes of {theirs!r} in its blocks")
        return np.stack(parts)

    def fail_if_missing(self) -> None:
        if self._missing:
            shown = ", ".join(self._missing[:4]) + (", ..." if self._missing[4:] else "")
            self._refuse(f"lacks {len(self._missing)} ({shown})")

    def whole(self, tree: dict[str, np.ndarray]) -> dict[str, Any]:
        """The nested tree, if nothing is missing and nothing is left."""
        self.fail_if_missing()
        if self._left:
            shown = ", ".join(sorted(self._left)[:4]) + (", ..." if len(self._left) > 4 else "")
            self._refuse(f"has unexpected {len(self._left)} ({shown})")
        nested: dict[str, Any] = {}
        for name, array in tree.items():
            *folders, last = name.split("/")
            node = nested
            for folder in folders:
                node = node.setdefault(folder, {})
            node[last] = np.ascontiguousarray(array)
        return nested

    def _refuse(self, why: str) -> None:
        raise typing.InputError(
            f"{self.caller}: of the published arrays the file {why}; expected the state of one network alone, with the names of its"
            " authors' code: give the part of the file that holds it, such as ema."
        )

    def refuse_shape(self, name: str, array: np.ndarray, expected: str) -> None:
        raise typing.InputError(f"{self.caller}: {name} has the shape {array.shape}; expected {expected}.")


def _dit(names: _Names, layers: Mapping[str, str] = _BLOCK) -> dict[str, np.ndarray]:
    """What all networks have, without the embeddings of times; {our name: array}, blocks stacked."""
    patches, positions = names.take("x_embedder.proj.weight"), names.take("pos_embed")
    tree = {
        "patch_in/bias": names.take("x_embedder.proj.bias"),
        "label/Embed_0/embedding": names.take("y_embedder.embedding_table.weight"),
    }
    tree |= names.linear("modulation", "final_layer.adaLN_modulation.1")
    last, bias = names.take("final_layer.linear.weight"), names.take("final_layer.linear.bias")
    for ours, theirs in layers.items():
        tree[f"blocks/{ours}/kernel"] = names.stacked(f"{theirs}.weight").swapaxes(1, 2)
        tree[f"blocks/{ours}/bias"] = names.stacked(f"{theirs}.bias")
    names.fail_if_missing()
    if patches.ndim != 4 or patches.shape[2] != patches.shape[3]:
        names.refuse_shape("x_embedder.proj.weight", patches, "[width, channels, patch, patch]")
    width, channels, patch, _ = patches.shape
    _check_positions(names, positions, width)
    tree["patch_in/kernel"] = patches.transpose(2, 3, 1, 0).reshape(-1, width)
    outputs = len(last) // (patch**2 * channels)
    if last.ndim != 2 or len(last) != outputs * patch**2 * channels or outputs not in (1, 2):
        names.refuse_shape(
            "final_layer.linear.weight", last, f"[{patch**2 * channels}, {width}], or twice as many rows with a variance"
        )
    keep = lambda leaf: leaf.reshape(patch**2, outputs, channels, -1)[:, 0].reshape(patch**2 * channels, -1)
    return tree | {"patch_out/kernel": keep(last).T, "patch_out/bias": keep(bias)[:, 0]}


def _embedder(names: _Names, ours: str, theirs: str) -> dict[str, np.ndarray]:
    return names.linear(f"{ours}/Dense_0", f"{theirs}.mlp.0") | names.linear(f"{ours}/Dense_1", f"{theirs}.mlp.2")


def _check_positions(names: _Names, positions: np.ndarray, width: int) -> None:
    """The stored positions are the fixed ones, which our network does not store."""
    side = round(positions.shape[-2] ** 0.5) if positions.ndim == 3 else 0
    if not side or positions.shape != (1, side**2, width) or width % 4:
        names.refuse_shape("pos_embed", positions, f"[1, tokens, {width}] of a square of tokens")
    if not np.allclose(positions[0], embeddings.grid_positions(side, side, width), atol=1e-4):
        raise typing.InputError(
            f"{names.caller}: pos_embed are not the fixed sines and cosines; our network has no learned positions."
        )


def _angles(half: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of the frequencies of a TimeEmbedding."""
    frequencies = np.exp(-np.log(10_000.0) * np.arange(half) / half)
    return np.cos(frequencies).astype(np.float32), np.sin(frequencies).astype(np.float32)
