# %% [markdown]
# # What a noisy digit may have been
#
# Takes about 40 s on two CPU cores with the run that this command makes, longer without it: then a shorter training comes first,
# and the digits are rougher. `python -m experiments.train --config=configs/method.py:meta_flow_map,digits --config.steps=1500
# --config.batch_size=64 --config.model.width=256 --config.model.heads=4 --config.model.patch=4 --config.method.label_drop=1.0
# --workdir=runs/inpainting`. It has seen no labels: what a digit is follows from its pixels alone.
#
# A stochastic map carries fresh noise to a sample of the posterior of one noisy state, in one call of the network. Many draws show
# what is still open; where rows of the image are hidden, a few rounds of draws fill them in.

# %% tags=["parameters"]
run, short_run, steps, digits, draws, rounds = "runs/inpainting", "runs/notebook_inpainting", 300, 60, 16, 32

# %%
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np

import flowjax

os.chdir(pathlib.Path(flowjax.__file__).parents[1])  # where configs/, experiments/ and runs/ are

from configs import method as method_config
from flowjax import data, evals, inverse, plots, posterior, training

# %%
if not pathlib.Path(run, "checkpoints").exists():
    shutil.rmtree(short_run, ignore_errors=True)
    run, config = short_run, method_config.get_config("meta_flow_map,digits")
    config.steps, config.optim.warmup_steps, config.eval_every, config.batch_size = steps, steps // 12, 0, 64
    config.model.update({"width": 256, "heads": 4, "patch": 4})
    config.method.label_drop = 1.0
    training.train(config, run)
trained = training.load(run)
learned, real = (data.arrays(trained.source(split)) for split in ("train", "test"))
x0, label = real["x"][:digits], real["label"][:digits]
classifier = evals.features.digits_classifier()
print(
    f"{run}: {trained.settings.method.name}, {trained.step} steps of training; {digits} held-out digits, {draws} draws of each"
)
print(f"the classifier reads {evals.agreement(classifier, x0, label):.1%} of the held-out digits as what they are")

# %% [markdown]
# ## One state, many draws
#
# The state is `x_c = (1 - c) x0 + c n`. The network sees it, its level `c` and fresh noise. The baseline knows the training digits
# by heart: it draws them with the posterior weights that they have if they are all that there is.

# %%
draw = jax.jit(trained.draw())


def by_map(c):
    """Noisy states, and draws of each."""
    noise_key, key = jax.random.split(jax.random.key(int(100 * c)))
    x_c = posterior.observed(jnp.asarray(x0), c, noise_key)
    eps = jax.random.normal(key, (digits * draws, *trained.shape))
    return x_c, np.asarray(draw(jnp.repeat(x_c, draws, axis=0), c, eps)).reshape(digits, draws, *trained.shape)


def by_heart(seen, rows, deviation):
    """Training digits, drawn with the weights that they have where `seen` [digits, ...] is `rows` plus noise of this deviation."""
    squares = ((np.asarray(seen)[:, None] - rows[None]) ** 2).reshape(len(seen), len(rows), -1).sum(-1)
    picked = jax.random.categorical(jax.random.key(0), -squares[:, None] / (2 * deviation**2), shape=(len(seen), draws))
    return learned["x"][np.asarray(picked)]


# %%
def tell(name, x):
    """Prints how often the draws are read as what the digit is, and how far they are spread."""
    read = evals.agreement(classifier, x.reshape(-1, *trained.shape), np.repeat(label, draws))
    mean = np.sqrt(np.mean((x.mean(axis=1) - x0) ** 2))
    print(f"{name:28} read as the digit {read:.1%}, spread {x.std(axis=1).mean():.2f}, their mean off by {mean:.2f}")


states = {c: by_map(c) for c in (0.3, 0.5, 0.7, 0.9)}
for c, (x_c, x) in states.items():
    tell(f"c = {c}: one call a draw", x)
    tell(f"c = {c}: training digits", by_heart(x_c, (1 - c) * learned["x"], c))

# %% tags=["picture"]
shown = {"held out": x0[:8, None]}
for c in (0.5, 0.7, 0.9):
    shown |= {f"c = {c}": np.asarray(states[c][0])[:8, None], f"draws, {c}": states[c][1][:8, :6]}
plots.image_grid(None, shown, title="What a noisy digit may have been, one call a draw")

# %% [markdown]
# Near the data the draws agree; towards the noise they are spread over all digits, as they should be. The mean of draws is the
# denoised digit, which a network for the velocity alone would give; it says nothing of what is open. Where the state says something,
# the training digits are read right more often: a held-out digit has near relatives among them, and the map was trained for minutes.
#
# ## Hidden rows
#
# The lower rows are hidden, and what is seen has a little noise. A draw of the whole image, then new noise on what is hidden:
# these two steps in turn leave the posterior as it is, so the rounds need no gradient and no weights, one call each.

# %%
known, sigma = inverse.known_half(trained.shape), 0.1
noise = np.random.default_rng(0).standard_normal(x0.shape).astype(np.float32)
y = known * (x0 + sigma * noise)
lowest = sigma / (1 + sigma)  # the level at which what is seen is itself a noisy state
levels = np.geomspace(1.0, lowest, rounds)
paint = jax.jit(lambda y, key: inverse.inpainted(trained.draw(), y, known, sigma, levels, key))
filled = np.asarray(paint(jnp.repeat(y, draws, axis=0), jax.random.key(1))).reshape(digits, draws, *trained.shape)
remembered = by_heart(y, known * learned["x"], sigma)
print(f"{known.mean():.0%} of the pixels are seen; {rounds} calls a draw")
tell("map", filled)
tell("training digits", remembered)
off = np.sqrt(np.mean((filled - y[:, None])[:, :, known == 1] ** 2)) / sigma
print(f"where they are seen, the draws of the map are off by {off:.2f} times the noise; the truth is by 1.00")

# %%
shown = {"held out": x0[:8, None], "seen": y[:8, None], "map": filled[:8, :8], "training digits": remembered[:8, :8]}
plots.image_grid(None, shown, title="What hidden rows may have been")

# %% [markdown]
# Again the training digits are read right more often. Nearly all the weight is on the one whose upper rows fit best, as their spread
# shows. The map's draws are new digits that fit what is seen, and often another digit than the one that was hidden. The early rounds
# decide which, and at their levels what is seen is nearly drowned in noise too; more rounds help. `python -m experiments.invert` compares
# more ways, on any run; the [next notebook](10_steering.ipynb) steers points by a reward.
