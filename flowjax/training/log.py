"""What the loop says while it trains: metrics that are fetched now and then, where the time goes, and steps that were not finite."""

import jax
import numpy as np

from flowjax.training import hosts, meters


class NonFiniteError(RuntimeError):
    """A loss or a gradient was not finite; the message names the step, the term and the last good checkpoint."""


class Log:
    """Collects metrics on the device and writes them out now and then, so that no step waits for the host.

    Args:
      run: a flowjax.training.runs.Run.
      metrics: a flowjax.training.workdir.Metrics.
      checkpoints: a flowjax.training.checkpoint.Checkpoints, for the last good one.
      start: steps that were done before.
      flops: matmul FLOPs of a step, for the utilisation; None: not logged.
      once: what only the first line has besides.
    """

    def __init__(self, run, metrics, checkpoints, start, flops=None, once=()):
        self._run, self._metrics, self._checkpoints, self._flops = run, metrics, checkpoints, flops
        self._pending, self._flushed, self._once = [], start, dict(once)
        self.clock = meters.Clock()

    def add(self, step, found):
        """The metrics of a step, still on the device; waits until few steps are under way."""
        self._pending.append((step, found))
        if len(self._pending) > hosts.LAG:
            with self.clock.spending("compute"):
                jax.block_until_ready(self._pending[-1 - hosts.LAG][1])

    def flush(self):
        """Writes the means since the last flush and returns a line for the progress bar; raises NonFiniteError."""
        if not self._pending:
            return ""
        with self.clock.spending("compute"):
            rows = jax.device_get([found for _, found in self._pending])
        for (step, _), row in zip(self._pending, rows):
            self._check(step, row)
        step, settings = self._pending[-1][0], self._run.settings
        means = {name: _finite_mean([row[name] for row in rows]) for name in rows[0]}
        means["nonfinite_steps"] = float(np.max(rows[-1]["nonfinite_steps"]))
        means["learning_rate"] = float(self._run.schedule((step - 1) // settings.optim.every))
        means |= self.clock.take(step - self._flushed, settings.batch_size * settings.seeds) | self._once | self._use()
        if self._flops:
            peak = meters.peak_flops(self._run.mesh.devices.flat[0]) * self._run.mesh.devices.size
            means["utilisation"] = self._flops / (1e-3 * means["step_ms"] * peak)
        self._metrics.write(step, means)
        self._pending, self._flushed, self._once = [], step, {}
        return ", ".join(f"{name.removeprefix('raw/')} {value:.3g}" for name, value in means.items() if name.startswith("raw/"))

    def _use(self):
        memory = meters.memory_gib()
        return {} if memory is None else {"memory_gib": memory}

    def _check(self, step, row):
        """Raises NonFiniteError once more steps were skipped than config.max_nonfinite_steps allows."""
        allowed, settings = self._run.settings.bookkeeping.max_nonfinite_steps, self._run.settings
        if np.max(row["nonfinite_steps"]) <= allowed:
            return
        bad = [name for name, value in row.items() if not np.isfinite(value).all()]
        seeds = np.flatnonzero(~np.isfinite(np.atleast_1d(row[bad[0]])))
        terms = [name.removeprefix("raw/") for name in bad if name.startswith("raw/")]
        what = f"the term {' and '.join(terms)} is" if terms else f"{bad[0]} is"
        self._checkpoints.wait()
        saved = self._checkpoints.steps()
        good = self._checkpoints.path / str(saved[-1]) if saved else "none was saved yet"
        which = f" (seed {', '.join(str(settings.seed + i) for i in seeds)})" if settings.seeds > 1 else ""
        before = f", after {allowed} skipped steps" if allowed else ""
        more = f"--config.max_nonfinite_steps={allowed + 1}"
        raise NonFiniteError(
            f"{what} not finite at step {step}{which}{before}; training stopped ({more} goes past it). Last good checkpoint: {good}."
        )


def _finite_mean(values):
    """The mean of those that are finite: skipped steps are counted, not averaged."""
    values = np.asarray(values, np.float64)
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")
