"""The average velocity from a network that predicts something else."""

import flax.linen as nn

from flowjax import flowmap, typing
from flowjax.typing import Array, Time

# Those that evaluate the raw network at (x, s, t) as they are, so that one pass gives all heads.
OF_NAMED_HEADS = ("velocity", "denoised_field")


class Parameterised(nn.Module):
    """`V(x, s, t)` from a raw network by a parameterisation of flowjax.flowmap.

    Attributes:
      net: the raw network.
      parameterisation: a key of flowjax.flowmap.PARAMETERISATIONS.
    """

    net: nn.Module
    parameterisation: str

    def __call__(self, x: Array, s: Time, t: Time, cond=None) -> Array:
        """As the raw network: x [B, ...], times scalar or [B, 1, ..., 1], cond a dict of [B, ...] arrays -> V like x."""
        return flowmap.PARAMETERISATIONS[self.parameterisation](self.net)(x, s, t, cond)

    def raw(self, x: Array, s: Time, t: Time, cond=None) -> Array:
        """What the raw network predicts, arguments as of `__call__`."""
        return self.net(x, s, t, cond)

    def features(self, y: Array, cond=None) -> Array:
        """What the backbone of a raw network of transitions makes of its observation, see flowjax.models.transition."""
        return self.net.features(y, cond)

    def answer(self, y: Array, s: Time, t: Time, cond, features: Array) -> Array:
        """V by its head, from these features."""
        return flowmap.PARAMETERISATIONS[self.parameterisation](lambda *inputs: self.net.answer(*inputs, features))(
            y, s, t, cond
        )

    def named_heads(self, x: Array, s: Time, t: Time, cond=None) -> dict[str, Array]:
        """{name: array} of all heads of the raw network from one pass, each by the same parameterisation.

        Raises:
          InputError: if the raw network has one head, or the parameterisation changes at which inputs the network is evaluated.
        """
        if not hasattr(self.net, "named_heads"):
            raise typing.InputError(
                f"{type(self.net).__name__} has one head; use a network with several where the velocity is a second one,"
                ' such as config.model.name="mit".'
            )
        if self.parameterisation not in OF_NAMED_HEADS:
            raise typing.InputError(
                f"a network with two heads cannot be parameterised as {self.parameterisation!r}, which evaluates the network at other"
                f" inputs or gives no velocity; use parameterisation={' or '.join(map(repr, OF_NAMED_HEADS))}."
            )
        wrap = flowmap.PARAMETERISATIONS[self.parameterisation]
        raw = self.net.named_heads(x, s, t, cond)
        return {name: wrap(lambda *_, head=head: head)(x, s, t, cond) for name, head in raw.items()}

    def both(self, x: Array, s: Time, t: Time, cond=None) -> tuple[Array, Array]:
        """(V, velocity at s), see `named_heads`."""
        heads = self.named_heads(x, s, t, cond)
        return heads["V"], heads["velocity"]


def heads(net: nn.Module) -> tuple[str, ...]:
    """Names of the heads of a network that one pass gives: ("V",), or the keys of `net.named_heads(x, s, t, cond)`, its HEADS."""
    if isinstance(net, Parameterised):
        return heads(net.net) if net.parameterisation in OF_NAMED_HEADS else ("V",)
    return getattr(net, "HEADS", ("V",))


def two_headed(net: nn.Module) -> bool:
    """Whether `net.both` gives V and velocity."""
    return {"V", "velocity"} <= set(heads(net))
