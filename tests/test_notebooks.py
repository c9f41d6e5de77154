"""Every notebook runs, small, without a warning or an empty picture; what is stored of it is a full run of the same text."""

import ast
import base64
import io
import re

import jupytext
import nbclient
import nbformat
import pytest
from matplotlib import image

from experiments import notebooks

# What a notebook's cell of parameters is set to here; FOLDER is the test's own.
SMALL = {
    "flow_maps": "lines, rows, cells = 9, 64, 2",
    "every_loss": "rows = 8",
    "compose_your_own": "folder, rows, steps, preset, run_steps = 'FOLDER', 16, 4, 'test', 20",
    "exact_jvp": "options = ['--tokens=16', '--attention=chunked', '--batch=4', '--depth=1', '--width=16', '--heads=2', '--rounds=1']",
    "one_step_digits": "run, own, steps, rows, cells = 'FOLDER/none', 'FOLDER/own', 4, 40, 2",
    "distil_a_teacher": "folder, teacher_steps, steps, rows, cells = 'FOLDER', 8, 8, 64, 2",
}
# Warnings are errors, and a picture says in words how many of its axes show nothing.
WATCH = """
import warnings

import numpy
from IPython import get_ipython
from matplotlib import figure

warnings.simplefilter("error")
warnings.filterwarnings("ignore", module="ipykernel")  # its own shutdown


def shows_something(ax):
    finite = ax.has_data() and numpy.isfinite(ax.dataLim.get_points()).all()
    return finite and all(numpy.ma.masked_invalid(shown.get_array()).compressed().size for shown in ax.images)


def describe(fig, pretty, cycle):
    pretty.text(f"{sum(not shows_something(ax) for ax in fig.axes)} of {len(fig.axes)} axes are empty")


get_ipython().display_formatter.formatters["text/plain"].for_type(figure.Figure, describe)
"""
BAR = re.compile(r"\d+%\||^$|\d+(it|step|cell|run|h)(/s)?")
every_notebook = pytest.mark.parametrize("name", notebooks.NAMES)


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def pictures(notebook):
    """The outputs that hold a PNG, with their texts: [(pixels [H, W, 3], text)]."""
    found = [output["data"] for output in outputs(notebook) if "image/png" in output.get("data", {})]
    pixels = lambda data: image.imread(io.BytesIO(base64.b64decode(data["image/png"])))[..., :3]
    return [(pixels(data), data.get("text/plain", "")) for data in found]


def complaints(notebook):
    """What stands on stderr besides progress bars."""
    said = "".join(output.text for output in outputs(notebook) if output.get("name") == "stderr")
    return [line for line in said.replace("\r", "\n").splitlines() if not BAR.search(line)]


def empty_pictures(notebook):
    """Pictures of one colour, and of a watched notebook those with axes that show nothing."""
    blank = lambda pixels: pixels.reshape(-1, 3).std(axis=0).max() < 1e-3
    return [text for pixels, text in pictures(notebook) if blank(pixels) or not text.startswith(("0 of ", "<"))]


def small(name, folder, monkeypatch):
    # One device, as a laptop has; programs that run once need not be fast.
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    return notebooks.executed(notebooks.NAMES[name], SMALL[name].replace("FOLDER", str(folder)), before=WATCH)


@every_notebook
def test_a_notebook_runs_without_a_warning_or_an_empty_picture(name, tmp_path, monkeypatch):
    notebook = small(name, tmp_path, monkeypatch)
    assert pictures(notebook)
    assert not empty_pictures(notebook)
    assert not complaints(notebook)
    assert len(notebooks.picture(notebook)) > 1000


def notebook_of(tmp_path, *cells):
    path = tmp_path / "1_bad.py"
    path.write_text(
        "\n\n".join(f"# %%{head}\n{code}" for head, code in zip([' tags=["parameters"]', *[""] * 9], ("n = 1", *cells)))
    )
    return path


def test_a_warning_and_an_exception_end_a_run(tmp_path):
    for code in ("import warnings; warnings.warn('old')", "1 / 0"):
        with pytest.raises(nbclient.exceptions.CellExecutionError, match="old|ZeroDivisionError"):
            notebooks.executed(notebook_of(tmp_path, code), before=WATCH)


def test_an_empty_picture_and_words_on_stderr_are_found(tmp_path):
    shown = [
        "import sys, matplotlib.pyplot as plt",
        "_ = plt.subplots()",
        "_ = plt.figure().add_subplot().plot([1.0, 2.0], [float('nan')] * 2)",
        "_ = plt.figure().add_subplot().imshow([[float('nan')]])",
        "_ = plt.figure().add_subplot().plot([1.0, 2.0])",
        "from flowjax import plots; plots.point_grid(None, {'none': [[float('nan')] * 2]})",
        "print('  50%|#####     | 1/2', file=sys.stderr); print('something is wrong', file=sys.stderr)",
    ]
    notebook = notebooks.executed(notebook_of(tmp_path, *shown), before=WATCH)
    assert [text for _, text in pictures(notebook)] == [f"{n} of 1 axes are empty" for n in (1, 1, 1, 0, 0)]
    assert len(empty_pictures(notebook)) == 3
    assert complaints(notebook) == ["something is wrong"]


def test_settings_replace_parameters(tmp_path):
    notebook = notebooks.executed(notebook_of(tmp_path, "print(n)"), "n = 2")
    assert outputs(notebook)[0].text == "2\n"


# What is stored


def stored(name):
    return nbformat.read(notebooks.NAMES[name].with_suffix(".ipynb"), 4)


@every_notebook
def test_what_is_stored_is_a_full_run_of_the_text(name):
    notebook, text = stored(name), jupytext.read(notebooks.NAMES[name])
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [(cell.cell_type, cell.source) for cell in text.cells]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(output.output_type == "error" for output in outputs(notebook))
    assert len(pictures(notebook)) >= 3 and not empty_pictures(notebook) and not complaints(notebook)
    picture = notebooks.ROOT / "docs" / f"notebook_{name}.png"
    assert picture.read_bytes() == notebooks.picture(notebook)


@every_notebook
def test_the_first_cell_says_how_long_it_takes(name):
    notebook = stored(name)
    said = int(re.search(r"Takes about (\d+) s on two CPU cores", notebook.cells[0].source)[1])
    measured = notebook.metadata["flowjax"]["seconds"]
    assert 0.6 * said <= measured <= 1.1 * said and measured < 180


@every_notebook
def test_numbers_in_the_prose_are_computed_above(name):
    """Code in backticks, links and times of the first cell aside."""
    above = ""
    for number, cell in enumerate(stored(name).cells):
        if cell.cell_type == "code":
            above = "".join(output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in cell.outputs)
            continue
        prose = re.sub(r"`[^`]*`|\]\([^)]*\)|Takes about \d+ s", "", cell.source)
        for claim in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?:e-?\d+)?%?", prose):
            assert re.search(rf"(?<![\d.]){re.escape(claim)}(?![\d])", above), (number, claim, cell.source)


@every_notebook
def test_notebooks_only_call_the_library(name):
    """No function over ten lines, no picture over five lines of matplotlib."""
    for cell in jupytext.read(notebooks.NAMES[name]).cells:
        if cell.cell_type != "code":
            continue
        tree = ast.parse(cell.source)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                assert node.end_lineno - node.lineno < 10, node.name
        simple = [node for node in ast.walk(tree) if isinstance(node, ast.stmt) and not hasattr(node, "body")]
        names = lambda node: {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
        assert sum(bool({"plt", "fig", "ax", "boxes"} & names(node)) for node in simple) <= 5, cell.source


def test_every_notebook_is_small_here_and_in_the_readme():
    assert set(SMALL) == set(notebooks.NAMES) and len(SMALL) == 6
    readme = (notebooks.ROOT / "README.md").read_text()
    for name, text in notebooks.NAMES.items():
        assert f"](notebooks/{text.stem}.ipynb)" in readme and f"docs/notebook_{name}.png" in readme


def test_links_between_notebooks_lead_somewhere():
    for text in notebooks.TEXTS:
        for link in re.findall(r"\]\(([\w]+\.ipynb)\)", text.read_text()):
            assert (text.parent / link).exists(), (text.name, link)
