"""One owner of a folder at a time; what kills leave behind; workers that end with their launcher."""

import json
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from flowjax import folders, ownership, typing

ROOT = pathlib.Path(__file__).parents[1]
HOLD = (
    "import sys, time; from flowjax import ownership; ownership.Owner(sys.argv[1]); print('owned', flush=True); time.sleep(600)"
)


@pytest.fixture
def holder(tmp_path):
    """Another process that owns the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "owned\n"
    yield process
    process.kill()
    process.communicate()


def test_the_second_is_told_who_runs_where_until_the_first_is_killed(tmp_path, holder):
    for ask in (lambda: ownership.Owner(tmp_path), lambda: ownership.check_free(tmp_path)):
        with pytest.raises(
            typing.InputError, match=rf"process {holder.pid} on .*, started 20.* UTC .*, which still runs; wait for it"
        ):
            ask()
    holder.kill()
    holder.wait()
    ownership.check_free(tmp_path)
    with ownership.owned(tmp_path):
        assert (tmp_path / ownership.FILE).exists()
    assert not list(tmp_path.iterdir())


def test_a_folder_has_one_owner_within_a_process_too(tmp_path):
    with ownership.owned(tmp_path / "new", "--output") as owner:
        owner.check()
        with pytest.raises(typing.InputError, match=rf"^--output=.*new belongs to process {os.getpid()} on "):
            ownership.Owner(tmp_path / "new", "--output")
    with ownership.owned(tmp_path / "new", main=False) as nobody:
        assert nobody is None
    ownership.Owner(tmp_path / "new").__exit__()


def another_machine(folder, age):
    file = folder / ownership.FILE
    file.write_text(
        json.dumps({"host": "far", "pid": 7, "machine": "another", "token": "x", "started": "2026-01-01", "command": "train"})
    )
    os.utime(file, (time.time() - age,) * 2)
    return file


def test_an_owner_on_another_machine_counts_while_it_touches_its_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ownership, "STALE", 2.5)
    file = another_machine(tmp_path, age=0.0)
    beat = threading.Timer(0.5, lambda: os.utime(file))
    beat.start()
    with pytest.raises(typing.InputError, match="process 7 on far, started 2026-01-01 UTC .train., which still runs"):
        ownership.Owner(tmp_path)
    assert "waiting to see whether it lives" in capsys.readouterr().err
    beat.join()
    began = time.monotonic()
    with ownership.owned(tmp_path):  # it fell silent
        assert time.monotonic() - began < 10
    another_machine(tmp_path, age=3_600.0)
    began = time.monotonic()
    with ownership.owned(tmp_path):
        assert time.monotonic() - began < 1


def test_without_locks_the_process_number_tells(tmp_path, monkeypatch, holder):
    monkeypatch.setattr(ownership, "_locked", lambda file: None)
    with pytest.raises(typing.InputError, match=f"process {holder.pid} on"):
        ownership.Owner(tmp_path)
    with pytest.raises(typing.InputError, match=f"process {holder.pid} on"):
        ownership.check_free(tmp_path)
    holder.kill()
    holder.wait()
    ownership.Owner(tmp_path).__exit__()


def test_an_owner_that_was_replaced_notices(tmp_path):
    with ownership.owned(tmp_path) as owner:
        another_machine(tmp_path, age=0.0)
        with pytest.raises(typing.InputError, match="was taken over by process 7 on far"):
            owner.check()
    assert (tmp_path / ownership.FILE).exists()  # it is not ours to delete


def test_a_damaged_file_of_an_owner_stands_in_nobodys_way(tmp_path):
    for content in ("", "[]", "{", "null"):
        (tmp_path / ownership.FILE).write_text(content)
        with ownership.owned(tmp_path):
            pass


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "run", tmp_path / ("x" * 300)):
        with pytest.raises(typing.InputError, match="cannot be written: "):
            ownership.Owner(folder)


def left(path, pid, thread=1):
    part = path.with_name(f".{path.name}.{folders.socket.gethostname()}.{pid}.{thread}.part")
    part.write_text("half")
    return part


def test_what_kills_left_is_deleted_and_what_is_being_written_is_not(tmp_path):
    gone = multiprocessing.get_context("spawn").Process(target=int)
    gone.start()
    gone.join()
    left(tmp_path / "a.png", gone.pid)
    mine = left(tmp_path / "a.png", os.getpid(), threading.get_ident())
    other, far = left(tmp_path / "b.png", gone.pid), tmp_path / ".a.png.far.1.1.part"
    far.write_text("half")
    folders.sweep(tmp_path, "a.png")
    assert sorted(tmp_path.iterdir()) == sorted([mine, other, far])
    os.utime(far, (0, 0))
    folders.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [mine]


WORKER = "from flowjax.training import hosts; hosts.end_with_launcher(); print('up', flush=True); import time; time.sleep(600)"
PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], env={**os.environ, "FLOWJAX_LAUNCHER": str(os.getpid())},
                         stdout=subprocess.PIPE, text=True, start_new_session=True)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""


def test_a_worker_ends_with_its_launcher(tmp_path):
    launcher = subprocess.Popen([sys.executable, "-c", PARENT, WORKER], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    worker = int(launcher.stdout.readline())
    assert ownership.runs_here(worker)
    launcher.send_signal(signal.SIGKILL)
    launcher.communicate()
    deadline = time.monotonic() + 20
    while ownership.runs_here(worker):
        assert time.monotonic() < deadline
        time.sleep(0.05)
