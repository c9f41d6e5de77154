"""Matching by adversaries: optimal discriminators in closed form, penalties, recipes by hand, balanced gradients, second stages."""

import functools
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import guidance, methods, models, typing
from flowjax.losses import distributional
from flowjax.training import compilation, loading, loop, networks, parts, runs, settings, sharding, step
from tests.support import rows, small, with_sgd

NAMES = ("apt", "add", "ladd", "afm", "cafm")
x64 = pytest.mark.usefixtures("x64")
ONE = jax.devices()[:1]
NEVER = 1e9  # a logit beyond doubt, whose error is 0

# Densities on a grid: the trapezoid rule is exact to rounding for them.
AT = np.linspace(-14, 14, 2_001)
WIDTH = AT[1] - AT[0]


def normal(mean, std):
    return lambda x: -((x - mean) ** 2) / (2 * std**2) - jnp.log(std) - 0.5 * jnp.log(2 * jnp.pi)


P, Q = (0.4, 1.1), (-0.3, 0.8)  # data and samples


def expected(game, logits):
    """The discriminator's mean error on data P and samples Q, by their densities."""
    discriminator = distributional.GAMES[game].discriminator
    fake, real = discriminator(logits, jnp.full_like(AT, NEVER)), discriminator(jnp.full_like(AT, -NEVER), logits)
    return WIDTH * jnp.sum(jnp.exp(normal(*Q)(AT)) * fake + jnp.exp(normal(*P)(AT)) * real)


@x64
def test_the_optimal_discriminator_of_gaussians_is_the_log_ratio():
    (m, s), (k, q) = P, Q
    ratio = jnp.array(
        [np.log(q / s) - m**2 / (2 * s**2) + k**2 / (2 * q**2), m / s**2 - k / q**2, 1 / (2 * q**2) - 1 / (2 * s**2)]
    )
    loss = lambda c: expected("non_saturating", c[0] + c[1] * AT + c[2] * AT**2)
    np.testing.assert_allclose(ratio[0] + ratio[1] * AT + ratio[2] * AT**2, normal(*P)(AT) - normal(*Q)(AT), atol=1e-9)
    np.testing.assert_allclose(jax.grad(loss)(ratio), 0, atol=1e-10)
    assert (np.linalg.eigvalsh(jax.hessian(loss)(ratio)) > 0).all()
    # Pointwise: the hinge's minimum is the sign of p - q, with the value 2 less the total variation.
    p, q = (np.exp(normal(*law)(AT)) for law in (P, Q))
    least = min_over = expected("hinge", jnp.sign(jnp.asarray(p - q)))
    np.testing.assert_allclose(least, 2 - WIDTH * np.abs(p - q).sum(), rtol=1e-9)
    for other in (0 * AT, 0.9 * np.sign(p - q), 1.1 * np.sign(p - q)):
        assert expected("hinge", jnp.asarray(other)) > min_over


@x64
def test_at_the_optimal_discriminator_the_student_descends_a_divergence():
    """Non-saturating: the gradient of KL(q | p) - 2 JS(q, p), as Arjovsky and Bottou showed (arXiv 1701.04862)."""
    (mean, std), log_p = Q, normal(*P)

    def divergence(mean):
        log_q = normal(mean, std)(AT)
        p, q = jnp.exp(log_p(AT)), jnp.exp(log_q)
        log_m = jnp.logaddexp(log_p(AT), log_q) - jnp.log(2)
        js = 0.5 * jnp.sum(p * (log_p(AT) - log_m)) + 0.5 * jnp.sum(q * (log_q - log_m))
        return WIDTH * (jnp.sum(q * (log_q - log_p(AT))) - 2 * js)

    D = lambda x: (log_p(x) - normal(mean, std)(x))[:, 0]

    def errors(shift):  # the samples move, their density is that of the unmoved ones
        moved = jnp.asarray(AT)[:, None] + shift
        return WIDTH * jnp.sum(jnp.exp(normal(mean, std)(AT)) * distributional.fool(D, moved, moved))

    np.testing.assert_allclose(jax.grad(errors)(0.0), jax.grad(divergence)(mean), atol=1e-10)


@x64
def test_games_by_hand_and_where_their_gradients_go():
    rng = np.random.default_rng(0)
    fake, real = (jnp.asarray(rng.normal(size=(5, 2))) for _ in range(2))
    D = lambda x: jnp.sin(x[:, 0]) - x[:, 1]
    f, r = D(fake), D(real)
    plus = lambda z: np.log1p(np.exp(z))
    by_hand = {
        "non_saturating": (plus(-f), plus(f) + plus(-r)),
        "hinge": (-f, np.maximum(0, 1 + f) + np.maximum(0, 1 - r)),
        "relativistic": (plus(r - f), plus(f - r)),
    }
    for game, (student, discriminator) in by_hand.items():
        np.testing.assert_allclose(distributional.fool(D, fake, real, game=game), student)
        np.testing.assert_allclose(distributional.tell_apart(D, fake, real, game=game), discriminator)
        stopped = jax.grad(lambda fake: distributional.tell_apart(D, fake, real, game=game).sum())(fake)  # noqa: B023
        live = jax.grad(lambda fake: distributional.fool(D, fake, real, game=game).sum())(fake)  # noqa: B023
        assert not stopped.any() and live.any(axis=1).all()
    with pytest.raises(typing.InputError, match="unknown game 'wasserstein'"):
        distributional.fool(D, fake, real, game="wasserstein")


@x64
def test_penalties_of_a_linear_discriminator_and_the_gradient_of_the_exact_one():
    rng = np.random.default_rng(0)
    x, w = jnp.asarray(rng.normal(size=(4, 3))), jnp.array([1.0, -2.0, 0.5])
    np.testing.assert_allclose(distributional.penalty(lambda x: x @ w + 7, x), w @ w)
    # Noises whose mean of squares is the identity: the mean is the expectation.
    noises = np.sqrt(3) * np.concatenate([np.eye(3), -np.eye(3)])
    found = [distributional.approximate_penalty(lambda x: x @ w, x, jnp.tile(noise, (4, 1)), 0.1) for noise in noises]
    np.testing.assert_allclose(np.mean(found, axis=0), 0.01 * w @ w)
    # The penalty trains the discriminator: its derivative in a weight passes through the gradient in x.
    D = lambda scale, x: jnp.sum(jnp.tanh(scale * x), axis=1)
    total = lambda scale: distributional.penalty(functools.partial(D, scale), x).sum()
    by_hand = lambda scale: jnp.sum((scale * (1 - jnp.tanh(scale * x) ** 2)) ** 2)
    np.testing.assert_allclose(jax.grad(total)(0.8), jax.grad(by_hand)(0.8), rtol=1e-10)


# Continuous adversarial flow models


def judge(weights, x, t):
    hidden = jnp.tanh(x @ weights["x"] + t @ weights["t"])
    return hidden @ weights["out"]


@x64
def test_gradients_pass_through_the_jvp_of_the_discriminator():
    rng = np.random.default_rng(0)
    of = lambda *shape: jnp.asarray(rng.normal(size=shape))
    weights, x, v, fake, t = {"x": of(2, 8), "t": of(1, 8), "out": of(8)}, of(4, 2), of(4, 2), of(4, 2), jnp.full((4, 1), 0.3)
    D = functools.partial(judge, weights)
    small_step = 1e-5
    along = lambda v: (D(x + small_step * v, t + small_step) - D(x - small_step * v, t - small_step)) / (2 * small_step)
    value, slope = distributional.slope(D, x, t, v)
    np.testing.assert_allclose(slope, along(v), atol=1e-8)
    np.testing.assert_allclose(
        distributional.continuous_tell_apart(D, x, t, v, fake),
        (along(v) - 1) ** 2 + (along(fake) + 1) ** 2 + 1e-3 * value**2, atol=1e-7,
    )  # fmt: skip

    def both(weights, fake):
        D = functools.partial(judge, weights)
        return (distributional.continuous_fool(D, x, t, fake) + distributional.continuous_tell_apart(D, x, t, v, fake)).sum()

    of_weights, of_fake = jax.grad(both, argnums=(0, 1))(weights, fake)
    direction = jax.tree.map(lambda leaf: of(*leaf.shape), weights)
    moved = lambda h: both(jax.tree.map(lambda w, d: w + h * d, weights, direction), fake)
    inner = sum(jnp.sum(g * d) for g, d in zip(jax.tree.leaves(of_weights), jax.tree.leaves(direction)))
    np.testing.assert_allclose(inner, (moved(1e-5) - moved(-1e-5)) / 2e-5, rtol=1e-6)
    # The network feels its own errors alone: 2 (a - 1) grad_x D.
    gradient = jax.grad(lambda x: D(x, t).sum())(x)
    np.testing.assert_allclose(of_fake, 2 * (along(fake) - 1)[:, None] * gradient, atol=1e-6)


@x64
def test_a_conditional_velocity_counts_as_the_marginal_one():
    """The slope is linear in the velocity, so that the network's gradient vanishes in the mean where it is the marginal velocity."""
    weights = {"x": jnp.ones((1, 3)), "t": jnp.ones((1, 3)), "out": jnp.array([1.0, -0.5, 2.0])}
    D, x, t = functools.partial(judge, weights), jnp.array([[0.3]]), jnp.array([[0.6]])
    of = lambda v: distributional.slope(D, x, t, jnp.array([[v]]))[1]
    np.testing.assert_allclose((of(1.0) + of(-3.0)) / 2, of(-1.0))


# Recipes


def given(seed=0, count=16):
    """Networks and a batch: a discriminator and a map without symmetry."""
    D = lambda x, t, cond=None: jnp.sin(x).sum(axis=-1) * (1 + t.reshape(-1))
    V = lambda x, s, t, cond=None: 0.5 * jnp.cos(x) + s
    nets = typing.Nets(V=V, discriminator=D, teacher=lambda x, t, cond=None: -x, stopped={"V": V, "discriminator": D})
    return nets, rows(count)


def test_adversarial_flow_models_by_hand():
    method, (nets, batch) = methods.make("afm", total_steps=100), given()
    plus = lambda z: np.log1p(np.exp(z))
    for number, ot in ((0, 0.2), (50, (0.2 + 0.005) / 2), (100, 0.005)):
        drawn = method.draw(jax.random.key(0), batch, number)
        errors, metrics = method.loss(nets, drawn)
        D = lambda x: np.sin(x).sum(axis=-1)
        fool, tell, fine = (drawn[name] for name in ("fool", "tell_apart", "penalty"))
        F = lambda point: np.asarray(point.x - (0.5 * np.cos(point.x) + 1))
        assert not np.allclose(fool.x, tell.x)  # both players see different samples
        np.testing.assert_array_equal(fool.x, fool.eps)
        student = plus(D(fool.x0) - D(F(fool))) + ot * np.mean((F(fool) - fool.x) ** 2, axis=1)
        d = plus(D(F(tell)) - D(tell.x0)) + 0.01 * (D(tell.x0) + D(F(tell))) ** 2
        n = fine.extra["probes"]
        penalty = sum((D(x) - D(x + 0.01 * n[:, i])) ** 2 for i, x in enumerate((fine.x0, F(fine)))) * 0.25 / 0.01**2
        assert len(fine.x) == 4
        expected = np.mean(student) + np.mean(d) + np.mean(penalty)
        np.testing.assert_allclose(errors.mean(), expected, rtol=2e-3)
        np.testing.assert_allclose(metrics["fool"], student.mean(), rtol=1e-4)


def test_terms_of_the_stages_by_hand():
    nets, batch = given()
    D = lambda x, t: np.sin(x).sum(axis=-1) * (1 + t.reshape(-1))
    F = lambda point: np.asarray(point.x - point.s * (0.5 * np.cos(point.x) + point.s))
    plus = lambda z: np.log1p(np.exp(z))
    up = lambda x, point, i: (1 - point.t) * x + point.t * point.extra["levels"][:, i]
    method = methods.make("ladd", times=("uniform", 0.2, 1.0), r1=100.0)
    drawn = method.draw(jax.random.key(0), batch, 0)
    _, metrics = method.loss(nets, drawn)
    point = drawn["tell_apart"]
    np.testing.assert_allclose(point.x, (1 - point.s) * point.x0 + point.s * point.eps, rtol=1e-5)
    real, fake = up(point.x0, point, 1), up(F(point), point, 0)
    r1 = (D(real, point.t) - D(real + 0.1 * point.extra["probes"][:, 0], point.t)) ** 2
    expected = plus(D(fake, point.t)) + plus(-D(real, point.t)) + 100 * r1
    np.testing.assert_allclose(metrics["tell_apart"], expected.mean(), rtol=1e-3)
    method = methods.make("add", r1=3.0)
    drawn = method.draw(jax.random.key(0), batch, 0)
    _, metrics = method.loss(nets, drawn)
    point = drawn["tell_apart"]
    hinge = np.maximum(0, 1 + D(F(point), point.t)) + np.maximum(0, 1 - D(point.x0, point.t))
    np.testing.assert_allclose(metrics["tell_apart"], (hinge + 1.5 * (np.cos(point.x0) ** 2).sum(axis=1)).mean(), rtol=1e-4)
    point = drawn["distillation"]
    sample = point.x - (0.5 * np.cos(point.x) + 1)
    x_r = (1 - point.t) * sample + point.t * point.eps
    np.testing.assert_allclose(metrics["distillation"], np.mean((sample - (x_r + point.t * x_r)) ** 2), rtol=1e-4)
    assert method.terms[-1].weight == 2.5


def test_guidance_changes_the_velocity_of_the_data_where_one_is_used():
    """In cafm; methods that learn no velocity refuse it."""
    nets, batch = given()
    method = methods.make("cafm", label_drop=0.0)
    drawn = {"tell_apart": method.draw(jax.random.key(0), batch, 0)["tell_apart"]}
    asked = []

    def guide(nets, point, V_ss=None):
        asked.append(V_ss)
        return guidance.Guided(2 * point.v, V_ss)

    plain, guided = (method.loss(nets.replace(guide=one), drawn)[0] for one in (None, guide))
    assert (plain != guided).all() and asked[0] is not None
    for name in ("imm", "afm", "drifting"):
        with pytest.raises(typing.InputError, match=f"{name!r} learns .* and no velocity"):
            methods.guided(name, methods.make(name, total_steps=10), "meanflow", scale=(2.0, 2.0))


def test_who_trains_what_and_when():
    for name in NAMES:
        method = methods.make(name, total_steps=10)
        cycle = parts.phases.cycle(method, parts.phases.periods(method))
        every = method.terms[0].every
        assert every == {"ladd": 5, "cafm": 16}.get(name, 1)
        assert cycle.at(every - 1).networks == ("V", "discriminator")
        assert every == 1 or cycle.at(0) == parts.phases.Phase(("tell_apart",), ("discriminator",))
        assert {term.trains for term in method.terms} == {("V",), ("discriminator",)}


def test_an_adversary_is_added_to_any_method():
    plain = methods.make("psd")
    method = methods.with_adversary(plain, game="hinge", weight=0.3, at="Dense_2", student_every=2, r1=1.0)
    assert [term.name for term in method.terms] == [*(term.name for term in plain.terms), "fool", "tell_apart"]
    assert {term.trains for term in method.terms[:2]} == {
        ("V", "log_variance")
    }  # otherwise the terms of before would move the discriminator
    assert method.balance == typing.Balance(("fool",), 0.3, "Dense_2") and set(method.needs) == {*plain.needs, "discriminator"}
    nets, batch = given()
    nets = nets.replace(log_variance=lambda s, t: 0.1 * (s + t).reshape(-1))
    nets.stopped["log_variance"] = nets.log_variance
    errors, metrics = method.loss(nets, method.draw(jax.random.key(0), batch, 0))
    assert errors.shape == (16,) and set(metrics) == {term.name for term in method.terms}
    assert methods.with_adversary(plain, balanced=False, weight=0.3).terms[-2].weight == 0.3
    for refused in (method, methods.make("afm", total_steps=10), plain._replace(loss=lambda nets, drawn: None)):
        with pytest.raises(typing.InputError, match="an adversary is added to methods that"):
            methods.with_adversary(refused)


# The network


@pytest.mark.parametrize("shape", [(3,), (8, 8, 1), (7, 5, 2)])
def test_the_discriminator_has_one_logit_a_row_for_points_and_images(shape):
    net = models.Discriminator(num_classes=4, width=8)
    x, t = jax.random.normal(jax.random.key(0), (6, *shape)), jnp.linspace(0, 1, 6).reshape(-1, *(1,) * len(shape))
    params = net.init(jax.random.key(1), x[:1], 1.0, 0.0, {})
    logits = net.apply(params, x, t, t, {"label": jnp.arange(6) - 1})
    assert logits.shape == (6, 1) and logits.dtype == x.dtype
    for changed in (net.apply(params, x, t, 1 - t, {"label": jnp.arange(6) - 1}), net.apply(params, x, t, t)):
        assert (changed != logits)[1:].any()
    np.testing.assert_array_equal(net.apply(params, x, 0 * t, t), net.apply(params, x, t, t))
    one = net.apply(params, x[2:3], t[2:3], t[2:3], {"label": jnp.array([1])})
    np.testing.assert_allclose(one[0], logits[2], atol=1e-5)  # rows do not meet


# In the trainer


def adversarial(**fields):
    config = small("meanflow", adversary={"game": "relativistic", "weight": 0.5, **fields})
    config.model.width = 16
    return with_sgd(config)


def after(config, devices, steps=2):
    run = runs.setup(config, devices=devices)
    programs, state = compilation.compiled(run), run.init()
    for number in range(steps):
        batch = sharding.global_batch(run.mesh, rows())
        state, metrics = jax.block_until_ready(programs[run.cycle.at(number)](state, batch, run.fixed))
    return jax.device_get((state, metrics))


@pytest.mark.parametrize("at", [pytest.param("", marks=pytest.mark.slow), "Dense_3/kernel"])
def test_the_gradient_of_the_adversary_is_balanced(at):
    """As long as half of the method's own, in all weights or in those of one layer; written out by two gradients."""
    config = adversarial(at=at)
    run = runs.setup(config, devices=ONE)
    start = run.init()
    start = start._replace(params=jax.tree.map(lambda leaf: leaf + 0.01, start.params))  # no weight is 0
    new, metrics = jax.jit(run.step)(start, rows(), ())
    drawn = run.method.draw(jax.random.fold_in(parts.keys(config.seed, 1)[1], 0), rows(), 0)

    def gradient(*names):
        chosen = {name: drawn[name] for name in names}
        loss = lambda params: run.method.loss(networks.nets(run.networks, params, None, ()), chosen)[0].mean()
        return jax.jit(jax.grad(loss))(start.params)

    own, other = gradient("anchor", "eulerian", "tell_apart"), gradient("fool")
    pick = lambda tree: [tree["V"]["Dense_3"]["kernel"]] if at else jax.tree.leaves(tree["V"])
    length = lambda tree: np.sqrt(sum(np.sum(np.square(leaf)) for leaf in pick(tree)))
    weight = 0.5 * length(own) / length(other)
    np.testing.assert_allclose(metrics["balance"], weight, rtol=1e-4)
    expected = jax.tree.map(lambda p, g, o: p - 0.1 * (g + weight * o), start.params["V"], own["V"], other["V"])
    chex.assert_trees_all_close(new.params["V"], expected, atol=1e-6)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, start.params["discriminator"], own["discriminator"])
    chex.assert_trees_all_close(new.params["discriminator"], expected, atol=1e-6)


def test_a_balanced_term_that_trains_a_second_network_has_all_its_gradient_there():
    """The length is balanced in V alone, and never above the largest factor."""
    others = {"V": jnp.array([3.0, 4.0]), "second": jnp.array([1.0])}
    gradient = {"V": jnp.array([0.0, 2.0]), "second": jnp.array([10.0])}
    for most, weight in ((1e4, 0.5 * 5.0 / 2.0), (0.25, 0.25)):
        total, found = step._balanced(typing.Balance(("term",), multiple=0.5, most=most), others, gradient)
        assert found == pytest.approx(weight)
        chex.assert_trees_all_close(total, {"V": jnp.array([3.0, 4.0 + 2.0 * weight]), "second": jnp.array([11.0])})


def test_an_adversary_that_cannot_work_is_refused_at_once():
    for fields, sentence in (
        ({"game": "", "weight": 2.0}, "config.adversary.weight is 2.0, and config.adversary.game is ''"),
        ({"game": "wasserstein"}, "unknown game 'wasserstein'"),
        ({"network": "unet"}, "unknown discriminator 'unet'"),
        ({"at": "no_such_layer"}, "no weights of V have a path with 'no_such_layer'"),
        ({"probe": -1.0}, "config.adversary.probe is -1.0; expected a number of at least 0"),
    ):
        with pytest.raises(typing.InputError, match=sentence):
            runs.setup(adversarial(**({"weight": 1.0} | fields)), devices=ONE)
    config = small("flow_matching", adversary={"game": "hinge"})
    with pytest.raises(typing.InputError, match="'flow_matching' learns no jumps"):
        runs.setup(config, devices=ONE)


def test_the_discriminator_has_the_optimizer_of_v_and_a_learning_rate_of_its_own():
    config = adversarial()
    config.optim.learning_rate = 0.2
    for rate, expected in ((0.0, 0.2), (0.5, 0.5)):
        config.adversary.learning_rate = rate
        chosen = settings.read(config)
        assert chosen.auxiliary["discriminator"] == chosen.optim._replace(learning_rate=expected)
    assert "learning_rate" not in chosen.adversary.constants


def test_a_second_stage_begins_with_the_weights_of_the_first(tmp_path):
    """--config.start=RUN: V and a discriminator of its form begin as the run ended."""
    first = small("meanflow", steps=2, save_every=2, log_every=2)
    first.model.width = 16
    loop.train(first, tmp_path / "first", devices=ONE)
    config = small("apt", start=str(tmp_path / "first"))
    config.model.width = 16
    state = runs.setup(config, devices=ONE).init()
    average = loading.load(tmp_path / "first").params
    chex.assert_trees_all_equal(state.params["V"], state.params["discriminator"], average)
    config = adversarial()
    config.start = str(tmp_path / "first")
    state = runs.setup(config, devices=ONE).init()
    chex.assert_trees_all_equal(state.params["V"], average)
    assert "time" in state.params["discriminator"]


@pytest.mark.parametrize("name, width", [("mlp", 8 + 8 + 3), pytest.param("dit", 2 * 8, marks=pytest.mark.slow)])
def test_features_are_those_of_the_layers(name, width):
    fields = {"mlp": {"width": 8, "depth": 2}, "dit": {"width": 8, "depth": 2, "heads": 2, "patch": 2}}[name]
    net = models.make(name, **fields, parameterisation="denoised_field")
    x = jax.random.normal(jax.random.key(0), (5, *{"mlp": (3,), "dit": (4, 4, 1)}[name]))
    t = jnp.full((5, *(1,) * (x.ndim - 1)), 0.4)
    weights = jax.tree.map(lambda leaf: leaf + 0.1, net.init(jax.random.key(1), x, t, t, {})["params"])
    seen = models.features(net, weights, x, t)
    assert seen.shape == (5, width) and np.isfinite(seen).all()
    np.testing.assert_allclose(models.features(net, weights, x[1:2], t[1:2])[0], seen[1], rtol=1e-4, atol=1e-3)
    if name == "mlp":  # the last layer's output is the raw prediction
        np.testing.assert_allclose(seen[:, -3:], net.apply({"params": weights}, x, t, t, method="raw"), atol=1e-6)


@pytest.mark.slow
def test_a_discriminator_on_features_of_a_teacher(tmp_path):
    """The teacher's weights stay, the gradient passes through them to the student's samples."""
    first = small("flow_matching", steps=2, save_every=2, log_every=2)
    first.model.width = 16
    loop.train(first, tmp_path / "first", devices=ONE)
    config = small("ladd", teacher=str(tmp_path / "first"))
    config.method.update({"network": "of_features", "student_every": 1})
    config.model.width = 16
    state, metrics = after(config, ONE, 2)
    assert state.params["discriminator"]["Dense_0"]["kernel"].shape[0] == 16 * 3 + 2
    assert np.isfinite(list(metrics.values())).all() and metrics["grad_norm"] > 0
    config.teacher = "exact"
    with pytest.raises(typing.InputError, match="sees features of the teacher, which must be a trained run"):
        runs.setup(config, devices=ONE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["meanflow", "afm", "cafm", "apt"])
def test_adversaries_on_eight_devices_train_as_on_one(name):
    config = adversarial if name == "meanflow" else lambda: with_sgd(small(name), 0.01)
    alone, metrics = after(config(), ONE, 16 if name == "cafm" else 2)
    sliced = config()
    sliced.mesh.update({"data": 2, "fsdp": 4})
    sliced, metrics_sliced = after(sliced, jax.devices()[:8], 16 if name == "cafm" else 2)
    chex.assert_trees_all_close(alone.params, sliced.params, atol=1e-5, rtol=0)
    chex.assert_trees_all_close(metrics, metrics_sliced, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["meanflow", "afm"])
def test_a_killed_adversary_goes_on_to_the_same_bits(tmp_path, name):
    config = adversarial() if name == "meanflow" else small(name)
    whole = jax.device_get(loop.train(config, tmp_path, devices=ONE))
    shutil.rmtree(tmp_path / "checkpoints" / "8")
    again = jax.device_get(loop.train(config, tmp_path, devices=ONE))
    chex.assert_trees_all_equal(whole, again)
    assert set(whole.params) == {"V", "discriminator"}
