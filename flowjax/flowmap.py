"""The flow map F from the average velocity V."""

import jax.numpy as jnp

from flowjax import checks


def jump(V, x, s, t):
    """The flow map: carries `x` from time `s` to time `t` with one evaluation of `V`.

        F(x, s, t) = x + (t - s) V(x, s, t)

    Args:
      V: average velocity, `V(x, s, t)`.
      x: data at time `s`, any shape.
      s: source time in [0, 1], a scalar or with `x.ndim` axes.
      t: target time in [0, 1], likewise.

    Returns:
      The data at time `t`, with the shape and dtype of `x`.

    Raises:
      InputError: if a time has neither no axis nor `x.ndim` axes.

    Example:
      >>> jump(lambda x, s, t: -x, jnp.ones((2, 3)), 1.0, 0.5)[0]
      Array([1.5, 1.5, 1.5], dtype=float32)

    Reference: Boffi et al. 2024 (arXiv 2406.07507), definition 2.1; Geng et al. 2025 (arXiv 2505.13447), eq. 3.
    """
    s, t = checks.times("jump", x, s=s, t=t)
    return (x + (t - s) * V(x, s, t)).astype(jnp.result_type(x))
