"""Recipes of the Eulerian rule: the source moves. The consistency models, which hold the target at the data, are in `consistency`."""

import functools

import jax
import jax.numpy as jnp

from flowjax import checks, distances, flowmap, losses, schedules, typing
from flowjax.methods import draws, pairs, recipe
from flowjax.paths import Path
from flowjax.times import TimeSampler
from flowjax.typing import Array, Jvp, Method, Nets, Pair, Point


def meanflow(
    *,
    times: TimeSampler = ("sorted_pair", ("logit_normal", -0.4, 1.0)),
    diagonal: str = "3/4",
    p: float = 1.0,
    c: float = 0.01,
    path: str | Path = "linear",
    label_drop: float = 0.1,
    jvp: str | Jvp = "exact",
) -> Method:
    """MeanFlow, the ImageNet-256 recipe; guidance is `methods.guided`.

    A share of the rows lies on the diagonal at the source time of its pair, where MeanFlow is flow matching; the jvp runs on the
    other rows only. The published code takes the diagonal rows and the dropped labels from the head of the same batch, so that no
    other row loses its label; here the two are independent.

    The second version of the authors' code for CIFAR-10 has diagonal "1/4", p 0.75, c 1e-3 and the times ("two_sided",
    ("logit_normal", -0.6, 1.6), ("logit_normal", -4.0, 1.6), 0.0).

    Args:
      diagonal: 3/4 of the rows have t = s.
      p: power of the adaptive distance.
      c: its floor, on the SUM of squares over the data axes.

    Reference: Geng et al. 2025 (arXiv 2505.13447), Table 4 (constants for ImageNet 256 x 256).
    """
    on, off = recipe.split(diagonal)
    distance = functools.partial(distances.adaptive, reduce="sum", p=p, c=c)
    slope = pairs.pair(losses.meanflow, jvp=jvp)
    anchor = typing.Term("anchor", pairs.anchor, distance, columns=on, times=draws.source_times(times))
    eulerian = typing.Term("eulerian", slope, distance, columns=off, times=draws.pair_times(times))
    return recipe.method([anchor, eulerian], points=draws.on_path(path), label_drop=label_drop)


def imf(
    *,
    times: TimeSampler = ("sorted_pair", ("logit_normal", -0.4, 1.0)),
    diagonal: str = "1/2",
    heads: int = 1,
    p: float = 1.0,
    c: float = 0.01,
    path: str | Path = "linear",
    label_drop: float = 0.1,
    jvp: str | Jvp = "exact",
) -> Method:
    """Improved MeanFlow; the tangent is the network's velocity: V(x, s, s), or that of a second head.

    Args:
      diagonal: half of the rows have t = s.
      heads: 2, as published, for a network with a velocity head (`Nets.both`): both heads are scored on the same velocity, in one
        pass; 1 for any network.
      p: power of the adaptive distance.
      c: its floor, on the SUM of squares over the data axes.

    Raises:
      InputError: for another number of heads.

    Reference: Geng et al. 2025 (arXiv 2512.02012); the share of the diagonal and the distance from its configuration table.
    """
    on, off = recipe.split(diagonal)
    distance = functools.partial(distances.adaptive, reduce="sum", p=p, c=c)
    flow, loss, needs = pairs.velocity_heads(heads)
    anchor = typing.Term("anchor", flow, distance, columns=on, times=draws.source_times(times))
    eulerian = typing.Term("eulerian", pairs.pair(loss, jvp=jvp), distance, columns=off, times=draws.pair_times(times))
    return recipe.method([anchor, eulerian], points=draws.on_path(path), label_drop=label_drop, needs=needs)


def rectified_meanflow(
    *,
    times: TimeSampler = ("gap_below", ("u_shaped", 4.0), ("logit_normal", -0.8, 1.0)),
    anchor_times: TimeSampler = ("u_shaped", 4.0),
    diagonal: str = "3/4",
    p: float = 0.5,
    c: float = 0.01,
    path: str | Path = "linear",
    label_drop: float = 0.1,
    jvp: str | Jvp = "exact",
) -> Method:
    """Rectified MeanFlow: MeanFlow on the straightened paths of one reflow: the batch brings each noise with its sample.

    `batch["eps"]` is the noise that a teacher carried to `batch["x"]`. The paper also drops the couplings that are furthest apart
    (mean square distance 0.87 and more), which is a matter of the dataset.

    Args:
      times: source times near both ends, then the gap; the gap's mean is that of the published command.
      diagonal: 3/4 of the rows have t = s, an independent draw in the code.
      p: power of the adaptive distance, 0.5 as published.
      c: its floor, 0.01 as published, on the MEAN of squares over the data axes.

    Reference: Zhang et al. 2025 (arXiv 2511.23342), constants from its code and published command.
    """
    on, off = recipe.split(diagonal)
    distance = functools.partial(distances.adaptive, reduce="mean", p=p, c=c)
    slope = pairs.pair(losses.meanflow, jvp=jvp)
    anchor = typing.Term("anchor", pairs.anchor, distance, columns=on, times=draws.diagonal_times(anchor_times))
    eulerian = typing.Term("eulerian", slope, distance, columns=off, times=draws.pair_times(times))
    return draws.coupled(recipe.method([anchor, eulerian], points=draws.on_path(path), label_drop=label_drop))


def soflow(
    *,
    total_steps: int | None = None,
    times: TimeSampler = ("two_sided", ("logit_normal", 0.2, 0.8), ("logit_normal", -1.0, 0.8)),
    anchor_times: TimeSampler = ("logit_normal", -0.2, 1.0),
    diagonal: str = "3/4",
    a_start: float = 0.1,
    a_end: float = 0.002,
    least_step: float = 1e-4,
    p: float = 1.0,
    c: float = 0.01,
    path: str | Path = "linear",
    label_drop: float = 0.1,
) -> Method:
    """SoFlow: anchor and solution consistency on different rows, `a` falling exponentially.

    The pair of the consistency term is divided by `a` and its weight is `a / 2`, so that its error is
    `a^(2p-1) e / (e + c a^2)^p / 2` with `e` the mean square of the undivided pair; the raw metric is of the divided pair and
    comparable with MeanFlow's. The half is the authors' code's: it writes the term as a product, network times stopped quotient,
    whose gradient is half that of a square, and calls it the same gradient; the anchor beside it is a square.

    Args:
      total_steps: over which `a` falls; required unless a_start equals a_end.
      a_start: fraction of the way covered by the finite step at the first step.
      a_end: the same at total_steps.
      least_step: least s - m of the finite step, 1e-4 as in the code: `a` is larger where the gap is small. Below it the quotient is
        rounding.
      p: power of the adaptive distance.
      c: its floor, on the MEAN of squares over the data axes.

    Reference: Luo, Yuan and Liu 2025 (arXiv 2512.15657), the ImageNet-256 configuration; factors and floors from its code.
    """
    on, off = recipe.split(diagonal)
    distance = functools.partial(distances.adaptive, reduce="mean", p=p, c=c)
    consistency = pairs.pair(losses.soflow)
    if a_start == a_end:
        fraction = schedules.constant(a_start)
    else:
        length = recipe.length("soflow", f"a falls from {a_start} to {a_end}", total_steps)
        fraction = schedules.exponential(a_start, a_end, length)

    def divided(nets: Nets, point: Point) -> Pair:
        prediction, target = consistency(nets, point)
        return Pair(prediction / point.a, target / point.a)

    half = lambda point: point.a.reshape(-1) / 2
    rule_times = draws.pair_times(times, fraction, least_step)
    anchor = typing.Term("anchor", pairs.anchor, distance, columns=on, times=draws.diagonal_times(anchor_times))
    eulerian = typing.Term("eulerian", divided, distance, half, columns=off, times=rule_times)
    return recipe.method([anchor, eulerian], points=draws.on_path(path), label_drop=label_drop)


def alphaflow(
    *,
    total_steps: int | None = None,
    times: TimeSampler = ("sorted_pair", ("logit_normal", -0.4, 1.0)),
    anchor_times: TimeSampler = ("logit_normal", -0.4, 1.0),
    diagonal: str = "1/4",
    start: float = 0.0,
    end: float = 1.0,
    steepness: float = 25.0,
    snap: float = 0.005,
    clip: float = 4.0,
    p: float = 1.0,
    c: float = 1e-3,
    path: str | Path = "linear",
    label_drop: float = 0.1,
    jvp: str | Jvp = "exact",
) -> Method:
    """AlphaFlow: from trajectory flow matching (a = 1) to MeanFlow (a = 0) along a sigmoid.

    The error of a row is `a^(2p-1) e / (e + c)^p` with `e` the mean square of the pair; the published p = 1 has the weight `a`, and
    other powers (ours) the one with which the gradient tends to MeanFlow's too, as long as `e` is far above `c`. At a = 0 the
    derivative itself is taken, with weight 1 (both programs are compiled, one runs). The residual falls with `a`, and the raw metric
    with its square.

    Args:
      total_steps: of which `start` and `end` are shares; required.
      diagonal: 1/4 as published for guided B/2; 1/2 for XL/2.
      start: share of the training at which the sigmoid's span begins: 0 as published for B/2, 1/2 for XL/2.
      end: share at which it ends: 1 as published for B/2, 5/6 for XL/2.
      steepness: of the sigmoid over its span, 25 as published.
      snap: distance from 0 and 1 below which `a` is exactly so, 0.005 as published.
      clip: largest absolute value of the finite step's target, 4 as published; neither flow matching nor the derivative is clipped.
      p: power of the adaptive distance.
      c: its floor, 1e-3 as published, on the MEAN of squares over the data axes.
      jvp: the derivative at a = 0.

    Reference: Zhang et al. 2025 (arXiv 2510.20771), Table 3 and appendix G.2; the clip from its code.
    """
    on, off = recipe.split(diagonal)
    length = recipe.length("alphaflow", "a falls from 1 to 0", total_steps)
    schedule = schedules.sigmoid(start * length, end * length, steepness, snap)
    distance = functools.partial(distances.adaptive, reduce="mean", p=p, c=c)
    finite, slope = pairs.pair(losses.alphaflow), pairs.pair(losses.meanflow, jvp=jvp)

    def two_legs(nets: Nets, point: Point, v: Array) -> Pair:
        prediction, target = finite(nets, point, v=v, a=jnp.maximum(point.a, snap))
        return Pair(prediction, jnp.clip(target, -clip, clip))

    def scheduled(nets: Nets, point: Point) -> Pair:
        v = pairs.velocity(nets, point).v
        return jax.lax.cond(jnp.max(point.a) > 0, lambda: two_legs(nets, point, v), lambda: slope(nets, point, v=v))

    def weight(point: Point) -> Array:
        return jnp.where(point.a > 0, jnp.maximum(point.a, snap) ** (2 * p - 1), 1.0).reshape(-1)

    anchor = typing.Term("anchor", pairs.anchor, distance, columns=on, times=draws.diagonal_times(anchor_times))
    eulerian = typing.Term("eulerian", scheduled, distance, weight, columns=off, times=draws.pair_times(times, schedule))
    return recipe.method([anchor, eulerian], points=draws.on_path(path), label_drop=label_drop)


def dmf(
    *,
    times: TimeSampler = ("sorted_sides", ("logit_normal", 0.4, 1.0), ("logit_normal", -1.2, 1.0)),
    anchor_times: TimeSampler = ("logit_normal", 0.0, 1.0),
    diagonal: str = "both",
    c: float = 0.01,
    log_variance_bound: float | None = None,
    path: str | Path = "linear",
    label_drop: float = 0.1,
    jvp: str | Jvp = "exact",
) -> Method:
    """Decoupled MeanFlow: MeanFlow's pair under a Cauchy distance with a learned log-variance of (s, t).

    The loss of a row is half the sum of anchor and rule, each with its own noise and times; their label is dropped together.
    The paper's network, source time in the first two thirds of the blocks and target time in the rest, is a choice of
    config.model; so is the flow-matching model that it starts from.

    Args:
      times: the larger and the smaller of two logit-normals.
      diagonal: "both" as published. On a share of the rows instead, each term has weight 1: the same mean for half the work.
      c: floor of the Cauchy distance, 0.01 as published, on the MEAN of squares over the data axes.

    Reference: Lee, Yu and Shin 2025 (arXiv 2510.24474).
    """
    on, off = recipe.split(diagonal)
    slope = pairs.pair(losses.meanflow, jvp=jvp)
    distance, learned = functools.partial(distances.cauchy, c=c), pairs.log_variance(log_variance_bound)
    share = 0.5 if diagonal == "both" else 1.0
    term = functools.partial(typing.Term, distance=distance, weight=share, arguments=learned)
    anchor = term("anchor", pairs.anchor, columns=on, times=draws.diagonal_times(anchor_times))
    eulerian = term("eulerian", slope, columns=off, times=draws.pair_times(times))
    points, needs = draws.on_path(path), {"log_variance": typing.Network("LinearLogVariance", call="times")}
    return recipe.method([anchor, eulerian], points=points, label_drop=label_drop, needs=needs, one_noise=False)


def emd(
    *,
    times: TimeSampler = ("uniform_triangle",),
    path: str | Path = "linear",
    label_drop: float = 0.1,
    jvp: str | Jvp = "exact",
) -> Method:
    """Eulerian Map Distillation: d_s F = 0 along the teacher, mean squared error, gradient through the derivative.

    Args:
      times: the paper weighs all pairs of times alike.
      path: in any space: that of the teacher of a Generalised Flow Map (arXiv 2510.21608).

    Reference: Boffi et al. 2024 (arXiv 2406.07507).
    """
    loss, constants, scored = pairs.on_space(path, losses.eulerian_distillation, losses.riemannian_eulerian_distillation)
    slope = pairs.distilled(loss, jvp=jvp, **constants)
    eulerian = typing.Term("eulerian", slope, times=draws.pair_times(times), **scored)
    return recipe.method([eulerian], points=draws.on_path(path), label_drop=label_drop, needs={"teacher": {}})


def esd(
    *,
    times: TimeSampler = ("uniform_triangle",),
    anchor_times: TimeSampler = ("uniform",),
    diagonal: str = "3/4",
    learned_weight: bool = True,
    path: str | Path = "linear",
    label_drop: float = 0.1,
    jvp: str | Jvp = "exact",
) -> Method:
    """Eulerian Self-Distillation: anchor and rule on different rows, squared errors weighed by a learned log-variance of (s, t).

    Errors are summed over the data axes.

    Args:
      times: uniform on the triangle as published.
      anchor_times: uniform as published.
      diagonal: 3/4 as published.
      learned_weight: whether rows are weighed so; in the published code for images, not for points.

    Reference: Boffi et al. 2025 (arXiv 2505.18825).
    """
    on, off = recipe.split(diagonal)
    slope = pairs.pair(losses.eulerian_self_distillation, jvp=jvp)
    scored, needs = pairs.learned_weight(learned_weight)
    anchor = typing.Term("anchor", pairs.anchor, columns=on, times=draws.diagonal_times(anchor_times), **scored)
    eulerian = typing.Term("eulerian", slope, columns=off, times=draws.pair_times(times), **scored)
    return recipe.method([anchor, eulerian], points=draws.on_path(path), label_drop=label_drop, needs=needs)


def ayf_emd(
    *,
    times: TimeSampler = ("gap_uniform", ("logit_normal", -0.8, 1.0)),
    warmup_steps: int = 10_000,
    warmup: float = 0.99,
    c: float = 0.1,
    path: str | Path = "linear",
    label_drop: float = 0.1,
    jvp: str | Jvp = "exact",
) -> Method:
    """Align Your Flow, the Eulerian form: the derivative warms up, the tangent is normalised.

    Without the adversarial stage of the paper.

    Args:
      times: the gap first; constants of the gap from the paper as remembered.
      warmup_steps: steps over which the factor of the derivative grows from 0; from the paper as remembered.
      warmup: where it ends; 0.99 as published, a small pull towards straight lines.
      c: floor of the root mean square that normalises the tangent, 0.1 as published.

    Reference: Sabour, Fidler and Kreis 2025 (arXiv 2506.14603).
    """
    slope = pairs.distilled(losses.align_your_flow_emd, jvp=jvp)
    distance = functools.partial(distances.normalised, reduce="mean", c=c)
    warming = draws.pair_times(times, draws.warm_up(warmup, warmup_steps))
    eulerian = typing.Term("eulerian", slope, distance, times=warming)
    return recipe.method([eulerian], points=draws.on_path(path), label_drop=label_drop, needs={"teacher": {}})


def facm(
    *,
    times: TimeSampler = ("arctan_log_normal", -0.8, 1.6),
    anchor: str = "diagonal",
    p: float = 0.5,
    c: float = 1e-3,
    path: str | Path = "linear",
    label_drop: float = 0.1,
    jvp: str | Jvp = "exact",
) -> Method:
    """Flow-Anchored Consistency Models: consistency at t = 0 and, at the same point, an anchor on the velocity.

    Both parts share the teacher's velocity, so they are one term; its raw metric is the sum of their errors.

    Args:
      times: sampler of s = (2 / pi) arctan(sigma), log sigma ~ N(-0.8, 1.6^2), as published.
      anchor: how the network tells the anchor from the jump V(x, s, 0). "diagonal": as V(x, s, s), the published variant with two
        time embeddings. "extended": as V(x, -s, s), for a network that sees its source time alone, see flowmap.extended_source.
      p: power of the distance e / sg(e + c)^p of the consistency part, 0.5 as published.
      c: its floor, 1e-3 as published, on the MEAN of squares over the data axes.

    Reference: Peng et al. 2025 (arXiv 2507.03738), Algorithm 1 and its code.
    """
    anchored = {"diagonal": lambda V: V, "extended": flowmap.extended_source}
    checks.member("anchor of facm", anchor, anchored)
    slope = pairs.pair(losses.flow_anchored, jvp=jvp)

    def errors(nets: Nets, point: Point) -> Array:
        V, x, s = pairs.bind(nets.V, point), point.x, point.s
        v = pairs.bind(nets.teacher, point)(x, s)
        consistency = slope(nets, point, v=v)
        flow = losses.flow_matching(anchored[anchor](V), x, s, v)
        jump = jnp.sin(jnp.pi / 2 * s).reshape(-1) * distances.adaptive(*consistency, reduce="mean", p=p, c=c)
        return jump + distances.l2(*flow) + distances.cosine(*flow)

    eulerian = typing.Term("eulerian", errors, None, times=draws.diagonal_times(times))
    return recipe.method([eulerian], points=draws.on_path(path), label_drop=label_drop, needs={"teacher": {}})
