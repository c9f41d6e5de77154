"""The kinds of guidance that a config may name, and the draw of scales and intervals."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flowjax import checks
from flowjax.guidance import formulas, scales
from flowjax.typing import Array, Method, Point


class Target(NamedTuple):
    """A guidance inside the training target.

    Attributes:
      guide: the function `(nets, point, V_ss=None, **constants) -> Guided`.
      scale: `(point, **constants) -> w`, the scale that it reaches at a point's time.
      power: of the density ~ w^-power of the scales that rows draw.
      constants: names of the fields of config.guidance that the kind has: constants of `guide` and `scale`, each of which takes those
        that it knows, or "power".
      weighted: whether the errors of a row are weighted by 1 / w^2.
      draws_interval: whether rows draw an interval of times, an input of the network.
      tells_dropped: whether rows whose label was dropped keep the scale and the interval that they drew as inputs; otherwise they
        are told w = 1.
      logits: for methods that learn categories, `(nets, point, logits) -> logits that are scored on the data`; None: not for these.
    """

    guide: Callable[..., formulas.Guided]
    scale: Callable[..., Array]
    power: float = 1.0
    constants: tuple[str, ...] = ()
    weighted: bool = False
    draws_interval: bool = False
    tells_dropped: bool = False
    logits: Callable[..., Array] | None = None


TARGETS = {
    "meanflow": Target(formulas.meanflow, scales.within, constants=("k", "interval")),
    "imf": Target(formulas.imf, scales.within_drawn, constants=("power",), draws_interval=True, tells_dropped=True),
    "dmf": Target(formulas.dmf, scales.within, constants=("interval",)),
    "tvm": Target(formulas.tvm, scales.everywhere, power=0.0, weighted=True),
    "soflow": Target(formulas.soflow, scales.fading, constants=("mix", "decay")),
    "guidance_free": Target(
        formulas.guidance_free, scales.everywhere, power=2.0, weighted=True, logits=formulas.guidance_free_logits
    ),
}
TEACHERS = ("classifier_free", "autoguidance")
KINDS = (*TARGETS, *TEACHERS)


def target_from_name(kind: str, **constants: Any) -> Target:
    """The Target of a kind with its constants bound: `guide(nets, point, V_ss=None)` and `scale(point)`.

    Constants that the kind has no use for are left out.

    Raises:
      InputError: for an unknown kind.
    """
    checks.member("guidance", kind, TARGETS)
    target = TARGETS[kind]
    taken = {name: constants[name] for name in target.constants if name in constants}

    def bound(function: Callable) -> Callable:
        known = inspect.signature(function).parameters
        return functools.partial(function, **{name: value for name, value in taken.items() if name in known})

    return target._replace(guide=bound(target.guide), scale=bound(target.scale), power=taken.get("power", target.power))


def quantile(kind: str, u: Any, low: float, high: float, power: float | None = None) -> Any:
    """Quantile u in [0, 1] of the scales of a kind of guidance between low and high: u uniform is a draw, 1/2 the median.

    Their density is ~ w^-power; None: the power of the kind, and uniform on a teacher.
    """
    default = TARGETS[kind].power if kind in TARGETS else 0.0
    return scales.power_law(u, low, high, default if power is None else power)


def drawing(
    method: Method, kind: str, scale: tuple[float, float], *, power: float | None = None, whole: float = 0.25
) -> Method:
    """`method` with a scale for every row in the cond of all its terms and, for a kind with intervals, an interval of times.

    The ends of an interval are uniform on [0, 1/2] and [1/2, 1].

    Args:
      method: a flowjax.typing.Method.
      kind: one of KINDS.
      scale: (low, high), the lowest at least 1; equal for a fixed scale.
      power: of the density of the scales, as of `quantile`.
      whole: share of the rows that are guided at all times, for methods none of whose terms always is.
    """

    def draw(key: Array, batch: Mapping[str, Array], step: Any) -> dict[str, Point]:
        scale_key, interval_key, whole_key, method_key = jax.random.split(key, 4)
        rows = batch["x"].shape[:1]
        added = {"guidance": quantile(kind, jax.random.uniform(scale_key, rows), *scale, power=power)}
        if kind in TARGETS and TARGETS[kind].draws_interval:
            ends = jax.random.uniform(interval_key, (*rows, 2)) / 2 + jnp.array([[0.0, 0.5]])
            at_all_times = jax.random.bernoulli(whole_key, whole, (*rows, 1))
            added["interval"] = jnp.where(at_all_times, jnp.array([[0.0, 1.0]]), ends)
        return method.draw(method_key, {**batch, **added}, step)

    return method._replace(draw=draw)
