"""Rows a second that one core reads: python -m experiments.benchmark_input

Times the batches that training reads, from made-up data of the forms that data sets have: pixels in memory, arrays of float16 latents
on a disk (config.data.name=latents:PATH), and folders of PNG and JPEG files. A row a second of one core is a row a second of CPU time:
decoding and drawing release the lock of Python, so that a host with n cores delivers up to n times as many, with as many threads
(flowjax.data.batches). The second table is what a host needs so that training does not wait: the FLOPs of a row by docs/results.csv, at
--utilisation of the peak of its chips. Writes input_speed.csv and input_needed.csv below --output. Those in docs/ are from two CPU
cores:

    python -m experiments.benchmark_input --output=docs
"""

import csv
import pathlib
import tempfile
import time

import numpy as np
import tqdm
from absl import flags
from PIL import Image

from experiments import command_line, tables
from flowjax import data
from flowjax.data import image_files, pipeline, stored
from flowjax.training import log

OUTPUT = flags.DEFINE_string("output", "runs/benchmark_input", "folder of the results")
SECONDS = flags.DEFINE_float("seconds", 5.0, "CPU time of each measurement", lower_bound=0.001, upper_bound=3600.0)
UTILISATION = flags.DEFINE_float("utilisation", 0.45, "share of the chips' peak", lower_bound=0.001, upper_bound=1.0)
HOSTS = {"v5e host, 4 chips": ("TPU v5 lite", 4), "v5p host, 4 chips": ("TPU v5p", 4), "8 x H200": ("NVIDIA H200", 8)}
RUNS = {("imagenet256", "meanflow,B/4"): 256, ("imagenet256", "meanflow,XL/2"): 256}  # rows of a batch
RESULTS = pathlib.Path(__file__).parents[1] / "docs" / "results.csv"


def main():
    output = command_line.output_folder(OUTPUT)
    with tempfile.TemporaryDirectory() as folder:
        made = list(sources(pathlib.Path(folder)))
        rows = [{"data": name, "rows a second of one core": speed(source, flip)} for name, source, flip in tqdm.tqdm(made)]
    tables.write_csv(output / "input_speed.csv", rows)
    tables.write_csv(output / "input_needed.csv", needed())
    print(tables.markdown(rows) + "\n\n" + tables.markdown(needed()))


def sources(folder):
    """(what it is, a source, whether its rows are mirrored at random) of made-up data of each form."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (8_192, 32, 32, 3), np.uint8)
    label = np.arange(len(pixels), dtype=np.int32) % 10
    small = pipeline.Source("pixels", len(pixels), (32, 32, 3), 10, lambda ids: {"x": pixels[ids], "label": label[ids]})
    yield "32 x 32 x 3 pixels in memory", small, False
    yield "the same, mirrored at random", small, True
    moments = np.abs(rng.standard_normal((2_048, 32, 32, 8))).astype(np.float16)
    np.save(folder / "moments.npy", moments)
    shards = stored.Shards("latents", [folder / "moments.npy"])
    read = lambda ids: stored.rows("moments", shards, None, ids)
    yield (
        "32 x 32 x 4 latents, float16 on a disk",
        pipeline.Source("latents", shards.size, (32, 32, 4), 0, read, moments=True),
        False,
    )
    for kind, size, count in (("png", 32, 512), ("jpeg", 256, 256)):
        (folder / kind).mkdir()
        for number in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (size // 8, size // 8, 3), np.uint8))
            coarse.resize((size, size), Image.Resampling.BICUBIC).save(folder / kind / f"{number:04d}.{kind}")
        image_files.IN_MEMORY = 0  # so few would be decoded before the clock starts; a data set of millions is not
        yield f"a folder of {size} x {size} x 3 {kind.upper()} files", data.load(f"folder:{folder / kind}"), False


def speed(source, flip):
    """Rows a second of CPU time."""
    batches = pipeline.batches(source, batch_size=256, seed=0, flip=flip, prefetch=0)
    next(batches)
    start, read = time.process_time(), 0
    while (spent := time.process_time() - start) < SECONDS.value:
        read += len(next(batches)["x"])
    return round(read / spent)


def needed():
    """Rows a second that a host needs, by run."""
    with open(RESULTS, newline="") as file:
        flops = {(row["file"], row["run"]): float(row["flops"]) for row in csv.DictReader(file)}
    peak = lambda chip, count: 1e12 * log.PEAK_TFLOPS[chip] * count * UTILISATION.value
    return [
        {"run": run[1]} | {name: round(peak(*host) / flops[run] * batch) for name, host in HOSTS.items()}
        for run, batch in RUNS.items()
    ]


if __name__ == "__main__":
    command_line.run(main)
