"""A fuzz test of the config: bad values made from the types of the fields, each refused in one sentence, without a script."""

import functools
import math
import re

import jax
import pytest
from absl import flags
from ml_collections import config_flags

from configs import flow_matching, method, network
from experiments import command_line
from flowjax import data, methods, typing
from flowjax.training import ranges, room, runs

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
# Fields that are None for "none", or texts with numbers: what NEVER has for the type is allowed there.
ALLOWED = {
    ("data.mean", ()), ("method.c", None), ("method.log_variance_bound", None), ("data.name", LONG),
}  # fmt: skip

# Of the networks, so that a step is traced in a second.
FAST = {"depth": 2, "head_depth": 1, "unroll": 1, "multipliers": (1,), "resample": (1,), "attention_at": ()}


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
    """Data that thousands of checks read, with few trajectories: all of them take a minute."""
    monkeypatch.setattr(data, "load", functools.lru_cache(data.load))
    monkeypatch.setattr("flowjax.data.trajectories.TRAJECTORIES", 2**8)


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
        config["model"] |= {field: value for field, value in FAST.items() if field in config["model"]}
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


@pytest.mark.parametrize(("name", "size"), [("batch_size", 2**29), ("model.width", 2**16), ("eval_samples", 2**29)])
def test_what_does_not_fit_into_the_memory_is_refused_with_its_size(name, size, monkeypatch):
    monkeypatch.setattr(room, "host_bytes", lambda: 2**32)
    tree = changed(method.get_config("meanflow,test").to_dict(), name, size)
    with pytest.raises(typing.InputError, match=r"takes [\d.,]+ GiB, and (a device|this machine).* has [\d.]+; make the batch"):
        room.check_state(runs.setup(changed(tree, "eval_every", 5), devices=ONE))


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
