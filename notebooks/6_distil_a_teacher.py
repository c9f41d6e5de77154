# %% [markdown]
# # Distil a teacher
#
# Takes about 150 s on two CPU cores.
#
# A diffusion model, the teacher, and four students, which are flow maps: one for each rule, and one that never sees data.

# %% tags=["parameters"]
folder, teacher_steps, steps, rows, cells = "runs/distil", 3000, 800, 8192, 9

# %%
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np

import flowjax

os.chdir(pathlib.Path(flowjax.__file__).parents[1])  # where configs/ and experiments/ are

from configs import method as configs
from flowjax import evals, methods, paths, plots, residuals, samplers, training, typing
from flowjax.data import points

# %% [markdown]
# ## The teacher
#
# Flow matching on a checkerboard learns the velocity, and sampling needs many small steps. `trained`, which all runs below
# call, empties a folder, trains a method there with its preset, and returns the map.


# %%
def trained(name, **fields):
    config = configs.get_config(f"{name},checkerboard")
    config.update({"steps": steps, "batch_size": 512, "eval_every": 0, **fields})
    config.model.width = 192
    shutil.rmtree(f"{folder}/{name}", ignore_errors=True)
    training.train(config, f"{folder}/{name}")
    return training.load(f"{folder}/{name}").V()


teacher_map = trained("flow_matching", steps=teacher_steps)
teacher = lambda x, t: teacher_map(x, t, t)

# %%
board = points.checkerboard(np.random.default_rng(0), rows)
noise = jax.random.normal(jax.random.key(0), (rows, 2))
sampled = jax.jit(samplers.euler, static_argnums=0)
walked = {n: np.asarray(sampled(teacher, noise, samplers.grid(n))) for n in (1, 2, 4, 8, 64)}
plots.point_grid(None, {"data": board} | {f"teacher, {n} step{'s' * (n > 1)}": x for n, x in walked.items()})

# %% [markdown]
# ## Three students, one for each rule
#
# * `lmd`, Lagrangian: the landing of a jump must move with the teacher's velocity at the landing.
# * `emd`, Eulerian: when the source moves with the teacher's velocity, the landing must stay.
# * `split_meanflow`, compositional: two jumps are one; the teacher's velocity is used only on the diagonal.
#
# They start from the teacher's weights.

# %%
from_teacher = {"teacher": f"{folder}/flow_matching", "start": "teacher"}
students = {name: trained(name, **from_teacher) for name in ("lmd", "emd", "split_meanflow")}

# %% [markdown]
# ## A student without data
#
# `freeflow` starts from noise and trains where its jumps land, so it needs no data: it uses only the shape of the batch. To
# show this, here is its loss for a batch in which every number is `nan`:

# %%
method = methods.make("freeflow")
drawn = method.draw(jax.random.key(1), {"x": jnp.full((64, 2), jnp.nan)}, 0)
nets = typing.Nets(
    V=lambda x, s, t, cond=None: teacher_map(x, s, t),
    velocity=lambda x, t, cond=None: teacher(x, t),
    teacher=lambda x, t, cond=None: teacher(x, t),
)
errors, _ = method.loss(nets, drawn)
print(f"freeflow, a batch of nan: mean error {errors.mean():.2f}")
meanflow = methods.make("meanflow")
errors, _ = meanflow.loss(nets, meanflow.draw(jax.random.key(1), {"x": jnp.full((64, 2), jnp.nan)}, 0))
print(f"meanflow, the same batch: mean error {errors.mean():.2f}")

# %%
students["freeflow"] = trained("freeflow", **from_teacher)

# %% [markdown]
# ## One step
#
# Many steps of the teacher, a single step of it, and one jump of each student, all from the same noise.

# %% tags=["picture"]
jumped = {
    name: np.asarray(jax.jit(samplers.flow_map, static_argnums=0)(V, noise, samplers.grid(1))) for name, V in students.items()
}
headings = {"teacher, 64 steps": walked[64], "teacher, 1 step": walked[1]}
plots.point_grid(None, headings | {f"{name}, 1 step": x for name, x in jumped.items()}, reference=board)

# %%
for name, x in {"teacher, 64 steps": walked[64], "teacher, 8 steps": walked[8], "teacher, 1 step": walked[1], **jumped}.items():
    off = np.sqrt(np.mean((x - walked[64]) ** 2))
    print(f"{name:17} distance to the data {evals.sliced_wasserstein(x, board):.3f}; off the teacher's end by {off:.2f}")

# %% [markdown]
# Points between the squares are the students' error. There are two numbers, because a student can be good in two senses: its
# samples are distributed like the data, or each of them is where the teacher's trajectory from the same noise ends.
#
# ## Which rule did each learn?
#
# Errors over all pairs of times, and the true error against the teacher's flow, for the three students that learned all jumps
# (`freeflow` learned only jumps from noise). Compare along a column: does the student of a rule have the smallest error in it?

# %%
exact, grid = residuals.along(teacher), (np.arange(cells) + 0.5) / cells
error_maps = lambda name: residuals.error_maps(students[name], board[:128], paths.linear, grid, exact)
maps = {name: error_maps(name) for name in ("lmd", "emd", "split_meanflow")}
plots.heat_maps(None, maps, xlabel="source s", ylabel="target t", label="data per unit of time")

# %%
for rule in ("lagrangian", "eulerian", "compositional", "true error"):
    errors = {name: residuals.root_mean_square(rules[rule]) for name, rules in maps.items()}
    print(
        f"{rule:13}", ", ".join(f"{name} {error:.4f}" for name, error in errors.items()), "| best:", min(errors, key=errors.get)
    )

# %% [markdown]
# One seed and a short training: where two numbers are close, another seed may order them differently. A compositional error
# compares the map with itself, and is smaller here than the true error.
#
# The same for images, from the command line, is in the README under *Teachers, networks trained along, couplings*; guidance is
# distilled the same way.
