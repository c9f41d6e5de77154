"""The second stage of Transition Matching Distillation: DMD2 on samples of a map to velocities, through all of its inner jumps."""

import jax
import jax.numpy as jnp

from flowjax import samplers, times
from flowjax.methods import draws, pairs, recipe
from flowjax.methods.distributional import scores, students
from flowjax.times import TimeSampler
from flowjax.typing import Array, InputError, Method, Nets, Network, Point, Term, Time


def transition_dmd2(
    *,
    inner: int = 2,
    times: TimeSampler = students.INSIDE,
    fake_times: TimeSampler = students.INSIDE,
    fake_loss: str = "edm",
    student_steps: int = 1,
    student_every: int = 5,
    adversarial: float = 3e-3,
    discriminator: float = 1e-2,
    c: float = 1e-6,
    label_drop: float = 0.0,
) -> Method:
    """Transition Matching Distillation, the second stage: DMD2 on x0 = x_c - c y, y drawn by the inner map in `inner` jumps.

    Starts from a run of the first: --config.start=runs/transition_matching. The gradient passes through every jump of the head and
    through the backbone. Between several transitions samples are noised anew in training, as in DMD2. The fake is another network of
    the same kind, whose velocity is that of its observation.

    Args:
      inner: jumps of the inner map for one velocity; 2 is not verified.
      times: uniform but for the ends; published is a shifted sampler whose shift is not known to us.
      fake_loss: EDM's weight, as in DMD2; not verified.
      student_steps: transitions of a sample, 1 to 4 as published.
      student_every: 5 as published.
      adversarial: that of DMD2, as are discriminator and c. The discriminator is a network of its own, convolutional for images;
        published is one for videos.
      label_drop: 0, because the teacher is evaluated at every label.

    Raises:
      InputError: for inner jumps that are no whole number of at least 1.

    Reference: Nie et al. 2026, Transition Matching Distillation (arXiv 2601.09881), from summaries; Yin et al. 2024, DMD2
    (arXiv 2405.14867).
    """
    if not isinstance(inner, int) or isinstance(inner, bool) or inner < 1:
        raise InputError(f"transition_dmd2: inner is {inner!r}; expected a whole number of at least 1.")
    method = scores.dmd2(
        times=times, fake_times=fake_times, fake_loss=fake_loss, student_steps=student_steps, student_every=student_every,
        adversarial=adversarial, discriminator=discriminator, c=c, label_drop=label_drop,
    )  # fmt: skip
    unrolled = lambda nets, point: _unrolled(inner, student_steps, nets, point)
    terms = [recipe.with_nets(_with_noise(term, student_steps), unrolled) for term in method.terms]
    networks = students.FAKE | ({"discriminator": Network("Discriminator", call="scalar")} if adversarial else {})
    return students.method(terms, label_drop, **scores.TEACHER, **networks)


def _with_noise(term: Term, steps: int) -> Term:
    """`term` whose points bring the noise of each transition's velocity, [rows, steps, ...]."""

    def extra(key: Array, rows: draws.Rows, step: Array) -> dict[str, Array]:
        term_key, noise_key = jax.random.split(key)
        x = rows["x0"]
        known = {} if term.extra is None else term.extra(term_key, rows, step)
        return known | {"inner": jax.random.normal(noise_key, (x.shape[0], steps, *x.shape[1:]), x.dtype)}

    return term._replace(extra=extra)


def _unrolled(inner: int, steps: int, nets: Nets, point: Point) -> Nets:
    """The networks with a drawn velocity in the place of V: x - s V(x, s, 0) is then a sample of the data.

    The fake sees x as its observation.
    """

    def V(x: Array, s: Time, t: Time) -> Array:
        level = times.flatten(s, x)
        number = jnp.clip(jnp.round((1 - level) * steps).astype(int), 0, steps - 1)
        y = point.extra["inner"][jnp.arange(len(x)), number]
        return samplers.drawn_velocity(pairs.with_inputs(nets.V, point), x, times.expand(level, x), y, inner)

    def fake(x: Array, t: Time) -> Array:
        return pairs.with_inputs(nets.fake, point)(x, t, {"x_c": x, "c": times.flatten(t, x)})

    return nets.replace(V=V, fake=fake)
