"""The recipe of the anchor alone."""

from flowjax import distances
from flowjax.methods import draws, pairs, recipe
from flowjax.paths import Path
from flowjax.times import TimeSampler
from flowjax.typing import Method, Term


def flow_matching(*, times: TimeSampler = ("uniform",), path: str | Path = "linear", label_drop: float = 0.1) -> Method:
    """Flow matching: the anchor alone, mean squared error.

    Args:
      times: sampler of s; uniform in the paper.
      label_drop: 0.1 is the habit for guidance (arXiv 2207.12598), not the paper's.

    Reference: Lipman et al. 2022 (arXiv 2210.02747).
    """
    anchor = Term("anchor", pairs.anchor, distances.l2, times=draws.diagonal_times(times))
    return recipe.method([anchor], points=draws.on_path(path), label_drop=label_drop)
