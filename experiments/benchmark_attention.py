"""What attention with a tangent costs: plain, in chunks and in fused kernels: python -m experiments.benchmark_attention

For each token count and implementation of flowjax.models.attention, and for forward, jvp, gradient, and gradient of the jvp (as
in TVM), the table has the time, the temporary memory, and the error against float64. The column "how" distinguishes two kinds
of rows:

* measured: run on this machine's device. On a CPU the fused kernels are interpreted, so that they have an error but no time.
* TPU compiler: nothing ran. On a machine without an accelerator but with the compiler of TPUs (pip install -e ".[tpu]"), the
  programs are compiled for the TPUs of --chips. Temporary memory, bytes read and written, and operations are the compiler's
  counts; of a kernel it takes bytes and operations from the kernel's own estimate. It counts the body of a loop once, so that
  bytes and operations of `chunked` are too low.

Writes attention_kernels.md, .csv, .png and .json below --output. --step compiles whole training steps instead, of a DiT of --size
for eight TPUs in slices along "fsdp", for their memory, which does not depend on the tiles: attention_step.md, .csv and .json. The
size gives the width, so that a DiT-L has 16 heads of 64 or 8 of 128. --add keeps the rows of other commands. --write_choice also
writes flowjax/models/attention_choice.json, the table from which `auto` takes its implementation: where times were measured, the
one with the fastest jvp and gradient of the jvp together; for TPUs that were only compiled for, the one with the least temporary
memory for both together. Entries of other platforms stay.

For a GPU:
  python -m experiments.benchmark_attention --heads=24 --head_dims=64,128 --dtype=bfloat16 --write_choice --add --output=docs
"""

import datetime
import functools
import json
import math
import platform

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from absl import flags

from configs import common, meanflow, tvm
from experiments import attention_results, command_line, tables
from experiments.attention_results import COMPILED, out_of_memory, row
from flowjax import checks, data, folders, models, plots, training
from flowjax.models import attention
from flowjax.models.pallas_attention import tiling
from flowjax.profiling import ahead_of_time, timing
from flowjax.training import compilation

OUTPUT = flags.DEFINE_string("output", "runs/benchmark_attention", "folder of the results")
TOKENS = flags.DEFINE_list("tokens", ["256", "1024", "4096", "16384"], "token counts")
BATCH = flags.DEFINE_integer("batch", 1, "rows of the batch; with --step, of each device", lower_bound=1, upper_bound=2**20)
HEADS = flags.DEFINE_integer("heads", 4, "heads", lower_bound=1, upper_bound=1_024)
HEAD_DIMS = flags.DEFINE_list("head_dims", ["64"], "sizes of a head")
DTYPE = flags.DEFINE_enum(
    "dtype", "", ["", "float32", "bfloat16"], "of the arrays; default: float32 on this machine, bfloat16 for the TPU compiler"
)
MASKED = flags.DEFINE_bool("masked", False, "compile for TPUs with a mask of keys")
KINDS = flags.DEFINE_list("implementations", ["xla", "chunked", "pallas"], "implementations of attention")
ROUNDS = flags.DEFINE_integer("rounds", 8, "how often each program is timed", lower_bound=1, upper_bound=10_000)
MEASURED = flags.DEFINE_integer("measured_tokens", 4_096, "on a CPU, run up to so many tokens", 0, 2**20)
CHIPS = flags.DEFINE_list("chips", list(ahead_of_time.TOPOLOGIES), "TPUs to compile for; none: compile for none")
ADD = flags.DEFINE_bool("add", False, "keep the rows of --output that this command does not make")
WRITE_CHOICE = flags.DEFINE_bool("write_choice", False, "write the table of `auto`")
STEP = flags.DEFINE_list(
    "step", [], "meanflow, tvm: instead of attention alone, compile their training steps, of a DiT; --heads is not used"
)
SIZE = flags.DEFINE_enum("size", "L", list(models.DIT_SIZES), "with --step: size of the DiT, whose patches are 2 x 2")
LARGEST_TILE = flags.DEFINE_integer(
    "largest_tile",
    tiling.LARGEST,
    "tokens along a tile of the kernels, at most: tiles of 128 compile 10 times as fast",
    lower_bound=128,
    upper_bound=2**20,
)
EXACT = 1_024  # tokens up to which float64 on a CPU is the reference
METHODS = {"meanflow": meanflow, "tvm": tvm}
OPERATIONS = ("forward", "jvp", "gradient", "gradient of the jvp")


def operations(attend):
    """Name -> function of (primals, tangents), three arrays each."""
    jvp = lambda primals, tangents: jax.jvp(attend, primals, tangents)
    loss = lambda primals, tangents: sum(jnp.sum(jnp.sin(z.astype(jnp.float32))) for z in jvp(primals, tangents))
    made = (
        lambda primals, tangents: attend(*primals),
        jvp,
        jax.grad(lambda primals, tangents: jnp.sum(jnp.sin(attend(*primals).astype(jnp.float32)))),
        jax.grad(loss, (0, 1)),
    )
    return dict(zip(OPERATIONS, made))


def implementation(name):
    return functools.partial(attention.attention, implementation=name)


def arguments(tokens, head_dim):
    """Random queries, keys and values, and tangents of them."""
    shape = (6, BATCH.value, tokens, HEADS.value, head_dim)
    drawn = jax.random.normal(jax.random.key(tokens), shape, jnp.float32).astype(DTYPE.value or "float32")
    return tuple(drawn[:3]), tuple(drawn[3:])


def described(head_dim, dtype, mask=""):
    return f"{BATCH.value} x {HEADS.value} heads of {head_dim}, {dtype}{mask}"


# ------------------------------------------------------------------------------------------------------------ measured


def measured(tokens, head_dim):
    """A row for each (implementation, operation), run on this machine's device."""
    interpreted = jax.default_backend() == "cpu"
    args, programs = arguments(tokens, head_dim), {}
    for kind in KINDS.value:
        if kind == "pallas" and interpreted and tokens > EXACT:
            continue
        for name, operation in operations(implementation(kind)).items():
            try:
                programs[kind, name] = timing.compiled(operation, *args, counted=0)
                programs[kind, name].call()
            except jax.errors.JaxRuntimeError as error:  # out of memory is a result
                print(f"{tokens} tokens, {kind}, {name}: {str(error).splitlines()[0][:120]}")
                programs.pop((kind, name), None)
    timed = {key: program for key, program in programs.items() if not (interpreted and key[0] == "pallas")}
    seconds = timing.in_turns(timed, ROUNDS.value) if timed else {}
    exact = references(args) if tokens <= EXACT else {}
    device = jax.devices()[0].device_kind
    return [
        row(
            device,
            "interpreted" if interpreted and kind == "pallas" else "measured",
            described(head_dim, DTYPE.value or "float32"),
            tokens,
            kind,
            name,
            ms=1e3 * float(np.median(seconds[kind, name])) if (kind, name) in seconds else "",
            temp=program.temp_bytes / 2**20 if (kind, name) in timed else "",
            error=relative_error(program.call(), exact[name]) if exact else "",
        )
        for (kind, name), program in programs.items()
    ]


def references(args):
    """Every operation in float64, on the CPU."""
    args = jax.tree.map(lambda z: np.asarray(z, np.float64), args)
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        return {name: jax.tree.map(np.asarray, jax.jit(f)(*args)) for name, f in operations(implementation("chunked")).items()}


def relative_error(computed, exact):
    """The largest relative error of any array, in the Euclidean norm."""
    pairs = zip(jax.tree.leaves(computed), jax.tree.leaves(exact))
    return max(float(np.linalg.norm(np.asarray(z, np.float64) - e) / np.linalg.norm(e)) for z, e in pairs)


# ------------------------------------------------------------------------------------------------------- ahead of time


def compiled(chip, tokens, head_dim):
    """A row for each (implementation, operation), with the counts of the compiler of TPUs."""
    device, rows, dtype = ahead_of_time.devices(chip)[0], [], DTYPE.value or "bfloat16"
    like = (jax.ShapeDtypeStruct((BATCH.value, tokens, HEADS.value, head_dim), dtype),) * 3
    mask = jnp.arange(tokens) < tokens - 3 if MASKED.value else None
    for kind in KINDS.value:
        attend = functools.partial(implementation(kind), mask=None if mask is None else jnp.tile(mask, (BATCH.value, 1)))
        for name, operation in operations(attend).items():
            arrays = described(head_dim, dtype, ", mask" if MASKED.value else "")
            put = functools.partial(row, chip, COMPILED, arrays, tokens, kind, name)
            try:
                program = ahead_of_time.compiled(operation, device, like, like)
            except jax.errors.JaxRuntimeError as error:
                rows.append(put(temp=out_of_memory(error)))
                continue
            cost = program.cost_analysis()
            temp = program.memory_analysis().temp_size_in_bytes / 2**20
            rows.append(put(temp=temp, moved=cost["bytes accessed"] / 1e9, operations=cost["flops"] / 1e9))
    return rows


def training_steps(chip, tokens, head_dim):
    """A row for each (method, implementation): memory of one of eight devices in a training step of a DiT."""
    side, width = 2 * math.isqrt(tokens), models.DIT_SIZES[SIZE.value]["width"]
    data.DATASETS["latents"] = lambda **_: data.Source(
        "latents",
        size=64,
        shape=(side, side, 4),
        num_classes=0,
        rows=lambda ids: {"x": np.zeros((len(ids), side, side, 4), np.float32)},
    )
    for method in STEP.value:
        for kind in KINDS.value:
            config = METHODS[method].get_config("digits")
            config.data.name, config.batch_size, config.mesh.fsdp = "latents", 8 * BATCH.value, 8
            size = models.DIT_SIZES[SIZE.value] | {"heads": width // head_dim}
            config.model = common.network("dit", **size, patch=2, dtype="bfloat16", attention=kind, remat="nothing_saveable")
            run = training.setup(config, ahead_of_time.devices(chip))
            made = {"device": f"8 x {chip}", "how": COMPILED, "method": method, "network": f"DiT-{SIZE.value}/2"}
            made |= {"heads": f"{width // head_dim} of {head_dim}", "tokens": tokens, "attention": kind}
            made |= {"batch": config.batch_size}
            try:
                yield made | {"GiB a device": compilation.device_bytes(compilation.compiled(run)) / 2**30}
            except jax.errors.JaxRuntimeError as error:
                yield made | {"GiB a device": out_of_memory(error)}


# ----------------------------------------------------------------------------------------------------- picture, choice


def draw(path, rows):
    """A panel for each operation: time over tokens if measured, else bytes moved, which are wrong and left out for `chunked`."""
    on_cpu = jax.default_backend() == "cpu"
    device = CHIPS.value[0] if on_cpu and CHIPS.value else jax.devices()[0].device_kind
    what, about = ("GB moved", "bytes to and from the HBM, as compiled") if on_cpu and CHIPS.value else ("ms", "time")
    shown = [r for r in rows if r["device"] == device and r[what] != "" and (what == "ms" or r["attention"] != "chunked")]
    if not shown:
        return
    rows, panels = attention_results.most_compared(shown), {}
    for r in rows:
        panels.setdefault(r["operation"], {}).setdefault(r["attention"], []).append((r["tokens"], r[what]))
    title = f"Attention, {rows[0]['arrays']}, {device}: {about}"
    plots.log_curves(path, panels, xlabel="tokens", ylabel=what, title=title)


# ---------------------------------------------------------------------------------------------------------------- main


def write_choice(rows):
    table = json.loads(attention.CHOICE.read_text()) | attention_results.choice(rows)
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(entry)}" for name, entry in table.items())
    folders.write_text(attention.CHOICE, "{\n" + lines + "\n}\n")
    print(f"Wrote {attention.CHOICE}.")


def main():
    tokens = command_line.whole_numbers("tokens", TOKENS.value, low=1, needed=True, high=2**20)
    head_dims = command_line.whole_numbers("head_dims", HEAD_DIMS.value, low=1, needed=True, high=4_096)
    for kind in KINDS.value:
        checks.member("attention", kind, attention.IMPLEMENTATIONS[1:])
    for chip in CHIPS.value:
        checks.member("chip", chip, tuple(ahead_of_time.TOPOLOGIES))
    for method in STEP.value:
        checks.member("step", method, tuple(METHODS))
    if STEP.value:
        attention_results.check_sizes(tokens, head_dims, models.DIT_SIZES[SIZE.value]["width"])
    tiling.LARGEST = LARGEST_TILE.value
    on_cpu = jax.default_backend() == "cpu"
    grid = [(head_dim, count) for head_dim in head_dims for count in tokens]
    path = command_line.output_folder(OUTPUT)
    machine = f"{jax.devices()[0].device_kind} ({jax.default_backend()}, {platform.machine()}), jax {jax.__version__}"
    about = f"{datetime.date.today()}, {machine}{ahead_of_time.version()}: `{command_line.typed('benchmark_attention')}`."
    chips = CHIPS.value if on_cpu and not ahead_of_time.missing() else []
    if on_cpu and ahead_of_time.missing():
        print(f"Not compiled for TPUs: what is missing is {ahead_of_time.missing()}.")
    if STEP.value:
        results = attention_results.Results(path / "attention_step", about, key="batch", add=ADD.value)
        for chip in chips:
            for head_dim, count in tqdm.tqdm(grid, desc=f"compiled for {chip}", unit="size"):
                for made in training_steps(chip, count, head_dim):
                    results.add([made])
        print("\n" + tables.markdown(results.rows))
        return
    results = attention_results.Results(path / "attention_kernels", about, key="operation", add=ADD.value)
    for head_dim, count in tqdm.tqdm(grid, desc="measured", unit="size"):
        if not on_cpu or count <= MEASURED.value:
            results.add(measured(count, head_dim))
    for chip in chips:
        for head_dim, count in tqdm.tqdm(grid, desc=f"compiled for {chip}", unit="size"):
            results.add(compiled(chip, count, head_dim))
    if results.rows:
        print("\n" + tables.markdown(results.rows))
        draw(path / "attention_kernels.png", results.rows)
    if results.rows and WRITE_CHOICE.value:
        write_choice(results.rows)


if __name__ == "__main__":
    command_line.run(main)
