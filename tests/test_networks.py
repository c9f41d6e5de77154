"""Teachers, auxiliary networks and learned log-variances in the trainer: which networks run, which learn, what is refused."""

import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import rows, small

from configs import method as method_config
from flowjax import derivatives, distances, losses, models, typing
from flowjax.evaluation import trajectories
from flowjax.training import (
    checkpoint,
    loading,
    loop,
    networks,
    parts,
    run_checks,
    runs,
    sampling,
    settings,
    sharding,
    teachers,
)

ONE = jax.devices()[:1]
GUIDED = {**settings.Guidance()._asdict(), "kind": "autoguidance", "scale": (1.0, 3.0), "interval": (0.1, 0.9)}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The folder of a short run of flow matching."""
    folder = tmp_path_factory.mktemp("teacher")
    loop.train(small("flow_matching"), folder, devices=ONE)
    return str(folder)


def step_once(run):
    state, metrics = jax.jit(run.step)(run.init(), sharding.global_batch(run.mesh, rows()), run.fixed)
    return jax.device_get(state), metrics


@pytest.fixture(scope="module")
def map_teacher(tmp_path_factory):
    """The folder of a short run of a flow map."""
    folder = tmp_path_factory.mktemp("map_teacher")
    loop.train(small("psd"), folder, devices=ONE)
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pfmm", "cd", "lmd"])
def test_a_run_teaches(name, teacher, map_teacher):
    teacher = map_teacher if name == "pfmm" else teacher
    run = runs.setup(small(name, teacher=teacher), devices=ONE)
    trained = loading.load(teacher)
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


@pytest.mark.slow
def test_a_student_is_sampled_without_its_teacher(teacher, tmp_path):
    moved = tmp_path / "teacher"
    shutil.copytree(teacher, moved)
    loop.train(small("ayf_emd", teacher=str(moved)), tmp_path / "student", devices=ONE)
    shutil.rmtree(moved)
    assert loading.load(tmp_path / "student").step == 8


@pytest.mark.slow
def test_a_distilling_run_resumes_to_the_same_bits(teacher, tmp_path):
    whole = loop.train(small("freeflow", teacher=teacher), tmp_path / "whole", devices=ONE)
    config = small("freeflow", teacher=teacher)
    run = runs.setup(config, devices=ONE)
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
    run = runs.setup(config, devices=ONE)
    start = run.init()
    drawn = run.method.draw(jax.random.key(1), rows(), 0)
    params = jax.tree.map(lambda p: p + 0.01, start.params)  # off the zeros of the last layers

    def loss(params, fixed):
        return run.method.loss(networks.nets(run.networks, params, None, fixed), drawn)[0].mean()

    trained, calls = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, run.fixed)
    assert all(np.abs(leaf).max() == 0 for leaf in jax.tree.leaves(calls))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(trained))


def test_the_student_moves_neither_teacher_nor_auxiliary_and_the_auxiliary_not_the_student(teacher):
    """FreeFlow's one scalar against the losses of its two networks, each written with the other one held fixed."""
    run = runs.setup(small("freeflow", teacher=teacher), devices=ONE)
    drawn = run.method.draw(jax.random.key(1), rows(), 0)
    params = jax.tree.map(lambda p: p + 0.02, run.init().params)
    apply = lambda weights: lambda x, s, t: run.net.apply({"params": weights}, x, s, t, {})

    def whole(params, fixed):
        return run.method.loss(networks.nets(run.networks, params, None, fixed), drawn)[0].mean()

    def student(weights):
        V, auxiliary, ask = apply(weights), apply(params["velocity"]), apply(run.fixed)
        at = lambda net: lambda x, t: net(x, t, t)
        own, p = drawn["prediction"], drawn["correction"]
        predicted = losses.freeflow_prediction(V, at(ask), own.x, own.t, jvp=derivatives.jvp_from_name("forward"))
        pushed = losses.freeflow_correction(V, at(auxiliary), at(ask), p.x, p.t, p.eps)
        first = distances.adaptive(*predicted, reduce="mean", p=1.0, c=1e-3).sum()
        return (first + distances.normalised(*pushed, reduce="mean", c=1e-6).sum()) / 32

    def auxiliary(weights):
        p = drawn["correction"]
        sample = p.x - apply(params["V"])(p.x, 1.0, 0.0)
        x_r = (1 - p.t) * sample + p.t * p.eps
        return distances.l2(apply(weights)(x_r, p.t, p.t), p.eps - sample).sum() / 32

    result, calls = jax.jit(jax.grad(whole, argnums=(0, 1)))(params, run.fixed)
    chex.assert_trees_all_equal(calls, jax.tree.map(jnp.zeros_like, run.fixed))
    for name, alone in (("V", student), ("velocity", auxiliary)):
        expected = jax.jit(jax.grad(alone))(params[name])
        for (path, leaf), other in zip(jax.tree.leaves_with_path(result[name]), jax.tree.leaves(expected), strict=True):
            size = np.abs(other).max()
            assert size > 1e-6, path
            np.testing.assert_allclose(leaf, other, atol=2e-4 * size, err_msg=f"{name} {path}")


@pytest.mark.parametrize("name", ["lmd", "pfmm", "cd"])
def test_no_loss_moves_a_teacher(name, teacher, map_teacher):
    run = runs.setup(small(name, teacher=map_teacher if name == "pfmm" else teacher), devices=ONE)
    start = run.init()
    drawn = run.method.draw(jax.random.key(1), rows(), 0)

    def loss(params, fixed):
        return run.method.loss(networks.nets(run.networks, params, start.target, fixed), drawn)[0].mean()

    own, calls = jax.jit(jax.grad(loss, argnums=(0, 1)))(start.params, run.fixed)
    chex.assert_trees_all_equal(calls, jax.tree.map(jnp.zeros_like, run.fixed))
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(own)) > 0


@pytest.mark.parametrize(
    ("name", "reads"),
    [("emd", True), *(pytest.param(name, False, marks=pytest.mark.slow) for name in ("freeflow", "pid", "boot"))],
)
def test_a_data_free_method_reads_no_data(name, reads):
    """One step on rows that are not a number: every term, gradient and weight as with real rows."""
    run = runs.setup(small(name), devices=ONE)
    step = jax.jit(run.step)
    with_data, without = (
        step(run.init(), sharding.global_batch(run.mesh, {"x": x}), run.fixed)
        for x in (rows()["x"], np.full_like(rows()["x"], np.nan))
    )
    if reads:
        assert not np.isfinite(without[1]["loss"])
    else:
        assert int(checkpoint.fingerprint(with_data[0])) == int(checkpoint.fingerprint(without[0]))
        chex.assert_trees_all_equal(with_data[1], without[1])


@pytest.mark.slow
def test_every_network_has_a_rate_and_a_period():
    plain = {
        "optim": {**small("freeflow").optim.to_dict(), "name": "sgd", "kwargs": {}, "learning_rate": 0.1, "clip_norm": 0.0}
    }
    slow = small("freeflow", **plain, auxiliary={"velocity": {"learning_rate": 0.02, "every": 3}})
    run, twice = (
        runs.setup(slow, devices=ONE),
        runs.setup(small("freeflow", **plain, auxiliary={"velocity": {"learning_rate": 0.1, "every": 1}}), devices=ONE),
    )
    states = [run.init()]
    step, step_twice = jax.jit(run.step, static_argnames="phase"), jax.jit(twice.step)
    for number in range(4):
        states.append(step(states[-1], rows(), run.fixed, phase=run.cycle.at(number))[0])
    chex.assert_trees_all_equal(*(state.params["velocity"] for state in states[:3]))
    chex.assert_trees_all_equal(states[3].params["velocity"], states[4].params["velocity"])
    moved = lambda old, new, name: jax.tree.map(lambda a, b: np.asarray(b - a), old.params[name], new.params[name])
    assert sum(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(moved(states[2], states[3], "velocity"))) >= 2
    assert all(max(map(np.max, jax.tree.leaves(moved(a, b, "V")))) > 0 for a, b in zip(states, states[1:]))
    # The same state and draws, another rate: the update is a fifth.
    fast = step_twice(states[2], rows(), twice.fixed)[0]
    jax.tree.map(
        lambda own, other: np.testing.assert_allclose(own, other / 5, rtol=1e-3, atol=1e-7),
        moved(states[2], states[3], "velocity"),
        moved(states[2], fast, "velocity"),
    )


def test_averages_rest_when_v_rests():
    config = small("tvm")
    config.optim.every, config.ema = 2, (0.5,)
    run = runs.setup(config, devices=ONE)
    step, states = jax.jit(run.step, static_argnames="phase"), [run.init()]
    for number in range(2):
        states.append(step(states[-1], rows(), (), phase=run.cycle.at(number))[0])
    first, resting, moved = states
    chex.assert_trees_all_equal(*((state.params, state.target, state.averages, state.opt_state) for state in (first, resting)))
    assert all(
        not np.array_equal(jax.tree.leaves(a)[-1], jax.tree.leaves(b)[-1])
        for a, b in ((moved.target, first.target), (moved.params["V"], first.params["V"]), (moved.averages, first.averages))
    )


def test_an_auxiliary_rate_follows_the_main_one_until_it_is_given():
    config = small("freeflow")
    config.optim.learning_rate = 5e-4
    assert config.auxiliary.velocity.learning_rate == 5e-4
    config.auxiliary.velocity.learning_rate = 1e-4
    assert config.optim.learning_rate == 5e-4


def test_a_student_starts_from_its_teacher(teacher):
    trained = loading.load(teacher)
    run = runs.setup(small("freeflow", teacher=teacher, start="teacher"), devices=ONE)
    state = run.init()
    for tree in (state.params["V"], state.params["velocity"], state.averages["0.999"]):
        chex.assert_trees_all_equal(tree, trained.params)
    tvm = runs.setup(small("tvm", start=teacher), devices=ONE).init()
    chex.assert_trees_all_equal(tvm.params["V"], trained.params)
    chex.assert_trees_all_equal(tvm.target, trained.params)
    assert not np.array_equal(jax.tree.leaves(runs.setup(small("tvm"), devices=ONE).init().params["V"])[1],
                              jax.tree.leaves(trained.params)[1])  # fmt: skip


def test_weights_of_another_network_are_refused(teacher):
    wide = small("soflow", start=teacher)
    wide.model.width = 48
    with pytest.raises(typing.InputError, match="the weights to start from are of another network.*48"):
        runs.setup(wide, devices=ONE)
    with pytest.raises(typing.InputError, match="whose network predicts 'velocity', and config.model 'edm'"):
        runs.setup(small("cd", teacher=teacher, start="teacher"), devices=ONE)
    with pytest.raises(
        typing.InputError, match="config.start is '.*', whose network predicts 'velocity', and config.model 'edm'"
    ):
        runs.setup(small("ect", start=teacher), devices=ONE)


@pytest.mark.slow
def test_an_autoguided_teacher_is_extrapolated_and_its_scale_is_an_input(teacher, tmp_path):
    weak = small("flow_matching", steps=2)
    loop.train(weak, tmp_path / "weak", devices=ONE)
    config = small("ayf_emd", teacher=teacher, start="teacher", guidance={**GUIDED, "weak": str(tmp_path / "weak")})
    run = runs.setup(config, devices=ONE)
    drawn = run.method.draw(jax.random.key(0), rows(), 0)
    (point,) = drawn.values()
    scale = point.cond["guidance"]
    assert scale.shape == (32,) and 1 <= scale.min() < 1.3 and 2.7 < scale.max() <= 3
    v, v_weak = (
        trained.net.apply({"params": trained.params}, point.x, point.s, point.s, None)
        for trained in (loading.load(teacher), loading.load(tmp_path / "weak"))
    )
    inside = (point.s >= 0.1) & (point.s <= 0.9)
    expected = jnp.where(inside, v_weak + scale[:, None] * (v - v_weak), v)
    start = run.init()
    nets = networks.nets(run.networks, start.params, None, run.fixed)
    np.testing.assert_allclose(nets.teacher(point.x, point.s, point.cond), expected, rtol=1e-4, atol=1e-5)
    assert 3 < inside.sum() < 32 and np.abs(v - v_weak).max() > 1e-3
    # The student starts as its teacher whatever the scale, then learns to tell scales apart.
    ask = lambda params, w: run.net.apply({"params": params}, point.x, 0.9, 0.1, {"guidance": jnp.full(32, w)})
    np.testing.assert_array_equal(ask(start.params["V"], 1.0), ask(start.params["V"], 3.0))
    loop.train(config, tmp_path / "student", devices=ONE)
    student = loading.load(tmp_path / "student", average="none")
    assert np.abs(ask(student.params, 1.0) - ask(student.params, 3.0)).max() > 1e-5
    assert (
        student.conditioning() == {"guidance": 2.0}
        and student.conditioning(1.5) == {"guidance": 1.5}
        and loading.load(teacher).conditioning() == {}
    )
    with pytest.raises(typing.InputError, match=r"--guidance=4.0: the run learned scales from 1.0 to 3.0"):
        student.conditioning(4.0)
    with pytest.raises(typing.InputError, match=r"--guidance=2.0: the run learned without guidance"):
        loading.load(teacher).conditioning(2.0)
    with pytest.raises(typing.InputError, match="--config.teacher=.*student is itself guided and has the inputs guidance"):
        runs.setup(small("ayf_emd", teacher=str(tmp_path / "student")), devices=ONE)
    samples = [
        sampling.make_sampler(student.net, (2,), conditioning={"guidance": w})(student.params, 0, np.full(16, -1), 1)
        for w in (1.0, 3.0)
    ]
    assert not np.array_equal(*samples)


@pytest.mark.slow
def test_classifier_free_guidance_of_a_labelled_teacher():
    config = method_config.get_config("emd,digits")
    config.guidance.update({"kind": "classifier_free", "scale": (2.0, 2.0)})
    config.teacher = "run"
    net = models.make("mlp", num_classes=10, width=16, depth=2)
    params = net.init(jax.random.key(0), jnp.zeros((1, 2)), 1.0, 0.0, {})["params"]
    params = jax.tree.map(lambda p: p + 0.05 * jax.random.normal(jax.random.key(p.size), p.shape), params)
    student = settings.read(config)
    facts = runs.Facts(student)

    def make(label_drop):
        of_run = method_config.get_config("flow_matching,digits")
        of_run.method.label_drop = label_drop
        facts.teacher = loading.Trained(settings.read(of_run), (8, 8, 1), 10, net, params, 1)
        run_checks.trained_teacher(student, facts)
        return teachers.make(facts.teacher, None, student.guidance, "digits")

    run_method = parts.method(student.method, student.guidance)
    made = make(0.1)
    x, label, t = jax.random.normal(jax.random.key(1), (4, 2)), jnp.array([3, 7, -1, 0]), jnp.full((4, 1), 0.4)
    ask = lambda label: net.apply({"params": params}, x, t, t, {"label": label})
    result = made.velocity(made.weights, x, t, {"label": label, "guidance": jnp.full(4, 2.0)})
    np.testing.assert_allclose(result, 2 * ask(label) - ask(jnp.full(4, -1)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result[2], ask(label)[2], rtol=1e-4, atol=1e-5)  # a dropped label is not guided
    assert np.abs(result - ask(label)).max() > 1e-3
    drawn = run_method.draw(jax.random.key(0), {"x": x, "label": label}, 0)
    assert all((point.cond["guidance"] == 2.0).all() for point in drawn.values())
    with pytest.raises(typing.InputError, match="has no unconditional velocity: it must be a run on labelled data"):
        make(0.0)


def test_the_closed_form_teaches():
    run = runs.setup(small("emd"), devices=ONE)
    assert run.settings.teacher == "exact" and run.fixed == ()
    state, metrics = step_once(run)
    chex.assert_tree_all_finite((state, metrics))


def test_a_log_variance_is_trained_along():
    run = runs.setup(small("dmf"), devices=ONE)
    before, (after, _) = jax.device_get(run.init()), step_once(run)
    assert set(after.params) == {"V", "log_variance"} and set(after.averages) == {"0.999"}
    chex.assert_trees_all_equal_structs(after.averages["0.999"], after.params["V"])
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before.params["log_variance"], after.params["log_variance"])
    assert max(jax.tree.leaves(moved)) > 0


def test_the_weights_of_v_do_not_depend_on_what_else_is_trained():
    chex.assert_trees_all_equal(*(runs.setup(small(name), devices=ONE).init().params["V"] for name in ("dmf", "soflow")))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("emd", {"teacher": ""}, "distils a teacher's velocity.*--config.teacher=runs/NAME, or --config.teacher=exact"),
        ("pfmm", {}, "distils a teacher's flow map.*--config.teacher=runs/NAME"),
        ("pfmm", {"teacher": "exact"}, "needs a teacher's flow map"),
        ("soflow", {"teacher": "exact"}, "config.teacher is 'exact', and the method has no teacher"),
        ("emd", {"teacher": "/nowhere"}, "--config.teacher=/nowhere does not exist"),
        ("soflow", {"guidance": GUIDED}, "config.guidance.kind is 'autoguidance', and the method has no teacher"),
        ("emd", {"guidance": GUIDED}, "config.guidance.weak is empty; give the folder of a weaker run"),
        ("emd", {"guidance": {**GUIDED, "weak": "/nowhere"}}, "--config.guidance.weak=/nowhere does not exist"),
        ("emd", {"guidance": {**GUIDED, "kind": "classifier_free"}}, "the teacher exact has no unconditional velocity"),
        (
            "emd",
            {"guidance": {**GUIDED, "kind": "cfg"}},
            "unknown config.guidance.kind .cfg.",
        ),
        (
            "emd",
            {"guidance": {**GUIDED, "scale": (3.0, 2.0)}},
            r"config.guidance.scale is \(3.0, 2.0\); expected scales \(low, high\)",
        ),
        ("emd", {"guidance": {**GUIDED, "scale": (3.0,)}}, r"config.guidance.scale is \(3.0,\)"),
        ("emd", {"guidance": {**GUIDED, "interval": (0.0, 2.0)}}, "config.guidance.interval is .*; expected times"),
        ("emd", {"start": "teacher"}, "config.start is 'teacher', and config.teacher is 'exact', which has no weights"),
        ("soflow", {"start": "/nowhere"}, "--config.start=/nowhere does not exist"),
        (
            "freeflow",
            {"auxiliary": {}},
            "'freeflow' trains the network 'velocity' along, and config.auxiliary has none; add",
        ),
        (
            "soflow",
            {"auxiliary": {"velocity": {"every": 1}}},
            "config.auxiliary has 'velocity', and method 'soflow' trains none along",
        ),
        (
            "freeflow",
            {"auxiliary": {"velocity": {"every": 0}}},
            "config.auxiliary.velocity.every is 0; expected a whole number",
        ),
        ("emd", {"guidance": {**GUIDED, "scale": ("a", "b")}}, r"config.guidance.scale is \('a', 'b'\)"),
        (
            "emd",
            {"guidance": {**GUIDED, "kind": ""}},
            "config.guidance.scale is .*, and config.guidance.kind is ''; expected a kind",
        ),
        (
            "lmd",
            {"method": {"name": "lmd", "path": "trigonometric"}},
            "'exact', the velocity on the linear path, and config.method.path",
        ),
        (
            "pid",
            {"data": {"name": "checkerboard", "dir": "", "flip": False, "coupling": "ot"}},
            "'pid' learns from noise alone",
        ),
        ("soflow", {"seeds": 0}, "config.seeds is 0; expected a whole number of at least 1"),
        (
            "emd",
            {"data": {"name": "spirals", "dir": "", "flip": False, "coupling": ""}},
            "'spirals' is not known in closed form.*checkerboard",
        ),
    ],
)
def test_a_teacher_that_cannot_teach(name, changes, message):
    with pytest.raises(typing.InputError, match=message):
        runs.setup(small(name, **changes), devices=ONE)


def test_a_teacher_of_other_data(teacher):
    config = method_config.get_config("emd,digits")
    config.update({"teacher": teacher, "eval_every": 0})
    with pytest.raises(typing.InputError, match=r"rows of shape \(2,\) with 0 classes; digits has \(8, 8, 1\) with 10"):
        runs.setup(config, devices=ONE)


def test_a_teacher_that_did_not_learn_what_the_method_needs(teacher, tmp_path):
    loop.train(small("ct", steps=2), tmp_path / "ct", devices=ONE)
    with pytest.raises(typing.InputError, match="is a run of 'ct', which learns jumps to data and so does not know a velocity"):
        runs.setup(small("emd", teacher=str(tmp_path / "ct")), devices=ONE)
    with pytest.raises(typing.InputError, match="is a run of 'ct', which learns jumps to data and no velocity"):
        trajectories.write(str(tmp_path / "ct"), str(tmp_path / "pairs"))
    with pytest.raises(
        typing.InputError, match="is a run of 'flow_matching', which learns no jumps and so does not know a flow map"
    ):
        runs.setup(small("pfmm", teacher=teacher), devices=ONE)
    with pytest.raises(typing.InputError, match="is a run on the path 'linear', and config.method.path is 'trigonometric'"):
        runs.setup(small("lmd", teacher=teacher, method={"name": "lmd", "path": "trigonometric"}), devices=ONE)


def test_a_teacher_without_a_checkpoint(teacher, tmp_path):
    shutil.copytree(teacher, tmp_path / "empty")
    shutil.rmtree(tmp_path / "empty" / "checkpoints")
    with pytest.raises(typing.InputError, match="--config.teacher=.* holds no checkpoint"):
        runs.setup(small("emd", teacher=str(tmp_path / "empty")), devices=ONE)
