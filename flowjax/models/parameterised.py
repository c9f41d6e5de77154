"""A network that predicts something else than the average velocity, as a network of the average velocity."""

import flax.linen as nn

from flowjax import flowmap


class Parameterised(nn.Module):
    """`V(x, s, t)` from a raw network by a parameterisation of flowjax.flowmap.

    Attributes:
      net: the raw network.
      parameterisation: a key of flowjax.flowmap.PARAMETERISATIONS.
    """

    net: nn.Module
    parameterisation: str

    def __call__(self, x, s, t, cond=None):
        """As the raw network: x [B, ...], times scalar or [B, 1, ..., 1], cond a dict of [B] arrays -> V like x."""
        return flowmap.PARAMETERISATIONS[self.parameterisation](self.net)(x, s, t, cond)
