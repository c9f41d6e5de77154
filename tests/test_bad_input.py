"""A fuzz test of the command line: bad values made from the types of the fields and flags, each refused in one sentence.

Fields are judged in this process, without a script. Flags are judged by the scripts, one process for all values of a script.
"""

import functools
import json
import math
import os
import pathlib
import re
import subprocess
import sys

import jax
import pytest
from absl import flags
from ml_collections import config_flags

from configs import flow_matching, method, network
from experiments import command_line
from flowjax import data, methods, typing
from flowjax.training import ranges, runs

ROOT = pathlib.Path(__file__).parents[1]
ONE = jax.devices()[:1]
NAN, INF, LONG = math.nan, math.inf, "x" * 5_000
NOWHERE = "no_such_name"
# By the type of the preset's value: those that no field can have, then those that some have.
NEVER = {
    bool: (None, 3, "x", NAN),
    int: (None, NAN, INF, 0.5, "x", True, -2, 10**30),
    float: (None, NAN, INF, -INF, "x", True, (), 1e39),
    str: (None, 3, NAN, "a\0b", LONG),
    tuple: (None, 3, NAN, "x", (NAN,), ({},)),
    type(None): (NAN, -1, INF, "x"),
}
SOMETIMES = {
    bool: (),
    int: (-1, 0, 10**9),
    float: (-1.0, 0.0, 1e30),
    str: ("", NOWHERE),
    tuple: ((), (-1,), (NOWHERE,)),
    type(None): (0,),
}
# Both fuzz tests still find values that end in a sentence of another form; what is left of it is an open issue.
OPEN = pytest.mark.xfail(reason="the fuzz still finds values without a range of their own", strict=False)
# Fields that are None for "none", or texts with numbers: what NEVER has for the type is allowed there.
ALLOWED = {
    ("data.mean", ()), ("method.c", None), ("method.log_variance_bound", None), ("data.name", LONG),
}  # fmt: skip


def fields(tree, prefix=""):
    """(name, value) of the fields of a nested dict; sections with kwargs of an optimizer included."""
    for key, value in tree.items():
        name = f"{prefix}.{key}" if prefix else key
        if isinstance(value, dict):
            yield from fields(value, name)
        else:
            yield name, value


def changed(tree, name, value):
    """A copy of a nested dict with another value of one field."""
    key, _, rest = name.partition(".")
    return {**tree, key: changed(tree[key], rest, value) if rest else value}


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch):
    """Data that thousands of checks read."""
    monkeypatch.setattr(data, "load", functools.lru_cache(data.load))


def judged(tree):
    """The sentence by which a config is refused, None if it makes a training step; traced, never compiled."""
    try:
        runs.setup(tree, devices=ONE)
    except typing.InputError as error:
        text = str(error)
        assert "\n" not in text and text.endswith((".", ")")) and len(text) < 1_500, text
        return text
    return None


def cases(tree):
    for name, value in fields(tree):
        kind = tuple if isinstance(value, (tuple, list)) else type(value)
        for bad in NEVER[kind]:
            yield name, bad, True
        for bad in SOMETIMES[kind]:
            yield name, bad, False


def one_of_each():
    """(choice, config, names of fields): fields of all configs once, those of methods and networks for each of them."""
    for name in methods.METHODS:
        if not {"teacher_map"} & set(methods.METHODS[name].needs):
            config = method.get_config(f"{name},test").to_dict()
            own = [field for field, _ in fields(config) if field.startswith(("method.", "auxiliary."))]
            yield name, config, own
    yield "config", method.get_config("meanflow,test").to_dict(), None
    for choice in ("imf,mit", "meanflow,unet", "dmf,decoupled_dit", "tvm,semi_lipschitz_dit"):
        config = network.get_config(choice).to_dict()
        yield choice, config, [field for field, _ in fields(config) if field.startswith(("model.", "guidance."))]


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_bad_values_of_fields_are_refused_or_meaningful(part):
    for number, (choice, tree, names) in enumerate(one_of_each()):
        if number % 4 != part:
            continue
        for name, bad, never in cases(tree):
            if (names is not None and name not in names) or name.startswith("method.total_steps"):
                continue
            known = ranges.of(name)
            if known is not None and not known.fits(bad):  # refused by the table: the sentence without the rest of the checks
                with pytest.raises(typing.InputError, match=r"^config\..*; expected .*\.$"):
                    ranges.check(name, bad)
                continue
            sentence = judged(changed(tree, name, bad))
            if never and not any(name == field and bad == value for field, value in ALLOWED):
                assert sentence is not None, (choice, name, bad)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("optim.kwargs.b1", 2.0),
        ("optim.clip_norm", -1.0),
        ("optim.learning_rate", INF),
        ("optim.learning_rate", 0.0),
        ("optim.learning_rate", 1e30),
        ("model.name", ""),
        ("model.name", NOWHERE),
        ("model.depth", 0),
        ("model.depth", -1),
        ("model.harmonics", 0),
        ("method.p", -1.0),
        ("method.c", NAN),
        ("method.times", ("logit_normal", 0.0, NAN)),
        ("seed", 2**32 + 1),
        ("batch_size", 10**11),
        ("batch_size", 2**30),
        ("model.width", 10**7),
        ("eval_samples", 2**31 - 1),
        ("modules", (3,)),
        ("modules", ("..",)),
        ("sampler", "gamma:gamma=nan"),
        ("sampler", "restart:repeats=1000000"),
        ("teacher", LONG),
        ("start", LONG),
        ("data.coupling", "y" * 3_000),
        ("data.name", "community:someones/dataset"),
        ("data.dir", "a\0b"),
        ("optim", None),
        ("guidance", []),
    ],
)
def test_what_an_attack_found_is_refused(name, bad):
    assert judged(changed(method.get_config("meanflow,test").to_dict(), name, bad)) is not None


# Flags of the scripts

DRIVER = """
import contextlib, importlib, io, json, sys
from absl import flags
script, cases = sys.argv[1], json.loads(sys.stdin.read())
from experiments import command_line
module = importlib.import_module(f"experiments.{script}")
results = []
for case in cases:
    for name in flags.FLAGS:
        flags.FLAGS[name].unparse()
    sys.argv = [script, *case]
    errors = io.StringIO()
    status = 0
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            command_line._parse(sys.argv)
            command_line._one_sentence(module.main)
    except SystemExit as error:
        status = error.code
    except BaseException as error:
        status = f"{type(error).__name__}: {error}"
    results.append((status, errors.getvalue()))
print("\\nRESULTS" + json.dumps(results))
"""
WHOLE = ("-1", "99999999999999", "x", "nan", "1.5", "")
FLAGS = {
    "sample": {
        "steps": ("0", *WHOLE[:-1]), "labels": ("10", *WHOLE[:-1]), "seed": WHOLE, "num": ("0", *WHOLE), "ema": (NOWHERE, "0.5", "-1"),
        "checkpoint": (NOWHERE, "-1", "99"), "sampler": (NOWHERE, "gamma:gamma=2", "gamma:gamma=nan", "restart:repeats=0", "euler:x=1"),
        "grid": (NOWHERE, "1,2,0", "nan", "1,nan,0", "shifted:shift=-1", "karras:rho=inf"), "guidance": ("nan", "2", "x"),
        "guidance_interval": ("0.1", "0.1,0.9", "nan,1", "x,y"), "modules": (NOWHERE, "..", "3"), "workdir": (NOWHERE, LONG, "/dev/null"),
    },
    "evaluate": {
        "steps": ("0", *WHOLE[:-1]), "num": WHOLE, "seed": WHOLE, "ema": (NOWHERE, "1"), "sampler": (NOWHERE,), "grid": ("nan",),
        "guidance": ("nan", "2", "x"), "samples": (NOWHERE, LONG, "/dev/null"), "measures": (NOWHERE,), "resamples": WHOLE,
        "checkpoint": (NOWHERE,), "workdir": (NOWHERE, LONG, "/dev/null"),
    },
    "generate": {
        "num": ("0", *WHOLE), "steps": ("0", *WHOLE), "labels": ("10", "x"), "seed": WHOLE, "shard": ("0", *WHOLE), "dtype": (NOWHERE, ""),
        "sampler": (NOWHERE,), "output": (LONG, "/dev/null", "/proc/nothing/here"), "coordinator": ("x",),
    },
    "reflow": {
        "num": ("0", *WHOLE), "steps": ("0", *WHOLE), "points": ("0", "1", "7", *WHOLE), "solver": (NOWHERE, ""), "seed": WHOLE,
        "output": (LONG, "/dev/null", "/proc/nothing/here"),
    },
    "inspect": {"steps": ("0", "x"), "rows": ("0", *WHOLE), "cells": ("1", *WHOLE), "ema": (NOWHERE,), "workdir": (NOWHERE, LONG)},
    "landscape": {"methods": (NOWHERE, ""), "data": (NOWHERE, LONG), "steps": WHOLE, "seeds": ("0", *WHOLE), "workdir": (LONG, "/dev/null")},
    "train": {
        "workdir": (LONG, "/dev/null"), "profile": ("x", "5:2", "1:"), "config": (NOWHERE, "configs/meanflow.py:" + NOWHERE, LONG),
        "config.steps": ("-1", "x", "1e400"), "config.method.name": ("imf",), "config.guidance.k": ("0.5",), "config.nothing": ("1",),
        "config.optim.kwargs.b1": ("2.0",), "config.modules": ("(3,)", "('..',)"),
    },
}  # fmt: skip


@OPEN
@pytest.mark.slow
@pytest.mark.parametrize("script", FLAGS)
def test_bad_values_of_flags_end_in_one_sentence_before_anything_is_written(script, saved_run, tmp_path):
    config = flow_matching.get_config("digits")
    config.model.update({"width": 16, "depth": 1, "heads": 2})
    run = saved_run(config, tmp_path / "run")
    needed = {"workdir": str(run), "output": str(tmp_path / "out"), "config": "configs/meanflow.py:test"}
    base = {
        name: needed[name]
        for name in needed
        if name in FLAGS[script] or (script, name) in (("generate", "workdir"), ("reflow", "workdir"))
    }
    if script in ("train", "landscape"):
        base["workdir"] = str(tmp_path / "new")
    cases = [
        [f"--{key}={value}" for key, value in {**base, name: bad}.items()]
        for name, values in FLAGS[script].items()
        for bad in values
    ]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, script],
        cwd=ROOT,
        env=environment,
        input=json.dumps(cases),
        capture_output=True,
        text=True,
    )
    assert "RESULTS" in done.stdout, done.stderr[-3_000:]
    for case, (status, error) in zip(cases, json.loads(done.stdout.partition("RESULTS")[2])):
        assert status in (1, 2) and error.startswith(("error: ", "FATAL")) and "Traceback" not in error, (
            case,
            status,
            error[-2_000:],
        )
        assert len(error.strip().splitlines()) == 1 or error.startswith("FATAL"), (case, error)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


# Config files that fail

BROKEN = {
    "def get_config(:\n    pass\n": r"config\.py, line 1: SyntaxError: .*\(def get_config\(:\)",
    "def get_config():\n    raise ValueError('of my own')\n": r"config\.py, line 2: ValueError: of my own \(raise ValueError",
    "def get_config():\n    return 1 / 0\n": r"config\.py, line 2: ZeroDivisionError: division by zero \(return 1 / 0\)",
    "import no_such_module_here\n": r"config\.py, line 1: ModuleNotFoundError: No module named 'no_such_module_here'",
    "def get_config():\n    from configs import meanflow\n    return meanflow.get_config('tests')\n": "unknown preset 'tests'; did you mean",
    "def get_config():\n    from configs import meanflow\n    config = meanflow.get_config('test')\n    config.lock()\n    config.stepz = 3\n    return config\n": r"config\.py, line 5: AttributeError: .*stepz",
}


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
@pytest.mark.parametrize("content", BROKEN)
def test_a_config_file_that_fails_shows_the_persons_own_line(content, tmp_path):
    (tmp_path / "config.py").write_text(content)
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values)
    with pytest.raises(Exception) as caught:  # noqa: PT011, it raises whatever the file raises
        values(["train", f"--config={tmp_path / 'config.py'}"])
        len(values.config.keys())
    sentence = command_line._sentence(caught.value)
    assert re.search(BROKEN[content], sentence) and "\n" not in sentence and len(sentence) < 500, sentence


def test_fields_on_the_command_line_that_have_no_effect_are_refused():
    config = flow_matching.get_config("test")
    for given, message in (
        (["--config.method.name=imf"], "would leave the constants of another method; type --config=configs/method.py:"),
        (["--config.guidance.k=0.5"], "--config.guidance.k has no effect, because config.guidance.kind is ''"),
    ):
        with pytest.raises(typing.InputError, match=message):
            command_line._check_overrides(config, given)
    command_line._check_overrides(config, ["--config.steps=3", "--config.guidance.kind="])


def test_the_optimizers_of_networks_trained_along_follow_the_constants_on_the_command_line():
    config = method.get_config("lsd,digits")
    assert list(config.auxiliary) == ["log_variance"]
    for learned, along in ((False, []), (True, ["log_variance"])):
        config.method.learned_weight = learned
        command_line._follow(config, [f"--config.method.learned_weight={learned}"])
        assert list(config.auxiliary) == along
    assert config.auxiliary.log_variance.learning_rate == config.optim.learning_rate
