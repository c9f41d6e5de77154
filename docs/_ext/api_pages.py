"""The API reference: one page for each module of flowjax with everything public in it, written into docs/api before a build.

An object that a package offers (its `__all__`, or what it imports from its modules) is documented there; all others where they are
defined. Private names, and objects of other libraries, are left out.
"""

import ast
import importlib
import inspect
import pathlib
import pkgutil
import re
import typing

import docstrings

import flowjax


def modules():
    """All public modules of flowjax, packages before their modules."""
    names = [info.name for info in pkgutil.walk_packages(flowjax.__path__, "flowjax.")]
    return [
        importlib.import_module(name) for name in sorted(names) if not any(part.startswith("_") for part in name.split("."))
    ]


def public(module):
    """{name: object} that belong to a module or are offered by a package, functions and classes and constants."""
    listed = getattr(module, "__all__", None)
    package = hasattr(module, "__path__")
    found = {}
    for name, value in vars(module).items():
        if name.startswith("_") or inspect.ismodule(value) or (listed is not None and name not in listed):
            continue
        if inspect.isclass(value) or is_function(value):
            home = inspect.unwrap(value).__module__
            if home == module.__name__ or (package and home.startswith(module.__name__ + ".")):
                found[name] = value
        elif name in assigned(module):
            found[name] = value
    return found


def is_function(value):
    """Whether it is a function, also one that is compiled or cached."""
    return inspect.isfunction(inspect.unwrap(value)) if callable(value) and not inspect.isclass(value) else False


def assigned(module):
    """{name: the comment above it} of what a module assigns at its top level, such as tables and aliases of types."""
    lines = inspect.getsource(module).splitlines()
    names = {}
    for node in ast.parse("\n".join(lines)).body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        for target in targets:
            if isinstance(target, ast.Name):
                above, comment = node.lineno - 2, []
                while above >= 0 and lines[above].startswith("#"):
                    comment.insert(0, lines[above].lstrip("# "))
                    above -= 1
                after = lines[node.lineno - 1].partition("  # ")[2]
                names[target.id] = " ".join(comment) or after
    return names


def homes():
    """{(module name, name): object} of everything documented, each object once."""
    taken, documented = set(), {}
    for module in modules():
        for name, value in public(module).items():
            plain = not (inspect.isclass(value) or is_function(value))
            if plain and (name in ("sg", "ROOT") or not name[0].isupper()):
                continue
            if plain or id(value) not in taken:
                taken |= set() if plain else {id(value)}
                documented[module.__name__, name] = value
    return documented


def members(value):
    """Names of the documented methods and properties that a class defines itself."""
    own = [
        name for name, member in vars(value).items() if _described(member) and (not name.startswith("_") or name == "__call__")
    ]
    return [name for name in own if name not in getattr(value, "_fields", ())]


def _described(member):
    function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
    return inspect.isfunction(function) and bool(function.__doc__) and function.__module__.startswith("flowjax")


def write(folder: pathlib.Path):
    """Writes folder/index.md and a page for each module or package directly below flowjax."""
    folder.mkdir(exist_ok=True)
    documented = homes()
    tops = {}
    for module in modules():
        tops.setdefault(module.__name__.split(".")[1], []).append(module)
    names = {name.rpartition(".")[2] for name in (module.__name__ for module in modules())}
    pages = {"index.rst": _index(tops)}
    for top, parts in tops.items():
        pages[f"{top}.rst"] = _page(top, parts, documented, names)
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:  # an unchanged page is not built anew
            path.write_text(text)


def _unfielded(line):
    """A field of a function as a line of text, for the docstring of a module."""
    line = re.sub(r"^:(?:param|ivar|raises) ([^:]+): ", r"* **\1**: ", line)
    return re.sub(r"^:returns: ", "**Returns**: ", line)


def _index(tops):
    lines = [
        "API reference",
        "=============",
        "",
        "Every public function, class and table of flowjax, from the docstrings.",
        "",
    ]
    for top, parts in tops.items():
        first = (parts[0].__doc__ or "").strip().splitlines()
        lines.append(f"* :doc:`flowjax.{top} <{top}>`: {docstrings.inline(first[0] if first else '', set())}")
    return "\n".join([*lines, "", ".. toctree::", "   :hidden:", "", *(f"   {top}" for top in tops), ""])


def _page(top, parts, documented, names):
    head = f"flowjax.{top}"
    lines = [head, "=" * len(head), ""]
    for module in parts:
        if module is not parts[0]:
            lines += ["", module.__name__, "-" * len(module.__name__), ""]
        about = [_unfielded(line) for line in docstrings.rst(module.__doc__ or "", names)]
        shadowed = module.__name__.rpartition(".")[::2] in documented  # flowjax.evals.frechet is a function for all readers
        lines += [f".. py:module:: {module.__name__}", "   :no-index:" if shadowed else "", "", *about, ""]
        for (home, name), value in documented.items():
            if home == module.__name__:
                lines += ["", *_entry(home, name, value, module, names)]
    return "\n".join(lines) + "\n"


def _entry(home, name, value, module, names):
    if inspect.isclass(value):
        own = members(value)
        listed = [f"   :members: {', '.join(own)}", "   :special-members: __call__"] if own else []
        return [f".. autoclass:: {home}.{name}", *listed, "   :member-order: bysource", ""]
    if is_function(value):
        return [f".. autofunction:: {home}.{name}", ""]
    comment = docstrings.inline(assigned(module).get(name, ""), names)
    keys = ""
    if isinstance(value, dict) and value and all(isinstance(key, str) for key in value):
        keys = "Keys: " + ", ".join(f"``{key!r}``" for key in value) + "."
    elif isinstance(value, (int, float, str)):
        keys = f"Value: ``{value!r}``." if value != "" else ""
    elif typing.get_origin(value) is not None:
        keys = f"Alias of ``{str(value).replace('typing.', '')}``."
    return [f".. py:data:: {name}", f"   :module: {home}", "", f"   {comment}", "", f"   {keys}", ""]
