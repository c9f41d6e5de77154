"""What recipes are made of: terms, the split of the rows, the draw of times and points, and the sum over terms."""

import fractions
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from flowjax import checks, conditioning, distances, flowmap, guidance, losses, paths, schedules, spaces, times, typing

WHOLE = (0, 1, 1)  # every row
NOISE = object()  # instead of a path: every term starts from noise, and no data is read
TRAJECTORY = object()  # instead of a path: points of a teacher's trajectories, which the data has


def method(parts: list[tuple[typing.Term, Callable]], *, path, label_drop, needs: Mapping[str, Any] | None = None):
    """A Method from its terms and the times that each draws; a term that owns no columns is left out.

    Args:
      parts: pairs of a Term and its draw of times, `(key, n, step) -> {"s": [n], ...}`.
      path: name of the path on which the points are, a flowjax.paths.Path, NOISE, or TRAJECTORY.
      label_drop: share of labels replaced by the null label, an independent draw.
      needs: the fields of Nets that the trainer must supply, with their constants.

    Raises:
      InputError: for an unknown path, or a label_drop outside [0, 1].
    """
    special = {id(NOISE): from_noise, id(TRAJECTORY): on_trajectory}
    point = special.get(id(path)) or functools.partial(on_path, paths.path_from_name(path))
    space = spaces.euclidean if id(path) in special else paths.path_from_name(path).space
    parts = [(term, draw) for term, draw in parts if term.columns[0] < term.columns[1]]
    terms, needs = tuple(term for term, _ in parts), dict(needs or {})
    if not isinstance(label_drop, (int, float)) or not 0 <= label_drop <= 1:
        raise typing.InputError(f"label_drop is {label_drop!r}; expected a share between 0 and 1.")

    def draw(key, batch, step):
        noise_key, label_key, *keys = jax.random.split(key, 2 + len(parts))
        x0 = batch["x"]
        rows = {"x0": x0, "eps": batch["eps"] if "eps" in batch else paths.independent(noise_key, x0, space), "cond": {}}
        dropped = jax.random.bernoulli(label_key, label_drop, x0.shape[:1])
        rows["cond"] = conditioning.dropped(conditioning.of_batch(batch), dropped)
        if "trajectory" in batch:
            rows["trajectory"], rows["times"] = batch["trajectory"], batch["times"]
        return {
            term.name: point(functools.partial(draw_times, step=step), own_key, columns(rows, term.columns))
            for (term, draw_times), own_key in zip(parts, keys)
        }

    return typing.Method(draw, functools.partial(loss, terms, tuple(needs)), terms, needs)


def loss(terms, needs, nets, drawn):
    """(errors [B], metrics) of all terms on their own rows; what `Method.loss` is bound to."""
    for need in needs:
        if need not in nets.names():
            raise typing.InputError(
                f"this method needs the network {need!r}, and nets.{need} is None: Nets(V=..., {need}=...)."
            )
    errors, metrics = 0.0, {}
    for term in terms:
        if term.name not in drawn:  # it rests
            continue
        point, (lo, hi, n) = drawn[term.name], term.columns
        scored, raw = _score(term, term.pair(nets.training(term.trains) if term.trains else nets, point))
        metrics[term.name] = jnp.mean(raw)
        weighted = scored * (term.weight(point) if callable(term.weight) else term.weight)
        errors += jnp.pad(weighted.reshape(-1, hi - lo), ((0, 0), (lo, n - hi))).reshape(-1)
    return errors, metrics


def raw_errors(method, nets, drawn):
    """The mean square of each row of each term, before distance and weight: {term: [rows]}; their means are the metrics of the loss."""
    return {term.name: _score(term, term.pair(nets, drawn[term.name]))[1] for term in method.terms}


def _score(term, found):
    """(errors [rows], raw [rows]) of what a pair function returned, see flowjax.typing.Term; the raw error of two pairs is their mean."""
    if not isinstance(found, tuple):
        return found, found
    if not isinstance(found, typing.Pair) and isinstance(found[1], typing.Pair):
        (one, raw_one), (other, raw_other) = (_score(term, pair) for pair in found)
        return one + other, (raw_one + raw_other) / 2
    pair, arguments = (found, {}) if isinstance(found, typing.Pair) else found
    return term.distance(*pair, **arguments), distances.squared(*pair, reduce="mean")


def with_dropout(method):
    """`method` with a key for every row in cond["dropout"]: every call of the network on a row drops the same units."""

    def draw(key, batch, step):
        own_key, mask_key = jax.random.split(key)
        return method.draw(own_key, {**batch, "dropout": jax.random.split(mask_key, batch["x"].shape[0])}, step)

    return method._replace(draw=draw)


def guided(method, kind, scale, whole_anchor, constants):
    """`method` with a guidance inside its target; see flowjax.methods.guided."""
    target, (guide, scale_at) = guidance.TARGETS[kind], guidance.guide_from_name(kind, **constants)
    drawing = guidance.drawing(method, kind, scale, target.told_interval)

    def draw(key, batch, step):
        if "label" not in batch:
            raise typing.InputError(
                "guidance inside the target needs labels, and the batch has none; expected a labelled dataset."
            )
        drawn = drawing.draw(key, batch, step)
        return {name: point._replace(cond=condition(name, point.cond)) for name, point in drawn.items()}

    def condition(name, cond):
        """Rows without a label ask for no guidance; the anchor, if `whole_anchor`, for guidance at all times."""
        plain = conditioning.null(cond)
        if target.told_interval and whole_anchor and name == "anchor":
            cond = {**cond, "interval": plain["interval"]}
        asked = {field: cond[field] for field in conditioning.GUIDANCE if field in cond}
        dropped = cond["label"] < 0
        return cond | {field: jnp.where(times.expand(dropped, own), plain[field], own) for field, own in asked.items()}

    def of(pair):
        if "teacher" in method.needs:  # its velocity is not the data's: guided at once, by its own answers
            return lambda nets, point: pair(nets._replace(teacher=guidance.classifier_free(nets.teacher, scale_at)), point)
        return lambda nets, point: pair(nets._replace(guide=guide), point)

    def weight(old):
        if not target.weighted:
            return old
        return lambda point: (old(point) if callable(old) else old) / point.cond["guidance"] ** 2

    terms = tuple(term._replace(pair=of(term.pair), weight=weight(term.weight)) for term in method.terms)
    return method._replace(draw=draw, loss=functools.partial(loss, terms, tuple(method.needs)), terms=terms)


# The rows of a term


def split(share):
    """Columns of the anchor and of the rest: "3/4" -> (0, 3, 4), (3, 4, 4); "both": each on every row."""
    if share == "both":
        return WHOLE, WHOLE
    try:
        part = fractions.Fraction(str(share))
    except (ValueError, ZeroDivisionError):
        part = None
    if part is None or not 0 <= part <= 1:
        raise typing.InputError(
            f'diagonal is {share!r}; expected a share of the rows between 0 and 1, as a string, "3/4", or "both".'
        )
    return (0, part.numerator, part.denominator), (part.numerator, part.denominator, part.denominator)


def columns(rows, owned):
    """Rows of the columns lo:hi of rows.reshape(-1, n): strided, so that on a sharded batch each shard keeps its own."""
    lo, hi, n = owned
    size = rows["x0"].shape[0]
    if size % n:
        raise typing.InputError(
            f"a batch of {size} rows cannot give {hi - lo} of every {n} rows to a term; use a multiple of {n}."
        )
    return jax.tree.map(lambda leaf: leaf.reshape(-1, n, *leaf.shape[1:])[:, lo:hi].reshape(-1, *leaf.shape[1:]), rows)


def rows_multiple(method):
    """The number that the rows of a shard must be a multiple of, so that every term of `method` gets whole columns."""
    return math.lcm(*(term.columns[2] for term in method.terms))


# The points of a term, from its draw of times `(key, n) -> {"s": [n], ...}` and its rows, a dict with x0, eps and cond.


def on_path(path, draw_times, key, rows):
    """Points between data and noise at the drawn source times, with their conditional velocity."""
    x0, eps, cond = rows["x0"], rows["eps"], rows["cond"]
    drawn = _columns_of_times(draw_times(key, x0.shape[0]), x0)
    x, v = paths.interpolate(path, x0, eps, drawn["s"])
    return typing.Point(x=x, v=v, x0=x0, eps=eps, cond=cond, **drawn)


def from_noise(draw_times, key, rows):
    """Noise as points, s = 1, and a second, independent noise as `eps`; the values of the data are not read."""
    time_key, eps_key = jax.random.split(key)
    x = rows["eps"]
    drawn = _columns_of_times(draw_times(time_key, x.shape[0]), x)
    return typing.Point(x=x, eps=paths.independent(eps_key, x), cond=rows["cond"], **drawn)


def on_trajectory(draw_times, key, rows):
    """Two different points of each row's trajectory, the nearest to the drawn times; v is the mean velocity between them."""
    x0, eps, trajectory, known = rows["x0"], rows["eps"], rows["trajectory"], rows["times"]
    drawn, last, row = draw_times(key, x0.shape[0]), known.shape[1] - 1, jnp.arange(x0.shape[0])
    nearest = lambda time: jnp.argmin(jnp.abs(known - time[:, None]), axis=1)
    first = jnp.minimum(nearest(drawn["s"]), last - 1)  # times fall along a trajectory
    second = jnp.maximum(nearest(drawn["t"]), first + 1)
    at = _columns_of_times({"s": known[row, first], "t": known[row, second]}, x0)
    x = trajectory[row, first]
    v = ((x - trajectory[row, second]) / (at["s"] - at["t"])).astype(x.dtype)
    return typing.Point(x=x, v=v, x0=x0, eps=eps, cond=rows["cond"], **at)


def _columns_of_times(drawn, x):
    """Drawn times [n] as float32 columns that broadcast against `x`, whatever JAX's default dtype is."""
    return {name: times.expand(time.astype(jnp.float32), x) for name, time in drawn.items()}


# Draws of times, `(key, n, step) -> {"s": [n], ...}`


def diagonal_times(spec):
    """One time a row, as the source."""
    sampler = times.sampler_from_name(spec, draws=1)
    return lambda key, n, step: {"s": sampler(key, n)}


def target_times(spec):
    """One time a row, as the target: for terms that start from noise."""
    sampler = times.sampler_from_name(spec, draws=1)
    return lambda key, n, step: {"t": sampler(key, n)}


def source_times(spec):
    """The source times of a sampler of pairs."""
    sampler = times.sampler_from_name(spec, draws=2)
    return lambda key, n, step: {"s": sampler(key, n)[0]}


def pair_times(spec, schedule=None):
    """Source and target times; with a schedule of the training step also `a`, the same for all rows."""
    sampler = times.sampler_from_name(spec, draws=2)

    def draw(key, n, step):
        s, t = sampler(key, n)
        return {"s": s, "t": t} if schedule is None else {"s": s, "t": t, "a": jnp.full((n,), schedule(step))}

    return draw


def split_times(spec, fraction):
    """Source and target times, and the fraction `a` at which the jump between them is split."""
    pair, one = times.sampler_from_name(spec, draws=2), times.sampler_from_name(fraction, draws=1)

    def draw(key, n, step):
        pair_key, fraction_key = jax.random.split(key)
        s, t = pair(pair_key, n)
        return {"s": s, "t": t, "a": one(fraction_key, n)}

    return draw


# What pairs are made of


def bind(net, point):
    """A map of the recipe's networks as a loss sees it: V(x, s, t)."""
    return lambda x, s, t: net(x, s, t, point.cond)


def bind_velocity(net, point):
    """A velocity of the recipe's networks as a loss sees it: v(x, t)."""
    return lambda x, t: net(x, t, point.cond)


def velocity(nets, point, V_ss=None):
    """The velocity that a loss is told, guided if `nets.guide` says so, as a Guided; `V_ss` is the network's own if it is known."""
    return guidance.Guided(point.v, V_ss) if nets.guide is None else nets.guide(nets, point, V_ss)


def anchor(nets, point):
    """Flow matching on the conditional velocity: the anchor of methods that learn from data.

    Guidance may need V(x, s, s), which is the prediction itself: the network is asked once.
    """
    V_ss = nets.V(point.x, point.s, point.s, point.cond)
    return losses.flow_matching(lambda x, s, t: V_ss, point.x, point.s, velocity(nets, point, V_ss).v)


def both_anchors(nets, point):
    """`anchor` of both heads of a network, from one pass."""
    V_ss, u_ss = nets.both(point.x, point.s, point.s, point.cond)
    v = velocity(nets, point, u_ss).v
    return typing.Pair(V_ss, v), typing.Pair(u_ss, v)


def teacher_anchor(nets, point):
    """Flow matching on the teacher's velocity: the anchor of methods that distil one."""
    v = nets.teacher(point.x, point.s, point.cond)
    return losses.flow_matching(bind(nets.V, point), point.x, point.s, v)


def with_log_variance(pair, bound=None):
    """A pair with the learned log-variance of its times as an argument of the distance; an anchor's target time is its source.

    `bound` keeps the log-variance between -bound and bound, smoothly. Where an error falls towards 0 its weight grows without end,
    and where it grows nothing pulls it back: without a bound a small network may diverge.
    """
    if bound is not None and not (isinstance(bound, (int, float)) and bound > 0):
        raise typing.InputError(f"log_variance_bound is {bound!r}; expected a number above 0, or None for no bound.")

    def scored(nets, point):
        log_variance = nets.log_variance(point.s, point.s if point.t is None else point.t)
        if bound is not None:
            log_variance = bound * jnp.tanh(log_variance / bound)
        return pair(nets, point), {"log_variance": log_variance}

    return scored


def exponential(name, start, end, total_steps):
    """`a` falling by a constant factor a step, which needs the length of the training; raises InputError without it."""
    if start == end:
        return schedules.constant(start)
    return schedules.exponential(start, end, length(name, f"a falls from {start} to {end}", total_steps))


def length(name, what, total_steps):
    """The length of the training; raises InputError, saying what depends on it, if it is not known."""
    if not total_steps:
        raise typing.InputError(
            f"{name}: {what} over the training, whose length it must know: total_steps=10_000, or"
            ' config.method.total_steps = config.get_ref("steps").'
        )
    return total_steps


def warm_up(end, steps):
    """The schedule from 0 to `end` over `steps` steps; `end` from the start for 0 steps."""
    if not isinstance(steps, int) or steps < 0:
        raise typing.InputError(f"warmup_steps is {steps!r}; expected a whole number of at least 0.")
    return schedules.linear(0.0, end, steps) if steps else schedules.constant(end)


def teacher_solver(name):
    """One step of a teacher, `(teacher, x, s, m) -> its mean velocity`: "euler", its own at x; "heun", the mean of both ends."""

    def euler(teacher, x, s, m):
        return teacher(x, s)

    def heun(teacher, x, s, m):
        v = teacher(x, s)
        return (v + teacher(flowmap.move(x, s, m, v), m)) / 2

    solvers = {"euler": euler, "heun": heun}
    checks.member("solver", name, solvers)
    return solvers[name]


def coupled(draw):
    """A draw that insists on a coupling: the batch must bring the noise that belongs to its data."""
    return _insisting(
        draw,
        "eps",
        "this method trains on a coupling, and the batch has no 'eps'; expected pairs that experiments.reflow wrote,"
        " --config.data.coupling=FOLDER, or a dataset of pairs, --config.data.name=checkerboard_pairs (in a notebook: batch ="
        ' {"x": samples of a teacher, "eps": the noise that became them}).',
    )


def with_trajectories(draw):
    """A draw that insists on trajectories."""
    return _insisting(
        draw,
        "trajectory",
        "this method trains on a teacher's trajectories, and the batch has none; expected a folder that experiments.reflow wrote with"
        ' more than two points, --config.data.coupling=FOLDER (in a notebook: batch = {"x": ..., "eps": ..., "trajectory": [B, K + 1,'
        ' ...], "times": [B, K + 1], falling from 1 to 0}).',
    )


def _insisting(draw, field, message):
    def checked(key, batch, step):
        if field not in batch:
            raise typing.InputError(message)
        return draw(key, batch, step)

    return checked
