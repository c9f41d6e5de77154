"""What attention with a tangent costs: plain, in chunks and in fused kernels: python -m experiments.benchmark_attention

For each token count and implementation of flowjax.models.attention, and for forward, jvp, gradient, and gradient of the jvp (as
in TVM), the table has the time, the temporary memory, and the error against float64. The column "how" distinguishes two kinds
of rows:

* measured: run on this machine's device. On a CPU the fused kernels are interpreted, so that they have an error but no time.
* TPU compiler: nothing ran. On a machine without an accelerator but with libtpu (pip install libtpu), the programs are compiled
  for the TPUs of --chips. Temporary memory, bytes read and written, and operations are the compiler's counts. It counts the
  body of a loop once, so that bytes and operations of `chunked` are too low.

--step also compiles whole training steps for eight TPUs, a DiT-L/2 on 4,096 tokens in slices along "fsdp", for their memory.

Writes attention_kernels.md, .csv, .png and .json below --output, and with --step attention_step.md and .csv. --write_choice
also writes flowjax/models/attention_choice.json, the table from which `auto` takes its implementation: where times were
measured, the one with the fastest jvp and gradient of the jvp together; for TPUs that were only compiled for, the one with the
least temporary memory for the gradient of the jvp. Entries of other platforms stay.

For a GPU:
  python -m experiments.benchmark_attention --heads=24 --head_dims=64,128 --dtype=bfloat16 --write_choice --output=docs/gpu
"""

import datetime
import functools
import json
import pathlib
import platform
import re

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from absl import flags

from configs import common, meanflow, tvm
from experiments import command_line, tables
from flowjax import checks, data, folders, models, plots, training
from flowjax.models import attention
from flowjax.profiling import ahead_of_time, timing
from flowjax.training import compilation

OUTPUT = flags.DEFINE_string("output", "runs/benchmark_attention", "folder of the results")
TOKENS = flags.DEFINE_list("tokens", ["256", "1024", "4096", "16384"], "token counts")
HEADS = flags.DEFINE_integer("heads", 4, "heads", lower_bound=1)
HEAD_DIMS = flags.DEFINE_list("head_dims", ["64"], "sizes of a head")
DTYPE = flags.DEFINE_enum(
    "dtype", "float32", ["float32", "bfloat16"], "of the arrays, where programs run; the TPU compiler gets bfloat16"
)
KINDS = flags.DEFINE_list("implementations", ["xla", "chunked", "pallas"], "implementations of attention")
ROUNDS = flags.DEFINE_integer("rounds", 8, "how often each program is timed", lower_bound=1)
MEASURED = flags.DEFINE_integer("measured_tokens", 4_096, "on a CPU, run up to so many tokens", lower_bound=1)
CHIPS = flags.DEFINE_list(
    "chips", list(ahead_of_time.TOPOLOGIES), "TPUs to compile for; after the first, the fused kernels only"
)
WRITE_CHOICE = flags.DEFINE_bool("write_choice", False, "write the table of `auto`")
STEP = flags.DEFINE_bool("step", False, "compile training steps of a DiT-L/2 on 4,096 tokens")
EXACT = 1_024  # tokens up to which float64 on a CPU is the reference
OPERATIONS = ("forward", "jvp", "gradient", "gradient of the jvp")
COMPILED = "TPU compiler, nothing ran"


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
    """Random queries, keys and values, and tangents of them, of one row."""
    drawn = jax.random.normal(jax.random.key(tokens), (6, 1, tokens, HEADS.value, head_dim), jnp.float32).astype(DTYPE.value)
    return tuple(drawn[:3]), tuple(drawn[3:])


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
            tokens,
            head_dim,
            kind,
            name,
            ms=1e3 * float(np.median(seconds[kind, name])) if (kind, name) in seconds else "",
            temp=program.temp_bytes / 2**20 if (kind, name) in timed else "",
            error=relative_error(program.call(), exact[name]) if exact else "",
        )
        for (kind, name), program in programs.items()
    ]


def row(device, how, tokens, head_dim, kind, name, *, ms="", temp="", error="", moved="", operations=""):
    """One row of the table; "" is unknown."""
    return {
        "device": device, "how": how, "tokens": tokens, "head": head_dim, "attention": kind, "operation": name, "ms": ms,
        "temp MiB": temp, "error against float64": error, "GB moved": moved, "GFLOP": operations,
    }  # fmt: skip


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


def compiled(chip, tokens, head_dim, kinds):
    """A row for each (implementation, operation), in bfloat16, with the counts of the compiler of TPUs."""
    device, rows = ahead_of_time.devices(chip)[0], []
    like = (jax.ShapeDtypeStruct((1, tokens, HEADS.value, head_dim), jnp.bfloat16),) * 3
    for kind in kinds:
        for name, operation in operations(implementation(kind)).items():
            put = functools.partial(row, chip, COMPILED, tokens, head_dim, kind, name)
            try:
                program = ahead_of_time.compiled(operation, device, like, like)
            except jax.errors.JaxRuntimeError as error:
                if "memory" not in str(error).lower():
                    raise
                rows.append(put(temp="out of memory"))
                continue
            cost = program.cost_analysis()
            temp = program.memory_analysis().temp_size_in_bytes / 2**20
            rows.append(put(temp=temp, moved=cost["bytes accessed"] / 1e9, operations=cost["flops"] / 1e9))
    return rows


def training_steps(chip):
    """A row for each (method, implementation): memory of one of eight devices in a training step of a DiT-L/2, 4,096 tokens."""
    data.DATASETS["latents"] = lambda **_: data.Source(
        "latents",
        size=64,
        shape=(128, 128, 4),
        num_classes=0,
        rows=lambda ids: {"x": np.zeros((len(ids), 128, 128, 4), np.float32)},
    )
    rows = []
    for method, module in {"meanflow": meanflow, "tvm": tvm}.items():
        for kind in KINDS.value:
            config = module.get_config("digits")
            config.data.name, config.batch_size, config.mesh.fsdp = "latents", 16, 8
            config.model = common.network(
                "dit", **models.DIT_SIZES["L"], patch=2, dtype="bfloat16", attention=kind, remat="nothing_saveable"
            )
            run = training.setup(config, ahead_of_time.devices(chip))
            rows.append({"device": f"8 x {chip}", "how": COMPILED, "method": method, "attention": kind, "rows": 16})
            try:
                rows[-1]["GiB a device"] = compilation.device_bytes(compilation.compiled(run)) / 2**30
            except jax.errors.JaxRuntimeError as error:
                used = re.search(r"Used ([\d.]+)G of ([\d.]+)G hbm", str(error))
                if "memory" not in str(error).lower():
                    raise
                rows[-1]["GiB a device"] = f"out of memory: {used[1]} of {used[2]}" if used else "out of memory"
            print(rows[-1])
    return rows


# ----------------------------------------------------------------------------------------------------- picture, choice


def draw(path, rows):
    """A panel for each operation: time over tokens if measured, else bytes moved, which are wrong and left out for `chunked`."""
    device = jax.devices()[0].device_kind if jax.default_backend() != "cpu" else CHIPS.value[0]
    what, about = ("ms", "time") if jax.default_backend() != "cpu" else ("GB moved", "bytes to and from the HBM, as compiled")
    panels = {}
    for r in rows:
        miscounted = what == "GB moved" and r["attention"] == "chunked"
        if r["device"] == device and r["head"] == int(HEAD_DIMS.value[0]) and r[what] != "" and not miscounted:
            panels.setdefault(r["operation"], {}).setdefault(r["attention"], []).append((r["tokens"], r[what]))
    if panels:
        title = f"Attention, {HEADS.value} heads of {HEAD_DIMS.value[0]}, {device}: {about}"
        plots.log_curves(path, panels, xlabel="tokens", ylabel=what, title=title)


def choice(rows):
    """Platform -> entry of the table of `auto`, of the rows of the first head size; see the module's docstring."""
    made = {}
    first = [r for r in rows if r["head"] == rows[0]["head"]]
    times = [r for r in first if r["ms"] != "" and r["operation"] in ("jvp", "gradient of the jvp")]
    if times:
        basis = f"the fastest jvp and gradient of it on {times[0]['device']}, {datetime.date.today()}"
        made[jax.default_backend()] = {"basis": basis, "choice": thresholds(times, "ms", 2)}
    compiled_for = [r for r in first if r["how"] == COMPILED and r["device"] == CHIPS.value[0]]
    fits = [r for r in compiled_for if r["operation"] == "gradient of the jvp" and not isinstance(r["temp MiB"], str)]
    if fits:
        basis = f"the least temporary memory of the gradient of the jvp, by the compiler for {CHIPS.value[0]}; never timed"
        made["tpu"] = {"basis": basis, "choice": thresholds(fits, "temp MiB", 1)}
    return made


def thresholds(rows, what, parts):
    """[(keys up to, implementation)], the last without a limit: the least sum of `what` over `parts` rows at a token count."""
    best = {}
    for tokens in sorted({r["tokens"] for r in rows}):
        values = {}
        for r in rows:
            if r["tokens"] == tokens:
                values.setdefault(r["attention"], []).append(r[what])
        order = ("xla", "chunked", "pallas")  # of those that are equal
        best[tokens] = min((sum(z), order.index(kind), kind) for kind, z in values.items() if len(z) == parts)[2]
    table = [[tokens, kind] for tokens, kind in best.items()]
    merged = [entry for entry, after in zip(table, [*table[1:], [None, ""]]) if entry[1] != after[1]]
    return [*merged[:-1], [None, merged[-1][1]]]


# ---------------------------------------------------------------------------------------------------------------- main


def write(path, rows, about):
    """The results so far, so that a run that is stopped leaves some."""
    tables.write(path / "attention_kernels", rows, about)
    folders.write_text(path / "attention_kernels.json", json.dumps({"about": about, "rows": rows}, indent=1))


def main():
    tokens = command_line.whole_numbers("tokens", TOKENS.value, low=1, needed=True)
    head_dims = command_line.whole_numbers("head_dims", HEAD_DIMS.value, low=1, needed=True)
    for kind in KINDS.value:
        checks.member("attention", kind, attention.IMPLEMENTATIONS[1:])
    for chip in CHIPS.value:
        checks.member("chip", chip, tuple(ahead_of_time.TOPOLOGIES))
    on_cpu = jax.default_backend() == "cpu"
    grid = [(head_dim, count) for head_dim in head_dims for count in tokens]
    path = pathlib.Path(OUTPUT.value)
    machine = f"{jax.devices()[0].device_kind} ({jax.default_backend()}, {platform.machine()}), jax {jax.__version__}"
    about = (
        f"{datetime.date.today()}, {machine}: `{command_line.typed('benchmark_attention')}`. One row, {HEADS.value} heads;"
        f" {DTYPE.value} where measured, bfloat16 where only compiled. Times are medians of {ROUNDS.value} rounds in turns."
    )
    rows = []
    for head_dim, count in tqdm.tqdm(grid, desc="measured", unit="size"):
        if not on_cpu or count <= MEASURED.value:
            rows += measured(count, head_dim)
            write(path, rows, about)
    chips = CHIPS.value if on_cpu and not ahead_of_time.missing() else []
    if on_cpu and ahead_of_time.missing():
        print(f"Not compiled for TPUs: what is missing is {ahead_of_time.missing()}.")
    for chip in chips:
        for head_dim, count in tqdm.tqdm(grid, desc=f"compiled for {chip}", unit="size"):
            all_kinds = chip == chips[0] and head_dim == head_dims[0]
            rows += compiled(chip, count, head_dim, KINDS.value if all_kinds else [k for k in KINDS.value if k == "pallas"])
            write(path, rows, about)
    print("\n" + tables.markdown(rows))
    draw(path / "attention_kernels.png", rows)
    if STEP.value and chips:
        steps = training_steps(chips[0])
        print("\n" + tables.write(path / "attention_step", steps, about))
    if WRITE_CHOICE.value:
        table = json.loads(attention.CHOICE.read_text()) | choice(rows)
        lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(entry)}" for name, entry in table.items())
        folders.write_text(attention.CHOICE, "{\n" + lines + "\n}\n")
        print(f"Wrote {attention.CHOICE}.")


if __name__ == "__main__":
    command_line.run(main)
