"""Matching by scores: gradients against closed forms of Gaussians, best fakes and ratios, zeros."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_cases import quick_jit

from flowjax import distances, exact, typing
from flowjax.losses import distributional
from flowjax.methods.distributional import students

x64 = pytest.mark.usefixtures("x64")
MEAN, DEVIATION = 0.3, 0.9  # of the data, p = N(MEAN, DEVIATION^2)
START = np.array([-0.1, 1.05])  # of the student: samples a + b z
LEVELS = (0.15, 0.4, 0.8)


# Data and student are Gaussian: all velocities in closed form, expectations by quadrature


def velocity(a, b):
    """The velocity of N(a, b^2), (x, r) -> v."""

    def v(x, r):
        D = a + (1 - r) * b**2 / ((1 - r) ** 2 * b**2 + r**2) * (x - (1 - r) * a)
        return (x - D) / r

    return v


def log_density(a, b, x, r):
    """Of N(a, b^2) noised up to r."""
    variance = (1 - r) ** 2 * b**2 + r**2
    return -((x - (1 - r) * a) ** 2) / (2 * variance) - jnp.log(2 * jnp.pi * variance) / 2


def student(theta):
    """V of the student whose jump from noise z is a + b z."""
    return lambda x, s, t: x - (theta[0] + theta[1] * x)


def quadrature(nodes):
    """(z, eps, weights): two standard normal variables on the nodes of Gauss and Hermite, [nodes^2, 1]."""
    z, w = np.polynomial.hermite_e.hermegauss(nodes)
    grid, w = np.meshgrid(z, z, indexing="ij"), np.outer(w, w) / w.sum() ** 2
    return (*(jnp.asarray(part.reshape(-1, 1)) for part in grid), jnp.asarray(w.ravel()))


TEACHER = velocity(MEAN, DEVIATION)
FAKE = velocity(*START)  # the best one: its weights stand still, its input moves


def odds(x, t):
    """The best discriminator: log p_r - log q_r, with weights that stand still."""
    return (log_density(MEAN, DEVIATION, x, t) - log_density(*START, x, t)).reshape(-1)


def expected(loss, theta, r, nodes=24, **given):
    """The mean of the errors of a loss of the student; a push is scored by half of its squares."""
    z, eps, w = quadrature(nodes)
    result = loss(student(theta), x=z, s=1.0, r=r, eps=eps, **given)
    errors = students.half("sum")(*result) if isinstance(result, typing.Pair) else result
    return jnp.sum(w * errors)


def kl(theta, r, forward=False):
    """KL(q_r | p_r) in closed form, or KL(p_r | q_r)."""
    of = lambda a, b: ((1 - r) * a, (1 - r) ** 2 * b**2 + r**2)
    (m, v), (n, w) = (of(*theta), of(MEAN, DEVIATION))[:: -1 if forward else 1]
    return (jnp.log(w / v) + (v + (m - n) ** 2) / w - 1) / 2


# f of D_f(p | q) = E_q f(p / q), up to linear terms: f''(u) u^2 is h(u).
F = {
    "rkl": lambda u: -jnp.log(u),
    "kl": lambda u: u * jnp.log(u),
    "js": lambda u: u * jnp.log(u) - (1 + u) * jnp.log(1 + u),
    "sf": lambda u: (1 + u) * jnp.log((1 + u) / u),
    "neyman": lambda u: 1 / (2 * u),
    "sh": lambda u: -4 * jnp.sqrt(u),
    "jf": lambda u: u * jnp.log(u) - jnp.log(u),
}


def divergence(f, theta, r):
    """E_q f(p_r / q_r) by the trapezoidal rule."""
    x = jnp.linspace(-12.0, 12.0, 4001)
    log_q = log_density(*theta, x, r)
    return jnp.sum(jnp.exp(log_q) * f(jnp.exp(log_density(MEAN, DEVIATION, x, r) - log_q))) * (x[1] - x[0])


@x64
def test_push_has_the_gradient_that_it_is_given():
    x, g = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 3)))
    loss = lambda x: jnp.sum(students.half("sum")(*distributional.push(x, g)))
    np.testing.assert_allclose(jax.grad(loss)(x), g, atol=1e-14)
    with pytest.raises(typing.InputError, match="push: g has shape"):
        distributional.push(x, g[:1])


@x64
@pytest.mark.parametrize("r", LEVELS)
def test_vsd_has_the_gradient_of_the_divergence(r):
    found = jax.grad(lambda theta: expected(distributional.vsd, theta, r, fake=FAKE, teacher=TEACHER))(START)
    np.testing.assert_allclose(found, jax.grad(kl)(START, r), rtol=1e-10)


@x64
@pytest.mark.parametrize("name", distributional.DIVERGENCES)
def test_vsd_weighed_by_h_has_the_gradient_of_each_divergence(name):
    h, r = distributional.DIVERGENCES[name], 0.4
    weight = lambda x, r: h(jnp.exp(odds(x, r)))[:, None]
    found = jax.grad(lambda theta: expected(distributional.vsd, theta, r, 64, fake=FAKE, teacher=TEACHER, weight=weight))(START)
    np.testing.assert_allclose(found, jax.grad(functools.partial(divergence, F[name]))(START, r), rtol=1e-8)
    if name == "kl":
        np.testing.assert_allclose(found, jax.grad(functools.partial(kl, forward=True))(START, r), rtol=1e-8)


@x64
@pytest.mark.parametrize("r", LEVELS)
def test_the_best_ratio_has_the_gradient_of_the_divergence(r):
    found = jax.grad(lambda theta: expected(distributional.diffratio, theta, r, discriminator=odds))(START)
    np.testing.assert_allclose(found, jax.grad(kl)(START, r), rtol=1e-10)
    twice = functools.partial(distributional.diffratio, weight=lambda r: 2 * r)
    weighed = jax.grad(lambda theta: expected(twice, theta, r, discriminator=odds))(START)
    np.testing.assert_allclose(weighed, 2 * r * found, rtol=1e-12)


def fisher(theta, r, of=None, weigh=lambda square: square):
    """E weigh(|D_teacher - D_fake|^2) with the best fake of theta, at samples of `of`, by default theta."""
    z, eps, w = quadrature(64)
    a, b = theta if of is None else of
    x = (1 - r) * (a + b * z) + r * eps
    return jnp.sum(w[:, None] * weigh(r**2 * (TEACHER(x, r) - velocity(*theta)(x, r)) ** 2))


@x64
@pytest.mark.parametrize("r", LEVELS)
def test_sid_is_half_of_the_fisher_divergence(r):
    given = {"fake": FAKE, "teacher": TEACHER, "weight": lambda r: 1.0}
    of = lambda alpha: jax.value_and_grad(lambda theta: expected(distributional.sid, theta, r, alpha=alpha, **given))(START)
    whole, held = jax.grad(fisher)(START, r), jax.grad(functools.partial(fisher, of=START))(START, r)
    value = fisher(START, r)
    for alpha in (0.5, 1.0, 1.2):
        errors, gradient = of(alpha)
        np.testing.assert_allclose(errors, (1 - alpha) * value, atol=1e-12)
        # Half of the whole for 1/2, half of that with the law of x_r held for 1, and linear in alpha.
        np.testing.assert_allclose(gradient, held / 2 + (1 - alpha) * (whole - held), rtol=1e-9, atol=1e-12)


@x64
@pytest.mark.parametrize("r", LEVELS)
def test_sim_has_the_gradient_of_its_distance_with_the_sampling_law_held(r):
    c = 0.5
    found = jax.grad(lambda theta: expected(distributional.sim, theta, r, 64, fake=FAKE, teacher=TEACHER, c=c))(START)
    distance = functools.partial(fisher, of=START, weigh=lambda square: jnp.sqrt(square + c**2))
    np.testing.assert_allclose(found, jax.grad(distance)(START, r), rtol=1e-8)


# (f, of E_p f(q / p)), the convention of Uni-Instruct
UNI = {
    "rkl": lambda u: u * jnp.log(u),
    "kl": lambda u: -jnp.log(u),
    "js": lambda u: u * jnp.log(u) - (1 + u) * jnp.log((1 + u) / 2),
    "chi": lambda u: (u - 1) ** 2,
}


@x64
@pytest.mark.parametrize("name", distributional.F_DIVERGENCES)
def test_uni_instruct_spreads_a_divergence_of_the_samples_over_the_levels(name):
    nodes, w = np.polynomial.legendre.leggauss(24)
    levels, w = (jnp.asarray(nodes) + 1) / 2, jnp.asarray(w) / 2

    def spread(theta):
        one = lambda r: expected(
            distributional.uni_instruct, theta, r, 48, fake=FAKE, teacher=TEACHER, discriminator=odds, divergence=name
        )
        return jnp.sum(w * jax.lax.map(one, levels))

    at_data = lambda theta: divergence(lambda u: u * UNI[name](1 / u), theta, 0.0)  # E_q of the ratio p / q
    found = quick_jit(jax.grad(spread))(START)
    rtol = 2e-4 if name == "chi" else 1e-7  # the square of the ratio has heavy tails, for which there are too few nodes
    np.testing.assert_allclose(found, jax.grad(at_data)(START), rtol=rtol)
    closed = {"rkl": kl, "kl": functools.partial(kl, forward=True)}
    if name in closed:
        np.testing.assert_allclose(found, jax.grad(closed[name])(START, 0.0), rtol=1e-7)


@x64
def test_divergence_fisher_and_velocities_are_one_number_on_exact_flows():
    """KL of the data = the integral of r / (1 - r) |score|^2 = (1 - r) / r^3 |D|^2 = (1 - r) / r |v|^2, differences squared."""
    nodes, w = np.polynomial.legendre.leggauss(40)
    levels, w = (jnp.asarray(nodes) + 1) / 2, jnp.asarray(w) / 2
    q = exact.gaussian(jnp.array([0.2, -0.4]), jnp.array([[1.0, 0.3], [0.3, 0.6]]))
    p = exact.gaussian(jnp.array([-0.1, 0.3]), jnp.array([[0.7, -0.1], [-0.1, 0.9]]))
    root = np.linalg.cholesky([[1.0, 0.3], [0.3, 0.6]])
    z, weights = np.polynomial.hermite_e.hermegauss(3)
    grid = np.stack([axis.ravel() for axis in np.meshgrid(z, z, z, z)], 1)
    weights = np.prod(np.stack([a.ravel() for a in np.meshgrid(*[weights / weights.sum()] * 4)]), 0)
    x0, eps = jnp.asarray(np.array([0.2, -0.4]) + grid[:, :2] @ root.T), jnp.asarray(grid[:, 2:])

    def at(r):
        x = (1 - r) * x0 + r * eps
        v = q.v(x, r) - p.v(x, r)
        mean = lambda difference: jnp.sum(weights * jnp.sum(difference**2, 1))
        score, D = -(1 - r) / r * v, -r * v
        return jnp.stack([r / (1 - r) * mean(score), (1 - r) / r**3 * mean(D), (1 - r) / r * mean(v)])

    integrals = w @ jax.vmap(at)(levels)
    q_covariance, p_covariance = np.array([[1.0, 0.3], [0.3, 0.6]]), np.array([[0.7, -0.1], [-0.1, 0.9]])
    gap, inverse = np.array([0.3, -0.7]), np.linalg.inv(p_covariance)
    log_ratio = np.log(np.linalg.det(p_covariance) / np.linalg.det(q_covariance))
    closed = (log_ratio + np.trace(inverse @ q_covariance) + gap @ inverse @ gap - 2) / 2
    np.testing.assert_allclose(integrals, closed, rtol=1e-9)


# Fakes, ratios, moments


def exact_gradient_of_the_fake(loss, r):
    """Gradient of the mean of a loss of the fake, at the best one, in the two numbers of an affine change of its denoised data."""
    z, eps, w = quadrature(16)
    sample = START[0] + START[1] * z
    x_r = (1 - r) * sample + r * eps

    def mean(change):
        fake = lambda x, t: FAKE(x, t) - (change[0] + change[1] * x) / t
        return jnp.sum(w * loss(fake, sample, x_r, eps))

    return jax.grad(mean)(jnp.zeros(2))


@x64
@pytest.mark.parametrize("r", LEVELS)
def test_the_best_fake_is_the_velocity_of_the_samples(r):
    def edm(fake, sample, x_r, eps):
        return distributional.edm_weight(r) * distances.l2(*distributional.fake_denoised(fake, sample, r, eps))

    def matched(fake, sample, x_r, eps):
        return distances.l2(fake(x_r, r), eps - sample)

    for loss in (edm, matched):
        np.testing.assert_allclose(exact_gradient_of_the_fake(loss, r), 0, atol=1e-12)
    # The two losses differ by a weight of r alone.
    z, eps, _ = quadrature(4)
    wrong = lambda x, t: FAKE(x, t) + 0.3 + 0.2 * x
    x_r = (1 - r) * z + r * eps
    np.testing.assert_allclose(edm(wrong, z, x_r, eps), ((1 - r) ** 2 + 4 * r**2) * matched(wrong, z, x_r, eps), rtol=1e-12)


@x64
def test_the_fake_of_moment_matching_is_half_way():
    r = 0.4
    half_way = lambda x, t: (FAKE(x, t) + TEACHER(x, t)) / 2

    def loss(fake, sample, x_r, eps):
        shifted = lambda x, t: half_way(x, t) + fake(x, t) - FAKE(x, t)
        pairs = distributional.moment_matching_fake(shifted, TEACHER, sample, x_r, r)
        return sum(distances.l2(*pair) for pair in pairs)

    np.testing.assert_allclose(exact_gradient_of_the_fake(loss, r), 0, atol=1e-12)


@x64
def test_moment_matching_pushes_the_jump_to_data_by_the_fields_where_the_step_leads():
    V, x = lambda x, s, t: jnp.sin(x) + s * t, jnp.asarray([[0.2, 1.0], [-0.3, 0.4]])
    s, t = 0.8, 0.7
    pair = distributional.moment_matching(V, FAKE, TEACHER, x, s, t)
    F = x + (t - s) * V(x, s, t)
    np.testing.assert_allclose(pair.prediction, x - s * V(x, s, t))
    D_fake, D_teacher = F - t * FAKE(F, t), F - t * TEACHER(F, t)
    np.testing.assert_allclose(pair.prediction - pair.target, D_fake - D_teacher, atol=1e-14)


@x64
def test_the_best_discriminator_is_the_log_ratio():
    r = 0.4
    z, eps, w = quadrature(64)
    noised = lambda a, b: (1 - r) * (a + b * z) + r * eps
    real, made = noised(MEAN, DEVIATION), noised(*START)

    def loss(change):
        logits = lambda x: odds(x, r) + (change[0] + change[1] * x + change[2] * x**2).reshape(-1)
        return jnp.sum(w * (jax.nn.softplus(logits(made)) + jax.nn.softplus(-logits(real))))

    np.testing.assert_allclose(jax.grad(loss)(jnp.zeros(3)), 0, atol=1e-7)


@x64
def test_f_distill_is_dmd_times_h():
    z, eps, _ = quadrature(5)
    r = jnp.linspace(0.05, 0.95, len(z))[:, None]
    given = {"x": z, "s": 1.0, "r": r, "eps": eps, "fake": FAKE, "teacher": TEACHER}
    logits = lambda x, t: 3 * jnp.sin(5 * x).reshape(-1)
    V = student(START)
    plain = distributional.dmd(V, **given)
    same = distributional.f_distill(V, **given, discriminator=logits, divergence="rkl")
    assert (plain.target == same.target).all()  # bit for bit
    x_r = (1 - r) * plain.prediction + r * eps
    ratio = np.clip(np.exp(logits(x_r, r)), 0.1, 20)
    number = (np.asarray(r)[:, 0] * 10).astype(int)
    level = np.array([ratio[number == n].mean() for n in number])
    move = lambda pair: np.asarray(pair.prediction - pair.target)[:, 0]
    for name, h in distributional.DIVERGENCES.items():
        raw = distributional.f_distill(V, **given, discriminator=logits, divergence=name, bins=0)
        np.testing.assert_allclose(move(raw), np.asarray(h(ratio)) * move(plain), rtol=1e-9)
        weights = np.asarray(h(ratio / level))
        made_one = distributional.f_distill(V, **given, discriminator=logits, divergence=name)
        np.testing.assert_allclose(move(made_one), weights / weights.mean() * move(plain), rtol=1e-9, err_msg=name)
    with pytest.raises(typing.InputError, match="unknown divergence 'jss'; did you mean"):
        distributional.f_distill(V, **given, discriminator=logits, divergence="jss")
    with pytest.raises(typing.InputError, match="unknown divergence"):
        distributional.uni_instruct(V, **given, discriminator=logits, divergence="neyman")


@x64
def test_adaptive_matching_weighs_matching_and_guidance_against_each_other():
    z, eps, _ = quadrature(4)
    null = lambda x, t: TEACHER(x, t) + 0.1
    given = {"x": z, "s": 1.0, "r": 0.4, "eps": eps, "fake": FAKE, "teacher": TEACHER}
    move = lambda pair: pair.prediction - pair.target
    of = lambda reward, **more: move(
        distributional.adaptive_matching(student(START), **given, **{"unconditional": None, "reward": reward, **more})
    )
    plain = move(distributional.dmd(student(START), **given))
    np.testing.assert_allclose(of(jnp.ones(16)), plain, rtol=1e-12)
    reward = jnp.where(jnp.arange(16) < 8, 1.0, -1.0)
    factor = jnp.where(reward > 0, 0.6, 1.4)[:, None]
    np.testing.assert_allclose(of(reward, strength=0.4), factor * plain, rtol=1e-5)
    # A guided teacher is v + (w - 1) (v - v_null); equal rewards give its push, over the distance of the plain one.
    guided = of(jnp.ones(16), unconditional=null, guidance=3.0) - plain
    F = START[0] + START[1] * z
    x_r = 0.6 * F + 0.4 * eps
    distance = jnp.abs(F - (x_r - 0.4 * TEACHER(x_r, 0.4))) + 1e-6
    np.testing.assert_allclose(guided, -2.0 * 0.4 * 0.1 / distance, rtol=1e-9)


@x64
def test_self_e_is_flow_matching_on_the_diagonal_and_keeps_the_energy_of_the_data():
    rng = np.random.default_rng(0)
    x, x0, eps = (jnp.asarray(rng.normal(size=(6, 3))) for _ in range(3))
    V, V_null = lambda x, s, t: jnp.sin(x + s) - t, lambda x, s, t: jnp.cos(x) * s
    s, t = 0.7, 0.3
    diagonal = distributional.self_e(V, V_null, x, s, s, x0, eps)
    np.testing.assert_allclose(diagonal.prediction, x - s * V(x, s, s))
    np.testing.assert_allclose(diagonal.target, x0, rtol=1e-12)
    off = distributional.self_e(V, V_null, x, s, t, x0, eps)
    norm = lambda rows: jnp.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(norm(off.target), norm(x0), rtol=1e-12)
    D = x - s * V(x, s, t)
    y = (1 - t) * D + t * eps
    judged = D + (y - t * V(y, t, t)) - (y - t * V_null(y, t, t))
    mixed = x0 + (s / (1 - s) - t / (1 - t)) * judged
    np.testing.assert_allclose(off.target, mixed / norm(mixed) * norm(x0), rtol=1e-12)
    # Without a label nothing judges.
    alone = distributional.self_e(V, V, x, s, t, x0, eps)
    mixed = x0 + (s / (1 - s) - t / (1 - t)) * D
    np.testing.assert_allclose(alone.target, mixed / norm(mixed) * norm(x0), rtol=1e-12)


@x64
def test_nothing_moves_where_student_and_data_are_one():
    flow = exact.gaussian(jnp.zeros(2), jnp.array([[1.0, 0.4], [0.4, 0.5]]))
    x, eps = jnp.asarray(np.random.default_rng(1).normal(size=(2, 8, 2)))
    even = lambda x, t: jnp.zeros(len(x))
    given = {"x": x, "s": 1.0, "r": 0.3, "eps": eps, "fake": flow.v, "teacher": flow.v}
    for name in ("vsd", "dmd", "f_distill", "sid", "sim", "uni_instruct"):
        loss = getattr(distributional, name)
        more = {"discriminator": even} if name in ("f_distill", "uni_instruct") else {}
        result = loss(flow.V, **given, **more)
        zero = result.prediction - result.target if isinstance(result, typing.Pair) else result
        np.testing.assert_allclose(zero, 0, atol=1e-12, err_msg=name)
