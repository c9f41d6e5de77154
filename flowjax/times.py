"""Samplers of times and of the fraction `a`, and schedules over training.

A sampler of one time is a function `(key, n) -> [n]`, of a pair `(key, n) -> (s, t)` with source times first; all float32 in
[0, 1]. A schedule is a function of the training step.
"""

import jax
import jax.numpy as jnp
from jax.scipy import special

from flowjax import typing


def expand(t, x):
    """Gives times the axes of data: [B] becomes [B, 1, ..., 1] with `x.ndim` axes; scalars stay.

    Example:
      >>> expand(jnp.zeros(8), jnp.zeros((8, 32, 32, 4))).shape
      (8, 1, 1, 1)
    """
    t = jnp.asarray(t)
    if t.ndim == 0:
        return t
    if t.ndim != 1 or t.shape[0] != jnp.shape(x)[0]:
        raise typing.InputError(f"expand: t has shape {t.shape}, expected a scalar or {jnp.shape(x)[:1]}, one time a row of x.")
    return t.reshape(t.shape + (1,) * (jnp.ndim(x) - 1))


def uniform(low=0.0, high=1.0):
    """Times uniform on [low, high]."""
    return lambda key, n: jax.random.uniform(key, (n,), jnp.float32, low, high)


def logit_normal(mean, std):
    """Times sigmoid(N(mean, std^2)); a larger mean is closer to noise (Esser et al. 2024, arXiv 2403.03206, eq. 19)."""
    return lambda key, n: jax.nn.sigmoid(mean + std * jax.random.normal(key, (n,), jnp.float32))


def sorted_pair(sampler):
    """Two independent times of one sampler, the larger as the source: s, t = max, min (MeanFlow, arXiv 2505.13447, 4.3)."""

    def draw(key, n):
        s_key, t_key = jax.random.split(key)
        one, other = sampler(s_key, n), sampler(t_key, n)
        return jnp.maximum(one, other), jnp.minimum(one, other)

    return draw


def two_sided(source, target, gap=1e-4):
    """Source and target from a sampler each, then t := min(t, s - gap) (SoFlow, arXiv 2512.15657).

    For `s < gap` the target is 0 and the gap is `s` itself.
    """

    def draw(key, n):
        s_key, t_key = jax.random.split(key)
        s, t = source(s_key, n), target(t_key, n)
        return s, jnp.maximum(0.0, jnp.minimum(t, s - gap))

    return draw


def gap_first(gap_mean=-0.8, gap_std=1.0, mean=-0.4, std=1.0):
    """TVM's pair: the gap g = sigmoid(N(gap_mean, gap_std^2)) first, then t logit-normal truncated to t <= 1 - g, s = t + g.

    The truncated draw inverts the normal distribution function, so every key gives a pair and nothing is rejected.

    Reference: Zhou et al. 2025, Terminal Velocity Matching (arXiv 2511.19797), the time sampler of the experiments.
    """

    def draw(key, n):
        gap_key, t_key = jax.random.split(key)
        # Float32 rounds a large gap to 1, and logit(1 - 1) has no value: the largest gap is kept just below.
        gap = jnp.minimum(logit_normal(gap_mean, gap_std)(gap_key, n), 1 - 1e-6)
        upper = special.ndtr((special.logit(1 - gap) - mean) / std)
        u = jax.random.uniform(t_key, (n,), jnp.float32) * upper
        t = jax.nn.sigmoid(mean + std * special.ndtri(jnp.maximum(u, jnp.finfo(jnp.float32).tiny)))
        t = jnp.minimum(t, 1 - gap)
        return jnp.minimum(t + gap, 1.0), t

    return draw


def uniform_triangle():
    """Pairs uniform on the triangle 0 <= t <= s <= 1 (Boffi et al. 2025, arXiv 2505.18825)."""
    return sorted_pair(uniform())


def constant(value):
    """The schedule that stays at `value`."""
    return lambda step: jnp.float32(value)


def exponential(start, end, total_steps):
    """From `start` at step 0 to `end` at `total_steps` by a constant factor a step, then `end` (SoFlow's `a`).

    Example:
      >>> round(float(exponential(0.1, 0.001, 100)(50)), 6)
      0.01
    """
    return lambda step: jnp.float32(start) * (end / start) ** _progress(step, total_steps)


def linear(start, end, total_steps):
    """From `start` at step 0 to `end` at `total_steps` by a constant difference a step, then `end`."""
    return lambda step: start + (end - start) * _progress(step, total_steps)


def _progress(step, total_steps):
    return jnp.clip(jnp.asarray(step, jnp.float32) / total_steps, 0.0, 1.0)


# What a config may write, as [name, *constants]; nested for the samplers of a pair.
SAMPLERS = {
    "uniform": uniform,
    "logit_normal": logit_normal,
    "sorted_pair": sorted_pair,
    "two_sided": two_sided,
    "gap_first": gap_first,
    "uniform_triangle": uniform_triangle,
}


def sampler(spec, times=None):
    """A sampler from what a config can hold, or the sampler itself.

    Args:
      spec: a callable, or `(name, *arguments)` with arguments that are numbers or samplers in the same form:
        `("sorted_pair", ("logit_normal", -0.4, 1.0))`.
      times: how many times it must draw: 1, or 2 for (s, t); None: not checked.

    Raises:
      InputError: if the name is unknown, the arguments do not fit it or it draws another number of times.

    Example:
      >>> s, t = sampler(("sorted_pair", ("uniform", 0.2, 0.6)), times=2)(jax.random.key(0), 100)
      >>> bool((s >= t).all()), bool((t >= 0.2).all())
      (True, True)
    """
    draw = spec if callable(spec) else _named(spec)
    try:
        drawn = times and len(jax.tree.leaves(jax.eval_shape(lambda key: draw(key, 4), jax.random.key(0))))
    except TypeError as error:
        raise typing.InputError(f"time sampler {spec!r}: {str(error).splitlines()[0]}") from error
    if drawn != times:
        wanted = "one time" if times == 1 else "a pair (s, t)"
        raise typing.InputError(f"the time sampler {spec!r} draws {drawn} time(s) a row; expected {wanted}.")
    return draw


def _named(spec):
    if not isinstance(spec, (tuple, list)) or not spec or spec[0] not in SAMPLERS:
        raise typing.InputError(
            f"a time sampler is a tuple (name, *numbers or samplers), here {spec!r}; names: {', '.join(SAMPLERS)}."
        )
    name, *arguments = spec
    try:
        return SAMPLERS[name](*(sampler(a) if isinstance(a, (tuple, list)) else a for a in arguments))
    except TypeError as error:
        raise typing.InputError(f"time sampler {tuple(spec)!r}: {error}.") from None
