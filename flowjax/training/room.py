"""Whether something fits into the memory of a device, or of this machine, before anything is compiled or allocated."""

import contextlib
import os
import pathlib

import jax

from flowjax import models, typing
from flowjax.training import log, sharding

# GiB of memory of a device, as the makers publish them; by the keys of log.PEAK_TFLOPS. An A100 may have 40 or 80.
MEMORY_GIB = {
    "TPU v2": 8,
    "TPU v3": 16,
    "TPU v4": 32,
    "TPU v5 lite": 16,
    "TPU v5e": 16,
    "TPU v5p": 95,
    "TPU v5": 95,
    "TPU v6": 32,
    "NVIDIA A100": 40,
    "NVIDIA H100 PCIe": 80,
    "NVIDIA H100": 80,
    "NVIDIA H200": 141,
    "NVIDIA B200": 180,
}


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


def memory_gib(mesh):
    """GiB of each of several devices by their kind; None of one, of CPUs, which share their memory, and of others not in MEMORY_GIB."""
    if mesh.size == 1 or isinstance(mesh, jax.sharding.AbstractMesh):
        return None
    return MEMORY_GIB.get(log.chip(mesh.devices.flat[0]))


def chooses(sizes):
    """Whether a config leaves the mesh to `fitting_mesh`."""
    return dict(sizes) == {"data": -1, "fsdp": 0}


def fitting_mesh(state, rules, mesh, leading=0):
    """The mesh of the same devices that slices the weights least of those that leave half of a device's memory for activations.

    It is chosen by the kind of the devices, so that all processes choose the same.

    Args:
      state: shapes and dtypes of a flowjax.training.state.State.
      rules, leading: as of flowjax.training.sharding.specs.
      mesh: with the devices. It is returned where `memory_gib` knows no memory of them.

    Returns:
      A mesh; where none leaves half of the memory, the one on which a device holds least.
    """
    there = memory_gib(mesh)
    if there is None:
        return mesh
    sizes = {1: held(sharding.placed(state, rules, mesh, leading))} | {
        fsdp: held(placed) for fsdp, placed in _sliced_more(state, rules, mesh, leading)
    }
    return _least_sliced(sizes, there, mesh)


def sampling_mesh(weights, rules, devices, leading=0):
    """The mesh of some devices that slices weights least of those on which they leave half of a device's memory for activations.

    Args:
      weights: shapes and dtypes.
      rules, leading: as of flowjax.training.sharding.specs.
      devices: all of this process, or some.

    Returns:
      A mesh, with "fsdp" 1 where `memory_gib` knows no memory of the devices.
    """
    mesh = sharding.make_mesh(devices=devices)
    there = memory_gib(mesh)
    if there is None:
        return mesh
    on = lambda fsdp: sharding.placed(weights, rules, sharding.abstract_mesh({"data": -1, "fsdp": fsdp}, mesh.size), leading)
    sizes = {fsdp: sharding.device_bytes(on(fsdp)) for fsdp in range(1, mesh.size + 1) if mesh.size % fsdp == 0}
    return _least_sliced(sizes, there, mesh)


def _least_sliced(sizes, there, mesh):
    """The mesh of the same devices with the first "fsdp" of {fsdp: bytes of a device} within half of `there` GiB, else the least bytes."""
    fsdp = next((fsdp for fsdp, size in sizes.items() if size <= there * 2**29), min(sizes, key=sizes.get))
    return sharding.make_mesh({"data": -1, "fsdp": fsdp}, mesh.devices.flatten())


def held(state):
    """Bytes of a placed State and of the gradients that one device holds, without a teacher's weights."""
    return sharding.device_bytes(state) + sharding.device_bytes(state.params)


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
    rules = models.slicing(run.settings.model.name)
    meshes = _sliced_more(run.like, rules, run.mesh, int(run.settings.seeds > 1))
    return {fsdp: sharding.device_bytes(state) for fsdp, state in meshes}


def _sliced_more(state, rules, mesh, leading):
    """Pairs (fsdp, the State placed) of the meshes of the same devices that slice more, where at most a tenth stays whole."""
    for fsdp in range(mesh.shape["fsdp"] + 1, mesh.size + 1):
        if mesh.size % fsdp == 0:
            placed = sharding.placed(state, rules, sharding.abstract_mesh({"data": -1, "fsdp": fsdp}, mesh.size), leading)
            if sharding.whole_share((placed.params, placed.base)) <= sharding.MOST_WHOLE:
                yield fsdp, placed


def _check(what, needed, there, where, fitting=""):
    if there is not None and needed > there:
        raise typing.InputError(
            f"{what} takes {_gib(needed)} GiB, and {where} has {_gib(there)}; make the batch, the network or the numbers of samples and"
            f" seeds smaller, or use more devices (config.mesh){fitting}."
        )


def _gib(size):
    return f"{size / 2**30:,.3g}" if size < 2**50 else f"{size / 2**30:.3g}"
