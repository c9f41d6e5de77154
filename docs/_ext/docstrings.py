"""Docstrings of flowjax, which are plain text, as reStructuredText.

Paragraphs are escaped, names in backticks link to what they name, indented lines are shown as they are, sections (Args, Returns,
Raises, Attributes, Example, Reference) become fields, and arXiv ids become links.
"""

import inspect
import re
import textwrap

SECTION = re.compile(r"(Args|Returns|Yields|Raises|Attributes|Examples?|References?):\s*(.*)")
ENTRY = re.compile(r"(\*{0,2}[\w, *]+):\s+(.*)")
ARXIV = re.compile(r"arXiv:? (\d{4}\.\d{4,5})")
NAME = re.compile(r"[A-Za-z_]\w*(\.\w+)*(\(\))?$")


def rst(docstring: str, modules: set[str]) -> list[str]:
    """The lines of reStructuredText of a docstring.

    Args:
      docstring: as written.
      modules: names of the modules of flowjax, which docstrings write without the package: `losses.meanflow`.
    """
    out = []
    lines = inspect.cleandoc(docstring).splitlines()
    while lines:
        if match := SECTION.fullmatch(lines[0]):
            lines.pop(0)
            body = _indented(lines)
            out += _section(match[1], match[2], body, modules)
        else:
            out += _block(lines, modules)
    return out


def _indented(lines):
    """Takes the lines that are indented, and empty lines between them; returns them without the indentation."""
    body = []
    while lines and (not lines[0].strip() or lines[0].startswith(" ")):
        body.append(lines.pop(0))
    while body and not body[-1].strip():
        lines.insert(0, body.pop())
    return textwrap.dedent("\n".join(body)).splitlines()


def _block(lines, modules):
    """Takes one paragraph, list, example or indented block from the top of `lines`."""
    if not lines[0].strip():
        lines.pop(0)
        return [""]
    if lines[0].startswith(" "):
        return ["", "..  code-block:: text", "", *("    " + line for line in _indented(lines)), ""]
    if lines[0].startswith(">>>"):
        example = []
        while lines and lines[0].strip():
            example.append(lines.pop(0))
        return ["", *example, ""]
    paragraph = [lines.pop(0)]
    bullet = paragraph[0].startswith(("* ", "- "))
    while lines and lines[0].strip() and not lines[0].startswith(("* ", "- ", ">>>")) and not SECTION.fullmatch(lines[0]):
        if lines[0].startswith(" ") and not bullet:
            break
        paragraph.append(lines.pop(0))
    text = " ".join(line.strip() for line in paragraph)
    return ["", "* " + inline(text[2:], modules)] if bullet else ["", inline(text, modules), ""]


def _section(title, rest, body, modules):
    if title in ("Args", "Attributes", "Raises") and not rest:
        field = {"Args": "param", "Attributes": "ivar", "Raises": "raises"}[title]
        out = [""]
        for name, text in _entries(body):
            for each in re.split(r",\s*", name) if title != "Raises" else [name]:
                out.append(f":{field} {each.replace('*', chr(92) + '*')}: {inline(text, modules)}")
        return [*out, ""]
    if title == "Returns":
        return ["", f":returns: {inline(' '.join([rest, *(line.strip() for line in body)]).strip(), modules)}", ""]
    text = [f"**{title}**" + (f": {inline(rest, modules)}" if rest else "")]
    if title.startswith("Reference"):
        return ["", inline(" ".join([f"{title}: {rest}", *(line.strip() for line in body)]).strip(), modules), ""]
    if body and not any(line.startswith(">>>") for line in body):
        return ["", *text, "", "..  code-block:: python", "", *("    " + line for line in body), ""]
    lines, out = list(body), ["", *text, ""]
    while lines:
        out += _block(lines, modules)
    return [*out, ""]


def _entries(body):
    """(name, text) of the entries of a section; lines that are indented go on with the entry before."""
    entries = []
    for line in body:
        match = ENTRY.fullmatch(line)
        if match:
            entries.append([match[1], match[2]])
        elif entries:
            entries[-1][1] += " " + line.strip()
        elif line.strip():
            entries.append(["", line.strip()])
    return [(name or "...", text) for name, text in entries]


def inline(text: str, modules: set[str]) -> str:
    """One line: what stands in backticks as code or as a link, all else escaped."""
    parts = re.split(r"`([^`]+)`", text)
    return "".join(_code(part, modules) if i % 2 else _plain(part, modules) for i, part in enumerate(parts))


def _code(part, modules):
    name = part.removesuffix("()")
    if NAME.fullmatch(part) and "." not in name:
        return _guarded(f":py:obj:`{name}`")
    if NAME.fullmatch(part) and name.split(".")[0] in modules | {"flowjax"}:
        return _guarded(f":py:obj:`{name} <{name if name.startswith('flowjax') else 'flowjax.' + name}>`")
    return _guarded(f"``{part}``") if part.strip() == part else part


def _guarded(markup):
    return rf"\ {markup}\ "


def _plain(text, modules):
    escaped = re.sub(r"([\\*|<>])", r"\\\1", text)
    escaped = re.sub(r"(\w)_(?!\w)", r"\1\\_", escaped)
    escaped = re.sub(r"(?<![\w.])(flowjax(?:\.\w+)+)", lambda match: rf"\ :py:obj:`{match[1]}`\ ", escaped)
    return ARXIV.sub(r"`arXiv \1 <https://arxiv.org/abs/\1>`__", escaped)
