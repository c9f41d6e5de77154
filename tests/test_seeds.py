"""Several seeds side by side in one program: as each seed alone, resumed, on two devices."""

import operator
import shutil

import chex
import jax
import numpy as np
import pytest
from support import small

from flowjax import typing
from flowjax.training import checkpoint, loading, log, loop, runs, sharding

ONE = jax.devices()[:1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["meanflow", "freeflow"])
def test_seeds_side_by_side_are_the_runs_alone(name, tmp_path):
    plain = {
        "optim": {**small(name).optim.to_dict(), "name": "sgd", "kwargs": {}}
    }  # Adam would blow up rounding where gradients vanish
    together = loop.train(small(name, seeds=2, seed=3, **plain), tmp_path / "together", devices=ONE)
    assert together.step == 8
    for number in range(2):
        single = loop.train(small(name, seed=3 + number, **plain), tmp_path / f"alone_{number}", devices=ONE)
        alone = jax.tree.map(operator.itemgetter(number), jax.device_get(together)._replace(step=np.zeros(2)))
        for part in ("params", "target", "averages"):
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), getattr(alone, part), getattr(single, part)
            )
        loaded = loading.load(tmp_path / "together", seed=number)
        chex.assert_trees_all_equal(loaded.params, alone.averages["0.999"])
    assert not np.allclose(*jax.tree.leaves(together.params["V"])[-1])
    with pytest.raises(typing.InputError, match=r"the run has 2 seed\(s\), counted from 0; there is no 2"):
        loading.load(tmp_path / "together", seed=2)


@pytest.mark.slow
def test_seeds_side_by_side_on_two_devices_from_a_teachers_weights(tmp_path):
    teacher = str(tmp_path / "teacher")
    loop.train(small("flow_matching"), teacher, devices=ONE)
    plain = {"optim": {**small("ayf_emd").optim.to_dict(), "name": "sgd", "kwargs": {}, "learning_rate": 1.0}}
    config = small("ayf_emd", teacher=teacher, start="teacher", seeds=2, **plain)
    batch = {"x": np.random.default_rng(0).standard_normal((2, 32, 2)).astype(np.float32)}

    def trained(devices):
        run = runs.setup(config, devices=devices)
        placed = sharding.whole(run.mesh)
        step, state = jax.jit(run.step, out_shardings=(placed, placed)), run.init()
        for _ in range(2):
            state, _ = jax.block_until_ready(step(state, sharding.global_batch(run.mesh, batch, 2), run.fixed))
        return jax.device_get(state.params)

    one, two = trained(ONE), trained(jax.devices()[:2])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), one, two)
    assert not np.allclose(*one["V"]["Dense_3"]["kernel"], atol=1e-5)


@pytest.mark.slow
def test_seeds_side_by_side_resume_to_the_same_bits(tmp_path):
    config = small("lsd", seeds=3)
    whole = loop.train(config, tmp_path / "whole", devices=ONE)
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    shutil.rmtree(tmp_path / "part" / "checkpoints" / "8")
    again = loop.train(config, tmp_path / "part", devices=ONE)
    assert int(checkpoint.fingerprint(whole)) == int(checkpoint.fingerprint(again))


def test_a_seed_that_diverges_is_named(tmp_path, monkeypatch):
    batches = loop.data.batches

    def spoiled(source, *, seed, **kwargs):
        for batch in batches(source, seed=seed, **kwargs):
            yield {**batch, "x": batch["x"] * (np.nan if seed == 1 else 1)}

    monkeypatch.setattr(loop.data, "batches", spoiled)
    with pytest.raises(log.NonFiniteError, match=r"not finite at step 1 \(seed 1\); training stopped"):
        loop.train(small("soflow", seeds=2), tmp_path, devices=ONE)
