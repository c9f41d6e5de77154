# %% [markdown]
# # Words from noise
#
# Takes about 110 s on two CPU cores with the run that the first cell names, longer without it: then a shorter training
# comes first, and the words are rougher. The run: `python -m experiments.train --config=configs/tokens.py:dfm_psd,words
# --workdir=runs/words`.
#
# Letters are categories. A network classifies them at every noise level, and its jumps stay on the simplex: a word in one step, in
# four, in many. Needs the package `english-words` (or the extra `words` of this one).

# %% tags=["parameters"]
run, short_run, steps, rows, most = "runs/words", "runs/notebook_words", 500, 512, 128

# %%
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np

import flowjax

os.chdir(pathlib.Path(flowjax.__file__).parents[1])  # where configs/, experiments/ and runs/ are

from configs import tokens as token_configs
from flowjax import data, evals, plots, training
from flowjax.data import tokens

# %% [markdown]
# ## A trained map
#
# Rows are ten tokens, each a letter or the end. Held out are words that the training never saw.

# %%
if not pathlib.Path(run, "checkpoints").exists():
    shutil.rmtree(short_run, ignore_errors=True)
    run, config = short_run, token_configs.get_config("dfm_psd,words")
    config.steps, config.optim.warmup_steps, config.eval_every = steps, min(100, steps // 5), 0
    training.train(config, run)
trained = training.load(run)
learned, held_out = (data.arrays(trained.source(split))["x"] for split in ("train", "test"))
print(
    f"{run}: {trained.settings.method.name}, {trained.step} steps of training on {len(learned)} words; {len(held_out)} held out"
)

# %% [markdown]
# ## One, four, many evaluations
#
# All from the same noise. Coloured words exist.

# %% tags=["picture"]
samples = {n: trained.sample(rows, n) for n in (1, 4, most)}
known = {*tokens.text(learned), *tokens.text(held_out)}
columns = {"real, held out": tokens.text(held_out[:: len(held_out) // 24])[:24]}
columns |= {f"{n} step{'s' if n > 1 else ''}": tokens.text(x[:24]) for n, x in samples.items()}
plots.word_grid(None, columns, "Words from the same noise", marked=sorted(known))

# %% [markdown]
# Before the last decision a sample is probabilities. How certain they are, how many words exist, how many of these were never
# learned from, and how far the triples of letters are from those of held-out words. Beside them stands a model without a network,
# trigrams: each letter given its place and the two letters before it.


# %%
def trigrams(rows, n, rng):
    """Tokens [n, L] of a model of trigrams at their places, counted in the tokens `rows`, and its nats a row of these."""
    before, made, nats = np.pad(rows, ((0, 0), (2, 0))), np.zeros((n, rows.shape[1] + 2), int), 0.0
    for place in range(rows.shape[1]):
        triples, counts = tuple(before[:, place : place + 3].T), np.zeros((27, 27, 27))
        np.add.at(counts, triples, 1)
        shares = counts / np.maximum(counts.sum(axis=2, keepdims=True), 1)
        up_to = shares[made[:, place], made[:, place + 1]].cumsum(axis=1)
        made[:, place + 2] = (rng.random((n, 1)) > up_to[:, :-1]).sum(axis=1)
        nats -= np.log(shares[triples]).mean()
    return made[:, 2:], nats


counted, counted_nats = trigrams(tokens.decided(learned), rows, np.random.default_rng(0))
samples["trigrams"] = tokens.one_hot(counted, learned.shape[2])
judge = evals.Judge(held_out, training=learned, held_out=held_out)
names = ("existing", "unseen", "distinct", "trigrams", "certainty")
measured = {f"{n} steps" if n != "trigrams" else n: judge.values(x, None, names) for n, x in samples.items()}
measured["learned from"] = judge.values(learned[:: len(learned) // rows], None, names)
for what, values in measured.items():
    print(f"{what:>12}: " + ", ".join(f"{name} {value:.3f}" for name, value in values.items()))

# %% [markdown]
# ## How one word forms
#
# The denoised field on the way, `x - s V(x, s, s)`, is the posterior of every letter. At noise it is the frequency of letters at
# their places; towards the data it becomes certain.

# %%
V, times = jax.jit(trained.V()), np.linspace(1.0, 0.0, most + 1)
x, posteriors = jax.random.normal(jax.random.key(3), (1, *trained.shape)), {}
for number, (s, t) in enumerate(zip(times[:-1], times[1:])):
    if number % (most // 4) == 0:
        posteriors[f"s = {s:.2f}"] = np.asarray(x - s * V(x, s, s))[0]
    x = x + (t - s) * V(x, s, s)
for name, posterior in posteriors.items():
    word = tokens.text(posterior[None])[0]
    print(f"{name}: likeliest word {word!r}, certainty {evals.certainty(posterior[None]):.2f}")

# %%
enlarged = lambda posterior: np.kron(2 * posterior.T**0.5 - 1, np.ones((10, 10)))
pictures = {name: enlarged(posterior)[None, None, :, :, None] for name, posterior in posteriors.items()}
plots.image_grid(None, pictures, title="Roots of the probabilities of end and letters (rows) at ten places (columns)")

# %% [markdown]
# ## What a word costs
#
# The diagonal bounds the negative log-likelihood, for words that were learned from and for others; that of the trigrams is known. The
# best code of equally likely words would take the logarithm of their number.

# %%
bound = jax.jit(lambda x, key: evals.likelihood_bound(trained.V(), x, key))
for name, some in (("learned from", learned), ("held out", held_out)):
    some = jnp.asarray(some[:: max(1, len(some) // 128)][:128])
    print(f"{name}: {float(bound(some, jax.random.key(0)).mean()):.2f} nats a word")
print(f"trigrams, learned from: {counted_nats:.2f}; logarithm of the number of words: {np.log(len(known)):.2f}")

# %% [markdown]
# ## Between two noises
#
# Mixed along a circle, four steps each.

# %%
ends = jax.random.normal(jax.random.key(5), (2, 6, *trained.shape))
angles = np.linspace(0, np.pi / 2, 7)
between = [trained.sample(6, 4, x=np.cos(a) * ends[0] + np.sin(a) * ends[1]) for a in angles]
for words in zip(*map(tokens.text, between)):
    print(" -> ".join(words))
