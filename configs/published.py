"""Published runs: how a table of fields becomes a config, and what the papers report. configs/imagenet256.py and cifar10.py have
the tables; docs/results.md is written from all three by experiments.results.
"""

from typing import NamedTuple

from configs import common
from flowjax import checks, models

# How the numbers of a paper were measured. FIDs of different protocols do not compare to the second digit.
PROTOCOLS = {
    "": "not stated",
    "he": "FID of 50,000 samples with random labels against the training set, ADM's crops; Inception in JAX with half-pixel resizing",
    "he balanced": "FID of 50,000 samples, 50 of each class, against the training set; Inception in JAX with half-pixel resizing",
    "adm": "FID of 50,000 samples against ADM's VIRTUAL_imagenet256 statistics",
    "edm2": "FID of 50,000 samples by EDM2's tool against its statistics of ImageNet at 256 pixels",
    "50k": "FID of 50,000 samples; random labels where there are labels",
    "alphaflow": "FID of 50,000 samples with random labels",
    "10k": "FID of 10,000 samples every 10,000 steps",
}


class Published(NamedTuple):
    """What is known of a published run.

    Attributes:
      source: paper's table and the authors' code at a commit.
      protocol: a key of PROTOCOLS.
      parameters: millions, as the paper says; None: it does not.
      fid: {number of function evaluations: FID}.
      note: what the config cannot say.
    """

    source: str
    protocol: str = ""
    parameters: float | None = None
    fid: dict[int, float] = {}
    note: str = ""


# What published runs share. Evaluations are off: a FID of latents needs their decoder.
EVERY_RUN = {
    "eval_every": 0,
    "eval_samples": 50_000,
    "eval_steps": (1, 2),
    "log_every": 100,
    "save_every": 10_000,
    "optim.kwargs": {},
}
IMAGENET = 1_281_167  # training images


def steps(epochs, batch, images=IMAGENET):
    """Steps of so many epochs."""
    return epochs * images // batch


def config(method, network, *tables):
    """A config from its method, its network and tables of fields.

    Args:
      method: registry name of the method.
      network: name of the network.
      *tables: {field as on the command line, without "--config.": value}; later ones count. Fields of the method and the network that
        none has keep their defaults, which are the published ones of flowjax.methods and flowjax.models.
    """
    built = common.base("checkerboard", method=method)
    built.model = common.network(network)
    with built.ignore_type():
        for name, value in {**EVERY_RUN, **{name: value for table in tables for name, value in table.items()}}.items():
            section, field = _section(built, name)
            checks.member(f"field {name.rpartition('.')[0] or 'config'!r} of a config", field, section)
            section[field] = value
        if size := built.model.get("size"):  # so that a reader finds the numbers, too
            built.model.update(models.SIZES[network][size])
    return built


def _section(built, name):
    """The section of a field and its name there."""
    *sections, field = name.split(".")
    for part in sections:
        built = built[part]
    return built, field


_MF = "Table 4; Gsunshine/meanflow d70cb55"
_IMF = "tables as quoted by others; Lyy-iiis/imeanflow bf60cd7"
_PMF = "Tables 6-8; Lyy-iiis/pMF 75f6073, 51930aa"
_TVM = "Tables 1-6; lumalabs/tvm 82e8e5d"
_SOFLOW = "zlab-princeton/SoFlow 3b60d60"
_ALPHAFLOW = "Table 3; snap-research/alphaflow b0fef77"
_SHORTCUT = "kvfrans/shortcut-models 6010043"
_PY_MF = "Gsunshine/py-meanflow 1f6d72d"
_CM = "openai/consistency_models_cifar10 d086e77"
_FLOW_MAPS = "nmboffi/flow-maps, read in copies"
_OTHER_UNET = "the authors' network is {}, here a DDPM++ U-Net"

RESULTS = {
    "imagenet256": {
        "meanflow,B/4": Published(_MF, "he", 131, {1: 15.53}, "unguided 61.06; 5.6 GFLOPs a forward pass"),
        "meanflow,B/2": Published(_MF, "he", 131, {1: 6.17}, "23.1 GFLOPs"),
        "meanflow,M/2": Published(_MF, "he", 308, {1: 5.01}, "54.0 GFLOPs"),
        "meanflow,L/2": Published(_MF, "he", 459, {1: 3.84}, "80.9 GFLOPs"),
        "meanflow,XL/2": Published(_MF, "he", 676, {1: 3.43, 2: 2.93}, "119 GFLOPs"),
        "meanflow,XL/2+": Published(_MF, "he", 676, {2: 2.20}, "119 GFLOPs"),
        "imf,B/2": Published(_IMF, "he balanced", 89, {1: 3.39}, "3.37 in the repository; 24.9 GFLOPs"),
        "imf,M/2": Published(_IMF, "he balanced", 174, {1: 2.27}),
        "imf,L/2": Published(_IMF, "he balanced", 409, {1: 1.86}, "1.85 in the repository; 116.4 GFLOPs"),
        "imf,XL/2": Published(_IMF, "he balanced", 610, {1: 1.72, 2: 1.54}, "1.70 and 1.53 in the repository; 174.6 GFLOPs"),
        "pmf,B/16": Published(_PMF, "he balanced", 118, {1: 3.12}, "3.11 in the repository"),
        "pmf,L/16": Published(_PMF, "he balanced", 410, {1: 2.52}, "2.50 in the repository"),
        "pmf,H/16": Published(_PMF, "he balanced", 956, {1: 2.22}, "2.11 in the repository"),
        "tvm,XL/2-w2": Published(_TVM, "edm2", 678, {1: 3.29, 2: 2.80}),
        "tvm,XL/2-w1.75": Published(_TVM, "edm2", 678, {1: 4.58, 2: 2.61, 4: 1.99}),
        "soflow,B/4": Published(_SOFLOW, "adm", 131, {1: 11.59, 2: 8.22}, "unguided 58.56 and 58.22"),
        "soflow,B/2": Published(_SOFLOW, "adm", 131, {1: 4.85, 2: 4.24}, "the guidance scale is not verified"),
        "soflow,M/2": Published(_SOFLOW, "adm", 308, {1: 3.73, 2: 3.42}, "the guidance scale is not verified"),
        "soflow,L/2": Published(_SOFLOW, "adm", 459, {1: 3.20, 2: 2.90}, "the guidance scale is not verified"),
        "soflow,XL/2": Published(
            _SOFLOW, "adm", 676, {1: 2.96, 2: 2.66}, "the guidance scale is not verified; 3.35 as reviewed"
        ),
        "alphaflow,B/2": Published(_ALPHAFLOW, "alphaflow", 131, {1: 5.40, 2: 5.01}),
        "alphaflow,XL/2": Published(_ALPHAFLOW, "alphaflow", 676, {1: 2.95, 2: 2.34}),
        "alphaflow,XL/2+": Published(
            _ALPHAFLOW,
            "alphaflow",
            676,
            {1: 2.58, 2: 2.15},
            "after XL/2, whose hours come on top; balanced labels 2.44 and 1.95",
        ),
        "dmf,XL/2+": Published(
            "kyungmnlee/dmf a6db0f6", "edm2", 675, {1: 2.16, 2: 1.64, 4: 1.51}, "from SiT-XL/2 + REPA, 4 M steps, not counted"
        ),
        "shortcut,B/2": Published(_SHORTCUT, "50k", None, {1: 40.3, 4: 28.3, 128: 15.5}),
        "shortcut,XL/2": Published(_SHORTCUT, "50k", None, {1: 10.6, 4: 7.8, 128: 3.8}),
        "facm,XL/1": Published(
            "ali-vilab/FACM 9be03f7",
            "",
            None,
            {1: 1.70, 2: 1.32},
            "one step after 400 epochs, two after 100; LightningDiT there",
        ),
    },
    "cifar10": {
        "meanflow": Published(_PY_MF, "50k", 55, {1: 2.92}),
        "meanflow_v1": Published(_PY_MF, "50k", 55, {1: 2.80}, "2.80 to 2.9"),
        "soflow": Published(_SOFLOW, "50k", None, {1: 2.86, 2: 2.28}),
        "sct": Published("appendix G", "50k", None, {1: 2.85, 2: 2.06}, "the number of steps is not verified"),
        "scd": Published(
            "appendix G", "50k", None, {1: 3.66, 2: 2.52}, "the number of steps is not verified; its teacher has 2.15"
        ),
        "ect": Published(
            "locuslab/ect 4311059", "50k", 55.7, {1: 3.86, 2: 2.15}, "100 k steps 4.54 and 2.20, 400 k 3.60 and 2.11"
        ),
        "ct": Published(_CM, "50k", None, {}, _OTHER_UNET.format("NCSN++")),
        "cd": Published(_CM, "50k", None, {1: 3.55, 2: 2.93}, "with LPIPS; " + _OTHER_UNET.format("NCSN++")),
        "pd": Published(
            "google-research/diffusion_distillation 1d4d2f1",
            "50k",
            None,
            {1: 8.34},
            "as ECT and sCM quote it, after the last stage; hours of one of 13 stages",
        ),
        "pid": Published("pantheon5100/pid_diffusion b99605b", "50k", None, {1: 3.92}, "with LPIPS"),
        **{name: Published(_FLOW_MAPS, "10k", None, {}, _OTHER_UNET.format("EDM2's")) for name in ("lsd", "psd", "esd")},
    },
}
