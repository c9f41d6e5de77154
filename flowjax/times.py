"""Samplers of times and of the fraction `a`.

A sampler of one time is a function `(key, n) -> [n]`, of a pair `(key, n) -> (s, t)` with source times first; all float32 in
[0, 1].
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jax.scipy import special
from jax.typing import ArrayLike

from flowjax import options, typing
from flowjax.typing import Array

Times = Callable[[Array, int], Array]  # (key, n) -> times [n]
Pairs = Callable[[Array, int], tuple[Array, Array]]  # (key, n) -> (s, t), each [n]
TimeSampler = Callable[..., Any] | Sequence[Any]  # a sampler, or its name and constants, as `sampler_from_name` takes it


def expand(t: ArrayLike, x: ArrayLike) -> Array:
    """Gives times the axes of data: [B] becomes [B, 1, ..., 1] with `x.ndim` axes; scalars stay.

    Example:
      >>> expand(jnp.zeros(8), jnp.zeros((8, 32, 32, 4))).shape
      (8, 1, 1, 1)

    Raises:
      InputError: unless t is a scalar or has one time for each row of x.
    """
    t = jnp.asarray(t)
    if t.ndim == 0:
        return t
    if t.ndim != 1 or t.shape[0] != jnp.shape(x)[0]:
        raise typing.InputError(f"expand: t has shape {t.shape}, expected a scalar or {jnp.shape(x)[:1]}, one time a row of x.")
    return t.reshape(t.shape + (1,) * (jnp.ndim(x) - 1))


def flatten(t: ArrayLike, x: ArrayLike) -> Array:
    """Times [B] of the rows of x, never narrower than float32, from a scalar or [B, 1, ..., 1].

    Example:
      >>> flatten(0.5, jnp.zeros((3, 2))).tolist()
      [0.5, 0.5, 0.5]
    """
    t = jnp.asarray(t)
    t = t.astype(jnp.promote_types(t.dtype, jnp.float32))
    return jnp.broadcast_to(t.reshape(-1), jnp.shape(x)[:1])


def uniform(low: float = 0.0, high: float = 1.0) -> Times:
    """Times uniform on [low, high]."""
    return lambda key, n: jax.random.uniform(key, (n,), jnp.float32, low, high)


def logit_normal(mean: float, std: float) -> Times:
    """Times sigmoid(N(mean, std^2)); a larger mean is closer to noise (Esser et al. 2024, arXiv 2403.03206, eq. 19)."""
    return lambda key, n: jax.nn.sigmoid(mean + std * jax.random.normal(key, (n,), jnp.float32))


def arctan_log_normal(mean: float, std: float) -> Times:
    """Times (2 / pi) arctan(sigma) of log-normal noise levels, log sigma ~ N(mean, std^2) (FACM, arXiv 2507.03738, its code)."""
    level = lambda key, n: jnp.exp(mean + std * jax.random.normal(key, (n,), jnp.float32))
    return lambda key, n: 2 / jnp.pi * jnp.arctan(level(key, n))


def u_shaped(a: float = 4.0, high: float = 80 / 81, margin: float = 1e-5) -> Times:
    """Times near both ends: density ~ exp(a t) + exp(a (1 - t)), shrunk to [margin, 1 - margin], then at most `high`.

    Reference: Rectified MeanFlow (arXiv 2511.23342), its code, which takes it from 2-rectified flow++.
    """

    def draw(key, n):
        u_key, side_key = jax.random.split(key)
        near_noise = jnp.log1p(jax.random.uniform(u_key, (n,), jnp.float32) * jnp.expm1(a)) / a
        t = jnp.where(jax.random.bernoulli(side_key, 0.5, (n,)), near_noise, 1 - near_noise)
        return jnp.minimum(margin + (1 - 2 * margin) * t, high)

    return draw


def mixed(share: float, one: Any, other: Any) -> Any:
    """Each row from the sampler `one` with probability `share`, else from `other`; both draw times, or both pairs."""

    def draw(key, n):
        rows_key, one_key, other_key = jax.random.split(key, 3)
        rows = jax.random.bernoulli(rows_key, share, (n,))
        return jax.tree.map(lambda first, second: jnp.where(rows, first, second), one(one_key, n), other(other_key, n))

    return draw


def sorted_pair(sampler: Times) -> Pairs:
    """Two independent times of one sampler, the larger as the source: s, t = max, min (MeanFlow, arXiv 2505.13447, 4.3)."""

    def draw(key, n):
        s_key, t_key = jax.random.split(key)
        one, other = sampler(s_key, n), sampler(t_key, n)
        return jnp.maximum(one, other), jnp.minimum(one, other)

    return draw


def two_sided(source: Times, target: Times, gap: float = 1e-4) -> Pairs:
    """Source and target from a sampler each, then s := max(s, gap), t := min(t, s - gap) (SoFlow, arXiv 2512.15657, its code).

    With gap 0 it is the sampler of the second version of MeanFlow's code for CIFAR-10.
    """

    def draw(key, n):
        s_key, t_key = jax.random.split(key)
        s, t = jnp.maximum(source(s_key, n), gap), target(t_key, n)
        return s, jnp.minimum(t, s - gap)

    return draw


def gap_first(gap_mean: float = -0.8, gap_std: float = 1.0, mean: float = -0.4, std: float = 1.0) -> Pairs:
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


def sorted_sides(one: Times, other: Times) -> Pairs:
    """One time from each of two samplers, the larger as the source: s, t = max, min (Decoupled MeanFlow, arXiv 2510.24474)."""

    def draw(key, n):
        one_key, other_key = jax.random.split(key)
        first, second = one(one_key, n), other(other_key, n)
        return jnp.maximum(first, second), jnp.minimum(first, second)

    return draw


def gap_uniform(gap: Times) -> Pairs:
    """The gap from a sampler first, then t uniform on [0, 1 - gap], s = t + gap (Align Your Flow, arXiv 2506.14603)."""

    def draw(key, n):
        gap_key, t_key = jax.random.split(key)
        g = gap(gap_key, n)
        t = jax.random.uniform(t_key, (n,), jnp.float32) * (1 - g)
        return jnp.minimum(t + g, 1.0), t

    return draw


def gap_below(source: Times, gap: Times, high: float = 0.8, low: float = 0.4) -> Pairs:
    """The source, and t := max(s - gap, 0) with a gap of its own sampler; t := 0 where s > high and t < low.

    Reference: Rectified MeanFlow (arXiv 2511.23342), its code.
    """

    def draw(key, n):
        s_key, gap_key = jax.random.split(key)
        s = source(s_key, n)
        t = jnp.maximum(s - gap(gap_key, n), 0.0)
        return s, jnp.where((s > high) & (t < low), 0.0, t)

    return draw


def dyadic(sections: int = 128) -> Pairs:
    """Jumps of dyadic length on the grid of that length: d = 2^-k, s a multiple of d, t = s - d (Shortcut Models, arXiv 2410.12557).

    `k` runs over 0 .. K - 1, K = log2(sections), so that half a jump is at least 1 / sections. As in the published code the lengths are
    not drawn: of n rows the first floor(n / K) have the shortest jump, as many each longer one, and what remains has d = 1.
    """
    if not isinstance(sections, int) or sections < 2 or sections & (sections - 1):
        raise typing.InputError(f"dyadic: sections is {sections!r}; expected a power of two of at least 2.")

    def draw(key, n):
        lengths = sections.bit_length() - 1
        k = np.repeat(np.arange(lengths)[::-1], n // lengths)
        count = 2 ** np.pad(k, (0, n - len(k)))
        index = jnp.minimum(jnp.floor(jax.random.uniform(key, (n,), jnp.float32) * count) + 1, count)
        return index / count, (index - 1) / count

    return draw


def even_grid(sections: int = 128) -> Times:
    """Times k / sections, k uniform on 1 .. sections: sources of jumps of length 1 / sections that end on the grid or at the data."""
    return lambda key, n: jax.random.randint(key, (n,), 1, sections + 1).astype(jnp.float32) / sections


def uniform_square() -> Pairs:
    """Two independent uniform times, in both orders: for maps in both directions of time (Flow Map Matching, arXiv 2406.07507)."""

    def draw(key, n):
        s, t = jax.random.uniform(key, (2, n), jnp.float32)
        return s, t

    return draw


def karras(levels: int = 40, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Times:
    """Source times on a Karras grid of `levels` noise levels, without the lowest one, uniformly.

        sigma_i = (sigma_min^(1/rho) + i / (levels - 1) (sigma_max^(1/rho) - sigma_min^(1/rho)))^rho,   s = sigma / (1 + sigma)

    Reference: Karras et al. 2022 (arXiv 2206.00364), eq. 5; consistency models use rho = 7 (arXiv 2303.01469).
    """

    def draw(key, n):
        return from_sigma(karras_sigma(jax.random.randint(key, (n,), 1, levels), levels, sigma_min, sigma_max, rho))

    return draw


def karras_sigma(
    index: ArrayLike, levels: ArrayLike, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> Array:
    """Noise level number `index` (0 the lowest) of `levels`, both may be traced."""
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return (low + jnp.asarray(index, jnp.float32) / (levels - 1) * (high - low)) ** rho


def from_sigma(sigma: Array) -> Array:
    """The time of a noise level of the EDM family: t = sigma / (1 + sigma), x = x_ve / (1 + sigma)."""
    return sigma / (1 + sigma)


def to_sigma(t: Array) -> Array:
    """The noise level of a time: sigma = t / (1 - t)."""
    return t / (1 - t)


def fixed(value: float) -> Times:
    """The sampler that always draws `value`: fractions of one half, source times of one."""
    return lambda key, n: jnp.full((n,), value, jnp.float32)


def target_first(target: Times) -> Pairs:
    """The target from a sampler, then the source uniform between it and noise (Categorical Flow Maps, arXiv 2602.12233, its code)."""

    def draw(key, n):
        t_key, s_key = jax.random.split(key)
        t = target(t_key, n)
        return t + (1 - t) * jax.random.uniform(s_key, (n,), jnp.float32), t

    return draw


@functools.cache
def _undecoded(categories: int, levels: int = 1_024) -> tuple[np.ndarray, np.ndarray]:
    """(times rising from 0 to 1, the share of tokens that are not read off at them, over that at noise)."""
    t = np.linspace(0.0, 1.0, levels + 1)
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    r = (1 - t[1:, None]) / t[1:, None]
    right = np.exp((categories - 1) * scipy.special.log_ndtr(nodes + r)) @ weights / math.sqrt(2 * math.pi)
    # Below t = 0.1 all tokens are read off, up to rounding: a small slope keeps the table invertible.
    wrong = np.maximum.accumulate([0.0, *(1 - right)]) + 1e-10 * t
    return t, wrong / wrong[-1]


def decoding_warp(categories: int) -> Callable[[Array], Array]:
    """`u -> t`: the time at which the share u of noisy one-hot tokens can no longer be read off; 0 and 1 stay.

    A token (1 - t) x0 + t eps of K categories with normal noise has its largest entry at the right place with the probability

        q(t) = E Phi(z + (1 - t) / t)^(K - 1),  z normal,     and  u = (1 - q) / (1 - 1 / K)

    is 0 at the data and 1 at noise. For 27 categories most of it lies between t = 0.2 and 0.6.

    Args:
      categories: K, at least 2.

    Reference: Flow Map Language Models (arXiv 2602.16813), the time warp in its code, from a table, as here.
    """
    t, share = _undecoded(int(categories))
    return lambda u: jnp.interp(u, jnp.asarray(share, jnp.float32), jnp.asarray(t, jnp.float32))


def even_decoding(categories: int, warped: Any = None) -> Any:
    """The times of another sampler, uniform by default, after `decoding_warp`: the share of tokens that can be read off falls evenly.

    Args:
      categories: K, at least 2.
      warped: a sampler of one time or of a pair, which this one is, too.
    """
    draw = uniform() if warped is None else warped
    return lambda key, n: jax.tree.map(decoding_warp(categories), draw(key, n))


def uniform_triangle() -> Pairs:
    """Pairs uniform on the triangle 0 <= t <= s <= 1 (Boffi et al. 2025, arXiv 2505.18825)."""
    return sorted_pair(uniform())


# What a config may write, as [name, *constants]; nested for the samplers of a pair.
SAMPLERS: dict[str, Callable[..., Any]] = {
    "uniform": uniform,
    "logit_normal": logit_normal,
    "arctan_log_normal": arctan_log_normal,
    "u_shaped": u_shaped,
    "mixed": mixed,
    "sorted_pair": sorted_pair,
    "two_sided": two_sided,
    "gap_first": gap_first,
    "uniform_triangle": uniform_triangle,
    "uniform_square": uniform_square,
    "sorted_sides": sorted_sides,
    "gap_uniform": gap_uniform,
    "gap_below": gap_below,
    "target_first": target_first,
    "even_decoding": even_decoding,
    "dyadic": dyadic,
    "even_grid": even_grid,
    "karras": karras,
    "fixed": fixed,
}


def sampler_from_name(spec: Any, draws: int | None = None) -> Any:
    """A sampler from its name and constants in a config, or the sampler itself.

    Args:
      spec: a callable, or `(name, *arguments)` with arguments that are numbers or samplers in the same form:
        `("sorted_pair", ("logit_normal", -0.4, 1.0))`.
      draws: how many times a row it must draw: 1, or 2 for (s, t); None: not checked.

    Raises:
      InputError: if the name is unknown, the arguments do not fit it or it draws another number of times.

    Example:
      >>> s, t = sampler_from_name(("sorted_pair", ("uniform", 0.2, 0.6)), draws=2)(jax.random.key(0), 100)
      >>> bool((s >= t).all()), bool((t >= 0.2).all())
      (True, True)
    """
    draw = options.call("time sampler", spec, SAMPLERS)
    if draws is None:
        return draw
    try:
        drawn = len(jax.tree.leaves(jax.eval_shape(lambda key: draw(key, 4), jax.random.key(0))))
    except TypeError as error:
        raise typing.InputError(f"time sampler {spec!r}: {str(error).splitlines()[0]}") from error
    if drawn != draws:
        wanted = "one time" if draws == 1 else "a pair (s, t)"
        raise typing.InputError(f"the time sampler {spec!r} draws {drawn} time(s) a row; expected {wanted}.")
    return draw
