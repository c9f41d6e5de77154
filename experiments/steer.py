"""Steers a run by a reward, without training: python -m experiments.steer --workdir=runs/meanflow --reward=axis:number=0,scale=1.5

Draws samples of p(x0) e^r(x0) in several ways (flowjax.steering) and prints a table: mean reward, calls of the map a sample,
effective share of weighted samples, and the distance to held-out rows that are weighed by e^r, the total variation of the
shares of eight clusters for points, and the error of the mean for images. The last row is of training rows that are weighed by e^r: the
distances that so many rows have from the held-out ones. With --repeats the table has means and deviations over so many seeds of the
noise. Writes steering.csv, steering.md, steering.png and steering.npz into the workdir.

Which ways there are depends on what the run learned: jumps from noise to data alone are weighted or chosen from (best_of); with all jumps
particles walk (tilted, guided, search); of a stochastic map, meta_flow_map, diamond_map or transition_matching, posterior draws estimate
the value, along which samples flow (value), or by which random transitions are weighed (transitions).

Rewards: axis:number=0,scale=1 (a coordinate of points), brightness:scale=20 (the mean pixel of images), or MODULE.FUNCTION of a module in
--modules, a function x0 [B, ...] -> [B] of data.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from scipy.cluster import vq

from experiments import command_line, tables
from flowjax import buckets, conditioning, data, folders, inverse, methods, plots, posterior, samplers, steering, typing

WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run")
REWARD = flags.DEFINE_string("reward", None, "axis:number=0,scale=1, brightness:scale=20, or MODULE.FUNCTION")
LABELS = flags.DEFINE_list("labels", [], "classes of the samples, in turn; default: all classes")
EMA = flags.DEFINE_string("ema", "", command_line.EMA_HELP)
CHECKPOINT = flags.DEFINE_string("checkpoint", "", command_line.CHECKPOINT_HELP)
GUIDANCE = flags.DEFINE_float("guidance", None, command_line.GUIDANCE_HELP)
NUM = flags.DEFINE_integer("num", 2048, "samples", lower_bound=2, upper_bound=2**20)
STEPS = flags.DEFINE_integer("steps", 3, "intervals of the ways that walk", lower_bound=1, upper_bound=1000)
NOISE = flags.DEFINE_float("noise", 0.3, "strength of the Langevin steps of tilted", lower_bound=0)
COUNT = flags.DEFINE_integer(
    "count", 4, "candidates of best_of and search, posterior draws of value and transitions", lower_bound=1, upper_bound=1024
)
REPEATS = flags.DEFINE_integer("repeats", 1, "how often, with seeds SEED, SEED + 1, ...", lower_bound=1, upper_bound=1000)
SEED = flags.DEFINE_integer("seed", 0, "seed of all noise", lower_bound=0, upper_bound=2**32 - 1)
command_line.define_modules()
flags.mark_flags_as_required(["workdir", "reward"])

ROWS = 16_384  # most held-out rows, and training rows
CLUSTERS = 8  # of the data, over whose shares the total variation is taken
GOAL = "of weighted data"


class Way(NamedTuple):
    """Samples by one way of steering: data, log-weights (zeros where it has none), and calls of the map a sample."""

    x: np.ndarray
    log_w: np.ndarray
    calls: float


def main():
    from flowjax import training

    classes = command_line.whole_numbers("labels", LABELS.value, low=0) or None
    run = training.load(WORKDIR.value, EMA.value, step=CHECKPOINT.value)
    command_line.looks_ahead(run, "steering is")
    run.conditioning(GUIDANCE.value)
    reward, labels = checked_reward(REWARD.value, run.shape), run.labels(NUM.value, classes)
    source, learned = run.source("test"), data.arrays(run.source("train"), limit=ROWS)["x"]
    real = data.arrays(source, limit=ROWS)["x"]
    steer = steerer(run, reward, labels)
    repeats = [steer(SEED.value + number) for number in range(REPEATS.value)]
    ways = repeats[0]
    rows = [together([row(name, one[name], reward, real) for one in repeats]) for name in ways]
    rows.append(row("training rows", Way(learned, np.asarray(reward(jnp.asarray(learned))), 0), reward, real))
    out = buckets.path(WORKDIR.value) / "steering"
    about = (
        f"{run.settings.method.name} on {source.name}, {run.step} steps of training, reward {REWARD.value}, {NUM.value} samples"
    )
    about += f", {REPEATS.value} seeds: mean ± deviation." if REPEATS.value > 1 else "."
    print(tables.write(out, rows, about))
    draw(out.with_name("steering.png"), ways, reward, real, about)
    drawn = {f"{name}_{field}": getattr(way, field) for name, way in ways.items() for field in ("x", "log_w")}
    folders.write_npz(out.with_name("steering.npz"), **drawn)
    print(f"{out}.csv\n{out}.md\n{out}.png\n{out}.npz")


def checked_reward(spec, shape):
    """A reward of data [B, *shape]; raises InputError for one that does not exist or does not give one number a row."""
    reward = steering.reward_from_name(spec)
    try:
        result = jax.eval_shape(reward, jax.ShapeDtypeStruct((3, *shape), jnp.float32))
    except Exception as error:
        raise typing.InputError(
            f"--reward={spec} cannot be called on rows of shape {shape}: {str(error).splitlines()[0]:.200}; expected a function of"
            " x0 [B, ...]."
        ) from error
    if getattr(result, "shape", None) != (3,):
        shown = getattr(result, "shape", type(result).__name__)
        raise typing.InputError(f"--reward={spec} gives {shown} for 3 rows; expected (3,), one number a row.")
    return reward


def steerer(run, reward, labels):
    """`seed -> {name: Way}`: samples without steering and by each way, from the same noise."""
    undo, ahead = run.settings.data.scaling.undo, command_line.looks_ahead(run, "steering is")
    of_seen = lambda x: reward(undo(x))  # of data as the network sees them
    # name -> (of noise and a key, rows of noise a sample, calls a sample)
    ways = of_jumps(*(one_jump(run, each) for each in (labels, np.repeat(labels, COUNT.value))), of_seen)
    # Particles of one class alone are resampled among each other.
    threshold = 0.5 if len(set(np.asarray(labels).tolist())) == 1 else 0.0
    if ahead == "any":
        ways |= of_all_jumps(command_line.map_of(run, labels, GUIDANCE.value), of_seen, threshold)
    if set(conditioning.OBSERVATION) <= set(run.settings.model.inputs):
        ways |= of_draws(run, labels, of_seen, threshold)
    compiled = {name: jax.jit(way) for name, (way, _, _) in ways.items()}

    def steer(seed):
        samples, (noise_key, key) = {}, jax.random.split(jax.random.key(seed))
        for name, (_, rows, calls) in ways.items():
            result = compiled[name](run.path.draw(noise_key, (NUM.value * rows, *run.shape)), key)
            x, log_w = result if isinstance(result, tuple) else (result, jnp.zeros(len(result)))
            samples[name] = Way(undo(np.asarray(x)), np.asarray(log_w), calls)
        return samples

    return steer


def normal(key, x):
    """Normal noise like x."""
    return jax.random.normal(key, x.shape, x.dtype)


def one_jump(run, labels):
    """`(noise, key) -> samples` in one call."""
    if command_line.looks_ahead(run, "steering is") == "transitions":
        draw = run.draw(labels, GUIDANCE.value)
        return lambda eps, key: draw(eps, 1.0, normal(key, eps))
    V = command_line.map_of(run, labels, GUIDANCE.value)
    return lambda eps, key: samplers.flow_map(V, eps, samplers.grid(1))


def of_jumps(jump, jump_many, reward):
    """The ways that need one jump from noise to data alone, and a reward; `jump_many` is of COUNT rows a sample."""
    count = COUNT.value
    best = lambda eps, key: steering.best_of(jump_many(eps, key), reward, count)

    def weighted(eps, key):
        x = jump(eps, key)
        return x, reward(x)

    return {"plain": (jump, 1, 1), "weighted": (weighted, 1, 1), "best_of": (best, count, count)}


def of_all_jumps(V, reward, threshold):
    """The ways that walk along a map with all jumps."""
    times, n, count, noise = samplers.grid(STEPS.value), STEPS.value, COUNT.value, NOISE.value
    return {
        "tilted": (
            lambda eps, key: steering.tilted(V, eps, times, key, reward, noise=noise, threshold=threshold),
            1,
            2 * n + 2 * (n - 1) * (noise > 0),
        ),
        "guided": (lambda eps, key: steering.guided(V, eps, times, reward), 1, 2 * n),
        "search": (lambda eps, key: steering.search(V, eps, times, key, reward, count=count), 1, n * (count + 1)),
    }


def of_draws(run, labels, reward, threshold):
    """The ways of a stochastic map: random transitions that the value weighs, and samples that flow along it."""
    times, n, count = samplers.grid(STEPS.value), STEPS.value, COUNT.value
    draw, method = run.draw(labels, GUIDANCE.value), run.settings.method.name
    move, value = posterior.renoised(draw), posterior.value_by_draws(draw, reward, count)
    if method == "diamond_map" or methods.info(method).jumps == "transitions":
        transition = run.transition(labels, GUIDANCE.value)
        move = lambda x, c, t, key: transition(x, c, t, normal(key, x))
    weighed = lambda eps, key: steering.tilted_transitions(move, value, eps, times, key, reward, threshold=threshold)
    ways = {"transitions": (weighed, 1, n + (n - 1) * count)}
    if command_line.looks_ahead(run, "steering is") == "any" and count > 1:
        V = command_line.map_of(run, labels, GUIDANCE.value)
        by_value = lambda eps, key: inverse.by_value(V, draw, reward, eps, times, key, count=count)
        ways["value"] = (by_value, 1, (2 * n - 1) * (count + 1))
    return ways


def together(rows):
    """One row of several: pairs (mean, deviation) of what depends on the noise."""
    if len(rows) == 1:
        return rows[0]
    numbers = {name: np.array([one[name] for one in rows]) for name in rows[0] if name not in ("way", "calls a sample", GOAL)}
    return rows[0] | {name: (float(many.mean()), float(many.std(ddof=1))) for name, many in numbers.items()}


def weights(log_w):
    """Normalised weights."""
    return np.asarray(jax.nn.softmax(jnp.asarray(log_w)))


def row(name, way, reward, real):
    """One row of the table."""
    w, goal = weights(way.log_w), weights(reward(jnp.asarray(real)))
    about = {
        "way": name,
        "calls a sample": way.calls,
        "mean reward": float(w @ np.asarray(reward(jnp.asarray(way.x)))),
        GOAL: float(goal @ np.asarray(reward(jnp.asarray(real)))),
        "effective share": float(steering.effective_share(jnp.asarray(way.log_w))),
    }
    if real.ndim == 2:
        centres = vq.kmeans2(real, CLUSTERS, minit="++", seed=0)[0]
        share = lambda x, w: np.bincount(vq.vq(x, centres)[0], weights=w, minlength=CLUSTERS)
        about["total variation"] = float(np.abs(share(way.x, w) - share(real, goal)).sum() / 2)
    else:
        mean = lambda x, w: np.tensordot(w, x, axes=1)
        about["error of the mean"] = float(np.sqrt(np.mean((mean(way.x, w) - mean(real, goal)) ** 2)))
    return about


def draw(path, ways, reward, real, title):
    """A picture of samples, drawn in proportion to their weights, beside data drawn in proportion to e^r."""

    def picked(x, log_w):
        return x[np.asarray(steering.resampled(jnp.asarray(log_w), jax.random.key(0)))]

    shown = {"data, weighted": picked(real, np.asarray(reward(jnp.asarray(real))))}
    shown |= {name: picked(way.x, way.log_w) for name, way in ways.items()}
    if real.ndim == 2:
        return plots.point_grid(path, shown, title=title, reference=real)
    rng = np.random.default_rng(0)
    plots.image_grid(
        path, {name: rng.permutation(x)[:32].reshape(4, 8, *x.shape[1:]) for name, x in shown.items()}, title=title
    )


if __name__ == "__main__":
    command_line.run(main)
