"""One owner of a folder at a time: a command that writes for long holds its folder, and a second one is told who runs where.

The owner's file is locked with flock, which the kernel lifts when the process ends, however it ends. Where the file system knows no
such locks, or another machine shares the folder without sharing them, the age of the file tells: the owner touches it every BEAT
seconds, and a file that was not touched for STALE seconds belongs to nobody. Ages are read from the file system's own clock.

In a bucket the age of the object tells: the owner writes it anew every BUCKET_BEAT seconds.
"""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import secrets
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

from flowjax import buckets, typing

FILE = ".owner.json"  # hidden: it does not count as content
BEAT, STALE = 5.0, 30.0  # seconds
BUCKET_BEAT, BUCKET_STALE = 20.0, 120.0  # seconds: a bucket takes one write of an object in a second, and every write costs
_SETTLED = 2.0  # seconds after which of two owners that start at once both see the later one, in a bucket
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)

Path = str | os.PathLike


class Owner:
    """The owner of a folder, as a context manager; leaving it frees the folder.

    Args:
      folder: is made if it does not exist.
      flag: what the folder was given as, for the errors.

    Raises:
      InputError: if the folder has another owner that lives, or cannot be written.
    """

    def __init__(self, folder: Path, flag: str = "--workdir") -> None:
        self._path, self._flag, self._token = pathlib.Path(folder) / FILE, flag, secrets.token_hex(8)
        self._over = threading.Event()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._take()
        except OSError as error:
            raise typing.InputError(
                f"{flag}={folder} cannot be written: {error.strerror or error}; make room there."
            ) from error
        self._beats = threading.Thread(target=self._beat, name="owner of the folder", daemon=True)
        self._beats.start()

    def check(self) -> None:
        """Raises InputError if another command owns the folder by now, because this one stood still for too long."""
        _check_token(self._path, self._flag, self._token, STALE)

    def __enter__(self) -> "Owner":
        return self

    def __exit__(self, *error: Any) -> None:
        self._over.set()
        self._beats.join()
        if _read(self._path).get("token") == self._token:
            self._path.unlink(missing_ok=True)  # while it is still locked: nobody deletes the file of the next owner
        os.close(self._file)

    def _take(self) -> int:
        """The file descriptor of the owner's file, which is ours."""
        while True:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                locked = _locked(file)
                if locked is False:
                    raise _refusal(self._path, self._flag)
                if not _is_file(self._path, file):  # its owner deleted it between the two calls
                    os.close(file)
                    continue
                _wait_for_silence(self._path, self._flag, flock=bool(locked))
                os.ftruncate(file, 0)
                os.pwrite(file, json.dumps(_description(self._token)).encode(), 0)
                if locked is None:  # no locks here: of two that start at once, the later writer owns the folder
                    time.sleep(1.0)
                    self.check()
                return file
            except BaseException:
                with contextlib.suppress(OSError):
                    os.close(file)
                raise

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            with contextlib.suppress(OSError):  # a full disk lets a file be touched; an unreachable one may come back
                os.utime(self._file)


class _BucketOwner:
    """The owner of a folder in a bucket; arguments and errors as of Owner."""

    def __init__(self, folder: Path, flag: str = "--workdir") -> None:
        self._path, self._flag, self._token = buckets.path(folder, flag) / FILE, flag, secrets.token_hex(8)
        self._over, self._beats = threading.Event(), 0
        try:
            _wait_in_bucket(self._path, flag)
            self._write()
            time.sleep(_SETTLED)  # of two that start at once, the later writer owns the folder
            self.check()
        except OSError as error:
            raise typing.InputError(f"{flag}={folder} cannot be written: {error.strerror or error}.") from error
        self._thread = threading.Thread(target=self._beat, name="owner of the folder", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """As of Owner; a bucket that does not answer changes nothing."""
        _check_token(self._path, self._flag, self._token, BUCKET_STALE)

    def __enter__(self) -> "_BucketOwner":
        return self

    def __exit__(self, *error: Any) -> None:
        self._over.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            if _read(self._path).get("token") == self._token:
                self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        self._beats += 1
        self._path.write_bytes(
            json.dumps({**_description(self._token), "namespace": _namespace(), "beats": self._beats}).encode()
        )

    def _beat(self) -> None:
        while not self._over.wait(BUCKET_BEAT):
            with contextlib.suppress(OSError):
                if _read(self._path).get("token", self._token) != self._token:
                    return  # taken over; `check` says so
                self._write()


def _wait_in_bucket(path: buckets.BucketPath, flag: str) -> None:
    """Returns when the owner that an object names is dead; raises InputError when it lives.

    One on this machine is dead if its process is gone. One on another is watched until its object is BUCKET_STALE seconds old, or is
    written anew.
    """
    first = _read_object(path)
    here = (first.get("machine"), first.get("namespace")) == (_machine(), _namespace())
    if not first or (here and not _lives_here(first)):
        return
    if _lives_here(first):
        raise _refused(path, flag, first)
    print(f"{flag}={path.parent} belongs to {_described(first)}; waiting to see whether it lives.", file=sys.stderr)
    probe = path.with_name(f".now.{secrets.token_hex(4)}")
    try:
        probe.write_bytes(b"")
        age = probe.modified() - path.modified()  # by the clock of the storage
    except FileNotFoundError:  # its owner has just left
        return
    finally:
        probe.unlink(missing_ok=True)
    until = time.monotonic() + BUCKET_STALE - max(age, 0.0)
    while time.monotonic() < until:
        time.sleep(min(2.0, BUCKET_BEAT))
        now = _read_object(path)
        if not now:
            return
        if now != first:
            raise _refused(path, flag, now)


def _read_object(path: buckets.BucketPath) -> dict[str, Any]:
    """What the owner's object says, {} if there is none; raises OSError if the bucket does not answer: then nobody may take it over."""
    try:
        owner = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _namespace() -> str:
    """Which processes this one can see: those of another container have numbers of their own."""
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def _check_token(path: Any, flag: str, token: str, stale: float) -> None:
    """Raises InputError if the owner's file has another token."""
    now = _read(path)
    if now.get("token", token) != token:
        raise typing.InputError(
            f"{flag}={path.parent} was taken over by {_described(now)}, because this command stood still for more"
            f" than {stale:.0f} seconds; nothing more is written here."
        )


@contextlib.contextmanager
def owned(folder: Path, flag: str = "--workdir", *, main: bool = True) -> Iterator[Any]:
    """A context that owns a folder, in the process that is `main`; in the others it does nothing."""
    kind = _BucketOwner if buckets.is_remote(folder) else Owner
    with kind(folder, flag) if main else contextlib.nullcontext() as owner:
        yield owner


def check_free(folder: Path, flag: str = "--workdir") -> None:
    """Raises InputError if a folder has an owner that lives; writes nothing, so that it can be asked before long preparations."""
    path = buckets.path(folder, flag) / FILE
    if buckets.is_remote(path):
        if _lives_here(owner := _read(path)):
            raise _refused(path, flag, owner)
        return
    try:
        file = os.open(path, os.O_RDWR)
    except OSError:
        return  # no owner, or a folder of which its writing will complain
    try:
        locked = _locked(file)
        if locked is False:
            raise _refusal(path, flag)
        if locked is None and _lives_here(_read(path)):
            raise _refusal(path, flag)
    finally:
        os.close(file)


def _locked(file: int) -> bool | None:
    """True: the lock is ours, False: another's, None: this file system has no locks."""
    for _ in range(4):  # `check_free` of another command holds it for an instant
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.05)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return None
            raise
    return False


def _is_file(path: pathlib.Path, file: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False


def _wait_for_silence(path: pathlib.Path, flag: str, *, flock: bool) -> None:
    """Returns when the owner that the file names is dead; raises InputError when it lives.

    An owner on this machine is dead if its lock is gone. One on another machine, whose locks may not reach here, is watched until
    its file is STALE seconds old, or is touched.
    """
    owner = _read(path)
    if not owner:
        return
    if owner.get("machine") == _machine():
        if not flock and _lives_here(owner):
            raise _refusal(path, flag)
        return
    first, announced = os.stat(path).st_mtime, False
    while _now(path) - first < STALE:
        if not announced:
            print(f"{flag}={path.parent} belongs to {_described(owner)}; waiting to see whether it lives.", file=sys.stderr)
            announced = True
        time.sleep(1.0)
        with open(path) as file:  # opening makes a shared file system look again
            if os.fstat(file.fileno()).st_mtime != first:
                raise _refusal(path, flag)


def _now(path: pathlib.Path) -> float:
    """The time by the clock that stamps the files beside `path`."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".now.") as file:
        return os.fstat(file.fileno()).st_mtime


def _lives_here(owner: dict[str, Any]) -> bool:
    """Whether the process of an owner runs on this machine."""
    pid = owner.get("pid")
    return owner.get("machine") == _machine() and isinstance(pid, int) and _began(pid) == owner.get("began")


def _refusal(path: pathlib.Path, flag: str) -> typing.InputError:
    owner = _read(path)
    for _ in range(20):  # it may be about to write who it is
        if owner:
            break
        time.sleep(0.05)
        owner = _read(path)
    return _refused(path, flag, owner)


def _refused(path: Any, flag: str, owner: dict[str, Any]) -> typing.InputError:
    return typing.InputError(
        f"{flag}={path.parent} belongs to {_described(owner)}, which still runs; wait for it, stop it, or give another folder."
    )


def _description(token: str) -> dict[str, Any]:
    pid = os.getpid()
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    return {
        "host": socket.gethostname(), "pid": pid, "started": started, "command": " ".join(sys.argv)[:300],
        "machine": _machine(), "began": _began(pid), "token": token,
    }  # fmt: skip


def _described(owner: dict[str, Any]) -> str:
    if not owner:
        return "another command"
    return f"process {owner.get('pid')} on {owner.get('host')}, started {owner.get('started')} UTC ({owner.get('command')})"


def _read(path: Any) -> dict[str, Any]:
    """What the owner's file says; {} for a file that is missing or says nothing."""
    try:
        owner = json.loads(path.read_text()) if path.is_file() else {}
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _machine() -> str:
    """One text for each start of a machine, so that a process number of before a restart names nobody."""
    with contextlib.suppress(OSError):
        return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


def runs_here(pid: int) -> bool:
    """Whether this machine runs a process of this number."""
    return bool(_began(pid))


def _began(pid: int) -> str:
    """When a process began, as the kernel counts it: two processes of one number differ in it; "" if there is none."""
    with contextlib.suppress(OSError, IndexError):
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]  # a process that has ended and was not collected yet
    if not pathlib.Path("/proc/self").exists():
        with contextlib.suppress(OSError):
            os.kill(pid, 0)
            return "running"
    return ""
