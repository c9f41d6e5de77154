"""Recipes that match distributions otherwise: by moments of denoised data, by the ratio of densities, by the model's own judgement."""

import jax
import jax.numpy as jnp

from flowjax import conditioning, distances, flowmap
from flowjax.losses import distributional
from flowjax.methods import draws, pairs, recipe
from flowjax.methods.distributional import students
from flowjax.methods.method_info import MethodInfo
from flowjax.times import TimeSampler
from flowjax.typing import Array, InputError, Method, Nets, Pair, Point, Term


def moment_matching(*, steps: int = 8, student_every: int = 1, label_drop: float = 0.0) -> Method:
    """Moment matching distillation: steps of 1 / steps, from noised data, at whose ends the denoised data have the right mean.

    Args:
      steps: of the student, 8 in the third-party code; jumps are at most 1 / steps long.
      student_every: 1; in the paper student and fake move in turn.
      label_drop: 0, because the teacher is evaluated at every label.

    Reference: Salimans et al. 2024 (arXiv 2406.04103), as remembered; weights of the time are not verified, here all weigh alike.
    """
    if not isinstance(steps, int) or steps < 1:
        raise InputError(f"steps is {steps!r}; expected a whole number of at least 1.")

    def times(key: Array, n: int, step: Array) -> dict[str, Array]:
        end_key, length_key = jax.random.split(key)
        s = 1 - jax.random.uniform(end_key, (n,))  # in (0, 1]
        return {"s": s, "t": jnp.maximum(s - jax.random.uniform(length_key, (n,)) / steps, 0.0)}

    def follow(nets: Nets, point: Point) -> tuple[Pair, Pair]:
        V_st = jax.lax.stop_gradient(pairs.bind(nets.V, point)(point.x, point.s, point.t))
        x0, F = (flowmap.move(point.x, point.s, t, V_st) for t in (0.0, point.t))
        return pairs.call(distributional.moment_matching_fake, nets, point, x0=x0, x=F)

    push = pairs.pair(distributional.moment_matching)
    terms = [
        Term("student", push, students.half("mean"), times=times, trains=("V",), every=student_every),
        Term("fake", follow, distances.l2, times=times, trains=("fake",)),
    ]
    needs = {"teacher": {}, **students.FAKE}
    return recipe.method(terms, points=draws.on_path("linear"), label_drop=label_drop, needs=needs, one_noise=False)


def diffratio(
    *,
    times: TimeSampler = students.INSIDE,
    discriminator_times: TimeSampler = students.INSIDE,
    discriminator: float = 1.0,
    student_steps: int = 1,
    student_every: int = 1,
    label_drop: float = 0.0,
) -> Method:
    """DiffRatio: a classifier of noised data and noised samples gives the ratio of densities, and no score is needed.

    Args:
      times: sampler of the time up to which samples are noised again; uniform but for the ends, which is ours.
      discriminator_times: the same for the classifier.
      discriminator: weight of the classifier's loss; ours.
      student_steps: steps in which the student samples.
      student_every: steps from one update of the student to the next; ours.
      label_drop: 0; labels are inputs of both networks.

    Reference: DiffRatio (arXiv 2502.08005), abstract; all constants are ours.
    """
    learn = students.student(distributional.diffratio, times, steps=student_steps, every=student_every)
    follow = students.followers(discriminator_times, steps=student_steps, fake="", discriminator=discriminator)
    return students.method([learn, follow], label_drop, **students.DISCRIMINATOR)


def self_e(
    *,
    times: TimeSampler = ("uniform_triangle",),
    anchor_times: TimeSampler = ("uniform",),
    diagonal: str = "1/2",
    label_drop: float = 0.1,
) -> Method:
    """Self-E: denoised data on the diagonal; off it, the student's own sample judged by what its label changes.

    Without labels nothing judges: then the sample is only mixed with the data. The auxiliary fake score of the paper's last stage is
    left out.

    Args:
      times: uniform; ours.
      anchor_times: uniform; ours.
      diagonal: ours.
      label_drop: 0.1, ours; the student is asked without a label.

    Reference: Yu et al. 2025 (arXiv 2512.22374), from a published summary; its constants are not verified.
    """
    on, off = recipe.split(diagonal)

    def anchor(nets: Nets, point: Point) -> Pair:
        D = point.x - point.s * pairs.bind(nets.V, point)(point.x, point.s, point.s)
        return Pair(D.astype(point.x.dtype), point.x0)

    def judged(nets: Nets, point: Point) -> Pair:
        V_null = pairs.bind(nets.V, point._replace(cond=conditioning.null(point.cond or {})))
        return pairs.call(distributional.self_e, nets, point, V_null=V_null, eps=point.extra["noise"])

    noise = lambda key, rows, step: {"noise": jax.random.normal(key, rows["x0"].shape, rows["x0"].dtype)}
    terms = [
        Term("anchor", anchor, distances.l2, columns=on, times=draws.diagonal_times(anchor_times)),
        Term("self", judged, distances.l2, columns=off, times=draws.pair_times(times), extra=noise),
    ]
    return recipe.method(terms, points=draws.on_path("linear"), label_drop=label_drop)


TABLE: dict[str, MethodInfo] = {
    "moment_matching": MethodInfo(
        moment_matching, pairs=(distributional.moment_matching, distributional.moment_matching_fake), rule="distributional",
        setting="D", derivative="none; the push in sg", jumps="grid", derived_fpe=10,
        paper="Multistep Distillation of Diffusion Models via Moment Matching", arxiv="2406.04103",
    ),
    "diffratio": MethodInfo(
        diffratio, pairs=(distributional.diffratio,), rule="distributional", setting="P",
        derivative="none; gradient through the input of the discriminator", jumps="levels", derived_fpe=12, paper="DiffRatio",
        arxiv="2502.08005",
    ),
    "self_e": MethodInfo(
        self_e, pairs=(distributional.self_e,), rule="distributional", setting="S", derivative="none; the target in sg",
        jumps="to data", derived_fpe=8, every_row={"diagonal": "both"}, few_steps="flow_map", paper="Self-Evaluation Unlocks Any-Step Text-to-Image Generation", arxiv="2512.22374",
    ),
}  # fmt: skip
