"""Checkpoints: a thin layer over orbax, the only module that knows it.

A checkpoint holds the State in separate items, so that sampling reads one tree of weights and nothing else: "params.NETWORK" and
"averages.NAME" for each tree of weights, "base" (frozen weights, if there are any), "opt_state", "rest" (steps, target, ...), and
"meta" with a fingerprint of every item and the measure. Orbax writes aside and renames, so a killed save leaves nothing that looks finished; in a bucket, where
nothing can be renamed, it writes an object at the end instead. The fingerprints find what was damaged later. All processes of a run make the same calls in the same order.
"""

import contextlib
import json
import math
import pathlib
import re
import shutil
import tempfile
import time

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
import tensorstore

from flowjax import buckets, opening, typing
from flowjax.training import hosts, quiet

quiet.install()

# Errors that are not about the file being read: re-raised.
PASS_ON = (jax.errors.JaxRuntimeError, MemoryError)
# What tensorstore and the packages of buckets say when the bucket is not to be had, or not now: the checkpoint may be whole.
_UNREACHABLE = re.compile(
    "UNAVAILABLE|DEADLINE_EXCEEDED|PERMISSION_DENIED|UNAUTHENTICATED|RESOURCE_EXHAUSTED|ABORTED|the storage [^:]*"
)
_DOOMED = ".orbax-checkpoint-tmp-deleted"  # ending of a checkpoint that is being deleted
COMMITTED = "commit_success.txt"  # in a bucket, the object that orbax writes last
_STEP = re.compile("0|[1-9][0-9]{0,18}")  # name of a checkpoint
_TREES = ("params", "averages")  # fields of State whose trees are items of their own


class SaveError(RuntimeError):
    """Training is over and its last state could not be saved."""


def check_place(workdir):
    """Raises InputError for a workdir in a bucket into which orbax writes no checkpoints."""
    path = buckets.path(workdir, "--workdir")
    if buckets.is_remote(path) and path.scheme != "gs":
        raise typing.InputError(
            f"--workdir={path}: checkpoints are written to disks and to gs://, and orbax writes none to {path.scheme}://. Mount the bucket as"
            " a folder (mount-s3), or train on a disk and copy the run: runs, data and samples are read from there."
        )


class Checkpoints:
    """The checkpoints of a workdir.

    Args:
      workdir: the folder; checkpoints go to its subfolder `checkpoints`.
      keep: how many of the newest stay; the best stays besides, if any was measured.
      read_only: never creates or deletes anything.
      owner: the flowjax.ownership.Owner of the workdir, asked before each save whether it still is; None: nobody is asked.

    Raises:
      InputError: if the folder cannot be read, or made.
    """

    def __init__(self, workdir, *, keep=2, read_only=False, owner=None):
        self.path = buckets.path(workdir).absolute() / "checkpoints"
        self._remote = buckets.is_remote(self.path)
        if not read_only:
            check_place(workdir)
        self._read_only, self._keep, self._owner, self._saving, self._manager = read_only, keep, owner, None, None
        self._measures, self._known = {}, []
        self._began, self._longest = None, 0.0  # of the save that is going on, and of all so far
        self.unsaved = None  # the last step whose save failed, None after one that did not
        if not read_only:
            if hosts.is_main():
                with opening.reading(self.path, "the folder of the checkpoints, which training makes"):
                    self.path.mkdir(parents=True, exist_ok=True)
                self._sweep()
            hosts.barrier("the folder of the checkpoints is clean")

    def steps(self):
        """Steps of the finished checkpoints, ascending."""
        try:
            with opening.reading(self.path, "the folder of the checkpoints of a run"):
                if not buckets.exists(self.path):
                    return []
                entries = [entry for entry in self.path.iterdir() if _STEP.fullmatch(entry.name) and self._whole(entry)]
                self._known = sorted(int(entry.name) for entry in entries)
        except typing.InputError:
            if not self._remote or self._manager is None:
                raise  # a training that has begun goes on while its bucket does not answer
        return self._known

    def best(self, steps=None):
        """The step with the least measure among those given (None: all that are saved); None if none was measured."""
        measures = {step: self._measure(step) for step in (self.steps() if steps is None else steps)}
        measured = {step: measure for step, measure in measures.items() if measure is not None}
        return min(measured, key=measured.get, default=None)

    def save(self, step, state, measure=math.nan):
        """Starts saving; returns before the files are complete. A step that is already saved is left alone.

        A save that fails, now or while its files are written, is reported and leaves the older checkpoints as they are.

        Args:
          step: its number.
          state: the State.
          measure: what decides on the best, the least; nan: this one was not measured.
        """
        self.wait()
        if self._owner is not None:
            self._owner.check()
        if hosts.broadcast(step in self.steps()):  # listings of a bucket may differ
            return
        self._began = time.monotonic()
        self._sweep()
        trees = _items(state)
        prints = {item: int(value) for item, value in jax.device_get(_fingerprints(trees)).items()}
        meta = {"fingerprints": prints, "measure": measure if math.isfinite(measure) else None, "step": step}
        meta["checksum"] = _checksum(meta)
        saves = {item: ocp.args.StandardSave(tree) for item, tree in trees.items()}
        args = ocp.args.Composite(meta=ocp.args.JsonSave(meta), **saves)
        self._saving, self._measures[step] = step, meta["measure"]
        self._attempt(lambda: self._check_room(state) or self._orbax().save(step, args=args, force=True))

    def wait(self):
        """Returns when everything is on disk, or has been reported."""
        if self._saving is not None and self._attempt(self._finish):
            self._note()
            self._saving = self.unsaved = None
            self._prune()

    def seconds_to_save(self):
        """Seconds until a save that begins now would be complete, by the longest so far; 0.0 before one is complete.

        To be called often: a save counts as complete when it is called, or when somebody waits for it.
        """
        if self._saving is not None and not self._orbax().is_saving_in_progress():
            self._note()
        going_on = 0.0 if self._began is None else max(self._longest - (time.monotonic() - self._began), 0.0)
        return going_on + self._longest

    def _note(self):
        """Notes how long the save took that is complete now."""
        if self._began is not None:
            self._longest, self._began = max(self._longest, time.monotonic() - self._began), None

    def __enter__(self):
        return self

    def __exit__(self, kind, *error):
        """Waits and ends the threads; after an error in one of several processes not, because the others may not come here."""
        if kind is None or jax.process_count() == 1:
            self.wait()
            if self._manager is not None:
                _failure(self._manager.close)

    def restore(self, like, step=None):
        """The State of the newest readable checkpoint.

        Args:
          like: the state that is expected, as jax.ShapeDtypeStructs with shardings.
          step: this one and no other.

        Returns:
          (state, step), or None if there is no checkpoint at all.

        Raises:
          InputError: if there are checkpoints and none is readable.
        """
        state = self._newest(lambda step: self._state(step, like), step)
        if not self._read_only and state is not None:
            self._prune()  # what a kill left to be deleted
        return state

    def restore_trees(self, items, step=None, place=None):
        """Some items of the newest checkpoint in which they are readable.

        Args:
          items: "params.NETWORK", "averages.NAME" or "base".
          step: this one and no other.
          place: from a tree of shapes and dtypes to the same with shardings; None: the first device of this process.

        Returns:
          ([a nested dict of arrays for each item], step), or None if there is no checkpoint at all.

        Raises:
          InputError: if there are checkpoints and none is readable.
        """
        return self._newest(lambda step: [self._tree(step, item, place or _on_first) for item in items], step)

    def _newest(self, read, step):
        """(`read(step)`, step) of the newest step for which it raises nothing; the others are reported and set aside."""
        steps, unreadable, reason = self.steps() if step is None else [step], [], ""
        for number in reversed(steps):
            try:
                content = read(number)
            except PASS_ON:
                raise
            except Exception as error:  # orbax and tensorstore raise many types for a damaged file
                reason = _short(error)
                if self._remote and (unreachable := _UNREACHABLE.search(f"{error!r} {error}")):
                    raise typing.InputError(
                        f"checkpoint {self.path / str(number)} cannot be read ({unreachable[0]}); nothing was changed; once the bucket"
                        " answers, the same command goes on."
                    ) from error
                hosts.print_once(f"checkpoint {self.path / str(number)} cannot be read ({reason}); trying the one before.")
                unreadable.append(number)
            else:
                self._set_aside(unreadable)
                return content, number
        if steps:
            raise typing.InputError(
                f"none of the checkpoints {', '.join(map(str, steps))} in {self.path} can be read ({reason}); delete"
                " the folder to start over."
            )
        return None

    def _state(self, step, like):
        expected, restored = _items(like), {}

        def read():
            meta = self._meta(step)
            for item, tree in expected.items():
                restored[item] = _restored(self.path / str(step) / item, tree)
            return meta

        meta = _together(read)
        prints = jax.device_get(_fingerprints(restored))
        if {item: int(value) for item, value in prints.items()} != meta["fingerprints"]:
            raise ValueError("its content is not what was saved")
        return _joined(like, restored)

    def _tree(self, step, item, place):
        meta, tree = _together(lambda: (self._meta(step), _decoded(self.path / str(step) / item, place)))
        if int(fingerprint(tree)) != meta["fingerprints"].get(item):
            raise ValueError("its content is not what was saved")
        return tree

    def _set_aside(self, steps):
        """Renames unreadable checkpoints, so that training can save at their steps again."""
        if steps and not self._read_only:
            for step in steps if hosts.is_main() else ():
                aside = self.path / f"{step}.unreadable"
                _delete(aside)  # of an earlier accident
                (self.path / str(step)).rename(aside)
            hosts.barrier("unreadable checkpoints are set aside")

    def _whole(self, entry):
        """Whether an entry is a finished checkpoint: of a disk it has its name then; in a bucket orbax writes one more object at the end."""
        return (entry / COMMITTED).is_file() if self._remote else entry.is_dir()

    def _orbax(self):
        """The manager of orbax, which writes checkpoints and does nothing else; made once the folder holds only what is readable."""
        if self._manager is None:
            options = ocp.CheckpointManagerOptions(create=False, enable_async_checkpointing=True)
            self._manager = ocp.CheckpointManager(self.path, options=options)
        return self._manager

    def _finish(self):
        self._orbax().wait_until_finished()
        if not self._whole(self.path / str(self._saving)):
            raise OSError("it is not there")

    def _attempt(self, work):
        """Whether `work`, a part of the save that is going on, succeeded; if not, its remains are deleted and it is reported."""
        why = _failure(work)
        if not hosts.any_process(why is not None):
            return True
        step, self._saving, self._began = self._saving, None, None
        self.unsaved = step
        self._sweep()
        if self._manager is not None:
            _failure(self._manager.reload)
        saved = self.steps()
        hosts.print_once(
            f"the checkpoint of step {step} could not be saved in {self.path} ({why or 'another process reports why'}); training goes on,"
            f" and the last good one is {f'that of step {saved[-1]}' if saved else 'missing: none was saved yet'}."
        )
        return False

    def _sweep(self):
        """Deletes what is left of saves that were killed or failed, which would fill the disk, and sets aside what is no checkpoint."""
        if hosts.is_main() and self._remote:
            _sweep_bucket(self.path)
        elif hosts.is_main():
            for remains in self.path.glob("*.orbax-checkpoint-tmp*"):
                _delete(remains)
            for entry in self.path.iterdir():
                if _STEP.fullmatch(entry.name) and not entry.is_dir():
                    hosts.print_once(f"{entry} is no checkpoint; it is renamed to {entry.name}.unreadable.")
                    aside = entry.with_name(f"{entry.name}.unreadable")
                    _delete(aside)
                    entry.rename(aside)

    def _prune(self):
        """Deletes the checkpoints that are neither among the newest nor the best."""
        steps = self.steps()
        for step in {*steps} - {*steps[-self._keep :], self.best(steps)} if hosts.is_main() else ():
            doomed = self.path / f"{step}{_DOOMED}"  # what a kill leaves of it must not look like a checkpoint
            with contextlib.suppress(OSError):
                if self._remote:
                    _delete_from_bucket(self.path / str(step))
                    continue
                (self.path / str(step)).rename(doomed)
                _delete(doomed)

    def _check_room(self, state):
        """Raises OSError if the disk is full or takes nothing: orbax's own threads would print a traceback for it, and linger."""
        needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
        why = _closed(self.path, needed) if hosts.is_main() and not self._remote else ""
        if hosts.broadcast(bool(why)):
            raise OSError(why or "process 0 reports why")

    def _meta(self, step):
        path = self.path / str(step) / "meta" / "metadata"
        meta = opening.json_object(
            path, "the fingerprints of a checkpoint", {"fingerprints": lambda value: isinstance(value, dict)}
        )
        if meta.pop("checksum", _checksum(meta)) != _checksum(meta) or meta.get("step", step) != step:
            raise ValueError("its fingerprints are not what was saved")
        return meta

    def _measure(self, step):
        """The measure of a checkpoint, None if it has none; a damaged one is reported when it is to be read."""
        if step not in self._measures:
            measure = None
            with contextlib.suppress(ValueError, OSError):
                measure = self._meta(step).get("measure")
            self._measures[step] = measure if isinstance(measure, float) else None
        return self._measures[step]


def _items(state):
    """{item: tree} of a State; fields that are None are left out."""
    fields = {name: value for name, value in state._asdict().items() if value is not None}
    trees = {f"{field}.{name}": tree for field in _TREES for name, tree in fields.pop(field).items()}
    items = {**trees, "base": fields.pop("base", None), "opt_state": fields.pop("opt_state"), "rest": fields}
    return {item: tree for item, tree in items.items() if jax.tree.leaves(tree)}  # orbax saves no item without arrays


def _joined(like, items):
    """The State of `_items`, with the fields of `like`."""
    trees = {field: {name: items[f"{field}.{name}"] for name in getattr(like, field)} for field in _TREES}
    alone = {field: items.get(field, getattr(like, field)) for field in ("base", "opt_state")}
    return like._replace(**trees, **alone, **items["rest"])


def _together(work):
    """What `work` returns; raises ValueError in all processes if it fails in one of them."""
    done = []
    why = _failure(lambda: done.append(work()))
    if hosts.any_process(why is not None):
        raise ValueError(why or "another process cannot read it")
    return done[0]


def _failure(work):
    """Why a piece of work failed, in a few words; None if it did not."""
    try:
        work()
    except PASS_ON:
        raise
    except Exception as error:  # many types: of the file system, tensorstore, orbax
        return _short(error)
    return None


def _short(error):
    return re.split(r"\.\s|[:(\n]", str(error).strip())[0][:100] or type(error).__name__


def _closed(folder, needed):
    """Why so many bytes cannot be written into a folder, "" if they can."""
    try:
        room = shutil.disk_usage(folder).free
        if room < needed:
            return f"the disk has {room / 2**20:.1f} MiB left, and it takes {needed / 2**20:.1f}"
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return error.strerror


def _decoded(folder, place):
    """The arrays of an item where `place` says, a nested dict by the parts of their names; raises whatever tensorstore finds damaged."""
    stores, tree = _stores(folder), {}
    for name, store in stores.items():
        *path, last = name.split(".")
        inner = tree
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = jax.ShapeDtypeStruct(store.shape, store.dtype.numpy_dtype)
    return _restored(folder, place(tree), stores)


def _on_first(tree):
    """Shapes and dtypes with the sharding of the first device of this process."""
    at = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), tree)


def _restored(folder, like, stores=None):
    """An item as arrays like those of a tree of ShapeDtypeStructs with shardings; each process reads what its devices hold.

    Not by orbax, whose threads print pages for a damaged file. `stores` are those of the folder, if they are open.
    """
    stores, expected = stores or _stores(folder), jax.tree_util.tree_flatten_with_path(like)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in expected[0]]
    if set(names) != set(stores):
        raise ValueError(f"{folder.name} has other arrays than the config makes")
    arrays = []
    for name, (_, leaf) in zip(names, expected[0]):
        store = stores[name]
        if tuple(store.shape) != leaf.shape or store.dtype.numpy_dtype != leaf.dtype:
            raise ValueError(f"{folder.name} has {name} of another shape than the config makes")
        read = lambda index, store=store: store[index].read().result()
        arrays.append(jax.make_array_from_callback(leaf.shape, leaf.sharding, read))
    return jax.block_until_ready(expected[1].unflatten(arrays))


def _stores(folder):
    """{name: tensorstore} of the arrays of an item, opened together."""
    if buckets.is_remote(folder) and folder.scheme != "gs":  # tensorstore looks for the credentials of s3:// elsewhere
        folder = pathlib.Path(buckets.local(folder))
    for path in () if buckets.is_remote(folder) else folder.rglob("*"):
        opening.check_kind(path)
    base = {"driver": "ocdbt", "base": store_address(folder)}
    names = [key.decode().rpartition("/") for key in tensorstore.KvStore.open(base).result().list().result()]
    spec = {"driver": "zarr", "fill_missing_data_reads": False}
    opened = {
        name: tensorstore.open({**spec, "kvstore": {**base, "path": name}}) for name, _, file in names if file == ".zarray"
    }
    if not opened:
        raise ValueError(f"{folder.name} is missing")
    return {name: store.result() for name, store in opened.items()}


def _sweep_bucket(path):
    """Deletes the checkpoints in a bucket that were never finished."""
    with contextlib.suppress(OSError):  # none was begun, or they stay until the next save
        for entry in path.iterdir():
            if _STEP.fullmatch(entry.name) and not (entry / COMMITTED).is_file():
                entry.rmtree()


def _delete_from_bucket(path):
    """Deletes a checkpoint in a bucket, beginning with what makes it one."""
    (path / COMMITTED).unlink(missing_ok=True)
    path.rmtree()


def store_address(folder):
    """A folder as tensorstore wants it."""
    return f"{folder}/" if buckets.is_remote(folder) else f"file://{folder}/"


def _checksum(meta):
    return opening.text_checksum(json.dumps(meta, sort_keys=True))


def _delete(path):
    """Deletes a file, a link or a folder, if it is there and can be deleted."""
    if buckets.is_remote(path):
        with contextlib.suppress(OSError):
            path.rmtree()
    elif path.is_symlink() or not path.is_dir():
        with contextlib.suppress(OSError):
            path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


@jax.jit
def fingerprint(tree):
    """A 32-bit sum over all bits of a tree of arrays, each weighted by its place; independent of how they are sharded."""
    total = jnp.uint32(0)
    for number, leaf in enumerate(jax.tree.leaves(tree)):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        if leaf.dtype == bool:
            leaf = leaf.astype(jnp.uint8)
        bits = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}[leaf.dtype.itemsize]
        words = jax.lax.bitcast_convert_type(leaf, bits).astype(jnp.uint32).reshape(-1)
        places = jax.lax.iota(jnp.uint32, words.size) * jnp.uint32(2) + jnp.uint32(2 * number + 1)
        total += jnp.sum(words * places, dtype=jnp.uint32)
    return total


@jax.jit
def _fingerprints(items):
    """{item: fingerprint}, by one program."""
    return {item: fingerprint(tree) for item, tree in items.items()}
