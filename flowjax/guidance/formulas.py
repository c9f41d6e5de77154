"""Formulas of guided velocities: on a teacher, and inside the training target."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flowjax import conditioning, typing
from flowjax.guidance import scales
from flowjax.typing import Array, Nets, Point, Time

sg = jax.lax.stop_gradient


def guided(v: Array, v_weak: Array, w: Time) -> Array:
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


def classifier_free(velocity: Callable, scale: Callable[[Point], Array]) -> Callable:
    """`velocity` guided away from its value for the null label, both from one doubled batch.

    Args:
      velocity: `(x, t, cond) -> velocity`, trained with the null label -1; its cond has neither scale nor interval.
      scale: `point -> w`, the scale at a point's time, such as `within`.

    Returns:
      `(x, t, cond) -> velocity`, at the scale cond["guidance"], [B], of each row.
    """

    def guided_velocity(x: Array, t: Time, cond: Mapping[str, Array]) -> Array:
        plain = conditioning.without(cond, conditioning.GUIDANCE)
        v, v_null = _doubled(velocity, x, t, plain, conditioning.null(plain))
        return guided(v, v_null, scale(typing.Point(x=x, s=t, cond=cond)))

    return guided_velocity


def autoguidance(velocity: Callable, weak: Callable, scale: Callable[[Point], Array]) -> Callable:
    """`velocity` guided away from that of a weaker network, as `classifier_free`; labels are not needed."""

    def guided_velocity(x: Array, t: Time, cond: Mapping[str, Array]) -> Array:
        plain = conditioning.without(cond, conditioning.GUIDANCE)
        return guided(velocity(x, t, plain), weak(x, t, plain), scale(typing.Point(x=x, s=t, cond=cond)))

    return guided_velocity


# Inside the training target


class Guided(NamedTuple):
    """A guided velocity for a loss, and the network's velocity that it was made from; no gradient passes through either.

    Attributes:
      v: guided velocity at (x, s), the shape of x.
      V_ss: the network's conditional velocity there; None where the formula does not need it.
    """

    v: Array
    V_ss: Array | None = None


def meanflow(
    nets: Nets, point: Point, V_ss: Array | None = None, *, k: float = 0.5, interval: tuple[float, float] = (0.0, 1.0)
) -> Guided:
    """MeanFlow: a share of the network's conditional velocity beside the data's.

        v_g = w' v + (1 - w' - k) V(x, s, s | null) + k V(x, s, s | c),     w' = (1 - k) w,   at times s within the interval

    The paper's omega is w', its kappa is k, and w = omega / (1 - kappa) the scale that results. With k = 0 V(x, s, s | c) is not
    evaluated.

    Args:
      nets: a flowjax.typing.Nets.
      point: a flowjax.typing.Point whose cond has "label" and "guidance" (w).
      V_ss: the network's velocity at the point if it is known already; None: it is evaluated.
      k: share of V(x, s, s | c), in [0, 1).
      interval: times (low, high) outside which v stays as it is.

    Returns:
      Guided.

    Example:
      >>> nets = typing.Nets(V=lambda x, s, t, cond=None: cond["label"][:, None] + 0.0 * x)
      >>> cond = {"label": jnp.array([2, -1]), "guidance": jnp.array([3.0, 3.0])}
      >>> point = typing.Point(x=jnp.zeros((2, 1)), s=jnp.ones((2, 1)), v=jnp.ones((2, 1)), cond=cond)
      >>> meanflow(nets, point, k=0.0).v.tolist()
      [[5.0], [1.0]]

    Reference: Geng et al. 2025 (arXiv 2505.13447), the guided field with omega and kappa; the constants are its configuration table's.
    """
    V_ss, V_null = _evaluated(_velocity(nets), point, point.cond, V_ss, labelled=k > 0)
    w, share = scales.within(point, interval=interval), scales.between(point.s, interval, k, 0.0)
    return _unless_dropped(point, _mixed(point.v, V_null, V_ss, w, share), V_ss)


def imf(nets: Nets, point: Point, V_ss: Array | None = None) -> Guided:
    """Improved MeanFlow: scale and interval are the network's inputs, and the data's velocity has weight 1.

        v_g = v + (1 - 1/w) (V(x, s, s | c, w) - V(x, s, s | null)),     w = 1 where s is outside cond["interval"]

    The network is evaluated with the interval (0, 1) at the scale that holds at s and, with the null label, at w = 1. Its value is
    also the tangent of the method's derivative; of a row whose label was dropped that is V(x, s, s | null, w). The published code has
    no such row off the diagonal.

    Args:
      nets, point, V_ss: as in `meanflow`; cond has "interval" besides.

    Reference: Geng et al. 2025 (arXiv 2512.02012), guidance as conditioning; the inputs of the network, from its code.
    """
    w = scales.within_drawn(point)
    whole = jnp.broadcast_to(jnp.array([0.0, 1.0], w.dtype), point.cond["interval"].shape)
    cond = {**point.cond, "guidance": w.reshape(-1), "interval": whole}
    V_ss, V_null = _evaluated(_velocity(nets), point, cond, V_ss, labelled=True)
    return _unless_dropped(point, _mixed(point.v, V_null, V_ss, w, 1 - 1 / w), V_ss)


def dmf(nets: Nets, point: Point, V_ss: Array | None = None, *, interval: tuple[float, float] = (0.0, 0.7)) -> Guided:
    """Decoupled MeanFlow: model guidance, which is improved MeanFlow's formula at a fixed scale and interval.

        v_g = v + (1 - 1/w) (V(x, s, s | c) - V(x, s, s | null))     at times s within the interval

    The paper's omega is 1 - 1/w: 0.6 for w = 2.5.

    Args:
      nets, point, V_ss, interval: as in `meanflow`.

    Reference: Lee, Yu and Shin 2025 (arXiv 2510.24474); Tang et al. 2025 (arXiv 2502.12154).
    """
    V_ss, V_null = _evaluated(_velocity(nets), point, point.cond, V_ss, labelled=True)
    w = scales.within(point, interval=interval)
    return _unless_dropped(point, _mixed(point.v, V_null, V_ss, w, 1 - 1 / w), V_ss)


def tvm(nets: Nets, point: Point, V_ss: Array | None = None) -> Guided:
    """Terminal Velocity Matching: the unconditional velocity is the averaged network's, and rows are weighted by 1 / w^2.

        v_g = w v + (1 - w) V_ema(x, s, s | null)

    With a method that averages no weights, the current ones stand for V_ema.

    Args:
      nets, point, V_ss: as in `meanflow`.

    Reference: Zhou et al. 2025 (arXiv 2511.19797), guidance with a scale as input; the weight from its code.
    """
    net = _velocity(nets) if nets.ema is None else nets.ema
    _, V_null = _evaluated(net, point, point.cond, V_ss, labelled=False)
    return _unless_dropped(point, guided(point.v, V_null, scales.everywhere(point)), V_ss)


def guidance_free(nets: Nets, point: Point, V_ss: Array | None = None) -> Guided:
    """Guidance-free training: regression of V / w + (1 - 1/w) V(x, s, s | null) on v, as a target.

        v_g = w v + (1 - w) V(x, s, s | null),     errors weighted by 1 / w^2,   1/w uniform

    Dividing the residual V - v_g by w gives the paper's, so that the two losses agree.

    Args:
      nets, point, V_ss: as in `meanflow`.

    Reference: Chen et al. 2025, Visual Generation Without Guidance (arXiv 2501.15420); its beta is 1/w.
    """
    return tvm(nets.replace(ema=None), point, V_ss)


def guidance_free_logits(nets: Nets, point: Point, logits: Array) -> Array:
    """Guidance-free training of categories: the logits that are scored on the data, from those at the scale w of the row.

        logits(x, s, s | c, w) / w + (1 - 1/w) logits(x, s, s | null)

    The cross-entropy is least where these are the logits of the posterior p(c). So the network's become the guided ones,
    null + w (c - null), whose probabilities ~ p(c)^w p(null)^(1 - w) are on the simplex at every scale. Rows without a label have w = 1.

    Args:
      nets: a flowjax.typing.Nets with `logits`.
      point: a flowjax.typing.Point whose cond has "label" and "guidance" (w).
      logits: of the network at the point, with a gradient; those of the null label have none.

    Returns:
      Logits, the shape of x.

    Reference: the rule of `guidance_free` (arXiv 2501.15420) for logits; ours, no paper on categories has it.
    """
    w = scales.everywhere(point)
    null = sg(nets.logits(point.x, point.s, point.s, conditioning.null(point.cond)))
    return logits / w + (1 - 1 / w) * null


def soflow(nets: Nets, point: Point, V_ss: Array | None = None, *, mix: float = 0.25, decay: float = 0.8) -> Guided:
    """SoFlow: the guided velocity is mixed with the network's, and the scale falls smoothly to 1 at noise.

        v_g = mix (v + d(s) (w - 1) (v - V(x, s, s | null))) + (1 - mix) V(x, s, s | c)
        d(s) = 1 up to `decay`, then 1 - exp(-q / 40),  q = r / (1 - r),  r = (1 - s) / (1 - decay)

    Args:
      nets, point, V_ss: as in `meanflow`.
      mix: share of the guided velocity, in (0, 1].
      decay: time from which the scale falls, in (0, 1]; 1: never.

    Reference: Luo, Yuan and Liu 2025 (arXiv 2512.15657), the mixed guided velocity; the form of the decay from its code.
    """
    V_ss, V_null = _evaluated(_velocity(nets), point, point.cond, V_ss, labelled=mix < 1)
    w = scales.fading(point, decay=decay)
    return _unless_dropped(point, _mixed(point.v, V_null, V_ss, w, 1 - mix), V_ss)


def _mixed(v: Array, V_null: Array, V_ss: Array | None, w: Time, k: Time) -> Array:
    mixed = (1 - k) * guided(v, V_null, w)
    return mixed if V_ss is None else mixed + k * V_ss


def _velocity(nets: Nets) -> Callable:
    """The instantaneous velocity `(x, s, t, cond)` of a network: its second head's, or V on the diagonal."""
    return nets.V if nets.both is None else lambda x, s, t, cond: nets.both(x, s, t, cond)[1]


def _evaluated(
    net: Callable, point: Point, cond: Mapping[str, Array], V_ss: Array | None, labelled: bool
) -> tuple[Array | None, Array]:
    """(V(x, s, s | c), V(x, s, s | null)) without gradient; the first only if `labelled`, and no second time if it is known."""
    velocity = lambda x, s, cond: sg(net(x, s, s, cond))
    if V_ss is not None or not labelled:
        return (sg(V_ss) if labelled else None), velocity(point.x, point.s, conditioning.null(cond))
    return _doubled(velocity, point.x, point.s, cond, conditioning.null(cond))


def _doubled(velocity: Callable, x: Array, t: Any, one: Any, other: Any) -> tuple[Array, Array]:
    """`velocity(x, t, cond)` for two conditions in one batch of twice the rows."""
    t = jnp.broadcast_to(jnp.asarray(t), x.shape[:1] + (1,) * (x.ndim - 1))
    twice = lambda first, second: jnp.concatenate([first, second])
    first, second = jnp.split(velocity(twice(x, x), twice(t, t), jax.tree.map(twice, one, other)), 2)
    return first, second


def _unless_dropped(point: Point, v: Array, V_ss: Array | None) -> Guided:
    labelled = scales.column(point.cond["label"], point.x) >= 0
    return Guided(jnp.where(labelled, v, point.v).astype(point.v.dtype), None if V_ss is None else sg(V_ss))
