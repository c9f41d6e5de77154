"""Whether the fields of a config fit together: one function a question, all in CHECKS, before anything is compiled or written.

A check is `(settings, facts) -> None` and raises InputError. `facts` is a flowjax.training.runs.Facts: the mesh, the method, the
data, the network and the other runs that the settings name, each loaded or made when a check first reads it. So the order of
CHECKS goes from what costs nothing to what must be loaded. What a single part refuses by itself (an unknown sampler, network,
optimizer or dataset) it refuses when it is made.
"""

import math

import jax

from flowjax import (
    adapters,
    checks,
    conditioning,
    data,
    evals,
    guidance as guidances,
    methods,
    models,
    paths,
    samplers,
    spaces,
    typing,
)
from flowjax.training import averages, dealing, networks, parts, ranges, room, run_checks


def check(settings, facts):
    """Raises InputError for the first thing that does not fit."""
    for judge in CHECKS:
        judge(settings, facts)


def fields(settings, facts):
    """The network exists, and every field is in its range, see flowjax.training.ranges."""
    checks.member("network", settings.model.name, models.MODELS)
    info, network = methods.every().get(settings.method.name), models.MODELS[settings.model.name]
    registered = {  # the constants of somebody's own method or network may have the names of ours, and mean something else
        "method": info is not None and not info.paper,
        "model": not network.__module__.startswith("flowjax."),
    }
    for name, value in settings.flat():
        ranges.check(name, value, known=not registered.get(name.partition(".")[0]))
    if not registered["method"]:
        ranges.check_rising(settings.method.constants)
    if settings.seed + settings.seeds > 2**32:
        raise typing.InputError(
            f"config.seed is {settings.seed} and config.seeds {settings.seeds}; the last seed must be below 2^32, {2**32:,}."
        )


def normalisation(settings, facts):
    """Latents are normalised by name, or by numbers."""
    given = settings.data
    if given.normalisation and data.Scaling.of(given.mean, given.deviation) != data.Scaling():
        raise typing.InputError(
            f"config.data.normalisation is {given.normalisation!r}, and config.data has the mean {given.mean} and the deviation"
            f" {given.deviation} besides; expected one of both: --config.data.mean=0.0 --config.data.deviation=1.0."
        )


def evaluation_averages(settings, facts):
    """The entries of config.ema are averages."""
    for entry in settings.evaluation.averages:
        averages.decay(entry)


def evaluation_steps(settings, facts):
    """The sampler takes each number of steps of an evaluation."""
    for number in settings.evaluation.steps:
        samplers.check_sampler(settings.evaluation.sampler, number, settings.evaluation.grid, settings.method.path)


def evaluation_guidance(settings, facts):
    """The network takes the guidance of an evaluation."""
    given = settings.evaluation
    if not given.guidance and not given.interval:
        return
    try:
        parts.sampling_inputs(settings.guidance, given)
    except typing.InputError as error:
        raise typing.InputError(
            f"config.eval_guidance is {given.guidance} and config.eval_interval {given.interval}: {error}"
        ) from error


def guidance(settings, facts):
    """The fields of config.guidance are those of its kind, and in their ranges."""
    given, idle = settings.guidance, settings.guidance._field_defaults
    if not given.kind:
        return _unused("guidance", given, "kind", guidances.KINDS)
    checks.member("config.guidance.kind", given.kind, guidances.KINDS)
    known = {*guidances.TARGETS[given.kind].constants} if given.kind in guidances.TARGETS else {"interval"}
    known |= {"kind", "scale", *(["weak"] if given.kind == "autoguidance" else [])}
    for name, value in given._asdict().items():
        if name not in known and value != idle[name]:
            raise typing.InputError(
                f"config.guidance.{name} is {value!r}, and {given.kind!r} has no use for it: it takes"
                f" {', '.join(sorted(known - {'kind'}))}; --config.guidance.{name}={idle[name]} clears it."
            )
    expected = "scales (low, high) of at least 1, equal for a fixed one: (1.5, 1.5)"
    _ordered("config.guidance.scale", given.scale, 1.0, float("inf"), expected)
    if tuple(given.scale) == (1.0, 1.0):
        raise typing.InputError(
            f"config.guidance.scale is (1.0, 1.0), no guidance, and the kind is {given.kind!r}; expected {expected}."
        )
    _ordered("config.guidance.interval", given.interval, 0.0, 1.0, "times (low, high) between 0 and 1: (0.0, 1.0)")
    if given.interval[0] == given.interval[1]:
        raise typing.InputError(f"config.guidance.interval is {given.interval!r}, which is empty; expected low < high.")


def adversary(settings, facts):
    """The fields of config.adversary have a game, and the method learns jumps to data in R^n without guidance."""
    given, info, path = settings.adversary, methods.info(settings.method.name), settings.method.path
    if not given.game:
        return _unused("adversary", given, "game", methods.GAMES)
    if settings.guidance.kind or not info.learns_jumps or path != "linear":
        raise typing.InputError(
            f"config.adversary judges jumps on the path 'linear' without guidance, and {settings.method.name!r} learns {info.learns} on"
            f" {path!r}, with the guidance {settings.guidance.kind!r}: --config.adversary.game= for none."
        )


def adapter(settings, facts):
    """The fields of config.adapter have a rank, and the factors weights beside which they are trained."""
    given = settings.adapter
    if not given.rank:
        return _unused("adapter", given, "rank", ("8",))
    for field in ("at", "whole"):
        adapters.pattern(field, getattr(given, field))
    if not settings.start and facts.traces_step:
        raise typing.InputError(
            f"config.adapter.rank is {given.rank}, and config.start is empty, so that there are no weights beside which factors could be"
            " trained; give the folder of a run: --config.start=runs/NAME."
        )


def _unused(section, given, switch, known):
    """Raises InputError unless the fields of a section that is switched off have their defaults."""
    for name in [name for name, default in given._field_defaults.items() if getattr(given, name) != default]:
        raise typing.InputError(
            f"config.{section}.{name} is {getattr(given, name)!r}, and config.{section}.{switch} is {getattr(given, switch)!r};"
            f" expected a {switch}: --config.{section}.{switch}={' or '.join(known)}."
        )


def inputs(settings, facts):
    """The inputs that say how a row is guided follow from config.guidance; of a fixed scale the network may have it as an input, too."""
    for name in settings.model.inputs:
        if name in conditioning.GUIDANCE and not (name == "guidance" and settings.guidance.kind in guidances.TARGETS):
            raise typing.InputError(
                f"config.model.inputs has {name!r}, which follows from config.guidance: leave it out, and give scales of different"
                " size, --config.guidance.scale=1.0,4.0 (the kind imf has the interval as input, too)."
            )
    missing = [name for name in methods.info(settings.method.name).inputs if name not in settings.model.inputs]
    if missing:
        raise typing.InputError(
            f"{settings.method.name} conditions the network on {' and '.join(missing)}, and config.model.inputs is"
            f" {settings.model.inputs!r}; expected --config.model.inputs={','.join((*settings.model.inputs, *missing))}."
        )


def augmentation(settings, facts):
    """A network that learns from augmented images has what was done to them as an input."""
    if settings.data.augment and "augmentation" not in settings.model.inputs:
        raise typing.InputError(
            f"config.data.augment is {settings.data.augment!r}, and config.model.inputs lacks 'augmentation', so that samples would be"
            " augmented, too: --config.model.inputs=augmentation, or --config.data.augment= for none."
        )


def batch(settings, facts):
    """Every device gets rows, and each part of the batch all terms."""
    dealing.check(facts.mesh, settings.batch_size, facts.method, settings.accumulate)


def memory(settings, facts):
    """The rows of a batch, and those of an evaluation, fit into the memory of the devices and of this machine."""
    if not facts.traces_step:  # its devices do not exist
        return
    row = 4 * math.prod(facts.source.shape)
    parts, coupled = jax.process_count(), 1 + bool(settings.data.coupling)
    rows = settings.batch_size * settings.seeds * coupled
    device = facts.mesh.devices.flat[0]
    use = f"config.batch_size {settings.batch_size:,}" + (f" of {settings.seeds:,} seeds" if settings.seeds > 1 else "")
    room.check_device(f"{use}: the rows of a batch", rows * row // facts.mesh.devices.size, device)
    room.check_host(f"{use}: the rows of a batch", rows * row // parts)
    if facts.sources[1] is not None:
        count = settings.evaluation.samples * len(settings.evaluation.steps)
        room.check_host(f"config.eval_samples {settings.evaluation.samples:,}: the samples", count * row)


def labels(settings, facts):
    """Guidance inside the target needs labels, and a share of them dropped, to learn the velocity without a label."""
    kind = settings.guidance.kind
    if kind not in guidances.TARGETS:
        return
    if not facts.source.num_classes:
        raise typing.InputError(
            f"config.guidance.kind is {kind!r}, and {settings.data.name} has no labels, so that there is nothing to guide towards:"
            " --config.guidance.kind= clears it."
        )
    if not settings.method.constants.get("label_drop", 0.0):
        raise typing.InputError(
            f"config.guidance.kind is {kind!r}, and config.method.label_drop is 0: the network would not learn the velocity without a"
            " label, away from which it is guided; --config.method.label_drop=0.1."
        )


def batches(settings, facts):
    """The data give batches of this size to so many processes."""
    flip, processes = settings.data.flip, jax.process_count()
    data.check(facts.source, batch_size=settings.batch_size, seed=settings.seed, flip=flip, processes=processes)


def features(settings, facts):
    """config.data.features is "" or names a network, with the file of its weights, and the rows are images."""
    wanted = settings.data.features
    if wanted:
        evals.features.check(wanted)
        if len(facts.source.shape) != 3:
            raise typing.InputError(
                f"config.data.features is {wanted!r:.200}, and rows of {settings.data.name} have the shape {facts.source.shape}; expected"
                " images, or --config.data.features=."
            )


def best(settings, facts):
    """config.best is "" or a number that an evaluation during training measures on such data."""
    wanted, evaluated = settings.evaluation.best, settings.evaluation
    views = evals.measures.views(facts.source.shape, bool(facts.source.features), facts.source.space)
    names = evals.measures.suited(views, during_training=True)
    known = [f"{steps}step/{name}" for steps in evaluated.steps for name in names] if evaluated.every else []
    if wanted and wanted not in known:
        raise typing.InputError(
            f"config.best is {wanted!r}; expected the measure by which the best checkpoint is kept, "
            + (
                f"one of {', '.join(known)}, or '' for none."
                if known
                else "and config.eval_every is 0, so that nothing is measured: --config.best=."
            )
        )


def categories(settings, facts):
    """Rows of one-hot tokens go with networks for sequences, methods for categories with networks that predict logits."""
    tokens, model, name = len(facts.source.shape) == 2, settings.model, settings.data.name
    ours = models.MODELS[model.name].__module__.startswith("flowjax.")
    if ours and tokens != (model.name in models.SEQUENCES):
        fit = models.SEQUENCES if tokens else [known for known in models.MODELS if known not in models.SEQUENCES]
        raise typing.InputError(
            f"config.model.name is {model.name!r}, and rows of {name} have the shape {facts.source.shape}; expected"
            f" {' or '.join(fit)}."
        )
    needs = "logits" in facts.method.needs
    if (needs or model.parameterisation == "categorical") and not tokens:
        raise typing.InputError(
            f"config.method.name is {settings.method.name!r} and config.model.parameterisation {model.parameterisation!r}, for categories,"
            f" and rows of {name} have the shape {facts.source.shape}; expected rows of one-hot tokens:"
            " --config=configs/tokens.py:csd,digits."
        )
    if needs and model.parameterisation != "categorical":
        raise typing.InputError(
            f"{settings.method.name!r} learns logits, and config.model.parameterisation is {model.parameterisation!r}:"
            " --config.model.parameterisation=categorical."
        )


def space(settings, facts):
    """The path is in the space of the data, and the method's losses hold there; most are written for R^n."""
    path, info = paths.path_from_name(settings.method.path), methods.info(settings.method.name)
    if path.space.name != facts.source.space:
        fit = [name for name, other in paths.PATHS.items() if other.space.name == facts.source.space] or [facts.source.space]
        raise typing.InputError(
            f"config.method.path is {settings.method.path!r}, in the space {path.space.name!r}, and {settings.data.name} is in"
            f" {facts.source.space!r}; expected a path of it: --config.method.path={' or '.join(fit)}."
        )
    if path.space is spaces.euclidean:
        return
    if not info.any_space:
        raise typing.InputError(
            f"the losses of {settings.method.name!r} are written for R^n, and {settings.data.name} is in the space {path.space.name!r}; expected"
            f" a method whose losses hold there: {' or '.join(name for name, other in methods.METHODS.items() if other.any_space)}, or"
            " one that is registered with any_space=True."
        )
    if settings.data.coupling == "ot":
        raise typing.InputError(
            f"config.data.coupling is 'ot', which pairs rows with normal noise, and {settings.data.name} is in the space"
            f" {path.space.name!r}: --config.data.coupling= clears it."
        )


def coupling(settings, facts):
    """A method that starts from noise alone reads no coupling; the noise of a coupling has the deviation of the path's."""
    path, brought = paths.path_from_name(settings.method.path), settings.data.coupling
    if path.noise != 1 and (brought == "ot" or facts.source.coupled and not brought):
        raise typing.InputError(
            f"config.method.path is {settings.method.path!r}, and {'the coupling' if brought else 'the dataset'}"
            f" {brought or settings.data.name!r} brings noise of deviation 1: --config.method.path="
            f"{settings.method.path.partition(':')[0]}."
        )
    if settings.data.coupling and not methods.info(settings.method.name).reads_data:
        raise typing.InputError(
            f"config.data.coupling is {settings.data.coupling!r}, and {settings.method.name!r} learns from noise alone:"
            " --config.data.coupling= clears it."
        )


def auxiliary(settings, facts):
    """config.auxiliary has exactly the networks that the method trains along with V."""
    needed, name = facts.method.networks, settings.method.name
    for network in needed:
        if network not in settings.auxiliary:
            raise typing.InputError(
                f"method {name!r} trains the network {network!r} along, and config.auxiliary has"
                f" {', '.join(settings.auxiliary) or 'none'}; add config.auxiliary.{network} = common.auxiliary(config)."
            )
    for network in settings.auxiliary:
        if network not in needed:
            raise typing.InputError(
                f"config.auxiliary has {network!r}, and method {name!r} trains {', '.join(needed) or 'none'} along;"
                " delete it from the config."
            )


def heads(settings, facts):
    """A method that trains several heads has a network with them."""
    if "heads" in facts.method.needs and networks.heads(facts.method, facts.net) is None:
        raise typing.InputError(
            f"the method needs heads by name, and a {settings.model.name} has one head; expected a network with HEADS and `named_heads(x, s, t, cond) -> dict`."
        )
    if "both" in facts.method.needs and not models.two_headed(facts.net):
        raise typing.InputError(
            f"config.method.heads is 2, and a {settings.model.name} that predicts {settings.model.parameterisation!r} has one head;"
            " expected a mit that predicts 'velocity' or 'denoised_field', as in --config=configs/network.py:imf,mit, or"
            " --config.method.heads=1."
        )


def _ordered(name, pair, least, most, expected):
    both = isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(value, (int, float)) for value in pair)
    if not both or not least <= pair[0] <= pair[1] <= most or math.isinf(pair[1]):
        raise typing.InputError(f"{name} is {pair!r}; expected {expected}.")


CHECKS = (
    fields,
    normalisation,
    evaluation_averages,
    guidance,
    adversary,
    adapter,
    inputs,
    augmentation,
    batch,
    memory,
    evaluation_steps,
    evaluation_guidance,
    labels,
    batches,
    features,
    best,
    categories,
    space,
    coupling,
    auxiliary,
    heads,
    run_checks.teacher,
    run_checks.exact_teacher,
    run_checks.trained_teacher,
    run_checks.weak_teacher,
    run_checks.start,
)
