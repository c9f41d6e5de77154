"""What the authors' own networks say, small and with random weights: python tests/published_fixtures.py KIND FOLDER

FOLDER is a checkout of the authors' code: ali-vilab/FACM 9be03f7 for facm, yuanpengtu/TEMF cbec1f0 (it has all of AlphaFlow's files) for
alphaflow, both with pip install torch timm einops; lambertae/drifting accd0cf for drifting, with jax and flax. Each adds to
tests/published_fixtures.npz (some kB) the names and shapes of the authors' arrays and the network's output; weights and inputs are drawn here
from fixed seeds, by the tests again. What the authors' files import beside their network is replaced by stubs.
"""

import json
import pathlib
import sys
import types

import numpy as np

FILE = pathlib.Path(__file__).with_suffix(".npz")
SIDE, CHANNELS, WIDTH, HEADS, DEPTH, PATCH, CLASSES = 4, 2, 24, 2, 2, 2, 3
TIMES = {"s": np.array([0.9, 0.4]), "t": np.array([0.0, 0.1])}  # ours, of two rows
LABELS = np.array([1, CLASSES])
SCALES = np.array([1.5, 3.0])


def images():
    """Noise [2, SIDE, SIDE, CHANNELS], float32."""
    return np.random.default_rng(1).standard_normal((2, SIDE, SIDE, CHANNELS)).astype(np.float32)


def weights(shapes):
    """{published name: array}, float32, from {name: shape}; those of norms are near 1."""
    rng, found = np.random.default_rng(0), {}
    for name, shape in sorted(shapes.items()):
        norm = len(shape) == 1 and name.endswith("weight")
        found[name] = (rng.standard_normal(shape) * 0.3 + norm).astype(np.float32)
    return found


def kept(kind):
    """({published name: shape}, {what was evaluated: output [2, SIDE, SIDE, CHANNELS]}) of a kind."""
    with np.load(FILE) as arrays:
        return json.loads(str(arrays[f"{kind}/shapes"])), {
            name.split("/")[1]: arrays[name] for name in arrays if name.startswith(f"{kind}/") and not name.endswith("shapes")
        }


def stub(name, **members):
    module = types.ModuleType(name)
    vars(module).update(members)
    sys.modules[name] = module


def with_weights(network):
    """Puts random weights into a module of torch, but for what is fixed; returns the shapes of all arrays of its state."""
    import torch

    state = network.state_dict()
    drawn = weights({name: tuple(array.shape) for name, array in state.items()})
    fixed = [name for name in state if name == "pos_embed" or name.startswith("feat_rope")]
    network.load_state_dict({name: state[name] if name in fixed else torch.tensor(drawn[name]) for name in state})
    network.eval()
    return {name: list(array.shape) for name, array in state.items()}


def facm():
    """FACM's LightningDiT at both of its times."""
    import torch

    stub("fairscale"), stub("fairscale.nn"), stub("fairscale.nn.model_parallel"), stub("fairscale.nn.model_parallel.initialize")
    stub("fairscale.nn.model_parallel.layers", ColumnParallelLinear=None, ParallelEmbedding=None, RowParallelLinear=None)
    from ldit import lightningdit

    network = lightningdit.LightningDiT(
        input_size=SIDE, patch_size=PATCH, in_channels=CHANNELS, hidden_size=WIDTH, depth=DEPTH, num_heads=HEADS, num_classes=CLASSES,
        use_qknorm=True, use_swiglu=True, use_rope=True, use_rmsnorm=True, disable_label_dropout=True,
    )  # fmt: skip
    shapes = with_weights(network)
    x, s, y = torch.tensor(images()).permute(0, 3, 1, 2), torch.tensor(TIMES["s"]), torch.tensor(LABELS)
    run = lambda time: network(x, time.float(), y=y).permute(0, 2, 3, 1).numpy()
    return shapes, {"jump": run(1 - s), "velocity": run(1 + s)}


def alphaflow():
    """AlphaFlow's network as its wrapper calls it: of s and s - t."""
    import einops
    import torch

    class Fields(dict):
        __getattr__ = dict.__getitem__

    stub("src"), stub("src.utils"), stub("src.utils.misc", rearrange=einops.rearrange)
    stub("src.structs", EasyDict=Fields, TensorGroup=types.SimpleNamespace)
    sys.modules["src.utils"].misc = sys.modules["src.utils.misc"]
    sys.modules["src"].__path__ = [f"{sys.argv[2]}/src"]
    from src.training import dit

    tokenizer = Fields(resolution=[1, PATCH, PATCH])
    fields = Fields(tokenizer=tokenizer, num_heads=HEADS, dim=WIDTH, label_dropout=0.1, num_blocks=DEPTH, mlp_ratio=4.0)
    network = dit.SiT(fields, (1, SIDE, SIDE), CHANNELS, CHANNELS, [CLASSES])
    shapes = with_weights(network)
    x, s, t = torch.tensor(images()).permute(0, 3, 1, 2)[:, None], *(torch.tensor(TIMES[z]).float() for z in "st")
    label = torch.tensor(np.eye(CLASSES + 1)[LABELS][:, :CLASSES])  # zeros: none
    V, _ = network(x, noise_labels=s, cond=types.SimpleNamespace(label=label), noise_labels_next=s - t)
    return {f"model.{name}": shape for name, shape in shapes.items()}, {"V": V[:, 0].permute(0, 2, 3, 1).numpy()}


def drifting():
    """Drifting's generator at given codes."""
    import jax
    import jax.numpy as jnp

    (
        stub("utils"),
        stub("utils.hsdp_util", enforce_ddp=lambda c: c),
        stub("utils.misc", ddp_rand_func=lambda **_: jax.random.normal),
    )
    stub("utils.env", HF_REPO_ID="", HF_ROOT="")
    from models import generator

    from flowjax.models import lightning_dit

    network = generator.DitGen(
        cond_dim=WIDTH, num_classes=CLASSES + 1, noise_classes=5, noise_coords=3, input_size=SIDE, in_channels=CHANNELS, n_cls_tokens=2,
        patch_size=PATCH, hidden_size=WIDTH, depth=DEPTH, num_heads=HEADS, out_channels=CHANNELS, use_qknorm=True, use_swiglu=True,
        use_rope=True, use_rmsnorm=True,
    )  # fmt: skip
    keys = {"params": jax.random.key(0), "noise": jax.random.key(1)}
    tree = network.init(keys, jnp.array(LABELS), cfg_scale=1.0)["params"]
    named = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    drawn = weights({name: leaf.shape for name, leaf in named.items()})
    params = jax.tree.unflatten(jax.tree.structure(tree), [drawn[name] for name in named])
    x = jnp.array(images())

    def generate(module):
        cond = module.c_cfg_noise_to_cond(jnp.array(LABELS), jnp.array(SCALES), lightning_dit.codes(x, 3, 5))
        return module.generate_image(x, cond)

    made = network.apply({"params": params}, method=generate)
    return {name: list(leaf.shape) for name, leaf in named.items()}, {"data": made}


def main():
    kind, folder = sys.argv[1:]
    sys.path.insert(0, folder)
    if kind == "drifting":
        shapes, outputs = drifting()
    else:
        import torch

        torch.set_grad_enabled(False)
        shapes, outputs = {"facm": facm, "alphaflow": alphaflow}[kind]()
    before = dict(np.load(FILE)) if FILE.exists() else {}
    before = {name: array for name, array in before.items() if not name.startswith(f"{kind}/")}
    made = {f"{kind}/{name}": np.asarray(array, np.float32) for name, array in outputs.items()}
    np.savez_compressed(FILE, **before, **made, **{f"{kind}/shapes": np.array(json.dumps(shapes))})
    print({name: float(np.abs(array).max()) for name, array in made.items()}, len(shapes), FILE.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
