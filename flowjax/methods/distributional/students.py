"""What recipes of a student share: where it samples from, and the terms of the networks that follow its samples."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from flowjax import checks, distances, flowmap, losses, paths
from flowjax.losses import distributional
from flowjax.methods import draws, pairs, recipe
from flowjax.times import TimeSampler
from flowjax.typing import Array, InputError, Method, Nets, Network, Pair, Point, Term

INSIDE = (
    "uniform",
    0.02,
    0.98,
)  # levels of noise without the ends, where velocities of two networks differ by nothing or by noise
FAKE = {"fake": Network(call="velocity")}
DISCRIMINATOR = {"discriminator": Network(call="scalar")}


def sampled(times: TimeSampler, steps: int) -> dict[str, Any]:
    """Fields of a term whose points are where the student jumps to the data from, at one of its source times.

    Several steps are simulated: the student's own samples, noised again, as they are when it is sampled ("consistency"). All rows walk
    all steps, and each keeps the point of a source time that is drawn for it.

    Args:
      times: sampler of the time t up to which samples are noised again.
      steps: of the student, whose source times are 1, 1 - 1/steps, ..., 1/steps.

    Raises:
      InputError: unless steps is a whole number of at least 1.
    """
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise InputError(f"student_steps is {steps!r}; expected a whole number of at least 1.")
    if steps == 1:
        return {"times": draws.target_times(times), "prepare": lambda nets, point: point._replace(s=jnp.ones_like(point.t))}

    def extra(key: Array, rows: Any, step: Any) -> dict[str, Array]:
        level_key, noise_key = jax.random.split(key)
        x = rows["x0"]
        noises = jax.random.normal(noise_key, (x.shape[0], steps - 1, *x.shape[1:]), x.dtype)
        return {"level": jax.random.randint(level_key, x.shape[:1], 0, steps), "noises": noises}

    def prepare(nets: Nets, point: Point) -> Point:
        V, level = pairs.bind(nets.V, point), point.extra["level"].reshape(point.t.shape)
        x, s = point.x, jnp.ones_like(point.t)
        for number in range(1, steps):
            below = jnp.full_like(s, 1 - number / steps)
            x_below, _ = paths.interpolate(
                paths.linear, flowmap.jump(V, x, s, 0.0), point.extra["noises"][:, number - 1], below
            )
            x, s = jnp.where(level >= number, x_below, x), jnp.where(level >= number, below, s)
        return point._replace(x=x, s=s)

    return {"times": draws.target_times(times), "extra": extra, "prepare": prepare}


def half(reduce: str) -> Callable[[Array, Array], Array]:
    """Half of the squared error, whose gradient in a pushed sample is the field; "mean" over the data axes divides it by their size."""
    return lambda prediction, target: distances.l2(prediction, target, reduce=reduce) / 2


def student(
    loss: Callable,
    times: TimeSampler,
    *,
    steps: int,
    every: int,
    reduce: str = "mean",
    adversarial: float = 0.0,
    weight: float = 1.0,
    **constants: Any,
) -> Term:
    """The student's term: a loss of flowjax.losses.distributional, a push or errors [rows].

    Args:
      loss: which.
      times: as of `sampled`.
      steps: as of `sampled`.
      every: steps from one update of the student to the next.
      reduce: of the half squares of a push.
      adversarial: weight of the non-saturating error of the same samples, at the same levels of noise, by nets.discriminator.
      weight: of all of it.
      **constants: of the loss.
    """
    supplied = pairs.pair(loss, **constants)

    def pair(nets: Nets, point: Point) -> Any:
        pushed = supplied(nets, point)
        if not adversarial:
            return pushed
        x_r, _ = paths.interpolate(paths.linear, pushed.prediction, point.eps, point.t)
        return {"push": pushed, "fool": adversarial * distributional.fool(logits(nets, point), x_r, x_r)}

    return Term("student", pair, half(reduce), weight, trains=("V",), every=every, **sampled(times, steps))


def followers(
    times: TimeSampler,
    *,
    steps: int,
    fake: str = "velocity",
    discriminator: float = 0.0,
) -> Term:
    """The term of the networks that follow the student's samples: the fake, a discriminator, or both.

    Args:
      times: as of `sampled`.
      steps: as of `sampled`.
      fake: "velocity", flow matching; "edm", denoised data with EDM's weight; "": no fake.
      discriminator: weight of the logistic loss of noised data and noised samples, 0 for none.

    Raises:
      InputError: for another fake.
    """
    checks.member("loss of the fake", fake, ("velocity", "edm", ""))

    def pair(nets: Nets, point: Point) -> Any:
        sample = jax.lax.stop_gradient(flowmap.jump(pairs.bind(nets.V, point), point.x, point.s, 0.0))
        parts: dict[str, Any] = {"fake": followed(nets, point, sample)} if fake else {}
        if discriminator:
            parts["told apart"] = discriminator * told_apart(nets, point, sample)
        return parts if fake else parts["told apart"]

    def followed(nets: Nets, point: Point, sample: Array) -> Pair:
        velocity = pairs.bind(nets.fake, point)
        if fake == "edm":
            root = jnp.sqrt(distributional.edm_weight(point.t))
            return Pair(*(root * side for side in distributional.fake_denoised(velocity, sample, point.t, point.eps)))
        x_r, v = paths.interpolate(paths.linear, sample, point.eps, point.t)
        return losses.flow_matching(lambda x, s, t: velocity(x, s), x_r, point.t, v)

    trains = (*(("fake",) if fake else ()), *(("discriminator",) if discriminator else ()))
    name = "fake" if fake else "discriminator"
    return Term(name, pair, distances.l2 if fake else None, trains=trains, **sampled(times, steps))


def told_apart(nets: Nets, point: Point, sample: Array) -> Array:
    """The logistic loss of a discriminator on data and samples, both noised by the same noise up to the same time: errors [rows]."""
    noised = lambda x0: paths.interpolate(paths.linear, x0, point.eps, point.t)[0]
    return distributional.tell_apart(logits(nets, point), noised(sample), noised(point.x0))


def logits(nets: Nets, point: Point) -> Callable[[Array], Array]:
    """The discriminator at the points' levels of noise, x -> [rows]."""
    discriminator = pairs.bind(nets.discriminator, point)
    return lambda x: discriminator(x, point.t)


def method(terms: list[Term], label_drop: float, **needs: Any) -> Method:
    """The Method of terms that start from noise beside data; each term draws its own noise."""
    return recipe.method(terms, points=draws.noise_beside_data, label_drop=label_drop, needs=needs, one_noise=False)
