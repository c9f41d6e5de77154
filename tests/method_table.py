"""What the papers and METHODS.md say of each recipe, an independent reading of its terms, networks and batches of its tests.

A new method needs one row of ROWS.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax import losses, methods, typing
from flowjax.methods import pairs

STEP, STEPS = 30, 100  # where schedules are looked at


def make(name, **hyper):
    return methods.make(name, total_steps=STEPS, **hyper)


# These programs run once or twice: half the compilation is worth a slower program.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


# Networks and batches


def network(params, x, s, t, cond=None):
    h = jnp.tanh(params["w"] * x + s * params["b"] - t)
    if cond and "label" in cond:
        h = h + jnp.sin(cond["label"] * 1.0).reshape((-1,) + (1,) * (x.ndim - 1))
    return h * params["scale"]


PARAMS = {"w": np.float32(0.7), "b": np.float32(0.3), "scale": np.float32(1.2)}


def nets(params=PARAMS):
    """All networks that any recipe may need, all different; the trained ones have the parameters."""
    other = lambda factor: functools.partial(network, {name: factor * value for name, value in PARAMS.items()})
    velocity = lambda x, t, cond=None: jnp.cos(network(params, x, t, t, cond))
    log_variance = lambda s, t: (params["w"] * jnp.sin(3 * s) + params["b"] * t - params["scale"] * s * t).reshape(-1)
    teacher = lambda x, t, cond=None: other(0.8)(x, t, 0.5 * t, cond)
    return typing.Nets(
        V=functools.partial(network, params), ema=other(0.9), frozen=other(1.0), teacher=teacher, teacher_map=other(1.1),
        velocity=velocity, log_variance=log_variance,
    )  # fmt: skip


COUPLED = ("rectified_meanflow", "cmt")  # the data brings the noise


def batch(rows, shape=(3,), labels=True, eps=False):
    rng = np.random.default_rng(0)
    made = {"x": jnp.asarray(rng.normal(size=(rows, *shape)), jnp.float32)}
    if labels:
        made["label"] = jnp.arange(rows, dtype=jnp.int32)
    if eps:
        made["eps"] = jnp.asarray(rng.normal(size=(rows, *shape)), jnp.float32)
    return made


def with_trajectories(batch):
    """A batch with the points of a trajectory of each row; straight, so that they are on the path."""
    known = jnp.linspace(1.0, 0.0, 17)
    at = known.reshape(1, -1, *(1,) * (batch["x"].ndim - 1))
    points = (1 - at) * batch["x"][:, None] + at * batch["eps"][:, None]
    return {**batch, "trajectory": points, "times": jnp.broadcast_to(known, (len(points), 17))}


def batch_of(name, *args, **kwargs):
    """A batch without noise, but for the methods that need it."""
    made = batch(*args, **kwargs, eps=name in COUPLED)
    return with_trajectories(made) if name == "cmt" else made


# Draws of all methods, one program and one batch for nearly all tests: large enough for the statistics.
B = 24_000


@functools.cache
def drawer():
    draw = {name: make(name).draw for name in methods.METHODS}
    return quick_jit(lambda key, step, batches: {name: draw[name](key, batches[name], step) for name in draw})


@functools.cache
def drawn_at(step=STEP, seed=0):
    """{method: {term: Point}}"""
    return drawer()(jax.random.key(seed), step, {name: batch_of(name, B) for name in methods.METHODS})


def drawn_by(name, step=STEP):
    return drawn_at(step)[name]


def point_of(name, step=STEP):
    """The Point of a method's only term."""
    (point,) = drawn_by(name, step).values()
    return point


# Readings of terms: `score(nets, point) -> (pair or None, errors [rows])`


class Row(NamedTuple):
    """What the papers and METHODS.md say of a recipe.

    Attributes:
      terms: {term: (columns, score)}.
      published: constants of the paper.
      needs: the networks besides V with their constants.
      times: number of times a Point of a term other than the anchor holds.
      noise: whether it starts from noise and reads no data.
    """

    terms: dict
    published: dict
    needs: dict = {}
    times: int = 2
    noise: bool = False


def axes(r):
    return tuple(range(1, r.ndim))


def mse(pair):
    return jnp.mean((pair[0] - pair[1]) ** 2, axes(pair[0]))


def total(pair):
    return jnp.sum((pair[0] - pair[1]) ** 2, axes(pair[0]))


def scored(pair_of, error_of=lambda e, net, point: e, reduce=mse):
    """A score from the pair of a term, or a loss (arguments by name), and its error as a function of the squared error."""
    pair_of = pairs.pair(pair_of) if getattr(pair_of, "__module__", "").startswith("flowjax.losses") else pair_of

    def score(net, point):
        pair = pair_of(net, point)
        return pair, error_of(reduce(pair), net, point)

    return score


def bound(net, point):
    """V, the teacher and the auxiliary velocity with the conditioning of a point."""
    return (pairs.bind(getattr(net, name), point) for name in ("V", "teacher", "velocity"))


def power(p, c):
    return lambda e, net, point: e / (e + c) ** p


def log_variance(net, point):
    return net.log_variance(point.s, point.s if point.t is None else point.t)


def learned(e, net, point):
    return jnp.exp(-log_variance(net, point)) * e + log_variance(net, point)


def half_cauchy(e, net, point):
    return (jnp.log(jnp.exp(-log_variance(net, point)) * e + 0.01) + log_variance(net, point)) / 2


def huber(c):
    """Pseudo-Huber over the difference of the noise levels, sigma = t / (1 - t)."""

    def error(e, net, point):
        m = point.s * (1 - point.a)
        return ((e + c**2) ** 0.5 - c) / (point.s / (1 - point.s) - m / (1 - m)).reshape(-1)

    return error


def heun(teacher, x, now, after):
    """One Heun step of the teacher."""
    v = teacher(x, now)
    return (v + teacher(x + (after - now) * v, after)) / 2


def cd(net, p):
    _, teacher, _ = bound(net, p)
    return pairs.call(losses.consistency_distillation, net, p, v=heun(teacher, p.x, p.s, p.s * (1 - p.a)))


def karras(levels):
    sigma = (0.002 ** (1 / 7) + np.arange(levels) / (levels - 1) * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7
    return np.concatenate([[0.0], sigma / (1 + sigma)])


def ctm(net, p):
    """The teacher's Heun steps from level to level, until the drawn middle time."""
    (_, teacher, _), grid, m, x, now = bound(net, p), karras(18), p.s + p.a * (p.t - p.s), p.x, p.s
    for below in grid[-2::-1]:
        active = (below < now - 1e-6) & (now > m + 1e-6)
        x = jnp.where(active, x + (below - now) * heun(teacher, x, now, jnp.full_like(now, below)), x)
        now = jnp.where(active, below, now)
    return pairs.call(losses.consistency_trajectory, net, p, x_m=x, m=m)


def scm(net, p):
    """The tangent in trigonometric time, of test_published_draws, multiplied out: of V - v, and of the derivative along the path."""
    V, whole = pairs.call(losses.continuous_consistency, net, p)
    r = (p.s**2 + (1 - p.s) ** 2) ** 0.5
    g = (1 - p.s) / r * ((1 - p.s + p.a * p.s * (2 * p.s - 1)) * (V - p.v) + p.a * r**2 * (p.v - whole))
    return typing.Pair(r * V, r * V - g / (jnp.mean(g**2, axes(g), keepdims=True) ** 0.5 + 0.1))


def pid(net, p):
    """Denoised data, x - V, at a level and at the one below it; the quotient is in the noise level."""
    (V, teacher, _), grid = bound(net, p), jnp.asarray(karras(250)[1:], jnp.float32)
    index = jnp.abs(grid[None] - p.t).argmin(1)
    m, noise = grid[jnp.where(index > 0, index - 1, 1)][:, None], lambda t: t / (1 - t)
    D, D_m, F = p.x - V(p.x, 1.0, p.t), p.x - V(p.x, 1.0, m), p.x + (p.t - 1) * V(p.x, 1.0, p.t)
    return typing.Pair(D - noise(p.t) * (D - D_m) / (noise(p.t) - noise(m)), F - p.t * teacher(F, p.t))


def two_landings(net, p):
    """Where one jump and two jumps land."""
    (V, *_), m = bound(net, p), (p.s + p.t) / 2
    jump = lambda x, s, t: x + (t - s) * V(x, s, t)
    return typing.Pair(jump(p.x, p.s, p.t), jump(jump(p.x, p.s, m), m, p.t))


def near_data(e, net, p):
    return jnp.minimum(1, p.s.reshape(-1) / 0.1) ** 2 * e


def shortest_jump(net, p):
    V, *_ = bound(net, p)
    return typing.Pair(V(p.x, p.s, p.s - 1 / 128), p.v)


def soflow(net, p):
    return jax.tree.map(lambda side: side / p.a, pairs.call(losses.soflow, net, p))


def alphaflow(net, p):
    prediction, target = pairs.call(losses.alphaflow, net, p)
    return typing.Pair(prediction, jnp.clip(target, -4, 4))


def ayf_emd(net, p):
    return pairs.distilled(losses.align_your_flow_emd, warmup=0.99 * STEP / 10_000)(net, p)


def facm(net, p):
    V, teacher, _ = bound(net, p)
    v, V = teacher(p.x, p.s), V(p.x, p.s, p.s)
    e = mse(pairs.call(losses.flow_anchored, net, p, v=v))
    norms = jnp.sqrt(jnp.sum(V**2, -1) + 1e-8) * jnp.sqrt(jnp.sum(v**2, -1) + 1e-8)
    cosine = jnp.sum(V * v, -1) / norms
    jump = jnp.sin(jnp.pi * p.s / 2).reshape(-1) * e / (e + 1e-3) ** 0.5
    return None, jump + mse((V, v)) + 1 - cosine.reshape(len(v), -1).mean(1)


def correction(net, p):
    push = pairs.call(losses.freeflow_correction, net, p, r=p.t)
    x_r = (1 - p.t) * push.prediction + p.t * p.eps
    e, (_, _, velocity) = mse(push), bound(net, p)
    return None, e / (e**0.5 + 1e-6) + mse((velocity(x_r, p.t), p.eps - push.prediction))


def boot(net, p):
    return pairs.call(losses.boot, net, p, m=1 - p.a * (1 - p.t))


def cmt(net, p):
    V, *_ = bound(net, p)
    return typing.Pair(V(p.x, p.s, p.t), p.v)


def fmm(net, p):
    return None, sum(mse(pair) for pair in pairs.call(losses.flow_map_matching, net, p))


def way_back(net, p):
    """The velocity pair of flow_map_matching, whose derivative of V is stopped."""
    (V, *_), sg = bound(net, p), jax.lax.stop_gradient
    y = sg(p.x + (p.t - p.s) * V(p.x, p.s, p.t))
    dV = jax.jvp(lambda s: V(y, p.t, s), (p.s,), (jnp.ones_like(p.s),))[1]
    return typing.Pair(V(y, p.t, p.s) + (p.s - p.t) * sg(dV), p.v)


def pd_weight(e, net, p):
    return e * jnp.maximum((1 - p.s) ** 2, p.s**2).reshape(-1)


# The table

ALL, ON, OFF, HALF_ON, HALF_OFF = (0, 1, 1), (0, 3, 4), (3, 4, 4), (0, 1, 2), (1, 2, 2)
LOGIT, TRIANGLE, UNIFORM = ("sorted_pair", ("logit_normal", -0.4, 1.0)), ("uniform_triangle",), ("uniform",)
SELF = {"times": TRIANGLE, "anchor_times": UNIFORM, "diagonal": "3/4"}
RIEMANNIAN = SELF | {"p": 0.0, "c": 1e-3}
GRID = {"sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0}
MEANFLOW = {"times": LOGIT, "diagonal": "3/4", "p": 1.0, "c": 0.01, "jvp": "exact"}
TEACHER, WEIGHT = {"teacher": {}}, {"log_variance": typing.Network("LogVariance", call="times")}
LINEAR = {"log_variance": typing.Network("LinearLogVariance", call="times")}
ANCHOR, LEARNED_ANCHOR = scored(losses.flow_matching), scored(losses.flow_matching, learned, total)
TOTAL_ANCHOR = scored(losses.flow_matching, reduce=total)
SUM_ANCHOR = scored(losses.flow_matching, power(1.0, 0.01), total)
DISTILLED = scored(pairs.distilled(losses.flow_matching))


def alone(term, *reading):
    """The terms of a recipe with one, on every row."""
    return {term: (ALL, scored(*reading))}


ROWS = {
    "flow_matching": Row({"anchor": (ALL, ANCHOR)}, {"times": UNIFORM, "label_drop": 0.1}),
    "meanflow": Row(
        {"anchor": (ON, SUM_ANCHOR), "eulerian": (OFF, scored(losses.meanflow, power(1.0, 0.01), total))},
        MEANFLOW | {"label_drop": 0.1},
    ),
    "imf": Row(
        {"anchor": (HALF_ON, SUM_ANCHOR), "eulerian": (HALF_OFF, scored(losses.improved_meanflow, power(1.0, 0.01), total))},
        MEANFLOW | {"diagonal": "1/2"},
    ),
    "pmf": Row(
        {"anchor": (HALF_ON, SUM_ANCHOR), "eulerian": (HALF_OFF, scored(losses.improved_meanflow, power(1.0, 0.01), total))},
        {
            "times": ("sorted_pair", ("logit_normal", 0.8, 0.8)), "anchor_times": ("logit_normal", 0.8, 0.8), "floor": 0.05,
            "perceptual_below": 0.8, "diagonal": "1/2", "p": 1.0, "c": 0.01, "jvp": "exact",
        },
    ),
    "rectified_meanflow": Row(
        {
            "anchor": (ON, scored(losses.flow_matching, power(0.5, 0.01))),
            "eulerian": (OFF, scored(losses.meanflow, power(0.5, 0.01))),
        },
        {
            "times": ("gap_below", ("u_shaped", 4.0), ("logit_normal", -0.8, 1.0)), "anchor_times": ("u_shaped", 4.0),
            "diagonal": "3/4", "p": 0.5, "c": 0.01, "jvp": "exact",
        },
    ),
    "tvm": Row(
        {"anchor": (ALL, ANCHOR), **alone("lagrangian", losses.terminal_velocity)},
        {
            "times": ("gap_first", -0.8, 1.0, -0.4, 1.0),
            "anchor_times": ("logit_normal", -0.4, 1.0),
            "ema": 0.99, "jvp": "exact",
        },
        {"ema": 0.99},
    ),
    "soflow": Row(
        {
            "anchor": (ON, scored(losses.flow_matching, power(1.0, 0.01))),
            "eulerian": (OFF, scored(soflow, lambda e, net, p: p.a.reshape(-1) / 2 * e / (e + 0.01))),
        },
        {
            "times": ("two_sided", ("logit_normal", 0.2, 0.8), ("logit_normal", -1.0, 0.8)),
            "anchor_times": ("logit_normal", -0.2, 1.0),
            "diagonal": "3/4", "a_start": 0.1, "a_end": 0.002, "least_step": 1e-4, "p": 1.0, "c": 0.01,
        },
        times=3,
    ),
    "alphaflow": Row(
        {
            "anchor": ((0, 1, 4), scored(losses.flow_matching, power(1.0, 1e-3))),
            "eulerian": ((1, 4, 4), scored(alphaflow, lambda e, net, p: p.a.reshape(-1) * e / (e + 1e-3))),
        },
        {
            "times": LOGIT, "anchor_times": LOGIT[1], "diagonal": "1/4", "start": 0.0, "end": 1.0, "steepness": 25.0, "snap": 0.005,
            "clip": 4.0, "p": 1.0, "c": 1e-3, "jvp": "exact",
        },
        times=3,
    ),
    "dmf": Row(
        {"anchor": (ALL, scored(losses.flow_matching, half_cauchy)), "eulerian": (ALL, scored(losses.meanflow, half_cauchy))},
        {
            "times": ("sorted_sides", ("logit_normal", 0.4, 1.0), ("logit_normal", -1.2, 1.0)),
            "anchor_times": ("logit_normal", 0.0, 1.0),
            "diagonal": "both", "c": 0.01, "jvp": "exact",
        },
        LINEAR,
    ),
    "emd": Row(alone("eulerian", pairs.distilled(losses.eulerian_distillation)), {"times": TRIANGLE, "jvp": "exact"}, TEACHER),
    "esd": Row(
        {"anchor": (ON, LEARNED_ANCHOR), "eulerian": (OFF, scored(losses.eulerian_self_distillation, learned, total))},
        SELF | {"jvp": "exact"}, WEIGHT,
    ),
    "ayf_emd": Row(
        alone("eulerian", ayf_emd, lambda e, net, p: e / (e**0.5 + 0.1)),
        {"warmup": 0.99, "warmup_steps": 10_000, "c": 0.1, "jvp": "exact"}, TEACHER, 3,
    ),
    "facm": Row(
        {"eulerian": (ALL, facm)}, {"times": ("arctan_log_normal", -0.8, 1.6), "anchor": "diagonal", "p": 0.5, "c": 1e-3, "jvp": "exact"}, TEACHER, 1
    ),
    "ct": Row(alone("eulerian", losses.consistency_training), GRID | {"first_levels": 2, "last_levels": 150}, times=3),
    "ict": Row(
        alone("eulerian", losses.consistency_training, huber(0.00054 * 3**0.5), total),
        GRID | {"first_levels": 10, "last_levels": 1280, "mean": -1.1, "std": 2.0, "c": None}, times=3,
    ),
    "ect": Row(
        alone("eulerian", losses.consistency_training, huber(1e-8), total),
        {"times": ("logit_normal", -1.1, 2.0), "q": 2.0, "k": 8.0}, times=3,
    ),
    "cd": Row(
        alone("eulerian", cd), GRID | {"levels": 40, "ema": 0.95, "solver": "heun"}, TEACHER | {"ema": 0.95}, 3
    ),
    "ctm": Row(
        alone("eulerian", ctm),
        GRID | {"levels": 18, "teacher_steps": 17, "solver": "heun", "ema": 0.999}, TEACHER | {"ema": 0.999}, 3,
    ),
    "scm": Row(
        alone("eulerian", scm, learned),
        {"times": ("logit_normal", -1.0, 1.4), "warmup_steps": 10_000, "c": 0.1, "jvp": "exact"}, WEIGHT, 3,
    ),
    "lmd": Row(alone("lagrangian", losses.lagrangian_distillation), {"times": TRIANGLE, "jvp": "exact"}, TEACHER),
    "lsd": Row(
        {"anchor": (ON, LEARNED_ANCHOR), "lagrangian": (OFF, scored(losses.lagrangian_self_distillation, learned, total))},
        SELF | {"jvp": "exact"}, WEIGHT,
    ),
    "ayf_lmd": Row(alone("lagrangian", losses.align_your_flow_lmd), {"jvp": "exact"}, TEACHER),
    "freeflow": Row(
        {
            "correction": ((0, 1, 4), correction),
            "prediction": ((1, 4, 4), scored(pairs.pair(losses.freeflow_prediction, jvp=jax.jvp), power(1.0, 1e-3))),
        },
        {"correction": "1/4", "correction_c": 1e-6, "label_drop": 0.0, "jvp": "forward"},
        TEACHER | {"velocity": typing.Network(call="velocity")}, 1, True,
    ),
    "pid": Row(
        alone("lagrangian", pid), GRID | {"levels": 250, "label_drop": 0.0}, TEACHER, 1, True,
    ),
    "boot": Row(
        {
            "lagrangian": (ALL, scored(boot)),
            "anchor": (ALL, scored(pairs.distilled(losses.flow_matching), lambda e, net, p: 0.5 * e)),
        },
        {"delta": 0.04, "boundary": 0.5, "label_drop": 0.0}, TEACHER, 2, True,
    ),
    "cmt": Row(alone("lagrangian", cmt), {"times": TRIANGLE, "distance": "l2"}),
    "shortcut": Row(
        {
            "anchor": ((0, 7, 8), scored(shortest_jump)),
            "compositional": ((7, 8, 8), scored(pairs.pair(losses.shortcut, clip=4.0))),
        },
        {"sections": 128, "diagonal": "7/8", "ema": 0.999, "clip": 4.0}, {"ema": 0.999},
    ),
    "split_meanflow": Row(
        {"anchor": (HALF_ON, DISTILLED), "compositional": (HALF_OFF, scored(losses.split_meanflow))},
        {"times": LOGIT, "a": UNIFORM}, TEACHER, 3,
    ),
    "psd": Row(
        {"anchor": (ON, LEARNED_ANCHOR), "compositional": (OFF, scored(losses.progressive_self_distillation, learned, total))},
        SELF | {"a": UNIFORM}, WEIGHT, 3,
    ),
    "fmm": Row({"compositional": (ALL, fmm)}, {"first_limit": 0.05, "last_limit": 1.0, "jvp": "exact"}),
    "pfmm": Row(
        alone("compositional", losses.progressive_flow_map_matching), {"a": ("fixed", 0.5)}, {"teacher_map": {}}, 3
    ),
    # In R^n the losses of meanflow, esd, lsd, and the distance of points of psd: written with the names of those.
    "rmf": Row(
        {"anchor": (ON, TOTAL_ANCHOR), "eulerian": (OFF, scored(losses.meanflow, reduce=total))},
        RIEMANNIAN | {"tangent_clip": None, "near_data": 0.0, "jvp": "exact"},
    ),
    "lmf": Row(
        {"anchor": ((0, 1, 4), TOTAL_ANCHOR), "lagrangian": ((1, 4, 4), scored(way_back, reduce=total))},
        RIEMANNIAN | {"times": ("uniform_square",), "diagonal": "1/4", "near_data": 0.0, "jvp": "exact"},
    ),
    "gfm_esd": Row(
        {"anchor": (ON, TOTAL_ANCHOR), "eulerian": (OFF, scored(losses.eulerian_self_distillation, reduce=total))},
        RIEMANNIAN | {"jvp": "exact"},
    ),
    "gfm_lsd": Row(
        {"anchor": (ON, TOTAL_ANCHOR), "lagrangian": (OFF, scored(losses.lagrangian_self_distillation, reduce=total))},
        RIEMANNIAN | {"jvp": "exact"},
    ),
    "gfm_psd": Row(
        {"anchor": (ON, TOTAL_ANCHOR), "compositional": (OFF, scored(two_landings, near_data, total))},
        RIEMANNIAN | {"a": ("fixed", 0.5), "near_data": 0.1}, {}, 3,
    ),
    "pd": Row(alone("compositional", losses.progressive_distillation, pd_weight), {"steps": 4}, TEACHER),
}  # fmt: skip
# Differences of near numbers in float32: quotients over short times, and the tangent of scm, which its norm divides.
FINITE = {"freeflow": 0.05, "pid": 0.05, "scm": 1e-3}
COLUMNS = {name: {term: columns for term, (columns, _) in row.terms.items()} for name, row in ROWS.items()}
PUBLISHED = {name: row.published for name, row in ROWS.items()}
