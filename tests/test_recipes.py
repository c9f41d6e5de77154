"""What recipes are made of: terms that train, rest, prepare and group; arguments of losses by name; what is printed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import distances, losses, methods, typing
from flowjax.methods import draws, pairs, recipe

X = jnp.arange(24.0).reshape(8, 3) / 24
BATCH, KEY = {"x": X, "label": jnp.arange(8)}, jax.random.key(0)
LEVELS = draws.target_times(("uniform",))


def method_of(*terms, points=draws.noise_beside_data, **options):
    return recipe.method(terms, points=points, label_drop=0.0, **options)


def players(theta, phi):
    """A student and a critic of one weight each, with their stopped twins."""
    V = lambda weight: lambda x, s, t, cond=None: weight * x
    critic = lambda weight: lambda x, t, cond=None: weight * jnp.mean(x**2, axis=1)
    sg = jax.lax.stop_gradient
    stopped = {"V": V(sg(theta)), "critic": critic(sg(phi))}
    return typing.Nets(V=V(theta), critic=critic(phi), stopped=stopped)


def samples(nets, point):
    return point.x - pairs.bind(nets.V, point)(point.x, 1.0, 0.0)


def critic_errors(nets, point):
    """A critic that is high on data and low on samples."""
    critic = pairs.bind(nets.critic, point)
    return jax.nn.softplus(critic(samples(nets, point), point.t)) + jax.nn.softplus(-critic(point.x0, point.t))


def student_errors(nets, point):
    return jax.nn.softplus(-pairs.bind(nets.critic, point)(samples(nets, point), point.t))


STUDENT = typing.Term("student", student_errors, None, times=LEVELS, trains=("V",))
CRITIC = typing.Term("critic", critic_errors, None, times=LEVELS, trains=("critic",))


def gradients(method, drawn):
    return jax.grad(lambda w: method.loss(players(*w), drawn)[0].mean())((jnp.array(0.5), jnp.array(2.0)))


def test_a_term_trains_what_it_names_and_gradients_of_inputs_pass():
    method = method_of(STUDENT, CRITIC)
    drawn = method.draw(KEY, BATCH, 0)
    for term, other in (("student", 1), ("critic", 0)):
        alone = gradients(method, {term: drawn[term]})
        assert float(alone[other]) == 0 and abs(float(alone[1 - other])) > 1e-3
    # Without `trains` all weights learn from both errors.
    free = method_of(STUDENT._replace(trains=()), CRITIC._replace(trains=()))
    assert all(abs(float(g)) > 1e-3 for g in gradients(free, {"student": drawn["student"]}))


def test_a_term_that_is_not_drawn_rests():
    method = method_of(STUDENT, CRITIC)
    drawn = method.draw(KEY, BATCH, 0)
    nets = players(0.5, 2.0)
    (errors, metrics), (only, metric) = (method.loss(nets, d) for d in (drawn, {"critic": drawn["critic"]}))
    assert set(metrics) == {"student", "critic"} and set(metric) == {"critic"}
    np.testing.assert_allclose(only, critic_errors(nets, drawn["critic"]), rtol=1e-6)
    np.testing.assert_allclose(errors - only, student_errors(nets, drawn["student"]), rtol=1e-5)
    assert set(methods.raw_errors(method, nets, {"student": drawn["student"]})) == {"student"}
    # Its networks are not evaluated.
    without = nets.replace(V=None, stopped={})
    with pytest.raises(TypeError):
        method.loss(without, {"student": drawn["student"]})


def test_what_a_term_prepares_has_no_gradient():
    def prepare(nets, point):
        return point._replace(x=samples(nets, point), extra={"norm": jnp.sum(samples(nets, point) ** 2, 1)})

    loss = lambda V, x, norm: typing.Pair(V(x, 1.0, 0.0), 0 * x + norm[:, None])
    term = typing.Term("mine", pairs.pair(loss), distances.l2, lambda p: p.extra["norm"], times=LEVELS, prepare=prepare)
    method = method_of(term)
    drawn = method.draw(KEY, BATCH, 0)
    x = drawn["mine"].x * (1 - 0.5)
    norm = (x**2).sum(1, keepdims=True)
    expected = lambda theta: (((theta * x - norm) ** 2).mean(1) * norm[:, 0]).mean()
    computed = gradients(method, drawn)
    np.testing.assert_allclose(computed[0], jax.grad(expected)(0.5), rtol=1e-5)


def test_further_arrays_leave_the_other_draws_as_they_are():
    extra = lambda key, rows, step: {"key": jax.random.split(key, len(rows["x0"])), "second": rows["x0"] + step}
    plain = typing.Term("a", pairs.anchor, distances.l2, times=draws.diagonal_times(("uniform",)))
    one, other = (
        method_of(*terms, points=draws.on_path("linear")).draw(KEY, BATCH, 3)
        for terms in ((plain, plain._replace(name="b")), (plain._replace(extra=extra), plain._replace(name="b", extra=extra)))
    )
    for name in "ab":
        for field in ("x", "s", "v", "eps"):
            np.testing.assert_array_equal(getattr(one[name], field), getattr(other[name], field))
        np.testing.assert_array_equal(other[name].extra["second"], X + 3)
        keys = jax.random.key_data(other[name].extra["key"])
        assert len(np.unique(keys, axis=0)) == 8
    assert one["a"].extra is None
    both = (jax.random.key_data(other[name].extra["key"]) for name in "ab")
    assert (next(both) != next(both)).any(1).all()


def test_a_group_shares_its_times_and_stays_together():
    plain = typing.Term("mine", pairs.anchor, distances.l2, times=draws.diagonal_times(("uniform",)), group=4)
    method = method_of(plain, points=draws.on_path("linear"))
    s = np.asarray(method.draw(KEY, BATCH, 0)["mine"].s).reshape(2, 4)
    assert (s == s[:, :1]).all() and s[0, 0] != s[1, 0]
    for columns, group, rows in (
        ((0, 1, 1), 4, 4),
        ((0, 1, 4), 4, 16),
        ((0, 2, 3), 4, 6),
        ((0, 3, 4), 6, 8),
        ((0, 1, 2), 1, 2),
    ):
        shared = method_of(plain._replace(columns=columns, group=group), points=draws.on_path("linear"))
        assert methods.rows_multiple(shared) == rows
        big = {"x": jnp.zeros((2 * rows, 1))}
        times = np.asarray(shared.draw(KEY, big, 0)["mine"].s).reshape(-1, group)
        assert (times == times[:, :1]).all() and len(np.unique(times[:, 0])) == len(times)
        assert methods.rows_multiple(method_of(plain, shared.terms[0]._replace(name="other"))) == np.lcm(4, rows)
    with pytest.raises(
        typing.InputError, match=r"term 'mine' gets 6 rows of the batch, and 4 rows belong together .* multiple of 4"
    ):
        method.draw(KEY, {"x": jnp.zeros((6, 1))}, 0)


def test_noise_beside_data():
    point = method_of(STUDENT).draw(KEY, BATCH, 0)["student"]
    np.testing.assert_array_equal(point.x0, X)
    assert point.s is None and point.v is None and point.t.shape == (8, 1)
    assert len({float(value) for value in jnp.concatenate([point.x, point.eps, point.x0]).ravel()}) == 72
    same = method_of(STUDENT, points=draws.from_noise).draw(KEY, BATCH, 0)["student"]
    assert same.x0 is None and (same.x == point.x).all() and (same.eps == point.eps).all()


def test_metrics_of_a_pair_and_of_errors():
    pair = lambda nets, point: typing.Pair(point.x, 0 * point.x)
    largest = lambda prediction, target: jnp.abs(prediction - target).max(1)
    terms = (
        typing.Term("pair", pair, distances.l2, times=LEVELS, metric=largest),
        typing.Term("errors", lambda nets, point: point.x[:, 0], None, times=LEVELS, metric=lambda errors: errors + 1),
        typing.Term("plain", lambda nets, point: point.x[:, 0], None, times=LEVELS),
        typing.Term("arguments", pair, distances.likelihood, times=LEVELS, arguments=lambda n, p: {"log_variance": p.x[:, 0]}),
    )
    method = method_of(*terms)
    drawn = method.draw(KEY, BATCH, 0)
    metrics = method.loss(players(1.0, 1.0), drawn)[1]
    x = {name: point.x for name, point in drawn.items()}
    expected = {
        "pair": jnp.abs(x["pair"]).max(1).mean(),
        "errors": x["errors"][:, 0].mean() + 1,
        "plain": x["plain"][:, 0].mean(),
        "arguments": (x["arguments"] ** 2).mean(),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5)
    x = drawn["arguments"].x
    errors = method.loss(players(1.0, 1.0), {"arguments": drawn["arguments"]})[0]
    np.testing.assert_allclose(errors, jnp.exp(-x[:, 0]) * (x**2).mean(1) + x[:, 0], rtol=1e-5)


def test_heads_are_scored_by_name():
    """Three heads of one network from one pass: their errors are summed, their raw metrics averaged."""
    calls = []

    def heads(x, s, t, cond):
        calls.append(x)
        return {"V": 1.0 * x, "velocity": 2.0 * x, "divergence": 3.0 * x[:, :1]}

    def loss(heads, x, t):
        return {name: typing.Pair(head, 0 * head) for name, head in heads(x, 1.0, t).items()}

    method = method_of(typing.Term("mine", pairs.pair(loss), distances.l2, times=LEVELS))
    drawn = method.draw(KEY, BATCH, 0)
    errors, metrics = method.loss(typing.Nets(V=None, heads=heads), drawn)
    x = drawn["mine"].x
    each = [(x**2).mean(1), (4 * x**2).mean(1), 9 * x[:, 0] ** 2]
    np.testing.assert_allclose(errors, sum(each), rtol=1e-5)
    np.testing.assert_allclose(metrics["mine"], np.mean(each), rtol=1e-5)
    assert len(calls) == 1


def test_heads_follow_the_network_of_v():
    nets = typing.Nets(
        V="V", both="both", heads="heads", fake="fake", stopped=dict.fromkeys(("V", "both", "heads", "fake"), "-")
    )
    names = ("V", "both", "heads", "fake")
    values = lambda nets: "".join(getattr(nets, name)[0] for name in names)
    assert values(nets.training(("V",))) == "Vbh-"
    assert values(nets.training(("fake",))) == "---f"
    assert values(nets.training(())) == "----"


# Arguments by name


def test_arguments_of_a_loss_come_by_their_names():
    nets = typing.Nets(
        V=lambda x, s, t, cond: ("V", cond["label"]),
        ema=lambda x, s, t, cond: "ema",
        teacher=lambda x, t, cond: "teacher",
        teacher_map=lambda x, s, t: "teacher_map",
        velocity=lambda x, t, cond: "velocity",
        fake=lambda x, t: "fake",
    )
    point = typing.Point(x="x", s=1.0, t=0.5, v="v", a=0.5, x0="x0", eps="eps", cond={"label": 7}, extra={"key": "key"})

    def loss(
        V, V_target, V_frozen, V_teacher, teacher, velocity, fake, x, s, t, v, a, x0, eps, r, m, key, *, warmup=1.0, c=3.0
    ):
        return (
            V(x, s, t), V_target(x, s, t), V_frozen(x, s, t), V_teacher(x, s, t), teacher(x, t), velocity(x, t), fake(x, t),
            x, s, t, v, a, x0, eps, r, m, key, warmup, c,
        )  # fmt: skip

    expected = (
        ("V", 7), "ema", "ema", "teacher_map", "teacher", "velocity", "fake",
        "x", 1.0, 0.5, "v", 0.5, "x0", "eps", 0.5, 0.75, "key", 0.5, 3.0,
    )  # fmt: skip
    assert pairs.pair(loss)(nets, point) == expected
    assert pairs.pair(loss, c=4.0)(nets, point)[-1] == 4.0
    assert pairs.pair(loss)(nets, point, x="other")[7] == "other"
    assert pairs.pair(loss)(nets, point._replace(a=None), a=0, m=0)[-2] == 1.0  # no warm-up: the loss's default
    of_teacher = lambda V, x, s, v: v
    assert pairs.distilled(of_teacher)(nets, point) == "teacher"
    assert pairs.middle(typing.Point(x=None, t=0.5, a=0.5)) == 0.75


def test_an_argument_that_nobody_has_is_named():
    point = typing.Point(x=X, s=jnp.ones((8, 1)))
    with pytest.raises(
        typing.InputError, match=r"meanflow takes 't', which neither the point has .* \(V\); give it: .*, t=\.\.\.\)"
    ):
        pairs.pair(losses.meanflow)(typing.Nets(V=lambda x, s, t: x), point)
    with pytest.raises(typing.InputError, match="unknown argument of meanflow 'jpv'; did you mean jvp"):
        pairs.pair(losses.meanflow, jpv="exact")
    with pytest.raises(typing.InputError, match="unknown derivative 'eaxct'"):
        pairs.pair(losses.meanflow, jvp="eaxct")


def test_networks_without_conditioning():
    """All recipes that need V alone take `lambda x, s, t: ...`."""
    for name in ("flow_matching", "meanflow", "soflow", "alphaflow", "ct", "fmm"):
        method = methods.make(name, total_steps=100)
        drawn = jax.eval_shape(method.draw, KEY, {"x": jnp.ones((8, 2))}, 0)
        plain, usual = (
            jax.make_jaxpr(lambda drawn, V=V: method.loss(typing.Nets(V=V), drawn))(drawn)  # noqa: B023
            for V in (lambda x, s, t: s * x, lambda x, s, t, cond=None: s * x)
        )
        assert str(plain) == str(usual)


def test_a_batch_that_is_no_dict():
    method = methods.make("meanflow")
    with pytest.raises(
        typing.InputError, match=r'draw: the batch is of type ArrayImpl; expected a dict .*\{"x": \[B, \.\.\.\]\}'
    ):
        method.draw(KEY, X, 0)
    with pytest.raises(typing.InputError, match="draw: the batch is a dict of 'image'"):
        method.draw(KEY, {"image": X}, 0)


# What is printed


def test_a_method_of_any_networks_is_registered_and_needs_what_its_recipe_says():
    def mine(*, every=5):
        critic = CRITIC._replace(every=every)
        return method_of(STUDENT, critic, needs={"critic": typing.Network(call="scalar")})

    try:
        methods.register("players", mine, jumps="from noise")
        info = methods.METHODS["players"]
        assert info.needs == ("critic",) and not info.reads_data and info.eval_steps({}) == (1,)
        method = methods.make("players", every=2, total_steps=10)
        assert method.terms[1].every == 2
        with pytest.raises(typing.InputError, match="needs the network 'critic'"):
            method.loss(typing.Nets(V=None), {})
        assert str(method).splitlines() == [
            "Method",
            "  term     rows  every  trains  distance",
            "  student  all   1      V       none (errors)",
            "  critic   all   2      critic  none (errors)",
            "  needs: critic",
        ]
    finally:
        methods.METHODS.pop("players", None)


def test_methods_print_as_tables():
    text = str(methods.METHODS["meanflow"])
    for words in ("meanflow", "eulerian", "V alone", "all jumps", "4 + rho FPE", "arXiv 2505.13447"):
        assert words in text
    assert "3 of 4" in str(methods.make("meanflow")) and "adaptive" in str(methods.make("meanflow"))
    assert len(text.splitlines()) == 11


def test_properties_of_methods():
    learned = {
        name: (info.learns_velocity, info.learns_map, info.reads_data, info.sampler) for name, info in methods.METHODS.items()
    }
    assert learned["meanflow"] == (True, True, True, "flow_map")
    assert learned["flow_matching"] == (True, False, True, "euler")
    assert learned["ct"] == (False, False, True, "consistency")
    assert learned["pid"] == (False, False, False, "flow_map")
    assert learned["pd"] == (False, False, True, "flow_map")
    steps = {name: methods.METHODS[name].eval_steps({"steps": 4}) for name in ("meanflow", "flow_matching", "ct", "pid", "pd")}
    assert steps == {"meanflow": None, "flow_matching": None, "ct": None, "pid": (1,), "pd": (4,)}
