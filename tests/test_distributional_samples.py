"""Matching by samples: closed forms of kernels, forces, transport and moments; the recipes; memory across devices and kills."""

import functools
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from flowjax import distances, losses, methods, typing
from flowjax.losses import distributional
from flowjax.training import compilation, loop, runs, sharding, step_cost
from tests.support import rows, small, with_sgd

NAMES = ("mmd", "imm", "drifting", "sinkhorn_drifting", "imle", "fd_loss")
SMALL = {
    "mmd": {"group": 4},
    "drifting": {"group": 4},
    "sinkhorn_drifting": {"group": 4},
    "imle": {"group": 4, "candidates": 3},
}
x64 = pytest.mark.usefixtures("x64")


def sets(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape)) for shape in shapes]


def V(x, s, t):
    """A smooth map without symmetry."""
    return jnp.sin(1.3 * x + s - 0.5 * t) + 0.3 * x * s


def column(value, x):
    return jnp.full((x.shape[0], *(1,) * (x.ndim - 1)), value)


# Kernels


@x64
def test_the_discrepancy_of_two_gaussians_is_the_closed_form():
    """Points of equal weight at the quantiles; kernels of Gaussians have Gaussian means."""
    n, width, (m, a), (k, b) = 1_500, 0.8, (0.3, 1.2), (-0.4, 0.7)
    at = jax.scipy.stats.norm.ppf((jnp.arange(n) + 0.5) / n)
    of = lambda d, v: width / np.sqrt(width**2 + v) * np.exp(-(d**2) / (2 * (width**2 + v)))
    expected = of(0, 2 * a**2) + of(0, 2 * b**2) - 2 * of(m - k, a**2 + b**2)
    x, y = m + a * at[:, None], k + b * at[:, None]
    for unbiased in (False, True):  # they differ by the diagonal, of weight 1 / n
        found = distributional.discrepancies(x, y, distributional.rbf(width), unbiased=unbiased).mean()
        np.testing.assert_allclose(found + unbiased * (2 - of(0, 2 * a**2) - of(0, 2 * b**2)) / (n - 1), expected, atol=2e-5)


@x64
def test_the_discrepancy_of_one_set_is_zero_and_of_labels_that_of_each_label():
    x, y = sets((6, 3), (6, 3))
    label = jnp.array([0, 1, 0, 1, 1, 0])
    for kernel in (
        distributional.rbf(0.5, 2.0),
        distributional.laplace(1.5),
        distributional.energy(),
        distributional.squared(),
    ):
        np.testing.assert_array_equal(distributional.discrepancies(x, x, kernel), 0)
        alike = label[:, None] == label[None]
        for unbiased in (False, True):
            found = distributional.discrepancies(x, y, kernel, unbiased=unbiased, alike=alike).mean()
            parts = [
                distributional.discrepancies(x[label == c], y[label == c], kernel, unbiased=unbiased).mean() for c in (0, 1)
            ]
            np.testing.assert_allclose(found, np.mean(parts), rtol=1e-12)
    gradient = jax.grad(lambda x: distributional.discrepancies(x, x, distributional.laplace(1.0)).sum())(x)
    chex.assert_tree_all_finite(gradient)


@x64
def test_mmd_is_the_discrepancy_of_jumps_in_each_group():
    x, x0 = sets((8, 2, 2), (8, 2, 2))
    kernel = distributional.rbf(1.0)
    F = (x - V(x, 1.0, 0.0)).reshape(2, 4, 4)
    found = distributional.mmd(V, x, x0, kernel=kernel, group=4)
    np.testing.assert_allclose(found, distributional.discrepancies(F, x0.reshape(2, 4, 4), kernel).reshape(-1))
    with pytest.raises(typing.InputError, match="mmd: group is 3, and there are 8 rows; expected a divisor"):
        distributional.mmd(V, x, x0, kernel=kernel, group=3)


# Inductive moment matching


@x64
def test_one_particle_and_the_squared_kernel_are_consistency_training():
    x0, eps = sets((6, 3), (6, 3))
    s, t, m = (jnp.linspace(low, high, 6)[:, None] for low, high in ((0.5, 0.9), (0.0, 0.1), (0.3, 0.8)))
    at = lambda time: (1 - time) * x0 + time * eps
    for zero in (True, False):
        t = 0 * t if zero else t
        found = lambda scale, t=t: distributional.imm(
            lambda x, s, t: scale * V(x, s, t), at(s), s, t, at(m), m, kernel=distributional.squared(), group=1
        )
        F = lambda x, s, t, scale: x + (t - s) * scale * V(x, s, t)
        pair = lambda scale, t=t: typing.Pair(F(at(s), s, t, scale), jax.lax.stop_gradient(F(at(m), m, t, scale)))  # noqa: B023
        by_hand = lambda scale: 2 * distances.squared(*pair(scale), reduce="sum") / ((s - t) ** 2)[:, 0]  # noqa: B023
        np.testing.assert_allclose(found(1.2), by_hand(1.2), rtol=1e-9)
        np.testing.assert_allclose(jax.jacobian(found)(1.2), jax.jacobian(by_hand)(1.2), rtol=1e-9)
    # At t = 0 the pair is that of consistency training.
    scaled = lambda x, s, t: 1.2 * V(x, s, t)
    consistency = losses.consistency_training(scaled, at(s), s, 0 * s, eps - x0, (s - m) / s)
    np.testing.assert_allclose(distances.squared(*consistency, reduce="sum") * 2 / (s**2)[:, 0], found(1.2, 0 * s), rtol=1e-9)


@x64
def test_imm_is_zero_between_equal_sets_and_on_an_exact_map():
    (x,) = sets((8, 2))
    shift = lambda x, s, t: jnp.ones_like(x)
    s, m, t = (column(time, x) for time in (0.9, 0.6, 0.2))
    moved = x + 0.3  # of the same trajectories: a map that shifts lands at the same points
    np.testing.assert_allclose(distributional.imm(shift, moved, s, t, x, m, group=4), 0, atol=1e-12)
    other = distributional.imm(shift, moved[::-1], s, t, x, m, group=8)
    np.testing.assert_allclose(other.sum(), 0, atol=1e-12)  # a set has no order


@pytest.mark.slow
@x64
def test_the_exact_map_of_a_gaussian_matches_its_moments():
    """Two independent sets of particles at s and m, moved by the exact map, have the discrepancy of two samples of one Gaussian."""
    from flowjax import exact

    flow = exact.gaussian(mean=jnp.zeros(1), covariance=jnp.array([[0.25]]))
    x0, eps, y0, noise = sets((2_048, 1), (2_048, 1), (2_048, 1), (2_048, 1))
    s, m, t = 0.8, 0.5, 0.1
    f = flow.F((1 - s) * x0 / 2 + s * eps, s, t)
    g = flow.F((1 - m) * y0 / 2 + m * noise, m, t)
    kernel = distributional.laplace(1.0)
    assert abs(distributional.discrepancies(f, g, kernel, unbiased=True).mean()) < 1 / 2_048
    assert distributional.discrepancies(f + 0.2, g, kernel, unbiased=True).mean() > 10 / 2_048


def test_the_times_of_imm():
    """The middle time is where the ratio s / (1 - s) is smaller by 160 / 2^k, not below t, and never s itself."""
    method = methods.make("imm", k=6, least_step=1e-3, times=("uniform", 0.0, 1.0))
    point = method.draw(jax.random.key(0), {"x": jnp.zeros((4_000, 1))}, 0)["student"]
    s, t, a = (np.asarray(time, np.float64).reshape(-1, 4) for time in (point.s, point.t, point.a))
    assert (s == s[:, :1]).all() and (t == t[:, :1]).all() and (t <= s).all()  # a group shares its times
    m = (s + a * (t - s))[:, 0]
    s, t = s[:, 0], t[:, 0]
    published = s / (1 - s + 1e-12) - 160 / 2**6
    expected = np.maximum(t, np.minimum(published / (1 + published), s - 1e-3))
    inside = published > 0
    np.testing.assert_allclose(m[inside], expected[inside], atol=1e-4)
    np.testing.assert_allclose(m[~inside], t[~inside], atol=1e-4)
    above = methods.make("imm", floor=0.3, times=("uniform", 0.5, 1.0)).draw(
        jax.random.key(1), {"x": jnp.zeros((4_000, 1))}, 0
    )["student"]
    share = np.asarray((above.t - 0.3) / (above.s - 0.3))  # the target time is uniform between the floor and the source
    assert share.min() >= 0 and abs(share.mean() - 0.5) < 0.03 and share.max() < 1


@x64
def test_the_weight_of_imm_is_the_published_one():
    from flowjax.methods.distributional import samples

    s, b = jnp.linspace(0.05, 0.95, 7)[:, None], 4.0
    log_ratio = lambda s: 2 * jnp.log((1 - s) / s)
    slope = jax.vmap(jax.grad(log_ratio))(s[:, 0])
    for power in (1.0, 2.0):
        alpha = 1 - s[:, 0]
        expected = 0.5 * jax.nn.sigmoid(b - log_ratio(s[:, 0])) * -slope * alpha**power / (alpha**2 + s[:, 0] ** 2)
        np.testing.assert_allclose(samples._imm_weight(b, power, typing.Point(x=s, s=s)), expected, rtol=1e-9)
    assert np.isfinite(samples._imm_weight(b, 1.0, typing.Point(x=s, s=jnp.array([[0.0], [1.0]])))).all()


# Forces


@x64
def test_the_drift_of_theory_vanishes_between_equal_sets_and_changes_its_sign():
    x, y, z = sets((5, 3), (7, 3), (7, 3))
    np.testing.assert_array_equal(distributional.mean_shift(x, y, y, 0.7), 0)
    drift = distributional.mean_shift(x, y, z, 0.7)
    np.testing.assert_allclose(drift, -distributional.mean_shift(x, z, y, 0.7), rtol=1e-12)
    np.testing.assert_allclose(distributional.mean_shift(x + 3, y + 3, z + 3, 0.7), drift, rtol=1e-9)
    np.testing.assert_allclose(distributional.mean_shift(2 * x, 2 * y, 2 * z, 1.4), 2 * drift, rtol=1e-9)


@x64
def test_the_published_drift_is_antisymmetric_and_knows_neither_place_nor_scale():
    x, y, z = sets((5, 3), (7, 3), (7, 3))
    drift = functools.partial(distributional.drift, itself=False)
    for normalised in (True, False):
        f, unit = drift(x, y, z, normalised=normalised)
        np.testing.assert_allclose(f, -drift(x, z, y, normalised=normalised)[0], rtol=1e-9)
        moved, same = drift(3 * x + 2, 3 * y + 2, 3 * z + 2, normalised=normalised)
        np.testing.assert_allclose(moved, f, rtol=1e-8)
        np.testing.assert_allclose(same, 3 * unit, rtol=1e-12)
    np.testing.assert_allclose(drift(x, y, y, normalised=False)[0], 0, atol=1e-12)
    one, _ = drift(x, y, z, (0.05,))
    np.testing.assert_allclose(jnp.mean(one**2), 1, rtol=1e-9)  # a drift of one size, wherever the samples are


@x64
def test_the_published_drift_by_hand():
    """Coefficients A_pos sum A_neg and -A_neg sum A_pos, whose rows sum to 0; a row does not repel itself."""
    x, y = sets((3, 2), (4, 2))
    everything, R = np.concatenate([y, x]), 0.2
    d = np.linalg.norm(np.asarray(x)[:, None] - everything[None], axis=-1)
    S = d.mean()
    logits = np.where(np.eye(3, 7, k=4) > 0, -np.inf, -d / (S * R))
    softmax = lambda z, axis: (
        np.exp(z - z.max(axis, keepdims=True)) / np.exp(z - z.max(axis, keepdims=True)).sum(axis, keepdims=True)
    )
    A = np.sqrt(np.maximum(softmax(logits, 1) * softmax(logits, 0), 1e-6)) * (logits > -np.inf)
    positive, negative = A[:, :4], A[:, 4:]
    coefficients = np.concatenate(
        [positive * negative.sum(1, keepdims=True), -negative * positive.sum(1, keepdims=True)], axis=1
    )
    np.testing.assert_allclose(coefficients.sum(1), 0, atol=1e-15)
    f, unit = distributional.drift(x, y, x, (R,), normalised=False)
    np.testing.assert_allclose(unit.squeeze(), S / np.sqrt(2), rtol=1e-5)
    np.testing.assert_allclose(f, coefficients @ everything / (S / np.sqrt(2)), rtol=1e-5)


def transport_value(x, y, epsilon, steps=400):
    """The entropic transport cost of two uniform sets, written out by its potentials."""
    cost = jnp.sum((x[:, None] - y[None]) ** 2, axis=-1) / 2
    n, m = cost.shape

    def scaled(potentials, _):
        f = -epsilon * jax.nn.logsumexp((potentials[1][None] - cost) / epsilon - jnp.log(m), axis=1)
        return (f, -epsilon * jax.nn.logsumexp((f[:, None] - cost) / epsilon - jnp.log(n), axis=0)), None

    (f, g), _ = jax.lax.scan(scaled, (jnp.zeros(n), jnp.zeros(m)), length=steps)
    return f.mean() + g.mean()


@x64
def test_sinkhorn_drifting_is_the_gradient_of_the_divergence():
    x, y = sets((5, 2), (5, 2))
    epsilon = 0.7

    def divergence(x):
        of = functools.partial(transport_value, epsilon=epsilon)
        return of(x, y) - of(x, x) / 2 - of(y, y) / 2

    gradient = jax.jit(jax.grad(divergence))(x)
    found = distributional.sinkhorn_drift(x, y, x, epsilon, 400)
    np.testing.assert_allclose(found, -len(x) * gradient, atol=1e-8)


@x64
def test_transport_between_rows_of_one_label_alone():
    x, y = sets((1, 6, 2), (1, 6, 2))
    label = jnp.array([[0, 1, 0, 1, 1, 0]])
    alike = label[:, :, None] == label[:, None, :]
    found = distributional.sinkhorn_drift(x, y, x, 0.7, 200, alike=alike)[0]
    for c in (0, 1):
        x_c, y_c = x[0][label[0] == c], y[0][label[0] == c]
        np.testing.assert_allclose(found[label[0] == c], distributional.sinkhorn_drift(x_c, y_c, x_c, 0.7, 200), atol=1e-9)
    plan = distributional.plan(jnp.sum((x[0][:, None] - y[0][None, :4]) ** 2, axis=-1), 0.5, 300)
    np.testing.assert_allclose(plan.sum(1), 1 / 6, rtol=1e-12)
    np.testing.assert_allclose(plan.sum(0), 1 / 4, rtol=1e-9)


@pytest.mark.slow
@x64
def test_pushes_move_samples_and_no_gradient_reaches_the_force():
    x, x0, second = sets((8, 2), (8, 2), (8, 2))
    scaled = lambda scale: lambda x, s, t: scale * V(x, s, t)
    for loss in (
        functools.partial(distributional.drifting, group=4),
        functools.partial(distributional.sinkhorn_drifting, group=4),
        functools.partial(distributional.sinkhorn_drifting, group=4, second=second),
    ):
        apart = lambda scale, loss=loss: (pair := loss(scaled(scale), x, x0)).target - pair.prediction
        moved = lambda scale, loss=loss: -loss(scaled(scale), x, x0).prediction
        np.testing.assert_allclose(jax.jvp(apart, (1.0,), (1.0,))[1], jax.jvp(moved, (1.0,), (1.0,))[1])
    pair = distributional.sinkhorn_drifting(V, x, x0, group=8, second=second, epsilon=0.3)
    F, G = x - V(x, 1.0, 0.0), second - V(second, 1.0, 0.0)
    entropy = 0.3 * jnp.mean(jnp.sum((F[:, None] - x0[None]) ** 2, axis=-1)) / 2
    np.testing.assert_allclose(pair.target - F, distributional.sinkhorn_drift(F, x0, G, entropy), rtol=1e-9)


# Moments


def gaussian_moments(rng, d, n=50):
    features = jnp.asarray(rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d))
    return distributional.moments(features), features


@x64
def test_the_frechet_distance_is_that_of_scipy_and_in_one_dimension_the_closed_form():
    rng = np.random.default_rng(0)
    (one, _), (other, _) = gaussian_moments(rng, 4), gaussian_moments(rng, 4)
    S, S_R = np.asarray(one.covariance), np.asarray(other.covariance)
    expected = np.sum((one.mean - other.mean) ** 2) + np.trace(S + S_R - 2 * scipy.linalg.sqrtm(S @ S_R).real)
    np.testing.assert_allclose(distributional.frechet(one, other), expected, rtol=1e-9)
    np.testing.assert_allclose(distributional.frechet(one, one), 0, atol=1e-9)
    (one, f), (other, g) = gaussian_moments(rng, 1), gaussian_moments(rng, 1)
    np.testing.assert_allclose(
        distributional.frechet(one, other), (f.mean() - g.mean()) ** 2 + (f.std() - g.std()) ** 2, rtol=1e-9
    )


@pytest.mark.slow
@x64
def test_the_gradient_of_a_shift_and_that_of_few_samples():
    """Moved together, samples feel twice the difference of the means, by the share of the batch in its population."""
    rng, b = np.random.default_rng(1), 0.9
    (batch, features), (reference, _) = gaussian_moments(rng, 3), gaussian_moments(rng, 3)
    moved = lambda shift: distributional.mixed(batch, distributional.moments(features + shift[None]), b)
    gradient = jax.grad(lambda shift: distributional.frechet(moved(shift), reference))(jnp.zeros(3))
    np.testing.assert_allclose(gradient, 2 * (1 - b) * (batch.mean - reference.mean), rtol=1e-8)
    loss = lambda shift: distributional.fd_loss(batch, distributional.moments(features + shift[None]), reference, b)
    FD = distributional.frechet(batch, reference)
    np.testing.assert_allclose(loss(jnp.zeros(3)), FD / (FD + 0.01), rtol=1e-12)
    np.testing.assert_allclose(jax.grad(loss)(jnp.zeros(3)), gradient / (FD + 0.01), rtol=1e-8)
    few = lambda features: distributional.frechet(distributional.moments(features), reference)
    for singular in (features[:2], jnp.ones((4, 3)), 0 * features):
        chex.assert_tree_all_finite(jax.grad(few)(singular))


@pytest.mark.parametrize("memory", ["average", "queue"])
def test_what_fd_loss_remembers(memory):
    """A queue has the moments of its newest batches; an average those of all batches, which fade once decay is reached."""
    method = methods.make("fd_loss", memory=memory, decay=0.7, queue=3)
    remembered, rng, seen = method.memory((2,)), np.random.default_rng(0), []
    for number in range(6):
        x, x0 = (jnp.asarray(rng.normal(size=(8, 2)), jnp.float32) for _ in range(2))
        nets = typing.Nets(V=lambda x, s, t: 0 * x + 0.5, memory=remembered)
        errors, metrics = method.loss(nets, {"student": typing.Point(x=x, x0=x0)})
        seen.append((x - 0.5, x0))
        ours, data = (np.concatenate([batch[i] for batch in seen]) for i in (0, 1))
        if memory == "queue":
            ours = np.concatenate([batch[0] for batch in seen[-3:]])
        expected = [distributional.moments(jnp.asarray(part)) for part in (ours, data)]
        if memory == "queue" or number < 3:  # until then 1 / (n + 1) is more than 0.3
            np.testing.assert_allclose(metrics["student"], distributional.frechet(*expected), rtol=2e-3)
        np.testing.assert_array_equal(errors, errors[0])
        remembered = method.remember(remembered, metrics["memory"])
        np.testing.assert_allclose(remembered["reference"].second, expected[1].second, rtol=1e-5)
    assert remembered["count"] == 6


# Neighbours


@x64
def test_imle_with_one_candidate_is_a_regression_and_chooses_the_nearest_of_several():
    x0 = jnp.linspace(-1, 1, 8)[:, None]
    nets = typing.Nets(V=lambda x, s, t: 0.5 * x)
    of = lambda **hyper: (
        method := methods.make("imle", **hyper),
        method.draw(jax.random.key(0), {"x": x0}, 0)["student"],
    )
    method, point = of(candidates=1, group=1)
    errors, _ = method.loss(nets, {"student": point})
    np.testing.assert_allclose(errors, ((point.extra["candidates"][:, 0] / 2 - x0) ** 2)[:, 0])
    method, point = of(candidates=3, group=1)
    errors, _ = method.loss(nets, {"student": point})
    np.testing.assert_allclose(errors, ((point.extra["candidates"] / 2 - x0[:, None]) ** 2).min(axis=(1, 2)))
    method, point = of(candidates=3, group=4)
    errors, _ = method.loss(nets, {"student": point})
    pool = (point.extra["candidates"] / 2).reshape(2, 1, 12)
    np.testing.assert_allclose(errors, ((pool - x0.reshape(2, 4, 1)) ** 2).min(axis=2).reshape(-1))
    method, point = of(candidates=3, group=4, reject=0.3)
    errors, _ = method.loss(nets, {"student": point})
    far = np.abs(pool - x0.reshape(2, 4, 1))
    allowed = (far >= 0.3).all(axis=1, keepdims=True)
    assert allowed.any(axis=-1).all() and not allowed.all()
    np.testing.assert_allclose(errors, (np.where(allowed, far, np.inf) ** 2).min(axis=2).reshape(-1))


@x64
def test_only_the_chosen_noise_has_a_gradient():
    method = methods.make("imle", candidates=4, group=2)
    point = method.draw(jax.random.key(1), {"x": jnp.linspace(-1, 1, 4)[:, None]}, 0)["student"]

    def total(candidates):
        nets = typing.Nets(V=lambda x, s, t: 0.5 * x)
        return method.loss(nets, {"student": point._replace(extra={"candidates": candidates})})[0].sum()

    asked = []
    nets = typing.Nets(V=lambda x, s, t: asked.append(x) or 0.5 * x)
    method.loss(nets, {"student": point})
    everything, chosen = asked
    assert everything.shape == (16, 1) and chosen.shape == (4, 1) and np.isin(chosen, everything).all()
    # The choice is under a stop-gradient: the network's weights feel the chosen samples alone, and noise feels nothing.
    np.testing.assert_array_equal(jax.grad(total)(point.extra["candidates"]), 0)


# Recipes


@pytest.mark.parametrize("name", [n if n in ("imm", "drifting") else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_rows_of_other_labels_and_other_groups_do_not_meet(name):
    method = methods.make(name, label_drop=0.0, **SMALL.get(name, {}))
    x = rows(8)["x"]
    label = np.array([0, 1, 0, 1, 0, 0, 1, 1], np.int32)
    nets = typing.Nets(
        V=lambda x, s, t, cond: jnp.sin(x) + cond["label"][:, None] / 3, memory=method.memory and method.memory((2,))
    )
    errors = lambda x: method.loss(nets, method.draw(jax.random.key(0), {"x": x, "label": label}, 0))[0]
    before, after = errors(x), errors(x + (np.arange(8) == 1)[:, None])
    changed = np.flatnonzero(np.asarray(before != after))
    # Scales of the force and of the entropy are those of a group.
    expected = {"fd_loss": {*range(8)}, "drifting": {*range(4)}, "sinkhorn_drifting": {*range(4)}}.get(name, {1, 3})
    assert 1 in changed and set(changed) <= expected


@pytest.mark.parametrize("kernel", ["rbf", "laplace", "energy"])
def test_kernels_by_name(kernel):
    method = methods.make("mmd", kernel=kernel, widths=(0.5, 1.0), group=4)
    nets = typing.Nets(V=lambda x, s, t: 0 * x)
    point = method.draw(jax.random.key(0), rows(8), 0)["student"]
    errors, _ = method.loss(nets, {"student": point._replace(x=point.x0)})
    np.testing.assert_allclose(errors, 0, atol=1e-6)
    with pytest.raises(typing.InputError, match="unknown kernel 'gauss'"):
        methods.make("mmd", kernel="gauss")


def config_of(name, **changes):
    config = small(name, **changes)
    config.method.update(SMALL.get(name, {}))
    config.model.width = 16
    return config


def after(config, devices, steps=2):
    """(state, metrics) after some steps on the same rows."""
    run = runs.setup(config, devices=devices)
    programs, state = compilation.compiled(run), run.init()
    for number in range(steps):
        batch = sharding.global_batch(run.mesh, rows())
        state, metrics = jax.block_until_ready(programs[run.cycle.at(number)](state, batch, run.fixed))
    return jax.device_get((state, metrics))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_eight_devices_train_as_one(name):
    """Also where means of the whole batch are taken, and remembered."""
    alone, metrics = after(with_sgd(config_of(name)), jax.devices()[:1])
    sliced, metrics_sliced = after(with_sgd(config_of(name, mesh={"data": 2, "fsdp": 4})), jax.devices()[:8])
    chex.assert_trees_all_close(alone.params, sliced.params, atol=2e-6, rtol=0)
    chex.assert_trees_all_close(alone.memory, sliced.memory, atol=1e-5, rtol=1e-5)
    chex.assert_trees_all_close(metrics, metrics_sliced, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["queue", "average"])
def test_a_killed_run_goes_on_to_the_same_bits_with_its_memory(tmp_path, memory):
    config = config_of("fd_loss")
    config.method.update({"memory": memory, "queue": 3})
    whole = jax.device_get(loop.train(config, tmp_path, devices=jax.devices()[:1]))
    shutil.rmtree(tmp_path / "checkpoints" / "8")
    again = jax.device_get(loop.train(config, tmp_path, devices=jax.devices()[:1]))
    chex.assert_trees_all_equal(whole, again)
    assert whole.memory["count"] == 8 and set(whole.memory) == {
        "count",
        "reference",
        "queue" if memory == "queue" else "population",
    }


@pytest.mark.slow
def test_seeds_side_by_side_remember_each_their_own():
    alone, _ = after(config_of("fd_loss"), jax.devices()[:1])
    config = config_of("fd_loss", seeds=2)
    run = runs.setup(config, devices=jax.devices()[:1])
    batch = {"x": np.stack([rows()["x"]] * 2)}
    state = run.init()
    program = jax.jit(run.step, static_argnames="phase")
    for number in range(2):
        state, _ = program(state, sharding.global_batch(run.mesh, batch, 2), (), phase=run.cycle.at(number))
    assert state.memory["count"].tolist() == [2, 2]
    chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[0], state.memory), alone.memory, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NAMES, "ladd", "apt"])
def test_a_step_costs_as_much_as_its_graph(name):
    """A discriminator of V's form among them; what the groups cost is no matmul of the network."""
    counted = step_cost.forward_passes(name, every_row=True)
    assert counted == pytest.approx(methods.info(name).derived_fpe, rel=0.06)
