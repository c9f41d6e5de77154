"""What a running training says about itself: where its time goes, how much of the device it uses, and that nothing compiles twice."""

import contextlib
import time

import jax

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


class RecompilationError(RuntimeError):
    """A program was compiled in the middle of training."""


def peak_flops(device):
    """FLOPs a second of dense bfloat16 matmuls of a device; None if its peak is not known here."""
    known = [name for name in PEAK_TFLOPS if device.device_kind.startswith(name)]
    return 1e12 * PEAK_TFLOPS[max(known, key=len)] if known else None


def memory_gib():
    """The highest use of memory so far of any device of this process, GiB; None where a device does not say."""
    found = [device.memory_stats() for device in jax.local_devices()]
    peaks = [stats["peak_bytes_in_use"] for stats in found if stats and "peak_bytes_in_use" in stats]
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

    def _hear(self, event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            self.count, self.seconds = self.count + 1, self.seconds + seconds

    def __enter__(self):
        jax.monitoring.register_event_duration_secs_listener(self._hear)
        return self

    def __exit__(self, *error):
        jax.monitoring.unregister_event_duration_listener(self._hear)

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
