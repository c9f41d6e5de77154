"""Files from elsewhere that are broken: each ends in one sentence that names the file and what it should have been."""

import json
import os
import pathlib
import random
import warnings
import zipfile

import numpy as np
import pytest

from configs import method
from flowjax import folders, foreign, opening, training, typing
from flowjax.data import couplings, pipeline, stored
from flowjax.evaluation import generation
from flowjax.models import published


def safetensors(arrays, **changes):
    """The bytes of a .safetensors file; `changes` replace entries of the header, or, as `header`, all of it."""
    header, data = {}, b""
    for name, array in arrays.items():
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [len(data), len(data) + array.nbytes]}
        data += array.tobytes()
    header = changes.pop("header", {**header, **changes})
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


ARRAYS = {"a/b": np.ones((2, 3), np.float32), "c": np.zeros(4, np.float32)}
ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
HEADERS = {
    "a list": {"header": []},
    "a number": {"header": 3},
    "a text": {"header": "x"},
    "null": {"header": None},
    "no JSON": {"header": b"{"},
    "nested without end": {"header": b"[" * 100_000},
    "two of one name": {"header": b'{"a": 1, "a": 2}'},
    "no entry": {"c": 3},
    "an unknown type": {"c": {**ENTRY, "dtype": "F8"}},
    "a shape that does not fit": {"c": {"dtype": "F32", "shape": [5], "data_offsets": [24, 40]}},
    "a negative shape": {"c": {"dtype": "F32", "shape": [-4], "data_offsets": [24, 40]}},
    "arrays that overlap": {"c": {"dtype": "F32", "shape": [4], "data_offsets": [20, 36]}},
    "offsets beyond the end": {"c": {"dtype": "F32", "shape": [10**6], "data_offsets": [24, 24 + 4 * 10**6]}},
    "names that clash": {"header": {"a": ENTRY, "a/b": {"dtype": "F32", "shape": [4], "data_offsets": [24, 40]}}},
}


@pytest.mark.parametrize("what", HEADERS)
def test_headers_of_safetensors(what, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(safetensors(ARRAYS, **HEADERS[what]))
    with pytest.raises(
        typing.InputError, match=r"w\.safetensors is damaged or something else \(.*\); expected weights as \.npz"
    ):
        published.read(tmp_path / "w.safetensors")


def write_npz(path, **entries):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def test_archives_that_are_broken(tmp_path):
    path = tmp_path / "w.npz"
    np.savez(path, **ARRAYS)
    whole = path.read_bytes()
    lying = whole.replace(b"(2, 3)", b"(9, 9)")  # its header claims more than there is
    huge = whole.replace(b"'shape': (2, 3), ", b"'shape': (9**9,),")
    flipped = bytearray(whole)
    flipped[whole.index(np.float32(1).tobytes())] ^= 1  # only the checksum of the archive shows it
    for content in (b"", whole[:100], whole[: len(whole) // 2], whole[:-30], b"x" * 500, lying, huge, bytes(flipped)):
        path.write_bytes(content)
        with pytest.raises(typing.InputError, match=r"w\.npz is damaged or something else \(.*\); expected weights as \.npz"):
            published.read(path)
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("a.npy", "x")
        archive.writestr("a.npy", "y")
    with pytest.raises(typing.InputError, match="two of its arrays have one name"):
        published.read(path)
    np.savez(path, **{"a": np.ones(2), "a/b": np.ones(2)})
    with pytest.raises(typing.InputError, match="clash"):
        published.read(path)
    np.savez(path, a=np.array([np.nan]))
    with pytest.raises(typing.InputError, match="'a' holds values that are not finite"):
        published.read(path)


def test_no_cut_and_no_flip_of_an_archive_is_accepted_with_other_content(tmp_path):
    path, rng = tmp_path / "w.npz", random.Random(0)
    np.savez(path, **ARRAYS)
    whole = path.read_bytes()
    for _ in range(150):
        content = bytearray(whole)
        if rng.random() < 0.3:
            del content[rng.randrange(len(whole)) :]
        else:
            content[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        try:
            arrays = opening.npz(path, "arrays")
        except typing.InputError as error:
            assert "w.npz" in str(error) and "\n" not in str(error)
        else:
            kept = {name: array for name, array in arrays.items() if name in ARRAYS}
            for name, array in kept.items():
                np.testing.assert_array_equal(array, ARRAYS[name])


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", "null", "3", "{", '{"count": 1', "\xff", '{"count": NaN}', '{"a": 1, "a": 2}', "[" * 10**5]
)
def test_descriptions_that_are_broken(content, tmp_path):
    (tmp_path / folders.ABOUT).write_bytes(content.encode("latin-1"))
    like = pipeline.Source("points", 4, (2,), 0, None)
    for read in (lambda: couplings.trajectories(str(tmp_path), like), lambda: generation.about(tmp_path)):
        with pytest.raises(
            typing.InputError, match=r"about\.json is damaged or something else \(.*\); expected the description of"
        ):
            read()


@pytest.fixture
def written(tmp_path):
    """A folder of trajectories."""
    about = {"count": 6, "times": [1.0, 0.0], "shape": [2], "num_classes": 0}
    rows = np.random.default_rng(0).standard_normal((6, 2, 2)).astype(np.float32)
    list(
        couplings.write(
            tmp_path / "t", about, lambda start: (rows[start : start + 4], np.full(len(rows[start : start + 4]), -1))
        )
    )
    return tmp_path / "t"


def damages(folder):
    for name in (couplings.TRAJECTORY, couplings.LABEL, folders.ABOUT):
        content = (folder / name).read_bytes()
        for place in (len(content) - 1, len(content) // 2, 10):
            flipped = bytearray(content)
            flipped[place] ^= 4
            yield name, bytes(flipped)
        yield name, content[:-3]
        yield name, content[: len(content) // 2]
        yield name, b""
        yield name, None


def test_trajectories_that_are_damaged_are_not_learned_from(written):
    like = pipeline.Source("points", 4, (2,), 0, None)
    couplings.trajectories(str(written), like)
    for name, content in damages(written):
        whole = (written / name).read_bytes()
        (written / name).unlink()
        if content is not None:
            (written / name).write_bytes(content)
        with pytest.raises(typing.InputError):
            couplings.trajectories(str(written), like)
        (written / name).write_bytes(whole)
    couplings.trajectories(str(written), like)


def test_folders_links_and_names_in_the_place_of_files(tmp_path):
    os.symlink("/nowhere/at/all", tmp_path / "link.npz")
    (tmp_path / "folder.npz").mkdir()
    for path in (tmp_path / "link.npz", tmp_path / "folder.npz", tmp_path / ("x" * 300 + ".npz")):
        with pytest.raises(typing.InputError, match=r"expected weights as \.npz"):
            published.read(path)


@pytest.mark.parametrize("read", [opening.json_object, opening.npz, opening.npy, opening.safetensors, opening.checksum])
def test_pipes_devices_and_links_without_end_are_not_read(read, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    os.symlink("/dev/zero", tmp_path / "zeros")
    os.symlink("loop", tmp_path / "loop")
    for name in ("pipe", "zeros", "loop"):
        with pytest.raises(
            typing.InputError, match=rf"{name} (is damaged.*neither a file nor a folder|cannot be read).*; expected a file"
        ):
            read(tmp_path / name, "a file")


@pytest.mark.parametrize("times", [[1.0, 0.5, 0.7, 0.0], [0.0, 1.0], [1.0, 0.5], [1.0, "0.5", 0.0], [1.0], [1, 0]])
def test_times_of_trajectories_fall_from_one_to_zero(written, times):
    about = json.loads((written / folders.ABOUT).read_text())
    del about["checksum"]
    (written / folders.ABOUT).write_text(json.dumps({**about, "times": times}))
    with pytest.raises(typing.InputError, match="its 'times' is"):
        couplings.trajectories(str(written), pipeline.Source("points", 4, (2,), 0, None))


def test_a_description_that_claims_more_files_than_any_disk_has_is_answered_at_once(tmp_path):
    facts = {
        "count": 2**40, "shard": 1, "shape": [2], "dtype": "float32", "run": "r", "data": "d", "steps": 1, "sampler": "euler", "average": "",
        "guidance": None, "interval": [],
    }  # fmt: skip
    (tmp_path / folders.ABOUT).write_text(json.dumps(facts))
    with pytest.raises(typing.InputError, match="lacks shard_00000.npz; the command that began it continues"):
        generation.read(tmp_path)


@pytest.mark.parametrize("address", ["az://bucket/run", "http://host/run"])
def test_other_addresses_are_refused(address, tmp_path, monkeypatch):
    """As folders and as files, also where pathlib took one slash of them; nothing is made of that name."""
    monkeypatch.chdir(tmp_path)
    calls = [
        lambda: training.train(method.get_config("meanflow,test"), address),
        lambda: training.load(address),
        lambda: folders.check_path(pathlib.Path(address), "--output"),
        lambda: foreign.read(f"{address}.safetensors"),
        lambda: stored.source("imagenet256", data_dir=address),
    ]
    for call in calls:
        with pytest.raises(typing.InputError, match=rf"{address}.* is no folder or file of this machine, nor in a bucket"):
            call()
    assert not list(tmp_path.iterdir())
