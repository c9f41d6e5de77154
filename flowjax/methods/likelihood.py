"""Recipes of maps that carry the density along, see flowjax.losses.likelihood."""

import functools
import math

import jax

from flowjax import checks, density, distances, losses
from flowjax.losses import likelihood
from flowjax.methods import draws, pairs, recipe
from flowjax.paths import Path
from flowjax.times import TimeSampler
from flowjax.typing import Array, InputError, Jvp, Method, Nets, Network, Pair, Point, Term

RULES = ("lagrangian", "eulerian", "compositional")
ESTIMATES = ("exact", "rademacher", "gaussian")


def f2d2(
    *,
    rule: str = "lagrangian",
    estimate: str = "exact",
    times: TimeSampler = ("uniform_triangle",),
    anchor_times: TimeSampler = ("uniform",),
    diagonal: str = "1/2",
    divergence_weight: float = 1.0,
    label_drop: float = 0.1,
    jvp: str | Jvp = "exact",
) -> Method:
    """F2D2: one distillation of a teacher's flow and of its divergence, by the same rule, mean squared errors.

    A network like V is trained along, whose mean over a row is the mean divergence of a jump for each of the row's numbers. It does not
    train V. In the paper both are heads of one network.

    Args:
      rule: lagrangian, eulerian or compositional (halfway: the shortcut form).
      estimate: of the teacher's divergence: exact, one jvp for each number of a row, ours for points; rademacher, one probe, as
        published; or gaussian.
      times: uniform on the triangle, ours.
      anchor_times: uniform, ours.
      diagonal: ours.
      divergence_weight: of the errors of the divergence beside those of the velocity; ours. The published code scales the output of
        the divergence head instead.

    Raises:
      InputError: for an unknown rule or estimate, or a weight that is not above 0.

    Reference: Ai et al. 2025, F2D2 (arXiv 2512.02636).
    """
    checks.member("rule of f2d2", rule, RULES)
    checks.member("estimate of the divergence", estimate, ESTIMATES)
    if not (isinstance(divergence_weight, (int, float)) and divergence_weight > 0):
        raise InputError(f"f2d2: divergence_weight is {divergence_weight!r}; expected a number above 0.")
    on, off = recipe.split(diagonal)
    off_times = draws.split_times(times, ("fixed", 0.5)) if rule == "compositional" else draws.pair_times(times)
    at = {"anchor": (on, draws.diagonal_times(anchor_times)), rule: (off, off_times)}
    velocity = {
        "anchor": pairs.teacher_anchor,
        "lagrangian": pairs.pair(losses.lagrangian_self_distillation, **_jvp(rule, jvp)),
        "eulerian": pairs.distilled(losses.meanflow, **_jvp(rule, jvp)),
        "compositional": pairs.pair(losses.progressive_self_distillation),
    }
    probes = None if estimate == "exact" else _probes
    terms = []
    for name, (columns, drawn) in at.items():
        term = functools.partial(Term, distance=distances.l2, columns=columns, times=drawn)
        terms.append(term(name, velocity[name], trains=("V",)))
        carried = functools.partial(_carried, name, estimate, jvp)
        terms.append(term(f"divergence_{name}", carried, weight=divergence_weight, trains=("divergence",), extra=probes))
    needs = {"teacher": {}, "divergence": Network(call="scalar_map")}
    return recipe.method(terms, points=draws.on_path("linear"), label_drop=label_drop, needs=needs)


def falcon(
    *,
    times: TimeSampler = ("sorted_pair", ("uniform",)),
    anchor_times: TimeSampler = ("uniform",),
    average: float = 1.0,
    round_trip: float = 10.0,
    path: str | Path = "linear",
    label_drop: float = 0.1,
    jvp: str | Jvp = "exact",
) -> Method:
    """FALCON: flow matching, MeanFlow's pair and the round trip on every row, mean squared errors.

    Jumps that lead back are one to one, so that samples in a few of them have a density, by determinants
    (flowjax.density.sample_with_density), and weights for an unnormalised target.

    Args:
      times: uniform, ours.
      anchor_times: uniform, ours.
      average: weight of MeanFlow's pair; not verified, ours.
      round_trip: weight of the round trip, 10 as published.

    Raises:
      InputError: for weights below 0.

    Reference: Rehman et al. 2025, FALCON (arXiv 2512.09914), from a summary.
    """
    if not (average >= 0 and round_trip >= 0):
        raise InputError(f"falcon: average and round_trip are {average} and {round_trip}; expected weights of at least 0.")
    pair_times = draws.pair_times(times)
    terms = [
        Term("anchor", pairs.anchor, distances.l2, times=draws.diagonal_times(anchor_times)),
        Term("eulerian", pairs.pair(losses.meanflow, jvp=jvp), distances.l2, average, times=pair_times),
        Term("round_trip", pairs.pair(likelihood.round_trip), distances.l2, round_trip, times=pair_times),
    ]
    return recipe.method(terms, points=draws.on_path(path), label_drop=label_drop)


def _jvp(rule: str, jvp: str | Jvp) -> dict[str, str | Jvp]:
    return {} if rule == "compositional" else {"jvp": jvp}


def _probes(key: Array, rows: draws.Rows, step: Array) -> dict[str, Array]:
    """One typed key a row, of the probes of its divergence."""
    return {"probe": jax.random.split(key, rows["x0"].shape[0])}


def _carried(name: str, estimate: str, jvp: str | Jvp, nets: Nets, point: Point) -> Pair:
    """The pair of the divergence, each for one number of a row."""
    teacher, count = pairs.bind(nets.teacher, point), math.prod(point.x.shape[1:])

    def div(x: Array, t: Array) -> Array:
        if estimate == "exact":
            return density.exact_divergence(teacher, x, t)[1] / count
        return density.hutchinson(teacher, x, t, point.extra["probe"], kind=estimate)[1] / count

    if name == "anchor":
        return pairs.call(likelihood.divergence_anchor, nets, point, div=div(point.x, point.s))
    if name == "compositional":
        return pairs.call(likelihood.divergence_compositional, nets, point)
    if name == "lagrangian":
        return pairs.pair(likelihood.divergence_lagrangian, jvp=jvp)(nets, point, div=div)
    v = teacher(point.x, point.s)
    return pairs.pair(likelihood.divergence_eulerian, jvp=jvp)(nets, point, v=v, div=div(point.x, point.s))
