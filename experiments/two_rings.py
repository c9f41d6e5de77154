"""What the rows of improved MeanFlow are told of their guidance, compared on two rings: python -m experiments.two_rings

Trains improved MeanFlow with its published constants and scales from 1 to 8 on two concentric rings, a class each, once for every
choice of which rows have the whole interval (0, 1) and of what rows without a label are told. Samples of one step, guided at all
times, are compared with the guided flow, which is known in closed form: the root mean square distance of the two ends from the
same noise, its mean and standard deviation over the seeds. Six minutes of processor time; the result is in docs/deviations.md.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

from experiments import command_line, tables
from flowjax import conditioning, exact, guidance, methods, models, samplers, typing

STEPS = flags.DEFINE_integer("steps", 2_000, "steps of training", 1, command_line.MOST)
SEEDS = flags.DEFINE_integer("seeds", 8, "seeds, trained side by side", lower_bound=1, upper_bound=2**16)
WIDTH = flags.DEFINE_integer("width", 64, "of the hidden layers", lower_bound=1, upper_bound=2**16)
ROWS = flags.DEFINE_integer("rows", 256, "of a batch, an even number", lower_bound=2, upper_bound=2**20)
SCALES = flags.DEFINE_list("scales", ["1", "2", "4"], "guidance scales to sample at, 1 to 8")

WHOLE = {"as drawn": 0.0, "a quarter whole": 0.25}  # share of the rows off the diagonal with the interval (0, 1)
DROPPED = ("their draw", "w = 1", "their draw; all on the diagonal")
DROP = 0.1  # share of labels dropped
CIRCLE = np.exp(2j * np.pi * np.arange(48) / 48).view(float).reshape(-1, 2)
RADII, DEVIATION = np.array([0.7, 1.6]), 0.08


def main():
    scales = command_line.numbers("scales", SCALES.value)
    if not scales or min(scales) < 1 or max(scales) > 8 or ROWS.value % 2:
        raise typing.InputError(
            f"--scales={','.join(SCALES.value)} --rows={ROWS.value}: expected scales from 1 to 8, and an even number of rows."
        )
    noise, labels = jax.random.normal(jax.random.key(1), (1_000, 2)), jnp.arange(1_000) % 2
    ends = {w: samplers.heun(lambda x, t, w=w: guided_flow(x, t, labels, w), noise, samplers.grid(128)) for w in scales}
    rows = []
    for interval, whole in WHOLE.items():
        for unlabelled in DROPPED:
            sample = trained(whole, unlabelled)
            away = {w: np.sqrt(np.square(sample(noise, labels, w) - ends[w]).sum(-1).mean(-1)) for w in scales}
            shown = {f"w = {w:g}": f"{far.mean():.3f} ± {far.std():.3f}" for w, far in away.items()}
            rows.append({"interval off the diagonal": interval, "rows without a label are told": unlabelled, **shown})
    print(f"`{command_line.typed('two_rings')}`: distance of one step to the guided flow.\n\n{tables.markdown(rows)}")


# ------------------------------------------------------------------------------------------------------------- rings


def draw_rings(key, n):
    """n points and their rings; a ring is 48 blobs."""
    label_key, blob_key, noise_key = jax.random.split(key, 3)
    label = jax.random.randint(label_key, (n,), 0, 2)
    middle = jnp.array(RADII)[label, None] * jnp.array(CIRCLE)[jax.random.randint(blob_key, (n,), 0, 48)]
    return middle + DEVIATION * jax.random.normal(noise_key, (n, 2)), label


def guided_flow(x, t, label, w):
    """The velocity of each point's ring, guided away from that of both."""
    both = exact.blobs(np.concatenate([radius * CIRCLE for radius in RADII]), DEVIATION)
    own = jnp.where(label[:, None] == 0, *(exact.blobs(radius * CIRCLE, DEVIATION)(x, t) for radius in RADII))
    return guidance.guided(own, both(x, t), w)


# ---------------------------------------------------------------------------------------------------------- training


def draw_with(method, whole, unlabelled):
    """`method.draw` with other choices of what rows are told; its own draw drops no label and leaves intervals as drawn."""

    def draw(key, batch, step):
        method_key, whole_key, *drop_keys = jax.random.split(key, 4)
        drawn = method.draw(method_key, batch, step)
        for (name, point), drop_key in zip(drawn.items(), drop_keys):
            cond, n = dict(point.cond), len(point.x)
            if name == "eulerian":
                at_all_times = jax.random.bernoulli(whole_key, whole, (n, 1))
                cond["interval"] = jnp.where(at_all_times, jnp.array([[0.0, 1.0]]), cond["interval"])
            share = {"anchor": 2 * DROP, "eulerian": 0.0}[name] if unlabelled == DROPPED[2] else DROP
            dropped = jax.random.bernoulli(drop_key, share, (n,))
            cond["label"] = jnp.where(dropped, -1, cond["label"])
            if unlabelled == DROPPED[1]:
                cond["guidance"] = jnp.where(dropped, 1.0, cond["guidance"])
                cond["interval"] = jnp.where(dropped[:, None], jnp.array([[0.0, 1.0]]), cond["interval"])
            drawn[name] = point._replace(cond=cond)
        return drawn

    return draw


def trained(whole, unlabelled):
    """`(noise, labels, w) -> [seeds, n, 2]`: one step of the averaged weights of each seed."""
    method = methods.guided("imf", methods.make("imf", label_drop=0.0), "imf", scale=(1.0, 8.0))
    draw, rate = draw_with(method, whole, unlabelled), 0.998
    net = models.make("mlp", num_classes=2, width=WIDTH.value, depth=3, harmonics=2, inputs=conditioning.GUIDANCE)
    optimizer = optax.adam(1e-3, b2=0.95)
    V = lambda params: lambda x, s, t, cond: net.apply({"params": params}, x, s, t, cond)

    def step(carry, key):
        params, state, average = carry
        data_key, draw_key = jax.random.split(key)
        x, label = draw_rings(data_key, ROWS.value)
        drawn = draw(draw_key, {"x": x, "label": label}, 0)
        gradient = jax.grad(lambda params: method.loss(typing.Nets(V=V(params)), drawn)[0].mean())(params)
        updates, state = optimizer.update(gradient, state)
        params = optax.apply_updates(params, updates)
        return (params, state, jax.tree.map(lambda a, p: rate * a + (1 - rate) * p, average, params)), None

    @jax.jit
    @jax.vmap
    def train(key):
        params = net.init(key, jnp.zeros((1, 2)), 1.0, 0.0, conditioning.rows([0], {"guidance": 1.0, "interval": (0.0, 1.0)}))
        params = params["params"]
        (*_, average), _ = jax.lax.scan(step, (params, optimizer.init(params), params), jax.random.split(key, STEPS.value))
        return average

    averages = train(jax.vmap(jax.random.key)(jnp.arange(SEEDS.value)))

    def sample(noise, labels, w):
        cond = conditioning.rows(labels, {"guidance": w, "interval": (0.0, 1.0)})
        return np.asarray(jax.vmap(lambda params: noise - V(params)(noise, 1.0, 0.0, cond))(averages))

    return sample


if __name__ == "__main__":
    command_line.run(main)
