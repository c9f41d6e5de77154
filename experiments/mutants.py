"""Do the tests bite? python -m experiments.mutants

Makes one small change at a time in a copy of the repository (a sign, a factor, a bound, a dropped stop-gradient, two swapped
times) and runs the quick tests of the changed file. A mutant, one such change, is alive if no test fails. The script lists all
mutants and ends with status 1 if one is alive. `--seed` draws other changes; all those of the default seed fail a test. About
half an hour on two CPU cores.

    python -m experiments.mutants --seed=1 --count=40 --report=runs/mutants
"""

import ast
import concurrent.futures
import functools
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from typing import NamedTuple

import tqdm
from absl import flags

from experiments import command_line, tables
from flowjax import typing

SEED = flags.DEFINE_integer("seed", 0, "seed of the drawn changes", lower_bound=0, upper_bound=2**32 - 1)
COUNT = flags.DEFINE_integer("count", 18, "number of drawn changes, besides those of FIXED", 0, 10_000)
WORKERS = flags.DEFINE_integer("workers", 2, "copies of the repository that are tested at once", 1, 64)
REPORT = flags.DEFINE_string("report", "", "folder for mutants.md and mutants.csv; default: only print")

ROOT = pathlib.Path(__file__).parents[1]
FAMILIES = "tests/test_distributional*.py tests/test_likelihood.py tests/test_posterior.py tests/test_rewards.py"
# Files that are changed, and the test files that must notice it.
SUBJECTS = {
    "flowjax/losses/**/*.py": f"tests/test_losses*.py tests/test_discrete.py tests/test_riemannian.py {FAMILIES}",
    "flowjax/methods/**/*.py": f"tests/test_method*.py tests/test_published_[df]*.py tests/test_tokens.py {FAMILIES}",
    "flowjax/samplers/*.py": "tests/test_samplers*.py",
    "flowjax/training/step.py": "tests/test_training*.py tests/test_distributional_adversaries.py",
}
# Two changes that once no quick test noticed: (file, text, changed text, tests).
FIXED = (
    ("flowjax/plots/images.py", "x[labels == c][:shown]", "x[:shown]", "tests/test_pictures.py"),
    ("flowjax/training/log.py", "schedule(step - 1)", "schedule(0)", "tests/test_training*.py"),
)
# Changes without effect: (part of the line, replaced text). In most an outer stop-gradient covers the inner one.
EQUIVALENT = (
    ("sg(V(sg(F), t, t))", "sg"),
    ("sg(V_target(sg(F), t, t))", "sg"),
    ("(sg(v_tangent), jnp.ones_like(s))", "sg"),
    ("u = sg(checks.like(", "sg"),
    ("x_r = sg((1 - r) * F + r * eps)", "sg"),
    ("jnp.where(same, 1.0, t - s)", "1.0"),  # a divisor whose quotient is not used
    ("falling[falling < low - rounding]", "<"),  # no grid has a time at the very edge of the rounding
)
SWAPS = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">"}
NAMES = {"maximum": "minimum", "minimum": "maximum", "sin": "cos", "cos": "sin"}


class Mutant(NamedTuple):
    """One change.

    Attributes:
      path: of the file, relative to the repository.
      line: number of the line.
      start: offset of the replaced text, in characters.
      old: the replaced text.
      new: the text in its place.
      tests: patterns of the test files that must notice it.
    """

    path: str
    line: int
    start: int
    old: str
    new: str
    tests: str

    def applied(self, text):
        """The file with the change."""
        return text[: self.start] + self.new + text[self.start + len(self.old) :]

    def __str__(self):
        return f"{self.path}:{self.line}: {self.old} -> {self.new}"


def mutants(path, tests):
    """All changes of a file, a list of Mutant. They change code of functions, not strings, errors, checks or annotations."""
    text = (ROOT / path).read_text()
    lines = [0]
    for line in text.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    place = lambda node: (lines[node.lineno - 1] + node.col_offset, lines[node.end_lineno - 1] + node.end_col_offset)
    changes = []
    for node in _code(ast.parse(text)):
        start, end = place(node)
        for first, old, new in _changes(node, text[start:end], lambda inner, start=start: [at - start for at in place(inner)]):
            changes.append(Mutant(path, node.lineno, start + first, old, new, tests))
    source = text.splitlines()
    same = lambda mutant: any(part in source[mutant.line - 1] and mutant.old == old for part, old in EQUIVALENT)
    return [mutant for mutant in changes if not same(mutant)]


def _code(tree):
    """The syntax nodes of the functions of a module, without errors, checks and annotations."""
    skipped = (ast.Raise, ast.Assert, ast.JoinedStr, ast.arg, ast.AnnAssign)
    waiting = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    while waiting:
        node = waiting.pop()
        if hasattr(node, "lineno"):
            yield node
        raises = isinstance(node, ast.If) and any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
        if not raises:
            waiting += [inner for inner in ast.iter_child_nodes(node) if not isinstance(inner, skipped)]


def _changes(node, text, place):
    """(offset, old, new) of each change of a node. `text` is its source, `place(inner)` the range of an inner node in it."""
    if isinstance(node, (ast.BinOp, ast.Compare)):
        left, right = (node.left, node.right) if isinstance(node, ast.BinOp) else (node.left, node.comparators[0])
        operator = node.op if isinstance(node, ast.BinOp) else node.ops[0]
        between = slice(place(left)[1], place(right)[0])
        symbol = text[between].strip(" ()\n")
        if type(operator) in SWAPS and symbol in "+-*/<=>=" and len(symbol) <= 2:
            yield between.start + text[between].index(symbol), symbol, SWAPS[type(operator)]
    elif isinstance(node, ast.Constant) and type(node.value) is float and node.value:
        yield 0, text, repr(1.25 * node.value)
    elif isinstance(node, ast.Call):
        name = text[: place(node.func)[1]]
        if name == "sg" or name.endswith("stop_gradient"):
            yield 0, name, "(lambda stopped: stopped)"
        for old, new in NAMES.items():
            if name.endswith(f".{old}"):
                yield len(name) - len(old), old, new
        times = [arg for arg in node.args if isinstance(arg, ast.Name) and arg.id in ("s", "t")]
        if [arg.id for arg in times] == ["s", "t"]:
            first, second = place(times[0])[0], place(times[1])[1]
            inner = text[first:second]
            yield first, inner, f"t{inner[1:-1]}s"


def chosen(seed, count):
    """The changes of a seed, a list of Mutant: FIXED, then `count` from SUBJECTS, each of which gives as many.

    A change is drawn by a hash of its line, so that an edit of one function leaves the other draws as they are.
    """
    changes = [_fixed(*entry) for entry in FIXED]
    for number, (pattern, tests) in enumerate(SUBJECTS.items()):
        every = [mutant for path in sorted(ROOT.glob(pattern)) for mutant in mutants(str(path.relative_to(ROOT)), tests)]
        share = count // len(SUBJECTS) + (number < count % len(SUBJECTS))
        changes += sorted(every, key=functools.partial(_rank, seed))[:share]
    return changes


def _rank(seed, mutant):
    """A number that looks random and depends on the seed, the file, and the line before and after the change alone."""
    text = (ROOT / mutant.path).read_text()
    first = text.rfind("\n", 0, mutant.start) + 1
    line = text[first : text.find("\n", mutant.start)]
    return zlib.crc32(f"{seed} {mutant.path} {line} {mutant.start - first} {mutant.new}".encode())


def _fixed(path, old, new, tests):
    text = (ROOT / path).read_text()
    if text.count(old) != 1:
        raise typing.InputError(
            f"{path} holds {old!r} {text.count(old)} times, expected once; correct FIXED in experiments/mutants.py."
        )
    return Mutant(path, text[: text.index(old)].count("\n") + 1, text.index(old), old, new, tests)


def notice(mutant, copy):
    """(the test that fails or "ALIVE", seconds) of a change in a copy of the repository, which is undone afterwards."""
    file, start = copy / mutant.path, time.perf_counter()
    before = file.read_text()
    file.write_text(mutant.applied(before))
    tests = [str(path.relative_to(copy)) for pattern in mutant.tests.split() for path in sorted(copy.glob(pattern))]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(copy)})
    finally:
        file.write_text(before)
    failed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if done.returncode == 0:
        failed = ["ALIVE"]
    elif not failed:
        raise RuntimeError(
            f"pytest ended with {done.returncode} and names no test:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    return failed[0], time.perf_counter() - start


def _copies(folder, count):
    """Copies of the tracked files of the working tree."""
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for number in range(count):
        for file in files:
            if (ROOT / file).exists():
                (folder / str(number) / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / file, folder / str(number) / file)
        yield folder / str(number)


def main():
    waiting, rows = chosen(SEED.value, COUNT.value), []
    report = command_line.output_folder(REPORT) if REPORT.value else None
    with tempfile.TemporaryDirectory(prefix="flowjax_mutants_") as folder, tqdm.tqdm(total=len(waiting), unit="mutant") as bar:
        free = list(_copies(pathlib.Path(folder), WORKERS.value))

        def work(mutant):
            copy = free.pop()
            test, seconds = notice(mutant, copy)
            free.append(copy)
            bar.update()
            return {"change": str(mutant).replace("\n", " "), "noticed by": test, "seconds": seconds}

        with concurrent.futures.ThreadPoolExecutor(WORKERS.value) as pool:
            rows = list(pool.map(work, waiting))
    alive = [row for row in rows if row["noticed by"] == "ALIVE"]
    about = f"{len(rows)} changes, {len(alive)} of them alive; {command_line.typed('mutants')}"
    print(f"{about}\n\n{tables.markdown(rows)}")
    if report:
        tables.write(report / "mutants", rows, about)
    if alive:
        sys.exit(1)


if __name__ == "__main__":
    command_line.run(main)
