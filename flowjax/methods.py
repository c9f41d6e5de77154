"""The published recipes: which pairs, on which rows, with what times, distance and constants.

`make(name, **constants)` returns a `Method`; every constant is a keyword whose default is the published one. A recipe is a few
`Term`s and what to draw for each. All randomness is in `Method.draw`; `Method.loss` is a pure function of networks and points.
"""

import fractions
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flowjax import checks, derivatives, distances, losses, paths, times, typing


class MethodInfo(NamedTuple):
    """A row of the landscape.

    Attributes:
      recipe: the function that `make` calls.
      rule: "diagonal", "eulerian", "lagrangian" or "compositional".
      setting: "D" distils a teacher, "S" self-distils, "M" learns the marginal flow from conditional velocities.
      derivative: which derivative is taken, and what is under the stop-gradient.
      needs: fields of Nets that the trainer must supply.
      source_fpe: forward-pass equivalents of a step with every term on every row, as the literature estimates it.
      derived_fpe: the same from the graph, when the jvp's primal output is reused; attention adds a few percent.
      paper: title.
      arxiv: arXiv id.
    """

    recipe: Callable
    rule: str
    setting: str
    derivative: str
    needs: tuple[str, ...]
    source_fpe: float
    derived_fpe: float
    paper: str
    arxiv: str


def make(name, *, total_steps=None, **hyper):
    """A Method by its registry name.

    Args:
      name: a key of METHODS.
      total_steps: length of the training, for recipes with schedules; all accept it.
      **hyper: constants of the recipe; the defaults are the published ones.

    Returns:
      A flowjax.typing.Method.

    Raises:
      InputError: for an unknown method or constant, or when a scheduled recipe gets no total_steps.

    Example:
      >>> method = make("meanflow", diagonal="1/2")
      >>> drawn = method.draw(jax.random.key(0), {"x": jnp.ones((4, 2))}, 0)
      >>> errors, metrics = method.loss(typing.Nets(V=lambda x, s, t, cond=None: -x), drawn)
      >>> errors.shape, sorted(metrics)
      ((4,), ['anchor', 'eulerian'])
    """
    checks.member("method", name, METHODS)
    for key in hyper:
        checks.member(f"constant of method {name!r}", key, constants(name))
    return METHODS[name].recipe(total_steps=total_steps, **hyper)


def constants(name):
    """The constants of a method with their published values, {keyword: value}; `total_steps` is not one of them."""
    checks.member("method", name, METHODS)
    parameters = inspect.signature(METHODS[name].recipe).parameters
    return {key: parameter.default for key, parameter in parameters.items() if key != "total_steps"}


def flow_matching(*, total_steps=None, times=("uniform",), path="linear", label_drop=0.1):
    """Flow matching: the anchor alone, mean squared error.

    Args:
      total_steps: unused.
      times: sampler of s; uniform in the paper.
      path: name of a path or a flowjax.paths.Path.
      label_drop: share of labels replaced by the null label; 0.1 is the habit for guidance (arXiv 2207.12598), not the paper's.

    Reference: Lipman et al. 2022 (arXiv 2210.02747).
    """
    del total_steps
    anchor = typing.Term("anchor", _anchor, distances.l2)
    return _method([(anchor, _diagonal(times))], path, label_drop)


def meanflow(
    *,
    total_steps=None,
    times=("sorted_pair", ("logit_normal", -0.4, 1.0)),
    diagonal="3/4",
    p=1.0,
    c=0.01,
    path="linear",
    label_drop=0.1,
    jvp="exact",
):
    """MeanFlow, the ImageNet-256 recipe without guidance.

    A share of the rows lies on the diagonal at the source time of its pair, where MeanFlow is flow matching; the jvp runs on the
    other rows only. The published code takes the diagonal rows and the dropped labels from the head of the same batch; here the
    two are independent.

    Args:
      total_steps: unused.
      times: sampler of (s, t).
      diagonal: share of the rows with t = s, as a string ("3/4").
      p: power of the adaptive distance.
      c: its floor, on the SUM of squares over the data axes.
      path: name of a path or a flowjax.paths.Path.
      label_drop: share of labels replaced by the null label, an independent draw.
      jvp: "exact", a scheme of finite differences, or a function with the signature of jax.jvp.

    Reference: Geng et al. 2025 (arXiv 2505.13447), Table 4 (constants for ImageNet 256 x 256).
    """
    del total_steps
    jvp = derivatives.named(jvp)
    on, off = _split(diagonal)
    distance = functools.partial(distances.adaptive, reduce="sum", p=p, c=c)

    def pair(nets, point):
        return losses.meanflow(_bind(nets.V, point), point.x, point.s, point.t, point.v, jvp=jvp)

    anchor = typing.Term("anchor", _anchor, distance, columns=on)
    eulerian = typing.Term("eulerian", pair, distance, columns=off)
    return _method([(anchor, _source_of(times)), (eulerian, _pair(times))], path, label_drop)


def imf(
    *,
    total_steps=None,
    times=("sorted_pair", ("logit_normal", -0.4, 1.0)),
    diagonal="1/2",
    p=1.0,
    c=0.01,
    path="linear",
    label_drop=0.1,
    jvp="exact",
):
    """Improved MeanFlow with one head and without guidance; the tangent is the network's own velocity V(x, s, s).

    Arguments as in `meanflow`; half of the rows lie on the diagonal.

    Reference: Geng et al. 2025 (arXiv 2512.02012); the share of the diagonal and the distance from its configuration table.
    """
    del total_steps
    jvp = derivatives.named(jvp)
    on, off = _split(diagonal)
    distance = functools.partial(distances.adaptive, reduce="sum", p=p, c=c)

    def pair(nets, point):
        return losses.improved_meanflow(_bind(nets.V, point), point.x, point.s, point.t, point.v, jvp=jvp)

    anchor = typing.Term("anchor", _anchor, distance, columns=on)
    eulerian = typing.Term("eulerian", pair, distance, columns=off)
    return _method([(anchor, _source_of(times)), (eulerian, _pair(times))], path, label_drop)


def tvm(
    *,
    total_steps=None,
    times=("gap_first", -0.8, 1.0, -0.4, 1.0),
    anchor_times=("logit_normal", -0.4, 1.0),
    ema=0.99,
    path="linear",
    label_drop=0.1,
    jvp="exact",
):
    """Terminal Velocity Matching without guidance (w = 1): both terms on every row, mean squared error.

    Args:
      total_steps: unused.
      times: sampler of (s, t), the gap first.
      anchor_times: sampler of the anchor's time, independent of (s, t); the noise of a row is shared.
      ema: decay of the target network's weights, a step.
      path: name of a path or a flowjax.paths.Path.
      label_drop: share of labels replaced by the null label, an independent draw.
      jvp: "exact", a scheme of finite differences, or a function with the signature of jax.jvp.

    Reference: Zhou et al. 2025 (arXiv 2511.19797), the ImageNet-256 configuration.
    """
    del total_steps
    jvp = derivatives.named(jvp)

    def pair(nets, point):
        V, V_target = _bind(nets.V, point), _bind(nets.ema, point)
        return losses.terminal_velocity(V, V_target, point.x, point.s, point.t, jvp=jvp)

    anchor = typing.Term("anchor", _anchor, distances.l2)
    lagrangian = typing.Term("lagrangian", pair, distances.l2)
    return _method([(anchor, _diagonal(anchor_times)), (lagrangian, _pair(times))], path, label_drop, needs={"ema": ema})


def soflow(
    *,
    total_steps=None,
    times=("two_sided", ("logit_normal", 0.2, 0.8), ("logit_normal", -1.0, 0.8)),
    anchor_times=("logit_normal", -0.2, 1.0),
    diagonal="3/4",
    a_start=0.1,
    a_end=0.002,
    p=1.0,
    c=0.01,
    path="linear",
    label_drop=0.1,
):
    """SoFlow without guidance: anchor and solution consistency on different rows, `a` falling exponentially.

    The pair of the consistency term is divided by `a` and its weight is `a`, so that its error is
    `a^(2p-1) e / (e + c a^2)^p` with `e` the mean square of the undivided pair, as published; the raw metric is of the divided
    pair and comparable with MeanFlow's.

    Args:
      total_steps: length of the training, over which `a` falls; required unless a_start equals a_end.
      times: sampler of (s, t).
      anchor_times: sampler of the anchor's time.
      diagonal: share of the rows with the anchor, as a string ("3/4").
      a_start: fraction of the way covered by the finite step at the first step.
      a_end: the same at total_steps.
      p: power of the adaptive distance.
      c: its floor, on the MEAN of squares over the data axes.
      path: name of a path or a flowjax.paths.Path.
      label_drop: share of labels replaced by the null label, an independent draw.

    Reference: Luo, Yuan and Liu 2025 (arXiv 2512.15657), the ImageNet-256 configuration.
    """
    on, off = _split(diagonal)
    distance = functools.partial(distances.adaptive, reduce="mean", p=p, c=c)
    fraction = _schedule("soflow", a_start, a_end, total_steps)

    def pair(nets, point):
        prediction, target = losses.soflow(_bind(nets.V, point), point.x, point.s, point.t, point.v, point.a)
        return typing.Pair(prediction / point.a, target / point.a)

    anchor = typing.Term("anchor", _anchor, distance, columns=on)
    eulerian = typing.Term("eulerian", pair, distance, weight=lambda point: point.a.reshape(-1), columns=off)
    return _method([(anchor, _diagonal(anchor_times)), (eulerian, _pair(times, fraction))], path, label_drop)


METHODS: dict[str, MethodInfo] = {
    "flow_matching": MethodInfo(
        flow_matching, "diagonal", "M", "none", (), 3, 3, "Flow Matching for Generative Modeling", "2210.02747"
    ),
    "meanflow": MethodInfo(
        meanflow, "eulerian", "M", "d_s V, all of the target in sg", (), 4, 4, "Mean Flows for One-step Generative Modeling",
        "2505.13447",
    ),
    "imf": MethodInfo(
        imf, "eulerian", "M", "d_s V in sg, along the network's own velocity", (), 5, 5, "Improved Mean Flows", "2512.02012"
    ),
    "tvm": MethodInfo(
        tvm, "lagrangian", "S", "d_t V, gradient through it; target in sg", ("ema",), 10, 10, "Terminal Velocity Matching",
        "2511.19797",
    ),
    "soflow": MethodInfo(
        soflow, "eulerian", "S", "finite step in sg", (), 7, 7, "SoFlow: Solution Flow Models", "2512.15657"
    ),
}  # fmt: skip


def rows_multiple(method):
    """The number that the rows of a shard must be a multiple of, so that every term of `method` gets whole columns."""
    return math.lcm(*(term.columns[2] for term in method.terms))


# What the recipes share: the anchor, the split of the rows, the draw and the sum over terms.


def _anchor(nets, point):
    return losses.flow_matching(_bind(nets.V, point), point.x, point.s, point.v)


def _bind(net, point):
    return lambda x, s, t: net(x, s, t, point.cond)


def _split(share):
    """Columns of the anchor and of the rest: "3/4" -> (0, 3, 4), (3, 4, 4)."""
    try:
        part = fractions.Fraction(str(share))
    except (ValueError, ZeroDivisionError):
        part = None
    if part is None or not 0 <= part <= 1:
        raise typing.InputError(f'diagonal is {share!r}; expected a share of the rows between 0 and 1, as a string: "3/4".')
    return (0, part.numerator, part.denominator), (part.numerator, part.denominator, part.denominator)


def _schedule(name, start, end, total_steps):
    if start == end:
        return times.constant(start)
    if not total_steps:
        raise typing.InputError(
            f"{name}: a falls from {start} to {end} over the training, whose length it must know: total_steps=10_000, or"
            ' config.method.total_steps = config.get_ref("steps").'
        )
    return times.exponential(start, end, total_steps)


def _diagonal(spec):
    sampler = times.sampler(spec, times=1)
    return lambda key, n, step: {"s": sampler(key, n)}


def _source_of(spec):
    sampler = times.sampler(spec, times=2)
    return lambda key, n, step: {"s": sampler(key, n)[0]}


def _pair(spec, fraction=None):
    sampler = times.sampler(spec, times=2)

    def draw(key, n, step):
        s, t = sampler(key, n)
        return {"s": s, "t": t} if fraction is None else {"s": s, "t": t, "a": jnp.full((n,), fraction(step))}

    return draw


def _method(parts: list[tuple[typing.Term, Callable]], path, label_drop, needs: Mapping[str, Any] | None = None):
    """A Method from its terms and the times that each draws; a term that owns no columns is left out."""
    parts = [(term, draw_times) for term, draw_times in parts if term.columns[0] < term.columns[1]]
    terms = tuple(term for term, _ in parts)
    path, needs = paths.named(path), dict(needs or {})
    if not isinstance(label_drop, (int, float)) or not 0 <= label_drop <= 1:
        raise typing.InputError(f"label_drop is {label_drop!r}; expected a share between 0 and 1.")

    def draw(key, batch, step):
        noise_key, label_key, *time_keys = jax.random.split(key, 2 + len(parts))
        x0 = batch["x"]
        rows = {"x0": x0, "eps": batch["eps"] if "eps" in batch else paths.independent(noise_key, x0), "cond": {}}
        if "label" in batch:
            dropped = jax.random.bernoulli(label_key, label_drop, x0.shape[:1])
            rows["cond"] = {"label": jnp.where(dropped, -1, batch["label"])}
        return {
            term.name: _point(path, _columns(rows, term.columns), functools.partial(draw_times, time_key), step)
            for (term, draw_times), time_key in zip(parts, time_keys)
        }

    return typing.Method(draw, functools.partial(_loss, terms, tuple(needs)), terms, needs)


def _columns(rows, columns):
    """Rows of the columns lo:hi of rows.reshape(-1, n): strided, so that on a sharded batch each shard keeps its own."""
    lo, hi, n = columns
    size = rows["x0"].shape[0]
    if size % n:
        raise typing.InputError(
            f"a batch of {size} rows cannot give {hi - lo} of every {n} rows to a term; use a multiple of {n}."
        )
    return jax.tree.map(lambda leaf: leaf.reshape(-1, n, *leaf.shape[1:])[:, lo:hi].reshape(-1, *leaf.shape[1:]), rows)


def _point(path, rows, draw_times, step):
    x0, eps, cond = rows["x0"], rows["eps"], rows["cond"]
    drawn = {name: times.expand(time, x0) for name, time in draw_times(x0.shape[0], step).items()}
    x, v = paths.interpolate(path, x0, eps, drawn["s"])
    return typing.Point(x=x, v=v, x0=x0, eps=eps, cond=cond, **drawn)


def _loss(terms, needs, nets, drawn):
    for need in needs:
        if getattr(nets, need) is None:
            raise typing.InputError(
                f"this method needs the network {need!r}, and nets.{need} is None: Nets(V=..., {need}=...)."
            )
    errors, metrics = 0.0, {}
    for term in terms:
        point, (lo, hi, n) = drawn[term.name], term.columns
        scored = term.pair(nets, point)
        if isinstance(scored, typing.Pair):
            metrics[term.name] = jnp.mean(distances.squared(*scored, reduce="mean"))
            scored = term.distance(*scored)
        else:
            metrics[term.name] = jnp.mean(scored)
        weighted = scored * (term.weight(point) if callable(term.weight) else term.weight)
        errors += jnp.pad(weighted.reshape(-1, hi - lo), ((0, 0), (lo, n - hi))).reshape(-1)
    return errors, metrics
