"""A method of three networks in one file: one-step student, fake velocity and discriminator, as in DMD2 (arXiv 2405.14867).

    python -m experiments.train --config=experiments/three_players.py --workdir=runs/three_players

The fake velocity learns the flow of the student's samples. The student is trained by two terms at its noised samples: the
difference of the fake's and the teacher's velocities, and a discriminator that separates them from noised data. The fake and
the discriminator train in every step, the student in every fifth. A method outside the library is added like this, by one file.
Its constants are not tuned.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from configs import common
from flowjax import distances, losses, methods, paths, typing
from flowjax.methods import draws, pairs, recipe


class Discriminator(nn.Module):
    """Logits [rows, 1] that x [rows, ...], noised up to t, is data."""

    @nn.compact
    def __call__(self, x, s, t, cond=None):
        times = jnp.broadcast_to(jnp.reshape(t, (-1, 1)), (x.shape[0], 1))
        h = jnp.concatenate([x.reshape(x.shape[0], -1), times], axis=-1)
        return nn.Dense(1)(nn.silu(nn.Dense(64)(nn.silu(nn.Dense(64)(h)))))


def noised(nets, point):
    """The point with x, the student's sample noised up to the time t, and v, its velocity."""
    sample = point.x - nets.V(point.x, 1.0, 0.0, point.cond)
    x, v = paths.interpolate(paths.linear, sample, point.eps, point.t)
    return point._replace(x=x, v=v)


def three_players(*, times=("uniform",), student_every=5, adversarial=0.1, label_drop=0.0):
    """The recipe: which networks each term trains, and how often."""
    push = lambda nets, point: pairs.call(losses.freeflow_correction, nets, point, velocity=pairs.bind(nets.fake, point))
    fool = lambda nets, point: jax.nn.softplus(-nets.discriminator(noised(nets, point).x, point.t, point.cond))
    follow = lambda nets, point: typing.Pair(nets.fake(point.x, point.t, point.cond), point.v)

    def tell_apart(nets, point):
        real, _ = paths.interpolate(paths.linear, point.x0, point.eps, point.t)
        logits = lambda x: nets.discriminator(x, point.t, point.cond)
        return jax.nn.softplus(logits(point.x)) + jax.nn.softplus(-logits(real))

    term = functools.partial(typing.Term, times=draws.target_times(times))
    terms = [
        term("push", push, distances.l2, trains=("V",), every=student_every),
        term("fool", fool, None, adversarial, trains=("V",), every=student_every),
        term("follow", follow, distances.l2, trains=("fake",), prepare=noised),
        term("tell_apart", tell_apart, None, trains=("discriminator",), prepare=noised),
    ]
    discriminator = typing.Network(Discriminator(), "scalar", {"learning_rate": 1e-4})
    needs = {"teacher": {}, "fake": typing.Network(call="velocity"), "discriminator": discriminator}
    return recipe.method(terms, points=draws.noise_beside_data, label_drop=label_drop, needs=needs)


methods.register("three_players", three_players, jumps="from noise")


def get_config(preset="checkerboard"):
    config = common.base(preset, method="three_players")
    config.update({"modules": ("experiments.three_players",), "teacher": "exact", "eval_steps": (1,)})
    return config
