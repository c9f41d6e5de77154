# %% [markdown]
# # Compose your own
#
# Takes about 150 s on two CPU cores.
#
# A method of your own in four pieces: a **loss** made of two pairs, a **distance** that is robust to outliers, a **schedule**,
# and a network of any library. Then the same method with a name, trained from the command line.

# %% tags=["parameters"]
folder, rows, steps, preset, run_steps = "runs/compose", 512, 2000, "checkerboard", 800

# %%
import functools
import inspect
import os
import pathlib
import shutil
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import tqdm
from flax import nnx

import flowjax
from flowjax import (
    distances,
    evals,
    exact,
    losses,
    methods,
    models,
    paths,
    plots,
    samplers,
    schedules,
    times,
    typing,
)
from flowjax.data import points
from flowjax.methods import draws, pairs, recipe
from flowjax.models import embeddings

os.chdir(pathlib.Path(flowjax.__file__).parents[1])  # where configs/ and experiments/ are

# %% [markdown]
# ## A loss of two pairs
#
# MeanFlow learns from data, with a derivative along the noisy velocity of single examples. The rule that two jumps are one
# needs neither derivative nor velocity, but it is of no use before the map is roughly right. Both predict `V(x, s, t)`, so
# their targets can be mixed: `w = 0` is MeanFlow, `w = 1` is the rule of two jumps.


# %%
def mixed(V, x, s, t, v, w, jvp=jax.jvp):
    """V(x, s, t) = (1 - w) (v + (t - s) d_s V) + w (mean of two half jumps): from MeanFlow to self-distillation."""
    meanflow = losses.meanflow(V, x, s, t, v, jvp=jvp)
    jumps = losses.progressive_self_distillation(V, x, s, t, 0.5)
    return typing.Pair(meanflow.prediction, (1 - w) * meanflow.target + w * jumps.target)


# %% [markdown]
# Before any training: is the loss zero on a known flow map, for every `w`? Is it large on a wrong map? Does the gradient stop
# where it should? (At `w = 1` the loss of the wrong map, `-x`, is small: that map nearly composes with itself, and the rule
# does not contain the data.)

# %%
flow = exact.gaussian(mean=jnp.zeros(2), covariance=jnp.diag(jnp.array([4.0, 0.25])))
x = jax.random.normal(jax.random.key(0), (64, 2))
s, t = (times.expand(time, x) for time in times.uniform_triangle()(jax.random.key(1), 64))
for w in (0.0, 0.5, 1.0):
    right, wrong = (distances.l2(*mixed(V, x, s, t, flow.v(x, s), w)).mean() for V in (flow.V, lambda x, s, t: -x))
    print(f"w = {w}: on the exact map {right:.0e}, on a wrong one {wrong:.2f}")
weight = lambda theta: mixed(lambda x, s, t: -x + theta * x, x, s, t, flow.v(x, s), 0.5)
seen = jax.jvp(weight, (0.0,), (1.0,))[1]
print(
    f"gradient: through the prediction {jnp.abs(seen.prediction).max():.2f},"
    f" through the target {jnp.abs(seen.target).max():.0e}"
)

# %% [markdown]
# ## A robust distance, and a schedule
#
# The pseudo-Huber distance is linear in large errors, so that a few rows with extreme derivatives do not dominate the batch.
# The weight `w` grows during the training.

# %%
distance = functools.partial(distances.huber, c=0.5)
schedule = schedules.linear(0.0, 1.0, steps)
error = jnp.linspace(-1, 1, 201)[:, None]
fig, boxes = plt.subplots(1, 2, figsize=(9, 2.6), layout="constrained")
boxes[0].plot(error, distances.l2(error, 0 * error), label="l2")
boxes[0].plot(error, distance(error, 0 * error), label="pseudo-Huber")
boxes[1].plot(schedule(jnp.arange(steps)), label="w over the steps")
_ = boxes[0].legend(title="distance over the error"), boxes[1].legend()

# %% [markdown]
# ## Four networks
#
# A loss needs only a callable `V(x, s, t)`. So each network is a pair of parameters and a function that takes them as its first
# argument.

# %%
columns = lambda x, time: embeddings.harmonics(embeddings.flatten_times(time, x), 1)  # a time, its sine and its cosine
features = lambda x, s, t: jnp.concatenate([x, columns(x, s), columns(x, s - t), jnp.ones_like(x[:, :1])], axis=1)  # 9 in all
normal = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape) / shape[0] ** 0.5

# a lambda
layers = [normal(1, 9, 128), normal(2, 128, 128), normal(3, 128, 128), 0.1 * normal(4, 128, 2)]
plain = lambda p, x, s, t: functools.reduce(lambda h, w: jax.nn.gelu(h @ w), p[:-1], features(x, s, t)) @ p[-1]

# linen: a network of flowjax
mlp = models.make("mlp", width=128, depth=3, harmonics=1)
mlp_params = mlp.init(jax.random.key(5), jnp.zeros((1, 2)), 1.0, 0.0)["params"]
linen = lambda p, x, s, t: mlp.apply({"params": p}, x, s, t)


# nnx: split into a graph and parameters
linear = functools.partial(nnx.Linear, rngs=nnx.Rngs(6))
net = nnx.Sequential(linear(9, 128), nnx.gelu, linear(128, 128), nnx.gelu, linear(128, 128), nnx.gelu, linear(128, 2))
graph, nnx_params = nnx.split(net)
of_nnx = lambda p, x, s, t: nnx.merge(graph, p)(features(x, s, t))

# equinox: split into arrays and the rest
arrays, rest = eqx.partition(eqx.nn.MLP(9, 2, 128, 3, jax.nn.gelu, key=jax.random.key(7)), eqx.is_array)
equinox = lambda p, x, s, t: jax.vmap(eqx.combine(p, rest))(features(x, s, t))

networks = {"lambda": (plain, layers), "linen": (linen, mlp_params), "nnx": (of_nnx, nnx_params), "equinox": (equinox, arrays)}

# %% [markdown]
# ## A minute of training
#
# This is the whole trainer: draw data, noise and times, compute the loss, follow the gradient. Every other row is on the
# diagonal, `t = s`, where MeanFlow is flow matching; `w` is zero there, so that these rows always learn from data. `v` is the
# velocity of one example, `eps - x0`. Its mean given `x` is the velocity of the flow, so the error falls to a variance and not
# to zero.
#
# The last run is a baseline: `w = 0`, MeanFlow alone.

# %%
circle = jnp.asarray(points.eight_gaussians(np.random.default_rng(0), 2**16))
optimizer, pair_of_times = optax.adam(optax.cosine_decay_schedule(2e-3, steps)), times.sorted_pair(times.uniform())


def error_of(V, mix, key, step):
    data, noise, time = jax.random.split(key, 3)
    x0, eps = circle[jax.random.randint(data, (rows,), 0, len(circle))], jax.random.normal(noise, (rows, 2))
    s, t = (times.expand(each, x0) for each in pair_of_times(time, rows))
    t = jnp.where(jnp.arange(rows)[:, None] % 2, s, t)
    x, v = paths.interpolate(paths.linear, x0, eps, s)
    return distance(*mixed(V, x, s, t, v, mix(step) * (s != t))).mean()


@functools.partial(jax.jit, static_argnums=(0, 1))
def update(V, mix, params, state, step):
    loss = lambda params: error_of(functools.partial(V, params), mix, jax.random.fold_in(jax.random.key(8), step), step)
    error, gradient = jax.value_and_grad(loss)(params)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(params, updates), state, error


# %%
runs = {name: (*network, schedule) for name, network in networks.items()}
runs["linen, w = 0"] = (linen, mlp_params, schedules.constant(0.0))
trained = {}
for name, (V, params, mix) in runs.items():
    state = optimizer.init(params)
    for step in tqdm.tqdm(range(steps), desc=name):
        params, state, error = update(V, mix, params, state, step)
    trained[name] = functools.partial(V, params)

# %% [markdown]
# One evaluation for each sample, from the same noise. All networks reach the data; the arcs between the clusters are their
# error after so short a training. The lines below the picture compare with noise, with other rows of the data, and with
# MeanFlow alone.

# %% tags=["picture"]
noise = jax.random.normal(jax.random.key(9), (8192, 2))
samples = {name: np.asarray(samplers.flow_map(V, noise, samplers.grid(1))) for name, V in trained.items()}
plots.point_grid(None, {"data": circle[:8192]} | samples, title="Trained by a loss of our own, one step")

# %%
for name, x in ({"noise": noise, "other data": circle[8192:16384]} | samples).items():
    distance_to_data = evals.sliced_wasserstein(np.asarray(x), np.asarray(circle[:8192]))
    print(f"{name:12} sliced Wasserstein distance to the data {distance_to_data:.3f}")

# %% [markdown]
# ## The same as a method with a name
#
# A **recipe** lists the pairs, and for each of them its rows, distance and constants. Everything else is the trainer's:
# averages, checkpoints, evaluation, meshes. Every constant is a keyword, and so a field of the config. The smallest recipe has
# one **term**, a pair with its draw of times. `pairs.pair` gives a loss its arguments by their names: `V` is the network, and
# `x`, `s`, `t`, `v` are arrays of the term's rows. (Other networks, such as `V_target` or a `teacher`, are given to a method
# that `needs` them.) The names of distributions of times are in `times.SAMPLERS`.


# %%
def smallest():
    term = typing.Term("mine", pairs.pair(losses.meanflow), distances.l2, times=draws.pair_times(("uniform_triangle",)))
    return recipe.method([term], points=draws.on_path("linear"), label_drop=0.0)


# %% [markdown]
# Our recipe has two terms: the anchor, flow matching on the diagonal, and the mix on the other rows. The weight `w` is in
# `point.a`.


# %%
def mixed_targets(*, total_steps=None, times=("sorted_pair", ("uniform",)), diagonal="1/2", c=0.5, jvp="exact", label_drop=0.0):
    """From MeanFlow to self-distillation during the training, with the pseudo-Huber distance."""
    on, off = recipe.split(diagonal)  # the rows of each term
    distance, mix = functools.partial(distances.huber, c=c), pairs.pair(mixed, jvp=jvp)  # "exact", "central:0.01", ...
    length = recipe.length("mixed_targets", "the mix changes", total_steps)  # an error if it is unknown
    schedule = schedules.linear(0.0, 1.0, length)
    pair = lambda nets, point: mix(nets, point, w=point.a)
    anchor = typing.Term("anchor", pairs.anchor, distance, columns=on, times=draws.source_times(times))
    jumps = typing.Term("mixed", pair, distance, columns=off, times=draws.pair_times(times, schedule))  # s, t and a
    return recipe.method([anchor, jumps], points=draws.on_path("linear"), label_drop=label_drop)


methods.register("mixed_targets", mixed_targets)
method = methods.make("mixed_targets", total_steps=steps)
drawn = method.draw(jax.random.key(10), {"x": circle[:rows]}, step=steps // 2)
errors, raw = method.loss(typing.Nets(V=lambda x, s, t: -x), drawn)
print(
    {name: point.x.shape for name, point in drawn.items()}, errors.shape, {name: round(float(e), 2) for name, e in raw.items()}
)

# %% [markdown]
# The scripts know the method through a config file, which registers it and defines its training. This cell writes the file,
# with the two functions above. `config.modules` names the module, which training imports. Scripts
# that open a run of it need `--modules=my_method`, because a folder does not choose what code runs.

# %%
head = """import functools

import jax

from configs import common
from flowjax import distances, losses, methods, schedules, typing
from flowjax.methods import draws, pairs, recipe
"""
tail = """methods.register("mixed_targets", mixed_targets)


def get_config(preset="checkerboard"):
    config = common.base(preset, method="mixed_targets")
    config.modules = ("my_method",)
    return config
"""
file = pathlib.Path(folder, "my_method.py")
file.parent.mkdir(parents=True, exist_ok=True)
file.write_text("\n\n".join([head, inspect.getsource(mixed), inspect.getsource(mixed_targets), tail]))
print(file.read_text())

# %% [markdown]
# Now it is a method like any other. The scripts import the module from `PYTHONPATH`. The cell first deletes the folder of the
# run, because a run is continued, and a changed loss must start from the beginning.


# %%
def run(command):
    print(f"PYTHONPATH={folder} python -m {command}")
    path = os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])
    subprocess.run([sys.executable, "-m", *command.split()], env=os.environ | {"PYTHONPATH": path}, check=True)


shutil.rmtree(f"{folder}/run", ignore_errors=True)
flags = f"--workdir={folder}/run --config.steps={run_steps} --config.data.name=eight_gaussians --config.method.c=0.3"
run(f"experiments.train --config={file}:{preset} {flags}")

# %%
run(f"experiments.evaluate --workdir={folder}/run --modules=my_method --steps=1,2 --measures=sliced_wasserstein")

# %% [markdown]
# Next: `experiments.sample`, `experiments.inspect` and `experiments.generate` take the same `--workdir`, every field is a flag,
# and `--config=...:digits` trains the method on images. The trainer takes linen networks; nnx and equinox need a loop like the
# one above.
#
# The same file can add data and networks of your own, beside `methods.register`:
#
# ```python
# points = np.load("my_points.npy")  # [n, D], float32
# rows = lambda split, data_dir=None: data.Source("mine", len(points), points.shape[1:], 0, lambda ids: {"x": points[ids]})
# data.DATASETS["mine"] = rows
# models.MODELS["mine"] = MyNetwork  # linen, called (x, s, t, cond=None), with the fields num_classes, inputs
# models.SHARDING["mine"] = ((".*", ("fsdp",)),)
# # in get_config
# config.data.name, config.model = "mine", common.network("mine", width=128)
# ```
#
# To add a method to the library, put loss and recipe into `flowjax/` as in the README's table and add their rows to the tests,
# which then check everything that they check of other methods.
#
# What does the derivative in MeanFlow's part cost, and is a finite difference enough? [Next](4_exact_jvp.ipynb).
