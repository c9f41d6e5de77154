"""Pairs of a recipe: losses on the networks and the points of a term.

A loss takes its arguments by name, and the names are the wiring: `pair(losses.meanflow)` is the function `(nets, point) -> Pair` that
calls `losses.meanflow(V, x, s, t, v)` with

    V, both, heads      the networks of that name, on the conditioning of the point
    V_target, V_frozen  nets.ema
    V_teacher           nets.teacher_map
    teacher, velocity   the velocities of that name
    x, s, t, a, x0, eps the fields of the point
    r                   t, up to which a sample is noised again
    m                   the time at the fraction a of the way from s (1 where a point has no s) to t
    v                   the velocity of the data at (x, s), guided if `nets.guide` is given
    v_tangent           the network's velocity that the guidance evaluated, or None
    warmup              a, a factor that grows over the training
    mean                nets.mean, over the rows of the whole batch

and, under any other name, an array of `point.extra` or a network of `nets`. What is None leaves a loss its default.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from flowjax import checks, derivatives, distances, flowmap, guidance, losses, paths, spaces, typing
from flowjax.paths import Path
from flowjax.typing import Array, Nets, Pair, Point, Time

Supplied = Callable[..., Any]  # (nets, point, **given) -> what the loss returns

LOG_VARIANCE = {"log_variance": typing.Network("LogVariance", call="times")}  # what a recipe needs that calls `log_variance`


def pair(loss: Callable, **constants: Any) -> Supplied:
    """`(nets, point, **given) -> Pair` of a loss, whose arguments are supplied by name; see the head of this file.

    Args:
      loss: a function of flowjax.losses, or like one.
      **constants: arguments that are fixed; a derivative, `jvp`, may be given by its name.

    Raises:
      InputError: for a constant that the loss does not take.

    Example:
      >>> nets = typing.Nets(V=lambda x, s, t: s * x)
      >>> point = typing.Point(x=jnp.ones((2, 1)), s=jnp.ones((2, 1)), v=jnp.ones((2, 1)))
      >>> pair(losses.flow_matching)(nets, point).prediction.tolist()
      [[1.0], [1.0]]
    """
    for name in constants:
        checks.member(f"argument of {loss.__name__}", name, inspect.signature(loss).parameters)
    if "jvp" in constants:
        constants["jvp"] = derivatives.jvp_from_name(constants["jvp"])
    return functools.partial(call, loss, **constants)


def distilled(loss: Callable, **constants: Any) -> Callable[[Nets, Point], Any]:
    """`pair` of a loss whose `v` is the teacher's velocity at (x, s)."""
    supplied = pair(loss, **constants)
    return lambda nets, point: supplied(nets, point, v=bind(nets.teacher, point)(point.x, point.s))


def call(loss: Callable, nets: Nets, point: Point, **given: Any) -> Any:
    """What a loss returns for a term's networks and points; arguments that are `given` are not supplied."""
    supplied = _supplied(nets, point)

    def value(name: str, default: Any) -> Any:
        if name in given:
            return given[name]
        if name in supplied:
            argument = supplied[name]()
        elif point.extra and name in point.extra:
            argument = point.extra[name]
        elif name in nets.names():
            argument = bind(getattr(nets, name), point)
        else:
            argument = None
        if argument is None and default is inspect.Parameter.empty:
            raise typing.InputError(
                f"{loss.__name__} takes {name!r}, which neither the point has (as a field or in `extra`), nor the networks"
                f" ({', '.join(nets.names())}); give it: pairs.pair({loss.__name__}, {name}=...)."
            )
        return default if argument is None else argument

    return loss(**{name: value(name, parameter.default) for name, parameter in inspect.signature(loss).parameters.items()})


def _supplied(nets: Nets, point: Point) -> dict[str, Callable[[], Any]]:
    """The vocabulary: {argument of a loss: function without arguments that supplies it}."""
    net = lambda name: lambda: bind(getattr(nets, name), point)
    guided = functools.cache(lambda: velocity(nets, point))
    fields = {name: functools.partial(getattr, point, name) for name in ("x", "s", "t", "a", "x0", "eps")}
    same = {name: net(name) for name in ("V", "both", "heads", "teacher", "velocity")}
    return {
        **fields,
        **same,
        "V_target": net("ema"),
        "V_frozen": net("ema"),
        "V_teacher": net("teacher_map"),
        "r": fields["t"],
        "m": lambda: middle(point),
        "v": lambda: guided().v,
        "v_tangent": lambda: guided().V_ss,
        "warmup": fields["a"],
        "mean": lambda: nets.mean,
    }


def bind(net: Any, point: Point) -> Any:
    """A network as a loss calls it, without conditioning: V(x, s, t), v(x, t); None stays None.

    A network that takes no conditioning, such as `lambda x, s, t: ...`, is called without it.
    """
    if net is None:
        return None

    def bound(*inputs: Any) -> Any:
        if _takes(net, len(inputs) + 1):
            return net(*inputs, point.cond)
        if not _takes(net, len(inputs)):
            raise typing.InputError(
                f"a network was called with {len(inputs)} arguments, and takes others: {inspect.signature(net)}; maps are called"
                " (x, s, t, cond), velocities (x, t, cond), cond may be left out."
            )
        return net(*inputs)

    return bound


def with_inputs(net: Callable, point: Point) -> Callable[..., Array]:
    """A network on the conditioning of the point and further inputs by name: V(x, s, t, inputs), v(x, t, inputs)."""

    def called(*arguments: Any) -> Array:
        *rest, inputs = arguments
        return net(*rest, {**(point.cond or {}), **inputs})

    return called


def _takes(net: Callable, count: int) -> bool:
    """Whether a callable takes so many arguments by position."""
    try:
        inspect.signature(net).bind(*range(count))
    except TypeError:
        return False
    except ValueError:  # a callable without a signature
        return True
    return True


def middle(point: Point) -> Array:
    """The time at the fraction a of the way from s to t; a point without s is noise, s = 1."""
    s = 1 if point.s is None else point.s
    return s + point.a * (point.t - s)


def velocity(nets: Nets, point: Point, V_ss: Array | None = None) -> guidance.Guided:
    """The velocity of the data that a loss takes, guided if `nets.guide` is given, as a Guided.

    `V_ss` is the network's V(x, s, s) where it is known already, so that the guidance need not evaluate it again.
    """
    return guidance.Guided(point.v, V_ss) if nets.guide is None else nets.guide(nets, point, V_ss)


def anchor(nets: Nets, point: Point) -> Pair:
    """Flow matching on the conditional velocity: the anchor of methods that learn from data.

    Guidance may need V(x, s, s), which is the prediction itself: the network is evaluated once.
    """
    V_ss = bind(nets.V, point)(point.x, point.s, point.s)
    return losses.flow_matching(lambda x, s, t: V_ss, point.x, point.s, velocity(nets, point, V_ss).v)


def both_anchors(nets: Nets, point: Point) -> tuple[Pair, Pair]:
    """`anchor` of both heads of a network, from one pass."""
    V_ss, u_ss = bind(nets.both, point)(point.x, point.s, point.s)
    v = velocity(nets, point, u_ss).v
    return typing.Pair(V_ss, v), typing.Pair(u_ss, v)


def velocity_heads(heads: int) -> tuple[Callable, Callable, dict[str, Any]]:
    """Improved MeanFlow's anchor, its loss, and what they need besides V, for a network of one head or with a velocity head.

    Raises:
      InputError: for another number of heads.
    """
    if heads not in (1, 2):
        raise typing.InputError(f"heads is {heads!r}; expected 1, or 2 for a network with a velocity head.")
    if heads == 1:
        return anchor, losses.improved_meanflow, {}
    return both_anchors, losses.improved_meanflow_two_heads, {"both": {}}


def on_space(path: str | Path, loss: Callable, curved: Callable) -> tuple[Callable, dict[str, Any], dict[str, Any]]:
    """(the loss, its constants, fields of a Term): `loss` and mean squares in R^n, else `curved` in the space of the path.

    Args:
      curved: the same rule as a pair of tangent vectors, see flowjax.losses.riemannian; the space measures their lengths.
    """
    space = paths.path_from_name(path).space
    if space is spaces.euclidean:
        return loss, {}, {"distance": distances.l2}
    lengths = functools.partial(distances.tangent, space=space, reduce="mean")
    return curved, {"space": space}, {"distance": lengths, "metric": lengths}


# Flow matching on the teacher's velocity: the anchor of methods that distil one.
teacher_anchor = distilled(losses.flow_matching)


def log_variance(bound: float | None = None) -> Callable[[Nets, Point], dict[str, Array]]:
    """A `Term.arguments`: the learned log-variance of a point's times; an anchor's target time is its source.

    `bound` keeps the log-variance between -bound and bound, smoothly. Where an error falls towards 0 its weight grows without end,
    and where it grows nothing pulls it back: without a bound a small network may diverge.
    """
    if bound is not None and not (isinstance(bound, (int, float)) and bound > 0):
        raise typing.InputError(f"log_variance_bound is {bound!r}; expected a number above 0, or None for no bound.")

    def arguments(nets: Nets, point: Point) -> dict[str, Array]:
        log_variance = nets.log_variance(point.s, point.s if point.t is None else point.t)
        return {"log_variance": log_variance if bound is None else bound * jnp.tanh(log_variance / bound)}

    return arguments


def learned_weight(learned: bool, reduce: str = "sum") -> tuple[dict[str, Any], dict[str, Any]]:
    """(fields of a Term, needs of the method): squared errors, weighed by a learned log-variance of the times if `learned`."""
    if not learned:
        return {"distance": functools.partial(distances.l2, reduce=reduce)}, {}
    return {"distance": functools.partial(distances.likelihood, reduce=reduce), "arguments": log_variance()}, LOG_VARIANCE


def teacher_solver(name: str) -> Callable[[Callable, Array, Time, Time], Array]:
    """One step of a teacher, `(teacher, x, s, m) -> its mean velocity`: "euler", its velocity at x; "heun", the mean of both ends."""

    def euler(teacher: Callable, x: Array, s: Time, m: Time) -> Array:
        return teacher(x, s)

    def heun(teacher: Callable, x: Array, s: Time, m: Time) -> Array:
        v = teacher(x, s)
        return (v + teacher(flowmap.move(x, s, m, v), m)) / 2

    solvers = {"euler": euler, "heun": heun}
    checks.member("solver", name, solvers)
    return solvers[name]
