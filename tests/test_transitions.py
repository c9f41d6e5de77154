"""Random transitions: general ones of Diamond Maps and velocities of transition matching, in closed form, by recipes, and by DMD2."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import support

from flowjax import exact, flowmap, methods, models, posterior, samplers, training, typing
from flowjax.profiling import flops

MEAN, DEVIATION = 0.5, 1.5  # of the data, one number a row


@functools.cache
def flow():
    return exact.gaussian(MEAN, DEVIATION**2)


def rows(count=50, key=0):
    return jax.random.normal(jax.random.key(key), (count, 1))


def law(path, x_c, c):
    """(mean(s), deviation(s)) of z_s given x_c, of a path of flowjax.posterior.Inner."""
    precision = 1 / DEVIATION**2 + ((1 - c) / c) ** 2
    mean, variance = (MEAN / DEVIATION**2 + (1 - c) / c**2 * x_c) / precision, 1 / precision
    end = path.kept * x_c + path.share * mean
    noise = lambda s: s + (1 - s) * path.spread
    return lambda s: (1 - s) * end, lambda s: jnp.sqrt(((1 - s) * path.share) ** 2 * variance + noise(s) ** 2)


def inner_map(path, x_c, c):
    """V(z, s, t | x_c, c), exact: all that moves with deviations keeps its place among them."""
    mean, deviation = law(path, x_c, c)

    def V(z, s, t):
        near = jnp.abs(t - s) < 1e-6
        after = jnp.where(near, s - 1e-3, t)
        F = mean(after) + deviation(after) / deviation(s) * (z - mean(s))
        slope = jax.jvp(deviation, (s * jnp.ones_like(z),), (jnp.ones_like(z),))[1] / deviation(s)
        diagonal = jax.jvp(mean, (s * jnp.ones_like(z),), (jnp.ones_like(z),))[1] + slope * (z - mean(s))
        return jnp.where(near, diagonal, (F - z) / (after - s))

    return V


PATHS = {
    "data": lambda c: posterior.to_data(),
    "velocity": posterior.to_velocity,
    "level": lambda c: posterior.to_level(c, 0.4 * c),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", PATHS)
def test_the_velocity_of_an_inner_path_is_its_conditional_mean(name):
    z, x_c = rows(), rows(key=1)
    for s, c in ((0.3, 0.6), (1.0, 0.6), (0.7, 1.0), (0.05, 0.9)):
        path = PATHS[name](jnp.float64(c))
        mean, deviation = law(path, x_c, c)
        # dz/ds = e - end, jointly normal with z.
        spread = s + (1 - s) * path.spread
        slope = ((1 - path.spread) * spread - (deviation(0.0) ** 2 - path.spread**2) * (1 - s)) / deviation(s) ** 2
        expected = -mean(0.0) + slope * (z - mean(s))
        found = path.velocity(flow().v, z, s, x_c, c)
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11, err_msg=f"{s}, {c}")
    if name == "data":
        np.testing.assert_allclose(found, posterior.glass(flow().v, z, s, x_c, c), rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_general_transitions_are_those_of_the_chain_that_adds_noise():
    """x_t and x_c of one row: x_c is x_t with the noise that leads from level t to c, independent of it."""
    x0, n, e = 2.0 + 0 * rows(200_000), rows(200_000, 1), rows(200_000, 2)
    c, t = 0.8, 0.3
    x_c = (1 - c) * x0 + c * n
    x_t = posterior.carried(c, t) * x_c + posterior.to_level(c, t).end(x0, x_c, e)
    np.testing.assert_allclose([x_t.mean(), x_t.std()], [(1 - t) * 2.0, t], atol=5e-3)
    added = x_c - (1 - c) / (1 - t) * x_t
    assert abs(float(jnp.corrcoef(added[:, 0], x_t[:, 0])[0, 1])) < 0.01
    np.testing.assert_allclose(posterior.to_level(c, 0.0), posterior.to_data(), atol=1e-15)


def test_transitions_leave_the_marginals():
    count, levels = 40_000, jnp.array([0.8, 0.5, 0.2, 0.0])
    x = posterior.observed(MEAN + DEVIATION * rows(count), 0.8, jax.random.key(1))

    def transition(x_c, c, t, eps):
        return posterior.carried(c, t) * x_c + flowmap.jump(inner_map(posterior.to_level(c, t), x_c, c), eps, 1.0, 0.0)

    ends = posterior.descent(transition, x, levels, jax.random.key(2))
    np.testing.assert_allclose([ends.mean(), ends.std()], [MEAN, DEVIATION], atol=0.03)
    # By drawn velocities, with the sampler of runs, from noise, and with two jumps of the inner map.
    informed = lambda y, s, t, inputs: inner_map(
        posterior.to_velocity(inputs["c"][:, None]), inputs["x_c"], inputs["c"][:, None]
    )(y, s, t)
    keys = jax.random.split(jax.random.key(3), count)
    for inner in (1, 2):
        drawn = samplers.transition(informed, rows(count, 4), samplers.grid(3), keys, inner=inner)
        np.testing.assert_allclose([drawn.mean(), drawn.std()], [MEAN, DEVIATION], atol=0.03)
    assert abs(float(jnp.corrcoef(drawn[:, 0], rows(count, 4)[:, 0])[0, 1])) < 0.9
    with pytest.raises(typing.InputError, match="inner is 0"):
        samplers.transition(informed, rows(2), samplers.grid(1), keys[:2], inner=0)


def told_map(name):
    """The exact network of a recipe, V(z, s, t, cond)."""

    def V(z, s, t, cond):
        column = lambda value: value.reshape(-1, 1)
        c, x_c = column(cond["c"]), cond["x_c"]
        path = posterior.to_level(c, column(cond["c_to"])) if name == "diamond_map" else posterior.to_velocity(c)
        return inner_map(path, x_c, c)(z, s, t)

    return V


@pytest.mark.parametrize("rule", ["emd", "lsd", "psd", "split_meanflow", "ayf_lmd"])
@pytest.mark.parametrize("name", ["diamond_map", "transition_matching"])
def test_every_rule_vanishes_on_the_exact_map(name, rule):
    method = methods.make(name, rule=rule, level=("uniform", 0.2, 0.9), total_steps=100)
    V = told_map(name)
    nets = typing.Nets(
        V=V, ema=V, frozen=V, teacher=lambda x, t, cond: flow().v(x, t), log_variance=lambda s, t: jnp.zeros(len(s))
    )
    drawn = method.draw(jax.random.key(0), {"x": MEAN + DEVIATION * rows(64)}, 10**6)
    for term, errors in methods.raw_errors(method, nets, drawn).items():
        if term == "anchor" and "teacher" not in method.needs:
            continue  # its target is the velocity of one row
        assert float(jnp.quantile(errors, 0.9)) < 1e-4 and float(errors.max()) < 3e-2, term


def test_what_the_recipes_draw():
    x0 = 3.0 + 0 * rows(4096)
    for point in methods.make("transition_matching").draw(jax.random.key(1), {"x": x0}, 0).values():
        c, x_c = np.asarray(point.cond["c"])[:, None], np.asarray(point.cond["x_c"])
        np.testing.assert_allclose(point.x0, (x_c - 3.0) / c, rtol=2e-3, atol=2e-3)  # the velocity n - x0 of the observation
        n = np.asarray(point.x0) + 3.0
        np.testing.assert_allclose([n.mean(), n.std()], [0, 1], atol=0.06)
        assert abs(np.corrcoef(n[:, 0], np.asarray(point.eps)[:, 0])[0, 1]) < 0.06
    for point in methods.make("diamond_map", ordinary=0.25).draw(jax.random.key(1), {"x": x0}, 0).values():
        c, to = np.asarray(point.cond["c"]), np.asarray(point.cond["c_to"])
        assert (to <= c).all() and abs((to == 0).mean() - 0.25) < 0.05 and abs((c == 1).mean() - 0.25) < 0.05
        assert (np.asarray(point.cond["x_c"])[c == 1] == 0).all()
        plain = (c == 1) & (to == 0)  # the ordinary path
        np.testing.assert_allclose(np.asarray(point.x0)[plain], 3.0, rtol=1e-6)


@pytest.mark.slow
def test_a_head_uses_the_features_of_its_backbone():
    """Of points and of images; and the compiled program of several jumps evaluates the backbone once."""
    key, cond = jax.random.key(0), {"c": jnp.full(4, 0.5), "label": jnp.arange(4)}
    for name, shape, fields in (
        ("transition_mlp", (2,), {"width": 16}),
        ("transition_dit", (4, 4, 1), {"width": 16, "heads": 2, "depth": 2}),
    ):
        net, y = models.make(name, num_classes=4, inputs=("x_c", "c"), **fields), jax.random.normal(key, (4, *shape))
        told = {**cond, "x_c": y[::-1]}
        noisy = lambda leaf: leaf + 0.2 * jax.random.normal(jax.random.key(leaf.size), leaf.shape)
        weights = jax.tree.map(noisy, net.init(key, y, 1.0, 0.0, told))
        features = net.apply(weights, y, told, method="features")
        split = net.apply(weights, y, 0.9, 0.1, told, features, method="answer")
        np.testing.assert_allclose(split, net.apply(weights, y, 0.9, 0.1, told), rtol=1e-5, atol=1e-6)
        other = net.apply(weights, y, 0.9, 0.1, {**told, "x_c": y})
        assert np.abs(split - other).max() > 1e-4 and np.isfinite(split).all()
        V = models.bound(models.Parameterised(net, "denoised_field"), {"net": weights["params"]}, cond)
        one, several = samplers.drawn_velocity(V, y, jnp.float32(0.5), y, 3), y
        for number in range(3):  # as without features that are held
            told = {"x_c": y, "c": cond["c"]}
            several = flowmap.jump(
                lambda y, s, t, V=V, told=told: V(y, s, t, told), several, 1 - number / 3, 1 - (number + 1) / 3
            )
        np.testing.assert_allclose(one, several, rtol=1e-3, atol=1e-4)
        drawn = lambda inner, V=V: lambda x_c, eps: samplers.drawn_velocity(V, x_c, jnp.float32(0.5), eps, inner)
        costs = [flops.matmul(drawn(inner), y, y) for inner in (1, 2, 3)]
        assert costs[2] - costs[1] < 0.75 * costs[0]  # the head alone comes on top


# The second stage


def stage(**constants):
    return methods.make("transition_dmd2", adversarial=0.0, **constants)


def exact_nets(**others):
    V, velocity = told_map("transition_matching"), lambda x, t, cond=None: flow().v(x, t)
    made = {"V": V, "fake": velocity, "teacher": velocity} | others
    return typing.Nets(**made, stopped={"V": made["V"], "fake": made["fake"]})


@pytest.mark.parametrize("steps", [1, 2])
def test_nothing_pushes_exact_transitions_and_they_are_samples_of_the_data(steps):
    method = stage(student_steps=steps)
    drawn = method.draw(jax.random.key(0), {"x": rows(20_000)}, 0)
    point = method.terms[0].prepare(exact_nets(), drawn["student"])
    pair = method.terms[0].pair(exact_nets(), point)
    np.testing.assert_allclose(pair.prediction, pair.target, atol=1e-5)
    np.testing.assert_allclose([pair.prediction.mean(), pair.prediction.std()], [MEAN, DEVIATION], atol=0.04)
    assert len(set(np.asarray(point.s).ravel().tolist())) == steps


def test_the_gradient_passes_through_every_inner_jump():
    method = stage(inner=3)
    drawn = method.draw(jax.random.key(0), {"x": rows(64)}, 0)
    point = method.terms[0].prepare(exact_nets(), drawn["student"])

    def sample(at, w):
        """V is moved by w in the jump that begins at a time."""
        V = lambda y, s, t, cond: told_map("transition_matching")(y, s, t, cond) + w * (jnp.abs(s - at) < 1e-3)
        return method.terms[0].pair(exact_nets(V=V), point).prediction.sum()

    for at in (1.0, 2 / 3, 1 / 3):
        assert abs(float(jax.grad(functools.partial(sample, at))(0.0))) > 0.1


def test_the_fake_is_shown_its_point_as_observation():
    seen = []

    def fake(x, t, cond):
        seen.append(bool((cond["x_c"] == x).all() and (cond["c"] == t.reshape(-1)).all()))
        return flow().v(x, t)

    method = stage()
    drawn = method.draw(jax.random.key(0), {"x": rows(16)}, 0)
    method.loss(exact_nets(fake=fake), drawn)
    assert len(seen) >= 2 and all(seen)


def test_bad_constants_are_refused():
    with pytest.raises(typing.InputError, match="inner is 0"):
        methods.make("transition_dmd2", inner=0)
    with pytest.raises(typing.InputError, match="did you mean lsd"):
        methods.make("diamond_map", rule="lsdd")
    with pytest.raises(typing.InputError, match="a share"):
        methods.make("diamond_map", ordinary=2.0)


@pytest.mark.slow
def test_both_stages_train_sample_and_draw(tmp_path, saved_run):
    first = saved_run(support.small("transition_matching"), tmp_path / "first")
    run = training.load(first)
    assert run.settings.evaluation.sampler == "transition" and np.isfinite(run.sample(8, 2)).all()
    x_c, eps = jnp.ones((5, 2)), jax.random.normal(jax.random.key(0), (5, 2))
    y = run.transition()(x_c, 0.6, 0.0, eps)
    np.testing.assert_allclose(run.draw()(x_c, 0.6, eps), y, rtol=1e-6)
    config = support.small("transition_dmd2", steps=6, save_every=6)
    config.start = str(first)
    training.train(config, tmp_path / "second")
    assert np.isfinite(training.load(tmp_path / "second").sample(8, 1)).all()


@pytest.mark.slow
def test_a_diamond_map_is_the_ordinary_map_where_it_is_told_nothing(tmp_path):
    config = support.small("diamond_map", steps=4, save_every=4)
    training.train(config, tmp_path / "run")
    run, eps = training.load(tmp_path / "run"), jax.random.normal(jax.random.key(0), (5, 2))
    ordinary = flowmap.jump(run.V(), eps, 1.0, 0.0)
    np.testing.assert_array_equal(run.draw()(0 * eps, 1.0, eps), ordinary)
    np.testing.assert_array_equal(run.transition()(0 * eps, 1.0, 0.0, eps), ordinary)
    assert np.abs(run.transition()(eps, 0.7, 0.3, eps) - ordinary).max() > 1e-5
