# %% [markdown]
# # Exact JVP or finite differences
#
# Takes about 150 s on two CPU cores.
#
# Most flow-map losses contain a derivative of the network along a direction. `jax.jvp` computes it exactly, for somewhat more
# than the price of a second forward pass; a one-sided finite difference costs exactly a second pass. Is it as good? Here the
# functions of `experiments/benchmark_jvp.py` measure both on one small transformer. The answer can differ on your machine: run
# this notebook there.

# %% tags=["parameters"]
options = ["--tokens=512", "--batch=4", "--depth=1", "--rounds=3"]

# %%
import json
import os
import pathlib

import jax
import jax.numpy as jnp
from absl import flags

import flowjax

os.chdir(pathlib.Path(flowjax.__file__).parents[1])  # where configs/ and experiments/ are

from experiments import benchmark_jvp as benchmark, tables
from flowjax import derivatives, losses

flags.FLAGS(["benchmark_jvp", *options])
grid = benchmark.grid_of_flags()

# %% [markdown]
# ## One derivative, two functions
#
# `derivatives.finite_difference` returns a function with the signature of `jax.jvp`, so every loss takes either as `jvp=...`.

# %%
V = lambda x, s, t: jnp.sin(3 * x) * s + t**2
x, s, t, v = jnp.array([[0.3, -0.2]]), jnp.array([[0.8]]), jnp.array([[0.1]]), jnp.array([[1.0, 2.0]])
for name, jvp in {"exact": jax.jvp, "one-sided": derivatives.finite_difference(0.01, "backward")}.items():
    _, dV_ds = benchmark.directional(jvp, V, x, s, t, v)
    residual = jnp.subtract(*losses.meanflow(V, x, s, t, v, jvp=jvp))
    print(
        f"{name:10} dV/ds along (v, 1) {dV_ds[0, 0]:.3f}, {dV_ds[0, 1]:.3f};"
        f" MeanFlow's residual {residual[0, 0]:.3f}, {residual[0, 1]:.3f}"
    )

# %% [markdown]
# ## What it costs
#
# Each program is compiled, its matmuls are counted (diamonds), and it is timed in turns with the others (bars, with their
# quartiles). All numbers are divided by those of one forward pass with the same attention, so compare bars of one colour.
# Compare `MeanFlow gradient` with `MeanFlow gradient, finite difference`: this is what a difference saves in a training step.
# The bar below them has the exact derivative on the rows that need it, as in MeanFlow's recipe. Compare the memory in MiB too:
# `chunked` attention stores less than `xla`. There are few rounds here, and times vary from run to run: where quartiles
# overlap, trust the diamonds.

# %% tags=["picture"]
costs = benchmark.costs(grid)
benchmark.draw_costs(None, costs)

# %%
named = {
    "operation": "operation",
    "attention": "attention",
    benchmark.MATMULS: "matmuls",
    benchmark.WALL: "wall time",
    "temp MiB": "MiB",
}
short = lambda value: f"{value:.2f}" if isinstance(value, float) else value
print(tables.markdown([{head: short(row[name]) for name, head in named.items()} for row in costs]))

# %% [markdown]
# ## What it gets wrong
#
# The relative error against float64, over the step `h` of the difference. To the right of each minimum the difference is a bad
# tangent. To the left it is the rounding error of two nearly equal numbers, divided by a small one; where `s - h` rounds to `s`
# the difference is zero. The best step depends on the dtype and the scheme, and a training run does not show it. The exact
# derivative has no step: it is the dashed line.

# %%
errors = benchmark.accuracy(tokens=64)
benchmark.draw_accuracy(None, errors, tokens=64)

# %% [markdown]
# ## The answer
#
# Computed from the numbers above:

# %%
print(benchmark.answer(costs, errors).replace(". ", ".\n"))

# %% [markdown]
# ## Does the error matter?
#
# A training may tolerate it. The printed command measured this before: MeanFlow on a checkerboard in float32, trained with the
# exact derivative (dashed) and with differences of several steps. Look at the large steps of the one-sided difference. We have
# not trained in bfloat16, where differences are worst.

# %%
measured = json.loads(pathlib.Path("docs/jvp.json").read_text())
print(measured["about"].split("DiT")[0])
benchmark.draw_training(None, measured["training"])

# %% [markdown]
# Where there is no exact derivative (a kernel without a forward rule), use `--config.method.jvp=central:0.01`. The
# [next notebook](5_one_step_digits.ipynb) trains with the exact one.
