"""Silence of the threads that write checkpoints: what they meet is raised where the save is waited for, and reported there once.

Orbax's threads, and asyncio below them, would print pages of tracebacks besides.
"""

import functools
import logging
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
        if not _of_writers(traceback_of(caught)):
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
