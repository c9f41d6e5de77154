"""Guidance: velocities extrapolated away from a weaker one, on a teacher or inside the training target.

    v_w = v_null + w (v - v_null),   w = 1: no guidance

On a teacher: `classifier_free` takes the teacher's unconditional velocity for v_null, `autoguidance` that of a weaker network.
Inside the target: a guide of TARGETS, `(nets, point, V_ss=None) -> Guided`, takes the network's V(x, s, s | null), so that the
map that is learned is guided and sampling costs nothing more. Each is of the form (docs/guidance.md derives them)

    v_g = (1 - k) (w v + (1 - w) V(x, s, s | null)) + k V(x, s, s | c)

whose mean is reproduced by V(x, s, s | c) = v_null + w (v_c - v_null) whatever the share k < 1 is: they differ in k, in the times at
which they guide, in the weights that are evaluated and in how w is drawn. Rows whose label was dropped keep their plain v. The network's
velocity is that of its second head where it has one (`nets.both`).

The scale w of a row stands in `cond["guidance"]`, [B]; the times between which it is guided, where they are an input of the network, in
`cond["interval"]`, [B, 2]; the null label is -1. `formulas` has the velocities, `scales` the scale at a point's time and how scales are
drawn, `targets` the table of what a config may name.
"""

from flowjax.guidance.formulas import (
    Guided,
    autoguidance,
    classifier_free,
    dmf,
    guidance_free,
    guidance_free_logits,
    guided,
    imf,
    meanflow,
    soflow,
    tvm,
)
from flowjax.guidance.scales import everywhere, fading, power_law, within, within_drawn
from flowjax.guidance.targets import KINDS, TARGETS, TEACHERS, Target, drawing, quantile, target_from_name

__all__ = [
    "KINDS",
    "TARGETS",
    "TEACHERS",
    "Guided",
    "Target",
    "autoguidance",
    "classifier_free",
    "dmf",
    "drawing",
    "everywhere",
    "fading",
    "guidance_free",
    "guidance_free_logits",
    "guided",
    "imf",
    "meanflow",
    "power_law",
    "quantile",
    "soflow",
    "target_from_name",
    "tvm",
    "within",
    "within_drawn",
]
