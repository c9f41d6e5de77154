"""Maps that carry the density: exact mean divergences, the recipe on them, and a network that learns log p in one step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from support import small, two_modes

from flowjax import density, exact, flowmap, methods, training, typing
from flowjax.losses import likelihood

NODES, WEIGHTS = np.polynomial.legendre.leggauss(24)
WEIGHTS_OF, MEANS, DEVIATIONS = np.array([0.35, 0.65]), np.array([-1.0, 0.8]), np.array([0.5, 0.6])


@functools.cache
def flow():
    return exact.mixture(WEIGHTS_OF, MEANS, DEVIATIONS)


def div(x, t):
    return flow().divergence(x, t)[:, 0]


def mean_divergence(x, s, t):
    """The integral along the exact trajectory, by quadrature."""
    u = s[None] + (t - s)[None] * ((1 + NODES) / 2).reshape(-1, 1, 1)
    return jnp.tensordot(WEIGHTS / 2, jax.vmap(lambda at: div(flow().F(x, s, at), at))(u), axes=1)


def rows(count=7):
    x = jnp.linspace(-1.5, 1.5, count)[:, None]
    return x, jnp.full((count, 1), 0.9), jnp.full((count, 1), 0.25)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_every_rule_vanishes_on_the_exact_mean_divergence():
    x, s, t = rows()

    @jax.jit
    def all_pairs(x, s, t):
        V, D = flow().V, mean_divergence
        return {
            "anchor": likelihood.divergence_anchor(D, x, s, div(x, s)),
            "lagrangian": likelihood.divergence_lagrangian(V, D, x, s, t, div),
            "eulerian": likelihood.divergence_eulerian(D, x, s, t, flow().v(x, s), div(x, s)),
            "compositional": likelihood.divergence_compositional(V, D, x, s, t, jnp.full_like(s, 0.3)),
            "round trip": likelihood.round_trip(V, x, s, t),
        }

    for name, pair in all_pairs(x, s, t).items():
        np.testing.assert_allclose(pair.prediction, pair.target, atol=1e-8, err_msg=name)
    # And the density that it carries is the right one.
    log_p = lambda x, t: jax.nn.logsumexp(
        jnp.log(WEIGHTS_OF)[None]
        + jax.scipy.stats.norm.logpdf(x, ((1 - t) * MEANS)[None], np.sqrt(((1 - t) * DEVIATIONS) ** 2 + t**2)[None]),
        axis=1,
    )
    carried = log_p(x, 0.9) - (0.25 - 0.9) * mean_divergence(x, s, t)
    np.testing.assert_allclose(carried, log_p(flow().F(x, s, t), 0.25), atol=1e-8)


@pytest.mark.usefixtures("x64")
def test_where_gradients_are():
    x, s, t = rows()
    D = lambda w: lambda x, s, t: w * x[:, 0] * (1 + t[:, 0]) ** 2
    V = lambda u: lambda x, s, t: u * x
    moved = lambda loss: jax.grad(lambda w, u: jnp.sum(jnp.square(jnp.subtract(*loss(w, u)))), argnums=(0, 1))(1.0, 0.5)
    for loss in (
        lambda w, u: likelihood.divergence_lagrangian(V(u), D(w), x, s, t, lambda x, t: x[:, 0]),
        lambda w, u: likelihood.divergence_compositional(V(u), D(w), x, s, t, 0.5),
    ):
        of_divergence, of_velocity = moved(loss)
        assert of_divergence != 0 and of_velocity == 0  # V is in the stopped target alone
    assert moved(lambda w, u: likelihood.round_trip(V(u), x, s, t))[1] != 0


@pytest.mark.parametrize("rule", ["lagrangian", "eulerian", "compositional"])
@pytest.mark.parametrize("estimate", ["exact", pytest.param("rademacher", marks=pytest.mark.slow)])
def test_the_recipe_vanishes_on_the_exact_maps(rule, estimate):
    normal, method = exact.gaussian(0.5, 4.0), methods.make("f2d2", rule=rule, estimate=estimate)

    def divergence(x, s, t, cond):  # of a normal it does not depend on x
        nodes = (1 + NODES.reshape(-1, 1, 1)) / 2
        u = s[None] + nodes * (t - s)[None]
        at = normal.divergence(jnp.broadcast_to(x[None], u.shape), u)
        return jnp.tensordot(jnp.asarray(WEIGHTS / 2, x.dtype), at, axes=1)[:, 0]

    maps = {"V": lambda x, s, t, cond: normal.V(x, s, t), "divergence": divergence}
    nets = typing.Nets(**maps, ema=maps["V"], teacher=lambda x, t: normal.v(x, t), stopped=maps)
    drawn = method.draw(jax.random.key(0), {"x": rows(32)[0]}, 0)
    assert set(drawn) == {"anchor", rule, "divergence_anchor", f"divergence_{rule}"}
    for name, errors in methods.raw_errors(method, nets, drawn).items():
        assert float(jnp.abs(errors).max()) < 1e-4, name


@pytest.mark.slow
def test_falcon_vanishes_on_the_exact_map_and_weighs_the_round_trip_by_ten():
    normal, method = exact.gaussian(0.5, 4.0), methods.make("falcon")
    nets = typing.Nets(V=lambda x, s, t: normal.V(x, s, t))
    drawn = method.draw(jax.random.key(0), {"x": rows(32)[0]}, 0)
    point = drawn["eulerian"]
    marginal = {**drawn, "eulerian": point._replace(v=normal.v(point.x, point.s))}
    raw = methods.raw_errors(method, nets, marginal)
    assert set(raw) == {"anchor", "eulerian", "round_trip"}
    for name in ("eulerian", "round_trip"):
        assert float(jnp.abs(raw[name]).max()) < 1e-6, name
    wrong = typing.Nets(V=lambda x, s, t: 0.5 * x)
    errors, _ = method.loss(wrong, {"round_trip": drawn["round_trip"]})
    np.testing.assert_allclose(errors, 10 * methods.raw_errors(method, wrong, drawn)["round_trip"], rtol=1e-5)


def test_bad_constants_are_refused():
    with pytest.raises(typing.InputError, match="at least 0"):
        methods.make("falcon", round_trip=-1.0)
    for constants, said in (
        ({"rule": "x"}, "'x'"),
        ({"estimate": "hutch"}, "'hutch'"),
        ({"divergence_weight": 0.0}, "above 0"),
    ):
        with pytest.raises(typing.InputError, match=said):
            methods.make("f2d2", **constants)


@pytest.mark.slow
def test_log_p_of_a_mixture_in_one_step(tmp_path, monkeypatch, optimised):
    """Samples in one jump, and the density that the divergence network gives them, within 0.02 nats of the true one."""
    config = small("f2d2", steps=2500, batch_size=128, save_every=2500, log_every=500)
    config.data.name, config.eval_samples = two_modes(monkeypatch, WEIGHTS_OF, MEANS, DEVIATIONS, 2**15), 64
    config.model.update({"width": 128, "depth": 3})
    config.optim.update({"learning_rate": 2e-3, "schedule": "cosine", "warmup_steps": 100})
    training.train(config, tmp_path / "run")
    run = training.load(tmp_path / "run")
    beside = training.load(tmp_path / "run", network="divergence")
    divergence = lambda x, s, t: beside.V()(x, s, t)[:, 0]
    eps = jax.random.normal(jax.random.key(0), (2000, 1))
    x = flowmap.jump(run.V(), eps, 1.0, 0.0)
    log_q = density.log_noise(eps) + divergence(eps, 1.0, 0.0)
    log_p = np.log(stats.norm.pdf(np.asarray(x), MEANS, DEVIATIONS) @ WEIGHTS_OF)
    assert abs(float(np.mean(log_q - log_p))) < 0.02
    assert float(np.abs(log_q - log_p).mean()) < 0.06
