# %% [markdown]
# # One-step digits
#
# Takes about 40 s on two CPU cores with the run of `make demo`, and about 150 s without it: then a shorter training comes
# first, and the digits are rougher.
#
# MeanFlow on real handwritten digits: samples in one, two and four steps, digits turned into noise and back, interpolation
# between digits, and the errors of the map.

# %% tags=["parameters"]
run, short_run, steps, rows, cells = "runs/demo", "runs/notebook_digits", 700, 500, 9

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
# The same trainer as on the command line. `load` reads network, weights and settings from the folder of a run.

# %%
if not pathlib.Path(run, "checkpoints").exists():
    shutil.rmtree(short_run, ignore_errors=True)
    run, config = short_run, meanflow.get_config("digits")
    config.steps, config.optim.warmup_steps, config.eval_every = steps, steps // 12, 0
    training.train(config, run)
trained = training.load(run)
real = data.arrays(data.load("digits", split="test"))
print(f"{run}: {trained.settings.method.name}, {trained.step} steps of training")

# %% [markdown]
# ## One, two, four evaluations
#
# All from the same noise. More steps improve details and hardly change the digit.

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
        f"{n} step(s): a classifier reads the requested digit in {agreement:.1%};"
        f" Frechet distance to held-out digits {distance:.2f}"
    )
print(f"as many training digits: Frechet distance to held-out digits {evals.frechet(training_rows['x'], real['x']):.2f}")
change = np.sqrt(np.mean((samples[1] - samples[4]) ** 2)) / np.sqrt(np.mean((samples[1] - samples[1][::-1]) ** 2))
print(f"from one step to four a digit changes {change:.2f} times as much as two digits differ")

# %% [markdown]
# ## Inversion: a digit is a noise
#
# The flow runs in both directions. Heun's method along `V(x, t, t)` carries held-out digits to their noise (this map learned
# only jumps towards the data), and one jump carries them back. Then the same noise is sampled with the labels of other digits:
# look at what stays.

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
# Mixed along a circle, so that every mixture is standard noise; one jump each. Does every picture of a row show the requested
# digit?

# %%
ends = jax.random.normal(jax.random.key(1), (2, 8, *trained.shape))
angles = np.linspace(0, np.pi / 2, 9)[:, None, None, None, None]
between = jnp.cos(angles) * ends[0] + jnp.sin(angles) * ends[1]
mixtures = np.stack([trained.sample(8, labels=np.arange(2, 10), x=x) for x in np.asarray(between)], axis=1)
plots.image_grid(
    None, {"one noise ... another": mixtures}, [str(digit) for digit in range(2, 10)], "One jump from each noise between two"
)

# %%
read = evals.agreement(classifier, mixtures.reshape(-1, *trained.shape), np.arange(2, 10).repeat(9))
print(f"the classifier reads the requested digit in {read:.1%} of these pictures")

# %% [markdown]
# ## Where the map breaks the rules
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
# The errors of all three rules, over all pairs of times. Only below the diagonal: the map never learned jumps towards noise.
# MeanFlow trains on the Eulerian rule, and even its error is not zero. Every error is largest in the lowest row, where the jump
# lands nearest to the data.

# %%
V = trained.V(np.resize(real["label"], 64))
maps = residuals.error_maps(V, np.resize(real["x"], (64, *trained.shape)), paths.linear, (np.arange(cells) + 0.5) / cells)
plots.heat_maps(None, maps, xlabel="source s", ylabel="target t", label="data per unit of time")

# %%
for name, errors in maps.items():
    source, target = np.unravel_index(np.nanargmax(errors.T), errors.T.shape)
    at = f"from s = {(source + 0.5) / cells:.2f} to t = {(target + 0.5) / cells:.2f}"
    print(f"{name:13} root mean square {residuals.root_mean_square(errors):.2f}, worst {np.nanmax(errors):.2f} {at}")

# %% [markdown]
# This map was learned from data. In the [next notebook](6_distil_a_teacher.ipynb) maps are learned from a teacher, which knows
# the velocity, and one of them without any data.
