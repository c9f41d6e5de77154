"""scikit-learn's 1,797 handwritten digits, 8x8, as a TFDS dataset: real images that need no network."""

import pathlib

import numpy as np
import tensorflow_datasets as tfds

from flowjax import buckets
from flowjax.data import pipeline, tfds_images, tokens


class Digits(tfds.core.GeneratorBasedBuilder):
    """`sklearn.datasets.load_digits`, 0..16 scaled to 0..255: 1,500 to train on and 297 held out, stratified by label."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        # features.Image would need TensorFlow to encode an array.
        features = {
            "image": tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
            "label": tfds.features.ClassLabel(num_classes=10),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Optical recognition of handwritten digits, 8x8 (UCI machine learning repository).",
            features=tfds.features.FeaturesDict(features),
            homepage="https://archive.ics.uci.edu/dataset/80",
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        from sklearn import datasets

        images, labels = datasets.load_digits(return_X_y=True)
        images = np.rint(images.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
        train, test = tokens.digits_split(labels)
        return {"train": self._generate_examples(images, labels, train), "test": self._generate_examples(images, labels, test)}

    def _generate_examples(self, images, labels, ids):
        for i in ids:
            yield int(i), {"image": images[i], "label": int(labels[i])}


def source(*, split: str = "train", data_dir: str | None = None) -> pipeline.Source:
    """The digits, written once into `data_dir` (None: TFDS's default) and read like any TFDS image dataset.

    Args:
      split: `"train"` (1,500), `"test"` (297), `"train+test"`, or a slice of them.
      data_dir: the TFDS directory.

    Returns:
      A source of uint8 [8, 8, 1] with 10 classes.
    """
    digits = tfds_images.from_builder(
        lambda: Digits(data_dir=data_dir, file_format="array_record"), "digits", split=split, silent=True
    )
    # A Frechet distance to the 297 held-out digits alone would be mostly bias.
    return digits._replace(features="digits_classifier", reference="train+test", reference_rows=None, levels=17)


def folder(data_dir: str | None = None) -> pathlib.Path:
    """The folder of the digits in the TFDS directory, for what is made from them."""
    return buckets.path(Digits(data_dir=data_dir, file_format="array_record").data_path).parent
