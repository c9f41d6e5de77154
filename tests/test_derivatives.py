"""Finite differences as a drop-in for jax.jvp."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import derivatives, typing

SCHEMES = {"forward": 1, "backward": 1, "central": 2}
every_scheme = pytest.mark.parametrize("scheme", SCHEMES)


@jax.jit
def smooth(x, s):
    return jnp.exp(0.5 * x) * jnp.sin(3 * s) + s * x**3


def point():
    rng = np.random.default_rng(0)
    primals = jnp.asarray(rng.normal(size=(4, 3))), jnp.asarray(rng.uniform(0.2, 0.8, (4, 1)))
    return primals, (jnp.asarray(rng.normal(size=(4, 3))), jnp.ones((4, 1)))


@pytest.mark.usefixtures("x64")
@every_scheme
def test_order_of_the_error(scheme):
    primals, tangents = point()
    value, exact = jax.jvp(smooth, primals, tangents)
    steps, errors = np.array([8e-3, 4e-3, 2e-3, 1e-3]), []
    for step in steps:
        primal, tangent = derivatives.finite_difference(float(step), scheme)(smooth, primals, tangents)
        np.testing.assert_array_equal(primal, smooth(*primals))
        np.testing.assert_allclose(primal, value, rtol=1e-14)
        errors.append(np.abs(tangent - exact).max())
    assert np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(SCHEMES[scheme], abs=0.05)


@pytest.mark.usefixtures("x64")
def test_one_sided_schemes_look_to_their_side():
    # A kink at the point tells which side was looked at, and by how far.
    kink = lambda x: jnp.where(x > 0, 3 * x, x)
    slopes = {name: float(derivatives.finite_difference(1e-3, name)(kink, (0.0,), (1.0,))[1]) for name in SCHEMES}
    assert slopes == pytest.approx({"forward": 3.0, "backward": 1.0, "central": 2.0})


@every_scheme
@pytest.mark.parametrize(("bound", "called"), [(True, None), (False, True), (True, True)])
def test_auxiliary_output(scheme, bound, called):
    primals, tangents = point()
    with_aux = lambda x, s: (smooth(x, s), {"twice": 2 * x, "name": s})
    kwargs = {} if called is None else {"has_aux": called}
    value, tangent, aux = derivatives.finite_difference(1e-3, scheme, has_aux=bound)(with_aux, primals, tangents, **kwargs)
    np.testing.assert_array_equal(value, smooth(*primals))
    np.testing.assert_array_equal(aux["twice"], 2 * primals[0])
    np.testing.assert_array_equal(aux["name"], primals[1])
    assert tangent.shape == value.shape


def test_the_call_overrides_the_bound_auxiliary():
    primals, tangents = point()
    assert len(derivatives.finite_difference(1e-3, has_aux=True)(smooth, primals, tangents, has_aux=False)) == 2


@pytest.mark.usefixtures("x64")
@every_scheme
def test_pytrees_in_and_out(scheme):
    def fun(inputs, scale):
        return {"square": inputs["x"] ** 2 * scale, "rest": (jnp.sin(inputs["y"]), scale**2)}

    primals = ({"x": jnp.arange(3.0), "y": jnp.ones((2, 2))}, 1.5)
    tangents = ({"x": jnp.ones(3), "y": jnp.full((2, 2), 0.5)}, 1.0)
    value, tangent = derivatives.finite_difference(1e-6, scheme)(fun, primals, tangents)
    exact_value, exact = jax.jvp(fun, primals, tangents)
    jax.tree.map(np.testing.assert_array_equal, value, exact_value)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-5), tangent, exact)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@every_scheme
def test_default_step_balances_truncation_and_rounding(scheme, dtype):
    with jax.enable_x64(True):
        seen = []

        def fun(x, s):
            seen.append(x)
            return jnp.sin(x) * s

        x = jnp.asarray(1.0, dtype)
        value, tangent = derivatives.finite_difference(scheme=scheme)(fun, (x, jnp.float64(1.0)), (jnp.ones((), dtype), 0.0))
        steps = [abs(float(y) - 1.0) for y in seen if float(y) != 1.0]
        eps = float(jnp.finfo(dtype).eps)
        # The coarsest of the primals' dtypes decides, and the shifted point is rounded to the dtype of the primal.
        np.testing.assert_allclose(steps, eps ** (1 / 3 if scheme == "central" else 1 / 2), rtol=0.1, atol=eps)
        assert all(y.dtype == dtype for y in seen) and len(steps) == SCHEMES[scheme]
        assert float(tangent) == pytest.approx(np.cos(1.0), abs=8 * eps ** (1 / 2))


@pytest.mark.parametrize("scheme", [None, *SCHEMES])
def test_it_replaces_jvp_in_every_transform(scheme):
    jvp = jax.jvp if scheme is None else derivatives.finite_difference(scheme=scheme)
    primals, tangents = point()

    def loss(theta, x, s, dx):
        value, tangent = jvp(lambda x, s: theta * smooth(x, s), (x, s), (dx, jnp.ones_like(s)))
        return jnp.sum(value**2) + jnp.sum(tangent)

    rows = jax.jit(jax.vmap(jax.value_and_grad(loss), in_axes=(None, 0, 0, 0)))
    value, grad = rows(1.3, *primals, tangents[0])
    theta = 1.3
    exact_value, exact_tangent = jax.jvp(smooth, primals, tangents)
    np.testing.assert_allclose(
        value, theta**2 * jnp.sum(exact_value**2, 1) + theta * jnp.sum(exact_tangent, 1), rtol=5e-3, atol=2e-2
    )
    np.testing.assert_allclose(grad, 2 * theta * jnp.sum(exact_value**2, 1) + jnp.sum(exact_tangent, 1), rtol=5e-3, atol=2e-2)


@pytest.mark.usefixtures("x64")
@every_scheme
def test_gradient_through_the_primal_alone_is_exact(scheme):
    primals, tangents = point()

    def loss(theta, jvp):
        value, tangent = jvp(lambda x, s: jnp.sin(theta * smooth(x, s)), primals, tangents)
        return jnp.sum(value * jax.lax.stop_gradient(tangent > 0))

    step = derivatives.finite_difference(1e-6, scheme)
    np.testing.assert_allclose(jax.grad(loss)(0.7, step), jax.grad(loss)(0.7, jax.jvp), rtol=1e-12)


@pytest.mark.parametrize("scheme", ["middle", "", None])
def test_unknown_scheme(scheme):
    with pytest.raises(typing.InputError, match="forward, backward, central"):
        derivatives.finite_difference(scheme=scheme)


@pytest.mark.parametrize("step", [0.0, -1e-3, float("nan")])
def test_step_must_be_positive(step):
    with pytest.raises(typing.InputError, match="above 0"):
        derivatives.finite_difference(step)


def test_named():
    assert derivatives.jvp_from_name("exact") is jax.jvp
    assert derivatives.jvp_from_name(jax.jvp) is jax.jvp
    step = derivatives.finite_difference(1e-2)
    assert derivatives.jvp_from_name(step) is step
    for scheme, side in (("forward", 3.0), ("backward", 1.0), ("central", 2.0)):
        slope = derivatives.jvp_from_name(scheme)(lambda x: jnp.where(x > 0, 3 * x, x), (0.0,), (1.0,))[1]
        assert float(slope) == pytest.approx(side, rel=1e-3)
    slope = derivatives.jvp_from_name("backward:0.5")(jnp.square, (1.0,), (1.0,))[1]
    assert float(slope) == pytest.approx((1 - 0.25) / 0.5)


@pytest.mark.parametrize("name", ["centrall", "exact:1e-3", "central:x", "central:-1", "central:nan", "", None])
def test_unknown_names(name):
    with pytest.raises(typing.InputError, match="unknown derivative.*exact.*central:1e-3"):
        derivatives.jvp_from_name(name)
