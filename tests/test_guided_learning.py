"""A map that is learned with guidance inside the training target follows the guided flow; minutes of training."""

import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import optax
import pytest
from guided_classes import COVARIANCES, MEANS, guided_flow
from support import OPTIMISED

from flowjax import conditioning, methods, models, samplers, typing


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"),
    [("meanflow", "meanflow"), ("imf", "imf"), ("dmf", "dmf"), ("soflow", "soflow"), ("psd", "guidance_free"), ("psd", "imf")],
)
def test_one_step_of_a_guided_map_follows_the_guided_flow(name, kind):
    follows_the_guided_flow(name, kind, steps=3_000, bound=0.65 if name == "dmf" else 0.45)  # its rule is on every row


@pytest.mark.slow
def test_one_step_of_guided_terminal_velocity_matching_follows_the_guided_flow():
    follows_the_guided_flow("tvm", "tvm", steps=1_200, bound=0.4)


def follows_the_guided_flow(name, kind, steps, bound, batch=512):
    """Trains on the two classes with scales from 1 to 3: one step lands where the guided flow does, and not where the plain one does."""
    uniform = {"times": ("uniform_triangle",), "p": 0.5} if "p" in methods.constants(name) else {"times": ("uniform_triangle",)}
    plain = methods.make(name, total_steps=steps, label_drop=0.2, **uniform)
    method = methods.guided(name, plain, kind, scale=(1.0, 3.0), interval=(0.0, 1.0), k=0.5, mix=0.5, decay=1.0)
    net = models.make("mlp", num_classes=2, width=64, depth=3, harmonics=1, inputs=conditioning.GUIDANCE[: 1 + (kind == "imf")])
    cond = {"guidance": jnp.ones(1), "interval": jnp.array([[0.0, 1.0]])}
    params = net.init(jax.random.key(0), jnp.zeros((1, 2)), 1.0, 0.0, cond)["params"]
    V = lambda params: lambda x, s, t, cond: net.apply({"params": params}, x, s, t, cond)
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps))
    roots = jnp.linalg.cholesky(jnp.array(COVARIANCES))

    def step(carry, number):
        params, state, average = carry
        # The keys of the data are not among those that the draw splits off: fold_in(key, i) is split(key)[i].
        key, label_key, data_key = jax.random.split(jax.random.fold_in(jax.random.key(1), number), 3)
        label = jax.random.randint(label_key, (batch,), 0, 2)  # every term has rows of both
        noise = jax.random.normal(data_key, (batch, 2))
        x = jnp.array(MEANS)[label] + jnp.einsum("nij,nj->ni", roots[label], noise)
        drawn = method.draw(key, {"x": x, "label": label}, number)
        log_variance = lambda s, t: jnp.zeros(len(s))
        nets = lambda p: typing.Nets(V=V(p), ema=V(jax.lax.stop_gradient(params)), log_variance=log_variance)
        gradient = jax.grad(lambda p: method.loss(nets(p), drawn)[0].mean())(params)
        updates, state = optimizer.update(gradient, state)
        params = optax.apply_updates(params, updates)
        return (params, state, jax.tree.map(lambda a, p: 0.995 * a + 0.005 * p, average, params)), None

    init = (params, optimizer.init(params), params)
    train = jax.jit(lambda init: jax.lax.scan(step, init, jnp.arange(steps)), compiler_options=OPTIMISED)
    (*_, params), _ = train(init)

    x, label = jax.random.normal(jax.random.key(2), (1_000, 2)), jnp.arange(1_000) % 2
    end = jax.jit(lambda w: samplers.heun(lambda x, t: guided_flow(x, t, label, w), x, samplers.grid(64)))
    cond = {"label": label, "interval": jnp.tile(jnp.array([0.0, 1.0]), (1_000, 1))}
    one = lambda w: x - V(params)(x, jnp.ones((1_000, 1)), jnp.zeros((1_000, 1)), {**cond, "guidance": jnp.full(1_000, w)})
    away = lambda found, expected: float(jnp.sqrt(((found - expected) ** 2).sum(-1).mean()))
    moved = away(end(3.0), end(1.0))
    assert moved > 0.3  # guidance matters here
    for w in (1.0, 2.0, 3.0):
        assert away(one(w), end(w)) < bound * moved, (w, away(one(w), end(w)), moved)
    assert away(one(3.0), end(1.0)) > (1.2 - bound) * moved
    if kind == "imf":  # an interval in which half of the way is guided
        inside = lambda t: jnp.where((0.2 <= t) & (t <= 0.6), 3.0, 1.0)
        expected = jax.jit(lambda x: samplers.heun(lambda x, t: guided_flow(x, t, label, inside(t)), x, samplers.grid(200)))(x)
        cond["interval"] = jnp.tile(jnp.array([0.2, 0.6]), (1_000, 1))
        assert away(one(3.0), expected) < bound * moved < away(end(3.0), expected) + away(end(1.0), expected)


@pytest.mark.slow
def test_what_rows_are_told_of_their_guidance_is_compared_on_two_rings():
    command = [sys.executable, "-m", "experiments.two_rings", "--steps=2", "--seeds=2", "--width=8", "--rows=8"]
    run = lambda *flags: subprocess.run(
        [*command, *flags], cwd=pathlib.Path(__file__).parents[1], capture_output=True, text=True, timeout=900
    )
    shown = run("--scales=1,3")
    assert shown.returncode == 0, shown.stderr
    rows = [line.split("|")[1:-1] for line in shown.stdout.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 6 and [cell.strip() for cell in rows[0][2:]] == ["w = 1", "w = 3"]
    assert all(0 < float(cell.split("±")[0]) < 5 for row in rows[2:] for cell in row[2:])
    refused = run("--scales=9")
    assert refused.returncode == 2 and "expected scales from 1 to 8" in refused.stderr
