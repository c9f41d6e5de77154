"""How likely held-out data is under a run: python -m experiments.likelihood --workdir=runs/meanflow

Solves the flow of the run's velocity V(x, t, t) from the data to the noise with the divergence beside it, and prints a table of
log p in nats a row, and bits per dimension where the data is on a grid (images: with uniform noise of one cell). Writes it as
likelihood.csv and likelihood.md into the workdir. Where the density of the data is known, its true mean stands beside. --samples also
measures the map itself: samples in --jumps jumps with the exact density of that sampler, for rows of at most 256 numbers.

Tokens have no density: of a run on tokens the table has an upper bound on -log p of held-out rows and of rows that were learned from,
by the denoiser on the diagonal, flowjax.evals.likelihood_bound.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from absl import flags

from experiments import command_line, tables
from flowjax import buckets, data, density, evals, methods, options, samplers, typing
from flowjax.data import points

WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run")
EMA = flags.DEFINE_string("ema", "", command_line.EMA_HELP)
CHECKPOINT = flags.DEFINE_string("checkpoint", "", command_line.CHECKPOINT_HELP)
GUIDANCE = flags.DEFINE_float("guidance", None, command_line.GUIDANCE_HELP)
DIVERGENCE = flags.DEFINE_enum("divergence", "exact", list(density.DIVERGENCES), "exact, or an estimate by random probes")
PROBES = flags.DEFINE_integer("probes", 0, "probes of an estimate; default: 1, 3 of hutch++", lower_bound=0, upper_bound=4096)
SOLVER = flags.DEFINE_string("solver", "heun", "heun, midpoint, euler, or adaptive:rtol=1e-5")
STEPS = flags.DEFINE_integer("steps", 32, "steps of the solver", lower_bound=1, upper_bound=10_000)
NUM = flags.DEFINE_integer("num", 256, "held-out rows", lower_bound=1, upper_bound=command_line.MOST)
SAMPLES = flags.DEFINE_integer(
    "samples", 0, "samples of the map with their density", lower_bound=0, upper_bound=command_line.MOST
)
JUMPS = flags.DEFINE_list("jumps", ["1", "4"], "jumps of these samples")
SEED = flags.DEFINE_integer("seed", 0, "seed of the probes and the noise", lower_bound=0, upper_bound=2**32 - 1)
command_line.define_modules()
flags.mark_flag_as_required("workdir")

SOLVERS = {solver.__name__: solver for solver in (samplers.heun, samplers.midpoint, samplers.euler, samplers.adaptive)}
BATCH = 64  # rows at once
LARGEST = 256  # numbers of a row whose Jacobian is taken whole


def main():
    from flowjax import training

    jumps = command_line.whole_numbers("jumps", JUMPS.value, low=1, needed=bool(SAMPLES.value))
    run = training.load(WORKDIR.value, EMA.value, step=CHECKPOINT.value)
    check(run)
    run.conditioning(GUIDANCE.value)
    name, given = options.parse("solver", SOLVER.value, {name: options.numbers(solver) for name, solver in SOLVERS.items()})
    source = run.source("test")
    if len(run.shape) == 2:
        return bounds(run)
    rows = [held_out(run, source, functools.partial(SOLVERS[name], **given))] + [
        of_samples(run, source, n) for n in jumps if SAMPLES.value
    ]
    about = (
        f"{run.settings.method.name} on {source.name}, {run.step} steps of training; held-out rows: {SOLVER.value}, {STEPS.value} steps,"
        f" divergence {DIVERGENCE.value}."
    )
    print(tables.write(buckets.path(WORKDIR.value) / "likelihood", rows, about))


def check(run):
    """Raises InputError for a run whose velocity has no density of this kind."""
    name = run.settings.method.name
    if not methods.info(name).learns_velocity:
        raise typing.InputError(
            f"{name} learns {methods.info(name).learns} and no velocity, which log p needs; expected meanflow, lsd, ..."
        )
    command_line.check_normal_noise(run, "log p of the flow is")
    if len(run.shape) == 2 and (SAMPLES.value or run.settings.model.parameterisation != "categorical"):
        raise typing.InputError(
            "tokens have a bound on -log p alone, by a network that predicts logits; expected no --samples, and a run of"
            f" {' or '.join(methods.CATEGORICAL)}."
        )
    if SAMPLES.value and np.prod(run.shape) > LARGEST:
        raise typing.InputError(
            f"--samples takes the whole Jacobian of a jump, and rows have {np.prod(run.shape)} numbers; expected at most {LARGEST}."
        )


def bounds(run):
    """Writes and prints the table of a run on tokens: a bound on -log p of held-out rows, and of as many that were learned from."""

    @jax.jit
    def bound(x, labels, key):
        return evals.likelihood_bound(run.V(labels, GUIDANCE.value), x, key)

    rows = []
    for name, split in (("held-out data", "test"), ("learned from", "train")):
        source = run.source(split)
        ids = np.arange(min(NUM.value, source.size)) * source.size // min(NUM.value, source.size)  # all over the data
        real = source.rows(ids)
        labels, key = run.labels(len(ids), real.get("label")), jax.random.key(SEED.value)
        parts = [slice(at, at + BATCH) for at in range(0, len(ids), BATCH)]
        keyed = enumerate(tqdm.tqdm(parts, desc=f"bound, {name}", leave=False))
        values = np.concatenate([bound(real["x"][at], labels[at], jax.random.fold_in(key, i)) for i, at in keyed])
        mean, error = float(values.mean()), float(values.std() / len(values) ** 0.5)
        about = {"rows": name, "number": len(values), "-log p at most, nats": (mean, error)}
        rows.append(about | {"a token": (mean / run.shape[0], error / run.shape[0])})
    about = (
        f"{run.settings.method.name} on {run.settings.data.name}, {run.step} steps of training; an upper bound by the diagonal."
    )
    print(tables.write(buckets.path(WORKDIR.value) / "likelihood", rows, about))


def held_out(run, source, solver):
    """The row of the table for held-out data."""
    real = data.arrays(source, limit=NUM.value)
    x, scaling = real["x"], run.settings.data.scaling
    if source.levels:
        x = np.asarray(density.dequantised(x, width(source), jax.random.key(SEED.value)))
    seen, labels = scaling.apply(x), run.labels(len(x), real.get("label"))
    probes = {"probes": PROBES.value} if PROBES.value else {}
    estimate = DIVERGENCE.value != "exact"
    divergence = functools.partial(density.DIVERGENCES[DIVERGENCE.value], **(probes if estimate else {}))
    keys = jax.random.split(jax.random.key(SEED.value), len(x))

    @jax.jit
    def log_p(x, labels, keys):
        V = run.V(labels, GUIDANCE.value)
        times = samplers.grid(STEPS.value)[::-1]
        return density.log_density(
            lambda x, t: V(x, t, t), x, times, divergence=divergence, keys=keys, solver=solver, path=run.path
        )

    values = [
        log_p(seen[at : at + BATCH], labels[at : at + BATCH], keys[at : at + BATCH])
        for at in tqdm.trange(0, len(x), BATCH, desc="log p", leave=False)
    ]
    return row("held-out data", np.concatenate(values), run, source, real["x"])


def of_samples(run, source, jumps):
    """The row of the table for samples of the map, with the density of its sampler."""
    labels = run.labels(SAMPLES.value)
    eps = np.asarray(run.path.draw(jax.random.key(SEED.value), (SAMPLES.value, *run.shape)))
    draw = jax.jit(
        lambda eps, labels: density.sample_with_density(run.V(labels, GUIDANCE.value), eps, samplers.grid(jumps), path=run.path)
    )
    parts = [
        draw(eps[at : at + BATCH], labels[at : at + BATCH])
        for at in tqdm.trange(0, len(eps), BATCH, desc=f"samples in {jumps}", leave=False)
    ]
    x, log_q = (np.concatenate(part) for part in zip(*parts))
    return row(f"samples in {jumps}, under their sampler", log_q, run, source, run.settings.data.scaling.undo(x), weighed=True)


def width(source):
    """Of a cell of the grid of grey levels, in [-1, 1]."""
    return 2 / (source.levels - 1)


def row(name, log_p, run, source, x, weighed=False):
    """One row: log p of data (not of data as the network sees them), its true value where it is known, and bits per dimension.

    `weighed`: rows are samples of what log_p is the density of, and the row has the effective share of their weights where it is known.
    """
    dimensions = int(np.prod(run.shape))
    deviation = np.broadcast_to(np.asarray(run.settings.data.scaling.deviation), run.shape[-1:])
    log_p = np.asarray(log_p, np.float64) - dimensions * np.log(deviation).mean()
    mean_and_error = lambda values: (float(values.mean()), float(values.std() / len(values) ** 0.5))
    about = {"rows": name, "number": len(log_p), "log p, nats": mean_and_error(log_p)}
    if source.name in points.LOG_DENSITIES:
        true = points.LOG_DENSITIES[source.name](x)
        about |= {"true log p": float(true[np.isfinite(true)].mean()), "share where it is -inf": float(np.isinf(true).mean())}
        share = float(density.importance_weights(jnp.asarray(true), jnp.asarray(log_p))[1]) if weighed else ""
        about["effective share of weighted samples"] = share
    if source.levels:
        about["bits per dimension"] = mean_and_error(np.asarray(density.bits_per_dimension(log_p, dimensions, width(source))))
    return about


if __name__ == "__main__":
    command_line.run(main)
