"""Published weights of torch: our networks against forward passes in numpy that consume trees with the authors' names."""

import functools

import jax
import numpy as np
import pytest

from configs import common, meanflow, soflow
from flowjax import models, training, typing
from flowjax.models import embeddings, lightning_dit, published, published_torch
from flowjax.training import published_runs, runs
from tests import published_fixtures

WIDTH, HEADS, DEPTH, PATCH, CLASSES, SIDE, CHANNELS = 16, 2, 3, 2, 3, 4, 2
EMBEDDERS = {
    "soflow": ("t_embedder", "s_embedder"),
    "sit": ("t_embedder",),
    "repa": ("t_embedder",),
    "dmf": ("t_embedder",),
    "tvm": ("t_embedder", "s_embedder", "guidance_embedder"),
}
PREFIX = {"soflow": "network.", "tvm": "model."}


def state(kind, outputs=1):
    """Random arrays with the names and shapes of the authors' modules."""
    rng = np.random.default_rng(0)
    shapes = {
        "x_embedder.proj": (WIDTH, CHANNELS, PATCH, PATCH),
        "final_layer.linear": (outputs * PATCH**2 * CHANNELS, WIDTH),
        "final_layer.adaLN_modulation.1": (2 * WIDTH, WIDTH),
    }
    for name in EMBEDDERS[kind]:
        shapes |= {f"{name}.mlp.0": (WIDTH, 256), f"{name}.mlp.2": (WIDTH, WIDTH)}
    for i in range(DEPTH):
        layers = {"adaLN_modulation.1": 6, "attn.qkv": 3, "attn.proj": 1, "mlp.fc1": 4}
        shapes |= {f"blocks.{i}.{name}": (n * WIDTH, WIDTH) for name, n in layers.items()} | {
            f"blocks.{i}.mlp.fc2": (WIDTH, 4 * WIDTH)
        }
    arrays = {f"{name}.weight": rng.normal(0, 0.3, shape) for name, shape in shapes.items()}
    arrays |= {f"{name}.bias": rng.normal(0, 0.3, shape[:1]) for name, shape in shapes.items()}
    arrays["y_embedder.embedding_table.weight"] = rng.normal(0, 0.3, (CLASSES + 1, WIDTH))
    arrays["pos_embed"] = embeddings.grid_positions(SIDE // PATCH, SIDE // PATCH, WIDTH)[None]
    if kind == "tvm":
        arrays |= {f"blocks.{i}.attn.{z}_norm.weight": rng.normal(1, 0.3, WIDTH // HEADS) for i in range(DEPTH) for z in "qk"}
    return {PREFIX.get(kind, "") + name: array.astype(np.float32) for name, array in arrays.items()}


def forward(kind, arrays, x, times, label):
    """The authors' network of images [B, C, H, W]; times: of each embedder, [B]; of a decoupled network (source, target)."""
    w = {name.removeprefix(PREFIX.get(kind, "")): array.astype(np.float64) for name, array in arrays.items()}
    linear = lambda h, name: h @ w[f"{name}.weight"].reshape(len(w[f"{name}.weight"]), -1).T + w[f"{name}.bias"]
    silu = lambda h: h / (1 + np.exp(-h))
    gelu = lambda h: h / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
    rms = lambda h: h / np.sqrt((h**2).mean(-1, keepdims=True) + 1e-6)
    norm = rms if kind == "tvm" else lambda h: (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-6)
    normed = rms if kind == "tvm" else lambda part: part

    def embedded(name, time):
        angles = time[:, None] * np.exp(-np.log(10_000) * np.arange(128) / 128)
        return linear(silu(linear(np.concatenate([np.cos(angles), np.sin(angles)], -1), f"{name}.mlp.0")), f"{name}.mlp.2")

    def modulation(c, name, parts):
        return [normed(part)[:, None] for part in np.split(linear(silu(c), f"{name}.adaLN_modulation.1"), parts, -1)]

    def attended(h, name):
        q, k, v = linear(h, f"{name}.qkv").reshape(*h.shape[:2], 3, HEADS, -1).transpose(2, 0, 3, 1, 4)
        if kind == "tvm":
            q, k = rms(q) * w[f"{name}.q_norm.weight"], rms(k) * w[f"{name}.k_norm.weight"]
        scores = np.exp(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]))
        h = (scores / scores.sum(-1, keepdims=True)) @ v
        return linear(h.transpose(0, 2, 1, 3).reshape(len(h), -1, WIDTH), f"{name}.proj")

    classes = w["y_embedder.embedding_table.weight"][label]
    if kind == "dmf":
        conditions = [classes + embedded("t_embedder", time) for time in times]
    else:
        conditions = [sum((embedded(name, time) for name, time in zip(EMBEDDERS[kind], times)), classes)] * 2
    side = SIDE // PATCH
    patches = x.reshape(len(x), CHANNELS, side, PATCH, side, PATCH).transpose(0, 2, 4, 1, 3, 5).reshape(len(x), side**2, -1)
    h = linear(patches, "x_embedder.proj") + w["pos_embed"]
    for i in range(DEPTH):
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulation(conditions[i >= 2], f"blocks.{i}", 6)
        h = h + gate_a * attended(norm(h) * (1 + scale_a) + shift_a, f"blocks.{i}.attn")
        h = h + gate_m * linear(gelu(linear(norm(h) * (1 + scale_m) + shift_m, f"blocks.{i}.mlp.fc1")), f"blocks.{i}.mlp.fc2")
    shift, scale = modulation(conditions[1], "final_layer", 2)
    out = linear(norm(h) * (1 + scale) + shift, "final_layer.linear")
    return np.einsum("nhwpqc->nchpwq", out.reshape(len(x), side, side, PATCH, PATCH, -1)).reshape(len(x), -1, SIDE, SIDE)


@functools.cache
def network(kind):
    more = {"inputs": ("guidance",)} if kind == "semi_lipschitz_dit" else {"source_depth": 2} if kind == "decoupled_dit" else {}
    net = models.make(kind, num_classes=CLASSES, width=WIDTH, depth=DEPTH, heads=HEADS, patch=PATCH, **more)
    return jax.jit(lambda params, x, s, t, cond: net.apply({"params": params}, x, s, t, cond))


@pytest.mark.parametrize("kind", EMBEDDERS)
def test_the_network_is_that_of_the_authors(kind):
    arrays, rng = state(kind, outputs=1 + (kind == "sit")), np.random.default_rng(1)
    x = rng.normal(size=(2, CHANNELS, SIDE, SIDE)).astype(np.float32)
    s, t, scale, label = np.array([0.9, 0.4]), np.array([0.2, 0.1]), np.array([2.0, 1.5]), np.array([1, CLASSES])
    wanted = {
        "soflow": lambda: forward(kind, arrays, x, (s, s - t), label),
        "sit": lambda: -forward(kind, arrays, x, (1 - s,), label)[:, :CHANNELS],
        "repa": lambda: forward(kind, arrays, x, (s,), label),
        "dmf": lambda: forward(kind, arrays, x, (s, t), label),
        "tvm": lambda: forward(kind, arrays, x, (s, s - t, 1 / scale), label) * scale[:, None, None, None],
    }[kind]()
    name = published.KINDS[kind].network
    params = published.KINDS[kind].weights(arrays, {"source_depth": 2})
    cond = {"label": np.where(label == CLASSES, -1, label), **({"guidance": scale} if kind == "tvm" else {})}
    column = lambda time: time.astype(np.float32)[:, None, None, None]
    got = network(name)(params, x.transpose(0, 2, 3, 1), column(s), column(t), cond)
    np.testing.assert_allclose(np.asarray(got).transpose(0, 3, 1, 2), wanted, rtol=2e-4, atol=2e-4)


def test_names_and_shapes_that_do_not_fit_are_one_sentence():
    good = state("soflow")
    changes = {
        "soflow: of the published arrays the file lacks 1 .blocks.1.attn.qkv.weight": {
            "network.blocks.1.attn.qkv.weight": None
        },
        "has unexpected 1 .r_embedder": {"network.r_embedder": np.zeros(2)},
        "has two shapes of 'mlp.fc1.weight'": {"network.blocks.0.mlp.fc1.weight": np.zeros((8, WIDTH))},
        "final_layer.linear.weight has the shape .7, 16.; expected .8, 16., or twice": {
            "network.final_layer.linear.weight": np.zeros((7, WIDTH))
        },
        "pos_embed are not the fixed": {"network.pos_embed": good["network.pos_embed"] + 1},
        "pos_embed has the shape": {"network.pos_embed": np.zeros((4, WIDTH))},
    }
    for message, change in changes.items():
        arrays = {name: array for name, array in {**good, **change}.items() if array is not None}
        with pytest.raises(typing.InputError, match=message) as caught:
            published_torch.soflow(arrays)
        assert "\n" not in str(caught.value)
    with pytest.raises(typing.InputError, match="has no blocks.0; .* such as ema"):
        published_torch.tvm({"ema": np.zeros(2)})
    with pytest.raises(typing.InputError, match="3 blocks, and source_depth is 3"):
        published_torch.dmf(state("dmf"), 3)
    published_torch.dmf({**state("dmf"), "logvar_linear.weight": np.zeros((1, 256))}, 2)


NETWORKS_OF_AUTHORS = {
    "facm": {},
    "alphaflow": {},
    "drifting": {"inputs": ("guidance",), "class_tokens": 2, "codes": 3, "code_values": 5},
}


@pytest.mark.parametrize("kind", NETWORKS_OF_AUTHORS)
def test_the_network_says_what_the_authors_own_code_says(kind):
    """tests/published_fixtures.py ran the authors' files with these weights."""
    of, (shapes, theirs) = published_fixtures, published_fixtures.kept(kind)
    arrays = of.weights({name: tuple(shape) for name, shape in shapes.items()})
    fixed = next((name for name in shapes if name.endswith("pos_embed")), "")
    if kind != "drifting":
        side = of.SIDE // of.PATCH
        arrays[fixed] = embeddings.grid_positions(side, side, of.WIDTH)[None]
    about = published.KINDS[kind]
    given = (
        published._nested(arrays)
        if kind == "drifting"
        else {**arrays, "autoencoder_mean": np.zeros(2)}
        if kind == "alphaflow"
        else arrays
    )
    params = about.weights(given, {"heads": of.HEADS})
    fields = {"num_classes": of.CLASSES, "width": of.WIDTH, "depth": of.DEPTH, "heads": of.HEADS, "patch": of.PATCH}
    net = models.make(about.network, parameterisation=about.parameterisation, **fields, **NETWORKS_OF_AUTHORS[kind])
    params = params if about.parameterisation == "velocity" else {"net": params}
    x, column = of.images(), lambda time: np.asarray(time, np.float32)[:, None, None, None]
    cond = {"label": np.where(of.LABELS == of.CLASSES, -1, of.LABELS)}
    cond |= {"guidance": of.SCALES.astype(np.float32)} if kind == "drifting" else {}
    V = jax.jit(lambda s, t: net.apply({"params": params}, x, s, t, cond))
    s, zero = column(of.TIMES["s"]), column(np.zeros(2))
    found = {
        "facm": lambda: {"jump": -V(s, zero), "velocity": -V(s, s)},
        "alphaflow": lambda: {"V": V(s, column(of.TIMES["t"]))},
        "drifting": lambda: {"data": x - V(zero + 1, zero)},
    }[kind]()
    for name, array in theirs.items():
        np.testing.assert_allclose(found[name], array, rtol=2e-4, atol=2e-4, err_msg=name)


def test_names_of_facm_and_drifting_that_do_not_fit_are_one_sentence():
    shapes = {kind: published_fixtures.kept(kind)[0] for kind in ("facm", "drifting")}
    arrays = {kind: published_fixtures.weights({n: tuple(s) for n, s in found.items()}) for kind, found in shapes.items()}
    side = published_fixtures.SIDE // published_fixtures.PATCH
    arrays["facm"]["pos_embed"] = embeddings.grid_positions(side, side, published_fixtures.WIDTH)[None]
    averages = {f"ema_models.{i}.ema_model.{name}": (i + 1) * array for i in (-1, 1) for name, array in arrays["facm"].items()}
    averages = {name: array / 2 if ".1." in name else array for name, array in averages.items()} | {
        "ema_models.1.step": np.zeros(1)
    }
    jax.tree.map(np.testing.assert_array_equal, published_torch.facm(averages), published_torch.facm(arrays["facm"]))
    with pytest.raises(typing.InputError, match=r"facm: .* has unexpected 1 \(r_embedder.mlp.0.bias\)"):
        published_torch.facm({**arrays["facm"], "r_embedder.mlp.0.bias": np.zeros(2)})
    with pytest.raises(typing.InputError, match="drifting: .* has unexpected 1 .*Dense_9"):
        published.drifting(published._nested({**arrays["drifting"], "Dense_9/kernel": np.zeros((2, 2))}), 2)
    with pytest.raises(typing.InputError, match="drifting: 5 heads do not share the width 24"):
        published.drifting(published._nested(arrays["drifting"]), 5)


def test_codes_of_drifting_are_spread_evenly_and_say_nothing_of_the_noise():
    x = np.random.default_rng(0).standard_normal((20_000, 4)).astype(np.float32)
    drawn = np.asarray(lightning_dit.codes(x, 4, 64))
    counts = np.bincount(drawn.ravel(), minlength=64)
    assert drawn.min() == 0 and drawn.max() == 63 and np.abs(counts / counts.mean() - 1).max() < 0.15
    assert np.abs(np.corrcoef(np.hstack([x, np.abs(x), drawn]).T)[:8, 8:]).max() < 0.03
    assert np.abs(np.corrcoef(drawn.T) - np.eye(4)).max() < 0.03


def test_kinds_of_another_network_say_so():
    with pytest.raises(
        typing.InputError, match="weights of 'tvm' are of the network 'semi_lipschitz_dit', and this one is 'dit'"
    ):
        published.weights("tvm", "x.pkl", "dit", {})
    with pytest.raises(typing.InputError, match="unknown kind of published weights 'soflo'; did you mean soflow"):
        published.weights("soflo", "x.pt", "dit", {})


@pytest.mark.slow
def test_published_weights_become_a_run(tmp_path):
    """A file of torch's names below "ema_model", as a run that is sampled; what does not fit is refused before anything is written."""
    arrays = state("soflow")
    np.savez(tmp_path / "w.npz", **{f"ema_model/{name}": array for name, array in arrays.items()}, **{"model/x": np.zeros(2)})
    np.savez(tmp_path / "images.npz", x=np.zeros((20, SIDE, SIDE, CHANNELS), np.float32), label=np.arange(20) % CLASSES)
    config = soflow.get_config("digits")
    config.data.name = f"npz:{tmp_path / 'images.npz'}"
    config.model.update({"width": WIDTH, "depth": DEPTH, "heads": HEADS, "patch": PATCH})
    weights = f"soflow:{tmp_path / 'w.npz'},part=ema_model"
    config.model.depth = 2
    with pytest.raises(
        typing.InputError,
        match=r"of another network .*: blocks/attention_out/bias and \d+ more is \(3, 16\) there and \(2, 16\)",
    ):
        published_runs.write(config, weights, tmp_path / "run")
    config.model.depth = DEPTH
    for wrong, message in {
        "runs/x": "expected KIND:FILE",
        weights.replace("soflow:", "tvm:"): "weights of 'tvm' are of the network 'semi_lipschitz_dit'",
    }.items():
        with pytest.raises(typing.InputError, match=message):
            published_runs.write(config, wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert published_runs.write(config, weights, tmp_path / "run") > 10_000
    run = training.load(tmp_path / "run")
    x = np.random.default_rng(0).normal(size=(1, SIDE, SIDE, CHANNELS)).astype(np.float32)
    wanted = forward("soflow", arrays, x.transpose(0, 3, 1, 2), (np.array([0.9]), np.array([0.6])), np.array([2])).transpose(
        0, 2, 3, 1
    )
    np.testing.assert_allclose(run.V(2)(x, 0.9, 0.3), wanted, rtol=2e-4, atol=2e-4)
    assert run.sample(3, 1).shape == (3, SIDE, SIDE, CHANNELS)
    config.start = weights
    started = runs.setup(config, devices=jax.devices()[:1]).init().params["V"]
    np.testing.assert_array_equal(started["blocks"]["qkv"]["kernel"], run.params["blocks"]["qkv"]["kernel"])


@pytest.mark.slow
def test_published_weights_that_predict_data_become_a_run(tmp_path):
    """Drifting's, sampled in one step at a guidance scale, as the authors' code says it."""
    of, (shapes, theirs) = published_fixtures, published_fixtures.kept("drifting")
    np.savez(tmp_path / "w.npz", **of.weights({name: tuple(shape) for name, shape in shapes.items()}))
    np.savez(
        tmp_path / "images.npz", x=np.zeros((20, of.SIDE, of.SIDE, of.CHANNELS), np.float32), label=np.arange(20) % of.CLASSES
    )
    config = meanflow.get_config("digits")
    config.data.name = f"npz:{tmp_path / 'images.npz'}"
    config.model = common.network("drifting_dit", width=of.WIDTH, depth=of.DEPTH, heads=of.HEADS, patch=of.PATCH)
    config.model.update({"class_tokens": 2, "codes": 3, "code_values": 5})
    config.guidance.update({"kind": "meanflow", "scale": (1.0, 4.0)})
    config.method.label_drop = 0.1
    weights = f"drifting:{tmp_path / 'w.npz'}"
    with pytest.raises(typing.InputError, match="drifting are of networks that predict 'denoised_field': --config.model.param"):
        published_runs.write(config, weights, tmp_path / "run")
    config.model.parameterisation = "denoised_field"
    published_runs.write(config, weights, tmp_path / "run")
    run = training.load(tmp_path / "run")
    found = run.sample(1, 1, of.LABELS[:1], x=of.images()[:1], guidance=float(of.SCALES[0]), sampler="flow_map")
    np.testing.assert_allclose(found, theirs["data"][:1], rtol=2e-4, atol=2e-4)
