# %% [markdown]
# # One-step digits
#
# Takes about 60 s on two CPU cores where `make demo` has left its run, and about 150 s where it has not: then a shorter training comes
# first, and the digits are rougher.
#
# MeanFlow on real handwritten digits: samples in one, two and four steps, digits turned into noise and back, ways between digits, and
# where the map contradicts itself.

# %% tags=["parameters"]
run, own, steps, rows, cells = "runs/demo", "runs/notebook_digits", 700, 500, 9

# %%
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np

import flowjax

os.chdir(pathlib.Path(flowjax.__file__).parents[1])  # where configs/, experiments/ and runs/ are

from configs import meanflow
from flowjax import data, evals, paths, plots, residuals, training
from flowjax.training import progress

# %% [markdown]
# ## A trained map
#
# The same trainer as on the command line. `load` takes a folder and finds the rest in it.

# %%
if not pathlib.Path(run, "checkpoints").exists():
    shutil.rmtree(own, ignore_errors=True)
    run, config = own, meanflow.get_config("digits")
    config.steps, config.optim.warmup_steps, config.eval_every = steps, steps // 12, 0
    training.train(config, run)
trained = training.load(run)
real = data.arrays(data.load("digits", split="test"))
print(f"{run}: {trained.settings.method.name}, {trained.step} steps of training")

# %% [markdown]
# ## One, two, four evaluations
#
# All from the same noise. More steps polish; they hardly change what is there.

# %% tags=["picture"]
labels = np.arange(rows) % 10
samples = {n: trained.sample(rows, n, labels) for n in (1, 2, 4)}
progress.draw_samples(None, samples, labels, 10, real=real, per_class=5)

# %%
classifier = evals.features.digits_classifier()
training_rows = data.arrays(data.load("digits"), limit=rows)
for n, x in samples.items():
    agreement, distance = evals.agreement(classifier, x, labels), evals.frechet(x, real["x"])
    print(
        f"{n} step(s): a classifier reads the asked-for digit in {agreement:.1%}; Frechet distance to held-out digits {distance:.2f}"
    )
print(f"as many training digits: Frechet distance to held-out digits {evals.frechet(training_rows['x'], real['x']):.2f}")
change = np.sqrt(np.mean((samples[1] - samples[4]) ** 2)) / np.sqrt(np.mean((samples[1] - samples[1][::-1]) ** 2))
print(f"from one step to four a digit changes {change:.2f} times as much as two digits differ")

# %% [markdown]
# ## Inversion: a digit is a noise
#
# The flow runs both ways. Held-out digits go to their noise (along `V(x, t, t)`, by Heun's method: this map learned jumps towards the data
# only) and come back in one jump. Then the same noise is asked for another digit: look at what stays.

# %%
held_out, classes = real["x"][:10], real["label"][:10]
noise = trained.sample(10, 32, classes, sampler="heun", x=held_out, inverted=True)
back = {n: trained.sample(10, n, classes, x=noise) for n in (1, 4)}
others = {f"as a {digit}": trained.sample(10, labels=digit, x=noise) for digit in (0, 3, 7)}
shown = {"held out": held_out, "its noise": noise, "back, 1 jump": back[1]} | others
plots.image_grid(None, {name: x[:, None] for name, x in shown.items()}, title="What the noise remembers")

# %%
for n, x in back.items():
    print(f"back in {n} jump(s): off by {np.sqrt(np.mean((x - held_out) ** 2)):.2f} (pixels run from -1 to 1)")
print(f"the noise has mean {noise.mean():.2f} and deviation {noise.std():.2f}; fresh noise has 0 and 1")

# %% [markdown]
# ## Between two noises
#
# Mixed on a circle, so that every mixture is noise too; one jump each. Does a row stay the digit that it was asked for?

# %%
ends = jax.random.normal(jax.random.key(1), (2, 8, *trained.shape))
angles = np.linspace(0, np.pi / 2, 9)[:, None, None, None, None]
between = jnp.cos(angles) * ends[0] + jnp.sin(angles) * ends[1]
ways = np.stack([trained.sample(8, labels=np.arange(2, 10), x=x) for x in np.asarray(between)], axis=1)
plots.image_grid(
    None, {"one noise ... another": ways}, [str(digit) for digit in range(2, 10)], "One jump from each noise between two"
)

# %%
read = evals.agreement(classifier, ways.reshape(-1, *trained.shape), np.arange(2, 10).repeat(9))
print(f"the classifier reads the asked-for digit in {read:.1%} of these pictures")

# %% [markdown]
# ## Where the map breaks its own rule
#
# A true flow map lands on the same spot by one jump or two. The difference, beside the digits:

# %%
start = np.asarray(jax.random.normal(jax.random.key(2), (10, *trained.shape)))
one, two = (trained.sample(10, n, x=start) for n in (1, 2))
shown = {"one jump": one, "two jumps": two, "difference, times 4": 4 * (two - one)}
plots.image_grid(None, {name: x[:, None] for name, x in shown.items()})

# %%
print(f"one jump and two differ by {np.sqrt(np.mean((two - one) ** 2)):.2f}; pixels deviate by {one.std():.2f}")

# %% [markdown]
# Over all pairs of times, with the other two rules. Below the diagonal only: the map never learned jumps towards noise. The Eulerian
# rule is the one that MeanFlow trains on, and even it is kept only so far. Every rule is worst kept where the jump lands nearest
# to the data, in the lowest row.

# %%
V = trained.V(np.resize(real["label"], 64))
maps = residuals.error_maps(V, np.resize(real["x"], (64, *trained.shape)), paths.linear, (np.arange(cells) + 0.5) / cells)
plots.heat_maps(None, maps, xlabel="source s", ylabel="target t", label="data per unit of time")

# %%
for name, found in maps.items():
    source, target = np.unravel_index(np.nanargmax(found.T), found.T.shape)
    at = f"from s = {(source + 0.5) / cells:.2f} to t = {(target + 0.5) / cells:.2f}"
    print(f"{name:13} root mean square {residuals.root_mean_square(found):.2f}, worst {np.nanmax(found):.2f} {at}")

# %% [markdown]
# This map was learned from data. The [next notebook](6_distil_a_teacher.ipynb) learns from a teacher that already knows the velocity,
# at last without any data.
