"""What is done before a step runs: compiling for TPUs that are not there, and keeping compiled programs."""

import functools
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
from flowjax.profiling import ahead_of_time, collectives, traffic
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
    assert re.search(r"\(at 1\.5 GHz [\d.]+ ms\)", ran.stdout) and re.search(r"nothing else: \d+%", ran.stdout)
    moved = re.search(r"the memory of each device: ([\d,]+) bytes", ran.stdout)[1]
    assert 1e5 < int(moved.replace(",", "")) < 1e9


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


def test_bytes_that_a_program_moves():
    """Equal to XLA's own count where no loop hides how often it runs; of a scan over layers each turn counts its slice."""
    x, layers = jnp.ones((128, 128)), jnp.ones((6, 128, 128))
    one_by_one = lambda layers, x: functools.reduce(lambda h, layer: jnp.tanh(h @ layer), layers, x)
    scanned = lambda layers, x: jax.lax.scan(lambda h, layer: (jnp.tanh(h @ layer), None), x, layers)[0]
    for function in (lambda layers, x: jnp.tanh(x) + 1, one_by_one, jax.grad(lambda *given: jnp.sum(one_by_one(*given) ** 2))):
        program = jax.jit(function).lower(layers, x).compile()
        assert traffic.total(program.as_text()) == program.cost_analysis()["bytes accessed"]
    program = jax.jit(scanned).lower(layers, x).compile()
    unrolled = traffic.total(jax.jit(one_by_one).lower(layers, x).compile().as_text())
    assert unrolled <= traffic.total(program.as_text()) < 1.1 * unrolled  # a carry is copied
    assert traffic.kernels(program.as_text()) == 0


# A fusion that writes one slice of a stack, an array in the memory of a core, a kernel, and room that is set aside.
FOR_TPU = """
HloModule step, num_partitions=4

%body (stack: f32[28,8,128], row: f32[8,128]) -> f32[28,8,128] {
  %stack = f32[28,8,128]{2,1,0} parameter(0)
  %row = f32[8,128]{1,0} parameter(1)
  %one = f32[1,8,128]{2,1,0} bitcast(%row)
  %zero = s32[] constant(0)
  ROOT %changed = f32[28,8,128]{2,1,0} dynamic-update-slice(%stack, %one, %zero, %zero, %zero)
}

ENTRY %main (a: f32[28,8,128], b: f32[8,128]) -> f32[28,8,128] {
  %a = f32[28,8,128]{2,1,0} parameter(0)
  %b = f32[8,128]{1,0} parameter(1)
  %near = f32[8,128]{1,0:T(8,128)S(1)} negate(%b)
  %k = f32[8,128]{1,0} custom-call(%near), custom_call_target="tpu_custom_call", backend_config={"cost_estimate":{"flops":"640","transcendentals":"1","bytes_accessed":"100","remote_bytes_transferred":"0"}}
  %room = f32[28,8,128]{2,1,0} custom-call(), custom_call_target="AllocateBuffer"
  ROOT %new = f32[28,8,128]{2,1,0} fusion(%a, %k), kind=kLoop, calls=%body
}
"""


def test_bytes_of_a_program_for_tpus():
    """4,096 read to negate, 100 as the kernel declares, a slice read and written of the stack."""
    assert traffic.total(FOR_TPU) == 4_096 + 100 + 2 * 4_096 and traffic.kernels(FOR_TPU) == 640


def test_collectives_beside_other_work():
    whole = "ENTRY %main (x: f32[4]) -> f32[4] {\n"
    apart = '  %a = f32[4] all-gather(%x), replica_groups={{0,1}}, frontend_attributes={chain_id="1"}\n'
    alone = "  ROOT %b = f32[4] all-reduce(%a), replica_groups={{0,1}}\n}"
    assert collectives.beside(whole + apart + alone) == {"all-gather": 1}
