"""The kinds of guidance that a config may name, and the draw of scales and intervals."""

import functools
import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flowjax import checks
from flowjax.guidance import formulas, scales
from flowjax.typing import Array, Method


class Target(NamedTuple):
    """A guidance inside the training target.

    Attributes:
      guide: the function `(nets, point, V_ss=None, **constants) -> Guided`.
      scale: `(point, **constants) -> w`, the scale that it reaches at a point's time.
      quantile: of the scales that a row draws, `(u, low, high) -> w`.
      constants: names of those constants of `guide` that config.guidance has; `scale` takes those of them that it knows.
      weighted: whether the errors of a row are weighted by 1 / w^2.
      draws_interval: whether rows draw an interval of times, an input of the network.
    """

    guide: Callable[..., formulas.Guided]
    scale: Callable[..., Array]
    quantile: Callable = scales.inverse
    constants: tuple[str, ...] = ()
    weighted: bool = False
    draws_interval: bool = False


TARGETS = {
    "meanflow": Target(formulas.meanflow, scales.within, constants=("k", "interval")),
    "imf": Target(formulas.imf, scales.within_drawn, draws_interval=True),
    "dmf": Target(formulas.dmf, scales.within, constants=("interval",)),
    "tvm": Target(formulas.tvm, scales.everywhere, quantile=scales.uniform, weighted=True),
    "soflow": Target(formulas.soflow, scales.fading, constants=("mix", "decay")),
    "guidance_free": Target(formulas.guidance_free, scales.everywhere, quantile=scales.reciprocal, weighted=True),
}
TEACHERS = ("classifier_free", "autoguidance")
KINDS = (*TARGETS, *TEACHERS)


def target_from_name(kind: str, **constants) -> Target:
    """The Target of a kind with its constants bound: `guide(nets, point, V_ss=None)` and `scale(point)`.

    Constants that the kind has no use for are left out.

    Raises:
      InputError: for an unknown kind.
    """
    checks.member("guidance", kind, TARGETS)
    target = TARGETS[kind]
    taken = {name: constants[name] for name in target.constants if name in constants}
    at_times = {name: value for name, value in taken.items() if name in inspect.signature(target.scale).parameters}
    return target._replace(guide=functools.partial(target.guide, **taken), scale=functools.partial(target.scale, **at_times))


def quantile(kind: str, u, low: float, high: float):
    """Quantile u in [0, 1] of the scales of a kind of guidance between low and high: u uniform is a draw, 1/2 the median."""
    return (TARGETS[kind].quantile if kind in TARGETS else scales.uniform)(u, low, high)


def drawing(method: Method, kind: str, scale: tuple[float, float], *, whole: float = 0.25) -> Method:
    """`method` with a scale for every row in the cond of all its terms and, for a kind with intervals, an interval of times.

    The ends of an interval are uniform on [0, 1/2] and [1/2, 1].

    Args:
      method: a flowjax.typing.Method.
      kind: one of KINDS.
      scale: (low, high), the lowest at least 1; equal for a fixed scale.
      whole: share of the rows that are guided at all times. Otherwise the interval (0, 1), which sampling uses by default, has
        probability 0 in training.
    """

    def draw(key, batch, step):
        scale_key, interval_key, whole_key, method_key = jax.random.split(key, 4)
        rows = batch["x"].shape[:1]
        added = {"guidance": quantile(kind, jax.random.uniform(scale_key, rows), *scale)}
        if kind in TARGETS and TARGETS[kind].draws_interval:
            ends = jax.random.uniform(interval_key, (*rows, 2)) / 2 + jnp.array([[0.0, 0.5]])
            at_all_times = jax.random.bernoulli(whole_key, whole, (*rows, 1))
            added["interval"] = jnp.where(at_all_times, jnp.array([[0.0, 1.0]]), ends)
        return method.draw(method_key, {**batch, **added}, step)

    return method._replace(draw=draw)
