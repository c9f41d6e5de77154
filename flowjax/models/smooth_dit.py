"""The DiT for small images with large patches: convolutions after the last layer, across the edges of the patches."""

import flax.linen as nn
import jax.numpy as jnp

from flowjax.models import dit, embeddings


class SmoothDiT(dit.DiT):
    """A DiT whose patches end as features of their pixels; two convolutions of these and of the pixels of x make V.

    They see two pixels beyond the edge of a patch, where the plain DiT, trained for minutes, leaves squares. The pixels of x come by
    themselves, so that tokens need not carry the noise.

    Attributes:
      features: of a pixel, after the last layer.
      others: those of DiT.

    Reference: the convolution at the end of U-ViT, against artifacts of patches (Bao et al. 2022, arXiv 2209.12152). Ours: the second
    convolution, and the pixels of x beside the features.
    """

    features: int = 16

    def _image(self, h, c, x):
        """Tokens -> V in the shape and dtype of x."""
        dtype = jnp.dtype(self.dtype)
        shift, scale = self._modulation(c)
        h = dit.dense(self.patch**2 * self.features, dtype, "patch_out")(self._norm(h) * (1 + scale) + shift)
        h = embeddings.image(h, jnp.zeros((*x.shape[:3], self.features), dtype), self.patch)
        h = nn.Conv(self.features, (3, 3), dtype=dtype, name="smooth")(jnp.concatenate([h, x.astype(dtype)], axis=-1))
        last = nn.Conv(x.shape[-1], (3, 3), dtype=dtype, kernel_init=nn.initializers.zeros, name="last")
        return last(nn.gelu(h)).astype(x.dtype)
