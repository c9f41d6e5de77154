"""Whether the fields of a config fit together: one function a question, all in CHECKS, before anything is compiled or written.

A check is `(settings, facts) -> None` and raises InputError. `facts` is a flowjax.training.runs.Facts: the mesh, the method, the
data, the network and the other runs that the settings name, each loaded or made when a check first reads it. So the order of
CHECKS goes from what costs nothing to what must be loaded. What a single part refuses by itself (an unknown sampler, network,
optimizer or dataset) it refuses when it is made.
"""

import math

import jax

from flowjax import checks, conditioning, data, evals, guidance as guidances, methods, models, paths, samplers, spaces, typing
from flowjax.data import points
from flowjax.training import averages, initial_weights, networks, parts, ranges, room, sharding, teachers


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


def _unused(section, given, switch, known):
    """Raises InputError unless the fields of a section that is switched off have their defaults."""
    for name in [name for name, default in given._field_defaults.items() if getattr(given, name) != default]:
        raise typing.InputError(
            f"config.{section}.{name} is {getattr(given, name)!r}, and config.{section}.{switch} is ''; expected a {switch}:"
            f" --config.{section}.{switch}={' or '.join(known)}."
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
    """Every device gets whole columns of every term in each part of the batch."""
    sharding.check_batch(facts.mesh, settings.batch_size, facts.method, settings.accumulate)


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


def teacher(settings, facts):
    """A method that distils has a teacher, and no other has one."""
    needed, name = teacher_needs(facts.method), settings.teacher
    on_teacher = settings.guidance.kind if settings.guidance.kind in guidances.TEACHERS else ""
    if not needed:
        for field, value in (("teacher", name), ("guidance.kind", on_teacher)):
            if value:
                raise typing.InputError(
                    f"config.{field} is {value!r}, and the method has no teacher: --config.{field}= clears it."
                )
        return
    if not name:
        closed = needed == ["teacher"] and settings.data.name in points.VELOCITIES
        raise typing.InputError(
            f"the method distils a teacher's {'velocity' if needed == ['teacher'] else 'flow map'}, and config.teacher is empty; give"
            " the folder of a trained run, --config.teacher=runs/NAME"
            + (
                f", or --config.teacher={teachers.EXACT} for the closed-form velocity of {settings.data.name}."
                if closed
                else "."
            )
        )
    if on_teacher and "teacher_map" in needed:
        raise typing.InputError(
            f"config.guidance.kind is {on_teacher!r}, and the method needs the flow map of its teacher; only velocities are guided:"
            " --config.guidance.kind= clears it."
        )


def exact_teacher(settings, facts):
    """The closed-form velocity is known of some points, on the linear path, and is no flow map."""
    needed = teacher_needs(facts.method)
    if not needed or settings.teacher != teachers.EXACT:
        return
    if settings.method.path != "linear":
        raise typing.InputError(
            f"config.teacher is {teachers.EXACT!r}, the velocity on the linear path, and config.method.path is"
            f" {settings.method.path!r}; --config.method.path=linear."
        )
    if settings.data.scaling != data.Scaling():
        raise typing.InputError(
            f"config.teacher is {teachers.EXACT!r}, the velocity of data that are not scaled: --config.data.mean=0.0"
            " --config.data.deviation=1.0."
        )
    if "teacher_map" in needed:
        raise typing.InputError(
            f"config.teacher is {teachers.EXACT!r}, a velocity, and the method needs a teacher's flow map; give the folder of a trained"
            " run."
        )
    if settings.data.name not in points.VELOCITIES:
        raise typing.InputError(
            f"config.teacher is {teachers.EXACT!r}, and the velocity of {settings.data.name!r} is not known in closed form; it is for"
            f" {', '.join(points.VELOCITIES)}. Give the folder of a trained run instead."
        )


def trained_teacher(settings, facts):
    """A teacher that is a run learned the data of the student, what the student needs, and if it is guided, to do without labels."""
    needed, kind = teacher_needs(facts.method), settings.guidance.kind
    if not needed:
        return
    run = facts.teacher
    if run is not None:
        _same_data(run, settings.data, facts.source, "--config.teacher", settings.teacher)
        _unguided(run, "--config.teacher", settings.teacher)
        _knows(run, settings.method, "--config.teacher", needed[0])
    inside = kind in guidances.TARGETS and needed == ["teacher"]
    if inside or kind == "classifier_free":
        if run is None or not run.num_classes or not run.settings.method.constants.get("label_drop", 0.0):
            raise typing.InputError(
                f"config.guidance.kind is {kind!r}, and the teacher {settings.teacher} has no unconditional velocity: it must be"
                " a run on labelled data with method.label_drop above 0, e.g. 0.1."
            )


def weak_teacher(settings, facts):
    """Autoguidance has a weaker run of the same data and path."""
    folder = settings.guidance.weak
    if settings.guidance.kind != "autoguidance":
        return
    if not folder:
        raise typing.InputError(
            "config.guidance.kind is 'autoguidance', and config.guidance.weak is empty; give the folder of a weaker run:"
            " --config.guidance.weak=runs/NAME."
        )
    _same_data(facts.weak, settings.data, facts.source, "--config.guidance.weak", folder)
    _unguided(facts.weak, "--config.guidance.weak", folder)
    _knows(facts.weak, settings.method, "--config.guidance.weak", "teacher")


def start(settings, facts):
    """The weights to start from exist, and are of a network that config.model extends."""
    model, wanted = settings.model, settings.start
    if not wanted:
        return
    if initial_weights.is_published(wanted):
        if model.name not in initial_weights.FILES or model.parameterisation != "velocity":
            raise typing.InputError(
                f"config.start is {wanted!r}, and published weights are of the networks {', '.join(initial_weights.FILES)} with"
                f" parameterisation 'velocity'; config.model is {model.name!r} with {model.parameterisation!r}."
            )
        return
    if wanted == "teacher" and settings.teacher in ("", teachers.EXACT):
        raise typing.InputError(
            f"config.start is 'teacher', and config.teacher is {settings.teacher!r}, which has no weights; give the folder of a run:"
            " --config.teacher=runs/NAME, or --config.start=runs/NAME."
        )
    run, flag = facts.start, "--config.teacher" if wanted == "teacher" else "--config.start"
    _same_data(run, settings.data, facts.source, flag, settings.teacher if wanted == "teacher" else wanted)
    predicts = run.settings.model.parameterisation
    if predicts != model.parameterisation:
        raise typing.InputError(
            f"config.start is {wanted!r}, whose network predicts {predicts!r}, and config.model"
            f" {model.parameterisation!r}: --config.model.parameterisation={predicts}."
        )
    have, want = (parts.network_inputs(given.model, given.guidance) for given in (run.settings, settings))
    if not set(have) <= set(want) or not all(models.from_zero(model.name, name) for name in set(want) - set(have)):
        shown = lambda names: " and ".join(names) or "none"
        able = [name for name in models.MODELS if all(models.from_zero(name, added) for added in set(want) - set(have))]
        raise typing.InputError(
            f"config.start is {wanted!r}, whose network has the inputs {shown(have)} besides the label, and this one"
            f" {shown(want)}. None can be left out, and what is added must start at zero, as in {', '.join(able)}. Make"
            " config.guidance and config.model.inputs fit, or --config.start= for fresh weights."
        )


def teacher_needs(method):
    """Which kinds of teachers a method learns from: "teacher" (a velocity), "teacher_map"."""
    return [need for need in ("teacher", "teacher_map") if need in method.needs]


def _same_data(run, section, source, flag, folder):
    """Another run learned rows of the shape and the classes of the data, and saw them scaled alike."""
    shape, num_classes, name = tuple(source.shape), source.num_classes, section.name
    theirs = run.settings.data
    if theirs.scaling != section.scaling:
        raise typing.InputError(
            f"{flag}={folder} saw data with the mean {theirs.mean} and the deviation {theirs.deviation}, and config.data has"
            f" {section.mean} and {section.deviation}; expected the same: --config.data.mean={theirs.mean}"
            f" --config.data.deviation={theirs.deviation}."
        )
    if run.shape != shape or run.num_classes != num_classes:
        raise typing.InputError(
            f"{flag}={folder} was trained on rows of shape {run.shape} with {run.num_classes} classes; {name} has"
            f" {shape} with {num_classes}. It must know the student's data."
        )


def _unguided(run, flag, folder):
    """A teacher has no input that says how a row is guided."""
    inputs = parts.guidance_inputs(run.settings.guidance)
    if inputs:
        raise typing.InputError(
            f"{flag}={folder} is itself guided and has the inputs {' and '.join(inputs)};"
            " give a run without config.guidance, or with a fixed scale and not of the kind imf."
        )


def _knows(run, method, flag, need):
    """A run learned a velocity ("teacher") or a map ("teacher_map") on the path of the student."""
    name = run.settings.method.name
    info = methods.info(name)
    stage = method.name == name and info.one_grid  # the stage before
    if not (info.learns_velocity if need == "teacher" else info.learns_map or stage):
        what = "a velocity V(x, t, t)" if need == "teacher" else "a flow map"
        raise typing.InputError(
            f"{flag} is a run of {name!r}, which learns {info.learns} and so does not know {what};"
            f" give a run of {'flow_matching' if need == 'teacher' else 'psd or meanflow'}, for example."
        )
    if run.settings.method.path != method.path:
        raise typing.InputError(
            f"{flag} is a run on the path {run.settings.method.path!r}, and config.method.path is {method.path!r}; a teacher"
            " must be on the student's path."
        )


def _ordered(name, pair, least, most, expected):
    both = isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(value, (int, float)) for value in pair)
    if not both or not least <= pair[0] <= pair[1] <= most or math.isinf(pair[1]):
        raise typing.InputError(f"{name} is {pair!r}; expected {expected}.")


CHECKS = (
    fields,
    evaluation_averages,
    guidance,
    adversary,
    inputs,
    augmentation,
    batch,
    memory,
    evaluation_steps,
    evaluation_guidance,
    labels,
    batches,
    best,
    categories,
    space,
    coupling,
    auxiliary,
    heads,
    teacher,
    exact_teacher,
    trained_teacher,
    weak_teacher,
    start,
)
