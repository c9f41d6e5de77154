"""The diffusion transformer whose first blocks are conditioned on the source time, and the last ones on the target time."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flowjax import typing
from flowjax.models import dit, embeddings
from flowjax.typing import Array, Time

# Published for ImageNet at 256 pixels: 20 of 28 blocks. Of the other sizes the authors name none, see source_depth.
DECOUPLED_DIT_SIZES = {**dit.DIT_SIZES, "XL": {**dit.DIT_SIZES["XL"], "source_depth": 20}}


class DecoupledDiT(dit.DiT):
    """A DiT whose first blocks are conditioned on `s`, and the others and the last layer on `t`, by one time embedder.

    On the diagonal it is a plain diffusion transformer, so that a trained one becomes a flow map without new weights
    (`from_plain`).

    Attributes:
      source_depth: blocks that are conditioned on the source time; 0 for two thirds of all, rounded (ours).

    The other attributes are those of DiT; its sizes are DECOUPLED_DIT_SIZES.

    Reference: Lee et al. 2025, Decoupled MeanFlow (arXiv 2510.24474).
    """

    source_depth: int = 0

    @nn.compact
    def __call__(self, x: Array, s: Time, t: Time, cond=None) -> Array:
        """Images [B, H, W, C], times scalar or [B, 1, 1, 1] in [0, 1], cond a dict of [B, ...] arrays -> V like x."""
        count = _source_depth(self.source_depth, self.depth)
        h = self._tokens(x, cond)
        source, target = self._conditioning(x, s, t, cond)
        h, _ = self._blocks(count, "source_blocks")(h, source)
        if count < self.depth:
            h, _ = self._blocks(self.depth - count, "target_blocks")(h, target)
        return self._image(h, target, x)

    def _conditioning(self, x, s, t, cond):
        """Source time and target time, each with label and further inputs, ([B, width], [B, width])."""
        embed, parts = self._embed("time"), self._embed_cond(x, cond)
        return tuple(sum(parts, embed(embeddings.flatten_times(time, x))) for time in (s, t))


def from_plain(params: Mapping[str, Any], source_depth: int = 0) -> dict[str, Any]:
    """Weights of a plain DiT as those of a DecoupledDiT, with the same velocity V(x, s, s).

    Off the diagonal the two differ: the plain network's embedding of `s - t` is dropped but for its value at 0.

    Args:
      params: the tree of a trained `DiT`, `variables["params"]`, arrays.
      source_depth: as in DecoupledDiT.

    Returns:
      The tree of a DecoupledDiT with the fields of the DiT and this source_depth.

    Raises:
      InputError: if the tree is not a plain DiT's, or for a source_depth beyond the depth.

    Reference: Lee et al. 2025 (arXiv 2510.24474), the conversion of a flow model.
    """
    missing = [name for name in ("source", "gap", "blocks", "patch_in", "patch_out", "modulation") if name not in params]
    if missing:
        raise typing.InputError(
            f"from_plain: the tree has {', '.join(map(repr, params))} and lacks {', '.join(map(repr, missing))}; expected the"
            ' weights of a plain DiT, the tree below "params".'
        )
    depth = jax.tree.leaves(params["blocks"])[0].shape[0]
    count = _source_depth(source_depth, depth)
    gap = embeddings.TimeEmbedding(params["gap"]["Dense_1"]["bias"].shape[0])
    at_zero = gap.apply({"params": params["gap"]}, jnp.zeros(1))[0]
    last = params["source"]["Dense_1"]
    new = {name: value for name, value in params.items() if name not in ("source", "gap", "blocks")}
    new["time"] = {**params["source"], "Dense_1": {**last, "bias": last["bias"] + at_zero}}
    new["source_blocks"] = jax.tree.map(lambda leaf: leaf[:count], params["blocks"])
    if count < depth:
        new["target_blocks"] = jax.tree.map(lambda leaf: leaf[count:], params["blocks"])
    return new


def _source_depth(count, depth):
    """The number of blocks that are conditioned on the source time, 1..depth."""
    if not 0 <= count <= depth:
        raise typing.InputError(
            f"DecoupledDiT: source_depth is {count} and depth {depth}; expected a number of blocks from 1 to {depth}, or 0 for"
            " two thirds."
        )
    return count or max(1, round(2 * depth / 3))
