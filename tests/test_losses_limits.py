"""Limits and identities that tie losses to each other, for any smooth V (METHODS.md, "Identities")."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_cases import inputs, pair, partials, quick_jit, residual, smooth, teacher, that_take

from flowjax import derivatives, flowmap, losses

pytestmark = pytest.mark.usefixtures("x64")
# The halves of two pairs in which no derivative is.
WITHOUT_DERIVATIVE = ("flow_map_matching_round_trip", "improved_meanflow_two_heads_velocity")


def test_finite_steps_over_their_length_tend_to_derivatives():
    V, W, i = smooth(1), smooth(2), inputs()

    @quick_jit
    def run(a):
        """By name: the residual of a finite step over its length, and its limit."""
        meanflow = residual(losses.meanflow(V, i.x, i.s, i.t, i.v))
        lsd = residual(losses.lagrangian_self_distillation(V, i.x, i.s, i.t))
        lmd_from_noise = residual(losses.lagrangian_distillation(V, teacher(W), i.x, 1.0, i.t))
        return {
            "soflow": (residual(losses.soflow(V, i.x, i.s, i.t, i.v, a)) / a, meanflow),
            "alphaflow": (residual(losses.alphaflow(V, i.x, i.s, i.t, i.v, a)) / a, meanflow),
            "psd": (residual(losses.progressive_self_distillation(V, i.x, i.s, i.t, 1 - a)) / a, lsd),
            "split_meanflow": (residual(losses.split_meanflow(V, i.x, i.s, i.t, 1 - a)) / a, lsd),
            "boot": (residual(losses.boot(V, teacher(W), i.x, i.t, i.t + a * (1 - i.t))) / a, lmd_from_noise),
        }

    runs = [run(a) for a in (1e-3, 5e-4, 2.5e-4)]
    for name in runs[0]:
        differences = np.array([np.abs(jnp.subtract(*finite[name])).max() for finite in runs])
        np.testing.assert_allclose(differences[:-1] / differences[1:], 2.0, rtol=0.01, err_msg=name)
        assert differences[-1] < 0.01, name


def test_pairs_that_are_each_other():
    V, W, i = smooth(1), smooth(2), inputs()
    v_W = teacher(W)

    @quick_jit
    def run(i):
        of = lambda name, *args, **kwargs: residual(getattr(losses, name)(*args, **kwargs))
        on_path = (i.x, i.s, i.t)
        two_legs = of("alphaflow", V, *on_path, i.v, i.a)
        training = of("consistency_training", V, *on_path, i.v, i.a)
        meanflow = of("meanflow", V, *on_path, i.v)
        return {
            "soflow": (of("soflow", V, *on_path, i.v, i.a), two_legs),
            "consistency_training": (training, (i.t - i.s) * two_legs),
            "consistency_distillation": (of("consistency_distillation", V, V, *on_path, i.v, i.a), training),
            "shortcut": (of("shortcut", V, V, *on_path), of("progressive_self_distillation", V, *on_path, 0.5)),
            "split_meanflow": (
                of("split_meanflow", V, *on_path, i.a),
                of("progressive_self_distillation", V, *on_path, i.a),
            ),
            "continuous_consistency": (
                of("continuous_consistency", V, i.x, i.s, i.v),
                of("align_your_flow_emd", V, i.x, i.s, 0.0, i.v),
            ),
            "align_your_flow_emd": (of("align_your_flow_emd", V, *on_path, i.v), meanflow),
            "eulerian_distillation": (of("eulerian_distillation", V, *on_path, i.v), -meanflow),
            "eulerian_self_distillation": (
                of("eulerian_self_distillation", V, *on_path),
                of("eulerian_distillation", V, *on_path, V(i.x, i.s, i.s)),
            ),
            "lagrangian_distillation": (
                of("lagrangian_distillation", V, v_W, *on_path),
                of("align_your_flow_lmd", V, v_W, *on_path),
            ),
            "lagrangian_self_distillation": (
                of("lagrangian_self_distillation", V, *on_path),
                of("terminal_velocity", V, V, *on_path),
            ),
            "freeflow_prediction": (
                of("freeflow_prediction", V, v_W, i.x, i.t, jvp=jax.jvp),
                of("align_your_flow_lmd", V, v_W, i.x, 1.0, i.t),
            ),
            "physics_informed": (
                of("physics_informed", V, v_W, i.x, i.t, jvp=jax.jvp),
                of("lagrangian_distillation", V, v_W, i.x, 1.0, i.t),
            ),
        }

    for name, (one, other) in run(i).items():
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-10, err_msg=name)


def test_the_tangent_of_scm_in_trigonometric_time():
    """With V = trigflow(N) the paper's cos(a) df/da, f = cos(a) x_a - sin(a) N, is -(1 - s) r R."""
    raw = smooth(1)

    @quick_jit
    def run(i):
        r, a = jnp.sqrt(i.s**2 + (1 - i.s) ** 2), jnp.arctan2(i.s, 1 - i.s)
        N = lambda x, a: raw(x, a / (jnp.pi / 2), 0.0)
        x_a = i.x / r
        dx_da = r * (i.v - (2 * i.s - 1) / r**2 * i.x)  # the velocity in trigonometric time and scale
        f = lambda x, a: jnp.cos(a) * x - jnp.sin(a) * N(x, a)
        g = jnp.cos(a) * jax.jvp(f, (x_a, a), (dx_da, jnp.ones_like(a)))[1]
        return g, -(1 - i.s) * r * residual(losses.continuous_consistency(flowmap.trigflow(raw), i.x, i.s, i.v))

    np.testing.assert_allclose(*run(inputs()), rtol=1e-9, atol=1e-10)


def test_improved_meanflow_is_meanflow_plus_the_turned_tangent():
    V, i = smooth(1), inputs()

    @quick_jit
    def run(i):
        meanflow = losses.meanflow(V, i.x, i.s, i.t, i.v)
        improved = losses.improved_meanflow(V, i.x, i.s, i.t, i.v)
        same = losses.improved_meanflow(V, i.x, i.s, i.t, i.v, v_tangent=i.v)
        turned = partials(V, i)("x", V(i.x, i.s, i.s) - i.v)
        return residual(meanflow), residual(improved), residual(same), turned

    meanflow, improved, same, turned = run(i)
    # imf - meanflow = -(t - s) grad_x V . (V(x, s, s) - v)
    np.testing.assert_allclose(improved, meanflow - (i.t - i.s) * turned, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(same, meanflow, rtol=1e-12, atol=1e-12)


# Multiples of flow matching's residual with s = t.
ON_THE_DIAGONAL = {
    "meanflow": 1.0,
    "improved_meanflow": 1.0,
    "improved_meanflow_with_tangent": 1.0,
    "improved_meanflow_two_heads_average": 1.0,
    "soflow": "a",
    "alphaflow": "a",
    "align_your_flow_emd": 1.0,
    "eulerian_distillation": -1.0,
    "align_your_flow_lmd": 1.0,
    "lagrangian_distillation": 1.0,
    "lagrangian_self_distillation": 0.0,
    "eulerian_self_distillation": 0.0,
    "shortcut": 0.0,
    "split_meanflow": 0.0,
    "progressive_self_distillation": 0.0,
    "terminal_velocity": 0.0,
    "consistency_training": 0.0,
}


def test_on_the_diagonal_it_is_flow_matching():
    V, i = smooth(1), inputs()
    i = i._replace(t=i.s)

    @quick_jit
    def run(i):
        distilled = lambda name: name in ("align_your_flow_lmd", "lagrangian_distillation")  # v is the teacher's
        second = {name: (lambda x, s, t: i.v) if distilled(name) else V for name in ON_THE_DIAGONAL}
        on_diagonal = {name: residual(pair(name, V, second[name], i)) for name in ON_THE_DIAGONAL}
        return on_diagonal, residual(losses.flow_matching(V, i.x, i.s, i.v))

    on_diagonal, flow_matching = run(i)
    for name, multiple in ON_THE_DIAGONAL.items():
        expected = flow_matching * (i.a if multiple == "a" else multiple)
        np.testing.assert_allclose(on_diagonal[name], expected, rtol=1e-12, atol=1e-12, err_msg=name)


def test_terminal_velocity_on_the_diagonal_compares_the_two_networks():
    V, W, i = smooth(1), smooth(2), inputs()
    same = losses.terminal_velocity(V, V, i.x, i.s, i.s)
    np.testing.assert_array_equal(same.prediction, same.target)
    other = losses.terminal_velocity(V, W, i.x, i.s, i.s)
    np.testing.assert_allclose(residual(other), V(i.x, i.s, i.s) - W(i.x, i.s, i.s), rtol=1e-12)


def test_one_leg_of_the_whole_way_is_trajectory_flow_matching():
    V, i = smooth(1), inputs()
    for loss in (losses.soflow, losses.alphaflow):
        legs = residual(loss(V, i.x, i.s, i.t, i.v, 1.0))
        np.testing.assert_allclose(legs, V(i.x, i.s, i.t) - i.v, rtol=1e-12, err_msg=loss.__name__)


def test_finite_differences_approach_the_exact_derivative():
    V, W, i = smooth(1), smooth(2), inputs()
    names = [name for name in that_take("jvp") if name not in WITHOUT_DERIVATIVE]
    orders = {"forward": 1, "backward": 1, "central": 2}
    steps = np.array([4e-3, 2e-3, 1e-3])

    @quick_jit
    def run(h):
        at_step = lambda name, scheme: residual(pair(name, V, W, i, jvp=_difference(h, scheme)))
        limits = {name: residual(pair(name, V, W, i, jvp=jax.jvp)) for name in names}
        return {(name, scheme): at_step(name, scheme) - limits[name] for name in names for scheme in orders}

    runs = [run(h) for h in steps]
    for name, scheme in runs[0]:
        errors = [np.abs(differences[name, scheme]).max() for differences in runs]
        order = np.polyfit(np.log(steps), np.log(errors), 1)[0]
        assert order == pytest.approx(orders[scheme], abs=0.1), (name, scheme)
        assert errors[-1] < 0.1 * steps[-1] ** (orders[scheme] - 1), (name, scheme)


def _difference(h, scheme):
    """finite_difference with a traced step (its check wants a number), so that one compilation serves all steps."""
    one = derivatives.finite_difference(1.0, scheme)

    def jvp(fun, primals, tangents, has_aux=False):
        primal, tangent, *aux = one(fun, primals, jax.tree.map(lambda u: h * u, tangents), has_aux=has_aux)
        return primal, jax.tree.map(lambda d: d / h, tangent), *aux

    return jvp


def test_losses_from_noise_take_a_central_difference_by_default():
    V, W, i = smooth(1), smooth(2), inputs()
    for loss in (losses.freeflow_prediction, losses.physics_informed):
        run = lambda loss=loss, **jvp: loss(V, teacher(W), i.x, i.t, **jvp)
        chex.assert_trees_all_equal(run(), run(jvp=derivatives.finite_difference()))
        difference = residual(run()) - residual(run(jvp=jax.jvp))
        assert 1e-13 < jnp.abs(difference).max() < 1e-8, loss.__name__
