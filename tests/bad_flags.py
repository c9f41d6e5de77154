"""Runs scripts with bad flags, for tests/test_bad_flags.py: python tests/bad_flags.py FOLDER, with {script: its plan} on stdin.

Writes FOLDER/SCRIPT.json: a Case each. The values are made from the types of the script's own flags, so that a new flag is judged
without a new line. One process loads the libraries and is copied for each script, because two scripts may have flags of one name.
"""

import contextlib
import importlib
import io
import json
import multiprocessing
import pathlib
import signal
import sys

import jax
from absl import flags

from experiments import command_line
from flowjax import plots, training  # noqa: F401, loaded once for all scripts
from flowjax.evaluation import generation, scores, trajectories  # noqa: F401

CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "meanflow.py"
SECONDS = 60  # after which a case counts as accepted
ARGUMENTS = {"launch": "the script behind --"}
NOWHERE, LONG, TOO_LARGE = "no_such_name", "x" * 5_000, str(10**20)
VALUES = {
    "int": ("", "x", "nan", "1.5", TOO_LARGE),  # and numbers beyond the bounds
    "float": ("", "x", "nan", "inf", "-inf", "1e999", "-1"),
    "bool": ("", "x", "2"),
    "string enum": ("", NOWHERE),
    "comma separated list of strings": (NOWHERE, "-1", "nan", "1e999", ",", LONG),
    "string": (NOWHERE, LONG, "-1", "nan", "/dev/null/x"),
    "multi string": (NOWHERE, LONG, "-1", "nan"),
    "config object": (NOWHERE, LONG, "/dev/null", "configs", f"{CONFIG}:{NOWHERE}"),
}
compiled: list[str] = []


class NotRefusedError(BaseException):
    """The script still works after SECONDS."""


def main(folder):
    for script, plan in json.loads(sys.stdin.read()).items():
        child = multiprocessing.get_context("fork").Process(target=judge, args=(script, plan, folder))
        child.start()
        child.join()
        if child.exitcode:
            sys.exit(child.exitcode)


def judge(script, plan, folder):
    """Writes what becomes of the bad values of all flags of a script.

    The plan has "good", {flag: value}, "more", {flag: [further bad values]}, "meaningful", {flag: [values that are not bad]}, and
    "arguments" after the flags.
    """
    module = importlib.import_module(f"experiments.{script}")
    defined = [flag for place in (module, command_line) for flag in flags.FLAGS.get_key_flags_for_module(place)]
    values = {flag.name: list(bad(flag)) for flag in defined}
    for name, more in plan["more"].items():
        values[name] = [*values.get(name, ()), *more]
    signal.signal(signal.SIGALRM, stop)
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration, **_: compiled.append(event) if "backend_compile" in event else None
    )
    run, results = plan["good"].get("workdir", ""), []
    if pathlib.Path(run, "config.json").exists():
        training.load(run)  # compiles the check of its weights, as the first reading of a run does
    for name, given in values.items():
        for value in given:
            if value not in plan["meaningful"].get(name, ()):
                call = [*(f"--{key}={good}" for key, good in {**plan["good"], name: value}.items()), *plan["arguments"]]
                results.append((name, value, *ended(script, module, call)))
    (folder / f"{script}.json").write_text(json.dumps(results))


def bad(flag):
    """Values that a flag of this type takes in no script, but for those that a plan calls meaningful."""
    yield from (value for value in VALUES[flag.flag_type()] if value not in (getattr(flag.parser, "enum_values", None) or ()))
    low, high = (getattr(flag.parser, name, None) for name in ("lower_bound", "upper_bound"))
    yield from (str(bound + step) for bound, step in ((low, -1), (high, 1)) if bound is not None)
    if flag.flag_type() == "int":
        yield "-1"


def ended(script, module, call):
    """(exit status, or an exception in words; what was printed to stderr; programs that were compiled) of a call of a script."""
    for name in list(flags.FLAGS):
        if name.startswith("config."):  # a field of the last config that was read
            delattr(flags.FLAGS, name)
        else:
            flags.FLAGS[name].unparse()
    sys.argv, errors, status, before = [script, *call], io.StringIO(), 0, len(compiled)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            rest = command_line._parse(sys.argv)
            arguments = lambda: command_line._arguments(rest, ARGUMENTS.get(script, ""))
            command_line._one_sentence(lambda: module.main(*arguments()))
    except SystemExit as error:
        status = error.code
    except BaseException as error:
        status = f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    return status, errors.getvalue(), len(compiled) - before


def stop(*_):
    raise NotRefusedError


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
