"""The folder of a run: its config, its metrics, its pictures. Sampling and evaluation need nothing else."""

import contextlib
import json
import math
import os
import pathlib
import socket
import time

import jax
import ml_collections
import tensorboardX.summary
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import RecordWriter

from flowjax import folders, typing
from flowjax.training import hosts, settings

CONFIG, DATA, METRICS = "config.json", "data.json", "metrics.jsonl"
FORMAT = 4  # of a run, in its data.json: raised when older runs cannot be read any more. Formats 1 and 2 had no number.
# Fields of the config with which a run may go on otherwise than it began: they change no draw and no formula.
MAY_CHANGE = ("mesh.", "max_nonfinite_steps", "accumulate", "model.remat", "keep", "save_every", "log_every", "modules")


def check(workdir, config):
    """Raises InputError if `workdir` belongs to a run with another config; names the fields that differ. Writes nothing.

    The fields of MAY_CHANGE are free to change from one call to the next.
    """
    path = pathlib.Path(workdir)
    if path.exists() and not path.is_dir():
        raise typing.InputError(f"--workdir={path} is a file; expected a folder, which need not exist.")
    if not (path / CONFIG).exists():
        folders.check_free(path, CONFIG, "--workdir")
        return
    _check_format(path, "--workdir")
    # Both through JSON, which has lists for tuples. Fields that came later do not part a run from its folder.
    plain = lambda tree: json.loads(json.dumps(settings.completed(tree)))
    old, new = _flat(plain(_read(path, CONFIG))), _flat(plain(json.loads(config.to_json())))
    names = [name for name in old.keys() | new.keys() if not name.startswith(MAY_CHANGE)]
    if fields := folders.differences(old, new, sorted(names)):
        raise typing.InputError(f"--workdir={path} belongs to a run with another config ({fields}); give another folder.")


def check_shared(workdir, config):
    """Raises InputError unless this process sees what `claim` of process 0 wrote."""
    path = pathlib.Path(workdir)
    if not (path / CONFIG).exists():
        raise typing.InputError(
            f"--workdir={path}: process 0 made it, and process {jax.process_index()} does not see it; it must be a folder that all processes"
            " share."
        )
    check(workdir, config)


def claim(workdir, config, source):
    """Makes the folder and writes into it, once, the config, the format of the run, and the shape and classes of its data.

    Raises:
      InputError: if the folder cannot be written.
    """
    path = pathlib.Path(workdir)
    about = {"format": FORMAT, "shape": source.shape, "num_classes": source.num_classes}
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not (path / CONFIG).exists():
            folders.write_text(path / DATA, json.dumps(about) + "\n")
            folders.write_text(path / CONFIG, json.dumps(json.loads(config.to_json()), indent=2) + "\n")
    except OSError as error:
        raise typing.InputError(f"--workdir={path} cannot be written: {error}.") from error


def load_config(workdir, flag="--workdir"):
    """The config of a run; raises InputError, naming the flag that the folder was given as, if it holds none of this format."""
    path = pathlib.Path(workdir)
    if not path.is_dir():
        raise typing.InputError(f"{flag}={path} does not exist; train first: python -m experiments.train --workdir={path}.")
    if not (path / CONFIG).exists():
        raise typing.InputError(f"{flag}={path} holds no {CONFIG}, so no run was started there; give the folder of a run.")
    _check_format(path, flag)
    return ml_collections.FrozenConfigDict(_read(path, CONFIG))


def load_data_facts(workdir):
    """(shape of a row, number of classes) of the data of a run, without the data."""
    about = _read(pathlib.Path(workdir), DATA)
    return tuple(about["shape"]), about["num_classes"]


def read_metrics(workdir):
    """The lines of metrics.jsonl, a list of dicts; a line that was cut off by a kill is left out."""
    path = pathlib.Path(workdir) / METRICS
    records = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def metrics(workdir, step):
    """A context with the metrics of a run: a Metrics in process 0, and in the others one that writes nothing."""
    return Metrics(workdir, step) if hosts.is_main() else _Nowhere()


class Metrics:
    """Metrics as JSON lines and TensorBoard events. What a full disk does not take is written as soon as it can be.

    Args:
      workdir: the folder.
      step: the step from which training goes on; later lines, of a run that was killed, are dropped.

    Raises:
      InputError: if the folder cannot be written.
    """

    def __init__(self, workdir, step):
        path = pathlib.Path(workdir)
        kept = [record for record in read_metrics(path) if record["step"] <= step]
        try:
            folders.write_text(path / METRICS, "".join(json.dumps(record) + "\n" for record in kept))
            self._lines, self._waiting = open(path / METRICS, "ab", buffering=0), b""
        except OSError as error:
            raise typing.InputError(f"--workdir={path} cannot be written: {error.strerror}; make room there.") from error
        self._events = _Events(path, step)

    def write(self, step, values):
        """Appends one line: `values` maps names to floats; what is not finite becomes null."""
        values = {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
        late = bool(self._waiting)
        self._waiting += (json.dumps({"step": step, **values}) + "\n").encode()
        why = self._flush()
        if why and not late:
            hosts.print_once(f"{self._lines.name} cannot be written ({why}); training goes on, the lines follow later.")
        self._events.write(step, {name: value for name, value in values.items() if value is not None})

    def __enter__(self):
        return self

    def __exit__(self, *error):
        """Flushes and closes both files."""
        if why := self._flush():
            hosts.print_once(f"{self._lines.name} lacks its last lines ({why}).")
        self._lines.close()
        self._events.close()

    def _flush(self):
        """Writes what waits; why that was not possible, "" if it was."""
        try:
            while self._waiting:
                self._waiting = self._waiting[self._lines.write(self._waiting) :]
        except OSError as error:
            return error.strerror
        return ""


class _Events:
    """TensorBoard events, written by this thread: the writer thread of tensorboardX dies of a full disk, and then its queue blocks.

    What a full disk does not take is lost here, and a new file goes on.
    """

    FLUSH = 30.0  # seconds

    def __init__(self, folder, step):
        self._folder, self._files, self._writer, self._flushed = folder, 0, None, time.monotonic()
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)  # readers forget later steps, of a run that was killed
        self._add(event_pb2.Event(step=step + 1, session_log=start))

    def write(self, step, values):
        """Adds {name: float}."""
        for name, value in values.items():
            if not self._add(event_pb2.Event(step=step, summary=tensorboardX.summary.scalar(name, value))):
                return

    def _add(self, event):
        """Whether the event could be written."""
        event.wall_time = time.time()
        try:
            if self._writer is None:
                self._files += 1
                name = f"events.out.tfevents.{int(event.wall_time)}.{socket.gethostname()}.{os.getpid()}.{self._files}"
                self._writer = RecordWriter(str(self._folder / name))
                self._writer.write(event_pb2.Event(wall_time=event.wall_time, file_version="brain.Event:2").SerializeToString())
            self._writer.write(event.SerializeToString())
            if time.monotonic() > self._flushed + self.FLUSH:
                self._writer.flush()
                self._flushed = time.monotonic()
        except OSError:
            self.close()
        return self._writer is not None

    def close(self):
        """Flushes and closes the file."""
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()
            self._writer = None


class _Nowhere(contextlib.nullcontext):
    def __enter__(self):
        return self

    def write(self, step, values):
        """Another process writes them."""


def _check_format(path, flag):
    """Raises InputError if the run in a folder was written in another format."""
    number = _read(path, DATA).get("format", 2)
    if number != FORMAT:
        raise typing.InputError(
            f"{flag}={path} is a run of format {number}, and this flowjax reads format {FORMAT}; train it again, or read it with the"
            " flowjax that wrote it."
        )


def _read(path, name):
    try:
        return json.loads((path / name).read_text())
    except FileNotFoundError:
        raise typing.InputError(f"{path} holds no {name}, so it is no whole run; restore it or give another folder.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise typing.InputError(f"{path / name} is not readable JSON ({error}); restore it or give another folder.") from None


def _flat(tree, prefix=""):
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        name: value for key, sub in tree.items() for name, value in _flat(sub, f"{prefix}.{key}" if prefix else key).items()
    }
