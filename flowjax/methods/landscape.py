"""The table of the landscape: every method, what it is and what it costs. The documentation and `experiments.landscape --table` show it."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from flowjax import checks, conditioning, losses
from flowjax.losses import discrete as discrete_losses
from flowjax.methods import compositional, consistency, diagonal, discrete, eulerian, lagrangian, pixel, posterior, riemannian
from flowjax.typing import Method

# Which jumps a method learns, in words.
JUMPS = {
    "any": "all jumps",
    "to data": "jumps to data",
    "from noise": "jumps from noise",
    "grid": "jumps between neighbours of a grid",
    "none": "no jumps",
}


class MethodInfo(NamedTuple):
    """A row of the landscape.

    Costs are forward-pass equivalents (FPE) of one training step with every term on every row: forward 1, backward 2, jvp with
    forward 2, backward through a jvp 4.

    Attributes:
      recipe: the function that `make` calls.
      pairs: its losses of flowjax.losses, besides the anchor.
      rule: "diagonal", "eulerian", "lagrangian", "compositional"; "" for a method that `register` added.
      setting: "D" distils a teacher, "S" self-distils, "M" learns the marginal flow from conditional velocities.
      derivative: which derivative is taken, and what is under the stop-gradient.
      parameterisation: what the paper's network predicts, a key of flowjax.flowmap.PARAMETERISATIONS.
      jumps: which jumps it learns, a key of JUMPS: "any", "to data" (t = 0), "from noise" (s = 1), "grid" (neighbours of one grid),
        or "none" (the diagonal alone).
      source_fpe: the cost as the literature estimates it; None where it does not.
      derived_fpe: the cost from the graph, when the jvp's primal output is reused.
      rho: how often attention's share rho = N / (6 d + N) of the forward pass (N tokens, width d) comes on top.
      every_row: constants that put every term on every row, with one Euler step where a teacher is integrated.
      few_steps: the sampler with which its paper samples in two steps or more, a key of flowjax.samplers.SAMPLERS; "": that of its
        jumps, `sampler`.
      guided_rule: whether its term off the diagonal takes the velocity of the data, so that under guidance this term teaches the
        interval of times, and the anchor is conditioned on (0, 1).
      trajectory_points: how many points of a teacher's trajectories the data must bring; 0: it learns from the data alone.
      trajectory_data: dataset of points with such trajectories of the closed-form velocity, a key of flowjax.data.DATASETS.
      any_space: whether its losses hold on other spaces than R^n, see flowjax.spaces.
      inputs: further inputs of the network that its draws bring, keys of flowjax.conditioning.INPUTS.
      paper: title; "" for a method that `register` added.
      arxiv: arXiv id.
    """

    recipe: Callable[..., Method]
    pairs: tuple[Callable, ...] = ()
    rule: str = ""
    setting: str = ""
    derivative: str = ""
    parameterisation: str = "velocity"
    jumps: str = "any"
    source_fpe: float | None = None
    derived_fpe: float = float("nan")
    rho: int = 0
    every_row: Mapping[str, Any] = {}
    few_steps: str = ""
    guided_rule: bool = False
    trajectory_points: int = 0
    trajectory_data: str = ""
    any_space: bool = False
    inputs: tuple[str, ...] = ()
    paper: str = ""
    arxiv: str = ""

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the networks that the trainer must supply besides V, with the published constants."""
        return needs(self.recipe)

    @property
    def learns(self) -> str:
        """Which jumps it learns, in words: "all jumps", "jumps to data", ..., "no jumps"."""
        return JUMPS[self.jumps]

    @property
    def learns_velocity(self) -> bool:
        """Whether V(x, s, s) is the velocity of the flow."""
        return self.jumps in ("any", "none")

    @property
    def learns_map(self) -> bool:
        """Whether V(x, s, t) is learned for all times s >= t."""
        return self.jumps == "any"

    @property
    def learns_jumps(self) -> bool:
        """Whether anything off the diagonal is learned."""
        return self.jumps != "none"

    @property
    def one_grid(self) -> bool:
        """Whether it learns the jumps of one grid, so that its student is the teacher of the next stage."""
        return self.jumps == "grid"

    @property
    def copies_jumps(self) -> bool:
        """Whether it learns jumps along a teacher's trajectories, which have more points than data and noise."""
        return self.trajectory_points > 2

    @property
    def reads_data(self) -> bool:
        """Whether the values of the data are used, not their shape alone."""
        return self.jumps != "from noise"

    @property
    def sampler(self) -> str:
        """Name of the sampler that makes the jumps that were learned, a key of flowjax.samplers.SAMPLERS."""
        return {"to data": "consistency", "none": "euler"}.get(self.jumps, "flow_map")

    def eval_steps(self, constants: Mapping[str, Any]) -> tuple[int, ...] | None:
        """The only numbers of sampling steps whose jumps a method with these constants learns; None: any number."""
        return {"from noise": (1,), "grid": (constants.get("steps", 1),)}.get(self.jumps)

    def __repr__(self) -> str:
        names = lambda functions: ", ".join(function.__name__ for function in functions)
        cost = f"{self.derived_fpe}" + {0: "", 1: " + rho"}.get(self.rho, f" + {self.rho} rho")
        fields = {
            "recipe": f"{self.recipe.__module__}.{self.recipe.__name__}",
            "pairs": names(self.pairs),
            "rule": self.rule,
            "setting": self.setting,
            "derivative": self.derivative,
            "needs": ", ".join(self.needs) or "V alone",
            "predicts": self.parameterisation,
            "learns": self.learns,
            "cost": f"{cost} FPE",
            "paper": f"{self.paper} (arXiv {self.arxiv})" if self.arxiv else self.paper,
        }
        return "\n".join(["MethodInfo", *(f"  {name:10}  {value}" for name, value in fields.items() if value)])


@functools.cache
def needs(recipe: Callable[..., Method]) -> tuple[str, ...]:
    """Names of the networks that a recipe with its default constants needs, for any length of the training."""
    return tuple(outline(recipe, total_steps=1_000).needs)


def outline(recipe: Callable[..., Method], *, total_steps: int | None = None, **constants: Any) -> Method:
    """The Method of a recipe to be read, not called: its terms and needs.

    The recipe is traced, not run. Configs need this before the processes of a run join each other, and until then JAX must not touch a
    device.
    """
    made: list[Method] = []
    length = {"total_steps": total_steps} if takes_total_steps(recipe) else {}
    jax.eval_shape(lambda: made.append(recipe(**length, **constants)))
    return made[0]


def takes_total_steps(recipe: Callable[..., Method]) -> bool:
    """Whether something in a recipe changes over the training, so that it takes the training's length."""
    return "total_steps" in inspect.signature(recipe).parameters


METHODS: dict[str, MethodInfo] = {
    "flow_matching": MethodInfo(
        diagonal.flow_matching, pairs=(losses.flow_matching,), rule="diagonal", setting="M", derivative="none", jumps="none",
        any_space=True, source_fpe=3, derived_fpe=3, paper="Flow Matching for Generative Modeling", arxiv="2210.02747",
    ),
    "lmd": MethodInfo(
        lagrangian.lmd, pairs=(losses.lagrangian_distillation,), rule="lagrangian", setting="D",
        derivative="d_t V, gradient through it and through the teacher", source_fpe=9, derived_fpe=8, rho=3,
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
        derivative="d_s V, gradient through it", source_fpe=7, derived_fpe=7, rho=3, paper="Flow Map Matching",
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


# Stochastic maps: networks with an observation among their inputs, see flowjax.posterior. Off c = 1 their loss is that of other maps.
STOCHASTIC: dict[str, MethodInfo] = {
    "meta_flow_map": MethodInfo(
        posterior.meta_flow_map, pairs=(losses.meanflow,), rule="eulerian", setting="M",
        derivative="d_s V, all of the target in sg", derived_fpe=4, rho=1, inputs=conditioning.OBSERVATION,
        paper="Meta Flow Maps", arxiv="2601.14430",
    ),
}  # fmt: skip


def every() -> dict[str, MethodInfo]:
    """The rows of all tables, those that were registered meanwhile among them."""
    return {**METHODS, **CATEGORICAL, **STOCHASTIC}


def info(name: str) -> MethodInfo:
    """The row of a method, of any table; raises InputError for an unknown name."""
    checks.member("method", name, every())
    return every()[name]
