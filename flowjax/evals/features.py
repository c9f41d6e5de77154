"""Networks in whose features samples are compared with data, and decoders to images, by the names that datasets give.

A dataset names its extractor and its decoder: `flowjax.data.Source.features` and `.decode`. A new one is an entry here.
"""

from collections.abc import Callable

import numpy as np

from flowjax import checks, data
from flowjax.evals import classifier


def digits_classifier(data_dir: str = "") -> classifier.Classifier:
    """The small classifier of the digits, fitted to the training rows once and cached beside the dataset.

    Args:
      data_dir: of the dataset, see flowjax.data.load.
    """
    from flowjax.data import digits  # tensorflow_datasets takes seconds to import

    source = data.load("digits", data_dir=data_dir)
    rows, path = data.arrays(source), digits.folder(data_dir or None) / "classifier.npz"
    return classifier.load_or_fit(path, rows["x"], rows["label"], num_classes=source.num_classes)


def digit_tokens_classifier(data_dir: str = "") -> classifier.Classifier:
    """`digits_classifier` of digits that are tokens."""
    of_images, images = digits_classifier(data_dir), data.tokens.digit_images
    return classifier.Classifier(lambda x: of_images.features(images(x)), lambda x: of_images.logits(images(x)))


# name -> (data_dir -> Classifier); one without `logits` has features alone.
EXTRACTORS: dict[str, Callable[[str], classifier.Classifier]] = {
    "digits_classifier": digits_classifier,
    "digit_tokens_classifier": digit_tokens_classifier,
}
# name -> (data_dir -> (rows [n, ...] -> images [n, H, W, C] in [-1, 1])), of datasets of latents
DECODERS: dict[str, Callable[[str], Callable[[np.ndarray], np.ndarray]]] = {}


def extractor(source: data.Source, data_dir: str = "") -> classifier.Classifier | None:
    """The extractor that a dataset names, None if it names none; raises InputError for an unknown name."""
    if not source.features:
        return None
    checks.member("extractor", source.features, EXTRACTORS)
    return EXTRACTORS[source.features](data_dir)


def decoder(source: data.Source, data_dir: str = "") -> Callable[[np.ndarray], np.ndarray]:
    """The decoder that a dataset names, the identity if it names none; raises InputError for an unknown name."""
    if not source.decode:
        return lambda rows: rows
    checks.member("decoder", source.decode, DECODERS)
    return DECODERS[source.decode](data_dir)
