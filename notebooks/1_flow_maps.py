# %% [markdown]
# # Flow maps by looking
#
# Takes about 60 s on two CPU cores. Nothing is trained here: every flow is known in closed form.
#
# A diffusion model knows the velocity `v(x, t)` of a point, from noise at `t = 1` to data at `t = 0`, and a sampler follows it in
# many small steps (here on the path `x = (1 - t) x0 + t eps`, so that `v` points from data to noise). A **flow map** knows where the point goes, `F(x, s, t) = x + (t - s) V(x, s, t)`: from any time `s` to any time
# `t` in one step. `V` is the average velocity along the way, the slope of a straight line from start to end.

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
# The data are a mixture of two normal distributions. A flow in one dimension keeps the order of its points, so that its map has a
# closed form: the point at a quantile of the noise goes to the same quantile of the data.

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
# Some points of noise, on their way to data (right to left). Euler's method follows the tangent of the line it stands on; a jump
# goes along the chord. Look at where the dots land at time `0`, beside the ends of the grey lines.

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
# From pure noise, every tangent points at the mean of the data, 0.125: a single Euler step puts all points there. The more steps, the
# nearer Euler's method comes to where a single jump of the flow map lands.
#
# ## The three rules
#
# How does one learn `V` without knowing the flow? The velocity says where a map begins: `V(x, t, t) = v(x, t)`, the **diagonal**, which flow
# matching learns from data (it is the **anchor** of most methods). Three rules carry it to long jumps; each is a family of losses.
#
# * **Lagrangian**, the target moves: `d_t F(x, s, t) = v(F, t)`. From one start, the ends of the jumps run along a flow line.
# * **Eulerian**, the source moves: `d_s F + dF/dx v(x, s) = 0`. Wherever on its line a point jumps off, it lands on the same spot.
# * **Compositional**, two jumps are one: `F(F(x, s, m), m, t) = F(x, s, t)`.
#
# Without the diagonal they pin nothing: `V = 0` keeps all three.
#
# Above the exact map; below a wrong one, the tangent taken for the chord, `V(x, s, t) = v(x, s)`, which is all that a diffusion
# model knows: the ends run along the tangent and leave the flow line; the landing wanders as the source moves; two jumps land
# elsewhere than one.


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
# ## Where a map breaks them
#
# The same as numbers: by how much the tangent breaks each rule, for every pair of times, over many points. It obeys them only on the
# diagonal, `s = t`, where chord and tangent are one. The last panel is how wrong the map really is: it grows with the length of the
# jump.

# %%
grid = (np.arange(cells) + 0.5) / cells
maps = residuals.error_maps(tangent, data[:256], paths.linear, grid, flow.V)
plots.heat_maps(None, maps, xlabel="source s", ylabel="target t", label="data per unit of time")

# %% [markdown]
# ## Points of the plane
#
# Of a checkerboard the velocity is known in closed form; its flow is followed by many steps of Heun's method, which makes the exact
# map up to the solver's error. So the jump below hides a solver: it shows what a network will have to learn.

# %%
v = points.VELOCITIES["checkerboard"]
V = residuals.along(v, steps=64)
board = points.checkerboard(np.random.default_rng(0), rows)
eps = jax.random.normal(jax.random.key(2), (rows, 2))
found = {
    f"Euler, {n} step{'s' * (n > 1)}": jax.jit(samplers.euler, static_argnums=0)(v, eps, samplers.grid(n)) for n in (1, 2, 8)
}
found["flow map, 1 jump"] = jax.jit(samplers.flow_map, static_argnums=0)(V, eps, samplers.grid(1))
plots.point_grid(None, {"data": board} | found, title="Data, and samples from the same noise")

# %%
few = {name: np.stack([eps[:48], x[:48]], axis=1) for name, x in found.items() if name != "Euler, 8 steps"}
plots.trajectories(None, few, board, title="One step leads to the mean, one jump to the data")

# %%
for name, x in found.items():
    print(f"{name:16}: sliced Wasserstein distance to the data {evals.sliced_wasserstein(np.asarray(x), board):.3f}")

# %% [markdown]
# A network that has learned `V` does in one evaluation what the solver did in many. How it can be learned, from data or from a
# diffusion model, is the matter of the [next notebook](2_every_loss.ipynb): every loss, one page.
