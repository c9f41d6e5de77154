"""Samplers and grids by the names and options that a config or a command line gives."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from flowjax import options, paths, spaces, typing
from flowjax.samplers import deterministic, grids, stochastic
from flowjax.typing import Array, AverageVelocity


class Sampler(NamedTuple):
    """A sampler by name, for an average velocity.

    Attributes:
      run: `(V, x, times, keys, **options)`; the solvers follow the diagonal of V, the instantaneous velocity V(x, t, t). "strong" and
        "transition" call `V(x, s, t, inputs)` with further inputs of the network.
      noisy: whether it draws new noise at each step, so that it cannot be inverted.
      evaluations: `(times, **options) -> int`, how often it evaluates V; None: it depends on the data.
    """

    run: Callable[..., Array]
    noisy: bool = False
    evaluations: Callable[..., int] | None = lambda times: len(times) - 1


def _jumps(sampler: Callable[..., Array]) -> Callable[..., Array]:
    @functools.wraps(sampler)
    def run(V: AverageVelocity, x: Array, times: Array, keys: Array, **options: Any) -> Array:
        return sampler(V, x, times, **options)

    return run


def _solver(solver: Callable[..., Array]) -> Callable[..., Array]:
    @functools.wraps(solver)
    def run(V: AverageVelocity, x: Array, times: Array, keys: Array, **options: Any) -> Array:
        return solver(lambda x, t: V(x, t, t), x, times, **options)

    return run


def _restart(
    V: AverageVelocity,
    x: Array,
    times: ArrayLike,
    keys: Array,
    *,
    low: float = 0.2,
    high: float = 0.6,
    repeats: int = 2,
    path: paths.Path = paths.linear,
) -> Array:
    risen = stochastic.restarts(times, low=low, high=high, repeats=repeats)
    return stochastic.restart(V, x, jnp.asarray(risen), keys, path=path)


def _falls(times: ArrayLike, **options: Any) -> int:
    return int((np.diff(stochastic.restarts(times, **options)) < 0).sum())


SAMPLERS = {
    "flow_map": Sampler(_jumps(deterministic.flow_map)),
    "consistency": Sampler(stochastic.consistency, noisy=True),
    "gamma": Sampler(stochastic.gamma, noisy=True, evaluations=lambda times, **options: len(times) - 1),
    "restart": Sampler(_restart, noisy=True, evaluations=_falls),
    "strong": Sampler(stochastic.strong, noisy=True, evaluations=lambda times, **options: len(times) - 1),
    "transition": Sampler(
        stochastic.transition, noisy=True, evaluations=lambda times, *, inner=1: int(inner) * (len(times) - 1)
    ),
    "euler": Sampler(_solver(deterministic.euler)),
    "heun": Sampler(_solver(deterministic.heun), evaluations=lambda times: 2 * (len(times) - 1)),
    "midpoint": Sampler(_solver(deterministic.midpoint), evaluations=lambda times: 2 * (len(times) - 1)),
    "adaptive": Sampler(_solver(deterministic.adaptive), evaluations=None),
}

MOST_STEPS = 10_000
GRIDS = {
    "uniform": grids.grid,
    "bent": grids.bent,
    "decoding": grids.decoding,
    "shifted": grids.shifted,
    "karras": grids.karras,
}


def sampler_from_name(spec: str, path: str | paths.Path = "linear") -> Sampler:
    """A Sampler from its name and options in a config or on a command line: "heun", "gamma:gamma=0.3", "restart:low=0.2,repeats=3".

    Args:
      spec: "NAME" or "NAME:option=number,...", a key of SAMPLERS and keyword arguments of its function.
      path: the path that V was trained on, a name or a flowjax.paths.Path.

    Returns:
      The Sampler, its `run(V, x, times, keys)` and `evaluations(times)` with the options filled in.

    Raises:
      InputError: for an unknown sampler or option, an option that is not a number, or a sampler that the space of the path does not
        allow.
    """
    name, given = options.parse("sampler", spec, {name: options.numbers(entry.run) for name, entry in SAMPLERS.items()})
    entry = SAMPLERS[name]
    evaluations = entry.evaluations and functools.partial(entry.evaluations, **given)
    path, parameters = paths.path_from_name(path), inspect.signature(entry.run).parameters
    bound: dict[str, Any] = {"path": path} if "path" in parameters else {}
    if not bound and path.space is not spaces.euclidean:
        if "space" not in parameters:
            raise typing.InputError(
                f"sampler {spec!r} works on R^n alone, and the path is on the space {path.space.name!r}; expected e.g. heun."
            )
        bound = {"space": path.space}
    return entry._replace(run=functools.partial(entry.run, **given, **bound), evaluations=evaluations)


def grid_from_name(spec: str) -> Callable[[int], np.ndarray]:
    """A grid by name: "uniform", "karras:rho=5", "shifted:shift=3", or its times themselves: "1,0.8,0.3,0".

    Returns:
      `steps -> times`, numpy [steps + 1] that fall from 1 to 0.

    Raises:
      InputError: for an unknown grid or option; when called, for a number of steps that the times do not have, or times that do
        not run from noise to data.
    """
    if spec[:1].isdecimal() or "," in spec.partition(":")[0]:
        return lambda steps: _typed_times(spec, steps)
    name, given = options.parse("grid", spec, {name: options.numbers(grid) for name, grid in GRIDS.items()})
    return lambda steps: grids.from_noise_to_data(GRIDS[name](steps, **given), spec)


def check_sampler(spec: str, steps: int, grid: str = "uniform", path: str | paths.Path = "linear") -> None:
    """Raises InputError if the sampler, its options or its grid cannot work, or not on this path; computes nothing."""
    if isinstance(steps, (int, np.integer)) and steps > MOST_STEPS:
        raise typing.InputError(f"steps is {steps:,}; expected at most {MOST_STEPS:,}.")
    chosen, times = sampler_from_name(spec, path), grid_from_name(grid)(steps)
    stand_in = lambda x, s, t, inputs=None: jnp.zeros_like(x)
    point = jnp.ones((1, paths.path_from_name(path).space.size))
    jax.eval_shape(lambda x, seed: chosen.run(stand_in, x, times, jax.random.split(jax.random.key(seed), 1)), point, 0)


def _typed_times(spec: str, steps: int) -> np.ndarray:
    try:
        times = np.array([float(part) for part in spec.split(",")], np.float32)
    except ValueError:
        raise typing.InputError(f"--grid={spec}: expected a name or times, e.g. --grid=1,0.8,0.3,0.") from None
    grids.from_noise_to_data(times, spec)
    if steps != len(times) - 1:
        raise typing.InputError(f"--grid={spec} has {len(times) - 1} step(s), not {steps}: --steps={len(times) - 1}.")
    return times
