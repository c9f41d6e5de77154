"""Inverse problems y = A x0 + sigma n: measurements as rewards, for every sampler of flowjax.steering and flowjax.posterior.

A measurement is a function A of rows, `x0 [B, ...] -> [B, ...]`, any differentiable one. Those here are linear.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from flowjax import flowmap, options, posterior, samplers, typing
from flowjax.losses import variational
from flowjax.typing import Array, AverageVelocity, Reward

Measurement = Callable[[Array], Array]
# What a config or a flag may name: options with their defaults, and the least that each may be.
MEASUREMENTS: dict[str, dict[str, float]] = {
    "mask": {}, "downsample": {"factor": 2.0}, "blur": {"deviation": 1.0}, "project": {"count": 1.0},
}  # fmt: skip
LEAST, MOST = {"factor": 1, "count": 1, "deviation": 0.1}, 1024


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


def check_measurement(spec: str) -> tuple[str, dict[str, float]]:
    """(name, options) of a measurement, "downsample:factor=4"; raises InputError for an unknown one, or options out of range."""
    name, given = options.parse("measurement", spec, MEASUREMENTS)
    given = {option: given.get(option, default) for option, default in MEASUREMENTS[name].items()}
    for option, value in given.items():
        if not LEAST[option] <= value <= MOST:
            raise typing.InputError(
                f"measurement {spec}: {option} is {value:g}; expected a number from {LEAST[option]} to {MOST}."
            )
    return name, given


def known_half(shape: tuple[int, ...]) -> np.ndarray:
    """What the measurement "mask" shows of rows of this shape: the upper half of an image, the first half of other rows; 1 and 0."""
    known = np.zeros(shape, np.float32)
    known[: shape[0] // 2] = 1
    return known


def measurement_from_name(spec: str, shape: tuple[int, ...]) -> Measurement:
    """A measurement by its name and options, of rows of a shape.

    Args:
      spec: "mask" (see `known_half`), "downsample:factor=2", "blur:deviation=1" or "project:count=1" (random directions,
        always the same).
      shape: of a row.

    Raises:
      InputError: for an unknown name, an option out of range, or rows that are no images where they must be.

    Example:
      >>> measurement_from_name("mask", (2,))(jnp.array([[3.0, 4.0]])).tolist()
      [[3.0, 0.0]]
    """
    name, given = check_measurement(spec)
    if name in ("downsample", "blur") and len(shape) != 3:
        raise typing.InputError(
            f"measurement {spec} is for images, and rows have shape {shape}; expected mask or project:count=1."
        )
    if name == "mask":
        return mask(known_half(shape))
    if name == "downsample":
        if any(side % int(given["factor"]) for side in shape[:2]):
            raise typing.InputError(
                f"measurement {spec}: images have {shape[0]} x {shape[1]} pixels; expected a factor that divides both."
            )
        return downsampled(int(given["factor"]))
    if name == "blur":
        return blurred(given["deviation"])
    directions = np.random.default_rng(0).standard_normal((int(given["count"]), *shape)).astype(np.float32)
    return projected(directions / np.sqrt(np.prod(shape)))


def seen(A: Measurement, y: Array, like: Array) -> Array:
    """A measurement as rows like the data, A^T y: what a network is shown of it.

    Args:
      A: measurement; of one that is not linear its derivative at 0 is taken.
      y: what was measured, [B, ...].
      like: rows of the data, [B, ...], of which shape and dtype count.

    Returns:
      The shape of `like`. Where the rows of A are independent nothing is lost.

    Example:
      >>> seen(projected(jnp.array([[1.0, 2.0]])), jnp.array([[3.0]]), jnp.zeros((1, 2))).tolist()
      [[3.0, 6.0]]
    """
    back = jax.vjp(A, jnp.zeros_like(like))[1]
    return back(y.astype(like.dtype))[0]


def by_noise(V: AverageVelocity, adapter: variational.Adapter, A: Measurement, y: Array, eps: Array, times: Array) -> Array:
    """Samples of what fits y from a map and its noise adapter: jumps from noise that the adapter draws where y says.

    Args:
      V: average velocity.
      adapter: noise adapter, `seen [B, ...] -> [B, ..., 2]`: of a run of `variational_flow_map`
        `adapter = training.load(folder, network="noise_adapter").V()` and `lambda seen: adapter(seen, 1.0, 0.0)`.
      A: the measurement of which it was trained.
      y: what was measured, [B, ...] of the shape of A's answer.
      eps: normal noise, [B, ...].
      times: [n + 1] times that fall from 1 to 0; one interval as published.

    Returns:
      The shape of `eps`.

    Reference: Mammadov et al. 2026, Variational Flow Maps (arXiv 2603.07276).
    """
    z = variational.adapted_noise(adapter, seen(A, y, eps), eps)
    return samplers.flow_map(V, z, times)


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


def by_value(
    V: AverageVelocity,
    draw: posterior.Draw,
    reward: Reward,
    x: Array,
    times: Array,
    key: Array,
    *,
    count: int = 32,
    gradient: bool = False,
) -> Array:
    """Samples of p(x0) e^r(x0) along the velocity that posterior draws give, one Heun step an interval: guidance by value.

        dx/dt = v(x, t) - (E_w[x0] - E[x0]) / t,   or with the gradient  v(x, t) - t / (1 - t) grad_x log E[e^r(x0) | x]

    For log_likelihood these are samples of p(x0 | y). With draws of the posterior only the number of draws and the steps err, whatever
    the reward; guidance by one end has another limit.

    Args:
      V: average velocity, called at (t, t).
      draw: posterior draws, `Trained.draw()`.
      reward: r, differentiable if the gradient is taken.
      x: noise [B, ...].
      times: [n + 1] times that fall from 1 to 0.
      key: of the draws' noise, new in every interval.
      count: draws a row and evaluation.
      gradient: whether the gradient of the value is taken; at time 1 it is not known, and the first interval goes without.

    Returns:
      Samples, the shape of `x`.

    Raises:
      InputError: for less than two draws.

    Reference: Holderrieth et al. 2026, Diamond Maps (arXiv 2602.05993); Potaptchik et al. 2026, Meta Flow Maps (arXiv 2601.14430).
    """
    if count < 2:
        raise typing.InputError(f"by_value: count is {count}; expected at least two draws.")
    v = lambda x, t: V(x, t, t)

    def tilted(x: Array, t: Array, eps: Array) -> Array:
        plain = lambda t: posterior.tilted_velocity_without_gradient(v, draw, reward, x, t, eps)
        if not gradient:
            return plain(t)
        inside = jnp.minimum(t, 1 - 1e-3)
        return jnp.where(t < 1 - 1e-3, posterior.tilted_velocity(v, draw, reward, x, inside, eps), plain(t))

    def step(x: Array, number: Array, s: Array, t: Array) -> Array:
        eps = jax.random.normal(jax.random.fold_in(key, number), (count, *x.shape), x.dtype)
        v_s = tilted(x, s, eps)
        y = flowmap.move(x, s, t, v_s)
        # At the data there is nothing to draw.
        after = jax.lax.cond(t > 0, lambda: tilted(y, jnp.maximum(t, 1e-3), eps), lambda: v_s)
        return flowmap.move(x, s, t, (v_s + after) / 2)

    return samplers.fold(step, x, times)


def interpolated(V: AverageVelocity, first: Array, last: Array, shares: Array, times: Array) -> Array:
    """Data between rows, by way of their noise: both are inverted, the noises mixed on the sphere, and mixtures sampled.

        z(a) = sin((1 - a) w) / sin w z_first + sin(a w) / sin w z_last,   w the angle between the noises

    Args:
      V: average velocity; Heun steps along V(x, t, t) carry rows to noise and back.
      first, last: data, [B, ...].
      shares: [n], a from 0 to 1.
      times: [n + 1] times that fall from 1 to 0.

    Returns:
      [n, B, ...], at a = 0 and a = 1 the rows themselves up to the solver's error.
    """
    v = lambda x, t: V(x, t, t)
    ends = [samplers.heun(v, x, times[::-1]).reshape(len(x), -1) for x in (first, last)]
    units = [z / jnp.linalg.norm(z, axis=1, keepdims=True) for z in ends]
    angle = jnp.arccos(jnp.clip(jnp.sum(units[0] * units[1], axis=1, keepdims=True), -1 + 1e-6, 1 - 1e-6))
    z = [(jnp.sin((1 - a) * angle) * ends[0] + jnp.sin(a * angle) * ends[1]) / jnp.sin(angle) for a in shares]
    return jnp.stack([samplers.heun(v, one.reshape(first.shape).astype(first.dtype), times) for one in z])


def edited_by_inversion(V: AverageVelocity, V_edit: AverageVelocity, x0: Array, times: Array) -> Array:
    """Data carried to their noise by one velocity, and back by another: of a class, and of the class that they are to become.

    Args:
      V: average velocity under what describes the rows.
      V_edit: under what they are to be.
      x0: data, [B, ...].
      times: [n + 1] times that fall, from 1 or less, to 0; a smaller first time keeps more of the rows.

    Returns:
      The shape of `x0`. With V_edit = V the rows themselves, up to the error of Heun's method.
    """
    z = samplers.heun(lambda x, t: V(x, t, t), x0, times[::-1])
    return samplers.heun(lambda x, t: V_edit(x, t, t), z, times)
