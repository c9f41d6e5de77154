"""flowjax: every way to train a flow map, as pure functions in one notation.

    F(x, s, t) = x + (t - s) V(x, s, t)        s: source time, t: target time, 0 = data, 1 = noise

`flowjax.losses` are the equations, `flowjax.methods` the published recipes, `flowjax.exact` the flow maps known in closed
form. Networks, data, measures, pictures and the trainer are imported where they are used (`import flowjax.training`).
"""

from flowjax import derivatives, distances, exact, flowmap, losses, methods, options, paths, samplers, schedules, times, typing

__version__ = "0.1.0"
__all__ = [
    "derivatives",
    "distances",
    "exact",
    "flowmap",
    "losses",
    "methods",
    "options",
    "paths",
    "samplers",
    "schedules",
    "times",
    "typing",
]
