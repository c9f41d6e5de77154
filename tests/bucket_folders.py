"""Buckets that are folders of this machine, for tests without a network or the packages of object storage."""

import contextlib
import importlib
import pathlib

from etils.epath import backend
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from orbax.checkpoint._src.path import gcs_utils

from flowjax import buckets
from flowjax.training import checkpoint


class _Folders(DirFileSystem):
    """gs://NAME/KEY and s3://NAME/KEY are ROOT/NAME/KEY; ROOT/NAME must be there, and `failing` is raised instead, if it is set."""

    root, failing = "", None
    cachable = False

    def __init__(self, **options):
        super().__init__(path="/", fs=LocalFileSystem(auto_mkdir=True))

    def _join(self, path):
        if isinstance(path, str) and type(self).failing is not None:
            raise type(self).failing
        self.path = str(_Folders.root)
        return super()._join(path)

    def info(self, path, **options):
        try:
            return super().info(path, **options)
        except NotADirectoryError:  # names of objects may go on with a slash
            raise FileNotFoundError(path) from None

    def pipe_file(self, path, value, **options):
        self._check_bucket(path)
        with self.fs.open(self._join(path), "wb") as file:
            file.write(value)

    def put_file(self, lpath, rpath, **options):
        self._check_bucket(rpath)
        self.fs.put_file(lpath, self._join(rpath))

    def get(self, rpath, lpath, **options):
        for source, target in zip(rpath, lpath):
            pathlib.Path(target).write_bytes(self.cat_file(source))

    def _check_bucket(self, path):
        if not (pathlib.Path(_Folders.root) / self._strip_protocol(path).split("/")[0]).is_dir():
            raise FileNotFoundError(path)


class _Google(_Folders):
    protocol = ("gs", "gcs")


class _Amazon(_Folders):
    protocol = ("s3", "s3a")


@contextlib.contextmanager
def mounted(root, monkeypatch):
    """A context in which gs://bucket and s3://bucket are the folder `bucket` in `root`; gives the class with `failing`."""
    (root / "bucket").mkdir()
    _Folders.root, _Folders.failing = str(root), None
    for scheme, kind in (("gs", _Google), ("gcs", _Google), ("s3", _Amazon)):
        monkeypatch.setitem(importlib.import_module("fsspec.registry")._registry, scheme, kind)
    forget = backend.fsspec_backend._get_filesystem.cache_clear
    forget()
    monkeypatch.setenv(buckets.CACHE, str(root / "cache"))
    place = lambda where: str(root / str(where).partition("://")[2])
    ending = lambda path: "" if str(path).endswith("_sharding") else "/"  # the one store that is a file
    store = lambda path: {"driver": "file", "path": f"{place(path)}{ending(path)}"}
    monkeypatch.setattr(gcs_utils, "get_kvstore_for_gcs", store)
    monkeypatch.setattr(gcs_utils, "is_hierarchical_namespace_enabled", lambda path: False)
    address = checkpoint.store_address
    monkeypatch.setattr(
        checkpoint,
        "store_address",
        lambda folder: f"file://{place(folder)}/" if buckets.is_remote(folder) else address(folder),
    )
    try:
        yield _Folders
    finally:
        forget()
        _Folders.failing = None
