"""The documentation: what the README may hold, links, examples, completeness, the build of the site, the wheel."""

import ast
import configparser
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import zipfile
import zlib

import jax
import numpy as np
import pytest
import yaml
from PIL import Image

import flowjax
from flowjax import data, losses, methods

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
BUILDERS = ("sphinx", "furo", "myst_parser", "latex2mathml", "sphinx_copybutton")
METHOD_PAGES = {path.name: path.read_text() for path in (DOCS / "methods").glob("*.md")}


def test_the_readme_fits():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 120
    assert max(map(len, lines)) <= 100, max(lines, key=len)


def test_every_method_has_a_section_with_when_to_use_it():
    text = "\n".join(METHOD_PAGES.values())
    shown = re.findall(r"```\{method-section\} (\w+)", text)
    assert sorted(shown) == sorted(methods.every())
    for page, words in METHOD_PAGES.items():
        for section in re.split(r"^## ", words, flags=re.M)[1:]:
            assert "method-section" not in section or "**When to use it.**" in section, (page, section[:40])


def test_every_loss_stands_on_a_page():
    shown = {pair.__name__ for info in methods.METHODS.values() for pair in info.pairs}
    text = "\n".join(METHOD_PAGES.values())
    for name in set(losses.__all__) - shown:
        assert f"flowjax.losses.{name}" in text, name


@pytest.fixture
def tables():
    """Restores the tables that the examples add to."""
    from flowjax import conditioning, distances, evals, guidance, models, paths, samplers, times

    changed = [
        methods.METHODS, models.MODELS, models.SHARDING, data.DATASETS, samplers.SAMPLERS, samplers.GRIDS, distances.DISTANCES,
        evals.MEASURES, paths.PATHS, times.SAMPLERS, guidance.TARGETS, conditioning.INPUTS,
    ]  # fmt: skip
    before = [dict(table) for table in changed]
    yield
    for table, was in zip(changed, before):
        table.clear()
        table.update(was)


@pytest.mark.slow
def test_the_examples_of_extending_run_and_print_what_their_comments_say(tables, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "extending.md").read_text(), re.S)
    assert len(blocks) >= 9
    names = {"__name__": "extending"}
    sys.modules["extending"] = type(sys)("extending")
    for block in blocks:
        exec(compile(block, "docs/extending.md", "exec"), names)
        printed = capsys.readouterr().out.splitlines()
        said = [line.partition("  # ")[2] for line in block.splitlines() if line.startswith("print")]
        assert len(said) == len(printed)
        for comment, line in zip(said, printed):
            if comment.startswith(("(", "T")):
                assert line == comment, (comment, line)
            if comment.startswith("nearly 0"):
                right, wrong = map(float, line.split())
                assert right < 1e-3 < 1e-2 < wrong
            if comment.startswith("on the exact map"):
                assert float(line) < 1e-4


@pytest.fixture
def my_images(tmp_path, monkeypatch, tables):
    """A folder with my_images.py of docs/data.md and 40 PNG files of two classes; the working folder of the test."""
    (block,) = re.findall(r"```python\n(.*?)```", (DOCS / "data.md").read_text(), re.S)
    (tmp_path / "my_images.py").write_text(block)
    rng = np.random.default_rng(0)
    for i in range(40):
        path = tmp_path / "my_images" / ("cats", "dogs")[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_folder_of_images_is_read(my_images):
    names = {}
    exec(compile((my_images / "my_images.py").read_text(), "my_images.py", "exec"), names)
    train, test = (data.load("my_images", split=split) for split in ("train", "test"))
    assert (train.size, test.size, train.shape, train.num_classes) == (36, 4, (16, 16, 3), 2)
    batch = next(data.batches(train, batch_size=8, seed=0))
    assert batch["x"].shape == (8, 16, 16, 3) and set(batch["label"]) == {0, 1}
    assert names["get_config"]().data.name == "my_images"


@pytest.mark.slow
def test_the_folder_of_images_is_trained_and_sampled_from_the_command_line(my_images):
    small = "--config.steps=2 --config.batch_size=8 --config.eval_every=0 --config.optim.warmup_steps=1 --config.model.width=16"
    code = (DOCS / "data.md").read_text()
    commands = re.findall(r"^PYTHONPATH=\. (python -m .*)$", code, re.M)
    assert len(commands) == 2
    outside = os.environ | {"PYTHONPATH": os.pathsep.join([str(my_images), str(ROOT)])}
    for command, more in zip(commands, (small, "--num=4")):
        words = [sys.executable, *command.split()[1:], *more.split()]
        result = subprocess.run(words, capture_output=True, text=True, env=outside, cwd=my_images)
        assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.slow
def test_a_run_is_loaded_and_sampled_as_the_pages_say(digits_run):
    for page in ("start.md", "sampling.md"):
        (block,) = [text for text in re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.S) if "load(" in text]
        names = {}
        exec(compile(block.replace("runs/demo", str(digits_run)), page, "exec"), names)
        if page == "start.md":
            assert names["digits"].shape == (16, 8, 8, 1)
            noise = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
            assert names["V"](noise, 1.0, 0.0).shape == noise.shape


def test_versions_come_from_one_place():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["metadata"]["version"] == "attr: flowjax.__version__"
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == flowjax.__version__
    assert f"## {flowjax.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    declared = re.findall(r"Python :: (3\.\d+)", setup["metadata"]["classifiers"])
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == declared
    assert {"run": "bash .ci/run"} in workflow["jobs"]["test"]["steps"]
    ruff = re.search(r"ruff (== [\d.*]+)", setup["options.extras_require"]["test"])[1].replace(" ", "")
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert all(hook["additional_dependencies"] == [f"ruff{ruff}"] for hook in hooks if hook["id"].startswith("ruff"))


def test_the_changelog_is_in_short_lines():
    assert max(map(len, (ROOT / "CHANGELOG.md").read_text().splitlines())) <= 150


# The site


@pytest.fixture(scope="session")
def site():
    """The folder of the built site; its warnings are errors."""
    missing = [name for name in BUILDERS if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f'{", ".join(missing)} not installed: pip install -e ".[docs]"')
    folder = ROOT / "build" / "site"
    shutil.rmtree(folder, ignore_errors=True)  # what an earlier build left
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-b",
        "html",
        "-d",
        "build/doctrees",
        "docs",
        str(folder),
    ]
    begun = time.monotonic()
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-4000:]
    print(f"built in {time.monotonic() - begun:.0f} s")
    return folder


@pytest.mark.slow
def test_the_site_builds_and_every_public_function_is_in_the_reference(site):
    sys.path.insert(0, str(DOCS / "_ext"))
    try:
        import api_pages
    finally:
        sys.path.pop(0)
    lines = zlib.decompress((site / "objects.inv").read_bytes().split(b"zlib.\n", 1)[1]).decode().splitlines()
    known = {line.split()[0] for line in lines}
    for module, name in api_pages.homes():
        assert f"{module}.{name}" in known, f"{module}.{name}"
    for path in sorted((ROOT / "flowjax").rglob("*.py")):  # found by the text of the code, not by what api_pages finds
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert any(entry.endswith(f".{node.name}") for entry in known), (path, node.name)


@pytest.mark.slow
def test_the_site_needs_no_network_and_no_link_in_it_is_dead(site):
    pages = {path: path.read_text() for path in site.rglob("*.html")}
    anchors = {path: set(re.findall(r'\b(?:id|name)="([^"]+)"', text)) for path, text in pages.items()}
    for path, text in pages.items():
        for tag in re.findall(r"<(?:script|link|img|source|iframe)\b[^>]*>", text):
            assert not re.search(r'(?:src|href)="(?:https?:)?//', tag), (path.name, tag)
        for link in re.findall(r'<(?:a|img|script|link)\b[^>]*?(?:href|src)="([^"]+)"', text):
            if link.startswith(("http", "mailto:", "data:", "#")) and not link.startswith("#"):
                continue
            file, _, anchor = link.partition("#")
            target = (path.parent / file.partition("?")[0]).resolve() if file else path
            assert target.exists(), (path.name, link)
            if anchor and target in anchors:
                assert anchor in anchors[target], (path.name, link)
    for path in (site / "_static").rglob("*.css"):
        assert not re.search(r"url\(['\"]?https?:|@import ['\"]?https?:", path.read_text()), path
    assert "<math" in pages[site / "methods" / "eulerian.html"]
    assert (site / "searchindex.js").stat().st_size > 50_000


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")
def test_the_search_works_from_a_folder(site):
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000", "--dump-dom"]
    page = subprocess.run(
        [*command, f"file://{site}/search.html?q=lagrangian"], capture_output=True, text=True, timeout=120
    ).stdout
    assert int(re.search(r"found (\d+) page", page)[1]) > 10 and "methods/lagrangian.html" in page


# The wheel


@pytest.mark.slow
def test_the_wheel_works_without_the_repository(tmp_path):
    """Built and installed into an empty environment, with the dependencies of this one, and imported from elsewhere."""
    version = importlib.metadata.version("setuptools")
    if tuple(map(int, version.split(".")[:2])) < (70, 1):  # which builds wheels by itself, so that no network is needed
        pytest.skip(f'setuptools is {version}; expected 70.1 or newer: pip install -e ".[test]"')
    run = lambda *command, **options: subprocess.run(command, check=True, capture_output=True, text=True, **options)
    source = tmp_path / "source"
    run("git", "-c", "safe.directory=*", "clone", "-q", str(ROOT), str(source))
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), ".", cwd=source)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"flowjax_flowmaps-{flowjax.__version__}-")
    inside = zipfile.ZipFile(wheel).namelist()
    assert "flowjax/py.typed" in inside and "flowjax/models/attention_choice.json" in inside
    assert not any(name.startswith(("tests/", "experiments/", "docs/")) for name in inside)
    run(sys.executable, "-m", "venv", str(tmp_path / "venv"))
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    python = tmp_path / "venv" / "bin" / "python"
    run(str(python), "-m", "pip", "install", "-q", "--no-deps", "--no-index", str(wheel))
    # The dependencies, but not the editable flowjax of this environment, whose .pth file is not read.
    (packages / "dependencies.pth").write_text("".join(f"{path}\n" for path in sys.path if path.endswith("site-packages")))
    code = (
        "import json, pkgutil, importlib, flowjax; names = [m.name for m in pkgutil.walk_packages(flowjax.__path__, 'flowjax.')];"
        "[importlib.import_module(name) for name in names];"
        "from flowjax import methods; method = methods.make('meanflow');"
        "print(json.dumps([flowjax.__file__, flowjax.__version__, len(names), len(methods.METHODS)]))"
    )
    outside = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    file, version, modules, known = json.loads(run(str(python), "-c", code, cwd=tmp_path, env=outside).stdout.splitlines()[-1])
    assert pathlib.Path(file).is_relative_to(tmp_path / "venv")
    assert version == flowjax.__version__ and modules > 60 and known == len(methods.METHODS)
