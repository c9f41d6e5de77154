"""What a recipe is made of: terms, the split of the rows among them, the sum of their errors, and variants of other recipes."""

import fractions
import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from flowjax import conditioning, distances, guidance, paths, times, typing
from flowjax.typing import Array, Method, Nets, Point, Term

Columns = tuple[int, int, int]  # (lo, hi, n), see flowjax.typing.Term
Rows = dict[str, Any]
WHOLE = (0, 1, 1)  # columns of a term on every row
# Folded into the key of a term: the key of its further arrays. `fold_in(key, i)` is `split(key)[i]`, which draws of times and noise
# use for small i, so this is a number that no split reaches.
EXTRA = 0x65787472


def method(
    terms: Sequence[Term],
    *,
    points: Callable[..., Point],
    label_drop: float,
    needs: Mapping[str, Any] | None = None,
    one_noise: bool = True,
) -> Method:
    """A Method from its terms; a term that has no columns is left out.

    Args:
      terms: the summands, each with its draw of times.
      points: how a point is drawn: `draws.on_path("linear")`, or `draws.from_noise`, ... of flowjax.methods.draws.
      label_drop: share of labels replaced by the null label, an independent draw.
      needs: the networks that the trainer must supply, by name, with their constants, see flowjax.typing.Method.
      one_noise: whether terms on the same row share its noise; otherwise each draws its own, unless the batch brings the noise.

    Raises:
      InputError: for a label_drop outside [0, 1], two terms of one name, or no term on any row.
    """
    terms, needs = tuple(term for term in terms if term.columns[0] < term.columns[1]), dict(needs or {})
    names = [term.name for term in terms]
    if not names or len(set(names)) < len(names):
        raise typing.InputError(
            f"the terms are {names or 'none'}; expected at least one term on some rows, each with another name."
        )
    if not isinstance(label_drop, (int, float)) or not 0 <= label_drop <= 1:
        raise typing.InputError(f"label_drop is {label_drop!r}; expected a share between 0 and 1.")

    def draw(key: Array, batch: Mapping[str, Array], step: Any) -> dict[str, Point]:
        if not isinstance(batch, Mapping) or "x" not in batch:
            raise typing.InputError(
                f"draw: the batch is {_described(batch)}; expected a dict with the data under 'x': "
                '{"x": [B, ...]}, and {"label": [B]}, {"eps": the shape of x} where there are any.'
            )
        noise_key, label_key, *keys = jax.random.split(key, 2 + len(terms))
        path = getattr(points, "path", paths.linear)
        of_noise = lambda noise_key: _rows(noise_key, label_key, batch, label_drop, path)
        noise_keys = [noise_key] if one_noise else [*jax.random.split(noise_key, len(terms))]
        rows = [of_noise(own) for own in noise_keys]
        each = zip(terms, rows * len(terms) if one_noise else rows, keys)
        return {term.name: _point(term, points, key, columns(own, term.columns), step) for term, own, key in each}

    return typing.Method(draw, functools.partial(loss, terms, needs), terms, needs)


def _described(batch: Any) -> str:
    return (
        f"a dict of {', '.join(map(repr, batch)) or 'nothing'}"
        if isinstance(batch, Mapping)
        else f"of type {type(batch).__name__}"
    )


def _rows(noise_key: Array, label_key: Array, batch: Mapping[str, Array], label_drop: float, path: paths.Path) -> Rows:
    """The rows that terms share: the data, its noise and conditioning, and a trajectory if the batch brings one."""
    x0 = batch["x"]
    eps = batch["eps"] if "eps" in batch else paths.independent(noise_key, x0, path)
    dropped = jax.random.bernoulli(label_key, label_drop, x0.shape[:1])
    rows = {"x0": x0, "eps": eps, "cond": conditioning.dropped(conditioning.of_batch(batch), dropped)}
    return rows | {name: batch[name] for name in ("trajectory", "times") if name in batch}


def _point(term: Term, points: Callable[..., Point], key: Array, rows: Rows, step: Any) -> Point:
    """The Point of a term: its times, once a group, and its further arrays, whose key leaves the draw of the times as it is."""
    size = rows["x0"].shape[0]
    if size % term.group:
        raise typing.InputError(
            f"term {term.name!r} gets {size} rows of the batch, and {term.group} rows belong together in it;"
            f" use a batch of a multiple of {_multiple(term)} rows."
        )

    def draw_times(key: Array, n: int) -> dict[str, Array]:
        drawn = {} if term.times is None else term.times(key, n // term.group, step)
        return drawn if term.group == 1 else {name: jnp.repeat(time, term.group) for name, time in drawn.items()}

    point = points(draw_times, key, rows)
    return point if term.extra is None else point._replace(extra=term.extra(jax.random.fold_in(key, EXTRA), rows, step))


# The loss


def loss(
    terms: Sequence[Term], needs: Mapping[str, Any], nets: Nets, drawn: Mapping[str, Point]
) -> tuple[Array, dict[str, Any]]:
    """(errors [B], metrics) of all terms on their rows; what `Method.loss` is bound to.

    A term that `drawn` lacks rests: its rows get nothing from it, and it has no metric. What terms found is in the metrics as "memory".
    """
    for need in needs:
        if need not in nets.names():
            raise typing.InputError(
                f"this method needs the network {need!r}, and nets.{need} is None: Nets(V=..., {need}=...)."
            )
    errors, metrics = jnp.float32(0), {}
    found: dict[str, Any] = {}
    for term in terms:
        if term.name not in drawn:
            continue
        scored, raw, point, remembered = _scored(term, _trained(needs), nets, drawn[term.name])
        found |= {} if remembered is None else {term.name: remembered}
        (lo, hi, n), metrics[term.name] = term.columns, jnp.mean(raw)
        weight = term.weight(point) if callable(term.weight) else term.weight
        _check_rows(f"term {term.name!r}: the weight", weight, point, scalar=True)
        weighted = scored * weight
        errors += jnp.pad(weighted.reshape(-1, hi - lo), ((0, 0), (lo, n - hi))).reshape(-1)
    return errors, metrics | ({"memory": found} if found else {})


def of_terms(method: Method) -> dict[str, Callable[..., Any]] | None:
    """{term: its loss alone, on any number of rows}, see `loss`; None for a method with a loss of its own."""
    bound = method.loss
    if not isinstance(bound, functools.partial) or bound.func is not loss:
        return None
    terms, needs = bound.args
    return {term.name: functools.partial(loss, (term._replace(columns=WHOLE),), needs) for term in terms}


def raw_errors(method: Method, nets: Nets, drawn: Mapping[str, Point]) -> dict[str, Array]:
    """The raw metric of each row of each drawn term, before distance and weight: {term: [rows]}; their means are the metrics of the loss."""
    trained = _trained(method.needs)
    return {term.name: _scored(term, trained, nets, drawn[term.name])[1] for term in method.terms if term.name in drawn}


def _trained(needs: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the networks that a method trains."""
    return ("V", *(name for name, need in needs.items() if isinstance(need, typing.Network)))


def _scored(term: Term, trained: tuple[str, ...], nets: Nets, point: Point) -> tuple[Array, Array, Point, Any]:
    """(errors [rows], raw metric [rows], point, found) of a term; of several pairs, errors are summed and raw metrics averaged.

    Arrays in a dict beside pairs are further errors; the raw metric is of the pairs.
    """
    if term.prepare is not None:
        point = jax.lax.stop_gradient(term.prepare(nets.training(()), point))
    if term.trains:
        nets = nets.training(term.trains, trained)
    arguments = {} if term.arguments is None else term.arguments(nets, point)
    result, found = term.pair(nets, point), None
    if isinstance(result, typing.Found):
        result, found = result
    if not isinstance(result, (tuple, Mapping)):
        _check_rows(f"term {term.name!r}: the errors", result, point)
        return result, result if term.metric is None else term.metric(result), point, found
    parts = jax.tree.leaves(result, is_leaf=lambda node: isinstance(node, typing.Pair))
    pairs = [part for part in parts if isinstance(part, typing.Pair)]
    further = [part for part in parts if not isinstance(part, typing.Pair)]
    if term.distance is None or not pairs or (further and not isinstance(result, Mapping)):
        raise typing.InputError(
            f"term {term.name!r} has {'no distance' if term.distance is None else 'a distance'} and returns {type(result).__name__}"
            " of arrays; expected typing.Pair(prediction, target), several of them in a tuple or a dict by head, with a distance such as"
            " distances.l2; or errors [rows] without one."
        )
    distance = functools.partial(term.distance, **arguments)
    metric = functools.partial(distances.squared, reduce="mean") if term.metric is None else term.metric
    scores = zip(*((distance(*pair), metric(*pair)) for pair in pairs))
    errors, raw = (functools.reduce(operator.add, score) for score in scores)
    for added in (errors, *further):
        _check_rows(f"term {term.name!r}: the {'distance' if added is errors else 'further errors'}", added, point)
    return sum(further, errors), raw if len(pairs) == 1 else raw / len(pairs), point, found


def _check_rows(what: str, values: Any, point: Point, scalar: bool = False) -> None:
    """Raises InputError unless there is one number a row of the point, or, if `scalar`, one for all."""
    rows = point.x.shape[:1]
    if jnp.shape(values) != rows and not (scalar and jnp.ndim(values) == 0):
        raise typing.InputError(
            f"{what}: shape {jnp.shape(values)}, expected one number a row, {rows}: values.reshape(-1) of a column, or a mean over"
            " the other axes."
        )


# The rows of a term


def split(share: Any, name: str = "diagonal") -> tuple[Columns, Columns]:
    """Columns of the anchor and of the rest: "3/4" -> (0, 3, 4), (3, 4, 4); "both": each on every row; `name` is that of the constant."""
    if share == "both":
        return WHOLE, WHOLE
    try:
        part = fractions.Fraction(str(share))
    except (ValueError, ZeroDivisionError):
        part = None
    if part is None or not 0 <= part <= 1:
        raise typing.InputError(
            f'{name} is {share!r}; expected a share of the rows between 0 and 1, as a string, "3/4", or "both".'
        )
    return (0, part.numerator, part.denominator), (part.numerator, part.denominator, part.denominator)


def columns(rows: Rows, share: Columns) -> Rows:
    """Rows of the columns lo:hi of rows.reshape(-1, n): strided, so that on a sharded batch each shard keeps its rows."""
    lo, hi, n = share
    size = rows["x0"].shape[0]
    if size % n:
        raise typing.InputError(
            f"a batch of {size} rows cannot give {hi - lo} of every {n} rows to a term; use a multiple of {n}."
        )
    return jax.tree.map(lambda leaf: leaf.reshape(-1, n, *leaf.shape[1:])[:, lo:hi].reshape(-1, *leaf.shape[1:]), rows)


def rows_multiple(method: Method) -> int:
    """The number that the rows of a shard must be a multiple of, so that every term of `method` gets whole columns and groups."""
    return math.lcm(*(_multiple(term) for term in method.terms))


def _multiple(term: Term) -> int:
    """Rows of a batch that give a term whole columns and whole groups."""
    lo, hi, n = term.columns
    return n * term.group // math.gcd(hi - lo, term.group)


# Methods made of others


def with_dropout(method: Method) -> Method:
    """`method` with a key for every row in cond["dropout"]: every call of the network on a row drops the same units."""

    def draw(key: Array, batch: Mapping[str, Array], step: Any) -> dict[str, Point]:
        method_key, mask_key = jax.random.split(key)
        return method.draw(method_key, {**batch, "dropout": jax.random.split(mask_key, batch["x"].shape[0])}, step)

    return method._replace(draw=draw)


def guided(method: Method, kind: str, scale: tuple[float, float], whole_anchor: bool, constants: Mapping[str, Any]) -> Method:
    """`method` with a guidance inside its target; see flowjax.methods.guided."""
    target = guidance.target_from_name(kind, **constants)
    whole = 0.0 if whole_anchor else 0.25
    drawing = guidance.drawing(method, kind, scale, power=target.power, whole=whole)

    def draw(key: Array, batch: Mapping[str, Array], step: Any) -> dict[str, Point]:
        if "label" not in batch:
            raise typing.InputError(
                "guidance inside the target needs labels, and the batch has none; expected a labelled dataset."
            )
        drawn = drawing.draw(key, batch, step)
        return {name: point._replace(cond=condition(name, point.cond)) for name, point in drawn.items()}

    def condition(name: str, cond: Mapping[str, Array]) -> Mapping[str, Array]:
        """With `whole_anchor`, the anchor's interval is (0, 1). Rows with a dropped label get w = 1, or keep what they drew."""
        plain = conditioning.null(cond)
        if target.draws_interval and whole_anchor and name == "anchor":
            cond = {**cond, "interval": plain["interval"]}
        if target.tells_dropped:
            return cond
        drawn = {field: cond[field] for field in conditioning.GUIDANCE if field in cond}
        dropped = cond["label"] < 0
        return {**cond, **{field: jnp.where(times.expand(dropped, rows), plain[field], rows) for field, rows in drawn.items()}}

    def change(nets: Nets) -> Nets:
        if "teacher" in method.needs:  # its velocity is not the data's: guided at once, by its answer to the null label
            return nets.replace(teacher=guidance.classifier_free(nets.teacher, target.scale))
        return nets.replace(guide=target.logits if "logits" in method.needs else target.guide)

    def weight(plain: float | Callable[[Point], Array]) -> float | Callable[[Point], Array]:
        if not target.weighted or "logits" in method.needs:  # the weight undoes a factor w of squared errors of velocities
            return plain
        return lambda point: (plain(point) if callable(plain) else plain) / point.cond["guidance"] ** 2

    terms = tuple(
        with_nets(term, lambda nets, point: change(nets))._replace(weight=weight(term.weight)) for term in method.terms
    )
    return method._replace(draw=draw, loss=functools.partial(loss, terms, method.needs), terms=terms)


def with_nets(term: Term, change: Callable[[Nets, Point], Nets]) -> Term:
    """`term` on the networks `change(nets, point)`."""
    on = lambda function: function and (lambda nets, point: function(change(nets, point), point))
    return term._replace(pair=on(term.pair), prepare=on(term.prepare), arguments=on(term.arguments))


def length(name: str, what: str, total_steps: int | None) -> int:
    """The length of the training; raises InputError with what depends on it, if it is not known."""
    if not total_steps:
        raise typing.InputError(
            f"{name}: {what} over the training, whose length it must know: total_steps=10_000, or"
            ' config.method.total_steps = config.get_ref("steps").'
        )
    return total_steps
