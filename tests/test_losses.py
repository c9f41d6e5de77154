"""Every pair of losses: zero on exact flows, gradients where they belong, values, unbiasedness, limits, errors, dtypes."""

import functools
import inspect
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import derivatives, exact, flowmap, losses, typing

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

    `read(V, W, d, i)` and `tangent(phi, d_phi, i)` get a partial derivative `d(name, tangent_x)` written below, not a jvp. W is whatever
    else is asked: target, teacher (on the diagonal), frozen or teacher's map. A tangent of None: nothing is stopped in the prediction,
    and its tangent is the derivative of `read` for weights of W that do not move; `free` says whether the target's is too, or 0.
    """

    call: Callable
    read: Callable
    tangent: Callable | None
    free: bool = False


def two_heads(V, i, **kwargs):
    """The pairs of a network whose second head is its own velocity on the diagonal."""
    return losses.improved_meanflow_two_heads(lambda x, s, t: (V(x, s, t), V(x, s, s)), i.x, i.s, i.t, i.v, **kwargs)


def improved_with_tangent(V, W, i, **kwargs):
    # The tangent comes out of the network itself: no gradient may pass through it.
    return losses.improved_meanflow(V, i.x, i.s, i.t, i.v, v_tangent=jnp.sin(V(i.x, i.t, i.s)), **kwargs)


def teacher(W):
    return lambda x, t: W(x, t, t)


def at(i, **times):
    """The inputs with other times, each broadcast to a column."""
    return i._replace(**{name: jnp.broadcast_to(jnp.asarray(time, i.s.dtype), i.s.shape) for name, time in times.items()})


def middle(i):
    return i.s + i.a * (i.t - i.s)


def jump(V, x, s, t):
    return x + (t - s) * V(x, s, t)


def two_legs(V, W, i):
    """One leg along v, the other with V: the target of AlphaFlow and SoFlow."""
    return i.a * i.v + (1 - i.a) * W(i.x + i.a * (i.t - i.s) * i.v, middle(i), i.t)


def two_jumps(W, i):
    m, x_m = middle(i), jump(W, i.x, i.s, middle(i))
    return i.a * W(i.x, i.s, m) + (1 - i.a) * W(x_m, m, i.t)


def read_flow_anchored(V, W, d, i):
    d = partials(V, at(i, t=0.0))
    V_s0 = V(i.x, i.s, 0.0)
    R = V_s0 - i.v + i.s * (d("x", i.v) + d("s"))
    return V_s0, V_s0 - (1 - jnp.sqrt(1 - i.s)) * jnp.minimum(jnp.maximum(R, -1), 1)


def read_from_noise(V, W, i):
    """V, its derivative in t, and the teacher where it lands, from s = 1."""
    i = at(i, s=1.0)
    V_1t = V(i.x, i.s, i.t)
    return V_1t, partials(V, i)("t"), W(i.x + (i.t - 1) * V_1t, i.t, i.t)


def read_freeflow_correction(V, W, d, i):
    F = i.x - V(i.x, 1.0, 0.0)
    x_r = (1 - i.a) * F + i.a * i.u
    return F, F + V(x_r, i.a, i.a) - W(x_r, i.a, i.a)


def read_boot(V, W, d, i):
    m = i.t + i.a * (1 - i.t)
    V_1m = V(i.x, 1.0, m)
    x_t = i.x + (m - 1) * V_1m + (i.t - m) * W(i.x + (m - 1) * V_1m, m, m)  # an Euler step of the teacher from F(x, 1, m)
    return V(i.x, 1.0, i.t), (x_t - i.x) / (i.t - 1)


def read_round_trip(V, W, d, i):
    y = jump(V, i.x, i.s, i.t)
    back = i._replace(x=y, s=i.t, t=i.s)
    return V(y, i.t, i.s) + (i.s - i.t) * partials(V, back)("t"), i.v, jump(V, y, i.t, i.s), i.x


def read_pd(V, W, d, i):
    m = (i.s + i.t) / 2
    half = lambda x, s, t: x + (t - s) * W(x, s, s)
    x_t = half(half(i.x, i.s, m), m, i.t)
    return V(i.x, i.s, i.t), (x_t - i.x) / (i.t - i.s)


def from_noise(loss):
    return lambda V, W, i, jvp=jax.jvp: loss(V, teacher(W), i.x, i.t, jvp=jvp)


plain = lambda phi, d_phi, i: phi(i.x, i.s, i.t)
jumped = lambda phi, d_phi, i: (i.t - i.s) * phi(i.x, i.s, i.t)
at_data = lambda phi, d_phi, i: phi(i.x, i.s, 0.0)

CASES = {
    "alphaflow": Case(
        lambda V, W, i: losses.alphaflow(V, i.x, i.s, i.t, i.v, i.a),
        lambda V, W, d, i: (V(i.x, i.s, i.t), two_legs(V, V, i)),
        plain,
    ),
    "consistency_training": Case(
        lambda V, W, i: losses.consistency_training(V, i.x, i.s, i.t, i.v, i.a),
        lambda V, W, d, i: (jump(V, i.x, i.s, i.t), jump(V, i.x + (middle(i) - i.s) * i.v, middle(i), i.t)),
        jumped,
    ),
    "consistency_distillation": Case(
        lambda V, W, i: losses.consistency_distillation(V, W, i.x, i.s, i.t, i.v, i.a),
        lambda V, W, d, i: (jump(V, i.x, i.s, i.t), jump(W, i.x + (middle(i) - i.s) * i.v, middle(i), i.t)),
        jumped,
    ),
    "consistency_trajectory": Case(
        lambda V, W, i: losses.consistency_trajectory(V, W, i.x, i.s, i.t, i.u, middle(i)),
        lambda V, W, d, i: (
            jump(W, jump(V, i.x, i.s, i.t), i.t, 0.0),
            jump(W, jump(V, i.u, middle(i), i.t), i.t, 0.0),
        ),
        None,
    ),
    "continuous_consistency": Case(
        lambda V, W, i, **kwargs: losses.continuous_consistency(V, i.x, i.s, i.v, warmup=0.7, **kwargs),
        lambda V, W, d, i: (
            V(i.x, i.s, 0.0),
            i.v - 0.7 * i.s * (partials(V, at(i, t=0.0))("x", i.v) + partials(V, at(i, t=0.0))("s")),
        ),
        at_data,
    ),
    "eulerian_distillation": Case(
        lambda V, W, i, **kwargs: losses.eulerian_distillation(V, i.x, i.s, i.t, i.v, **kwargs),
        lambda V, W, d, i: (i.v - V(i.x, i.s, i.t) + (i.t - i.s) * (d("x", i.v) + d("s")), 0 * i.x),
        lambda phi, d_phi, i: -phi(i.x, i.s, i.t) + (i.t - i.s) * (d_phi("x", i.v) + d_phi("s")),
    ),
    "eulerian_self_distillation": Case(
        lambda V, W, i, **kwargs: losses.eulerian_self_distillation(V, i.x, i.s, i.t, **kwargs),
        lambda V, W, d, i: (
            (i.t - i.s) * d("s") - V(i.x, i.s, i.t) + V(i.x, i.s, i.s) + (i.t - i.s) * d("x", V(i.x, i.s, i.s)),
            0 * i.x,
        ),
        lambda phi, d_phi, i: (i.t - i.s) * d_phi("s") - phi(i.x, i.s, i.t),
    ),
    "align_your_flow_emd": Case(
        lambda V, W, i, **kwargs: losses.align_your_flow_emd(V, i.x, i.s, i.t, i.v, warmup=0.7, **kwargs),
        lambda V, W, d, i: (V(i.x, i.s, i.t), i.v + 0.7 * (i.t - i.s) * (d("x", i.v) + d("s"))),
        plain,
    ),
    "flow_anchored": Case(
        lambda V, W, i, **kwargs: losses.flow_anchored(V, i.x, i.s, i.v, **kwargs), read_flow_anchored, at_data
    ),
    "lagrangian_distillation": Case(
        lambda V, W, i, **kwargs: losses.lagrangian_distillation(V, teacher(W), i.x, i.s, i.t, **kwargs),
        lambda V, W, d, i: (V(i.x, i.s, i.t) + (i.t - i.s) * d("t"), W(jump(V, i.x, i.s, i.t), i.t, i.t)),
        None,
        free=True,
    ),
    "lagrangian_self_distillation": Case(
        lambda V, W, i, **kwargs: losses.lagrangian_self_distillation(V, i.x, i.s, i.t, **kwargs),
        lambda V, W, d, i: (V(i.x, i.s, i.t) + (i.t - i.s) * d("t"), V(jump(V, i.x, i.s, i.t), i.t, i.t)),
        lambda phi, d_phi, i: phi(i.x, i.s, i.t) + (i.t - i.s) * d_phi("t"),
    ),
    "align_your_flow_lmd": Case(
        lambda V, W, i, **kwargs: losses.align_your_flow_lmd(V, teacher(W), i.x, i.s, i.t, **kwargs),
        lambda V, W, d, i: (V(i.x, i.s, i.t), W(jump(V, i.x, i.s, i.t), i.t, i.t) - (i.t - i.s) * d("t")),
        plain,
    ),
    "freeflow_prediction": Case(
        from_noise(losses.freeflow_prediction),
        lambda V, W, d, i: (lambda V_1t, dV_dt, v: (V_1t, v + (1 - i.t) * dV_dt))(*read_from_noise(V, W, i)),
        lambda phi, d_phi, i: phi(i.x, 1.0, i.t),
    ),
    "freeflow_correction": Case(
        lambda V, W, i: losses.freeflow_correction(V, teacher(V), teacher(W), i.x, i.a, i.u),
        read_freeflow_correction,
        lambda phi, d_phi, i: -phi(i.x, 1.0, 0.0),
    ),
    "physics_informed": Case(
        from_noise(losses.physics_informed),
        lambda V, W, d, i: (lambda V_1t, dV_dt, v: (V_1t + (i.t - 1) * dV_dt, v))(*read_from_noise(V, W, i)),
        lambda phi, d_phi, i: phi(i.x, 1.0, i.t) + (i.t - 1) * partials(phi, at(i, s=1.0))("t"),
    ),
    "boot": Case(
        lambda V, W, i: losses.boot(V, teacher(W), i.x, i.t, i.t + i.a * (1 - i.t)),
        read_boot,
        lambda phi, d_phi, i: phi(i.x, 1.0, i.t),
    ),
    "consistency_mid_training": Case(
        lambda V, W, i: losses.consistency_mid_training(V, i.x, i.s, i.t, i.u),
        lambda V, W, d, i: (V(i.x, i.s, i.t), (i.u - i.x) / (i.t - i.s)),
        plain,
    ),
    "shortcut": Case(
        lambda V, W, i: losses.shortcut(V, W, i.x, i.s, i.t),
        lambda V, W, d, i: (V(i.x, i.s, i.t), two_jumps(W, at(i, a=0.5))),
        plain,
    ),
    "split_meanflow": Case(
        lambda V, W, i: losses.split_meanflow(V, i.x, i.s, i.t, i.a),
        lambda V, W, d, i: (V(i.x, i.s, i.t), two_jumps(V, i)),
        plain,
    ),
    "progressive_self_distillation": Case(
        lambda V, W, i: losses.progressive_self_distillation(V, i.x, i.s, i.t, i.a),
        lambda V, W, d, i: (V(i.x, i.s, i.t), two_jumps(V, i)),
        plain,
    ),
    "flow_map_matching_velocity": Case(
        lambda V, W, i, **kwargs: losses.flow_map_matching(V, i.x, i.s, i.t, i.v, **kwargs)[0],
        lambda V, W, d, i: read_round_trip(V, W, d, i)[:2],
        None,
    ),
    "flow_map_matching_round_trip": Case(
        lambda V, W, i, **kwargs: losses.flow_map_matching(V, i.x, i.s, i.t, i.v, **kwargs)[1],
        lambda V, W, d, i: read_round_trip(V, W, d, i)[2:],
        None,
    ),
    "progressive_flow_map_matching": Case(
        lambda V, W, i: losses.progressive_flow_map_matching(V, W, i.x, i.s, i.t, i.a),
        lambda V, W, d, i: (jump(V, i.x, i.s, i.t), jump(W, jump(W, i.x, i.s, middle(i)), middle(i), i.t)),
        jumped,
    ),
    "progressive_distillation": Case(
        lambda V, W, i: losses.progressive_distillation(V, teacher(W), i.x, i.s, i.t), read_pd, plain
    ),
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
    "improved_meanflow_two_heads_average": Case(
        lambda V, W, i, **kwargs: two_heads(V, i, **kwargs)[0],
        lambda V, W, d, i: (V(i.x, i.s, i.t) - (i.t - i.s) * (d("x", V(i.x, i.s, i.s)) + d("s")), i.v),
        lambda phi, d_phi, i: phi(i.x, i.s, i.t),
    ),
    "improved_meanflow_two_heads_velocity": Case(
        lambda V, W, i, **kwargs: two_heads(V, i, **kwargs)[1],
        lambda V, W, d, i: (V(i.x, i.s, i.s), i.v),
        lambda phi, d_phi, i: phi(i.x, i.s, i.s),
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
VARIANTS = {
    "improved_meanflow_two_heads_average": "improved_meanflow_two_heads",
    "improved_meanflow_two_heads_velocity": "improved_meanflow_two_heads",
    "improved_meanflow_with_tangent": "improved_meanflow",
    "flow_map_matching_velocity": "flow_map_matching",
    "flow_map_matching_round_trip": "flow_map_matching",
}


def function(name):
    """The name in flowjax.losses."""
    return VARIANTS.get(name, name)


def that_take(*names):
    """The cases whose function has a parameter of one of these names."""
    return [case for case in CASES if set(names) & set(inspect.signature(getattr(losses, function(case))).parameters)]


TAKES_JVP = that_take("jvp")
# The halves of two pairs in which no derivative is.
WITHOUT_DERIVATIVE = ("flow_map_matching_round_trip", "improved_meanflow_two_heads_velocity")
# Zero on an exact flow up to a power of the length of a finite step.
FINITE = ["soflow", "alphaflow", "consistency_training", "consistency_distillation", "progressive_distillation", "boot"]
EXACT = [name for name in CASES if name not in (*FINITE, "improved_meanflow_with_tangent")]
# What the identity needs besides: a derivative that is not warmed up to vanish, a point of the exact trajectory.
WARM = {
    "consistency_mid_training": lambda V, i: losses.consistency_mid_training(V, i.x, i.s, i.t, jump(V, i.x, i.s, i.t)),
    "continuous_consistency": lambda V, i: losses.continuous_consistency(V, i.x, i.s, i.v),
    "align_your_flow_emd": lambda V, i: losses.align_your_flow_emd(V, i.x, i.s, i.t, i.v),
}
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


def test_the_table_has_every_pair():
    assert set(losses.__all__) == {function(name) for name in CASES}


# 1. Exact flows


@functools.cache
def exact_flow(kind):
    if kind == "scalar":
        return exact.mixture([0.3, 0.7], [-1.0, 1.0], [0.4, 0.6]), ()
    shape = {"points": (3,), "images": (2, 2, 3)}[kind]
    size = int(np.prod(shape))
    root = np.random.default_rng(5).normal(size=(size, size)) * size**-0.5
    return exact.gaussian(np.linspace(-1, 1, size).reshape(shape), root @ root.T + 0.1 * np.eye(size)), shape


def compiled(f):
    """f(x, *times) and its derivative, compiled once each: the pairs below run eagerly on them."""
    slope = quick_jit(lambda primals, tangents: jax.jvp(f, primals, tangents))
    run = jax.custom_jvp(quick_jit(f))
    run.defjvp(lambda primals, tangents: slope(primals, tangents))
    column = lambda time, x: jnp.broadcast_to(jnp.asarray(time, x.dtype), x.shape[:1] + (1,) * (x.ndim - 1))
    return lambda x, *times: run(x, *(column(time, x) for time in times))


@functools.cache
def exact_inputs(kind):
    flow, shape = exact_flow(kind)
    V, v, i = compiled(flow.V), compiled(flow.v), inputs(shape)
    return V, v, i._replace(v=v(i.x, i.s), u=jump(V, i.x, i.s, middle(i)))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", ["scalar", "points", "images"])
@pytest.mark.parametrize("name", [*EXACT, "tangent"])
def test_exact_flows_have_no_residual(kind, name):
    V, _, i = exact_inputs(kind)
    if name == "tangent":
        pair = losses.improved_meanflow(V, i.x, i.s, i.t, i.v, v_tangent=i.v)
    else:
        pair = WARM[name](V, i) if name in WARM else CASES[name].call(V, V, i)
    assert pair.prediction.shape == pair.target.shape == i.x.shape
    np.testing.assert_allclose(jnp.subtract(*pair), 0.0, atol=1e-9)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", [pytest.param("scalar", marks=pytest.mark.slow), "points", "images"])
@pytest.mark.parametrize("name", FINITE)
def test_finite_steps_on_exact_flows_fall_at_their_order(kind, name):
    V, _, i = exact_inputs(kind)
    two_half_steps = name == "progressive_distillation"
    fractions, sizes = (1e-3, 2e-3, 4e-3, 8e-3), []
    for a in fractions:
        j = i._replace(t=i.s + a * (i.t - i.s)) if two_half_steps else at(i, a=a)
        sizes.append(float(jnp.abs(jnp.subtract(*CASES[name].call(V, V, j))).max()))
    order = np.polyfit(np.log(fractions), np.log(sizes), 1)[0]
    # Two Euler half steps miss by the square of their length, and their mean velocity by the length itself.
    assert abs(order - (1 if two_half_steps else 2)) < 0.05, order
    if name not in ("progressive_distillation", "boot"):
        # Along the chord to the middle point instead of the tangent the rule is the semigroup: exact for every a.
        chord = i._replace(v=V(i.x, i.s, middle(i)))
        np.testing.assert_allclose(jnp.subtract(*CASES[name].call(V, V, chord)), 0.0, atol=1e-9)


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


def nets_of_theta(name):
    """What stands for W: weights that do not move for the free cases, otherwise networks that all depend on theta."""
    if CASES[name].tangent is None:
        return ["still"]
    return ["own", "other"] if name in that_take("V_target", "V_teacher", "teacher") else ["own"]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("name", "other"), [(name, other) for name in CASES for other in nets_of_theta(name)])
def test_gradients_are_where_they_belong(name, other):
    V0, W0, phi, i = smooth(1), smooth(2), smooth(3), inputs()
    call, read, tangent, free = CASES[name]

    def nets(theta):
        V = lambda x, s, t: V0(x, s, t) + theta * phi(x, s, t)
        return V, {"own": V, "other": lambda x, s, t: jnp.sin(V(x, s, t)), "still": W0}[other]

    @quick_jit
    def run(theta, i):
        pair = lambda theta: call(*nets(theta), i)
        reverse = jax.grad(lambda theta, side: jnp.sum(i.u * pair(theta)[side]))
        if tangent:
            expected = tangent(phi, partials(phi, i), i), jnp.zeros(())
        else:
            reading = lambda theta: read(*nets(theta), partials(nets(theta)[0], i), i)
            expected = jax.jvp(lambda theta: tuple(reading(theta)), (theta,), (1.0,))[1]
        return jax.jvp(pair, (theta,), (1.0,))[1], (reverse(theta, 0), reverse(theta, 1)), expected

    for theta in (0.0, 0.7):
        forward, backward, expected = run(theta, i)
        np.testing.assert_allclose(forward.prediction, expected[0], rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(backward[0], jnp.sum(i.u * expected[0]), rtol=1e-9)
        if free:
            assert np.abs(expected[1]).max() > 0.01
            np.testing.assert_allclose(forward.target, expected[1], rtol=1e-9, atol=1e-10)
            np.testing.assert_allclose(backward[1], jnp.sum(i.u * expected[1]), rtol=1e-9)
        else:
            np.testing.assert_array_equal(forward.target, 0.0)
            assert backward[1] == 0.0


@pytest.mark.usefixtures("x64")
def test_the_inputs_reach_both_sides_of_the_clip():
    V, i = smooth(1), inputs()
    R = jnp.abs(jnp.subtract(*losses.continuous_consistency(V, i.x, i.s, i.v)))
    assert 0.1 < (R > 1).mean() < 0.9


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
@pytest.mark.parametrize(
    "name",
    [
        "flow_matching",
        "meanflow",
        "improved_meanflow",
        "improved_meanflow_with_tangent",
        "improved_meanflow_two_heads_average",
        "improved_meanflow_two_heads_velocity",
        "continuous_consistency",
        "flow_map_matching_velocity",
    ],
)
def test_conditional_velocities_give_the_marginal_gradient(name):
    difference, size = bias(name)(1.0)
    assert difference < 1e-9 * size


@pytest.mark.usefixtures("x64")
def test_without_the_stop_gradient_a_conditional_velocity_is_biased():
    difference, size = bias("eulerian_distillation")(1.0)
    assert difference > 0.01 * size


@pytest.mark.usefixtures("x64")
def test_soflow_is_biased_by_the_order_of_a():
    differences = [bias("soflow")(a)[0] for a in (0.2, 0.1, 1e-3, 5e-4)]
    assert differences[0] > 1e-2
    assert differences[2] / differences[3] == pytest.approx(2.0, abs=0.05)


# 4. Limits and identities, for any smooth V


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("loss", [losses.soflow, losses.alphaflow])
def test_two_legs_over_a_tend_to_meanflow(loss):
    V, i = smooth(1), inputs()
    limit = jnp.subtract(*losses.meanflow(V, i.x, i.s, i.t, i.v))
    run = quick_jit(lambda a: jnp.subtract(*loss(V, i.x, i.s, i.t, i.v, a)) / a)
    differences = np.array([np.abs(run(a) - limit).max() for a in (1e-3, 5e-4, 2.5e-4)])
    np.testing.assert_allclose(differences[:-1] / differences[1:], 2.0, rtol=0.01)
    assert differences[-1] < 0.01


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("loss", [losses.progressive_self_distillation, losses.split_meanflow])
def test_two_jumps_over_what_is_left_tend_to_lsd(loss):
    V, i = smooth(1), inputs()
    limit = jnp.subtract(*losses.lagrangian_self_distillation(V, i.x, i.s, i.t))
    run = quick_jit(lambda b: jnp.subtract(*loss(V, i.x, i.s, i.t, 1 - b)) / b)
    differences = np.array([np.abs(run(b) - limit).max() for b in (1e-3, 5e-4, 2.5e-4)])
    np.testing.assert_allclose(differences[:-1] / differences[1:], 2.0, rtol=0.01)
    assert differences[-1] < 0.01


@pytest.mark.usefixtures("x64")
def test_boot_over_its_step_tends_to_lagrangian_distillation_from_noise():
    V, W, i = smooth(1), smooth(2), inputs()
    limit = jnp.subtract(*losses.lagrangian_distillation(V, teacher(W), i.x, 1.0, i.t))
    run = quick_jit(lambda b: jnp.subtract(*losses.boot(V, teacher(W), i.x, i.t, i.t + b * (1 - i.t))) / b)
    differences = np.array([np.abs(run(b) - limit).max() for b in (1e-3, 5e-4, 2.5e-4)])
    np.testing.assert_allclose(differences[:-1] / differences[1:], 2.0, rtol=0.01)
    assert differences[-1] < 0.01


@pytest.mark.usefixtures("x64")
def test_pairs_that_are_each_other():
    V, W, i = smooth(1), smooth(2), inputs()
    sub = lambda pair: jnp.subtract(*pair)

    @quick_jit
    def run(i):
        two_legs = sub(losses.alphaflow(V, i.x, i.s, i.t, i.v, i.a))
        return [
            (sub(losses.soflow(V, i.x, i.s, i.t, i.v, i.a)), two_legs),
            (sub(losses.consistency_training(V, i.x, i.s, i.t, i.v, i.a)), (i.t - i.s) * two_legs),
            (
                sub(losses.consistency_distillation(V, V, i.x, i.s, i.t, i.v, i.a)),
                sub(losses.consistency_training(V, i.x, i.s, i.t, i.v, i.a)),
            ),
            (
                sub(losses.shortcut(V, V, i.x, i.s, i.t)),
                sub(losses.progressive_self_distillation(V, i.x, i.s, i.t, 0.5)),
            ),
            (
                sub(losses.split_meanflow(V, i.x, i.s, i.t, i.a)),
                sub(losses.progressive_self_distillation(V, i.x, i.s, i.t, i.a)),
            ),
            (
                sub(losses.continuous_consistency(V, i.x, i.s, i.v)),
                sub(losses.align_your_flow_emd(V, i.x, i.s, 0.0, i.v)),
            ),
            (sub(losses.align_your_flow_emd(V, i.x, i.s, i.t, i.v)), sub(losses.meanflow(V, i.x, i.s, i.t, i.v))),
            (sub(losses.eulerian_distillation(V, i.x, i.s, i.t, i.v)), -sub(losses.meanflow(V, i.x, i.s, i.t, i.v))),
            (
                sub(losses.eulerian_self_distillation(V, i.x, i.s, i.t)),
                sub(losses.eulerian_distillation(V, i.x, i.s, i.t, V(i.x, i.s, i.s))),
            ),
            (
                sub(losses.lagrangian_distillation(V, teacher(W), i.x, i.s, i.t)),
                sub(losses.align_your_flow_lmd(V, teacher(W), i.x, i.s, i.t)),
            ),
            (
                sub(losses.lagrangian_self_distillation(V, i.x, i.s, i.t)),
                sub(losses.terminal_velocity(V, V, i.x, i.s, i.t)),
            ),
            (
                sub(losses.freeflow_prediction(V, teacher(W), i.x, i.t, jvp=jax.jvp)),
                sub(losses.align_your_flow_lmd(V, teacher(W), i.x, 1.0, i.t)),
            ),
            (
                sub(losses.physics_informed(V, teacher(W), i.x, i.t, jvp=jax.jvp)),
                sub(losses.lagrangian_distillation(V, teacher(W), i.x, 1.0, i.t)),
            ),
        ]

    for one, other in run(i):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-10)


@pytest.mark.usefixtures("x64")
def test_the_tangent_of_scm_in_trigonometric_time():
    """With V = trigflow(N) the paper's cos(a) df/da, f = cos(a) x_a - sin(a) N, is -(1 - s) r R."""
    raw, i = smooth(1), inputs()
    r, a = jnp.sqrt(i.s**2 + (1 - i.s) ** 2), jnp.arctan2(i.s, 1 - i.s)
    N = lambda x, a: raw(x, a / (jnp.pi / 2), 0.0)
    x_a = i.x / r
    dx_da = r * (i.v - (2 * i.s - 1) / r**2 * i.x)  # the velocity in trigonometric time and scale
    f = lambda x, a: jnp.cos(a) * x - jnp.sin(a) * N(x, a)
    g = jnp.cos(a) * jax.jvp(f, (x_a, a), (dx_da, jnp.ones_like(a)))[1]
    R = jnp.subtract(*losses.continuous_consistency(flowmap.trigflow(raw), i.x, i.s, i.v))
    np.testing.assert_allclose(g, -(1 - i.s) * r * R, rtol=1e-9, atol=1e-10)


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
    [
        ("meanflow", 1.0),
        ("improved_meanflow", 1.0),
        ("improved_meanflow_with_tangent", 1.0),
        ("improved_meanflow_two_heads_average", 1.0),
        ("soflow", "a"),
        ("alphaflow", "a"),
        ("align_your_flow_emd", 1.0),
        ("eulerian_distillation", -1.0),
        ("align_your_flow_lmd", 1.0),
        ("lagrangian_distillation", 1.0),
        ("lagrangian_self_distillation", 0.0),
        ("eulerian_self_distillation", 0.0),
        ("shortcut", 0.0),
        ("split_meanflow", 0.0),
        ("progressive_self_distillation", 0.0),
        ("terminal_velocity", 0.0),
        ("consistency_training", 0.0),
    ],
)
def test_on_the_diagonal_it_is_flow_matching(name, multiple):
    V, i = smooth(1), inputs()
    i = i._replace(t=i.s)
    lagrangian = name in ("align_your_flow_lmd", "lagrangian_distillation")  # v is what the teacher says
    W = (lambda x, s, t: i.v) if lagrangian else V
    expected = jnp.subtract(*losses.flow_matching(V, i.x, i.s, i.v)) * (i.a if multiple == "a" else multiple)
    np.testing.assert_allclose(jnp.subtract(*CASES[name].call(V, W, i)), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_terminal_velocity_on_the_diagonal_compares_the_two_networks():
    V, W, i = smooth(1), smooth(2), inputs()
    own = losses.terminal_velocity(V, V, i.x, i.s, i.s)
    np.testing.assert_array_equal(own.prediction, own.target)
    other = losses.terminal_velocity(V, W, i.x, i.s, i.s)
    np.testing.assert_allclose(jnp.subtract(*other), V(i.x, i.s, i.s) - W(i.x, i.s, i.s), rtol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("loss", [losses.soflow, losses.alphaflow])
def test_one_leg_of_the_whole_way_is_trajectory_flow_matching(loss):
    V, i = smooth(1), inputs()
    pair = loss(V, i.x, i.s, i.t, i.v, 1.0)
    np.testing.assert_allclose(jnp.subtract(*pair), V(i.x, i.s, i.t) - i.v, rtol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", [name for name in TAKES_JVP if name not in WITHOUT_DERIVATIVE])
@pytest.mark.parametrize(("scheme", "order"), [("forward", 1), ("backward", 1), ("central", 2)])
def test_finite_differences_approach_the_exact_derivative(name, scheme, order):
    V, W, i = smooth(1), smooth(2), inputs()
    limit = jnp.subtract(*CASES[name].call(V, W, i))
    steps = np.array([4e-3, 2e-3, 1e-3])
    run = quick_jit(lambda h: jnp.subtract(*CASES[name].call(V, W, i, jvp=_difference(h, scheme))))
    errors = [np.abs(run(h) - limit).max() for h in steps]
    assert np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(order, abs=0.1)
    assert errors[-1] < 0.1 * steps[-1] ** (order - 1)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("loss", [losses.freeflow_prediction, losses.physics_informed])
def test_losses_from_noise_take_a_central_difference_unless_told(loss):
    V, W, i = smooth(1), smooth(2), inputs()
    pairs = [loss(V, teacher(W), i.x, i.t, **kwargs) for kwargs in ({}, {"jvp": derivatives.finite_difference()})]
    chex.assert_trees_all_equal(*pairs)
    exactly = loss(V, teacher(W), i.x, i.t, jvp=jax.jvp)
    assert 1e-13 < jnp.abs(jnp.subtract(*pairs[0]) - jnp.subtract(*exactly)).max() < 1e-8


def _difference(h, scheme):
    """finite_difference with a traced step (its check wants a number), so that one compilation serves all steps."""
    one = derivatives.finite_difference(1.0, scheme)

    def jvp(fun, primals, tangents, has_aux=False):
        primal, tangent, *aux = one(fun, primals, jax.tree.map(lambda u: h * u, tangents), has_aux=has_aux)
        return primal, jax.tree.map(lambda d: d / h, tangent), *aux

    return jvp


# Errors and dtypes

WITH_A = ("soflow", "alphaflow", "split_meanflow", "progressive_self_distillation", "progressive_flow_map_matching")
FIELDS = {
    **dict.fromkeys(("flow_matching", "continuous_consistency", "flow_anchored"), "s"),
    **dict.fromkeys(("freeflow_prediction", "physics_informed", "boot"), "t"),
    **dict.fromkeys((*WITH_A, "consistency_training", "consistency_distillation"), "sta"),
    "freeflow_correction": "a",
}
CALLED = {("freeflow_correction", "a"): "r"}  # what a loss calls the field


@pytest.mark.parametrize(("name", "field"), [(name, field) for name in CASES for field in FIELDS.get(name, "st")])
def test_times_of_the_wrong_rank_name_expand(name, field):
    x = jnp.zeros((256, 32, 32, 4))
    i = Inputs(x, 0.5, 0.2, x, 0.5, x)._replace(**{field: jnp.zeros(256)})
    V = lambda x, s, t: x
    said = rf"{function(name)}: {CALLED.get((name, field), field)} has shape "
    with pytest.raises(
        typing.InputError,
        match=said + r"\(256,\).*\(256, 32, 32, 4\).*\(256, 1, 1, 1\).*flowjax\.times\.expand",
    ):
        jax.eval_shape(lambda: CASES[name].call(V, V, i))


@pytest.mark.parametrize(
    ("field", "call"),
    [
        ("m", lambda V, x, m: losses.consistency_trajectory(V, V, x, 0.5, 0.2, x, m)),
        ("m", lambda V, x, m: losses.boot(V, lambda x, t: x, x, 0.2, m)),
        ("warmup", lambda V, x, warmup: losses.continuous_consistency(V, x, 0.5, x, warmup=warmup)),
        ("warmup", lambda V, x, warmup: losses.align_your_flow_emd(V, x, 0.5, 0.2, x, warmup=warmup)),
    ],
)
def test_other_times_of_the_wrong_rank(field, call):
    with pytest.raises(typing.InputError, match=rf"{field} has shape \(4,\).*flowjax\.times\.expand"):
        call(lambda x, s, t: x, jnp.zeros((4, 3)), jnp.zeros(4))


@pytest.mark.parametrize("shape", [(7, 1), (4, 3), (4, 1, 1), (1,)])
def test_times_that_would_broadcast_x_are_an_error(shape):
    x = jnp.zeros((4, 1))
    with pytest.raises(typing.InputError, match="has shape"):
        losses.meanflow(lambda x, s, t: x, x, jnp.zeros(shape), 0.0, x)


@pytest.mark.parametrize("name", that_take("v", "x_m", "eps"))
@pytest.mark.parametrize("shape", [(4, 1), (3,), (), (4, 3, 1)])
def test_a_velocity_of_the_wrong_shape_is_an_error(name, shape):
    x = jnp.zeros((4, 3))
    i = Inputs(x, 0.5, 0.2, jnp.zeros(shape), 0.5, jnp.zeros(shape))
    with pytest.raises(typing.InputError, match=rf"{function(name)}: (v|eps|x_m) has shape"):
        CASES[name].call(lambda x, s, t: x, lambda x, s, t: x, i)


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
