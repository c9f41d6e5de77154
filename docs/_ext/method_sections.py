"""The directives `{method-section} NAME`, a method's equation, loss, recipe and costs from the code and the measured tables, `{methods-table}` and `{distributional-table}`."""

import ast
import csv
import functools
import inspect
import pathlib
import re

import formulas
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from flowjax import losses, methods

DOCS = pathlib.Path(__file__).parents[1]
ROOT = DOCS.parent
SETTINGS = {
    "D": "distils a teacher",
    "S": "distils itself",
    "M": "learns the marginal flow from conditional velocities",
    "P": "compares its samples with the data",
}
RULES = {
    "diagonal": "the anchor",
    "eulerian": "Eulerian, the source moves",
    "lagrangian": "Lagrangian, the target moves",
    "compositional": "compositional, two jumps are one",
    "distributional": "the distribution of the samples is matched",
}
PREDICTS = {
    "velocity": "V itself",
    "denoised_field": "the denoised field",
    "categorical": "logits of the categories",
    "edm": "as EDM's network",
    "trigflow": "as TrigFlow's network",
    "dyadic": "V itself, told the length d of a jump by log2(1/d),",
}
# Words that an equation of a docstring has besides its symbols.
WORDS = re.compile(
    r"\b(?!sg\b|vs\b|eps\b|clip\b|sqrt\b|teacher\b|velocity\b|warmup\b|both\b|pi\b|delta\b|log\b|logits\b|softmax\b|residual\b|fake\b|alpha\b|discriminator\b|ratio\b|sum\b|mean\b|max\b|exp\b)[a-z]{2,}\b(?!_)"
)


class MethodSection(SphinxDirective):
    """All of one method but the text on when to use it."""

    required_arguments = 1

    def run(self):
        name = self.arguments[0]
        info = methods.info(name)
        target = f"method-{name.replace('_', '-')}"
        paper = f"[{info.paper}](https://arxiv.org/abs/{info.arxiv})"
        lines = [f"`{name}`: {paper}. {RULES[info.rule].capitalize()}; it {SETTINGS[info.setting]}.", ""]
        for pair in info.pairs:
            lines += equation(pair)
        for pair in info.pairs:
            lines += source(pair)
        lines += recipe(name, info)
        for path in ("flowjax/losses", "flowjax/methods", "docs/method_costs.csv", "docs/landscape_checkerboard.csv"):
            for file in [ROOT / path] if (ROOT / path).is_file() else sorted((ROOT / path).rglob("*.py")):
                self.env.note_dependency(str(file))
        anchor = nodes.target("", "", ids=[target], names=[target])
        return [anchor, *self.parse_text_to_nodes("\n".join(lines))]


def equation(pair):
    """The equation of a loss, from its docstring, as formulas; nothing for a loss that has none."""
    lines = (pair.__doc__ or "").splitlines()
    alone = [line.strip() for before, line in zip(lines, lines[1:]) if not before.strip() and line.startswith("        ")]
    shown = next((line for line in alone if " vs " in line), next(iter(alone), None))
    if shown is None:  # "the pair of `soflow`"
        other = next((name for name in re.findall(r"`(\w+)`", pair.__doc__ or "") if hasattr(losses, name)), None)
        return equation(getattr(losses, other)) if other else []
    first, *rest = re.split(r",\s{2,}", shown)
    lines = ["```{math}", formulas.latex(first), "```", ""]
    where = [part if WORDS.search(part) else f"${formulas.latex(part)}$" for part in rest]
    return [*lines, f"with {', '.join(where)}.", ""] if where else lines


def source(pair):
    """The code of a loss without its docstring, included from its file."""
    path = pathlib.Path(inspect.getsourcefile(pair)).resolve().relative_to(ROOT.resolve())
    function = next(node for node in ast.parse((ROOT / path).read_text()).body if getattr(node, "name", "") == pair.__name__)
    text, first = function.body[0], function.body[1]
    home = "flowjax.losses" if pair.__name__ in losses.__all__ else pair.__module__
    return [
        f"The loss, {{py:obj}}`~{home}.{pair.__name__}` of `{path}`:",
        "",
        f"```{{literalinclude}} /../{path}",
        ":language: python",
        f":lines: {function.lineno}-{text.lineno - 1},{first.lineno}-{function.end_lineno}",
        "```",
        "",
    ]


def recipe(name, info):
    """The recipe: what it needs and learns, its constants with their reasons, its costs and its command."""
    method = methods.outline(name, total_steps=1_000)
    rows = ", ".join(f"{term.name} {_share(term.columns)}" for term in method.terms)
    reference = " ".join(inspect.getdoc(info.recipe).partition("Reference:")[2].split())
    lines = [
        f"The recipe, {{py:obj}}`{info.recipe.__module__}.{info.recipe.__name__}`.",
        f"Rows: {rows}. The network predicts {PREDICTS.get(info.parameterisation, info.parameterisation)}"
        f" and learns {info.learns}. Derivative and stop-gradient: {info.derivative}."
        + (f" Besides the network it needs: {', '.join(f'`{need}`' for need in info.needs)}." if info.needs else ""),
        "",
        f"Source: {_linked(reference)}" if reference else "",
        "",
        *_constants(name, info.recipe),
        *_costs(name),
        "```",
        "python -m experiments.train --config=configs/"
        + (f"tokens.py:{name},words" if name in methods.CATEGORICAL else f"method.py:{name},checkerboard")
        + (" --config.teacher=runs/psd" if "teacher_map" in info.needs else "")
        + (" --config.teacher=runs/categorical" if name == "flm" else "")
        + f" --workdir=runs/{name}",
        "```",
        "",
    ]
    return lines


def _linked(text):
    return re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)


def _share(columns):
    low, high, of = columns
    return "on every row" if high - low == of else f"on {high - low}/{of}"


def _constants(name, function):
    own, shared = arguments(function), arguments(methods)
    lines = ["| constant | value | what it is and where it is from |", "| --- | --- | --- |"]
    for key, value in methods.constants(name).items():
        text = own.get(key) or shared.get(key, "")
        if key in own and key in shared and len(own[key]) < 60 and key not in ("times",):
            text = f"{shared[key].rstrip('.')}; {own[key]}"
        shown = getattr(value, "__name__", None) or repr(value)
        lines.append(f"| `{key}` | `{shown}` | {text.replace('|', chr(92) + '|')} |")
    return [*lines, ""]


def arguments(documented):
    """{name: text} of the section Args of a docstring, or of the list of shared constants of flowjax.methods."""
    text = inspect.getdoc(documented) or ""
    body = re.split(r"^(?:Args:|Constants that recipes share.*?:)\n", text, maxsplit=1, flags=re.M | re.S)
    if len(body) < 2:
        return {}
    found = {}
    for line in body[1].splitlines():
        match = re.fullmatch(r"  (\w[\w, ]*): (.*)", line)
        if match:
            keys = match[1].split(", ")
            found.update(dict.fromkeys(keys, match[2]))
        elif line.startswith("    ") and found:
            for key in keys:
                found[key] += " " + line.strip()
        elif line.strip() and found:
            break
    return found


@functools.cache
def _tables():
    costs = list(csv.DictReader((DOCS / "method_costs.csv").read_text().splitlines()))
    board = {row["method"]: row for row in csv.DictReader((DOCS / "landscape_checkerboard.csv").read_text().splitlines())}
    return costs, board


def _costs(name):
    costs, board = _tables()
    apart = (DOCS / "distributional_costs.csv").read_text().splitlines()
    if name in methods.DISTRIBUTIONAL:
        row = next((row for row in csv.DictReader(apart) if row["method"] == name), None)
        if row is None:
            return ["*The cost of a step was not counted yet.*", ""]
        others = f", one of the others {row['others']}" if float(row["others"]) else ""
        return [f"A step of the student costs {row['student']} forward passes{others}; {row['mean']} on average.", ""]
    if name in methods.EXTENDED:
        counted = csv.DictReader((DOCS / "extended_costs.csv").read_text().splitlines())
        count = next(row["counted"] for row in counted if row["method"] == name)
        return [
            f"A step costs {count} forward passes, rows split as the recipe does ([of what network](../method_costs.md)).",
            "",
        ]
    rows = [row for row in costs if row["method"] == name]
    if not rows:
        return ["*The cost of a step was not measured yet.*", ""]
    lines = [
        "| cost of a step | remat | forward passes | time over a forward pass | MiB |",
        "| --- | --- | --- | --- | --- |",
    ]
    what = {"every row": "every term on every row", "as split": "rows split as the recipe does"}
    for row in rows:
        which = "" if row["step"] == "each" else f", {row['step']}"
        cells = [what[row["rows"]] + which, row["remat"], row["FPE"], row["wall over forward"], row["temp MiB"]]
        lines.append(f"| {' | '.join(cells)} |")
    one = board.get(name, {}).get("1 step")
    if one:
        error = float(board[name]["1 step, deviation"] or 0)
        lines += [
            "",
            f"One-step distance on the checkerboard: {float(one):.3f} ± {error:.3f} (flow matching: 1.13; other data: 0.024).",
        ]
    return [*lines, ""]


class MethodsTable(SphinxDirective):
    """The table of all methods, as `python -m experiments.landscape --table` prints it."""

    def run(self):
        from experiments import landscape

        return self.parse_text_to_nodes(landscape.method_table())


class DistributionalTable(SphinxDirective):
    """The table of the methods that match distributions."""

    def run(self):
        from experiments import landscape

        return self.parse_text_to_nodes(landscape.distributional_table())


def setup(app: Sphinx):
    app.add_directive("method-section", MethodSection)
    app.add_directive("methods-table", MethodsTable)
    app.add_directive("distributional-table", DistributionalTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
