"""The recipe of Strong Stochastic Flow Maps, see flowjax.losses.strong."""

import functools
from typing import Any

import jax

from flowjax import brownian, checks, conditioning, derivatives
from flowjax.losses import strong
from flowjax.methods import draws, pairs, recipe
from flowjax.times import TimeSampler
from flowjax.typing import Array, InputError, Jvp, Method, Nets, Pair, Point, Term

RULES = ("compositional", "lagrangian")


def strong_flow_map(
    *,
    rule: str = "compositional",
    noise: float = 1.0,
    times: TimeSampler = ("gap_uniform", ("uniform", 0.01, 0.52)),
    anchor_times: TimeSampler = ("gap_uniform", ("uniform", 0.005, 0.01)),
    diagonal: str = "3/4",
    ema: float = 0.999,
    learned_weight: bool = True,
    label_drop: float = 0.1,
    jvp: str | Jvp = "exact",
) -> Method:
    """Strong Stochastic Flow Maps: an anchor on short times, and a rule for jumps along the same noise, on different rows.

    Sampled by "strong", with the noise of its option `noise`, which must be that of the training.

    Args:
      rule: compositional as published, two jumps are one; or lagrangian, ours, the jump follows the drift where it lands.
      noise: strength of the process on the linear path, 1 is ours; the published process is the variance-preserving one, reversed with
        its own noise.
      times: lengths of jumps uniform up to 0.52 as published for CIFAR-10, which then takes two steps or more.
      anchor_times: lengths uniform up to 0.01 as published.
      diagonal: 3/4 as published.
      ema: decay of the weights of the two jumps, a step; 0.999 as published. The lagrangian rule has none.
      learned_weight: as published, whose network for it is another. Errors are summed over the data axes.
      label_drop: ours; the published runs have no labels.

    Raises:
      InputError: for an unknown rule, or a noise below 0.

    Reference: McCallum et al. 2026, Strong Stochastic Flow Maps (arXiv 2606.01086), its code for CIFAR-10, which has the rule of
    composition alone.
    """
    checks.member("rule of strong_flow_map", rule, RULES)
    if not (isinstance(noise, (int, float)) and noise >= 0):
        raise InputError(f"strong_flow_map: noise is {noise!r}; expected a number of at least 0.")
    on, off = recipe.split(diagonal)
    scored, needs = pairs.learned_weight(learned_weight)
    composed = rule == "compositional"
    pair = functools.partial(_composition, noise) if composed else functools.partial(_lagrangian, noise, jvp)
    off_times = draws.split_times(times, ("fixed", 0.5)) if composed else draws.pair_times(times)
    terms = [
        Term(
            "anchor",
            functools.partial(_anchor, noise),
            columns=on,
            times=draws.pair_times(anchor_times),
            extra=_normals,
            **scored,
        ),
        Term(rule, pair, columns=off, times=off_times, extra=_normals, **scored),
    ]
    needs = ({"ema": ema} if composed else {}) | needs
    return recipe.method(terms, points=draws.on_path("linear"), label_drop=label_drop, needs=needs)


def _normals(key: Array, rows: draws.Rows, step: Array) -> dict[str, Array]:
    """Normal numbers for the noise of two spans, the row axis first."""
    x0 = rows["x0"]
    left, right = jax.random.split(key)
    drawn = lambda key: jax.random.normal(key, (x0.shape[0], brownian.COUNT, *x0.shape[1:]), x0.dtype)
    return {"left": drawn(left), "right": drawn(right)}


def _drift(net: Any, point: Point) -> strong.Drift:
    """A network as V(x, s, t, w), on the conditioning of the point."""
    V = pairs.with_inputs(net, point)
    return lambda x, s, t, w: V(x, s, t, conditioning.of_path(w))


def _span(point: Point, name: str, s: Array, t: Array, noise: float) -> Array:
    """Coefficients of the noise of the point between two times, from its normal numbers."""
    return brownian.scaled(point.extra[name].swapaxes(0, 1), s, t, noise)


def _anchor(noise: float, nets: Nets, point: Point) -> Pair:
    w, v = _span(point, "left", point.s, point.t, noise), pairs.velocity(nets, point).v
    return strong.strong_anchor(_drift(nets.V, point), point.x, point.s, point.t, v, w, noise=noise)


def _composition(noise: float, nets: Nets, point: Point) -> Pair:
    m = pairs.middle(point)
    left, right = _span(point, "left", point.s, m, noise), _span(point, "right", m, point.t, noise)
    V, V_target = _drift(nets.V, point), _drift(nets.ema, point)
    return strong.strong_composition(V, V_target, point.x, point.s, point.t, point.a, left, right)


def _lagrangian(noise: float, jvp: str | Jvp, nets: Nets, point: Point) -> Pair:
    w = _span(point, "left", point.s, point.t, noise)
    rule = functools.partial(strong.strong_lagrangian, jvp=derivatives.jvp_from_name(jvp))
    return rule(_drift(nets.V, point), point.x, point.s, point.t, w)
