"""Inception score: how certain a classifier is of each sample, and how many classes the samples have."""

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
    if seed is not None:
        logits = logits[np.random.RandomState(seed).permutation(len(logits))]  # noqa: NPY002, for the published order
    logs = logits - logits.max(axis=1, keepdims=True)
    logs -= np.log(np.exp(logs).sum(axis=1, keepdims=True))
    edges = [len(logits) * i // splits for i in range(splits + 1)]
    scores = [_score(logs[start:end]) for start, end in zip(edges, edges[1:])]
    return float(np.mean(scores)), float(np.std(scores))


def _score(logs: np.ndarray) -> float:
    p = np.exp(logs)
    marginal = np.maximum(p.mean(axis=0), np.finfo(np.float64).tiny)
    return float(np.exp((p * (logs - np.log(marginal))).sum(axis=1).mean()))
