"""Every pair of losses: zero on exact flows, gradients where they belong, values, unbiasedness, limits, errors, dtypes."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import derivatives, exact, losses, typing

# Every program here runs once or twice: half the compilation is worth a slower program.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class Inputs(NamedTuple):
    """All that a loss may ask for: points, times, velocity, fraction, a second velocity."""

    x: jax.Array
    s: jax.Array
    t: jax.Array
    v: jax.Array
    a: jax.Array
    u: jax.Array


class Case(NamedTuple):
    """A pair as called, as read in the papers, and the tangents in theta that the method wants of V + theta phi.

    `read(V, W, d, i)` and `tangent(phi, d_phi, i)` get a partial derivative `d(name, tangent_x)` written below, not a jvp.
    """

    call: Callable
    read: Callable
    tangent: Callable


def improved_with_tangent(V, W, i, **kwargs):
    # The tangent comes out of the network itself: no gradient may pass through it.
    return losses.improved_meanflow(V, i.x, i.s, i.t, i.v, v_tangent=jnp.sin(V(i.x, i.t, i.s)), **kwargs)


CASES = {
    "flow_matching": Case(
        lambda V, W, i: losses.flow_matching(V, i.x, i.s, i.v),
        lambda V, W, d, i: (V(i.x, i.s, i.s), i.v),
        lambda phi, d_phi, i: phi(i.x, i.s, i.s),
    ),
    "meanflow": Case(
        lambda V, W, i, **kwargs: losses.meanflow(V, i.x, i.s, i.t, i.v, **kwargs),
        lambda V, W, d, i: (V(i.x, i.s, i.t), i.v + (i.t - i.s) * (d("x", i.v) + d("s"))),
        lambda phi, d_phi, i: phi(i.x, i.s, i.t),
    ),
    "improved_meanflow": Case(
        lambda V, W, i, **kwargs: losses.improved_meanflow(V, i.x, i.s, i.t, i.v, **kwargs),
        lambda V, W, d, i: (V(i.x, i.s, i.t) - (i.t - i.s) * (d("x", V(i.x, i.s, i.s)) + d("s")), i.v),
        lambda phi, d_phi, i: phi(i.x, i.s, i.t),
    ),
    "improved_meanflow_with_tangent": Case(
        improved_with_tangent,
        lambda V, W, d, i: (V(i.x, i.s, i.t) - (i.t - i.s) * (d("x", jnp.sin(V(i.x, i.t, i.s))) + d("s")), i.v),
        lambda phi, d_phi, i: phi(i.x, i.s, i.t),
    ),
    "soflow": Case(
        lambda V, W, i: losses.soflow(V, i.x, i.s, i.t, i.v, i.a),
        lambda V, W, d, i: (
            V(i.x, i.s, i.t),
            i.a * i.v + (1 - i.a) * V(i.x + i.a * (i.t - i.s) * i.v, (1 - i.a) * i.s + i.a * i.t, i.t),
        ),
        lambda phi, d_phi, i: phi(i.x, i.s, i.t),
    ),
    "terminal_velocity": Case(
        lambda V, W, i, **kwargs: losses.terminal_velocity(V, W, i.x, i.s, i.t, **kwargs),
        lambda V, W, d, i: (V(i.x, i.s, i.t) + (i.t - i.s) * d("t"), W(i.x + (i.t - i.s) * V(i.x, i.s, i.t), i.t, i.t)),
        lambda phi, d_phi, i: phi(i.x, i.s, i.t) + (i.t - i.s) * d_phi("t"),
    ),
}
TAKES_JVP = [name for name in CASES if name not in ("flow_matching", "soflow")]
EXACT = [name for name in CASES if name not in ("soflow", "improved_meanflow_with_tangent")]
every_pair = pytest.mark.parametrize("name", CASES)


def weights(seed, size, width=16):
    rng = np.random.default_rng(seed)
    shapes = {
        "x": (size, width),
        "s": (1, width),
        "t": (1, width),
        "st": (1, width),
        "out": (width, size),
        "skip": (size, size),
    }
    return {
        name: jnp.asarray(rng.normal(size=shape) * (1.5 if shape[0] == 1 else shape[0] ** -0.5))
        for name, shape in shapes.items()
    }


def network(params, x, s, t):
    """A smooth function that is symmetric in nothing; x [B, D], times that broadcast to [B, 1]."""
    s, t = jnp.broadcast_to(s, (len(x), 1)), jnp.broadcast_to(t, (len(x), 1))
    h = jnp.tanh(x @ params["x"] + s * params["s"] + t**2 * params["t"] + s * t * params["st"])
    return h @ params["out"] + jnp.cos(s - 2 * t) * (x @ params["skip"])


def smooth(seed, size=3):
    return functools.partial(network, weights(seed, size))


def inputs(shape=(3,), rows=12, seed=0):
    """Random points with both time directions."""
    rng = np.random.default_rng(seed)
    time = lambda: jnp.asarray(rng.uniform(0.05, 0.95, (rows,) + (1,) * len(shape)))
    normal = lambda: jnp.asarray(rng.normal(size=(rows, *shape)))
    i = Inputs(normal(), time(), time(), normal(), time(), normal())
    assert (i.s > i.t).any() and (i.s < i.t).any()
    return i


def partials(V, i):
    """Partial derivatives of V at (x, s, t) by full Jacobians of one row, as an independent reading of d_s and d_t."""
    row = lambda x, s, t: V(x[None], s[None], t[None])[0]
    J_x, J_s, J_t = jax.vmap(jax.jacrev(row, argnums=(0, 1, 2)))(i.x, i.s, i.t)
    table = {"s": J_s[..., 0], "t": J_t[..., 0]}
    return lambda name, along=None: jnp.einsum("bij,bj->bi", J_x, along) if name == "x" else table[name]


# 1. Exact flows


@functools.cache
def exact_flow(kind):
    if kind == "scalar":
        return exact.mixture([0.3, 0.7], [-1.0, 1.0], [0.4, 0.6]), ()
    shape = {"points": (3,), "images": (2, 2, 3)}[kind]
    size = int(np.prod(shape))
    root = np.random.default_rng(5).normal(size=(size, size)) * size**-0.5
    return exact.gaussian(np.linspace(-1, 1, size).reshape(shape), root @ root.T + 0.1 * np.eye(size)), shape


@functools.cache
def exact_residuals(kind):
    """All residuals on an exact flow, in one compilation."""
    flow, shape = exact_flow(kind)

    @quick_jit
    def run(i):
        i = i._replace(v=flow.v(i.x, i.s))
        out = {name: jnp.subtract(*CASES[name].call(flow.V, flow.V, i)) for name in EXACT}
        out["tangent"] = jnp.subtract(*losses.improved_meanflow(flow.V, i.x, i.s, i.t, i.v, v_tangent=i.v))
        return out

    return run(inputs(shape))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", ["scalar", "points", "images"])
@pytest.mark.parametrize("name", [*EXACT, "tangent"])
def test_exact_flows_have_no_residual(kind, name):
    residual = exact_residuals(kind)[name]
    assert residual.shape == inputs(exact_flow(kind)[1]).x.shape
    np.testing.assert_allclose(residual, 0.0, atol=1e-9)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", ["scalar", "points", "images"])
def test_soflow_on_exact_flows_falls_with_the_square_of_a(kind):
    flow, shape = exact_flow(kind)
    i = inputs(shape)
    fractions = np.array([1e-3, 2e-3, 4e-3, 8e-3])

    @quick_jit
    def run(i, a):
        tangent = flow.v(i.x, i.s)
        m = i.s + a * (i.t - i.s)
        both = jnp.stack([tangent, flow.V(i.x, i.s, m)])
        return jax.vmap(lambda v: jnp.subtract(*losses.soflow(flow.V, i.x, i.s, i.t, v, a)))(both)

    found = [run(i, jnp.full_like(i.s, a)) for a in (*fractions, 0.5, 1.0)]
    sizes = [np.abs(euler).max() for euler, _ in found[: len(fractions)]]
    order = np.polyfit(np.log(fractions), np.log(sizes), 1)[0]
    assert abs(order - 2) < 0.05, order
    # Along the chord to the middle point instead of the tangent the rule is the semigroup: exact for every a, 1 included.
    for _, chord in found:
        np.testing.assert_allclose(chord, 0.0, atol=1e-9)


# 2. Values and gradients on a random smooth network


@pytest.mark.usefixtures("x64")
@every_pair
def test_values_are_the_equations(name):
    V, W, i = smooth(1), smooth(2), inputs()
    pair = quick_jit(lambda i: CASES[name].call(V, W, i))(i)
    assert isinstance(pair, typing.Pair)
    prediction, target = quick_jit(lambda i: CASES[name].read(V, W, partials(V, i), i))(i)
    np.testing.assert_allclose(pair.prediction, prediction, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(pair.target, target, rtol=1e-10, atol=1e-11)


@pytest.mark.usefixtures("x64")
@every_pair
@pytest.mark.parametrize("target_net", ["own", "other"])
def test_gradients_are_where_they_belong(name, target_net):
    V0, phi, i = smooth(1), smooth(3), inputs()

    def pair(theta, i):
        V = lambda x, s, t: V0(x, s, t) + theta * phi(x, s, t)
        # The other target network also depends on theta: nothing may reach it.
        W = V if target_net == "own" else lambda x, s, t: jnp.sin(V(x, s, t))
        return CASES[name].call(V, W, i)

    @quick_jit
    def run(theta, i):
        tangent = jax.jvp(lambda theta: pair(theta, i), (theta,), (1.0,))[1]
        reverse = jax.grad(lambda theta, side: jnp.sum(i.u * pair(theta, i)[side]))
        return tangent, reverse(theta, 0), reverse(theta, 1), CASES[name].tangent(phi, partials(phi, i), i)

    for theta in (0.0, 0.7):
        tangent, grad_prediction, grad_target, expected = run(theta, i)
        np.testing.assert_allclose(tangent.prediction, expected, rtol=1e-10, atol=1e-11)
        np.testing.assert_allclose(grad_prediction, jnp.sum(i.u * expected), rtol=1e-10)
        np.testing.assert_array_equal(tangent.target, 0.0)
        assert grad_target == 0.0


# 3. Unbiasedness


def conditional_and_marginal(rows=8, nodes=12):
    """Rows at (x, s) with v conditional on Gauss-Hermite nodes of x0 given x, and the marginal v; 1-D data N(0.5, 0.8)."""
    mean, variance = 0.5, 0.8
    i = inputs((1,), rows)
    z, w = np.polynomial.hermite_e.hermegauss(nodes)
    marginal_variance = (1 - i.s) ** 2 * variance + i.s**2
    center = mean + (1 - i.s) * variance * (i.x - (1 - i.s) * mean) / marginal_variance
    spread = jnp.sqrt(variance * i.s**2 / marginal_variance)
    x0 = center[:, None] + spread[:, None] * z[None, :, None]
    v = (i.x[:, None] - x0) / i.s[:, None]  # eps - x0 with eps = (x - (1 - s) x0) / s
    tiled = jax.tree.map(lambda leaf: jnp.repeat(leaf, nodes, axis=0), i)._replace(v=v.reshape(-1, 1))
    mean_v = exact.gaussian(mean, variance).v(i.x[:, 0], i.s[:, 0])[:, None]
    np.testing.assert_allclose((v[..., 0] @ (w / w.sum())), mean_v[:, 0], rtol=1e-10)
    return tiled, tiled._replace(v=jnp.repeat(mean_v, nodes, axis=0)), jnp.asarray(np.tile(w / w.sum(), rows))


@functools.cache
def bias(name):
    """Difference and size of the gradients in the weights of a network, conditional against marginal velocity."""
    conditional, marginal, w = conditional_and_marginal()

    def loss(params, i, a):
        V = functools.partial(network, params)
        prediction, target = CASES[name].call(V, V, i._replace(a=jnp.full_like(i.s, a)))
        return jnp.sum(w * jnp.sum((prediction - target) ** 2, axis=1)) / a

    params = weights(4, 1)
    grad = quick_jit(jax.grad(loss))

    def run(a):
        one, other = (jnp.concatenate([g.ravel() for g in grad(params, i, a).values()]) for i in (conditional, marginal))
        return float(jnp.abs(one - other).max()), float(jnp.abs(other).max())

    return run


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["flow_matching", "meanflow", "improved_meanflow", "improved_meanflow_with_tangent"])
def test_conditional_velocities_give_the_marginal_gradient(name):
    difference, size = bias(name)(1.0)
    assert difference < 1e-9 * size


@pytest.mark.usefixtures("x64")
def test_soflow_is_biased_by_the_order_of_a():
    differences = [bias("soflow")(a)[0] for a in (0.2, 0.1, 1e-3, 5e-4)]
    assert differences[0] > 1e-2
    assert differences[2] / differences[3] == pytest.approx(2.0, abs=0.05)


# 4. Limits and identities, for any smooth V


@pytest.mark.usefixtures("x64")
def test_soflow_over_a_tends_to_meanflow():
    V, i = smooth(1), inputs()
    limit = jnp.subtract(*losses.meanflow(V, i.x, i.s, i.t, i.v))
    run = quick_jit(lambda a: jnp.subtract(*losses.soflow(V, i.x, i.s, i.t, i.v, a)) / a)
    differences = np.array([np.abs(run(a) - limit).max() for a in (1e-3, 5e-4, 2.5e-4)])
    np.testing.assert_allclose(differences[:-1] / differences[1:], 2.0, rtol=0.01)
    assert differences[-1] < 0.01


@pytest.mark.usefixtures("x64")
def test_improved_meanflow_is_meanflow_plus_the_turned_tangent():
    V, i = smooth(1), inputs()

    @quick_jit
    def run(i):
        meanflow = losses.meanflow(V, i.x, i.s, i.t, i.v)
        improved = losses.improved_meanflow(V, i.x, i.s, i.t, i.v)
        same = losses.improved_meanflow(V, i.x, i.s, i.t, i.v, v_tangent=i.v)
        turned = partials(V, i)("x", V(i.x, i.s, i.s) - i.v)
        return jnp.subtract(*meanflow), jnp.subtract(*improved), jnp.subtract(*same), turned

    meanflow, improved, same, turned = run(i)
    # imf - meanflow = -(t - s) grad_x V . (V(x, s, s) - v)
    np.testing.assert_allclose(improved, meanflow - (i.t - i.s) * turned, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(same, meanflow, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "multiple"),
    [("meanflow", 1.0), ("improved_meanflow", 1.0), ("improved_meanflow_with_tangent", 1.0), ("soflow", "a")],
)
def test_on_the_diagonal_it_is_flow_matching(name, multiple):
    V, i = smooth(1), inputs()
    i = i._replace(t=i.s)
    expected = jnp.subtract(*losses.flow_matching(V, i.x, i.s, i.v)) * (i.a if multiple == "a" else multiple)
    np.testing.assert_allclose(jnp.subtract(*CASES[name].call(V, V, i)), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_terminal_velocity_on_the_diagonal_compares_the_two_networks():
    V, W, i = smooth(1), smooth(2), inputs()
    own = losses.terminal_velocity(V, V, i.x, i.s, i.s)
    np.testing.assert_array_equal(own.prediction, own.target)
    other = losses.terminal_velocity(V, W, i.x, i.s, i.s)
    np.testing.assert_allclose(jnp.subtract(*other), V(i.x, i.s, i.s) - W(i.x, i.s, i.s), rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_soflow_of_the_whole_way_is_trajectory_flow_matching():
    V, i = smooth(1), inputs()
    pair = losses.soflow(V, i.x, i.s, i.t, i.v, 1.0)
    np.testing.assert_allclose(jnp.subtract(*pair), V(i.x, i.s, i.t) - i.v, rtol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", TAKES_JVP)
@pytest.mark.parametrize(("scheme", "order"), [("forward", 1), ("backward", 1), ("central", 2)])
def test_finite_differences_approach_the_exact_derivative(name, scheme, order):
    V, W, i = smooth(1), smooth(2), inputs()
    limit = jnp.subtract(*CASES[name].call(V, W, i))
    steps = np.array([4e-3, 2e-3, 1e-3])
    run = quick_jit(lambda h: jnp.subtract(*CASES[name].call(V, W, i, jvp=_difference(h, scheme))))
    errors = [np.abs(run(h) - limit).max() for h in steps]
    assert np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(order, abs=0.1)
    assert errors[-1] < 0.1 * steps[-1] ** (order - 1)


def _difference(h, scheme):
    """finite_difference with a traced step (its check wants a number), so that one compilation serves all steps."""
    one = derivatives.finite_difference(1.0, scheme)

    def jvp(fun, primals, tangents):
        primal, tangent = one(fun, primals, jax.tree.map(lambda u: h * u, tangents))
        return primal, jax.tree.map(lambda d: d / h, tangent)

    return jvp


# Errors and dtypes

FIELDS = {"flow_matching": "s", "soflow": "sta", "terminal_velocity": "st"}


@pytest.mark.parametrize(("name", "field"), [(name, field) for name in CASES for field in FIELDS.get(name, "st")])
def test_times_of_the_wrong_rank_name_expand(name, field):
    x = jnp.zeros((256, 32, 32, 4))
    i = Inputs(x, 0.5, 0.2, x, 0.5, x)._replace(**{field: jnp.zeros(256)})
    V = lambda x, s, t: x
    with pytest.raises(
        typing.InputError, match=r"\(256,\).*\(256, 32, 32, 4\).*\(256, 1, 1, 1\).*flowjax\.times\.expand"
    ) as error:
        jax.eval_shape(lambda: CASES[name].call(V, V, i))
    assert name.removesuffix("_with_tangent") in str(error.value) and f"{field} has shape" in str(error.value)


@pytest.mark.parametrize("shape", [(7, 1), (4, 3), (4, 1, 1), (1,)])
def test_times_that_would_broadcast_x_are_an_error(shape):
    x = jnp.zeros((4, 1))
    with pytest.raises(typing.InputError, match="has shape"):
        losses.meanflow(lambda x, s, t: x, x, jnp.zeros(shape), 0.0, x)


@pytest.mark.parametrize("name", [name for name in CASES if name != "terminal_velocity"])
@pytest.mark.parametrize("shape", [(4, 1), (3,), (), (4, 3, 1)])
def test_a_velocity_of_the_wrong_shape_is_an_error(name, shape):
    x = jnp.zeros((4, 3))
    i = Inputs(x, 0.5, 0.2, jnp.zeros(shape), 0.5, x)
    with pytest.raises(typing.InputError, match="v has shape"):
        CASES[name].call(lambda x, s, t: x, None, i)


def test_a_tangent_of_the_wrong_shape_is_an_error():
    x = jnp.zeros((4, 3))
    with pytest.raises(typing.InputError, match="v_tangent has shape"):
        losses.improved_meanflow(lambda x, s, t: x, x, 0.5, 0.2, x, v_tangent=x[:1])


@every_pair
def test_integer_data_is_an_error(name):
    x = jnp.zeros((4, 3), jnp.int32)
    with pytest.raises(typing.InputError, match="floating"):
        CASES[name].call(lambda x, s, t: x, lambda x, s, t: x, Inputs(x, 0.5, 0.2, x, 0.5, x))


def _cast(i, dtype, time_dtype):
    cast = lambda leaf, dtype: leaf.astype(dtype)
    times = {field: cast(getattr(i, field), time_dtype) for field in "sta"}
    return i._replace(x=cast(i.x, dtype), v=cast(i.v, dtype), u=cast(i.u, dtype), **times)


@every_pair
@pytest.mark.parametrize("wide", [False, True])
def test_bfloat16_data_with_float32_times(name, wide):
    with jax.enable_x64(wide):
        i, seen = _cast(inputs(), jnp.bfloat16, jnp.float32), []
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), weights(1, 3))

        def V(x, s, t):
            seen.append((x.dtype, s.dtype, t.dtype))
            return network(params, x.astype(jnp.float32), s, t).astype(x.dtype)

        call = lambda i: CASES[name].call(V, V, i)
        pair = jax.eval_shape(call, i) if wide else quick_jit(call)(i)
        assert set(seen) == {(jnp.dtype("bfloat16"), jnp.dtype("float32"), jnp.dtype("float32"))}
        for side in pair:
            assert side.dtype in (jnp.bfloat16, jnp.float32)
        if wide:
            return
        exactly = functools.partial(network, params)
        reference = quick_jit(lambda i: CASES[name].call(exactly, exactly, i))(_cast(i, "f4", "f4"))
        chex.assert_tree_all_finite(pair)
        np.testing.assert_allclose(jnp.subtract(*pair).astype("f4"), jnp.subtract(*reference), atol=0.15)


@pytest.mark.usefixtures("x64")
@every_pair
@pytest.mark.parametrize("time", ["python", "scalar", "column", "integer"])
def test_float32_stays_float32_under_x64(name, time):
    i = _cast(inputs(), jnp.float32, jnp.float32)
    s, t, a = {"python": (0.9, 0.2, 0.5), "integer": (1, 0, 1)}.get(
        time, (jnp.float32(0.9), jnp.float32(0.2), jnp.float32(0.5))
    )
    if time == "column":
        s, t, a = (jnp.full((12, 1), value) for value in (s, t, a))
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), weights(1, 3))
    V = functools.partial(network, params)
    # Eager on purpose: jit would make arrays of the Python scalars before the loss sees them.
    pair = jax.eval_shape(lambda: CASES[name].call(V, V, i._replace(s=s, t=t, a=a)))
    assert {side.dtype for side in pair} == {jnp.dtype("float32")}


@every_pair
def test_forms_of_the_same_times_agree(name):
    i, V, W = inputs(), smooth(1), smooth(2)
    arrays = [jnp.float32(value) for value in (0.75, 0.25, 0.5)]
    forms = [arrays, [jnp.full((1, 1), value) for value in arrays], [jnp.full((12, 1), value) for value in arrays]]
    forms.append([0.75, jnp.full((12, 1), 0.25), jnp.float32(0.5)])
    forms.append([0.75, 0.25, 0.5])
    call = lambda form: CASES[name].call(V, W, i._replace(**dict(zip("sta", form))))
    # Closed over, not passed: jit would make arrays of the Python scalars.
    *pairs, expected = quick_jit(lambda: [call(form) for form in forms])()
    for pair in pairs:
        for found, wanted in zip(pair, expected):
            assert found.shape == i.x.shape
            np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-5)
