"""The directive `{commands-table}`: every script of experiments with the first sentence of its docstring."""

import ast
import pathlib
import re

from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

SCRIPTS = pathlib.Path(__file__).parents[2] / "experiments"


def commands():
    """{name: first sentence} of the scripts that have a command line."""
    found = {}
    for path in sorted(SCRIPTS.glob("[a-z]*.py")):
        text = path.read_text()
        about = (ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0]
        if "__main__" in text:
            found[path.stem] = re.split(r":? +python -m|\. |:\s*$", " ".join(about.split()))[0].rstrip(".:")
    return found


class CommandsTable(SphinxDirective):
    def run(self):
        self.env.note_dependency(str(SCRIPTS))
        lines = ["| command | what it does |", "| --- | --- |"]
        lines += [f"| `python -m experiments.{name}` | {about} |" for name, about in commands().items()]
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx):
    app.add_directive("commands-table", CommandsTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
