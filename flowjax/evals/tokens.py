"""Measures of sequences of tokens: whole numbers [n, L], of which -1 stands for a number that is not finite."""

import numpy as np

from flowjax import typing


def ngram_distance(samples: np.ndarray, reference: np.ndarray, *, n: int) -> float:
    """Total variation between the frequencies of n tokens in a row, at any place.

    Args:
      samples: [N, L] whole numbers.
      reference: [M, L] likewise.
      n: 1 for unigrams, up to L.

    Returns:
      A distance in [0, 1]: half the sum of the absolute differences of the frequencies.

    Example:
      >>> ngram_distance(np.array([[0, 1, 1]]), np.array([[0, 1, 0]]), n=2)
      0.5
    """
    if samples.ndim != 2 or samples.shape[1:] != reference.shape[1:] or not 1 <= n <= samples.shape[1]:
        raise typing.InputError(
            f"ngram_distance: samples {samples.shape}, reference {reference.shape} and n = {n}; expected tokens [N, L] and [M, L], and n"
            " from 1 to L."
        )
    windows = [np.lib.stride_tricks.sliding_window_view(rows, n, axis=1).reshape(-1, n) for rows in (samples, reference)]
    every, first = np.concatenate(windows) + 1, len(windows[0])
    base = int(every.max()) + 1
    if base**n < 2**62:  # one number a window sorts much faster than rows
        every = every.astype(np.int64) @ base ** np.arange(n, dtype=np.int64)
    codes, where = np.unique(every, axis=0, return_inverse=True)
    where = where.reshape(-1)
    shares = [np.bincount(part, minlength=len(codes)) / len(part) for part in (where[:first], where[first:])]
    return float(np.abs(shares[0] - shares[1]).sum() / 2)


def existing(samples: np.ndarray, training: np.ndarray, held_out: np.ndarray) -> float:
    """Share of samples that are a row of the data, one that was learned from or a held-out one; [N, L], [M, L] and [K, L]."""
    return float(np.mean(exist(samples, training, held_out)))


def unseen(samples: np.ndarray, training: np.ndarray, held_out: np.ndarray) -> float:
    """Share of samples that are a row of the held-out data, and none that was learned from; [N, L], [M, L] and [K, L]."""
    return float(np.mean(are_unseen(samples, training, held_out)))


def exist(samples: np.ndarray, training: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Which samples `existing` counts, bool [N]."""
    known = {*_keys(training), *_keys(held_out)}
    return np.array([key in known for key in _keys(samples)])


def are_unseen(samples: np.ndarray, training: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Which samples `unseen` counts, bool [N]."""
    others = {*_keys(held_out)} - {*_keys(training)}
    return np.array([key in others for key in _keys(samples)])


def distinct(samples: np.ndarray) -> float:
    """Number of different samples over the number of samples, [N, L]; 1: none stands twice."""
    return len({*_keys(samples)}) / len(samples)


def certainty(samples: np.ndarray) -> float:
    """Mean of the largest entry of a token, before it is decided, [N, L, K]; 1: all tokens are corners of the simplex."""
    return float(np.asarray(samples).max(axis=-1).mean())


def _keys(rows: np.ndarray) -> list[bytes]:
    """One hashable value a row."""
    return [row.tobytes() for row in np.ascontiguousarray(rows, np.int64)]
