"""Teachers: velocities and flow maps that are not trained, with guidance on them.

Whether a method can learn from a teacher is judged by flowjax.training.config_checks.
"""

import functools
from typing import Any, NamedTuple

from flowjax import derivatives, guidance as guidances, models
from flowjax.data import points

EXACT = "exact"  # as config.teacher: the closed-form velocity of points


class Teacher(NamedTuple):
    """What a student learns from, None for what it has not.

    Attributes:
      velocity: `(weights, x, t, cond) -> velocity`.
      map: `(weights, x, s, t, cond) -> average velocity`.
      features: `(weights, x, t, cond) -> [rows, features]`, see flowjax.models.features.
      weights: their first argument; () for none.
    """

    velocity: Any = None
    map: Any = None
    features: Any = None
    weights: Any = ()


def make(run, weak, guidance, data_name):
    """The Teacher of a method that learns from one.

    Args:
      run: the Trained of the teacher; None: the closed-form velocity of the data.
      weak: the Trained of the weaker network of autoguidance, or None.
      guidance: flowjax.training.settings.Guidance of the student.
      data_name: a key of flowjax.data.points.VELOCITIES, for the closed-form velocity.
    """
    if run is None:
        exact = points.VELOCITIES[data_name]
        teacher = Teacher(lambda weights, x, t, cond: exact(x, t))
    else:
        teacher = Teacher(velocity_of(run), map_of(run), features_of(run), run.params)
    scale = functools.partial(guidances.within, interval=guidance.interval)
    if guidance.kind == "autoguidance":
        return _autoguided(teacher, weak, scale)
    if guidance.kind == "classifier_free":

        def guided(weights, x, t, cond):
            return guidances.classifier_free(functools.partial(teacher.velocity, weights), scale)(x, t, cond)

        return Teacher(guided, weights=teacher.weights)
    return teacher


def _autoguided(teacher, weak, scale):
    weaker = velocity_of(weak)

    def guided(weights, x, t, cond):
        strong, other = functools.partial(teacher.velocity, weights["teacher"]), functools.partial(weaker, weights["weak"])
        return guidances.autoguidance(strong, other, scale)(x, t, cond)

    return Teacher(guided, weights={"teacher": teacher.weights, "weak": weak.params})


def apply(net, weights, *inputs, **options):
    """The output of a network, computed in float32 where flowjax.derivatives.float32 takes a tangent."""
    net = models.in_float32(net) if derivatives.in_float32() else net
    return net.apply({"params": weights}, *inputs, **options)


def map_of(run):
    """`(weights, x, s, t, cond) -> average velocity` of a trained run; the student's dropout key does not reach it."""

    def average_velocity(weights, x, s, t, cond):
        known = {name: value for name, value in (cond or {}).items() if name != "dropout"}
        return apply(run.net, weights, x, s, t, known)

    return average_velocity


def features_of(run):
    """`(weights, x, t, cond) -> [rows, features]` of a trained run."""

    def features(weights, x, t, cond):
        known = {name: value for name, value in (cond or {}).items() if name != "dropout"}
        return models.features(run.net, weights, x, t, known)

    return features


def velocity_of(run):
    """`(weights, x, t, cond) -> velocity` of a trained run."""
    average_velocity = map_of(run)
    return lambda weights, x, t, cond: average_velocity(weights, x, t, t, cond)
