"""What is done before a step runs: compiling for TPUs that are not there, and keeping compiled programs."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from flowjax import typing
from flowjax.profiling import ahead_of_time
from flowjax.training import log, program_cache

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize("topology", ["v5e:16", "v5e:16x", "h200:2x2,", "V5E:2x4", "v5e 2x4"])
def test_a_topology_that_is_none(topology):
    with pytest.raises(typing.InputError, match=re.escape(f"unknown topology {topology!r}; expected one of v5e, v5p, v6e, or")):
        ahead_of_time.devices(topology)


def test_without_the_compiler_of_tpus(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(typing.InputError, match=r"compiling for v5e:2x4: what is missing is the compiler: pip install .*tpu"):
        ahead_of_time.devices("v5e:2x4")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason='needs the compiler of TPUs: pip install -e ".[tpu]"')
def test_a_dry_run_compiles_for_tpus_that_are_not_there():
    command = [
        sys.executable,
        "-m",
        "experiments.train",
        "--config=configs/meanflow.py:digits",
        "--dry_run",
        "--topology=v5e:2x4",
    ]
    small = ["--config.model.width=64", "--config.model.depth=2", "--config.model.unroll=1", "--config.batch_size=64"]
    environment = os.environ | {"XLA_FLAGS": "", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    run = lambda *more: subprocess.run([*command, *small, *more], cwd=ROOT, env=environment, capture_output=True, text=True)
    ran = run("--config.mesh.fsdp=8")
    assert ran.returncode == 0, ran.stderr[-2_000:]
    assert "mesh: data 1, fsdp 8; 8 TPU v5 lite device(s)" in ran.stdout and "device-hours of TPU v5 lite" in ran.stdout
    assert re.search(r"temporaries: [\d,]+ bytes", ran.stdout) and re.search(
        r"all-gather: \d+ in a step, [\d,]+ bytes", ran.stdout
    )
    assert "attention: " in ran.stdout and "(tpu, " in ran.stdout and "cycles" in ran.stdout


def test_compiled_programs_are_kept(tmp_path, monkeypatch):
    """Whole files under their names, which the next process reads; with another folder set for all of JAX, nothing."""
    jitted = lambda: jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x))
    with program_cache.kept(tmp_path):
        jitted()(jnp.ones((4, 4)))
    assert not list(tmp_path.iterdir())  # the tests have set one
    before, events = jax.config.jax_compilation_cache_dir, []
    listen = lambda event, **_: events.append(event)
    jax.monitoring.register_event_listener(listen)
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        for _ in range(2):
            jax.clear_caches()
            with program_cache.kept(tmp_path):
                jitted()(jnp.ones((4, 4)))
        (folder,) = tmp_path.iterdir()
        names = [path.name for path in folder.iterdir()]
        assert names and all(name.endswith("-cache") for name in names)
        assert "/jax/compilation_cache/cache_hits" in events and jax.config.jax_compilation_cache_dir is None
    finally:
        jax.monitoring.unregister_event_listener(listen)
        jax.config.update("jax_compilation_cache_dir", before)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
        compilation_cache.reset_cache()


def test_the_age_of_this_process():
    assert 0 < log.since_start() < 100_000
