"""When a method trains what: the terms that are computed and the networks that move in each step of its cycle.

A term is due in every `Term.every`-th step, a network may move in every `every`-th step of its optimizer. A network moves where a
due term trains it; a due term is computed where a network that it trains moves. Everything else rests: it is not computed.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from flowjax import typing

LONGEST = 10_000  # steps of a cycle


class Phase(NamedTuple):
    """What one step computes; a static argument of the step, so that each phase is a program.

    Attributes:
      terms: names of the terms that are computed.
      networks: names of the networks that move.
    """

    terms: tuple[str, ...]
    networks: tuple[str, ...]

    def described(self):
        """The networks and terms in words."""
        return f"{', '.join(self.networks)} ({', '.join(self.terms)})" if self.networks else "nothing"


class Cycle(NamedTuple):
    """The phases of the steps 0, 1, ..., after which they repeat.

    Attributes:
      phases: one Phase a step.
    """

    phases: tuple[Phase, ...]

    def at(self, step):
        """The phase of a step, counted from 0."""
        return self.phases[step % len(self.phases)]

    def distinct(self):
        """{phase: steps of a cycle that are in it}, in the order of their first steps."""
        return {phase: self.phases.count(phase) for phase in dict.fromkeys(self.phases)}

    def mean(self, costs):
        """The mean over the steps of a cycle of {phase: cost}."""
        return sum(costs[phase] * steps for phase, steps in self.distinct().items()) / len(self.phases)

    def updates(self, name, steps):
        """How often a network moves in the first `steps` steps, an int or a traced array."""
        before = np.cumsum([0, *(name in phase.networks for phase in self.phases)], dtype=np.int32)
        count = before if isinstance(steps, int) else jnp.asarray(before)
        return steps // len(self.phases) * int(before[-1]) + count[steps % len(self.phases)]


def periods(method):
    """{name of a trained network: steps from one update to the next} as the method declares them; V moves in every step."""
    return {"V": 1, **{name: network.optim.get("every", 1) for name, network in method.networks.items()}}


def cycle(method, every: Mapping[str, int]):
    """The Cycle of a method.

    Args:
      method: a flowjax.typing.Method.
      every: {name of a trained network: period of its optimizer}.

    Raises:
      InputError: if a term trains a network that the method does not train, a network is trained by no term, a period is not
        a whole number of at least 1, or the cycle is longer than LONGEST.
    """
    for network, period in every.items():
        if not isinstance(period, int) or isinstance(period, bool) or period < 1:
            field = "optim" if network == "V" else f"auxiliary.{network}"
            raise typing.InputError(
                f"config.{field}.every is {period!r}; expected a whole number of at least 1: 1 updates in each step."
            )
    trains = {term.name: term.trains or tuple(every) for term in method.terms}
    for name, names in trains.items():
        for network in names:
            if network not in every:
                raise typing.InputError(f"the term {name!r} trains {network!r}; the method trains {', '.join(every)}.")
    for network in every:
        if not any(network in names for names in trains.values()):
            raise typing.InputError(f"no term trains the network {network!r}; Term(..., trains=({network!r},)) does.")
    for term in method.terms:
        if not isinstance(term.every, int) or term.every < 1:
            raise typing.InputError(f"the term {term.name!r} has every={term.every!r}; expected a whole number of at least 1.")
    length = math.lcm(*every.values(), *(term.every for term in method.terms))
    if length > LONGEST:
        raise typing.InputError(
            f"the periods {dict(every)} of the networks and those of the terms repeat after {length:,} steps only; choose periods whose"
            f" least common multiple is at most {LONGEST:,}."
        )
    return Cycle(tuple(_phase(method.terms, trains, every, number) for number in range(1, length + 1)))


def _phase(terms, trains, every, number):
    """The phase of the step with this number, counted from 1."""
    due = [term.name for term in terms if number % term.every == 0]
    moving = [name for name in every if number % every[name] == 0 and any(name in trains[term] for term in due)]
    return Phase(tuple(term for term in due if set(trains[term]) & set(moving)), tuple(moving))
