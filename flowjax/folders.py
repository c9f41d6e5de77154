"""Folders of results that a killed command continues: claimed by a file that describes them, written file by file.

A claimed folder holds a JSON file with what its files depend on. A command that finds the same description continues there; any
other is refused. Every file is written under a hidden name and renamed, so that it appears whole or not at all, and a kill
leaves only hidden files, which do not count as content.
"""

import contextlib
import json
import os
import pathlib
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from flowjax import typing

ABOUT = "about.json"
_PART = ".part"  # ending of a file that is being written

Path = str | os.PathLike


def check_free(path: Path, marker: str, flag: str) -> None:
    """Raises InputError unless a folder without `marker`, the file that claims it, is empty or does not exist.

    Args:
      path: the folder.
      marker: name of the file that claims it.
      flag: what the folder was given as, for the error.
    """
    path = pathlib.Path(path)
    if path.exists() and (not path.is_dir() or any(not entry.name.startswith(".") for entry in path.iterdir())):
        raise typing.InputError(f"{flag}={path} is not empty and holds no {marker}; give a new or empty folder.")


def differences(old: dict[str, Any], new: dict[str, Any], names: Iterable[str]) -> str:
    """The values of both dicts for each of `names` where they differ, as part of a sentence; "" if they agree."""
    differ = [name for name in names if old.get(name) != new.get(name)]
    return "; ".join(f"{name}: {old.get(name)!r} there, {new.get(name)!r} now" for name in differ)


def claim(path: Path, about: dict[str, Any], *, flag: str, contents: str, free: tuple[str, ...] = ()) -> dict[str, Any]:
    """Makes a folder and writes its about.json, or continues in one that was claimed with the same description.

    Args:
      path: the folder.
      about: what the contents depend on, of JSON types.
      flag: what the folder was given as, for the errors.
      contents: what the folder holds, for the errors: "samples".
      free: names in `about` that may differ.

    Returns:
      The description in the folder, which has the earlier call's values of `free`.

    Raises:
      InputError: if the folder holds something else.
    """
    path, about = pathlib.Path(path), json.loads(json.dumps(about))
    if (path / ABOUT).exists():
        old = json.loads((path / ABOUT).read_text())
        if differ := differences(old, about, [name for name in about if name not in free]):
            raise typing.InputError(f"{flag}={path} holds other {contents} ({differ}); give another folder.")
        for left in path.glob(f".*{_PART}"):  # by a kill
            left.unlink()
        return old
    check_free(path, ABOUT, flag)
    path.mkdir(parents=True, exist_ok=True)
    write_about(path, about)
    return about


def write_about(path: Path, about: dict[str, Any]) -> None:
    """Writes about.json of a folder."""
    write_text(pathlib.Path(path) / ABOUT, json.dumps(about, indent=2) + "\n")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[pathlib.Path]:
    """A context with a hidden file to write, which becomes `path` at the end; an exception leaves `path` as it was."""
    path = pathlib.Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}{_PART}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, newline="")
