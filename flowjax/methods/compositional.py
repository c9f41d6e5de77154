"""Recipes of the compositional rule: two jumps are one."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from flowjax import checks, conditioning, distances, guidance, losses, schedules
from flowjax.methods import draws, pairs, recipe
from flowjax.paths import Path
from flowjax.times import TimeSampler
from flowjax.typing import Array, AverageVelocity, InputError, Jvp, Method, Nets, Pair, Point, Term


def shortcut(
    *,
    sections: int = 128,
    diagonal: str = "7/8",
    cfg: float = 1.0,
    clip: float = 4.0,
    ema: float = 0.999,
    path: str | Path = "linear",
    label_drop: float = 0.1,
) -> Method:
    """Shortcut models: an anchor and bootstrapped jumps of dyadic length on different rows, mean squared error.

    The network learns jumps of the lengths 1, 1/2, ..., 1/sections; the shortest is the anchor's, which learns the velocity with it.
    Labels are dropped on the anchor's rows alone. The paper also decays the weights by 0.1, which is the optimizer's (AdamW).

    Args:
      sections: one over the shortest jump: all times are on the grid k / sections, 128 as published.
      diagonal: share of the rows with the anchor, 7/8 as published.
      cfg: scale of classifier-free guidance in the target of the jumps of length 2 / sections, from which it spreads to the longer
        ones; 1.5 as published for ImageNet, 1 (none) without labels.
      clip: the point between the half jumps and their mean velocity are kept within [-clip, clip], 4 as published.
      ema: decay of the target network's weights, a step; 0.999 as published.

    Reference: Frans et al. 2024 (arXiv 2410.12557), Algorithm 1 and Table 3; shares, clip and guidance from its code.
    """
    on, off = recipe.split(diagonal)

    def shortest_jump(nets: Nets, point: Point) -> Pair:
        V = pairs.bind(nets.V, point)(point.x, point.s, point.s - 1 / sections)
        return losses.flow_matching(lambda x, s, t: V, point.x, point.s, pairs.velocity(nets, point, V).v)

    def two_jumps(nets: Nets, point: Point) -> Pair:
        return pairs.call(losses.shortcut, nets, point, V_target=target(nets, point), clip=clip)

    def target(nets: Nets, point: Point) -> AverageVelocity:
        V_target = pairs.bind(nets.ema, point)
        if cfg == 1:
            return V_target
        V_null = pairs.bind(nets.ema, point._replace(cond=conditioning.null(point.cond)))
        scale = jnp.where(point.s - point.t <= 2 / sections, cfg, 1.0)
        return lambda x, s, t: guidance.guided(V_target(x, s, t), V_null(x, s, t), scale)

    anchor_times, jump_times = draws.diagonal_times(("even_grid", sections)), draws.pair_times(("dyadic", sections))
    anchor = Term("anchor", shortest_jump, distances.l2, columns=on, times=anchor_times)
    compositional = Term("compositional", two_jumps, distances.l2, columns=off, times=jump_times)
    method = recipe.method([anchor, compositional], points=draws.on_path(path), label_drop=label_drop, needs={"ema": ema})
    return _labels_kept(method, "compositional")


def _labels_kept(method: Method, name: str) -> Method:
    """`method`, one of whose terms keeps the labels, and other droppable inputs, that the others drop."""

    def draw(key: Array, batch: Mapping[str, Array], step: Array) -> dict[str, Point]:
        drawn = method.draw(key, batch, step)
        rows = {"x0": batch["x"], "cond": conditioning.of_batch(batch)}
        kept = {term.name: recipe.columns(rows, term.columns)["cond"] for term in method.terms if term.name == name}
        return drawn | {name: drawn[name]._replace(cond=cond) for name, cond in kept.items()}

    return method._replace(draw=draw)


def split_meanflow(
    *,
    times: TimeSampler = ("sorted_pair", ("logit_normal", -0.4, 1.0)),
    anchor_times: TimeSampler = ("logit_normal", -0.4, 1.0),
    a: TimeSampler = ("uniform",),
    diagonal: str = "1/2",
    path: str | Path = "linear",
    label_drop: float = 0.1,
) -> Method:
    """SplitMeanFlow: jumps split anywhere, and an anchor on the teacher, on different rows, mean squared error.

    Args:
      times: MeanFlow's; from the paper as remembered, as are `anchor_times` and `diagonal`.
      a: sampler of the fraction at which a jump is split, uniform as published.

    Reference: Guo et al. 2025 (arXiv 2507.16884), Algorithm 1.
    """
    on, off = recipe.split(diagonal)
    two_jumps = pairs.pair(losses.split_meanflow)
    anchor = Term("anchor", pairs.teacher_anchor, distances.l2, columns=on, times=draws.diagonal_times(anchor_times))
    compositional = Term("compositional", two_jumps, distances.l2, columns=off, times=draws.split_times(times, a))
    return recipe.method([anchor, compositional], points=draws.on_path(path), label_drop=label_drop, needs={"teacher": {}})


def psd(
    *,
    times: TimeSampler = ("uniform_triangle",),
    anchor_times: TimeSampler = ("uniform",),
    a: TimeSampler = ("uniform",),
    diagonal: str = "3/4",
    learned_weight: bool = True,
    path: str | Path = "linear",
    label_drop: float = 0.1,
) -> Method:
    """Progressive Self-Distillation: anchor and rule on different rows, squared errors weighed by a learned log-variance of (s, t).

    Errors are summed over the data axes.

    Args:
      times: uniform on the triangle as published.
      anchor_times: uniform as published.
      a: sampler of the fraction at which a jump is split: uniform (PSD-U), or ("fixed", 0.5) (PSD-M).
      diagonal: 3/4 as published.
      learned_weight: whether rows are weighed so; in the published code for images, not for points.

    Reference: Boffi et al. 2025 (arXiv 2505.18825).
    """
    on, off = recipe.split(diagonal)
    two_jumps = pairs.pair(losses.progressive_self_distillation)
    scored, needs = pairs.learned_weight(learned_weight)
    anchor = Term("anchor", pairs.anchor, columns=on, times=draws.diagonal_times(anchor_times), **scored)
    compositional = Term("compositional", two_jumps, columns=off, times=draws.split_times(times, a), **scored)
    return recipe.method([anchor, compositional], points=draws.on_path(path), label_drop=label_drop, needs=needs)


def fmm(
    *,
    total_steps: int | None = None,
    times: TimeSampler = ("uniform_square",),
    first_limit: float = 0.05,
    last_limit: float = 1.0,
    path: str | Path = "linear",
    label_drop: float = 0.1,
    jvp: str | Jvp = "exact",
) -> Method:
    """Flow Map Matching: velocity and round trip, mean squared errors, over intervals whose length is limited and grows.

    Both errors come from one round trip, so they are one term; its raw metric is their sum. The map is trained in both directions.

    Args:
      total_steps: over which the limit grows; required unless the limits are equal.
      times: t is scaled towards s: t := s + limit (t - s).
      first_limit: limit on |t - s| at the first step, 0.05 as in one reimplementation.
      last_limit: the same at total_steps, 1. The paper holds the limit and claims a few steps, not one.

    Reference: Boffi et al. 2024 (arXiv 2406.07507).
    """
    if first_limit == last_limit:
        limit = schedules.constant(first_limit)
    else:
        what = f"the limit on |t - s| grows from {first_limit} to {last_limit}"
        limit = schedules.linear(first_limit, last_limit, recipe.length("fmm", what, total_steps))
    sampler, both_pairs = draws.pair_times(times), pairs.pair(losses.flow_map_matching, jvp=jvp)

    def limited_times(key: Array, n: int, step: Array) -> dict[str, Array]:
        drawn = sampler(key, n, step)
        return {"s": drawn["s"], "t": drawn["s"] + limit(step) * (drawn["t"] - drawn["s"])}

    def errors(nets: Nets, point: Point) -> Array:
        velocity, round_trip = both_pairs(nets, point)
        return distances.l2(*velocity) + distances.l2(*round_trip)

    compositional = Term("compositional", errors, None, times=limited_times)
    return recipe.method([compositional], points=draws.on_path(path), label_drop=label_drop)


def pfmm(
    *,
    times: TimeSampler = ("uniform_triangle",),
    a: TimeSampler = ("fixed", 0.5),
    path: str | Path = "linear",
    label_drop: float = 0.1,
) -> Method:
    """Progressive Flow Map Matching: one jump is two jumps of a teacher's map, mean squared error.

    Args:
      a: sampler of the fraction of the way covered by the first leg; the middle as published for two legs.

    Reference: Boffi et al. 2024 (arXiv 2406.07507).
    """
    two_jumps = pairs.pair(losses.progressive_flow_map_matching)
    compositional = Term("compositional", two_jumps, distances.l2, times=draws.split_times(times, a))
    return recipe.method([compositional], points=draws.on_path(path), label_drop=label_drop, needs={"teacher_map": {}})


def pd(*, steps: int = 4, teacher: str = "velocity", path: str | Path = "linear", label_drop: float = 0.1) -> Method:
    """Progressive Distillation, one stage: a student of `steps` steps from a teacher of twice as many.

    The published weight on the error of the denoised image, max(alpha^2 / sigma^2, 1), is max((1 - s)^2, s^2) on ours.

    Args:
      steps: number of equal steps of the student, which is sampled with as many; the paper halves from 8192 down to 4, 2 and 1.
      teacher: what makes the half steps: "velocity", a teacher's velocity (the first stage), or "map", the student of the stage
        before as a teacher's map, called with its step.
      path: a DDIM step is a straight line on the linear path alone.

    Reference: Salimans and Ho 2022 (arXiv 2202.00512), Algorithm 2 and section 4.
    """
    checks.member("teacher of pd", teacher, ("velocity", "map"))
    if not isinstance(steps, int) or steps < 1:
        raise InputError(f"pd: steps is {steps!r}; expected a whole number of at least 1.")
    on_velocity = pairs.pair(losses.progressive_distillation)

    def on_map(nets: Nets, point: Point) -> Pair:
        previous = pairs.bind(nets.teacher_map, point)
        return on_velocity(nets, point, teacher=lambda x, u: previous(x, u, u - 1 / (2 * steps)))

    def neighbours(key: Array, n: int, step: Array) -> dict[str, Array]:
        index = jax.random.randint(key, (n,), 1, steps + 1)
        return {"s": index / steps, "t": (index - 1) / steps}

    two_steps = on_velocity if teacher == "velocity" else on_map
    needs: dict[str, Any] = {"teacher" if teacher == "velocity" else "teacher_map": {}}
    weight = lambda point: jnp.maximum((1 - point.s) ** 2, point.s**2).reshape(-1)
    compositional = Term("compositional", two_steps, distances.l2, weight=weight, times=neighbours)
    return recipe.method([compositional], points=draws.on_path(path), label_drop=label_drop, needs=needs)
