"""Weights that a run starts from: another run's, or a published file's, as those of the network that config.model makes.

Whether they fit is judged by flowjax.training.config_checks, but for the shapes, which flowjax.training.state compares.
"""

from flowjax import models, opening
from flowjax.models import decoupled_dit, published

# Networks that published weights are of: `(tree, fields of config.model) -> params`.
FILES = {
    "dit": lambda tree, fields: published.meanflow_dit(tree),
    "mit": lambda tree, fields: published.mit(tree),
    "decoupled_dit": lambda tree, fields: decoupled_dit.from_plain(published.meanflow_dit(tree), fields["source_depth"]),
}
VELOCITY_HEAD = ("velocity", "velocity_norm", "velocity_out")  # of a mit


def is_published(start):
    """Whether config.start names a file of published weights rather than a run."""
    return start.endswith((".npz", ".safetensors"))


def weights(start, run, model, heads):
    """The weights of V that config.start names, or None for fresh ones.

    Args:
      start: "" for fresh weights, a file of published weights (.npz, .safetensors), or else a run.
      run: the Trained of that run.
      model: flowjax.training.settings.Model of the network that starts from them.
      heads: the linen method that gives all its trained heads; None leaves a velocity head out.

    Raises:
      InputError: if the file cannot be read.
    """
    if not start:
        return None
    fields = models.sized(model.name, model.fields)
    if is_published(start):
        tree = published.read(start)
        with opening.reading(start, f"the published weights of a {model.name}"):
            params = FILES[model.name](tree, fields)
    elif (model.name, run.settings.model.name) == ("decoupled_dit", "dit"):
        params = decoupled_dit.from_plain(run.params, fields["source_depth"])
    else:
        params = run.params
    return {name: value for name, value in params.items() if heads or name not in VELOCITY_HEAD}
