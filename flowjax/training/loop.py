"""The training loop: resume, step, log, evaluate, save, stop cleanly."""

import contextlib
import pathlib
import signal
import time

import jax
import numpy as np
import tqdm

from flowjax import data
from flowjax.training import checkpoint, evaluation, experiment, networks, sharding, workdir as folders

BINNED_DRAWS = 8  # of a batch, for raw errors by time


class NonFiniteError(RuntimeError):
    """A loss or a gradient was not finite; the message names the step, the term and the last good checkpoint."""


def train(config, workdir, devices=None):
    """Trains as `config` says, in `workdir`, from where a former call was stopped or killed.

    Args:
      config: an ml_collections config with the fields of configs/common.py.
      workdir: a folder that is empty, does not exist, or holds a run with the same config.
      devices: of the mesh; None: all.

    Returns:
      The last State. It is saved; after a signal it is the state at which training stopped.

    Raises:
      InputError: for a config that cannot work, or a workdir with another one; nothing is written.
      NonFiniteError: if the loss is not finite; nothing after the last good checkpoint is saved.
    """
    with _stop_signals() as stop:
        folders.check(workdir, config)
        run = experiment.setup(config, devices)
        folders.claim(workdir, config, run.source)
        with checkpoint.Checkpoints(workdir, keep=config.keep) as checkpoints:
            state, start = checkpoints.restore(run.like, report=tqdm.tqdm.write) or (run.init(), 0)
            if start == config.steps:
                if stop:  # nobody else will hear of it
                    raise KeyboardInterrupt
                return state
            metrics = folders.Metrics(workdir, start)
            try:
                return _loop(run, workdir, state, start, checkpoints, metrics, stop)
            finally:
                metrics.close()


def _loop(run, workdir, state, start, checkpoints, metrics, stop):
    config = run.config
    # Compiled ahead, so that nothing can compile it twice: other shapes or shardings would be an error.
    placed = sharding.whole(run.mesh)
    jitted = jax.jit(run.step, donate_argnums=0, out_shardings=(placed, placed))
    step_fn = jitted.lower(run.like, run.batch_like, run.fixed).compile()
    batches = _batches(run, start)
    evaluate = _evaluator(run, workdir) if config.eval_every else None
    # Steps that queue up on several CPU devices deadlock in the all-reduce.
    block = run.mesh.devices.size > 1 and run.mesh.devices.flat[0].platform == "cpu"
    log = _Log(run, metrics, checkpoints, start)

    with tqdm.tqdm(total=config.steps, initial=start, desc=config.method.name, unit="step", smoothing=0.05) as bar:
        for step in range(start, config.steps):
            batch = sharding.global_batch(run.mesh, next(batches), config.seeds)
            state, found = step_fn(state, batch, run.fixed)
            if block:
                jax.block_until_ready(state)
            log.add(step + 1, found)
            bar.update()
            stopping = bool(stop)  # read once: a signal may come at any moment, and what it stops must be saved
            last = step + 1 == config.steps
            evaluates = evaluate and (last or (step + 1) % config.eval_every == 0)
            saves = stopping or last or (step + 1) % config.save_every == 0
            if evaluates or saves or (step + 1) % config.log_every == 0:
                bar.set_postfix_str(log.flush())
            if evaluates:
                with log.paused():
                    metrics.write(step + 1, evaluate(state, step + 1) | _binned(run, state, batch))
            if saves:
                with log.paused():
                    checkpoints.save(step + 1, state)
            if stopping:
                bar.write(f"stopped by {stop[0]} after step {step + 1}; saved. The same command goes on from here.")
                break
    checkpoints.wait()
    return state


def _batches(run, start):
    """This host's batches from a step on; those of several seeds stacked, each in its own order."""
    config = run.config
    streams = [
        data.batches(
            run.source,
            batch_size=config.batch_size,
            seed=config.seed + number,
            start=start,
            process=jax.process_index(),
            processes=jax.process_count(),
            flip=config.data.flip,
        )
        for number in range(config.seeds)
    ]
    if config.seeds == 1:
        return streams[0]
    return (jax.tree.map(lambda *parts: np.stack(parts), *batches) for batches in zip(*streams))


class _Log:
    """Collects metrics on the device and writes them out now and then, so that no step waits for the host."""

    def __init__(self, run, metrics, checkpoints, start):
        self._run, self._metrics, self._checkpoints = run, metrics, checkpoints
        self._pending, self._since, self._flushed = [], time.perf_counter(), start

    def add(self, step, found):
        self._pending.append((step, found))

    @contextlib.contextmanager
    def paused(self):
        """Work whose time is not the steps'."""
        before = time.perf_counter()
        yield
        self._since += time.perf_counter() - before

    def flush(self):
        """Writes the means since the last flush and returns a line for the progress bar; raises NonFiniteError."""
        if not self._pending:
            return ""
        rows = jax.device_get([found for _, found in self._pending])
        for (step, _), row in zip(self._pending, rows):
            self._check(step, row)
        step = self._pending[-1][0]
        means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        means["learning_rate"] = float(self._run.schedule((step - 1) // self._run.config.optim.every))
        means["step_ms"] = 1e3 * (time.perf_counter() - self._since) / (step - self._flushed)
        self._metrics.write(step, means)
        self._pending, self._since, self._flushed = [], time.perf_counter(), step
        return ", ".join(f"{name.removeprefix('raw/')} {value:.3g}" for name, value in means.items() if name.startswith("raw/"))

    def _check(self, step, row):
        bad = [name for name, value in row.items() if not np.isfinite(value).all()]
        if bad:
            seeds = np.flatnonzero(~np.isfinite(np.atleast_1d(row[bad[0]])))
            terms = [name.removeprefix("raw/") for name in bad if name.startswith("raw/")]
            what = f"the term {' and '.join(terms)} is" if terms else f"{bad[0]} is"
            self._checkpoints.wait()
            saved = self._checkpoints.steps()
            good = self._checkpoints.path / str(saved[-1]) if saved else "none was saved yet"
            which = f" (seed {', '.join(str(self._run.config.seed + i) for i in seeds)})" if self._run.config.seeds > 1 else ""
            raise NonFiniteError(f"{what} not finite at step {step}{which}; training stopped. Last good checkpoint: {good}.")


def _evaluator(run, workdir):
    """`(state, step) -> measures` of the first seed at each number of steps against held-out rows; also draws the samples."""
    config = run.config
    held_out = data.arrays(run.held_out, limit=10_000)
    labels = evaluation.labels_like(held_out.get("label"), run.source.num_classes, config.eval_samples)
    measure = evaluation.judge(config, held_out["x"])
    sample = evaluation.make_sampler(
        run.net, run.source.shape, config.sampler, experiment.told(config), path=networks.path_of(config)
    )

    def evaluate(state, step):
        params = experiment.weights(config, state, experiment.default_average(config))
        samples = {steps: sample(params, config.seed, labels, steps) for steps in config.eval_steps}
        path, title = pathlib.Path(workdir) / "samples" / f"step_{step:07d}.png", f"{config.method.name}, step {step}"
        evaluation.draw_samples(path, samples, labels, run.source.num_classes, real=held_out, title=title)
        return {f"{steps}step/{name}": value for steps, x in samples.items() for name, value in measure(x, labels).items()}

    return evaluate


def _binned(run, state, batch):
    """Raw errors by time bin as metrics, over some draws: bins/TERM/0 near the data up to bins/TERM/9 near the noise; nan: no row."""
    draws = jax.device_get([run.binned(state, batch, run.fixed, number) for number in range(BINNED_DRAWS)])
    metrics = {}
    for name, (total, count) in jax.tree.map(lambda *sums: np.sum(sums, axis=0), *draws).items():
        means = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
        metrics |= {f"bins/{name}/{number}": float(mean) for number, mean in enumerate(means)}
    return metrics


@contextlib.contextmanager
def _stop_signals():
    """A list that is empty until SIGTERM or Ctrl-C arrives, then holds the signal's name; a second signal ends at once."""
    stop = []

    def handle(number, frame):
        if stop:
            raise KeyboardInterrupt
        stop.append(signal.Signals(number).name)

    previous = {}
    with contextlib.suppress(ValueError):  # signals belong to the main thread; elsewhere nothing is caught
        previous = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
