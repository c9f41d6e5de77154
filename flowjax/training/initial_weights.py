"""Weights that a run starts from: another run's, or a published file's, as those of the network that config.model makes."""

from flowjax import typing
from flowjax.models import decoupled_dit, published
from flowjax.training import networks

# Which networks published weights are of, `(tree, config.model) -> params`.
FILES = {
    "dit": lambda tree, model: published.meanflow_dit(tree),
    "mit": lambda tree, model: published.mit(tree),
    "decoupled_dit": lambda tree, model: decoupled_dit.from_plain(published.meanflow_dit(tree), model.source_depth),
}
VELOCITY_HEAD = ("velocity", "velocity_norm", "velocity_out")  # of a mit
# Networks whose embeddings of the guidance start at zero: with them, a network without them is the same function.
FROM_ZERO = ("mlp", "dit", "decoupled_dit", "unet")


def weights(config, load_run, inputs):
    """The weights that config.start asks for, or None.

    Args:
      config: with the fields `start` ("" for fresh weights, "teacher", the folder of a run, or a file of published weights, .npz or
        .safetensors), `teacher` and `model`.
      load_run: `(folder, flag) -> Trained`, see flowjax.training.runs.load.
      inputs: `config -> {field: bool}`, which parts of cond the network of a run takes besides the label.

    Raises:
      InputError: if there are no such weights, or they are of a network that this one does not extend.
    """
    if not config.start:
        return None
    if config.start.endswith((".npz", ".safetensors")):
        return _published(config)
    if config.start == "teacher" and config.teacher in ("", networks.EXACT):
        raise typing.InputError(
            f"config.start is 'teacher', and config.teacher is {config.teacher!r}, which has no weights; give the folder of a run:"
            " --config.teacher=runs/NAME, or --config.start=runs/NAME."
        )
    folder, flag = (config.teacher, "teacher") if config.start == "teacher" else (config.start, "start")
    run = load_run(folder, f"--config.{flag}")
    own, other = config.model, run.config.model
    if own.parameterisation != other.parameterisation:
        raise typing.InputError(
            f"config.start is {config.start!r}, whose network predicts {other.parameterisation!r}, and config.model"
            f" {own.parameterisation!r}: --config.model.parameterisation={other.parameterisation}."
        )
    have, want = inputs(run.config), inputs(config)
    if any(have[name] and not want[name] for name in have) or (have != want and own.name not in FROM_ZERO):
        raise typing.InputError(
            f"config.start is {config.start!r}, whose network is told {_told(have)} of the guidance, and this one {_told(want)};"
            f" {', '.join(FROM_ZERO)} can learn more on top, none can do without. Make config.guidance fit, or --config.start= for fresh"
            " weights."
        )
    if (own.name, other.name) == ("decoupled_dit", "dit"):
        return decoupled_dit.from_plain(run.params, own.source_depth)
    return _heads(config, run.params)


def _told(fields):
    return " and ".join(name for name, told in fields.items() if told) or "nothing"


def _published(config):
    if config.model.name not in FILES or config.model.parameterisation != "velocity":
        raise typing.InputError(
            f"config.start is {config.start!r}, and published weights are of the networks {', '.join(FILES)} with parameterisation"
            f" 'velocity'; config.model is {config.model.name!r} with {config.model.parameterisation!r}."
        )
    return _heads(config, FILES[config.model.name](published.read(config.start), config.model))


def _heads(config, params):
    """Without the velocity head where the method trains one head."""
    if config.method.get("heads", 1) == 2:
        return params
    return {name: value for name, value in params.items() if name not in VELOCITY_HEAD}
