# %% [markdown]
# # Every loss on one page
#
# Takes about 25 s on two CPU cores. Nothing is trained.
#
# A loss of flowjax is a **pair**, `(prediction, target)`: two arrays of the shape of `x` that are equal on every true flow map
# (in a few losses up to the error of one short step). A distance, which is not part of the loss, scores how far apart they are.
# Below, every loss is evaluated on a flow that is known in closed form, with two questions. Are prediction and target equal on
# the true map? Which of them does the gradient change?

# %% tags=["parameters"]
rows = 256

# %%
import jax
import jax.numpy as jnp
import numpy as np

from flowjax import derivatives, exact, losses, plots

jax.config.update("jax_enable_x64", True)  # to tell zero from rounding

# %% [markdown]
# The arguments are points `x` at source times `s`, target times `t`, and the exact velocity `v` of the points. The middle time
# is `m = s + a (t - s)`. The true map is `flow.V`; the map `wrong` differs from it by a wave.

# %%
flow = exact.gaussian(mean=jnp.array([1.0, -0.5]), covariance=jnp.array([[1.5, 0.6], [0.6, 0.5]]))
keys = jax.random.split(jax.random.key(0), 4)
x = jax.random.normal(keys[0], (rows, 2))
s = jax.random.uniform(keys[1], (rows, 1), minval=0.4, maxval=0.9)
t = s * jax.random.uniform(keys[2], (rows, 1), minval=0.1, maxval=0.7)
eps, a, v = jax.random.normal(keys[3], (rows, 2)), jnp.full((rows, 1), 0.05), flow.v(x, s)
m = s + a * (t - s)
x_m, x_t = flow.F(x, s, m), flow.F(x, s, t)
truth, teacher = jax.jit(flow.V), jax.jit(flow.v)
phi = lambda x, s, t: jnp.sin(2 * x[..., ::-1] + s - 2 * t)
wrong = jax.jit(lambda x, s, t: truth(x, s, t) + 0.3 * phi(x, s, t))

# %% [markdown]
# ## The page
#
# First as equations, `prediction vs target`, from the docstrings. `F = x + (t - s) V` is the jump, `sg` stops the gradient, and
# `d_s V` is a derivative along a direction.

# %%
for name in losses.__all__:
    lines = getattr(losses, name).__doc__.splitlines()
    print(f"{name:30}", next((line.strip() for line in lines if " vs " in line), lines[0]))

# %% [markdown]
# Then as code, called as in a training step, but with `V` also where training takes averaged or frozen weights. `v` is a
# velocity from data (here the exact one), `teacher` a known velocity, `truth` a known map. Two losses return two pairs.
#
# **Diagonal and Eulerian: the source moves.** `s` and `x` move along the velocity; the landing must not change.

# %%
two = lambda V: lambda x, s, t: (V(x, s, t), V(x, s, s))  # a network whose second head is the velocity
eulerian = {
    "flow_matching": lambda V: losses.flow_matching(V, x, s, v),
    "meanflow": lambda V: losses.meanflow(V, x, s, t, v),
    "improved_meanflow": lambda V: losses.improved_meanflow(V, x, s, t, v),
    "improved_meanflow_two_heads, average": lambda V: losses.improved_meanflow_two_heads(two(V), x, s, t, v)[0],
    "improved_meanflow_two_heads, velocity": lambda V: losses.improved_meanflow_two_heads(two(V), x, s, t, v)[1],
    "alphaflow": lambda V: losses.alphaflow(V, x, s, t, v, a),
    "soflow": lambda V: losses.soflow(V, x, s, t, v, a),
    "consistency_training": lambda V: losses.consistency_training(V, x, s, t, v, a),
    "consistency_distillation": lambda V: losses.consistency_distillation(V, V, x, s, t, v, a),
    "consistency_trajectory": lambda V: losses.consistency_trajectory(V, V, x, s, t, x_m, m),
    "continuous_consistency": lambda V: losses.continuous_consistency(V, x, s, v),
    "eulerian_distillation": lambda V: losses.eulerian_distillation(V, x, s, t, v),
    "eulerian_self_distillation": lambda V: losses.eulerian_self_distillation(V, x, s, t),
    "align_your_flow_emd": lambda V: losses.align_your_flow_emd(V, x, s, t, v),
    "flow_anchored": lambda V: losses.flow_anchored(V, x, s, v),
}

# %% [markdown]
# **Lagrangian: the target moves.** The landing must move with the velocity at the landing.

# %%
lagrangian = {
    "lagrangian_distillation": lambda V: losses.lagrangian_distillation(V, teacher, x, s, t),
    "lagrangian_self_distillation": lambda V: losses.lagrangian_self_distillation(V, x, s, t),
    "align_your_flow_lmd": lambda V: losses.align_your_flow_lmd(V, teacher, x, s, t),
    "terminal_velocity": lambda V: losses.terminal_velocity(V, V, x, s, t),
    "freeflow_prediction": lambda V: losses.freeflow_prediction(V, teacher, x, t),
    "freeflow_correction": lambda V: losses.freeflow_correction(V, lambda x, t: V(x, t, t), teacher, x, t, eps),
    "physics_informed": lambda V: losses.physics_informed(V, teacher, x, t),
    "boot": lambda V: losses.boot(V, teacher, x, t, t + a * (1 - t)),
    "consistency_mid_training": lambda V: losses.consistency_mid_training(V, x, s, t, x_t),
}

# %% [markdown]
# **Compositional: two jumps are one.**

# %%
compositional = {
    "shortcut": lambda V: losses.shortcut(V, V, x, s, t),
    "split_meanflow": lambda V: losses.split_meanflow(V, x, s, t, a),
    "progressive_self_distillation": lambda V: losses.progressive_self_distillation(V, x, s, t, a),
    "flow_map_matching, velocity": lambda V: losses.flow_map_matching(V, x, s, t, v)[0],
    "flow_map_matching, round trip": lambda V: losses.flow_map_matching(V, x, s, t, v)[1],
    "progressive_flow_map_matching": lambda V: losses.progressive_flow_map_matching(V, truth, x, s, t, a),
    "progressive_distillation": lambda V: losses.progressive_distillation(V, teacher, x, s, s + a * (t - s)),
}
pairs = eulerian | lagrangian | compositional
shown = {name.split(",")[0] for name in pairs}
print(f"{len(pairs)} pairs of {len(shown)} losses; missing: {set(losses.__all__) - shown or 'none'}")

# %% [markdown]
# ## On the truth, and on a wrong map
#
# The root mean square of `prediction - target`. Rings are the true map: what remains is rounding, or the error of one short
# step in the few pairs that take one. Dots are the wrong map: no pair is zero there.

# %%
size = lambda z: float(jnp.sqrt(jnp.mean(z**2)))
residual = lambda pair: jnp.subtract(*pair)
sizes = {name: (size(residual(pair(truth))), size(residual(pair(wrong)))) for name, pair in pairs.items()}
series = {label: {name: both[side] for name, both in sizes.items()} for side, label in enumerate(["truth", "wrong map"])}
plots.dots(None, {"the truth, and a wrong map": series}, xlabel="root mean square of prediction - target", log=True)

# %%
short_step = [name for name, (right, _) in sizes.items() if right > 1e-8]
print("a short step:", "; ".join(short_step))
print(f"largest of the others on the truth: {max(right for name, (right, _) in sizes.items() if name not in short_step):.0e}")
print(f"smallest on the wrong map: {min(off for _, off in sizes.values()):.0e}")

# %% [markdown]
# ## Where the gradient stops
#
# Give the map a weight: `V + theta phi`. The rings show how far the weight moves prediction and target. The dots show the
# derivative in `theta`, which is what training sees and what a `stop_gradient` in the loss removes. A dot in its ring: the
# gradient flows. A dot at zero with its ring further right: the gradient is stopped.
#
# In the right panel nearly all dots are at zero: these methods stop the whole target. In the left panel a dot outside its ring
# is a prediction of which a part is stopped. The lines below the picture name these losses.


# %% tags=["picture"]
def moved_and_seen(pair, h=1e-4):
    at = lambda theta: pair(lambda x, s, t: wrong(x, s, t) + theta * phi(x, s, t))
    moved = [size(up - down) / (2 * h) for up, down in zip(at(h), at(-h))]
    return moved, [size(tangent) for tangent in jax.jvp(at, (0.0,), (1.0,))[1]]


both = {name: moved_and_seen(pair) for name, pair in pairs.items()}
column = lambda what, side: {name: values[what][side] for name, values in both.items()}
labels, sides = ("how far it moves", "what the gradient sees"), ("prediction", "target")
panels = {head: {label: column(what, side) for what, label in enumerate(labels)} for side, head in enumerate(sides)}
plots.dots(None, panels, xlabel="root mean square of the derivative in theta")

# %%
stopped = [name for name, (moved, seen) in both.items() if moved[1] > 1e-6 and seen[1] == 0]
partly = [name for name, (moved, seen) in both.items() if abs(moved[0] / seen[0] - 1) > 1e-3]
free = [name for name, (_, seen) in both.items() if seen[1] > 0]
print(f"{len(stopped)} targets move and are stopped.")
print("prediction stopped in part:", "; ".join(partly))
print("gradient through the target:", "; ".join(free))

# %% [markdown]
# ## One family: the methods as limits of each other
#
# For any smooth map, right or wrong, the residual of one method divided by its step tends to the residual of another method.
# Straight lines on these axes are powers of the step; their slopes are printed below. Short names: `psd` and `lsd` are
# progressive and Lagrangian self-distillation, `lmd` and `emd` Lagrangian and Eulerian distillation, `ct` is consistency
# training and sCM its continuous form.

# %%
steps = 10.0 ** np.arange(-4, -0.4, 0.5)
limits = {
    "soflow / a -> meanflow": (lambda h: losses.soflow(wrong, x, s, t, v, h), losses.meanflow(wrong, x, s, t, v)),
    "psd / (1 - a) -> lsd": (
        lambda h: losses.progressive_self_distillation(wrong, x, s, t, 1 - h),
        losses.lagrangian_self_distillation(wrong, x, s, t),
    ),
    "boot / a -> lmd from noise": (
        lambda h: losses.boot(wrong, teacher, x, t, t + h * (1 - t)),
        losses.lagrangian_distillation(wrong, teacher, x, 1.0, t),
    ),
}
curves = {name: [(h, size(residual(pair(h)) / h - residual(limit))) for h in steps] for name, (pair, limit) in limits.items()}
differences = {}
for scheme in ("backward", "central"):
    of = lambda h: losses.meanflow(wrong, x, s, t, v, jvp=derivatives.finite_difference(h, scheme))
    differences[f"{scheme} -> exact"] = [
        (h, size(residual(of(h)) - residual(losses.meanflow(wrong, x, s, t, v)))) for h in steps
    ]
panels = {"a step that shrinks, residuals over it": curves, "meanflow by finite differences": differences}
plots.log_curves(None, panels, xlabel="step: a, 1 - a, or h", ylabel="difference of the residuals")

# %%
for name, curve in (curves | differences).items():
    h, value = np.transpose(curve)
    print(f"{name:28} slope {np.polyfit(np.log(h[2:6]), np.log(value[2:6]), 1)[0]:.2f}")

# %% [markdown]
# Central differences are of order 2.00, all others of order 1.00. Some residuals are equal up to rounding, and yet the methods
# differ: in where the gradient stops (`emd` and `meanflow`, see above), in the weights that compute the target (`shortcut` and
# `psd`), or only in the recipe (`alphaflow` and `soflow`).

# %%
same = {
    "alphaflow = soflow": residual(losses.alphaflow(wrong, x, s, t, v, a)) - residual(losses.soflow(wrong, x, s, t, v, a)),
    "shortcut = psd at a = 1/2": residual(losses.shortcut(wrong, wrong, x, s, t))
    - residual(losses.progressive_self_distillation(wrong, x, s, t, 0.5)),
    "sCM = ayf_emd at t = 0": residual(losses.continuous_consistency(wrong, x, s, v))
    - residual(losses.align_your_flow_emd(wrong, x, s, 0.0, v)),
    "emd = -meanflow": residual(losses.eulerian_distillation(wrong, x, s, t, v)) + residual(losses.meanflow(wrong, x, s, t, v)),
    "meanflow = flow matching at t = s": residual(losses.meanflow(wrong, x, s, s, v))
    - residual(losses.flow_matching(wrong, x, s, v)),
    "ct = (t - s) soflow": residual(losses.consistency_training(wrong, x, s, t, v, a))
    - (t - s) * residual(losses.soflow(wrong, x, s, t, v, a)),
}
for name, difference in same.items():
    print(f"{name:36} {size(difference):.0e}")

# %% [markdown]
# So a method is a choice of a rule, a length of the step, a velocity, the place of the stop-gradient, a distribution of times,
# and a distance. The [next notebook](3_compose_your_own.ipynb) makes a new choice.
