"""A bound on the negative log-likelihood of one-hot tokens."""

import jax
import jax.numpy as jnp

from flowjax import typing
from flowjax.typing import Array, AverageVelocity


def likelihood_bound(V: AverageVelocity, x0: Array, key: Array, *, levels: int = 64, most: float = 8.0) -> Array:
    """An upper bound on -log p(x0) of the diffusion model whose denoiser is D(x, s) = x - s V(x, s, s), for normal noise.

        E -log D_x0(x_S, S) + integral from 0 to `most` of r E |x0 - D(x_s, s)|^2 dr,     s = 1 / (1 + r),  S = 1 / (1 + most)

    r^2 is the signal-to-noise ratio. With the exact posterior as D its mean is the entropy of the data. The map off the diagonal, by
    which few steps are sampled, does not enter.

    Args:
      V: average velocity, whose D are probabilities: of a network that predicts logits.
      x0: one-hot rows [B, ..., K].
      key: of the noise and the levels, one draw of each in every stratum.
      levels: strata of r, each one evaluation of V.
      most: r at which the tokens are read off.

    Returns:
      [B], an unbiased estimate of the bound of each row, in nats.

    Raises:
      InputError: for less than one level.

    Reference: Kingma et al. 2021, Variational Diffusion Models (arXiv 2107.00630), eq. 14 with the data as what is read off; with
    the exact denoiser, Guo, Shamai and Verdu 2005 (arXiv cs/0412108).
    """
    if levels < 1:
        raise typing.InputError(f"likelihood_bound: levels is {levels}; expected at least 1.")
    axes = tuple(range(1, x0.ndim))

    def denoised(key: Array, s: Array) -> Array:
        x = (1 - s) * x0 + s * jax.random.normal(key, x0.shape, x0.dtype)
        return x - s * V(x, s, s)

    def level(total: Array, number: Array) -> tuple[Array, None]:
        noise_key, r_key = jax.random.split(jax.random.fold_in(key, number))
        r = most * (number + jax.random.uniform(r_key, (x0.shape[0],) + (1,) * (x0.ndim - 1))) / levels
        error = jnp.sum((x0 - denoised(noise_key, 1 / (1 + r))) ** 2, axis=axes)
        return total + r.reshape(-1) * error * most / levels, None

    squares, _ = jax.lax.scan(level, jnp.zeros(x0.shape[0], x0.dtype), jnp.arange(levels))
    last = jnp.full((1,) * x0.ndim, 1 / (1 + most), x0.dtype)
    read = jnp.clip(denoised(jax.random.fold_in(key, levels), last), 1e-12, None)
    return squares - jnp.sum(x0 * jnp.log(read), axis=axes)
