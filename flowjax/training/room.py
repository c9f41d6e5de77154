"""Whether something fits into the memory of a device, or of this machine, before anything is compiled or allocated."""

import contextlib
import os
import pathlib

import jax

from flowjax import models, typing
from flowjax.training import sharding


def host_bytes():
    """Bytes of memory of this machine, or of the container that this process runs in."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            limits.append(int(pathlib.Path(path).read_text()))
    return min(limits)


def device_bytes(device):
    """Bytes of memory of a device; those of a CPU are shared by all CPU devices of this process. None where it does not say."""
    if device.platform == "cpu":
        return host_bytes() // jax.local_device_count("cpu")
    try:
        return (device.memory_stats() or {}).get("bytes_limit")
    except jax.errors.JaxRuntimeError:  # of another process, or only compiled for
        return None


def check_host(what, needed):
    """Raises InputError if something takes more bytes than this machine has."""
    _check(what, needed, host_bytes(), "this machine")


def check_device(what, needed, device):
    """Raises InputError if something takes more bytes than a device has."""
    _check(what, needed, device_bytes(device), f"a device ({device.device_kind})")


def check_state(run):
    """Raises InputError if the weights, averages and optimizer states of a run take more of a device than it has."""
    parts = {name: sharding.device_bytes(tree) for name, tree in run.like._asdict().items() if jax.tree.leaves(tree)}
    model = run.settings.model
    shown = ", ".join(f"{name} {_gib(size)}" for name, size in parts.items() if size > 2**20)
    what = f"config.model {model.name}: what one device holds of the state ({shown})"
    device = run.mesh.devices.flat[0]
    there = device_bytes(device)
    meshes = _smaller(run) if there is not None and sum(parts.values()) > there else {}
    fitting = next((f"; --config.mesh.data=-1 --config.mesh.fsdp={fsdp}" for fsdp, size in meshes.items() if size < there), "")
    _check(what, sum(parts.values()), there, f"a device ({device.device_kind})", fitting)


def _smaller(run):
    """{fsdp: bytes of the state on each device} of the meshes of the same devices that slice the weights more."""
    rules, seeds, sizes = models.SHARDING.get(run.settings.model.name, models.slices.RULES), run.settings.seeds, {}
    for fsdp in range(run.mesh.shape["fsdp"] + 1, run.mesh.size + 1):
        if run.mesh.size % fsdp == 0:
            mesh = sharding.abstract_mesh({"data": -1, "fsdp": fsdp}, run.mesh.size)
            state = sharding.placed(run.like, rules, mesh, int(seeds > 1))
            if sharding.whole_share(state.params) <= sharding.MOST_WHOLE:
                sizes[fsdp] = sharding.device_bytes(state)
    return sizes


def _check(what, needed, there, where, fitting=""):
    if there is not None and needed > there:
        raise typing.InputError(
            f"{what} takes {_gib(needed)} GiB, and {where} has {_gib(there)}; make the batch, the network or the numbers of samples and"
            f" seeds smaller, or use more devices (config.mesh){fitting}."
        )


def _gib(size):
    return f"{size / 2**30:,.3g}" if size < 2**50 else f"{size / 2**30:.3g}"
