"""Fine-tuning by a reward: what the squared distance is a KL divergence of, the optimum of both holds, and runs that are tuned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import small, two_modes

from flowjax import density, exact, methods, samplers, steering, training, typing
from flowjax.losses import rewards

SLOPE, TEMPERATURE = np.array([0.5, -0.3]), 0.8


@pytest.mark.usefixtures("x64")
def test_the_optimum_of_a_linear_reward_is_the_tilted_density():
    """A shift of temperature times the slope; for data of covariance temperature I that is what e^r does to a normal."""
    flow = exact.gaussian(np.zeros(2), TEMPERATURE * np.eye(2))
    x = jax.random.normal(jax.random.key(0), (64, 2))
    reward = lambda x0: x0 @ jnp.asarray(SLOPE)

    def loss(shift):
        V = lambda x, s, t: flow.V(x, s, t) - shift[None]  # F(x, 1, 0) moves by the shift
        errors, held = rewards.reward_tuning(V, flow.V, reward, x, temperature=TEMPERATURE)
        return jnp.mean(errors + jnp.sum((held.prediction - held.target) ** 2, axis=1))

    np.testing.assert_allclose(jax.grad(loss)(jnp.asarray(TEMPERATURE * SLOPE)), 0.0, atol=1e-12)
    assert np.abs(jax.grad(loss)(jnp.zeros(2))).min() > 0.2


def affine(mean, factor):
    """V of the map F(x, 1, 0) = mean + factor x."""
    return lambda x, s, t: x - jnp.asarray(mean)[None] - x @ jnp.asarray(factor).T


def divergence(mean, covariance, other_mean, other_covariance):
    """KL(N(mean, covariance) | N(other_mean, other_covariance))."""
    inverse, off = np.linalg.inv(other_covariance), other_mean - mean
    volume = np.linalg.slogdet(other_covariance)[1] - np.linalg.slogdet(covariance)[1]
    return (np.trace(inverse @ covariance) + off @ inverse @ off - len(mean) + volume) / 2


@pytest.mark.usefixtures("x64")
def test_the_squared_distance_is_a_divergence_of_gaussians_and_bounds_that_of_blurred_samples():
    """Affine maps of normal data to others: the divergence of their samples with noise of variance `temperature` is known."""
    covariance, eye = np.array([[1.0, 0.6], [0.6, 0.5]]), TEMPERATURE * np.eye(2)
    factor, x = np.linalg.cholesky(covariance), jax.random.normal(jax.random.key(0), (50_000, 2))
    ratios = []
    for mean, scale in ((SLOPE, 1.0), (0 * SLOPE, 1.4), (SLOPE, 0.5)):
        _, held = rewards.reward_tuning(
            affine(mean, scale * factor), affine(0 * SLOPE, factor), lambda x0: x0[:, 0], x, temperature=TEMPERATURE
        )
        squared = np.asarray(jnp.sum((held.prediction - held.target) ** 2, axis=1))
        ends = mean + scale * factor @ np.asarray(x[0]), factor @ np.asarray(x[0])
        np.testing.assert_allclose(squared[0], divergence(ends[0], eye, ends[1], eye), rtol=1e-9)  # row by row it is one
        blurred = divergence(mean, scale**2 * covariance + eye, np.zeros(2), covariance + eye)
        ratios.append(blurred / squared.mean())
    assert max(ratios) < 1 and min(ratios) > 0.1, ratios
    # Without the noise it is that of the samples, where normal data of covariance `temperature` are shifted.
    np.testing.assert_allclose(divergence(SLOPE, eye, 0 * SLOPE, eye), SLOPE @ SLOPE / (2 * TEMPERATURE), rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_held_by_the_density_the_optimum_is_the_tilted_density():
    """A reward that is not linear: a normal of another covariance. Every row has the error -log Z there, and the gradient is nothing."""
    covariance, bend = np.array([[1.0, 0.6], [0.6, 0.5]]), np.diag([0.5, 0.0])
    before = exact.gaussian(np.zeros(2), covariance)
    reward = lambda x0: x0 @ jnp.asarray(SLOPE) - jnp.einsum("bi,ij,bj->b", x0, jnp.asarray(bend), x0) / 2
    tilted_covariance = np.linalg.inv(np.linalg.inv(covariance) + bend)
    tilted_mean = tilted_covariance @ SLOPE
    log_z = SLOPE @ tilted_mean / 2 + (np.linalg.slogdet(tilted_covariance)[1] - np.linalg.slogdet(covariance)[1]) / 2
    precision, volume = jnp.asarray(np.linalg.inv(covariance)), np.linalg.slogdet(2 * np.pi * covariance)[1]
    log_p = lambda x0: -jnp.einsum("bi,ij,bj->b", x0, precision, x0) / 2 - volume / 2
    x = np.random.default_rng(0).standard_normal((500, 2))
    x = (x - x.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T, bias=True))).T  # with the moments of N(0, I) themselves
    x = jnp.asarray(x)

    @jax.jit
    def errors(mean, factor):
        draw = lambda x: density.sample_with_density(affine(mean, factor), x, samplers.grid(1))
        return rewards.reward_tuning_by_density(draw, log_p, reward, x)

    here = jnp.asarray(tilted_mean), jnp.asarray(np.linalg.cholesky(tilted_covariance))
    np.testing.assert_allclose(errors(*here), -log_z, atol=1e-10)
    for gradient in jax.grad(lambda *to: jnp.mean(errors(*to)), argnums=(0, 1))(*here):
        np.testing.assert_allclose(gradient, 0.0, atol=1e-10)
    start = jnp.zeros(2), jnp.asarray(np.linalg.cholesky(covariance))
    expected = divergence(np.zeros(2), covariance, tilted_mean, tilted_covariance)
    np.testing.assert_allclose(jnp.mean(errors(*start)) + log_z, expected, atol=1e-10)  # a polynomial of degree two
    # And the recipe has the same errors, with the flow of the velocity before as its density.
    method = methods.make("reward_tuning", reward=reward, held_by="density", steps=128)
    nets = typing.Nets(V=affine(*here), teacher=lambda x, t: before.v(x, t))
    assert list(method.needs) == ["teacher"]
    of_recipe = method.loss(nets, {"reward": typing.Point(x=x)})[0]
    np.testing.assert_allclose(of_recipe, -log_z, atol=5e-3)
    with pytest.raises(typing.InputError, match="rows have 300 numbers"):
        method.loss(nets, {"reward": typing.Point(x=jnp.zeros((2, 300)))})


def test_the_recipe_holds_and_pays():
    method = methods.make("reward_tuning", reward="axis:number=1,scale=2", temperature=0.5)
    flow = exact.gaussian(np.zeros(2), np.eye(2))
    moved = lambda x, s, t: flow.V(x, s, t) - 0.3
    nets = typing.Nets(V=moved, teacher_map=lambda x, s, t: flow.V(x, s, t))
    drawn = method.draw(jax.random.key(0), {"x": jnp.zeros((8, 2))}, 0)
    errors, _ = method.loss(nets, drawn)
    noise = drawn["reward"].x
    np.testing.assert_allclose(errors, -2 * (noise[:, 1] + 0.3) + 2 * 0.3**2 / (2 * 0.5), rtol=1e-5)


@pytest.mark.slow
def test_a_run_is_tuned(saved_run, tmp_path):
    start = saved_run(small("meanflow"), tmp_path / "start")
    config = small("reward_tuning", steps=40, save_every=40)
    config.teacher, config.start, config.method.reward = str(start), "teacher", "axis:number=0,scale=4"
    training.train(config, tmp_path / "run")
    before, after = training.load(start, average="none"), training.load(tmp_path / "run", average="none")
    assert after.sample(256, 1)[:, 0].mean() > before.sample(256, 1)[:, 0].mean() + 0.05


@pytest.mark.slow
def test_a_run_that_is_held_by_the_density_samples_the_tilted_one(saved_run, tmp_path, monkeypatch):
    """Two modes of unequal weights, tilted towards the smaller one: tuning moves the share that the reward asks for."""
    weights, means, deviations, slope = np.array([0.7, 0.3]), np.array([-0.6, 0.8]), np.array([0.5, 0.5]), 1.0
    config = small("reward_tuning", steps=500, batch_size=256, save_every=500, log_every=250)
    config.data.name, config.eval_samples, config.teacher = two_modes(monkeypatch, weights, means, deviations), 64, "exact"
    config.method.update({"held_by": "density", "reward": f"axis:number=0,scale={slope}"})
    config.model.update({"width": 64, "depth": 3})
    config.optim.learning_rate = 3e-3
    training.train(config, tmp_path / "run")
    x = training.load(tmp_path / "run").sample(8_000, 1)[:, 0]
    tilted = weights * np.exp(slope * means + slope**2 * deviations**2 / 2)
    mean = tilted @ (means + slope * deviations**2) / tilted.sum()
    second = tilted @ ((means + slope * deviations**2) ** 2 + deviations**2) / tilted.sum()
    np.testing.assert_allclose([x.mean(), x.std()], [mean, (second - mean**2) ** 0.5], atol=0.06)


def test_rewards_by_name():
    x0 = jnp.arange(6.0).reshape(3, 2)
    np.testing.assert_allclose(steering.reward_from_name("brightness:scale=2")(x0), [1.0, 5.0, 9.0])
    np.testing.assert_allclose(steering.reward_from_name("jax.numpy.sum")(x0), 15.0)
    for spec, said in (("axes", "did you mean axis"), ("axis:scale=x", "scale"), ("no.module", "MODULE.FUNCTION")):
        with pytest.raises(typing.InputError, match=said):
            steering.reward_from_name(spec)
    with pytest.raises(typing.InputError, match="no coordinate 5"):
        steering.reward_from_name("axis:number=5")(x0)
    with pytest.raises(typing.InputError, match="above 0"):
        methods.make("reward_tuning", temperature=0.0)
    with pytest.raises(typing.InputError, match="did you mean density"):
        methods.make("reward_tuning", held_by="densities")
