"""Weights to start from: published files, a decoupled network from a plain one, and networks that cannot learn more on top."""

import importlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common, imf, meanflow, method as method_config
from flowjax import data, methods, models, training, typing
from flowjax.training import loading, parts, runs, settings

ONE = jax.devices()[:1]
SMALL = {"width": 16, "depth": 2, "heads": 2}


def config_of(network, preset="digits", **changes):
    config = meanflow.get_config(preset)
    config.update({"eval_every": 0, "steps": 400, "batch_size": 32})
    config.model = common.network(network, **SMALL, **changes)
    return config


def moved(config):
    """The tree of a network's weights, off the zeros of its initialisation."""
    run = runs.setup(config, devices=ONE)
    params = jax.device_get(run.init().params["V"])
    return run, jax.tree.map(lambda p: p + 0.1 * np.random.default_rng(p.size).standard_normal(p.shape).astype(p.dtype), params)


def published_names(params, depth):
    """A plain DiT's weights under the names of the published MeanFlow code."""
    leaves = {"y_embedder/embedding_table/_flax_embedding/embedding": params["label"]["Embed_0"]["embedding"]}
    linear = lambda name, layer: leaves.update({f"{name}/{part}": value for part, value in layer.items()})
    patch = params["patch_in"]["kernel"]
    linear("x_embedder/proj", {"kernel": patch.reshape(2, 2, -1, patch.shape[-1]), "bias": params["patch_in"]["bias"]})
    for ours, theirs in (("source", "t_embedder"), ("gap", "h_embedder")):
        for number, layer in enumerate(("layers_0", "layers_2")):
            linear(f"{theirs}/mlp/{layer}/_flax_linear", params[ours][f"Dense_{number}"])
    linear("final_layer/linear/_flax_linear", params["patch_out"])
    linear("final_layer/adaLN_modulation/layers_1/_flax_linear", params["modulation"])
    names = {
        "qkv": "attn/qkv",
        "attention_out": "attn/proj",
        "mlp_in": "mlp/fc1",
        "mlp_out": "mlp/fc2",
        "modulation": "adaLN_modulation/layers_1",
    }
    for block in range(depth):
        for ours, theirs in names.items():
            layer = {part: value[block] for part, value in params["blocks"][ours].items()}
            linear(f"blocks/layers_{block}/{theirs}/_flax_linear", layer)
    return leaves


@pytest.mark.slow
def test_a_run_starts_from_a_published_file(tmp_path):
    config = config_of("dit")
    _, params = moved(config)
    np.savez(tmp_path / "published.npz", **published_names(params, SMALL["depth"]))
    config.start = str(tmp_path / "published.npz")
    started = runs.setup(config, devices=ONE).init().params["V"]
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(started), params)
    config.model.depth = 3
    with pytest.raises(typing.InputError, match="the weights to start from are of another network"):
        runs.setup(config, devices=ONE)
    config.model = common.network("mlp")
    with pytest.raises(typing.InputError, match="published weights are of the networks dit, mit, decoupled_dit"):
        runs.setup(config, devices=ONE)


@pytest.mark.slow
def test_a_decoupled_network_starts_from_a_plain_run_with_the_same_velocity(saved_run, tmp_path):
    plain = config_of("dit")
    folder = saved_run(plain, tmp_path / "plain")
    decoupled = config_of("decoupled_dit", source_depth=1)
    decoupled.start = str(folder)
    run = runs.setup(decoupled, devices=ONE)
    trained = loading.load(folder)
    x, label = jax.random.normal(jax.random.key(0), (4, 8, 8, 1)), jnp.array([1, -1, 3, 9])
    s = jnp.linspace(0.1, 0.9, 4).reshape(4, 1, 1, 1)
    result = run.net.apply({"params": run.init().params["V"]}, x, s, s, {"label": label})
    expected = trained.net.apply({"params": trained.params}, x, s, s, {"label": label})
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(expected).max() > 0.1


@pytest.mark.slow
def test_a_transformer_of_tokens_does_not_start_without_the_tokens_of_the_guidance(saved_run, tmp_path):
    small = {"width": 16, "depth": 2, "heads": 2, "head_depth": 1}
    plain = imf.get_config("digits")
    plain.model = common.network("mit", **small)
    folder = saved_run(plain, tmp_path / "plain")
    guided = imf.get_config("guided")
    guided.model = common.network("mit", **small)
    guided.start = str(folder)
    with pytest.raises(typing.InputError, match="has the inputs none besides the label, and this one guidance and interval"):
        runs.setup(guided, devices=ONE)


@pytest.mark.slow
def test_the_second_head_is_trained_where_the_method_needs_it():
    config = imf.get_config("guided")
    config.model = common.network("mit", width=16, depth=2, heads=2, head_depth=1)
    one = runs.setup(config, devices=ONE).like.params["V"]
    config.method.heads = 2
    two = runs.setup(config, devices=ONE).like.params["V"]
    assert set(two) - set(one) == {"velocity", "velocity_norm", "velocity_out"}
    config.model = common.network("dit")
    with pytest.raises(
        typing.InputError, match="config.method.heads is 2, and a dit that predicts 'velocity' has one head; expected a mit"
    ):
        runs.setup(config, devices=ONE)
    config.method.heads = 3
    with pytest.raises(
        typing.InputError, match="config.method.heads is 3; expected a whole number of at least 1 and at most 2"
    ):
        runs.setup(config, devices=ONE)


GUIDED = method_config.get_config("meanflow,guided").guidance.to_dict()
REFUSED = {
    "no labels": (
        {"data.name": "checkerboard", "model": common.network("mlp")},
        "checkerboard has no labels, so that there is nothing",
    ),
    "no dropped labels": (
        {"method.label_drop": 0.0},
        "config.method.label_drop is 0: the network would not learn the velocity",
    ),
    "an empty interval": ({"guidance.interval": (0.5, 0.5)}, r"config.guidance.interval is \(0.5, 0.5\), which is empty"),
    "a share of all": ({"guidance.k": 1.0}, "config.guidance.k is 1.0; expected a share of at least 0 and below 1"),
    "no mixture": ({"guidance.kind": "soflow", "guidance.mix": 0.0}, "config.guidance.mix is 0.0; expected a share above 0"),
    "a late decay": (
        {"guidance.kind": "soflow", "guidance.decay": 1.5},
        "config.guidance.decay is 1.5; expected a time above 0",
    ),
    "a scale below 1": ({"guidance.scale": (0.5, 2.0)}, r"config.guidance.scale is \(0.5, 2.0\); expected scales"),
    "no guidance": ({"guidance.scale": (1.0, 1.0)}, r"config.guidance.scale is \(1.0, 1.0\), no guidance"),
    "a field of another kind": (
        {"guidance.decay": 0.5},
        "config.guidance.decay is 0.5, and 'meanflow' has no use for it: it takes interval, k",
    ),
    "a weaker run": ({"guidance.weak": "runs/weak"}, "config.guidance.weak is 'runs/weak', and 'meanflow' has no use for it"),
    "an unknown kind": ({"guidance.kind": "meanflo"}, "unknown config.guidance.kind 'meanflo'; did you mean meanflow"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_guidance_that_cannot_be_trained_in(what):
    changes, message = REFUSED[what]
    config = config_of("dit", preset="guided")
    config.update_from_flattened_dict({key: value for key, value in changes.items() if key != "model"})
    config.model = changes.get("model", config.model)
    with pytest.raises(typing.InputError, match=message):
        runs.setup(config, devices=ONE)


def test_conditioning_of_a_run_that_is_sampled():
    ranged = imf.get_config("guided")
    guidance = lambda config: settings.read(config).guidance
    told = lambda *calls, config=ranged: parts.conditioning(guidance(config), *calls)
    assert told() == {"guidance": 2.0, "interval": (0.0, 1.0)}  # the median of density ~ 1/w on [1, 4]
    assert told(3.0, (0.1, 0.8)) == {"guidance": 3.0, "interval": (0.1, 0.8)}
    for interval in ((0.6, 0.8), (0.1, 0.4), (0.5, 0.5), (-0.1, 0.9)):
        with pytest.raises(
            typing.InputError, match="the run learned intervals that begin between 0 and 0.5 and end between 0.5 and 1"
        ):
            told(None, interval)
    with pytest.raises(typing.InputError, match="--guidance=5.0: the run learned scales from 1.0 to 4.0"):
        told(5.0)
    named = imf.get_config("guided")  # papers sample beyond the scales of training
    named.update({"eval_guidance": 5.0, "eval_interval": (0.4, 0.6)})
    by_default = settings.read(named)
    assert parts.sampling_inputs(by_default.guidance, by_default.evaluation) == {"guidance": 5.0, "interval": (0.4, 0.6)}
    assert parts.sampling_inputs(by_default.guidance, by_default.evaluation, 2.0, (0.0, 1.0)) == told(2.0, (0.0, 1.0))
    named.eval_interval = (0.6, 0.8)
    with pytest.raises(
        typing.InputError, match=r"config.eval_guidance is 5.0 and config.eval_interval \(0.6, 0.8\): .*the run learned"
    ):
        runs.setup(named, devices=ONE)
    fixed = meanflow.get_config("guided")
    fixed.guidance.update({"scale": (2.0, 2.0), "interval": (0.0, 0.75)})
    assert told(config=fixed) == told(2.0, (0.0, 0.75), config=fixed) == {"guidance": 2.0}
    with pytest.raises(typing.InputError, match="--guidance=1.0: the run learned the scale 2.0 alone"):
        told(1.0, config=fixed)
    with pytest.raises(
        typing.InputError, match="--guidance_interval=0.0,1.0: the run is guided at the times from 0.0 to 0.75 alone"
    ):
        told(2.0, (0.0, 1.0), config=fixed)
    ranged.guidance.scale = (2.0, 2.0)  # still told: outside the interval it is 1
    assert parts.guidance_inputs(guidance(ranged)) == ("guidance", "interval")
    assert parts.guidance_inputs(guidance(fixed)) == ()  # its network has no such input
    plain = meanflow.get_config("digits")
    assert told(config=plain) == {}
    with pytest.raises(
        typing.InputError, match="--guidance_interval=0.1,0.9: the run learned without guidance, which is the scale 1;"
    ):
        told(None, (0.1, 0.9), config=plain)
    with pytest.raises(typing.InputError, match="--guidance=2.0: .* and checkerboard has no labels; leave"):
        points = settings.read(meanflow.get_config("checkerboard"))
        loading.Trained(points, (2,), 0, None, None, 1).conditioning(2.0)


def test_inputs_of_a_network_follow_from_the_guidance():
    for config, inputs in (
        (imf.get_config("guided"), ("guidance", "interval")),
        (meanflow.get_config("guided"), ("guidance",)),
    ):
        chosen = settings.read(config)
        assert parts.network(chosen.model, chosen.guidance, 10).inputs == inputs
    assert not any(common.network(name).inputs for name in models.MODELS)


MODULE = """
import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from flowjax import data, methods, models

points = np.zeros((100, 3), np.float32)


class Linear(nn.Module):
    num_classes: int = 0
    inputs: tuple[str, ...] = ()
    scale: float = 1.0

    @nn.compact
    def __call__(self, x, s, t, cond=None):
        return self.scale * nn.Dense(x.shape[-1])(x)


rows = lambda split, data_dir=None: data.Source("mine", len(points), points.shape[1:], 0, lambda ids: {"x": points[ids]})
data.DATASETS["mine"] = rows
models.MODELS["mine"] = Linear
models.SHARDING["mine"] = ((".*", ("fsdp",)),)
methods.register("mine_alone", lambda *, total_steps=None, diagonal="1/2": methods.make("meanflow", diagonal=diagonal))
"""


def test_a_registered_method_is_known_where_its_module_is_named(saved_run, tmp_path, monkeypatch):
    (tmp_path / "mine_in_a_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    config = meanflow.get_config("test")
    config.method = {"name": "mine_alone", "total_steps": 20, "diagonal": "3/4"}
    with pytest.raises(typing.InputError, match="unknown method 'mine_alone'"):
        runs.setup(config, devices=ONE)
    config.modules = ("mine_in_a_modul",)
    with pytest.raises(
        typing.InputError, match="config.modules names 'mine_in_a_modul', and .* not found; put .* on PYTHONPATH"
    ):
        runs.setup(config, devices=ONE)
    config.modules = ("mine_in_a_module",)
    try:
        folder = saved_run(config, tmp_path / "run")
        del methods.METHODS["mine_alone"], sys.modules["mine_in_a_module"]  # as in another process
        with pytest.raises(
            typing.InputError, match="mine_in_a_module, whose code would run here; .*--modules=mine_in_a_module"
        ):
            loading.load(folder)
        with pytest.raises(typing.InputError, match=r"--config.modules=\('mine_in_a_module',\)"):
            loading.load(folder, flag="--config.teacher")
        assert "mine_in_a_module" not in sys.modules
        parts.import_modules(["mine_in_a_module"], "--modules")
        trained = loading.load(folder)
        assert trained.settings.method.name in methods.METHODS and trained.step == 1
    finally:
        methods.METHODS.pop("mine_alone", None)
        for names in (data.DATASETS, models.MODELS, models.SHARDING):
            names.pop("mine", None)


def test_registered_data_and_a_registered_network_train(tmp_path, monkeypatch):
    (tmp_path / "mine_with_data.py").write_text(MODULE.replace("mine_alone", "mine_too"))
    monkeypatch.syspath_prepend(tmp_path)
    try:
        importlib.import_module("mine_with_data")
        config = method_config.get_config("mine_too,test")
        config.update({"modules": ("mine_with_data",), "eval_every": 0, "steps": 3})
        config.data.name, config.model = "mine", common.network("mine", scale=2.0)
        assert int(training.train(config, tmp_path / "run", devices=ONE).step) == 3
        assert loading.load(tmp_path / "run").shape == (3,)
    finally:
        methods.METHODS.pop("mine_too", None)
        for names in (data.DATASETS, models.MODELS, models.SHARDING):
            names.pop("mine", None)


def test_a_name_that_is_taken_is_not_registered():
    with pytest.raises(typing.InputError, match="'imf' is Improved Mean Flows, a published method"):
        methods.register("imf", lambda: None)
    with pytest.raises(
        typing.InputError, match=r"'c' of the recipe of 'mine' is no keyword with a default; type def mine\(\*, c="
    ):
        methods.register("mine", lambda *, c: None)
    recipe = lambda: None
    for odd, message in (
        ({"jumps": "all"}, "unknown kind of jumps 'all'"),
        ({"parameterisation": "eps"}, "unknown parameterisation 'eps'"),
    ):
        with pytest.raises(typing.InputError, match=message):
            methods.register("mine", recipe, **odd)
    assert "mine" not in methods.METHODS and {info.jumps for info in methods.every().values()} == set(methods.JUMPS)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (3, "names 3; expected names of modules"),
        ("..", r"names '\.\.'; expected names of modules"),
        ("", "names ''; expected names of modules"),
        ("no_such_module_here", "'no_such_module_here' is not found; put the folder that holds it on PYTHONPATH"),
        (
            "broken_module",
            r"which cannot be imported: .*broken_module\.py, line 2: ZeroDivisionError: division by zero \(x = 1 / 0\)",
        ),
        ("unreadable_module", r"which cannot be imported: .*unreadable_module\.py, line 1: SyntaxError: .* \(def f\(\)"),
    ],
)
def test_modules_that_cannot_be_imported_are_one_sentence(name, message, tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("\nx = 1 / 0\n")
    (tmp_path / "unreadable_module.py").write_text("def f()\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(typing.InputError, match=message) as caught:
        parts.import_modules([name])
    assert "\n" not in str(caught.value)
