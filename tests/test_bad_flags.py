"""A fuzz test of the flags of all scripts: each bad value ends in one sentence with status 2, before anything is compiled or written.

tests/bad_flags.py makes the values from the types of the flags. What stands here is which other flags a call needs, bad values that
the types do not give, and those values of a type that mean something to a flag.
"""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from configs import flow_matching
from flowjax.autoencoders import files as files_of_autoencoders, kl
from tests import bad_flags

ROOT = pathlib.Path(__file__).parents[1]
NOWHERE, LONG = bad_flags.NOWHERE, bad_flags.LONG
NO_FLAGS = ("__init__", "attention_results", "command_line", "tables", "three_players")
SCRIPTS = sorted(path.stem for path in (ROOT / "experiments").glob("*.py") if path.stem not in NO_FLAGS)
# The other flags of a call. RUN is the folder of a run, NEW one that does not exist.
GOOD = {
    "compare_checkouts": {"base": str(ROOT)},
    "convert": {"input": "RUN/../weights.npz", "output": "NEW.safetensors"},
    "decode_latents": {"samples": "RUN", "autoencoder": "RUN/../autoencoder", "output": "NEW"},
    "demo": {"workdir": "NEW", "preset": "test"},
    "evaluate": {"workdir": "RUN"},
    "explorer": {"folder": "NEW"},
    "fid": {"workdir": "RUN", "output": "NEW", "protocol": "pixels", "write_reference": "true"},
    "generate": {"workdir": "RUN", "output": "NEW"},
    "guidance": {"workdir": "NEW"},
    "import_weights": {
        "config": str(ROOT / "configs/meanflow.py:test"),
        "weights": "soflow:RUN/../weights.npz",
        "workdir": "NEW",
    },
    "inspect": {"workdir": "RUN"},
    "invert": {"workdir": "RUN"},
    "landscape": {"workdir": "NEW", "data": "test"},
    "launch": {},
    "likelihood": {"workdir": "RUN"},
    "merge": {"workdir": "RUN", "output": "NEW"},
    "mutants": {},
    "notebooks": {},
    "prepare_latents": {"source": "folder:RUN", "autoencoder": "RUN/../autoencoder", "output": "NEW"},
    "reflow": {"workdir": "RUN", "output": "NEW"},
    "results": {"page": "NEW"},
    "sample": {"workdir": "RUN", "out": "NEW/sample"},
    "steer": {"workdir": "RUN", "reward": "brightness"},
    "train": {"workdir": "NEW", "config": str(ROOT / "configs/meanflow.py:test")},
    "train_autoencoder": {"workdir": "NEW", "data": "checkerboard"},
    "two_rings": {},
}
SAMPLERS = ("gamma:gamma=2", "gamma:gamma=nan", "restart:repeats=0", "euler:x=1")
GRIDS = ("1,2,0", "1,nan,0", "shifted:shift=-1", "karras:rho=inf")
# A file in the place of a folder, a folder that cannot be made.
CANNOT_BE_MADE = "/proc/nothing/here"
FOLDERS = ("/dev/null", CANNOT_BE_MADE)
MORE = {
    "benchmark_jvp": {"tokens": ("64,x",), "batch": ("6",), "width": ("30",), "train_h": ("big",)},
    "benchmark_methods": {"batch": ("20",)},
    "benchmark_training": {"sizes": ("B", "Q/2", "B/5")},
    "sample": {
        "labels": ("10",), "steps": ("0",), "sampler": SAMPLERS, "grid": GRIDS, "guidance": ("2",), "modules": ("..",),
        "guidance_interval": ("0.1", "0.1,0.9", "nan,1"), "workdir": FOLDERS, "checkpoint": ("99",),
    },
    "evaluate": {"steps": ("0",), "sampler": SAMPLERS, "grid": GRIDS, "guidance": ("2",), "samples": FOLDERS, "workdir": FOLDERS},
    "fid": {
        "labels": ("10",), "sampler": SAMPLERS, "grid": GRIDS, "guidance": ("2",), "output": FOLDERS, "protocol": ("adm", "fid"),
        "workdir": FOLDERS,
    },
    "generate": {"labels": ("10",), "sampler": SAMPLERS, "grid": GRIDS, "guidance": ("2",), "output": FOLDERS},
    "inspect": {"steps": ("0",), "workdir": FOLDERS},
    "reflow": {"points": ("7",), "output": FOLDERS},
    "likelihood": {"solver": ("flow_map", "adaptive:rtol=x"), "workdir": FOLDERS, "guidance": ("2",)},
    "steer": {"reward": ("axis:number=0", "brightness:x=1", "math.sin"), "labels": ("10",), "workdir": FOLDERS, "guidance": ("2",)},
    "invert": {"measure": ("downsample:factor=3", "project:count=0", "blur:deviation=0"), "workdir": FOLDERS},
    "landscape": {"methods": ("",), "workdir": FOLDERS},
    "launch": {"processes": ("0",)},
    "merge": {"output": FOLDERS, "onto": FOLDERS},
    "train": {
        "workdir": FOLDERS, "profile": ("5:2", "1:"), "config.steps": ("-1", "x", "1e400"), "config.method.name": ("imf",),
        "config.guidance.k": ("0.5",), "config.nothing": ("1",), "config.optim.kwargs.b1": ("2.0",),
        "config.modules": ("(3,)", "('..',)"),
    },
}  # fmt: skip
ANY_NAME = (NOWHERE, "-1", "nan")  # of a folder or file that is made
BENCHMARKS = [script for script in SCRIPTS if script.startswith("benchmark")]
MEANINGFUL = {
    "decode_latents": {"output": ANY_NAME, "process": ("-1",)},
    "demo": {"workdir": ANY_NAME},
    "explorer": {"folder": ANY_NAME},
    "fid": {"output": ANY_NAME, "process": ("-1",)},
    "generate": {"output": ANY_NAME, "process": ("-1",)},  # -1: none is given
    "guidance": {"workdir": ANY_NAME},
    "import_weights": {"workdir": ANY_NAME},
    "landscape": {"workdir": ANY_NAME},
    "merge": {"output": ANY_NAME},
    "mutants": {"report": ANY_NAME},
    "prepare_latents": {"output": ANY_NAME, "process": ("-1",)},
    "reflow": {"output": ANY_NAME},
    "results": {"page": ANY_NAME},
    "sample": {"out": ANY_NAME},
    "train": {"workdir": ANY_NAME, "programs": ANY_NAME, "process": ("-1",)},
    "train_autoencoder": {"workdir": ANY_NAME, "data_dir": (NOWHERE, LONG, "-1", "nan", "/dev/null/x")},
} | {script: {"output": ANY_NAME} for script in BENCHMARKS}


def plan(script, run, new):
    good = {"output": "NEW"} if script in BENCHMARKS else GOOD[script]
    return {
        "good": {name: value.replace("RUN", str(run)).replace("NEW", str(new)) for name, value in good.items()},
        "more": MORE.get(script, {}),
        "meaningful": MEANINGFUL.get(script, {}),
        "arguments": ["--", NOWHERE] if script == "launch" else [],
    }


@pytest.fixture(scope="module")
def results(saved_run, tmp_path_factory):
    """({script: its cases}, what was written)."""
    folder = tmp_path_factory.mktemp("flags")
    config = flow_matching.get_config("digits")
    config.model.update({"width": 16, "depth": 1, "heads": 2})
    run = saved_run(config, folder / "run")
    np.savez(folder / "weights.npz", a=np.zeros(2))
    sizes = kl.KLSizes(widths=(2,), blocks=1, latent=1, groups=1)
    files_of_autoencoders.write(folder / "autoencoder", kl.make(sizes).init(jax.random.key(0)), sizes)
    before, out = files(folder), tmp_path_factory.mktemp("results")
    done = subprocess.run(
        [sys.executable, bad_flags.__file__, out],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        input=json.dumps({script: plan(script, run, folder / "new") for script in SCRIPTS}),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    written = sorted(str(path.relative_to(folder)) for path, _ in before.items() ^ files(folder).items())
    return {script: json.loads((out / f"{script}.json").read_text()) for script in SCRIPTS}, written


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_bad_values_of_flags_end_in_one_sentence_before_anything_is_compiled_or_written(script, results):
    cases, written = results
    for flag, value, status, error, compiled in cases[script]:
        case = f"--{flag}={value:.40} ended in {status}, {compiled} programs: {error[-2_000:]}"
        assert status == 2 and error.startswith("error: "), case
        assert len(error) < 1_500 and error.count("\n") == 1 and error.endswith((".\n", ")\n")), case
        parts = (flag.removeprefix("config."), value[:20], value.split(":")[0], value.split(":")[-1], *value.split("/"))
        assert any(part and part in error for part in parts), case
        assert compiled < 10, case  # small ones, of a grid of times or of the rows to compare with
    assert not written
