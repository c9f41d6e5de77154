"""Matching by samples: groups of the student's samples against groups of data, by kernels, by forces, by neighbours.

Rows of a batch that stand beside each other are a group of `group` rows; only rows of one group meet, and of those only rows of one
label where labels are given. A loss of groups takes besides what flowjax.losses.distributional names:

Args:
  x0: the data, the shape of `x`; row i of `x` has the label of row i of `x0`.
  group: rows of a group; None: all rows that are there.
  label: labels of the rows, [B]; None: all rows are alike.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from flowjax import checks, flowmap, typing
from flowjax.typing import Array, AverageVelocity, Pair, Time

sg = jax.lax.stop_gradient
Kernel = Callable[[Array], Array]  # of squared distances
NEAREST = 1e-16  # of squared distances: below it a length has no gradient
FAR = -1e30  # logarithm of a weight of 0 that leaves a softmax finite


# Kernels


def rbf(*widths: float) -> Kernel:
    """The mean of Gaussian kernels exp(-|x - y|^2 / (2 w^2)) of some widths w.

    Example:
      >>> rbf(1.0)(jnp.array(2.0))
      Array(0.36787945, dtype=float32)
    """
    return mixture(*((lambda square, width=width: jnp.exp(-square / (2 * width**2))) for width in widths))


def mixture(*kernels: Kernel) -> Kernel:
    """The mean of kernels.

    Example:
      >>> mixture(laplace(1.0), energy())(jnp.array(0.25)) == (laplace(1.0)(jnp.array(0.25)) - 0.5) / 2
      Array(True, dtype=bool)
    """
    return lambda square: jnp.mean(jnp.stack([kernel(square) for kernel in kernels]), axis=0)


def laplace(width: float) -> Kernel:
    """exp(-|x - y| / w), the kernel of Inductive Moment Matching.

    Example:
      >>> laplace(2.0)(jnp.array(4.0))
      Array(0.36787945, dtype=float32, weak_type=True)
    """
    return lambda square: jnp.exp(-_length(square) / width)


def energy() -> Kernel:
    """-|x - y|: half of the energy distance; it has no width.

    Example:
      >>> energy()(jnp.array(4.0))
      Array(-2., dtype=float32, weak_type=True)
    """
    return lambda square: -_length(square)


def squared() -> Kernel:
    """-|x - y|^2, which sees means alone; of groups of one row, the loss of consistency training.

    Example:
      >>> squared()(jnp.array(4.0))
      Array(-4., dtype=float32, weak_type=True)
    """
    return lambda square: -square


def discrepancies(x: Array, y: Array, kernel: Kernel, *, unbiased: bool = False, alike: Array | None = None) -> Array:
    """What each row adds to the squared maximum mean discrepancy of two groups, which is the mean over the rows.

        mean_ij [k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(y_i, x_j)]

    Args:
      x: groups of rows, [..., m, d].
      y: the same shape.
      unbiased: leave out the pairs i = j of the same set; otherwise the value is at least 0.
      alike: which rows are compared, [..., m, m], symmetric; None: all. With labels, of which row i of both has the same, the value
        is the mean over the labels by their rows.

    Returns:
      [..., m].
    """
    alike = _all(alike, x, y)
    others = alike & _unequal(alike) if unbiased else alike
    mean = lambda values, of: jnp.sum(jnp.where(of, values, 0), axis=-1) / jnp.maximum(jnp.sum(of, axis=-1), 1)
    k_xy = kernel(_squares(x, y))
    within = mean(kernel(_squares(x, x)) + kernel(_squares(y, y)), others)
    return within - mean(k_xy + k_xy.swapaxes(-1, -2), alike)


def mmd(
    V: AverageVelocity,
    x: Array,
    x0: Array,
    *,
    kernel: Kernel,
    group: int | None = None,
    unbiased: bool = False,
    label: Array | None = None,
) -> Array:
    """Generative moment matching: the squared maximum mean discrepancy of samples and data; the gradient passes through all kernels.

        mean_ij [k(F_i, F_j) + k(x0_i, x0_j) - 2 k(F_i, x0_j)],     F = F(x, 1, 0)

    Args:
      kernel: a function of squared distances: `rbf(1.0)`, `laplace(1.0)`, `energy()`.
      unbiased: leave out the pairs i = j of one set.

    Returns:
      Errors [B], whose mean over a group is its discrepancy.

    Example:
      >>> mmd(lambda x, s, t: 0 * x, rows, rows, kernel=rbf(1.0)).tolist()
      [0.0, 0.0]

    Reference: Li, Swersky and Zemel 2015 (arXiv 1502.02761); Dziugaite et al. 2015 (arXiv 1505.03906).
    """
    F = flowmap.jump(V, x, 1.0, 0.0)
    samples, data, alike = _groups("mmd", F, x0, group, label)
    return discrepancies(samples, data, kernel, unbiased=unbiased, alike=alike).reshape(-1)


def imm(
    V: AverageVelocity,
    x: Array,
    s: Time,
    t: Time,
    x_m: Array,
    m: Time,
    *,
    kernel: Kernel | None = None,
    group: int | None = 4,
    label: Array | None = None,
) -> Array:
    """Inductive Moment Matching: jumps from two near times to one have one distribution; particles of a group share their times.

        mean_ij [k(f_i, f_j) + k(g_i, g_j) - 2 k(f_i, g_j)],     f = F(x, s, t),  g = sg F(x_m, m, t)

    The kernel sees f and g divided by s - t, so that it compares velocities. Every pair is counted, i = j too, as published. Two sets
    that are the same give 0; groups of one row with the kernel `squared()` give twice the squares of consistency training.

    Paper -> here: r -> m, sigma_d -> 1, because noise has the deviation 1.

    Args:
      x_m: the row's point at the time m on the line from its data to its noise, the shape of `x`.
      m: times from t to s.
      kernel: None: Laplace with the number of elements of a row as its width, as published.
      group: particles of a group, 4 as published.

    Returns:
      Errors [B], whose mean over a group is its discrepancy.

    Example:
      >>> imm(lambda x, s, t: 0 * x, rows, 1.0, 0.0, rows, 0.9, group=2).tolist()
      [0.0, 0.0]

    Reference: Zhou, Ermon and Song 2025 (arXiv 2503.07565), eq. 7 and Table 5.
    """
    s, t, m = checks.times("imm", x, s=s, t=t, m=m)
    x_m = checks.like("imm", x, x_m, name="x_m")
    f, g = flowmap.jump(V, x, s, t), sg(flowmap.jump(V, x_m, m, t))
    kernel = laplace(float(x[0].size)) if kernel is None else kernel
    gap = jnp.maximum(s - t, jnp.finfo(jnp.float32).tiny)
    f, g, alike = _groups("imm", f / gap, g / gap, group, label)
    return discrepancies(f, g, kernel, alike=alike).reshape(-1)


# Forces


def mean_shift(x: Array, y: Array, z: Array, width: float, *, alike: Array | None = None) -> Array:
    """The drift of theory: towards the weighted mean of the data, away from that of the samples.

        sum_j softmax_j(-|y_j - x_i| / w) (y_j - x_i)  -  sum_k softmax_k(-|z_k - x_i| / w) (z_k - x_i)

    Two sets that are the same do not move it, and it changes its sign where they change places.

    Args:
      x: where the drift is, [..., m, d].
      y: the data, [..., n, d].
      z: the samples, [..., k, d].
      width: w.
      alike: as of `drift`.

    Returns:
      The shape of `x`.

    Reference: Drift-RAE, eq. 5, of the field of Drifting (arXiv 2602.04770).
    """
    data, samples = _alike_of(alike, x, y, z)
    weights = lambda other, alike: jax.nn.softmax(_masked(-_length(_squares(x, other)) / width, alike), axis=-1)
    return weights(y, data) @ y - weights(z, samples) @ z


def drift(
    x: Array,
    y: Array,
    z: Array,
    temperatures: tuple[float, ...] = (0.02, 0.05, 0.2),
    *,
    itself: bool = True,
    normalised: bool = True,
    alike: Array | None = None,
) -> tuple[Array, Array]:
    """Drifting's field: data attract and samples repel, in pairs.

        f_i = sum_jk A_ij A_ik (y_j - z_k),     A = sqrt(softmax over all y and z * softmax over the rows x) of -|x_i - .| / (S R)

    S is the mean distance, R a temperature. Each f is divided by its root mean square, and those of all temperatures are summed.
    Its unit is S / sqrt(d), so that it does not change with the scale of the data, nor where everything is moved.

    Args:
      x: where the drift is, [..., m, d].
      y: the data, [..., n, d].
      z: the samples, [..., k, d].
      temperatures: R, those published.
      itself: z is x, of which a row does not repel itself.
      normalised: divide by the root mean square, as published; the drift then has one size whether the sets are near or far.
      alike: which of [y, z] each row sees, [..., m, n + k]; None: all.

    Returns:
      (f, unit): the shape of `x`, and [..., 1, 1].

    Reference: Deng et al. 2026 (arXiv 2602.04770), its released code.
    """
    everything, dimension, n = jnp.concatenate([y, z], axis=-2), x.shape[-1], y.shape[-2]
    length, alike = _length(_squares(x, everything)), _all(alike, x, everything)
    live = alike & _unequal(alike, n) if itself else alike
    S = jnp.sum(length * alike, axis=(-2, -1), keepdims=True) / jnp.sum(alike, axis=(-2, -1), keepdims=True)
    S = jnp.maximum(S, jnp.sqrt(NEAREST))
    unit, total = S / jnp.sqrt(dimension), jnp.zeros_like(x)
    for temperature in temperatures:
        logits = _masked(-length / (S * temperature), live)
        A = jnp.sqrt(jnp.maximum(jax.nn.softmax(logits, axis=-1) * jax.nn.softmax(logits, axis=-2), 1e-6)) * live
        attracts, repels = A[..., :n], A[..., n:]
        sums = lambda weights: jnp.sum(weights, axis=-1, keepdims=True)
        coefficients = jnp.concatenate([attracts * sums(repels), -repels * sums(attracts)], axis=-1)
        f = (coefficients @ everything - sums(coefficients) * x) / unit
        size = jnp.sqrt(jnp.mean(f**2, axis=(-2, -1), keepdims=True))
        total += f / jnp.maximum(size, jnp.sqrt(NEAREST)) if normalised else f
    return total, unit


def drifting(
    V: AverageVelocity,
    x: Array,
    x0: Array,
    *,
    group: int | None = None,
    temperatures: tuple[float, ...] = (0.02, 0.05, 0.2),
    normalised: bool = True,
    label: Array | None = None,
) -> Pair:
    """Drifting: samples move along `drift`, towards the data and away from each other.

        F(x, 1, 0) / u  vs  sg[F(x, 1, 0) / u + f],     u the unit of f

    Published on features of the samples; here on the samples themselves.

    Args:
      temperatures: of `drift`.
      normalised: of `drift`.

    Example:
      >>> pair = drifting(lambda x, s, t: 0 * x, jnp.zeros((2, 1)), jnp.ones((2, 1)))
      >>> bool(jnp.all(pair.target > pair.prediction))
      True

    Reference: Deng et al. 2026 (arXiv 2602.04770), its released code.
    """
    F = flowmap.jump(V, x, 1.0, 0.0)
    samples, data, alike = _groups("drifting", F, x0, group, label)
    both = None if alike is None else jnp.concatenate([alike, alike], axis=-1)
    f, unit = drift(sg(samples), data, sg(samples), temperatures, normalised=normalised, alike=both)
    scaled = samples / sg(unit)
    return Pair(scaled.reshape(x.shape), sg(scaled + f).reshape(x.shape))


def plan(cost: Array, epsilon: Array | float, iterations: int) -> Array:
    """The entropic optimal transport plan between two uniform sets, by Sinkhorn's iteration on logarithms.

    Args:
      cost: [..., m, n], infinite where nothing may go.
      epsilon: weight of the entropy, in units of the cost.
      iterations: of both scalings.

    Returns:
      [..., m, n], whose rows sum to 1 / m exactly, and whose columns sum to 1 / n where the iteration has converged.

    Example:
      >>> plan(jnp.zeros((2, 2)), 1.0, 3)[0].tolist()
      [0.25, 0.25]
    """
    m, n = cost.shape[-2:]
    kernel = -cost / epsilon

    def scaled(number: int, potentials: tuple[Array, Array]) -> tuple[Array, Array]:
        rows, _ = potentials
        columns = -jax.nn.logsumexp(kernel + rows, axis=-2, keepdims=True) - jnp.log(n)
        return -jax.nn.logsumexp(kernel + columns, axis=-1, keepdims=True) - jnp.log(m), columns

    start = (jnp.zeros_like(kernel[..., :1]), jnp.zeros_like(kernel[..., :1, :]))
    rows, columns = jax.lax.fori_loop(0, iterations, scaled, start)
    return jnp.exp(kernel + rows + columns)


def sinkhorn_drift(
    x: Array, y: Array, z: Array, epsilon: Array | float, iterations: int = 50, *, alike: Array | None = None
) -> Array:
    """The drift of optimal transport: to where the plan to the data sends a sample, less where the plan to the samples sends it.

        T_xy(x_i) - T_xz(x_i),     T_xy(x_i) = m sum_j P_ij y_j,     P the plan of the cost |x_i - y_j|^2 / 2

    With z = x it is -m times the gradient of the Sinkhorn divergence of both sets in x_i.

    Args:
      x: the samples, [..., m, d].
      y: the data, [..., n, d].
      z: the samples themselves, or others of the same student, [..., k, d].
      epsilon: of `plan`.
      iterations: of `plan`.
      alike: which rows may be sent to which, [..., m, m], of sets of one size; None: all.

    Returns:
      The shape of `x`.

    Reference: Sinkhorn drifting (arXiv 2603.12366); W-Flow (arXiv 2605.11755).
    """

    def sent(other: Array) -> Array:
        cost = jnp.where(_all(alike, x, other), _squares(x, other) / 2, jnp.inf)
        return x.shape[-2] * plan(cost, epsilon, iterations) @ other

    return sent(y) - sent(z)


def sinkhorn_drifting(
    V: AverageVelocity,
    x: Array,
    x0: Array,
    *,
    second: Array | None = None,
    group: int | None = None,
    epsilon: float = 0.05,
    iterations: int = 50,
    label: Array | None = None,
) -> Pair:
    """Sinkhorn drifting, and W-Flow: samples move along `sinkhorn_drift`.

        F(x, 1, 0)  vs  sg[F(x, 1, 0) + T_xy(F) - T_xz(F)],     y = x0,  z = F(x, 1, 0) or F(second, 1, 0)

    Args:
      second: noise of a second, independent set of samples for the plan among samples, as in W-Flow, the shape of `x`; None: the plan
        of the samples to themselves.
      epsilon: weight of the entropy, as a share of the mean cost between samples and data; not verified.
      iterations: of Sinkhorn's scalings; not verified.

    Example:
      >>> pair = sinkhorn_drifting(lambda x, s, t: 0 * x, rows, rows)
      >>> assert jnp.allclose(pair.prediction, pair.target)

    Reference: Sinkhorn drifting (arXiv 2603.12366); W-Flow (arXiv 2605.11755).
    """
    F = flowmap.jump(V, x, 1.0, 0.0)
    samples, data, alike = _groups("sinkhorn_drifting", F, x0, group, label)
    others = samples if second is None else _grouped(flowmap.jump(V, second, 1.0, 0.0), group)
    entropy = epsilon * jnp.mean(_squares(samples, data), axis=(-2, -1), keepdims=True) / 2
    step = sinkhorn_drift(sg(samples), data, sg(others), sg(entropy), iterations, alike=alike)
    return Pair(F, sg(F + step.reshape(F.shape)))


# Neighbours


def nearest(candidates: Array, x0: Array, *, reject: float = 0.0, alike: Array | None = None) -> Array:
    """The number of the candidate that is nearest to each row of the data.

    Args:
      candidates: [..., k, d].
      x0: [..., m, d].
      reject: candidates that are nearer than this to any row of the data are not taken, unless there are no others.
      alike: which candidates a row may take, [..., m, k]; None: all.

    Returns:
      [..., m], int32.

    Example:
      >>> nearest(jnp.array([[0.0], [3.0]]), jnp.array([[1.0], [2.9]])).tolist()
      [0, 1]
      >>> nearest(jnp.array([[0.0], [3.0]]), jnp.array([[1.0], [2.9]]), reject=0.5).tolist()
      [0, 0]
    """
    square = _squares(x0, candidates)
    allowed = jnp.all(square >= reject**2, axis=-2, keepdims=True) & _all(alike, x0, candidates)
    left = jnp.any(allowed, axis=-1, keepdims=True)
    return jnp.argmin(jnp.where(jnp.where(left, allowed, _all(alike, x0, candidates)), square, jnp.inf), axis=-1)


def imle(V: AverageVelocity, x: Array, x0: Array) -> Pair:
    """Implicit maximum likelihood: each row of the data pulls the sample that was nearest to it, among several candidates.

        F(x, 1, 0)  vs  x0,     x the noise of the candidate that `nearest` chose

    With one candidate it is the regression of the data on unrelated noise.

    Example:
      >>> assert jnp.allclose(*imle(lambda x, s, t: 0 * x, x, x))

    Reference: Li and Malik 2018 (arXiv 1809.09087); with rejection, RS-IMLE (arXiv 2409.17439).
    """
    return Pair(flowmap.jump(V, x, 1.0, 0.0), checks.like("imle", x, x0, name="x0"))


# Groups


def _groups(caller: str, x: Array, y: Array, group: int | None, label: Array | None) -> tuple[Array, Array, Array | None]:
    """Rows of both in their groups [groups, m, d], and which rows of a group are alike, [groups, m, m] or None."""
    y = checks.like(caller, x, y, name="x0")
    size = x.shape[0] if group is None else group
    if not isinstance(size, int) or size < 1 or x.shape[0] % size:
        raise typing.InputError(f"{caller}: group is {group!r}, and there are {x.shape[0]} rows; expected a divisor of them.")
    same = None if label is None else label.reshape(-1, size)
    return _grouped(x, size), _grouped(y, size), None if same is None else same[:, :, None] == same[:, None, :]


def _grouped(x: Array, group: int | None) -> Array:
    return x.reshape(-1, x.shape[0] if group is None else group, x[0].size)


def _squares(x: Array, y: Array) -> Array:
    """Squared distances [..., m, n]."""
    return jnp.sum((x[..., :, None, :] - y[..., None, :, :]) ** 2, axis=-1)


def _length(square: Array) -> Array:
    """The root, whose gradient is 0 where two points are one."""
    return jnp.sqrt(jnp.maximum(square, NEAREST))


def _all(alike: Array | None, x: Array, y: Array) -> Array:
    return jnp.broadcast_to(True if alike is None else alike, (*x.shape[:-1], y.shape[-2]))


def _unequal(alike: Array, first: int = 0) -> Array:
    """Where a row meets another one, and not itself, in the shape of `alike`; its own column is number `first` + that of the row."""
    return ~jnp.broadcast_to(jnp.eye(alike.shape[-2], alike.shape[-1], k=first, dtype=bool), alike.shape)


def _alike_of(alike: Array | None, x: Array, y: Array, z: Array) -> tuple[Array, Array]:
    """Which of y and which of z a row sees."""
    both = _all(alike, x, jnp.concatenate([y, z], axis=-2))
    return both[..., : y.shape[-2]], both[..., y.shape[-2] :]


def _masked(logits: Array, alike: Array) -> Array:
    return jnp.where(alike, logits, FAR)
