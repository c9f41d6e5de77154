"""Matching by adversaries: a discriminator D learns to tell samples from data, and the student to be taken for data.

D is a function `D(x) -> [B]`, its logit that a row is data; times, labels or features are bound by whoever calls. A discriminator on
noised data sees samples and data noised up to the same time; one on features of a teacher sees these. Errors that train the
student have gradients through D's input; those that train D are on samples under a stop-gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flowjax import checks, flowmap
from flowjax.typing import Array, AverageVelocity, Jvp, Pair, Time, Velocity

sg = jax.lax.stop_gradient
Discriminator = Callable[[Array], Array]  # [B, ...] -> [B]


class Game(NamedTuple):
    """What both players minimise, functions of the logits of samples and of data, [B] each.

    Attributes:
      student: `(fake, real) -> [B]`.
      discriminator: `(fake, real) -> [B]`.
    """

    student: Callable[[Array, Array], Array]
    discriminator: Callable[[Array, Array], Array]


# Optimal discriminators, where densities q of samples and p of data are known:
GAMES: dict[str, Game] = {
    # log(p / q)
    "non_saturating": Game(
        lambda fake, real: jax.nn.softplus(-fake), lambda fake, real: jax.nn.softplus(fake) + jax.nn.softplus(-real)
    ),
    # the sign of p - q
    "hinge": Game(lambda fake, real: -fake, lambda fake, real: jax.nn.relu(1 + fake) + jax.nn.relu(1 - real)),
    # log(p / q) up to a constant: a row of samples against a row of data
    "relativistic": Game(lambda fake, real: jax.nn.softplus(real - fake), lambda fake, real: jax.nn.softplus(fake - real)),
}


def fool(D: Discriminator, fake: Array, real: Array, *, game: str = "non_saturating") -> Array:
    """The student's errors: softplus(-D(fake)), -D(fake), or softplus(D(real) - D(fake)).

    Args:
      D: the discriminator with stopped weights; its input has a gradient.
      fake: samples of the student, [B, ...].
      real: data, the shape of `fake`.
      game: a key of GAMES.

    Returns:
      Errors [B].

    Example:
      >>> fool(lambda x: x[:, 0], rows, rows, game="hinge").tolist()
      [1.0, -0.30000001192092896]

    Reference: Goodfellow et al. 2014 (arXiv 1406.2661); hinge: Lim and Ye 2017 (arXiv 1705.02894); relativistic:
      Jolicoeur-Martineau 2018 (arXiv 1807.00734).
    """
    checks.member("game", game, GAMES)
    needed = game == "relativistic"
    return GAMES[game].student(D(fake), D(real) if needed else fake)


def tell_apart(D: Discriminator, fake: Array, real: Array, *, game: str = "non_saturating") -> Array:
    """The discriminator's errors, on samples under a stop-gradient; the mirror of `fool`.

    Args:
      D: the discriminator.
      fake: samples of the student, [B, ...].
      real: data, the shape of `fake`.
      game: a key of GAMES.

    Returns:
      Errors [B].

    Example:
      >>> tell_apart(lambda x: 0 * x[:, 0], rows, rows, game="hinge").tolist()
      [2.0, 2.0]

    Reference: as of `fool`.
    """
    checks.member("game", game, GAMES)
    return GAMES[game].discriminator(D(sg(fake)), D(real))


def penalty(D: Discriminator, x: Array) -> Array:
    """R1 where x is data, R2 where x are samples: the squared length of the discriminator's gradient, exactly.

        |grad_x D(x)|^2

    Returns:
      Errors [B]; a weight gamma / 2 is the recipe's.

    Example:
      >>> penalty(lambda x: 3 * x[:, 0], rows).tolist()
      [9.0, 9.0]

    Reference: Mescheder et al. 2018 (arXiv 1801.04406).
    """
    gradient = jax.grad(lambda x: jnp.sum(D(x)))(sg(x))
    return jnp.sum(gradient**2, axis=tuple(range(1, x.ndim)))


def approximate_penalty(D: Discriminator, x: Array, noise: Array, size: float) -> Array:
    """R1 or R2 by one further evaluation, for networks whose second derivatives cost too much.

        (D(x) - D(x + size noise))^2,     whose mean over the noise is size^2 |grad_x D|^2 where D is linear

    Args:
      noise: standard normal, the shape of `x`.
      size: 0.1 in LADD's code, 0.01 in Adversarial Flow Models.

    Returns:
      Errors [B].

    Example:
      >>> approximate_penalty(lambda x: x[:, 0], rows, jnp.ones_like(rows), 0.5).tolist()
      [0.25, 0.25]

    Reference: Lin et al. 2025, Adversarial Post-Training (arXiv 2501.08316).
    """
    x = sg(x)
    return (D(x) - D((x + size * noise).astype(x.dtype))) ** 2


def adversarial_distillation(V: AverageVelocity, teacher: Velocity, x: Array, s: Time, r: Time, eps: Array) -> Pair:
    """ADD's second term: the sample against what the teacher makes of it, once it is noised again.

        F(x, s, 0)  vs  sg[x_r - r teacher(x_r, r)],     x_r = (1 - r) F(x, s, 0) + r eps

    Example:
      >>> assert jnp.allclose(*adversarial_distillation(lambda x, s, t: x, lambda x, t: x / t, x, 1.0, 0.5, 0 * x))

    Reference: Sauer et al. 2023, Adversarial Diffusion Distillation (arXiv 2311.17042).
    """
    s, r = checks.times("adversarial_distillation", x, s=s, r=r)
    F = flowmap.jump(V, x, s, jnp.zeros_like(s))
    x_r = ((1 - r) * F + r * checks.like("adversarial_distillation", x, eps, name="eps")).astype(x.dtype)
    return Pair(F, sg((x_r - r * teacher(x_r, r)).astype(x.dtype)))


# Adversarial flow models


def centred(D: Discriminator, fake: Array, real: Array) -> Array:
    """Keeps the logits of a relativistic discriminator, which only sees differences, around 0: (D(real) + D(fake))^2.

    Example:
      >>> centred(lambda x: x[:, 0], rows, -rows).tolist()
      [0.0, 0.0]

    Reference: Adversarial Flow Models (arXiv 2511.22475), its released code.
    """
    return (D(real) + D(sg(fake))) ** 2


def transport(F: Array, x: Array) -> Array:
    """What a jump costs, mean |F - x|^2 over the elements: of all maps that make the data it prefers the shortest way.

    Args:
      F: where the jumps land, [B, ...].
      x: where they begin.

    Returns:
      Errors [B].

    Example:
      >>> transport(jnp.ones((1, 2)), jnp.zeros((1, 2))).tolist()
      [1.0]

    Reference: Adversarial Flow Models (arXiv 2511.22475), the optimal-transport term.
    """
    return jnp.mean((F - x) ** 2, axis=tuple(range(1, x.ndim)))


def slope(D: Callable[[Array, Array], Array], x: Array, t: Time, v: Array, *, jvp: Jvp = jax.jvp) -> tuple[Array, Array]:
    """(D, its derivative along a velocity): how a discriminator of points and times sees a direction.

        d/dtau D(x + tau v, t + tau)  at tau = 0

    Linear in v, so that a conditional velocity counts as the marginal one in the mean. Gradients pass through the jvp, into D's weights and
    into v.

    Args:
      D: `D(x, t) -> [B]`.
      v: a velocity at (x, t), the shape of `x`.

    Returns:
      (D(x, t), slope), [B] each.

    Example:
      >>> value, along = slope(lambda x, t: x[:, 0] + t[:, 0], rows, jnp.ones((2, 1)), 2 * jnp.ones_like(rows))
      >>> along.tolist()
      [3.0, 3.0]

    Reference: Continuous Adversarial Flow Models (arXiv 2604.11521).
    """
    (t,) = checks.times("slope", x, t=t)
    return jvp(D, (x, t), (checks.like("slope", x, v), jnp.ones_like(t)))


def continuous_tell_apart(
    D: Callable[[Array, Array], Array], x: Array, t: Time, v: Array, fake: Array, *, centre: float = 1e-3, jvp: Jvp = jax.jvp
) -> Array:
    """The discriminator of Continuous Adversarial Flow Models: the slope along data's velocity to 1, along the network's to -1.

        (a(v) - 1)^2 + (a(sg fake) + 1)^2 + centre D^2,     a = slope of D

    Args:
      v: velocity of the data at (x, t), a conditional one will do.
      fake: the network's velocity V(x, t, t).
      centre: weight that keeps D around 0.

    Returns:
      Errors [B].

    Reference: Continuous Adversarial Flow Models (arXiv 2604.11521), its released code.
    """
    value, real = slope(D, x, t, v, jvp=jvp)
    _, other = slope(D, x, t, sg(fake), jvp=jvp)
    return (real - 1) ** 2 + (other + 1) ** 2 + centre * value**2


def continuous_fool(D: Callable[[Array, Array], Array], x: Array, t: Time, fake: Array, *, jvp: Jvp = jax.jvp) -> Array:
    """The network of Continuous Adversarial Flow Models: the slope along its velocity to 1; the gradient is through the jvp's tangent.

        (a(fake) - 1)^2

    Returns:
      Errors [B].

    Reference: Continuous Adversarial Flow Models (arXiv 2604.11521), its released code.
    """
    _, along = slope(D, x, t, fake, jvp=jvp)
    return (along - 1) ** 2
