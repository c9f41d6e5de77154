"""Sequences of tokens, by the methods for categories: --config=configs/tokens.py:NAME,PRESET

    python -m experiments.train --config=configs/tokens.py:dfm_psd,words --workdir=runs/words
    python -m experiments.sample --workdir=runs/words --steps=1,4,128

NAME is categorical (the cross-entropy alone, the teacher of flm), csd, ecld, dfm_esd, dfm_psd or flm. PRESET is digits (8 x 8 pixels
as 64 tokens of 17 grey levels), words (English words of up to ten letters; needs `pip install english-words`), file (whole numbers of
an .npz file: --config.data.dir=FILE.npz) or test (seconds). flm distils a run of categorical on the same data:
--config.teacher=runs/NAME. Constants are those of flowjax.methods.discrete, but labels are not dropped; the network, its size and its
training are ours. What short runs reached: docs/methods/discrete.md.
"""

from configs import common
from flowjax import checks, methods, typing

PRESETS = ("digits", "words", "file", "test")


def get_config(choice="csd,words"):
    """The config of a choice "NAME,PRESET"."""
    name, comma, preset = choice.partition(",")
    if not comma:
        raise typing.InputError(f"--config=configs/tokens.py:{choice} names no preset; expected NAME,PRESET: {choice},words.")
    checks.member("method for categories", name, methods.CATEGORICAL)
    checks.member("preset", preset, PRESETS)
    config, info = common.base("checkerboard", method=name), methods.CATEGORICAL[name]
    config.data.name = {"words": "words", "file": "tokens"}.get(preset, "digits_tokens")
    pixels = config.data.name == "digits_tokens"
    size = {"width": 64, "heads": 2, "columns": 8} if pixels else {"width": 96, "heads": 4}
    # A file may hold rows of any length: one token at a position.
    patch = 1 if config.data.name == "tokens" else 2
    config.model = common.network(
        "sequence_dit", **size, patch=patch, depth=3, unroll=3, parameterisation=info.parameterisation
    )
    config.method.label_drop = 0.0
    if name == "flm":  # its warp of time, in the training and in the grid of the sampler
        config.method.warp = {"digits_tokens": 17, "words": 27}.get(config.data.name, 0)
        config.grid = f"decoding:categories={config.method.warp}" if config.method.warp else "uniform"
    config.sampler, config.eval_steps = info.sampler, (1, 4)
    config.steps, config.batch_size = (6_000, 64) if pixels else (7_500, 128)
    config.eval_every, config.eval_samples = 1_000, 512
    config.optim.update({"schedule": "cosine", "warmup_steps": 100, "clip_norm": 1.0})
    config.optim.learning_rate = 1e-3 if pixels else 2e-3
    if preset in ("digits", "words") and name != "flm":  # not flm, which trains two networks and was tried by Adam alone
        config.steps = 3_000 if pixels else 4_500
        common.muon(config)  # guided csd had the labels of digits after 900 steps, by Adam not after 1,000
        if preset == "words":  # an anchor at the times at which neighbours matter; flm has its warp
            config.method["times" if name == "categorical" else "anchor_times"] = ("even_decoding", 27)
    if preset == "test":
        config.update({"steps": 20, "batch_size": 16, "log_every": 5, "eval_every": 10, "eval_samples": 64, "save_every": 10})
        config.model.update({"width": 16, "depth": 1, "heads": 2})
        config.optim.warmup_steps = 0
    return config
