"""Methods of several networks: who moves when, what rests is not computed, and experiments/three_players.py from end to end."""

import collections
import functools
import importlib
import shutil
import subprocess
import sys

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flowjax import methods, models, typing
from flowjax.methods import pairs
from flowjax.profiling import flops
from flowjax.training import compilation, log, loop, networks, optimizers, phases, runs, sharding, state, step, step_cost
from tests.support import rows

ONE = jax.devices()[:1]
RESTING = phases.Phase(("follow", "tell_apart"), ("fake", "discriminator"))
ALL = phases.Phase(("push", "fool", "follow", "tell_apart"), ("V", "fake", "discriminator"))


@pytest.fixture(scope="module", autouse=True)
def registered():
    """The method, for the tests of this file alone: others loop over the published ones."""
    importlib.import_module("experiments.three_players")
    yield
    del methods.METHODS["three_players"], sys.modules["experiments.three_players"]


def small(**changes):
    """Ten steps of the three players on small networks."""
    config = importlib.import_module("experiments.three_players").get_config("test")
    config.update({"eval_every": 0, "steps": 10, "save_every": 5, "log_every": 5, "batch_size": 32, **changes})
    config.model.width = 16
    return config


def with_sgd(config):
    """Plain gradient descent for all networks; Adam divides by what it averages, so that rounding shows."""
    config.optim.update({"name": "sgd", "learning_rate": 0.05})
    config.optim.kwargs = {}
    return config


def trained(config, devices):
    """(states, metrics) of five steps on the same rows: four in which V rests, one in which it moves."""
    run = runs.setup(config, devices=devices)
    programs, states, metrics = compilation.compiled(run), [run.init()], []
    states[0] = jax.device_get(states[0])
    now = run.init()
    for number in range(5):
        now, values = jax.block_until_ready(programs[run.cycle.at(number)](now, sharding.global_batch(run.mesh, rows()), ()))
        states.append(jax.device_get(now))
        metrics.append(jax.device_get(values))
    return run, programs, states, metrics


@pytest.fixture(scope="module")
def alone():
    """The run on one device, its programs, its states and metrics."""
    return trained(with_sgd(small(ema=(0.5,))), ONE)


# Which networks move when


def method_of(**every):
    """A Method whose terms train the network of their name, or all of names joined by "_", every so often."""
    terms = tuple(typing.Term(name, None, None, trains=tuple(name.split("_")), every=period) for name, period in every.items())
    return typing.Method(None, None, terms, {})


def test_a_network_moves_where_its_period_and_a_due_term_meet():
    cycle = phases.cycle(method_of(V=2, fake=1, V_fake=3), {"V": 1, "fake": 2})
    both = ("V", "fake")
    assert cycle.phases == (
        phases.Phase((), ()),  # fake's term alone is due, and fake rests
        phases.Phase(("V", "fake"), both),
        phases.Phase(("V_fake",), ("V",)),
        phases.Phase(("V", "fake"), both),
        phases.Phase((), ()),
        phases.Phase(("V", "fake", "V_fake"), both),
    )
    assert cycle.at(9) == cycle.phases[3] and list(cycle.distinct().values()) == [2, 2, 1, 1]
    moves = np.cumsum(["V" in cycle.at(number).networks for number in range(20)])
    assert [cycle.updates("V", number + 1) for number in range(20)] == moves.tolist()
    np.testing.assert_array_equal(jax.vmap(functools.partial(cycle.updates, "V"))(jnp.arange(1, 21)), moves)
    assert cycle.mean({phase: len(phase.terms) for phase in cycle.distinct()}) == 8 / 6


@pytest.mark.parametrize(
    ("method", "every", "sentence"),
    [
        (method_of(V=1, fake=1), {"V": 1}, "the term 'fake' trains 'fake'; the method trains V"),
        (method_of(V=1), {"V": 1, "fake": 1}, "no term trains the network 'fake'"),
        (method_of(V=0), {"V": 1}, "the term 'V' has every=0"),
        (method_of(V=1, fake=1), {"V": 1, "fake": 0}, "config.auxiliary.fake.every is 0; expected a whole number"),
        (method_of(V=1, fake=101), {"V": 103, "fake": 1}, "repeat after 10,403 steps only"),
    ],
)
def test_periods_that_do_not_fit(method, every, sentence):
    with pytest.raises(typing.InputError, match=sentence):
        phases.cycle(method, every)


def test_every_method_of_before_has_one_phase():
    for name in methods.METHODS.keys() - {"three_players"}:
        method = methods.make(name, total_steps=10)
        assert len(phases.cycle(method, phases.periods(method)).distinct()) == 1, name


# What a term sees


class Headed(nn.Module):
    """A map with a divergence head."""

    HEADS = ("V", "divergence")

    def setup(self):
        self.body, self.divergence = nn.Dense(2), nn.Dense(1)

    def __call__(self, x, s, t, cond=None):
        return self.body(x) * (1 + s - t)

    def named_heads(self, x, s, t, cond=None):
        return {"V": self(x, s, t, cond), "divergence": self.divergence(x)[:, 0]}


def test_a_term_sees_stopped_weights_and_live_inputs_of_what_it_does_not_train():
    method = typing.Method(None, None, (), {"heads": {}, "fake": typing.Network(call="velocity")})
    modules = networks.make(method, Headed(), (2,))
    sgd = {name: optimizers.Optimizer(optax.sgd(1.0), None) for name in ("V", "fake")}
    params = state.init(jax.random.key(0), modules, (2,), sgd, has_target=False, decays=()).params
    assert set(params["V"]) == {"body", "divergence"} and set(params["fake"]) == {"body"}  # all heads are initialised
    x = jnp.ones((3, 2))

    def total(params, x, names):
        nets = networks.nets(modules, params, None, ()).training(names)
        heads = nets.heads(nets.fake(nets.V(x, 1.0, 0.0), 0.5), 0.5, 0.5)
        return heads["divergence"].sum() + heads["V"].sum()

    for names in (("V",), ("fake",), ("V", "fake")):
        moved, through = jax.grad(total, argnums=(0, 1))(params, x, names)
        size = {name: max(np.abs(leaf).max() for leaf in jax.tree.leaves(tree)) for name, tree in moved.items()}
        assert {name for name in size if size[name] > 0} == set(names) and np.abs(through).max() > 0


def test_a_scalar_is_the_mean_over_all_axes_but_the_rows():
    method = typing.Method(None, None, (), {"judge": typing.Network(call="scalar"), **pairs.LOG_VARIANCE})
    net = models.make("mlp", width=8, depth=1)
    modules = networks.make(method, net, (2,))
    sgd = {name: optimizers.Optimizer(optax.sgd(1.0), None) for name in modules.trained}
    params = state.init(jax.random.key(0), modules, (2,), sgd, has_target=False, decays=()).params
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    nets, x, t = networks.nets(modules, params, None, ()), rows(4)["x"], jnp.full((4, 1), 0.3)
    expected = net.apply({"params": params["judge"]}, x, t, t).mean(axis=1)
    np.testing.assert_allclose(nets.judge(x, t), expected, rtol=1e-6)
    assert nets.log_variance(t, t).shape == nets.judge(x, t).shape == (4,)


# The step


def test_what_rests_is_not_computed(alone):
    """Matmuls of a step in which V rests are those of the gradients of the two other networks, written out."""
    run, programs, states, _ = alone
    assert list(run.cycle.distinct()) == [RESTING, ALL] and run.cycle.phases == (RESTING,) * 4 + (ALL,)
    params = states[0].params

    def loss(moving, x, eps, t, real):
        apply = lambda name, weights, x, s, t: run.networks.trained[name].apply({"params": weights}, x, s, t)
        x_t = (1 - t) * (x - apply("V", params["V"], x, 1.0, 0.0)) + t * eps
        logits = lambda x: apply("discriminator", moving["discriminator"], x, t, t).mean(axis=1)
        told_apart = jax.nn.softplus(logits(x_t)) + jax.nn.softplus(-logits(real))
        return jnp.mean(told_apart) + jnp.mean((apply("fake", moving["fake"], x_t, t, t) - eps) ** 2)

    moving = {name: params[name] for name in RESTING.networks}
    x, t = rows()["x"], np.full((32, 1), 0.5, np.float32)
    counted = flops.matmul(jax.value_and_grad(loss), moving, x, x + 1, t, x + 2)
    resting, everything = (flops.count(programs[phase].as_text()) for phase in (RESTING, ALL))
    assert counted <= resting < 1.01 * counted  # the gradient of V alone would add a tenth
    assert everything > 1.3 * resting


def test_what_rests_stays_as_it_is_and_has_no_metrics(alone):
    _, _, states, metrics = alone
    for number, (before, after, values) in enumerate(zip(states, states[1:], metrics, strict=False)):
        moved = {name for name in after.params if not _equal(before.params[name], after.params[name])}
        assert moved == ({"V", "fake", "discriminator"} if number == 4 else {"fake", "discriminator"})
        assert _equal(before.averages, after.averages) == (number != 4) and int(after.skipped) == 0
        resting = {name for name, value in values.items() if np.isnan(value)}
        assert resting == (set() if number == 4 else {"raw/push", "raw/fool"})
    # The first of V's updates, whatever the number of the step: the average is warmed up from there.
    mix = lambda old, new: 0.1 * old + 0.9 * new
    expected = jax.tree.map(mix, states[0].params["V"], states[5].params["V"])
    chex.assert_trees_all_close(states[5].averages["0.5"], expected, atol=1e-6)


def _equal(one, other):
    return all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), one, other)))


def test_the_first_term_that_is_not_finite_is_named_and_no_resting_one(alone):
    run, _, _, metrics = alone
    checkpoints = collections.namedtuple("Checkpoints", "wait steps path")(lambda: None, list, None)
    row = {**metrics[0], "raw/follow": np.float32(np.nan), "nonfinite_steps": np.int32(1)}
    with pytest.raises(log.NonFiniteError, match="^the term follow is not finite at step 1"):
        log.Log(run, None, checkpoints, 0)._check(1, row)


def test_a_step_without_a_phase_is_refused(alone):
    run = alone[0]
    with pytest.raises(typing.InputError, match="the method has 2 kinds of steps"):
        jax.eval_shape(run.step, run.like, run.batch_like, ())


@pytest.mark.slow
def test_three_players_on_eight_devices_train_as_on_one(alone):
    _, _, states, metrics = alone
    _, _, sliced, metrics_sliced = trained(with_sgd(small(ema=(0.5,), mesh={"data": 2, "fsdp": 4})), jax.devices()[:8])
    chex.assert_trees_all_close(states[5].params, sliced[5].params, atol=1e-6, rtol=0)
    chex.assert_trees_all_close(states[5].averages, sliced[5].averages, atol=1e-6, rtol=0)
    chex.assert_trees_all_close(metrics, metrics_sliced, rtol=1e-4)


def of_batch_mean(accumulate=1, mesh=None):
    """(state, its update) of a method whose errors hold means over the whole batch."""

    def loss(nets, drawn):
        outputs = nets.V(drawn["spread"].x, 1.0, 0.0)
        mean, square = nets.mean(outputs)[None], nets.mean(outputs**2)[None]
        errors = jnp.sum((outputs - mean) ** 2 + outputs * square, axis=1)
        return errors, {"spread": jnp.mean(errors)}

    draw = lambda key, batch, step: {"spread": typing.Point(x=batch["x"])}
    method = typing.Method(draw, loss, (typing.Term("spread", None, None),), {})
    modules = networks.make(method, Headed(), (2,))
    sgd = {"V": optimizers.Optimizer(optax.sgd(1.0), None)}
    start = state.init(jax.random.key(0), modules, (2,), sgd, has_target=False, decays=())
    mesh = mesh or sharding.make_mesh(devices=ONE)
    made = step.make_step(method, modules, sgd, mesh, jax.random.key(1), rules=((".*", ("fsdp",)),), accumulate=accumulate)
    hand = lambda params: loss(typing.Nets(V=lambda x, s, t: Headed().apply({"params": params}, x, s, t)), draw(0, rows(), 0))
    return start, made, lambda params: hand(params)[0].mean()


@pytest.mark.parametrize("mesh", [(1, 1), (4, 2)])
def test_the_mean_over_the_batch_passes_its_gradient(mesh):
    devices = jax.devices()[: np.prod(mesh)]
    start, made, loss = of_batch_mean(mesh=sharding.make_mesh({"data": mesh[0], "fsdp": mesh[1]}, devices))
    after, _ = jax.jit(made)(start, rows())
    expected = jax.tree.map(lambda p, g: p - g, start.params["V"], jax.grad(loss)(start.params["V"]))
    chex.assert_trees_all_close(jax.device_get(after.params["V"]), expected, atol=1e-6)


def test_a_mean_over_the_batch_needs_the_batch_in_one_part():
    start, made, _ = of_batch_mean(accumulate=2)
    with pytest.raises(typing.InputError, match=r"config.accumulate is 2.*nets.mean.*--config.accumulate=1"):
        jax.eval_shape(made, start, rows())


def test_parts_of_a_batch_hold_whole_groups():
    drawn = {"pairs": typing.Point(x=jnp.arange(8.0)[:, None]), "rows": typing.Point(x=jnp.arange(8.0)[:, None])}
    products = lambda drawn: {name: jnp.mean(point.x[::2] * point.x[1::2]) for name, point in drawn.items()}
    found = step._mean_over_parts(products, drawn, 2, {"pairs": 2, "rows": 1})
    whole = products(drawn)
    assert found["pairs"] == whole["pairs"] and found["rows"] != whole["rows"]
    first = step._mean_over_parts(
        lambda drawn: {name: point.x[1, 0] for name, point in drawn.items()}, drawn, 4, {"pairs": 2, "rows": 1}
    )
    assert first["rows"] == np.mean([4, 5, 6, 7]) and first["pairs"] == np.mean([1, 3, 5, 7])


# The whole way


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    whole = jax.device_get(loop.train(small(), tmp_path, devices=ONE))
    shutil.rmtree(tmp_path / "checkpoints" / "10")
    again = jax.device_get(loop.train(small(), tmp_path, devices=ONE))
    chex.assert_trees_all_equal(whole, again)
    assert set(whole.params) == {"V", "fake", "discriminator"} and set(whole.averages) == {"0.999"}


def test_the_config_has_a_section_for_each_network():
    config = small()
    config.optim.learning_rate = 5e-4
    assert config.auxiliary.to_dict() == {
        "fake": {"learning_rate": 5e-4, "every": 1}, "discriminator": {"learning_rate": 1e-4, "every": 1}
    }  # fmt: skip
    config.auxiliary.fake.every = 0
    with pytest.raises(typing.InputError, match="config.auxiliary.fake.every is 0; expected a whole number"):
        runs.setup(config, devices=ONE)


@pytest.mark.slow  # five programs of the small transformer; tests/test_flops.py counts a method with one phase
def test_the_cost_of_the_cycle_is_counted(monkeypatch):
    monkeypatch.setattr(step_cost, "NETWORK", {"width": 16, "depth": 1, "heads": 1, "patch": 4})
    step_cost._counted_forward_pass.cache_clear()
    costs = step_cost.costs("three_players")
    step_cost._counted_forward_pass.cache_clear()
    assert list(costs.phases) == [RESTING, ALL] and list(costs.networks) == ["V", "fake", "discriminator"]
    assert costs.mean == pytest.approx((4 * costs.phases[RESTING] + costs.phases[ALL]) / 5)
    assert costs.phases[RESTING] < costs.phases[ALL] <= costs.phases[RESTING] + costs.networks["V"]
    assert all(cost > 1 for cost in costs.networks.values())


@pytest.mark.slow  # what the command does, the tests above do; here the file is named on the command line
def test_the_file_trains_from_the_command_line(tmp_path):
    command = [sys.executable, "-m", "experiments.train", "--config=experiments/three_players.py:test", f"--workdir={tmp_path}"]
    subprocess.run([*command, "--config.model.width=16"], check=True, capture_output=True)
    sampled = [sys.executable, "-m", "experiments.sample", f"--workdir={tmp_path}", "--steps=1"]
    assert (
        subprocess.run([*command, "--dry_run"], check=True, capture_output=True, text=True).stdout.count("in forward passes")
        == 1
    )
    named = "--modules=experiments.three_players"  # code that a run names is imported if the command names it too
    refused = subprocess.run(sampled, capture_output=True, text=True)
    assert refused.returncode == 2 and f"type {named}" in refused.stderr
    subprocess.run([*sampled, named], check=True, capture_output=True)
