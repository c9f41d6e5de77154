"""Recipes that match by scores: who learns what, constants, samples of several steps."""

import csv
import functools
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_cases import quick_jit

from configs import method as method_config
from flowjax import methods, samplers, typing
from flowjax.training import loop, runs, step_cost
from tests.support import small

NAMES = (
    "vsd",
    "dmd",
    "dmd2",
    "f_distill",
    "adaptive_matching",
    "sid",
    "sim",
    "uni_instruct",
    "diffratio",
    "moment_matching",
    "self_e",
)


def network(params, x, s, t, cond=None):
    return params["scale"] * jnp.tanh(params["w"] * x + s * params["b"] - t)


def nets_of(params):
    """Nets of three networks of two numbers each."""
    called = lambda params: {
        "V": lambda x, s, t, cond=None: network(params["V"], x, s, t),
        "fake": lambda x, t, cond=None: network(params["fake"], x, t, t),
        "discriminator": lambda x, t, cond=None: network(params["discriminator"], x, t, t).mean(axis=1),
    }
    teacher = lambda x, t, cond=None: jnp.cos(x) * t
    return typing.Nets(**called(params), teacher=teacher, stopped=called(jax.lax.stop_gradient(params)))


PARAMS = {
    name: {"w": jnp.float32(0.7 + i), "b": jnp.float32(0.3), "scale": jnp.float32(1.2 - i / 4)}
    for i, name in enumerate(("V", "fake", "discriminator"))
}
BATCH = {"x": jnp.asarray(np.random.default_rng(0).normal(size=(16, 2)), jnp.float32)}
TRAINS = {
    "vsd": {"student": "V", "fake": "fake"},
    "dmd": {"student": "V", "fake": "fake"},
    "dmd2": {"student": "V", "fake": "fake discriminator"},
    "f_distill": {"student": "V", "fake": "fake discriminator"},
    "adaptive_matching": {"student": "V", "fake": "fake"},
    "sid": {"student": "V", "fake": "fake"},
    "sim": {"student": "V", "fake": "fake"},
    "uni_instruct": {"student": "V", "fake": "fake discriminator"},
    "diffratio": {"student": "V", "discriminator": "discriminator"},
    "moment_matching": {"student": "V", "fake": "fake"},
    "self_e": {"anchor": "V", "self": "V"},
}


@pytest.mark.parametrize("name", NAMES)
def test_who_learns_what_leaf_by_leaf(name):
    method = methods.make(name)
    drawn = method.draw(jax.random.key(0), BATCH, 0)
    assert {term.name for term in method.terms} == set(TRAINS[name])

    def errors(params, point, term):
        return jnp.sum(method.loss(nets_of(params), {term: point})[0])

    for term, trained in TRAINS[name].items():
        gradient = quick_jit(jax.grad(functools.partial(errors, term=term)))(PARAMS, drawn[term])
        for network_name, leaves in gradient.items():
            for leaf, value in leaves.items():
                assert bool(value != 0) == (network_name in trained.split()), (term, network_name, leaf)


def test_constants_that_are_published():
    constants = {name: methods.constants(name) for name in NAMES}
    published = {
        "dmd2": {"student_every": 5, "adversarial": 3e-3, "discriminator": 1e-2, "c": 1e-6, "fake_loss": "edm"},
        "f_distill": {"student_every": 5, "adversarial": 1e-3, "divergence": "js", "bins": 10},
        "sid": {"alpha": 1.2, "scale": 100.0, "fake_times": ("logit_normal", -1.2, 1.2), "c": 1e-5, "student_every": 1},
        "sim": {"fake_times": ("logit_normal", -1.2, 1.2), "student_every": 1},  # as SiD's
        "moment_matching": {"steps": 8, "student_every": 1},
    }
    for name, expected_values in published.items():
        assert expected_values.items() <= constants[name].items(), name
    # SiD's levels of noise are the first 0.8 of those of Karras.
    ends = [sigma ** (1 / 7) for sigma in (0.002, 80.0)]
    assert (ends[0] + 0.8 * (ends[1] - ends[0])) ** 7 == pytest.approx(constants["sid"]["times"][3], rel=1e-3)


def test_terms_draw_their_own_noise_and_sample_from_it():
    drawn = methods.make("dmd2").draw(jax.random.key(0), BATCH, 0)
    noises = [drawn["student"].x, drawn["fake"].x, drawn["student"].eps, drawn["fake"].eps]
    assert all((one != other).all() for i, one in enumerate(noises) for other in noises[i + 1 :])
    assert (drawn["fake"].x0 == BATCH["x"]).all()


def test_students_of_several_steps_are_trained_where_they_sample():
    steps, V = 3, lambda x, s, t, cond=None: jnp.sin(x) * (s - t)
    term = methods.make("dmd2", student_steps=steps).terms[0]
    point = methods.make("dmd2", student_steps=steps).draw(jax.random.key(0), {"x": jnp.zeros((64, 2))}, 0)["student"]
    at = term.prepare(typing.Nets(V=V), point)
    level = np.asarray(point.extra["level"])
    assert set(level) == {0, 1, 2}
    np.testing.assert_allclose(at.s[:, 0], 1 - level / steps, rtol=1e-6)
    noises, x, s = point.extra["noises"], point.x, 1.0
    assert (at.x[level == 0] == x[level == 0]).all()
    for number in (1, 2):  # what the sampler "consistency" does
        below = 1 - number / steps
        x = (1 - below) * (x - s * V(x, s, 0.0)) + below * noises[:, number - 1]
        s = below
        np.testing.assert_allclose(at.x[level == number], x[level == number], rtol=1e-5, atol=1e-6)
    info = methods.info("dmd2")
    assert info.sampler == "consistency" and info.eval_steps({"student_steps": steps}) == (steps,)
    assert samplers.grid(steps).tolist() == pytest.approx([1, 2 / 3, 1 / 3, 0], abs=1e-6)
    with pytest.raises(typing.InputError, match="student_steps is 0; expected a whole number"):
        methods.make("dmd2", student_steps=0)


def test_dmd_regresses_on_pairs_if_it_is_told_to():
    method = methods.make("dmd", regression=0.25)
    with pytest.raises(typing.InputError, match="trains on a coupling"):
        method.draw(jax.random.key(0), BATCH, 0)
    drawn = method.draw(jax.random.key(0), BATCH | {"eps": BATCH["x"] + 1}, 0)
    _, metrics = method.loss(nets_of(PARAMS), drawn)
    x = BATCH["x"] + 1
    error = x - network(PARAMS["V"], x, 1.0, 0.0) - BATCH["x"]
    assert metrics["regression"] == pytest.approx(float(jnp.mean(error**2)), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "given", "sentence"),
    [
        ("dmd2", {"fake_loss": "edn"}, "unknown loss of the fake 'edn'"),
        ("adaptive_matching", {"reward": "beauty"}, "unknown reward 'beauty'"),
        ("moment_matching", {"steps": 0}, "steps is 0"),
    ],
)
def test_bad_constants_end_in_one_sentence(name, given, sentence):
    with pytest.raises(typing.InputError, match=sentence):
        methods.make(name, **given)


# Costs

COSTS = pathlib.Path(__file__).parents[1] / "docs" / "distributional_costs.csv"


def test_steps_cost_what_the_arithmetic_says():
    rows = {row["method"]: row for row in csv.DictReader(COSTS.read_text().splitlines())}
    for name in NAMES:
        row = rows[name]
        assert float(row["derived"]) == methods.info(name).derived_fpe
        assert float(row["mean"]) <= 1.15 * float(row["derived"]), name
        assert float(row["student"]) > 0 and (float(row["others"]) == 0) == (name == "self_e")
    # Four steps of five cost the followers alone: a resting student costs nothing.
    dmd2 = {key: float(rows["dmd2"][key]) for key in ("mean", "student", "others")}
    assert dmd2["mean"] == pytest.approx(dmd2["others"] + dmd2["student"] / 5, rel=0.02)


@pytest.mark.slow
def test_the_cost_of_dmd2_is_the_committed_one():
    row = next(row for row in csv.DictReader(COSTS.read_text().splitlines()) if row["method"] == "dmd2")
    assert step_cost.apart("dmd2") == pytest.approx([float(row[key]) for key in ("student", "others", "mean")], abs=0.01)


# Runs


@pytest.mark.parametrize("name", [name if name == "dmd2" else pytest.param(name, marks=pytest.mark.slow) for name in NAMES])
def test_the_config_of_points_builds_its_steps(name):
    config = method_config.get_config(f"{name},checkerboard")
    assert config.steps == 3_000 * config.method.get("student_every", 1)
    run = runs.setup(config, devices=jax.devices()[:1])  # traces each kind of step
    assert set(run.settings.auxiliary) == set(run.method.networks)
    assert len(run.cycle.distinct()) == (2 if config.method.get("student_every", 1) > 1 else 1)


def test_digits_ask_for_a_teacher_in_one_sentence():
    with pytest.raises(typing.InputError, match="--config.teacher=runs/NAME"):
        runs.setup(method_config.get_config("dmd2,digits"), devices=jax.devices()[:1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dmd2", "sid", "f_distill", "adaptive_matching"])
def test_killed_and_resumed_it_is_the_same_run_and_eight_devices_are_one(name, tmp_path):
    config = small(name, steps=6, save_every=3)
    if name != "sid":
        config.method.student_every, config.method.student_steps = 2, 2
    whole = jax.device_get(loop.train(config, tmp_path / "run", devices=jax.devices()[:1]))
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "6")
    again = jax.device_get(loop.train(config, tmp_path / "run", devices=jax.devices()[:1]))
    jax.tree.map(np.testing.assert_array_equal, whole, again)
    eight = jax.device_get(loop.train(config, tmp_path / "eight", devices=jax.devices()[:8]))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=2e-4), whole.params, eight.params)


@pytest.mark.slow
def test_a_trained_run_is_where_the_networks_start(flow_run):
    config = small("dmd2", teacher=str(flow_run), start=str(flow_run))
    run = runs.setup(config, devices=jax.devices()[:1])
    state = run.init()
    assert set(state.params) == {"V", "fake", "discriminator"}
    jax.tree.map(np.testing.assert_array_equal, state.params["V"], state.params["fake"])
