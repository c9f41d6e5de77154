"""Common settings of the tests: CPU with eight virtual devices, no silent broadcasting of ranks, names for doctests."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax
import jax.numpy as jnp
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    """Runs a test in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session", autouse=True)
def tfds_dir(tmp_path_factory):
    """A TFDS directory of the tests' own, shared by the workers of one run."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    os.environ["TFDS_DATA_DIR"] = str(shared / "tfds")


@pytest.fixture(autouse=True)
def doctest_names(doctest_namespace):
    """Names that the examples in docstrings may use without importing them."""
    doctest_namespace.update(jax=jax, jnp=jnp)
