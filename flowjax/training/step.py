"""One training step, the same for every method."""

import jax
import jax.numpy as jnp
import optax

from flowjax import methods
from flowjax.training import networks, sharding, state as states

BINS = 10  # of time, for raw errors during training


def make_step(method, modules, optimizers, mesh, key, *, rules=(), accumulate=1):
    """The pure training step, to be jitted.

    All randomness is drawn on the global batch under jit, so it does not depend on the mesh; only loss and gradient run a shard
    each, on whole weights, between one all-gather and the means of flowjax.training.sharding. Both axes are manual: left to the
    compiler, "fsdp" gathers activations, as docs/pods.md shows. `check_vma=False`, because with it on, gradients of replicated
    parameters arrive already summed. Where loss, gradient or new weights are not finite, all stays but the number of the step.

    Args:
      method: a flowjax.typing.Method.
      modules: its flowjax.training.networks.Networks.
      optimizers: a flowjax.training.state.Optimizer for each trained network; each clips and scales its own gradient, and moves
        its network only every so many steps. Averages follow V: they rest when it rests.
      mesh: a mesh with the axes "data" and "fsdp".
      key: of all draws; the step folds its number in. An array of keys trains as many seeds side by side: every leaf of the
        state (but its step), of the batch and of the metrics then has a leading axis of seeds.
      rules: which dimensions of the weights are sliced along "fsdp", see flowjax.training.sharding.specs.
      accumulate: parts of a device's rows that go through the network one after the other; the gradient is their mean, and is
        communicated once.

    Returns:
      `(state, batch, fixed=()) -> (state, metrics)`, `fixed` being the weights of a teacher if it has any, with metrics "loss"
      (weighted), "raw/TERM" (mean square of each term), "grad_norm" (of all networks, before clipping), "param_norm" (after
      the step) and "nonfinite_steps" (that were skipped so far).
    """

    def loss(params, target, fixed, drawn):
        errors, raw = method.loss(networks.nets(modules, params, target, fixed), drawn)
        return jnp.mean(errors), raw

    def gradient_of(params, target, fixed, drawn):
        own, targets = (sharding.specs(tree, rules, mesh) for tree in (params, target))

        def shard(params, target, fixed, drawn):
            params, target = sharding.gathered(params, own), sharding.gathered(target, targets)
            differentiate = lambda drawn: jax.value_and_grad(loss, has_aux=True)(params, target, fixed, drawn)
            (value, raw), gradient = _mean_over_parts(differentiate, drawn, accumulate)
            metrics = {"loss": value, **{f"raw/{term}": error for term, error in raw.items()}}
            return sharding.mean(gradient, metrics, own, mesh)

        shards = jax.shard_map(
            shard,
            mesh=mesh,
            in_specs=(own, targets, sharding.WHOLE, sharding.ROWS),
            out_specs=(own, sharding.WHOLE),
            check_vma=False,
        )
        return shards(params, target, fixed, drawn)

    def step(state, batch, fixed, key):
        drawn = method.draw(jax.random.fold_in(key, state.step), batch, state.step)
        drawn = jax.lax.with_sharding_constraint(drawn, sharding.rows(mesh))
        gradient, metrics = gradient_of(state.params, state.target, fixed, drawn)
        params, opt_state = {}, {}
        for name, optimizer in optimizers.items():
            params[name], opt_state[name] = _updated(
                optimizer, gradient[name], state.opt_state[name], state.params[name], state.step
            )
        # Averages take the weights of V whenever it has moved.
        every = optimizers["V"].every
        follow = lambda old, decay: _average(old, params["V"], _now(every, state.step, decay, 1.0))
        target = None if state.target is None else follow(state.target, method.needs["ema"])
        averages = {name: follow(old, _warm(float(name), state.step // every)) for name, old in state.averages.items()}
        new = state._replace(params=params, opt_state=opt_state, target=target, averages=averages)
        metrics |= {"grad_norm": optax.tree.norm(gradient), "param_norm": optax.tree.norm(params)}
        finite = jnp.all(jnp.isfinite(jnp.stack(list(metrics.values()))))
        new = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, state)
        new = new._replace(step=state.step + 1, skipped=state.skipped + ~finite)
        return new, metrics | {"nonfinite_steps": new.skipped}

    if not key.ndim:
        return lambda state, batch, fixed=(): step(state, batch, fixed, key)
    side_by_side = jax.vmap(step, in_axes=(states.SEEDS, 0, None, 0), out_axes=(states.SEEDS, 0))
    return lambda state, batch, fixed=(): side_by_side(state, batch, fixed, key)


def make_binned(method, modules, key, seeds):
    """`(state, batch, fixed, number) -> {term: [2, BINS]}`: sums of the square errors of each term by the time of its points, and rows.

    The time is the source s; for terms whose points are all noise, s = 1, the target t. Bins divide [0, 1] evenly. The draw of
    times and noise for the rows of `batch` depends on the step and on `number`; of several seeds, the first.
    """

    def binned(state, batch, fixed, number):
        if seeds > 1:
            first = lambda tree: jax.tree.map(lambda leaf: leaf[0], tree)
            state, batch = first(state._replace(step=state.step[None])), first(batch)
        own = jax.random.fold_in(jax.random.fold_in(key if seeds == 1 else key[0], state.step), number)
        drawn = method.draw(own, batch, state.step)
        raw = methods.raw_errors(method, networks.nets(modules, state.params, state.target, fixed), drawn)
        return {name: by_time(rows, drawn[name]) for name, rows in raw.items()}

    def by_time(rows, point):
        time = next(time for time in (point.s if point.x0 is not None else point.t, point.t, point.s) if time is not None)
        number = jnp.clip((time.reshape(-1) * BINS).astype(int), 0, BINS - 1)
        return jnp.zeros((2, BINS)).at[:, number].add(jnp.stack([rows, jnp.ones_like(rows)]))

    return binned


def _mean_over_parts(function, drawn, parts):
    """The mean of `function` over parts of the rows, one after the other; part i has the rows i, i + parts, ... of each term."""
    if parts == 1:
        return function(drawn)
    drawn = jax.tree.map(lambda leaf: leaf.reshape(-1, parts, *leaf.shape[1:]).swapaxes(0, 1), drawn)
    shapes = jax.eval_shape(function, jax.tree.map(lambda leaf: leaf[0], drawn))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    total, _ = jax.lax.scan(lambda sums, part: (jax.tree.map(jnp.add, sums, function(part)), None), zeros, drawn)
    return jax.tree.map(lambda leaf: leaf / parts, total)


def _updated(optimizer, gradient, opt_state, params, step):
    """The weights of one network and the state of its optimizer after a step; in between its updates they stay."""
    updates, new = optimizer.transform.update(gradient, opt_state, params)
    moved = optax.apply_updates(params, updates)
    return jax.tree.map(lambda new, old: _now(optimizer.every, step, new, old), (moved, new), (params, opt_state))


def _now(every, step, value, otherwise):
    """`value` in every `every`-th step, `otherwise` in the others."""
    return value if every == 1 else jnp.where((step + 1) % every == 0, value, otherwise)


def _average(old, new, decay):
    return jax.tree.map(lambda o, n: decay * o + (1 - decay) * n, old, new)


def _warm(decay, step):
    """The usual warm-up of an average, so that early evaluations do not see the initial weights."""
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step))
