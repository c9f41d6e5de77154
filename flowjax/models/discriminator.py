"""A small discriminator: of points by a multi-layer perceptron, of images by convolutions; and what a trained network sees in a row."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from flowjax import conditioning, typing
from flowjax.models import dit, embeddings, mit, mlp
from flowjax.typing import Array, Time


class Discriminator(nn.Module):
    """Logits [B, 1] that rows are data: (x, t, label) -> logit. Of samples that are noised again, t says how much.

    Rows without spatial axes go through dense layers; images [B, H, W, C] through 3 x 3 convolutions, of which each after the first
    halves the sides, and the mean over what is left. No normalisation, so that a gradient penalty is of rows and not of batches; smooth, because penalties and Continuous Adversarial Flow
    Models differentiate it twice.

    Attributes:
      num_classes: labels, 0 for none.
      width: of the dense layers, or channels of the first convolution; they double with each halving.
      depth: of the layers.
      dtype: "float32" or "bfloat16", of the computation; parameters are float32.
    """

    num_classes: int = 0
    width: int = 0
    depth: int = 3
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, s: Time, t: Time, cond=None) -> Array:
        """x [B, ...], times scalar or [B, 1, ..., 1] in [0, 1]; `s` is not read -> logits [B, 1] in the dtype of x."""
        image = x.ndim == 4
        time = embeddings.harmonics(embeddings.flatten_times(t, x), 1).astype(self.dtype)
        width = self.width or (32 if image else 256)
        h = x.astype(self.dtype)
        if not image:
            h = h.reshape(len(h), -1)
        for number in range(self.depth):
            layer = (
                nn.Conv(width * 2**number, (3, 3), strides=(1 + (number > 0),) * 2, dtype=self.dtype)
                if image
                else nn.Dense(width, dtype=self.dtype)
            )
            h = layer(h)
            if number == 0:
                h = h + self._condition(time, x, cond, width).reshape(len(h), *(1,) * (h.ndim - 2), width)
            h = nn.silu(h)
        h = h.mean(axis=(1, 2)) if image else h
        return nn.Dense(1, dtype=self.dtype)(h).astype(x.dtype)

    def _condition(self, time: Array, x: Array, cond, width: int) -> Array:
        """Time and label -> [B, width]."""
        c = nn.Dense(width, use_bias=False, dtype=self.dtype, name="time")(time)
        if self.num_classes:
            label = embeddings.LabelEmbedding(self.num_classes, width, dtype=self.dtype, name="label")
            c = c + label(conditioning.value("label", cond, x))
        return c


def features(net: nn.Module, weights, x: Array, t: Time, cond=None) -> Array:
    """What a trained network makes of rows in its layers: outputs of a perceptron's layers, or of a transformer's blocks.

    Args:
      net: a network of flowjax.models.
      weights: its parameters.
      x: rows on the path, [B, ...].
      t: their times; the network is asked for its velocity there.
      cond: a dict of [B, ...] arrays, or None.

    Returns:
      [B, features]; tokens are averaged.

    Raises:
      InputError: for a network without such layers.
    """
    seen = {"capture_intermediates": _is_layer, "mutable": ["intermediates"]}
    _, state = net.apply({"params": weights}, x, t, t, cond, **seen)
    layers = jax.tree.leaves(state.get("intermediates", {}))
    if not layers:
        raise typing.InputError(
            f"features are known of perceptrons and transformers, and the network is a {type(getattr(net, 'net', net)).__name__}."
        )
    # Blocks in a scan are stacked: [depth, B, tokens, width].
    pooled = [layer if layer.ndim == 2 else jnp.moveaxis(layer.mean(axis=-2), -2, 0) for layer in layers]
    return jnp.concatenate([layer.reshape(len(x), -1).astype(x.dtype) for layer in pooled], axis=-1)


def _is_layer(module: nn.Module, method: str) -> bool:
    inside = isinstance(module, nn.Dense) and isinstance(module.parent, mlp.MLP)
    return method == "__call__" and (inside or isinstance(module, (dit.Block, mit.Block)))
