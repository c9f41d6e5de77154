"""Sequences of tokens as one-hot rows [L, K]: digits as grey levels, English words as letters, and integer arrays of an .npz file."""

import functools
import zlib
from collections.abc import Sequence

import numpy as np

from flowjax import buckets, opening, typing
from flowjax.data import pipeline

LEVELS = 17  # grey levels of the digits, 0..16
LETTERS = "abcdefghijklmnopqrstuvwxyz"
LONGEST = 10  # letters of a word
END = 0  # the token after the last letter, up to the length of the row


def one_hot(tokens: np.ndarray, categories: int) -> np.ndarray:
    """Tokens [..., L] in 0..K - 1 -> float32 [..., L, K]."""
    return np.eye(categories, dtype=np.float32)[tokens]


def decided(x: np.ndarray) -> np.ndarray:
    """The likeliest token of rows or samples, [..., L, K] -> integers [..., L]; -1 where a number is not finite."""
    x = np.asarray(x)
    return np.where(np.isfinite(x).all(axis=-1), np.where(np.isfinite(x), x, 0).argmax(axis=-1), -1)


def text(x: np.ndarray) -> list[str]:
    """Rows or samples of words, [n, L, K] -> a string each, up to its first end; a token that is not finite is "?"."""
    letters = np.array(["", *LETTERS, "?"])
    return ["".join(letters[row[: np.argmax(row == END) if (row == END).any() else None]]) for row in decided(x)]


def lines(x: np.ndarray) -> np.ndarray:
    """Rows or samples [n, L, K] as one line of grey pixels each, [n, 1, L, 1] in [-1, 1]; nan where not finite."""
    levels = decided(x).astype(np.float32)
    levels = np.where(levels < 0, np.nan, levels) / ((x.shape[-1] - 1) / 2) - 1
    return levels[:, None, :, None]


def digit_images(x: np.ndarray) -> np.ndarray:
    """Rows or samples of digits [n, 64, 17] as grey images [n, 8, 8, 1] in [-1, 1]; nan where not finite."""
    return lines(x).reshape(-1, 8, 8, 1)


def digits_split(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of the digits to train on (1,500) and of those held out (297), stratified by label."""
    # Evenly spaced picks from a random order sorted by label.
    order = np.lexsort((np.random.default_rng(0).random(len(labels)), labels))
    held_out = np.arange(297) * len(labels) // 297
    return np.delete(order, held_out), order[held_out]


def digits(*, split: str = "train", data_dir: str | None = None) -> pipeline.Source:
    """scikit-learn's digits as 64 tokens of 17 grey levels, row by row; the rows of each split are those of the dataset digits.

    Args:
      split: "train" (1,500), "test" (297), or "train+test".
      data_dir: where the classifier of the measures is kept, beside the dataset digits.

    Returns:
      A source of float32 [64, 17] with 10 classes.
    """
    del data_dir
    from sklearn import datasets

    pixels, labels = datasets.load_digits(return_X_y=True)
    train, test = digits_split(labels)
    ids = _of_split("digits_tokens", split, {"train": train, "test": test, "train+test": np.concatenate([train, test])})
    source = _source("digits_tokens", pixels[ids].astype(np.int64), LEVELS, labels[ids], 10)
    # A Frechet distance to the 297 held-out digits alone would be mostly bias.
    return source._replace(features="digit_tokens_classifier", reference="train+test", reference_rows=None)


def words(*, split: str = "train", data_dir: str | None = None) -> pipeline.Source:
    """English words of one to ten letters a-z, as rows of ten tokens: letters 1..26, then ends 0.

    Webster's Second International (1934), from the package english-words. Held out are the words whose CRC-32 is a multiple of 10.

    Args:
      split: "train" or "test".
      data_dir: unused; every dataset takes it.

    Returns:
      An unlabelled source of float32 [10, 27], in alphabetical order.

    Raises:
      InputError: the package is not installed.
    """
    del data_dir
    listed = _listed()
    held_out = np.array([zlib.crc32(word.encode()) % 10 == 0 for word in listed])
    ids = _of_split("words", split, {"train": np.flatnonzero(~held_out), "test": np.flatnonzero(held_out)})
    rows = _source("words", spelled([listed[i] for i in ids]), len(LETTERS) + 1)
    return rows._replace(reference_rows=None)  # all that exist


def spelled(listed: Sequence[str]) -> np.ndarray:
    """Words of at most ten letters a-z as tokens [n, 10]."""
    bytes_ = np.frombuffer("".join(word.ljust(LONGEST, "`") for word in listed).encode(), np.uint8)
    return (bytes_.reshape(-1, LONGEST) - ord("`")).astype(np.int64)


@functools.cache
def _listed() -> list[str]:
    try:
        import english_words
    except ModuleNotFoundError:
        raise typing.InputError(
            "the dataset words needs the package english-words, which is not installed: pip install english-words, or"
            " flowjax-flowmaps[words]."
        ) from None
    every = english_words.get_english_words_set(["web2"], alpha=True, lower=True)
    return sorted(word for word in every if 1 <= len(word) <= LONGEST and set(word) <= set(LETTERS))


def arrays(*, split: str = "train", data_dir: str | None = None) -> pipeline.Source:
    """Integer arrays of the .npz file config.data.dir: "train" and "test", or "tokens", of which every tenth row is held out.

    All are [n, L] of whole numbers from 0; the number of categories is one more than the largest. "train_label" and "test_label", or
    "label", [n], are classes, if they are there.

    Args:
      split: "train" or "test".
      data_dir: the file.

    Returns:
      A source of float32 [L, K].

    Raises:
      InputError: there is no such file, or it holds something else.
    """
    expected = 'an .npz file with whole numbers "tokens" [n, L], or "train" and "test": config.data.dir=FILE.npz'
    if not data_dir:
        raise typing.InputError(f"the dataset tokens is read from a file, and config.data.dir is empty; expected {expected}.")
    content = _read(buckets.absolute(data_dir), expected)
    ids = _of_split("tokens", split, {"train": ..., "test": ...})
    if "tokens" in content:
        ids = pipeline.every_tenth(len(content["tokens"]), split)
        chosen, labels = content["tokens"], content.get("label")
    else:
        chosen, labels = content[split], content.get(f"{split}_label")
    categories = 1 + max(int(content[name].max()) for name in _names(content))
    classes = [content[_label(name)].max() for name in _names(content) if _label(name) in content]
    rows = None if labels is None else labels[ids]
    return _source("tokens", chosen[ids], categories, rows, 1 + int(max(classes)) if rows is not None else 0)


@functools.lru_cache(maxsize=2)
def _read(path: str, expected: str) -> dict[str, np.ndarray]:
    with opening.reading(path, expected):
        content = opening.npz(path, expected)
        for name in _names(content):
            if name not in content:
                raise ValueError(f"it has no array {name!r}")
            rows, label = content[name], content.get(_label(name))
            if rows.ndim != 2 or not rows.size or rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() >= 2**16:
                raise ValueError(
                    f"its {name!r} has shape {rows.shape} and type {rows.dtype}, or numbers below 0 or above 65,535"
                )
            if label is not None and (label.shape != rows.shape[:1] or label.dtype.kind not in "iu" or label.min() < 0):
                raise ValueError(f"its labels of {name!r} have shape {label.shape} and type {label.dtype}")
        if len({content[name].shape[1] for name in _names(content)}) > 1:
            raise ValueError("its rows have different lengths")
    return content


def _names(content):
    """Names of the arrays of tokens in a file."""
    return ("tokens",) if "tokens" in content else ("train", "test")


def _label(name):
    """The name of the classes of an array of tokens."""
    return "label" if name == "tokens" else f"{name}_label"


def _of_split(name, split, rows):
    if split not in rows:
        raise typing.InputError(f"{name} has no split {split!r}; its splits are {', '.join(rows)}.")
    return rows[split]


def _source(name, tokens, categories, labels=None, num_classes=0):
    def rows(ids):
        batch = {"x": one_hot(tokens[ids], categories)}
        return batch if labels is None else {**batch, "label": labels[ids].astype(np.int32)}

    return pipeline.Source(name, len(tokens), (tokens.shape[1], categories), num_classes, rows)
