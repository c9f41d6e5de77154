"""Interpolants between data and noise, on R^n or another space, and couplings, which give each row of data its noise."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flowjax import checks, options, spaces
from flowjax.typing import Array, InputError, Time


class Path(NamedTuple):
    """An interpolant `x_t = alpha(t) x0 + sigma(t) eps`, with `alpha(0) = sigma(1) = 1` and `alpha(1) = sigma(0) = 0`.

    Any two differentiable functions of time will do: `Path(lambda t: (1 - t)**2, lambda t: t)`. Derivatives are taken by jax. On
    another space than R^n, x_t is at the share sigma(t) of the geodesic from x0 to eps, and alpha is not used.

    Attributes:
      alpha: weight of the data, a function of time in [0, 1].
      sigma: weight of the noise, likewise.
      space: where data, noise and the points between them are, a flowjax.spaces.Space.
      noise: standard deviation of each element of eps, on R^n; other spaces have noise of one kind alone.
      centres: what eps is about: "", zero; "one_hot", a random category of the last axis, all of them alike.
    """

    alpha: Callable[[Time], Any]
    sigma: Callable[[Time], Any]
    space: spaces.Space = spaces.euclidean
    noise: float = 1.0
    centres: str = ""

    def draw(self, key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        """Noise of the path, which is where it ends and sampling starts: eps ~ N(centre, noise^2), or noise of its space."""
        if self.centres:
            centre_key, key = jax.random.split(key)
            centre = jax.nn.one_hot(jax.random.randint(centre_key, shape[:-1], 0, shape[-1]), shape[-1], dtype=dtype)
        eps = self.space.noise(key, shape, dtype)
        eps = eps if self.noise == 1 else (self.noise * eps).astype(dtype)
        return centre + eps if self.centres else eps

    def between(self, x0: Array, eps: Array, t: Time) -> Array:
        """The point between data and noise at time `t`, without checks; `interpolate` has them, and the velocity."""
        if self.space is spaces.euclidean:
            return self.alpha(t) * x0 + self.sigma(t) * eps
        return self.space.geodesic(x0, eps, self.sigma(t))


def _vp_log_alpha(t, beta_min=0.1, beta_max=20.0):
    return -0.25 * t**2 * (beta_max - beta_min) - 0.5 * t * beta_min


# x_t = (1 - t) x0 + t eps: rectified flow (arXiv 2209.03003), flow matching (arXiv 2210.02747), stochastic interpolants.
linear = Path(lambda t: 1 - t, lambda t: t)

# x_t = cos(pi t / 2) x0 + sin(pi t / 2) eps: Albergo and Vanden-Eijnden (arXiv 2209.15571); TrigFlow with t = angle / (pi / 2).
trigonometric = Path(lambda t: jnp.cos(jnp.pi / 2 * t), lambda t: jnp.sin(jnp.pi / 2 * t))

# The DDPM diffusion in continuous time, beta from 0.1 to 20 (arXiv 2011.13456, eq. 33). alpha(1) = 0.0066, not 0, and the
# velocity grows like t^(-1/2) at t = 0: draw times from 1e-5 up.
variance_preserving = Path(lambda t: jnp.exp(_vp_log_alpha(t)), lambda t: jnp.sqrt(-jnp.expm1(2 * _vp_log_alpha(t))))

# Along the geodesic at constant speed (arXiv 2302.03660).
sphere = linear._replace(space=spaces.sphere)
torus = linear._replace(space=spaces.torus)
so3 = linear._replace(space=spaces.so3)
hyperbolic = linear._replace(space=spaces.hyperbolic)

# Of one-hot data, to noise about random categories. Without any noise the flow would have to split points.
one_hot = linear._replace(centres="one_hot")

PATHS = {
    "linear": linear,
    "trigonometric": trigonometric,
    "variance_preserving": variance_preserving,
    "sphere": sphere,
    "torus": torus,
    "one_hot": one_hot,
    "so3": so3,
    "hyperbolic": hyperbolic,
}


def interpolate(path: Path, x0: Array, eps: Array, t: Time) -> tuple[Array, Array]:
    """The point at time `t` between data and noise, and its conditional velocity.

        x = alpha(t) x0 + sigma(t) eps,   v = alpha'(t) x0 + sigma'(t) eps
        on another space than R^n:  x = exp_x0(sigma(t) log_x0(eps)),  and v = dx/dt is tangent at x

    Args:
      path: a Path.
      x0: data, [B, ...] or any shape.
      eps: noise, the same shape, in the space of the path.
      t: time in [0, 1], a scalar or with `x0.ndim` axes.

    Returns:
      (x, v), both with the shape and dtype of `x0`.

    Raises:
      InputError: if a time has neither no axis nor `x0.ndim` axes, or if the shapes differ.

    Example:
      >>> x, v = interpolate(linear, jnp.zeros((1, 2)), jnp.ones((1, 2)), 0.25)
      >>> x.tolist(), v.tolist()
      ([[0.25, 0.25]], [[1.0, 1.0]])

    Reference: Albergo, Boffi and Vanden-Eijnden 2023, stochastic interpolants (arXiv 2303.08797), definition 2.1.
    """
    (t,) = checks.times("interpolate", x0, t=t)
    eps = checks.like("interpolate", x0, eps, name="eps")
    x, v = jax.jvp(lambda t: path.between(x0, eps, t), (t,), (jnp.ones_like(t),))
    return x.astype(jnp.result_type(x0)), v.astype(jnp.result_type(x0))


def independent(key: Array, x0: Array, path: Path = linear) -> Array:
    """The independent coupling: noise of the path, of the shape and dtype of `x0`, which does not depend on the data."""
    return path.draw(key, jnp.shape(x0), jnp.result_type(x0))


def path_from_name(path: str | Path) -> Path:
    """A Path from its name in a config, or the Path itself.

    Args:
      path: a key of PATHS, on R^n with the deviation of its noise if that is not 1: "linear:noise=2" (pixel MeanFlow at 512 x 512,
        arXiv 2601.22158); or a product of spaces, "product:sphere=3,torus=2".

    Raises:
      InputError: for an unknown name or option, or a deviation that is not above 0.

    Example:
      >>> x, v = interpolate(path_from_name("linear:noise=2"), jnp.zeros((1, 1)), 2 * jnp.ones((1, 1)), 0.5)
      >>> x.tolist(), v.tolist()
      ([[1.0]], [[2.0]])
    """
    if isinstance(path, Path):
        return path
    if not isinstance(path, str):
        checks.member("path", path, PATHS)
    if path.startswith("product:"):
        return linear._replace(space=spaces.space_from_name(path))
    known = {name: {"noise": 2.0} if entry.space is spaces.euclidean else {} for name, entry in PATHS.items()}
    name, given = options.parse("path", path, known)
    noise = given.get("noise", 1.0)
    if not 0 < noise < float("inf"):
        raise InputError(f"path {path!r}: the deviation of the noise is {noise}; expected a number above 0: {name}:noise=2.")
    return PATHS[name] if noise == 1 else PATHS[name]._replace(noise=noise)
