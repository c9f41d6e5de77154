"""Teachers, auxiliary networks and learned log-variances in the trainer: who is asked, who learns, what is refused."""

import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import method as method_config
from flowjax import flowmap, models, typing
from flowjax.training import checkpoint, experiment, loop, networks, sharding

ONE = jax.devices()[:1]


def small(name, **changes):
    config = method_config.get_config(f"{name},test")
    config.update({"eval_every": 0, "steps": 8, "save_every": 4, "batch_size": 32, "log_every": 2} | changes)
    return config


def rows(count=32, dim=2):
    return {"x": np.random.default_rng(0).standard_normal((count, dim)).astype(np.float32)}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The folder of a short run of flow matching."""
    folder = tmp_path_factory.mktemp("teacher")
    loop.train(small("flow_matching"), folder, devices=ONE)
    return str(folder)


def step_once(run):
    state, metrics = jax.jit(run.step)(run.init(), sharding.global_batch(run.mesh, rows()), run.fixed)
    return jax.device_get(state), metrics


@pytest.mark.parametrize("name", ["cd", "lmd", "pfmm"])
def test_a_run_teaches(name, teacher):
    run = experiment.setup(small(name, teacher=teacher), devices=ONE)
    trained = experiment.load(teacher)
    chex.assert_trees_all_equal(jax.device_get(run.fixed), jax.device_get(trained.params))
    nets = networks.nets(run.networks, run.init().params, None, run.fixed)
    x, s, t = jnp.asarray(rows()["x"]), jnp.full((32, 1), 0.8), jnp.full((32, 1), 0.3)
    ask = lambda s, t: trained.net.apply({"params": trained.params}, x, s, t, None)
    np.testing.assert_allclose(nets.teacher(x, t), ask(t, t), rtol=1e-6)
    np.testing.assert_allclose(nets.teacher_map(x, s, t), ask(s, t), rtol=1e-6)
    assert np.abs(ask(t, t)).max() > 0.01
    state, metrics = step_once(run)
    chex.assert_tree_all_finite((state, metrics))
    assert set(state.params) == {"V"}


def test_a_student_is_sampled_without_its_teacher(teacher, tmp_path):
    moved = tmp_path / "teacher"
    shutil.copytree(teacher, moved)
    loop.train(small("ayf_emd", teacher=str(moved)), tmp_path / "student", devices=ONE)
    shutil.rmtree(moved)
    assert experiment.load(tmp_path / "student").step == 8


def test_a_distilling_run_resumes_to_the_same_bits(teacher, tmp_path):
    whole = loop.train(small("freeflow", teacher=teacher), tmp_path / "whole", devices=ONE)
    config = small("freeflow", teacher=teacher)
    run = experiment.setup(config, devices=ONE)
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    shutil.rmtree(tmp_path / "part" / "checkpoints" / "8")
    again = loop.train(config, tmp_path / "part", devices=ONE)
    chex.assert_trees_all_equal(jax.device_get(whole.params), jax.device_get(again.params))
    assert int(checkpoint.fingerprint(whole)) == int(checkpoint.fingerprint(again)) and set(run.like.params) == {
        "V",
        "velocity",
    }


def test_gradients_reach_the_trained_networks_and_no_other(teacher):
    config = small("freeflow", teacher=teacher)
    run = experiment.setup(config, devices=ONE)
    start = run.init()
    drawn = run.method.draw(jax.random.key(1), rows(), 0)
    params = jax.tree.map(lambda p: p + 0.01, start.params)  # off the zeros of the last layers

    def loss(params, fixed):
        return run.method.loss(networks.nets(run.networks, params, None, fixed), drawn)[0].mean()

    trained, asked = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, run.fixed)
    assert all(np.abs(leaf).max() == 0 for leaf in jax.tree.leaves(asked))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(trained))


def test_the_closed_form_teaches():
    run = experiment.setup(small("emd"), devices=ONE)
    assert run.config.teacher == "exact" and run.fixed == ()
    state, metrics = step_once(run)
    chex.assert_tree_all_finite((state, metrics))


def test_a_log_variance_is_trained_along():
    run = experiment.setup(small("lsd"), devices=ONE)
    before, (after, _) = jax.device_get(run.init()), step_once(run)
    assert set(after.params) == {"V", "log_variance"} and set(after.averages) == {"0.999"}
    chex.assert_trees_all_equal_structs(after.averages["0.999"], after.params["V"])
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before.params["log_variance"], after.params["log_variance"])
    assert max(jax.tree.leaves(moved)) > 0


def test_the_weights_of_v_do_not_depend_on_what_else_is_trained():
    chex.assert_trees_all_equal(*(experiment.setup(small(name), devices=ONE).init().params["V"] for name in ("lsd", "soflow")))


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("emd", {"teacher": ""}, "distils a teacher's velocity.*--config.teacher=runs/NAME, or --config.teacher=exact"),
        ("pfmm", {}, "distils a teacher's flow map.*--config.teacher=runs/NAME"),
        ("pfmm", {"teacher": "exact"}, "needs a teacher's flow map"),
        ("soflow", {"teacher": "exact"}, "config.teacher is 'exact', and the method asks no teacher"),
        ("emd", {"teacher": "/nowhere"}, "--config.teacher=/nowhere does not exist"),
        ("emd", {"data": {"name": "spirals", "dir": "", "flip": False}}, "'spirals' is not known in closed form.*checkerboard"),
    ],
)
def test_a_teacher_that_cannot_teach(name, changes, said):
    with pytest.raises(typing.InputError, match=said):
        experiment.setup(small(name, **changes), devices=ONE)


def test_a_teacher_of_other_data(teacher):
    config = method_config.get_config("emd,digits")
    config.update({"teacher": teacher, "eval_every": 0})
    with pytest.raises(typing.InputError, match=r"rows of shape \(2,\) with 0 classes; digits has \(8, 8, 1\) with 10"):
        experiment.setup(config, devices=ONE)


def test_a_teacher_without_a_checkpoint(teacher, tmp_path):
    shutil.copytree(teacher, tmp_path / "empty")
    shutil.rmtree(tmp_path / "empty" / "checkpoints")
    with pytest.raises(typing.InputError, match="--config.teacher=.* holds no checkpoint"):
        experiment.setup(small("emd", teacher=str(tmp_path / "empty")), devices=ONE)


@pytest.mark.parametrize("parameterisation", flowmap.PARAMETERISATIONS)
@pytest.mark.parametrize("name", ["mlp", "dit"])
def test_networks_of_any_parameterisation(name, parameterisation):
    shape, x = ((8, 8, 1), jnp.ones((3, 8, 8, 1))) if name == "dit" else ((2,), jnp.ones((3, 2)))
    net = models.make(name, num_classes=4, parameterisation=parameterisation, width=16, depth=1)
    raw = models.make(name, num_classes=4, width=16, depth=1)
    cond = {"label": jnp.arange(3)}
    params = jax.tree.map(lambda p: p + 0.05, net.init(jax.random.key(0), x, 0.8, 0.2, cond)["params"])
    own = params if parameterisation == "velocity" else params["net"]
    N = lambda x, s, t, cond: raw.apply({"params": own}, x, s, t, cond)
    expected = flowmap.PARAMETERISATIONS[parameterisation](N)(x, 0.8, 0.2, cond)
    np.testing.assert_allclose(net.apply({"params": params}, x, 0.8, 0.2, cond), expected, rtol=1e-6)
    assert expected.shape == (3, *shape)


def test_an_unknown_parameterisation():
    with pytest.raises(typing.InputError, match="unknown parameterisation 'edn'; did you mean edm"):
        models.make("mlp", parameterisation="edn")
