"""Posteriors: the closed-form teacher, draws, chains that keep their marginals, values and tilted velocities."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import support

from flowjax import exact, flowmap, losses, methods, posterior, residuals, training, typing
from flowjax.methods import posterior as posterior_recipes

MEAN, DEVIATION = 0.5, 1.5  # of the data, one number a row
C = 0.6


@functools.cache
def flow():
    return exact.gaussian(MEAN, DEVIATION**2)


def known(x_c, c):
    """Mean and deviation of p(x0 | x_c)."""
    precision = 1 / DEVIATION**2 + ((1 - c) / c) ** 2
    return (MEAN / DEVIATION**2 + (1 - c) / c**2 * x_c) / precision, precision**-0.5


def inner_map(x_c, c):
    """V(x, s, t | x_c, c) of the exact posterior: that of N(mean, deviation^2), row by row."""
    mean, deviation = known(x_c, c)
    r = lambda t: jnp.sqrt(((1 - t) * deviation) ** 2 + t**2)

    def V(x, s, t):
        # (F - x) / (t - s) with F = (1 - t) mean + r(t) / r(s) (x - (1 - s) mean), without the division by zero on the diagonal
        slope = (s + t - (2 - s - t) * deviation**2) / (r(s) * (r(s) + r(t)))
        return -mean + slope * (x - (1 - s) * mean)

    return V


def draw(x_c, c, eps):
    return flowmap.jump(inner_map(x_c, c), eps, 1.0, 0.0)


def rows(count=50, key=0):
    return jax.random.normal(jax.random.key(key), (count, 1))


@pytest.mark.usefixtures("x64")
def test_the_teacher_is_the_velocity_of_the_posterior():
    x, x_c = rows(), rows(key=1)
    for s, c in ((0.3, 0.6), (1.0, 0.6), (0.7, 1.0), (1.0, 1.0), (0.05, 0.9)):
        np.testing.assert_allclose(
            posterior.glass(flow().v, x, s, x_c, c), inner_map(x_c, c)(x, s, s), rtol=1e-12, atol=1e-12, err_msg=f"{s}, {c}"
        )
    np.testing.assert_allclose(posterior.glass(flow().v, x, 0.4, x_c, 1.0), flow().v(x, 0.4), rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_the_teacher_on_a_mixture():
    weights, means, deviations = np.array([0.3, 0.7]), np.array([-1.5, 1.0]), np.array([0.6, 0.5])
    mixture, x, x_c, s, c = exact.mixture(weights, means, deviations), rows(), rows(key=1), 0.7, 0.5
    precision = (1 / deviations**2 + ((1 - s) / s) ** 2 + ((1 - c) / c) ** 2)[None]
    seen = (means / deviations**2)[None] + (1 - s) / s**2 * x + (1 - c) / c**2 * x_c
    log_share = (np.log(weights) - np.log(deviations) - means**2 / deviations**2 / 2)[None] - 0.5 * np.log(precision)
    share = jax.nn.softmax(log_share + 0.5 * seen**2 / precision, axis=-1)
    mean = jnp.sum(share * seen / precision, axis=-1, keepdims=True)
    np.testing.assert_allclose(posterior.glass(mixture.v, x, s, x_c, c), (x - mean) / s, rtol=1e-12, atol=1e-12)


MIXTURE = np.array([0.3, 0.7]), np.array([-1.5, 1.0]), np.array([0.6, 0.5])  # weights, means, deviations


def posterior_of_mixture(x_c, c):
    """Weights, means and deviations of p(x0 | x_c), a mixture, for data of MIXTURE; x_c a number or [B, 1]."""
    weights, means, deviations = MIXTURE
    spread = np.sqrt(((1 - c) * deviations) ** 2 + c**2)
    log_weights = np.log(weights) - np.log(spread) - (x_c - (1 - c) * means) ** 2 / (2 * spread**2)
    share = np.exp(log_weights - log_weights.max(axis=-1, keepdims=True))
    precision = 1 / deviations**2 + ((1 - c) / c) ** 2
    centres = (means / deviations**2 + (1 - c) / c**2 * x_c) / precision
    return share / share.sum(axis=-1, keepdims=True), centres, precision**-0.5


def moments(weights, means, deviations):
    """Mean and deviation of a mixture."""
    mean = weights @ means
    return mean, np.sqrt(weights @ (deviations**2 + means**2) - mean**2)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_every_rule_and_the_draws_on_the_posterior_of_a_mixture():
    """Two modes both before and after the observation: x_c is one number, so that the exact stochastic map is one flow."""
    x_c, c, s, t = -0.1, 0.55, jnp.full((50, 1), 0.9), jnp.full((50, 1), 0.2)
    known_now, ordinary = posterior_of_mixture(x_c, c), exact.mixture(*MIXTURE)
    assert 0.2 < known_now[0][0] < 0.8
    V = exact.mixture(*known_now).V
    teacher = lambda x, t: posterior.glass(ordinary.v, x, t, jnp.full_like(x, x_c), c)

    @jax.jit
    def all_of(x):
        found = {name: (rule(V, x, s, t), 0.0) for name, rule in residuals.RULES.items()}
        found["lmd"] = losses.lagrangian_distillation(V, teacher, x, s, t)
        found["meanflow"] = losses.meanflow(V, x, s, t, teacher(x, s))
        found["emd"] = losses.eulerian_distillation(V, x, s, t, teacher(x, s))
        return found

    for name, (found, expected) in all_of(rows()).items():
        np.testing.assert_allclose(found, expected, atol=1e-9, err_msg=name)
    ends = flowmap.jump(V, rows(4000), 1.0, 0.0)
    mean, deviation = moments(*known_now)
    np.testing.assert_allclose([ends.mean(), ends.std()], [mean, deviation], atol=4 * deviation / 4000**0.5)


def test_a_chain_leaves_a_mixture_as_it_is():
    """With draws of its components, which need no map: the chain alone is judged, from two modes to one law and on to the data."""
    c, count = 0.6, 20_000

    def draw(x_c, c, eps):
        weights, centres, spread = posterior_of_mixture(np.asarray(x_c), c)
        rng = np.random.default_rng(int(1e6 * c) + len(drawn))
        drawn.append(c)
        number = (rng.random(len(x_c)) < weights[:, 1]).astype(int)
        return centres[np.arange(len(x_c)), number][:, None] + spread[number][:, None] * eps

    drawn, rng = [], np.random.default_rng(0)
    number = (rng.random(count) < MIXTURE[0][1]).astype(int)
    x0 = (MIXTURE[1][number] + MIXTURE[2][number] * rng.standard_normal(count))[:, None]
    x, move = posterior.observed(jnp.asarray(x0, jnp.float32), c, jax.random.key(1)), posterior.renoised(draw)
    start, levels = x, [c, c, c, 0.3, 0.0]
    for round, (level, following) in enumerate(zip(levels, levels[1:])):
        x = move(x, level, following, jax.random.key(round))
        shares = [float((x < (1 - following) * low).mean()) for low in (-1.0, 0.0, 1.0)]
        data_shares = [float((posterior.observed(jnp.asarray(x0), following, jax.random.key(9)) < (1 - following) * low).mean())
                       for low in (-1.0, 0.0, 1.0)]  # fmt: skip
        np.testing.assert_allclose(shares, data_shares, atol=0.015, err_msg=f"to {following}")
    assert abs(float(np.corrcoef(x[:, 0], start[:, 0])[0, 1])) < 0.5


@pytest.mark.usefixtures("x64")
def test_every_rule_has_no_residual_on_the_exact_stochastic_map():
    x, x_c = rows(), rows(key=1)
    V, s, t = inner_map(x_c, C), jnp.full((50, 1), 0.9), jnp.full((50, 1), 0.2)
    for name, rule in residuals.RULES.items():
        np.testing.assert_allclose(rule(V, x, s, t), 0.0, atol=1e-12, err_msg=name)
    teacher = lambda x, t: posterior.glass(flow().v, x, t, x_c, C)
    pairs = {
        "lmd": losses.lagrangian_distillation(V, teacher, x, s, t),
        "meanflow": losses.meanflow(V, x, s, t, teacher(x, s)),
        "emd": losses.eulerian_distillation(V, x, s, t, teacher(x, s)),
    }
    for name, pair in pairs.items():
        np.testing.assert_allclose(pair.prediction, pair.target, atol=1e-12, err_msg=name)


def test_draws_have_the_mean_and_deviation_of_the_posterior():
    x_c = jnp.full((40_000, 1), 0.8)
    ends = draw(x_c, C, rows(40_000))
    mean, deviation = known(0.8, C)
    np.testing.assert_allclose([ends.mean(), ends.std()], [mean, deviation], atol=0.02)


def test_a_chain_leaves_the_marginal_as_it_is():
    x0 = MEAN + DEVIATION * rows(40_000)
    x = posterior.observed(x0, C, jax.random.key(1))
    same = posterior.chain(draw, x, jnp.full(6, C), jax.random.key(2))
    np.testing.assert_allclose([same.mean(), same.std()], [x.mean(), x.std()], atol=0.03)
    assert abs(np.corrcoef(same[:, 0], x[:, 0])[0, 1]) < 0.7  # it moved
    data = posterior.chain(draw, x, jnp.array([C, 0.3, 0.0]), jax.random.key(3))
    np.testing.assert_allclose([data.mean(), data.std()], [MEAN, DEVIATION], atol=0.03)


@pytest.mark.slow
def test_values_and_tilted_velocities():
    slope, count = 0.4, 4000
    reward = lambda x0: slope * x0[:, 0]
    x, eps = rows(6), jax.random.normal(jax.random.key(5), (count, 6, 1))
    mean, deviation = known(x, C)
    expected = slope * mean[:, 0] + (slope * deviation) ** 2 / 2
    np.testing.assert_allclose(posterior.value(draw, reward, x, C, eps), expected, atol=0.03)
    # p(x0) e^r(x0) is N(mean + slope deviation^2, deviation^2).
    tilted = exact.gaussian(MEAN + slope * DEVIATION**2, DEVIATION**2).v(x, C)
    by_gradient = posterior.tilted_velocity(flow().v, draw, reward, x, C, eps)
    without = posterior.tilted_velocity_without_gradient(flow().v, draw, reward, x, C, eps)
    np.testing.assert_allclose(by_gradient, tilted, atol=1e-4)
    np.testing.assert_allclose(without, tilted, atol=0.06)
    assert np.abs(tilted - flow().v(x, C)).min() > 0.2


def test_an_observation_of_another_shape_is_refused():
    with pytest.raises(typing.InputError, match="x_c has shape"):
        posterior.glass(flow().v, rows(), 0.5, rows(3), 0.5)


# The recipe


@pytest.mark.slow
def test_the_recipe_draws_observations_of_its_own_data():
    method = methods.make("meta_flow_map", ordinary=0.25)
    x0 = 3.0 + 0.1 * jax.random.normal(jax.random.key(0), (4096, 1))
    drawn = method.draw(jax.random.key(1), {"x": x0}, 0)
    assert {"anchor", "eulerian"} == set(drawn)
    for point in drawn.values():
        c, x_c = np.asarray(point.cond["c"]), np.asarray(point.cond["x_c"])[:, 0]
        assert abs((c == 1).mean() - 0.25) < 0.05 and (x_c[c == 1] == 0).all()
        seen = c < 1
        assert abs((1 - c[seen]).mean() - 1 / 3) < 0.03  # of U^2
        np.testing.assert_allclose(x_c[seen].mean(), 3 * (1 - c[seen]).mean(), atol=0.06)
        noise = (x_c - (1 - c) * np.asarray(point.x0)[:, 0])[seen] / c[seen]
        np.testing.assert_allclose([noise.mean(), noise.std()], [0, 1], atol=0.06)
        assert abs(np.corrcoef(noise, np.asarray(point.eps)[seen, 0])[0, 1]) < 0.1


@pytest.mark.parametrize(
    "rule", [r if r in ("imf", "psd") else pytest.param(r, marks=pytest.mark.slow) for r in posterior_recipes.RULES]
)
def test_rules_with_a_teacher_vanish_on_the_exact_stochastic_map(rule):
    """Its values under each rule: a teacher's velocity is that of the posterior, and no term is left over."""
    method = methods.make("meta_flow_map", rule=rule, total_steps=100)
    data = MEAN + DEVIATION * rows(64)

    def V(x, s, t, cond):
        x_c, c = cond["x_c"], cond["c"].reshape(-1, 1)
        return inner_map(jnp.where(c < 1, x_c, 0.0), c)(x, s, t)

    nets = typing.Nets(
        V=V, ema=V, frozen=V, teacher=lambda x, t, cond: flow().v(x, t), log_variance=lambda s, t: jnp.zeros(len(s))
    )
    drawn = method.draw(jax.random.key(0), {"x": data}, 10**6)  # after every warm-up
    raw = methods.raw_errors(method, nets, drawn)
    from_data = "teacher" not in method.needs
    for name, errors in raw.items():
        if name == "anchor" and from_data:
            continue  # its target is the velocity of one row, not their mean
        if from_data and rule in ("meanflow", "imf", "alphaflow", "soflow", "fmm"):
            assert jnp.isfinite(errors).all()
            continue  # likewise
        assert float(jnp.abs(errors).max()) < 1e-3, name


def test_a_rule_has_its_constants_behind_its_name():
    for rule, p in (("meanflow", 1.0), ("meanflow:p=0", 0.0), ("imf:heads=1,p=0.5", 0.5)):
        assert [term.distance.keywords["p"] for term in methods.make("meta_flow_map", rule=rule).terms] == [p, p]
    assert not methods.make("diamond_map", rule="lsd:learned_weight=0").needs
    with pytest.raises(typing.InputError, match="'imf:heads=1.5': heads is 1.5; expected a whole number"):
        methods.make("meta_flow_map", rule="imf:heads=1.5")
    with pytest.raises(typing.InputError, match="meanflow has no option 'q'"):
        methods.make("transition_matching", rule="meanflow:q=1")


def test_an_unknown_rule_is_refused_by_name():
    with pytest.raises(typing.InputError, match="did you mean meanflow"):
        methods.make("meta_flow_map", rule="meanflows")
    with pytest.raises(typing.InputError, match="a share and a number"):
        methods.make("meta_flow_map", power=0.0)


def test_a_run_without_observations_has_no_stochastic_map(flow_run):
    with pytest.raises(typing.InputError, match="expected a run of meta_flow_map"):
        training.load(flow_run).draw()


@pytest.mark.slow
def test_a_stochastic_map_trains_draws_and_is_the_ordinary_map_at_level_one(tmp_path):
    config = support.small("meta_flow_map")
    training.train(config, tmp_path / "run")
    run = training.load(tmp_path / "run")
    draw, eps = run.draw(), jax.random.normal(jax.random.key(0), (5, 2))
    ordinary = flowmap.jump(run.V(), eps, 1.0, 0.0)
    np.testing.assert_array_equal(draw(jnp.zeros((5, 2)), 1.0, eps), ordinary)
    np.testing.assert_array_equal(draw(jnp.ones((5, 2)), 1.0, eps), ordinary)  # there an observation says nothing
    assert np.abs(draw(jnp.ones((5, 2)), 0.3, eps) - ordinary).max() > 1e-5
    config.model.inputs = ("c",)
    with pytest.raises(typing.InputError, match="expected --config.model.inputs=c,x_c"):
        training.train(config, tmp_path / "other")


@pytest.mark.slow
def test_a_trained_map_draws_the_posteriors_of_two_modes(tmp_path, monkeypatch, optimised):
    """In one call at every level, within 0.11 when this was written. By meanflow with p = 1 the mean at level 0.9 is off by 0.3."""
    config = support.small("meta_flow_map", steps=3000, batch_size=256, save_every=3000, log_every=1000)
    assert config.method.rule == "lsd:learned_weight=0"
    config.data.name, config.eval_samples = support.two_modes(monkeypatch, *MIXTURE), 64
    config.model.update({"width": 64, "depth": 3})
    config.optim.update({"learning_rate": 3e-3, "schedule": "cosine", "warmup_steps": 100})
    training.train(config, tmp_path / "run")
    draw, eps = jax.jit(training.load(tmp_path / "run").draw()), jax.random.normal(jax.random.key(0), (4000, 1))
    for c in (1.0, 0.9, 0.75, 0.5, 0.3):
        for x0, n in ((-1.5, 0.3), (-0.3, 0.0), (1.0, -0.3)):
            x_c = (1 - c) * x0 + c * n if c < 1 else 0.0
            x, known_now = draw(jnp.full_like(eps, x_c), c, eps), moments(*posterior_of_mixture(x_c, c))
            np.testing.assert_allclose([x.mean(), x.std()], known_now, atol=0.16, err_msg=f"{c}, {x_c}")
