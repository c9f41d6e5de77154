"""Every method as a pair: `(prediction, target)`, both of the shape of `x`, to be scored by a distance.

Callables come first, then arrays in the order x, s, t, v, a, then keyword-only hyperparameters. One file per rule:
`diagonal` (the anchor V(x, s, s) = v), `eulerian` (the source moves), `lagrangian` (the target moves).
"""

from flowjax.losses.diagonal import flow_matching
from flowjax.losses.eulerian import improved_meanflow, meanflow, soflow
from flowjax.losses.lagrangian import terminal_velocity

__all__ = ["flow_matching", "improved_meanflow", "meanflow", "soflow", "terminal_velocity"]
