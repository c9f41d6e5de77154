"""Runs the notebooks and stores their outputs: python -m experiments.notebooks --only=flow_maps

Runs the text of each notebook, notebooks/NUMBER_NAME.py, in a new kernel (of all notebooks, or of those in --only). Writes the
.ipynb beside the text, with outputs and the seconds of the run, and docs/notebook_NAME.png, the picture of the cell tagged
"picture". A notebook that fails is not written. All ten take about eighteen minutes on two CPU cores; the fifth needs the run of
`make demo` for this, the ninth the run that its first cell names, the eighth the package english-words.
"""

import base64
import datetime
import pathlib
import sys
import time

import jupytext
import nbclient
import nbformat
import tqdm
from absl import flags
from traitlets import config

from experiments import command_line
from flowjax import checks, typing

ONLY = flags.DEFINE_list("only", [], "names of the notebooks to run; default: all")
ENCRYPTED = config.Config({"KernelManager": {"transport_encryption": "auto"}})  # without it the kernel warns
ROOT = pathlib.Path(__file__).parents[1]
TEXTS = sorted((ROOT / "notebooks").glob("[0-9]*_*.py"), key=lambda text: int(text.stem.partition("_")[0]))
NAMES = {text.stem.partition("_")[2]: text for text in TEXTS}


def executed(text, settings="", before=""):
    """Runs a notebook; returns it with outputs, a NotebookNode of nbformat.

    Args:
      text: the .py file.
      settings: code of a cell after the one tagged "parameters", which may change them; "": none.
      before: code of a cell before all others; "": none.

    Raises:
      InputError: unless exactly one cell is tagged "parameters".
      nbclient.exceptions.CellExecutionError: if a cell raises an exception.
    """
    notebook = jupytext.read(text)
    tagged = [number for number, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ())]
    if len(tagged) != 1:
        raise typing.InputError(f'{text} has {len(tagged)} cells of parameters; expected one: # %% tags=["parameters"].')
    for place, code in ((tagged[0] + 1, settings), (0, before)):
        if code:
            notebook.cells.insert(place, nbformat.v4.new_code_cell(code))
    where = {"metadata": {"path": str(text.parent)}}  # as Jupyter does
    with tqdm.tqdm(total=sum(cell.cell_type == "code" for cell in notebook.cells), desc=text.stem, unit="cell") as bar:
        options = {"coalesce_streams": True, "record_timing": False, "timeout": None}
        client = nbclient.NotebookClient(notebook, kernel_name="python3", resources=where, config=ENCRYPTED, **options)
        client.on_cell_complete = lambda **_: bar.update()
        client.execute()
    return notebook


def picture(notebook):
    """The bytes of the PNG of the cell tagged "picture"; raises InputError if there is none."""
    for cell in notebook.cells:
        if "picture" in cell.metadata.get("tags", ()):
            for output in cell.outputs:
                if png := output.get("data", {}).get("image/png"):
                    return base64.b64decode(png)
    raise typing.InputError(
        'the notebook has no picture for docs/notebooks.md: tag a cell that shows one, # %% tags=["picture"].'
    )


def main():
    for name in ONLY.value:
        checks.member("notebook", name, NAMES)
    for name in ONLY.value or NAMES:
        text, start = NAMES[name], time.perf_counter()
        notebook = executed(text)
        seconds = time.perf_counter() - start
        for number, cell in enumerate(notebook.cells):
            cell.id = f"cell-{number}"
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
        notebook.metadata["flowjax"] = {"seconds": round(seconds), "date": str(datetime.date.today())}
        png = picture(notebook)
        text.with_suffix(".ipynb").write_text(nbformat.writes(notebook) + "\n")
        (ROOT / "docs" / f"notebook_{name}.png").write_bytes(png)
        print(f"{text.with_suffix('.ipynb')}: {seconds:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    command_line.run(main)
