"""Steering: tilted Gaussians in closed form, weights that stay exact, search, inverse problems with known posteriors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import exact, inverse, posterior, samplers, steering, typing

SLOPE = np.array([0.6, -0.4])
MEAN, COVARIANCE = np.array([0.5, -1.0]), np.array([[1.0, 0.6], [0.6, 0.5]])


@functools.cache
def flow():
    return exact.gaussian(MEAN, COVARIANCE)


def reward(x0):
    return x0 @ jnp.asarray(SLOPE, x0.dtype)


def noise(count=20_000, key=0):
    return jax.random.normal(jax.random.key(key), (count, 2))


def test_the_score_is_that_of_the_marginal():
    x, t = noise(5), 0.6
    variance = (1 - t) ** 2 * COVARIANCE + t**2 * np.eye(2)
    expected = -(np.asarray(x) - (1 - t) * MEAN) @ np.linalg.inv(variance)
    np.testing.assert_allclose(steering.score(flow().v, x, t), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("strength", "threshold", "intervals"),
    [
        (0.0, 0.0, 4),
        (2.0, 0.0, 48),
        pytest.param(0.5, 0.9, 24, marks=pytest.mark.slow),
        pytest.param(0.5, 0.0, 24, marks=pytest.mark.slow),
        pytest.param(2.0, 0.5, 96, marks=pytest.mark.slow),
        pytest.param(4.0, 0.5, 192, marks=pytest.mark.slow),
    ],
)
def test_tilted_particles_have_the_tilted_mean_and_covariance(strength, threshold, intervals):
    run = jax.jit(
        lambda x, key: steering.tilted(flow().V, x, samplers.grid(intervals), key, reward, noise=strength, threshold=threshold)
    )
    x, log_w = run(noise(), jax.random.key(1))
    weights = jax.nn.softmax(log_w)
    mean = weights @ x
    np.testing.assert_allclose(mean, MEAN + COVARIANCE @ SLOPE, atol=0.04)
    np.testing.assert_allclose(np.cov(x.T, aweights=weights), COVARIANCE, atol=0.06)
    if not strength:  # F does not change along the flow, so the weight is the reward of the one end
        np.testing.assert_allclose(log_w, reward(flow().F(noise(), 1.0, 0.0)), atol=1e-4)
        assert np.abs(np.asarray(x).mean(0) - MEAN).max() < 0.03  # without weights they are the data


def gaussian_draw(x_c, c, eps):
    """Samples of p(x0 | x_c): normal, of precision COVARIANCE^-1 + ((1 - c) / c)^2."""
    precision = jnp.asarray(np.linalg.inv(COVARIANCE)) + ((1 - c) / c) ** 2 * jnp.eye(2)
    covariance = jnp.linalg.inv(precision)
    natural = jnp.asarray(np.linalg.solve(COVARIANCE, MEAN))[None] + (1 - c) / c**2 * x_c
    return natural @ covariance + eps @ jnp.linalg.cholesky(covariance).T


def test_transitions_that_the_value_weighs_are_tilted_whatever_the_value():
    """By draws, and by a value that is wrong; without resampling the weights are the reward of the end."""
    move, levels = posterior.renoised(gaussian_draw), samplers.grid(4)
    drawn = posterior.value_by_draws(gaussian_draw, reward, 8)
    wrong = lambda x, t, key: 0.3 * jnp.sin(3 * x[:, 0])

    @functools.partial(jax.jit, static_argnames=("value", "threshold"))
    def run(value, threshold):
        return steering.tilted_transitions(move, value, noise(), levels, jax.random.key(1), reward, threshold=threshold)

    for value, threshold in ((drawn, 0.95), (wrong, 0.95), (wrong, 0.0)):
        x, log_w = run(value, threshold)
        mean = jax.nn.softmax(log_w) @ x
        np.testing.assert_allclose(mean, MEAN + COVARIANCE @ SLOPE, atol=0.05)
        np.testing.assert_allclose(np.cov(x.T, aweights=jax.nn.softmax(log_w)), COVARIANCE, atol=0.06)
    np.testing.assert_allclose(log_w, reward(x), atol=1e-4)
    # The value of draws sees the reward ahead: resampled on the way, all particles count in the end.
    assert steering.effective_share(run(drawn, 0.95)[1]) > 0.95 > steering.effective_share(log_w)


def test_langevin_steps_keep_the_tilted_density_that_jumps_do_not_move():
    """Strong noise moves particles to where the reward is high, so that weights are even: the share grows."""
    share = lambda strength: float(
        steering.effective_share(
            steering.tilted(
                flow().V, noise(2000), samplers.grid(24), jax.random.key(1), lambda x0: 2 * reward(x0),
                noise=strength, threshold=0.0,
            )[1]
        )
    )  # fmt: skip
    assert share(2.0) > 1.3 * share(0.0)


def test_a_steep_reward_throws_no_row_away():
    """Rows near 0, where the reward jumps, have gradients of a thousand; the data have a deviation of 1."""
    steep = lambda x0: 2 * jnp.tanh(1000 * x0[:, 0])
    x = steering.tilted(flow().V, noise(4000), samplers.grid(3), jax.random.key(1), steep, noise=0.3)[0]
    assert jnp.abs(x).max() < 9


def test_systematic_resampling_copies_in_proportion():
    log_w = jax.random.normal(jax.random.key(0), (500,)) + 5
    counts = np.bincount(steering.resampled(log_w, jax.random.key(1)), minlength=500)
    expected = 500 * np.asarray(jax.nn.softmax(log_w))
    assert counts.sum() == 500 and np.abs(counts - expected).max() < 1.01  # each is rounded up or down
    even = steering.effective_share(jnp.log(jnp.array([0.1, 0.2, 0.3, 0.4])) + 5)
    np.testing.assert_allclose(even, 1 / (4 * 0.3), rtol=1e-5)


def test_best_of_and_search_raise_the_reward():
    eps = noise(4000)
    plain = reward(samplers.flow_map(flow().V, eps, samplers.grid(2))).mean()
    best = reward(steering.best_of(samplers.flow_map(flow().V, eps, samplers.grid(2)), reward, 4)).mean()
    run = functools.partial(steering.search, flow().V, eps, samplers.grid(4), jax.random.key(2), reward)
    found = run(count=4)
    assert plain + 0.3 < best < reward(found).mean()
    # One candidate is no search, and spread 0 tries copies.
    for still in (run(count=1), run(count=3, spread=0.0)):
        np.testing.assert_allclose(still, samplers.flow_map(flow().V, eps, samplers.grid(4)), atol=1e-5)
    # For an exact map no row ends worse than it began.
    assert (np.asarray(reward(found)) >= np.asarray(reward(flow().F(eps, 1.0, 0.0))) - 1e-4).all()


def test_candidates_of_the_search_have_the_marginal_of_their_time():
    """With a reward that does not choose, the ends are the data."""
    chance = lambda x0: jnp.sin(1e4 * x0[:, 0])
    ends = steering.search(flow().V, noise(), samplers.grid(3), jax.random.key(2), chance, count=3)
    np.testing.assert_allclose(np.mean(ends, axis=0), MEAN, atol=0.03)
    np.testing.assert_allclose(np.cov(ends.T), COVARIANCE, atol=0.05)


def test_plain_guidance_moves_the_mean_the_right_way():
    ends = steering.guided(flow().V, noise(4000), samplers.grid(32), reward)
    plain = samplers.flow_map(flow().V, noise(4000), samplers.grid(32))
    moved = np.asarray(ends - plain).mean(0)
    assert moved @ SLOPE > 0.5 * SLOPE @ COVARIANCE @ SLOPE
    np.testing.assert_allclose(steering.guided(flow().V, noise(4), samplers.grid(3), reward, scale=0.0),
                               samplers.flow_map(flow().V, noise(4), samplers.grid(3)), atol=1e-6)  # fmt: skip


def test_a_linear_inverse_problem_has_its_posterior():
    directions, sigma = np.array([[1.0, 0.5]]), 0.4
    A = inverse.projected(jnp.asarray(directions))
    y = jnp.asarray([[1.2]])
    gain = COVARIANCE @ directions.T / (directions @ COVARIANCE @ directions.T + sigma**2)
    mean = MEAN + gain[:, 0] * (1.2 - directions[0] @ MEAN)
    covariance = COVARIANCE - gain @ directions @ COVARIANCE
    likelihood = inverse.log_likelihood(A, y, sigma)
    x, log_w = steering.tilted(
        flow().V, noise(40_000), samplers.grid(16), jax.random.key(1), likelihood, noise=0.3, threshold=0.5
    )
    weights = jax.nn.softmax(log_w)
    np.testing.assert_allclose(weights @ x, mean, atol=0.04)
    np.testing.assert_allclose(np.cov(x.T, aweights=weights), covariance, atol=0.05)


def test_measurements():
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    known = jnp.zeros((8, 8, 1)).at[:4].set(1)
    assert float(jnp.abs(inverse.mask(known)(images)[:, 4:]).max()) == 0
    np.testing.assert_allclose(inverse.downsampled(4)(images)[1, 0, 1, 0], images[1, :4, 4:, 0].mean(), rtol=1e-5)
    blurred = inverse.blurred(1.0)
    np.testing.assert_allclose(blurred(jnp.ones((1, 9, 9, 2)))[0, 4, 4], 1.0, rtol=1e-6)
    spot = blurred(jnp.zeros((1, 9, 9, 1)).at[0, 4, 4].set(1.0))[0, ..., 0]
    np.testing.assert_allclose(spot[4, 5] / spot[4, 4], np.exp(-0.5), rtol=1e-5)
    np.testing.assert_allclose(spot, spot.T, rtol=1e-6)


def test_editing_keeps_what_is_known():
    known, y = jnp.array([1, 0]), jnp.array([[0.3, 0.0]])
    ends = inverse.edited(flow().V, noise(500), samplers.grid(4), jax.random.key(1), lambda x0: jnp.where(known, y, x0))
    np.testing.assert_allclose(ends[:, 0], 0.3, rtol=1e-6)
    assert np.std(ends[:, 1]) > 0.1


def test_inpainting_by_draws_keeps_the_posterior():
    """The first coordinate is seen with noise; the draws are those of the exact posterior of a noisy state."""
    sigma, y = 0.5, 1.2

    lowest = sigma / (1 + sigma)
    levels = np.concatenate([np.linspace(1.0, lowest, 5), np.full(25, lowest)])
    seen = jnp.tile(jnp.array([[y, 7.0]]), (20_000, 1))  # of what is hidden nothing is read
    x = inverse.inpainted(gaussian_draw, seen, jnp.array([1, 0]), sigma, levels, jax.random.key(0))
    gain = COVARIANCE[:, 0] / (COVARIANCE[0, 0] + sigma**2)
    np.testing.assert_allclose(x.mean(axis=0), MEAN + gain * (y - MEAN[0]), atol=0.02)
    np.testing.assert_allclose(np.cov(x.T), COVARIANCE - np.outer(gain, COVARIANCE[0]), atol=0.02)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: steering.tilted_transitions(
                None, None, noise(4), samplers.grid(2), jax.random.key(0), reward, threshold=2.0
            ),
            "a share from 0 to 1",
        ),
        (lambda: inverse.inpainted(None, jnp.zeros((1, 2)), jnp.ones(2), 0.0, jnp.ones(1), jax.random.key(0)), "above 0"),
        (lambda: steering.tilted(flow().V, noise(4), samplers.grid(2), jax.random.key(0), reward, noise=-1.0), "-1.0"),
        (lambda: steering.best_of(noise(5), reward, 2), "5 rows"),
        (lambda: steering.search(flow().V, noise(4), samplers.grid(2), jax.random.key(0), reward, spread=2.0), "2.0"),
        (lambda: inverse.downsampled(3)(jnp.zeros((1, 8, 8, 1))), "8 x 8"),
        (lambda: inverse.log_likelihood(lambda x0: x0, jnp.zeros((1, 3)), 1.0)(jnp.zeros((4, 2))), "expected the same"),
        (lambda: inverse.log_likelihood(lambda x0: x0, jnp.zeros((1, 2)), 0.0), "above 0"),
    ],
)
def test_bad_input_is_refused(call, said):
    with pytest.raises(typing.InputError, match=said):
        call()
