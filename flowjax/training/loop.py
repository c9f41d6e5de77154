"""The training loop: resume, step, log, evaluate, save, stop cleanly; the same for one process and for many."""

import contextlib
import signal
import time

import jax
import numpy as np
import tqdm

from flowjax import buckets, data, ownership, typing
from flowjax.training import (
    checkpoint,
    compilation,
    hosts,
    log,
    program_cache,
    progress,
    room,
    runs,
    sharding,
    workdir as folders,
)

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
WARM_UP = 2  # steps after which nothing may be compiled within a step


def train(config, workdir, devices=None, profile=(), programs="", deadline_s=0.0):
    """Trains the run of a config in `workdir`, from where a former call was stopped or killed.

    Args:
      config: an ml_collections config with the fields of configs/common.py.
      workdir: a folder that is empty, does not exist, or holds a run with the same config. All processes must see it.
      devices: of the mesh; None: all of all processes.
      profile: (start, stop), steps between which a trace is written into workdir/profile; (): none.
      programs: folder of compiled programs, which the next call need not compile; "": workdir/programs; None: none.
      deadline_s: seconds after a signal in which this process may still run, and saves only if earlier saves took less; 0.0: as many
        as it takes.

    Returns:
      The last State. It is saved; after a signal it is the state at which training stopped.

    Raises:
      InputError: for a config that cannot work, or a workdir with another one, or one that another command owns; nothing is
        written.
      NonFiniteError: if too many steps were not finite; nothing after the last good checkpoint is saved.
      RecompilationError: if a step compiles a program after the first ones.
      SaveError: if the last state could not be saved, or not within the deadline. Other saves that fail are reported, and training
        goes on.
    """
    with _stop_signals() as stop:
        checkpoint.check_place(workdir)
        folders.check(workdir, config)
        ownership.check_free(workdir)
        run = runs.setup(config, devices)
        kept, last = run.settings.bookkeeping, run.settings.steps
        room.check_state(run)
        hosts.barrier("all processes have checked the config")
        with ownership.owned(workdir, main=hosts.is_main()) as owner:
            if hosts.is_main():
                folders.claim(workdir, config, run.source)
            hosts.barrier("the workdir is claimed")
            folders.check_shared(workdir, config)
            with checkpoint.Checkpoints(workdir, keep=kept.keep, owner=owner) as checkpoints:
                state, start = checkpoints.restore(run.like) or (run.init(), 0)
                _check_skipped(state, kept.max_nonfinite_steps)
                if start == last:
                    if stop:  # the run is finished, so no later step reports the signal
                        raise KeyboardInterrupt
                    return state
                tracing = _Tracing(buckets.path(workdir) / "profile", profile)
                cache = buckets.path(workdir) / "programs" if programs == "" else programs
                with folders.metrics(workdir, start) as metrics, tracing:
                    state = _loop(run, workdir, state, start, checkpoints, metrics, tracing, stop, cache, deadline_s)
                checkpoints.wait()
                if checkpoints.unsaved is not None:
                    raise checkpoint.SaveError(
                        f"step {checkpoints.unsaved}, the last, could not be saved in {checkpoints.path}; make room there, and the same"
                        " command goes on from the last good checkpoint."
                    )
            hosts.barrier("everything is saved")
    return state


def _check_skipped(state, allowed):
    """Raises InputError if the run has skipped more steps than are allowed now."""
    skipped = int(np.max(jax.device_get(state.skipped)))
    if skipped > allowed:
        raise typing.InputError(
            f"config.max_nonfinite_steps is {allowed}, and the run has skipped {skipped} steps that were not finite:"
            f" --config.max_nonfinite_steps={skipped} goes on."
        )


def _loop(run, workdir, state, start, checkpoints, metrics, tracing, stop, cache, deadline_s):
    settings, compilations = run.settings, log.Compilations()
    written, evaluated = settings.bookkeeping, settings.evaluation
    for line in compilation.described(run):
        hosts.print_once(line)
    with compilations, program_cache.kept(cache):
        programs = compilation.compiled(run)
        once = {"compile_s": compilations.seconds, "program_gib": compilation.device_bytes(programs) / 2**30}
        flops = compilation.utilisation_flops(run)
    # Programs that queue up on several CPU devices deadlock in the all-reduce.
    block = run.mesh.devices.size > 1 and run.mesh.devices.flat[0].platform == "cpu"
    batches, agreed = _batches(run, start), hosts.Agreement(run.mesh, block)
    evaluate = progress.evaluator(run, buckets.path(workdir)) if evaluated.every else None
    logger = log.Log(run, metrics, checkpoints, start, flops=flops, once=once)

    shown = {"total": settings.steps, "initial": start, "desc": settings.method.name, "unit": "step", "smoothing": 0.05}
    with compilations, tqdm.tqdm(**shown, disable=not hosts.is_main()) as bar:
        for step in range(start, settings.steps):
            tracing.at(step, state)
            with logger.clock.spending("data"):
                local = next(batches)
            with compilations.none(step + 1) if step >= start + WARM_UP else contextlib.nullcontext():
                batch = sharding.global_batch(run.mesh, local, settings.seeds)
                with jax.transfer_guard("disallow"):  # what is not on the devices by now would be sent there at every step
                    state, values = programs[run.cycle.at(step)](state, batch, run.fixed)
                with logger.clock.spending("compute"):
                    if block:
                        jax.block_until_ready(state)
                    # Read once: a signal may come at any moment, and what it stops must be saved.
                    stopping = agreed(bool(stop))
            if deadline_s:
                _check_deadline(deadline_s, stopping, stop, checkpoints, state, step + 1)
            logger.add(step + 1, values)
            bar.update()
            if step == start:
                _say_first(values, once["compile_s"])
            last = step + 1 == settings.steps
            evaluates = evaluate and not (stopping and deadline_s) and (last or (step + 1) % evaluated.every == 0)
            saves = stopping or last or (step + 1) % written.save_every == 0 or (evaluates and evaluated.best)
            measured = {}
            if evaluates or saves or (step + 1) % written.log_every == 0:
                bar.set_postfix_str(logger.flush())
            if evaluates:
                with logger.clock.spending("paused"):
                    measured = evaluate(state, step + 1) | progress.binned(run, state, batch)
                    metrics.write(step + 1, measured)
            if saves:
                with logger.clock.spending("paused"):
                    metrics.send()
                    checkpoints.save(step + 1, state, hosts.broadcast(progress.lower_is_better(evaluated.best, measured)))
            if stopping:
                checkpoints.wait()
                if evaluate and last and not evaluates:  # no later call comes to it; saved before, for the deadline
                    metrics.write(step + 1, evaluate(state, step + 1) | progress.binned(run, state, batch))
                _say_stopped(stop, step + 1, saved=checkpoints.unsaved is None)
                break
    return state


def _say_stopped(stop, step, *, saved):
    by = stop[0][0] if stop else "a signal to another process"
    rest = "; saved. The same command goes on from here." if saved else "."
    hosts.print_once(f"stopped by {by} after step {step}{rest}")


def _check_deadline(seconds, stopping, stop, checkpoints, state, step):
    """Raises SaveError if training stops and a save that begins now would not be complete so many seconds after the signal."""
    needed = checkpoints.seconds_to_save()
    if not stopping:
        return
    jax.block_until_ready(state)
    gone = time.monotonic() - stop[0][1] if stop else 0.0
    if hosts.any_process(gone + needed > seconds):
        hosts.print_once(
            f"stopped {gone:.1f} s after a signal; a save takes {needed:.1f} s, which is more than --deadline_s={seconds:g} leaves, so that"
            f" step {step} is not saved."
        )
        checkpoints.wait()
        saved = checkpoints.steps()
        raise checkpoint.SaveError(
            f"step {step} is not saved; the same command goes on from {f'step {saved[-1]}' if saved else 'the start'}, or give a longer"
            " --deadline_s."
        )


def _say_first(values, compile_s):
    """Prints when the first step is done."""
    jax.block_until_ready(values)
    hosts.print_once(
        f"first step done {log.since_start():.1f} s after the start of this process; the step was compiled, or read, in {compile_s:.1f} s"
    )


def _batches(run, start):
    """The batches of this process from a step on; those of several seeds stacked, each seed with its order."""
    settings = run.settings
    streams = [
        data.batches(
            run.source,
            batch_size=settings.batch_size,
            seed=settings.seed + number,
            start=start,
            process=jax.process_index(),
            processes=jax.process_count(),
            flip=settings.data.flip,
        )
        for number in range(settings.seeds)
    ]
    if settings.seeds == 1:
        return streams[0]
    return (jax.tree.map(lambda *parts: np.stack(parts), *batches) for batches in zip(*streams))


class _Tracing:
    """A trace of the steps from `start` to `stop` in process 0, as a context in which `at` is called before each step."""

    def __init__(self, folder, steps):
        self._folder, self._steps, self._on, self._written = folder, steps if hosts.is_main() else (), False, False
        self._spool = buckets.Spool(folder) if self._steps else None

    def at(self, step, state):
        """Begins or ends the trace, once the steps before are through."""
        if self._steps and step in self._steps:
            jax.block_until_ready(state)
            self._stop()
        if self._steps and step == self._steps[0]:
            jax.profiler.start_trace(self._spool.folder)
            self._on = self._written = True

    def _stop(self):
        if self._on:
            jax.profiler.stop_trace()
            self._on = False
            where = self._spool.folder if (why := self._spool.send()) else self._folder
            hosts.print_once(
                f"trace written to {where}; look at it with xprof or https://ui.perfetto.dev." + (f" ({why})" if why else "")
            )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._stop()
        if self._steps and not self._written:
            hosts.print_once(f"no trace was written: step {self._steps[0]} was not among those of this call.")


@contextlib.contextmanager
def _stop_signals():
    """A list that is empty until one of STOPS arrives, then holds (its name, when it came); a second signal ends at once."""
    stop = []

    def handle(number, frame):
        if stop:
            raise KeyboardInterrupt
        stop.append((signal.Signals(number).name, time.monotonic()))

    previous = {}
    with contextlib.suppress(ValueError):  # signals belong to the main thread; elsewhere nothing is caught
        caught = [number for number in STOPS if signal.getsignal(number) != signal.SIG_IGN]  # nohup
        previous = {number: signal.signal(number, handle) for number in caught}
    try:
        yield stop
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
