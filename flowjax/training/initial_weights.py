"""Weights that a run starts from: another run's, or a published file's, as those of the network that config.model makes.

A file is given as KIND:FILE, KIND:FILE,part=NAME, or, of the kinds whose names are those of Flax, by its path alone. Whether weights fit is
judged by flowjax.training.config_checks, but for the shapes, which flowjax.training.state compares.
"""

from typing import NamedTuple

from flowjax import models
from flowjax.models import decoupled_dit, published

# The kind of a file without one, by the network.
FILES = {"dit": "meanflow", "mit": "imf", "decoupled_dit": "meanflow"}
ENDINGS = (".npz", ".safetensors")
VELOCITY_HEAD = ("velocity", "velocity_norm", "velocity_out")  # of a mit


class Published(NamedTuple):
    """A file of published weights: its kind, "" for that of the network; its path; the part of it that is meant, "" for all."""

    kind: str
    path: str
    part: str


def parsed(start):
    """The Published that config.start names; None for a run."""
    kind, colon, rest = start.partition(":")
    if colon and kind in published.KINDS:
        path, comma, part = rest.rpartition(",part=")
        return Published(kind, path, part) if comma else Published(kind, rest, "")
    return Published("", start, "") if start.endswith(ENDINGS) else None


def is_published(start):
    """Whether config.start names a file of published weights rather than a run."""
    return parsed(start) is not None


def predicts(kind):
    """The parameterisation of the networks of a kind, "" for a file without one."""
    return published.KINDS[kind].parameterisation if kind else "velocity"


def networks(kind):
    """The networks that the weights of a kind, "" for a file without one, can be for."""
    if kind:
        plain = published.KINDS[kind].network
        return [plain, "decoupled_dit"] if plain == "dit" else [plain]
    return list(FILES)


def weights(start, run, model, heads):
    """The weights of V that config.start names, or None for fresh ones.

    Args:
      start: "" for fresh weights, a file of published weights, or else a run.
      run: the Trained of that run.
      model: flowjax.training.settings.Model of the network that starts from them.
      heads: the linen method that gives all its trained heads; None leaves a velocity head out.

    Raises:
      InputError: if the file cannot be read.
    """
    if not start:
        return None
    fields, file = models.sized(model.name, model.fields), parsed(start)
    if file is not None:
        params = published.weights(file.kind or FILES[model.name], file.path, model.name, fields, file.part)
    elif (model.name, run.settings.model.name) == ("decoupled_dit", "dit"):
        params = decoupled_dit.from_plain(run.params, fields["source_depth"])
    else:
        params = run.params
    params = {name: value for name, value in params.items() if heads or name not in VELOCITY_HEAD}
    return params if file is None or predicts(file.kind) == "velocity" else {"net": params}
