"""Folders of results that a killed command continues: claimed by a file that describes them, written file by file.

A claimed folder holds a JSON file with what its files depend on. A command that finds the same description continues there; any
other is refused. Every file is written under a hidden name and renamed, so that it appears whole or not at all, and a kill
leaves only hidden files, which do not count as content.
"""

import contextlib
import glob
import json
import os
import pathlib
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from flowjax import buckets, opening, ownership, typing

ABOUT = "about.json"
_PART = ".part"  # ending of a file that is being written
_DAY = 86_400.0  # seconds after which a file that another machine began to write counts as left behind

Path = str | os.PathLike


def check_free(path: Path, marker: str, flag: str) -> None:
    """Raises InputError unless a folder without `marker`, the file that claims it, is empty or does not exist.

    Args:
      path: the folder.
      marker: name of the file that claims it.
      flag: what the folder was given as, for the error.
    """
    path = buckets.path(path)
    check_path(path, flag)
    if buckets.exists(path) and (not buckets.is_dir(path) or any(not entry.name.startswith(".") for entry in path.iterdir())):
        raise typing.InputError(f"{flag}={path} is not empty and holds no {marker}; give a new or empty folder.")


def check_path(path: Path, flag: str) -> None:
    """Raises InputError for what no file system takes as a path: a name that is too long, a file in the place of a folder, gs://."""
    if buckets.is_remote(path):
        with _answering(path, flag):
            buckets.path(path, flag).exists()
        return
    try:
        os.lstat(path)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise typing.InputError(f"{flag}={str(path):.100} cannot be a folder: {why}; give another path.") from error


@contextlib.contextmanager
def _answering(path: Path, flag: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise typing.InputError(f"{flag}={path}: {error.strerror or error}.") from error


def differences(old: dict[str, Any], new: dict[str, Any], names: Iterable[str]) -> str:
    """The values of both dicts for each of `names` where they differ, as part of a sentence; "" if they agree."""
    differ = [name for name in names if old.get(name) != new.get(name)]
    return "; ".join(f"{name}: {old.get(name)!r} there, {new.get(name)!r} now" for name in differ)


def check_claim(
    path: Path, about: dict[str, Any], *, flag: str, contents: str, free: tuple[str, ...] = ()
) -> dict[str, Any] | None:
    """What `claim` with these arguments would find in the folder, None for nothing; raises what it would, and writes nothing."""
    path, about = buckets.path(path), json.loads(json.dumps(about))
    if not buckets.exists(path / ABOUT):
        check_free(path, ABOUT, flag)
        return None
    old = read_about(path, f"the description of {contents}; restore it, or give another folder")
    if differ := differences(old, about, [name for name in about if name not in free]):
        raise typing.InputError(f"{flag}={path} holds other {contents} ({differ}); give another folder.")
    return old


def claim(path: Path, about: dict[str, Any], *, flag: str, contents: str, free: tuple[str, ...] = ()) -> dict[str, Any]:
    """Makes a folder and writes its about.json, or continues in one that was claimed with the same description.

    The caller owns the folder, see flowjax.ownership.

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
    path = buckets.path(path)
    old = check_claim(path, about, flag=flag, contents=contents, free=free)
    if old is not None:
        sweep(path, owned=True)
        return old
    path.mkdir(parents=True, exist_ok=True)
    write_about(path, about)
    return json.loads(json.dumps(about))


def write_about(path: Path, about: dict[str, Any]) -> None:
    """Writes about.json of a folder, with a checksum of what it says."""
    text = json.dumps({**about, "checksum": opening.text_checksum(json.dumps(about))}, indent=2)
    write_text(buckets.path(path) / ABOUT, text + "\n")


def read_about(path: Path, expected: str, fields: Mapping[str, Callable[[Any], bool]] | None = None) -> dict[str, Any]:
    """What `write_about` wrote; arguments and errors as of flowjax.opening.json_object. A file without a checksum is not checked."""
    file = buckets.path(path) / ABOUT
    about = opening.json_object(file, expected, fields)
    with opening.reading(file, expected):
        if about.pop("checksum", opening.text_checksum(json.dumps(about))) != opening.text_checksum(json.dumps(about)):
            raise ValueError("it does not say what was written")
    return about


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[pathlib.Path]:
    """A context with a hidden file to write, which becomes `path` at the end; an exception leaves `path` as it was.

    What a killed process left of the same file is deleted first. An object of a bucket is written here and then uploaded whole.
    """
    path = buckets.path(path)
    if buckets.is_remote(path):
        with tempfile.TemporaryDirectory(prefix="flowjax_upload_") as scratch:
            part = pathlib.Path(scratch) / f"{path.name}{_PART}"
            yield part
            path.upload(part)
        return
    sweep(path.parent, path.name)
    part = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.{threading.get_ident()}{_PART}")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:  # a full disk is often told without the file
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        with contextlib.suppress(OSError):  # of a disk that takes nothing any more
            part.unlink(missing_ok=True)


def sweep(folder: Path, name: str = "*", *, owned: bool = False) -> None:
    """Deletes the hidden files that killed processes left in a folder, of the file `name` or of all.

    Those that are being written stay. If the folder is `owned` by the caller, see flowjax.ownership, nobody else writes there.
    """
    if buckets.is_remote(folder):
        return  # no object is there before it is whole
    for left in pathlib.Path(folder).glob(f".{glob.escape(name) if name != '*' else name}.*{_PART}"):
        with contextlib.suppress(OSError):
            if owned or _left_behind(left):
                left.unlink()


def _left_behind(part: pathlib.Path) -> bool:
    """Whether nobody writes a hidden file any more: its process is gone, or on another machine and silent for a day."""
    *_, pid, thread, _ = part.name.split(".")
    if f".{socket.gethostname()}.{pid}.{thread}{_PART}" not in part.name or not pid.isdecimal():
        return time.time() - part.stat().st_mtime > _DAY
    if int(pid) == os.getpid():
        return not any(str(running.ident) == thread for running in threading.enumerate())
    return not ownership.runs_here(int(pid))


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, newline="")


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_npz(path: Path, /, **arrays: Any) -> None:
    """Writes an .npz file whole or not at all."""
    with replacing(path) as part, open(part, "wb") as file:
        np.savez(file, **arrays)
