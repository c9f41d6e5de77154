"""Latents of images: the same bytes after kills and with any number of processes, and a manifest that must fit."""

import io
import itertools
import json
import sys
import tarfile

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from configs import meanflow
from flowjax import autoencoders, data, training, typing
from flowjax.autoencoders import files, kl, kl_names
from flowjax.data import latents as stored
from flowjax.evals import features, protocols
from flowjax.evals.networks import vgg
from flowjax.evaluation import decoded, generation, image_scores, image_streams
from flowjax.preparation import autoencoder, decoding, images, latents
from tests import network_fixtures

SIZES = kl.KLSizes(widths=(4, 8), blocks=1, latent=2, groups=2)
OPTIONS = {"size": 8, "shard": 4, "batch": 2}


@pytest.fixture(scope="module")
def loaded():
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, (_, shape) in kl_names.expected(SIZES).items()}
    turned = {name: array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T for name, array in arrays.items()}
    params = kl_names.weights(turned, SIZES)
    return files.Loaded(kl.make(SIZES), params, SIZES, files.fingerprint(params))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Eleven PNG files in two classes, 9 x 8 pixels."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(11):
        place = folder / "ab"[i % 2] / f"{i:02}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 9, 3), np.uint8)).save(place)
    return folder


@pytest.fixture(scope="module")
def written(pictures, loaded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("latents")
    latents.write(images.open_images(f"folder:{pictures}"), folder, loaded, mirrored=True, **OPTIONS)
    return folder


def content(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "train").iterdir()) if not path.name.startswith(".")}


def test_kills_and_processes_leave_the_same_bytes(written, pictures, loaded, tmp_path, monkeypatch):
    source = images.open_images(f"folder:{pictures}")
    about = latents.manifest(source, loaded, **OPTIONS, mirrored=True, normalisation="measured")
    expected = {name: part for name, part in content(written).items() if name.endswith(".npy")}
    assert len(expected) == 9  # three shards of labels, moments and mirrored moments
    for processes in (2, 3):
        path = tmp_path / str(processes) / "train"
        path.mkdir(parents=True)
        for process in range(processes):
            latents.write_shards(source, path, loaded, about, process=process, processes=processes)
        assert content(path.parent) == expected

    save, count = latents._save, itertools.count()

    def killed(file, array):
        if next(count) % 3 == 2:
            (file.parent / f".{file.name}.elsewhere.1.1.part").write_bytes(b"half of")
            raise KeyboardInterrupt
        save(file, array)

    monkeypatch.setattr(latents, "_save", killed)
    for _ in range(9):
        try:
            latents.write(source, tmp_path / "killed", loaded, mirrored=True, **OPTIONS)
            break
        except KeyboardInterrupt:
            continue
    assert content(tmp_path / "killed") == content(written)


def test_rows_are_drawn_from_the_moments_of_the_images(written, pictures, loaded):
    source = data.load(f"latents:{written}")
    assert (source.size, source.shape, source.num_classes, source.moments) == (11, (4, 4, 2), 2, True)
    rows = source.rows(np.arange(11))
    assert rows["label"].tolist() == [0] * 6 + [1] * 5
    pixels = images.open_images(f"folder:{pictures}")
    cropped = np.stack([np.asarray(pixels.read(i).crop((0, 0, 8, 8))) for i in range(11)])
    encode = jax.jit(loaded.autoencoder.encode)
    for x, found in ((cropped, rows), (cropped[:, :, ::-1], source.mirrored(np.arange(11)))):
        moments = np.asarray(encode(loaded.params, x.astype(np.float32) / 127.5 - 1))
        np.testing.assert_allclose(np.concatenate([found["x"], found["deviation"]], -1), moments, rtol=2e-3, atol=2e-3)
    assert data.seen("latents", rows["x"]).shape == (11, 4, 4, 1)
    assert np.abs(data.seen("latents", np.repeat(rows["x"], 2, axis=-1))).max() <= 1
    name, wanted = source.normalisation
    assert name == "measured"
    prepared = data.prepared(source, mean=wanted.mean, deviation=wanted.deviation)
    epochs = [next(data.batches(prepared, batch_size=11, seed=0, start=start))["x"] for start in range(60)]
    np.testing.assert_allclose(np.std(epochs, (0, 1, 2, 3)), 1, atol=0.1)
    np.testing.assert_allclose(np.mean(epochs, (0, 1, 2, 3)), 0, atol=0.1)
    assert next(data.batches(prepared, batch_size=11, seed=0, flip=True))["x"].shape == (11, 4, 4, 2)
    with pytest.raises(typing.InputError, match=r"for the normalisation 'measured', .*--config.data.mean=\(.*,.*\) --config"):
        next(data.batches(source, batch_size=4, seed=0))


def test_a_named_normalisation_is_asked_for_by_name(pictures, loaded, tmp_path):
    source = images.open_images(f"folder:{pictures}")
    latents.write(source, tmp_path, loaded, normalisation="sd", **OPTIONS)
    rows, sd = data.load(f"latents:{tmp_path}"), autoencoders.NORMALISATIONS["sd"]
    with pytest.raises(typing.InputError, match="expected --config.data.normalisation=sd."):
        next(data.batches(data.prepared(rows, deviation=2.0), batch_size=4, seed=0))
    next(data.batches(data.prepared(rows, mean=sd.mean, deviation=5.48997), batch_size=4, seed=0))
    with pytest.raises(typing.InputError, match="holds other latents .*normalisation: 'sd' there, 'measured' now"):
        latents.write(source, tmp_path, loaded, **OPTIONS)
    other = loaded._replace(fingerprint="another")
    with pytest.raises(typing.InputError, match="autoencoder: '.*' there, 'another' now"):
        latents.write(source, tmp_path, other, normalisation="sd", **OPTIONS)
    with pytest.raises(typing.InputError, match="the latents of test do not fit those of train .*autoencoder"):
        latents.write(source, tmp_path, other, split="test", normalisation="sd", **OPTIONS)
    with pytest.raises(typing.InputError, match="4 means .* does not fit latents with 2 channels"):
        latents.write(source, tmp_path / "new", loaded, normalisation="imf256", **OPTIONS)
    assert not (tmp_path / "new").exists()
    with pytest.raises(typing.InputError, match="has no split 'test'; write it .*--config.eval_every=0"):
        data.load(f"latents:{tmp_path}", split="test")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (
            lambda path: (path / "moments_00001.npy").unlink(),
            "lacks 1 of its files, moments_00001.npy first; .*prepare_latents",
        ),
        (lambda path: (path / "moments_00001.npy").write_bytes(b"broken"), "is damaged or something else"),
        (lambda path: np.save(path / "label_00000.npy", np.zeros(3, np.int32)), "files of label hold 10 rows"),
        (lambda path: (path / "statistics.json").write_text("{}"), "statistics.json .*it has no 'mean'"),
        (lambda path: (path / "about.json").write_text(json.dumps({"contents": "samples"})), "its 'contents' is \"samples\""),
    ],
)
def test_what_is_wrong_in_a_folder_is_one_sentence(written, tmp_path, break_it, message):
    path = tmp_path / "train"
    path.mkdir()
    for name, part in content(written).items():
        (path / name).write_bytes(part)
    break_it(path)
    with pytest.raises(typing.InputError, match=message) as caught:
        data.load(f"latents:{tmp_path}")
    assert "\n" not in str(caught.value)


def archive(path, entries, kind=tarfile.REGTYPE):
    with tarfile.open(path, "w") as made:
        for name, part in entries:
            member = tarfile.TarInfo(name)
            member.size, member.type, member.linkname = len(part), kind, "elsewhere"
            made.addfile(member, io.BytesIO(part))
    return path


def test_archives_have_the_images_of_their_folder(pictures, tmp_path):
    source = images.open_images(f"folder:{pictures}")
    flat = archive(tmp_path / "flat.tar", [(f"./x/{p.relative_to(pictures)}", p.read_bytes()) for p in pictures.rglob("*.png")])
    inner = [
        (f"{name}.tar", archive(tmp_path / "i", [(p.name, p.read_bytes()) for p in (pictures / name).iterdir()]).read_bytes())
        for name in "ba"
    ]
    for path in (flat, archive(tmp_path / "nested.tar", inner)):
        found = images.open_images(f"tar:{path}")
        assert (found.size, found.classes, found.labels.tolist()) == (11, ("a", "b"), source.labels.tolist())
        for i in (0, 5, 10):
            np.testing.assert_array_equal(np.asarray(found.read(i)), np.asarray(source.read(i)))


def test_archives_that_lie_end_in_one_sentence(pictures, tmp_path):
    png = (pictures / "a" / "00.png").read_bytes()
    refused = {
        "leads out of it": archive(tmp_path / "1.tar", [("../../a/x.png", png)]),
        "'/a/x.png' leads out": archive(tmp_path / "2.tar", [("/a/x.png", png)]),
        "is no plain file": archive(tmp_path / "3.tar", [("a/x.png", b"")], tarfile.SYMTYPE),
        "there is no image": archive(tmp_path / "4.tar", [("a/x.txt", png)]),
        "two of its images": archive(tmp_path / "5.tar", [("a/x.png", png), ("./a/x.png", png)]),
        "beside these folders": archive(tmp_path / "6.tar", [("a/x.png", png), ("x.png", png)]),
    }
    cut = tmp_path / "7.tar"
    cut.write_bytes(refused["leads out of it"].read_bytes()[: 512 + len(png) // 2].replace(b"../../", b"aa/aa/"))
    (tmp_path / "8.tar").write_bytes(b"no archive")
    for words, path in {**refused, "is damaged": cut, "damaged or something else": tmp_path / "8.tar"}.items():
        with pytest.raises(typing.InputError, match=words) as caught:
            images.open_images(f"tar:{path}")
        assert "\n" not in str(caught.value)
    broken = images.open_images(f"tar:{archive(tmp_path / '9.tar', [('a/x.png', b'no image')])}")
    with pytest.raises(typing.InputError, match="9.tar: a/x.png is damaged or something else .*expected an image, PNG or JPEG"):
        broken.read(0)
    with pytest.raises(typing.InputError, match="does not exist"):
        images.open_images("tar:nowhere.tar")
    with pytest.raises(typing.InputError, match="expected images of three colours"):
        images.open_images("checkerboard")


def test_autoencoders_in_files(loaded, tmp_path):
    files.write(tmp_path, loaded.params, SIZES)
    again = files.read(tmp_path)
    assert (again.sizes, again.fingerprint) == (SIZES, loaded.fingerprint)
    jax.tree.map(np.testing.assert_array_equal, again.params, jax.tree.map(np.asarray, loaded.params))
    changed = jax.tree.map(lambda leaf: leaf + 1e-6, loaded.params)
    assert files.fingerprint(changed) != loaded.fingerprint
    with pytest.raises(typing.InputError, match="says its sizes itself"):
        files.read(tmp_path, "sd")
    with pytest.raises(typing.InputError, match="missing are .*; expected those of KLSizes"):
        files.read(tmp_path / files.WEIGHTS, "sd")
    with pytest.raises(typing.InputError, match="unknown sizes of an autoencoder 'xl'"):
        files.read(tmp_path / files.WEIGHTS, "xl")
    assert stored.SPLITS == ("train", "test")


def random_vgg(narrow):
    """Weights of a VGG16, its channels divided by a number, with the linear layers of LPIPS."""
    params = vgg.nested(network_fixtures.random_weights(vgg.shapes(narrow, linear=True)))
    return params | {f"linear_{i}": np.abs(params[f"linear_{i}"]) for i in range(5)}


def scaled(x):
    """Pixels in 0..255 as VGG16 takes them."""
    return protocols.SCALES["mean and deviation of ImageNet"](x.astype(np.float32))


@pytest.mark.slow
def test_an_autoencoder_is_trained_with_lpips(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3)).astype(np.uint8)
    np.savez(tmp_path / "images.npz", x=pixels)
    sizes, source = kl.KLSizes(widths=(2,), blocks=1, latent=1, groups=1), data.load(f"npz:{tmp_path / 'images.npz'}")
    params, seen = random_vgg(32), {}
    without = {name: layer for name, layer in params.items() if not name.startswith("linear")}
    for weight in (0.0, 10.0):
        options = {"steps": 2, "batch": 8, "perceptual": weight}
        if weight:
            with pytest.raises(typing.InputError, match="--lpips_weight=10.0: LPIPS needs VGG16 with the linear layers"):
                autoencoder.train(source, tmp_path / "vae", sizes, **options, vgg_params=without)
        folder = tmp_path / str(weight)
        seen[weight] = autoencoder.train(source, folder, sizes, **options, vgg_params=params), files.read(folder)
    assert 0 < seen[10.0][0].perceptual < 10 and seen[10.0][1].fingerprint != seen[0.0][1].fingerprint
    loaded = seen[10.0][1]
    x = pixels[source.size - 1 : source.size].astype(np.float32) / 127.5 - 1
    eps = np.zeros((1, 16, 16, 1), np.float32)
    found = jax.jit(lambda: autoencoder.errors(loaded.autoencoder, loaded.params, x, eps, params))()
    again = loaded.autoencoder.decode(loaded.params, loaded.autoencoder.encode(loaded.params, x)[..., :1])
    expected = jax.jit(vgg.lpips)(params, scaled((np.asarray(again) + 1) * 127.5), scaled((x + 1) * 127.5))
    np.testing.assert_allclose(found.perceptual, expected[0], rtol=1e-4)
    with pytest.raises(typing.InputError, match="holds other autoencoders .*perceptual: 10.0 there, 1.0 now"):
        autoencoder.train(source, tmp_path / "10.0", sizes, steps=2, batch=8, perceptual=1.0, vgg_params=params)


def latent_config(flags):
    """A tiny training on latents, with the flags that their preparation printed."""
    config = meanflow.get_config("digits")
    config.update({"steps": 8, "batch_size": 16, "eval_every": 8, "eval_samples": 16, "eval_steps": (1,), "save_every": 8})
    config.model.update({"width": 16, "depth": 1, "heads": 2, "patch": 4})
    config.optim.warmup_steps = 2
    with config.ignore_type():
        config.data.update(
            {"name": flags[0].removeprefix("name="), **{n: eval(v) for n, v in (flag.split("=") for flag in flags[1:])}}
        )
    return config


@pytest.mark.slow
def test_from_images_to_decoded_samples(tmp_path, monkeypatch):
    """Autoencoder, latents, training, samples of one step, images, their score; the autoencoder is killed once."""
    rng, sizes = np.random.default_rng(0), kl.KLSizes(widths=(8, 8), blocks=1, latent=2, groups=2)
    colours = rng.uniform(-1, 1, (64, 1, 1, 3)) + 0.3 * np.sin(np.arange(16) / 2)[:, None, None]
    pixels = np.broadcast_to(np.clip(128 + 90 * colours, 0, 255), (64, 16, 16, 3)).astype(np.uint8)
    np.savez(tmp_path / "images.npz", x=pixels, label=np.arange(64) % 3)
    source = data.load(f"npz:{tmp_path / 'images.npz'}")
    options = {"steps": 45, "batch": 8, "learning_rate": 1e-2, "save_every": 15}
    whole = autoencoder.train(source, tmp_path / "whole", sizes, **options)
    assert whole.squares < 0.6 * np.var(pixels / 127.5 - 1), whole

    save, count = autoencoder._save, itertools.count()

    def killed(path, state):
        save(path, state)
        if next(count) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(autoencoder, "_save", killed)
    with pytest.raises(KeyboardInterrupt):
        autoencoder.train(source, tmp_path / "vae", sizes, **options)
    autoencoder.train(source, tmp_path / "vae", sizes, **options)
    loaded = files.read(tmp_path / "vae")
    assert loaded.fingerprint == files.read(tmp_path / "whole").fingerprint
    with pytest.raises(typing.InputError, match="holds other autoencoders .*seed: 0 there, 1 now"):
        autoencoder.train(source, tmp_path / "vae", sizes, seed=1, **options)

    name = f"npz:{tmp_path / 'images.npz'}"
    for split in ("train", "test"):
        about = latents.write(
            images.open_images(name, split=split), tmp_path / "latents", loaded, split=split, size=16, shard=32, batch=2
        )
    training.train(latent_config(latents.training_flags(tmp_path / "latents", "train", about)), tmp_path / "run")
    generation.write(tmp_path / "run", tmp_path / "samples", num=12, shard=8)
    raw, _ = generation.read(tmp_path / "samples")
    assert raw.shape == (12, 8, 8, 2)
    assert decoding.write(tmp_path / "samples", tmp_path / "shown", loaded, batch=1) == 12
    shown, labels = generation.read(tmp_path / "shown")
    assert shown.shape == (12, 16, 16, 3) and labels.tolist() == [0, 1, 2] * 4
    expected = np.clip(loaded.autoencoder.decode(loaded.params, raw), -1, 1)
    np.testing.assert_allclose(shown, expected, atol=1 / 127.5)
    chosen = features.of_protocol("pixels")
    image_scores.write_reference(image_streams.of_dataset(name), chosen, tmp_path / "reference", batch=16)
    reference = protocols.read(tmp_path / "reference" / "reference.safetensors", "pixels")
    drawn = image_streams.of_run(tmp_path / "run", num=12, batch=16, labels="data", decoder=decoded.of(loaded, batch=1))
    (score,) = image_scores.score(drawn, chosen, tmp_path / "score", reference=reference, batch=16)
    (real,) = image_scores.score(
        image_streams.of_dataset(name, "test"), chosen, tmp_path / "real", reference=reference, batch=16
    )
    assert 0 <= real.value < score.value and score.protocol == "pixels" and score.count == 12
    with pytest.raises(typing.InputError, match=r"rows of shape \(16, 16, 3\) .* this autoencoder decodes \[h, w, 2\]"):
        decoding.write(tmp_path / "shown", tmp_path / "again", loaded)


class Scraps(tfds.core.GeneratorBasedBuilder):
    """Images of several sizes with named classes."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(encoding_format="png"),
            "label": tfds.features.ClassLabel(names=["cat", "dog"]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(0, 5), "validation": self._generate_examples(5, 7)}

    def _generate_examples(self, start, stop):
        for i in range(start, stop):
            file = io.BytesIO()
            Image.fromarray(np.full((8 + i, 9, 3), 20 * i, np.uint8)).save(file, "png")
            file.seek(0)
            yield i, {"image": file, "label": i % 2}


def test_images_of_a_tfds_dataset_are_read_without_tensorflow(loaded, tmp_path):
    with pytest.raises(
        typing.InputError, match="scraps is not in .* `tfds build scraps --file_format=array_record` writes them; or"
    ):
        images.open_images("tfds:scraps", data_dir=str(tmp_path))
    tfds.builder("scraps", data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    train, test = (images.open_images("tfds:scraps", split=split, data_dir=str(tmp_path)) for split in ("train", "test"))
    assert (train.size, test.size, train.classes) == (5, 2, ("cat", "dog")) and train.listing != test.listing
    kept = {np.asarray(train.read(i))[0, 0, 0] // 20: train.read(i).size for i in range(5)}
    assert kept == {i: (9, 8 + i) for i in range(5)}
    order = [np.asarray(train.read(i))[0, 0, 0] // 20 for i in range(5)]
    assert train.labels[1:5].tolist() == [i % 2 for i in order[1:5]]
    about = latents.write(train, tmp_path / "latents", loaded, **OPTIONS)
    assert about["classes"] == ["cat", "dog"] and about["source"] == "tfds:scraps"
    assert data.load(f"latents:{tmp_path}/latents").rows(np.arange(5))["label"].tolist() == train.labels[:].tolist()
    with pytest.raises(typing.InputError, match="there is no dataset 'community:x'"):
        images.open_images("tfds:community:x")
    assert "tensorflow" not in sys.modules
