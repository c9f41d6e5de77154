"""Guidance: velocities extrapolated away from a weaker one, on a teacher or inside the training target.

    v_w = v_null + w (v - v_null),   w = 1: no guidance

On a teacher: `classifier_free` takes the teacher's own unconditional velocity for v_null, `autoguidance` that of a weaker network.
Inside the target: a function of TARGETS `(nets, point, V_ss=None) -> Guided` takes the network's own V(x, s, s | null), so that the
map that is learned is guided and sampling costs nothing more. Each is of the form (docs/guidance.md derives them)

    v_g = (1 - k) (w v + (1 - w) V(x, s, s | null)) + k V(x, s, s | c)

whose mean is reproduced by V(x, s, s | c) = v_null + w (v_c - v_null) whatever the share k < 1 is: they differ in k, in the times at
which they guide, in the weights that are asked and in how w is drawn. Rows whose label was dropped keep their plain v. The network's
velocity is that of its second head where it has one (`nets.both`).

The scale w of a row stands in `cond["guidance"]`, [B], the times between which it is guided, if the network is told them, in
`cond["interval"]`, [B, 2]; the null label is -1.
"""

import functools
import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flowjax import checks, conditioning, times, typing

sg = jax.lax.stop_gradient


def guided(v, v_weak, w):
    """The velocity extrapolated away from a weaker one: v_weak + w (v - v_weak).

    Args:
      v: velocity, [B, ...].
      v_weak: the velocity to move away from, the shape of `v`.
      w: scale, at least 1, broadcasting against `v`; 1 gives `v`.

    Example:
      >>> guided(jnp.array([2.0]), jnp.array([1.0]), 3.0).tolist()
      [4.0]

    Reference: Ho and Salimans 2022 (arXiv 2207.12598), equation 6, whose scale is w - 1; Karras et al. 2024 (arXiv 2406.02507).
    """
    return v_weak + w * (v - v_weak)


# On a teacher: functions of velocities `(x, t, cond) -> velocity`


def classifier_free(velocity, scale):
    """`velocity` guided away from its own answer to the null label, both asked in one doubled batch.

    Args:
      velocity: `(x, t, cond) -> velocity`, which knows the null label -1; it is told neither scale nor interval.
      scale: `point -> w`, the scale at a point's time, such as `within`.

    Returns:
      `(x, t, cond) -> velocity`, at the scale cond["guidance"], [B], of each row.
    """

    def ask(x, t, cond):
        own = conditioning.without(cond, conditioning.GUIDANCE)
        v, v_null = _doubled(velocity, x, t, own, conditioning.null(own))
        return guided(v, v_null, scale(typing.Point(x=x, s=t, cond=cond)))

    return ask


def autoguidance(velocity, weak, scale):
    """`velocity` guided away from that of a weaker network, as `classifier_free`; labels are not needed."""

    def ask(x, t, cond):
        own = conditioning.without(cond, conditioning.GUIDANCE)
        return guided(velocity(x, t, own), weak(x, t, own), scale(typing.Point(x=x, s=t, cond=cond)))

    return ask


# Inside the training target


class Guided(NamedTuple):
    """A guided velocity for a loss, and what was asked of the network for it, through which no gradient passes.

    Attributes:
      v: guided velocity at (x, s), the shape of x.
      V_ss: the network's own conditional velocity there; None where the formula does not need it.
    """

    v: jax.Array
    V_ss: jax.Array | None = None


def meanflow(nets, point, V_ss=None, *, k=0.5, interval=(0.0, 1.0)):
    """MeanFlow: a share of the network's own conditional velocity beside the data's.

        v_g = w' v + (1 - w' - k) V(x, s, s | null) + k V(x, s, s | c),     w' = (1 - k) w,   at times s within the interval

    The paper's omega is w', its kappa is k, and w = omega / (1 - kappa) the scale that results. With k = 0 V(x, s, s | c) is not asked.

    Args:
      nets: a flowjax.typing.Nets.
      point: a flowjax.typing.Point whose cond has "label" and "guidance" (w).
      V_ss: the network's own velocity at the point if it is known already; None: it is asked.
      k: share of V(x, s, s | c), in [0, 1).
      interval: times (low, high) outside which v stays as it is.

    Returns:
      Guided.

    Example:
      >>> nets = typing.Nets(V=lambda x, s, t, cond=None: times.expand(cond["label"], x) + 0.0 * x)
      >>> cond = {"label": jnp.array([2, -1]), "guidance": jnp.array([3.0, 3.0])}
      >>> point = typing.Point(x=jnp.zeros((2, 1)), s=jnp.ones((2, 1)), v=jnp.ones((2, 1)), cond=cond)
      >>> meanflow(nets, point, k=0.0).v.tolist()
      [[5.0], [1.0]]

    Reference: Geng et al. 2025 (arXiv 2505.13447), the guided field with omega and kappa; the constants are its configuration table's.
    """
    V_ss, V_null = _own_and_null(_velocity(nets), point, point.cond, V_ss, own=k > 0)
    w, k = within(point, interval=interval), _between(point.s, interval, k, 0.0)
    return _unless_dropped(point, _mixed(point.v, V_null, V_ss, w, k), V_ss)


def imf(nets, point, V_ss=None):
    """Improved MeanFlow: scale and interval are the network's inputs, and the data's velocity has weight 1.

        v_g = v + (1 - 1/w) (V(x, s, s | c, w) - V(x, s, s | null)),     w = 1 where s is outside cond["interval"]

    The network is asked for the interval (0, 1) at the scale that holds at s and, for the null label, at w = 1. Its value is also the
    tangent of the method's derivative; of a row whose label was dropped that is V(x, s, s | null), where the published code keeps
    the value for the label that the row had.

    Args:
      nets, point, V_ss: as in `meanflow`; cond has "interval" besides.

    Reference: Geng et al. 2025 (arXiv 2512.02012), guidance as conditioning; what the network is asked for, from its code.
    """
    w = within_drawn(point)
    whole = jnp.broadcast_to(jnp.array([0.0, 1.0], w.dtype), point.cond["interval"].shape)
    asked = {**point.cond, "guidance": w.reshape(-1), "interval": whole}
    V_ss, V_null = _own_and_null(_velocity(nets), point, asked, V_ss, own=True)
    return _unless_dropped(point, _mixed(point.v, V_null, V_ss, w, 1 - 1 / w), V_ss)


def dmf(nets, point, V_ss=None, *, interval=(0.0, 0.7)):
    """Decoupled MeanFlow: model guidance, which is improved MeanFlow's formula at a fixed scale and interval.

        v_g = v + (1 - 1/w) (V(x, s, s | c) - V(x, s, s | null))     at times s within the interval

    The paper's omega is 1 - 1/w: 0.6 for w = 2.5.

    Args:
      nets, point, V_ss, interval: as in `meanflow`.

    Reference: Lee, Yu and Shin 2025 (arXiv 2510.24474); Tang et al. 2025 (arXiv 2502.12154).
    """
    V_ss, V_null = _own_and_null(_velocity(nets), point, point.cond, V_ss, own=True)
    w = within(point, interval=interval)
    return _unless_dropped(point, _mixed(point.v, V_null, V_ss, w, 1 - 1 / w), V_ss)


def tvm(nets, point, V_ss=None):
    """Terminal Velocity Matching: the unconditional velocity is the averaged network's, and rows are weighted by 1 / w^2.

        v_g = w v + (1 - w) V_ema(x, s, s | null)

    With a method that averages no weights, the current ones stand for V_ema.

    Args:
      nets, point, V_ss: as in `meanflow`.

    Reference: Zhou et al. 2025 (arXiv 2511.19797), guidance with a scale as input; the weight from its code.
    """
    ask = _velocity(nets) if nets.ema is None else nets.ema
    _, V_null = _own_and_null(ask, point, point.cond, V_ss, own=False)
    return _unless_dropped(point, guided(point.v, V_null, everywhere(point)), V_ss)


def guidance_free(nets, point, V_ss=None):
    """Guidance-free training: regression of V / w + (1 - 1/w) V(x, s, s | null) on v, as a target.

        v_g = w v + (1 - w) V(x, s, s | null),     errors weighted by 1 / w^2,   1/w uniform

    Dividing the residual V - v_g by w gives the paper's, so that the two losses agree.

    Args:
      nets, point, V_ss: as in `meanflow`.

    Reference: Chen et al. 2025, Visual Generation Without Guidance (arXiv 2501.15420); its beta is 1/w.
    """
    return tvm(nets._replace(ema=None), point, V_ss)


def soflow(nets, point, V_ss=None, *, mix=0.25, decay=0.8):
    """SoFlow: the guided velocity is mixed with the network's own, and the scale falls smoothly to 1 at noise.

        v_g = mix (v + d(s) (w - 1) (v - V(x, s, s | null))) + (1 - mix) V(x, s, s | c)
        d(s) = 1 up to `decay`, then 1 - exp(-q / 40),  q = r / (1 - r),  r = (1 - s) / (1 - decay)

    Args:
      nets, point, V_ss: as in `meanflow`.
      mix: share of the guided velocity, in (0, 1].
      decay: time from which the scale falls, in (0, 1]; 1: never.

    Reference: Luo, Yuan and Liu 2025 (arXiv 2512.15657), the mixed guided velocity; the form of the decay from its code.
    """
    V_ss, V_null = _own_and_null(_velocity(nets), point, point.cond, V_ss, own=mix < 1)
    w = fading(point, decay=decay)
    return _unless_dropped(point, _mixed(point.v, V_null, V_ss, w, 1 - mix), V_ss)


# The scale that holds at a point's time, from the scale w of its row


def everywhere(point):
    """w at all times."""
    return _column(point.cond["guidance"], point.x)


def within(point, *, interval=(0.0, 1.0)):
    """w within an interval of times, 1 outside."""
    return _between(point.s, interval, everywhere(point), 1.0)


def within_drawn(point):
    """w within the row's own interval, 1 outside."""
    return within(point, interval=tuple(_column(end, point.x) for end in jnp.moveaxis(point.cond["interval"], -1, 0)))


def fading(point, *, decay=0.8):
    """w up to a time, from there falling smoothly to 1 at noise."""
    if decay >= 1:
        return everywhere(point)
    r = jnp.clip((1 - point.s) / (1 - decay), 0.0, 1 - 1e-6)
    d = jnp.where(point.s <= decay, 1.0, -jnp.expm1(-0.025 * r / (1 - r)))
    return 1 + d * (everywhere(point) - 1)


def _mixed(v, V_null, V_ss, w, k):
    found = (1 - k) * guided(v, V_null, w)
    return found if V_ss is None else found + k * V_ss


def _velocity(nets):
    """The instantaneous velocity `(x, s, t, cond)` of a network: its second head's, or V on the diagonal."""
    return nets.V if nets.both is None else lambda x, s, t, cond: nets.both(x, s, t, cond)[1]


def _own_and_null(net, point, cond, V_ss, own):
    """(V(x, s, s | c), V(x, s, s | null)) without gradient; the first is asked only if it is needed and not known."""
    ask = lambda x, s, cond: sg(net(x, s, s, cond))
    if V_ss is not None or not own:
        return (sg(V_ss) if own else None), ask(point.x, point.s, conditioning.null(cond))
    return _doubled(ask, point.x, point.s, cond, conditioning.null(cond))


def _doubled(ask, x, t, one, other):
    """`ask(x, t, cond)` for two conditions in one batch of twice the rows."""
    t = jnp.broadcast_to(jnp.asarray(t), x.shape[:1] + (1,) * (x.ndim - 1))
    twice = lambda first, second: jnp.concatenate([first, second])
    return tuple(jnp.split(ask(twice(x, x), twice(t, t), jax.tree.map(twice, one, other)), 2))


def _unless_dropped(point, v, V_ss):
    labelled = _column(point.cond["label"], point.x) >= 0
    return Guided(jnp.where(labelled, v, point.v).astype(point.v.dtype), None if V_ss is None else sg(V_ss))


def _between(t, interval, inside, outside):
    low, high = interval
    return jnp.where((low <= t) & (t <= high), inside, outside)


def _column(values, x):
    """[B] as a column that broadcasts against x; scales and times are never narrower than float32."""
    wide = jnp.promote_types(values.dtype, jnp.float32) if jnp.issubdtype(values.dtype, jnp.floating) else values.dtype
    return times.expand(values.astype(wide), x)


# What a config may name, and how scales are drawn


def uniform(u, low, high):
    """Quantile u of scales uniform between low and high."""
    return low + u * (high - low)


def inverse(u, low, high):
    """Quantile u of scales with density ~ 1/w between low and high (improved MeanFlow)."""
    return low * (high / low) ** u


def reciprocal(u, low, high):
    """Quantile u of scales whose reciprocal 1/w is uniform (guidance-free training)."""
    return 1 / (1 / low + u * (1 / high - 1 / low))


class Target(NamedTuple):
    """A guidance inside the training target.

    Attributes:
      guide: the function `(nets, point, V_ss=None, **constants) -> Guided`.
      scale: `(point, **constants) -> w`, the scale that it reaches at a point's time.
      quantile: of the scales that a row draws, `(u, low, high) -> w`.
      constants: those of `guide` that config.guidance has; `scale` takes those of them that it knows.
      weighted: whether the errors of a row are weighted by 1 / w^2.
      told_interval: whether rows draw an interval of times, which the network is told.
    """

    guide: Callable
    scale: Callable
    quantile: Callable = inverse
    constants: tuple[str, ...] = ()
    weighted: bool = False
    told_interval: bool = False


TARGETS = {
    "meanflow": Target(meanflow, within, constants=("k", "interval")),
    "imf": Target(imf, within_drawn, told_interval=True),
    "dmf": Target(dmf, within, constants=("interval",)),
    "tvm": Target(tvm, everywhere, quantile=uniform, weighted=True),
    "soflow": Target(soflow, fading, constants=("mix", "decay")),
    "guidance_free": Target(guidance_free, everywhere, quantile=reciprocal, weighted=True),
}
TEACHERS = ("classifier_free", "autoguidance")
KINDS = (*TARGETS, *TEACHERS)


def guide_from_name(kind, **constants):
    """(guide, scale) of a kind with its constants bound: `(nets, point, V_ss=None) -> Guided` and `point -> w`.

    Constants that it has no use for are left out.
    """
    checks.member("guidance", kind, TARGETS)
    bound = lambda f, names: functools.partial(f, **{name: constants[name] for name in names if name in constants})
    target = TARGETS[kind]
    known = [name for name in target.constants if name in inspect.signature(target.scale).parameters]
    return bound(target.guide, target.constants), bound(target.scale, known)


def quantile(kind, u, low, high):
    """Quantile u in [0, 1] of the scales of a kind of guidance between low and high: u uniform is a draw, 1/2 the median."""
    return (TARGETS[kind].quantile if kind in TARGETS else uniform)(u, low, high)


WHOLE = 0.25  # share of the rows that are guided at all times, where rows draw an interval


def drawing(method, kind, scale, interval=False):
    """`method` with a scale, and an interval of times if asked, for every row in the cond of all its terms.

    Args:
      method: a flowjax.typing.Method.
      kind: one of KINDS, which says how scales are distributed.
      scale: (low, high), the lowest at least 1; equal for a fixed scale.
      interval: whether a row draws an interval: its ends are uniform on [0, 1/2] and [1/2, 1], but for a share WHOLE of the rows, which
        are guided at all times: (0, 1) would be a corner of what is learned, where nothing teaches the map.
    """

    def draw(key, batch, step):
        scale_key, interval_key, whole_key, own_key = jax.random.split(key, 4)
        rows = batch["x"].shape[:1]
        added = {"guidance": quantile(kind, jax.random.uniform(scale_key, rows), *scale)}
        if interval:
            ends = jax.random.uniform(interval_key, (*rows, 2)) / 2 + jnp.array([[0.0, 0.5]])
            whole = jax.random.bernoulli(whole_key, WHOLE, (*rows, 1))
            added["interval"] = jnp.where(whole, jnp.array([[0.0, 1.0]]), ends)
        return method.draw(own_key, {**batch, **added}, step)

    return method._replace(draw=draw)
