"""Addresses in object storage, gs:// and s3://, beside paths of this machine: one function turns either into something with pathlib's methods.

Objects are written whole and read whole. What needs a file (a memory map, an archive, a decoder) gets a copy in a folder of this
machine, which is kept and used again as long as the object is the same. Listings are never kept, since other machines write, too.
"""

import contextlib
import errno
import fnmatch
import hashlib
import logging
import os
import pathlib
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from etils import epath

from flowjax import typing

CACHE = "FLOWJAX_CACHE"  # variable of the environment: the folder of the copies
# Beginnings of addresses of object storage and of servers, also as pathlib writes them, with one slash.
_REMOTE = re.compile(r"(gs|gcs|s3|s3a|az|abfs|abfss|hdfs|http|https):/{1,2}")
_SCHEMES = {"gs": "gs", "gcs": "gs", "s3": "s3", "s3a": "s3"}
_PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}
_LOG_IN = {"gs": "gcloud auth application-default login", "s3": "aws configure"}
_CREATE = {"gs": "gcloud storage buckets create gs://", "s3": "aws s3 mb s3://"}
_VERSION = (
    "etag",
    "ETag",
    "generation",
    "updated",
    "LastModified",
    "mtime",
    "created",
)  # what tells versions of an object apart
_LARGE = 2**28  # bytes of which a download is announced

Path = str | os.PathLike


class BucketPath(type(epath.Path("gs://bucket"))):
    """An address in object storage, with the methods of pathlib.Path that flowjax uses. Failures are OSErrors, as of a disk."""

    @property
    def scheme(self) -> str:
        """ "gs" or "s3"."""
        return str(self).partition(":")[0]

    def info(self) -> dict[str, Any] | None:
        """What the storage says of an object or of a folder with objects; None if there is neither."""
        with _talking(self), contextlib.suppress(FileNotFoundError):
            return _filesystem(self.scheme).info(str(self))
        return None

    def exists(self) -> bool:
        """Whether it is an object, or the folder of one."""
        return self.info() is not None

    def is_dir(self) -> bool:
        """Whether there are objects below."""
        return (self.info() or {}).get("type") == "directory"

    def is_file(self) -> bool:
        """Whether it is an object."""
        return (self.info() or {}).get("type") == "file"

    def is_symlink(self) -> bool:
        """There are no links."""
        return False

    def absolute(self) -> "BucketPath":
        """It is."""
        return self

    def mkdir(self, mode: int | None = None, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a folder is there as soon as an object is."""

    def iterdir(self) -> Iterator["BucketPath"]:
        """The objects and folders in a folder; raises FileNotFoundError if there is none."""
        with _talking(self):
            names = _filesystem(self.scheme).ls(str(self), detail=False)
        found = sorted({name.rstrip("/").rpartition("/")[2] for name in names if name.strip("/") != self._key()})
        return (self / name for name in found)

    def glob(self, pattern: str) -> Iterator["BucketPath"]:
        """Those in the folder whose names fit; none if there is no folder."""
        with contextlib.suppress(FileNotFoundError):
            yield from (entry for entry in self.iterdir() if fnmatch.fnmatchcase(entry.name, pattern))

    def files(self) -> dict[str, dict[str, Any]]:
        """{path below this folder: what the storage says of it} of all objects at any depth."""
        with _talking(self):
            found = _filesystem(self.scheme).find(str(self), detail=True)
        start = len(self._key()) + 1
        return {name.lstrip("/")[start:]: info for name, info in sorted(found.items()) if not name.endswith("/")}

    def read_bytes(self) -> bytes:
        """The content of an object."""
        with _talking(self):
            return _filesystem(self.scheme).cat_file(str(self))

    def read_text(self, encoding: str | None = None) -> str:
        """The content of an object."""
        return self.read_bytes().decode(encoding or "utf-8")

    def write_bytes(self, content: bytes) -> None:
        """Puts an object in the place of what is there."""
        with _talking(self, writing=True):
            _filesystem(self.scheme).pipe_file(str(self), content)

    def upload(self, file: Path) -> None:
        """Puts a file of this machine in the place of what is there."""
        with _talking(self, writing=True):
            _filesystem(self.scheme).put_file(str(file), str(self))

    def unlink(self, missing_ok: bool = False) -> None:
        """Deletes an object."""
        with _talking(self), contextlib.suppress(*[FileNotFoundError] if missing_ok else []):
            _filesystem(self.scheme).rm_file(str(self))

    def rmtree(self, missing_ok: bool = True) -> None:
        """Deletes all objects below."""
        with _talking(self), contextlib.suppress(*[FileNotFoundError] if missing_ok else []):
            _filesystem(self.scheme).rm(str(self), recursive=True)

    def rename(self, target: Path) -> "BucketPath":
        """Moves an object, or all below: a copy of each, so that a kill leaves some here and some there."""
        files = [""] if self.is_file() else list(self.files())
        with _talking(self, writing=True):
            for name in files:
                _filesystem(self.scheme).cp_file(str(self / name), str(path(target) / name))
            for name in files:
                _filesystem(self.scheme).rm_file(str(self / name))
        return path(target)

    def modified(self) -> float:
        """When an object was written, in seconds by the clock of the storage."""
        with _talking(self):
            return _filesystem(self.scheme).modified(str(self)).timestamp()

    def _key(self) -> str:
        return str(self).partition("://")[2].rstrip("/")


def path(where: Path, flag: str = "") -> Any:
    """A pathlib.Path, or a BucketPath of an address of object storage.

    Args:
      where: a path or an address.
      flag: what it was given as, for the error; "": not known.

    Raises:
      InputError: for addresses of other kinds, without a bucket, or if the package that reads them is missing.
    """
    if isinstance(where, BucketPath):
        return where
    match = _REMOTE.match(str(where))
    if not match:
        return pathlib.Path(where)
    rest, given = str(where)[match.end() :], f"{flag}=" if flag else ""
    address = f"{given}{match[1]}://{rest:.200}"
    if match[1] not in _SCHEMES:
        raise typing.InputError(
            f"{address} is no folder or file of this machine, nor in a bucket (gs://, s3://), and nothing else is read or written; copy it to"
            " one of these, and give the path there (docs/pods.md)."
        )
    if not rest.strip("/") or rest.startswith("/"):
        raise typing.InputError(f"{address} names no bucket; expected {_SCHEMES[match[1]]}://BUCKET/FOLDER.")
    scheme = _SCHEMES[match[1]]
    try:
        _filesystem(scheme)
    except ImportError as error:
        raise typing.InputError(
            f"{address} needs the package {_PACKAGES[scheme]} ({error}): pip install 'flowjax-flowmaps[buckets]'."
        ) from error
    return BucketPath(f"{scheme}://{rest}")


def is_remote(where: Path) -> bool:
    """Whether something is an address of object storage, or of a kind that is refused."""
    return bool(_REMOTE.match(str(where)))


def exists(where: Path) -> bool:
    """Whether there is something: a file, a folder, an object, a link."""
    place = path(where)
    return place.exists() if isinstance(place, BucketPath) else os.path.lexists(place)


def is_dir(where: Path) -> bool:
    """Whether there is a folder, of objects or of this machine."""
    return path(where).is_dir()


def absolute(where: Path) -> str:
    """A path from the root of this machine on, or an address."""
    return str(path(where)) if is_remote(where) else os.path.abspath(where)


def local(where: Path) -> Path:
    """A path of this machine as it is; of an address, a copy of the object or of all objects below it.

    Copies lie below $FLOWJAX_CACHE (~/.cache/flowjax where it is not set), each version of an object in a folder of its own.

    Raises:
      OSError: FileNotFoundError if there is nothing; if the storage or the disk fails.
    """
    place = path(where)
    if not isinstance(place, BucketPath):
        return where
    info = place.info()
    if info is None:
        raise FileNotFoundError(errno.ENOENT, "No such object", str(place))
    files = place.files() if info["type"] == "directory" else {"": info}
    if odd := next((name for name in (place.name, *files) if name and {"", ".", ".."} & set(name.split("/"))), None):
        raise OSError(errno.EIO, f"the name of the object {odd!r:.100} leads elsewhere as one of a file", str(place))
    versions = [str(place), *(f"{name} {about.get('size')} {_version(about)}" for name, about in files.items())]
    folder = _cache() / hashlib.sha256("\n".join(versions).encode()).hexdigest()[:24]
    if not folder.exists():
        _download(place, files, folder)
    return folder / place.name


def _download(place: BucketPath, files: dict[str, dict[str, Any]], folder: pathlib.Path) -> None:
    """Copies objects into a folder that appears whole or not at all."""
    size = sum(about.get("size") or 0 for about in files.values())
    if size > _LARGE:
        print(f"{place} ({size / 2**30:.1f} GiB) is copied to {folder}.", file=sys.stderr)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = pathlib.Path(tempfile.mkdtemp(dir=folder.parent, prefix=".download."))
    try:
        targets = [scratch / place.name / name for name in files]
        for target in targets:
            target.parent.mkdir(parents=True, exist_ok=True)
        with _talking(place):
            _filesystem(place.scheme).get([str(place / name) for name in files], [str(target) for target in targets])
        for target, about in zip(targets, files.values()):
            if target.stat().st_size != about.get("size", target.stat().st_size):
                raise OSError(errno.EIO, "its copy is shorter than the object; try again", str(place))
        try:
            scratch.rename(folder)
        except OSError:
            if not folder.exists():  # else another process was first
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _version(about: dict[str, Any]) -> str:
    return " ".join(str(about[name]) for name in _VERSION if name in about)


def _cache() -> pathlib.Path:
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(os.environ.get(CACHE) or pathlib.Path(base) / "flowjax")


class Spool:
    """A folder of this machine whose files are copied into a bucket now and then; of a local folder, that folder itself.

    Args:
      where: the folder, of this machine or of a bucket.
      fetch: names of files that are copied here first, if they are there.
    """

    EVERY = 30.0  # seconds between copies

    def __init__(self, where: Path, fetch: tuple[str, ...] = ()) -> None:
        self._place = path(where)
        self.remote, self._sent, self._last = isinstance(self._place, BucketPath), {}, time.monotonic()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="flowjax_spool_")) if self.remote else self._place
        for name in fetch if self.remote else ():
            with contextlib.suppress(FileNotFoundError):
                (self.folder / name).write_bytes((self._place / name).read_bytes())

    def due(self) -> bool:
        """Whether the last copy is long ago."""
        return self.remote and time.monotonic() > self._last + self.EVERY

    def send(self) -> str:
        """Copies the files that have changed; why that was not possible, "" if it was."""
        if not self.remote:
            return ""
        self._last = time.monotonic()
        try:
            for file in sorted(file for file in self.folder.rglob("*") if file.is_file()):
                version = (file.stat().st_size, file.stat().st_mtime_ns)
                if self._sent.get(file) != version:
                    self._place.joinpath(*file.relative_to(self.folder).parts).upload(file)
                    self._sent[file] = version
        except OSError as error:
            return error.strerror or str(error)
        return ""

    def close(self) -> None:
        """Deletes the folder of this machine; what was not sent is lost."""
        if self.remote:
            shutil.rmtree(self.folder, ignore_errors=True)


def _filesystem(scheme: str) -> Any:
    """The file system of fsspec; raises ImportError where its package is missing."""
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs pages for an error that it also raises
    import fsspec  # takes a while, and most commands need none

    # Also for orbax, which asks for file systems of its own: what is listed may have been written by another machine.
    for name in ("gs", "gcs") if scheme == "gs" else ("s3", "s3a"):
        fsspec.config.conf.setdefault(name, {}).setdefault("use_listings_cache", False)
    return fsspec.filesystem(scheme)


@contextlib.contextmanager
def _talking(place: BucketPath, *, writing: bool = False) -> Iterator[None]:
    """A context in which whatever the packages of object storage raise becomes an OSError that says what to do."""
    bucket = place._key().partition("/")[0]
    try:
        yield
    except FileNotFoundError as error:
        if writing:
            why = f"the bucket {bucket} does not exist: {_CREATE[place.scheme]}{bucket}"
            raise OSError(errno.EIO, why, str(place)) from error  # ENOENT would be a file that is not there
        raise
    except PermissionError as error:
        why = f"the storage denies access to the bucket {bucket} ({_short(error)}): {_LOG_IN[place.scheme]}"
        raise PermissionError(errno.EACCES, why, str(place)) from error
    except Exception as error:  # each package has types of its own, of HTTP, of credentials, of the network
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # the disk of this machine
        kind = type(error).__name__
        credentials = "credential" in f"{kind} {error}".lower()
        why = f"the storage does not answer ({_short(error)}): {_LOG_IN[place.scheme] if credentials else 'check the network'}"
        raise OSError(errno.EIO, why, str(place)) from error


def _short(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:120].rstrip(". ")
