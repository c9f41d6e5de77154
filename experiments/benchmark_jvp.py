"""What an exact derivative costs, and what a finite difference gets wrong: python -m experiments.benchmark_jvp

Builds a diffusion transformer for each token count and attention, and times these programs in turns: a forward pass; the jvp
along a path; finite differences; the gradients of flow matching and of MeanFlow (with the exact jvp, with a finite difference,
and with the jvp on a quarter of the rows only); and a gradient through the jvp, which TVM needs. Matmul FLOPs and wall times
are ratios to the forward pass of the same network. Then measures the error of each derivative against float64, over steps h;
for this table matmuls of float32 are float32 on every device. `--train` also trains MeanFlow on checkerboard with finite
differences of several steps. The last lines answer the question from these numbers.

Writes jvp_cost, jvp_accuracy and, with --train, jvp_training below --output, as .md, .csv and .png; attention_cost, the cost of
attention alone, as .md and .csv; and all numbers as jvp.json. 8 minutes on two CPU cores, 7 more with --train; the same command
continues trainings that were killed. For a GPU: make benchmark-gpu.
"""

import datetime
import functools
import json
import platform

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from absl import flags

from configs import meanflow
from experiments import command_line, tables
from flowjax import checks, derivatives, distances, losses, models, plots, typing
from flowjax.models import attention
from flowjax.profiling import flops, timing

OUTPUT = flags.DEFINE_string("output", "runs/benchmark_jvp", "folder of the results")
DEPTH = flags.DEFINE_integer("depth", 2, "blocks of the transformer", lower_bound=1, upper_bound=1_000)
WIDTH = flags.DEFINE_integer("width", 128, "width of the transformer", lower_bound=4, upper_bound=2**16)
HEADS = flags.DEFINE_integer("heads", 4, "heads of the attention", lower_bound=1, upper_bound=1_024)
TOKENS = flags.DEFINE_list("tokens", ["64", "256", "1024"], "token counts")
BATCH = flags.DEFINE_integer("batch", 0, "rows, a multiple of 4; 0: 4,096 tokens in all, and at least 4 rows", 0, 2**20)
DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "dtype of the computation whose cost is measured")
ATTENTION = flags.DEFINE_list("attention", ["xla", "chunked"], "implementations of attention")
REMAT = flags.DEFINE_bool("remat", False, "recompute the blocks in the backward pass")
ROUNDS = flags.DEFINE_integer("rounds", 8, "how often each program is timed", lower_bound=1, upper_bound=10_000)
STEPS_H = [10.0**exponent for exponent in np.arange(-6, 0.01, 0.5)]
WORTH = 0.15  # below this share of time saved the verdict is exact, without a condition
MATMULS, WALL, DISTANCE = "matmul FLOPs over forward", "wall over forward", "sliced W2, 1 step"
TRAIN = flags.DEFINE_bool("train", False, "also train MeanFlow on checkerboard with finite differences of several steps")
TRAINING_STEPS = flags.DEFINE_integer("train_steps", 3_000, "steps of each of these trainings", 1, command_line.MOST)
TRAINING_H = flags.DEFINE_list("train_h", ["0.1", "0.03", "0.01", "1e-3", "1e-4", "1e-5"], "steps h to train with")


# ------------------------------------------------------------------------------------------------- network and operations


def network(tokens, implementation, *, dtype="float32"):
    """A DiT on `tokens` pixels of four channels, and the shape of a row."""
    height = max(side for side in range(1, int(tokens**0.5) + 1) if tokens % side == 0)
    net = models.make(
        "dit", width=WIDTH.value, depth=DEPTH.value, heads=HEADS.value, patch=1,
        remat="nothing_saveable" if REMAT.value else "", dtype=dtype, attention=implementation,
    )  # fmt: skip
    return net, (height, tokens // height, 4)


def weights(net, shape):
    """Random weights without the initial zeros, which make a DiT the zero function."""
    params = net.init(jax.random.key(0), jnp.zeros((1, *shape)), 1.0, 0.0)["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return jax.tree.unflatten(tree, [leaf + 0.05 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves)])


def rows(shape, batch):
    """Random arguments (x, s, t, v) of a loss, t < s. Among the steps h of the sweep only h = 1 moves s out of [0, 1]."""
    x, v = jax.random.normal(jax.random.key(2), (2, batch, *shape))
    column = (batch, 1, 1, 1)
    s = jax.random.uniform(jax.random.key(3), column, minval=0.4, maxval=0.65)
    return x, s, s * jax.random.uniform(jax.random.key(4), column, maxval=0.8), v


def directional(jvp, V, x, s, t, v):
    """(V, dV_ds) at (x, s, t) along (v, 1), which every Eulerian loss needs."""
    return jvp(lambda x, s: V(x, s, t), (x, s), (v, jnp.ones_like(s)))


def operations(net):
    """The measured programs, name -> function of (params, x, s, t, v). Gradients are with respect to the weights."""
    bind = lambda params: lambda x, s, t: net.apply({"params": params}, x, s, t)
    one_sided = derivatives.finite_difference(scheme="backward")

    def gradient(pair):
        return jax.grad(lambda params, *row: distances.l2(*pair(bind(params), *row)).mean())

    def split(params, *row):
        """MeanFlow with the jvp only on the rows off the diagonal, a quarter of them, as published."""
        on, off = (tuple(z.reshape(-1, 4, *z.shape[1:])[:, part].reshape(-1, *z.shape[1:]) for z in row)
                   for part in (slice(0, 3), slice(3, 4)))  # fmt: skip
        x, s, _, v = on
        diagonal = distances.l2(*losses.flow_matching(bind(params), x, s, v)).mean()
        return 3 / 4 * diagonal + 1 / 4 * distances.l2(*losses.meanflow(bind(params), *off)).mean()

    return {
        "forward": lambda params, x, s, t, v: bind(params)(x, s, t),
        "jvp": lambda params, *row: directional(jax.jvp, bind(params), *row),
        "finite difference, one-sided": lambda params, *row: directional(one_sided, bind(params), *row),
        "finite difference, central": lambda params, *row: directional(derivatives.finite_difference(), bind(params), *row),
        "flow matching gradient": gradient(lambda V, x, s, t, v: losses.flow_matching(V, x, s, v)),
        "MeanFlow gradient": gradient(losses.meanflow),
        "MeanFlow gradient, finite difference": gradient(functools.partial(losses.meanflow, jvp=one_sided)),
        "MeanFlow gradient, jvp on 1/4 of the rows": jax.grad(split),
        "gradient through the jvp": gradient(losses.eulerian_distillation),
    }


# --------------------------------------------------------------------------------------------------------------- costs


def batch_of(tokens):
    return BATCH.value or max(4, 4 * (1_024 // tokens))


def costs(grid):
    """A row for each (tokens, attention, operation) of the grid."""
    measured = []
    names = list(operations(network(1, "xla")[0]))
    bar = tqdm.tqdm(total=len(grid) * len(names) * (ROUNDS.value + 2), desc="costs", unit="run")
    for tokens in dict.fromkeys(tokens for tokens, _ in grid):
        programs = {}
        for implementation in (name for count, name in grid if count == tokens):
            net, shape = network(tokens, implementation, dtype=DTYPE.value)
            args = weights(net, shape), *rows(shape, batch_of(tokens))
            for name, operation in operations(net).items():
                bar.set_postfix_str(f"{tokens} tokens, {implementation}: {name}")
                programs[implementation, name] = timing.compiled(operation, *args)
                bar.update()
        seconds = timing.in_turns(programs, ROUNDS.value, bar.update)
        measured += [_cost(tokens, key, programs, seconds) for key in programs]
    bar.close()
    return measured


def _cost(tokens, key, programs, seconds):
    implementation, name = key
    program, forward = programs[key], programs[implementation, "forward"]
    wall = timing.ratio(seconds[key], seconds[implementation, "forward"])
    return {
        "tokens": tokens,
        "batch": batch_of(tokens),
        "attention": implementation,
        "operation": name,
        MATMULS: program.flops / forward.flops,
        WALL: wall.median,
        "wall, lower quartile": wall.low,
        "wall, upper quartile": wall.high,
        "ms": 1e3 * float(np.median(seconds[key])),
        "temp MiB": program.temp_bytes / 2**20,
        "compile s": program.compile_s,
    }


# ------------------------------------------------------------------------------------------------------ attention alone


def attention_costs(grid):
    """A row for each (tokens, attention, operation) of the grid, for attention without the rest of the network."""
    measured = []
    for tokens in tqdm.tqdm(dict.fromkeys(tokens for tokens, _ in grid), desc="attention alone", unit="token count"):
        shape = batch_of(tokens), tokens, HEADS.value, WIDTH.value // HEADS.value
        drawn = jax.random.normal(jax.random.key(0), (6, *shape), DTYPE.value)
        args = tuple(drawn[:3]), tuple(drawn[3:])
        programs = {}
        for implementation in (name for count, name in grid if count == tokens):
            attend = functools.partial(attention.attention, implementation=implementation)
            for name, operation in attention_operations(attend).items():
                programs[implementation, name] = timing.compiled(operation, *args)
        seconds = timing.in_turns(programs, ROUNDS.value)
        measured += [
            {
                "tokens": tokens,
                "batch": shape[0],
                "attention": implementation,
                "operation": name,
                "ms": 1e3 * float(np.median(seconds[implementation, name])),
                "temp MiB": program.temp_bytes / 2**20,
            }
            for (implementation, name), program in programs.items()
        ]
    return measured


def attention_operations(attend):
    """The jvp of attention, and the gradient through it."""
    jvp = lambda primals, tangents: jax.jvp(attend, primals, tangents)
    return {
        "jvp": jvp,
        "gradient through the jvp": jax.grad(lambda primals, tangents: sum(jnp.sum(z**2) for z in jvp(primals, tangents))),
    }


# ------------------------------------------------------------------------------------------------------------ accuracy


def accuracy(tokens):
    """Relative error of each derivative against float64: a row for each (dtype, derivative, h). The exact jvp has no h."""
    net, shape = network(tokens, "auto")
    params, row = weights(net, shape), rows(shape, 4)
    with jax.enable_x64(True):
        wide_params, wide_row = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (params, row))
        reference = np.asarray(directional(jax.jvp, bound(net, "float64", wide_params), *wide_row)[1])
    errors = []
    for dtype in ("float32", "bfloat16"):
        V = bound(net, dtype, params)
        error = lambda jvp, V=V: float(
            np.linalg.norm(np.asarray(directional(jvp, V, *row)[1], np.float64) - reference) / np.linalg.norm(reference)
        )
        errors.append({"dtype": dtype, "derivative": "exact", "h": "", "relative error": error(jax.jvp)})
        for scheme in ("backward", "central"):
            of = functools.partial(derivatives.finite_difference, scheme=scheme)
            for h in tqdm.tqdm(STEPS_H, desc=f"accuracy, {dtype}, {scheme}", unit="h"):
                errors.append({"dtype": dtype, "derivative": scheme, "h": h, "relative error": error(of(h))})
    return errors


def bound(net, dtype, params):
    """V, compiled once for all steps h. Matmuls of float32 are float32 even where the default is a faster format."""

    @jax.jit
    def apply(params, x, s, t):
        with jax.default_matmul_precision("highest"):
            return net.clone(dtype=dtype).apply({"params": params}, x, s, t)

    return functools.partial(apply, params)


# ------------------------------------------------------------------------------------------------------------ training


def trained(path):
    """One-step distance of MeanFlow on checkerboard for each derivative; None if a signal stopped a training."""
    from flowjax import training
    from flowjax.training import workdir

    schemes = [f"{scheme}:{h}" for scheme in ("backward", "central") for h in TRAINING_H.value]
    results = []
    for jvp in ["exact", *schemes]:
        config = meanflow.get_config("checkerboard")
        config.method.jvp, config.steps, config.eval_every = jvp, TRAINING_STEPS.value, TRAINING_STEPS.value
        folder = path / "training" / jvp.replace(":", "_")
        state = training.train(config, folder)
        if int(state.step) < config.steps:
            return None
        last = [r for r in workdir.read_metrics(folder) if "1step/sliced_wasserstein" in r][-1]
        scheme, _, h = jvp.partition(":")
        results.append({"derivative": scheme, "h": h and float(h), DISTANCE: last["1step/sliced_wasserstein"]})
    return results


# ------------------------------------------------------------------------------------------------------------ pictures


def draw_costs(path, cost_rows):
    panels = {}
    for row in cost_rows:
        panel = panels.setdefault(f"{row['tokens']} tokens, batch {row['batch']}", {})
        panel.setdefault(f"{row['attention']} attention", {})[row["operation"]] = plots.Bar(
            row["wall, lower quartile"],
            row[WALL],
            row["wall, upper quartile"],
            row[MATMULS],
            f"{row[WALL]:.2f}, {row['temp MiB']:.0f} MiB",
        )
    title = "What a derivative costs: time in forward passes, quartiles, and temporary memory"
    return plots.grouped_bars(path, panels, xlabel="forward passes", mark="matmul FLOPs", title=title)


def draw_accuracy(path, error_rows, tokens):
    panels = {}
    for row in error_rows:
        panel = panels.setdefault(row["dtype"], {})
        if row["h"] == "":
            panel["exact jvp"] = row["relative error"]
        else:
            panel.setdefault(f"{row['derivative']} difference", []).append((row["h"], row["relative error"]))
    title = f"Error of dV/ds at {tokens} tokens: rounding on the left, truncation on the right"
    return plots.log_curves(path, panels, xlabel="step h", ylabel="relative error against float64", title=title)


def draw_training(path, training_rows):
    panel = {"exact jvp": training_rows[0][DISTANCE]}
    for row in training_rows[1:]:
        panel.setdefault(f"{row['derivative']} difference", []).append((row["h"], row[DISTANCE]))
    title = f"MeanFlow on checkerboard, {TRAINING_STEPS.value} steps"
    return plots.log_curves(path, {title: panel}, xlabel="step h", ylabel="sliced W2 to held-out data, one step")


# -------------------------------------------------------------------------------------------------------------- answer


def answer(cost_rows, error_rows, training_rows=()):
    """The answer to the question, exact jvp or finite differences, from the numbers of this run."""
    settings = dict.fromkeys((row["tokens"], row["attention"]) for row in cost_rows)
    of = {setting: {row["operation"]: row for row in cost_rows if (row["tokens"], row["attention"]) == setting}
          for setting in settings}  # fmt: skip
    saved = {setting: _saved(of[setting], "MeanFlow gradient, finite difference", WALL) for setting in of}
    lines = [_cost_sentence(*setting, of[setting]) for setting in of] + _attention_sentences(of)
    times_worse = {}
    for dtype in dict.fromkeys(row["dtype"] for row in error_rows):
        exact, one, two = (_best(error_rows, dtype, derivative) for derivative in ("exact", "backward", "central"))
        error = "relative error"
        times_worse[dtype] = min(one[error], two[error]) / exact[error]
        lines.append(
            f"In {dtype} the exact jvp is off by {exact[error]:.1e}; one-sided differences by {one[error]:.1e} at their best"
            f" step, {one['h']:.0e}, central ones by {two[error]:.1e} at {two['h']:.0e}."
        )
    if training_rows:
        lines.append(_training_sentence(training_rows))
    most, least = max(0.0, *saved.values()), min(times_worse.values())
    if least < 1:
        verdict = "not settled here, because differences at their best step were the more accurate"
    else:
        verdict = "exact" if most < WORTH else f"exact, unless more than {WORTH:.0%} of the time decides"
    quarter = [_saved(of[setting], "MeanFlow gradient, jvp on 1/4 of the rows", WALL) for setting in of]
    lines.append(
        f"Exact or finite differences? The verdict: {verdict}. A one-sided difference saves at most {most:.0%} of the time"
        f" of a MeanFlow gradient here, the exact jvp on the rows that need it {min(quarter):.0%} to {max(quarter):.0%};"
        " and at the best step of either, which nobody knows beforehand, the error of differences is "
        + " and ".join(f"{ratio:,.1f} times the exact one's in {dtype}" for dtype, ratio in times_worse.items())
        + "."
    )
    return "\n".join(lines)


def _training_sentence(training_rows):
    exact, *others = (row[DISTANCE] for row in training_rows)
    ranked = sorted(training_rows[1:], key=lambda row: row[DISTANCE])
    name = lambda row: f"{row[DISTANCE]:.3f} ({row['derivative']}, h = {row['h']:.0e})"
    near = sum(abs(distance / exact - 1) < 0.05 for distance in others)
    return (
        f"MeanFlow trained on checkerboard, in float32, lands at a one-step distance of {exact:.3f} with the exact jvp; with"
        f" differences, at the best {name(ranked[0])}, at the worst {name(ranked[-1])}; {near} of {len(others)} came"
        " within 5% of the exact one."
    )


def _cost_sentence(tokens, implementation, of):
    jvp, one_sided, central = (of[name] for name in ("jvp", "finite difference, one-sided", "finite difference, central"))
    share = lambda name: f"{_saved(of, name, MATMULS):.0%} of the matmuls and {_saved(of, name, WALL):.0%} of the time"
    through = of["gradient through the jvp"]
    return (
        f"{tokens} tokens, {implementation} attention: value and jvp need {jvp[MATMULS]:.2f} forward passes of matmuls and took"
        f" {jvp[WALL]:.2f} of time; with a one-sided difference {one_sided[WALL]:.2f}, a central one"
        f" {central[WALL]:.2f}. In a MeanFlow gradient a one-sided difference saves"
        f" {share('MeanFlow gradient, finite difference')}, the exact jvp on a quarter of the rows"
        f" {share('MeanFlow gradient, jvp on 1/4 of the rows')}. A gradient through the jvp took {through[WALL]:.1f} and"
        f" {through['temp MiB']:.0f} MiB."
    )


def _attention_sentences(of):
    """How much faster chunked attention is than plain, for each token count that was measured with both."""
    lines = []
    for tokens in dict.fromkeys(tokens for tokens, _ in of):
        if {(tokens, "xla"), (tokens, "chunked")} <= set(of):
            plain, chunked = of[tokens, "xla"], of[tokens, "chunked"]
            gain = lambda name, what, plain=plain, chunked=chunked: plain[name][what] / chunked[name][what]
            lines.append(
                f"{tokens} tokens: with chunked attention the whole network is {gain('jvp', 'ms'):.2f} times as fast as with"
                f" plain for the jvp, {gain('MeanFlow gradient', 'ms'):.2f} times for MeanFlow's gradient,"
                f" {gain('gradient through the jvp', 'ms'):.2f} times for the gradient through the jvp, which needs"
                f" {gain('gradient through the jvp', 'temp MiB'):.1f} times less memory."
            )
    return lines


def _saved(of, name, what):
    """The share of the cost of the exact MeanFlow gradient that another form saves."""
    return 1 - of[name][what] / of["MeanFlow gradient"][what]


def _best(error_rows, dtype, derivative):
    rows_of_derivative = (row for row in error_rows if (row["dtype"], row["derivative"]) == (dtype, derivative))
    return min(rows_of_derivative, key=lambda row: row["relative error"])


# ---------------------------------------------------------------------------------------------------------------- main


def grid_of_flags():
    """[(tokens, attention)], checked before anything is compiled."""
    for name in ATTENTION.value:
        checks.member("attention", name, attention.IMPLEMENTATIONS)
    tokens = command_line.whole_numbers("tokens", TOKENS.value, low=1, needed=True, high=2**20)
    if BATCH.value % 4:
        raise typing.InputError(
            f"--batch={BATCH.value}: expected a multiple of 4, because one program splits off a quarter of the rows."
        )
    for h in TRAINING_H.value:
        try:
            fine = 0 < float(h) < float("inf")
        except ValueError:
            fine = False
        if not fine:
            raise typing.InputError(f"--train_h={','.join(TRAINING_H.value)}: expected steps above 0, e.g. --train_h=0.1,1e-3.")
    grid = [(count, name) for count in dict.fromkeys(tokens) for name in dict.fromkeys(ATTENTION.value)]
    if not grid:
        raise typing.InputError("--tokens and --attention: expected at least one of each.")
    for count, name in grid:
        net, shape = network(count, name, dtype=DTYPE.value)
        jax.eval_shape(functools.partial(weights, net, shape))
    flops.host()
    return grid


def main():
    grid, path = grid_of_flags(), command_line.output_folder(OUTPUT)
    settings = {flag.name: flag.value for flag in (DEPTH, WIDTH, HEADS, TOKENS, BATCH, DTYPE, ATTENTION, REMAT, ROUNDS)}
    machine = f"{jax.devices()[0].device_kind} ({jax.default_backend()}, {platform.machine()}), jax {jax.__version__}"
    command = command_line.typed("benchmark_jvp")
    dit = f"DiT of depth {DEPTH.value}, width {WIDTH.value}, {HEADS.value} heads"
    about = f"{datetime.date.today()}, {machine}: `{command}`. {dit}."
    timed = f" {DTYPE.value}; medians and quartiles of {ROUNDS.value} rounds in turns."
    results = {"about": about, "settings": settings, "costs": costs(grid)}
    print("\n" + tables.write(path / "jvp_cost", results["costs"], about + timed))
    draw_costs(path / "jvp_cost.png", results["costs"])
    results["attention"] = attention_costs(grid)
    print("\n" + tables.write(path / "attention_cost", results["attention"], about + " Attention alone," + timed))
    results["accuracy"] = accuracy(grid[0][0])
    tables.write(path / "jvp_accuracy", results["accuracy"], f"{about} {grid[0][0]} tokens, random weights.")
    draw_accuracy(path / "jvp_accuracy.png", results["accuracy"], grid[0][0])
    finish(path, results)
    if TRAIN.value:
        results["training"] = trained(path)
        if results["training"] is None:
            return
        print(
            "\n"
            + tables.write(path / "jvp_training", results["training"], f"{about} {TRAINING_STEPS.value} steps of training.")
        )
        draw_training(path / "jvp_training.png", results["training"])
        finish(path, results)
    print("\n" + "\n".join(str(file) for file in sorted(path.iterdir()) if file.is_file()))


def finish(path, results):
    """Adds the answer to the results, writes them as jvp.json, and prints the answer."""
    results["answer"] = answer(results["costs"], results["accuracy"], results.get("training", ()))
    (path / "jvp.json").write_text(json.dumps(results, indent=1))
    print("\n" + results["answer"])


if __name__ == "__main__":
    command_line.run(main)
