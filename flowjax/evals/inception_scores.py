"""Inception score: how certain a classifier is of each sample, and how many classes the samples have."""

from typing import NamedTuple

import numpy as np

from flowjax import typing


def inception_score(logits: np.ndarray, splits: int = 10, seed: int | None = None) -> tuple[float, float]:
    """Mean and deviation of the score over equal parts of the samples.

        exp(mean_i KL(p(y | x_i) || p(y))),   p(y) = mean_i p(y | x_i)

    Args:
      logits: [n, classes]. For published numbers they are Inception's 1,008 without the bias of its last layer.
      splits: parts; their scores are averaged.
      seed: None: the samples stay in their order, as ADM's evaluator has them. A number: they are shuffled first by
        numpy.random.RandomState(seed); torch-fidelity and imeanflow take 2020.

    Returns:
      (mean, deviation); nan if a logit is not finite.

    Raises:
      InputError: there are fewer samples than parts, or the logits are no matrix.

    Source: arXiv 1606.03498, section 4.
    """
    logits = np.asarray(logits, np.float64)
    if logits.ndim != 2 or splits < 1 or len(logits) < splits or not logits.shape[1]:
        raise typing.InputError(
            f"inception_score: got logits of shape {logits.shape} for {splits} parts; expected [n, classes] with a sample or more a part."
        )
    if not np.isfinite(logits).all():
        return float("nan"), float("nan")
    return of_totals(totals(logits, parts(len(logits), splits, seed), splits))


class Totals(NamedTuple):
    """What the score needs of logits, part by part; those of disjoint sets are added.

    Attributes:
      count: of samples, [splits].
      p: the sum of p(y | x), [splits, classes].
      p_log_p: the sum of p(y | x) log p(y | x) over samples and classes, [splits].
    """

    count: np.ndarray
    p: np.ndarray
    p_log_p: np.ndarray


def parts(count: int, splits: int = 10, seed: int | None = None) -> np.ndarray:
    """Which part each of `count` samples belongs to, [count]; arguments as of `inception_score`."""
    edges = [count * i // splits for i in range(splits + 1)]
    part = np.repeat(np.arange(splits), np.diff(edges))
    if seed is None:
        return part
    shuffled = np.empty(count, part.dtype)
    shuffled[np.random.RandomState(seed).permutation(count)] = part  # noqa: NPY002, for the published order
    return shuffled


def totals(logits: np.ndarray, part: np.ndarray, splits: int = 10) -> Totals:
    """Totals of logits [n, classes] of samples in these parts [n]."""
    logits = np.asarray(logits, np.float64)
    logs = logits - logits.max(axis=1, keepdims=True)
    logs -= np.log(np.exp(logs).sum(axis=1, keepdims=True))
    p = np.exp(logs)
    chosen = (part[None, :] == np.arange(splits)[:, None]).astype(np.float64)
    return Totals(chosen.sum(axis=1), chosen @ p, chosen @ (p * logs).sum(axis=1))


def of_totals(sums: Totals) -> tuple[float, float]:
    """Mean and deviation of the score over the parts, each of which has samples; nan if a logit was not finite."""
    marginal = np.maximum(sums.p / sums.count[:, None], np.finfo(np.float64).tiny)
    scores = np.exp(sums.p_log_p / sums.count - (marginal * np.log(marginal)).sum(axis=1))
    return float(np.mean(scores)), float(np.std(scores))
