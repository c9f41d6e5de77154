"""The table of what a run is worth: every combination, the floor and the noise, error bars, and what is shown of it."""

import csv
import types

import numpy as np
import pictures
import pytest

from configs import meanflow, method
from experiments import tables
from flowjax import data, evals, plots, training, typing
from flowjax.data import points
from flowjax.evaluation import generation, nearest, scores
from flowjax.training import sampling

MEASURES = ("sliced_wasserstein", "precision")


@pytest.fixture(scope="module", autouse=True)
def few_rows():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(points, "REFERENCE_ROWS", 1_000)
        patch.setattr(scores, "TRAINING_ROWS", 2_000)
        yield


@pytest.fixture(scope="module")
def points_run(tmp_path_factory, saved_run):
    return saved_run(meanflow.get_config("test"), tmp_path_factory.mktemp("points") / "run")


@pytest.fixture(scope="module")
def table(points_run):
    return scores.evaluate(
        points_run,
        (1, 3),
        num=300,
        averages=("0.999", "none"),
        sampler_names=("", "gamma:gamma=0.5", "heun"),
        measures=MEASURES,
        resamples=4,
    )


def test_every_combination_has_its_row_and_the_floor_and_noise_follow(table):
    rows, about = table
    assert len(rows) == 2 * 2 * 3 + 2
    assert {(row["steps"], row["sampler"], row["ema"]) for row in rows[:-2]} == {
        (n, name, ema) for n in (1, 3) for name in ("flow_map", "gamma:gamma=0.5", "heun") for ema in ("0.999", "none")
    }
    assert [row["what"] for row in rows[-2:]] == ["real, held out", "noise"]
    assert {row["sampler"]: row["evaluations"] for row in rows if row["steps"] == 3} == {
        "flow_map": 3,
        "gamma:gamma=0.5": 3,
        "heun": 6,
    }
    assert "300 samples against 1000 rows of checkerboard" in about
    values = {row["what"]: row["sliced_wasserstein"][0] for row in rows}
    assert values["real, held out"] < values["noise"]
    assert "1000 held-out ones against 1000 of training" in about


def test_a_number_is_the_measure_of_the_samples_and_has_an_error(points_run, table):
    run = training.load(points_run, "none")
    samples = sampling.make_sampler(run.net, run.shape, "heun")(run.params, 0, np.full(300, -1), 3)
    reference = data.arrays(data.load("checkerboard", split="test"), limit=1_000)["x"]
    row = next(row for row in table[0] if (row["steps"], row["sampler"], row["ema"]) == (3, "heun", "none"))
    value, error = row["sliced_wasserstein"]
    assert value == pytest.approx(evals.sliced_wasserstein(samples, reference), rel=1e-6)
    assert error == pytest.approx(evals.error_bar(evals.sliced_wasserstein, samples, reference, resamples=4), rel=1e-6)
    assert 0 < error < value
    assert all(0 <= row["precision"][0] <= 1 for row in table[0])


def test_what_differs_is_shown(table, tmp_path):
    rows, about = table
    assert list(scores.shown(rows)[0]) == ["what", "sampler", "ema", "evaluations", "rows", *MEASURES]
    alike = [row for row in rows if row["sampler"] in ("", "flow_map") and row["ema"] in ("", "none")]
    assert list(scores.shown(alike)[0]) == ["what", "rows", *MEASURES]
    text = tables.write(tmp_path / "table", rows, about, shown=scores.shown(alike))
    assert "| 3 steps | 300 | " in text and " ± " in text
    written = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert len(written) == len(rows)
    assert float(written[0]["precision"]) == rows[0]["precision"][0]
    assert float(written[0]["precision error"]) == rows[0]["precision"][1]


def test_curves_have_a_series_for_each_way_of_sampling(table, tmp_path):
    panels, references = scores.curves(table[0])
    assert list(panels) == list(MEASURES) == list(references)
    assert set(panels["precision"]) == {
        f"{name}, ema {ema}" for name in ("flow_map", "gamma:gamma=0.5", "heun") for ema in ("0.999", "none")
    }
    assert all([steps for steps, _, _ in series] == [1, 3] for series in panels["precision"].values())
    assert set(references["precision"]) == {"real, held out", "noise"}
    plots.measure_curves(tmp_path / "curves.png", panels, references=references, xlabel="steps")
    pictures.assert_colours(tmp_path / "curves.png", *plots.curves.COLOURS[:6], plots.canvas.RED)


def test_written_samples_are_measured_like_drawn_ones(points_run, tmp_path):
    generation.write(points_run, tmp_path / "samples", num=400, steps=3, average="none", shard=150)
    (read, *rest), _ = scores.evaluate(
        points_run, (1,), num=300, samples=str(tmp_path / "samples"), measures=MEASURES, resamples=0
    )
    (drawn, *_), _ = scores.evaluate(points_run, (3,), num=300, averages=("none",), measures=MEASURES, resamples=0)
    assert read["sliced_wasserstein"][0] == pytest.approx(drawn["sliced_wasserstein"][0], rel=1e-4)
    assert (read["what"], read["sampler"], read["ema"], read["rows"]) == ("3 steps", "flow_map", "none", 300)
    assert len(rest) == 2 and np.isnan(read["precision"][1])


@pytest.mark.slow
def test_a_student_of_a_guided_teacher_is_sampled_at_each_scale(tmp_path, flow_run, saved_run):
    config = method.get_config("ayf_emd,test")
    config.teacher, config.guidance.kind, config.guidance.weak = str(flow_run), "autoguidance", str(flow_run)
    config.guidance.scale = (1.0, 3.0)
    student = saved_run(config, tmp_path / "student")
    rows, _ = scores.evaluate(student, (1, 2), num=64, guidances=(1.0, 3.0), measures=("sliced_wasserstein",), resamples=0)
    assert [(row["steps"], row["guidance"]) for row in rows[:4]] == [(1, 1.0), (2, 1.0), (1, 3.0), (2, 3.0)]
    values = [row["sliced_wasserstein"][0] for row in rows[:4]]
    assert values[0] != values[2] and values[1] != values[3]
    assert list(scores.shown(rows)[0]) == ["what", "guidance", "rows", "sliced_wasserstein"]
    assert set(scores.curves(rows)[0]["sliced_wasserstein"]) == {"guidance 1.0", "guidance 3.0"}


@pytest.mark.slow
def test_all_measures_of_points(points_run):
    rows, _ = scores.evaluate(points_run, (1,), num=64, resamples=2)
    assert set(evals.measures.suited(("points",))) == {name for name, value in rows[0].items() if isinstance(value, tuple)}
    assert all(np.isfinite(value[0]) for row in rows for value in row.values() if isinstance(value, tuple))
    floor, noise = rows[-2], rows[-1]
    assert floor["copying"][0] == 0.5 and floor["nearest_distance"][0] > 0  # of training rows against themselves: 1 and 0
    assert all(floor[name][0] < noise[name][0] for name in ("wasserstein", "sinkhorn", "energy_distance", "mmd"))
    assert rows[0]["sinkhorn"][0] == pytest.approx(sinkhorn_of_64(points_run), rel=1e-6)


def sinkhorn_of_64(folder):
    """With the blur of the reference rows, as the floor and the noise."""
    run = training.load(folder)
    samples = sampling.make_sampler(run.net, run.shape)(run.params, 0, np.full(64, -1), 1)
    reference = data.arrays(data.load("checkerboard", split="test"), limit=1_000)["x"].astype(np.float64)
    epsilon = 0.05 * ((reference - reference.mean(axis=0)) ** 2).sum(axis=1).mean()
    return evals.sinkhorn(samples, reference, epsilon=epsilon)


@pytest.mark.slow
def test_all_measures_of_digits(digits_run):
    """The floor is held-out digits against those that were learned from, so that nothing is compared with itself."""
    with pytest.raises(typing.InputError, match="64 samples are too few for a Frechet distance in 64 dimensions: --num=65"):
        scores.evaluate(digits_run, (1,), num=64)
    rows, about = scores.evaluate(digits_run, (1,), num=100, resamples=2)
    assert set(evals.measures.suited(("pixels", "features"))) == {
        name for name, value in rows[0].items() if isinstance(value, tuple)
    }
    assert "100 samples against 1797 rows of digits; real rows: 297 held-out ones against 1500 of training" in about
    floor, noise = rows[-2], rows[-1]
    assert floor["agreement"][0] > 0.97 and floor["copying"][0] == 0.5 and floor["rows"] == 297
    assert noise["agreement"][0] < 0.5 and noise["copying"][0] == 0
    assert floor["frechet_features"][0] < noise["frechet_features"][0]
    load = lambda split: data.arrays(data.load("digits", split=split))["x"]
    assert floor["frechet_pixels"][0] == pytest.approx(evals.frechet(load("test"), load("train")), rel=1e-6)


BAD = {
    "too few samples": ({"num": 11}, "--num=11: the measures need at least 12"),
    "too few samples without halves": ({"num": 4, "resamples": 0}, "--num=4: the measures need at least 8"),
    "a suffix that it does not take": (
        {"measures": ("copying_features",)},
        "unknown measure 'copying_features'; did you mean copying",
    ),
    "unknown measure": ({"measures": ("recal",)}, "unknown measure 'recal'; did you mean recall"),
    "features of points": ({"measures": ("mmd_features",)}, "its features are those of a network, and the dataset names none"),
    "unknown sampler": ({"sampler_names": ("eule",)}, "did you mean euler"),
    "grid of other steps": ({"grid": "1,0.5,0"}, "--steps=2"),
    "no such average": ({"averages": ("0.5",)}, "no average '0.5'"),
    "guidance that was not learned": ({"guidances": (2.0,)}, "without guidance"),
    "no samples": ({"samples": "/nowhere"}, "--samples=/nowhere holds no about.json"),
}


def test_mistakes_have_a_sentence(points_run):
    for changes, sentence in BAD.values():
        with pytest.raises(typing.InputError, match=sentence):
            scores.evaluate(points_run, (1,), **changes)


def test_the_nearest_training_rows_of_samples(monkeypatch):
    """Those that a training mirrored are searched mirrored, too; of many rows some are taken, evenly."""
    x = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 3)).astype(np.uint8)
    source = data.Source("stub", 40, (4, 4, 3), 0, lambda ids: {"x": x[ids]})
    run = lambda flip: types.SimpleNamespace(
        source=lambda split: source, settings=types.SimpleNamespace(data=types.SimpleNamespace(flip=flip))
    )
    samples = data.arrays(source)["x"][[7, 30]][:, :, ::-1]
    found = nearest.training_rows(run(True), samples)
    np.testing.assert_array_equal(found.rows, samples)
    assert found.distances.max() == 0 and (found.searched, found.size) == (40, 40)
    assert nearest.training_rows(run(False), samples).distances.min() > 0.1
    assert nearest.held_out_distances(run(True)).shape == (40,)
    monkeypatch.setattr(nearest, "SEARCHED", 20 * 2 * 48)
    found = nearest.training_rows(run(True), samples)
    assert found.searched == 20 and found.distances[1] == 0 and found.distances[0] > 0.1  # 30 is even, and 7 is not


def test_labels_of_fewer_samples_are_taken_from_all_rows():
    labels = np.repeat([0, 1, 2], 100)
    assert np.bincount(sampling.labels_like(labels, 3, 30)).tolist() == [10, 10, 10]
    assert sampling.labels_like(labels, 3, 400)[:300].tolist() == labels.tolist()
    assert sampling.labels_like(None, 0, 2).tolist() == [-1, -1]
