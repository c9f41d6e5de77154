# %% [markdown]
# # Likelihoods and steering
#
# Takes about 110 s on two CPU cores.
#
# What a trained map is for besides samples: how likely a point is, and samples that a reward prefers, without any further training.
# Points of eight Gaussians, of which everything is known.

# %% tags=["parameters"]
folder, steps, rows, side = "runs/notebook_steering", 2_000, 8_192, 48

# %%
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import flowjax

os.chdir(pathlib.Path(flowjax.__file__).parents[1])  # where configs/, experiments/ and runs/ are

from configs import meanflow
from flowjax import data, density, plots, samplers, steering, training
from flowjax.data import points

# %%
config = meanflow.get_config("checkerboard")
config.data.name, config.steps, config.eval_every, config.save_every = "eight_gaussians", steps, 0, steps
config.optim.schedule = "cosine"
shutil.rmtree(folder, ignore_errors=True)
training.train(config, folder)
V = training.load(folder).V()
v = lambda x, t: V(x, t, t)
real = data.arrays(data.load("eight_gaussians", split="test"), limit=rows)["x"]
eps = jax.random.normal(jax.random.key(0), (rows, 2))

# %% [markdown]
# ## How likely a point is
#
# Along the flow the logarithm of the density falls by the divergence of the velocity: many steps. The samples of the map itself
# have an exact density too, of each jump its determinant: as many calls as jumps.

# %%
some, true = jnp.asarray(real[: side**2]), points.LOG_DENSITIES["eight_gaussians"]
log_p = jax.jit(lambda x: density.log_density(v, x, samplers.grid(64)[::-1]))
found, known = np.asarray(log_p(some)), true(np.asarray(some))
print(f"held-out points: log p of the flow {found.mean():.2f} on average, true {known.mean():.2f}")
draw = jax.jit(lambda eps, times: density.sample_with_density(V, eps, times))
for n in (1, 4):
    x, log_q = draw(eps[: side**2], samplers.grid(n))
    true_p = true(np.asarray(x))
    _, share = density.importance_weights(jnp.asarray(true_p), log_q)
    print(f"samples in {n} jump(s): log q {log_q.mean():.2f}, true {true_p.mean():.2f}; weighted by p / q, {share:.0%} count")

# %%
line = np.linspace(-2, 2, side, dtype=np.float32)
grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
fig, axes = plt.subplots(1, 2, figsize=(7, 3.5))
for ax, log_density, title in zip(
    axes, (true(grid), np.asarray(log_p(jnp.asarray(grid)))), ("true density", "of the trained flow")
):
    ax.imshow(np.exp(log_density).reshape(side, side), origin="lower", extent=(-2, 2, -2, 2), vmax=2.0)
    ax.set_title(title)

# %% [markdown]
# This run was trained for a minute: its modes are narrower than those of the data and not as round, so held-out points are less likely
# under it than they are. That few of its samples count says the same: they miss parts of the data, or lie between the modes.
#
# ## A reward
#
# What is wanted are samples of the density times `exp(reward)`. A reward along one axis makes the shares of the eight Gaussians
# unequal, and they are known: that of mean `m` is in proportion to `exp(reward(m))`.

# %%
strength, angles = 1.5, np.arange(8) * np.pi / 4
reward = lambda x0: strength * x0[:, 0]
wanted = jax.nn.softmax(strength * 1.4 * np.cos(angles))


def shares(x, log_w):
    """The shares of the Gaussians among weighted points: each counts for the nearest in angle."""
    nearest = np.rint(np.arctan2(x[:, 1], x[:, 0]) / (np.pi / 4)).astype(int) % 8
    return np.bincount(nearest, weights=np.asarray(jax.nn.softmax(log_w)), minlength=8)


total_variation = lambda x, log_w: 0.5 * np.abs(shares(np.asarray(x), log_w) - wanted).sum()
print(f"the largest share is {wanted.max():.3f}, the smallest {wanted.min():.4f}")
print(
    f"held-out points, weighted: total variation {total_variation(real, reward(real)):.3f}, which is what their number allows"
)

# %% [markdown]
# ## Weights
#
# The map sees the end of every trajectory, so a particle's weight is the reward there, whatever the strength. What a stronger
# reward costs is how many particles count.

# %%
ends = jax.jit(lambda eps: samplers.flow_map(V, eps, samplers.grid(1)))(eps)
for strong in (0.5, 1.5, 3.0, 6.0):
    print(f"strength {strong}: {steering.effective_share(strong * ends[:, 0]):.1%} of the particles count")

# %% [markdown]
# ## Ways to steer
#
# `tilted` moves particles, weighs and resamples them on the way (sequential Monte Carlo). `guided` bends the jumps by the gradient
# of the reward. `best of` keeps the best of a few samples.

# %%
key, one, two, four = jax.random.key(1), samplers.grid(1), samplers.grid(2), samplers.grid(4)
many = jax.random.normal(jax.random.key(2), (4 * rows, 2))
ways = {
    "plain, 1 call": lambda eps: samplers.flow_map(V, eps, one),
    "weighted, 2 calls": lambda eps: steering.tilted(V, eps, one, key, reward, threshold=0),
    "tilted, 6 calls": lambda eps: steering.tilted(V, eps, two, key, reward, noise=0.3),
    "tilted, 8 calls": lambda eps: steering.tilted(V, eps, four, key, reward),
    "guided, 8 calls": lambda eps: steering.guided(V, eps, four, reward),
    "best of 4, 4 calls": lambda eps: steering.best_of(samplers.flow_map(V, eps, one), reward, 4),
}
steered = {name: jax.jit(way)(many if "best" in name else eps) for name, way in ways.items()}
steered = {name: found if isinstance(found, tuple) else (found, jnp.zeros(rows)) for name, found in steered.items()}
for name, (x, log_w) in steered.items():
    mean = jax.nn.softmax(log_w) @ reward(x)
    print(f"{name:20} mean reward {mean:.2f}, total variation {total_variation(x, log_w):.3f}")
print(f"{'data, weighted':20} mean reward {jax.nn.softmax(reward(real)) @ reward(real):.2f}")

# %% tags=["picture"]
drawn = lambda x, log_w: np.asarray(x)[np.asarray(steering.resampled(log_w, jax.random.key(3)))]
panels = {"data, weighted": drawn(real, jnp.asarray(reward(real)))}
panels |= {name: drawn(x, log_w) for name, (x, log_w) in steered.items() if name != "tilted, 6 calls"}
plots.point_grid(None, panels, "Samples that a reward to the right prefers", reference=real)

# %% [markdown]
# Weights and resampling are right up to the errors of the map, which are smaller for shorter jumps. The Langevin steps of the fewer
# calls keep copied particles apart, at the price of an error of their own. Guidance bends every trajectory by the reward of one end,
# and its shares are far off. The best of a few has nearly the wanted mean, by luck: more candidates raise it further.
#
# The same on any run and reward: `python -m experiments.steer`, `experiments.likelihood`, `experiments.invert`.
