"""Scores of images by protocol: sums that are resumed, merged and shared by devices, and what is refused."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import method
from flowjax import data, evals, foreign, training, typing
from flowjax.autoencoders import kl, kl_names
from flowjax.evals import features, inception_scores, moments, networks, protocols
from flowjax.evaluation import decoded, generation, image_scores, image_streams
from flowjax.training import progress, settings
from tests import network_fixtures

X = network_fixtures.random_images(50, 3, 2)  # 18 numbers
Y = network_fixtures.random_images(60, 3, 2, seed=2)
PIXELS = features.of_protocol("pixels")


def images(x=X, read=None):
    return image_streams.Images(
        len(x), x.shape[1:], read or (lambda start, stop: x[start:stop]), {"source": "npz", "path": "x"}
    )


def flat(x):
    return x.reshape(len(x), -1) / 127.5 - 1


def reference(x=Y, protocol="pixels"):
    return protocols.reference("real", protocol, moments.of(flat(x)))


# What ADM's protocol makes, but small.
SMALL = features.Extractor(
    "adm", {"w": np.float32(2)},
    lambda params, x: networks.Features(
        params["w"] * x.astype(jnp.float32).mean(axis=(1, 2)), x[:, 0, 0].astype(jnp.float32), x[:, 0, 1].astype(jnp.float32) / 64
    ),
    "hash",
)  # fmt: skip


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(image_scores, "PART", 16)


def test_scores_are_those_of_the_features_at_once(tmp_path, small_parts):
    pool, spatial, logits = (np.asarray(array, np.float64) for array in SMALL.apply(SMALL.params, X))
    of_y = [np.asarray(array, np.float64) for array in SMALL.apply(SMALL.params, Y)]
    known = protocols.reference("real", "adm", moments.of(of_y[0]), moments.of(of_y[1]))
    found = image_scores.score(
        images(),
        SMALL,
        tmp_path / "scores",
        measures=image_scores.MEASURES,
        reference=known,
        reference_images=images(Y),
        batch=8,
        shuffled=3,
    )
    expected = [
        evals.frechet(pool, of_y[0]), evals.frechet(spatial, of_y[1]), evals.inception_score(logits, seed=3)[0],
        evals.precision(of_y[0], pool, 3), evals.recall(of_y[0], pool, 3),
    ]  # fmt: skip
    np.testing.assert_allclose([one.value for one in found], expected, rtol=1e-4)
    assert [one.measure for one in found] == ["FID", "sFID", "Inception score", "precision", "recall"]
    assert {(one.protocol, one.weights_hash, one.count) for one in found} == {("adm", "hash", 50)}
    assert found[0].reference_hash == known.fingerprint != found[1].reference_hash == known.of_places().fingerprint
    written = json.loads((tmp_path / "scores/scores.json").read_text())
    assert [one["value"] for one in written["scores"]] == [one.value for one in found]
    assert written["images"]["images"] == {"source": "npz", "path": "x"} and written["images"]["rounding"] == "nearest"


def test_eight_devices_find_what_one_finds(tmp_path, monkeypatch, small_parts):
    on_eight = image_scores.score(images(), PIXELS, tmp_path / "8", reference=reference(), batch=8)[0]
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    on_one = image_scores.score(images(), PIXELS, tmp_path / "1", reference=reference(), batch=8)[0]
    assert on_eight.value == pytest.approx(on_one.value, rel=1e-6)
    assert on_eight.value == pytest.approx(evals.frechet(flat(X), flat(Y)), rel=1e-5)
    assert on_eight._replace(value=0) == on_one._replace(value=0)


def test_a_killed_command_goes_on(tmp_path, small_parts):
    whole = image_scores.score(images(), PIXELS, tmp_path / "whole", reference=reference(), batch=8)
    seen = []

    def read(start, stop):
        if len(seen) == 5 and start == 40:
            seen.append("killed")
            raise KeyboardInterrupt
        seen.append(start)
        return X[start:stop]

    for _ in range(2):
        try:
            again = image_scores.score(images(read=read), PIXELS, tmp_path / "killed", reference=reference(), batch=8)
        except KeyboardInterrupt:
            continue
    assert seen == [0, 8, 16, 24, 32, "killed", 32, 40, 48]  # parts have 16 images, of which two were saved
    assert again == whole
    sums = [np.load(tmp_path / name / "sums_000.npz") for name in ("whole", "killed")]
    for name in sums[0]:
        np.testing.assert_array_equal(sums[0][name], sums[1][name])
    with pytest.raises(typing.InputError, match="holds other sums of images .*count"):
        image_scores.score(images(X[:30]), PIXELS, tmp_path / "killed", reference=reference(), batch=8)


def test_processes_share_the_images(tmp_path, monkeypatch, small_parts):
    alone = image_scores.score(images(), PIXELS, tmp_path / "alone", reference=reference(), batch=8)[0]
    monkeypatch.setattr(image_scores.hosts, "barrier", lambda _: None)
    monkeypatch.setattr(jax, "process_count", lambda: 2)

    def of_process(index):
        monkeypatch.setattr(jax, "process_index", lambda: index)
        return image_scores.score(images(), PIXELS, tmp_path / "shared", reference=reference(), batch=8)[0]

    with pytest.raises(typing.InputError, match="holds sums of 32 images, and there are 50; all processes must see one folder"):
        of_process(0)  # parts 0 and 2, of 16 images each
    assert of_process(1).value == pytest.approx(alone.value, rel=1e-6)
    assert of_process(0) == of_process(1)


def test_a_reference_is_written_and_fits_its_own_protocol_alone(tmp_path):
    path = image_scores.write_reference(images(Y), PIXELS, tmp_path / "reference", batch=16)
    read = protocols.read(path, "pixels")
    np.testing.assert_allclose(read.features.covariance, np.cov(flat(Y).T), rtol=1e-4, atol=1e-6)
    assert read.count == 60 and read.spatial is None
    assert image_scores.score(images(Y), PIXELS, tmp_path / "same", reference=read, batch=16)[0].value < 1e-5
    with pytest.raises(typing.InputError, match="of the protocol pixels, and not of vgg16"):
        protocols.read(path, "vgg16")
    path = image_scores.write_reference(images(Y), SMALL, tmp_path / "adm", batch=16)
    stored = foreign.read(path)
    np.testing.assert_allclose(stored["mu_s"], np.asarray(SMALL.apply(SMALL.params, Y).spatial).mean(0), rtol=1e-5)
    assert bytes(stored["weights"]) == b"hash"


def test_what_cannot_be_scored_is_one_sentence(tmp_path):
    other = SMALL._replace(weights_hash="other")
    small = lambda **changes: protocols.reference("real", "adm", moments.of(flat(Y)[:, :3]))._replace(**changes)
    bad = {
        "unknown measure 'fd'": (PIXELS, {"measures": ("fd",)}),
        "--measures=fid: it needs a reference": (PIXELS, {"reference": None}),
        "--measures=sfid: it needs the protocol adm": (PIXELS, {"measures": ("sfid",)}),
        "--measures=is: it needs a network with classes": (PIXELS, {"measures": ("is",)}),
        "--measures=recall: it needs real images": (PIXELS, {"measures": ("recall",)}),
        "are of the protocol pixels, those of real of vgg16": (PIXELS, {"reference": reference()._replace(protocol="vgg16")}),
        "made by other weights": (other, {"reference": small(weights_hash="hash")}),
        "have 18 numbers, those of real 12": (PIXELS, {"reference": reference(Y[:, :2])}),
        "has no spatial features": (SMALL, {"measures": ("sfid",), "reference": small()}),
    }
    for sentence, (chosen, changes) in bad.items():
        with pytest.raises(typing.InputError, match=sentence):
            image_scores.score(images(), chosen, tmp_path / "new", **{"reference": reference(), **changes})
    with pytest.raises(typing.InputError, match="does not take images of 3 x 2 pixels with 3 channel"):
        image_scores.write_reference(images(), SMALL._replace(apply=lambda _, x: x @ x), tmp_path / "new")
    for num, measures in ((1, ("fid",)), (9, ("is",))):
        with pytest.raises(typing.InputError, match=f"--num={num}: expected at least"):
            image_scores.score(images().first(num), SMALL, tmp_path / "new", measures=measures, reference=small())
    with pytest.raises(typing.InputError, match="--num=51: there are 50 images"):
        images().first(51)
    assert not (tmp_path / "new").exists()
    with pytest.raises(typing.InputError, match="sample 12 holds numbers that are not finite"):
        image_streams.pixels(np.array([0, 0, np.nan])[:, None, None, None], 10)
    with pytest.raises(
        typing.InputError, match="the protocol he needs the weights of its network: --weights=FILE, expected pt_incep"
    ):
        features.of_protocol("he")
    with pytest.raises(typing.InputError, match="takes no weights, and file was given"):
        features.of_protocol("pixels", "file")


def test_images_of_files(tmp_path):
    np.savez(tmp_path / "samples.npz", arr_0=X)
    np.savez(tmp_path / "floating.npz", x=flat(X).reshape(X.shape).astype(np.float32))
    for i, one in enumerate(X):
        (tmp_path / "folder" / str(i % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(one).save(tmp_path / f"folder/{i % 2}/{i:02d}.png")
    for name, order in (("samples.npz", X), ("floating.npz", X), ("folder", np.concatenate([X[::2], X[1::2]]))):
        found = image_streams.of_files(str(tmp_path / name))
        assert (found.count, found.shape) == (50, (3, 2, 3))
        np.testing.assert_array_equal(np.concatenate([found.read(0, 20), found.read(20, 50)]), order)
    np.savez(tmp_path / "other.npz", a=X)
    np.savez(tmp_path / "rows.npz", x=flat(X))
    np.savez(tmp_path / "pixels.npz", x=X.astype(np.float32))
    for name, sentence in {
        "other.npz": "it has the arrays a", "rows.npz": "has shape", "pixels.npz": "not in .-1, 1.", "none": "does not exist",
        "none.npz": "does not exist",
    }.items():  # fmt: skip
        with pytest.raises(typing.InputError, match=sentence):
            image_streams.of_files(str(tmp_path / name))


def test_totals_of_the_inception_score_are_added():
    logits = np.random.default_rng(0).standard_normal((23, 4))
    part = inception_scores.parts(23, 3, seed=5)
    totals = [inception_scores.totals(logits[i::2], part[i::2], 3) for i in (0, 1)]
    added = inception_scores.Totals(*(np.add(*arrays) for arrays in zip(*totals)))
    assert inception_scores.of_totals(added) == pytest.approx(evals.inception_score(logits, 3, seed=5))


def test_features_for_a_judge_are_taken_in_batches():
    x = flat(X).reshape(X.shape).astype(np.float32)
    x[7] = np.nan
    found = features.in_batches(PIXELS, 16).features(x)
    np.testing.assert_allclose(np.delete(found, 7, 0), np.delete(flat(X), 7, 0), atol=1e-6)
    assert np.isnan(found[7]).all()


def test_points_are_no_images():
    with pytest.raises(typing.InputError, match=r"scores of images take \[H, W, 3\]"):
        image_streams.of_dataset("checkerboard")


def test_some_rows_of_a_data_set_are_taken_evenly_from_all(tmp_path):
    np.savez(tmp_path / "x.npz", train=X, test=X[:2])
    whole = image_streams.of_dataset(f"npz:{tmp_path}/x.npz").read(0, len(X))
    some = image_streams.of_dataset(f"npz:{tmp_path}/x.npz", num=20)
    assert some.count == 20 and len(whole) == 50
    np.testing.assert_array_equal(np.concatenate([some.read(0, 13), some.read(13, 20)]), whole[np.arange(20) * 50 // 20])
    with pytest.raises(typing.InputError, match="--num=51: npz.* has 50 rows in its split train; give fewer"):
        image_streams.of_dataset(f"npz:{tmp_path}/x.npz", num=51)


def test_a_config_names_the_features_of_its_measures(tmp_path):
    np.savez(tmp_path / "x.npz", x=X)
    section = settings.Data(f"npz:{tmp_path}/x.npz", "", False, "", features="pixels")
    source = data.of_section(section)
    found = features.extractor(source).features(flat(X).reshape(X.shape))
    np.testing.assert_allclose(found, flat(X), atol=1e-6)
    assert data.of_section(section._replace(features="")).features == ""
    (tmp_path / "weights").touch()
    features.check(f"adm:{tmp_path}/weights")
    for name, sentence in {
        "adm": "expected adm:FILE, a file with the published weights", "adm:none": "expected adm:FILE", "pixels:x": "takes no file",
        "vgg61": "unknown extractor 'vgg61'; did you mean vgg16",
    }.items():  # fmt: skip
        with pytest.raises(typing.InputError, match=sentence):
            features.check(name)


@pytest.mark.slow
def test_a_training_measures_in_the_features_that_its_config_names(tmp_path):
    config = method.get_config("flow_matching,digits")
    config.update({"batch_size": 16, "eval_samples": 64, "eval_steps": (1,), "sampler": "flow_map"})
    config.model.update({"width": 16, "depth": 1, "heads": 2})
    config.data.features, config.best = "pixels", "1step/frechet_features"
    run = training.setup(config, devices=jax.devices()[:1])
    assert progress.evaluator(run, tmp_path)(run.init(), 0)["1step/frechet_features"] > 0
    config.data.features = "adm"
    with pytest.raises(typing.InputError, match="expected adm:FILE"):
        training.setup(config, devices=jax.devices()[:1])


@pytest.mark.slow
def test_samples_of_a_run_are_those_that_are_written(digits_run, tmp_path):
    drawn = image_streams.of_run(digits_run, num=20, batch=8, seed=3)
    generation.write(digits_run, tmp_path / "samples", num=20, seed=3, shard=9)
    read = image_streams.of_files(str(tmp_path / "samples"))
    here = np.concatenate([drawn.read(start, min(start + 8, 20)) for start in (0, 8, 16)])
    assert np.abs(here.astype(int) - read.read(0, 20)).max() <= 1  # batches of other sizes round differently
    labels = [image_streams.of_run(digits_run, num=20, batch=8, labels=chosen).about["labels"] for chosen in ("random", (3, 4))]
    assert labels == ["random", [3, 4]]


@pytest.mark.slow
def test_samples_of_latents_are_decoded(digits_run, tmp_path, monkeypatch):
    sizes = kl.KLSizes(widths=(4, 8), blocks=1, latent=1, groups=2)
    monkeypatch.setitem(kl.SIZES, "tiny", sizes)
    rng, arrays = np.random.default_rng(0), {}
    for name, (_, shape) in kl_names.expected(sizes).items():
        array = 0.3 * rng.standard_normal(shape)
        arrays[name] = np.ascontiguousarray(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T).astype(np.float32)
    foreign.write(tmp_path / "vae.safetensors", arrays)
    decoder = decoded.read(str(tmp_path / "vae.safetensors"), "tiny")
    found = image_streams.of_run(digits_run, num=6, batch=4, decoder=decoder)
    assert found.shape == (16, 16, 3) and found.about["autoencoder"]["sizes"] == "tiny"
    z = training.load(digits_run).sample(6, 1)
    expected = features.rounded(np.asarray(jax.jit(kl.make(sizes).decode)(kl_names.weights(arrays, sizes), z)))
    here = np.concatenate([found.read(0, 4), found.read(4, 6)])
    assert np.abs(here.astype(int) - expected).max() <= 1 and here.std() > 1
    with pytest.raises(typing.InputError, match=r"samples have shape \(8, 8, 4\), and this autoencoder decodes \[h, w, 1\]"):
        decoder.shape((8, 8, 4))


@pytest.mark.slow
def test_the_script_scores_a_run_against_a_data_set(digits_run, tmp_path):
    real = image_scores.write_reference(image_streams.of_dataset("digits"), PIXELS, tmp_path / "real")
    command = [
        sys.executable, "-m", "experiments.fid", f"--workdir={digits_run}", "--protocol=pixels", f"--reference={real}",
        f"--output={tmp_path}/scores", "--num=100", "--labels=random",
    ]  # fmt: skip
    root = pathlib.Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2_000:]
    assert "| Frechet distance, pixels |" in done.stdout and f"{tmp_path}/scores/scores.json" in done.stdout
    about = json.loads((tmp_path / "scores/scores.json").read_text())
    assert about["images"]["images"]["labels"] == "random" and about["images"]["images"]["steps"] == 1
    assert about["scores"][0]["count"] == 100 and about["scores"][0]["reference"] == "reference.safetensors"
