"""Mistakes in a recipe end in a sentence; further arrays of a point are draws of their own."""

import jax
import jax.numpy as jnp
import pytest

from flowjax import distances, methods, typing
from flowjax.methods import draws, pairs, recipe

BATCH = {"x": jnp.ones((8, 3))}


def term(**changes):
    times = draws.diagonal_times(("uniform",))
    return typing.Term(**{"name": "a", "pair": pairs.anchor, "distance": distances.l2, "times": times, **changes})


def errors(*terms, points=None, needs=None, **nets):
    method = recipe.method(terms, points=points or draws.on_path("linear"), label_drop=0.0, needs=needs)
    nets = {"V": lambda x, s, t: x, **nets}
    return method.loss(typing.Nets(**nets), method.draw(jax.random.key(0), BATCH, 0))[0]


MISTAKES = {
    "no source time": (lambda: errors(term(times=None)), "the term draws no times; give it times"),
    "errors with axes": (
        lambda: errors(term(pair=lambda n, p: p.x, distance=None)),
        r"errors: shape \(8, 3\), expected .* \(8,\)",
    ),
    "weights with axes": (lambda: errors(term(weight=lambda p: p.s)), r"the weight: shape \(8, 1\)"),
    "a scalar error": (lambda: errors(term(pair=lambda n, p: p.x.mean(), distance=None)), r"errors: shape \(\)"),
    "no distance": (lambda: errors(term(distance=None)), "has no distance and returns Pair"),
    "no Pair": (lambda: errors(term(pair=lambda n, p: (p.x, p.v))), r"expected typing.Pair\(prediction, target\)"),
    "one name twice": (lambda: errors(term(), term()), r"the terms are \['a', 'a'\]"),
    "no rows": (lambda: errors(term(columns=(1, 1, 2))), "the terms are none"),
    "no stopped twin": (
        lambda: errors(term(trains=("V",)), needs={"fake": typing.Network()}, fake=lambda x, s, t: x),
        "nets has no stopped twin of fake",
    ),
    "another signature": (lambda: errors(term(), V=lambda x: x), r"called with 3 arguments, and takes others: \(x\)"),
    "another constant": (lambda: methods.make("freeflow", correction="a"), "correction is 'a'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_of_a_recipe_end_in_a_sentence(mistake):
    call, sentence = MISTAKES[mistake]
    with pytest.raises(typing.InputError, match=sentence):
        call()


def test_a_term_may_draw_no_times():
    assert errors(term(times=None, pair=lambda n, p: p.x0.mean(-1), distance=None), points=draws.noise_beside_data).shape == (
        8,
    )


def test_a_network_that_is_not_there_is_no_attribute():
    assert not hasattr(typing.Nets(V=None), "fake")


@pytest.mark.parametrize("points", [draws.on_path("linear"), draws.from_noise, draws.noise_beside_data])
def test_further_arrays_are_independent_of_times_and_noise(points):
    extra = lambda key, rows, step: {
        "z": jax.random.normal(key, rows["x0"].shape),
        "u": jax.random.uniform(key, (8,)),
        **{f"z{i}": jax.random.normal(k, rows["x0"].shape) for i, k in enumerate(jax.random.split(key))},
    }
    times = draws.split_times(("uniform_triangle",), ("uniform",))
    method = recipe.method([term(times=times, extra=extra)], points=points, label_drop=0.0)
    point = method.draw(jax.random.key(0), BATCH, 0)["a"]
    for noise in (point.extra[name] for name in ("z", "z0", "z1")):
        assert not jnp.isin(noise, jnp.stack([point.x, point.eps])).any()
    assert not jnp.isin(point.extra["u"], jnp.stack([point.s, point.t, point.a])).any()
