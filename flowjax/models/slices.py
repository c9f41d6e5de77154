"""Weights of which each device of a mesh holds a slice, and that a network gathers where it reads them."""

import re
from typing import Any

import flax.linen as nn
import jax
from flax import struct

# Paths of weights that are gathered block by block. Any others are gathered once, before the loss.
IN_BLOCKS = re.compile(r"(^|/)(\w*blocks|shared|average|velocity)/")
# Which dimensions of a weight are sliced, see flowjax.training.sharding.specs. Of matrices, and of stacks of them, the rows, which
# TPUs gather without laying them out anew, or the columns where the rows do not divide; the vectors of blocks stay whole.
RULES = ((rf"{IN_BLOCKS.pattern}.*(bias|scale)$", ()), (".*", ("fsdp", None)), (".*", ("fsdp",)))


class Slice(struct.PyTreeNode, nn.meta.AxisMetadata):
    """Inside of shard_map: a device's slice of a weight.

    In the place of an array among the parameters of a linen module: `self.param` gives the whole weight, by an all-gather along
    "fsdp", and the gradient is the sum over the devices, in slices likewise. Within `nn.remat` the backward pass gathers anew.

    Attributes:
      values: the slice.
      axis: the sliced dimension, counted from the last, -1, so that a scan over blocks does not change it.
      sent: dtype in which slices are sent, and summed on the way back; "": that of the values.
    """

    values: Any
    axis: int = struct.field(pytree_node=False)
    sent: str = struct.field(pytree_node=False, default="")

    def unbox(self) -> jax.Array:
        """The whole weight."""
        sent = self.values.astype(self.sent or self.values.dtype)
        return jax.lax.all_gather(sent, "fsdp", axis=self.values.ndim + self.axis, tiled=True).astype(self.values.dtype)

    def replace_boxed(self, val):
        """Another slice like this one."""
        return self.replace(values=val)

    def add_axis(self, index, params):
        """The same: a scan adds its axis in front."""
        return self

    remove_axis = add_axis
