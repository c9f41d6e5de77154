"""The table of inputs: what a condition is, and inputs that are added by one line each, in every network and through the trainer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import small

from flowjax import conditioning, data, models, typing
from flowjax.data import points
from flowjax.training import loading, loop, runs, sampling

ADDED = ("level", "image", "text")


@pytest.fixture
def added(monkeypatch):
    """A level, an array like x, and a vector that stands for a text: one line each."""
    monkeypatch.setitem(conditioning.INPUTS, "level", conditioning.Input("times", null=1.0))
    monkeypatch.setitem(conditioning.INPUTS, "image", conditioning.Input("data"))
    monkeypatch.setitem(conditioning.INPUTS, "text", conditioning.Input("vector", shape=(5,), dropped=True))


def test_absent_inputs_have_their_null_values(added):
    x, nulls = (
        jnp.zeros((3, 4, 4, 1)),
        {
            "label": -1,
            "guidance": 1.0,
            "interval": (0.0, 1.0),
            "augmentation": 0,
            "level": 1.0,
            "image": 0,
            "text": 0,
            "x_c": 0,
            "c": 1.0,
            "c_to": 0.0,
            **dict.fromkeys(conditioning.PATH, 0),
        },
    )
    assert set(nulls) == set(conditioning.INPUTS)
    shapes = {"interval": (3, 2), "augmentation": (3, 9), "image": x.shape, "x_c": x.shape, "text": (3, 5)}
    shapes |= dict.fromkeys(conditioning.PATH, x.shape)
    for name, null in nulls.items():
        result = conditioning.value(name, None, x)
        assert result.shape == shapes.get(name, (3,)) and jnp.issubdtype(result.dtype, jnp.floating) == (name != "label")
        np.testing.assert_array_equal(result, np.broadcast_to(null, result.shape))
        given = result.astype(jnp.bfloat16) if name != "label" else result
        assert conditioning.value(name, {name: given}, x).dtype == result.dtype  # never narrower than float32
    with pytest.raises(typing.InputError, match=r"cond\['image'\] has shape \(3, 4\).*expected \(3, 4, 4, 1\), like x"):
        conditioning.value("image", {"image": jnp.zeros((3, 4))}, x)


def test_no_class_and_dropped_labels_keep_what_is_not_of_the_class(added):
    x = jnp.zeros((2, 2))
    batch = {"x": x, "eps": x, "label": jnp.array([3, 4]), "guidance": jnp.array([2.0, 3.0]), "interval": jnp.full((2, 2), 0.5)}
    batch |= {
        "level": jnp.array([0.1, 0.2]),
        "image": x + 7,
        "text": jnp.ones((2, 5)),
        "dropout": jax.random.split(jax.random.key(0)),
    }
    cond = conditioning.of_batch(batch)
    assert set(cond) == set(batch) - {"x", "eps"}
    nulled = {"label": [-1, -1], "guidance": [1, 1], "interval": [[0, 1], [0, 1]], "text": np.zeros((2, 5))}
    null, dropped = conditioning.null(cond), conditioning.dropped(cond, jnp.array([True, False]))
    for name, value in cond.items():
        assert null[name].dtype == dropped[name].dtype == value.dtype
        if name == "dropout":
            continue
        np.testing.assert_array_equal(null[name], nulled.get(name, value))
        changed = name in ("label", "text")
        np.testing.assert_array_equal(dropped[name][0], np.asarray(nulled[name] if changed else value)[0])
        np.testing.assert_array_equal(dropped[name][1], value[1])
    assert set(conditioning.without(cond, conditioning.GUIDANCE)) == set(cond) - {"guidance", "interval"}


def test_rows_to_sample_have_one_value(added):
    cond = conditioning.rows([1, 2, 3], {"level": 0.3, "interval": (0.2, 0.7), "image": np.ones((4, 4, 1))})
    assert {name: value.shape for name, value in cond.items()} == {
        "label": (3,), "level": (3,), "interval": (3, 2), "image": (3, 4, 4, 1),
    }  # fmt: skip
    np.testing.assert_allclose(cond["interval"][2], [0.2, 0.7])
    with pytest.raises(typing.InputError, match=r"value of the input 'interval' has shape \(\); expected \(2,\), of one row"):
        conditioning.rows([1], {"interval": 0.5})
    with pytest.raises(typing.InputError, match="unknown input of a network 'lvl'; did you mean level"):
        conditioning.rows([1], {"lvl": 0.5})


def test_which_inputs_a_network_takes(added, monkeypatch):
    assert models.make("mlp", inputs=("text", "guidance")).inputs == ("guidance", "text")  # in the order of the table
    with pytest.raises(typing.InputError, match="'label' where num_classes is above 0"):
        models.make("mlp", inputs=("label",))
    with pytest.raises(typing.InputError, match="unknown input of a network 'lvl'; did you mean level"):
        models.make("dit", inputs=("lvl",))
    monkeypatch.setitem(models.MODELS, "plain", lambda num_classes=0: models.MLP(num_classes))
    assert models.make("plain").inputs == ()  # a network of one's own need not have the field
    with pytest.raises(typing.InputError, match="unknown field of network 'plain' 'inputs'"):
        models.make("plain", inputs=("level",))
    config = small("meanflow")
    config.model.inputs = ("guidance",)
    with pytest.raises(typing.InputError, match="config.model.inputs has 'guidance', which follows from config.guidance"):
        runs.setup(config, devices=jax.devices()[:1])


NETS = {
    "mlp": {"width": 16},
    "dit": {"width": 16, "depth": 1, "heads": 2, "patch": 2},
    "mit": {"width": 16, "depth": 1, "heads": 2, "patch": 2, "head_depth": 0},
    "unet": {"channels": 8, "multipliers": (1,), "blocks": 1, "attention_at": ()},
    "decoupled_dit": {"width": 16, "depth": 2, "heads": 2, "patch": 2},
    "semi_lipschitz_dit": {"width": 16, "depth": 1, "heads": 2, "patch": 2},
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n != "dit" else n for n in NETS])
def test_added_inputs_start_at_zero_and_are_learned(added, name):
    """With them a network is the same function at first, and each has a gradient."""
    assert all(models.from_zero(name, entry) for entry in ADDED)
    rng, plain = np.random.default_rng(0), models.make(name, **NETS[name])
    net = models.make(name, inputs=ADDED, **NETS[name])
    x = jnp.asarray(rng.standard_normal((2, 3) if name == "mlp" else (2, 4, 4, 1)), jnp.float32)
    moved = lambda tree: jax.tree.map(lambda leaf: leaf + jnp.asarray(0.2 * rng.standard_normal(leaf.shape), leaf.dtype), tree)
    cond = {"level": jnp.array([0.3, 0.6]), "image": x + 1, "text": jnp.ones((2, 5))}

    def program():
        inputs = (jax.random.key(0), x, 1.0, 0.0)
        bare, params = plain.init(*inputs)["params"], net.init(*inputs)["params"]
        new = {layer: params[layer] for layer in params if layer not in bare}
        bare = moved(bare)
        V = lambda new: net.apply({"params": bare | new}, x, 0.8, 0.3, cond)
        spread = lambda leaf: jnp.cos(jnp.arange(leaf.size, dtype=leaf.dtype)).reshape(leaf.shape)
        along = [
            {layer: jax.tree.map(spread if layer == entry else jnp.zeros_like, new[layer]) for layer in new} for entry in ADDED
        ]
        result, change = jax.linearize(V, new)
        changes = jax.vmap(change)(jax.tree.map(lambda *leaves: jnp.stack(leaves), *along))
        return plain.apply({"params": bare}, x, 0.8, 0.3), result, changes

    expected, result, changes = jax.jit(program, compiler_options={"xla_backend_optimization_level": 0})()
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(changes).reshape(3, -1).max(axis=1).min() > 1e-3


def _noted(**where):
    """The checkerboard with a level, a noised observation and a vector for each row."""
    source = points.source("checkerboard", **where)

    def rows(ids):
        x = source.rows(ids)["x"]
        level = np.linspace(0, 1, len(ids), dtype=np.float32)
        return {"x": x, "level": level, "image": (1 - level[:, None]) * x, "text": np.repeat(level[:, None], 5, axis=1)}

    return source._replace(rows=rows)


@pytest.mark.slow
def test_a_run_with_added_inputs_trains_samples_and_continues_one_without(added, monkeypatch, saved_run, tmp_path):
    monkeypatch.setitem(data.DATASETS, "noted", _noted)
    plain = saved_run(small("flow_matching"), tmp_path / "plain")
    config = small("flow_matching", steps=2, start=str(plain))
    config.data.name, config.model.inputs = "noted", ADDED
    run, before = runs.setup(config, devices=jax.devices()[:1]), loading.load(plain)
    x = np.random.default_rng(1).standard_normal((4, 2)).astype(np.float32)
    cond = {"level": jnp.array([0.1, 0.2, 0.3, 0.4]), "image": jnp.asarray(x), "text": jnp.ones((4, 5))}
    ask = lambda net, params, cond: net.apply({"params": params}, x, 0.9, 0.2, cond)
    params = jax.device_get(run.init().params["V"])
    np.testing.assert_array_equal(ask(run.net, params, cond), ask(before.net, before.params, None))
    loop.train(config, tmp_path / "run")
    after = loading.load(tmp_path / "run", average="none")
    moved = [name for name in ADDED if any(np.any(leaf) for leaf in jax.tree.leaves(after.params[name]))]
    assert moved == list(ADDED)
    values = {"level": 0.2, "image": np.array([1.0, -1.0]), "text": np.ones(5)}
    samples = after.sample(4, 2, sampler="euler", inputs=values)
    assert np.abs(samples - after.sample(4, 2, sampler="euler")).max() > 1e-4
    np.testing.assert_array_equal(
        samples, sampling.make_sampler(after.net, after.shape, "euler", values)(after.params, 0, [-1] * 4, 2)
    )
    with pytest.raises(typing.InputError, match="unknown input in config.model.inputs of the run 'interval'"):
        after.V(inputs={"interval": (0.0, 1.0)})
