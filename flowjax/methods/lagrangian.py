"""Recipes of the Lagrangian rule: the target moves."""

import functools

import jax
import jax.numpy as jnp

from flowjax import distances, flowmap, losses, paths, times
from flowjax.distances import Distance
from flowjax.methods import draws, pairs, recipe
from flowjax.paths import Path
from flowjax.times import TimeSampler
from flowjax.typing import Array, InputError, Jvp, Method, Nets, Network, Pair, Point, Term

sg = jax.lax.stop_gradient


def lmd(
    *,
    times: TimeSampler = ("uniform_triangle",),
    path: str | Path = "linear",
    label_drop: float = 0.1,
    jvp: str | Jvp = "exact",
) -> Method:
    """Lagrangian Map Distillation: d_t F follows the teacher, mean squared error, gradient through the derivative.

    Args:
      times: the paper weighs all pairs of times alike.
      path: in any space: that of the teacher of a Generalised Flow Map (arXiv 2510.21608).

    Reference: Boffi et al. 2024 (arXiv 2406.07507).
    """
    loss, constants, scored = pairs.on_space(path, losses.lagrangian_distillation, losses.riemannian_lagrangian_distillation)
    lagrangian = Term("lagrangian", pairs.pair(loss, jvp=jvp, **constants), times=draws.pair_times(times), **scored)
    return recipe.method([lagrangian], points=draws.on_path(path), label_drop=label_drop, needs={"teacher": {}})


def lsd(
    *,
    times: TimeSampler = ("uniform_triangle",),
    anchor_times: TimeSampler = ("uniform",),
    diagonal: str = "3/4",
    learned_weight: bool = True,
    path: str | Path = "linear",
    label_drop: float = 0.1,
    jvp: str | Jvp = "exact",
) -> Method:
    """Lagrangian Self-Distillation: anchor and rule on different rows, squared errors weighed by a learned log-variance of (s, t).

    Errors are summed over the data axes.

    Args:
      times: uniform on the triangle as published.
      anchor_times: uniform as published.
      diagonal: 3/4 as published.
      learned_weight: whether rows are weighed so; in the published code for images, not for points.

    Reference: Boffi et al. 2025 (arXiv 2505.18825).
    """
    on, off = recipe.split(diagonal)
    follow = pairs.pair(losses.lagrangian_self_distillation, jvp=jvp)
    scored, needs = pairs.learned_weight(learned_weight)
    anchor = Term("anchor", pairs.anchor, columns=on, times=draws.diagonal_times(anchor_times), **scored)
    lagrangian = Term("lagrangian", follow, columns=off, times=draws.pair_times(times), **scored)
    return recipe.method([anchor, lagrangian], points=draws.on_path(path), label_drop=label_drop, needs=needs)


def ayf_lmd(
    *,
    times: TimeSampler = ("gap_uniform", ("logit_normal", -0.8, 1.0)),
    path: str | Path = "linear",
    label_drop: float = 0.1,
    jvp: str | Jvp = "exact",
) -> Method:
    """Align Your Flow, the Lagrangian form, mean squared error; the paper finds it good on points and poor on images.

    Args:
      times: the gap first; constants of the gap from the paper as remembered.

    Reference: Sabour, Fidler and Kreis 2025 (arXiv 2506.14603).
    """
    follow = pairs.pair(losses.align_your_flow_lmd, jvp=jvp)
    lagrangian = Term("lagrangian", follow, distances.l2, times=draws.pair_times(times))
    return recipe.method([lagrangian], points=draws.on_path(path), label_drop=label_drop, needs={"teacher": {}})


def tvm(
    *,
    times: TimeSampler = ("gap_first", -0.8, 1.0, -0.4, 1.0),
    anchor_times: TimeSampler = ("logit_normal", -0.4, 1.0),
    ema: float = 0.99,
    path: str | Path = "linear",
    label_drop: float = 0.1,
    jvp: str | Jvp = "exact",
) -> Method:
    """Terminal Velocity Matching: both terms on every row, mean squared error.

    Args:
      times: the gap first.
      anchor_times: independent of (s, t); the noise of a row is shared.
      ema: decay of the target network's weights, a step.

    Reference: Zhou et al. 2025 (arXiv 2511.19797), the ImageNet-256 configuration.
    """
    follow = pairs.pair(losses.terminal_velocity, jvp=jvp)
    anchor = Term("anchor", pairs.anchor, distances.l2, times=draws.diagonal_times(anchor_times))
    lagrangian = Term("lagrangian", follow, distances.l2, times=draws.pair_times(times))
    return recipe.method([anchor, lagrangian], points=draws.on_path(path), label_drop=label_drop, needs={"ema": ema})


def freeflow(
    *,
    times: TimeSampler = ("uniform",),
    correction_times: TimeSampler = ("logit_normal", 1.4, 1.0),
    correction: str = "1/4",
    alpha: float = 1.0,
    c: float = 1e-3,
    correction_c: float = 1e-6,
    label_drop: float = 0.0,
    jvp: str | Jvp = "forward",
) -> Method:
    """FreeFlow: prediction from noise, correction by an auxiliary velocity of the student's samples; no data is read.

    The prediction is weighted by 1 / (mse + c). The paper scales the correction by the ratio of the two gradients' mean norms over the
    batch; no statistic of the batch is taken inside a loss here, so each row's correction is scaled to length `alpha`. The auxiliary
    velocity learns by flow matching on the same re-noised samples: its term is part of the correction's. Linear path only.

    Args:
      times: sampler of the prediction's target time; uniform, which is ours.
      correction_times: sampler of the time up to which samples are noised again; median 0.8 and close to 1, as published in words.
      correction: share of the rows with the correction, as a string ("1/4" as published), or "both".
      alpha: length of the correction of a row.
      c: floor of the prediction's mean squared error.
      correction_c: floor of the correction's root mean square, by which it is scaled (ours).
      label_drop: 0, because the teacher is evaluated at every label.
      jvp: finite differences are the paper's choice.

    Reference: Tong et al. 2025 (arXiv 2511.19428).
    """
    on, off = recipe.split(correction, "correction")
    predict, push = pairs.pair(losses.freeflow_prediction, jvp=jvp), pairs.pair(losses.freeflow_correction)

    def correction_errors(nets: Nets, point: Point) -> Array:
        pushed, r = push(nets, point), point.t
        x_r, v = paths.interpolate(paths.linear, sg(pushed.prediction), point.eps, r)
        auxiliary = pairs.bind(nets.velocity, point)
        learned = losses.flow_matching(lambda x, s, t: auxiliary(x, s), x_r, r, v)
        return alpha * distances.normalised(*pushed, reduce="mean", c=correction_c) + distances.l2(*learned)

    adaptive = functools.partial(distances.adaptive, reduce="mean", p=1.0, c=c)
    terms = [
        Term("correction", correction_errors, None, columns=on, times=draws.target_times(correction_times)),
        Term("prediction", predict, adaptive, columns=off, times=draws.target_times(times)),
    ]
    needs = {"teacher": {}, "velocity": Network(call="velocity")}
    return recipe.method(terms, points=draws.from_noise, label_drop=label_drop, needs=needs)


def pid(
    *,
    levels: int = 250,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    distance: str | Distance = "l2",
    label_drop: float = 0.0,
) -> Method:
    """Physics Informed Distillation: the trajectory from noise solves the teacher's equation; no data is read.

    Levels are uniform on a Karras grid. The derivative is the difference quotient, in the noise level, to the level below; of the
    lowest level to the one above. Both sides of the pair times -t, plus F(x, 1, t), are denoised data, (F - t d_t F, sg[F - t v]),
    which are scored; the raw metric is of them. Trajectories start at s = 1, where the published ones start at sigma_max.

    Args:
      levels: of the grid, all of them drawn, 250 as published.
      distance: of denoised data; LPIPS in the paper.
      label_drop: 0, because the teacher is evaluated at every label.

    Reference: Tee et al. 2024 (arXiv 2411.08378); the quotient, the levels and the parameterisation from its code.
    """
    if not isinstance(levels, int) or levels < 2:
        raise InputError(f"pid: levels is {levels!r}; expected a whole number of at least 2.")
    grid = times.from_sigma(times.karras_sigma(jnp.arange(levels), levels, sigma_min, sigma_max, rho))

    def uniform_levels(key: Array, n: int, step: Array) -> dict[str, Array]:
        return {"t": grid[jax.random.randint(key, (n,), 0, levels)]}

    def denoised(nets: Nets, point: Point) -> Pair:
        x, t, V = point.x, point.t, pairs.bind(nets.V, point)
        index = jnp.argmin(jnp.abs(grid[None] - t.reshape(-1, 1)), axis=1)
        m = grid[jnp.where(index > 0, index - 1, 1)].reshape(t.shape)
        one, V_t = jnp.ones_like(t), V(x, jnp.ones_like(t), t)
        dV_dsigma = (V_t - V(x, one, m)) / (times.to_sigma(t) - times.to_sigma(m))
        derivative = lambda f, primals, tangents: (V_t, dV_dsigma / (1 - t) ** 2)
        velocity = pairs.call(losses.physics_informed, nets, point, V=lambda x, s, t: V_t, jvp=derivative)
        F = flowmap.move(x, one, t, V_t)
        return Pair(F - t * velocity.prediction, sg(F - t * velocity.target))

    lagrangian = Term("lagrangian", denoised, distances.distance_from_name(distance), times=uniform_levels)
    return recipe.method([lagrangian], points=draws.from_noise, label_drop=label_drop, needs={"teacher": {}})


def boot(*, times: TimeSampler = ("uniform",), delta: float = 0.04, boundary: float = 0.5, label_drop: float = 0.0) -> Method:
    """BOOT: bootstrapping from noise in small teacher steps, and the boundary at s = t = 1; no data is read.

    Args:
      times: sampler of m, the time from which a step of the teacher is taken.
      delta: length of the step; the published value as remembered.
      boundary: weight of the boundary; the published value as remembered.
      label_drop: 0, because the teacher is evaluated at every label.

    Reference: Gu et al. 2023 (arXiv 2306.05544).
    """
    source = draws.diagonal_times(times)

    def steps(key: Array, n: int, step: Array) -> dict[str, Array]:
        m = jnp.maximum(source(key, n, step)["s"], delta)
        t = m - delta
        return {"t": t, "a": (1 - m) / (1 - t)}

    lagrangian = Term("lagrangian", pairs.pair(losses.boot), distances.l2, times=steps)
    at_one = lambda key, n, step: {"s": jnp.ones((n,))}
    anchor = Term("anchor", pairs.teacher_anchor, distances.l2, weight=boundary, times=at_one)
    return recipe.method([lagrangian, anchor], points=draws.from_noise, label_drop=label_drop, needs={"teacher": {}})


def cmt(*, times: TimeSampler = ("uniform_triangle",), distance: str | Distance = "l2", label_drop: float = 0.1) -> Method:
    """Consistency mid-training: every jump along a teacher's trajectories, which the dataset holds; the teacher is not evaluated.

    Args:
      times: moved to the nearest two points of the trajectory; uniform, which is ours.
      distance: LPIPS in the paper.

    Reference: Hu et al. 2025 (arXiv 2509.24526).
    """
    jump = pairs.pair(losses.consistency_mid_training)

    def pair(nets: Nets, point: Point) -> Pair:
        return jump(nets, point, x_t=flowmap.move(point.x, point.s, point.t, point.v))

    lagrangian = Term("lagrangian", pair, distances.distance_from_name(distance), times=draws.pair_times(times))
    return draws.with_trajectories(recipe.method([lagrangian], points=draws.on_trajectory, label_drop=label_drop))
