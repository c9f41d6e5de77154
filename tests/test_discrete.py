"""Losses of categories: zero on exact flows of two and three categories, gradients where the papers put them, on the simplex."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_cases import quick_jit
from scipy import special, stats

from flowjax import distances, exact, flowmap, typing
from flowjax.losses import discrete

pytestmark = pytest.mark.usefixtures("x64")
softmax = jax.nn.softmax
# Two categories with normal noise, three with noise about random categories; fine enough for 1e-10.
FLOWS = {
    "two": lambda: exact.categorical([0.3, 0.7], steps=512),
    "three": lambda: exact.categorical([0.2, 0.5, 0.3], centres="one_hot", noise=0.5, steps=1024),
}


@functools.cache
def flow_of(name):
    """Jitted function by function, so that the losses of a test share few programs."""
    return exact.ExactTokens(*map(jax.jit, FLOWS[name]()))


A, SMOOTHING = 0.3, 0.1


def points(categories, rows=6):
    """x [rows, 1, K] and times s > t as columns."""
    rng = np.random.default_rng(categories)
    t = jnp.asarray(rng.uniform(0.25, 0.6, (rows, 1, 1)))
    return jnp.asarray(rng.normal(size=(rows, 1, categories))), t + jnp.asarray(rng.uniform(0.05, 0.35, (rows, 1, 1))), t


def network(params, x, s, t):
    return params["w"] * jnp.roll(x, 1, -1) + jnp.sin(3 * s * x) + params["b"] * t * jnp.cos(x) * params["skew"]


def parameters(categories):
    return {"w": jnp.asarray(1.3), "b": jnp.asarray(0.7), "skew": jnp.linspace(-1.0, 1.5, categories).reshape(1, 1, -1)}


def tangents(logits, x, s, t):
    """(pi, d_t pi, D_s pi along the flow of the diagonal)."""
    pi = lambda x, s, t: softmax(logits(x, s, t))
    v = (x - pi(x, s, s)) / s
    return (
        pi(x, s, t),
        jax.jvp(lambda t: pi(x, s, t), (t,), (jnp.ones_like(t),))[1],
        jax.jvp(lambda x, s: pi(x, s, t), (x, s), (v, jnp.ones_like(s)))[1],
    )


@pytest.mark.parametrize("name", FLOWS)
def test_the_posterior_is_that_of_bayes(name):
    flow, (x, s, _) = flow_of(name), points({"two": 2, "three": 3}[name])
    K, prior = x.shape[-1], {"two": [0.3, 0.7], "three": [0.2, 0.5, 0.3]}[name]
    deviation, centres = (1.0, np.zeros((1, K))) if name == "two" else (0.5, np.eye(K))
    expected = np.zeros((len(x), K))
    for row, (point, time) in enumerate(zip(np.asarray(x)[:, 0], np.asarray(s).ravel())):
        for k in range(K):
            means = [(1 - time) * np.eye(K)[k] + time * centre for centre in centres]
            expected[row, k] = prior[k] * sum(stats.multivariate_normal(m, (deviation * time) ** 2).pdf(point) for m in means)
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(jnp.exp(flow.logits(x, s, s))[:, 0], expected, rtol=1e-11)
    np.testing.assert_allclose(flow.v(x, s)[:, 0], (np.asarray(x)[:, 0] - expected) / np.asarray(s)[:, 0], rtol=1e-10)


@pytest.mark.parametrize("name", FLOWS)
def test_identities_and_zeros_on_the_exact_flow(name):
    flow, (x, s, t) = flow_of(name), points({"two": 2, "three": 3}[name])

    m = s + A * (t - s)
    pi, dt, Ds = tangents(flow.logits, x, s, t)
    F, pi_of = flow.F(x, s, t), lambda x, s, t: softmax(flow.logits(x, s, t))
    pi_ss, pi_FF, k = pi_of(x, s, s), pi_of(F, t, t), t * (s - m) / (m * (s - t))
    bend = lambda x, s, t: 2 * (flow.V(x, s, t) - flow.v(x, s)) / (t - s)
    identities = {
        "L": pi - t * (1 - t / s) * dt - pi_FF,
        "E": t * pi + s * (s - t) * Ds - t * pi_ss,
        "S": pi - k * pi_of(x, s, m) - (1 - k) * pi_of(flow.F(x, s, m), m, t),
        "jump": F - discrete.jump(flow.logits, x, s, t),
    }
    pairs = {
        "csd": discrete.csd(flow.logits, x, s, t),
        "csd_attached": discrete.csd_attached(flow.logits, x, s, t),
        "flm_semigroup": discrete.flm_semigroup(bend, flow.v, x, s, t),
        "flm_softmax": discrete.flm_softmax(flow.logits, flow.V, x, s, t),
        "parameterisation": typing.Pair(flowmap.categorical(flow.logits)(x, s, t), flow.V(x, s, t)),
    }
    scored = {
        "dfm_esd": discrete.dfm_esd(flow.logits, x, s, t, floor=1e-9),
        "dfm_psd": discrete.dfm_psd(flow.logits, x, s, t, A),
        "on the diagonal": discrete.dfm_esd(flow.logits, x, s, s),
        "anchor": discrete.cross_entropy(flow.logits, x, s, pi_ss),
    }
    classified, energy = discrete.ecld(flow.logits, x, s, t)
    scored = {label: distances.kl(*pair) for label, pair in scored.items()}
    argument = (t + s * (s - t) * Ds / pi) / t
    for label, residual in identities.items():
        np.testing.assert_allclose(residual, 0, atol=1e-10, err_msg=label)
    for label, pair in pairs.items():
        np.testing.assert_allclose(pair.prediction, pair.target, atol=1e-10, err_msg=label)
    for label, errors in scored.items():
        np.testing.assert_allclose(errors, 0, atol=1e-10, err_msg=label)
    assert (argument > 0).all()  # of the logarithm, over t
    np.testing.assert_allclose(argument, pi_ss / pi, rtol=1e-6)
    assert (pi > 0).all() and np.allclose(pi.sum(-1), 1, atol=1e-12)
    # ECLD bounds the rule: on the exact map its parts are the two sides of the Lagrangian identity, and are not zero.
    np.testing.assert_allclose(distances.kl(*classified), special.rel_entr(pi_FF, pi).sum((1, 2)), atol=1e-10)
    np.testing.assert_allclose(t * energy.prediction, pi - pi_FF, atol=1e-10)
    assert distances.kl(*classified).mean() > 1e-3


def test_all_of_ecld_vanishes_for_data_of_one_row():
    """One category has all of the mass: pi does not depend on t."""
    x, s, t = points(3)
    logits = lambda x, s, t: jnp.log(jnp.asarray([[[0.98, 0.01, 0.01]]])) + 0 * x
    classified, energy = discrete.ecld(logits, x, s, t)
    np.testing.assert_allclose(distances.kl(*classified), 0, atol=1e-14)
    np.testing.assert_array_equal(energy.prediction, 0)


@pytest.mark.slow
def test_the_solution_is_of_order_four():
    x, s, t = points(2)
    finest = exact.categorical([0.3, 0.7], steps=512).logits(x, s, t)
    errors = [float(jnp.abs(exact.categorical([0.3, 0.7], steps=steps).logits(x, s, t) - finest).max()) for steps in (4, 8, 16)]
    assert np.polyfit(np.log([4, 8, 16]), np.log(errors), 1)[0] == pytest.approx(-4, abs=0.3)


# Gradients


def gradient(loss, *arguments):
    """Gradient of the sum of errors in the parameters."""
    return jax.grad(lambda params: jnp.sum(loss(functools.partial(network, params), *arguments)))(parameters(3))


def test_gradients_are_where_the_papers_put_them():
    x, s, t = points(3)
    x0, fixed = jax.nn.one_hot(jnp.asarray([0, 1, 2, 0, 1, 2]), 3)[:, None], functools.partial(network, parameters(3))
    l2 = functools.partial(distances.l2, reduce="sum")
    pi = lambda logits, x, s, t: softmax(logits(x, s, t))

    @quick_jit
    def run(x, s, t):
        m, r = s + A * (t - s), t / s
        F = discrete.jump(fixed, x, s, t)
        pi_FF = pi(fixed, F, t, t)
        x_m, k = discrete.jump(fixed, x, s, m), A * t / m
        mixed = k * pi(fixed, x, s, m) + (1 - k) * pi(fixed, x_m, m, t)
        p, _, Ds = tangents(fixed, x, s, t)
        solved = softmax(fixed(x, s, s) - jnp.log(jnp.maximum(t + s * (s - t) * Ds / p, 0.01 * t)))
        dF_dt = lambda logits: jax.jvp(lambda t: discrete.jump(logits, x, s, t), (t,), (jnp.ones_like(t),))[1]
        energy = lambda logits: jnp.sum(((1 - r) * tangents(logits, x, s, t)[1]) ** 2)
        cross = lambda logits, target: -jnp.sum(target * jax.nn.log_softmax(logits(x, s, t)))
        V_map, other = lambda x, s, t: jnp.sin(x) * s - t, lambda x, t: jnp.cos(x) * t
        bent = lambda residual: other(x, s) + (t - s) / 2 * residual(x, s, t)
        half = (s + t) / 2
        V_sm = other(x, s) + (half - s) / 2 * fixed(x, s, half)
        x_half = x + (half - s) * V_sm
        V_mt = other(x_half, half) + (t - half) / 2 * fixed(x_half, half, t)
        scored = {
            "cross_entropy": lambda g: distances.kl(*discrete.cross_entropy(g, x, s, x0, label_smoothing=SMOOTHING)),
            "csd": lambda g: l2(*discrete.csd(g, x, s, t)),
            "csd_attached": lambda g: l2(*discrete.csd_attached(g, x, s, t)),
            "ecld": lambda g: distances.kl(*discrete.ecld(g, x, s, t)[0]) + l2(*discrete.ecld(g, x, s, t)[1]),
            "dfm_esd": lambda g: distances.kl(*discrete.dfm_esd(g, x, s, t)),
            "dfm_psd": lambda g: distances.kl(*discrete.dfm_psd(g, x, s, t, A)),
            "flm_semigroup": lambda g: l2(*discrete.flm_semigroup(g, other, x, s, t)),
            "flm_softmax": lambda g: l2(*discrete.flm_softmax(g, V_map, x, s, t)),
        }
        read = {
            "cross_entropy": lambda g: -jnp.sum(((1 - SMOOTHING) * x0 + SMOOTHING / 3) * jax.nn.log_softmax(g(x, s, s))),
            "csd": lambda g: jnp.sum((t * dF_dt(g) + pi_FF - F) ** 2),
            "csd_attached": lambda g: jnp.sum((t * dF_dt(g) + pi_FF - discrete.jump(g, x, s, t)) ** 2),
            "ecld": lambda g: cross(g, pi_FF) + energy(g),
            "dfm_esd": lambda g: cross(g, solved),
            "dfm_psd": lambda g: cross(g, mixed),
            "flm_semigroup": lambda g: jnp.sum((s * bent(g) - s * (V_sm + V_mt) / 2) ** 2),
            "flm_softmax": lambda g: jnp.sum((pi(g, x, s, t) - (x - s * V_map(x, s, t))) ** 2),
        }
        return {name: (gradient(scored[name]), gradient(read[name])) for name in scored}

    for name, (found, expected) in run(x, s, t).items():
        for key in found:
            np.testing.assert_allclose(found[key], expected[key], rtol=1e-8, atol=1e-9, err_msg=f"{name} {key}")


def test_weights_and_jumps_at_the_ends():
    rng = np.random.default_rng(0)
    t = jnp.asarray(np.concatenate([rng.uniform(0, 1, 50), [0.0, 0.0, 1.0]]))
    a = jnp.asarray(np.concatenate([rng.uniform(0, 1, 50), [1.0, 0.0, 0.5]]))
    s = t + (1 - t) * jnp.asarray(rng.uniform(0, 1, 53))
    k = discrete.mixture_weight(s + a * (t - s), t, a)
    assert (k >= 0).all() and (k <= 1 + 1e-12).all() and np.isfinite(k).all()
    np.testing.assert_allclose(discrete.mixture_weight(s + (t - s), t, 1.0), 1)
    zero, x = jnp.zeros((1, 1)), jnp.ones((1, 2))
    np.testing.assert_array_equal(discrete.jump(lambda x, s, t: x, x, zero, zero), x)


def test_wild_networks_have_finite_errors_and_gradients():
    """The argument of the logarithm is guarded, and no time divides by zero."""
    x, _, _ = points(3)
    ends = np.array([(1.0, 0.0), (1e-4, 0.0), (0.5, 0.5), (0.0, 0.0), (1.0, 1e-7), (1e-7, 1e-8)])  # a row each
    s, t = jnp.asarray(ends.T.reshape(2, 6, 1, 1))

    def total(params):
        logits = lambda x, s, t: 30 * network(params, x, 5 * s, t)
        first, second = discrete.ecld(logits, x, s, t)
        pairs = [discrete.dfm_esd(logits, x, s, t), discrete.dfm_psd(logits, x, s, t, A), first]
        squares = [second, discrete.csd(logits, x, s, t)]
        return sum(distances.kl(*pair) for pair in pairs) + sum(distances.l2(*pair) for pair in squares)

    errors, slopes = quick_jit(lambda params: (total(params), jax.grad(lambda params: total(params).sum())(params)))(
        parameters(3)
    )
    assert np.isfinite(errors).all() and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))


def test_arguments_that_do_not_fit():
    x, s, t = points(3)
    logits = lambda x, s, t: x
    with pytest.raises(typing.InputError, match="^dfm_psd: a has shape"):
        discrete.dfm_psd(logits, x, s, t, jnp.zeros(6))
    with pytest.raises(typing.InputError, match="^cross_entropy: x0 has shape"):
        discrete.cross_entropy(logits, x, s, x[:2])
    with pytest.raises(typing.InputError, match="^csd: x has dtype int"):
        discrete.csd(logits, x.astype(int), s, t)
    with pytest.raises(typing.InputError, match="kl: reduce is \"?'?max"):
        distances.kl(x, x, reduce="max")
    with pytest.raises(typing.InputError, match="unknown centres of the noise 'hot'"):
        exact.categorical([0.5, 0.5], centres="hot")


def test_the_divergence_of_categories():
    rng = np.random.default_rng(1)
    z, p = rng.normal(size=(4, 5, 3)), rng.dirichlet(np.ones(3), (4, 5))
    expected = special.rel_entr(p, special.softmax(z, axis=-1)).sum(-1)
    np.testing.assert_allclose(distances.kl(z, p), expected.sum(1), rtol=1e-12)
    np.testing.assert_allclose(distances.kl(z, p, reduce="mean"), expected.mean(1), rtol=1e-12)
    lv = rng.normal(size=4)
    np.testing.assert_allclose(distances.kl(z, p, log_variance=lv), np.exp(-lv) * expected.sum(1) + lv, rtol=1e-12)
    one_hot = np.eye(3)[rng.integers(0, 3, (4, 5))]
    cross = -(one_hot * special.log_softmax(z, axis=-1)).sum((1, 2))
    np.testing.assert_allclose(distances.kl(z, one_hot), cross, rtol=1e-12)
