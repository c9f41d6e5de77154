"""Recipes of the Eulerian rule: the source moves. The consistency models, which hold the target at the data, are in `consistency`."""

import functools

import jax
import jax.numpy as jnp

from flowjax import derivatives, distances, flowmap, losses, schedules, typing
from flowjax.methods import recipe


def meanflow(
    *,
    total_steps=None,
    times=("sorted_pair", ("logit_normal", -0.4, 1.0)),
    diagonal="3/4",
    p=1.0,
    c=0.01,
    path="linear",
    label_drop=0.1,
    jvp="exact",
):
    """MeanFlow, the ImageNet-256 recipe; guidance is `methods.guided`.

    A share of the rows lies on the diagonal at the source time of its pair, where MeanFlow is flow matching; the jvp runs on the
    other rows only. The published code takes the diagonal rows and the dropped labels from the head of the same batch; here the
    two are independent.

    Args:
      total_steps: unused.
      times: sampler of (s, t).
      diagonal: share of the rows with t = s, as a string ("3/4"), or "both".
      p: power of the adaptive distance.
      c: its floor, on the SUM of squares over the data axes.
      path: name of a path or a flowjax.paths.Path.
      label_drop: share of labels replaced by the null label, an independent draw.
      jvp: "exact", a scheme of finite differences, or a function with the signature of jax.jvp.

    Reference: Geng et al. 2025 (arXiv 2505.13447), Table 4 (constants for ImageNet 256 x 256).
    """
    del total_steps
    jvp = derivatives.jvp_from_name(jvp)
    on, off = recipe.split(diagonal)
    distance = functools.partial(distances.adaptive, reduce="sum", p=p, c=c)

    def pair(nets, point):
        v = recipe.velocity(nets, point).v
        return losses.meanflow(recipe.bind(nets.V, point), point.x, point.s, point.t, v, jvp=jvp)

    anchor = typing.Term("anchor", recipe.anchor, distance, columns=on)
    eulerian = typing.Term("eulerian", pair, distance, columns=off)
    parts = [(anchor, recipe.source_times(times)), (eulerian, recipe.pair_times(times))]
    return recipe.method(parts, path=path, label_drop=label_drop)


def imf(
    *,
    total_steps=None,
    times=("sorted_pair", ("logit_normal", -0.4, 1.0)),
    diagonal="1/2",
    heads=1,
    p=1.0,
    c=0.01,
    path="linear",
    label_drop=0.1,
    jvp="exact",
):
    """Improved MeanFlow; the tangent is the network's own velocity: V(x, s, s), or that of a second head.

    Arguments as in `meanflow`; half of the rows lie on the diagonal.

    Args:
      heads: 2, as published, for a network with a velocity head (`Nets.both`): both heads are scored on the same velocity, in one
        pass; 1 for any network.

    Raises:
      InputError: for another number of heads.

    Reference: Geng et al. 2025 (arXiv 2512.02012); the share of the diagonal and the distance from its configuration table.
    """
    del total_steps
    if heads not in (1, 2):
        raise typing.InputError(f"heads is {heads!r}; expected 1, or 2 for a network with a velocity head.")
    jvp = derivatives.jvp_from_name(jvp)
    on, off = recipe.split(diagonal)
    distance = functools.partial(distances.adaptive, reduce="sum", p=p, c=c)

    def pair(nets, point):
        own = recipe.velocity(nets, point)
        return losses.improved_meanflow(
            recipe.bind(nets.V, point), point.x, point.s, point.t, own.v, v_tangent=own.V_ss, jvp=jvp
        )

    def both_pairs(nets, point):
        own = recipe.velocity(nets, point)
        return losses.improved_meanflow_two_heads(
            recipe.bind(nets.both, point), point.x, point.s, point.t, own.v, v_tangent=own.V_ss, jvp=jvp
        )

    anchor = typing.Term("anchor", recipe.anchor if heads == 1 else recipe.both_anchors, distance, columns=on)
    eulerian = typing.Term("eulerian", pair if heads == 1 else both_pairs, distance, columns=off)
    parts = [(anchor, recipe.source_times(times)), (eulerian, recipe.pair_times(times))]
    return recipe.method(parts, path=path, label_drop=label_drop, needs={} if heads == 1 else {"both": {}})


def soflow(
    *,
    total_steps=None,
    times=("two_sided", ("logit_normal", 0.2, 0.8), ("logit_normal", -1.0, 0.8)),
    anchor_times=("logit_normal", -0.2, 1.0),
    diagonal="3/4",
    a_start=0.1,
    a_end=0.002,
    p=1.0,
    c=0.01,
    path="linear",
    label_drop=0.1,
):
    """SoFlow: anchor and solution consistency on different rows, `a` falling exponentially.

    The pair of the consistency term is divided by `a` and its weight is `a`, so that its error is
    `a^(2p-1) e / (e + c a^2)^p` with `e` the mean square of the undivided pair, as published; the raw metric is of the divided
    pair and comparable with MeanFlow's.

    Args:
      total_steps: length of the training, over which `a` falls; required unless a_start equals a_end.
      times: sampler of (s, t).
      anchor_times: sampler of the anchor's time.
      diagonal: share of the rows with the anchor, as a string ("3/4"), or "both".
      a_start: fraction of the way covered by the finite step at the first step.
      a_end: the same at total_steps.
      p: power of the adaptive distance.
      c: its floor, on the MEAN of squares over the data axes.
      path: name of a path or a flowjax.paths.Path.
      label_drop: share of labels replaced by the null label, an independent draw.

    Reference: Luo, Yuan and Liu 2025 (arXiv 2512.15657), the ImageNet-256 configuration.
    """
    on, off = recipe.split(diagonal)
    distance = functools.partial(distances.adaptive, reduce="mean", p=p, c=c)
    fraction = recipe.exponential("soflow", a_start, a_end, total_steps)

    def pair(nets, point):
        v = recipe.velocity(nets, point).v
        prediction, target = losses.soflow(recipe.bind(nets.V, point), point.x, point.s, point.t, v, point.a)
        return typing.Pair(prediction / point.a, target / point.a)

    anchor = typing.Term("anchor", recipe.anchor, distance, columns=on)
    eulerian = typing.Term("eulerian", pair, distance, weight=lambda point: point.a.reshape(-1), columns=off)
    parts = [(anchor, recipe.diagonal_times(anchor_times)), (eulerian, recipe.pair_times(times, fraction))]
    return recipe.method(parts, path=path, label_drop=label_drop)


def alphaflow(
    *,
    total_steps=None,
    times=("sorted_pair", ("logit_normal", -0.4, 1.0)),
    diagonal="1/4",
    start=0.0,
    end=1.0,
    steepness=25.0,
    snap=0.005,
    clip=4.0,
    p=1.0,
    c=1e-3,
    path="linear",
    label_drop=0.1,
    jvp="exact",
):
    """AlphaFlow: from trajectory flow matching (a = 1) to MeanFlow (a = 0) along a sigmoid.

    As in `soflow` the pair is divided by `a` and weighted by it, so that the gradient tends to MeanFlow's; at a = 0 the
    derivative itself is taken (both programs are compiled, one runs). The raw metric is of the divided pair.

    Args:
      total_steps: length of the training, which `start` and `end` are shares of; required.
      times: sampler of (s, t); MeanFlow's, the paper's own could not be verified.
      diagonal: share of the rows with t = s, as a string ("1/4", the lower of the published 25% and 50%).
      start: share of the training at which the sigmoid's span begins (ours: the published spans are in steps of their runs).
      end: share at which it ends (ours).
      steepness: of the sigmoid over its span, 25 as published.
      snap: distance from 0 and 1 below which `a` is exactly so, 0.005 as published.
      clip: largest absolute value of the target, 4 as published.
      p: power of the adaptive distance.
      c: its floor, 1e-3 as published, on the MEAN of squares over the data axes.
      path: name of a path or a flowjax.paths.Path.
      label_drop: share of labels replaced by the null label, an independent draw.
      jvp: the derivative at a = 0: "exact", a scheme of finite differences, or a function with the signature of jax.jvp.

    Reference: Zhang et al. 2025 (arXiv 2510.20771).
    """
    jvp = derivatives.jvp_from_name(jvp)
    on, off = recipe.split(diagonal)
    steps = recipe.length("alphaflow", "a falls from 1 to 0", total_steps)
    distance = functools.partial(distances.adaptive, reduce="mean", p=p, c=c)
    clipped = lambda target: jnp.clip(target, -clip, clip)

    def pair(nets, point):
        V, x, s, t, v = recipe.bind(nets.V, point), point.x, point.s, point.t, recipe.velocity(nets, point).v
        a = jnp.maximum(point.a, snap)

        def two_legs():
            prediction, target = losses.alphaflow(V, x, s, t, v, a)
            return typing.Pair(prediction / a, clipped(target) / a)

        def limit():
            prediction, target = losses.meanflow(V, x, s, t, v, jvp=jvp)
            return typing.Pair(prediction / jnp.ones_like(a), clipped(target) / jnp.ones_like(a))

        return jax.lax.cond(jnp.max(point.a) > 0, two_legs, limit)

    schedule = schedules.sigmoid(start * steps, end * steps, steepness, snap)
    weight = lambda point: jnp.where(point.a > 0, point.a, 1.0).reshape(-1)
    anchor = typing.Term("anchor", recipe.anchor, distance, columns=on)
    eulerian = typing.Term("eulerian", pair, distance, weight=weight, columns=off)
    parts = [(anchor, recipe.source_times(times)), (eulerian, recipe.pair_times(times, schedule))]
    return recipe.method(parts, path=path, label_drop=label_drop)


def dmf(
    *,
    total_steps=None,
    times=("sorted_sides", ("logit_normal", 0.4, 1.0), ("logit_normal", -1.2, 1.0)),
    anchor_times=("logit_normal", 0.0, 1.0),
    diagonal="1/2",
    c=0.01,
    log_variance_bound=None,
    path="linear",
    label_drop=0.1,
    jvp="exact",
):
    """Decoupled MeanFlow: MeanFlow's pair under a Cauchy distance with a learned log-variance of (s, t).

    The paper's network, source time in the first two thirds of the blocks and target time in the rest, is a choice of
    config.model; so is the flow-matching model that it starts from.

    Args:
      total_steps: unused.
      times: sampler of (s, t), the larger and the smaller of two logit-normals.
      anchor_times: sampler of the anchor's time.
      diagonal: share of the rows with the anchor, as a string ("1/2"), or "both".
      c: floor of the Cauchy distance, 0.01 as published, on the MEAN of squares over the data axes.
      log_variance_bound: bound on the size of the learned log-variance; None, no bound, as published.
      path: name of a path or a flowjax.paths.Path.
      label_drop: share of labels replaced by the null label, an independent draw.
      jvp: "exact", a scheme of finite differences, or a function with the signature of jax.jvp.

    Reference: Lee, Yu and Shin 2025 (arXiv 2510.24474).
    """
    del total_steps
    jvp = derivatives.jvp_from_name(jvp)
    on, off = recipe.split(diagonal)
    distance = functools.partial(distances.cauchy, c=c)

    def pair(nets, point):
        v = recipe.velocity(nets, point).v
        return losses.meanflow(recipe.bind(nets.V, point), point.x, point.s, point.t, v, jvp=jvp)

    anchor = typing.Term("anchor", recipe.with_log_variance(recipe.anchor, log_variance_bound), distance, columns=on)
    eulerian = typing.Term("eulerian", recipe.with_log_variance(pair, log_variance_bound), distance, columns=off)
    parts = [(anchor, recipe.diagonal_times(anchor_times)), (eulerian, recipe.pair_times(times))]
    return recipe.method(parts, path=path, label_drop=label_drop, needs={"log_variance": {}})


def pmf(
    *,
    total_steps=None,
    times=("sorted_pair", ("logit_normal", 0.8, 0.8)),
    diagonal="1/2",
    heads=1,
    p=1.0,
    c=0.01,
    path="linear",
    label_drop=0.1,
    jvp="exact",
):
    """Pixel MeanFlow: improved MeanFlow's loss on the velocity of a network that predicts the denoised image field.

    The rewriting V = (x - D) / s is the network's: config.model.parameterisation = "denoised_field". Without the paper's perceptual
    term.

    Args:
      total_steps: unused.
      times: sampler of (s, t); constant from the paper as remembered.
      diagonal: share of the rows with t = s, as a string ("1/2", improved MeanFlow's).
      heads: 2, as published, for a network with a velocity head; 1 for any network.
      p: power of the adaptive distance.
      c: its floor, on the SUM of squares over the data axes.
      path: name of a path or a flowjax.paths.Path.
      label_drop: share of labels replaced by the null label, an independent draw.
      jvp: "exact", a scheme of finite differences, or a function with the signature of jax.jvp.

    Reference: Lu et al. 2026 (arXiv 2601.22158).
    """
    return imf(
        total_steps=total_steps,
        times=times,
        diagonal=diagonal,
        heads=heads,
        p=p,
        c=c,
        path=path,
        label_drop=label_drop,
        jvp=jvp,
    )


def rectified_meanflow(
    *,
    total_steps=None,
    times=("sorted_pair", ("logit_normal", -0.4, 1.0)),
    diagonal="3/4",
    p=1.0,
    c=0.01,
    path="linear",
    label_drop=0.1,
    jvp="exact",
):
    """Rectified MeanFlow: MeanFlow on the straightened paths of one reflow: the batch brings each noise with its sample.

    `batch["eps"]` is the noise that a teacher carried to `batch["x"]`. The paper also drops the couplings that are furthest apart,
    which is a matter of the dataset. Constants are MeanFlow's.

    Args:
      total_steps: unused.
      times: sampler of (s, t).
      diagonal: share of the rows with t = s, as a string ("3/4").
      p: power of the adaptive distance.
      c: its floor, on the SUM of squares over the data axes.
      path: name of a path or a flowjax.paths.Path.
      label_drop: share of labels replaced by the null label, an independent draw.
      jvp: "exact", a scheme of finite differences, or a function with the signature of jax.jvp.

    Reference: Zhang et al. 2025 (arXiv 2511.23342).
    """
    method = meanflow(
        total_steps=total_steps, times=times, diagonal=diagonal, p=p, c=c, path=path, label_drop=label_drop, jvp=jvp
    )
    return method._replace(draw=recipe.coupled(method.draw))


def emd(*, total_steps=None, times=("uniform_triangle",), path="linear", label_drop=0.1, jvp="exact"):
    """Eulerian Map Distillation: d_s F = 0 along the teacher, mean squared error, gradient through the derivative.

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
        v = nets.teacher(point.x, point.s, point.cond)
        return losses.eulerian_distillation(recipe.bind(nets.V, point), point.x, point.s, point.t, v, jvp=jvp)

    eulerian = typing.Term("eulerian", pair, distances.l2)
    parts = [(eulerian, recipe.pair_times(times))]
    return recipe.method(parts, path=path, label_drop=label_drop, needs={"teacher": {}})


def esd(
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
    """Eulerian Self-Distillation: anchor and rule on different rows, each weighed by a learned log-variance of (s, t).

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
        return losses.eulerian_self_distillation(recipe.bind(nets.V, point), point.x, point.s, point.t, jvp=jvp)

    anchor = typing.Term(
        "anchor", recipe.with_log_variance(recipe.anchor, log_variance_bound), distances.likelihood, columns=on
    )
    eulerian = typing.Term("eulerian", recipe.with_log_variance(pair, log_variance_bound), distances.likelihood, columns=off)
    parts = [(anchor, recipe.diagonal_times(anchor_times)), (eulerian, recipe.pair_times(times))]
    return recipe.method(parts, path=path, label_drop=label_drop, needs={"log_variance": {}})


def ayf_emd(
    *,
    total_steps=None,
    times=("gap_uniform", ("logit_normal", -0.8, 1.0)),
    warmup_steps=10_000,
    warmup=0.99,
    c=0.1,
    path="linear",
    label_drop=0.1,
    jvp="exact",
):
    """Align Your Flow, the Eulerian form: the derivative warms up, the tangent is normalised.

    Without the adversarial stage of the paper.

    Args:
      total_steps: unused.
      times: sampler of (s, t), the gap first; constants of the gap from the paper as remembered.
      warmup_steps: steps over which the factor of the derivative grows from 0; from the paper as remembered.
      warmup: where it ends; 0.99 as published, a small pull towards straight lines.
      c: floor of the root mean square that normalises the tangent, 0.1 as published.
      path: name of a path or a flowjax.paths.Path.
      label_drop: share of labels replaced by the null label, an independent draw.
      jvp: "exact", a scheme of finite differences, or a function with the signature of jax.jvp.

    Reference: Sabour, Fidler and Kreis 2025 (arXiv 2506.14603).
    """
    del total_steps
    jvp = derivatives.jvp_from_name(jvp)

    def pair(nets, point):
        V, x, s = recipe.bind(nets.V, point), point.x, point.s
        v = nets.teacher(x, s, point.cond)
        return losses.align_your_flow_emd(V, x, s, point.t, v, warmup=point.a, jvp=jvp)

    eulerian = typing.Term("eulerian", pair, functools.partial(distances.normalised, reduce="mean", c=c))
    parts = [(eulerian, recipe.pair_times(times, recipe.warm_up(warmup, warmup_steps)))]
    return recipe.method(parts, path=path, label_drop=label_drop, needs={"teacher": {}})


def facm(
    *,
    total_steps=None,
    times=("logit_normal", -0.8, 1.6),
    p=0.5,
    c=1e-3,
    path="linear",
    label_drop=0.1,
    jvp="exact",
):
    """Flow-Anchored Consistency Models: consistency at t = 0 and, at the same point, an anchor with source time 2 - s.

    Both parts share the teacher's velocity, so they are one term; its raw metric is the sum of their errors.

    Args:
      total_steps: unused.
      times: sampler of s; noise level log-normal(-0.8, 1.6), which is logit-normal in our time.
      p: power of the distance e / sg(e + c)^p of the consistency part, 0.5 as published.
      c: its floor, 1e-3 as published, on the MEAN of squares over the data axes.
      path: name of a path or a flowjax.paths.Path.
      label_drop: share of labels replaced by the null label, an independent draw.
      jvp: "exact", a scheme of finite differences, or a function with the signature of jax.jvp.

    Reference: Peng et al. 2025 (arXiv 2507.03738), Algorithm 1 and its code.
    """
    del total_steps
    jvp = derivatives.jvp_from_name(jvp)

    def errors(nets, point):
        V, x, s = recipe.bind(nets.V, point), point.x, point.s
        v = nets.teacher(x, s, point.cond)
        consistency = losses.flow_anchored(V, x, s, v, jvp=jvp)
        anchor = losses.flow_matching(flowmap.extended_source(V), x, s, v)
        jump = jnp.sin(jnp.pi / 2 * s).reshape(-1) * distances.adaptive(*consistency, reduce="mean", p=p, c=c)
        return jump + distances.l2(*anchor) + distances.cosine(*anchor)

    eulerian = typing.Term("eulerian", errors, None)
    parts = [(eulerian, recipe.diagonal_times(times))]
    return recipe.method(parts, path=path, label_drop=label_drop, needs={"teacher": {}})
