"""Every method as a pair `(prediction, target)`, both of the shape of `x`: a loss before a distance scores it.

One file per rule: `diagonal` (the anchor V(x, s, s) = v), `eulerian` (the source moves), `lagrangian` (the target moves),
`compositional` (two jumps are one); `riemannian` has the three rules on other spaces than R^n, `distributional` losses that keep no
path. Callables come first, then arrays in the order x, s, t, v, a, then keyword-only
hyperparameters. The following holds for all; a docstring adds what is particular to its loss.

Args:
  V: average velocity, `V(x, s, t)`: any callable, such as a network whose parameters and conditioning are bound. The flow
    map, a jump, is F(x, s, t) = x + (t - s) V(x, s, t).
  teacher: instantaneous velocity, `teacher(x, t)`.
  x: data on the path at time `s`, [B, ...], of a floating dtype.
  s, t: source and target time, from 0 = data to 1 = noise, in either order. A time is a Python scalar, a 0-d array or an array with
    `x.ndim` axes that broadcasts against `x`: `flowjax.times.expand(s, x)`, [B, 1, ..., 1]. The loss makes it at least float32.
  v: velocity at (x, s), the shape of `x`: conditional (eps - x0), marginal (a teacher's) or guided.
  a: fraction of the way from `s` to `t`, in (0, 1], shaped like a time. The middle time is m = s + a (t - s).
  jvp: the derivative, `jax.jvp` or `flowjax.derivatives.finite_difference(...)`.

Returns:
  Pair. The equation, `prediction  vs  target`, shows the gradient: sg[...] is `jax.lax.stop_gradient`, and gradient reaches the
  weights of V wherever V stands outside of it. d_s V is the jvp of V at (x, s, t) along (v, 1, 0), d_t V that along (0, 0, 1).

Raises:
  InputError: if `x` is not floating, a time does not fit `x`, or another array does not have the shape of `x`.

Example: on an exact flow prediction and target agree, which is what defines a loss. The examples share these names.
  >>> flow = exact.gaussian(0.5, 4.0)
  >>> x, s, t = jnp.array([-1.0, 0.5, 2.0]), 0.8, 0.4
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
from flowjax.losses.distributional.scores import freeflow_correction
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
    freeflow_prediction,
    lagrangian_distillation,
    lagrangian_self_distillation,
    physics_informed,
    terminal_velocity,
)
from flowjax.losses.riemannian import (
    riemannian_eulerian_distillation,
    riemannian_eulerian_self_distillation,
    riemannian_flow_matching,
    riemannian_lagrangian_distillation,
    riemannian_lagrangian_meanflow,
    riemannian_lagrangian_self_distillation,
    riemannian_meanflow,
    riemannian_progressive_self_distillation,
    riemannian_split_meanflow,
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
    "riemannian_eulerian_distillation",
    "riemannian_eulerian_self_distillation",
    "riemannian_flow_matching",
    "riemannian_lagrangian_distillation",
    "riemannian_lagrangian_meanflow",
    "riemannian_lagrangian_self_distillation",
    "riemannian_meanflow",
    "riemannian_progressive_self_distillation",
    "riemannian_split_meanflow",
    "shortcut",
    "soflow",
    "split_meanflow",
    "terminal_velocity",
]
