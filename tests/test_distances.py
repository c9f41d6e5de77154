"""Distances against closed forms: values, gradients, dtypes, names."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import distances, typing


def sides(shape=(5, 2, 2, 3), seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(2, *shape)), jnp.float32)


def e(shape, reduce):
    prediction, target = np.asarray(sides(shape), np.float64)
    return getattr(np, reduce)((prediction - target) ** 2, axis=tuple(range(1, len(shape))))


SHAPES = [(5, 3), (5, 2, 2, 3)]
CLOSED = {
    "l2 mean": (distances.l2, lambda total, mean, size: mean),
    "l2 sum": (functools.partial(distances.l2, reduce="sum"), lambda total, mean, size: total),
    "adaptive sum": (
        functools.partial(distances.adaptive, reduce="sum", p=0.75, c=0.3),
        lambda total, mean, size: total / (total + 0.3) ** 0.75,
    ),
    "adaptive mean": (functools.partial(distances.adaptive, reduce="mean"), lambda total, mean, size: mean / (mean + 0.01)),
    "adaptive p=0": (functools.partial(distances.adaptive, reduce="sum", p=0.0), lambda total, mean, size: total),
    "huber": (functools.partial(distances.huber, c=0.7), lambda total, mean, size: np.sqrt(total + 0.49) - 0.7),
    "huber published": (
        distances.huber,
        lambda total, mean, size: np.sqrt(total + 0.00054**2 * size) - 0.00054 * np.sqrt(size),
    ),
    "cauchy": (distances.cauchy, lambda total, mean, size: np.log(mean + 0.01)),
    "cauchy learned": (
        functools.partial(distances.cauchy, log_variance=np.linspace(-1, 1, 5, dtype=np.float32), c=0.1),
        lambda total, mean, size: np.log(np.exp(-np.linspace(-1, 1, 5)) * mean + 0.1) + np.linspace(-1, 1, 5),
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_values_of_distances(shape):
    errors = jax.jit(lambda *pair: {name: distance(*pair) for name, (distance, _) in CLOSED.items()})(*sides(shape))
    size = int(np.prod(shape[1:]))
    for name, (_, closed) in CLOSED.items():
        assert errors[name].shape == (5,) and errors[name].dtype == jnp.float32
        expected = closed(e(shape, "sum"), e(shape, "mean"), size)
        np.testing.assert_allclose(errors[name], expected, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("shape", SHAPES)
def test_value_of_the_cosine(shape):
    prediction, target = np.asarray(sides(shape), np.float64)
    norm = functools.partial(np.linalg.norm, axis=-1)
    expected = 1 - ((prediction * target).sum(-1) / (norm(prediction) * norm(target))).reshape(5, -1).mean(1)
    cosine, x = jax.jit(distances.cosine), sides(shape)[0]
    np.testing.assert_allclose(cosine(*sides(shape)), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose([cosine(x, 3 * x)[0], cosine(x, -x)[0]], [0.0, 2.0], atol=1e-5)
    value, gradient = jax.jit(jax.value_and_grad(lambda y: distances.cosine(y, x).sum()))(jnp.zeros_like(x))
    assert value == pytest.approx(5.0) and jnp.isfinite(gradient).all()


def test_no_gradient_through_the_adaptive_weight():
    prediction, target = sides()
    grad = jax.grad(lambda p: distances.adaptive(p, target, reduce="sum", p=0.75, c=0.3).sum())(prediction)
    weight = (e(prediction.shape, "sum") + 0.3) ** -0.75
    np.testing.assert_allclose(grad, 2 * (prediction - target) * weight[:, None, None, None], rtol=1e-4)


def test_gradient_at_zero_error_is_zero():
    x = sides()[0]
    for distance in (distances.l2, distances.huber, functools.partial(distances.adaptive, reduce="mean")):
        np.testing.assert_array_equal(jax.grad(lambda y, distance=distance: distance(y, x).sum())(x), 0.0)


def test_reduce_has_no_default():
    with pytest.raises(TypeError, match="reduce"):
        distances.adaptive(*sides())
    with pytest.raises(typing.InputError, match='"sum" or "mean"'):
        distances.adaptive(*sides(), reduce="max")
    by = {reduce: distances.adaptive(*sides(), reduce=reduce, p=0.5) for reduce in ("sum", "mean")}
    assert np.abs(by["sum"] - by["mean"]).min() > 0.1


ALL = {name: getattr(distances, name) for name in ("l2", "huber", "cauchy", "likelihood", "cosine")} | {
    "adaptive": functools.partial(distances.adaptive, reduce="sum"),
    "normalised": functools.partial(distances.normalised, reduce="mean"),
    "features": functools.partial(distances.features, phi=lambda x: x),
}


def test_shapes_that_differ_are_an_error():
    for distance in ALL.values():
        with pytest.raises(typing.InputError, match=r"\(5, 3\).*\(1, 3\)"):
            distance(jnp.ones((5, 3)), jnp.ones((1, 3)))


def test_errors_are_float32_or_wider():
    with jax.enable_x64(True):
        for name, distance in ALL.items():
            shape = lambda *dtypes, distance=distance: jax.eval_shape(
                distance, *(jax.ShapeDtypeStruct((5, 3), d) for d in dtypes)
            )
            for dtype in ("bfloat16", "float16", "float32"):
                assert shape(dtype, dtype).dtype == jnp.float32, name
            assert name == "cosine" or shape("bfloat16", "float64").dtype == jnp.float64


PAIR = (jnp.asarray(np.random.default_rng(0).normal(size=(6, 4, 3)), jnp.float32), jnp.zeros((6, 4, 3)))


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_normalised_has_a_gradient_of_bounded_length(reduce):
    size = 12 if reduce == "mean" else 1
    r = np.asarray(PAIR[0], np.float64)
    norm = np.sqrt((r**2).sum((1, 2)) / size)
    np.testing.assert_allclose(distances.normalised(*PAIR, reduce=reduce, c=0.1), norm**2 / (norm + 0.1), rtol=1e-5)
    gradient = jax.grad(lambda p: distances.normalised(p, PAIR[1], reduce=reduce, c=0.1).sum())(PAIR[0])
    np.testing.assert_allclose(gradient, 2 * r / size / (norm + 0.1)[:, None, None], rtol=1e-5, atol=1e-7)
    at_zero = jax.grad(lambda p: distances.normalised(p, PAIR[1], reduce=reduce).sum())(PAIR[1])
    np.testing.assert_array_equal(at_zero, 0.0)
    with pytest.raises(typing.InputError, match="reduce is None"):
        distances.normalised(*PAIR, reduce=None)
    with pytest.raises(TypeError, match="reduce"):
        distances.normalised(*PAIR)


def test_likelihood_is_least_where_the_variance_is_the_error():
    e = np.asarray(distances.l2(*PAIR))
    lv = jnp.log(e)
    value, slope = jax.jvp(lambda lv: distances.likelihood(*PAIR, log_variance=lv), (lv,), (jnp.ones(6),))
    np.testing.assert_allclose(value, 1 + np.log(e), rtol=1e-5)
    np.testing.assert_allclose(slope, 0.0, atol=1e-5)
    np.testing.assert_allclose(
        distances.likelihood(*PAIR, log_variance=0.5, reduce="sum"), np.exp(-0.5) * 12 * e + 0.5, rtol=1e-5
    )
    gradient = jax.grad(lambda p: distances.likelihood(p, PAIR[1], log_variance=lv).sum())(PAIR[0])
    np.testing.assert_allclose(gradient, 2 * PAIR[0] / 12 / e[:, None, None], rtol=1e-5)


def test_features_compare_the_outputs_of_the_network():
    phi = lambda x: jnp.stack([x.sum((1, 2)), (x**2).sum((1, 2))], axis=1)
    result = distances.features(*PAIR, phi=phi, distance=functools.partial(distances.huber, c=0.1))
    np.testing.assert_allclose(result, distances.huber(phi(PAIR[0]), phi(PAIR[1]), c=0.1), rtol=1e-6)
    assert not np.allclose(result, distances.huber(*PAIR, c=0.1))
    np.testing.assert_allclose(distances.features(*PAIR, phi=phi), distances.l2(phi(PAIR[0]), phi(PAIR[1])), rtol=1e-6)
    gradient = jax.grad(lambda p: distances.features(p, PAIR[1], phi=phi).sum())(PAIR[0])
    first, second = (z[:, None, None] for z in phi(PAIR[0]).T)
    np.testing.assert_allclose(gradient, first + 2 * PAIR[0] * second, rtol=1e-4, atol=1e-5)


def test_distances_by_name():
    assert (
        distances.distance_from_name("l2") is distances.l2
        and distances.distance_from_name(distances.cauchy) is distances.cauchy
    )
    assert all(distances.distance_from_name(name)(*PAIR).shape == (6,) for name in distances.DISTANCES)
    with pytest.raises(typing.InputError, match=r"unknown distance 'hubber'; did you mean huber\?.* Known: l2, huber, cosine"):
        distances.distance_from_name("hubber")
