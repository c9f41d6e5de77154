"""Matching by scores with gradients through the inputs of both velocities: the gradient of a Fisher divergence.

With v_c = eps - F(x, s, 0), the velocity of x_r that belongs to the sample,

    score_p - score_q = (1 - r) / r (fake - teacher),     score(x_r | sample) - score_p = (1 - r) / r (teacher - v_c)

E[v_c | x_r] is the velocity of the samples, at which the best fake is: so E[(fake - teacher) . (v_c - teacher)] is a divergence
whose gradient in the samples needs no derivative of the fake in its weights. The weights of fake and teacher stand still.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from flowjax import checks, times
from flowjax.losses.distributional import scores
from flowjax.typing import Array, AverageVelocity, Time, Velocity

sg = jax.lax.stop_gradient
Slopes = tuple[Callable[[Array], Array], Callable[[Array], Array]]

# (u f''(u), u^2 f'''(u)) of f-divergences of q from p, u = q_r / p_r.
F_DIVERGENCES: dict[str, Slopes] = {
    "rkl": (jnp.ones_like, lambda u: -jnp.ones_like(u)),  # KL(q | p), f = u log u
    "kl": (lambda u: 1 / u, lambda u: -2 / u),  # KL(p | q), f = -log u
    "js": (lambda u: 1 / (1 + u), lambda u: -(1 + 2 * u) / (1 + u) ** 2),  # f = u log u - (1 + u) log((1 + u) / 2)
    "chi": (lambda u: 2 * u, jnp.zeros_like),  # Pearson's chi-square, f = (u - 1)^2
}


def sid(
    V: AverageVelocity,
    fake: Velocity,
    teacher: Velocity,
    x: Array,
    s: Time,
    r: Time,
    eps: Array,
    *,
    alpha: float = 1.2,
    c: float = 1e-5,
    weight: Callable[[Array], Array] | None = None,
) -> Array:
    """Score identity Distillation, SiD: both velocities are asked at the sample, and gradient flows through their inputs.

        errors = sum w d . ((D_teacher - F(x, s, 0)) - alpha d),     d = D_teacher - D_fake,     w = 1 / sg[max(mean|F - D_teacher|, c)]

    With the best fake the mean is (1 - alpha) w |d|^2: negative for alpha above 1, so that it does not show convergence. The gradient is
    half of that of E w |d|^2, the Fisher divergence, for alpha = 1/2, and half of that with the sampling law of x_r held for alpha = 1.

    Paper -> here: x_g -> F(x, 1, 0), f_phi -> D_teacher, f_psi -> D_fake.

    Args:
      alpha: 1.2 as published; 1.0 is published, too.
      c: floor of the mean.
      weight: w, of r, instead of the one above.

    Returns:
      errors [B], of both signs.

    Example:
      >>> sid(flow.V, flow.v, flow.v, x, 1.0, r, eps).tolist()
      [0.0, 0.0]

    Reference: Zhou et al. 2024, Score identity Distillation (arXiv 2404.04057), its code.
    """
    F, x_r, r = scores.noised("sid", V, x, s, r, eps)
    D_teacher, D_fake = x_r - r * teacher(x_r, r), x_r - r * fake(x_r, r)
    d = D_teacher - D_fake
    w = 1 / sg(jnp.maximum(scores.mean_of_row(jnp.abs(F - D_teacher)), c)) if weight is None else weight(r)
    return _sum(w * d * ((D_teacher - F) - alpha * d))


def sim(
    V: AverageVelocity, fake: Velocity, teacher: Velocity, x: Array, s: Time, r: Time, eps: Array, *, c: float = 0.1
) -> Array:
    """Score Implicit Matching, SIM: the distance of the two scores is any function of their difference, here pseudo-Huber.

        errors = sum d . (D_fake - F(x, s, 0)) / sqrt(|d|^2 + c^2),     d = D_teacher - D_fake

    The sum over data axes is outside of the fraction, |d| is the norm over them. With a squared distance, without the root, it is
    `sid` with alpha = 1. Gradient flows through F and through the inputs of both velocities.

    Paper -> here: y = s_p - s_q -> d, in units of denoised data.

    Args:
      c: where the distance turns linear, in those units; ours, the published value is in units of scores and not verified.

    Returns:
      errors [B], of both signs.

    Example:
      >>> sim(flow.V, flow.v, flow.v, x, 1.0, r, eps).tolist()
      [0.0, 0.0]

    Reference: Luo et al. 2024, Score Implicit Matching (arXiv 2410.16794), as remembered.
    """
    F, x_r, r = scores.noised("sim", V, x, s, r, eps)
    D_teacher, D_fake = x_r - r * teacher(x_r, r), x_r - r * fake(x_r, r)
    d = D_teacher - D_fake
    return _sum(d * (D_fake - F)) / jnp.sqrt(_sum(d**2) + c**2)


def uni_instruct(
    V: AverageVelocity,
    fake: Velocity,
    teacher: Velocity,
    discriminator: Callable[[Array, Array], Array],
    x: Array,
    s: Time,
    r: Time,
    eps: Array,
    *,
    divergence: str = "kl",
    bound: float = 10.0,
) -> Array:
    """Uni-Instruct: an f-divergence of samples from data, spread over the noise levels.

        errors = (1 - r) / r sum(2 g(u) (fake - teacher) . (v_c - teacher) + k(u) |fake - teacher|^2),     v_c = eps - F(x, s, 0)

    u = q_r / p_r = exp(-discriminator(x_r, r)), g(u) = u f''(u), k(u) = u^2 f'''(u). The mean over r, uniform in [0, 1], has the gradient
    of D_f(q_0 | p_0): f is applied at r = 0 alone, where its gradient could not be taken. Gradient flows through all inputs at x_r. For
    "rkl" the ratio plays no part, and this is `sid` with alpha = 1/2. The paper splits the same gradient into those of
    Diff-Instruct and of SIM; this form is derived, and checked on Gaussians.

    Args:
      divergence: a key of F_DIVERGENCES.
      bound: on the size of the log-odds.

    Returns:
      errors [B], of both signs.

    Raises:
      InputError: for an unknown divergence.

    Example:
      >>> uni_instruct(flow.V, flow.v, flow.v, even, x, 1.0, r, eps).tolist()
      [0.0, 0.0]

    Reference: Wang et al. 2025, Uni-Instruct (arXiv 2505.20755), theorems 3.1 and 3.2 in words.
    """
    checks.member("divergence", divergence, F_DIVERGENCES)
    g, k = F_DIVERGENCES[divergence]
    F, x_r, r = scores.noised("uni_instruct", V, x, s, r, eps)
    u = times.expand(jnp.exp(-jnp.clip(discriminator(x_r, r), -bound, bound)), x)
    v = teacher(x_r, r)
    d = fake(x_r, r) - v
    return _sum((1 - r) / r * (2 * g(u) * d * (eps - F - v) + k(u) * d**2))


def _sum(values: Array) -> Array:
    """The sum over the data axes."""
    return jnp.sum(values, axis=tuple(range(1, values.ndim)))
