"""The shared vocabulary: what a loss sees, what a recipe is made of, what the trainer supplies.

Time runs from 0 = data to 1 = noise. `s` is the source time and `t` the target time of a jump. Below the trainer nothing
knows parameters, optimizers, configs or devices: networks are callables, batches are arrays.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax

Array = jax.Array
Time = jax.Array | float


class InputError(ValueError):
    """What a person typed cannot work. The scripts print its sentence without a traceback and exit with status 2."""


class AverageVelocity(Protocol):
    """`V(x, s, t)`: the average velocity from source time `s` to target time `t`, of the shape of `x`.

    Times are scalars or arrays with `x.ndim` axes that broadcast against `x`, in [0, 1].
    """

    def __call__(self, x: Array, s: Time, t: Time) -> Array: ...


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
      cond: a dict of arrays for the network: label [rows], guidance [rows] (a scale), interval [rows, 2] (times), ...
    """

    x: Array
    s: Array | None = None
    t: Array | None = None
    v: Array | None = None
    a: Array | None = None
    x0: Array | None = None
    eps: Array | None = None
    cond: Any = None


class Nets(NamedTuple):
    """The callables that a recipe may ask for; all but `V` are optional.

    Maps are called `(x, s, t, cond=None)`, velocities `(x, t, cond=None)`, `log_variance` `(s, t)`. Trained: `V`, `velocity`
    and `log_variance`. Not trained: `ema` (averaged weights), `frozen` (current weights under a stop-gradient), `teacher`
    (a velocity), `teacher_map`. `both(x, s, t, cond)` returns `(V, velocity)` from one pass of a two-headed network. `guide` is a
    guidance inside the training target, `(nets, point, V_ss=None) -> flowjax.guidance.Guided`; None: none.
    """

    V: Callable
    ema: Callable | None = None
    frozen: Callable | None = None
    teacher: Callable | None = None
    teacher_map: Callable | None = None
    velocity: Callable | None = None
    both: Callable | None = None
    log_variance: Callable | None = None
    guide: Callable | None = None


class Term(NamedTuple):
    """One summand of a recipe: which pair, scored how, on which rows.

    Attributes:
      name: key of the term in the draw and in the metrics.
      pair: `(nets, point) -> Pair`; or `-> (Pair, Pair)`, of two heads, each scored; or `-> (Pair, arguments)` with a dict of
        arguments for the distance, such as a learned log-variance; or `-> errors [rows]`, used as they are (no distance).
      distance: `(prediction, target, **arguments) -> errors [rows]`.
      weight: a float, or `point -> [rows]`.
      columns: `(lo, hi, n)`: the term owns the columns `lo:hi` of `rows.reshape(-1, n)`.
    """

    name: str
    pair: Callable[[Nets, Point], Any]
    distance: Callable[[Array, Array], Array] | None
    weight: float | Callable[[Point], Array] = 1.0
    columns: tuple[int, int, int] = (0, 1, 1)


class Method(NamedTuple):
    """A recipe with its constants bound.

    Attributes:
      draw: `(key, batch, step) -> {term name: Point}`: all randomness, and the split of the rows among the terms. `batch` is
        `{"x": [B, ...], "label": [B] or absent, "eps": like x or absent}`.
      loss: `(nets, drawn) -> (errors [B], metrics)`: no randomness. `errors[i]` sums the terms that own row i, their mean is
        the loss; `metrics` has one raw mean square a term, under the term's name.
      terms: the summands.
      needs: the fields of `Nets` that the trainer must supply, with their constants: `{"ema": 0.99}`.
    """

    draw: Callable[[Array, Mapping[str, Array], Array], dict[str, Point]]
    loss: Callable[[Nets, Mapping[str, Point]], tuple[Array, dict[str, Array]]]
    terms: tuple[Term, ...]
    needs: Mapping[str, Any]
