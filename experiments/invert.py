"""Inverse problems by a trained run: python -m experiments.invert --workdir=runs/demo --measure=mask

Measures held-out rows, y = A x0 + sigma n, and draws samples of what fits, in several ways (flowjax.steering, flowjax.inverse): the
jumps bent by the gradient of the likelihood (guided), weighted particles (tilted), posterior draws of a stochastic map (value, and
weighted particles by its random transitions, transitions), the noise adapter of a run of variational_flow_map (adapted), for masks
zero-shot editing (edited) and, of a run with a stochastic map, posterior draws in turn with noise on what is hidden (inpainted); beside
them, the training row that fits y best (nearest), and as many of the best as there are draws (neighbours). A run that learned jumps to
the data alone, such as ect, edits; one of transition_matching has the ways of its posterior draws. Prints a table and writes inverse.csv, inverse.md, inverse.png and inverse.npz into the
workdir. Misfit is that of y in units of its noise, 1 for the truth; spread is the deviation of the draws of one y; agreement, of images
that a classifier knows, is the share of draws that it reads as the class of the truth.

Measurements: mask (the lower half of an image is hidden, the second half of other rows), downsample:factor=2, blur:deviation=1,
project:count=1 (random directions, always the same).

--interpolate shows what lies between pairs of held-out rows instead, and --edit=3 the rows as the class 3: both carry rows to their noise
and back by Heun steps, and write interpolation or editing .png and .npz.
"""

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from absl import flags

from experiments import command_line, tables
from flowjax import buckets, conditioning, data, evals, folders, inverse, methods, plots, posterior, samplers, steering, typing

WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run")
MEASURE = flags.DEFINE_string("measure", "mask", "mask, downsample:factor=2, blur:deviation=1 or project:count=1")
SIGMA = flags.DEFINE_float("sigma", 0.1, "deviation of the noise of y, in units of the data", lower_bound=1e-3, upper_bound=1e3)
EMA = flags.DEFINE_string("ema", "", command_line.EMA_HELP)
CHECKPOINT = flags.DEFINE_string("checkpoint", "", command_line.CHECKPOINT_HELP)
NUM = flags.DEFINE_integer("num", 8, "held-out rows that are measured", lower_bound=1, upper_bound=10_000)
DRAWS = flags.DEFINE_integer("draws", 64, "samples for each", lower_bound=2, upper_bound=2**20)
STEPS = flags.DEFINE_integer("steps", 16, "intervals; of inpainted, posterior draws", lower_bound=1, upper_bound=1000)
NOISE = flags.DEFINE_float("noise", 0.3, "strength of the Langevin steps of tilted", lower_bound=0)
COUNT = flags.DEFINE_integer("count", 32, "posterior draws of value, a row and step", lower_bound=2, upper_bound=4096)
SEED = flags.DEFINE_integer("seed", 0, "seed of all noise", lower_bound=0, upper_bound=2**32 - 1)
INTERPOLATE = flags.DEFINE_bool("interpolate", False, "show what lies between pairs of held-out rows")
EDIT = flags.DEFINE_integer("edit", None, "a class: show held-out rows as this class", lower_bound=0, upper_bound=2**31 - 1)
command_line.define_modules()
flags.mark_flag_as_required("workdir")

SHOWN, MOST = 6, 8  # draws of each way in the picture, and observations


def main():
    from flowjax import training

    run = training.load(WORKDIR.value, EMA.value, step=CHECKPOINT.value)
    command_line.looks_ahead(run, "inverse problems are")
    if INTERPOLATE.value or EDIT.value is not None:
        return by_inversion(run)
    A = inverse.measurement_from_name(MEASURE.value, run.shape)
    known = jnp.asarray(inverse.known_half(run.shape)) if MEASURE.value == "mask" else None
    adapter = noise_adapter(run)
    source = run.source("test")
    real, near = data.arrays(source, limit=NUM.value), data.arrays(run.source("train"), limit=20_000)["x"]
    x0 = real["x"]
    clean = np.asarray(A(jnp.asarray(x0)))
    noise = SIGMA.value * np.random.default_rng(SEED.value).standard_normal(clean.shape).astype(np.float32)
    y = clean + (noise if known is None else noise * np.asarray(known))  # what is hidden is not measured
    draws = by_nearest(A, y, near) | by_run(run, A, known, y, adapter)
    agreement = reader(source, run.settings.data.dir, real.get("label"))
    rows = [row(name, samples, A, y, known, x0, agreement) for name, samples in draws.items()]
    out = buckets.path(WORKDIR.value) / "inverse"
    about = (
        f"{run.settings.method.name} on {source.name}, {run.step} steps of training; {MEASURE.value}, sigma {SIGMA.value:g},"
        f" {len(x0)} held-out rows, {DRAWS.value} draws each, {STEPS.value} intervals"
    ) + (f"; agreement of the truth {agreement(x0[:, None]):.3f}." if agreement else ".")
    print(tables.write(out, rows, about))
    draw(out.with_name("inverse.png"), draws, x0, y, about)
    folders.write_npz(out.with_name("inverse.npz"), x0=x0, y=y, **draws)
    print(f"{out}.csv\n{out}.md\n{out}.png\n{out}.npz: x0, y, and the draws of each way")


def by_nearest(A, y, rows):
    """{way: training rows whose measurement is nearest to each y, [rows of y, draws, ...]}: the nearest alone, and as many as draws."""
    seen = np.asarray(A(jnp.asarray(rows))).reshape(len(rows), -1)
    order = [np.argsort(((seen - one.reshape(1, -1)) ** 2).sum(1))[: DRAWS.value] for one in y]
    few = {"nearest": 1, "neighbours": DRAWS.value}
    return {name: np.stack([rows[np.resize(kept[:count], DRAWS.value)] for kept in order]) for name, count in few.items()}


def noise_adapter(run):
    """The noise adapter of a run of variational_flow_map, None of others; raises InputError if it learned another measurement."""
    from flowjax import training

    if run.settings.method.name != "variational_flow_map":
        return None
    learned, scaling = run.settings.method.constants["measure"], run.settings.data.scaling
    if inverse.check_measurement(learned) != inverse.check_measurement(MEASURE.value) or scaling != data.Scaling():
        raise typing.InputError(
            f"--measure={MEASURE.value}: the noise adapter of the run learned {learned}, of data that are not scaled; expected"
            f" --measure={learned}."
        )
    network = training.load(WORKDIR.value, network="noise_adapter", step=CHECKPOINT.value).V(-1)
    return lambda seen: network(seen, 1.0, 0.0)


def by_run(run, A, known, y, adapter):
    """{way: draws [rows of y, draws, ...]} of the run, one y after the other."""
    scaling, times = run.settings.data.scaling, samplers.grid(STEPS.value)
    ahead = command_line.looks_ahead(run, "inverse problems are")
    V = None if ahead == "transitions" else command_line.map_of(run, -1)
    posterior_draw = run.draw(-1) if set(conditioning.OBSERVATION) <= set(run.settings.model.inputs) else None
    # Inpainting has one level of noise for all channels.
    paints = known is not None and posterior_draw is not None and len(set(scaling.deviation)) == 1
    sigma = SIGMA.value / scaling.deviation[0]
    levels = np.geomspace(1.0, sigma / (1 + sigma), STEPS.value)  # on the digits better than equal steps, or rounds at the end
    if posterior_draw is None and (ahead == "from noise" or (ahead == "to data" and known is None)):
        raise typing.InputError(
            f"{run.settings.method.name} learns {methods.info(run.settings.method.name).learns}; expected a run that learned all jumps, such as"
            " meanflow, or to the data from all levels, such as ect, with --measure=mask."
        )

    @jax.jit
    def ways(eps, y, key):
        likelihood = inverse.log_likelihood(A, y[None], SIGMA.value)
        reward = lambda x: likelihood(scaling.undo(x))
        tilt_key, pick_key, edit_key, paint_key, value_key, move_key, move_pick_key = jax.random.split(key, 7)
        picked = lambda x, log_w, key: x[steering.resampled(log_w, key)]
        result = {}
        if ahead == "any":
            result["guided"] = steering.guided(V, eps, times, reward, scale=inverse.widened(SIGMA.value))
            result["tilted"] = picked(*steering.tilted(V, eps, times, tilt_key, reward, noise=NOISE.value), pick_key)
        if ahead == "any" and posterior_draw is not None:
            result["value"] = inverse.by_value(V, posterior_draw, reward, eps, times, value_key, count=COUNT.value)
        if posterior_draw is not None:
            move, value = posterior.renoised(posterior_draw), posterior.value_by_draws(posterior_draw, reward, COUNT.value)
            particles = steering.tilted_transitions(move, value, eps, times, move_key, reward)
            result["transitions"] = picked(*particles, move_pick_key)
        if adapter is not None:
            many = jnp.broadcast_to(y[None], (len(eps), *y.shape))
            result["adapted"] = inverse.by_noise(V, adapter, A, many, eps, samplers.grid(1))
        if known is not None and V is not None:
            replace = lambda x: jnp.where(known, scaling.apply(y), x)
            result["edited"] = inverse.edited(V, eps, times, edit_key, replace)
        if paints:
            seen = jnp.broadcast_to(scaling.apply(y), eps.shape)
            result["inpainted"] = inverse.inpainted(posterior_draw, seen, known, sigma, levels, paint_key)
        return {name: scaling.undo(x) for name, x in result.items()}

    results = []
    for number in tqdm.trange(len(y), desc="observations", leave=False):
        noise_key, key = jax.random.split(jax.random.fold_in(jax.random.key(SEED.value), number))
        results.append(ways(run.path.draw(noise_key, (DRAWS.value, *run.shape)), jnp.asarray(y[number]), key))
    order = ("guided", "tilted", "value", "transitions", "adapted", "edited", "inpainted")  # jit sorts names
    order = [name for name in order if name in results[0]]
    return {name: np.stack([np.asarray(result[name]) for result in results]) for name in order}


def reader(source, data_dir, label):
    """`draws [rows, draws, ...] -> share that a classifier reads as the classes [rows]`; None where there is no classifier."""
    network = evals.features.extractor(source, data_dir)
    if label is None or network is None or network.logits is None:
        return None
    return lambda x: evals.agreement(network, x.reshape(-1, *x.shape[2:]), np.repeat(label, x.shape[1]))


def by_inversion(run):
    """Interpolation of held-out rows, or their editing, both by inversion: a picture and the arrays."""
    if not methods.info(run.settings.method.name).learns_velocity:
        raise typing.InputError(
            f"--interpolate and --edit follow a velocity to the noise, and {run.settings.method.name} learns none; expected meanflow, lsd, ..."
        )
    goal = None if EDIT.value is None else run.labels(NUM.value, EDIT.value)  # refuses what is no class
    scaling, times = run.settings.data.scaling, samplers.grid(STEPS.value)
    real = data.arrays(run.source("test"), limit=2 * NUM.value)
    x, labels = jnp.asarray(scaling.apply(real["x"])), run.labels(len(real["x"]), real.get("label"))
    half = len(x) // 2
    if INTERPOLATE.value:
        name, shares = "interpolation", jnp.linspace(0, 1, SHOWN + 3)
        made = jax.jit(lambda a, b: inverse.interpolated(run.V(-1), a, b, shares, times))(x[:half], x[half : 2 * half])
        shown = {"from left to right": scaling.undo(np.asarray(made)).swapaxes(0, 1)}
    else:
        name = "editing"
        edit = jax.jit(lambda x: inverse.edited_by_inversion(run.V(labels[:half]), run.V(goal[:half]), x, times))
        shown = {"before": real["x"][:half, None], f"as class {EDIT.value}": scaling.undo(np.asarray(edit(x[:half])))[:, None]}
    out = buckets.path(WORKDIR.value) / f"{name}.npz"
    folders.write_npz(out, **{key.replace(" ", "_"): rows for key, rows in shown.items()})
    title = f"{name} by inversion, {run.settings.method.name}, {run.step} steps of training"
    if x.ndim == 2:
        plots.point_grid(out.with_suffix(".png"), {key: rows.reshape(-1, 2) for key, rows in shown.items()}, title=title)
    else:
        plots.image_grid(out.with_suffix(".png"), shown, title=title)
    print(f"{out}\n{out.with_suffix('.png')}")


def row(name, samples, A, y, known, x0, agreement):
    """One row of the table; the misfit is of what was measured, of a mask where `known`."""
    seen = np.stack([np.asarray(A(jnp.asarray(one))) for one in samples])
    shown = np.broadcast_to(np.ones_like(y, bool) if known is None else np.asarray(known) > 0, y.shape)
    misfit = np.sqrt(np.mean(((seen - y[:, None]) ** 2)[np.broadcast_to(shown[:, None], seen.shape)])) / SIGMA.value
    about = {
        "way": name,
        "misfit": float(misfit),
        "error of one draw": float(np.sqrt(np.mean((samples - x0[:, None]) ** 2))),
        "error of the mean": float(np.sqrt(np.mean((samples.mean(1) - x0) ** 2))),
        "spread": float(samples.std(axis=1).mean()),
    }
    return about | ({"agreement": agreement(samples)} if agreement else {})


def draw(path, draws, x0, y, title):
    """A picture: truth, what was measured, and draws of each way, one row an observation (the first ones, of images), or points."""
    if x0.ndim == 2:
        return plots.point_grid(
            path, {"truth": x0, **{name: x.reshape(-1, *x.shape[2:]) for name, x in draws.items()}}, title=title
        )
    shown = {"truth": x0[:MOST, None]}
    if y.shape == x0.shape:
        shown["measured"] = y[:MOST, None]
    plots.image_grid(path, shown | {name: x[:MOST, :SHOWN] for name, x in draws.items()}, title=title)


if __name__ == "__main__":
    command_line.run(main)
