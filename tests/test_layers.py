"""The house plan: imports go down only, and names stay within the vocabulary."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
LAYERS = [
    {"typing"},
    {"checks", "folders", "profiling"},
    {"options"},
    {"conditioning", "flowmap", "times", "schedules", "derivatives", "distances"},
    {"spaces"},
    {"paths"},
    {"losses", "guidance", "samplers", "exact"},
    {"methods"},
    {"models", "data", "plots", "residuals"},
    {"evals"},
    {"training"},
    {"evaluation"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
SOURCES = sorted((ROOT / "flowjax").rglob("*.py"))


def _imported(path):
    """Modules of flowjax that a file imports, by the first name below the package."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "flowjax":
            parts = node.module.split(".")[1:]
            yield from parts[:1] or [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("flowjax."))


@pytest.mark.parametrize("path", [p for p in SOURCES if p.parent.name != "flowjax" or p.name != "__init__.py"], ids=str)
def test_imports_go_down_only(path):
    own = path.relative_to(ROOT / "flowjax").parts[0].removesuffix(".py")
    for name in _imported(path):
        assert LEVEL[name] < LEVEL[own] or name == own, f"{path.name} imports flowjax.{name}"


@pytest.mark.parametrize("path", sorted(ROOT.glob("[!.]*/**/*.py")), ids=str)
def test_functions_are_short_and_names_plain(path):
    if ".venv" in path.parts:
        return
    assert path.stem not in ("utils", "helpers", "misc")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and "experiments" not in path.parts:
            code = node.end_lineno - node.lineno + 1
            assert code <= 75, f"{path.name}: {node.name} has {code} lines"
        if isinstance(node, ast.FunctionDef) and node.name != "get_config":  # the name that ml_collections asks for
            assert not re.match(r"(get|calc|compute)_", node.name), f"{path.name}: {node.name}"


def test_only_plots_imports_matplotlib():
    for path in SOURCES:
        if path.parent.name != "plots":
            assert not re.search(r"^\s*(import|from) matplotlib", path.read_text(), re.M), path


def test_the_library_needs_neither_tensorflow_nor_torch():
    for path in SOURCES:
        assert not re.search(r"^\s*(import|from) (tensorflow|torch)\b", path.read_text(), re.M), path


# Functions that may take the whole config, and those that may take all Settings: what loads and what checks the parts of a run.
CONFIG = {"settings.read", "workdir.check", "workdir.check_shared", "workdir.claim", "loop.train", "runs.setup"}
SETTINGS = {"runs.__init__"}


def test_the_config_is_read_in_one_place():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.Lambda)):
                name = f"{path.stem}.{getattr(node, 'name', 'lambda')}"
                parameters = {part.arg for part in ast.walk(node.args) if isinstance(part, ast.arg)}
                assert "config" not in parameters or name in CONFIG, f"{name} has a parameter config: see training/settings.py"
                whole = path.stem == "config_checks" or name in SETTINGS
                assert "settings" not in parameters or whole, f"{name} takes all settings; give it the section that it reads"
