"""Draws: the points of a term, and the times at which they stand.

A draw of points is a function `(times, key, rows) -> Point`: `times(key, n)` draws the term's times, `rows` is a dict with x0, eps and
cond; its attribute `path`, if it has one, is the path whose noise is drawn. A draw of times is a function
`(key, n, step) -> {"s": [n], ...}`, a `Term.times`: fields of a Point, float32 in [0, 1].
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from flowjax import paths, schedules, times, typing
from flowjax.schedules import Schedule
from flowjax.times import TimeSampler
from flowjax.typing import Array, Method, Point

DrawTimes = Callable[[Array, int], Mapping[str, Array]]  # (key, n) -> {"s": [n], ...}
Times = Callable[[Array, int, Any], dict[str, Array]]  # (key, n, step) -> {"s": [n], ...}: a Term.times
Rows = Mapping[str, Any]  # x0, eps, cond, and a trajectory where the batch brings one

# Points


def on_path(path: str | paths.Path, floor: float = 0.0) -> "_OnPath":
    """Points between data and noise at the drawn source times, with their conditional velocity.

    Args:
      path: name of a path, or a flowjax.paths.Path.
      floor: least divisor of the velocity (x - x0) / max(s, floor) on the linear path: below it the velocity shrinks.

    Raises:
      InputError: for an unknown path.
    """
    return _OnPath(paths.path_from_name(path), floor)


@dataclasses.dataclass(frozen=True)
class _OnPath:
    path: paths.Path
    floor: float

    def __call__(self, times: DrawTimes, key: Array, rows: Rows) -> Point:
        x0, eps = rows["x0"], rows["eps"]
        drawn = _columns(times(key, x0.shape[0]), x0)
        if "s" not in drawn:
            raise typing.InputError(
                f"points on a path need a source time, and the term draws {', '.join(drawn) or 'no times'}; give it times, such as"
                ' Term(..., times=draws.diagonal_times(("uniform",))).'
            )
        x, v = paths.interpolate(self.path, x0, eps, drawn["s"])
        if self.floor:
            v = (v * drawn["s"] / jnp.maximum(drawn["s"], self.floor)).astype(v.dtype)
        return typing.Point(x=x, v=v, x0=x0, eps=eps, cond=rows["cond"], **drawn)


def from_noise(times: DrawTimes, key: Array, rows: Rows) -> Point:
    """Noise as points, s = 1, and a second, independent noise as `eps`; the values of the data are not read."""
    return noise_beside_data(times, key, rows)._replace(x0=None)


def noise_beside_data(times: DrawTimes, key: Array, rows: Rows) -> Point:
    """Noise as points, s = 1, a second, independent noise as `eps`, and the data as `x0`.

    For samples of the student that are noised again by `eps`, up to the time t, and compared with data.
    """
    time_key, eps_key = jax.random.split(key)
    x = rows["eps"]
    drawn = _columns(times(time_key, x.shape[0]), x)
    return typing.Point(x=x, x0=rows["x0"], eps=paths.independent(eps_key, x), cond=rows["cond"], **drawn)


def on_trajectory(times: DrawTimes, key: Array, rows: Rows) -> Point:
    """Two different points of each row's trajectory, the nearest to the drawn times; v is the mean velocity between them."""
    x0, eps, trajectory, known = rows["x0"], rows["eps"], rows["trajectory"], rows["times"]
    drawn, last, row = times(key, x0.shape[0]), known.shape[1] - 1, jnp.arange(x0.shape[0])
    nearest = lambda time: jnp.argmin(jnp.abs(known - time[:, None]), axis=1)
    first = jnp.minimum(nearest(drawn["s"]), last - 1)  # times fall along a trajectory
    second = jnp.maximum(nearest(drawn["t"]), first + 1)
    at = _columns({"s": known[row, first], "t": known[row, second]}, x0)
    x = trajectory[row, first]
    v = ((x - trajectory[row, second]) / (at["s"] - at["t"])).astype(x.dtype)
    return typing.Point(x=x, v=v, x0=x0, eps=eps, cond=rows["cond"], **at)


def _columns(drawn: Mapping[str, Array], x: Array) -> dict[str, Array]:
    """Drawn times [n] as float32 columns that broadcast against `x`, whatever JAX's default dtype is."""
    return {name: times.expand(time.astype(jnp.float32), x) for name, time in drawn.items()}


# Times


def diagonal_times(spec: TimeSampler) -> Times:
    """One time a row, as the source."""
    sampler = times.sampler_from_name(spec, draws=1)
    return lambda key, n, step: {"s": sampler(key, n)}


def target_times(spec: TimeSampler) -> Times:
    """One time a row, as the target: for terms that start from noise."""
    sampler = times.sampler_from_name(spec, draws=1)
    return lambda key, n, step: {"t": sampler(key, n)}


def source_times(spec: TimeSampler) -> Times:
    """The source times of a sampler of pairs."""
    sampler = times.sampler_from_name(spec, draws=2)
    return lambda key, n, step: {"s": sampler(key, n)[0]}


def pair_times(spec: TimeSampler, schedule: Schedule | None = None, least_step: float = 0.0) -> Times:
    """Source and target times; with a schedule of the training step also `a`, the same for all rows.

    With `least_step`, `a` is larger (at most 1) where the step a (s - t) would be smaller than that.
    """
    sampler = times.sampler_from_name(spec, draws=2)

    def draw(key: Array, n: int, step: Any) -> dict[str, Array]:
        s, t = sampler(key, n)
        if schedule is None:
            return {"s": s, "t": t}
        a = jnp.full((n,), schedule(step))
        if least_step:
            a = jnp.maximum(a, jnp.minimum(1.0, least_step / jnp.maximum(s - t, least_step)))
        return {"s": s, "t": t, "a": a}

    return draw


def split_times(spec: TimeSampler, fraction: TimeSampler) -> Times:
    """Source and target times, and the fraction `a` at which the jump between them is split."""
    pair, one = times.sampler_from_name(spec, draws=2), times.sampler_from_name(fraction, draws=1)

    def draw(key: Array, n: int, step: Any) -> dict[str, Array]:
        pair_key, fraction_key = jax.random.split(key)
        s, t = pair(pair_key, n)
        return {"s": s, "t": t, "a": one(fraction_key, n)}

    return draw


def warm_up(end: float, steps: int) -> Schedule:
    """The schedule from 0 to `end` over `steps` steps; `end` from the start for 0 steps."""
    if not isinstance(steps, int) or steps < 0:
        raise typing.InputError(f"warmup_steps is {steps!r}; expected a whole number of at least 0.")
    return schedules.linear(0.0, end, steps) if steps else schedules.constant(end)


# Methods whose batches must bring more than the data


def coupled(method: Method) -> Method:
    """`method` on a coupling: its batches must bring the noise that belongs to their data."""
    return _requiring(
        method,
        "eps",
        "this method trains on a coupling, and the batch has no 'eps'; expected pairs that experiments.reflow wrote,"
        " --config.data.coupling=FOLDER, or a dataset of pairs, --config.data.name=checkerboard_pairs (in a notebook: batch ="
        ' {"x": samples of a teacher, "eps": the noise that became them}).',
    )


def with_trajectories(method: Method) -> Method:
    """`method` on a teacher's trajectories, which its batches must bring."""
    return _requiring(
        method,
        "trajectory",
        "this method trains on a teacher's trajectories, and the batch has none; expected a folder that experiments.reflow wrote with"
        ' more than two points, --config.data.coupling=FOLDER (in a notebook: batch = {"x": ..., "eps": ..., "trajectory": [B, K + 1,'
        ' ...], "times": [B, K + 1], falling from 1 to 0}).',
    )


def _requiring(method: Method, field: str, message: str) -> Method:
    def draw(key: Array, batch: Mapping[str, Array], step: Any) -> dict[str, Point]:
        if field not in batch:
            raise typing.InputError(message)
        return method.draw(key, batch, step)

    return method._replace(draw=draw)
