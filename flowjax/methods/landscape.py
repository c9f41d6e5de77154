"""The table of the landscape: every method, what it is and what it costs. README and `experiments.landscape --table` show it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flowjax import losses
from flowjax.methods import compositional, consistency, diagonal, eulerian, lagrangian


class MethodInfo(NamedTuple):
    """A row of the landscape.

    Costs are forward-pass equivalents (FPE) of one training step with every term on every row: forward 1, backward 2, jvp with
    forward 2, backward through a jvp 4.

    Attributes:
      recipe: the function that `make` calls.
      pairs: its own losses of flowjax.losses, besides the anchor.
      rule: "diagonal", "eulerian", "lagrangian" or "compositional".
      setting: "D" distils a teacher, "S" self-distils, "M" learns the marginal flow from conditional velocities.
      derivative: which derivative is taken, and what is under the stop-gradient.
      needs: fields of Nets that the trainer must supply, with the published constants.
      parametrisation: what the paper's network predicts, a key of flowjax.flowmap.PARAMETERISATIONS.
      jumps: which jumps it learns: "any", "to data" (t = 0), "from noise" (s = 1), "grid" (neighbours of
        one grid), or "none" (the diagonal alone).
      source_fpe: the cost as the literature estimates it; None where it does not.
      derived_fpe: the cost from the graph, when the jvp's primal output is reused.
      rho: how often attention's share rho = N / (6 d + N) of the forward pass (N tokens, width d) comes on top.
      every_row: constants that put every term on every row, with one Euler step where a teacher is integrated.
      paper: title.
      arxiv: arXiv id.
    """

    recipe: Callable
    pairs: tuple[Callable, ...]
    rule: str
    setting: str
    derivative: str
    needs: tuple[str, ...]
    parametrisation: str
    jumps: str
    source_fpe: float | None
    derived_fpe: float
    rho: int
    every_row: Mapping[str, Any]
    paper: str
    arxiv: str


METHODS: dict[str, MethodInfo] = {
    "flow_matching": MethodInfo(
        diagonal.flow_matching, (losses.flow_matching,), "diagonal", "M",
        "none",
        (), "velocity", "none", 3, 3, 0, {}, "Flow Matching for Generative Modeling", "2210.02747",
    ),
    "lmd": MethodInfo(
        lagrangian.lmd, (losses.lagrangian_distillation,), "lagrangian", "D",
        "d_t V, gradient through it and through the teacher",
        ("teacher",), "velocity", "any", 9, 8, 3, {}, "Flow Map Matching", "2406.07507",
    ),
    "lsd": MethodInfo(
        lagrangian.lsd, (losses.lagrangian_self_distillation,), "lagrangian", "S",
        "d_t V, gradient through it; target in sg",
        ("log_variance",), "velocity", "any", 10, 10, 3, {"diagonal": "both"}, "How to Build a Consistency Model", "2505.18825",
    ),
    "ayf_lmd": MethodInfo(
        lagrangian.ayf_lmd, (losses.align_your_flow_lmd,), "lagrangian", "D",
        "d_t V, all of the target in sg",
        ("teacher",), "velocity", "any", 6, 5, 1, {}, "Align Your Flow", "2506.14603",
    ),
    "tvm": MethodInfo(
        lagrangian.tvm, (losses.terminal_velocity,), "lagrangian", "S",
        "d_t V, gradient through it; target in sg",
        ("ema",), "velocity", "any", 10, 10, 3, {}, "Terminal Velocity Matching", "2511.19797",
    ),
    "freeflow": MethodInfo(
        lagrangian.freeflow, (losses.freeflow_prediction, losses.freeflow_correction), "lagrangian", "D",
        "finite difference in t, all of the target in sg",
        ("teacher", "velocity"), "velocity", "from noise", 12, 13, 0, {"correction": "both"}, "Flow Map Distillation Without Data", "2511.19428",
    ),
    "pid": MethodInfo(
        lagrangian.pid, (losses.physics_informed,), "lagrangian", "D",
        "finite difference in t, gradient through it; target in sg",
        ("teacher",), "edm", "from noise", 7, 7, 0, {}, "Physics Informed Distillation for Diffusion Models", "2411.08378",
    ),
    "ct": MethodInfo(
        consistency.ct, (losses.consistency_training,), "eulerian", "S",
        "finite step in sg",
        (), "edm", "to data", 4, 4, 0, {}, "Consistency Models", "2303.01469",
    ),
    "cd": MethodInfo(
        consistency.cd, (losses.consistency_distillation,), "eulerian", "D",
        "finite step in sg",
        ("teacher", "ema"), "edm", "to data", 5, 5, 0, {"solver": "euler"}, "Consistency Models", "2303.01469",
    ),
    "ctm": MethodInfo(
        consistency.ctm, (losses.consistency_trajectory,), "eulerian", "D",
        "finite step in sg; frozen weights around both sides",
        ("teacher", "ema"), "edm", "any", 7, 8, 0, {"teacher_steps": 1, "solver": "euler"}, "Consistency Trajectory Models", "2310.02279",
    ),
    "emd": MethodInfo(
        eulerian.emd, (losses.eulerian_distillation,), "eulerian", "D",
        "d_s V, gradient through it",
        ("teacher",), "velocity", "any", 7, 7, 3, {}, "Flow Map Matching", "2406.07507",
    ),
    "esd": MethodInfo(
        eulerian.esd, (losses.eulerian_self_distillation,), "eulerian", "S",
        "both partial derivatives, gradient through the one in time",
        ("log_variance",), "velocity", "any", 10, 11, 4, {"diagonal": "both"}, "How to Build a Consistency Model", "2505.18825",
    ),
    "ayf_emd": MethodInfo(
        eulerian.ayf_emd, (losses.align_your_flow_emd,), "eulerian", "D",
        "d_s V, all of the target in sg",
        ("teacher",), "velocity", "any", 6, 5, 1, {}, "Align Your Flow", "2506.14603",
    ),
    "soflow": MethodInfo(
        eulerian.soflow, (losses.soflow,), "eulerian", "S",
        "finite step in sg",
        (), "velocity", "any", 7, 7, 0, {"diagonal": "both"}, "SoFlow: Solution Flow Models", "2512.15657",
    ),
    "facm": MethodInfo(
        eulerian.facm, (losses.flow_anchored,), "eulerian", "D",
        "d_s V, all of the target in sg",
        ("teacher",), "velocity", "to data", 8, 8, 1, {}, "Flow-Anchored Consistency Models", "2507.03738",
    ),
    "meanflow": MethodInfo(
        eulerian.meanflow, (losses.meanflow,), "eulerian", "M",
        "d_s V, all of the target in sg",
        (), "velocity", "any", 4, 4, 1, {"diagonal": "0"}, "Mean Flows for One-step Generative Modeling", "2505.13447",
    ),
    "imf": MethodInfo(
        eulerian.imf, (losses.improved_meanflow,), "eulerian", "M",
        "d_s V in sg, along the network's own velocity",
        (), "velocity", "any", 5, 5, 1, {"diagonal": "0"}, "Improved Mean Flows", "2512.02012",
    ),
    "shortcut": MethodInfo(
        compositional.shortcut, (losses.shortcut,), "compositional", "S",
        "none; two half jumps in sg",
        ("ema",), "velocity", "any", 8, 8, 0, {"diagonal": "both"}, "One Step Diffusion via Shortcut Models", "2410.12557",
    ),
    "split_meanflow": MethodInfo(
        compositional.split_meanflow, (losses.split_meanflow,), "compositional", "D",
        "none; two jumps in sg",
        ("teacher",), "velocity", "any", 9, 9, 0, {"diagonal": "both"}, "SplitMeanFlow", "2507.16884",
    ),
    "psd": MethodInfo(
        compositional.psd, (losses.progressive_self_distillation,), "compositional", "S",
        "none; two jumps in sg",
        ("log_variance",), "velocity", "any", 8, 8, 0, {"diagonal": "both"}, "How to Build a Consistency Model", "2505.18825",
    ),
    "fmm": MethodInfo(
        compositional.fmm, (losses.flow_map_matching,), "compositional", "M",
        "derivative of the round trip, gradient through it",
        (), "velocity", "any", 9, 9, 3, {}, "Flow Map Matching", "2406.07507",
    ),
    "pfmm": MethodInfo(
        compositional.pfmm, (losses.progressive_flow_map_matching,), "compositional", "D",
        "none; two jumps of the teacher's map",
        ("teacher_map",), "velocity", "any", 5, 5, 0, {}, "Flow Map Matching", "2406.07507",
    ),
    # Beyond the table of the literature.
    "alphaflow": MethodInfo(
        eulerian.alphaflow, (losses.alphaflow,), "eulerian", "M",
        "finite step in sg; d_s V at a = 0",
        (), "velocity", "any", None, 4, 1, {"diagonal": "0"}, "AlphaFlow", "2510.20771",
    ),
    "dmf": MethodInfo(
        eulerian.dmf, (losses.meanflow,), "eulerian", "M",
        "d_s V, all of the target in sg",
        ("log_variance",), "velocity", "any", None, 7, 1, {"diagonal": "both"}, "Decoupled MeanFlow", "2510.24474",
    ),
    "pmf": MethodInfo(
        eulerian.pmf, (losses.improved_meanflow,), "eulerian", "M",
        "d_s V in sg, along the network's own velocity",
        (), "denoised_field", "any", None, 5, 1, {"diagonal": "0"}, "Pixel Mean Flows", "2601.22158",
    ),
    "rectified_meanflow": MethodInfo(
        eulerian.rectified_meanflow, (losses.meanflow,), "eulerian", "D",
        "d_s V, all of the target in sg",
        (), "velocity", "any", None, 4, 1, {"diagonal": "0"}, "Rectified MeanFlow", "2511.23342",
    ),
    "scm": MethodInfo(
        consistency.scm, (losses.continuous_consistency,), "eulerian", "M",
        "d_s V, all of the target in sg",
        ("log_variance",), "trigflow", "to data", None, 4, 1, {}, "Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models", "2410.11081",
    ),
    "ict": MethodInfo(
        consistency.ict, (losses.consistency_training,), "eulerian", "S",
        "finite step in sg",
        (), "edm", "to data", None, 4, 0, {}, "Improved Techniques for Training Consistency Models", "2310.14189",
    ),
    "ect": MethodInfo(
        consistency.ect, (losses.consistency_training,), "eulerian", "S",
        "finite step in sg",
        (), "edm", "to data", None, 4, 0, {}, "Consistency Models Made Easy", "2406.14548",
    ),
    "boot": MethodInfo(
        lagrangian.boot, (losses.boot,), "lagrangian", "D",
        "none; one teacher step in sg",
        ("teacher",), "denoised_field", "from noise", None, 9, 0, {}, "BOOT", "2306.05544",
    ),
    "cmt": MethodInfo(
        lagrangian.cmt, (losses.consistency_mid_training,), "lagrangian", "D",
        "none; a recorded trajectory",
        (), "velocity", "any", None, 3, 0, {}, "CMT: Mid-Training", "2509.24526",
    ),
    "pd": MethodInfo(
        compositional.pd, (losses.progressive_distillation,), "compositional", "D",
        "none; two teacher steps in sg",
        ("teacher",), "denoised_field", "grid", None, 5, 0, {}, "Progressive Distillation", "2202.00512",
    ),
}  # fmt: skip
