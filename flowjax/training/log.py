"""What a training measures and logs: metrics, where the time goes, use of the device, steps that were not finite, late compilations."""

import contextlib
import os
import pathlib
import time

import jax
import numpy as np

from flowjax.training import hosts

# Dense bfloat16 matmuls, 1e12 FLOPs a second and device, as the makers publish them; by the start of jax.Device.device_kind.
PEAK_TFLOPS = {
    "TPU v2": 22.5,
    "TPU v3": 61.5,
    "TPU v4": 275.0,
    "TPU v5 lite": 197.0,
    "TPU v5e": 197.0,
    "TPU v5p": 459.0,
    "TPU v5": 459.0,
    "TPU v6": 918.0,
    "NVIDIA A100": 312.0,
    "NVIDIA H100 PCIe": 756.0,
    "NVIDIA H100": 989.0,
    "NVIDIA H200": 989.0,
    "NVIDIA B200": 2250.0,
}


_IMPORTED = time.perf_counter()


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
      once: further values of the first line.
    """

    def __init__(self, run, metrics, checkpoints, start, flops=None, once=()):
        self._run, self._metrics, self._checkpoints, self._flops = run, metrics, checkpoints, flops
        self._pending, self._flushed, self._once = [], start, dict(once)
        self.clock = Clock()

    def add(self, step, values):
        """Takes the metrics of a step, still on the device; waits until few steps are under way."""
        self._pending.append((step, values))
        if len(self._pending) > hosts.LAG:
            with self.clock.spending("compute"):
                jax.block_until_ready(self._pending[-1 - hosts.LAG][1])

    def flush(self):
        """Writes the means since the last flush and returns a line for the progress bar; raises NonFiniteError."""
        if not self._pending:
            return ""
        with self.clock.spending("compute"):
            rows = jax.device_get([values for _, values in self._pending])
        for (step, _), row in zip(self._pending, rows):
            self._check(step, row)
        step, settings = self._pending[-1][0], self._run.settings
        means = {name: _finite_mean([row[name] for row in rows]) for name in rows[0]}
        means["nonfinite_steps"] = float(np.max(rows[-1]["nonfinite_steps"]))
        means["learning_rate"] = float(self._run.schedule(step - 1))
        means |= self.clock.take(step - self._flushed, settings.batch_size * settings.seeds) | self._once | self._use()
        if self._flops:
            peak = peak_flops(self._run.mesh.devices.flat[0]) * self._run.mesh.devices.size
            means["utilisation"] = self._flops / (1e-3 * means["step_ms"] * peak)
        self._metrics.write(step, means)
        self._pending, self._flushed, self._once = [], step, {}
        raw = {name.removeprefix("raw/"): value for name, value in means.items() if name.startswith("raw/")}
        return ", ".join(f"{name} {value:.3g}" for name, value in raw.items() if np.isfinite(value))  # nan: the term rested

    def _use(self):
        memory = memory_gib()
        return {} if memory is None else {"memory_gib": memory}

    def _check(self, step, row):
        """Raises NonFiniteError once more steps were skipped than config.max_nonfinite_steps allows."""
        allowed, settings = self._run.settings.bookkeeping.max_nonfinite_steps, self._run.settings
        if np.max(row["nonfinite_steps"]) <= allowed:
            return
        computed = self._run.cycle.at(step - 1).terms
        resting = {f"raw/{term.name}" for term in self._run.method.terms if term.name not in computed}
        bad = [name for name, value in row.items() if name not in resting and not np.isfinite(value).all()]
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


class RecompilationError(RuntimeError):
    """A program was compiled in the middle of training."""


def chip(device):
    """The key of PEAK_TFLOPS that a device is; None if there is none."""
    return max((name for name in PEAK_TFLOPS if device.device_kind.startswith(name)), key=len, default=None)


def peak_flops(device):
    """FLOPs a second of dense bfloat16 matmuls of a device; None if PEAK_TFLOPS lacks it."""
    known = chip(device)
    return 1e12 * PEAK_TFLOPS[known] if known else None


def since_start():
    """Seconds since this process was started; where the system does not tell, since this module was imported."""
    try:
        ticks = int(pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError):
        return time.perf_counter() - _IMPORTED


def memory_gib():
    """The highest use of memory so far of any device of this process, GiB; None where devices do not report it."""
    reports = [device.memory_stats() for device in jax.local_devices()]
    peaks = [stats["peak_bytes_in_use"] for stats in reports if stats and "peak_bytes_in_use" in stats]
    return max(peaks) / 2**30 if peaks else None


class Clock:
    """Splits the time of the host between data, device and everything else.

    JAX works ahead: the device may compute while the host waits for data. So "compute" is the time that is left to wait for the
    device, and as long as there is some, the device is what a step waits for.
    """

    def __init__(self):
        self._start()

    def _start(self):
        self._since, self._spent = time.perf_counter(), {"data": 0.0, "compute": 0.0, "paused": 0.0}

    @contextlib.contextmanager
    def spending(self, what):
        """Time spent waiting for "data" or, "compute", for the device; "paused": work whose time is not the steps'."""
        before = time.perf_counter()
        yield
        self._spent[what] += time.perf_counter() - before

    def take(self, steps, rows):
        """Means over the steps since the last call, of so many rows each: milliseconds by what they went to, and examples a second.

        Besides, the seconds since the last call that were no steps: evaluations and saves.
        """
        paused = self._spent.pop("paused")
        total = time.perf_counter() - self._since - paused
        split = {**self._spent, "host": total - sum(self._spent.values())}
        self._start()
        means = {f"{name}_ms": 1e3 * seconds / steps for name, seconds in {"step": total, **split}.items()}
        return means | {"examples_per_s": steps * rows / total, "paused_s": paused}


class Compilations:
    """Counts what XLA compiles in this process, as a context, and objects where nothing should be compiled any more."""

    def __init__(self):
        self.count, self.seconds = 0, 0.0

    def _count(self, event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            self.count, self.seconds = self.count + 1, self.seconds + seconds

    def __enter__(self):
        jax.monitoring.register_event_duration_secs_listener(self._count)
        return self

    def __exit__(self, *error):
        jax.monitoring.unregister_event_duration_listener(self._count)

    @contextlib.contextmanager
    def none(self, step):
        """Raises RecompilationError if something is compiled within, naming the step."""
        before = self.count
        yield
        if self.count > before:
            raise RecompilationError(
                f"step {step} compiled {self.count - before} program(s) anew: a shape, dtype or placement of its inputs differs from"
                " the steps before. Rows of a batch must always have the same shapes; the last checkpoint is good."
            )
