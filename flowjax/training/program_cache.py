"""Compiled programs in a folder, so that a command that was stopped or killed does not compile them again."""

import contextlib
import pathlib
import platform
import shutil
import tempfile
import zlib

import jax
from jax.experimental.compilation_cache import compilation_cache

from flowjax import buckets, folders


@contextlib.contextmanager
def kept(folder):
    """Within, programs that take longer than a second to compile are read from a folder, or compiled and kept there.

    JAX writes its entries in place, so that a killed process may leave a half of one, which stays. So it works in a temporary folder
    of this process, and whole entries are copied here and there. Where somebody has set a folder for all programs of JAX
    (JAX_COMPILATION_CACHE_DIR), that is used and nothing else. A folder that cannot be written is left as it is.

    Args:
      folder: need not exist; None: nothing is kept.
    """
    if folder is None or jax.config.jax_compilation_cache_dir:
        yield
        return
    place = buckets.path(folder) / _machine()
    with tempfile.TemporaryDirectory(prefix="flowjax_programs_") as scratch:
        with contextlib.suppress(OSError):
            for entry in place.glob("*-cache"):
                shutil.copy(buckets.local(entry), scratch)
        known = {entry.name for entry in pathlib.Path(scratch).iterdir()}
        # XLA's own caches would put the name of the folder into the key of every entry.
        others = jax.config.jax_persistent_cache_enable_xla_caches
        _use(scratch, "none")
        try:
            yield
        finally:
            _use(None, others)
        with contextlib.suppress(OSError):
            place.mkdir(parents=True, exist_ok=True)
            for entry in pathlib.Path(scratch).glob("*-cache"):
                if entry.name not in known:
                    with folders.replacing(place / entry.name) as part:
                        shutil.copy(entry, part)


def _use(folder, others):
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_enable_xla_caches", others)
    compilation_cache.reset_cache()


def _machine():
    """A name for CPUs with the same instructions: programs for another one may crash here, and JAX's keys do not tell them apart."""
    try:
        about = pathlib.Path("/proc/cpuinfo").read_text()
        instructions = next((line for line in about.splitlines() if line.startswith(("flags", "Features"))), "")
    except OSError:
        instructions = platform.processor()
    return f"{platform.machine()}-{zlib.crc32(instructions.encode()):08x}"
