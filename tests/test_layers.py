"""The house plan: imports go down only, and names stay within the vocabulary."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
LAYERS = [
    {"typing"},
    {"buckets"},
    {"adapters", "checks", "opening", "origins", "ownership", "profiling"},
    {"folders", "options"},
    {"brownian", "conditioning", "flowmap", "foreign", "times", "schedules", "derivatives", "distances"},
    {"spaces"},
    {"paths"},
    {"losses", "guidance", "samplers", "exact"},
    {"posterior", "steering"},
    {"inverse"},
    {"density"},
    {"methods"},
    {"autoencoders", "models", "data", "plots", "residuals"},
    {"evals"},
    {"training"},
    {"evaluation"},
    {"preparation"},
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


def test_imports_go_down_only():
    for path in SOURCES:
        here = path.relative_to(ROOT / "flowjax").parts[0].removesuffix(".py")
        for name in _imported(path) if here != "__init__" else ():
            assert LEVEL[name] < LEVEL[here] or name == here, f"{path} imports flowjax.{name}"


def test_files_and_functions_are_short_and_names_plain():
    for path in sorted(ROOT.glob("[!.]*/**/*.py")):
        text = path.read_text()
        assert path.stem not in ("utils", "helpers", "misc"), path
        assert text.count("\n") <= 500, f"{path} has {text.count(chr(10))} lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                lines = node.end_lineno - node.lineno + 1
                assert lines <= 60 or "experiments" in path.parts, f"{path}: {node.name} has {lines} lines"
                # get_config is the name that ml_collections expects
                assert node.name == "get_config" or not re.match(r"(get|calc|compute)_", node.name), f"{path}: {node.name}"


def test_only_plots_imports_matplotlib():
    for path in SOURCES:
        if path.parent.name != "plots":
            assert not re.search(r"^\s*(import|from) matplotlib", path.read_text(), re.M), path


def test_the_library_needs_neither_tensorflow_nor_torch():
    for path in SOURCES:
        assert not re.search(r"^\s*(import|from) (tensorflow|torch)\b", path.read_text(), re.M), path


# Functions that may take the whole config, and those that may take all Settings: what loads and what checks the parts of a run.
CONFIG = {
    "settings.read",
    "workdir.check",
    "workdir.check_shared",
    "workdir.claim",
    "loop.train",
    "runs.setup",
    "runs.sketch",
    "published_runs.write",
}
SETTINGS = {"runs.__init__"}


def test_the_config_is_read_in_one_place():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.Lambda)):
                name = f"{path.stem}.{getattr(node, 'name', 'lambda')}"
                parameters = {part.arg for part in ast.walk(node.args) if isinstance(part, ast.arg)}
                assert "config" not in parameters or name in CONFIG, f"{name} has a parameter config: see training/settings.py"
                whole = path.stem in ("config_checks", "run_checks") or name in SETTINGS
                assert "settings" not in parameters or whole, f"{name} takes all settings; give it the section that it reads"
