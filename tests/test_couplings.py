"""Couplings of noise with data: optimal transport in the stream, trajectories in folders, as a trained run writes them."""

import itertools
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize
from support import small

from flowjax import data, folders, typing
from flowjax.data import couplings, points, trajectories as exact_trajectories, transport
from flowjax.evaluation import trajectories
from flowjax.methods import draws
from flowjax.training import loading, loop, runs, settings

ROOT = pathlib.Path(__file__).parents[1]
RNG = np.random.default_rng(0)
VALUES = RNG.standard_normal((2000, 2)).astype(np.float32) * 2
LABELS = (np.arange(2000) % 3).astype(np.int32)
PLAIN = data.Source("plain", 2000, (2,), 0, lambda ids: {"x": VALUES[ids]})
LABELLED = data.Source("labelled", 2000, (2,), 3, lambda ids: {"x": VALUES[ids], "label": LABELS[ids]})


def first(source, count, **settings):
    return list(itertools.islice(data.batches(source, **{"seed": 0, **settings}), count))


def cost(x, eps):
    return float(((x.astype(np.float64) - eps) ** 2).sum())


def ordered(rows):
    rows = rows.reshape(len(rows), -1)
    return rows[np.lexsort(rows.T)]


def sentence(call, *args, **kwargs):
    with pytest.raises(typing.InputError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


# Optimal transport


@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_the_assignment_is_the_cheapest_of_all_permutations(n):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        x, eps = rng.standard_normal((n, 2, 1)).astype(np.float32) + 3, rng.standard_normal((n, 2, 1)).astype(np.float32)
        least = min(cost(x, eps[list(order)]) for order in itertools.permutations(range(n)))
        result = transport.assigned(x, eps)
        assert result.dtype == eps.dtype and cost(x, result) == pytest.approx(least, rel=1e-5)


def test_the_assignment_is_a_permutation_as_cheap_as_the_one_on_squared_distances():
    x, eps = VALUES[:200], RNG.standard_normal((200, 2)).astype(np.float32)
    result = transport.assigned(x, eps)
    np.testing.assert_array_equal(ordered(result), ordered(eps))
    squared = ((x[:, None].astype(np.float64) - eps[None]) ** 2).sum(-1)
    least = squared[optimize.linear_sum_assignment(squared)].sum()
    assert cost(x, result) == pytest.approx(least, rel=1e-5) and cost(x, result) < 0.8 * cost(x, eps)


def test_rows_exchange_noise_with_rows_of_their_label_only():
    x, eps, label = VALUES[:90], RNG.standard_normal((90, 2)).astype(np.float32), LABELS[:90]
    result = transport.assigned(x, eps, label)
    for one in range(3):
        own = label == one
        np.testing.assert_array_equal(result[own], transport.assigned(x[own], eps[own]))
        np.testing.assert_array_equal(ordered(result[own]), ordered(eps[own]))
    assert cost(x, transport.assigned(x, eps)) < cost(x, result) < cost(x, eps)


def test_groups_do_not_exchange_noise():
    noise = transport.noise(VALUES[:600], None, seed=3, batch=5, first=256)
    assert noise.shape == (600, 2) and noise.dtype == np.float32
    for lo in (0, 256, 512):
        rows = slice(lo, min(lo + 256, 600))
        np.testing.assert_array_equal(noise[rows], transport.noise(VALUES[:600][rows], None, seed=3, batch=5, first=256 + lo))
        other = transport.noise(VALUES[:600][rows], None, seed=3, batch=6, first=256 + lo)
        assert not set(noise[rows, 0].tolist()) & set(other[:, 0].tolist())
    assert len(np.unique(noise)) > 1190  # no two groups have the same noise


# The stream


@pytest.mark.parametrize("source", [PLAIN, LABELLED], ids=["plain", "labelled"])
def test_the_stream_brings_transported_noise(source):
    source, plain = data.couple(source, "ot"), source
    batches = first(source, 3, batch_size=640)
    for batch, row in zip(batches, first(plain, 3, batch_size=640), strict=True):
        np.testing.assert_array_equal(batch["x"], row["x"])
        assert set(batch) == {*row, "eps"} and batch["eps"].shape == (640, 2) and batch["eps"].dtype == np.float32
        for lo in (0, 256, 512):  # the noise is that of these groups, and the cheapest in them
            rows = slice(lo, lo + 256)
            label = batch["label"][rows] if "label" in batch else None
            again = transport.assigned(batch["x"][rows], batch["eps"][rows], label)
            assert cost(batch["x"][rows], again) == pytest.approx(cost(batch["x"][rows], batch["eps"][rows]), rel=1e-5)
    x, eps = (np.concatenate([batch[name] for batch in batches]) for name in ("x", "eps"))
    independent = ((x - np.random.default_rng(1).standard_normal(x.shape)) ** 2).sum(1).mean()  # about 2 (4 + 1)
    assert 9 < independent < 11 and ((x - eps) ** 2).sum(1).mean() < 0.4 * independent  # transport: about 2 (2 - 1)^2
    assert len(np.unique(eps)) > 0.99 * eps.size  # it is new in each batch
    # The noise alone is standard normal: within five standard errors.
    assert (np.abs(eps.mean(0)) < 5 / np.sqrt(len(eps))).all()
    assert (np.abs(np.cov(eps.T) - np.eye(2)) < 5 * np.sqrt(2 / len(eps))).all()


def test_labels_are_respected_in_the_stream():
    batch = first(data.couple(LABELLED, "ot"), 1, batch_size=256)[0]
    drawn = np.random.default_rng((0, 0, 0, transport.GROUP)).standard_normal((256, 2), np.float32)
    for one in range(3):  # before the assignment, row i had the noise i
        own = batch["label"] == one
        np.testing.assert_array_equal(ordered(batch["eps"][own]), ordered(drawn[own]))


def test_transport_is_the_same_again_and_from_a_later_step():
    source = data.couple(PLAIN, "ot")
    whole = first(source, 5, batch_size=300, seed=7)
    for again in (
        first(source, 5, batch_size=300, seed=7, prefetch=0),
        [*whole[:3], *first(source, 2, batch_size=300, seed=7, start=3)],
    ):
        for one, other in zip(whole, again, strict=True):
            np.testing.assert_array_equal(one["x"], other["x"])
            np.testing.assert_array_equal(one["eps"], other["eps"])
    assert not np.array_equal(whole[0]["eps"], first(source, 1, batch_size=300, seed=8)[0]["eps"])


@pytest.mark.parametrize(("batch_size", "processes"), [(512, 2), (640, 5), (640, 4), (1200, 4), (24, 2)])
def test_hosts_share_one_transport(batch_size, processes):
    source = data.couple(LABELLED, "ot")
    whole = first(source, 2, batch_size=batch_size, prefetch=0)
    parts = [first(source, 2, batch_size=batch_size, processes=processes, process=p, prefetch=0) for p in range(processes)]
    for k, batch in enumerate(whole):
        for name, value in batch.items():
            np.testing.assert_array_equal(value, np.concatenate([part[k][name] for part in parts]))


def test_flipped_images_are_transported_as_they_are_seen():
    pixels = RNG.integers(0, 256, (64, 4, 4, 1)).astype(np.uint8)
    source = data.couple(data.Source("images", 64, (4, 4, 1), 0, lambda ids: {"x": pixels[ids]}), "ot")
    batch = first(source, 1, batch_size=64, flip=True)[0]
    assert batch["x"].min() >= -1 and batch["eps"].shape == (64, 4, 4, 1)
    again = transport.assigned(batch["x"], batch["eps"])
    assert cost(batch["x"], again) == pytest.approx(cost(batch["x"], batch["eps"]), rel=1e-5)
    coupled = couplings.recorded("pairs", np.zeros((4, 2, 4, 4, 1), np.float32), None, np.array([1.0, 0.0]))
    assert "set flip=False" in sentence(data.check, coupled, batch_size=4, seed=0, flip=True)


# Folders of trajectories

WAYS = RNG.standard_normal((10, 3, 2)).astype(np.float32)
OWN_LABELS = (np.arange(10) % 3).astype(np.int32)
ABOUT = {"count": 10, "times": [1.0, 0.5, 0.0], "shape": [2], "num_classes": 3, "seed": 4}


def part(start, size=4):
    return WAYS[start : start + size], OWN_LABELS[start : start + size]


def files(folder):
    return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}


@pytest.fixture
def folder(tmp_path):
    assert list(couplings.write(str(tmp_path / "ways"), ABOUT, part)) == [4, 8, 10]
    return str(tmp_path / "ways")


def test_what_is_written_is_read(folder):
    source = data.couple(LABELLED, folder)
    assert (source.size, source.shape, source.num_classes, source.coupled, source.coupling) == (10, (2,), 3, True, "")
    ids = np.array([7, 0, 7])
    rows = source.rows(ids)
    np.testing.assert_array_equal(rows["trajectory"], WAYS[ids])
    np.testing.assert_array_equal(rows["eps"], WAYS[ids, 0])
    np.testing.assert_array_equal(rows["x"], WAYS[ids, -1])
    np.testing.assert_array_equal(rows["times"], np.tile(np.float32([1, 0.5, 0]), (3, 1)))
    np.testing.assert_array_equal(rows["label"], OWN_LABELS[ids])
    for name in ("trajectory.npy", "label.npy"):
        assert len(np.load(pathlib.Path(folder) / name, allow_pickle=False)) == 10
    about = folders.read_about(folder, "")
    assert set(about.pop("checksums")) == {"trajectory.npy", "label.npy"} and about == {**ABOUT, "done": 10}
    batch = first(source, 1, batch_size=10)[0]  # each row keeps its own noise in the stream
    order = [int(np.flatnonzero((WAYS[:, -1] == x).all(1))[0]) for x in batch["x"]]
    assert sorted(order) == list(range(10)) and order != sorted(order)
    np.testing.assert_array_equal(batch["trajectory"], WAYS[order])
    np.testing.assert_array_equal(batch["eps"], WAYS[order, 0])
    np.testing.assert_array_equal(batch["label"], OWN_LABELS[order])


def test_pairs_of_unlabelled_points_are_x_and_eps_alone(tmp_path):
    about = {**ABOUT, "times": [1.0, 0.0], "num_classes": 0}
    list(couplings.write(str(tmp_path), about, lambda start: (WAYS[start:, ::2], np.full(10 - start, -1))))
    rows = data.couple(PLAIN, str(tmp_path)).rows(np.arange(10))
    assert set(rows) == {"x", "eps"}
    np.testing.assert_array_equal(rows["x"], WAYS[:, 2])
    np.testing.assert_array_equal(rows["eps"], WAYS[:, 0])


def killed_between_parts(path):
    for _ in couplings.write(path, ABOUT, part):
        break


def killed_in_a_part(path):
    def breaks(start):
        if start:
            raise KeyboardInterrupt
        return part(start)

    with pytest.raises(KeyboardInterrupt):
        list(couplings.write(path, ABOUT, breaks))


def killed_while_a_part_is_written(path):
    killed_between_parts(path)
    np.lib.format.open_memmap(pathlib.Path(path) / "trajectory.npy", "r+")[4:6] = 9.0


def killed_before_the_arrays_are_there(path):
    make = np.lib.format.open_memmap

    def breaks(name, *rest):
        if name.name == "label.npy":
            raise KeyboardInterrupt
        return make(name, *rest)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(np.lib.format, "open_memmap", breaks)
        list(couplings.write(path, ABOUT, part))


KILLED = [killed_between_parts, killed_in_a_part, killed_while_a_part_is_written, killed_before_the_arrays_are_there]


@pytest.mark.parametrize("killed", KILLED)
def test_a_killed_call_goes_on_to_the_same_bytes(killed, folder, tmp_path):
    path = str(tmp_path / "killed")
    killed(path)
    starts = []
    list(couplings.write(path, ABOUT, lambda start: starts.append(start) or part(start)))
    assert starts == ([0, 4, 8] if killed is killed_before_the_arrays_are_there else [4, 8])
    assert files(path) == files(folder) and set(files(path)) == {"trajectory.npy", "label.npy", "about.json"}
    before = files(path)
    assert list(couplings.write(path, ABOUT, lambda start: pytest.fail("there is nothing to do"))) == []
    assert files(path) == before


def test_a_folder_that_cannot_be_a_coupling_is_refused(folder, tmp_path):
    assert (
        "no folder of trajectories" in (message := sentence(data.couple, LABELLED, "oot")) and "experiments.reflow" in message
    )
    killed_between_parts(str(tmp_path / "half"))
    assert "holds 4 of 10 rows" in sentence(data.couple, LABELLED, str(tmp_path / "half"))
    message = sentence(data.couple, PLAIN, folder)
    assert "rows of shape (2,) with 3 classes; plain has (2,) with 0." in message
    assert "(3,)" in sentence(data.couple, LABELLED._replace(shape=(3,)), folder)
    message = sentence(data.couple, data.couple(LABELLED, folder), "ot")
    assert "already pairs its rows" in message and message.endswith("--config.data.coupling=.")
    assert data.couple(data.couple(LABELLED, folder), "").coupled and not data.couple(LABELLED, "").coupled


def test_a_folder_of_something_else_is_left_alone(folder, tmp_path):
    before = files(folder)
    message = sentence(lambda: list(couplings.write(folder, {**ABOUT, "seed": 5}, part, "--out")))
    assert message == f"--out={folder} holds other trajectories (seed: 4 there, 5 now); give another folder."
    assert "count: 10 there, 12 now" in sentence(lambda: list(couplings.write(folder, {**ABOUT, "count": 12}, part)))
    assert files(folder) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    for path in (tmp_path / "mine", tmp_path / "mine" / "notes.txt"):
        assert "is not empty and holds no about.json" in sentence(
            lambda path=path: list(couplings.write(str(path), ABOUT, part))
        )
    assert files(tmp_path / "mine") == {"notes.txt": b"mine"}


# Trajectories of known velocities


@pytest.mark.slow
def test_the_pairs_of_the_checkerboard_are_the_ends_of_its_trajectories(monkeypatch):
    assert exact_trajectories.TRAJECTORIES == 2**16
    monkeypatch.setattr(exact_trajectories, "TRAJECTORIES", 2**10)  # these many are made in seconds
    pairs, ways = data.load("checkerboard_pairs"), data.load("checkerboard_trajectories")
    assert pairs.size == ways.size == 2**10 and pairs.coupled and ways.coupled
    two, all_ = pairs.rows(np.arange(2**10)), ways.rows(np.arange(2**10))
    assert set(two) == {"x", "eps"} and set(all_) == {"x", "eps", "trajectory", "times"}
    np.testing.assert_array_equal(two["eps"], all_["eps"])
    assert np.quantile(np.abs(two["x"] - all_["x"]).max(1), 0.999) < 1e-3  # a few start where the flow parts
    np.testing.assert_allclose(all_["times"][5], np.linspace(1, 0, 17), atol=1e-6)
    # Some of them walked here, without a scan or a compilation of the whole.
    x, v = jnp.asarray(two["eps"][:32]), jax.jit(points.VELOCITIES["checkerboard"])
    for step, s in enumerate(np.arange(64, 0, -1) / 64):
        if step % 4 == 0:
            error = np.abs(all_["trajectory"][:32, step // 4] - x).max(1)
            assert np.median(error) < 1e-4 and np.quantile(error, 0.9) < 1e-2
        slope = v(x, jnp.float32(s))
        x = x - (slope + v(x - slope / 64, jnp.float32(s - 1 / 64))) / 128
    assert np.quantile(np.abs(two["x"][:32] - x).max(1), 0.9) < 1e-2
    near = np.abs(two["x"]).max(1) < 2.1
    squares = np.floor(two["x"]).astype(int).sum(1) % 2 == 0
    assert near.mean() > 0.99 and squares.mean() > 0.95
    assert not data.load("checkerboard_trajectories", split="test").coupled


# Trajectories of a run


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The folder of a short run of flow matching; its velocity bends with x and t."""
    path = tmp_path_factory.mktemp("teacher")
    loop.train(small("flow_matching", steps=60), path, devices=jax.devices()[:1])
    return str(path)


def arrays(path):
    return [np.load(pathlib.Path(path) / name, allow_pickle=False) for name in ("trajectory.npy", "label.npy")]


def walked(run, noise, steps, solver):
    """Every point of the ODE's way, by a loop over its steps."""
    ask = jax.jit(lambda x, t: run.net.apply({"params": run.params}, x, t, t, {}))
    x, h, way = noise.astype(np.float64), 1 / steps, [noise]
    for step in range(steps):
        s = 1 - step * h
        v = lambda x, t: np.asarray(ask(jnp.asarray(x, jnp.float32), jnp.float32(t)), np.float64)
        slope = v(x, s)
        x = x - h * (slope if solver == "euler" else (slope + v(x - h * slope, s - h)) / 2)
        way.append(x)
    return np.stack(way, axis=1)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_the_points_of_a_run_lie_on_the_solvers_way(solver, teacher, tmp_path):
    trajectories.write(teacher, str(tmp_path / "ends"), num=20, steps=8, solver=solver, part=8)
    trajectories.write(teacher, str(tmp_path / "five"), num=20, steps=8, points=5, solver=solver, part=32)
    (ends, label), (five, _) = arrays(tmp_path / "ends"), arrays(tmp_path / "five")
    assert ends.shape == (20, 2, 2) and five.shape == (20, 5, 2) and (label == -1).all()
    way = walked(loading.load(teacher), five[:, 0], 8, solver)
    np.testing.assert_allclose(five, way[:, ::2], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ends, way[:, ::8], rtol=1e-4, atol=1e-5)
    other = walked(loading.load(teacher), five[:, 0], 8, "heun" if solver == "euler" else "euler")
    assert np.abs(other - way).max() > 1e-3  # the solvers can be told apart
    assert len(np.unique(five[:, 0])) == 40 and np.abs(five[:, 0].mean()) < 0.8 and 0.6 < five[:, 0].std() < 1.4
    about = json.loads((tmp_path / "five" / "about.json").read_text())
    assert about["times"] == [1, 0.75, 0.5, 0.25, 0] and about["teacher_step"] == 60 and about["num_classes"] == 0


def test_a_row_depends_on_the_seed_and_its_number_alone(teacher, tmp_path):
    write = lambda name, **changes: trajectories.write(teacher, str(tmp_path / name), **{"num": 12, "steps": 4, **changes})
    for name, changes in {"whole": {}, "parts": {"part": 5}, "one": {"part": 1, "num": 3}, "seed": {"seed": 1}}.items():
        write(name, **changes)
    whole = arrays(tmp_path / "whole")[0]
    np.testing.assert_allclose(arrays(tmp_path / "parts")[0], whole, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(arrays(tmp_path / "one")[0], whole[:3], rtol=1e-5, atol=1e-5)
    assert not set(arrays(tmp_path / "seed")[0][:, 0, 0].tolist()) & set(whole[:, 0, 0].tolist())
    assert "seed: 0 there, 2 now" in sentence(write, "whole", seed=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num": 0}, "--num=0: expected at least 1"),
        ({"steps": 0}, "--steps=0"),
        ({"part": -1}, "--part=-1"),
        ({"points": 1}, "--points=1: expected 2"),
        ({"points": 6}, "--points=6"),
        ({"steps": 8, "points": 4}, "one less dividing --steps=8"),
        ({"solver": "eular"}, "did you mean euler"),
    ],
)
def test_numbers_that_do_not_fit_are_refused_before_anything_is_written(changes, message, teacher, tmp_path):
    assert message in sentence(trajectories.write, teacher, str(tmp_path / "out"), **{"num": 4, "steps": 4, **changes})
    assert not (tmp_path / "out").exists()


class Telling:
    """A network that says which label it was told."""

    def apply(self, variables, x, s, t, cond):
        return jnp.zeros_like(x) + cond["label"].astype(jnp.float32).reshape(-1, 1, 1, 1) + t


def test_labels_of_a_run_are_those_of_its_data(monkeypatch, tmp_path):
    run = loading.Trained(settings.read(small("flow_matching", "digits")), (8, 8, 1), 10, Telling(), {}, 2)
    monkeypatch.setattr(loading, "load", lambda workdir: run)
    trajectories.write("run", str(tmp_path), num=1510, steps=1, solver="euler", part=600)
    ways, label = arrays(tmp_path)
    own = data.arrays(data.load("digits"))["label"]
    np.testing.assert_array_equal(label, np.concatenate([own, own[:10]]))
    told = (ways[:, 0] - ways[:, 1] - 1).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(told, label, atol=1e-5)
    source, rows = data.couple(data.load("digits"), str(tmp_path)), np.array([1509, 3])
    assert source.num_classes == 10 and source.rows(rows)["label"].tolist() == label[rows].tolist()


# The script


def finish(module, *flags):
    command = [sys.executable, "-m", f"experiments.{module}", *flags]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    result = subprocess.run(command, cwd=ROOT, timeout=900, **output)
    return result.stdout, result.returncode


@pytest.mark.slow
def test_the_script_writes_a_coupling_that_a_method_trains_on(teacher, tmp_path):
    out = tmp_path / "pairs"
    output, code = finish("reflow", f"--workdir={teacher}", f"--output={out}", "--num=64", "--steps=4")
    assert code == 0 and f"64 trajectories in {out}: --config.data.coupling={out}" in output, output
    flags = ["--config.data.name=checkerboard", f"--config.data.coupling={out}", "--config.steps=3", "--config.eval_every=0"]
    output, code = finish(
        "train", "--config=configs/method.py:rectified_meanflow,test", *flags, f"--workdir={tmp_path / 'run'}"
    )
    assert code == 0 and loading.load(tmp_path / "run").step == 3, output
    run = runs.setup(small("rectified_meanflow", data={"name": "checkerboard", "dir": "", "flip": False, "coupling": str(out)}))
    np.testing.assert_array_equal(run.source.rows(np.arange(64))["eps"], arrays(out)[0][:, 0])


def test_a_bad_flag_of_the_script_ends_in_one_sentence(tmp_path):
    output, code = finish("reflow", f"--workdir={tmp_path}", f"--output={tmp_path / 'out'}", "--points=7")
    assert code == 2 and output.startswith("error: --points=7: expected 2") and len(output.strip().splitlines()) == 1, output
    assert not (tmp_path / "out").exists()


# Points of trajectories in recipes


def drawn(draw_times, n, known=(1.0, 0.7, 0.4, 0.0)):
    """(point, rows) on random trajectories whose points know their number: the first coordinate is row + number / 10."""
    way = np.random.default_rng(1).standard_normal((n, len(known), 2)).astype(np.float32)
    way[..., 0] = np.arange(n)[:, None] + np.arange(len(known)) / 10
    rows = {"x0": way[:, -1], "eps": way[:, 0], "cond": {}, "trajectory": way, "times": np.tile(np.float32(known), (n, 1))}
    rows = jax.tree.map(jnp.asarray, rows)
    return jax.jit(lambda rows: draws.on_trajectory(draw_times, jax.random.key(0), rows))(rows), rows


def test_points_are_two_different_ones_of_their_rows_trajectory():
    n, known = 400, np.float32([1.0, 0.7, 0.4, 0.0])
    draw = lambda key, n: dict(zip("st", jnp.sort(jax.random.uniform(key, (2, n)), axis=0)[::-1]))
    point, rows = drawn(draw, n)
    assert point.s.shape == point.t.shape == (n, 1) and (point.s > point.t).all()
    i, j = (np.abs(known - np.asarray(time)).argmin(1) for time in (point.s, point.t))
    np.testing.assert_array_equal(known[i], point.s[:, 0])
    np.testing.assert_array_equal(known[j], point.t[:, 0])
    row, way = np.arange(n), np.asarray(rows["trajectory"])
    np.testing.assert_array_equal(point.x, way[row, i])
    np.testing.assert_allclose(point.v, (way[row, j] - way[row, i]) / (known[j] - known[i])[:, None], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(point.x0, way[:, -1])
    np.testing.assert_array_equal(point.eps, way[:, 0])
    assert set(zip(i.tolist(), j.tolist())) == set(itertools.combinations(range(4), 2))


@pytest.mark.parametrize(
    ("s", "t", "expected"),
    [
        (1.0, 0.0, (0, 3)),
        (0.8, 0.45, (1, 2)),
        (0.72, 0.68, (1, 2)),
        (0.1, 0.05, (2, 3)),
        (0.99, 0.98, (0, 1)),
        (0.0, 0.0, (2, 3)),
    ],
)
def test_the_points_are_the_nearest_to_the_drawn_times_that_differ(s, t, expected):
    point, _ = drawn(lambda key, n: {"s": jnp.full((n,), s), "t": jnp.full((n,), t)}, 2)
    known = np.float32([1.0, 0.7, 0.4, 0.0])
    np.testing.assert_array_equal([point.s[1, 0], point.t[1, 0]], known[list(expected)])


def test_a_draw_without_its_trajectories_is_refused():
    draw = draws.with_trajectories(typing.Method(lambda key, batch, step: "drawn", None, (), {})).draw
    x = np.zeros((4, 2), np.float32)
    assert "--config.data.coupling=FOLDER" in sentence(draw, None, {"x": x, "eps": x}, 0)
    assert draw(None, {"x": x, "trajectory": x}, 0) == "drawn"


def test_a_method_of_trajectories_trains_on_a_folder(teacher, tmp_path):
    trajectories.write(teacher, str(tmp_path / "ways"), num=64, steps=4, points=5)
    where = {"name": "checkerboard", "dir": "", "flip": False, "coupling": str(tmp_path / "ways")}
    run = runs.setup(small("cmt", data=where), devices=jax.devices()[:1])
    batch = first(run.source, 1, batch_size=32)[0]
    for point in run.method.draw(jax.random.key(0), batch, 0).values():
        assert set(np.unique([point.s, point.t]).tolist()) == {0, 0.25, 0.5, 0.75, 1} and (point.s > point.t).all()
    pairs = {name: value for name, value in batch.items() if name not in ("trajectory", "times")}
    assert "trajectories, and the batch has none" in sentence(run.method.draw, jax.random.key(0), pairs, 0)
