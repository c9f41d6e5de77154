"""Published weights as the folder of a run, which scripts sample and measure as any other."""

import json

import jax
import jax.numpy as jnp
import ml_collections

from flowjax import folders, typing
from flowjax.models import published
from flowjax.training import checkpoint, initial_weights, runs, state, workdir as run_folders


def write(config, weights, workdir):
    """Writes a run of step 0 with published weights.

    Args:
      config: an ml_collections config, whose network the weights are of.
      weights: KIND:FILE or KIND:FILE,part=NAME, with a key of flowjax.models.published.KINDS.
      workdir: the folder, which must not exist or be empty.

    Returns:
      The number of weights.

    Raises:
      InputError: there is no such file, or a name or a shape in it does not fit the network.
    """
    checkpoint.check_place(workdir)
    folders.check_free(workdir, "run yet", "--workdir")
    file = initial_weights.parsed(weights)
    if file is None or not file.kind:
        raise typing.InputError(f"--weights={weights:.200}: expected KIND:FILE with a kind of {', '.join(published.KINDS)}.")
    run = runs.sketch(config)
    model = run.settings.model
    if model.parameterisation != (predicted := published.KINDS[file.kind].parameterisation):
        raise typing.InputError(
            f"config.model.parameterisation is {model.parameterisation!r}, and the published weights of {file.kind} are of networks that"
            f" predict {predicted!r}: --config.model.parameterisation={predicted}."
        )
    params = initial_weights.weights(weights, None, model, run.networks.heads)
    _check_shapes(run.like.params["V"], params, weights)

    content = json.loads(config.to_json())
    content |= {"start": "", "teacher": "", "ema": (), "best": "", "eval_every": 0}
    run_folders.claim(workdir, ml_collections.ConfigDict(content), run.source)
    with checkpoint.Checkpoints(workdir) as checkpoints:
        numbers = {"step": jnp.zeros((), jnp.int32), "skipped": jnp.zeros((), jnp.int32)}
        params = jax.tree.map(jnp.asarray, params)
        checkpoints.save(0, state.State(**numbers, params={"V": params}, opt_state={}, target=None, averages={}))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _check_shapes(expected, params, weights):
    """Raises InputError unless both trees have the same names and shapes."""
    shapes = lambda tree: {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    ours, theirs = shapes(expected), shapes(params)
    differ = [name for name in sorted({**ours, **theirs}) if ours.get(name) != theirs.get(name)]
    if differ:
        first, more = differ[0], f" and {len(differ) - 1} more" if differ[1:] else ""
        shown = lambda shape: "missing" if shape is None else str(shape)
        raise typing.InputError(
            f"--weights={weights:.200} are of another network than config.model makes: {first}{more} is {shown(theirs.get(first))} there and"
            f" {shown(ours.get(first))} here; make width, depth, heads and patch of config.model fit."
        )
