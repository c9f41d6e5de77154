"""The shared vocabulary: what a loss sees, what a recipe is made of, what the trainer supplies.

Time runs from 0 = data to 1 = noise. `s` is the source time and `t` the target time of a jump. Below the trainer nothing
knows parameters, optimizers, configs or devices: networks are callables, batches are arrays.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

Array = jax.Array
Time = jax.Array | float
Field = Any  # an Array, or None in a Point of a term that does not use it
Reward = Callable[[jax.Array], jax.Array]  # x0 [B, ...] -> [B]; exp of it multiplies the density that is steered to
Jvp = Callable[..., Any]  # jax.jvp, or a function with its signature: flowjax.derivatives.finite_difference(...)


class InputError(ValueError):
    """What a person typed cannot work. The scripts print its sentence without a traceback and exit with status 2."""


class MissingNetwork(InputError, AttributeError):
    """A network of `Nets` that was not given; an AttributeError too, so that hasattr answers False."""


class AverageVelocity(Protocol):
    """`V(x, s, t)`: the average velocity from source time `s` to target time `t`, of the shape of `x`.

    Times are scalars or arrays with `x.ndim` axes that broadcast against `x`, in [0, 1].
    """

    def __call__(self, x: Array, s: Time, t: Time, /) -> Array: ...


class Velocity(Protocol):
    """`v(x, t)`: an instantaneous velocity at time `t`, of the shape of `x`; a teacher's, for example."""

    def __call__(self, x: Array, t: Time, /) -> Array: ...


class Pair(NamedTuple):
    """A regression pair, both of the shape of `x`: a loss without its distance."""

    prediction: Array
    target: Array


class Point(NamedTuple):
    """The rows of one term of a recipe; every leaf starts with the row axis, unused fields are None.

    Attributes:
      x: the data on the path at the source time, or noise, [rows, ...].
      s: source times in [0, 1], [rows, 1, ..., 1].
      t: target times in [0, 1], [rows, 1, ..., 1].
      v: velocity at (x, s), the shape of `x`.
      a: fraction of the way from `s` to `t` at which the middle time stands, or a recipe's scheduled factor (a warm-up), in
        [0, 1], [rows, 1, ..., 1].
      x0: the clean data, the shape of `x`.
      eps: the noise, the shape of `x`.
      cond: a dict of arrays for the network, the inputs of flowjax.conditioning: label [rows], guidance [rows] (a scale),
        interval [rows, 2] (times), ...
      extra: a dict of whatever else the term draws (`Term.extra`) or samples (`Term.prepare`): one typed key a row, a second
        noise, candidates [rows, k, ...], ...
    """

    x: Array
    s: Field = None
    t: Field = None
    v: Field = None
    a: Field = None
    x0: Field = None
    eps: Field = None
    cond: Any = None
    extra: Any = None


class Network(NamedTuple):
    """A network that is trained along with V: one entry of a method's `needs`, under the name by which terms call it.

    Attributes:
      module: a linen module, called `module(x, s, t, cond)` (for the call "times": `module(s, t)`); `(net, shape) -> linen module`
        from V's network and the shape of a row; or the name of a module in flowjax.models. "": another network like V's.
      call: how terms call it, a key of CALLS.
      optim: fields of config.optim in which its optimizer differs from V's: {"learning_rate": 1e-4, "every": 5}.
      of_features: whether it sees the features of the teacher, `nets.features`, and not rows like the data.
    """

    module: Any = ""
    call: str = "map"
    optim: Mapping[str, Any] = {}
    of_features: bool = False


# How the terms of a recipe call a network, and what comes back.
CALLS = {
    "map": "net(x, s, t, cond=None), the shape of x",
    "velocity": "net(x, t, cond=None), the shape of x: the module at (x, t, t, cond)",
    "scalar": "net(x, t, cond=None), [rows]: the module at (x, t, t, cond), its mean over all axes but the rows",
    "scalar_map": "net(x, s, t, cond=None), [rows]: the module at (x, s, t, cond), its mean over all axes but the rows",
    "times": "net(s, t), [rows]: the module at (s, t)",
}


class Found(NamedTuple):
    """What a term of a method with a memory returns: its result, and what the method is to remember of this batch.

    Attributes:
      result: a Pair, several of them, or errors [rows], as of any term.
      found: a tree of means over the batch, by `nets.mean`, so that all devices have the same.
    """

    result: Any
    found: Any


class Balance(NamedTuple):
    """Terms whose weight follows from gradients: in V's weights theirs is made `multiple` times as long as that of all other terms.

    Attributes:
      terms: names of the terms.
      multiple: of the length of the other terms' gradient.
      at: a regular expression of the paths of the weights whose gradients are compared, "Dense_3/kernel"; "": all of V's weights.
      most: the largest factor that a gradient gets.
    """

    terms: tuple[str, ...]
    multiple: float = 1.0
    at: str = ""
    most: float = 1e4


class Nets:
    """The networks of a recipe by name, all optional but `V`; `nets.fake` is the network that the recipe needs as "fake".

    Maps are called `(x, s, t, cond=None)`, velocities `(x, t, cond=None)`, see CALLS. The standard names:

      V: the average velocity that is trained.
      ema: V with averaged weights.
      frozen: V with its current weights under a stop-gradient.
      teacher: a velocity that is not trained.
      teacher_map: an average velocity that is not trained.
      velocity: a velocity that is trained along.
      both: `(x, s, t, cond) -> (V, velocity)` from one pass of a network with a velocity head.
      log_variance: `(s, t) -> [rows]`, trained along.
      features: `(x, t, cond=None) -> [rows, features]`, what a teacher that is a trained run makes of rows in its layers.
      guide: a guidance inside the training target, `(nets, point, V_ss=None) -> flowjax.guidance.Guided`.
      heads: `(x, s, t, cond=None) -> {name: array}`, all heads of V's network from one pass.
      logits: `(x, s, t, cond=None)`, what V's network predicts where V is made from logits of categories.
      stopped: {name: network}: each trained network, "both" and "heads" among them where they are given, with its weights under a
        stop-gradient; gradients of its inputs pass.
      mean: `[rows, ...] -> [...]`, the mean over the rows of the whole batch, of all devices.
      memory: what the method remembers of the steps before, see Method; None of one without a memory.
    """

    def __init__(
        self,
        V: Callable[..., Array],
        ema: Callable[..., Array] | None = None,
        frozen: Callable[..., Array] | None = None,
        teacher: Callable[..., Array] | None = None,
        teacher_map: Callable[..., Array] | None = None,
        velocity: Callable[..., Array] | None = None,
        both: Callable[..., tuple[Array, Array]] | None = None,
        log_variance: Callable[..., Array] | None = None,
        guide: Callable[..., Any] | None = None,
        *,
        heads: Callable[..., dict[str, Array]] | None = None,
        stopped: Mapping[str, Callable[..., Any]] | None = None,
        mean: Callable[[Array], Array] | None = None,
        memory: Any = None,
        **others: Callable[..., Any] | None,
    ) -> None:
        standard = {
            "V": V, "ema": ema, "frozen": frozen, "teacher": teacher, "teacher_map": teacher_map, "velocity": velocity,
            "both": both, "log_variance": log_variance, "guide": guide, "heads": heads,
        }  # fmt: skip
        self.__dict__.update(standard | others)
        self.stopped = dict(stopped or {})
        self.mean = mean or (lambda rows: jnp.mean(rows, axis=0))
        self.memory = memory

    def __getattr__(self, name: str) -> Any:
        # Reached only for a name that was not given: copying and pickling look for special methods here.
        if name.startswith("__"):
            raise AttributeError(name)
        raise MissingNetwork(
            f"nets has no network {name!r}; it has {', '.join(self.names())}. Nets(V=..., {name}=...) adds it."
        )

    def names(self) -> tuple[str, ...]:
        """The names of the networks that are there."""
        beside = ("stopped", "mean", "memory")
        return tuple(name for name, net in self.__dict__.items() if net is not None and name not in beside)

    def replace(self, **changes: Any) -> "Nets":
        """A copy with some networks replaced."""
        return Nets(**{**self.__dict__, **changes})

    _replace = replace

    def training(self, names: Sequence[str], trained: Sequence[str] = ()) -> "Nets":
        """The networks for a term that trains `names`: of every other trained network the stopped twin.

        Args:
          names: of the networks that the term trains.
          trained: names of all that the method trains.

        Raises:
          InputError: if a network of `trained` that the term does not train has no stopped twin.
        """
        lacking = [name for name in trained if name not in names and name not in self.stopped]
        if lacking:
            raise InputError(
                f"a term trains {', '.join(names)} alone, and nets has no stopped twin of {', '.join(lacking)}; give it, the network"
                f" with its weights under jax.lax.stop_gradient: Nets(..., stopped={{{lacking[0]!r}: ...}})."
            )
        kept = {*names, "both", "heads", "logits"} if "V" in names else set(names)  # these are of V's network
        return self.replace(**{name: net for name, net in self.stopped.items() if name not in kept})

    def __repr__(self) -> str:
        return f"Nets({', '.join(self.names())})"


class Term(NamedTuple):
    """One summand of a recipe: which pair, scored how, on which rows, and which networks it trains.

    Attributes:
      name: key of the term in the draw and in the metrics.
      pair: `(nets, point) -> Pair`; or `-> {head: Pair}` or a tuple of Pairs, of several heads: their errors are summed, their raw
        metrics averaged; arrays [rows] in the dict are further errors, added as they are. Or `-> errors [rows]`, used as they are
        (no distance). Of a method with a memory, any of these in a Found.
      distance: `(prediction, target, **arguments) -> errors [rows]`.
      weight: a float, or `point -> [rows]`.
      columns: `(lo, hi, n)`: the term is on the columns `lo:hi` of `rows.reshape(-1, n)`.
      times: `(key, n, step) -> {"s": [n], ...}`: the draw of its times, fields of Point.
      trains: names of the networks that it trains; the others have stopped weights and live inputs. (): all that the method trains.
      every: the term is computed in every `every`-th step, and rests in the others.
      metric: `(prediction, target) -> [rows]`, the raw metric of a pair; None: the mean square. For a term without
        distance: `errors -> [rows]`; None: the errors.
      arguments: `(nets, point) -> dict`, keyword arguments of the distance, such as a learned log-variance.
      extra: `(key, rows, step) -> dict` of further arrays for `Point.extra`, each with the row axis first; `rows` is a dict with x0,
        eps and cond.
      prepare: `(nets, point) -> point`: samples of the networks before the loss, all under a stop-gradient.
      group: so many neighbouring rows belong together: they share their times, and no split of the batch separates them.
    """

    name: str
    pair: Callable[[Nets, Point], Any]
    distance: Callable[..., Array] | None
    weight: float | Callable[[Point], Array] = 1.0
    columns: tuple[int, int, int] = (0, 1, 1)
    times: Callable[[Array, int, Array], dict[str, Array]] | None = None
    trains: tuple[str, ...] = ()
    every: int = 1
    metric: Callable[..., Array] | None = None
    arguments: Callable[[Nets, Point], dict[str, Array]] | None = None
    extra: Callable[[Array, Mapping[str, Any], Array], dict[str, Array]] | None = None
    prepare: Callable[[Nets, Point], Point] | None = None
    group: int = 1


class Method(NamedTuple):
    """A recipe with its constants bound.

    Attributes:
      draw: `(key, batch, step) -> {term name: Point}`: all randomness, and the split of the rows among the terms. `batch` is
        `{"x": [B, ...], "label": [B] or absent, "eps": like x or absent}`.
      loss: `(nets, drawn) -> (errors [B], metrics)`: no randomness. `errors[i]` sums the terms on row i, their mean is
        the loss; `metrics` has one raw mean square (or `Term.metric`) a term, under the term's name. A term that `drawn` lacks rests:
        nothing of it is computed.
      terms: the summands.
      needs: the networks that the trainer must supply, by name, with their constants: {"ema": 0.99}, {"teacher": {}}, or a
        Network that is trained along: {"fake": Network(call="velocity")}.
      memory: `shape of a row -> tree of arrays`, what the method remembers at step 0: statistics, a queue. Terms read it as
        `nets.memory` and return a Found; it is saved in checkpoints. None: no memory.
      remember: `(memory, {term: found}) -> memory`, after the step; the metrics of `loss` have what was found as "memory".
      balance: which terms are weighed by their gradient; None: each has the weight that it declares.
    """

    draw: Callable[[Array, Mapping[str, Array], Array], dict[str, Point]]
    loss: Callable[[Nets, Mapping[str, Point]], tuple[Array, dict[str, Any]]]
    terms: tuple[Term, ...]
    needs: Mapping[str, Any]
    memory: Callable[[tuple[int, ...]], Any] | None = None
    remember: Callable[[Any, Mapping[str, Any]], Any] | None = None
    balance: Balance | None = None

    @property
    def networks(self) -> dict[str, Network]:
        """{name: Network} of the networks that are trained along with V."""
        return {name: need for name, need in self.needs.items() if isinstance(need, Network)}

    def __repr__(self) -> str:
        rows = [("term", "rows", "every", "trains", "distance")]
        for term in self.terms:
            lo, hi, n = term.columns
            distance = getattr(term.distance, "func", term.distance)
            rows.append(
                (
                    term.name,
                    "all" if hi - lo == n else f"{hi - lo} of {n}",
                    str(term.every),
                    ", ".join(term.trains) or "all",
                    getattr(distance, "__name__", "none (errors)"),
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
        return "\n".join(["Method", *(f"  {line}" for line in lines), f"  needs: {', '.join(self.needs) or 'V alone'}"])
