"""A signal with a deadline: what cannot be saved in time is not begun, and the newest complete checkpoint counts."""

import signal
import time

import jax
import pytest
from support import small

from flowjax.training import checkpoint, loop, sharding, workdir

ONE = jax.devices()[:1]


def train(folder, monkeypatch, *, save_s=0.0, at=5, eval_every=0, **how):
    """A training whose saves take a while, and that gets a SIGTERM within step `at` (0: none)."""
    monkeypatch.undo()
    place, write, seen = sharding.global_batch, checkpoint.Checkpoints._check_room, []

    def signalled(mesh, local, seeds=1):
        if "x" in local:
            seen.append(1)
            if len(seen) == at:
                signal.raise_signal(signal.SIGTERM)
        return place(mesh, local, seeds)

    monkeypatch.setattr(sharding, "global_batch", signalled)
    monkeypatch.setattr(checkpoint.Checkpoints, "_check_room", lambda *given: time.sleep(save_s) or write(*given))
    return loop.train(small(save_every=2, eval_every=eval_every), folder, devices=ONE, **how)


@pytest.mark.slow
def test_a_save_that_would_come_too_late_is_not_begun(tmp_path, monkeypatch, capsys):
    with pytest.raises(checkpoint.SaveError, match=r"step 5 is not saved; the same command goes on from step 4, or give"):
        train(tmp_path, monkeypatch, save_s=0.6, deadline_s=0.5)
    printed = capsys.readouterr().out
    assert "s after a signal; a save takes " in printed and "more than --deadline_s=0.5 leaves" in printed
    assert checkpoint.Checkpoints(tmp_path, read_only=True).steps() == [2, 4]


@pytest.mark.slow
@pytest.mark.parametrize(("at", "deadline_s"), [(5, 60.0), (1, 0.3), (5, 0.0)])
def test_a_save_in_time_or_the_first_or_without_a_deadline_is_made(tmp_path, monkeypatch, capsys, at, deadline_s):
    """Of the first nobody knows how long it takes."""
    state = train(tmp_path, monkeypatch, save_s=0.4, at=at, deadline_s=deadline_s)
    assert int(state.step) == at and f"stopped by SIGTERM after step {at}; saved." in capsys.readouterr().out


@pytest.mark.slow
def test_the_last_evaluation_comes_after_the_save(tmp_path, monkeypatch):
    steps = small().steps
    train(tmp_path, monkeypatch, at=steps, eval_every=steps, deadline_s=60.0)
    assert checkpoint.Checkpoints(tmp_path, read_only=True).steps()[-1] == steps
    assert any("1step/sliced_wasserstein" in line for line in workdir.read_metrics(tmp_path) if line["step"] == steps)


def test_how_long_a_save_takes(tmp_path):
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        going_on = [True]
        checkpoints._orbax().is_saving_in_progress = lambda: going_on[0]
        assert checkpoints.seconds_to_save() == 0.0
        checkpoints._saving, checkpoints._began, checkpoints._longest = 1, time.monotonic() - 1, 3.0
        assert 4.5 < checkpoints.seconds_to_save() < 5.01  # two more of the one that goes on, and three
        going_on[0], checkpoints._began = False, time.monotonic() - 4
        assert 4.0 <= checkpoints.seconds_to_save() < 4.5
        checkpoints._saving = None
