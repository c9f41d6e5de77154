"""Methods that match the distribution of a student's samples to that of the data, and keep no path from noise to data.

One file a kind: `scores` compares velocities of noised samples, `fisher` does so with gradients through the networks' inputs,
`adversaries` asks a discriminator, `samples` compares sets of samples. A sample is a jump to the data, F(x, s, 0), from noise,
x ~ N(0, I) at s = 1, or from a level s of a student of several steps. It is noised again up to a time r by a noise of its own,

    x_r = (1 - r) F(x, s, 0) + r eps,     D(x_r) = x_r - r v(x_r, r),     score(x_r) = -(x_r + (1 - r) v(x_r, r)) / r

where D and the score belong to the velocity v: `teacher`'s of the data, `fake`'s of the student's samples. q_r is the distribution of
x_r, p_r that of noised data. What is common to all, besides flowjax.losses:

Args:
  V: average velocity of the student, of which only jumps to the data are asked.
  fake: velocity of the student's samples, `fake(x, t)`: a network trained along, by flow matching of them.
  discriminator: log-odds that a noised point is data, `discriminator(x, t) -> [B]`: at its best log p_r - log q_r.
  x: noise, or samples on their way, at time `s`, [B, ...].
  s: time from which the student jumps to the data, 1 for noise.
  r: time up to which the samples are noised again, in (0, 1).
  eps: the noise of that, independent of `x`, the shape of `x`.

Returns:
  A Pair, or errors [B] where the docstring says so. A push is a Pair `(x, sg[x - g])`, scored by half of the summed squares: its
  gradient in x is g.

Example: on an exact flow whose student makes the data nothing is pushed. The examples share the names of flowjax.losses, and
  >>> flow, x = exact.gaussian(jnp.zeros(2), jnp.eye(2)), jnp.array([[-1.0, 0.5], [0.3, 2.0]])
  >>> r, eps, even = 0.4, x[::-1], lambda x, t: jnp.zeros(len(x))
"""

from flowjax.losses.distributional.adversaries import (
    GAMES,
    Discriminator,
    adversarial_distillation,
    approximate_penalty,
    centred,
    continuous_fool,
    continuous_tell_apart,
    fool,
    penalty,
    slope,
    tell_apart,
    transport,
)
from flowjax.losses.distributional.fisher import F_DIVERGENCES, sid, sim, uni_instruct
from flowjax.losses.distributional.samples import (
    Kernel,
    discrepancies,
    drift,
    drifting,
    energy,
    imle,
    imm,
    laplace,
    mean_shift,
    mixture,
    mmd,
    nearest,
    plan,
    rbf,
    sinkhorn_drift,
    sinkhorn_drifting,
    squared,
)
from flowjax.losses.distributional.scores import (
    DIVERGENCES,
    adaptive_matching,
    diffratio,
    dmd,
    edm_weight,
    f_distill,
    fake_denoised,
    freeflow_correction,
    moment_matching,
    moment_matching_fake,
    push,
    self_e,
    vsd,
)
from flowjax.losses.distributional.statistics import Moments, fd_loss, frechet, mixed, moments

__all__ = [
    "DIVERGENCES",
    "Discriminator",
    "F_DIVERGENCES",
    "GAMES",
    "Kernel",
    "Moments",
    "adaptive_matching",
    "adversarial_distillation",
    "approximate_penalty",
    "centred",
    "continuous_fool",
    "continuous_tell_apart",
    "diffratio",
    "discrepancies",
    "dmd",
    "drift",
    "drifting",
    "edm_weight",
    "energy",
    "f_distill",
    "fake_denoised",
    "fd_loss",
    "fool",
    "frechet",
    "freeflow_correction",
    "imle",
    "imm",
    "laplace",
    "mean_shift",
    "mixed",
    "mixture",
    "mmd",
    "moment_matching",
    "moment_matching_fake",
    "moments",
    "nearest",
    "penalty",
    "plan",
    "push",
    "rbf",
    "self_e",
    "sid",
    "sim",
    "sinkhorn_drift",
    "sinkhorn_drifting",
    "slope",
    "squared",
    "tell_apart",
    "transport",
    "uni_instruct",
    "vsd",
]
