"""Fixtures of several test files."""

import gc
import time

import jax
import pytest
from support import OPTIMISED

from configs import flow_matching

_cleared = [time.monotonic()]


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Programs of past files are forgotten now and then: a process that holds thousands of them compiles new ones several times slower."""
    yield
    if time.monotonic() - _cleared[0] > 20:
        jax.clear_caches()
        gc.collect()
        _cleared[0] = time.monotonic()


@pytest.fixture(scope="session")
def flow_run(tmp_path_factory, saved_run):
    """The folder of a flow-matching run on points."""
    return saved_run(flow_matching.get_config("test"), tmp_path_factory.mktemp("flow") / "run")


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory, saved_run):
    """The folder of a small flow-matching run on the digits."""
    config = flow_matching.get_config("digits")
    config.model.update({"width": 16, "depth": 1, "heads": 2})
    return saved_run(config, tmp_path_factory.mktemp("digits") / "run")


@pytest.fixture
def optimised(monkeypatch):
    """The step of a training is compiled with optimisation: for tests that train for thousands of steps."""
    compile_step = jax.stages.Lowered.compile
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda lowered: compile_step(lowered, OPTIMISED))


@pytest.fixture
def figures(monkeypatch):
    """The figures that are written during a test, for what pixels do not show: labels, limits, numbers."""
    from flowjax import plots

    drawn, write = [], plots.canvas.write
    monkeypatch.setattr(plots.canvas, "write", lambda fig, path: (drawn.append(fig), write(fig, path)))
    return drawn
