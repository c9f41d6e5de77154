"""Meshes: every division of eight devices trains as one device does, slices are small, and communication is what the docs say."""

import collections
import functools
import os
import pathlib
import re
import signal
import subprocess
import sys

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import with_sgd

from configs import meanflow, method as method_config, network as network_config
from flowjax import models, typing
from flowjax.models import dit
from flowjax.profiling import collectives
from flowjax.training import compilation, loop, room, runs, sharding

ROOT = pathlib.Path(__file__).parents[1]
MESHES = [(8, 1), (1, 8), (2, 4), (4, 2)]


def config_of(name, mesh=(1, 1), **changes):
    config = method_config.get_config(f"{name},test")
    config.update({"eval_every": 0, "batch_size": 64, "mesh": {"data": mesh[0], "fsdp": mesh[1]}, **changes})
    config.model.width = 64
    return config


def trained(config, count):
    """The state after some steps on the same rows, and the metrics of each."""
    run = runs.setup(config, devices=jax.devices()[: np.prod(list(config.mesh.values()))])
    (step,), state, found = compilation.compiled(run).values(), run.init(), []
    rng = np.random.default_rng(0)
    for _ in range(count):
        x = rng.standard_normal((config.batch_size, 2)).astype(np.float32)
        state, metrics = jax.block_until_ready(step(state, sharding.global_batch(run.mesh, {"x": x}), run.fixed))
        found.append(jax.device_get(metrics))
    return jax.device_get(state), found


@pytest.fixture(scope="module")
def alone():
    """`name -> (state, metrics)` of one device after 20 steps of SGD, each trained once."""
    return functools.cache(lambda name: trained(with_sgd(config_of(name)), 20))


FAST = [("meanflow", (2, 4))]


@pytest.mark.parametrize(
    ("name", "mesh"),
    [
        (name, mesh) if (name, mesh) in FAST else pytest.param(name, mesh, marks=pytest.mark.slow)
        for name in ("meanflow", "imf", "tvm", "soflow")
        for mesh in MESHES
    ],
)
def test_every_mesh_trains_as_one_device_does(name, mesh, alone):
    state, metrics = alone(name)
    other, metrics_other = trained(with_sgd(config_of(name, mesh)), 20)
    chex.assert_trees_all_close(state.params, other.params, atol=1e-6, rtol=0)
    chex.assert_trees_all_close((state.averages, state.target), (other.averages, other.target), atol=1e-6, rtol=0)
    chex.assert_trees_all_close(metrics, metrics_other, rtol=1e-4)
    assert int(other.step) == 20 and int(other.skipped) == 0


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in ("meanflow", "imf", "tvm", "soflow")])
def test_adam_on_a_mesh_in_float64(name, x64):
    """Adam divides by what it averages, so that rounding shows; in float64 it does not."""

    def adam(mesh):
        config = config_of(name, mesh)
        config.model.dtype = "float64"
        run = runs.setup(config, devices=jax.devices()[: np.prod(mesh)])
        wide = lambda leaf: leaf.astype(np.float64) if leaf.dtype == np.float32 else leaf
        state, step = jax.tree.map(wide, run.init()), jax.jit(run.step)
        x = np.random.default_rng(0).standard_normal((64, 2))
        for _ in range(20):
            state, _ = jax.block_until_ready(step(state, sharding.global_batch(run.mesh, {"x": x})))
        return jax.device_get(state)

    one, eight = adam((1, 1)), adam((2, 4))
    assert {leaf.dtype for leaf in jax.tree.leaves(one.params)} == {np.dtype(np.float64)}
    chex.assert_trees_all_close(one, eight, atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [(1, 1), (2, 4)])
def test_parts_of_a_batch_have_the_gradient_of_the_whole(mesh, alone):
    state, metrics = trained(with_sgd(config_of("tvm", mesh, accumulate=2)), 20)
    whole, metrics_whole = alone("tvm")
    chex.assert_trees_all_close(state, whole, atol=1e-6, rtol=0)
    chex.assert_trees_all_close(metrics, metrics_whole, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"seeds": 2}, {"optim.name": "muon"}, {"optim.clip_norm": 0.05}, {"optim.every": 2}])
def test_options_of_the_step_on_a_mesh(changes):
    states = []
    for mesh in ((1, 1), (2, 4)):
        config = with_sgd(config_of("tvm", mesh))
        config.update_from_flattened_dict(changes)
        run = runs.setup(config, devices=jax.devices()[: np.prod(mesh)])
        state, programs = run.init(), compilation.compiled(run)
        x = np.random.default_rng(0).standard_normal((config.seeds, 64, 2)).astype(np.float32)
        for number in range(4):
            batch = sharding.global_batch(run.mesh, {"x": x if config.seeds > 1 else x[0]}, config.seeds)
            state, _ = jax.block_until_ready(programs[run.cycle.at(number)](state, batch, run.fixed))
        states.append(jax.device_get(state))
    # Muon iterates on whole matrices, which makes more of rounding.
    chex.assert_trees_all_close(*states, atol=4e-5 if "optim.name" in changes else 1e-6, rtol=0)


# Weights that blocks gather


def images(choice, **changes):
    """A method on guided digits with a small network of blocks."""
    config = with_sgd(network_config.get_config(choice), 0.02)
    config.update({"eval_every": 0, "batch_size": 64, "ema": (0.9,)})
    config.model.update({"width": 16, "heads": 2, "patch": 4, "unroll": 1})
    config.update_from_flattened_dict(changes)
    return config


def moved(config, mesh, steps=2):
    """The state after some steps from weights that are not zero anywhere, and the metrics."""
    config.mesh = {"data": mesh[0], "fsdp": mesh[1]}
    run = runs.setup(config, devices=jax.devices()[: np.prod(mesh)])
    (step,), rng, start = compilation.compiled(run).values(), np.random.default_rng(0), jax.device_get(run.init())
    noisy = jax.tree.map(lambda leaf: leaf + 0.1 * rng.standard_normal(leaf.shape, np.float32), start.params)
    state = jax.device_put(start._replace(params=noisy), sharding.places(run.like))
    x = rng.standard_normal((64, 8, 8, 1)).astype(np.float32)
    batch = sharding.global_batch(run.mesh, {"x": x, "label": np.arange(64, dtype=np.int32) % 10})
    for _ in range(steps):
        state, metrics = jax.block_until_ready(step(state, batch, run.fixed))
    return jax.device_get((state, metrics))


def sends(lowered):
    """Pairs (kind, dtype) of the collectives of a program before it is compiled."""
    operation = r'"stablehlo\.(all_gather|reduce_scatter|all_reduce)".*?-> \(?tensor<[\dx]*(\w+)>'
    return set(re.findall(operation, lowered.as_text(), re.S))


def test_a_slice_in_the_place_of_a_weight():
    """A scan over blocks: the gradient of a loss with a tangent, with and without remat, and what is sent."""
    mesh, x = sharding.make_mesh({"data": 1, "fsdp": 2}, jax.devices()[:2]), np.linspace(-1, 1, 32, dtype=np.float32)

    def loss(net, params):
        primal, tangent = jax.jvp(lambda x: net.apply({"params": params}, x), (x.reshape(4, 8),), (jnp.ones((4, 8)),))
        return jnp.mean((primal - tangent) ** 2)

    class Block(nn.Module):
        @nn.compact
        def __call__(self, h):
            return h + dit.keep_matmuls(lambda self, h: nn.gelu(nn.Dense(8, name="dense")(h)))(self, h), None

    class Net(nn.Module):
        remat: str

        @nn.compact
        def __call__(self, h):
            return dit.stack(Block, 3, remat=self.remat, unroll=1)(name="blocks")(h)[0]

    for remat, sent in (("", ""), ("nothing_saveable", ""), ("nothing_saveable", "bfloat16")):
        net = Net(remat)
        weights = jax.jit(net.init)(jax.random.key(0), x.reshape(4, 8))["params"]
        partition = sharding.specs(weights, models.SHARDING["dit"], mesh)
        assert partition["blocks"]["dense"] == {
            "bias": sharding.WHOLE,
            "kernel": jax.sharding.PartitionSpec(None, "fsdp", None),
        }

        def gradient(weights, partition=partition, net=net, sent=sent):
            summed = jax.grad(lambda weights: loss(net, weights))(sharding.gathered(weights, partition, sent=sent))
            return sharding.mean(summed, {}, partition, mesh, sent)[0]

        program = jax.jit(jax.shard_map(gradient, mesh=mesh, in_specs=(partition,), out_specs=partition, check_vma=False))
        lowered = program.lower(weights)
        if sent:  # a CPU computes in float32 what it is given in bfloat16, so that its program does not tell
            assert sends(lowered) == {(kind, "bf16") for kind in ("all_gather", "reduce_scatter", "all_reduce")}
            chex.assert_trees_all_close(lowered.compile()(weights), jax.grad(loss, 1)(net, weights), atol=0.02)
            continue
        compiled = lowered.compile()
        chex.assert_trees_all_close(compiled(weights), jax.grad(loss, 1)(net, weights), atol=1e-6)
        expected = {"all-gather": (6, 6 * 256), "reduce-scatter": (3, 3 * 256), "all-reduce": (1, 96)}  # twice a block and once
        assert collectives.totals(compiled.as_text()) == expected


def test_a_config_sends_in_bfloat16():
    run = runs.setup(config_of("flow_matching", (2, 4), communication="bfloat16"), devices=jax.devices()[:8])
    ((_, traced),) = run.traced.items()
    gradients = {(kind, "bf16") for kind in ("all_gather", "reduce_scatter", "all_reduce")}
    assert sends(traced.lower()) == gradients | {("all_reduce", "f32")}  # the loss and the other metrics


@pytest.mark.slow
@pytest.mark.parametrize(
    ("choice", "changes"),
    [
        ("flow_matching,dit", {"model.depth": 2, "accumulate": 2}),
        ("flow_matching,mit", {"model.depth": 3, "model.head_depth": 1, "model.remat": "nothing_saveable"}),
    ],
)
def test_blocks_that_gather_their_weights_learn_what_whole_ones_do(choice, changes):
    one, eight = (moved(images(choice, **changes), mesh) for mesh in ((1, 1), (2, 4)))
    chex.assert_trees_all_close(one[0], eight[0], atol=2e-6, rtol=0)
    chex.assert_trees_all_close(one[1], eight[1], rtol=1e-4)


@pytest.mark.slow
def test_muon_orthogonalises_the_matrices_of_a_block_on_one_device():
    """Of three blocks on eight devices: they are sent as slices are, and no device gathers those of other blocks."""
    config = images(
        "flow_matching,dit", **{"model.depth": 3, "optim.name": "muon", "guidance.kind": "", "guidance.scale": (1.0, 1.0)}
    )
    one, eight = (moved(config, mesh) for mesh in ((1, 1), (8, 1)))
    chex.assert_trees_all_close(one[0], eight[0], atol=1e-5, rtol=0)
    run = runs.setup(config, devices=jax.devices()[:8])
    (program,) = compilation.compiled(run).values()
    sent, weights = collectives.totals(program.as_text()), run.like.params["V"]
    size = lambda tree, rank: 4 * sum(leaf.size for leaf in jax.tree.leaves(tree) if leaf.ndim == rank)
    blocks = size(weights["blocks"], 3)
    assert sent["all-to-all"][1] == 4 * blocks / 3  # of gradient, momentum, new momentum and update: one block on each device
    others = size(weights, 2) - size(weights["blocks"], 2)
    assert sent["all-gather"][1] < sum(size(weights, rank) for rank in (1, 2, 3)) + 5 * others


@pytest.mark.slow
def test_the_weights_of_a_teacher_are_sliced_too(digits_run):
    config = images("cd,dit", teacher=str(digits_run), **{"model.depth": 1, "guidance.kind": "", "guidance.scale": (1.0, 1.0)})
    one, eight = (moved(config, mesh) for mesh in ((1, 1), (2, 4)))
    chex.assert_trees_all_close(one[0], eight[0], atol=2e-6, rtol=0)
    chex.assert_trees_all_close(one[1], eight[1], rtol=1e-4)
    assert sharding.whole_share(runs.sketch(config, 8).fixed) < 0.1


def test_a_mesh_that_slices_too_little_is_refused():
    config = config_of("meanflow", (1, 7), batch_size=56)
    with pytest.raises(
        typing.InputError, match=r"config.mesh.fsdp is 7, and \d+% of the weights' bytes.*--config.mesh.fsdp=1\."
    ):
        runs.setup(config, devices=jax.devices()[:7])


def test_a_state_that_does_not_fit_is_refused_with_a_mesh_that_fits(monkeypatch):
    run = runs.setup(config_of("meanflow", (8, 1)), devices=jax.devices()[:8])
    monkeypatch.setattr(room, "device_bytes", lambda device: sharding.device_bytes(run.like) - 1)
    with pytest.raises(
        typing.InputError, match=r"use more devices \(config.mesh\); --config.mesh.data=-1 --config.mesh.fsdp=2\."
    ):
        room.check_state(run)


# Slices and what is said


def test_slices_are_an_eighth():
    """Parameters, optimizer state, averages and target of eight slices: at most a seventh of the whole on each device."""
    run = runs.setup(config_of("tvm", (1, 8), ema=(0.999, 0.9)), devices=jax.devices()[:8])
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(run.like))
    assert sharding.device_bytes(run.like) <= whole / 7
    state = run.init()
    held = sum(
        shard.data.nbytes for leaf in jax.tree.leaves(state) for shard in leaf.addressable_shards if shard.device.id == 3
    )
    assert held == sharding.device_bytes(run.like)  # and so it is, not only planned


NETWORKS = {
    "mlp": {}, "dit": {"size": "B"}, "mit": {"size": "B"}, "decoupled_dit": {"size": "B"}, "semi_lipschitz_dit": {"size": "B"},
    "lightning_dit": {"size": "B"}, "drifting_dit": {"size": "B"}, "unet": {}, "sequence_dit": {"size": "B"}, "smooth_dit": {"size": "B"},
    "transition_mlp": {}, "transition_dit": {"width": 768, "depth": 10, "head_depth": 2, "heads": 12},
}  # fmt: skip


@pytest.mark.parametrize("name", models.MODELS)
def test_every_network_is_sliced(name):
    shape = {"mlp": (2,), "transition_mlp": (2,), "sequence_dit": (64, 32)}.get(name, (32, 32, 4))
    net = models.make(name, num_classes=0 if name.endswith("mlp") else 1000, **NETWORKS[name])
    cond = {"guidance": np.ones(1, np.float32), "interval": np.array([[0.0, 1.0]], np.float32)}
    params = jax.eval_shape(lambda: net.init(jax.random.key(0), np.zeros((1, *shape), np.float32), 1.0, 0.0, cond)["params"])
    placed = sharding.placed(params, models.SHARDING[name], sharding.make_mesh({"data": 1, "fsdp": 8}))
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    assert sharding.device_bytes(placed) <= whole / 7


def test_the_first_rule_that_fits_counts_from_the_last_dimension():
    mesh = sharding.make_mesh({"data": 2, "fsdp": 4})
    tree = {
        "out": {"kernel": np.ones((3, 8, 4))},
        "in": {"kernel": np.ones((3, 8, 4)), "bias": np.ones(6)},
        "count": np.ones(()),
    }
    found = sharding.specs(tree, (("out/kernel$", ("fsdp", None)), (".*", ("fsdp",))), mesh)
    spec = jax.sharding.PartitionSpec
    assert found["out"]["kernel"] == spec(None, "fsdp", None) and found["in"]["kernel"] == spec(None, None, "fsdp")
    assert found["in"]["bias"] == found["count"] == spec()  # 6 is not divided by 4, and a number has no dimension
    seeds = sharding.specs(
        {"out": {"kernel": np.ones((2, 8, 4))}}, (("kernel", (None, "fsdp", None)), ("", ())), mesh, leading=1
    )
    assert seeds["out"]["kernel"] == spec()  # the seeds are no dimension of the rule
    assert sharding.specs(tree, (), mesh)["out"]["kernel"] == spec()


@pytest.mark.parametrize(
    "sizes", [{"data": 3, "fsdp": 2}, {"data": -1, "fsdp": -1}, {"data": 8}, {"data": 4, "fsdp": 0}, {"data": 8, "fsdp": 1.0}]
)
def test_a_mesh_that_does_not_fit_is_refused(sizes):
    with pytest.raises(typing.InputError, match="config.mesh is .* number of devices, here 8"):
        sharding.make_mesh(sizes, jax.devices()[:8])


def test_a_batch_must_divide_into_the_parts_of_all_devices():
    with pytest.raises(typing.InputError, match="4 parts of the batch one after the other, need a positive multiple of 128"):
        runs.setup(config_of("meanflow", (2, 4), accumulate=4), devices=jax.devices()[:8])


def spoken(config):
    """{kind: bytes} of a step, and what follows from the slices of each weight and of its gradient; bytes of weights in blocks."""
    run = runs.setup(config, devices=jax.devices()[: np.prod(list(config.mesh.values()))])
    (program,) = compilation.compiled(run).values()
    found = {kind: size for kind, (times, size) in collectives.totals(program.as_text()).items()}
    sent, blocks, (data, fsdp) = collections.Counter(), 0, config.mesh.values()
    gradients = run.like.opt_state["V"][1][0].mu
    for (path, leaf), gradient in zip(jax.tree_util.tree_leaves_with_path(run.like.params["V"]), jax.tree.leaves(gradients)):
        size, sliced = 4 * leaf.size, not leaf.sharding.is_fully_replicated
        slices = leaf.size // np.prod(gradient.sharding.shard_shape(leaf.shape))
        updated = slices > (fsdp if sliced else 1)  # along "data"
        if sliced:
            sent["weights"] += size
            blocks += size * bool(models.slices.IN_BLOCKS.search(jax.tree_util.keystr(path, simple=True, separator="/")))
        if updated:
            sent["updates"] += size // (fsdp if sliced else 1)
        if not (sliced or fsdp == 1) or not (updated or data == 1):
            sent["whole"] += size // slices
    return found, sent, blocks


SCALARS = 1_000  # bytes: the metrics, the norm of each leaf


def digits(mesh):
    """A DiT with labels, some of them dropped, and scales of guidance: nothing of that leaves its device."""
    config = meanflow.get_config("guided")
    config.update({"batch_size": 64, "mesh": {"data": mesh[0], "fsdp": mesh[1]}})
    config.model.unroll = 1
    return config


@pytest.mark.parametrize("name", ["meanflow", *(pytest.param(name, marks=pytest.mark.slow) for name in ("tvm", "digits"))])
@pytest.mark.parametrize("mesh", [(8, 1), (1, 8), (2, 4)])
def test_a_step_says_what_the_docs_say(name, mesh):
    """The table of docs/pods.md. XLA may say equal gradients once, so that the bytes are a little less."""
    found, sent, blocks = spoken(config_of(name, mesh) if name != "digits" else digits(mesh))
    weights = 2 if name == "tvm" else 1  # its target network is gathered too, before the loss and after its update
    expected = {
        "all-gather": weights * (sent["weights"] + sent["updates"]) + 5 * blocks,
        "reduce-scatter": sent["weights"] + blocks + sent["updates"],  # each of two terms goes through blocks
        "all-reduce": sent["whole"] + SCALARS,
    }
    assert set(found) == {kind for kind, size in expected.items() if size}
    for kind, size in expected.items():
        assert 0.9 * size - SCALARS <= found[kind] <= size, (kind, found[kind], size)


@pytest.mark.slow
def test_parts_of_a_batch_say_nothing_more_and_need_less_memory():
    one, eight = (spoken(config_of("meanflow", (2, 4), batch_size=256, accumulate=parts)) for parts in (1, 8))
    assert one == eight
    run = lambda parts: runs.setup(config_of("meanflow", batch_size=4096, accumulate=parts), devices=jax.devices()[:1])
    one, eight = (compilation.device_bytes(compilation.compiled(run(parts))) for parts in (1, 8))
    assert eight < 0.5 * one


def test_collectives_in_their_forms():
    lines = """HloModule step, num_partitions=8
  %a = (f32[4]{0}, f32[2,2]{1,0}) all-reduce(%x, %y), replica_groups={{0,1},{2,3}}, to_apply=%sum
  %b = bf16[16,2]{1,0} all-gather(%x), replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %c = f32[2]{0} reduce-scatter(%x), replica_groups={}, dimensions={0}
  %d = (f32[2], f32[16]) all-gather-start(%x), replica_groups={{0,1,2,3,4,5,6,7}}
  %e = (f32[4], f32[4], u32[], u32[]) collective-permute-start(%x), source_target_pairs={{0,1}}
  %f = f32[16] all-gather-done(%d)
  %g = f8e4m3fn[4] all-to-all(%x), replica_groups={{0,1}}
  %h = pred[6] collective-broadcast(%x), replica_groups={{0,1}}"""
    found = [tuple(collective) for collective in collectives.listed(lines)]
    assert found == [
        ("all-reduce", 32, 2), ("all-gather", 64, 4), ("reduce-scatter", 64, 8), ("all-gather", 64, 8), ("collective-permute", 16, 8),
        ("all-to-all", 4, 2), ("collective-broadcast", 6, 2),
    ]  # fmt: skip
    in_parts = """  %a = bf16[8] all-gather(%x), replica_groups={{0,1}}, frontend_attributes={chain_id="3"}
  %b = bf16[8] all-gather(%y), replica_groups={{0,1}}, frontend_attributes={chain_id="3"}
  %c = bf16[8] all-gather(%x), replica_groups={{0,1}}, frontend_attributes={chain_id="4"}"""
    assert [collective.bytes for collective in collectives.listed(in_parts)] == [16, 16]  # as TPUs run them beside other work
    with pytest.raises(ValueError, match="dtype 'token'"):
        collectives.listed("%a = token[4] all-gather(%x), replica_groups={{0,1}}")


# Examples


@pytest.mark.slow
@pytest.mark.parametrize("meshes", [[(2, 4)], [(1, 1), (2, 1), (1, 4), (2, 4)]])
def test_every_number_of_devices_reads_the_same_examples(meshes, tmp_path, monkeypatch):
    """A run that is continued on 2, 4 and 8 devices, sliced and not, sees the rows that one device would."""
    seen, place = {}, sharding.global_batch

    def recorded(mesh, local, seeds=1):
        batch = place(mesh, local, seeds)
        if "x" in batch:
            seen.setdefault(folder, []).append(np.asarray(batch["x"]))
            if folder.name == "several":
                signal.raise_signal(signal.SIGTERM)  # stops after this step
        return batch

    monkeypatch.setattr(sharding, "global_batch", recorded)
    config = lambda mesh, steps: config_of("meanflow", mesh, steps=steps, save_every=1, log_every=1)
    folder = tmp_path / "one"
    loop.train(config((1, 1), len(meshes)), folder, devices=jax.devices()[:1])
    folder = tmp_path / "several"
    for done, mesh in enumerate(meshes):
        state = loop.train(config(mesh, len(meshes)), folder, devices=jax.devices()[: np.prod(mesh)])
        assert int(state.step) == done + 1
    np.testing.assert_array_equal(seen[tmp_path / "one"], seen[tmp_path / "several"])


MOVES = """
import sys
import chex, jax, numpy as np
from support import small
from flowjax.training import checkpoint, compilation, runs, sharding

states = []
for number, mesh in enumerate([(2, 4), (4, 1), (8, 4)]):
    config = small("tvm", mesh={"data": mesh[0], "fsdp": mesh[1]})
    run = runs.setup(config, jax.devices()[: np.prod(mesh)])
    with checkpoint.Checkpoints(sys.argv[1], keep=1) as checkpoints:
        state, step = checkpoints.restore(run.like) or (run.init(), 0)
        assert step == number
        if states:
            chex.assert_trees_all_equal(states[-1], jax.device_get(state))
        else:  # what a step leaves, in which no two numbers are alike
            (program,) = compilation.compiled(run).values()
            x = np.random.default_rng(number).standard_normal((32, 2)).astype(np.float32)
            state, _ = program(state, sharding.global_batch(run.mesh, {"x": x}), run.fixed)
        states.append(jax.device_get(state))
        checkpoints.save(step + 1, state)
"""


@pytest.mark.slow
def test_a_state_moves_from_8_to_4_to_32_devices_bit_by_bit(tmp_path):
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=32",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
    }
    ran = subprocess.run([sys.executable, "-c", MOVES, tmp_path], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2_000:]


@pytest.mark.parametrize("name", ["meanflow", "tvm"])
def test_every_device_adds_the_same_updates(name):
    """Along "data" updates are gathered and added: the copies of a weight are the same bits on all devices."""
    run = runs.setup(config_of(name, (4, 2)), devices=jax.devices()[:8])
    (step,), state = compilation.compiled(run).values(), run.init()
    x = np.random.default_rng(0).standard_normal((64, 2)).astype(np.float32)
    for _ in range(3):
        state, _ = jax.block_until_ready(step(state, sharding.global_batch(run.mesh, {"x": x}), run.fixed))
    for leaf in jax.tree.leaves((state.params, state.target)):
        copies = {}
        for shard in leaf.addressable_shards:
            copies.setdefault(str(shard.index), []).append(np.asarray(shard.data))
        assert all(np.array_equal(copy, few[0]) for few in copies.values() for copy in few)
        assert any(len(few) > 1 for few in copies.values())
