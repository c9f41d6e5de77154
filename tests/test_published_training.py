"""A shrunken copy of every kind of published run, with all its fields but a tiny network and tiny made-up data, trains; some
resume.
"""

import shutil

import jax
import numpy as np
import pytest

from configs import cifar10, imagenet256
from experiments import results
from flowjax import data
from flowjax.training import loop

ONE = jax.devices()[:1]
CLASSES, ROWS = 3, 32
TRANSFORMER = {"size": "", "width": 16, "depth": 2, "heads": 2, "patch": 4}
TINY = {
    "dit": TRANSFORMER,
    "mit": {**TRANSFORMER, "head_depth": 1},
    "decoupled_dit": {**TRANSFORMER, "source_depth": 1},
    "semi_lipschitz_dit": TRANSFORMER,
    "unet": {"channels": 8, "multipliers": (1, 1), "blocks": 1, "attention_at": ()},
}
SHAPES = {
    "imagenet256": (8, 8, 3),
    "imagenet256_latents": (8, 8, 4),
    "imagenet256_vavae_latents": (4, 4, 32),
    "cifar10": (16, 16, 3),
}


def made_up(name, *, split="train", data_dir=None):
    """Random rows in the form of a data set: pixels as bytes, latents as means and deviations."""
    shape, rng = SHAPES[name], np.random.default_rng(0)
    moments = name.endswith("latents")
    x = rng.standard_normal((ROWS, *shape), np.float32) if moments else rng.integers(0, 256, (ROWS, *shape)).astype(np.uint8)
    label = rng.integers(0, CLASSES, ROWS).astype(np.int32)

    def rows(ids):
        return {"x": x[ids], "label": label[ids]} | ({"deviation": np.full_like(x[ids], 0.1)} if moments else {})

    return data.Source(name, ROWS, shape, CLASSES, rows, mirrored=rows if moments else None, moments=moments)


@pytest.fixture
def shrunk(tmp_path, monkeypatch, saved_run):
    """`(file, choice) -> config`; teachers, and runs to start from, are untrained ones."""
    for name in SHAPES:
        monkeypatch.setitem(data.DATASETS, name, lambda name=name, **where: made_up(name, **where))

    def shrink(file, choice):
        config = {"imagenet256": imagenet256, "cifar10": cifar10}[file].get_config(choice)
        config.model.update(TINY[config.model.name])
        config.update({"steps": 2, "batch_size": 16, "save_every": 1, "eval_every": 0})
        config.optim.warmup_steps = min(config.optim.warmup_steps, 1)
        if config.teacher or config.start:
            folder = str(saved_run(untrained(config.copy_and_resolve_references()), tmp_path / "before"))
            config.teacher = folder if config.teacher else ""
            config.start = config.start if config.start == "teacher" else folder if config.start else ""
        return config

    return shrink


def untrained(config):
    """The config of a run of flow matching with the same network and data."""
    config.method = {"name": "flow_matching", "label_drop": 0.1}
    config.guidance.update({"kind": "", "scale": (1.0, 1.0), "interval": (0.0, 1.0), "k": 0.5})
    config.update({"teacher": "", "start": "", "sampler": "euler"})
    for network in list(config.auxiliary):
        del config.auxiliary[network]
    if config.model.name == "decoupled_dit":
        del config.model.source_depth
        config.model.name = "dit"
    return config


def kind(file, config):
    """By what published runs are grouped, of which one each trains here."""
    method = config.method.name, str(config.method.get("path")), config.optim.name
    return file, *method, config.model.name, config.guidance.kind, bool(config.teacher), bool(config.start)


def kinds():
    """One published run of each kind."""
    first = {}
    for file, choice in results.runs():
        config = {"imagenet256": imagenet256, "cifar10": cifar10}[file].get_config(choice)
        first.setdefault(kind(file, config), (file, choice))
    return list(first.values())


KINDS = kinds()  # once: every config is built for it
# These resume: a method of one network, one with an average in its target, one with a schedule, one with a learned weight, one of
# stages, one with a teacher. Others differ from them in fields that no checkpoint holds.
RESUMED = [
    ("imagenet256", "meanflow,B/4"),
    ("imagenet256", "tvm,XL/2-w2"),
    ("imagenet256", "alphaflow,B/2"),
    ("cifar10", "lsd"),
    ("cifar10", "ect"),
    ("cifar10", "pd"),
]


def as_params(chosen):
    return [pytest.param(*run, id="-".join(run)) for run in KINDS if run in chosen]


@pytest.mark.slow
@pytest.mark.parametrize(("file", "choice"), as_params(RESUMED))
def test_a_shrunken_run_trains_and_resumes_bit_for_bit(file, choice, shrunk, tmp_path):
    config = shrunk(file, choice)
    whole = trained(config, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "2")
    resumed = loop.train(config, tmp_path / "run", devices=ONE)
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)


@pytest.mark.slow
@pytest.mark.parametrize(("file", "choice"), as_params([run for run in KINDS if run not in RESUMED]))
def test_a_shrunken_run_trains(file, choice, shrunk, tmp_path):
    trained(shrunk(file, choice), tmp_path / "run")


def trained(config, folder):
    """The state after two steps, all of it finite."""
    state = loop.train(config, folder, devices=ONE)
    assert int(state.step) == 2 and int(state.skipped) == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params["V"]))
    return state
