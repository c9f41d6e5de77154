"""The FLOP counter, and what a training step of each method costs in forward passes: deterministic, so pinned."""

import jax
import jax.numpy as jnp
import pytest

from flowjax import flops, methods, models, typing


def test_counts_a_scan_by_its_trips():
    w = jnp.ones((16, 16))
    looped = lambda x: jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=7)[0]
    assert flops.matmul(looped, jnp.ones((8, 16))) == 7 * 2 * 8 * 16 * 16


def test_counts_nested_scans_batches_and_contractions():
    def inner(x, _):
        return jnp.einsum("bij,bkj->bik", x, x), None

    def outer(x, _):
        return jax.lax.scan(inner, x, None, length=3)[0], None

    count = flops.matmul(lambda x: jax.lax.scan(outer, x, None, length=2)[0], jnp.ones((4, 8, 8)))
    assert count == 6 * 2 * 4 * 8 * 8 * 8


def test_an_unknown_trip_count_is_an_error():
    w = jnp.ones((16, 16))
    looped = lambda x: jax.lax.while_loop(lambda x: x.sum() < 1e6, lambda x: x @ w, x)
    with pytest.raises(ValueError, match="trip count"):
        flops.matmul(looped, jnp.ones((8, 16)))


NET = models.make("dit", num_classes=10, width=128, depth=4, heads=4, patch=2)
ROWS = {"x": jax.ShapeDtypeStruct((8, 16, 16, 4), jnp.float32), "label": jax.ShapeDtypeStruct((8,), jnp.int32)}
PARAMS = jax.eval_shape(NET.init, jax.random.key(0), jnp.zeros((1, 16, 16, 4)), 1.0, 0.0, {})


@pytest.fixture(scope="module")
def forward():
    return flops.matmul(lambda p, b: NET.apply(p, b["x"], 1.0, 0.0, {"label": b["label"]}), PARAMS, ROWS)


# The published split of the rows, no guidance, no remat; TVM has both terms on every row.
@pytest.mark.parametrize("name,most", [("flow_matching", 3.1), ("meanflow", 3.4), ("soflow", 3.4), ("imf", 4.2), ("tvm", 10.4)])
def test_forward_pass_equivalents_of_a_step(name, most, forward):
    method = methods.make(name, total_steps=10)

    def loss(params, target, batch):
        apply = lambda p: lambda x, s, t, cond=None: NET.apply(p, x, s, t, cond)
        drawn = method.draw(jax.random.key(0), batch, 0)
        return method.loss(typing.Nets(V=apply(params), ema=apply(target)), drawn)[0].mean()

    cost = flops.matmul(jax.grad(loss), PARAMS, PARAMS, ROWS) / forward
    assert 0.95 * (most - 0.4) <= cost <= most
