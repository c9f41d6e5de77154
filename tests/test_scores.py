"""The table of what a run is worth: every combination, the floor and the noise, error bars, and what is shown of it."""

import csv

import jax
import numpy as np
import pytest

from configs import flow_matching, meanflow
from experiments import tables
from flowjax import data, evals, plots, training, typing
from flowjax.training import evaluation, generation, scores

POINTS = ("sliced_wasserstein", "precision")


def trained(config, folder, **changes):
    config.update({"steps": 4, "batch_size": 16, "eval_every": 0, "save_every": 4, "ema": (0.9,)} | changes)
    config.optim.update({"learning_rate": 1e-2, "warmup_steps": 1})
    training.train(config, folder, devices=jax.devices()[:1])
    return folder


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    return trained(meanflow.get_config("test"), tmp_path_factory.mktemp("points") / "run")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    config = flow_matching.get_config("digits")  # compiles twice as fast as a method with a derivative
    model = config.model.to_dict() | {"width": 16, "depth": 1, "heads": 2}
    return trained(config, tmp_path_factory.mktemp("digits") / "run", model=model)


@pytest.fixture(scope="module")
def table(points):
    return scores.evaluate(
        points, (1, 3), num=300, averages=("0.9", "none"), chosen=("", "gamma:gamma=0.5", "heun"), measures=POINTS, resamples=4
    )


def test_every_combination_has_its_row_and_the_floor_and_noise_follow(table):
    rows, about = table
    assert len(rows) == 2 * 2 * 3 + 2
    assert {(row["steps"], row["sampler"], row["ema"]) for row in rows[:-2]} == {
        (n, name, ema) for n in (1, 3) for name in ("flow_map", "gamma:gamma=0.5", "heun") for ema in ("0.9", "none")
    }
    assert [row["what"] for row in rows[-2:]] == ["real, held out", "noise"]
    assert {row["sampler"]: row["evaluations"] for row in rows if row["steps"] == 3} == {
        "flow_map": 3,
        "gamma:gamma=0.5": 3,
        "heun": 6,
    }
    assert "300 samples against 10000 rows of checkerboard" in about
    values = {row["what"]: row["sliced_wasserstein"][0] for row in rows}
    assert values["real, held out"] < values["noise"]


def test_a_number_is_the_measure_of_the_samples_and_has_an_error(points, table):
    run = training.load(points, "none")
    samples = evaluation.make_sampler(run.net, run.shape, "heun")(run.params, 0, np.full(300, -1), 3)
    reference = data.arrays(data.load("checkerboard", split="test"), limit=10_000)["x"]
    row = next(row for row in table[0] if (row["steps"], row["sampler"], row["ema"]) == (3, "heun", "none"))
    value, error = row["sliced_wasserstein"]
    assert value == pytest.approx(evals.sliced_wasserstein(samples, reference), rel=1e-6)
    assert error == pytest.approx(evals.error_bar(evals.sliced_wasserstein, samples, reference, resamples=4), rel=1e-6)
    assert 0 < error < value
    assert all(0 <= row["precision"][0] <= 1 for row in table[0])


def test_what_differs_is_shown(table, tmp_path):
    rows, about = table
    assert list(scores.shown(rows)[0]) == ["what", "sampler", "ema", "evaluations", "rows", *POINTS]
    alike = [row for row in rows if row["sampler"] in ("", "flow_map") and row["ema"] in ("", "none")]
    assert list(scores.shown(alike)[0]) == ["what", "rows", *POINTS]
    text = tables.write(tmp_path / "table", rows, about, shown=scores.shown(alike))
    assert "| 3 steps | 300 | " in text and " ± " in text
    written = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert len(written) == len(rows)
    assert float(written[0]["precision"]) == rows[0]["precision"][0]
    assert float(written[0]["precision error"]) == rows[0]["precision"][1]


def test_curves_have_a_series_for_each_way_of_sampling(table, tmp_path):
    panels, references = scores.curves(table[0])
    assert list(panels) == list(POINTS) == list(references)
    assert set(panels["precision"]) == {
        f"{name}, ema {ema}" for name in ("flow_map", "gamma:gamma=0.5", "heun") for ema in ("0.9", "none")
    }
    assert all([steps for steps, _, _ in series] == [1, 3] for series in panels["precision"].values())
    assert set(references["precision"]) == {"real, held out", "noise"}
    plots.measure_curves(tmp_path / "curves.png", panels, references=references, xlabel="steps")
    assert (tmp_path / "curves.png").stat().st_size > 5_000


def test_written_samples_are_measured_like_drawn_ones(points, tmp_path):
    generation.write(points, tmp_path / "samples", num=400, steps=3, average="none", shard=150)
    (read, *rest), _ = scores.evaluate(points, (1,), num=300, samples=str(tmp_path / "samples"), measures=POINTS, resamples=0)
    (drawn, *_), _ = scores.evaluate(points, (3,), num=300, averages=("none",), measures=POINTS, resamples=0)
    assert read["sliced_wasserstein"][0] == pytest.approx(drawn["sliced_wasserstein"][0], rel=1e-4)
    assert (read["what"], read["sampler"], read["ema"], read["rows"]) == ("3 steps", "flow_map", "none", 300)
    assert len(rest) == 2 and np.isnan(read["precision"][1])


def test_all_measures_of_points(points):
    rows, _ = scores.evaluate(points, (1,), num=64, resamples=2)
    assert set(scores.POINTS + scores.COPYING) == {name for name, value in rows[0].items() if isinstance(value, tuple)}
    assert all(np.isfinite(value[0]) for row in rows for value in row.values() if isinstance(value, tuple))


def test_all_measures_of_digits(digits):
    """The floor is held-out digits against those that were learned from, so that nothing is compared with itself."""
    rows, about = scores.evaluate(digits, (1,), num=100, resamples=2)
    assert set(scores.IMAGES + scores.CLASSIFIED) == {name for name, value in rows[0].items() if isinstance(value, tuple)}
    assert "100 samples against 1797 rows of digits; real rows: 297 against 1500 others" in about
    floor, noise = rows[-2], rows[-1]
    assert floor["agreement"][0] > 0.97 and floor["copying"][0] == 0.5 and floor["rows"] == 297
    assert noise["agreement"][0] < 0.5 and noise["copying"][0] == 0
    assert floor["frechet_features"][0] < noise["frechet_features"][0]
    load = lambda split: data.arrays(data.load("digits", split=split))["x"]
    assert floor["frechet_pixels"][0] == pytest.approx(evals.frechet(load("test"), load("train")), rel=1e-6)


BAD = {
    "too few samples": ({"num": 4}, "--num=4: the measures need at least 8"),
    "unknown measure": ({"measures": ("recal",)}, "unknown measure 'recal'; did you mean recall"),
    "features of points": ({"measures": ("mmd_features",)}, "classifier for the digits alone"),
    "unknown sampler": ({"chosen": ("eule",)}, "did you mean euler"),
    "grid of other steps": ({"grid": "1,0.5,0"}, "--steps=2"),
    "no such average": ({"averages": ("0.5",)}, "no average with decay 0.5"),
    "guidance that was not learned": ({"guidances": (2.0,)}, "without guidance"),
    "no samples": ({"samples": "/nowhere"}, "--samples=/nowhere holds no about.json"),
}


@pytest.mark.parametrize("case", BAD)
def test_mistakes_are_told(case, points):
    changes, said = BAD[case]
    with pytest.raises(typing.InputError, match=said):
        scores.evaluate(points, (1,), **changes)
