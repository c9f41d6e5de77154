"""Silence of the threads that write checkpoints: what they meet is raised where the save is waited for, and reported there once.

Orbax's threads, and asyncio below them, would print pages of tracebacks besides.
"""

import contextlib
import errno
import functools
import logging
import os
import sys
import threading
import traceback

_WRITERS = ("/orbax/", "/tensorstore/", "/array_serialization/")


def install():
    """Installs the hooks for the rest of this process; a second call does nothing. Errors of other threads are printed as before."""
    if getattr(threading.excepthook, "silent_for_writers", False):
        return
    threading.excepthook = _without_writers(threading.excepthook, lambda caught: caught.exc_traceback)
    sys.unraisablehook = _without_writers(sys.unraisablehook, lambda caught: caught.exc_traceback)
    for name in ("absl", "asyncio", "jax", "root"):
        logging.getLogger(None if name == "root" else name).addFilter(_is_of_others)


def _without_writers(hook, traceback_of):
    @functools.wraps(hook)
    def quiet(caught):
        # tensorstore tells a save that was given up, whose loop is closed, that it has ended: no frame is its own
        if not (_of_writers(traceback_of(caught)) or str(caught.exc_value) == "Event loop is closed"):
            hook(caught)

    quiet.silent_for_writers = True
    return quiet


def _is_of_others(record):
    """Whether a log record is of no thread that writes checkpoints."""
    if any(part in record.pathname for part in _WRITERS):
        return False
    return not (record.exc_info and _of_writers(record.exc_info[2]))


def _of_writers(trace):
    return any(part in frame.filename for frame in traceback.extract_tb(trace) for part in _WRITERS)


class Lasting:
    """A stream of text that outlasts its disk and its characters: what a full disk does not take is lost, and nobody stops for it.

    A log of a training often lies on the disk that its checkpoints fill.

    Args:
      stream: a text stream, or None, which Python has for one that was closed before the start.
    """

    def __init__(self, stream):
        self._stream = open(os.devnull, "w") if stream is None else stream
        if hasattr(self._stream, "reconfigure"):
            self._stream.reconfigure(errors="backslashreplace")

    def write(self, text):
        with _lost():
            self._stream.write(text)
        return len(text)

    def flush(self):
        with _lost():
            self._stream.flush()

    def __getattr__(self, name):
        return getattr(self._stream, name)


@contextlib.contextmanager
def _lost():
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
