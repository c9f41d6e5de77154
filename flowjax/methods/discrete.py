"""Recipes for categories: one-hot rows [B, ..., K], networks that return logits, see flowjax.losses.discrete.

Divergences and squares are summed over tokens and categories; the raw metric of a divergence is its mean over the tokens, in nats.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from flowjax import distances, flowmap, paths
from flowjax.losses import discrete
from flowjax.methods import draws, pairs, recipe
from flowjax.paths import Path
from flowjax.times import TimeSampler, decoding_warp
from flowjax.typing import Array, InputError, Jvp, Method, Nets, Network, Pair, Point, Term

sg = jax.lax.stop_gradient
LOGITS: dict[str, Any] = {"logits": {}}
# A pair of logits and probabilities.
DIVERGENCE: dict[str, Any] = {"distance": distances.kl, "metric": functools.partial(distances.kl, reduce="mean")}


def categorical(
    *,
    times: TimeSampler = ("uniform",),
    label_smoothing: float = 0.0,
    learned_weight: bool = False,
    path: str | Path = "linear",
    label_drop: float = 0.1,
) -> Method:
    """The anchor alone: every token is classified at every noise level. The teacher of `flm`.

    Args:
      times: uniform; ("even_decoding", K) is the time warp of FLM for K categories.
      label_smoothing: 0.1 in the code of Categorical Flow Maps for text.
      learned_weight: whether rows are weighed by a learned log-variance of their time, an option of the published codes.
      path: "linear", or "one_hot:noise=0.5", noise about random categories.
      label_drop: the habit for guidance, not the papers'.

    Reference: Flow Map Language Models (arXiv 2602.16813), its code, the first stage.
    """
    anchor, needs = _anchor(times, label_smoothing, learned_weight)
    return recipe.method([anchor], points=_on_line(path), label_drop=label_drop, needs=needs)


def csd(
    *,
    times: TimeSampler = ("target_first", ("uniform",)),
    anchor_times: TimeSampler = ("uniform",),
    diagonal: str = "3/4",
    rule_weight: float = 1.0,
    label_smoothing: float = 0.0,
    learned_weight: bool = False,
    path: str | Path = "linear",
    label_drop: float = 0.1,
    jvp: str | Jvp = "exact",
) -> Method:
    """Categorical Flow Maps, CSD: cross-entropy on the diagonal, the squared Lagrangian residual off it.

    Args:
      times: the target uniform, then the source uniform between it and noise, as in the authors' code for text.
      anchor_times: uniform, as in that code.
      diagonal: 3/4, the default of the authors' code.
      rule_weight: weight of the rule's rows, 1 is ours. The authors add the means of both parts, which is 3 for a diagonal of 3/4.
      label_smoothing: 0.1 in the code for text.
      learned_weight: whether rows of the anchor are weighed by a learned log-variance, an option of the published codes.
      path: "linear", or "one_hot:noise=0.5", noise about random categories.

    Reference: Categorical Flow Maps (arXiv 2602.12233), its code.
    """
    on, off = recipe.split(diagonal)
    anchor, needs = _anchor(anchor_times, label_smoothing, learned_weight)
    follow = Term(
        "lagrangian", pairs.pair(discrete.csd, jvp=jvp), _squares, rule_weight, off, draws.pair_times(times), metric=_squares
    )
    return recipe.method([anchor._replace(columns=on), follow], points=_on_line(path), label_drop=label_drop, needs=needs)


def ecld(
    *,
    times: TimeSampler = ("target_first", ("uniform",)),
    anchor_times: TimeSampler = ("uniform",),
    diagonal: str = "3/4",
    classification: float = 1.0,
    energy: float = 1.0,
    label_smoothing: float = 0.0,
    learned_weight: bool = False,
    path: str | Path = "linear",
    label_drop: float = 0.1,
    jvp: str | Jvp = "exact",
) -> Method:
    """Categorical Flow Maps, ECLD: cross-entropies on and off the diagonal, and an energy of the change in the target time.

    Args:
      times: as of `csd`.
      anchor_times: as of `csd`.
      diagonal: 3/4, the default of the authors' code.
      classification: weight of the cross-entropy off the diagonal; 1 is ours. The code for text adds the means of the rows on and off
        the diagonal, which is 3 for a diagonal of 3/4; 4 in the code for graphs.
      energy: weight of the energy; 1 is ours. The code for text averages cross-entropies over the L tokens of a row and sums the
        energy, which is 3 L; 2 in the code for graphs, where it is another one.
      label_smoothing: 0.1 in the code for text.
      learned_weight: as of `csd`.
      path: as of `csd`.

    Reference: Categorical Flow Maps (arXiv 2602.12233), its code.
    """
    on, off = recipe.split(diagonal)
    anchor, needs = _anchor(anchor_times, label_smoothing, learned_weight)
    both = pairs.pair(discrete.ecld, jvp=jvp)

    def errors(nets: Nets, point: Point) -> Array:
        classified, change = both(nets, point)
        return classification * distances.kl(*classified) + energy * _squares(*change)

    follow = Term("lagrangian", errors, None, columns=off, times=draws.pair_times(times))
    return recipe.method([anchor._replace(columns=on), follow], points=_on_line(path), label_drop=label_drop, needs=needs)


def dfm_esd(
    *,
    times: TimeSampler = ("target_first", ("uniform",)),
    anchor_times: TimeSampler = ("uniform",),
    diagonal: str = "3/4",
    p: float = 0.0,
    c: float = 0.01,
    floor: float = 0.01,
    label_smoothing: float = 0.0,
    learned_weight: bool = False,
    path: str | Path = "linear",
    label_drop: float = 0.1,
    jvp: str | Jvp = "exact",
) -> Method:
    """Discrete Flow Maps, ESD: the Eulerian rule, solved for the probabilities; no gradient of a derivative is taken.

    Args:
      times: as of `csd`; not verified for this paper.
      anchor_times: uniform, not verified.
      diagonal: 3/4, not verified.
      p: power of the weight 1 / (|target - pi|^2 + c)^p; 0, no weight, is ours, the published power is not verified.
      c: floor of the weight, not verified.
      floor: least argument of the logarithm over t, which bounds by 1 / floor how much likelier than on the diagonal a category can
        get; ours.
      label_smoothing: 0, not verified.
      learned_weight: as of `csd`.
      path: as of `csd`.

    Reference: Discrete Flow Maps (arXiv 2604.09784).
    """
    on, off = recipe.split(diagonal)
    anchor, needs = _anchor(anchor_times, label_smoothing, learned_weight)
    solved = pairs.pair(discrete.dfm_esd, floor=floor, jvp=jvp)

    def weighted(prediction: Array, target: Array) -> Array:
        return distances.kl(prediction, target) / sg((_squares(jax.nn.softmax(prediction), target) + c) ** p)

    follow = Term("eulerian", solved, columns=off, times=draws.pair_times(times), **DIVERGENCE | {"distance": weighted})
    return recipe.method([anchor._replace(columns=on), follow], points=_on_line(path), label_drop=label_drop, needs=needs)


def dfm_psd(
    *,
    times: TimeSampler = ("target_first", ("uniform",)),
    anchor_times: TimeSampler = ("uniform",),
    a: TimeSampler = ("uniform",),
    diagonal: str = "3/4",
    label_smoothing: float = 0.0,
    learned_weight: bool = False,
    path: str | Path = "linear",
    label_drop: float = 0.1,
) -> Method:
    """Discrete Flow Maps, PSD: a jump has the mixed probabilities of two jumps; no derivative is taken.

    Args:
      times: as of `csd`; not verified for this paper.
      anchor_times: uniform, not verified.
      a: sampler of the fraction at which a jump is split, uniform, not verified.
      diagonal: 3/4, not verified.
      label_smoothing: 0, not verified.
      learned_weight: as of `csd`.
      path: as of `csd`.

    Reference: Discrete Flow Maps (arXiv 2604.09784).
    """
    on, off = recipe.split(diagonal)
    anchor, needs = _anchor(anchor_times, label_smoothing, learned_weight)
    mixed = pairs.pair(discrete.dfm_psd)
    follow = Term("compositional", mixed, columns=off, times=draws.split_times(times, a), **DIVERGENCE)
    return recipe.method([anchor._replace(columns=on), follow], points=_on_line(path), label_drop=label_drop, needs=needs)


def flm(
    *,
    times: TimeSampler = ("gap_uniform", ("uniform",)),
    boundary: float = 1 / 64,
    warp: int = 0,
    learned_weight: bool = True,
    path: str | Path = "linear",
    label_drop: float = 0.1,
) -> Method:
    """Flow Map Language Models: a residual on a frozen teacher's velocity, and a softmax map that is fitted to its jumps.

    The paper trains the residual first and the softmax map after it. Here both learn in each step, the map from the residual of that
    step, so that one run has the whole; V is the softmax map.

    Args:
      times: the gap first, uniform as published.
      boundary: share of rows with the whole interval, from noise to data: 1/64 as in the code for the residual, where the softmax map
        has 1/128.
      warp: K, the number of categories, for the published warp of times, `flowjax.times.decoding_warp`, in which a jump is split
        halfway; 0: none.
      learned_weight: whether rows of the residual are weighed by a learned log-variance, as published.
      path: as of `csd`.

    Reference: Flow Map Language Models (arXiv 2602.16813), its code.
    """
    halves, drawn = pairs.pair(discrete.flm_semigroup), _halved_times(times, boundary, warp)

    def two_halves(nets: Nets, point: Point) -> Pair:
        scale = point.x.shape[-1] ** 0.5  # the squared error is multiplied by the number of categories
        return jax.tree.map(lambda side: scale * side, halves(nets, point))

    def fitted(nets: Nets, point: Point) -> Pair:
        V_map = flowmap.second_order(pairs.bind(nets.teacher, point), pairs.bind(nets.residual, point))
        return pairs.call(discrete.flm_softmax, nets, point, V_map=V_map)

    scored, needs = pairs.learned_weight(learned_weight, "mean")
    weight = ("log_variance",) if learned_weight else ()
    terms = [
        Term("compositional", two_halves, times=drawn, trains=("residual", *weight), **scored),
        Term("map", fitted, _squares, times=drawn, trains=("V",), metric=_squares),
    ]
    needs = {"teacher": {}, "residual": Network(_without_softmax), **needs, **LOGITS}
    return recipe.method(terms, points=_on_line(path), label_drop=label_drop, needs=needs)


def _halved_times(spec: TimeSampler, boundary: float, warp: int) -> draws.Times:
    """Pairs of times, a share of which are 1 and 0, and the fraction `a` that splits a jump halfway in warped time."""
    if not 0 <= boundary <= 1:
        raise InputError(f"flm: boundary is {boundary!r}; expected a share of the rows between 0 and 1.")
    if not isinstance(warp, int) or warp == 1 or warp < 0:
        raise InputError(f"flm: warp is {warp!r}; expected the number of categories, at least 2, or 0 for no warp.")
    drawn = draws.pair_times(spec)

    def draw(key: Array, n: int, step: Any) -> dict[str, Array]:
        whole_key, key = jax.random.split(key)
        whole = jax.random.bernoulli(whole_key, boundary, (n,))
        rest = drawn(key, n, step)
        s, t = jnp.where(whole, 1.0, rest["s"]), jnp.where(whole, 0.0, rest["t"])
        if not warp:
            return {"s": s, "t": t, "a": jnp.full((n,), 0.5)}
        s, m, t = map(decoding_warp(warp), (s, (s + t) / 2, t))
        return {"s": s, "t": t, "a": jnp.where(s > t, (s - m) / jnp.where(s > t, s - t, 1.0), 0.5)}

    return draw


# What recipes share


def _anchor(times: TimeSampler, label_smoothing: float, learned_weight: bool) -> tuple[Term, dict[str, Any]]:
    """The cross-entropy on the diagonal, and what it needs."""
    if not isinstance(label_smoothing, (int, float)) or not 0 <= label_smoothing < 1:
        raise InputError(f"label_smoothing is {label_smoothing!r}; expected a share of at least 0 and below 1.")
    plain = pairs.pair(discrete.cross_entropy, label_smoothing=label_smoothing)

    def classify(nets: Nets, point: Point) -> Pair:
        logits, target = plain(nets, point)
        return Pair(logits if nets.guide is None else nets.guide(nets, point, logits), target)

    arguments = pairs.log_variance() if learned_weight else None
    term = Term("anchor", classify, times=draws.diagonal_times(times), arguments=arguments, **DIVERGENCE)
    return term, LOGITS | (pairs.LOG_VARIANCE if learned_weight else {})


_squares = functools.partial(distances.l2, reduce="sum")


def _on_line(path: str | Path) -> Any:
    """Points of a path with x = (1 - t) x0 + t eps, which the losses take for granted."""
    made = paths.path_from_name(path)
    if (made.alpha, made.sigma, made.space) != (paths.linear.alpha, paths.linear.sigma, paths.linear.space):
        raise InputError(
            f"path is {path!r}, and the losses of categories are written for x = (1 - t) x0 + t eps; expected 'linear', or 'one_hot'"
            " with the deviation of its noise, 'one_hot:noise=0.5'."
        )
    return draws.on_path(made)


def _without_softmax(net: Any, shape: tuple[int, ...]) -> Any:
    """A network like the one under V's softmax, for a residual that is no probability."""
    if not hasattr(net, "net"):
        raise InputError(
            "flm: the residual is a network like the one whose logits become V, and V is not made from logits;"
            " --config.model.parameterisation=categorical."
        )
    return net.net.clone(**({"evidence": False} if hasattr(net.net, "evidence") else {}))
