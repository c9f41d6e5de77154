"""Compares two checkouts bit for bit: draws, errors, metrics and gradients of every method, on fixed keys.

    git worktree add ../base COMMIT
    python -m experiments.compare_checkouts --base=../base
    python -m experiments.compare_checkouts --base=../base --only=meanflow,imf --numbers

Each checkout runs in a separate process, on the CPU: one small network, 16 rows, step 30 of 100. The cases are all methods with
their published constants, and the variants below (guidance inside the target, two heads, all terms on every row, schemes of
finite differences, bounds, other data). The draw of a case, and its loss with the gradient, run if the two checkouts trace
different programs (jaxpr), or with --numbers; then their numbers are compared. Prints a table and exits with status 1 if a
number differs. A case that the base lacks is new and counts as equal. One minute of one core, and some seconds for every case
that runs.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from flowjax import methods, typing

BASE = flags.DEFINE_string("base", None, "folder of the other checkout", required=True)
ONLY = flags.DEFINE_list("only", [], "only cases whose names start with one of these; default: all")
NUMBERS = flags.DEFINE_bool("numbers", False, "also run cases whose programs are equal")
JIT = flags.DEFINE_bool("jit", True, "run compiled programs; --nojit runs one operation after the other")
DUMP = flags.DEFINE_string("dump", "", "(for the child processes) file to write this checkout's programs or numbers to")
DRAWS = flags.DEFINE_list("draws", [], "(for the child processes) cases of which the drawn numbers are written")
LOSSES = flags.DEFINE_list("losses", [], "(for the child processes) cases of which errors, metrics and gradients are written")

ROWS, STEP, STEPS = 16, 30, 100

# Name of a case -> (method, constants, (kind of guidance, its constants) or None, shape of the data)

CASES = {name: (name, {}, None, (3,)) for name in methods.METHODS}
for name, info in methods.METHODS.items():
    if info.every_row:
        CASES[f"{name} every row"] = (name, dict(info.every_row), None, (3,))
CASES |= {
    f"{name} {option}={value}": (name, {option: value}, None, (3,))
    for name, option, value in (
        ("imf", "heads", 2),
        ("pmf", "heads", 2),
        ("meanflow", "jvp", "central"),
        ("esd", "jvp", "forward"),
        ("lsd", "jvp", "central"),
        ("freeflow", "jvp", "exact"),
        ("lsd", "learned_weight", False),
        ("dmf", "log_variance_bound", 0.5),
        ("pd", "teacher", "map"),
        ("cd", "solver", "euler"),
        ("ct", "distance", "huber"),
        ("meanflow", "path", "trigonometric"),
        ("meanflow", "diagonal", "0"),
        ("meanflow", "diagonal", "1"),
        ("soflow", "a_end", 0.1),
    )
}
CASES |= {f"{name} of pictures": (name, {}, None, (2, 2, 3)) for name in ("facm", "scm", "freeflow", "tvm")}
GUIDANCE = {
    "meanflow": {"k": 0.6, "interval": (0.1, 0.8)},
    "imf": {},
    "dmf": {"interval": (0.0, 0.7)},
    "tvm": {},
    "soflow": {"mix": 0.25, "decay": 0.8},
    "guidance_free": {},
}
for kind, constants in GUIDANCE.items():
    for name in ("meanflow", "imf", "tvm", "alphaflow") if kind == "imf" else ("meanflow", "tvm"):
        CASES[f"{name} guided by {kind}"] = (name, {"label_drop": 0.25}, (kind, constants), (3,))
for name in ("cd", "freeflow", "psd", "fmm", "soflow"):
    CASES[f"{name} guided by dmf"] = (name, {"label_drop": 0.25}, ("dmf", GUIDANCE["dmf"]), (3,))
CASES["imf two heads guided by imf"] = ("imf", {"heads": 2, "label_drop": 0.25}, ("imf", {}), (3,))


# The networks, the same for all cases: two layers, times and conditioning added to the input


def weights(seed, size):
    first, second = jax.random.normal(jax.random.key(seed), (2, size, size)) / size**0.5
    return {"first": first, "second": second, "times": jnp.array([0.7, -0.4]) + 0.1 * seed}


def network(params, x, s, t, cond=None):
    rows = lambda values: jnp.reshape(values, (-1,) + (1,) * (x.ndim - 1))
    h = x + params["times"][0] * s + params["times"][1] * t
    for scalar, field in ((0.1, "label"), (0.05, "guidance")):
        if cond and field in cond:
            h = h + scalar * rows(jnp.asarray(cond[field], x.dtype))
    if cond and "interval" in cond:
        h = h + 0.2 * rows(cond["interval"][:, 0] - cond["interval"][:, 1])
    h = jnp.tanh(h.reshape(x.shape[0], -1) @ params["first"]) @ params["second"]
    return h.reshape(x.shape)


def networks(params):
    size = params["V"]["first"].shape[0]
    fixed = lambda seed: lambda x, s, t, cond=None: network(weights(seed, size), x, s, t, cond)
    V = lambda x, s, t, cond=None: network(params["V"], x, s, t, cond)
    velocity = lambda x, t, cond=None: network(params["velocity"], x, t, t, cond)
    a, b = params["log_variance"]
    return typing.Nets(
        V=V,
        ema=fixed(3),
        teacher=lambda x, t, cond=None: fixed(4)(x, t, t, cond),
        teacher_map=fixed(5),
        velocity=velocity,
        both=lambda x, s, t, cond=None: (V(x, s, t, cond), network(params["velocity"], x, s, t, cond)),
        log_variance=lambda s, t: (a * jnp.sin(3 * s) + b * t - a * b * s * t).reshape(-1),
    )


def batch(name, shape):
    x, eps = jax.random.normal(jax.random.key(1), (2, ROWS, *shape))
    made = {"x": x, "label": jnp.arange(ROWS) % 4}
    if name in ("rectified_meanflow", "cmt"):  # methods that learn from a coupling
        made["eps"] = eps
    if name == "cmt":
        times = jnp.linspace(1.0, 0.0, 5)
        at = times.reshape(1, -1, *(1,) * len(shape))
        made["trajectory"] = (1 - at) * x[:, None] + at * eps[:, None] + 0.1 * jnp.sin(at * x[:, None])
        made["times"] = jnp.broadcast_to(times, (ROWS, 5))
    return made


# One checkout


def programs_of(name, constants, guided, shape):
    """The draw `(batch) -> drawn` of a case, its `(params, drawn) -> errors, metrics and gradients`, their batch and params."""
    method = methods.make(name, total_steps=STEPS, **constants)
    if guided:
        kind, options = guided
        method = methods.guided(name, method, kind, scale=(1.0, 4.0), **options)
    size = int(np.prod(shape))
    params = {"V": weights(1, size), "velocity": weights(2, size), "log_variance": jnp.array([0.3, -0.2])}

    def loss(params, drawn):
        errors, metrics = method.loss(networks(params), drawn)
        return jnp.mean(errors), (errors, metrics)

    def differentiated(params, drawn):
        gradients, (errors, metrics) = jax.grad(loss, has_aux=True)(params, drawn)
        return {"errors": errors, "metrics": metrics, "gradients": gradients}

    return lambda batch: method.draw(jax.random.key(7), batch, STEP), differentiated, batch(name, shape), params


def traced(draw, loss, batch, params):
    """Both programs as text, without the names of functions and their addresses."""
    texts = str(jax.make_jaxpr(draw)(batch)), str(jax.make_jaxpr(loss)(params, jax.eval_shape(draw, batch)))
    return [re.sub(r" at 0x[0-9a-f]+|(?:jaxpr_debug_info|name|jvp|fwd|bwd)=\S+", "", text) for text in texts]


def numbers(case):
    """{what: array} of the programs of a case that run."""
    draw, loss, batch, params = programs_of(*CASES[case])
    if JIT.value:  # each program runs once, so it is compiled without optimisation
        draw, loss = (jax.jit(run, compiler_options={"xla_backend_optimization_level": 0}) for run in (draw, loss))
    drawn = draw(batch)
    results = {"draw": drawn} if case in DRAWS.value else {}
    results |= loss(params, drawn) if case in LOSSES.value else {}
    leaves, _ = jax.tree_util.tree_flatten_with_path(results)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def dump(path):
    """Writes the programs of all cases, or the numbers of the cases in --draws and --losses."""
    if not DRAWS.value + LOSSES.value:
        chosen = [case for case in CASES if not ONLY.value or case.startswith(tuple(ONLY.value))]
        pathlib.Path(path).write_text(json.dumps({case: traced(*programs_of(*CASES[case])) for case in chosen}))
        return
    arrays = {}
    for case in dict.fromkeys(DRAWS.value + LOSSES.value):
        arrays |= {f"{case}|{what}": array for what, array in numbers(case).items()}
    np.savez(path, **arrays)


# Both, and the table


def child(checkout, path, *options):
    """Runs this file in a process that imports the flowjax of a checkout (-P: this folder has an inspect.py)."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "JAX_PLATFORMS": "cpu"}
    options = [f"--base={checkout}", f"--dump={path}", f"--only={','.join(ONLY.value)}", f"--jit={JIT.value}", *options]
    subprocess.run([sys.executable, "-P", __file__, *options], cwd=checkout, env=environment, check=True)
    return path


def programs(checkout, folder):
    return json.loads(pathlib.Path(child(checkout, f"{folder}/programs.json")).read_text())


def arrays(checkout, folder, draws, losses):
    """{case: {name: array}} of the cases, computed by a checkout."""
    if not draws + losses:
        return {}
    of_cases = {case: {} for case in draws + losses}
    options = (f"--draws={','.join(draws)}", f"--losses={','.join(losses)}")
    with np.load(child(checkout, f"{folder}/arrays.npz", *options)) as stored:
        for key in stored.files:
            case, what = key.split("|")
            of_cases[case][what] = stored[key]
    return of_cases


def difference(one, other):
    """What differs between two arrays, in words; "" if nothing does."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return f"{other.dtype}{list(other.shape)} became {one.dtype}{list(one.shape)}"
    if one.tobytes() == other.tobytes():
        return ""
    return f"by up to {np.nanmax(np.abs(one.astype(float) - other.astype(float))):.3g}"


def differences(ours, theirs):
    """{what: how it differs} of one case."""
    absent = {name: "only here" if name in ours else "only in the base" for name in ours.keys() ^ theirs.keys()}
    both = {name: difference(ours[name], theirs[name]) for name in ours if name in theirs}
    return absent | {name: words for name, words in both.items() if words}


def main():
    check()
    here, base = pathlib.Path(__file__).resolve().parents[1], pathlib.Path(BASE.value).resolve()
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = programs(here, folder), programs(base, folder)
        both = [case for case in ours if case in theirs]
        run = [[case for case in both if NUMBERS.value or ours[case][i] != theirs[case][i]] for i in range(2)]
        here_arrays, base_arrays = arrays(here, folder, *run), arrays(base, folder, *run)
    failed = [case for case in theirs if case not in ours]
    for case in failed:
        print(f"{case:40} only in the base")
    for case in ours:
        if case not in here_arrays:
            print(f"{case:40} {'same program' if case in theirs else 'new'}")
            continue
        different = differences(here_arrays[case], base_arrays[case])
        ran = " and ".join(part for part, cases in zip(("draw", "loss"), run) if case in cases)
        print(f"{case:40} {'differs' if different else f'equal ({ran} run, {len(here_arrays[case])} arrays)'}")
        for what, words in different.items():
            print(f"{'':40}   {what}: {words}")
        failed += [case] if different else []
    print(f"{len(ours)} cases, {len(run[0])} draws and {len(run[1])} losses run, {len(failed)} differ.")
    if failed:
        sys.exit(1)


def check():
    """Raises InputError for flags that choose nothing."""
    if not (pathlib.Path(BASE.value) / "flowjax").is_dir():
        raise typing.InputError(
            f"--base={BASE.value} holds no folder flowjax; expected another checkout: git worktree add ../base COMMIT."
        )
    for start in ONLY.value:
        if not any(case.startswith(start) for case in CASES):
            raise typing.InputError(f"--only: no case starts with {start!r}; expected names such as meanflow or imf.")
    for flag in (DRAWS, LOSSES, DUMP):
        if flag.value:
            raise typing.InputError(f"--{flag.name} is for the child processes; leave it out.")


if __name__ == "__main__":
    if any(given.startswith("--dump=") for given in sys.argv):  # a child, which imports the other checkout
        app.run(lambda _: dump(DUMP.value))
    else:
        from experiments import command_line

        command_line.run(main)
