# %% [markdown]
# # The globe
#
# Takes about 60 s on two CPU cores.
#
# Flow maps where there are no straight lines: a jump follows a great circle of the sphere. Two trainings, one of jumps and one of
# the velocity alone, then the samples of both on a map of the globe, and where the map breaks its rules.

# %% tags=["parameters"]
folder, steps, rows, cells = "runs/notebook_globe", 1_000, 4_000, 9

# %%
import os
import pathlib
import shutil

import jax
import numpy as np

import flowjax

os.chdir(pathlib.Path(flowjax.__file__).parents[1])  # where configs/, experiments/ and runs/ are

from configs import manifold
from flowjax import data, evals, paths, plots, residuals, spaces, training

# %% [markdown]
# ## Points and tangent vectors
#
# A space has an exponential, which walks along a geodesic, and a logarithm, which says how to walk. Noise is uniform. Between
# noise and data a path is a geodesic, and its velocity is tangent.

# %%
sphere, path = spaces.sphere, paths.path_from_name("sphere")
x0, eps = (sphere.noise(jax.random.key(seed), (rows, 3)) for seed in range(2))
x, v = paths.interpolate(path, x0, eps, 0.3)
arrived = sphere.exp(x0, sphere.log(x0, eps))
print(
    f"exp undoes log up to {np.abs(arrived - eps).max():.0e}; points have length 1 up to {np.abs(np.linalg.norm(x, axis=1) - 1).max():.0e}"
)
print(f"velocities are tangent up to {np.abs((x * v).sum(axis=1)).max():.0e}")

# %% [markdown]
# ## Two trainings
#
# The data are four caps. `rmf` is Riemannian MeanFlow: the rule of MeanFlow with the derivative of the logarithm in the place of
# the velocity. `flow_matching` learns the velocity alone.

# %%
trained = {}
for name in ("rmf", "flow_matching"):
    config = manifold.get_config(f"{name},sphere")
    config.steps, config.batch_size, config.eval_every, config.save_every = steps, 256, 0, steps
    config.model.width = 128
    shutil.rmtree(f"{folder}/{name}", ignore_errors=True)
    training.train(config, f"{folder}/{name}")
    trained[name] = training.load(f"{folder}/{name}")
real = data.arrays(data.load("sphere_caps", split="test"), limit=rows)["x"]

# %% [markdown]
# ## One step
#
# One jump of the map, beside one step along the velocity, which leads to the middle of the data: nowhere in particular, on a sphere.

# %% tags=["picture"]
samples = {
    "one jump": trained["rmf"].sample(rows, 1),
    "two jumps": trained["rmf"].sample(rows, 2),
    "one Euler step": trained["flow_matching"].sample(rows, 1, sampler="euler"),
    "32 Heun steps": trained["flow_matching"].sample(rows, 32, sampler="heun"),
}
noise = np.asarray(sphere.noise(jax.random.key(2), (rows, 3)))
plots.globes(None, {"data": real, "noise": noise} | samples)

# %%
for name, points in ({"noise": noise} | samples).items():
    print(f"{name:14} squared kernel distance to held-out points {evals.geodesic_mmd(points, real, space='sphere'):.4f}")

# %% [markdown]
# ## Where the map breaks its rules
#
# The three rules, as on R^n, with differences of tangent vectors where the jump lands.

# %%
V = trained["rmf"].V(np.full(256, -1))
maps = residuals.error_maps(V, real[:256], path, (np.arange(cells) + 0.5) / cells)
plots.heat_maps(None, maps, xlabel="source s", ylabel="target t", label="radians per unit of time")

# %%
for name, errors in maps.items():
    print(f"{name:13} root mean square {residuals.root_mean_square(errors):.2f}")

# %% [markdown]
# The cities of the world, on the same sphere: `--config=configs/manifold.py:rmf,cities`.
