"""The recipe of Variational Flow Maps, see flowjax.losses.variational: a map and a noise adapter for one kind of measurement."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from flowjax import checks, distances, inverse, times
from flowjax.losses import variational
from flowjax.methods import compositional, draws, eulerian, lagrangian, pairs, recipe
from flowjax.typing import Array, InputError, Method, Nets, Network, Point, Term

# Rules that learn all jumps from data. A teacher's velocity is that of normal noise, and not of adapted one.
RULES = {
    "meanflow": functools.partial(eulerian.meanflow, times=("sorted_pair", ("uniform",))),
    "imf": functools.partial(eulerian.imf, times=("sorted_pair", ("uniform",))),
    "esd": functools.partial(eulerian.esd, learned_weight=False),
    "lsd": functools.partial(lagrangian.lsd, learned_weight=False),
    "psd": functools.partial(compositional.psd, learned_weight=False),
}


def variational_flow_map(
    *,
    measure: str = "mask",
    sigma: float = 0.1,
    tau: float = 1.0,
    adapted: float = 0.5,
    rule: str = "meanflow",
    label_drop: float = 0.1,
) -> Method:
    """Variational Flow Maps: a map learns by a rule, on a share of the rows from the noise of an adapter, which learns along.

    The errors of the rule are summed squares times 1 / (2 tau^2). The published code divides the sum of all errors by itself besides,
    each row in its code for images, the batch in that for points; here it is left as it is.

    Args:
      measure: as of flowjax.inverse.measurement_from_name, of data as the network sees them. The first half of a row by default, as in
        the published code for points, whose measurement is the first coordinate.
      sigma: deviation of the noise of a measurement; 0.1 in the published code for points, 0.05 in that for images.
      tau: weight of the rule against the adapter's errors; 1 in the published script for points.
      adapted: share of rows from the adapter's noise; 0.5 in the published code for points, 0.8 in that for images.
      rule: a key of RULES with its published constants but times, which are uniform, and without learned weights. MeanFlow as
        published.
      label_drop: 0.1 as published for images.

    Raises:
      InputError: for an unknown rule or measurement, or constants outside their ranges.

    Reference: Mammadov et al. 2026, Variational Flow Maps (arXiv 2603.07276), and its code.
    """
    checks.member("rule of a variational flow map", rule, RULES)
    inverse.check_measurement(measure)
    if not (sigma > 0 and tau > 0 and 0 <= adapted <= 1):
        raise InputError(
            f"variational_flow_map: sigma, tau and adapted are {sigma}, {tau} and {adapted}; expected numbers above 0, and a share."
        )
    measured = functools.partial(_measured, measure, sigma, adapted)
    squares = functools.partial(distances.l2, reduce="sum")
    of_rule = [
        term._replace(pair=_on_adapted(measure, term.pair), distance=squares, weight=1 / (2 * tau**2), extra=measured)
        for term in RULES[rule](label_drop=label_drop).terms
    ]
    learn = functools.partial(_of_adapter, measure, sigma)
    noise = Term("adapter", learn, None, times=draws.diagonal_times(("fixed", 1.0)), trains=("noise_adapter",), extra=measured)
    needs = {"noise_adapter": Network("NoiseAdapter")}
    return recipe.method([*of_rule, noise], points=draws.on_path("linear"), label_drop=label_drop, needs=needs)


def _measured(measure: str, sigma: float, adapted: float, key: Array, rows: draws.Rows, step: Array) -> dict[str, Array]:
    """A measurement of the data of each row, the adapter's normal noise, and which rows begin at adapted noise."""
    x0 = rows["x0"]
    A = inverse.measurement_from_name(measure, x0.shape[1:])
    measure_key, noise_key, share_key = jax.random.split(key, 3)
    clean = A(x0)
    y = clean + sigma * jax.random.normal(measure_key, clean.shape, clean.dtype)
    chosen = jax.random.bernoulli(share_key, adapted, x0.shape[:1])
    return {"y": y, "noise": jax.random.normal(noise_key, x0.shape, x0.dtype), "adapted": chosen}


def _of_measurement(nets: Nets, point: Point, measure: str) -> tuple[inverse.Measurement, variational.Adapter, Array]:
    """The measurement of the point, the noise adapter, and what it sees."""
    network = pairs.bind(nets.noise_adapter, point)
    A = inverse.measurement_from_name(measure, point.x0.shape[1:])
    return A, lambda seen: network(seen, 1.0, 0.0), inverse.seen(A, point.extra["y"], point.x0)


def _of_adapter(measure: str, sigma: float, nets: Nets, point: Point) -> Array:
    """The errors of the adapter; the term trains nothing else, so that V has stopped weights."""
    A, adapter, seen = _of_measurement(nets, point, measure)
    return variational.variational_flow_map(
        pairs.bind(nets.V, point), adapter, A, point.extra["y"], seen, point.extra["noise"], sigma=sigma
    )


def _on_adapted(measure: str, pair: pairs.Supplied) -> pairs.Supplied:
    """`pair` at points between the data and the adapter's noise, in the rows that were chosen."""

    def on_adapted(nets: Nets, point: Point) -> Any:
        _, adapter, seen = _of_measurement(nets, point, measure)
        moved = variational.adapted_point(adapter, point.x0, seen, point.extra["noise"], point.s)
        chosen = times.expand(point.extra["adapted"], point.x)
        x, v, eps = (jnp.where(chosen, new, old) for new, old in zip(moved, (point.x, point.v, point.eps)))
        return pair(nets, point._replace(x=x, v=v, eps=eps))

    return on_adapted
