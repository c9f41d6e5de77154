"""Guidance inside the training target: what it aims at, which values of the network it needs, and recipes with it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from guided_classes import LABELS, SCALED, guided_flow, points, scale_at

from flowjax import guidance, methods, typing

CONSTANTS = {"k": 0.6, "mix": 0.25, "decay": 0.8, "interval": (0.0, 0.7)}


@pytest.mark.slow
def test_the_target_of_two_gaussian_classes_is_their_guided_velocity(x64):
    for kind in guidance.TARGETS:
        point, net, expected = points(kind)
        target = guidance.target_from_name(kind, **CONSTANTS)
        wrong = lambda x, s, t, cond, net=net: net(x, s, t, cond) + 1.0  # V, where the velocity head is the one that is right
        V_ss = net(point.x, point.s, point.s, point.cond)
        for heads in (1, 2):
            if heads == 2 and kind == "imf":
                both = lambda x, s, t, cond, net=net, wrong=wrong: (wrong(x, s, t, cond), net(x, s, t, cond))
                nets = typing.Nets(V=wrong, both=both)
            else:
                nets = typing.Nets(V=net, ema=net if heads == 2 else None)
            for known in (None, V_ss):
                guided = target.guide(nets, point, known)
                np.testing.assert_allclose(guided.v, expected, atol=1e-9, err_msg=kind)
                if guided.V_ss is not None:  # the velocity that the method takes for the network's is the guided flow's too
                    np.testing.assert_allclose(guided.V_ss, expected, atol=1e-9, err_msg=kind)
                np.testing.assert_array_equal(guided.v[3], point.v[3])  # a dropped label keeps its velocity
                assert np.abs(guided.v - point.v)[LABELS >= 0].max() > 0.1
        np.testing.assert_allclose(target.scale(point), scale_at(kind, point.s, SCALED[kind][:, None]), rtol=1e-6)
        # A teacher of both classes without a scale is guided to the same velocity by its values for the null label.
        teacher = lambda x, t, cond: guided_flow(x, t, cond["label"], 1.0)
        by_teacher = guidance.classifier_free(teacher, target.scale)(point.x, point.s, point.cond)
        np.testing.assert_allclose(by_teacher, expected, atol=1e-9, err_msg=kind)


@pytest.mark.slow
def test_published_forms_and_scales(x64):
    """The formulas as the papers write them, for any network, right or not."""
    point, net, _ = points("meanflow")
    V = lambda label: jnp.sin(3 * point.x + point.s + label)  # any network
    nets = typing.Nets(V=lambda x, s, t, cond: jnp.sin(3 * x + s + cond["label"][:, None]))
    V_c, V_null, v, labelled = V(LABELS[:, None]), V(-1), point.v, LABELS[:, None] >= 0
    omega, kappa = 0.2, 0.92  # MeanFlow-XL/2
    cond = {**point.cond, "guidance": jnp.full(6, omega / (1 - kappa))}
    guided_v = guidance.meanflow(nets, point._replace(cond=cond), k=kappa, interval=(0.0, 0.75)).v
    inside = (point.s <= 0.75) & labelled
    np.testing.assert_allclose(
        guided_v, jnp.where(inside, omega * v + (1 - omega - kappa) * V_null + kappa * V_c, v), atol=1e-12
    )

    cond = {**point.cond, "guidance": jnp.full(6, 2.5)}
    guided_v = guidance.dmf(nets, point._replace(cond=cond)).v  # omega 0.6 up to time 0.7
    np.testing.assert_allclose(guided_v, jnp.where((point.s <= 0.7) & labelled, v + 0.6 * (V_c - V_null), v), atol=1e-12)

    cond = {**point.cond, "guidance": jnp.full(6, 3.0)}
    guided_v = guidance.soflow(nets, point._replace(cond=cond), decay=1.0).v
    np.testing.assert_allclose(guided_v, jnp.where(labelled, 0.25 * (v + 2 * (v - V_null)) + 0.75 * V_c, v), atol=1e-12)
    faded = guidance.fading(point._replace(s=jnp.array([[0.8], [0.9], [0.84], [0.99], [1.0], [0.2]]), cond=cond)) - 1
    np.testing.assert_allclose(
        faded[:, 0] / 2, [1, 0.0246901, 0.0951626, 0.0013149, 0, 1], atol=1e-6
    )  # 1 - exp(-q / 40), q = 1, 4, 1/19

    averaged = nets._replace(ema=lambda x, s, t, cond: 2 * nets.V(x, s, t, cond))
    guided_v = guidance.tvm(averaged, point._replace(cond=cond)).v
    np.testing.assert_allclose(guided_v, jnp.where(labelled, 3 * v - 2 * 2 * V_null, v), atol=1e-12)
    guided_v = guidance.guidance_free(averaged, point._replace(cond=cond)).v
    np.testing.assert_allclose((V_c - guided_v)[0] / 3, (V_c / 3 + 2 / 3 * V_null - v)[0], atol=1e-12)  # the paper's residual


@pytest.mark.parametrize(
    "kind",
    [k if k in ("tvm", "soflow") else pytest.param(k, marks=pytest.mark.slow) for k in guidance.TARGETS],
)
def test_the_network_is_evaluated_once_and_no_more_than_the_formula_needs(kind):
    point, net, _ = points(kind)
    rows = []

    def counting(x, s, t, cond):
        rows.append(len(x))
        return net(x, s, t, cond)

    guide = guidance.target_from_name(kind, **CONSTANTS).guide
    guide(typing.Nets(V=counting), point)
    needs_label = kind in ("meanflow", "imf", "dmf", "soflow")
    assert rows == [12 if needs_label else 6]  # one doubled batch
    rows.clear()
    guide(typing.Nets(V=counting), point, point.v)
    assert rows == [6]  # V(x, s, s | c) is known: the null label alone
    rows.clear()
    guidance.meanflow(typing.Nets(V=counting), point, k=0.0)
    assert rows == [6]


@pytest.mark.parametrize("kind", guidance.TARGETS)
def test_no_gradient_passes_through_the_guidance(kind):
    point, net, _ = points(kind)
    guide = guidance.target_from_name(kind, **CONSTANTS).guide

    def total(theta):
        nets = typing.Nets(V=lambda *args: theta * net(*args), ema=lambda *args: theta * net(*args))
        guided = guide(nets, point, theta * point.v)
        return sum(part.sum() for part in guided if part is not None)

    assert jax.grad(total)(1.0) == 0


# Composed with recipes


def drawn_batch(rows=24):
    x = jax.random.normal(jax.random.key(3), (rows, 2))
    batch = {"x": x, "label": jnp.arange(rows) % 3, "eps": jax.random.normal(jax.random.key(4), (rows, 2))}
    return batch | {
        "trajectory": jnp.stack([batch["eps"], 0.4 * x, x], 1),
        "times": jnp.tile(jnp.array([1.0, 0.5, 0.0]), (rows, 1)),
    }


def networks_of(method):
    """Small closures for all fields of Nets: they depend on label, scale and interval."""

    def V(x, s, t, cond):
        condition = cond["label"][:, None] + cond.get("guidance", jnp.ones(len(x)))[:, None]
        condition = condition + cond.get("interval", jnp.zeros((len(x), 1))).sum(1, keepdims=True)
        return jnp.tanh(x + 0.3 * s - 0.2 * t + 0.1 * condition)

    both = (lambda x, s, t, cond: (V(x, s, t, cond), V(x, s, s, cond))) if "both" in method.needs else None
    velocity = lambda x, t, cond: V(x, t, t, cond)
    log_variance = lambda s, t: jnp.zeros(jnp.broadcast_shapes(jnp.shape(s), jnp.shape(t))).reshape(-1)
    return typing.Nets(V, V, V, velocity, V, velocity, both, log_variance)


JUMPS, NO_VELOCITY = ("cmt", "pfmm"), ("ct", "ict", "ect", "scm")
REFUSED = (*JUMPS, *NO_VELOCITY)


@functools.cache
def made(name):
    hyper = {"diagonal": "1/2"} if "diagonal" in methods.constants(name) else {}
    hyper |= {"correction": "1/2"} if name == "freeflow" else {}
    hyper |= {"teacher_steps": 1} if name == "ctm" else {}
    return methods.make(name, total_steps=1_000, **{**hyper, "label_drop": 0.25})


# Three forms; the others are slow tests.
FORMS = ("meanflow", "soflow", "boot")


@pytest.mark.parametrize(
    "name", [n if n in FORMS else pytest.param(n, marks=pytest.mark.slow) for n in methods.METHODS if n not in REFUSED]
)
def test_every_guidance_composes_with_every_method(name):
    plain, batch = made(name), drawn_batch()
    for kind in guidance.TARGETS:
        method = methods.guided(name, plain, kind, scale=(2.0, 3.0), **CONSTANTS)
        step = lambda key: method.loss(networks_of(method), method.draw(key, batch, 0))  # noqa: B023 (traced at once)
        errors, metrics = jax.eval_shape(step, jax.random.key(0))
        assert errors.shape == (24,) and set(metrics) == {term.name for term in plain.terms}
    # One of them in numbers: without guidance (w = 1) it is the plain method on the same draw, with it another.
    at = lambda w: methods.guided(name, plain, "dmf", scale=(w, w), interval=(0.0, 1.0))
    drawn = at(1.0).draw(jax.random.key(0), batch, 0)
    nets = networks_of(plain)
    one, same = (jax.jit(functools.partial(method.loss, nets))(drawn)[0] for method in (at(1.0), plain))
    np.testing.assert_allclose(one, same, rtol=2e-5, atol=1e-6)
    strong = {n: p._replace(cond={**p.cond, "guidance": jnp.where(p.cond["label"] < 0, 1.0, 3.0)}) for n, p in drawn.items()}
    guided, plainly = (jax.jit(lambda p, m=m: methods.raw_errors(m, nets, p))(strong) for m in (at(3.0), plain))
    assert max(np.abs(guided[term] - plainly[term]).max() / plainly[term].mean() for term in guided) > 0.01


def test_guidance_refuses_methods_without_a_velocity():
    for name in JUMPS:
        with pytest.raises(typing.InputError, match="learns from the jumps of a teacher; guide what makes the jumps"):
            methods.guided(name, made(name), "imf", scale=(1.0, 2.0))
    for name in NO_VELOCITY:
        with pytest.raises(
            typing.InputError, match=f"'{name}' learns jumps to data and no velocity; expected a method that learns one"
        ):
            methods.guided(name, made(name), "tvm", scale=(1.0, 2.0))
    with pytest.raises(typing.InputError, match="unknown guidance inside the target 'imff'; did you mean imf"):
        methods.guided("imf", made("imf"), "imff", scale=(1.0, 2.0))
    with pytest.raises(typing.InputError, match="the loss of 'imf' is a function of your own; make the method with"):
        methods.guided("imf", made("imf")._replace(loss=lambda nets, points: None), "imf", scale=(1.0, 2.0))
    method = methods.guided("imf", made("imf"), "imf", scale=(1.0, 2.0))
    with pytest.raises(typing.InputError, match="guidance inside the target needs labels"):
        method.draw(jax.random.key(0), {"x": jnp.ones((4, 2))}, 0)


def test_scales_intervals_and_dropped_labels_as_drawn():
    x = jnp.zeros((8_000, 1))
    given = {"x": x, "label": jnp.ones(8_000, int)}
    of = lambda kind: methods.guided("imf", methods.make("imf", label_drop=0.1), kind, scale=(1.0, 8.0))
    draws = jax.jit(lambda key: [of(kind).draw(key, given, 0)["eulerian"].cond for kind in ("imf", "guidance_free")])
    cond, other = draws(jax.random.key(1))
    kept = cond["label"] >= 0
    assert abs(float(kept.mean()) - 0.9) < 0.02
    w, interval = np.asarray(cond["guidance"]), np.asarray(cond["interval"])
    assert w.min() >= 1 and w.max() <= 8
    quantiles = np.log(np.quantile(w, [0.25, 0.5, 0.75])) / np.log(8)  # density ~ 1/w: uniform in log w
    np.testing.assert_allclose(quantiles, [0.25, 0.5, 0.75], atol=0.03)
    for ends, low, high in ((interval[:, 0], 0.0, 0.5), (interval[:, 1], 0.5, 1.0)):
        assert low <= ends.min() < low + 0.01 and high - 0.01 < ends.max() <= high
        np.testing.assert_allclose(np.quantile(ends, [0.25, 0.75]), [low + 0.125, low + 0.375], atol=0.02)
    # The dropped labels, the scale and the interval of a row are independent of each other.
    columns = np.stack([np.log(w), *interval.T, kept])
    assert np.abs(np.corrcoef(columns) - np.eye(4)).max() < 0.05
    # Other kinds tell a row without a label that it is not guided.
    assert (other["guidance"][other["label"] < 0] == 1).all() and other["guidance"].max() > 7
    # 1/w is uniform in guidance-free training, w in TVM's.
    u = jnp.linspace(0, 1, 5)
    np.testing.assert_allclose(1 / guidance.quantile("guidance_free", u, 1.0, 4.0), 1 - 0.75 * u, rtol=1e-6)
    np.testing.assert_allclose(guidance.quantile("tvm", u, 1.0, 4.0), 1 + 3 * u, rtol=1e-6)


def test_the_anchor_learns_the_intervals_where_nothing_else_does():
    """Self-distillation uses no velocity off the diagonal: what an interval does is learned by its anchor, a quarter of it whole."""
    method = methods.guided("psd", made("psd"), "imf", scale=(1.0, 8.0))
    anchor = method.draw(jax.random.key(1), drawn_batch(2_000), 0)["anchor"].cond
    assert np.ptp(anchor["interval"][:, 0]) > 0.2
    assert abs((np.asarray(anchor["interval"]) == [0.0, 1.0]).all(1).mean() - 0.25) < 0.05


def test_every_row_has_its_own_key_for_dropout_in_all_terms_and_under_guidance():
    method = methods.guided("meanflow", methods.with_dropout(made("meanflow")), "dmf", scale=(2.0, 2.0))
    drawn = method.draw(jax.random.key(1), drawn_batch(), 0)
    keys = np.concatenate([jax.random.key_data(point.cond["dropout"]) for point in drawn.values()])
    assert keys.shape == (24, 2) and len(np.unique(keys, axis=0)) == 24
    seen = []

    def net(x, s, t, cond):
        seen.append(jax.random.key_data(cond["dropout"]))
        return x * cond["label"][:, None]

    method.loss(typing.Nets(V=net), {"anchor": drawn["anchor"], "eulerian": drawn["eulerian"]})
    guided = jax.random.key_data(drawn["anchor"].cond["dropout"])
    assert all(
        (keys[: len(guided)] == guided).all() for keys in seen[:2]
    )  # the prediction and the null label share their masks


@pytest.mark.parametrize("name", ["soflow", "rectified_meanflow", "flow_matching"])
def test_who_learns_the_intervals(name):
    """Off the diagonal where the data's velocity is used there; with the anchor alone, the anchor."""
    method = methods.guided(name, made(name), "imf", scale=(1.0, 8.0))
    drawn = method.draw(jax.random.key(1), drawn_batch(), 0)
    spread = {term: float(np.ptp(point.cond["interval"][:, 0])) for term, point in drawn.items()}
    assert (spread["anchor"] > 0.2) == (name == "flow_matching")
    assert name == "flow_matching" or spread["eulerian"] > 0.2


def test_both_heads_of_improved_meanflow_regress_on_the_guided_velocity():
    method = methods.guided("imf", methods.make("imf", heads=2, p=0.5, c=0.1, label_drop=0.2), "imf", scale=(2.0, 4.0))
    drawn = method.draw(jax.random.key(2), drawn_batch(), 0)
    V = lambda x, s, t, c: jnp.sin(x + s * t + c["label"][:, None] + 0.1 * c["guidance"][:, None])
    u = lambda x, s, t, c: jnp.cos(x * s + c["label"][:, None] - 0.2 * c["guidance"][:, None])
    nets = typing.Nets(V=V, both=lambda x, s, t, c: (V(x, s, t, c), u(x, s, t, c)))
    errors, metrics = method.loss(nets, drawn)
    adaptive = lambda residual: (residual**2).sum(1) / ((residual**2).sum(1) + 0.1) ** 0.5
    point = drawn["anchor"]  # its interval is (0, 1): w holds at each time
    value = lambda head, label, w: head(point.x, point.s, point.s, {"label": label, "guidance": w})
    null, label, w = jnp.full_like(point.cond["label"], -1), point.cond["label"], point.cond["guidance"]
    v_g = point.v + (1 - 1 / w)[:, None] * (value(u, label, w) - value(u, null, jnp.ones_like(w)))
    v_g = jnp.where(label[:, None] < 0, point.v, v_g)
    residuals = [value(head, label, w) - v_g for head in (V, u)]
    expected = sum(adaptive(residual) for residual in residuals)
    np.testing.assert_allclose(errors.reshape(-1, 2)[:, 0], expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["anchor"], np.mean([np.square(residual) for residual in residuals]), rtol=1e-5)
    # Off the diagonal: the derivative of V along u at the same point, and both heads on the same velocity.
    point = drawn["eulerian"]
    guided = guidance.imf(nets, point)
    x, s, t = point.x, point.s, point.t
    _, dV = jax.jvp(lambda x, s: V(x, s, t, point.cond), (x, s), (guided.V_ss, jnp.ones_like(s)))
    residuals = [V(x, s, t, point.cond) - (t - s) * dV - guided.v, u(x, s, t, point.cond) - guided.v]
    np.testing.assert_allclose(errors.reshape(-1, 2)[:, 1], sum(adaptive(residual) for residual in residuals), rtol=1e-5)


@pytest.mark.parametrize("kind", ["tvm", "guidance_free"])
def test_errors_are_weighted_by_the_square_of_the_scale(kind):
    method = methods.guided("tvm", made("tvm"), kind, scale=(1.0, 4.0))
    drawn = method.draw(jax.random.key(1), drawn_batch(), 0)
    for term in method.terms:
        point = drawn[term.name]
        np.testing.assert_allclose(term.weight(point), 1 / point.cond["guidance"] ** 2, rtol=1e-6)
        assert point.cond["guidance"].max() > 2
