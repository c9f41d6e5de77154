"""Whether the other runs that a config names fit: its teachers, and the weights to start from.

Checks as those of flowjax.training.config_checks, in whose list they are.
"""

from flowjax import data, guidance as guidances, methods, models, typing
from flowjax.data import points
from flowjax.training import initial_weights, parts, teachers


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
        kind = initial_weights.parsed(wanted).kind
        able, predicted = initial_weights.networks(kind), initial_weights.predicts(kind)
        if model.name not in able or model.parameterisation != predicted:
            raise typing.InputError(
                f"config.start is {wanted!r}, and {f'weights of {kind}' if kind else 'published weights'} are of the networks {', '.join(able)} with"
                f" parameterisation {predicted!r}; config.model is {model.name!r} with {model.parameterisation!r}."
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
            f"{flag}={folder} saw data with the mean {theirs.scaling.mean} and the deviation {theirs.scaling.deviation}, and config.data"
            f" has {section.scaling.mean} and {section.scaling.deviation}; expected the same: "
            + (
                f"--config.data.normalisation={theirs.normalisation}."
                if theirs.normalisation
                else f"--config.data.mean={theirs.mean} --config.data.deviation={theirs.deviation}."
            )
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
