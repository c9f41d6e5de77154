"""Pixel MeanFlow: improved MeanFlow on images themselves, with perceptual distances beside the velocity's."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from flowjax import derivatives, distances, times as samplers, typing
from flowjax.methods import draws, pairs, recipe
from flowjax.paths import Path
from flowjax.times import TimeSampler
from flowjax.typing import Array, Jvp, Method, Nets, Pair, Point

# `(denoised, data, keys) -> [(weight, errors [rows]), ...]`, see `pmf`.
Perceptual = Callable[[Array, Array, Array], Sequence[tuple[float, Array]]]
# What config.method.perceptual may name. Empty: the weights of perceptual networks are no part of this library. A module of yours
# loads them from where you keep them and adds an entry; config.modules names the module.
PERCEPTUAL: dict[str, Perceptual] = {}


def pmf(
    *,
    times: TimeSampler = ("sorted_pair", ("logit_normal", 0.8, 0.8)),
    anchor_times: TimeSampler = ("logit_normal", 0.8, 0.8),
    uniform_share: float = 0.0,
    diagonal: str = "1/2",
    heads: int = 1,
    floor: float = 0.05,
    perceptual: str | Perceptual | None = None,
    perceptual_below: float = 0.8,
    p: float = 1.0,
    c: float = 0.01,
    path: str | Path = "linear",
    label_drop: float = 0.1,
    jvp: str | Jvp = "exact",
) -> Method:
    """Pixel MeanFlow: improved MeanFlow's loss on the velocity of a network that predicts the denoised image field.

    The rewriting V = (x - D) / max(s, floor) is the network's: config.model.parameterisation = "denoised_field". The perceptual
    distances compare D(x, s, t) = x - s V(x, s, t) with the data, on all rows with s below a bound; each is divided by a stopped
    power of itself, as the velocity's is. The noise of larger runs is wider: path "linear:noise=2".

    Args:
      times: N(0, 0.8^2) under the logistic function in the longer runs.
      uniform_share: share of the rows whose times are uniform; 0.1 in the longer runs.
      diagonal: half of the rows have t = s.
      heads: 2, as published, for a network with a velocity head; 1 for any network.
      floor: least divisor of the data's velocity (x - x0) / max(s, floor), which is that of the parameterisation.
      perceptual: `(denoised, data, keys) -> [(weight, errors [rows]), ...]` with images [rows, ...] as the network sees them and a
        typed key a row, for a random crop of both; or the name of an entry of PERCEPTUAL; None or "": no perceptual terms.
        Published: LPIPS with weight 0.4 and the squared distance between classifications by ConvNeXt-V2 with weight 0.1, both on
        one random crop of 8% to 100% of the image with sides 3:4 to 4:3, resized to 224.
      perceptual_below: source time below which the perceptual terms count: 0.8, and 0.6 in the longer runs.
      p: power of the adaptive distances.
      c: their floor, on the SUM of squares over the data axes, and on the perceptual errors.

    Raises:
      InputError: for another number of heads, or an unknown perceptual distance.

    Reference: Lu et al. 2026 (arXiv 2601.22158), Table 8; floor and perceptual terms from its code.
    """
    on, off = recipe.split(diagonal)
    distance = functools.partial(distances.adaptive, reduce="sum", p=p, c=c)
    if uniform_share:
        one, two = (samplers.sampler_from_name(spec, draws=n) for n, spec in ((1, anchor_times), (2, times)))
        anchor_times = samplers.mixed(uniform_share, samplers.uniform(), one)
        times = samplers.mixed(uniform_share, samplers.uniform_triangle(), two)
    flow, slope, needs = _velocities(heads, derivatives.jvp_from_name(jvp), _comparison(perceptual, perceptual_below, p, c))
    term = functools.partial(typing.Term, distance=distance, extra=_keys if perceptual else None)
    anchor = term("anchor", flow, columns=on, times=draws.diagonal_times(anchor_times))
    eulerian = term("eulerian", slope, columns=off, times=draws.pair_times(times))
    return recipe.method([anchor, eulerian], points=draws.on_path(path, floor), label_drop=label_drop, needs=needs)


def _keys(key: Array, rows: Any, step: Any) -> dict[str, Array]:
    """A key a row, for the random crops of the perceptual terms."""
    return {"perceptual": jax.random.split(key, len(rows["x0"]))}


def _velocities(heads: int, jvp: Jvp, compare: Any) -> tuple[Any, Any, dict[str, Any]]:
    """Improved MeanFlow's anchor and rule, with perceptual errors unless `compare` is None, and the networks that they need."""
    flow, loss, needs = pairs.velocity_heads(heads)
    slope = pairs.pair(loss)
    if compare is None:
        return flow, functools.partial(slope, jvp=jvp), needs

    def anchored(nets: Nets, point: Point) -> Any:
        result = flow(nets, point)
        return compare(point, _first(result).prediction, result)

    def sloped(nets: Nets, point: Point) -> Any:
        primal = []  # V(x, s, t), which the derivative computes anyway

        def recording(function: Any, at: Any, along: Any, **more: Any) -> Any:
            out = jvp(function, at, along, **more)
            primal.append(out[0])
            return out

        result = slope(nets, point, jvp=recording)
        return compare(point, primal[0], result)

    return anchored, sloped, needs


def _first(result: Pair | tuple[Pair, Pair]) -> Pair:
    """The average velocity's pair."""
    return result if isinstance(result, Pair) else result[0]


def _comparison(perceptual: str | Perceptual | None, below: float, p: float, c: float) -> Any:
    """`(point, V_st, result) -> {head: Pair, "perceptual": errors [rows]}`; None without perceptual terms."""
    if not perceptual:
        return None
    if not callable(perceptual) and perceptual not in PERCEPTUAL:
        raise typing.InputError(
            f"perceptual is {perceptual!r}, and flowjax.methods.pixel.PERCEPTUAL has {', '.join(PERCEPTUAL) or 'no entry'}; expected a"
            " function, or the name of an entry that a module of yours adds, named in config.modules."
        )
    measure: Perceptual = perceptual if callable(perceptual) else PERCEPTUAL[perceptual]

    def errors(point: Point, V_st: Array) -> Array:
        denoised = (point.x - point.s * V_st).astype(point.x.dtype)
        measured = measure(denoised, point.x0, point.extra["perceptual"])
        adapted = lambda error: error / jax.lax.stop_gradient((error + c) ** p)
        total = sum(weight * adapted(error) for weight, error in measured)
        return jnp.where(point.s.reshape(-1) < below, total, 0.0)

    def compare(point: Point, V_st: Array, result: Pair | tuple[Pair, Pair]) -> dict[str, Any]:
        heads = {"V": result} if isinstance(result, Pair) else dict(zip(("V", "velocity"), result))
        return {**heads, "perceptual": errors(point, V_st)}

    return compare
