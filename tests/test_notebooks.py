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

# Parameters of the notebooks in these tests; FOLDER is a folder of the test.
SMALL = {
    "flow_maps": "lines, rows, cells = 9, 64, 2",
    "every_loss": "rows = 8",
    "compose_your_own": "folder, rows, steps, preset, run_steps = 'FOLDER', 16, 4, 'test', 20",
    "exact_jvp": "options = ['--tokens=16', '--attention=chunked', '--batch=4', '--depth=1', '--width=16', '--heads=2', '--rounds=1']",
    "one_step_digits": "run, short_run, steps, rows, cells = 'FOLDER/none', 'FOLDER/short', 4, 40, 2",
    "words": "run, short_run, steps, rows, most = 'FOLDER/none', 'FOLDER/short', 4, 40, 4",
    "globe": "folder, steps, rows, cells = 'FOLDER', 8, 300, 2",
    "posterior": "run, short_run, steps, digits, draws, rounds = 'FOLDER/none', 'FOLDER/short', 4, 8, 6, 4",
    "steering": "folder, steps, rows, side = 'FOLDER', 12, 256, 12",
    "second_stage": "run, folder, steps, finish_steps, rows, cells = 'FOLDER/none', 'FOLDER', 12, 10, 40, 2",
    "distil_a_teacher": "folder, teacher_steps, steps, rows, cells = 'FOLDER', 8, 8, 64, 2",
}
# Warnings are errors, and the text of a picture counts its empty axes.
WATCH = """
import warnings

import numpy
from IPython import get_ipython
from matplotlib import figure, pyplot

warnings.simplefilter("error")
warnings.filterwarnings("ignore", module="ipykernel")  # when it shuts down


def _drawn(image):
    # flowjax.plots paints magenta what is not finite.
    values = numpy.ma.masked_invalid(image.get_array())
    magenta = values.ndim == 3 and (values == [1.0, 0.0, 1.0]).all(axis=-1).mean() > 0.05
    return (values.compressed() != 0).any() and not magenta


def _shows_something(ax):
    drawn_lines = [numpy.isfinite(numpy.asarray(line.get_xydata(), float)).all(axis=1) for line in ax.lines]
    finite = ax.has_data() and numpy.isfinite(ax.dataLim.get_points()).all()
    return finite and all(line.any() or not line.size for line in drawn_lines) and all(_drawn(image) for image in ax.images)


def _describe(fig, pretty, cycle):
    pretty.text(f"{sum(not _shows_something(ax) for ax in fig.axes)} of {len(fig.axes)} axes are empty")


pyplot.close(pyplot.figure())  # the first figure resets how figures are formatted
get_ipython().display_formatter.formatters["text/plain"].for_type(figure.Figure, _describe)
"""
BAR = re.compile(r"[^\r\n]*?\d+%\|[^|\r\n]*\|[^\]\r\n]*\]")
WORDS = (
    "quarter third half dozen hundred thousand".split()
)  # numbers that prose might hide; two jumps and one jump are not claims
every_notebook = pytest.mark.parametrize("name", notebooks.NAMES)


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def pictures(notebook):
    """The outputs that hold a PNG, with their texts: [(pixels [H, W, 3], text)]."""
    result = [output["data"] for output in outputs(notebook) if "image/png" in output.get("data", {})]
    pixels = lambda data: image.imread(io.BytesIO(base64.b64decode(data["image/png"])))[..., :3]
    return [(pixels(data), data.get("text/plain", "")) for data in result]


def complaints(notebook):
    """What stands on stderr besides progress bars."""
    stderr = "\n".join(output.text for output in outputs(notebook) if output.get("name") == "stderr")
    return [line.strip() for line in re.split(r"[\r\n]", BAR.sub("", stderr)) if line.strip()]


def empty_pictures(notebook):
    """Pictures of one colour, and of a watched notebook those with axes that show nothing."""
    blank = lambda pixels: pixels.reshape(-1, 3).std(axis=0).max() < 1e-3
    full = re.compile(r"0 of [1-9]|<(Picture|Figure)")
    return [text for pixels, text in pictures(notebook) if blank(pixels) or not full.match(text)]


def small(name, folder):
    return notebooks.executed(notebooks.NAMES[name], SMALL[name].replace("FOLDER", str(folder)), before=WATCH)


# A minute each: the fastest runs every time, the others in the slow tests.
@pytest.mark.slow
@pytest.mark.parametrize("name", notebooks.NAMES)
def test_a_notebook_runs_without_a_warning_or_an_empty_picture(name, tmp_path):
    if name == "words":
        pytest.importorskip("english_words", reason="its dataset needs the package, which is among those of the extra test")
    notebook = small(name, tmp_path)
    assert pictures(notebook)
    assert not empty_pictures(notebook)
    assert not complaints(notebook)
    assert len(notebooks.picture(notebook)) > 1000


def notebook_of(tmp_path, *cells):
    path = tmp_path / "1_bad.py"
    path.write_text(
        "\n\n".join(
            f"# %%{head}\n{code}" for head, code in zip([' tags=["parameters"]', *[""] * len(cells)], ("n = 1", *cells))
        )
    )
    return path


@pytest.mark.slow
def test_a_warning_and_an_exception_end_a_run(tmp_path):
    for code in ("import warnings; warnings.warn('old')", "1 / 0"):
        with pytest.raises(nbclient.exceptions.CellExecutionError, match="old|ZeroDivisionError"):
            notebooks.executed(notebook_of(tmp_path, code), before=WATCH)


def test_an_empty_picture_and_words_on_stderr_are_detected(tmp_path):
    shown = [
        "import sys, matplotlib.pyplot as plt",
        "_ = plt.subplots()",
        "_ = plt.figure().add_subplot().plot([1.0, 2.0], [float('nan')] * 2)",
        "_ = plt.figure().add_subplot().imshow([[float('nan')]])",
        "_ = plt.figure().add_subplot().plot([1.0, 2.0])",
        "from flowjax import plots; plots.point_grid(None, {'none': [[float('nan')] * 2]})",
        "import numpy; plots.image_grid(None, {'none': numpy.full((1, 2, 8, 8, 1), numpy.nan)})",
        "plots.flow_lines(None, {'none': {'V': ([1.0, 0.0], [[numpy.nan] * 2])}}, ([1.0, 0.0], [[1.0, 0.0]]))",
        "plots.point_grid(None, {'some': numpy.eye(2)})",
        "print('  50%|#####     | 1/2 [00:01<00:01, 1.0it/s]something is wrong', file=sys.stderr)",
    ]
    notebook = notebooks.executed(notebook_of(tmp_path, *shown), before=WATCH)
    assert [text for _, text in pictures(notebook)] == [f"{n} of 1 axes are empty" for n in (1, 1, 1, 0, 1, 1, 1, 0)]
    assert len(empty_pictures(notebook)) == 6
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
    assert len(pictures(notebook)) >= 2 and not empty_pictures(notebook) and not complaints(notebook)
    picture = notebooks.ROOT / "docs" / f"notebook_{name}.png"
    assert picture.read_bytes() == notebooks.picture(notebook)


@every_notebook
def test_the_first_cell_has_the_measured_duration(name):
    notebook = stored(name)
    stated = int(re.search(r"Takes about (\d+) s on two CPU cores", notebook.cells[0].source)[1])
    measured = notebook.metadata["flowjax"]["seconds"]
    assert 0.6 * stated <= measured <= 1.15 * stated and measured < 180


def unsupported(notebook):
    """Numbers of the prose that the cell above did not print; code in backticks, links and times in seconds aside."""
    result, above = [], ""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            above = " ".join(output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in cell.outputs)
            continue
        prose = re.sub(r"`[^`]*`|\]\([^)]*\)|about \d+ s\b", "", cell.source)
        claims = re.findall(rf"(?<![\w.])\d+(?:\.\d+)?(?:e-?\d+)?%?|\b(?:{'|'.join(WORDS)})\b", prose)
        result += [claim for claim in claims if not re.search(rf"(?<![\w.]){re.escape(claim)}(?!\.?\w)", above)]
    return result


@every_notebook
def test_numbers_in_the_prose_are_computed_above(name):
    assert not unsupported(stored(name))


def test_an_unsupported_number_is_detected():
    printed = nbformat.v4.new_output("stream", text="12.7 of 3, 98.6% in 1e-03\n")
    prose = "It is 12.7 of 3, see `99` and [there](6.html): 98.6% or 1e-03. But 12 and 7 and 1.5 are a quarter."
    cells = [nbformat.v4.new_code_cell("", outputs=[printed]), nbformat.v4.new_markdown_cell(prose)]
    assert unsupported(nbformat.v4.new_notebook(cells=cells)) == ["12", "7", "1.5", "quarter"]


@every_notebook
def test_notebooks_only_call_the_library(name):
    """No function over ten lines besides its docstring, no picture over five lines of matplotlib."""
    for cell in jupytext.read(notebooks.NAMES[name]).cells:
        if cell.cell_type != "code":
            continue
        tree = ast.parse(cell.source)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                lines = node.end_lineno - node.lineno + 1 - (ast.get_docstring(node) is not None)
                assert lines <= 10, node.name
        plotting = {
            line for node in ast.walk(tree) if uses_matplotlib(node) for line in range(node.lineno, node.end_lineno + 1)
        }
        assert len(plotting) <= 5, cell.source


def uses_matplotlib(node):
    """Whether a statement without others in it calls pyplot, or what it returned."""
    if not isinstance(node, ast.stmt) or hasattr(node, "body"):
        return False
    return bool(
        {"plt", "fig", "figure", "ax", "axes", "boxes"} & {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    )


def test_every_notebook_is_small_here_and_in_the_texts():
    assert set(SMALL) == set(notebooks.NAMES) and len(SMALL) == 11
    readme, page = ((notebooks.ROOT / path).read_text() for path in ("README.md", "docs/notebooks.md"))
    for name, text in notebooks.NAMES.items():
        assert f"](notebooks/{text.stem}.ipynb)" in readme and f"](notebooks/{text.stem}.md)" in page
        assert f"notebook_{name}.png" in page


def test_links_between_notebooks_exist():
    for text in notebooks.TEXTS:
        for link in re.findall(r"\]\(([\w]+\.ipynb)\)", text.read_text()):
            assert (text.parent / link).exists(), (text.name, link)
