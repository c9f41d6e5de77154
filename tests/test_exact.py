"""The closed-form flow maps against an ODE solver and a velocity written by hand from the posterior mean."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from flowjax import exact, paths, typing

pytestmark = pytest.mark.usefixtures("x64")

# The graphs of the mixture take XLA seconds; they run once or twice, so half the compilation is worth a slower program.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

WEIGHTS, MEANS, DEVIATIONS = np.array([0.2, 0.5, 0.3]), np.array([-2.0, 0.3, 1.5]), np.array([0.3, 0.5, 0.2])
FACTOR = np.array([[1.0, 0.0, 0.0], [0.8, 0.5, 0.0], [-0.3, 0.4, 0.9]])
COVARIANCE = FACTOR @ FACTOR.T
IMAGE = (2, 2, 3)
PATHS = ("linear", "trigonometric", "variance_preserving")
# The variance-preserving velocity of the noise is singular at t = 0, and the library says to stay above.
EARLIEST = {"linear": 0.0, "trigonometric": 0.0, "variance_preserving": 1e-3}
GAPS = (0.0, 1e-12, 1e-6, 1e-3, 0.049, 0.0499999, 0.05, 0.051, 0.3)


def schedule(path, t):
    """alpha, alpha', sigma^2 and sigma sigma' by hand (the product is finite where sigma' is not)."""
    if path == "linear":
        return 1 - t, -np.ones_like(t), t**2, t
    if path == "trigonometric":
        w = np.pi / 2
        return np.cos(w * t), -w * np.sin(w * t), np.sin(w * t) ** 2, w * np.sin(w * t) * np.cos(w * t)
    alpha = np.exp(-4.975 * t**2 - 0.05 * t)
    dalpha = alpha * (-9.95 * t - 0.05)
    return alpha, dalpha, 1 - alpha**2, -alpha * dalpha


def gaussian_velocity(path, mean, covariance, x, t):
    """E[alpha' x0 + sigma' eps | x] for rows x [B, D] and t [B]."""
    alpha, dalpha, variance, half_rate = (np.asarray(c)[:, None, None] for c in schedule(path, t))
    marginal = alpha**2 * covariance + variance * np.eye(len(mean))
    off = np.linalg.solve(marginal, x[..., None] - alpha * mean[:, None])
    return (dalpha * (mean[:, None] + alpha * covariance @ off) + half_rate * off)[..., 0]


def mixture_velocity(path, x, t):
    """The same for the mixture, every element of x and t [N] by itself, weighted by the components' posterior."""
    alpha, dalpha, variance, half_rate = (np.asarray(c)[..., None] for c in schedule(path, t))
    marginal = alpha**2 * DEVIATIONS**2 + variance
    off = (x[..., None] - alpha * MEANS) / marginal
    logits = np.log(WEIGHTS) - 0.5 * np.log(marginal) - 0.5 * off**2 * marginal
    posterior = np.exp(logits - logits.max(-1, keepdims=True))
    posterior /= posterior.sum(-1, keepdims=True)
    return (posterior * (dalpha * (MEANS + alpha * DEVIATIONS**2 * off) + half_rate * off)).sum(-1)


def average_velocity(velocity, x, s, t):
    """V(x, s, t) by solving the ODE in the fraction of the way: no cancellation at s = t."""
    x, s, t = (np.asarray(value, np.float64) for value in (x, s, t))
    gap = (t - s).reshape(s.shape + (1,) * (x.ndim - 1))

    def rate(u, state):
        moved = x + gap * state.reshape(x.shape)
        return velocity(moved, s + u * (t - s)).reshape(-1)

    return (
        integrate.solve_ivp(rate, (0, 1), np.zeros(x.size), method="DOP853", rtol=1e-11, atol=1e-12).y[:, -1].reshape(x.shape)
    )


@functools.cache
def flow(kind, path):
    """(jitted flow, shape of one data point, velocity by hand on [B, D] or [N], the flow not jitted)."""
    if kind == "mixture":
        built, shape = exact.mixture(WEIGHTS, MEANS, DEVIATIONS, getattr(paths, path)), ()
        by_hand = functools.partial(mixture_velocity, path)
    else:
        shape = {"scalar": (), "points": (3,), "images": IMAGE}[kind]
        size = int(np.prod(shape))
        mean = np.linspace(-1.0, 2.0, size) if shape else np.array([0.7])
        root = np.random.default_rng(0).normal(size=(size, size)) / size**0.5
        covariance = {"scalar": np.array([[0.4]]), "points": COVARIANCE, "images": root @ root.T + 0.05 * np.eye(size)}[kind]
        scalar = kind == "scalar"
        built = exact.gaussian(0.7 if scalar else mean.reshape(shape), 0.4 if scalar else covariance, getattr(paths, path))
        rows = functools.partial(gaussian_velocity, path, mean, covariance)
        by_hand = lambda x, t: rows(x.reshape(-1, size), t).reshape(x.shape)
    return exact.ExactFlow(*(quick_jit(function) for function in built)), shape, by_hand, built


def points(shape, path, n=24, seed=0):
    """Random x, s, t in both time directions."""
    rng = np.random.default_rng(seed)
    s, t = rng.uniform(EARLIEST[path], 1.0, (2, n))
    s[:2], t[:2] = (1.0, EARLIEST[path]), (EARLIEST[path], 1.0)
    return rng.normal(size=(n, *shape)), s, t


def column(t, x):
    return jnp.asarray(t).reshape(t.shape + (1,) * (np.ndim(x) - 1))


KINDS = [("scalar", "linear"), ("points", "linear"), ("images", "linear"), ("mixture", "linear")]
KINDS += [("points", "trigonometric"), ("points", "variance_preserving"), ("mixture", "variance_preserving")]
slowly = functools.partial(pytest.param, marks=pytest.mark.slow)
every_flow = pytest.mark.parametrize(("kind", "path"), KINDS)


@every_flow
def test_flow_map_solves_the_ode(kind, path):
    built, shape, by_hand, _ = flow(kind, path)
    x, s, t = points(shape, path)
    V = average_velocity(by_hand, x, s, t)
    np.testing.assert_allclose(built.v(x, column(s, x)), by_hand(x, s), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(built.V(x, column(s, x), column(t, x)), V, rtol=1e-7, atol=1e-8)
    expected = x + np.asarray(column(t - s, x)) * V
    np.testing.assert_allclose(built.F(x, column(s, x), column(t, x)), expected, rtol=1e-7, atol=1e-8)


@every_flow
def test_semigroup_and_inverse(kind, path):
    built, shape, _, _ = flow(kind, path)
    x, s, t = points(shape, path)
    m = np.random.default_rng(1).uniform(EARLIEST[path], 1.0, len(s))
    s, m, t = column(s, x), column(m, x), column(t, x)
    np.testing.assert_allclose(built.F(built.F(x, s, m), m, t), built.F(x, s, t), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(built.F(built.F(x, s, m), m, s), x, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(built.F(x, s, s), x, rtol=1e-12, atol=1e-12)


@every_flow
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_average_velocity_near_the_diagonal(kind, path, sign):
    built, shape, by_hand, _ = flow(kind, path)
    x, s, _ = points(shape, path)
    s = np.clip(s, 0.35, 0.65)
    expected = np.stack([average_velocity(by_hand, x, s, s + sign * gap) for gap in GAPS])
    result = np.stack([built.V(x, column(s, x), column(s + sign * gap, x)) for gap in GAPS])
    np.testing.assert_allclose(result, expected, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(result[0], built.v(x, column(s, x)), rtol=1e-12, atol=1e-12)


@functools.cache
def derivatives(kind, path):
    """(V, its slope along u, its curvature along u, the gradient of <w, slope>) at primals, in one compilation."""
    V = flow(kind, path)[3].V
    first = lambda primals, u: jax.jvp(V, primals, u)[1]
    second = lambda primals, u: jax.jvp(lambda *p: jax.jvp(V, p, u), primals, u)
    reverse = jax.grad(lambda primals, u, w: jnp.sum(w * first(primals, u)))

    @quick_jit
    def run(primals, u, w):
        (value, slope), (_, curvature) = second(primals, u)
        return value, slope, curvature, reverse(primals, u, w)

    return run


@pytest.mark.parametrize(
    ("kind", "path"), [("points", "linear"), slowly("points", "variance_preserving"), slowly("mixture", "linear")]
)
@pytest.mark.parametrize("gap", [None, 0.0, 1e-6, 1e-3, 0.045])
def test_first_and_second_derivatives(kind, path, gap):
    x, s, t = points(flow(kind, path)[1], path)
    s, t = np.clip(s, 0.2, 0.8), np.clip(t, 0.1, 0.9)
    t = np.where(np.abs(t - s) < 0.1, s + 0.1, t) if gap is None else s + gap
    primals = (jnp.asarray(x), column(s, x), column(t, x))
    rng, h = np.random.default_rng(2), 1e-4
    u, w = tuple(jnp.asarray(rng.normal(size=p.shape)) for p in primals), jnp.asarray(rng.normal(size=x.shape))
    at = {k: derivatives(kind, path)(tuple(p + k * h * d for p, d in zip(primals, u)), u, w) for k in (-2, -1, 0, 1, 2)}
    difference = lambda i: (8 * (at[1][i] - at[-1][i]) - (at[2][i] - at[-2][i])) / (12 * h)
    _, slope, curvature, gradient = at[0]
    np.testing.assert_allclose(slope, difference(0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(curvature, difference(1), rtol=1e-5, atol=1e-5)
    # Reverse over forward: <grad <w, DV u>, u> = <w, D^2 V u u>.
    along = sum(jnp.sum(g * d) for g, d in zip(gradient, u))
    np.testing.assert_allclose(along, jnp.sum(w * curvature), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("kind", "path"), [("points", "linear"), ("images", "linear"), ("mixture", "trigonometric")])
def test_divergence_is_the_trace_of_the_jacobian(kind, path):
    built, shape, _, raw = flow(kind, path)
    x, s, _ = points(shape, path, n=5)
    size = int(np.prod(shape))

    @jax.jit
    @jax.vmap
    def trace(x, s):
        row = lambda x: raw.v(x.reshape(1, *shape), s.reshape((1,) * (1 + len(shape)))).reshape(-1)
        return jnp.trace(jax.jacrev(row)(x).reshape(size, size))

    result = built.divergence(x, column(s, x))
    assert result.shape == (5,)
    np.testing.assert_allclose(result, trace(x.reshape(5, size), s), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("s", "t"), [(1.0, 0.0), (0.0, 1.0), (0.7, 0.2)])
def test_the_mixture_law_is_transported(path, s, t):
    def law(x, time):
        alpha, _, variance, _ = schedule(path, np.float64(time))
        return (WEIGHTS * stats.norm.cdf(x[:, None], alpha * MEANS, np.sqrt(alpha**2 * DEVIATIONS**2 + variance))).sum(-1)

    x = np.linspace(-3.0, 3.0, 24)
    np.testing.assert_allclose(
        law(np.asarray(flow("mixture", path)[0].F(x, np.full(24, s), np.full(24, t))), t), law(x, s), atol=1e-9
    )


@pytest.mark.parametrize("path", PATHS)
def test_the_gaussian_law_is_transported(path):
    built, _, _, _ = flow("points", path)
    mean = np.linspace(-1.0, 2.0, 3)

    def moments(t):
        alpha, _, variance, _ = schedule(path, np.float64(t))
        return alpha * mean, alpha**2 * COVARIANCE + variance * np.eye(3)

    (mean_s, cov_s), (mean_t, cov_t) = moments(1.0), moments(0.0)
    x = mean_s + np.concatenate([np.zeros((1, 3)), np.eye(3)])
    y = np.asarray(built.F(x, 1.0, 0.0))
    jacobian = (y[1:] - y[0]).T
    np.testing.assert_allclose(y[0], mean_t, atol=1e-9)
    np.testing.assert_allclose(jacobian @ cov_s @ jacobian.T, cov_t, atol=1e-9)


@pytest.mark.parametrize("path", ["linear", "variance_preserving"])
@pytest.mark.parametrize("x", [-8.0, 8.0])
def test_far_tails_are_finite_and_accurate(path, x):
    built, _, by_hand, _ = flow("mixture", path)
    s, t = np.full(24, 0.99), np.linspace(0.01, 0.99, 24)
    x = np.full(24, x)
    primals = (jnp.asarray(x), jnp.asarray(s), jnp.asarray(t))
    np.testing.assert_allclose(built.V(*primals), average_velocity(by_hand, x, s, t), rtol=1e-7, atol=1e-7)
    assert np.isfinite(built.F(x, np.ones(24), np.zeros(24))).all()
    if path == "linear":  # the other paths only differ in two functions of time, and compile for seconds
        ones = jnp.ones(24)
        assert all(
            np.isfinite(leaf).all() for leaf in jax.tree.leaves(derivatives("mixture", path)(primals, (ones,) * 3, ones))
        )


def test_mixture_is_elementwise_on_rows_and_takes_scalar_times():
    built, _, _, _ = flow("mixture", "linear")
    x = np.random.default_rng(3).normal(size=(24, 2))
    s, t = points((), "linear")[1], 0.4
    both = built.F(x, s[:, None], t)
    for i in range(2):
        np.testing.assert_allclose(both[:, i], built.F(x[:, i], s, np.full(24, t)), rtol=1e-9, atol=1e-9)
    assert built.divergence(x, s[:, None]).shape == (24, 2)


@pytest.mark.parametrize("kind", ["points", "mixture"])
def test_float32(kind):
    built, shape, by_hand, _ = flow(kind, "linear")
    x, s, t = (value.astype(np.float32) for value in points(shape, "linear"))
    columns = column(s, x), column(t, x)
    for name, function in flow(kind, "linear")[3]._asdict().items():
        arguments = columns if name in ("F", "V") else columns[:1]
        assert jax.eval_shape(function, jnp.asarray(x), *arguments).dtype == jnp.float32, name
    np.testing.assert_allclose(built.V(x, *columns), average_velocity(by_hand, x, s, t), rtol=1e-3, atol=1e-3)
    for gap in GAPS:
        near = s + np.float32(gap) * np.where(s > 0.5, -1, 1).astype(np.float32)
        result = built.V(x, columns[0], column(near, x))
        np.testing.assert_allclose(result, average_velocity(by_hand, x, s, near), rtol=1e-3, atol=1e-3)


def test_gaussian_takes_scalar_times():
    built, _, _, _ = flow("points", "linear")
    x = points((3,), "linear")[0]
    np.testing.assert_allclose(built.V(x, 0.8, 0.3), built.V(x, jnp.full((24, 1), 0.8), jnp.full((24, 1), 0.3)), rtol=1e-12)


@pytest.mark.parametrize("kind", ["points", "mixture"])
def test_a_wrong_rank_of_times_is_an_error(kind):
    x = points((3,), "linear")[0]
    with pytest.raises(typing.InputError, match=r"flowjax\.times\.expand"):
        flow(kind, "linear")[0].V(x, jnp.full((24,), 0.8), 0.3)


# Velocities without a map in closed form


def quadrature_velocity(x, t, nodes, weights):
    """(x - E[x0 | x]) / t by summing over nodes of the data, in float64."""
    logits = np.log(weights) - 0.5 * (((x[:, None] - (1 - t) * nodes) / t) ** 2).sum(-1)
    posterior = np.exp(logits - logits.max(1, keepdims=True))
    return (x - posterior @ nodes / posterior.sum(1, keepdims=True)) / t


def box_nodes(corners, side, count=120):
    """Gauss-Legendre nodes of boxes in the plane."""
    z, w = np.polynomial.legendre.leggauss(count)
    line, weight = side * (z + 1) / 2, w / 2
    grid = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    nodes = np.concatenate([np.asarray(corner) + grid for corner in corners])
    return nodes, np.tile(np.outer(weight, weight).ravel(), len(corners))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("t", [slowly(0.03), 0.2, slowly(0.499), 0.501, 0.8, 1.0])
def test_velocity_of_boxes_is_the_posterior_mean(t):
    corners, x = [(-2, 0), (0.5, 0.5), (1, -2)], np.random.default_rng(0).uniform(-3, 3, (20, 2))
    expected = quadrature_velocity(x, t, *box_nodes(corners, 0.7))
    result = exact.boxes(corners, 0.7)(jnp.asarray(x), t)
    np.testing.assert_allclose(result, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("t", [0.05, 0.5, 0.95, 1.0])
def test_velocity_of_blobs_is_the_posterior_mean(t):
    means, deviation, x = np.array([[0.0, 1.0], [2.0, -1.0]]), 0.4, np.random.default_rng(0).normal(size=(20, 2))
    z = np.linspace(-12, 12, 401)  # the trapezoidal rule, which is exact to rounding for a Gaussian
    grid = np.stack(np.meshgrid(z, z, indexing="ij"), -1).reshape(-1, 2)
    nodes = np.concatenate([mean + deviation * grid for mean in means])
    weights = np.tile(np.exp(-0.5 * (grid**2).sum(-1)), len(means))
    result = exact.blobs(means, deviation)(jnp.asarray(x), t)
    np.testing.assert_allclose(result, quadrature_velocity(x, t, nodes, weights), rtol=1e-7, atol=1e-7)
    one = exact.gaussian(means[0], deviation**2 * np.eye(2))  # one component is a Gaussian
    np.testing.assert_allclose(exact.blobs(means[:1], deviation)(jnp.asarray(x), t), one.v(jnp.asarray(x), t), rtol=1e-9)


@pytest.mark.parametrize(
    "v", [pytest.param(exact.boxes([(-1, -1), (0, 0)]), marks=pytest.mark.slow), exact.blobs([[-1.0, 0.0], [1.0, 0.0]], 0.1)]
)
def test_velocities_are_finite_far_out_and_have_the_dtype_of_x(v):
    x = jnp.array([[9.0, -7.0], [0.0, 0.5], [-30.0, 4.0]])
    for t in (0.0, 1e-3, 0.5, 1.0):
        value, tangent = jax.jvp(v, (x, jnp.float32(t)), (x, jnp.float32(1.0)))
        assert np.isfinite(value).all() and np.isfinite(tangent).all(), t
    np.testing.assert_allclose(v(x, jnp.full((3, 1), 0.3)), v(x, 0.3), rtol=1e-5)
    assert v(x.astype(jnp.bfloat16), 0.3).dtype == jnp.bfloat16
    with pytest.raises(typing.InputError, match="times.expand"):
        v(x, jnp.zeros(3))


@pytest.mark.slow
def test_the_velocity_of_boxes_has_a_derivative_in_time_where_its_two_forms_meet():
    v, x, h = exact.boxes([[-1.0, 0.0], [0.0, -1.0]]), jnp.array([[0.3, -0.7], [1.5, 0.2]]), 1e-5
    along = lambda t: jax.jvp(lambda t: v(x, t), (jnp.float64(t),), (jnp.float64(1.0),))[1]
    for t in (0.3, 0.5, 0.7):
        np.testing.assert_allclose(along(t), (v(x, t + h) - v(x, t - h)) / (2 * h), rtol=1e-6, atol=1e-6)
