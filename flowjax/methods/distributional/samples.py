"""Recipes that match distributions by samples: no teacher, no second network. Noise goes to samples, and groups of these meet groups of data.

Rows meet only rows of their own label, where the data have labels: each group then is several small ones. The constants that most have:

  group: rows that meet each other; a batch is cut into groups, so that a device needs no rows of another one.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from flowjax import checks, distances, flowmap, paths, times as time_samplers
from flowjax.losses import distributional as losses
from flowjax.methods import draws, pairs, recipe
from flowjax.methods.method_info import MethodInfo
from flowjax.times import TimeSampler
from flowjax.typing import Array, Found, InputError, Method, Nets, Pair, Point, Term

# What config.method.kernel may name: {name: function of widths}.
KERNELS: dict[str, Callable[..., losses.Kernel]] = {
    "rbf": losses.rbf,
    "laplace": lambda *widths: losses.mixture(*map(losses.laplace, widths)),
    "energy": lambda *widths: losses.energy(),
}
# What config.method.features may name: {name: images or points [rows, ...] -> features [rows, d]}. A module of yours adds its own.
FEATURES: dict[str, Callable[[Array], Array]] = {"": lambda x: x.reshape(len(x), -1)}


def mmd(
    *,
    kernel: str = "rbf",
    widths: tuple[float, ...] = (0.1, 0.2, 0.5, 1.0),
    unbiased: bool = False,
    group: int = 16,
    label_drop: float = 0.0,
) -> Method:
    """Generative moment matching by one jump: the maximum mean discrepancy of samples and data.

    Args:
      kernel: a key of KERNELS.
      widths: of the kernel, times the root of the number of elements of a row; ours.
      unbiased: whether pairs of a row with itself are left out; the published estimator has them.
      group: ours; published are about 1,000 rows.
      label_drop: ours.

    Reference: Li, Swersky and Zemel 2015 (arXiv 1502.02761); Dziugaite et al. 2015 (arXiv 1505.03906).
    """
    checks.member("kernel", kernel, KERNELS)

    def student(nets: Nets, point: Point) -> Array:
        scaled = KERNELS[kernel](*(width * point.x[0].size ** 0.5 for width in widths))
        return losses.mmd(*_given(nets, point), kernel=scaled, group=group, unbiased=unbiased, label=_labels(point))

    return _method(Term("student", student, None, group=group), label_drop)


def imm(
    *,
    times: TimeSampler = ("uniform", 0.0, 0.994),
    floor: float = 0.0,
    k: float = 12,
    least_step: float = 1e-4,
    b: float = 4.0,
    power: float = 1.0,
    group: int = 4,
    label_drop: float = 0.1,
) -> Method:
    """Inductive Moment Matching: particles from two near times arrive with one distribution; from data alone, jumps of all lengths.

    The middle time is t, or where the ratio s / (1 - s) is smaller by 160 / 2^k. Errors weigh

        1/2 sigmoid(b - l) (-dl/ds) (1 - s)^power / ((1 - s)^2 + s^2),     l = 2 log((1 - s) / s)

    Args:
      times: sampler of the source times; on images of CIFAR-10 ("uniform", 0.006, 0.994). A jump from noise, s = 1, is not among them.
      floor: target times are uniform between it and the source; 0 on latents.
      k: 12 on ImageNet, 15 on CIFAR-10.
      least_step: between source and middle time, as in the best run on ImageNet.
      b: 4 on ImageNet, 5 on CIFAR-10.
      power: 1; 2 in the best run on ImageNet.
      group: particles that share their times, 4.
      label_drop: as published.

    Reference: Zhou, Ermon and Song 2025 (arXiv 2503.07565), Table 5. Published is the deviation 0.5 for data and noise; here it is 1,
      with the same kernel in that unit. There particles of a group are compared whatever their labels; here those of one label.
    """
    sampler = time_samplers.sampler_from_name(times, draws=1)

    def three_times(key: Array, n: int, step: Any) -> dict[str, Array]:
        source_key, target_key = jax.random.split(key)
        s = sampler(source_key, n)
        t = jnp.minimum(s, floor + (s - floor) * jax.random.uniform(target_key, (n,)))
        fall = 160 / 2**k * (1 - s)  # the ratio falls by 160 / 2^k; this form is finite at s = 1
        lower = jnp.where(s > fall, (s - fall) / jnp.maximum(1 - fall, 1e-7), 0.0)
        middle = jnp.maximum(t, jnp.minimum(lower, s - least_step))
        return {"s": s, "t": t, "a": jnp.clip((s - middle) / jnp.maximum(s - t, 1e-7), 0.0, 1.0)}

    def student(nets: Nets, point: Point) -> Array:
        m = pairs.middle(point)
        x_m, _ = paths.interpolate(paths.linear, point.x0, point.eps, m)
        V = pairs.bind(nets.V, point)
        return losses.imm(V, point.x, point.s, point.t, x_m, m, group=group, label=_labels(point))

    term = Term("student", student, None, functools.partial(_imm_weight, b, power), times=three_times, group=group)
    return recipe.method([term], points=draws.on_path("linear"), label_drop=label_drop)


def _imm_weight(b: float, power: float, point: Point) -> Array:
    """The weight of the docstring, in a form that is finite at both ends: -dl/ds = 2 / (s (1 - s))."""
    s = point.s.reshape(-1)
    alpha = 1 - s
    log_ratio = 2 * (jnp.log(jnp.maximum(alpha, 1e-7)) - jnp.log(jnp.maximum(s, 1e-7)))
    return jax.nn.sigmoid(b - log_ratio) / jnp.maximum(s, 1e-7) * alpha ** (power - 1) / (alpha**2 + s**2)


def drifting(
    *,
    temperatures: tuple[float, ...] = (0.02, 0.05, 0.2),
    normalised: bool = True,
    group: int = 16,
    label_drop: float = 0.0,
) -> Method:
    """Drifting by one jump: data attract samples, other samples repel them. Published on features; here on the samples themselves.

    Args:
      temperatures: as published.
      normalised: whether the drift has one size near the data and far from them, as published.
      group: ours.
      label_drop: ours.

    Reference: Deng et al. 2026 (arXiv 2602.04770), its released code.
    """

    def student(nets: Nets, point: Point) -> Pair:
        given, label = _given(nets, point), _labels(point)
        return losses.drifting(*given, group=group, temperatures=tuple(temperatures), normalised=normalised, label=label)

    return _method(Term("student", student, distances.l2, group=group), label_drop)


def sinkhorn_drifting(
    *,
    second: bool = False,
    epsilon: float = 0.05,
    iterations: int = 50,
    group: int = 16,
    label_drop: float = 0.0,
) -> Method:
    """Sinkhorn drifting by one jump: samples move along the gradient of a Sinkhorn divergence to the data.

    Args:
      second: whether the plan among samples goes to a second, independent set of them, as in W-Flow.
      epsilon: weight of the entropy, as a share of the mean cost; ours.
      iterations: of Sinkhorn's scalings; ours.
      group: ours.
      label_drop: ours.

    Reference: Sinkhorn drifting (arXiv 2603.12366); W-Flow (arXiv 2605.11755), on features. Their constants are not verified.
    """

    def student(nets: Nets, point: Point) -> Pair:
        others = point.eps if second else None
        how = functools.partial(losses.sinkhorn_drifting, epsilon=epsilon, iterations=iterations, group=group)
        return how(*_given(nets, point), second=others, label=_labels(point))

    return _method(Term("student", student, distances.l2, group=group), label_drop)


def imle(*, candidates: int = 10, reject: float = 0.0, group: int = 16, label_drop: float = 0.0) -> Method:
    """Implicit maximum likelihood by one jump: the sample that is nearest to a row of the data moves there.

    Each row brings candidates; rows of a group choose among the candidates of all of them. With a group of one row this is conditional
    IMLE: the candidates have the condition of the row.

    Args:
      candidates: that each row brings; ours.
      reject: distance, times the root of the number of elements, below which a candidate is near enough to some row already and is
        not taken, as in RS-IMLE; 0: none. Ours.
      group: ours.
      label_drop: ours.

    Reference: Li and Malik 2018 (arXiv 1809.09087); conditional: Li, Zhang and Malik 2019; rejection: Vashist et al. 2024
      (arXiv 2409.17439).
    """
    if candidates < 1:
        raise InputError(f"candidates is {candidates!r}; expected a whole number of at least 1.")

    def drawn(key: Array, rows: Mapping[str, Any], step: Any) -> dict[str, Array]:
        eps = rows["eps"]
        return {"candidates": jax.random.normal(key, (len(eps), candidates, *eps.shape[1:]), eps.dtype)}

    def prepare(nets: Nets, point: Point) -> Point:
        noise = point.extra["candidates"]
        repeated = lambda leaf: jnp.repeat(leaf, candidates, axis=0)
        everything = noise.reshape(-1, *point.x.shape[1:])
        V = pairs.bind(nets.V, point._replace(cond=jax.tree.map(repeated, point.cond)))
        samples = flowmap.jump(V, everything, 1.0, 0.0).reshape(-1, group * candidates, point.x[0].size)
        data, label = point.x0.reshape(-1, group, point.x[0].size), _labels(point)
        alike = None
        if label is not None:
            alike = label.reshape(-1, group, 1) == repeated(label).reshape(-1, 1, group * candidates)
        chosen = losses.nearest(samples, data, reject=reject * point.x[0].size ** 0.5, alike=alike)
        pool = everything.reshape(-1, group * candidates, *point.x.shape[1:])
        return point._replace(x=jax.vmap(lambda pool, chosen: pool[chosen])(pool, chosen).reshape(point.x.shape), extra=None)

    def student(nets: Nets, point: Point) -> Pair:
        return losses.imle(*_given(nets, point))

    return _method(Term("student", student, distances.l2, extra=drawn, prepare=prepare, group=group), label_drop)


def fd_loss(
    *,
    features: str = "",
    memory: str = "average",
    decay: float = 0.999,
    queue: int = 50,
    floor: float = 0.01,
    label_drop: float = 0.0,
) -> Method:
    """FD-loss by one jump: the Frechet distance between features of many samples, of which the batch is the newest part, and of the data.

    The moments of the samples of earlier steps, and those of all data so far, are the method's memory. Published for a second stage,
    --config.start=RUN, on features of several networks; here the first is the samples themselves.

    Args:
      features: a key of FEATURES; "": the elements of a row.
      memory: "average", moments that fade by `decay` a step; "queue", those of the newest `queue` batches. A batch whose moments are
        kept counts as its rows do.
      decay: 0.999 as published; in the first steps, all steps so far weigh alike, because no samples of the start are drawn before.
      queue: batches; published are 50,000 rows.
      floor: of the division by the distance, as published.
      label_drop: ours; distances are of all labels together.

    Reference: Yang et al. 2026 (arXiv 2604.28190); constants from its released code.
    """
    checks.member("features", features, FEATURES)
    checks.member("memory", memory, ("average", "queue"))
    past = _Queue(queue) if memory == "queue" else _Average(decay)
    phi = FEATURES[features]

    def student(nets: Nets, point: Point) -> Found:
        V, x, x0 = _given(nets, point)
        batch = losses.moments(phi(flowmap.jump(V, x, 1.0, 0.0)), nets.mean)
        data = losses.moments(phi(x0), nets.mean)
        reference = losses.mixed(nets.memory["reference"], data, _running(nets.memory["count"]))
        loss = losses.fd_loss(past.population(nets.memory), batch, reference, past.share(nets.memory["count"]), floor=floor)
        return Found(jnp.full(len(x), loss), {"samples": batch, "data": data})

    def first(shape: tuple[int, ...]) -> dict[str, Any]:
        d = jax.eval_shape(phi, jax.ShapeDtypeStruct((1, *shape), jnp.float32)).shape[-1]
        zero = losses.Moments(jnp.zeros(d), jnp.zeros((d, d)))
        return {"count": jnp.zeros(()), "reference": zero, **past.first(zero)}

    def remember(memory: Any, found: Mapping[str, Any]) -> Any:
        (found,), count = found.values(), memory["count"]
        reference = losses.mixed(memory["reference"], found["data"], _running(count))
        return {"count": count + 1, "reference": reference, **past.later(memory, found["samples"])}

    # The loss is FD / (FD + floor); this is FD.
    raw = lambda errors: floor * errors / jnp.maximum(1 - errors, jnp.finfo(errors.dtype).eps)
    method = _method(Term("student", student, None, metric=raw), label_drop)
    return method._replace(memory=first, remember=remember)


def _running(count: Array) -> Array:
    """The share of the past in the mean over all steps."""
    return count / (count + 1)


class _Average:
    """Moments that fade."""

    def __init__(self, decay: float) -> None:
        self._decay = decay

    def share(self, count: Array) -> Array:
        """The share of the past, when so many batches are remembered."""
        return jnp.minimum(self._decay, _running(count))

    def population(self, memory: Mapping[str, Any]) -> losses.Moments:
        """Moments of the past."""
        return memory["population"]

    def first(self, zero: losses.Moments) -> dict[str, Any]:
        """The memory at step 0."""
        return {"population": zero}

    def later(self, memory: Mapping[str, Any], batch: losses.Moments) -> dict[str, Any]:
        """The memory with a batch in it."""
        return {"population": losses.mixed(memory["population"], batch, self.share(memory["count"]))}


class _Queue:
    """Moments of the newest batches, first in, first out: their mean is that of the rows themselves."""

    def __init__(self, size: int) -> None:
        self._size = size

    def share(self, count: Array) -> Array:
        """The share of the past: of the batches that stay when the next one comes."""
        return _running(jnp.minimum(count, self._size - 1.0))

    def population(self, memory: Mapping[str, Any]) -> losses.Moments:
        """Moments of the batches that stay."""
        left = jnp.maximum(jnp.minimum(memory["count"], self._size - 1.0), 1.0)
        leaves = jnp.arange(self._size) == self._place(memory)
        mean = lambda kept: jnp.sum(jnp.where(leaves.reshape(-1, *(1,) * (kept.ndim - 1)), 0, kept), axis=0) / left
        return jax.tree.map(mean, memory["queue"])

    def first(self, zero: losses.Moments) -> dict[str, Any]:
        """The memory at step 0."""
        return {"queue": jax.tree.map(lambda leaf: jnp.zeros((self._size, *leaf.shape)), zero)}

    def later(self, memory: Mapping[str, Any], batch: losses.Moments) -> dict[str, Any]:
        """The memory with a batch in the place of the oldest."""
        place = self._place(memory)
        return {"queue": jax.tree.map(lambda kept, new: kept.at[place].set(new), memory["queue"], batch)}

    def _place(self, memory: Mapping[str, Any]) -> Array:
        return (memory["count"] % self._size).astype(jnp.int32)


def _given(nets: Nets, point: Point) -> tuple[Any, Array, Array]:
    """(V, noise, data)."""
    return pairs.bind(nets.V, point), point.x, point.x0


def _labels(point: Point) -> Array | None:
    return (point.cond or {}).get("label")


def _method(term: Term, label_drop: float) -> Method:
    """The Method of one term on noise beside data."""
    return recipe.method([term], points=draws.noise_beside_data, label_drop=label_drop)


_INFO = functools.partial(MethodInfo, rule="distributional", setting="P", jumps="from noise")
TABLE: dict[str, MethodInfo] = {
    "mmd": _INFO(
        mmd, pairs=(losses.mmd,), derivative="none; through the kernels", derived_fpe=3,
        paper="Generative Moment Matching Networks", arxiv="1502.02761",
    ),
    "imm": _INFO(
        imm, pairs=(losses.imm,), derivative="none; the particles of the middle time in sg", jumps="laws", derived_fpe=4,
        paper="Inductive Moment Matching", arxiv="2503.07565",
    ),
    "drifting": _INFO(
        drifting, pairs=(losses.drifting,), derivative="none; the drift in sg", derived_fpe=3,
        paper="Generative Modeling via Drifting", arxiv="2602.04770",
    ),
    "sinkhorn_drifting": _INFO(
        sinkhorn_drifting, pairs=(losses.sinkhorn_drifting,), derivative="none; the drift in sg", derived_fpe=3,
        paper="Sinkhorn drifting", arxiv="2603.12366",
    ),
    "imle": _INFO(
        imle, pairs=(losses.imle,), derivative="none; candidates in sg", derived_fpe=13, every_row={"group": 1},
        paper="Implicit Maximum Likelihood Estimation", arxiv="1809.09087",
    ),
    "fd_loss": _INFO(
        fd_loss, pairs=(losses.fd_loss,), derivative="none; through the moments of the batch", derived_fpe=3,
        paper="Representation Frechet Loss", arxiv="2604.28190",
    ),
}  # fmt: skip
