"""What all tests share: eight virtual CPU devices, fast compilation, no silent broadcasting of ranks, names for doctests."""

import os
import tempfile
import zlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import pytest

from flowjax import exact

# Tests mostly compile, and most programs run once: without optimisation they take half the time and give the same numbers.
_FLAGS = "--xla_backend_optimization_level=0"
if jax.__version_info__ < (0, 11):  # later versions may not know the flag; it compiles a gradient in a third of the time
    _FLAGS += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", _FLAGS)  # also of the scripts that tests start, which have one device
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Many tests compile the same programs. Each process has its cache folder, because no other may read what it is writing.
_COMPILED = tempfile.TemporaryDirectory(prefix="flowjax_compiled_")
jax.config.update("jax_compilation_cache_dir", _COMPILED.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
# So do the scripts that a test starts, in the folder of the process that waits for them.
os.environ |= {"JAX_COMPILATION_CACHE_DIR": _COMPILED.name, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}


def pytest_addoption(parser):
    """`--sixth=K`: the slow tests in six parts, so that CI runs all of them within six commits."""
    parser.addoption("--sixth", type=int, choices=range(6), help="of the slow tests, only this part of six, counted from 0")


def pytest_collection_modifyitems(config, items):
    """Keeps a sixth of the slow tests. Cases of a function are spread, so that the many learning tests are not all in one."""
    sixth = config.getoption("--sixth")
    if sixth is not None:
        part = lambda item: zlib.crc32(item.nodeid.encode()) % 6
        kept = [item for item in items if part(item) == sixth or not item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept


@pytest.fixture
def x64():
    """Runs a test in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session", autouse=True)
def tfds_dir(tmp_path_factory):
    """A temporary TFDS directory, shared by the workers of one run."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    os.environ["TFDS_DATA_DIR"] = str(shared / "tfds")


@pytest.fixture(scope="session", autouse=True)
def doctest_names(doctest_namespace):
    """Names that the examples in docstrings may use without importing them."""
    # The names of flowjax.losses; its examples call the same functions of the flow, so these are compiled.
    flow = exact.ExactFlow(*(jax.jit(function) for function in exact.gaussian(0.5, 4.0)))
    doctest_namespace.update(jax=jax, jnp=jnp, exact=exact, flow=flow, x=jnp.array([-1.0, 0.5, 2.0]), s=0.8, t=0.4)
    # Those of flowjax.losses.distributional.samples and adversaries.
    doctest_namespace.update(rows=jnp.array([[-1.0, 0.5], [0.3, 2.0]]))
    # Those of flowjax.losses.discrete.
    tokens = exact.ExactTokens(*(jax.jit(function) for function in exact.categorical([0.3, 0.7])))
    doctest_namespace.update(tokens=tokens, z=jnp.array([[0.4, -0.2], [0.1, 1.3]]))


@pytest.fixture(autouse=True)
def doctest_names_of_scores(request, doctest_namespace):
    """The names of flowjax.losses.distributional, of which two differ from those of flowjax.losses."""
    if request.node.path.stem not in ("scores", "fisher") or request.node.path.parent.name != "distributional":
        yield
        return
    before, x = dict(doctest_namespace), jnp.array([[-1.0, 0.5], [0.3, 2.0]])
    flow, even = exact.gaussian(jnp.zeros(2), jnp.eye(2)), lambda x, t: jnp.zeros(len(x))
    doctest_namespace.update(flow=flow, x=x, r=0.4, eps=x[::-1], even=even)
    yield
    doctest_namespace.update(before)
    for name in ("r", "eps", "even"):
        del doctest_namespace[name]


@pytest.fixture(scope="session")
def saved_run():
    """`(config, folder) -> folder`: writes a run without training it; its weights are not zero, so that jumps move the rows."""
    from flowjax.training import checkpoint, runs, workdir

    def save(config, folder):
        run = runs.setup(config, devices=jax.devices()[:1])
        workdir.claim(folder, config, run.source)
        state, key = run.init(), jax.random.key(7)
        moved = jax.tree.map(lambda leaf: leaf + 0.2 * jax.random.normal(key, leaf.shape, leaf.dtype), state.params)
        averages = jax.tree.map(lambda leaf: 0.5 * leaf, {decay: moved["V"] for decay in state.averages})
        with checkpoint.Checkpoints(folder, keep=1) as checkpoints:
            checkpoints.save(1, state._replace(params=moved, averages=averages))
        return folder

    return save
