"""A network that predicts something else than the average velocity, as a network of the average velocity."""

import flax.linen as nn

from flowjax import flowmap, typing

# Those that ask the raw network at (x, s, t) as they are, so that one pass gives both heads.
OF_BOTH_HEADS = ("velocity", "denoised_field")


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

    def both(self, x, s, t, cond=None):
        """(V, velocity at s) from one pass of a raw network with two heads, both heads by the same parameterisation.

        Raises:
          InputError: if the raw network has one head, or the parameterisation changes what the network is asked.
        """
        if not hasattr(self.net, "both"):
            raise typing.InputError(
                f"{type(self.net).__name__} has one head, and a second one for the velocity was asked for; use a network with"
                ' `both`, such as config.model.name="mit".'
            )
        if self.parameterisation not in OF_BOTH_HEADS:
            raise typing.InputError(
                f"a network with two heads cannot be parameterised as {self.parameterisation!r}, which asks the network at other"
                f" inputs or knows no velocity; use parameterisation={' or '.join(map(repr, OF_BOTH_HEADS))}."
            )
        wrap = flowmap.PARAMETERISATIONS[self.parameterisation]
        return tuple(wrap(lambda *_, head=head: head)(x, s, t, cond) for head in self.net.both(x, s, t, cond))


def two_headed(net):
    """Whether `net.both` gives V and velocity: a raw network with a second head, in a parameterisation that allows it."""
    if isinstance(net, Parameterised):
        return net.parameterisation in OF_BOTH_HEADS and two_headed(net.net)
    return hasattr(net, "both")
