"""Draws: the points of a term, and the times at which they stand.

A draw of points is a function `(times, key, rows) -> Point`: `times(key, n)` draws the term's times, `rows` is a dict with x0, eps and
cond; its attribute `path`, if it has one, is the path whose noise is drawn. A draw of times is a function
`(key, n, step) -> {"s": [n], ...}`, a `Term.times`: fields of a Point, float32 in [0, 1].
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from flowjax import paths, schedules, times, typing

# Points


def on_path(path):
    """Points between data and noise at the drawn source times, with their conditional velocity.

    Args:
      path: name of a path, or a flowjax.paths.Path.

    Raises:
      InputError: for an unknown path.
    """
    return _OnPath(paths.path_from_name(path))


class _OnPath(NamedTuple):
    path: paths.Path

    def __call__(self, times, key, rows):
        x0, eps = rows["x0"], rows["eps"]
        drawn = _columns(times(key, x0.shape[0]), x0)
        if "s" not in drawn:
            raise typing.InputError(
                f"points on a path need a source time, and the term draws {', '.join(drawn) or 'no times'}; give it times, such as"
                ' Term(..., times=draws.diagonal_times(("uniform",))).'
            )
        x, v = paths.interpolate(self.path, x0, eps, drawn["s"])
        return typing.Point(x=x, v=v, x0=x0, eps=eps, cond=rows["cond"], **drawn)


def from_noise(times, key, rows):
    """Noise as points, s = 1, and a second, independent noise as `eps`; the values of the data are not read."""
    return noise_beside_data(times, key, rows)._replace(x0=None)


def noise_beside_data(times, key, rows):
    """Noise as points, s = 1, a second, independent noise as `eps`, and the data as `x0`.

    For samples of the student that are noised again by `eps`, up to the time t, and compared with data.
    """
    time_key, eps_key = jax.random.split(key)
    x = rows["eps"]
    drawn = _columns(times(time_key, x.shape[0]), x)
    return typing.Point(x=x, x0=rows["x0"], eps=paths.independent(eps_key, x), cond=rows["cond"], **drawn)


def on_trajectory(times, key, rows):
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


def _columns(drawn, x):
    """Drawn times [n] as float32 columns that broadcast against `x`, whatever JAX's default dtype is."""
    return {name: times.expand(time.astype(jnp.float32), x) for name, time in drawn.items()}


# Times


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


def warm_up(end, steps):
    """The schedule from 0 to `end` over `steps` steps; `end` from the start for 0 steps."""
    if not isinstance(steps, int) or steps < 0:
        raise typing.InputError(f"warmup_steps is {steps!r}; expected a whole number of at least 0.")
    return schedules.linear(0.0, end, steps) if steps else schedules.constant(end)


# Methods whose batches must bring more than the data


def coupled(method):
    """`method` on a coupling: its batches must bring the noise that belongs to their data."""
    return _requiring(
        method,
        "eps",
        "this method trains on a coupling, and the batch has no 'eps'; expected pairs that experiments.reflow wrote,"
        " --config.data.coupling=FOLDER, or a dataset of pairs, --config.data.name=checkerboard_pairs (in a notebook: batch ="
        ' {"x": samples of a teacher, "eps": the noise that became them}).',
    )


def with_trajectories(method):
    """`method` on a teacher's trajectories, which its batches must bring."""
    return _requiring(
        method,
        "trajectory",
        "this method trains on a teacher's trajectories, and the batch has none; expected a folder that experiments.reflow wrote with"
        ' more than two points, --config.data.coupling=FOLDER (in a notebook: batch = {"x": ..., "eps": ..., "trajectory": [B, K + 1,'
        ' ...], "times": [B, K + 1], falling from 1 to 0}).',
    )


def _requiring(method, field, message):
    def draw(key, batch, step):
        if field not in batch:
            raise typing.InputError(message)
        return method.draw(key, batch, step)

    return method._replace(draw=draw)
