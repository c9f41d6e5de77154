"""The config, read once: its sections as named tuples. No other module reads an ml_collections config.

The fields keep their names of configs/common.py, where each is explained, but for those of an evaluation: `eval_every` is
`evaluation.every`, `ema` is `evaluation.averages`, and so on. Functions take the section, or the values, that they need.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from flowjax import adapters, autoencoders, checks, data, models, typing


class Data(NamedTuple):
    """config.data: the dataset, where it is kept ("": the default of TFDS), whether images are flipped, the coupling with noise, and
    what the network sees of a row: the augmentation ("": none), the mean and deviation of the scaling, and whether it sees labels;
    the features in which samples are measured ("": those of the dataset); the normalisation of latents by name, in the place of mean
    and deviation ("": none); whether each class is read as often.
    """

    name: str
    dir: str
    flip: bool
    coupling: str
    augment: str = ""
    mean: float | tuple[float, ...] = 0.0
    deviation: float | tuple[float, ...] = 1.0
    labels: bool = True
    features: str = ""
    normalisation: str = ""
    even: bool = False

    @property
    def scaling(self):
        """The flowjax.data.Scaling."""
        if self.normalisation:
            checks.member("normalisation", self.normalisation, autoencoders.NORMALISATIONS)
            named = autoencoders.NORMALISATIONS[self.normalisation]
            return data.Scaling(named.mean, named.deviation)
        return data.Scaling.of(self.mean, self.deviation)

    @property
    def preparation(self):
        """The arguments of flowjax.data.prepared."""
        return {**self.scaling._asdict(), "augment": self.augment, "coupling": self.coupling}


class Model(NamedTuple):
    """config.model: a network by name, what it predicts, its further inputs, and the other fields of its module."""

    name: str
    parameterisation: str
    inputs: tuple[str, ...]
    fields: Mapping[str, Any]


class Method(NamedTuple):
    """config.method: a key of flowjax.methods.METHODS and the constants of its recipe."""

    name: str
    constants: Mapping[str, Any]

    @property
    def path(self):
        """The name of the path; methods without the constant are on the linear one."""
        return self.constants.get("path", "linear")


class Optim(NamedTuple):
    """config.optim, or an entry of config.auxiliary over it: the optimizer of one network, see flowjax.training.state."""

    name: str
    learning_rate: float
    schedule: str
    warmup_steps: int
    clip_norm: float
    every: int
    kwargs: Mapping[str, Any]


class Guidance(NamedTuple):
    """config.guidance; the defaults are no guidance. Kinds and constants: flowjax.guidance."""

    kind: str = ""
    scale: tuple[float, float] = (1.0, 1.0)
    interval: tuple[float, float] = (0.0, 1.0)
    weak: str = ""
    power: float = 1.0
    k: float = 0.5
    mix: float = 0.25
    decay: float = 0.8


class Adversary(NamedTuple):
    """config.adversary; the defaults are no discriminator. What each means: flowjax.methods.with_adversary.

    Its optimizer is V's with the learning rate that is given here, 0.0 for V's, unless config.auxiliary has an entry "discriminator".
    """

    game: str = ""
    weight: float = 1.0
    balanced: bool = True
    at: str = ""
    most: float = 1e4
    times: tuple[Any, ...] = ("fixed", 1.0)
    noised: tuple[Any, ...] = ("fixed", 0.0)
    r1: float = 0.0
    r2: float = 0.0
    probe: float = 0.0
    student_every: int = 1
    network: str = ""
    learning_rate: float = 0.0

    @property
    def constants(self):
        """The arguments of flowjax.methods.with_adversary."""
        return {name: value for name, value in self._asdict().items() if name != "learning_rate"}


class Adapter(NamedTuple):
    """config.adapter; the defaults are none. The low-rank factors beside the weights of config.start, see flowjax.adapters."""

    rank: int = 0
    scale: float = 1.0
    at: str = adapters.KERNELS
    whole: str = ""


class Evaluation(NamedTuple):
    """config.eval_*, sampler, grid, best and ema: what is sampled and measured, during training and by default afterwards."""

    every: int
    samples: int
    steps: tuple[int, ...]
    guidance: float
    interval: tuple[float, ...]
    sampler: str
    grid: str
    best: str
    averages: tuple[float | str, ...]

    @property
    def average(self):
        """The average of the weights that is evaluated: the first entry of config.ema as a string, or "none"."""
        return str(self.averages[0]) if self.averages else "none"


class Bookkeeping(NamedTuple):
    """config.log_every, save_every, keep and max_nonfinite_steps: when the loop writes, and when it gives up."""

    log_every: int
    save_every: int
    keep: int
    max_nonfinite_steps: int


class Settings(NamedTuple):
    """A config as training sees it.

    Attributes:
      modules: names of modules to import first.
      seed, seeds: the first seed, and how many are trained side by side.
      steps, batch_size, accumulate: steps of training, rows of a global batch, parts in which it goes through the network.
      mesh: sizes of the mesh by axis.
      communication: dtype of weights that are gathered and gradients that are summed over devices; "": theirs.
      data, model, method, optim, guidance, adversary, adapter, evaluation, bookkeeping: the sections.
      auxiliary: an Optim for each network that is trained along with V.
      teacher, start: the teacher, and the weights to start from: "" for none, or see configs/common.py.
    """

    modules: tuple[str, ...]
    seed: int
    seeds: int
    steps: int
    batch_size: int
    accumulate: int
    mesh: Mapping[str, int]
    communication: str
    data: Data
    model: Model
    method: Method
    optim: Optim
    auxiliary: Mapping[str, Optim]
    guidance: Guidance
    adversary: Adversary
    adapter: Adapter
    teacher: str
    start: str
    evaluation: Evaluation
    bookkeeping: Bookkeeping

    def flat(self):
        """(name in the config, value) of every field: ("optim.learning_rate", 1e-3)."""
        for name, value in self._asdict().items():
            if name in _MOVED:
                yield from ((theirs, getattr(value, ours)) for ours, theirs in _MOVED[name].items())
            elif name in ("data", "guidance", "adversary", "adapter", "mesh"):
                yield from _entries(name, value if name == "mesh" else value._asdict())
            elif name == "model":
                yield from _entries(name, {**value._asdict(), **value.fields}, without=("fields",))
            elif name == "method":
                yield from _entries(name, {"name": value.name, **value.constants})
            elif name in ("optim", "auxiliary"):
                for prefix, optim in (
                    [("optim", value)] if name == "optim" else [(f"auxiliary.{n}", o) for n, o in value.items()]
                ):
                    yield from _entries(prefix, optim._asdict(), without=("kwargs",))
                    yield from _entries(f"{prefix}.kwargs", optim.kwargs)
            else:
                yield name, value


def _entries(section, fields, without=()):
    return ((f"{section}.{name}", value) for name, value in fields.items() if name not in without)


# Fields of the config with another name, or in another section, here: {section: {field of it: field of the config}}.
_MOVED = {
    "evaluation": {
        "every": "eval_every", "samples": "eval_samples", "steps": "eval_steps", "guidance": "eval_guidance",
        "interval": "eval_interval", "sampler": "sampler", "grid": "grid", "best": "best", "averages": "ema",
    },
    "bookkeeping": {name: name for name in Bookkeeping._fields},
}  # fmt: skip
# Fields that configs of earlier runs lack, with what they mean.
_ADDED = {"eval_guidance": 0.0, "eval_interval": (), "grid": "uniform", "adversary": {}, "adapter": {}, "communication": ""}
_FIELDS = [name for name in Settings._fields if name not in _MOVED] + [f for names in _MOVED.values() for f in names.values()]


def completed(given):
    """A config as a folder holds it, nested dicts, with the fields that it lacks because they came later, at their defaults."""
    kinds = {"data": Data, "guidance": Guidance, "adversary": Adversary, "adapter": Adapter}
    sections = {name: kind._field_defaults for name, kind in kinds.items()}
    if isinstance(given.get("model"), dict) and given["model"].get("name") in models.MODELS:
        sections["model"] = models.defaults(given["model"]["name"])
    given = _ADDED | given
    return {**given, **{name: {**defaults, **given[name]} for name, defaults in sections.items() if name in given}}


def read(config):
    """The Settings of a config.

    Args:
      config: an ml_collections config, or a mapping, with the fields of configs/common.py.

    Raises:
      InputError: for a field that is missing or not known; values are judged by flowjax.training.config_checks.
    """
    given = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    given = _ADDED | given
    _fields("config", given, _FIELDS)
    optim = _section(Optim, "config.optim", given["optim"])
    sections = {name: {ours: given[theirs] for ours, theirs in names.items()} for name, names in _MOVED.items()}
    known = {name: value for name, value in given.items() if name in Settings._fields}
    return Settings(
        **known
        | {
            "modules": _listed("config.modules", given["modules"]),
            "mesh": dict(_mapping("config.mesh", given["mesh"])),
            "data": _section(Data, "config.data", given["data"]),
            "model": _model(**_named("config.model", given["model"])),
            "method": _method(**_named("config.method", given["method"])),
            "optim": optim,
            "auxiliary": {name: _over(optim, f"config.auxiliary.{name}", some) for name, some in _auxiliary(given).items()},
            "guidance": _section(Guidance, "config.guidance", given["guidance"]),
            "adversary": _section(Adversary, "config.adversary", given["adversary"]),
            "adapter": _section(Adapter, "config.adapter", given["adapter"]),
            "evaluation": Evaluation(**sections["evaluation"]),
            "bookkeeping": Bookkeeping(**sections["bookkeeping"]),
        }
    )


def _auxiliary(given):
    """config.auxiliary, with the discriminator that config.adversary adds."""
    known, adversary = _mapping("config.auxiliary", given["auxiliary"]), _mapping("config.adversary", given["adversary"])
    rate = adversary.get("learning_rate")
    added = {"discriminator": {"learning_rate": rate} if rate else {}} if adversary.get("game") else {}
    return {**added, **known}


def _mapping(where, given):
    """`given`; raises InputError unless it is a mapping of names to values."""
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise typing.InputError(f"{where} is {given!r:.80}; expected fields by name, as in configs/common.py.")
    return given


def _listed(where, given):
    """`given` as a tuple; raises InputError unless it is a tuple or a list."""
    if not isinstance(given, (tuple, list)):
        raise typing.InputError(f"{where} is {given!r:.80}; expected a tuple, () for none.")
    return tuple(given)


def _section(kind, where, given):
    _fields(where, given, kind._fields, kind._field_defaults)
    section = kind(**given)
    if kind is Optim:
        _mapping(f"{where}.kwargs", section.kwargs)
    return section


def _over(optim, where, given):
    for name in _mapping(where, given):
        checks.member(f"field of {where}", name, Optim._fields)
    changed = optim._replace(**given)
    _mapping(f"{where}.kwargs", changed.kwargs)
    return changed


def _named(where, given):
    if not isinstance(_mapping(where, given).get("name"), str):
        raise typing.InputError(f"{where} lacks name; expected a name, a text, and the fields of what it names.")
    return given


def _model(name, parameterisation="velocity", inputs=(), **fields):
    return Model(name, parameterisation, _listed("config.model.inputs", inputs), fields)


def _method(name, **constants):
    return Method(name, constants)


def _fields(where, given, expected, defaults=()):
    """Raises InputError unless a section has the expected fields, of which those with a default may be left out, and no others."""
    for name in _mapping(where, given):
        checks.member(f"field of {where}", name, expected)
    missing = [name for name in expected if name not in given and name not in defaults]
    if missing:
        raise typing.InputError(
            f"{where} lacks {', '.join(missing)}; expected all fields of configs/common.py: config = common.base(preset,"
            " method=NAME), and then what differs."
        )
