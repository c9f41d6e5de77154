"""Every pair of losses: zero on exact flows, values, gradients where they belong, unbiasedness, and how losses are documented."""

import ast
import collections
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_cases import (
    CASES,
    at,
    function,
    inputs,
    jump,
    middle,
    network,
    pair,
    partials,
    quick_jit,
    residual,
    smooth,
    that_take,
    weights,
)

from flowjax import exact, losses, typing

# Zero on an exact flow up to a power of the length of a finite step.
FINITE = ["soflow", "alphaflow", "consistency_training", "consistency_distillation", "progressive_distillation", "boot"]
EXACT = [name for name in CASES if name not in (*FINITE, "improved_meanflow_with_tangent")]
# What the identity needs besides: a derivative that is not warmed up to vanish, a point of the exact trajectory.
WARM = {
    "consistency_mid_training": lambda V, i: losses.consistency_mid_training(V, i.x, i.s, i.t, jump(V, i.x, i.s, i.t)),
    "continuous_consistency": lambda V, i: losses.continuous_consistency(V, i.x, i.s, i.v),
    "align_your_flow_emd": lambda V, i: losses.align_your_flow_emd(V, i.x, i.s, i.t, i.v),
}
# A bisection, whose derivatives take long to compile; "scalar" stands for it.
mixture = pytest.param("mixture", marks=pytest.mark.slow)


def test_the_table_has_every_pair():
    assert set(losses.__all__) == {function(name) for name in CASES}


def test_no_line_of_a_docstring_stands_three_times():
    count = collections.Counter()
    for path in pathlib.Path(losses.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.FunctionDef):
                count.update(line.strip() for line in (ast.get_docstring(node) or "").splitlines())
    headings = ("", "Args:", "Returns:", "Raises:", "Example:")
    assert [line for line, times in count.items() if times > 2 and line not in headings] == []


# 1. Exact flows


def riccati(c=0.2):
    """The flow of dx/dt = 2 c t x^2, curved in x and in time: an identity that holds on every flow holds on this one."""
    V = lambda x, s, t: c * (t + s) * x**2 / (1 - c * (t**2 - s**2) * x)
    return exact.ExactFlow(lambda x, s, t: x + (t - s) * V(x, s, t), V, lambda x, t: V(x, t, t), lambda x, t: 4 * c * t * x)


@functools.cache
def exact_flow(kind):
    if kind in ("scalar", "mixture"):
        return riccati() if kind == "scalar" else exact.mixture([0.3, 0.7], [-1.0, 1.0], [0.4, 0.6]), ()
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
    """The exact V, and points with the marginal velocity, u the point of the trajectory at the middle time."""
    flow, shape = exact_flow(kind)
    V, v, i = compiled(flow.V), compiled(flow.v), inputs(shape)
    return V, i._replace(v=v(i.x, i.s), u=jump(V, i.x, i.s, middle(i)))


def exact_pair(name, V, i):
    if name == "tangent":
        return losses.improved_meanflow(V, i.x, i.s, i.t, i.v, v_tangent=i.v)
    return WARM[name](V, i) if name in WARM else pair(name, V, V, i)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", ["scalar", "points", "images", mixture])
def test_exact_flows_have_no_residual(kind):
    V, i = exact_inputs(kind)
    for name in [*EXACT, "tangent"]:
        prediction, target = exact_pair(name, V, i)
        assert prediction.shape == target.shape == i.x.shape, name
        np.testing.assert_allclose(prediction - target, 0.0, atol=1e-9, err_msg=name)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", ["scalar", "points", "images", mixture])
def test_finite_steps_on_exact_flows_fall_at_their_order(kind):
    V, i = exact_inputs(kind)
    fractions = (1e-3, 2e-3, 4e-3, 8e-3)
    for name in FINITE:
        two_half_steps = name == "progressive_distillation"
        steps = [i._replace(t=i.s + a * (i.t - i.s)) if two_half_steps else at(i, a=a) for a in fractions]
        sizes = [float(jnp.abs(residual(pair(name, V, V, j))).max()) for j in steps]
        order = np.polyfit(np.log(fractions), np.log(sizes), 1)[0]
        # Two Euler half steps miss by the square of their length, and their mean velocity by the length itself.
        assert abs(order - (1 if two_half_steps else 2)) < 0.05, (name, order)
        if name not in ("progressive_distillation", "boot"):
            # Along the chord to the middle point instead of the tangent the rule is the semigroup: exact for every a.
            chord = i._replace(v=V(i.x, i.s, middle(i)))
            np.testing.assert_allclose(residual(pair(name, V, V, chord)), 0.0, atol=1e-9, err_msg=name)


# 2. Values and gradients on a random smooth network


@pytest.mark.usefixtures("x64")
def test_values_are_the_equations():
    V, W = smooth(1), smooth(2)

    @quick_jit
    def run(i):
        d = partials(V, i)
        return {name: (pair(name, V, W, i), case.read(V, W, d, i)) for name, case in CASES.items()}

    for name, (sides, read) in run(inputs()).items():
        assert isinstance(sides, typing.Pair), name
        np.testing.assert_allclose(sides.prediction, read[0], rtol=1e-10, atol=1e-11, err_msg=name)
        np.testing.assert_allclose(sides.target, read[1], rtol=1e-10, atol=1e-11, err_msg=name)


def second_networks(name):
    """What stands for W: weights that do not move where nothing is stopped, otherwise networks that all depend on theta."""
    if CASES[name].tangent is None:
        return ["still"]
    return ["same", "other"] if name in that_take("V_target", "V_teacher", "teacher") else ["same"]


@pytest.mark.usefixtures("x64")
def test_gradients_are_where_they_belong():
    V0, W0, phi, i = smooth(1), smooth(2), smooth(3), inputs()
    cases = [(name, other) for name in CASES for other in second_networks(name)]

    def nets(theta, other):
        V = lambda x, s, t: V0(x, s, t) + theta * phi(x, s, t)
        return V, {"same": V, "other": lambda x, s, t: jnp.sin(V(x, s, t)), "still": W0}[other]

    @quick_jit
    def run(theta, i):
        d_phi, results = partials(phi, i), []
        for name, other in cases:
            case = CASES[name]
            sides = lambda theta, name=name, other=other: tuple(pair(name, *nets(theta, other), i))
            reading = lambda theta, case=case: tuple(case.read(*nets(theta, "still"), partials(nets(theta, "still")[0], i), i))
            expected = (case.tangent(phi, d_phi, i), 0) if case.tangent else jax.jvp(reading, (theta,), (1.0,))[1]
            pull = jax.vjp(sides, theta)[1]
            backward = pull((i.u, 0 * i.u))[0], pull((0 * i.u, i.u))[0]
            results.append((jax.jvp(sides, (theta,), (1.0,))[1], backward, expected))
        return results

    for theta in (0.0, 0.7):
        for (name, _), (forward, backward, expected) in zip(cases, run(theta, i)):
            np.testing.assert_allclose(forward[0], expected[0], rtol=1e-9, atol=1e-10, err_msg=name)
            np.testing.assert_allclose(backward[0], jnp.sum(i.u * expected[0]), rtol=1e-9, err_msg=name)
            if CASES[name].free:
                assert np.abs(expected[1]).max() > 0.01, name
                np.testing.assert_allclose(forward[1], expected[1], rtol=1e-9, atol=1e-10, err_msg=name)
                np.testing.assert_allclose(backward[1], jnp.sum(i.u * expected[1]), rtol=1e-9, err_msg=name)
            else:
                np.testing.assert_array_equal(forward[1], 0.0, err_msg=name)
                assert backward[1] == 0.0, name


@pytest.mark.usefixtures("x64")
def test_the_inputs_reach_both_sides_of_the_clip():
    V, i = smooth(1), inputs()
    R = jnp.abs(residual(losses.continuous_consistency(V, i.x, i.s, i.v)))
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


UNBIASED = [
    "flow_matching",
    "meanflow",
    "improved_meanflow",
    "improved_meanflow_with_tangent",
    "improved_meanflow_two_heads_average",
    "improved_meanflow_two_heads_velocity",
    "continuous_consistency",
    "flow_map_matching_velocity",
]


@pytest.mark.usefixtures("x64")
def test_conditional_velocities_give_the_marginal_gradient():
    conditional, marginal, w = conditional_and_marginal()
    params = weights(4, 1)

    def loss(params, name, i, a):
        V = functools.partial(network, params)
        return jnp.sum(w * jnp.sum(residual(pair(name, V, V, i._replace(a=jnp.full_like(i.s, a)))) ** 2, axis=1)) / a

    @quick_jit
    def run(i, a):
        return {name: jax.grad(loss)(params, name, i, a) for name in [*UNBIASED, "eulerian_distillation", "soflow"]}

    def biases(a):
        """Greatest difference between the gradients with conditional and marginal velocities, and size of the latter."""
        gradients = (
            {name: jnp.concatenate([leaf.ravel() for leaf in g.values()]) for name, g in run(i, a).items()}
            for i in (conditional, marginal)
        )
        return jax.tree.map(lambda one, other: (jnp.abs(one - other).max(), jnp.abs(other).max()), *gradients)

    at_once = biases(1.0)
    for name in UNBIASED:
        difference, size = at_once[name]
        assert difference < 1e-9 * size, name
    # Without a stop-gradient the loss is quadratic in the velocity; SoFlow's bias is of the order of a.
    difference, size = at_once["eulerian_distillation"]
    assert difference > 0.01 * size
    differences = [biases(a)["soflow"][0] for a in (0.2, 0.1, 1e-3, 5e-4)]
    assert differences[0] > 1e-2
    assert differences[2] / differences[3] == pytest.approx(2.0, abs=0.05)
