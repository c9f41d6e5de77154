"""One training step, the same for every method."""

import jax
import jax.numpy as jnp
import optax

from flowjax.training import networks, sharding, state as states


def make_step(method, modules, optimizer, mesh, key):
    """The pure training step, to be jitted.

    All randomness is drawn on the global batch under jit, so it does not depend on the mesh; only loss and gradient run a shard
    each, and one all-reduce averages gradients and metrics together. `check_vma=False`, because with it on, gradients of
    replicated parameters arrive already summed.

    Args:
      method: a flowjax.typing.Method.
      modules: its flowjax.training.networks.Networks.
      optimizer: an optax transformation.
      mesh: a mesh with the axis "data".
      key: of all draws; the step folds its number in.

    Returns:
      `(state, batch, fixed=()) -> (state, metrics)`, `fixed` being the weights of a teacher if it has any, with metrics "loss"
      (weighted), "raw/TERM" (mean square of each term), "grad_norm" (before clipping) and "param_norm" (after the step).
    """

    def loss(params, target, fixed, drawn):
        errors, raw = method.loss(networks.nets(modules, params, target, fixed), drawn)
        return jnp.mean(errors), raw

    def shard_gradient(params, target, fixed, drawn):
        (value, raw), gradient = jax.value_and_grad(loss, has_aux=True)(params, target, fixed, drawn)
        return jax.lax.pmean((gradient, {"loss": value, **{f"raw/{term}": error for term, error in raw.items()}}), "data")

    gradient_of = jax.shard_map(
        shard_gradient,
        mesh=mesh,
        in_specs=(sharding.WHOLE, sharding.WHOLE, sharding.WHOLE, sharding.ROWS),
        out_specs=sharding.WHOLE,
        check_vma=False,
    )

    def step(state, batch, fixed=()):
        drawn = method.draw(jax.random.fold_in(key, state.step), batch, state.step)
        drawn = jax.lax.with_sharding_constraint(drawn, sharding.rows(mesh))
        gradient, metrics = gradient_of(state.params, state.target, fixed, drawn)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new = states.State(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            target=state.target if state.target is None else _average(state.target, params["V"], method.needs["ema"]),
            averages={
                decay: _average(old, params["V"], _warm(float(decay), state.step)) for decay, old in state.averages.items()
            },
        )
        return new, metrics | {"grad_norm": optax.tree.norm(gradient), "param_norm": optax.tree.norm(params)}

    return step


def _average(old, new, decay):
    return jax.tree.map(lambda o, n: decay * o + (1 - decay) * n, old, new)


def _warm(decay, step):
    """The usual warm-up of an average, so that early evaluations do not see the initial weights."""
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step))
