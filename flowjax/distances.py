"""How a pair is scored: `(prediction, target) -> errors [B]`, one error a row, no mean over the batch.

The first axis is the batch. Hyperparameters are keyword-only: `functools.partial(adaptive, reduce="sum", p=1.0)`.
"""

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from flowjax import options, typing
from flowjax.typing import Array

Distance = Callable[..., Array]  # (prediction, target, **hyperparameters) -> errors [B]
sg = jax.lax.stop_gradient


def squared(prediction: Array, target: Array, *, reduce: str) -> Array:
    """Squared error of each row, summed or averaged over the data axes (`reduce="sum"` or `"mean"`), in float32 or wider."""
    _check_reduce(reduce)
    r = operator.sub(*_wide(prediction, target))
    return getattr(jnp, reduce)(r**2, axis=tuple(range(1, r.ndim)))


def _check_reduce(reduce: str) -> None:
    if reduce not in ("sum", "mean"):
        raise typing.InputError(f'distances: reduce is {reduce!r}; expected "sum" or "mean" over the data axes.')


def _wide(prediction: Array, target: Array) -> tuple[Array, Array]:
    """Both in float32 or wider; raises InputError if their shapes differ."""
    if jnp.shape(prediction) != jnp.shape(target):
        raise typing.InputError(
            f"distances: prediction has shape {jnp.shape(prediction)} but target has shape {jnp.shape(target)}; a pair has"
            " one shape."
        )
    wide = jnp.promote_types(jnp.result_type(prediction, target), jnp.float32)
    return jnp.asarray(prediction, wide), jnp.asarray(target, wide)


def l2(prediction: Array, target: Array, *, reduce: str = "mean") -> Array:
    """Squared error, `e = mean |prediction - target|^2` over the data axes (or the sum).

    Args:
      prediction: [B, ...].
      target: the same shape.
      reduce: "mean" or "sum" over the data axes.

    Returns:
      errors [B].

    Example:
      >>> l2(jnp.ones((2, 4)), jnp.zeros((2, 4))).tolist()
      [1.0, 1.0]
    """
    return squared(prediction, target, reduce=reduce)


def adaptive(prediction: Array, target: Array, *, reduce: str, p: float = 1.0, c: float = 0.01) -> Array:
    """Squared error over a power of itself, so that rows with large errors do not dominate.

        e / sg[(e + c)^p],   e = |prediction - target|^2

    With p = 1 the value is about 1 whatever happens; p = 0.5 with small c is close to the pseudo-Huber distance. Where a target is
    drawn at random, the best prediction is its mean for p = 0 alone; for p = 0.5 it is near its median, for p = 1 near its mode. Where
    rows have one or two numbers, these may lie far apart.

    Args:
      prediction: [B, ...].
      target: the same shape.
      reduce: "sum" or "mean" over the data axes; no default, because it decides what `c` means. Sum: MeanFlow, iMF. Mean:
        SoFlow, AlphaFlow, FACM, DMF.
      p: power, 0 is l2, 1 the published value for latents.
      c: floor of the error, in units of e.

    Returns:
      errors [B].

    Example:
      >>> adaptive(jnp.ones((1, 4)), jnp.zeros((1, 4)), reduce="sum", p=0.5, c=0.0).tolist()
      [2.0]

    Reference: Geng et al. 2025, Mean Flows (arXiv 2505.13447), eq. 22.
    """
    e = squared(prediction, target, reduce=reduce)
    return e / sg((e + c) ** p)


def huber(prediction: Array, target: Array, *, c: float | None = None) -> Array:
    """Pseudo-Huber distance: quadratic for small errors, linear for large ones.

        sqrt(|prediction - target|^2 + c^2) - c,   the norm over all data axes

    Args:
      prediction: [B, ...].
      target: the same shape.
      c: where it turns linear, in units of the norm. None: the published 0.00054 sqrt(D), D the number of data elements.

    Returns:
      errors [B].

    Reference: Song and Dhariwal 2023, iCT (arXiv 2310.14189), eq. 5 and section 3.3.
    """
    e = squared(prediction, target, reduce="sum")
    c = 0.00054 * (jnp.size(prediction) / max(1, e.size)) ** 0.5 if c is None else c
    return jnp.sqrt(e + c**2) - c


def cauchy(prediction: Array, target: Array, *, log_variance: Array | float = 0.0, c: float = 0.01) -> Array:
    """Negative log-likelihood of a Cauchy-like residual with a (possibly learned) log-variance.

        log(exp(-lv) e + c) + lv,   e = mean |prediction - target|^2

    Args:
      prediction: [B, ...].
      target: the same shape.
      log_variance: `lv`, a scalar or [B]; learned as a function of (s, t) in the paper.
      c: floor of the scaled error.

    Returns:
      errors [B], unbounded below.

    Reference: Lee et al. 2025, Decoupled MeanFlow (arXiv 2510.24474), the training loss; c = 0.01 as published.
    """
    e = squared(prediction, target, reduce="mean")
    return jnp.log(jnp.exp(-log_variance) * e + c) + log_variance


def likelihood(prediction: Array, target: Array, *, log_variance: Array | float = 0.0, reduce: str = "mean") -> Array:
    """Squared error under a (possibly learned) variance: the negative log-likelihood of a Gaussian residual.

        exp(-lv) e + lv,   e = |prediction - target|^2

    Learned, `lv` settles at log e, so that every pair of times weighs the same.

    Args:
      prediction: [B, ...].
      target: the same shape.
      log_variance: `lv`, a scalar or [B]; learned as a function of (s, t).
      reduce: "mean" or "sum" over the data axes.

    Returns:
      errors [B], unbounded below.

    Example:
      >>> likelihood(jnp.ones((1, 4)), jnp.zeros((1, 4)), log_variance=0.0).tolist()
      [1.0]

    Reference: Boffi et al. 2025 (arXiv 2505.18825), the learned loss weight; Lu and Song 2024, sCM (arXiv 2410.11081), eq. 8.
    """
    return jnp.exp(-log_variance) * squared(prediction, target, reduce=reduce) + log_variance


def normalised(prediction: Array, target: Array, *, reduce: str, c: float = 0.1) -> Array:
    """Squared error over its norm, so that the gradient is the residual at unit length.

        |r|^2 / sg(|r| + c),   r = prediction - target;   its gradient along the prediction is 2 r / (|r| + c), for "mean" over
                               the number of data elements

    Args:
      prediction: [B, ...].
      target: the same shape.
      reduce: which norm |r| is: "mean", the root of the mean square over the data axes (sCM, AYF), or "sum", the Euclidean one;
        no default, because it decides what `c` means.
      c: floor of the norm, in its units.

    Returns:
      errors [B].

    Example:
      >>> normalised(jnp.full((1, 4), 3.0), jnp.zeros((1, 4)), reduce="mean", c=1.5).tolist()
      [2.0]

    Reference: Lu and Song 2024, sCM (arXiv 2410.11081), tangent normalisation, c = 0.1; Sabour et al. 2025 (arXiv 2506.14603).
    """
    e = squared(prediction, target, reduce=reduce)
    return e / sg(jnp.sqrt(e) + c)


def tangent(prediction: Array, target: Array, *, space: Any, reduce: str = "sum", p: float = 0.0, c: float = 1e-3) -> Array:
    """Squared length of the difference of two tangent vectors at one point of a space, adaptive as in `adaptive`.

        e / sg[(e + c)^p],   e = |prediction - target|^2 in the space's inner product

    Args:
      prediction: [B, ...], tangent vectors along the last axis.
      target: the same shape.
      space: a flowjax.spaces.Space; in R^n this is `adaptive`, with p = 0 `l2`.
      reduce: "sum" over the further axes, or "mean" over all data axes.
      p: power, 0 for none.
      c: floor of the error.

    Returns:
      errors [B].

    Reference: the metric of Chen and Lipman 2023 (arXiv 2302.03660); p and c as in the code of Riemannian MeanFlow (arXiv 2602.07744).
    """
    _check_reduce(reduce)
    square = space.square(operator.sub(*_wide(prediction, target)))
    e = jnp.sum(square, axis=tuple(range(1, square.ndim)))
    e = e if reduce == "sum" else e / (jnp.size(prediction) // max(1, e.size))
    return e if p == 0 else e / sg((e + c) ** p)


def geodesic(prediction: Array, target: Array, *, space: Any, reduce: str = "sum", p: float = 0.0, c: float = 1e-3) -> Array:
    """Squared distance of two points of a space along the geodesic, adaptive as in `tangent`, whose arguments these are.

    Args:
      prediction: [B, ...], points along the last axis.
      target: the same shape.
      space: a flowjax.spaces.Space; in R^n this is `tangent`.
      reduce, p, c: as in `tangent`.

    Returns:
      errors [B], with gradient 0 where the points coincide.

    Reference: the semigroup loss of Riemannian MeanFlow (arXiv 2602.07744), its code.
    """
    way = space.log(*_wide(prediction, target))
    return tangent(way, jnp.zeros_like(way), space=space, reduce=reduce, p=p, c=c)


def features(prediction: Array, target: Array, *, phi: Callable[[Array], Array], distance: Distance = l2) -> Array:
    """A distance between features: the perceptual distance of any network.

        distance(phi(prediction), phi(target))

    Args:
      prediction: [B, ...].
      target: the same shape.
      phi: `[B, ...] -> [B, ...]`, frozen: a classifier's features, an encoder, LPIPS's scaled activations.
      distance: how features are compared; `l2` makes phi = LPIPS's activations into LPIPS.

    Returns:
      errors [B].

    Example:
      >>> features(jnp.ones((2, 4)), jnp.zeros((2, 4)), phi=lambda x: 3 * x).tolist()
      [9.0, 9.0]

    Reference: Zhang et al. 2018, LPIPS (arXiv 1801.03924), as used by consistency models (arXiv 2303.01469) and PID.
    """
    return distance(phi(prediction), phi(target))


def cosine(prediction: Array, target: Array, *, c: float = 1e-8) -> Array:
    """One minus the cosine between prediction and target over the last (channel) axis, averaged over the other axes.

    Args:
      prediction: [B, ..., channels].
      target: the same shape.
      c: added under the square roots, so that zero vectors have distance 1 and a finite gradient.

    Returns:
      errors [B] in [0, 2].

    Reference: the second part of the flow-matching loss of Peng et al. 2025, FACM (arXiv 2507.03738).
    """
    if jnp.shape(prediction) != jnp.shape(target) or jnp.ndim(prediction) < 2:
        raise typing.InputError(
            f"cosine: shapes {jnp.shape(prediction)} and {jnp.shape(target)}; expected one shape [B, ..., channels]."
        )
    wide = jnp.promote_types(jnp.result_type(prediction, target), jnp.float32)
    prediction, target = jnp.asarray(prediction, wide), jnp.asarray(target, wide)
    norms = jnp.sqrt(jnp.sum(prediction**2, -1) + c) * jnp.sqrt(jnp.sum(target**2, -1) + c)
    similarity = jnp.sum(prediction * target, -1) / norms
    return 1 - similarity.reshape(similarity.shape[0], -1).mean(1)


def kl(prediction: Array, target: Array, *, reduce: str = "sum", log_variance: Array | float = 0.0) -> Array:
    """Divergence of predicted categories from given probabilities, Kullback and Leibler's, summed or averaged over the tokens.

        e = sum_k target_k (log target_k - log softmax(prediction)_k),   error = exp(-lv) e + lv

    Its gradient in the prediction is that of the cross-entropy, and of one-hot targets it is the cross-entropy.

    Args:
      prediction: logits [B, ..., K].
      target: probabilities, the same shape.
      reduce: "sum" or "mean" over all axes between the rows and the categories.
      log_variance: `lv`, a scalar or [B], a learned weight of the row.

    Returns:
      errors [B], in nats; at least 0 for a log-variance of 0.

    Example:
      >>> errors = kl(jnp.zeros((1, 3, 2)), jnp.array([[[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]]]))
      >>> errors.shape, round(float(errors[0]), 4)  # 2 log 2
      ((1,), 1.3863)
    """
    if reduce not in ("sum", "mean") or jnp.shape(prediction) != jnp.shape(target) or jnp.ndim(prediction) < 2:
        raise typing.InputError(
            f"kl: reduce is {reduce!r}, prediction has shape {jnp.shape(prediction)} and target {jnp.shape(target)}; expected"
            ' "sum" or "mean" over the tokens, and one shape [B, ..., categories].'
        )
    prediction, target = _wide(prediction, target)
    entropy = jnp.sum(target * jnp.log(jnp.where(target > 0, target, 1)), axis=-1)
    e = entropy - jnp.sum(target * jax.nn.log_softmax(prediction), axis=-1)
    return jnp.exp(-log_variance) * getattr(jnp, reduce)(e.reshape(e.shape[0], -1), axis=1) + log_variance


# What a config may name: those that need no further argument.
DISTANCES: dict[str, Distance] = {"l2": l2, "huber": huber, "cosine": cosine}


def distance_from_name(distance: str | Distance) -> Distance:
    """A distance from its name in a config, or the function `(prediction, target) -> errors [B]` itself."""
    return distance if callable(distance) else options.entry("distance", distance, DISTANCES)
