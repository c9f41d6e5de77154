"""Recipes with a discriminator, and `with_adversary`, which adds one to any method.

The discriminator is the network "discriminator", a flowjax.models.Discriminator, or another network like V's whose mean over the
elements is the logit: then it begins with the weights of config.start. The constants that most of them have:

  game: a key of flowjax.losses.distributional.GAMES: "non_saturating", "hinge" or "relativistic".
  times: sampler of the time s from which the student jumps to the data, ("fixed", 1.0) for noise. Below 1 points are on the path.
  noised: sampler of the time up to which samples and data are noised before they are told apart, ("fixed", 0.0) for not at all.
  r1, r2: weights of the penalties on data and on samples.
  probe: size of the noise of approximate penalties, which take one further evaluation; 0: exact penalties.
  student_every: steps from one update of the student by its discriminator to the next; the discriminator trains in every step.
  network: "" for a Discriminator; "like_V" for a network like V's; "of_features" for a Discriminator on the frozen features of the
    teacher, a trained run.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from flowjax import checks, derivatives, distances, flowmap, paths
from flowjax.losses import distributional as losses
from flowjax.methods import draws, pairs, recipe
from flowjax.methods.method_info import MethodInfo
from flowjax.times import TimeSampler, sampler_from_name
from flowjax.typing import Array, Balance, InputError, Method, Nets, Network, Point, Term

NOISE, CLEAN = ("fixed", 1.0), ("fixed", 0.0)
# What the constant `network` may be: {name: what the method needs}.
NETWORKS: dict[str, dict[str, Any]] = {
    "": {"discriminator": Network("Discriminator", "scalar")},
    "like_V": {"discriminator": Network("", "scalar")},
    "of_features": {
        "discriminator": Network("Discriminator", "scalar", of_features=True), "teacher": {}, "features": {}
    },
}  # fmt: skip


def with_adversary(
    method: Method,
    *,
    game: str = "non_saturating",
    weight: float = 1.0,
    balanced: bool = True,
    at: str = "",
    most: float = 1e4,
    times: TimeSampler = NOISE,
    noised: TimeSampler = CLEAN,
    r1: float = 0.0,
    r2: float = 0.0,
    probe: float = 0.0,
    student_every: int = 1,
    network: str = "",
) -> Method:
    """A method with a discriminator beside: the adversarial stage of CTM, of Align Your Flow, or of any method that learns jumps to data.

    Its terms keep their draws, up to the key. Two terms come to them, each on all rows: "fool" trains V, "tell_apart" the
    discriminator.

    Args:
      method: a Method of flowjax.methods.recipe.
      weight: of the term "fool"; where `balanced`, how long its gradient in V's weights is, in lengths of that of the other terms.
      balanced: whether gradients are balanced at each step, as in CTM and Align Your Flow.
      at: a regular expression of the weights of V whose gradients are compared, those of its last layer in CTM: "Dense_3/kernel"; "":
        all weights.
      most: the largest factor by which balancing makes the gradient longer; 10 in CTM.

    Raises:
      InputError: if the method has a discriminator or balanced terms already, or a loss of its own.

    Example:
      >>> from flowjax import methods
      >>> adversarial = with_adversary(methods.make("meanflow"), game="relativistic")
      >>> [term.name for term in adversarial.terms]
      ['anchor', 'eulerian', 'fool', 'tell_apart']

    Reference: Kim et al. 2023, CTM (arXiv 2310.02279); Sabour et al. 2025, Align Your Flow (arXiv 2506.14603).
    """
    if getattr(method.loss, "func", None) is not recipe.loss or method.balance or "discriminator" in method.needs:
        raise InputError(
            "an adversary is added to methods that flowjax.methods.recipe.method made and that have none; this one has"
            f" {'a discriminator' if 'discriminator' in method.needs else 'another loss'}."
        )
    terms = _terms(game, 1.0 if balanced else weight, times, noised, r1, r2, probe, student_every, network)
    other = _method(terms, 0.0, network)
    own = ("V", *method.networks)
    kept = tuple(term._replace(trains=term.trains or own) for term in method.terms)
    needs = {**method.needs, **other.needs}

    def draw(key: Array, batch: Mapping[str, Array], step: Any) -> dict[str, Point]:
        method_key, other_key = jax.random.split(key)
        return {**method.draw(method_key, batch, step), **other.draw(other_key, batch, step)}

    loss = functools.partial(recipe.loss, (*kept, *other.terms), needs)
    balance = Balance(("fool",), weight, at, most) if balanced else None
    return method._replace(draw=draw, loss=loss, terms=(*kept, *other.terms), needs=needs, balance=balance)


def apt(
    *,
    game: str = "non_saturating",
    r1: float = 100.0,
    probe: float = 0.01,
    noised: TimeSampler = CLEAN,
    network: str = "like_V",
    student_every: int = 1,
    label_drop: float = 0.0,
) -> Method:
    """Adversarial Post-Training: a trained map, --config.start=RUN, is tuned by a discriminator that begins with the same weights.

    Args:
      r1: of the approximate penalty; from memory, not verified.
      probe: for images, 0.1 for video; from memory, not verified.
      noised: ours: not noised.
      network: published is a trunk of the generator's form, several layers of which have a head.
      student_every: ours.
      label_drop: ours.

    Reference: Lin et al. 2025 (arXiv 2501.08316).
    """
    return _method(_terms(game, 1.0, NOISE, noised, r1, 0.0, probe, student_every, network), label_drop, network)


def add(
    *,
    game: str = "hinge",
    distillation: float = 2.5,
    noised: TimeSampler = CLEAN,
    distillation_times: TimeSampler = ("uniform", 0.02, 0.98),
    r1: float = 0.0,
    probe: float = 0.0,
    network: str = "",
    student_every: int = 1,
    label_drop: float = 0.0,
) -> Method:
    """Adversarial Diffusion Distillation: a discriminator on the samples, and what a teacher makes of them once they are noised again.

    Args:
      distillation: weight of the teacher's term, 2.5; from memory, not verified.
      distillation_times: ours; published weights of the times are not verified.
      noised: not noised, as published.
      r1: published, its weight not verified; 0 here.
      network: published are heads on features of DINOv2, which are no part of this library.
      student_every: ours.
      label_drop: ours.

    Reference: Sauer et al. 2023 (arXiv 2311.17042).
    """
    taught = Term(
        "distillation",
        pairs.pair(losses.adversarial_distillation, s=1.0),
        distances.l2,
        distillation,
        times=draws.target_times(distillation_times),
        trains=("V",),
        every=student_every,
    )
    rest = _terms(game, 1.0, NOISE, noised, r1, 0.0, probe, student_every, network)
    return _joined([_method(rest, label_drop, network), _beside_noise([taught], label_drop, {"teacher": {}})])


def ladd(
    *,
    times: TimeSampler = NOISE,
    noised: TimeSampler = ("logit_normal", 0.0, 1.0),
    r1: float = 0.0,
    probe: float = 0.1,
    student_every: int = 5,
    network: str = "like_V",
    label_drop: float = 0.0,
) -> Method:
    """Latent Adversarial Diffusion Distillation: a discriminator on noised samples, of the form of V and with the weights of config.start.

    Args:
      times: noise alone; with several levels of data, students of several steps.
      noised: ours.
      r1: of the approximate penalty, off in the code; its comment suggests 100 to 1,000 where it is on.
      probe: as in the code.
      student_every: 5, four steps of the discriminator between, as in the code.
      network: published are heads on the frozen features of the teacher, "of_features"; "like_V" needs no teacher.
      label_drop: ours.

    Reference: Sauer et al. 2024 (arXiv 2403.12015); constants from the code of FastGen.
    """
    return _method(_terms("non_saturating", 1.0, times, noised, r1, 0.0, probe, student_every, network), label_drop, network)


def afm(
    *,
    penalty: float = 0.25,
    probe: float = 0.01,
    centre: float = 0.01,
    ot_start: float = 0.2,
    ot_end: float = 0.005,
    student_every: int = 1,
    network: str = "",
    label_drop: float = 0.0,
    total_steps: int | None = None,
) -> Method:
    """Adversarial Flow Models, one step, from scratch: a relativistic game, and a price of the way from noise to data.

    Args:
      penalty: of the approximate R1 and R2, over the square of `probe`, on every fourth row.
      probe: size of its noise.
      centre: weight of the squared sum of logits.
      ot_start: weight of the way at the start of the training; it falls by half a cosine to `ot_end` at its end.
      ot_end: published, after a million steps.
      student_every: 1 as published.
      network: ours.
      label_drop: ours.

    Reference: Adversarial Flow Models (arXiv 2511.22475); constants from its released code.
    """
    length = recipe.length("afm", "the price of the way falls", total_steps)
    fall = lambda step: ot_end + (ot_start - ot_end) * 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(step / length, 0, 1)))

    def priced(key: Array, n: int, step: Any) -> dict[str, Array]:
        return {"s": jnp.ones(n), "t": jnp.zeros(n), "a": jnp.full((n,), fall(step))}

    fool, tell_apart = _terms("relativistic", 1.0, NOISE, CLEAN, 0.0, 0.0, 0.0, student_every, network)

    def player(nets: Nets, point: Point) -> Array:
        fake, real, D = _told_apart(network, nets, point)  # not noised: the sample itself
        way = losses.transport(fake, point.x)
        return losses.fool(D, fake, real, game="relativistic") + point.a.reshape(-1) * way

    def penalties(nets: Nets, point: Point) -> Array:
        fake, real, D = _told_apart(network, nets, point)
        noise = point.extra["probes"]
        rough = functools.partial(losses.approximate_penalty, D, size=probe)
        return (rough(real, noise[:, 0]) + rough(fake, noise[:, 1])) / probe**2

    def centred(nets: Nets, point: Point) -> Array:
        fake, real, D = _told_apart(network, nets, point)
        return losses.tell_apart(D, fake, real, game="relativistic") + centre * losses.centred(D, fake, real)

    # On a quarter of the rows; the weight 4 makes their mean that of the batch.
    fine = tell_apart._replace(name="penalty", pair=penalties, weight=4 * penalty, columns=(0, 1, 4))
    terms = [fool._replace(pair=player, times=priced), tell_apart._replace(pair=centred), fine]
    return _method(terms, label_drop, network)


def cafm(
    *,
    times: TimeSampler = ("uniform",),
    centre: float = 1e-3,
    ot: float = 0.0,
    student_every: int = 16,
    network: str = "",
    path: str | paths.Path = "linear",
    label_drop: float = 0.1,
    jvp: str = "exact",
) -> Method:
    """Continuous Adversarial Flow Models: the discriminator judges directions, by its derivative along a velocity; V learns the diagonal.

    Args:
      times: ours; those published are not verified.
      centre: weight of the squared logit, as published.
      ot: weight of the mean square of V; its published value is not verified.
      student_every: 16, as published.
      network: ours.
      label_drop: ours.

    Reference: Continuous Adversarial Flow Models (arXiv 2604.11521); constants from its released code.
    """
    derivative = derivatives.jvp_from_name(jvp)
    asked = functools.partial(_judge, network)
    velocity = lambda nets, point: pairs.bind(nets.V, point)(point.x, point.s, point.s)

    def fool(nets: Nets, point: Point) -> Array:
        fake = velocity(nets, point)
        errors = losses.continuous_fool(asked(nets, point), point.x, point.s, fake, jvp=derivative)
        return errors + ot * losses.transport(fake, jnp.zeros_like(fake)) if ot else errors

    def tell_apart(nets: Nets, point: Point) -> Array:
        fake, D = velocity(nets, point), asked(nets, point)
        real = pairs.velocity(nets, point, fake).v
        return losses.continuous_tell_apart(D, point.x, point.s, real, fake, centre=centre, jvp=derivative)

    term = functools.partial(Term, distance=None, times=draws.diagonal_times(times))
    terms = [
        term("fool", fool, trains=("V",), every=student_every),
        term("tell_apart", tell_apart, trains=("discriminator",)),
    ]
    return recipe.method(terms, points=draws.on_path(path), label_drop=label_drop, needs=_needs(network), one_noise=False)


# Terms


def _terms(
    game: str,
    weight: float,
    times: TimeSampler,
    noised: TimeSampler,
    r1: float,
    r2: float,
    probe: float,
    student_every: int,
    network: str,
) -> list[Term]:
    """The terms "fool" and "tell_apart"."""
    checks.member("game", game, losses.GAMES)
    if min(r1, r2, probe) < 0:
        raise InputError(f"r1, r2 and probe are {r1}, {r2} and {probe}; expected numbers of at least 0.")

    def fool(nets: Nets, point: Point) -> Array:
        fake, real, D = _told_apart(network, nets, point)
        return losses.fool(D, fake, real, game=game)

    def tell_apart(nets: Nets, point: Point) -> Array:
        fake, real, D = _told_apart(network, nets, point)
        errors = losses.tell_apart(D, fake, real, game=game)
        for number, (penalty, x) in enumerate(((r1, real), (r2, fake))):
            if penalty and probe:
                errors += penalty * losses.approximate_penalty(D, x, point.extra["probes"][:, number], probe)
            elif penalty:
                errors += penalty / 2 * losses.penalty(D, x)
        return errors

    source, level = sampler_from_name(times, draws=1), sampler_from_name(noised, draws=1)

    def drawn(key: Array, n: int, step: Any) -> dict[str, Array]:
        source_key, level_key = jax.random.split(key)
        return {"s": source(source_key, n), "t": level(level_key, n)}

    term = functools.partial(Term, distance=None, times=drawn, extra=_extra)
    return [
        term("fool", fool, weight=weight, trains=("V",), every=student_every),
        term("tell_apart", tell_apart, trains=("discriminator",)),
    ]


def _extra(key: Array, rows: Mapping[str, Any], step: Any) -> dict[str, Array]:
    """Noises of a term: one for samples and data on their way up again, two for the approximate penalties."""
    level_key, probe_key = jax.random.split(key)
    eps = rows["eps"]
    probes = jax.random.normal(probe_key, (len(eps), 2, *eps.shape[1:]), eps.dtype)
    return {"levels": jax.random.normal(level_key, (len(eps), 2, *eps.shape[1:]), eps.dtype), "probes": probes}


def _told_apart(network: str, nets: Nets, point: Point) -> tuple[Array, Array, losses.Discriminator]:
    """(samples, data, discriminator of both): both noised up to the time t, by noises of their own."""
    up = lambda x, number: paths.interpolate(paths.linear, x, point.extra["levels"][:, number], point.t)[0]
    D = _judge(network, nets, point)
    sample = flowmap.jump(pairs.bind(nets.V, point), point.x, point.s, 0.0)
    return up(sample, 0), up(point.x0, 1), lambda x: D(x, point.t)


def _judge(network: str, nets: Nets, point: Point) -> Any:
    """The discriminator as a function of (x, t): of rows, or of what the teacher sees in them."""
    if network != "of_features":
        return lambda x, t: nets.discriminator(x, t, point.cond)
    return lambda x, t: nets.discriminator(nets.features(x, t, point.cond), t.reshape(-1, 1), point.cond)


def _needs(network: str) -> dict[str, Any]:
    checks.member("discriminator", network, NETWORKS)
    return dict(NETWORKS[network])


def _method(terms: Sequence[Term], label_drop: float, network: str) -> Method:
    """The Method of terms with a discriminator; each term draws its own noise, so that both players see different samples."""
    return recipe.method(terms, points=draws.on_path("linear"), label_drop=label_drop, needs=_needs(network), one_noise=False)


def _beside_noise(terms: Sequence[Term], label_drop: float, needs: Mapping[str, Any]) -> Method:
    return recipe.method(terms, points=draws.noise_beside_data, label_drop=label_drop, needs=needs)


def _joined(parts: Sequence[Method]) -> Method:
    """The Method of the terms of several."""

    def draw(key: Array, batch: Mapping[str, Array], step: Any) -> dict[str, Point]:
        keys = jax.random.split(key, len(parts))
        return {name: point for part, key in zip(parts, keys) for name, point in part.draw(key, batch, step).items()}

    terms = tuple(term for part in parts for term in part.terms)
    needs = {name: need for part in parts for name, need in part.needs.items()}
    return Method(draw, functools.partial(recipe.loss, terms, needs), terms, needs)


_INFO = functools.partial(MethodInfo, rule="distributional", setting="P", jumps="from noise")
TABLE: dict[str, MethodInfo] = {
    "apt": _INFO(
        apt, pairs=(losses.fool, losses.tell_apart, losses.approximate_penalty), derivative="none; through the discriminator",
        derived_fpe=18, paper="Adversarial Post-Training", arxiv="2501.08316",
    ),
    "add": _INFO(
        add, pairs=(losses.fool, losses.tell_apart, losses.adversarial_distillation), setting="D",
        derivative="none; through the discriminator", derived_fpe=8, paper="Adversarial Diffusion Distillation", arxiv="2311.17042",
    ),
    "ladd": _INFO(
        ladd, pairs=(losses.fool, losses.tell_apart, losses.approximate_penalty), derivative="none; through the discriminator",
        derived_fpe=8, paper="Latent Adversarial Diffusion Distillation", arxiv="2403.12015",
    ),
    "afm": _INFO(
        afm, pairs=(losses.fool, losses.tell_apart, losses.centred, losses.transport), derivative="none; through the discriminator",
        derived_fpe=4.25, paper="Adversarial Flow Models", arxiv="2511.22475",
    ),
    "cafm": _INFO(
        cafm, pairs=(losses.slope, losses.continuous_fool, losses.continuous_tell_apart),
        derivative="that of the discriminator along velocities, gradient through it", jumps="none", derived_fpe=1.1875,
        paper="Continuous Adversarial Flow Models", arxiv="2604.11521",
    ),
}  # fmt: skip
