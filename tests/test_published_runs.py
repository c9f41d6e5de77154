"""Configs of published runs: every constant stands where a reader looks for it, all build, trace and shard by shapes alone.

The numbers here were read from the papers and the authors' code, not from the configs.
"""

import csv
import functools
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from configs import cifar10, imagenet256, published
from experiments import results
from flowjax import typing
from flowjax.training import config_checks, estimates, runs, settings

ROOT = pathlib.Path(__file__).parents[1]
FILES = {"imagenet256": imagenet256, "cifar10": cifar10}
LN = lambda mean, deviation: ("logit_normal", mean, deviation)
FACTOR, CHANNEL_MEANS = 1 / 0.18215, (0.86488, -0.27787343, 0.21616915, 0.3738409)
CHANNEL_DEVIATIONS = (4.85503674, 5.31922414, 3.93725398, 3.9870003)

ALL_OF = {
    "meanflow": {
        "data.name": "imagenet256_latents", "data.mean": 0.0, "data.deviation": FACTOR, "data.flip": False, "batch_size": 256,
        "optim.name": "adam", "optim.learning_rate": 1e-4, "optim.kwargs": {"b1": 0.9, "b2": 0.95}, "optim.schedule": "constant",
        "optim.warmup_steps": 0, "optim.clip_norm": 0.0, "ema": ("constant:decay=0.9999",), "model.dtype": "float32",
        "method.times": ("sorted_pair", LN(-0.4, 1.0)), "method.diagonal": "3/4", "method.p": 1.0, "method.c": 0.01,
        "method.label_drop": 0.1, "guidance.kind": "meanflow",
    },
    "imf": {
        "data.name": "imagenet256_latents", "data.mean": CHANNEL_MEANS, "data.deviation": CHANNEL_DEVIATIONS, "data.flip": False,
        "batch_size": 1024, "steps": 800_729, "optim.name": "adam", "optim.learning_rate": 1e-4, "optim.warmup_steps": 12_511,
        "optim.schedule": "constant", "optim.kwargs": {"b1": 0.9, "b2": 0.95}, "optim.clip_norm": 0.0,
        "ema": ("constant:decay=0.9999",), "model.dtype": "float32", "method.times": ("sorted_pair", LN(-0.4, 1.0)),
        "method.diagonal": "1/2", "method.p": 1.0, "method.c": 0.01, "method.label_drop": 0.1, "method.heads": 2,
        "guidance.kind": "imf", "guidance.scale": (1.0, 8.0),
    },
    "pmf": {
        "data.name": "imagenet256", "data.flip": False, "batch_size": 1024, "optim.name": "muon", "optim.learning_rate": 1e-3,
        "optim.schedule": "constant", "optim.warmup_steps": 0, "method.diagonal": "1/2", "method.p": 1.0, "method.c": 0.01,
        "method.label_drop": 0.1, "method.heads": 2, "guidance.kind": "imf", "guidance.scale": (1.0, 8.0), "model.patch": 16,
        "model.parameterisation": "denoised_field",
    },
    "tvm": {
        "data.name": "imagenet256_latents", "data.mean": CHANNEL_MEANS, "data.deviation": CHANNEL_DEVIATIONS, "data.flip": False,
        "batch_size": 2048, "steps": 300_000, "optim.name": "adamw", "optim.learning_rate": 1e-4, "optim.warmup_steps": 0,
        "optim.kwargs": {"b1": 0.9, "b2": 0.95, "eps": 1e-8, "weight_decay": 0.0}, "optim.clip_norm": 0.0,
        "optim.schedule": "constant", "model.dtype": "bfloat16", "ema": ("constant:decay=0.9999",), "method.ema": 0.99,
        "method.anchor_times": LN(-0.4, 1.0), "method.times": ("gap_first", -0.8, 1.0, -0.4, 1.0), "method.label_drop": 0.1,
        "guidance.kind": "tvm", "model.name": "semi_lipschitz_dit",
    },
    "soflow": {
        "data.name": "imagenet256_latents", "data.deviation": FACTOR, "data.flip": False, "batch_size": 256, "optim.name": "adamw",
        "optim.learning_rate": 1e-4, "optim.kwargs": {"b1": 0.9, "b2": 0.99, "weight_decay": 0.0}, "optim.schedule": "constant",
        "ema": ("constant:decay=0.9999",), "method.diagonal": "3/4", "method.anchor_times": LN(-0.2, 1.0),
        "method.times": ("two_sided", LN(0.2, 0.8), LN(-1.0, 0.8)), "method.a_start": 0.1, "method.a_end": 0.002, "method.p": 1.0,
        "method.c": 0.01, "method.label_drop": 0.1, "guidance.scale": (3.0, 3.0), "guidance.mix": 0.25, "guidance.decay": 0.8,
        "sampler": "consistency",
    },
    "alphaflow": {
        "data.name": "imagenet256_latents", "optim.name": "adam", "optim.learning_rate": 1e-4,
        "optim.kwargs": {"b1": 0.9, "b2": 0.95}, "optim.warmup_steps": 10_000, "optim.clip_norm": 16.0, "model.dtype": "bfloat16",
        "ema": ("half_life:images=1774336,ramp=0.05",), "method.times": ("sorted_pair", LN(-0.4, 1.0)),
        "method.steepness": 25.0, "method.snap": 0.005, "method.label_drop": 0.1,
        "guidance.kind": "meanflow",
    },
    "dmf": {
        "data.name": "imagenet256_latents", "data.deviation": FACTOR, "data.flip": False, "batch_size": 256, "steps": 400_000,
        "optim.name": "adamw", "optim.learning_rate": 1e-4, "optim.kwargs": {"b1": 0.9, "b2": 0.95, "weight_decay": 0.0},
        "optim.clip_norm": 1.0, "ema": ("constant:decay=0.9999",), "model.dtype": "bfloat16", "model.source_depth": 20,
        "method.anchor_times": LN(0.0, 1.0), "method.times": ("sorted_sides", LN(0.4, 1.0), LN(-1.2, 1.0)), "method.c": 0.01,
        "method.diagonal": "both", "method.label_drop": 0.1, "guidance.scale": (2.5, 2.5), "guidance.interval": (0.0, 0.7),
        "eval_steps": (1, 2, 4),
    },
    "shortcut": {
        "data.name": "imagenet256_latents", "data.deviation": FACTOR, "data.flip": True, "batch_size": 256, "steps": 810_000,
        "optim.name": "adamw", "optim.learning_rate": 1e-4, "optim.kwargs": {"b1": 0.9, "b2": 0.999, "weight_decay": 0.1},
        "optim.warmup_steps": 0, "method.ema": 0.999, "ema": (), "method.label_drop": 0.1, "method.diagonal": "7/8",
        "method.sections": 128, "method.cfg": 1.5, "method.clip": 4.0, "model.parameterisation": "dyadic", "model.dtype": "bfloat16",
    },
    "facm": {
        "batch_size": 1024, "optim.name": "adamw", "optim.learning_rate": 1e-4, "optim.kwargs": {"b1": 0.9, "b2": 0.999},
        "optim.clip_norm": 1.0, "model.dtype": "bfloat16", "guidance.scale": (1.75, 1.75), "guidance.interval": (0.0, 0.875),
        "method.p": 0.5, "method.c": 1e-3, "model.size": "XL", "model.patch": 1, "sampler": "consistency",
    },
}  # fmt: skip
IMAGENET = {
    "meanflow,B/4": {"model.size": "B", "model.patch": 4, "steps": 400_000, "guidance.scale": (3.0, 3.0), "guidance.k": 0.0, "guidance.interval": (0.0, 1.0)},
    "meanflow,B/2": {"model.size": "B", "model.patch": 2, "steps": 1_200_000, "guidance.scale": (2.0, 2.0), "guidance.k": 0.5, "guidance.interval": (0.0, 1.0)},
    "meanflow,M/2": {"model.size": "M", "model.patch": 2, "steps": 1_200_000, "guidance.scale": (2.0, 2.0), "guidance.k": 0.5, "guidance.interval": (0.0, 1.0)},
    "meanflow,L/2": {"model.size": "L", "model.patch": 2, "steps": 1_200_000, "guidance.scale": (2.5, 2.5), "guidance.k": 0.92, "guidance.interval": (0.0, 0.8)},
    "meanflow,XL/2": {"model.size": "XL", "model.patch": 2, "steps": 1_200_000, "guidance.scale": (2.5, 2.5), "guidance.k": 0.92, "guidance.interval": (0.0, 0.75)},
    "meanflow,XL/2+": {"model.size": "XL", "model.patch": 2, "steps": 5_000_000, "guidance.scale": (2.0, 2.0), "guidance.k": 0.5, "guidance.interval": (0.3, 0.8)},
    "imf,B/2": {"model.size": "B", "eval_guidance": 8.0, "eval_interval": (0.4, 0.65)},
    "imf,M/2": {"model.size": "M", "eval_guidance": 10.5, "eval_interval": (0.4, 0.6)},
    "imf,L/2": {"model.size": "L", "eval_guidance": 10.5, "eval_interval": (0.4, 0.6)},
    "imf,XL/2": {"model.size": "XL", "eval_guidance": 8.0, "eval_interval": (0.42, 0.62)},
    "pmf,B/16": {
        "steps": 400_364, "method.times": ("sorted_pair", LN(0.8, 0.8)),
        "guidance.power": 1.0, "method.uniform_share": 0.0, "method.perceptual_below": 0.8,
        "eval_guidance": 8.5, "eval_interval": (0.1, 0.7), "ema.0": "half_life:images=2_000_000,ramp=0.05",
    },
    "pmf,L/16": {
        "steps": 400_364, "method.times": ("sorted_pair", LN(0.8, 0.8)),
        "guidance.power": 2.0, "method.uniform_share": 0.0, "method.perceptual_below": 0.8,
        "eval_guidance": 7.0, "eval_interval": (0.2, 0.7), "ema.0": "half_life:images=1_000_000,ramp=0.05",
    },
    "pmf,H/16": {
        "steps": 450_410, "method.times": ("sorted_pair", LN(0.0, 0.8)),
        "method.anchor_times": LN(0.0, 0.8), "guidance.power": 2.0, "method.uniform_share": 0.1, "method.perceptual_below": 0.6,
        "method.path": "linear:noise=2",
        "eval_guidance": 7.0, "eval_interval": (0.2, 0.6), "ema.0": "half_life:images=1_000_000,ramp=0.05",
    },
    "tvm,XL/2-w2": {"guidance.scale": (2.0, 2.0), "model.embedder_init": "spectral"},
    "tvm,XL/2-w1.75": {"guidance.scale": (1.75, 1.75), "model.embedder_init": "normal"},
    "soflow,B/4": {"model.size": "B", "model.patch": 4, "steps": 400_000},
    "soflow,B/2": {"model.size": "B", "model.patch": 2, "steps": 1_200_000},
    "soflow,M/2": {"model.size": "M", "model.patch": 2, "steps": 1_200_000},
    "soflow,L/2": {"model.size": "L", "model.patch": 2, "steps": 1_200_000},
    "soflow,XL/2": {"model.size": "XL", "model.patch": 2, "steps": 1_200_000},
    "alphaflow,B/2": {
        "batch_size": 256, "steps": 1_200_000, "method.start": 0.0, "method.end": 1.0, "method.diagonal": "1/4",
        "guidance.scale": (2.0, 2.0), "guidance.k": 0.5, "guidance.interval": (0.0, 1.0), "sampler": "flow_map",
    },
    "alphaflow,XL/2": {
        "batch_size": 256, "steps": 1_200_000, "method.start": 0.5, "method.end": 5 / 6, "method.diagonal": "1/2",
        "guidance.scale": (2.5, 2.5), "guidance.k": 0.92, "guidance.interval": (0.0, 0.75), "sampler": "consistency",
        "grid": "bent:middle=0.55",
    },
    "alphaflow,XL/2+": {"batch_size": 1024, "steps": 75_000, "sampler": "consistency", "grid": "bent:middle=0.5", "guidance.k": 0.92},
    "dmf,XL/2+": {"model.size": "XL", "model.patch": 2},
    "shortcut,B/2": {"model.size": "B", "model.patch": 2},
    "shortcut,XL/2": {"model.size": "XL", "model.patch": 2},
    "facm,XL/1": {},
}  # fmt: skip
UNET = {
    "data.name": "cifar10", "data.labels": False, "model.name": "unet", "model.channels": 128, "model.multipliers": (2, 2, 2),
    "model.blocks": 4, "model.attention_at": (16,), "model.dtype": "float32",
}  # fmt: skip
PUBLISHED_UNET = {
    **UNET, "model.frequencies": 2, "model.resample": (1, 3, 3, 1), "model.last_scale": 1e-5, "data.flip": False,
    "data.augment": "edm:probability=0.12,x_flip=1,y_flip=0,rotation=0", "method.p": 0.75, "method.c": 1e-3, "batch_size": 1024,
}  # fmt: skip
PY_MEANFLOW = {
    **PUBLISHED_UNET, "data.flip": True, "model.dropout": 0.2, "optim.name": "adam", "optim.learning_rate": 6e-4,
    "optim.kwargs": {"b1": 0.9, "b2": 0.999}, "optim.warmup_steps": 9_765, "optim.schedule": "constant", "method.diagonal": "1/4",
    "ema": ("constant:decay=0.9999,every=16", "constant:decay=0.99995,every=16", "constant:decay=0.9996,every=16"),
}  # fmt: skip
SCM = {
    **UNET, "data.deviation": 0.5, "data.flip": False, "optim.name": "radam", "optim.learning_rate": 1e-4, "batch_size": 512,
    "optim.kwargs": {"b1": 0.9, "b2": 0.99, "eps": 1e-8}, "optim.schedule": "constant", "method.times": LN(-1.0, 1.4),
    "method.c": 0.1, "method.warmup_steps": 10_000, "ema": ("half_life:images=500_000,ramp=0",), "steps": 400_000,
    "model.parameterisation": "trigflow", "sampler": "consistency",
}  # fmt: skip
CM = {**UNET, "batch_size": 512, "steps": 800_000, "optim.name": "radam", "ema": ("constant:decay=0.9999",), "data.flip": False}
FLOW_MAPS = {
    **UNET, "data.deviation": 0.5, "data.flip": False, "model.dropout": 0.13, "batch_size": 512, "steps": 400_000,
    "optim.name": "radam", "optim.learning_rate": 1e-2, "optim.schedule": "sqrt:steps=35_000", "optim.clip_norm": 1.0,
    "ema": ("constant:decay=0.9999", "constant:decay=0.999"), "method.diagonal": "3/4", "method.times": ("uniform_triangle",),
    "method.anchor_times": ("uniform",), "method.learned_weight": True,
    "eval_every": 10_000, "eval_samples": 10_000, "eval_steps": (1, 2, 4, 8, 16),
}  # fmt: skip
CIFAR10 = {
    "meanflow": {**PY_MEANFLOW, "steps": 800_000, "method.times": ("sorted_pair", LN(-2.0, 2.0))},
    "meanflow_v1": {**PY_MEANFLOW, "steps": 781_250, "method.times": ("two_sided", LN(-0.6, 1.6), LN(-4.0, 1.6), 0.0)},
    "soflow": {
        **PUBLISHED_UNET, "model.dropout": 0.3, "optim.name": "radam", "optim.learning_rate": 1e-4,
        "optim.kwargs": {"b1": 0.9, "b2": 0.999}, "steps": 800_000, "method.diagonal": "0", "method.a_start": 1.0,
        "method.times": ("two_sided", LN(-0.9, 1.6), LN(-4.0, 1.6)), "method.a_end": 0.0003125,
        "ema": ("constant:decay=0.9999,every=16",), "sampler": "consistency",
    },
    "sct": {**SCM, "model.dropout": 0.2},
    "scd": {**SCM, "model.dropout": 0.0, "method.velocity": "teacher"},
    "ect": {
        **UNET, "batch_size": 128, "steps": 200_000, "optim.name": "radam", "optim.learning_rate": 1e-4, "model.dropout": 0.2,
        "data.flip": False, "ema": ("constant:decay=0.9999",), "method.times": LN(-1.1, 2.0), "method.q": 2.0, "method.k": 8.0,
        "method.stages": 8, "model.parameterisation": "edm",
    },
    "ct": {**CM, "optim.learning_rate": 2e-4, "method.first_levels": 2, "method.last_levels": 150},
    "cd": {**CM, "optim.learning_rate": 4e-4, "method.levels": 18},
    "pd": {
        **UNET, "batch_size": 128, "steps": 50_000, "optim.name": "adam", "optim.learning_rate": 5e-5, "optim.schedule": "linear",
        "optim.clip_norm": 1.0, "ema": (), "method.steps": 4096,
    },
    "pid": {
        **UNET, "batch_size": 512, "steps": 800_000, "optim.name": "radam", "optim.learning_rate": 2e-4,
        "model.parameterisation": "denoised_field", "method.levels": 250,
    },
    "lsd": FLOW_MAPS, "psd": FLOW_MAPS, "esd": FLOW_MAPS,
}  # fmt: skip
FIELDS = {
    "imagenet256": {name: ALL_OF[name.partition(",")[0]] | fields for name, fields in IMAGENET.items()},
    "cifar10": CIFAR10,
}
RUNS = [(file, choice) for file, choices in FIELDS.items() for choice in choices]


def config_of(file, choice):
    return FILES[file].get_config(choice)


def value(config, name):
    """The value of a field, "ema.0" for an entry of a tuple."""
    got = functools.reduce(lambda node, part: node[int(part) if part.isdigit() else part], name.split("."), config)
    return got.to_dict() if hasattr(got, "to_dict") else got


def test_the_files_have_the_published_runs_and_no_others():
    assert results.runs() == RUNS
    assert {file: list(runs) for file, runs in published.RESULTS.items()} == {file: list(runs) for file, runs in FIELDS.items()}


@pytest.mark.parametrize("file", FIELDS)
def test_every_field_is_the_published_one(file):
    for choice, fields in FIELDS[file].items():
        config = config_of(file, choice)
        for name, expected in fields.items():
            got = value(config, name)
            same = got == pytest.approx(expected) if isinstance(expected, float) else got == expected
            assert same, (choice, name, got, expected)
        settings.read(config)  # no field that the trainer does not know


def test_networks_have_the_published_sizes():
    """Width, depth and heads stand in the config beside the name of the size."""
    dit = {"B": (768, 12, 12), "M": (1024, 16, 16), "L": (1024, 24, 16), "XL": (1152, 28, 16)}
    mit = {"B": (768, 12, 12), "M": (768, 24, 12), "L": (1024, 32, 16), "XL": (1024, 48, 16)}
    pixel = {"B": (768, 16, 12), "L": (1024, 32, 16), "H": (1280, 48, 16)}
    for choice in IMAGENET:
        method, size = choice.split(",")
        table = {"imf": mit, "pmf": pixel, "tvm": {"XL": (1152, 28, 18)}}.get(method, dit)
        model = config_of("imagenet256", choice).model
        assert (model.width, model.depth, model.heads) == table[size.partition("/")[0]], choice
        if method in ("imf", "pmf"):
            assert model.head_depth == 8
            assert model.bottleneck == {"imf": 0, "pmf": 256 if size == "H/16" else 128}[method]


def test_the_two_steps_begin_at_the_published_times():
    middle = lambda choice: float(config_of("cifar10", choice).grid.partition("=")[2])
    for choice in ("sct", "scd"):  # at the angle 1.1 of x = cos x0 + sin eps, sigma_d aside
        assert middle(choice) == pytest.approx(np.sin(1.1) / (np.sin(1.1) + np.cos(1.1)), abs=1e-5)
    assert middle("ect") / (1 - middle("ect")) == pytest.approx(0.821, abs=1e-4)


def checked(file, choice, devices):
    """A config through all checks, on so many devices that do not exist; nothing is traced."""
    chosen = settings.read(config_of(file, choice))._replace(start="")
    config_checks.check(chosen, runs.Sketch(chosen, devices))


@pytest.mark.slow
def test_every_run_fits_one_device_and_as_many_as_a_pod_has():
    for file, choice in RUNS:
        for devices in (1, 64, min(256, config_of(file, choice).batch_size)):
            checked(file, choice, devices)


# The last and largest of meanflow, of imf, ...: the others differ in numbers alone. Of CIFAR-10's U-Net, which takes longest, one
# run of each kind: of both rules, with a teacher, of stages.
TRACED = [
    run for run in {(file, choice.partition(",")[0]): (file, choice) for file, choice in RUNS}.values() if run[0] != "cifar10"
]
TRACED += [("cifar10", choice) for choice in ("meanflow", "lsd", "cd", "ect")]
QUICK = [("imagenet256", "meanflow,XL/2+")]


@pytest.mark.parametrize(
    ("file", "choice"),
    [pytest.param(*run, marks=() if run in QUICK else pytest.mark.slow, id="-".join(run)) for run in TRACED],
)
def test_every_run_traces_by_shapes_alone(file, choice):
    """On 64 devices that do not exist, eight of which share the state, without data. The counts are those of the committed page."""
    config = config_of(file, choice)
    config.mesh.fsdp = 8
    run = runs.sketch(config, 64)
    found = estimates.of_run(run)
    assert found.state["params"] < 1.1 * 4 * found.trained / 8
    (row,) = (row for row in results.read() if (row["file"], row["run"]) == (file, choice))
    assert found.parameters == int(row["parameters"]) and found.flops == pytest.approx(float(row["flops"]), rel=1e-3)


def test_the_page_is_what_the_script_writes():
    """It has every run, with as many parameters as the paper's."""
    assert [(row["file"], row["run"]) for row in results.read()] == results.runs()
    for row in results.read():
        paper = published.RESULTS[row["file"]][row["run"]].parameters
        assert paper is None or int(row["parameters"]) / 1e6 == pytest.approx(paper, abs=1.0), row["run"]
    assert (ROOT / "docs" / "results.md").read_text() == results.page(results.read())
    hours = list(csv.DictReader((ROOT / results.HOURS).read_text().splitlines()))
    assert hours == results.pods(results.read())


@pytest.mark.parametrize(
    ("file", "choice", "message"),
    [
        ("imagenet256", "meanflow", "names no size; expected METHOD,SIZE with a size of B/4, B/2, M/2, L/2, XL/2, XL/2+"),
        ("imagenet256", "meanflw,XL/2", "unknown method of configs/imagenet256.py 'meanflw'; did you mean meanflow.*Known: meanflow, imf"),
        ("imagenet256", "imf,XL/4", r"unknown size of imf in configs/imagenet256.py 'XL/4'.*Known: B/2, M/2, L/2, XL/2\."),
        ("cifar10", "scm", "unknown run of configs/cifar10.py 'scm'.*Known: meanflow, meanflow_v1, soflow, sct, scd"),
    ],
)  # fmt: skip
def test_a_wrong_choice(file, choice, message):
    with pytest.raises(typing.InputError, match=message) as caught:
        config_of(file, choice)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_dry_run_for_64_devices_needs_neither_them_nor_data():
    command = [sys.executable, "-m", "experiments.train", "--config=configs/imagenet256.py:meanflow,B/4", "--dry_run"]
    run = functools.partial(subprocess.run, cwd=ROOT, capture_output=True, text=True)
    shown = run([*command, "--devices=64", "--utilisation=0.5", "--chip=NVIDIA H200"], check=True).stdout
    assert "mesh: data 64, fsdp 1" in shown and "parameters: 131.2 million" in shown and "state on each device" in shown
    assert "device-hours of NVIDIA H200 at 50%" in shown
    wrong = run([*command[:-1], "--devices=64", "--workdir=runs/nowhere"])
    assert wrong.returncode == 2 and "--devices is for --dry_run" in wrong.stderr and "Traceback" not in wrong.stderr
