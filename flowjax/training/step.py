"""One training step, the same for every method."""

import functools
import operator
import re

import jax
import jax.numpy as jnp
import optax

from flowjax import methods, typing
from flowjax.training import averages, dealing, networks, phases, sharding, state as states

BINS = 10  # of time, for raw errors during training


def make_step(method, modules, optimizers, mesh, key, *, rules=(), accumulate=1, communication=""):
    """The pure training step, to be jitted with a static `phase`.

    All randomness is drawn on the global batch under jit, so it does not depend on the mesh. Where loss, gradient or new weights
    are not finite, only the number of the step and the count of such steps change.

    Args:
      method: a flowjax.typing.Method.
      modules: its flowjax.training.networks.Networks.
      optimizers: {name: flowjax.training.optimizers.Optimizer}. Each network has its own clipping, learning rate and period
        `every`. Averages change only in steps that update V.
      mesh: a mesh with the axes "data" and "fsdp".
      key: of all draws; the step folds its number in. An array of keys trains as many seeds side by side: every leaf of the
        state (but its step), of the batch and of the metrics then has a leading axis of seeds.
      rules: which dimensions of the weights are sliced along "fsdp", see flowjax.training.sharding.specs.
      accumulate: parts of a device's rows that go through the network one after the other; the gradient is their mean, and is
        communicated once.
      communication: dtype of weights that are gathered and gradients that are summed over devices; "": theirs.

    Returns:
      `(state, batch, fixed=(), phase=None) -> (state, metrics)`: `fixed` holds the weights of a teacher, `phase` is the
      flowjax.training.phases.Phase of the step, static; None will do for a method whose steps are all alike. The metrics are
      "loss" (weighted), "raw/TERM" (the raw metric of each term), "grad_norm" (of the networks that move, before clipping),
      "param_norm" (of all networks, after the step), "nonfinite_steps" (skipped so far) and, of a method with `balance`, "balance", the
      weight of its balanced terms; nan for what rests.
    """
    cycle = phases.cycle(method, {name: optimizer.every for name, optimizer in optimizers.items()})
    differentiated = _differentiated(method, modules, mesh, rules, accumulate, communication if mesh.size > 1 else "")
    # Metrics of what rests, so that all phases have one structure.
    balance = ("balance",) if method.balance else ()
    resting = dict.fromkeys(("loss", *(f"raw/{term.name}" for term in method.terms), "grad_norm", *balance), jnp.nan)

    def step(state, batch, fixed, key, phase):
        drawn, deal = _drawn(method, key, batch, state.step, phase.terms, mesh)
        gradient, metrics = differentiated(phase.networks, state, fixed, drawn, deal)
        remembered = metrics.pop("memory", None)
        new, updates = _updated(optimizers, gradient, state, rules, mesh)
        if remembered is not None:
            new = new._replace(memory=method.remember(state.memory, remembered))
        if "V" in phase.networks:
            new = _followed(new, method.needs.get("ema"), cycle.updates("V", state.step), batch["x"].shape[0])
        if gradient:
            metrics |= {"grad_norm": optax.tree.norm(gradient)}
        metrics |= {"param_norm": optax.tree.norm(new.params)}
        finite = jnp.all(jnp.isfinite(jnp.stack(list(metrics.values()))))
        if updates and mesh.shape["data"] > 1:
            new = new._replace(params={**new.params, **_gathered(updates, state.params, rules, mesh)})
        new = jax.tree.map(lambda new, old: new if new is old else jnp.where(finite, new, old), new, state)
        new = new._replace(step=state.step + 1, skipped=state.skipped + ~finite)
        return new, resting | metrics | {"nonfinite_steps": new.skipped}

    def training_step(state, batch, fixed=(), phase=None):
        of_phase = functools.partial(step, phase=_only(cycle) if phase is None else phase)
        if not key.ndim:
            return of_phase(state, batch, fixed, key)
        side_by_side = jax.vmap(of_phase, in_axes=(states.SEEDS, 0, None, 0), out_axes=(states.SEEDS, 0))
        return side_by_side(state, batch, fixed, key)

    return training_step


def _drawn(method, key, batch, step, names, mesh):
    """({term: Point} with rows over all devices, their Deal or None where each device has whole columns)."""
    deal = dealing.of_batch(mesh, batch["x"].shape[0], method)
    if deal:
        batch = jax.lax.with_sharding_constraint(batch, sharding.whole(mesh))
    drawn = method.draw(jax.random.fold_in(key, step), batch, step)
    drawn = {name: drawn[name] for name in names}
    return jax.lax.with_sharding_constraint(deal.dealt(drawn) if deal else drawn, sharding.rows(mesh)), deal


def _only(cycle):
    """The phase of a method whose steps are all alike."""
    distinct = tuple(cycle.distinct())
    if len(distinct) > 1:
        raise typing.InputError(
            f"the method has {len(distinct)} kinds of steps, and the step was called without one; expected step(state, batch, fixed,"
            " phase=run.cycle.at(number of the step)), with phase static under jit."
        )
    return distinct[0]


def _differentiated(method, modules, mesh, rules, accumulate, sent):
    """`(names, state, fixed, drawn, deal) -> (gradient, metrics)`: means over the batch, the gradient of the networks `names`.

    Loss and gradient run on a shard of the rows each, between an all-gather of the weights and the means of
    flowjax.training.sharding; weights of blocks are gathered by the blocks, unless they must be merged with factors. Both axes are
    manual: left to the compiler, "fsdp" gathers activations, as docs/pods.md shows. `check_vma=False`, because with it on,
    gradients of replicated parameters arrive already summed.
    """
    groups = {term.name: term.group for term in method.terms}
    of_rows = functools.partial(_of_rows, method)

    def gradients_of(mean, loss, moving, resting, target, base, fixed, memory, drawn):
        def of_weights(moving):
            return loss(networks.nets(modules, {**moving, **resting}, target, fixed, mean, memory, base), drawn)

        return jax.value_and_grad(of_weights, has_aux=True)(moving)

    def shard(deal, partition, updated, moving, resting, target, base, fixed, drawn, memory):
        """Gradients of the balanced terms and of the others apart; their backward passes meet nowhere, so that this costs no more."""
        weights = moving, resting, target, base, fixed
        weights = *sharding.gathered(weights, partition, by_block=base is None, sent=sent), memory

        def differentiate(drawn):
            if deal:
                return deal.switched(functools.partial(gradients_of, _no_mean_of_dealt), (*drawn,), *weights, drawn)
            mean = _mean_of_batch if accumulate == 1 else functools.partial(_no_mean_of_batch, accumulate)
            return gradients_of(mean, of_rows, *weights, drawn)

        parts = _balanced_apart(method, drawn)
        scores, gradients = zip(*(_mean_over_parts(differentiate, part, accumulate, groups) for part in parts))
        values, raws = zip(*scores)
        raw = functools.reduce(operator.or_, raws)
        metrics = {"loss": sum(values), **{f"raw/{term}": error for term, error in raw.items() if term != "memory"}}
        metrics |= {"memory": raw["memory"]} if "memory" in raw else {}
        return sharding.mean(gradients, metrics, (updated,) * len(gradients), mesh, sent)

    def differentiated(names, state, fixed, drawn, deal):
        if not names:
            return {}, {}
        moving = {name: state.params[name] for name in names}
        resting = {name: weights for name, weights in state.params.items() if name not in names}
        weights = (moving, resting, state.target, state.base, fixed)
        partition = sharding.specs(weights, rules, mesh)
        updated = sharding.updated(moving, partition[0], mesh)
        shards = jax.shard_map(
            functools.partial(shard, deal, partition, updated),
            mesh=mesh,
            in_specs=(*partition, sharding.ROWS, sharding.WHOLE),
            out_specs=((updated,) * len(_balanced_apart(method, drawn)), sharding.WHOLE),
            check_vma=False,
        )
        gradients, metrics = shards(*weights, drawn, state.memory)
        if len(gradients) == 1:
            return gradients[0], metrics
        gradient, weight = _balanced(method.balance, *gradients)
        return gradient, metrics | {"balance": weight}

    return differentiated


def _of_rows(method, nets, drawn):
    """(mean error of whole columns, {term: raw metric})."""
    errors, raw = method.loss(nets, drawn)
    return jnp.mean(errors), raw


def _balanced_apart(method, drawn):
    """The drawn terms in one piece, or in two: those that have no balanced weight first."""
    balanced = method.balance.terms if method.balance else ()
    parts = [{name: drawn[name] for name in drawn if (name in balanced) == chosen} for chosen in (False, True)]
    return [part for part in parts if part] or [drawn]


def _balanced(balance, others, gradient):
    """(sum of both gradients, weight of the second in V): its length in V is made a multiple of that of the others."""

    def length(tree):
        leaves = jax.tree_util.tree_flatten_with_path(tree["V"])[0]
        chosen = [
            leaf for path, leaf in leaves if re.search(balance.at, jax.tree_util.keystr(path, simple=True, separator="/"))
        ]
        if not chosen:
            raise typing.InputError(f"no weights of V have a path with {balance.at!r}, at which gradients are to be balanced.")
        return optax.tree.norm(chosen)

    weight = jnp.minimum(balance.multiple * length(others) / jnp.maximum(length(gradient), 1e-12), balance.most)
    weigh = lambda name: weight if name == "V" else 1.0
    return {
        name: jax.tree.map(lambda one, two, name=name: one + weigh(name) * two, tree, gradient[name])
        for name, tree in others.items()
    }, weight


def _mean_of_batch(rows):
    """Inside of shard_map: the mean over the rows of all devices; gradients pass."""
    return jax.lax.pmean(jnp.mean(rows, axis=0), sharding.AXES)


def _no_mean_of_batch(accumulate, rows):
    raise typing.InputError(
        f"config.accumulate is {accumulate}, and a term of the method takes a mean over the whole batch (nets.mean), which goes"
        " through the network in parts: --config.accumulate=1."
    )


def _no_mean_of_dealt(rows):
    raise typing.InputError(
        "batch_size gives some devices no rows of a term that takes a mean over the whole batch (nets.mean); use a larger"
        " --config.batch_size, or fewer devices."
    )


def _mean_over_parts(function, drawn, parts, groups):
    """The mean of `function` over parts of the rows, one after the other; part i has the groups i, i + parts, ... of each term."""
    if parts == 1:
        return function(drawn)

    def cut(leaf, group):
        grouped = leaf.reshape(-1, parts, group, *leaf.shape[1:]).swapaxes(0, 1)
        return grouped.reshape(parts, -1, *leaf.shape[1:])

    drawn = {name: jax.tree.map(functools.partial(cut, group=groups[name]), point) for name, point in drawn.items()}
    shapes = jax.eval_shape(function, jax.tree.map(lambda leaf: leaf[0], drawn))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    total, _ = jax.lax.scan(lambda sums, part: (jax.tree.map(jnp.add, sums, function(part)), None), zeros, drawn)
    return jax.tree.map(lambda leaf: leaf / parts, total)


def _updated(optimizers, gradient, state, rules, mesh):
    """(the state after one update of each network that has a gradient, the updates); each device updates its slices."""
    params, opt_state, updates = dict(state.params), dict(state.opt_state), {}
    in_slices = lambda name, tree: sharding.in_slices({name: tree}, rules, mesh)[name]
    for name in gradient:
        weights = in_slices(name, state.params[name])
        change, opt_state[name] = optimizers[name].update(gradient[name], state.opt_state[name], weights, mesh)
        updates[name] = in_slices(name, change)  # else the compiler gathers before the last operations of the optimizer
        params[name] = in_slices(name, optax.apply_updates(weights, updates[name]))
    return state._replace(params=params, opt_state=opt_state), updates


def _gathered(updates, params, rules, mesh):
    """The new weights as the next step reads them: updates are gathered along "data" and added to the weights in their place.

    New weights that are gathered would be copied twice: a result of the program cannot be gathered into by TPUs.
    """
    old = {name: params[name] for name in updates}
    return optax.apply_updates(old, sharding.as_weights(updates, rules, mesh))


def _followed(state, decay, updates, batch_size):
    """The state whose target and averages have followed V; `updates` is the number of V's updates before this one."""
    follow = lambda old, decay: jax.tree.map(lambda o, n: decay * o + (1 - decay) * n, old, state.params["V"])
    target = None if state.target is None else follow(state.target, decay)
    followed = {name: follow(old, averages.decay(name)(updates, batch_size)) for name, old in state.averages.items()}
    return state._replace(target=target, averages=followed)


def make_binned(method, modules, key, seeds):
    """`(state, batch, fixed, number) -> {term: [2, BINS]}`: sums of the raw errors of each term by the time of its points, and rows.

    The time is the source s; for terms whose points are all noise, s = 1, the target t; terms without times are left out. Bins
    divide [0, 1] evenly. The draw of times and noise for the rows of `batch` depends on the step and on `number`; of several
    seeds, the first.
    """

    def binned(state, batch, fixed, number):
        if seeds > 1:
            first = lambda tree: jax.tree.map(lambda leaf: leaf[0], tree)
            state, batch = first(state._replace(step=state.step[None])), first(batch)
        of_draw = jax.random.fold_in(jax.random.fold_in(key if seeds == 1 else key[0], state.step), number)
        drawn = method.draw(of_draw, batch, state.step)
        nets = networks.nets(modules, state.params, state.target, fixed, memory=state.memory, base=state.base)
        raw = methods.raw_errors(method, nets, drawn)
        timed = {name: _time(drawn[name]) for name in raw}
        return {name: by_time(rows, timed[name]) for name, rows in raw.items() if timed[name] is not None}

    def by_time(rows, time):
        number = jnp.clip((time.reshape(-1) * BINS).astype(int), 0, BINS - 1)
        return jnp.zeros((2, BINS)).at[:, number].add(jnp.stack([rows, jnp.ones_like(rows)]))

    return binned


def _time(point):
    """The times by which the errors at a point are sorted, or None."""
    candidates = (point.s if point.x0 is not None else point.t, point.t, point.s)
    return next((time for time in candidates if time is not None), None)
