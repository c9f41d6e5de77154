"""What is known of a method: one row of the landscape."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from flowjax.typing import Method

# Which jumps a method learns, in words.
JUMPS = {
    "any": "all jumps",
    "to data": "jumps to data",
    "from noise": "jumps from noise",
    "grid": "jumps between neighbours of a grid",
    "levels": "jumps to data from the levels of a grid",
    "laws": "jumps of all lengths that are right in distribution, and no velocity",
    "noisy": "jumps along the paths of a noisy process, whose noise is an input",
    "transitions": "random transitions from all noise levels to all lower ones, by a map of their velocity",
    "none": "no jumps",
}
# The sampler of each, where it is not "flow_map".
_SAMPLERS = {
    "to data": "consistency",
    "levels": "consistency",
    "noisy": "strong",
    "transitions": "transition",
    "none": "euler",
}


class MethodInfo(NamedTuple):
    """A row of the landscape.

    Costs are forward-pass equivalents (FPE) of one training step with every term on every row: forward 1, backward 2, jvp with
    forward 2, backward through a jvp 4.

    Attributes:
      recipe: the function that `make` calls.
      pairs: its losses of flowjax.losses, besides the anchor.
      rule: "diagonal", "eulerian", "lagrangian", "compositional", "distributional"; "" for a method that `register` added.
      setting: "D" distils a teacher, "S" self-distils, "M" learns the marginal flow from conditional velocities, "P" compares
        its samples with the data.
      derivative: which derivative is taken, and what is under the stop-gradient.
      parameterisation: what the paper's network predicts, a key of flowjax.flowmap.PARAMETERISATIONS.
      jumps: which jumps it learns, a key of JUMPS.
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
        return _SAMPLERS.get(self.jumps, "flow_map")

    def eval_steps(self, constants: Mapping[str, Any]) -> tuple[int, ...] | None:
        """The only numbers of sampling steps whose jumps a method with these constants learns; None: any number."""
        number = {"grid": "steps", "levels": "student_steps"}.get(self.jumps, "")
        return (constants.get(number, 1),) if self.jumps in ("from noise", "grid", "levels") else None

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
