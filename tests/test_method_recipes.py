"""Recipes beyond their contract: published constants and docstrings, gradients and errors of single methods, wrong constants."""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_table import PARAMS, PUBLISHED, ROWS, B, batch, drawn_by, make, mse, nets, network, quick_jit

from flowjax import flowmap, losses, methods, typing
from flowjax.methods import pairs


def test_default_constants_are_the_published_ones():
    for name, info in methods.METHODS.items():
        parameters = inspect.signature(info.recipe).parameters
        assert {key: parameters[key].default for key in PUBLISHED[name]} == PUBLISHED[name]
        assert ROWS[name].noise or name == "cmt" or parameters["path"].default == "linear"
        assert parameters["label_drop"].default == PUBLISHED[name].get("label_drop", 0.1)
        assert all(p.kind is p.KEYWORD_ONLY for p in parameters.values())


def test_the_docstrings_name_the_paper_and_every_constant():
    shared = inspect.getdoc(methods).replace("sigma_min, sigma_max, rho:", "sigma_min:  sigma_max:  rho:")
    for name, info in methods.METHODS.items():
        text = inspect.getdoc(info.recipe)
        assert f"arXiv {info.arxiv}" in text
        for constant in inspect.signature(info.recipe).parameters:
            assert f"  {constant}: " in text + shared or "Arguments as in" in text, (name, constant)
        assert all("arXiv " in inspect.getdoc(pair) for pair in info.pairs)


def test_needs_are_asked_for():
    for name, info in methods.METHODS.items():
        method = make(name)
        for need in info.needs:
            with pytest.raises(typing.InputError, match=rf"nets\.{need} is None: Nets\(V=\.\.\., {need}="):
                method.loss(nets().replace(**{need: None}), {})
    assert make("tvm", ema=0.5).needs == {"ema": 0.5}


def test_scheduled_recipes_need_the_length_of_the_training():
    for name in ("alphaflow", "ct", "ict", "ect", "fmm", "soflow"):
        with pytest.raises(typing.InputError, match=rf"{name}: .*total_steps=.*config\.get_ref"):
            methods.make(name)


# Errors and gradients of single methods


def test_scm_may_follow_a_teacher():
    along_data, along_teacher = make("scm"), make("scm", velocity="teacher")
    assert along_teacher.needs == along_data.needs | {"teacher": {}}
    drawn, given = along_teacher.draw(jax.random.key(0), batch(8), 20_000), nets()
    point = drawn["eulerian"]
    taught = point._replace(v=pairs.bind(given.teacher, point)(point.x, point.s))
    errors = quick_jit(lambda: (along_teacher.loss(given, drawn)[0], along_data.loss(given, {"eulerian": taught})[0]))()
    np.testing.assert_allclose(*errors, rtol=1e-6)
    assert not np.allclose(errors[0], quick_jit(lambda: along_data.loss(given, drawn)[0])())
    with pytest.raises(typing.InputError, match="unknown velocity of scm 'student'"):
        make("scm", velocity="student")


def test_error_of_soflow_is_the_published_one():
    c = 0.03
    for p in (1.0, 0.5):
        method = make("soflow", p=p, c=c, diagonal="0")
        for step in (0, 70):
            drawn = method.draw(jax.random.key(0), batch(24), step)
            point = drawn["eulerian"]
            prediction, target = pairs.call(losses.soflow, nets(), point)
            e, a = np.asarray(jnp.mean((prediction - target) ** 2, axis=1), np.float64), np.asarray(point.a[:, 0], np.float64)
            np.testing.assert_allclose(method.loss(nets(), drawn)[0], a ** (2 * p - 1) * e / (e + c * a**2) ** p / 2, rtol=2e-3)


def test_pd_can_go_on_from_the_stage_before():
    method = make("pd", teacher="map", steps=2)
    assert dict(method.needs) == {"teacher_map": {}}
    drawn = method.draw(jax.random.key(0), batch(24), 0)
    (p,) = drawn.values()
    np.testing.assert_array_equal(np.unique(p.s), [0.5, 1.0])
    half = lambda x, u: nets().teacher_map(x, u, u - 0.25, p.cond)
    weight = np.maximum((1 - p.s) ** 2, p.s**2).reshape(-1)
    error = mse(pairs.call(losses.progressive_distillation, nets(), p, teacher=half))
    np.testing.assert_allclose(method.loss(nets(), drawn)[0], error * weight, rtol=1e-5)


@pytest.mark.slow
def test_the_velocity_of_freeflow_learns_from_samples_alone_and_the_student_not_from_that():
    """Leaf by leaf."""
    method, drawn = make("freeflow"), drawn_by("freeflow")

    def loss(student, auxiliary):
        velocity = lambda x, t, cond=None: jnp.cos(network(auxiliary, x, t, t, cond))
        given = nets().replace(V=functools.partial(network, student), velocity=velocity)
        return jnp.mean(method.loss(given, drawn)[0])

    def alone(auxiliary):
        p = drawn["correction"]
        x0 = flowmap.jump(functools.partial(nets().V, cond=p.cond), p.x, 1.0, 0.0)
        x_r = (1 - p.t) * x0 + p.t * p.eps
        v = jnp.cos(network(auxiliary, x_r, p.t, p.t, p.cond))
        return jnp.sum(mse((v, p.eps - x0))) / B

    # With weight 0 on the correction nothing of the auxiliary's error reaches the student.
    silent = make("freeflow", alpha=0.0)
    student = lambda params: jnp.sum(silent.loss(nets().replace(V=functools.partial(network, params)), drawn)[0][::4])
    params = jax.tree.map(jnp.asarray, PARAMS)
    found, expected, of_student = quick_jit(
        lambda params: (jax.grad(lambda a: loss(params, a))(params), jax.grad(alone)(params), jax.grad(student)(params))
    )(params)
    chex.assert_trees_all_close(found, expected, rtol=1e-4)
    assert all(float(g) == 0 for g in jax.tree.leaves(of_student))


@pytest.mark.slow
def test_a_learned_log_variance_can_be_bounded():
    free, tight = (make("dmf", log_variance_bound=bound) for bound in (None, 0.5))
    drawn = {"eulerian": jax.tree.map(lambda leaf: leaf[:96], drawn_by("dmf")["eulerian"])}
    point = drawn["eulerian"]
    lv = np.asarray(nets().log_variance(point.s, point.t))
    e = mse(pairs.call(losses.meanflow, nets(), point))
    for method, bounded in ((free, lv), (tight, 0.5 * np.tanh(lv / 0.5))):
        expected = np.log(np.exp(-bounded) * e + 0.01) + bounded
        np.testing.assert_allclose(2 * method.loss(nets(), drawn)[0], expected, rtol=1e-4, atol=1e-5)  # half the sum
    with pytest.raises(typing.InputError, match="log_variance_bound is -1"):
        make("dmf", log_variance_bound=-1)


def test_derivatives_by_name():
    """ "exact" is jax.jvp; differences are close to it, and are taken."""
    names = [name for name in PUBLISHED if "jvp" in PUBLISHED[name]]
    of = lambda name, jvp: make(name, jvp=jvp, **methods.METHODS[name].every_row)
    few = {
        name: {term.name: jax.tree.map(lambda leaf: leaf[:96], drawn_by(name)[term.name]) for term in of(name, "exact").terms}
        for name in names
    }
    metrics = lambda name, jvp: lambda drawn: of(name, jvp).loss(nets(), drawn[name])[1]
    both = quick_jit(lambda drawn: {name: [metrics(name, jvp)(drawn) for jvp in ("exact", "central")] for name in names})
    for name, (exact, central) in both(few).items():
        chex.assert_trees_all_close(exact, central, rtol=5e-3)
        program = lambda jvp: str(jax.make_jaxpr(metrics(name, jvp))(few))  # noqa: B023
        assert program("exact") == program(jax.jvp)
        assert program("exact") != program("forward") != program("central")
        with pytest.raises(typing.InputError, match="unknown derivative 'eaxct'"):
            make(name, jvp="eaxct")


# Wrong names and constants


def test_unknown_methods():
    for wrong, near in (("meanflw", "meanflow"), ("Soflow", "soflow"), ("flow-matching", "flow_matching")):
        with pytest.raises(typing.InputError, match=f"'{wrong}'.*did you mean .*{near}") as error:
            methods.make(wrong)
        assert all(name in str(error.value) for name in methods.METHODS)
    with pytest.raises(typing.InputError, match="unknown method 'zzzz'") as error:
        methods.make("zzzz")
    assert "mean" not in str(error.value).replace("meanflow", "")


def test_unknown_constants():
    for name in methods.METHODS:
        with pytest.raises(typing.InputError, match=f"'{name}'.*'lable_drop'.*label_drop"):
            make(name, lable_drop=0.1)


@pytest.mark.parametrize(
    ("name", "hyper", "message"),
    [
        ("meanflow", {"diagonal": "3/2"}, "diagonal is '3/2'"),
        ("meanflow", {"diagonal": "-1/4"}, "diagonal is '-1/4'"),
        ("imf", {"diagonal": "half"}, "diagonal is 'half'"),
        ("soflow", {"diagonal": "1/0"}, "diagonal is '1/0'"),
        ("soflow", {"diagonal": None}, "diagonal is None"),
        ("meanflow", {"path": "liner"}, "unknown path 'liner'"),
        ("tvm", {"label_drop": 1.5}, "label_drop is 1.5"),
        ("tvm", {"times": ("gap_frist",)}, "gap_first"),
        ("flow_matching", {"times": "uniform"}, "a time sampler is a tuple"),
        ("cd", {"solver": "hoin"}, "unknown solver 'hoin'.*heun"),
        ("ct", {"distance": "l3"}, "unknown distance 'l3'.*l2"),
        ("pd", {"steps": 0}, "steps is 0"),
        ("pd", {"teacher": "mop"}, "unknown teacher of pd 'mop'.*map"),
        ("shortcut", {"sections": 100}, "sections is 100"),
        ("pid", {"levels": 1}, "levels is 1"),
        ("facm", {"anchor": "digonal"}, "unknown anchor of facm 'digonal'.*diagonal"),
        ("pmf", {"heads": 3}, "heads is 3"),
        ("pmf", {"perceptual": "lpips"}, "perceptual is 'lpips', and .* has no entry; expected a function"),
        ("lsd", {"diagonal": "bot"}, "diagonal is 'bot'.*\"both\""),
        # One time where a pair is expected, or the other way, would be one time for all rows.
        ("meanflow", {"times": ("uniform",), "diagonal": "1"}, "draws 1 time"),
        ("meanflow", {"times": ("logit_normal", 0.0, 1.0), "diagonal": "0"}, "draws 1 time"),
        ("flow_matching", {"times": ("uniform_triangle",)}, "draws 2 time"),
    ],
)
def test_wrong_constants(name, hyper, message):
    with pytest.raises(typing.InputError, match=message):
        make(name, **hyper)
