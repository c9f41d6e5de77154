"""Several processes, one training: joining them, which one prints, and flags on which all agree. One process needs none of it.

JAX's own runtime does the work; the workdir must be on a disk that all processes see, or in a bucket.
"""

import collections
import contextlib
import ctypes
import os
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jax.experimental import multihost_utils

from flowjax import folders, ownership, typing
from flowjax.training import sharding

HEARTBEAT = 20  # seconds of silence after which a process counts as dead, which ends the others
LAG = 2  # a stop request reaches all processes this many steps later, without blocking a step
LAUNCHER = "FLOWJAX_LAUNCHER"  # process number of experiments.launch, in the environment of what it starts
_PR_SET_PDEATHSIG = 1  # of Linux's prctl
VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def end_with_launcher():
    """Kills this process when the launcher that started it ends, also by a kill: its run is safe, and the next start goes on.

    Does nothing in a process that no experiments.launch started, or that another process started in between.
    """
    launcher = os.environ.pop(LAUNCHER, "")  # not for the processes that this one starts
    if not launcher.isdecimal():
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))

    def watch():  # where there is no prctl, and for a launcher that ended before
        while os.getppid() == int(launcher):
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="watches the launcher", daemon=True).start()


def initialize(coordinator="", processes=0, process=-1, *, distributed=False):
    """Joins this process to the others of a run, before any device is used; alone, does nothing.

    Args:
      coordinator: HOST:PORT of process 0; "": the environment's JAX_COORDINATOR_ADDRESS, with JAX_NUM_PROCESSES and JAX_PROCESS_ID, or
        what JAX reads of a Slurm step, of mpirun or of a TPU slice with several workers.
      processes: how many there are, at least 1; with a coordinator only.
      process: which one this is, from 0; with a coordinator only.
      distributed: let JAX look for the others even if no variable of a launcher counts them, as on a TPU VM.

    Raises:
      InputError: if the three do not fit together, or the others cannot be found.
    """
    given = (coordinator, processes, process)
    if given == ("", 0, -1) and VARIABLES[0] in os.environ:
        given = tuple(os.environ.get(name, "") for name in VARIABLES)
    if given == ("", 0, -1):
        if not (distributed or _several(os.environ)):
            return
        where = {}
    else:
        where = dict(zip(("coordinator_address", "num_processes", "process_id"), _checked(*given)))
    jax.config.update("jax_enable_preemption_service", False)  # its handler of SIGTERM would take the place of the loop's
    try:
        jax.distributed.initialize(**where, heartbeat_timeout_seconds=HEARTBEAT, shutdown_timeout_seconds=HEARTBEAT)
    except (RuntimeError, ValueError) as error:
        others = f"the coordinator {where['coordinator_address']}" if where else "other processes in the environment"
        raise typing.InputError(
            f"this process could not join {others} ({str(error).splitlines()[0][:200]}); give --coordinator=HOST:PORT --processes=N"
            " --process=I to each, the same HOST:PORT to all."
        ) from error


def _several(environment):
    """Whether the variables of a launcher count several processes."""
    counts = [environment.get(name, "1") for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "MEGASCALE_NUM_SLICES")]
    return any(count.isdecimal() and int(count) > 1 for count in counts) or "," in environment.get("TPU_WORKER_HOSTNAMES", "")


def _checked(coordinator, processes, process):
    try:
        numbers = int(processes), int(process)
    except ValueError:
        numbers = (0, -1)
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 <= numbers[1] < numbers[0]:
        raise typing.InputError(
            f"the coordinator is {coordinator!r}, processes {processes!r} and process {process!r}; expected HOST:PORT, a number of"
            " processes, and which of them this is, from 0: --coordinator=10.0.0.1:8476 --processes=2 --process=0"
            f" (or the variables {', '.join(VARIABLES)})."
        )
    return coordinator, *numbers


def is_main():
    """Whether this is process 0, which logs, draws and prints."""
    return jax.process_index() == 0


def print_once(text):
    """Prints in process 0, above its progress bar."""
    if is_main():
        tqdm.tqdm.write(text)


def barrier(name):
    """Returns when all processes have come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


@contextlib.contextmanager
def main_first(name):
    """Work that process 0 does before the others, for files that only one should make."""
    if not is_main():
        barrier(name)
    yield
    if is_main():
        barrier(name)


@contextlib.contextmanager
def claimed(folder, about, *, contents, free=(), check=lambda: None):
    """A context in which all processes write results into one folder, --output, which process 0 claims and owns.

    Args:
      folder: need not exist.
      about: what its files depend on, of JSON types.
      contents: what they are, for the errors.
      free: names in `about` that may differ from what is there.
      check: called after the checks of the folder, before anything is written.

    Raises:
      InputError: the folder has another owner, holds something else, or `check` raises it.
    """
    claim = {"flag": "--output", "contents": contents, "free": free}
    ownership.check_free(folder, "--output")
    folders.check_claim(folder, about, **claim)
    check()
    barrier(f"all processes have checked the folder of the {contents}")
    with ownership.owned(folder, "--output", main=is_main()):
        if is_main():
            folders.claim(folder, about, **claim)
        barrier(f"the folder of the {contents} is claimed")
        yield


def broadcast(value):
    """A number of process 0, in all processes, as a float32."""
    return (
        float(multihost_utils.broadcast_one_to_all(np.float32(value))) if jax.process_count() > 1 else float(np.float32(value))
    )


def any_process(flag):
    """Whether the flag is raised in any process; all wait for each other."""
    return bool(np.max(multihost_utils.process_allgather(np.int32(flag)))) if jax.process_count() > 1 else bool(flag)


class Agreement:
    """Whether any process has raised its flag, known to all at the same call: in one process at once, else LAG calls later.

    Args:
      mesh: all devices of all processes.
      block: wait for each answer, where programs must not queue up.
    """

    def __init__(self, mesh, block=False):
        self._mesh, self._block, self._pending = mesh, block, collections.deque()
        self._any = jax.jit(jnp.max, out_shardings=sharding.whole(mesh))

    def __call__(self, flag):
        """All processes call it equally often."""
        if jax.process_count() == 1:
            return flag
        flags = np.full(len(self._mesh.local_devices), flag, np.int32)
        self._pending.append(self._any(sharding.global_batch(self._mesh, {"flag": flags})["flag"]))
        if self._block:
            self._pending[-1].block_until_ready()
        return len(self._pending) > LAG and bool(self._pending.popleft())
