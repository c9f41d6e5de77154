"""Every pair of flowjax.losses written a second time, as in its paper, and random networks on which both must agree.

Derivatives here are full Jacobians of one row instead of a jvp, and m, x_m and F are written out: what the library does with
`jax.jvp` and `flowjax.flowmap` is compared with an independent reading.
"""

import functools
import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax import losses

# Every program here runs once or twice: half the compilation is worth a slower program.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


# Random networks and points


class Inputs(NamedTuple):
    """All arrays that a loss may take: points, times, velocity, fraction, and u: other points, a tangent or noise."""

    x: jax.Array
    s: jax.Array
    t: jax.Array
    v: jax.Array
    a: jax.Array
    u: jax.Array


def inputs(shape=(3,), rows=12, seed=0):
    """Random points with both time directions."""
    rng = np.random.default_rng(seed)
    time = lambda: jnp.asarray(rng.uniform(0.05, 0.95, (rows,) + (1,) * len(shape)))
    normal = lambda: jnp.asarray(rng.normal(size=(rows, *shape)))
    i = Inputs(normal(), time(), time(), normal(), time(), normal())
    assert (i.s > i.t).any() and (i.s < i.t).any()
    return i


def at(i, **times):
    """The inputs with other times, each broadcast to a column."""
    return i._replace(**{name: jnp.broadcast_to(jnp.asarray(time, i.s.dtype), i.s.shape) for name, time in times.items()})


def weights(seed, size, width=16):
    """Parameters of `network`, for x [B, size]."""
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


@jax.jit  # traced once for all calls within a program
def network(params, x, s, t):
    """A smooth function that is symmetric in nothing; x [B, D], times that broadcast to [B, 1]."""
    s, t = jnp.broadcast_to(s, (len(x), 1)), jnp.broadcast_to(t, (len(x), 1))
    h = jnp.tanh(x @ params["x"] + s * params["s"] + t**2 * params["t"] + s * t * params["st"])
    return h @ params["out"] + jnp.cos(s - 2 * t) * (x @ params["skip"])


def smooth(seed, size=3):
    """`V(x, s, t)`, a network with random weights."""
    return functools.partial(network, weights(seed, size))


def partials(V, i):
    """Partial derivatives of V at (x, s, t) by Jacobians: `d("s")`, `d("t")`, and `d("x", along)`, the one along a tangent."""
    row = lambda x, s, t: V(x[None], s[None], t[None])[0]
    J_x, J_s, J_t = jax.vmap(jax.jacrev(row, argnums=(0, 1, 2)))(i.x, i.s, i.t)
    table = {"s": J_s[..., 0], "t": J_t[..., 0]}
    return lambda name, along=None: jnp.einsum("bij,bj->bi", J_x, along) if name == "x" else table[name]


# What equations share


def middle(i):
    return i.s + i.a * (i.t - i.s)


def jump(V, x, s, t):
    return x + (t - s) * V(x, s, t)


def teacher(W):
    """An instantaneous velocity, the diagonal of W."""
    return lambda x, t: W(x, t, t)


def arguments(V, W, i):
    """What a positional argument of a case stands for; W is the second network: a target, a teacher, frozen weights."""
    return i._asdict() | {
        "V": V,
        "W": W,
        "heads": lambda x, s, t: (V(x, s, t), V(x, s, s)),
        "velocity": teacher(V),
        "teacher": teacher(W),
        "m": middle(i),
        "before_t": i.t + i.a * (1 - i.t),
    }


class Case(NamedTuple):
    """A pair as called, as read in the papers, and the tangents in theta that the method wants of V + theta phi.

    Attributes:
      call: names of the positional arguments, in order.
      read: `(V, W, d, i) -> (prediction, target)`, with the partial derivatives d of V.
      tangent: `(phi, d, i) -> tangent of the prediction` in theta, with the partial derivatives d of phi; that of the target is 0.
        None: it is the derivative of `read`, which stops what the method stops, for weights of W that do not move.
      free: with a tangent of None, whether the target is not stopped either.
      side: which of two pairs.
      keywords: `(V, i) -> keyword arguments`; those of `pair` replace them.
    """

    call: str
    read: Callable
    tangent: Callable | None
    free: bool = False
    side: int | None = None
    keywords: Callable = lambda V, i: {}

    def pair(self, name, V, W, i, **keywords):
        values = arguments(V, W, i)
        positional = (values[key] for key in self.call.split())
        pair = getattr(losses, function(name))(*positional, **(self.keywords(V, i) | keywords))
        return pair if self.side is None else pair[self.side]


def two_legs(V, W, i):
    """One leg along v, the other with W."""
    return V(i.x, i.s, i.t), i.a * i.v + (1 - i.a) * W(i.x + i.a * (i.t - i.s) * i.v, (1 - i.a) * i.s + i.a * i.t, i.t)


def two_jumps(V, W, i):
    m, x_m = middle(i), jump(W, i.x, i.s, middle(i))
    return V(i.x, i.s, i.t), i.a * W(i.x, i.s, m) + (1 - i.a) * W(x_m, m, i.t)


def neighbours(V, W, i):
    return jump(V, i.x, i.s, i.t), jump(W, i.x + (middle(i) - i.s) * i.v, middle(i), i.t)


def read_meanflow(V, d, i, warmup=1.0):
    return V(i.x, i.s, i.t), i.v + warmup * (i.t - i.s) * (d("x", i.v) + d("s"))


def read_improved(V, d, i, tangent):
    return V(i.x, i.s, i.t) - (i.t - i.s) * (d("x", tangent) + d("s")), i.v


def read_at_data(V, i, warmup):
    i = at(i, t=0.0)
    return read_meanflow(V, partials(V, i), i, warmup)


def read_flow_anchored(V, W, d, i):
    V_s0, right = read_at_data(V, i, 1.0)
    return V_s0, V_s0 - (1 - jnp.sqrt(1 - i.s)) * jnp.minimum(jnp.maximum(V_s0 - right, -1), 1)


def read_eulerian_self_distillation(V, W, d, i):
    u = V(i.x, i.s, i.s)
    return (i.t - i.s) * d("s") - V(i.x, i.s, i.t) + u + (i.t - i.s) * d("x", u), 0 * i.x


def d_t_F(V, d, i):
    return V(i.x, i.s, i.t) + (i.t - i.s) * d("t")


def landing(V, W, i):
    """The velocity of W where V lands."""
    return W(jump(V, i.x, i.s, i.t), i.t, i.t)


def read_freeflow_prediction(V, W, d, i):
    i = at(i, s=1.0)
    return V(i.x, i.s, i.t), landing(V, W, i) + (1 - i.t) * partials(V, i)("t")


def read_freeflow_correction(V, W, d, i):
    F = i.x - V(i.x, 1.0, 0.0)
    x_r = (1 - i.a) * F + i.a * i.u
    return F, F + V(x_r, i.a, i.a) - W(x_r, i.a, i.a)


def read_physics_informed(V, W, d, i):
    i = at(i, s=1.0)
    return d_t_F(V, partials(V, i), i), landing(V, W, i)


def read_boot(V, W, d, i):
    m = i.t + i.a * (1 - i.t)
    V_1m = V(i.x, 1.0, m)
    x_t = i.x + (m - 1) * V_1m + (i.t - m) * W(i.x + (m - 1) * V_1m, m, m)  # an Euler step of the teacher from F(x, 1, m)
    return V(i.x, 1.0, i.t), (x_t - i.x) / (i.t - 1)


def read_round_trip(V, W, d, i):
    y = jump(V, i.x, i.s, i.t)
    back = i._replace(x=y, s=i.t, t=i.s)
    return (V(y, i.t, i.s) + (i.s - i.t) * partials(V, back)("t"), i.v), (jump(V, y, i.t, i.s), i.x)


def read_lagrangian_meanflow(V, W, d, i):
    """Its derivative in the end is stopped, and so is where the first jump lands."""
    y = jax.lax.stop_gradient(jump(V, i.x, i.s, i.t))
    back = partials(V, i._replace(x=y, s=i.t, t=i.s))
    return V(y, i.t, i.s) + (i.s - i.t) * jax.lax.stop_gradient(back("t")), i.v


def read_progressive_distillation(V, W, d, i):
    m = (i.s + i.t) / 2
    half = lambda x, s, t: x + (t - s) * W(x, s, s)
    return V(i.x, i.s, i.t), (half(half(i.x, i.s, m), m, i.t) - i.x) / (i.t - i.s)


plain = lambda phi, d, i: phi(i.x, i.s, i.t)
jumped = lambda phi, d, i: (i.t - i.s) * phi(i.x, i.s, i.t)
on_diagonal = lambda phi, d, i: phi(i.x, i.s, i.s)
at_data = lambda phi, d, i: phi(i.x, i.s, 0.0)
at_noise = lambda phi, d, i: phi(i.x, 1.0, i.t)
sine = lambda V, i: jnp.sin(V(i.x, i.t, i.s))  # of the network itself: no gradient may pass through it
warm = lambda V, i: {"warmup": 0.7}
exactly = lambda V, i: {"jvp": jax.jvp}

CASES = {
    "flow_matching": Case("V x s v", lambda V, W, d, i: (V(i.x, i.s, i.s), i.v), on_diagonal),
    "meanflow": Case("V x s t v", lambda V, W, d, i: read_meanflow(V, d, i), plain),
    "improved_meanflow": Case("V x s t v", lambda V, W, d, i: read_improved(V, d, i, V(i.x, i.s, i.s)), plain),
    "improved_meanflow_with_tangent": Case(
        "V x s t v",
        lambda V, W, d, i: read_improved(V, d, i, sine(V, i)),
        plain,
        keywords=lambda V, i: {"v_tangent": sine(V, i)},
    ),
    "improved_meanflow_two_heads_average": Case(
        "heads x s t v", lambda V, W, d, i: read_improved(V, d, i, V(i.x, i.s, i.s)), plain, side=0
    ),
    "improved_meanflow_two_heads_velocity": Case(
        "heads x s t v", lambda V, W, d, i: (V(i.x, i.s, i.s), i.v), on_diagonal, side=1
    ),
    "soflow": Case("V x s t v a", lambda V, W, d, i: two_legs(V, V, i), plain),
    "alphaflow": Case("V x s t v a", lambda V, W, d, i: two_legs(V, V, i), plain),
    "consistency_training": Case("V x s t v a", lambda V, W, d, i: neighbours(V, V, i), jumped),
    "consistency_distillation": Case("V W x s t v a", lambda V, W, d, i: neighbours(V, W, i), jumped),
    "consistency_trajectory": Case(
        "V W x s t u m",
        lambda V, W, d, i: tuple(jump(W, y, i.t, 0.0) for y in (jump(V, i.x, i.s, i.t), jump(V, i.u, middle(i), i.t))),
        None,
    ),
    "continuous_consistency": Case("V x s v", lambda V, W, d, i: read_at_data(V, i, 0.7), at_data, keywords=warm),
    "eulerian_distillation": Case(
        "V x s t v",
        lambda V, W, d, i: (i.v - V(i.x, i.s, i.t) + (i.t - i.s) * (d("x", i.v) + d("s")), 0 * i.x),
        lambda phi, d, i: -phi(i.x, i.s, i.t) + (i.t - i.s) * (d("x", i.v) + d("s")),
    ),
    "eulerian_self_distillation": Case(
        "V x s t", read_eulerian_self_distillation, lambda phi, d, i: (i.t - i.s) * d("s") - phi(i.x, i.s, i.t)
    ),
    "align_your_flow_emd": Case("V x s t v", lambda V, W, d, i: read_meanflow(V, d, i, 0.7), plain, keywords=warm),
    "flow_anchored": Case("V x s v", read_flow_anchored, at_data),
    "lagrangian_distillation": Case("V teacher x s t", lambda V, W, d, i: (d_t_F(V, d, i), landing(V, W, i)), None, free=True),
    "lagrangian_self_distillation": Case("V x s t", lambda V, W, d, i: (d_t_F(V, d, i), landing(V, V, i)), d_t_F),
    "align_your_flow_lmd": Case(
        "V teacher x s t", lambda V, W, d, i: (V(i.x, i.s, i.t), landing(V, W, i) - (i.t - i.s) * d("t")), plain
    ),
    "terminal_velocity": Case("V W x s t", lambda V, W, d, i: (d_t_F(V, d, i), landing(V, W, i)), d_t_F),
    "freeflow_prediction": Case("V teacher x t", read_freeflow_prediction, at_noise, keywords=exactly),
    "freeflow_correction": Case("V velocity teacher x a u", read_freeflow_correction, lambda phi, d, i: -phi(i.x, 1.0, 0.0)),
    "physics_informed": Case(
        "V teacher x t",
        read_physics_informed,
        lambda phi, d, i: d_t_F(phi, partials(phi, at(i, s=1.0)), at(i, s=1.0)),
        keywords=exactly,
    ),
    "boot": Case("V teacher x t before_t", read_boot, at_noise),
    "consistency_mid_training": Case("V x s t u", lambda V, W, d, i: (V(i.x, i.s, i.t), (i.u - i.x) / (i.t - i.s)), plain),
    "shortcut": Case("V W x s t", lambda V, W, d, i: two_jumps(V, W, at(i, a=0.5)), plain),
    "split_meanflow": Case("V x s t a", lambda V, W, d, i: two_jumps(V, V, i), plain),
    "progressive_self_distillation": Case("V x s t a", lambda V, W, d, i: two_jumps(V, V, i), plain),
    "flow_map_matching_velocity": Case("V x s t v", lambda V, W, d, i: read_round_trip(V, W, d, i)[0], None, side=0),
    "flow_map_matching_round_trip": Case("V x s t v", lambda V, W, d, i: read_round_trip(V, W, d, i)[1], None, side=1),
    "progressive_flow_map_matching": Case(
        "V W x s t a",
        lambda V, W, d, i: (jump(V, i.x, i.s, i.t), jump(W, jump(W, i.x, i.s, middle(i)), middle(i), i.t)),
        jumped,
    ),
    "progressive_distillation": Case("V teacher x s t", read_progressive_distillation, plain),
}
# In R^n they are the losses of the same name without the prefix, or read as these.
CASES |= {
    f"riemannian_{name}": CASES[name]
    for name in (
        "flow_matching", "meanflow", "eulerian_distillation", "eulerian_self_distillation", "lagrangian_distillation",
        "lagrangian_self_distillation", "split_meanflow",
    )
} | {
    "riemannian_lagrangian_meanflow": Case("V x s t v", read_lagrangian_meanflow, None),
    "riemannian_progressive_self_distillation": CASES["progressive_flow_map_matching"]._replace(
        call="V x s t a",
        read=lambda V, W, d, i: (jump(V, i.x, i.s, i.t), jump(V, jump(V, i.x, i.s, middle(i)), middle(i), i.t)),
    )
}  # fmt: skip
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


def pair(name, V, W, i, **keywords):
    """The pair of a case, by the library."""
    return CASES[name].pair(name, V, W, i, **keywords)


def residual(pair):
    return pair.prediction - pair.target


def that_take(*names):
    """The cases whose function has a parameter of one of these names."""
    return [case for case in CASES if set(names) & set(inspect.signature(getattr(losses, function(case))).parameters)]
