"""Trains small networks for the page docs/explorer.md and writes what the page needs: python -m experiments.explorer

Trains each method of METHODS on the checkerboard with its preset, but a smaller network, in a folder below --folder. Writes
docs/_static/explorer_data.js: the weights (float16), the exact flow lines of some points of noise, and the errors of the rules over
(s, t). The same command continues a killed run. On two CPU cores that also did other work it took
half an hour.

A browser evaluates the networks, docs/_static/explorer.js. tests/test_docs_explorer.py compares it with the Python sampler.
"""

import base64
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from configs import method as configs_of
from experiments import command_line
from flowjax import evals, methods, models, residuals, samplers
from flowjax.data import points

# Not --workdir and --steps: tests import this script beside others that have these flags.
FOLDER = flags.DEFINE_string("folder", "runs/explorer", "folder of the runs")
STEPS = flags.DEFINE_integer("training_steps", 4_000, "steps of training", 1, command_line.MOST)
OUTPUT = pathlib.Path(__file__).parents[1] / "docs" / "_static" / "explorer_data.js"

METHODS = {
    "meanflow": "MeanFlow",
    "imf": "improved MeanFlow",
    "soflow": "SoFlow",
    "tvm": "Terminal Velocity Matching",
    "lsd": "Lagrangian self-distillation",
    "shortcut": "Shortcut models",
    "lmd": "Lagrangian map distillation",
    "flow_matching": "flow matching alone",
}
NETWORK = {"width": 96, "depth": 3, "harmonics": 1}
LINES, TIMES = 600, 49  # exact flow lines, and times along each
RANGE = 8.0  # of the coordinates of the lines, stored as 16-bit integers
CELLS, ROWS = 16, 128  # times along each side of a map of errors; points over which they are averaged
FIRST, LAST = 0.03, 0.97  # of these times: that of the checkerboard's velocity is 0.02
SAMPLES = 4_096


def main():
    command_line.output_folder(FOLDER)
    board = points.checkerboard(np.random.default_rng(0), SAMPLES)
    page = {"network": NETWORK, "range": RANGE, "times": TIMES, "lines": flow_lines(), "cells": CELLS, "ends": [FIRST, LAST]}
    page["methods"] = [trained(name, board) for name in METHODS]
    text = json.dumps(page, separators=(",", ":"))
    OUTPUT.write_text(f"// Written by python -m experiments.explorer.\nwindow.explorerData = {text};\n")
    print(f"{OUTPUT}: {OUTPUT.stat().st_size / 1000:.0f} kB")


def trained(name, board):
    """One entry of the page: the weights of a method, its errors, the cost of a step and how near one step comes to the data."""
    from flowjax import training

    config = configs_of.get_config(f"{name},checkerboard")
    config.model.update(NETWORK)
    config.steps, config.eval_every, config.save_every = STEPS.value, 0, STEPS.value
    workdir = pathlib.Path(FOLDER.value) / name
    training.train(config, workdir)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float16), training.load(workdir).params)
    V = network(params)
    noise = jax.random.normal(jax.random.key(3), (SAMPLES, 2))
    distance = {
        n: round(evals.sliced_wasserstein(np.asarray(samplers.flow_map(V, noise, samplers.grid(n))), board), 4)
        for n in (1, 2, 4)
    }
    info = methods.METHODS[name]
    return {
        "name": name,
        "title": METHODS[name],
        "rule": info.rule,
        "paper": f"https://arxiv.org/abs/{info.arxiv}",
        "weights": packed(params),
        "errors": errors(V, board[:ROWS]),
        "distance": distance,
    }


def network(params):
    """The average velocity of the float16 weights, computed in float32, as the page does."""
    return functools.partial(_apply, jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params))


@jax.jit
def _apply(params, x, s, t):
    return models.make("mlp", **NETWORK).apply({"params": params}, x, s, t)


def packed(params):
    """All layers in order, each the kernel, row by row, then the bias, as base64 of float16."""
    layers = [params[f"Dense_{i}"] for i in range(len(params))]
    numbers = np.concatenate([np.ravel(layer[part]) for layer in layers for part in ("kernel", "bias")])
    return base64.b64encode(numbers.astype("<f2").tobytes()).decode()


def flow_lines():
    """Exact lines from noise to data by Heun's method along the closed-form velocity: base64 of int16 [LINES, TIMES, 2], noise last."""
    noise = jax.random.normal(jax.random.key(1), (LINES, 2))
    between = 8  # steps of the solver from one stored time to the next
    grid = jnp.linspace(1.0, 0.0, (TIMES - 1) * between + 1)
    lines = jax.jit(lambda x: samplers.trajectory(samplers.heun, points.VELOCITIES["checkerboard"], x, grid, len(grid)))(noise)
    rounded = np.round(np.asarray(lines)[:, ::-between] * (32767 / RANGE))
    return base64.b64encode(np.clip(rounded, -32767, 32767).astype("<i2").tobytes()).decode()


def errors(V, x0):
    """{rule: [[error at (s, t)] by t, then s]}, null above the diagonal; the true error is that of the exact flow."""
    from flowjax import paths

    grid = np.linspace(FIRST, LAST, CELLS)
    exact = residuals.along(points.VELOCITIES["checkerboard"], steps=32)
    maps = residuals.error_maps(V, x0, paths.linear, grid, exact)
    shown = lambda value: None if np.isnan(value) else float(f"{value:.3g}")
    return {rule: [[shown(value) for value in row] for row in errors] for rule, errors in maps.items()}


if __name__ == "__main__":
    command_line.run(main)
