"""Fine-tuning by a reward: the optimum of a linear one, where gradients are, and a run that is tuned from the command line's config."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import small

from flowjax import exact, methods, steering, training, typing
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
