"""Published runs on CIFAR-10: --config=configs/cifar10.py:METHOD

    python -m experiments.train --config=configs/cifar10.py:meanflow --workdir=runs/meanflow_cifar10
    python -m experiments.train --config=configs/cifar10.py:ect --dry_run --devices=64

METHOD: meanflow (the paper's), meanflow_v1 (the second version of its authors' code), soflow, sct and scd (sCM's training and
distillation), ect, ct, cd, pd, pid, lsd, psd, esd. All are unconditional.

Each table has the fields that its authors chose, under the names of the command line. Published numbers, evaluation protocols,
parameters and estimated device-hours of all of them: docs/results.md. None was run here: they need days of an accelerator. Where ours
still differs from the authors' code: docs/deviations.md.

Data: CIFAR-10 through TFDS. A method that distils starts from its teacher, a run of flow_matching with the same network, data.labels
False and the same data.deviation: config.teacher. ect starts from such a run, too: config.start.
"""

from configs import published
from flowjax import checks

DATA = {"data.name": "cifar10", "data.labels": False, "method.label_drop": 0.0}
# DDPM++ as EDM has it for CIFAR-10. EDM2's and NCSN++ are not here; where the authors have those, this one stands for them.
UNET = {"model.channels": 128, "model.multipliers": (2, 2, 2), "model.blocks": 4, "model.attention_at": (16,)}
# Gsunshine/py-meanflow: 256 sines and cosines of each time, resampling by [1, 3, 3, 1], a small last layer, EDM's augmentation.
MEANFLOW_UNET = {
    **UNET,
    "model.frequencies": 2, "model.resample": (1, 3, 3, 1), "model.last_scale": 1e-5,
    "model.inputs": ("augmentation",), "data.augment": "edm:probability=0.12,x_flip=1,y_flip=0,rotation=0",
}  # fmt: skip
TEACHER = {"teacher": "runs/cifar10_teacher", "start": "teacher"}

# arXiv 2505.13447 and Gsunshine/py-meanflow 1f6d72d, its "v0". The averages are float64 there. Its data set flips images, too.
MEANFLOW = {
    **DATA, **MEANFLOW_UNET, "model.dropout": 0.2, "data.flip": True,
    "method.times": ("sorted_pair", ("logit_normal", -2.0, 2.0)), "method.diagonal": "1/4", "method.p": 0.75, "method.c": 1e-3,
    "batch_size": 1024, "steps": 800_000,
    "optim.name": "adam", "optim.learning_rate": 6e-4, "optim.kwargs": {"b1": 0.9, "b2": 0.999},
    "optim.warmup_steps": published.steps(200, 1024, images=50_000),
    "ema": tuple(f"constant:decay={decay},every=16" for decay in (0.9999, 0.99995, 0.9996)),
}  # fmt: skip
# The same repository's "v1": other times, 16,000 epochs.
MEANFLOW_V1 = {
    **MEANFLOW,
    "method.times": ("two_sided", ("logit_normal", -0.6, 1.6), ("logit_normal", -4.0, 1.6), 0.0),
    "steps": published.steps(16_000, 1024, images=50_000),
}  # fmt: skip

# arXiv 2512.15657; no rows on the diagonal, which its authors meant.
SOFLOW = {
    **DATA, **MEANFLOW_UNET, "model.dropout": 0.3,
    "method.times": ("two_sided", ("logit_normal", -0.9, 1.6), ("logit_normal", -4.0, 1.6)), "method.diagonal": "0",
    "method.a_start": 1.0, "method.a_end": 0.0003125, "method.p": 0.75, "method.c": 1e-3,
    "batch_size": 1024, "steps": 800_000,
    "optim.name": "radam", "optim.learning_rate": 1e-4, "optim.kwargs": {"b1": 0.9, "b2": 0.999},
    "ema": ("constant:decay=0.9999,every=16",), "sampler": "consistency",
}  # fmt: skip

# arXiv 2410.11081, appendix G. Its times are of sigma / sigma_d with sigma_d 0.5, as of data divided by 0.5. The second step starts at
# the angle 1.1, where sigma / sigma_d is tan 1.1. The number of iterations is that of its comparison with ECT, not printed here.
SCT = {
    **DATA, "data.deviation": 0.5, **UNET, "model.parameterisation": "trigflow", "model.dropout": 0.2,
    "method.times": ("logit_normal", -1.0, 1.4), "method.warmup_steps": 10_000, "method.c": 0.1,
    "batch_size": 512, "steps": 400_000,
    "optim.name": "radam", "optim.learning_rate": 1e-4, "optim.kwargs": {"b1": 0.9, "b2": 0.99, "eps": 1e-8},
    "ema": ("half_life:images=500_000,ramp=0",),
    "sampler": "consistency", "grid": "bent:middle=0.66271",
    "start": "runs/cifar10_teacher",
}  # fmt: skip
SCD = {**SCT, **TEACHER, "method.velocity": "teacher", "model.dropout": 0.0}

# arXiv 2406.14548 and locuslab/ect 4311059: from EDM's network. The second step starts at the noise level 0.821. c 1e-8 is the 0 of
# the paper, with a finite gradient.
ECT = {
    **DATA, **UNET, "model.parameterisation": "edm", "model.dropout": 0.2,
    "method.times": ("logit_normal", -1.1, 2.0), "method.q": 2.0, "method.k": 8.0, "method.stages": 8, "method.c": 1e-8,
    "batch_size": 128, "steps": 200_000,
    "optim.name": "radam", "optim.learning_rate": 1e-4, "ema": ("constant:decay=0.9999",),
    "sampler": "consistency", "grid": f"bent:middle={0.821 / 1.821:.5f}",
    "start": "runs/cifar10_teacher",
}  # fmt: skip

# arXiv 2303.01469 and openai/consistency_models_cifar10 d086e77. Their distance is LPIPS, whose weights are not here: l2.
CM = {
    **DATA, **UNET, "model.parameterisation": "edm",
    "batch_size": 512, "steps": 800_000,
    "optim.name": "radam", "ema": ("constant:decay=0.9999",),
    "sampler": "consistency",
}  # fmt: skip
CT = {**CM, "method.first_levels": 2, "method.last_levels": 150, "optim.learning_rate": 2e-4}
CD = {**CM, **TEACHER, "method.levels": 18, "method.solver": "heun", "optim.learning_rate": 4e-4}

# arXiv 2202.00512 and google-research/diffusion_distillation 1d4d2f1: one stage of 8,192 -> 4,096 -> ... -> 1. The next one:
# --config.method.steps=2048 --config.method.teacher=map --config.teacher=runs/THIS.
PD = {
    **DATA, **UNET, **TEACHER, "model.parameterisation": "denoised_field",
    "method.steps": 4096, "method.teacher": "velocity",
    "batch_size": 128, "steps": 50_000,
    "optim.name": "adam", "optim.learning_rate": 5e-5, "optim.schedule": "linear", "optim.clip_norm": 1.0,
    "ema": (), "eval_steps": (4096,),
}  # fmt: skip

# arXiv 2411.08378 and pantheon5100/pid_diffusion b99605b. The distance is LPIPS there, l2 here.
PID = {
    **DATA, **UNET, **TEACHER, "model.parameterisation": "denoised_field", "method.levels": 250,
    "batch_size": 512, "steps": 800_000,
    "optim.name": "radam", "optim.learning_rate": 2e-4,
    "ema": ("constant:decay=0.9999",), "eval_steps": (1,),
}  # fmt: skip

# arXiv 2505.18825 and its authors' code, whose network is EDM2's, with learned weights of the terms. Noise of deviation 0.5 there is
# data of deviation 1 here.
FLOW_MAPS = {
    **DATA, "data.deviation": 0.5, **UNET, "model.dropout": 0.13,
    "method.times": ("uniform_triangle",), "method.anchor_times": ("uniform",), "method.diagonal": "3/4",
    "method.learned_weight": True,
    "batch_size": 512, "steps": 400_000,
    "optim.name": "radam", "optim.learning_rate": 1e-2, "optim.schedule": "sqrt:steps=35_000", "optim.clip_norm": 1.0,
    "ema": ("constant:decay=0.9999", "constant:decay=0.999"),
    "eval_every": 10_000, "eval_samples": 10_000, "eval_steps": (1, 2, 4, 8, 16),
}  # fmt: skip

RUNS = {
    "meanflow": ("meanflow", MEANFLOW),
    "meanflow_v1": ("meanflow", MEANFLOW_V1),
    "soflow": ("soflow", SOFLOW),
    "sct": ("scm", SCT),
    "scd": ("scm", SCD),
    "ect": ("ect", ECT),
    "ct": ("ct", CT),
    "cd": ("cd", CD),
    "pd": ("pd", PD),
    "pid": ("pid", PID),
    "lsd": ("lsd", FLOW_MAPS),
    "psd": ("psd", FLOW_MAPS),
    "esd": ("esd", FLOW_MAPS),
}


def get_config(choice="meanflow"):
    """The config of a published run.

    Raises:
      InputError: for an unknown one; the sentence lists what there is.
    """
    checks.member("run of configs/cifar10.py", choice, RUNS)
    method, table = RUNS[choice]
    return published.config(method, "unet", table)
