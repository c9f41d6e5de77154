"""Published runs on ImageNet at 256 pixels: --config=configs/imagenet256.py:METHOD,SIZE

    python -m experiments.train --config=configs/imagenet256.py:meanflow,XL/2 --config.data.dir=latents --workdir=runs/meanflow
    python -m experiments.train --config=configs/imagenet256.py:meanflow,XL/2 --dry_run --devices=64

METHOD and SIZE: meanflow (B/4, B/2, M/2, L/2, XL/2, XL/2+), imf (B/2, M/2, L/2, XL/2), pmf (B/16, L/16, H/16), tvm (XL/2-w2,
XL/2-w1.75), soflow (B/4, B/2, M/2, L/2, XL/2), alphaflow (B/2, XL/2, XL/2+), dmf (XL/2+), shortcut (B/2, XL/2), facm (XL/1). A
plus is the paper's longer or continued training.

Each table has the fields that its authors chose, under the names of the command line; "" are those of all sizes. Published numbers,
evaluation protocols, parameters and estimated device-hours of all of them: docs/results.md. None was run here: they need a pod.
Where ours still differs from the authors' code: docs/deviations.md.

Data: arrays in a folder, config.data.dir (flowjax/data/stored.py). Latents are drawn anew from their mean and deviation each time
they are read, then (x - data.mean) / data.deviation. Memory on large networks: --config.model.remat=nothing_saveable, docs/pods.md.
"""

from configs import published
from configs.published import steps
from flowjax import checks, typing

LATENTS = {"data.name": "imagenet256_latents"}
# Of the autoencoder of Stable Diffusion, sd-vae-ft-mse or -ema: its own factor, or statistics of each channel.
FACTOR = {"data.deviation": 1 / 0.18215}
CHANNELS = {
    "data.mean": (0.86488, -0.27787343, 0.21616915, 0.3738409),
    "data.deviation": (4.85503674, 5.31922414, 3.93725398, 3.9870003),
}
DIT = {
    size: {"model.size": size.split("/")[0], "model.patch": int(size.split("/")[1])}
    for size in ("B/4", "B/2", "M/2", "L/2", "XL/2")
}

# arXiv 2505.13447, Table 4. guidance.scale is w' = omega / (1 - kappa), guidance.k is kappa: B, M and XL/2+ have omega 1, L and XL
# omega 0.2, B/4 omega w'.
MEANFLOW = {
    "": {
        **LATENTS, **FACTOR,
        "method.times": ("sorted_pair", ("logit_normal", -0.4, 1.0)), "method.diagonal": "3/4",
        "method.p": 1.0, "method.c": 0.01, "method.label_drop": 0.1,
        "guidance.kind": "meanflow",
        "batch_size": 256, "steps": 1_200_000,  # 240 epochs
        "optim.name": "adam", "optim.learning_rate": 1e-4, "optim.kwargs": {"b1": 0.9, "b2": 0.95},
        "ema": ("constant:decay=0.9999",),
    },
    "B/4": {**DIT["B/4"], "steps": 400_000, "guidance.scale": (3.0, 3.0), "guidance.k": 0.0},
    "B/2": {**DIT["B/2"], "guidance.scale": (2.0, 2.0), "guidance.k": 0.5},
    "M/2": {**DIT["M/2"], "guidance.scale": (2.0, 2.0), "guidance.k": 0.5},
    "L/2": {**DIT["L/2"], "guidance.scale": (2.5, 2.5), "guidance.k": 0.92, "guidance.interval": (0.0, 0.8)},
    "XL/2": {**DIT["XL/2"], "guidance.scale": (2.5, 2.5), "guidance.k": 0.92, "guidance.interval": (0.0, 0.75)},
    "XL/2+": {
        **DIT["XL/2"], "steps": 5_000_000,  # 1,000 epochs
        "guidance.scale": (2.0, 2.0), "guidance.k": 0.5, "guidance.interval": (0.3, 0.8),
    },
}  # fmt: skip

# arXiv 2512.02012; the exponent 1 of the scales' density is the authors' for B, of the other sizes the paper says "1 or 2". Inference:
# --guidance and --guidance_interval of the best FID, eval_guidance and eval_interval.
IMF = {
    "": {
        **LATENTS, **CHANNELS,
        "method.times": ("sorted_pair", ("logit_normal", -0.4, 1.0)), "method.diagonal": "1/2", "method.heads": 2,
        "method.p": 1.0, "method.c": 0.01, "method.label_drop": 0.1,
        "guidance.kind": "imf", "guidance.scale": (1.0, 8.0),
        "batch_size": 1024, "steps": steps(640, 1024),
        "optim.name": "adam", "optim.learning_rate": 1e-4, "optim.kwargs": {"b1": 0.9, "b2": 0.95},
        "optim.warmup_steps": steps(10, 1024),
        "ema": ("constant:decay=0.9999",),
        "model.patch": 2,
    },
    "B/2": {"model.size": "B", "eval_guidance": 8.0, "eval_interval": (0.4, 0.65)},
    "M/2": {"model.size": "M", "eval_guidance": 10.5, "eval_interval": (0.4, 0.6)},
    "L/2": {"model.size": "L", "eval_guidance": 10.5, "eval_interval": (0.4, 0.6)},
    "XL/2": {"model.size": "XL", "eval_guidance": 8.0, "eval_interval": (0.42, 0.62)},  # at two steps 4.0 in (0.36, 0.64)
}  # fmt: skip

# arXiv 2601.22158, Tables 6 to 8. The repository has power 1 and 320 epochs for H. method.perceptual: LPIPS with weight 0.4 and
# ConvNeXt-V2 with 0.1, which must be given as a callable or by the name of an extra that registers one.
PMF = {
    "": {
        "data.name": "imagenet256", "model.parameterisation": "denoised_field", "model.patch": 16,
        "method.times": ("sorted_pair", ("logit_normal", 0.8, 0.8)),
        "method.diagonal": "1/2", "method.heads": 2, "method.p": 1.0, "method.c": 0.01, "method.label_drop": 0.1,
        "guidance.kind": "imf", "guidance.scale": (1.0, 8.0),
        "batch_size": 1024, "steps": steps(320, 1024),
        "optim.name": "muon", "optim.learning_rate": 1e-3, "optim.kwargs": {"beta": 0.95, "adam_b1": 0.9, "adam_b2": 0.95},
    },
    "B/16": {
        "model.size": "pixel-B",
        "ema": tuple(f"half_life:images={images},ramp=0.05" for images in ("2_000_000", "500_000", "1_000_000")),
        "eval_guidance": 8.5, "eval_interval": (0.1, 0.7),
    },
    "L/16": {
        "model.size": "pixel-L",
        "ema": tuple(f"half_life:images={images},ramp=0.05" for images in ("1_000_000", "500_000", "2_000_000")),
        "eval_guidance": 7.0, "eval_interval": (0.2, 0.7), "guidance.power": 2.0,
    },
    "H/16": {
        "model.size": "pixel-H", "steps": steps(360, 1024),
        "ema": tuple(f"half_life:images={images},ramp=0.05" for images in ("1_000_000", "500_000", "2_000_000")),
        "eval_guidance": 7.0, "eval_interval": (0.2, 0.6), "guidance.power": 2.0,
        # the longer training
        "method.times": ("sorted_pair", ("logit_normal", 0.0, 0.8)), "method.anchor_times": ("logit_normal", 0.0, 0.8),
        "method.uniform_share": 0.1, "method.perceptual_below": 0.6, "method.path": "linear:noise=2",
    },
}  # fmt: skip

# arXiv 2511.19797, Tables 1 to 6. One run a guidance scale, which is an input of the network all the same.
TVM = {
    "": {
        **LATENTS, **CHANNELS,
        "method.times": ("gap_first", -0.8, 1.0, -0.4, 1.0), "method.anchor_times": ("logit_normal", -0.4, 1.0),
        "method.ema": 0.99, "method.label_drop": 0.1,
        "guidance.kind": "tvm", "model.inputs": ("guidance",),
        "model.size": "XL", "model.patch": 2, "model.scale_output": True, "model.dtype": "bfloat16",
        "batch_size": 2048, "steps": 300_000,
        "optim.name": "adamw", "optim.learning_rate": 1e-4,
        "optim.kwargs": {"b1": 0.9, "b2": 0.95, "eps": 1e-8, "weight_decay": 0.0},
        "ema": ("constant:decay=0.9999",),
    },
    "XL/2-w2": {"guidance.scale": (2.0, 2.0), "model.embedder_init": "spectral"},
    "XL/2-w1.75": {"guidance.scale": (1.75, 1.75), "model.embedder_init": "normal", "eval_steps": (1, 2, 4)},
}  # fmt: skip

# arXiv 2512.15657 and the authors' code. The guidance scale 3 is that of B/4; of the other sizes it is not verified. Float32 matmuls
# are TF32 there.
SOFLOW = {
    "": {
        **LATENTS, **FACTOR,
        "method.times": ("two_sided", ("logit_normal", 0.2, 0.8), ("logit_normal", -1.0, 0.8)),
        "method.anchor_times": ("logit_normal", -0.2, 1.0), "method.diagonal": "3/4",
        "method.a_start": 0.1, "method.a_end": 0.002, "method.p": 1.0, "method.c": 0.01, "method.label_drop": 0.1,
        "guidance.kind": "soflow", "guidance.scale": (3.0, 3.0), "guidance.mix": 0.25, "guidance.decay": 0.8,
        "batch_size": 256, "steps": 1_200_000,  # 240 epochs
        "optim.name": "adamw", "optim.learning_rate": 1e-4, "optim.kwargs": {"b1": 0.9, "b2": 0.99, "weight_decay": 0.0},
        "ema": ("constant:decay=0.9999",), "sampler": "consistency",
    },
    "B/4": {**DIT["B/4"], "steps": 400_000},
    **{size: DIT[size] for size in ("B/2", "M/2", "L/2", "XL/2")},
}  # fmt: skip

# arXiv 2510.20771, Table 3 and appendix; its kappa of 1.0 for B/2 is a misprint of 0.5. start and end are shares of the training: the
# sigmoid spans steps 0 to 1.2 M of B/2, 600 k to 1 M of XL/2. The autoencoder's statistics are estimated there and not printed; TVM's
# of the same one stand here. A half-life of 6,931 steps is given in images.
ALPHAFLOW = {
    "": {
        **LATENTS, **CHANNELS,
        "method.times": ("sorted_pair", ("logit_normal", -0.4, 1.0)),
        "method.steepness": 25.0, "method.snap": 0.005, "method.p": 1.0, "method.c": 1e-3, "method.clip": 4.0,
        "method.label_drop": 0.1,
        "guidance.kind": "meanflow", "model.patch": 2, "model.dtype": "bfloat16",
        "batch_size": 256, "steps": 1_200_000,
        "optim.name": "adam", "optim.learning_rate": 1e-4, "optim.kwargs": {"b1": 0.9, "b2": 0.95},
        "optim.warmup_steps": 10_000, "optim.clip_norm": 16.0,
        "ema": (f"half_life:images={6931 * 256},ramp=0.05",),
    },
    "B/2": {
        "model.size": "B", "method.diagonal": "1/4", "method.start": 0.0, "method.end": 1.0,
        "guidance.scale": (2.0, 2.0), "guidance.k": 0.5, "sampler": "flow_map", "grid": "bent:middle=0.5",
    },
    "XL/2": {
        "model.size": "XL", "method.diagonal": "1/2", "method.start": 600 / 1200, "method.end": 1000 / 1200,
        "guidance.scale": (2.5, 2.5), "guidance.k": 0.92, "guidance.interval": (0.0, 0.75),
        "sampler": "consistency", "grid": "bent:middle=0.55",
    },
    # Continues XL/2, whose a is 0 by then: the span lies before the first step.
    "XL/2+": {
        "model.size": "XL", "method.diagonal": "1/2", "method.start": -1.0, "method.end": 0.0,
        "guidance.scale": (2.5, 2.5), "guidance.k": 0.92, "guidance.interval": (0.0, 0.75),
        "sampler": "consistency", "grid": "bent:middle=0.5",
        "batch_size": 1024, "steps": 75_000, "start": "runs/alphaflow_xl2",
    },
}  # fmt: skip

# arXiv 2510.24474 and the authors' code: from SiT-XL/2 + REPA, whose weights config.start names; ft-ema decodes.
DMF = {
    "": {
        **LATENTS, **FACTOR,
        "method.times": ("sorted_sides", ("logit_normal", 0.4, 1.0), ("logit_normal", -1.2, 1.0)),
        "method.anchor_times": ("logit_normal", 0.0, 1.0), "method.diagonal": "both", "method.c": 0.01, "method.label_drop": 0.1,
        "guidance.kind": "dmf", "guidance.scale": (2.5, 2.5), "guidance.interval": (0.0, 0.7),
        "batch_size": 256, "steps": 400_000, "start": "sit_xl2_repa.safetensors",
        "optim.name": "adamw", "optim.learning_rate": 1e-4, "optim.kwargs": {"b1": 0.9, "b2": 0.95, "weight_decay": 0.0},
        "optim.clip_norm": 1.0,
        "ema": ("constant:decay=0.9999",), "eval_steps": (1, 2, 4),
    },
    "XL/2+": {"model.size": "XL", "model.patch": 2, "model.source_depth": 20, "model.dtype": "bfloat16"},
}  # fmt: skip

# arXiv 2410.12557 and the authors' code, which evaluates the live weights. Images are flipped before they are encoded.
SHORTCUT = {
    "": {
        **LATENTS, **FACTOR, "data.flip": True,
        "method.sections": 128, "method.diagonal": "7/8", "method.cfg": 1.5, "method.clip": 4.0, "method.ema": 0.999,
        "method.label_drop": 0.1, "model.parameterisation": "dyadic", "model.dtype": "bfloat16",
        "batch_size": 256, "steps": 810_000,
        "optim.name": "adamw", "optim.learning_rate": 1e-4, "optim.kwargs": {"b1": 0.9, "b2": 0.999, "weight_decay": 0.1},
        "ema": (), "eval_steps": (1, 4, 128),
    },
    "B/2": DIT["B/2"],
    "XL/2": DIT["XL/2"],
}  # fmt: skip

# arXiv 2507.03738 and the authors' code: a LightningDiT there, a DiT here, on latents of VA-VAE, to be stored normalised. Its averages
# are made after the fact (sigma_rel 0.05 and 0.2); 0.9999 is ours. 400 epochs are those of the FID at one step.
FACM = {
    "": {
        "data.name": "imagenet256_vavae_latents",
        "method.p": 0.5, "method.c": 1e-3, "method.label_drop": 0.1,
        "guidance.kind": "classifier_free", "guidance.scale": (1.75, 1.75), "guidance.interval": (0.0, 0.875),
        "batch_size": 1024, "steps": steps(400, 1024), "teacher": "runs/facm_teacher", "start": "teacher",
        "optim.name": "adamw", "optim.learning_rate": 1e-4, "optim.kwargs": {"b1": 0.9, "b2": 0.999}, "optim.clip_norm": 1.0,
        "ema": ("constant:decay=0.9999",), "sampler": "consistency",
    },
    "XL/1": {"model.size": "XL", "model.patch": 1, "model.dtype": "bfloat16"},
}  # fmt: skip

RUNS = {
    "meanflow": ("dit", MEANFLOW),
    "imf": ("mit", IMF),
    "pmf": ("mit", PMF),
    "tvm": ("semi_lipschitz_dit", TVM),
    "soflow": ("dit", SOFLOW),
    "alphaflow": ("dit", ALPHAFLOW),
    "dmf": ("decoupled_dit", DMF),
    "shortcut": ("dit", SHORTCUT),
    "facm": ("dit", FACM),
}


def sizes(method):
    """The sizes of a method."""
    return [size for size in RUNS[method][1] if size]


def get_config(choice="meanflow,XL/2"):
    """The config of a choice "METHOD,SIZE".

    Raises:
      InputError: for an unknown method or size; the sentence lists what there is.
    """
    method, comma, size = choice.partition(",")
    checks.member("method of configs/imagenet256.py", method, RUNS)
    if not comma:
        raise typing.InputError(
            f"--config=configs/imagenet256.py:{choice} names no size; expected METHOD,SIZE with a size of"
            f" {', '.join(sizes(method))}: {choice},{sizes(method)[-1]}."
        )
    checks.member(f"size of {method} in configs/imagenet256.py", size, sizes(method))
    network, table = RUNS[method]
    return published.config(method, network, table[""], table[size])
