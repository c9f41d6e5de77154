"""Formulas of the site: LaTeX becomes MathML when the site is built, so that a page needs no script and no font; equations of docstrings become LaTeX."""

import re

from latex2mathml import converter
from sphinx.application import Sphinx

# What a docstring writes in plain letters, as LaTeX. d_s is the derivative along the flow, d/ds the partial one.
SYMBOLS = {
    "d_s": r"\mathrm{d}_s\,",
    "d_t": r"\partial_t\,",
    "grad_x": r"\nabla_x",
    "eps": r"\varepsilon",
    "alpha": r"\alpha",
    "clip": r"\operatorname{clip}",
    "warmup": r"\omega\,",
    "pi": r"\pi",
    "delta": r"\delta",
    "log": r"\log",
    "logits": r"\operatorname{logits}",
    "softmax": r"\operatorname{softmax}",
    "residual": r"\mathrm{residual}",
    "vs": r"\quad\text{vs}\quad",
}
ROMAN = (
    "teacher",
    "velocity",
    "both",
    "fake",
    "discriminator",
    "ratio",
    "unconditional",
    "errors",
    "sum",
    "mean",
    "max",
    "exp",
)
TOKEN = re.compile(r"d/ds|\w+|\s+|<=|->|[^\w\s]")


def latex(equation: str) -> str:
    """One line of an equation of flowjax.losses as LaTeX: `V(x, s, t)  vs  sg[v + (t - s) d_s V]`."""
    out, closing = [], []
    for token in TOKEN.findall(re.sub(r" \. ", " · ", equation)):
        before = out[-1] if out else ""
        if token == "[" and before.endswith("sg}"):
            out.append(r"\!\left[")
            closing.append(("]", r"\right]"))
        elif token == "(" and before.endswith("sqrt"):
            out[-1] = r"\sqrt{"
            closing.append((")", "}"))
        elif closing and token == closing[-1][0] and _balanced(out, token):
            out.append(closing.pop()[1])
        else:
            out.append(_symbol(token))
    return re.sub(r"\} \\text\{", " ", "".join(out))


def _balanced(out, token):
    """Whether a closing bracket ends the root, not a bracket inside of it."""
    if token == "]":
        return True
    since = "".join(out)[("".join(out)).rindex(r"\sqrt{") :]
    return since.count("(") == since.count(")")


def _symbol(token):
    if token in SYMBOLS:
        return SYMBOLS[token]
    if token == "sg":
        return r"\operatorname{sg}"
    if token == "sqrt":
        return "sqrt"
    if token == "d/ds":
        return r"\partial_s\,"
    if token == "·":
        return r"\cdot "
    name, _, below = token.partition("_")
    if below:
        letter = name if len(name) == 1 else rf"\mathrm{{{name}}}"
        return letter + "_{" + (below if len(below) == 1 else rf"\text{{{below}}}") + "}"
    if token.isalpha() and len(token) > 1:
        return rf"\mathrm{{{token}}}" if token in ROMAN else rf"\text{{ {token} }}"
    return {"<=": r"\le "}.get(token, token)


def mathml(text: str, display: str) -> str:
    return converter.convert(text, display=display)


def _inline(translator, node):
    translator.body.append(mathml(node.astext(), "inline"))
    raise translator.skip


def _block(translator, node):
    translator.body.append(f'<div class="formula">{mathml(node.astext(), "block")}</div>')
    raise translator.skip


def setup(app: Sphinx):
    from docutils import nodes

    def visit(convert):
        def visitor(translator, node):
            translator.skip = nodes.SkipNode
            convert(translator, node)

        return visitor

    app.add_html_math_renderer("mathml", (visit(_inline), None), (visit(_block), None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
