"""The recipe of the anchor alone."""

from flowjax import distances, typing
from flowjax.methods import recipe


def flow_matching(*, total_steps=None, times=("uniform",), path="linear", label_drop=0.1):
    """Flow matching: the anchor alone, mean squared error.

    Args:
      total_steps: unused.
      times: sampler of s; uniform in the paper.
      path: name of a path or a flowjax.paths.Path.
      label_drop: share of labels replaced by the null label; 0.1 is the habit for guidance (arXiv 2207.12598), not the paper's.

    Reference: Lipman et al. 2022 (arXiv 2210.02747).
    """
    del total_steps
    anchor = typing.Term("anchor", recipe.anchor, distances.l2)
    return recipe.method([(anchor, recipe.diagonal_times(times))], path=path, label_drop=label_drop)
