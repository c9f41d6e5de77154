"""Categories: maps that stay on the simplex, from networks that return logits.

Data x0 is one-hot along the last axis, [B, ..., K], the path is linear, and a network is a callable `logits(x, s, t)` of the shape of x:

    pi(x, s, t) = softmax(logits(x, s, t)),   V = (x - pi) / s,   F(x, s, t) = (t / s) x + (1 - t / s) pi(x, s, t),   t <= s

So D = x - s V = pi, and F lies between x and the simplex whatever the weights. On the exact flow pi(x, s, s) is the posterior of the
categories, and with d_t the derivative in t, and D_s that along the flow at the source, (v, 1, 0):

    Lagrangian     pi - t (1 - t / s) d_t pi  =  pi(F, t, t),           the same as t d_t F = F - pi(F, t, t)
    Eulerian       t pi + s (s - t) D_s pi  =  t pi(x, s, s)
    compositional  pi(x, s, t)  =  k pi(x, s, m) + (1 - k) pi(F(x, s, m), m, t),    k = t (s - m) / (m (s - t))

A Pair of logits and probabilities is scored by `flowjax.distances.kl`, any other by a squared error. Arguments are those of
flowjax.losses, of which `x` is what the linear path gives, and s >= t.

Example: the exact flow of two categories, as one token.
  >>> tokens = exact.categorical([0.3, 0.7])
  >>> z, s, t = jnp.array([[0.4, -0.2], [0.1, 1.3]]), 0.8, 0.4
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from flowjax import checks, flowmap
from flowjax.typing import Array, AverageVelocity, Jvp, Pair, Time, Velocity

sg = jax.lax.stop_gradient
Logits = Callable[..., Array]  # logits(x, s, t), the shape of x


def cross_entropy(logits: Logits, x: Array, s: Time, x0: Array, *, label_smoothing: float = 0.0) -> Pair:
    """The anchor: on the diagonal the network classifies each token.

        logits(x, s, s)  vs  (1 - label_smoothing) x0 + label_smoothing / K

    Args:
      x0: clean data, one-hot, the shape of `x`.
      label_smoothing: share of the target that is spread over the K categories.

    Returns:
      Pair of logits and probabilities.

    Reference: Categorical Flow Maps (arXiv 2602.12233), Flow Map Language Models (arXiv 2602.16813); label smoothing 0.1 in the
    former's code for text.
    """
    (s,) = checks.times("cross_entropy", x, s=s)
    x0 = checks.like("cross_entropy", x, x0, name="x0")
    return Pair(logits(x, s, s), (1 - label_smoothing) * x0 + label_smoothing / x.shape[-1])


def csd(logits: Logits, x: Array, s: Time, t: Time, *, jvp: Jvp = jax.jvp) -> Pair:
    """Categorical Flow Maps, the CSD loss: the Lagrangian rule in the units of probabilities, with F detached outside of its derivative.

        sg[F(x, s, t)] - t d_t F(x, s, t)  vs  sg[pi(F(x, s, t), t, t)]

    This is the authors' spelling (semicat). `csd_attached` is the one of a reimplementation, where F learns, too.

    Example:
      >>> assert jnp.allclose(*csd(tokens.logits, z, s, t), atol=1e-5)

    Reference: Categorical Flow Maps (arXiv 2602.12233), its code.
    """
    s, t = checks.times("csd", x, s=s, t=t)
    F, dF_dt = jvp(lambda t: jump(logits, x, s, t), (t,), (jnp.ones_like(t),))
    return Pair(sg(F) - t * dF_dt, sg(jax.nn.softmax(logits(sg(F), t, t))))


def csd_attached(logits: Logits, x: Array, s: Time, t: Time, *, jvp: Jvp = jax.jvp) -> Pair:
    """The pair of `csd` with the same value, and a gradient that also passes through F.

        F(x, s, t) - t d_t F(x, s, t)  vs  sg[pi(F(x, s, t), t, t)]

    The left side is pi - t (1 - t / s) d_t pi: at t = s it is pi(x, s, s), so that the loss also learns on the diagonal.

    Reference: the CSD loss in the code of Discrete Flow Maps for segmentation, after arXiv 2602.12233.
    """
    s, t = checks.times("csd_attached", x, s=s, t=t)
    F, dF_dt = jvp(lambda t: jump(logits, x, s, t), (t,), (jnp.ones_like(t),))
    return Pair(F - t * dF_dt, sg(jax.nn.softmax(logits(sg(F), t, t))))


def ecld(logits: Logits, x: Array, s: Time, t: Time, *, jvp: Jvp = jax.jvp) -> tuple[Pair, Pair]:
    """Categorical Flow Maps, the ECLD loss: a cross-entropy and an energy, which together bound the Lagrangian residual.

        logits(x, s, t)  vs  sg[pi(F(x, s, t), t, t)]   and   (1 - t / s) d_t pi(x, s, t)  vs  0

    By the Lagrangian identity pi - pi(F, t, t) = t (1 - t / s) d_t pi on the exact map: both errors vanish where pi does not change
    with t, as for data of one row, and nowhere else. So the least value is not that of the exact map.

    Returns:
      (Pair, Pair): logits and probabilities, and the energy, a plain pair. The gradient passes through the derivative.

    Reference: Categorical Flow Maps (arXiv 2602.12233), its code for text, where the cross-entropy is averaged over tokens and the
    energy summed. That for graphs weighs the two by 4 and 2 and has the factor (1 - t / s) once in the square.
    """
    s, t = checks.times("ecld", x, s=s, t=t)
    z, dz_dt = jvp(lambda t: logits(x, s, t), (t,), (jnp.ones_like(t),))
    pi = jax.nn.softmax(z)
    dpi_dt = pi * (dz_dt - jnp.sum(pi * dz_dt, axis=-1, keepdims=True))
    F, energy = towards(x, s, t, pi), (1 - ratio(s, t)) * dpi_dt
    return Pair(z, sg(jax.nn.softmax(logits(sg(F), t, t)))), Pair(energy, jnp.zeros_like(energy))


def dfm_esd(logits: Logits, x: Array, s: Time, t: Time, *, floor: float = 0.01, jvp: Jvp = jax.jvp) -> Pair:
    """Discrete Flow Maps, ESD: the Eulerian rule, solved for the probabilities.

        logits(x, s, t)  vs  sg[softmax(logits(x, s, s) - log(t + s (s - t) delta))]
        delta = D_s z - <pi, D_s z>,  z = logits(x, s, t),  along the network's own drift (x - pi(x, s, s)) / s

    On the exact map the argument of the logarithm is t pi(x, s, s) / pi(x, s, t), which is positive. On the diagonal both sides
    are pi(x, s, s).

    Args:
      t: above 0; at the data the argument is 0 / 0.
      floor: least argument over t. A network of early training has negative ones.

    Returns:
      Pair of logits and probabilities, all of which are under the stop-gradient.

    Example:
      >>> logits, target = dfm_esd(tokens.logits, z, s, t)
      >>> assert jnp.allclose(jax.nn.softmax(logits), target, atol=1e-5)

    Reference: Discrete Flow Maps (arXiv 2604.09784); clamped where the code masks, see flowjax.methods.discrete.
    """
    s, t = checks.times("dfm_esd", x, s=s, t=t)
    z_ss = sg(logits(x, s, s))
    # Along (s v, s, 0): the factor s of the equation, and no division by s.
    z, s_dz = jvp(lambda x, s: logits(x, s, t), (x, s), (x - jax.nn.softmax(z_ss), s))
    pi = jax.nn.softmax(z)
    argument = t + (s - t) * (s_dz - jnp.sum(pi * s_dz, axis=-1, keepdims=True))
    return Pair(z, sg(jax.nn.softmax(z_ss - jnp.log(jnp.maximum(argument, floor * jnp.maximum(t, 1e-6))))))


def dfm_psd(logits: Logits, x: Array, s: Time, t: Time, a: Time) -> Pair:
    """Discrete Flow Maps, PSD: two jumps are one, a mixture of their probabilities.

        logits(x, s, t)  vs  sg[k pi(x, s, m) + (1 - k) pi(F(x, s, m), m, t)],     m = s + a (t - s),  k = a t / m

    k is in [0, 1], and 1 for a = 1.

    Args:
      a: fraction of the way at which the jump is split, in [0, 1].

    Returns:
      Pair of logits and probabilities.

    Example:
      >>> logits, target = dfm_psd(tokens.logits, z, s, t, 0.25)
      >>> assert jnp.allclose(jax.nn.softmax(logits), target, atol=1e-5)

    Reference: Discrete Flow Maps (arXiv 2604.09784), its code.
    """
    s, t, a = checks.times("dfm_psd", x, s=s, t=t, a=a)
    m = s + a * (t - s)
    k = mixture_weight(m, t, a)
    pi_sm = jax.nn.softmax(logits(x, s, m))
    x_m = towards(x, s, m, pi_sm)
    return Pair(logits(x, s, t), sg(k * pi_sm + (1 - k) * jax.nn.softmax(logits(x_m, m, t))))


def flm_semigroup(residual: AverageVelocity, teacher: Velocity, x: Array, s: Time, t: Time, a: Time = 0.5) -> Pair:
    """Flow Map Language Models, distillation: a residual on a frozen velocity, so that two jumps are one.

        x - s V(x, s, t)  vs  sg[x - s (a V(x, s, m) + (1 - a) V(F(x, s, m), m, t))],     m = s + a (t - s)
        V(x, s, t) = teacher(x, s) + (t - s) / 2 residual(x, s, t)

    Both sides are points like data: where the mean velocity leads by the time 0.

    Args:
      residual: `residual(x, s, t)`, the shape of x.
      teacher: instantaneous velocity, of a network that was trained by `cross_entropy`.
      a: fraction of the way at which the jump is split, in [0, 1]; in the code halfway in warped time.

    Example:
      >>> bend = lambda x, s, t: 2 * (tokens.V(x, s, t) - tokens.v(x, s)) / (t - s)
      >>> assert jnp.allclose(*flm_semigroup(bend, tokens.v, z, s, t), atol=1e-5)

    Reference: Flow Map Language Models (arXiv 2602.16813), its code; the error is squared and multiplied by the number of categories.
    """
    s, t, a = checks.times("flm_semigroup", x, s=s, t=t, a=a)
    m, V = s + a * (t - s), flowmap.second_order(teacher, residual)
    V_sm = V(x, s, m)
    x_m = flowmap.move(x, s, m, V_sm)
    return Pair(x - s * V(x, s, t), sg(x - s * (a * V_sm + (1 - a) * V(x_m, m, t))))


def flm_softmax(logits: Logits, V_map: AverageVelocity, x: Array, s: Time, t: Time) -> Pair:
    """Flow Map Language Models, second stage: a softmax map is fitted to the jumps of the residual map.

        pi(x, s, t)  vs  sg[x - s V_map(x, s, t)]

    The right side need not lie on the simplex, so a squared error scores the pair.

    Args:
      V_map: average velocity of the map of the first stage.

    Example:
      >>> assert jnp.allclose(*flm_softmax(tokens.logits, tokens.V, z, s, t), atol=1e-5)

    Reference: Flow Map Language Models (arXiv 2602.16813), its code.
    """
    s, t = checks.times("flm_softmax", x, s=s, t=t)
    return Pair(jax.nn.softmax(logits(x, s, t)), sg(x - s * V_map(x, s, t)))


def ratio(s: Array, t: Array) -> Array:
    """t / s, and 1 at s = 0, where no jump is left."""
    return jnp.where(s > 0, t / jnp.where(s > 0, s, 1), 1)


def mixture_weight(m: Array, t: Array, a: Array) -> Array:
    """The weight k = t (s - m) / (m (s - t)) = a t / m of the first of two jumps, in [0, 1]; 1 at m = 0."""
    return jnp.where(m > 0, a * t / jnp.where(m > 0, m, 1), 1)


def jump(logits: Logits, x: Array, s: Array, t: Array) -> Array:
    """F(x, s, t), in the dtype of `x`."""
    return towards(x, s, t, jax.nn.softmax(logits(x, s, t)))


def towards(x: Array, s: Array, t: Array, pi: Array) -> Array:
    """Where x at time s is at time t on the straight way to the probabilities pi: F for pi(x, s, t). In the dtype of `x`."""
    r = ratio(s, t)
    return (r * x + (1 - r) * pi).astype(jnp.result_type(x))
