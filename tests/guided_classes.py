"""Two classes of points, as likely as each other, whose velocities and their guided extrapolations are known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from flowjax import exact, guidance, typing

MEANS, COVARIANCES = ([1.5, 0.5], [-1.0, 1.0]), ([[0.4, 0.1], [0.1, 0.2]], [[0.2, -0.05], [-0.05, 0.5]])
SCALED = {name: jnp.array([1.0, 2.5, 4.0, 2.5, 1.5, 3.0]) for name in guidance.TARGETS}
LABELS = jnp.array([0, 1, 0, -1, 1, 0])
TIMES = jnp.array([0.1, 0.35, 0.6, 0.5, 0.85, 0.97])


def class_velocities(x, s):
    """[2, B, D]: the marginal velocity of each class at (x, s)."""
    flows = [exact.gaussian(np.array(mean), np.array(covariance)) for mean, covariance in zip(MEANS, COVARIANCES)]
    return jnp.stack([flow.v(x, s) for flow in flows])


def unconditional(x, s):
    """The velocity of both classes together: the mean of theirs, weighted by their densities."""
    s_column = jnp.broadcast_to(jnp.asarray(s, x.dtype), (len(x), 1))

    def log_density(x, s, mean, covariance):
        total = (1 - s) ** 2 * jnp.array(covariance) + s**2 * jnp.eye(2)
        return jax.scipy.stats.multivariate_normal.logpdf(x, (1 - s) * jnp.array(mean), total)

    rows = [
        jax.vmap(functools.partial(log_density, mean=m, covariance=c))(x, s_column[:, 0]) for m, c in zip(MEANS, COVARIANCES)
    ]
    weights = jax.nn.softmax(jnp.stack(rows), axis=0)[..., None]
    return (weights * class_velocities(x, s)).sum(0)


def guided_flow(x, s, label, w):
    """v_null + w (v_c - v_null), w [B, 1] or a number; v_null for label -1."""
    v_null = unconditional(x, s)
    v = jnp.where(label[:, None] == 0, *class_velocities(x, s))
    return jnp.where(label[:, None] < 0, v_null, guidance.guided(v, v_null, w))


def scale_at(kind, s, w):
    """The scale that a kind reaches at time s, from the papers' words: within an interval, or fading towards noise."""
    inside = {"meanflow": (0.0, 0.7), "dmf": (0.0, 0.7), "imf": (0.2, 0.9)}.get(kind, (0.0, 1.0))
    if kind == "soflow":
        r = (1 - s) / 0.2
        return jnp.where(s <= 0.8, w, 1 + (1 - jnp.exp(-0.025 * r / (1 - r))) * (w - 1))
    return jnp.where((inside[0] <= s) & (s <= inside[1]), w, 1.0)


def points(kind):
    """Points of both classes and of dropped labels, with the mean velocity of their class, and the network that is right for a kind."""
    x = jax.random.normal(jax.random.key(0), (6, 2), float)
    s, w = TIMES[:, None].astype(x.dtype), SCALED[kind][:, None]
    cond = {"label": LABELS, "guidance": SCALED[kind]}
    if kind == "imf":
        cond["interval"] = jnp.tile(jnp.array([0.2, 0.9]), (6, 1))
    v = jnp.where(LABELS[:, None] < 0, unconditional(x, s), guided_flow(x, s, LABELS, 1.0))

    def net(x, s, t, cond):
        # With an interval as its input, the network knows the scale that holds at each time; otherwise the kind does.
        low, high = cond["interval"].T if "interval" in cond else (-jnp.inf, jnp.inf)
        w = jnp.where((low <= s[:, 0]) & (s[:, 0] <= high), cond["guidance"], 1.0)[:, None]
        return guided_flow(x, s, cond["label"], w if kind == "imf" else scale_at(kind, s, w))

    return typing.Point(x=x, s=s, t=0.5 * s, v=v, cond=cond), net, guided_flow(x, s, LABELS, scale_at(kind, s, w))
