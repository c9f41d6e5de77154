"""Runs a script as several processes on this machine:

    python -m experiments.launch --processes=2 -- train --config=configs/meanflow.py:digits --workdir=runs/digits

The name and the flags of the script follow --. The processes join each other through JAX's runtime, and each uses --devices
GPUs that no other uses. SIGTERM or Ctrl-C stops all of them after they have saved. When one dies, the others are ended within
seconds, with one sentence, and the same command continues from the last checkpoint. For several machines see docs/pods.md: one
process on each.
"""

import os
import signal
import socket
import subprocess
import sys
import time

from absl import flags

from experiments import command_line
from flowjax import checks
from flowjax.training import hosts

NUMBER = flags.DEFINE_integer("processes", 2, "number of processes", lower_bound=1, upper_bound=4_096)
DEVICES = flags.DEFINE_integer(
    "devices", 1, "GPUs of each process, in order; without effect on a CPU", lower_bound=1, upper_bound=4_096
)
GRACE = 5.0  # seconds after which the other processes are killed
PEER_DIED = (command_line.EXIT_PEER_DIED, -signal.SIGABRT)  # exit statuses of a process that ended because another died
SCRIPTS = ("generate", "train")  # that share their work among processes


def main(script, *given):
    checks.member("script (it runs as several processes)", script, SCRIPTS)
    # -------------------------------------------------------------------------------------------------------- start
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    children = []

    def forward(stop, frame):
        for child in children:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM if stop == signal.SIGHUP else stop)  # SIGHUP: the terminal was closed

    for stop in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(stop, forward)
    for number in range(NUMBER.value):
        variables = dict(zip(hosts.VARIABLES, (coordinator, str(NUMBER.value), str(number))))
        local = range(number * DEVICES.value, (number + 1) * DEVICES.value)
        variables[hosts.LAUNCHER] = str(os.getpid())  # it ends when this process does, whatever ends this process
        variables["JAX_LOCAL_DEVICE_IDS"] = ",".join(map(str, local))
        command = [sys.executable, "-m", f"experiments.{script}", *given]
        # A new session: Ctrl-C in the terminal reaches the process only through `forward`, once.
        children.append(subprocess.Popen(command, env=os.environ | variables, start_new_session=True))

    # --------------------------------------------------------------------------------------------------------- wait
    while any(child.poll() is None for child in children) and not any(child.poll() for child in children):
        time.sleep(0.1)
    first, deadline = [number for number, child in enumerate(children) if child.returncode], time.monotonic() + GRACE
    if not first:
        return
    while any(child.poll() is None for child in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    died = sorted(
        ((n, child.returncode) for n, child in enumerate(children) if child.returncode), key=lambda each: each[0] not in first
    )
    for child in children:
        child.kill()  # without effect on a process that has ended
        child.wait()
    number, status = min(died, key=lambda each: each[1] in PEER_DIED)
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    others = "" if len(children) == 1 else "; the others cannot go on without it and were ended"
    goes_on = "" if status == 2 else " The same command goes on from the last checkpoint."
    print(f"error: process {number} of {len(children)} {how}{others}.{goes_on}", file=sys.stderr)
    sys.exit(status if status > 0 else 128 - status)


if __name__ == "__main__":
    command_line.run(main, arguments="the script behind --, as in -- train --config=configs/meanflow.py:digits")
