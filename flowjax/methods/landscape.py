"""The tables of the landscape: every method, what it is and what it costs. The documentation and `experiments.landscape --table` show them."""

from flowjax import checks, conditioning, losses
from flowjax.losses import (
    discrete as discrete_losses,
    likelihood as likelihood_losses,
    rewards as reward_losses,
    strong as strong_losses,
    variational as variational_losses,
)
from flowjax.methods import (
    compositional,
    consistency,
    diagonal,
    discrete,
    distributional,
    eulerian,
    lagrangian,
    likelihood,
    pixel,
    posterior,
    rewards,
    riemannian,
    strong,
    transitions,
    variational,
)
from flowjax.methods.method_info import JUMPS, MethodInfo, needs, outline, takes_total_steps

__all__ = [
    "CATEGORICAL",
    "DISTRIBUTIONAL",
    "JUMPS",
    "METHODS",
    "EXTENDED",
    "MethodInfo",
    "every",
    "info",
    "needs",
    "outline",
    "takes_total_steps",
    "with_categories",
    "with_costs",
]

METHODS: dict[str, MethodInfo] = {
    "flow_matching": MethodInfo(
        diagonal.flow_matching, pairs=(losses.flow_matching,), rule="diagonal", setting="M", derivative="none", jumps="none",
        any_space=True, source_fpe=3, derived_fpe=3, paper="Flow Matching for Generative Modeling", arxiv="2210.02747",
    ),
    "lmd": MethodInfo(
        lagrangian.lmd, pairs=(losses.lagrangian_distillation,), rule="lagrangian", setting="D",
        derivative="d_t V, gradient through it and through the teacher", any_space=True, source_fpe=9, derived_fpe=8, rho=3,
        paper="Flow Map Matching", arxiv="2406.07507",
    ),
    "lsd": MethodInfo(
        lagrangian.lsd, pairs=(losses.lagrangian_self_distillation,), rule="lagrangian", setting="S",
        derivative="d_t V, gradient through it; target in sg", source_fpe=10, derived_fpe=10, rho=3,
        every_row={"diagonal": "both"}, paper="How to Build a Consistency Model", arxiv="2505.18825",
    ),
    "ayf_lmd": MethodInfo(
        lagrangian.ayf_lmd, pairs=(losses.align_your_flow_lmd,), rule="lagrangian", setting="D",
        derivative="d_t V, all of the target in sg", source_fpe=6, derived_fpe=5, rho=1, paper="Align Your Flow",
        arxiv="2506.14603",
    ),
    "tvm": MethodInfo(
        lagrangian.tvm, pairs=(losses.terminal_velocity,), rule="lagrangian", setting="S",
        derivative="d_t V, gradient through it; target in sg", source_fpe=10, derived_fpe=10, rho=3,
        paper="Terminal Velocity Matching", arxiv="2511.19797",
    ),
    "freeflow": MethodInfo(
        lagrangian.freeflow, pairs=(losses.freeflow_prediction, losses.freeflow_correction), rule="lagrangian", setting="D",
        derivative="finite difference in t, all of the target in sg", jumps="from noise", source_fpe=12, derived_fpe=13,
        every_row={"correction": "both"}, paper="Flow Map Distillation Without Data", arxiv="2511.19428",
    ),
    "pid": MethodInfo(
        lagrangian.pid, pairs=(losses.physics_informed,), rule="lagrangian", setting="D",
        derivative="finite difference in t, gradient through it; target in sg", parameterisation="denoised_field",
        jumps="from noise", source_fpe=7, derived_fpe=7, paper="Physics Informed Distillation for Diffusion Models", arxiv="2411.08378",
    ),
    "ct": MethodInfo(
        consistency.ct, pairs=(losses.consistency_training,), rule="eulerian", setting="S", derivative="finite step in sg",
        parameterisation="edm", jumps="to data", source_fpe=4, derived_fpe=4, paper="Consistency Models", arxiv="2303.01469",
    ),
    "cd": MethodInfo(
        consistency.cd, pairs=(losses.consistency_distillation,), rule="eulerian", setting="D",
        derivative="finite step in sg", parameterisation="edm", jumps="to data", source_fpe=5, derived_fpe=5,
        every_row={"solver": "euler"}, paper="Consistency Models", arxiv="2303.01469",
    ),
    "ctm": MethodInfo(
        consistency.ctm, pairs=(losses.consistency_trajectory,), rule="eulerian", setting="D",
        derivative="finite step in sg; frozen weights around both sides", parameterisation="edm", source_fpe=7, derived_fpe=8,
        every_row={"teacher_steps": 1, "solver": "euler"}, paper="Consistency Trajectory Models", arxiv="2310.02279",
    ),
    "emd": MethodInfo(
        eulerian.emd, pairs=(losses.eulerian_distillation,), rule="eulerian", setting="D",
        derivative="d_s V, gradient through it", any_space=True, source_fpe=7, derived_fpe=7, rho=3, paper="Flow Map Matching",
        arxiv="2406.07507",
    ),
    "esd": MethodInfo(
        eulerian.esd, pairs=(losses.eulerian_self_distillation,), rule="eulerian", setting="S",
        derivative="both partial derivatives, gradient through the one in time", source_fpe=10, derived_fpe=11, rho=4,
        every_row={"diagonal": "both"}, paper="How to Build a Consistency Model", arxiv="2505.18825",
    ),
    "ayf_emd": MethodInfo(
        eulerian.ayf_emd, pairs=(losses.align_your_flow_emd,), rule="eulerian", setting="D",
        derivative="d_s V, all of the target in sg", source_fpe=6, derived_fpe=5, rho=1, paper="Align Your Flow",
        arxiv="2506.14603",
    ),
    "soflow": MethodInfo(
        eulerian.soflow, pairs=(losses.soflow,), rule="eulerian", setting="S", derivative="finite step in sg", source_fpe=7,
        derived_fpe=7, every_row={"diagonal": "both"}, guided_rule=True, few_steps="consistency",
        paper="SoFlow: Solution Flow Models", arxiv="2512.15657",
    ),
    "facm": MethodInfo(
        eulerian.facm, pairs=(losses.flow_anchored,), rule="eulerian", setting="D",
        derivative="d_s V, all of the target in sg", jumps="to data", source_fpe=8, derived_fpe=8, rho=1,
        paper="Flow-Anchored Consistency Models", arxiv="2507.03738",
    ),
    "meanflow": MethodInfo(
        eulerian.meanflow, pairs=(losses.meanflow,), rule="eulerian", setting="M",
        derivative="d_s V, all of the target in sg", source_fpe=4, derived_fpe=4, rho=1, every_row={"diagonal": "0"},
        guided_rule=True, paper="Mean Flows for One-step Generative Modeling", arxiv="2505.13447",
    ),
    "imf": MethodInfo(
        eulerian.imf, pairs=(losses.improved_meanflow,), rule="eulerian", setting="M",
        derivative="d_s V in sg, along the network's velocity", source_fpe=5, derived_fpe=5, rho=1,
        every_row={"diagonal": "0"}, guided_rule=True, paper="Improved Mean Flows", arxiv="2512.02012",
    ),
    "shortcut": MethodInfo(
        compositional.shortcut, pairs=(losses.shortcut,), rule="compositional", setting="S",
        derivative="none; two half jumps in sg", parameterisation="dyadic", source_fpe=8, derived_fpe=8, every_row={"diagonal": "both"},
        paper="One Step Diffusion via Shortcut Models", arxiv="2410.12557",
    ),
    "split_meanflow": MethodInfo(
        compositional.split_meanflow, pairs=(losses.split_meanflow,), rule="compositional", setting="D",
        derivative="none; two jumps in sg", source_fpe=9, derived_fpe=9, every_row={"diagonal": "both"},
        paper="SplitMeanFlow", arxiv="2507.16884",
    ),
    "psd": MethodInfo(
        compositional.psd, pairs=(losses.progressive_self_distillation,), rule="compositional", setting="S",
        derivative="none; two jumps in sg", source_fpe=8, derived_fpe=8, every_row={"diagonal": "both"},
        paper="How to Build a Consistency Model", arxiv="2505.18825",
    ),
    "fmm": MethodInfo(
        compositional.fmm, pairs=(losses.flow_map_matching,), rule="compositional", setting="M",
        derivative="derivative of the round trip, gradient through it", source_fpe=9, derived_fpe=9, rho=3,
        paper="Flow Map Matching", arxiv="2406.07507",
    ),
    "pfmm": MethodInfo(
        compositional.pfmm, pairs=(losses.progressive_flow_map_matching,), rule="compositional", setting="D",
        derivative="none; two jumps of the teacher's map", source_fpe=5, derived_fpe=5, paper="Flow Map Matching",
        arxiv="2406.07507",
    ),
    # Beyond the table of the literature.
    "alphaflow": MethodInfo(
        eulerian.alphaflow, pairs=(losses.alphaflow,), rule="eulerian", setting="M",
        derivative="finite step in sg; d_s V at a = 0", derived_fpe=4, rho=1, every_row={"diagonal": "0"}, guided_rule=True,
        few_steps="consistency", paper="AlphaFlow", arxiv="2510.20771",
    ),
    "dmf": MethodInfo(
        eulerian.dmf, pairs=(losses.meanflow,), rule="eulerian", setting="M", derivative="d_s V, all of the target in sg",
        derived_fpe=7, rho=1, every_row={"diagonal": "both"}, guided_rule=True, paper="Decoupled MeanFlow",
        arxiv="2510.24474",
    ),
    "pmf": MethodInfo(
        pixel.pmf, pairs=(losses.improved_meanflow,), rule="eulerian", setting="M",
        derivative="d_s V in sg, along the network's velocity", parameterisation="denoised_field", derived_fpe=5, rho=1,
        every_row={"diagonal": "0"}, guided_rule=True, paper="Pixel Mean Flows", arxiv="2601.22158",
    ),
    "rectified_meanflow": MethodInfo(
        eulerian.rectified_meanflow, pairs=(losses.meanflow,), rule="eulerian", setting="D",
        derivative="d_s V, all of the target in sg", derived_fpe=4, rho=1, every_row={"diagonal": "0"},
        guided_rule=True, trajectory_points=2, trajectory_data="checkerboard_pairs",
        paper="Rectified MeanFlow", arxiv="2511.23342",
    ),
    "scm": MethodInfo(
        consistency.scm, pairs=(losses.continuous_consistency,), rule="eulerian", setting="M",
        derivative="d_s V, all of the target in sg", parameterisation="trigflow", jumps="to data", derived_fpe=4, rho=1,
        paper="Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models", arxiv="2410.11081",
    ),
    "ict": MethodInfo(
        consistency.ict, pairs=(losses.consistency_training,), rule="eulerian", setting="S", derivative="finite step in sg",
        parameterisation="edm", jumps="to data", derived_fpe=4, paper="Improved Techniques for Training Consistency Models",
        arxiv="2310.14189",
    ),
    "ect": MethodInfo(
        consistency.ect, pairs=(losses.consistency_training,), rule="eulerian", setting="S", derivative="finite step in sg",
        parameterisation="edm", jumps="to data", derived_fpe=4, paper="Consistency Models Made Easy", arxiv="2406.14548",
    ),
    "boot": MethodInfo(
        lagrangian.boot, pairs=(losses.boot,), rule="lagrangian", setting="D", derivative="none; one teacher step in sg",
        parameterisation="denoised_field", jumps="from noise", derived_fpe=9, paper="BOOT", arxiv="2306.05544",
    ),
    "cmt": MethodInfo(
        lagrangian.cmt, pairs=(losses.consistency_mid_training,), rule="lagrangian", setting="D",
        derivative="none; a recorded trajectory", derived_fpe=3, trajectory_points=17,
        trajectory_data="checkerboard_trajectories", paper="CMT: Mid-Training", arxiv="2509.24526",
    ),
    "pd": MethodInfo(
        compositional.pd, pairs=(losses.progressive_distillation,), rule="compositional", setting="D",
        derivative="none; two teacher steps in sg", parameterisation="denoised_field", jumps="grid", derived_fpe=5,
        paper="Progressive Distillation", arxiv="2202.00512",
    ),
    # On any space; in R^n their losses are those of meanflow, esd, lsd and psd.
    "rmf": MethodInfo(
        riemannian.rmf, pairs=(losses.riemannian_meanflow,), rule="eulerian", setting="M",
        derivative="d_s V and that of the logarithm, all of the target in sg", derived_fpe=4, rho=1,
        every_row={"diagonal": "0"}, guided_rule=True, any_space=True, paper="Riemannian MeanFlow", arxiv="2602.07744",
    ),
    "lmf": MethodInfo(
        riemannian.lmf, pairs=(losses.riemannian_lagrangian_meanflow,), rule="lagrangian", setting="M",
        derivative="d_t V in sg; gradient through that of the exponential", derived_fpe=5, rho=1,
        every_row={"diagonal": "0"}, guided_rule=True, any_space=True, paper="Riemannian MeanFlow", arxiv="2602.07744",
    ),
    "gfm_esd": MethodInfo(
        riemannian.gfm_esd, pairs=(losses.riemannian_eulerian_self_distillation,), rule="eulerian", setting="S",
        derivative="both partial derivatives of F, gradient through the one in time", derived_fpe=11, rho=4,
        every_row={"diagonal": "both"}, any_space=True, paper="Generalised Flow Maps", arxiv="2510.21608",
    ),
    "gfm_lsd": MethodInfo(
        riemannian.gfm_lsd, pairs=(losses.riemannian_lagrangian_self_distillation,), rule="lagrangian", setting="S",
        derivative="d_t F, gradient through it; target in sg", derived_fpe=10, rho=3, every_row={"diagonal": "both"},
        any_space=True, paper="Generalised Flow Maps", arxiv="2510.21608",
    ),
    "gfm_psd": MethodInfo(
        riemannian.gfm_psd, pairs=(losses.riemannian_progressive_self_distillation,), rule="compositional", setting="S",
        derivative="none; two jumps in sg", derived_fpe=8, every_row={"diagonal": "both"}, any_space=True,
        paper="Generalised Flow Maps", arxiv="2510.21608",
    ),
}  # fmt: skip

# Methods for one-hot rows [..., K], by networks that return logits, see flowjax.losses.discrete. A table of its own: their networks
# and data are others, and nothing of R^n is measured of them.
CATEGORICAL: dict[str, MethodInfo] = {
    "categorical": MethodInfo(
        discrete.categorical, pairs=(discrete_losses.cross_entropy,), rule="diagonal", setting="M", derivative="none",
        parameterisation="categorical", jumps="none", derived_fpe=3, paper="Flow Map Language Models", arxiv="2602.16813",
    ),
    "csd": MethodInfo(
        discrete.csd, pairs=(discrete_losses.csd,), rule="lagrangian", setting="S",
        derivative="d_t F, gradient through it; F beside it and target in sg", parameterisation="categorical", derived_fpe=10, rho=3,
        every_row={"diagonal": "both"}, paper="Categorical Flow Maps", arxiv="2602.12233",
    ),
    "ecld": MethodInfo(
        discrete.ecld, pairs=(discrete_losses.ecld,), rule="lagrangian", setting="S",
        derivative="d_t pi, gradient through it; target in sg", parameterisation="categorical", derived_fpe=10, rho=3,
        every_row={"diagonal": "both"}, paper="Categorical Flow Maps", arxiv="2602.12233",
    ),
    "dfm_esd": MethodInfo(
        discrete.dfm_esd, pairs=(discrete_losses.dfm_esd,), rule="eulerian", setting="S",
        derivative="D_s of the logits, all of the target in sg", parameterisation="categorical", derived_fpe=8, rho=1,
        every_row={"diagonal": "both"}, paper="Discrete Flow Maps", arxiv="2604.09784",
    ),
    "dfm_psd": MethodInfo(
        discrete.dfm_psd, pairs=(discrete_losses.dfm_psd,), rule="compositional", setting="S",
        derivative="none; two jumps in sg", parameterisation="categorical", derived_fpe=8, every_row={"diagonal": "both"},
        paper="Discrete Flow Maps", arxiv="2604.09784",
    ),
    "flm": MethodInfo(
        discrete.flm, pairs=(discrete_losses.flm_semigroup, discrete_losses.flm_softmax), rule="compositional", setting="D",
        derivative="none; two jumps in sg", parameterisation="categorical", derived_fpe=12, paper="Flow Map Language Models",
        arxiv="2602.16813",
    ),
}  # fmt: skip

# Methods that match the distribution of samples and keep no path to them, see flowjax.losses.distributional.
DISTRIBUTIONAL: dict[str, MethodInfo] = distributional.TABLE


# What a trained map is for: posteriors (an observation is among the inputs of the network, see flowjax.posterior), likelihoods and rewards.
EXTENDED: dict[str, MethodInfo] = {
    "meta_flow_map": MethodInfo(
        posterior.meta_flow_map, pairs=(losses.meanflow,), rule="eulerian", setting="M",
        derivative="d_s V, all of the target in sg", derived_fpe=4, rho=1, inputs=conditioning.OBSERVATION,
        paper="Meta Flow Maps", arxiv="2601.14430",
    ),
    "diamond_map": MethodInfo(
        posterior.diamond_map, pairs=(losses.lagrangian_self_distillation,), rule="lagrangian", setting="S",
        derivative="d_t V, gradient through it; target in sg", derived_fpe=10, rho=3, inputs=conditioning.TRANSITION,
        paper="Diamond Maps", arxiv="2602.05993",
    ),
    "transition_matching": MethodInfo(
        posterior.transition_matching, pairs=(losses.meanflow,), rule="eulerian", setting="M",
        derivative="d_s V by finite differences, all of the target in sg", parameterisation="denoised_field", jumps="transitions",
        derived_fpe=5, inputs=conditioning.OBSERVATION, paper="Transition Matching Distillation", arxiv="2601.09881",
    ),
    "transition_dmd2": MethodInfo(
        transitions.transition_dmd2, pairs=(losses.distributional.dmd,), rule="distributional", setting="D",
        derivative="none; the push in sg", parameterisation="denoised_field", jumps="transitions", inputs=conditioning.OBSERVATION,
        paper="Transition Matching Distillation", arxiv="2601.09881",
    ),
    "strong_flow_map": MethodInfo(
        strong.strong_flow_map, pairs=(strong_losses.strong_anchor, strong_losses.strong_composition), rule="compositional", setting="S",
        derivative="none; two jumps in sg", jumps="noisy", derived_fpe=8, every_row={"diagonal": "both"}, inputs=conditioning.PATH,
        paper="Strong Stochastic Flow Maps", arxiv="2606.01086",
    ),
    "variational_flow_map": MethodInfo(
        variational.variational_flow_map, pairs=(variational_losses.variational_flow_map,), rule="eulerian", setting="M",
        derivative="d_s V, all of the target in sg; the adapter's gradient through the map", rho=1, paper="Variational Flow Maps",
        arxiv="2603.07276",
    ),
    "f2d2": MethodInfo(
        likelihood.f2d2, pairs=(likelihood_losses.divergence_lagrangian,), rule="lagrangian", setting="D",
        derivative="d_t V and d_t of the divergence, the latter in sg", derived_fpe=23, rho=6, every_row={"diagonal": "both"},
        paper="F2D2", arxiv="2512.02636",
    ),
    "falcon": MethodInfo(
        likelihood.falcon, pairs=(losses.meanflow, likelihood_losses.round_trip), rule="eulerian", setting="M",
        derivative="d_s V, all of the target in sg; gradient through both jumps of the round trip", derived_fpe=13, rho=1,
        guided_rule=True, paper="FALCON", arxiv="2512.09914",
    ),
    "reward_tuning": MethodInfo(
        rewards.reward_tuning, pairs=(reward_losses.reward_tuning,), rule="diagonal", setting="D", derivative="that of the reward",
        jumps="from noise", derived_fpe=4, paper="ours, of the kind of DRaFT", arxiv="2309.17400",
    ),
}  # fmt: skip


def every() -> dict[str, MethodInfo]:
    """The rows of all tables, those that were registered meanwhile among them."""
    return {**METHODS, **CATEGORICAL, **EXTENDED, **DISTRIBUTIONAL}


def with_categories() -> dict[str, MethodInfo]:
    """METHODS and CATEGORICAL, which stand in one table."""
    return {**METHODS, **CATEGORICAL}


def with_costs() -> dict[str, MethodInfo]:
    """METHODS, CATEGORICAL and EXTENDED, in the order of the table of measured costs."""
    return {**METHODS, **CATEGORICAL, **EXTENDED}


def info(name: str) -> MethodInfo:
    """The row of a method, of any table; raises InputError for an unknown name."""
    checks.member("method", name, every())
    return every()[name]
