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

from flowjax import conditioning, options, posterior, times
from flowjax.methods import compositional, eulerian, lagrangian, pairs, recipe
from flowjax.times import TimeSampler
from flowjax.typing import Array, InputError, Jvp, Method, Nets, Point

# Rules that learn all jumps, by the names of their methods.
RULES: dict[str, Callable[..., Method]] = {
    "ayf_emd": eulerian.ayf_emd,
    "emd": eulerian.emd,
    "esd": eulerian.esd,
    "meanflow": eulerian.meanflow,
    "imf": eulerian.imf,
    "alphaflow": eulerian.alphaflow,
    "soflow": eulerian.soflow,
    "lmd": lagrangian.lmd,
    "lsd": lagrangian.lsd,
    "ayf_lmd": lagrangian.ayf_lmd,
    "tvm": lagrangian.tvm,
    "psd": compositional.psd,
    "split_meanflow": compositional.split_meanflow,
    "shortcut": compositional.shortcut,
    "fmm": compositional.fmm,
}
# Their constants that are numbers, which stand behind the name: "meanflow:p=0".
_OPTIONS = {
    name: {option: value for option, value in options.numbers(rule).items() if option != "label_drop"}
    for name, rule in RULES.items()
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
      rule: a key of RULES with its published constants: meanflow, imf, alphaflow, soflow, esd (Eulerian), lsd, tvm (Lagrangian), psd,
        shortcut or fmm (compositional) from data; ayf_emd (in the released code, without the normalisation), emd, lmd, ayf_lmd or
        split_meanflow from a teacher. Numbers among its constants may follow, "meanflow:p=0". The default is ours. From data, with a
        power p above 0, the error of a row is not a square and its optimum not the mean: too many samples come from where most data
        are. On rows of few numbers this moves the posterior, so configs/method.py has squared errors on points
        (docs/methods/posterior.md).
      ordinary: share of rows without an observation, 0.1 as published.
      power: 2 as published, so that most observations say little.
      label_drop: 0.2 as published.

    Raises:
      InputError: for an unknown rule, or constants outside their ranges.

    Reference: Potaptchik et al. 2026, Meta Flow Maps (arXiv 2601.14430), and its code; posterior Diamond Maps (arXiv 2602.05993).
    """
    if not (0 <= ordinary <= 1 and power > 0):
        raise InputError(
            f"meta_flow_map: ordinary and power are {ordinary} and {power}; expected a share and a number above 0."
        )
    method = by_rule(rule, label_drop=label_drop, total_steps=total_steps)

    def draw(key: Array, batch: Mapping[str, Array], step: Any) -> dict[str, Point]:
        method_key, *keys = jax.random.split(key, 1 + len(method.terms))
        drawn = method.draw(method_key, batch, step)
        observe = functools.partial(_observed, ordinary=ordinary, power=power)
        return {name: observe(term_key, drawn[name]) for name, term_key in zip(drawn, keys)}

    terms = tuple(recipe.with_nets(term, _of_posterior) for term in method.terms)
    return method._replace(draw=draw, loss=functools.partial(recipe.loss, terms, method.needs), terms=terms)


def by_rule(rule: str, **constants: Any) -> Method:
    """The Method of a rule of RULES, "meanflow" or "meanflow:p=0", with those of the constants that it takes.

    Raises:
      InputError: for an unknown rule or option.
    """
    name, given = options.parse("rule of a stochastic map", rule, _OPTIONS)
    taken = inspect.signature(RULES[name]).parameters
    numbers = {option: type(_OPTIONS[name][option])(value) for option, value in given.items()}
    for option, value in given.items():
        if numbers[option] != value:
            raise InputError(f"rule of a stochastic map {rule!r}: {option} is {value:g}; expected a whole number.")
    return RULES[name](**{option: value for option, value in constants.items() if option in taken}, **numbers)


def diamond_map(
    *,
    rule: str = "lsd",
    level: TimeSampler = ("uniform", 0.01, 0.99),
    ordinary: float = 0.1,
    label_drop: float = 0.1,
    total_steps: int | None = None,
) -> Method:
    """Diamond Maps: a rule for maps to samples of any lower noise level t of an observation x_c; c and t are inputs.

        c of `level`, 1 with probability `ordinary`;   t = c U, and 0 with probability `ordinary`;   flowjax.posterior.to_level

    Args:
      rule: as of `meta_flow_map`. LSD with 3/4 of the rows on the diagonal as published, which stops the map and the target besides.
      level: uniform within 0.01 and 0.99 as published for the inner times; ours for c.
      ordinary: ours.
      label_drop: ours.

    Raises:
      InputError: for an unknown rule, or constants outside their ranges.

    Reference: Holderrieth et al. 2026, Diamond Maps (arXiv 2602.05993), and its code.
    """
    if not 0 <= ordinary <= 1:
        raise InputError(f"diamond_map: ordinary is {ordinary}; expected a share.")
    levels = times.sampler_from_name(level, draws=1)

    def observe(key: Array, x0: Array) -> dict[str, Array]:
        keys = jax.random.split(key, 4)
        rows, some = x0.shape[:1], [jax.random.bernoulli(each, ordinary, x0.shape[:1]) for each in keys[:2]]
        c = jnp.where(some[0], 1.0, levels(keys[2], rows[0]))
        return {"c": c, "c_to": jnp.where(some[1], 0.0, c * jax.random.uniform(keys[3], rows))}

    ruled = by_rule(rule, label_drop=label_drop, total_steps=total_steps)
    return stochastic(ruled, observe, _to_level, ordinary=True)


def transition_matching(
    *,
    rule: str = "meanflow",
    level: TimeSampler = ("uniform",),
    label_drop: float = 0.1,
    jvp: str | Jvp = "central",
    total_steps: int | None = None,
) -> Method:
    """Transition Matching Distillation, the first stage (TM-MeanFlow): a map to the velocities eps - x0 that fit an observation x_c.

    Its network has a backbone that sees x_c and a head, config.model.name="transition_mlp" or "transition_dit". The head predicts the
    velocity itself (the parameterisation "denoised_field" of the inner path), as the teacher does.

    Args:
      rule: as of `meta_flow_map`; MeanFlow as published. With a teacher its velocity is that of the inner path in closed form; published
        is the conditional one, of data that the teacher made.
      level: of the observation; not verified, ours.
      label_drop: ours.
      jvp: finite differences as published; their scheme is ours.

    Raises:
      InputError: for an unknown rule.

    Reference: Nie et al. 2026, Transition Matching Distillation (arXiv 2601.09881), from summaries; there is no public code.
    """
    levels = times.sampler_from_name(level, draws=1)
    observe = lambda key, x0: {"c": jnp.maximum(levels(key, x0.shape[0]), 1e-3)}
    ruled = by_rule(rule, label_drop=label_drop, jvp=jvp, total_steps=total_steps)
    return stochastic(ruled, observe, lambda cond, x: posterior.to_velocity(times.expand(cond["c"], x)))


def _to_level(cond: Mapping[str, Array], x: Array) -> posterior.Inner:
    return posterior.to_level(times.expand(cond["c"], x), times.expand(cond["c_to"], x))


# (key, x0) -> {"c": [B], ...}: the level of each row's observation, and other inputs
Observe = Callable[[Array, Array], dict[str, Array]]


def stochastic(
    method: Method,
    observe: Observe,
    inner: Callable[[Mapping[str, Array], Array], posterior.Inner],
    *,
    ordinary: bool = False,
) -> Method:
    """A rule for the ordinary map as one for a stochastic map: data and noise are those of the inner path of each row.

    Args:
      method: of the rule.
      observe: draws the levels of the observations, and further inputs of the network.
      inner: `(cond, rows) -> flowjax.posterior.Inner`.
      ordinary: whether x_c is 0 at c = 1, where it says nothing, as it is for a network without these inputs.
    """

    def draw(key: Array, batch: Mapping[str, Array], step: Any) -> dict[str, Point]:
        method_key, level_key, noise_key, eps_key = jax.random.split(key, 4)
        x0 = batch["x"]
        levels = observe(level_key, x0)
        x_c = posterior.observed(x0, times.expand(levels["c"], x0), noise_key).astype(x0.dtype)
        if ordinary:
            x_c = jnp.where(times.expand(levels["c"] < 1, x0), x_c, 0.0).astype(x0.dtype)
        eps = jax.random.normal(eps_key, x0.shape, x0.dtype)
        end = inner(levels, x0).end(x0, x_c, eps).astype(x0.dtype)
        return method.draw(method_key, {**batch, **levels, "x": end, "eps": eps, "x_c": x_c}, step)

    def of_inner(nets: Nets, point: Point) -> Nets:
        if nets.teacher is None:
            return nets
        plain = conditioning.without(point.cond, conditioning.TRANSITION)
        v, path = pairs.bind(nets.teacher, point._replace(cond=plain)), inner(point.cond, point.x)
        x_c, c = point.cond["x_c"], times.expand(point.cond["c"], point.x)
        return nets.replace(teacher=lambda x, t: path.velocity(v, x, t, x_c, c))

    terms = tuple(recipe.with_nets(term, of_inner) for term in method.terms)
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
