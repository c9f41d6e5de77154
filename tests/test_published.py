"""Published weights: our networks against forward passes in numpy that consume the published trees."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import models, typing
from flowjax.models import mit, published

WIDTH, HEADS, PATCH, CLASSES = 16, 2, 2, 3


def linear(h, w):
    w = w.get("_flax_linear", w)
    return h @ w["kernel"].reshape(-1, w["kernel"].shape[-1]) + w.get("bias", 0)


def silu(h):
    return h / (1 + np.exp(-h))


def softmax(scores):
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    return scores / scores.sum(-1, keepdims=True)


def embedded(time, w):
    angles = time[:, None] * np.exp(-np.log(10_000) * np.arange(128) / 128)
    h = np.concatenate([np.cos(angles), np.sin(angles)], -1)
    return linear(silu(linear(h, w["mlp"]["layers_0"])), w["mlp"]["layers_2"])


def patched(x):
    """A patch at a time, so that its order is spelled out."""
    return np.stack(
        [
            x[:, i : i + PATCH, j : j + PATCH].reshape(len(x), -1)
            for i in range(0, x.shape[1], PATCH)
            for j in range(0, x.shape[2], PATCH)
        ],
        axis=1,
    )


def unpatched(tokens, shape):
    out, side = np.zeros(shape), shape[2] // PATCH
    for n in range(tokens.shape[1]):
        i, j = PATCH * (n // side), PATCH * (n % side)
        out[:, i : i + PATCH, j : j + PATCH] = tokens[:, n].reshape(-1, PATCH, PATCH, shape[-1])
    return out


def attended(q, k, v):
    heads = lambda z: z.reshape(*z.shape[:2], HEADS, -1).transpose(0, 2, 1, 3)
    q, k, v = heads(q), heads(k), heads(v)
    weights = softmax(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]))
    return (weights @ v).transpose(0, 2, 1, 3).reshape(q.shape[0], q.shape[2], -1)


def reference_dit(tree, x, s, t, label):
    def norm(h):
        h = h - h.mean(-1, keepdims=True)
        return h / np.sqrt((h**2).mean(-1, keepdims=True) + 1e-6)

    gelu = lambda h: h / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
    c = embedded(s, tree["t_embedder"]) + embedded(s - t, tree["h_embedder"])
    c = c + tree["y_embedder"]["embedding_table"]["_flax_embedding"]["embedding"][label]
    sides = [side // PATCH for side in x.shape[1:3]]
    wave = lambda n: [f(n / 10_000 ** (4 * i / WIDTH)) for f in (np.sin, np.cos) for i in range(WIDTH // 4)]
    positions = np.array([wave(j) + wave(i) for i in range(sides[0]) for j in range(sides[1])])
    h = linear(patched(x), tree["x_embedder"]["proj"]) + positions
    for i in range(len(tree["blocks"])):
        w = tree["blocks"][f"layers_{i}"]
        modulation = linear(silu(c), w["adaLN_modulation"]["layers_1"])[:, None]
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = np.split(modulation, 6, -1)
        q, k, v = np.split(linear(norm(h) * (1 + scale_a) + shift_a, w["attn"]["qkv"]), 3, -1)
        h = h + gate_a * linear(attended(q, k, v), w["attn"]["proj"])
        h = h + gate_m * linear(gelu(linear(norm(h) * (1 + scale_m) + shift_m, w["mlp"]["fc1"])), w["mlp"]["fc2"])
    w = tree["final_layer"]
    shift, scale = np.split(linear(silu(c), w["adaLN_modulation"]["layers_1"])[:, None], 2, -1)
    return unpatched(linear(norm(h) * (1 + scale) + shift, w["linear"]), x.shape)


def rms(h, w):
    return h / np.sqrt((h**2).mean(-1, keepdims=True) + 1e-6) * w["kernel"]


def turned(h, angles):
    """Adjacent pairs of a head as complex numbers, [B, N, width] with angles [N, head_dim / 2]."""
    pairs = h.reshape(*h.shape[:2], HEADS, -1, 2)
    z = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * angles)[None, :, None]
    return np.stack([z.real, z.imag], -1).reshape(h.shape)


def mit_block(h, w, angles):
    y, a = rms(h, w["norm1"]), w["attn"]
    heads = lambda z: z.reshape(*z.shape[:2], HEADS, -1)
    q, k = (turned(rms(heads(linear(y, a[f"{z}_proj"])), a[f"{z}_norm"]).reshape(y.shape), angles) for z in "qk")
    h = h + linear(attended(q, k, linear(y, a["v_proj"])), a["out_proj"]) * w["attn_scale"]
    y, m = rms(h, w["norm2"]), w["mlp"]
    return h + linear(silu(linear(y, m["w1"])) * linear(y, m["w3"]), m["w2"]) * w["mlp_scale"]


def angles_of(tree, shape, prefix):
    rows, columns = (side // PATCH for side in shape[1:3])
    half = WIDTH // HEADS // 2  # of a head's features
    wave = lambda n, count: [n / 10_000 ** (i / count) for i in range(count)]
    if "pos_embed" not in tree:
        return np.array([wave(n, half) for n in range(prefix + rows * columns)])
    grid = [wave(i, half // 2) + wave(j, half // 2) for i in range(rows) for j in range(columns)]
    return np.array([[0.0] * half] * prefix + grid)


def reference_mit(tree, x, s, t, label, w, interval):
    table = tree["y_embedder"]["embedding_table"]
    table = table["embedding"][0] if "embedding" in table else table["_flax_embedding"]["embedding"]
    embeddings = {
        "class_tokens": table[label],
        "omega_tokens": embedded(1 - 1 / w, tree["omega_embedder"]),
        "t_min_tokens": embedded(interval[:, 0], tree["cfg_t_start_embedder"]),
        "t_max_tokens": embedded(interval[:, 1], tree["cfg_t_end_embedder"]),
        "time_tokens": embedded(s - t, tree["h_embedder"]),
    }
    prefix = np.concatenate([tree[name] + embedding[:, None] for name, embedding in embeddings.items()], 1)
    h = patched(x)
    for name in sorted(tree["x_embedder"]):  # one map, or two
        h = linear(h, tree["x_embedder"][name])
    h = np.concatenate([prefix, h], 1) + tree.get("pos_embed", 0)
    angles = angles_of(tree, x.shape, prefix.shape[1])
    numbered = lambda start: [tree[name] for name in sorted(tree) if name.startswith(start)]
    for block in numbered("shared_blocks_"):
        h = mit_block(h, block, angles)
    out = []
    for head in "uv":
        y = h
        for block in numbered(f"{head}_heads_"):
            y = mit_block(y, block, angles)
        final = tree[f"{head}_final_layer"]
        out.append(unpatched(linear(rms(y[:, prefix.shape[1] :], final["norm"]), final["linear"]), x.shape))
    return out


def weights(*shape):
    return RNG.standard_normal(shape).astype(np.float32) * (0.5 if len(shape) == 1 else shape[-2] ** -0.5)


RNG = np.random.default_rng(0)
affine = lambda n, m: {"_flax_linear": {"kernel": weights(n, m), "bias": weights(m)}}
matrix = lambda n, m: {"_flax_linear": {"kernel": weights(n, m)}}
scale = lambda n: {"kernel": 1 + weights(n)}
embedder = lambda: {"mlp": {"layers_0": affine(256, WIDTH), "layers_2": affine(WIDTH, WIDTH)}}
patcher = lambda p, n, m: {"kernel": weights(p, p, n, m), "bias": weights(m)}
labels = lambda: {"embedding_table": {"_flax_embedding": {"embedding": weights(CLASSES + 1, WIDTH)}}}
pixel_labels = lambda: {"embedding_table": {"embedding": weights(1, CLASSES + 1, WIDTH)}}  # as in the pixel checkpoints


def dit_tree(depth=2, channels=2):
    block = lambda: {
        "attn": {"qkv": affine(WIDTH, 3 * WIDTH), "proj": affine(WIDTH, WIDTH)},
        "mlp": {"fc1": affine(WIDTH, 4 * WIDTH), "fc2": affine(4 * WIDTH, WIDTH)},
        "adaLN_modulation": {"layers_1": affine(WIDTH, 6 * WIDTH)},
    }
    return {
        "x_embedder": {"proj": patcher(PATCH, channels, WIDTH)},
        "t_embedder": embedder(),
        "h_embedder": embedder(),
        "y_embedder": labels(),
        "blocks": {f"layers_{i}": block() for i in range(depth)},
        "final_layer": {
            "linear": affine(WIDTH, PATCH**2 * channels),
            "adaLN_modulation": {"layers_1": affine(WIDTH, 2 * WIDTH)},
        },
    }


def mit_tree(pixel=False, channels=2, tokens=6):
    hidden = 42  # 16 * 8 / 3 is 42.7
    head_dim = WIDTH // HEADS
    block = lambda: {
        "norm1": scale(WIDTH),
        "norm2": scale(WIDTH),
        "attn": {f"{z}_proj": matrix(WIDTH, WIDTH) for z in ("q", "k", "v", "out")}
        | {f"{z}_norm": scale(head_dim) for z in "qk"},
        "mlp": {"w1": matrix(WIDTH, hidden), "w2": matrix(hidden, WIDTH), "w3": matrix(WIDTH, hidden)},
        "attn_scale": weights(WIDTH),
        "mlp_scale": weights(WIDTH),
    }
    groups = {"class_tokens": 8, "omega_tokens": 4, "t_min_tokens": 2, "t_max_tokens": 2, "time_tokens": 4}
    tree = {name: weights(1, count, WIDTH) for name, count in groups.items()}
    for name in ("h", "omega", "cfg_t_start", "cfg_t_end"):
        tree[f"{name}_embedder"] = embedder()
    tree |= {f"{name}_{i}": block() for name in ("shared_blocks", "u_heads", "v_heads") for i in (0, 1)}
    tree |= {f"{z}_final_layer": {"norm": scale(WIDTH), "linear": affine(WIDTH, PATCH**2 * channels)} for z in "uv"}
    tree["y_embedder"] = pixel_labels() if pixel else labels()
    if pixel:
        tree["pos_embed"] = weights(1, tokens + sum(groups.values()), WIDTH)
        tree["x_embedder"] = {"proj1": patcher(PATCH, channels, 4), "proj2": patcher(1, 4, WIDTH)}
    else:
        tree["x_embedder"] = {"proj": patcher(PATCH, channels, WIDTH)}
    return tree


def inputs():
    x = np.random.default_rng(1).standard_normal((2, 4, 6, 2)).astype(np.float32)
    s, t, label = np.array([0.9, 0.4]), np.array([0.3, 0.1]), np.array([1, -1])
    return x, s, t, label


# Programs this small take longer to compile than to run.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def column(time):
    return jnp.asarray(time, jnp.float32).reshape(-1, 1, 1, 1)


def test_the_published_meanflow_network():
    tree = dit_tree()
    net = models.make("dit", num_classes=CLASSES, width=WIDTH, depth=2, heads=HEADS, patch=PATCH)
    x, s, t, label = inputs()
    params = {"params": published.meanflow_dit({"net": tree})}
    result = jit(net.apply)(params, x, column(s), column(t), {"label": label})
    np.testing.assert_allclose(result, reference_dit(tree, x, s, t, label), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pixel", [False, True], ids=["improved", "pixel"])
def test_the_published_transformer_with_two_heads(pixel):
    tree = mit_tree(pixel)
    more = {"bottleneck": 4, "positions": "grid"} if pixel else {}
    net = mit.MiT(
        num_classes=CLASSES,
        width=WIDTH,
        depth=4,
        heads=HEADS,
        patch=PATCH,
        head_depth=2,
        inputs=("guidance", "interval"),
        **more,
    )
    x, s, t, label = inputs()
    w, interval = np.array([1.5, 4.0], np.float32), np.array([[0.1, 0.8], [0.0, 1.0]], np.float32)
    cond = {"label": label, "guidance": w, "interval": interval}
    params = {"params": published.mit(tree)}
    result = jit(functools.partial(net.apply, method="both"))(params, x, column(s), column(t), cond)
    expected = reference_mit(tree, x, s, t, label, w, interval)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)
    # The inference checkpoint lacks the velocity head.
    params = {"params": published.mit({name: sub for name, sub in tree.items() if not name.startswith("v_")})}
    made = jax.eval_shape(net.init, jax.random.key(0), x, 1.0, 0.0, cond)
    assert jax.tree.structure(made) == jax.tree.structure(params)
    np.testing.assert_allclose(jit(net.apply)(params, x, column(s), column(t), cond), expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make,convert", [(dit_tree, published.meanflow_dit), (mit_tree, published.mit)])
def test_trees_that_do_not_fit(make, convert):
    tree = make()
    with pytest.raises(typing.InputError, match=r"has unexpected 1 \(ema/count\)"):
        convert({**tree, "ema": {"count": np.ones(1)}})
    del tree["h_embedder"]["mlp"]["layers_2"]["_flax_linear"]["bias"]
    with pytest.raises(typing.InputError, match=r"lacks 1 \(h_embedder/mlp/layers_2/_flax_linear/bias\)"):
        convert(tree)
    with pytest.raises(typing.InputError, match="lacks .* and has unexpected"):
        convert({"params": tree})


def test_one_table_of_labels_under_one_name():
    tree = mit_tree()
    tree["y_embedder"]["embedding_table"] |= pixel_labels()["embedding_table"]
    with pytest.raises(typing.InputError, match=r"has unexpected 1 \(y_embedder/embedding_table/_flax_embedding/embedding\)"):
        published.mit(tree)


def test_a_gap_between_blocks_is_missing_leaves():
    tree = dit_tree(depth=3)
    del tree["blocks"]["layers_1"]
    with pytest.raises(typing.InputError, match="lacks 10 .*blocks/layers_1/"):
        published.meanflow_dit(tree)


def test_files_of_named_arrays(tmp_path):
    arrays = {"a/b/kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "a/bias": np.ones(2, np.float16)}
    np.savez(tmp_path / "w.npz", **arrays)
    header, data = {"__metadata__": {"made": "here"}}, b""
    for name, array in arrays.items():
        kind = {"float32": "F32", "float16": "F16"}[array.dtype.name]
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [len(data), len(data) + array.nbytes]}
        data += array.tobytes()
    text = json.dumps(header).encode()
    (tmp_path / "w.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    for name in ("w.npz", "w.safetensors"):
        tree = published.read(tmp_path / name)
        assert set(tree) == {"a"} and set(tree["a"]) == {"b", "bias"}
        np.testing.assert_array_equal(tree["a"]["b"]["kernel"], arrays["a/b/kernel"])
        assert tree["a"]["bias"].dtype == np.float16


def test_files_that_cannot_be_read(tmp_path):
    np.savez(tmp_path / "pickled.npz", a=np.array([{}], dtype=object))
    (tmp_path / "broken.safetensors").write_bytes(b"123")
    for name, message in [
        ("w.pt", "does not exist; expected weights as .npz, .safetensors, a file of torch.save"),
        ("none.npz", "does not exist"),
        ("pickled.npz", "pickled.npz is damaged or something else .it holds Python objects"),
        ("broken.safetensors", "broken.safetensors is damaged or something else .it begins with"),
    ]:
        with pytest.raises(typing.InputError, match=message):
            published.read(tmp_path / name)
