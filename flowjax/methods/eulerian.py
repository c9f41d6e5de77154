"""Recipes of the Eulerian rule: the source moves. The consistency models, which hold the target at the data, are in `consistency`."""

import functools

import jax
import jax.numpy as jnp

from flowjax import distances, flowmap, losses, schedules, typing
from flowjax.methods import draws, pairs, recipe


def meanflow(
    *,
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
    times=("sorted_pair", ("logit_normal", -0.4, 1.0)),
    diagonal="1/2",
    heads=1,
    p=1.0,
    c=0.01,
    path="linear",
    label_drop=0.1,
    jvp="exact",
):
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
    if heads not in (1, 2):
        raise typing.InputError(f"heads is {heads!r}; expected 1, or 2 for a network with a velocity head.")
    on, off = recipe.split(diagonal)
    distance = functools.partial(distances.adaptive, reduce="sum", p=p, c=c)
    flow, loss = (
        (pairs.anchor, losses.improved_meanflow) if heads == 1 else (pairs.both_anchors, losses.improved_meanflow_two_heads)
    )
    anchor = typing.Term("anchor", flow, distance, columns=on, times=draws.source_times(times))
    eulerian = typing.Term("eulerian", pairs.pair(loss, jvp=jvp), distance, columns=off, times=draws.pair_times(times))
    needs = {} if heads == 1 else {"both": {}}
    return recipe.method([anchor, eulerian], points=draws.on_path(path), label_drop=label_drop, needs=needs)


@recipe.variant(imf, times=("sorted_pair", ("logit_normal", 0.8, 0.8)))
def pmf(method):
    """Pixel MeanFlow: improved MeanFlow's loss on the velocity of a network that predicts the denoised image field.

    The rewriting V = (x - D) / s is the network's: config.model.parameterisation = "denoised_field". Without the paper's perceptual
    term. Arguments as in `imf`; the constants of `times` are from the paper as remembered.

    Reference: Lu et al. 2026 (arXiv 2601.22158).
    """
    return method


@recipe.variant(meanflow)
def rectified_meanflow(method):
    """Rectified MeanFlow: MeanFlow on the straightened paths of one reflow: the batch brings each noise with its sample.

    `batch["eps"]` is the noise that a teacher carried to `batch["x"]`. The paper also drops the couplings that are furthest apart,
    which is a matter of the dataset. Arguments as in `meanflow`.

    Reference: Zhang et al. 2025 (arXiv 2511.23342).
    """
    return draws.coupled(method)


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
      total_steps: over which `a` falls; required unless a_start equals a_end.
      a_start: fraction of the way covered by the finite step at the first step.
      a_end: the same at total_steps.
      p: power of the adaptive distance.
      c: its floor, on the MEAN of squares over the data axes.

    Reference: Luo, Yuan and Liu 2025 (arXiv 2512.15657), the ImageNet-256 configuration.
    """
    on, off = recipe.split(diagonal)
    distance = functools.partial(distances.adaptive, reduce="mean", p=p, c=c)
    consistency = pairs.pair(losses.soflow)
    if a_start == a_end:
        fraction = schedules.constant(a_start)
    else:
        length = recipe.length("soflow", f"a falls from {a_start} to {a_end}", total_steps)
        fraction = schedules.exponential(a_start, a_end, length)

    def divided(nets, point):
        prediction, target = consistency(nets, point)
        return typing.Pair(prediction / point.a, target / point.a)

    weight = lambda point: point.a.reshape(-1)
    anchor = typing.Term("anchor", pairs.anchor, distance, columns=on, times=draws.diagonal_times(anchor_times))
    eulerian = typing.Term("eulerian", divided, distance, weight, columns=off, times=draws.pair_times(times, fraction))
    return recipe.method([anchor, eulerian], points=draws.on_path(path), label_drop=label_drop)


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
      total_steps: of which `start` and `end` are shares; required.
      times: MeanFlow's, the paper's could not be verified.
      diagonal: the lower of the published 25% and 50%.
      start: share of the training at which the sigmoid's span begins (ours: the published spans are in steps of their runs).
      end: share at which it ends (ours).
      steepness: of the sigmoid over its span, 25 as published.
      snap: distance from 0 and 1 below which `a` is exactly so, 0.005 as published.
      clip: largest absolute value of the target, 4 as published.
      p: power of the adaptive distance.
      c: its floor, 1e-3 as published, on the MEAN of squares over the data axes.
      jvp: the derivative at a = 0.

    Reference: Zhang et al. 2025 (arXiv 2510.20771).
    """
    on, off = recipe.split(diagonal)
    length = recipe.length("alphaflow", "a falls from 1 to 0", total_steps)
    schedule = schedules.sigmoid(start * length, end * length, steepness, snap)
    distance = functools.partial(distances.adaptive, reduce="mean", p=p, c=c)
    finite, slope = pairs.pair(losses.alphaflow), pairs.pair(losses.meanflow, jvp=jvp)

    def clipped(pair, a):
        return typing.Pair(pair.prediction / a, jnp.clip(pair.target, -clip, clip) / a)

    def divided(nets, point):
        v, a = pairs.velocity(nets, point).v, jnp.maximum(point.a, snap)
        two_legs = lambda: clipped(finite(nets, point, v=v, a=a), a)
        limit = lambda: clipped(slope(nets, point, v=v), jnp.ones_like(a))
        return jax.lax.cond(jnp.max(point.a) > 0, two_legs, limit)

    weight = lambda point: jnp.where(point.a > 0, point.a, 1.0).reshape(-1)
    anchor = typing.Term("anchor", pairs.anchor, distance, columns=on, times=draws.source_times(times))
    eulerian = typing.Term("eulerian", divided, distance, weight, columns=off, times=draws.pair_times(times, schedule))
    return recipe.method([anchor, eulerian], points=draws.on_path(path), label_drop=label_drop)


def dmf(
    *,
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
      times: the larger and the smaller of two logit-normals.
      c: floor of the Cauchy distance, 0.01 as published, on the MEAN of squares over the data axes.

    Reference: Lee, Yu and Shin 2025 (arXiv 2510.24474).
    """
    on, off = recipe.split(diagonal)
    slope = pairs.pair(losses.meanflow, jvp=jvp)
    learned = {"distance": functools.partial(distances.cauchy, c=c), "arguments": pairs.log_variance(log_variance_bound)}
    anchor = typing.Term("anchor", pairs.anchor, columns=on, times=draws.diagonal_times(anchor_times), **learned)
    eulerian = typing.Term("eulerian", slope, columns=off, times=draws.pair_times(times), **learned)
    needs = {"log_variance": typing.Network("LinearLogVariance", call="times")}
    return recipe.method([anchor, eulerian], points=draws.on_path(path), label_drop=label_drop, needs=needs)


def emd(*, times=("uniform_triangle",), path="linear", label_drop=0.1, jvp="exact"):
    """Eulerian Map Distillation: d_s F = 0 along the teacher, mean squared error, gradient through the derivative.

    Args:
      times: the paper weighs all pairs of times alike.

    Reference: Boffi et al. 2024 (arXiv 2406.07507).
    """
    slope = pairs.distilled(losses.eulerian_distillation, jvp=jvp)
    eulerian = typing.Term("eulerian", slope, distances.l2, times=draws.pair_times(times))
    return recipe.method([eulerian], points=draws.on_path(path), label_drop=label_drop, needs={"teacher": {}})


def esd(
    *,
    times=("uniform_triangle",),
    anchor_times=("uniform",),
    diagonal="3/4",
    learned_weight=True,
    path="linear",
    label_drop=0.1,
    jvp="exact",
):
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


def facm(*, times=("logit_normal", -0.8, 1.6), p=0.5, c=1e-3, path="linear", label_drop=0.1, jvp="exact"):
    """Flow-Anchored Consistency Models: consistency at t = 0 and, at the same point, an anchor with source time 2 - s.

    Both parts share the teacher's velocity, so they are one term; its raw metric is the sum of their errors.

    Args:
      times: sampler of s; noise level log-normal(-0.8, 1.6), which is logit-normal in our time.
      p: power of the distance e / sg(e + c)^p of the consistency part, 0.5 as published.
      c: its floor, 1e-3 as published, on the MEAN of squares over the data axes.

    Reference: Peng et al. 2025 (arXiv 2507.03738), Algorithm 1 and its code.
    """
    slope = pairs.pair(losses.flow_anchored, jvp=jvp)

    def errors(nets, point):
        V, x, s = pairs.bind(nets.V, point), point.x, point.s
        v = pairs.bind(nets.teacher, point)(x, s)
        consistency = slope(nets, point, v=v)
        anchor = losses.flow_matching(flowmap.extended_source(V), x, s, v)
        jump = jnp.sin(jnp.pi / 2 * s).reshape(-1) * distances.adaptive(*consistency, reduce="mean", p=p, c=c)
        return jump + distances.l2(*anchor) + distances.cosine(*anchor)

    eulerian = typing.Term("eulerian", errors, None, times=draws.diagonal_times(times))
    return recipe.method([eulerian], points=draws.on_path(path), label_drop=label_drop, needs={"teacher": {}})
