"""Recipes of the Fisher divergence: gradient passes through the inputs of the teacher and of the fake, whose weights stand still.

The constants that are not explained are those of flowjax.methods.distributional.scores.
"""

from flowjax.losses import distributional
from flowjax.methods.distributional import students
from flowjax.methods.method_info import MethodInfo
from flowjax.times import TimeSampler
from flowjax.typing import Method

# SiD's: levels of noise below 0.8 of 1,000 of Karras, up to sigma = 24.4.
LEVELS = ("karras", 800, 0.002, 24.4, 7.0)


def sid(
    *,
    times: TimeSampler = LEVELS,
    fake_times: TimeSampler = ("logit_normal", -1.2, 1.2),
    fake_loss: str = "edm",
    alpha: float = 1.2,
    c: float = 1e-5,
    scale: float = 100.0,
    student_steps: int = 1,
    student_every: int = 1,
    label_drop: float = 0.0,
) -> Method:
    """Score identity Distillation: one step of the fake for one of the student.

    The published student is the teacher's denoiser at the noise level sigma = 2.5, here it is the jump from pure noise.

    Args:
      times: of the student's loss, the published levels of noise, sigma from 0.002 to 24.4.
      fake_times: sigma log-normal, (-1.2, 1.2) as published.
      fake_loss: EDM's weight as published.
      alpha: 1.2 as published.
      c: floor of the distance by which the error is divided, as published.
      scale: weight of the student's loss, 100 as published.
      student_every: 1 as published.
      label_drop: 0, because the teacher is evaluated at every label.

    Reference: Zhou et al. 2024 (arXiv 2404.04057), its code.
    """
    learn = students.student(
        distributional.sid, times, steps=student_steps, every=student_every, weight=scale, alpha=alpha, c=c
    )
    follow = students.followers(fake_times, steps=student_steps, fake=fake_loss)
    return students.method([learn, follow], label_drop, teacher={}, **students.FAKE)


def sim(
    *,
    times: TimeSampler = LEVELS,
    fake_times: TimeSampler = ("logit_normal", -1.2, 1.2),
    fake_loss: str = "edm",
    c: float = 0.1,
    student_steps: int = 1,
    student_every: int = 1,
    label_drop: float = 0.0,
) -> Method:
    """Score Implicit Matching with the pseudo-Huber distance.

    Args:
      times: those of SiD.
      fake_times: those of SiD.
      fake_loss: EDM's weight, as in SiD.
      c: where the distance turns linear, in units of denoised data; ours.
      student_every: 1, both networks move in every step.
      label_drop: 0, because the teacher is evaluated at every label.

    Reference: Luo et al. 2024 (arXiv 2410.16794), as remembered; constants from the code of SiD.
    """
    learn = students.student(distributional.sim, times, steps=student_steps, every=student_every, c=c)
    follow = students.followers(fake_times, steps=student_steps, fake=fake_loss)
    return students.method([learn, follow], label_drop, teacher={}, **students.FAKE)


def uni_instruct(
    *,
    divergence: str = "kl",
    times: TimeSampler = students.INSIDE,
    fake_times: TimeSampler = students.INSIDE,
    fake_loss: str = "velocity",
    discriminator: float = 1.0,
    student_steps: int = 1,
    student_every: int = 1,
    label_drop: float = 0.0,
) -> Method:
    """Uni-Instruct: an f-divergence of the samples from the data, by fake, teacher and the ratio that a discriminator learns.

    Args:
      divergence: a key of flowjax.losses.distributional.F_DIVERGENCES; "kl", the forward one, is the best published.
      fake_loss: flow matching; ours.
      discriminator: weight of the discriminator's loss; ours.
      student_every: 1, ours.
      label_drop: 0, because the teacher is evaluated at every label.

    Reference: Wang et al. 2025 (arXiv 2505.20755); its constants are not verified.
    """
    learn = students.student(
        distributional.uni_instruct, times, steps=student_steps, every=student_every, divergence=divergence
    )
    follow = students.followers(fake_times, steps=student_steps, fake=fake_loss, discriminator=discriminator)
    networks = students.FAKE | students.DISCRIMINATOR
    return students.method([learn, follow], label_drop, teacher={}, **networks)


TABLE: dict[str, MethodInfo] = {
    "sid": MethodInfo(
        sid, pairs=(distributional.sid,), rule="distributional", setting="D",
        derivative="none; gradient through the inputs of teacher and fake", jumps="levels", derived_fpe=11,
        paper="Score identity Distillation", arxiv="2404.04057",
    ),
    "sim": MethodInfo(
        sim, pairs=(distributional.sim,), rule="distributional", setting="D",
        derivative="none; gradient through the inputs of teacher and fake", jumps="levels", derived_fpe=11,
        paper="Score Implicit Matching", arxiv="2410.16794",
    ),
    "uni_instruct": MethodInfo(
        uni_instruct, pairs=(distributional.uni_instruct,), rule="distributional", setting="D",
        derivative="none; gradient through the inputs of teacher, fake and discriminator", jumps="levels", derived_fpe=19,
        paper="Uni-Instruct", arxiv="2505.20755",
    ),
}  # fmt: skip
