"""Recipes of the Lagrangian rule: the target moves."""

import functools

import jax
import jax.numpy as jnp

from flowjax import derivatives, distances, flowmap, losses, paths, typing
from flowjax.methods import recipe

sg = jax.lax.stop_gradient


def lmd(*, total_steps=None, times=("uniform_triangle",), path="linear", label_drop=0.1, jvp="exact"):
    """Lagrangian Map Distillation: d_t F follows the teacher, mean squared error, gradient through the derivative.

    Args:
      total_steps: unused.
      times: sampler of (s, t); the paper weighs all pairs of times alike.
      path: name of a path or a flowjax.paths.Path.
      label_drop: share of labels replaced by the null label, an independent draw.
      jvp: "exact", a scheme of finite differences, or a function with the signature of jax.jvp.

    Reference: Boffi et al. 2024 (arXiv 2406.07507).
    """
    del total_steps
    jvp = derivatives.jvp_from_name(jvp)

    def pair(nets, point):
        V, teacher = recipe.bind(nets.V, point), recipe.bind_velocity(nets.teacher, point)
        return losses.lagrangian_distillation(V, teacher, point.x, point.s, point.t, jvp=jvp)

    lagrangian = typing.Term("lagrangian", pair, distances.l2)
    parts = [(lagrangian, recipe.pair_times(times))]
    return recipe.method(parts, path=path, label_drop=label_drop, needs={"teacher": {}})


def lsd(
    *,
    total_steps=None,
    times=("uniform_triangle",),
    anchor_times=("uniform",),
    diagonal="3/4",
    log_variance_bound=None,
    path="linear",
    label_drop=0.1,
    jvp="exact",
):
    """Lagrangian Self-Distillation: anchor and rule on different rows, each weighed by a learned log-variance of (s, t).

    Args:
      total_steps: unused.
      times: sampler of (s, t), uniform on the triangle as published.
      anchor_times: sampler of the anchor's time, uniform as published.
      diagonal: share of the rows with the anchor, as a string ("3/4" as published), or "both".
      log_variance_bound: bound on the size of the learned log-variance; None, no bound, as published.
      path: name of a path or a flowjax.paths.Path.
      label_drop: share of labels replaced by the null label, an independent draw.
      jvp: "exact", a scheme of finite differences, or a function with the signature of jax.jvp.

    Reference: Boffi et al. 2025 (arXiv 2505.18825).
    """
    del total_steps
    jvp = derivatives.jvp_from_name(jvp)
    on, off = recipe.split(diagonal)

    def pair(nets, point):
        return losses.lagrangian_self_distillation(recipe.bind(nets.V, point), point.x, point.s, point.t, jvp=jvp)

    anchor = typing.Term(
        "anchor", recipe.with_log_variance(recipe.anchor, log_variance_bound), distances.likelihood, columns=on
    )
    lagrangian = typing.Term(
        "lagrangian", recipe.with_log_variance(pair, log_variance_bound), distances.likelihood, columns=off
    )
    parts = [(anchor, recipe.diagonal_times(anchor_times)), (lagrangian, recipe.pair_times(times))]
    return recipe.method(parts, path=path, label_drop=label_drop, needs={"log_variance": {}})


def ayf_lmd(
    *,
    total_steps=None,
    times=("gap_uniform", ("logit_normal", -0.8, 1.0)),
    path="linear",
    label_drop=0.1,
    jvp="exact",
):
    """Align Your Flow, the Lagrangian form, mean squared error; the paper finds it good on points and poor on images.

    Args:
      total_steps: unused.
      times: sampler of (s, t), the gap first; constants of the gap from the paper as remembered.
      path: name of a path or a flowjax.paths.Path.
      label_drop: share of labels replaced by the null label, an independent draw.
      jvp: "exact", a scheme of finite differences, or a function with the signature of jax.jvp.

    Reference: Sabour, Fidler and Kreis 2025 (arXiv 2506.14603).
    """
    del total_steps
    jvp = derivatives.jvp_from_name(jvp)

    def pair(nets, point):
        V, teacher = recipe.bind(nets.V, point), recipe.bind_velocity(nets.teacher, point)
        return losses.align_your_flow_lmd(V, teacher, point.x, point.s, point.t, jvp=jvp)

    lagrangian = typing.Term("lagrangian", pair, distances.l2)
    parts = [(lagrangian, recipe.pair_times(times))]
    return recipe.method(parts, path=path, label_drop=label_drop, needs={"teacher": {}})


def tvm(
    *,
    total_steps=None,
    times=("gap_first", -0.8, 1.0, -0.4, 1.0),
    anchor_times=("logit_normal", -0.4, 1.0),
    ema=0.99,
    path="linear",
    label_drop=0.1,
    jvp="exact",
):
    """Terminal Velocity Matching: both terms on every row, mean squared error.

    Args:
      total_steps: unused.
      times: sampler of (s, t), the gap first.
      anchor_times: sampler of the anchor's time, independent of (s, t); the noise of a row is shared.
      ema: decay of the target network's weights, a step.
      path: name of a path or a flowjax.paths.Path.
      label_drop: share of labels replaced by the null label, an independent draw.
      jvp: "exact", a scheme of finite differences, or a function with the signature of jax.jvp.

    Reference: Zhou et al. 2025 (arXiv 2511.19797), the ImageNet-256 configuration.
    """
    del total_steps
    jvp = derivatives.jvp_from_name(jvp)

    def pair(nets, point):
        V, V_target = recipe.bind(nets.V, point), recipe.bind(nets.ema, point)
        return losses.terminal_velocity(V, V_target, point.x, point.s, point.t, jvp=jvp)

    anchor = typing.Term("anchor", recipe.anchor, distances.l2)
    lagrangian = typing.Term("lagrangian", pair, distances.l2)
    parts = [(anchor, recipe.diagonal_times(anchor_times)), (lagrangian, recipe.pair_times(times))]
    return recipe.method(parts, path=path, label_drop=label_drop, needs={"ema": ema})


def freeflow(
    *,
    total_steps=None,
    times=("uniform",),
    correction_times=("logit_normal", 1.4, 1.0),
    correction="1/4",
    alpha=1.0,
    c=1e-3,
    label_drop=0.0,
    jvp="forward",
):
    """FreeFlow: prediction from noise, correction by an auxiliary velocity of the student's own samples; no data is read.

    The prediction is weighted by 1 / (mse + c). The paper scales the correction by the ratio of the two gradients' mean norms over the
    batch; no statistic of the batch is taken inside a loss here, so each row's correction is scaled to length `alpha`. The auxiliary
    velocity learns by flow matching on the same re-noised samples: its term is part of the correction's. Linear path only.

    Args:
      total_steps: unused.
      times: sampler of the prediction's target time; uniform, which is ours.
      correction_times: sampler of the time up to which samples are noised again; median 0.8 and close to 1, as published in words.
      correction: share of the rows with the correction, as a string ("1/4" as published), or "both".
      alpha: length of the correction of a row.
      c: floor of the prediction's mean squared error.
      label_drop: share of labels replaced by the null label; 0, because the teacher is asked for every label.
      jvp: a scheme of finite differences (the paper's choice), "exact", or a function with the signature of jax.jvp.

    Reference: Tong et al. 2025 (arXiv 2511.19428).
    """
    del total_steps
    jvp = derivatives.jvp_from_name(jvp)
    on, off = recipe.split(correction)
    corrected = functools.partial(distances.normalised, reduce="mean", c=1e-6)

    def prediction(nets, point):
        V, teacher = recipe.bind(nets.V, point), recipe.bind_velocity(nets.teacher, point)
        return losses.freeflow_prediction(V, teacher, point.x, point.t, jvp=jvp)

    def correction_errors(nets, point):
        V, teacher = recipe.bind(nets.V, point), recipe.bind_velocity(nets.teacher, point)
        velocity, r = recipe.bind_velocity(nets.velocity, point), point.t
        push = losses.freeflow_correction(V, velocity, teacher, point.x, r, point.eps)
        x_r, v = paths.interpolate(paths.linear, sg(push.prediction), point.eps, r)
        own = losses.flow_matching(lambda x, s, t: velocity(x, s), x_r, r, v)
        return alpha * corrected(*push) + distances.l2(*own)

    adaptive = functools.partial(distances.adaptive, reduce="mean", p=1.0, c=c)
    parts = [
        (typing.Term("correction", correction_errors, None, columns=on), recipe.target_times(correction_times)),
        (typing.Term("prediction", prediction, adaptive, columns=off), recipe.target_times(times)),
    ]
    return recipe.method(parts, path=recipe.NOISE, label_drop=label_drop, needs={"teacher": {}, "velocity": {}})


def pid(*, total_steps=None, times=("karras", 250), distance="l2", label_drop=0.0, jvp="backward"):
    """Physics Informed Distillation: the trajectory from noise solves the teacher's equation; no data is read.

    Args:
      total_steps: unused.
      times: sampler of t; 250 Karras levels as published.
      distance: "l2", "huber", "cosine", or a function; LPIPS in the paper: functools.partial(distances.features, phi=...).
      label_drop: share of labels replaced by the null label; 0, because the teacher is asked for every label.
      jvp: one-sided towards the data as published ("backward"), another scheme, "exact", or a function with jax.jvp's signature.

    Reference: Tee et al. 2024 (arXiv 2411.08378).
    """
    del total_steps
    jvp = derivatives.jvp_from_name(jvp)

    def pair(nets, point):
        V, teacher = recipe.bind(nets.V, point), recipe.bind_velocity(nets.teacher, point)
        return losses.physics_informed(V, teacher, point.x, point.t, jvp=jvp)

    lagrangian = typing.Term("lagrangian", pair, distances.distance_from_name(distance))
    parts = [(lagrangian, recipe.target_times(times))]
    return recipe.method(parts, path=recipe.NOISE, label_drop=label_drop, needs={"teacher": {}})


def boot(*, total_steps=None, times=("uniform",), delta=0.04, boundary=0.5, label_drop=0.0):
    """BOOT: bootstrapping from noise in small teacher steps, and the boundary at s = t = 1; no data is read.

    Args:
      total_steps: unused.
      times: sampler of m, the time from which a step of the teacher is taken.
      delta: length of the step; the published value as remembered.
      boundary: weight of the boundary; the published value as remembered.
      label_drop: share of labels replaced by the null label; 0, because the teacher is asked for every label.

    Reference: Gu et al. 2023 (arXiv 2306.05544).
    """
    del total_steps
    source = recipe.diagonal_times(times)

    def draw(key, n, step):
        m = jnp.maximum(source(key, n, step)["s"], delta)
        t = m - delta
        return {"t": t, "a": (1 - m) / (1 - t)}

    def pair(nets, point):
        V, teacher = recipe.bind(nets.V, point), recipe.bind_velocity(nets.teacher, point)
        m = 1 + point.a * (point.t - 1)
        return losses.boot(V, teacher, point.x, point.t, m)

    lagrangian = typing.Term("lagrangian", pair, distances.l2)
    anchor = typing.Term("anchor", recipe.teacher_anchor, distances.l2, weight=boundary)
    at_one = lambda key, n, step: {"s": jnp.ones((n,))}
    parts = [(lagrangian, draw), (anchor, at_one)]
    return recipe.method(parts, path=recipe.NOISE, label_drop=label_drop, needs={"teacher": {}})


def cmt(*, total_steps=None, times=("uniform_triangle",), distance="l2", label_drop=0.1):
    """Consistency mid-training: every jump along a teacher's trajectories, which the dataset holds; the teacher is not asked.

    Args:
      total_steps: unused.
      times: sampler of (s, t), moved to the nearest two points of the trajectory; uniform, which is ours.
      distance: "l2", "huber", "cosine", or a function; LPIPS in the paper: functools.partial(distances.features, phi=...).
      label_drop: share of labels replaced by the null label, an independent draw.

    Reference: Hu et al. 2025 (arXiv 2509.24526).
    """
    del total_steps

    def pair(nets, point):
        x_t = flowmap.move(point.x, point.s, point.t, point.v)
        return losses.consistency_mid_training(recipe.bind(nets.V, point), point.x, point.s, point.t, x_t)

    lagrangian = typing.Term("lagrangian", pair, distances.distance_from_name(distance))
    method = recipe.method([(lagrangian, recipe.pair_times(times))], path=recipe.TRAJECTORY, label_drop=label_drop)
    return method._replace(draw=recipe.with_trajectories(method.draw))
