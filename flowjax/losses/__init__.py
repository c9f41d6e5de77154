"""Every method as a pair: `(prediction, target)`, both of the shape of `x`, to be scored by a distance.

Callables come first, then arrays in the order x, s, t, v, a, then keyword-only hyperparameters. One file per rule:
`diagonal` (the anchor V(x, s, s) = v), `eulerian` (the source moves), `lagrangian` (the target moves), `compositional` (two jumps
are one).
"""

from flowjax.losses.compositional import (
    flow_map_matching,
    progressive_distillation,
    progressive_flow_map_matching,
    progressive_self_distillation,
    shortcut,
    split_meanflow,
)
from flowjax.losses.diagonal import flow_matching
from flowjax.losses.eulerian import (
    align_your_flow_emd,
    alphaflow,
    consistency_distillation,
    consistency_training,
    consistency_trajectory,
    continuous_consistency,
    eulerian_distillation,
    eulerian_self_distillation,
    flow_anchored,
    improved_meanflow,
    improved_meanflow_two_heads,
    meanflow,
    soflow,
)
from flowjax.losses.lagrangian import (
    align_your_flow_lmd,
    boot,
    consistency_mid_training,
    freeflow_correction,
    freeflow_prediction,
    lagrangian_distillation,
    lagrangian_self_distillation,
    physics_informed,
    terminal_velocity,
)

__all__ = [
    "align_your_flow_emd",
    "align_your_flow_lmd",
    "alphaflow",
    "boot",
    "consistency_distillation",
    "consistency_mid_training",
    "consistency_training",
    "consistency_trajectory",
    "continuous_consistency",
    "eulerian_distillation",
    "eulerian_self_distillation",
    "flow_anchored",
    "flow_map_matching",
    "flow_matching",
    "freeflow_correction",
    "freeflow_prediction",
    "improved_meanflow",
    "improved_meanflow_two_heads",
    "lagrangian_distillation",
    "lagrangian_self_distillation",
    "meanflow",
    "physics_informed",
    "progressive_distillation",
    "progressive_flow_map_matching",
    "progressive_self_distillation",
    "shortcut",
    "soflow",
    "split_meanflow",
    "terminal_velocity",
]
