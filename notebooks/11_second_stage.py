# %% [markdown]
# # A second stage
#
# Takes about 70 s on two CPU cores with the run of `make demo`; without it a shorter training comes first, and the digits are
# rougher. On the command line: `python -m experiments.train --config=configs/method.py:fd_loss,digits --config.start=runs/demo
# --config.steps=120 --config.optim.learning_rate=2e-5 --config.optim.warmup_steps=12 --workdir=runs/finish`.
#
# MeanFlow keeps the way from noise to data. A method that matches distributions keeps only where all ways together end. One such
# method, `fd_loss`, starts from the trained map and pulls mean and covariance of its samples to those of the data. What is gained, what
# is kept, and what is lost? The page `docs/methods/distributional.md` has longer runs, and a discriminator.

# %% tags=["parameters"]
run, folder, steps = "runs/demo", "runs/notebook_second_stage", 700
finish_steps, rows, cells = 120, 500, 9

# %%
import os
import pathlib
import shutil

import numpy as np

import flowjax

os.chdir(pathlib.Path(flowjax.__file__).parents[1])  # where configs/, experiments/ and runs/ are

from configs import meanflow, method
from flowjax import data, evals, paths, plots, residuals, training

# %% [markdown]
# ## The map to start from

# %%
shutil.rmtree(folder, ignore_errors=True)
if not pathlib.Path(run, "checkpoints").exists():
    run, config = f"{folder}/meanflow", meanflow.get_config("digits")
    config.steps, config.optim.warmup_steps, config.eval_every = steps, steps // 12, 0
    training.train(config, run)
trained = {"MeanFlow": training.load(run)}

# %% [markdown]
# ## The second stage
#
# `config.start` names the run whose weights the student starts from. The rate is a fiftieth of that of the first stage.

# %%
config = method.get_config("fd_loss,digits")
config.start, config.steps, config.eval_every = run, finish_steps, 0
config.optim.learning_rate, config.optim.warmup_steps = 2e-5, finish_steps // 10
training.train(config, f"{folder}/fd_loss")
trained["fd_loss"] = training.load(f"{folder}/fd_loss")

# %% [markdown]
# ## One step, before and after
#
# All from the same noise, ten digits of each.

# %% tags=["picture"]
labels = np.arange(rows) % 10
real = data.arrays(data.load("digits", split="test"))
samples = {name: one.sample(rows, 1, labels) for name, one in trained.items()}
shown = {"real": (real["x"], real["label"])} | {name: (x, labels) for name, x in samples.items()}
plots.class_grid(None, shown, 10, title="One step, before and after a second stage", per_class=6)

# %%
classifier = evals.features.digits_classifier()
training_rows = data.arrays(data.load("digits"), limit=rows)
features = classifier.features(real["x"])


def sharpness(x):
    """Mean difference of neighbouring pixels."""
    return np.abs(np.diff(x, axis=1)).mean() + np.abs(np.diff(x, axis=2)).mean()


print("one step              Frechet: features   pixels   agreement   precision   recall   sharpness")
for name, x in ({"training digits": training_rows["x"]} | samples).items():
    shown = training_rows["label"] if name == "training digits" else labels
    print(
        f"{name:21} {evals.frechet(classifier.features(x), features):17.2f} {evals.frechet(x, real['x']):8.2f}"
        f" {evals.agreement(classifier, x, shown):11.3f} {evals.precision(x, training_rows['x']):11.2f}"
        f" {evals.recall(x, training_rows['x']):8.2f} {sharpness(x):11.3f}"
    )

# %% [markdown]
# ## What is kept: which noise becomes which digit
#
# From the same noise, how far is the digit after the second stage from the digit before, in units of the distance of two digits
# that have nothing to do with each other?

# %%
apart = lambda x, y: np.sqrt(np.mean((x - y) ** 2))
before = samples["MeanFlow"]
other = apart(before, np.roll(before, 10, axis=0))  # another digit of the same class
for name, x in samples.items():
    print(f"{name:21} {apart(x, before) / other:.2f}")

# %% [markdown]
# ## What is lost: the way from noise to data
#
# A flow map lands on the same spot by one jump or by four, and its rules hold at all pairs of times. `fd_loss` trains the jump from
# noise to data alone; nothing holds the rest of the map to it.

# %%
for name, one in trained.items():
    four = one.sample(rows, 4, labels)
    print(
        f"{name:21} one step and four differ by {apart(samples[name], four) / other:.2f};"
        f" Frechet distance in features at four steps {evals.frechet(classifier.features(four), features):.2f}"
    )

# %%
times = (np.arange(cells) + 0.5) / cells
x, shown = np.resize(real["x"], (64, *trained["MeanFlow"].shape)), np.resize(real["label"], 64)
maps = {name: residuals.error_maps(one.V(shown), x, paths.linear, times)["compositional"] for name, one in trained.items()}
plots.heat_maps(None, maps, xlabel="source s", ylabel="target t", label="data per unit of time")

# %%
for name, errors in maps.items():
    print(f"{name:21} compositional rule, root mean square {residuals.root_mean_square(errors):.2f}")

# %% [markdown]
# The samples became sharper and their distances smaller, in one step and in four; a little diversity was paid for that. Each noise
# still becomes almost the same digit, and in so short a stage the map's own rule holds as before.
