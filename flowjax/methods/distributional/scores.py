"""Recipes that match distributions by scores: a student, a teacher's velocity, and a fake velocity that follows the student's samples.

Every term draws its own noise, so that the fake and the student see different samples. What most of them have:

  times: sampler of the time up to which samples are noised again; uniform but for the ends, which is ours.
  fake_times: the same for the networks that follow the student's samples.
  fake_loss: "velocity", flow matching of the samples, or "edm", denoised samples with EDM's weight.
  student_steps: steps in which the student samples, from even source times, with new noise between them.
  student_every: steps from one update of the student to the next.
  adversarial: weight of the discriminator's error in the student's; 0: no discriminator.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from flowjax import checks, conditioning, distances, flowmap, paths
from flowjax.losses import distributional
from flowjax.methods import draws, pairs
from flowjax.methods.distributional import students
from flowjax.methods.method_info import MethodInfo
from flowjax.times import TimeSampler
from flowjax.typing import Array, Method, Nets, Pair, Point, Term

TEACHER: dict[str, Any] = {"teacher": {}}


def vsd(
    *,
    times: TimeSampler = students.INSIDE,
    fake_times: TimeSampler = students.INSIDE,
    fake_loss: str = "velocity",
    student_steps: int = 1,
    student_every: int = 1,
    label_drop: float = 0.0,
) -> Method:
    """Variational score distillation: the exact gradient of the mean over r of KL(q_r | p_r).

    Args:
      fake_loss: flow matching.
      student_every: 1, both networks move in every step.
      label_drop: 0, because the teacher is evaluated at every label.

    Reference: Luo et al. 2023, Diff-Instruct (arXiv 2305.18455); its weights of r are not verified, here all levels weigh alike.
    """
    push = students.student(distributional.vsd, times, steps=student_steps, every=student_every, reduce="sum")
    follow = students.followers(fake_times, steps=student_steps, fake=fake_loss)
    return students.method([push, follow], label_drop, **TEACHER, **students.FAKE)


def dmd(
    *,
    times: TimeSampler = students.INSIDE,
    fake_times: TimeSampler = students.INSIDE,
    fake_loss: str = "edm",
    student_steps: int = 1,
    student_every: int = 1,
    regression: float = 0.0,
    c: float = 1e-6,
    label_drop: float = 0.0,
) -> Method:
    """Distribution Matching Distillation, the first: one fake step a student's step, and a regression on the teacher's trajectories.

    Args:
      fake_loss: EDM's weight, as in DMD2's code.
      student_every: 1, both networks move in every step.
      regression: weight of the regression of one step on pairs of noise and the teacher's sample, which the data must then bring
        (experiments.reflow); in the paper by LPIPS, 0.25 as remembered. 0, which is ours: without it no pairs are needed.
      c: floor of the distance by which the push is divided; 1e-6 in DMD2's code and in FastGen.
      label_drop: 0, because the teacher is evaluated at every label.

    Reference: Yin et al. 2024 (arXiv 2311.18828); constants from the code of DMD2.
    """
    push = students.student(distributional.dmd, times, steps=student_steps, every=student_every, c=c)
    follow = students.followers(fake_times, steps=student_steps, fake=fake_loss)
    terms = [push, follow]
    if regression:
        at_data = lambda nets, point: Pair(pairs.bind(nets.V, point)(point.x, 1.0, 0.0), point.x - point.x0)
        terms.append(Term("regression", at_data, distances.l2, regression, trains=("V",), every=student_every))
    made = students.method(terms, label_drop, **TEACHER, **students.FAKE)
    return draws.coupled(made) if regression else made


def dmd2(
    *,
    times: TimeSampler = students.INSIDE,
    fake_times: TimeSampler = students.INSIDE,
    fake_loss: str = "edm",
    student_steps: int = 1,
    student_every: int = 5,
    adversarial: float = 3e-3,
    discriminator: float = 1e-2,
    c: float = 1e-6,
    label_drop: float = 0.0,
) -> Method:
    """DMD2: no regression; five steps of the fake and the discriminator for one of the student, whose steps are simulated.

    The published discriminator is a head on the fake network, here it is a network of its own. The noise of its samples is that of the
    push.

    Args:
      fake_loss: EDM's weight as published.
      student_steps: 1 as published for ImageNet-64; 4 for text to image.
      student_every: 5 as published.
      adversarial: 3e-3 as published for ImageNet-64.
      discriminator: weight of the discriminator's loss, 1e-2 as published there.
      c: floor of the distance by which the push is divided, as published.
      label_drop: 0, because the teacher is evaluated at every label.

    Reference: Yin et al. 2024 (arXiv 2405.14867), its code for ImageNet-64.
    """
    push = students.student(distributional.dmd, times, steps=student_steps, every=student_every, adversarial=adversarial, c=c)
    follow = students.followers(
        fake_times, steps=student_steps, fake=fake_loss, discriminator=discriminator if adversarial else 0.0
    )
    networks = students.FAKE | (students.DISCRIMINATOR if adversarial else {})
    return students.method([push, follow], label_drop, **TEACHER, **networks)


def f_distill(
    *,
    divergence: str = "js",
    times: TimeSampler = students.INSIDE,
    fake_times: TimeSampler = students.INSIDE,
    fake_loss: str = "edm",
    student_steps: int = 1,
    student_every: int = 5,
    adversarial: float = 1e-3,
    discriminator: float = 1.0,
    c: float = 1e-6,
    bins: int = 10,
    label_drop: float = 0.0,
) -> Method:
    """f-distill: DMD2 for other divergences than KL(q | p), by the ratio that its discriminator knows.

    Args:
      divergence: a key of flowjax.losses.distributional.DIVERGENCES, "js" as published.
      fake_loss: EDM's weight, as in DMD2.
      student_every: 5 as published.
      adversarial: 1e-3, the default of the published code.
      discriminator: weight of the discriminator's loss; ours.
      c: floor of the distance by which the push is divided, as published.
      bins: of r, in each of which the mean of the ratios is made 1; 10 as published.
      label_drop: 0, because the teacher is evaluated at every label.

    Reference: Xu et al. 2025 (arXiv 2502.15681), its code.
    """
    push = students.student(
        distributional.f_distill, times, steps=student_steps, every=student_every, adversarial=adversarial,
        divergence=divergence, c=c, bins=bins,
    )  # fmt: skip
    follow = students.followers(fake_times, steps=student_steps, fake=fake_loss, discriminator=discriminator)
    return students.method([push, follow], label_drop, **TEACHER, **students.FAKE, **students.DISCRIMINATOR)


def agreement(nets: Nets, point: Point, sample: Array) -> Array:
    """A reward [rows]: how little the teacher would change a sample, noised up to the level of the row."""
    x_r, _ = paths.interpolate(paths.linear, sample, point.eps, point.t)
    change = sample - x_r + point.t * pairs.bind(nets.teacher, point)(x_r, point.t)
    return -jnp.mean(jnp.abs(change), axis=tuple(range(1, change.ndim)))


# Rewards of adaptive matching by name: (nets, point, sample) -> [rows].
REWARDS: dict[str, Callable[[Nets, Point, Array], Array]] = {"agreement": agreement}


def adaptive_matching(
    *,
    reward: str | Callable[[Nets, Point, Array], Array] = "agreement",
    strength: float = 0.5,
    guidance: float = 1.0,
    times: TimeSampler = students.INSIDE,
    fake_times: TimeSampler = students.INSIDE,
    fake_loss: str = "edm",
    student_steps: int = 1,
    student_every: int = 5,
    c: float = 1e-6,
    label_drop: float = 0.0,
) -> Method:
    """Adaptive Matching Distillation: DMD2 without a discriminator, its push and its guidance weighed by a reward of each sample.

    Args:
      reward: a key of REWARDS, or a function (nets, point, sample) -> [rows]; the default is a toy, the paper's are of pictures and texts.
      strength: of the weights; the published constants are not known, 0.5 is ours.
      guidance: scale of the teacher's guidance, for labelled data and a teacher trained with label_drop; 1: none.
      fake_loss: EDM's weight, as in DMD2.
      student_every: 5, as in DMD2.
      c: floor of the distance by which the push is divided, as in DMD2.
      label_drop: 0, because the teacher is evaluated at every label.

    Reference: Bai et al. 2026 (arXiv 2602.07345), from its abstract and an equation quoted in a review; its sharpening of the fake is left
    out.
    """
    if isinstance(reward, str):
        checks.member("reward", reward, REWARDS)
        reward = REWARDS[reward]

    def push(nets: Nets, point: Point) -> Pair:
        V, null = pairs.bind(nets.V, point), point._replace(cond=conditioning.null(point.cond or {}))
        unconditional = pairs.bind(nets.teacher, null) if guidance != 1 else None
        sample = jax.lax.stop_gradient(flowmap.jump(V, point.x, point.s, 0.0))
        return pairs.call(
            distributional.adaptive_matching, nets, point, unconditional=unconditional, reward=reward(nets, point, sample),
            strength=strength, guidance=guidance, c=c,
        )  # fmt: skip

    sampled = students.sampled(times, student_steps)
    term = Term("student", push, students.half("mean"), trains=("V",), every=student_every, **sampled)
    follow = students.followers(fake_times, steps=student_steps, fake=fake_loss)
    return students.method([term, follow], label_drop, **TEACHER, **students.FAKE)


_INFO = functools.partial(MethodInfo, rule="distributional", setting="D", derivative="none; the push in sg", jumps="levels")
TABLE: dict[str, MethodInfo] = {
    "vsd": _INFO(vsd, pairs=(distributional.vsd,), derived_fpe=9, paper="Diff-Instruct", arxiv="2305.18455"),
    "dmd": _INFO(
        dmd, pairs=(distributional.dmd,), derived_fpe=9, paper="One-step Diffusion with Distribution Matching Distillation",
        arxiv="2311.18828",
    ),
    "dmd2": _INFO(
        dmd2, pairs=(distributional.dmd,), derived_fpe=11.4, paper="Improved Distribution Matching Distillation", arxiv="2405.14867",
    ),
    "f_distill": _INFO(
        f_distill, pairs=(distributional.f_distill,), derived_fpe=11.6, paper="f-distill", arxiv="2502.15681",
    ),
    "adaptive_matching": _INFO(
        adaptive_matching, pairs=(distributional.adaptive_matching,), derived_fpe=5.4, paper="Adaptive Matching Distillation", arxiv="2602.07345",
    ),
}  # fmt: skip
