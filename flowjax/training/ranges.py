"""What each field of a config may be: one table, a line a field, with the words of its error.

To add a field, add its line: FIELDS for those of the config itself, MODEL, METHOD, OPTIM and KWARGS for those that several sections
share. A test fails for a field of a preset that has no line. Fields of methods and networks that somebody registered need none:
they must only be finite.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from flowjax import typing

MOST = 2**31 - 1  # of a whole number: steps are counted in 32 bits
LONGEST_TEXT = 4_000  # characters; paths end there
FLOAT32 = 3.4e38  # about the largest number of single precision
LARGEST = 1e9  # of a number that is not whole: its square, and its product with another, stay within single precision


class Range(NamedTuple):
    """Which values fit, and the words for them."""

    fits: Callable[[Any], bool]
    words: str


def whole(low: int = 0, high: int = MOST) -> Range:
    """Whole numbers from `low` to `high`."""
    fits = lambda value: isinstance(value, (int, np.integer)) and not isinstance(value, bool) and low <= value <= high
    most = "" if high == MOST else f" and at most {high:,}"
    return Range(fits, f"a whole number of at least {low}{most}")


def number(low: float = -FLOAT32, high: float = FLOAT32, *, above: bool = False, below: bool = False, words: str = "") -> Range:
    """Numbers from `low` to `high`; without `low` itself if `above`, without `high` if `below`."""

    def fits(value: Any) -> bool:
        known = isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and math.isfinite(value)
        return known and (low < value if above else low <= value) and (value < high if below else value <= high)

    parts = [f"{'above' if above else 'of at least'} {low:g}"] if low > -FLOAT32 else []
    parts += [f"{'below' if below else 'at most'} {high:g}"] if high < FLOAT32 else []
    return Range(fits, words or " ".join(["a number", " and ".join(parts)]).strip())


def each(one: Range, words: str, *, least: int = 0) -> Range:
    """Tuples whose entries fit."""
    listed = lambda value: isinstance(value, (tuple, list)) and len(value) >= least and all(one.fits(part) for part in value)
    return Range(listed, words)


def either(first: Range, second: Range) -> Range:
    """What fits one of two ranges."""
    return Range(lambda value: first.fits(value) or second.fits(value), f"{first.words}, or {second.words}")


def is_text(value: Any) -> bool:
    """Whether a value is a text that a path or a name can be."""
    return isinstance(value, str) and "\0" not in value and len(value) <= LONGEST_TEXT


def is_times(value: Any) -> bool:
    """Whether a value names a sampler of times with constants that it can have, see flowjax.times.SAMPLERS."""
    if not isinstance(value, (tuple, list)) or not value:
        return False
    name, *arguments = value
    known = TIMES.get(name) if isinstance(name, str) else None
    if known is None:  # one that somebody registered, or none, which its maker refuses by name
        return True
    return len(arguments) <= len(known) and all(one.fits(argument) for one, argument in zip(known, arguments))


TEXT = Range(is_text, f"a text of at most {LONGEST_TEXT:,} characters")
FLAG = Range(lambda value: isinstance(value, bool), "True or False")
NONE = Range(lambda value: value is None, "None")
POSITIVE, NOT_NEGATIVE, SHARE = number(0, above=True), number(0), number(0, 1)
# Shares of rows are texts, "3/4" or "both"; their recipe reads them.
ROWS = Range(lambda value: is_text(value), 'a share of the rows between 0 and 1, as a string, "3/4", or "both"')
SAMPLER = Range(is_times, "a time sampler with constants in their ranges: ('logit_normal', -0.4, 1.0) has a deviation above 0")
DEVIATION, TIME = number(0, 100, above=True), number(0, 1)
# Constants of the samplers of times, in their order.
TIMES: dict[str, tuple[Range, ...]] = {
    "uniform": (TIME, TIME),
    "logit_normal": (number(-100, 100), DEVIATION),
    "arctan_log_normal": (number(-100, 100), DEVIATION),
    "u_shaped": (number(0, 80, above=True), TIME, number(0, 0.5, below=True)),
    "mixed": (SHARE, SAMPLER, SAMPLER),
    "sorted_pair": (SAMPLER,),
    "two_sided": (SAMPLER, SAMPLER, TIME),
    "gap_first": (number(-100, 100), DEVIATION, number(-100, 100), DEVIATION),
    "uniform_triangle": (),
    "uniform_square": (),
    "sorted_sides": (SAMPLER, SAMPLER),
    "gap_uniform": (SAMPLER,),
    "gap_below": (SAMPLER, SAMPLER, TIME, TIME),
    "target_first": (SAMPLER,),
    "even_decoding": (whole(2, 2**16), SAMPLER),
    "dyadic": (whole(2, 2**20),),
    "even_grid": (whole(1, 10**6),),
    "karras": (whole(2, 10**6), POSITIVE, POSITIVE, number(0, 100, above=True)),
    "fixed": (TIME,),
}

FIELDS: dict[str, Range] = {
    "modules": each(TEXT, "names of modules in a tuple: ('my_method',)"),
    "seed": whole(0, 2**32 - 1),
    "seeds": whole(1, 2**16),
    "steps": whole(1),
    "batch_size": whole(1),
    "accumulate": whole(1),
    "mesh.data": either(whole(1, 2**24), whole(-1, -1)),
    "mesh.fsdp": whole(-1, 2**24),
    "communication": Range(lambda value: value in ("", "bfloat16"), '"" for the dtype of the weights, or "bfloat16"'),
    "ema": each(
        either(number(0, 1, below=True), Range(lambda value: is_text(value) and bool(value), "a text with options")),
        "decays of at least 0 and below 1, e.g. (0.999,)",
    ),
    "log_every": whole(1),
    "eval_every": whole(0),
    "eval_samples": whole(8),
    "eval_steps": each(whole(1, 10_000), "numbers of steps of at least 1 and at most 10,000: (1, 2, 4)", least=1),
    "eval_guidance": number(0, 1_000),
    "eval_interval": each(number(0, 1), "times (low, high) between 0 and 1, or () for the widest"),
    "sampler": TEXT,
    "grid": TEXT,
    "save_every": whole(1),
    "keep": whole(1),
    "best": TEXT,
    "max_nonfinite_steps": whole(0),
    "teacher": TEXT,
    "start": TEXT,
    "data.name": TEXT,
    "data.dir": TEXT,
    "data.flip": FLAG,
    "data.labels": FLAG,
    "data.even": FLAG,
    "data.coupling": TEXT,
    "data.augment": TEXT,
    "data.features": TEXT,
    "data.normalisation": TEXT,
    "data.mean": either(number(), each(number(), "a number a channel", least=1)),
    "data.deviation": either(number(0, above=True), each(number(0, above=True), "numbers above 0, one a channel", least=1)),
    "guidance.kind": TEXT,
    "guidance.scale": each(number(), "scales (low, high) of at least 1, equal for a fixed one: (1.5, 1.5)", least=2),
    "guidance.interval": each(number(), "times (low, high) between 0 and 1: (0.0, 1.0)", least=2),
    "guidance.weak": TEXT,
    "guidance.k": number(0, 1, below=True, words="a share of at least 0 and below 1"),
    "guidance.power": number(0, words="the power of a density w^-power of scales, at least 0"),
    "guidance.mix": number(0, 1, above=True, words="a share above 0 and up to 1"),
    "guidance.decay": number(0, 1, above=True, words="a time above 0 and up to 1"),
    **dict.fromkeys(("adversary.game", "adversary.at", "adversary.network"), TEXT),
    **dict.fromkeys(
        ("adversary.weight", "adversary.r1", "adversary.r2", "adversary.probe", "adversary.learning_rate"), NOT_NEGATIVE
    ),
    **dict.fromkeys(("adversary.times", "adversary.noised"), SAMPLER),
    "adversary.balanced": FLAG,
    "adversary.most": POSITIVE,
    "adversary.student_every": whole(1, 10_000),
    "adapter.rank": whole(0, 2**16),
    "adapter.scale": number(0, 1e6, above=True),
    **dict.fromkeys(("adapter.at", "adapter.whole"), TEXT),
}
# Fields of config.optim, and of each entry of config.auxiliary.
OPTIM: dict[str, Range] = {
    "name": TEXT,
    "learning_rate": number(0, 1_000, above=True),
    "schedule": TEXT,
    "warmup_steps": whole(0),
    "clip_norm": NOT_NEGATIVE,
    "every": whole(1, 10_000),
}
_DECAY = number(0, 1, below=True)
# Arguments of optimizers, config.optim.kwargs; others must only be finite.
KWARGS: dict[str, Range] = {
    **dict.fromkeys(("b1", "b2", "b3", "beta1", "beta2", "beta3", "decay", "momentum", "ns_beta", "decay_rate"), _DECAY),
    **dict.fromkeys(("adam_b1", "adam_b2"), _DECAY),
    "consistent_rms": either(POSITIVE, NONE),
    **dict.fromkeys(("eps", "eps_root", "eps2", "weight_decay", "epsilon", "initial_accumulator_value", "eta"), NOT_NEGATIVE),
    **dict.fromkeys(("momentum", "b3"), either(_DECAY, NONE)),
    **dict.fromkeys(("nesterov", "centered", "bias_correction", "cautious"), FLAG),
}
_SIZE, _LAYERS = whole(1, 2**16), whole(1, 1_000)
# Fields of the networks of flowjax.models.
MODEL: dict[str, Range] = {
    "name": TEXT,
    "parameterisation": TEXT,
    "inputs": each(TEXT, "names of inputs in a tuple: ('level',)"),
    "size": TEXT,
    "width": _SIZE,
    "channels": _SIZE,
    "bottleneck": whole(0, 2**16),
    "depth": _LAYERS,
    "head_depth": _LAYERS,
    "source_depth": whole(0, 1_000),
    "blocks": whole(1, 100),
    "heads": whole(1, 1_024),
    "harmonics": whole(1, 24),
    "periodic": FLAG,
    "columns": whole(0, 2**16),
    "patch": whole(1, 1_024),
    "features": whole(1, 1_024),
    "evidence": FLAG,
    "unroll": _LAYERS,
    "multipliers": each(whole(1, 64), "multiples of the channels in a tuple, one a resolution: (2, 2, 2)", least=1),
    "attention_at": each(_SIZE, "sides of images in a tuple: (16,)"),
    "embedding": whole(1, 1_024),
    "mlp_ratio": number(0, 64, above=True),
    "time_scale": number(0, 1e6, above=True),
    "dropout": number(0, 1, below=True),
    "scale_output": FLAG,
    "hidden_multiple": whole(1, 2**16),
    "class_tokens": whole(1, 1_024),
    "codes": whole(1, 1_024),
    "code_values": whole(1, 2**16),
    "frequencies": whole(1, 64),
    "resample": each(whole(1, 64), "taps of a filter in a tuple: (1, 1)", least=1),
    "last_scale": NOT_NEGATIVE,
    "attention": TEXT,
    "positions": TEXT,
    "remat": TEXT,
    "embedder_init": TEXT,
    "dtype": TEXT,
}
_SIGMA = number(0, 1e6, above=True)
# Constants of the methods of flowjax.methods, by their names.
METHOD: dict[str, Range] = {
    "name": TEXT,
    "total_steps": whole(1),
    **dict.fromkeys(("times", "anchor_times", "correction_times", "fake_times", "discriminator_times", "a", "level"), SAMPLER),
    **dict.fromkeys(("diagonal", "correction"), ROWS),
    **dict.fromkeys(
        ("path", "jvp", "distance", "solver", "teacher", "velocity", "anchor", "rule", "estimate", "measure", "held_by"), TEXT
    ),
    **dict.fromkeys(("ordinary", "adapted"), SHARE),
    **dict.fromkeys(("divergence_weight", "temperature", "tau"), POSITIVE),
    "sigma": number(1e-3, 1e3),
    "noise": number(0, 1e3),
    "inner": whole(1, 1_000),
    "power": number(0, 100, above=True),
    "perceptual": either(TEXT, NONE),
    **dict.fromkeys(("uniform_share", "perceptual_below", "least_step", "floor"), SHARE),
    "label_drop": SHARE,
    "ema": either(_DECAY, Range(lambda value: is_text(value) and bool(value), "a text with options")),
    "p": number(0, 10),
    "c": either(POSITIVE, NONE),
    "correction_c": POSITIVE,
    "log_variance_bound": either(POSITIVE, NONE),
    **dict.fromkeys(("a_start", "a_end", "first_limit", "last_limit"), number(0, 1, above=True)),
    "warmup": SHARE,
    "start": number(
        -1_000, 1, words="a share of the training below its end; negative if the span began in a run before this one"
    ),
    "end": SHARE,
    "steepness": number(0, 1e4, above=True),
    "snap": number(0, 0.5, above=True, below=True),
    "clip": POSITIVE,
    "tangent_clip": either(POSITIVE, NONE),
    "near_data": SHARE,
    "heads": whole(1, 2),
    "warmup_steps": whole(0),
    **dict.fromkeys(("first_levels", "last_levels", "levels"), whole(2, 10**6)),
    **dict.fromkeys(("sigma_min", "sigma_max"), _SIGMA),
    "rho": number(0, 100, above=True),
    "mean": number(-100, 100),
    "std": DEVIATION,
    "q": number(1, 1e3, above=True),
    "k": number(0, 1e3),
    "stages": whole(1, 64),
    "steps": whole(1, 10_000),
    "teacher_steps": whole(1, 10_000),
    "student_steps": whole(1, 64),
    "student_every": whole(1, 10_000),
    **dict.fromkeys(("fake_loss", "divergence", "reward"), TEXT),
    **dict.fromkeys(("adversarial", "discriminator", "regression", "strength", "scale", "average", "round_trip"), NOT_NEGATIVE),
    "guidance": number(1, 1_000),
    "bins": whole(0, 1_000),
    "alpha": POSITIVE,
    "delta": number(0, 1, above=True, below=True),
    "boundary": NOT_NEGATIVE,
    "sections": whole(2, 2**20),
    "cfg": number(1, 1_000),
    "learned_weight": FLAG,
    "label_smoothing": number(0, 1, below=True),
    **dict.fromkeys(("classification", "energy", "rule_weight"), NOT_NEGATIVE),
    "warp": either(whole(0, 0), whole(2, 2**16)),
    # Of groups of samples.
    **dict.fromkeys(("kernel", "features", "memory", "game", "network"), TEXT),
    **dict.fromkeys(("widths", "temperatures"), each(POSITIVE, "numbers above 0 in a tuple: (0.1, 0.5)", least=1)),
    **dict.fromkeys(("unbiased", "normalised", "second"), FLAG),
    **dict.fromkeys(("group", "candidates", "iterations", "queue"), whole(1, 2**20)),
    "epsilon": POSITIVE,
    **dict.fromkeys(("reject", "r1", "r2", "probe", "penalty", "centre", "ot", "distillation"), NOT_NEGATIVE),
    **dict.fromkeys(("ot_start", "ot_end"), SHARE),
    "b": number(-100, 100),
    "decay": _DECAY,
    **dict.fromkeys(("noised", "distillation_times"), SAMPLER),
}
# Fields of config.method of which the first must be below the second.
RISING = (("sigma_min", "sigma_max"), ("first_levels", "last_levels"), ("start", "end"))


def of(name: str) -> Range | None:
    """The range of a field by its name in the config, "optim.learning_rate"; None if it has none."""
    section, _, field = name.partition(".")
    if section == "auxiliary":
        return of(f"optim.{field.partition('.')[2]}")
    if name.startswith("optim.kwargs."):
        return KWARGS.get(name.removeprefix("optim.kwargs."))
    tables: dict[str, Mapping[str, Range]] = {"optim": OPTIM, "model": MODEL, "method": METHOD}
    return tables[section].get(field) if section in tables else FIELDS.get(name)


def check(name: str, value: Any, *, known: bool = True) -> None:
    """Raises InputError unless a field of the config has a value that it may have; one that is not `known` must only be finite."""
    allowed = of(name) if known else None
    if allowed is not None and not allowed.fits(value):
        raise typing.InputError(f"config.{name} is {shown(value)}; expected {allowed.words}.")
    if not finite(value):
        raise typing.InputError(f"config.{name} is {shown(value)}; expected numbers between -{LARGEST:g} and {LARGEST:g}.")


def check_rising(constants: Mapping[str, Any]) -> None:
    """Raises InputError unless the constants of a method that are the ends of something are in their order."""
    for low, high in RISING:
        if low in constants and high in constants and not constants[low] < constants[high]:
            raise typing.InputError(
                f"config.method.{low} is {constants[low]} and config.method.{high} {constants[high]}; expected the first below the second."
            )


def finite(value: Any) -> bool:
    """Whether all numbers in a value of JSON types are finite, and none is too large for single precision, see LARGEST."""
    if isinstance(value, Mapping):
        return all(map(finite, value.values()))
    if isinstance(value, (tuple, list)):
        return all(map(finite, value))
    return not isinstance(value, (int, float)) or abs(value) <= (FLOAT32 if isinstance(value, int) else LARGEST)


def shown(value: Any) -> str:
    """A value in an error, not longer than a line."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text):,} characters)"
