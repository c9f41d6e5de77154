"""One evaluation stack: which measures suit which data, the features and the decoder that a dataset names, a measure added."""

import math

import numpy as np
import pytest

from flowjax import data, evals, typing
from flowjax.training import progress

RNG = np.random.default_rng(0)
LATENTS, IMAGES = RNG.normal(size=(40, 6)), RNG.normal(size=(40, 4, 4, 1))
BRIGHTNESS = evals.Classifier(lambda images: images.mean(axis=(1, 2)))
CLASSES = BRIGHTNESS._replace(
    logits=lambda images: np.stack([-images.mean(axis=(1, 2, 3)), images.mean(axis=(1, 2, 3))], axis=1)
)


def source(**fields):
    return data.Source("latents", 40, (6,), 0, lambda ids: {"x": LATENTS[ids]})._replace(**fields)


def test_what_suits_the_data_follows_from_its_shape_and_its_features():
    during = lambda *args, **rows: evals.Judge(*args, **rows).names(during_training=True)
    assert during(LATENTS) == ("sliced_wasserstein", "energy_distance")
    assert during(IMAGES) == ("frechet_pixels", "precision", "recall")
    assert during(IMAGES, features=BRIGHTNESS) == ("frechet_pixels", "precision", "recall", "frechet_features")
    assert during(IMAGES, features=CLASSES)[-2:] == ("frechet_features", "agreement")
    table = evals.Judge(IMAGES, features=CLASSES, training=IMAGES, held_out=IMAGES).names()
    assert {"copying", "nearest_distance", "mmd_features", "frechet_pixels"} < set(table)
    assert not {"copying", "nearest_distance"} & set(evals.Judge(IMAGES).names())
    for name, lacking in (("kid_features", "names none"), ("agreement", "names none"), ("copying", "training rows")):
        with pytest.raises(typing.InputError, match=f"--measures={name}: .*{lacking}"):
            evals.Judge(IMAGES).names([name])
    with pytest.raises(typing.InputError, match="features alone"):
        evals.Judge(IMAGES, features=BRIGHTNESS).names(["agreement"])


def test_a_dataset_names_its_features_and_its_decoder(monkeypatch):
    monkeypatch.setitem(evals.EXTRACTORS, "brightness", lambda data_dir: BRIGHTNESS)
    monkeypatch.setitem(
        evals.DECODERS, "lit", lambda data_dir: lambda rows: np.broadcast_to(rows[:, :1, None, None], (len(rows), 4, 4, 1))
    )
    judge = evals.judge(source(features="brightness", decode="lit"), LATENTS)
    samples = LATENTS + (1, 5, 5, 5, 5, 5)  # the decoder shows the first number alone
    values = judge.values(samples, None, ("frechet_pixels", "frechet_features"))
    np.testing.assert_allclose(list(values.values()), [16.0, 1.0], rtol=1e-9)
    for wrong in ({"features": "brightnes"}, {"decode": "lot"}):
        with pytest.raises(typing.InputError, match="did you mean (brightness|lit)"):
            evals.judge(source(**wrong), LATENTS)


def test_features_of_the_reference_are_made_once():
    calls = []
    network = evals.Classifier(lambda images: calls.append(len(images)) or images.mean(axis=(1, 2)))
    judge = evals.Judge(IMAGES, features=network)
    for _ in range(3):
        judge.values(IMAGES[:20], None, ("frechet_features", "mmd_features"))
    assert sorted(calls) == [20] * 6 + [40]


def test_a_measure_is_added_by_one_entry(monkeypatch):
    gap = evals.Measure(
        lambda x, y: float(x.max() - y.max()), table=("points",), during_training=("points",), higher_is_better=True
    )
    monkeypatch.setitem(evals.MEASURES, "gap", gap)
    judge = evals.Judge(LATENTS)
    assert "gap" in judge.names() and judge.names(during_training=True)[-1] == "gap"
    assert judge(LATENTS, None, ["gap"], resamples=2)["gap"][0] == 0
    assert progress.lower_is_better("1step/gap", {"1step/gap": 0.5}) == -0.5
    assert math.isnan(progress.lower_is_better("1step/gap", {}))
