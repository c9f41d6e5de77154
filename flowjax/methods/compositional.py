"""Recipes of the compositional rule: two jumps are one."""

import jax
import jax.numpy as jnp

from flowjax import checks, derivatives, distances, losses, schedules, typing
from flowjax.methods import recipe


def shortcut(
    *,
    total_steps=None,
    times=("dyadic", 128),
    anchor_times=("uniform",),
    diagonal="7/8",
    ema=0.999,
    path="linear",
    label_drop=0.1,
):
    """Shortcut models: anchor and bootstrapped jumps of dyadic length on different rows, mean squared error.

    The paper also decays the weights by 0.1, which is the optimizer's (AdamW).

    Args:
      total_steps: unused.
      times: sampler of (s, t); dyadic jumps from 1 to 1/64, whose halves go down to 1/128.
      anchor_times: sampler of the anchor's time.
      diagonal: share of the rows with the anchor, as a string ("7/8" as in the published code), or "both".
      ema: decay of the target network's weights, a step; 0.999 as published.
      path: name of a path or a flowjax.paths.Path.
      label_drop: share of labels replaced by the null label, an independent draw.

    Reference: Frans et al. 2024 (arXiv 2410.12557), Algorithm 1 and Table 3.
    """
    del total_steps
    on, off = recipe.split(diagonal)

    def pair(nets, point):
        V, V_target = recipe.bind(nets.V, point), recipe.bind(nets.ema, point)
        return losses.shortcut(V, V_target, point.x, point.s, point.t)

    anchor = typing.Term("anchor", recipe.anchor, distances.l2, columns=on)
    compositional = typing.Term("compositional", pair, distances.l2, columns=off)
    parts = [(anchor, recipe.diagonal_times(anchor_times)), (compositional, recipe.pair_times(times))]
    return recipe.method(parts, path=path, label_drop=label_drop, needs={"ema": ema})


def split_meanflow(
    *,
    total_steps=None,
    times=("sorted_pair", ("logit_normal", -0.4, 1.0)),
    anchor_times=("logit_normal", -0.4, 1.0),
    a=("uniform",),
    diagonal="1/2",
    path="linear",
    label_drop=0.1,
):
    """SplitMeanFlow: jumps split anywhere, and an anchor on the teacher, on different rows, mean squared error.

    Args:
      total_steps: unused.
      times: sampler of (s, t), MeanFlow's; from the paper as remembered.
      anchor_times: sampler of the anchor's time, likewise.
      a: sampler of the fraction at which a jump is split, uniform as published.
      diagonal: share of the rows with the anchor, as a string ("1/2", from the paper as remembered), or "both".
      path: name of a path or a flowjax.paths.Path.
      label_drop: share of labels replaced by the null label, an independent draw.

    Reference: Guo et al. 2025 (arXiv 2507.16884), Algorithm 1.
    """
    del total_steps
    on, off = recipe.split(diagonal)

    def pair(nets, point):
        return losses.split_meanflow(recipe.bind(nets.V, point), point.x, point.s, point.t, point.a)

    anchor = typing.Term("anchor", recipe.teacher_anchor, distances.l2, columns=on)
    compositional = typing.Term("compositional", pair, distances.l2, columns=off)
    parts = [(anchor, recipe.diagonal_times(anchor_times)), (compositional, recipe.split_times(times, a))]
    return recipe.method(parts, path=path, label_drop=label_drop, needs={"teacher": {}})


def psd(
    *,
    total_steps=None,
    times=("uniform_triangle",),
    anchor_times=("uniform",),
    a=("uniform",),
    diagonal="3/4",
    log_variance_bound=None,
    path="linear",
    label_drop=0.1,
):
    """Progressive Self-Distillation: anchor and rule on different rows, each weighed by a learned log-variance of (s, t).

    Args:
      total_steps: unused.
      times: sampler of (s, t), uniform on the triangle as published.
      anchor_times: sampler of the anchor's time, uniform as published.
      a: sampler of the fraction at which a jump is split: uniform (PSD-U), or ("fixed", 0.5) (PSD-M).
      diagonal: share of the rows with the anchor, as a string ("3/4" as published), or "both".
      log_variance_bound: bound on the size of the learned log-variance; None, no bound, as published.
      path: name of a path or a flowjax.paths.Path.
      label_drop: share of labels replaced by the null label, an independent draw.

    Reference: Boffi et al. 2025 (arXiv 2505.18825).
    """
    del total_steps
    on, off = recipe.split(diagonal)

    def pair(nets, point):
        return losses.progressive_self_distillation(recipe.bind(nets.V, point), point.x, point.s, point.t, point.a)

    anchor = typing.Term(
        "anchor", recipe.with_log_variance(recipe.anchor, log_variance_bound), distances.likelihood, columns=on
    )
    compositional = typing.Term(
        "compositional", recipe.with_log_variance(pair, log_variance_bound), distances.likelihood, columns=off
    )
    parts = [(anchor, recipe.diagonal_times(anchor_times)), (compositional, recipe.split_times(times, a))]
    return recipe.method(parts, path=path, label_drop=label_drop, needs={"log_variance": {}})


def fmm(
    *,
    total_steps=None,
    times=("uniform_square",),
    first_limit=0.05,
    last_limit=1.0,
    path="linear",
    label_drop=0.1,
    jvp="exact",
):
    """Flow Map Matching: velocity and round trip, mean squared errors, over intervals whose length is limited and grows.

    Both errors come from one round trip, so they are one term; its raw metric is their sum. The map is trained in both directions.

    Args:
      total_steps: length of the training, over which the limit grows; required unless the limits are equal.
      times: sampler of (s, t); drawn t is drawn towards s until it is within the limit: t := s + limit (t - s).
      first_limit: limit on |t - s| at the first step, 0.05 as in one reimplementation.
      last_limit: the same at total_steps, 1. The paper holds the limit and claims a few steps, not one.
      path: name of a path or a flowjax.paths.Path.
      label_drop: share of labels replaced by the null label, an independent draw.
      jvp: "exact", a scheme of finite differences, or a function with the signature of jax.jvp.

    Reference: Boffi et al. 2024 (arXiv 2406.07507).
    """
    jvp = derivatives.jvp_from_name(jvp)
    if first_limit == last_limit:
        limit = schedules.constant(first_limit)
    else:
        what = f"the limit on |t - s| grows from {first_limit} to {last_limit}"
        limit = schedules.linear(first_limit, last_limit, recipe.length("fmm", what, total_steps))
    sampler = recipe.pair_times(times)

    def draw(key, n, step):
        drawn = sampler(key, n, step)
        return {"s": drawn["s"], "t": drawn["s"] + limit(step) * (drawn["t"] - drawn["s"])}

    def errors(nets, point):
        V = recipe.bind(nets.V, point)
        v = recipe.velocity(nets, point).v
        velocity, round_trip = losses.flow_map_matching(V, point.x, point.s, point.t, v, jvp=jvp)
        return distances.l2(*velocity) + distances.l2(*round_trip)

    compositional = typing.Term("compositional", errors, None)
    return recipe.method([(compositional, draw)], path=path, label_drop=label_drop)


def pfmm(*, total_steps=None, times=("uniform_triangle",), a=("fixed", 0.5), path="linear", label_drop=0.1):
    """Progressive Flow Map Matching: one jump is two jumps of a teacher's map, mean squared error.

    Args:
      total_steps: unused.
      times: sampler of (s, t).
      a: sampler of the fraction of the way covered by the first leg; the middle as published for two legs.
      path: name of a path or a flowjax.paths.Path.
      label_drop: share of labels replaced by the null label, an independent draw.

    Reference: Boffi et al. 2024 (arXiv 2406.07507).
    """
    del total_steps

    def pair(nets, point):
        V, V_teacher = recipe.bind(nets.V, point), recipe.bind(nets.teacher_map, point)
        return losses.progressive_flow_map_matching(V, V_teacher, point.x, point.s, point.t, point.a)

    compositional = typing.Term("compositional", pair, distances.l2)
    parts = [(compositional, recipe.split_times(times, a))]
    return recipe.method(parts, path=path, label_drop=label_drop, needs={"teacher_map": {}})


def pd(*, total_steps=None, steps=4, teacher="velocity", path="linear", label_drop=0.1):
    """Progressive Distillation, one stage: a student of `steps` steps from a teacher of twice as many.

    The published weight on the error of the denoised image, max(alpha^2 / sigma^2, 1), is max((1 - s)^2, s^2) on ours.

    Args:
      total_steps: unused.
      steps: number of equal steps of the student, which is sampled with as many; the paper halves from 8192 down to 4, 2 and 1.
      teacher: what makes the half steps: "velocity", a teacher's velocity (the first stage), or "map", the student of the stage
        before as a teacher's map, called with its own step.
      path: name of a path or a flowjax.paths.Path; a DDIM step is a straight line on the linear path alone.
      label_drop: share of labels replaced by the null label, an independent draw.

    Reference: Salimans and Ho 2022 (arXiv 2202.00512), Algorithm 2 and section 4.
    """
    del total_steps
    checks.member("teacher of pd", teacher, ("velocity", "map"))
    if not isinstance(steps, int) or steps < 1:
        raise typing.InputError(f"pd: steps is {steps!r}; expected a whole number of at least 1.")

    def draw(key, n, step):
        index = jax.random.randint(key, (n,), 1, steps + 1)
        return {"s": index / steps, "t": (index - 1) / steps}

    def pair(nets, point):
        if teacher == "velocity":
            half_step = recipe.bind_velocity(nets.teacher, point)
        else:
            previous = recipe.bind(nets.teacher_map, point)
            half_step = lambda x, u: previous(x, u, u - 1 / (2 * steps))
        return losses.progressive_distillation(recipe.bind(nets.V, point), half_step, point.x, point.s, point.t)

    weight = lambda point: jnp.maximum((1 - point.s) ** 2, point.s**2).reshape(-1)
    compositional = typing.Term("compositional", pair, distances.l2, weight=weight)
    needs = {"teacher": {}} if teacher == "velocity" else {"teacher_map": {}}
    return recipe.method([(compositional, draw)], path=path, label_drop=label_drop, needs=needs)
