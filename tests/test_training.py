"""The step and the loop: meshes, one trace, averages, checkpoints, resuming, stopping."""

import json
import pathlib
import re
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import rows, small, with_sgd

from configs import meanflow
from flowjax import data, methods, typing
from flowjax.profiling import collectives
from flowjax.training import (
    checkpoint,
    compilation,
    loading,
    log,
    loop,
    networks,
    optimizers,
    ranges,
    runs,
    sharding,
    step,
    workdir,
)

# One of each kind: derivative, target network, learned log-variance, teacher in a loop, auxiliary network, conditional.
KINDS = ("meanflow", "tvm", "dmf", "ctm", "freeflow", "alphaflow")


def final(folder, config):
    run = runs.setup(config, devices=jax.devices()[:1])
    return checkpoint.Checkpoints(folder, read_only=True).restore(run.like)


def run_steps(config, devices, count):
    run = runs.setup(config, devices=devices)
    chex.clear_trace_counter()
    out = sharding.places(run.like), sharding.whole(run.mesh)
    step_fn = jax.jit(chex.assert_max_traces(run.step, n=1), donate_argnums=0, out_shardings=out)
    state_, result = run.init(), []
    for _ in range(count):
        state_, metrics = step_fn(state_, sharding.global_batch(run.mesh, rows()))
        jax.block_until_ready(state_)
        result.append(jax.device_get(metrics))
    assert not count or step_fn._cache_size() == 1  # no second compilation for another placement either
    return jax.device_get(state_), result


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) for name in KINDS],  # tests/test_meshes.py has meanflow and tvm
)
def test_eight_devices_train_as_one_does(name):
    config = small(name)
    with_sgd(config)
    one, metrics_one = run_steps(config, jax.devices()[:1], 5)
    eight, metrics_eight = run_steps(config, jax.devices()[:8], 5)
    # FreeFlow divides by the step of its finite difference, rounding and all.
    chex.assert_trees_all_close(one.params, eight.params, atol=2e-5 if name == "freeflow" else 1e-6, rtol=0)
    chex.assert_trees_all_close(metrics_one, metrics_eight, rtol=3e-4 if name == "freeflow" else 1e-4)
    moved = max(np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (one.params, run_steps(config, None, 0)[0].params))))
    assert moved > 1e-3  # five steps did something


def test_one_device_rounds_nothing_to_bfloat16():
    """Nothing is sent; tests/test_meshes.py has eight devices."""
    run = runs.setup(small(communication="bfloat16"), devices=jax.devices()[:1])
    (traced,) = run.traced.values()
    assert "bf16" not in traced.lower().as_text()


def test_draws_do_not_depend_on_the_mesh():
    config = small()
    drawn = []
    for devices in (jax.devices()[:1], jax.devices()[:8]):
        run = runs.setup(config, devices=devices)
        draw = jax.jit(lambda batch, run=run: run.method.draw(jax.random.key(1), batch, 0))
        drawn.append(jax.device_get(draw(sharding.global_batch(run.mesh, rows()))))
    chex.assert_trees_all_equal(*drawn)


@pytest.mark.slow  # tests/test_meshes.py has meanflow, with the bytes
@pytest.mark.parametrize(
    ("name", "sent"),
    [
        # Of the 8 weights 7 are sliced, and so is the target; one all-reduce is of the norms.
        ("ctm", {"all-reduce": 2, "all-gather": 2 * 7, "reduce-scatter": 7}),
        ("freeflow", {"all-reduce": 3, "all-gather": 2 * 7, "reduce-scatter": 2 * 7}),  # two networks
    ],
)
def test_a_step_sends_weights_and_gradients_alone(name, sent):
    run = runs.setup(small(name), devices=jax.devices()[:8])
    (program,) = compilation.compiled(run).values()
    text = program.as_text()
    assert {kind: times for kind, (times, _) in collectives.totals(text).items()} == sent
    assert "input_output_alias" in text  # the state is donated


def test_gradient_of_the_step_is_the_gradient_of_the_mean_error():
    config = small()
    with_sgd(config, 1.0)
    run = runs.setup(config, devices=jax.devices()[:8])
    start = run.init()
    before = jax.device_get(start)
    drawn = run.method.draw(jax.random.fold_in(jax.random.split(jax.random.key(config.seed))[1], 0), rows(), 0)

    def loss(params):
        V = lambda x, s, t, cond=None: run.net.apply({"params": params["V"]}, x, s, t, cond)
        return run.method.loss(typing.Nets(V=V), drawn)[0].mean()

    expected = jax.tree.map(lambda p, g: p - g, before.params, jax.grad(loss)(before.params))
    after, _ = jax.jit(run.step)(start, sharding.global_batch(run.mesh, rows()))
    chex.assert_trees_all_close(jax.device_get(after.params), expected, atol=1e-6)


def test_target_and_evaluation_averages_have_separate_decays():
    config = small("tvm", ema=(0.5, 0.9))
    config.method.ema = 0.75
    run = runs.setup(config, devices=jax.devices()[:1])
    step_fn, now = jax.jit(run.step), run.init()
    target = averages = jax.device_get(now.params["V"])
    averages = {"0.5": averages, "0.9": averages}
    for number in range(3):
        now, _ = step_fn(now, sharding.global_batch(run.mesh, rows()))
        params = jax.device_get(now.params["V"])
        mix = lambda old, decay, params=params: jax.tree.map(lambda o, n: decay * o + (1 - decay) * n, old, params)
        target = mix(target, 0.75)
        averages = {name: mix(old, min(float(name), (1 + number) / (10 + number))) for name, old in averages.items()}
    chex.assert_trees_all_close(now.target, target, atol=1e-6)
    chex.assert_trees_all_close(now.averages, averages, atol=1e-6)


def test_a_finished_run_resumes_to_itself_and_a_halved_run_to_the_whole(tmp_path):
    whole = loop.train(small(), tmp_path / "whole", devices=jax.devices()[:1])
    again = loop.train(small(), tmp_path / "whole", devices=jax.devices()[:1])
    chex.assert_trees_all_equal(whole, again)
    # The first half leaves a checkpoint at step 4; the rest is deleted as if the process had been killed.
    loop.train(small(), tmp_path / "half", devices=jax.devices()[:1])
    lines = (tmp_path / "half" / "metrics.jsonl").read_text()
    shutil.rmtree(tmp_path / "half" / "checkpoints" / "8")
    resumed = loop.train(small(), tmp_path / "half", devices=jax.devices()[:1])
    chex.assert_trees_all_equal(jax.device_get(whole), jax.device_get(resumed))
    measured = re.compile("_ms$|_s$|_gib$")  # what differs from run to run
    kept = lambda text: [{k: v for k, v in json.loads(line).items() if not measured.search(k)} for line in text.splitlines()]
    assert kept(lines) == kept((tmp_path / "half" / "metrics.jsonl").read_text())  # no line twice, none lost


def test_metrics_name_every_term_and_the_weighted_loss(tmp_path):
    config = small()
    config.optim.update({"schedule": "cosine", "learning_rate": 1e-3, "warmup_steps": 0})
    loop.train(config, tmp_path, devices=jax.devices()[:1])
    records = workdir.read_metrics(tmp_path)
    assert [record["step"] for record in records] == [2, 4, 6, 8]
    # The rate with which the last step of the line was taken.
    rates = [0.5e-3 * (1 + np.cos(np.pi * (record["step"] - 1) / 8)) for record in records]
    np.testing.assert_allclose([record["learning_rate"] for record in records], rates, rtol=1e-5)
    assert {"loss", "raw/anchor", "raw/eulerian", "grad_norm", "learning_rate", "step_ms"} <= records[0].keys()
    assert any(path.name.startswith("events.out") for path in tmp_path.iterdir())


@pytest.mark.slow
def test_evaluation_draws_and_measures(tmp_path):
    config = small("flow_matching", eval_every=4, eval_samples=64, eval_steps=(1, 3))
    loop.train(config, tmp_path, devices=jax.devices()[:1])
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["step_0000004.png", "step_0000008.png"]
    measured = [record for record in workdir.read_metrics(tmp_path) if "1step/sliced_wasserstein" in record]
    assert [record["step"] for record in measured] == [4, 8]
    assert measured[0]["1step/sliced_wasserstein"] != measured[0]["3step/sliced_wasserstein"]
    bins = [record[f"bins/anchor/{number}"] for record in measured for number in range(10)]
    assert all(error is None or error > 0 for error in bins) and sum(error is not None for error in bins) > 15


@pytest.mark.slow
@pytest.mark.parametrize(("name", "seeds"), [("meanflow", 2), ("freeflow", 1)])
def test_raw_errors_by_time_are_those_of_the_rows(name, seeds):
    """Sums over bins against the rows of a draw taken apart by hand: by s, or by t where all points are noise."""
    run = runs.setup(small(name, seeds=seeds), devices=jax.devices()[:1])
    state_ = run.init()
    first = lambda tree: tree if seeds == 1 else jax.tree.map(lambda leaf: leaf[0], tree)
    batch = rows() if seeds == 1 else {"x": np.stack([rows()["x"]] * 2)}
    result = run.binned(state_, batch, run.fixed, 3)
    key = jax.random.split(jax.random.key(run.settings.seed))[1]
    drawn = run.method.draw(jax.random.fold_in(jax.random.fold_in(key, 0), 3), rows(), 0)
    params = first(state_.params)
    raw = methods.raw_errors(run.method, networks.nets(run.networks, params, None, run.fixed), drawn)
    _, metrics = run.method.loss(networks.nets(run.networks, params, None, run.fixed), drawn)
    for term, point in drawn.items():
        np.testing.assert_allclose(np.mean(raw[term]), metrics[term], rtol=1e-5)
        time = (point.t if name == "freeflow" else point.s).ravel()
        expected = np.zeros((2, step.BINS))
        for error, number in zip(np.asarray(raw[term]), np.minimum(np.asarray(time) * step.BINS, step.BINS - 1).astype(int)):
            expected[:, number] += error, 1
        np.testing.assert_allclose(result[term], expected, rtol=1e-4)
    assert result.keys() == drawn.keys()


def test_another_config_is_refused_and_nothing_is_written(tmp_path):
    loop.train(small(), tmp_path, devices=jax.devices()[:1])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    changed = small(steps=9)
    changed.optim.learning_rate = 2e-3
    with pytest.raises(typing.InputError, match=r"optim.learning_rate: 0.001 there, 0.002 now.*steps: 8 there, 9 now"):
        loop.train(changed, tmp_path, devices=jax.devices()[:1])
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["truncate", "remove", "flip"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, damage, capsys):
    config = small()
    loop.train(config, tmp_path / "run", devices=jax.devices()[:1])
    _damage(tmp_path / "run" / "checkpoints" / "8", damage)
    _, result = final(tmp_path / "run", config)
    assert result == 4
    assert len(re.findall(r"checkpoint .*8 cannot be read", capsys.readouterr().out)) == 1
    undamaged = jax.device_get(loop.train(small(), tmp_path / "other", devices=jax.devices()[:1]))
    chex.assert_trees_all_equal(jax.device_get(loop.train(config, tmp_path / "run", devices=jax.devices()[:1])), undamaged)
    assert final(tmp_path / "run", config)[1] == 8  # trained on and saved at the step of the damaged one
    _damage(tmp_path / "run" / "checkpoints" / "8", damage)  # a second time: what was set aside is in the way of nothing
    loop.train(config, tmp_path / "run", devices=jax.devices()[:1])
    for number in (4, 8):
        _damage(tmp_path / "run" / "checkpoints" / str(number), damage)
    with pytest.raises(typing.InputError, match="none of the checkpoints 4, 8"):
        final(tmp_path / "run", config)


def _damage(folder, how):
    """Hurts the largest file of a checkpoint, where the arrays are."""
    victim = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = victim.read_bytes()
    if how == "truncate":
        victim.write_bytes(content[: len(content) // 2])
    elif how == "remove":
        victim.unlink()
    else:
        middle = len(content) // 2
        victim.write_bytes(content[:middle] + bytes(b ^ 0xFF for b in content[middle : middle + 64]) + content[middle + 64 :])


def test_fingerprint_sees_every_bit_and_no_sharding():
    tree = {"a": jnp.arange(64, dtype=jnp.float32).reshape(8, 8), "b": jnp.ones(3, jnp.bfloat16), "c": jnp.int32(5)}
    reference = int(checkpoint.fingerprint(tree))
    mesh = sharding.make_mesh(devices=jax.devices()[:8])
    assert int(checkpoint.fingerprint(tree | {"a": jax.device_put(tree["a"], sharding.rows(mesh))})) == reference
    assert int(checkpoint.fingerprint(tree | {"a": tree["a"].at[3, 4].add(1e-5)})) != reference
    assert int(checkpoint.fingerprint(tree | {"a": tree["a"][::-1]})) != reference
    assert int(checkpoint.fingerprint(tree | {"c": jnp.int32(6)})) != reference


def test_a_loss_that_is_not_finite_stops_with_step_term_and_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(ranges, "check", lambda *_, **__: None)  # such a rate is refused
    config = small(log_every=3)
    with_sgd(config, 1e30)
    with pytest.raises(log.NonFiniteError, match=r"param_norm is not finite at step 1; .*none was saved"):
        loop.train(config, tmp_path, devices=jax.devices()[:1])
    assert not checkpoint.Checkpoints(tmp_path, read_only=True).steps()


def test_the_last_good_checkpoint_is_named_and_kept(tmp_path, monkeypatch):
    good = data.load("checkerboard")
    broken = good._replace(rows=lambda ids: {"x": good.rows(ids)["x"] * np.nan})
    config = small(steps=6, save_every=2, log_every=100)
    monkeypatch.setattr(data, "load", lambda name, **kwargs: good)
    loop.train(small(steps=6, save_every=2, log_every=100), tmp_path, devices=jax.devices()[:1])
    shutil.rmtree(tmp_path / "checkpoints" / "6")
    monkeypatch.setattr(data, "load", lambda name, **kwargs: broken)
    with pytest.raises(log.NonFiniteError, match=r"eulerian.*step 5; .*checkpoints/4\.$"):
        loop.train(config, tmp_path, devices=jax.devices()[:1])
    assert checkpoint.Checkpoints(tmp_path, read_only=True).steps() == [4]


def test_bool_and_key_leaves_have_a_fingerprint():
    tree = {"flag": jnp.array([True, False]), "key": jax.random.key(3)}
    assert int(checkpoint.fingerprint(tree)) != int(checkpoint.fingerprint(tree | {"flag": jnp.array([True, True])}))
    assert int(checkpoint.fingerprint(tree)) != int(checkpoint.fingerprint(tree | {"key": jax.random.key(4)}))


def test_sampling_needs_no_data(tmp_path, monkeypatch):
    loop.train(small(), tmp_path, devices=jax.devices()[:1])
    monkeypatch.setattr(data, "load", None)
    trained = loading.load(tmp_path)
    assert trained.step == 8 and trained.shape == (2,) and trained.num_classes == 0


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "lion", "radam", "muon"])
def test_optimizers_by_name(name):
    config = small().optim
    config.update({"name": name, "clip_norm": 1.0, "warmup_steps": 2, "schedule": "cosine"})
    config.kwargs = {}
    optimizer, schedule, *_ = optimizers.make(config, 10)
    params = {"w": jnp.ones((4, 4))}
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    chex.assert_tree_all_finite(updates)
    assert [round(float(schedule(i)) * 1e3, 3) for i in (0, 1, 2)] == [0.0, 0.5, 1.0] and float(schedule(10)) < 1e-9


def test_optimizer_keywords_reach_optax():
    config = small().optim
    config.update({"name": "sgd", "learning_rate": 1.0, "clip_norm": 0.5})
    config.kwargs = {"momentum": 0.5}
    optimizer = optimizers.make(config, 10).transform
    params, gradient = jnp.zeros(2), jnp.array([3.0, 4.0])
    opt_state = optimizer.init(params)
    first, opt_state = optimizer.update(gradient, opt_state, params)
    second, _ = optimizer.update(gradient, opt_state, params)
    np.testing.assert_allclose(first, [-0.3, -0.4], rtol=1e-6)
    np.testing.assert_allclose(second, [-0.45, -0.6], rtol=1e-6)


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"name": "adamm"}, "did you mean adam"),
        ({"kwargs": {"bt1": 0.9}}, "did you mean b1"),
        ({"schedule": "cosin"}, "cosine"),
        ({"learning_rate": 0.0}, "above 0"),
        ({"warmup_steps": 50}, "shorter"),
    ],
)
def test_bad_optimizers(changes, message):
    config = small()
    for name, value in changes.items():
        config.optim[name] = value
    with pytest.raises(typing.InputError, match=message):
        runs.setup(config)


@pytest.mark.parametrize(
    "field,value,message",
    [
        ("steps", 0, "config.steps"),
        ("steps", None, "config.steps"),
        ("batch_size", 36, "multiple of 8"),
        ("ema", (1.5,), "config.ema"),
        ("eval_steps", (0,), "config.eval_steps"),
        ("ema", ("a",), "config.ema"),
        ("eval_samples", 3, "config.eval_samples"),
        ("seed", -1, "config.seed"),
        ("sampler", "eular", "did you mean euler"),
    ],
)
def test_bad_numbers(field, value, message):
    config = small()
    with config.ignore_type():
        config[field] = value
    with pytest.raises(typing.InputError, match=message):
        runs.setup(config, devices=jax.devices()[:8])


def test_a_workdir_that_is_a_file_or_holds_other_things(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(typing.InputError, match="not empty"):
        loop.train(small(), tmp_path)
    with pytest.raises(typing.InputError, match="is a file"):
        loop.train(small(), tmp_path / "notes.txt")
    assert [path.name for path in pathlib.Path(tmp_path).iterdir()] == ["notes.txt"]


def test_classes_are_read_as_often_where_the_config_says_so():
    config = meanflow.get_config("digits")
    config.eval_every = 0
    size = runs.setup(config, devices=jax.devices()[:1]).source.size
    config.data.even = True
    source = runs.setup(config, devices=jax.devices()[:1]).source
    counts = np.bincount(source.rows(np.arange(source.size))["label"])
    assert source.size > size and len(set(counts.tolist())) == 1
