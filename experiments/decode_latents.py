"""Turns samples of latents into images: python -m experiments.decode_latents --samples=runs/x/latents --autoencoder=vae.safetensors \\
    --sizes=sd --output=runs/x/images

--samples is a folder of experiments.generate of a run on latents, --output one of images, 0 to 255, as experiments.generate writes
them with --dtype=uint8. The same command continues a killed run; process p of P decodes the shards p, p + P, ...
"""

from absl import flags

from experiments import command_line
from flowjax import autoencoders, checks, folders
from flowjax.autoencoders import files

SAMPLES = flags.DEFINE_string("samples", None, "folder of experiments.generate")
AUTOENCODER = flags.DEFINE_string("autoencoder", None, "file of published weights, or folder of experiments.train_autoencoder")
SIZES = flags.DEFINE_string("sizes", "", f"sizes of published weights: {', '.join(files.SIZES)}")
PART = flags.DEFINE_string("part", "", "part of the file of weights, such as first_stage_model; default: all of it")
NORMALISATION = flags.DEFINE_string("normalisation", "raw", "edm2 for an autoencoder that makes images in [0, 1]")
OUTPUT = flags.DEFINE_string("output", None, "folder of the images")
BATCH = flags.DEFINE_integer("batch_size", 32, "latents that a device decodes at once", lower_bound=1, upper_bound=2**16)
PROCESSES = command_line.define_processes()
flags.mark_flags_as_required(["samples", "autoencoder", "output"])


def main():
    command_line.join(PROCESSES)
    from flowjax.preparation import decoding
    from flowjax.training import hosts

    checks.member("normalisation", NORMALISATION.value, autoencoders.NORMALISATIONS)
    folders.check_path(OUTPUT.value, "--output")
    loaded = files.read(AUTOENCODER.value, SIZES.value, part=PART.value)
    count = decoding.write(SAMPLES.value, OUTPUT.value, loaded, batch=BATCH.value, normalisation=NORMALISATION.value)
    hosts.print_once(f"{count} images in {OUTPUT.value}")


if __name__ == "__main__":
    command_line.run(main)
