"""Flow maps known in closed form: what every loss is checked against.

`gaussian` and `mixture` return an `ExactFlow` for data whose marginals along the path are known. All its functions work in the
dtype of `x` (use float64 for checks), are finite on the diagonal `s = t`, and can be differentiated twice and more, in forward
and in reverse mode.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import special
from numpy.typing import ArrayLike

from flowjax import checks, paths
from flowjax.typing import Array, AverageVelocity, Time, Velocity

# Gauss-Legendre nodes and weights on [0, 1]: (f(t) - f(s)) / (t - s) is the mean of f' between s and t, which has no
# cancellation on the diagonal.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)
_NODES, _WEIGHTS = (_NODES + 1) / 2, _WEIGHTS / 2
_SHORT_NODES, _SHORT_WEIGHTS = np.polynomial.legendre.leggauss(8)


class ExactFlow(NamedTuple):
    """A flow in closed form; times are scalars or have `x.ndim` axes.

    Attributes:
      F: `F(x, s, t)`, the flow map.
      V: `V(x, s, t)`, the average velocity; `V(x, t, t) = v(x, t)`.
      v: `v(x, t)`, the marginal velocity.
      divergence: `divergence(x, t)`, of `v` with respect to one data point.
    """

    F: Callable[[Array, Time, Time], Array]
    V: AverageVelocity
    v: Velocity
    divergence: Callable[[Array, Time], Array]


def _nodes(x, nodes):
    """Quadrature nodes on a new first axis before those of `x`, in the dtype of `x`."""
    return jnp.asarray(nodes.reshape((-1,) + (1,) * jnp.ndim(x)), jnp.result_type(x))


def _mean_slope(f, s, t):
    """(f(t) - f(s)) / (t - s), also for s = t, by integrating f'."""
    u = s[None] + _nodes(s, _NODES) * (t - s)[None]
    slopes = jax.jvp(f, (u,), (jnp.ones_like(u),))[1]
    # Not a sum: XLA of jax 0.10 on CPUs fuses a sum with the matmul that follows, and from 100 rows on the result is garbage.
    return jnp.tensordot(_nodes(s, _WEIGHTS).reshape(-1), slopes, axes=1)


def _rate(variance, slope):
    """d/dt log of the standard deviation; 0 where there is no variance."""
    return jnp.where(variance > 0, slope / jnp.where(variance > 0, 2 * variance, 1.0), 0.0)


def gaussian(mean: ArrayLike, covariance: ArrayLike, path: paths.Path = paths.linear) -> ExactFlow:
    """The flow map of normally distributed data with independent normal noise, of the deviation that the path gives it.

    In the eigenbasis of the covariance the marginals are independent normals of variance `r(t)^2 = alpha^2 lambda + sigma^2` (sigma^2
    times the variance of the noise),
    and the flow scales each coordinate:

        F(x, s, t) = alpha(t) mean + r(t) / r(s) (x - alpha(s) mean)

    Args:
      mean: of any shape, which is the shape of one data point; a scalar for data of which every element is a point.
      covariance: [mean.size, mean.size] symmetric positive semi-definite, or a scalar variance for a scalar mean. If it is
        singular, the flow has values but no derivatives at exactly time 0.
      path: a flowjax.paths.Path.

    Returns:
      An ExactFlow; `divergence` has the shape of `x` without the axes of one data point.

    Example:
      >>> flow = gaussian(jnp.zeros(2), jnp.eye(2) * 4.0)
      >>> flow.F(jnp.ones((1, 2)), 1.0, 0.0).tolist()
      [[2.0, 2.0]]
    """
    mean = np.asarray(mean, np.float64)
    eigenvalues, basis = np.linalg.eigh(np.asarray(covariance, np.float64).reshape(mean.size, mean.size))
    eigenvalues, center = np.maximum(eigenvalues, 0.0), mean.reshape(-1) @ basis

    spectral = _in_basis(basis, mean.ndim)
    row = lambda values, t: values.astype(t.dtype).reshape((1,) * (t.ndim - 1) + (-1,))
    variance = lambda t: path.alpha(t) ** 2 * row(eigenvalues, t) + (path.noise * path.sigma(t)) ** 2
    centre = lambda t: path.alpha(t) * row(center, t)
    back = lambda y, x: (y @ jnp.asarray(basis.T, x.dtype)).reshape(x.shape)

    @spectral
    def V(y, s, t, batch, x):
        s, t = jnp.broadcast_to(s, batch + (1,)), jnp.broadcast_to(t, batch + (1,))
        r_s, r_t = jnp.sqrt(variance(s)), jnp.sqrt(variance(t))
        # A coordinate without variance starts in its centre and has nothing to stretch.
        stretch = jnp.where(r_s > 0, _mean_slope(variance, s, t) / jnp.where(r_s > 0, (r_t + r_s) * r_s, 1.0), 0.0)
        return back(_mean_slope(centre, s, t) + stretch * (y - centre(s)), x)

    def rates(t, batch):
        t = jnp.broadcast_to(t, batch + (1,))
        return jax.jvp(variance, (t,), (jnp.ones_like(t),)), jax.jvp(centre, (t,), (jnp.ones_like(t),))

    @spectral
    def v(y, t, batch, x):
        (var, dvar), (mid, dmid) = rates(t, batch)
        return back(dmid + _rate(var, dvar) * (y - mid), x)

    @spectral
    def divergence(y, t, batch, x):
        (var, dvar), _ = rates(t, batch)
        return jnp.broadcast_to(jnp.sum(_rate(var, dvar), -1), batch)

    return ExactFlow(lambda x, s, t: x + (t - s) * V(x, s, t), V, v, divergence)


def _in_basis(basis, ndim):
    """A decorator: runs a function on coordinates [..., D] in a basis [D, D] of points with `ndim` axes, and times [..., 1]."""

    def decorate(function):
        def run(x, *times):
            x = jnp.asarray(x)
            times = checks.times("exact.gaussian", x, **{f"time_{i}": t for i, t in enumerate(times)})
            batch = x.shape[: x.ndim - ndim]
            columns = [t if t.ndim == 0 else t.reshape(t.shape[: len(batch)] + (1,)) for t in times]
            y = x.reshape(batch + (len(basis),)) @ jnp.asarray(basis, x.dtype)
            return function(y, *columns, batch, x)

        return run

    return decorate


def mixture(weights: ArrayLike, means: ArrayLike, deviations: ArrayLike, path: paths.Path = paths.linear) -> ExactFlow:
    """The flow map of a 1-D mixture of normals; every element of `x` is one data point.

    In one dimension the flow keeps the order of the points, so it keeps their quantiles:

        F(x, s, t) = P_t^-1(P_s(x)),   P_t the distribution function of the marginal at time t

    The inversion is a bisection, finished by Newton steps, in log-probability from the nearer tail. Its derivatives are those
    of the flow (a `custom_jvp` in terms of differentiable functions, so that derivatives of every order follow):

        dF/dx = p_s(x) / p_t(F),   dF/ds = -v(x, s) dF/dx,   dF/dt = v(F, t)

    Args:
      weights: [K] positive, summing to 1.
      means: [K].
      deviations: [K] standard deviations, above 0.
      path: a flowjax.paths.Path.

    Returns:
      An ExactFlow; `divergence` has the shape of `x`.

    Example:
      >>> flow = mixture([0.5, 0.5], [-1.0, 1.0], [0.3, 0.3])
      >>> x = jnp.linspace(-1.0, 1.0, 3)
      >>> bool(jnp.allclose(flow.F(flow.F(x, 1.0, 0.2), 0.2, 1.0), x, atol=1e-5))
      True
    """
    weights, means, deviations = (np.asarray(value, np.float64) for value in (weights, means, deviations))

    def components(x, t):
        """Per component, on a new last axis: log weight, centre, scale, standardised x."""
        dtype = jnp.result_type(x)
        row = lambda values: values.astype(dtype).reshape((1,) * jnp.ndim(x) + (-1,))
        t = jnp.broadcast_to(t, jnp.shape(x)).astype(dtype)[..., None]
        centre = path.alpha(t) * row(means)
        scale = jnp.sqrt((path.alpha(t) * row(deviations)) ** 2 + (path.noise * path.sigma(t)) ** 2)
        return row(np.log(weights)), centre, scale, (jnp.asarray(x)[..., None] - centre) / scale

    def log_density(x, t):
        log_weight, _, scale, z = components(x, t)
        return special.logsumexp(log_weight - 0.5 * z**2 - jnp.log(scale) - 0.5 * float(np.log(2 * np.pi)), axis=-1)

    def log_tail(x, t, side):
        """log P(X <= x) for side = 1, log P(X >= x) for side = -1, at time t."""
        log_weight, _, _, z = components(x, t)
        return special.logsumexp(log_weight + special.log_ndtr(side[..., None] * z), axis=-1)

    def v(x, t):
        (t,) = checks.times("exact.mixture", x, t=t)
        log_weight, _, scale, z = components(x, t)
        share = jax.nn.softmax(log_weight - 0.5 * z**2 - jnp.log(scale), axis=-1)
        # Each component moves its centre and stretches its scale: d/dt (centre + scale z) at constant z.
        _, (dcentre, dscale) = jax.jvp(lambda t: components(x, t)[1:3], (t,), (jnp.ones_like(t),))
        return jnp.sum(share * (dcentre + dscale * z), axis=-1)

    def divergence(x, t):
        return jax.jvp(lambda x: v(x, t), (x,), (jnp.ones_like(x),))[1]

    invert = functools.partial(_invert, components, log_tail, log_density)
    return _quantile_flow(invert, v, log_density, divergence)


def _invert(components, log_tail, log_density, x, s, t):
    """The point at time t with the quantile of x at time s, by bisection and two Newton steps."""
    side = jnp.where(log_tail(x, s, jnp.ones_like(x)) <= jnp.log(0.5), 1.0, -1.0).astype(x.dtype)
    goal = log_tail(x, s, side)
    z = components(x, s)[3]
    _, centre, scale, _ = components(x, t)
    low, high = (centre + scale * z.min(-1, keepdims=True)).min(-1), (centre + scale * z.max(-1, keepdims=True)).max(-1)

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        right = side * (log_tail(middle, t, side) - goal) < 0
        return jnp.where(right, middle, low), jnp.where(right, high, middle)

    low, high = jax.lax.fori_loop(0, 30 if x.dtype == jnp.float32 else 60, halve, (low, high))

    def newton(_, y):
        log_mass = log_tail(y, t, side)
        return y - side * (log_mass - goal) * jnp.exp(log_mass - log_density(y, t))

    return jax.lax.fori_loop(0, 2, newton, (low + high) / 2)


def _quantile_flow(invert, v, log_density, divergence):
    """An order-preserving flow in one dimension from its inversion, its velocity and its log-density."""

    F_elementwise = jax.custom_jvp(jax.jit(invert))

    @F_elementwise.defjvp
    def _(primals, tangents):
        (x, s, t), (dx, ds, dt) = primals, tangents
        y = F_elementwise(x, s, t)
        slope = jnp.exp(log_density(x, s) - log_density(y, t))
        return y, slope * (dx - v(x, s) * ds) + v(y, t) * dt

    def aligned(x, s, t):
        s, t = checks.times("exact.mixture", x, s=s, t=t)
        return (jnp.broadcast_to(time, jnp.shape(x)).astype(jnp.result_type(x)) for time in (s, t))

    def F(x, s, t):
        return F_elementwise(jnp.asarray(x), *aligned(x, s, t))

    def V(x, s, t):
        x = jnp.asarray(x)
        s, t = aligned(x, s, t)
        # Close to the diagonal (F - x) / (t - s) cancels; the mean velocity along the trajectory does not. Each branch is
        # evaluated where it is safe, so that neither spoils the other's derivative.
        near = jnp.abs(t - s) < 0.05
        far = (F_elementwise(x, s, jnp.where(near, s, t)) - x) / jnp.where(near, 1.0, t - s)
        return jnp.where(near, _velocity_along(F_elementwise, v, x, s, jnp.where(near, t, s)), far)

    return ExactFlow(F, V, v, divergence)


def _velocity_along(F, v, x, s, t):
    u = s[None] + _nodes(x, (_SHORT_NODES + 1) / 2) * (t - s)[None]
    y = F(*jnp.broadcast_arrays(x[None], s[None], u))
    return jnp.sum(_nodes(x, _SHORT_WEIGHTS / 2) * v(y, u), axis=0)


# Categories


class ExactTokens(NamedTuple):
    """The flow of independent tokens; x [..., K] and times as for an ExactFlow.

    Attributes:
      logits: `logits(x, s, t)`, logarithms of probabilities; at s = t those of the posterior, for t > 0.
      V: `V(x, s, t) = (x - softmax(logits)) / s`.
      F: `F(x, s, t)`, the flow map.
      v: `v(x, t)`, the marginal velocity.
    """

    logits: Callable[[Array, Time, Time], Array]
    V: AverageVelocity
    F: Callable[[Array, Time, Time], Array]
    v: Velocity


def categorical(probabilities: ArrayLike, *, centres: str = "", noise: float = 1.0, steps: int = 64) -> ExactTokens:
    """The flow map of a one-hot token on the linear path: the posterior in closed form, the map by a fine solution of its equation.

    In w = 1 / t the flow is dy/dw = posterior(y / w, 1 / w) with y = w x, so that

        softmax(logits(x, s, t)) = mean of the posterior along the trajectory, uniform in w between 1 / s and 1 / t

    Args:
      probabilities: [K] positive, summing to 1, the same for every token.
      centres: "": normal noise; "one_hot": noise about a random category, all of them alike.
      noise: standard deviation of each element of the noise, above 0.
      steps: of a Runge-Kutta method of order 4; the error falls with steps^-4.

    Returns:
      ExactTokens. Derivatives are those of the solution.

    Example:
      >>> jnp.exp(categorical([0.25, 0.75]).logits(jnp.zeros((1, 2)), 1.0, 1.0)).round(4)[0]
      Array([0.25, 0.75], dtype=float32)
    """
    checks.member("centres of the noise", centres, ("", "one_hot"))
    log_prior = np.log(np.asarray(probabilities, np.float64))
    K = len(log_prior)
    shifts = np.eye(K) if centres == "one_hot" else np.zeros((1, K))

    posterior = functools.partial(_posterior, log_prior, shifts, noise)

    def logits(x, s, t):
        s, t = checks.times("exact.categorical", x, s=s, t=t)
        return jnp.log(_mean_posterior(posterior, steps, x, s, t))

    V = lambda x, s, t: (x - jnp.exp(logits(x, s, t))) / s
    v = lambda x, t: (x - jnp.exp(posterior(x, checks.times("exact.categorical", x, t=t)[0]))) / t
    return ExactTokens(logits, V, lambda x, s, t: x + (t - s) * V(x, s, t), v)


def _posterior(log_prior, shifts, noise, x, t):
    """Log of the posterior, from the densities of x under each category and each centre of the noise."""
    t = jnp.broadcast_to(t, x.shape[:-1] + (1,))[..., None, None]
    axes = (1,) * (x.ndim - 1)
    data, noisy = (
        jnp.asarray(part, x.dtype).reshape(*axes, *part.shape) for part in (np.eye(len(log_prior))[:, None], shifts[None])
    )
    offset = x[..., None, None, :] - (1 - t) * data - t * noisy
    log_density = special.logsumexp(-jnp.sum(offset**2, -1) / (2 * noise**2 * t[..., 0] ** 2), axis=-1)
    return jax.nn.log_softmax(jnp.asarray(log_prior, x.dtype).reshape(*axes, -1) + log_density)


def _mean_posterior(posterior, steps, x, s, t):
    """The mean posterior of a jump."""
    first, length = 1 / s, 1 / t - 1 / s

    def step(state, number):
        y, total = state
        w, h = first + length * number / steps, length / steps

        def stage(before, at):
            slope, weighted = before
            share, weight = at
            u = w + share * h
            slope = jnp.exp(posterior((y + share * h * slope) / u, 1 / u))
            return (slope, weighted + weight * slope), None

        none = jnp.zeros_like(x)
        stages = jnp.asarray([[0, 1 / 6], [1 / 2, 1 / 3], [1 / 2, 1 / 3], [1, 1 / 6]], x.dtype)
        mean_slope = jax.lax.scan(stage, (none, none), (stages[:, 0], stages[:, 1]))[0][1]
        return (y + h * mean_slope, total + mean_slope / steps), None

    start = (jnp.broadcast_to(x * first, x.shape), jnp.zeros_like(x))
    return jax.lax.scan(step, start, jnp.arange(steps, dtype=x.dtype))[0][1]


# Velocities of densities whose flow map is not known in closed form: exact teachers.


def _column(t, x):
    """Times with the axes of `x` and one more for the components, before the last."""
    return jnp.broadcast_to(t, x.shape[:-1] + (1,))[..., None]


def blobs(means: ArrayLike, deviation: float) -> Velocity:
    """The marginal velocity of a mixture of equal isotropic Gaussians on the linear path.

        v(x, t) = sum_i p_i(x) (c_i'(t) + (log d)'(t) (x - c_i(t))),   c_i = (1 - t) mean_i,  d^2 = (1 - t)^2 deviation^2 + t^2

    Args:
      means: [n, D].
      deviation: standard deviation of each, in units of the data.

    Returns:
      `v(x, t)` for x [..., D] and times with x.ndim axes or none.

    Example:
      >>> blobs([[0.0, 0.0]], 1.0)(jnp.ones((1, 2)), 1.0)[0]
      Array([1., 1.], dtype=float32)

    Reference: Albergo, Boffi and Vanden-Eijnden 2023 (arXiv 2303.08797), section on Gaussian mixtures.
    """
    means = np.asarray(means, np.float64)

    def v(x, t):
        (t,) = checks.times("exact.blobs", x, t=t)
        t = _column(t, x)
        centre = jnp.asarray(means, t.dtype).reshape((1,) * (x.ndim - 1) + means.shape)
        offset = x[..., None, :] - (1 - t) * centre
        variance = (1 - t) ** 2 * deviation**2 + t**2
        share = jax.nn.softmax(-jnp.sum(offset**2, -1, keepdims=True) / (2 * variance), axis=-2)
        slope = (t - (1 - t) * deviation**2) / variance
        return jnp.sum(share * (slope * offset - centre), axis=-2).astype(jnp.result_type(x))

    return v


def boxes(corners: ArrayLike, side: float = 1.0, floor: float = 1e-4) -> Velocity:
    """The marginal velocity of a density that is uniform on equal boxes, on the linear path.

        v(x, t) = (x - E[x0 | x]) / t = (E[eps | x] - x) / (1 - t)

    On each axis of each box `eps = (x - (1 - t) x0) / t` is a truncated normal. Up to t = 1/2 the second form with its
    closed-form mean is used, above it the first with eight-point Gauss-Legendre quadrature over the box, where the integrand is
    smooth: both are exact to rounding there, and neither divides by a small number. Outside the boxes v grows like the distance
    to them over t.

    Args:
      corners: lower corners of the boxes, [n, D].
      side: length of an edge, in units of the data.
      floor: time below which the velocity stays what it is there.

    Returns:
      `v(x, t)` for x [..., D] and times with x.ndim axes or none.

    Example:
      >>> boxes([[0.0, 0.0]])(jnp.full((1, 2), 1.5), 1.0)[0].round(4)  # at noise: x minus the mean of the data
      Array([1., 1.], dtype=float32)

    Reference: the moments of the truncated normal, e.g. Johnson, Kotz and Balakrishnan, Continuous Univariate Distributions,
    10.1.
    """
    corners = np.asarray(corners, np.float64)

    def v(x, t):
        (t,) = checks.times("exact.boxes", x, t=t)
        # Not minimum and maximum, whose derivative at t = 1/2 itself is the mean of both sides.
        t = _column(jnp.where(t > floor, t, floor), x)
        to_half, from_half = jnp.where(t <= 0.5, t, 0.5), jnp.where(t <= 0.5, 0.5, t)
        low = jnp.asarray(corners, t.dtype).reshape((1,) * (x.ndim - 1) + corners.shape)
        point = x[..., None, :].astype(t.dtype)
        log_early, eps = _truncated(point, to_half, low, side)
        log_late, x0 = _quadrature(point, from_half, low, side)
        share = jax.nn.softmax(jnp.sum(jnp.where(t <= 0.5, log_early, log_late), -1, keepdims=True), axis=-2)
        early = (jnp.sum(share * eps, -2) - x) / (1 - to_half[..., 0])
        late = (x - jnp.sum(share * x0, -2)) / from_half[..., 0]
        return jnp.where(t[..., 0] <= 0.5, early, late).astype(jnp.result_type(x))

    return v


def _truncated(x, t, low, side):
    """Log mass and mean of eps on one axis of a box, eps normal and truncated to where x0 is in the box."""
    b, a = (x - (1 - t) * low) / t, (x - (1 - t) * (low + side)) / t  # eps is between a and b
    flip = a + b > 0  # both ends to the left, where log_ndtr is accurate
    a, b = jnp.where(flip, -b, a), jnp.where(flip, -a, b)
    upper = special.log_ndtr(b)
    log_mass = upper + jnp.log1p(-jnp.exp(jnp.minimum(special.log_ndtr(a) - upper, -1e-7)))
    log_density = lambda z: -0.5 * z**2 - float(np.log(2 * np.pi)) / 2
    mean = jnp.exp(log_density(a) - log_mass) - jnp.exp(log_density(b) - log_mass)
    return log_mass, jnp.where(flip, -mean, mean)


def _quadrature(x, t, low, side):
    """Log mass (up to what all boxes share) and mean of x0 on one axis of a box, by quadrature over it."""
    nodes = low[..., None] + side * jnp.asarray((_SHORT_NODES + 1) / 2, t.dtype).reshape((1,) * low.ndim + (-1,))
    weights = jnp.asarray(np.log(_SHORT_WEIGHTS), t.dtype).reshape((1,) * low.ndim + (-1,))
    logits = weights - 0.5 * ((x[..., None] - (1 - t[..., None]) * nodes) / t[..., None]) ** 2
    return special.logsumexp(logits, axis=-1), jnp.sum(jax.nn.softmax(logits, axis=-1) * nodes, axis=-1)
