"""What every loss does with its arguments: errors for what does not fit, dtypes, and the forms that times may have."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_cases import CASES, Inputs, function, inputs, network, pair, quick_jit, residual, smooth, that_take, weights

from flowjax import losses, typing

identity = lambda x, s, t: x


def test_times_of_the_wrong_rank_name_expand():
    x = jnp.zeros((256, 32, 32, 4))
    for name, case in CASES.items():
        times = [field for field in case.call.split() if field in ("s", "t", "a")]
        assert times, name
        for field in times:
            i = Inputs(x, 0.5, 0.2, x, 0.5, x)._replace(**{field: jnp.zeros(256)})
            called = "r" if name == "freeflow_correction" else field
            shapes = r"\(256,\).*\(256, 32, 32, 4\).*\(256, 1, 1, 1\).*flowjax\.times\.expand"
            with pytest.raises(typing.InputError, match=rf"^{function(name)}: {called} has shape {shapes}"):
                jax.eval_shape(lambda name=name, i=i: pair(name, identity, identity, i))


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
        call(identity, jnp.zeros((4, 3)), jnp.zeros(4))


@pytest.mark.parametrize("shape", [(7, 1), (4, 3), (4, 1, 1), (1,)])
def test_times_that_would_broadcast_x_are_an_error(shape):
    x = jnp.zeros((4, 1))
    with pytest.raises(typing.InputError, match="has shape"):
        losses.meanflow(identity, x, jnp.zeros(shape), 0.0, x)


@pytest.mark.parametrize("shape", [(4, 1), (3,), (), (4, 3, 1)])
def test_a_velocity_noise_or_point_of_the_wrong_shape_is_an_error(shape):
    i = Inputs(jnp.zeros((4, 3)), 0.5, 0.2, jnp.zeros(shape), 0.5, jnp.zeros(shape))
    for name in that_take("v", "x_m", "x_t", "eps"):
        message = rf"^{function(name)}: (v|eps|x_m|x_t) has shape {re.escape(str(shape))} but x has shape \(4, 3\)"
        with pytest.raises(typing.InputError, match=message):
            pair(name, identity, identity, i)


def test_a_tangent_of_the_wrong_shape_is_an_error():
    x = jnp.zeros((4, 3))
    with pytest.raises(typing.InputError, match="improved_meanflow: v_tangent has shape"):
        losses.improved_meanflow(identity, x, 0.5, 0.2, x, v_tangent=x[:1])


def test_integer_data_is_an_error():
    x = jnp.zeros((4, 3), jnp.int32)
    for name in CASES:
        with pytest.raises(typing.InputError, match=rf"^{function(name)}: .*floating"):
            pair(name, identity, identity, Inputs(x, 0.5, 0.2, x, 0.5, x))


def _cast(i, dtype, time_dtype):
    cast = lambda leaf, dtype: leaf.astype(dtype)
    times = {field: cast(getattr(i, field), time_dtype) for field in "sta"}
    return i._replace(x=cast(i.x, dtype), v=cast(i.v, dtype), u=cast(i.u, dtype), **times)


def _float32_weights():
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), weights(1, 3))


@pytest.mark.parametrize("wide", [False, True])
def test_bfloat16_data_with_float32_times(wide):
    with jax.enable_x64(wide):
        i, params, dtypes = _cast(inputs(), jnp.bfloat16, jnp.float32), _float32_weights(), set()

        def V(x, s, t):
            dtypes.add((x.dtype, s.dtype, t.dtype))
            return network(params, x.astype(jnp.float32), s, t).astype(x.dtype)

        narrow = lambda i: {name: pair(name, V, V, i) for name in CASES}
        pairs = jax.eval_shape(narrow, i) if wide else quick_jit(narrow)(i)
        assert dtypes == {(jnp.dtype("bfloat16"), jnp.dtype("float32"), jnp.dtype("float32"))}
        for name, sides in pairs.items():
            assert all(side.dtype in (jnp.bfloat16, jnp.float32) for side in sides), name
        if wide:
            return
        exactly = functools.partial(network, params)
        reference = quick_jit(lambda i: {name: pair(name, exactly, exactly, i) for name in CASES})(_cast(i, "f4", "f4"))
        chex.assert_tree_all_finite(pairs)
        for name in CASES:
            # The difference of two points over a short time has lost their digits.
            rows = (np.abs(i.s - i.t) > 0.3)[:, 0] if name == "riemannian_split_meanflow" else slice(None)
            narrow_residual = residual(pairs[name]).astype("f4")[rows]
            np.testing.assert_allclose(narrow_residual, residual(reference[name])[rows], atol=0.15, err_msg=name)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("time", ["python", "scalar", "column", "integer"])
def test_float32_stays_float32_under_x64(time):
    i = _cast(inputs(), jnp.float32, jnp.float32)
    s, t, a = {"python": (0.9, 0.2, 0.5), "integer": (1, 0, 1)}.get(
        time, (jnp.float32(0.9), jnp.float32(0.2), jnp.float32(0.5))
    )
    if time == "column":
        s, t, a = (jnp.full((12, 1), value) for value in (s, t, a))
    V = functools.partial(network, _float32_weights())
    i = i._replace(s=s, t=t, a=a)
    # Closed over, not passed: arguments would be arrays before the loss sees the Python scalars.
    pairs = jax.eval_shape(lambda: {name: pair(name, V, V, i) for name in CASES})
    for name, sides in pairs.items():
        assert {side.dtype for side in sides} == {jnp.dtype("float32")}, name


def test_forms_of_the_same_times_agree():
    i, V, W = inputs(), smooth(1), smooth(2)
    arrays = [jnp.float32(value) for value in (0.75, 0.25, 0.5)]
    forms = [arrays, [jnp.full((1, 1), value) for value in arrays], [jnp.full((12, 1), value) for value in arrays]]
    forms.append([0.75, jnp.full((12, 1), 0.25), jnp.float32(0.5)])
    forms.append([0.75, 0.25, 0.5])
    call = lambda name, form: pair(name, V, W, i._replace(**dict(zip("sta", form))))
    # Closed over, not passed: jit would make arrays of the Python scalars.
    pairs = quick_jit(lambda: {name: [call(name, form) for form in forms] for name in CASES})()
    for name, (*others, expected) in pairs.items():
        for sides in others:
            for side, wanted in zip(sides, expected):
                assert side.shape == i.x.shape, name
                np.testing.assert_allclose(side, wanted, rtol=2e-5, atol=2e-5, err_msg=name)
