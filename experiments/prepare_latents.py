"""Encodes images once: python -m experiments.prepare_latents --source=folder:IMAGENET/train --autoencoder=vae.safetensors --sizes=sd \\
    --normalisation=sd --size=256 --output=latents

Then train on them: --config.data.name=latents:latents --config.data.normalisation=sd. Writes the mean and deviation of each latent, as
float16, in shards of --shard images, with a manifest that says of what they are; a training draws each latent anew whenever it is read. The same
command continues a killed run, with any number of processes (docs/pods.md), and the files have the same bytes.

--source is folder:PATH, a folder of class folders; tar:FILE, an archive of such, or one of archives, one a class, which is read without
being unpacked; tfds:imagenet2012, or another TFDS dataset with images of any size, prepared as array_record files, which are read without
TensorFlow; or a data set of flowjax or TFDS with colour images of one size. --autoencoder is a file of published weights with
--sizes, or a folder of experiments.train_autoencoder. ImageNet, 1,281,167 images of 256 pixels, takes 21 GB, 42 with --mirrored.
Without --normalisation the latents' own mean and deviation are measured, and printed as flags for the training.
"""

from absl import flags

from experiments import command_line
from flowjax import autoencoders, checks, folders, typing
from flowjax.autoencoders import files

SOURCE = flags.DEFINE_string("source", None, "folder:PATH, tar:FILE, tfds:NAME, or a data set")
AUTOENCODER = flags.DEFINE_string("autoencoder", None, "file of published weights, or folder of experiments.train_autoencoder")
SIZES = flags.DEFINE_string("sizes", "", f"sizes of published weights: {', '.join(files.SIZES)}")
PART = flags.DEFINE_string("part", "", "part of the file of weights, such as first_stage_model; default: all of it")
OUTPUT = flags.DEFINE_string("output", None, "folder of the latents")
SPLIT = flags.DEFINE_string("split", "train", "split that is written, train or test; of a data set also the one that is read")
DATA_DIR = flags.DEFINE_string("data_dir", "", "of a data set, as --config.data.dir of a training")
SIZE = flags.DEFINE_integer("size", 256, "pixels of a side, by ADM's crop", lower_bound=1, upper_bound=4_096)
NORMALISATION = flags.DEFINE_string(
    "normalisation", "measured", f"what a network is to see of them: {', '.join(autoencoders.NORMALISATIONS)}, or measured"
)
MIRRORED = flags.DEFINE_bool("mirrored", False, "also the latents of the mirrored images, for --config.data.flip")
SHARD = flags.DEFINE_integer("shard", 4_096, "images in a file", lower_bound=1, upper_bound=command_line.MOST)
BATCH = flags.DEFINE_integer("batch_size", 32, "images that a device encodes at once", lower_bound=1, upper_bound=2**16)
PROCESSES = command_line.define_processes()
flags.mark_flags_as_required(["source", "autoencoder", "output"])


def main():
    command_line.join(PROCESSES)
    from flowjax.preparation import images, latents
    from flowjax.training import hosts

    if SPLIT.value not in ("train", "test"):
        raise typing.InputError(f"--split={SPLIT.value}: expected train or test.")
    checks.member("normalisation", NORMALISATION.value, [*autoencoders.NORMALISATIONS, latents.MEASURED])
    folders.check_path(OUTPUT.value, "--output")
    if DATA_DIR.value and SOURCE.value.startswith(("folder:", "tar:")):
        raise typing.InputError(
            f"--data_dir={DATA_DIR.value:.200} is of a data set, and the source is {SOURCE.value:.200}; leave it out."
        )
    loaded = files.read(AUTOENCODER.value, SIZES.value, part=PART.value)
    source = images.open_images(SOURCE.value, split=SPLIT.value, data_dir=DATA_DIR.value)
    about = latents.write(
        source,
        OUTPUT.value,
        loaded,
        split=SPLIT.value,
        size=SIZE.value,
        shard=SHARD.value,
        batch=BATCH.value,
        mirrored=MIRRORED.value,
        normalisation=NORMALISATION.value,
    )
    hosts.print_once(f"latents of {about['rows']} images in {OUTPUT.value}/{SPLIT.value}; train on them:")
    hosts.print_once(" ".join(f"--config.data.{flag}" for flag in latents.training_flags(OUTPUT.value, SPLIT.value, about)))


if __name__ == "__main__":
    command_line.run(main)
