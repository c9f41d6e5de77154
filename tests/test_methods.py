"""One contract for every recipe of METHODS, and what each published recipe promises on top.

A new method needs one row of ROWS; every test with `every_method` then runs on it.
"""

import functools
import inspect
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from flowjax import flowmap, losses, methods, paths, typing

# One batch for nearly all: large enough for the statistics, so that every draw is compiled once.
B = 24_000
# These programs run once or twice: half the compilation is worth a slower program.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
every_method = pytest.mark.parametrize("name", methods.METHODS)
# For tests that compile: one of each form every time, the others in the slow tests.
FORMS = ("meanflow", "imf", "soflow", "tvm", "lsd", "psd", "cd", "ctm", "freeflow", "fmm", "scm", "cmt")
each_form = pytest.mark.parametrize(
    "name", [n if n in FORMS else pytest.param(n, marks=pytest.mark.slow) for n in methods.METHODS]
)


class Bound(NamedTuple):
    """The networks of `nets()` as a loss sees them, with cond bound."""

    V: Callable
    ema: Callable
    teacher: Callable
    teacher_map: Callable
    velocity: Callable
    lv: Callable


class Row(NamedTuple):
    """What the papers and METHODS.md say of a recipe.

    Attributes:
      terms: {term: (columns, score)}; `score(net: Bound, point) -> (pair or None, errors [rows])` is an independent reading.
      published: constants of the paper.
      needs: fields of Nets with their constants.
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
    """A score from the pair of a term and its error as a function of the squared error."""

    def score(net, point):
        pair = pair_of(net, point)
        return pair, error_of(reduce(pair), net, point)

    return score


def power(p, c):
    return lambda e, net, point: e / (e + c) ** p


def learned(e, net, point):
    lv = net.lv(point.s, point.s if point.t is None else point.t)
    return jnp.exp(-lv) * e + lv


def cauchy(e, net, point):
    lv = net.lv(point.s, point.s if point.t is None else point.t)
    return jnp.log(jnp.exp(-lv) * e + 0.01) + lv


def huber(c):
    """Pseudo-Huber over the difference of the noise levels, sigma = t / (1 - t)."""

    def error(e, net, point):
        m = point.s * (1 - point.a)
        return ((e + c**2) ** 0.5 - c) / (point.s / (1 - point.s) - m / (1 - m)).reshape(-1)

    return error


def on_a(pair_of):
    """Both sides over `a`."""
    return lambda net, point: jax.tree.map(lambda side: side / point.a, pair_of(net, point))


flow = lambda net, p: losses.flow_matching(net.V, p.x, p.s, p.v)
distilled = lambda net, p: losses.flow_matching(net.V, p.x, p.s, net.teacher(p.x, p.s))
meanflow = lambda net, p: losses.meanflow(net.V, p.x, p.s, p.t, p.v)
imf = lambda net, p: losses.improved_meanflow(net.V, p.x, p.s, p.t, p.v)
ct = lambda net, p: losses.consistency_training(net.V, p.x, p.s, p.t, p.v, p.a)


def heun(net, p, x, now, after):
    """One Heun step of the teacher."""
    v = net.teacher(x, now)
    return (v + net.teacher(x + (after - now) * v, after)) / 2


def cd(net, p):
    m = p.s * (1 - p.a)
    return losses.consistency_distillation(net.V, net.ema, p.x, p.s, p.t, heun(net, p, p.x, p.s, m), p.a)


def karras(levels):
    sigma = (0.002 ** (1 / 7) + np.arange(levels) / (levels - 1) * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7
    return np.concatenate([[0.0], sigma / (1 + sigma)])


def ctm(net, p):
    """The teacher's Heun steps from level to level, until the drawn middle time."""
    grid, m, x, now = karras(18), p.s + p.a * (p.t - p.s), p.x, p.s
    for below in grid[-2::-1]:
        active = (below < now - 1e-6) & (now > m + 1e-6)
        x = jnp.where(active, x + (below - now) * heun(net, p, x, now, jnp.full_like(now, below)), x)
        now = jnp.where(active, below, now)
    return losses.consistency_trajectory(net.V, net.ema, p.x, p.s, p.t, x, m)


def scm(net, p):
    V, target = losses.continuous_consistency(net.V, p.x, p.s, p.v, warmup=p.a)
    r = (p.s**2 + (1 - p.s) ** 2) ** 0.5
    g = (1 - p.s) * r * (V - target)
    return typing.Pair(r * V, r * V - g / (jnp.mean(g**2, axes(g), keepdims=True) ** 0.5 + 0.1))


def alphaflow(net, p):
    prediction, target = losses.alphaflow(net.V, p.x, p.s, p.t, p.v, p.a)
    return typing.Pair(prediction / p.a, jnp.clip(target, -4, 4) / p.a)


def facm(net, p):
    v, V = net.teacher(p.x, p.s), net.V(p.x, 2 - p.s, p.s)
    e = mse(losses.flow_anchored(net.V, p.x, p.s, v))
    norms = jnp.sqrt(jnp.sum(V**2, -1) + 1e-8) * jnp.sqrt(jnp.sum(v**2, -1) + 1e-8)
    cosine = jnp.sum(V * v, -1) / norms
    jump = jnp.sin(jnp.pi * p.s / 2).reshape(-1) * e / (e + 1e-3) ** 0.5
    return None, jump + mse((V, v)) + 1 - cosine.reshape(len(v), -1).mean(1)


def correction(net, p):
    push = losses.freeflow_correction(net.V, net.velocity, net.teacher, p.x, p.t, p.eps)
    x_r = (1 - p.t) * push.prediction + p.t * p.eps
    e = mse(push)
    return None, e / (e**0.5 + 1e-6) + mse((net.velocity(x_r, p.t), p.eps - push.prediction))


def prediction(net, p):
    return losses.freeflow_prediction(net.V, net.teacher, p.x, p.t, jvp=jax.jvp)


def boot(net, p):
    m = 1 - p.a * (1 - p.t)
    return losses.boot(net.V, net.teacher, p.x, p.t, m)


def fmm(net, p):
    return None, sum(mse(pair) for pair in losses.flow_map_matching(net.V, p.x, p.s, p.t, p.v))


def pair_of(loss, *given):
    """A pair from a loss and the names of its networks, on the usual arguments of a two-time method."""
    return lambda net, p: loss(*(getattr(net, name) for name in given), p.x, p.s, p.t)


ALL, ON, OFF, HALF_ON, HALF_OFF = (0, 1, 1), (0, 3, 4), (3, 4, 4), (0, 1, 2), (1, 2, 2)
LOGIT, TRIANGLE, UNIFORM = ("sorted_pair", ("logit_normal", -0.4, 1.0)), ("uniform_triangle",), ("uniform",)
SELF = {"times": TRIANGLE, "anchor_times": UNIFORM, "diagonal": "3/4"}
GRID = {"sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0}
TEACHER, WEIGHT = {"teacher": {}}, {"log_variance": typing.Network("LogVariance", call="times")}
meanflow_score, imf_score = scored(meanflow, power(1.0, 0.01), total), scored(imf, power(1.0, 0.01), total)
sum_anchor = scored(flow, power(1.0, 0.01), total)
ROWS = {
    "flow_matching": Row({"anchor": (ALL, scored(flow))}, {"times": UNIFORM, "label_drop": 0.1}),
    "meanflow": Row(
        {"anchor": (ON, sum_anchor), "eulerian": (OFF, meanflow_score)},
        {"times": LOGIT, "diagonal": "3/4", "p": 1.0, "c": 0.01, "label_drop": 0.1, "jvp": "exact"},
    ),
    "imf": Row(
        {"anchor": (HALF_ON, sum_anchor), "eulerian": (HALF_OFF, imf_score)},
        {"times": LOGIT, "diagonal": "1/2", "p": 1.0, "c": 0.01, "jvp": "exact"},
    ),
    "pmf": Row(
        {"anchor": (HALF_ON, sum_anchor), "eulerian": (HALF_OFF, imf_score)},
        {"diagonal": "1/2", "p": 1.0, "c": 0.01, "jvp": "exact"},
    ),
    "rectified_meanflow": Row(
        {"anchor": (ON, sum_anchor), "eulerian": (OFF, meanflow_score)},
        {"times": LOGIT, "diagonal": "3/4", "p": 1.0, "c": 0.01, "jvp": "exact"},
    ),
    "tvm": Row(
        {
            "anchor": (ALL, scored(flow)),
            "lagrangian": (ALL, scored(lambda net, p: losses.terminal_velocity(net.V, net.ema, p.x, p.s, p.t))),
        },
        {
            "times": ("gap_first", -0.8, 1.0, -0.4, 1.0),
            "anchor_times": ("logit_normal", -0.4, 1.0),
            "ema": 0.99,
            "jvp": "exact",
        },
        {"ema": 0.99},
    ),
    "soflow": Row(
        {
            "anchor": (ON, scored(flow, power(1.0, 0.01))),
            "eulerian": (
                OFF,
                scored(
                    on_a(lambda net, p: losses.soflow(net.V, p.x, p.s, p.t, p.v, p.a)),
                    lambda e, net, p: p.a.reshape(-1) * e / (e + 0.01),
                ),
            ),
        },
        {
            "times": ("two_sided", ("logit_normal", 0.2, 0.8), ("logit_normal", -1.0, 0.8)),
            "anchor_times": ("logit_normal", -0.2, 1.0),
            "diagonal": "3/4",
            "a_start": 0.1,
            "a_end": 0.002,
            "p": 1.0,
            "c": 0.01,
        },
        times=3,
    ),
    "alphaflow": Row(
        {
            "anchor": ((0, 1, 4), scored(flow, power(1.0, 1e-3))),
            "eulerian": ((1, 4, 4), scored(alphaflow, lambda e, net, p: p.a.reshape(-1) * e / (e + 1e-3))),
        },
        {"diagonal": "1/4", "steepness": 25.0, "snap": 0.005, "clip": 4.0, "p": 1.0, "c": 1e-3, "jvp": "exact"},
        times=3,
    ),
    "dmf": Row(
        {"anchor": (HALF_ON, scored(flow, cauchy)), "eulerian": (HALF_OFF, scored(meanflow, cauchy))},
        {
            "times": ("sorted_sides", ("logit_normal", 0.4, 1.0), ("logit_normal", -1.2, 1.0)),
            "anchor_times": ("logit_normal", 0.0, 1.0),
            "diagonal": "1/2",
            "c": 0.01,
            "jvp": "exact",
        },
        WEIGHT,
    ),
    "emd": Row(
        {
            "eulerian": (
                ALL,
                scored(lambda net, p: losses.eulerian_distillation(net.V, p.x, p.s, p.t, net.teacher(p.x, p.s))),
            )
        },
        {"times": TRIANGLE, "jvp": "exact"},
        TEACHER,
    ),
    "esd": Row(
        {
            "anchor": (ON, scored(flow, learned)),
            "eulerian": (OFF, scored(pair_of(losses.eulerian_self_distillation, "V"), learned)),
        },
        SELF | {"jvp": "exact"},
        WEIGHT,
    ),
    "ayf_emd": Row(
        {
            "eulerian": (
                ALL,
                scored(
                    lambda net, p: losses.align_your_flow_emd(
                        net.V, p.x, p.s, p.t, net.teacher(p.x, p.s), warmup=0.99 * 30 / 10_000
                    ),
                    lambda e, net, p: e / (e**0.5 + 0.1),
                ),
            )
        },
        {"warmup": 0.99, "warmup_steps": 10_000, "c": 0.1, "jvp": "exact"},
        TEACHER,
        times=3,
    ),
    "facm": Row(
        {"eulerian": (ALL, facm)}, {"times": ("logit_normal", -0.8, 1.6), "p": 0.5, "c": 1e-3, "jvp": "exact"}, TEACHER, 1
    ),
    "ct": Row({"eulerian": (ALL, scored(ct))}, GRID | {"first_levels": 2, "last_levels": 150}, times=3),
    "ict": Row(
        {"eulerian": (ALL, scored(ct, huber(0.00054 * 3**0.5), total))},
        GRID | {"first_levels": 10, "last_levels": 1280, "mean": -1.1, "std": 2.0, "c": None},
        times=3,
    ),
    "ect": Row(
        {"eulerian": (ALL, scored(ct, huber(1e-8), total))}, {"times": ("logit_normal", -1.1, 2.0), "q": 2.0, "k": 8.0}, times=3
    ),
    "cd": Row(
        {"eulerian": (ALL, scored(cd))},
        GRID | {"levels": 40, "ema": 0.95, "solver": "heun"},
        TEACHER | {"ema": 0.95},
        3,
    ),
    "ctm": Row(
        {"eulerian": (ALL, scored(ctm))},
        GRID | {"levels": 18, "teacher_steps": 17, "solver": "heun", "ema": 0.999},
        TEACHER | {"ema": 0.999},
        3,
    ),
    "scm": Row(
        {"eulerian": (ALL, scored(scm, learned))},
        {"times": ("logit_normal", -1.0, 1.4), "warmup_steps": 10_000, "c": 0.1, "jvp": "exact"},
        WEIGHT,
        3,
    ),
    "lmd": Row(
        {"lagrangian": (ALL, scored(pair_of(losses.lagrangian_distillation, "V", "teacher")))},
        {"times": TRIANGLE, "jvp": "exact"},
        TEACHER,
    ),
    "lsd": Row(
        {
            "anchor": (ON, scored(flow, learned)),
            "lagrangian": (OFF, scored(pair_of(losses.lagrangian_self_distillation, "V"), learned)),
        },
        SELF | {"jvp": "exact"},
        WEIGHT,
    ),
    "ayf_lmd": Row(
        {"lagrangian": (ALL, scored(pair_of(losses.align_your_flow_lmd, "V", "teacher")))}, {"jvp": "exact"}, TEACHER
    ),
    "freeflow": Row(
        {"correction": ((0, 1, 4), correction), "prediction": ((1, 4, 4), scored(prediction, power(1.0, 1e-3)))},
        {"correction": "1/4", "label_drop": 0.0, "jvp": "forward"},
        {"teacher": {}, "velocity": typing.Network(call="velocity")},
        1,
        True,
    ),
    "pid": Row(
        {"lagrangian": (ALL, scored(lambda net, p: losses.physics_informed(net.V, net.teacher, p.x, p.t, jvp=jax.jvp)))},
        {"times": ("karras", 250), "label_drop": 0.0, "jvp": "backward"},
        TEACHER,
        1,
        True,
    ),
    "boot": Row(
        {"lagrangian": (ALL, scored(boot)), "anchor": (ALL, scored(distilled, lambda e, net, p: 0.5 * e))},
        {"delta": 0.04, "boundary": 0.5, "label_drop": 0.0},
        TEACHER,
        2,
        True,
    ),
    "cmt": Row(
        {"lagrangian": (ALL, scored(lambda net, p: typing.Pair(net.V(p.x, p.s, p.t), p.v)))},
        {"times": ("uniform_triangle",), "distance": "l2"},
    ),
    "shortcut": Row(
        {"anchor": ((0, 7, 8), scored(flow)), "compositional": ((7, 8, 8), scored(pair_of(losses.shortcut, "V", "ema")))},
        {"times": ("dyadic", 128), "diagonal": "7/8", "ema": 0.999},
        {"ema": 0.999},
    ),
    "split_meanflow": Row(
        {
            "anchor": (HALF_ON, scored(distilled)),
            "compositional": (HALF_OFF, scored(lambda net, p: losses.split_meanflow(net.V, p.x, p.s, p.t, p.a))),
        },
        {"times": LOGIT, "a": UNIFORM},
        TEACHER,
        3,
    ),
    "psd": Row(
        {
            "anchor": (ON, scored(flow, learned)),
            "compositional": (
                OFF,
                scored(lambda net, p: losses.progressive_self_distillation(net.V, p.x, p.s, p.t, p.a), learned),
            ),
        },
        SELF | {"a": UNIFORM},
        WEIGHT,
        3,
    ),
    "fmm": Row({"compositional": (ALL, fmm)}, {"first_limit": 0.05, "last_limit": 1.0, "jvp": "exact"}),
    "pfmm": Row(
        {
            "compositional": (
                ALL,
                scored(lambda net, p: losses.progressive_flow_map_matching(net.V, net.teacher_map, p.x, p.s, p.t, p.a)),
            )
        },
        {"a": ("fixed", 0.5)},
        {"teacher_map": {}},
        3,
    ),
    "pd": Row(
        {
            "compositional": (
                ALL,
                scored(
                    pair_of(losses.progressive_distillation, "V", "teacher"),
                    lambda e, net, p: e * jnp.maximum((1 - p.s) ** 2, p.s**2).reshape(-1),
                ),
            )
        },
        {"steps": 4},
        TEACHER,
    ),
}
# Their finite differences are read as derivatives: relative accuracy of float32 with the default step.
FINITE = {"freeflow": 0.05, "pid": 0.05}
COLUMNS = {name: {term: columns for term, (columns, _) in row.terms.items()} for name, row in ROWS.items()}
PUBLISHED = {name: row.published for name, row in ROWS.items()}
STEP, STEPS = 30, 100  # where schedules are looked at


def make(name, **hyper):
    return methods.make(name, total_steps=STEPS, **hyper)


def network(params, x, s, t, cond=None):
    h = jnp.tanh(params["w"] * x + s * params["b"] - t)
    if cond and "label" in cond:
        h = h + jnp.sin(cond["label"] * 1.0).reshape((-1,) + (1,) * (x.ndim - 1))
    return h * params["scale"]


PARAMS = {"w": np.float32(0.7), "b": np.float32(0.3), "scale": np.float32(1.2)}


def nets(params=PARAMS):
    """All networks that any recipe may ask for, all different; the trained ones have the parameters."""
    other = lambda factor: functools.partial(network, {name: factor * value for name, value in PARAMS.items()})
    velocity = lambda x, t, cond=None: jnp.cos(network(params, x, t, t, cond))
    log_variance = lambda s, t: (params["w"] * jnp.sin(3 * s) + params["b"] * t - params["scale"] * s * t).reshape(-1)
    teacher = lambda x, t, cond=None: other(0.8)(x, t, 0.5 * t, cond)
    return typing.Nets(
        V=functools.partial(network, params), ema=other(0.9), frozen=other(1.0), teacher=teacher, teacher_map=other(1.1),
        velocity=velocity, log_variance=log_variance,
    )  # fmt: skip


def bound(point):
    """The networks with the conditioning of a point."""
    n, cond = nets(), point.cond
    maps = {name: functools.partial(getattr(n, name), cond=cond) for name in ("V", "ema", "teacher", "teacher_map", "velocity")}
    return Bound(**maps, lv=n.log_variance)


COUPLED = ("rectified_meanflow", "cmt")  # the data brings the noise


def batch(rows=B, shape=(3,), labels=True, eps=False):
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
    """A batch without noise of its own, but for the methods that need it."""
    made = batch(*args, **kwargs, eps=name in COUPLED)
    return with_trajectories(made) if name == "cmt" else made


@functools.cache
def drawer(name, **hyper):
    return quick_jit(make(name, **hyper).draw)


@functools.cache
def drawn_by(name):
    return drawer(name)(jax.random.key(0), batch_of(name), STEP)


# The contract


def test_the_tables_of_this_file_are_complete():
    assert set(ROWS) == set(methods.METHODS)


@each_form
def test_what_a_method_learns_to_jump(name):
    own = [point for term, point in drawn_by(name).items() if term != "anchor"]
    if ROWS[name].noise:
        expected = "from noise"
    elif not own:
        expected = "none"
    elif all(point.t is None or (point.t == 0).all() for point in own):
        expected = "to data"
    else:
        expected = "grid" if len(np.unique(own[0].t)) < 10 and len(np.unique(own[0].s - own[0].t)) == 1 else "any"
    assert methods.METHODS[name].jumps == expected


@every_method
def test_terms_and_needs(name):
    method = make(name)
    assert {term.name: term.columns for term in method.terms} == COLUMNS[name]
    assert dict(method.needs) == ROWS[name].needs
    assert tuple(method.needs) == methods.METHODS[name].needs
    assert methods.rows_multiple(method) == np.lcm.reduce([n for _, _, n in COLUMNS[name].values()])


@every_method
def test_draw_is_a_function_of_the_key(name):
    draw = drawer(name)
    one, again, other = (draw(jax.random.key(seed), batch_of(name), STEP) for seed in (0, 0, 1))
    chex.assert_trees_all_equal(one, again)
    for term in COLUMNS[name]:
        differs = lambda field: (getattr(one[term], field) != getattr(other[term], field)).mean()  # noqa: B023
        assert name in COUPLED or (differs("x") > 0.99 and differs("eps") > 0.99)
        times = [field for field in "st" if getattr(one[term], field) is not None]
        assert (name, term) == ("boot", "anchor") or max(map(differs, times)) > 0.5  # coarse grids draw some times twice


@every_method
@pytest.mark.parametrize("shape", [(3,), (2, 2, 3)])
def test_shapes_of_points(name, shape):
    drawn = jax.eval_shape(drawer(name), jax.random.key(0), batch_of(name, 24, shape), 0)
    assert set(drawn) == set(COLUMNS[name])
    for term, (lo, hi, n) in COLUMNS[name].items():
        point, rows = drawn[term], 24 * (hi - lo) // n
        times = [time for time in (point.s, point.t, point.a) if time is not None]
        assert len(times) == (1 if term == "anchor" else ROWS[name].times)
        chex.assert_tree_shape_prefix(point, (rows,))
        data = [point.x, point.eps] + ([] if ROWS[name].noise else [point.v, point.x0])
        chex.assert_shape(data, (rows, *shape))
        chex.assert_shape(times, (rows,) + (1,) * len(shape))
        chex.assert_shape(point.cond["label"], (rows,))


@every_method
def test_points_are_on_the_path(name):
    for point in drawn_by(name).values():
        chex.assert_type(jax.tree.leaves(point._replace(cond=None)), jnp.float32)
        for time in (point.s, point.t, point.a):
            assert time is None or (time.min() >= 0 and time.max() <= 1)
        if ROWS[name].noise:  # the points are noise, at s = 1, and nothing of the data is there
            assert point.x0 is None and point.v is None and abs(point.x.std() - 1) < 0.05
            assert abs(np.corrcoef(point.x.ravel(), point.eps.ravel())[0, 1]) < 0.02
            continue
        np.testing.assert_allclose(point.x, (1 - point.s) * point.x0 + point.s * point.eps, atol=1e-6)
        np.testing.assert_allclose(point.v, point.eps - point.x0, atol=1e-5)


@each_form
def test_rows_are_split_as_columns_says_and_keep_the_noise_of_the_batch(name):
    rows = jnp.arange(24, dtype=jnp.float32)[:, None]
    given = {"x": rows, "label": jnp.arange(24), "eps": -rows}
    drawn = drawer(name)(jax.random.key(0), with_trajectories(given) if name == "cmt" else given, 0)
    for term, (lo, hi, n) in COLUMNS[name].items():
        expected = np.arange(24).reshape(-1, n)[:, lo:hi].reshape(-1)
        if ROWS[name].noise:
            np.testing.assert_array_equal(drawn[term].x[:, 0], -expected)
        else:
            np.testing.assert_array_equal(drawn[term].x0[:, 0], expected)
            np.testing.assert_array_equal(drawn[term].eps[:, 0], -expected)
        label = drawn[term].cond["label"]
        np.testing.assert_array_equal(label, np.where(label == -1, -1, expected))


@every_method
def test_loss_errors_and_metrics(name):
    method, drawn, expected = make(name), drawn_by(name), np.zeros(B)
    errors, metrics = quick_jit(lambda drawn: method.loss(nets(), drawn))(drawn)
    chex.assert_shape(errors, (B,))
    chex.assert_tree_all_finite((errors, metrics))
    assert set(metrics) == set(COLUMNS[name])

    @quick_jit
    def read(drawn):
        return {term: score(bound(drawn[term]), drawn[term]) for term, (_, score) in ROWS[name].terms.items()}

    for term, (pair, scored) in read(drawn).items():
        lo, hi, n = COLUMNS[name][term]
        raw = jnp.mean(scored) if pair is None else jnp.mean((pair.prediction - pair.target) ** 2)
        np.testing.assert_allclose(metrics[term], raw, rtol=FINITE.get(name, 1e-4))
        np.add.at(expected, np.arange(B).reshape(-1, n)[:, lo:hi].reshape(-1), np.asarray(scored))
    np.testing.assert_allclose(errors, expected, rtol=FINITE.get(name, 1e-4), atol=FINITE.get(name, 1e-5))


@each_form
def test_one_trace_over_the_steps(name):
    method = make(name)
    chex.clear_trace_counter()

    @quick_jit
    @chex.assert_max_traces(n=1)
    def step(params, key, batch, step):
        def loss(params):
            errors, metrics = method.loss(nets(params), method.draw(jax.random.fold_in(key, step), batch, step))
            return jnp.mean(errors), (errors, metrics)

        (value, (errors, metrics)), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return value, jnp.mean(errors), metrics, grads

    params = jax.tree.map(jnp.asarray, PARAMS)
    for i in range(3):
        value, mean, metrics, grads = step(params, jax.random.key(0), batch_of(name, 24), jnp.int32(i))
        chex.assert_tree_all_finite((value, metrics, grads))
        chex.assert_trees_all_equal_shapes_and_dtypes(grads, params)
        np.testing.assert_allclose(value, mean)
        assert all(abs(g) > 0 for g in jax.tree.leaves(grads))


@each_form
@pytest.mark.parametrize("wide", [False, True])
def test_an_absent_label_and_bfloat16_data(name, wide):
    with jax.enable_x64(wide):
        method = make(name)
        given = jax.tree.map(lambda x: x.astype(jnp.bfloat16), batch_of(name, 24, labels=False))

        def run(key):
            drawn = method.draw(key, given, jnp.int32(0))
            return drawn, method.loss(nets(), drawn)

        if wide:
            drawn, (errors, metrics) = jax.eval_shape(run, jax.random.key(0))
        else:
            drawn, (errors, metrics) = quick_jit(run)(jax.random.key(0))
            chex.assert_tree_all_finite((errors, metrics))
        assert all("label" not in point.cond for point in drawn.values())
        assert {leaf.dtype for leaf in jax.tree.leaves((errors, metrics))} == {jnp.dtype("float32")}
        for point in drawn.values():
            assert {leaf.dtype for leaf in (point.x, point.v, point.eps) if leaf is not None} == {jnp.dtype("bfloat16")}
            assert {leaf.dtype for leaf in (point.s, point.t, point.a) if leaf is not None} == {jnp.dtype("float32")}


# Independence of the draws


@every_method
def test_labels_drop_at_their_rate_and_independently_of_split_and_times(name):
    drawn, rate = drawn_by(name), PUBLISHED[name].get("label_drop", 0.1)
    dropped = {term: np.asarray(point.cond["label"]) == -1 for term, point in drawn.items()}
    if rate == 0:
        assert not any(rows.any() for rows in dropped.values())
        return
    own_rows = len(set(COLUMNS[name].values())) > 1
    counts = np.array([[d.sum(), (~d).sum()] for d in dropped.values()])
    rows = counts.sum() if own_rows else counts[0].sum()
    gone = counts[:, 0].sum() if own_rows else counts[0, 0]
    assert stats.binomtest(int(gone), int(rows), rate).pvalue > 0.01
    if own_rows:
        assert stats.chi2_contingency(counts).pvalue > 0.01
    else:
        assert all((d == next(iter(dropped.values()))).all() for d in dropped.values())
    for term, point in drawn.items():
        for time in (point.s, point.t):
            if time is not None and np.ptp(time):
                assert stats.spearmanr(dropped[term], time[:, 0]).pvalue > 0.003


@every_method
def test_times_noise_and_terms_are_independent(name):
    drawn = drawn_by(name)
    for point in drawn.values():
        for time in (point.s, point.t, point.a):
            if time is not None and np.ptp(time) > 1e-6:
                assert stats.spearmanr(time[:, 0], point.eps[:, 0]).pvalue > 0.003
    if name == "tvm":
        assert stats.spearmanr(drawn["anchor"].s[:, 0], drawn["lagrangian"].s[:, 0]).pvalue > 0.01
        np.testing.assert_array_equal(drawn["anchor"].eps, drawn["lagrangian"].eps)


@pytest.mark.parametrize("name", ["meanflow", "imf"])
def test_diagonal_rows_keep_the_source_time_of_their_pair(name):
    drawn = drawn_by(name)
    assert stats.ks_2samp(drawn["anchor"].s[:, 0], drawn["eulerian"].s[:, 0]).pvalue > 0.01


@pytest.mark.parametrize(("label_drop", "rate"), [(0.0, 0.0), (1.0, 1.0)])
def test_label_drop_at_its_ends(label_drop, rate):
    drawn = drawer("flow_matching", label_drop=label_drop)(jax.random.key(0), batch(24), 0)
    assert np.mean(drawn["anchor"].cond["label"] == -1) == rate


# The recipes of the landscape, one property each


def steps_of(name, step, **hyper):
    """The Point of a method's only term at a training step."""
    (point,) = drawer(name, **hyper)(jax.random.key(0), batch_of(name), step).values()
    return point


@pytest.mark.parametrize(("step", "levels"), [(0, 3), (STEPS // 2, 108), (STEPS, 152)])
def test_ct_has_the_published_number_of_levels(step, levels):
    # ceil(sqrt(k / K (151^2 - 4) + 4) - 1) + 1, and the data below the lowest level
    assert len(np.unique(np.asarray(steps_of("ct", step).s))) in range(levels - 2, levels + 1)


@pytest.mark.parametrize("name", ["ct", "cd", "ict"])
def test_neighbours_are_levels_of_the_karras_grid(name):
    point = steps_of(name, STEP)
    s, m = (np.asarray(t, np.float64).ravel() for t in (point.s, point.s * (1 - point.a)))
    assert (point.t == 0).all() and (m < s).all()
    levels = {"ct": None, "cd": 40, "ict": 41}[name]
    if levels is None:
        levels = int(np.ceil(np.sqrt(STEP / STEPS * (151**2 - 4) + 4) - 1)) + 1
    grid = karras(levels)
    index = np.abs(s[:, None] - grid).argmin(1)
    np.testing.assert_allclose(s, grid[index], rtol=1e-4)
    np.testing.assert_allclose(m, grid[index - 1], rtol=2e-3, atol=1e-6)


def test_ict_draws_levels_by_the_mass_of_the_log_normal():
    point, levels = steps_of("ict", STEP), 41
    sigma = (0.002 ** (1 / 7) + np.arange(levels) / (levels - 1) * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7
    mass = np.diff(stats.norm.cdf((np.log(sigma) + 1.1) / 2))
    index = np.abs(np.asarray(point.s, np.float64) - sigma / (1 + sigma)).argmin(1)
    counts = np.bincount(index, minlength=levels)[1:]
    many = mass * B / mass.sum() > 5
    expected = mass[many] / mass[many].sum() * counts[many].sum()
    assert stats.chisquare(counts[many], expected).pvalue > 0.01


@pytest.mark.parametrize("step", [0, 40, STEPS, 5 * STEPS])
def test_ect_brings_neighbours_together_in_stages(step):
    point, stage = steps_of("ect", step), min(step * 8 // STEPS, 7)
    s, m = (np.asarray(t, np.float64) for t in (point.s, point.s * (1 - point.a)))
    sigma, sigma_m = s / (1 - s), m / (1 - m)
    ratio = np.maximum(0, 1 - 2.0 ** -(stage + 1) * (1 + 8 * special.expit(-sigma)))
    np.testing.assert_allclose(sigma_m / sigma, ratio, atol=2e-3)
    assert step or (m == 0).any()


def test_ctm_draws_the_number_of_teacher_steps_in_proportion_to_it():
    point, levels = steps_of("ctm", STEP), 18
    grid = karras(levels)
    m = point.s + point.a * (point.t - point.s)
    source, target, middle = (np.abs(np.asarray(time, np.float64) - grid).argmin(1) for time in (point.s, point.t, m))
    assert (target < source).all() and (middle < source).all() and (middle >= target).all()
    longest = (source == levels) & (target == 0)
    counts = np.bincount((source - middle)[longest], minlength=levels + 1)[1 : levels + 1]
    # 18 intervals fit, of which the teacher makes at most 17
    share = np.append(np.arange(1, levels), 0) / np.arange(1, levels).sum()
    assert counts[-1] == 0 and stats.chisquare(counts[:-1], share[:-1] * counts.sum()).pvalue > 0.01


@pytest.mark.parametrize(("step", "a"), [(0, 1.0), (STEPS // 2, 0.5), (STEPS, 0.0)])
def test_alphaflow_goes_from_trajectory_flow_matching_to_meanflow(step, a):
    method = make("alphaflow", diagonal="0", clip=1e6)
    (point,) = drawer("alphaflow", diagonal="0", clip=1e6)(jax.random.key(0), batch(24), step).values()
    np.testing.assert_allclose(point.a, a, atol=1e-6)
    if a == 0.5:
        return
    net, like = bound(point), {1.0: typing.Pair(bound(point).V(point.x, point.s, point.t), point.v)}
    pair = like.get(a, None) or losses.meanflow(net.V, point.x, point.s, point.t, point.v)
    e = mse(pair)
    np.testing.assert_allclose(method.loss(nets(), {"eulerian": point})[0], e / (e + 1e-3), rtol=1e-5)


@pytest.mark.parametrize("name", ["ayf_emd", "scm"])
def test_warm_up_of_the_tangent(name):
    end = {"ayf_emd": 0.99, "scm": 1.0}[name]
    for step, factor in ((0, 0.0), (25, end / 2), (50, end), (500, end)):
        np.testing.assert_allclose(steps_of(name, step, warmup_steps=50).a, factor, atol=1e-6)
    with pytest.raises(typing.InputError, match="warmup_steps is -1"):
        make(name, warmup_steps=-1)


@pytest.mark.parametrize(("step", "limit"), [(0, 0.05), (STEPS // 2, 0.525), (STEPS, 1.0)])
def test_the_interval_of_fmm_grows_in_both_directions(step, limit):
    point = steps_of("fmm", step)
    gap = np.asarray(point.t - point.s)
    assert gap.max() == pytest.approx(limit, rel=0.05) and gap.min() == pytest.approx(-limit, rel=0.05)


def test_shortcut_jumps_are_dyadic():
    point = drawn_by("shortcut")["compositional"]
    gap = np.asarray(point.s - point.t, np.float64).ravel()
    np.testing.assert_array_equal(np.unique(gap), 2.0 ** np.arange(-6, 1))
    np.testing.assert_allclose(np.asarray(point.t, np.float64).ravel() / gap % 1, 0, atol=1e-9)
    assert stats.chisquare(np.bincount(np.log2(1 / gap).astype(int))).pvalue > 0.01


def test_boot_steps_are_as_long_as_it_says():
    point = drawn_by("boot")["lagrangian"]
    m = 1 - point.a * (1 - point.t)
    np.testing.assert_allclose(m - point.t, 0.04, atol=1e-5)
    assert (drawn_by("boot")["anchor"].s == 1).all()


def test_pd_can_go_on_from_the_stage_before():
    method = make("pd", teacher="map", steps=2)
    assert dict(method.needs) == {"teacher_map": {}}
    drawn = method.draw(jax.random.key(0), batch(24), 0)
    (p,) = drawn.values()
    np.testing.assert_array_equal(np.unique(p.s), [0.5, 1.0])
    half = lambda x, u: bound(p).teacher_map(x, u, u - 0.25)
    pair = losses.progressive_distillation(bound(p).V, half, p.x, p.s, p.t)
    weight = np.maximum((1 - p.s) ** 2, p.s**2).reshape(-1)
    np.testing.assert_allclose(method.loss(nets(), drawn)[0], mse(pair) * weight, rtol=1e-5)


def test_freeflow_and_pid_read_no_data():
    """A batch of NaN trains them all the same: only its shape is used."""
    for name in [name for name, row in ROWS.items() if row.noise]:
        given = {"x": jnp.full((24, 3), jnp.nan)}
        drawn = make(name).draw(jax.random.key(0), given, 0)
        chex.assert_tree_all_finite((drawn, make(name).loss(nets(), drawn)))


def test_nobody_learns_what_is_not_theirs():
    """The auxiliary velocity of FreeFlow learns from its own samples alone, the student not from that; leaf by leaf."""
    method, drawn = make("freeflow"), drawn_by("freeflow")

    def loss(student, auxiliary, which):
        given = nets()._replace(
            V=functools.partial(network, student),
            velocity=lambda x, t, cond=None: jnp.cos(network(auxiliary, x, t, t, cond)),
        )
        return jnp.mean(method.loss(given, {term: drawn[term] for term in drawn})[0])

    def own(auxiliary):
        p = drawn["correction"]
        x0 = flowmap.jump(functools.partial(nets().V, cond=p.cond), p.x, 1.0, 0.0)
        x_r = (1 - p.t) * x0 + p.t * p.eps
        v = jnp.cos(network(auxiliary, x_r, p.t, p.t, p.cond))
        return jnp.sum(mse((v, p.eps - x0))) / B

    params = jax.tree.map(jnp.asarray, PARAMS)
    found = quick_jit(jax.grad(lambda a: loss(params, a, "auxiliary")))(params)
    chex.assert_trees_all_close(found, quick_jit(jax.grad(own))(params), rtol=1e-4)
    # With weight 0 on the correction nothing of the auxiliary's error reaches the student.
    silent = make("freeflow", alpha=0.0)

    def student(params):
        given = nets()._replace(V=functools.partial(network, params))
        return jnp.sum(silent.loss(given, drawn)[0][::4])

    assert all(float(g) == 0 for g in jax.tree.leaves(quick_jit(jax.grad(student))(params)))


def test_a_learned_log_variance_can_be_bounded():
    free, tight = (make("lsd", log_variance_bound=bound) for bound in (None, 0.5))
    drawn = drawn_by("lsd")
    lv = np.asarray(nets().log_variance(drawn["lagrangian"].s, drawn["lagrangian"].t))
    e = mse(losses.lagrangian_self_distillation(bound(drawn["lagrangian"]).V, *drawn["lagrangian"][:3]))
    np.testing.assert_allclose(free.loss(nets(), drawn)[0][3::4], np.exp(-lv) * e + lv, rtol=1e-4, atol=1e-5)
    lv = 0.5 * np.tanh(lv / 0.5)
    np.testing.assert_allclose(tight.loss(nets(), drawn)[0][3::4], np.exp(-lv) * e + lv, rtol=1e-4, atol=1e-5)
    with pytest.raises(typing.InputError, match="log_variance_bound is -1"):
        make("lsd", log_variance_bound=-1)


@pytest.mark.parametrize("name", ["alphaflow", "ct", "ict", "ect", "fmm", "soflow"])
def test_scheduled_recipes_need_the_length_of_the_training(name):
    with pytest.raises(typing.InputError, match=rf"{name}: .*total_steps=.*config\.get_ref"):
        methods.make(name)


# The recipes


@every_method
def test_default_constants_are_the_published_ones(name):
    parameters = inspect.signature(methods.METHODS[name].recipe).parameters
    assert {key: parameters[key].default for key in PUBLISHED[name]} == PUBLISHED[name]
    assert ROWS[name].noise or name == "cmt" or parameters["path"].default == "linear"
    assert parameters["label_drop"].default == PUBLISHED[name].get("label_drop", 0.1)
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters.values())


@pytest.mark.parametrize(("name", "need"), [(name, need) for name, info in methods.METHODS.items() for need in info.needs])
def test_needs_are_asked_for(name, need):
    method = make(name)
    with pytest.raises(typing.InputError, match=rf"nets\.{need} is None: Nets\(V=\.\.\., {need}="):
        jax.eval_shape(lambda drawn: method.loss(nets()._replace(**{need: None}), drawn), drawn_by(name))


def test_what_a_method_does_not_need_may_be_absent():
    for name, info in methods.METHODS.items():
        only = typing.Nets(**{field: getattr(nets(), field) for field in ("V", *info.needs)})
        jax.eval_shape(lambda drawn, name=name, only=only: make(name).loss(only, drawn), drawn_by(name))


def test_the_decay_of_the_target_is_a_need():
    assert make("tvm", ema=0.5).needs == {"ema": 0.5}


@every_method
def test_the_docstring_names_the_paper_and_every_constant(name):
    recipe = methods.METHODS[name].recipe
    text, shared = (
        inspect.getdoc(recipe),
        inspect.getdoc(methods).replace("sigma_min, sigma_max, rho:", "sigma_min:  sigma_max:  rho:"),
    )
    assert f"arXiv {methods.METHODS[name].arxiv}" in text
    for constant in inspect.signature(recipe).parameters:
        assert f"  {constant}: " in text + shared or "Arguments as in" in text, constant
    for pair in methods.METHODS[name].pairs:
        assert "arXiv " in inspect.getdoc(pair)


@pytest.mark.parametrize(("step", "a"), [(0, 0.1), (50, (0.1 * 0.002) ** 0.5), (100, 0.002), (500, 0.002)])
def test_schedule_of_soflow(step, a):
    point = drawer("soflow")(jax.random.key(0), batch_of("soflow"), step)["eulerian"]
    np.testing.assert_allclose(point.a, np.full((B // 4, 1), a), rtol=1e-5)


def test_soflow_at_a_constant_fraction_needs_no_length():
    constant = methods.make("soflow", a_start=0.05, a_end=0.05, diagonal="0")
    np.testing.assert_allclose(quick_jit(constant.draw)(jax.random.key(0), batch(24), 7)["eulerian"].a, 0.05)


@pytest.mark.parametrize("p", [1.0, 0.5])
@pytest.mark.parametrize("step", [0, 70])
def test_error_of_soflow_is_the_published_one(p, step):
    c = 0.03
    method = make("soflow", p=p, c=c, diagonal="0")
    drawn = drawer("soflow", diagonal="0")(jax.random.key(0), batch(24), step)
    point = drawn["eulerian"]
    V = functools.partial(nets().V, cond=point.cond)
    prediction, target = losses.soflow(V, point.x, point.s, point.t, point.v, point.a)
    e, a = np.asarray(jnp.mean((prediction - target) ** 2, axis=1), np.float64), np.asarray(point.a[:, 0], np.float64)
    np.testing.assert_allclose(method.loss(nets(), drawn)[0], a ** (2 * p - 1) * e / (e + c * a**2) ** p, rtol=2e-3)


def _gradients(name, keys, **hyper):
    """Gradients [keys, 3] of the loss in the weights."""
    # p = 0.5: the published p = 1 scores every row about 1, which hides a wrong share.
    method, given = make(name, p=0.5, **hyper), batch(512, labels=False)

    def loss(params, key):
        return jnp.mean(method.loss(nets(params), method.draw(key, given, 0))[0])

    grads = quick_jit(jax.vmap(jax.grad(loss), in_axes=(None, 0)))(PARAMS, keys)
    return np.stack([np.asarray(grads[key], np.float64) for key in sorted(PARAMS)], axis=-1)


@pytest.mark.parametrize(("name", "share"), [("meanflow", 3 / 4), ("imf", 1 / 2)])
def test_the_split_gives_the_weighted_sum_of_both_terms(name, share):
    keys = jax.random.split(jax.random.key(0), 64)
    split, anchor, rest = (_gradients(name, keys, diagonal=diagonal) for diagonal in (PUBLISHED[name]["diagonal"], "1", "0"))
    difference = split - (share * anchor + (1 - share) * rest)
    spread = difference.std(0, ddof=1) / len(keys) ** 0.5
    assert (np.abs(difference.mean(0)) < 4 * spread).all()
    # The test can tell: the two terms differ by far more than the noise.
    assert (np.abs((anchor - rest).mean(0)) > 8 * spread).any()


@pytest.mark.parametrize("name", [name for name in PUBLISHED if "diagonal" in PUBLISHED[name]])
@pytest.mark.parametrize(("diagonal", "index"), [("1", 0), ("0", 1), ("4/4", 0), (0, 1), (1.0, 0)])
def test_all_or_no_rows_on_the_diagonal(name, diagonal, index):
    method, term = make(name, diagonal=diagonal), list(COLUMNS[name])[index]
    drawn = jax.eval_shape(method.draw, jax.random.key(0), batch_of(name, 5), 0)
    assert list(drawn) == [term] == [t.name for t in method.terms]
    errors, metrics = jax.eval_shape(lambda drawn: method.loss(nets(), drawn), drawn)
    chex.assert_shape(errors, (5,))
    assert list(metrics) == [term]
    assert methods.rows_multiple(method) == 1


@pytest.mark.parametrize("name", [name for name, info in methods.METHODS.items() if "both" in info.every_row.values()])
def test_both_terms_on_every_row(name):
    method, split = make(name, **methods.METHODS[name].every_row), make(name)
    drawn = jax.eval_shape(method.draw, jax.random.key(0), batch(5), 0)
    assert list(drawn) == [term.name for term in split.terms]
    assert {point.x.shape for point in drawn.values()} == {(5, 3)}


@pytest.mark.parametrize("name", [name for name in PUBLISHED if "jvp" in PUBLISHED[name]])
def test_derivative_by_name(name):
    drawn = drawn_by(name)
    drawn = jax.tree.map(lambda leaf: leaf[:96], drawn)
    small = lambda jvp: make(name, jvp=jvp, **methods.METHODS[name].every_row)

    @quick_jit
    def run(drawn):
        return [small(jvp).loss(nets(), drawn)[1] for jvp in ("exact", jax.jvp, "central", "forward")]

    exact, same, central, forward = run({term.name: drawn[term.name] for term in small("exact").terms})
    chex.assert_trees_all_equal(exact, same)
    chex.assert_trees_all_close(exact, central, rtol=5e-3)
    chex.assert_trees_all_close(exact, forward, rtol=5e-2)
    assert name == "alphaflow" or any(forward[term] != exact[term] for term in exact)  # a > 0: no derivative is taken
    with pytest.raises(typing.InputError, match="unknown derivative 'eaxct'"):
        make(name, jvp="eaxct")


@pytest.mark.parametrize("path", ["trigonometric", paths.Path(lambda t: (1 - t) ** 2, lambda t: t)])
def test_another_path(path):
    point = drawer("flow_matching", path=path)(jax.random.key(0), batch(24), 0)["anchor"]
    own = paths.path_from_name(path)
    np.testing.assert_allclose(point.x, own.alpha(point.s) * point.x0 + own.sigma(point.s) * point.eps, atol=1e-5)


# Errors


@pytest.mark.parametrize(("wrong", "near"), [("meanflw", "meanflow"), ("Soflow", "soflow"), ("flow-matching", "flow_matching")])
def test_unknown_method_names_the_near_one(wrong, near):
    with pytest.raises(typing.InputError, match=f"'{wrong}'.*did you mean .*{near}") as error:
        methods.make(wrong)
    assert all(name in str(error.value) for name in methods.METHODS)


def test_unknown_method_without_a_near_name():
    with pytest.raises(typing.InputError, match="unknown method 'zzzz'") as error:
        methods.make("zzzz")
    assert "mean" not in str(error.value).replace("meanflow", "")


@every_method
def test_unknown_constant(name):
    with pytest.raises(typing.InputError, match=f"'{name}'.*'lable_drop'.*label_drop"):
        make(name, lable_drop=0.1)


@pytest.mark.parametrize(
    ("name", "hyper", "message"),
    [
        ("meanflow", {"diagonal": "3/2"}, "diagonal is '3/2'"),
        ("meanflow", {"diagonal": "-1/4"}, "diagonal is '-1/4'"),
        ("imf", {"diagonal": "half"}, "diagonal is 'half'"),
        ("soflow", {"diagonal": "1/0"}, "diagonal is '1/0'"),
        ("soflow", {"diagonal": None}, "diagonal is None"),
        ("meanflow", {"path": "liner"}, "unknown path 'liner'"),
        ("tvm", {"label_drop": 1.5}, "label_drop is 1.5"),
        ("tvm", {"times": ("gap_frist",)}, "gap_first"),
        ("flow_matching", {"times": "uniform"}, "a time sampler is a tuple"),
        ("cd", {"solver": "hoin"}, "unknown solver 'hoin'.*heun"),
        ("ct", {"distance": "l3"}, "unknown distance 'l3'.*l2"),
        ("pd", {"steps": 0}, "steps is 0"),
        ("pd", {"teacher": "mop"}, "unknown teacher of pd 'mop'.*map"),
        ("shortcut", {"times": ("dyadic", 100)}, "sections is 100"),
        ("lsd", {"diagonal": "bot"}, "diagonal is 'bot'.*\"both\""),
    ],
)
def test_wrong_constants(name, hyper, message):
    with pytest.raises(typing.InputError, match=message):
        make(name, **hyper)


@pytest.mark.parametrize("name", [name for name, columns in COLUMNS.items() if set(columns.values()) != {ALL}])
def test_a_batch_that_does_not_split(name):
    with pytest.raises(typing.InputError, match="a batch of 7 rows .* use a multiple of"):
        jax.eval_shape(make(name).draw, jax.random.key(0), batch_of(name, 7), 0)


@pytest.mark.parametrize(
    ("name", "hyper"),
    [
        ("meanflow", {"times": ("uniform",), "diagonal": "1"}),
        ("meanflow", {"times": ("logit_normal", 0.0, 1.0), "diagonal": "0"}),
        ("flow_matching", {"times": ("uniform_triangle",)}),
    ],
)
def test_a_sampler_of_the_wrong_number_of_times(name, hyper):
    """A sampler of one time where a pair is wanted, or the other way, would draw one time for all rows."""
    with pytest.raises(typing.InputError):
        jax.eval_shape(make(name, **hyper).draw, jax.random.key(0), batch(24), 0)
