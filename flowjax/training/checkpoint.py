"""Checkpoints: a thin layer over orbax, the only module that knows it.

A checkpoint is the State, a fingerprint of it and what it measured. Orbax writes aside and renames, so a killed save leaves nothing
that looks finished; the fingerprint finds what was damaged later. All processes of a run call everything here together.
"""

import logging
import math
import pathlib
import re
import shutil
import tempfile

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
import tensorstore

from flowjax import typing
from flowjax.training import hosts

logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)


# Of another process or of the memory, not of a file.
PASS_ON = (jax.errors.JaxRuntimeError, MemoryError)


class SaveError(RuntimeError):
    """Training is over and its last state could not be saved."""


class Checkpoints:
    """The checkpoints of a workdir.

    Args:
      workdir: the folder; checkpoints go to its subfolder `checkpoints`.
      keep: how many of the newest stay; the best stays besides, if any was measured.
      read_only: never creates or deletes anything.
    """

    def __init__(self, workdir, *, keep=2, read_only=False):
        self.path = pathlib.Path(workdir).absolute() / "checkpoints"
        policy = None if read_only else _NewestAndBest(keep, self.best)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy, create=not read_only, read_only=read_only, enable_async_checkpointing=True
        )
        self._read_only, self._saving, self._measures = read_only, None, {}
        self.unsaved = None  # the last step whose save failed, None after one that did not
        self._manager = ocp.CheckpointManager(self.path, options=options)
        if not read_only:  # before anything is deleted; a reader may not ask at all
            self._measures = {step: self._measure(step) for step in self.steps()}

    def steps(self):
        """Steps of the finished checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def best(self, steps=None):
        """The step with the least measure among those given (None: all that are saved); None if none was measured."""
        known = self._measures
        found = {
            step: known[step] if step in known else self._measure(step) for step in (self.steps() if steps is None else steps)
        }
        measured = {step: measure for step, measure in found.items() if measure is not None}
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
        if step in self._manager.all_steps():
            return
        self._sweep()
        meta = {"fingerprint": int(fingerprint(state)), "measure": measure if math.isfinite(measure) else None}
        args = ocp.args.Composite(state=ocp.args.StandardSave(state._asdict()), meta=ocp.args.JsonSave(meta))
        self._saving, self._measures[step] = step, meta["measure"]
        self._try(lambda: self._check_room(state) or self._manager.save(step, args=args, force=True))

    def wait(self):
        """Returns when everything is on disk, or has been reported."""
        if self._saving is not None and self._try(self._manager.wait_until_finished):
            self._saving = self.unsaved = None

    def __enter__(self):
        return self

    def __exit__(self, kind, *error):
        """Waits and ends the threads; after an error in one of several processes not, because the others may not come here."""
        if kind is None or jax.process_count() == 1:
            self.wait()
            self._manager.close()

    def restore(self, like, step=None):
        """The newest readable checkpoint.

        Args:
          like: the state that is expected, as jax.ShapeDtypeStructs with shardings.
          step: this one and no other.

        Returns:
          (state, step), or None if there is no checkpoint at all.

        Raises:
          InputError: if there are checkpoints and none is readable.
        """
        steps, unreadable, reason = self.steps() if step is None else [step], [], ""
        for step in reversed(steps):
            try:
                state = self._read(step, like)
            except PASS_ON:
                raise
            except Exception as error:  # orbax and tensorstore raise many types for a damaged file
                reason = _short(error)
                hosts.say(f"checkpoint {self.path / str(step)} cannot be read ({reason}); trying the one before.")
                unreadable.append(step)
            else:
                self._set_aside(unreadable)
                return state, step
        if steps:
            raise typing.InputError(
                f"none of the checkpoints {', '.join(map(str, steps))} in {self.path} can be read ({reason}); delete"
                " the folder to start over."
            )
        return None

    def _set_aside(self, steps):
        """Renames unreadable checkpoints, so that training can save at their steps again."""
        if steps and not self._read_only:
            for step in steps if hosts.lead() else ():
                aside = self.path / f"{step}.unreadable"
                shutil.rmtree(aside, ignore_errors=True)  # of an earlier accident
                (self.path / str(step)).rename(aside)
            hosts.barrier("unreadable checkpoints are set aside")
            self._manager.reload()

    def _try(self, work):
        """Whether `work`, a part of the save that is going on, succeeded; if not, its remains are deleted and it is reported."""
        why = _failure(work)
        if not hosts.any_of(why is not None):
            return True
        step, self._saving = self._saving, None
        self.unsaved = step
        self._sweep()
        self._manager.reload()
        saved = self.steps()
        hosts.say(
            f"the checkpoint of step {step} could not be saved in {self.path} ({why or 'another process says why'}); training goes on,"
            f" and the last good one is {f'that of step {saved[-1]}' if saved else 'missing: none was saved yet'}."
        )
        return False

    def _sweep(self):
        """Deletes what is left of saves that were killed or failed, which would fill the disk; none is going on."""
        if hosts.lead():
            for remains in self.path.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(remains, ignore_errors=True)

    def _check_room(self, state):
        """Raises OSError if the disk is full or takes nothing: orbax would meet that in threads of its own, which print and linger."""
        needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
        why = _closed(self.path, needed) if hosts.lead() else ""
        if hosts.from_lead(bool(why)):
            raise OSError(why or "process 0 says why")

    def _measure(self, step):
        try:
            found = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))
            return found["meta"].get("measure")
        except Exception:  # damaged: whoever wants to read it will hear of it
            return None

    def _read(self, step, like):
        # Decode everything once, in one process and this thread: orbax meets a damaged file in threads of its own, which print tracebacks.
        damage = _damage(self.path / str(step) / "state") if hosts.lead() else None
        if hosts.from_lead(damage is not None):
            raise damage or ValueError("process 0 cannot read it")
        args = ocp.args.Composite(state=ocp.args.StandardRestore(like._asdict()), meta=ocp.args.JsonRestore())
        restored = {}
        why = _failure(lambda: restored.update(self._manager.restore(step, args=args)))
        if hosts.any_of(why is not None):
            raise ValueError(why or "another process cannot read it")
        state = type(like)(**restored["state"])
        if int(fingerprint(state)) != restored["meta"]["fingerprint"]:
            raise ValueError("its content is not what was saved")
        return state


class _NewestAndBest:
    """Which checkpoints stay, in the form that orbax asks for.

    Args:
      keep: how many of the newest.
      best: steps -> the best of them or None.
    """

    def __init__(self, keep, best):
        self._keep, self._best = keep, best

    def should_preserve(self, checkpoints, *, context):
        """One bool for each checkpoint."""
        steps = sorted(info.step for info in checkpoints)
        stay = {*steps[-self._keep :], self._best(steps)}
        return [info.step in stay for info in checkpoints]


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


def _damage(folder):
    """What is wrong with the arrays of a checkpoint, an exception or None."""
    base = {"driver": "ocdbt", "base": f"file://{folder}/"}
    try:
        for key in tensorstore.KvStore.open(base).result().list().result():
            name, _, file = key.decode().rpartition("/")
            if file == ".zarray":
                spec = {"driver": "zarr", "kvstore": {**base, "path": name}, "fill_missing_data_reads": False}
                tensorstore.open(spec).result().read().result()
    except Exception as error:  # tensorstore raises many types
        return error
    return None


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
