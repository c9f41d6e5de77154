"""The folder of a run: its config, its metrics, its pictures. Sampling and evaluation need nothing else."""

import contextlib
import json
import math
import os
import re
import socket
import time

import jax
import ml_collections
import tensorboardX.summary
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import RecordWriter

from flowjax import buckets, folders, opening, typing
from flowjax.training import hosts, settings

CONFIG, DATA, METRICS = "config.json", "data.json", "metrics.jsonl"
FORMAT = 4  # of a run, in its data.json: raised when older runs cannot be read any more. Formats 1 and 2 had no number.
EXPECTED_CONFIG = "the config of a run; restore it or give another folder"
_STEP = re.compile(rb'\{"step": (\d{1,12}),')
_FACTS = {"shape": opening.shape, "num_classes": opening.count(0, 10**7)}
# Fields of the config with which a run may go on otherwise than it began: they change no draw and no formula.
MAY_CHANGE = ("mesh.", "max_nonfinite_steps", "accumulate", "model.remat", "keep", "save_every", "log_every", "modules")


def check(workdir, config):
    """Raises InputError if `workdir` belongs to a run with another config; names the fields that differ. Writes nothing.

    The fields of MAY_CHANGE are free to change from one call to the next.
    """
    path = buckets.path(workdir)
    folders.check_path(path, "--workdir")
    if buckets.exists(path) and not buckets.is_dir(path):
        raise typing.InputError(f"--workdir={path} is a file; expected a folder, which need not exist.")
    if not buckets.exists(path / CONFIG):
        folders.check_free(path, CONFIG, "--workdir")
        return
    old, new = _config(path, "--workdir"), json.loads(config.to_json())
    # Both through JSON, which has lists for tuples. Fields that came later do not part a run from its folder.
    plain = lambda tree: json.loads(json.dumps(settings.completed(tree)))
    with opening.reading(path / CONFIG, EXPECTED_CONFIG):
        old, new = _flat(plain(old)), _flat(plain(new))
    names = [name for name in old.keys() | new.keys() if not name.startswith(MAY_CHANGE)]
    if fields := folders.differences(old, new, sorted(names)):
        raise typing.InputError(f"--workdir={path} belongs to a run with another config ({fields}); give another folder.")


def check_shared(workdir, config):
    """Raises InputError unless this process sees what `claim` of process 0 wrote."""
    path = buckets.path(workdir)
    if not buckets.exists(path / CONFIG):
        raise typing.InputError(
            f"--workdir={path}: process 0 made it, and process {jax.process_index()} does not see it; it must be a folder that all processes"
            " share."
        )
    check(workdir, config)


def claim(workdir, config, source):
    """Makes the folder and writes into it, once, the config, the format of the run, and the shape and classes of its data.

    What killed processes left half written is deleted.

    Raises:
      InputError: if the folder cannot be written.
    """
    path = buckets.path(workdir)
    content = json.loads(config.to_json())
    about = {"format": FORMAT, "shape": list(source.shape), "num_classes": source.num_classes}
    about["checksum"] = _checksum(about, content)
    try:
        path.mkdir(parents=True, exist_ok=True)
        folders.sweep(path)
        folders.sweep(path / "samples", owned=True)
        if not (path / CONFIG).exists():
            folders.write_text(path / DATA, json.dumps(about) + "\n")
            folders.write_json(path / CONFIG, content)
    except OSError as error:
        raise typing.InputError(f"--workdir={path} cannot be written: {error}.") from error


def load_config(workdir, flag="--workdir"):
    """The config of a run; raises InputError, naming the flag that the folder was given as, if it holds none of this format."""
    path = buckets.path(workdir)
    folders.check_path(path, flag)
    if not buckets.is_dir(path):
        raise typing.InputError(f"{flag}={path} does not exist; train first: python -m experiments.train --workdir={path}.")
    if not buckets.exists(path / CONFIG):
        raise typing.InputError(f"{flag}={path} holds no {CONFIG}, so no run was started there; give the folder of a run.")
    content = _config(path, flag)
    with opening.reading(path / CONFIG, EXPECTED_CONFIG):
        return ml_collections.FrozenConfigDict(content)


def load_data_facts(workdir):
    """(shape of a row, number of classes) of the data of a run, without the data."""
    about = _facts(buckets.path(workdir))
    return tuple(about["shape"]), about["num_classes"]


def read_metrics(workdir):
    """The lines of metrics.jsonl, a list of dicts; a line that was cut off by a kill is left out."""
    path = buckets.path(workdir) / METRICS
    if not buckets.exists(path):
        return []
    with opening.reading(path, "the metrics of a run, a line of JSON each"), open(buckets.local(path), "rb") as file:
        return [record for line in file if (record := _record(line)) is not None]


def _record(line):
    """The content of a line of metrics.jsonl, None for one that is cut off or damaged."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    whole = line.endswith(b"\n") and isinstance(record, dict) and isinstance(record.get("step"), int)
    return record if whole else None


def _keep_metrics(path, step):
    """Cuts the lines after a step off metrics.jsonl, and a line that a kill cut off: read from the end, however long the file is."""
    if not buckets.exists(path):
        path.touch()
        return
    with open(path, "r+b") as file:
        end = file.seek(0, os.SEEK_END)
        for start, line in _lines_backwards(file, end):
            later = _STEP.match(line)  # without reading the whole line
            record = None if later and int(later[1]) > step else _record(line)
            if record is not None and record["step"] <= step:
                break
            end = start
        file.truncate(end)


def _lines_backwards(file, end, block=2**16):
    """(start, line) of a binary file from its last line to its first."""
    first, position = b"", end  # the first line of what was read, whose beginning may be before it
    while position:
        size = min(max(block, len(first)), position)  # twice as much of a long line each time
        position -= size
        file.seek(position)
        first, *lines = (file.read(size) + first).splitlines(keepends=True)
        start = position + len(first) + sum(map(len, lines))
        for line in reversed(lines):
            start -= len(line)
            yield start, line
    if first:
        yield 0, first


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
        path = buckets.path(workdir)
        try:
            self._spool = buckets.Spool(path, fetch=(METRICS,))
            _keep_metrics(self._spool.folder / METRICS, step)
            self._lines, self._waiting = open(self._spool.folder / METRICS, "ab", buffering=0), b""
        except OSError as error:
            raise typing.InputError(
                f"--workdir={path} cannot be written: {error.strerror or error}; make room there."
            ) from error
        self._events, self._unsent = _Events(self._spool.folder, step), ""

    def write(self, step, values):
        """Appends one line: `values` maps names to floats; what is not finite becomes null."""
        values = {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
        late = bool(self._waiting)
        self._waiting += (json.dumps({"step": step, **values}) + "\n").encode()
        why = self._flush()
        if why and not late:
            hosts.print_once(f"{self._lines.name} cannot be written ({why}); training goes on, the lines follow later.")
        self._events.write(step, {name: value for name, value in values.items() if value is not None})
        if self._spool.due():
            self.send()

    def send(self):
        """Copies the files into the bucket of the workdir, if it is in one: at least before each checkpoint, which would lack its lines."""
        if not self._spool.remote:
            return
        self._events.flush()
        before, self._unsent = self._unsent, self._spool.send()
        if self._unsent and not before:
            hosts.print_once(
                f"the metrics cannot be copied into the bucket ({self._unsent}); training goes on, they follow later."
            )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        """Flushes and closes both files."""
        if why := self._flush():
            hosts.print_once(f"{self._lines.name} lacks its last lines ({why}).")
        self._lines.close()
        self._events.close()
        self.send()
        if self._unsent:
            hosts.print_once(
                f"the last metrics lie in {self._spool.folder}, because the bucket does not take them ({self._unsent})."
            )
        else:
            self._spool.close()

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

    def flush(self):
        """Writes what waits."""
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.flush()

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

    def send(self):
        """Another process sends them."""


def _config(path, flag):
    """The config of a run as it was written; raises InputError for one of another format, or one that was changed since."""
    facts = _facts(path)
    if facts.get("format", 2) != FORMAT:
        raise typing.InputError(
            f"{flag}={path} is a run of format {facts.get('format', 2)}, and this flowjax reads format {FORMAT}; train it again, or read"
            " it with the flowjax that wrote it."
        )
    content = opening.json_object(path / CONFIG, EXPECTED_CONFIG)
    if facts.get("checksum", _checksum(facts, content)) != _checksum(facts, content):
        raise typing.InputError(
            f"{path / CONFIG} or {DATA} beside it is not as it was when the run began; restore both, or delete the entry 'checksum' of"
            f" {DATA} if you changed them on purpose."
        )
    return content


def _facts(path):
    """The content of data.json."""
    if not buckets.exists(path / DATA):
        raise typing.InputError(f"{path} holds no {DATA}, so it is no whole run; restore it or give another folder.")
    return opening.json_object(path / DATA, "the shape and classes of the data of a run", _FACTS)


def _checksum(facts, content):
    """Of a run's config and of the facts about its data, as text of JSON, so that the layout of the files does not matter."""
    return opening.text_checksum(json.dumps([{**facts, "checksum": None}, content], sort_keys=True))


def _flat(tree, prefix=""):
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        name: value for key, sub in tree.items() for name, value in _flat(sub, f"{prefix}.{key}" if prefix else key).items()
    }
