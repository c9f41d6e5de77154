"""Variational Flow Maps: the bound is stationary at the exact posterior of the noise, and a map with its adapter samples what fits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import rows, small

from flowjax import data, exact, flowmap, inverse, losses, methods, samplers, training, typing
from flowjax.losses import variational
from flowjax.methods import variational as recipes

MEAN, DEVIATION, SIGMA = np.array([0.5, -1.0]), np.array([1.5, 0.7]), 0.4
Y = 1.2  # what was measured of the first coordinate


@functools.cache
def flow():
    return exact.gaussian(MEAN, np.diag(DEVIATION**2))


def posterior_of_noise():
    """Mean and deviation of p(z | y) where F(z, 1, 0) = MEAN + DEVIATION z and the first coordinate is seen."""
    precision = 1 + DEVIATION[0] ** 2 / SIGMA**2
    return np.array([DEVIATION[0] / SIGMA**2 * (Y - MEAN[0]) / precision, 0.0]), np.array([precision**-0.5, 1.0])


def bound(parameters, eps):
    """The adapter's loss with such moments, at noise eps [B, 2]."""
    A, y = inverse.measurement_from_name("mask", (2,)), jnp.broadcast_to(jnp.array([Y, 0.0]), eps.shape)
    adapter = lambda seen: jnp.broadcast_to(jnp.stack(parameters, axis=-1), (*seen.shape, 2))
    return variational.variational_flow_map(flow().V, adapter, A, y, inverse.seen(A, y, eps), eps, sigma=SIGMA)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_the_bound_is_least_at_the_exact_posterior_and_is_the_evidence_there():
    mean, deviation = (jnp.asarray(value) for value in posterior_of_noise())
    eps = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])  # has the first two moments of N(0, I)
    loss = lambda parameters: jnp.mean(bound(parameters, eps))
    here = (mean, jnp.log(deviation))
    for gradient in jax.grad(loss)(here):
        np.testing.assert_allclose(gradient, 0.0, atol=1e-12)
    assert max(float(jnp.abs(g).max()) for g in jax.grad(loss)((mean + 0.1, jnp.log(deviation)))) > 0.1
    # -log p(y) without the constant log (2 pi sigma^2) / 2: y is N(MEAN, DEVIATION^2 + SIGMA^2).
    variance = DEVIATION[0] ** 2 + SIGMA**2
    evidence = (Y - MEAN[0]) ** 2 / (2 * variance) + np.log(variance / SIGMA**2) / 2
    np.testing.assert_allclose(loss(here), evidence, rtol=1e-12)


def test_samples_from_the_exact_adapter_have_the_posterior_mean_and_covariance():
    mean, deviation = posterior_of_noise()
    adapter = lambda seen: jnp.broadcast_to(jnp.stack([mean, np.log(deviation)], axis=-1), (*seen.shape, 2))
    A, eps = inverse.measurement_from_name("mask", (2,)), jax.random.normal(jax.random.key(0), (40_000, 2))
    ends = inverse.by_noise(flow().V, adapter, A, jnp.broadcast_to(jnp.array([Y, 0.0]), eps.shape), eps, samplers.grid(1))
    gain = DEVIATION[0] ** 2 / (DEVIATION[0] ** 2 + SIGMA**2)
    np.testing.assert_allclose(ends.mean(0), [MEAN[0] + gain * (Y - MEAN[0]), MEAN[1]], atol=0.02)
    np.testing.assert_allclose(np.cov(ends.T), np.diag([gain * SIGMA**2, DEVIATION[1] ** 2]), atol=0.02)


@pytest.mark.usefixtures("x64")
def test_the_bias_of_a_map_that_stays_is_the_predicted_one():
    """Numbers of the noise that depend on each other given y: the best normal of independent ones has the mean, and too little spread."""
    covariance = np.array([[1.0, 0.6], [0.6, 0.5]])
    normal = exact.gaussian(MEAN, covariance)
    factor = np.asarray(
        normal.F(jnp.eye(2), 1.0, 0.0) - normal.F(jnp.zeros((2, 2)), 1.0, 0.0)
    ).T  # F(z, 1, 0) = MEAN + factor z
    precision = np.eye(2) + np.outer(factor[0], factor[0]) / SIGMA**2  # of z given y
    mean, deviation = np.linalg.solve(precision, factor[0] / SIGMA**2 * (Y - MEAN[0])), np.diag(precision) ** -0.5
    A, eps = inverse.measurement_from_name("mask", (2,)), jax.random.normal(jax.random.key(0), (40_000, 2))
    y = jnp.broadcast_to(jnp.array([Y, 0.0]), eps.shape)
    at = lambda parameters: lambda seen: jnp.broadcast_to(jnp.stack(parameters, axis=-1), (*seen.shape, 2))
    signs = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    loss = lambda parameters: jnp.mean(
        variational.variational_flow_map(normal.V, at(parameters), A, y[:4], inverse.seen(A, y[:4], signs), signs, sigma=SIGMA)
    )
    here = (jnp.asarray(mean), jnp.log(jnp.asarray(deviation)))
    for gradient in jax.grad(loss)(here):
        np.testing.assert_allclose(gradient, 0.0, atol=1e-10)
    ends = inverse.by_noise(normal.V, at(here), A, y, eps, samplers.grid(1))
    gain = covariance[:, 0] / (covariance[0, 0] + SIGMA**2)
    np.testing.assert_allclose(ends.mean(0), MEAN + gain * (Y - MEAN[0]), atol=0.02)
    np.testing.assert_allclose(np.cov(ends.T), factor @ np.diag(deviation**2) @ factor.T, atol=0.02)
    exact_covariance = covariance - np.outer(gain, covariance[0])
    assert np.abs(factor @ np.diag(deviation**2) @ factor.T - exact_covariance).max() > 0.02


def test_where_gradients_are():
    """The adapter gets them by the point alone, and none of what it does to a point reaches the map but by the map's own call."""
    x0, eps, s = rows(4)["x"], rows(4)["x"][::-1] * 1.0, 0.6
    adapter = lambda w: lambda seen: jnp.stack([w * seen, 0 * seen], axis=-1)

    def pair(w, u):
        x, v, _ = variational.adapted_point(adapter(w), x0, x0, eps, s)
        return losses.flow_matching(lambda x, s, t: u * x, x, s, v)

    tangents = jax.jvp(lambda w: pair(w, 0.5), (1.0,), (1.0,))[1]
    np.testing.assert_allclose(tangents.prediction, 0.5 * s * x0, rtol=1e-6)
    np.testing.assert_array_equal(tangents.target, 0)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["meanflow", "psd"])
def test_without_adapted_rows_the_rule_is_the_ordinary_one(rule):
    """And with them a share of the rows is moved to the adapter's noise; the raw errors of the others stay."""
    adapter = lambda x, s, t, cond: jnp.stack([0.3 * x, jnp.full_like(x, -0.5)], axis=-1)
    V = lambda x, s, t, cond=None: jnp.sin(x + s - 0.5 * t)
    nets = typing.Nets(V=V, ema=V, frozen=V, noise_adapter=adapter, stopped={"V": V, "noise_adapter": adapter})
    batch, key = rows(32), jax.random.key(0)
    raw = {}
    for share in (0.0, 0.5, 1.0):
        method = methods.make("variational_flow_map", rule=rule, adapted=share)
        drawn = method.draw(key, batch, 0)
        raw[share] = methods.raw_errors(method, nets, drawn)
    plain = recipes.RULES[rule](label_drop=0.1)
    ordinary = {term.name: term for term in plain.terms}
    for name, errors in raw[0.0].items():
        if name == "adapter":
            continue
        point = drawn[name]._replace(extra=None)
        pair = ordinary[name].pair(nets, point)
        np.testing.assert_allclose(errors, jnp.mean((pair.prediction - pair.target) ** 2, axis=1), rtol=1e-5, atol=1e-7)
        moved = np.asarray(raw[0.5][name] != errors)
        assert 0 < moved.sum() < len(moved) or len(moved) < 12
        np.testing.assert_allclose(np.where(moved, raw[1.0][name], errors), raw[0.5][name], rtol=1e-6)


def test_bad_constants_are_refused():
    for constants, said in (
        ({"rule": "lmd"}, "'lmd'"),
        ({"measure": "masks"}, "did you mean mask"),
        ({"measure": "project:count=0"}, "from 1 to 1024"),
        ({"tau": 0.0}, "above 0"),
        ({"adapted": 1.5}, "a share"),
    ):
        with pytest.raises(typing.InputError, match=said):
            methods.make("variational_flow_map", **constants)
    with pytest.raises(typing.InputError, match="for images"):
        inverse.measurement_from_name("blur", (2,))


def test_what_a_network_is_shown_of_a_measurement():
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    for spec in ("mask", "downsample:factor=4", "blur:deviation=1", "project:count=3"):
        A = inverse.measurement_from_name(spec, (8, 8, 1))
        back = inverse.seen(A, A(images), images)
        other = jax.random.normal(jax.random.key(1), images.shape)
        np.testing.assert_allclose(jnp.vdot(back, other), jnp.vdot(A(images), A(other)), rtol=1e-4, err_msg=spec)


@pytest.mark.slow
def test_an_adapter_begins_with_normal_noise_and_is_loaded_beside_its_map(tmp_path):
    config = small("variational_flow_map", steps=1, save_every=1)
    config.optim.learning_rate = 1e-9
    training.train(config, tmp_path / "run")
    adapter = training.load(tmp_path / "run", network="noise_adapter").V()
    moments = adapter(jnp.asarray(rows(5)["x"]), 1.0, 0.0)
    assert moments.shape == (5, 2, 2)
    np.testing.assert_allclose(moments, 0.0, atol=1e-6)


@pytest.mark.slow
def test_a_map_and_its_adapter_learn_a_posterior_that_is_no_normal(tmp_path, monkeypatch, optimised):
    """Data on two lines of equal weight: for a first coordinate of 0 the second is near 1 or -1, which a normal of the noise alone
    reaches because the map learns along."""

    def lines(*, split="train", data_dir=None):
        rng = np.random.default_rng(split == "test")
        side = np.where(rng.random(2**14) < 0.5, 1.0, -1.0)
        x = np.stack([rng.standard_normal(2**14), side + 0.1 * rng.standard_normal(2**14)], axis=1).astype(np.float32)
        return data.Source("lines", len(x), (2,), 0, lambda ids: {"x": x[ids]})

    monkeypatch.setitem(data.DATASETS, "lines", lines)
    config = small("variational_flow_map", steps=900, batch_size=256, save_every=900, log_every=300)
    config.data.name, config.eval_samples = "lines", 64
    config.model.update({"width": 64, "depth": 3})
    config.optim.learning_rate = 2e-3
    config.method.sigma = 0.2
    training.train(config, tmp_path / "run")
    run, beside = training.load(tmp_path / "run"), training.load(tmp_path / "run", network="noise_adapter").V()
    A, eps = inverse.measurement_from_name("mask", (2,)), jax.random.normal(jax.random.key(0), (4000, 2))
    for y in (-1.0, 0.0, 1.0):
        ends = inverse.by_noise(
            run.V(),
            lambda seen: beside(seen, 1.0, 0.0),
            A,
            jnp.broadcast_to(jnp.array([y, 0.0]), eps.shape),
            eps,
            samplers.grid(1),
        )
        plain = flowmap.jump(run.V(), eps, 1.0, 0.0)
        assert abs(float(ends[:, 0].mean()) - y / 1.04) < 0.15  # the posterior's mean for data of variance 1
        assert float(ends[:, 0].std()) < 0.5 < float(plain[:, 0].std())
        assert 0.3 < float((ends[:, 1] > 0).mean()) < 0.7  # both lines
        assert float((jnp.abs(jnp.abs(ends[:, 1]) - 1) < 0.4).mean()) > 0.75
