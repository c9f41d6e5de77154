"""One training step, the same for every method."""

import jax
import jax.numpy as jnp
import optax

from flowjax import typing
from flowjax.training import sharding, state as states

SUPPLIED = ("ema", "frozen")


def make_step(method, net, optimizer, mesh, key):
    """The pure training step, to be jitted.

    All randomness is drawn on the global batch under jit, so it does not depend on the mesh; only loss and gradient run a shard
    each, and one all-reduce averages gradients and metrics together. `check_vma=False`, because with it on, gradients of
    replicated parameters arrive already summed.

    Args:
      method: a flowjax.typing.Method that needs no more networks than SUPPLIED.
      net: a network, `net.apply(variables, x, s, t, cond)`.
      optimizer: an optax transformation.
      mesh: a mesh with the axis "data".
      key: of all draws; the step folds its number in.

    Returns:
      `(state, batch) -> (state, metrics)` with metrics "loss" (weighted), "raw/TERM" (mean square of each term),
      "grad_norm" (before clipping) and "param_norm" (after the step).

    Raises:
      InputError: if the method needs a network that the trainer cannot supply.
    """
    for need in method.needs:
        if need not in SUPPLIED:
            raise typing.InputError(
                f"the method needs {need!r}, which this trainer does not supply; it has {', '.join(SUPPLIED)}."
            )

    def apply(params):
        return lambda x, s, t, cond=None: net.apply({"params": params}, x, s, t, cond)

    def loss(params, target, drawn):
        nets = typing.Nets(V=apply(params), ema=apply(target), frozen=apply(jax.lax.stop_gradient(params)))
        errors, raw = method.loss(nets, drawn)
        return jnp.mean(errors), raw

    def shard_gradient(params, target, drawn):
        (value, raw), gradient = jax.value_and_grad(loss, has_aux=True)(params, target, drawn)
        return jax.lax.pmean((gradient, {"loss": value, **{f"raw/{term}": error for term, error in raw.items()}}), "data")

    gradient_of = jax.shard_map(
        shard_gradient,
        mesh=mesh,
        in_specs=(sharding.WHOLE, sharding.WHOLE, sharding.ROWS),
        out_specs=sharding.WHOLE,
        check_vma=False,
    )

    def step(state, batch):
        drawn = method.draw(jax.random.fold_in(key, state.step), batch, state.step)
        drawn = jax.lax.with_sharding_constraint(drawn, sharding.rows(mesh))
        gradient, metrics = gradient_of(state.params, state.target, drawn)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new = states.State(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            target=state.target if state.target is None else _average(state.target, params, method.needs["ema"]),
            averages={decay: _average(old, params, _warm(float(decay), state.step)) for decay, old in state.averages.items()},
        )
        return new, metrics | {"grad_norm": optax.tree.norm(gradient), "param_norm": optax.tree.norm(params)}

    return step


def _average(old, new, decay):
    return jax.tree.map(lambda o, n: decay * o + (1 - decay) * n, old, new)


def _warm(decay, step):
    """The usual warm-up of an average, so that early evaluations do not see the initial weights."""
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step))
