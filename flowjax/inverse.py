"""Inverse problems y = A x0 + sigma n: measurements as rewards, for every sampler of flowjax.steering and flowjax.posterior.

A measurement is a function A of rows, `x0 [B, ...] -> [B, ...]`, any differentiable one. Those here are linear.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from flowjax import flowmap, samplers, typing
from flowjax.typing import Array, AverageVelocity, Reward

Measurement = Callable[[Array], Array]


def mask(known: Array) -> Measurement:
    """The elements of a row where `known` [...] is 1, zero elsewhere: inpainting."""
    return lambda x0: jnp.where(known, x0, 0.0)


def downsampled(factor: int) -> Measurement:
    """Means of blocks of `factor` by `factor` pixels of images [B, H, W, C].

    Example:
      >>> downsampled(2)(jnp.arange(4.0).reshape(1, 2, 2, 1)).tolist()
      [[[[1.5]]]]
    """

    def A(x0: Array) -> Array:
        B, H, W, C = x0.shape
        if H % factor or W % factor:
            raise typing.InputError(
                f"downsampled: images of {H} x {W} pixels by {factor}; expected a factor that divides both."
            )
        return x0.reshape(B, H // factor, factor, W // factor, factor, C).mean(axis=(2, 4))

    return A


def blurred(deviation: float, radius: int = 3) -> Measurement:
    """Images [B, H, W, C] under a normal kernel of this deviation in pixels, zeros outside the image."""
    at = jnp.arange(-radius, radius + 1)
    kernel = jax.nn.softmax(-(at**2) / (2 * deviation**2))

    def A(x0: Array) -> Array:
        along = lambda x, axis: jax.lax.conv_general_dilated(
            x, kernel.astype(x.dtype).reshape((-1, 1) if axis else (1, -1))[None, None], (1, 1), "SAME"
        )
        rows = jnp.moveaxis(x0, -1, 1).reshape(-1, 1, *x0.shape[1:3])
        out = along(along(rows, 0), 1).reshape(len(x0), x0.shape[-1], *x0.shape[1:3])
        return jnp.moveaxis(out, 1, -1)

    return A


def projected(directions: Array) -> Measurement:
    """Scalar products of each row with `directions` [k, ...]: [B, k]."""
    flat = directions.reshape(len(directions), -1)
    return lambda x0: x0.reshape(len(x0), -1) @ flat.T.astype(x0.dtype)


def log_likelihood(A: Measurement, y: Array, sigma: float) -> Reward:
    """The reward -|y - A x0|^2 / (2 sigma^2), by which samples of the tilted density are samples of the posterior p(x0 | y).

    Args:
      A: measurement.
      y: what was measured, [B, ...] or [1, ...] for all rows.
      sigma: deviation of its noise, above 0.

    Raises:
      InputError: for sigma not above 0, or if y does not have the shape of A's answer.

    Example:
      >>> log_likelihood(mask(jnp.array([1, 0])), jnp.array([[1.0, 0.0]]), 0.5)(jnp.array([[0.0, 7.0]])).tolist()
      [-2.0]
    """
    if not sigma > 0:
        raise typing.InputError(f"log_likelihood: sigma is {sigma}; expected above 0.")

    def reward(x0: Array) -> Array:
        seen = A(x0)
        if seen.shape[1:] != y.shape[1:] or y.shape[0] not in (1, len(x0)):
            raise typing.InputError(
                f"log_likelihood: A gives {seen.shape} and y has {y.shape}; expected the same, or one row of y."
            )
        return -jnp.sum(((y - seen) ** 2).reshape(len(x0), -1), axis=1) / (2 * sigma**2)

    return reward


def widened(sigma: float) -> Callable[[Array], Array]:
    """The `scale` of flowjax.steering.guided for a likelihood: sigma^2 / (sigma^2 + r(s)^2), r^2 = s^2 / (s^2 + (1 - s)^2).

    r is the deviation of x0 given x_s for data of unit variance. Without it the gradient of a narrow likelihood is as large near
    the noise, where the end is a guess, as near the data.

    Reference: Song et al. 2023, Pseudoinverse-guided diffusion models (ICLR 2023), eq. 7, for the likelihood's width.
    """
    return lambda s: sigma**2 / (sigma**2 + s**2 / (s**2 + (1 - s) ** 2))


def edited(V: AverageVelocity, x: Array, times: Array, key: Array, replace: Callable[[Array], Array]) -> Array:
    """Zero-shot editing with a map to the data: jump to the data, put in what is known, add noise up to the next time.

        x0 = replace(F(x, s, 0)),   x <- (1 - t) x0 + t z

    For masks `replace` is `lambda x0: jnp.where(known, y, x0)`. It is exact in no case but trivial ones: what is put in tells the
    rest of the image nothing until the next jump.

    Args:
      V: average velocity, called with t = 0.
      x: noise [B, ...].
      times: [n + 1] times that fall from 1 to 0.
      key: of the new noise.
      replace: `x0 -> x0`.

    Returns:
      Samples, the shape of `x`, with what is known put in.

    Reference: Song et al. 2023, Consistency Models (arXiv 2303.01469), algorithm 4.
    """

    def step(x: Array, number: Array, s: Array, t: Array) -> Array:
        x0 = replace(flowmap.jump(V, x, s, jnp.zeros_like(s)))
        z = jax.random.normal(jax.random.fold_in(key, number), x.shape, x.dtype)
        return ((1 - t) * x0 + t * z).astype(x.dtype)

    return samplers.fold(step, x, times)


def inpainted(draw: Callable[..., Array], y: Array, known: Array, sigma: float, levels: Array, key: Array) -> Array:
    """Inpainting by a stochastic map, one call a level: a draw of the whole row, then new noise on what is hidden.

        x_c <- (1 - c) y + (c^2 - (1 - c)^2 sigma^2)^(1/2) z  where known,  (1 - c) x0 + c z  where hidden
        x0 <- draw(x_c, c, eps)

    At the level c = sigma / (1 + sigma) what is known is an observation of its own, (1 - c) y, and both lines draw from conditionals
    of p(x0, x_c | y). So if the draws are of the posterior, rounds at this level leave p(x0 | y) as it is (Gibbs sampling). Higher
    levels before it carry the rows there.

    Args:
      draw: posterior draws `(x_c, c, eps) -> x0`, see flowjax.posterior; x_c is 0 at c = 1, where it says nothing.
      y: x0 + sigma n where it is known, [B, ...].
      known: [...], 1 where it is.
      sigma: deviation of the noise of y, above 0.
      levels: [n], each from sigma / (1 + sigma) to 1; usually they fall from 1, and end with some rounds at the lowest.
      key: of all noise.

    Returns:
      Samples, the shape of `y`.

    Raises:
      InputError: for sigma not above 0.

    Reference: split Gibbs samplers, e.g. Xu and Chi 2024 (arXiv 2403.17042), whose step in x0 is a walk along a diffusion; in one
    call of a stochastic map: ours.
    """

    if not sigma > 0:
        raise typing.InputError(f"inpainted: sigma is {sigma}; expected above 0.")
    shown = jnp.broadcast_to(known, y.shape)

    def step(x0: Array, level: tuple[Array, Array]) -> tuple[Array, None]:
        number, c = level
        z, eps = jax.random.normal(jax.random.fold_in(key, number), (2, *y.shape), y.dtype)
        more = jnp.sqrt(jnp.maximum(c**2 - ((1 - c) * sigma) ** 2, 0.0))
        x_c = jnp.where(shown, (1 - c) * y + more * z, (1 - c) * x0 + c * z)
        return draw(jnp.where(c < 1, x_c, 0.0).astype(y.dtype), c, eps).astype(y.dtype), None

    levels = jnp.asarray(levels, y.dtype)
    return jax.lax.scan(step, jnp.zeros_like(y), (jnp.arange(len(levels)), levels))[0]
