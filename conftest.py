"""Common settings of the tests: CPU, strict promotion of ranks, names for doctests."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    """Runs a test in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True)
def doctest_names(request):
    """Names that the examples in docstrings may use without importing them."""
    namespace = request.getfixturevalue("doctest_namespace")
    namespace.update(jax=jax, jnp=jnp)
