"""Parameter counts of published sizes, by shapes alone, against those that the authors print."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import models

LATENTS, PIXELS, LARGE = (32, 32, 4), (256, 256, 3), (512, 512, 3)
GUIDED = {"guidance": jnp.ones(1), "interval": jnp.ones((1, 2))}

# (network, size, fields, shape of a row, millions of parameters in the paper, arXiv id). Classes are ImageNet's 1,000.
SIZES = [
    ("dit", "B", {"patch": 4}, LATENTS, 131, "2505.13447, table 4"),
    ("dit", "B", {"patch": 2}, LATENTS, 131, "2505.13447, table 4"),
    ("dit", "M", {"patch": 2}, LATENTS, 308, "2505.13447, table 4"),
    ("dit", "L", {"patch": 2}, LATENTS, 459, "2505.13447, table 4"),
    ("dit", "XL", {"patch": 2}, LATENTS, 676, "2505.13447, table 4"),
    ("decoupled_dit", "XL", {"patch": 2}, LATENTS, 675, "2510.24474"),
    ("semi_lipschitz_dit", "XL", {"patch": 2, "inputs": ("guidance",)}, LATENTS, 678, "2511.19797, table 1"),
    # At sampling, without the velocity's head.
    ("mit", "B", {"inputs": ("guidance", "interval")}, LATENTS, 89, "2512.02012"),
    ("mit", "M", {"inputs": ("guidance", "interval")}, LATENTS, 174, "2512.02012"),
    ("mit", "L", {"inputs": ("guidance", "interval")}, LATENTS, 409, "2512.02012"),
    ("mit", "XL", {"inputs": ("guidance", "interval")}, LATENTS, 610, "2512.02012"),
    ("mit", "pixel-B", {"patch": 16, "inputs": ("guidance", "interval")}, PIXELS, 118, "2601.22158"),
    ("mit", "pixel-L", {"patch": 16, "inputs": ("guidance", "interval")}, PIXELS, 410, "2601.22158"),
    ("mit", "pixel-H", {"patch": 16, "inputs": ("guidance", "interval")}, PIXELS, 956, "2601.22158"),
    ("mit", "pixel-B", {"patch": 32, "inputs": ("guidance", "interval")}, LARGE, 120, "2601.22158"),
    ("mit", "pixel-L", {"patch": 32, "inputs": ("guidance", "interval")}, LARGE, 413, "2601.22158"),
    ("mit", "pixel-H", {"patch": 32, "inputs": ("guidance", "interval")}, LARGE, 959, "2601.22158"),
]


def shapes(name, size, fields, shape):
    net = models.make(name, num_classes=1_000, size=size, **fields)
    return jax.eval_shape(lambda key: net.init(key, jnp.zeros((1, *shape)), 1.0, 0.0, GUIDED), jax.random.key(0))["params"]


@pytest.mark.parametrize("name,size,fields,shape,millions,source", SIZES, ids=lambda value: str(value).replace(" ", ""))
def test_parameters_of_a_published_size(name, size, fields, shape, millions, source):
    count = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes(name, size, fields, shape))) / 1e6
    assert round(count) == millions, f"{count}, and {source} prints {millions}"


@pytest.mark.parametrize("size,hidden", [("pixel-B", 768 * 8 // 3), ("pixel-L", 2_730), ("pixel-H", 3_416)])
def test_the_hidden_width_of_pixel_networks(size, hidden):
    """int(width 8 / 3), a multiple of 8 above width 1,024 alone: 3,413 becomes 3,416."""
    tree = shapes("mit", size, {"patch": 16}, PIXELS)
    assert tree["shared"]["mlp_in"]["kernel"].shape[-1] == hidden


def test_heads_of_the_largest_transformers():
    assert models.SIZES["semi_lipschitz_dit"]["XL"]["heads"] == 18 and models.SIZES["dit"]["XL"]["heads"] == 16
