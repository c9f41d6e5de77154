"""Training steps of published size, timed: python -m experiments.benchmark_training --peak_tflops=989

Times the step of the trainer (Adam, an average of the weights, donated state) for each method and DiT, on random latents of
images: milliseconds a step, rows a second, memory, and the model FLOPs utilisation, which is matmul FLOPs without recomputation
over time and peak rate. Without --peak_tflops the peak rate is measured in the same run, with a large matmul of the same dtype.
Writes training_speed.csv, .md and .png below --output. Made for one GPU or TPU, and not run on one yet; a rehearsal on any
machine:

    python -m experiments.benchmark_training --sizes=tiny/2 --latent=8 --batch=16
"""

import datetime
import platform
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from absl import flags

from experiments import command_line, tables
from flowjax import checks, methods, models, plots, typing
from flowjax.profiling import flops
from flowjax.training import step_cost

OUTPUT = flags.DEFINE_string("output", "runs/benchmark_training", "folder of the results")
SIZES = flags.DEFINE_list("sizes", ["B/4", "XL/2"], "SIZE/PATCH of the transformers")
METHODS = flags.DEFINE_list("methods", ["flow_matching", "meanflow", "tvm"], "which methods, as their recipes split the rows")
LATENT = flags.DEFINE_integer("latent", 32, "height and width of the latents, which have four channels", 1, 4_096)
BATCH = flags.DEFINE_integer("batch", 64, "rows, a multiple of 16", lower_bound=16, upper_bound=2**20)
DTYPE = flags.DEFINE_enum("dtype", "bfloat16", ["float32", "bfloat16"], "dtype of the computation; parameters are float32")
REMAT = flags.DEFINE_bool("remat", False, "recompute the blocks in the backward pass")
STEPS = flags.DEFINE_integer("steps", 10, "steps that are timed", lower_bound=1, upper_bound=10_000)
PEAK = flags.DEFINE_float(
    "peak_tflops", 0.0, "peak matmul rate of the device in this dtype, 1e12 FLOPs a second; 0: measured", 0.0, 1e9
)
CLASSES = 1_000


def networks():
    """{"B/4": net}; raises InputError for a --sizes that is no SIZE/PATCH, or that does not fit the latents."""
    nets = {}
    for name in SIZES.value:
        size, _, patch = name.partition("/")
        if not re.fullmatch("[1-9][0-9]{0,3}", patch):
            raise typing.InputError(f"--sizes={name}: expected SIZE/PATCH, e.g. B/4; sizes: {', '.join(models.DIT_SIZES)}.")
        fields = {"patch": int(patch), "dtype": DTYPE.value, "num_classes": CLASSES}
        nets[name] = models.make("dit", size=size, remat="nothing_saveable" if REMAT.value else "", **fields)
        jax.eval_shape(lambda net=nets[name]: net.init(jax.random.key(0), jnp.zeros((1, *shape())), 1.0, 0.0))
    return nets


def shape():
    return LATENT.value, LATENT.value, 4


def matmul_rate():
    """FLOPs a second of a large square matmul: the best of several."""
    side = 8_192 if jax.default_backend() != "cpu" else 1_024
    a = jax.random.normal(jax.random.key(0), (side, side), DTYPE.value)
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(a, a))
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        jax.block_until_ready(product(a, a))
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds)


def model_flops(name, net):
    """Matmul FLOPs of a step without recomputation, counted in the program as compiled for a CPU."""
    host = flops.host()
    with jax.default_device(host):
        step, init = training_program(name, net.clone(remat="", attention="xla"), devices=[host])
        return flops.matmul(step, *jax.eval_shape(init))


def training_program(name, net, devices=None):
    method = methods.make(name, total_steps=1_000)
    options = {"shape": shape(), "num_classes": CLASSES, "batch": BATCH.value, "decays": ("0.9999",), "devices": devices}
    return step_cost.program(method, net, optimizer=optax.adam(1e-4), **options)


def measure(name, size, net, peak):
    step, init = training_program(name, net)
    state, *rest = jax.jit(init)()
    state = jax.tree.map(jnp.copy, state)  # it is donated, so it must share no buffer with a teacher's weights
    executable = jax.jit(step, donate_argnums=0).lower(state, *rest).compile()
    memory, seconds = executable.memory_analysis(), []
    for _ in range(2 + STEPS.value):
        start = time.perf_counter()
        state, metrics = jax.block_until_ready(executable(state, *rest))
        seconds.append(time.perf_counter() - start)
    if not np.isfinite(metrics["loss"]):
        raise typing.InputError(
            f"{name} on DiT-{size}: the loss is {metrics['loss']} after {len(seconds)} steps, so the times mean nothing."
        )
    matmuls, median = model_flops(name, net), float(np.median(seconds[2:]))
    return {
        "network": f"DiT-{size}",
        "method": name,
        "ms a step": 1e3 * median,
        "spread": 1e3 * float(np.subtract(*np.quantile(seconds[2:], [0.75, 0.25]))),
        "rows a second": BATCH.value / median,
        "TFLOPs a step": matmuls / 1e12,
        "utilisation": matmuls / median / peak,
        "temp GiB": memory.temp_size_in_bytes / 2**30 if memory else float("nan"),
        "arguments GiB": memory.argument_size_in_bytes / 2**30 if memory else float("nan"),
    }


def main():
    for name in METHODS.value:
        checks.member("method", name, methods.METHODS)
    nets = networks()
    if not nets or not METHODS.value or BATCH.value % 16:
        raise typing.InputError(
            f"--batch={BATCH.value} --sizes={','.join(SIZES.value)} --methods={','.join(METHODS.value)}: expected a multiple of 16, a"
            " size and a method."
        )
    path = command_line.output_folder(OUTPUT)
    flops.host()
    peak = 1e12 * PEAK.value or matmul_rate()
    about = (
        f"Batch {BATCH.value}, latents {LATENT.value} x {LATENT.value} x 4, {DTYPE.value}, remat {REMAT.value},"
        f" {STEPS.value} steps; utilisation of {peak / 1e12:.3g} TFLOPs a second,"
        f" {'as given' if PEAK.value else 'a large matmul'}."
        f" {datetime.date.today()}, {jax.devices()[0].device_kind} ({jax.default_backend()}, {platform.machine()}),"
        f" jax {jax.__version__}: `{command_line.typed('benchmark_training')}`."
    )
    rows = []
    pairs = [(name, size) for size in nets for name in METHODS.value]
    for name, size in tqdm.tqdm(pairs, unit="step", desc="training steps"):
        rows.append(measure(name, size, nets[size], peak))
        text = tables.write(path / "training_speed", rows, about)
    plots.bars(
        path / "training_speed.png",
        [f"{row['network']} {row['method']}" for row in rows],
        [row["utilisation"] for row in rows],
        ylabel="model FLOPs utilisation",
        title=f"{jax.devices()[0].device_kind}, batch {BATCH.value}, {DTYPE.value}",
    )
    print("\n" + text)
    print("\n".join(str(path / f"training_speed.{ending}") for ending in ("csv", "md", "png")))


if __name__ == "__main__":
    command_line.run(main)
