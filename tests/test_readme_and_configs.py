"""What the README says runs, and every preset builds its training step."""

import importlib
import pathlib
import re

import jax
import pytest

from configs import common
from flowjax import methods
from flowjax.training import experiment

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


def test_the_example_runs_and_prints_what_it_says(capsys):
    exec(compile(BLOCKS[0], "README.md", "exec"), {})
    wrong, right = map(float, capsys.readouterr().out.split())
    assert 0.1 < wrong < 10 and right < 1e-10
    assert len([line for line in BLOCKS[0].splitlines() if line.strip()]) <= 10


def test_the_methods_stand_in_the_readme_as_in_the_code():
    code = "".join(path.read_text() for path in (ROOT / "flowjax" / "losses").glob("*.py"))
    lines = [line for line in BLOCKS[1].splitlines() if line and not line.startswith("#")]
    assert len(lines) == 11
    for line in lines:
        assert f"    {line}\n" in code, line
    assert re.findall(r"^# (\w+)", BLOCKS[1], re.M) == [
        "flow_matching", "meanflow", "improved_meanflow", "terminal_velocity", "soflow",
    ]  # fmt: skip


def test_files_and_flags_of_the_readme_exist():
    for path in re.findall(r"`((?:flowjax|configs|tests|experiments|docs)/[\w./]+)`", README):
        assert (ROOT / path).exists() or path == "configs/NAME.py", path
    for path in re.findall(r"\]\((\w[\w./]+)\)", README):
        assert (ROOT / path).exists(), path
    for module, flags in re.findall(r"python -m experiments\.(\w+)((?: --[\w.]+=\S+)*)", README):
        code = (ROOT / "experiments" / f"{module}.py").read_text()
        for flag in re.findall(r"--(\w+)", flags):
            assert f'("{flag}"' in code, (module, flag)


@pytest.mark.parametrize("preset", common.PRESETS)
@pytest.mark.parametrize("name", methods.METHODS)
def test_every_preset_builds_its_training_step(name, preset):
    module = importlib.import_module(f"configs.{name}")
    run = experiment.setup(module.get_config(preset), devices=jax.devices()[:1])  # traces the step
    assert run.config.method.name == name
    for said in ("python -m experiments.train", "CPU", "minutes", "digits"):
        assert said in module.__doc__, said


def test_no_placeholder_is_left():
    for path in [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "configs").glob("*.py"), *(ROOT / "docs").glob("*.md")]:
        assert "@" + "@" not in path.read_text() and "TO" + "DO" not in path.read_text(), path
