# %% [markdown]
# # Flow maps by looking
#
# Takes about 60 s on two CPU cores. Nothing is trained here: every flow is known in closed form.
#
# Time runs from data at `t = 0` to noise at `t = 1`; here on the path `x = (1 - t) x0 + t eps`. A diffusion model learns the
# velocity `v(x, t)` of a point, and its sampler follows the velocity from noise to data in many small steps. A **flow map**
# goes from any time `s` to any time `t` in one step, `F(x, s, t) = x + (t - s) V(x, s, t)`. `V` is the average velocity between
# the two times: the slope of the straight line from start to end.

# %% tags=["parameters"]
lines, rows, cells = 41, 4096, 15

# %%
import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from flowjax import evals, exact, paths, plots, residuals, samplers
from flowjax.data import points

# %% [markdown]
# ## A flow in one dimension
#
# The data are a mixture of two normal distributions. A flow in one dimension keeps the order of its points. So its map has a
# closed form: a quantile of the noise goes to the same quantile of the data.

# %%
weights, means = np.array([0.35, 0.65]), np.array([-1.5, 1.0])
flow = exact.mixture(weights, means, deviations=[0.25, 0.35])
times = jnp.linspace(0.0, 1.0, 61)
noise = jnp.asarray(stats.norm.ppf(np.linspace(0.01, 0.99, lines)), jnp.float32)
flow_lines = flow.F(jnp.broadcast_to(noise[:, None], (lines, 61)), 1.0, times[None])
plots.flow_lines(None, {"as many points between any two neighbouring lines, at all times": {}}, (times, flow_lines))

# %% [markdown]
# ## One step of a diffusion sampler, one jump of a flow map
#
# Some points of noise move to data, from right to left. Euler's method follows the tangent of the flow line at each point; a
# jump follows the chord. Compare where the dots land at time `0` with the ends of the grey lines.

# %% tags=["picture"]
start = noise[2 :: lines // 8]
euler = lambda n: samplers.trajectory(samplers.euler, flow.v, start, samplers.grid(n), n + 1)
jumps = samplers.trajectory(samplers.flow_map, flow.V, start, samplers.grid(1), 2)
panels = {f"Euler, {n} step{'s' * (n > 1)}": {"along v": (samplers.grid(n), euler(n))} for n in (1, 2, 4, 8, 16)}
panels |= {"flow map, 1 jump": {"along V": (samplers.grid(1), jumps)}}
plots.flow_lines(None, panels, (times, flow_lines), title="The tangent needs many steps, the chord one")

# %%
x1 = jax.random.normal(jax.random.key(0), (rows, 1))
data = flow.F(x1, 1.0, 0.0)
one = samplers.euler(flow.v, x1, samplers.grid(1))
print(f"mean of the data {weights @ means:.3f}; one Euler step lands at {one.min():.3f} to {one.max():.3f}")
for n in (1, 4, 16, 64, 256, 1024):
    off = samplers.euler(flow.v, x1, samplers.grid(n)) - data
    print(f"{n:4} Euler steps: off by {jnp.sqrt(jnp.mean(off**2)):.4f} from where one jump lands")

# %% [markdown]
# At pure noise every tangent points at the mean of the data, 0.125, so a single Euler step puts all points there. With more
# steps Euler's method comes nearer to where a single jump of the flow map lands.
#
# ## The three rules
#
# How does one learn `V` without knowing the flow? For equal times the average velocity is the velocity, `V(x, t, t) = v(x, t)`.
# This **diagonal** is what flow matching learns from data; it is the **anchor** of most methods. Three rules extend it to long
# jumps, and each rule is a family of losses.
#
# * **Lagrangian**, the target moves: `d_t F(x, s, t) = v(F, t)`. The ends of all jumps from one start lie on a flow line.
# * **Eulerian**, the source moves: `d_s F + dF/dx v(x, s) = 0`. All jumps that start on one flow line land on the same spot.
# * **Compositional**, two jumps are one: `F(F(x, s, m), m, t) = F(x, s, t)`.
#
# The rules alone do not determine `V`: `V = 0` satisfies all three.
#
# The upper panels show the exact map. The lower ones show a wrong map, `V(x, s, t) = v(x, s)`, which takes the tangent for the
# chord: its ends lie on the tangent and not on the flow line, its landing moves with the source, and two jumps land elsewhere
# than one.


# %%
def jumped(V, x, s, t):
    """Starts and landings of jumps, (times [n, 2], points [n, 2])."""
    s, t, x = jnp.broadcast_arrays(jnp.asarray(s), jnp.asarray(t), x)
    return jnp.stack([s, t], 1), jnp.stack([x, x + (t - s) * V(x, s, t)], 1)


def three_rules(name, V, x):
    at = jnp.linspace(0.2, 1.0, 5)
    on_line = flow.F(jnp.broadcast_to(x, at.shape), 1.0, at)
    one, two = (samplers.trajectory(samplers.flow_map, V, x[None], samplers.grid(n), n + 1) for n in (1, 2))
    return {
        f"{name}\nLagrangian: the target moves": {"V": jumped(V, x, 1.0, at - 0.2)},
        f"{name}\nEulerian: the source moves": {"V": jumped(V, on_line, at, 0.0)},
        f"{name}\nCompositional: two jumps, one jump": {"one": (samplers.grid(1), one), "two": (samplers.grid(2), two)},
    }


# %%
tangent = lambda x, s, t: flow.v(x, s)
panels = three_rules("exact", flow.V, noise[lines // 5]) | three_rules("tangent for chord", tangent, noise[lines // 5])
plots.flow_lines(None, panels, (times, flow_lines))

# %% [markdown]
# ## Where a map breaks the rules
#
# The same as numbers: the error of the wrong map in each rule, for every pair of times, averaged over many points. It is zero
# only on the diagonal, `s = t`, where chord and tangent are the same. The last panel is the true error of the map, which grows
# with the length of the jump.

# %%
grid = (np.arange(cells) + 0.5) / cells
maps = residuals.error_maps(tangent, data[:256], paths.linear, grid, flow.V)
plots.heat_maps(None, maps, xlabel="source s", ylabel="target t", label="data per unit of time")

# %% [markdown]
# ## Points of the plane
#
# The velocity of a checkerboard is known in closed form. Many steps of Heun's method along it give the exact map, up to the
# error of the solver. So the jump below is computed by a solver; a network has to learn it.

# %%
v = points.VELOCITIES["checkerboard"]
V = residuals.along(v, steps=64)
board = points.checkerboard(np.random.default_rng(0), rows)
eps = jax.random.normal(jax.random.key(2), (rows, 2))
samples = {
    f"Euler, {n} step{'s' * (n > 1)}": jax.jit(samplers.euler, static_argnums=0)(v, eps, samplers.grid(n)) for n in (1, 2, 8)
}
samples["flow map, 1 jump"] = jax.jit(samplers.flow_map, static_argnums=0)(V, eps, samplers.grid(1))
plots.point_grid(None, {"data": board} | samples, title="Data, and samples from the same noise")

# %%
few = {name: np.stack([eps[:48], x[:48]], axis=1) for name, x in samples.items() if name != "Euler, 8 steps"}
plots.trajectories(None, few, board, title="One step leads to the mean, one jump to the data")

# %%
for name, x in samples.items():
    print(f"{name:16}: sliced Wasserstein distance to the data {evals.sliced_wasserstein(np.asarray(x), board):.3f}")

# %% [markdown]
# A network that has learned `V` needs one evaluation where the solver needs many. The [next notebook](2_every_loss.ipynb) shows
# every loss that learns it, from data or from a diffusion model, on one page.
