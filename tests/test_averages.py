"""Averages of weights against their formulas, through a run and its folder, and what is no average."""

import chex
import jax
import numpy as np
import pytest
from support import rows, small

from experiments import command_line
from flowjax import typing
from flowjax.training import averages, loading, loop, runs, sharding

NAMES = (0.9, "constant:decay=0.75", "constant:decay=0.9,every=2", "half_life:images=100,ramp=0.5", "half_life:images=64")


def published(entry, update, batch):
    """The decay of update 1, 2, ... as the authors write it."""
    if entry == 0.9:
        return min(0.9, update / (9 + update))
    if entry == "constant:decay=0.75":  # MeanFlow, iMF, TVM on ImageNet
        return 0.75
    if entry == "constant:decay=0.9,every=2":  # MeanFlow on CIFAR-10: decay ** period, at multiples of the period
        return 0.9**2 if update % 2 == 0 else 1.0
    if entry == "half_life:images=64":
        return 0.5 ** (batch / 64)
    seen = (update - 1) * batch  # EDM: images before this update
    return 0.5 ** (batch / max(min(100, 0.5 * seen), 1e-8))


@pytest.mark.parametrize("entry", NAMES)
def test_the_decay_of_an_update(entry):
    decay = averages.decay(str(entry))
    for update in range(1, 12):
        assert float(decay(update - 1, 32)) == pytest.approx(published(entry, update, 32), rel=1e-6)


def test_edm_and_pixel_meanflow_at_their_own_constants():
    edm = averages.decay("half_life:images=500_000,ramp=0.05")
    assert float(edm(0, 512)) == 0
    for update in (1, 100, 19_531, 19_532, 300_000):
        seen = min(500_000, 0.05 * 512 * update)
        assert float(edm(update, 512)) == pytest.approx(0.5 ** (512 / seen), rel=1e-6)
    # pMF counts the batch of this update, too: the decays are those of one update later.
    assert float(averages.decay("half_life:images=1_000_000,ramp=0.05")(8, 1024)) == pytest.approx(0.5 ** (1 / (8 * 0.05)))


@pytest.mark.slow
def test_averages_follow_their_formulas_in_a_run_that_is_sampled_by_their_names(tmp_path):
    config = small(ema=NAMES, best="1step/energy_distance", eval_every=4)
    run = runs.setup(config, devices=jax.devices()[:1])
    step_fn, now = jax.jit(run.step), run.init()
    expected = {str(entry): jax.device_get(now.params["V"]) for entry in NAMES}
    for number in range(1, 5):
        now, _ = step_fn(now, sharding.global_batch(run.mesh, rows()))
        for entry in NAMES:
            decay, new = published(entry, number, 32), jax.device_get(now.params["V"])
            mix = lambda o, n, decay=decay: decay * o + (1 - decay) * n
            expected[str(entry)] = jax.tree.map(mix, expected[str(entry)], new)
    chex.assert_trees_all_close(now.averages, expected, atol=1e-6)

    last = loop.train(config, tmp_path, devices=jax.devices()[:1])
    for entry in NAMES:
        chex.assert_trees_all_equal(loading.load(tmp_path, str(entry)).params, last.averages[str(entry)])
    assert loading.load(tmp_path, step="best").settings.evaluation.average == "0.9"
    with pytest.raises(typing.InputError, match="no average 'half_life'; the run has 0.9, constant:decay=0.75, constant:"):
        loading.load(tmp_path, "half_life")
    chex.assert_trees_all_equal(loop.train(config, tmp_path, devices=jax.devices()[:1]), last)


def test_an_average_between_its_updates_stays_to_the_bit():
    decay = averages.decay("constant:decay=0.9999,every=16")
    assert [float(decay(k, 8)) for k in range(32)] == [
        float(np.float32(0.9999**16)) if k in (15, 31) else 1.0 for k in range(32)
    ]


def test_names_on_a_command_line():
    typed = "0.999,constant:decay=0.9999,every=16,none,half_life:images=1000,ramp=0.05"
    assert command_line.with_options(typed.split(",")) == [
        "0.999", "constant:decay=0.9999,every=16", "none", "half_life:images=1000,ramp=0.05",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "entry,said",
    [
        (1.0, "config.ema holds 1.0; expected decays"),
        (True, "config.ema holds True"),
        ("constnat:decay=0.9", "config.ema holds 'constnat:decay=0.9'; expected decays .* constant:decay="),
        ("constant:decay=1", "expected a decay of at least 0 and below 1"),
        ("constant:decay=0.9,every=1.5", "a whole number `every` of at least 1"),
        ("constant:images=3", "constant has no option 'images'; expected decay or every"),
        ("half_life:images=0", "expected images above 0"),
        ("half_life:images=9,ramp=-1", "a ramp of at least 0"),
    ],
)
def test_what_is_no_average(entry, said):
    with pytest.raises(typing.InputError, match=said):
        averages.decay(entry)
