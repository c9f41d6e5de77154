"""Checkpoints: a thin layer over orbax, the only module that knows it.

A checkpoint is the State and a fingerprint of it. Orbax writes aside and renames, so a killed save leaves nothing that looks
finished; the fingerprint finds what was damaged later.
"""

import logging
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
import tensorstore

from flowjax import typing

logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)


class Checkpoints:
    """The checkpoints of a workdir.

    Args:
      workdir: the folder; checkpoints go to its subfolder `checkpoints`.
      keep: how many of the newest stay.
      read_only: never creates or deletes anything.
    """

    def __init__(self, workdir, *, keep=2, read_only=False):
        self.path = pathlib.Path(workdir).absolute() / "checkpoints"
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else keep, create=not read_only, read_only=read_only, enable_async_checkpointing=True
        )
        self._read_only = read_only
        self._manager = ocp.CheckpointManager(self.path, options=options)

    def steps(self):
        """Steps of the finished checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, step, state):
        """Starts saving; returns before the files are complete. A step that is already saved is left alone."""
        if step in self._manager.all_steps():
            return
        meta = {"fingerprint": int(fingerprint(state))}
        self._manager.save(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardSave(state._asdict()), meta=ocp.args.JsonSave(meta)),
            force=True,
        )

    def wait(self):
        """Returns when everything is on disk."""
        self._manager.wait_until_finished()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        """Waits and ends the threads."""
        self._manager.close()

    def restore(self, like, report=print):
        """The newest readable checkpoint.

        Args:
          like: the state that is expected, as jax.ShapeDtypeStructs with shardings.
          report: gets one sentence for each unreadable checkpoint.

        Returns:
          (state, step), or None if there is no checkpoint at all.

        Raises:
          InputError: if there are checkpoints and none is readable.
        """
        steps, unreadable, reason = self.steps(), [], ""
        for step in reversed(steps):
            try:
                state = self._read(step, like)
            except Exception as error:  # orbax and tensorstore raise many types for a damaged file
                reason = re.split(r"[.:(\n]", str(error).strip())[0][:100] or type(error).__name__
                report(f"checkpoint {self.path / str(step)} cannot be read ({reason}); trying the one before.")
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
            for step in steps:
                aside = self.path / f"{step}.unreadable"
                shutil.rmtree(aside, ignore_errors=True)  # of an earlier accident
                (self.path / str(step)).rename(aside)
            self._manager.reload()

    def _read(self, step, like):
        # Decode everything once, in this thread: orbax meets a damaged file in threads of its own, which print tracebacks.
        base = {"driver": "ocdbt", "base": f"file://{self.path / str(step) / 'state'}/"}
        for key in tensorstore.KvStore.open(base).result().list().result():
            name, _, file = key.decode().rpartition("/")
            if file == ".zarray":
                spec = {"driver": "zarr", "kvstore": {**base, "path": name}, "fill_missing_data_reads": False}
                tensorstore.open(spec).result().read().result()
        args = ocp.args.Composite(state=ocp.args.StandardRestore(like._asdict()), meta=ocp.args.JsonRestore())
        restored = self._manager.restore(step, args=args)
        state = type(like)(**restored["state"])
        if int(fingerprint(state)) != restored["meta"]["fingerprint"]:
            raise ValueError("its content is not what was saved")
        return state


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
