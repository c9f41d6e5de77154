"""What the scripts share: flags that fail in one sentence."""

import os
import re
import sys

import jax
from absl import app, flags, logging

from flowjax import typing
from flowjax.training import NonFiniteError, SaveError, hosts, log

SAMPLER_HELP = (
    "flow_map, consistency, gamma:gamma=0.5, restart:low=0.2,high=0.6,repeats=2, euler, heun, midpoint or adaptive:rtol=1e-5;"
    " default: that of the run's config"
)
GUIDANCE_HELP = "guidance scale, for a run that was trained with a range of scales; default: the median of the range"
INTERVAL_HELP = (
    "LOW,HIGH, the times between which samples are guided, LOW <= 0.5 <= HIGH, for a run of the kind imf; default: 0,1"
)
GRID_HELP = "uniform, bent:middle=0.55, shifted:shift=3, karras:sigma_min=0.002,sigma_max=80,rho=7, or times such as 1,0.8,0.3,0; default: the run's"


EXIT_PEER_DIED = 3  # exit status of a process that ends because another process of the run died
PEER_DIED = "gloo|nccl|connection|coordination|heartbeat|peer|unavailable|deadline"  # words in the error that JAX raises then
CHECKPOINT_HELP = "step of the checkpoint, or best, by the run's config.best; default: the newest"


def run(main, arguments=""):
    """Runs `main()` as a script. A mistake in its input ends it with one sentence on stderr and status 2, without a traceback.

    Args:
      main: the script.
      arguments: a description of the arguments that are no flags; "": there are none.
    """
    app.run(lambda argv: _one_sentence(lambda: main(*_arguments(argv, arguments))), flags_parser=_parse)


def define_processes():
    """The flags of a script that may run as one of several processes, for `join`."""
    return (
        flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0, the same for all processes"),
        flags.DEFINE_integer("processes", 0, "number of processes; with --coordinator"),
        flags.DEFINE_integer("process", -1, "index of this process, from 0; with --coordinator"),
        flags.DEFINE_bool("distributed", False, "join the processes that JAX detects, as on a TPU pod slice"),
    )


def join(processes):
    """Joins the other processes, given by the flags of `define_processes` or the environment; does nothing for one process."""
    coordinator, number, process, distributed = (flag.value for flag in processes)
    hosts.initialize(coordinator, number, process, distributed=distributed)


def whole_numbers(name, values, low, needed=False):
    """Flag values as ints, () for none. Raises InputError if one is below `low`, or if there is none and `needed`."""
    try:
        given = tuple(int(value) for value in values)
    except ValueError:
        given = (low - 1,)
    if (needed and not given) or any(number < low for number in given):
        example = ",".join(str(max(low, 1) * number) for number in (1, 2, 4))
        raise typing.InputError(
            f"--{name}={','.join(values)}: expected whole numbers of at least {low}, e.g. --{name}={example}."
        )
    return given


def numbers(name, values, count=None):
    """Flag values as floats, () for none. Raises InputError if one is no number, or if there are not `count` (None: any)."""
    try:
        given = tuple(float(value) for value in values)
    except ValueError:
        given = None
    if given is None or (given and count not in (None, len(given))):
        expected = "numbers, e.g. 1,2" if count is None else f"{count} numbers, e.g. 0.1,0.7"
        raise typing.InputError(f"--{name}={','.join(values)}: expected {expected}.")
    return given


def with_options(values):
    """Values of a list flag, where a name with several options was cut at its commas: ["constant:decay=0.9", "every=2"] is one."""
    names = []
    for value in values:
        if names and ":" in names[-1] and "=" in value and ":" not in value:
            names[-1] += f",{value}"
        else:
            names.append(value)
    return names


def typed(module):
    """The command line of this script without its output folder, for the line above a table."""
    given = [flag for flag in sys.argv[1:] if not flag.startswith(("--output", "--workdir"))]
    return " ".join(["python -m", f"experiments.{module}", *given])


def _parse(argv):
    def parse():
        rest = flags.FLAGS(argv)
        if flags.FLAGS["verbosity"].using_default_value:
            logging.set_verbosity(logging.WARNING)
        if "config" in flags.FLAGS:
            hasattr(flags.FLAGS.config, "keys")  # reads the config file, so that a missing one is an error here
        return rest

    # Config files run while flags are parsed, and ml_collections reports an unknown field as an AttributeError.
    return _one_sentence(parse, AttributeError, KeyError, TypeError, ValueError, OSError, ImportError)


def _arguments(argv, expected):
    if len(argv) > 1 and not expected:
        raise typing.InputError(f"unexpected argument {argv[1]!r}; everything is a flag: --name=value.")
    if len(argv) == 1 and expected:
        raise typing.InputError(f"expected {expected}.")
    return argv[1:]


def _one_sentence(work, *expected):
    try:
        return work()
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from what is written.", file=sys.stderr)
        _leave(130)
    except (typing.InputError, NonFiniteError, SaveError, log.RecompilationError, flags.Error, *expected) as error:
        print(f"error: {_sentence(error)}", file=sys.stderr)
        _leave(2)
    except jax.errors.JaxRuntimeError as error:
        if not jax.distributed.is_initialized() or not re.search(PEER_DIED, str(error), re.I):
            raise
        why = str(error).splitlines()[0][:120]
        print(f"error: another process of this run died ({why}); start all of them again.", file=sys.stderr)
        _leave(EXIT_PEER_DIED)


def _leave(status):
    """Ends the process. One of several skips JAX's exit handlers, which would wait for processes that wait for this one."""
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _sentence(error):
    cause = error.args[0] if error.args else error
    if isinstance(error, KeyError) or isinstance(cause, KeyError):
        return "the config has no field " + str(cause).strip("\"'") + "."
    text = str(error) if isinstance(error, OSError) else str(cause)
    if "Traceback" in text:  # an exception in a config file; its last line is the message
        text = text.strip().splitlines()[-1].partition(": ")[2]
    return " ".join(text.split())
