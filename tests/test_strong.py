"""Strong Stochastic Flow Maps: coefficients of paths, the exact jumps of a linear process, its marginals, and a run."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import rows, small, two_modes

from flowjax import brownian, conditioning, exact, losses, methods, samplers, training, typing
from flowjax.losses import strong

MEAN, DEVIATION, NOISE = 0.5, 1.5, 0.8  # of the data, one number a row; strength of the process
NODES, WEIGHTS = np.polynomial.legendre.leggauss(10)


@functools.cache
def flow():
    return exact.gaussian(MEAN, DEVIATION**2)


def legendre(z):
    return jnp.stack([jnp.ones_like(z), z, (3 * z**2 - 1) / 2])


def growth(s, t):
    """exp of the integral from s to t of A, of the process z = x - (1 - t) MEAN, dz/dt = A z: A = (1 + noise (1 - t)) a(t) + noise."""
    u = s[None] + (1 + NODES.reshape(-1, 1, 1)) / 2 * (t - s)[None]
    a = (u - (1 - u) * DEVIATION**2) / (((1 - u) * DEVIATION) ** 2 + u**2)
    A = (1 + NOISE * (1 - u)) * a + NOISE
    return jnp.exp((t - s) * jnp.tensordot(WEIGHTS / 2, A, axes=1))


def noise_along(u, s, t, w):
    """dN/du of the polynomial path with coefficients w [3, B, 1] at time u between s and t."""
    z = 2 * brownian.clock(s, u, NOISE) / brownian.clock(s, t, NOISE) - 1
    density = jnp.sum(legendre(z) * w * jnp.array([1.0, 3.0, 5.0])[:, None, None], axis=0)
    return density / brownian.clock(s, t, NOISE) * 2 * NOISE * u


@jax.jit
def jump(x, s, t, w):
    """F of the linear process along the polynomial path, by quadrature: what is least in the mean, given w."""
    moved = (1 - t) * MEAN + growth(s, t) * (x - (1 - s) * MEAN)
    for node, weight in zip(NODES, WEIGHTS):
        u = s + (1 + node) / 2 * (t - s)
        moved = moved + weight / 2 * (s - t) * growth(u, t) * noise_along(u, s, t, w)
    return moved


def V(x, s, t, w):
    return (jump(x, s, t, w) - x - w[0]) / (t - s)


def parts_of(w, s, m, t):
    """Coefficients on both parts of a span of the polynomial path that has w on the whole."""

    def on(p, q):
        total = 0.0
        for node, weight in zip(NODES, WEIGHTS):
            u = p + (1 + node) / 2 * (q - p)
            z = 2 * brownian.clock(p, u, NOISE) / brownian.clock(p, q, NOISE) - 1
            total = total + legendre(z) * (weight / 2 * (p - q) * noise_along(u, s, t, w))[None]
        return total

    return on(s, m), on(m, t)


def points(count=6):
    x = jnp.linspace(-2, 2, count)[:, None]
    w = jax.random.normal(jax.random.key(1), (3, count, 1))
    return x, jnp.full((count, 1), 0.9), jnp.full((count, 1), 0.3), w


@pytest.mark.usefixtures("x64")
def test_the_coefficients_of_a_span_are_those_of_its_parts():
    _, s, t, w = points()
    m = s + 0.3 * (t - s)
    left, right = parts_of(w, s, m, t)
    share = brownian.clock(s, m, NOISE) / brownian.clock(s, t, NOISE)
    np.testing.assert_allclose(brownian.joined(left, right, share), w, rtol=1e-8, atol=1e-9)
    # In equal parts the matrix of the published code, written from its paper.
    half = np.array([[1, 0, 0], [-1 / 2, 1 / 2, 0], [0, -3 / 4, 1 / 4]])
    sign = np.array([[(-1.0) ** (n + k) for k in range(3)] for n in range(3)])
    expected = np.einsum("nk,kbi->nbi", half, left) + np.einsum("nk,kbi->nbi", half * sign, right)
    np.testing.assert_allclose(brownian.joined(left, right, 0.5), expected, rtol=1e-12)


def test_coefficients_have_their_variances_however_the_span_is_cut():
    x = jnp.zeros((40_000, 1))
    keys = jax.random.split(jax.random.key(0), 3)
    whole = brownian.coefficients(keys[0], x, 0.9, 0.3, NOISE)
    left, right = brownian.coefficients(keys[1], x, 0.9, 0.5, NOISE), brownian.coefficients(keys[2], x, 0.5, 0.3, NOISE)
    share = brownian.clock(0.9, 0.5, NOISE) / brownian.clock(0.9, 0.3, NOISE)
    expected = np.diag(NOISE * (0.81 - 0.09) / np.array([1, 3, 5]))
    for w in (whole, brownian.joined(left, right, share)):
        np.testing.assert_allclose(np.cov(w[..., 0]), expected, atol=0.01)


@pytest.mark.usefixtures("x64")
def test_both_losses_vanish_on_the_exact_jumps():
    x, s, t, w = points()
    near = strong.strong_anchor(V, x, s, s - 1e-4, flow().v(x, s), 0.01 * w, noise=NOISE)
    np.testing.assert_allclose(near.prediction, near.target, atol=5e-2)  # half of the noise times the slope of the drift
    still = strong.strong_anchor(V, x, s, s - 1e-6, flow().v(x, s), 0 * w, noise=NOISE)
    np.testing.assert_allclose(still.prediction, still.target, atol=1e-5)
    left, right = parts_of(w, s, s + 0.3 * (t - s), t)
    pair = strong.strong_composition(V, V, x, s, t, 0.3, left, right)
    np.testing.assert_allclose(pair.prediction, pair.target, rtol=1e-6)
    other = strong.strong_composition(V, V, x, s, t, 0.3, left, 1.1 * right)
    assert np.abs(other.prediction - other.target).max() > 1e-4  # such a path is no polynomial, and w only its mean


MIXTURE = exact.mixture([0.3, 0.7], [-1.5, 1.0], [0.6, 0.5])


def solved(x, s, t, w, steps=64):
    """F along the polynomial path with coefficients w, of a drift that is not linear, by Runge and Kutta's method."""
    h = (t - s) / steps
    rate = lambda x, u: strong.drift(MIXTURE.v(x, u), x, u, NOISE) - noise_along(u, s, t, w)

    def step(x, number):
        u = s + number * h
        a = rate(x, u)
        b = rate(x + h / 2 * a, u + h / 2)
        c = rate(x + h / 2 * b, u + h / 2)
        d = rate(x + h * c, u + h)
        return x + h / 6 * (a + 2 * b + 2 * c + d), None

    return jax.lax.scan(step, x, jnp.arange(steps))[0]


@pytest.mark.usefixtures("x64")
def test_the_lagrangian_loss_vanishes_along_every_polynomial_path():
    x, s, t, w = points()

    def told(x, p, q, w):  # at t = s the drift
        return strong.drift(MIXTURE.v(x, p), x, p, NOISE) if p is q else (solved(x, p, q, w) - x - w[0]) / (q - p)

    pair = jax.jit(lambda w: strong.strong_lagrangian(told, x, s, t, w))(w)
    np.testing.assert_allclose(pair.prediction, pair.target, atol=1e-5)
    # The coefficients move with the end: without that it is another path, and the loss sees it.
    m = t + 0.2
    part, moved = jax.jvp(lambda m: parts_of(w, s, m, t)[0], (m,), (m - s,))
    np.testing.assert_allclose(brownian.extended(part, s, m), moved, rtol=1e-9, atol=1e-11)
    assert np.abs(moved).max() > 0.1
    # Without noise it is the ordinary loss.
    ordinary = lambda x, s, t, w=None: jnp.sin(x + s - 2 * t)
    quiet, plain = strong.strong_lagrangian(ordinary, x, s, t, 0 * w), losses.lagrangian_self_distillation(ordinary, x, s, t)
    np.testing.assert_array_equal(quiet.target, plain.target)
    np.testing.assert_allclose(quiet.prediction, plain.prediction, rtol=1e-14)


def test_jumps_leave_the_marginals_and_follow_the_path():
    """The end of many short jumps along a path is near that of few long ones, nearer the more there are, and all have the data's law."""
    count, fine = 20_000, 16
    eps = jax.random.normal(jax.random.key(0), (count, 1))
    times = np.linspace(1, 0, fine + 1)
    keys = jax.random.split(jax.random.key(1), fine)
    w = [brownian.coefficients(key, eps, s, t, NOISE) for key, s, t in zip(keys, times, times[1:])]
    ends = {}
    while w:
        x = eps
        for part, s, t in zip(w, times, times[1:]):
            x = jump(x, jnp.full((1, 1), s), jnp.full((1, 1), t), part)
        ends[len(w)] = x
        np.testing.assert_allclose([x.mean(), x.std()], [MEAN, DEVIATION], atol=0.03, err_msg=str(len(w)))
        share = brownian.clock(times[:-1:2], times[1::2], NOISE) / brownian.clock(times[:-2:2], times[2::2], NOISE)
        w = [brownian.joined(*pair, a) for pair, a in zip(zip(w[::2], w[1::2]), share)]
        times = times[::2]
    off = {n: float(jnp.sqrt(jnp.mean((ends[n] - ends[fine]) ** 2))) for n in (1, 2, 4)}
    assert off[4] < off[2] < off[1] < 0.1  # strong convergence
    assert (
        abs(float(jnp.corrcoef(ends[1][:, 0], eps[:, 0])[0, 1])) < 0.95
    )  # and it is not the flow, which is a function of the noise


@pytest.mark.usefixtures("x64")
def test_without_noise_it_is_the_ordinary_map_bit_for_bit():
    x, s, t, w = points()
    ordinary, told = flow().V, lambda x, s, t, w: flow().V(x, s, t)
    pair = strong.strong_composition(told, told, x, s, t, 0.5, 0 * w, 0 * w)
    plain = losses.progressive_self_distillation(ordinary, x, s, t, 0.5)
    np.testing.assert_array_equal(pair.prediction, plain.prediction)
    np.testing.assert_array_equal(pair.target, plain.target)
    anchor = strong.strong_anchor(told, x, s, s, flow().v(x, s), 0 * w, noise=0.0)
    np.testing.assert_array_equal(anchor.target, flow().v(x, s))
    informed = lambda x, s, t, inputs: flow().V(x, s, t)
    keys, grid = jax.random.split(jax.random.key(0), len(x)), samplers.grid(3)
    np.testing.assert_array_equal(samplers.strong(informed, x, grid, keys, noise=0.0), samplers.flow_map(ordinary, x, grid))


def test_the_sampler_draws_the_marginals():
    informed = lambda x, s, t, inputs: V(
        x, s[None, None], t[None, None], jnp.stack([inputs[name] for name in conditioning.PATH])
    )
    eps = jax.random.normal(jax.random.key(0), (20_000, 1))
    ends = samplers.strong(informed, eps, samplers.grid(2), jax.random.split(jax.random.key(2), len(eps)), noise=NOISE)
    np.testing.assert_allclose([ends.mean(), ends.std()], [MEAN, DEVIATION], atol=0.03)
    with pytest.raises(typing.InputError, match="noise is -1"):
        samplers.strong(informed, eps, samplers.grid(2), None, noise=-1)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["compositional", "lagrangian"])
def test_the_recipe_vanishes_on_the_exact_jumps_in_the_mean(rule):
    """Given w the best answer is the mean over the paths that have it: its errors are as small as the rest of a path."""
    method = methods.make("strong_flow_map", noise=NOISE, learned_weight=False, rule=rule)

    def net(x, s, t, cond):
        w = jnp.stack([cond[name] for name in conditioning.PATH])
        return V(x, s, jnp.where(s > t, t, s - 1e-3), w)

    drawn = method.draw(jax.random.key(0), {"x": MEAN + DEVIATION * jax.random.normal(jax.random.key(1), (1024, 1))}, 0)
    raw = methods.raw_errors(method, typing.Nets(V=net, ema=net), drawn)
    assert float(raw[rule].mean()) < 2e-3 and ("ema" in method.needs) == (rule == "compositional")
    assert float(drawn["anchor"].s.min()) >= 0.005 and float((drawn["anchor"].s - drawn["anchor"].t).max()) <= 0.0101
    # The anchor's target is one row's drift; the mean of the difference is nothing.
    point = drawn["anchor"]
    pair = method.terms[0].pair(typing.Nets(V=net, ema=net), point)
    difference = np.asarray(pair.prediction - pair.target)
    assert abs(difference.mean()) < 4 * difference.std() / len(difference) ** 0.5


def test_bad_constants_are_refused():
    with pytest.raises(typing.InputError, match="at least 0"):
        methods.make("strong_flow_map", noise=-0.5)
    with pytest.raises(typing.InputError, match="did you mean lagrangian"):
        methods.make("strong_flow_map", rule="lagrange")


@pytest.mark.slow
def test_a_run_is_sampled_with_its_noise(tmp_path):
    config = small("strong_flow_map", steps=2, save_every=2)
    assert config.sampler == "strong"
    training.train(config, tmp_path / "run")
    run = training.load(tmp_path / "run")
    same, other = run.sample(8, 2, seed=1), run.sample(8, 2, seed=2)
    np.testing.assert_array_equal(same, run.sample(8, 2, seed=1))
    assert np.isfinite(same).all() and np.abs(same - other).max() > 0.1
    assert run.net.inputs == conditioning.PATH and rows(2)["x"].shape[1:] == run.shape


@pytest.mark.slow
def test_a_map_that_learns_by_the_lagrangian_rule_has_the_law_of_a_mixture(tmp_path, monkeypatch, optimised):
    weights, means, deviations = np.array([0.3, 0.7]), np.array([-1.5, 1.0]), np.array([0.6, 0.5])
    config = small("strong_flow_map", steps=700, batch_size=256, save_every=700, log_every=350)
    config.data.name, config.eval_samples = two_modes(monkeypatch, weights, means, deviations), 64
    config.method.rule = "lagrangian"
    config.model.update({"width": 64, "depth": 3})
    config.optim.update({"learning_rate": 3e-3, "schedule": "cosine", "warmup_steps": 100})
    training.train(config, tmp_path / "run")
    mean = weights @ means
    expected = [mean, np.sqrt(weights @ (deviations**2 + means**2) - mean**2), weights[0]]
    for steps in (2, 8):
        x = training.load(tmp_path / "run").sample(4000, steps)[:, 0]
        np.testing.assert_allclose([x.mean(), x.std(), (x < -0.3).mean()], expected, atol=0.08, err_msg=str(steps))
