"""Makes every picture of a run and a page that shows them: python -m experiments.inspect --workdir=runs/demo

Writes into WORKDIR/inspect: samples, trajectories from noise to data, the velocity, where the map breaks the three rules of
flow maps (and, where the exact flow is known, its true error), raw errors by time during training, training curves, and
index.html. Needs the workdir, and the data to compare with. One to a few minutes on two CPU cores.
"""

import html

import jax
import numpy as np
import tqdm
from absl import flags

from experiments import command_line, tables
from flowjax import buckets, data, flowmap, folders, methods, paths, plots, residuals, samplers, spaces

WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run")
EMA = flags.DEFINE_string("ema", "", command_line.EMA_HELP)
CHECKPOINT = flags.DEFINE_string("checkpoint", "", command_line.CHECKPOINT_HELP)
GUIDANCE = flags.DEFINE_float("guidance", None, command_line.GUIDANCE_HELP)
INTERVAL = flags.DEFINE_list("guidance_interval", [], command_line.INTERVAL_HELP)
STEPS = flags.DEFINE_list(
    "steps", [], "steps from noise to data; default: 1,2,4,8,64, or those of the config if V learned few jumps"
)
ROWS = flags.DEFINE_integer("rows", 256, "rows over which errors are averaged", lower_bound=2, upper_bound=2**16)
CELLS = flags.DEFINE_integer("cells", 17, "times along each side of a heat map", lower_bound=2, upper_bound=500)
command_line.define_modules()
flags.mark_flag_as_required("workdir")

GRID = (0.03, 0.97)  # ends of the times of a heat map: that of the checkerboard's velocity is 0.02
EXACT_STEPS, EXACT_ROWS = 64, 32  # of Heun's method for the exact flow between two times; rows for its errors


def main():
    from flowjax import training

    chosen = command_line.whole_numbers("steps", STEPS.value, low=1)
    interval = command_line.numbers("guidance_interval", INTERVAL.value, count=2)
    trained = training.load(WORKDIR.value, EMA.value, step=CHECKPOINT.value)
    run = Run(trained, GUIDANCE.value, interval)
    steps = chosen or ((1, 2, 4, 8, 64) if run.info.eval_steps({}) is None else trained.settings.evaluation.steps)
    out = buckets.path(WORKDIR.value) / "inspect"
    pictures = {}
    parts = [samples, trajectories, velocity, broken_rules, time_bins, curves]
    for part in tqdm.tqdm(parts, desc="pictures", leave=False):
        pictures |= part(run, out, steps)
    write_page(out / "index.html", run, pictures)
    print("\n".join(str(out / name) for name in [*pictures, "index.html"]))


class Run:
    """A trained run, rows of its data, and its map with the labels of as many rows bound to it."""

    def __init__(self, trained, scale, interval):
        from flowjax.training import sampling

        self.trained, self.settings = trained, trained.settings
        self.guidance = {"guidance": scale, "interval": interval}
        trained.conditioning(**self.guidance)  # refuses what the run did not learn
        self.name, self.info = trained.settings.method.name, methods.info(trained.settings.method.name)
        self.path = trained.path
        held_out = trained.source("test")
        self.real = data.arrays(held_out, limit=held_out.reference_rows)
        self.labels = sampling.labels_like(self.real.get("label"), trained.num_classes, len(self.real["x"]))
        rows = self.real["x"]
        # Points of the plane have pictures of paths and velocities; those of other spaces, or of more dimensions, have none.
        self.points = rows.shape[1:] == (2,) and self.path.space is spaces.euclidean
        self.images = rows.ndim > 2  # or sequences of tokens

    def draw_rows(self, path, columns, title):
        from flowjax.training import progress

        progress.draw_rows(path, columns, data_name=self.settings.data.name, title=title)

    def V(self, labels):
        return self.trained.V(labels, **self.guidance)

    def sampler(self):
        """The sampler of the run's config if it draws no noise, else jumps along the map."""
        sampler = samplers.sampler_from_name(self.settings.evaluation.sampler, self.path)
        return samplers.sampler_from_name("flow_map", self.path) if sampler.noisy else sampler


# ---------------------------------------------------------------------------------------------------------- samples


def samples(run, out, steps):
    from flowjax.training import progress

    labels = run.labels[:4096] if not run.images else run.trained.labels(8 * run.trained.num_classes or 64)
    shown = sorted({n for n in steps if n <= 8} | {1})
    drawn = {n: run.trained.sample(len(labels), n, labels, **run.guidance) for n in shown}
    progress.draw_samples(
        out / "samples.png", drawn, labels, run.trained.num_classes, real=run.real, title=f"{run.name}: samples", per_class=8,
        space=run.path.space.name, data_name=run.settings.data.name,
    )  # fmt: skip
    return {
        "samples.png": f"Samples by {run.settings.evaluation.sampler} in {', '.join(map(str, shown))} steps from the same"
        " noise, beside real rows."
    }


# ------------------------------------------------------------------------------------------------------------- trajectories


def trajectories(run, out, steps):
    if run.info.sampler == "consistency":  # each step adds noise again: there is no trajectory
        return {}
    if not (run.points or run.images):
        return {}
    count = 64 if run.points else 2 * (run.trained.num_classes or 8)
    labels = (
        run.labels[:count] if run.points else np.arange(count) % (run.trained.num_classes or 1) - (not run.trained.num_classes)
    )
    noise = run.path.draw(jax.random.key(1), (count, *run.trained.shape))
    sampler = run.sampler()
    solve = jax.jit(lambda times: samplers.trajectory(
        lambda V, x, leg: sampler.run(V, x, leg, None), run.V(labels), noise, times, len(times)
    ))  # fmt: skip
    if run.points:
        rows = {f"{n} step{'s' if n > 1 else ''}": np.asarray(solve(samplers.grid(n))) for n in steps}
        plots.trajectories(out / "trajectories.png", rows, run.real["x"], title=f"{run.name}: from noise to data")
        return {"trajectories.png": "Trajectories of the same 64 points from noise to data, over the density of the data."}
    n = max([n for n in steps if n <= 8] or [1])
    rows = np.asarray(solve(samplers.grid(n)))
    columns = {f"t = {time:.2f}": rows[:10, k] for k, time in enumerate(np.asarray(samplers.grid(n)))}
    run.draw_rows(out / "trajectories.png", columns, f"{run.name}: from noise to data in {n} steps")
    return {"trajectories.png": f"Trajectories of ten samples from noise to data in {n} steps."}


# --------------------------------------------------------------------------------------------------------- velocity


def velocity(run, out, steps):
    at = (1.0, 0.75, 0.5, 0.25, 0.05)
    if not run.info.learns_velocity or not (run.points or run.images):
        return {}
    if run.points:
        side = np.linspace(-2.5, 2.5, 21)
        places = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2).astype(np.float32)
        V = jax.jit(run.V(np.full(len(places), -1)))
        fields = {f"t = {t}": (places, np.asarray(V(places, t, t))) for t in at}
        plots.velocity_field(out / "velocity.png", fields, run.real["x"], title=f"{run.name}: velocity V(x, t, t)")
        return {"velocity.png": "The instantaneous velocity V(x, t, t), over the density of the data; the colour is its speed."}
    x0, labels = run.real["x"][:10], run.labels[:10]
    eps = np.asarray(run.path.draw(jax.random.key(3), x0.shape))
    V, columns = jax.jit(run.V(labels)), {"data": x0}
    for t in reversed(at):
        x = np.asarray(run.path.between(x0, eps, t))
        columns |= {
            f"x, t = {t}": x,
            f"data by V, {t}": np.asarray(flowmap.jump(lambda x, s, _: V(x, s, s), x, t, 0.0)),
        }
    run.draw_rows(out / "velocity.png", columns, f"{run.name}: one Euler step along V(x, t, t) from noised data")
    return {
        "velocity.png": "Real rows with noise up to t, and where one straight step along V(x, t, t) leads: the mean of the"
        " data that fits, if V is right."
    }


# ------------------------------------------------------------------------------------------------------------ rules


def broken_rules(run, out, steps):
    if not run.info.learns_jumps:
        return {}
    x0, exact = run.real["x"][: ROWS.value], exact_velocity(run)
    known, grid = None if exact is None else residuals.along(exact, EXACT_STEPS), np.linspace(*GRID, CELLS.value)
    maps = {"trained": residuals.error_maps(run.V(run.labels[: ROWS.value]), x0, run.path, grid, known)}
    if known:  # with the errors of its solver
        maps["exact flow"] = residuals.error_maps(
            known, x0[:EXACT_ROWS], run.path, grid, residuals.along(exact, 4 * EXACT_STEPS)
        )
    plots.heat_maps(
        out / "rules.png", maps, xlabel="source s", ylabel="target t", label="root mean square, data per unit of time",
        extent=extent(CELLS.value), title=f"{run.name}: where the map breaks its rules",
    )  # fmt: skip
    rows = [
        {"rule": rule, **{f"{name}{what}": of(errors[rule]) for name, errors in maps.items() for what, of in COLUMNS.items()}}
        for rule in maps["trained"]
    ]
    heun = f"; exact flow by {EXACT_STEPS} steps of Heun's method, {EXACT_ROWS} rows" if known else ""
    about = f"{run.name}, {run.trained.step} steps of training: errors over (s, t), {len(x0)} rows of data{heun}."
    tables.write(out / "rules", rows, about)
    values = "; ".join(
        f"{row['rule']} {row['trained']:.2g}" + (f" (exact flow {row['exact flow']:.1g})" if known else "") for row in rows
    )
    learned = "" if run.info.learns_map else f" It learned {run.info.learns}, so that the rest of the map means nothing."
    return {
        "rules.png": "Errors over source s and target t, root mean square in all: "
        f"{values}. A true flow map has none; on the diagonal no map can break a rule, only be wrong.{learned}"
    }


def exact_velocity(run):
    """The velocity of the flow that the run should learn, where it is known, else None: couplings and guidance change it."""
    from flowjax.data import points

    other = run.path is not paths.linear or run.settings.data.coupling or run.settings.guidance.kind
    return None if other else points.VELOCITIES.get(run.settings.data.name)


def extent(cells):
    """Edges of a heat map whose cells have the times of the grid in their middles."""
    half = (GRID[1] - GRID[0]) / (cells - 1) / 2
    return (GRID[0] - half, GRID[1] + half) * 2


COLUMNS = {"": residuals.root_mean_square, ", highest": lambda values: float(np.nanmax(values))}


# --------------------------------------------------------------------------------------------------------- training


def time_bins(run, out, steps):
    from flowjax.training import workdir

    records = [record for record in workdir.read_metrics(WORKDIR.value) if any(name.startswith("bins/") for name in record)]
    terms = sorted({name.split("/")[1] for record in records for name in record if name.startswith("bins/")})
    if not records:
        return {}
    number = 1 + max(int(name.split("/")[2]) for name in records[0] if name.startswith("bins/"))
    value = lambda record, name: np.nan if record.get(name) is None else record[name]
    errors = {
        term: np.array([[value(record, f"bins/{term}/{k}") for k in range(number)] for record in records]) for term in terms
    }
    plots.time_bins(
        out / "bins.png", [record["step"] for record in records], errors, np.linspace(0, 1, number + 1),
        title=f"{run.name}: raw error by time during training",
    )  # fmt: skip
    of = "target time t" if not run.info.reads_data else "source time s"
    return {"bins.png": f"Raw error of each term by training step and {of}, on one batch at each evaluation."}


def curves(run, out, steps):
    from flowjax.training import workdir

    records = workdir.read_metrics(WORKDIR.value)
    names = sorted({name for record in records for name in record})
    one = [
        name
        for name in names
        if name.startswith(f"{run.settings.evaluation.steps[0]}step/")
        and ("frechet" in name or "distance" in name or "wasserstein" in name)
    ]
    raw = [name for name in names if name.startswith("raw/")]
    plots.training_curves(out / "training.png", records, raw=raw, distances=one, title=f"{run.name}: training")
    return {"training.png": "Raw errors, distance to the data, and time of a step during training."}


# ------------------------------------------------------------------------------------------------------------- page


def write_page(path, run, pictures):
    figures = "\n".join(
        f'<figure><img src="{name}" alt="{html.escape(caption)}"><figcaption>{html.escape(caption)}</figcaption></figure>'
        for name, caption in pictures.items()
    )
    table = path.parents[1] / "evaluation.md"
    measured = f"<h2>Measures</h2><pre>{html.escape(table.read_text())}</pre>" if table.exists() else ""
    config = html.escape((path.parents[1] / "config.json").read_text())
    title = html.escape(f"{run.name} on {run.settings.data.name}, {run.trained.step} steps of training")
    path.parent.mkdir(parents=True, exist_ok=True)
    folders.write_text(path, PAGE.format(title=title, figures=figures, measured=measured, config=config))


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
figure {{ margin: 2.5rem 0; }}
img {{ max-width: 100%; }}
figcaption {{ color: #555; }}
pre {{ overflow-x: auto; background: #f6f6f6; padding: 1rem; font-size: 13px; }}
</style>
<h1>{title}</h1>
{figures}
{measured}
<details><summary>config</summary><pre>{config}</pre></details>
</html>
"""


if __name__ == "__main__":
    command_line.run(main)
