"""Where an error comes from, in a person's own code: their line, without the lines of libraries above it."""

import pathlib
import sys
import sysconfig
import traceback
from collections.abc import Iterator

_OURS = str(pathlib.Path(__file__).parent)
_LIBRARIES = tuple({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), sysconfig.get_path("purelib"), sys.prefix})


def where(error: BaseException, otherwise: str = "") -> str:
    """'FILE, line N: TypeError: message', of the last line that is no library's.

    Args:
      error: as it was caught.
      otherwise: in the place of the file and line where there is no such line; "": none.
    """
    message = " ".join(str(error).split())[:300].rstrip(".")
    said = f"{type(error).__name__}: {message}" if message else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename and _own(error.filename):
        return f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}" + _shown(error.text)
    frames = own_frames(error)
    if frames:
        return f"{frames[-1].filename}, line {frames[-1].lineno}: {said}" + _shown(frames[-1].line)
    return f"{otherwise}: {said}" if otherwise else said


def own_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The frames of an error that are in no library, flowjax among them; the last is where it was raised, or the call that led there."""
    return [frame for frame in traceback.extract_tb(error.__traceback__) if _own(frame.filename)]


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that it was raised from or while they were handled."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _own(file: str) -> bool:
    path = str(pathlib.Path(file).absolute())
    return not (file.startswith("<") or "site-packages" in path or path.startswith((_OURS, *_LIBRARIES)))


def _shown(line: str | None) -> str:
    return f" ({line.strip()[:120]})" if line and line.strip() else ""
