"""Matching by scores: where noised samples of the student go under the velocity of the data, and where under their own.

The velocities of two distributions at x_r differ by their scores and by their denoised data,

    fake - teacher = (D_teacher - D_fake) / r,     score_q - score_p = (1 - r) / r (teacher - fake)

and the derivative of KL(q_r | p_r) in a sample is (1 - r) (score_q - score_p).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from flowjax import checks, flowmap, times
from flowjax.typing import Array, AverageVelocity, Pair, Time, Velocity

sg = jax.lax.stop_gradient
Weight = Callable[[Array, Array], Array]  # of (x_r, r), broadcasts against x_r
Discriminator = Callable[[Array, Array], Array]  # log-odds [B] of (x, t)

# h(ratio) of a divergence, ratio = p_r / q_r: what the push of KL(q | p) is multiplied by.
DIVERGENCES: dict[str, Callable[[Array], Array]] = {
    "rkl": jnp.ones_like,  # KL(q | p)
    "kl": lambda ratio: ratio,  # KL(p | q)
    "js": lambda ratio: 1 - 1 / (1 + ratio),  # Jensen-Shannon
    "sf": lambda ratio: 1 / (1 + ratio),  # softened reverse KL
    "neyman": lambda ratio: 1 / ratio,  # Neyman's chi-square
    "sh": jnp.sqrt,  # squared Hellinger
    "jf": lambda ratio: 1 + ratio,  # Jeffreys
}


def push(x: Array, g: Array) -> Pair:
    """Samples that move against a field: half of the summed squares of this pair has the gradient g in x.

        x  vs  sg[x - g]

    Args:
      x: samples of the student, [B, ...].
      g: the field at the samples, the shape of `x`.

    Example:
      >>> push(jnp.ones((1, 2)), jnp.full((1, 2), 0.25)).target.tolist()
      [[0.75, 0.75]]
    """
    return Pair(x, sg(x - checks.like("push", x, g, name="g")))


def vsd(
    V: AverageVelocity,
    fake: Velocity,
    teacher: Velocity,
    x: Array,
    s: Time,
    r: Time,
    eps: Array,
    *,
    weight: Weight | float = 1.0,
) -> Pair:
    """Variational score distillation, the exact gradient of the integral of w(r) KL(q_r | p_r): Diff-Instruct, SwiftBrush.

        F(x, s, 0)  vs  sg[F(x, s, 0) + w (1 - r)^2 / r (fake(x_r, r) - teacher(x_r, r))]

    With w = h(p_r / q_r), h of DIVERGENCES, it is the gradient of that divergence. Score distillation sampling, SDS, has the conditional
    velocity eps - F in the place of fake.

    Paper -> here: g(z) -> F(x, 1, 0), s_p and s_q -> the scores of teacher and fake at the noise level of r.

    Args:
      weight: w, of (x_r, r), or a number.

    Example:
      >>> assert jnp.allclose(*vsd(flow.V, flow.v, flow.v, x, 1.0, r, eps))

    Reference: Wang et al. 2023, ProlificDreamer (arXiv 2305.16213); Luo et al. 2023, Diff-Instruct (arXiv 2305.18455).
    """
    F, x_r, r = noised("vsd", V, x, s, r, eps)
    w = weight(x_r, r) if callable(weight) else weight
    return push(F, w * (1 - r) ** 2 / r * (teacher(x_r, r) - fake(x_r, r)))


def dmd(
    V: AverageVelocity, fake: Velocity, teacher: Velocity, x: Array, s: Time, r: Time, eps: Array, *, c: float = 1e-6
) -> Pair:
    """Distribution Matching Distillation: the difference of denoised data, over how far the teacher's are from the sample.

        F(x, s, 0)  vs  sg[F(x, s, 0) - (D_fake - D_teacher) / (mean|F(x, s, 0) - D_teacher| + c)]

    D is x_r - r v(x_r, r), the mean is over the data axes. The weight depends on the sample, so that this is the gradient of no
    divergence; its direction at a sample is that of `vsd`.

    Paper -> here: x = G(z) -> F(x, 1, 0), mu_real and mu_fake -> D of teacher and fake.

    Args:
      c: floor of the mean.

    Example:
      >>> assert jnp.allclose(*dmd(flow.V, flow.v, flow.v, x, 1.0, r, eps))

    Reference: Yin et al. 2024 (arXiv 2311.18828), eq. 7 and 8; DMD2 (arXiv 2405.14867) has the same.
    """
    F, x_r, r = noised("dmd", V, x, s, r, eps)
    return push(F, _normalised_field(F, x_r, r, fake, teacher, c))


def _normalised_field(F: Array, x_r: Array, r: Array, fake: Velocity, teacher: Velocity, c: float) -> Array:
    """(D_fake - D_teacher) / (mean|F - D_teacher| + c)."""
    D_teacher, D_fake = x_r - r * teacher(x_r, r), x_r - r * fake(x_r, r)
    return (D_fake - D_teacher) / (mean_of_row(jnp.abs(F - D_teacher)) + c)


def f_distill(
    V: AverageVelocity,
    fake: Velocity,
    teacher: Velocity,
    discriminator: Discriminator,
    x: Array,
    s: Time,
    r: Time,
    eps: Array,
    *,
    divergence: str = "js",
    c: float = 1e-6,
    bins: int = 10,
    mean: Callable[[Array], Array] | None = None,
) -> Pair:
    """f-distill: the push of DMD, weighed by how much likelier a noised sample is among noised data.

        F(x, s, 0)  vs  sg[F(x, s, 0) - h(ratio) (D_fake - D_teacher) / (mean|F(x, s, 0) - D_teacher| + c)]

    ratio = exp(discriminator(x_r, r)) within 0.1 and 20, over its mean among rows of a similar r, and h over its mean. For "rkl" h is 1
    and this is `dmd`.

    Paper -> here: r_t(x) -> ratio, h(r) = f''(r) r^2 -> DIVERGENCES.

    Args:
      divergence: a key of DIVERGENCES.
      c: floor as in `dmd`.
      bins: of r in [0, 1], in each of which the mean of the ratios is made 1; 0: neither mean is made 1.
      mean: `[B, ...] -> [...]`, the mean over the rows of the whole batch; None: over those that are there.

    Raises:
      InputError: for an unknown divergence.

    Example:
      >>> assert jnp.allclose(*f_distill(flow.V, flow.v, flow.v, even, x, 1.0, r, eps))

    Reference: Xu et al. 2025, f-distill (arXiv 2502.15681), and its code.
    """
    checks.member("divergence", divergence, DIVERGENCES)
    mean = mean or mean_of_rows
    F, x_r, r = noised("f_distill", V, x, s, r, eps)
    ratio = jnp.clip(jnp.exp(jnp.clip(discriminator(x_r, r), -10, 10)), 0.1, 20)
    if bins:
        members = jax.nn.one_hot((jnp.broadcast_to(r, (len(x), *r.shape[1:])).reshape(-1) * bins).astype(int), bins)
        share, total = mean(members), mean(members * ratio[:, None])
        ratio = ratio / (members @ (total / jnp.where(share > 0, share, 1)))
    h = DIVERGENCES[divergence](ratio)
    h = h / mean(h) if bins else h
    return push(F, times.expand(h, x) * _normalised_field(F, x_r, r, fake, teacher, c))


def fake_denoised(fake: Velocity, x0: Array, r: Time, eps: Array) -> Pair:
    """The fake learns the samples as denoised data, instead of their velocity.

        x_r - r fake(x_r, r)  vs  x0,     x_r = (1 - r) x0 + r eps

    Its squared error is r^2 times that of flow matching; `edm_weight` is what EDM multiplies it by.

    Args:
      x0: samples of the student, [B, ...], under a stop-gradient.

    Example:
      >>> dirac = lambda x, t: (x - 1.0) / t
      >>> assert jnp.allclose(*fake_denoised(dirac, jnp.ones((2, 2)), r, eps))

    Reference: Karras et al. 2022, EDM (arXiv 2206.00364), eq. 2; Yin et al. 2024, DMD2 (arXiv 2405.14867), its code.
    """
    (r,) = checks.times("fake_denoised", x0, r=r)
    x_r = ((1 - r) * x0 + r * checks.like("fake_denoised", x0, eps, name="eps")).astype(jnp.result_type(x0))
    return Pair(x_r - r * fake(x_r, r), x0)


def edm_weight(r: Time, *, deviation: float = 0.5) -> Time:
    """EDM's weight of a squared error of denoised data: sigma^-2 + deviation^-2 with sigma = r / (1 - r), that of the data.

    Reference: Karras et al. 2022, EDM (arXiv 2206.00364), table 1; deviation 0.5 as published, for images in [-1, 1].
    """
    return ((1 - r) / r) ** 2 + deviation**-2


def adaptive_matching(
    V: AverageVelocity,
    fake: Velocity,
    teacher: Velocity,
    unconditional: Velocity | None,
    reward: Array,
    x: Array,
    s: Time,
    r: Time,
    eps: Array,
    *,
    strength: float = 0.5,
    guidance: float = 1.0,
    c: float = 1e-6,
    mean: Callable[[Array], Array] | None = None,
) -> Pair:
    """Adaptive Matching Distillation: DMD whose two parts, matching and guidance, are weighed by a reward of the sample.

        F(x, s, 0)  vs  sg[F(x, s, 0) - (b (D_fake - D_teacher) - a (w - 1) (D_teacher - D_null)) / (mean|F(x, s, 0) - D_teacher| + c)]

    a = 1 + strength u, b = 1 - strength u, u the reward minus its mean, over its deviation, clipped to [-1, 1]: a sample of low reward
    is matched more and guided less. For equal rewards it is `dmd` of a guided teacher.

    Args:
      unconditional: the teacher's velocity without a label; None: no guidance.
      reward: of each sample, [B].
      strength: ours; the published constants are not known.
      guidance: w, the scale of the guidance; 1 for none.
      c: floor as in `dmd`.
      mean: as in `f_distill`.

    Example:
      >>> assert jnp.allclose(*adaptive_matching(flow.V, flow.v, flow.v, flow.v, x[:, 0], x, 1.0, r, eps))

    Reference: Bai et al. 2026, Adaptive Matching Distillation (arXiv 2602.07345); from its abstract and an equation quoted in a review.
    """
    mean = mean or mean_of_rows
    F, x_r, r = noised("adaptive_matching", V, x, s, r, eps)
    centred = reward - mean(reward)
    u = times.expand(jnp.clip(centred / (jnp.sqrt(mean(centred**2)) + 1e-6), -1, 1), x)
    v = teacher(x_r, r)
    g = (1 - strength * u) * r * (v - fake(x_r, r))
    if unconditional is not None:
        g -= (1 + strength * u) * (guidance - 1) * r * (unconditional(x_r, r) - v)
    return push(F, g / (mean_of_row(jnp.abs(F - (x_r - r * v))) + c))


def diffratio(
    V: AverageVelocity,
    discriminator: Discriminator,
    x: Array,
    s: Time,
    r: Time,
    eps: Array,
    *,
    weight: Callable[[Array], Array] | None = None,
) -> Array:
    """DiffRatio: no scores, but the logarithm of their ratio, which a classifier learns on noised data and noised samples.

        errors = -w(r) discriminator(x_r, r)

    Its gradient passes through the input of the discriminator: of the best one it is that of w(r) KL(q_r | p_r), as `vsd`'s. The paper is
    known to us by its abstract; this form of its loss is derived.

    Args:
      weight: w, of r; None: 1.

    Returns:
      errors [B], unbounded below.

    Example:
      >>> diffratio(flow.V, even, x, 1.0, r, eps).tolist()
      [-0.0, -0.0]

    Reference: DiffRatio (arXiv 2502.08005), abstract.
    """
    _, x_r, r = noised("diffratio", V, x, s, r, eps)
    w = 1.0 if weight is None else jnp.broadcast_to(weight(r), (len(x), *[1] * (x.ndim - 1))).reshape(-1)
    return -w * discriminator(x_r, r)


def moment_matching(V: AverageVelocity, fake: Velocity, teacher: Velocity, x: Array, s: Time, t: Time) -> Pair:
    """Moment matching distillation: where a step of the student leads, its denoised data have the mean of the data's.

        D  vs  sg[D - (D_fake(F) - D_teacher(F))],     D = x - s V(x, s, t),     F = x + (t - s) V(x, s, t)

    V is told where its step leads, and D is the sample to which the step goes: F is on the line from it to x, as in DDIM. The fake is
    that of `moment_matching_fake`, half way between both velocities, so that half of their difference is seen.

    Paper -> here: z_t, z_s with s < t -> x, F with t < s, x~ -> D, g_phi -> D_fake.

    Args:
      x: noised data at time `s`, [B, ...].
      t: time to which the step leads, t < s.

    Example:
      >>> assert jnp.allclose(*moment_matching(flow.V, flow.v, flow.v, x, 0.8, 0.7))

    Reference: Salimans et al. 2024 (arXiv 2406.04103), as remembered, with the DDIM step of a third-party code.
    """
    s, t = checks.times("moment_matching", x, s=s, t=t)
    V_st = V(x, s, t)
    F = sg(flowmap.move(x, s, t, V_st))
    return push(flowmap.move(x, s, jnp.zeros_like(s), V_st), t * (teacher(F, t) - fake(F, t)))


def moment_matching_fake(fake: Velocity, teacher: Velocity, x0: Array, x: Array, t: Time) -> tuple[Pair, Pair]:
    """The fake of moment matching: it learns the student's samples, and stays with the teacher.

        x - t fake(x, t)  vs  x0,     and  x - t fake(x, t)  vs  sg[x - t teacher(x, t)]

    Its optimum is the mean of E[x0 | x] and of the teacher's denoised data.

    Args:
      x0: samples of the student, D of `moment_matching`, [B, ...], under a stop-gradient.
      x: where its steps lead, F there, the shape of `x0`.
      t: the time there.

    Example:
      >>> dirac = lambda x, t: (x - 1.0) / t
      >>> both = moment_matching_fake(dirac, dirac, jnp.ones((2, 2)), x, r)
      >>> assert all(jnp.allclose(*pair) for pair in both)

    Reference: Salimans et al. 2024 (arXiv 2406.04103), as remembered and in a third-party code.
    """
    (t,) = checks.times("moment_matching_fake", x, t=t)
    x0 = checks.like("moment_matching_fake", x, x0, name="x0")
    D = x - t * fake(x, t)
    return Pair(D, x0), Pair(D, sg(x - t * teacher(x, t)))


def freeflow_correction(V: AverageVelocity, velocity: Velocity, teacher: Velocity, x: Array, r: Time, eps: Array) -> Pair:
    """FreeFlow's correction: samples are pushed to where the teacher's velocity and that of the samples agree.

        F(x, 1, 0)  vs  sg[F(x, 1, 0) + velocity(x_r, r) - teacher(x_r, r)],     x_r = (1 - r) F(x, 1, 0) + r eps

    Since v = (x - E[x0 | x]) / r, the difference points from what the student makes of x_r to what the teacher makes of it: this is
    `vsd` with the weight r / (1 - r)^2, and velocity for fake.

    Paper -> here: z -> x, f_theta(z, 1) -> F(x, 1, 0), n -> eps, the noising velocity G_psi -> velocity, u -> teacher.

    Args:
      velocity: velocity of the student's samples, `velocity(x, t)`: an auxiliary network that learns it by flow matching.
      x: noise from which the student makes samples, [B, ...].

    Example: once the student's samples have the teacher's velocity nothing pushes them.
      >>> assert jnp.allclose(*freeflow_correction(flow.V, flow.v, flow.v, x, 0.5, eps=x[::-1]), atol=1e-5)

    Reference: Tong et al. 2025, Flow Map Distillation Without Data (arXiv 2511.19428), the correction objective.
    """
    F, x_r, r = noised("freeflow_correction", V, x, 1.0, r, eps)
    return push(F, teacher(x_r, r) - velocity(x_r, r))


def self_e(V: AverageVelocity, V_null: AverageVelocity, x: Array, s: Time, t: Time, x0: Array, eps: Array) -> Pair:
    """Self-E: the student judges its own sample at a noise level t, by how a label changes what it makes of it.

        D(x, s, t)  vs  sg[(x0 + w D_self) |x0| / |x0 + w D_self|],     w = (s - t) / ((1 - s) (1 - t))
        D_self = D(x, s, t) + D(y, t, t) - D_null(y, t, t),     y = (1 - t) D(x, s, t) + t eps

    D is x - s V(x, s, t), and V no average velocity here: t < s says at which noise level the sample is judged. At t = s this is
    flow matching of denoised data. The norm is over the data axes.

    Args:
      V: average velocity under the label of a row.
      V_null: the same network without a label.
      x: noised data at time `s`, [B, ...].
      t: level at which the sample is judged, t <= s.
      x0: the data, the shape of `x`.

    Example: for one point as data, which a label cannot change.
      >>> dirac = lambda x, s, t: (x - 2.0) / s
      >>> x0 = jnp.full((2, 2), 2.0)
      >>> assert jnp.allclose(*self_e(dirac, dirac, 0.2 * x0 + 0.8 * x, 0.8, 0.5, x0, eps))

    Reference: Yu et al. 2025, Self-E (arXiv 2512.22374), from a published summary.
    """
    s, t = checks.times("self_e", x, s=s, t=t)
    x0, eps = (checks.like("self_e", x, value, name=name) for name, value in (("x0", x0), ("eps", eps)))
    D = flowmap.move(x, s, jnp.zeros_like(s), V(x, s, t))
    y = sg((1 - t) * D + t * eps).astype(jnp.result_type(x))
    D_self = D + t * (V_null(y, t, t) - V(y, t, t))
    mixed = (1 - s) * (1 - t) * x0 + (s - t) * D_self
    return Pair(D, sg(mixed * jnp.sqrt(mean_of_row(x0**2) / jnp.maximum(mean_of_row(mixed**2), 1e-12))))


def noised(caller: str, V: AverageVelocity, x: Array, s: Time, r: Time, eps: Array) -> tuple[Array, Array, Array]:
    """(sample F(x, s, 0), x_r, r), checked; gradients pass."""
    s, r = checks.times(caller, x, s=s, r=r)
    eps = checks.like(caller, x, eps, name="eps")
    F = flowmap.jump(V, x, s, jnp.zeros_like(s))
    return F, ((1 - r) * F + r * eps).astype(jnp.result_type(x)), r


def mean_of_rows(rows: Array) -> Array:
    """The mean over the rows."""
    return jnp.mean(rows, axis=0)


def mean_of_row(values: Array) -> Array:
    """The mean over the data axes, which stay."""
    return jnp.mean(values, axis=tuple(range(1, values.ndim)), keepdims=True)
