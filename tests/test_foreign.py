"""Files of other libraries: each format by the bytes that its library writes, and files that lie."""

import collections
import io
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import tarfile
import types
import zipfile

import flax.serialization
import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import foreign, opening, typing
from flowjax.foreign import tensors, trees

X = np.arange(12, dtype=np.float32).reshape(3, 4)
TORCH = {"float32": "FloatStorage", "int64": "LongStorage", "bfloat16": "BFloat16Storage", "uint8": "UntypedStorage"}


class Storage:
    """What torch pickles as a persistent id."""

    def __init__(self, array, key):
        self.array, self.key = array, key


@pytest.fixture
def torch(monkeypatch):
    """Modules with the names that torch's pickles refer to; torch itself is not installed."""
    modules = {name: types.ModuleType(name) for name in ("torch", "torch._utils", "torch.storage", "mymodel", "dnnlib")}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)

    def define(module, name, made=None):
        made = made or types.FunctionType((lambda *_: None).__code__, {}, name)
        made.__module__, made.__qualname__ = module, name
        setattr(modules[module], name, made)
        return made

    for name in ("_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_qtensor"):
        define("torch._utils", name)
    for name in set(TORCH.values()):
        define("torch.storage" if name == "UntypedStorage" else "torch", name, type(name, (), {}))
    for module, name, base in (("mymodel", "Net", object), ("mymodel", "Config", dict), ("dnnlib", "EasyDict", dict)):
        define(module, name, type(name, (base,), {}))
    define("dnnlib", "_reconstruct_persistent_obj")
    return types.SimpleNamespace(**{name.replace(".", "_"): module for name, module in modules.items()})


class Call:
    """Pickled as a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def tensor(torch, array, key, *, base=None, offset=0, strides=None, shape=None):
    """A call that rebuilds a tensor; `base` is its storage if it is a part of one."""
    base = np.ascontiguousarray(array) if base is None else base
    strides = strides or tuple(stride // array.itemsize for stride in np.zeros(array.shape, array.dtype).strides)
    arguments = (Storage(base, key), offset, shape or array.shape, strides, False, collections.OrderedDict())
    return Call(torch.torch__utils._rebuild_tensor_v2, *arguments)


def pickled(torch, content, view=()):
    """(bytes, {key: array}) as torch pickles an object."""
    out, found = io.BytesIO(), {}

    class Writer(pickle.Pickler):
        def persistent_id(self, value):
            if not isinstance(value, Storage):
                return None
            found[value.key] = value.array
            name = TORCH[value.array.dtype.name]
            kind = getattr(torch.torch if name != "UntypedStorage" else torch.torch_storage, name)
            return ("storage", kind, value.key, "cpu", value.array.size, *view)

    Writer(out, protocol=2).dump(content)
    return out.getvalue(), found


def zipped(path, torch, content, **changes):
    """Writes torch's newer format; `changes` replace entries."""
    data, found = pickled(torch, content)
    entries = {"data.pkl": data, "byteorder": b"little", **{f"data/{key}": array.tobytes() for key, array in found.items()}}
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in {**entries, **changes}.items():
            if value is not None:
                archive.writestr(f"model/{name}", value)


def legacy(path, torch, content):
    """Writes torch's older format."""
    data, found = pickled(torch, content, view=(None,))
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2}}
    head = [pickle.dumps(part, 2) for part in (tensors.MAGIC, 1001, system)]
    tail = b"".join(struct.pack("<q", array.size) + array.tobytes() for array in found.values())
    path.write_bytes(b"".join(head) + data + pickle.dumps(list(found), 2) + tail)


def state(torch):
    ordered = collections.OrderedDict(
        {
            "a.weight": tensor(torch, X, "0"),
            "a.bias": Call(torch.torch__utils._rebuild_parameter, tensor(torch, X[0].astype(jnp.bfloat16), "1"), True, None),
            "steps": tensor(torch, np.int64(7), "2"),
            "part": tensor(torch, X[1:, 1:3], "0", base=X, offset=5, strides=(4, 1)),
            "turned": tensor(torch, X.T, "0", base=X, strides=(1, 4)),
            "bytes": tensor(torch, np.arange(3, dtype=np.uint8), "3"),
            "none": tensor(torch, np.zeros((0, 4), np.float32), "4"),
        }
    )
    ordered._metadata = {"": {"version": 1}}
    return {"model": ordered, "epoch": 3, "name": "net", "args": torch.mymodel.Config(lr=0.5)}


@pytest.mark.parametrize("write", [zipped, legacy])
def test_both_formats_of_torch(write, torch, tmp_path):
    write(tmp_path / "m.pt", torch, state(torch))
    found = foreign.read(tmp_path / "m.pt")
    weights = foreign.below(found, "model")
    assert set(found) == {f"model/{name}" for name in weights} | {"epoch", "args/lr"} and found["args/lr"] == 0.5
    expected = {"a.weight": X, "a.bias": X[0].astype(jnp.bfloat16), "steps": np.int64(7), "part": X[1:, 1:3], "turned": X.T}
    for name, array in {**expected, "bytes": np.arange(3, dtype=np.uint8), "none": np.zeros((0, 4), np.float32)}.items():
        assert weights[name].dtype == array.dtype and weights[name].shape == array.shape, name
        np.testing.assert_array_equal(weights[name], array)


def test_a_view_of_the_older_format(torch, tmp_path):
    whole, path = tensor(torch, X, "0"), tmp_path / "m.pt"
    legacy(path, torch, whole)
    data = path.read_bytes()
    # Its persistent id ends in None, where a view has (key, first element, number of elements).
    assert data.count(b"K\x0cNt") == 1
    path.write_bytes(data.replace(b"K\x0cNt", b"K\x0cX\x01\x00\x00\x00vK\x00K\x0c\x87t"))
    np.testing.assert_array_equal(foreign.read(path)["array"], X)


def test_objects_of_unknown_classes_keep_their_arrays_and_do_nothing(torch, tmp_path):
    leaf, net = torch.mymodel.Net(), torch.mymodel.Net()
    common = {"_buffers": {}, "training": True}
    leaf.__dict__ |= {"_parameters": {"weight": tensor(torch, X, "0"), "bias": None}, "_modules": {}, "owner": net, **common}
    net.__dict__ |= {"_parameters": {"scale": tensor(torch, X[0], "1")}, "_modules": {"layer": leaf}, **common}
    source = "raise SystemExit('this was run')"
    about = torch.dnnlib.EasyDict(type="class", module_src=source, state=net.__dict__)
    for content in (net, Call(torch.dnnlib._reconstruct_persistent_obj, about)):
        zipped(tmp_path / "m.pkl", torch, {"ema": content})
        found = foreign.read(tmp_path / "m.pkl")
        assert set(found) == {"ema/scale", "ema/layer.weight"}
        np.testing.assert_array_equal(found["ema/layer.weight"], X)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_numpy_arrays(protocol, tmp_path):
    content = {
        "num_images": 5,
        "fid": {"mu": X[0].astype(float), "sigma": np.asfortranarray(X.astype(float))},
        "n": np.float32(2),
    }
    content["wide"], content["big"] = X.astype(jnp.bfloat16), X.astype(">f4")
    (tmp_path / "s.pkl").write_bytes(pickle.dumps(content, protocol))
    found = foreign.read(tmp_path / "s.pkl")
    assert set(found) == {"num_images", "fid/mu", "fid/sigma", "n", "wide", "big"} and found["wide"].dtype == jnp.bfloat16
    for name, array in {"fid/mu": X[0], "fid/sigma": X, "n": np.array(2), "wide": X, "big": X}.items():
        np.testing.assert_array_equal(found[name].astype(np.float32), array)


def test_msgpack_of_flax(tmp_path, monkeypatch):
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 16)
    tree = {"params": {"kernel": X, "bias": X[0].astype(jnp.bfloat16)}, "step": np.int32(3), "rate": 0.5, "list": {"0": X[1]}}
    (tmp_path / "m.msgpack").write_bytes(flax.serialization.to_bytes(tree))
    found = foreign.read(tmp_path / "m.msgpack")
    assert set(found) == {"params/kernel", "params/bias", "step", "rate", "list/0"}
    np.testing.assert_array_equal(found["params/kernel"], X)
    assert found["params/bias"].dtype == jnp.bfloat16 and found["step"] == 3


def test_safetensors_are_written_and_read_again(tmp_path):
    arrays = {
        "a": X.astype(jnp.bfloat16),
        "b": np.arange(3, dtype=np.uint8),
        "c": X.T,
        "d": np.float64(2.5),
        "e": X.astype(">f4"),
    }
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    foreign.write(tmp_path / "w.safetensors", arrays)
    np.savez(tmp_path / "w.npz", b=arrays["b"], c=arrays["c"])
    assert int.from_bytes((tmp_path / "w.safetensors").read_bytes()[:8], "little") % 8 == 0
    for found in (foreign.read(tmp_path / "w.safetensors"), opening.safetensors(tmp_path / "w.safetensors", "")):
        assert set(found) == set(arrays)
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype.newbyteorder("=") and np.array_equal(found[name], array)
    assert set(foreign.read(tmp_path / "w.npz")) == {"b", "c"}
    with pytest.raises(typing.InputError, match="a has the type complex128"):
        foreign.write(tmp_path / "x.safetensors", {"a": np.zeros(2, complex)})
    assert [path.name for path in tmp_path.glob("x*")] == []


CALLS = {
    "a call of the system": b"cos\nsystem\n(X%s%stR.",
    "the same by its C name": b"cposix\nsystem\n(X%s%stR.",
    "a class that starts a process": b"csubprocess\nPopen\n(X%s%stR.",
    "code": b"cbuiltins\nexec\n(X%s%stR.",
    "code of Python 2": b"c__builtin__\neval\n(X%s%stR.",
    "an object made by a call": b"(cos\nsystem\nX%s%so.",
    "a way round": b"cbuiltins\ngetattr\n(cbuiltins\nobject\nX%s%stR.",
}


@pytest.mark.parametrize("what", CALLS)
@pytest.mark.parametrize("where", ["pickle", "torch", "legacy"])
def test_a_call_ends_the_reading_and_is_not_made(what, where, torch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = b"touch made"
    program = b"\x80\x02" + CALLS[what] % (struct.pack("<i", len(command)), command)
    path = tmp_path / "m.pt"
    if where == "torch":
        zipped(path, torch, {"a": tensor(torch, X, "0")}, **{"data.pkl": program})
    elif where == "legacy":
        legacy(path, torch, {"a": tensor(torch, X, "0")})
        content, _ = pickled(torch, {"a": tensor(torch, X, "0")}, view=(None,))
        path.write_bytes(path.read_bytes().replace(content, program))
    else:
        path.write_bytes(program)
    with pytest.raises(
        typing.InputError, match=r"m\.pt is damaged or something else \(it asks for '.*'.*; nothing of it was run\)"
    ):
        foreign.read(path)
    assert os.listdir(tmp_path) == ["m.pt"]


def test_a_call_of_what_is_not_known_is_not_made(torch, tmp_path):
    zipped(
        tmp_path / "m.pt",
        torch,
        {"a": tensor(torch, X, "0"), "b": Call(torch.dnnlib._reconstruct_persistent_obj, "touch made")},
    )
    assert set(foreign.read(tmp_path / "m.pt")) == {"a"}
    changed = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x05\x00\x00\x00valueK\x01s\x86b."
    zipped(tmp_path / "m.pt", torch, {}, **{"data.pkl": changed})
    with pytest.raises(typing.InputError, match="it changes a function"):
        foreign.read(tmp_path / "m.pt")


def nested(levels):
    tree = [1.0]
    for _ in range(levels):
        tree = [tree, tree]
    return tree


def lies(torch):
    a = tensor(torch, X, "0")
    part = lambda **about: {"a": tensor(torch, X, "0", **about)}
    return {
        "its bytes are missing": ({"a": a}, {"data/0": None}, "it lacks 'model/data/0'"),
        "its bytes end early": ({"a": a}, {"data/0": X.tobytes()[:-1]}, "takes 48 bytes, and 47 are there"),
        "its bytes are of another type": ({"a": a}, {"data/0": X.astype(np.float16).tobytes()}, "takes 48 bytes, and 24"),
        "beyond the end": (part(offset=1), {}, "lies beyond the end of its storage of 12 numbers"),
        "strides beyond the end": (part(strides=(5, 1)), {}, "lies beyond the end"),
        "negative": (part(offset=-1), {}, r"has the shape \(-1,\)"),
        "repeated": (part(shape=(10**6, 10**6), strides=(0, 0)), {}, "repeats its storage"),
        "no pickle": ({"a": a}, {"data.pkl": b"\x80\x02X\xff\xff\xff\x7f"}, "m.pt is damaged"),
        "other bytes": ({"a": a}, {"byteorder": b"big"}, "another machine"),
        "no tensors": ({"a": "text"}, {}, "it holds no array"),
        "another kind": ({"a": Call(torch.torch__utils._rebuild_qtensor, 1)}, {}, "tensors of a kind that is not read"),
        "many": ({"a": nested(40)}, {}, "more than 1,000,000 entries"),
        "deep": ({"a": tree_of(200)}, {}, "more than 100 deep"),
        "one name twice": ({"a": {"b": 1.0}, "a/b": 2.0}, {}, "two of its arrays have the name 'a/b'"),
    }


def tree_of(depth):
    tree = {"x": 1.0}
    for _ in range(depth):
        tree = {"x": tree}
    return tree


def test_files_of_torch_that_lie(torch, tmp_path, monkeypatch):
    monkeypatch.setattr(trees, "MOST", 2_000)
    for what, (content, changes, message) in lies(torch).items():
        zipped(tmp_path / "m.pt", torch, content, **changes)
        with pytest.raises(typing.InputError, match=message.replace("1,000,000", "2,000")) as caught:
            foreign.read(tmp_path / "m.pt")
        assert "\n" not in str(caught.value) and "expected weights as" in str(caught.value), what
    legacy(tmp_path / "m.pt", torch, {"a": tensor(torch, X, "0")})
    whole = (tmp_path / "m.pt").read_bytes()
    for content in (
        whole[:-1],
        whole[:-60],
        whole[:200],
        whole[:30],
        whole.replace(struct.pack("<q", 12), struct.pack("<q", 13)),
    ):
        (tmp_path / "m.pt").write_bytes(content)
        with pytest.raises(typing.InputError, match="is damaged or something else"):
            foreign.read(tmp_path / "m.pt")


def array_in_msgpack(shape, dtype, data):
    import msgpack

    return msgpack.packb({"a": msgpack.ExtType(1, msgpack.packb((shape, dtype, data)))})


def test_other_files_that_lie(tmp_path):
    with tarfile.open(tmp_path / "up.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("../up.npy"), io.BytesIO())
    with zipfile.ZipFile(tmp_path / "up.zip", "w") as archive:
        archive.writestr("../up.npy", "x")
    whole = array_in_msgpack([3, 4], "float32", X.tobytes())
    written = {
        "short.msgpack": whole[:-5],
        "shape.msgpack": array_in_msgpack([10**9, 10**9], "float32", X.tobytes()),
        "object.msgpack": array_in_msgpack([6], "object", X.tobytes()),
        "no.msgpack": array_in_msgpack([-3, 4], "float32", X.tobytes()),
        "empty": b"",
        "text": b"a line of text",
        "object.pkl": pickle.dumps({"a": np.array([None, 1])}),
        "memo.pkl": b"\x80\x02r\xff\xff\xff\x7f.",
    }
    for name, content in written.items():
        (tmp_path / name).write_bytes(content)
    np.savez(tmp_path / "object.npz", a=np.array([None]))
    before = {path.name for path in tmp_path.iterdir()}
    for name in (*before, "missing", "."):
        with pytest.raises(typing.InputError) as caught:
            foreign.read(tmp_path / name)
        assert "\n" not in str(caught.value) and "expected weights as" in str(caught.value), name
    assert {path.name for path in tmp_path.iterdir()} == before and not (tmp_path.parent / "up.npy").exists()


@pytest.mark.slow
def test_the_script_writes_a_part_once(torch, tmp_path):
    zipped(tmp_path / "m.pt", torch, state(torch))

    def convert(*flags):
        command = [sys.executable, "-m", "experiments.convert", f"--input={tmp_path}/m.pt", *flags]
        return subprocess.run(command, cwd=pathlib.Path(__file__).parents[1], capture_output=True, text=True)

    done = convert(f"--output={tmp_path}/m.safetensors", "--below=model")
    assert "a.bias: bfloat16 [4]" in done.stdout and "7 arrays, 36 numbers, written" in done.stdout, done.stderr
    assert set(foreign.read(tmp_path / "m.safetensors")) == {name for name in state(torch)["model"]}
    for flags, said in (
        ((f"--output={tmp_path}/m.safetensors", "--below=model"), "exists already; expected a new file"),
        (("--below=ema",), "no array below 'ema'; the first parts of the names are args, epoch, model"),
    ):
        refused = convert(*flags)
        assert refused.returncode == 2 and said in refused.stderr


def test_folders_of_flax_and_orbax_are_read_at_their_newest_checkpoint(tmp_path):
    import orbax.checkpoint as ocp

    tree = {"params": {"Dense_0": {"kernel": X, "bias": X[0].astype(jnp.bfloat16)}}, "step": np.int32(7)}
    older = {"params": {"Dense_0": {"kernel": X + 1, "bias": X[0].astype(jnp.bfloat16)}}, "step": np.int32(3)}
    with ocp.PyTreeCheckpointer() as newer:
        newer.save(tmp_path / "manager" / "12" / "default", tree)
        newer.save(tmp_path / "manager" / "3" / "default", older)
        newer.save(tmp_path / "orbax", tree)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as apart:
        apart.save(tmp_path / "flax_orbax" / "checkpoint_20", tree)
    (tmp_path / "flax").mkdir()
    (tmp_path / "flax" / "checkpoint_9").write_bytes(flax.serialization.to_bytes(older))
    (tmp_path / "flax" / "checkpoint_10").write_bytes(flax.serialization.to_bytes(tree))
    for name in ("orbax", "manager", "flax_orbax", "flax"):
        arrays = foreign.read(tmp_path / name)
        assert set(arrays) == {"params/Dense_0/kernel", "params/Dense_0/bias", "step"}, name
        np.testing.assert_array_equal(arrays["params/Dense_0/kernel"], X)
        assert arrays["params/Dense_0/bias"].dtype == jnp.bfloat16 and arrays["step"] == 7
    (tmp_path / "empty").mkdir()
    with pytest.raises(typing.InputError, match="empty is damaged or something else .it is a folder without a checkpoint"):
        foreign.read(tmp_path / "empty")
    for file in (tmp_path / "orbax").rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(file.read_bytes()[:10])
    with pytest.raises(typing.InputError, match="orbax is damaged or something else") as caught:
        foreign.read(tmp_path / "orbax")
    assert "\n" not in str(caught.value)
