"""What several test files share: a small config, rows of points, data of two modes, plain gradient descent."""

import ml_collections
import numpy as np

from configs import method as method_config
from flowjax import data, exact

# Options of jax.jit for a program that runs for minutes: the tests compile without optimisation otherwise.
OPTIMISED = {"xla_backend_optimization_level": 3}


def small(name="meanflow", preset="test", **changes):
    """The config of a method on points, eight steps of 32 rows; fields that are given replace those of the preset whole."""
    config = method_config.get_config(f"{name},{preset}")
    config.update({"eval_every": 0, "steps": 8, "save_every": 4, "batch_size": 32, "log_every": 2})
    for field, value in changes.items():
        config[field] = ml_collections.ConfigDict(value) if isinstance(value, dict) else value
    return config


def with_sgd(config, rate=0.1):
    """The config with plain gradient descent, which does not blow up rounding where gradients vanish, as Adam does."""
    config.optim.update({"name": "sgd", "learning_rate": rate})
    config.optim.kwargs = {}
    return config


def rows(count=32, dim=2):
    """A batch of points."""
    return {"x": np.random.default_rng(0).standard_normal((count, dim)).astype(np.float32)}


def two_modes(monkeypatch, weights, means, deviations, count=2**14):
    """Names a data set of numbers from two normals, whose velocity is known in closed form; returns the name."""

    def source(*, split="train", data_dir=None):
        rng = np.random.default_rng(split == "test")
        number = (rng.random(count) < weights[1]).astype(int)
        x = (means[number] + deviations[number] * rng.standard_normal(count)).astype(np.float32)[:, None]
        return data.Source("two_modes", len(x), (1,), 0, lambda ids: {"x": x[ids]})

    monkeypatch.setitem(data.DATASETS, "two_modes", source)
    monkeypatch.setitem(data.points.VELOCITIES, "two_modes", exact.mixture(weights, means, deviations).v)
    return "two_modes"
