"""Recipes of stochastic maps: one network jumps from noise to samples of the posterior p(x0 | x_c), see flowjax.posterior.

Any rule for the ordinary map trains it, on the inner path from the same data to fresh noise: the observation x_c and its level c are
inputs of the network (flowjax.conditioning), and a teacher's velocity becomes that of the posterior in closed form.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from flowjax import checks, conditioning, posterior, times
from flowjax.methods import compositional, eulerian, lagrangian, pairs, recipe
from flowjax.typing import Array, InputError, Method, Nets, Point

# Rules that learn all jumps, by the names of their methods.
RULES: dict[str, Callable[..., Method]] = {
    "ayf_emd": eulerian.ayf_emd,
    "emd": eulerian.emd,
    "esd": eulerian.esd,
    "meanflow": eulerian.meanflow,
    "imf": eulerian.imf,
    "lmd": lagrangian.lmd,
    "lsd": lagrangian.lsd,
    "ayf_lmd": lagrangian.ayf_lmd,
    "psd": compositional.psd,
    "split_meanflow": compositional.split_meanflow,
}


def meta_flow_map(
    *,
    rule: str = "meanflow",
    ordinary: float = 0.1,
    power: float = 2.0,
    label_drop: float = 0.2,
    total_steps: int | None = None,
) -> Method:
    """Meta Flow Maps: a rule for the ordinary map, with an observation of the data of a random level as inputs of the network.

        c = 1 with probability `ordinary`, else 1 - U^power;   x_c = (1 - c) x0 + c n,   and 0 where c = 1

    Args:
      rule: a key of RULES with its published constants: meanflow, imf, esd, lsd or psd from data; ayf_emd (in the released code,
        without the normalisation), emd, lmd, ayf_lmd or split_meanflow from a teacher. The default is ours.
      ordinary: share of rows without an observation, 0.1 as published.
      power: 2 as published, so that most observations say little.
      label_drop: 0.2 as published.

    Raises:
      InputError: for an unknown rule, or constants outside their ranges.

    Reference: Potaptchik et al. 2026, Meta Flow Maps (arXiv 2601.14430), and its code; posterior Diamond Maps (arXiv 2602.05993).
    """
    checks.member("rule of a stochastic map", rule, RULES)
    if not (0 <= ordinary <= 1 and power > 0):
        raise InputError(
            f"meta_flow_map: ordinary and power are {ordinary} and {power}; expected a share and a number above 0."
        )
    ruled = RULES[rule]
    length = {"total_steps": total_steps} if "total_steps" in inspect.signature(ruled).parameters else {}
    method = ruled(label_drop=label_drop, **length)

    def draw(key: Array, batch: Mapping[str, Array], step: Any) -> dict[str, Point]:
        method_key, *keys = jax.random.split(key, 1 + len(method.terms))
        drawn = method.draw(method_key, batch, step)
        observe = functools.partial(_observed, ordinary=ordinary, power=power)
        return {name: observe(term_key, drawn[name]) for name, term_key in zip(drawn, keys)}

    terms = tuple(recipe.with_nets(term, _of_posterior) for term in method.terms)
    return method._replace(draw=draw, loss=functools.partial(recipe.loss, terms, method.needs), terms=terms)


def _observed(key: Array, point: Point, *, ordinary: float, power: float) -> Point:
    """The point with an observation of its data among the inputs of the network."""
    plain_key, level_key, noise_key = jax.random.split(key, 3)
    rows = point.x.shape[:1]
    some = ~jax.random.bernoulli(plain_key, ordinary, rows)
    c = jnp.where(some, 1 - jax.random.uniform(level_key, rows) ** power, 1.0)
    x_c = posterior.observed(point.x0, times.expand(c, point.x0), noise_key)
    x_c = jnp.where(times.expand(c < 1, x_c), x_c, 0.0).astype(point.x.dtype)
    return point._replace(cond={**point.cond, "x_c": x_c, "c": c})


def _of_posterior(nets: Nets, point: Point) -> Nets:
    """The networks with the velocity of the posterior in the place of the teacher's."""
    if nets.teacher is None:
        return nets
    ordinary = pairs.bind(nets.teacher, point._replace(cond=conditioning.without(point.cond, conditioning.OBSERVATION)))
    x_c, c = point.cond["x_c"], times.expand(point.cond["c"], point.x)
    return nets.replace(teacher=lambda x, t: posterior.glass(ordinary, x, t, x_c, c))
