"""What the scripts share: flags that fail in one sentence."""

import math
import os
import pathlib
import re
import sys

import jax
from absl import app, flags, logging

from flowjax import buckets, folders, guidance, methods, origins, paths, spaces, typing
from flowjax.training import NonFiniteError, SaveError, hosts, log, quiet

SAMPLER_HELP = (
    "flow_map, consistency, gamma:gamma=0.5, restart:low=0.2,high=0.6,repeats=2, euler, heun, midpoint or adaptive:rtol=1e-5;"
    " default: that of the run's config"
)
GUIDANCE_HELP = "guidance scale, for a run that was trained with a range of scales; default: the median of the range"
INTERVAL_HELP = (
    "LOW,HIGH, the times between which samples are guided, LOW <= 0.5 <= HIGH, for a run of the kind imf; default: 0,1"
)
GRID_HELP = "uniform, bent:middle=0.55, shifted:shift=3, karras:sigma_min=0.002,sigma_max=80,rho=7, or times such as 1,0.8,0.3,0; default: the run's"


MOST = 2**31 - 1  # of a number of samples or of steps
EXIT_PEER_DIED = 3  # exit status of a process that ends because another process of the run died
PEER_DIED = "gloo|nccl|connection|coordination|heartbeat|peer|unavailable|deadline"  # words in the error that JAX raises then
EMA_HELP = "name of the averaged weights in config.ema, or none for the raw ones; default: the run's first average"
CHECKPOINT_HELP = "step of the checkpoint, or best, by the run's config.best; default: the newest"


def run(main, arguments=""):
    """Runs `main()` as a script. A mistake in its input ends it with one sentence on stderr and status 2, without a traceback.

    Args:
      main: the script.
      arguments: a description of the arguments that are no flags; "": there are none.
    """
    hosts.end_with_launcher()
    sys.stdout, sys.stderr = quiet.Lasting(sys.stdout), quiet.Lasting(sys.stderr)
    app.run(lambda argv: _one_sentence(lambda: main(*_arguments(argv, arguments))), flags_parser=_parse)


def define_processes():
    """The flags of a script that may run as one of several processes, for `join`."""
    return (
        flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0, the same for all processes"),
        flags.DEFINE_integer("processes", 0, "number of processes; with --coordinator", 0, 2**20),
        flags.DEFINE_integer("process", -1, "index of this process, from 0; with --coordinator", -1, 2**20),
        flags.DEFINE_bool("distributed", False, "join the processes that JAX detects, as on a TPU pod slice"),
    )


def join(processes):
    """Joins the other processes, given by the flags of `define_processes` or the environment; does nothing for one process."""
    coordinator, number, process, distributed = (flag.value for flag in processes)
    hosts.initialize(coordinator, number, process, distributed=distributed)


def define_modules():
    """The flag of a script that opens a run: modules to import before, because a folder does not choose what code runs."""
    return flags.DEFINE_list("modules", [], "modules that the run names and you trust, imported first: my_method")


def output_folder(flag):
    """The folder of results that a flag names, which is made. A script asks before it works for long, after all other checks.

    Raises:
      InputError: if it cannot be made.
    """
    path = buckets.path(flag.value)
    folders.check_path(path, f"--{flag.name}")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typing.InputError(f"--{flag.name}={path} cannot be made ({error.strerror}); give another folder.") from error
    return path


def check_normal_noise(run, what):
    """Raises InputError unless a trained run is on R^n with noise that is normal about 0; `what` needs it, in words with their verb."""
    if run.path.space is not spaces.euclidean or run.path.centres:
        raise typing.InputError(f"{what} for R^n with normal noise, and this run is on {run.settings.method.path!r}.")


# Which jumps of a run lead ahead, by what its method learns (MethodInfo.jumps): all of them, those to the data, one from noise to data,
# or random ones of a stochastic map. A run without jumps takes Euler steps along its velocity.
_AHEAD = {"any": "any", "none": "any", "to data": "to data", "laws": "to data", "transitions": "transitions"}
_AHEAD |= dict.fromkeys(("from noise", "levels", "grid"), "from noise")


def looks_ahead(run, what):
    """Which jumps of a run lead ahead: "any", "to data" (from all levels), "from noise" (to data, one jump) or "transitions".

    Raises:
      InputError: for a run whose map has no such jumps, or that is on another path than the linear one; `what` needs them, in words
        with their verb.
    """
    name, info = run.settings.method.name, methods.info(run.settings.method.name)
    steps = info.eval_steps(run.settings.method.constants)
    if info.jumps not in _AHEAD or (steps and 1 not in steps):
        raise typing.InputError(
            f"{what} for maps that jump from noise to data, and {name} learns {info.learns}; expected meanflow, lsd, ..."
        )
    if run.path is not paths.linear:
        raise typing.InputError(
            f"{what} for the linear path with noise of deviation 1, and this run is on {run.settings.method.path!r}."
        )
    return _AHEAD[info.jumps]


def map_of(run, labels, guidance=None):
    """The average velocity of a run for what looks ahead, V(x, s, t): of one without jumps its velocity, an Euler step."""
    V = run.V(labels, guidance)
    return V if methods.info(run.settings.method.name).learns_jumps else lambda x, s, t: V(x, s, s)


def whole_numbers(name, values, low, needed=False, high=MOST):
    """Flag values as ints, () for none. Raises InputError if one is not from `low` to `high`, or if there is none and `needed`."""
    try:
        given = tuple(int(value) for value in values)
    except ValueError:
        given = (low - 1,)
    if (needed and not given) or any(not low <= number <= high for number in given):
        most = "" if high == MOST else f" and at most {high:,}"
        example = ",".join(str(max(low, 1) * number) for number in (1, 2, 4))
        raise typing.InputError(
            f"--{name}={','.join(values):.100}: expected whole numbers of at least {low}{most}, e.g. --{name}={example}."
        )
    return given


def numbers(name, values, count=None):
    """Flag values as floats, () for none. Raises InputError if one is no number, or if there are not `count` (None: any)."""
    try:
        given = tuple(float(value) for value in values)
    except ValueError:
        given = None
    if given is None or not all(map(math.isfinite, given)) or (given and count not in (None, len(given))):
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
        for name in flags.FLAGS:
            _check_value(name, flags.FLAGS[name])
        if flags.FLAGS["verbosity"].using_default_value:
            logging.set_verbosity(logging.WARNING)
        if "config" in flags.FLAGS:
            hasattr(flags.FLAGS.config, "keys")  # reads the config file, so that a missing one is an error here
            _check_overrides(flags.FLAGS.config, argv[1:])
            _follow(flags.FLAGS.config, argv[1:])
        if "modules" in flags.FLAGS:
            from flowjax.training import parts

            parts.import_modules(flags.FLAGS.modules, "--modules")
        return rest

    # Config files run while flags are parsed: they raise anything, and ml_collections reports an unknown field as an AttributeError.
    return _one_sentence(parse, Exception)


def _check_value(name, flag):
    """Raises InputError for what absl takes for a number or a list: nan, inf, and entries that are empty."""
    if not flag.present or name.startswith("config."):  # fields of a config have ranges of their own
        return
    if isinstance(flag.value, float) and not math.isfinite(flag.value):
        raise typing.InputError(f"--{name}={flag.value}: {_expected(flag)}.")
    if isinstance(flag.parser, flags.ListParser) and len(flag.value or ()) > 1 and "" in flag.value:
        raise typing.InputError(f"--{name}={','.join(flag.value)}: an entry is empty; expected one behind each comma.")


def _expected(flag):
    """What a flag takes, in words; "" for a flag whose type does not say."""
    kind = flag.flag_type()
    if kind == "string enum":
        return f"expected one of {', '.join(flag.parser.enum_values)}"
    if kind == "bool":
        return f"expected --{flag.name} or --no{flag.name}"
    if kind not in ("int", "float"):
        return ""
    number = "a whole number" if kind == "int" else "a number"
    low, high = (getattr(flag.parser, name, None) for name in ("lower_bound", "upper_bound"))
    bounds = {
        (True, True): f" from {low} to {high}",
        (True, False): f" of at least {low}",
        (False, True): f" of at most {high}",
    }
    return f"expected {number}" + bounds.get((low is not None, high is not None), "")


def _check_overrides(config, given):
    """Raises InputError for fields on the command line that have no effect, or leave what belongs to the old value."""
    names = _fields(given)
    if "method.name" in names:
        methods.info(config.method.name)
        raise typing.InputError(
            f"--config.method.name={config.method.name} would leave the constants of another method; type"
            f" --config=configs/method.py:{config.method.name},PRESET."
        )
    idle = [name for name in names if name.startswith("guidance.") and name != "guidance.kind"]
    if idle and not config.guidance.kind:
        raise typing.InputError(
            f"--config.{idle[0]} has no effect, because config.guidance.kind is ''; give a kind too:"
            f" --config.guidance.kind={' or '.join(guidance.KINDS)}."
        )


def _follow(config, given):
    """The sections of config.auxiliary become those of the networks that the method trains along with its constants from the command line."""
    from configs import common

    if not any(name.startswith("method.") for name in _fields(given)) or config.method.name not in methods.every():
        return
    along = methods.outline(**config.method.to_dict()).networks
    with config.unlocked():
        for name in set(config.auxiliary) - set(along):
            del config.auxiliary[name]
        for name in set(along) - set(config.auxiliary):
            config.auxiliary[name] = common.auxiliary(config, **along[name].optim)


def _fields(given):
    """Names of the fields of the config that the command line has."""
    return [
        flag.partition("=")[0].lstrip("-").removeprefix("config.") for flag in given if flag.lstrip("-").startswith("config.")
    ]


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
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left in the buffer
        _fail("nobody reads what this prints any more; the same command goes on from what is written.")
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            why = str(error).splitlines()[0].partition("RESOURCE_EXHAUSTED: ")[2][:160]
            _fail(
                f"the memory of the device is not enough ({why}); make the batch, the network or the numbers of samples smaller."
            )
        if not jax.distributed.is_initialized() or not re.search(PEER_DIED, str(error), re.I):
            raise
        why = str(error).splitlines()[0][:120]
        print(f"error: another process of this run died ({why}); start all of them again.", file=sys.stderr)
        _leave(EXIT_PEER_DIED)
    except (typing.InputError, NonFiniteError, SaveError, log.RecompilationError, flags.Error, OSError, *expected) as error:
        _fail(_sentence(error))
    except MemoryError as error:
        _fail(
            f"the memory of this machine is not enough ({str(error)[:160]}); make the batch, the network or the samples smaller."
        )
    except RuntimeError as error:
        if "maximum number of solver steps" in str(error):
            _fail(
                "the adaptive solver takes too many steps at this tolerance; give a larger one: --sampler=adaptive:rtol=1e-3."
            )
        if "nable to initialize backend" not in str(error):
            raise
        _fail(
            f"JAX finds no such device ({' '.join(str(error).split())[:200].rstrip('.')}); JAX_PLATFORMS is"
            f" {os.environ.get('JAX_PLATFORMS', '')!r}, expected cpu, cuda or tpu, or leave it out."
        )


def _fail(sentence):
    shown = re.sub(r"(\S{300})\S{100,}", r"\1...", sentence)
    print(f"error: {shown}", file=sys.stderr)
    _leave(2)


def _leave(status):
    """Ends the process. One of several skips JAX's exit handlers, which would wait for processes that wait for this one."""
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _sentence(error):
    """An error in one line: a mistake in a person's own file with its place, and without the lines of libraries."""
    errors = list(origins.chain(error))[
        ::-1
    ]  # the first that was raised first; ml_collections raises others with its traceback
    for one in errors:
        if isinstance(one, typing.InputError):
            return " ".join(str(one).split())
    for one in errors:
        if isinstance(one, SyntaxError) or _own_frames(one):
            return "the config file fails: " + origins.where(one) + "."
    if isinstance(error, flags.Error):
        return _flag_sentence(error)
    for one in errors:
        if isinstance(one, OSError) and one.filename is not None and one.strerror:
            return f"{one.filename} cannot be read or written: {one.strerror}."
        if isinstance(one, AttributeError) and one.name == "get_config":
            return "the config file has no function get_config(preset); expected FILE.py:PRESET, such as configs/meanflow.py:digits."
    cause = error.args[0] if error.args else error
    if isinstance(error, KeyError) or isinstance(cause, KeyError):
        return "the config has no field " + str(cause).strip("\"'") + "."
    text = " ".join((str(error) if isinstance(error, OSError) else str(cause)).split())
    if of_system := re.search(r"\[Errno \d+\] (.*): '(.*)'", text):  # in the words of another error
        return f"{of_system[2]} cannot be read or written: {of_system[1]}."
    return text if text.endswith((".", ")", "?")) else f"{text}."


def _flag_sentence(error):
    """An error of absl about a flag, as we would say it."""
    text = " ".join(str(error).split())
    about = re.match(r"flag --([\w.]+)=(.*?): ", text)
    if not about or about[1] not in flags.FLAGS:
        return text.rstrip(".?") + "."
    name, value = about.groups()
    if value == "None":
        return f"--{name} is missing; type --{name}=VALUE, and see --help."
    return f"--{name}={value}: {_expected(flags.FLAGS[name]) or text[about.end() :].rstrip('.')}."


def _own_frames(error):
    return [
        frame for frame in origins.own_frames(error) if pathlib.Path(frame.filename).parent != pathlib.Path(__file__).parent
    ]
